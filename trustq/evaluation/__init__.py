"""Predictions of any model: their figures with intervals, slices, gaps and comparisons."""
