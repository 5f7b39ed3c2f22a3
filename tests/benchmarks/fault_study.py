"""Faults by the hundred: is each noticed, told in one sentence, and without loss?

Parts: `inputs` (damaged files by every reader), `settings` (numbers out of every range), `sql`
(statements that would write, or are broken), `bundles` (one changed bit), `disks` (writes that fail
at some size), `kills` (kill -9 at random moments of writers), `interrupts` (Ctrl-C at random
moments of `trustq sql`).

Run: python tests/benchmarks/fault_study.py [PART ...] [--share 1.0] [--writer NAME]
"""

import argparse
import contextlib
import io
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import duckdb
import numpy as np
from flip_study import write_results
from support import make_cache
from support_damaged import DAMAGED

from trustq.audit import open_source
from trustq.data.manifest import make_manifest, read_manifest, write_manifest
from trustq.errors import TrustqError
from trustq.evaluation.predictions import read_predictions
from trustq.experiments import repair
from trustq.recipes import load_recipe
from trustq.recipes.schema import sweep_settings
from trustq.report.bundle import verify_bundle, write_bundle
from trustq.results import TABLES, clean, run_query
from trustq.results.query import save_database
from trustq.store import export_cache, import_cache, read_cache, write_cache

READERS: dict[str, Callable[[Path], Any]] = {
    "evaluate": read_predictions,
    "cache import": import_cache,
    "audit labels": open_source,
}
# What is no number, no number in range, or no number that fits.
_STRANGE = (
    "nan inf -inf -1 -0.5 0 0.0 1e308 -1e308 1e-320 0.9999999999 1.0000001 2.5 1e30 "
    "1000000000000000000 999999999999999999999999999999 -99999999999999999999 0x10 "
    "true text '' [] [[]] {a=1} 2020-01-01 '5' 5%"
)
STRANGE = _STRANGE.split()


WRITER: ContextVar[str] = ContextVar("writer", default="")  # the only one that is asked for


