"""Whatever a user calls a picture to an RGB picture, or a sentence that says why not."""

import asyncio
import base64
import errno
import io
import os
import re
import stat
import struct
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

import numpy as np
import torch
from huggingface_hub.utils import httpx


try:
    from PIL import (
        AvifImagePlugin,
        BmpImagePlugin,
        ExifTags,
        GifImagePlugin,
        Image,
        JpegImagePlugin,
        PngImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
    )
except ImportError as error:  # it is imported as PIL, but there is no such package to install
    raise ImportError("Pictures need Pillow: pip install pillow") from error


# Pillow's own limit: twice `Image.MAX_IMAGE_PIXELS`, from which on it warns of a decompression bomb. A phone's picture
# of 12000 x 9000 pixels has 108 million.
MAX_PIXELS = 178_956_970
# Rows or columns of a picture: one of 3 kB, 1 x 25,000,000, took almost three seconds.
MAX_SIDE = 1_000_000

# What people put on the web. Pillow knows some forty formats, each one a parser for a stranger's bytes. Left out are
# EPS (runs Ghostscript), PPM (decoded byte by byte in Python), ICO (decoded before its size is known) and the rest.
READERS = {
    "JPEG": JpegImagePlugin.JpegImageFile,  # MPO too: its first picture is a plain JPEG
    "PNG": PngImagePlugin.PngImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}
TURNS = {  # EXIF orientation to what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MAX_DOWNLOAD = 32 * 2**20  # bytes of a picture behind a URL
DOWNLOAD_SECONDS = 20.0
URL = re.compile(r"\s*[a-z][a-z0-9+.-]+://", re.IGNORECASE)
SVG = re.compile(rb"(\xef\xbb\xbf)?\s*(<(\?xml|!--|!doctype svg).*)?<svg\b", re.IGNORECASE | re.DOTALL)
HEAD = 1024  # bytes of a file that show what it is
MAX_PATH = 4096  # characters; Linux opens no longer path

# What no honest file needs, but a file of a few bytes can ask for: work that its pixels do not limit.
MAX_OPEN_READS = 4_000  # small reads before the first pixel: one and a half a marker, chunk or block of metadata
MAX_LOAD_READS = 30_000  # of pixels, and one more every 512 bytes of the file: PNG comes in chunks, TIFF in strips
MAX_STRIPS = 30_000  # of a TIFF: its reader makes an object of each
MAX_SCANS = 64  # of a JPEG: each one goes over all pixels; a progressive one has about ten
JPEG_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")  # that stands for itself: no filling, no restart
SOI, EOI, SOS, APP1 = b"\xff\xd8", b"\xff\xd9", b"\xff\xda", b"\xff\xe1"
EXIF = b"Exif\0\0"
TAG_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}  # by TIFF type
STRIP_TAGS = (273, 324)  # StripOffsets, TileOffsets


class ImageError(ValueError):
    """The picture cannot be used; the message says why in one sentence."""


