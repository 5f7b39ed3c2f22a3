"""Explanations as data: maps of stored networks, their stability, trust cells, failure audits."""