class Endless(BaseException):
    """What an alarm raises in a call that does not come back."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Endless

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def judged(call: Callable[[], object], *, what: str, seconds: float = 60) -> str:
    """What came of a call: a sentence, a result, a traceback, or no end."""
    try:
        with time_limit(seconds), contextlib.redirect_stderr(io.StringIO()):
            call()
    except TrustqError as error:
        return "sentence" if 0 < len(str(error)) < 1000 else "no sentence"
    except Endless:
        print(f"endless: {what}", file=sys.stderr)
        return "endless"
    except Exception as error:
        print(f"traceback: {what}: {type(error).__name__}: {error}", file=sys.stderr)
        return "traceback"
    return "result"


def inputs(root: Path, share: float) -> Counter[str]:
    """Every kind of damaged file by every reader; a result is a file that a reader can do with."""
    seen: Counter[str] = Counter()
    for name, make in DAMAGED.items():
        folder = root / name
        folder.mkdir()
        path = make(folder)
        for reader, read in READERS.items():
            seen[judged(lambda read=read, path=path: read(path), what=f"{reader} {name}")] += 1
    return seen


def settings(root: Path, share: float) -> Counter[str]:
    """Every number of a recipe with strange values; what is accepted is run on 60 rows."""
    seen: Counter[str] = Counter()
    numbers = [one.name for one in sweep_settings() if one.kind in (int, float)]
    texts = ["budgets", "trusted", "noise", "penalties"]
    cache = make_cache(n=60, d=4)
    base = ["arms=none,random", "head=majority", "folds=2", "references=false", "budgets=3"]
    tried = [(name, value) for name in (*numbers, *texts) for value in STRANGE]
    for place, (name, value) in enumerate(tried[:: round(1 / share)]):
        out = root / f"r{place}"

        def run(name: str = name, value: str = value, out: Path = out) -> None:
            recipe = load_recipe(settings=[*base, "sweep.noise=symmetric:0.2", f"{name}={value}"])
            repair([cache], recipe=recipe, results=out)
            query = "SELECT count(*) FROM metrics WHERE metric = 'accuracy' AND NOT value <= 1"
            assert run_query(out, query).rows == [(0,)], "an accuracy above 1"

        seen[judged(run, what=f"{name}={value}", seconds=60)] += 1
    return seen


def statements(results: Path, elsewhere: Path) -> list[str]:
    """SQL that would write, read what is not there, or is no SQL."""
    targets = [results / "runs" / "x.parquet", elsewhere / "x.csv", Path("x.db"), Path("/tmp/x.q")]
    writing = [
        sql.format(target=target)
        for target in targets
        for sql in (
            "COPY (SELECT 1) TO '{target}'",
            "COPY runs TO '{target}' (FORMAT csv)",
            "COPY (SELECT 1) TO '{target}' (USE_TMP_FILE false)",
            "EXPORT DATABASE '{target}'",
            "ATTACH '{target}' AS t",
            "SELECT * FROM '{target}'",
            "SELECT * FROM read_csv('{target}')",
            "SELECT * FROM read_text('{target}')",
            "SELECT * FROM glob('{target}*')",
            "INSTALL '{target}'",
            "LOAD '{target}'",
            "IMPORT DATABASE '{target}'",
            "PRAGMA enable_profiling; PRAGMA profiling_output='{target}'; SELECT 1",
            "SET log_query_path='{target}'; SELECT 1",
        )
    ]
    changing = [
        f"{verb} {table}"
        for table in TABLES
        for verb in ("DELETE FROM", "DROP TABLE", "DROP VIEW", "TRUNCATE")
    ]
    broken = [
        *("", ";", "SELEC", "SELECT", "SELECT FROM", "SELECT * FROM nothing", "SELECT x FROM runs"),
        *("SELECT 1/0", "SELECT 1; SELECT 2", "SELECT '" + "a" * 10_000, "SELECT " + "(" * 300),
        *("SET enable_external_access=true", "SET allowed_directories=['/']", "RESET ALL"),
        *("CREATE SECRET s (TYPE s3)", "CALL nothing()", "PRAGMA nothing", "SELECT error('x')"),
        *("SET lock_configuration=false", "VACUUM", "CHECKPOINT", "BEGIN", "COMMIT", "USE nothing"),
        *("CREATE TABLE t AS SELECT 1", "INSERT INTO runs SELECT * FROM runs", "\0", "SELECT '\0'"),
        *(
            "UPDATE runs SET arm = 'x'",
            "ALTER TABLE runs ADD COLUMN x INT",
            "SELECT getenv('HOME')",
        ),
    ]
    return [*writing, *changing, *broken]


def sql(root: Path, share: float) -> Counter[str]:
    """Statements of a user against a folder, which must be the same afterwards."""
    write_results(root / "results")
    elsewhere = root / "elsewhere"
    elsewhere.mkdir()
    seen: Counter[str] = Counter()
    before = tree(root)
    for text in statements(root / "results", elsewhere):
        what = judged(lambda text=text: run_query(root / "results", text), what=text[:80])
        seen[what if tree(root) == before else "wrote"] += 1
    return seen


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, and its bytes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def bundles(root: Path, share: float) -> Counter[str]:
    """One flipped bit in a bundle: noticed, or nothing of what it holds is another."""
    import zipfile

    write_results(root / "results")
    path = root / "study.zip"
    write_bundle(root / "results", path)
    verify_bundle(path, root / "results")
    whole, rng = path.read_bytes(), random.Random(0)

    def held() -> dict[str, bytes]:
        with zipfile.ZipFile(path) as file:
            return {name: file.read(name) for name in file.namelist()}

    before, seen = held(), Counter[str]()
    for _ in range(round(200 * share)):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(data))
        what = judged(lambda: verify_bundle(path, root / "results"), what="bundle")
        if what == "result":
            what = "nothing changed" if held() == before else "silent"
        seen["noticed" if what == "sentence" else what] += 1
    return seen


def writers(
    root: Path, only: str = ""
) -> dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]]:
    """What writes a file or a folder, and what reads it whole."""
    cache = read_cache(write_cache(root / "of.h5", make_cache(n=400, d=30)).path or root)
    results = root / "results"
    write_results(results)
    names = ("sample_id", "path", "label", "group_id", "split", "dataset", "domain")
    columns = {n: np.array([f"{n}{i}" for i in range(3000)], dtype=object) for n in names}
    columns |= {n: np.array(["train"] * 3000, dtype=object) for n in ("label", "split")}
    manifest = make_manifest(columns, classes=["train"], root=root, source="m")
    settings = ["sweep.noise=symmetric:0.2", "head=majority", "budgets=3", "folds=2"]
    recipe = load_recipe(settings=[*settings, "arms=none,random", "references=false"])
    small = make_cache(n=60, d=4)

    def database(path: Path) -> None:
        with duckdb.connect(str(path), read_only=True) as connection:
            for table in TABLES:
                connection.execute(f"SELECT count(*) FROM {table}").fetchall()

    made: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
        "cache.h5": (lambda path: write_cache(path, cache), read_cache),
        "export.npz": (lambda path: export_cache(path, cache), import_cache),
        "export.parquet": (lambda path: export_cache(path, cache), import_cache),
        "export.safetensors": (lambda path: export_cache(path, cache), import_cache),
        "manifest.parquet": (lambda path: write_manifest(manifest, path), read_manifest),
        "results.duckdb": (lambda path: save_database(results, path), database),
        "bundle.zip": (
            lambda path: write_bundle(results, path),
            lambda path: verify_bundle(path, results),
        ),
        "folder": (
            lambda path: repair([small], recipe=recipe, results=path),
            lambda path: run_query(path, "SELECT count(*) FROM metric_values"),
        ),
    }
    return {name: made[name] for name in made if only in ("", name)}


def child_of(work: Callable[[], None]) -> int:
    """A forked process that does some work and ends without cleaning up."""
    child = os.fork()
    if not child:
        status = 9
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                work()
            status = 0
        except TrustqError:
            status = 1
        except BaseException as error:
            print(f"{type(error).__name__}: {error}"[:200])
            sys.stdout.flush()
            status = 2
        finally:
            os._exit(status)
    return child


def disks(root: Path, share: float) -> Counter[str]:
    """Writes that fail at some size: a limit on the file size stands in for the full disk."""
    seen: Counter[str] = Counter()
    rng = random.Random(0)
    for name, (write, read) in writers(root, WRITER.get()).items():
        full = root / "whole" / name
        full.parent.mkdir(exist_ok=True)
        write(full)
        sizes = [p.stat().st_size for p in ([full] if full.is_file() else full.rglob("*.parquet"))]
        for trial in range(round(8 * share)):
            place = root / f"disk-{name}-{trial}" / name
            place.parent.mkdir()
            kept = b""
            if trial % 2 and full.is_file():  # over an older one, which must stay
                kept = full.read_bytes()
                place.write_bytes(kept)
            limit = max(1, round(max(sizes) * rng.random() * 0.95))

            def work(limit: int = limit, place: Path = place, write: Any = write) -> None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                write(place)

            status = os.waitstatus_to_exitcode(os.waitpid(child_of(work), 0)[1])
            left = [p.name for p in place.parent.rglob("*.part*")] + [
                p.name for p in place.parent.iterdir() if p != place
            ]
            whole = not place.is_file() or place.read_bytes() == kept
            if place.is_dir():
                whole = judged(lambda read=read, place=place: read(place), what=name) != "traceback"
            what = {0: "went through", 1: "sentence"}.get(status, "traceback")
            if left or not whole:
                what = f"left {left}" if left else "damaged"
                print(name, limit, what, file=sys.stderr)
            seen[what] += 1
    return seen


def kills(root: Path, share: float) -> Counter[str]:
    """kill -9 at a random moment of a writer: the file is absent, as it was, or whole."""
    seen: Counter[str] = Counter()
    rng = random.Random(1)
    for name, (write, read) in writers(root, WRITER.get()).items():
        full = root / "timed" / name
        full.parent.mkdir(exist_ok=True)
        started = time.monotonic()
        os.waitpid(child_of(lambda write=write, full=full: write(full)), 0)
        seconds = time.monotonic() - started
        for trial in range(round(17 * share)):
            place = root / f"kill-{name}-{trial}" / name
            place.parent.mkdir()
            child = child_of(lambda write=write, place=place: write(place))
            time.sleep(rng.random() * seconds)
            os.kill(child, signal.SIGKILL)
            ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            if not place.exists():
                what = "absent"
            else:
                what = judged(lambda read=read, place=place: read(place), what=f"{name}, killed")
                what = {"result": "whole", "sentence": "nothing yet"}.get(what, what)
                if what == "nothing yet" and place.is_file():
                    what = "damaged"
            # What a killed writer left is cleared by the next one; in a folder of results, where
            # it may be of a writer at work, by `clean` after ten minutes.
            write(place)
            if place.is_dir():
                for path in place.rglob("*"):
                    os.utime(path, (time.time() - 3600,) * 2)
                clean(place)
            read(place)
            left = [p.name for p in place.parent.rglob(".*.part*")]
            if left:
                what = "left a part"
                print(name, left, file=sys.stderr)
            seen["ended before" if ended else what] += 1
    return seen


ENDLESS = (
    "SELECT count(*) FROM range(100000) a, range(100000) b, range(1000) c WHERE a.range % 7 = 3",
    "SELECT sum(hash(a.range || 'x' || b.range)) FROM range(100000) a, range(1000000) b",
    "SELECT a.range FROM range(30000) a, range(30000) b ORDER BY hash(a.range * b.range)",
    "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT max(n) FROM r",
    "SELECT count(DISTINCT md5(a.range::TEXT)) FROM range(1000000) a, range(1000) b",
)


def interrupts(root: Path, share: float) -> Counter[str]:
    """Ctrl-C at a random moment of a statement without an end: over within a second, in silence."""
    write_results(root / "results")
    program = str(Path(sys.executable).parent / "trustq")
    seen: Counter[str] = Counter()
    rng, before = random.Random(2), tree(root)
    for trial in range(round(40 * share)):
        child = subprocess.Popen(
            [program, "sql", ENDLESS[trial % len(ENDLESS)], "--results", str(root / "results")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            # Whoever runs this in the background may have told it to ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        time.sleep(2 + 2 * rng.random())  # the start of the program is behind it
        child.send_signal(signal.SIGINT)
        started = time.monotonic()
        try:
            said = child.communicate(timeout=30)[1].decode()
        except subprocess.TimeoutExpired:
            child.kill()
            seen["endless"] += 1
            continue
        seconds = time.monotonic() - started
        what = "within a second" if seconds <= 1 else f"after {seconds:.1f} s"
        if "Traceback" in said or child.returncode in (0, -signal.SIGINT):
            print(child.returncode, said, file=sys.stderr)
            what = "traceback"
        seen[what if tree(root) == before else "wrote"] += 1
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parts = {f.__name__: f for f in (inputs, settings, sql, bundles, disks, kills, interrupts)}
    parser.add_argument("parts", nargs="*", default=list(parts))
    parser.add_argument("--share", type=float, default=1.0, help="Share of the tries to make.")
    parser.add_argument("--writer", default="", help="Of disks and kills: this one alone.")
    asked = parser.parse_args()
    WRITER.set(asked.writer)
    warnings.simplefilter("error")
    print("| what | tries | came of it |")
    print("|---|---|---|")
    for name in asked.parts:
        with tempfile.TemporaryDirectory() as folder:
            seen = parts[name](Path(folder), asked.share)
        told = ", ".join(f"{what} {n}" for what, n in seen.most_common())
        print(f"| {name} | {sum(seen.values())} | {told} |", flush=True)


if __name__ == "__main__":
    main()
