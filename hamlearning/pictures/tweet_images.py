"""The encoded pictures of a data set's tweets, by their place."""

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, DatasetDict, Image

from hamlearning.data.picture_files import find_images, is_file, picture_of
from processing_hamlearning import PICTURE_KEY


logger = logging.getLogger(__name__)


class TweetImages:
    """The encoded pictures of tweets, by their place: the splits one after the other, what came before left out.

    ```python
    >>> images = TweetImages(load_tweets("prepared/twitter2017"))
    >>> len(images), images.ids[0], type(images[0]["bytes"])
    (4819, '16_05_01_6', <class 'bytes'>)
    ```

    Args:
        tweets: splits with an `id` and, without `image_dir`, an `image` column; a split that has none has no picture.
        image_dir: folder of pictures named by the tweets' ids, such as `16_05_01_6.jpg`.
        image_subfolders: whether those in its folders are among them.
        by_id: whether what becomes of the pictures is looked up by the tweets' ids, so that an id has one. Else each
            row has its own picture, and where an id has several, `ids` has a name for each.

    Attributes:
        ids: Of each picture, the id of its first row; or a name, where another picture has that id.
        keys: Of each row, by split, its picture's entry in `ids`; None for a row without a picture. Empty where the
            pictures are looked up by id.

    Raises:
        FileNotFoundError: `image_dir` is no folder.
        ValueError: it has two pictures of one name, nothing but links out of it, or no picture of a tweet; or, with
            `by_id`, one id stands for two pictures.
    """

    def __init__(
        self,
        tweets: DatasetDict,
        image_dir: str | os.PathLike | None = None,
        image_subfolders: bool = False,
        by_id: bool = True,
    ):
        self.image_dir = image_dir
        self._files = None if image_dir is None else find_images(Path(image_dir), image_subfolders)
        self._columns = {
            split: dataset.select_columns("image").cast_column("image", Image(decode=False))
            for split, dataset in tweets.items()
            if image_dir is None and "image" in dataset.column_names
        }
        self._place_of: dict[str, int] = {}
        self.ids: list[str] = []
        self._places: list[tuple[str, int]] = []
        self.keys: dict[str, list[str | None]] = {}
        for split, dataset in tweets.items():
            keys: list[str | None] = [None] * len(dataset)
            if image_dir is not None or split in self._columns:
                keys = [self._add(id_, (str(split), row), by_id) for row, id_ in enumerate(dataset["id"])]
            if self._files is None and not by_id:
                self.keys[str(split)] = keys
        if self._files is not None and self.ids:
            self._check_files()

    def _add(self, id_: str, place: tuple[str, int], by_id: bool) -> str | None:
        """Takes a row's picture, if it is a new one, and returns its entry in `ids`; None if the row has none."""
        if id_ not in self._place_of:
            self._append(id_, place)
            return None if self._files is None and self._image_at(place) is None else id_
        if self._files is not None:
            return id_
        first = self._places[self._place_of[id_]]
        one, other = self._image_at(first), self._image_at(place)
        if other is None:
            return None
        if one is None:
            self._places[self._place_of[id_]] = place
        elif one != other and _sha256(one) != _sha256(other):
            name = f"{id_} (row {place[1]} of the {place[0]} split)"
            if by_id:
                raise ValueError(
                    f"The id {id_!r} stands for two pictures, of row {first[1]} of the {first[0]} split and of row "
                    f"{place[1]} of the {place[0]} split, and what is made of them is looked up by id: give each "
                    f"picture an id of its own, such as '{place[0]}-{id_}'."
                )
            self._append(name, place)
            return name
        return id_

    def _append(self, name: str, place: tuple[str, int]) -> None:
        self._place_of[name] = len(self.ids)
        self.ids.append(name)
        self._places.append(place)

    def _image_at(self, place: tuple[str, int]) -> dict[str, Any] | None:
        split, row = place
        return self._columns[split][row]["image"]

    def _check_files(self) -> None:
        """Names that do not fit are a slip that nobody would notice: the model would learn from text alone."""
        found = sum(self._file_of(id_) is not None for id_ in self.ids)
        if not self._files:
            raise ValueError(f"{self.image_dir} has no picture: give the folder of the tweets' pictures.")
        if found == 0:
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
        return self._image_at(self._places[index])

    def sha256(self, index: int) -> str:
        """Of the encoded picture; of what is wrong with it if it cannot be read."""
        return _sha256(self[index])


def with_picture_keys(dataset: Dataset, keys: list[str | None]) -> Dataset:
    """Says of each row which picture is its own; not where the ids say it already."""
    if keys == dataset["id"][:]:
        return dataset
    dataset = dataset.remove_columns([*({PICTURE_KEY} & set(dataset.column_names))])
    return dataset.add_column(PICTURE_KEY, pa.array(keys, pa.string()))


def picture_keys(dataset: Dataset) -> list[str | None]:
    """By what each row's picture is looked up."""
    return dataset[PICTURE_KEY if PICTURE_KEY in dataset.column_names else "id"][:]


def _sha256(image: Path | dict[str, Any] | None) -> str:
    if image is None:
        return "none"
    if isinstance(image, dict):
        if image["bytes"] is not None:
            return hashlib.sha256(image["bytes"]).hexdigest()
        path = image["path"] or ""
        image = Path(path)
        if not is_file(image):  # then it is what is read itself: base64, or a URL
            return hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()
    try:
        if not image.is_file():  # a pipe would keep us waiting for its writer
            return "no file"
        with open(image, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return type(error).__name__
