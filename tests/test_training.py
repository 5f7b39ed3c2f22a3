"""Training does what its recipe says: losses, blends, sampling, rates, averages, kept epochs."""

import errno
import math
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from support_extract import Heard, extract_one, make_rows, tiny

from trustq.data.manifest import Manifest
from trustq.data.preprocessing import Preprocessing
from trustq.data.row_weights import class_balanced, domain_balanced
from trustq.errors import TrustqError
from trustq.extraction.exposure import rows_of_training
from trustq.extraction.inputs.sampling import sampling_weights
from trustq.extraction.run import _training_jobs
from trustq.extraction.settings import require_agreeing
from trustq.extraction.train.selection import best_epoch
from trustq.metrics.classification import summarise
from trustq.recipes import load_recipe, packaged
from trustq.store.format import SEEN_SELECTION

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

from trustq.extraction.inputs.images import Feed, TrainingBatches
from trustq.extraction.inputs.mixing import Mixing
from trustq.extraction.train.device import MixedPrecision
from trustq.extraction.train.loop import State, TrainingSet, train
from trustq.extraction.train.losses import make_loss
from trustq.extraction.train.optimizer import freeze_stages, make_optimizer
from trustq.extraction.train.weights import Network, make_network, start_network

CPU = torch.device("cpu")
HEADS = {"test_convnext": "head.", "test_resnet": "fc.", "test_vit": "head."}
# One step over all 36 training rows, as they are, at the full rate.
ONE_STEP = (
    "epochs=1",
    "warmup_epochs=0",
    "batch_size=36",
    "checkpoint=last",
    "horizontal_flip=false",
    "vertical_flip=false",
    "rotation=0.0",
    "colour_jitter=0.0",
)


@pytest.fixture(scope="module")
def manifest(images: Path) -> Manifest:
    return make_rows(images)


@dataclass
class Fitted:
    before: dict[str, Any]
    weights: dict[str, Any]
    history: dict[str, np.ndarray]
    lines: list[str]

    def equals(self, other: "Fitted") -> bool:
        return all(torch.equal(self.weights[name], other.weights[name]) for name in self.weights)


def fit(
    manifest: Manifest,
    folder: Path,
    *settings: str,
    each_step: Callable[[Network], None] = lambda network: None,
    stop_before: str = "",
    progress: Heard | None = None,
) -> Fitted:
    """What `train` makes of a tiny network; `stop_before` an epoch leaves its state in `folder`."""
    recipe = tiny(*settings).extract
    rows = rows_of_training(manifest, recipe=recipe, seed=5)
    network, _ = start_network(recipe, n_classes=3, seed=5)
    before = {name: value.clone() for name, value in network.model.state_dict().items()}

    def step(what: str, done: int) -> None:
        if what == stop_before:
            raise KeyboardInterrupt
        each_step(network)

    heard = progress or Heard(at=step)
    preprocessing = Preprocessing.of_config(network.config, recipe.image_size)
    trained = train(
        network,
        TrainingSet(manifest, rows.observed, rows.validation),
        recipe=recipe,
        seed=5,
        feed=Feed(preprocessing, CPU, recipe.workers, heard),
        state=State(folder / "resume.pt", "one"),
    )
    (folder / "resume.pt").unlink()
    weights = {name: value.clone() for name, value in network.model.state_dict().items()}
    return Fitted(before, weights, trained.history.arrays, heard.lines)


# Losses, against formulas written out over one row at a time.

LOGITS = np.random.default_rng(0).normal(size=(40, 4)) * 3
LABELS = np.random.default_rng(1).integers(0, 4, 40)
COUNTS = np.array([60, 25, 15, 0])


def per_row(logits: np.ndarray, label: int, settings: dict[str, float], loss: str) -> float:
    if loss == "logit_adjusted":
        there = np.maximum(COUNTS, 1)
        logits = logits + settings.get("logit_tau", 1.0) * np.log(there / there.sum())
    probs = np.exp(logits) / np.exp(logits).sum()
    p, smoothing = probs[label], settings.get("label_smoothing", 0.0)
    if loss in ("ce", "logit_adjusted"):
        target = np.full(4, smoothing / 4) + (1 - smoothing) * (np.arange(4) == label)
        return float(-(target * np.log(probs)).sum())
    if loss == "gce":
        q = settings["gce_q"]
        return float((1 - p**q) / q)
    if loss == "focal":
        return float(-((1 - p) ** settings["focal_gamma"]) * np.log(p))
    logged = np.log(np.where(np.arange(4) == label, 1.0, 1e-4))
    return float(-settings["sce_alpha"] * np.log(p) - settings["sce_beta"] * probs @ logged)


