"""Checklists filled from records: TRIPOD+AI, a claim, a deployment. Nothing is claimed unproven.

Every item is `reported` with the record that proves it, `missing`, or `not applicable`. What no
record can show (intended use, consent, ethics) comes from a file of statements, which is then the
proof.
"""

import json
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from trustq.core.counts import counted
from trustq.errors import InputError, NotFound, TrustqError
from trustq.results import connect
from trustq.store import read_attributes

REPORTED, MISSING, NOT_APPLICABLE = "reported", "missing", "not applicable"
_FINAL = "is_final AND class_name IS NULL AND slice_name IS NULL"


class Proof(NamedTuple):
    """What a record says, and where it says it."""

    value: str
    evidence: str


class Item(NamedTuple):
    """An item of a checklist, answered."""

    number: str
    topic: str
    status: str
    value: str
    evidence: str


@dataclass(frozen=True)
class Checklist:
    """All items in their order, and the reproduction record."""

    name: str
    title: str
    items: tuple[Item, ...]
    record: dict[str, Any]

    @property
    def n_reported(self) -> int:
        """Numbered items of which at least one part is reported."""
        return len({_whole(item.number) for item in self.items if item.status == REPORTED})

    @property
    def n_items(self) -> int:
        """Numbered items, parts counted as one."""
        return len({_whole(item.number) for item in self.items})


Find = Callable[["Records"], Proof | str | None]


class _Asked(NamedTuple):
    number: str
    topic: str
    find: Find | None = None  # None: only a statement can prove it


class Records:
    """A results folder, the caches that its runs name, and files beside them, asked for proofs."""

    def __init__(self, connection: Any, results: Path, files: Sequence[Path]) -> None:
        self._connection = connection
        self.results = results
        self.caches = self._caches()
        self.documents = [_document(path) for path in files]

    def one(self, sql: str) -> tuple[Any, ...]:
        """The first row of an answer."""
        row = self._connection.execute(sql).fetchone()
        return tuple(row) if row is not None else ()

    def listed(self, sql: str, most: int = 8) -> str:
        """Values of an answer's first column, as text; empty where there are none."""
        values = [str(row[0]) for row in self._connection.execute(sql).fetchall() if row[0]]
        more = f" and {len(values) - most} more" if len(values) > most else ""
        return ", ".join(values[:most]) + more

    def document(self, key: str) -> tuple[Path, dict[str, Any]] | None:
        """The first JSON file among those given that has a key."""
        return next(((path, own) for path, own in self.documents if key in own), None)

    def _caches(self) -> dict[str, dict[str, Any]]:
        found = {}
        for (path,) in self._connection.execute(
            "SELECT DISTINCT cache FROM runs WHERE cache IS NOT NULL ORDER BY 1"
        ).fetchall():
            try:
                found[path] = read_attributes(Path(path))
            except (TrustqError, OSError):
                continue  # moved or damaged: it proves nothing here
        return found


def checklist(
    name: str,
    results: Path,
    *,
    statements: Path | None = None,
    files: Sequence[Path] = (),
    where: str = "",
) -> Checklist:
    """Fill a checklist from a results folder.

    `name` is tripod-ai, claim or deployment. `files` are JSON records to look into as well: of
    `trustq explain failures`, `explain sanity` and `check`. `statements` is TOML with a table of
    each checklist, NUMBER = "text", or "not applicable: why". Raises `TrustqError` for an unknown
    checklist, a folder without runs, and a statement of no item.
    """
    if name not in CHECKLISTS:
        raise NotFound(
            f"There is no checklist {name!r}; there are {', '.join(CHECKLISTS)}.",
            found=name,
            expected=CHECKLISTS,
        )
    title, asked = CHECKLISTS[name]
    said = _statements(statements, name, [item.number for item in asked])
    with connect(results, where=where) as connection:
        records = Records(connection, Path(results), files)
        if not records.one("SELECT count(*) FROM runs")[0]:
            raise InputError(
                f"{results} holds no runs, so no record proves anything.", path=results
            )
        items = tuple(_answer(item, records, said, statements) for item in asked)
        return Checklist(name, title, items, _reproduction(records))


