"""The command line: light, documented, and the three journeys of a new user."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from support import make_cache
from trustq.cli import app
from trustq.cli.reference import reference
from typer.testing import CliRunner

from trustq.data.splits import split_by_group
from trustq.store import read_cache, write_cache

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "timm", "torchvision", "netcal")


def run(*words: str | Path):  # type: ignore[no-untyped-def]
    return CliRunner().invoke(app, [str(word) for word in words])


def loaded_after(code: str) -> set[str]:
    """Top-level modules that a fresh process has loaded after some code."""
    code += "\nimport sys; print('\\n' + ' '.join({name.split('.')[0] for name in sys.modules}))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(shown.stdout.splitlines()[-1].split())


def command(words: list[str]) -> str:
    return (
        "from typer.testing import CliRunner\nfrom trustq.cli import app\n"
        f"r = CliRunner().invoke(app, {words!r})\nassert r.exit_code == 0, r.output"
    )


def test_help_loads_nothing_heavy() -> None:
    loaded = loaded_after(command(["--help"]))
    assert not loaded & {*HEAVY, "numpy", "duckdb", "sklearn", "h5py", "matplotlib"}


def test_no_cpu_command_imports_torch(tmp_path: Path) -> None:
    cache, results = tmp_path / "c.h5", tmp_path / "r"
    write_cache(cache, make_cache())
    np.savez(tmp_path / "e.npz", features=np.eye(4), labels=np.array([0, 0, 1, 1]))
    manifest = str(tmp_path / "m.parquet")
    digits = ["data", "prepare", "digits", "--root", str(tmp_path / "images"), "--out", manifest]
    arms = ["--arms", "none,random,self_confidence"]
    commands = [
        digits,
        ["data", "describe", manifest],
        ["cache", "list", str(tmp_path)],
        ["cache", "info", str(cache)],
        ["cache", "verify", str(cache)],
        ["cache", "import", str(tmp_path / "e.npz"), "--out", str(tmp_path / "e.h5")],
        ["repair", str(cache), *arms, "--results", str(results)],
        ["repair", str(cache), *arms, "--head", "xgboost", "--results", str(results)],
        ["sql", "--results", str(results)],
        ["sql", "SELECT count(*) FROM runs", "--results", str(results)],
    ]
    loaded = loaded_after("\n".join(command(words) for words in commands))
    assert {"h5py", "duckdb", "scipy"} <= loaded
    assert not loaded & set(HEAVY)


def test_the_reference_is_what_the_commands_say() -> None:
    assert (ROOT / "cli" / "README.md").read_text("utf-8") == reference(), (
        "cli/README.md is stale; run `make docs`."
    )


def test_every_help_page_has_an_example() -> None:
    for section in reference().split("\n## ")[2:]:
        if "Commands:" not in section:
            assert "Example: trustq" in section, section


def test_embeddings_to_a_table_with_nothing_else_stated(tmp_path: Path) -> None:
    digits = load_digits()
    np.savez(tmp_path / "mine.npz", features=digits.data[:600], labels=digits.target[:600])
    shown = run("repair", tmp_path / "mine.npz", "--results", tmp_path / "r")
    assert shown.exit_code == 0, shown.output
    assert "No noise was stated and none is stored: simulated symmetric:0.2." in shown.stderr
    assert "The exposure of this cache is unknown" in shown.stderr
    assert "self-confidence" in shown.stdout
    assert "Research only, not a medical device." in shown.stdout
    answer = run(
        "sql",
        "SELECT arm, errors_found_total FROM runs JOIN rounds ON key = run AND round = n_rounds",
        "--results",
        tmp_path / "r",
        "--format",
        "json",
    )
    hits = {row["arm"]: row["errors_found_total"] for row in json.loads(answer.stdout)}
    assert hits["self_confidence"] > hits["random"]


def test_other_names_and_exposure_come_by_option(tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", train_x=np.eye(4), y_true=np.array(["a", "a", "b", "b"]))
    shown = run(
        *("cache", "import", tmp_path / "e.npz", "--out", tmp_path / "e.h5"),
        *("--features", "train_x", "--labels", "y_true", "--exposure", "frozen"),
    )
    assert shown.exit_code == 0, shown.output
    cache = read_cache(tmp_path / "e.h5")
    assert (cache.exposure, cache.classes) == ("frozen", ("a", "b"))
    again = run("cache", "import", tmp_path / "e.npz", "--out", tmp_path / "e.h5")
    assert again.exit_code == 1
    assert again.stderr == (
        f"Error: {tmp_path / 'e.h5'} is there already; delete it or choose another name.\n"
    )


def test_repair_by_self_confidence_beats_random_over_20_draws(tmp_path: Path) -> None:
    # Raw pixels of real digits; the demo shows the same on features of a frozen network.
    digits = load_digits()
    part = split_by_group(digits.target, np.arange(len(digits.target)), seed=0)
    split = np.array(["train", "val", "test"])[part]
    np.savez(tmp_path / "d.npz", features=digits.data, labels=digits.target, split=split)
    shown = run(
        *("repair", tmp_path / "d.npz", "--noise", "symmetric:0.2", "--budget", "15%"),
        *("--draws", "20", "--arms", "none,random,self_confidence", "--json"),
        *("--set", "regularisation=0.1", "--results", tmp_path / "r"),
    )
    assert shown.exit_code == 0, shown.output
    arms = {row["arm"]: row for row in json.loads(shown.stdout)["arms"]}
    gain = arms["self_confidence"]["accuracy_gain_over_random"]
    assert (gain["unit"], gain["n"]) == ("draw", 20)
    assert gain["mean"] > 0 and gain["lower"] > 0
    assert gain["p"] < 0.05


@pytest.mark.parametrize(
    "words",
    [
        ["extract", "none.parquet", "--out"],
        ["distil", "none.h5", "--manifest", "none.parquet", "--out"],
        ["package", "none.h5", "--manifest", "none.parquet", "--out"],
        ["loop", "none.parquet", "--out"],
        ["trust", "none.h5", "--out"],
        ["audit", "labels", "none.h5", "--out"],
        ["explain", "failures", "none.h5", "--out"],
        ["repair", "none.h5", "--results"],
    ],
)
def test_a_file_in_the_place_of_a_folder_is_refused_before_any_work(
    tmp_path: Path, words: list[str]
) -> None:
    place = tmp_path / "file"
    place.write_text("mine")
    for out in (place, place / "below"):
        shown = run(*words, out)
        assert shown.exit_code == 1
        assert shown.stderr == f"Error: {place} is a file; name a folder, or another place.\n"


@pytest.mark.parametrize(
    "words",
    [["extract", "m.parquet"], ["loop", "m.parquet"], ["distil", "c.h5", "--manifest", "m"]],
)
def test_seeds_that_are_no_numbers_are_refused(words: list[str]) -> None:
    for seeds in ("a", "", "0-2"):
        shown = run(*words, "--seeds", seeds)
        assert shown.exit_code == 1
        assert f"--seeds {seeds}: expected whole numbers, e.g. --seeds 42,52." in shown.stderr


@pytest.mark.parametrize(
    ("words", "work", "kept"),
    [
        (
            ["distil", "c.h5", "--manifest", "m.parquet"],
            "trustq.data.manifest.read_manifest",
            "The same command goes on after the last finished epoch; finished caches are kept.",
        ),
        (
            ["repair", "{cache}", "--results", "{results}"],
            "trustq.experiments.run.run_group",
            "Runs so far stay in {results}; the same command goes on from there.",
        ),
        (
            ["audit", "labels", "{cache}"],
            "trustq.audit.source.fitted_out_of_fold",
            "Every file written so far is whole; the same command starts over.",
        ),
        (
            ["evaluate", "{cache}"],
            "trustq.evaluation.predictions.read_predictions",
            "Every file written so far is whole; the same command starts over.",
        ),
    ],
)
def test_ctrl_c_says_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], work: str, kept: str
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    write_cache(tmp_path / "c.h5", make_cache())
    names = {"cache": str(tmp_path / "c.h5"), "results": str(tmp_path / "r")}
    monkeypatch.setattr(work, interrupted)
    shown = run(*(word.format(**names) for word in words))
    assert shown.exit_code == 130
    assert shown.stderr.endswith(f"\nStopped. {kept.format(**names)}\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["repair", "nothing.h5"], "Error: No cache matches nothing.h5."),
        (["repair", "{cache}", "--arms", "best"], "Error: Arm 'best': unknown score 'best'"),
        (["repair", "{cache}", "--noise", "loud"], "Error: Unknown label noise 'loud'"),
        (["repair", "{cache}", "--set", "fold=3"], "Error: setting 'fold=3': unknown key 'fold'"),
        (["cache", "verify", "{text}"], "is not a trustq cache"),
        (["sql", "SELECT 1", "--results", "nowhere"], "nowhere holds no results: no such folder"),
        (["data", "prepare", "ham", "--out", "m.parquet"], "known are ham10000"),
    ],
)
def test_bad_input_is_a_paragraph_and_exit_1(
    tmp_path: Path, words: list[str], message: str
) -> None:
    write_cache(tmp_path / "c.h5", make_cache())
    (tmp_path / "text.h5").write_text("hello")
    names = {"cache": str(tmp_path / "c.h5"), "text": str(tmp_path / "text.h5")}
    shown = run(*(word.format(**names) for word in words))
    assert shown.exit_code == 1, shown.output
    assert message in shown.stderr
    assert "Traceback" not in shown.output


def test_pages_name_the_options_of_their_command_within_80_columns(tmp_path: Path) -> None:
    shown = run("plan", "reference-study", "--backbones", "5")
    assert "an earlier results folder with --from, to have them in the metric." in shown.stdout
    assert "Smallest effect at 80% power: none alone, none as the first of the family" in (
        shown.stdout
    )
    assert max(map(len, shown.stdout.splitlines())) <= 80
