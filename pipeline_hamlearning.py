"""The `transformers` pipeline: tweets, with their pictures or without, to entities."""

import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sized
from functools import partial
from itertools import accumulate
from numbers import Integral, Real
from types import GeneratorType
from typing import Any

from torch.utils.data import DataLoader, Dataset, IterableDataset
from transformers import Pipeline
from transformers.pipelines.pt_utils import PipelineDataset, PipelineIterator


try:
    from .words_hamlearning import hold_in_package
except ImportError:
    if __package__:
        raise
    from words_hamlearning import hold_in_package


# Of a batch. Measured with MiniLM on two cores: two groups of 32 are 1.3 times as fast as 64 tweets of all lengths.
MAX_GROUPS, MIN_GROUP = 4, 32
EXPLAINED_AT_ONCE = 4  # tweets: each goes through the network once for every region
# What transformers' own class does with the pieces of a word: a word is never cut here, so all mean `simple`.
WORD_STRATEGIES = ("simple", "first", "average", "max")


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

    A tweet is a string, or a dict with `text` (or `tokens`, its words) and, if there is a picture, `image`: a URL of
    http or https, or whatever `read_image` takes (a path, bytes, base64, a PIL image, ...); None and NaN are no
    picture, and the dict's other keys are not read. One tweet gives a list of dicts, several (a list, a column of a
    table or data set) a list of such lists; what is read as it goes (a generator, a `KeyDataset`) is answered so.

    Args:
        aggregation_strategy: `simple` (the default) gives a dict an entity, as
            `HamLearningProcessor.post_process_entities` describes it; so do `first`, `average` and `max`, since no
            word is ever cut here. `none` gives a dict a word: `entity` (its tag), `score` (of the entity that the word
            is part of; outside of one the probability of O), `word`, `start`, `end`, `index` (from 1, as transformers
            counts), `probabilities` (of each tag at this word) and `relevance`.
        threshold: entities with a lower score are left out; with `none` their words are tagged O.
        ignore_labels: types, or with `none` tags, that are left out. An empty list asks for O too, so it means `none`
            where no strategy is given.
        is_split_into_words: a list of strings is the words of one tweet, a list of such lists several tweets.
        delimiter: between words; their offsets are those in the text that it makes. By default they are joined as
            `join_words` does it: by spaces, or without where the model's language has none.
        stride: nothing, as a text of any length is one text here.
        max_pixels: most pixels of a picture.
        explain: what in the picture decided each entity, as `HamLearningProcessor.post_process_explanation` has it:
            `picture_effect`, its probability with the picture and without, and `regions`, how much hiding each one
            takes from it.
        batch_size: tweets that go through the network together.
        **kwargs: of `transformers.Pipeline`.

    Raises:
        ValueError: a tweet is no tweet, an argument is unknown or out of range, entities are to be explained and words
            are asked for, or the processor has other tags than the model.
        ImageError: a picture cannot be read. Of several tweets, the message names the place of the one.
    """

    # Keys of a record that say picture and are not `image`: one would go unread without a word.
    picture_names = ("images", "picture", "pictures", "photo", "img", "image_path", "image_url", "pixel_values")
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
        if self.model.config.word_marks is None:
            self.model.config.word_marks = self.processor.word_marks()
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    def _sanitize_parameters(  # pyright: ignore[reportIncompatibleMethodOverride]  # takes these alone
        self,
        aggregation_strategy: str | None = None,
        threshold: float | None = None,
        max_pixels: int | None = None,
        ignore_labels: Iterable[str] | None = None,
        is_split_into_words: bool | None = None,
        delimiter: str | None = None,
        stride: int | None = None,
        explain: bool | None = None,
    ) -> tuple[dict[str, Any], ...]:
        if aggregation_strategy not in (None, "none", *WORD_STRATEGIES):
            raise ValueError(
                f"aggregation_strategy={aggregation_strategy!r}: must be 'none' or 'simple', which 'first', 'average' "
                "and 'max' mean too."
            )
        if ignore_labels is not None:
            ignore_labels = read_labels(ignore_labels)
            if aggregation_strategy is None and not ignore_labels:
                aggregation_strategy = "none"
        if delimiter is not None and not isinstance(delimiter, str):
            raise ValueError(f"delimiter={delimiter!r:.100}: must be a string, that between two words.")
        if stride is not None and (not isinstance(stride, Integral) or stride < 0):
            raise ValueError(
                f"stride={stride!r:.100}: must be a whole number; it is not needed, texts are read whole."
            )
        if threshold is not None and (type(threshold) not in (int, float) or not 0 <= threshold <= 1):
            raise ValueError(f"threshold={threshold!r}: must be a probability, in [0, 1].")
        if explain is not None and not isinstance(explain, bool):
            raise ValueError(f"explain={explain!r:.100}: must be True or False.")
        if max_pixels is not None and (type(max_pixels) is not int or max_pixels < 1):
            raise ValueError(f"max_pixels={max_pixels!r}: must be a whole number, at least 1.")
        preprocess = {
            "max_pixels": max_pixels,
            "is_split_into_words": is_split_into_words,
            "delimiter": delimiter,
        }
        forward = {
            "output_probabilities": None if aggregation_strategy is None else aggregation_strategy == "none",
            "explain": explain,
        }
        postprocess = {
            "aggregation_strategy": aggregation_strategy,
            "threshold": threshold,
            "ignore_labels": ignore_labels,
        }
        return tuple(
            {name: value for name, value in given.items() if value is not None}
            for given in (preprocess, forward, postprocess)
        )

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Entities of one tweet or of each of several."""
        is_split = kwargs.get("is_split_into_words", self._preprocess_params.get("is_split_into_words"))
        several = read_several(inputs)
        if isinstance(several, list) and not several:  # transformers looks at the first one
            return []
        is_list = isinstance(inputs, Collection) and not isinstance(inputs, str | Mapping)
        if is_split and is_list and all(isinstance(word, str) for word in inputs):
            return super().__call__({"tokens": list(inputs)}, **kwargs)
        answers: Any = super().__call__(several, **kwargs)
        return list(answers) if several is not inputs and isinstance(inputs, Sized) else answers

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
        read = partial(self.forward, **forward_params)
        return PipelineIterator(Unbatched(batches, read), self.postprocess, postprocess_params)

    def run_single(
        self,
        inputs: Any,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> list[dict[str, Any]]:
        """Entities of one tweet."""
        outputs: Any
        [outputs] = self.forward([self.preprocess(inputs, **preprocess_params)], **forward_params)
        return self.postprocess(outputs, **postprocess_params)

    def _preprocess_numbered(self, numbered: tuple[int, Any], **params) -> dict[str, Any]:
        number, tweet = numbered
        try:
            return self.preprocess(tweet, **params)
        except ValueError as error:
            raise type(error)(f"tweet {number}: {error}") from error

    def preprocess(  # pyright: ignore[reportIncompatibleMethodOverride]  # its input is a tweet
        self,
        tweet: str | Mapping[str, Any] | list[str],
        max_pixels: int | None = None,
        is_split_into_words: bool = False,
        delimiter: str | None = None,
    ) -> dict[str, Any]:
        """`text` (a string, or words), `image` (a PIL image or None) and, of words, the `delimiter` of a tweet."""
        if hasattr(tweet, "as_py"):  # a scalar of Arrow
            tweet = tweet.as_py()  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(tweet, str) and is_split_into_words:
            raise ValueError(f"{tweet!r:.100} is a text, but is_split_into_words=True: give a list of its words.")
        if isinstance(tweet, str):
            tweet = {"text": tweet}
        elif isinstance(tweet, list | tuple):
            tweet = {"tokens": tweet}
        if not isinstance(tweet, Mapping):
            raise ValueError(f"{tweet!r:.100} is no tweet: give a string, or a dict with `text` and perhaps `image`.")
        read = self._read_text(tweet, delimiter)
        image = tweet.get("image")
        if is_missing(image):
            return read | {"image": None}
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
        return read | {"image": read_image(image, max_pixels or MAX_PIXELS)}

    def _read_text(self, tweet: Mapping[str, Any], delimiter: str | None) -> dict[str, Any]:
        """`text` of a record; and the `delimiter`, where these are words."""
        text, tokens = tweet.get("text"), tweet.get("tokens")
        kinds = {key: type(value).__name__ for key, value in tweet.items()}
        for name in self.picture_names:
            if not is_missing(tweet.get(name)) and is_missing(tweet.get("image")):
                raise ValueError(f"{kinds} has no `image`, but {name!r}, which is not read: call the picture `image`.")
        if isinstance(text, str):
            return {"text": text}
        if "text" not in tweet and isinstance(tokens, Iterable) and not isinstance(tokens, str | bytes | Mapping):
            tokens = list(tokens)
            if all(isinstance(token, str) for token in tokens):
                return {"text": tokens, "delimiter": delimiter}
        raise ValueError(f"{kinds} is no tweet: give `text`, a string, or `tokens`, its words; and perhaps `image`.")

    def _forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # its inputs are tweets
        self, tweets: list[dict[str, Any]], output_probabilities: bool = False, explain: bool = False
    ) -> list[dict[str, Any]]:
        """What the network says of each tweet of a batch. Tweets of like length go together: padding costs time."""
        if explain and output_probabilities:
            raise ValueError(
                "explain=True explains entities, and aggregation_strategy='none' gives words: leave one of them out."
            )
        by_length = sorted(range(len(tweets)), key=lambda place: len(tweets[place]["text"]))
        size = EXPLAINED_AT_ONCE if explain else max(math.ceil(len(tweets) / MAX_GROUPS), MIN_GROUP)
        found: list[dict[str, Any]] = [{}] * len(tweets)
        for first in range(0, len(tweets), size):
            places = by_length[first : first + size]
            answers = self._read([tweets[place] for place in places], output_probabilities, explain)
            for place, answer in zip(places, answers, strict=True):
                found[place] = place_words(answer, tweets[place].get("delimiter"))
        return found

    def _read(self, tweets: list[dict[str, Any]], output_probabilities: bool, explain: bool) -> list[dict[str, Any]]:
        """What the network says of each of some tweets."""
        inputs = self.processor(
            text=[tweet["text"] for tweet in tweets],
            images=[tweet["image"] for tweet in tweets],
            device=self.device,
        )
        if explain:
            network: Any = self.model
            outputs = network.explain(**inputs.to(self.device))
            entities = self.processor.post_process_explanation(outputs, inputs)
        else:
            outputs = self.model(**inputs.to(self.device), output_probabilities=output_probabilities)
            entities = self.processor.post_process_entities(outputs, inputs)
        if getattr(self.model.config, "relevance_matching", "none") != "none":
            entities = [[entity | {"relevance_kind": "probability"} for entity in tweet] for tweet in entities]
        columns = {
            "entities": entities,
            "words": inputs.words,
            "offsets": inputs.offsets,
            "tags": outputs.predictions.tolist(),
            "relevance": self.processor.post_process_relevance(outputs, inputs),
        }
        if output_probabilities:
            columns["probabilities"] = outputs.probabilities.tolist()
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def postprocess(  # pyright: ignore[reportIncompatibleMethodOverride]  # takes what `_forward` gives
        self,
        outputs: dict[str, Any],
        aggregation_strategy: str = "simple",
        threshold: float = 0.0,
        ignore_labels: Collection[str] = (),
    ) -> list[dict[str, Any]]:
        """A dict an entity or a word."""
        entities = [entity for entity in outputs["entities"] if entity["score"] >= threshold]
        if aggregation_strategy != "none":
            return [entity for entity in entities if entity["entity_group"] not in ignore_labels]
        tags = self.processor.tags
        words = []
        for place, (word, (start, end)) in enumerate(zip(outputs["words"], outputs["offsets"], strict=True)):
            probabilities = dict(zip(tags, outputs["probabilities"][place], strict=True))
            words.append(
                {
                    "entity": "O",
                    "score": probabilities.get("O", 0.0),
                    "index": place + 1,
                    "word": word,
                    "start": start,
                    "end": end,
                    "probabilities": probabilities,
                    "relevance": outputs["relevance"],
                }
            )
        for entity in entities:
            for place in range(entity["word_start"], entity["word_end"]):
                words[place] |= {"entity": tags[outputs["tags"][place]], "score": entity["score"]}
        return [word for word in words if word["entity"] not in ignore_labels]


