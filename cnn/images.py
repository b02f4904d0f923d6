"""One file, one picture: (height, width, 3) uint8, RGB from 0 to 255, whatever the scanner or the camera wrote.

Pillow reads TIFF, JPEG and PNG, but keeps the high byte only where a colour sample has 16 bits: a camera with 12 bits
then gives black pictures, silently. So samples of more than 8 bits are read whole, and scaled by these rules:

- integers: 255 stands for the smallest of 255, 1023, 4095, 16383 and 65535 that holds the picture's largest sample;
- floats: 255 stands for 1 where no sample is above 1, else for the largest sample;
- negative, infinite or missing (NaN) samples are refused, and so are integers above 65535.

Alpha (scaled by itself) is composited on white, the orientation of EXIF is obeyed, colour profiles are ignored. A TIFF
may hold smaller copies of its one picture (a pyramid, a thumbnail); with more than one picture it is refused. The
contents decide what a file is, not its name: a JPEG named .png is read, a GIF named .png is refused.
"""

import contextlib
import ctypes
import io
import logging
import lzma
import os
import sys
import threading
import warnings
import zlib

import numpy as np
import tifffile
from PIL import Image, ImageOps, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from cnn.errors import ImageError, ShapeError, UserError
from cnn.files import MOST_BYTES, read_file

MOST_PIXELS = 100_000_000  # a picture of 10,000 x 10,000: what claims more is a whole slide, or a decompression bomb
FULL_SCALES = (255, 1023, 4095, 16383, 65535)  # 8, 10, 12, 14 and 16 bits
FILTERS = {name: Image.Resampling[name.upper()] for name in ("nearest", "box", "bilinear", "bicubic", "lanczos")}

PLUGINS = (JpegImagePlugin, PngImagePlugin, TiffImagePlugin)  # imported so that Pillow need not load all of its own
STARTS = {"PNG": (b"\x89PNG\r\n\x1a\n",), "JPEG": (b"\xff\xd8\xff",), "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")}
STARTS |= {"it is a GIF": b"GIF8", "it is a BMP": b"BM", "it is a WebP": b"RIFF", "it is a PDF": b"%PDF"}
REDUCED_OR_MASK = 0b101  # bits of TIFF's NewSubfileType: a smaller copy of another page, a transparency mask
TIFFFILE_DECODES = (1, 8, 32946, 34925, 32773)  # compressions: none, Deflate (two numbers), LZMA, PackBits
INFLATES = {8: zlib.decompressobj, 32946: zlib.decompressobj, 34925: lzma.LZMADecompressor}
COLOURS = {0: (1, "L"), 1: (1, "L"), 2: (3, "RGB"), 5: (4, "CMYK")}  # TIFF's PhotometricInterpretation; 0: white is 0
OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}  # big, little, native endian
OVERSIZED = ("is over 100 million pixels, 1 GiB of samples or the free memory", "scale it down or cut it into tiles")
COPY_AGAIN = "copy it again, or take it out of the folder"
SAVE_AGAIN = "save it again as an 8-bit RGB TIFF or PNG, or take it out of the folder"

for _name in ("PIL", "tifffile"):
    logging.getLogger(_name).addHandler(logging.NullHandler())  # else Python prints their messages on stderr
with contextlib.suppress(OSError, AttributeError):  # libtiff, within Pillow, prints too; its errors are raised anyway
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)


class _Quiet:
    """Ignores warnings while any thread decodes; `warnings.catch_warnings` by itself is not safe with threads."""

    lock, inside = threading.Lock(), 0

    def __enter__(self):
        with self.lock:
            self.inside += 1
            if self.inside == 1:
                self.saved = warnings.catch_warnings(action="ignore")
                self.saved.__enter__()

    def __exit__(self, *error):
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self.saved.__exit__(*error)


_quiet = _Quiet()


def read_image(path: str | os.PathLike) -> np.ndarray:
    """The picture in a TIFF, JPEG or PNG file as (height, width, 3) uint8, by the rules on top of this file.

    Anything that cannot be used is an ImageError: it names the path, the reason and what to do.
    """
    return decode_image(read_file(path), path)


