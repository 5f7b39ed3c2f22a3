"""The store under anything: what is written is read, and no corruption changes what is read."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from support import make_cache

from trustq.data.manifest import SPLITS
from trustq.errors import TrustqError
from trustq.store import Cache, export_cache, import_cache, read_cache, verify_cache, write_cache

FORMS = (".h5", ".npz", ".parquet", ".safetensors")

# UTF-8 has no lone surrogates, and a fixed-length text no NUL.
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=9)
floats = st.sampled_from([np.float16, np.float32, np.float64])
whole = st.sampled_from([np.uint8, np.int16, np.int32, np.int64])


@st.composite
def caches(draw: st.DrawFn) -> Cache:
    """Any cache: n and d from 0, one class and more, splits that may be empty, odd names."""
    n, d = draw(st.integers(0, 5)), draw(st.integers(0, 4))
    # Of whatever case, for a Parquet table has a column for each.
    classes = draw(st.lists(texts, min_size=1, max_size=4, unique_by=str.lower))
    k = len(classes)
    labels = nps.arrays(np.int16, n, elements=st.integers(-1, k - 1))
    bits = nps.arrays(np.uint8, n, elements=st.integers(0, 7))
    extra = {}
    if draw(st.booleans()):
        extra["fold"] = draw(nps.arrays(draw(whole), n, elements=st.integers(0, 9)))
        extra["crossfit_logits"] = draw(nps.arrays(draw(floats), (n, k)))
    if draw(st.booleans()):
        extra["history/train_loss"] = draw(nps.arrays(draw(floats), draw(st.integers(0, 3))))
        extra["classifier/weight"] = draw(nps.arrays(np.float32, (k, d)))
        extra["maps"] = draw(nps.arrays(np.float16, (n, 1, 2, 2)))
    return dataclasses.replace(
        make_cache(n=0),
        classes=tuple(classes),
        exposure=draw(st.sampled_from(["frozen", "finetuned-clean", "unknown"])),
        sample_id=np.array(draw(st.lists(texts, min_size=n, max_size=n, unique=True)), dtype=str),
        group_id=np.array(draw(st.lists(texts, min_size=n, max_size=n)), dtype=str),
        split=np.array(draw(st.lists(st.sampled_from(SPLITS), min_size=n, max_size=n)), dtype=str),
        label=draw(labels),
        observed=draw(labels),
        seen=draw(bits),
        trusted=draw(nps.arrays(bool, n)),
        features=draw(nps.arrays(draw(floats), (n, d))),
        logits=draw(st.none() | nps.arrays(draw(floats), (n, k))),
        backbone_seed=draw(st.integers(-(2**31), 2**31)),
        noise=draw(st.dictionaries(texts, texts | st.integers(-9, 9) | st.none(), max_size=2)),
        created="2026",
        extra=extra,
    )


@pytest.mark.parametrize("ending", FORMS)
@settings(max_examples=30)
@given(cache=caches())
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, ending: str, cache: Cache
) -> None:
    path = tmp_path_factory.mktemp("any") / f"a{ending}"
    left_out: tuple[str, ...] = ()
    if ending == ".h5":
        write_cache(path, cache)
        assert verify_cache(path).digest == read_cache(path).digest
        back = read_cache(path)
    else:
        left_out = export_cache(path, cache)
        back = import_cache(path)
    if ending != ".parquet":
        assert left_out == ()
    assert set(left_out) <= {"history/train_loss", "classifier/weight", "maps"}
    for field in dataclasses.fields(Cache):
        ours, theirs = getattr(cache, field.name), getattr(back, field.name)
        if isinstance(ours, np.ndarray):
            assert_same(ours, theirs, field.name, ending)
        elif field.name == "extra":
            assert set(theirs) == set(ours) - set(left_out)
            for name in theirs:
                assert_same(ours[name], theirs[name], name, ending)
        elif field.name not in ("path", "digest", "content_digest"):
            assert ours == theirs, field.name


def assert_same(ours: np.ndarray, theirs: np.ndarray, name: str, ending: str) -> None:
    assert ours.shape == theirs.shape, name
    if ours.dtype.kind == "U":
        assert ours.tolist() == theirs.tolist(), name
        return
    assert ours.dtype == theirs.dtype, name
    if ending == ".parquet" and ours.dtype.kind == "f":  # SQL knows one NaN
        ours = np.where(np.isnan(ours), ours.dtype.type(np.nan), ours)
    # Bit for bit, for NaN differs from itself and -0 equals 0.
    assert ours.tobytes() == theirs.tobytes(), name


def damaged(raw: bytes, rng: np.random.Generator) -> bytes:
    """A file after one accident: flipped bits, a cut, bytes put in, blocks swapped or zeroed."""
    data, n = bytearray(raw), len(raw)
    size = int(rng.integers(1, 600))
    start, other = (int(rng.integers(0, n)) for _ in range(2))
    match rng.integers(6):
        case 0:
            for place in rng.integers(0, n, size=rng.integers(1, 4)).tolist():
                data[place] ^= 1 << int(rng.integers(8))
        case 1:
            del data[start:]
        case 2:
            data[start:start] = rng.bytes(size)
        case 3:
            del data[start : start + size]
        case 4:
            low, high = sorted((start, other))
            size = min(size, high - low, n - high)
            block = data[low : low + size]
            data[low : low + size] = data[high : high + size]
            data[high : high + size] = block
        case _:
            data[start : start + size] = bytes(len(data[start : start + size]))
    return bytes(data)


def test_each_of_2000_corruptions_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    files = {
        "frozen": make_cache(n=6, d=2),
        "logits": make_cache(n=40, logits=rng.normal(size=(40, 3)).astype(np.float32)),
        "half": make_cache(n=20, features=rng.normal(size=(20, 8)).astype(np.float16)),
        "extra": make_cache(
            n=20, extra={"fold": np.arange(20) % 5, "history/train_loss": np.arange(3.0)}
        ),
        "empty": make_cache(n=0),
    }
    whole, digests = {}, {}
    for name, cache in files.items():
        path = tmp_path / f"{name}.h5"
        digests[name] = write_cache(path, cache).digest
        whole[name] = path.read_bytes()
    n_changed = 0
    path = tmp_path / "damaged.h5"
    while n_changed < 2000:
        name = list(files)[n_changed % len(files)]
        content = damaged(whole[name], rng)
        if content == whole[name]:  # zeros were zeroed, or swapped with each other
            continue
        n_changed += 1
        path.write_bytes(content)
        try:
            read = read_cache(path)
        except TrustqError:
            continue
        assert read.digest == digests[name]


def test_a_cache_cannot_be_made_of_another_one_s_bytes(tmp_path: Path) -> None:
    # Blocks of one whole cache put at the same place into another of the same shape.
    rng = np.random.default_rng(1)
    whole = []
    for seed in (0, 1):
        path = tmp_path / f"{seed}.h5"
        write_cache(path, make_cache(n=20, seed=seed, created="2026"))
        whole.append(path.read_bytes())
    assert len(whole[0]) == len(whole[1])
    path = tmp_path / "mixed.h5"
    for _ in range(100):
        start = int(rng.integers(0, len(whole[0])))
        end = start + int(rng.integers(1, 4000))
        mixed = whole[0][:start] + whole[1][start:end] + whole[0][end:]
        if mixed in whole:
            continue
        path.write_bytes(mixed)
        with pytest.raises(TrustqError):
            read_cache(path)