def read_several(inputs: Any) -> Any:
    """Tweets in a form that transformers knows: one, a list, a data set of its own, else a generator.

    Raises:
        ValueError: it is a whole table, of which nobody can say what is text.
    """
    if hasattr(inputs, "columns") and not isinstance(inputs, Mapping):  # pandas, polars
        raise ValueError(
            f"a table of the columns {list(inputs.columns)!r:.100}: give one of them, as in `ner(table['text'])`, or "
            "its rows as dicts, as in `ner(table.to_dict('records'))` (pandas) or `ner(table.to_dicts())` (polars)."
        )
    if isinstance(inputs, str | bytes | Mapping | list | Dataset | GeneratorType) or not isinstance(inputs, Iterable):
        return inputs
    return (tweet for tweet in inputs)


def read_labels(labels: Any) -> list[str]:
    """Names of types or tags, of which one may come bare.

    Raises:
        ValueError: they are none.
    """
    names = [labels] if isinstance(labels, str) or not isinstance(labels, Iterable) else list(labels)
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"ignore_labels={labels!r:.100}: must be a list of types or tags, such as ['O'].")
    return names


def is_missing(value: Any) -> bool:
    """Whether a cell of a table holds nothing: None, NaN, or what pandas has for them."""
    is_nan = isinstance(value, Real) and math.isnan(value)
    return value is None or is_nan or type(value).__name__ in ("NAType", "NaTType")


def place_words(answer: dict[str, Any], delimiter: str | None) -> dict[str, Any]:
    """What was found in words, at its place in the text that a delimiter makes of them; None: where it is."""
    if delimiter is None:
        return answer
    ends = [*accumulate(len(word) + len(delimiter) for word in answer["words"])]
    offsets = [
        (end - len(delimiter) - len(word), end - len(delimiter))
        for end, word in zip(ends, answer["words"], strict=True)
    ]
    entities = []
    for entity in answer["entities"]:
        first, end = entity["word_start"], entity["word_end"]
        word = delimiter.join(answer["words"][first:end])
        entities.append(entity | {"word": word, "start": offsets[first][0], "end": offsets[end - 1][1]})
    return answer | {"offsets": offsets, "entities": entities}


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


hold_in_package(__name__)

__all__ = ["HamLearningPipeline"]