def read_image(image: Any, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The RGB picture of a file, of bytes, of base64 text, of an array or of another picture.

    ```python
    >>> read_image("game.jpg").size
    (1200, 800)
    >>> read_image("gme.jpg")
    ImageError: 'gme.jpg' is neither a file nor base64 of a picture: check the path.
    ```

    It lies as its EXIF orientation says. Transparent pixels lie on white. Of an animation it is the first frame.

    16 bits become 8 by the higher byte. Modes I and F do not say what is white: it is 1 (F alone), 255 or 65535, the
    first of them that no pixel exceeds; where there is none, or a pixel is negative, black and white are the darkest
    and the lightest pixel. Colour profiles are ignored, as are other metadata: the result has none.

    A file that ends too soon is refused, unless someone has set Pillow's `ImageFile.LOAD_TRUNCATED_IMAGES`: then what
    is missing is grey or black.

    Refused too is what asks for much more work or memory than its pixels: a JPEG of more than 64 scans, thousands of
    chunks or blocks of metadata, tags that name the same bytes again and again, a BMP with run-length encoding.

    Args:
        image: one of
            a path (str or `os.PathLike`) of a JPEG, PNG, GIF, WebP, AVIF (where Pillow has it), BMP or TIFF file;
            bytes, bytearray or memoryview of such a file;
            base64 of such a file, bare or behind `data:image/...;base64,`;
            `{"bytes": ..., "path": ...}`, an image of the `datasets` library that is not decoded;
            a PIL image, which stays as it is;
            a numpy array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, uint16, bool or float in [0, 1];
            a torch tensor (1, H, W), (3, H, W) or (4, H, W) of the same types.
        max_pixels: most pixels, width times height. Larger pictures are refused before they are decoded. A GIF or TIFF
            file may not have more than Pillow's `Image.MAX_IMAGE_PIXELS` either, which is 89 million unless set.

    Returns:
        A new picture in mode RGB, of (W, H) pixels.

    Raises:
        ImageError: it is no picture, is broken, has no pixels or too many, or a side of more than 1,000,000.
    """
    if isinstance(image, Image.Image):
        return _to_rgb(image, "the PIL image", max_pixels)
    if isinstance(image, np.ndarray):
        return _read_array(image, "the array", max_pixels)
    if isinstance(image, torch.Tensor):
        return _read_tensor(image, max_pixels)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(bytes(image)), "the picture given as bytes", max_pixels)
    if isinstance(image, str):
        return _read_text(image, max_pixels)
    if isinstance(image, os.PathLike):
        return _read_file(os.fspath(image), max_pixels)
    if isinstance(image, Mapping):
        data, path = image.get("bytes"), image.get("path")
        if isinstance(data, (bytes, bytearray, memoryview)):
            name = "the picture given as bytes" if path is None else f"{path!r}"
            return _decode(io.BytesIO(bytes(data)), name, max_pixels)
        if data is None and isinstance(path, (str, os.PathLike)):
            return read_image(path, max_pixels)
        raise ImageError(
            f"the image dict holds {type(data).__name__} as bytes and {type(path).__name__} as path: give the bytes "
            "of a file, or None and its path."
        )
    raise ImageError(
        f"{type(image).__name__} is no picture: give a path, bytes, base64 text, a PIL image, an array or a tensor."
    )


def download(url: str, max_bytes: int = MAX_DOWNLOAD, seconds: float = DOWNLOAD_SECONDS) -> bytes:
    """The bytes of the picture behind a URL of http or https.

    Args:
        url: the address.
        max_bytes: most bytes.
        seconds: most time in all: for the address, redirects, headers and bytes.

    Raises:
        ImageError: it does not come, not in time, or is too large.
    """
    name = f"{url:.200}"
    thread = ThreadPoolExecutor(max_workers=1)  # of its own: a notebook runs its loop in the caller's
    try:
        fetched = thread.submit(asyncio.run, _fetch(url.strip(), name, max_bytes, seconds))
        return fetched.result(seconds + 1)  # one more, since to look up a host's name cannot be cut short
    except TimeoutError as error:
        raise ImageError(f"{name} did not come within {seconds:g} seconds: try again later.") from error
    finally:
        thread.shutdown(wait=False)


async def _fetch(url: str, name: str, max_bytes: int, seconds: float) -> bytes:
    """What `download` returns; TimeoutError where it takes too long."""
    data = bytearray()
    # As it is: a picture is compressed already, and what would unfold here could be of any size.
    unfolded = {"Accept-Encoding": "identity"}
    try:
        async with (
            asyncio.timeout(seconds),
            httpx.AsyncClient(timeout=None, follow_redirects=True, headers=unfolded) as client,
            client.stream("GET", url) as response,
        ):
            response.raise_for_status()
            async for chunk in response.aiter_raw():
                data += chunk
                if len(data) > max_bytes:
                    raise ImageError(f"{name} has more than {max_bytes} bytes: give a smaller picture.")
    except (ImageError, TimeoutError):
        raise
    except Exception as error:  # of httpx, and what an address that is none leads to below it
        reason = " ".join(str(getattr(error, "exceptions", [error])[0]).split()) or type(error).__name__
        raise ImageError(f"{name} cannot be downloaded ({reason}): check the address.") from error
    return bytes(data)


def _read_text(text: str, max_pixels: int) -> Image.Image:
    """The picture of a path or of base64 text."""
    name = repr(text) if len(text) <= 255 else f"{text[:40]!r}... ({len(text)} characters)"
    if URL.match(text):
        raise ImageError(f"{name} is a URL, and none is opened here: download the picture and give its path or bytes.")
    if text[:5].lower() == "data:":
        header, _, text = text.partition(",")
        if not header.lower().endswith(";base64"):
            raise ImageError(f"{name} is a data URL without base64: give data:image/...;base64, before the base64.")
    elif len(text) <= MAX_PATH and _may_be_file(text):
        return _read_file(text, max_pixels)
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        data = b""
    if _format(data[:HEAD]) is None and not SVG.match(data[:HEAD]):
        raise ImageError(f"{name} is neither a file nor base64 of a picture: check the path.")
    return _decode(io.BytesIO(data), "the picture given as base64", max_pixels)


def _may_be_file(text: str) -> bool:
    """Whether there is something at this path, or something that keeps us from seeing it."""
    try:
        os.stat(text)
    except ValueError:  # NUL, or a surrogate: no file name
        return False
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL)
    return True


def _read_file(path: str | bytes, max_pixels: int) -> Image.Image:
    name = repr(os.fsdecode(path))
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise ImageError(f"{name} is a folder: give the file of a picture.")
        if not stat.S_ISREG(mode):  # a pipe may keep us waiting for its writer, a device may have no end
            raise ImageError(f"{name} is a pipe, a socket or a device: give the file of a picture.")
        with open(path, "rb") as stream:
            return _decode(stream, name, max_pixels)
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # ValueError: NUL, or a surrogate
        raise ImageError(f"{name} cannot be read ({getattr(error, 'strerror', error)}): check the path.") from error


def _format(head: bytes) -> str | None:
    """The format whose files begin like this; it takes 16 bytes to know."""
    return next((name for name in READERS if (accept := Image.OPEN[name][1]) and accept(head)), None)


class _Metered:
    """A file whose reader may read so often only, and the file a few times over.

    Pillow parses what stands before the pixels in Python, piece by piece, and believes every count and offset in it.
    """

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self.size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        self.reads_left = MAX_OPEN_READS
        self._bytes_left = 4 * self.size + 2**20

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.reads_left -= 1
        self._bytes_left -= len(data)
        if self.reads_left < 0 or self._bytes_left < 0:
            raise ValueError("it has too many parts")
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _check_jpeg(data: bytes):
    """ValueError if decoding a JPEG would go over its pixels too often, or its EXIF block is a bomb."""
    at, markers, scans, exif = len(SOI), 0, 0, []
    while found := JPEG_MARKER.search(data, at):
        marker, start = found[0], found.end()
        if marker in (SOI, EOI):  # where libjpeg stops
            break
        at = start + max(int.from_bytes(data[start : start + 2]), 2)
        if marker == APP1 and data.startswith(EXIF, start + 2):
            exif.append(data[start + 2 + len(EXIF) : at])  # Pillow makes one of them
        markers += 1
        scans += marker == SOS
        if scans > MAX_SCANS or markers > MAX_OPEN_READS:
            raise ValueError("it has too many scans or markers")
    if exif:
        _check_exif(b"".join(exif))


def _check_exif(exif: bytes):
    """ValueError if an EXIF block is a bomb."""
    exif = exif.removeprefix(EXIF)
    if exif.startswith(EXIF):  # Pillow takes one away after the other, and copies the rest each time
        raise ValueError("its EXIF block begins twice")
    _check_directory(io.BytesIO(exif))


def _check_directory(stream: BinaryIO):
    """ValueError if the first directory of a TIFF file or EXIF block is a bomb: Pillow copies what each tag names."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    head = stream.read(16)
    order = "<" if head[:2] == b"II" else ">"
    is_big = 43 in head[2:4]  # BigTIFF
    start, count, entry = ("Q", "Q", "HHQQ") if is_big else ("I", "H", "HHII")
    width = struct.calcsize(order + entry)
    try:
        stream.seek(struct.unpack_from(order + start, head, 8 if is_big else 4)[0])
        [number] = struct.unpack(order + count, stream.read(struct.calcsize(order + count)))
        table = stream.read(min(number, 2**16) * width)
    except (struct.error, ValueError, OverflowError, OSError):  # there is none: the reader will say so
        table = b""
    stream.seek(0)
    named = 0
    for tag, kind, number, offset in struct.iter_unpack(order + entry, table[: len(table) // width * width]):
        if tag in STRIP_TAGS and number > MAX_STRIPS:
            raise ValueError(f"it has {number} strips or tiles")
        length = number * TAG_BYTES.get(kind, 0)
        named += length if offset + length <= size else 0
    if named > 2 * size + HEAD:
        raise ValueError("its tags name more bytes than there are")


def _decode(stream: BinaryIO, name: str, max_pixels: int) -> Image.Image:
    """The picture of an encoded file."""
    head = stream.read(HEAD)
    stream.seek(0)
    if not head:
        raise ImageError(f"{name} is empty: save or download the picture anew.")
    if SVG.match(head):
        raise ImageError(f"{name} is an SVG drawing, which has no pixels: save it as PNG.")
    format = _format(head)
    if format is None:
        raise ImageError(f"{name} is no JPEG, PNG, GIF, WebP, AVIF, BMP or TIFF: save the picture as one of them.")
    if format in ("GIF", "TIFF") and Image.MAX_IMAGE_PIXELS is not None:
        # Their readers look at this global themselves. They would warn, and no warning can be silenced for one thread.
        max_pixels = min(max_pixels, Image.MAX_IMAGE_PIXELS)
    metered = _Metered(stream)
    picture = _open(format, metered, name)
    metered.reads_left = MAX_LOAD_READS + metered.size // 512
    return _to_rgb(picture, name, max_pixels)


def _open(format: str, stream: Any, name: str) -> Image.Image:
    """The picture, not decoded yet, of a `_Metered`."""
    try:
        if format == "JPEG":
            _check_jpeg(stream.read())
            stream.seek(0)
        elif format == "TIFF":
            _check_directory(stream)
        elif format == "AVIF" and AvifImagePlugin.SUPPORTED:
            # Its reader parses the EXIF block at once, and only the decoder knows where that lies.
            _check_exif(AvifImagePlugin._avif.AvifDecoder(stream.read(), "auto", 1).get_info()[4] or b"")
            stream.seek(0)
        # Not `Image.open`: above the global `Image.MAX_IMAGE_PIXELS` it warns, and above twice that it does not tell
        # width and height.
        picture = READERS[format](stream)
    except Image.DecompressionBombError as error:  # a WebP so large that its reader does not even open it
        raise ImageError(f"{name} has too many pixels ({error}): make it smaller.") from error
    except Exception as error:  # see `_to_rgb`
        raise _undecodable(name, error) from error
    if picture.tile and picture.tile[0].codec_name == "bmp_rle":
        # Decoded in Python, and one step of it can ask for 255 times the width: gigabytes.
        raise ImageError(f"{name} is a BMP with run-length encoding, which is not read here: save it as PNG.")
    return picture


def _undecodable(name: str, error: Exception) -> ImageError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ImageError(f"{name} cannot be decoded ({reason}): save or download the picture anew.")


def _check_size(width: int, height: int, name: str, max_pixels: int):
    if width * height == 0:
        raise ImageError(f"{name} has {width} x {height} pixels: give at least one.")
    if width * height > max_pixels:
        raise ImageError(f"{name} has {width} x {height} pixels, the limit is {max_pixels} in all: make it smaller.")
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"{name} has {width} x {height} pixels, the limit of a side is {MAX_SIDE}: make it smaller.")


def _to_rgb(picture: Image.Image, name: str, max_pixels: int) -> Image.Image:
    """A new picture in mode RGB, upright and opaque, without metadata; `picture` need not be decoded yet."""
    _check_size(*picture.size, name, max_pixels)
    try:
        picture.load()
        turn = _turn(picture)
        picture = _opaque(_eight_bits(picture))  # one name: a large original is gone before its copy is turned
        return picture if turn is None else picture.transpose(turn)
    # On hostile bytes Pillow raises OSError, SyntaxError and ValueError by intention, and whatever else goes wrong in
    # its readers: struct.error, zlib.error, IndexError, KeyError, OverflowError, MemoryError, ... No list would stay
    # complete, and to a user all of it means the same.
    except Exception as error:
        raise _undecodable(name, error) from error


def _turn(picture: Image.Image) -> Image.Transpose | None:
    """What makes the picture upright; None where it is, or where its EXIF block is broken."""
    # Not `ImageOps.exif_transpose`: it writes the EXIF block anew, and fails where any tag of it is odd.
    try:
        text = picture.info.get("Raw profile type exif", "")  # of a PNG, as ImageMagick writes it
        _check_exif(picture.info.get("exif") or bytes.fromhex("".join(text.split("\n")[3:])))
        return TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # the pixels are fine all the same
        return None


def _eight_bits(picture: Image.Image) -> Image.Image:
    """A picture of more bits as greys of 8; any other as it is."""
    if not picture.mode.startswith(("I", "F")):
        return picture
    values = np.asarray(picture)  # (H, W)
    if picture.mode.startswith("I;16"):
        grey = (values >> 8).astype(np.uint8)  # the higher byte, as Pillow does with 16 bits a colour
        if "transparency" in picture.info:
            grey[values == picture.info["transparency"]] = 255
        return Image.fromarray(grey)
    black, white = float(values.min()), float(values.max())
    if not np.isfinite([black, white]).all():
        raise ValueError("its pixels hold NaN or infinite values")
    for full in (1, 255, 65535) if picture.mode == "F" else (255, 65535):
        if black >= 0 and white <= full:
            black, white = 0, full
            break
    values = values.astype(np.float64)
    values -= black
    values *= 255 / ((white - black) or 1)
    return Image.fromarray(np.rint(values, out=values).astype(np.uint8))


def _opaque(picture: Image.Image) -> Image.Image:
    """The picture in mode RGB, laid on white, without metadata."""
    if not picture.has_transparency_data:
        rgb = picture.convert("RGB")
        rgb.info.clear()
        return rgb
    if picture.mode == "P":  # `convert` writes the transparency into the palette of the original
        picture = picture.copy()
    if picture.mode not in ("LA", "RGBA"):
        picture = picture.convert("LA" if picture.mode == "La" else "RGBA")
    rgb = Image.new("RGB", picture.size, "white")
    rgb.paste(picture, mask=picture)
    return rgb


def _read_tensor(tensor: torch.Tensor, max_pixels: int) -> Image.Image:
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3, 4):
        raise ImageError(f"the tensor has the shape {tuple(tensor.shape)}: give (1, H, W), (3, H, W) or (4, H, W).")
    try:
        tensor = tensor.detach().cpu().permute(1, 2, 0)  # (H, W, C)
        array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()  # numpy has no bfloat16
    except Exception as error:  # sparse, quantized, on the meta device, ...
        raise ImageError(f"the tensor cannot be read ({type(error).__name__}): give a dense one.") from error
    return _read_array(array, "the tensor", max_pixels)


def _read_array(array: np.ndarray, name: str, max_pixels: int) -> Image.Image:
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,), (4,)):
        raise ImageError(f"{name} has the shape {array.shape}: give (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).")
    _check_size(array.shape[1], array.shape[0], name, max_pixels)
    array = array[..., 0] if array.shape[2:] == (1,) else array
    if array.dtype.kind == "f":
        low, high = array.min(), array.max()
        if np.isnan(low):
            raise ImageError(f"{name} holds NaN: give values in [0, 1].")
        if low < 0 or high > 1:
            raise ImageError(f"{name} holds values from {low:g} to {high:g}: scale them to [0, 1], or give uint8.")
        array = array.astype(np.float32)
        array *= 255
        np.rint(array, out=array)
    elif array.dtype == bool:
        array = array * np.uint8(255)
    elif array.dtype.kind == "u" and array.dtype.itemsize == 2:
        array = array >> 8
    elif array.dtype != np.uint8:
        raise ImageError(f"{name} has the dtype {array.dtype}: give uint8, uint16, bool, or float in [0, 1].")
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array, np.uint8)), name, max_pixels)


__all__ = ["MAX_PIXELS", "URL", "ImageError", "download", "read_image"]
