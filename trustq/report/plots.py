"""Figures: what a repair gains per label bought, and what confidence is worth."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from trustq.core.atomic_files import replacing
from trustq.core.counts import counted
from trustq.core.safety import DISCLAIMER
from trustq.errors import InputError
from trustq.metrics.selective import max_probability, risk_coverage_curve
from trustq.results import connect

# Okabe and Ito's palette: told apart by the colour-blind; marks and dashes repeat the difference.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", "--", "-.", ":")  # for the arms after the first seven, and so on

_FEW = 4  # lines whose bands can lie over one another
# On a phone 4.8 inches become 360 points: 8.5 points of type are 9 there, and can be read.
_WIDTH, _HEIGHT, _LEGEND_LINE = 4.8, 3.6, 0.17  # inches
_SIZES = {"title": 9.5, "label": 9.0, "tick": 8.5, "legend": 8.5}
_LONG = 26  # letters of a name beside which there is no room for another

# The first few rows make a risk of anything from 0 to 1; the axis is scaled by what follows them.
_STEADY = 0.05

# Figures of one metric, read once for all pictures of some runs: to look through millions of rows
# takes longer than to draw.
_GATHERED = """
CREATE OR REPLACE TEMP TABLE drawn AS
SELECT c.key, c.arm, c.arm_title, c.score, c.budget, c.n_bought, c.backbone_seed, c.draw_seed,
    CASE WHEN c.origin_digest <> c.cache_digest THEN c.n_bought ELSE r.n_bought_total END AS bought,
    r.run IS NOT NULL AS is_round, m.split, m.is_final, m.value
FROM metrics m JOIN runs c ON c.key = m.run LEFT JOIN rounds r USING (run, round)
WHERE m.metric = ? AND m.split IN (SELECT unnest(?)) AND m.stage = 'uncalibrated'
  AND c.key IN (SELECT unnest(?))
  AND m.eval_dataset = c.dataset AND m.class_name IS NULL AND m.slice_name IS NULL