def _answer(asked: _Asked, records: Records, said: dict[str, str], statements: Path | None) -> Item:
    if asked.number in said:
        text = said[asked.number]
        if text.lower().startswith(NOT_APPLICABLE):
            return Item(asked.number, asked.topic, NOT_APPLICABLE, text, str(statements))
        evidence = f"stated in {statements}"
        return Item(asked.number, asked.topic, REPORTED, text, evidence)
    found = asked.find(records) if asked.find else None
    if found is None:
        why = "needs a statement" if asked.find is None else "no record shows it"
        return Item(asked.number, asked.topic, MISSING, "", why)
    if isinstance(found, str):
        return Item(asked.number, asked.topic, NOT_APPLICABLE, found, "")
    return Item(asked.number, asked.topic, REPORTED, found.value, found.evidence)


# --- what records prove --------------------------------------------------------------------------


def _column(name: str, what: str) -> Find:
    def find(records: Records) -> Proof | None:
        values = records.listed(f"SELECT DISTINCT {name} FROM runs ORDER BY 1")
        return Proof(f"{what}: {values}", f"SELECT DISTINCT {name} FROM runs") if values else None

    return find


def _dataset(records: Records) -> Proof | None:
    values = records.listed("SELECT DISTINCT dataset FROM runs ORDER BY 1")
    digests = sorted(
        {own["manifest"].get("ids", "")[:12] for own in records.caches.values()} - {""}
    )
    evidence = "SELECT DISTINCT dataset FROM runs"
    if digests:
        values += f"; manifest ids {', '.join(digests)}"
        evidence += f"; attribute manifest of {len(records.caches)} caches"
    return Proof(values, evidence) if values else None


def _preparation(records: Records) -> Proof | None:
    for path, own in records.caches.items():
        if own["preprocessing"]:
            return Proof(json.dumps(own["preprocessing"]), f"attribute preprocessing of {path}")
    return None


def _features(records: Records) -> Proof | None:
    for path, own in records.caches.items():
        features = own["datasets"].get("features", "")
        return Proof(
            f"images through {own['backbone']} ({own['weights']}), features {features}",
            f"attributes of {path}",
        )
    values = records.listed("SELECT DISTINCT backbone FROM runs ORDER BY 1")
    evidence = "SELECT DISTINCT backbone FROM runs"
    return Proof(f"images through {values}", evidence) if values else None


def _sample_size(records: Records) -> Proof | None:
    low, high = records.one("SELECT min(n_train), max(n_train) FROM runs")
    sizes = records.one(
        "SELECT count(DISTINCT sample_id), count(DISTINCT group_id) FROM predictions "
        "WHERE split IN ('test', 'out_of_fold')"
    )
    if not low:
        return None
    train = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return Proof(
        f"{train} training labels; {sizes[0]:,} evaluated rows in {sizes[1]:,} groups",
        "SELECT min(n_train), max(n_train) FROM runs; predictions of split test",
    )


def _missing(records: Records) -> Proof | None:
    if not records.caches:
        return None
    skipped = sum(
        "skipped_of" in own["recipe"] or "skipped/sample_id" in own["datasets"]
        for own in records.caches.values()
    )
    unscored = records.one("SELECT sum(n_unscored) FROM runs")[0] or 0
    return Proof(
        f"caches made without unreadable images: {skipped} of {len(records.caches)}; rows without "
        f"a score: {unscored:,} over all runs",
        "attribute recipe.skipped_of of caches; SELECT sum(n_unscored) FROM runs",
    )


