"""Tests, intervals and power of paired designs."""
