"""Several caches side by side: equal to one cache made by hand, whatever takes them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import make_cache, refused, reordered
from trustq.cli import app
from typer.testing import CliRunner

from trustq.analysis.study_design import plan_sweep as plan_study
from trustq.errors import DishonestError, TrustqError
from trustq.experiments import plan_sweep, repair, run_sweep
from trustq.recipes import load_recipe, load_sweep
from trustq.recipes.schema import SweepRecipe, declared
from trustq.results import run_query
from trustq.store import Cache, read_cache, write_cache
from trustq.store.concat import HOW, concat_caches, open_side_by_side, stand_side_by_side

_FIGURES = """
SELECT r.noise, r.head, r.draw_seed, arm, budget, round, m.eval_dataset, split, stage, metric,
       class_name, m.value, m.n
FROM metrics m JOIN runs r ON m.run = r.key ORDER BY ALL
"""
_LEDGER = """
SELECT arm, budget, draw_seed, q.* EXCLUDE (run) FROM queries q JOIN runs r ON q.run = r.key
ORDER BY ALL
"""


def network(place: int, seed: int = 0, **fields: Any) -> Cache:
    """What one of several networks sees of the same rows: its own noise around the classes."""
    rng = np.random.default_rng([place, seed])
    cache = make_cache(n=300, d=1)
    features = rng.standard_normal((300, 5)) + 1.3 * np.eye(3, 5)[cache.label]
    features *= 10.0**place  # another scale
    values: dict[str, Any] = {
        "features": features.astype(np.float32),
        "backbone": f"net{place}",
        "weights_digest": f"w{place}{seed}",
        "backbone_seed": seed,
        "content_digest": f"c{place}{seed}",
        "recipe": {"name": f"r{place}"},
    }
    return dataclasses.replace(cache, **(values | fields))


def shuffled(cache: Cache) -> Cache:
    """The same rows in another order."""
    order = np.random.default_rng(5).permutation(len(cache))
    rows = ("sample_id", "split", "group_id", "label", "observed", "trusted", "seen", "features")
    return dataclasses.replace(cache, **{name: getattr(cache, name)[order] for name in rows})


def run_cli(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def by_hand(caches: list[Cache]) -> Cache:
    features = np.hstack([cache.features for cache in caches])
    return dataclasses.replace(caches[0], features=features, logits=None, content_digest="hand")


def recipe(*settings: str) -> Any:
    asked = ["arms=none,random,self_confidence", "noise=symmetric:0.2", "budgets=10%", "folds=3"]
    return load_recipe(part="sweep", settings=[*asked, *settings])


def test_repair_side_by_side_equals_a_cache_made_by_hand_bit_for_bit(tmp_path: Path) -> None:
    one, two = network(0), network(1)
    views = [viewed(cache, 0.5 + place) for place, cache in enumerate((one, two))]
    outside = [elsewhere(cache) for cache in (one, two)]
    hand = dataclasses.replace(by_hand([one, two]), weights_digest="both")
    hand_view = dataclasses.replace(
        hand,
        extra={
            "views/fog-1/features": np.hstack([v.extra["views/fog-1/features"] for v in views]),
            "views/fog-1/parameters": np.array(["{}"]),
        },
    )
    hand_outside = dataclasses.replace(by_hand(outside), weights_digest="both")
    shared = recipe("draws=2", "conditions=all", "regularisation=auto")
    joined = recipe("draws=2", "conditions=all", "regularisation=auto", "concat=all")
    given = [views[0], shuffled_with_view(views[1])]
    others = [outside[0], shuffled(outside[1])]
    repair(given, recipe=joined, results=tmp_path / "a", externals=others)
    repair([hand_view], recipe=shared, results=tmp_path / "b", externals=[hand_outside])
    for query in (_FIGURES, _LEDGER):
        found, expected = (run_query(tmp_path / place, query).rows for place in "ab")
        assert len(found) > 30 and found == expected  # NULLs and floats, to the bit
    row = run_query(tmp_path / "a", "SELECT DISTINCT backbone, cache_recipe FROM runs").rows
    assert row == [("net0 + net1", "r0 + r1")]
    assert {r[0] for r in run_query(tmp_path / "a", "SELECT split FROM metrics").rows} >= {
        "test",
        "external",
    }


def viewed(cache: Cache, strength: float) -> Cache:
    rng = np.random.default_rng(9)
    worse = cache.features + strength * rng.standard_normal(cache.features.shape)
    extra = {
        "views/fog-1/features": worse.astype(np.float32),
        "views/fog-1/parameters": np.array([json.dumps({"strength": strength})]),
    }
    return dataclasses.replace(cache, extra=extra)


def shuffled_with_view(cache: Cache) -> Cache:
    order = np.random.default_rng(5).permutation(len(cache))
    extra = dict(cache.extra) | {"views/fog-1/features": cache.extra["views/fog-1/features"][order]}
    return dataclasses.replace(shuffled(cache), extra=extra)


def elsewhere(cache: Cache) -> Cache:
    """Other images through the same network."""
    n = len(cache)
    return dataclasses.replace(
        cache,
        dataset="far",
        features=(cache.features + 0.25).astype(np.float32),
        sample_id=np.array([f"f{i:04d}" for i in range(n)]),
        group_id=np.array([f"far{i}" for i in range(n)]),
        split=np.full(n, "external"),
        content_digest=cache.content_digest + " far",
    )


def test_a_sweep_reads_files_side_by_side_by_seed_and_tells_them_apart(tmp_path: Path) -> None:
    for place in (0, 1):
        for seed in (3, 4):
            write_cache(tmp_path / f"n{place}-{seed}.h5", network(place, seed))
    text = f"""# Side by side.
