"""The derived views, as SQL over the tables."""

from collections.abc import Sequence

from trustq.results.schema import (
    COMPARED,
    COORDINATES,
    FORMER_COLUMNS,
    LOWER_IS_BETTER,
    MATCHED,
    PROBLEM,
    PURCHASE,
    SETTINGS,
    TABLES,
)

EXACT_UP_TO = 12  # differences whose 2^n sign patterns `paired` counts
EXACT_LIMIT = 20  # beyond it `trustq.statistics.paired` draws sign patterns at random
REPLICATES = 9999
NORMAL = 1.959963984540054  # of 97.5 %
# Student's quantiles of 97.5 % by degrees of freedom from 1: without scipy, which a query awaits.
STUDENTS = (
    12.706204736174694, 4.302652729749462, 3.1824463052837078, 2.7764451051977934,
    2.5705818356363146, 2.4469118511449786, 2.364624251592784, 2.306004135204166,
    2.262157162798205, 2.228138851986274, 2.200985160091639, 2.1788128296672284,
    2.1603686564627913, 2.144786687917804, 2.131449545559776, 2.1199052992212546,
    2.1098155778333156, 2.1009220402410382, 2.0930240544083087, 2.085963447265864,
    2.0796138447276795, 2.0738730679040254, 2.0686576104190486, 2.0638985616280245,
    2.0595385527532972, 2.0555294386428735, 2.0518305164802846, 2.0484071417952454,
    2.045229642132703, 2.0422724563012378, 2.039513446396408, 2.0369333434601016,
)  # fmt: skip
TIE_TOLERANCE = 1e-9  # of the sum of sizes, as in `trustq.statistics.paired`


def derived_views() -> dict[str, str]:
    """Name and SELECT of each derived view, in an order in which they can be created."""
    return {
        "metric_values": _figures(),
        "seeds": _seeds(),
        "curves": _curves(),
        "paired": paired_select(),
        "leaderboard": _leaderboard(),
        "selective": _selective(),
        "final_test": _final_test("metric_values"),
        "final_test_seeds": _final_test("seeds"),
        "final_predictions": _final_predictions(),
    }


def former_views() -> dict[str, str]:
    """Name and SELECT of the views under their names before format 2, so that old queries run.

    They are listed nowhere and no view of ours reads them.
    """
    columns = {
        "cells": ("runs", [*TABLES["runs"]]),
        "figures": ("metric_values", [*TABLES["runs"], *TABLES["metrics"]]),
    }
    return {
        former: f"SELECT {', '.join(['*', *_former_names(names)])} FROM {view}"
        for former, (view, names) in columns.items()
    }


def _former_names(names: list[str]) -> list[str]:
    return [
        f"{name} AS {FORMER_COLUMNS[name]}"
        for name in names
        if name in FORMER_COLUMNS and name != "run"  # a run's own key is `key` in both
    ]


def _figures() -> str:
    # Every metric beside all that is known of its cell.
    own = [name for name in TABLES["metrics"] if name != "run"]
    return f"""
        SELECT {_listed(TABLES["runs"], "c")}, {_listed(own, "m")}
        FROM metrics m JOIN runs c ON m.run = c.key"""


def _seeds() -> str:
    # `n_cells` above `n` says that the same seeds were run more than once, as on an older cache.
    # Final figures belong together even where some seeds ended a round earlier.
    groups = _listed((*SETTINGS, "is_final", *COORDINATES))
    return f"""
        SELECT {groups}, max(round) AS round, {_over_seeds()},
            min(value) AS minimum, max(value) AS maximum
        FROM metric_values GROUP BY {groups}, CASE WHEN NOT is_final THEN round END"""


