"""`package_model`: a cache and its network become a folder that predicts, triages and says why.

Everything that is chosen (head's penalty, temperature, cuts, abstention, outlier cut) is chosen on
validation rows; everything that is promised is measured on test rows.
"""

import platform
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trustq import __version__
from trustq.calibration.temperature import DegenerateCalibrationWarning, TemperatureScaling
from trustq.core.counts import counted
from trustq.core.digest import digest_bytes
from trustq.core.generators import generator
from trustq.data.manifest import Manifest
from trustq.data.pillow_rgb import read_rgb
from trustq.data.preprocessing import Preprocessing
from trustq.deploy.cuts import (
    COVERAGE,
    FIELD_RISK_CUTS,
    FIELD_URGENCY_CUTS,
    OUTLIER_SHARE,
    SENSITIVITIES,
    Cut,
    assured_cut,
    conditions_of,
    confidence_at_coverage,
    cut_at_sensitivity,
    cut_of_distances,
    measured_cut,
    positive_classes,
)
from trustq.deploy.extras import load_extra, require_export
from trustq.deploy.graph import INPUT, OUTPUTS, Tail, save_graph, with_tail
from trustq.deploy.head_fit import PackagedHead, fit_packaged_head
from trustq.deploy.image_checks import look_at, measured_rules
from trustq.deploy.licences import licence_line
from trustq.deploy.model import ABOUT, FORMAT, FORMAT_VERSION, VARIANTS, Outputs, write_about
from trustq.deploy.network_export import export_network, network_of
from trustq.deploy.one_class import one_class, warning_of
from trustq.deploy.outliers import fit_outliers
from trustq.deploy.quantise import PERCENTILE, to_float16, to_int8
from trustq.deploy.texts import read_texts
from trustq.deploy.tier_table import decide_all, tier_table
from trustq.deploy.triage import Rules
from trustq.errors import DishonestError, InputError, TrustqError
from trustq.evaluation.bootstrap import FIGURES, compare_figures, figure_intervals
from trustq.metrics.probabilities import softmax
from trustq.store import Cache, read_cache
from trustq.store.format import SEEN_SELECTION
from trustq.store.read import require_same_manifest

PARITY = 1e-4  # largest difference of logits from the cache's, on real images
RELATIVE_PARITY = 1e-5  # or of the largest logit: 80 roundings of float32, which grow with it
PARITY_IMAGES = 100
CALIBRATION_IMAGES = 64  # training images that int8 ranges are measured on
LOOKED_AT = 200  # validation images on which the rules of image checks are measured
_BLOCK = 16
SAID_OF_CUTS = {
    "validation": "Cuts reach the asked sensitivities on the validation rows; on new rows about "
    "half of such cuts reach less (`cuts=assured` leaves room for that)",
    "assured": "New rows like the validation rows reach the asked sensitivities with 95 % "
    "confidence (one row a group), but for the temperature, which the same rows fitted",
}

Tell = Callable[[str, str, int, int], None]  # stage, unit, done, total


@dataclass(frozen=True)
class PackageSettings:
    """How a model is packaged; the defaults are those of `trustq package`.

    `labels` is a table of training labels for a fitted head; `positive` names the classes that must
    not be missed; `sensitivities` are asked of routine, priority and urgent; `cuts` is validation
    (reached there), assured (of new rows, with 95 % confidence) or field; `slices` are columns of
    the manifest that the tiers' table is split by.
    """

    head: str = "backbone"
    labels: Path | None = None
    regularisation: float | None = None
    positive: tuple[str, ...] = ()
    sensitivities: tuple[float, float, float] = SENSITIVITIES
    cuts: str = "validation"
    coverage: float = COVERAGE
    outlier_share: float = OUTLIER_SHARE
    variants: tuple[str, ...] = VARIANTS
    uint8: bool = False
    name: str = ""
    licence: str = ""
    slices: tuple[str, ...] = ()
    seed: int = 0


@dataclass
class _Work:
    """What the steps of packaging share."""

    cache: Cache
    manifest: Manifest
    settings: PackageSettings
    folder: Path
    tell: Tell
    preprocessing: Preprocessing
    head: PackagedHead
    tail: Tail
    conditions: tuple[str, ...]
    positive: tuple[int, ...]
    notes: list[str] = field(default_factory=list)

    @property
    def validation(self) -> np.ndarray:
        return np.flatnonzero((self.cache.split == "val") & (self.cache.label >= 0))

    @property
    def test(self) -> np.ndarray:
        return np.flatnonzero(
            np.isin(self.cache.split, ("test", "external")) & (self.cache.label >= 0)
        )


