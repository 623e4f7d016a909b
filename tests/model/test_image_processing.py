"""Pictures: whatever a user calls one becomes an RGB picture, or a sentence that says why not."""

import base64
import contextlib
import io
import os
import re
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from PIL import AvifImagePlugin, Image, ImageCms, ImageFile, PngImagePlugin, features

from image_processing_hamlearning import MAX_PIXELS, MAX_SIDE, ImageError, download, read_image


RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)
AVIF = pytest.param("AVIF", marks=pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF"))
IS_PILLOW_12 = PIL.__version__.startswith("12.")  # the newest that Gradio takes
FORMATS = ["JPEG", "PNG", "GIF", "WEBP", AVIF, "BMP", "TIFF"]


def encode(picture, format, **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


def pixels(image) -> list:
    """All pixels of what `read_image` makes of it, row by row."""
    picture = read_image(image)
    assert picture.mode == "RGB"
    return np.asarray(picture).tolist()


def refusal(image, **options) -> str:
    """The sentence with which `read_image` refuses: one line, one full stop, fit for a report."""
    with pytest.raises(ImageError) as error:
        read_image(image, **options)
    message = str(error.value)
    assert message.endswith(".") and message.isprintable() and "object at" not in message
    return message


def confetti(width=40, height=24, seed=0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def png(width, height, depth, color_type, rows=b"", *chunks) -> bytes:
    """A PNG file with what Pillow does not write: a header that lies, 16 bits with transparency."""
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


# ------------------------------------------------------------------------------------------------- kinds of pictures


class OwnPath:
    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return self.path


@pytest.fixture
def kinds(tmp_path):
    """One picture, in each way a user may give it."""
    picture = confetti()
    array = np.asarray(picture)
    data = encode(picture, "PNG")
    text = base64.b64encode(data).decode()
    path = tmp_path / "ünï cödé.png"
    path.write_bytes(data)
    return {
        "PIL image": picture,
        "lazy PIL image": Image.open(io.BytesIO(data)),
        "str path": str(path),
        "Path": path,
        "PathLike of str": OwnPath(str(path)),
        "PathLike of bytes": OwnPath(os.fsencode(path)),
        "bytes": data,
        "bytearray": bytearray(data),
        "memoryview": memoryview(data),
        "memoryview with steps": memoryview(bytes(byte for byte in data for _ in range(2)))[::2],
        "base64": text,
        "base64 in lines": "\n".join(text[start : start + 76] for start in range(0, len(text), 76)) + "\n",
        "data URL": "data:image/png;base64," + text,
        "data URL in capitals": "DATA:IMAGE/PNG;BASE64," + text,
        "data URL without a type": "data:;base64," + text,
        "dict with bytes": {"bytes": data, "path": None},
        "dict with bytes and a name": {"bytes": data, "path": "elsewhere.png"},
        "dict with a path": {"bytes": None, "path": str(path)},
        "dict with a Path": {"path": path},
        "array": array,
        "array of floats": array / 255,
        "array, read backwards": np.ascontiguousarray(array[::-1, ::-1])[::-1, ::-1],
        "array in Fortran order": np.asfortranarray(array),
        "tensor": torch.from_numpy(array.copy()).permute(2, 0, 1),
        "contiguous tensor of floats": (torch.from_numpy(array.copy()).permute(2, 0, 1) / 255).contiguous(),
        "tensor that takes a gradient": (torch.from_numpy(array.copy()).permute(2, 0, 1) / 255).requires_grad_(),
    }


def test_one_picture_is_the_same_in_every_kind(kinds):
    expected = np.asarray(confetti()).tolist()
    assert [name for name, kind in kinds.items() if pixels(kind) != expected] == []


def test_a_picture_that_was_read_reads_as_the_same(kinds):
    picture = read_image(kinds["bytes"])
    assert pixels(picture) == np.asarray(picture).tolist()


@pytest.mark.parametrize("kind", ["PIL image", "array", "array of floats", "tensor"])
def test_to_draw_on_the_result_leaves_what_was_given(kinds, kind):
    before = pixels(kinds[kind])
    read_image(kinds[kind]).paste(RED, (0, 0, 40, 24))
    assert pixels(kinds[kind]) == before


@pytest.mark.parametrize("transparency", [3, bytes(range(0, 256, 8))])
def test_a_pil_image_with_a_palette_stays_as_it_is(transparency):
    picture = confetti().quantize(32)
    picture.info["transparency"] = transparency
    read_image(picture)
    assert (picture.mode, picture.info["transparency"], picture.im.getpalettemode()) == ("P", transparency, "RGB")


def test_the_result_is_a_plain_picture_without_metadata():
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = read_image(encode(confetti(), "JPEG", exif=exif, icc_profile=profile, comment=b"words", dpi=(72, 72)))
    assert (type(picture), picture.info, dict(picture.getexif())) == (Image.Image, {}, {})


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "NoneType is no picture: give a path"),
        (7, "int is no picture"),
        (["game.jpg"], "list is no picture"),
        (io.BytesIO(b"x"), "BytesIO is no picture"),
        ({}, "the image dict holds NoneType as bytes and NoneType as path"),
        ({"bytes": None, "path": None}, "the image dict holds NoneType as bytes and NoneType as path"),
        ({"bytes": {"bytes": b""}}, "the image dict holds dict as bytes"),
        ({"bytes": None, "path": {"path": "game.jpg"}}, "and dict as path"),
        ({"bytes": "game.jpg"}, "the image dict holds str as bytes"),
    ],
)
def test_what_is_no_picture_at_all_is_named_by_its_type(image, message):
    assert message in refusal(image)


# ------------------------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize(
    "url",
    ["https://pbs.twimg.com/media/a.jpg", "HTTP://a/b.png", " https://a/b", "s3://a/b.png", "file:///tmp/a.png"],
)
def test_a_url_is_not_opened(url):
    assert (
        refusal(url) == f"{url!r} is a URL, and none is opened here: download the picture and give its path or bytes."
    )


def test_a_url_in_an_image_dict_is_not_opened():
    assert "is a URL" in refusal({"bytes": None, "path": "https://a/b.png"})


