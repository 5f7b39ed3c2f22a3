"""Augmentations and corruptions change pixels by what they say, and each of them does."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trustq.core.generators import generator
from trustq.errors import TrustqError
from trustq.extraction.inputs import pixels
from trustq.extraction.inputs.augment import WHOLE, Augmentation
from trustq.extraction.inputs.corruptions import CORRUPTIONS, Corruption
from trustq.extraction.inputs.domain_augmentation import EFFECTS, Bridging, draw_skin_tone
from trustq.recipes import load_recipe

SIDE = 96
OFF = ("horizontal_flip=false", "vertical_flip=false", "rotation=0.0", "colour_jitter=0.0")


def skin(width: int = SIDE, height: int = SIDE) -> Image.Image:
    """Grained skin with a darker, coloured spot off its centre."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:height, :width]
    values = np.array([190.0, 140.0, 130.0]) + rng.normal(0, 3, (height, width, 1))
    spot = (x - 0.4 * width) ** 2 + (y - 0.55 * height) ** 2 < (0.2 * min(width, height)) ** 2
    values[spot] -= (70, 80, 60)
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def of(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(float)


def distance(one: Image.Image, two: Image.Image) -> float:
    return float(np.abs(of(one) - of(two)).mean())


def apply(name: str, image: Image.Image, strength: int = 0, seed: int = 0) -> Image.Image:
    return EFFECTS[name].apply(image, strength, np.random.default_rng(seed))


def augmentation(*settings: str) -> Augmentation:
    return Augmentation.of_recipe(load_recipe(settings=[*OFF, *settings]).extract, seed=3)


# --- every registered name -----------------------------------------------------------------------


@pytest.mark.parametrize("name", EFFECTS)
@pytest.mark.parametrize("size", [(SIDE, SIDE), (80, 60), (224, 224)])
def test_every_effect_changes_an_image_that_has_what_it_acts_on(
    name: str, size: tuple[int, int]
) -> None:
    image = skin(*size)
    for added, removing in (("vignette", "remove_vignette"), ("hair", "remove_hair")):
        image = apply(added, image) if name == removing else image
    for strength in range(1, EFFECTS[name].strengths + 1) or [0]:
        changed = apply(name, image, strength)
        assert changed.size == image.size and changed.mode == "RGB"
        assert distance(changed, image) > 0.05, (name, strength)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_changes_an_image_and_depends_on_name_and_id_alone(name: str) -> None:
    image = skin(120, 90)
    changed = Corruption(name)(image, "ISIC_1")
    assert changed.size == image.size and changed.mode == "RGB"
    assert distance(changed, image) > 0.5
    assert changed.tobytes() == Corruption(name)(image, "ISIC_1").tobytes()
    kinds = ("gaussian-noise", "speckle-noise", "impulse-noise", "shot-noise", "motion-blur")
    drawn = any(name.startswith(f"mc-{kind}") for kind in (*kinds, "characters"))
    is_random = "noise_sigma" in CORRUPTIONS[name] or drawn
    assert (changed.tobytes() != Corruption(name)(image, "ISIC_2").tobytes()) == is_random


@pytest.mark.parametrize("stem", ["noise", "blur", "jpeg", "light", "rotation"])
def test_corruptions_of_a_kind_grow_with_their_number(stem: str) -> None:
    image = skin(160, 120)
    names = [name for name in CORRUPTIONS if name.startswith(f"{stem}-")]
    found = [distance(Corruption(name)(image, "a"), image) for name in names]
    assert len(names) >= 2 and found == sorted(found) and len(set(found)) == len(found)


def test_corruptions_have_the_published_amounts() -> None:
    assert [CORRUPTIONS[f"noise-{i}"]["noise_sigma"] for i in (1, 2, 3)] == [5, 12, 25]
    assert [CORRUPTIONS[f"blur-{i}"]["blur_radius"] for i in (1, 2, 3)] == [1.5, 2.5, 3.5]
    assert [CORRUPTIONS[f"jpeg-{i}"]["jpeg_quality"] for i in (1, 2, 3)] == [60, 35, 20]
    assert [tuple(CORRUPTIONS[f"light-{i}"].values()) for i in (1, 2, 3)] == [
        (1.15, 1.0),
        (1.30, 1.1),
        (1.45, 1.2),
    ]
    assert CORRUPTIONS["cast"] == {"colour_shift": [25, 5, 0]}
    assert CORRUPTIONS["down-up"] == {"resolution": 0.45}


# --- amounts of the parts ------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [5.0, 12.0, 25.0])
def test_noise_has_its_standard_deviation_in_every_channel_alone(sigma: float) -> None:
    grey = Image.new("RGB", (300, 200), (128, 128, 128))
    noise = of(pixels.add_noise(grey, sigma, np.random.default_rng(0))) - 128
    assert noise.std() == pytest.approx(sigma, rel=0.01) and abs(noise.mean()) < 0.1
    correlation = np.corrcoef(noise.reshape(-1, 3).T)
    assert np.abs(correlation - np.eye(3)).max() < 0.02


def test_noise_is_the_same_whether_it_is_made_in_strips_or_whole(monkeypatch: Any) -> None:
    whole = pixels.add_noise(skin(), 12.0, np.random.default_rng(0))
    monkeypatch.setattr(pixels, "_STRIP", 1000)
    assert pixels.add_noise(skin(), 12.0, np.random.default_rng(0)).tobytes() == whole.tobytes()


@pytest.mark.parametrize("radius", [1.5, 2.5, 3.5])
def test_blur_spreads_a_point_by_its_radius(radius: float) -> None:
    point = Image.new("RGB", (61, 61))
    point.paste((255, 255, 255), (28, 28, 33, 33))
    spread = of(pixels.blur(point, radius))[..., 0].sum(axis=0)
    at = np.arange(61) - 30
    variance = (spread * at**2).sum() / spread.sum() - 2  # the square's own
    assert np.sqrt(variance) == pytest.approx(radius, rel=0.08)


def test_a_lower_jpeg_quality_is_further_away() -> None:
    image = skin(160, 120)
    found = [distance(pixels.compress(image, quality), image) for quality in (60, 35, 20)]
    assert found == sorted(found) and found[0] > 0.5


def test_light_contrast_and_cast_are_arithmetic_on_grey() -> None:
    grey = Image.new("RGB", (4, 4), (100, 100, 100))
    grey.paste((140, 140, 140), (0, 0, 2, 4))
    assert of(pixels.scale_brightness(grey, 1.3))[0, :, 0].tolist() == [182, 182, 130, 130]
    assert of(pixels.scale_contrast(grey, 1.2))[0, :, 0].tolist() == [144, 144, 96, 96]
    assert of(pixels.shift_colour(grey, (25, 5, 0)))[0, 3].tolist() == [125, 105, 100]
    assert of(pixels.shift_colour(grey, (200, -200, 0)))[0, 3].tolist() == [255, 0, 100]


def test_down_up_loses_what_is_finer_than_its_scale() -> None:
    stripes = Image.fromarray(np.tile(np.array([0, 200], np.uint8), (60, 40))).convert("RGB")
    assert of(stripes).std() == 100 and of(pixels.lose_resolution(stripes, 0.45)).std() < 30


def test_rotation_turns_by_its_degrees_about_the_centre() -> None:
    image = Image.new("RGB", (101, 101))
    image.paste((255, 255, 255), (88, 48, 93, 53))  # 40 right of the centre
    y, x = np.argwhere(of(pixels.rotate(image, 45.0))[..., 0] > 128).mean(axis=0)
    assert (x - 50, 50 - y) == pytest.approx((40 / np.sqrt(2), 40 / np.sqrt(2)), abs=0.6)


@pytest.mark.parametrize("shift", [(-25.0, 0, 0), (15.0, 0, 0), (0, 5.0, 0), (0, 0, -8.0)])
def test_lab_shift_moves_mean_lab_by_what_was_asked(shift: tuple[float, float, float]) -> None:
    from PIL import ImageCms

    image = skin()
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )

    def mean_lab(image: Image.Image) -> np.ndarray:
        lab = ImageCms.applyTransform(image, to_lab)
        assert lab is not None
        # L* in 255 steps; a* and b* as bytes of which 128 is zero.
        means = [np.asarray(channel).astype(float).mean() for channel in lab.split()]
        return np.array(means) * (100 / 255, 1, 1)

    moved = mean_lab(pixels.shift_lab(image, shift)) - mean_lab(image)
    # Pillow's LAB has the white of D50 and whole steps.
    np.testing.assert_allclose(moved, shift, atol=1.0)


