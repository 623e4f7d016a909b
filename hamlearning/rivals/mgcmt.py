"""MGCMT: multi-granularity cross-modality representation learning (Liu et al., CIKM 2022)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedModel, initialization

from hamlearning.rivals.rival import Picture, RivalConfig, RivalEmissions, RivalProcessor, Text, init_as_torch
from hamlearning.rivals.span_rival import SpanRival
from modeling_hamlearning import HamLearningCRF, HamLearningTransformerLayer


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

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        for name in ("num_objects", "grid_feature_size"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name}={number}: must be at least 1.")
        if not 0 <= self.fusion_dropout < 1:
            raise ValueError(f"fusion_dropout={self.fusion_dropout}: must be a share in [0, 1).")

    @property
    def visual_columns(self) -> dict[str, int | None]:
        """The grid, if it is read."""
        size = self.grid_feature_size
        return {"grid_features": size} if size and self.use_vision else {}


class GridProcessor(RivalProcessor):
    """A processor whose batches have `grid_features` (B, P, size) where rows of a visual feature file have."""

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

    Settled: the default of the public code, whose other fusions are switched off. Objects are ids alone: their
    features are loaded there, and not used. It also adds words' neighbours of a tweet word2vec, which is not public,
    to H0: that is left out. Cells are `grid_features`, or the regions where there are none. Without a picture U = 0.
    """

    config_class = MGCMTConfig
    processor_class = GridProcessor
    own_inputs = ("grid_features",)

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
        self.post_init()

    def emit(self, text: Text, picture: Picture, **own_inputs: torch.Tensor | None) -> RivalEmissions:
        """Emissions L Z of the words, and E_a of the text-only tagger."""
        states, mask = text.states, text.states_mask
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
