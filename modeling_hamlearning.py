"""The trainable network of HamLearning: one small class per box of the paper's Figure 2, top to bottom.

Letters in shapes: B tweets, S sub-tokens, W words, N regions, d hidden size, T tags, R spatial relations, L rounds.
"""

import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel, initialization
from transformers.activations import ACT2FN
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput, can_return_tuple, logging


try:
    from torchcrf import CRF
except ImportError as error:
    raise ImportError(
        "HamLearning decodes with `torchcrf`, of the package pytorch-crf: pip install pytorch-crf"
    ) from error
try:
    from .configuration_hamlearning import HamLearningConfig
    from .marks_hamlearning import find_words, spread_over_pieces, unpack_marks
    from .windows_hamlearning import read_in_windows
    from .words_hamlearning import hold_in_package
except ImportError:
    if __package__:
        raise
    from configuration_hamlearning import HamLearningConfig
    from marks_hamlearning import find_words, spread_over_pieces, unpack_marks
    from windows_hamlearning import read_in_windows
    from words_hamlearning import hold_in_package


logger = logging.get_logger(__name__)

# Ids of the relations between two regions; id 0 is the absence of an edge.
SPATIAL_RELATIONS = ("none", "inside", "cover", "overlap", *(f"class{k}" for k in range(1, 9)))
# Text encoders in which every sub-token attends to all others: a mask of four dimensions, which stands for the whole
# mask, means to them what one of two dimensions means. Windows or a causal order would be lost.
FULL_ATTENTION_ENCODERS = ("albert", "bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta")
# What of a picture `forward` takes; the rest is of the text.
VISUAL_INPUTS: tuple[str, ...] = (
    "image_features",
    "region_features",
    "region_boxes",
    "region_class_ids",
    "region_mask",
    "image_mask",
    "image_sizes",
)
# Of `HamLearningMatching`, chosen on the sample's pairs.
MATCHING_SIZE = 64
MATCHING_DROPOUT = 0.5
MATCHED_NUMBERS = 8  # of a region's vector, that say with `gate` how well the picture matches
MATCHING_SCALE, MATCHING_BIAS = 10.0, -5.0
# Edges and centres of boxes this close are the same: boxes that touch the picture's edge differ by rounding.
BOX_TOLERANCE = 1e-6


@contextmanager
def damaged_weights_named(name_or_path: str | os.PathLike, subfolder: str = "") -> Iterator[None]:
    """What the safetensors library says of a damaged file as a ValueError that names the file."""
    try:
        yield
    except SafetensorError as error:
        place = f"a *.safetensors of {name_or_path}"
        for path in sorted(Path(name_or_path, subfolder).glob("*.safetensors")):
            try:
                with safe_open(path, "pt"):
                    pass
            except SafetensorError:
                place = str(path)
                break
        raise ValueError(
            f"{place} is damaged, or only Git LFS's pointer to the file ({error}): copy or download it again."
        ) from error


@dataclass
class HamLearningModelOutput(ModelOutput):
    """What the trunk returns.

    Args:
        last_hidden_state: (B, W, d), the words' states H after the last round.
        word_mask: (B, W), true for a word, false for padding.
        relevance: (B, views) or None, C^r of Eq 8 in (-1, 1), semantic view first; 0 for a tweet without a picture.
            Its sign means nothing: read the absolute value. With `config.relevance_matching` (B, 1), the probability
            that the picture is the tweet's own, see `HamLearningMatching`.
        hidden_states: when asked, the words' states after the text encoder, the textual Transformer, Eq 12 and each
            round, (B, W, d) each.
        attentions: when asked and there is a picture in the batch, the words' attention to the regions in each round,
            (B, heads, W, N) each; zero for a tweet without one.
        matching_loss: (B,), in training with `config.relevance_matching`, see `HamLearningMatching`.
    """

    last_hidden_state: torch.Tensor | None = None
    word_mask: torch.Tensor | None = None
    relevance: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    matching_loss: torch.Tensor | None = None


@dataclass
class HamLearningTokenClassifierOutput(ModelOutput):
    """What the token classifier returns.

    Args:
        loss: scalar, negative log-likelihood averaged over tweets (Eq 17), when `labels` are given; in training with
            `config.relevance_matching` plus that of matching.
        logits: (B, W, T), the emissions.
        predictions: (B, W), ids of the most probable tag sequence (Eq 18), -100 on padding; in eval mode only.
        scores: (B, W), at the first word of each predicted entity its probability, 0 elsewhere; in eval mode only.
        relevance: see `HamLearningModelOutput`.
        hidden_states: see `HamLearningModelOutput`.
        attentions: see `HamLearningModelOutput`.
        probabilities: when asked, (B, W, T), the probability of each tag at each word, whatever the others have;
            float32, 0 on padding; in eval mode only.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    predictions: torch.Tensor | None = None
    scores: torch.Tensor | None = None
    relevance: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    probabilities: torch.Tensor | None = None


@dataclass
class HamLearningExplanation(ModelOutput):
    """What in the picture decided each entity: what comes out when a region, or the whole picture, is hidden.

    An effect is a fall of the natural logarithm of an entity's probability: 0.69 is half of it, and below 0 the entity
    is surer without. It stands at the first word of each entity of `predictions`; elsewhere there is 0.

    Args:
        predictions: (B, W), as the token classifier returns them.
        scores: (B, W), as the token classifier returns them.
        relevance: see `HamLearningModelOutput`.
        region_effects: (B, W, N), of hiding one region; 0 for padding. None if no tweet of the batch has a picture.
        region_predictions: (B, N, W), ids of the tags without that region, -100 on padding; None as above.
        picture_effects: (B, W), of hiding the whole picture; None as above.
        picture_predictions: (B, W), ids of the tags without the picture; None as above.
    """

    predictions: torch.Tensor | None = None
    scores: torch.Tensor | None = None
    relevance: torch.Tensor | None = None
    region_effects: torch.Tensor | None = None
    region_predictions: torch.Tensor | None = None
    picture_effects: torch.Tensor | None = None
    picture_predictions: torch.Tensor | None = None


def spatial_relations(
    region_boxes: torch.Tensor, image_sizes: torch.Tensor, region_mask: torch.Tensor
) -> torch.Tensor:
    """Spatial relation of every ordered pair of nodes, node 0 being the picture (Section 3.1.2, Spatial Encoding).

    ```python
    >>> boxes = torch.tensor([[[0.5, 0.5, 0.8, 0.8], [0.5, 0.5, 0.2, 0.2]]])  # the first contains the second
    >>> spatial_relations(boxes, torch.tensor([[640, 480]]), torch.ones(1, 2))
    tensor([[[0, 1, 1],
             [2, 0, 1],
             [2, 2, 0]]])
    ```

    Entry [i, j] is the relation of i to j, and so of the message that i receives from j: `inside` if i contains j,
    `cover` if j contains i, `overlap` if their IoU exceeds 0.5 or they have one centre, `class1` to `class8` (the
    eighth of the circle into which the arrow from i to j points, clockwise on the screen from "right") if their
    centres are at most half the picture's diagonal apart, else `none`. Swapping i and j swaps inside and cover, and
    turns class k into class k + 4.

    Args:
        region_boxes: (B, N, 4), boxes (x_c, y_c, h, w) in [0, 1].
        image_sizes: (B, 2), (width, height) in pixels: distances and angles are those of the picture as it is seen.
        region_mask: (B, N), true for a region, false for padding.

    Returns:
        (B, N + 1, N + 1) ids into `SPATIAL_RELATIONS`; the diagonal and padding are `none`.
    """
    boxes = region_boxes.float()
    region_mask = region_mask.bool()
    x, y, height, width = boxes.unbind(-1)  # (B, N) each
    left, right, top, bottom = x - width / 2, x + width / 2, y - height / 2, y + height / 2

    def pairs(values: torch.Tensor):  # value of i and value of j, as they broadcast to (B, N, N)
        return values[:, :, None], values[:, None, :]

    (left_i, left_j), (right_i, right_j) = pairs(left), pairs(right)
    (top_i, top_j), (bottom_i, bottom_j) = pairs(top), pairs(bottom)
    contains = (
        (left_i <= left_j + BOX_TOLERANCE)
        & (right_j <= right_i + BOX_TOLERANCE)
        & (top_i <= top_j + BOX_TOLERANCE)
        & (bottom_j <= bottom_i + BOX_TOLERANCE)
    )
    is_contained = contains.transpose(1, 2)
    identical = contains & is_contained

    intersection = (torch.minimum(right_i, right_j) - torch.maximum(left_i, left_j)).clamp(min=0) * (
        torch.minimum(bottom_i, bottom_j) - torch.maximum(top_i, top_j)
    ).clamp(min=0)
    area_i, area_j = pairs(width * height)
    iou_above_half = 2 * intersection > area_i + area_j - intersection

    (x_i, x_j), (y_i, y_j) = pairs(x), pairs(y)
    dx, dy = x_j - x_i, y_j - y_i
    dx = torch.where(dx.abs() <= BOX_TOLERANCE, 0, dx)
    dy = torch.where(dy.abs() <= BOX_TOLERANCE, 0, dy)
    one_centre = (dx == 0) & (dy == 0)
    sizes = image_sizes.float()
    dx, dy = dx * sizes[:, 0, None, None], dy * sizes[:, 1, None, None]  # pixels
    diagonal = torch.linalg.vector_norm(sizes, dim=-1)[:, None, None]
    near = torch.hypot(dx, dy) <= 0.5 * diagonal

    # The sector is found in the half circle [0, 180) and moved by four for the other half, so that the arrows from
    # i to j and from j to i, exact negatives of each other, are always four sectors apart.
    lower = (dy > 0) | ((dy == 0) & (dx > 0))
    u, v = torch.where(lower, dx, -dx), torch.where(lower, dy, -dy)  # v >= 0
    sector = torch.where(u > 0, (v >= u).long(), 2 + (-u >= v).long()) + torch.where(lower, 0, 4)  # 0..7

    class1 = SPATIAL_RELATIONS.index("class1")
    relations = torch.where(near, class1 + sector, SPATIAL_RELATIONS.index("none"))
    relations = torch.where(iou_above_half | one_centre | identical, SPATIAL_RELATIONS.index("overlap"), relations)
    relations = torch.where(is_contained & ~identical, SPATIAL_RELATIONS.index("cover"), relations)
    relations = torch.where(contains & ~identical, SPATIAL_RELATIONS.index("inside"), relations)

    # The picture contains every region.
    relations = nn.functional.pad(relations, (0, 0, 1, 0), value=SPATIAL_RELATIONS.index("inside"))  # (B, N+1, N)
    relations = nn.functional.pad(relations, (1, 0), value=SPATIAL_RELATIONS.index("cover"))  # (B, N+1, N+1)
    node_mask = nn.functional.pad(region_mask, (1, 0), value=True)
    has_edge = node_mask[:, :, None] & node_mask[:, None, :]
    has_edge = has_edge & ~torch.eye(node_mask.shape[1], dtype=torch.bool, device=boxes.device)
    return torch.where(has_edge, relations, SPATIAL_RELATIONS.index("none"))


def _whole_picture(like: torch.Tensor) -> torch.Tensor:
    """Box of the whole picture, (4,). Filled on the device: numbers of the host would have to be copied there."""
    return torch.cat([like.new_full((2,), 0.5), like.new_ones(2)])  # x_c, y_c, h, w


def _hide_each_part(visual_inputs: dict[str, torch.Tensor | None]) -> tuple[dict[str, torch.Tensor | None], int]:
    """Each picture P = N + 2 times: as it is, with one region hidden each, and hidden as a whole: (B * P, ...)."""
    image_features: Any = visual_inputs["image_features"]
    region_features, region_mask = visual_inputs.get("region_features"), visual_inputs["region_mask"]
    batch_size, device = len(image_features), image_features.device
    num_regions = 0 if region_features is None else region_features.shape[1]
    if region_mask is None:
        region_mask = torch.ones(batch_size, num_regions, device=device)
    image_mask = visual_inputs["image_mask"]
    if image_mask is None:
        image_mask = torch.ones(batch_size, device=device)
    # Row 0 hides nothing, row i region i - 1, the last one the picture.
    is_shown = ~torch.eye(num_regions + 2, dtype=torch.bool, device=device)[:, 1:]  # (P, N + 1)
    pictures = {
        name: None if given is None else given.repeat_interleave(num_regions + 2, dim=0)
        for name, given in visual_inputs.items()
    }
    pictures["region_mask"] = (region_mask.bool()[:, None] & is_shown[:, :-1]).flatten(0, 1)
    pictures["image_mask"] = (image_mask.bool()[:, None] & is_shown[:, -1]).flatten(0, 1)
    return pictures, num_regions + 2


def _first_on(mask: torch.Tensor) -> torch.Tensor:
    """`mask` (B, W) with its first column on: a tweet without words is treated as one empty word."""
    return torch.cat([torch.ones_like(mask[:, :1]), mask[:, 1:]], dim=1)


def _sub_tokens(input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None) -> torch.Tensor:
    """The sub-tokens as they came: ids (B, S) or embeddings (B, S, d')."""
    if (input_ids is None) == (inputs_embeds is None):
        which = "neither is" if input_ids is None else "both are"
        raise ValueError(f"input_ids and inputs_embeds: {which} given: give one of them.")
    return inputs_embeds if input_ids is None else input_ids  # pyright: ignore[reportReturnType]  # one is there


def _width_of_words(labels: torch.Tensor, pieces: torch.Tensor, word_ids: torch.Tensor | None) -> int:
    """W, as the labels (B, W) have it; more columns are padding.

    Raises:
        ValueError: they have neither W nor S columns.
    """
    width, num_pieces = labels.shape[1], pieces.shape[1]
    num_words = num_pieces if word_ids is None else word_ids.amax().clamp(min=1)
    beyond = torch.arange(width, device=labels.device) >= num_words
    fits = (torch.as_tensor(num_words, device=labels.device) <= width) & ~(beyond & (labels != -100)).any()
    _check_labels(
        fits,
        lambda: (
            f"labels has {width} columns, but there are {int(num_words)} words and {num_pieces} sub-tokens: give one "
            "label a word, (B, W), or one a sub-token, (B, S), -100 where there is none."
        ),
    )
    return width


def _check_kind_of_labels(labels: torch.Tensor, num_texts: int, num_tags: int) -> None:
    """ValueError if they are no ids of tags, a row a text."""
    if not isinstance(labels, torch.Tensor) or labels.dim() != 2 or len(labels) != num_texts:
        given = f"the shape {tuple(labels.shape)}" if isinstance(labels, torch.Tensor) else f"{type(labels).__name__}"
        raise ValueError(f"labels: expected a tensor (B, W) or (B, S) of {num_texts} texts, given {given}.")
    if labels.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"labels have the dtype {labels.dtype}: give ids of tags, torch.long.")
    _check_labels(
        ((labels == -100) | ((labels >= 0) & (labels < num_tags))).all(),
        lambda: (
            f"labels go from {int(labels.min())} to {int(labels.max())}: give ids of the {num_tags} tags, or -100."
        ),
    )


