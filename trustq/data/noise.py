"""Label noise of training labels: drawn from a named process, by a seed of its own."""

import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from trustq.core import columns as tables
from trustq.core.digest import digest_array, digest_bytes, digest_json
from trustq.core.generators import generator
from trustq.core.label_sheets import read_sheet
from trustq.core.plugins import Plugin, find_plugin, plugin_names
from trustq.core.sample_ids import find_ids
from trustq.errors import InputError

FLIP_SPREAD = 0.1  # of a row's own flip rate about the asked one, as in Xia et al.'s code


@dataclass(frozen=True)
class Noise:
    """A label noise process: its text form and row-stochastic matrix (true class to observed)."""

    spec: str
    matrix: np.ndarray  # (k, k)


def parse_noise(spec: str, *, classes: tuple[str, ...]) -> Noise:
    """Noise from its text form: none, symmetric:RATE, pair:RATE, matrix:FILE or a packaged name.

    `pair` mistakes each class for the next one, the last for the first (Han et al. 2018). A matrix
    file is TOML with `classes` and `matrix`, or CSV with the true class in its first
    column and one column per observed class; rows sum to 1. Raises `TrustqError` for another form,
    a rate outside [0, 1], or a matrix of other classes, and for noise that has no matrix, for it
    depends on the row (`instance:RATE`, `file:FILE`; `observe_labels` draws these too).

    >>> parse_noise("symmetric:0.2", classes=("a", "b", "c")).matrix[0].round(2).tolist()
    [0.8, 0.1, 0.1]
    """
    kind, _, argument = spec.partition(":")
    k = len(classes)
    if spec == "none":
        return Noise(spec, np.eye(k))
    if depends_on_row(spec) and (argument or kind not in BY_ROW):
        raise InputError(
            f"Noise {spec!r} depends on each row and has no matrix; only `trustq repair` draws it, "
            "on a cache."
        )
    if kind == "symmetric":
        rate = rate_of_noise(spec, k)
        return Noise(spec, (1 - rate) * np.eye(k) + rate * (1 - np.eye(k)) / (k - 1))
    if kind == "pair":
        rate = rate_of_noise(spec, k)
        return Noise(spec, (1 - rate) * np.eye(k) + rate * np.roll(np.eye(k), 1, axis=1))
    if kind == "matrix" and argument:
        return Noise(spec, _matrix_of_file(Path(argument), classes))
    names = packaged_noise()
    if spec in names:
        text = resources.files("trustq.recipes").joinpath(f"noise/{spec}.toml").read_text("utf-8")
        return Noise(spec, _matrix_of_toml(text, classes, source=f"packaged noise {spec}"))
    raise InputError(
        f"Unknown label noise {spec!r}; expected none, symmetric:RATE, pair:RATE, instance:RATE, "
        "matrix:FILE, file:FILE or one of the packaged: "
        f"{', '.join((*names, *plugin_names('noise')))}."
    )


def packaged_noise() -> list[str]:
    """Names of the packaged noise matrices."""
    folder = resources.files("trustq.recipes").joinpath("noise")
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def draw_noise(
    labels: np.ndarray, *, noise: Noise, seed: int, groups: np.ndarray | None = None
) -> np.ndarray:
    """Observed labels, (n,), drawn row by row from the matrix row of the true label.

    The same labels in the same order and the same seed give the same draw in every command. With
    `groups`, (n,), rows of one group are drawn together: those of one class get one label.

    >>> noise = parse_noise("symmetric:1.0", classes=("a", "b"))
    >>> draw_noise(np.array([0, 1]), noise=noise, seed=0).tolist()
    [1, 0]
    """
    uniform = _uniform(generator(seed, "noise"), len(labels), groups)
    cumulative = noise.matrix.cumsum(axis=1)[labels]
    # The last column may end a rounding error below 1.
    cumulative[:, -1] = 1.0
    observed = (uniform[:, None] >= cumulative).sum(axis=1)
    return np.asarray(observed.astype(labels.dtype))


BY_ROW = ("instance", "file")
MATRICES = ("none", "symmetric", "pair", "matrix")


