"""Run images through a network in evaluation mode: figures of some rows, or a cache of all.

A cache's further passes (views, dropout) are streamed in turn, so that memory holds one block.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from trustq.core.counts import duration
from trustq.core.digest import canonical_json
from trustq.core.generators import generator
from trustq.data.manifest import Manifest
from trustq.errors import InputError, TrustqError
from trustq.extraction.dump.engines import OpenVinoNetwork, Outputs
from trustq.extraction.dump.explanation_checks import MOST_STAGES, faithfulness, randomised_maps
from trustq.extraction.dump.explanations import (
    SCORE_BATCH,
    Explained,
    Explainer,
    chosen_classes,
)
from trustq.extraction.dump.pooled_head import linear_classifier, norm_after_pooling
from trustq.extraction.dump.views import (
    DropoutPasses,
    MovingPasses,
    View,
    averaged,
    parse_explain,
    parse_pass_drop,
    resolve_views,
    turned,
    turned_back,
)
from trustq.extraction.inputs.images import Feed, ImageLoader, evaluation_batches
from trustq.extraction.jobs import Job
from trustq.extraction.train.weights import Network, forward_head, grid_of
from trustq.recipes import ExtractRecipe
from trustq.store import CacheWriter, writing_cache
from trustq.store.format import MANIFEST_COLUMNS
from trustq.store.manifest_columns import packed_columns
from trustq.store.write import Stream

PRECISION = "float32"
SCORE_CAM = "scorecam"
LONG = 60.0  # seconds of scorecam from which a shorter way is told
FEW_CHANNELS = 64
_BLOCK = 64  # images a forward pass; fixed, for sums differ in their last bits with the batch


Tell = Callable[[int], None] | None  # told of masked images that are done, since the last time


@dataclass
class _Block:
    """What a pass over some rows gave, on the CPU."""

    rows: np.ndarray
    features: torch.Tensor  # (b, d)
    logits: torch.Tensor | None  # (b, k)
    classes: torch.Tensor | None = None  # (b,) that are explained
    head: dict[str, np.ndarray] | None = None  # of the first block
    # Further streamed datasets by their path; those of passes have their rows second.
    further: dict[str, torch.Tensor] = field(default_factory=dict)


def evaluate(
    network: Network,
    images: ImageLoader,
    labels: np.ndarray,
    *,
    feed: Feed,
) -> tuple[float, float, np.ndarray]:
    """Mean log loss and accuracy on a loader's m rows, from their entries in `labels`, (n,).

    Also returns the rows' logits, (m, k), in the loader's order.
    """
    loss, hits, n = 0.0, 0, 0
    blocks = []
    for block in _passes(network, images, feed):
        assert block.logits is not None
        targets = torch.from_numpy(labels[block.rows])
        loss += float(cross_entropy(block.logits, targets, reduction="sum"))
        hits += int((block.logits.argmax(dim=1) == targets).sum())
        n += len(block.rows)
        blocks.append(block.logits.numpy())
    return loss / n, hits / n, np.concatenate(blocks)


@dataclass(frozen=True)
class Further:
    """What a cache holds besides the clean pass: views, passes, maps and explanations."""

    views: tuple[View, ...] = ()
    passes: DropoutPasses | MovingPasses | None = None
    grid: tuple[int, ...] = ()  # (h, w, c) of the last map, where it is stored or explained
    has_maps: bool = False
    map_precision: str = "float16"
    explain: tuple[str, ...] = ()
    channels: int = 0  # that scorecam takes, 0 for all
    explain_class: str = "predicted"
    checks: int = 0

    @classmethod
    def of_recipe(cls, recipe: ExtractRecipe, network: Network, *, size: int) -> "Further":
        """What a recipe asks for of images of `size` pixels.

        Raises `TrustqError`, before any training, where the network cannot give it.
        """
        passes: DropoutPasses | MovingPasses | None = None
        if recipe.passes:
            kind, rate = parse_pass_drop(recipe.pass_drop)
            if kind == "dropout":
                passes = DropoutPasses(network.model, recipe.passes, drop_rate=recipe.drop_rate)
            else:
                passes = MovingPasses(network.model, recipe.passes, kind=kind, rate=rate)
        grid: tuple[int, ...] = ()
        if recipe.maps or recipe.explain:
            model: Any = network.model.eval()
            with torch.inference_mode():
                blank = torch.zeros(1, 3, size, size, device=next(model.parameters()).device)
                grid = tuple(grid_of(network, model.forward_features(blank)).shape[1:])
        explain = dict(map(parse_explain, recipe.explain))
        return cls(
            resolve_views(recipe.views),
            passes,
            grid,
            recipe.maps,
            recipe.map_precision,
            tuple(explain),
            explain.get(SCORE_CAM, 0),
            recipe.explain_class,
            recipe.explain_checks,
        )

    def masked(self, view: View | None = None) -> int:
        """Forward passes of masked images that scorecam takes of an image in a pass over all."""
        if SCORE_CAM not in self.explain or (view and len(view.symmetries) > 1):
            return 0
        moved = not view and isinstance(self.passes, MovingPasses)
        n_maps = 1 + (self.passes.n_passes if moved and self.passes else 0)
        return n_maps * min(self.channels or self.grid[2], self.grid[2])

    @property
    def mapped(self) -> list[tuple[str, tuple[int | None, ...]]]:
        """Where maps lie: a prefix of paths, and the shape before that of a map."""
        places: list[tuple[str, tuple[int | None, ...]]] = [("", (None,))]
        # A mean over several symmetries has no map of its own.
        single = [view for view in self.views if len(view.symmetries) == 1]
        places += [(f"views/{view.name}/", (None,)) for view in single]
        if isinstance(self.passes, MovingPasses):
            places.append((f"passes/{self.passes.name}/", (self.passes.n_passes, None)))
        return places

    def streams(self, network: Network) -> dict[str, Stream]:
        """Every dataset that comes in blocks of rows."""
        streams: dict[str, Stream] = {}
        for prefix in ("", *(f"views/{view.name}/" for view in self.views)):
            streams[f"{prefix}features"] = (network.n_features, "float32")
            if network.n_logits:
                streams[f"{prefix}logits"] = (network.n_logits, "float32")
        if self.passes:
            shape = (self.passes.n_passes, None, network.n_logits)
            streams[f"passes/{self.passes.name}/logits"] = (shape, "float32")
        for view in self.views if network.n_logits else ():
            if (n_members := len(view.symmetries)) > 1:
                streams[f"passes/{view.name}/logits"] = (
                    (n_members, None, network.n_logits),
                    "float32",
                )
            elif isinstance(self.passes, DropoutPasses):
                streams[f"passes/dropout@{view.name}/logits"] = (shape, "float32")
        for prefix, rows in self.mapped:
            if self.has_maps:
                streams[f"{prefix}maps"] = ((*rows, *self.grid), self.map_precision)
            for method in self.explain:
                path = f"{prefix}explanations/{method}"
                streams[f"{path}/maps"] = ((*rows, *self.grid[:2]), "float16")
                streams[f"{path}/scale"] = (rows, "float32")
        if self.explain:
            streams["explanations/class"] = ((None,), "int16")
        return streams

    def as_stored(self, grid: torch.Tensor) -> torch.Tensor:
        """A map in the precision that it is stored in."""
        return grid.to(getattr(torch, self.map_precision)).cpu()

    def bytes_of_maps(self) -> int:
        """Bytes an image that maps and explanations take, in the file."""
        n_maps = 0
        for _, rows in self.mapped:
            each = np.dtype(self.map_precision).itemsize
            per_map = each * int(np.prod(self.grid)) if self.has_maps else 0
            per_map += len(self.explain) * (2 * int(np.prod(self.grid[:2])) + 4)
            n_maps += per_map * int(np.prod([length or 1 for length in rows]))
        return n_maps


def dump(
    job: Job,
    network: Network,
    manifest: Manifest,
    *,
    feed: Feed,
    attributes: Callable[[], dict[str, Any]],
    further: Further,
    engine: OpenVinoNetwork | None = None,
) -> None:
    """Write a job's cache of every image in manifest order, block by block.

    `attributes` is asked last for those of the format; without an `engine` torch computes. Views
    are passes of their own over the images; dropout and maps go along with the clean one. Raises
    `TrustqError` for an image that cannot be decoded, for a value that is not finite, and for a
    view or dropout that changes nothing; no file is left then.
    """
    n = len(manifest)
    if further.grid:
        feed.progress.say(_price(further, n))
        if SCORE_CAM in further.explain:
            feed.progress.say(_time_of_masks(network, feed, further, n))
    classes = _Classes(further.explain_class, job.rows.label, manifest.classes)
    what = f"features of seed {job.seed}"
    passes = _DumpPasses(network, manifest, feed, further, classes, what, engine)
    with writing_cache(job.target, n, further.streams(network)) as writer:
        _put_rows(writer, job, manifest)
        for block in passes.of(None):
            _append(writer, "", block)
            for name, array in (block.head or {}).items():
                writer.put(name, array)
        for view in further.views:
            for block in passes.of(view):
                _append(writer, f"views/{view.name}/", block)
            _require_changed(writer, view, n)
            parameters = canonical_json(view.parameters)
            writer.put(f"views/{view.name}/parameters", np.array([parameters]))
        if isinstance(further.passes, MovingPasses):
            parameters = canonical_json(further.passes.parameters)
            writer.put(f"passes/{further.passes.name}/parameters", np.array([parameters]))
        explained = _of_explanations(network, manifest, further, classes, feed)
        for name, array in explained.items():
            writer.put(name, array)
        writer.finish(attributes())


def _put_rows(writer: CacheWriter, job: Job, manifest: Manifest) -> None:
    """What is known of the rows before they pass the network."""
    for name in ("sample_id", "split", "group_id"):
        writer.put(name, manifest.columns[name])
    for name in ("label", "observed", "trusted", "seen"):
        writer.put(name, getattr(job.rows, name))
    writer.put(MANIFEST_COLUMNS, packed_columns(manifest.columns))
    for name, array in job.extra.items():
        writer.put(name, array)


@dataclass(frozen=True)
class _DumpPasses:
    """The passes of a dump over all images: the clean one, and one a view."""

    network: Network
    manifest: Manifest
    feed: Feed
    further: Further
    classes: "_Classes"
    what: str
    engine: OpenVinoNetwork | None

    def of(self, view: View | None) -> Iterator[_Block]:
        """The blocks of a pass, whose values are finite."""
        n = len(self.manifest)
        batches = evaluation_batches(np.arange(n), batch_size=_BLOCK)
        corruption = view.corruption if view else None
        images = self.feed.images(self.manifest, batches, corruption=corruption)
        label = f"{self.what}, {view.name}" if view else self.what
        masked = self.further.masked(view)  # which take nearly all of the time
        label += " and scorecam, masked" if masked else ""
        each = masked or 1
        with self.feed.progress.images(label, each * n) as show:
            n_masked = 0

            def tell(n_more: int) -> None:
                nonlocal n_masked
                n_masked += n_more
                show(n_masked, "")

            done = 0
            for block in self._blocks(images, view, tell if masked else None):
                _require_finite(self.manifest, block)
                yield block
                done += len(block.rows)
                show(each * done, "")
        if view and corruption and n and not images.n_changed:
            raise _unchanging(view, "it changed no pixel of any image")

    def _blocks(self, images: ImageLoader, view: View | None, tell: Tell) -> Iterator[_Block]:
        if self.engine is not None:
            return _passes_by(self.engine, self.network, images, view=view)
        return _passes(
            self.network,
            images,
            self.feed,
            view=view,
            further=self.further,
            explained=self.classes,
            tell=tell,
        )


def predict(
    network: Network, manifest: Manifest, rows: np.ndarray, *, feed: Feed, what: str
) -> np.ndarray:
    """Logits of some rows, (m, k) of float32, as `dump` would write them."""
    images = feed.images(manifest, evaluation_batches(rows, batch_size=_BLOCK))
    blocks = []
    with feed.progress.images(what, len(rows)) as show:
        done = 0
        for block in _passes(network, images, feed):
            assert block.logits is not None
            _require_finite(manifest, block)
            blocks.append(block.logits.numpy())
            done += len(block.rows)
            show(done, "")
    return np.concatenate(blocks)


class _Classes:
    """The class that is explained of each row: of the clean pass, and the same in all others."""

    def __init__(self, which: str, labels: np.ndarray, classes: tuple[str, ...]) -> None:
        self._which, self._labels, self._names = which, labels, classes
        self._chosen = np.full(len(labels), -1, dtype=np.int64)

    def of(self, rows: np.ndarray, logits: torch.Tensor) -> torch.Tensor:
        """The classes of some rows; `logits` are those of the first pass that asks."""
        if (self._chosen[rows] < 0).any():
            chosen = chosen_classes(
                self._which, logits, self._labels[rows], classes=tuple(self._names)
            )
            self._chosen[rows] = chosen.cpu().numpy()
        return torch.from_numpy(self._chosen[rows]).to(logits.device)


def _passes(
    network: Network,
    images: ImageLoader,
    feed: Feed,
    *,
    view: View | None = None,
    further: Further | None = None,
    explained: _Classes | None = None,
    tell: Tell = None,
) -> Iterator[_Block]:
    model: Any = network.model
    model.eval()
    symmetries = view.symmetries if view else [(False, False, False)]
    for i, (rows, batch) in enumerate(images):
        with torch.inference_mode():
            inputs = feed.to_input(batch)
            outputs = []
            for symmetry in symmetries:
                last = model.forward_features(turned(inputs, symmetry))
                outputs.append(forward_head(model, last, with_logits=network.n_logits > 0))
        block = _block_of(rows, outputs)
        if further is not None:
            if not i and not view and block.logits is not None:
                block.head = linear_classifier(network, block.features, block.logits)
                if further.has_maps:
                    grid = grid_of(network, last).float().cpu()
                    block.head |= norm_after_pooling(network, grid, block.features)
            explainer = Explainer(network, channels=further.channels, tell=tell)
            _add_maps(block, explainer, further, explained, inputs, last, view=view)
            if further.passes and not view:
                _add_passes(block, explainer, further, explained, inputs, last, i)
            if view and block.logits is not None:
                _add_members(block, further, view, outputs, inputs, last, i)
        yield block


def _passes_by(
    engine: OpenVinoNetwork, network: Network, images: ImageLoader, *, view: View | None
) -> Iterator[_Block]:
    """As `_passes`, by an engine that gives features and logits alone."""
    symmetries = view.symmetries if view else [(False, False, False)]
    for i, (rows, outputs) in enumerate(engine.blocks(images, list(symmetries))):
        block = _block_of(rows, outputs)
        if not i and not view and block.logits is not None:
            block.head = linear_classifier(network, block.features, block.logits)
        if view and len(outputs) > 1:
            _add_symmetries(block, view, outputs)
        yield block


def _block_of(rows: np.ndarray, outputs: Sequence[Outputs]) -> _Block:
    """The mean of a block's passes."""
    with torch.inference_mode():
        features, logits = averaged(list(outputs))
        return _Block(
            rows, features.float().cpu(), None if logits is None else logits.float().cpu()
        )


