"""Data sets: one adapter a file, from published files to a manifest."""

import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trustq.core.plugins import find_plugin, plugin_names
from trustq.errors import InputError, NotFound

if TYPE_CHECKING:  # numpy and DuckDB stay out of `trustq --help`
    import numpy as np

    from trustq.data.manifest import Manifest
    from trustq.data.pillow_rgb import Traits
    from trustq.datasets.rows import Rows

FRACTIONS = (0.70, 0.15, 0.15)  # train, val, test
SPLIT_MODES = ("made", "published", "external")
NATIVE = "native"
_IMAGES = ("skip_missing", "metadata_only")  # what may be done about images that are not there


@dataclass(frozen=True)
class Adapter:
    """What `trustq data prepare` lists of a data set, and the module that reads it.

    The module has `read_rows(root, **options)`. Where `needs_root` is false the images are written,
    beside the manifest unless a root is given. `taxonomy` names the table of its labels. Where
    `unverified`, the layout is the one that is described, and no published file was at hand.
    """

    description: str
    module: str
    needs_root: bool = True
    options: tuple[str, ...] = ()
    taxonomy: str | None = None
    unverified: bool = False


ADAPTERS = {
    "ham10000": Adapter(
        "HAM10000, 7 classes of pigmented skin lesions: its metadata CSV, the ISIC Archive's "
        "collection or the ISIC 2018 Task 3 tables, with the images",
        "trustq.datasets.ham10000",
        options=(*_IMAGES, "rename"),
        taxonomy="ham10000",
    ),
    "isic2019": Adapter(
        "ISIC 2019, 8 classes: the training tables, the official test tables (with UNK), or both",
        "trustq.datasets.isic2019",
        options=_IMAGES,
        taxonomy="isic2019",
    ),
    "isic2018-task3": Adapter(
        "The 1,512 test images of ISIC 2018 Task 3, HAM10000's classes",
        "trustq.datasets.isic2018_task3",
        options=(*_IMAGES, "rename"),
        taxonomy="ham10000",
    ),
    "bcn20000": Adapter(
        "BCN20000: its own table, or its rows of the ISIC 2019 training tables (those verified)",
        "trustq.datasets.bcn20000",
        options=(*_IMAGES, "rename"),
        taxonomy="bcn20000",
        unverified=True,
    ),
    "pad-ufes-20": Adapter(
        "PAD-UFES-20, 6 classes of skin lesions on smartphone images, by patient",
        "trustq.datasets.pad_ufes_20",
        options=(*_IMAGES, "rename"),
        taxonomy="pad-ufes-20",
    ),
    "milk10k": Adapter(
        "MILK10k, 11 classes, a clinical and a dermoscopic image of each lesion, by lesion",
        "trustq.datasets.milk10k",
        options=_IMAGES,
        unverified=True,
    ),
    "fitzpatrick17k": Adapter(
        "Fitzpatrick17k, 114 skin conditions on clinical images, with skin types",
        "trustq.datasets.fitzpatrick17k",
        options=(*_IMAGES, "rename"),
        taxonomy="fitzpatrick17k",
    ),
    "ddi": Adapter(
        "DDI, clinical images of three skin-tone groups, benign and malignant",
        "trustq.datasets.ddi",
        options=(*_IMAGES, "rename"),
        taxonomy="ddi",
        unverified=True,
    ),
    "chexpert": Adapter(
        "CheXpert chest X-rays, whether one finding is there, by patient",
        "trustq.datasets.chexpert",
        options=("finding", "uncertain", "unmentioned", *_IMAGES, "rename"),
        unverified=True,
    ),
    "nih-chestxray14": Adapter(
        "NIH ChestX-ray14, whether one finding (or any) is there, by patient",
        "trustq.datasets.nih_chestxray14",
        options=("finding", *_IMAGES),
        unverified=True,
    ),
    "folder": Adapter(
        "Any images in one folder per class",
        "trustq.datasets.folder",
        options=("group_regex", "rename"),
    ),
    "csv": Adapter(
        "Any CSV or Parquet table with paths and labels",
        "trustq.datasets.table",
        options=(
            "table",
            "id_column",
            "path_column",
            "label_column",
            "group_column",
            "split_column",
            *_IMAGES,
            "skip_unlabeled",
            "rename",
        ),
    ),
    "digits": Adapter(
        "1,797 real handwritten digits from scikit-learn, written as PNG images; no download",
        "trustq.datasets.digits",
        needs_root=False,
    ),
}