def _curves() -> str:
    # The means at every round. Seeds may have bought different numbers (a budget of 'all-wrong'),
    # so the labels bought are a mean too.
    groups = _listed((*SETTINGS, "round", *COORDINATES))
    # Labels that the backbone was trained on again were bought before its round 0.
    bought = """CASE WHEN f.origin_digest <> f.cache_digest THEN f.n_bought
                WHEN f.round = 0 THEN 0 ELSE r.n_bought_total END"""
    return f"""
        SELECT {groups}, bool_and(is_final) AS is_final, avg(bought) AS n_bought_total,
            {_over_seeds()}
        FROM (SELECT f.*, {bought} AS bought
              FROM metric_values f LEFT JOIN rounds r ON r.run = f.key AND r.round = f.round)
        GROUP BY {groups}"""


def _over_seeds() -> str:
    # NULL seeds (an imported cache) count as one seed, hence the structs.
    def distinct(*names: str) -> str:
        struct = ", ".join(f"'{name}': {name}" for name in names)
        return f"count(DISTINCT {{{struct}}}) FILTER (value IS NOT NULL)"

    return f"""avg(value) AS mean, stddev_samp(value) AS sd,
            {distinct("backbone_seed", "draw_seed")} AS n,
            {distinct("backbone_seed")} AS n_backbone_seeds,
            {distinct("draw_seed")} AS n_draw_seeds,
            count(value) AS n_runs"""