def _check_labels(fits: torch.Tensor, problem: Callable[[], str]) -> None:
    """ValueError if they do not fit; a device says so in its time, as the host does not wait for it."""
    try:
        torch._assert_async(fits, "labels do not fit the words: compute the batch on a CPU to read why.")
    except RuntimeError:  # on a CPU, or where there is no such check
        if not bool(fits):
            raise ValueError(problem()) from None


def _labels_of_words(labels: torch.Tensor, word_ids: torch.Tensor, num_words: int) -> torch.Tensor:
    """Labels (B, S) of sub-tokens as those of words (B, W): each word has that of its first piece.

    Raises:
        ValueError: what is no word has a label, as where labels of words were padded to as many.
    """
    _check_labels(
        ~((word_ids <= 0) & (labels != -100)).any(),
        lambda: "labels has one a sub-token, (B, S), but [CLS], [SEP] or padding has one too: give -100 there.",
    )
    is_first = word_ids != nn.functional.pad(word_ids[:, :-1], (1, 0), value=-1)
    own = torch.where(is_first & (word_ids > 0), labels, -100)
    of_words = labels.new_full((len(labels), num_words), -100)
    return of_words.scatter_reduce(1, (word_ids - 1).clamp(min=0), own, "amax")


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention that also returns its weights (B, heads, Q, K); `attention_mask` is boolean."""
    weights = torch.matmul(query, key.transpose(-1, -2)) * scaling
    weights = weights.masked_fill(~attention_mask, torch.finfo(weights.dtype).min)
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class HamLearningAttention(nn.Module):
    """Multi-head attention of queries (B, Q, d) to the keys (B, K, d) that `key_mask` (B, K) allows."""

    is_causal = False

    def __init__(self, config: HamLearningConfig):
        super().__init__()
        self.config = config
        self.head_size = config.hidden_size // config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        # A bias of the keys adds the same to every score of a query, which the softmax takes out: it would be dead.
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, queries: torch.Tensor, keys: torch.Tensor, key_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns (B, Q, d) and, with eager attention, the weights (B, heads, Q, K)."""

        def heads(states: torch.Tensor):  # (B, heads, length, d / heads)
            return states.unflatten(-1, (-1, self.head_size)).transpose(1, 2)

        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation,  # pyright: ignore[reportArgumentType]  # set by the model
            eager_attention_forward,
        )
        attended, weights = attend(
            self,
            heads(self.q_proj(queries)),
            heads(self.k_proj(keys)),
            heads(self.v_proj(keys)),
            key_mask[:, None, None, :],
            scaling=self.head_size**-0.5,
            dropout=self.config.dropout if self.training else 0.0,
        )
        return self.out_proj(attended.flatten(2)), weights


class HamLearningMLP(nn.Sequential):
    """Feed-forward block d-4d-d of a Transformer layer."""

    def __init__(self, config: HamLearningConfig):
        super().__init__(
            nn.Linear(config.hidden_size, 4 * config.hidden_size),
            ACT2FN[config.hidden_act],
            nn.Linear(4 * config.hidden_size, config.hidden_size),
            nn.Dropout(config.dropout),
        )


