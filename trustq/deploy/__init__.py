"""From a study to something used: package, export, triage, serve.

What serves imports neither torch nor timm; packaging and distilling import them when they run.
"""
