"""What a page needs to run the model in the browser: three files of npm's onnxruntime-web.

They are 13 MB and have a licence of their own (MIT), so they are copied from where they are
installed and are no part of trustq: `npm pack onnxruntime-web` fetches them.
"""

import tarfile
from pathlib import Path

from trustq.core.atomic_files import replacing
from trustq.errors import InputError, NotFound

# The build without WebGPU: one thread needs no special headers and runs in every browser.
FILES = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
)
FOLDER = "ort"
_PACKAGE = "onnxruntime-web"


def add_web_runtime(model: Path, source: Path | None) -> str:
    """Copy the browser's runtime into a model folder; returns what was done, in a sentence.

    `source` is the package's folder, a `.tgz` of `npm pack`, or None: then `node_modules` here and
    above is searched, and nothing is copied where it is not there. Raises `TrustqError` for a
    source that lacks a file.
    """
    found, contents = web_runtime_files(source)
    if found is None:
        return (
            f"npm's {_PACKAGE} was not found, so the page sends photos to the server and does not "
            f"work offline. Fetch it with `npm pack {_PACKAGE}` and add it with `web_runtime=FILE` "
            "(`trustq serve` takes it, too)."
        )
    folder = model / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        with replacing(folder / name) as part:
            part.write_bytes(content)
    return f"The page runs the model in the browser, by {_PACKAGE} of {found}."


def web_runtime_files(source: Path | None) -> tuple[Path | None, dict[str, bytes]]:
    """Where `add_web_runtime` finds the runtime, None where it does not, and its files by name."""
    found = source or _installed(Path.cwd())
    if found is None:
        return None, {}
    return found, _of_archive(found) if found.is_file() else _of_folder(found)


def has_web_runtime(model: Path) -> bool:
    """Whether a model folder holds the browser's runtime."""
    return all((model / FOLDER / name).is_file() for name in FILES)


def _installed(start: Path) -> Path | None:
    for folder in (start, *start.parents):
        place = folder / "node_modules" / _PACKAGE
        if place.is_dir():
            return place
    return None


def _of_folder(folder: Path) -> dict[str, bytes]:
    if not folder.is_dir():
        raise NotFound(f"`web_runtime={folder}`: no such file or folder.", path=folder)
    for place in (folder / "dist", folder / _PACKAGE / "dist", folder):
        if all((place / name).is_file() for name in FILES):
            return {name: (place / name).read_bytes() for name in FILES}
    raise _lacking(folder)


def _of_archive(path: Path) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            # By name, one at a time: nothing is unpacked to a place that the archive chooses.
            for member in archive:
                name = Path(member.name).name
                if name in FILES and member.name == f"package/dist/{name}" and member.isfile():
                    file = archive.extractfile(member)
                    contents[name] = file.read() if file is not None else b""
    except tarfile.TarError as error:
        raise InputError(
            f"`web_runtime={path}` is not an archive of `npm pack` ({error}).", path=path
        ) from error
    if set(contents) != set(FILES):
        raise _lacking(path)
    return contents


def _lacking(path: Path) -> InputError:
    return InputError(
        f"`web_runtime={path}` is not npm's {_PACKAGE}: it lacks one of {', '.join(FILES)}. Give "
        f"its folder, or the .tgz of `npm pack {_PACKAGE}` (1.20 or newer).",
        path=path,
    )