def paired_select(figures: str = "true", *, pairs: str = "true") -> str:
    """Final figures of every ordered pair of arms, where all else is the same.

    `figures` is a condition on rows of `metrics`, which are read once for all pairs, and `pairs`
    one on the `runs` of a pair, `a` minus `b`: a condition on the answer comes too late to save
    anything.

    "All else" is MATCHED, the cache whose labels were repaired, both seeds and the purchase; an
    arm with score `none` buys nothing, so it pairs with every purchase and the row has the other
    arm's budget. One row per unit: over draw seeds (differences averaged over backbones) and over
    backbone seeds (averaged over draws). Draws have no p where there are several networks, nor
    where their differences are all the same. p is that of `trustq.statistics.runs.compare_runs`.

    Where runs of one network and draw make several pairs (an arm that was trained twice, a figure
    that is stored twice), none is chosen: `n_twice` counts the pairs too many, and the row has no
    difference and no p.
    """
    same = " AND ".join(
        f"a.{name} IS NOT DISTINCT FROM b.{name}"
        for name in (*MATCHED, "backbone_seed", "draw_seed")
    )
    # A backbone that was trained again has a cache and a round 0 of its own.
    same += """ AND CASE WHEN a.cache_digest IS NOT DISTINCT FROM b.cache_digest
            THEN a.shared_key IS NOT DISTINCT FROM b.shared_key
            ELSE coalesce(a.origin_digest, a.cache_digest)
                = coalesce(b.origin_digest, b.cache_digest) END"""
    same_purchase = " AND ".join(f"a.{name} IS NOT DISTINCT FROM b.{name}" for name in PURCHASE)
    purchase = ", ".join(
        f"CASE WHEN a.score = 'none' THEN b.{name} ELSE a.{name} END AS {name}" for name in PURCHASE
    )
    differing = ", ".join(
        f"CASE WHEN a.{name} IS DISTINCT FROM b.{name} THEN '{name}' END" for name in COMPARED
    )
    names = ", ".join(f"'{name}'" for name in COMPARED)
    flags = ("leaky", "in_sample", "backbone_saw_rows")
    either = ", ".join(f"a.{name} OR b.{name} AS {name}" for name in flags)
    titles = ("arm", "baseline", "arm_title", "baseline_title")
    # Sixty columns tell rows apart, and as texts of a million rows take gigabytes: they are one
    # number. A run and a place are one number too, so that no plan joins figures to figures by
    # their place alone, which is every run with every other.
    places = _listed(COORDINATES, "f")
    setting = (*MATCHED, *PURCHASE, *titles, "exposure", *flags)
    groups = f"setting, {_listed(COORDINATES)}"
    # Draws that change nothing (stored noise, cross-fitted scores) are copies, and no evidence.
    # Nor are draws beside several networks, which are the unit everywhere: they move together.
    untested = """n_twice > 0 OR unit = 'draw_seed' AND n > 1
                AND (n_networks > 1 OR list_max(d) - list_min(d) < 1e-12)"""
    return f"""
        WITH cell_pairs AS (
            SELECT a.key AS run, b.key AS baseline_run, a.backbone_seed, a.draw_seed,
                {_listed(MATCHED, "a")}, {purchase}, a.arm, b.arm AS baseline, a.arm_title,
                b.arm_title AS baseline_title, a.exposure, {either},
                [x FOR x IN [{differing}] IF x IS NOT NULL] AS differing
            FROM runs a JOIN runs b ON {same}
            WHERE a.arm <> b.arm AND ({pairs})
                AND (a.score = 'none' OR b.score = 'none' OR ({same_purchase}))
        ), numbered AS MATERIALIZED (
            SELECT hash({_listed(setting)}) AS setting, * FROM cell_pairs
        ), settings AS (
            SELECT setting, {", ".join(f"any_value({name}) AS {name}" for name in setting)}
            FROM numbered GROUP BY setting
        ), final_figures AS MATERIALIZED (
            SELECT run, hash(run, {_listed(COORDINATES)}) AS place, {_listed(COORDINATES)}, value
            FROM metrics
            WHERE is_final AND value IS NOT NULL AND ({figures})
        ), differences AS (
            SELECT p.setting, p.backbone_seed, p.draw_seed, p.differing, {places},
                f.value - g.value AS difference
            FROM numbered p
            JOIN final_figures f ON f.run = p.run
            JOIN final_figures g ON g.place = hash(p.baseline_run, {places})
        ), units AS (
            SELECT {groups}, 'draw_seed' AS unit, draw_seed AS unit_seed,
                avg(difference) AS difference, list(differing) AS differing,
                count(DISTINCT coalesce(backbone_seed, -1)) AS networks,
                count(*) - networks AS twice, NULL::INTEGER[] AS draws, NULL::DOUBLE[] AS of_draws
            FROM differences GROUP BY {groups}, draw_seed
            UNION ALL
            SELECT {groups}, 'backbone_seed', backbone_seed, avg(difference), list(differing), 1,
                count(*) - count(DISTINCT coalesce(draw_seed, -1)),
                list(coalesce(draw_seed, -1) ORDER BY draw_seed),
                list(difference ORDER BY draw_seed)
            FROM differences GROUP BY {groups}, backbone_seed
        ), tested AS (
            SELECT {groups}, unit, count(*) AS n, max(networks) AS n_networks,
                avg(difference) AS mean_difference, sum(twice)::BIGINT AS n_twice,
                stddev_samp(difference) AS sd, list(difference ORDER BY unit_seed) AS d,
                list(draws ORDER BY unit_seed) AS draws,
                list([x - difference FOR x IN of_draws] ORDER BY unit_seed) AS residuals,
                flatten(flatten(list(differing))) AS differing
            FROM units GROUP BY {groups}, unit
        ), spread AS (
            SELECT *, {_flipped_sums()} AS flipped, {_shared_draws()} AS of_shared_draws,
                len(list_distinct(flatten(draws))) AS n_draws
            FROM tested
        )
        SELECT {_listed(setting)}, {_listed(COORDINATES)}, unit, n, n_twice,
            CASE WHEN n_twice = 0 THEN mean_difference END AS mean_difference,
            CASE WHEN n_twice = 0 THEN sd END AS sd,
            CASE WHEN {untested} THEN NULL
                WHEN n <= {EXACT_LIMIT} THEN pow(2.0, 1 - n) ELSE {1 / (REPLICATES + 1)} END
                AS sign_flip_floor,
            CASE WHEN n <= {EXACT_UP_TO} AND NOT ({untested})
                THEN greatest({_sign_flip_p()}, {_p_with_shared_draws()}) END AS sign_flip_p,
            [x FOR x IN [{names}] IF list_contains(differing, x)] AS differs
        FROM spread JOIN settings USING (setting)"""


