"""MGCMT: multi-granularity cross-modality representation learning (Liu et al., CIKM 2022)."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedModel, initialization

from hamlearning.rivals.lstm_taggers import read_word_vectors
from hamlearning.rivals.rival import Picture, RivalConfig, RivalEmissions, RivalProcessor, Text, init_as_torch
from hamlearning.rivals.span_rival import SpanRival
from modeling_hamlearning import HamLearningCRF, HamLearningTransformerLayer


NUM_NEIGHBOURS = 4  # of a word, whose vectors are added to its state
NO_WORD, UNKNOWN, FIRST_WORD = 0, 1, 2  # rows of the table of words


@strict
class MGCMTConfig(RivalConfig):
    r"""Sizes and switches of MGCMT.

    ```python
    >>> MGCMTConfig(text_config=bert, num_objects=5)
    ```

    Args:
        auxiliary_weight: of the loss of the text-only tagger of O, B and I.
        num_objects: most objects of a picture, the best, whose classes are read.
        fusion_dropout: share of what the picture gives that is dropped before it is joined to the words.
        grid_feature_size: width of `grid_features` (B, P, size), cells of the whole picture that are an input of
            their own: a further column of a visual feature file, see `write_visual_features`. None: there are none,
            and the regions stand in their place.
        num_known_words: words of `--word_vectors`, whose neighbours are added to the text; 0: nothing is.
        word_vector_size: of their vectors.
        word_vectors_sha256: of those words and vectors, which the weights belong to.
        **kwargs: see `RivalConfig`.

    Raises:
        ValueError: a number is out of range; or see `RivalConfig`.
    """

    model_type = "hamlearning_mgcmt"
    _processor_class = "GridProcessor"
    auxiliary_weight: float | int = 0.5
    num_objects: int = 5
    fusion_dropout: float | int = 0.5
    grid_feature_size: int | None = None
    num_known_words: int = 0
    word_vector_size: int = 200
    word_vectors_sha256: str | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        for name in ("num_objects", "grid_feature_size"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name}={number}: must be at least 1.")
        for name, least in (("num_known_words", 0), ("word_vector_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least {least}.")
        if not 0 <= self.fusion_dropout < 1:
            raise ValueError(f"fusion_dropout={self.fusion_dropout}: must be a share in [0, 1).")

    @classmethod
    def switches(cls) -> tuple[str, ...]:
        """As in `RivalConfig`; what is known of words is that of a file."""
        of_file = ("num_known_words", "word_vector_size", "word_vectors_sha256")
        return tuple(name for name in super().switches() if name not in of_file)

    @property
    def visual_columns(self) -> dict[str, int | None]:
        """The grid, if it is read."""
        size = self.grid_feature_size
        return {"grid_features": size} if size and self.use_vision else {}


class GridProcessor(RivalProcessor):
    """A processor whose batches have `grid_features` (B, P, size) where rows of a visual feature file have.

    Args:
        known_words: those with a vector, lower-cased, in the order of their ids, from 2 on. With them a batch has
            `vocabulary_ids` (B, W), 1 for a word that is none of them, 0 where there is no word.
        **kwargs: see `HamLearningProcessor`.
    """

    def __init__(self, tokenizer: Any, known_words: Sequence[str] = (), **kwargs: Any):
        super().__init__(tokenizer, **kwargs)
        self.known_words = list(known_words)

    def _pad_text(self, tweets: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
        arrays = super()._pad_text(tweets)
        if not self.known_words:
            return arrays
        id_of = _ids_of(tuple(self.known_words))
        ids = np.full((len(tweets), max(map(len, tweets), default=0)), NO_WORD)
        for row, tweet in enumerate(tweets):
            ids[row, : len(tweet)] = [id_of.get(word.lower(), UNKNOWN) for word in tweet]
        return arrays | {"vocabulary_ids": ids}

    def _pad_visual_features(self, rows: Sequence[Mapping[str, Any] | None]) -> dict[str, np.ndarray]:
        padded = super()._pad_visual_features(rows)
        grids = {b: np.asarray(row.get("grid_features", ()), np.float32) for b, row in enumerate(rows) if row}
        shape = next((grid.shape for grid in grids.values() if grid.size), None)
        if shape is None:
            return padded
        cells = np.zeros((len(rows), *shape), np.float32)
        for b, grid in grids.items():
            if grid.shape != shape or grid.ndim != 2:
                raise ValueError(
                    f"visual_features: tweet {b}: grid_features has the shape {grid.shape}, another picture's has "
                    f"{shape}: give each picture as many cells, of one width."
                )
            cells[b] = grid
        return padded | {"grid_features": cells}

    @property
    def model_input_names(self) -> list[str]:
        """What `__call__` returns at most."""
        return [*super().model_input_names, *MGCMTForTokenClassification.own_inputs]


@functools.lru_cache(maxsize=2)
def _ids_of(words: tuple[str, ...]) -> dict[str, int]:
    return {word: index for index, word in enumerate(words, start=FIRST_WORD)}


def neighbours_of(vectors: torch.Tensor) -> torch.Tensor:
    """Of each word the vectors of the four nearest others, summed by the softmax of their cosines: (V, size)."""
    directions = nn.functional.normalize(vectors, dim=1)
    count, found = min(NUM_NEIGHBOURS, len(vectors) - 1), []
    for first in range(0, len(vectors), 1024):
        cosines = directions[first : first + 1024] @ directions.T
        own = torch.arange(len(cosines))
        cosines[own, first + own] = -torch.inf
        cosines, places = cosines.topk(count, dim=1)
        found.append((cosines.softmax(dim=1)[..., None] * vectors[places]).sum(dim=1))
    return torch.cat(found)


class MGCMTGate(nn.Module):
    """Two readings mixed: q = sigmoid(W1 F1 + W2 F2 + b), q F1 + (1 - q) F2."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.first = nn.Linear(hidden_size, hidden_size, bias=False)
        self.second = nn.Linear(hidden_size, hidden_size)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """(..., d) and (..., d) -> (..., d)."""
        share = torch.sigmoid(self.first(first) + self.second(second))
        return share * first + (1 - share) * second


