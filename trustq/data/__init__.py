"""The sample table and what is done to it: splits, label noise, weights, taxonomy, measures."""
