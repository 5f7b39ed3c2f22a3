"""Arrays of files that other programs wrote, by name; no pickle is loaded.

npz, npy (with others beside it), HDF5, safetensors, torch tensors, webdataset shards, and tables:
Parquet, CSV, tab-separated, Excel. What the arrays mean is decided in `class_names` and `words`.
"""

import codecs
import importlib
import io
import json
import math
import os
import re
import struct
import tarfile
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trustq.core.column_names import called, first_called
from trustq.core.columns import (
    TABLES,
    read_metadata,
    read_table,
    require_content,
    table_notes,
    unread_columns,
)
from trustq.core.words import SPLIT_WORDS, plain_texts
from trustq.errors import DamagedFile, InputError, NotFound, TrustqError

ARRAYS = (".npz", ".npy", ".h5", ".hdf5", ".safetensors", ".pt", ".pth", ".tar")
FILES = (*ARRAYS, *TABLES)
# Read by a module that may import torch, which nothing else here does.
_TENSORS = "trustq.extraction.tensor_files"
# Splits as prefixes of names, as in `train_labels` of MedMNIST's files.
_SPLIT_PREFIXES = tuple(SPLIT_WORDS)
_MAPPED = 1 << 24  # bytes from which a matrix that lies in a file as it is is mapped, not read
_READ = "biufSUO"  # kinds of arrays: numbers, texts, and objects that may be texts
_LARGE = 1 << 30  # bytes below which no size is absurd
# The words that name an array within the name of an npy file, and the array each is.
_NPY_WORDS = {
    "features": "features",
    "embeddings": "features",
    "feats": "features",
    "logits": "logits",
    "probs": "probs",
}
_BESIDE = {
    "labels": ("labels", "targets"),
    "observed": ("observed",),
    "sample_ids": ("sample_ids", "ids", "filenames", "image_list"),
    "groups": ("groups",),
    "split": ("split", "splits"),
    "classes": ("classes", "class_names"),
}


@dataclass
class ForeignFile:
    """Arrays of a file by their own names; `there` names all, of which only some are loaded.

    `unread` gives the reason for arrays that cannot be, `metadata` the texts or JSON that the file
    holds beside them, `class_names` the names of a column of class indices where the file states
    them.
    """

    path: Path
    arrays: dict[str, np.ndarray]
    is_table: bool
    there: list[str]
    unread: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    class_names: dict[str, list[str]] = field(default_factory=dict)
    beside: list[Path] = field(default_factory=list)  # further files that arrays were read from
    notes: list[str] = field(default_factory=list)  # what of the file is left out, and why

    def require(self, name: str, what: str = "") -> np.ndarray:
        """An array by its own name; raises `TrustqError` with what there is."""
        if name in self.arrays:
            return self.arrays[name]
        if name in self.unread:
            raise InputError(f"{self.path}: {name} {self.unread[name]}.")
        wanted = f"{name} for {what}" if what else name
        there = ", ".join(self.there[:20]) or "no arrays"
        raise InputError(f"{self.path} has no {wanted}; it has {there}.")


def kind_of(path: Path) -> str | None:
    """The ending by which a file is read, or None.

    >>> kind_of(Path("a.CSV.gz"))
    '.csv.gz'
    """
    name = path.name.lower()
    found = [ending for ending in FILES if name.endswith(ending)]
    if not found and "." not in name:
        return ".csv"
    return max(found, key=len, default=None)


