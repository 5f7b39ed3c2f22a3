"""What an experiment starts from: rows, observed labels, folds; refused where dishonest."""

from dataclasses import dataclass

import numpy as np

from trustq.digest import digest_array
from trustq.errors import TrustqError
from trustq.heads.out_of_fold import TrainingRows
from trustq.noise import Start, draw_start, parse_noise
from trustq.recipes import SweepRecipe
from trustq.splits import group_folds, split_by_group, thin_classes
from trustq.store import Cache

UNSEEN_SPLIT_SEED = 0  # `--rows unseen` re-splits once per cache, not once per draw


@dataclass(frozen=True)
class Experiment:
    """What every arm of one cache and draw seed starts from."""

    cache: Cache
    draw_seed: int
    training: TrainingRows
    labels: np.ndarray  # (n,) reference labels of the training rows
    start: Start
    noise: str  # as reported, e.g. "stored (symmetric:0.2)"
    noise_digest: str  # what of the noise changes numbers
    trusted: float  # share asked for
    leaky: bool
    validation: np.ndarray  # positions in the cache
    evaluation: dict[str, np.ndarray]  # split -> positions; empty when there is no held-out split
    center: np.ndarray  # (d,) of the training rows' features
    scale: np.ndarray  # (d,)
    features: np.ndarray  # (all rows, d), standardised
    notes: tuple[str, ...]

    @property
    def rows(self) -> np.ndarray:
        """Positions of the training rows in the cache."""
        return self.training.rows

    @property
    def sample_ids(self) -> np.ndarray:
        """Ids of the training rows."""
        return self.cache.sample_id[self.rows]

    @property
    def n_wrong(self) -> int:
        """Wrong labels at the start, after the trusted ones were corrected."""
        return int((self.start.observed != self.labels).sum())

    def standardise(self, features: np.ndarray) -> np.ndarray:
        """Other rows' features, (m, d), on the scale of the training rows, as float32."""
        return _standardised(features, self.center, self.scale)


def draw_experiment(
    cache: Cache, *, sweep: SweepRecipe, draw_seed: int, allow_leak: bool = False
) -> Experiment:
    """Choose rows, draw noise, trusted start and folds for one cache and seed.

    Raises `TrustqError` when the cache's exposure makes the noise dishonest (unless `allow_leak`),
    when stored labels are asked for and there are none, or when rows lack reference labels.
    """
    notes: list[str] = []
    split = _splits(cache, sweep, notes)
    rows = np.flatnonzero(split == "train")
    labels = cache.label[rows].astype(np.int64)
    if not len(rows):
        raise TrustqError(f"{cache.name} has no training rows to repair.")
    if (labels < 0).any():
        raise TrustqError(
            f"{cache.name}: {int((labels < 0).sum())} training rows have no reference label, so a "
            "repair of them cannot be simulated."
        )
    spec = _noise_spec(cache, rows, sweep, notes)
    start, noise, noise_digest, trusted = _start(cache, rows, labels, spec, sweep, draw_seed)
    leaky = _require_honest(cache, rows, spec, start.observed, allow_leak=allow_leak)
    if leaky:
        notes.append(
            "LEAKY: the backbone was trained on other labels of these rows (--allow-leak)."
        )
    if cache.exposure == "unknown":
        notes.append(
            "The exposure of this cache is unknown: whether its backbone saw these labels was not "
            "stated, so every figure may be optimistic."
        )
    groups = np.unique(cache.group_id[rows], return_inverse=True)[1]
    if cache.exposure == "unknown" and len(groups) == groups.max(initial=0) + 1:
        notes.append("Every row is its own group: relatives of a row may be in other folds.")
    fold = group_folds(start.observed, groups, n_folds=sweep.folds, seed=draw_seed)
    for c, n_groups in thin_classes(start.observed, groups, n_folds=sweep.folds).items():
        notes.append(f"Class {cache.classes[c]} has {n_groups} groups for {sweep.folds} folds.")
    validation = np.flatnonzero((split == "val") & (cache.label >= 0))
    evaluation = {
        name: found
        for name in ("val", "test", "external")
        if len(found := np.flatnonzero((split == name) & (cache.label >= 0)))
    }
    if not set(evaluation) & {"test", "external"}:
        notes.append("There are no test rows: figures are of out-of-fold predictions of all rows.")
    if not len(validation):
        notes.append(
            "There are no validation rows: calibrated figures are left out, never fitted on test."
        )
    center, scale = _center_and_scale(cache, rows)
    return Experiment(
        cache=cache,
        draw_seed=draw_seed,
        training=TrainingRows(cache, rows, groups, fold),
        labels=labels,
        start=start,
        noise=noise,
        noise_digest=noise_digest,
        trusted=trusted,
        leaky=leaky,
        validation=validation,
        evaluation=evaluation,
        center=center,
        scale=scale,
        features=_standardised(cache.features, center, scale),
        notes=tuple(notes),
    )


