"""The encoded pictures of a data set's tweets, by their place."""

import hashlib
import os
from pathlib import Path
from typing import Any

from datasets import DatasetDict, Image

from hamlearning.data.picture_files import find_images


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

    Raises:
        FileNotFoundError: `image_dir` is no folder.
        ValueError: it has two pictures of one name, or nothing but links out of it.
    """

    def __init__(self, tweets: DatasetDict, image_dir: str | os.PathLike | None = None):
        self.image_dir = image_dir
        self._files = None if image_dir is None else find_images(Path(image_dir))
        self._columns = {
            split: dataset.select_columns("image").cast_column("image", Image(decode=False))
            for split, dataset in tweets.items()
            if image_dir is None and "image" in dataset.column_names
        }
        seen: set[str] = set()
        self.ids: list[str] = []
        self._places: list[tuple[str, int]] = []
        for split, dataset in tweets.items():
            if image_dir is None and split not in self._columns:
                continue
            for row, id_ in enumerate(dataset["id"]):
                if id_ not in seen:
                    seen.add(id_)
                    self.ids.append(id_)
                    self._places.append((str(split), row))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_pictures(self) -> bool:
        """Whether any tweet has one, readable or not."""
        if self._files is not None:
            return any(id_ in self._files for id_ in self.ids)
        return any(column.data.column("image").null_count < len(column) for column in self._columns.values())

    def __getitem__(self, index: int) -> Path | dict[str, Any] | None:
        """What `read_image` takes; None for a tweet without a picture."""
        if self._files is not None:
            return self._files.get(self.ids[index])
        split, row = self._places[index]
        return self._columns[split][row]["image"]

    def sha256(self, index: int) -> str:
        """Of the encoded picture; of what is wrong with it if it cannot be read."""
        image = self[index]
        if image is None:
            return "none"
        if isinstance(image, dict):
            if image["bytes"] is not None:
                return hashlib.sha256(image["bytes"]).hexdigest()
            image = Path(image["path"] or "")
        try:
            if not image.is_file():  # a pipe would keep us waiting for its writer
                return "no file"
            with open(image, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            return type(error).__name__