@pytest.mark.parametrize(
    "text",
    [
        "gme.jpg",
        "",
        "no/such/folder/game.jpg",
        "game\0.jpg",
        "\ud800.jpg",
        "x" * 300,  # too long for a file's name
        "abcd",  # base64, of three bytes that are no picture
        "/9j/4AAQ?",
        "data:image/png;base64,!!!!",
        "data:image/png;base64,",
        base64.b64encode(b"some words").decode(),
    ],
)
def test_text_that_is_neither_a_file_nor_base64_is_named(text):
    name = repr(text) if len(text) < 300 else f"{text[:40]!r}... (300 characters)"
    assert refusal(text) == f"{name} is neither a file nor base64 of a picture: check the path."


def test_a_file_below_a_file_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    assert "is neither a file nor base64" in refusal(str(tmp_path / "a.png" / "b.png"))


def test_a_data_url_without_base64_is_named():
    assert "is a data URL without base64" in refusal("data:image/svg+xml,%3Csvg%3E")


def test_a_file_goes_before_base64(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = base64.b64encode(png(1, 1, 1, 0, b"\0\0")).decode().replace("/", "+")
    Path(text).write_bytes(encode(Image.new("RGB", (1, 1), RED), "PNG"))
    assert pixels(text) == [[list(RED)]]


def test_a_megabyte_of_base64_is_read_at_once_and_is_not_looked_up_as_a_file(monkeypatch):
    def stat(path):
        raise AssertionError("looked up as a file")

    picture = confetti(700, 400)
    text = base64.b64encode(encode(picture, "PNG", compress_level=0)).decode()
    garbage = "A" * 2**20
    assert len(text) > 2**20
    monkeypatch.setattr(os, "stat", stat)
    started = time.process_time()
    read = read_image(text)
    message = refusal(garbage)
    assert time.process_time() - started < 2
    assert read.tobytes() == picture.tobytes()
    assert message.startswith(f"'{'A' * 40}'... (1048576 characters) is neither")


# ------------------------------------------------------------------------------------------------------------ files


def unreadable(tmp_path) -> dict:
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "circle.jpg").symlink_to(tmp_path / "circle.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")  # to open one waits for its other end
    return {
        "missing.jpg": "cannot be read (No such file or directory): check the path.",
        "dangling.jpg": "cannot be read (No such file or directory): check the path.",
        "circle.jpg": "cannot be read (Too many levels of symbolic links): check the path.",
        "nul\0.jpg": "cannot be read (embedded null byte): check the path.",
        "empty.jpg": "is empty: save or download the picture anew.",
        "": "is a folder: give the file of a picture.",
        "pipe.jpg": "is a pipe, a socket or a device: give the file of a picture.",
        "/dev/zero": "is a pipe, a socket or a device: give the file of a picture.",
    }


def test_a_path_that_cannot_be_read_is_named_as_it_was_given(tmp_path):
    for name, message in unreadable(tmp_path).items():
        path = tmp_path / name
        assert refusal(path) == f"{str(path)!r} {message}"


def test_a_path_as_text_is_refused_like_one_as_path(tmp_path):
    for name in unreadable(tmp_path).keys() - {"missing.jpg", "dangling.jpg", "nul\0.jpg"}:
        path = tmp_path / name
        assert refusal(str(path)) == refusal(path)


def test_a_path_of_bytes_is_named_as_text():
    assert refusal(OwnPath("gäme.jpg".encode())).startswith("'gäme.jpg' cannot be read (")


def test_bytes_in_an_image_dict_are_named_by_their_path():
    assert refusal({"bytes": b"words", "path": "game.jpg"}).startswith("'game.jpg' is no JPEG")


def test_a_relative_path_is_named_without_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("half.png").write_bytes(encode(confetti(), "PNG")[:500])
    assert refusal(Path("half.png")).startswith("'half.png' cannot be decoded (")


@pytest.fixture
def no_privileges(tmp_path):
    """Root may read everything, so the test is somebody else."""
    for folder in (tmp_path.parents[1], tmp_path.parent, tmp_path):
        folder.chmod(0o755)
    privileged = os.geteuid() == 0
    if privileged:
        os.seteuid(65534)
    yield
    if privileged:
        os.seteuid(0)


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("locked", ["file", "folder"])
def test_a_file_without_permission_is_named(tmp_path, request, kind, locked):
    path = tmp_path / "locked" / "game.png"
    path.parent.mkdir(mode=0o755)
    path.write_bytes(encode(confetti(), "PNG"))
    (path if locked == "file" else path.parent).chmod(0)
    request.getfixturevalue("no_privileges")
    message = refusal(kind(path))
    assert message == f"{str(path)!r} cannot be read (Permission denied): check the path."


def test_a_symbolic_link_to_a_picture_is_followed(tmp_path):
    confetti().save(tmp_path / "game.png")
    (tmp_path / "link.png").symlink_to("game.png")
    assert pixels(tmp_path / "link.png") == pixels(confetti())


def test_the_suffix_does_not_count(tmp_path):
    (tmp_path / "game.jpg").write_bytes(encode(confetti(), "PNG"))
    assert pixels(tmp_path / "game.jpg") == pixels(confetti())


@pytest.mark.parametrize(
    "data",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\xef\xbb\xbf\n<?xml version='1.0'?>\n<!-- drawn -->\n<svg>",
        b"<!DOCTYPE svg PUBLIC '-//W3C//DTD SVG 1.1//EN'>\n<SVG>",
    ],
)
def test_an_svg_drawing_is_named(data):
    expected = "is an SVG drawing, which has no pixels: save it as PNG."
    assert refusal(data).endswith(expected)
    assert refusal("data:image/svg+xml;base64," + base64.b64encode(data).decode()).endswith(expected)


@pytest.mark.parametrize("format", ["EPS", "PDF", "PPM", "ICO", "TGA", "JPEG2000"])
def test_other_formats_are_not_even_tried(format):
    assert "is no JPEG, PNG, GIF, WebP, AVIF, BMP or TIFF" in refusal(encode(confetti(), format))


