"""UMGF: unified multimodal graph fusion (Zhang et al., AAAI 2021)."""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedModel, initialization
from transformers.modeling_layers import GradientCheckpointingLayer

from hamlearning.rivals.rival import Picture, Rival, RivalConfig, RivalEmissions, Text, init_as_torch


@strict
class UMGFConfig(RivalConfig):
    r"""Sizes and switches of UMGF.

    ```python
    >>> UMGFConfig(text_config=bert, num_fusion_layers=3)
    ```

    Args:
        fusion_size: m, the width of both streams.
        num_fusion_heads: of the attentions inside a stream.
        num_fusion_layers: rounds of fusion.
        num_fusion_regions: most regions of a picture, the best.
        dropout: of the streams; there is none straight after the text encoder.
        **kwargs: see `RivalConfig`.

    Raises:
        ValueError: a number is less than 1, or the width is no multiple of the heads; or see `RivalConfig`.
    """

    model_type = "hamlearning_umgf"
    dropout: float | int = 0.4
    fusion_size: int = 512
    num_fusion_heads: int = 8
    num_fusion_layers: int = 6
    num_fusion_regions: int = 4

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        for name in ("fusion_size", "num_fusion_heads", "num_fusion_layers", "num_fusion_regions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1.")
        if self.fusion_size % self.num_fusion_heads:
            raise ValueError(
                f"fusion_size={self.fusion_size} with num_fusion_heads={self.num_fusion_heads}: must be a multiple."
            )


class UMGFAttention(nn.Module):
    """Multi-head attention of the nodes of one stream to each other; without values it mixes the nodes themselves."""

    def __init__(self, config: UMGFConfig, has_values: bool):
        super().__init__()
        m = config.fusion_size
        self.head_size = m // config.num_fusion_heads
        self.dropout = config.dropout
        self.query, self.key = nn.Linear(m, m), nn.Linear(m, m)
        self.value = nn.Linear(m, m) if has_values else nn.Identity()
        self.output = nn.Linear(m, m) if has_values else nn.Identity()

    def forward(self, nodes: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, K, m) and (B, K) -> (B, K, m)."""
        query, key, value = (
            projection(nodes).unflatten(-1, (-1, self.head_size)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        dropout = self.dropout if self.training else 0.0
        # Where values are the nodes themselves autocast leaves them wider than what has been projected.
        attended = nn.functional.scaled_dot_product_attention(
            query, key, value.to(query.dtype), mask[:, None, None, :], dropout
        )
        return self.output(attended.transpose(1, 2).flatten(2))


class UMGFStream(nn.Module):
    """What one kind of node, words or regions, does in a round."""

    def __init__(self, config: UMGFConfig, has_values: bool):
        super().__init__()
        m = config.fusion_size
        self.attention = UMGFAttention(config, has_values)
        self.gate = nn.Linear(2 * m, m)  # U
        self.mlp = nn.Sequential(nn.Linear(m, m // 2), nn.ReLU(), nn.Linear(m // 2, m))
        self.attention_norm, self.gate_norm, self.output_norm = nn.LayerNorm(m), nn.LayerNorm(m), nn.LayerNorm(m)
        self.dropout = nn.Dropout(config.dropout)

    def attend(self, nodes: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """x~ = LN(x + MHA(x))."""
        return self.attention_norm(nodes + self.dropout(self.attention(nodes, mask)))

    def receive(self, nodes: torch.Tensor, others: torch.Tensor, others_mask: torch.Tensor) -> torch.Tensor:
        """x^_i = LN(x_i + sum_j sigmoid(U[x_i; o_j]) * o_j), j over the others that are there; then the MLP."""
        # U[x; o] is a sum of a part of x and a part of o: so no pair is multiplied.
        of_nodes, of_others = self.gate.weight.chunk(2, dim=1)
        scores = nn.functional.linear(nodes, of_nodes, self.gate.bias)[:, :, None]
        scores = scores + nn.functional.linear(others, of_others)[:, None]  # (B, K, J, m)
        sent = torch.where(others_mask[:, None, :, None], torch.sigmoid(scores) * others[:, None], 0).sum(dim=2)
        nodes = self.gate_norm(nodes + self.dropout(sent))
        return self.output_norm(nodes + self.dropout(self.mlp(nodes)))


class UMGFLayer(GradientCheckpointingLayer):
    """A round of fusion: attention inside each stream, then gated sums over all pairs of word and region."""

    def __init__(self, config: UMGFConfig):
        super().__init__()
        self.words = UMGFStream(config, has_values=True)
        self.regions = UMGFStream(config, has_values=False)

    def forward(
        self,
        words: torch.Tensor,  # (B, W, m)
        regions: torch.Tensor,  # (B, N, m)
        word_mask: torch.Tensor,  # (B, W), with at least one word
        region_keys_mask: torch.Tensor,  # (B, N), with at least one region
        region_mask: torch.Tensor,  # (B, N), of those that are there
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns (B, W, m) and (B, N, m)."""
        words, regions = self.words.attend(words, word_mask), self.regions.attend(regions, region_keys_mask)
        return self.words.receive(words, regions, region_mask), self.regions.receive(regions, words, word_mask)


