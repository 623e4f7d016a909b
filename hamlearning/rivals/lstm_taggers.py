"""What the three LSTM taggers share: words and their characters as vectors, and a BiLSTM over them.

They have no text encoder. In its place stands a table of word vectors, whose "sub-tokens" are the words of a
vocabulary, so that all that reads sub-tokens reads theirs.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from huggingface_hub.dataclasses import strict
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    initialization,
)
from transformers.configuration_utils import SubConfigSpec
from transformers.modeling_outputs import BaseModelOutput

from hamlearning.rivals.rival import Picture, Rival, RivalConfig, RivalEmissions, RivalProcessor, Text


logger = logging.getLogger(__name__)

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
PAD, UNKNOWN = 0, 1  # of words, and of characters
WORD_SIZE = 200  # of word vectors that no file gives
MIN_COUNT = 2  # a word or character that occurs once is unknown, so that what is unknown is learned too
MAX_CHARACTERS = 30  # of a word, that are read


@strict
class WordVectorsConfig(PreTrainedConfig):
    """Sizes of a table of word vectors, in the place of a text encoder's config."""

    model_type = "hamlearning_word_vectors"
    vocab_size: int = len(SPECIAL)
    hidden_size: int = WORD_SIZE
    num_hidden_layers: int = 0
    num_attention_heads: int = 1
    pad_token_id: int | None = PAD


class WordVectors(PreTrainedModel):
    """E, a vector a word; U(-0.25, 0.25) where nobody has given one."""

    config_class = WordVectorsConfig
    config: WordVectorsConfig

    def __init__(self, config: WordVectorsConfig):
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            initialization.uniform_(module.weight, -0.25, 0.25)

    def get_input_embeddings(self) -> nn.Module:
        """The table."""
        return self.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Another table."""
        self.embedding: Any = value

    def forward(
        self, input_ids: torch.Tensor | None = None, inputs_embeds: torch.Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutput:
        """(B, S) -> (B, S, d); what is asked of an encoder beside that, such as a mask, changes nothing."""
        states: Any = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        return BaseModelOutput(last_hidden_state=states)


AutoConfig.register(WordVectorsConfig.model_type, WordVectorsConfig, exist_ok=True)
AutoModel.register(WordVectorsConfig, WordVectors, exist_ok=True)


@strict
class LSTMConfig(RivalConfig):
    r"""Sizes and switches of an LSTM tagger.

    Args:
        lstm_size: size of the states of the BiLSTM over words, a direction.
        **kwargs: see `RivalConfig`; `dropout` is 0.5 by default, and `use_vision` can only be False.

    Raises:
        ValueError: a size is less than 1, or `use_vision` is on; or see `RivalConfig`.
    """

    model_type = "hamlearning_lstm"
    sub_configs_defaults = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type=WordVectorsConfig.model_type)
    }
    use_vision: bool = False
    dropout: float | int = 0.5
    lstm_size: int = 200

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        text_config: Any = self.text_config
        if text_config.model_type != WordVectorsConfig.model_type:
            raise ValueError(
                f"text_config is of the type {text_config.model_type!r}: {type(self).__name__} is of a tagger without "
                "a text encoder, whose words have vectors: make it by `from_words`."
            )
        if self.use_vision:
            raise ValueError(f"use_vision=True: {type(self).__name__} is of a tagger that reads words alone.")
        for name in ("lstm_size", *self.sizes):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1.")

    sizes = ()  # names of further fields that are at least 1

    @classmethod
    def switches(cls) -> tuple[str, ...]:
        """As in `RivalConfig`; the number of characters is that of the data."""
        return tuple(name for name in super().switches() if name not in ("num_characters", "picture_dropout"))


class BiLSTM(nn.Module):
    """An LSTM from the first to the last and one from the last to the first, of sequences padded at their end."""

    def __init__(self, input_size: int, size: int):
        super().__init__()
        self.onward = nn.LSTM(input_size, size, batch_first=True)
        self.backward = nn.LSTM(input_size, size, batch_first=True)

    def forward(self, states: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, W, d) and (B,) -> states (B, W, 2 size), and the last one of each direction (B, 2 size).

        The turned sequence is a matter of places, so that the host need not know the lengths.
        """
        place = torch.arange(states.shape[1], device=states.device)
        turned = torch.where(place < lengths[:, None], lengths[:, None] - 1 - place, place)[..., None]  # (B, W, 1)
        onward, _ = self.onward(states)
        backward, _ = self.backward(states.gather(1, turned.expand_as(states)))
        last = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, onward.shape[2])
        ends = torch.cat([onward.gather(1, last), backward.gather(1, last)], dim=-1)[:, 0]
        return torch.cat([onward, backward.gather(1, turned.expand_as(backward))], dim=-1), ends