def decode_image(data: bytes, name: object) -> np.ndarray:
    """The picture in the bytes of a TIFF, JPEG or PNG file as (height, width, 3) uint8; `name` is for the ImageError.

    >>> decode_image(encode_jpeg(np.full((2, 3, 3), 200, np.uint8)), "grey.jpg")[1, 2]
    array([200, 200, 200], dtype=uint8)
    """
    try:
        with _quiet:
            return _decode(data, name)
    except ImageError:
        raise
    except (Image.DecompressionBombError, MemoryError):
        raise ImageError(name, *OVERSIZED) from None
    except Exception as error:  # the decoders raise whatever a damaged byte leads them to
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise ImageError(name, f"is damaged or cut short ({what})", SAVE_AGAIN) from None


def _decode(data: bytes, name: object) -> np.ndarray:
    """`decode_image`, before the errors of the decoders are translated."""
    if not data:
        raise ImageError(name, "is empty", COPY_AGAIN)
    kind = next((kind for kind, starts in STARTS.items() if data.startswith(starts)), f"it begins with {data[:8]!r}")
    if kind not in ("PNG", "JPEG", "TIFF"):
        raise ImageError(name, f"is no TIFF, JPEG or PNG inside: {kind}", SAVE_AGAIN)
    page, picture = _read_deep_tiff(data, name) if kind == "TIFF" else (0, None)
    picture = ImageOps.exif_transpose(picture or _read_with_pillow(data, kind, page, name))
    if picture.mode in ("La", "RGBa"):  # colours already multiplied by alpha
        picture = picture.convert(picture.mode[:-1] + "A")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if picture.getchannel("A").getextrema()[1] == 0:
            raise ImageError(name, "is wholly transparent", "save it without its alpha channel")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.array(picture.convert("RGB"))


