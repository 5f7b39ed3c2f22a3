"""Keys and tables of 200 varied recipes on a small digits cache, as digests.

    python tests/benchmarks/recipes_study.py OUT.json [--recipes 200] [--like BEFORE.json]

Run it with the code before a change and with the code after it: keys and tables are equal bit for
bit where the change is none of numbers. Timings, versions and paths are left out; columns are known
by today's names, whatever they were called. Keys hold the version of the numbers: `--numerics`
makes them as of an earlier one, so that the rest of them can be compared.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import make_cache

from trustq.errors import TrustqError
from trustq.recipes import Recipe, SweepRecipe
from trustq.store import Cache

try:
    from trustq.experiments import repair
    from trustq.experiments import run as engine
except ImportError:  # before the house was moved
    from trustq.repair import engine, repair  # type: ignore[no-redef, attr-defined]

Columns = dict[str, list[str]]  # of each table

FORMERLY = {
    "cell": "run",
    "figure": "value",
    "hits": "errors_found",
    "hits_total": "errors_found_total",
    "hit_rate": "purchase_precision",
    "hits_possible": "errors_findable",
    "hit": "was_wrong",
}
OF_THE_RUN = ("seconds", "fit_seconds", "created", "versions", "microseconds_per_row", "threads")
HEADS = ("linear", "balanced", "knn", "centroid", "lda", "ridge", "majority", "prior", "xgboost")


def digits_cache(seed: int) -> Cache:
    """A frozen cache of 240 digits, of three of the classes, with pixels as features."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    of_three = digits.target < 3
    rows = np.random.default_rng(seed).permutation(int(of_three.sum()))[:240]
    return make_cache(
        n=240,
        d=64,
        seed=seed,
        dataset="digits",
        recipe={"name": "pixels"},
        backbone_seed=seed,
        features=digits.data[of_three][rows].astype(np.float32),
        label=digits.target[of_three][rows].astype(np.int16),
    )


def recipes(n: int) -> list[SweepRecipe]:
    """Varied recipes: every setting that needs no file takes each of its values in some of them."""
    rng = np.random.default_rng(0)

    def one(values: tuple[Any, ...]) -> Any:
        return values[int(rng.integers(len(values)))]

    arms = ("random", "self_confidence", "oracle", "entropy", "random:drop", "normalized_margin")
    arms += ("self_confidence:drop", "entropy:reweight", "knn_agreement", "self_confidence@heads")
    weighed = ("linear", "balanced", "ridge")
    found: list[SweepRecipe] = []
    while len(found) < n:
        chosen = tuple(dict.fromkeys(["none", *(one(arms) for _ in range(2))]))
        changes = {
            "rows": ("split", "unseen"),
            "noise": ("symmetric:0.2", "symmetric:0.1", "instance:0.2", "none", "auto"),
            "trusted": ("auto", "0.1", "0.25"),
            "trusted_strata": ("observed", "clean"),
            "head": weighed if "entropy:reweight" in chosen else HEADS,
            "regularisation": ("auto", "0.1"),
            "trees": (5, 10),
            "components": (0, 4),
            "budgets": (("5%",), ("8", "20%"), ("all-wrong",)),
            "rounds": (1, 2, 3),
            "draws": (1, 2),
            "draw_seed": (0, 7),
            "folds": (2, 3),
            "references": (True, False),
            "noise_unit": ("image", "group"),
            "buy_unit": ("image", "group"),
            "schedule": ("equal", "doubling"),
            "cost": ("", "a=2,b=1,c=3"),
            "class_cap": ("", "50%"),
            "quota": ("none", "equal", "proportional"),
            "diversity": (1.0, 2.0),
            "flagged_weight": (0.2, 0.5),
            "stop_precision": (0.0, 0.3),
            "raters": (1, 3),
            "rater_error": (0.0, 0.1),
            "ensemble": (("lda", "knn"), ("centroid",)),
            "calibrator": ("temperature", "vector", "sklearn-sigmoid"),
        }
        often = ("head", "noise", "trees")
        values = {k: one(v) for k, v in changes.items() if k in often or rng.random() < 0.3}
        values = {"folds": 2, "noise": "symmetric:0.2", **values}
        if "entropy:reweight" in chosen:
            values["ensemble"] = ("lda",)
            chosen = tuple(arm for arm in chosen if arm != "self_confidence@heads")
        found.append(SweepRecipe(**(values | {"arms": chosen})))
    return found


