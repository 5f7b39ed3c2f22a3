"""Extraction beside other processes and on a full disk: once, whole, and in one sentence."""

import subprocess
import sys

import pytest
from support_extract import TINY, Heard, draw_images, make_rows, tiny

torch = pytest.importorskip("torch")

from trustq.data.manifest import write_manifest  # noqa: E402
from trustq.errors import TrustqError  # noqa: E402
from trustq.extraction import extract, extract_with  # noqa: E402
from trustq.extraction.jobs import only_one  # noqa: E402
from trustq.store import read_cache  # noqa: E402


@pytest.fixture
def manifest(tmp_path):
    (tmp_path / "in").mkdir()
    draw_images(tmp_path / "in")
    made = make_rows(tmp_path / "in")
    write_manifest(made, tmp_path / "m.parquet")
    return made


def command(tmp_path, *more, limit=None):
    words = ["extract", str(tmp_path / "m.parquet"), "--name=tiny", f"--out={tmp_path / 'c'}"]
    words += [*(f"--set={setting}" for setting in TINY), *more]
    code = "import resource\n"
    if limit is not None:  # a file that cannot grow is a disk that is full
        code += f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
    code += "from trustq.cli import app\napp()\n"
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_extract_a_seed_once(manifest, tmp_path):
    both = [command(tmp_path) for _ in range(2)]
    told = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    trained = [err for _, err in told if "epoch 2/2: train loss" in err]
    assert len(trained) == 1, told
    assert sum("is there already, from the same recipe" in err for _, err in told) == 1
    folder = tmp_path / "c/shapes/tiny"
    assert sorted(path.name for path in folder.iterdir()) == ["seed0.h5", "seed0.safetensors"]
    read_cache(folder / "seed0.h5")


def test_a_process_that_waits_says_so_and_goes_on_where_one_was_killed(tmp_path):
    target = tmp_path / "seed0.h5"
    heard = Heard()
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from trustq.extraction.jobs import only_one\n"
        "with only_one(Path(sys.argv[1]), None):\n"
        "    print('mine', flush=True)\n"
        "    time.sleep(60)\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None and other.stdout.readline() == "mine\n"

    def kill(text):
        heard.lines.append(text)
        other.kill()

    heard.say = kill
    with only_one(target, heard):
        pass
    other.wait()
    other.stdout.close()
    assert heard.lines == [f"{target} is being made by another process; waiting for it."]


@pytest.mark.parametrize("limit", [2_000, 60_000])
@pytest.mark.parametrize("mode", ["finetune", "frozen"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(
    limit, mode, manifest, tmp_path
):
    settings = ["--set=mode=frozen", "--set=extract.noise=none"] if mode == "frozen" else []
    process = command(tmp_path, *settings, limit=limit)
    _, told = process.communicate()
    folder = tmp_path / "c/shapes/tiny"
    left = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if process.returncode == 0:
        assert "seed0.h5" in left and limit > 100_000
        read_cache(folder / "seed0.h5")
        return
    assert process.returncode == 1 and "Traceback" not in told, told
    assert told.rstrip().splitlines()[-1].startswith("Error: "), told
    assert "file too large" in told or "no space left on device" in told, told
    assert "Nothing was left half-written" in told
    assert not [name for name in left if ".part" in name] and "seed0.h5" not in left


def test_with_takes_how_many_processes_load_images(manifest, tmp_path):
    (made,) = extract(manifest, recipe=tiny(), seeds=[0], out=tmp_path / "c", progress=Heard())
    words = [
        *("extract", str(tmp_path / "m.parquet"), "--with", str(made.path), "--name=again"),
        *(f"--out={tmp_path / 'c'}", "--set", "workers=0"),
    ]
    code = "from trustq.cli import app\napp()\n"
    told = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    again = read_cache(tmp_path / "c/shapes/again/seed0.h5")
    assert (again.features == read_cache(made.path).features).all()
    refused = subprocess.run(
        [sys.executable, "-c", code, *words, "--set", "epochs=3"], capture_output=True, text=True
    )
    assert refused.returncode == 2 and "--set workers=N" in refused.stderr
    with pytest.raises(TrustqError, match="would replace"):
        extract_with(manifest, [made.path], out=tmp_path / "c", progress=Heard())