def package_model(
    cache_path: Path,
    manifest: Manifest,
    *,
    out: Path,
    settings: PackageSettings | None = None,
    tell: Tell = lambda *_: None,
) -> dict[str, Any]:
    """Write the folder `out` from a cache, its network and its images; return its `model.json`.

    Raises `TrustqError` where the network or its images are not there, where validation or test
    rows were trained on, where a head cannot be folded into a graph, and where the graph's logits
    on real images differ from the cache's by more than 1e-4 and 1e-5 of the largest logit; no
    model is left then.
    """
    settings = settings or PackageSettings()
    unknown = [name for name in settings.variants if name not in VARIANTS]
    if unknown:
        raise InputError(
            f"Unknown variants {', '.join(unknown)}; expected some of {', '.join(VARIANTS)}.",
            expected=VARIANTS,
            found=unknown,
        )
    require_export()
    folder = Path(out)
    if (folder / ABOUT).exists():
        raise InputError(
            f"{folder} holds a model already. Choose another folder with `out`, or delete it.",
            path=folder,
        )
    cache = read_cache(Path(cache_path))
    require_same_manifest(cache, manifest)
    _require_honest(cache)
    work = _begin(cache, manifest, settings, folder, tell)
    # What cannot be is refused before a network is exported.
    _slices(work)
    _rules(work, _exact(work, work.validation))
    folder.mkdir(parents=True, exist_ok=True)
    tell("network to ONNX", "graphs", 0, 1)
    network = export_network(
        network_of(cache).model,
        size=work.preprocessing.size,
        with_logits=work.head.weight is None,
    )
    tell("network to ONNX", "graphs", 1, 1)
    variants = {"float32": _float32(work, network)}
    for name in settings.variants:
        if name != "float32":
            variants[name] = _smaller(work, network, name)
    about = _about(work, variants)
    return write_about(folder, about)


def _require_honest(cache: Cache) -> None:
    held_out = np.isin(cache.split, ("val", "test", "external")) & (cache.label >= 0)
    for split in ("val", "test"):
        if not (held_out & (cache.split == split)).any() and not (
            split == "test" and (held_out & (cache.split == "external")).any()
        ):
            raise InputError(
                f"{cache.name} has no labelled rows of split {split}: a temperature and cuts need "
                "validation rows, and what a model is worth is measured on test rows."
            )
    known = held_out & ~cache.honest_for_any_noise
    if known.any():
        raise DishonestError(
            f"{cache.name}: its network was trained on labels of {int(known.sum())} validation and "
            "test rows (or of their groups), so every figure of the package would mislead. Package "
            "a network that was trained on the training split."
        )


def _begin(
    cache: Cache, manifest: Manifest, settings: PackageSettings, folder: Path, tell: Tell
) -> _Work:
    missing = {"size", "mean", "std", "interpolation", "resize"} - set(cache.preprocessing)
    if missing:
        raise InputError(
            f"{cache.name} does not state its preprocessing ({', '.join(sorted(missing))}), so "
            "what its network sees of an image is not known. Package a cache that trustq extracted."
        )
    known = conditions_of(cache.classes)
    positive = positive_classes(cache.classes, known, settings.positive)
    head = fit_packaged_head(
        cache, settings.head, labels=settings.labels, regularisation=settings.regularisation
    )
    train = cache.split == "train"
    labels = np.where(cache.label >= 0, cache.label, cache.observed).astype(np.int64)
    outliers = fit_outliers(cache.features[train], labels[train])
    validation = np.flatnonzero((cache.split == "val") & (cache.label >= 0))
    temperature, reason = _temperature(head.logits[validation], cache.label[validation])
    work = _Work(
        cache=cache,
        manifest=manifest,
        settings=settings,
        folder=folder,
        tell=tell,
        preprocessing=Preprocessing.of_attribute(cache.preprocessing),
        head=head,
        tail=Tail(head.weight, head.bias, temperature, outliers),
        conditions=known or ("other",) * len(cache.classes),
        positive=positive,
    )
    if reason:
        work.notes.append(reason)
    if settings.cuts in SAID_OF_CUTS:
        work.notes.append(SAID_OF_CUTS[settings.cuts])
    if known is None:
        work.notes.append(
            "No taxonomy knows all of these classes, so their conditions are `other` and the tiers "
            "go by the risk score alone."
        )
    return work


