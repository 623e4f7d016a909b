"""The encoded pictures of a data set's tweets, by their place."""

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

from datasets import DatasetDict, Image

from hamlearning.data.picture_files import find_images, picture_of


logger = logging.getLogger(__name__)


class TweetImages:
    """The encoded pictures of tweets, by their place: the splits one after the other, an id that came before left out.

    ```python
    >>> images = TweetImages(load_tweets("prepared/twitter2017"))
    >>> len(images), images.ids[0], type(images[0]["bytes"])
    (4819, '16_05_01_6', <class 'bytes'>)
    ```

    Args:
        tweets: splits with an `id` and, without `image_dir`, an `image` column; a split that has none has no picture.
        image_dir: folder of pictures named by the tweets' ids, such as `16_05_01_6.jpg`.
        image_subfolders: whether those in its folders are among them.

    Raises:
        FileNotFoundError: `image_dir` is no folder.
        ValueError: it has two pictures of one name, nothing but links out of it, or no picture of any tweet; or one id
            stands for two pictures.
    """

    def __init__(
        self, tweets: DatasetDict, image_dir: str | os.PathLike | None = None, image_subfolders: bool = False
    ):
        self.image_dir = image_dir
        self._files = None if image_dir is None else find_images(Path(image_dir), image_subfolders)
        self._columns = {
            split: dataset.select_columns("image").cast_column("image", Image(decode=False))
            for split, dataset in tweets.items()
            if image_dir is None and "image" in dataset.column_names
        }
        place_of: dict[str, int] = {}
        self.ids: list[str] = []
        self._places: list[tuple[str, int]] = []
        for split, dataset in tweets.items():
            if image_dir is None and split not in self._columns:
                continue
            for row, id_ in enumerate(dataset["id"]):
                if id_ not in place_of:
                    place_of[id_] = len(self.ids)
                    self.ids.append(id_)
                    self._places.append((str(split), row))
                elif self._files is None:
                    self._places[place_of[id_]] = self._one_of(id_, self._places[place_of[id_]], (str(split), row))
        if self._files is not None and self.ids:
            self._check_files()

    def _one_of(self, id_: str, first: tuple[str, int], second: tuple[str, int]) -> tuple[str, int]:
        """The place of an id's picture: it is looked up by id, so an id has one. A null is none."""
        one, other = (self._columns[split][row]["image"] for split, row in (first, second))
        if one is None or other is None:
            return second if one is None else first
        if one != other and _sha256(one) != _sha256(other):
            raise ValueError(
                f"The id {id_!r} stands for two pictures, of row {first[1]} of the {first[0]} split and of row "
                f"{second[1]} of the {second[0]} split: give each picture an id of its own, such as "
                f"'{second[0]}-{id_}'."
            )
        return first

    def _check_files(self) -> None:
        """Names that do not fit are a slip that nobody would notice: the model would learn from text alone."""
        found = sum(self._file_of(id_) is not None for id_ in self.ids)
        if found == 0 and self._files:
            raise ValueError(
                f"{self.image_dir} has no picture of any of the {len(self.ids)} tweets: an id is {self.ids[0]!r}, a "
                f"file {next(iter(self._files.values())).name!r}; give the files the ids as names."
            )
        if found < len(self.ids) / 2:
            share = f"{found} of {len(self.ids)} tweets ({found / len(self.ids):.0%})"
            logger.warning(f"{self.image_dir} has pictures of {share}: the others are read as text alone.")

    def _file_of(self, id_: str) -> Path | None:
        return picture_of(id_, self._files or {})

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_pictures(self) -> bool:
        """Whether any tweet has one, readable or not."""
        if self._files is not None:
            return any(self._file_of(id_) is not None for id_ in self.ids)
        return any(column.data.column("image").null_count < len(column) for column in self._columns.values())

    def __getitem__(self, index: int) -> Path | dict[str, Any] | None:
        """What `read_image` takes; None for a tweet without a picture."""
        if self._files is not None:
            return self._file_of(self.ids[index])
        split, row = self._places[index]
        return self._columns[split][row]["image"]

    def sha256(self, index: int) -> str:
        """Of the encoded picture; of what is wrong with it if it cannot be read."""
        return _sha256(self[index])


def _sha256(image: Path | dict[str, Any] | None) -> str:
    if image is None:
        return "none"
    if isinstance(image, dict):
        if image["bytes"] is not None:
            return hashlib.sha256(image["bytes"]).hexdigest()
        path = image["path"] or ""
        image = Path(path)
        if not _is_file(image):  # then it is what is read itself: base64, or a URL
            return hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()
    try:
        if not image.is_file():  # a pipe would keep us waiting for its writer
            return "no file"
        with open(image, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return type(error).__name__


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or has NUL in it, as base64 may look
        return False