def digest_of(results: Path, like: Columns) -> tuple[str, str, Columns]:
    """Digests of the keys and of all rows of all tables, in an order of their own, and the columns.

    Of a table that `like` names, only its columns count: later ones hold what was not there before.
    """
    keys, tables, columns = "", hashlib.sha256(), {}
    with duckdb.connect() as connection:
        folders = {
            FORMERLY.get(name, name): path
            for path in results.iterdir()
            if any(path.glob("*.parquet")) and (name := path.name.removesuffix("s"))
        }
        for table, folder in sorted(folders.items()):
            answer = connection.execute(f"FROM read_parquet('{folder}/*.parquet')")
            names = [FORMERLY.get(column[0], column[0]) for column in answer.description or []]
            kept = sorted(set(names) - set(OF_THE_RUN))
            kept = [name for name in kept if name in like.get(table, kept)]
            columns[table] = kept
            rows = [dict(zip(names, row, strict=True)) for row in answer.fetchall()]
            texts = sorted(repr([row[name] for name in kept]) for row in rows)
            tables.update(f"{table} {kept} {texts}".encode())
            if table == "run":
                keys = " ".join(sorted(row["key"] + row["request"] for row in rows))
    return hashlib.sha256(keys.encode()).hexdigest()[:16], tables.hexdigest()[:16], columns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipes", type=int, default=200)
    parser.add_argument("--numerics", type=int, help="make keys as of this version of the numbers")
    parser.add_argument("--like", type=Path, help="compare with the OUT.json of an earlier code")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    if asked.numerics is not None:
        engine.NUMERICS = asked.numerics
    before = json.loads(asked.like.read_text()) if asked.like else {"columns": {}, "recipes": []}
    caches = [digits_cache(seed) for seed in (0, 1)]
    found: list[tuple[str, str]] = []
    columns: Columns = {}
    for number, sweep in enumerate(recipes(asked.recipes)):
        with tempfile.TemporaryDirectory() as folder:
            try:
                repair(
                    caches[number % 2 :][:1],
                    recipe=Recipe(name=f"recipe-{number}", sweep=sweep),
                    results=Path(folder) / "r",
                )
            except Exception as error:  # a refusal is an answer too, but for its words
                found.append((type(error).__name__, "refused"))
                if not isinstance(error, TrustqError):
                    print(f"recipe {number} fails: {error!r}; {sweep}")
                continue
            *digests, columns = digest_of(Path(folder) / "r", before["columns"])
            found.append((digests[0], digests[1]))
    asked.out.write_text(json.dumps({"columns": columns, "recipes": found}, indent=0))
    refused = sum(tables == "refused" for _, tables in found)
    print(f"{len(found)} recipes, {refused} refused; {digest_text(found)}")
    if asked.like:
        pairs = list(zip(found, before["recipes"], strict=True))
        same = [sum(now[i] == then[i] for now, then in pairs) for i in (0, 1)]
        print(f"equal to {asked.like.name}: keys of {same[0]}, tables of {same[1]}")


def digest_text(found: list[tuple[str, str]]) -> str:
    """Two digests: of all keys, and of all tables."""
    parts = (" ".join(pair[i] for pair in found) for i in (0, 1))
    keys, tables = (hashlib.sha256(part.encode()).hexdigest()[:16] for part in parts)
    return f"keys {keys}, tables {tables}"


if __name__ == "__main__":
    main()