@pytest.mark.parametrize(
    ("loss", "settings"),
    [
        ("ce", {"label_smoothing": 0.0}),
        ("ce", {"label_smoothing": 0.2}),
        ("gce", {"gce_q": 0.7}),
        ("gce", {"gce_q": 1.0}),
        ("sce", {"sce_alpha": 0.1, "sce_beta": 1.0}),
        ("sce", {"sce_alpha": 2.0, "sce_beta": 0.5}),
        ("focal", {"focal_gamma": 2.0}),
        ("focal", {"focal_gamma": 0.5}),
        ("logit_adjusted", {"logit_tau": 1.0}),
        ("logit_adjusted", {"logit_tau": 0.4, "label_smoothing": 0.1}),
    ],
)
def test_a_loss_is_its_formula(loss: str, settings: dict[str, float]) -> None:
    recipe = replace(load_recipe().extract, loss=loss, **({"label_smoothing": 0.0} | settings))
    found = make_loss(recipe, torch.from_numpy(COUNTS))(
        torch.from_numpy(LOGITS), torch.from_numpy(LABELS)
    )
    rows = zip(LOGITS, LABELS.tolist(), strict=True)
    expected = np.mean([per_row(row, label, settings, loss) for row, label in rows])
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_losses_meet_the_cross_entropy_where_they_should() -> None:
    logits, labels = torch.from_numpy(LOGITS), torch.from_numpy(LABELS)
    plain = replace(load_recipe().extract, label_smoothing=0.0)
    counts = torch.from_numpy(COUNTS)
    expected = float(make_loss(plain, counts)(logits, labels))
    for near in (
        replace(plain, loss="gce", gce_q=1e-6),
        replace(plain, loss="focal", focal_gamma=0.0),
        replace(plain, loss="sce", sce_alpha=1.0, sce_beta=0.0),
        replace(plain, loss="logit_adjusted", logit_tau=0.0),
    ):
        assert float(make_loss(near, counts)(logits, labels)) == pytest.approx(expected, rel=1e-4)
    soft = torch.nn.functional.one_hot(labels, 4).double()
    assert float(make_loss(plain, counts)(logits, soft)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "gce", "gce_q": 0.1},
        {"loss": "sce"},
        {"loss": "focal", "focal_gamma": 0.5},
        {"loss": "logit_adjusted", "label_smoothing": 0.1},
    ],
)
def test_slopes_are_finite_where_probabilities_are_0_or_1(settings: dict[str, Any]) -> None:
    recipe = replace(load_recipe().extract, **settings)
    logits = torch.tensor([[300.0, -300.0], [-300.0, 300.0], [0.0, 0.0]], requires_grad=True)
    loss = make_loss(recipe, torch.tensor([5, 0]))(logits, torch.tensor([0, 0, 0]))
    loss.backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all() and torch.isfinite(loss)


def test_priors_are_of_the_labels_trained_on(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import trustq.extraction.train.loop as training

    given = []

    def heard(recipe: Any, counts: Any) -> Any:
        given.append(counts.tolist())
        return make_loss(recipe, counts)

    monkeypatch.setattr(training, "make_loss", heard)
    settings = (*ONE_STEP, "loss=logit_adjusted", "extract.noise=symmetric:0.4")
    fit(manifest, tmp_path, *settings)
    rows = rows_of_training(manifest, recipe=tiny(*settings).extract, seed=5)
    observed = rows.observed[rows.observed >= 0]
    assert given == [np.bincount(observed, minlength=3).tolist()] != [[12, 12, 12]]


# Each key changes what is learned in one step.


@pytest.fixture(scope="module")
def one_step(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return fit(manifest, tmp_path_factory.mktemp("step"), *ONE_STEP)


SOME_OTHER = {
    "loss=gce": ["loss=gce", "label_smoothing=0"],
    "loss=sce": ["loss=sce", "label_smoothing=0"],
    "loss=focal": ["loss=focal", "label_smoothing=0"],
    "optimizer=sgd": ["optimizer=sgd"],
}


@pytest.mark.parametrize(
    "setting",
    [
        "label_smoothing=0.2",
        "loss=gce",
        "loss=sce",
        "loss=focal",
        "loss=logit_adjusted",
        "mixup=0.4",
        "cutmix=1.0",
        "sampling=class_balanced",
        "optimizer=sgd",
        "learning_rate=1e-3",
        "head_learning_rate=1e-3",
        "classifier_start=zero",
        "weight_decay=0.1",
        "layer_decay=0.5",
        "batch_size=18",
        "trained_stages=0",
        "epochs=2",
        "amp=bf16",
        "amp=fp16",
        "extract.noise=none",
        "extract.trusted=0.5",
        "horizontal_flip=true",
        "rotation=15.0",
        "colour_jitter=0.3",
    ],
)
def test_a_key_changes_what_is_learned(
    manifest: Manifest, tmp_path: Path, one_step: Fitted, setting: str
) -> None:
    settings = SOME_OTHER.get(setting, [setting])
    assert not fit(manifest, tmp_path, *ONE_STEP, *settings).equals(one_step)


@pytest.mark.parametrize(
    ("base", "change"),
    [
        (["loss=gce", "label_smoothing=0"], "gce_q=0.3"),
        (["loss=sce", "label_smoothing=0"], "sce_alpha=1.0"),
        (["loss=sce", "label_smoothing=0"], "sce_beta=0.1"),
        (["loss=focal", "label_smoothing=0"], "focal_gamma=5.0"),
        (["loss=logit_adjusted", "extract.noise=symmetric:0.4"], "logit_tau=0.2"),
        (["optimizer=sgd", "epochs=2"], "momentum=0.0"),
        (["epochs=2"], "warmup_epochs=1"),
        (["batch_size=18"], "accumulate=2"),
        (["epochs=2"], "ema=0.9"),
    ],
)
def test_a_key_changes_what_another_one_learns(
    manifest: Manifest, tmp_path: Path, base: list[str], change: str
) -> None:
    one, two = (fit(manifest, tmp_path, *ONE_STEP, *base, *more) for more in ((), (change,)))
    assert not one.equals(two)


# Blends.


def test_mixup_blends_pixels_and_labels_by_one_share() -> None:
    inputs, labels = torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 3, 0, 1])
    mixed, soft = Mixing(mixup=0.4, cutmix=0, n_classes=4, seed=1)(inputs, labels, epoch=2, batch=3)
    share = float(soft[1, 1])
    assert 0 < share < 1 and float(soft[1, 0]) == pytest.approx(1 - share)
    torch.testing.assert_close(mixed, share * inputs + (1 - share) * inputs.roll(1, 0))
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(6))


