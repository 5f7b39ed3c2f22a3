"""Queries to start from, shown by `trustq sql` alone; each runs on any results folder."""

EXAMPLES: tuple[tuple[str, str], ...] = (
    (
        "Main table: every arm after repair, mean and sd over seeds",
        """SELECT head, budget, arm, stage, metric, mean, sd, n
FROM seeds
WHERE is_final AND split IN ('test', 'out_of_fold') AND class_name IS NULL AND slice_name IS NULL
    AND metric IN ('accuracy', 'macro_f1', 'ece', 'aurc')
ORDER BY metric, stage, head, budget, mean DESC""",
    ),
    (
        "Repair curve: accuracy against labels bought",
        """SELECT arm, budget, n_bought_total, mean, sd, n
FROM curves
WHERE metric = 'accuracy' AND split IN ('test', 'out_of_fold') AND stage = 'uncalibrated'
    AND class_name IS NULL AND slice_name IS NULL
ORDER BY arm, budget, n_bought_total""",
    ),
    (
        "Ledger: what share of the labels each arm bought was wrong",
        """SELECT c.arm, c.budget,
    avg(r.errors_found_total / r.n_bought_total) AS purchase_precision,
    avg(r.noise_left) AS noise_left, count(*) AS n_runs
FROM rounds r JOIN runs c ON r.run = c.key
WHERE r.n_bought_total > 0 AND r.n_bought_total = c.n_bought
GROUP BY c.arm, c.budget
ORDER BY purchase_precision DESC""",
    ),
    (
        "Paired differences from random purchases, draw by draw",
        """SELECT arm, budget, metric, stage, n, mean_difference, sd, sign_flip_p, sign_flip_floor,
    differs
FROM paired
WHERE baseline = 'random' AND unit = 'draw_seed' AND split IN ('test', 'out_of_fold')
    AND class_name IS NULL AND slice_name IS NULL
ORDER BY metric, stage, arm, budget""",
    ),
    (
        "Risk against coverage: error among the most confident predictions",
        """WITH ranked AS (
    SELECT p.run, c.arm, c.budget, p.label <> p.predicted AS wrong,
        row_number() OVER by_confidence AS n_kept, count(*) OVER (PARTITION BY p.run) AS n_all,
        sum((p.label <> p.predicted)::INTEGER) OVER by_confidence AS n_wrong
    FROM predictions p JOIN runs c ON p.run = c.key
    WHERE p.split IN ('test', 'out_of_fold') AND p.stage = 'uncalibrated' AND p.round = (
        SELECT max(m.round) FROM metrics m WHERE m.run = p.run AND m.is_final)
    WINDOW by_confidence AS (
        PARTITION BY p.run ORDER BY p.confidence DESC, p.sample_id ROWS UNBOUNDED PRECEDING)
)
SELECT arm, budget, ceil(10.0 * n_kept / n_all) / 10 AS coverage,
    avg(n_wrong / n_kept) AS selective_risk
FROM ranked
GROUP BY arm, budget, coverage
ORDER BY arm, budget, coverage""",
    ),
    (
        "Per class: recall of each arm, from the stored predictions",
        """SELECT label, arm, budget, avg((predicted = label)::INT) AS recall, count(*) AS n
FROM predictions JOIN runs ON key = run
WHERE split IN ('test', 'out_of_fold') AND stage = 'uncalibrated'
GROUP BY ALL
ORDER BY label, recall DESC""",
    ),
    (
        "External sets: what of a loss is in the class frequencies, what in the images",
        """SELECT eval_dataset, arm, budget, stage, metric, mean, sd, n
FROM seeds
WHERE is_final AND split = 'external' AND class_name IS NULL AND slice_name IS NULL
    AND metric IN ('accuracy', 'nll', 'ece')
ORDER BY eval_dataset, arm, budget, metric, stage""",
    ),
    (
        "Slices: figures of parts of the test rows; a row without a value is a gap between slices",
        """SELECT arm, head, slice_name, slice_value, metric, avg(value) AS mean, avg(n) AS n_rows
FROM metric_values
WHERE is_final AND slice_name IS NOT NULL AND split IN ('test', 'out_of_fold')
    AND stage = 'uncalibrated'
GROUP BY ALL
ORDER BY ALL""",
    ),
    (
        "Warnings: runs whose figures are not what an honest experiment gives",
        """SELECT arm, exposure, leaky, in_sample, backbone_saw_rows, count(*) AS n_runs
FROM runs
GROUP BY ALL
ORDER BY n_runs DESC""",
    ),
)
