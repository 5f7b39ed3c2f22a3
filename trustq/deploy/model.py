"""A packaged model: a folder that is checked when it is opened, and one object that predicts."""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trustq.core.atomic_files import replacing
from trustq.core.counts import counted
from trustq.core.digest import digest_bytes
from trustq.data.pillow_rgb import reason_of
from trustq.data.preprocessing import Preprocessing
from trustq.deploy.extras import load_extra
from trustq.deploy.graph import INPUT, OUTPUTS
from trustq.deploy.one_class import warning_of
from trustq.deploy.triage import Rules
from trustq.errors import DamagedFile, InputError, NotFound

FORMAT, FORMAT_VERSION = "trustq.model", 1
ABOUT = "model.json"
VARIANTS = ("float32", "int8", "float16")
_BATCH = 16  # images a run; sums differ in their last bits with it


class Outputs(NamedTuple):
    """What a model gives for n images: calibrated probabilities (n, k), logits before temperature
    (n, k), and distances from the training data (n,)."""

    probabilities: np.ndarray
    logits: np.ndarray
    distance: np.ndarray


@dataclass(frozen=True)
class Model:
    """A packaged model that is open; made by `load_model`.

    `about` is all that `model.json` states; `rules` are the triage of this variant.
    """

    path: Path
    variant: str
    about: dict[str, Any]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    rules: Rules
    session: Any

    def predict(self, images: Any) -> np.ndarray:
        """Calibrated probabilities of images, (n, k) of float32, columns in the order of `classes`.

        `images` is one image or a sequence of them: paths, bytes of image files, Pillow images, or
        (h, w, 3) arrays of uint8. Files are decoded as extraction decodes them, so that logits are
        those of the cache. Raises `TrustqError` that names an image that cannot be read.
        """
        return self.outputs(images).probabilities

    def predict_logits(self, images: Any) -> np.ndarray:
        """Logits before the temperature, (n, k) of float32, of images as `predict` takes them."""
        return self.outputs(images).logits

    def outputs(self, images: Any) -> Outputs:
        """Probabilities, logits and distances of images as `predict` takes them."""
        pixels = [self.pixels(image) for image in _listed(images)]
        if not pixels:
            raise InputError("There is no image to predict for: pass a path or a list of paths.")
        return self.run(np.stack(pixels))

    def pixels(self, image: Any, *, reduced: bool = True) -> np.ndarray:
        """What the network sees of one image, (size, size, 3) of uint8.

        With `reduced`, files are decoded as in extraction, else at full size, as a browser does.
        """
        name = "an image"
        try:
            if isinstance(image, str | Path):
                name = str(image)
                image = Path(image).read_bytes()
            if isinstance(image, bytes | bytearray | memoryview):
                return self.preprocessing.pixels(bytes(image), reduced=reduced)
            return self.preprocessing.pixels(_png(image), reduced=False)
        except InputError:
            raise
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
            raise DamagedFile(
                f"{name} could not be read as an image ({reason_of(error)}). Replace it, or leave "
                "it out.",
                path=name,
            ) from error

    def run(self, pixels: np.ndarray) -> Outputs:
        """Outputs for (n, size, size, 3) of uint8, in batches."""
        blocks = []
        for start in range(0, len(pixels), _BATCH):
            block = self.preprocessing.network_input(pixels[start : start + _BATCH])
            blocks.append(self.session.run(list(OUTPUTS), {INPUT: block}))
        return Outputs(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))

    @property
    def warning(self) -> str:
        """That the network answers one class to everything, where it does; else blank."""
        return warning_of(self.about["variants"][self.variant].get("one_class"))

    def __repr__(self) -> str:
        return (
            f"Model({self.about['name']!r}, {counted(len(self.classes), 'class')}, {self.variant})"
        )