def _data_use(records: Records) -> Proof | None:
    splits = records.listed("SELECT DISTINCT split FROM predictions ORDER BY 1")
    used = records.listed("SELECT DISTINCT rows_used FROM runs ORDER BY 1")
    if not splits:
        return None
    return Proof(
        f"rows by {used}; evaluated on {splits}; groups are kept whole by every split",
        "SELECT DISTINCT rows_used FROM runs; SELECT DISTINCT split FROM predictions",
    )


def _model(records: Records) -> Proof | None:
    values = records.listed(
        "SELECT DISTINCT concat_ws(', ', backbone, head, calibrator) FROM runs ORDER BY 1"
    )
    return Proof(values, "SELECT DISTINCT backbone, head, calibrator FROM runs") if values else None


def _slices(records: Records) -> Proof | None:
    names = records.listed(
        "SELECT DISTINCT slice_name FROM metrics WHERE slice_name IS NOT NULL ORDER BY 1"
    )
    if not names:
        return None
    n = records.one("SELECT count(*) FROM metrics WHERE slice_name IS NOT NULL")[0]
    return Proof(
        f"figures by {names} ({n:,})", "SELECT * FROM metrics WHERE slice_name IS NOT NULL"
    )


def _gaps(records: Records) -> Proof | None:
    row = records.one(
        "SELECT slice_name, max(value) - min(value) AS gap FROM metrics WHERE slice_value IS NOT "
        "NULL AND metric = 'accuracy' AND is_final GROUP BY run, split, stage, slice_name "
        "ORDER BY gap DESC LIMIT 1"
    )
    if not row:
        return None
    return Proof(
        f"largest gap of accuracy: {row[1]:.3f} over {row[0]}",
        "SELECT slice_name, max(value) - min(value) FROM metrics WHERE metric = 'accuracy'",
    )


def _measures(records: Records) -> Proof | None:
    values = records.listed(f"SELECT DISTINCT metric FROM metrics WHERE {_FINAL} ORDER BY 1", 20)
    return Proof(values, "SELECT DISTINCT metric FROM metrics WHERE is_final") if values else None


def _performance(records: Records) -> Proof | None:
    rows = records.one(
        f"""SELECT count(*), avg(value) FILTER (metric = 'accuracy'),
        avg(value) FILTER (metric = 'macro_f1'), avg(value) FILTER (metric = 'ece')
        FROM metrics WHERE {_FINAL} AND split IN ('test', 'out_of_fold')"""
    )
    if not rows or not rows[0]:
        return None
    said = ", ".join(
        f"{name} {value:.4f}"
        for name, value in zip(("accuracy", "macro_f1", "ece"), rows[1:], strict=True)
        if value is not None
    )
    return Proof(
        f"mean over all runs: {said}; each run and arm in the view final_test",
        "SELECT * FROM metrics WHERE is_final AND split = 'test'",
    )


def _calibration(records: Records) -> Proof | None:
    row = records.one(
        f"""SELECT avg(value) FILTER (stage = 'uncalibrated'),
        avg(value) FILTER (stage = 'calibrated') FROM metrics
        WHERE {_FINAL} AND metric = 'ece' AND split IN ('test', 'out_of_fold')"""
    )
    if not row or row[0] is None:
        return None
    after = "not calibrated" if row[1] is None else f"{row[1]:.4f} after"
    calibrator = records.listed("SELECT DISTINCT calibrator FROM runs ORDER BY 1") or "none"
    return Proof(
        f"ECE {row[0]:.4f} before, {after}; calibrator {calibrator}",
        "SELECT stage, avg(value) FROM metrics WHERE metric = 'ece' GROUP BY stage",
    )


def _imbalance(records: Records) -> Proof | None:
    counts = records.listed(
        "SELECT concat(label, ' ', count(DISTINCT sample_id)) FROM predictions WHERE split IN "
        "('test', 'out_of_fold') AND label IS NOT NULL GROUP BY label ORDER BY label",
        20,
    )
    weights = records.listed("SELECT DISTINCT coalesce(row_weights, 'none') FROM runs ORDER BY 1")
    if not counts:
        return None
    return Proof(
        f"row weights: {weights}; evaluated rows by class: {counts}",
        "SELECT DISTINCT row_weights FROM runs; SELECT label, count(*) FROM predictions",
    )


