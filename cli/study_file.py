"""A study as a file: which data, recipe and seeds; the stages that follow from it.

[study]
data = "digits"          # a data set of `trustq data prepare --list`, or a manifest
recipe = "digits"
seeds = [0, 1]

[options]                # further words of a stage's command, by stage
repair = ["--noise", "stored", "--draws", "2"]

[[stages]]               # further stages, any command of trustq
name = "table"
run = ["export", "table", "--results", "results", "--out", "table.md"]
inputs = ["results"]
outputs = ["table.md"]
"""

import difflib
import importlib.util
import itertools
import json
import platform
import shutil
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from trustq import __version__
from trustq.core.atomic_files import replacing
from trustq.errors import InputError, MissingExtra, NotFound, TrustqError
from trustq.experiments.stage_runner import Stage
from trustq.recipes import load_recipe

CHAIN = ("environment", "prepare", "sample", "extract", "repair", "audit", "report", "package")
LEAST_FREE = 1_000_000_000  # bytes; a cache of 10,000 images with views takes as much
_KEYS = {
    "data": str,
    "root": str,
    "recipe": str,
    "seeds": list,
    "skip": list,
    "folder": str,
}
_TORCH = ("torch", "torchvision", "timm")
_PACKAGING = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Study:
    """A study file, read: the folder that it works in, and its stages in order."""

    path: Path
    folder: Path
    stages: tuple[Stage, ...]


