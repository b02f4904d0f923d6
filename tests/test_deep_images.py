"""Images of more than eight bits, each way to lay out their samples. Next: test_store.py.

tifffile decodes some of them, and libtiff, within Pillow, others (LZW): what the file means must not depend on which.
"""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cnn import images
from cnn.errors import ImageError
from cnn.images import decode_image, encode_jpeg
from tests.test_images import PICTURE, RED, TURNS, deep_png, tiff

FULL = 65535
deep = PICTURE.astype(np.uint16) * 257


@pytest.fixture(params=["tifffile", "libtiff"])
def decoder(request, monkeypatch) -> str:
    """Which library decodes deflated TIFFs."""
    if request.param == "libtiff":
        monkeypatch.setattr(images, "TIFFFILE_DECODES", ())
    return request.param


def test_white_may_be_zero(decoder):
    data = tiff(np.array([[0, 16384, FULL]], np.uint16), photometric="miniswhite", compression="zlib")
    assert decode_image(data, decoder)[0, :, 0].tolist() == [255, 191, 0]


def test_ink_is_what_takes_light_away(decoder):
    ink = np.uint16([[[FULL, 0, 0, 0], [0, 0, 0, FULL]]])  # cyan, and black
    data = tiff(ink, photometric="separated", compression="zlib")
    np.testing.assert_array_equal(decode_image(data, decoder), [[(0, 255, 255), (0, 0, 0)]])


def test_ink_that_one_can_see_through_is_refused_and_not_called_damaged():
    data = tiff(np.zeros((1, 2, 5), np.uint16), photometric="separated", planarconfig="contig", extrasamples=[2])
    with pytest.raises(ImageError, match="has an alpha channel beside CMYK, which cannot be read"):
        decode_image(data, "x")


def test_libtiff_is_not_asked_for_what_pillow_would_take_for_something_else(monkeypatch):
    monkeypatch.setattr(images, "TIFFFILE_DECODES", ())
    planes = {"photometric": "rgb", "planarconfig": "separate"}
    premultiplied = np.uint16([[[32896, 0, 0, 32896]]])
    for data in (
        tiff(np.moveaxis(deep, -1, 0), compression="zlib", **planes),
        tiff(premultiplied, compression="zlib", extrasamples=[1]),
    ):
        with pytest.raises(ImageError, match="of a kind that cannot be read"):
            decode_image(data, "x")


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("channels", [3, 1])
def test_a_deep_png_is_turned_upright_too(orientation, channels):
    exif = Image.Exif()
    exif[274] = orientation
    content = b"eXIf" + exif.tobytes()[6:]
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    plain = deep_png(deep[..., :channels])
    want = TURNS[orientation](PICTURE if channels == 3 else np.repeat(PICTURE[..., :1], 3, 2))
    np.testing.assert_array_equal(decode_image(plain[:33] + chunk + plain[33:], "turned"), want)  # after its header


def test_a_fourth_sample_of_no_known_meaning_is_no_alpha():
    data = tiff(np.uint16([[[FULL, 0, 0, 0]]]), extrasamples=[0])
    np.testing.assert_array_equal(decode_image(data, "x"), [[RED]])


def test_fractions_may_go_beyond_65535_and_never_to_infinity():
    data = tiff(np.array([[[0, 5e4, 1e5]]], np.float32))
    np.testing.assert_array_equal(decode_image(data, "x"), [[[0, 128, 255]]])
    with pytest.raises(ImageError, match="infinite or not a number"):
        decode_image(tiff(np.array([[[0, np.inf, 1]]], np.float32)), "x")


def test_a_mask_of_transparency_is_no_second_picture():
    np.testing.assert_array_equal(decode_image(tiff(PICTURE, PICTURE[..., 0] > 0, kinds=(0, 4)), "x"), PICTURE)


def test_the_largest_page_is_read_though_a_smaller_one_comes_first():
    large = np.arange(60, dtype=np.uint16).reshape(4, 5, 3)
    np.testing.assert_array_equal(decode_image(tiff(large[:2, :2], large), "x"), decode_image(tiff(large), "x"))


def test_a_jpeg_is_written_with_quality_75_as_in_2017():
    noisy = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert encode_jpeg(noisy) == encode_jpeg(noisy, 75) != encode_jpeg(noisy, 95)
