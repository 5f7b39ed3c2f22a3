"""Recipes: only what differs from the defaults, checked with line, key and nearest key."""

import dataclasses
from pathlib import Path

import pytest

from trustq.errors import TrustqError
from trustq.recipes import load_recipe, packaged, resolved


def test_every_packaged_recipe_loads_and_has_a_title() -> None:
    reference = {"ce-noisy", "ce-clean", "gce-noisy", "weighted-sampler", "resnet50-audit"}
    assert reference | {"small-cpu", "digits"} <= set(packaged())
    for name, title in packaged().items():
        assert load_recipe(name).name == name
        assert title.endswith(".")


def test_the_reference_recipe_is_the_studys() -> None:
    recipe = load_recipe("ce-noisy").extract
    assert (recipe.backbone, recipe.image_size, recipe.batch_size) == ("convnext_tiny", 224, 32)
    assert (recipe.learning_rate, recipe.weight_decay) == (1e-4, 1e-4)
    assert (recipe.epochs, recipe.warmup_epochs, recipe.label_smoothing) == (12, 2, 0.05)
    assert (recipe.rotation, recipe.colour_jitter) == (15, 0.1)
    assert (recipe.noise, recipe.trusted) == ("reference", 0.1)
    assert (recipe.loss, recipe.optimizer, recipe.sampling) == ("ce", "adamw", "none")
    assert recipe.horizontal_flip and recipe.vertical_flip and not recipe.transpose


def test_the_audit_recipe_is_the_studys() -> None:
    recipe = load_recipe("resnet50-audit").extract
    assert (recipe.backbone, recipe.image_size, recipe.random_crop) == ("resnet50", 224, 0.7)
    assert (recipe.colour_jitter, recipe.hue_jitter) == (0.2, 0.1)
    assert (recipe.label_smoothing, recipe.mixup) == (0.1, 0.2)
    assert (recipe.optimizer, recipe.learning_rate, recipe.epochs) == ("adamw", 1e-4, 10)
    assert (recipe.warmup_epochs, recipe.rotation) == (0, 0)


@pytest.mark.parametrize(
    ("name", "differing"),
    [
        ("ce-clean", {"noise": "none", "trusted": 0.0}),
        ("gce-noisy", {"loss": "gce", "gce_q": 0.7, "label_smoothing": 0.0}),
        ("weighted-sampler", {"sampling": "class_balanced"}),
    ],
)
def test_variants_differ_from_the_reference_in_what_they_are_named_for(
    name: str, differing: dict[str, object]
) -> None:
    reference = load_recipe("ce-noisy").extract
    assert load_recipe(name).extract == dataclasses.replace(reference, **differing)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[extract]\nepochs = 3\nepoch = 3\n",
            "{path}, line 3: unknown key 'epoch' in [extract] (did you mean 'epochs'?).",
        ),
        (
            "\n[extract]\nepochs = 'many'\n",
            "{path}, line 3: epochs is 'many', expected a whole number.",
        ),
        (
            "[extract]\npretrained = 1\n",
            "{path}, line 2: pretrained is 1, expected true or false.",
        ),
        (
            "[extract]\nmode = 'frosen'\n",
            "{path}, line 2: mode is 'frosen', expected one of finetune, frozen, "
            "crossfit (did you mean 'frozen'?).",
        ),
        (
            "[sweep]\narms = []\n",
            "{path}, line 2: arms is [], expected a list of texts, not empty.",
        ),
        ("[swep]\n", "{path}, line 1: unknown key 'swep' (did you mean 'sweep'?)."),
    ],
)
def test_a_wrong_key_or_value_is_placed(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(TrustqError) as caught:
        load_recipe(str(path))
    assert str(caught.value) == message.format(path=path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epoch=3", "--set epoch=3: unknown key 'epoch' (did you mean 'epochs'?)."),
        ("epochs", "--set epochs: expected key=value, e.g. --set epochs=3."),
        ("epochs=many", "--set epochs=many: epochs is 'many', expected a whole number."),
        (
            "noise=none",
            "--set noise=none: noise is in several parts; say extract.noise or sweep.noise.",
        ),
        (
            "exract.epochs=3",
            "--set exract.epochs=3: unknown part 'exract' (did you mean 'extract'?).",
        ),
    ],
)
def test_a_wrong_setting_says_so(setting: str, message: str) -> None:
    with pytest.raises(TrustqError) as caught:
        load_recipe(settings=[setting])
    assert str(caught.value) == message


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(
        TrustqError, match="no packaged recipe 'ce-noissy' .did you mean 'ce-noisy'"
    ):
        load_recipe("ce-noissy")


def test_text_that_is_no_toml_says_where(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[extract\n")
    with pytest.raises(TrustqError, match="mine.toml: this is not TOML: .*line 1"):
        load_recipe(str(path))


def test_settings_come_over_the_file_and_are_resolved(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[extract]\nepochs = 3\nlearning_rate = 1\n[sweep]\nbudgets = ['5%', '64']\n")
    recipe = load_recipe(str(path), settings=["epochs=4", "arms=none,random", "budgets=32"])
    assert (recipe.name, recipe.extract.epochs) == ("mine", 4)
    assert (recipe.sweep.arms, recipe.sweep.budgets) == (("none", "random"), ("32",))
    assert isinstance(recipe.extract.learning_rate, float)
    plain = resolved(recipe, "extract")
    assert plain["name"] == "mine" and plain["extract"]["batch_size"] == 32


def test_a_command_means_its_own_part_where_both_have_the_key() -> None:
    for_extract = load_recipe(settings=["noise=none"], part="extract")
    for_repair = load_recipe(settings=["noise=none"], part="sweep")
    assert (for_extract.extract.noise, for_extract.sweep.noise) == ("none", "auto")
    assert (for_repair.extract.noise, for_repair.sweep.noise) == ("none", "none")
    assert (
        load_recipe("ce-noisy", settings=["noise=none"], part="sweep").extract.noise == "reference"
    )


def test_every_setting_says_what_it_means() -> None:
    from trustq.recipes import ExtractRecipe, SweepRecipe

    for part in (ExtractRecipe, SweepRecipe):
        for field in dataclasses.fields(part):
            assert field.metadata["meaning"], field.name
