"""Copies and near copies: fingerprints, keypoints, the list of pairs."""