def _output(records: Records) -> Proof | None:
    row = records.one("SELECT classes FROM runs WHERE classes IS NOT NULL LIMIT 1")
    if not row:
        return None
    return Proof(
        f"a probability of each of {', '.join(json.loads(row[0]))}; the predicted class is the "
        "most probable",
        "SELECT classes FROM runs; predictions.probabilities",
    )


def _apart(records: Records) -> Proof | None:
    exposures = records.listed("SELECT DISTINCT exposure FROM runs ORDER BY 1")
    n_leaky, n = records.one("SELECT count(*) FILTER (leaky), count(*) FROM runs")
    outside = records.listed(
        "SELECT DISTINCT p.eval_dataset FROM predictions p JOIN runs c ON p.run = c.key "
        "WHERE p.eval_dataset <> c.dataset ORDER BY 1"
    )
    return Proof(
        f"what the backbone saw: {exposures}; {n_leaky} of {n} runs leaky; external sets: "
        f"{outside or 'none'}",
        "SELECT DISTINCT exposure, leaky FROM runs; predictions.eval_dataset",
    )


def _no_leaks(records: Records) -> Proof | None:
    n_leaky, n_sample, n = records.one(
        "SELECT count(*) FILTER (leaky), count(*) FILTER (in_sample), count(*) FROM runs"
    )
    return Proof(
        f"{n_leaky} of {n} runs leaky, {n_sample} scored in-sample",
        "SELECT count(*) FILTER (leaky), count(*) FILTER (in_sample) FROM runs",
    )


def _external(records: Records) -> Proof | None:
    names = records.listed(
        "SELECT DISTINCT p.eval_dataset FROM predictions p JOIN runs c ON p.run = c.key "
        "WHERE p.eval_dataset <> c.dataset ORDER BY 1"
    )
    return Proof(names, "predictions.eval_dataset beside runs.dataset") if names else None


def _flow(records: Records) -> Proof | None:
    values = records.listed(
        "SELECT concat(split, ' ', count(DISTINCT sample_id), ' rows, ', count(DISTINCT group_id), "
        "' groups') FROM predictions GROUP BY split ORDER BY split"
    )
    low = records.one("SELECT max(n_train) FROM runs")[0]
    return Proof(f"train {low:,} rows; {values}", "predictions by split") if values else None


def _specification(records: Records) -> Proof | None:
    for path, own in records.caches.items():
        beside = Path(path).with_suffix(".safetensors")
        there = f"the network lies at {beside}" if beside.is_file() else "its network is not beside"
        if own["weights_digest"]:
            return Proof(
                f"weights digest {own['weights_digest']}; {there}", f"attributes of {path}"
            )
    return None


def _versions(records: Records) -> Proof | None:
    row = records.one("SELECT versions FROM runs WHERE versions IS NOT NULL LIMIT 1")
    return Proof(str(row[0]), "SELECT versions FROM runs") if row and row[0] else None


def _updating(records: Records) -> Proof | str | None:
    kinds = records.listed("SELECT DISTINCT refit FROM runs ORDER BY 1")
    return Proof(f"refitted: {kinds}", "SELECT DISTINCT refit FROM runs") if kinds else None


def _limits(records: Records) -> Proof | None:
    units, unknown, n = records.one(
        "SELECT count(DISTINCT backbone_seed), count(*) FILTER (exposure = 'unknown'), count(*) "
        "FROM runs"
    )
    return Proof(
        f"{units} networks; {unknown} of {n} runs of unknown exposure; external validation: "
        f"{'see 23b' if _external(records) else 'none'}",
        "SELECT count(DISTINCT backbone_seed) FROM runs",
    )


