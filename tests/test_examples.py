"""What can be pasted after `make demo` runs: examples of the help, the README and the pages."""

import contextlib
import re
import shlex
import shutil
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from trustq.cli import app
from typer.testing import CliRunner

from trustq.results import EXAMPLES
from trustq.review.server import ReviewServer

ROOT = Path(__file__).resolve().parents[1]

# Trainings that would take most of the time of all examples have fewer epochs here.
SHORTER = {"extract": ("--set", "epochs=1")}
ASKED: list[str] = []  # addresses that answered, of servers that examples started


@pytest.fixture(scope="module")
def clone(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo in it, as a clone is after `make demo`."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(demo_folder, folder / "demo")
    return folder


@pytest.fixture
def asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers start, answer one question and stop; no browser opens."""
    uvicorn = pytest.importorskip("uvicorn")
    serve = uvicorn.Server.run

    def ask(server: Any) -> None:
        server.config.port = 0
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        while thread.is_alive() and not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        _ask(f"http://127.0.0.1:{port}/api/health")
        server.should_exit = True
        thread.join()

    def review(server: ReviewServer) -> None:
        _ask(server.address)
        server.stop()

    ASKED.clear()
    monkeypatch.setattr("webbrowser.open", lambda address: True)
    monkeypatch.setattr(ReviewServer, "wait", review)
    monkeypatch.setattr(uvicorn.Server, "run", ask)


def _ask(address: str) -> None:
    with urllib.request.urlopen(address, timeout=30) as answer:
        assert answer.status == 200
    ASKED.append(address)


def paste(line: str, folder: Path) -> None:
    """Run a line of a shell, of trustq commands alone, in this process and in a folder."""
    for part in line.split(" && "):
        words = shlex.split(part, comments=True)
        assert words[0] == "trustq", line
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
    assert (command in ("trustq review", "trustq serve")) == bool(ASKED)


def readme_lines() -> list[str]:
    text = (ROOT / "README.md").read_text("utf-8")
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@pytest.mark.usefixtures("asked_once")
def test_the_readme_s_commands_run_as_they_are_pasted_after_the_demo(
    demo_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    shutil.copytree(demo_folder, tmp_path / "demo")
    lines = readme_lines()
    made = [line.split()[1] for line in lines if line.startswith("make ")]
    assert made == ["demo", "test"]
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert set(made) <= set(targets)
    commands = [line for line in lines if not line.startswith("make ")]
    assert len(commands) > 20
    for line in commands:
        paste(line, tmp_path)
    assert len(ASKED) == 2  # review and serve
    for title, query in EXAMPLES:
        with contextlib.chdir(tmp_path):
            answer = CliRunner().invoke(app, ["sql", "--results", "demo/results", query])
        assert answer.exit_code == 0, (title, answer.output)
