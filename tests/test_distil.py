"""A student learns its teacher's logits beside the labels; the loss is the formula's."""

from pathlib import Path

import numpy as np
import pytest
from support_extract import Heard, extract_one, make_rows, tiny

torch = pytest.importorskip("torch")

from trustq.errors import InputError  # noqa: E402
from trustq.extraction.distil import Distillation, distil, student_recipe  # noqa: E402
from trustq.extraction.train.teacher import Teacher  # noqa: E402
from trustq.store import read_cache  # noqa: E402

SMALL = [
    "pretrained=false",
    "image_size=32",
    "batch_size=16",
    "epochs=4",
    "learning_rate=2e-3",
    "workers=0",
]


def test_the_loss_is_the_formula_row_by_row() -> None:
    rng = np.random.default_rng(0)
    theirs, own = rng.standard_normal((9, 4)) * 3, rng.standard_normal((3, 4)) * 3
    rows = np.array([7, 0, 4])

    def soft(z: np.ndarray) -> np.ndarray:
        e = np.exp((z - z.max()) / 4)
        return e / e.sum()

    divergence = 0.0
    for row, z in zip(rows, own, strict=True):
        p, q = soft(theirs[row]), soft(z)
        divergence += float((p * np.log(p / q)).sum()) / 3
    expected = 0.7 * 16 * divergence + 0.3 * 1.25
    found = Teacher(theirs, 0.7, 4.0).loss(torch.tensor(1.25), torch.tensor(own), rows)
    assert abs(float(found) - expected) < 1e-5
    plain = Teacher(theirs, 0.0, 4.0).loss(torch.tensor(1.25), torch.tensor(own), rows)
    assert float(plain) == 1.25


def test_a_student_follows_its_teacher_and_says_so(images: Path, tmp_path: Path) -> None:
    manifest = make_rows(images)
    teacher = extract_one(manifest, tiny("epochs=4", "extract.noise=none"), tmp_path)
    made = {}
    for alpha in (0.0, 1.0):
        (one,) = distil(
            manifest,
            Distillation(teacher.path, alpha=alpha),
            recipe=student_recipe("test_convnext", name=f"student-{alpha:g}", settings=SMALL),
            seeds=[3],
            out=tmp_path,
            progress=Heard(),
        )
        made[alpha] = read_cache(one.path)
    assert made[1.0].recipe["teacher"]["cache"] == teacher.content_digest
    assert made[1.0].recipe["teacher"]["alpha"] == 1.0
    train = teacher.split == "train"

    def distance(cache: object) -> float:
        gaps = cache.logits[train] - teacher.logits[train]  # type: ignore[attr-defined]
        return float((gaps - gaps.mean(axis=1, keepdims=True)).std())

    assert distance(made[1.0]) < distance(made[0.0])


def test_students_and_teachers_that_cannot_be_are_refused(images: Path, tmp_path: Path) -> None:
    manifest = make_rows(images)
    frozen = extract_one(manifest, tiny("mode=frozen", "extract.noise=none"), tmp_path)
    teacher = Distillation(frozen.path)
    small, large = (student_recipe(n, settings=SMALL) for n in ("test_convnext", "resnet50"))
    options = {"seeds": [0], "out": tmp_path, "progress": Heard()}
    with pytest.raises(InputError, match="is frozen and has no logits to teach with"):
        distil(manifest, teacher, recipe=small, **options)
    with pytest.raises(InputError, match="resnet50 takes 94 MB; a student takes less than 25"):
        distil(manifest, teacher, recipe=large, **options)
    with pytest.raises(InputError, match="expected a share from 0 to 1"):
        distil(manifest, Distillation(frozen.path, alpha=2), recipe=small, **options)
    recipe = student_recipe("efficientnet_lite0").extract
    assert recipe.weights == "package:efficientnet-lite0" and recipe.epochs == 30
