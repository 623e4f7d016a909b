"""Where the public data sets can be had, and `hamlearning fetch`: their files, checked against their hashes.

    $ hamlearning fetch twitter2017
    released/twitter2017/train.txt: 3373 texts, as released
    ...
    $ hamlearning fetch twitter2017 --pictures
    ...
    4410 of 4819 pictures are in released/twitter2017/images

What each place holds: `datasets/*/README.md`.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from hamlearning.data.files import write_bytes
from hamlearning.data.public_pictures import PictureFolder, fetch_pictures
from hamlearning.data.web import Server


class SourceError(OSError):
    """No source gives a file as it was released."""


class SourceFile(NamedTuple):
    """A file of a data set: its name, the SHA-256 of the released bytes, and how many texts it has."""

    name: str
    sha256: str
    texts: int


class DataSource(NamedTuple):
    """A data set, and the places on the web that hold it.

    Attributes:
        addresses: Folders of its text files, tried in order.
        files: The text files.
        pictures: Folders of its pictures, tried in order.
        owners: A sentence on whose the pictures are.
    """

    addresses: tuple[str, ...]
    files: tuple[SourceFile, ...]
    pictures: tuple[PictureFolder, ...] = ()
    owners: str = ""


def of_github(repo: str, commit: str, folder: str) -> PictureFolder:
    """A folder of a public repository as it was at a commit."""
    return PictureFolder(
        f"https://raw.githubusercontent.com/{repo}/{commit}/{folder}",
        f"https://api.github.com/repos/{repo}/git/trees/{commit}?recursive=1",
        folder,
    )


UMT = "https://raw.githubusercontent.com/jefferyYu/UMT/f478ee65564b5532319a6cc643203149acfc5eed/data"
RADAR = "https://raw.githubusercontent.com/mmmner/radar/d0b6df8b01996c203d0a2f6274d516d4bcca27bc/data"
CP_MNER = ("SiyunChen58/CP-MNER-dataset", "604ff0fbdafd55ae5c129ad8a27a6b18fde8de88")
TWEETS_OWNERS = (
    "The pictures belong to those who tweeted them: use them for research, pass none on, and delete each one whose "
    "tweet its author has deleted."
)
SOURCES = {
    "twitter2015": DataSource(
        (f"{UMT}/twitter2015", f"{RADAR}/twitter2015"),
        (
            SourceFile("train.txt", "a6246e37aa1c8acd738747fa8257e01775f2a1cc0d4f36f82f9d41d6246ad6fa", 4000),
            SourceFile("valid.txt", "9dcc7f9df7331de3c9cdf67a3450e041c41c6254b5e43925c576e2dfaaabe2ad", 1000),
            SourceFile("test.txt", "edb2665b89bfe58bca06a2c10b9b31cbfa95456135b6a4cbf55c872e48d9b8f9", 3257),
        ),
        (of_github("jinlanfu/NERmultimodal", "6de7e3fbfde4f76d4ca8d35ba4bf6d12a8d61d1c", "data/ner_img"),),
        TWEETS_OWNERS,
    ),
    "twitter2017": DataSource(
        (f"{UMT}/twitter2017",),
        (
            SourceFile("train.txt", "801e149e8635b19d66b4ec1212c329be340ada501b35c5fa55455fb6f53633be", 3373),
            SourceFile("valid.txt", "41b5db90cb32059c14c2c3ccd50845fb77f1e3d3e4f7d0c210a61bc507d8a73e", 723),
            SourceFile("test.txt", "a7d9e172ae85bd3e35276eb2b01ce223321bdc92a47b234e24305d72e7a05243", 723),
        ),
        (
            of_github(
                "CopotronicRifat/TwitterDataMABSA", "7bac3a58e5d411baa86cd89b1390a063f82ffb98", "twitter2017_images"
            ),
        ),
        TWEETS_OWNERS,
    ),
    "cpmner": DataSource(
        (f"https://raw.githubusercontent.com/{'/'.join(CP_MNER)}",),
        (
            SourceFile("train.txt", "f641aee61cf2233a85300cda7d08517023da5b003895880c49f0e89378689bf0", 950),
            SourceFile("valid.txt", "cba8617ab6f479734cd4345403ba81bffb68bf93f5ae92b37bd4460c0af79328", 119),
            SourceFile("test.txt", "020ece492a0a755ad6cd13fe6eb8d5ed4bb19d89f1642511902e64727acce62e", 119),
        ),
        (of_github(*CP_MNER, "image_1188"),),
        "Their makers name no licence, and museums hold rights in photographs of their paintings: pass none on.",
    ),
}


def fetch(name: str, to: Path | None = None, pictures: bool = False, workers: int = 8) -> None:
    """Download a public data set; files that are there already, as released, are not fetched again.

    ```python
    >>> fetch("twitter2017", Path("released/twitter2017"))
    released/twitter2017/train.txt: 3373 texts, as released
    ...
    ```

    Args:
        name: A name in `SOURCES`.
        to: The folder, `released/NAME` if None.
        pictures: Fetch the pictures too, into its subfolder `images/`. Those that no place has are counted, and listed
            in `missing_pictures.txt`.
        workers: Pictures that are asked for at a time.

    Raises:
        ValueError: There is no such data set, or `workers` is less than one.
        FileExistsError: The folder holds another file of that name.
        SourceError: No source gives a file as released.
        ConnectionError: Some pictures did not come, though a source may have them.
    """
    if name not in SOURCES:
        raise ValueError(f"there is no public data set {name!r}: choose from {', '.join(SOURCES)}")
    if workers < 1:
        raise ValueError(f"--workers {workers}: must be at least 1")
    source, folder = SOURCES[name], Path("released") / name if to is None else to
    folder.mkdir(parents=True, exist_ok=True)
    servers = {address: Server(address) for address in source.addresses}
    for file in source.files:
        path = folder / file.name
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256:
            print(f"{path}: {file.texts} texts, is there already")
            continue
        if path.exists():
            raise FileExistsError(f"{path} is there, and not as released: move it, or give another folder, --to")
        fetch_file(file, servers, path)
        print(f"{path}: {file.texts} texts, as released")
    if pictures:
        print(source.owners)
        ids = [image_id for file in source.files for image_id in image_ids(folder / file.name)]
        fetch_pictures(list(dict.fromkeys(ids)), source.pictures, folder, workers)


def fetch_file(file: SourceFile, servers: Mapping[str, Server], path: Path) -> None:
    """Write one file from the first source that gives it as released; the others are named with what they gave."""
    refused = []
    for address, server in servers.items():
        url = f"{address}/{file.name}"
        if refused:
            print(f"{refused[-1]}: the next place is asked, {url}")
        try:
            content = server.get(url, is_fixed=True)
        except OSError as error:
            refused.append(f"{url} ({error})")
            continue
        if hashlib.sha256(content).hexdigest() == file.sha256:
            write_bytes(path, content)
            return
        refused.append(f"{url} (other bytes than the released file's, SHA-256 {file.sha256})")
    raise SourceError(f"{path.name} could not be had from {'; '.join(refused)}: try again later, or put it there")


def image_ids(path: Path) -> list[str]:
    """The ids of a released text file, in its order."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [line.removeprefix("IMGID:").strip() for line in lines if line.startswith("IMGID:")]