def _labels(records: Records) -> Proof | None:
    noise = records.listed("SELECT DISTINCT noise FROM runs ORDER BY 1")
    classes = _output(records)
    if classes is None:
        return None
    return Proof(
        f"classes as listed in 15; label noise: {noise}; clean validation labels: "
        f"{records.one('SELECT max(n_clean_validation) FROM runs')[0]}",
        "SELECT DISTINCT classes, noise FROM runs",
    )


def _units(records: Records) -> Proof | None:
    networks, draws = records.one(
        "SELECT count(DISTINCT backbone_seed), count(DISTINCT draw_seed) FROM runs"
    )
    floor = records.one("SELECT min(sign_flip_floor) FROM paired WHERE sign_flip_floor IS NOT NULL")
    said = f"{counted(networks, 'network')}, {counted(draws, 'draw')}"
    if floor and floor[0] is not None:
        said += f"; the smallest p that they can reach is {floor[0]:.3g}"
    return Proof(said, "SELECT count(DISTINCT backbone_seed) FROM runs; paired.sign_flip_floor")


def _pairs(records: Records) -> Proof | None:
    n = records.one("SELECT count(*) FROM paired WHERE class_name IS NULL AND slice_name IS NULL")[
        0
    ]
    return Proof(f"{n:,} paired differences", "SELECT * FROM paired") if n else None


def _differs(records: Records) -> Proof | None:
    values = records.listed("SELECT DISTINCT differs FROM paired WHERE differs <> '' ORDER BY 1")
    n = records.one("SELECT count(*) FROM paired")[0]
    return (
        Proof(f"settings that differ in a pair: {values or 'the arm alone'}", "paired.differs")
        if n
        else None
    )


def _budget(records: Records) -> Proof | None:
    row = records.one("SELECT max(n_bought), max(n_trusted), max(n_clean_validation) FROM runs")
    if row[0] is None:
        return None
    return Proof(
        f"at most {row[0]:,} labels bought, {row[1] or 0:,} trusted from the start, "
        f"{row[2] or 0:,} clean validation labels",
        "SELECT max(n_bought), max(n_trusted), max(n_clean_validation) FROM runs",
    )


def _rows_apart(records: Records) -> Proof | None:
    same, n = records.one(
        "SELECT count(*) FILTER (selection_digest = calibration_digest), count(*) FROM runs"
    )
    return Proof(
        f"{same} of {n} runs chose settings and fitted the calibrator on the same validation rows",
        "SELECT count(*) FILTER (selection_digest = calibration_digest) FROM runs",
    )


def _of_document(key: str, say: Callable[[dict[str, Any]], str]) -> Find:
    def find(records: Records) -> Proof | None:
        found = records.document(key)
        if found is None:
            return None
        path, own = found
        return Proof(say(own), str(path))

    return find


def _sanity(records: Records) -> Proof | None:
    for path, own in records.documents:
        for entry in own.get("list", []):
            if isinstance(entry, dict) and "depends_on_weights" in entry:
                return Proof(str(entry["verdict"]), str(path))
    return None


def _operating(records: Records) -> Proof | None:
    for path, own in records.documents:
        for gate in own.get("gates", []):
            if str(gate.get("figure", "")).startswith(("sensitivity", "recall", "specificity")):
                return Proof(f"{gate['figure']} = {gate['value']:.4f}: {gate['gate']}", str(path))
    return None


def _robustness(records: Records) -> Proof | None:
    views = records.listed(
        "SELECT DISTINCT eval_dataset FROM predictions WHERE eval_dataset LIKE '%@%' ORDER BY 1"
    )
    return Proof(views, "predictions of views, eval_dataset DATA@VIEW") if views else None


def _abstention(records: Records) -> Proof | None:
    row = records.one(
        f"SELECT avg(value) FROM metrics WHERE {_FINAL} AND metric = 'augrc' "
        "AND split IN ('test', 'out_of_fold')"
    )
    if not row or row[0] is None:
        return None
    return Proof(
        f"AUGRC {row[0]:.4f}, mean over runs; curves in the view selective",
        "SELECT avg(value) FROM metrics WHERE metric = 'augrc'",
    )