def _leaderboard() -> str:
    """Final means of one metric on one problem in their order, equal ones with one place.

    They are means over the networks and draws that every setting of the problem has, so that an
    extra bad network moves no place; `n_left_out` counts the others. Where no seeds are common to
    all, each setting has its own and `n_common` is 0. A network counts once, however many draws it
    has, so that differences of means are those of `paired`.
    """
    lower = ", ".join(f"'{name}'" for name in LOWER_IS_BETTER)
    better = f"CASE WHEN metric IN ({lower}) THEN mean ELSE -mean END"
    settings, problem = (*SETTINGS, *COORDINATES), (*PROBLEM, *COORDINATES)
    seed = "{'network': backbone_seed, 'draw': draw_seed}"
    return f"""
        WITH of_seeds AS (
            SELECT {_listed(settings)}, {seed} AS seed, backbone_seed AS network,
                avg(value) AS value
            FROM metric_values WHERE is_final AND value IS NOT NULL
            GROUP BY {_listed(settings)}, backbone_seed, draw_seed
        ), counted AS (
            SELECT *, count(*) OVER (PARTITION BY {_listed(problem)}, seed) AS n_with_seed,
                hash({_listed(settings)}) AS setting
            FROM of_seeds
        ), sized AS (
            SELECT {_listed(problem)}, count(DISTINCT setting) AS n_settings
            FROM counted GROUP BY {_listed(problem)}
        ), marked AS (
            SELECT c.*, n_with_seed = n_settings AS is_common
            FROM counted c JOIN sized s ON {_equal(problem, "c", "s")}
        ), weighed AS (
            SELECT *, count(*) OVER (PARTITION BY setting, {_listed(problem)}, network, is_common)
                AS n_draws
            FROM marked
        ), means AS (
            SELECT {_listed(settings)}, count_if(is_common) AS n_common,
                CASE WHEN n_common > 0 THEN count(*) - n_common ELSE 0 END AS n_left_out,
                count(*) - n_left_out AS n,
                CASE WHEN {_of_common("min", "n_draws")} = {_of_common("max", "n_draws")}
                    THEN {_of_common("avg")}
                    ELSE {_of_common("sum", "value / n_draws")}
                        / {_of_common("sum", "1 / n_draws")} END AS mean,
                {_of_common("stddev_samp")} AS sd,
                {_of_common("min")} AS minimum, {_of_common("max")} AS maximum
            FROM weighed GROUP BY {_listed(settings)}
        )
        SELECT rank() OVER (PARTITION BY {_listed(problem)} ORDER BY {better} NULLS LAST) AS place,
            {_listed(settings)}, mean, sd, n, minimum, maximum, n_common, n_left_out
        FROM means"""


def _of_common(function: str, figure: str = "value") -> str:
    return (
        f"coalesce({function}({figure}) FILTER (is_common), "
        f"CASE WHEN count_if(is_common) = 0 THEN {function}({figure}) END)"
    )


def _equal(names: Sequence[str], a: str, b: str) -> str:
    return " AND ".join(f"{a}.{name} IS NOT DISTINCT FROM {b}.{name}" for name in names)


