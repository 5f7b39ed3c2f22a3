"""Damaged, encrypted, absurd and odd files: one sentence each, or the value that is right.

Kinds, each by name in `support_damaged.DAMAGED`: npz cut, empty, of text, without members, with a
wrong checksum, with a broken deflate stream, encrypted, of an unknown compression, of huge,
terabyte and negative shapes, with unclosed, deep and odd headers, of unknown types, of a newer npy,
of other bytes than npy, of short members, pickles, records, complex numbers, dates, scalars, no
rows, no columns, NaN, infinity, unequal lengths, names that are there twice; npy of pickles and of
one number; HDF5 cut, of a signature alone, of zeros, empty, of lists of several lengths, records,
references, empty dataspaces, a terabyte never written, lost links, lost external bytes, unknown
filters; safetensors of float8, cut, with a huge, broken or deep header, wrong offsets, unknown
types, tampered statements; CSV empty, of a header alone, with a lone quote, rows of several
lengths, null bytes, binary, words for numbers, decimal commas, half UTF-16; gzip cut and none;
Parquet cut, with a broken page, of text, encrypted, without rows; Excel that is a zip, encrypted,
empty; torch files empty and of text; shards cut, of endless JSON, empty. Below: TOML, JSON,
manifests, caches in a folder, and what a CSV reader would guess.
"""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from support import make_cache
from support_cli import invoke
from support_damaged import ARRAYS, DAMAGED, TABLE

from trustq.audit.folder import read_audit_folder
from trustq.core.columns import read_table, write_parquet
from trustq.core.foreign_files import read_foreign, require_room
from trustq.core.foreign_rows import open_rows
from trustq.core.generators import generator
from trustq.data.manifest import read_manifest
from trustq.data.noise import parse_noise
from trustq.errors import InputError, TrustqError
from trustq.evaluation.evaluate import evaluate
from trustq.evaluation.predictions import read_predictions
from trustq.recipes import load_recipe
from trustq.store import import_cache, write_cache

# Kinds that some reader may take, since nothing that it needs is at fault.
WITHOUT_SCORES = {"npz_of_pickles", "npz_of_no_npy"}  # features and labels are whole


def sentence(error: TrustqError) -> str:
    text = str(error)
    assert text and len(text) < 600, text
    assert "\n\n" not in text and "Traceback" not in text
    return text


@pytest.mark.parametrize("kind", DAMAGED)
def test_every_kind_of_damage_is_one_sentence_of_every_reader(tmp_path: Path, kind: str) -> None:
    path = DAMAGED[kind](tmp_path)
    with pytest.raises(TrustqError) as refused:
        read_predictions(path)
    assert path.name in sentence(refused.value) or "rows" in str(refused.value)
    try:
        imported = import_cache(path)
    except TrustqError as error:
        sentence(error)
    else:
        assert kind in WITHOUT_SCORES
        assert (imported.label == ARRAYS["labels"]).all() and imported.logits is None
        assert "probs is left out" in imported.recipe["notes"]