def read_study(path: Path, *, quick: int | None = None) -> Study:
    """Read a study file; `quick` works on so many images, in a folder of its own.

    Raises `TrustqError` for a file that is missing or no TOML, and for unknown keys.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFound(
            f"{path}: no such file. A study is a TOML file; see `trustq study`.", path=path
        )
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}.", path=path) from error
    _require_known(path, content, ("study", "options", "stages"), "table")
    _require_kinds(path, content, {"study": dict, "options": dict, "stages": list})
    study = content.get("study", {})
    _require_known(path, study, tuple(_KEYS), "key of [study]")
    _require_kinds(path, study, _KEYS)
    if any(type(seed) is not int or seed < 0 for seed in study.get("seeds", ())):
        raise InputError(f"{path}: seeds is {study['seeds']!r}, expected whole numbers from 0.")
    if "data" not in study:
        raise InputError(f"{path}: [study] does not say its `data`, a data set or a manifest.")
    if quick is not None and quick < 10:
        raise InputError(f"`quick={quick}`: ten images or more are needed for splits.", found=quick)
    options = content.get("options", {})
    _require_known(path, options, CHAIN, "stage in [options]")
    _require_kinds(path, options, dict.fromkeys(CHAIN, list))
    folder = path.parent / study.get("folder", path.stem)
    if quick is not None:
        folder = folder.with_name(f"{folder.name}-quick{quick}")
    chain = _chain(path, study, options, quick)
    skipped = study.get("skip", [])
    _require_known(path, dict.fromkeys(skipped), CHAIN, "stage in skip")
    stages = [stage for stage in chain if stage.name not in skipped]
    stages += [_further(path, number, one) for number, one in enumerate(content.get("stages", []))]
    return Study(path, folder, tuple(stages))


def _chain(
    path: Path, study: dict[str, Any], options: dict[str, Any], quick: int | None
) -> list[Stage]:
    """The stages from images to a page and a packaged model."""
    data, recipe = study["data"], study.get("recipe", "")
    if recipe.endswith(".toml") and (path.parent / recipe).is_file():
        recipe = str((path.parent / recipe).resolve())  # stages run in the study's folder
    seeds = study.get("seeds") or [0]
    further = {name: tuple(map(str, options.get(name, ()))) for name in CHAIN}

    def stage(
        name: str, words: list[str], inputs: list[str], outputs: list[str], **kind: bool
    ) -> Stage:
        after = () if name == "environment" else ("environment",)
        if "environment" in study.get("skip", []):
            after = ()
        words = [*words, *further[name]]
        return Stage(name, tuple(words), tuple(inputs), tuple(outputs), after, **kind)

    whole = "manifest.parquet"
    stages = [_environment(study)]
    if data.endswith((".parquet", ".csv")):
        whole = str((path.parent / data).resolve())
    else:
        root = study.get("root")
        place = str((path.parent / root).resolve()) if root else "images"
        words = ["data", "prepare", data, "--root", place, "--out", whole]
        stages.append(stage("prepare", words, [place] if root else [], [whole]))
    manifest = whole
    if quick is not None:
        manifest = "sample.parquet"
        words = ["data", "sample", whole, "--images", str(quick), "--out", manifest]
        stages.append(stage("sample", words, [whole], [manifest]))
    words = ["extract", manifest, "--out", "cache", "--seeds", ",".join(map(str, seeds))]
    words += ["--name", "study", "--replace", *(["--recipe", recipe] if recipe else [])]
    stages.append(stage("extract", words, [manifest], ["cache"], adds=True))
    caches = _caches(seeds)  # and no others: seeds that the file no longer names are left
    words = ["repair", *caches, "--results", "results"]
    stages.append(stage("repair", words, ["cache"], ["results"], adds=True))
    words = ["audit", "labels", *_audited(recipe, further["extract"], seeds)]
    words += ["--out", "audit", "--results", "audit-results"]
    stages.append(stage("audit", words, ["cache"], ["audit"]))
    words = ["report", "results", "--out", "report.html"]
    stages.append(stage("report", words, ["results"], ["report.html"]))
    words = ["package", caches[0], "--manifest", manifest]
    words += ["--out", "model"]
    stages.append(stage("package", words, ["cache", manifest], ["model"], once=True))
    return stages


def _caches(seeds: list[int]) -> list[str]:
    return [f"cache/*/study/seed{seed}.h5" for seed in seeds]


def _audited(recipe: str, words: tuple[str, ...], seeds: list[int]) -> list[str]:
    """The caches that are audited: all seeds', or one's where each seed has labels of its own."""
    if "--noise" in words[:-1]:
        noise = words[words.index("--noise") + 1]
    else:
        settings = [word for flag, word in itertools.pairwise(words) if flag == "--set"]
        try:
            noise = load_recipe(recipe, settings=settings, part="extract").extract.noise
        except TrustqError:
            noise = "none"  # the stage that extracts says what is wrong with it
    is_drawn = noise != "none" or any("{seed}" in word for word in words)
    return _caches(seeds[:1] if is_drawn else seeds)


def _environment(study: dict[str, Any]) -> Stage:
    skipped = study.get("skip", [])
    wanted = [*(() if "extract" in skipped else _TORCH)]
    wanted += [*(() if "package" in skipped else _PACKAGING)]
    versions = {name: _version(name) for name in wanted}

    def check(folder: Path) -> None:
        missing = [name for name in wanted if importlib.util.find_spec(name) is None]
        if missing:
            raise MissingExtra(
                f"The study needs {', '.join(missing)}:\n  pip install 'trustq[gpu,export,serve]'\n"
                'or leave out stages: skip = ["package"].'
            )
        free = shutil.disk_usage(folder).free
        if free < LEAST_FREE:
            raise TrustqError(
                f"{folder} has {free / 1e9:.1f} GB free; a study needs {LEAST_FREE / 1e9:g} GB."
            )
        about = {"trustq": __version__, "python": platform.python_version()} | versions
        with replacing(folder / "environment.json") as part:
            part.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")

    return Stage(
        "environment", outputs=("environment.json",), action=check, about=json.dumps(versions)
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _further(path: Path, number: int, stated: dict[str, Any]) -> Stage:
    kinds = {"name": str, "run": list, "inputs": list, "outputs": list, "after": list}
    _require_kinds(path, {"stages": stated}, {"stages": dict})
    _require_known(path, stated, tuple(kinds), f"key of stage {number + 1}")
    _require_kinds(path, stated, kinds, of=f" of stage {number + 1}")
    missing = [key for key in ("name", "run", "outputs") if not stated.get(key)]
    if missing:
        raise InputError(f"{path}: stage {number + 1} lacks {', '.join(missing)}.")
    name = stated["name"]
    if not name.replace("-", "").replace("_", "").isalnum():
        raise InputError(f"{path}: {name!r} cannot name a stage; use letters, digits, - and _.")
    texts = {key: tuple(map(str, stated.get(key, ()))) for key in list(kinds)[1:]}
    return Stage(name, texts["run"], texts["inputs"], texts["outputs"], texts["after"])


def _require_kinds(path: Path, found: dict[str, Any], kinds: dict[str, type], of: str = "") -> None:
    words = {str: "a text", list: 'a list, e.g. ["a", "b"]', dict: "a table"}
    for name, kind in kinds.items():
        if name in found and not isinstance(found[name], kind):
            raise InputError(
                f"{path}: {name}{of} is {found[name]!r}, expected {words[kind]}.", path=path
            )


def _require_known(path: Path, found: dict[str, Any], known: tuple[str, ...], what: str) -> None:
    for name in found:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise InputError(
                f"{path}: unknown {what} {name!r}{hint}; expected {', '.join(known)}.",
                path=path,
                expected=known,
                found=name,
            )
