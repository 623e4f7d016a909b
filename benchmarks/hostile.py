"""Requests that mean harm: small files that ask for much work or memory, and bodies that are no request.

They are made here, byte by byte, since no library writes such files; `load.py` sends them, the tests of the handler
and of the Space too.
"""

import base64
import io
import json
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image


MANY = 10 * 2**20  # bytes, the handler's and the Space's limit of a picture's file
SIDE = 5_000  # of a picture with as many pixels as the handler takes


def encoded(picture: Image.Image, format: str, **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


def until_full(piece: bytes, room: int = MANY - 2**16) -> bytes:
    return piece * (room // len(piece))


# ------------------------------------------------------------------------------------------------------------ pictures


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)


def png(width: int, height: int, before: bytes = b"", pixels: bytes | None = None) -> bytes:
    """A grey PNG with more chunks before its pixels, or other chunks in their place."""
    header = chunk(b"IHDR", width.to_bytes(4) + height.to_bytes(4) + b"\x08\0\0\0\0")
    pixels = chunk(b"IDAT", zlib.compress(bytes((width + 1) * height))) if pixels is None else pixels
    return b"\x89PNG\r\n\x1a\n" + header + before + pixels + chunk(b"IEND", b"")


def jpeg(before: bytes) -> bytes:
    """A JPEG with more segments at its start."""
    return b"\xff\xd8" + before + encoded(Image.new("L", (8, 8)), "JPEG")[2:]


def jpeg_of_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan, a few bytes, comes again and again: each time all pixels are gone over."""
    picture = encoded(Image.new("L", (SIDE, SIDE)), "JPEG", progressive=True)
    last = picture[picture.rfind(b"\xff\xda") : -2]
    return picture[:-2] + last * count + b"\xff\xd9"


def gif(before: bytes) -> bytes:
    """A GIF with more blocks before its picture."""
    picture = encoded(Image.new("P", (8, 8)), "GIF")
    place = 13 + 3 * 2 ** ((picture[10] & 7) + 1)
    return picture[:place] + before + picture[place:]


def bmp_in_runs(width: int, height: int, runs: bytes) -> bytes:
    """A BMP with run-length encoding."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(runs), 0, 0, 1078) + header + bytes(1024) + runs


def directory(tags: list[tuple[int, int, int, int]], size: int = 0) -> bytes:
    """A TIFF file or EXIF block of tags (tag, type, count, offset), filled up with zeros."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    return (b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)).ljust(size, b"\0")


def grey_tags(height: int, strips: int, offsets: int, lengths: int) -> list[tuple[int, int, int, int]]:
    """Of a TIFF one pixel wide, a row a strip."""
    return [
        (256, 4, 1, 1), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
        (273, 4, strips, offsets), (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, strips, lengths),
    ]  # fmt: skip


def tiff_of_strips(count: int) -> bytes:
    """A TIFF of one pixel a strip."""
    size = len(directory(grey_tags(count, count, 0, 0)))
    table = struct.pack("<I", 8) * count
    return directory(grey_tags(count, count, size, size + len(table))) + table + struct.pack("<I", 1) * count


def greedy_tags(count: int, size: int) -> list[tuple[int, int, int, int]]:
    """Tags that each name the same bytes, all of a block of `size` but the first."""
    return [(tag, 7, size - 1, 1) for tag in range(1000, 1000 + count)]


def exif_segments(exif: bytes) -> bytes:
    """An EXIF block as segments of a JPEG."""
    parts = [b"Exif\0\0" + exif[first : first + 65_000] for first in range(0, len(exif), 65_000)]
    return b"".join(b"\xff\xe1" + struct.pack(">H", 2 + len(part)) + part for part in parts)


def avif_with(exif: bytes) -> bytes:
    """An AVIF with an EXIF block; Pillow would read the block to write it, so it writes an empty one of this size."""
    empty = directory([], len(exif))
    return encoded(Image.new("L", (8, 8)), "AVIF", exif=empty).replace(empty, exif)


def animation(format: str, frames: int) -> bytes:
    rng = np.random.default_rng(0)
    first, *others = [Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)) for _ in range(frames)]
    return encoded(first, format, save_all=True, append_images=others)


def pixels_without_end() -> bytes:
    """A PNG bomb: 2.5 billion pixels are announced, and some are there."""
    return png(50_000, 50_000, pixels=chunk(b"IDAT", zlib.compress(bytes(10**6))))


# Files that have to be refused, each made when it is asked for. By the counts, most are of a few kB to 10 MiB.
REFUSED_PICTURES: dict[str, Callable[[], bytes]] = {
    "PNG bomb": pixels_without_end,
    "1 x 25,000,001 pixels": lambda: png(1, 25_000_001, pixels=chunk(b"IDAT", b"")),
    "PNG of 2**31 - 1 pixels a side": lambda: png(2**31 - 1, 2**31 - 1, pixels=chunk(b"IDAT", b"")),
    "PNG, chunks of unknown kind": lambda: png(9, 9, before=until_full(chunk(b"abCd", b""))),
    "PNG, texts of one letter": lambda: png(9, 9, before=until_full(chunk(b"tEXt", b"a\0b"))),
    "PNG, chunks of no pixel": lambda: png(9, 9, pixels=until_full(chunk(b"IDAT", b""))),
    "PNG, colour profile of 100 MB": lambda: png(
        9, 9, before=chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**8), 1))
    ),
    "JPEG, 1,000 scans of 25 million pixels": lambda: jpeg_of_scans(1000),
    "JPEG, comments": lambda: jpeg(until_full(b"\xff\xfe\0\x02")),
    "JPEG, application segments": lambda: jpeg(until_full(b"\xff\xe5\0\x02")),
    "JPEG, filling": lambda: jpeg(until_full(b"\xff")),
    "JPEG, EXIF tags that name 9 GB": lambda: jpeg(exif_segments(directory(greedy_tags(1000, 9 * 10**6), 9 * 10**6))),
    "GIF, comment in blocks of a byte": lambda: gif(b"!\xfe" + until_full(b"\x01a") + b"\0"),
    "GIF, comments": lambda: gif(until_full(b"!\xfe\x01a\0")),
    "GIF, what is no block": lambda: gif(until_full(b"a")),
    "BMP, a run to the end of 25 million pixels": lambda: bmp_in_runs(SIDE**2, 1, b"\x01\x01\0\0"),
    "BMP, a step of 6 GB": lambda: bmp_in_runs(SIDE**2, 1, b"\0\x02\0\xff"),
    "TIFF, 1,000,000 strips": lambda: tiff_of_strips(1_000_000),
    "TIFF, tags that name 9 GB": lambda: directory(grey_tags(1, 1, 8, 1) + greedy_tags(1000, 9 * 10**6), 9 * 10**6),
    "AVIF, EXIF tags that name 9 GB": lambda: avif_with(directory(greedy_tags(1000, 9 * 10**6), 9 * 10**6)),
    "SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1/"/></svg>',
    "SVG with an entity": lambda: b'<!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg>&a;</svg>',
    "EPS": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
    "HTML": lambda: b"<html><script>alert(1)</script></html>",
    "no byte": lambda: b"",
    "half a PNG": lambda: png(100, 100)[:-40],
    "noise": lambda: np.random.default_rng(0).bytes(2**20),
}

# Files that are odd, but pictures: they have to be answered.
ANSWERED_PICTURES: dict[str, Callable[[], bytes]] = {
    "1 x 1,000,000 pixels": lambda: encoded(Image.new("L", (1, 10**6)), "PNG"),
    "1,000,000 x 1 pixels": lambda: encoded(Image.new("L", (10**6, 1)), "PNG"),
    "1 x 1 pixel": lambda: encoded(Image.new("RGB", (1, 1)), "PNG"),
    "GIF of 3,000 frames": lambda: animation("GIF", 3000),
    "WebP of 3,000 frames": lambda: animation("WEBP", 3000),
    "TIFF of 300 pages": lambda: animation("TIFF", 300),
    "PNG, a text of 9 MB": lambda: png(9, 9, before=chunk(b"tEXt", b"a\0" + b"b" * 9 * 10**6)),
    "PNG, 60 texts that grow to 1 MiB": lambda: png(
        9, 9, before=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**20 - 1))) * 60
    ),
    "PNG, 100 MB behind its pixels": lambda: png(9, 9, pixels=chunk(b"IDAT", zlib.compress(bytes(10**8), 1))),
    "PNG, EXIF tags that name 9 GB": lambda: png(
        9, 9, before=chunk(b"eXIf", directory(greedy_tags(1000, 9 * 10**6), 9 * 10**6))
    ),
    "WebP, EXIF tags that name 9 GB": lambda: encoded(
        Image.new("L", (8, 8)), "WEBP", exif=directory(greedy_tags(1000, 9 * 10**6), 9 * 10**6)
    ),
    "PNG that is a ZIP too": lambda: png(9, 9) + b"PK\x05\x06" + bytes(18),
    "JPEG that is HTML too": lambda: encoded(Image.new("L", (8, 8)), "JPEG") + b"<script>alert(1)</script>",
    "CMYK": lambda: encoded(Image.new("CMYK", (60, 40), (9, 99, 199, 9)), "JPEG"),
    "16 bits": lambda: encoded(Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60) * 27), "PNG"),
    "palette": lambda: encoded(Image.new("P", (60, 40), 3), "PNG", transparency=3),
    "one bit": lambda: encoded(Image.new("1", (60, 40)), "TIFF"),
    "floats": lambda: encoded(Image.new("F", (60, 40), 0.5), "TIFF"),
}


# -------------------------------------------------------------------------------------------------------------- bodies


def request(text, image: bytes | str | None = None, **parameters) -> bytes:
    """The body of a request to the handler."""
    image = base64.b64encode(image).decode() if isinstance(image, bytes) else image
    return json.dumps({"inputs": {"text": text, "image": image}, "parameters": parameters}).encode()


# Of an HTTP request to the handler, each made when it is asked for; all have to be refused.
REFUSED_BODIES: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "no JSON": lambda: b"text=hello",
    "half of the JSON": lambda: request("hello")[:-9],
    "no UTF-8": lambda: b'{"inputs": "\xff\xfe"}',
    "half a character": lambda: b'{"inputs": "\\ud83d"}',
    "lists 100,000 deep": lambda: b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "objects 100,000 deep": lambda: b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "lists 900 deep": lambda: b'{"inputs": ' + b"[" * 900 + b"]" * 900 + b"}",
    "threshold NaN": lambda: b'{"inputs": "hello", "parameters": {"threshold": NaN}}',
    "threshold Infinity": lambda: b'{"inputs": "hello", "parameters": {"threshold": -Infinity}}',
    "threshold 1e308": lambda: request("hello", threshold=1e308),
    "threshold of 5,000 digits": lambda: b'{"inputs": "hello", "parameters": {"threshold": %s}}' % (b"9" * 5_000),
    "unknown parameter": lambda: request("hello", top_k=5),
    "number for a tweet": lambda: b'{"inputs": 5}',
    "list for a text": lambda: request(["hello"]),
    "10,000 inputs": lambda: json.dumps({"inputs": ["hello"] * 10_000}).encode(),
    "10 MB of text": lambda: request("hello " * 1_700_000),
    "10 MB of emoji": lambda: json.dumps({"inputs": "🙂" * 2_500_000}, ensure_ascii=False).encode(),
    "base64 that is none": lambda: request("hello", "%" * 1000),
    "20 MB of base64": lambda: request("hello", "A" * 20_000_000),
    "URL of a private address": lambda: request("hello", "http://127.0.0.1:1/picture.png"),
    "URL of cloud metadata": lambda: request("hello", "http://169.254.169.254/latest/meta-data/"),
    "path": lambda: request("hello", "/etc/passwd"),
    "path of a file URL": lambda: request("hello", "file:///etc/passwd"),
    "bytes and a path": lambda: b'{"inputs": {"text": "hello", "image": {"bytes": null, "path": "/etc/passwd"}}}',
}  # fmt: skip

# Texts that are odd, but texts.
ANSWERED_TEXTS: dict[str, str] = {
    "NUL": "Loved \0 in \0\0 Rome",
    "right to left": "Loved \u202e the \u2066 Huskies \u2069 in \u202d Rome \u200f",
    "accents upon accents": "Rome" + "\u0301" * 3000,
    "families": "\U0001f468\u200d\U0001f469\u200d\U0001f467 " * 300,
    "one word of 10,000 letters": "a" * 10_000,
    "10,000 marks": "#@" * 5_000,
    "white space": " \u00a0\u2003\n\t" * 1000,
}