def depends_on_row(spec: str) -> bool:
    """Whether a noise has no matrix, for it depends on the row: `instance`, `file`, a plug-in's.

    >>> depends_on_row("instance:0.2"), depends_on_row("symmetric:0.2")
    (True, False)
    """
    return spec.partition(":")[0] in BY_ROW or noise_plugin(spec) is not None


def noise_plugin(spec: str) -> Plugin | None:
    """The plug-in that draws a noise, `NAME` or `NAME:ARGUMENT`; None for trustq's own."""
    kind = spec.partition(":")[0]
    if kind in (*BY_ROW, *MATRICES) or spec in packaged_noise():
        return None
    return find_plugin("noise", kind)


@dataclass(frozen=True)
class ObservedLabels:
    """Labels as they were observed, and a digest of the process that they came from."""

    labels: np.ndarray  # (n,) class indices
    process: str


def observe_labels(
    spec: str,
    labels: np.ndarray,
    *,
    classes: tuple[str, ...],
    seed: int,
    features: Any,
    sample_ids: np.ndarray,
    groups: np.ndarray | None = None,
) -> ObservedLabels:
    """Observed labels of any noise: what `parse_noise` knows, `instance:RATE` or `file:FILE`.

    `instance` is the part-dependent noise of Xia et al. (2020) as commonly coded: each row flips at
    a rate of its own about RATE, to a class that a random projection of its `features`, (n, d) and
    standardised, favours. A file (CSV or Parquet: sample_id, and observed or label) holds real
    labels. Raises `TrustqError` for a bad spec, or a file that lacks rows or has two labels of one.

    >>> rows = {"features": np.eye(4), "sample_ids": np.array(list("wxyz"))}
    >>> two = ("a", "b")
    >>> observe_labels("instance:1", np.zeros(4, int), classes=two, seed=0, **rows).labels.tolist()
    [1, 1, 1, 1]
    """
    kind, _, argument = spec.partition(":")
    if kind == "instance":
        features = np.asarray(features)
        rate = rate_of_noise(spec, len(classes))
        observed = _draw_by_instance(labels, features, rate, len(classes), seed, groups)
        return ObservedLabels(observed, digest_json(["instance", rate, digest_array(features)]))
    if kind == "file" and argument:
        if groups is not None:
            raise InputError(f"Noise {spec!r} is given row by row; it is not drawn by group.")
        found = read_sheet(Path(argument), classes=classes, columns=("observed", "label"))
        own: list[list[int]] = [[] for _ in sample_ids]
        rows = find_ids(list(found), sample_ids, source=argument)
        for row, said in zip(rows, found.values(), strict=True):
            if row is not None:
                own[row] += said
        bad = [sample for sample, all_ in zip(sample_ids, own, strict=True) if len(all_) != 1]
        if bad:
            raise InputError(
                f"{argument}: {len(bad)} of the {len(own)} training rows have no label or several, "
                f"first {bad[0]}; expected one observed label each."
            )
        observed = np.array(own, dtype=labels.dtype)[:, 0]
        return ObservedLabels(observed, digest_array(observed))
    plugin = noise_plugin(spec)
    if plugin is not None:
        return _of_plugin(
            plugin,
            labels,
            argument=argument,
            classes=classes,
            features=features,
            groups=groups,
            rng=generator(seed, "noise"),
        )
    noise = parse_noise(spec, classes=classes)
    observed = draw_noise(labels, noise=noise, seed=seed, groups=groups)
    return ObservedLabels(observed, digest_array(noise.matrix))


def _of_plugin(
    plugin: Plugin,
    labels: np.ndarray,
    *,
    argument: str,
    classes: tuple[str, ...],
    features: np.ndarray,
    groups: np.ndarray | None,
    rng: np.random.Generator,
) -> ObservedLabels:
    drawn = np.asarray(
        plugin.load()(
            labels.copy(),
            argument=argument,
            classes=classes,
            features=np.array(features),
            groups=None if groups is None else groups.copy(),
            rng=rng,
        )
    )
    plugin.require(
        drawn.shape == labels.shape
        and drawn.dtype.kind in "iu"
        and bool(((drawn >= 0) & (drawn < len(classes))).all()),
        f"class indices of shape {labels.shape} below {len(classes)}",
    )
    return ObservedLabels(
        drawn.astype(labels.dtype), digest_json([plugin.kind, plugin.name, plugin.identity])
    )


