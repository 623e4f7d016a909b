"""HVPNeT: hierarchical visual prefix for BERT (Chen et al., Findings of NAACL 2022)."""

import copy
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from configuration_hamlearning import PYRAMID_CHANNELS
from hamlearning.rivals.rival import Picture, Rival, RivalConfig, RivalEmissions, RivalProcessor, Text
from modeling_hamlearning import HamLearningExplanation


PREFIX_ATTENTION = "hamlearning_prefix"  # in transformers' registry
LEVELS = 4  # of the pyramid, and rows and levels that are made of it
PYRAMID_SIZE = 4 * sum(PYRAMID_CHANNELS)  # 15360, of 4 cells a channel
PROJECTION_SIZE = 800


@strict
class HVPNeTConfig(RivalConfig):
    r"""Sizes and switches of HVPNeT.

    ```python
    >>> HVPNeTConfig(text_config=bert, use_pyramid=False)  # HVPNeT-lite
    ```

    Args:
        use_pyramid: read `pyramid_features`, of all stages of a ResNet-50; False is HVPNeT-lite, which reads features
            of the last stage alone, of picture and regions.
        num_crops: regions that are read beside the picture, best score first.
        **kwargs: see `RivalConfig`.

    Raises:
        ValueError: `num_crops` is negative; or see `RivalConfig`.
    """

    model_type = "hamlearning_hvpnet"
    _processor_class = "PyramidProcessor"
    use_pyramid: bool = True
    num_crops: int = 3

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.num_crops < 0:
            raise ValueError(f"num_crops={self.num_crops}: must be at least 0.")

    @property
    def visual_columns(self) -> dict[str, int | None]:
        """The pyramid, if it is read."""
        return {"pyramid_features": PYRAMID_SIZE} if self.use_pyramid and self.use_vision else {}


class PyramidProcessor(RivalProcessor):
    """A processor whose batches have `pyramid_features` where rows of a visual feature file have.

    `pyramid_features` (B, P, 15360) of the picture and of its crops, P as many as a picture of the batch has, and
    `pyramid_mask` (B, P).
    """

    def _pad_visual_features(self, rows: Sequence[Mapping[str, Any] | None]) -> dict[str, np.ndarray]:
        padded = super()._pad_visual_features(rows)
        given = {b: row["pyramid_features"] for b, row in enumerate(rows) if row and "pyramid_features" in row}
        if not given:
            return padded
        most = max(map(len, given.values()))
        features = np.zeros((len(rows), most, PYRAMID_SIZE), np.float32)
        mask = np.zeros((len(rows), most), np.int64)
        for b, row in enumerate(rows):
            if row is None:
                continue
            pyramids = np.asarray(row.get("pyramid_features", ()), np.float32)
            if pyramids.ndim != 2 or not len(pyramids) or pyramids.shape[1] != PYRAMID_SIZE:
                raise ValueError(
                    f"visual_features: tweet {b}: pyramid_features has the shape {pyramids.shape}, expected "
                    f"(pictures, {PYRAMID_SIZE}): give those of the picture and of its crops."
                )
            features[b, : len(pyramids)], mask[b, : len(pyramids)] = pyramids, 1
        return padded | {"pyramid_features": features, "pyramid_mask": mask}

    @property
    def model_input_names(self) -> list[str]:
        """What `__call__` returns at most."""
        return [*super().model_input_names, *HVPNeTForTokenClassification.own_inputs]


