"""UMT: unified multimodal Transformer with entity span detection (Yu et al., ACL 2020)."""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedModel

from hamlearning.rivals.rival import Picture, RivalConfig, RivalEmissions, Text
from hamlearning.rivals.span_rival import SpanRival
from modeling_hamlearning import HamLearningCRF, HamLearningTransformerLayer


@strict
class UMTConfig(RivalConfig):
    r"""Sizes and switches of UMT.

    ```python
    >>> UMTConfig(text_config=bert, auxiliary_weight=0.5)
    ```

    Args:
        auxiliary_weight: of the loss of the text-only tagger of O, B and I.
        conversion_weight: share of that tagger's emissions in the prediction; the rest is the main tagger's.
        **kwargs: see `RivalConfig`.
    """

    model_type = "hamlearning_umt"
    auxiliary_weight: float | int = 0.5
    conversion_weight: float | int = 0.5


class UMTForTokenClassification(SpanRival):
    """UMT: words read the picture, the picture reads the words, a gate decides how much of it counts.

    ```python
    >>> model = UMTForTokenClassification.from_text_pretrained("bert-base-cased", num_labels=9)
    >>> model(**processor(text=tweets, visual_features=rows)).predictions
    ```

    With H0 = [h0; H] of the text encoder and G the regions: X_a = Self_1(H0), X = Self_2(H0), V = L G, V' = L' G;
    C = Cross_1(X <- V), P = Cross_2(V' <- X), A = Cross_3(X <- P); z = sigmoid(L[A; C]), F = [A; z * C], E_m = L F.
    A text-only tagger of O, B, I gives E_a = L X_a, and E = 0.5 E_m + 0.5 E_a M with the fixed conversion M: O to O,
    B to each B-type and I to each I-type, in equal shares. Loss: CRF(E, y) + 0.5 CRF(E_a, y_a).

    Settled: as in the public code E is a weighted sum (the paper adds), and the gate multiplies C with its residual,
    so a gate at 0 removes text as well. Words are sums of their sub-tokens and have T tags; the public code tags
    sub-tokens with 13. Without a picture z * C = 0 and A = X.
    """

    config_class = UMTConfig
    drops_text = False

    def __init__(self, config: UMTConfig, text_model: PreTrainedModel | None = None):
        super().__init__(config, text_model)
        d, num_tags = config.hidden_size, len(config.tags)
        self.auxiliary_layer = HamLearningTransformerLayer(config)  # Self_1
        self.text_layer = HamLearningTransformerLayer(config)  # Self_2
        self.text_reads_picture = HamLearningTransformerLayer(config)  # Cross_1
        self.picture_reads_text = HamLearningTransformerLayer(config)  # Cross_2
        self.text_reads_reading = HamLearningTransformerLayer(config)  # Cross_3
        self.region_keys = nn.Linear(config.region_feature_size, d)  # L of V
        self.region_queries = nn.Linear(config.region_feature_size, d)  # L' of V'
        self.gate = nn.Linear(2 * d, d)
        self.classifier = nn.Linear(2 * d, num_tags)
        self.auxiliary_classifier = nn.Linear(d, 3)
        self.auxiliary_crf = HamLearningCRF(3, has_transitions=config.use_crf)
        self.post_init()

    def emit(self, text: Text, picture: Picture, **own_inputs: torch.Tensor | None) -> RivalEmissions:
        """Emissions E of the words and E_a of the text-only tagger."""
        states, mask, regions = text.states, text.states_mask, picture.keys_mask
        auxiliary, _ = self.auxiliary_layer(states, states, mask)  # X_a (B, 1 + W, d)
        words, _ = self.text_layer(states, states, mask)  # X
        seen, _ = self.text_reads_picture(words, self.region_keys(picture.regions), regions)  # C
        read, _ = self.picture_reads_text(self.region_queries(picture.regions), words, mask)  # P (B, N, d)
        aligned, _ = self.text_reads_reading(words, read, regions)  # A
        gate = torch.sigmoid(self.gate(torch.cat([aligned, seen], dim=-1)))  # z
        is_there = picture.is_there[:, None, None]
        fused = torch.cat([torch.where(is_there, aligned, words), torch.where(is_there, gate * seen, 0)], dim=-1)

        auxiliary_logits = self.auxiliary_classifier(auxiliary[:, 1:])  # E_a (B, W, 3)
        converted = auxiliary_logits @ self._conversion().to(auxiliary_logits)  # E_a M (B, W, T)
        share = self.config.conversion_weight
        logits = (1 - share) * self.classifier(fused[:, 1:]) + share * converted  # E
        return RivalEmissions(logits=logits, word_mask=text.mask, auxiliary_logits=auxiliary_logits)

    def _conversion(self) -> torch.Tensor:
        """M (3, T): O, B and I in equal shares to the tags that begin so."""
        belongs = (torch.arange(3)[:, None] == self._kinds()).float()
        return belongs / belongs.sum(dim=1, keepdim=True).clamp(min=1)


MODEL = UMTForTokenClassification
