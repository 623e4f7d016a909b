"""MAF: a general matching and alignment framework (Xu et al., WSDM 2022)."""

from typing import Any, NamedTuple

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedModel

from hamlearning.rivals.rival import Picture, Rival, RivalConfig, RivalEmissions, Text
from modeling_hamlearning import HamLearningTransformerLayer


TEXT_SHARE = 0.7  # of the contrast: each text over all pictures; the rest is each picture over all texts


@strict
class MAFConfig(RivalConfig):
    r"""Sizes and switches of MAF.

    ```python
    >>> MAFConfig(text_config=bert, num_swapped=0)
    ```

    Args:
        auxiliary_weight: share of matching and contrast in the loss; the rest is the tags'.
        contrast_temperature: what cosines of text and picture are divided by.
        num_swapped: so many tweets at a batch's end swap what they have read of their pictures; only in a larger one.
        match_positions: of [CLS] and words, so many are looked at to tell whether text and picture match.
        **kwargs: see `RivalConfig`.

    Raises:
        ValueError: a number is out of range; or see `RivalConfig`.
    """

    model_type = "hamlearning_maf"
    auxiliary_weight: float | int = 0.38
    contrast_temperature: float | int = 0.179
    num_swapped: int = 16
    match_positions: int = 128

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if not 0 <= self.auxiliary_weight <= 1:
            raise ValueError(f"auxiliary_weight={self.auxiliary_weight}: must be a share in [0, 1].")
        if not self.contrast_temperature > 0:
            raise ValueError(f"contrast_temperature={self.contrast_temperature}: must be more than 0.")
        for name, minimum in {"num_swapped": 0, "match_positions": 1}.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least {minimum}.")


class MAFPooler(nn.Module):
    """BERT's pooler, which many text encoders lack: p = tanh(L h0)."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)

    def forward(self, sentence: torch.Tensor) -> torch.Tensor:
        """(B, d) -> (B, d)."""
        return torch.tanh(self.dense(sentence))


class MAFMatch(nn.Linear):
    """z = L vec[H0; C], in float32, which no precision of the run changes: oneDNN ended a training here."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(B, 2 d positions) -> (B, 2)."""
        with torch.autocast(input.device.type, enabled=False):
            return nn.functional.linear(input.float(), self.weight.float(), self.bias.float())


class Reading(NamedTuple):
    """What tweets have read of pictures, their own or, after a swap, another tweet's."""

    states: torch.Tensor  # (B, 1 + W, d), C
    matches: torch.Tensor  # (B,), 1 for the tweet's own, 0 for another one's


