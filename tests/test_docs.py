"""What the README and the tutorial show of Python runs as it stands."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(code: list[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> str:
    """Run pieces of code one after another in one namespace and an empty folder."""
    monkeypatch.chdir(folder)
    names: dict[str, object] = {"__name__": "__main__"}
    for number, piece in enumerate(code):
        exec(compile(piece, f"piece {number}", "exec"), names)
    return str(sorted(names))


def test_the_python_section_of_the_readme_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    section = text.split("## From Python\n")[1].split("\n## ")[0]
    pieces = re.findall(r"```python\n(.*?)```", section, flags=re.S)
    assert pieces
    run(pieces, monkeypatch, tmp_path)
    printed = capsys.readouterr().out
    found = re.search(r"(\d+) of the 30 most suspicious labels are wrong", printed)
    assert found is not None and int(found[1]) >= 20
    assert "self_confidence" in printed and (tmp_path / "results").is_dir()


def test_the_tutorial_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    notebook = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text("utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 5
    run(["".join(cell["source"]) for cell in cells], monkeypatch, tmp_path)
    # Stored without outputs, which would grow stale.
    assert not any(cell["outputs"] for cell in cells)