def test_cutmix_pastes_a_box_and_labels_follow_its_area() -> None:
    inputs, labels = torch.rand(6, 3, 16, 16), torch.tensor([0, 1, 2, 3, 0, 1])
    mixed, soft = Mixing(mixup=0, cutmix=1.0, n_classes=4, seed=1)(inputs, labels, epoch=0, batch=0)
    own, other = mixed == inputs, mixed == inputs.roll(1, 0)
    assert (own | other).all()
    share = own[:, 0].float().mean(dim=(1, 2))
    assert 0 < float(share[0]) < 1
    torch.testing.assert_close(soft[1, 1], share[1])


def test_blends_depend_on_seed_epoch_and_batch_only_and_leave_torchs_generator() -> None:
    inputs, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])

    def blended(seed: int, epoch: int, batch: int) -> bytes:
        state = torch.get_rng_state()
        mixing = Mixing(mixup=0.4, cutmix=1.0, n_classes=3, seed=seed)
        mixed, _ = mixing(inputs, labels, epoch=epoch, batch=batch)
        assert torch.equal(torch.get_rng_state(), state)
        torch.rand(1)
        return bytes(mixed.numpy().tobytes())

    assert blended(1, 1, 1) == blended(1, 1, 1)
    assert len({blended(1, 1, 1), blended(2, 1, 1), blended(1, 2, 1), blended(1, 1, 2)}) == 4


def test_mixup_and_cutmix_together_take_turns() -> None:
    inputs, labels = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    mixing = Mixing(mixup=1.0, cutmix=1.0, n_classes=2, seed=3)
    boxes = 0
    for batch in range(40):
        mixed, _ = mixing(inputs, labels, epoch=0, batch=batch)
        boxes += bool(((mixed == inputs) | (mixed == inputs.roll(1, 0))).all())
    assert 10 <= boxes <= 30


# Sampling.


def test_class_balanced_draws_every_class_as_often() -> None:
    labels = np.repeat([0, 1, 2], [700, 250, 50])
    weights = class_balanced(labels)
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(np.bincount(labels, weights=weights), 1 / 3)
    batches = TrainingBatches(np.arange(1000), batch_size=10, seed=1, weights=weights)
    drawn = [row for batch in batches for _, row in batch]
    assert len(drawn) == 1000
    # Within five standard errors of a third.
    assert np.abs(np.bincount(labels[drawn]) / 1000 - 1 / 3).max() < 0.075


def test_a_row_drawn_again_looks_another_way_each_time() -> None:
    batches = TrainingBatches(np.arange(3), batch_size=10, seed=1, weights=np.array([0.9, 0.1, 0]))
    for epoch in (0, 7):
        batches.epoch = epoch
        keys = [key for batch in batches for key in batch]
        assert len(set(keys)) == len(keys) == 3
        assert {row for _, row in keys} <= {0, 1}
        assert (epoch, keys[0][1]) == keys[0]
    batches.epoch = 0
    again = [key for batch in batches for key in batch]
    batches.epoch = 7
    assert again != [key for batch in batches for key in batch]