def prepare(
    name: str,
    *,
    out: Path,
    root: Path | None = None,
    seed: int = 0,
    fractions: Sequence[float] = FRACTIONS,
    split: str = "made",
    splits_file: Path | None = None,
    target: str = NATIVE,
    taxonomy: Path | None = None,
    drop: Sequence[str] = (),
    merge_duplicates: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
    **options: Any,
) -> "Manifest":
    """Make the manifest of a data set, write it to `out` (Parquet) and return it.

    `name` is one of `find_adapters()`, `options` are that adapter's; `root` is the folder with the
    published files. Rows are split by group, stratified by label, into train, val and test of
    `fractions`, unless the data set or `splits_file` (`sample_id` and `split` of every row) says
    how. `split` is `made`, `published` (the data set's own parts; its training part gives those
    that it lacks) or `external` (all rows). Labels are the published ones or, by `target`, those of
    `trustq.data.taxonomy` (`condition`, `malignant`, `ham10000`); all of these are kept as columns.
    `taxonomy` is a CSV used instead of the packaged table, `drop` names published labels whose rows
    are left out, `merge_duplicates` a table of pairs whose groups become one. `progress` is called
    with images read and images in all, `say` with sentences worth reading. Raises `TrustqError`
    that names rows where files and tables do not fit; then nothing is written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     len(prepare("digits", out=Path(folder) / "digits.parquet"))
    1797
    """
    from trustq.data.manifest import (
        IMAGE_DIGEST,
        make_manifest,
        mixed_groups,
        require_parquet,
        write_manifest,
    )
    from trustq.datasets.groups import merged_groups
    from trustq.datasets.target import with_target

    say = say or (lambda sentence: None)
    out = Path(out)
    adapter = _adapter(name, options)
    require_parquet(out)
    if splits_file is not None and "split_column" in options:
        raise InputError("`splits` and `split_column` both give the splits; choose one.")
    if len(fractions) != len(FRACTIONS):
        raise InputError(
            f"Expected the fractions of train, val and test, such as "
            f"{', '.join(map(str, FRACTIONS))}; found {', '.join(map(str, fractions))}."
        )
    if split not in SPLIT_MODES:
        raise InputError(
            f"`split={split}`: expected one of {', '.join(SPLIT_MODES)}.",
            where="split",
            found=split,
            expected=SPLIT_MODES,
        )
    if split != "made" and (splits_file is not None or "split_column" in options):
        raise InputError(
            f"`split={split}` and `splits` or `split_column` both give the splits.",
            where="split",
            found=split,
        )
    if root is None and adapter.needs_root:
        raise InputError(f"{name} needs `root`: the folder with its published files.")
    root = Path(root) if root is not None else out.with_suffix(".images")
    if adapter.needs_root and not root.is_dir():
        raise NotFound(f"{root}: no such folder.")

    rows: Rows = importlib.import_module(adapter.module).read_rows(root, **options)
    rows = with_target(rows, target, taxonomy=taxonomy or adapter.taxonomy, drop=drop)
    if merge_duplicates is not None:
        columns, note = merged_groups(rows.columns, merge_duplicates)
        rows = replace(rows, columns=columns, notes=(*rows.notes, note))
    for note in rows.notes:
        say(note)
    columns, split_origin = _with_split(rows, split, splits_file, fractions=fractions, seed=seed)
    if "column" in split_origin:
        say(f"The splits are those of column {split_origin['column']!r}.")
    manifest = make_manifest(
        columns,
        classes=rows.classes,
        root=rows.root,
        split_origin=split_origin,
        source=rows.source,
    )
    mixed = mixed_groups(columns["label"], columns["group_id"])
    if mixed:
        more = ", ..." if len(mixed) > 5 else ""
        say(
            f"Groups that carry more than one label, each kept whole: {len(mixed)} "
            f"({', '.join(mixed[:5])}{more})."
        )
    n_images = sum(manifest.image_path(row).is_file() for row in range(len(manifest)))
    if options.get("metadata_only") and n_images < len(manifest):
        say(
            f"Images that are not there: {len(manifest) - n_images:,} of {len(manifest):,}. The "
            f"manifest has no {IMAGE_DIGEST} and serves what reads no image."
        )
    else:
        digests, notes = _image_digests(manifest, progress=progress, source=rows.source)
        manifest = replace(manifest, columns={**manifest.columns, IMAGE_DIGEST: digests})
        for note in notes:
            say(note)
    write_manifest(manifest, out)
    return manifest