# ---------------------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"compression": "packbits"}),
        ("TIFF", {"big_tiff": True}),
    ],
)
def test_lossless_formats_keep_every_pixel(tmp_path, format, options):
    data = encode(confetti(), format, **options)
    (tmp_path / "game").write_bytes(data)
    assert pixels(data) == pixels(tmp_path / "game") == pixels(confetti())


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"subsampling": "4:2:0", "quality": 90}),
        ("WEBP", {}),
        pytest.param("AVIF", {}, marks=AVIF.marks),
        ("TIFF", {"compression": "jpeg"}),
    ],
)
def test_lossy_formats_keep_the_colours(format, options):
    picture = Image.new("RGB", (64, 32), (200, 30, 90))
    picture.paste((20, 160, 220), (32, 0, 64, 32))
    read = np.asarray(read_image(encode(picture, format, **options)), np.int64)[:, [*range(24), *range(40, 64)]]
    assert np.abs(read - np.asarray(picture, np.int64)[:, [*range(24), *range(40, 64)]]).max() <= 8


@pytest.mark.parametrize("format", ["PNG", "GIF", "TIFF", "BMP"])
def test_a_palette_gives_its_colours(format):
    picture = confetti().quantize(64)
    assert pixels(encode(picture, format)) == np.asarray(picture.convert("RGB")).tolist()


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "GIF"])
def test_one_bit_is_black_or_white(format):
    bits = np.random.default_rng(0).random((9, 13)) < 0.5
    data = encode(Image.fromarray(bits), format)
    assert pixels(data) == np.repeat(bits[..., None] * 255, 3, axis=2).tolist()


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "GIF"])
def test_grey_is_three_equal_colours(format):
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    assert pixels(encode(grey, format)) == [[[16 * y + x] * 3 for x in range(16)] for y in range(16)]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_small_and_narrow_pictures_are_read(format, size):
    picture = read_image(encode(Image.new("RGB", size, WHITE), format))
    assert picture.size == size
    assert picture.getextrema() == ((255, 255),) * 3


def test_avif_without_its_codec_is_named(monkeypatch):
    monkeypatch.setattr(AvifImagePlugin, "SUPPORTED", False)
    assert "AVIF support not installed" in refusal(b"\0\0\0\x20ftypavif" + bytes(20))


# --------------------------------------------------------------------------------------------------------- animation


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", AVIF, "TIFF", "MPO"])
def test_of_several_pictures_the_first_is_read(format):
    first, second = (Image.new("RGB", (32, 32), color) for color in (RED, BLUE))
    data = encode(first, format, save_all=True, append_images=[second])
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 2
    picture = read_image(data)
    assert np.abs(np.asarray(picture, np.int64) - RED).max() <= 8
    assert picture.getpixel((16, 16))[0] > 240


def test_a_first_frame_smaller_than_its_gif_lies_on_white():
    picture = Image.new("P", (8, 8), 0)
    picture.putpalette([*RED, *BLUE])
    data = bytearray(encode(picture, "GIF", transparency=1))
    struct.pack_into("<HH", data, 6, 16, 16)  # the canvas, now larger than its frame
    read = read_image(bytes(data))
    assert (read.size, read.getpixel((2, 2)), read.getpixel((12, 12))) == ((16, 16), RED, WHITE)


# ------------------------------------------------------------------------------------------------------- orientation

# By the EXIF standard: where the first row and the first column of what is stored are seen.
AS_SEEN = {
    1: lambda a: a,  # top, left
    2: lambda a: a[:, ::-1],  # top, right
    3: lambda a: a[::-1, ::-1],  # bottom, right
    4: lambda a: a[::-1],  # bottom, left
    5: lambda a: a.transpose(1, 0, 2),  # left, top
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],  # right, top
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],  # right, bottom
    8: lambda a: a.transpose(1, 0, 2)[::-1],  # left, bottom
}


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("orientation", AS_SEEN)
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_a_picture_is_turned_as_its_exif_says(format, orientation):
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(confetti(5, 3), format, exif=oriented(orientation), **options)
    assert pixels(data) == AS_SEEN[orientation](np.asarray(confetti(5, 3))).tolist()


@pytest.mark.parametrize("format", ["JPEG", AVIF])
def test_a_phone_held_upright_gives_an_upright_picture(format):
    stored = Image.new("RGB", (64, 32), BLUE)
    stored.paste(RED, (0, 0, 16, 16))  # stored at the top left, seen at the top right
    picture = read_image(encode(stored, format, exif=oriented(6), quality=95))
    assert picture.size == (32, 64)
    assert picture.getpixel((26, 5))[0] > 200
    assert picture.getpixel((5, 5))[0] < 50


def test_a_pil_image_is_turned_once():
    lazy = Image.open(io.BytesIO(encode(confetti(5, 3), "PNG", exif=oriented(6))))
    expected = AS_SEEN[6](np.asarray(confetti(5, 3))).tolist()
    assert pixels(read_image(lazy)) == pixels(lazy) == expected


@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_picture_with_a_broken_exif_block_lies_as_it_is_stored(exif):
    assert pixels(encode(confetti(5, 3), "PNG", exif=exif)) == pixels(confetti(5, 3))


def test_an_odd_tag_beside_the_orientation_does_not_hide_it():
    tags = struct.pack("<HHI4sHHI4s", 0x0101, 7, 4, b"wide", 0x0112, 3, 1, b"\6\0\0\0")  # a height of four letters
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + tags + bytes(4)
    assert read_image(encode(confetti(5, 3), "PNG", exif=exif)).size == (3, 5)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_none(orientation):
    assert pixels(encode(confetti(5, 3), "PNG", exif=oriented(orientation))) == pixels(confetti(5, 3))


# ------------------------------------------------------------------------------------------------------ transparency


def glass(mode: str) -> Image.Image:
    """Three pixels: invisible, half visible, visible. They are black below, or red where the mode has colours."""
    rgba = Image.new("RGBA", (3, 1))
    color = (0, 0, 0) if mode in ("LA", "La") else RED
    for x, alpha in enumerate((0, 128, 255)):
        rgba.putpixel((x, 0), (*color, alpha))
    if mode == "P":
        palette = Image.new("P", (3, 1))
        palette.putdata([0, 1, 2])
        palette.putpalette([*color] * 3)
        palette.info["transparency"] = bytes([0, 128, 255])
        return palette
    return rgba.convert("LA").convert("La") if mode == "La" else rgba.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La", "PA", "P"])
