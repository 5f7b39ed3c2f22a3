"""`trustq audit duplicates`: planted copies are found, other images are not taken for copies."""

import csv
import io
import zipfile
from collections import Counter
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from support import make_cache, refused
from typer.testing import CliRunner

from trustq.audit.duplicates import close_pairs
from trustq.audit.duplicates.close_pairs import hash_distances, hash_pairs, standing_out
from trustq.audit.duplicates.find import audit_duplicates, write_audit
from trustq.audit.duplicates.fingerprints import HASH_SIDE, VIEWS, WORDS, fingerprint_images
from trustq.audit.duplicates.hash_distances import orientations
from trustq.audit.duplicates.keypoints import Keypoints, find_keypoints
from trustq.audit.duplicates.matched_points import SURE, matched_pairs, n_carried
from trustq.data.manifest import read_manifest
from trustq.datasets import prepare
from trustq.errors import TrustqError

HAM10000 = Path(__file__).resolve().parents[2] / "shared" / "data" / "ham10000"


def run(*words):
    (point,) = entry_points(group="console_scripts", name="trustq")
    return CliRunner().invoke(point.load(), [*map(str, words)])


def blotch(seed, size=(160, 120)):
    """A picture like no other: smooth colours with a dark blob, by its seed."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    fields = [gaussian_filter(rng.standard_normal((*size[::-1], 3)), (s, s, 0)) * s for s in (3, 9)]
    down, across = np.mgrid[: size[1], : size[0]]
    centre = rng.uniform(0.35, 0.65, 2) * size
    blob = np.exp(-((across - centre[0]) ** 2 + (down - centre[1]) ** 2) / rng.uniform(200, 900))
    values = 170 + 40 * sum(fields) - 110 * blob[..., None] * rng.uniform(0.6, 1, 3)
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def test_hashes_are_imagehashs_of_every_view_bit_for_bit(tmp_path):
    from imagehash import phash

    noise = np.random.default_rng(0).integers(0, 256, (70, 40, 3), dtype=np.uint8)
    ramp = np.tile(np.arange(200, dtype=np.uint8), (150, 1))
    images = [blotch(seed) for seed in range(4)]
    images += [blotch(4, (300, 90)), Image.fromarray(noise), Image.fromarray(ramp)]
    images += [Image.new("RGB", (90, 60), colour) for colour in ("white", "black", "red")]
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    found = fingerprint_images([tmp_path / f"{n}.png" for n in range(len(images))]).hashes
    for image, hashes in zip(images, found, strict=True):
        grey = image.convert("RGB").convert("L")
        grey.thumbnail((128, 128), Image.Resampling.BOX)
        width, height = grey.size
        for (left, top, right, bottom), own in zip(VIEWS, hashes, strict=True):
            box = (left * width, top * height, right * width, bottom * height)
            view = grey.resize((64, 64), Image.Resampling.LANCZOS, box=box)
            bits = phash(view, hash_size=HASH_SIDE).hash
            assert np.array_equal(np.packbits(bits.ravel()).view(np.uint64), own)


def part_of(image, left, top, right, bottom):
    width, height = image.size
    box = (left * width, top * height, right * width, bottom * height)
    return image.crop(tuple(round(edge) for edge in box))


def smaller(image):
    return image.resize((round(0.8 * image.width), round(0.8 * image.height)))


# Twenty copies of each of the three kinds, cropped in five ways.
CROPS = [
    (0.025, 0.025, 0.975, 0.975),
    (0.05, 0.05, 0.95, 0.95),
    (0, 0, 0.95, 0.95),
    (0.05, 0.05, 1, 1),
    (0.05, 0, 1, 1),
]
ALTERED = [
    *[("re-encoded", lambda image: image)] * 20,
    *[("resized", smaller)] * 20,
    *[(f"cropped {box}", lambda image, box=box: part_of(image, *box)) for box in CROPS * 4],
]


def planted(folder, originals, altered=ALTERED):
    """Images in class folders, and a copy of the first of them for each alteration."""
    for number, image in enumerate(originals):
        place = folder / "ab"[number % 2] / f"image{number:04d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        image.save(place)
    for number, (_, alter) in enumerate(altered):
        copy = alter(originals[number])
        copy.save(folder / "ab"[number % 2] / f"copy{number:04d}.jpg", quality=60)
    return prepare("folder", root=folder, out=folder.parent / f"{folder.name}.parquet")


def copies_found(found):
    """Planted copies that a hash found, and pairs it found that are none."""
    right, wrong = set(), []
    for a, b, way in zip(
        *(found.pairs[n] for n in ("sample_a", "sample_b", "found_by")), strict=True
    ):
        if {"hash", "bytes"} & set(way.split("+")):
            numbers = {Path(x).name[-4:] for x in (a, b)}
            kinds = {Path(x).name[:-4] for x in (a, b)}
            if len(numbers) == 1 and kinds == {"copy", "image"}:
                right |= numbers
            else:
                wrong.append((a, b))
    return right, wrong


def test_planted_copies_are_found_and_nothing_else(tmp_path):
    manifest = planted(tmp_path / "data", [blotch(seed) for seed in range(80)])
    found = audit_duplicates(manifest)
    right, wrong = copies_found(found)
    assert len(right) == 60 and wrong == []
    # Copies come first, before candidates for the eye.
    assert all("hash" in way for way in found.pairs["found_by"][:60])


def test_planted_copies_of_real_images_are_found_and_few_others(tmp_path):
    if not HAM10000.is_dir():
        pytest.skip("needs the real data in ../shared/data, which are not in the repository")
    with open(HAM10000 / "HAM10000_metadata.csv") as file:
        lesion = {row["image_id"]: row["lesion_id"] for row in csv.DictReader(file)}
    one_of = {lesion[i]: i for i in sorted(lesion, reverse=True)}
    with zipfile.ZipFile(HAM10000 / "images_200x150_core.zip") as archive:
        names = {Path(name).stem: name for name in archive.namelist() if name.endswith(".jpg")}
        chosen = [i for i in one_of.values() if i in names][:240]
        images = [Image.open(io.BytesIO(archive.read(names[i]))).convert("RGB") for i in chosen]
    right, wrong = copies_found(audit_duplicates(planted(tmp_path / "data", images)))
    assert len(right) >= 58 and wrong == []


def test_radiographs_of_sixteen_bits_are_told_apart(tmp_path):
    # To imagehash any two are white: findings/imagehash-sixteen-bit-greys.sh.
    for seed in range(6):
        grey = np.asarray(blotch(seed).convert("L")).astype(np.uint16) * 14 + 300
        Image.fromarray(grey).save(tmp_path / f"{seed}.png")
    hashes = fingerprint_images([tmp_path / f"{seed}.png" for seed in range(6)]).hashes[:, 0]
    bits = np.unpackbits(hashes.view(np.uint8), axis=1)
    apart = (bits[:, None] != bits).sum(axis=2) + 256 * np.eye(6)
    assert apart.min() > 60


def test_equal_bytes_are_found_between_two_data_sets(tmp_path):
    for name, seeds in (("one", range(4)), ("two", range(3, 8))):
        planted(tmp_path / name, [blotch(seed) for seed in seeds], altered=[])
    one, two = (read_manifest(tmp_path / f"{name}.parquet") for name in ("one", "two"))
    found = audit_duplicates(one, two)
    assert (
        found.pairs["sample_a"][0] == "b/image0003" and found.pairs["sample_b"][0] == "a/image0000"
    )
    assert found.pairs["found_by"][0].startswith("bytes+hash")
    assert found.n_images == (4, 5) and found.chance == pytest.approx(0.5)
    assert [way for way in found.pairs["found_by"] if "hash" in way] == [found.pairs["found_by"][0]]


def test_pairs_of_one_group_are_left_out(tmp_path):
    folder = tmp_path / "data"
    turned = [("turned", lambda image: carried(image, turn=50))]
    planted(folder, [blotch(seed) for seed in range(8)], altered=ALTERED[:3] + turned)
    apart = audit_duplicates(prepare("folder", root=folder, out=tmp_path / "apart.parquet"))
    assert apart.n_one_scene == 4
    made = prepare("folder", root=folder, out=tmp_path / "m.parquet", group_regex=r"(\d{4})\.")
    found = audit_duplicates(made)
    assert copies_found(found) == (set(), []) and found.n_one_scene == 0
    assert not (found.pairs["group_a"] == found.pairs["group_b"]).any()


def test_many_copies_do_not_hide_a_lesion_taken_again(tmp_path):
    folder = tmp_path / "data"
    same = [("re-encoded", lambda image: blotch(100))] * 12
    again = [("turned", lambda image: carried(image, turn=50))] * 3
    manifest = planted(folder, [blotch(seed) for seed in range(15)], altered=again + same)
    found = audit_duplicates(manifest, nearest=4)
    pairs = zip(*(found.pairs[name] for name in ("sample_a", "sample_b")), strict=True)
    listed = {frozenset(Path(end).name for end in pair) for pair in pairs}
    for number in range(3):
        assert {f"image000{number}", f"copy000{number}"} in listed
    copies = found.pairs["hash_distance"] <= 30
    n_points = [n or 0 for n in found.pairs["matched_points"][copies]]
    assert copies.sum() == 12 * 11 / 2 and sum(n > 20 for n in n_points) > 14
    assert found.n_one_scene >= 3 + 15
    assert len(found) <= copies.sum() + 4


def test_every_pair_of_hashes_is_compared():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, (70, 3, WORDS), dtype=np.uint64)
    hashes[5, 2] = hashes[60, 0] ^ np.uint64(1)  # a view of one, the frame of the other
    hashes[9, 0] = ~hashes[8, 0]  # all bits differ, which a byte would count as none
    group = np.arange(70)
    found = hash_pairs(
        hashes,
        None,
        max_distance=4,
        max_turned=4,
        reach=256,
        groups=(group, group),
        labels=(group % 2, group % 2),
    )
    assert (found.first.tolist(), found.second.tolist(), found.distance.tolist()) == (
        [5],
        [60],
        [4],
    )
    bits = np.unpackbits(hashes.view(np.uint8), axis=-1).astype(int)
    frames = bits[:, 0]
    by_hand = (frames[:, None, None] != bits[None]).sum(axis=-1).min(axis=-1)
    by_hand = np.minimum(by_hand, by_hand.T)
    every = np.indices((70, 70)).reshape(2, -1)
    assert (hash_distances(hashes, hashes, every.T) == by_hand[*every]).all()
    by_hand = by_hand[np.triu_indices(70, 1)]
    assert (np.bincount(by_hand, minlength=257) == found.n_pairs).all()
    other = hash_pairs(
        hashes[:30], hashes[30:], max_distance=4, max_turned=4, reach=80,
        groups=(group[:30], group[30:]), labels=(group[:30], group[30:]),
    )  # fmt: skip
    assert (other.first.tolist(), other.second.tolist()) == ([5], [30])


def turned_bits(frames):
    """Hashes (n, 16, 16) of bits under the seven orientations, by the signs of frequencies."""
    odd = np.arange(HASH_SIDE) % 2 == 1
    for transposed in (False, True):
        own = frames.transpose(0, 2, 1) if transposed else frames
        for across in (False, True):
            for down in (False, True):
                if transposed or across or down:
                    yield own ^ (across & odd[None, None, :]) ^ (down & odd[None, :, None])


@pytest.mark.parametrize("compiled", [False, True])
def test_mirrored_and_turned_hashes_are_compared_as_by_hand(compiled, monkeypatch):
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 2**64, (150, 3, WORDS), dtype=np.uint64)
    others = rng.integers(0, 2**64, (1100, 3, WORDS), dtype=np.uint64)  # two tiles of columns
    bits = [
        np.unpackbits(h.view(np.uint8), axis=-1).reshape(-1, 3, 16, 16) for h in (hashes, others)
    ]
    signs = [1 - 2 * b.reshape(len(b), 3, -1).astype(int) for b in bits]
    by_hand = np.full((150, 1100), 256)
    for (mine, theirs), flat in (((0, 1), False), ((1, 0), True)):
        for frames in turned_bits(bits[mine][:, 0].astype(bool)):
            frame = 1 - 2 * frames.reshape(len(frames), -1).astype(int)
            for view in range(3):
                apart = (256 - frame @ signs[theirs][:, view].T) // 2
                by_hand = np.minimum(by_hand, apart.T if flat else apart)
    monkeypatch.setattr(close_pairs, "can_compile", lambda _: compiled)
    alone = np.full(150, -1), np.full(1100, -1)
    found = hash_pairs(
        hashes,
        others,
        max_distance=96,
        max_turned=96,
        reach=96,
        groups=alone,
        labels=alone,
        threads=2,
    )
    rows, columns = np.nonzero(by_hand <= 96)
    assert len(rows) > 100
    assert (found.turned == [rows, columns, by_hand[rows, columns]]).all()
    numbers, distances = orientations(hashes[rows], others[columns])
    assert (distances == by_hand[rows, columns]).all() and numbers.min() > 0


ORIENTED = {
    "mirrored left to right": Image.Transpose.FLIP_LEFT_RIGHT,
    "mirrored top to bottom": Image.Transpose.FLIP_TOP_BOTTOM,
    "turned by 180 degrees": Image.Transpose.ROTATE_180,
    "turned by 90 degrees": Image.Transpose.ROTATE_90,
    "mirrored and turned by 90 degrees": Image.Transpose.TRANSPOSE,
}


def test_mirrored_and_turned_copies_are_found_and_named(tmp_path):
    turns = [lambda image, turn=turn: image.transpose(turn) for turn in ORIENTED.values()]
    turns.append(lambda image: part_of(ImageOps.mirror(image), 0.05, 0, 1, 0.95))
    manifest = planted(
        tmp_path / "data", [blotch(seed) for seed in range(20)], [("", turn) for turn in turns]
    )
    found = audit_duplicates(manifest, nearest=0)
    ends = zip(found.pairs["sample_a"], found.pairs["sample_b"], strict=True)
    told = {
        tuple(sorted(Path(end).stem for end in pair)): name
        for pair, name in zip(ends, found.pairs["orientation"], strict=True)
    }
    names = [*ORIENTED, "mirrored left to right"]
    assert told == {(f"copy{k:04d}", f"image{k:04d}"): name for k, name in enumerate(names)}
    assert set(found.pairs["found_by"]) == {"turned"} and max(found.pairs["hash_distance"]) <= 26


def test_close_vectors_stand_out_of_a_crowd():
    rng = np.random.default_rng(1)
    crowd = rng.standard_normal(16) + 0.05 * rng.standard_normal((40, 16))
    alone = rng.standard_normal((20, 16))
    alone[1] = alone[0] + 0.1 * rng.standard_normal(16)
    vectors, group = np.concatenate([crowd, alone]), np.arange(60)
    first, second, closeness = standing_out(vectors, None, groups=(group, group), most=5)
    # All pairs of the crowd are closer by cosine; none of them is the pair looked for.
    assert (first[0], second[0]) == (40, 41) and (np.diff(closeness) <= 0).all()
    one = np.where(np.isin(group, (40, 41)), 40, group)
    first, second, _ = standing_out(vectors, None, groups=(one, one), most=5)
    assert (40, 41) not in zip(first.tolist(), second.tolist(), strict=True)


def carried(image, *, turn=0.0, zoom=1.0, shift=(0, 0)):
    """The picture turned (degrees), zoomed about its centre and shifted, with other colours."""
    import cv2

    width, height = image.size
    motion = cv2.getRotationMatrix2D((width / 2, height / 2), turn, zoom)
    motion[:, 2] += shift
    moved = cv2.warpAffine(
        np.asarray(image), motion, (width, height), borderMode=cv2.BORDER_REFLECT
    )
    return Image.fromarray(np.clip(0.8 * moved + [40, 10, 0], 0, 255).astype(np.uint8))


MOTIONS = [
    {"turn": 90},
    {"turn": 180},
    {"turn": 33, "shift": (12, -8)},
    {"zoom": 1.6},
    {"zoom": 0.7, "turn": -20},
    {"shift": (40, 25)},
]


def keypoints_of(images):
    return Keypoints.joined([find_keypoints(image) for image in images])


def test_a_picture_taken_again_matches_however_it_is_turned_zoomed_or_shifted():
    originals = [blotch(seed, size=(200, 150)) for seed in range(40)]
    again = [carried(originals[number], **how) for number, how in enumerate(MOTIONS)]
    found = matched_pairs(keypoints_of([*originals, *again]), np.arange(46))
    n_points = {(a, b): n for a, b, n in zip(*(c.tolist() for c in found), strict=True)}
    planted = {(number, 40 + number) for number in range(len(MOTIONS))}
    assert min(n_points[pair] for pair in planted) >= 10
    assert max([n for pair, n in n_points.items() if pair not in planted], default=0) <= 6
    assert (np.diff(found.n_points) <= 0).all() and (found.first < found.second).all()


def test_a_mirrored_picture_does_not_match():
    images = [blotch(seed, size=(200, 150)) for seed in range(12)]
    mirrored = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images]
    found = matched_pairs(keypoints_of([*images, *mirrored]), np.arange(24))
    # A few points of a smooth blob are where a turn puts them; of the picture itself there are 60.
    assert found.n_points.max(initial=0) < 10
    assert matched_pairs(keypoints_of([images[0]] * 2), np.arange(2)).n_points[0] > 60


def test_candidates_hold_the_pairs_that_a_comparison_of_all_finds():
    originals = [blotch(seed, size=(200, 150)) for seed in range(60)]
    again = [carried(originals[number], **how) for number, how in enumerate(MOTIONS * 2)]
    points = keypoints_of([*originals, *again])
    groups = np.arange(len(points))
    everything = np.stack(np.triu_indices(len(points), 1), axis=1)
    quick = matched_pairs(points, groups)
    whole = matched_pairs(points, groups, others=everything)
    sure = whole.n_points >= 8
    assert sure.sum() >= len(again)
    pairs = set(zip(quick.first.tolist(), quick.second.tolist(), strict=True))
    for a, b in zip(whole.first[sure].tolist(), whole.second[sure].tolist(), strict=True):
        assert (a, b) in pairs


def test_matched_points_are_those_of_opencvs_own_estimate():
    """A second implementation: brute-force matches and a motion by RANSAC."""
    import cv2

    image = blotch(5, size=(200, 150))
    one, two = (find_keypoints(each) for each in (image, carried(image, turn=25, zoom=1.3)))
    found = matched_pairs(Keypoints.joined([one, two]), np.arange(2))
    descriptors = [each.descriptors.astype(np.float32) for each in (one, two)]
    matches = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True).match(*descriptors)
    before = np.array([one.place[m.queryIdx] for m in matches]) * 176
    after = np.array([two.place[m.trainIdx] for m in matches]) * 176
    motion, inside = cv2.estimateAffinePartial2D(before, after, ransacReprojThreshold=4)
    assert np.hypot(*motion[:, 0]) == pytest.approx(1.3, abs=0.03)
    assert found.n_points[0] == pytest.approx(inside.sum(), rel=0.25)


@pytest.mark.parametrize("seed", range(5))
def test_points_are_counted_alike_from_either_side_and_in_any_frame(seed):
    rng = np.random.default_rng(seed)
    before = rng.uniform(0, 1, 30) + 1j * rng.uniform(0, 0.75, 30)
    motion, shift = 1.4 * np.exp(0.7j), 0.3 - 0.2j
    after = motion * before + shift + rng.normal(0, 0.004, (30, 2)) @ [1, 1j]
    after[20:] = rng.uniform(0, 1, 10) + 1j * rng.uniform(0, 0.75, 10)
    count = n_carried(before, after)
    assert 20 <= count <= 22
    assert n_carried(after, before) == count
    order = rng.permutation(30)
    assert n_carried(before[order], after[order]) == count
    assert n_carried(before * 1j + 2, after * np.exp(1j) - 1) == count
    assert n_carried(before, after[rng.permutation(30)]) < 10
    assert n_carried(before, 3 * after) <= 6  # zoomed too far
    assert n_carried(np.full(9, 0.5 + 0j), np.full(9, 0.5 + 0j)) == 0  # one place fixes nothing


def test_a_place_counts_once_whatever_its_directions():
    rng = np.random.default_rng(0)
    start, place = np.array([0, 24, 48]), rng.uniform(0.1, 0.6, (4, 2)).repeat(6, axis=0)
    descriptors = rng.integers(0, 120, (24, 128)).astype(np.uint8)
    twice = {
        "place": np.tile(place, (2, 1)).astype(np.float32),
        "size": np.full(48, -4.0, np.float32),
        "turn": np.zeros(48, np.float32),
        "descriptors": np.tile(descriptors, (2, 1)),
    }
    everything = np.array([[0, 1]])
    found = matched_pairs(Keypoints(start, **twice), np.arange(2), others=everything)
    assert len(found.n_points) == 0  # 24 matches of four places
    lattice = np.indices((4, 6)).reshape(2, -1).T * 0.1 + rng.uniform(0.1, 0.15, (24, 2))
    twice["place"] = np.tile(lattice, (2, 1)).astype(np.float32)
    found = matched_pairs(Keypoints(start, **twice), np.arange(2), others=everything)
    assert found.n_points.tolist() == [24]


def test_points_that_look_alike_match_none():
    board = Image.fromarray(np.kron(np.indices((9, 12)).sum(axis=0) % 2 * 255, np.ones((16, 16))))
    boards = [board.convert("RGB").rotate(angle, expand=True) for angle in (0, 7)]
    assert len(find_keypoints(boards[0]).size) > 50
    # Of squares that all look alike none is the nearest; what the frame cuts off may be.
    assert matched_pairs(keypoints_of(boards), np.arange(2)).n_points.max(initial=0) < 10


def test_a_mark_on_half_the_images_hides_nothing_of_the_others():
    originals = [blotch(seed, size=(200, 150)) for seed in range(60)]
    again = [carried(originals[number], turn=40, zoom=1.2) for number in range(6)]
    ruler = np.random.default_rng(7).integers(0, 2, (12, 60)) * 255
    mark = Image.fromarray(np.kron(ruler, np.ones((2, 2))).astype(np.uint8))
    for image in originals[20:]:
        image.paste(mark.convert("RGB"), (10, 120))
    found = matched_pairs(keypoints_of([*originals, *again]), np.arange(66))
    pairs = set(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert {(number, 60 + number) for number in range(6)} <= pairs


def test_the_size_of_a_file_changes_no_motion():
    """Keypoints are measured in the frame: a smaller file of the picture agrees in its votes."""
    whole, small = (
        find_keypoints(blotch(3, size=(200, 150)).resize(s)) for s in ((176, 132), (88, 66))
    )
    assert np.median(whole.size) == pytest.approx(np.median(small.size), abs=0.3)
    found = matched_pairs(Keypoints.joined([whole, small]), np.arange(2))
    assert found.n_points[0] >= 8


def test_pictures_without_keypoints_match_nothing():
    plain = [Image.new("RGB", (120, 90), colour) for colour in ("white", "red", "black")]
    found = matched_pairs(keypoints_of(plain), np.arange(3))
    assert len(found.n_points) == 0
    picture = blotch(1)
    found = matched_pairs(keypoints_of([*plain, picture, picture]), np.arange(5))
    assert (found.first.tolist(), found.second.tolist()) == ([3], [4])
    found = matched_pairs(keypoints_of([*plain, picture, picture]), np.array([0, 1, 2, 3, 3]))
    assert len(found.n_points) == 0


def test_threads_change_no_pair_and_opencv_keeps_its_own(tmp_path):
    import cv2

    before = cv2.getNumThreads()
    paths = [tmp_path / f"{number}.png" for number in range(30)]
    for number, path in enumerate(paths):
        image = blotch(number % 24)
        carried(image, turn=40).save(path) if number >= 24 else image.save(path)
    prints = [fingerprint_images(paths, threads=threads) for threads in (1, 3)]
    assert cv2.getNumThreads() == before
    found = [
        matched_pairs(each.keypoints, np.arange(30), threads=threads)
        for each, threads in zip(prints, (1, 3), strict=True)
    ]
    assert len(found[0].n_points) >= 6
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)


def test_lesions_taken_again_are_found_between_two_data_sets(tmp_path):
    planted(tmp_path / "one", [blotch(seed) for seed in range(8)], altered=[])
    planted(tmp_path / "two", [carried(blotch(seed), turn=70) for seed in range(5, 12)], altered=[])
    one, two = (read_manifest(tmp_path / f"{name}.parquet") for name in ("one", "two"))
    stages = []
    found = audit_duplicates(one, two, progress=lambda *told: stages.append(told))
    pairs = {
        (Path(a).name, Path(b).name)
        for a, b, n in zip(
            *(found.pairs[c] for c in ("sample_a", "sample_b", "matched_points")), strict=True
        )
        if n is not None and n >= 8
    }
    assert pairs == {(f"image000{number + 5}", f"image000{number}") for number in range(3)}
    ends = {stage: (unit, done, total) for stage, unit, done, total in stages}
    assert list(ends) == ["Fingerprints", "Hashes", "Keypoints", "Candidates"]
    assert ends["Fingerprints"] == ("images", 15, 15)
    assert all(done == total for _, done, total in ends.values())
    agreement = [row for row in found.agreement if row["by"] == "points"]
    assert sum(row["n_pairs"] for row in agreement) >= 3
    assert found.n_one_scene == 3
    none = audit_duplicates(one, two, nearest=0)
    assert none.n_one_scene is None
    assert not [way for way in none.pairs["found_by"] if "points" in way]
    assert {row["by"] for row in none.agreement} == {"hash"}


def real_images(wanted):
    """HAM10000's images that `wanted` says yes to, by id, and the lesions of all ids."""
    if not HAM10000.is_dir():
        pytest.skip("needs the real data in ../shared/data, which are not in the repository")
    with open(HAM10000 / "HAM10000_metadata.csv") as file:
        lesion = {row["image_id"]: row["lesion_id"] for row in csv.DictReader(file)}
    images = {}
    for part in ("core", "nv_rest"):
        with zipfile.ZipFile(HAM10000 / f"images_200x150_{part}.zip") as archive:
            for place, name in enumerate(archive.namelist()):
                if name.endswith(".jpg") and wanted(Path(name).stem, place, lesion):
                    images[Path(name).stem] = Image.open(io.BytesIO(archive.read(name)))
                    images[Path(name).stem].load()
    return dict(sorted(images.items())), lesion