def test_lab_shift_of_nothing_changes_nothing() -> None:
    every = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    assert np.array_equal(of(pixels.shift_lab(Image.fromarray(every), (0, 0, 0))), every)


# --- bridging ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_vignette_darkens_corners_and_leaves_the_centre(seed: int) -> None:
    image = skin()
    dark = of(apply("vignette", image, seed=seed))
    middle = slice(SIDE // 2 - 12, SIDE // 2 + 12)
    assert np.abs(dark[middle, middle] - of(image)[middle, middle]).max() <= 1
    assert dark[:5, :5].mean() < 0.5 * of(image)[:5, :5].mean()


@pytest.mark.parametrize("seed", range(5))
def test_removing_a_vignette_or_hair_brings_the_image_nearer_to_what_it_was(seed: int) -> None:
    image = skin(224, 224)
    for name, share in (("vignette", 0.6), ("hair", 0.5)):
        worse = apply(name, image, seed=seed)
        better = apply(f"remove_{name}", worse)
        assert distance(better, image) < share * distance(worse, image), name


def test_removing_what_is_not_there_leaves_most_of_an_image() -> None:
    image = skin(224, 224)
    for name in ("remove_vignette", "remove_hair"):
        assert distance(apply(name, image), image) < 2, name


@pytest.mark.parametrize("seed", range(8))
def test_ruler_draws_ticks_along_one_edge_and_nowhere_else(seed: int) -> None:
    image = skin(224, 224)
    drawn = of(apply("ruler", image, seed=seed)) != of(image)
    near = 224 // 6
    edges = {
        "top": drawn[:near],
        "left": drawn[:, :near].transpose(1, 0, 2),
        "bottom": drawn[-near:][::-1],
        "right": drawn[:, -near:].transpose(1, 0, 2)[::-1],
    }
    edge = max(edges, key=lambda name: edges[name].sum())
    assert edges[edge].sum() >= 0.95 * drawn.sum()
    ticks = edges[edge].any(axis=(0, 2))
    assert np.count_nonzero(np.diff(ticks.astype(int)) == 1) >= 12


def test_hair_is_dark_and_thin_and_bubbles_have_bright_spots() -> None:
    image = skin(224, 224)
    hair = of(apply("hair", image)) - of(image)
    touched = (hair != 0).any(axis=2)
    assert 0.01 < touched.mean() < 0.25 and hair[touched].mean() < -20
    bubbles = of(apply("bubbles", image)) - of(image)
    assert bubbles.max() > 40 and bubbles.min() < -5
    assert 0.005 < (bubbles != 0).any(axis=2).mean() < 0.4


@pytest.mark.parametrize("name", [name for name, effect in EFFECTS.items() if effect.strengths])
def test_strengths_grow(name: str) -> None:
    image = skin()
    found = [distance(apply(name, image, strength), image) for strength in (1, 2, 3)]
    assert EFFECTS[name].strengths == 3 and found == sorted(found) and found[2] > 1.2 * found[0]


def test_skin_tone_draws_lie_in_their_ranges_and_fall_to_seven_images_in_ten() -> None:
    draws = np.array([draw_skin_tone(np.random.default_rng(i)) for i in range(400)])
    least, most = draws.min(axis=0), draws.max(axis=0)
    assert (least >= (-25, -5, -8)).all() and (most <= (15, 5, 8)).all()
    np.testing.assert_allclose(least, (-25, -5, -8), atol=0.7)
    np.testing.assert_allclose(most, (15, 5, 8), atol=0.7)
    image = Image.new("RGB", (4, 4), (150, 120, 110))
    bridge = Bridging.of_names(["skin_tone"], seed=0)
    changed = [bridge.add(image, 0, row).tobytes() != image.tobytes() for row in range(300)]
    assert np.mean(changed) == pytest.approx(0.7, abs=0.08)


def test_an_effect_draws_the_same_whichever_others_are_listed() -> None:
    image = skin()
    alone = Bridging.of_names(["hair:1"], seed=0)
    both = Bridging.of_names(["ruler:0.0001", "hair:1"], seed=0)
    assert alone.add(image, 2, 5).tobytes() == both.add(image, 2, 5).tobytes()
    assert alone.add(image, 2, 5).tobytes() != alone.add(image, 3, 5).tobytes()
    assert alone.add(image, 2, 5).tobytes() != replace(alone, seed=1).add(image, 2, 5).tobytes()


def test_a_strength_is_drawn_where_none_is_named() -> None:
    image = skin()
    drawn = Bridging.of_names(["jpeg:1"], seed=0)
    fixed = [Bridging.of_names([f"jpeg-{i}:1"], seed=0) for i in (1, 2, 3)]
    found = [
        [bridge.add(image, 0, row).tobytes() for bridge in fixed].index(
            drawn.add(image, 0, row).tobytes()
        )
        for row in range(12)
    ]
    assert set(found) == {0, 1, 2}


# --- the training augmentation -------------------------------------------------------------------


def test_random_crop_boxes_have_their_areas_and_aspects() -> None:
    augment = augmentation("random_crop=0.5")
    boxes = np.array([augment.crop(epoch, row) for epoch in range(3) for row in range(300)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (boxes >= 0).all() and (boxes <= 1 + 1e-9).all()
    area, aspect = width * height, width / height
    inside = (width < 1) & (height < 1)
    assert 0.5 <= area[inside].min() < 0.52 and area.max() > 0.9
    assert 0.75 <= aspect.min() < 0.8 and 1.25 < aspect.max() <= 4 / 3
    assert boxes[:, :2].min() < 0.01 and len(np.unique(boxes[:, 0])) > 500
    assert augmentation("random_crop=1.0").crop(0, 0) == WHOLE


def test_hue_jitter_turns_colours_and_leaves_grey() -> None:
    pytest.importorskip("torchvision")
    augment = augmentation("hue_jitter=0.5")
    red = Image.new("RGB", (4, 4), (200, 40, 40))
    grey = Image.new("RGB", (4, 4), (90, 90, 90))
    turned = [augment(red, 0, row).getpixel((0, 0)) for row in range(40)]
    assert any(max(pixel[1:]) > pixel[0] for pixel in turned if isinstance(pixel, tuple))
    assert all(augment(grey, 0, row).tobytes() == grey.tobytes() for row in range(5))
    assert augmentation()(red, 0, 0).tobytes() == red.tobytes()


def test_new_keys_leave_the_draws_of_the_old_ones_alone() -> None:
    image = skin()
    old = Augmentation(3, True, True, True, 15.0, 0.1)
    draws = generator(3, "augment", 1, 2).random(7)
    assert draws.tolist() == generator(3, "augment", 1, 2).random(12)[:7].tolist()
    with_crop = replace(old, random_crop=0.5)
    assert with_crop(image, 1, 2).tobytes() == old(image, 1, 2).tobytes()


def test_bridging_is_part_of_the_augmentation() -> None:
    image = skin()
    augment = augmentation("bridging=ruler:1")
    assert augment(image, 0, 0).tobytes() != image.tobytes()
    assert augmentation()(image, 0, 0).tobytes() == image.tobytes()


def test_removals_see_the_image_before_it_is_turned() -> None:
    image = apply("hair", skin(224, 224))
    turn = ("rotation=90.0", "bridging=remove_hair:1")
    turned = replace(augmentation(*turn), bridging=None)
    removed = apply("remove_hair", image)
    assert augmentation(*turn)(image, 0, 0).tobytes() == turned(removed, 0, 0).tobytes()


@pytest.mark.parametrize(
    "setting, message",
    [
        ("random_crop=0.0", "random_crop is 0, expected 0.01 to 1."),
        ("random_crop=1.5", "random_crop is 1.5, expected 0.01 to 1."),
        ("hue_jitter=0.6", "hue_jitter is 0.6, expected 0 to 0.5."),
        ("colour_jitter=2.0", "colour_jitter is 2, expected 0 to 1."),
        ("rotation=-3.0", "rotation is -3, expected 0 to 180."),
        (
            "bridging=hairs",
            "bridging=hairs: there is no effect 'hairs' (did you mean 'hair'?). There are: "
            f"{', '.join(EFFECTS)}.",
        ),
        ("bridging=hair-2", "bridging=hair-2: hair has no strengths."),
        ("bridging=jpeg-4", "bridging=jpeg-4: jpeg has the strengths jpeg-1 to jpeg-3."),
        (
            "bridging=hair:2",
            "bridging=hair:2: expected a probability above 0 and up to 1, e.g. hair:0.5.",
        ),
        (
            "bridging=hair:often",
            "bridging=hair:often: expected a probability above 0 and up to 1, e.g. hair:0.5.",
        ),
    ],
)
def test_amounts_that_cannot_be_are_told(setting: str, message: str) -> None:
    with pytest.raises(TrustqError) as error:
        augmentation(setting)
    assert str(error.value) == message