def test_domain_balanced_gives_equal_domains_equal_cells_and_blanks_the_median() -> None:
    rng = np.random.default_rng(0)
    n = 300
    labels = rng.choice(3, n, p=[0.7, 0.2, 0.1])
    domains = rng.choice(["clinic", "dermoscopy", "phone"], n, p=[0.6, 0.3, 0.1])
    groups = rng.choice(["", "1", "2", "3"], n, p=[0.3, 0.4, 0.2, 0.1])
    groups[domains == "phone"] = ""
    expected = np.zeros(n)
    for domain in sorted(set(domains.tolist())):
        inside = [i for i in range(n) if domains[i] == domain]
        cells = Counter((groups[i], labels[i]) for i in inside if groups[i])
        known = [1 / cells[groups[i], labels[i]] for i in inside if groups[i]]
        middle = float(np.median(known)) if known else 1.0
        raw = [1 / cells[groups[i], labels[i]] if groups[i] else middle for i in inside]
        for i, weight in zip(inside, raw, strict=True):
            expected[i] = weight / sum(raw) / 3
    np.testing.assert_allclose(domain_balanced(labels, domains, groups), expected)
    by_label = domain_balanced(labels, domains)
    for domain in set(domains.tolist()):
        for label in range(3):
            assert by_label[(domains == domain) & (labels == label)].sum() == pytest.approx(1 / 9)


@pytest.mark.parametrize(
    "tone",
    [
        np.array(["1", None, "2"] * 20, dtype=object),
        np.array([1.0, np.nan, 2.0] * 20),
        np.ma.masked_array([1, 0, 2] * 20, mask=[False, True, False] * 20),
    ],
    ids=["texts", "floats", "masked"],
)
def test_sampling_reads_the_columns_it_is_told(manifest: Manifest, tone: np.ndarray) -> None:
    site = np.array(["face", "hand"] * 30, dtype=object)
    columns = {**manifest.columns, "tone": tone, "site": site}
    recipe = replace(
        load_recipe().extract,
        sampling="domain_balanced",
        sampling_domain="site",
        sampling_group="tone",
    )
    rows, observed = np.arange(40), np.arange(40) % 3
    found = sampling_weights(replace(manifest, columns=columns), rows, observed, recipe=recipe)
    texts = np.array(["1", "", "2"] * 20)[:40]
    np.testing.assert_allclose(found, domain_balanced(observed, site[:40].astype(str), texts))


def test_domain_balanced_sampling_trains(manifest: Manifest, tmp_path: Path) -> None:
    domain = np.array((["drawn"] * 45 + ["photo"] * 15), dtype=object)
    mixed = replace(manifest, columns={**manifest.columns, "domain": domain})
    settings = (*ONE_STEP, "sampling=domain_balanced")
    assert not fit(mixed, tmp_path, *settings).equals(fit(manifest, tmp_path, *settings))


def test_another_column_to_sample_by_is_another_training(
    manifest: Manifest, tmp_path: Path
) -> None:
    recipe = load_recipe(settings=["sampling=domain_balanced", "extract.noise=none"])
    jobs = []
    for n in (45, 45, 30):
        domain = np.array(["drawn"] * n + ["photo"] * (60 - n), dtype=object)
        mixed = replace(manifest, columns={**manifest.columns, "domain": domain})
        jobs += _training_jobs(
            mixed, recipe, [0], tmp_path, Heard(), skipped=None, taught_by=None, replaces=False
        )
    same, again, other = (job.attributes["recipe"] for job in jobs)
    assert same == again and same != other


# Rates and steps.


@pytest.mark.parametrize("backbone", list(HEADS))
def test_layers_near_the_input_learn_slower(backbone: str) -> None:
    from timm.models import group_parameters

    network = make_network(backbone, n_classes=3, image_size=32)
    recipe = tiny("layer_decay=0.5", "learning_rate=1.0", "head_learning_rate=7.0").extract
    rates = {
        id(parameter): group["lr"]
        for group in make_optimizer(network, recipe).param_groups
        for parameter in group["params"]
    }
    matcher = network.model.group_matcher(coarse=False)  # type: ignore[operator]
    layers = group_parameters(network.model, matcher, reverse=True)
    last = max(layers.values())
    head = {id(parameter) for parameter in network.classifier_parameters()}
    for name, parameter in network.model.named_parameters():
        expected = 7.0 if id(parameter) in head else 0.5 ** (last - layers[name])
        assert rates[id(parameter)] == expected, name
    assert last >= 4 and len(rates) == len(layers)


