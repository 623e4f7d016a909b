"""The `transformers` pipeline: tweets, with their pictures or without, to entities."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

from torch.utils.data import DataLoader, Dataset, IterableDataset
from transformers import Pipeline
from transformers.pipelines.pt_utils import PipelineDataset, PipelineIterator


# Of a batch. Measured with MiniLM on two cores: two groups of 32 are 1.3 times as fast as 64 tweets of all lengths.
MAX_GROUPS, MIN_GROUP = 4, 32


class HamLearningPipeline(Pipeline):
    """Named entities of tweets, with their pictures or without.

    ```python
    >>> ner = pipeline(model="ORG/hamlearning-twitter2017", trust_remote_code=True)
    >>> ner({"text": "Loved watching the Huskies warm up", "image": "game.jpg"})
    [{'entity_group': 'ORG', 'word': 'Huskies', 'start': 19, 'end': 26, 'score': 0.97, ...}]
    >>> ner(["just a text", {"text": "and one", "image": None}], batch_size=32)
    [[], []]
    >>> for entities in ner(KeyDataset(tweets, "text"), batch_size=32):  # data sets and generators are read as they go
    ...     print(entities)
    ```

    A tweet is a string, or a dict with `text` and, if there is a picture, `image`: a URL of http or https, or whatever
    `read_image` takes (a path, bytes, base64, a PIL image, ...). One tweet gives a list of dicts, several give a list
    of such lists.

    Args:
        aggregation_strategy: `simple` (the default) gives a dict an entity, as
            `HamLearningProcessor.post_process_entities` describes it. `none` gives a dict a word: `entity` (its tag),
            `score` (of the entity that the word is part of, None outside of one), `word`, `start`, `end`, `index`
            (from 1, as transformers counts) and `relevance`.
        threshold: entities with a lower score are left out; with `none` their words are tagged O.
        max_pixels: most pixels of a picture.
        batch_size: tweets that go through the network together.
        **kwargs: of `transformers.Pipeline`.

    Raises:
        ValueError: a tweet is no tweet, an argument is unknown or out of range, or the processor has other tags than
            the model.
        ImageError: a picture cannot be read. Of several tweets, the message names the place of the one.
    """

    processor: Any  # a `HamLearningProcessor`, perhaps of a repo's own code
    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if list(self.processor.tags) != list(self.model.config.tags):
            raise ValueError(
                f"The processor has the tags {self.processor.tags}, the model {self.model.config.tags}: give the two "
                "that were saved together."
            )

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Saves model, processor, their vision model if loaded, and all code: a folder that `pipeline` loads."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    def _sanitize_parameters(  # pyright: ignore[reportIncompatibleMethodOverride]  # takes these alone
        self,
        aggregation_strategy: str | None = None,
        threshold: float | None = None,
        max_pixels: int | None = None,
    ) -> tuple[dict[str, Any], ...]:
        if aggregation_strategy not in (None, "simple", "none"):
            raise ValueError(f"aggregation_strategy={aggregation_strategy!r}: must be 'simple' or 'none'.")
        if threshold is not None and (type(threshold) not in (int, float) or not 0 <= threshold <= 1):
            raise ValueError(f"threshold={threshold!r}: must be a probability, in [0, 1].")
        if max_pixels is not None and (type(max_pixels) is not int or max_pixels < 1):
            raise ValueError(f"max_pixels={max_pixels!r}: must be a whole number, at least 1.")
        preprocess = {"max_pixels": max_pixels}
        postprocess = {"aggregation_strategy": aggregation_strategy, "threshold": threshold}
        return tuple(
            {name: value for name, value in given.items() if value is not None}
            for given in (preprocess, {}, postprocess)
        )

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Entities of one tweet or of each of several."""
        if isinstance(inputs, list) and not inputs:  # transformers looks at the first one
            return []
        return super().__call__(inputs, **kwargs)

    def get_iterator(
        self,
        inputs: Iterable[Any],
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> PipelineIterator:
        """Entities of several tweets, `batch_size` of them at a time, read as they are asked for."""
        if isinstance(inputs, Sized):
            tweets = PipelineDataset(Numbered(inputs), self._preprocess_numbered, preprocess_params)
        else:
            tweets = PipelineIterator(enumerate(inputs), self._preprocess_numbered, preprocess_params)
            num_workers = min(num_workers, 1)  # each further worker would read the whole of it again
        batches = DataLoader(tweets, num_workers=num_workers, batch_size=batch_size, collate_fn=list)
        return PipelineIterator(Unbatched(batches, self.forward), self.postprocess, postprocess_params)

    def run_single(
        self,
        inputs: Any,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> list[dict[str, Any]]:
        """Entities of one tweet."""
        outputs: Any
        [outputs] = self.forward([self.preprocess(inputs, **preprocess_params)])
        return self.postprocess(outputs, **postprocess_params)

    def _preprocess_numbered(self, numbered: tuple[int, Any], **params) -> dict[str, Any]:
        number, tweet = numbered
        try:
            return self.preprocess(tweet, **params)
        except ValueError as error:
            raise type(error)(f"tweet {number}: {error}") from error

    def preprocess(  # pyright: ignore[reportIncompatibleMethodOverride]  # its input is a tweet
        self, tweet: str | Mapping[str, Any], max_pixels: int | None = None
    ) -> dict[str, Any]:
        """`text` and `image` (a PIL image or None) of a tweet."""
        if isinstance(tweet, str):
            tweet = {"text": tweet}
        if not isinstance(tweet, Mapping):
            raise ValueError(f"{tweet!r:.100} is no tweet: give a string, or a dict with `text` and perhaps `image`.")
        if not isinstance(tweet.get("text"), str) or not set(tweet) <= {"text", "image"}:
            kinds = {key: type(value).__name__ for key, value in tweet.items()}
            raise ValueError(f"{kinds} is no tweet: give `text`, a string, perhaps `image`, and no other key.")
        image = tweet.get("image")
        if image is None:
            return {"text": tweet["text"], "image": None}
        if not self.model.config.use_vision:
            raise ValueError("image: this model was trained on text alone and reads no pictures: leave it out.")
        try:  # not at the top: texts alone need no Pillow
            from .image_processing_hamlearning import MAX_PIXELS, URL, download, read_image
        except ImportError:
            if __package__:
                raise
            from image_processing_hamlearning import MAX_PIXELS, URL, download, read_image
        if isinstance(image, str) and URL.match(image):
            image = download(image)
        return {"text": tweet["text"], "image": read_image(image, max_pixels or MAX_PIXELS)}

    def _forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # its inputs are tweets
        self, tweets: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """What the network says of each tweet of a batch. Tweets of like length go together: padding costs time."""
        by_length = sorted(range(len(tweets)), key=lambda place: len(tweets[place]["text"]))
        size = max(math.ceil(len(tweets) / MAX_GROUPS), MIN_GROUP)
        found: list[dict[str, Any]] = [{}] * len(tweets)
        for first in range(0, len(tweets), size):
            places = by_length[first : first + size]
            for place, answer in zip(places, self._read([tweets[place] for place in places]), strict=True):
                found[place] = answer
        return found

    def _read(self, tweets: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What the network says of each of some tweets."""
        inputs = self.processor(
            text=[tweet["text"] for tweet in tweets],
            images=[tweet["image"] for tweet in tweets],
            device=self.device,
        )
        outputs = self.model(**inputs.to(self.device))
        columns = {
            "entities": self.processor.post_process_entities(outputs, inputs),
            "words": inputs.words,
            "offsets": inputs.offsets,
            "tags": outputs.predictions.tolist(),
            "relevance": self.processor.post_process_relevance(outputs, inputs),
        }
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def postprocess(  # pyright: ignore[reportIncompatibleMethodOverride]  # takes what `_forward` gives
        self, outputs: dict[str, Any], aggregation_strategy: str = "simple", threshold: float = 0.0
    ) -> list[dict[str, Any]]:
        """A dict an entity or a word."""
        if aggregation_strategy == "simple":
            return [entity for entity in outputs["entities"] if entity["score"] >= threshold]
        words = [
            {
                "entity": "O",
                "score": None,
                "index": index,
                "word": word,
                "start": start,
                "end": end,
                "relevance": outputs["relevance"],
            }
            for index, (word, (start, end)) in enumerate(zip(outputs["words"], outputs["offsets"], strict=True), 1)
        ]
        for entity in outputs["entities"]:
            if entity["score"] >= threshold:
                for place in range(entity["word_start"], entity["word_end"]):
                    tag = self.processor.tags[outputs["tags"][place]]
                    words[place] |= {"entity": tag, "score": entity["score"]}
        return words


class Numbered(Dataset):
    """A collection of tweets as (place, tweet)."""

    def __init__(self, tweets: Any):
        self.tweets = tweets

    def __len__(self) -> int:
        return len(self.tweets)

    def __getitem__(self, place: int) -> tuple[int, Any]:
        return place, self.tweets[place]


class Unbatched(IterableDataset):
    """What `forward` makes of batches of tweets, tweet by tweet."""

    def __init__(self, batches: DataLoader, forward: Callable[[list], Any]):
        self.batches = batches
        self.forward = forward

    def __len__(self) -> int:
        tweets: Any = self.batches.dataset
        return len(tweets)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for tweets in self.batches:
            yield from self.forward(tweets)


__all__ = ["HamLearningPipeline"]