def _selective() -> str:
    """AURC (`exact`, with ties) and AUGRC of the stored predictions, ranked by confidence.

    A block of m equally confident rows with s errors, after K rows with S errors, adds
    sum_j (S + s j / m) / (K + j) = s + (S - s K / m) (H(K + m) - H(K)) to n AURC, and
    m (2 S + s) to 2 n^2 AUGRC; a block of one row adds (S + s) / (K + 1), without harmonic numbers.
    Cells without stored labels or confidences have no row.
    """
    # Rows are grouped by a number, for a million of them are sorted, and by five texts that takes
    # twice as long. Sums of doubles are exact here, and faster than those of integers.
    within = _listed(("run", "round", "eval_dataset", "split", "stage"))
    return f"""
        WITH blocks AS (
            SELECT hash({within}) AS place, confidence, count(*)::DOUBLE AS m,
                count_if(predicted <> label)::DOUBLE AS s
            FROM predictions WHERE confidence IS NOT NULL AND label IS NOT NULL
            GROUP BY place, confidence
        ), stacked AS (
            SELECT place, m, s, sum(m) OVER surest - m AS k, sum(s) OVER surest - s AS e
            FROM blocks WINDOW surest AS (PARTITION BY place ORDER BY confidence DESC)
        ), areas AS (
            SELECT place, sum(m)::INTEGER AS n, sum(s) / sum(m) AS error_rate,
                sum(CASE WHEN m = 1 THEN (e + s) / (k + 1)
                    ELSE s + (e - s * k / m) * ({_harmonic("k + m")} - {_harmonic("k")}) END)
                    / sum(m) AS aurc,
                sum(m * (2 * e + s)) / (2 * sum(m) * sum(m)) AS augrc
            FROM stacked GROUP BY place
        )
        SELECT {within}, n, error_rate, aurc, augrc
        FROM (SELECT {within}, hash({within}) AS place FROM predictions GROUP BY {within})
        JOIN areas USING (place)"""


def _final_test(view: str) -> str:
    # What a table of results shows: after the last round, of all test rows and all classes.
    return f"""
        SELECT * EXCLUDE (is_final, class_name, slice_name, slice_value) FROM {view}
        WHERE is_final AND class_name IS NULL AND slice_name IS NULL
            AND split IN ('test', 'out_of_fold')"""


def _final_predictions() -> str:
    # Stored predictions after the last round, test rows alone, beside their run and their sample.
    told = ("arm", "budget", "head", "refit", "cache_recipe", "backbone_seed", "draw_seed")
    return f"""
        SELECT {_listed(told, "c")}, p.*, p.predicted <> p.label AS wrong,
            s.* EXCLUDE (dataset, sample_id, label, group_id, split)
        FROM predictions p
        JOIN runs c ON c.key = p.run
        LEFT JOIN samples s ON s.dataset = c.dataset AND s.sample_id = p.sample_id
        WHERE p.split IN ('test', 'out_of_fold') AND p.round = (
            SELECT max(m.round) FROM metrics m WHERE m.run = p.run AND m.is_final)"""


def _harmonic(n: str) -> str:
    # 1 + 1/2 + ... + 1/n: a list of the first; Euler and Maclaurin's series, exact to 1e-13, after.
    first = [sum(1.0 / i for i in range(1, j + 1)) for j in range(16)]
    x = f"({n})::DOUBLE"
    series = f"""ln({x}) + 0.57721566490153286 + 1 / (2 * {x}) - 1 / (12 * pow({x}, 2))
        + 1 / (120 * pow({x}, 4)) - 1 / (252 * pow({x}, 6)) + 1 / (240 * pow({x}, 8))"""
    return f"CASE WHEN {n} < 16 THEN {first!r}[({n})::INTEGER + 1] ELSE {series} END"


def _sign_flip_p() -> str:
    at_least = f"abs(list_sum(d)) - {TIE_TOLERANCE} * list_sum([abs(x) FOR x IN d])"
    return f"""list_sum([CASE WHEN abs(s) >= {at_least} THEN 1.0 ELSE 0.0 END
                FOR s IN flipped]) / pow(2.0, n - 1)"""


def _flipped_sums() -> str:
    # All sign patterns of the list `d`, the first sign held because a pattern and its mirror image
    # are equally far from 0. The bits of `mask` are the other signs.
    terms = " + ".join(
        f"(1 - 2 * ((mask >> {k - 2}) & 1)) * coalesce(d[{k}], 0)"
        for k in range(2, EXACT_UP_TO + 1)
    )
    # The range is empty beyond the limit, because both branches of a CASE may be evaluated.
    patterns = f"range(0, CASE WHEN n <= {EXACT_UP_TO} THEN 1 << (n - 1)::INTEGER ELSE 0 END)"
    return f"[d[1] + {terms} FOR mask IN {patterns}]"