@pytest.mark.parametrize(
    ("backbone", "stages"), [("test_convnext", 1), ("test_resnet", 2), ("test_vit", 0)]
)
def test_only_the_last_stages_are_trained(
    manifest: Manifest, tmp_path: Path, backbone: str, stages: int
) -> None:
    settings = (*ONE_STEP, f"backbone={backbone}", f"trained_stages={stages}")
    fitted = fit(manifest, tmp_path, *settings)
    changed = {
        name
        for name, value in fitted.weights.items()
        if not torch.equal(value, fitted.before[name])
    }
    trained = {"test_convnext": ("stages.3.",), "test_resnet": ("layer3.", "layer4.")}
    parts = (HEADS[backbone], *trained.get(backbone, ()))
    assert {name for name in changed if not name.startswith(parts)} == set()
    assert all(any(name.startswith(part) for name in changed) for part in parts)
    # Among them statistics of batch norm, which change in trained stages only.
    assert any(name.endswith("running_mean") for name in changed) == (backbone == "test_resnet")


def test_frozen_stages_need_no_optimizer_memory() -> None:
    network = make_network("test_convnext", n_classes=3, image_size=32)
    n_all = sum(parameter.numel() for parameter in network.model.parameters())
    freeze_stages(network, 0)
    optimizer = make_optimizer(network, tiny().extract)
    n_held = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    assert n_held == sum(p.numel() for p in network.model.head.parameters()) < n_all / 100


def test_clipped_gradients_have_the_norm_that_is_asked_for(
    manifest: Manifest, tmp_path: Path
) -> None:
    settings = (*ONE_STEP, "optimizer=sgd", "momentum=0.0", "weight_decay=0.0", "learning_rate=1.0")

    def step_length(*more: str) -> float:
        fitted = fit(manifest, tmp_path, *settings, *more)
        steps = [fitted.weights[name] - start for name, start in fitted.before.items()]
        return math.sqrt(sum(float((step.double() ** 2).sum()) for step in steps))

    length = step_length()
    assert step_length(f"clip_norm={length / 8}") == pytest.approx(length / 8, rel=1e-3)
    assert step_length(f"clip_norm={length * 8}") == pytest.approx(length, rel=1e-3)


@pytest.mark.parametrize("batch_size", [6, 10])
def test_accumulated_batches_are_one_larger_batch(
    manifest: Manifest, tmp_path: Path, batch_size: int
) -> None:
    # 36 rows in batches of 10 leave one of 6, which must not weigh as much.
    settings = (*ONE_STEP, "optimizer=sgd", "learning_rate=0.1")
    small = fit(manifest, tmp_path, *settings, f"batch_size={batch_size}", "accumulate=2")
    large = fit(manifest, tmp_path, *settings, f"batch_size={2 * batch_size}")
    assert not small.equals(Fitted({}, small.before, {}, []))
    for name, value in large.weights.items():
        torch.testing.assert_close(small.weights[name], value, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(small.history["learning_rate"], large.history["learning_rate"])


def test_rates_rise_then_fall_and_the_last_epoch_still_learns(
    manifest: Manifest, tmp_path: Path
) -> None:
    settings = ("epochs=4", "warmup_epochs=2", "learning_rate=1e-3", "batch_size=18")
    rates = fit(manifest, tmp_path, *settings).history["learning_rate"]
    # Steps 2, 4, 6 and 8 of 8, of which 4 warm up.
    cosine = [0.5 * (1 + math.cos(math.pi * step / 4)) for step in (1, 3)]
    np.testing.assert_allclose(rates, 1e-3 * np.array([0.5, 1.0, *cosine]))


def test_the_average_follows_its_formula_and_is_what_is_kept(
    manifest: Manifest, tmp_path: Path
) -> None:
    steps: list[dict[str, Any]] = []

    def remember(network: Network) -> None:
        steps.append({name: w.clone() for name, w in network.model.state_dict().items()})

    settings = ("epochs=3", "checkpoint=last", "batch_size=18", "ema=0.5")
    fitted = fit(manifest, tmp_path, *settings, each_step=remember)
    assert len(steps) == 6
    average = dict(steps[0])
    for t, weights in enumerate(steps[1:], start=1):
        decay = min(0.5, 1 - (1 + t) ** (-2 / 3))
        for name in average:
            average[name] = decay * average[name] + (1 - decay) * weights[name]
    for name, value in average.items():
        torch.testing.assert_close(fitted.weights[name], value)
    assert not fitted.equals(Fitted({}, steps[-1], {}, []))


# Number types and the compiler.


@pytest.mark.parametrize(
    ("amp", "dtype", "needs_scaler"),
    [
        ("auto", "float32", False),
        ("off", "float32", False),
        ("bf16", "bfloat16", False),
        ("fp16", "float16", True),
    ],
)
def test_steps_on_a_cpu_compute_in_the_type_that_is_asked_for(
    amp: str, dtype: str, needs_scaler: bool
) -> None:
    precision = MixedPrecision.of_recipe(amp, CPU)
    assert precision.dtype == getattr(torch, dtype)
    assert precision.needs_scaler == needs_scaler


def test_auto_on_a_gpu_is_bf16_where_there_else_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    for has_bf16, dtype in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has_bf16: has)
        assert MixedPrecision.of_recipe("auto", gpu).dtype == dtype
    with pytest.raises(TrustqError) as told:
        MixedPrecision.of_recipe("bf16", gpu)
    assert str(told.value) == ("amp=bf16: this GPU has no bfloat16. Use `amp=fp16`, or auto.")