def test_transparent_pixels_lie_on_white(mode):
    invisible, half, visible = pixels(glass(mode))[0]
    darkest = 0 if mode in ("LA", "La") else 255
    assert invisible == list(WHITE)
    assert visible == [darkest, 0, 0]
    assert half == pytest.approx([(255 + darkest) / 2, 127.5, 127.5], abs=1)


@pytest.mark.parametrize(
    ("mode", "format"),
    [("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGBA", "WEBP"), ("RGBA", "TIFF"), ("LA", "TIFF")],
)
def test_transparency_is_read_from_files(mode, format):
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    assert pixels(encode(glass(mode), format, **options)) == pixels(glass(mode))


def test_a_palette_that_has_alpha_itself_lies_on_white():
    picture = Image.new("P", (2, 1))
    picture.putdata([0, 1])
    picture.putpalette([*RED, 0, *RED, 255], "RGBA")
    assert pixels(picture) == [[list(WHITE), list(RED)]]


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_the_transparent_entry_of_a_palette_is_white(format):
    picture = Image.new("P", (2, 1))
    picture.putdata([0, 1])
    picture.putpalette([*RED, *BLUE])
    assert pixels(encode(picture, format, transparency=0)) == [[list(WHITE), list(BLUE)]]


@pytest.mark.parametrize(
    ("depth", "color_type", "row", "key", "visible"),
    [
        (1, 0, b"\x40", b"\0\0", WHITE),  # 0 1, and 0 is transparent
        (8, 0, b"\x07\x09", b"\0\x07", (9, 9, 9)),
        (16, 0, b"\x07\x01\x07\x02", b"\x07\x01", (7, 7, 7)),  # told apart by the lower byte
        (8, 2, b"\x01\x02\x03\x01\x02\x04", b"\0\x01\0\x02\0\x03", (1, 2, 4)),
    ],
)
def test_the_transparent_colour_of_a_png_is_white(depth, color_type, row, key, visible):
    data = png(2, 1, depth, color_type, b"\0" + row, (b"tRNS", key))
    assert pixels(data) == [[list(WHITE), list(visible)]]


# ---------------------------------------------------------------------------------------------------- more than 8 bits

RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)


def ramps() -> dict:
    grey16 = Image.frombytes("I;16", (256, 256), RAMP.tobytes())
    return {
        "uint16": RAMP,
        "uint16, big-endian": RAMP.astype(">u2"),
        "uint16, (H, W, 1)": RAMP[..., None],
        "I;16": grey16,
        "I;16L": Image.frombytes("I;16L", (256, 256), RAMP.astype("<u2").tobytes()),
        "I;16B": Image.frombytes("I;16B", (256, 256), RAMP.astype(">u2").tobytes()),
        "I;16N": Image.frombytes("I;16N", (256, 256), RAMP.tobytes()),
        "I": Image.fromarray(RAMP.astype(np.int32)),
        "I beyond 16 bits": Image.fromarray((RAMP.astype(np.int64) * 65535 - 2**31).astype(np.int32)),
        "F up to 1": Image.fromarray((RAMP / 65535).astype(np.float32)),
        "F up to 65535": Image.fromarray(RAMP.astype(np.float32)),
        "F below 0": Image.fromarray(((RAMP - 30000.0) * 1e30).astype(np.float32)),
        "16-bit PNG": encode(grey16, "PNG"),
        "16-bit TIFF": encode(grey16, "TIFF"),
        "16-bit TIFF, LZW": encode(grey16, "TIFF", compression="tiff_lzw"),
        "32-bit TIFF": encode(Image.fromarray(RAMP.astype(np.int32)), "TIFF"),
        "float TIFF": encode(Image.fromarray((RAMP / 65535).astype(np.float32)), "TIFF"),
        "RGB of 16 bits": png(
            256, 256, 16, 2, b"".join(b"\0" + np.repeat(r, 3).astype(">u2").tobytes() for r in RAMP)
        ),
    }


@pytest.mark.parametrize("name", ramps())
def test_more_bits_are_scaled_to_8_and_not_clipped(name):
    grey = np.asarray(read_image(ramps()[name]), np.int64)
    assert (grey == grey[..., :1]).all()
    ramp = grey[..., 0].ravel()
    assert (ramp[0], ramp[-1]) == (0, 255)
    assert set(np.diff(ramp)) == {0, 1}
    assert np.abs(ramp - np.linspace(0, 255, 65536)).max() <= 1


@pytest.mark.parametrize(
    ("values", "mode", "expected"),
    [
        ([0, 1, 2, 255], "I", [0, 1, 2, 255]),  # what `convert("I")` makes of 8 bits
        ([0, 256, 512, 514], "I", [0, 1, 2, 2]),
        ([-1, 0, 1, 1], "I", [0, 128, 255, 255]),
        ([70000, 70000, 70000, 70000], "I", [0, 0, 0, 0]),
        ([0, 0, 0, 0], "F", [0, 0, 0, 0]),
        ([0, 0.5, 0.25, 0.2], "F", [0, 128, 64, 51]),
        ([0, 1, 2, 255], "F", [0, 1, 2, 255]),
        ([-1, 0, 1, 1], "F", [0, 128, 255, 255]),
        ([-3e38, 0, 0, 3e38], "F", [0, 128, 128, 255]),
    ],
)
def test_modes_i_and_f_take_the_first_range_that_holds_their_pixels(values, mode, expected):
    picture = Image.fromarray(np.array([values], np.int32 if mode == "I" else np.float32))
    assert picture.mode == mode
    assert [red for red, _, _ in pixels(picture)[0]] == expected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_float_picture_with_holes_is_refused(value):
    picture = Image.fromarray(np.array([[0, value]], np.float32))
    assert "NaN or infinite values" in refusal(encode(picture, "TIFF"))


# ----------------------------------------------------------------------------------------------------- other colours


