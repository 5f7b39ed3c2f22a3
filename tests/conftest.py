"""What several test files need: shared real data, hypothesis without a clock."""

import os

# Small problems gain nothing from a second thread, and on a busy machine threads that spin while
# they wait cost a hundredfold. Before numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from pathlib import Path

import hypothesis
import pytest

# Timings vary on shared machines; correctness tests have no deadline.
hypothesis.settings.register_profile("trustq", deadline=None)
hypothesis.settings.load_profile("trustq")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    """Real data beside the checkout; the test is skipped where they are not."""
    if not SHARED.is_dir():
        pytest.skip("needs the real data in ../shared/data, which are not in the repository")
    return SHARED