def _add_symmetries(block: _Block, view: View, outputs: Sequence[Outputs]) -> None:
    """The logits that a view's mean is of."""
    members = [logits for _, logits in outputs if logits is not None]
    if members:
        block.further[f"passes/{view.name}/logits"] = torch.stack(members).float().cpu()


def _add_members(
    block: _Block,
    further: Further,
    view: View,
    outputs: list[Outputs],
    inputs: torch.Tensor,
    last: torch.Tensor,
    index: int,
) -> None:
    """What a view's mean is of: logits of each symmetry; of other views the dropout passes."""
    if len(outputs) > 1:
        _add_symmetries(block, view, outputs)
    elif isinstance(further.passes, DropoutPasses):
        # The masks of the clean passes, so that the two are paired.
        with torch.inference_mode():
            passes = further.passes.logits(inputs, last, index)
        block.further[f"passes/dropout@{view.name}/logits"] = passes.float().cpu()


def _add_maps(
    block: _Block,
    explainer: Explainer,
    further: Further,
    classes: _Classes | None,
    inputs: torch.Tensor,
    last: torch.Tensor,
    *,
    view: View | None,
) -> None:
    """The map of a pass and its explanations, turned back to how the images lay."""
    if not further.grid or (view and len(view.symmetries) > 1):
        return
    symmetry = view.symmetries[0] if view else (False, False, False)
    prefix = f"views/{view.name}/" if view else ""
    if further.has_maps:
        grid = turned_back(grid_of(explainer.network, last), symmetry)
        block.further[f"{prefix}maps"] = further.as_stored(grid)
    if not further.explain or classes is None or block.logits is None:
        return
    chosen = classes.of(block.rows, block.logits)
    if not view:
        block.further["explanations/class"] = chosen.cpu()
    seen = turned(inputs, symmetry)
    for method in further.explain:
        found = _explain(explainer, method, seen, chosen.to(seen.device))
        maps = turned_back(found.maps[..., None], symmetry)[..., 0]
        _put_explained(block, f"{prefix}explanations/{method}", Explained(maps, found.scale))


