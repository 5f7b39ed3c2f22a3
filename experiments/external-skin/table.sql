SELECT eval_dataset AS data, max(n) AS n, stage,
    any_value(value) FILTER (metric = 'accuracy') AS accuracy,
    any_value(value) FILTER (metric = 'macro_f1') AS macro_f1,
    any_value(value) FILTER (metric = 'ece') AS ece,
    any_value(value) FILTER (metric = 'nll') AS nll,
    any_value(value) FILTER (metric = 'aurc') AS aurc,
    any_value(value) FILTER (metric = 'augrc') AS augrc,
    any_value(value) FILTER (metric = 'coverage_at_0_5') AS coverage_at_0_5,
    any_value(value) FILTER (metric = 'risk_at_0_5') AS risk_at_0_5
FROM metrics
WHERE split IN ('test', 'external') AND class_name IS NULL
GROUP BY data, stage
ORDER BY data, list_position(['uncalibrated', 'calibrated', 'oracle_temperature', 'em_corrected',
    'bbse_corrected', 'reweighted'], stage)
-- Figures by data set and stage, the plain ones first.