_TRIPOD = (
    _Asked("1", "Title: the model, its target population and outcome"),
    _Asked("2", "Abstract by TRIPOD+AI for Abstracts"),
    _Asked("3a", "Background: context, rationale, existing models"),
    _Asked("3b", "Target population and intended purpose"),
    _Asked("3c", "Known health inequalities between groups"),
    _Asked("4", "Objectives: development or evaluation", _column("recipe", "recipes run")),
    _Asked("5a", "Data: sources of development and evaluation", _dataset),
    _Asked("5b", "Data: dates of collection"),
    _Asked("6a", "Participants: setting and centres"),
    _Asked("6b", "Participants: eligibility"),
    _Asked("6c", "Participants: treatments received"),
    _Asked("7", "Data preparation, equal over groups", _preparation),
    _Asked("8a", "Outcome and how it was determined", _labels),
    _Asked("8b", "Outcome assessors and their qualification"),
    _Asked("8c", "Blinding of outcome assessment"),
    _Asked("9a", "Predictors and their choice", _features),
    _Asked("9b", "Predictors: how and when measured"),
    _Asked("9c", "Predictor assessors"),
    _Asked("10", "Sample size", _sample_size),
    _Asked("11", "Missing data", _missing),
    _Asked("12a", "How data were used, and any partition", _data_use),
    _Asked("12b", "Handling of predictors in the analysis", _preparation),
    _Asked("12c", "Type of model, building and internal validation", _model),
    _Asked("12d", "Heterogeneity between clusters", _slices),
    _Asked("12e", "Measures of performance", _measures),
    _Asked("12f", "Updating and recalibration", _calibration),
    _Asked("12g", "How predictions were calculated for evaluation", _output),
    _Asked("13", "Class imbalance", _imbalance),
    _Asked("14", "Fairness: approaches to it", _gaps),
    _Asked("15", "Model output, and thresholds", _output),
    _Asked("16", "Differences of training and evaluation data", _apart),
    _Asked("17", "Ethical approval"),
    _Asked("18a", "Funding"),
    _Asked("18b", "Conflicts of interest"),
    _Asked("18c", "Protocol"),
    _Asked("18d", "Registration"),
    _Asked("18e", "Data sharing"),
    _Asked("18f", "Code sharing: software and versions", _versions),
    _Asked("19", "Patient and public involvement"),
    _Asked("20a", "Flow of participants", _flow),
    _Asked("20b", "Characteristics by setting, missing data"),
    _Asked("20c", "Comparison of development and evaluation data", _apart),
    _Asked("21", "Participants and outcomes in each analysis", _sample_size),
    _Asked("22", "The full model, for predictions in new people", _specification),
    _Asked("23a", "Performance, also of key groups", _performance),
    _Asked("23b", "Heterogeneity between settings", _external),
    _Asked("24", "Results of updating", _updating),
    _Asked("25", "Interpretation, fairness included"),
    _Asked("26", "Limitations", _limits),
    _Asked("27a", "Usability: poor or missing input"),
    _Asked("27b", "Usability: users and their expertise"),
    _Asked("27c", "Next steps of research"),
)

_CLAIM = (
    _Asked("1", "The claim, in one sentence"),
    _Asked("2", "Written before the runs: hypothesis and primary figure"),
    _Asked("3", "Arms were compared in pairs on the same rows", _pairs),
    _Asked("4", "Settings in which the two halves of a pair differ", _differs),
    _Asked("5", "What was drawn independently, and the smallest p it can reach", _units),
    _Asked("6", "All labels are counted: bought, trusted, validation", _budget),
    _Asked("7", "No leaks and no in-sample scores", _no_leaks),
    _Asked("8", "Settings and calibration: which validation rows", _rows_apart),
    _Asked("9", "Performance of every arm", _performance),
    _Asked("10", "External data", _external),
    _Asked("11", "Groups of patients", _slices),
    _Asked("12", "Software, versions", _versions),
)

