"""The GPU stage: images through a backbone, into one cache per seed.

Importing this package is light; torch and timm are imported once there is something to run.
"""

from trustq.extraction.dump.reuse_networks import extract_with
from trustq.extraction.jobs import Extracted
from trustq.extraction.run import Execution, extract
from trustq.extraction.train.progress import Progress, StderrProgress

__all__ = [
    "Execution",
    "Extracted",
    "Progress",
    "StderrProgress",
    "extract",
    "extract_with",
]