@pytest.mark.parametrize("format", [None, "TIFF", "JPEG"])
def test_cmyk_inks_become_the_colours_they_print(format):
    picture = Image.new("CMYK", (48, 16), (0, 255, 255, 0))
    picture.paste((255, 0, 0, 0), (16, 0, 32, 16))
    picture.paste((0, 0, 0, 255), (32, 0, 48, 16))
    data = picture if format is None else encode(picture, format)
    if format == "JPEG":
        assert b"Adobe" in data  # which stores inks inverted
    read = read_image(data)
    colors = np.array([read.getpixel((x, 8)) for x in (4, 24, 44)], np.int64)
    assert np.abs(colors - [RED, (0, 255, 255), (0, 0, 0)]).max() <= 4


@pytest.mark.parametrize("mode", ["YCbCr", "LAB", "HSV", "RGBX", "CMYK"])
def test_other_colour_spaces_become_rgb(mode):
    color = (200, 30, 90)
    pixel = pixels(Image.new("RGB", (1, 1), color).convert(mode))[0][0]
    assert pixel == pytest.approx(color, abs=4)


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param(
            "YCbCr", marks=pytest.mark.skipif(IS_PILLOW_12, reason="Pillow 12 cannot read its own YCbCr TIFF")
        ),
        "LAB",
    ],
)
def test_other_colour_spaces_are_read_from_tiff(mode):
    picture = Image.new("RGB", (8, 8), (200, 30, 90)).convert(mode)
    assert pixels(encode(picture, "TIFF"))[4][4] == pytest.approx((200, 30, 90), abs=4)


def test_a_colour_profile_is_ignored():
    gray_gamma_1 = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert pixels(encode(confetti(), "PNG", icc_profile=gray_gamma_1)) == pixels(confetti())


# ---------------------------------------------------------------------------------------------------- broken pictures


@pytest.mark.parametrize("format", FORMATS)
def test_half_a_file_is_refused(format):
    data = encode(confetti(), format)
    assert "cannot be decoded (" in refusal(data[: len(data) // 2])


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_jpeg_that_was_cut_off_is_whole_or_refused(options):
    data = encode(confetti(), "JPEG", **options)
    whole = pixels(data)
    for end in range(1, len(data)):
        try:
            assert pixels(data[:end]) == whole
        except ImageError as error:
            reason = str(error)
    assert "truncated" in reason


def test_a_pil_image_that_cannot_be_loaded_is_refused():
    lazy = Image.open(io.BytesIO(encode(confetti(), "JPEG")[:-200]))
    assert refusal(lazy).startswith("the PIL image cannot be decoded (image file is truncated")


def test_a_pil_image_that_was_closed_is_refused():
    picture = confetti()
    picture.close()
    assert refusal(picture).startswith("the PIL image cannot be decoded (")


def test_a_chunk_with_a_wrong_checksum_is_refused():
    data = bytearray(encode(confetti(), "PNG"))
    data[60] ^= 1
    assert refusal(bytes(data)).startswith("the picture given as bytes cannot be decoded (")


VALID = {
    "PNG": encode(confetti(9, 7), "PNG"),
    "palette PNG": encode(confetti(9, 7).quantize(16), "PNG", transparency=bytes(range(0, 240, 15))),
    "APNG": encode(confetti(9, 7), "PNG", save_all=True, append_images=[confetti(9, 7, 1)]),
    "JPEG": encode(confetti(9, 7), "JPEG", exif=oriented(6)),
    "progressive JPEG": encode(confetti(9, 7), "JPEG", progressive=True),
    "CMYK JPEG": encode(confetti(9, 7).convert("CMYK"), "JPEG"),
    "GIF": encode(confetti(9, 7), "GIF", save_all=True, append_images=[confetti(9, 7, 1)], disposal=2),
    "WebP": encode(confetti(9, 7), "WEBP", exif=oriented(6)),
    "animated WebP": encode(confetti(9, 7), "WEBP", save_all=True, append_images=[confetti(9, 7, 1)], lossless=True),
    "BMP": encode(confetti(9, 7), "BMP"),
    "TIFF": encode(confetti(9, 7), "TIFF", exif=oriented(6)),
    "LZW TIFF": encode(confetti(9, 7), "TIFF", compression="tiff_lzw"),
}
if features.check("avif"):
    VALID["AVIF"] = encode(confetti(9, 7), "AVIF", exif=oriented(6))


def read_or_refuse(image):
    """The two ways out; with a limit, since a header may be changed to one of a large picture."""
    try:
        picture = read_image(image, max_pixels=10**6)
    except ImageError as error:
        assert str(error).endswith(".")
    else:
        assert (picture.mode, picture.info) == ("RGB", {})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", VALID)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_changed_file_is_a_picture_or_an_image_error(name, data):
    changed = bytearray(VALID[name])
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(changed)))
        length = data.draw(st.integers(0, 4))
        changed[start : start + length] = data.draw(st.binary(max_size=4))
    if data.draw(st.booleans()):
        del changed[data.draw(st.integers(0, len(changed))) :]
    read_or_refuse(bytes(changed))


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(
        [b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"iCCP", b"zTXt", b"iTXt", b"eXIf", b"acTL", b"fcTL", b"pHYs"]
    ),
    body=st.binary(max_size=40),
    color_type=st.sampled_from([0, 2, 3, 4, 6]),
    depth=st.sampled_from([1, 2, 4, 8, 16]),
)
def test_a_png_with_any_chunk_is_a_picture_or_an_image_error(kind, body, color_type, depth):
    read_or_refuse(png(3, 2, depth, color_type, bytes(50), (kind, body)))


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=200, deadline=None)
@given(
    head=st.sampled_from(
        [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\0\0\0\0WEBPVP8X", b"BM", b"II*\0"]
    ),
    tail=st.binary(max_size=200),
)
def test_random_bytes_are_an_image_error_or_by_chance_a_picture(head, tail):
    read_or_refuse(head + tail)


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(), max_size=60))
def test_random_text_is_an_image_error(text):
    with pytest.raises(ImageError):
        read_image("no-such-folder/" + text)


# ------------------------------------------------------------------------------------------ what a directory may name

TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}  # TIFF's types
SIZE = 4096  # of a file; tags may name twice as much, and a kilobyte


def tiff(tags, order="<", is_big=False) -> bytes:
    """A file of one directory of tags (tag, type, count, offset), behind whose header are some bytes of nothing."""
    mark = {"<": b"II", ">": b"MM"}[order]
    at, count, entry = ("HHHQ", "Q", "HHQQ") if is_big else ("HI", "H", "HHII")
    head = mark + struct.pack(order + at, *((43, 8, 0, 24) if is_big else (42, 24)))
    table = b"".join(struct.pack(order + entry, *tag) for tag in tags)
    return (head.ljust(24, b"\0") + struct.pack(order + count, len(tags)) + table).ljust(SIZE, b"\0")


@pytest.mark.parametrize("is_big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind, width", TYPE_BYTES.items())
def test_tags_that_name_more_than_twice_the_file_are_refused(kind, width, order, is_big):
    most = (2 * SIZE + 1024) // width
    counts = [most // 3, most // 3, most - 2 * (most // 3)]
    tags = [(1000 + number, kind, count, 0) for number, count in enumerate(counts)]
    assert "name more bytes" not in refusal(tiff(tags, order, is_big))
    assert "its tags name more bytes than there are" in refusal(tiff([*tags, (2000, kind, 1, 0)], order, is_big))


def test_what_tags_name_beyond_the_end_of_the_file_is_never_read():
    tags = [(1000 + number, 1, SIZE, 1) for number in range(100)]
    assert "name more bytes" not in refusal(tiff(tags))
    assert "name more bytes" in refusal(tiff([(tag, kind, count, 0) for tag, kind, count, _ in tags]))


def test_all_tags_of_a_directory_are_looked_at():
    idle = [(1000 + number, 1, 0, 0) for number in range(100)]
    assert "name more bytes" in refusal(tiff([*idle, *((2000 + number, 1, SIZE, 0) for number in range(3))]))


@pytest.mark.parametrize("tag", [273, 324])
def test_more_strips_than_a_picture_needs_are_refused(tag):
    assert "strips or tiles" not in refusal(tiff([(tag, 4, 30_000, 8)]))
    assert "it has 30001 strips or tiles" in refusal(tiff([(tag, 4, 30_001, 8)]))
    assert "strips or tiles" not in refusal(tiff([(700, 1, 30_001, 8)]))


def test_an_exif_block_of_several_segments_is_looked_at_as_one():
    exif = tiff([(1000 + number, 7, SIZE, 0) for number in range(100)])[8:]
    whole = b"II*\0" + struct.pack("<I", 24) + exif
    plain = encode(confetti(), "JPEG")

    def with_exif(place, *parts):
        segments = (b"Exif\0\0" + part for part in parts)
        joined = b"".join(b"\xff\xe1" + struct.pack(">H", 2 + len(s)) + s for s in segments)
        return plain[:place] + joined + plain[place:]

    for place in (2, 20):  # before the segment of JFIF, and behind it
        for parts in ((whole,), (whole[:100], whole[100:])):
            assert "name more bytes" in refusal(with_exif(place, *parts))
    assert "begins twice" in refusal(with_exif(20, 2 * b"Exif\0\0" + whole))


def test_a_profile_of_a_png_that_names_too_much_turns_nothing():
    def png(*more):
        exif = tiff([(274, 3, 1, 6), *more])  # a quarter turn
        profile = PngImagePlugin.PngInfo()
        profile.add_text("Raw profile type exif", f"\nexif\n{len(exif):8}\n{exif.hex()}")
        return read_image(encode(confetti(), "PNG", pnginfo=profile)).size

    assert png() == (24, 40)
    assert png(*((1000 + number, 7, SIZE, 0) for number in range(3))) == (40, 24)


def message_of(image) -> str:
    """Why `read_image` refuses it, or nothing where it does not."""
    try:
        read_image(image)
    except ImageError as error:
        return str(error)
    return ""


def test_scans_and_markers_of_a_jpeg_are_counted_up_to_its_end():
    plain = encode(confetti(), "JPEG")
    comment, scan = b"\xff\xfe\0\2", b"\xff\xda\0\2"
    for extra, most in ((comment, 3900), (scan, 63)):
        assert read_image(plain + extra * 10 * most).size == (40, 24)  # behind the picture: nobody reads it
        before = plain[:2] + extra * most
        assert "too many scans or markers" not in message_of(before + plain[2:])
        assert "too many scans or markers" in refusal(plain[:2] + extra * (most + 200) + plain[2:])


# -------------------------------------------------------------------------------------------------------- too large


def claim(size: int) -> dict:
    """For each format the beginning of a file that claims to have size x size pixels, and has none."""
    gif = b"GIF89a" + struct.pack("<HHBBB", size, size, 0, 0, 0)
    return {
        "PNG": png(size, size, 8, 2)[:60],
        "JPEG": b"\xff\xd8\xff\xc0"
        + struct.pack(">HBHHB", 17, 8, size, size, 3)
        + b"\1\x11\0\2\x11\0\3\x11\0\xff\xda\0\x02",
        "GIF": gif + b"," + struct.pack("<HHHHB", 0, 0, 8, 8, 0) + b"\x08",
        "BMP": b"BM" + struct.pack("<IIIIIIHHIIIIII", 54, 0, 54, 40, size, size, 1, 24, 0, 0, 0, 0, 0, 0),
        "TIFF": encode(Image.new("L", (8, 8)), "TIFF")
        .replace(struct.pack("<HHII", 0x0100, 4, 1, 8), struct.pack("<HHII", 0x0100, 4, 1, size))
        .replace(struct.pack("<HHII", 0x0101, 4, 1, 8), struct.pack("<HHII", 0x0101, 4, 1, size)),
    }


@pytest.mark.parametrize("name", claim(8))
def test_a_picture_that_is_too_large_is_refused_by_its_header(name):
    started = time.process_time()
    message = refusal(claim(20000)[name])
    assert time.process_time() - started < 1
    limit = Image.MAX_IMAGE_PIXELS if name in ("GIF", "TIFF") else MAX_PIXELS
    assert message.endswith(f" has 20000 x 20000 pixels, the limit is {limit} in all: make it smaller.")


def test_a_webp_beyond_pillows_own_limit_is_refused_by_its_header():
    header = struct.pack("<4sI", b"VP8X", 10) + bytes(4) + (20000 - 1).to_bytes(3, "little") * 2
    message = refusal(b"RIFF" + struct.pack("<I", 4 + len(header)) + b"WEBP" + header)
    if IS_PILLOW_12:
        assert "could not create decoder object" in message
    else:
        assert "has too many pixels" in message and "400000000" in message and str(MAX_PIXELS) in message


@pytest.mark.parametrize("size", [(MAX_SIDE + 1, 1), (1, MAX_SIDE + 1)])
def test_a_picture_with_a_side_beyond_all_use_is_refused_by_its_header(size):
    data = encode(Image.new("1", size), "PNG")
    started = time.process_time()
    assert refusal(data).endswith(f"{size[0]} x {size[1]} pixels, the limit of a side is {MAX_SIDE}: make it smaller.")
    assert time.process_time() - started < 0.1


def test_the_longest_side_itself_is_allowed():
    assert read_image(encode(Image.new("1", (MAX_SIDE, 1)), "PNG")).size == (MAX_SIDE, 1)


@pytest.mark.parametrize("format", FORMATS)
def test_the_limit_itself_is_allowed(format):
    data = encode(Image.new("RGB", (40, 30)), format)
    assert read_image(data, max_pixels=1200).size == (40, 30)
    assert "has 40 x 30 pixels, the limit is 1199 in all" in refusal(data, max_pixels=1199)


@pytest.mark.parametrize(
    "name", ["PIL image", "str path", "base64", "dict with bytes", "dict with a path", "array", "tensor"]
)
def test_the_limit_holds_for_every_kind(kinds, name):
    assert "has 40 x 24 pixels, the limit is 959 in all" in refusal(kinds[name], max_pixels=959)


def test_an_array_that_is_too_large_is_refused_before_its_values_are_looked_at():
    assert "the limit is 5 in all" in refusal(np.full((2, 3), np.nan), max_pixels=5)


def test_a_lazy_pil_image_that_is_too_large_is_not_decoded():
    lazy = Image.open(io.BytesIO(encode(confetti(), "PNG")))
    refusal(lazy, max_pixels=10)
    assert lazy.tile  # which decoding empties


@pytest.mark.parametrize("image", [Image.new("RGB", (0, 5)), np.zeros((5, 0, 3)), torch.zeros(3, 5, 0)])
def test_a_picture_without_pixels_is_refused(image):
    assert " has 0 x 5 pixels: give at least one." in refusal(image)


@pytest.mark.parametrize("format", FORMATS)
def test_no_accepted_picture_warns_of_a_bomb(format, monkeypatch):
    data = encode(Image.new("RGB", (40, 30)), format)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if format in ("GIF", "TIFF"):
            assert "has 40 x 30 pixels, the limit is 1000 in all" in refusal(data)
        else:
            assert read_image(data).size == (40, 30)
    assert Image.MAX_IMAGE_PIXELS == 1000


@pytest.mark.parametrize("format", FORMATS)
def test_the_limit_holds_where_pillows_is_switched_off(format, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    data = encode(Image.new("RGB", (40, 30)), format)
    assert read_image(data).size == (40, 30)
    assert "the limit is 1199" in refusal(data, max_pixels=1199)


def test_the_limit_is_pillows_own():
    assert MAX_PIXELS == pytest.approx(2 * Image.MAX_IMAGE_PIXELS, abs=1)


@pytest.mark.slow
def test_a_picture_of_108_megapixels_is_read_in_seconds_and_fits_into_memory(tmp_path):
    path = tmp_path / "phone.jpg"
    Image.new("RGB", (12000, 9000), (40, 80, 160)).save(path, exif=oriented(6))
    script = (
        "import resource, sys, time, warnings; from image_processing_hamlearning import read_image\n"
        "warnings.simplefilter('error'); started = time.process_time(); before = resource.getrusage(0).ru_maxrss\n"
        "picture = read_image(sys.argv[1]); seconds = time.process_time() - started\n"
        "print(*picture.size, seconds, (resource.getrusage(0).ru_maxrss - before) / 2**10, *picture.getpixel((0, 0)))"
    )
    run = [sys.executable, "-c", script, str(path)]
    output = subprocess.run(run, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True).stdout
    width, height, seconds, mebibytes, *color = map(float, output.split())
    assert (width, height) == (9000, 12000)
    assert color == pytest.approx((40, 80, 160), abs=2)
    assert seconds < 10
    assert mebibytes < 1000  # two copies at a time, of 4 bytes a pixel


# ------------------------------------------------------------------------------------------------------ global state


def test_nothing_global_is_changed(kinds):
    def state():
        pillow = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
        return pillow, list(warnings.filters), np.geterr(), torch.is_grad_enabled()

    before = state()
    for image in [*kinds.values(), *VALID.values()]:
        read_image(image)
    refusal(b"nonsense")
    assert state() == before


def test_threads_read_what_one_reads(kinds):
    images = [kinds["bytes"], *VALID.values(), glass("P"), *ramps().values()] * 4
    alone = [read_image(image).tobytes() for image in images]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda image: read_image(image).tobytes(), images))
    assert together == alone