def read_foreign(
    path: Path, *, wanted: Callable[[str], bool] = lambda name: True, beside: Iterable[str] = ()
) -> ForeignFile:
    """The arrays of a file that `wanted` takes, by name; of a table all columns.

    Arrays of splits (`train_labels`, `test_labels`) are also there as one (`labels`), with `split`,
    where the file has no such name of its own. `beside` names further files of one array each.
    Raises `TrustqError` for a missing, damaged or pickled file, or one of another kind.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind is None:
        raise InputError(
            f"{path}: expected a file that ends in {', '.join(FILES)}: save it as one of these.",
            path=path,
            expected=FILES,
        )
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the file in it.", path=path)
    if not path.is_file():
        raise NotFound(f"{path}: no such file.", path=path)
    require_content(path)
    if kind in TABLES:
        found = _table(path, kind)
    elif kind in (".h5", ".hdf5"):
        found = _hdf5(path, wanted)
    elif kind == ".safetensors":
        found = _safetensors(path, wanted)
    elif kind in (".pt", ".pth"):
        arrays, unread = importlib.import_module(_TENSORS).read_tensors(path)
        found = ForeignFile(path, arrays, False, [*arrays, *unread], unread)
    elif kind == ".tar":
        arrays = _shard(path)
        found = ForeignFile(path, arrays, False, list(arrays))
    else:
        found = _numpy(path, kind, wanted)
    _stack_splits(found)
    for name in beside:
        own = array_file(path, name)
        found.arrays[name] = read_array(own)
        found.there.append(name)
        found.beside.append(own)
    return found


def is_array_file(name: str) -> bool:
    """Whether a name given for an array is that of a file that holds it.

    >>> is_array_file("labels.npy"), is_array_file("labels")
    (True, False)
    """
    return name.lower().endswith((".npy", ".txt")) and "," not in name


def array_file(path: Path, name: str) -> Path:
    """The file of one array that is called `name`, as it is or beside `path`."""
    own = next((p for p in (Path(name), path.parent / name) if p.is_file()), None)
    if own is None:
        raise InputError(f"{name}: no such file, neither here nor beside {path}.")
    return own


def read_array(path: Path) -> np.ndarray:
    """One array of a file of its own: .npy, or .txt of one value per line."""
    if path.suffix.lower() == ".txt":
        return read_lines(path)
    return next(iter(_numpy(path, ".npy", lambda _: True, siblings=False).arrays.values()))


def read_lines(path: Path) -> np.ndarray:
    """The lines of a text file, (n,), without blank ones at its end; UTF-8, or UTF-16 by its mark.

    Raises `TrustqError` for another encoding.
    """
    whole = path.read_bytes()
    is_utf16 = whole.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        lines = whole.decode("utf-16" if is_utf16 else "utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 ({error}): save it as UTF-8, for example: iconv -f CP1252 -t "
            f"UTF-8 {path} > utf8.txt",
            path=path,
        ) from error
    while lines and not lines[-1].strip():
        lines.pop()
    return np.array([*lines, None], dtype=object)[:-1]


def matrix(array: np.ndarray, *, source: str, name: str) -> np.ndarray:
    """(n, d) of numbers: list columns are stacked, axes of length 1 beside rows are dropped.

    (n, d, 1, 1) and (n, 1, d) are what pooled networks give. Raises `TrustqError` for lists of
    several lengths, or what is no matrix.

    >>> matrix(np.zeros((5, 3, 1, 1)), source="a.npz", name="features").shape
    (5, 3)
    """
    if array.dtype == object and array.ndim == 1 and len(array):
        rows: list[Any] = [None if r is None else np.ma.filled(r, np.nan) for r in array.tolist()]
        if any(isinstance(row, np.ndarray) for row in rows):
            try:
                array = np.stack([np.stack(r.tolist()) if r.dtype == object else r for r in rows])
            except (AttributeError, TypeError, ValueError) as error:
                raise InputError(
                    f"{source}: column {name!r} must hold a list of numbers in every row, all of "
                    "one length."
                ) from error
    if array.ndim > 2:
        kept = tuple(axis for axis, size in enumerate(array.shape) if axis == 0 or size != 1)
        if len(kept) == 1:
            kept = (0, 1)
        if len(kept) == 2:
            array = array.reshape([array.shape[axis] for axis in kept])
    return array


def _table(path: Path, kind: str) -> ForeignFile:
    columns = read_table(path)
    found = ForeignFile(path, columns, True, list(columns), notes=table_notes(path))
    if kind == ".parquet":
        found.unread = unread_columns(path)
        found.metadata = read_metadata(path)
        found.class_names = _hugging_face_classes(found.metadata.get("huggingface"))
    return found


def _hugging_face_classes(stated: Any) -> dict[str, list[str]]:
    """Names of `ClassLabel` columns, as Hugging Face's `datasets` writes them to Parquet."""
    try:
        features = stated["info"]["features"]
        return {
            name: [str(own) for own in feature["names"]]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (AttributeError, KeyError, TypeError):
        return {}


def _numpy(
    path: Path, kind: str, wanted: Callable[[str], bool], *, siblings: bool = True
) -> ForeignFile:
    what = "npz file of plain arrays" if kind == ".npz" else "npy file of one plain array"
    try:
        with open(path, "rb") as raw:
            loaded: Any = _mapped_file(path, raw) if kind == ".npy" else None
            if loaded is None:
                loaded = np.load(raw, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                if kind != ".npy":
                    raise ValueError("it is one array")
                if loaded.dtype.kind not in _READ:
                    raise InputError(f"{path} {_unreadable(loaded)}.", path=path)
                arrays = {"features": loaded}
                return _beside(path, loaded) if siblings else ForeignFile(path, arrays, False, [])
            if kind != ".npz":
                raise ValueError("it holds several arrays")
            with loaded as file:
                return _npz(path, file, wanted)
    except TrustqError:
        raise
    except (
        AttributeError,
        EOFError,
        OSError,
        OverflowError,
        SyntaxError,
        TypeError,
        ValueError,
        MemoryError,
        NotImplementedError,
        RuntimeError,
        RecursionError,
        tokenize.TokenError,
    ) as error:
        raise InputError(
            f"{path} is no whole {what} (pickled objects are not loaded).", path=path
        ) from error
    except (zipfile.BadZipFile, zlib.error) as error:
        raise DamagedFile(f"{path} is damaged: {error}. Copy it again.", path=path) from error


def _npz(path: Path, file: Any, wanted: Callable[[str], bool]) -> ForeignFile:
    twice = {name for name, count in Counter(file.files).items() if count > 1}
    if twice:
        raise InputError(
            f"{path} holds several arrays called {', '.join(sorted(twice))}: save it anew with one "
            "array a name.",
            path=path,
        )
    found = ForeignFile(path, {}, False, list(file.files))
    for name in filter(wanted, found.there):
        member = file.zip.NameToInfo.get(f"{name}.npy") or file.zip.NameToInfo.get(name)
        if member is not None:
            if member.flag_bits & 1:
                raise InputError(
                    f"{path} is encrypted: unpack it with its password and save the arrays anew.",
                    path=path,
                )
            require_room(member.file_size, member.compress_size, source=str(path), name=name)
        try:
            mapped = None if member is None else _mapped_member(path, member)
            array = file[name] if mapped is None else mapped
        except ValueError as error:
            if "Object arrays cannot be loaded" not in str(error):
                raise
            # An object array nobody asked for is no obstacle.
            found.unread[name] = (
                "holds Python objects, which are pickled and not loaded: save it as plain numbers "
                f"or texts, e.g. np.array({name}.tolist()), or np.array({name}, dtype=str)"
            )
            continue
        if isinstance(array, np.ndarray):
            _take(found, name, array)
        else:
            found.unread[name] = "is no array of numpy, but a file of other bytes"
    return found


def _mapped_file(path: Path, raw: BinaryIO) -> np.ndarray | None:
    """The array of a large npy file, mapped; None where it has to be read."""
    if path.stat().st_size >= _MAPPED:
        with suppress(ValueError):  # whoever reads it says what is wrong
            if (array := _mapped_array(raw)) is not None:
                return array
    raw.seek(0)
    return None


def _mapped_member(path: Path, member: zipfile.ZipInfo) -> np.ndarray | None:
    """A large array that lies in an npz as it is, mapped after its checksum; None for others."""
    if member.compress_type != zipfile.ZIP_STORED or member.file_size < _MAPPED:
        return None
    with open(path, "rb") as raw:
        raw.seek(member.header_offset)
        head = raw.read(30)  # of the member, behind it a name and an extra field of these lengths
        start = raw.tell() + sum(struct.unpack("<HH", head[26:30]))
        raw.seek(start)
        array = _mapped_array(raw)
        if array is None:
            return None
        raw.seek(start)
        left, found = member.file_size, 0
        while left and (part := raw.read(min(left, 1 << 22))):
            found, left = zlib.crc32(part, found), left - len(part)
    if left or found != member.CRC:
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {member.filename!r}")
    return array


def _mapped_array(raw: BinaryIO) -> np.ndarray | None:
    """The npy array that begins where a file stands, mapped; None where it is not of plain rows."""
    version = np.lib.format.read_magic(raw)
    if version not in ((1, 0), (2, 0)):
        return None
    first = version == (1, 0)
    read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    shape, by_column, dtype = read(raw)
    return None if by_column else _mapped(raw, dtype, shape, raw.tell())


def _mapped(raw: Any, dtype: np.dtype[Any], shape: tuple[int, ...], at: int) -> np.ndarray | None:
    """A large matrix of numbers in a file, read-only: its pages come and go as they are used."""
    if dtype.kind not in "fiu" or len(shape) < 2 or dtype.itemsize * math.prod(shape) < _MAPPED:
        return None
    return np.memmap(raw, dtype, "r", offset=at, shape=shape).view(np.ndarray)


def _take(found: ForeignFile, name: str, array: np.ndarray) -> None:
    """Add an array of numbers or texts; of another kind the reason that it is not read."""
    if array.dtype.kind in _READ:
        found.arrays[name] = array
    else:
        found.unread[name] = _unreadable(array)


def _unreadable(array: np.ndarray) -> str:
    """Why an array of another kind than numbers or texts is not read."""
    if array.dtype.names:
        return (
            f"has the fields {', '.join(array.dtype.names)}: save each as an array, e.g. "
            "np.savez('fields.npz', **{name: array[name] for name in array.dtype.names})"
        )
    if array.dtype.kind == "V":
        return (
            f"has type {array.dtype}, bytes that say no number, as numpy saves bfloat16 and other "
            "types of ml_dtypes: save it as float32"
        )
    return f"has type {array.dtype}, expected numbers or texts"


def require_room(unpacked: int, packed: int, *, source: str, name: str) -> None:
    """Raise `TrustqError` for an array that cannot be meant: absurdly packed, or beyond memory.

    `unpacked` and `packed` are bytes. An array of zeros packs a thousandfold; what needs a gigabyte
    and packs better than that is a bomb, or a size that somebody wrote and never filled.
    """
    if unpacked < _LARGE:
        return
    if unpacked > 1000 * max(packed, 1):
        raise InputError(
            f"{source}: {name} says that it unpacks to {unpacked / 1e9:.3g} GB from "
            f"{packed / 1e6:.3g} MB, which no real data does: write it again."
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if unpacked > memory:
        raise InputError(
            f"{source}: {name} needs {unpacked / 1e9:.3g} GB and this machine has "
            f"{memory / 1e9:.3g} GB: take a part of its rows, or float16."
        )


def _beside(path: Path, array: np.ndarray) -> ForeignFile:
    """An npy file and the ones beside it that are called alike: features.npy and labels.npy."""
    stem = path.stem
    word = next((word for word in _NPY_WORDS if word in stem.lower()), None)
    name = "features" if word is None else _NPY_WORDS[word]
    found = ForeignFile(path, {name: array}, False, [name])
    if word is None:
        return found
    at = stem.lower().index(word)
    before, written, after = stem[:at], stem[at : at + len(word)], stem[at + len(word) :]
    spelt = next((form for form in (str.lower, str.upper) if form(written) == written), str.title)
    for other, words in {**_BESIDE, **{own: (own,) for own in ("logits", "probs")}}.items():
        # As it is written here, or as the word of the file is: Features.npy and Labels.npy.
        for own in dict.fromkeys((*words, *map(spelt, words))):
            for end in (".npy", ".txt"):
                file = path.parent / f"{before}{own}{after}{end}"
                if file.is_file() and other not in found.arrays:
                    found.arrays[other] = read_array(file)
                    found.there.append(other)
                    found.beside.append(file)
    return found


def _dataset(item: Any) -> np.ndarray:
    """The values of a dataset, mapped where they are many and lie together."""
    at = item.id.get_offset()
    if at is not None and item.chunks is None and item.external is None and not item.is_virtual:
        with open(item.file.filename, "rb") as raw:  # another one where it is linked
            mapped = _mapped(raw, item.dtype, item.shape, at)
        if mapped is not None:
            return mapped
    return np.asarray(item[()])


def _hdf5(path: Path, wanted: Callable[[str], bool]) -> ForeignFile:
    import h5py

    found = ForeignFile(path, {}, False, [])

    def take(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        found.there.append(name)
        if not wanted(name) and not wanted(name.rpartition("/")[2]):
            return
        if item.shape is None:
            found.unread[name] = "has no values (an empty dataspace)"
            return
        if item.external is None and not item.is_virtual:
            stored = item.id.get_storage_size()
            require_room(item.nbytes, stored, source=str(path), name=name)
        if item.dtype.kind in "biufS":
            found.arrays[name] = _dataset(item)
        elif h5py.check_string_dtype(item.dtype) is not None:
            found.arrays[name] = np.asarray(item.asstr()[()])
        else:
            found.unread[name] = f"has type {_said(item.dtype)}, expected numbers or texts"

    try:
        with h5py.File(path) as file:
            file.visititems(take)
            for name, item in _linked(file, found).items():
                take(name, item)
            for usual in ("classes", "class_names"):  # as attributes of the file
                if (own := called(list(file.attrs), usual)) is None:
                    continue
                stated = file.attrs[own]
                if np.ndim(stated) == 1:
                    found.metadata["classes"] = plain_texts(np.asarray(stated))
                elif isinstance(stated, str):
                    found.metadata["classes"] = str(stated)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} holds texts that are not UTF-8 ({error}).", path=path) from error
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, MemoryError) as error:
        if isinstance(error, TrustqError):
            raise
        said = " ".join(str(error).split())
        raise InputError(f"{path} could not be read as HDF5: {said}.", path=path) from error
    # An array of a group is also there by its own name, where one group has it.
    for name in list(found.arrays):
        own = name.rpartition("/")[2]
        if own != name and sum(n.rpartition("/")[2] == own for n in found.there) == 1:
            found.arrays.setdefault(own, found.arrays[name])
    return found


def _linked(file: Any, found: ForeignFile) -> dict[str, Any]:
    """Datasets behind soft links, which a walk leaves out; other links are none to follow."""
    import h5py

    links: dict[str, Any] = {}

    def look(name: str, link: Any) -> None:  # a visitor that opens what it sees breaks the walk
        if not isinstance(link, h5py.HardLink):
            links[name] = link

    file.visititems_links(look)
    behind = {}
    for name, link in links.items():
        with suppress(KeyError, OSError, RuntimeError):  # it leads nowhere, or in a circle
            if isinstance(link, h5py.SoftLink):
                behind[name] = file[name]
                continue
        found.there.append(name)
        place = f"{link.filename}:{link.path}" if hasattr(link, "filename") else link.path
        found.unread[name] = f"is a link to {place}, which is not followed: copy the array itself"
    return behind


def _said(dtype: Any) -> str:
    """A type of HDF5 in words."""
    import h5py

    if h5py.check_vlen_dtype(dtype) is not None:
        return "lists of several lengths"
    if h5py.check_ref_dtype(dtype) is not None:
        return "references"
    return str(dtype)


def _safetensors(path: Path, wanted: Callable[[str], bool]) -> ForeignFile:
    from safetensors import SafetensorError, safe_open

    found = ForeignFile(path, {}, False, [])
    try:
        with safe_open(path, framework="numpy") as file:
            found.metadata = dict(file.metadata() or {})
            found.there = list(file.keys())
            brain = []
            for name in filter(wanted, found.there):
                kind = file.get_slice(name).get_dtype()
                if kind == "BF16":
                    brain.append(name)
                elif kind.startswith(("F8_", "F6_", "F4", "C")):
                    found.unread[name] = f"has type {kind}, which numpy lacks: save it as float32"
                else:
                    found.arrays[name] = file.get_tensor(name)
        if brain:
            found.arrays |= _bfloat16(path, brain)
    except (SafetensorError, OSError, TypeError, ValueError, KeyError, AttributeError) as error:
        said = str(error)[:200].partition(", expected one of")[0]
        raise InputError(f"{path} could not be read as safetensors: {said}.", path=path) from error
    for name, array in found.arrays.items():
        if _lies_by_column(array):
            raise InputError(
                f"{path} holds the values of {name} column by column, as safetensors 0.8 saves "
                f"arrays that are not contiguous: save them anew, np.ascontiguousarray({name}), "
                "and the other arrays too.",
                path=path,
                where=name,
            )
    return found


def _lies_by_column(array: np.ndarray) -> bool:
    """Whether rows are probabilities by column and none as they are, for the first hundred.

    Of features and logits nothing tells it.
    """
    if array.ndim != 2 or array.dtype.kind != "f" or not len(array) > array.shape[1] > 1:
        return False
    by_column = array.reshape(array.shape[::-1]).T
    sums, others = (own[:100].sum(axis=1, dtype=np.float64) for own in (by_column, array))
    return bool(np.abs(sums - 1).max() < 1e-3 < np.abs(others - 1).max())


def _bfloat16(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """bfloat16 tensors as float32, whose upper half they are; numpy has no such type."""
    arrays = {}
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        for name in names:
            start, end = header[name]["data_offsets"]
            file.seek(8 + length + start)
            half = np.frombuffer(file.read(end - start), dtype="<u2").astype(np.uint32)
            arrays[name] = (half << 16).view(np.float32).reshape(header[name]["shape"])
    return arrays


def _shard(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a webdataset shard: files of one key are a row, their endings are the columns.

    `.npy` are arrays, `.cls`, `.txt` and `.id` one value, `.json` several; images are left out.
    """
    rows: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(path) as file:
            for member in file:
                folder, _, name = member.name.rpartition("/")
                key, _, field_name = name.partition(".")
                if not member.isfile() or not key or not field_name:
                    continue
                own = f"{folder}/{key}" if folder else key
                row = rows.setdefault(own, {"sample_ids": own})
                ending = field_name.lower().rpartition(".")[2]
                title = field_name[: -len(ending)].rstrip(".") or ending
                if ending not in ("npy", "cls", "txt", "id", "json"):
                    continue
                stream = file.extractfile(member)
                content = b"" if stream is None else stream.read()
                if ending == "npy":
                    title = "features" if title == "npy" else title
                    row[title] = np.load(io.BytesIO(content), allow_pickle=False)
                elif ending == "json":
                    values = json.loads(content)
                    row |= values if isinstance(values, dict) else {title: values}
                else:
                    row["labels" if title == "cls" else title] = content.decode("utf-8").strip()
    except (
        tarfile.TarError,
        OSError,
        EOFError,
        RecursionError,
        ValueError,
        SyntaxError,
        tokenize.TokenError,
        MemoryError,
        zlib.error,
    ) as error:
        said = str(error).splitlines()[0] if str(error) else "it is cut short"
        raise InputError(
            f"{path} could not be read as a webdataset shard: {said}.", path=path
        ) from error
    if not rows:
        raise InputError(f"{path} holds no samples (files called KEY.ENDING).")
    names = dict.fromkeys(name for row in rows.values() for name in row)
    return {name: _of_rows([row.get(name) for row in rows.values()]) for name in names}


def _of_rows(values: list[Any]) -> np.ndarray:
    if all(isinstance(value, np.ndarray) for value in values):
        if len({(value.shape, value.dtype) for value in values}) == 1:
            return np.stack(values)
    elif all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return np.array(values)
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _stack_splits(found: ForeignFile) -> None:
    """Add `labels` for `train_labels`, `val_labels`, `test_labels`, and `split` beside it."""
    if found.is_table:
        return
    pattern = re.compile(rf"({'|'.join(_SPLIT_PREFIXES)})[_/](.+)", re.IGNORECASE)
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, array in found.arrays.items():
        if (match := pattern.fullmatch(name)) and array.ndim:
            own = parts.setdefault(match[2], {})
            if match[1] in _SPLIT_PREFIXES or match[1].lower() not in own:
                own[match[1].lower()] = array
    matrices = [base for base in parts if base.lower() in ("features", "logits", "probs")]
    own_split = first_called(found.arrays, ["split"]) is not None
    if not matrices or any(base in found.arrays for base in matrices) or own_split:
        return
    splits = [s for s in _SPLIT_PREFIXES if all(s in parts[base] for base in matrices)]
    if not splits:
        return
    first = parts[matrices[0]]
    for base, own in parts.items():
        if base in found.arrays:
            continue
        if lost := [s for s in own if s not in splits] if base in matrices else []:
            other = next(name for name in matrices if not set(lost) <= set(parts[name]))
            found.notes.append(
                f"{base} of {', '.join(lost)} is left out, for there is no {other} of it"
            )
        if missing := [s for s in splits if s not in own]:
            found.notes.append(f"{base} is left out, for there is none of {', '.join(missing)}")
            continue
        if any(len(own[s]) != len(first[s]) for s in splits):
            found.notes.append(f"{base} is left out, for {matrices[0]} has other numbers of rows")
            continue
        if len({own[s].dtype.kind in "biuf" for s in splits}) > 1:
            raise InputError(
                f"{found.path}: {base} holds numbers in one of {', '.join(splits)} and texts in "
                "another: write both alike."
            )
        try:
            found.arrays[base] = np.concatenate([own[s] for s in splits])
        except ValueError:
            continue  # of several widths
    named = [SPLIT_WORDS[s] for s in splits]
    found.arrays["split"] = np.repeat(named, [len(first[s]) for s in splits])


__all__ = ["FILES", "ForeignFile", "is_array_file", "kind_of", "matrix", "read_array"]