[sweep]
caches = ["{tmp_path}/n*.h5"]
concat = ["none", "seed", "all"]
noise = "symmetric:0.2"
arms = ["none"]
references = false
head = "centroid"
folds = 2
"""
    (tmp_path / "side.toml").write_text(text)
    points = load_sweep(str(tmp_path / "side.toml"))
    plan = plan_sweep(points, results=tmp_path / "r")
    assert [len(group.caches) for group in plan.groups].count(1) == 4
    run = run_sweep(plan, results=tmp_path / "r", jobs=1)
    assert not run.failures and run.n_new == 4 + 2 + 1
    rows = run_query(
        tmp_path / "r",
        "SELECT cache_recipe, backbone, backbone_seed FROM runs ORDER BY ALL",
    ).rows
    every = "r0 seed 3 + r0 seed 4 + r1 seed 3 + r1 seed 4"
    assert rows == [
        ("r0", "net0", 3),
        ("r0", "net0", 4),
        ("r0 + r1", "net0 + net1", 3),
        ("r0 + r1", "net0 + net1", 4),
        (every, "net0 + net0 + net1 + net1", 3),
        ("r1", "net1", 3),
        ("r1", "net1", 4),
    ]
    seeds = run_query(
        tmp_path / "r",
        "SELECT cache_recipe, n FROM seeds WHERE metric = 'accuracy' AND stage = 'uncalibrated' "
        "AND split = 'test' AND class_name IS NULL ORDER BY ALL",
    ).rows
    assert seeds == [("r0", 2), ("r0 + r1", 2), (every, 1), ("r1", 2)]
    files = run_query(tmp_path / "r", "SELECT cache FROM runs WHERE backbone_seed = 4").rows
    assert (f"{tmp_path}/n0-4.h5 + {tmp_path}/n1-4.h5",) in files
    again = plan_sweep(points, results=tmp_path / "r")
    assert again.n_cells == 0 and len(again.there) == 7
    # Read again as a plan says, the features are those that were planned.
    group = next(group for group in plan.groups if len(group.caches) == 2)
    assert open_side_by_side(group.caches).content_digest == group.cache_digest


def test_the_command_takes_caches_side_by_side_and_writes_them_as_one(tmp_path: Path) -> None:
    paths = [tmp_path / f"n{place}.h5" for place in (0, 1)]
    for place, path in enumerate(paths):
        write_cache(path, network(place))
    asked = ("--noise", "symmetric:0.2", "--arms", "random", "--budget", "10%", "--folds", "2")
    done = run_cli("repair", *paths, "--concat", "all", *asked, "--results", tmp_path / "r")
    assert done.exit_code == 0, done.output
    assert "r0 + r1" in done.output
    done = run_cli("cache", "concat", *paths, "--out", tmp_path / "both.h5")
    assert done.exit_code == 0 and "10 features of net0 + net1, frozen" in done.output
    written = read_cache(tmp_path / "both.h5")
    hand = by_hand([network(0), network(1)])
    assert written.features.tobytes() == hand.features.tobytes()
    done = run_cli("repair", tmp_path / "both.h5", *asked, "--results", tmp_path / "s")
    assert done.exit_code == 0, done.output
    for query in (_FIGURES, _LEDGER):
        assert run_query(tmp_path / "r", query).rows == run_query(tmp_path / "s", query).rows
    for more in ("audit", "evaluate", "trust"):
        words = {
            "audit": ("labels", tmp_path / "both.h5", "--out", tmp_path / "audit"),
            "evaluate": (tmp_path / "both.h5", "--head", "centroid"),
            "trust": (*paths, "--concat", "seed", "--sources", "softmax", "--replicates", "20"),
        }
        done = run_cli(more, *words[more])
        assert done.exit_code == 0, (more, done.output)
    wrong = run_cli("cache", "concat", paths[0], "--out", tmp_path / "one.h5")
    assert wrong.exit_code == 1 and "nothing to stand beside" in wrong.output
    wrong = run_cli("repair", *paths, "--concat", "both", "--results", tmp_path / "t")
    assert wrong.exit_code != 0 and "none, all, seed" in wrong.output


def test_a_plan_counts_caches_side_by_side_as_one_network() -> None:
    own = [network(place, seed) for place in (0, 1) for seed in (3, 4)]
    for how, n in (("none", 4), ("seed", 2), ("all", 1)):
        if how == "none":
            continue
        plan = plan_study(recipe(f"concat={how}"), own)
        assert plan.n_backbones == n


def test_other_rows_labels_splits_and_groups_are_refused() -> None:
    one, two = network(0), network(1)
    few = _rows(two, slice(0, 290))
    with refused(
        f"{two.name} lacks 10 rows of {one.name}, e.g. s0290: caches side by side need the same "
        "rows, so extract them from one manifest, or import them with it (`trustq cache import`, "
        "`meta`)."
    ):
        concat_caches([one, few])
    with refused(
        f"{one.name} holds 10 rows that {two.name} lacks, e.g. s0290: caches side by side need the "
        "same rows, so extract them from one manifest, or import them with it (`trustq cache "
        "import`, `meta`)."
    ):
        concat_caches([few, one])
    for name in ("label", "split", "group_id"):
        values = getattr(two, name).copy()
        values[7] = values[np.flatnonzero(values != values[7])[0]]
        with refused(
            f"{two.name} and {one.name} differ in {name} of 1 row, e.g. s0007: extract them from "
            "one manifest, or import them with it (`trustq cache import`, `meta`)."
        ):
            concat_caches([one, dataclasses.replace(two, **{name: values})])
    with refused("One cache alone has nothing to stand beside: name two or more."):
        stand_side_by_side([one], how="all")
    with refused(
        f"{one.name} is the only cache of backbone seed 0, so it has nothing to stand beside. Name "
        "another network's cache of that seed, or take all caches as one set (`concat=all`)."
    ):
        stand_side_by_side([one, network(0, 1), network(1, 1)], how="seed")
    with refused(
        f"{elsewhere(one).name} holds rows of 'far' for networks side by side, and through that of "
        f"{two.name} there are 0 caches of these rows; expected one for each network. Extract them "
        f"with `with={two.name}`, all views in one cache, or leave these rows out."
    ):
        stand_side_by_side([one, two], [elsewhere(one)], how="all")


def _rows(cache: Cache, kept: slice | np.ndarray) -> Cache:
    names = ("sample_id", "split", "group_id", "label", "observed", "trusted", "seen", "features")
    return dataclasses.replace(cache, **{name: getattr(cache, name)[kept] for name in names})


def test_what_any_network_has_seen_the_set_has_seen() -> None:
    frozen = network(0)
    train = frozen.split == "train"
    seen = np.where(train, 2, 0).astype(np.uint8)
    observed = np.where(train, frozen.label, -1).astype(np.int16)
    trained = network(1, exposure="finetuned-clean", seen=seen, observed=observed)
    both = concat_caches([frozen, trained])
    assert both.exposure == "finetuned-clean"
    np.testing.assert_array_equal(both.seen, seen)
    np.testing.assert_array_equal(both.observed, observed)
    with pytest.raises(DishonestError, match="was trained on other labels"):
        repair([frozen, trained], recipe=recipe("concat=all"), results=Path("never"))
    other = observed.copy()
    other[np.flatnonzero(train)[0]] = (other[np.flatnonzero(train)[0]] + 1) % 3
    with refused(
        f"{frozen.name} and {trained.name} were trained on other observed labels of 1 row, e.g. "
        f"{frozen.sample_id[np.flatnonzero(train)[0]]}, so no one noise is theirs. Put networks "
        "side by side that were trained on one draw of it."
    ):
        concat_caches([trained, network(0, 1, observed=other)])


def test_the_setting_names_every_way_there_is() -> None:
    setting = next(s for s in declared(SweepRecipe) if s.name == "concat")
    assert setting.choices == HOW


def test_caches_in_another_class_order_stand_side_by_side() -> None:
    found = concat_caches([network(0), reordered(network(1))])
    expected = concat_caches([network(0), network(1)])
    assert found.classes == expected.classes
    assert (found.label == expected.label).all() and (found.features == expected.features).all()


def test_rows_join_by_id_as_everywhere_and_features_stand_beside_others_alone() -> None:
    one, two = network(0), network(1)
    with_endings = np.char.add(two.sample_id[::-1], ".jpg")
    order = np.arange(len(two))[::-1]
    other = dataclasses.replace(_rows(two, order), sample_id=with_endings)
    joined = concat_caches([one, other])
    np.testing.assert_array_equal(joined.features, concat_caches([one, two]).features)
    copy = dataclasses.replace(_rows(one, order), content_digest="another file")
    with refused(
        f"{one.name} and {copy.name} have the same features, which would stand beside themselves: "
        "name caches of several networks."
    ):
        concat_caches([one, copy])
    twice = dataclasses.replace(
        _rows(one, slice(0, 2)), sample_id=np.array(["a", "a.jpg"]), content_digest="a"
    )
    with pytest.raises(TrustqError, match="lacks 1 row of"):
        concat_caches(
            [twice, dataclasses.replace(_rows(two, slice(0, 1)), sample_id=np.array(["a"]))]
        )


def test_a_cache_is_written_side_by_side_in_place_of_no_other_file(tmp_path: Path) -> None:
    paths = [tmp_path / f"{seed}.h5" for seed in (0, 1)]
    for seed, path in enumerate(paths):
        write_cache(path, network(seed))
    before = paths[0].read_bytes()
    for out, said in ((paths[0], "is there already"), (tmp_path / "x.npz", "ends in .h5")):
        done = run_cli("cache", "concat", *paths, "--out", out)
        assert done.exit_code == 1 and said in done.output
    assert paths[0].read_bytes() == before