def _temperature(logits: np.ndarray, labels: np.ndarray) -> tuple[float, str]:
    """The temperature of validation rows; 1 and the reason where they do not determine one."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DegenerateCalibrationWarning)
        scaler = TemperatureScaling().fit(logits, labels.astype(np.int64))
    told = [str(w.message) for w in caught if w.category is DegenerateCalibrationWarning]
    if told:
        return 1.0, f"The temperature stays 1: on validation rows {told[0]}."
    return float(scaler.temperature_), ""


def _float32(work: _Work, network: Any) -> dict[str, Any]:
    """The exact variant: parity on real images, rules and figures from the cache's own rows."""
    path = work.folder / "model.onnx"
    save_graph(path, _with_tail(work, network, work.tail, "float32"))
    rows = _spread(np.concatenate([work.validation, work.test]), PARITY_IMAGES)
    found = _outputs(work, path, rows, "logits against the cache")
    expected = work.head.logits[rows]
    difference = float(np.abs(found.logits - expected).max())
    allowed = max(PARITY, RELATIVE_PARITY * float(np.abs(expected).max()))
    if not difference <= allowed:
        path.unlink()
        raise TrustqError(
            f"On {counted(len(rows), 'image')} the graph's logits differ from the cache's by up to "
            f"{difference:.2g}, more than {allowed:.2g}. Was the cache written on another device "
            f"or in another precision ({work.cache.precision})? Send the images through the "
            "network again with `trustq extract` and `with=CACHE`, and package that cache."
        )
    own = _exact(work, np.concatenate([work.validation, work.test]))
    about = _variant(work, path, own, work.tail.temperature)
    about["parity"] = {"n_images": len(rows), "largest_difference_of_logits": difference}
    if work.settings.uint8:
        inside = work.folder / "model-uint8.onnx"
        graph = _with_tail(work, network, work.tail, "float32", uint8=work.preprocessing)
        save_graph(inside, graph)
        about["uint8_file"] = {"file": inside.name} | _file_facts(inside)
    return about | {"outputs": own}


def _exact(work: _Work, rows: np.ndarray) -> Outputs:
    """What the float32 graph gives on rows, from the cache's own logits and features."""
    every = Outputs(
        softmax(work.head.logits / work.tail.temperature),
        work.head.logits,
        work.tail.outliers.distances(work.cache.features),
    )
    return Outputs(*(values[rows] for values in every))


def _smaller(work: _Work, network: Any, name: str) -> dict[str, Any]:
    """A smaller variant, its temperature and cuts chosen anew from what it gives on images."""
    path = work.folder / f"model-{name}.onnx"
    facts: dict[str, Any] = {}
    if name == "int8":
        train = np.flatnonzero(work.cache.split == "train")
        rows = np.sort(
            generator(work.settings.seed, "int8").permutation(train)[:CALIBRATION_IMAGES]
        )
        images = work.preprocessing.network_input(_pixels(work, rows))
        work.tell("int8 ranges", "graphs", 0, 1)
        smaller = to_int8(network, images)
        work.tell("int8 ranges", "graphs", 1, 1)
        facts = {"per_channel": True, "percentile": PERCENTILE, "n_calibration": len(rows)}
    else:
        smaller = to_float16(network)
    save_graph(path, _with_tail(work, smaller, work.tail, name))
    held_out = np.concatenate([work.validation, work.test])
    found = _outputs(work, path, held_out, f"{name} on held-out images")
    labels = work.cache.label[work.validation]
    temperature, reason = _temperature(found.logits[: len(labels)].astype(np.float64), labels)
    if reason:
        work.notes.append(f"{name}: {reason}")
    own = Outputs(
        softmax(found.logits.astype(np.float64) / temperature), found.logits, found.distance
    )
    save_graph(path, _with_tail(work, smaller, replace(work.tail, temperature=temperature), name))
    return _variant(work, path, own, temperature) | {"outputs": own} | facts


def _with_tail(
    work: _Work, network: Any, tail: Tail, variant: str, *, uint8: Preprocessing | None = None
) -> Any:
    metadata = {
        "classes": list(work.cache.classes),
        "preprocessing": work.preprocessing.attribute,
        "temperature": tail.temperature,
        "variant": variant,
        "dataset": work.cache.dataset,
        "not_a_medical_device": True,
    }
    return with_tail(network, tail, name=_name(work), metadata=metadata, uint8=uint8)


