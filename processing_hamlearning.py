"""Tweets and pictures to model inputs, model outputs to entities."""

import copy
import json
import math
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, compress, count, repeat, starmap
from numbers import Integral
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
import torch
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import PROCESSOR_NAME, cached_file


try:
    from .marks_hamlearning import BEGINS, ENDS, PROBES, pack_marks, read_marks
    from .windows_hamlearning import plan_windows
    from .words_hamlearning import (
        SURROGATES,
        TAGS,
        WORD_SPLITTINGS,
        entity_spans,
        hold_in_package,
        join_words,
        split_words,
    )
except ImportError:
    if __package__:
        raise
    from marks_hamlearning import BEGINS, ENDS, PROBES, pack_marks, read_marks
    from windows_hamlearning import plan_windows
    from words_hamlearning import (
        SURROGATES,
        TAGS,
        WORD_SPLITTINGS,
        entity_spans,
        hold_in_package,
        join_words,
        split_words,
    )


VISION_FOLDER = "vision"
PICTURE_KEY = "picture_key"  # the column of rows whose picture is not found by their id
# An endpoint looks for a file `handler.py`, loads it by its path, and has the repo's folder on its path of imports.
HANDLER_CODE = 'from serving_hamlearning import RaisingHandler as EndpointHandler\n\n\n__all__ = ["EndpointHandler"]\n'
VISION_SOURCE_KEYS = ("pretrained_model_name_or_path", "revision", "subfolder")
# What of a visual feature file's row becomes model inputs: type, dimensions, width of the last one (None: the vision
# model's).
VISUAL_COLUMNS = {
    "image_size": (np.int64, 1, 2),
    "image_features": (np.float32, 1, None),
    "boxes": (np.float32, 2, 4),
    "class_ids": (np.int64, 1, None),
    "features": (np.float32, 2, None),
}
REGION_COLUMNS = ("boxes", "class_ids", "features")
# What a batch holds beside its tensors, as attributes.
TEXT_ATTRIBUTES = ("texts", "words", "offsets", "num_windows")


def _checked_size(name: str, size: Any, least: int = 1, purpose: str = "", is_optional: bool = False) -> Any:
    """A whole number, of NumPy too; ValueError if it is none, or less than the least."""
    if size is None and is_optional:
        return None
    if not isinstance(size, Integral) or isinstance(size, bool) or int(size) < least:
        raise ValueError(f"{name}={size!r:.100}: must be a whole number, at least {least}{purpose}.")
    return int(size)


def _checked_tags(tags: Iterable[str]) -> list[str]:
    """ValueError if they are no names of tags."""
    if isinstance(tags, str | bytes | Mapping) or not isinstance(tags, Iterable):
        raise ValueError(f"tags={tags!r:.100}: must be a list of names.")
    tags, known = list(tags), set()
    for place, tag in enumerate(tags):
        if not isinstance(tag, str) or tag in ("", "B", "B-", "I", "I-"):
            raise ValueError(f"tags[{place}]={tag!r:.100}: must be a name, such as 'O' or 'B-PER'.")
        if tag in known:
            raise ValueError(f"tags[{place}]={tag!r:.100} is there twice: give each tag once.")
        known.add(tag)
    return tags


