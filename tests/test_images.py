"""Images: whatever a scanner wrote becomes an array, or an error that says what to do. Next: test_deep_images.py."""

import contextlib
import io
import lzma
import re
import struct
import time
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cnn import images
from cnn.errors import ImageError
from cnn.images import decode_image, encode_jpeg

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
PICTURE = np.array([[RED, GREEN, BLUE], [(10, 20, 30), (40, 50, 60), (250, 240, 230)]], np.uint8)  # 2 rows, 3 columns
DEEP = np.array([[[0, 1, 4095], [2048, 16, 8]]], np.uint16)  # a camera with 12 bits; 1 row, 2 columns
DEEP_READ = [[[0, 0, 255], [128, 1, 0]]]  # 2048 * 255 / 4095 = 127.53, 16 * 255 / 4095 = 0.996, 8 * 255 / 4095 = 0.498


def saved(picture, kind: str, **options) -> bytes:
    """The bytes of a file that Pillow writes."""
    stream = io.BytesIO()
    (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(stream, kind, **options)
    return stream.getvalue()


def tiff(*pages: np.ndarray, kinds: tuple = (0, 0), **options) -> bytes:
    """The bytes of a TIFF that tifffile writes; `kinds`: the NewSubfileType of each page."""
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream, bigtiff=options.pop("big", False), byteorder=options.pop("order", "<")) as file:
        for samples, kind in zip(pages, kinds):
            default = {"photometric": "rgb" if samples.ndim == 3 else "minisblack", "metadata": None}
            file.write(samples, subfiletype=kind, **default | options)
    return stream.getvalue()


def patched(data: bytes, values: dict[int, int]) -> bytes:
    """A little-endian TIFF with other values in some of its tags."""
    data = bytearray(data)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        for tag, value in values.items():
            struct.pack_into("<H", data, file.pages[0].tags[tag].valueoffset, value)
    return bytes(data)


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    """A PNG, chunk by chunk; colour type: 0 grey, 2 RGB, 4 grey and alpha, 6 RGB and alpha."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    framed = [struct.pack(">I", len(c)) + t + c + struct.pack(">I", zlib.crc32(t + c)) for t, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def deep_png(samples: np.ndarray) -> bytes:
    """A 16-bit PNG of (height, width, channels) samples; each row begins with 0: it is not filtered."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return png(samples.shape[1], samples.shape[0], 16, {1: 0, 2: 4, 3: 2, 4: 6}[samples.shape[2]], rows)