def _read_deep_tiff(data: bytes, name: object) -> tuple[int, Image.Image | None]:
    """The index of a TIFF's one full page, and its picture if its samples are deep and tifffile can decode them."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        index = _full_page(file, name)
        page = file.pages[index]
        if page.imagewidth * page.imagelength * page.imagedepth > MOST_PIXELS or page.nbytes > MOST_BYTES:
            raise ImageError(name, *OVERSIZED)
        if page.compression not in TIFFFILE_DECODES:
            return index, None
        deep = page.bitspersample in (16, 32, 64)
        ends = [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts) if count]
        if len(ends) < np.prod(page.chunked) or (deep and max(ends) > len(data)):  # else its rest would be black
            raise ImageError(name, "is cut short", COPY_AGAIN)
        if not deep:
            return index, None
        _check_inflated(page, data, name)
        samples = page.asarray()
        if page.planarconfig == 2 and page.samplesperpixel > 1:
            samples = np.moveaxis(samples, 0, -1)
        picture = _eight_bit_picture(samples, page.photometric, page.extrasamples, name)
        picture.getexif()[274] = page.tags.valueof(274, 1)  # Orientation
        return index, picture


def _check_inflated(page: tifffile.TiffPage, data: bytes, name: object) -> None:
    """Refuses a strip or tile that holds more than its samples: a bomb, which tifffile would inflate whole."""
    decompressor = INFLATES.get(page.compression)
    if decompressor is None:
        return
    most = int(np.prod(page.chunks)) * page.bitspersample // 8
    for offset, count in zip(page.dataoffsets, page.databytecounts):
        if len(decompressor().decompress(data[offset : offset + count], most + 1)) > most:
            raise ImageError(name, "holds more than the samples that it tells of", SAVE_AGAIN)


def _full_page(file: tifffile.TiffFile, name: object) -> int:
    """The index of the only page that is no smaller copy: neither marked as one, nor half as wide with its aspect."""
    pages = file.pages[:100]
    full = [i for i, page in enumerate(pages) if not page.subfiletype & REDUCED_OR_MASK] or [0]
    best = max(full, key=lambda i: pages[i].imagewidth * pages[i].imagelength)
    width, height = pages[best].imagewidth, pages[best].imagelength
    for i in full:
        w, h = pages[i].imagewidth, pages[i].imagelength
        same_aspect = abs(w * height - h * width) <= max(width, height)  # but for a pixel
        if i != best and not (same_aspect and 2 * w <= width + 1 and 2 * h <= height + 1):
            raise ImageError(name, f"holds {len(file.pages)} pages", "split it into one file a page")
    return best


def _read_with_pillow(data: bytes, kind: str, page: int, name: object) -> Image.Image:
    """Pillow's picture, with deep samples brought to 8 bits."""

    def opened() -> Image.Image:  # reads the header only
        picture = Image.open(io.BytesIO(data), formats=(kind,))
        picture.seek(page)
        return picture

    def samples_as(picture: Image.Image, raw: str) -> np.ndarray:
        picture.tile = [t._replace(args=(raw, *(() if isinstance(t.args, str) else t.args[1:]))) for t in picture.tile]
        return np.asarray(ImageOps.exif_transpose(picture))

    try:
        picture = opened()
    except UnidentifiedImageError:
        raise ImageError(name, f"is a damaged {kind}, or one of a kind that cannot be read", SAVE_AGAIN) from None
    if picture.width * picture.height > MOST_PIXELS:
        raise ImageError(name, *OVERSIZED)
    if kind == "PNG" and picture.n_frames > 1:
        raise ImageError(name, f"holds {picture.n_frames} frames", "split it into one file a frame")
    tags = picture.tag_v2 if kind == "TIFF" else {}
    photometric, extra = tags.get(262, 1), ()
    raw = picture.tile[0].args if isinstance(picture.tile[0].args, str) else picture.tile[0].args[0]
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        native = kind == "TIFF" and sys.byteorder == "little"  # libtiff has swapped the bytes, which Pillow forgets
        samples = samples_as(picture, raw.replace("B", "") if native else raw)
    elif raw == "LA;16B":  # read as four bytes a pixel: grey high, grey low, alpha high, alpha low
        pairs, extra = samples_as(picture, "RGBA"), (2,)
        samples = np.uint16(256) * pairs[..., ::2] + pairs[..., 1::2]
    elif ";16" in raw:  # Pillow keeps the high byte; asked for the other byte order, it takes the low byte for it
        if raw.startswith("RGBa") or tags.get(284, 1) == 2:  # 284: PlanarConfiguration, 2 is one plane a channel
            raise ImageError(name, "is a compressed 16-bit TIFF of a kind that cannot be read", SAVE_AGAIN)
        low = samples_as(opened(), raw[:-1] + OTHER_ORDER[raw[-1]])
        samples = np.uint16(256) * samples_as(picture, raw) + low
        photometric, extra = (5, ()) if picture.mode == "CMYK" else (2, (2,))
    else:
        if kind == "TIFF" and picture.mode == "P" and max(tags[320]) < 256:  # ColorMap; Pillow expects 16 bits in it
            picture.load()
            picture.putpalette(bytes(tags[320]), "RGB;L")
        return picture
    return _eight_bit_picture(samples, photometric, extra, name)


def _eight_bit_picture(samples: np.ndarray, photometric: int, extra: tuple, name: object) -> Image.Image:
    """A Pillow picture of deep samples (height, width) or (height, width, channels); `extra` as TIFF's ExtraSamples."""
    samples, (count, mode) = np.atleast_3d(samples), COLOURS.get(photometric, (99, ""))
    if samples.ndim != 3 or samples.shape[2] < count or samples.dtype.kind not in "uif":
        raise ImageError(name, "holds samples that are neither grey, RGB nor CMYK", SAVE_AGAIN)
    colours = _to_eight_bits(samples[..., :count], name)
    colours = 255 - colours if photometric == 0 else colours
    if samples.shape[2] > count and extra and extra[0] in (1, 2):  # 1: alpha, colours multiplied by it; 2: plain alpha
        if mode == "CMYK":
            raise ImageError(name, "has an alpha channel beside CMYK, which cannot be read", SAVE_AGAIN)
        colours = np.concatenate([colours, _to_eight_bits(samples[..., count : count + 1], name)], axis=2)
        mode += "a" if extra[0] == 1 else "A"
    return Image.frombytes(mode, (samples.shape[1], samples.shape[0]), colours.tobytes())


