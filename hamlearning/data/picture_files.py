"""A folder of pictures: which files are pictures, and which tweet each one belongs to."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path


logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".avif", ".tif", ".tiff")


def find_images(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by their names without suffix. Only names that the folder lists are ever opened.

    Of links see `picture_files`.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: two pictures have one name, or all are links out of the folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: give the folder of the pictures.")
    found: dict[str, Path] = {}
    for path in picture_files(folder, IMAGE_SUFFIXES):
        if path.stem in found:
            raise ValueError(f"{folder} has both {found[path.stem].name} and {path.name}: keep one an image id.")
        found[path.stem] = path
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


def picture_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The pictures that a folder lists, by name: no other name is ever to be opened.

    A link that leads out of the folder is left out, with a warning: what lies there may be nobody's to look at. In a
    repo of the Hub's cache every file is a link, into the `blobs` of the same repo: there they are followed.

    Args:
        folder: The folder.
        suffixes: Those of pictures, in lower case.

    Raises:
        ValueError: All of its pictures are links out of it.
    """
    home = Path(os.path.realpath(folder))
    homes = [home]
    for place in (home, *home.parents):
        if place.parent.name == "snapshots" and place.parent.parent.name.startswith(("models--", "datasets--")):
            homes.append(place.parent.parent / "blobs")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    found = [path for path in paths if any(Path(os.path.realpath(path)).is_relative_to(place) for place in homes)]
    left_out = [path.name for path in paths if path not in found]
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