def _shared_draws() -> str:
    """Variance of the draws that networks share, as `trustq.statistics.runs.run_parts` finds it.

    Of `draws` and `residuals`, lists by network: products of two networks' residuals in the draws
    that they have in common, over what their own means leave free.
    """
    products = """[[[residuals[i][k] * residuals[j][list_position(draws[j], draws[i][k])]
                    FOR k IN range(1, len(draws[i]) + 1)]
                    FOR j IN range(i + 1, n + 1)] FOR i IN range(1, n)]"""
    several = f"[x FOR x IN flatten({products}) IF list_aggregate(x, 'count') > 1]"
    return f"""CASE WHEN unit = 'backbone_seed' AND n <= {EXACT_UP_TO} THEN
                list_sum(flatten({several}))
                / list_sum([list_aggregate(x, 'count') - 1 FOR x IN {several}]) END"""


def _p_with_shared_draws() -> str:
    """p of flipped signs, blurred by the draws that networks share; 0 where they show none."""
    few, z = len(STUDENTS), NORMAL
    v = "greatest(n_draws - 1, 1)"
    # Cornish's and Fisher's series, right to 2e-8 from there on.
    series = f"""{z} + {(z**3 + z) / 4} / {v} + {(5 * z**5 + 16 * z**3 + 3 * z) / 96} / pow({v}, 2)
        + {(3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384} / pow({v}, 3)
        + {(79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160} / pow({v}, 4)"""
    student = f"CASE WHEN {v} <= {few} THEN {[*STUDENTS]!r}[least({v}, {few})] ELSE {series} END"
    factor = f"greatest(1.0, pow({student}, 2) / {z**2} * (1 - {z**2} / n))"
    sd = f"sqrt(of_shared_draws / n_draws * {factor})"
    mean = "abs(list_sum(d)) / n"
    beyond = [
        f"list_sum({_normal_shares(f'[({side} * s / n - {mean}) / {sd} FOR s IN flipped]')})"
        for side in (1, -1)
    ]
    known = f"of_shared_draws > 0 AND {sd} > {TIE_TOLERANCE} * list_sum([abs(x) FOR x IN d]) / n"
    # Rounded, so that no other machine's exp changes the text of an answer.
    return f"""CASE WHEN {known}
                THEN round(least(1.0, ({" + ".join(beyond)}) / pow(2.0, n - 1)), 10) ELSE 0.0 END"""


def _normal_shares(values: str) -> str:
    # The normal distribution function in double precision: Hart (1968) as in West (2005).
    above = _polynomial(
        "0.0352624965998911 0.700383064443688 6.37396220353165 33.912866078383 112.079291497871 "
        "221.213596169931 220.206867912376"
    )
    below = _polynomial(
        "0.0883883476483184 1.75566716318264 16.064177579207 86.7807322029461 296.564248779674 "
        "637.333633378831 793.826512519948 440.413735824752"
    )
    far = "(abs(y) + 1 / (abs(y) + 2 / (abs(y) + 3 / (abs(y) + 4 / (abs(y) + 0.65)))))"
    tail = f"""exp(-least(y * y, 1400) / 2) * CASE WHEN abs(y) < 7.07106781186547
                THEN {above} / {below} ELSE 1 / ({far} * 2.506628274631) END"""
    return f"[CASE WHEN y > 0 THEN 1 - {tail} ELSE {tail} END FOR y IN {values}]"


def _polynomial(coefficients: str) -> str:
    first, *others = coefficients.split()
    text = first
    for one in others:
        text = f"({text} * abs(y) + {one})"
    return text


def _listed(names: tuple[str, ...] | list[str] | dict[str, str], table: str = "") -> str:
    return ", ".join(f"{table}.{name}" if table else name for name in names)