class UMGFForTokenClassification(Rival):
    """UMGF: words and regions are the nodes of a graph, which send each other messages through gates.

    ```python
    >>> model = UMGFForTokenClassification.from_text_pretrained("bert-base-cased", num_labels=9)
    >>> model(**processor(text=tweets, visual_features=rows)).predictions
    ```

    With H of the text encoder and R the four best regions: x = L H, o = relu L relu L R, of width m. Six times:
    x~ = LN(x + MHA(x)), o~ = LN(o + MHA'(o)), where MHA' has projections of queries and keys alone;
    x^_i = LN(x~_i + sum_j sigmoid(U[x~_i; o~_j]) * o~_j), o^_j = LN(o~_j + sum_i sigmoid(U'[x~_i; o~_j]) * x~_i);
    x = LN(x^ + FFN(x^)), o = LN(o^ + FFN(o^)). Emissions: L[H; x].

    Settled: the public code grounds the phrases person, miscellaneous, location and organization in the picture, and
    trains a ResNet-152 on the four crops, through a new layer of 2048; here regions are the detector's, and frozen.
    Its loss is a sum over the batch; here it is averaged over tweets. As there, all rounds start from equal weights,
    and so do queries and keys. Sums run over real words and regions. Without a picture the words receive nothing.
    """

    config_class = UMGFConfig
    drops_text = False
    _no_split_modules = ["UMGFLayer"]

    def __init__(self, config: UMGFConfig, text_model: PreTrainedModel | None = None):
        super().__init__(config, text_model)
        m = config.fusion_size
        self.word_projection = nn.Linear(config.hidden_size, m)
        self.region_projection = nn.Sequential(
            nn.Linear(config.region_feature_size, m), nn.ReLU(), nn.Dropout(config.dropout),
            nn.Linear(m, m), nn.ReLU(), nn.Dropout(config.dropout),
        )  # fmt: skip
        self.fusion_layers = nn.ModuleList(UMGFLayer(config) for _ in range(config.num_fusion_layers))
        self.classifier = nn.Linear(config.hidden_size + m, len(config.tags))
        self.post_init()

    def emit(self, text: Text, picture: Picture, **own_inputs: torch.Tensor | None) -> RivalEmissions:
        """Emissions L[H; x] of the words."""
        most = self.config.num_fusion_regions
        words = self.word_projection(text.words)  # x (B, W, m)
        regions = self.region_projection(picture.regions[:, :most])  # o (B, N, m)
        # A tweet without words has one, so that the attention has a key.
        word_mask = torch.cat([torch.ones_like(text.mask[:, :1]), text.mask[:, 1:]], dim=1)
        masks = word_mask, picture.keys_mask[:, :most], picture.region_mask[:, :most]
        for layer in self.fusion_layers:
            words, regions = layer(words, regions, *masks)
        # The regions of the last round feed nothing; so that their weights have a gradient they count 0 times.
        unread = 0 * regions.sum(dim=(1, 2))[:, None, None]
        logits = self.classifier(torch.cat([text.words, words + unread], dim=-1))
        return RivalEmissions(logits=logits, word_mask=text.mask)

    def init_own_weights(self) -> None:
        """Xavier's, and equal ones where the public code copies; text projection and classifier as PyTorch does."""
        init_as_torch(self.word_projection)
        init_as_torch(self.classifier)
        first, *others = self.fusion_layers
        for part in (*self.region_projection.modules(), *first.modules()):
            if isinstance(part, nn.Linear):
                initialization.xavier_uniform_(part.weight)
                initialization.zeros_(part.bias)
        for part in first.modules():
            if isinstance(part, UMGFAttention):
                initialization.copy_(part.key.weight, part.query.weight)
        for layer in others:
            for own, copied in zip(layer.parameters(), first.parameters(), strict=True):
                initialization.copy_(own, copied)


MODEL: Any = UMGFForTokenClassification
