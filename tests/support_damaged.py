"""Files that are damaged, encrypted, absurd or odd, by kind: what every reader must refuse.

Each function writes one file of its kind into a folder and returns its path.
"""

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

LABELS = np.arange(30) % 3
PROBS = np.full((30, 3), 0.1) + 0.7 * np.eye(3)[LABELS]
FEATURES = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
ARRAYS: dict[str, Any] = {"labels": LABELS, "probs": PROBS, "features": FEATURES}
DAMAGED: dict[str, Callable[[Path], Path]] = {}


def kind(function: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """Register a kind of damaged file under the function's name."""
    DAMAGED[function.__name__] = function
    return function


def whole_npz(folder: Path, name: str = "whole.npz", **arrays: Any) -> Path:
    """An npz that every reader takes, with other arrays where they are given."""
    path = folder / name
    np.savez(path, **{**ARRAYS, **arrays})
    return path


def npy_bytes(array: np.ndarray, **options: Any) -> bytes:
    """What `np.save` writes."""
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def with_member(folder: Path, name: str, member: str, content: bytes, **options: Any) -> Path:
    """An npz one of whose members holds other bytes."""
    path = folder / name
    with zipfile.ZipFile(path, "w") as file:
        for own, array in ARRAYS.items():
            if own != member.removesuffix(".npy"):
                file.writestr(f"{own}.npy", npy_bytes(array))
        file.writestr(member, content, **options)
    return path


def npy_header(text: str) -> bytes:
    """An npy file of a header alone, whatever it says."""
    head = text.encode("latin1") + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + bytes(64)


# npz and npy


@kind
def npz_cut(folder: Path) -> Path:
    path = whole_npz(folder)
    path.write_bytes(path.read_bytes()[:-200])
    return path


@kind
def npz_of_nothing(folder: Path) -> Path:
    path = folder / "empty.npz"
    path.write_bytes(b"")
    return path


@kind
def npz_of_text(folder: Path) -> Path:
    path = folder / "text.npz"
    path.write_text("labels,probs\n0,1\n")
    return path


@kind
def npz_without_members(folder: Path) -> Path:
    path = folder / "no-members.npz"
    with zipfile.ZipFile(path, "w"):
        pass
    return path


@kind
def npz_with_a_wrong_checksum(folder: Path) -> Path:
    path = whole_npz(folder)
    content = bytearray(path.read_bytes())
    at = content.find(np.ascontiguousarray(PROBS[3]).tobytes())
    content[at] ^= 0x40
    path.write_bytes(bytes(content))
    return path


@kind
def npz_with_a_broken_stream(folder: Path) -> Path:
    path = folder / "deflated.npz"
    np.savez_compressed(path, **{**ARRAYS, "features": FEATURES})
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        member = file.getinfo("probs.npy")
    at = member.header_offset + 60
    content[at : at + 40] = bytes(40)
    path.write_bytes(bytes(content))
    return path


@kind
def npz_encrypted(folder: Path) -> Path:
    path = whole_npz(folder)
    content = bytearray(path.read_bytes())
    at = -1
    while (at := content.find(b"PK\x01\x02", at + 1)) >= 0:
        content[at + 8] |= 1  # the flag of encryption, in the central directory
    at = -1
    while (at := content.find(b"PK\x03\x04", at + 1)) >= 0:
        content[at + 6] |= 1
    path.write_bytes(bytes(content))
    return path


@kind
def npz_of_another_compression(folder: Path) -> Path:
    path = whole_npz(folder)
    content = bytearray(path.read_bytes())
    at = -1
    while (at := content.find(b"PK\x01\x02", at + 1)) >= 0:
        content[at + 10 : at + 12] = struct.pack("<H", 97)
    at = -1
    while (at := content.find(b"PK\x03\x04", at + 1)) >= 0:
        content[at + 8 : at + 10] = struct.pack("<H", 97)
    path.write_bytes(bytes(content))
    return path


@kind
def npz_of_huge_shapes(folder: Path) -> Path:
    text = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 1000000), }"
    return with_member(folder, "huge.npz", "probs.npy", npy_header(text))