class MGCMTReading(nn.Module):
    """What words read of one kind of thing, cells or objects, at once and after it has read them."""

    def __init__(self, config: MGCMTConfig):
        super().__init__()
        self.keys_layer = HamLearningTransformerLayer(config)  # Self of V or O
        self.queries_layer = HamLearningTransformerLayer(config)  # Self of V' or O
        self.text_reads = HamLearningTransformerLayer(config)  # Cross(X <- V)
        self.reads_text = HamLearningTransformerLayer(config)  # Cross(V' <- X)
        self.text_reads_reading = HamLearningTransformerLayer(config)  # Cross(X <- Cross(V' <- X))

    def forward(
        self,
        words: torch.Tensor,  # X (B, 1 + W, d)
        word_mask: torch.Tensor,  # (B, 1 + W)
        keys: torch.Tensor,  # (B, N, d)
        queries: torch.Tensor,  # (B, N, d)
        mask: torch.Tensor,  # (B, N), with at least one
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns what words read at once and what they read of the reading, (B, 1 + W, d) each."""
        keys, _ = self.keys_layer(keys, keys, mask)
        queries, _ = self.queries_layer(queries, queries, mask)
        seen, _ = self.text_reads(words, keys, mask)
        read, _ = self.reads_text(queries, words, word_mask)
        aligned, _ = self.text_reads_reading(words, read, mask)
        return seen, aligned


class MGCMTForTokenClassification(SpanRival):
    """MGCMT: UMT's reading of the whole picture, and the same of the classes of its objects.

    ```python
    >>> model = MGCMTForTokenClassification.from_text_pretrained("bert-base-cased", num_labels=9)
    >>> model(**processor(text=tweets, visual_features=rows)).predictions
    ```

    With H0 = [h0; H] of the text encoder, G cells of the picture and O the embedded classes of its five best objects:
    X = Self'(H0); V = Self(L G), V' = Self(L' G), F1 = Cross(X <- V), F2 = Cross(X <- Cross(V' <- X)); the same of
    O1 = Self(O), O2 = Self'(O) is F3 and F4. q1 = sigmoid(W1 F1 + W2 F2 + b), U1 = q1 F1 + (1 - q1) F2;
    q2 = sigmoid(W3 F4 + W4 F3 + b'), U2 = q2 F4 + (1 - q2) F3; U = relu L drop[U1; U2], Z = L[X; U], emissions L Z.
    A text-only tagger of O, B, I gives E_a = L Self(H0). Loss: CRF(E, y) + 0.5 CRF(E_a, y_a).

    With `--word_vectors`, a text file, H0 + L a stands in the place of H0, with a_i the softmax-weighted sum of the
    vectors of the four words that are nearest to a word by cosine, one random vector for all words that the file does
    not have, and 0 for [CLS]. No vector is trained.

    Settled: the default of the public code, whose other fusions are switched off. Objects are ids alone: their
    features are loaded there, and not used. Its tweet word2vec is not public: without a file the term is left out. It
    is added to words here, there to their first sub-tokens. Cells are `grid_features`, or the regions where there are
    none. Without a picture U = 0.
    """

    config_class = MGCMTConfig
    processor_class = GridProcessor
    own_inputs = ("grid_features", "vocabulary_ids")
    word_inputs = ("vocabulary_ids",)
    drops_text = False  # but with what is added to it
    word_table: torch.Tensor

    def __init__(self, config: MGCMTConfig, text_model: PreTrainedModel | None = None):
        super().__init__(config, text_model)
        d, cell_size = config.hidden_size, config.grid_feature_size or config.region_feature_size
        self.auxiliary_layer = HamLearningTransformerLayer(config)  # Self
        self.text_layer = HamLearningTransformerLayer(config)  # Self'
        self.cell_keys = nn.Linear(cell_size, d)  # L of V
        self.cell_queries = nn.Linear(cell_size, d)  # L' of V'
        self.class_embedding = nn.Embedding(config.num_classes + 1, d)
        self.cells, self.objects = MGCMTReading(config), MGCMTReading(config)
        self.cell_gate, self.object_gate = MGCMTGate(d), MGCMTGate(d)
        self.picture_fusion = nn.Sequential(nn.Dropout(config.fusion_dropout), nn.Linear(2 * d, d), nn.ReLU())
        self.fusion = nn.Linear(2 * d, d)
        self.classifier = nn.Linear(d, len(config.tags))
        self.auxiliary_classifier = nn.Linear(d, 3)
        self.auxiliary_crf = HamLearningCRF(3, has_transitions=config.use_crf)
        if config.num_known_words:
            self._add_words()
        self.post_init()

    def _add_words(self) -> None:
        """L and a, before their numbers are known."""
        size = self.config.word_vector_size
        self.word_projection = nn.Linear(size, self.config.hidden_size)
        self.register_buffer("word_table", torch.zeros(FIRST_WORD + self.config.num_known_words, size))

    @torch.no_grad()
    def learn_word_vectors(self, file: str) -> dict[str, Any]:
        """Takes words from a text file of vectors; returns what the processor has to know of them.

        ```python
        >>> processor = GridProcessor(tokenizer, tags=model.config.tags, **model.learn_word_vectors("vectors.txt"))
        ```

        Of 100,000 words this takes two minutes on one core: each is compared with all.

        Raises:
            ValueError: see `read_word_vectors`.
        """
        given = read_word_vectors(Path(file))
        vectors = torch.from_numpy(np.stack([*given.values()]))
        config = self.config
        config.num_known_words, config.word_vector_size = vectors.shape
        digest = hashlib.sha256("\n".join(given).encode())
        digest.update(vectors.numpy().tobytes())
        config.word_vectors_sha256 = digest.hexdigest()
        self._add_words()
        self._init_weights(self.word_projection)
        bound = (3 / config.word_vector_size) ** 0.5
        generator = torch.Generator().manual_seed(0)
        self.word_table[UNKNOWN].uniform_(-bound, bound, generator=generator)
        self.word_table[FIRST_WORD:] = neighbours_of(vectors)
        return {"known_words": [*given]}

    def _with_neighbours(self, states: torch.Tensor, ids: torch.Tensor | None) -> torch.Tensor:
        """H0 + L a, (B, 1 + W, d), of words whose ids are (B, W); H0 where no word has a vector."""
        if not self.config.num_known_words:
            return states
        if ids is None:
            raise ValueError(
                f"A text without vocabulary_ids, which a model of {self.config.num_known_words} known words reads: "
                "give what its processor gives."
            )
        ids = nn.functional.pad(ids, (1, states.shape[1] - 1 - ids.shape[1]), value=NO_WORD)
        return states + self.word_projection(self.word_table[ids])

    def emit(self, text: Text, picture: Picture, **own_inputs: torch.Tensor | None) -> RivalEmissions:
        """Emissions L Z of the words, and E_a of the text-only tagger."""
        states, mask = self._with_neighbours(text.states, own_inputs.get("vocabulary_ids")), text.states_mask
        states = self.dropout(states)
        auxiliary, _ = self.auxiliary_layer(states, states, mask)
        words, _ = self.text_layer(states, states, mask)  # X (B, 1 + W, d)
        cells, cell_mask = self._cells(picture, own_inputs.get("grid_features"))
        seen, aligned = self.cells(words, mask, self.cell_keys(cells), self.cell_queries(cells), cell_mask)  # F1, F2
        most = self.config.num_objects
        objects = self.class_embedding(picture.class_ids[:, :most])  # O (B, 5, d)
        told, retold = self.objects(words, mask, objects, objects, picture.keys_mask[:, :most])  # F3, F4
        of_picture = torch.cat([self.cell_gate(seen, aligned), self.object_gate(retold, told)], dim=-1)  # [U1; U2]
        of_picture = torch.where(picture.is_there[:, None, None], self.picture_fusion(of_picture), 0)  # U
        fused = self.fusion(torch.cat([words, of_picture], dim=-1))  # Z
        return RivalEmissions(
            logits=self.classifier(fused[:, 1:]),
            word_mask=text.mask,
            auxiliary_logits=self.auxiliary_classifier(auxiliary[:, 1:]),
        )

    def _read(self, *args: Any, **inputs: Any) -> RivalEmissions:
        if self.config.grid_feature_size and inputs.get("grid_features") is None:
            if self.config.use_vision and inputs.get("image_features") is not None:
                raise ValueError(
                    f"image_features without grid_features: with grid_feature_size={self.config.grid_feature_size} "
                    "the model reads both."
                )
        return super()._read(*args, **inputs)

    def _cells(self, picture: Picture, grid: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """G (B, P, size) and a mask (B, P) with at least one.

        Raises:
            ValueError: `grid_features` are given and not asked for, or of another shape.
        """
        size, batch_size = self.config.grid_feature_size, len(picture.regions)
        if size is None:
            if grid is not None:
                raise ValueError("grid_features with grid_feature_size=None: give the model their width.")
            return picture.regions, picture.keys_mask
        if grid is None:  # nor a picture
            grid = picture.regions.new_zeros(batch_size, 1, size)
        if grid.dim() != 3 or grid.shape[::2] != (batch_size, size) or grid.shape[1] == 0:
            raise ValueError(
                f"grid_features has the shape {tuple(grid.shape)}, expected {(batch_size, 'cells', size)}: tweets and "
                "width must be those of the batch and of the model's config."
            )
        cells = torch.where(picture.is_there[:, None, None], grid, 0).to(self.dtype)
        return cells, torch.ones(cells.shape[:2], dtype=torch.bool, device=cells.device)

    def init_own_weights(self) -> None:
        """PyTorch's ways for what UMT does not have, and a wider one for Z."""
        of_umt = (self.cells.text_reads, self.cells.reads_text, self.cells.text_reads_reading)
        for part in (self.cells, self.objects, self.cell_gate, self.object_gate, self.picture_fusion):
            for module in part.modules():
                if isinstance(module, nn.Linear) and not any(module in layer.modules() for layer in of_umt):
                    init_as_torch(module)
        bound = self.config.hidden_size**-0.5
        for parameter in self.fusion.parameters():
            initialization.uniform_(parameter, -bound, bound)


MODEL = MGCMTForTokenClassification