planes = {"photometric": "rgb", "planarconfig": "separate"}
LOSSLESS = {
    "png": saved(PICTURE, "PNG"),
    "tiff": saved(PICTURE, "TIFF"),
    "packbits": saved(PICTURE, "TIFF", compression="packbits"),
    "lzw": saved(PICTURE, "TIFF", compression="tiff_lzw"),
    "deflate": saved(PICTURE, "TIFF", compression="tiff_adobe_deflate"),
    "big tiff": tiff(PICTURE, big=True),
    "big-endian": tiff(PICTURE, order=">"),
    "planar": tiff(np.moveaxis(PICTURE, -1, 0), **planes),
    "tiled": tiff(PICTURE, tile=(16, 16)),
}
opaque = np.dstack([DEEP, [[65535, 65535]]]).astype(np.uint16)
TWELVE_BITS = {
    "deep tiff": tiff(DEEP),
    "deep, big-endian": tiff(DEEP, order=">"),
    "deep, deflate": tiff(DEEP, compression="zlib", predictor=True),
    "deep, planar": tiff(np.moveaxis(DEEP, -1, 0), **planes),
    "32-bit integers": tiff(DEEP.astype(np.uint32)),
    "signed": tiff(DEEP.astype(np.int16)),
    "deep png": deep_png(DEEP),
    "deep png with alpha": deep_png(opaque),
    "deep tiff with alpha": tiff(opaque, extrasamples=[2]),
}
three = Image.fromarray(PICTURE[:1]).quantize(3)
two = Image.fromarray(np.array([[True, False]]))
narrow = np.zeros((3, 256), np.uint16)
narrow[:, 1] = RED  # a palette in TIFF has 16 bits: 65535 would be right
MODES = {
    "1 bit": (saved(two, "PNG"), [[WHITE, BLACK]]),
    "fax": (saved(two, "TIFF", compression="group4"), [[WHITE, BLACK]]),
    "grey": (saved(np.array([[7, 250]], np.uint8), "TIFF"), [[(7, 7, 7), (250, 250, 250)]]),
    "palette": (saved(three, "TIFF"), [[RED, GREEN, BLUE]]),
    "palette of 8 bits": (tiff(np.array([[0, 1]], np.uint8), photometric="palette", colormap=narrow), [[BLACK, RED]]),
    "clear red": (saved(three, "PNG", transparency=three.getpixel((0, 0))), [[WHITE, GREEN, BLUE]]),
    "cyan ink": (saved(Image.new("CMYK", (1, 1), (255, 0, 0, 0)), "TIFF"), [[(0, 255, 255)]]),
    "half red": (saved(Image.new("RGBA", (1, 1), (255, 0, 0, 128)), "PNG"), [[(255, 127, 127)]]),  # 127 of white
    "half red, premultiplied": (tiff(np.uint16([[[32896, 0, 0, 32896]]]), extrasamples=[1]), [[(255, 127, 127)]]),
    "half black": (tiff(np.uint16([[[0, 16448]]]), photometric="minisblack", extrasamples=[1]), [[(191, 191, 191)]]),
    "jpeg": (saved(Image.new("RGB", (1, 1), (200, 200, 200)), "JPEG"), [[(200, 200, 200)]]),
    "jpeg in tiff": (saved(Image.new("RGB", (1, 1), (200, 200, 200)), "TIFF", compression="jpeg"), [[(200, 200, 200)]]),
}
WANTED = {kind: (data, PICTURE) for kind, data in LOSSLESS.items()}
WANTED |= {kind: (data, DEEP_READ) for kind, data in TWELVE_BITS.items()} | MODES


@pytest.mark.parametrize("kind", WANTED)
def test_every_kind_of_file_gives_its_pixels_and_12_bits_are_not_black(kind):
    data, want = WANTED[kind]
    np.testing.assert_array_equal(decode_image(data, kind), np.array(want, np.uint8), strict=True)


@pytest.mark.parametrize(
    ("samples", "want"),
    [
        ([0, 7, 255], [0, 7, 255]),  # 8 bits in a 16-bit file
        ([0, 256, 512], [0, 64, 128]),  # 256 * 255 / 1023 = 63.8
        ([0, 1024, 4095], [0, 64, 255]),  # 1024 * 255 / 4095 = 63.8
        ([0, 4096, 8192], [0, 64, 128]),  # 4096 * 255 / 16383 = 63.8
        ([257, 16384, 65535], [1, 64, 255]),  # 16384 / 257 = 63.8
    ],
)
def test_the_smallest_bit_depth_that_holds_the_picture_is_white(samples, want):
    grey = np.array([samples], np.uint16)
    for data in (tiff(grey), deep_png(grey[..., None]), saved(grey, "TIFF", compression="tiff_lzw")):
        np.testing.assert_array_equal(decode_image(data, "grey")[0, :, 1], want)
    negative = decode_image(tiff(grey, photometric="miniswhite"), "negative")[0, :, 1]
    np.testing.assert_array_equal(negative, 255 - np.array(want))
    clear = decode_image(deep_png(np.dstack([grey, [[65535, 0, 65535]]])), "clear")
    np.testing.assert_array_equal(clear[0, :, 1], [want[0], 255, want[2]])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_up_to_1_are_scaled_by_1_and_others_by_their_largest(dtype):
    for samples, want in (([0, 0.2, 0.5], [0, 51, 128]), ([0, 1.5, 2], [0, 191, 255])):  # 1.5 / 2 * 255 = 191.25
        np.testing.assert_array_equal(decode_image(tiff(np.array([[samples]], dtype)), "f"), [[want]])


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("samples", [DEEP, DEEP[..., 0], DEEP[..., 0].astype("f4"), DEEP[..., 0].astype("i2"), opaque])
def test_libtiff_which_reads_lzw_gives_the_same_pixels_as_tifffile(monkeypatch, samples, order):
    data = tiff(samples, compression="zlib", order=order, **({"extrasamples": [2]} if samples is opaque else {}))
    want = decode_image(data, "by tifffile")
    monkeypatch.setattr(images, "TIFFFILE_DECODES", ())
    np.testing.assert_array_equal(decode_image(data, "by libtiff"), want)


