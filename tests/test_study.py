"""A study's stages run once each, whatever kills it; what changed runs again, and nothing else."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support_extract import TINY, make_rows
from trustq.cli.study_file import read_study

from trustq.data.manifest import write_manifest
from trustq.data.sampling import sample_groups
from trustq.errors import InputError, NotFound, TrustqError
from trustq.experiments.stage_runner import Ended, Stage, digest_path, needs_of, run_stages
from trustq.results import run_query
from trustq.store import read_cache


def copying(name: str, source: str, target: str, ran: list[str], text: str = "") -> Stage:
    def copy(folder: Path) -> None:
        ran.append(name)
        (folder / target).write_text((folder / source).read_text() + text)

    return Stage(name, inputs=(source,), outputs=(target,), action=copy, about=text)


def states(ended: list[Ended]) -> dict[str, str]:
    return {one.name: one.state for one in ended}


def chain(ran: list[str], text: str = "") -> list[Stage]:
    return [
        copying("a", "start", "a.txt", ran),
        copying("b", "a.txt", "b.txt", ran, text),
        copying("c", "b.txt", "c.txt", ran),
        copying("d", "start", "d.txt", ran),
    ]


def test_only_what_changed_runs_again(tmp_path: Path) -> None:
    (tmp_path / "start").write_text("1")
    ran: list[str] = []
    assert set(states(run_stages(chain(ran), tmp_path)).values()) == {"ran"}
    assert set(states(run_stages(chain(ran), tmp_path)).values()) == {"unchanged"}
    assert ran == ["a", "b", "c", "d"]
    run_stages(chain(ran, "new"), tmp_path)  # another command of b, so another input of c
    assert ran[4:] == ["b", "c"] and (tmp_path / "c.txt").read_text() == "1new"
    (tmp_path / "c.txt").write_text("damaged")
    run_stages(chain(ran, "new"), tmp_path)
    assert ran[6:] == ["c"] and (tmp_path / "c.txt").read_text() == "1new"
    (tmp_path / "start").write_text("2")
    run_stages(chain(ran, "new"), tmp_path)
    assert ran[7:] == ["a", "b", "c", "d"]


def test_a_command_that_never_writes_over_finds_its_place_free(tmp_path: Path) -> None:
    (tmp_path / "start").write_text("1")

    def write(folder: Path) -> None:
        if (folder / "model").exists():
            raise TrustqError("model holds a model already.")
        (folder / "model").mkdir()
        (folder / "model" / "a").write_text((folder / "start").read_text())

    stage = Stage("package", inputs=("start",), outputs=("model",), action=write, once=True)
    for text in ("1", "2"):
        (tmp_path / "start").write_text(text)
        assert states(run_stages([stage], tmp_path)) == {"package": "ran"}
        assert (tmp_path / "model" / "a").read_text() == text
    (tmp_path / "model" / "mine").write_text("a note of mine")
    assert states(run_stages([stage], tmp_path)) == {"package": "failed"}
    assert states(run_stages([stage], tmp_path)) == {"package": "failed"}
    assert (tmp_path / "model" / "mine").exists()
    shutil.rmtree(tmp_path / "model")
    for text in ("3", "4"):
        (tmp_path / "start").write_text(text)
        assert states(run_stages([stage], tmp_path)) == {"package": "ran"}
    (tmp_path / "stages" / "package.json").unlink()  # killed before the record was written
    assert states(run_stages([stage], tmp_path)) == {"package": "ran"}
    study = tmp_path / "study.toml"
    study.write_text('[study]\ndata = "digits"\nrecipe = "digits"\n')
    assert [one.name for one in read_study(study).stages if one.once] == ["package"]


def test_what_adds_to_its_outputs_goes_on_and_begins_anew_with_other_inputs(
    tmp_path: Path,
) -> None:
    (tmp_path / "cache").write_text("1")
    stops = [True]

    def add(folder: Path) -> None:
        results = folder / "results"
        results.mkdir(exist_ok=True)
        (results / (folder / "cache").read_text()).write_text("run")
        if stops[0]:
            raise TrustqError("stopped half-way")

    def there() -> list[str]:
        return sorted(path.name for path in (tmp_path / "results").iterdir())

    def run(about: str = "") -> str:
        stage = Stage("repair", (), ("cache",), ("results",), action=add, about=about, adds=True)
        return states(run_stages([stage], tmp_path))["repair"]

    def trained_again(text: str) -> None:
        (tmp_path / "cache").write_text(text)

    assert run() == "failed" and there() == ["1"]
    (tmp_path / "results" / "kept").write_text("")
    assert run() == "failed" and there() == ["1", "kept"]  # what was made so far stays
    trained_again("2")
    assert run() == "failed" and there() == ["2"]
    stops[0] = False
    assert run() == "ran" and there() == ["2"]
    (tmp_path / "results" / "kept").write_text("")
    assert run("more draws") == "ran" and there() == ["2", "kept"]
    trained_again("3")
    assert run("more draws") == "ran" and there() == ["3"]
    (tmp_path / "results" / "of somebody").write_text("")
    trained_again("4")
    assert run("more draws") == "ran" and there() == ["3", "4", "of somebody"]


def test_results_that_were_there_before_a_stage_began_are_left(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("1")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "mine").write_text("")

    def fail(folder: Path) -> None:
        raise TrustqError("stopped")

    stage = Stage("repair", (), ("cache",), ("results",), action=fail, adds=True)
    run_stages([stage], tmp_path)
    (tmp_path / "cache").write_text("2")
    run_stages([stage], tmp_path)
    assert (tmp_path / "results" / "mine").is_file()


def test_a_study_trains_again_with_other_options(images: Path, tmp_path: Path) -> None:
    write_manifest(make_rows(images), tmp_path / "shapes.parquet")
    file = tmp_path / "study.toml"
    own = [setting for setting in TINY if not setting.startswith("epochs=")]
    settings = [word for setting in own for word in ("--set", setting)]

    def run(epochs: int, seeds: str) -> dict[str, str]:
        file.write_text(
            f"[study]\ndata = 'shapes.parquet'\nseeds = {seeds}\n"
            "skip = ['audit', 'report', 'package']\n"
            f"[options]\nextract = {[*settings, '--epochs', str(epochs)]}\n"
            "repair = ['--noise', 'stored', '--arms', 'none', '--folds', '2']\n"
        )
        read = read_study(file)
        return states(run_stages(read.stages, read.folder))

    def trained() -> dict[int, int]:
        return {
            read_cache(path).backbone_seed: read_cache(path).recipe["extract"]["epochs"]
            for path in (tmp_path / "study/cache").rglob("*.h5")
        }

    assert set(run(1, "[0, 1]").values()) == {"ran"}
    assert set(run(2, "[1]").values()) == {"unchanged", "ran"}
    # The seed that the file no longer names is kept, and is in no result.
    assert trained() == {0: 1, 1: 2}
    runs = "SELECT DISTINCT backbone_seed, cache_digest FROM runs"
    ((seed, digest),) = run_query(tmp_path / "study/results", runs).rows
    (path,) = (tmp_path / "study/cache").rglob("seed1.h5")
    assert (seed, digest) == (1, read_cache(path).content_digest)


def test_a_study_of_another_data_set_keeps_no_cache_of_the_former(
    images: Path, tmp_path: Path
) -> None:
    file = tmp_path / "study.toml"
    settings = [word for setting in TINY for word in ("--set", setting)]
    told: list[str] = []

    def run(name: str) -> dict[str, str]:
        write_manifest(make_rows(images, dataset=name), tmp_path / f"{name}.parquet")
        file.write_text(
            f"[study]\ndata = '{name}.parquet'\nskip = ['audit', 'report', 'package']\n"
            f"[options]\nextract = {settings}\n"
            "repair = ['--noise', 'stored', '--arms', 'none', '--folds', '2']\n"
        )
        read = read_study(file)
        return states(run_stages(read.stages, read.folder, tell=told.append))

    for name in ("before", "after"):
        assert set(run(name).values()) <= {"ran", "unchanged"}
        folders = [path.name for path in (tmp_path / "study/cache").iterdir()]
        assert [folder for folder in folders if not folder.startswith(".")] == [name]
        found = run_query(tmp_path / "study/results", "SELECT DISTINCT dataset FROM runs").rows
        assert found == [(name,)]
    assert told.count("cache was made of other inputs and is removed") == 1


def test_stages_from_and_until_and_dry_runs(tmp_path: Path) -> None:
    (tmp_path / "start").write_text("1")
    ran: list[str] = []
    with pytest.raises(InputError, match="The stage a comes before b and has not run yet"):
        run_stages(chain(ran), tmp_path, first="b")
    found = run_stages(chain(ran), tmp_path, dry=True)
    assert set(states(found).values()) == {"would run"} and not ran
    found = run_stages(chain(ran), tmp_path, last="b")
    assert ran == ["a", "b"] and states(found)["c"] == "left"
    run_stages(chain(ran), tmp_path)
    run_stages(chain(ran), tmp_path, first="b", last="c")
    assert ran == ["a", "b", "c", "d", "b", "c"]
    with pytest.raises(NotFound, match="Unknown stage 'x'; expected one of a, b, c, d"):
        run_stages(chain(ran), tmp_path, last="x")


def test_a_failed_stage_stops_what_needs_it_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "start").write_text("1")
    ran: list[str] = []

    def fail(folder: Path) -> None:
        raise TrustqError("no disk")

    stages = chain(ran)
    stages[1] = Stage("b", inputs=("a.txt",), outputs=("b.txt",), action=fail)
    found = run_stages(stages, tmp_path)
    assert states(found) == {"a": "ran", "b": "failed", "c": "skipped", "d": "ran"}
    assert found[1].why == "no disk" and found[2].why == "b failed"
    silent = Stage("b", inputs=("a.txt",), outputs=("b.txt",), action=lambda _: None)
    assert run_stages([stages[0], silent], tmp_path)[1].why == "it did not write b.txt"
    wrong = Stage("w", command=("nonsense",), outputs=("w",))
    (ended,) = run_stages([wrong], tmp_path)
    assert ended.state == "failed" and "stages/w.log" in ended.why


def test_stages_that_read_what_comes_later_are_refused(tmp_path: Path) -> None:
    stages = chain([])
    assert needs_of(stages[2], stages) == ["b"]
    with pytest.raises(InputError, match="reads what a, a later stage, writes"):
        run_stages([stages[1], stages[0]], tmp_path)
    with pytest.raises(InputError, match="Two stages are called 'a'"):
        run_stages([stages[0], stages[0]], tmp_path)


def test_digests_of_folders_know_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "1").write_text("a")
    first = digest_path(tmp_path / "x")
    (tmp_path / "x" / ".lock").write_text("hidden")
    assert digest_path(tmp_path / "x") == first
    (tmp_path / "x" / "1").rename(tmp_path / "x" / "2")
    assert digest_path(tmp_path / "x") != first and digest_path(tmp_path / "none") is None


def test_a_study_file_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    cases: dict[str, str] = {
        "[study": "is not TOML",
        "[study]\nseed = 1": "unknown key of [study] 'seed' (did you mean 'seeds'?)",
        "[study]\nrecipe = 'digits'": "does not say its `data`",
        "[study]\ndata = 1": "data is 1, expected a text",
        "study = 3": "study is 3, expected a table",
        "stages = [3]\n[study]\ndata = 'digits'": "stages is 3, expected a table",
        "[study]\ndata = 'digits'\nseeds = ['a']": "seeds is ['a'], expected whole numbers from 0",
        "[study]\ndata = 'digits'\nseeds = [1.5]": "seeds is [1.5], expected whole numbers",
        "[study]\ndata = 'digits'\n[options]\npackage = '--positive 3'": (
            "package is '--positive 3', expected a list"
        ),
        "[study]\ndata = 'digits'\n[options]\npack = []": "unknown stage in [options] 'pack'",
        "[study]\ndata = 'digits'\n[[stages]]\nname = 'x'": "stage 1 lacks run, outputs",
        "[study]\ndata = 'digits'\n[[stages]]\nname = 'x'\nrun = 'sql'": "run of stage 1 is 'sql'",
    }
    for text, message in cases.items():
        file.write_text(text)
        with pytest.raises(InputError, match=re.escape(message)):
            read_study(file)
    with pytest.raises(NotFound, match="no such file"):
        read_study(tmp_path / "other.toml")
    file.write_text("[study]\ndata = 'digits'\nrecipe = 'digits'\nseeds = [0, 1]\n")
    names = [stage.name for stage in read_study(file).stages]
    whole = "environment prepare extract repair audit report package"
    assert names == whole.split()
    quick = read_study(file, quick=100)
    assert quick.folder.name == "study-quick100"
    assert [stage.name for stage in quick.stages][2] == "sample"


def test_one_seed_is_audited_where_each_has_labels_of_its_own(tmp_path: Path) -> None:
    def audited(recipe: str, options: str = "") -> list[str]:
        file = tmp_path / "study.toml"
        text = (
            f"[study]\ndata = 'digits'\nrecipe = '{recipe}'\nseeds = [3, 4]\n[options]\n{options}"
        )
        file.write_text(text)
        (stage,) = (stage for stage in read_study(file).stages if stage.name == "audit")
        return [word for word in stage.command if word.endswith(".h5")]

    (tmp_path / "own.toml").write_text('[extract]\nnoise = "pair:0.3"\n')
    one = ["cache/*/study/seed3.h5"]
    each = [*one, "cache/*/study/seed4.h5"]
    assert audited("lite0") == each
    assert audited("digits") == audited("own.toml") == one
    assert audited("digits", "extract = ['--noise', 'none']") == each
    assert audited("lite0", "extract = ['--set', 'noise=symmetric:0.1']") == one
    assert audited("lite0", "extract = ['--observed', 'labels{seed}.csv']") == one
    assert audited("no such recipe") == each


def test_a_recipe_is_found_beside_the_study(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("[extract]\nepochs = 1\n")
    file = tmp_path / "study.toml"
    file.write_text("[study]\ndata = 'digits'\nrecipe = 'own.toml'\n")
    (stage,) = (stage for stage in read_study(file).stages if stage.name == "extract")
    assert str(tmp_path / "own.toml") in stage.command


STUDY = """
[study]
data = "digits"
skip = ["environment", "extract", "repair", "audit", "report", "package"]
[[stages]]
name = "small"
run = ["data", "sample", "manifest.parquet", "--images", "100", "--out", "small.parquet"]
inputs = ["manifest.parquet"]
outputs = ["small.parquet"]
"""


def test_a_study_killed_at_any_time_goes_on_and_ends_each_stage_once(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text(STUDY)
    journal = tmp_path / "study" / "stages" / "journal.jsonl"
    program = "from trustq.cli import app; app()"

    def start() -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-c", program, "study", str(file)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def has(event: str) -> Callable[[], bool]:
        return lambda: journal.is_file() and event in journal.read_text()

    # Killed in the first stage (whose command lives on, and is waited for), then in the second.
    for reached in (has('"prepare", "event": "started"'), has('"small", "event": "started"')):
        running = start()
        end = time.monotonic() + 200
        while not reached() and running.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.02)
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
    assert start().wait(timeout=300) == 0
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    finished = [event["stage"] for event in events if event["event"] == "ended"]
    assert sorted(finished) == ["prepare", "small"]
    assert (tmp_path / "study" / "small.parquet").is_file()


def test_a_sample_keeps_groups_whole_and_splits_and_classes_there(images: Path) -> None:
    whole = make_rows(images)
    part = sample_groups(whole, 30, seed=0)
    assert 24 <= len(part) <= 45
    for column in ("split", "label"):
        assert set(part.columns[column]) == set(whole.columns[column])
    groups = set(part.columns["group_id"])
    rows = [group in groups for group in whole.columns["group_id"]]
    assert sum(rows) == len(part)
    again = sample_groups(whole, 30, seed=0)
    assert part.columns["sample_id"].tolist() == again.columns["sample_id"].tolist()
    assert sample_groups(whole, 1000, seed=0) is whole
