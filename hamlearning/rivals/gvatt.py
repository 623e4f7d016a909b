"""GVATT: gated visual attention (Lu et al., ACL 2018), with BERT as its text encoder (Yu et al., ACL 2020)."""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedModel

from hamlearning.rivals.rival import Picture, Rival, RivalConfig, RivalEmissions, Text


@strict
class GVATTConfig(RivalConfig):
    r"""Sizes and switches of GVATT-BERT-CRF.

    ```python
    >>> GVATTConfig(text_config=bert, joint_attention=True)
    ```

    Args:
        joint_attention: tanh over the sum of sentence and region, so that the attention sees its query; not the row
            of Table 1.
        **kwargs: see `RivalConfig`.
    """

    model_type = "hamlearning_gvatt"
    joint_attention: bool = False


class GVATTForTokenClassification(Rival):
    """GVATT-BERT-CRF: one reading of the picture for all words, and gates of each word for how much of it counts.

    ```python
    >>> model = GVATTForTokenClassification.from_text_pretrained("bert-base-cased", num_labels=9)
    >>> model(**processor(text=tweets, visual_features=rows)).predictions
    ```

    With [h0; H] of the text encoder and G the regions: V = L G, A_j = tanh(L h0) + tanh(L V_j), a = softmax_j(L A_j),
    v = sum_j a_j V_j. Then b_v = sigmoid(L H_i + L v), b_w = sigmoid(L H_i + L v), m_i = tanh(L H_i + L v), and the
    emissions are L(b_w * H_i + b_v * m_i). Loss: CRF.

    **The attention is blind to its query.** The tanh of the sentence and that of the region stand in a sum under one
    linear layer, so the sentence adds the same to each region's score, and the softmax takes it out: `a` depends on
    the picture alone. Its layer, `sentence_query`, is never trained. `joint_attention` is what was meant,
    A_j = tanh(L h0 + L V_j).

    Settled: there is no public code, so these are the paper's equations. The first state of the original's BiLSTM is
    v, which BERT has no place for: left out. Its query is the last state of a text LSTM, here h0; of the layers of
    two inputs the first has the bias. Without a picture v = 0.
    """

    config_class = GVATTConfig

    def __init__(self, config: GVATTConfig, text_model: PreTrainedModel | None = None):
        super().__init__(config, text_model)
        d = config.hidden_size
        self.region_projection = nn.Linear(config.region_feature_size, d)
        self.sentence_query = nn.Linear(d, d, bias=False)
        self.region_key = nn.Linear(d, d, bias=False)
        self.score = nn.Linear(d, 1)
        self.picture_gate = nn.ModuleList([nn.Linear(d, d), nn.Linear(d, d, bias=False)])  # b_v, of H and of v
        self.word_gate = nn.ModuleList([nn.Linear(d, d), nn.Linear(d, d, bias=False)])  # b_w
        self.mixture = nn.ModuleList([nn.Linear(d, d), nn.Linear(d, d, bias=False)])  # m
        self.classifier = nn.Linear(d, len(config.tags))
        self.post_init()

    def emit(self, text: Text, picture: Picture, **own_inputs: torch.Tensor | None) -> RivalEmissions:
        """Emissions of the words."""
        regions = self.region_projection(picture.regions)  # V (B, N, d)
        attention = self.attend(text.sentence, regions, picture.keys_mask)
        seen = torch.bmm(attention[:, None], regions)  # v (B, 1, d)
        seen = torch.where(picture.is_there[:, None, None], seen, 0)

        def both(layers: nn.ModuleList) -> torch.Tensor:  # L H_i + L v (B, W, d)
            of_words, of_picture = layers
            return of_words(text.words) + of_picture(seen)

        picture_gate, word_gate = torch.sigmoid(both(self.picture_gate)), torch.sigmoid(both(self.word_gate))
        mixed = torch.tanh(both(self.mixture))
        fused = word_gate * text.words + picture_gate * mixed
        return RivalEmissions(logits=self.classifier(fused), word_mask=text.mask)

    def attend(self, sentence: torch.Tensor, regions: torch.Tensor, region_mask: torch.Tensor) -> torch.Tensor:
        """Attention a (B, N), of h0 (B, d) and V (B, N, d); regions that `region_mask` (B, N) leaves out have 0."""
        query, keys = self.sentence_query(sentence)[:, None], self.region_key(regions)
        is_joint = self.config.joint_attention
        states = torch.tanh(query + keys) if is_joint else torch.tanh(query) + torch.tanh(keys)  # A (B, N, d)
        scores = self.score(states)[..., 0].masked_fill(~region_mask, -torch.inf)
        return scores.softmax(dim=-1).to(regions.dtype)


MODEL = GVATTForTokenClassification