@kind
def npz_of_a_terabyte(folder: Path) -> Path:
    text = "{'descr': '<f8', 'fortran_order': False, 'shape': (100000000000, 3), }"
    return with_member(folder, "terabyte.npz", "probs.npy", npy_header(text))


@kind
def npz_of_negative_shapes(folder: Path) -> Path:
    text = "{'descr': '<f8', 'fortran_order': False, 'shape': (-5, 3), }"
    return with_member(folder, "negative.npz", "probs.npy", npy_header(text))


@kind
def npz_of_an_unclosed_header(folder: Path) -> Path:
    return with_member(
        folder, "token.npz", "probs.npy", npy_header("{'descr': '<f8', 'shape': (((")
    )


@kind
def npz_of_a_deep_header(folder: Path) -> Path:
    return with_member(folder, "deep.npz", "probs.npy", npy_header("(" * 8000 + ")" * 8000))


@kind
def npz_of_an_odd_header(folder: Path) -> Path:
    return with_member(folder, "odd.npz", "probs.npy", npy_header("{'descr': '<f8'}"))


@kind
def npz_of_an_unknown_type(folder: Path) -> Path:
    text = "{'descr': 'q99', 'fortran_order': False, 'shape': (30, 3), }"
    return with_member(folder, "type.npz", "probs.npy", npy_header(text))


@kind
def npz_of_a_newer_npy(folder: Path) -> Path:
    content = bytearray(npy_bytes(PROBS))
    content[6] = 9
    return with_member(folder, "newer.npz", "probs.npy", bytes(content))


@kind
def npz_of_no_npy(folder: Path) -> Path:
    return with_member(folder, "raw.npz", "probs", b"0.1,0.9")


@kind
def npz_of_a_short_member(folder: Path) -> Path:
    return with_member(folder, "short.npz", "probs.npy", npy_bytes(PROBS)[:-64])


@kind
def npz_of_pickles(folder: Path) -> Path:
    return whole_npz(folder, "pickled.npz", probs=np.array([{"a": 1}] * 30, dtype=object))


@kind
def npz_of_records(folder: Path) -> Path:
    records = np.zeros(30, dtype=[("a", "f4"), ("b", "f4"), ("c", "f4")])
    return whole_npz(folder, "records.npz", probs=records, features=records)


@kind
def npz_of_complex(folder: Path) -> Path:
    return whole_npz(folder, "complex.npz", probs=PROBS + 1j, features=FEATURES + 1j)


@kind
def npz_of_dates(folder: Path) -> Path:
    dates = np.zeros((30, 3), dtype="datetime64[D]")
    return whole_npz(folder, "dates.npz", probs=dates, features=dates)


@kind
def npz_of_scalars(folder: Path) -> Path:
    return whole_npz(folder, "scalars.npz", probs=np.float64(1), features=np.float64(1))


@kind
def npz_of_no_rows(folder: Path) -> Path:
    empty = {"labels": LABELS[:0], "probs": PROBS[:0], "features": FEATURES[:0]}
    return whole_npz(folder, "no-rows.npz", **empty)


@kind
def npz_of_no_columns(folder: Path) -> Path:
    return whole_npz(folder, "no-columns.npz", probs=PROBS[:, :0], features=FEATURES[:, :0])


@kind
def npz_of_nan(folder: Path) -> Path:
    probs, features = PROBS.copy(), FEATURES.copy()
    probs[4, 1] = features[4, 1] = np.nan
    return whole_npz(folder, "nan.npz", probs=probs, features=features)


@kind
def npz_of_infinity(folder: Path) -> Path:
    probs, features = PROBS.copy(), FEATURES.copy()
    probs[4, 1] = features[4, 1] = np.inf
    return whole_npz(folder, "inf.npz", probs=probs, features=features)


@kind
def npz_of_unequal_lengths(folder: Path) -> Path:
    return whole_npz(folder, "unequal.npz", labels=LABELS[:-1])


@kind
def npz_of_one_row_too_many(folder: Path) -> Path:
    return whole_npz(folder, "more.npz", labels=np.append(LABELS, 0))