class LSTMTagger(Rival):
    """Words as vectors, a BiLSTM, a CRF; a subclass says what of a word's characters goes beside its vector."""

    config_class: ClassVar[Any] = LSTMConfig
    drops_text = False
    reads_characters: ClassVar[bool] = False

    def __init__(self, config: Any, text_model: PreTrainedModel | None = None):
        super().__init__(config, text_model)
        size = config.hidden_size + self.add_character_encoder(config)
        self.lstm = BiLSTM(size, config.lstm_size)
        self.classifier = nn.Linear(2 * config.lstm_size, len(config.tags))
        self.post_init()

    def add_character_encoder(self, config: Any) -> int:
        """Makes what `read_characters` needs; returns the size of what that gives."""
        return 0

    def read_characters(self, character_ids: torch.Tensor) -> torch.Tensor:
        """Characters (M, C) of words, 0 where there is none, to a vector a word (M, size)."""
        raise NotImplementedError(f"{type(self).__name__} reads no characters.")

    def emit(self, text: Text, picture: Picture, **own_inputs: torch.Tensor | None) -> RivalEmissions:
        """Emissions L(drop Y) of the words, Y = BiLSTM(drop x), x a word's vector and what its characters say."""
        words = text.words  # E[w] (B, W, d)
        if self.reads_characters:
            ids = own_inputs["character_ids"]
            if ids is None:  # words without characters
                ids = text.mask.new_zeros(*text.mask.shape, 1, dtype=torch.long)
            ids = nn.functional.pad(ids, (0, 0, 0, words.shape[1] - ids.shape[1]))
            words = torch.cat([words, self.read_characters(ids.flatten(0, 1)).unflatten(0, ids.shape[:2])], dim=-1)
        states, _ = self.lstm(self.dropout(words), text.mask.sum(dim=1))
        return RivalEmissions(logits=self.classifier(self.dropout(states)), word_mask=text.mask)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.LSTM):  # as PyTorch has it
            bound = module.hidden_size**-0.5
            for parameter in module.parameters():
                initialization.uniform_(parameter, -bound, bound)
        elif isinstance(module, nn.Embedding):
            bound = (3 / module.embedding_dim) ** 0.5
            initialization.uniform_(module.weight, -bound, bound)

    @classmethod
    def from_words(
        cls, tweets: Iterable[Sequence[str]], word_vectors: str | None = None, **config_kwargs: Any
    ) -> tuple["LSTMTagger", PreTrainedTokenizerFast, dict[str, Any]]:
        """A new tagger of the words of tweets.

        ```python
        >>> model, tokenizer, options = BiLSTMCRFForTokenClassification.from_words(train["tokens"], num_labels=9)
        >>> processor = model.processor_class(tokenizer, tags=model.config.tags, **options)
        ```

        Args:
            tweets: of the train split; the vocabulary is of their words, lower-cased, that occur twice.
            word_vectors: a text file, a line a word, as GloVe has it: its words are known too, with its vectors.
            **config_kwargs: fields of the config.

        Returns:
            The model, its tokenizer, and further arguments of its processor.

        Raises:
            ValueError: see `read_word_vectors`.
        """
        given = {} if word_vectors is None else read_word_vectors(Path(word_vectors))
        counts = Counter(word.lower() for word in chain.from_iterable(tweets))
        vocabulary = {word: index for index, word in enumerate(dict.fromkeys([*SPECIAL, *frequent(counts), *given]))}
        size = len(next(iter(given.values()))) if given else WORD_SIZE
        options: dict[str, Any] = {}
        if cls.reads_characters:
            options["characters"] = frequent(Counter(chain.from_iterable(chain.from_iterable(tweets))))
            config_kwargs["num_characters"] = len(options["characters"]) + 2
        text_config = WordVectorsConfig(vocab_size=len(vocabulary), hidden_size=size)
        model = cls(cls.config_class(text_config=text_config, **config_kwargs), text_model=WordVectors(text_config))
        if given:
            table = model.model.text_model.embedding.weight.data
            table[[vocabulary[word] for word in given]] = torch.from_numpy(np.stack([*given.values()]))
        found = sum(counts[word] for word in counts.keys() & given.keys())
        logger.info(
            f"{len(vocabulary)} words are known, {len(given)} of them of --word_vectors, which has "
            f"{found / max(counts.total(), 1):.1%} of the words of the train split."
        )
        return model, make_tokenizer(vocabulary), options


