"""One picture is one picture: depth, transparency and orientation, in every place that reads it.

Kinds of damage that are tried: cut short, bytes changed in the middle, another format's bytes, an
empty file, a width of 0, more pixels than memory holds, a folder, colour of 12 in 16 bits, negative
and NaN grey, another image in its place.
"""

import io
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw
from support import refused

from trustq.audit.duplicates.fingerprints import fingerprint_images
from trustq.core.digest import digest_bytes
from trustq.data.image_measures import measured
from trustq.data.manifest import read_manifest
from trustq.data.pillow_rgb import decode_rgb, read_rgb, traits_of
from trustq.datasets import prepare
from trustq.errors import TrustqError
from trustq.report.contact_sheet import write_pair_sheet


def photo(seed=0, size=(40, 30)):
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.BICUBIC)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def levels(data):
    return np.asarray(decode_rgb(data))[:, :, 0].astype(int)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_is_scaled_by_the_bits_its_values_fill(bits, kind):
    grey = np.asarray(photo(bits).convert("L"))
    deep = (grey.astype(np.float64) * (2**bits - 1) / 255).round().astype(np.uint16)
    deep[0, 0] = 2**bits - 1
    data = encoded(Image.fromarray(deep), kind)
    assert np.abs(levels(data) - grey)[1:].max() <= 1
    assert traits_of(data).depth == f"{bits} of 16 bits"


def test_float_and_32_bit_grey_are_scaled_too():
    grey = np.asarray(photo(1).convert("L"))
    as_share = encoded(Image.fromarray((grey / 255).astype(np.float32)), "TIFF")
    assert np.array_equal(levels(as_share), grey)
    assert traits_of(as_share).depth == "float from 0 to 1"
    as_levels = encoded(Image.fromarray(grey.astype(np.float32)), "TIFF")
    assert np.array_equal(levels(as_levels), grey)
    wide = grey.astype(np.int32) * 257
    wide[0, 0] = 65535
    assert np.array_equal(levels(encoded(Image.fromarray(wide), "TIFF"))[1:], grey[1:])


def test_a_stated_white_counts_more_than_the_largest_value():
    dark = np.full((4, 4), 100, dtype=np.uint16)
    stated = encoded(Image.fromarray(dark), "TIFF", tiffinfo={281: 4095})
    assert levels(stated).max() == round(100 * 255 / 4095)
    assert traits_of(stated).depth == "white 4095, as the file states, of 16 bits"


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_grey_whose_least_value_is_white_is_turned_at_any_depth(bits):
    grey = np.asarray(photo(4).convert("L"))
    deep = (grey.astype(np.float64) * (2**bits - 1) / 255).round()
    deep[0, :2] = 0, 2**bits - 1
    negative = (2**bits - 1 - deep).astype(np.uint8 if bits == 8 else np.uint16)
    data = bytearray(encoded(Image.fromarray(negative), "TIFF"))
    at = struct.unpack("<I", data[4:8])[0]
    for entry in range(at + 2, at + 2 + 12 * struct.unpack("<H", data[at : at + 2])[0], 12):
        if struct.unpack("<H", data[entry : entry + 2])[0] == 262:  # PhotometricInterpretation
            data[entry + 8 : entry + 10] = struct.pack("<H", 0)
    assert np.abs(levels(bytes(data)) - grey)[1:].max() <= 1


