"""Where the public data sets can be had, and `hamlearning fetch`: their text, checked against its hashes.

    $ hamlearning fetch twitter2017
    released/twitter2017/train.txt: 3373 tweets, as released
    ...

The tweets belong to those who wrote them. Their pictures are not fetched: `datasets/*/README.md` says where they are.
"""

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hamlearning.data.files import write_bytes


WAITS = (1, 2, 4)  # seconds before a source is asked again
SECONDS = 30  # that a source may be silent for
MAX_BYTES = 2**25  # of a file; the largest has 850 kB


class SourceError(OSError):
    """No source gives a file as it was released."""


class SourceFile(NamedTuple):
    """A file of a data set: its name, the SHA-256 of the released bytes, and how many tweets it has."""

    name: str
    sha256: str
    tweets: int


class DataSource(NamedTuple):
    """A data set: the folders on the web that hold it, tried in order, and its files."""

    addresses: tuple[str, ...]
    files: tuple[SourceFile, ...]


UMT = "https://raw.githubusercontent.com/jefferyYu/UMT/f478ee65564b5532319a6cc643203149acfc5eed/data"
SOURCES = {
    "twitter2015": DataSource(
        (f"{UMT}/twitter2015",),
        (
            SourceFile("train.txt", "a6246e37aa1c8acd738747fa8257e01775f2a1cc0d4f36f82f9d41d6246ad6fa", 4000),
            SourceFile("valid.txt", "9dcc7f9df7331de3c9cdf67a3450e041c41c6254b5e43925c576e2dfaaabe2ad", 1000),
            SourceFile("test.txt", "edb2665b89bfe58bca06a2c10b9b31cbfa95456135b6a4cbf55c872e48d9b8f9", 3257),
        ),
    ),
    "twitter2017": DataSource(
        (f"{UMT}/twitter2017",),
        (
            SourceFile("train.txt", "801e149e8635b19d66b4ec1212c329be340ada501b35c5fa55455fb6f53633be", 3373),
            SourceFile("valid.txt", "41b5db90cb32059c14c2c3ccd50845fb77f1e3d3e4f7d0c210a61bc507d8a73e", 723),
            SourceFile("test.txt", "a7d9e172ae85bd3e35276eb2b01ce223321bdc92a47b234e24305d72e7a05243", 723),
        ),
    ),
}


def fetch(name: str, to: Path | None = None, addresses: Sequence[str] | None = None) -> None:
    """Download the text of a public data set; files that are there already, as released, are not fetched again.

    Args:
        name: A name in `SOURCES`.
        to: The folder, `released/NAME` if None.
        addresses: Folders on the web to ask in place of the known ones.

    Raises:
        ValueError: There is no such data set.
        FileExistsError: The folder holds another file of that name.
        SourceError: No source gives a file as released.
    """
    if name not in SOURCES:
        raise ValueError(f"there is no public data set {name!r}: choose from {', '.join(SOURCES)}")
    folder = Path("released") / name if to is None else to
    folder.mkdir(parents=True, exist_ok=True)
    for file in SOURCES[name].files:
        path = folder / file.name
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256:
            print(f"{path}: {file.tweets} tweets, is there already")
            continue
        if path.exists():
            raise FileExistsError(f"{path} is there, and not as released: move it, or give another folder, --to")
        fetch_file(file, addresses or SOURCES[name].addresses, path)
        print(f"{path}: {file.tweets} tweets, as released")


def fetch_file(file: SourceFile, addresses: Sequence[str], path: Path) -> None:
    """Write one file from the first source that gives it as released; the others are named with what they gave."""
    refused = []
    for address in addresses:
        url = f"{address}/{file.name}"
        try:
            content = download(url)
        except OSError as error:
            refused.append(f"{url} ({error})")
            continue
        if hashlib.sha256(content).hexdigest() != file.sha256:
            refused.append(f"{url} (other bytes than the released file's, SHA-256 {file.sha256})")
            continue
        write_bytes(path, content)
        return
    raise SourceError(f"{path.name} could not be had from {'; '.join(refused)}: try again later, or put it there")


def download(url: str) -> bytes:
    """The bytes behind an address, asked for again where that may help.

    Raises:
        OSError: They cannot be had.
    """
    for wait in (*WAITS, None):
        try:
            with urllib.request.urlopen(url, timeout=SECONDS) as response:
                expected = response.headers.get("Content-Length")
                content = response.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                raise OSError(f"more than {MAX_BYTES} bytes")
            if expected is not None and len(content) != int(expected):
                raise ConnectionError(f"{len(content)} of {expected} bytes came")
            return content
        except urllib.error.HTTPError as error:
            if wait is None or error.code not in (408, 429, 500, 502, 503, 504):
                raise
        except (urllib.error.URLError, ConnectionError, TimeoutError, http.client.HTTPException) as error:
            if wait is None:
                raise ConnectionError(str(error) or type(error).__name__) from error
        time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")
