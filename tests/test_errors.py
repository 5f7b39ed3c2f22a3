"""Errors: one family, data beside the message, and no option of the command line in the library."""

import ast
import pickle
import re
import sys
from pathlib import Path

import pytest
from trustq.cli import app
from typer.testing import CliRunner

import trustq
from trustq.errors import (
    DamagedFile,
    DishonestError,
    InputError,
    MissingExtra,
    NotFound,
    TrustqError,
)
from trustq.recipes import load_recipe
from trustq.store import read_cache

LIBRARY = Path(trustq.__file__).parent
# Options of other programs that messages name.
OF_OTHERS = {"--nthreads", "--nproc-per-node", "--x"}  # the last is a multipart boundary


def test_the_library_names_no_option_of_the_command_line() -> None:
    found = []
    for path in sorted(LIBRARY.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", node.value)) - OF_OTHERS
                found += [f"{path.relative_to(LIBRARY)}:{node.lineno} {flag}" for flag in flags]
    assert found == []


def test_an_error_carries_its_data_and_the_settings_it_names() -> None:
    with pytest.raises(InputError) as raised:
        load_recipe("", settings=["sweep.row_weights=evenly"], part="sweep")
    assert raised.value.found == "evenly"
    assert raised.value.expected is not None and "domain_balanced" in raised.value.expected
    error = TrustqError("Use `folds=5` or `noise`; see `trustq sql`.", path="a.csv", where="row 3")
    assert error.settings == ("folds", "noise")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.path, again.where) == (str(error), "a.csv", "row 3")


def test_kinds_of_errors_are_caught_apart(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as missing:
        read_cache(tmp_path / "none.h5")
    assert missing.value.path == tmp_path / "none.h5"
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(DamagedFile):
        read_cache(tmp_path / "text.h5")
    kinds = (InputError, NotFound, DishonestError, DamagedFile, MissingExtra)
    assert all(issubclass(kind, TrustqError) for kind in kinds)
    assert issubclass(InputError, ValueError) and issubclass(NotFound, LookupError)


@pytest.mark.parametrize(
    ("message", "words", "said"),
    [
        # An option of the command, its value quoted where it must be, an off-switch, a recipe key.
        ("Name them: `sample_ids`.", ["evaluate"], "Name them: --sample-ids."),
        ("Try `normalize=l1`.", ["evaluate"], "Try --normalize l1."),
        ("`where=head = 'knn'`", ["export", "table"], "--where \"head = 'knn'\""),
        ("`references=false`", ["repair"], "--no-references"),
        ("`allow_leak`", ["repair"], "--allow-leak"),
        ("`accumulate=2`", ["extract"], "--set accumulate=2"),
        # What is no option here stays, unless the message says whose option it is.
        ("`with=a.h5`", ["repair"], "`with=a.h5`"),
        (
            "Use `trustq extract` and `with=a.h5`.",
            ["repair"],
            "Use `trustq extract` and --with a.h5.",
        ),
        ("Use `folds=3`.", ["evaluate"], "Use --calibrate cv:3."),
        ("Use `folds=3`.", ["audit", "labels"], "Use --folds 3."),
    ],
)
def test_the_command_line_says_settings_as_its_options(
    monkeypatch: pytest.MonkeyPatch, message: str, words: list[str], said: str
) -> None:
    import typer.main
    from trustq.cli.hints import RUNNING, in_options

    root = typer.main.get_command(app)
    context = root.make_context("trustq", list(words), resilient_parsing=True)
    command = root
    for word in words:
        command = command.commands[word]  # type: ignore[attr-defined]
    monkeypatch.setattr(context, "command", command)
    monkeypatch.setattr(context, "find_root", lambda: type("Root", (), {"command": root}))
    token = RUNNING.set(context)
    try:
        assert in_options(message) == said
    finally:
        RUNNING.reset(token)


def test_an_error_is_printed_in_options(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("sample_id,label\na,x\nb,y\n")
    shown = CliRunner().invoke(app, ["evaluate", str(tmp_path / "a.csv")])
    assert (shown.exit_code, shown.stderr) == (
        1,
        f"Error: {tmp_path}/a.csv has no columns prob_<class> or logit_<class>; it has "
        "sample_id, label. Name them (--probs, --logits).\n",
    )


def test_a_count_that_a_message_states_is_in_the_singular_of_one() -> None:
    verbs = "has|have|holds?|lacks|names?|given"
    number = r"\{(len\([^{}]*\)|n|k|n_[a-z]+)(:,)?\}"
    things = "rows|images|ids|runs|files|labels|networks|draws|classes|groups|answers|columns|units"
    uncounted = re.compile(rf"\b({verbs}) {number} ({things})\b")
    command_line = Path(sys.modules["trustq.cli"].__path__[0])
    found = [
        f"{path.name}: {match[0]}"
        for path in (*Path(trustq.__file__).parent.rglob("*.py"), *command_line.glob("*.py"))
        for match in uncounted.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []  # `counted` knows the singular
