-- One row a fit and head: figures of all test rows, F1 for malignant in each data set, the gaps.
WITH found AS (
    SELECT CASE WHEN row_weights IS NOT NULL THEN 'pooled, balanced' ELSE coalesce(fit_on, 'pooled') END
            AS fit, head,
        round(any_value(value) FILTER (metric = 'accuracy' AND slice_name IS NULL), 3) AS accuracy,
        round(any_value(value) FILTER (metric = 'macro_f1' AND slice_name IS NULL), 3) AS macro_f1,
        round(any_value(value) FILTER (metric = 'f1' AND class_name = 'malignant'), 3)
            AS malignant_f1,
        round(any_value(value) FILTER (metric = 'f1' AND slice_value = 'ham10000'), 3)
            AS f1_ham10000,
        round(any_value(value) FILTER (metric = 'f1' AND slice_value = 'isic2018-task3'), 3)
            AS f1_isic2018,
        round(any_value(value) FILTER (metric = 'f1' AND slice_value = 'pad-ufes-20'), 3)
            AS f1_pad,
        round(any_value(value) FILTER (metric = 'sensitivity_gap' AND slice_name = 'dataset'), 3)
            AS sensitivity_gap,
        round(any_value(value) FILTER (metric = 'specificity_gap' AND slice_name = 'dataset'), 3)
            AS specificity_gap
    FROM metric_values WHERE is_final AND split = 'test' AND stage = 'uncalibrated'
    GROUP BY fit_on, row_weights, head)
SELECT * FROM found ORDER BY fit LIKE 'pooled%', fit LIKE '%!=%', fit, head