def find_adapters() -> dict[str, Adapter]:
    """All adapters by name: ADAPTERS, then those of plug-ins.

    A plug-in names a module with `read_rows(root, **options)`, whose first line says what it reads;
    `OPTIONS` and `NEEDS_ROOT` are those of `Adapter`.
    """
    found = dict(ADAPTERS)
    for name in plugin_names("datasets", taken=ADAPTERS):
        plugin = find_plugin("datasets", name)
        assert plugin is not None
        module = plugin.load()
        plugin.require(callable(getattr(module, "read_rows", None)), "module with read_rows")
        found[name] = Adapter(
            f"{(module.__doc__ or plugin.title).strip().splitlines()[0]} ({plugin.identity})",
            module.__name__,
            needs_root=getattr(module, "NEEDS_ROOT", True),
            options=tuple(getattr(module, "OPTIONS", ())),
        )
    return found


def _adapter(name: str, options: Iterable[str]) -> Adapter:
    known = ADAPTERS if name in ADAPTERS else find_adapters()
    if name not in known:
        raise InputError(
            f"Unknown data set {name!r}; known are {', '.join(known)}.",
            expected=known,
            found=name,
        )
    adapter = known[name]
    foreign = [option for option in options if option not in adapter.options]
    if foreign:
        has = f"its options are {_flags(adapter.options)}" if adapter.options else "it has none"
        raise InputError(f"{_flags(foreign)} is no option of {name}; {has}.")
    return adapter


def _flags(options: Sequence[str]) -> str:
    return ", ".join(f"`{option}`" for option in options)


def _with_split(
    rows: "Rows", mode: str, splits_file: Path | None, *, fractions: Sequence[float], seed: int
) -> tuple[dict[str, "np.ndarray"], dict[str, Any]]:
    import numpy as np

    from trustq.data.manifest import SPLITS, make_manifest
    from trustq.data.splits import split_by_group

    columns = rows.columns
    if splits_file is not None:
        split = _split_of_file(Path(splits_file), columns["sample_id"])
        return {**columns, "split": split}, {"file": Path(splits_file).name}
    n = len(columns["sample_id"])
    if mode == "external":
        return {**columns, "split": np.full(n, "external", dtype=object)}, {"mode": "external"}
    if "split" in columns and mode == "made":
        return columns, rows.split_origin
    # Checked as if all were one split, for blank labels and groups cannot be split.
    one = np.full(n, SPLITS[0], dtype=object)
    make_manifest(
        {**columns, "split": one}, classes=rows.classes, root=rows.root, source=rows.source
    )
    if mode == "published":
        return _published(rows, fractions=fractions, seed=seed)
    part = split_by_group(columns["label"], columns["group_id"], fractions=fractions, seed=seed)
    split = np.array(SPLITS, dtype=object)[part]
    return {**columns, "split": split}, {"seed": seed, "fractions": list(fractions)}


def _published(
    rows: "Rows", *, fractions: Sequence[float], seed: int
) -> tuple[dict[str, "np.ndarray"], dict[str, Any]]:
    """The data set's own parts; its training part is divided among itself and those it lacks."""
    import numpy as np

    from trustq.data.splits import split_by_group

    columns = rows.columns
    if "published_split" not in columns:
        raise InputError(
            f"{rows.source} comes without splits, or without the lists that hold them; leave out "
            "`split=published`."
        )
    split = columns["published_split"].copy()
    share_of = dict(zip(("train", "val", "test"), fractions, strict=True))
    made = [name for name in share_of if name == "train" or not (split == name).any()]
    train = np.flatnonzero(split == "train")
    if len(train) and len(made) > 1:
        shares = np.array([share_of[name] for name in made])
        part = split_by_group(
            columns["label"][train],
            columns["group_id"][train],
            fractions=(shares / shares.sum()).tolist(),
            seed=seed,
        )
        split[train] = np.array(made, dtype=object)[part]
    kept = [name for name in share_of if name not in made]
    origin = {"mode": "published", "kept": kept, "seed": seed, "fractions": list(fractions)}
    return {**columns, "split": split}, origin