def _to_eight_bits(samples: np.ndarray, name: object) -> np.ndarray:
    """Deep samples as uint8, by the rules on top of this file."""
    low, high = samples.min(), samples.max()
    if not np.isfinite(low) or not np.isfinite(high):  # a NaN is its array's minimum and maximum
        raise ImageError(name, "holds samples that are infinite or not a number", SAVE_AGAIN)
    if low < 0 or (high > FULL_SCALES[-1] and samples.dtype.kind != "f"):
        wanted = "0 or more" if samples.dtype.kind == "f" else "within 0 to 65535"
        raise ImageError(name, f"holds samples from {low:g} to {high:g}, not {wanted}", SAVE_AGAIN)
    if samples.dtype.kind == "f":
        return np.rint(samples / np.float64(max(high, 1)) * 255).astype(np.uint8)
    whole = min(scale for scale in FULL_SCALES if scale >= high)
    return ((np.arange(whole + 1) * 255 + whole // 2) // whole).astype(np.uint8)[samples]


def _checked(image: np.ndarray, function: str) -> np.ndarray:
    """`image` itself, if it is a picture as this file makes them."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ShapeError(function, f"{image.shape} {image.dtype}", "(height, width, 3) uint8")
    return image


def resize(
    image: np.ndarray, size: tuple[int, int], *, fit: str = "squash", filter: str = "bilinear", fill: int = 255
) -> np.ndarray:
    """`image`, (height, width, 3) uint8, brought to `size` = (height, width) in pixels.

    fit: "squash" stretches each side by its own factor; "pad" keeps the aspect and centres the picture on grey `fill`
    (0 to 255; 255 is the white of an empty slide); an odd margin is larger on the right or below. filter: "nearest",
    "box", "bilinear", "bicubic" or "lanczos", as in Pillow: on the way down all but nearest average over what they
    leave out. Raises UserError for an unknown choice.

    >>> resize(np.full((2, 4, 3), 9, np.uint8), (4, 4), fit="pad")[:, 0, 0]
    array([255,   9,   9, 255], dtype=uint8)
    """
    check_size(size, fit, filter)
    height, width = size
    picture = Image.fromarray(_checked(image, "resize"))
    if fit == "squash":
        return np.array(picture.resize((width, height), FILTERS[filter]))
    factor = min(height / picture.height, width / picture.width)
    inner = [min(most, max(1, round(side * factor))) for side, most in zip(picture.size, (width, height))]
    canvas = Image.new("RGB", (width, height), (fill, fill, fill))
    canvas.paste(picture.resize(inner, FILTERS[filter]), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return np.array(canvas)


def check_size(size: tuple[int, int], fit: str, filter: str) -> None:
    """Raises UserError unless `resize` can obey."""
    if len(size) != 2 or any(not isinstance(n, int) or not 1 <= n <= 20_000 for n in size):
        raise UserError(f"image size {tuple(size)}: give a height and a width, whole numbers of pixels from 1 to 20000")
    if fit not in ("squash", "pad"):
        raise UserError(f"fit {fit!r} is unknown; choose squash or pad")
    if filter not in FILTERS:
        raise UserError(f"filter {filter!r} is unknown; choose one of {', '.join(FILTERS)}")


def encode_jpeg(image: np.ndarray, quality: int = 75) -> bytes:
    """`image`, (height, width, 3) uint8, as the bytes of a JPEG file; quality from 1 to 95, and it loses detail."""
    stream = io.BytesIO()
    Image.fromarray(_checked(image, "encode_jpeg")).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def write_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes `image`, (height, width, 3) uint8, to a PNG file, without loss."""
    Image.fromarray(_checked(image, "write_png")).save(path, "PNG")
