"""trustq: which labels should be checked, does it pay, and can the model be trusted afterwards?

Data flows one way, from the first of these to the last; none of them loads torch but `extraction`.

- `datasets`, `manifest`, `splits`, `noise`: published files to a sample table; label noise
- `extraction`: the GPU stage, images to features and logits
- `store`: the cache, one sealed HDF5 file per recipe and backbone seed; to and from other formats
- `balance`: weights by which rare classes, domains and groups count as much as others
- `heads`: classifiers on features, and the out-of-fold probabilities that scores insist on
- `scoring`, `repair`: which labels look wrong; arms, budgets and the repair loop
- `audit`: which labels of real data look wrong, answers, a cleaned list, what dropping changes
- `calibration`, `calibrators`, `calibration_error`: confidence that means what it says
- `metrics`, `class_metrics`, `slices`: figures of all rows, of classes, of slices
- `selective`, `confidence`, `aurc_conventions`, `guarantee`: answering only when sure
- `stats`, `bootstrap`, `significance`, `arm_comparison`: tests and intervals
- `power`, `plan`: what a sweep could show and what it costs, before it runs
- `recipes`: every setting, and the packaged recipes
- `results`, `report`: Parquet parts and SQL views; tables and figures
- `predictions`, `evaluate`, `compare`: pages for anyone's stored predictions
"""

__version__ = "0.1.0"