# ------------------------------------------------------------------------------------------------ arrays and tensors


def test_an_array_of_one_channel_is_grey():
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert pixels(grey) == pixels(grey[..., None]) == [[[0] * 3, [1] * 3, [2] * 3], [[3] * 3, [4] * 3, [5] * 3]]


def test_an_array_of_four_channels_lies_on_white():
    assert pixels(np.array([[[255, 0, 0, 0], [255, 0, 0, 255]]], np.uint8)) == [[list(WHITE), list(RED)]]


def test_an_array_of_booleans_is_black_or_white():
    assert pixels(np.array([[True, False]])) == [[[255] * 3, [0] * 3]]
    assert pixels(np.array([[[True, False, False]]])) == [[list(RED)]]


def test_an_array_of_16_bits_gives_the_higher_byte_of_each_colour():
    assert pixels(np.array([[[0x12FF, 0x3400, 0xFFFF]]], np.uint16)) == [[[0x12, 0x34, 0xFF]]]


@pytest.mark.parametrize("dtype", ["float16", "float32", ">f4", "float64", "longdouble"])
def test_an_array_of_floats_is_rounded_to_the_nearest_of_256(dtype):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert pixels((levels / 255).astype(dtype)) == pixels(levels)


def test_a_read_only_array_is_read():
    array = np.zeros((2, 2, 3), np.uint8)
    array.flags.writeable = False
    assert read_image(array).size == (2, 2)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.uint16, torch.bool, torch.float16, torch.bfloat16, torch.float64]
)
def test_a_tensor_is_read_as_the_array_of_its_last_axis_first(channels, dtype):
    tensor = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (channels, 4, 5))).to(dtype)
    array = tensor.float() if dtype == torch.bfloat16 else tensor
    assert pixels(tensor) == pixels(array.numpy().transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros(5), "the array has the shape (5,): give (H, W)"),
        (np.zeros(()), "the array has the shape ()"),
        (np.zeros((3, 4, 2)), "the array has the shape (3, 4, 2)"),
        (np.zeros((3, 4, 5)), "the array has the shape (3, 4, 5)"),
        (np.zeros((1, 4, 5, 3)), "the array has the shape (1, 4, 5, 3)"),
        (np.zeros((3, 4, 3), np.int64), "the array has the dtype int64: give uint8, uint16, bool, or float in"),
        (np.zeros((3, 4), np.uint32), "the array has the dtype uint32"),
        (np.zeros((3, 4), np.int8), "the array has the dtype int8"),
        (np.zeros((3, 4), complex), "the array has the dtype complex128"),
        (np.full((3, 4), "x"), "the array has the dtype <U1"),
        (np.full((3, 4), None), "the array has the dtype object"),
        (np.array([[0, np.nan]]), "the array holds NaN: give values in [0, 1]."),
        (np.array([[0, np.inf]]), "the array holds values from 0 to inf: scale them to [0, 1], or give uint8."),
        (np.array([[-0.5, 0.5]]), "the array holds values from -0.5 to 0.5"),
        (np.array([[0.0, 255.0]]), "the array holds values from 0 to 255"),
        (np.array([[0.0, 1e300]]), "the array holds values from 0 to 1e+300"),
        (torch.zeros(4, 5), "the tensor has the shape (4, 5): give (1, H, W), (3, H, W) or (4, H, W)."),
        (torch.zeros(5, 4, 3), "the tensor has the shape (5, 4, 3)"),
        (torch.zeros(2, 4, 5), "the tensor has the shape (2, 4, 5)"),
        (torch.zeros(1, 3, 4, 5), "the tensor has the shape (1, 3, 4, 5)"),
        (torch.zeros(3, 4, 5, dtype=torch.int64), "the tensor has the dtype int64"),
        (torch.full((3, 4, 5), torch.nan), "the tensor holds NaN"),
        (torch.full((3, 4, 5), 2.5), "the tensor holds values from 2.5 to 2.5"),
        (torch.zeros(3, 4, 5, device="meta"), "the tensor cannot be read (NotImplementedError): give a dense one."),
        (torch.zeros(3, 4, 5).to_sparse(), "the tensor cannot be read (TypeError): give a dense one."),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_array_or_a_tensor_is_named(image, message):
    assert message in refusal(image)


