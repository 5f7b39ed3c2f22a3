-- Means over twenty draws after the temperature, on the rows of $split (test or external); gain is
-- over no repair, by draw.
WITH runs_of AS (
    SELECT key, eval_dataset, noise, draw_seed, arm, arm_title, budget, n_wrong_start, n_bought,
        metric, value
    FROM metric_values
    WHERE split = $split AND stage = 'calibrated' AND is_final
      AND class_name IS NULL AND slice_name IS NULL
      AND metric IN ('accuracy', 'macro_f1', 'macro_auroc', 'nll', 'ece', 'aurc', 'augrc')
), wide AS (
    SELECT key, eval_dataset, noise, draw_seed, arm, arm_title, budget, n_wrong_start, n_bought,
        max(value) FILTER (metric = 'accuracy') AS accuracy,
        max(value) FILTER (metric = 'macro_f1') AS macro_f1,
        max(value) FILTER (metric = 'macro_auroc') AS macro_auroc,
        max(value) FILTER (metric = 'nll') AS nll,
        max(value) FILTER (metric = 'ece') AS ece,
        max(value) FILTER (metric = 'aurc') AS aurc,
        max(value) FILTER (metric = 'augrc') AS augrc
    FROM runs_of GROUP BY ALL
), with_found AS (
    SELECT wide.*, errors_found_total AS found
    FROM wide LEFT JOIN rounds ON wide.key = rounds.run AND rounds.round = 1
)
SELECT own.eval_dataset AS images, own.noise, own.arm_title AS arm, own.budget,
    round(avg(own.n_bought)) AS bought, round(avg(own.n_wrong_start)) AS wrong,
    round(avg(own.found)) AS found,
    round(avg(own.accuracy), 4) AS accuracy, round(stddev(own.accuracy), 4) AS sd,
    round(avg(own.accuracy - bare.accuracy), 4) AS gain,
    round(avg(own.macro_f1), 4) AS macro_f1,
    round(avg(own.macro_f1 - bare.macro_f1), 4) AS gain_f1,
    round(avg(own.macro_auroc), 4) AS macro_auroc, round(avg(own.nll), 4) AS nll,
    round(avg(own.ece), 4) AS ece, round(avg(own.aurc), 4) AS aurc, round(avg(own.augrc), 4) AS augrc,
    count(*) AS draws
FROM with_found own JOIN with_found bare
    ON bare.arm = 'none' AND bare.noise = own.noise AND bare.draw_seed = own.draw_seed
    AND bare.eval_dataset = own.eval_dataset
GROUP BY own.eval_dataset, own.noise, own.arm_title, own.arm, own.budget
ORDER BY own.eval_dataset, own.noise, try_cast(replace(own.budget, '%', '') AS DOUBLE) NULLS LAST, own.budget, own.arm
