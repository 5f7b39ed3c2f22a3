"""Calibrators: temperature, also under label noise, and the registry of all of them."""
