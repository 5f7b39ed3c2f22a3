"""kill -9 at random moments of an extraction: does a second run end with the same cache?

Each trial starts a crossfit extraction of drawn images in a child of its own and kills it with its
loading process: at a uniformly random moment of the whole run, or, every other time, of the short
time from its checkpoint to its end. Then it runs the same extraction to its end, verifies the cache
and compares its content with that of a run that nobody disturbed. A child that ended before its
moment came does not count.

Run: python tests/benchmarks/kill_study.py [--trials 50]
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Imported once, before any child is made: a child then starts in milliseconds.
import timm  # noqa: F401
import torch  # noqa: F401
from support_extract import Heard, draw_images, make_rows, tiny

import trustq.extraction.train.crossfit  # noqa: F401
from trustq.data.manifest import Manifest
from trustq.extraction import extract
from trustq.recipes import Recipe
from trustq.store import verify_cache
from trustq.store.read import read_attributes

DUMP_SECONDS = 0.3  # from the checkpoint to the end, about


def start(manifest: Manifest, recipe: Recipe, out: Path) -> int:
    """A child that extracts, in a process group of its own."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()
        torch.set_num_threads(1)
        extract(manifest, recipe=recipe, seeds=[5], out=out, progress=Heard())
        status = 0
    finally:
        os._exit(status)


def wait(child: int) -> float:
    started = time.monotonic()
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit(f"an undisturbed run ended with status {status}")
    return time.monotonic() - started


def kill_after(child: int, seconds: float, there: Path | None = None) -> bool:
    """Kill `seconds` after the start, or after a file is there; False where the child had ended."""
    ended = 0
    while there is not None and not there.exists() and not ended:
        ended, _ = os.waitpid(child, os.WNOHANG)
        time.sleep(0.002)
    if not ended:
        time.sleep(seconds)
        ended, _ = os.waitpid(child, os.WNOHANG)
    if ended:
        return False
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def stage_of(folder: Path) -> str:
    """What the killed run had reached, by the files that it left."""
    names = [path.name for path in folder.rglob("*") if path.is_file()]
    if any(name == "seed5.h5" for name in names):
        return "cache there"
    if any(".h5" in name for name in names):
        return "dumping"
    if any(name == "seed5.safetensors" for name in names):
        return "checkpoint there"
    if any(name == ".seed5.resume.pt" for name in names):
        return "full training"
    if any(name.startswith(".seed5.fold") for name in names):
        return "fold training"
    return "before the first epoch's end"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=50)
    trials = parser.parse_args().trials
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "images").mkdir()
        draw_images(root / "images")
        manifest = make_rows(root / "images")
        settings = ("mode=crossfit", "crossfit_folds=2", "epochs=2")
        whole = {}
        seconds = 0.0
        for workers in (0, 1):
            recipe = tiny(*settings, f"workers={workers}")
            out = root / f"whole{workers}"
            seconds = max(seconds, wait(start(manifest, recipe, out)))
            whole[workers] = read_attributes(out / "shapes/tiny/seed5.h5")["content_digest"]
        stages: Counter[str] = Counter()
        same = killed = 0
        trial = 0
        while killed < trials:
            trial += 1
            workers = trial % 2
            recipe = tiny(*settings, f"workers={workers}")
            out = root / f"trial{trial}"
            out.mkdir()
            of_dump = trial % 4 < 2
            checkpoint = out / "shapes/tiny/seed5.safetensors" if of_dump else None
            moment = rng.uniform(0, DUMP_SECONDS if of_dump else seconds)
            if not kill_after(start(manifest, recipe, out), moment, checkpoint):
                continue
            killed += 1
            stages[stage_of(out)] += 1
            wait(start(manifest, recipe, out))
            cache = out / "shapes/tiny/seed5.h5"
            verify_cache(cache)
            left = {path.name for path in cache.parent.iterdir()}
            is_same = read_attributes(cache)["content_digest"] == whole[workers]
            same += is_same and left == {"seed5.h5", "seed5.safetensors"}
    print("| killed at work | same cache after a second run, nothing else left |")
    print("|---|---|")
    print(f"| {killed} | {same} |\n")
    print("Reached when killed: " + ", ".join(f"{name} {n}" for name, n in stages.most_common()))


if __name__ == "__main__":
    main()