def frequent(counts: Counter[str]) -> list[str]:
    """What occurs twice or more, the most frequent first."""
    return sorted((name for name in counts if counts[name] >= MIN_COUNT), key=lambda name: (-counts[name], name))


def make_tokenizer(vocabulary: dict[str, int]) -> PreTrainedTokenizerFast:
    """A tokenizer with one piece a word, lower-cased; [UNK] for what is not in the vocabulary."""
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    pad, unknown, cls, sep = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, unk_token=unknown, cls_token=cls, sep_token=sep
    )


def read_word_vectors(path: Path) -> dict[str, np.ndarray]:
    """The vectors (d,) float32 of the words of a text file, lower-cased, the first one of each.

    A line is a word and its numbers, between spaces. A first line of two whole numbers, as word2vec writes it, is no
    word.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line has another number of numbers than the first, or what is none; or there is no line.
    """
    vectors: dict[str, np.ndarray] = {}
    size = None
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            parts = line.rstrip().split(" ")
            if number == 1 and len(parts) == 2 and all(part.isdecimal() for part in parts):
                continue
            size = size or len(parts) - 1
            word, numbers = " ".join(parts[:-size]), parts[-size:]  # some words have spaces
            try:
                vector = np.array(numbers, np.float32)
            except ValueError:
                vector = np.zeros(0)
            if not word or size < 1 or vector.shape != (size,) or not np.isfinite(vector).all():
                raise ValueError(
                    f"--word_vectors {path}, line {number}: {line[:60]!r} is no word and {size} finite numbers: give "
                    "lines as GloVe's files have them."
                )
            vectors.setdefault(word.lower(), vector)
    if not vectors:
        raise ValueError(f"--word_vectors {path} holds no word: give a text file with a word and its numbers a line.")
    return vectors


class CharacterProcessor(RivalProcessor):
    """A processor whose batches have `character_ids` (B, W, C), those of each word, 0 where there is none.

    Args:
        characters: in the order of their ids, from 2 on; all others have the id 1.
        **kwargs: see `HamLearningProcessor`.
    """

    def __init__(self, tokenizer: Any, characters: Sequence[str] = (), **kwargs: Any):
        super().__init__(tokenizer, **kwargs)
        self.characters = list(characters)

    def _pad_text(self, tweets: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
        arrays = super()._pad_text(tweets)
        id_of = {character: index for index, character in enumerate(self.characters, start=UNKNOWN + 1)}
        num_words = max(map(len, tweets), default=0)
        longest = max((len(word) for tweet in tweets for word in tweet), default=0)
        ids = np.full((len(tweets), max(num_words, 1), max(min(longest, MAX_CHARACTERS), 1)), PAD)
        for row, tweet in enumerate(tweets):
            for place, word in enumerate(tweet):
                known = [id_of.get(character, UNKNOWN) for character in word[:MAX_CHARACTERS]]
                ids[row, place, : len(known)] = known
        return arrays | {"character_ids": ids}

    @property
    def model_input_names(self) -> list[str]:
        """What `__call__` returns at most."""
        return [*super().model_input_names, "character_ids"]
