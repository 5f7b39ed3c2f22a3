"""The GPU stage: images through a backbone, into one cache per seed.

Importing this package is light; torch and timm are imported once there is something to run.
"""

from trustq.extraction.elsewhere import extract_with
from trustq.extraction.jobs import Extracted
from trustq.extraction.progress import Progress, StderrProgress
from trustq.extraction.run import extract

__all__ = [
    "Extracted",
    "Progress",
    "StderrProgress",
    "extract",
    "extract_with",
]