class Prefix:
    """Keys and values that stand before a text's own, in each layer of its encoder.

    Args:
        states: (B, P, 2 d) a layer, keys and values of P rows.
        mask: (B, P), on for a row of a picture that is there.
        num_heads: of the encoder.
    """

    def __init__(self, states: list[torch.Tensor], mask: torch.Tensor, num_heads: int):
        self.states, self.num_heads = states, num_heads
        num_rows = mask.shape[1]
        # Rows become heads by `reshape` alone, so a head has P pieces of rows, one after the other.
        row_of = torch.arange(num_heads * num_rows, device=mask.device).view(num_heads, num_rows) // num_heads
        self.mask = mask[:, row_of]  # (B, heads, P)

    def of(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, (B, heads, P, d / heads) each."""
        keys, values = (
            half.reshape(len(half), self.num_heads, half.shape[1], -1) for half in self.states[layer].chunk(2, dim=-1)
        )
        return keys, values


def prefix_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    visual_prefix: Prefix | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention of a text to a prefix and itself, (B, heads, S, d / heads) each."""
    attend = ALL_ATTENTION_FUNCTIONS["sdpa"]
    if visual_prefix is None:
        return attend(module, query, key, value, attention_mask, **kwargs)
    keys, values = visual_prefix.of(module.prefix_layer)
    if attention_mask is None:
        attention_mask = query.new_ones(len(query), 1, 1, key.shape[2], dtype=torch.bool)
    prefix_mask = visual_prefix.mask
    if attention_mask.dtype != torch.bool:  # it is added to scores
        nothing = torch.finfo(attention_mask.dtype).min
        prefix_mask = torch.where(prefix_mask, 0, nothing).to(attention_mask)
    size = (*query.shape[:2], attention_mask.shape[2], -1)
    mask = torch.cat([prefix_mask[:, :, None].expand(size), attention_mask.expand(size)], dim=-1)
    keys, values = torch.cat([keys.to(key), key], dim=2), torch.cat([values.to(value), value], dim=2)
    return attend(module, query, keys, values, mask, **kwargs)


ALL_ATTENTION_FUNCTIONS.register(PREFIX_ATTENTION, prefix_attention)


class HVPNeTForTokenClassification(Rival):
    """HVPNeT: in each layer of the text encoder, words also attend to keys and values made of the picture.

    ```python
    >>> model = HVPNeTForTokenClassification.from_text_pretrained("bert-base-uncased", num_labels=9)
    >>> model(**processor(text=tweets, visual_features=rows)).predictions
    ```

    Of the picture and of its crops: the four stages of a ResNet-50, pooled to 2 x 2 cells, side by side and cut into
    four rows R (4, 3840), y = L tanh L R (4, 8d), which is four levels K_1..K_4 (4, 2d). For each layer l of the
    encoder w = softmax(leaky_relu(L_l vec(mean_i K_i))) and the prefix is sum_i w_i K_i: d numbers a row are keys, d
    are values, both reshaped to heads. Emissions: L H. Loss: CRF.

    HVPNeT-lite (`use_pyramid=False`) has one row and one level, y = L tanh L R (1, 2d), R the features of the last
    stage, which is what HamLearning reads; the gate of one level is 1, so all layers have one prefix.

    Settled: as in the public code a row is 960 channels, not a place, and heads are pieces of the flat rows, a row and
    a third each. Crops are the best regions of a detector in the place of grounded noun phrases; those that lack are
    masked (there: black pictures). Without a picture there is no prefix, and this is BERT-CRF.
    """

    config_class = HVPNeTConfig
    processor_class = PyramidProcessor
    own_inputs = ("pyramid_features", "pyramid_mask")

    def __init__(self, config: HVPNeTConfig, text_model: PreTrainedModel | None = None):
        super().__init__(config, text_model)
        text_config: Any = config.text_config
        d, num_layers = config.hidden_size, text_config.num_hidden_layers
        self._open_encoder(num_layers)
        if config.use_pyramid:
            self.row_projection = nn.Linear(PYRAMID_SIZE // LEVELS, PROJECTION_SIZE)
            self.level_projection = nn.Linear(PROJECTION_SIZE, LEVELS * 2 * d)
            self.gates = nn.ModuleList(nn.Linear(LEVELS * 2 * d, LEVELS) for _ in range(num_layers))
        else:
            self.image_projection = nn.Linear(config.image_feature_size, PROJECTION_SIZE)
            self.region_projection = nn.Linear(config.region_feature_size, PROJECTION_SIZE)
            self.level_projection = nn.Linear(PROJECTION_SIZE, 2 * d)
        self.classifier = nn.Linear(d, len(config.tags))
        self.post_init()

    def _open_encoder(self, num_layers: int) -> None:
        """Has the text encoder's attentions take a prefix, and know which layer they are of."""
        encoder = self.model.text_model
        stacks = [m for m in encoder.modules() if isinstance(m, nn.ModuleList) and len(m) == num_layers]
        if len(stacks) != 1 or not hasattr(sys.modules[type(encoder).__module__], "ALL_ATTENTION_FUNCTIONS"):
            raise ValueError(
                f"The text encoder is of the type {encoder.config.model_type!r}, whose attentions take no prefix: "
                "HVPNeT needs one such as BERT, RoBERTa, ELECTRA or DistilBERT."
            )
        # The layers' own: that of the encoder also makes the mask, and whoever loads a model may set it.
        config = copy.deepcopy(encoder.config)
        config._attn_implementation = PREFIX_ATTENTION
        for number, layer in enumerate(stacks[0]):
            module: Any
            for module in layer.modules():
                module.prefix_layer = number
                if hasattr(module, "config"):
                    module.config = config

    def text_options(self, picture: Picture, **own_inputs: torch.Tensor | None) -> dict[str, Any]:
        """The prefix, for the text encoder."""
        rows, mask = self._rows(picture, **own_inputs)  # (B, pictures, rows, levels, 2d) and (B, pictures)
        num_layers, num_rows = self.config.text_config.num_hidden_layers, rows.shape[2]
        if self.config.use_pyramid:
            mean = rows.mean(dim=3).flatten(2)  # vec(mean_i K_i) (B, pictures, 8d)
            scores = [nn.functional.leaky_relu(gate(mean)) for gate in self.gates]
            weights = [score.softmax(dim=-1).to(rows)[:, :, None, :, None] for score in scores]
            states = [(weight * rows).sum(dim=3).flatten(1, 2) for weight in weights]  # (B, P, 2d)
        else:
            states = [rows.flatten(1, 3)] * num_layers
        mask = mask.repeat_interleave(num_rows, dim=1)
        return {"visual_prefix": Prefix(states, mask, self.config.num_attention_heads)}

    def _rows(
        self,
        picture: Picture,
        pyramid_features: torch.Tensor | None = None,  # (B, 1 + crops, 15360)
        pyramid_mask: torch.Tensor | None = None,  # (B, 1 + crops), 1 for a picture or crop that is there
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Levels of rows (B, 1 + crops, rows, levels, 2d) of pictures and crops, and which of these are there."""
        count, there = 1 + self.config.num_crops, picture.is_there[:, None]
        if not self.config.use_pyramid:
            crops, mask = picture.regions[:, : count - 1], picture.region_mask[:, : count - 1]
            lacking = count - 1 - crops.shape[1]
            crops, mask = nn.functional.pad(crops, (0, 0, 0, lacking)), nn.functional.pad(mask, (0, lacking))
            hidden = torch.cat([self.image_projection(picture.image)[:, None], self.region_projection(crops)], dim=1)
            return self.level_projection(torch.tanh(hidden))[:, :, None, None], torch.cat([there, mask], dim=1)
        if pyramid_features is None:
            if bool(picture.is_there.any()):
                raise ValueError(
                    "A picture without pyramid_features, which HVPNeT reads: give rows of a visual feature file that "
                    "has them, or train HVPNeT-lite, use_pyramid=False."
                )
            shape = (len(there), count, PYRAMID_SIZE)
            pyramid_features, mask = picture.image.new_zeros(shape), there.new_zeros(shape[:2])
        else:
            all_on = there.new_ones(pyramid_features.shape[:2])
            mask = there & (all_on if pyramid_mask is None else pyramid_mask.bool())
        lacking = count - pyramid_features.shape[1]  # the batch may have more, or fewer
        mask = nn.functional.pad(mask, (0, lacking))
        pyramids = nn.functional.pad(pyramid_features, (0, 0, 0, lacking)).to(self.dtype)
        pyramids = torch.where(mask[..., None], pyramids, 0)
        levels = self.level_projection(torch.tanh(self.row_projection(pyramids.unflatten(-1, (LEVELS, -1)))))
        return levels.unflatten(-1, (LEVELS, -1)), mask

    def emit(self, text: Text, picture: Picture, **own_inputs: torch.Tensor | None) -> RivalEmissions:
        """Emissions of the words, which have read the prefix."""
        return RivalEmissions(logits=self.classifier(text.words), word_mask=text.mask)

    def explain(self, *args: Any, **kwargs: Any) -> HamLearningExplanation:
        """As `HamLearningForTokenClassification.explain`, of HVPNeT-lite alone.

        Raises:
            ValueError: the model reads pyramids, whose crops hiding a region does not hide; or see there.
        """
        if self.config.use_pyramid:
            raise ValueError(
                "HVPNeT reads crops of the picture, which are there whatever region is hidden: ask HVPNeT-lite, "
                "use_pyramid=False, or another architecture what in the picture decided."
            )
        return super().explain(*args, **kwargs)


MODEL = HVPNeTForTokenClassification
