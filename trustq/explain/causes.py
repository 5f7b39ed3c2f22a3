"""Why a prediction may be wrong, by written rules: what shows, what helps, what risk is left.

A rule fires on what is measured of an image and its map, not on whether the row is wrong, so each
is tested: does it fire on errors more often than on rows drawn at random?
"""

from dataclasses import dataclass

import numpy as np

from trustq.core.generators import generator

# Sobel's mean edge length is in grey levels per pixel here, an eighth of the raw filter's, whose
# usual threshold is 20.
LEAST_EDGES = 20 / 8
MOST_BRIGHTNESS = 0.70  # of mean grey, 0 to 1
LEAST_CONTRAST = 0.08  # standard deviation of grey, 0 to 1
LEAST_CENTRED = 0.85  # mean of the map in the centre over its mean
CENTRE = 0.5  # side of that centre, relative to the map's


@dataclass(frozen=True)
class Cause:
    """A rule: its name, what fires it, what helps, and the risk that remains."""

    name: str
    rule: str
    mitigation: str
    residual_risk: str


# In the order in which they are asked; the first that fires is the cause.
CAUSES = (
    Cause(
        "suspected label error",
        "the label audit lists the row",
        "Have the label checked by two readers, then retrain or re-evaluate.",
        "The network may be wrong and the label right: an audit's list holds both.",
    ),
    Cause(
        "blur",
        f"mean edge strength < {LEAST_EDGES:g} grey levels per pixel (raw Sobel < 20)",
        "Refuse blurred images when they are taken, or train with blurred views.",
        "Blur hides structure that no training brings back.",
    ),
    Cause(
        "photometric",
        f"mean brightness > {MOST_BRIGHTNESS:.2f} or standard deviation < {LEAST_CONTRAST:.2f}",
        "Check exposure when the image is taken; train with varied light.",
        "Unseen lights and devices stay untested.",
    ),
    Cause(
        "mislocated",
        f"mean of the map in the centre / mean of the map < {LEAST_CENTRED:.2f}",
        "Crop to the lesion, or train with crops and hidden borders; look at the panel.",
        "A map in the right place is no proof that the right thing was read there.",
    ),
    Cause(
        "boundary",
        "no other rule fires",
        "Abstain at this confidence, or collect more of the two classes.",
        "Near the boundary between classes some errors cannot be removed.",
    ),
)
NAMES = tuple(cause.name for cause in CAUSES)
BY_NAME = {cause.name: cause for cause in CAUSES}


@dataclass(frozen=True)
class Signs:
    """What the rules read of n rows; NaN where it is not known, which fires no rule."""

    edge_strength: np.ndarray  # grey levels per pixel
    brightness: np.ndarray  # 0 to 1
    contrast: np.ndarray  # 0 to 1
    centred: np.ndarray  # mean in the centre over mean of the map
    is_listed: np.ndarray | None  # by the label audit; None where there was none


@dataclass(frozen=True)
class RuleTest:
    """How often a rule fires on errors, and on as many rows drawn at random."""

    name: str
    n_fired: int
    n_errors: int
    expected: float  # mean of the shuffled control
    p_value: float  # share of shuffles in which it fires as often or more; one-sided


def centred_share(maps: np.ndarray) -> np.ndarray:
    """Mean of a map in its centre over its whole mean, (n,); NaN for a blank map.

    The centre is the middle half of each side, at least one place. 1 is a flat map, above 1 a
    centred one.

    >>> maps = np.zeros((1, 4, 4))
    >>> maps[0, 1:3, 1:3] = 1
    >>> centred_share(maps).tolist()
    [4.0]
    """
    positive = np.maximum(np.asarray(maps, dtype=np.float64), 0)
    height, width = maps.shape[1:]
    down, across = (max(1, round(CENTRE * side)) for side in (height, width))
    top, left = (height - down) // 2, (width - across) // 2
    centre = positive[:, top : top + down, left : left + across].mean(axis=(1, 2))
    whole = positive.mean(axis=(1, 2))
    return np.where(whole > 0, centre / np.where(whole > 0, whole, 1), np.nan)


def fired(signs: Signs) -> dict[str, np.ndarray]:
    """Which rows each rule but the last fires on, (n,) of flags, in the order of `CAUSES`.

    A rule without anything to read fires on no row.
    """
    n = len(signs.edge_strength)
    listed = np.zeros(n, dtype=bool) if signs.is_listed is None else signs.is_listed.astype(bool)
    with np.errstate(invalid="ignore"):
        return {
            "suspected label error": listed,
            "blur": signs.edge_strength < LEAST_EDGES,
            "photometric": (signs.brightness > MOST_BRIGHTNESS) | (signs.contrast < LEAST_CONTRAST),
            "mislocated": signs.centred < LEAST_CENTRED,
        }


def causes_of(signs: Signs) -> np.ndarray:
    """The cause of each row, (n,) of names: the first rule that fires, else boundary.

    >>> signs = Signs(np.array([1.0, 9.0]), np.array([0.5, 0.5]), np.array([0.2, 0.2]),
    ...     np.array([1.0, 1.0]), None)
    >>> causes_of(signs).tolist()
    ['blur', 'boundary']
    """
    names = np.full(len(signs.edge_strength), CAUSES[-1].name, dtype=object)
    for name, flags in reversed(fired(signs).items()):
        names[flags] = name
    return names


def rule_tests(
    signs: Signs, errors: np.ndarray, groups: np.ndarray, *, seed: int = 0, shuffles: int = 2000
) -> list[RuleTest]:
    """Whether each rule fires on errors more often than on rows drawn at random.

    In the control the marks of wrong rows are dealt out anew, so that a rule that fires on any
    image fires there as often; a group's rows keep together, within groups of one size. `errors` is
    (n,) of flags. The last entry is that any rule fires.
    """
    flags = fired(signs)
    flags["any rule"] = np.any(list(flags.values()), axis=0)
    names, matrix = list(flags), np.stack(list(flags.values())).astype(np.float64)
    errors = np.asarray(errors, dtype=bool)
    observed = matrix @ errors
    rng = generator(seed, "shuffled causes")
    blocks = _blocks(groups)
    drawn = np.empty((shuffles, len(names)))
    for i in range(shuffles):
        shuffled = np.empty_like(errors)
        for rows in blocks:  # (groups of one size, size)
            shuffled[rows] = errors[rows[rng.permutation(len(rows))]]
        drawn[i] = matrix @ shuffled
    reached = (drawn >= observed - 1e-9).sum(axis=0)
    return [
        RuleTest(
            name,
            int(observed[j]),
            int(errors.sum()),
            float(drawn[:, j].mean()),
            float((reached[j] + 1) / (shuffles + 1)),
        )
        for j, name in enumerate(names)
    ]


def _blocks(groups: np.ndarray) -> list[np.ndarray]:
    """Positions of rows, (groups, size), for each size of group."""
    codes = np.unique(groups, return_inverse=True)[1].ravel()
    order = np.argsort(codes, kind="stable")
    sizes = np.bincount(codes)
    members = np.split(order, np.cumsum(sizes)[:-1])
    return [
        np.stack([own for own in members if len(own) == size]) for size in np.unique(sizes).tolist()
    ]
