"""Recipes: only what differs from the defaults, checked with line, key and nearest key."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from trustq.errors import TrustqError
from trustq.recipes import load_recipe, load_sweep, packaged, resolved


def test_every_packaged_recipe_loads_and_has_a_title() -> None:
    reference = {"ce-noisy", "ce-clean", "gce-noisy", "weighted-sampler", "resnet50-audit"}
    assert reference | {"small-cpu", "digits"} <= set(packaged())
    for name, title in packaged().items():
        assert load_recipe(name, part="extract").name == name
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
        ("epoch=3", "setting 'epoch=3': unknown key 'epoch' (did you mean 'epochs'?)."),
        ("epochs", "setting 'epochs': expected key=value, e.g. epochs=3."),
        ("epochs=many", "setting 'epochs=many': epochs is 'many', expected a whole number."),
        (
            "noise=none",
            "setting 'noise=none': noise is in several parts; say extract.noise or sweep.noise.",
        ),
        (
            "exract.epochs=3",
            "setting 'exract.epochs=3': unknown part 'exract' (did you mean 'extract'?).",
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


def test_a_setting_given_twice_in_two_ways_is_refused() -> None:
    for text in ("epochs=2", "extract.epochs=2"):
        with pytest.raises(TrustqError) as told:
            load_recipe("", values={"epochs": 1}, settings=[text], part="extract")
        assert str(told.value) == f"setting {text!r}: `epochs` says 1. Leave one of them out."
    assert load_recipe("", values={"epochs": 2}, settings=["epochs=2"], part="extract")
    with pytest.raises(TrustqError, match="`arms` says none,random. Leave one"):
        load_sweep("", values={"arms": "none,random"}, settings=["arms=none"])
    both = load_sweep("", values={"target": "a"}, settings=["target=a"])
    assert [one.sweep.target for one in both] == ["a"]


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


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_a_number_is_the_text_of_a_setting_whose_text_may_be_one(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("[sweep]\ntrusted = 0.1\nregularisation = 1\n")
    sweep = load_recipe(str(path)).sweep
    assert (sweep.trusted, sweep.regularisation) == ("0.1", "1")


def test_a_list_where_one_value_is_expected_is_an_axis(tmp_path: Path) -> None:
    text = "[sweep]\nhead = ['linear', 'knn']\nrounds = [1, 4]\narms = ['none', 'random']\n"
    points = load_sweep(write(tmp_path, "g.toml", text))
    assert [(p.sweep.head, p.sweep.rounds) for p in points] == [
        ("linear", 1),
        ("linear", 4),
        ("knn", 1),
        ("knn", 4),
    ]
    assert {p.sweep.arms for p in points} == {("none", "random")}
    assert {p.name for p in points} == {"g"}


def test_variants_are_laid_over_the_sweep_and_settings_over_both(tmp_path: Path) -> None:
    text = """[sweep]
