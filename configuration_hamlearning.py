"""Configuration of HamLearning: hierarchical aligned multimodal learning for named entity recognition."""

import copy
from numbers import Integral
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec


try:
    from .words_hamlearning import TAGS, hold_in_package
except ImportError:
    if __package__:
        raise
    from words_hamlearning import TAGS, hold_in_package


# A repo with these four entries serves AutoConfig, AutoModel, AutoModelForTokenClassification and AutoProcessor.
AUTO_MAP = {
    "AutoConfig": "configuration_hamlearning.HamLearningConfig",
    "AutoModel": "modeling_hamlearning.HamLearningModel",
    "AutoModelForTokenClassification": "modeling_hamlearning.HamLearningForTokenClassification",
    "AutoProcessor": "processing_hamlearning.HamLearningProcessor",
}


class Pipelines(dict):
    """Tasks of a repo's own pipelines, which are found by a task's old name too.

    transformers 5.24 looks for the name that it was given before it takes `ner` for `token-classification`, and cannot
    choose where there are two entries: so one entry answers to both.
    """

    def __contains__(self, task: object) -> bool:
        return super().__contains__("token-classification" if task == "ner" else task)

    def __missing__(self, task: str) -> dict[str, Any]:
        if task == "ner" and task in self:
            return self["token-classification"]
        raise KeyError(task)


# One entry that bears a built-in task's name serves `pipeline(model=...)` and `pipeline("token-classification", ...)`.
CUSTOM_PIPELINES = {
    "token-classification": {
        "impl": "pipeline_hamlearning.HamLearningPipeline",
        "pt": ["AutoModelForTokenClassification"],
        "type": "text",
    }
}
VISION_AUTO_MAP = {
    "AutoConfig": "configuration_hamlearning.HamLearningVisionConfig",
    "AutoModel": "modeling_hamlearning_vision.HamLearningVisionModel",
}
RELEVANCE_MATCHINGS = ("none", "apart", "gate")
SCORE_TEMPERATURES = (0.05, 20)  # lowest and highest
DETECTORS = ("faster_rcnn_vg", "mask_rcnn_coco", "object_detection", "grid")
BFLOAT16_PARTS = ("global_backbone", "detector")
MORE_FEATURES = ("grid_features", "pyramid_features")  # that a vision model may give of a picture beside its regions
PYRAMID_CHANNELS = (256, 512, 1024, 2048)  # of the stages of a ResNet-50, whose four cells each are a pyramid
MAX_LAYERS = 1000  # of a kind; the network of a slip, or of a stranger, would be built until the memory is full
MAX_CLASSES = 100_000  # and tags; a list of names is made of the number alone
MAX_GRID = 1000  # rows, and columns
# Fields of `HamLearningConfig` that are sizes of what comes in, fixed by the paper, or of a trained network.
NO_SWITCHES = {
    "text_config", "image_feature_size", "region_feature_size", "num_classes", "hidden_act", "layer_norm_eps",
    "initializer_range", "word_marks", "score_temperature",
}  # fmt: skip
MAX_FLOAT = 3.4028234663852886e38  # of 32 bits, as the network has them: what is larger is infinite there