def _explain(
    explainer: Explainer, method: str, images: torch.Tensor, classes: torch.Tensor
) -> Explained:
    def forward() -> torch.Tensor:
        last: torch.Tensor = explainer.model.forward_features(images)
        return last

    if method == SCORE_CAM:
        return explainer.score_cam(images, forward, classes)
    return explainer.grad_cam(forward, classes)


def _put_explained(block: _Block, path: str, found: Explained) -> None:
    block.further[f"{path}/maps"] = found.maps.half().cpu()
    block.further[f"{path}/scale"] = found.scale.float().cpu()


def _add_passes(
    block: _Block,
    explainer: Explainer,
    further: Further,
    classes: _Classes | None,
    inputs: torch.Tensor,
    last: torch.Tensor,
    index: int,
) -> None:
    """Logits of stochastic passes and, where these move it, the map and its explanations."""
    passes = further.passes
    model, network = explainer.model, explainer.network
    if isinstance(passes, DropoutPasses):
        with torch.inference_mode():
            block.further["passes/dropout/logits"] = (
                passes.logits(inputs, last, index).float().cpu()
            )
        return
    assert passes is not None
    found: dict[str, list[torch.Tensor]] = {}
    chosen = None
    if further.explain and classes is not None and block.logits is not None:
        chosen = classes.of(block.rows, block.logits).to(inputs.device)
    with torch.inference_mode():
        for moved, again in passes.last_maps(inputs, last, index):
            found.setdefault("logits", []).append(model.forward_head(moved).float().cpu())
            if further.has_maps:
                found.setdefault("maps", []).append(further.as_stored(grid_of(network, moved)))
            if chosen is not None:
                _explain_pass(found, explainer, further.explain, inputs, moved, again, chosen)
    for name, tensors in found.items():
        block.further[f"passes/{passes.name}/{name}"] = torch.stack(tensors)