"""
_CURVES = """
SELECT arm, arm_title, bought, backbone_seed, draw_seed, value
FROM drawn WHERE is_round AND split = ? AND key IN (SELECT unnest(?))
ORDER BY ALL
"""
_PREDICTIONS = """
SELECT c.arm, c.arm_title, p.stage, p.predicted <> p.label AS wrong, p.probabilities
FROM predictions p JOIN runs c ON c.key = p.run
WHERE p.split = ? AND c.key IN (SELECT unnest(?)) AND p.eval_dataset = c.dataset
ORDER BY c.arm_title, p.stage, c.key, p.sample_id
"""


def repair_curve_figure(
    results: Path, keys: list[str], path: Path, *, metric: str = "accuracy", split: str = "test"
) -> None:
    """Draw a metric against labels bought: a line per arm, mean and 95 % interval over seeds.

    `keys` names cells; raises `TrustqError` when they hold no such figures.
    """
    with connect(results) as connection:
        gather_figures(connection, keys, metric=metric, splits=(split,))
        repair_curve_of(connection, keys, path, metric=metric, split=split)


def gather_figures(connection: Any, keys: list[str], *, metric: str, splits: Sequence[str]) -> None:
    """Put a metric of some cells into the table `drawn` of a connection."""
    connection.execute(_GATHERED, [metric, list(splits), keys])


def repair_curve_of(
    connection: Any, keys: list[str], path: Path, *, metric: str, split: str
) -> None:
    """`repair_curve_figure` over an open connection with what `gather_figures` found, for sets."""
    from trustq.statistics.paired import bootstrap_intervals

    rows = connection.execute(_CURVES, [split, keys]).fetchall()
    styles = arm_styles(connection)
    if not rows:
        raise InputError(f"There are no {metric} figures on {split} rows to draw.")
    figure, axes = new_canvas()
    arms = arms_of_plot(row[:2] for row in rows)
    has_interval = False
    for arm, title in arms:
        own = [row[2:] for row in rows if row[0] == arm]
        n_backbones, n_draws = (len({row[i] for row in own}) for i in (1, 2))
        # Purchases of a share differ by a label or two between draws: points are rounds, at the
        # mean of what was bought.
        by_seed: dict[Any, list[tuple[int, float]]] = {}
        for bought, backbone, draw, value in own:
            by_seed.setdefault((backbone, draw), []).append((bought, value))
        shortest = min(map(len, by_seed.values()))
        # The interval is over draws, each averaged over backbones, or the reverse, as in tables.
        position = 0 if n_backbones > n_draws else 1
        units: dict[int, list[np.ndarray]] = {}
        for seeds, run in by_seed.items():
            units.setdefault(seeds[position], []).append(np.array(sorted(run)[:shortest], float))
        stacked = np.stack([np.mean(runs, axis=0) for runs in units.values()])
        bought, values = stacked[..., 0].mean(axis=0), stacked[..., 1]
        mean = values.mean(axis=0)
        n_units, of = len(units), ("backbone", "draw")[position]
        style = styles[arm]
        if len(mean) == 1:
            axes.axhline(mean[0], color=style["color"], linestyle=":", linewidth=1)
        axes.plot(bought, mean, label=f"{title} ({counted(n_units, of)})", linewidth=1.5, **style)
        if n_units > 1:
            has_interval = True
            lower, upper = bootstrap_intervals(values, seed=0)
            alpha = 0.12 if len(arms) <= _FEW else 0.05
            axes.fill_between(bought, lower, upper, color=style["color"], alpha=alpha, linewidth=0)
    axes.set_xlabel("labels bought")
    axes.set_ylabel(f"{metric.replace('_', ' ')}, {split.replace('_', ' ')} rows")
    shown = "mean and 95 % bootstrap interval" if has_interval else "one run, so no interval"
    axes.set_title(f"What repair buys: {shown}")
    draw_legend(axes)
    save_plot(figure, path)


def risk_coverage_figure(
    results: Path, keys: list[str], path: Path, *, split: str = "test"
) -> None:
    """Draw selective risk against coverage for each arm, pooled over cells, after temperature.

    Raises `TrustqError` when the cells hold no predictions of that split.
    """
    with connect(results) as connection:
        answer = connection.execute(_PREDICTIONS, [split, keys]).fetchnumpy()
        styles = arm_styles(connection)
    if not len(answer["arm"]):
        raise InputError(f"There are no predictions of {split} rows to draw.")
    arms, titles, stages = answer["arm"], answer["arm_title"], answer["stage"]
    stage = "calibrated" if (stages == "calibrated").any() else "uncalibrated"
    figure, axes = new_canvas()
    highest = 0.0
    for arm, title in arms_of_plot(zip(arms, titles, strict=True)):
        chosen = (arms == arm) & (stages == stage)
        probs = np.stack(answer["probabilities"][chosen].tolist())
        wrong = np.asarray(answer["wrong"][chosen], dtype=bool)
        curve = risk_coverage_curve(wrong, max_probability(probs))
        highest = max(highest, curve.risk[curve.coverage >= _STEADY].max())
        axes.plot(
            curve.coverage,
            curve.risk,
            markevery=0.1,
            linewidth=1.5,
            **styles[arm],
            label=f"{title} ({wrong.mean():.1%} wrong at full coverage)",
        )
    axes.set_xlim(0, 1.005)
    axes.set_ylim(0, 1.25 * highest or 1)
    axes.set_xlabel("coverage: share of rows answered, most confident first")
    axes.set_ylabel("selective risk: share of answers that are wrong")
    axes.set_title(f"What confidence is worth: {split.replace('_', ' ')} rows, {stage}, all draws")
    draw_legend(axes)
    save_plot(figure, path)


def arms_of_plot(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Distinct arms with their titles, in the order of every table."""
    from trustq.analysis.repair_table import arm_order  # experiments, which most plots are not of

    return sorted(set(pairs), key=lambda pair: arm_order(pair[0]))


def arm_styles(connection: Any) -> dict[str, dict[str, Any]]:
    """Colour, mark and dashes of each arm of a results folder, the same in all its pictures."""
    from trustq.analysis.repair_table import arm_order

    arms = connection.execute("SELECT DISTINCT arm FROM runs WHERE arm IS NOT NULL").fetchall()
    ordered = sorted((arm for (arm,) in arms), key=arm_order)
    return {arm: arm_style(index) for index, arm in enumerate(ordered)}


