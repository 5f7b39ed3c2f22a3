"""A small student from a cache's logits: the same training, with the teacher in its loss."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trustq.core.counts import counted
from trustq.data.manifest import Manifest
from trustq.errors import DishonestError, InputError
from trustq.extraction.jobs import Extracted
from trustq.extraction.run import Execution, extract
from trustq.extraction.train.progress import Progress
from trustq.recipes import Recipe, load_recipe
from trustq.store import read_cache
from trustq.store.read import require_same_manifest

STUDENTS = {"mobilenetv3": "mobilenetv3_small_100", "efficientnet_lite0": "tf_efficientnet_lite0"}
MOST_BYTES = 25_000_000  # of a student's weights
# AdamW as usual for distillation from a fixed teacher; a recipe or settings may say otherwise.
DEFAULTS = (
    "epochs=30",
    "image_size=224",
    "learning_rate=1e-3",
    "weight_decay=1e-4",
    "label_smoothing=0",
    "warmup_epochs=1",
    "extract.noise=none",
)


@dataclass(frozen=True)
class Distillation:
    """Whose logits a student learns from: the cache, a stored view of it, and the loss.

    `alpha` is the teacher's share of the loss, `temperature` what both are softened by.
    """

    teacher: Path
    view: str = ""
    alpha: float = 0.7
    temperature: float = 4.0


def distil(
    manifest: Manifest,
    distillation: Distillation,
    *,
    recipe: Recipe,
    seeds: Sequence[int],
    out: Path,
    device: str = "auto",
    progress: Progress | None = None,
) -> list[Extracted]:
    """Train students on a teacher's logits and write their caches, as `extract` does.

    `recipe` is that of `student_recipe`. The teacher's logits are those of unaugmented images, or
    of a stored view; the student sees augmented ones. Raises `TrustqError` for a teacher without
    logits, of another manifest or that saw validation or test labels, for a student that is too
    large, and for mixed images.
    """
    if not 0 <= distillation.alpha <= 1 or not distillation.temperature > 0:
        raise InputError(
            f"`alpha={distillation.alpha}` and `temperature={distillation.temperature}`: expected "
            "a share from 0 to 1 and a temperature above 0."
        )
    if recipe.extract.mixup or recipe.extract.cutmix:
        raise InputError(
            "The teacher's logits are of whole images, so images cannot be mixed: leave out mixup "
            "and cutmix."
        )
    _require_small(recipe, n_classes=len(manifest.classes))
    cache = read_cache(distillation.teacher)
    require_same_manifest(cache, manifest)
    taught = cache.view(distillation.view) if distillation.view else cache
    if taught.logits is None:
        raise InputError(
            f"{cache.name} is frozen and has no logits to teach with. Choose a trained network."
        )
    held_out = (cache.split != "train") & ~cache.honest_for_any_noise
    if held_out.any():
        raise DishonestError(
            f"{cache.name}: the teacher was trained on labels of "
            f"{counted(int(held_out.sum()), 'row')} outside the training split, which its student "
            "would inherit. Choose another teacher."
        )
    return extract(
        manifest,
        recipe=recipe,
        seeds=seeds,
        out=out,
        execution=Execution(device=device),
        progress=progress,
        taught_by=(
            taught.logits,
            {
                "cache": taught.content_digest,
                "alpha": distillation.alpha,
                "temperature": distillation.temperature,
            },
        ),
    )


def student_recipe(student: str, *, name: str = "", settings: Sequence[str] = ()) -> Recipe:
    """The recipe that a student is trained with.

    `student` is mobilenetv3, efficientnet_lite0 or any timm name whose weights take less than 25
    MB.

    >>> student_recipe("mobilenetv3", settings=["epochs=2"]).extract.backbone
    'mobilenetv3_small_100'
    """
    backbone = STUDENTS.get(student, student)
    weights = ("weights=package:efficientnet-lite0",) if student == "efficientnet_lite0" else ()
    own = (f"backbone={backbone}", *weights, *DEFAULTS, *settings)
    return replace(load_recipe(settings=own), name=name or f"student-{backbone}")


def _require_small(recipe: Recipe, *, n_classes: int) -> None:
    from trustq.extraction.jobs import torch_device
    from trustq.extraction.train.weights import make_network

    torch_device("cpu")  # torch, or what to install
    own = recipe.extract
    network = make_network(own.backbone, n_classes=n_classes, image_size=own.image_size)
    n_bytes = 4 * sum(parameter.numel() for parameter in network.model.parameters())
    if n_bytes >= MOST_BYTES:
        raise InputError(
            f"{own.backbone} takes {n_bytes / 1e6:.0f} MB; a student takes less than "
            f"{MOST_BYTES // 1_000_000}. Choose a smaller one, e.g. `student=mobilenetv3`."
        )
