"""Every command that compares two arms gives one answer on one folder, and counts no run twice."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trustq.analysis.compare_arms import compare_arms
from trustq.analysis.main_table import main_table
from trustq.analysis.significance import results_seed_tables, significance
from trustq.errors import TrustqError
from trustq.results import new_part, run_query, write_part
from trustq.statistics.runs import compare_runs

CLASSES = ["a", "b"]
N = 40
PAIRED = """SELECT unit, n, n_twice, mean_difference, sd, sign_flip_p, sign_flip_floor
FROM paired WHERE arm = 'entropy' AND baseline = 'random' AND metric = 'accuracy'
    AND stage = 'calibrated' AND budget = '64' ORDER BY unit"""


def columns(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row.get(name) for row in rows], dtype=object) for name in names}


def write_runs(
    folder: Path, runs: list[tuple[str, int, int]], *, seed: int = 0, **own: Any
) -> None:
    """Runs (arm, network, draw) whose draws move all networks together, with their figures."""
    cells, metrics, predictions = [], [], []
    for arm, network, draw in runs:
        key = "/".join(map(str, (arm, network, draw, *own.values())))
        cells.append(
            {
                "key": key,
                "arm": arm,
                "arm_title": arm,
                "score": arm,
                "dataset": "d",
                "head": "linear",
                "budget": "64",
                "n_rounds": 2,
                "backbone_seed": network,
                "draw_seed": draw,
                "cache_digest": f"c{network}",
                "classes": json.dumps(CLASSES),
                **own,
            }
        )
        is_better = arm == "entropy"
        of_draw = np.random.default_rng([seed, is_better, draw]).integers(0, 6)
        of_network = np.random.default_rng([seed, is_better, 100 + network]).integers(0, 6)
        n_right = 20 + int(of_draw + of_network) + 3 * is_better
        labels = np.arange(N) % 2
        predicted = np.where(np.arange(N) < n_right, labels, 1 - labels)
        where = {"run": key, "eval_dataset": "d", "split": "test", "stage": "calibrated"}
        metrics.append(
            where | {"round": 2, "is_final": True, "metric": "accuracy", "value": n_right / N}
        )
        predictions += [
            where
            | {
                "sample_id": f"s{row:02d}",
                "group_id": f"g{row:02d}",
                "label": CLASSES[label],
                "predicted": CLASSES[guess],
                "probabilities": np.eye(2)[guess] * 0.6 + 0.2,
            }
            for row, (label, guess) in enumerate(zip(labels, predicted, strict=True))
        ]
    tables = {"runs": columns(cells), "metrics": columns(metrics)}
    tables["predictions"] = columns(predictions)
    tables["predictions"]["probabilities"] = np.stack([p["probabilities"] for p in predictions])
    write_part(folder, tables, part=new_part())


def crossed(arm: str, networks: range, draws: range) -> list[tuple[str, int, int]]:
    return [(arm, network, draw) for network in networks for draw in draws]


def answers(folder: Path) -> list[tuple[float, ...]]:
    """Units, mean, sd, p and floor of entropy less random by each way that there is."""
    arms = compare_arms(folder, "entropy", "random", budget="64", figures=("accuracy",))
    runs = arms.figures["accuracy"].runs
    tables = results_seed_tables(
        folder, arms=["entropy", "random"], metrics=["accuracy"], where="budget = '64'"
    )
    (row,) = significance(tables, metrics=["accuracy"])
    own = [view for view in run_query(folder, PAIRED).rows if view[0] == "backbone_seed"]
    (_, n, _, mean, sd, p, floor) = own[0]
    return [
        (runs.n, runs.mean, runs.sd, runs.p_value, runs.floor),
        (row.n, row.difference, row.sd, row.p_value, row.floor),
        (n, mean, sd, p, floor),
    ]


@pytest.mark.parametrize("seed", range(6))
def test_every_command_gives_one_answer_where_runs_are_missing(tmp_path: Path, seed: int) -> None:
    entropy = crossed("entropy", range(1, 8), range(4))
    lost = {("random", 2, 3), ("random", 5, 0), ("random", 5, 1), ("random", 5, 2)}
    random = [run for run in crossed("random", range(1, 7), range(4)) if run not in lost]
    write_runs(tmp_path, [*entropy, *random], seed=seed)
    write_runs(tmp_path, crossed("random", range(1, 4), range(4)), seed=seed + 50, budget="128")
    found = answers(tmp_path)
    assert found[0][0] == 6
    for other in found[1:]:
        # The p of the view is rounded to ten digits, whatever the machine.
        assert other == pytest.approx(found[0], rel=1e-12, abs=1e-10)


def test_tables_differ_by_what_the_comparison_says_where_draws_are_missing(tmp_path: Path) -> None:
    kept = [(1, 0), (1, 1), (1, 2), (2, 0), (3, 0), (3, 2)]
    runs = [(arm, *run) for arm in ("entropy", "random") for run in kept]
    write_runs(tmp_path, [*runs, ("entropy", 3, 3), ("random", 9, 0)], seed=7)
    arms = compare_arms(tmp_path, "entropy", "random", figures=("accuracy",))
    query = "SELECT arm, mean, n FROM leaderboard WHERE metric = 'accuracy' ORDER BY arm"
    (_, ours, n), (_, theirs, _) = run_query(tmp_path, query).rows
    assert n == len(kept)
    assert ours - theirs == pytest.approx(arms.figures["accuracy"].runs.mean, abs=1e-12)
    where = "NOT (backbone_seed = 9 OR backbone_seed = 3 AND draw_seed = 3)"
    table = main_table(tmp_path, metrics=("accuracy",), where=where)
    means = {row.texts["arm"]: row.figures["accuracy"].mean for row in table.rows}
    assert means["entropy"] - means["random"] == pytest.approx(ours - theirs, abs=1e-12)


@pytest.mark.parametrize("n_draws", [2, 3, 7, 45])
def test_the_view_s_p_is_enlarged_by_the_draws_that_networks_share(
    tmp_path: Path, n_draws: int
) -> None:
    # One and the same draw effect in every network: flips of eight networks would give .0078.
    runs = [
        *crossed("entropy", range(8), range(n_draws)),
        *crossed("random", range(8), range(n_draws)),
    ]
    rng = np.random.default_rng(1)
    of_draws = 0.03 + 0.05 * np.sqrt(n_draws) * rng.normal(size=n_draws)
    cells, metrics = [], []
    for arm, network, draw in runs:
        key = f"{arm}/{network}/{draw}"
        seeds = {"backbone_seed": network, "draw_seed": draw, "cache_digest": f"c{network}"}
        cells.append({"key": key, "arm": arm, "score": arm, "dataset": "d", "budget": "64"} | seeds)
        value = (arm == "entropy") * (of_draws[draw] + 0.002 * rng.normal())
        metrics.append(
            {"run": key, "round": 0, "is_final": True, "eval_dataset": "d", "split": "test"}
            | {"stage": "calibrated", "metric": "accuracy", "value": value}
        )
    write_part(tmp_path, {"runs": columns(cells), "metrics": columns(metrics)}, part=new_part())
    of_runs = {
        (c["arm"], c["backbone_seed"], c["draw_seed"]): m["value"]
        for c, m in zip(cells, metrics, strict=True)
    }
    pairs = crossed("entropy", range(8), range(n_draws))
    test = compare_runs(
        np.array([of_runs[run] for run in pairs]),
        np.array([of_runs["random", network, draw] for _, network, draw in pairs]),
        networks=[network for _, network, _ in pairs],
        draws=[draw for _, _, draw in pairs],
    )
    (own, _) = run_query(tmp_path, PAIRED).rows
    assert own[5] == pytest.approx(test.p_value, rel=1e-7) and own[5] > own[6]


def test_a_run_counts_once_in_the_view(tmp_path: Path) -> None:
    write_runs(
        tmp_path, [*crossed("entropy", range(6), range(2)), *crossed("random", range(6), range(2))]
    )
    (whole, _) = run_query(tmp_path, PAIRED).rows
    assert (whole[1], whole[2]) == (6, 0) and whole[3] is not None
    # The same runs asked for by another recipe, as after a setting that changes nothing.
    write_runs(tmp_path, crossed("random", range(1), range(2)), seed=3, source="again")
    rows = run_query(tmp_path, PAIRED).rows
    assert [row[2:] for row in rows] == [(2, None, None, None, None)] * 2
    for compared in (
        lambda: compare_arms(tmp_path, "entropy", "random", figures=("accuracy",)),
        lambda: significance(
            results_seed_tables(tmp_path, arms=["entropy", "random"], metrics=["accuracy"]),
            metrics=["accuracy"],
        ),
    ):
        with pytest.raises(TrustqError, match="has several runs of backbone seed 0 and draw 0"):
            compared()
    one = "coalesce(source, '') <> 'again'"
    tables = results_seed_tables(
        tmp_path, arms=["entropy", "random"], metrics=["accuracy"], where=one
    )
    assert significance(tables, metrics=["accuracy"])[0].difference == pytest.approx(whole[3])


def test_a_network_trained_twice_on_bought_labels_is_no_two_partners(tmp_path: Path) -> None:
    entropy, random = (crossed(arm, range(6), range(1)) for arm in ("entropy", "random"))
    for network in range(6):
        origin = {"origin_digest": f"c{network}"}
        write_runs(tmp_path, [entropy[network]], **origin, cache_digest=f"e{network}")
        write_runs(tmp_path, [random[network]], **origin, cache_digest=f"r{network}")
    assert answers(tmp_path)[2][0] == 6
    write_runs(tmp_path, random[:1], origin_digest="c0", cache_digest="again", seed=9)
    assert [row[2] for row in run_query(tmp_path, PAIRED).rows] == [1, 1]
    with pytest.raises(TrustqError, match="ran network/draw 0/0 on several caches"):
        compare_arms(tmp_path, "entropy", "random", figures=("accuracy",))
