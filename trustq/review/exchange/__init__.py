"""Tasks and answers to and from annotation tools and sheets.

| form | what | files |
|---|---|---|
| `label-studio` | tasks with predictions, exports as JSON, JSON-MIN and CSV | .json, .csv |
| `cvat` | "CVAT for images 1.1": tags of images | .xml |
| `prodigy` | choice tasks and annotations | .jsonl |
| `doccano` | image classification | .jsonl |
| `fiftyone` | FiftyOneImageClassificationDataset labels; a FiftyOneDataset is read too | .json |
| `sheet` | a table of answers | .csv, .xlsx, .parquet |
| `journal` | what the one-file page saves | .jsonl |
"""

from trustq.review.exchange.forms import FORMS, form_of, read_answers_of, write_exchange
from trustq.review.exchange.task import UNSURE, Task

__all__ = ["FORMS", "UNSURE", "Task", "form_of", "read_answers_of", "write_exchange"]
