"""Rows of a shard to rows of its output."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from hamlearning.data.features import VisualFeatures
from hamlearning.data.picture_files import find_images, picture_of
from hamlearning.tagging.shards import content_sha256
from image_processing_hamlearning import URL, ImageError, download, read_image
from modeling_hamlearning import HamLearningForTokenClassification
from modeling_hamlearning_vision import lasting_settings, prepare_image
from processing_hamlearning import HamLearningProcessor, split_words


NO_TEXT = "there is no text"


@dataclass
class TweetReader:
    """Rows of a shard to rows of its output.

    Args:
        model: in eval mode, on its device.
        processor: its own.
        batch_size: tweets that go through the network together.
        visual_features: by tweet id, in place of pictures.
        image_dir: folder of pictures named by tweet id, in place of those of the shards. Its names are in memory.
        image_subfolders: whether the pictures in its folders are among them.
        hide_pictures: no tweet has its picture.
        mask_words: every word is the mask token.
        extraction_batch_size: pictures that go through the vision model together.
        dtype: of autocast; None for float32.
        opens_urls: whether a picture that is a URL of http or https is downloaded; else it is none.
    """

    model: HamLearningForTokenClassification
    processor: HamLearningProcessor
    batch_size: int = 32
    visual_features: VisualFeatures | None = None
    image_dir: str | None = None
    image_subfolders: bool = False
    hide_pictures: bool = False
    mask_words: bool = False
    extraction_batch_size: int = 8
    dtype: torch.dtype | None = None
    opens_urls: bool = False

    @cached_property
    def pictures(self) -> str:
        """Where pictures come from."""
        if not self.model.config.use_vision:
            return "none"
        if self.hide_pictures:
            return "hidden"
        if self.visual_features is not None:
            return f"features {content_sha256(str(self.visual_features.path))}"
        if self.processor.vision_source is None and self.processor._vision_model is None:
            return "none"
        return "column image" if self.image_dir is None else f"folder {self._folder_sha256}"

    @property
    def needs_ids(self) -> bool:
        """Whether a picture is found by its tweet's id."""
        return self.pictures.startswith(("features", "folder"))

    @property
    def extracts(self) -> bool:
        """Whether visual features are extracted of pictures."""
        return self.pictures.startswith(("column", "folder"))

    @cached_property
    def vision_fingerprint(self) -> str:
        """The fingerprint of the vision model, which is loaded now."""
        self.processor.vision_model.to(self.model.device)
        return self.processor.vision_model.fingerprint()

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the rows of every shard depend on, but for the vision model: a shard may have no pictures."""
        precision = "float32" if self.dtype is None else str(self.dtype).removeprefix("torch.")
        words = "masked" if self.mask_words else "as they are"
        return {"model": self._model_sha256(), "precision": precision, "words": words, "pictures": self.pictures}

    @cached_property
    def _images(self) -> dict[str, Path]:
        return find_images(Path(str(self.image_dir)), self.image_subfolders)

    @cached_property
    def _folder_sha256(self) -> str:
        digest = hashlib.sha256()
        for id_, path in self._images.items():
            status = path.stat()
            digest.update(json.dumps([id_, path.name, status.st_size, status.st_mtime_ns]).encode())
        return digest.hexdigest()

    def _model_sha256(self) -> str:
        """Of weights and settings of the network, and of what makes its inputs."""
        tokenizer, processor = self.processor.tokenizer, self.processor.to_dict()
        vocabulary = tokenizer.get_vocab()
        if tokenizer.is_fast:
            vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())
            del vocabulary["truncation"], vocabulary["padding"]  # those of the last call
        processor.pop("vision_source", None)  # a folder, which may be moved
        config = lasting_settings(json.loads(self.model.config.to_json_string(use_diff=False)))
        config.pop("word_marks")  # which nobody asks who gives words
        digest = hashlib.sha256(json.dumps([config, processor, vocabulary], sort_keys=True, default=str).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    @torch.inference_mode()
    def read(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The output of some rows with `id`, `words` and `image`, in their order.

        A row may have `visual_features`, as a visual feature file has them, in place of its picture. Tweets of like
        length go together: padding costs time.
        """
        found = [{"id": row["id"]} | ({} if row["words"] is not None else {"text_error": NO_TEXT}) for row in rows]
        by_length = [place for place, row in enumerate(rows) if row["words"] is not None]
        by_length.sort(key=lambda place: len(rows[place]["words"]))
        for first in range(0, len(by_length), self.batch_size):
            places = by_length[first : first + self.batch_size]
            features, errors = self._extract([rows[place] for place in places])
            inputs = self.processor(
                text=[self._words(rows[place]["words"]) for place in places], visual_features=features
            )
            autocast = nullcontext() if self.dtype is None else torch.autocast(self.model.device.type, self.dtype)
            with autocast:
                outputs = self.model(**inputs.to(self.model.device))
            columns = {
                "entities": self.processor.post_process_entities(outputs, inputs),
                "relevance": self.processor.post_process_relevance(outputs, inputs),
                "image_error": errors,
                "has_picture": [picture is not None for picture in features],
            }
            for place, *values in zip(places, *columns.values(), strict=True):
                found[place] |= dict(zip(columns, values, strict=True))
        return found

    def _words(self, words: str | list[str | None]) -> str | list[str]:
        if not self.mask_words:
            return words if isinstance(words, str) else [word or "" for word in words]
        count = len(split_words(words, self.processor.word_splitting) if isinstance(words, str) else words)
        tokenizer = self.processor.tokenizer
        return [tokenizer.mask_token or tokenizer.unk_token] * count

    def _extract(self, tweets: Sequence[Mapping[str, Any]]) -> tuple[list[Any], list[str | None]]:
        """The visual features of each tweet's picture, None where there is none, and why one cannot be read."""
        features: list[Any] = [tweet.get("visual_features") for tweet in tweets]
        errors: list[str | None] = [None] * len(tweets)
        if self.visual_features is not None and self.pictures.startswith("features"):
            given = zip(features, tweets, strict=True)
            return [self.visual_features.get(tweet["id"]) if own is None else own for own, tweet in given], errors
        if not self.extracts:
            return features, errors
        images = [tweet["image"] for tweet in tweets]
        if self.image_dir is not None:
            images = [picture_of(tweet["id"], self._images) for tweet in tweets]
            errors = [f"there is no picture of this name in {self.image_dir}" if i is None else None for i in images]
        images = [image if own is None else None for image, own in zip(images, features, strict=True)]
        if all(image is None for image in images):
            return features, errors
        vision_model = self.processor.vision_model
        for first in range(0, len(images), self.extraction_batch_size):
            prepared = []
            for place, image in enumerate(images[first : first + self.extraction_batch_size], start=first):
                try:
                    prepared.append(None if image is None else prepare_image(self._open(image), vision_model.config))
                except ImageError as error:
                    errors[place] = str(error)
                    prepared.append(None)
            extracted = zip(features[first : first + len(prepared)], vision_model.extract(prepared), strict=True)
            features[first : first + len(prepared)] = [new if own is None else own for own, new in extracted]
        return features, errors

    def _open(self, image: Any) -> Image.Image:
        if self.opens_urls and isinstance(image, str) and URL.match(image):
            image = download(image)
        return read_image(image)