noise = "stored"
[[sweep.variants]]
head = "linear"
regularisation = ["0.1", "1"]
[[sweep.variants]]
head = "xgboost"
trees = 50
noise = "none"
"""
    path = write(tmp_path, "g.toml", text)
    found = [(p.sweep.head, p.sweep.regularisation, p.sweep.noise) for p in load_sweep(path)]
    assert found == [
        ("linear", "0.1", "stored"),
        ("linear", "1", "stored"),
        ("xgboost", "auto", "none"),
    ]
    # Points that a setting makes equal are one.
    one = load_sweep(path, settings=["head=knn", "noise=none", "trees=9", "regularisation=1"])
    assert [(p.sweep.head, p.sweep.noise, p.sweep.trees) for p in one] == [("knn", "none", 9)]
    with pytest.raises(TrustqError) as caught:
        load_recipe(path)
    assert str(caught.value) == (
        f"{path}: [[sweep.variants]] make a grid, which `trustq sweep` runs."
    )


def test_included_recipes_come_first_and_the_own_keys_over_them(tmp_path: Path) -> None:
    write(tmp_path, "shared.toml", "[sweep]\nfolds = 3\nhead = 'knn'\n[extract]\nepochs = 2\n")
    path = write(tmp_path, "mine.toml", "include = 'shared.toml'\n[sweep]\nhead = 'lda'\n")
    recipe = load_recipe(path)
    assert (recipe.sweep.folds, recipe.sweep.head, recipe.extract.epochs) == (3, "lda", 2)
    both = write(tmp_path, "two.toml", "include = ['ce-noisy', 'shared.toml']\n")
    assert load_recipe(both).extract.noise == "reference"
    assert load_recipe(both).extract.epochs == 2
    assert load_sweep(path)[0].sweep == recipe.sweep


def test_errors_in_grids_and_included_recipes_have_their_own_line(tmp_path: Path) -> None:
    shared = write(tmp_path, "shared.toml", "[sweep]\n\nfold = 3\n")
    including = write(tmp_path, "a.toml", "include = ['shared.toml']\n[sweep]\nfolds = 4\n")
    grid = write(tmp_path, "b.toml", "[sweep]\nfolds = [\n5, 'many']\n")
    text = "[sweep]\n[[sweep.variants]]\nhead = 'knn'\n[[sweep.variants]]\nround = 2\n"
    variant = write(tmp_path, "c.toml", text)
    itself = write(tmp_path, "d.toml", "include = 'd.toml'\n")
    wrong = write(tmp_path, "e.toml", "include = 3\n")
    (tmp_path / "sub").mkdir()
    round_about = write(tmp_path, "f.toml", "include = 'sub/../f.toml'\n")
    nameless = write(tmp_path, "g.toml", "name = 3\n")
    no_tables = write(tmp_path, "h.toml", "[sweep]\nvariants = [1, 2]\n")
    for path, message in (
        (including, f"{shared}, line 3: unknown key 'fold' in [sweep] (did you mean 'folds'?)."),
        (
            grid,
            f"{grid}, line 2: folds is 'many', expected a whole number.",
        ),
        (variant, f"{variant}, line 5: unknown key 'round' in [sweep] (did you mean 'rounds'?)."),
        (itself, f"{itself} includes itself, through {itself}."),
        (wrong, f"{wrong}, line 1: include is 3, expected recipes."),
        (
            round_about,
            f"{tmp_path}/sub/../f.toml includes itself, through {round_about}.",
        ),
        (nameless, f"{nameless}, line 1: name is 3, expected text."),
        (no_tables, f"{no_tables}, line 2: variants are tables, [[sweep.variants]]."),
    ):
        with pytest.raises(TrustqError) as caught:
            load_sweep(path)
        assert str(caught.value) == message


def test_a_grid_for_a_single_run_says_what_runs_it(tmp_path: Path) -> None:
    path = write(tmp_path, "g.toml", "[sweep]\nhead = ['linear', 'knn']\n")
    with pytest.raises(TrustqError) as caught:
        load_recipe(path)
    assert str(caught.value) == (
        f"{path}, line 2: head is ['linear', 'knn'], expected text. A list is a grid, which "
        "`trustq sweep` runs."
    )


def test_numbers_and_arrays_of_numpy_are_settings_as_those_of_python_are() -> None:
    found = load_recipe(
        "",
        values={"draws": np.int64(2), "budgets": np.array([20, 40]), "arms": np.array(["none"])},
        part="sweep",
    )
    plain = load_recipe(
        "", values={"draws": 2, "budgets": [20, 40], "arms": ["none"]}, part="sweep"
    )
    assert found == plain
    within = load_recipe("", values={"budgets": [np.int64(20), 40]}, part="sweep")
    assert within.sweep.budgets == plain.sweep.budgets
    assert load_recipe("", values={"budgets": range(20, 60, 20)}, part="sweep") == within