def arm_style(index: int) -> dict[str, Any]:
    """Colour, mark and dashes of the nth line; of 49 no two have the same colour and mark."""
    return {
        "color": COLOURS[index % 7],
        "marker": MARKS[(index + index // 7) % 7],
        "markersize": 4,
        "linestyle": _DASHES[index // 7 % 4],
    }


def frame_precision_recall(axes: Any, truth: Any, title: str) -> None:
    """What curves of precision and recall have about them: chance, axes, names, a legend.

    `truth` is (n,) of flags, `title` what is to be found.
    """
    axes.axhline(truth.mean(), color="#777777", linestyle=":", linewidth=1, label="chance")
    axes.set_xlim(0, 1.01)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    axes.set_title(f"Precision and recall of {title} ({truth.sum()} of {len(truth)} rows)")
    draw_legend(axes)


def draw_legend(axes: Any) -> None:
    """A legend below the axes, where it covers no line and stays as large as the labels."""
    _, names = axes.get_legend_handles_labels()
    columns = 1 if len(names) < 2 or max(map(len, names)) > _LONG else 2
    n_lines = -(-len(names) // columns)
    axes.figure.set_size_inches(_WIDTH, _HEIGHT + n_lines * _LEGEND_LINE)
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.45, -0.16),
        ncols=columns,
        frameon=False,
        fontsize=_SIZES["legend"],
    )


def new_canvas() -> tuple[Any, Any]:
    """A figure with one pair of axes in the style of all plots."""
    # The object interface, so that no window system and no global state is touched.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=200, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#DDDDDD", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.xaxis.label.set_fontsize(_SIZES["label"])
    axes.yaxis.label.set_fontsize(_SIZES["label"])
    axes.tick_params(labelsize=_SIZES["tick"])
    return figure, axes


def save_plot(figure: Any, path: Path) -> None:
    """Write a figure with the disclaimer below it, whole or not at all."""
    for axes in figure.axes:
        # At its place, which matplotlib would look for a dozen times, beside every label of a tick.
        axes.set_title(axes.get_title(), y=1.0)
        axes.title.set_fontsize(_fitting(axes, figure))  # which set_title sets back
    figure.supxlabel(DISCLAIMER, x=0.995, ha="right", fontsize=6, color="#777777")
    import matplotlib

    # Without its date and random names an SVG of equal figures has equal bytes.
    metadata = {"Date": None} if path.suffix == ".svg" else None
    plain = matplotlib.rc_context({"svg.hashsalt": "trustq"})
    with replacing(Path(path)) as part, plain, _laid_out(figure, path.suffix):
        figure.savefig(part, metadata=metadata)


def _fitting(axes: Any, figure: Any) -> float:
    """The size at which a title fits the width of its panel, as one with a long file name does."""
    size = _SIZES["title"]
    lines = axes.get_title().replace("$", "S").split("\n")  # $ begins a formula
    spec = axes.get_subplotspec()
    share = 1.0 if spec is None else len(spec.colspan) / spec.get_gridspec().ncols
    room = 0.8 * share * figure.get_figwidth() * 72  # points, beside ticks and labels
    if max(map(len, lines)) * size * 0.7 < room:  # no letters are wider on average
        return size
    from matplotlib.textpath import TextPath

    widths = [TextPath((0, 0), line, size=size).get_extents().width for line in lines if line]
    return float(size * min(1.0, room / max(widths)))


@contextmanager
def _laid_out(figure: Any, suffix: str) -> Iterator[None]:
    """A figure that is to be an SVG has its parts in their places, which would take a drawing."""
    if suffix != ".svg":
        yield
        return
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    canvas, engine, dpi = figure.canvas, figure.get_layout_engine(), figure.dpi
    FigureCanvasSVG(figure)  # which measures texts as it draws them
    try:
        engine.execute(figure)
        figure.dpi = dpi  # an SVG's own is 72; pictures in it have that of the figure
        figure.set_layout_engine("none")
        yield
    finally:
        figure.set_canvas(canvas)
        figure.set_layout_engine(engine)