def _draw_by_instance(
    labels: np.ndarray,
    features: np.ndarray,
    rate: float,
    k: int,
    seed: int,
    groups: np.ndarray | None,
) -> np.ndarray:
    # Here, for a machine that extracts has no scipy.
    from scipy.special import ndtr, ndtri

    rng = generator(seed, "noise")
    lowest, highest = ndtr([-rate / FLIP_SPREAD, (1 - rate) / FLIP_SPREAD])
    own_rate = rate + FLIP_SPREAD * ndtri(
        lowest + _uniform(rng, len(labels), groups) * (highest - lowest)
    )
    if rate in (0.0, 1.0):
        own_rate = np.full(len(labels), rate)  # no spread about what is certain
    uniform = _uniform(rng, len(labels), groups)
    if groups is not None:
        _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        sums = np.zeros((len(sizes), features.shape[1]))
        np.add.at(sums, group, features)
        features = (sums / sizes[:, None])[group]
    observed = labels.copy()
    for c in range(k):
        towards = rng.standard_normal((features.shape[1], k))  # drawn for absent classes too
        rows = np.flatnonzero(labels == c)
        favour = features[rows].astype(np.float64) @ towards
        favour[:, c] = -np.inf
        shares = np.exp(favour - favour.max(axis=1, keepdims=True, initial=-np.inf))
        shares *= (own_rate[rows] / shares.sum(axis=1))[:, None]
        shares[:, c] = 1 - own_rate[rows]
        cumulative = shares.cumsum(axis=1)
        cumulative[:, -1] = 1.0
        observed[rows] = (uniform[rows, None] >= cumulative).sum(axis=1)
    return observed


def _uniform(rng: np.random.Generator, n: int, groups: np.ndarray | None) -> np.ndarray:
    if groups is None:
        return rng.random(n)
    group = np.unique(groups, return_inverse=True)[1]
    return rng.random(int(group.max(initial=-1)) + 1)[group]


def rate_of_noise(spec: str, k: int) -> float:
    """The rate in `symmetric:RATE` and its like; errors: none from 0 to 1, one class."""
    kind, _, argument = spec.partition(":")
    try:
        rate = float(argument)
    except ValueError:
        rate = -1.0
    if not 0 <= rate <= 1:
        raise InputError(f"Noise {spec!r}: expected a rate from 0 to 1, e.g. {kind}:0.2.")
    if k < 2:
        raise InputError(f"Noise {spec!r} needs two classes or more; there is one.")
    return rate


@dataclass(frozen=True)
class Start:
    """The labels that an experiment starts from, over its training rows."""

    observed: np.ndarray  # (n,) class indices, trusted rows corrected
    trusted: np.ndarray  # (n,) of bool
    rate: float  # share of labels that the noise changed, before the trusted start

    @property
    def digest(self) -> str:
        """Digest of the draw: equal where two experiments start from the very same labels."""
        observed = self.observed.astype(np.int64)
        return digest_bytes((digest_array(observed) + digest_array(self.trusted)).encode())


def draw_start(
    labels: np.ndarray,
    *,
    noise: Noise,
    trusted: float,
    seed: int,
    strata: str = "observed",
) -> Start:
    """Draw noise, then a trusted start: a share of rows, by image, whose true label is known.

    The trusted rows are stratified by observed labels, since true ones are not known beforehand
    (`strata="clean"` reproduces studies that used them). Raises `TrustqError` for a share outside
    [0, 1).
    """
    observed = draw_noise(labels, noise=noise, seed=seed)
    return trust_some(labels, observed, trusted=trusted, seed=seed, strata=strata)


