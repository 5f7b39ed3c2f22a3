-- Sensitivity and specificity for malignant by estimated skin tone, all data sets pooled.
WITH found AS (
    SELECT head, coalesce(row_weights, 'none') AS weights, slice_value AS tone,
        any_value(n) FILTER (metric = 'sensitivity') AS n_malignant,
        round(any_value(value) FILTER (metric = 'sensitivity'), 3) AS sensitivity,
        any_value(n) FILTER (metric = 'specificity') AS n_benign,
        round(any_value(value) FILTER (metric = 'specificity'), 3) AS specificity
    FROM metric_values
    WHERE is_final AND split = 'test' AND stage = 'uncalibrated' AND slice_name = 'ita_group'
        AND slice_value IS NOT NULL AND fit_on IS NULL AND head IN ('linear', 'balanced')
    GROUP BY ALL)
SELECT * FROM found
ORDER BY head DESC, weights DESC,
    list_position(['very light', 'light', 'intermediate', 'tan', 'brown', 'dark'], tone)