@strict
class HamLearningConfig(PreTrainedConfig):
    r"""Sizes and switches of the network, each switch an experiment of the paper.

    ```python
    >>> from configuration_hamlearning import HamLearningConfig
    >>> config = HamLearningConfig()  # the paper's: BERT-base, ResNet-152, 1600 detector classes
    >>> config.hidden_size, config.image_feature_size, config.num_classes
    (768, 2048, 1600)
    >>> config = HamLearningConfig(use_spatial_encoder=False)  # the row "w/o RGCN" of the paper's Table 2
    ```

    Args:
        text_config: configuration of the text encoder (Eq 1), of any model type `AutoModel` knows; BERT-base by
            default. Its hidden size d and number of attention heads hold for the whole network.
        num_text_layers: layers of the textual Transformer over [CLS] and words (Section 3.1.1); 0 leaves it out.
        use_vision: False leaves out every visual module and the rounds of interaction: text alone.
        use_semantic_encoder: the view of Eq 4; False is the paper's "w/o ViT".
        use_spatial_encoder: the view of Eq 5-7; False is the paper's "w/o RGCN".
        use_relevance: Eq 8-9; False is the paper's "w/o RM", M^r = 1.
        relevance_matching: what is reported as relevance. `none` is the paper's C^r of Eq 8. `apart` is the
            probability that the picture is the tweet's own, learned from pairs beside a network that stays as it is
            (ours, see `HamLearningMatching`). With `gate` that probability p is in Eq 9 too, as
            C^r = 2p - 1, and each region's vector says it (Eq 10).
        num_semantic_layers: layers of the visual Transformer (Eq 4).
        num_spatial_layers: layers of the relational graph network (Eq 5-7).
        num_ffnn_layers: linear layers of Eq 12; 0 leaves it out.
        num_interaction_layers: L, the rounds of Eq 13-15 (Table 3), at least 1.
        share_interaction_layers: one set of cross-modal Transformers (Eq 15) for all rounds; the fusion of Eq 13-14
            is one for all rounds either way.
        image_feature_size: size D_i of the global backbone's features (Eq 2).
        region_feature_size: size D_f of the detector's features (Eq 3).
        num_classes: number of the detector's classes (Eq 3); the id `num_classes` itself means "no class".
        class_embedding_size: size of the embedding of a detector class (Eq 3).
        use_crf: decode with a linear-chain CRF (Eq 16-18); False takes every word's tag by itself.
        dropout: share of activations dropped in every layer outside the text encoder.
        picture_dropout: in training, the share of tweets whose picture is hidden, so that the network also learns to
            do without one.
        forced_relevance: a control, not of the paper: C^r of Eq 8 is this for every tweet and picture.
        hidden_act: activation of the feed-forward layers.
        layer_norm_eps: added to the variance in every LayerNorm outside the text encoder.
        initializer_range: standard deviation of the normal distribution that new weights are drawn from.
        word_marks: which sub-tokens begin a word and which go on with one, `HamLearningProcessor.word_marks()`: for
            callers who give no `word_ids`.
        score_temperature: what the CRF's emissions and transitions are divided by before probabilities are taken of
            them: above 1 they are less sure, below 1 surer. Tags are the same with any (ours, not the paper's, see
            `HamLearningCRF`).
        **kwargs: of `PreTrainedConfig`; `id2label` (or `num_labels`) is `TAGS` by default.

    Raises:
        ValueError: a size, a number of layers or tags, a share or a float is out of range, `id2label` does not number
            the tags from 0 on, `id2label` and `label2id` disagree, or both visual views are off.
    """

    model_type = "hamlearning"
    # `Trainer` predicts the logits alone, as metrics of token classification expect.
    keys_to_ignore_at_inference = [
        "predictions",
        "scores",
        "relevance",
        "hidden_states",
        "attentions",
        "probabilities",
    ]
    sub_configs_defaults = {"text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert")}

    text_config: dict | PreTrainedConfig | None = None
    num_text_layers: int = 1
    use_vision: bool = True
    use_semantic_encoder: bool = True
    use_spatial_encoder: bool = True
    use_relevance: bool = True
    relevance_matching: str = "none"
    num_semantic_layers: int = 4
    num_spatial_layers: int = 2
    num_ffnn_layers: int = 2
    num_interaction_layers: int = 3
    share_interaction_layers: bool = True
    image_feature_size: int = 2048
    region_feature_size: int = 2048
    num_classes: int = 1600
    class_embedding_size: int = 300
    use_crf: bool = True
    dropout: float | int = 0.1
    picture_dropout: float | int = 0.0
    forced_relevance: float | int | None = None
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    word_marks: dict | None = None
    score_temperature: float | int = 1.0

    def __post_init__(self, **kwargs):
        _check_labels({"text_config": self.text_config} | kwargs)
        if self.id2label is not None:
            _ordered_tags(self.id2label)
        if self.id2label is None and kwargs.get("num_labels", len(TAGS)) == len(TAGS):
            self.id2label = dict(enumerate(TAGS))
        super().__post_init__(**kwargs)
        if self.id2label is not None:
            label2id = {str(tag): int(index) for index, tag in self.id2label.items()}
            if self.label2id is not None and self.label2id != label2id:
                raise ValueError(f"id2label={self.id2label} contradicts label2id={self.label2id}: give id2label only.")
            self.label2id = label2id
        # Always this repo's own code: a loaded config may carry a prefix that points to where it came from.
        self.auto_map = dict(AUTO_MAP)
        self.custom_pipelines = Pipelines(copy.deepcopy(CUSTOM_PIPELINES))  # `pipeline` puts classes into it
        minima = {
            "num_text_layers": 0,
            "num_semantic_layers": 1,
            "num_spatial_layers": 1,
            "num_ffnn_layers": 0,
            "num_interaction_layers": 1,
            "image_feature_size": 1,
            "region_feature_size": 1,
            "num_classes": 1,
            "class_embedding_size": 1,
        }
        for name, minimum in minima.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least {minimum}.")
            if name.endswith("_layers") and getattr(self, name) > MAX_LAYERS:
                raise ValueError(f"{name}={getattr(self, name)}: must be at most {MAX_LAYERS}.")
        if self.num_classes > MAX_CLASSES:
            raise ValueError(f"num_classes={self.num_classes}: must be at most {MAX_CLASSES}.")
        for name in ("dropout", "picture_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be a share in [0, 1).")
        for name in ("forced_relevance", "layer_norm_eps", "initializer_range"):
            number = getattr(self, name)
            if number is not None and not _is_finite(number):
                raise ValueError(f"{name}={number!r:.100}: must be a finite number of 32 bits.")
        low, high = SCORE_TEMPERATURES
        if not low <= self.score_temperature <= high:
            raise ValueError(
                f"score_temperature={self.score_temperature!r:.100}: must be in [{low}, {high}]; 1 leaves scores as "
                "the CRF has them."
            )
        if self.relevance_matching not in RELEVANCE_MATCHINGS:
            raise ValueError(
                f"relevance_matching={self.relevance_matching!r:.100}: must be one of "
                f"{', '.join(RELEVANCE_MATCHINGS)}."
            )
        if self.relevance_matching != "none" and not (self.use_vision and self.use_relevance):
            raise ValueError(
                f"relevance_matching={self.relevance_matching!r} with use_vision={self.use_vision} and "
                f"use_relevance={self.use_relevance}: there is nothing to match, set it to 'none'."
            )
        if self.word_marks is not None and set(self.word_marks) != {"is_exact", "pieces"}:
            raise ValueError(f"word_marks={self.word_marks!r:.100}: must be what `processor.word_marks()` returns.")
        if self.use_vision and not (self.use_semantic_encoder or self.use_spatial_encoder):
            raise ValueError(
                "use_semantic_encoder=False with use_spatial_encoder=False leaves no view of the picture: "
                "keep one of them, or set use_vision=False for a model of text alone."
            )

    def to_dict(self) -> dict:
        """What `config.json` holds."""
        return super().to_dict() | {"custom_pipelines": copy.deepcopy(CUSTOM_PIPELINES)}

    @classmethod
    def switches(cls) -> tuple[str, ...]:
        """The fields that decide what the network does, which are its flags on the command line."""
        return tuple(sorted(HamLearningConfig.__annotations__.keys() - NO_SWITCHES))

    @property
    def tags(self) -> list[str]:
        """The names of the tags in the order of their ids."""
        return _ordered_tags(self.id2label or {})  # it may have been set after `__post_init__`

    @property
    def hidden_size(self) -> int:
        """The text encoder's hidden size d, used everywhere."""
        text_config: Any = self.text_config
        return text_config.hidden_size

    @property
    def num_attention_heads(self) -> int:
        """The text encoder's number of attention heads, used everywhere."""
        text_config: Any = self.text_config
        return text_config.num_attention_heads

    @property
    def visual_views(self) -> tuple[str, ...]:
        """The views r of the picture, semantic first."""
        if not self.use_vision:
            return ()
        switches = {"semantic": self.use_semantic_encoder, "spatial": self.use_spatial_encoder}
        return tuple(view for view, is_on in switches.items() if is_on)

    @property
    def relevance_columns(self) -> tuple[str, ...]:
        """What the columns of `relevance` are: a view each, or the one probability of matching."""
        return self.visual_views if self.relevance_matching == "none" else ("probability",)