def trust_some(
    labels: np.ndarray, observed: np.ndarray, *, trusted: float, seed: int, strata: str = "observed"
) -> Start:
    """Correct a share of observed labels, drawn by image as `draw_start` does.

    >>> trust_some(np.array([0, 1]), np.array([1, 1]), trusted=0.0, seed=0).rate
    0.5
    """
    if not 0 <= trusted < 1:
        raise InputError(f"The trusted share is {trusted}, expected at least 0 and below 1.")
    rate = float((observed != labels).mean()) if len(labels) else 0.0
    chosen = _stratified_rows(
        labels if strata == "clean" else observed, round(trusted * len(labels)), seed=seed
    )
    return Start(np.where(chosen, labels, observed), chosen, rate)


def _stratified_rows(strata: np.ndarray, n_rows: int, *, seed: int) -> np.ndarray:
    rng = generator(seed, "trusted")
    names, counts = np.unique(strata, return_counts=True)
    share = n_rows * counts / max(len(strata), 1)
    take = np.floor(share).astype(int)
    # Largest remainders, so that the parts sum to the whole.
    take[np.argsort(-(share - take), kind="stable")[: n_rows - take.sum()]] += 1
    chosen = np.zeros(len(strata), dtype=bool)
    for name, n in zip(names, take, strict=True):
        chosen[rng.permutation(np.flatnonzero(strata == name))[:n]] = True
    return chosen


def _matrix_of_file(path: Path, classes: tuple[str, ...]) -> np.ndarray:
    if path.suffix == ".toml":
        if not path.is_file():
            raise InputError(f"{path}: no such noise matrix file.", path=path)
        return _matrix_of_toml(_text(path), classes, source=str(path))
    columns = tables.read_table(path)
    first, *observed = columns
    try:
        rows = [[float(columns[name][i]) for name in observed] for i in range(len(columns[first]))]
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: a noise matrix holds numbers; {error}.", path=path) from error
    true = columns[first].tolist()
    if true != observed:
        raise InputError(
            f"{path}: the rows are {', '.join(map(str, true))}, the columns {', '.join(observed)}; "
            "a noise matrix has the same classes in the same order in both.",
            path=path,
        )
    return _checked_matrix(rows, true, classes, source=str(path))


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: this is not TOML; it is no UTF-8 text.", path=path) from error


def _matrix_of_toml(text: str, classes: tuple[str, ...], *, source: str) -> np.ndarray:
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source}: this is not TOML: {error}.", path=source) from error
    if set(values) != {"classes", "matrix"}:
        raise InputError(f"{source}: a noise matrix has the keys classes and matrix.", path=source)
    own = values["classes"]
    if not isinstance(own, list) or not all(isinstance(name, str) for name in own):
        raise InputError(f"{source}: classes is {own!r}, expected a list of names.", path=source)
    return _checked_matrix(values["matrix"], values["classes"], classes, source=source)


def _checked_matrix(
    rows: Any, own: list[str], classes: tuple[str, ...], *, source: str
) -> np.ndarray:
    if sorted(own) != sorted(classes):
        raise InputError(
            f"{source} is for the classes {', '.join(own)}; these data have {', '.join(classes)}.",
            path=source,
        )
    try:
        matrix = np.array(rows, dtype=float)
    except (TypeError, ValueError, OverflowError):
        matrix = np.empty(0)
    if matrix.shape != (len(own), len(own)):
        raise InputError(f"{source}: expected {len(own)} rows of {len(own)} numbers.", path=source)
    strange = ~((matrix >= 0) & (matrix <= 1)).all(axis=1)  # NaN too
    if strange.any():
        raise InputError(
            f"{source}: rows must be probabilities that sum to 1; row {own[strange.argmax()]} "
            "holds a number outside 0 to 1.",
            path=source,
        )
    if np.abs(matrix.sum(axis=1) - 1).max() > 1e-6:
        worst = int(np.abs(matrix.sum(axis=1) - 1).argmax())
        raise InputError(
            f"{source}: rows must be probabilities that sum to 1; row {own[worst]} sums to "
            f"{matrix[worst].sum():.6g}. Rows are true classes, columns observed ones.",
            path=source,
        )
    order = [own.index(name) for name in classes]
    return matrix[np.ix_(order, order)]