def test_numbers_written_as_texts_are_numbers(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", labels=ARRAYS["labels"], probs=ARRAYS["probs"].astype(str))
    found = open_rows(tmp_path / "a.npz").scores()
    assert np.allclose(found.array.astype(float), ARRAYS["probs"])


def test_sizes_that_cannot_be_meant_are_refused_before_memory_is_asked_for() -> None:
    require_room(10**6, 1, source="a.npz", name="features")  # small: whatever it packs to
    require_room(2 * 10**9, 10**7, source="a.npz", name="features")
    with pytest.raises(InputError, match=r"^a\.npz: features says that it unpacks to 5 GB from "):
        require_room(5 * 10**9, 10**5, source="a.npz", name="features")
    with pytest.raises(InputError, match=r"needs 9e\+06 GB and this machine has"):
        require_room(9 * 10**15, 9 * 10**14, source="a.npz", name="features")


def test_soft_links_of_hdf5_are_the_arrays_they_lead_to(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["deep/x"] = ARRAYS["features"]
        file["labels"] = ARRAYS["labels"]
        file["features"] = h5py.SoftLink("/deep/x")
        file["loop"] = h5py.SoftLink("/loop")
    found = read_foreign(tmp_path / "a.h5")
    assert (found.arrays["features"] == ARRAYS["features"]).all()
    assert "is a link to /loop" in found.unread["loop"]


ROWS = "label,prob_0\n0,0.9\n1,0.2\n"


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        (ROWS + "#x,0.5\n", ["0", "1", "#x"]),  # no comment
        (ROWS + "0,0.9,\n", ["0", "1", "0"]),
        (ROWS.replace(",", ";"), ["0", "1"]),
        ("sep=;\n" + ROWS.replace(",", ";"), ["0", "1"]),
        (ROWS.replace(",", "|"), ["0", "1"]),
        ("a title\n\n" + ROWS, ["0", "1"]),
        ("a title\r\n\r\n" + ROWS, ["0", "1"]),  # of another line end than the rows
        ("a title\n\n" + ROWS.replace("\n", "\r\n"), ["0", "1"]),
        ("\r\n" + ROWS, ["0", "1"]),
        ("\n\n" + ROWS, ["0", "1"]),
        (ROWS.replace("\n", "\r\n") + "2,0.1\n", ["0", "1", "2"]),  # two kinds of line ends
        (ROWS.replace("\n", "\r"), ["0", "1"]),
        (ROWS + '"a\nb",0.1\n', ["0", "1", "a\nb"]),
        ("\ufeff" + ROWS, ["0", "1"]),
        (ROWS + "x" * 3_000_000 + ",0.5\n", ["0", "1", "x" * 3_000_000]),
    ],
)
def test_a_csv_file_is_read_row_by_row(tmp_path: Path, content: str, labels: list[str]) -> None:
    (tmp_path / "a.csv").write_bytes(content.encode())
    found = read_table(tmp_path / "a.csv")
    assert found["label"].tolist() == labels and "prob_0" in found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "{path} is empty: it has no row of column names."),
        ("\n\n", "{path} is empty: it has no row of column names."),
        (
            "label,label,prob_0\n0,7,0.9\n",
            "{path}: the header names two columns 'label': give each its own name.",
        ),
        (ROWS + "0\n", "{path}, line 4: 1 cell, and the header names 2 columns: mend that row."),
        (
            ROWS * 1 + "0,1,2,3\n",
            "{path}, line 4: more than 2 cells, and the header names 2 columns: mend that row.",
        ),
        (
            ROWS + '"0,1\n',
            '{path}, line 4: a quote (") is opened and not closed as CSV has it: mend that row.',
        ),
    ],
)
def test_rows_that_do_not_fit_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(InputError) as refused:
        read_table(path)
    assert str(refused.value) == message.format(path=path)


BAD_TOML = {
    "no TOML": b"[sweep\n",
    "tables without end": b"a=" + b"[" * 5000,
    "a number without end": b"[sweep]\nfolds=" + b"9" * 5000,
    "bytes": b"\xff\xfe\x00\x01",
    "UTF-16": "[sweep]\nfolds=3".encode("utf-16"),
    "a lone surrogate": b'[sweep]\nnoise="\\ud800"',
    "a key twice": b"[sweep]\nfolds=3\nfolds=4",
    "NaN": b"[sweep]\nfolds=nan",
    "infinity": b"[sweep]\nbudgets=[inf]",
    "a date": b"[sweep]\nfolds=2020-01-01",
    "a value for a table": b"sweep=3",
    "tables for a table": b"[[sweep]]\nfolds=3",
    "itself": b'include="r.toml"',
    "a table to include": b"[include]\na=1",
    "a boolean": b"[sweep]\nfolds=true",
    "a table for a list": b"[sweep]\nbudgets={a=1}",
    "a date for a list": b"[sweep]\nbudgets=2020-01-01",
    "rounds without end": b"[sweep]\nrounds=1000000000000000000",
    "raters without end": b"[sweep]\nraters=1000000000000000000",
}


@pytest.mark.parametrize("kind", BAD_TOML)
def test_a_recipe_of_bad_toml_is_one_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(BAD_TOML[kind])
    with pytest.raises(TrustqError) as refused:
        load_recipe(str(path))
    assert "r.toml" in sentence(refused.value)
    shown = invoke("recipes", ["show", str(path)])
    assert isinstance(shown.exception, SystemExit)  # type: ignore[attr-defined]


def test_a_recipe_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(b"\xef\xbb\xbf[sweep]\nfolds=3\n")
    assert load_recipe(str(tmp_path / "r.toml")).sweep.folds == 3


@pytest.mark.parametrize(
    "text",
    [
        "classes=3\nmatrix=[[1]]",
        "classes=['a','b']\nmatrix=3",
        "classes=['a',1]\nmatrix=[]",
        "classes=['a','b']\nmatrix=[[nan,1],[0,1]]",
        "classes=['a','b']\nmatrix=[[[1]]]",
        "[classes]\na=1\n[matrix]\nb=1",
        "matrix=" + "[" * 3000,
    ],
)
def test_a_noise_matrix_that_is_none_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "n.toml").write_text(text)
    with pytest.raises(TrustqError) as refused:
        parse_noise(f"matrix:{tmp_path / 'n.toml'}", classes=("a", "b"))
    assert "n.toml" in sentence(refused.value)


