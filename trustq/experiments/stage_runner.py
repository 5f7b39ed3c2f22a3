"""Named stages that run once: commands with inputs and outputs by digest, stopped and resumed.

A stage's record is written when it has ended well, last of all. Its key is a digest of its command
and of its inputs; a stage whose key and outputs are as recorded is not run again.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from trustq.core.atomic_files import replacing
from trustq.core.digest import digest_json, digest_strings
from trustq.errors import InputError, NotFound, TrustqError

RECORDS = "stages"
_PROGRAM = "from trustq.cli import app; app()"  # of the interpreter that runs
_BLOCK = 1 << 20
_LAST_LINES = 5  # of a failed stage's log, which are shown


@dataclass(frozen=True)
class Stage:
    """A step of a study: a trustq command's words, or a function; what it reads and writes.

    `inputs` and `outputs` are files and folders relative to the study's folder; `after` names
    further stages that must have ended. A stage depends on those whose outputs it reads. A command
    that never writes over what is there is `once`: what it wrote is removed before it runs again,
    and what somebody changed since stays. One that `adds` to what is there goes on from it where it
    was stopped or its command has changed; where its inputs have, what it wrote is of others, and
    is removed likewise.
    """

    name: str
    command: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    action: Callable[[Path], None] | None = None
    about: str = ""  # what an action depends on besides its inputs
    once: bool = False
    adds: bool = False


@dataclass(frozen=True)
class Ended:
    """How a stage went: ran, unchanged, failed, skipped (what it needs failed) or left (not asked).

    `seconds` are those of the run that made its outputs, None where there was none; `why` says why
    it ran, or did not.
    """

    name: str
    state: str
    seconds: float | None
    why: str


def run_stages(
    stages: Sequence[Stage],
    folder: Path,
    *,
    first: str | None = None,
    last: str | None = None,
    dry: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Ended]:
    """Run the stages of a study in their order; only those that changed.

    From `first` on stages run whether they changed or not, and those before it must have run;
    after `last` none does. `dry` runs nothing and says what would run. A failed stage stops what
    depends on it, and nothing else. One process at a time works in a folder; the others wait.
    Raises `TrustqError` for unknown names and for stages in a circle or out of order.
    """
    _require_sound(stages, first, last)
    folder = Path(folder)
    (folder / RECORDS).mkdir(parents=True, exist_ok=True)
    course = _Course(stages, folder, first, dry, tell)
    with _alone(folder, tell):
        for stage in stages:
            course.take(stage)
            course.is_over = course.is_over or stage.name == last
    return list(course.ended.values())


def needs_of(stage: Stage, stages: Sequence[Stage]) -> list[str]:
    """Names of the stages that a stage depends on, in order."""
    found = []
    for other in stages:
        makes = [Path(path) for path in other.outputs]
        reads = [Path(path) for path in stage.inputs]
        touches = any(r == m or m in r.parents or r in m.parents for r in reads for m in makes)
        if other.name != stage.name and (touches or other.name in stage.after):
            found.append(other.name)
    return found


@dataclass
class _Course:
    """A run through the stages, as far as it has come."""

    stages: Sequence[Stage]
    folder: Path
    first: str | None
    dry: bool
    tell: Callable[[str], None]
    ended: dict[str, Ended] = field(default_factory=dict)
    is_forced: bool = False  # the first stage that was asked for has been reached
    is_over: bool = False  # the last one is behind

    def take(self, stage: Stage) -> None:
        """Run a stage, or say why not."""
        self.is_forced = self.is_forced or stage.name == self.first
        record = _record(self.folder, stage)
        seconds = None if record is None else float(record["seconds"])
        state, why = self._state(stage, record)
        if state == "runs":
            self.tell(f"{stage.name}: runs, for {why}")
            _make_room(stage, self.folder, record, self.tell)
            self.ended[stage.name] = _run(stage, self.folder, why, self.tell)
            return
        if state == "unchanged" and not why:
            self.tell(f"{stage.name}: unchanged")
        self.ended[stage.name] = Ended(stage.name, state, seconds, why)

    def _state(self, stage: Stage, record: dict[str, Any] | None) -> tuple[str, str]:
        if self.is_over:
            return "left", "after the last stage that was asked for"
        if self.first is not None and not self.is_forced:
            if record is None:
                raise InputError(
                    f"The stage {stage.name} comes before {self.first} and has not run yet. Run "
                    "the study from the start first."
                )
            return "unchanged", "before the first stage that was asked for"
        states = {name: self.ended[name].state for name in needs_of(stage, self.stages)}
        failed = [name for name, state in states.items() if state in ("failed", "skipped")]
        if failed:
            return "skipped", f"{failed[0]} failed"
        pending = [name for name, state in states.items() if state == "would run"]
        why = f"{pending[0]} would run" if pending else _why(stage, self.folder, record)
        if not why and self.is_forced:
            why = f"asked for from {self.first} on"
        if not why:
            return "unchanged", ""
        return ("would run" if self.dry else "runs"), why


def _why(stage: Stage, folder: Path, record: dict[str, Any] | None) -> str:
    """Why a stage must run; blank where all is as recorded."""
    if record is None:
        return "it has not run yet"
    if record["command"] != _command_digest(stage):
        return "its command changed"
    for path in stage.inputs:
        if record["inputs"].get(path) != digest_path(folder / path):
            return f"{path} changed"
    for path in stage.outputs:
        if record["outputs"].get(path) != digest_path(folder / path):
            return f"{path} is missing or was changed"
    return ""


def _make_room(
    stage: Stage, folder: Path, record: dict[str, Any] | None, tell: Callable[[str], None]
) -> None:
    """Remove what a stage wrote where it does not write over it, or wrote it of other inputs.

    A note of what it began with stays until the next time: a stage that was killed has no record.
    """
    if not (stage.once or stage.adds):
        return
    note = folder / RECORDS / f".{stage.name}.begun.json"
    inputs = {path: digest_path(folder / path) for path in stage.inputs}
    begun = _read(note) or {"inputs": (record or {"inputs": inputs})["inputs"], "own": []}
    own = []
    for path in stage.outputs:
        place = folder / path
        is_own = path in begun["own"]
        if record is not None:  # it came to its end
            is_own = digest_path(place) == record["outputs"].get(path)
        if not place.exists():
            own.append(path)
        elif is_own:
            own.append(path)
            if stage.once or begun["inputs"] != inputs:
                if stage.adds:
                    tell(f"{path} was made of other inputs and is removed")
                shutil.rmtree(place) if place.is_dir() else place.unlink()
        elif stage.adds and begun["inputs"] != inputs:
            tell(f"{path} was changed since {stage.name} wrote it: what is in it stays")
    with replacing(note) as part:
        part.write_text(json.dumps({"inputs": inputs, "own": own}) + "\n", encoding="utf-8")


def _run(stage: Stage, folder: Path, why: str, tell: Callable[[str], None]) -> Ended:
    inputs = {path: digest_path(folder / path) for path in stage.inputs}
    missing = [path for path, digest in inputs.items() if digest is None]
    if missing:
        return _failed(stage, folder, 0.0, f"its input {missing[0]} does not exist", tell)
    (folder / RECORDS / f"{stage.name}.json").unlink(missing_ok=True)
    _journal(folder, {"stage": stage.name, "event": "started", "why": why})
    started = time.monotonic()
    problem = _execute(stage, folder)
    seconds = round(time.monotonic() - started, 3)
    outputs = {path: digest_path(folder / path) for path in stage.outputs}
    absent = [path for path, digest in outputs.items() if digest is None]
    if not problem and absent:
        problem = f"it did not write {absent[0]}"
    if problem:
        return _failed(stage, folder, seconds, problem, tell)
    record = {
        "stage": stage.name,
        "command": _command_digest(stage),
        "words": list(stage.command),
        "inputs": inputs,
        "outputs": outputs,
        "seconds": seconds,
    }
    with replacing(folder / RECORDS / f"{stage.name}.json") as part:
        part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    _journal(folder, {"stage": stage.name, "event": "ended", "seconds": seconds})
    tell(f"{stage.name}: {seconds:.1f} s")
    return Ended(stage.name, "ran", seconds, why)


def _failed(
    stage: Stage, folder: Path, seconds: float, problem: str, tell: Callable[[str], None]
) -> Ended:
    _journal(folder, {"stage": stage.name, "event": "failed", "why": problem})
    tell(f"{stage.name}: failed, {problem}")
    return Ended(stage.name, "failed", seconds, problem)


def _execute(stage: Stage, folder: Path) -> str:
    """Run a stage to its end; returns what went wrong, or nothing."""
    if stage.action is not None:
        try:
            stage.action(folder)
        except TrustqError as error:
            return str(error)
        return ""
    log = folder / RECORDS / f"{stage.name}.log"
    # A killed runner may leave its command behind. The command holds this lock as long as it
    # lives, so that who resumes waits for it and never works beside it.
    with open(folder / RECORDS / f".{stage.name}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(log, "wb") as written:
            done = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, *stage.command],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
                pass_fds=(lock.fileno(),),
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
            try:
                code = done.wait()
            except BaseException:
                done.send_signal(signal.SIGTERM)
                done.wait()
                raise
    if code == 0:
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    told = "\n  ".join(lines[-_LAST_LINES:])
    return f"exit status {code} ({RECORDS}/{stage.name}.log):\n  {told}"


def digest_path(path: Path) -> str | None:
    """Digest of a file's bytes, or of all names and bytes under a folder; None where there is none.

    Hidden files, which are locks and parts of files, do not count.
    """
    if path.is_file():
        state = xxhash.xxh3_128()
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                state.update(block)
        return state.hexdigest()
    if not path.is_dir():
        return None
    parts = []
    for inner in sorted(path.rglob("*")):
        names = inner.relative_to(path).parts
        if inner.is_file() and not any(name.startswith(".") for name in names):
            parts += ["/".join(names), digest_path(inner)]
    return digest_strings(parts)


def _command_digest(stage: Stage) -> str:
    return digest_json([list(stage.command), list(stage.outputs), stage.about])


def _record(folder: Path, stage: Stage) -> dict[str, Any] | None:
    found = _read(folder / RECORDS / f"{stage.name}.json")
    return found if found is not None and "outputs" in found else None


def _read(path: Path) -> dict[str, Any] | None:
    """A record with its inputs, None where there is none that is whole."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "inputs" in found else None


def _journal(folder: Path, event: dict[str, Any]) -> None:
    """Append an event, on the disk before the next step."""
    with open(folder / RECORDS / "journal.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(event | {"time": round(time.time(), 3)}) + "\n")
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _alone(folder: Path, tell: Callable[[str], None]) -> Iterator[None]:
    with open(folder / RECORDS / ".lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            tell(f"Another process works in {folder}; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _require_sound(stages: Sequence[Stage], first: str | None, last: str | None) -> None:
    names = [stage.name for stage in stages]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise InputError(f"Two stages are called {twice!r}; give each a name of its own.")
    for asked in (first, last, *(name for stage in stages for name in stage.after)):
        if asked is not None and asked not in names:
            raise NotFound(
                f"Unknown stage {asked!r}; expected one of {', '.join(names)}.",
                expected=names,
                found=asked,
            )
    for place, stage in enumerate(stages):
        later = [name for name in needs_of(stage, stages) if names.index(name) > place]
        if later:
            raise InputError(
                f"The stage {stage.name} reads what {later[0]}, a later stage, writes. Put "
                f"{later[0]} before it."
            )
