"""Configuration of HamLearning: hierarchical aligned multimodal learning for named entity recognition."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec


# A repo with these four entries serves AutoConfig, AutoModel, AutoModelForTokenClassification and AutoProcessor.
AUTO_MAP = {
    "AutoConfig": "configuration_hamlearning.HamLearningConfig",
    "AutoModel": "modeling_hamlearning.HamLearningModel",
    "AutoModelForTokenClassification": "modeling_hamlearning.HamLearningForTokenClassification",
    "AutoProcessor": "processing_hamlearning.HamLearningProcessor",
}
# The tags of the public tweets, in the order of the ids.
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-MISC", "I-MISC")


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
        hidden_act: activation of the feed-forward layers.
        layer_norm_eps: added to the variance in every LayerNorm outside the text encoder.
        initializer_range: standard deviation of the normal distribution that new weights are drawn from.
        **kwargs: of `PreTrainedConfig`; `id2label` (or `num_labels`) is `TAGS` by default.

    Raises:
        ValueError: a size, a number of layers or a share is out of range, or both visual views are off.
    """

    model_type = "hamlearning"
    sub_configs_defaults = {"text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert")}

    text_config: dict | PreTrainedConfig | None = None
    num_text_layers: int = 1
    use_vision: bool = True
    use_semantic_encoder: bool = True
    use_spatial_encoder: bool = True
    use_relevance: bool = True
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
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        if self.id2label is None and kwargs.get("num_labels", len(TAGS)) == len(TAGS):
            self.id2label = dict(enumerate(TAGS))
        super().__post_init__(**kwargs)
        if self.id2label is not None and self.label2id is None:
            self.label2id = {tag: index for index, tag in self.id2label.items()}
        # Always this repo's own code: a loaded config may carry a prefix that points to where it came from.
        self.auto_map = dict(AUTO_MAP)
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
        for name in ("dropout", "picture_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be a share in [0, 1).")
        if self.use_vision and not (self.use_semantic_encoder or self.use_spatial_encoder):
            raise ValueError(
                "use_semantic_encoder=False with use_spatial_encoder=False leaves no view of the picture: "
                "keep one of them, or set use_vision=False for a model of text alone."
            )

    @property
    def hidden_size(self) -> int:
        """The text encoder's hidden size d, used everywhere."""
        return self.text_config.hidden_size

    @property
    def num_attention_heads(self) -> int:
        """The text encoder's number of attention heads, used everywhere."""
        return self.text_config.num_attention_heads

    @property
    def visual_views(self) -> tuple[str, ...]:
        """The views r of the picture in the order of the columns of `relevance`."""
        if not self.use_vision:
            return ()
        switches = {"semantic": self.use_semantic_encoder, "spatial": self.use_spatial_encoder}
        return tuple(view for view, is_on in switches.items() if is_on)


HamLearningConfig.register_for_auto_class()

__all__ = ["HamLearningConfig"]
