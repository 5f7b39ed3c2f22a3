"""trustq: which labels should be checked, does it pay, and can the model be trusted afterwards?

    import trustq as tq

- `tq.label_quality`, `tq.find_label_issues`, `tq.audit_labels`: which labels look wrong
- `tq.read_predictions`, `tq.evaluate`, `tq.compare`: can predictions be trusted, which are better
- `tq.trust`: under which condition, for whom and by which source of uncertainty
- `tq.open_cache`, `tq.import_cache`: features and labels to experiment on
- `tq.repair`, `tq.sweep`, `tq.plan`: which labels to buy, whether it pays, what a design can show
- `tq.Results`: SQL over what was run
- `tq.load_model`: a packaged model that predicts
- `tq.metrics`, `tq.calibration`, `tq.heads`: the parts, as functions and scikit-learn estimators

Arrays, pandas and polars frames go in, and tables with `to_pandas()` and `to_polars()` come out.
Nothing is imported before it is used. Modules import from those before them only: `core`,
`recipes`, `data`, `statistics`, `metrics`, `calibration`, `store`, `extraction` and `datasets`,
`heads`, `scoring`, `evaluation`, `repair`, `results`, `experiments`, `analysis`, `audit`, `report`,
`review` and `deploy`, `api`, `cli`; none of them loads torch but `extraction`, and `deploy` where
it packages or distils.
"""

from pathlib import Path

from trustq.core.lazy import lazy_names

TYPE_CHECKING = False  # true for type checkers by its name; typing alone would double the import

__version__ = "0.1.0"

# Where modules are found that moved, under the names by which scripts still import them.
__path__.append(str(Path(__file__).parent / "api" / "former"))

if TYPE_CHECKING:
    from trustq import calibration, heads, metrics
    from trustq.api.experiments import import_cache, open_cache, plan, repair, sweep
    from trustq.api.labels import audit_labels, find_label_issues, label_quality
    from trustq.api.predictions import compare, evaluate, read_predictions
    from trustq.api.results import Results
    from trustq.api.trust import trust
    from trustq.deploy.model import load_model
    from trustq.errors import TrustqError

__all__ = [
    "Results",
    "TrustqError",
    "audit_labels",
    "calibration",
    "compare",
    "evaluate",
    "find_label_issues",
    "heads",
    "import_cache",
    "label_quality",
    "load_model",
    "metrics",
    "open_cache",
    "plan",
    "read_predictions",
    "repair",
    "sweep",
    "trust",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Results": "trustq.api.results",
        "TrustqError": "trustq.errors",
        "audit_labels": "trustq.api.labels",
        "calibration": "trustq.calibration",
        "compare": "trustq.api.predictions",
        "evaluate": "trustq.api.predictions",
        "find_label_issues": "trustq.api.labels",
        "heads": "trustq.heads",
        "import_cache": "trustq.api.experiments",
        "label_quality": "trustq.api.labels",
        "load_model": "trustq.deploy.model",
        "metrics": "trustq.metrics",
        "open_cache": "trustq.api.experiments",
        "plan": "trustq.api.experiments",
        "read_predictions": "trustq.api.predictions",
        "repair": "trustq.repair",  # a package that can be called
        "sweep": "trustq.api.experiments",
        "trust": "trustq.api.trust:",  # what the module holds, not the module
    },
)