TURNS = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: np.swapaxes(a, 0, 1)}
TURNS |= {6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2), 8: np.rot90}


@pytest.mark.parametrize("orientation", TURNS)
def test_the_picture_is_turned_upright_whatever_the_file(orientation):
    exif, want = Image.Exif(), TURNS[orientation](PICTURE)
    exif[274] = orientation
    tiffs = [tiff(a, extratags=[(274, "H", 1, orientation, True)]) for a in (PICTURE, PICTURE.astype(np.uint16))]
    for data in (saved(PICTURE, "PNG", exif=exif), *tiffs):
        np.testing.assert_array_equal(decode_image(data, "turned"), want)
    blocks = saved(np.repeat(np.repeat(PICTURE, 16, 0), 16, 1), "JPEG", exif=exif, quality=100, subsampling=0)
    np.testing.assert_allclose(decode_image(blocks, "turned.jpg")[8::16, 8::16].astype(int), want, atol=6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_one_picture_with_smaller_copies_is_read_at_full_size(dtype):
    large = np.arange(60, dtype=dtype).reshape(4, 5, 3)
    marked = tiff(large, large[:3, :3], kinds=(0, 1))
    halved = tiff(large, large[:2, :2])  # not marked as a copy, but 2 * 2 <= 5 with the same aspect
    thumbnail_first = tiff(large[:3, :3], large, kinds=(1, 0))
    for data in (marked, halved, thumbnail_first):
        np.testing.assert_array_equal(decode_image(data, "pyramid.tif"), large)


@pytest.mark.parametrize("kind", WANTED)
def test_the_first_quarter_of_a_file_is_no_picture(kind):
    with pytest.raises(ImageError, match=f"^{kind}: "):
        decode_image(WANTED[kind][0][: len(WANTED[kind][0]) // 4], kind)


ERRORS = {
    "is empty; copy it again": b"",
    "is no TIFF, JPEG or PNG inside: it begins with b'patient,'; save it again": b"patient,class",
    "is no TIFF, JPEG or PNG inside: it is a GIF; save it again": saved(PICTURE, "GIF"),
    "is over 100 million pixels, 1 GiB of samples or the free memory; scale it": png(10001, 10000, 8, 2, b""),
    "is over 100 million pixels, 1 GiB of samples": patched(tiff(PICTURE), {256: 65535, 257: 65535}),
    "is wholly transparent; save it without its alpha channel": saved(Image.new("RGBA", (3, 2)), "PNG"),
    "is cut short; copy it again": tiff(DEEP)[:-1],
    "is cut short; copy": patched(tiff(PICTURE), {257: 3}),  # 257: height, of one strip of 2 rows
    "is damaged or cut short": saved(PICTURE, "PNG")[:-30],
    "is a damaged TIFF, or one of a kind that cannot be read": tiff(PICTURE.view(np.int8)),
    "holds 2 frames; split it": saved(three, "PNG", save_all=True, append_images=[two.convert("P")]),
    "holds 2 pages; split it into one file a page": tiff(np.repeat(PICTURE, 2, 1), PICTURE),
    "holds 2 pages; split it into": tiff(np.zeros((4, 5, 3), np.uint8), np.zeros((2, 1, 3), np.uint8)),
    "holds samples that are infinite or not a number": tiff(np.array([[[0, np.nan, 1]]], np.float32)),
    "holds samples from -0.5 to 1, not 0 or more": tiff(np.array([[[-0.5, 0, 1]]], np.float32)),
    "holds samples from 0 to 65536, not": tiff(np.uint32([[[0, 1, 65536]]])),
    "holds samples that are neither grey, RGB nor CMYK": tiff(np.ones((2, 3, 3), np.complex64)),
}


@pytest.mark.parametrize("reason", ERRORS)
def test_the_error_says_which_file_why_and_what_to_do(reason):
    with pytest.raises(ImageError, match="^" + re.escape(f"a/b.png: {reason}")):
        decode_image(ERRORS[reason], "a/b.png")


@pytest.mark.parametrize("error", [MemoryError(), RecursionError(), struct.error(), SyntaxError(), zlib.error()])
def test_whatever_a_decoder_raises_becomes_an_image_error(monkeypatch, error):
    monkeypatch.setattr(images, "_decode", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(ImageError, match="free memory" if isinstance(error, MemoryError) else type(error).__name__):
        decode_image(b"", "x.png")


def test_decoding_in_threads_is_silent_and_leaves_the_filters_of_warnings_alone(capfd):
    odd = tiff(PICTURE, extratags=[(274, "H", 2, (1, 1), True)])  # one orientation would do
    with pytest.warns(UserWarning, match="too many entries"):
        Image.open(io.BytesIO(odd))
    broken = patched(tiff(PICTURE), {259: 5})  # is said to be LZW: libtiff writes on stderr that it is not

    def decode(i: int) -> None:
        with contextlib.suppress(ImageError):
            decode_image((odd, broken)[i % 2], "x")

    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(decode, range(300)))
    assert warnings.filters == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("compression", "pack"), [("zlib", zlib.compress), ("lzma", lzma.compress)])
def test_a_strip_that_inflates_without_end_is_refused_before_it_does(compression, pack):
    bomb = pack(bytes(100_000_000))
    data = bytearray(tiff(DEEP, compression=compression))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        for tag, value in ((273, len(data)), (279, len(bomb))):  # StripOffsets, StripByteCounts
            struct.pack_into("<I", data, file.pages[0].tags[tag].valueoffset, value)
    tracemalloc.start()
    with pytest.raises(ImageError, match="holds more than the samples that it tells of"):
        decode_image(bytes(data) + bomb, "bomb.tif")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000  # lzma needs 8 MB for itself


def mutant(random: np.random.Generator) -> bytes:
    """One of the files above, cut or with up to eight bytes changed, mostly near its ends, where the tags are."""
    data = bytearray(list(WANTED.values())[random.integers(len(WANTED))][0])
    if random.random() < 0.2:
        return bytes(data[: random.integers(len(data))])
    for _ in range(random.integers(1, 9)):
        near = min(len(data), 300) if random.random() < 0.8 else len(data)
        i = int(random.integers(near)) * (1 if random.random() < 0.5 else -1)
        data[i : i + 1] = (bytes([random.integers(256)]), b"\0", b"\xff", b"\x7f\xff", b"")[random.integers(5)]
    return bytes(data)


@pytest.mark.parametrize("count", [400, pytest.param(5000, marks=pytest.mark.slow)])
def test_a_mutated_file_is_a_picture_or_an_image_error_within_5_seconds(count):
    random, fine = np.random.Generator(np.random.PCG64(count)), 0
    for _ in range(count):
        start = time.perf_counter()
        with contextlib.suppress(ImageError):
            image = decode_image(mutant(random), "mutant")
            assert (image.dtype, image.ndim, image.shape[2], image.size > 0) == (np.uint8, 3, 3, True)
            fine += 1
        assert time.perf_counter() - start < 5
    assert count / 20 < fine < count  # some harmless, some not


@settings(deadline=None, max_examples=50)
@given(st.sampled_from("1 L LA P RGB RGBA CMYK I F".split()), st.integers(1, 40), st.integers(1, 40))  # noqa: SIM905
def test_every_mode_and_size_becomes_height_width_3(mode, width, height):
    picture = Image.new("L", (width, height), 3)
    picture = picture.convert(mode) if mode in "1IF" else picture.convert("RGB").convert(mode)
    assert decode_image(saved(picture, "TIFF"), mode).shape == (height, width, 3)


def test_a_jpeg_loses_little_and_less_with_higher_quality():
    ramp = np.tile(np.arange(0, 240, 5, dtype=np.uint8)[:, None, None], (1, 48, 3))
    errors = [np.abs(decode_image(encode_jpeg(ramp, quality), "j") - ramp.astype(int)).max() for quality in (95, 75, 5)]
    assert errors[0] <= errors[1] <= 4 < errors[2]