def _explain_pass(
    found: dict[str, list[torch.Tensor]],
    explainer: Explainer,
    methods: tuple[str, ...],
    images: torch.Tensor,
    moved: torch.Tensor,
    again: Callable[[], torch.Tensor],
    classes: torch.Tensor,
) -> None:
    # A layer inside the network is reached by the pass itself, made again.
    forward = again if explainer.is_inside else lambda: moved
    for method in methods:
        if method == SCORE_CAM:
            one = explainer.score_cam(images, forward, classes)
        else:
            one = explainer.grad_cam(forward, classes)
        found.setdefault(f"explanations/{method}/maps", []).append(one.maps.half().cpu())
        found.setdefault(f"explanations/{method}/scale", []).append(one.scale.float().cpu())


def _of_explanations(
    network: Network,
    manifest: Manifest,
    further: Further,
    classes: _Classes,
    feed: Feed,
) -> dict[str, np.ndarray]:
    """What was explained, and the checks of explanations on some rows, as datasets."""
    found: dict[str, np.ndarray] = {}
    layer = Explainer(network).layer
    for method in further.explain:
        stated = {
            "method": method,
            "layer": layer,
            "class": further.explain_class,
            "scaled_to": 1,
            **({"channels": further.channels} if method == SCORE_CAM and further.channels else {}),
            "checked_rows": min(further.checks, len(manifest)),
        }
        found[f"explanations/{method}/parameters"] = np.array([canonical_json(stated)])
    if not further.explain or not further.checks:
        return found
    n = min(further.checks, len(manifest))
    rows = np.sort(generator(0, "checked rows").permutation(len(manifest))[:n])
    images = feed.images(manifest, evaluation_batches(rows, batch_size=_BLOCK))
    inputs = torch.cat([feed.to_input(batch) for _, batch in images])
    chosen = classes.of(rows, torch.zeros(n, network.n_logits)).to(feed.device)
    found["explanations/checked_rows"] = rows.astype(np.int64)
    for method in further.explain:
        path = f"explanations/{method}/checks"
        feed.progress.say(f"testing {method} on {n:,} rows: faithfulness and layers drawn anew")

        n_masked = further.masked() if method == SCORE_CAM else 0
        with _told(feed, n * n_masked * (MOST_STAGES + 2)) as tell:

            def explain(
                of: Network, i: torch.Tensor, c: torch.Tensor, m: str = method, t: Tell = tell
            ) -> Explained:
                return _explain(Explainer(of, channels=further.channels, tell=t), m, i, c)

            maps = explain(network, inputs, chosen).maps.float().cpu()
            for name, curve in faithfulness(network, inputs, maps, chosen, seed=0).items():
                found[f"{path}/{name}"] = curve
            stages, drawn = randomised_maps(network, inputs, chosen, explain=explain, seed=0)
        found[f"{path}/randomised"] = drawn
        found[f"{path}/stages"] = np.array(stages)
    return found