@pytest.mark.parametrize(
    "footer",
    [
        {},
        {"format_version": "x", "classes": 3, "root": 4, "split_origin": 5, "digests": 6},
        {"format_version": 1, "classes": ["x"], "root": ".", "split_origin": {}, "digests": {}},
        {"format_version": 1, "classes": {"x": 1}, "root": None, "split_origin": 1, "digests": 1},
    ],
)
def test_a_manifest_with_another_footer_is_one_sentence(tmp_path: Path, footer: dict) -> None:
    names = ("sample_id", "path", "label", "group_id", "split", "dataset", "domain")
    row = {name: np.array(["train" if name == "split" else "x"], dtype=object) for name in names}
    path = tmp_path / "m.parquet"
    write_parquet(path, row, metadata={"format": "trustq.data.manifest", **footer})
    with pytest.raises(TrustqError) as refused:
        read_manifest(path)
    assert "m.parquet" in sentence(refused.value)


def test_a_list_of_caches_outlives_every_broken_file_in_the_folder(tmp_path: Path) -> None:
    good = write_cache(tmp_path / "good.h5", make_cache(n=30, d=3)).path
    assert good is not None
    content = good.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    files = {"cut": content[:2000], "flipped": bytes(flipped), "empty": b"", "head": b"trustq"}
    for name, own in {**files, "text": b"no cache"}.items():
        (tmp_path / f"{name}.h5").write_bytes(own)
    (tmp_path / "folder.h5").mkdir()
    (tmp_path / "gone.h5").symlink_to("nowhere")
    DAMAGED["hdf5_of_records"](tmp_path)
    shown = invoke("cache", ["list", str(tmp_path), "--json"])
    assert shown.exit_code == 0  # type: ignore[attr-defined]
    rows = {Path(row["path"]).name: row["dataset"] for row in json.loads(shown.stdout)}  # type: ignore[attr-defined]
    assert len(rows) == 9
    assert [name for name, own in rows.items() if "unreadable" not in own] == ["good.h5"]


@pytest.mark.parametrize("text", ["{", "[]", "null", "[" * 50_000, '{"format": 1}'])
def test_an_audit_folder_with_other_json_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "audit.json").write_text(text)
    with pytest.raises(TrustqError, match="holds no audit"):
        read_audit_folder(tmp_path)


def test_a_whole_table_is_still_read(tmp_path: Path) -> None:
    (tmp_path / "whole.csv").write_text(TABLE)
    found = read_predictions(tmp_path / "whole.csv")
    assert len(found.labels) == 30 and found.classes == ("0", "1", "2")


def test_a_calibrator_that_is_none_is_told_even_where_nothing_is_calibrated(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", labels=ARRAYS["labels"], probs=ARRAYS["probs"])
    predictions = read_predictions(tmp_path / "a.npz")
    with pytest.raises(InputError, match="^calibrator 'foo' is unknown: expected one of temper"):
        evaluate(predictions, calibrator="foo", replicates=20)


def test_folds_beyond_the_groups_say_what_to_pass(tmp_path: Path) -> None:
    groups = np.arange(30) % 3
    np.savez(tmp_path / "a.npz", labels=ARRAYS["labels"], probs=ARRAYS["probs"], groups=groups)
    with pytest.raises(InputError, match=r"no more than groups; use 3 folds \(`folds=3`\)\.$"):
        evaluate(read_predictions(tmp_path / "a.npz"), folds=5, replicates=20)


def test_a_seed_below_zero_is_one_sentence() -> None:
    with pytest.raises(InputError, match=r"^`seed=-1`: a seed is a whole number of 0 or more\.$"):
        generator(-1, "noise")


@pytest.mark.parametrize("values", [["les_0001", "les_0002"], ["a ", "b"], ["", "long enough"]])
def test_groups_are_the_same_texts_whether_numpy_has_them_or_a_table(
    tmp_path: Path, values: list[str]
) -> None:
    groups = np.array(values * 15, dtype="U40")
    found = []
    for kind in (groups, groups.astype(object).astype("S40")):
        np.savez(tmp_path / "a.npz", **{**ARRAYS, "groups": kind})
        cache = import_cache(tmp_path / "a.npz")
        found.append((cache.group_id.tolist(), cache.sample_id.tolist(), cache.split.tolist()))
    assert found[0] == found[1]
    assert len(set(found[0][0])) == (16 if "" in values else 2)