def test_real_lesions_under_two_ids_are_found():
    path = HAM10000 / "duplicate_pairs.csv"
    rows = list(csv.DictReader(path.read_text().splitlines())) if path.is_file() else []
    pairs = {frozenset((r["image_a"], r["image_b"])) for r in rows if r["kind"] == "duplicate"}
    ends = set().union(*pairs)
    images, lesion = real_images(lambda i, place, _: i in ends or place % 11 == 0)
    ids = list(images)
    groups = np.unique([lesion[i] for i in ids], return_inverse=True)[1]
    found = matched_pairs(keypoints_of(images.values()), groups)
    first = list(zip(found.first[:30].tolist(), found.second[:30].tolist(), strict=True))
    assert len(ids) > 800 and len(pairs) == 18
    assert len(pairs & {frozenset((ids[a], ids[b])) for a, b in first}) >= 16


def test_real_images_of_one_lesion_are_told_from_others():
    chosen = set()

    def wanted(image, place, lesion):
        if not chosen:
            several = [name for name, n in Counter(lesion.values()).items() if n > 1]
            chosen.update(sorted(several)[::6])
        return lesion[image] in chosen

    images, lesion = real_images(wanted)
    ids = list(images)
    of = np.unique([lesion[i] for i in ids], return_inverse=True)[1]
    found = matched_pairs(keypoints_of(images.values()), np.arange(len(ids)))
    sure = found.n_points >= SURE
    same = of[found.first] == of[found.second]
    n_same = (np.bincount(of) * (np.bincount(of) - 1) // 2).sum()
    assert n_same > 300
    assert (same & sure).sum() > 0.75 * n_same
    assert (~same & sure).sum() <= 0.02 * sure.sum()


def test_embeddings_find_what_no_hash_does(tmp_path):
    manifest = planted(tmp_path / "data", [blotch(seed) for seed in range(40)], altered=[])
    ids = manifest.columns["sample_id"]
    rng = np.random.default_rng(2)
    features = rng.standard_normal((len(ids), 8)).astype(np.float32)
    features[30] = features[7]
    cache = make_cache(
        n=40, d=8, group_size=1, features=features, sample_id=ids.astype(str), weights_digest="w"
    )
    found = audit_duplicates(manifest, caches=[cache], nearest=5)
    ways = found.pairs["found_by"].tolist()
    best = next(row for row, way in enumerate(ways) if "embedding" in way)
    assert {found.pairs["sample_a"][best], found.pairs["sample_b"][best]} == {ids[7], ids[30]}
    strange = make_cache(n=4, d=8, group_size=1, weights_digest="w", path=Path("strange.h5"))
    with refused("strange.h5 holds none of these samples."):
        audit_duplicates(manifest, caches=[strange])


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(TrustqError, match=r"a\.png could not be read as an image \("):
        fingerprint_images([tmp_path / "a.png"])


def test_the_command_writes_pairs_that_prepare_merges(tmp_path):
    folder = tmp_path / "data"
    planted(folder, [blotch(seed) for seed in range(12)], altered=ALTERED[:4])
    manifest, out = tmp_path / "data.parquet", tmp_path / "duplicates"
    told = run("audit", "duplicates", manifest, "--out", out)
    assert told.exit_code == 0, told.output
    assert "pairs of close hash:" in told.stdout and "same_label" in told.stdout
    assert (out / "contact_sheet.png").is_file() and (out / "agreement.csv").is_file()
    with open(out / "pairs.csv") as file:
        rows = list(csv.DictReader(file))
    assert {"sample_a", "hash_distance", "label_b", "group_a", "split_b", "confirmed"} <= set(
        rows[0]
    )
    with open(out / "answers.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(
            row | {"confirmed": "yes" if "hash" in row["found_by"] else ""} for row in rows
        )
    words = ["folder", "--root", folder, "--out", tmp_path / "merged.parquet"]
    merged = run("data", "prepare", *words, "--merge-duplicates", out / "answers.csv")
    assert merged.exit_code == 0, merged.output
    groups = read_manifest(tmp_path / "merged.parquet").columns["group_id"]
    assert len(groups) == 16 and len(set(groups.tolist())) == 12
    again = audit_duplicates(read_manifest(tmp_path / "merged.parquet"))
    assert copies_found(again) == (set(), [])


def test_an_audit_is_written_the_same_each_time(tmp_path):
    manifest = planted(tmp_path / "data", [blotch(seed) for seed in range(9)], altered=ALTERED[:2])
    texts = []
    for name in ("one", "two"):
        paths = write_audit(
            audit_duplicates(manifest, threads=1 + (name == "two")), tmp_path / name
        )
        texts.append([path.read_text() for path in paths])
    assert texts[0] == texts[1]


def test_a_distance_that_means_nothing_is_refused(tmp_path):
    manifest = planted(tmp_path / "data", [blotch(1), blotch(2)], altered=[])
    with refused("The distance is 200, expected 0 to 80 of 256 bits."):
        audit_duplicates(manifest, max_distance=200)
    with refused("Pairs to list by closeness: -1, expected 0 or more."):
        audit_duplicates(manifest, nearest=-1)


def test_answers_are_not_written_over(tmp_path):
    manifest = planted(tmp_path / "data", [blotch(1), blotch(2)], altered=ALTERED[:1])
    found = audit_duplicates(manifest)
    path = write_audit(found, tmp_path)[0]
    write_audit(found, tmp_path)  # no answer yet
    header, row, *_ = path.read_text().splitlines()
    path.write_text(f"{header}\n{row}yes\n")
    message = (
        f"{path} holds 1 answer in its column `confirmed`, which would be lost. Move it "
        "elsewhere, or choose another folder (`out`)."
    )
    with refused(message):
        write_audit(found, tmp_path)
    again = run("audit", "duplicates", tmp_path / "data.parquet", "--out", tmp_path)
    shown = message.replace("`out`", "--out")
    assert (again.exit_code, again.stderr) == (1, f"Error: {shown}\n")