class HamLearningTransformerLayer(GradientCheckpointingLayer):
    """Transformer layer with its LayerNorms as in BERT: the textual Transformer, and the cross-modal one of Eq 15.

    Where the queries have no keys to attend to, the attention contributes nothing; the rest of the layer is as ever.
    """

    def __init__(self, config: HamLearningConfig):
        super().__init__()
        self.attention = HamLearningAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = HamLearningMLP(config)
        self.output_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        queries: torch.Tensor,  # (B, Q, d)
        keys: torch.Tensor | None,  # (B, K, d); None: nobody has any
        key_mask: torch.Tensor | None,  # (B, K)
        has_keys: torch.Tensor | None = None,  # (B,); None: everybody has some
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns (B, Q, d) and, with eager attention, the weights (B, heads, Q, K)."""
        attended, weights = 0, None
        if keys is not None:
            attended, weights = self.attention(queries, keys, key_mask)
            attended = self.dropout(attended)
            if has_keys is not None:
                attended = torch.where(has_keys[:, None, None], attended, 0)
                weights = torch.where(has_keys[:, None, None, None], weights, 0) if weights is not None else None
        states = self.attention_norm(queries + attended)
        return self.output_norm(states + self.mlp(states)), weights


class HamLearningSemanticLayer(GradientCheckpointingLayer):
    """Pre-norm Transformer layer over the picture and its regions, as in a ViT (Eq 4)."""

    def __init__(self, config: HamLearningConfig):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = HamLearningAttention(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = HamLearningMLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, nodes: torch.Tensor, node_mask: torch.Tensor) -> torch.Tensor:
        """(B, N + 1, d) -> (B, N + 1, d)."""
        states = self.attention_norm(nodes)
        nodes = nodes + self.dropout(self.attention(states, states, node_mask)[0])
        return nodes + self.mlp(self.mlp_norm(nodes))


class HamLearningSemanticEncoder(nn.Module):
    """The semantic view of the picture, "ViT" (Eq 4): regions are a set, so there is no position embedding."""

    def __init__(self, config: HamLearningConfig):
        super().__init__()
        self.layers = nn.ModuleList(HamLearningSemanticLayer(config) for _ in range(config.num_semantic_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, nodes: torch.Tensor, node_mask: torch.Tensor) -> torch.Tensor:
        """(B, N + 1, d), node 0 the picture -> (B, N + 1, d)."""
        for layer in self.layers:
            nodes = layer(nodes, node_mask)
        return self.norm(nodes)


class HamLearningSpatialLayer(GradientCheckpointingLayer):
    """One layer of the relational graph network, dense over the batch (Eq 5-7)."""

    def __init__(self, config: HamLearningConfig):
        super().__init__()
        d = config.hidden_size
        self.relation_weight = nn.Parameter(torch.empty(len(SPATIAL_RELATIONS) - 1, d, d))  # (R, d, d)
        self.relation_bias = nn.Parameter(torch.empty(d))
        self.gate = nn.Linear(2 * d, d)

    def forward(self, nodes: torch.Tensor, adjacency: torch.Tensor) -> torch.Tensor:
        """Nodes (B, N + 1, d) and adjacency (B, N + 1, R, N + 1) -> (B, N + 1, d)."""
        batch_size, num_nodes, _ = nodes.shape
        # Eq 5. Neighbours are summed a relation first, then one product does all relations.
        neighbours = torch.bmm(adjacency.flatten(1, 2), nodes).view(batch_size, num_nodes, -1)  # (B, N+1, R*d)
        messages = torch.relu(neighbours @ self.relation_weight.flatten(0, 1) + self.relation_bias)
        gate = torch.sigmoid(self.gate(torch.cat([messages, nodes], dim=-1)))  # Eq 6
        return nodes + gate * messages  # Eq 7


class HamLearningSpatialEncoder(nn.Module):
    """The spatial view of the picture: its regions as a graph of spatial relations (Eq 5-7)."""

    def __init__(self, config: HamLearningConfig):
        super().__init__()
        self.box_projection = nn.Linear(4 + config.hidden_size, config.hidden_size)
        self.layers = nn.ModuleList(HamLearningSpatialLayer(config) for _ in range(config.num_spatial_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        nodes: torch.Tensor,  # (B, N + 1, d), node 0 the picture
        region_boxes: torch.Tensor,  # (B, N, 4)
        image_sizes: torch.Tensor,  # (B, 2)
        region_mask: torch.Tensor,  # (B, N)
    ) -> torch.Tensor:
        """Returns (B, N + 1, d)."""
        picture_box = _whole_picture(nodes).expand(nodes.shape[0], 1, 4)
        boxes = torch.cat([picture_box, region_boxes.to(nodes.dtype)], dim=1)
        nodes = self.box_projection(torch.cat([boxes, nodes], dim=-1))
        relations = spatial_relations(region_boxes, image_sizes, region_mask)  # (B, N+1, N+1)
        relation_ids = torch.arange(1, len(SPATIAL_RELATIONS), device=nodes.device)
        adjacency = (relations[:, :, None, :] == relation_ids[:, None]).to(nodes.dtype)  # (B, N+1, R, N+1)
        for layer in self.layers:
            nodes = layer(nodes, adjacency)
        return self.norm(nodes)


class HamLearningVisualEmbeddings(nn.Module):
    """The picture and its regions as vectors of the text's size (Eq 2-3)."""

    def __init__(self, config: HamLearningConfig):
        super().__init__()
        self.image_projection = nn.Linear(config.image_feature_size, config.hidden_size)
        self.region_projection = nn.Linear(config.region_feature_size, config.hidden_size)
        self.class_embedding = nn.Embedding(config.num_classes + 1, config.class_embedding_size)
        self.class_projection = nn.Linear(config.class_embedding_size, config.hidden_size, bias=False)

    def forward(
        self, image_features: torch.Tensor, region_features: torch.Tensor, region_class_ids: torch.Tensor
    ) -> torch.Tensor:
        """(B, D_i), (B, N, D_f) and (B, N) -> (B, N + 1, d), node 0 the picture."""
        picture = self.image_projection(image_features)  # Eq 2
        regions = self.region_projection(region_features)
        regions = regions + self.class_projection(self.class_embedding(region_class_ids))  # Eq 3
        return torch.cat([picture[:, None], regions], dim=1)