@kind
def npz_with_two_members_of_a_name(folder: Path) -> Path:
    import warnings

    path = folder / "twice.npz"
    with zipfile.ZipFile(path, "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, array in [*ARRAYS.items(), ("labels", LABELS[::-1])]:
            file.writestr(f"{name}.npy", npy_bytes(array))
    return path


@kind
def npy_of_a_pickle(folder: Path) -> Path:
    path = folder / "features.npy"
    path.write_bytes(pickle.dumps({"features": [1, 2]}))
    return path


@kind
def npy_of_one_number(folder: Path) -> Path:
    path = folder / "features.npy"
    np.save(path, np.float64(3))
    return path


# HDF5


def _hdf5(folder: Path, name: str, **arrays: Any) -> Path:
    path = folder / name
    with h5py.File(path, "w") as file:
        for own, array in {**ARRAYS, **arrays}.items():
            if array is not None:
                file[own] = array
    return path


@kind
def hdf5_cut(folder: Path) -> Path:
    path = _hdf5(folder, "cut.h5")
    path.write_bytes(path.read_bytes()[:-600])
    return path


@kind
def hdf5_of_a_signature_alone(folder: Path) -> Path:
    path = folder / "signature.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(500))
    return path


@kind
def hdf5_of_zeros(folder: Path) -> Path:
    path = _hdf5(folder, "zeros.h5")
    content = bytearray(path.read_bytes())
    content[96:1200] = bytes(1104)
    path.write_bytes(bytes(content))
    return path


@kind
def hdf5_of_nothing(folder: Path) -> Path:
    path = folder / "nothing.h5"
    with h5py.File(path, "w"):
        pass
    return path


@kind
def hdf5_of_lists_of_several_lengths(folder: Path) -> Path:
    path = _hdf5(folder, "lists.h5", probs=None, features=None)
    with h5py.File(path, "a") as file:
        for name in ("probs", "features"):
            made = file.create_dataset(name, (30,), dtype=h5py.vlen_dtype(np.float32))
            for row in range(30):
                made[row] = np.ones(row % 4 + 1, dtype=np.float32)
    return path


@kind
def hdf5_of_records(folder: Path) -> Path:
    records = np.zeros(30, dtype=[("a", "f4"), ("b", "f4")])
    return _hdf5(folder, "records.h5", probs=records, features=records)


@kind
def hdf5_of_references(folder: Path) -> Path:
    path = _hdf5(folder, "references.h5", probs=None, features=None)
    with h5py.File(path, "a") as file:
        for name in ("probs", "features"):
            made = file.create_dataset(name, (30,), dtype=h5py.ref_dtype)
            made[0] = file["labels"].ref
    return path


@kind
def hdf5_of_no_space(folder: Path) -> Path:
    empty = h5py.Empty("f4")
    return _hdf5(folder, "empty-space.h5", probs=empty, features=empty)


@kind
def hdf5_of_a_terabyte(folder: Path) -> Path:
    path = _hdf5(folder, "terabyte.h5", probs=None, features=None)
    with h5py.File(path, "a") as file:
        for name in ("probs", "features"):
            file.create_dataset(name, (10**11, 3), dtype="f8", chunks=(1024, 3))
    return path


@kind
def hdf5_of_a_lost_link(folder: Path) -> Path:
    path = _hdf5(folder, "link.h5", probs=None, features=None)
    with h5py.File(path, "a") as file:
        file["probs"] = h5py.ExternalLink("gone.h5", "/probs")
        file["features"] = h5py.SoftLink("/nowhere")
    return path


@kind
def hdf5_of_external_bytes(folder: Path) -> Path:
    path = _hdf5(folder, "external.h5", probs=None, features=None)
    with h5py.File(path, "a") as file:
        for name in ("probs", "features"):
            file.create_dataset(
                name, (30, 3), dtype="f8", external=[(str(folder / "gone.raw"), 0, 720)]
            )
    return path


@kind
def hdf5_of_an_unknown_filter(folder: Path) -> Path:
    path = folder / "filter.h5"
    with h5py.File(path, "w") as file:
        file["labels"] = LABELS
        for name, array in (("probs", PROBS), ("features", FEATURES)):
            file.create_dataset(name, data=array, compression="gzip", chunks=array.shape)
    content = path.read_bytes()
    # The filter of gzip is number 1: version, one filter, and then its description.
    path.write_bytes(
        content.replace(b"deflate", b"unknown")
        .replace(b"x^", b"\0\0")
        .replace(b"\x78\x5e", b"\0\0")
    )
    content = bytearray(path.read_bytes())
    at = 0
    while (at := content.find(b"unknown", at + 1)) >= 0:
        content[at - 8] = 0xF0
        content[at - 7] = 0x7F
    path.write_bytes(bytes(content))
    return path


# safetensors


def safetensors_bytes(header: Any, body: bytes = bytes(720), length: int | None = None) -> bytes:
    """A file of safetensors, with a header that may be anything."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def _tensors(dtype: str, shape: list[int], size: int) -> dict[str, Any]:
    return {"probs": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}


def _safe(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@kind
def safetensors_of_float8(folder: Path) -> Path:
    header = {
        "labels": {"dtype": "I64", "shape": [30], "data_offsets": [0, 240]},
        "probs": {"dtype": "F8_E4M3", "shape": [30, 3], "data_offsets": [240, 330]},
        "features": {"dtype": "F8_E5M2", "shape": [30, 3], "data_offsets": [330, 420]},
    }
    body = LABELS.astype("<i8").tobytes() + bytes(180)
    return _safe(folder, "float8.safetensors", safetensors_bytes(header, body))


@kind
def safetensors_cut(folder: Path) -> Path:
    content = safetensors_bytes(_tensors("F64", [30, 3], 720))
    return _safe(folder, "cut.safetensors", content[:-100])


@kind
def safetensors_of_a_huge_header(folder: Path) -> Path:
    content = safetensors_bytes(_tensors("F64", [30, 3], 720), length=2**62)
    return _safe(folder, "header.safetensors", content)


@kind
def safetensors_of_no_json(folder: Path) -> Path:
    return _safe(folder, "json.safetensors", safetensors_bytes(b"{not json at all"))


@kind
def safetensors_of_deep_json(folder: Path) -> Path:
    deep = b'{"a":' * 5000 + b"1" + b"}" * 5000
    return _safe(folder, "deep.safetensors", safetensors_bytes(deep))


@kind
def safetensors_of_wrong_offsets(folder: Path) -> Path:
    content = safetensors_bytes(_tensors("F64", [30, 3], 99999))
    return _safe(folder, "offsets.safetensors", content)


@kind
def safetensors_of_an_unknown_type(folder: Path) -> Path:
    content = safetensors_bytes(_tensors("F99", [30, 3], 720))
    return _safe(folder, "type.safetensors", content)


@kind
def safetensors_of_nothing(folder: Path) -> Path:
    return _safe(folder, "nothing.safetensors", b"")


@kind
def safetensors_of_a_tampered_statement(folder: Path) -> Path:
    from safetensors.numpy import save_file

    path = folder / "statement.safetensors"
    save_file({**ARRAYS}, path, metadata={"trustq_cache": "[" * 20000})
    return path


@kind
def safetensors_of_a_statement_of_another_kind(folder: Path) -> Path:
    from safetensors.numpy import save_file

    path = folder / "statement2.safetensors"
    save_file({**ARRAYS}, path, metadata={"trustq_cache": "[1, 2]"})
    return path


# Tables


TABLE = "label,prob_0,prob_1,prob_2,feature_0\n" + "".join(
    f"{label},{','.join(f'{p:.3f}' for p in row)},{i}\n"
    for i, (label, row) in enumerate(zip(LABELS, PROBS, strict=True))
)


def _text(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@kind
def csv_of_nothing(folder: Path) -> Path:
    return _text(folder, "nothing.csv", b"")


@kind
def csv_of_a_header_alone(folder: Path) -> Path:
    return _text(folder, "header.csv", TABLE.partition("\n")[0] + "\n")


@kind
def csv_of_a_lone_quote(folder: Path) -> Path:
    return _text(folder, "quote.csv", TABLE + '1,"0.1,0.8,0.1,3\n' + "0,0.1,0.8,0.1,3\n" * 3)


@kind
def csv_of_rows_of_several_lengths(folder: Path) -> Path:
    return _text(folder, "ragged.csv", TABLE + "0,0.1\n0,0.1,0.8,0.1,3,4,5\n")


@kind
def csv_of_null_bytes(folder: Path) -> Path:
    return _text(folder, "null.csv", TABLE.encode() + b"0,0.1,\0\0,0.1,3\n")


@kind
def csv_of_binary(folder: Path) -> Path:
    return _text(
        folder, "binary.csv", bytes(np.random.default_rng(0).integers(0, 256, 4000).tolist())
    )


@kind
def csv_of_a_numeric_word(folder: Path) -> Path:
    return _text(folder, "word.csv", TABLE + "0,0.1,high,0.1,3\n")


@kind
def csv_of_points_and_commas(folder: Path) -> Path:
    return _text(folder, "decimal.csv", TABLE.replace(",", ";").replace(".", ",", 1))


@kind
def csv_of_half_utf16(folder: Path) -> Path:
    return _text(folder, "utf16.csv", TABLE.encode("utf-16")[:-1])


@kind
def csv_gz_cut(folder: Path) -> Path:
    return _text(folder, "cut.csv.gz", gzip.compress(TABLE.encode())[:-40])


@kind
def csv_gz_that_is_none(folder: Path) -> Path:
    return _text(folder, "plain.csv.gz", TABLE)


@kind
def parquet_cut(folder: Path) -> Path:
    from trustq.core.columns import write_parquet

    path = folder / "cut.parquet"
    write_parquet(path, {"label": LABELS, "prob_0": PROBS[:, 0], "prob_1": PROBS[:, 1]})
    path.write_bytes(path.read_bytes()[:-50])
    return path


@kind
def parquet_with_a_broken_page(folder: Path) -> Path:
    from trustq.core.columns import write_parquet

    path = folder / "page.parquet"
    write_parquet(path, {"label": LABELS, "feature_0": FEATURES[:, 0], "prob_1": PROBS[:, 1]})
    content = bytearray(path.read_bytes())
    content[4:60] = bytes(range(56))
    path.write_bytes(bytes(content))
    return path


@kind
def parquet_of_text(folder: Path) -> Path:
    return _text(folder, "text.parquet", TABLE)


@kind
def parquet_encrypted(folder: Path) -> Path:
    return _text(
        folder, "encrypted.parquet", b"PARE" + bytes(200) + struct.pack("<I", 100) + b"PARE"
    )


@kind
def parquet_of_no_rows(folder: Path) -> Path:
    from trustq.core.columns import write_parquet

    path = folder / "no-rows.parquet"
    empty = {"label": LABELS[:0], "prob_0": PROBS[:0, 0], "prob_1": PROBS[:0, 1]}
    write_parquet(path, {**empty, "feature_0": FEATURES[:0, 0]})
    return path


@kind
def xlsx_that_is_a_zip(folder: Path) -> Path:
    path = folder / "zip.xlsx"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "a")
    return path


@kind
def xlsx_encrypted(folder: Path) -> Path:
    return _text(folder, "encrypted.xlsx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(1500))


@kind
def xlsx_of_nothing(folder: Path) -> Path:
    return _text(folder, "nothing.xlsx", b"")


# Tensors and shards


@kind
def pt_of_nothing(folder: Path) -> Path:
    return _text(folder, "nothing.pt", b"")


@kind
def pt_of_text(folder: Path) -> Path:
    return _text(folder, "text.pt", "not a tensor")


@kind
def tar_cut(folder: Path) -> Path:
    path = folder / "cut.tar"
    with tarfile.open(path, "w") as file:
        for i in range(5):
            content = npy_bytes(FEATURES[i])
            member = tarfile.TarInfo(f"{i}.npy")
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    path.write_bytes(path.read_bytes()[:700])
    return path


@kind
def tar_of_broken_json(folder: Path) -> Path:
    path = folder / "json.tar"
    with tarfile.open(path, "w") as file:
        content = b"[" * 100_000
        member = tarfile.TarInfo("0.json")
        member.size = len(content)
        file.addfile(member, io.BytesIO(content))
    return path


@kind
def tar_of_nothing(folder: Path) -> Path:
    return _text(folder, "nothing.tar", b"")