_DEPLOYMENT = (
    _Asked("1", "Intended use and users"),
    _Asked("2", "Data and consent", None),
    _Asked("3", "Data set and its digests", _dataset),
    _Asked("4", "Split, and leaks between splits", _no_leaks),
    _Asked("5", "Operating point: realised sensitivity and specificity", _operating),
    _Asked("6", "Calibration", _calibration),
    _Asked("7", "Robustness by condition", _robustness),
    _Asked("8", "Slices and gaps", _gaps),
    _Asked("9", "Uncertainty and abstention", _abstention),
    _Asked("10", "Explanations and their sanity check", _sanity),
    _Asked(
        "11",
        "Known failures with mitigation and residual risk",
        _of_document(
            "cases",
            lambda own: (
                f"{own.get('n_errors')} errors of {own.get('n_rows')} rows audited, "
                f"{len(own['cases'])} cases with cause, mitigation and residual risk"
            ),
        ),
    ),
    _Asked(
        "12",
        "Monitoring and gates",
        _of_document(
            "gates",
            lambda own: f"{len(own['gates'])} gates, {'passed' if own.get('passed') else 'failed'}",
        ),
    ),
    _Asked("13", "Roll-back: the version to go back to"),
    _Asked("14", "Versions of model and software", _specification),
    _Asked("15", "Software versions", _versions),
    _Asked("16", "External validation", _external),
)

CHECKLISTS: dict[str, tuple[str, tuple[_Asked, ...]]] = {
    "tripod-ai": ("TRIPOD+AI (Collins et al. 2024), filled from records", _TRIPOD),
    "claim": ("What a claim of an improvement rests on", _CLAIM),
    "deployment": ("Before a deployment", _DEPLOYMENT),
}


def _reproduction(records: Records) -> dict[str, Any]:
    """Seeds, versions, recipes, digests and device, as far as records hold them."""
    seeds, draws = records.one(
        "SELECT list(DISTINCT backbone_seed ORDER BY backbone_seed), "
        "list(DISTINCT draw_seed ORDER BY draw_seed) FROM runs"
    )
    versions = _versions(records)
    devices = {own["versions"].get("device", "") for own in records.caches.values()} - {""}
    return {
        "backbone_seeds": seeds,
        "draw_seeds": draws,
        "recipes": records.listed("SELECT DISTINCT recipe FROM runs ORDER BY 1"),
        "numerics": records.listed("SELECT DISTINCT results_version::VARCHAR FROM runs"),
        "versions": versions.value if versions else None,
        "cache_digests": records.listed("SELECT DISTINCT cache_digest FROM runs ORDER BY 1"),
        "caches_read": {
            path: {
                "content_digest": own["content_digest"],
                "weights_digest": own["weights_digest"],
                "precision": own["precision"],
                "versions": own["versions"],
                "created": own["created"],
            }
            for path, own in records.caches.items()
        },
        "device": ", ".join(sorted(devices)) or "not recorded",
    }


def _statements(path: Path | None, name: str, numbers: list[str]) -> dict[str, str]:
    if path is None:
        return {}
    try:
        own = tomllib.loads(Path(path).read_text("utf-8")).get(name, {})
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as TOML: {error}.", path=path) from error
    unknown = [number for number in own if number not in numbers]
    if unknown:
        raise InputError(
            f"{path}: {unknown[0]!r} is no item of {name}; there are {', '.join(numbers)}.",
            path=path,
            found=unknown[0],
        )
    return {number: str(text) for number, text in own.items()}


def _document(path: Path) -> tuple[Path, dict[str, Any]]:
    try:
        found = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}.", path=path) from error
    return Path(path), found if isinstance(found, dict) else {"list": found}


def _whole(number: str) -> str:
    return number.rstrip("abcdefg")
