SELECT eval_dataset AS "recall of",
    any_value(value) FILTER (class_name = 'akiec') AS akiec,
    any_value(value) FILTER (class_name = 'bcc') AS bcc,
    any_value(value) FILTER (class_name = 'bkl') AS bkl,
    any_value(value) FILTER (class_name = 'df') AS df,
    any_value(value) FILTER (class_name = 'mel') AS mel,
    any_value(value) FILTER (class_name = 'nv') AS nv,
    any_value(value) FILTER (class_name = 'vasc') AS vasc
FROM metrics
WHERE metric = 'recall' AND stage = 'uncalibrated' AND split IN ('test', 'external')
GROUP BY eval_dataset
ORDER BY eval_dataset
-- Of every class; nothing where it has no row.