def test_compiled_steps_learn_the_same(
    manifest: Manifest, tmp_path: Path, one_step: Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The default compiler takes minutes here; this one only traces.
    compiled = []
    compile_ = torch.compile

    def tracing(model: Any) -> Any:
        compiled.append(model)
        return compile_(model, backend="eager")

    monkeypatch.setattr(torch, "compile", tracing)
    fitted = fit(manifest, tmp_path, *ONE_STEP, "compile=true")
    assert len(compiled) == 1
    for name, value in one_step.weights.items():
        torch.testing.assert_close(fitted.weights[name], value)


def test_a_compiler_that_fails_is_told(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._dynamo.exc import TorchDynamoException

    def no_compiler(model: Any) -> Any:
        def run(inputs: Any) -> Any:
            raise TorchDynamoException("No working C++ compiler\nmore")

        return run

    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.raises(TrustqError) as told:
        fit(manifest, tmp_path, *ONE_STEP, "compile=true")
    assert str(told.value) == (
        "torch.compile cannot compile test_convnext here: No working C++ compiler\n"
        "Train without it: `compile=false`."
    )


# Kept epochs.


def test_the_best_epoch_is_the_first_with_the_best_figure() -> None:
    figures = [0.3, math.nan, 0.9, 0.1, 0.9, 0.1]
    assert best_epoch(figures, highest=True) == 3
    assert best_epoch(figures, highest=False) == 4
    assert best_epoch([math.nan], highest=True) == 0
    assert best_epoch([], highest=False) == 0


@pytest.mark.parametrize(
    ("checkpoint", "figure", "best", "title"),
    [
        ("best", "nll", min, "lowest validation loss"),
        ("macro_f1", "macro_f1", max, "highest validation macro-F1"),
        ("macro_auroc", "macro_auroc", max, "highest validation macro-AUROC"),
        ("ece", "ece", min, "lowest validation ECE"),
    ],
)
def test_the_kept_epoch_is_the_best_by_its_policy(
    manifest: Manifest, tmp_path: Path, checkpoint: str, figure: str, best: Any, title: str
) -> None:
    heard = Heard()
    recipe = tiny(f"checkpoint={checkpoint}", "epochs=4", "learning_rate=1e-2")
    cache = extract_one(manifest, recipe, tmp_path, progress=heard)
    val = cache.split == "val"
    found = summarise(cache.label[val], logits=cache.logits[val]).figures[figure]
    name = "val_loss" if figure == "nll" else f"val_{figure}"
    values = cache.extra[f"history/{name}"].tolist()
    assert found == pytest.approx(best(values), rel=1e-5)
    kept = values.index(best(values)) + 1
    assert heard.lines[-1] == f"Kept epoch {kept}, which has the {title}."
    assert (cache.seen[val] & SEEN_SELECTION).all()
    others = {"val_macro_f1", "val_macro_auroc", "val_ece"} - {name}
    assert not {f"history/{other}" for other in others} & set(cache.extra)


def test_early_stopping_counts_by_the_policys_figure(manifest: Manifest, tmp_path: Path) -> None:
    settings = ("checkpoint=macro_f1", "epochs=6", "learning_rate=0.0", "patience=2")
    fitted = fit(manifest, tmp_path, *settings)
    assert fitted.history["epoch"].tolist() == [1, 2, 3]
    assert fitted.lines[-2:] == [
        "Stopped early: 2 epochs without a higher validation macro-F1.",
        "Kept epoch 1, which has the highest validation macro-F1.",
    ]
    assert ", macro-F1 " in fitted.lines[0]


# Resuming.


@pytest.mark.parametrize(
    "settings",
    [
        ("ema=0.9", "checkpoint=last", "backbone=test_resnet"),
        ("optimizer=sgd", "learning_rate=0.1", "accumulate=2", "clip_norm=1.0", "ema=0.9"),
        ("mixup=0.2", "cutmix=1.0", "checkpoint=ece"),
        ("sampling=class_balanced", "checkpoint=macro_f1"),
        ("amp=fp16", "trained_stages=1", "layer_decay=0.7", "checkpoint=last"),
        ("trained_stages=1", "stored_draws=2", "ema=0.9", "drop_rate=0.3"),
    ],
    ids=["average", "momentum", "blends", "sampling", "scaler", "stored"],
)
def test_a_stop_after_any_epoch_changes_no_bit(
    manifest: Manifest, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    settings = ("epochs=3", *settings)
    whole = fit(manifest, tmp_path, *settings)
    for epoch in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            fit(manifest, tmp_path, *settings, stop_before=f"epoch {epoch}/3")
        resumed = fit(manifest, tmp_path, *settings)
        assert resumed.lines[0].startswith(f"Going on after epoch {epoch - 1} of 3")
        assert resumed.equals(whole)
        for name, values in whole.history.items():
            np.testing.assert_array_equal(resumed.history[name], values)


# Frozen stages that run once.


@pytest.mark.parametrize(
    ("backbone", "stages"),
    [("test_convnext", 1), ("test_resnet", 2), ("test_efficientnet", 2)],
)
def test_stored_stages_train_as_the_whole_network_does(
    manifest: Manifest, tmp_path: Path, backbone: str, stages: int
) -> None:
    settings = (f"backbone={backbone}", f"trained_stages={stages}", "epochs=2", "optimizer=sgd")
    whole = fit(manifest, tmp_path, *settings)
    # As many forms as epochs: the images are the same ones, but for the rounding to float16.
    stored = fit(manifest, tmp_path, *settings, "stored_draws=2")
    np.testing.assert_allclose(stored.history["train_loss"], whole.history["train_loss"], rtol=2e-3)
    for name, value in whole.weights.items():
        moved = (value - whole.before[name]).float().norm()
        apart = (value - stored.weights[name]).float().norm()
        assert apart <= 0.05 * moved + 1e-6, name
    assert not list(tmp_path.iterdir())


def test_forms_come_in_turn_and_are_computed_once(manifest: Manifest, tmp_path: Path) -> None:
    seen: list[str] = []

    class Listening(Heard):
        def images(self, what: str, total: int) -> Any:
            seen.append(what)
            return super().images(what, total)

    settings = ("trained_stages=1", "stored_draws=2", "epochs=4")
    fit(manifest, tmp_path, *settings, progress=Listening())
    forms = [what for what in seen if what.startswith("frozen stages")]
    assert forms == ["frozen stages, form 1/2", "frozen stages, form 2/2"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["stored_draws=2"], "trained_stages=-1 freezes none"),
        (["stored_draws=2", "trained_stages=1", "mixup=0.2"], "mixup=0.2 works on pixels"),
        (["stored_draws=-1"], "stored_draws is -1, expected at least 0."),
        (
            ["stored_draws=2", "trained_stages=1", "backbone=test_vit"],
            "cannot be run apart from the rest",
        ),
    ],
)
def test_stages_that_cannot_be_stored_are_told_before_training(
    manifest: Manifest, tmp_path: Path, settings: list[str], message: str
) -> None:
    heard = Heard()
    with pytest.raises(TrustqError, match=message):
        extract_one(manifest, tiny(*settings), tmp_path, progress=heard)
    assert not any(line.startswith("epoch") for line in heard.lines)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("trained_stages=1", "stored_draws=2"), "GB for stored_draws=2 cannot be had there"),
        (("epoch_logits=true",), "GB for logits of all epochs cannot be had there"),
    ],
)
def test_a_full_disk_is_told_before_the_first_step(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any, message: str
) -> None:
    def full(file: int, start: int, n_bytes: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(TrustqError, match=f"{message} .No space left on device.. .*[Mm]ake room"):
        extract_one(manifest, tiny(*settings), tmp_path)
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert not left


# Other backbones, and what cannot be.


@pytest.mark.parametrize("backbone", ["test_vit", "test_resnet"])
def test_other_backbones_go_through(manifest: Manifest, tmp_path: Path, backbone: str) -> None:
    recipe = tiny(f"backbone={backbone}", "layer_decay=0.8", "trained_stages=2", "epochs=1")
    cache = extract_one(manifest, recipe, tmp_path)
    assert cache.backbone == backbone and cache.logits.shape == (60, 3)
    weight, bias = cache.extra["classifier/weight"], cache.extra["classifier/bias"]
    np.testing.assert_allclose(cache.features @ weight.T + bias, cache.logits, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["learning_rate=-1.0"], "learning_rate is -1, expected at least 0."),
        (["label_smoothing=1"], "label_smoothing is 1, expected at least 0 and below 1."),
        (["loss=gce", "gce_q=0"], "gce_q is 0, expected above 0 and at most 1."),
        (["layer_decay=1.5"], "layer_decay is 1.5, expected above 0 and at most 1."),
        (["accumulate=0"], "accumulate is 0, expected at least 1."),
        (["ema=1"], "ema is 1, expected at least 0 and below 1."),
        (
            ["learning_rate=nan"],
            "setting 'learning_rate=nan': learning_rate is nan, expected a number.",
        ),
        (
            ["focal_gamma=3"],
            "focal_gamma=3.0 is of loss=focal and changes nothing with loss=ce. Leave it out, or "
            "use `loss=focal`.",
        ),
        (
            ["momentum=0.5"],
            "momentum=0.5 is of optimizer=sgd and changes nothing with optimizer=adamw. Leave it "
            "out, or use `optimizer=sgd`.",
        ),
        (
            ["loss=gce"],
            "label_smoothing=0.05 makes soft labels, which loss=gce does not take. Leave them "
            "out with `label_smoothing=0`, or take one of the losses ce, logit_adjusted.",
        ),
        (
            ["loss=focal", "label_smoothing=0", "mixup=0.2"],
            "mixup=0.2 makes soft labels, which loss=focal does not take. Leave them out with "
            "`mixup=0`, or take one of the losses ce, logit_adjusted.",
        ),
        (
            ["loss=logit_adjusted", "sampling=class_balanced"],
            "sampling=class_balanced evens out the classes already; loss=logit_adjusted would do "
            "so a second time, by counts that the draws no longer have. Choose one of them.",
        ),
        (
            ["sampling=domain_balanced", "extract.sampling_group=skin_tone"],
            "sampling_group=skin_tone: the manifest has no such column; it has sample_id, path, "
            "label, group_id, split, dataset, domain.",
        ),
    ],
)
def test_settings_that_cannot_be_are_told_before_anything_is_read(
    manifest: Manifest, tmp_path: Path, settings: list[str], message: str
) -> None:
    nowhere = replace(manifest, root=tmp_path / "nowhere")
    with pytest.raises(TrustqError) as told:
        extract_one(nowhere, tiny(*settings), tmp_path / "out")
    assert str(told.value) == message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["trained_stages=9"],
            "trained_stages=9: this backbone has 4 stages between stem and head. Ask for fewer, "
            "or for everything: `trained_stages=-1`.",
        ),
        (
            ["backbone=test_resnet", "trained_stages=0", "layer_decay=0.5"],
            "layer_decay=0.5 changes nothing where all that is trained is one layer. Leave it "
            "out, or train more: `trained_stages=-1`.",
        ),
        (
            ["backbone=test_vit", "image_size=40"],
            "test_vit cannot be run on images of 40 pixels: Input height (40) should be divisible "
            "by patch size (16).\nTry another `image_size`, or another backbone.",
        ),
    ],
)
def test_what_the_backbone_refuses_is_told_before_training(
    manifest: Manifest, tmp_path: Path, settings: list[str], message: str
) -> None:
    heard = Heard()
    with pytest.raises(TrustqError) as told:
        extract_one(manifest, tiny(*settings), tmp_path, progress=heard)
    assert str(told.value) == message
    assert not any(line.startswith("epoch") for line in heard.lines)