def _variant(work: _Work, path: Path, own: Outputs, temperature: float) -> dict[str, Any]:
    n = len(work.validation)
    rules, cuts = _rules(work, Outputs(*(values[:n] for values in own)))
    return {
        "file": path.name,
        **_file_facts(path),
        "temperature": temperature,
        "rules": rules.attribute,
        "cuts": cuts,
    }


def _file_facts(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"bytes": len(content), "digest": digest_bytes(content)}


def _rules(work: _Work, validation: Outputs) -> tuple[Rules, list[dict[str, Any]]]:
    """Cuts from validation rows, or the field's, with what each did on them."""
    settings = work.settings
    rows = work.validation
    is_positive = np.isin(work.cache.label[rows], work.positive)
    scores = validation.probabilities[:, list(work.positive)].sum(axis=1)
    groups = work.cache.group_id[rows]
    if settings.cuts == "field":
        thresholds = (*FIELD_RISK_CUTS, *FIELD_URGENCY_CUTS)
        cuts = [measured_cut(t, scores, is_positive, groups=groups) for t in thresholds]
        risk, urgency = FIELD_RISK_CUTS, FIELD_URGENCY_CUTS
    elif settings.cuts in ("validation", "assured"):
        asked = settings.sensitivities
        if len(asked) != 3 or list(asked) != sorted(asked, reverse=True):
            raise InputError(
                f"Sensitivities {', '.join(map(str, asked))}: expected three that fall, for "
                "routine, priority and urgent: `sensitivities=0.95,0.9,0.8`.",
                found=asked,
            )
        choose = cut_at_sensitivity
        if settings.cuts == "assured":
            choose = partial(assured_cut, seed=settings.seed)
        found = [choose(scores, is_positive, asked=a, groups=groups) for a in asked]
        first, second, third = (cut.threshold for cut in found)
        risk, urgency = (first, second), (first, second, third)
        cuts = [*found[:2], *found]
    else:
        raise InputError(
            f"`cuts={settings.cuts}`: expected validation, assured or field.",
            found=settings.cuts,
        )
    rules = Rules(
        classes=work.cache.classes,
        conditions=work.conditions,
        positive=work.positive,
        risk_cuts=risk,
        urgency_cuts=urgency,
        least_confidence=confidence_at_coverage(
            validation.probabilities.max(axis=1), settings.coverage
        ),
        outlier_cut=cut_of_distances(validation.distance, settings.outlier_share),
    )
    tiers = ("moderate", "high", "routine", "priority", "urgent")
    return rules, [_cut(tier, cut) for tier, cut in zip(tiers, cuts, strict=True)]


def _cut(tier: str, cut: Cut) -> dict[str, Any]:
    values = {"tier": tier} | vars(cut)
    return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in values.items()}


def _about(work: _Work, variants: dict[str, dict[str, Any]]) -> dict[str, Any]:
    cache, settings, test = work.cache, work.settings, work.test
    n = len(work.validation)
    given = {name: variant.pop("outputs") for name, variant in variants.items()}
    labels, groups = cache.label[test].astype(np.int64), cache.group_id[test]
    exact = given["float32"].probabilities[n:]
    for name, variant in variants.items():
        own = given[name].probabilities[n:]
        variant["figures"] = _figures(labels, own, groups, settings.seed)
        variant["one_class"] = one_class(own.argmax(axis=1), labels, cache.classes)
        if told := warning_of(variant["one_class"]):
            work.notes.insert(0, told if name == "float32" else f"{name}: {told}")
        variant["tiers"] = _tiers(work, variant, Outputs(*(v[n:] for v in given[name])))
        if name != "float32":
            variant["beside_float32"] = _beside(labels, own, exact, groups, settings.seed)
            variant["agreement"] = float((own.argmax(axis=1) == exact.argmax(axis=1)).mean())
    seen = cache.seen
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": _name(work),
        "classes": list(cache.classes),
        "conditions": list(work.conditions),
        "positive": [cache.classes[c] for c in work.positive],
        "preprocessing": work.preprocessing.attribute,
        "decoding": "upright by EXIF, on white where transparent, eight-bit RGB",
        "network": {
            "backbone": cache.backbone,
            "weights": cache.weights,
            "weights_digest": cache.weights_digest,
            "backbone_seed": cache.backbone_seed,
        },
        "head": work.head.about,
        "data": {
            "dataset": cache.dataset,
            "licence": settings.licence or licence_line(cache.dataset),
            "manifest": cache.manifest,
            "cache": cache.content_digest,
            "n_train": int((cache.split == "train").sum()),
            "n_validation": n,
            "n_test": len(test),
            "n_test_groups": len(np.unique(groups)),
        },
        "exposure": {
            "kind": cache.exposure,
            "n_trained_on": int(cache.seen_labels.sum()),
            "n_chose_checkpoint": int(((seen & SEEN_SELECTION) != 0).sum()),
            "noise": cache.noise.get("spec", "none"),
        },
        "variants": variants,
        "image_checks": _image_checks(work),
        "texts": read_texts(),
        "notes": work.notes,
        "versions": _versions(),
    }


