"""kill -9 at random moments of `trustq loop`: does it end with the tables of an undisturbed loop?

Each start of the command is killed at a moment drawn uniformly from the time that an undisturbed
loop took, less what was done before; after the last kill the command is given once more and runs to
its end. Its table of networks and the labels bought are compared with those of the undisturbed one.

Run: python tests/benchmarks/loop_kill_study.py [--kills 5] [--loops 1]
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from support_extract import TINY, draw_images, make_rows
from test_train_loop import LOOP

from trustq.core.columns import read_table
from trustq.data.manifest import write_manifest


def start(folder: Path, out: Path) -> "subprocess.Popen[bytes]":
    """The command, in a process group of its own."""
    words = ["loop", f"{folder}/m.parquet", f"--recipe={folder}/tiny.toml", f"--out={out}"]
    words += [*(f"--set={setting}" for setting in (*TINY, *LOOP)), "--seeds=1,2", "--json"]
    return subprocess.Popen(
        [sys.executable, "-c", "from trustq.cli import app\napp()\n", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def same(one: Path, other: Path) -> bool:
    """Whether two loops trained the same networks on the same labels, with the same figures."""
    files = sorted(path.relative_to(one) for path in one.glob("labels/**/*.parquet"))
    if files != sorted(path.relative_to(other) for path in other.glob("labels/**/*.parquet")):
        return False
    for name in (Path("networks.parquet"), *files):
        expected, found = read_table(one / name), read_table(other / name)
        if list(expected) != list(found):
            return False
        if any(str(found[key].tolist()) != str(expected[key].tolist()) for key in expected):
            return False
    return True


def killed(folder: Path, out: Path, *, kills: int, seconds: float, draws: random.Random) -> int:
    """Run a loop to its end through `kills` kills; returns how many hit it at work."""
    n_hit = 0
    for _ in range(kills):
        process = start(folder, out)
        time.sleep(draws.uniform(0.1, 0.9) * seconds)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            n_hit += 1
        process.wait()
    if status := start(folder, out).wait():
        raise SystemExit(f"the loop after {n_hit} kills ended with status {status}")
    return n_hit


def main() -> None:
    """Print how many kills hit, and whether the tables are equal."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--loops", type=int, default=1)
    asked = parser.parse_args()
    draws = random.Random(0)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        images = folder / "images"
        images.mkdir()
        draw_images(images)
        write_manifest(make_rows(images), folder / "m.parquet")
        (folder / "tiny.toml").write_text("")
        began = time.monotonic()
        if status := start(folder, folder / "whole").wait():
            raise SystemExit(f"the undisturbed loop ended with status {status}")
        seconds = time.monotonic() - began
        for number in range(asked.loops):
            out = folder / f"killed{number}"
            n_hit = killed(folder, out, kills=asked.kills, seconds=seconds, draws=draws)
            equal = "equal" if same(folder / "whole", out) else "NOT EQUAL"
            print(f"loop {number}: {n_hit} of {asked.kills} kills hit it at work; tables {equal}")


if __name__ == "__main__":
    main()