class HamLearningRelevance(nn.Module):
    """How much the picture has to do with the text, in one view (Eq 8-9)."""

    def __init__(self, config: HamLearningConfig):
        super().__init__()
        d = config.hidden_size
        self.forced_relevance = config.forced_relevance
        # A parameter that nothing comes from would end a training in several processes.
        self.match: Any = None
        if config.relevance_matching != "gate":
            self.match = nn.Linear(d, d, bias=False)  # W of Eq 8
            self.match.requires_grad_(self.forced_relevance is None)
        self.text = nn.Linear(d, d, bias=False)  # W_T of Eq 9
        self.picture = nn.Linear(d, d, bias=False)  # W_I of Eq 9

    def forward(
        self, sentence: torch.Tensor, picture: torch.Tensor, matched: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """h_CLS (B, d), v_IMG (B, d) and, with matching in the gate, its C^r (B,) -> C^r (B,) and M^r (B, d)."""
        if matched is None:
            match = (self.match(sentence) * picture).sum(-1)
            # Eq 8. Unscaled it would be saturated from the start.
            relevance = torch.tanh(match / sentence.shape[-1] ** 0.5)
        else:
            relevance = matched
        if self.forced_relevance is not None:
            relevance = torch.full_like(relevance, self.forced_relevance)
        measure = torch.tanh(self.text(sentence) + relevance[:, None] * self.picture(picture))  # Eq 9
        return relevance, measure


class HamLearningMatching(nn.Module):
    """Whether the picture is the tweet's own: a relevance that is learned from pairs, which is ours, not the paper's.

    Each word u_w and each region v_n (the picture is one too) become vectors of `MATCHING_SIZE` numbers. With e_w the
    sum of the word's input embeddings, f_n a region's features and c_n its class,

        u_w = W_u e_w,  v_n = W_v f_n + E[c_n],  a_w = sigmoid(g e_w - 2)
        s = exp(gamma) sum_w a_w max_n cos(u_w, v_n) + b,  p = sigmoid(s)

    It is trained to tell a tweet's own picture from those of the other tweets of the batch (of the process): binary
    cross-entropy, the own picture as heavy as all others together. So p is the probability that this picture is the
    tweet's own where it is one of two, the own one and any other. Where own and other pictures cannot be told apart by
    a tweet's words it is near 0.5, whatever the picture.

    Its inputs are detached, so its loss moves no weight of the rest of the network.
    """

    def __init__(self, config: HamLearningConfig):
        super().__init__()
        d = config.hidden_size
        self.word_norm = nn.LayerNorm(d, eps=config.layer_norm_eps)
        self.word_projection = nn.Linear(d, MATCHING_SIZE, bias=False)
        self.word_gate = nn.Linear(d, 1)
        self.picture_projection = nn.Linear(config.image_feature_size, MATCHING_SIZE)
        self.region_projection = nn.Linear(config.region_feature_size, MATCHING_SIZE)
        self.class_embedding = nn.Embedding(config.num_classes + 1, MATCHING_SIZE)
        self.dropout = nn.Dropout(MATCHING_DROPOUT)
        self.log_scale = nn.Parameter(torch.empty(()))
        self.bias = nn.Parameter(torch.empty(()))

    def forward(
        self,
        words: torch.Tensor,  # (B, W, d)
        word_mask: torch.Tensor,  # (B, W)
        image_features: torch.Tensor,  # (B, D_i)
        region_features: torch.Tensor,  # (B, N, D_f)
        region_class_ids: torch.Tensor,  # (B, N)
        region_mask: torch.Tensor,  # (B, N)
        has_picture: torch.Tensor,  # (B,)
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns s (B,) of each tweet with its picture, and in training the loss of each (B,), else None."""
        dtype = self.class_embedding.weight.dtype
        region_mask = region_mask.bool() & has_picture[:, None]
        images = torch.where(has_picture[:, None], image_features, 0)
        regions = torch.where(region_mask[..., None], region_features, 0)
        class_ids = torch.where(region_mask, region_class_ids, self.class_embedding.num_embeddings - 1).long()
        words = self.word_norm(words.to(dtype))
        weights = torch.sigmoid(self.word_gate(words)[..., 0] - 2) * word_mask  # (B, W)
        of_words = nn.functional.normalize(self.word_projection(self.dropout(words)), dim=-1)
        of_regions = self.region_projection(self._normalized(regions, dtype)) + self.class_embedding(class_ids)
        of_picture = self.picture_projection(self._normalized(images, dtype))
        of_regions = nn.functional.normalize(torch.cat([of_picture[:, None], of_regions], dim=1), dim=-1)
        region_mask = nn.functional.pad(region_mask, (1, 0), value=True)
        if not self.training:
            likeness = torch.bmm(of_words, of_regions.transpose(1, 2))  # (B, W, N + 1)
            best = likeness.masked_fill(~region_mask[:, None], -1).amax(-1)
            return self._score((weights * best).sum(-1)), None
        likeness = torch.einsum("bwk,cnk->bcwn", of_words, of_regions)  # of every tweet with every picture
        best = likeness.masked_fill(~region_mask[None, :, None], -1).amax(-1)
        scores = self._score((weights[:, None] * best).sum(-1))  # (B, B)
        return scores.diagonal(), self._loss(scores, image_features, has_picture)

    def _normalized(self, features: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Features of a vision model on one scale, some of them dropped in training."""
        features = nn.functional.layer_norm(features.float(), features.shape[-1:])
        return self.dropout(features.to(dtype))

    def _score(self, match: torch.Tensor) -> torch.Tensor:
        return self.log_scale.float().exp() * match.float() + self.bias.float()

    @staticmethod
    def _loss(scores: torch.Tensor, image_features: torch.Tensor, has_picture: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of each tweet (B,), 0 where it has no picture or the batch no other one.

        A picture that is the tweet's own too, as where several windows or tweets share it, is no other one.
        """
        is_same = (image_features[:, None] == image_features[None]).all(-1)
        is_same = is_same | torch.eye(len(scores), dtype=torch.bool, device=scores.device)
        is_other = has_picture[:, None] & has_picture[None] & ~is_same
        count = is_other.sum(dim=1)
        own = nn.functional.softplus(-scores.diagonal())
        others = torch.where(is_other, nn.functional.softplus(scores), 0).sum(dim=1) / count.clamp(min=1)
        return torch.where(count > 0, (own + others) / 2, 0 * own)


class HamLearningViewFusion(nn.Module):
    """The two views of the regions mixed by a gate (Eq 13-14)."""

    def __init__(self, config: HamLearningConfig):
        super().__init__()
        d = config.hidden_size
        self.semantic = nn.Linear(d, d, bias=False)
        self.spatial = nn.Linear(d, d, bias=False)
        self.gate = nn.Linear(d, d, bias=False)

    def forward(self, semantic: torch.Tensor, spatial: torch.Tensor) -> torch.Tensor:
        """V^1 and V^2, (B, N, d) each -> V (B, N, d)."""
        alpha = torch.sigmoid(self.gate(torch.tanh(self.semantic(semantic) + self.spatial(spatial))))  # Eq 13
        return alpha * semantic + (1 - alpha) * spatial  # Eq 14


class HamLearningInteraction(nn.Module):
    """L rounds in which words and both views of the regions read the state of the previous round (Eq 13-15)."""

    def __init__(self, config: HamLearningConfig):
        super().__init__()
        self.num_rounds = config.num_interaction_layers
        num_views = len(config.visual_views)
        # The last round's vision updates would feed nothing, so there are none.
        num_text_layers = 1 if config.share_interaction_layers else self.num_rounds
        num_vision_layers = min(num_text_layers, self.num_rounds - 1)
        self.fusion = HamLearningViewFusion(config) if num_views == 2 else None
        self.text_layers = nn.ModuleList(HamLearningTransformerLayer(config) for _ in range(num_text_layers))
        self.vision_layers = nn.ModuleList(
            nn.ModuleList(HamLearningTransformerLayer(config) for _ in range(num_views))
            for _ in range(num_vision_layers)
        )

    def forward(
        self,
        words: torch.Tensor,  # (B, W, d)
        word_mask: torch.Tensor,  # (B, W)
        views: list[torch.Tensor],  # (B, N, d) each; empty: no tweet of the batch has a picture
        region_mask: torch.Tensor | None,  # (B, N)
        has_picture: torch.Tensor | None,  # (B,)
    ) -> tuple[list[torch.Tensor], list[torch.Tensor | None]]:
        """Returns the words' states (B, W, d) and their attention to the regions (B, heads, W, N) after each round."""
        states, attentions = [], []
        for round_ in range(self.num_rounds):
            text_layer = self.text_layers[round_ % len(self.text_layers)]
            regions = self.fusion(*views) if self.fusion is not None and views else next(iter(views), None)
            updated_words, weights = text_layer(words, regions, region_mask, has_picture)  # Eq 15
            if round_ < self.num_rounds - 1:
                vision_layers: Any = self.vision_layers[round_ % len(self.vision_layers)]
                views = [layer(view, words, word_mask)[0] for layer, view in zip(vision_layers, views, strict=False)]
            words = updated_words
            states.append(words)
            attentions.append(weights)
        return states, attentions


class HamLearningCRF(CRF):
    """Linear-chain CRF over words (Eq 16-18): `torchcrf.CRF` and what it lacks.

    Everything is in log space, and in float32 whatever the model's dtype; `mask` (B, W) is boolean, true for a prefix
    of each row that has at least one word.

    Probabilities take a `temperature` (ours, not the paper's): with s(y) the sum of emissions and transitions of a tag
    sequence, p(y) = exp(s(y) / temperature) / Z. It is Eq 16 for 1, bit for bit. Any other keeps the order of the
    sequences, so the most probable one (Eq 18) too: it changes how sure the CRF is, not of what.

    Args:
        num_tags: T.
        has_transitions: False fixes every transition at zero, which makes the tags of the words independent.
    """

    def __init__(self, num_tags: int, has_transitions: bool = True):
        super().__init__(num_tags, batch_first=True)
        if not has_transitions:
            for name, parameter in list(self.named_parameters()):
                delattr(self, name)
                self.register_buffer(name, torch.zeros_like(parameter), persistent=False)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True):
        super()._apply(fn, recurse)
        for tensor in (*self.parameters(), *self.buffers()):
            if torch.finfo(tensor.dtype).bits < 32:
                tensor.data = tensor.data.float()
        return self

    def tables(self, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Scores of the first tag (T,), of a tag behind another (T, T) [before, after], and of the last tag (T,).

        All are divided by `temperature`.

        accelerate's offloading fetches a module's weights when its `forward` is called, which decoding does not: what
        is elsewhere is fetched here.
        """
        if self.transitions.is_meta:
            try:
                from accelerate.utils import align_module_device
            except ImportError as error:
                raise ImportError("The CRF's tables are offloaded, by accelerate: pip install accelerate") from error
            with align_module_device(self):
                fetched = (self.start_transitions, self.transitions, self.end_transitions)
                start, transitions, end = (table.detach().clone() for table in fetched)
        else:
            start, transitions, end = self.start_transitions, self.transitions, self.end_transitions
        return start / temperature, transitions / temperature, end / temperature

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the library says masks are bytes and optional
        self, emissions: torch.Tensor, tags: torch.Tensor, mask: torch.Tensor, reduction: str = "sum"
    ) -> torch.Tensor:
        """Log-likelihood of tags (Eq 17) as in the library, which asks the device three times whether `mask` is valid.

        (B, W, T), (B, W) and (B, W) -> (B,) with `reduction="none"`, else their sum or mean.
        """
        scores = emissions.gather(2, tags[..., None])[..., 0]  # (B, W)
        scores = scores + nn.functional.pad(self.transitions[tags[:, :-1], tags[:, 1:]], (1, 0))
        last = tags.gather(1, mask.sum(dim=1, keepdim=True) - 1)[:, 0]
        path_score = self.start_transitions[tags[:, 0]] + torch.where(mask, scores, 0).sum(dim=1)
        path_score = path_score + self.end_transitions[last]

        score = self.start_transitions + emissions[:, 0]  # (B, T)
        for emission, is_on in zip(emissions[:, 1:].unbind(1), mask[:, 1:, None].unbind(1), strict=True):
            step = torch.logsumexp(score[:, :, None] + self.transitions, dim=1) + emission
            score = torch.where(is_on, step, score)
        log_likelihood = path_score - torch.logsumexp(score + self.end_transitions, dim=1)
        reduce = {"none": lambda values: values, "sum": torch.sum, "mean": torch.mean}[reduction]
        return reduce(log_likelihood)

    def viterbi(self, emissions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Most probable tag sequence (Eq 18), the path that `decode` finds, for the whole batch at once.

        (B, W, T) and (B, W) -> (B, W); entries on padding are arbitrary tags.
        """
        start, transitions, end = self.tables()
        score = start + emissions[:, 0]  # (B, T)
        history = []
        moves = mask[:, 1:, None].unbind(1)
        for emission, is_on in zip(emissions[:, 1:, None].unbind(1), moves, strict=True):
            best, previous = (score[:, :, None] + transitions + emission).max(dim=1)  # of (B, from, to)
            score = torch.where(is_on, best, score)
            history.append(previous)
        path = [(score + end).argmax(dim=1, keepdim=True)]
        for previous, is_on in zip(history[::-1], moves[::-1], strict=True):
            path.append(torch.where(is_on, previous.gather(1, path[-1]), path[-1]))
        return torch.cat(path[::-1], dim=1)

    def forward_backward(
        self, emissions: torch.Tensor, mask: torch.Tensor, temperature: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Forward and backward scores, scaled at every word so that they stay small however long the tweet is.

        (B, W, T) and (B, W) -> alpha (B, W, T), beta (B, W, T), scale (B, W) and end_scale (B,). alpha[t, y] is the
        log-probability of tag y at word t given the words up to t, alpha + beta that given all words. All scales of a
        tweet sum to its log-partition log Z.
        """
        start, transitions, end = self.tables(temperature)
        emissions = emissions / temperature
        first = start + emissions[:, 0]
        first_scale = torch.logsumexp(first, dim=1, keepdim=True)
        # Both directions take their steps together, (2, B, T), as a step costs its calls more than their numbers. The
        # forward one adds the emissions of the word that it comes to, the backward one those of the word it leaves.
        score = torch.stack([first - first_scale, end.expand_as(first)])
        steps = torch.stack([transitions, transitions.T])[:, None]  # (2, 1, T, T) [of the word before, of the next]
        there, back = emissions[:, 1:].unbind(1), emissions[:, 1:].flip(1).unbind(1)
        moves = torch.stack([mask[:, 1:], mask[:, 1:].flip(1)])[..., None].unbind(2)
        none = torch.zeros_like(first)
        scores, scales = [score], []
        for emission, emission_left, is_on in zip(there, back, moves, strict=True):
            step = torch.logsumexp((score + torch.stack([none, emission_left]))[..., None] + steps, dim=2)
            step = step + torch.stack([emission, none])
            scale = torch.logsumexp(step, dim=2, keepdim=True)
            score = torch.where(is_on, step - scale, score)
            scores.append(score)
            scales.append(scale[0])
        alpha, beta = torch.stack(scores, dim=2)  # (B, W, T) each
        beta = beta.flip(1)
        end_scale = torch.logsumexp(alpha[:, -1] + end, dim=1)
        beta = beta - torch.logsumexp(alpha + beta, dim=2, keepdim=True)  # some tag stands at each word: together 1
        scale = torch.where(mask, torch.cat([first_scale, *scales], dim=1), 0)
        return alpha, beta, scale, end_scale

    def marginals(self, emissions: torch.Tensor, mask: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        """Probability of each tag at each word: (B, W, T) and (B, W) -> (B, W, T), 0 on padding."""
        alpha, beta, _, _ = self.forward_backward(emissions, mask, temperature)
        return (alpha + beta).exp() * mask[..., None]

    def span_probabilities(
        self,
        emissions: torch.Tensor,  # (B, W, T)
        path: torch.Tensor,  # (B, W)
        mask: torch.Tensor,  # (B, W)
        tag_continues: torch.Tensor,  # (T, T): a tag [next] goes on with the entity of a tag [previous]
        tag_is_entity: torch.Tensor,  # (T,): B- and I- tags
        temperature: float = 1.0,
    ) -> torch.Tensor:
        """Probability of exactly each entity of a tag sequence.

        The entities are seqeval's default chunks. The event: the chunk's own tags, no continuation after it, and,
        where an I-X opens it, neither B-X nor I-X before it.

        Returns:
            (B, W), the probability at the first word of each entity, 0 elsewhere.
        """
        log_probabilities = self.span_log_probabilities(
            emissions, path, mask, tag_continues, tag_is_entity, temperature
        )
        return log_probabilities.exp().clamp(max=1)

    def span_log_probabilities(
        self,
        emissions: torch.Tensor,  # (B, W, T)
        path: torch.Tensor,  # (B, W)
        mask: torch.Tensor,  # (B, W)
        tag_continues: torch.Tensor,  # (T, T)
        tag_is_entity: torch.Tensor,  # (T,)
        temperature: float = 1.0,
    ) -> torch.Tensor:
        """The logarithm of `span_probabilities`: (B, W), minus infinity where no entity begins.

        The path need not be that of the emissions.
        """
        _, transitions, end_transitions = self.tables(temperature)
        alpha, beta, scale, end_scale = self.forward_backward(emissions, mask, temperature)
        emissions = emissions / temperature
        is_last = ~nn.functional.pad(mask[:, 1:], (0, 1), value=False)  # (B, W), from the last word on

        # opening[t, y]: all ways to come to tag y at word t without being in its entity already.
        opening = alpha[:, :-1, :, None] + transitions.masked_fill(tag_continues, -torch.inf)
        opening = torch.logsumexp(opening, dim=2) + emissions[:, 1:] - scale[:, 1:, None]
        opening = torch.cat([alpha[:, :1], opening], dim=1)  # (B, W, T)
        # closing[t, y]: all ways to go on from tag y at word t without going on with its entity.
        closing = transitions.masked_fill(tag_continues, -torch.inf) + (emissions + beta)[:, 1:, None, :]
        closing = nn.functional.pad(torch.logsumexp(closing, dim=3) - scale[:, 1:, None], (0, 0, 0, 1))
        end = (end_transitions - end_scale[:, None])[:, None]  # (B, 1, T)
        closing = torch.where(is_last[..., None], end, closing)  # (B, W, T)

        previous, current = path[:, :-1], path[:, 1:]
        within = transitions[previous, current] + emissions[:, 1:].gather(2, current[..., None])[..., 0]
        within = torch.where(mask[:, 1:], within - scale[:, 1:], 0)
        within = nn.functional.pad(within, (1, 0)).cumsum(dim=1)  # (B, W): score of the path up to word t

        is_entity = tag_is_entity[path] & mask
        continues = nn.functional.pad(tag_continues[previous, current], (1, 0), value=False)
        starts = is_entity & ~continues
        ends = is_entity & ~nn.functional.pad(continues[:, 1:] & mask[:, 1:], (0, 1), value=False)
        # The end of the entity that starts at t is the first end from t on.
        positions = torch.arange(path.shape[1], device=path.device).expand_as(path)
        last = torch.where(ends, positions, path.shape[1] - 1).flip(1).cummin(dim=1).values.flip(1)

        opening = opening.gather(2, path[..., None])[..., 0]  # (B, W)
        closing = closing.gather(2, path[..., None])[..., 0].gather(1, last)
        log_probability = opening + within.gather(1, last) - within + closing
        return torch.where(starts, log_probability, -torch.inf)


class HamLearningPreTrainedModel(PreTrainedModel):
    """Initialisation, loading and the frame that trunk and token classifier share."""

    config: HamLearningConfig
    config_class = HamLearningConfig
    base_model_prefix = "model"
    input_modalities = ["image", "text"]
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["HamLearningTransformerLayer", "HamLearningSemanticLayer", "HamLearningSpatialLayer"]
    _keep_in_fp32_modules_strict = ["crf"]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """A model that was saved: a folder or Hub id, and what else `PreTrainedModel.from_pretrained` takes.

        Of its weights only safetensors are read, no `pytorch_model.bin`, whatever `use_safetensors` and `weights_only`
        say: a pickle may carry code.

        Raises:
            OSError: there is no such model, or it has no `model.safetensors`.
            ValueError: a file of its weights is damaged; the message names it.
        """
        kwargs |= {"use_safetensors": True, "weights_only": True}
        with damaged_weights_named(pretrained_model_name_or_path, kwargs.get("subfolder", "")):
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Saves weights and config, and the code that reads them, that of pipeline and processor too.

        The processor itself is saved by its own `save_pretrained`: without it no pipeline can be made of the folder.
        What else is given is that of `PreTrainedModel.save_pretrained`.
        """
        # transformers puts into its cache only what loads the model; the rest is where the model came from.
        homes = [Path(__file__).parent, *map(Path, filter(None, [self.name_or_path]))]
        codes = [path for home in homes if (path := home / "processing_hamlearning.py").is_file()]
        if codes and kwargs.get("is_main_process", True) and not os.path.isfile(save_directory):
            os.makedirs(save_directory, exist_ok=True)
            for file in (codes[0], *map(Path, get_relative_import_files(codes[0]))):
                if file.parent.resolve() != Path(save_directory).resolve():
                    shutil.copy(file, save_directory)
        super().save_pretrained(save_directory, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, HamLearningSpatialLayer):
            initialization.normal_(module.relation_weight, std=self.config.initializer_range)
            initialization.zeros_(module.relation_bias)
        elif isinstance(module, HamLearningMatching):
            initialization.constant_(module.log_scale, math.log(MATCHING_SCALE))
            initialization.constant_(module.bias, MATCHING_BIAS)
        elif isinstance(module, HamLearningCRF):
            for parameter in module.parameters():
                initialization.uniform_(parameter, -0.1, 0.1)
            for buffer in module.buffers():
                initialization.zeros_(buffer)

    @classmethod
    def from_text_pretrained(
        cls, text_model_name_or_path: str, dtype: torch.dtype = torch.float32, **config_kwargs: Any
    ) -> Self:
        """A network around a pretrained text encoder, everything else new.

        ```python
        >>> model = HamLearningForTokenClassification.from_text_pretrained("bert-base-uncased", num_labels=9)
        ```

        Args:
            text_model_name_or_path: folder or Hub id of any model that `AutoModel` loads (Eq 1).
            dtype: of the whole network.
            **config_kwargs: fields of `HamLearningConfig`, among them its switches, `num_labels` and `id2label`.

        Raises:
            ValueError: it is no text encoder; the message names its type.
        """
        _check_text_config(AutoConfig.from_pretrained(text_model_name_or_path))  # before its weights are loaded
        text_model = AutoModel.from_pretrained(text_model_name_or_path, dtype=dtype)
        if Path(text_model_name_or_path).is_dir():
            text_model.config.name_or_path = ""  # nobody else has this folder
        attn_implementation = text_model.config._attn_implementation
        config_class: Any = cls.config_class
        config = config_class(text_config=text_model.config, **config_kwargs)
        text_model.config._attn_implementation = attn_implementation  # a config made of another resets this in both
        return cls(config, text_model=text_model).to(dtype)  # pyright: ignore[reportArgumentType]  # `to` is wrapped without its self


def _check_text_config(text_config: Any) -> None:
    """ValueError if the config is none of a text encoder."""
    missing = [
        name
        for name in ("hidden_size", "num_attention_heads")
        if not isinstance(getattr(text_config, name, None), int)
    ]
    if missing:
        raise ValueError(
            f"The text encoder is of the type {text_config.model_type!r}, which has no {' and no '.join(missing)}: "
            "give a text encoder, such as bert-base-uncased; of a model with several parts, such as CLIP, its text "
            "part, saved by itself."
        )


class HamLearningModel(HamLearningPreTrainedModel):
    """Words and picture in, the words' multimodal states out: everything of the paper but the CRF.

    Args:
        config: sizes and switches.
        text_model: the text encoder; built from `config.text_config` with random weights when it is missing.
    """

    # A trunk is often read from a checkpoint of the token classifier.
    _keys_to_ignore_on_load_unexpected = [r"^classifier\.", r"^crf\."]
    text_model: Any  # whatever `AutoModel` makes

    def __init__(self, config: HamLearningConfig, text_model: PreTrainedModel | None = None):
        _check_text_config(config.text_config)
        super().__init__(config)
        self.text_model = text_model if text_model is not None else AutoModel.from_config(config.text_config)
        if getattr(self.text_model, "pooler", None) is not None:
            self.text_model.pooler = None  # nothing reads its output, so it would have no gradient
        self.text_layers = nn.ModuleList(HamLearningTransformerLayer(config) for _ in range(config.num_text_layers))
        self.ffnn = self._build_ffnn(config)
        if config.use_vision:
            self.visual_embeddings = HamLearningVisualEmbeddings(config)
            self.semantic_encoder = HamLearningSemanticEncoder(config) if config.use_semantic_encoder else None
            self.spatial_encoder = HamLearningSpatialEncoder(config) if config.use_spatial_encoder else None
            self.relevance = (
                nn.ModuleList(HamLearningRelevance(config) for _ in config.visual_views)
                if config.use_relevance
                else None
            )
            self.matching = HamLearningMatching(config) if config.relevance_matching != "none" else None
            self.local_global = nn.Linear(2 * config.hidden_size, config.hidden_size)
            self.interaction = HamLearningInteraction(config)
        self.post_init()

    @staticmethod
    def _build_ffnn(config: HamLearningConfig) -> nn.Sequential:
        """Eq 12: linear layers d-d with activation and dropout between them."""
        layers = []
        for index in range(config.num_ffnn_layers):
            if index > 0:
                layers += [ACT2FN[config.hidden_act], nn.Dropout(config.dropout)]
            layers.append(nn.Linear(config.hidden_size, config.hidden_size))
        return nn.Sequential(*layers)

    def get_input_embeddings(self) -> nn.Module:
        """The text encoder's."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """The text encoder's."""
        self.text_model.set_input_embeddings(value)

    def encode_text(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        word_ids: torch.Tensor | None,
        num_words: int | None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        text_options: dict[str, Any] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sentence and words from sub-tokens (Eq 1); `text_options` are handed on to the text encoder.

        Returns:
            (B, 1 + W, d), row 0 the [CLS]; and `word_mask` (B, W), on for a word.
        """
        pieces = _sub_tokens(input_ids, inputs_embeds)
        for name, given in (("attention_mask", attention_mask), ("word_ids", word_ids)):
            if given is not None and given.shape != pieces.shape[:2]:
                raise ValueError(
                    f"{name} has the shape {tuple(given.shape)}, expected {tuple(pieces.shape[:2])}: give an entry a "
                    "sub-token. (Prompts put before a text, as prompt tuning does, do not go with `word_ids`.)"
                )
        if attention_mask is None:
            attention_mask = torch.ones(pieces.shape[:2], dtype=torch.long, device=pieces.device)
        token_types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        mask, text_config = attention_mask, self.text_model.config
        is_full = text_config.model_type in FULL_ATTENTION_ENCODERS and not getattr(text_config, "is_decoder", False)
        if text_config._attn_implementation == "sdpa" and is_full:
            # A mask of two dimensions is read by the host, which leaves it out where nothing is padded.
            mask = mask.bool()[:, None, None, :]
        read = {"input_ids": input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
        states = self.text_model(**read, attention_mask=mask, **token_types, **(text_options or {})).last_hidden_state
        if word_ids is None:  # every position is a word
            return self._sum_pieces(states, word_ids, None), attention_mask.bool()
        if num_words is None and torch.compiler.is_exporting():
            num_words = word_ids.shape[1]  # a number that depends on the data would be no size of a graph
        if num_words is None:
            num_words = max(int(word_ids.max()), 1)
        ids = torch.arange(num_words + 1, device=word_ids.device)
        word_mask = ids[1:] <= word_ids.amax(dim=1, keepdim=True)
        return self._sum_pieces(states, word_ids, ids), word_mask

    @staticmethod
    def _sum_pieces(
        states: torch.Tensor,  # (B, S, d)
        word_ids: torch.Tensor | None,  # (B, S)
        ids: torch.Tensor | None,  # (1 + W,)
    ) -> torch.Tensor:
        """[CLS] and words, (B, 1 + W, d), from sub-tokens."""
        if word_ids is None or ids is None:
            return torch.cat([states[:, :1], states], dim=1)
        # A word is the sum of its sub-tokens: one product with the 0/1 matrix of who belongs to whom.
        belongs = word_ids[:, None, :] == ids[:, None]  # (B, 1 + W, S)
        return torch.bmm(belongs.to(states.dtype), states)

    def encode_picture(
        self,
        image_features: torch.Tensor,
        region_features: torch.Tensor,
        region_boxes: torch.Tensor,
        region_class_ids: torch.Tensor,
        region_mask: torch.Tensor,
        has_picture: torch.Tensor,
        image_sizes: torch.Tensor,
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Semantic and spatial view of the pictures (Eq 2-7). What a mask leaves out is replaced before it is read.

        Returns:
            The views, (B, N + 1, d) each, node 0 the picture; and `region_mask` (B, N) with at least one region a row.
        """
        if region_features.shape[1] == 0:
            region_features, region_boxes = (
                nn.functional.pad(x, (0, 0, 0, 1)) for x in (region_features, region_boxes)
            )
            region_class_ids, region_mask = (nn.functional.pad(x, (0, 1)) for x in (region_class_ids, region_mask))
        # An embedding's: the weights of linear layers may be packed, or integers, where somebody has quantized them.
        dtype = self.visual_embeddings.class_embedding.weight.dtype
        region_mask = region_mask.bool() & has_picture[:, None]
        image_features = torch.where(has_picture[:, None], image_features, 0).to(dtype)
        image_sizes = torch.where(has_picture[:, None], image_sizes, 1)
        region_features = torch.where(region_mask[..., None], region_features, 0).to(dtype)
        region_boxes = torch.where(region_mask[..., None], region_boxes, _whole_picture(region_boxes))
        region_class_ids = torch.where(region_mask, region_class_ids, self.config.num_classes)
        # A picture without regions has one: the whole of it, of no class.
        is_first = torch.arange(region_mask.shape[1], device=region_mask.device) == 0
        region_mask = region_mask | (is_first & ~region_mask.any(dim=1, keepdim=True))

        nodes = self.visual_embeddings(image_features, region_features, region_class_ids)
        views = []
        if self.semantic_encoder is not None:
            views.append(self.semantic_encoder(nodes, nn.functional.pad(region_mask, (1, 0), value=True)))
        if self.spatial_encoder is not None:
            views.append(self.spatial_encoder(nodes, region_boxes, image_sizes, region_mask))
        return views, region_mask

    def match(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        word_ids: torch.Tensor | None,
        word_mask: torch.Tensor,
        visual_inputs: dict[str, torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """How well words and picture match, s (B * P,), and in training the loss (B,); see `HamLearningMatching`."""
        matching: Any = self.matching
        with torch.no_grad():
            pieces: Any = inputs_embeds if input_ids is None else self.get_input_embeddings()(input_ids)
            ids = torch.arange(word_mask.shape[1] + 1, device=word_mask.device)
            words = self._sum_pieces(pieces, word_ids, ids)[:, 1:]
        num_pictures = len(word_mask) // len(words)
        if num_pictures > 1:
            words = words.repeat_interleave(num_pictures, dim=0)
        names = ("image_features", "region_features", "region_class_ids", "region_mask", "has_picture")
        with torch.autocast(words.device.type, enabled=False):
            return matching(words, word_mask, *(visual_inputs[name] for name in names))

    def relate(
        self, sentence: torch.Tensor, view: torch.Tensor, index: int, matched: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Local-global features of one view (Eq 8-11): (B, d) and (B, N + 1, d) -> C^r (B,) or None, V^r (B, N, d).

        With `matched` (B,) that is C^r, in place of Eq 8, and the last `MATCHED_NUMBERS` of each region's vector are
        4 C^r: M^r weighs the picture's own vector alone, and words that read the regions learn in this way whether to
        trust them.
        """
        picture, regions = view[:, 0], view[:, 1:]
        relevance = None
        if self.relevance is not None:
            relevance, measure = self.relevance[index](sentence, picture, matched)
            picture = measure * picture
        picture = picture[:, None].expand_as(regions)
        features = self.local_global(torch.cat([picture, regions], dim=-1))  # Eq 10
        if matched is not None and relevance is not None:
            numbers = 4 * relevance[:, None, None].expand(*features.shape[:2], MATCHED_NUMBERS)
            features = torch.cat([features[..., :-MATCHED_NUMBERS], numbers.to(features.dtype)], dim=-1)
        return relevance, features

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        word_ids: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        region_features: torch.Tensor | None = None,
        region_boxes: torch.Tensor | None = None,
        region_class_ids: torch.Tensor | None = None,
        region_mask: torch.Tensor | None = None,
        image_mask: torch.Tensor | None = None,
        image_sizes: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        windows: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        num_words: int | None = None,
        num_pictures: int = 1,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> HamLearningModelOutput:
        """Runs the network of the paper's Figure 2 up to the CRF.

        Args:
            input_ids: (B, S).
            attention_mask: (B, S), 1 for a sub-token, 0 for padding on the right.
            word_ids: (B, S), 0 for [CLS], k for word k, -1 for nothing. Without it every position counts as a word.
            image_features: (B, D_i); without it no tweet has a picture.
            region_features: (B, N, D_f), of a detector.
            region_boxes: (B, N, 4), (x_c, y_c, h, w) in [0, 1].
            region_class_ids: (B, N), of the detector, `num_classes` for none.
            region_mask: (B, N), 1 for a region.
            image_mask: (B,), 1 for a tweet with a picture.
            image_sizes: (B, 2), (width, height) in pixels; a square without it.
            token_type_ids: (B, S), for the text encoders that know them.
            windows: (B, K, 2), first word and word after the last of each window in which a tweet is read; without
                it each is read at once. See `read_in_windows`.
            inputs_embeds: (B, S, d'), embeddings of the sub-tokens in place of `input_ids`, for the text encoders that
                take them; d' is the size of theirs.
            num_words: W, if it is known: reading it off `word_ids` makes the host wait for the device.
            num_pictures: P, pictures of each tweet: every visual input has B * P rows, those of a tweet side by side,
                and so has what comes out. The text is encoded once.
            output_hidden_states: also return the words' states on their way.
            output_attentions: also return the words' attention to the regions; needs eager attention.

        Raises:
            ValueError: attentions are asked of another attention than eager, an input has the wrong shape, regions
                come without their picture, `input_ids` and `inputs_embeds` are both given, or neither, `windows` come
                with the latter, or several pictures with hidden states or attentions.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_attentions and self.config._attn_implementation != "eager":
            raise ValueError(
                f"output_attentions=True with attn_implementation={self.config._attn_implementation!r}, which "
                'computes no weights: load the model with attn_implementation="eager".'
            )
        if region_features is not None and image_features is None:
            raise ValueError("region_features without image_features: a region needs its picture's features.")
        if num_pictures > 1 and (output_hidden_states or output_attentions):
            raise ValueError(
                f"num_pictures={num_pictures} with hidden states or attentions, which are of one picture: ask for one."
            )
        if windows is not None:
            if input_ids is None:
                raise ValueError("windows with inputs_embeds: a text in windows is read by its input_ids: give them.")
            visual_inputs = {
                "image_features": image_features,
                "region_features": region_features,
                "region_boxes": region_boxes,
                "region_class_ids": region_class_ids,
                "region_mask": region_mask,
                "image_mask": image_mask,
                "image_sizes": image_sizes,
            }
            asked: Any = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
            return read_in_windows(
                self.forward, windows, input_ids, attention_mask, word_ids, visual_inputs, num_words, token_type_ids,
                num_pictures, **asked,
            )  # fmt: skip
        states, word_mask = self.encode_text(
            input_ids, attention_mask, word_ids, num_words, token_type_ids, inputs_embeds
        )
        hidden_states = [states[:, 1:]]
        for layer in self.text_layers:
            states, _ = layer(states, states, nn.functional.pad(word_mask, (1, 0), value=True))
        sentence, words = states[:, 0], states[:, 1:]
        hidden_states.append(words)
        words = self.ffnn(words)  # Eq 12
        hidden_states.append(words)
        if num_pictures > 1:
            sentence, words, word_mask = (
                x.repeat_interleave(num_pictures, dim=0) for x in (sentence, words, word_mask)
            )

        relevance, attentions, matching_loss, probability = None, None, None, None
        if self.config.use_vision:
            views, has_picture = [], None
            # In training a batch without any picture still goes through, so that every parameter has its gradient.
            if image_features is not None or self.training:
                visual_inputs = self.fill_visual_inputs(
                    words, image_features, region_features, region_boxes, region_class_ids, region_mask, image_mask,
                    image_sizes,
                )  # fmt: skip
                has_picture = visual_inputs["has_picture"]
                matched = None
                if self.matching is not None:
                    match, matching_loss = self.match(input_ids, inputs_embeds, word_ids, word_mask, visual_inputs)
                    probability = torch.sigmoid(match)
                    if self.config.relevance_matching == "gate":
                        matched = torch.tanh(match / 2).detach().to(words.dtype)
                nodes, region_mask = self.encode_picture(**visual_inputs)
                related = (self.relate(sentence, view, r, matched) for r, view in enumerate(nodes))
                relevance, views = zip(*related, strict=True)
            round_states, attentions = self.interaction(
                words, _first_on(word_mask), list(views), region_mask, has_picture
            )
            hidden_states += round_states
            words = round_states[-1]
            relevance = self._report_relevance(relevance, probability, has_picture, words)

        return HamLearningModelOutput(
            last_hidden_state=words,
            word_mask=word_mask,
            relevance=relevance,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions and attentions and attentions[0] is not None else None,
            matching_loss=matching_loss,
        )

    def fill_visual_inputs(
        self,
        words: torch.Tensor,
        image_features: torch.Tensor | None,
        region_features: torch.Tensor | None,
        region_boxes: torch.Tensor | None,
        region_class_ids: torch.Tensor | None,
        region_mask: torch.Tensor | None,
        image_mask: torch.Tensor | None,
        image_sizes: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        """Puts in what the caller left out, and hides pictures in training (`picture_dropout`)."""
        batch_size, device = words.shape[0], words.device  # `len` would fix the size in a graph
        if image_features is None:
            image_features = torch.zeros(batch_size, self.config.image_feature_size, device=device)
            image_mask = torch.zeros(batch_size, device=device)
        if image_mask is None:
            image_mask = torch.ones(batch_size, device=device)
        if region_features is None:
            region_features = torch.zeros(batch_size, 0, self.config.region_feature_size, device=device)
        num_regions = region_features.shape[1]
        if region_boxes is None:
            region_boxes = _whole_picture(words.float()).expand(batch_size, num_regions, 4)
        if region_class_ids is None:
            region_class_ids = torch.full((batch_size, num_regions), self.config.num_classes, device=device)
        if region_mask is None:
            region_mask = torch.ones(batch_size, num_regions, device=device)
        if image_sizes is None:
            image_sizes = torch.ones(batch_size, 2, device=device)
        for name, given, expected in (
            ("image_features", image_features, (batch_size, self.config.image_feature_size)),
            ("region_features", region_features, (batch_size, num_regions, self.config.region_feature_size)),
            ("region_boxes", region_boxes, (batch_size, num_regions, 4)),
            ("region_class_ids", region_class_ids, (batch_size, num_regions)),
            ("region_mask", region_mask, (batch_size, num_regions)),
            ("image_mask", image_mask, (batch_size,)),
            ("image_sizes", image_sizes, (batch_size, 2)),
        ):
            if tuple(given.shape) != expected:
                raise ValueError(
                    f"{name} has the shape {tuple(given.shape)}, expected {expected}: "
                    "tweets, regions and feature sizes must be those of the batch and of the model's config."
                )
        has_picture = image_mask.bool()
        if self.training and self.config.picture_dropout > 0:
            has_picture = has_picture & (torch.rand(batch_size, device=device) >= self.config.picture_dropout)
        return {
            "image_features": image_features,
            "region_features": region_features,
            "region_boxes": region_boxes,
            "region_class_ids": region_class_ids,
            "region_mask": region_mask,
            "has_picture": has_picture,
            "image_sizes": image_sizes,
        }

    def _report_relevance(
        self,
        relevance: tuple[torch.Tensor, ...] | None,
        probability: torch.Tensor | None,
        has_picture: torch.Tensor | None,
        words: torch.Tensor,
    ) -> torch.Tensor | None:
        """C^r of the views as columns, 0 where there is no picture: (B, views), None without relevance measuring.

        With matching it is the probability (B, 1).
        """
        if not self.config.use_relevance:
            return None
        if relevance is None or has_picture is None:
            return words.new_zeros(words.shape[0], len(self.config.relevance_columns))
        if probability is not None:
            relevance = (probability.detach().to(words.dtype),)
        return torch.where(has_picture[:, None], torch.stack(relevance, dim=1), 0)


class Words(NamedTuple):
    """The words of a batch, as a call tells them."""

    ids: torch.Tensor | None  # (B, S), see `HamLearningModel.forward`
    number: int | None  # W, or more, where it is known without asking the device
    labels: torch.Tensor | None  # (B, W), or of sub-tokens (B, S)
    are_found: bool  # by the marks of sub-tokens

    def labels_of_words(self, num_words: int) -> torch.Tensor | None:
        """Labels of words (B, W), whatever they were given of.

        Raises:
            ValueError: see `_labels_of_words`.
        """
        if self.labels is None or self.ids is None or self.number is not None:
            return self.labels
        return _labels_of_words(self.labels, self.ids, num_words)


class HamLearningForTokenClassification(HamLearningPreTrainedModel):
    """HamLearning for named entity recognition: one tag a word, decoded by a CRF.

    ```python
    >>> model = AutoModelForTokenClassification.from_pretrained(repo, trust_remote_code=True)
    >>> outputs = model(**processor(text=tweets, visual_features=rows, return_tensors="pt"))
    >>> entities = processor.post_process_entities(outputs, inputs)
    ```

    Args:
        config: sizes and switches; `id2label` must hold O, B-X and I-X tags.
        text_model: the text encoder; built from `config.text_config` with random weights when it is missing.
    """

    # The loss is an average over tweets already: Trainer must not rescale it by the number of items.
    accepts_loss_kwargs = False
    # Whether the trunk reads a text once for several pictures.
    _encodes_text_apart = True
    # Whether scores are the CRF's probabilities, so that a temperature can be fitted to them.
    has_score_temperature = True

    def __init__(self, config: HamLearningConfig, text_model: PreTrainedModel | None = None):
        super().__init__(config)
        self.model = HamLearningModel(config, text_model=text_model)
        self.dropout = nn.Dropout(config.dropout)
        num_labels = len(config.tags)
        self.classifier = nn.Linear(config.hidden_size, num_labels)
        self.crf = HamLearningCRF(num_labels, has_transitions=config.use_crf)
        self.post_init()

    @property
    def num_labels(self) -> int:
        """T, the number of tags."""
        return len(self.config.tags)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        word_ids: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        region_features: torch.Tensor | None = None,
        region_boxes: torch.Tensor | None = None,
        region_class_ids: torch.Tensor | None = None,
        region_mask: torch.Tensor | None = None,
        image_mask: torch.Tensor | None = None,
        image_sizes: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        windows: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        output_probabilities: bool = False,
    ) -> HamLearningTokenClassifierOutput:
        """Tags the words of tweets.

        `labels` are ids of the gold tags, one a word (B, W), or one a sub-token (B, S), of which that of a word's
        first piece counts, as in every recipe of token classification. -100 leaves a position out, wherever it
        stands. `output_probabilities` asks for those of each tag at each word. All other arguments are those of
        `HamLearningModel.forward`, which this calls.

        Without `word_ids`, as callers made for any model have it, words are read off the sub-tokens' marks
        (`config.word_marks`), and what comes out is of sub-tokens, W = S: in eval mode the logits are those whose
        softmax is the probability of each tag, that of the most probable sequence (Eq 18) first, B-X on the first
        piece of a word and I-X on the others. Without marks every position counts as a word.

        Raises:
            ValueError: see `HamLearningModel.forward`; or `labels` have neither width.
        """
        words = self.find_words(input_ids, attention_mask, word_ids, labels, inputs_embeds)
        outputs = self.model(
            input_ids,
            attention_mask,
            words.ids,
            image_features,
            region_features,
            region_boxes,
            region_class_ids,
            region_mask,
            image_mask,
            image_sizes,
            token_type_ids,
            windows=windows,
            inputs_embeds=inputs_embeds,
            num_words=words.number,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        logits = self.classifier(self.dropout(outputs.last_hidden_state))

        with torch.autocast(logits.device.type, enabled=False):
            emissions = logits.float()
            labels = words.labels_of_words(emissions.shape[1])
            loss = None if labels is None else self._loss(emissions, labels)
            if loss is not None and outputs.matching_loss is not None:
                loss = loss + outputs.matching_loss.mean()
            of_words = {"logits": logits}
            if not self.training:
                of_words |= self._decode(emissions, outputs.word_mask, output_probabilities or words.are_found)
        return HamLearningTokenClassifierOutput(
            loss=loss,
            relevance=outputs.relevance,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **self.spread(of_words, words),
        )

    def find_words(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        word_ids: torch.Tensor | None,
        labels: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
    ) -> "Words":
        """Whose word each sub-token is, as far as that can be told; see `forward` for the arguments.

        Raises:
            ValueError: labels fit neither words nor sub-tokens.
        """
        pieces = _sub_tokens(input_ids, inputs_embeds)
        if labels is not None:
            _check_kind_of_labels(labels, len(pieces), self.num_labels)
        num_words = None if labels is None else self._label_width(labels, pieces, word_ids)
        found = None if word_ids is not None or input_ids is None else self._find_words(input_ids, attention_mask)
        if found is None:
            return Words(word_ids, num_words, labels, are_found=False)
        labels = None if labels is None else self._labels_of_found_words(labels, found)
        return Words(found, pieces.shape[1], labels, are_found=True)  # to count them the host would have to wait

    def spread(self, of_words: dict[str, torch.Tensor], words: "Words") -> dict[str, Any]:
        """What is said of words, said of sub-tokens where these were all that was given."""
        if not words.are_found or words.ids is None:
            return of_words
        return spread_over_pieces(of_words, words.ids, self._continuations())

    @torch.no_grad()
    def explain(
        self,
        input_ids: torch.Tensor,
        image_features: torch.Tensor | None = None,
        region_mask: torch.Tensor | None = None,
        image_mask: torch.Tensor | None = None,
        **inputs: torch.Tensor,
    ) -> HamLearningExplanation:
        """Which part of the picture decided each entity.

        ```python
        >>> inputs = processor(text=tweets, images=pictures)
        >>> entities = processor.post_process_explanation(model.explain(**inputs), inputs)
        ```

        By occlusion, not by attention: every tweet is read with its picture as it is, with each region hidden, and
        without the picture. The text is encoded once, and all of these go through the rest of the network in one
        batch of B * (N + 2). (Another system, or an exported network, encodes each text with each.) Probabilities are
        computed in float64 for this, since an effect is a difference of two.

        Args:
            input_ids: (B, S).
            image_features: (B, D_i), as all that follow see `HamLearningModel.forward`.
            region_mask: (B, N).
            image_mask: (B,).
            **inputs: the rest of what the processor returns.

        Raises:
            ValueError: the model is in training mode.
        """
        if self.training:
            raise ValueError("A model in training mode answers by chance: call `model.eval()` first.")
        if image_features is None or not self.config.use_vision:
            texts = {name: given for name, given in inputs.items() if name not in VISUAL_INPUTS}
            outputs: Any = self(input_ids, **texts)
            return HamLearningExplanation(outputs.predictions, outputs.scores, outputs.relevance)
        visual_inputs = {name: inputs.pop(name) for name in VISUAL_INPUTS if name in inputs}
        visual_inputs |= {"image_features": image_features, "region_mask": region_mask, "image_mask": image_mask}
        pictures, num_pictures = _hide_each_part(visual_inputs)
        emissions, word_mask, relevance = self._read_pictures(input_ids, inputs, pictures, num_pictures)
        precision = torch.float32 if emissions.device.type == "mps" else torch.float64
        emissions = emissions.to(precision).unflatten(0, (-1, num_pictures))  # (B, P, W, T)
        mask, word_mask = _first_on(word_mask), word_mask.unflatten(0, (-1, num_pictures))
        tables = [table.to(emissions.device) for table in self._tag_tables()]
        path = self.crf.viterbi(emissions.flatten(0, 1), mask).unflatten(0, (-1, num_pictures))  # (B, P, W)
        of_first = path[:, :1].expand_as(path).flatten(0, 1)
        log_probabilities = self.crf.span_log_probabilities(
            emissions.flatten(0, 1), of_first, mask, *tables, temperature=self.config.score_temperature
        )
        log_probabilities = log_probabilities.unflatten(0, (-1, num_pictures))  # (B, P, W)
        begins = log_probabilities[:, :1] > -torch.inf
        effects = torch.where(begins, log_probabilities[:, :1] - log_probabilities, 0).float()
        predictions = torch.where(word_mask, path, -100)
        return HamLearningExplanation(
            predictions=predictions[:, 0],
            scores=torch.where(word_mask[:, 0], log_probabilities[:, 0].exp().clamp(max=1).float(), 0),
            relevance=None if relevance is None else relevance[::num_pictures],
            region_effects=effects[:, 1:-1].transpose(1, 2),
            region_predictions=predictions[:, 1:-1],
            picture_effects=effects[:, -1],
            picture_predictions=predictions[:, -1],
        )

    def _read_pictures(
        self, input_ids: torch.Tensor, text_inputs: dict[str, Any], pictures: dict[str, Any], num_pictures: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Emissions (B * P, W, T), `word_mask` and relevance of texts with P pictures each."""
        if self._encodes_text_apart:
            outputs: Any = self.model(input_ids, **text_inputs, **pictures, num_pictures=num_pictures)
            return self.classifier(outputs.last_hidden_state), outputs.word_mask, outputs.relevance
        texts = {
            name: given.repeat_interleave(num_pictures, dim=0) if isinstance(given, torch.Tensor) else given
            for name, given in ({"input_ids": input_ids} | text_inputs).items()
        }
        outputs = self(**texts, **pictures)
        return outputs.logits, outputs.predictions != -100, outputs.relevance

    def _label_width(self, labels: torch.Tensor, pieces: torch.Tensor, word_ids: torch.Tensor | None) -> int | None:
        """W, if there is a label a word; None, if there is one a sub-token."""
        # Words are fewer than sub-tokens, one of which is [CLS]: as many labels as sub-tokens are theirs.
        if word_ids is not None and labels.shape[1] == pieces.shape[1]:
            return None
        return _width_of_words(labels, pieces, word_ids)

    def _loss(self, emissions: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Eq 17: negative log-likelihood (a tweet without labels has none), averaged over tweets."""
        return self.likelihood_loss(self.crf, emissions, labels)

    @staticmethod
    def likelihood_loss(crf: HamLearningCRF, emissions: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood of a CRF, (B, W, T) and (B, W) -> scalar, averaged over tweets.

        What has no label is left out: the chain runs over the other words, as if they stood side by side.
        """
        mask = labels != -100
        order = mask.int().argsort(dim=1, descending=True, stable=True)  # those with a label first
        emissions = emissions.gather(1, order[..., None].expand_as(emissions))
        labels, mask = labels.gather(1, order), mask.gather(1, order)
        log_likelihood = crf(emissions, labels.clamp(min=0), _first_on(mask), reduction="none")
        return -torch.where(mask[:, 0], log_likelihood, 0).mean()

    def _decode(
        self, emissions: torch.Tensor, word_mask: torch.Tensor, output_probabilities: bool
    ) -> dict[str, torch.Tensor]:
        """Eq 18: `predictions`, -100 on padding, `scores` of the entities that they make, perhaps `probabilities`."""
        mask = _first_on(word_mask)
        path = self.crf.viterbi(emissions, mask)
        tag_continues, tag_is_entity = (table.to(emissions.device) for table in self._tag_tables())
        temperature = self.config.score_temperature
        scores = self.crf.span_probabilities(emissions, path, mask, tag_continues, tag_is_entity, temperature)
        decoded = {
            "predictions": torch.where(word_mask, path, -100),
            "scores": torch.where(word_mask, scores, 0),
        }
        if output_probabilities:
            decoded["probabilities"] = self.crf.marginals(emissions, mask, temperature) * word_mask[..., None]
        return decoded

    def _find_words(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor | None:
        """`word_ids` (B, S) read off the sub-tokens' marks; None, and a warning, where there are none."""
        marks = self._read_marks(input_ids.device)
        if marks is None:
            return None
        return find_words(input_ids, attention_mask, marks)

    def _read_marks(self, device: torch.device) -> torch.Tensor | None:
        """A mark for each id, (V,), of the config; says once where a caller should know better."""
        given = self.config.word_marks
        if not torch.compiler.is_compiling() and (given is None or not given["is_exact"]):
            remedy = "load the model with `pipeline(model=..., trust_remote_code=True)`, which knows all words"
            logger.warning_once(
                "HamLearning got no `word_ids`, and its config has no `word_marks`: every sub-token counts as a word, "
                f"which is not what the model learned; {remedy}, or set `model.config.word_marks = "
                "processor.word_marks()` and save it."
                if given is None
                else "HamLearning got no `word_ids`: words are read off marks of the sub-tokens, which do not tell "
                f"them all, or these are not what the model learned from; {remedy}."
            )
        if given is None:
            return None
        known = self.__dict__.get("_marks")
        if known is None or known[0] != given["pieces"] or known[1].device != device:
            pieces = torch.frombuffer(bytearray(unpack_marks(given["pieces"])), dtype=torch.uint8)
            known = self.__dict__["_marks"] = (given["pieces"], pieces.to(device))
        return known[1]

    def _labels_of_found_words(self, labels: torch.Tensor, word_ids: torch.Tensor) -> torch.Tensor:
        """Labels (B, S) of sub-tokens as those of the words that were found, (B, S) too: the first ones of a row.

        Raises:
            ValueError: a piece that goes on with a word has another label than its word: it begins one for its maker.
        """
        labels = labels[:, : word_ids.shape[1]]
        of_words = _labels_of_words(labels, word_ids, word_ids.shape[1])
        own = of_words.gather(1, (word_ids - 1).clamp(min=0))
        continuation = self._continuations().to(labels.device)[own.clamp(min=0)]
        fits = (labels == -100) | (labels == own) | ((labels == continuation) & (own >= 0))
        _check_labels(
            fits.all(),
            lambda: (
                "labels: a sub-token that goes on with a word, by its mark, has a label of its own: tokenize words "
                "with add_prefix_space=True, or give `word_ids`."
            ),
        )
        return of_words

    def _continuations(self) -> torch.Tensor:
        """The tag of the further pieces of a word with a tag, (T,): I-X for B-X, itself for any other."""
        ids = {tag: index for index, tag in enumerate(self.config.tags)}
        return torch.tensor([ids.get(f"I-{tag[2:]}", ids[tag]) if tag[:2] == "B-" else ids[tag] for tag in ids])

    def _tag_tables(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Which tag goes on with the entity of which tag, (T, T) [before, after]; and which are B- or I-, (T,)."""
        tags = self.config.tags
        parts = [tag.split("-", 1) if tag[:2] in ("B-", "I-") else ("O", None) for tag in tags]
        prefixes, types = zip(*parts, strict=True)
        continues = [
            [prefixes[after] == "I" and types[before] == types[after] for after in range(len(tags))]
            for before in range(len(tags))
        ]
        return torch.tensor(continues), torch.tensor([prefix != "O" for prefix in prefixes])


HamLearningModel.register_for_auto_class("AutoModel")
HamLearningForTokenClassification.register_for_auto_class("AutoModelForTokenClassification")
hold_in_package(__name__)

__all__ = [
    "SPATIAL_RELATIONS",
    "HamLearningForTokenClassification",
    "HamLearningModel",
    "HamLearningPreTrainedModel",
    "spatial_relations",
]
