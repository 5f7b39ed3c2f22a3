"""The GPU stage: images through a backbone, into one cache per seed.

Importing this package is light; torch and timm are imported once there is something to run.
"""

from trustq.extraction.progress import Progress, StderrProgress
from trustq.extraction.run import Extracted, extract, extract_with

__all__ = [
    "Extracted",
    "Progress",
    "StderrProgress",
    "extract",
    "extract_with",
]