@contextmanager
def _told(feed: Feed, n_masked: int) -> Iterator[Tell]:
    """Progress over masked images at the most, where there are some."""
    if not n_masked:
        yield None
        return
    with feed.progress.images("testing scorecam, masked", n_masked) as show:
        done = 0

        def tell(n_more: int) -> None:
            nonlocal done
            done += n_more
            show(done, "")

        yield tell


def _price(further: Further, n: int) -> str:
    size = further.bytes_of_maps()
    h, w, c = further.grid
    asked = [*(["maps"] if further.has_maps else []), *further.explain]
    said = (
        f"{', '.join(asked)}: the last map is {h} x {w} x {c}, {further.map_precision}; {size:,} "
        f"bytes an image with its views and passes, {size * n / 1e6:,.1f} MB for {n:,} images, of "
        f"which {size * min(n, _BLOCK) / 1e6:,.1f} MB in memory at a time"
    )
    return said


def _time_of_masks(network: Network, feed: Feed, further: Further, n: int) -> str:
    """What scorecam takes, by the time of a batch, and how it would take less."""
    size, model = feed.preprocessing.size, network.model.eval()
    masked = torch.zeros(SCORE_BATCH, 3, size, size, device=feed.device)
    seconds = []
    with torch.inference_mode():
        for _ in range(3):  # the first one makes ready
            started = time.monotonic()
            model(masked)[0, 0].item()
            seconds.append(time.monotonic() - started)
    a_pass = min(seconds[1:]) / SCORE_BATCH
    each = sum(map(further.masked, (None, *further.views)))
    checked = (MOST_STAGES + 2) * min(further.checks, n) * (further.channels or further.grid[2])
    total = each * n + checked
    said = (
        f"scorecam takes {each:,} forward passes an image, {total:,} in all: about "
        f"{duration(total * a_pass)}"
    )
    taken = further.channels or further.grid[2]
    if taken > FEW_CHANNELS and total * a_pass > LONG:
        said += (
            f". `explain=scorecam:{FEW_CHANNELS}` takes the {FEW_CHANNELS} channels of the largest "
            f"spread alone: about {duration(total * a_pass * FEW_CHANNELS / taken)}"
        )
    return said