def _split_of_file(path: Path, sample_ids: "np.ndarray") -> "np.ndarray":
    import numpy as np

    from trustq.core.column_names import ID_COLUMNS, first_called
    from trustq.core.columns import read_table
    from trustq.core.words import read_splits
    from trustq.data.manifest import SPLITS
    from trustq.datasets.rows import column, image_names, named_rows, texts

    columns = read_table(path)
    by = first_called(columns, ID_COLUMNS) or "sample_id"
    ids = image_names(column(columns, by, source=str(path)).tolist()).tolist()
    splits = read_splits(texts(column(columns, "split", source=str(path)).tolist()))[0].tolist()
    names = image_names(sample_ids.tolist()).tolist()
    known = set(names)
    split_of: dict[Any, Any] = dict(zip(ids, splits, strict=True))
    first = {sample_id: row for row, sample_id in reversed(list(enumerate(ids)))}
    faults = {
        f"the split is not one of {', '.join(SPLITS)} in": [
            row for row, split in enumerate(splits) if split not in SPLITS
        ],
        "these data have no sample of": [row for row, i in enumerate(ids) if i not in known],
        "a sample_id is repeated in": [row for row, i in enumerate(ids) if first[i] != row],
    }
    for fault, bad in faults.items():
        if bad:
            raise InputError(f"{path}: {fault} {named_rows(bad, ids)}.", path=path)
    absent = [row for row, i in enumerate(names) if i not in split_of]
    if absent:
        raise InputError(
            f"{path} must give the split of every sample; it has none for "
            f"{named_rows(absent, sample_ids.tolist())} of the data.",
            path=path,
        )
    return np.array([split_of[name] for name in names], dtype=object)


def _image_digests(
    manifest: "Manifest", *, progress: Callable[[int, int], None] | None, source: str
) -> "tuple[np.ndarray, list[str]]":
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    from trustq.core.digest import digest_bytes
    from trustq.data.pillow_rgb import traits_of
    from trustq.datasets.rows import named_rows

    n = len(manifest)
    paths = [manifest.image_path(row) for row in range(n)]
    absent = [row for row, path in enumerate(paths) if not path.is_file()]
    if absent:
        raise InputError(
            f"{source}: no image at the path of "
            f"{named_rows(absent, manifest.columns['path'].tolist())} under {manifest.root}.",
            path=source,
        )
    digests = np.empty(n, dtype=object)
    traits: dict[str, list[int]] = {}

    def read(path: Path) -> "tuple[str, Traits | None]":
        data = path.read_bytes()
        try:
            return digest_bytes(data), traits_of(data)
        except Exception:  # a damaged image is told by whoever decodes it
            return digest_bytes(data), None

    # Threads, since the disk is what is waited for.
    with ThreadPoolExecutor(8) as pool:
        for row, (digest, found) in enumerate(pool.map(read, paths)):
            digests[row] = digest
            for name in _trait_names(found):
                traits.setdefault(name, []).append(row)
            if progress is not None:
                progress(row + 1, n)
    ids = manifest.columns["sample_id"].tolist()
    return digests, [
        f"{name}: {len(rows):,} of {n:,} images, e.g. {ids[rows[0]]}."
        for name, rows in sorted(traits.items())
    ]


def _trait_names(traits: "Traits | None") -> list[str]:
    if traits is None:
        return []
    names = {
        "Transparent, drawn on white": traits.transparent,
        "Turned upright by their EXIF orientation": traits.turned,
        f"Grey of {traits.depth}, scaled to 0 to 255": traits.depth is not None,
    }
    return [name for name, holds in names.items() if holds]