@pytest.mark.parametrize("alpha", [4095, 65535])
@pytest.mark.parametrize("n_colours", [1, 3])
def test_deep_colour_beside_transparency_is_refused_too(alpha, n_colours):
    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    pixels = np.full((6, 8, n_colours + 1), 4000, dtype=">u2")
    pixels[..., -1] = alpha
    kind = 4 if n_colours == 1 else 6
    head = struct.pack(">IIBBBBB", 8, 6, 16, kind, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    with pytest.raises(ValueError, match="colour of 16 bits whose values fill 12 or fewer"):
        decode_rgb(b"\x89PNG\r\n\x1a\n" + parts)


def test_grey_that_no_scale_fits_is_refused(tmp_path):
    for value, told in ((-1.0, "grey values from -1 to -1"), (np.nan, "grey values from nan")):
        Image.fromarray(np.full((3, 3), value, dtype=np.float32)).save(tmp_path / "x.tif")
        with pytest.raises(TrustqError, match=told):
            read_rgb(tmp_path / "x.tif")
    rgb = np.asarray(photo(2)).astype(np.uint16)
    for name in ("c.png", "c.tif"):
        cv2.imwrite(str(tmp_path / name), rgb * 16)
        with pytest.raises(TrustqError, match="colour of 16 bits whose values fill 12 or fewer"):
            read_rgb(tmp_path / name)
        cv2.imwrite(str(tmp_path / name), rgb[:, :, ::-1] * 257)
        assert np.array_equal(np.asarray(read_rgb(tmp_path / name)), rgb)


def test_transparency_is_drawn_on_white_in_every_mode():
    colours = photo(3)
    mask = Image.new("L", colours.size, 0)
    ImageDraw.Draw(mask).ellipse((5, 5, 30, 25), fill=255)
    on_white = Image.new("RGB", colours.size, "white")
    on_white.paste(colours, mask=mask)
    drawn = colours.copy()
    drawn.putalpha(mask)
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
        data = encoded(drawn, kind, **options)
        assert np.array_equal(np.asarray(decode_rgb(data)), np.asarray(on_white)), kind
        assert traits_of(data).transparent
    grey = Image.merge("LA", (colours.convert("L"), mask))
    assert np.asarray(decode_rgb(encoded(grey, "PNG")))[0, 0].tolist() == [255, 255, 255]
    keyed = encoded(Image.new("RGB", (2, 2), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
    assert np.asarray(decode_rgb(keyed)).min() == 255
    opaque = colours.copy()
    opaque.putalpha(255)
    assert np.array_equal(np.asarray(decode_rgb(encoded(opaque, "PNG"))), np.asarray(colours))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_every_orientation_gives_the_upright_picture(orientation, kind):
    upright = photo(4, (64, 48))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    quality = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    data = encoded(stored, kind, exif=exif, **quality)
    seen = np.asarray(decode_rgb(data)).astype(int)
    assert seen.shape == (48, 64, 3)
    assert np.abs(seen - np.asarray(upright)).max() <= (8 if kind == "JPEG" else 0)
    assert traits_of(data).turned == (orientation > 1)


def test_a_turned_jpeg_is_decoded_small_as_its_upright_copy_is():
    upright = photo(5, (320, 80))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)
    plain = encoded(upright, "JPEG", quality=95)
    small = [decode_rgb(data, enough=(160, 40)) for data in (plain, turned)]
    assert small[0].size == small[1].size == (160, 40)


@pytest.fixture
def pictures(tmp_path):
    """A turned photograph beside its upright copy, a drawing without ground, deep grey, others."""
    (tmp_path / "in/a").mkdir(parents=True)
    (tmp_path / "in/b").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 8
    big = photo(6, (160, 120))
    big.save(tmp_path / "in/a/plain.jpg", quality=95)
    turned = big.transpose(Image.Transpose.ROTATE_270)
    turned.save(tmp_path / "in/b/turned.jpg", quality=95, exif=exif)
    drawing = Image.new("LA", (160, 120), (0, 0))
    ImageDraw.Draw(drawing).line((10, 10, 100, 90), fill=(0, 255), width=5)
    drawing.save(tmp_path / "in/a/drawing.png")
    grey = np.asarray(big.convert("L")).astype(np.uint16) * 4
    grey[0, 0] = 1023
    Image.fromarray(grey).save(tmp_path / "in/b/deep.png")
    return tmp_path / "in"


def test_measures_hashes_and_sheets_see_the_same_picture(pictures, tmp_path):
    said = []
    found = prepare("folder", root=pictures, out=tmp_path / "m.parquet", say=said.append)
    assert said[1:] == [
        "Grey of 10 of 16 bits, scaled to 0 to 255: 1 of 4 images, e.g. b/deep.",
        "Transparent, drawn on white: 1 of 4 images, e.g. a/drawing.",
        "Turned upright by their EXIF orientation: 1 of 4 images, e.g. b/turned.",
    ]
    row = {name: r for r, name in enumerate(found.columns["sample_id"].tolist())}
    columns = measured(found).columns
    for name in ("image_width", "image_height"):
        assert columns[name][row["a/plain"]] == columns[name][row["b/turned"]]
    assert columns["mean_grey"][row["a/drawing"]] > 240
    plain, deep = row["a/plain"], row["b/deep"]
    assert abs(columns["mean_grey"][plain] - columns["mean_grey"][deep]) < 2
    paths = [found.image_path(r) for r in range(len(found))]
    hashes = fingerprint_images(paths, keypoints=False).hashes[:, 0]
    apart = np.bitwise_count(hashes[:, None] ^ hashes).sum(axis=2)
    assert apart[plain, row["b/turned"]] < 40 and apart[plain, row["a/drawing"]] > 60
    sheet = write_pair_sheet([(paths[plain], paths[row["b/turned"]])], [""], tmp_path / "s.png")
    with Image.open(sheet) as drawn:
        pixels = np.asarray(drawn).astype(int)
    left, right = pixels[30:150, 8:188], pixels[30:150, 190:370]
    assert np.abs(left - right).mean() < 6


def test_the_network_sees_the_upright_picture_on_white(pictures, tmp_path):
    torch = pytest.importorskip("torch")
    from trustq.extraction.inputs.images import (
        ImageLoader,
        Preprocessing,
        evaluation_batches,
        require_readable,
    )

    found = prepare("folder", root=pictures, out=tmp_path / "m.parquet")
    (note,) = require_readable(found)
    assert note == (
        "Images with transparency, which are drawn on white: 1 (the first is a/drawing.png)."
    )
    loader = ImageLoader(
        found,
        evaluation_batches(np.arange(len(found)), batch_size=8),
        preprocessing=Preprocessing(32, "bicubic", (0.5,) * 3, (0.5,) * 3),
        workers=0,
        device=torch.device("cpu"),
    )
    ((rows, images),) = list(loader)
    seen = dict(zip(found.columns["sample_id"][rows].tolist(), images.numpy(), strict=True))
    assert np.abs(seen["a/plain"].astype(int) - seen["b/turned"]).mean() < 4
    assert seen["a/drawing"].mean() > 240


def png_of_width(width, height):
    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def damaged():
    jpeg, png = encoded(photo(7), "JPEG"), encoded(photo(7), "PNG")
    middle = bytearray(png)
    middle[len(png) // 2] ^= 255
    return {
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "cut.png": png[: len(png) // 2],
        "changed.png": bytes(middle),
        "empty.jpg": b"",
        "page.jpg": b"<html>not found</html>",
        "width0.png": png_of_width(0, 4),
        "bomb.png": png_of_width(60000, 60000),
        "pickle.tif": b"II*\x00\xff\xff\xff\xff" + b"\x80\x04K\x01." * 9,
    }


@pytest.mark.parametrize("name", list(damaged()))
def test_a_damaged_image_is_one_sentence_everywhere(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(damaged()[name])
    told = rf"^{path} could not be read as an image \([^\n]+\)\. Replace the file, or prepare the"
    for read in (
        lambda: read_rgb(path),
        lambda: fingerprint_images([path]),
        lambda: write_pair_sheet([(path, path)], ["x"], tmp_path / "sheet.png"),
    ):
        with pytest.raises(TrustqError, match=told):
            read()
    assert not (tmp_path / "sheet.png").exists()


def test_an_image_that_is_not_there_or_a_folder_is_one_sentence(tmp_path):
    (tmp_path / "x.png").mkdir()
    with pytest.raises(TrustqError, match="could not be read as an image"):
        read_rgb(tmp_path / "x.png")
    with refused(
        f"{tmp_path}/y.png could not be read as an image (no such file). Replace the file, or "
        "prepare the manifest again without it."
    ):
        read_rgb(tmp_path / "y.png")


@pytest.mark.parametrize("keeps_time", [False, True])
def test_another_image_in_the_place_of_one_is_found(pictures, tmp_path, keeps_time):
    prepare("folder", root=pictures, out=tmp_path / "m.parquet")
    path = pictures / "b/deep.png"
    time = path.stat().st_mtime
    expected = digest_bytes(path.read_bytes())
    photo(8).save(path)
    os.utime(path, (time, time) if keeps_time else (time + 100, time + 100))
    found = read_manifest(tmp_path / "m.parquet")
    told = f"{path} is not the image that the manifest was made from (digest "
    told += f"{digest_bytes(path.read_bytes())[:8]}..., expected {expected[:8]}...). Put that "
    told += "image back, or prepare the manifest again."
    with refused(told):
        measured(found)
    paths = [found.image_path(row) for row in range(len(found))]
    with refused(told):
        fingerprint_images(paths, digests=found.image_digests)
    pytest.importorskip("torch")
    from trustq.extraction.inputs.images import decoding_problems, require_readable
    from trustq.extraction.train.progress import StderrProgress

    problems = decoding_problems(found, progress=StderrProgress())
    assert list(problems.values()) == ["its bytes are not those of the manifest's image_digest"]
    if not keeps_time:  # else the loader finds it, when it reads the bytes anyway
        with pytest.raises(TrustqError, match="1 of 4 images cannot be read"):
            require_readable(found)