def _append(writer: CacheWriter, prefix: str, block: _Block) -> None:
    writer.append(f"{prefix}features", block.features.numpy())
    if block.logits is not None:
        writer.append(f"{prefix}logits", block.logits.numpy())
    for name, values in block.further.items():
        writer.append(name, values.numpy())


def _require_changed(writer: CacheWriter, view: View, n: int) -> None:
    # Digests are of type, shape and bytes, so those of equal outputs are equal.
    same = writer.streamed_digest(f"views/{view.name}/features") == writer.streamed_digest(
        "features"
    )
    if n and same:
        raise _unchanging(view, "the network's features are those of the clean images")


def _unchanging(view: View, found: str) -> TrustqError:
    return InputError(
        f"The view {view.name} changes nothing: {found}. Figures from it would be clean figures "
        "under another name, so nothing was written. Leave it out, or look at the images."
    )


def _require_finite(manifest: Manifest, block: _Block) -> None:
    outputs = [block.features, *([] if block.logits is None else [block.logits])]
    for name, output in block.further.items():
        outputs.append(output.transpose(0, 1) if name.startswith("passes/") else output)
    for output in outputs:
        finite = torch.isfinite(output).reshape(len(output), -1).all(dim=1)
        if not finite.all():
            row = int(block.rows[int((~finite).nonzero()[0])])
            raise TrustqError(
                f"The network's output for {manifest.image_path(row)} is not finite, so nothing "
                "was written. Look at the image, and at the weights that the network started from."
            )
