"""A folder of pictures: which files are pictures, and which tweet each one belongs to."""

import base64
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path


logger = logging.getLogger(__name__)

# Of the formats that `read_image` takes; what is in a file is found by its bytes.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".webp"),
    *(".bmp", ".dib", ".avif", ".avifs", ".tif", ".tiff"),
)


def find_images(folder: Path, subfolders: bool = False) -> dict[str, Path]:
    """The pictures of a folder by their names without suffix. Only names that the folder lists are ever opened.

    Of links see `picture_files`.

    Args:
        folder: The folder.
        subfolders: Whether those in its folders, and in theirs, are among them.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: two pictures have one name, all are links out of the folder, or all lie in its folders and
            `subfolders` is False.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: give the folder of the pictures.")
    found: dict[str, Path] = {}
    for path in picture_files(folder, IMAGE_SUFFIXES, subfolders):
        if path.stem in found:
            both = f"{found[path.stem].relative_to(folder)} and {path.relative_to(folder)}"
            raise ValueError(f"{folder} has both {both}: keep one an image id.")
        found[path.stem] = path
    if not found and not subfolders:
        deeper = next(_listed(folder, IMAGE_SUFFIXES, subfolders=True), None)
        if deeper is not None:
            raise ValueError(
                f"{folder} has no picture, but {deeper.relative_to(folder)} in a folder of it: give that folder, or "
                "--image_subfolders to read all of them."
            )
    return found


def picture_of(id_: str, files: Mapping[str, Path]) -> Path | None:
    """The picture called by an id, of those that `find_images` found.

    `17.jpg` is that of the id `17`, and of the id `17.jpg`.
    """
    file = files.get(id_)
    stem = id_.rpartition(".")[0]
    if file is None and stem in files and files[stem].name == id_:
        file = files[stem]
    return file


def is_file(path: str | os.PathLike) -> bool:
    """Whether a file is there, and no folder, pipe or device, which may keep its reader waiting."""
    try:
        return os.path.isfile(path)
    except (OSError, ValueError):  # a name that is too long, or has NUL in it, as base64 may look
        return False


def picture_bytes(place: str) -> bytes | None:
    """The bytes of a picture's file, or of the base64 that stands in place of its path; None if it is neither.

    No URL is opened.
    """
    if is_file(place):
        try:
            return Path(place).read_bytes()
        except OSError:
            return None
    code = place.partition(",")[2] if place[:5].lower() == "data:" else place
    try:
        return base64.b64decode("".join(code.split()), validate=True)
    except ValueError:
        return None


def picture_files(folder: Path, suffixes: Sequence[str], subfolders: bool = False) -> list[Path]:
    """The pictures that a folder lists, by name: no other name is ever to be opened.

    A link that leads out of the folder is left out, with a warning: what lies there may be nobody's to look at. In a
    repo of the Hub's cache every file is a link, into the `blobs` of the same repo: there they are followed.

    Args:
        folder: The folder.
        suffixes: Those of pictures, in lower case.
        subfolders: Whether those of its folders, and of theirs, are listed, too; a link to a folder is none.

    Raises:
        ValueError: All of its pictures are links out of it.
    """
    home = Path(os.path.realpath(folder))
    homes = [home]
    for place in (home, *home.parents):
        if place.parent.name == "snapshots" and place.parent.parent.name.startswith(("models--", "datasets--")):
            homes.append(place.parent.parent / "blobs")
    paths = sorted(_listed(folder, suffixes, subfolders))
    found = [path for path in paths if any(Path(os.path.realpath(path)).is_relative_to(place) for place in homes)]
    kept = {*found}
    left_out = [path.name for path in paths if path not in kept]
    if left_out and not found:
        raise ValueError(
            f"{folder} has no picture but {len(left_out)} links that lead out of it, {left_out[0]} the first: they "
            "are not followed, give a copy that holds the pictures (`cp -rL`)."
        )
    if left_out:
        logger.warning(
            f"{folder} has {len(left_out)} links that lead out of it, {left_out[0]} the first: they are not followed, "
            "copy the pictures in their place."
        )
    return found


def _listed(folder: Path, suffixes: Sequence[str], subfolders: bool) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):  # it follows no links
        named = [name for name in (*names, *folders) if os.path.splitext(name)[1].lower() in suffixes]
        yield from (Path(place, name) for name in named)  # a folder of such a name is said to be no picture
        # Without hidden ones, and what macOS packs beside pictures under the names of these.
        folders[:] = [name for name in folders if subfolders and not name.startswith((".", "__MACOSX"))]
