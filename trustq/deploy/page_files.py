"""The files of a served model's page: its own, the model's, and the browser's runtime."""

import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

from trustq import __version__
from trustq.core.digest import digest_bytes
from trustq.deploy.model import Model
from trustq.deploy.uploads import MOST_BYTES, MOST_SIDE
from trustq.deploy.web_runtime import FILES, FOLDER, has_web_runtime

_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "json": "application/json",
    "webmanifest": "application/manifest+json",
    "wasm": "application/wasm",
    "onnx": "application/octet-stream",
}
_OWN = ("index.html", "style.css", "app.js", "triage.js", "pixels.js", "icon.svg")
# Scripts of this server alone; WebAssembly is compiled, nothing is evaluated.
_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; worker-src 'self'; manifest-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class PageFile:
    """What is sent for an address."""

    address: str
    content: bytes
    media_type: str
    headers: tuple[tuple[str, str], ...]


def page_files(model: Model) -> list[PageFile]:
    """Every file of the page, the service worker's list of them included."""
    contents: dict[str, bytes] = {
        ("/" if name == "index.html" else f"/{name}"): _own(name) for name in _OWN
    }
    contents["/about.json"] = json.dumps(page_about(model)).encode()
    contents["/manifest.webmanifest"] = _own("manifest.webmanifest").replace(
        b"@NAME@", json.dumps(model.about["name"])[1:-1].encode()
    )
    if has_web_runtime(model.path):
        for name in FILES:
            contents[f"/ort/{name}"] = (model.path / FOLDER / name).read_bytes()
        file = model.about["variants"][model.variant]["file"]
        contents["/model.onnx"] = (model.path / file).read_bytes()
    version = digest_bytes(*(contents[name] for name in sorted(contents)))[:16]
    worker = _own("sw.js").replace(b"@VERSION@", version.encode())
    contents["/sw.js"] = worker.replace(b"@FILES@", json.dumps(sorted(contents)).encode())
    return [_file(address, content) for address, content in contents.items()]


def page_about(model: Model) -> dict[str, Any]:
    """What the page must know of the model to answer as the server does."""
    about = model.about
    figures = about["variants"][model.variant]["figures"]
    return {
        "name": about["name"],
        "digest": about["digest"],
        "variant": model.variant,
        "trustq": __version__,
        "classes": list(model.classes),
        "preprocessing": about["preprocessing"],
        "rules": about["variants"][model.variant]["rules"],
        "left_out": about["image_checks"]["left_out"],
        "texts": about["texts"],
        "warning": f"{model.warning}. " if model.warning else "",
        "in_browser": has_web_runtime(model.path),
        "most_bytes": MOST_BYTES,
        "most_side": MOST_SIDE,
        "dataset": about["data"]["dataset"],
        "licence": about["data"]["licence"],
        "n_test": about["data"]["n_test"],
        "accuracy": figures["accuracy"],
        "cuts": about["variants"][model.variant]["cuts"],
    }


def _own(name: str) -> bytes:
    return resources.files("trustq.deploy").joinpath("page", name).read_bytes()


def _file(address: str, content: bytes) -> PageFile:
    ending = "html" if address == "/" else address.rpartition(".")[2]
    # The service worker keeps what it needs; a browser's own cache would hold old files beside it.
    headers = [("cache-control", "no-cache")]
    if address in ("/", "/sw.js"):
        headers.append(("content-security-policy", _POLICY))
    return PageFile(address, content, _TYPES[ending], tuple(headers))