def test_a_backbone_whose_stages_timm_does_not_tell_is_refused() -> None:
    network = Network(torch.nn.Linear(2, 2), n_features=2, n_logits=0, config={}, weights="none")
    with pytest.raises(TrustqError) as told:
        freeze_stages(network, 1)
    assert str(told.value) == (
        "trained_stages: timm does not tell the stages of this backbone. Train all of it, "
        "`trained_stages=-1`, or take another backbone."
    )


def test_macro_auroc_needs_two_classes_to_choose_by(manifest: Manifest, tmp_path: Path) -> None:
    label = manifest.columns["label"].copy()
    label[manifest.columns["split"] == "val"] = "bars"
    alike = replace(manifest, columns={**manifest.columns, "label": label})
    with pytest.raises(TrustqError) as told:
        fit(alike, tmp_path, "checkpoint=macro_auroc")
    assert str(told.value) == (
        "checkpoint=macro_auroc needs validation rows of two classes or more; all of them are of "
        "one. Make the splits again, or choose by another figure, e.g. `checkpoint=best`."
    )


def test_an_unknown_loss_names_the_known_ones() -> None:
    with pytest.raises(TrustqError) as told:
        tiny("loss=focale")
    assert str(told.value) == (
        "setting 'loss=focale': loss is 'focale', expected one of ce, gce, sce, focal, "
        "logit_adjusted (did you mean 'focal'?)."
    )


def test_packaged_recipes_agree_with_themselves(manifest: Manifest) -> None:
    recipes = {name: load_recipe(name, part="extract").extract for name in packaged()}
    assert len(set(recipes)) > 5
    for recipe in recipes.values():
        require_agreeing(manifest, recipe=recipe)  # raises where settings rule each other out
