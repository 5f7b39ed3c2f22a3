"""What several test files need: shared real data, hypothesis without a clock."""

import os

# Small problems gain nothing from a second thread, and on a busy machine threads that spin while
# they wait cost a hundredfold. Before numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from pathlib import Path

import hypothesis
import pytest
from support_deploy import Packaged, package_shapes
from support_extract import draw_images, make_rows

from trustq.data.manifest import Manifest

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


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `trustq demo` makes, to be read only."""
    from trustq.cli import app
    from typer.testing import CliRunner

    # For the tests of pages alone: one that `make demo` made from this tree.
    if "TRUSTQ_DEMO" in os.environ:
        return Path(os.environ["TRUSTQ_DEMO"]).resolve()
    folder = tmp_path_factory.mktemp("demo") / "demo"
    made = CliRunner().invoke(app, ["demo", "--out", str(folder)])
    assert made.exit_code == 0, made.output
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of sixty drawn images, to be read only."""
    root = tmp_path_factory.mktemp("images")
    draw_images(root)
    return root


@pytest.fixture
def manifest(images: Path) -> Manifest:
    """Rows of the drawn images: 36 train, 12 val, 12 test."""
    return make_rows(images)


@pytest.fixture(scope="session")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Packaged:
    """A packaged model of drawn shapes, to be read only."""
    for module in ("torch", "onnxscript", "onnxruntime"):
        pytest.importorskip(module)
    return package_shapes(tmp_path_factory.mktemp("packaged"))
