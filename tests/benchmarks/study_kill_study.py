"""`trustq study` of the whole digits flow, killed twice: does each stage end once, with the same?

A study from images to report and model is run undisturbed, then again in another folder where it is
killed with kill -9 at a random moment of its extraction (with all that it started) and of its
repair (the study alone: its command lives on, and is waited for), and resumed. Counted is how often
each stage ended; compared are the labels bought and the metrics of all runs.

Run: python tests/benchmarks/study_kill_study.py
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from trustq.results.query import run_query

STUDY = """
[study]
data = "digits"
recipe = "digits"
seeds = [0, 1]

[options]
repair = ["--draws", "2"]
package = ["--positive", "3,8"]
"""
FIGURES = """
SELECT backbone_seed, draw_seed, arm, budget, round, split, stage, metric, class_name, value
FROM metric_values ORDER BY ALL
"""


def start(folder: Path) -> "subprocess.Popen[bytes]":
    """The command, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", "from trustq.cli import app; app()", "study", "study.toml"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def events(folder: Path) -> list[dict[str, Any]]:
    """What the study's journal says."""
    journal = folder / "study" / "stages" / "journal.jsonl"
    return (
        [json.loads(line) for line in journal.read_text().splitlines()] if journal.is_file() else []
    )


def kill_in(folder: Path, stage: str, seconds: float, *, whole_group: bool) -> bool:
    """Start the study and kill it `seconds` into a stage; whether that hit it in that stage."""
    running = start(folder)
    while not any(e["stage"] == stage and e["event"] == "started" for e in events(folder)):
        if running.poll() is not None:
            raise SystemExit(f"the study ended before {stage}: status {running.returncode}")
        time.sleep(0.02)
    time.sleep(seconds)
    hit = running.poll() is None and not any(
        e["stage"] == stage and e["event"] == "ended" for e in events(folder)
    )
    if running.poll() is None and whole_group:
        # A stage's command has a process group of its own, which a shut-down machine kills, too.
        for child in children(running.pid):
            os.kill(child, signal.SIGKILL)
    if running.poll() is None:
        os.kill(running.pid, signal.SIGKILL)
    running.wait()
    return hit


def children(pid: int) -> list[int]:
    """All processes that a process started, and theirs."""
    own = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [found for child in map(int, own) for found in (child, *children(child))]


def main() -> None:
    """Print what each stage did, and whether the numbers are the undisturbed study's."""
    draws = random.Random(0)
    with tempfile.TemporaryDirectory() as made:
        whole, killed = Path(made) / "whole", Path(made) / "killed"
        for folder in (whole, killed):
            folder.mkdir()
            (folder / "study.toml").write_text(STUDY)
        if status := start(whole).wait():
            raise SystemExit(f"the undisturbed study ended with status {status}")
        took = {e["stage"]: e["seconds"] for e in events(whole) if e["event"] == "ended"}
        for stage, whole_group in (("extract", True), ("repair", False)):
            seconds = draws.uniform(0.1, 0.6) * took[stage]  # a busy machine may be faster now
            hit = kill_in(killed, stage, seconds, whole_group=whole_group)
            print(f"{stage}: killed {seconds:.1f} s into {took[stage]:.1f} s, hit {hit}")
        if status := start(killed).wait():
            raise SystemExit(f"the resumed study ended with status {status}")
        ended = Counter(e["stage"] for e in events(killed) if e["event"] == "ended")
        begun = Counter(e["stage"] for e in events(killed) if e["event"] == "started")
        for stage, seconds in took.items():
            print(f"{stage}: {seconds:.1f} s, begun {begun[stage]}, ended {ended[stage]}")
        figures = [run_query(f / "study" / "results", FIGURES).rows for f in (whole, killed)]
        equal = "equal" if str(figures[0]) == str(figures[1]) else "NOT EQUAL"
        print(f"{len(figures[0]):,} metric values, {equal}")


if __name__ == "__main__":
    main()
