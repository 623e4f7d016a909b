"""AdaCAN: adaptive co-attention (Zhang et al., AAAI 2018), with BERT as its text encoder (Yu et al., ACL 2020)."""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedModel

from hamlearning.rivals.rival import Picture, Rival, RivalConfig, RivalEmissions, Text


@strict
class AdaCANConfig(RivalConfig):
    r"""Sizes and switches of AdaCAN-BERT-CRF.

    ```python
    >>> AdaCANConfig(text_config=bert, attention_size=200)
    ```

    Args:
        attention_size: k, the size of all that the network adds; None: that of the text encoder, d.
        joint_attention: tanh over the sum of query and key, so that the attentions see their queries; not the row of
            Table 1.
        **kwargs: see `RivalConfig`.

    Raises:
        ValueError: `attention_size` is less than 1; or see `RivalConfig`.
    """

    model_type = "hamlearning_adacan"
    attention_size: int | None = None
    joint_attention: bool = False

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.attention_size is not None and self.attention_size < 1:
            raise ValueError(f"attention_size={self.attention_size}: must be at least 1.")


class AdditiveAttention(nn.Module):
    """s_ij = L tanh[q_i; k_j], of queries (B, Q, k) and keys (B, K, k); their softmax over the keys is (B, Q, K).

    A linear layer of two vectors side by side is the sum of one a vector: s_ij = L tanh(q_i) + L tanh(k_j), of which
    the softmax takes out the first. With `is_joint` it is L tanh(q_i + k_j).
    """

    def __init__(self, size: int, is_joint: bool):
        super().__init__()
        self.key_score = nn.Linear(size, 1)
        self.query_score = None if is_joint else nn.Linear(size, 1, bias=False)

    def forward(self, queries: torch.Tensor, keys: torch.Tensor, key_mask: torch.Tensor) -> torch.Tensor:
        """The keys that `key_mask` (B, K) leaves out have 0."""
        if self.query_score is None:
            scores = self.key_score(torch.tanh(queries[:, :, None] + keys[:, None]))[..., 0]
        else:
            scores = self.query_score(torch.tanh(queries)) + self.key_score(torch.tanh(keys)).transpose(1, 2)
        scores = scores.masked_fill(~key_mask[:, None], torch.finfo(scores.dtype).min)  # a tweet may have no word
        return scores.softmax(dim=-1).to(keys.dtype)


class AdaCANForTokenClassification(Rival):
    """AdaCAN-BERT-CRF: words attend to regions, what they saw to words; gates mix both and filter the mixture.

    ```python
    >>> model = AdaCANForTokenClassification.from_text_pretrained("bert-base-cased", num_labels=9)
    >>> model(**processor(text=tweets, visual_features=rows)).predictions
    ```

    With H of the text encoder and G the regions: a_i = softmax_j(L tanh[L G_j; L H_i]), v_i = sum_j a_ij L' G_j;
    X = L H, b_i = softmax_j(L tanh[L v_i; X_j]), t_i = sum_j b_ij X_j; v' = tanh L v, t' = tanh L t, and with the
    scalar gates g = sigmoid(L(v' + t')) and q = sigmoid(L f): f = L[g v'; (1 - g) t'], the emissions are
    L[q f; L H]. Loss: CRF.

    **Both attentions are blind to their queries**, see `AdditiveAttention`: every word sees the same v, and so the
    same t. `joint_attention` is what was meant.

    Settled: as in the public code f is of both parts side by side (the paper adds them) and q is of f alone (the
    paper: of H too). The code lets words attend to padding, which depends on the batch: masked here. k = d, where
    the original has 200 and a VGG-16. Without a picture q f = 0.
    """

    config_class = AdaCANConfig

    def __init__(self, config: AdaCANConfig, text_model: PreTrainedModel | None = None):
        super().__init__(config, text_model)
        d, k, region_size = config.hidden_size, config.attention_size or config.hidden_size, config.region_feature_size
        self.region_keys = nn.Linear(region_size, k)
        self.word_queries = nn.Linear(d, k)
        self.region_attention = AdditiveAttention(k, config.joint_attention)
        self.region_values = nn.Linear(region_size, k)  # L'
        self.word_keys = nn.Linear(d, k)  # of X
        self.seen_queries = nn.Linear(k, k)
        self.word_attention = AdditiveAttention(k, config.joint_attention)
        self.seen_projection = nn.Linear(k, k)  # of v'
        self.read_projection = nn.Linear(k, k)  # of t'
        self.fusion_gate = nn.Linear(k, 1)  # g
        self.fusion = nn.Linear(2 * k, k)
        self.filtration_gate = nn.Linear(k, 1)  # q
        self.word_projection = nn.Linear(d, k)
        self.classifier = nn.Linear(2 * k, len(config.tags))
        self.post_init()

    def emit(self, text: Text, picture: Picture, **own_inputs: torch.Tensor | None) -> RivalEmissions:
        """Emissions of the words."""
        attention = self.attend_regions(text, picture)
        seen = torch.bmm(attention, self.region_values(picture.regions))  # v (B, W, k)
        keys = self.word_keys(text.words)  # X
        read = torch.bmm(self.word_attention(self.seen_queries(seen), keys, text.mask), keys)  # t

        seen, read = torch.tanh(self.seen_projection(seen)), torch.tanh(self.read_projection(read))  # v', t'
        gate = torch.sigmoid(self.fusion_gate(seen + read))  # g (B, W, 1)
        fused = self.fusion(torch.cat([gate * seen, (1 - gate) * read], dim=-1))  # f
        filtered = torch.sigmoid(self.filtration_gate(fused)) * fused  # q f
        filtered = torch.where(picture.is_there[:, None, None], filtered, 0)
        both = torch.cat([filtered, self.word_projection(text.words)], dim=-1)
        return RivalEmissions(logits=self.classifier(both), word_mask=text.mask)

    def attend_regions(self, text: Text, picture: Picture) -> torch.Tensor:
        """Attention a (B, W, N) of each word to the regions."""
        return self.region_attention(
            self.word_queries(text.words), self.region_keys(picture.regions), picture.keys_mask
        )


MODEL = AdaCANForTokenClassification