@given(array=st_numpy.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_any_picture_is_read_as_it_was_saved(array):
    expected = array.tolist()
    assert pixels(array) == pixels(encode(Image.fromarray(array), "PNG")) == pixels(array / 255) == expected


@given(
    array=st_numpy.arrays(
        st.one_of(st_numpy.floating_dtypes(), st_numpy.unsigned_integer_dtypes(), st.just(np.dtype(bool))),
        st_numpy.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5),
    )
)
def test_any_array_is_a_picture_of_its_size_or_an_image_error(array):
    try:
        picture = read_image(array)
    except ImageError:
        return
    assert picture.size == array.shape[1::-1]


def test_an_image_error_is_a_value_error():
    assert issubclass(ImageError, ValueError)


# ---------------------------------------------------------------------------------------------------- behind a URL


class Web(BaseHTTPRequestHandler):
    """Pages of a site: a picture, one that moved, one that moved to a file, one that is missing, slow or endless."""

    def do_GET(self):
        moved = {"/moved": "/picture", "/to_file": "file:///etc/passwd"}
        self.send_response(302 if self.path in moved else 404 if self.path == "/missing" else 200)
        if self.path in moved:
            self.send_header("Location", moved[self.path])
        self.end_headers()
        with contextlib.suppress(OSError):
            if self.path == "/picture":
                self.wfile.write(encode(confetti(), "PNG"))
            for _ in range({"/endless": 1000, "/slow": 100}.get(self.path, 0)):
                self.wfile.write(bytes(10_000))
                time.sleep(0.1 if self.path == "/slow" else 0)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def site():
    with ThreadingHTTPServer(("127.0.0.1", 0), Web) as server:
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("page", ["/picture", "/moved"])
def test_the_picture_behind_a_url_is_downloaded(site, page):
    assert pixels(download(site + page)) == pixels(confetti())


@pytest.mark.parametrize(
    "page, seconds, message",
    [
        ("/missing", 20, "cannot be downloaded .*404"),
        ("/to_file", 20, "cannot be downloaded"),
        ("/endless", 20, "has more than 100000 bytes: give a smaller picture"),
        ("/slow", 0.5, "did not come within 0.5 seconds: try again later"),
    ],
)
def test_what_does_not_come_from_a_url_is_refused(site, page, seconds, message):
    with pytest.raises(ImageError, match=re.escape(site) + page + " " + message):
        download(site + page, max_bytes=100_000, seconds=seconds)


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/a.png", "file:///etc/passwd", "http://", "https://[::1", f"http://{'a' * 70}.org/"]
)
def test_what_is_no_address_of_the_web_is_refused(url):
    with pytest.raises(ImageError, match=re.escape(url) + " cannot be downloaded"):
        download(url)
