"""Figures of predictions: classification, per class, selective prediction, calibration error."""