def load_model(path: str | Path, *, variant: str = "float32", threads: int = 0) -> Model:
    """Open a folder that `trustq package` wrote; needs ONNX Runtime, and no torch.

    `variant` is float32, int8 or float16; `threads` are those of one prediction (0: all cores).
    Raises `TrustqError` for a folder that is no model, has no such variant, or was changed.
    """
    folder = Path(path)
    about = read_about(folder)
    there = about["variants"]
    if variant not in there:
        more = (
            f" Package it again with `variants={','.join((*there, variant))}` of `trustq package`."
            if variant in VARIANTS
            else ""
        )
        raise NotFound(
            f"{folder} has no variant {variant!r}; expected one of {', '.join(there)}.{more}",
            path=folder,
            expected=tuple(there),
            found=variant,
        )
    content = _checked_file(folder, there[variant]["file"], there[variant]["digest"])
    runtime = load_extra("onnxruntime", "Running a packaged model")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(
            content, sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # of ONNX Runtime's own kinds
        raise DamagedFile(
            f"{folder / there[variant]['file']}: ONNX Runtime {runtime.__version__} cannot open it "
            f"({str(error).strip().splitlines()[0]}). Upgrade onnxruntime, or package it again.",
            path=folder,
        ) from error
    return Model(
        path=folder,
        variant=variant,
        about=about,
        classes=tuple(about["classes"]),
        preprocessing=Preprocessing.of_attribute(about["preprocessing"]),
        rules=Rules.of_attribute(there[variant]["rules"]),
        session=session,
    )


def read_about(folder: Path) -> dict[str, Any]:
    """What `model.json` states; raises `TrustqError` where it is missing, foreign or newer."""
    path = Path(folder) / ABOUT
    if not path.is_file():
        raise NotFound(
            f"{folder} is not a packaged model (it has no {ABOUT}). "
            "Make one with `trustq package`.",
            path=folder,
        )
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedFile(f"{path} is not JSON ({error}). Package it again.", path=path) from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise DamagedFile(
            f"{path} is not of a packaged model of trustq. Package it again.", path=path
        )
    if about["format_version"] > FORMAT_VERSION:
        raise InputError(
            f"{path} has model format {about['format_version']}; this trustq reads up to "
            f"{FORMAT_VERSION}. Upgrade trustq.",
            path=path,
        )
    sealed = about.pop("digest", "")
    if sealed != _digest_of(about):
        raise DamagedFile(
            f"{path} was changed after it was written: its digest does not match. Copy the folder "
            "again from where it was made, or package it again.",
            path=path,
        )
    return about | {"digest": sealed}


def write_about(folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Write `model.json` with the digest of its content, and return it."""
    whole = about | {"digest": _digest_of(about)}
    with replacing(folder / ABOUT) as part:
        part.write_text(
            json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
            encoding="utf-8",
        )
    return whole


def _digest_of(about: dict[str, Any]) -> str:
    # As parsed again, so that what was written and what is read have one form.
    text = json.dumps(about, sort_keys=True, ensure_ascii=True)
    return digest_bytes(json.dumps(json.loads(text), sort_keys=True).encode())


def _checked_file(folder: Path, name: str, digest: str) -> bytes:
    path = folder / Path(name).name
    if not path.is_file():
        raise NotFound(f"{path}: no such file, though {ABOUT} names it. Copy it there.", path=path)
    content = path.read_bytes()
    if digest_bytes(content) != digest:
        raise DamagedFile(
            f"{path} is damaged or another model's: its digest does not match. Copy it again from "
            "where it was made, or package it again.",
            path=path,
        )
    return content


def _listed(images: Any) -> Iterator[Any]:
    one = isinstance(images, str | Path | bytes | bytearray | memoryview) or hasattr(images, "mode")
    if isinstance(images, np.ndarray) and images.ndim in (2, 3):  # 2: refused as an image
        one = True
    if one:
        yield images
        return
    if not isinstance(images, Sequence | np.ndarray) and not hasattr(images, "__iter__"):
        raise InputError(
            f"`images` is of type {type(images).__name__}; expected a path, bytes, a Pillow "
            "image, an (h, w, 3) array of uint8, or a sequence of these.",
            where="images",
        )
    yield from images


def _png(image: Any) -> bytes:
    """An image in memory as a file's bytes, so that it is treated as those are."""
    from PIL import Image

    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise InputError(
                f"An image is {image.shape} of {image.dtype}; expected (h, w, 3) of uint8.",
                where="images",
                found=image.shape,
            )
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise InputError(
            f"An image is of type {type(image).__name__}; expected a path, bytes, a Pillow image "
            "or an (h, w, 3) array of uint8.",
            where="images",
        )
    file = io.BytesIO()
    image.save(file, "PNG", exif=image.info.get("exif", b""))
    return file.getvalue()