def _splits(cache: Cache, sweep: SweepRecipe, notes: list[str]) -> np.ndarray:
    if sweep.rows == "split":
        return cache.split
    # Groups of which the backbone saw no label are honest for any noise; they are split anew.
    unseen = np.flatnonzero(cache.honest_for_any_noise & (cache.label >= 0))
    if not len(unseen):
        raise TrustqError(
            f"{cache.name}: the backbone was trained on a label of every group, so no rows are "
            "unseen. Extract with fewer training rows, or use --noise stored."
        )
    split = np.full(len(cache), "", dtype="<U8")
    part = split_by_group(cache.label[unseen], cache.group_id[unseen], seed=UNSEEN_SPLIT_SEED)
    split[unseen] = np.array(["train", "val", "test"])[part]
    notes.append(f"{len(unseen)} of {len(cache)} rows are unseen and were split anew, 70/15/15.")
    return split


def _noise_spec(cache: Cache, rows: np.ndarray, sweep: SweepRecipe, notes: list[str]) -> str:
    if sweep.noise != "auto":
        return sweep.noise
    if (cache.observed[rows] >= 0).all() and (cache.observed[rows] != cache.label[rows]).any():
        return "stored"
    notes.append("No noise was stated and none is stored: simulated symmetric:0.2.")
    return "symmetric:0.2"


def _start(
    cache: Cache,
    rows: np.ndarray,
    labels: np.ndarray,
    spec: str,
    sweep: SweepRecipe,
    draw_seed: int,
) -> tuple[Start, str, str, float]:
    """Observed labels and trusted rows, with the noise's name, its digest and the trusted share."""
    share = _share(sweep.trusted)
    if spec != "stored":
        if sweep.trusted == "stored":
            raise TrustqError("--trusted stored goes with --noise stored: both are of one draw.")
        noise = parse_noise(spec, classes=cache.classes)
        start = draw_start(
            labels, noise=noise, trusted=share, seed=draw_seed, strata=sweep.trusted_strata
        )
        return start, spec, digest_array(noise.matrix), share
    observed = cache.observed[rows].astype(np.int64)
    if (observed < 0).any():
        raise TrustqError(
            f"{cache.name} stores no observed labels for {int((observed < 0).sum())} of its "
            f"{len(rows)} training rows. Choose a noise, e.g. --noise symmetric:0.2."
        )
    stored = cache.trusted[rows].copy()
    spec_of_cache = cache.noise.get("spec", "of the file")
    if sweep.trusted not in ("stored", "auto"):
        if stored.any():
            raise TrustqError(
                f"{cache.name} was trained with {int(stored.sum())} trusted labels; with --noise "
                "stored the trusted start is its own (--trusted stored)."
            )
        if not np.isclose(share, 0):
            drawn = draw_start(
                labels,
                noise=parse_noise("none", classes=cache.classes),
                trusted=share,
                seed=draw_seed,
            )
            stored = drawn.trusted
            observed[stored] = labels[stored]
    rate = float(cache.noise.get("rate", (observed != labels).mean()))
    start = Start(observed, stored, rate)
    share = share if share else float(cache.noise.get("trusted", 0.0))
    return start, f"stored ({spec_of_cache})", start.digest, share


def _share(trusted: str) -> float:
    if trusted in ("auto", "stored"):
        return 0.0
    try:
        return float(trusted)
    except ValueError:
        raise TrustqError(
            f"--trusted {trusted}: expected a share such as 0.10, or stored."
        ) from None


def _require_honest(
    cache: Cache, rows: np.ndarray, spec: str, observed: np.ndarray, *, allow_leak: bool
) -> bool:
    """Whether the labels differ from those the backbone was trained on; refused unless allowed."""
    tainted = ~cache.honest_for_any_noise[rows]
    if spec == "stored" or not tainted.any():
        return False
    saw = np.where(cache.observed[rows] >= 0, cache.observed[rows], cache.label[rows])
    if spec == "none" and np.array_equal(saw[tainted], observed[tainted]):
        return False  # the clean upper bound, on a backbone of the same clean labels
    if allow_leak:
        return True
    raise TrustqError(
        f"{cache.name} is {cache.exposure}: its backbone was trained on other labels of "
        f"{int(tainted.sum())} of the {len(rows)} training rows (or of their groups), so noise "
        f"{spec!r} put on them now would already be known to the features.\n"
        "Use its own noise (--noise stored), rows it never saw (--rows unseen), a frozen cache, or "
        "extract with this noise; --allow-leak runs it all the same and marks every row."
    )


def _center_and_scale(cache: Cache, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    bad = int((~np.isfinite(cache.features)).any(axis=1).sum())
    if bad:
        raise TrustqError(f"{cache.name}: features of {bad} rows hold NaN or infinite values.")
    # Of the training rows alone, without labels, and so shared by all folds.
    own = cache.features[rows].astype(np.float64)
    scale = own.std(axis=0)
    scale[scale < 1e-12] = 1.0  # a constant column carries nothing
    return own.mean(axis=0), scale


def _standardised(features: np.ndarray, center: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return ((features - center) / scale).astype(np.float32)