def _figures(
    labels: np.ndarray, probs: np.ndarray, groups: np.ndarray, seed: int
) -> dict[str, Any]:
    found = figure_intervals(labels, probs=probs, groups=groups, seed=seed)
    return {name: _plain(estimate) for name, estimate in found.items()}


def _beside(
    labels: np.ndarray, own: np.ndarray, exact: np.ndarray, groups: np.ndarray, seed: int
) -> dict[str, Any]:
    found = compare_figures(labels, own, exact, groups=groups, seed=seed, figures=FIGURES)
    return {name: _plain(comparison) for name, comparison in found.items()}


def _plain(named: Any) -> dict[str, Any]:
    return {
        k: None if isinstance(v, float) and not np.isfinite(v) else v
        for k, v in named._asdict().items()
    }


def _tiers(work: _Work, variant: dict[str, Any], test: Outputs) -> list[dict[str, Any]]:
    rules = Rules.of_attribute(variant["rules"])
    decisions = decide_all(test.probabilities, test.distance, rules)
    columns = {name: work.manifest.columns[name][work.test] for name in _slices(work)}
    positive = np.isin(work.cache.label[work.test], work.positive)
    return tier_table(decisions, positive, work.cache.group_id[work.test], slices=columns)


def _slices(work: _Work) -> tuple[str, ...]:
    known = work.manifest.columns
    missing = [name for name in work.settings.slices if name not in known]
    if missing:
        raise InputError(
            f"The manifest has no column {', '.join(missing)} to slice by, only "
            f"{', '.join(known)}.",
            found=missing,
        )
    tones = [name for name in ("skin_tone", "ita_group") if name in known]
    return tuple(dict.fromkeys((*work.settings.slices, *tones)))


def _image_checks(work: _Work) -> dict[str, Any]:
    rows = _spread(work.validation, LOOKED_AT)
    looks = []
    for done, row in enumerate(rows.tolist(), start=1):
        looks.append(look_at(read_rgb(work.manifest.image_path(row))))
        work.tell("image checks", "images", done, len(rows))
    return measured_rules(looks)


def _outputs(work: _Work, path: Path, rows: np.ndarray, what: str) -> Outputs:
    """What a graph gives on images of the manifest, block by block."""
    runtime = load_extra("onnxruntime", "Packaging a model")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    blocks = []
    for start in range(0, len(rows), _BLOCK):
        images = work.preprocessing.network_input(_pixels(work, rows[start : start + _BLOCK]))
        blocks.append(session.run(list(OUTPUTS), {INPUT: images}))
        work.tell(what, "images", min(start + _BLOCK, len(rows)), len(rows))
    return Outputs(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))


def _pixels(work: _Work, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    own, digests = work.preprocessing, work.manifest.image_digests
    found = []
    for row in np.asarray(rows).tolist():
        path = work.manifest.image_path(row)
        image = read_rgb(path, enough=(2 * own.size, 2 * own.size), digest=digests[row])
        found.append(np.asarray(own.fitted(image)))
    return np.stack(found)


def _spread(rows: np.ndarray, most: int) -> np.ndarray:
    if len(rows) <= most:
        return rows
    return np.asarray(rows[np.linspace(0, len(rows) - 1, most).astype(int)])


def _name(work: _Work) -> str:
    return work.settings.name or f"{work.cache.dataset}-{work.cache.backbone}-{work.settings.head}"


def _versions() -> dict[str, str]:
    names = ("torch", "timm", "onnx", "onnxruntime")
    found = {name: str(load_extra(name, "Packaging a model").__version__) for name in names}
    return {"trustq": __version__, "python": platform.python_version()} | found