class MAFForTokenClassification(Rival):
    """MAF: how far text and picture match decides how much of the picture counts; a contrast aligns the two.

    ```python
    >>> model = MAFForTokenClassification.from_text_pretrained("bert-base-cased", num_labels=9)
    >>> model(**processor(text=tweets, visual_features=rows)).predictions
    ```

    With H0 = [h0; H] of the text encoder, p its pooler's output, G the regions and g the picture:
    C = Cross(H0 <- L G); z = L vec[H0; C] over 128 positions, P = softmax(z) of a match; C' = P C,
    q = sigmoid(L H0 + L C'), emissions L[H0; q * C']. In training the last 16 tweets of a batch swap their C, half
    with half, and are no match; L_match is the cross-entropy of z. With t = L relu L p and v = L relu L g,
    L_con = 0.7 CE(t over all v) + 0.3 CE(v over all t) of cosines / 0.179 in the batch.
    Loss: 0.62 CRF + 0.38 (L_match + L_con).

    Settled: as in the public code C is swapped, not the picture (the paper), and its words go on with what they got.
    Where z looks padding is 0, so that no tweet's answer depends on its batch; the batch is that of one process. Two
    tweets swap where both have a picture. Without one P = 0, and the tweet is in neither L_match nor L_con. Outside
    training the loss is the tags' alone.
    """

    config_class = MAFConfig
    drops_text = False

    def __init__(self, config: MAFConfig, text_model: PreTrainedModel | None = None):
        trained = getattr(getattr(text_model, "pooler", None), "dense", None)
        super().__init__(config, text_model)
        d = config.hidden_size
        # By its name it is a part of the text encoder, which learns at a rate of its own; that does not read it.
        self.pooler = nn.ModuleDict({"text_model": MAFPooler(d)})
        if isinstance(trained, nn.Linear):
            self.pooler["text_model"].dense = trained
        self.region_projection = nn.Linear(config.region_feature_size, d)
        self.text_reads_picture = HamLearningTransformerLayer(config)
        self.match = MAFMatch(2 * d * config.match_positions, 2)
        self.text_gate = nn.Linear(d, d)
        self.picture_gate = nn.Linear(d, d)
        self.classifier = nn.Linear(2 * d, len(config.tags))
        self.text_contrast = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d))
        self.picture_contrast = nn.Sequential(nn.Linear(config.image_feature_size, d), nn.ReLU(), nn.Linear(d, d))
        self.post_init()

    def emit(self, text: Text, picture: Picture, **own_inputs: torch.Tensor | None) -> RivalEmissions:
        """Emissions L[H0; q * C'] of the words; in training L_match + L_con of each tweet."""
        states, is_there = self.dropout(text.states), picture.is_there
        regions = self.region_projection(picture.regions)
        seen, _ = self.text_reads_picture(states, regions, picture.keys_mask)  # C (B, 1 + W, d)
        reading = self._swap(seen, is_there)
        scores = self._match_scores(states, reading.states, text.states_mask)  # z (B, 2)
        share = torch.where(is_there, scores.softmax(dim=-1)[:, 1], 0).to(seen.dtype)  # P
        weighed = share[:, None, None] * reading.states  # C'
        gate = torch.sigmoid(self.text_gate(states) + self.picture_gate(weighed))  # q
        logits = self.classifier(torch.cat([states, gate * weighed], dim=-1))
        emissions = RivalEmissions(logits=logits[:, 1:], word_mask=text.mask)
        if self.training:
            match = nn.functional.cross_entropy(scores, reading.matches, reduction="none")
            pooled = self.pooler["text_model"](text.sentence)  # p
            contrast = self._contrast(self.text_contrast(pooled), self.picture_contrast(picture.image), is_there)
            emissions["auxiliary_loss"] = torch.where(is_there, match + contrast, 0)
        return emissions

    def loss(self, emissions: RivalEmissions, labels: torch.Tensor) -> torch.Tensor:
        """0.62 CRF + 0.38 (L_match + L_con), averaged over tweets; outside training CRF."""
        loss = self._loss(emissions.logits, labels)
        if emissions.auxiliary_loss is None:
            return loss
        weight = self.config.auxiliary_weight
        return (1 - weight) * loss + weight * emissions.auxiliary_loss.mean()

    def _swap(self, seen: torch.Tensor, is_there: torch.Tensor) -> Reading:
        """In training the last tweets of a batch that is large enough have each other's C."""
        num_tweets, half = len(seen), self.config.num_swapped // 2
        places = torch.arange(num_tweets, device=seen.device)
        if not self.training or num_tweets <= self.config.num_swapped or half == 0:
            return Reading(seen, torch.ones_like(places))
        first = num_tweets - 2 * half
        partners = torch.cat([places[:first], places[first + half :], places[first : first + half]])
        donors = torch.where(is_there & is_there[partners], partners, places)
        return Reading(seen[donors], (donors == places).long())

    def _match_scores(self, states: torch.Tensor, seen: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Scores z (B, 2) of the first positions, 0 where there are fewer."""
        positions = self.config.match_positions
        pairs = torch.where(mask[..., None], torch.cat([states, seen], dim=-1), 0)[:, :positions]
        pairs = nn.functional.pad(pairs, (0, 0, 0, positions - pairs.shape[1]))
        return self.match(pairs.flatten(1))

    def _contrast(self, texts: torch.Tensor, pictures: torch.Tensor, is_there: torch.Tensor) -> torch.Tensor:
        """L_con of each tweet (B,), over the pictures that are there; t and v are (B, d)."""
        with torch.autocast(texts.device.type, enabled=False):
            texts, pictures = (nn.functional.normalize(x.float(), dim=-1) for x in (texts, pictures))
            cosines = texts @ pictures.T / self.config.contrast_temperature
            own = torch.arange(len(cosines), device=cosines.device)
            # Of a row without a picture nothing counts but itself, so that there is something to sum.
            counts = (is_there[:, None] & is_there) | (own[:, None] == own)
            cosines = torch.where(counts, cosines, torch.finfo(cosines.dtype).min)
            over_pictures = nn.functional.cross_entropy(cosines, own, reduction="none")
            over_texts = nn.functional.cross_entropy(cosines.T, own, reduction="none")
        return TEXT_SHARE * over_pictures + (1 - TEXT_SHARE) * over_texts


MODEL: Any = MAFForTokenClassification