def _checked_vision_source(source: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """ValueError if it holds more than a place: it comes from a repo's config, which may not say how to load."""
    if source is None:
        return None
    if not isinstance(source, Mapping):
        raise ValueError(f"vision_source={source!r:.100}: must be an object of {', '.join(VISION_SOURCE_KEYS)}.")
    for name, value in source.items():
        if name not in VISION_SOURCE_KEYS:
            raise ValueError(f"vision_source has {name!r:.100}: it takes {', '.join(VISION_SOURCE_KEYS)} alone.")
        if value is not None and not isinstance(value, str | os.PathLike):
            raise ValueError(f"vision_source: {name}={value!r:.100}: must be a string.")
    return {name: None if value is None else os.fspath(value) for name, value in source.items()}


def _starts(counts: np.ndarray) -> np.ndarray:
    """Where each of several runs of these lengths starts in one flat array."""
    return np.cumsum(counts) - counts


class HamLearningInputs(BatchFeature):
    """What the processor returns: tensors as items, and as attributes the texts that they were made of.

    ```python
    >>> inputs = processor(text="Loved watching the Huskies warm up")
    >>> model(**inputs), inputs.words
    ```

    The attributes go with a batch to another process, to another device and into a copy; not into a new batch that
    somebody makes of the items alone.
    """

    def __getattr__(self, item: str) -> Any:
        if item != "data" and item in self.data:
            return self.data[item]
        if item in TEXT_ATTRIBUTES:
            raise AttributeError(
                f"These inputs have lost their {item}: they were made anew of the tensors alone, as `Trainer` and "
                "accelerate do where they gather or pad a batch. Keep what the processor returned, and use that."
            )
        raise AttributeError(f"{type(self).__name__} has no {item!r}, neither a tensor nor an attribute.")

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class HamLearningProcessor(ProcessorMixin):
    r"""Tokenizer, word alignment and visual features in one; and the way back, from outputs to entities.

    ```python
    >>> processor = AutoProcessor.from_pretrained(repo, trust_remote_code=True)
    >>> inputs = processor(text="Loved watching the Huskies warm up", images="game.jpg")
    >>> inputs.words
    [['Loved', 'watching', 'the', 'Huskies', 'warm', 'up']]
    >>> processor.post_process_entities(model(**inputs), inputs)
    [[{'entity_group': 'ORG', 'word': 'Huskies', 'start': 19, 'end': 26, 'score': 0.97, ...}]]
    ```

    Args:
        tokenizer: of the text encoder, fast or slow; it must have a [CLS] and a [SEP] token (by whatever name).
        tags: names of the tags in the order of their ids.
        word_splitting: how raw text is split into words, `punctuation`, `tweet` or `characters`; see
            `split_words`.
        max_length: most sub-tokens that are read at once, [CLS] and [SEP] included. A longer tweet is read in windows
            of whole words.
        stride: words that a window shares with the one before it, half of that one at most.
        max_regions: most regions of a picture, best score first.
        image_feature_size: size D_i of the pictures' features that the model takes; None: not checked.
        region_feature_size: size D_f of the regions' features that the model takes; None: not checked.
        num_classes: number of the detector's classes; None: not checked.
        vision_source: where the frozen vision model lies that turns pictures into features: `subfolder`, `revision`
            and `pretrained_model_name_or_path` of `HamLearningVisionModel.from_pretrained`, without the last for a
            folder beside this processor's own files. It is loaded when the first picture comes. None: there is
            none, only `visual_features` are taken.

    Raises:
        ValueError: the tokenizer lacks a special token or all others, `word_splitting` is unknown, `max_length`
            leaves no room for a word, or another argument is of the wrong type or out of range.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tags: Sequence[str] = TAGS,
        word_splitting: str = "punctuation",
        max_length: int = 128,
        stride: int = 32,
        max_regions: int = 15,
        image_feature_size: int | None = None,
        region_feature_size: int | None = None,
        num_classes: int | None = None,
        vision_source: Mapping[str, Any] | None = None,
        **kwargs,
    ):
        super().__init__(tokenizer, **kwargs)
        if word_splitting not in WORD_SPLITTINGS:
            raise ValueError(f"word_splitting={word_splitting!r}: must be 'punctuation', 'tweet' or 'characters'.")
        missing = [n for n in ("cls_token", "sep_token", "unk_token", "pad_token") if getattr(tokenizer, n) is None]
        if missing:
            raise ValueError(
                f"The tokenizer {tokenizer.name_or_path!r} has no {' and no '.join(missing)}: set it, as in "
                "`AutoTokenizer.from_pretrained(..., cls_token='<s>')`, or take another text encoder."
            )
        if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
            # What transformers makes of a tokenizer whose vocabulary the Hub did not send.
            raise ValueError(
                f"The tokenizer {tokenizer.name_or_path!r} knows no word, only {tokenizer.all_special_tokens}: its "
                "vocabulary was not found. Load it again; if that does not help, its tokenizer.json is missing."
            )
        self.tags = _checked_tags(tags)
        self.word_splitting = word_splitting
        self.max_length = _checked_size("max_length", max_length, 3, " for [CLS], a sub-token and [SEP]")
        self.stride = _checked_size("stride", stride, 0)
        self.max_regions = _checked_size("max_regions", max_regions)
        self.image_feature_size = _checked_size("image_feature_size", image_feature_size, is_optional=True)
        self.region_feature_size = _checked_size("region_feature_size", region_feature_size, is_optional=True)
        self.num_classes = _checked_size("num_classes", num_classes, is_optional=True)
        self.vision_source = _checked_vision_source(vision_source)
        self._vision_model = None
        self._hub_options: dict[str, Any] = {}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any) -> Self:
        """A processor that was saved: a folder or Hub id, and what else `ProcessorMixin.from_pretrained` takes.

        Raises:
            OSError: its `processor_config.json` is missing or cannot be downloaded.
            ValueError: it is no JSON object, or holds what `HamLearningProcessor` does not take.
        """
        options = ("cache_dir", "local_files_only", "revision", "subfolder", "token")
        found = {name: kwargs[name] for name in options if kwargs.get(name) is not None}
        # Where the Hub does not send it, transformers would go on with the arguments' defaults, other tags and all.
        try:
            settings = Path(cached_file(pretrained_model_name_or_path, PROCESSOR_NAME, **found) or PROCESSOR_NAME)
        except OSError as error:
            if not os.path.isdir(pretrained_model_name_or_path):
                raise
            raise OSError(
                f"{pretrained_model_name_or_path} has no {PROCESSOR_NAME}: the processor is missing, which knows the "
                "words and the tags. Save the one that the model was trained with beside it, "
                f"`processor.save_pretrained({str(pretrained_model_name_or_path)!r})`; a tokenizer alone can make "
                "one, `HamLearningProcessor(tokenizer, tags=model.config.tags)`."
            ) from error
        try:
            is_object = isinstance(json.loads(settings.read_text(encoding="utf-8")), dict)
        except (ValueError, RecursionError):
            is_object = False
        if not is_object:
            raise ValueError(f"{settings} holds no JSON object: copy or download it again.")
        processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        if processor.vision_source is not None and "pretrained_model_name_or_path" not in processor.vision_source:
            place, revision = str(pretrained_model_name_or_path), kwargs.get("revision")
            home = {"pretrained_model_name_or_path": os.path.abspath(place) if os.path.isdir(place) else place}
            if revision is not None:
                # `AutoProcessor` has looked up its commit: the vision model is of the same one, also after saving.
                home["revision"] = getattr(revision, "resolved", revision)
            processor.vision_source = {**home, **processor.vision_source}
        # How this machine reaches the Hub is no part of where the vision model lies: it is never saved.
        options = ("cache_dir", "local_files_only", "token")
        processor._hub_options = {name: kwargs[name] for name in options if kwargs.get(name) is not None}
        return processor

    def save_pretrained(
        self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any
    ) -> list[str]:
        """Saves the processor, the code that serves the model, and the vision model, into `vision/`, if it is loaded.

        A vision model that is not loaded is not copied: the saved processor finds it where this one does. With
        `push_to_hub` it all goes to the Hub too; `kwargs` are `repo_id` and what `push_to_hub` takes.
        """
        source = self.vision_source
        if self._vision_model is not None:
            self._vision_model.save_pretrained(os.path.join(save_directory, VISION_FOLDER))
            source = {"subfolder": VISION_FOLDER}
        elif source is not None and os.path.realpath(save_directory) == os.path.realpath(
            source.get("pretrained_model_name_or_path", "")
        ):
            # Back into the folder that has them: it may be moved or pushed later, so no path goes into it.
            source = {name: source[name] for name in source if name != "pretrained_model_name_or_path"}
        saved = copy.copy(self)
        saved.vision_source, saved._vision_model = source, None
        files = super(HamLearningProcessor, saved).save_pretrained(save_directory)
        self._save_serving_code(save_directory)
        if push_to_hub:  # not by the base class: it would leave out the vision model, which it did not write
            self.push_to_hub(kwargs.pop("repo_id", os.path.basename(os.path.abspath(save_directory))), **kwargs)
        return files

    @staticmethod
    def _save_serving_code(save_directory: str | os.PathLike) -> None:
        """Copies pipeline and endpoint handler, which no other file of a repo imports."""
        try:
            from .pipeline_hamlearning import HamLearningPipeline
            from .serving_hamlearning import EndpointHandler
        except ImportError:
            if __package__:
                raise
            from pipeline_hamlearning import HamLearningPipeline
            from serving_hamlearning import EndpointHandler
        for served in (HamLearningPipeline, EndpointHandler):
            custom_object_save(served, save_directory)
        Path(save_directory, "handler.py").write_text(HANDLER_CODE, encoding="utf-8")

    def to_dict(self) -> dict[str, Any]:
        """What `processor_config.json` holds: everything but the weights of the vision model."""
        if self._vision_model is None:
            return super().to_dict()
        blind = copy.copy(self)
        blind._vision_model = None
        return blind.to_dict()

    @property
    def vision_model(self) -> Any:
        """The frozen vision model, a `HamLearningVisionModel`; loaded now if it was not.

        Raises:
            ValueError: this processor has none.
            ImportError: timm or torchvision is not installed.
            OSError: it is missing or cannot be downloaded.
        """
        if self._vision_model is None:
            if self.vision_source is None:
                raise ValueError(
                    "This processor has no vision model (vision_source=None), because its model learned from a visual "
                    "feature file: give `visual_features`, or set `processor.vision_model` to the one that made it."
                )
            try:
                from .modeling_hamlearning_vision import HamLearningVisionModel
            except ImportError:
                if __package__:
                    raise
                from modeling_hamlearning_vision import HamLearningVisionModel
            try:
                vision_model = HamLearningVisionModel.from_pretrained(**self.vision_source, **self._hub_options)
            except OSError as error:  # transformers' does not always say whose connection it was
                raise OSError(f"The vision model cannot be loaded from {self.vision_source}: {error}") from error
            self.vision_model = vision_model
        return self._vision_model

    @vision_model.setter
    def vision_model(self, vision_model: Any) -> None:
        sizes = {
            "image_feature_size": vision_model.image_feature_size,
            "region_feature_size": vision_model.region_feature_size,
            "num_classes": len(vision_model.config.class_names),
        }
        for name, size in sizes.items():
            if getattr(self, name) not in (None, size):
                raise ValueError(
                    f"The vision model has {name} {size}, the model takes {getattr(self, name)}: give the one that it "
                    "was trained with."
                )
        self._vision_model = vision_model

    @property
    def model_input_names(self) -> list[str]:
        """What `__call__` returns at most."""
        return [
            "input_ids", "attention_mask", "word_ids", "image_features", "region_features", "region_boxes",
            "region_class_ids", "region_mask", "image_mask", "image_sizes", "windows", "labels",
        ]  # fmt: skip

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]  # pictures may lack, videos do not come
        self,
        text: str | Sequence[str] | Sequence[Sequence[str]],
        images: Any = None,
        visual_features: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None,
        word_labels: Sequence[int | str] | Sequence[Sequence[int | str]] | None = None,
        is_split_into_words: bool = False,
        device: str | torch.device | None = None,
        return_tensors: str = "pt",
    ) -> HamLearningInputs:
        """Model inputs of one tweet or a batch, padded to the longest.

        Args:
            text: a raw text, a list of raw texts, or a list of lists of words; with `is_split_into_words` a list of
                strings is the words of one tweet.
            images: a picture a tweet, None for a tweet without one: whatever `read_image` takes, such as a PIL image,
                a path or bytes. A single one for a single tweet.
            visual_features: in place of `images`, a row of a visual feature file a tweet (`image_size`,
                `image_features`, `boxes`, `class_ids`, `features`), None for a tweet without a picture.
            word_labels: a tag (name or id) a word, for tweets given as words.
            is_split_into_words: see `text`.
            device: where the vision model runs; where it is already if None, at first on the CPU.
            return_tensors: only "pt".

        Returns:
            `input_ids`, `attention_mask`, `word_ids` (B, S); with a picture in the batch `image_features` (B, D_i),
            `region_features` (B, N, D_f), `region_boxes` (B, N, 4), `region_class_ids`, `region_mask` (B, N),
            `image_mask` (B,), `image_sizes` (B, 2); with a tweet that is longer than `max_length` `windows` (B, K, 2),
            first word and word after the last of each window, (0, 0) where a tweet has fewer; with `word_labels`
            `labels` (B, W), -100 on padding. Attributes, a list a tweet: `words`, their `offsets` (start, end) in
            `texts` (of words: what `join_words` gives), and `num_windows`, in how many each tweet is read.

        Raises:
            ValueError: counts of tweets, words and tags differ, a tag is unknown, visual features are not such, or a
                picture came and there is no vision model.
            ImageError: a picture cannot be read; the message names its place in the list.
        """
        if return_tensors != "pt":
            raise ValueError(f"return_tensors={return_tensors!r}: HamLearning takes PyTorch tensors, 'pt'.")
        if isinstance(text, str):
            tweets, is_single = [text], True
        else:
            is_single = is_split_into_words and (not text or isinstance(text[0], str))
            tweets: Sequence[Any] = [text] if is_single else text
        if isinstance(tweets, bytes | Mapping) or not isinstance(tweets, Iterable):
            raise ValueError(f"text is {tweets!r:.100}: give a string, or a list of strings or of lists of words.")
        texts, words, offsets = (
            zip(*starmap(self._read_tweet, enumerate(tweets)), strict=True) if tweets else ((), (), ())
        )

        if images is not None:
            if visual_features is not None:
                raise ValueError("images and visual_features were both given: the features are those of the images.")
            is_one = isinstance(images, str | bytes | Mapping) or not hasattr(images, "__len__")
            images = [images] if is_one or is_single and not isinstance(images, list | tuple) else images
            self._check_count("images", len(images), len(words))
            visual_features = self.extract_visual_features(images, device=device)
        if visual_features is not None:
            visual_features = [visual_features] if isinstance(visual_features, Mapping) else visual_features
        labels: Any = None if word_labels is None else [word_labels] if is_single else word_labels
        data = self.model_inputs(words, visual_features, labels)
        inputs: Any = HamLearningInputs(data)  # with attributes that are no tensors
        inputs.texts, inputs.words, inputs.offsets = list(texts), list(words), list(offsets)
        inputs.num_windows = [1] * len(words)
        if "windows" in data:
            inputs.num_windows = (data["windows"][..., 1] > 0).sum(dim=1).clamp(min=1).tolist()
        return inputs

    def model_inputs(
        self,
        words: Sequence[Sequence[str]],
        visual_features: Sequence[Mapping[str, Any] | None] | None = None,
        word_labels: Sequence[Sequence[int | str]] | None = None,
    ) -> dict[str, torch.Tensor]:
        """The tensors that `__call__` returns, of words alone.

        What a data collator needs. No step of it is a loop over tweets in Python, but over those that are longer than
        `max_length`.

        Args:
            words: a list a tweet.
            visual_features: see `__call__`; an entry a tweet.
            word_labels: see `__call__`; an entry a tweet.

        Raises:
            ValueError: see `__call__`.
        """
        data = self._pad_text(words)
        if visual_features is not None:
            self._check_count("visual_features", len(visual_features), len(words))
            data |= self._pad_visual_features(visual_features)
        if word_labels is not None:
            self._check_count("word_labels", len(word_labels), len(words))
            data["labels"] = self._pad_tags(word_labels, words)
        return {name: torch.from_numpy(array) for name, array in data.items()}

    def count_sub_tokens(self, words: Sequence[Sequence[str]]) -> np.ndarray:
        """How many sub-tokens of each tweet the network reads, [CLS] and [SEP] included: (B,).

        A tweet that is read in windows counts for as many whole ones: more than `max_length`.

        Args:
            words: a list a tweet.
        """
        pieces, word, lengths = self._distinct_words(words)
        of_words = np.split(np.fromiter(map(len, pieces), np.int64, len(pieces))[word], np.cumsum(lengths)[:-1])
        sizes = np.fromiter((2 + counts.sum() for counts in of_words), np.int64, len(lengths))
        for row in np.flatnonzero(sizes > self.max_length):
            sizes[row] = self.max_length * len(plan_windows(of_words[row], self.max_length - 2, self.stride))
        return sizes

    def extract_visual_features(
        self, images: Sequence[Any], batch_size: int = 8, device: str | torch.device | None = None
    ) -> list[dict[str, np.ndarray] | None]:
        """The visual features: a row of a visual feature file (without its id) a picture.

        ```python
        >>> rows = processor.extract_visual_features(["game.jpg", None])
        >>> rows[0]["boxes"].shape, rows[1]
        ((15, 4), None)
        >>> inputs = processor(text=tweets, visual_features=rows)
        ```

        Args:
            images: pictures, None for no picture.
            batch_size: pictures that are in memory at a time.
            device: see `__call__`.

        Raises:
            ValueError: this processor has no vision model.
            ImageError: a picture cannot be read; the message names its place in the list.
        """
        if all(image is None for image in images):
            return [None] * len(images)
        if device is not None:
            self.vision_model.to(device)
        rows = []
        for first in range(0, len(images), batch_size):
            rows += self.vision_model.extract_images(images[first : first + batch_size], first)
        return rows

    def post_process_entities(self, outputs: Any, inputs: BatchFeature) -> list[list[dict[str, Any]]]:
        """The entities of each tweet.

        Args:
            outputs: what `HamLearningForTokenClassification` returns in eval mode.
            inputs: what the processor returned for the same tweets.

        Returns:
            A list of entities a tweet, each with `entity_group` (type), `word` (its text), `start` and `end` (its
            place in the text, `text[start:end]`), `score` (the probability of exactly this entity), `word_start` and
            `word_end` (first word, word after the last), and `relevance` (|C^r| of Eq 8 a view, semantic first, or the
            one probability of a model with `relevance_matching`; None without a picture).

        Raises:
            ValueError: the outputs come from a model in training mode, or the inputs have lost their texts.
        """
        if not all(hasattr(inputs, name) for name in ("texts", "offsets")):
            raise ValueError(
                f"inputs is of the type {type(inputs).__name__} and holds no texts: give what the processor returned, "
                "no dict made of its tensors."
            )
        if outputs.predictions is None:
            raise ValueError("The outputs hold no predictions: call `model.eval()` first.")
        predictions, scores = outputs.predictions.tolist(), outputs.scores.float().tolist()
        relevance = self.post_process_relevance(outputs, inputs)
        entities = []
        for row, (text, offsets) in enumerate(zip(inputs.texts, inputs.offsets, strict=True)):
            tags = [self.tags[tag] for tag in predictions[row] if tag != -100]
            entities.append(
                [
                    {
                        "entity_group": entity_type,
                        "word": text[offsets[first][0] : offsets[end - 1][1]],
                        "start": offsets[first][0],
                        "end": offsets[end - 1][1],
                        "score": scores[row][first],
                        "word_start": first,
                        "word_end": end,
                        "relevance": relevance[row],
                    }
                    for entity_type, first, end in entity_spans(tags)
                ]
            )
        return entities

    def post_process_explanation(self, outputs: Any, inputs: BatchFeature) -> list[list[dict[str, Any]]]:
        """The entities of each tweet, and what in its picture decided each of them.

        Args:
            outputs: what `HamLearningForTokenClassification.explain` returns.
            inputs: what the processor returned for the same tweets.

        Returns:
            What `post_process_entities` returns, each entity with two keys more, None where there is no picture.

            `picture_effect`: `with` and `without`, the entity's probability with the picture and without it; `effect`,
            how much the natural logarithm of the probability falls when the picture is hidden (0.69: it is halved;
            below 0: it rises); and `entity_group`, the type of these very words without the picture, None where they
            are no entity then.

            `regions`: of each region, in the order of the vision model, `box` (x_c, y_c, h, w) in [0, 1], `class_name`
            (None where no vision model is at hand that knows it), and `effect` and `entity_group` as above, of hiding
            this region.

        Raises:
            ValueError: see `post_process_entities`.
        """
        found = self.post_process_entities(outputs, inputs)
        if outputs.picture_effects is None:
            return [[entity | {"picture_effect": None, "regions": None} for entity in tweet] for tweet in found]
        explained = []
        for row, entities in enumerate(found):
            types = [self.types_of_words(tags) for tags in outputs.region_predictions[row].tolist()]
            types_without = self.types_of_words(outputs.picture_predictions[row].tolist())
            regions = self._shown_regions(inputs, row)
            explained.append([])
            for entity in entities:
                span = (entity["word_start"], entity["word_end"])
                effects = outputs.region_effects[row, span[0]].tolist()
                effect = float(outputs.picture_effects[row, span[0]])
                picture_effect = {
                    "with": entity["score"],
                    "without": min(math.exp(math.log(entity["score"]) - effect), 1.0) if entity["score"] else 0.0,
                    "effect": effect,
                    "entity_group": types_without.get(span),
                }
                of_regions = [
                    region | {"effect": effects[place], "entity_group": types[place].get(span)}
                    for place, region in regions
                ]
                has_picture = bool(inputs["image_mask"][row])
                explained[-1].append(
                    entity
                    | {
                        "picture_effect": picture_effect if has_picture else None,
                        "regions": of_regions if has_picture else None,
                    }
                )
        return explained

    def types_of_words(self, tag_ids: Sequence[int]) -> dict[tuple[int, int], str]:
        """The type of each entity by its first word and the word after its last."""
        tags = [self.tags[tag] for tag in tag_ids if tag != -100]
        return {(first, end): entity_type for entity_type, first, end in entity_spans(tags)}

    def _shown_regions(self, inputs: BatchFeature, row: int) -> list[tuple[int, dict[str, Any]]]:
        """Place, `box` and `class_name` of each region of a tweet's picture."""
        names = None if self._vision_model is None else self._vision_model.config.class_names
        shown = []
        for place in inputs["region_mask"][row].nonzero()[:, 0].tolist():
            class_id = int(inputs["region_class_ids"][row, place])
            class_name = names[class_id] if names is not None and class_id < len(names) else None
            box = [round(side, 6) for side in inputs["region_boxes"][row, place].tolist()]
            shown.append((place, {"box": box, "class_name": class_name}))
        return shown

    def post_process_relevance(self, outputs: Any, inputs: BatchFeature) -> list[list[float] | None]:
        """|C^r| of Eq 8 of each tweet's picture: a figure a view, semantic first; None where there is no picture.

        Of a model with `relevance_matching` it is one figure, the probability that the picture is the tweet's own.

        Args:
            outputs: what the model returns.
            inputs: what the processor returned for the same tweets.
        """
        if outputs.relevance is None or "image_mask" not in inputs:
            return [None] * len(inputs["input_ids"])
        rows = zip(outputs.relevance.float().abs().tolist(), inputs["image_mask"].tolist(), strict=True)
        return [row if has_picture else None for row, has_picture in rows]

    def _read_tweet(self, number: int, tweet: str | Sequence[str]) -> tuple[str, list[str], list[tuple[int, int]]]:
        """Text, words and the words' (start, end) in the text, of a raw text or of words."""
        if isinstance(tweet, str):
            spans = split_words(tweet, self.word_splitting)
            return tweet, [tweet[start:end] for start, end in spans], spans
        if isinstance(tweet, Mapping) or not isinstance(tweet, Iterable):
            raise ValueError(f"text: tweet {number} is {tweet!r:.100}: give a string or a list of words.")
        tweet = list(tweet)
        for place, word in enumerate(tweet):
            if not isinstance(word, str):
                raise ValueError(f"text: word {place} of tweet {number} is {word!r:.100}: give a string a word.")
        joined, spans = join_words(tweet, self.word_splitting)
        return joined, tweet, spans

    def _word_pieces(self, vocabulary: Sequence[str]) -> list[list[int]]:
        """Sub-tokens of each word. Words are tokenized one by one, so they never slide.

        A byte-level tokenizer gives another sub-token to a word behind a space: such a word gets its space.
        """
        tokenizer = self.tokenizer
        space = "" if tokenizer.tokenize("a") == tokenizer.tokenize(" a") else " "
        readable = [SURROGATES.sub("\ufffd", word).lstrip(" ") for word in vocabulary]
        readable = [word and space + word for word in readable]
        pieces = tokenizer(readable, add_special_tokens=False, verbose=False)["input_ids"] if readable else []
        # A word without any sub-token is the unknown one; of one that alone exceeds the limit the first are read.
        return [(word_pieces or [tokenizer.unk_token_id])[: self.max_length - 2] for word_pieces in pieces]

    def word_marks(self) -> dict[str, Any] | None:
        """What the sub-tokens' own marks (`##`, `▁` and their like) tell of words, for `config.word_marks`.

        ```python
        >>> model.config.word_marks = processor.word_marks()  # before `model.save_pretrained`
        ```

        With it a model finds the words by itself where it is given no `word_ids`.

        Returns:
            `pieces`, the mark of each sub-token, packed; and `is_exact`, whether words and sub-tokens are then those
            of this processor, as with WordPiece and `punctuation`. None where the tokenizer has no marks.
        """
        marks = read_marks(self.tokenizer, self.word_splitting)
        return None if marks is None else {"is_exact": self._are_exact(marks), "pieces": pack_marks(marks)}

    def _are_exact(self, marks: Sequence[int]) -> bool:
        """Whether raw text gives the same sub-tokens and words without this processor, by its tokenizer and marks."""
        for text in PROBES:
            _, words, _ = self._read_tweet(0, text)
            arrays = self._pad_text([words])
            begins = np.flatnonzero(np.diff(arrays["word_ids"][0], prepend=0) > 0)
            pieces = self.tokenizer(text, verbose=False)["input_ids"]
            before = [ENDS, *(marks[piece] for piece in pieces[1:])]
            begun = [k for k in range(1, len(pieces) - 1) if marks[pieces[k]] & BEGINS or before[k - 1] & ENDS]
            if pieces != arrays["input_ids"][0].tolist() or begun != begins.tolist():
                return False
        return True

    def _distinct_words(self, tweets: Sequence[Sequence[str]]) -> tuple[list[list[int]], np.ndarray, np.ndarray]:
        """Sub-tokens of each distinct word; which of them each word is, all tweets in one row; words of each tweet."""
        id_of = dict(zip(dict.fromkeys(chain.from_iterable(tweets)), count()))
        lengths = np.fromiter(map(len, tweets), np.int64, len(tweets))
        word = np.fromiter(map(id_of.__getitem__, chain.from_iterable(tweets)), np.int64, lengths.sum())
        return self._word_pieces(list(id_of)), word, lengths

    def _pad_text(self, tweets: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
        """`input_ids`, `attention_mask` and `word_ids` (B, S); `windows` (B, K, 2), if a tweet needs several."""
        pieces, word, lengths = self._distinct_words(tweets)
        num_pieces = np.fromiter(map(len, pieces), np.int64, len(pieces))
        flat_pieces = np.fromiter(chain.from_iterable(pieces), np.int64, num_pieces.sum())
        first_piece = _starts(num_pieces)
        tweet = np.repeat(np.arange(len(tweets)), lengths)
        word_id = np.arange(1, len(word) + 1) - _starts(lengths)[tweet]
        end = np.cumsum(num_pieces[word])
        end -= np.concatenate([[0], end])[_starts(lengths)][tweet]  # sub-tokens of its tweet up to the word's last

        # Every sub-token, at its place in the padded arrays.
        counts = num_pieces[word]
        owner = np.repeat(np.arange(len(word)), counts)
        within = np.arange(len(owner)) - _starts(counts)[owner]
        row, column = tweet[owner], 1 + (end - counts)[owner] + within
        sizes = 2 + np.bincount(row, minlength=len(tweets))
        input_ids = np.full((len(tweets), sizes.max(initial=0)), self.tokenizer.pad_token_id)
        word_ids = np.full_like(input_ids, -1)
        input_ids[row, column] = flat_pieces[first_piece[word[owner]] + within]
        word_ids[row, column] = word_id[owner]
        input_ids[:, :1], word_ids[:, :1] = self.tokenizer.cls_token_id, 0
        input_ids[np.arange(len(tweets)), sizes - 1] = self.tokenizer.sep_token_id
        attention_mask = (np.arange(input_ids.shape[1]) < sizes[:, None]).astype(np.int64)
        arrays = {"input_ids": input_ids, "attention_mask": attention_mask, "word_ids": word_ids}
        if sizes.max(initial=0) > self.max_length:
            arrays["windows"] = self._pad_windows(np.split(num_pieces[word], np.cumsum(lengths)[:-1]), sizes)
        return arrays

    def _pad_windows(self, num_pieces: Sequence[np.ndarray], sizes: np.ndarray) -> np.ndarray:
        """The windows of tweets (B, K, 2), of which each word's sub-tokens and all together are counted."""
        plans = [
            plan_windows(counts, self.max_length - 2, self.stride) if size > self.max_length else [(0, len(counts))]
            for counts, size in zip(num_pieces, sizes, strict=True)
        ]
        windows = np.zeros((len(plans), max(map(len, plans)), 2), np.int64)
        for row, plan in enumerate(plans):
            windows[row, : len(plan)] = plan
        return windows

    def _pad_tags(self, word_labels: Sequence[Sequence[int | str]], words: Sequence[Sequence[str]]) -> np.ndarray:
        """Tag ids of the words, (B, W), -100 on padding."""
        try:
            counts = np.fromiter(map(len, word_labels), np.int64, len(word_labels))
            given = [*chain.from_iterable(word_labels)]
            known = {tag: index for index, tag in enumerate(self.tags)} | {i: i for i in range(len(self.tags))}
            flat = np.fromiter(map(known.get, given, repeat(-1)), np.int64, len(given))
        except TypeError as error:
            raise ValueError(
                f"word_labels are no lists of tags ({error}): give a list a tweet, a tag a word."
            ) from None
        for row in np.flatnonzero(counts != np.fromiter(map(len, words), np.int64, len(words)))[:1]:
            raise ValueError(
                f"word_labels: tweet {row} has {counts[row]} tags for {len(words[row])} words {words[row]}: "
                "give one tag a word."
            )
        row = np.repeat(np.arange(len(counts)), counts)
        column = np.arange(len(flat)) - _starts(counts)[row]
        for bad in np.flatnonzero(flat < 0)[:1].tolist():
            tweet, place = int(row[bad]), int(column[bad])
            raise ValueError(
                f"word_labels: tweet {tweet}, word {place} ({words[tweet][place]!r}) has the tag "
                f"{word_labels[tweet][place]!r}, which is not among the processor's tags {self.tags}: correct it or "
                "set `tags`."
            )
        padded = np.full((len(counts), max(counts.max(initial=0), 1)), -100)
        padded[row, column] = flat
        return padded

    def _pad_visual_features(self, rows: Sequence[Mapping[str, Any] | None]) -> dict[str, np.ndarray]:
        """Visual features of a batch; nothing at all if no tweet of it has a picture."""
        image_mask = np.fromiter(map(partial(operator.is_not, None), rows), bool, len(rows))
        with_picture = np.flatnonzero(image_mask)
        if not len(with_picture):
            return {}
        pictures: list[Any] = [*compress(rows, image_mask)]
        flat = self._flat_visual_features(pictures)
        if flat is None:  # lists in place of arrays, or something that is wrong
            flat = self._flat_visual_features(self._regular_arrays(pictures, with_picture))
            assert flat is not None  # they are as it wants them, or an error was raised
        self._check_visual_values(flat, with_picture)
        counts = flat.pop("counts")
        row = np.repeat(with_picture, counts)
        column = np.arange(len(row)) - np.repeat(_starts(counts), counts)
        num_regions = counts.max()
        padded = {"image_sizes": np.ones((len(rows), 2), np.int64), "image_mask": image_mask.astype(np.int64)}
        padded["image_sizes"][with_picture] = flat.pop("image_size")
        padded["image_features"] = np.zeros((len(rows), flat["image_features"].shape[1]), np.float32)
        padded["image_features"][with_picture] = flat.pop("image_features")
        for name, array in flat.items():
            padded[f"region_{name}"] = np.zeros((len(rows), num_regions, *array.shape[1:]), array.dtype)
            padded[f"region_{name}"][row, column] = array
        padded["region_mask"] = np.zeros((len(rows), num_regions), np.int64)
        padded["region_mask"][row, column] = 1
        return padded

    def _flat_visual_features(self, pictures: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray] | None:
        """Rows of a visual feature file as flat arrays, best regions only; None where they are not regular arrays.

        `counts` (P,) of regions, `image_size` (P, 2), `image_features` (P, D_i), `boxes` (R, 4), `class_ids` (R,) and
        `features` (R, D_f), of P pictures with R regions in all.
        """
        names = list(VISUAL_COLUMNS)
        try:
            columns = dict(zip(names, zip(*map(operator.itemgetter(*names), pictures), strict=True), strict=True))
            counts = np.array([[*map(len, columns[name])] for name in REGION_COLUMNS])
            flat = {
                name: np.concatenate(column) if name in REGION_COLUMNS else np.stack(column)
                for name, column in columns.items()
            }
        except (KeyError, TypeError, ValueError):
            return None
        widths = {"image_features": self.image_feature_size, "features": self.region_feature_size}
        for name, (dtype, dims, width) in VISUAL_COLUMNS.items():
            array, width = flat[name], widths.get(name, width)
            is_number = array.dtype.kind in ("iu" if dtype == np.int64 else "f")
            dims += name not in REGION_COLUMNS  # that of the pictures
            if not is_number or array.ndim != dims or width not in (None, array.shape[-1]):
                return None
            flat[name] = array.astype(dtype, copy=False)
        if (counts != counts[0]).any():
            return None
        counts = counts[0]
        if counts.max() > self.max_regions:
            within = np.arange(counts.sum()) - np.repeat(_starts(counts), counts)
            flat |= {name: flat[name][within < self.max_regions] for name in REGION_COLUMNS}
            counts = np.minimum(counts, self.max_regions)
        return {"counts": counts, **flat}

    def _regular_arrays(
        self, pictures: Sequence[Mapping[str, Any]], tweets: np.ndarray
    ) -> list[dict[str, np.ndarray]]:
        """Rows of a visual feature file as arrays of the sizes that belong together; ValueError names the tweet."""
        of_model = {"image_features": self.image_feature_size, "features": self.region_feature_size}
        widths = dict(of_model)
        regular = []
        for tweet, picture in zip(tweets, pictures, strict=True):

            def fail(problem: str, tweet: int = tweet) -> NoReturn:
                raise ValueError(f"visual_features: tweet {tweet}: {problem}")

            arrays = {}
            for name, (dtype, dims, width) in VISUAL_COLUMNS.items():
                if name not in picture:
                    fail(f"{name} is missing: give a row of a visual feature file.")
                try:
                    given = np.asarray(picture[name])
                    with np.errstate(invalid="ignore"):  # NaN as an integer: below it is seen to be none
                        array = given.astype(dtype)
                except (TypeError, ValueError, OverflowError, RuntimeError) as error:
                    fail(f"{name} is no array of numbers ({error}): give lists of one length.")
                if given.dtype.kind not in "biuf":
                    fail(f"{name} is no array of numbers (but of {given.dtype}): give lists of one length.")
                if dtype == np.int64 and (array != given).any():
                    fail(f"{name} {given.tolist()} are no integers of 64 bits: give such.")
                if name in REGION_COLUMNS and array.size == 0:  # no region, perhaps as an empty list
                    arrays[name] = array[:0]
                    continue
                if array.ndim != dims:
                    fail(f"{name} has the shape {array.shape}: it must have {dims} dimension{'s' * (dims > 1)}.")
                if name in widths and widths[name] is None:
                    widths[name] = array.shape[-1]  # the first one's, if the model does not say
                width = widths.get(name, width)
                if width not in (None, array.shape[-1]):
                    whose = "the model takes" if of_model.get(name, width) else "those of the tweets before have"
                    fail(f"{name} of size {array.shape[-1]}, {whose} {width}: use the vision model of its training.")
                arrays[name] = array
            counts = {name: len(arrays[name]) for name in REGION_COLUMNS}
            if len(set(counts.values())) > 1:
                fail(f"{', '.join(f'{count} {name}' for name, count in counts.items())}: give one of each a region.")
            regular.append(arrays)
        # An empty array has the width of the others.
        no_region = {
            "boxes": np.zeros((0, 4), np.float32),
            "class_ids": np.zeros(0, np.int64),
            "features": np.zeros((0, widths["features"] or 0), np.float32),
        }
        return [arrays if len(arrays["boxes"]) else arrays | no_region for arrays in regular]

    def _check_visual_values(self, flat: dict[str, np.ndarray], tweets: np.ndarray) -> None:
        """ValueError, with the tweet, where a number of `_flat_visual_features` cannot be."""
        tweet_of_region = np.repeat(tweets, flat["counts"])

        def first(bad: Any) -> list[int]:
            return np.flatnonzero(bad)[:1].tolist()

        def fail(tweet: int, problem: str) -> NoReturn:
            raise ValueError(f"visual_features: tweet {tweet}: {problem}")

        for i in first((flat["image_size"] < 1).any(1)):
            fail(tweets[i], f"image_size {flat['image_size'][i].tolist()}: give (width, height) in pixels.")
        for name, owners in (("image_features", tweets), ("features", tweet_of_region)):
            for i in first(~np.isfinite(flat[name]).all(1)):
                fail(
                    owners[i], f"{name} hold NaN or infinite values: extract them again, or give None for no picture."
                )
        boxes, class_ids = flat["boxes"], flat["class_ids"]
        low, high = boxes[:, :2] - boxes[:, 3:1:-1] / 2, boxes[:, :2] + boxes[:, 3:1:-1] / 2
        for i in first(~((boxes[:, 2:] > 0).all(1) & (low >= -1e-4).all(1) & (high <= 1 + 1e-4).all(1))):
            fail(
                tweet_of_region[i],
                f"box {boxes[i].tolist()} is no (x_c, y_c, h, w) inside [0, 1] with an area: clamp or drop it.",
            )
        last_class = np.inf if self.num_classes is None else self.num_classes
        for i in first((class_ids < 0) | (class_ids > last_class)):
            fail(
                tweet_of_region[i],
                f"class id {class_ids[i]} is outside 0..{last_class}: the detector is not the model's.",
            )

    @staticmethod
    def _check_count(name: str, count: int, num_tweets: int) -> None:
        if count != num_tweets:
            raise ValueError(f"{name} are for {count} tweets, text is {num_tweets}: give one entry a tweet.")


@dataclass
class HamLearningDataCollator:
    """Rows of a data set to a batch for the model.

    ```python
    >>> collator = HamLearningDataCollator(processor, VisualFeatures("features.parquet"))
    >>> args = TrainingArguments("outputs/mine", remove_unused_columns=False)
    >>> Trainer(model, args, data_collator=collator, train_dataset=load_tweets("twitter2017")["train"])
    ```

    `Trainer` removes every column that `forward` does not take, these among them, unless `remove_unused_columns` is
    False.

    Args:
        processor: makes the tensors.
        visual_features: rows of a visual feature file by image id; a tweet whose `id` it lacks has no picture.
            None: no tweet has one. Rows with a `picture_key` are looked up by that: its own picture is another
            one than that of the other rows with its id.
    """

    processor: HamLearningProcessor
    visual_features: Mapping[str, Mapping[str, Any]] | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Rows with `tokens`, with `id` if there are visual features, and, if known, `ner_tags`.

        Raises:
            ValueError: a column is missing, or only some rows have tags; or see `HamLearningProcessor.model_inputs`.
        """

        def column(name: str) -> list:
            try:
                return [*map(operator.itemgetter(name), rows)]
            except KeyError:
                raise ValueError(
                    f"A row has no {name!r}, only {', '.join(rows[0]) or 'nothing'}: `Trainer` removes what `forward` "
                    "does not take, so give `TrainingArguments(remove_unused_columns=False)`."
                ) from None

        visual_features = None
        if self.visual_features is not None:
            visual_features = [*map(self.visual_features.get, column(PICTURE_KEY if PICTURE_KEY in rows[0] else "id"))]
        num_tagged = sum(map(operator.contains, rows, repeat("ner_tags")))
        if 0 < num_tagged < len(rows):
            raise ValueError(f"{num_tagged} of {len(rows)} rows have ner_tags: give all of them, or none.")
        word_labels = column("ner_tags") if num_tagged else None
        return self.processor.model_inputs(column("tokens"), visual_features, word_labels)


HamLearningProcessor.register_for_auto_class("AutoProcessor")
hold_in_package(__name__)

__all__ = ["HamLearningDataCollator", "HamLearningInputs", "HamLearningProcessor", "entity_spans", "split_words"]