@strict
class HamLearningVisionConfig(PreTrainedConfig):
    r"""The frozen vision model: a global backbone and a region detector.

    ```python
    >>> from configuration_hamlearning import HamLearningVisionConfig
    >>> config = HamLearningVisionConfig(global_backbone_config={"architecture": "resnet18"}, detector="grid")
    >>> config.detector, config.class_names, config.max_regions
    ('grid', ['region'], 15)
    ```

    Args:
        global_backbone_config: of the global backbone (Eq 2), any model of timm by transformers' `TimmWrapperConfig`;
            ResNet-152 by default.
        resize_size: length in pixels that a picture's short side is resized to for Eq 2.
        crop_size: side in pixels of the square that is cut out of its centre then; also the short side of the whole
            picture that region features are pooled from (`object_detection` and `grid`).
        fixed_input_size: the backbone takes no other size than that square (many Vision Transformers), so the whole
            picture is squeezed into it.
        interpolation: `bilinear` or `bicubic`, how the backbone's pictures are resized.
        image_mean: mean of red, green and blue, of values in [0, 1], that the backbone expects.
        image_std: their standard deviation.
        detector: `faster_rcnn_vg`, `mask_rcnn_coco`, `object_detection` (any `AutoModelForObjectDetection`) or `grid`.
        detector_config: of `object_detection`: its model's configuration.
        detector_settings: of `faster_rcnn_vg`: fields of `FasterRCNNVGSettings`; of `object_detection`: its image
            processor; of `grid`: `rows` and `columns`.
        detector_weights: where the detector's weights came from, a Hub id or torchvision's name; None for a file, a
            folder or random ones. (The backbone's origin is `global_backbone_config.name_or_path`.)
        class_names: a name for each class id of the detector.
        max_regions: most regions of a picture, best score first.
        network_files: parts of the vision model whose exported networks lie beside its weights.
        bfloat16_parts: what is computed in bfloat16, of `global_backbone` and `detector` (`faster_rcnn_vg`: which
            regions it chooses; they are described in float32); None for float32 throughout.
        more_features: what a picture gets beside all this, of `grid_features` (the cells of the backbone's last map
            of the square) and `pyramid_features` (all stages of the backbone, of the square and of the best three
            regions); None for nothing.
        **kwargs: of `PreTrainedConfig`.

    Raises:
        ValueError: the detector, the interpolation, a part in bfloat16 or a further feature is unknown, a size, a
            number of classes or of cells is out of range, a setting of `grid` is unknown, or `image_mean` and
            `image_std` are not three finite numbers.
    """

    model_type = "hamlearning_vision"
    sub_configs_defaults = {
        "global_backbone_config": SubConfigSpec(
            config_class=AutoConfig, model_type="timm_wrapper", init_kwargs={"architecture": "resnet152"}
        ),
        "detector_config": SubConfigSpec(config_class=AutoConfig, model_type="detr", optional=True),
    }

    global_backbone_config: dict | PreTrainedConfig | None = None
    resize_size: int = 256
    crop_size: int = 224
    fixed_input_size: bool = False
    size_multiple: int = 1
    interpolation: str = "bilinear"
    image_mean: list[float] | tuple[float, ...] = (0.485, 0.456, 0.406)
    image_std: list[float] | tuple[float, ...] = (0.229, 0.224, 0.225)
    detector: str = "faster_rcnn_vg"
    detector_config: dict | PreTrainedConfig | None = None
    detector_settings: dict | None = None
    detector_weights: str | None = None
    class_names: list[str] | None = None
    max_regions: int = 15
    network_files: list[str] | None = None
    bfloat16_parts: list[str] | None = None
    more_features: list[str] | None = None

    def __post_init__(self, **kwargs):
        parts = {"global_backbone_config": self.global_backbone_config, "detector_config": self.detector_config}
        _check_labels({"id2label": self.id2label} | parts | kwargs)
        super().__post_init__(**kwargs)
        # The code lies beside the network's, one folder up from the vision model.
        self.auto_map = dict(VISION_AUTO_MAP)
        if self.detector not in DETECTORS:
            raise ValueError(f"detector={self.detector!r}: must be one of {', '.join(DETECTORS)}.")
        if (self.detector == "object_detection") != (self.detector_config is not None):
            raise ValueError(
                f"detector={self.detector!r} {'without' if self.detector_config is None else 'with'} detector_config: "
                "`object_detection` needs its model's configuration, no other detector takes one."
            )
        possible = BFLOAT16_PARTS[: 2 if self.detector == "faster_rcnn_vg" else 1]
        if not set(self.bfloat16_parts or ()) <= set(possible):
            raise ValueError(
                f"bfloat16_parts={self.bfloat16_parts!r:.100} with detector={self.detector!r}: must be of "
                f"{', '.join(possible)}."
            )
        if not set(self.more_features or ()) <= set(MORE_FEATURES):
            raise ValueError(f"more_features={self.more_features!r:.100}: must be of {', '.join(MORE_FEATURES)}.")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"interpolation={self.interpolation!r}: must be 'bilinear' or 'bicubic'.")
        if not 1 <= self.crop_size <= self.resize_size:
            raise ValueError(
                f"crop_size={self.crop_size} with resize_size={self.resize_size}: a square of at least one pixel is "
                "cut out of the resized picture, so it cannot be larger."
            )
        for name in ("max_regions", "size_multiple"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1.")
        for name, values in {"image_mean": self.image_mean, "image_std": self.image_std}.items():
            if len(values) != 3 or not all(_is_finite(value) for value in values):
                raise ValueError(f"{name}={values!r:.100}: must be three finite numbers, of red, green and blue.")
        if min(self.image_std) <= 0:
            raise ValueError(f"image_std={self.image_std!r:.100}: must be more than 0, pixels are divided by it.")
        settings = self.detector_settings or {}
        if self.detector == "grid":
            settings = {"rows": 3, "columns": 5} | settings
            if settings.keys() != {"rows", "columns"} or not all(
                _is_whole(number, 1, MAX_GRID) for number in settings.values()
            ):
                raise ValueError(
                    f"detector_settings={settings!r:.100}: a grid has at least one row and one column, at most "
                    f"{MAX_GRID} of each, in whole numbers, and no further settings."
                )
        count = settings.get("num_classes", 1600)
        if self.detector == "faster_rcnn_vg" and not _is_whole(count, 1, MAX_CLASSES):
            raise ValueError(
                f"detector_settings['num_classes']={count!r:.100}: must be a whole number in [1, {MAX_CLASSES}]."
            )
        self.detector_settings = settings
        if self.class_names is None:
            self.class_names = self._default_class_names()

    def _default_class_names(self) -> list[str]:
        detector_config: Any = self.detector_config
        if self.detector == "grid":
            return ["region"]
        if self.detector == "object_detection":
            names = detector_config.id2label
            # An id between two others may be missing: COCO's names leave numbers out.
            count = max(_label_ids("detector_config.id2label", names), default=-1) + 1
            if not 1 <= count <= MAX_CLASSES or not all(isinstance(name, str) for name in names.values()):
                raise ValueError(
                    f"detector_config.id2label={names!r:.100}: must give ids in [0, {MAX_CLASSES}) names, as text."
                )
            return [names.get(index, f"object {index}") for index in range(count)]
        count = 91 if self.detector == "mask_rcnn_coco" else (self.detector_settings or {}).get("num_classes", 1600)
        return [f"object {index}" for index in range(count)]


def _check_labels(fields: dict) -> None:
    """Refuses labels of a config, or of one inside, that transformers cannot take or would fill the memory with."""
    waiting = [("", fields)]
    while waiting:
        place, fields = waiting.pop()
        for name, value in fields.items():
            if name == "num_labels" and not _is_whole(value, 0, MAX_CLASSES):
                raise ValueError(f"{place}{name}={value!r:.100}: must be a whole number in [0, {MAX_CLASSES}].")
            if name == "id2label" and value is not None:
                _label_ids(place + name, value)
            elif isinstance(value, dict):
                waiting.append((f"{place}{name}.", value))


def _label_ids(field: str, id2label: Any) -> list[int]:
    """The keys of `id2label`, which are strings in JSON."""
    if isinstance(id2label, dict):
        try:
            return [int(key) for key in id2label]
        except (TypeError, ValueError, OverflowError):
            pass
    raise ValueError(f"{field}={id2label!r:.100}: must be a dict from ids, whole numbers, to names.")


def _ordered_tags(id2label: Any) -> list[str]:
    """The names of the tags in the order of their ids, which are 0, 1, 2 and so on."""
    names = dict(zip(_label_ids("id2label", id2label), id2label.values(), strict=True))
    if len(names) > MAX_CLASSES or names.keys() != set(range(len(names))):
        raise ValueError(
            f"id2label={id2label!r:.100}: must number the tags from 0 on without a gap, at most {MAX_CLASSES} of them."
        )
    for index, name in names.items():
        if not isinstance(name, str):
            raise ValueError(f"id2label[{index}]={name!r:.100}: must be the name of a tag, as text.")
    return [names[index] for index in range(len(names))]


def _is_whole(number: Any, minimum: int, maximum: int) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool) and minimum <= int(number) <= maximum


def _is_finite(number: float) -> bool:
    return abs(number) <= MAX_FLOAT  # of an int of any length too, which `math.isfinite` cannot take


HamLearningConfig.register_for_auto_class()
hold_in_package(__name__)

__all__ = ["HamLearningConfig", "HamLearningVisionConfig"]
