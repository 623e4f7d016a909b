"""ITA: image-text alignments, the picture as words beside the tweet (Wang et al., NAACL 2022)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedModel

from hamlearning.rivals.rival import Rival, RivalConfig, RivalEmissions, RivalProcessor


@strict
class ITAConfig(RivalConfig):
    r"""Sizes and switches of ITA.

    ```python
    >>> ITAConfig(text_config=xlm_roberta, temperature=4.0)
    ```

    Args:
        use_captions: read the column `caption` of the visual feature file; False: only names of classes.
        temperature: of the alignment of the views; 4 was used on Twitter-2015, 2 on Twitter-2017.
        alignment_weight: of that alignment's loss; 0 is ITA without it.
        **kwargs: see `RivalConfig`.

    Raises:
        ValueError: `temperature` is not positive; or see `RivalConfig`.
    """

    model_type = "hamlearning_ita"
    _processor_class = "ContextProcessor"
    use_captions: bool = True
    temperature: float | int = 2.0
    alignment_weight: float | int = 0.5

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature}: must be positive.")

    @property
    def visual_columns(self) -> dict[str, int | None]:
        """The picture in words."""
        if not self.use_vision:
            return {}
        return {"caption": None, "class_names": None} if self.use_captions else {"class_names": None}


class ContextProcessor(RivalProcessor):
    """A processor whose batches have a picture in words: `context_ids` and `context_mask` (B, C).

    ```python
    >>> row = features["game"] | {"caption": "a dog in the snow", "class_names": ["dog", "snow"]}
    >>> processor(text="Loved watching the Huskies warm up", visual_features=row).context_ids
    ```

    The caption, [SEP], the names of the regions' classes, each once, best score first, [SEP]. `caption` and
    `class_names` are of the row of visual features; without the latter they are those of the vision model, if there
    is one. A context is cut so that tweet and context have `max_length` sub-tokens; a tweet is not.
    """

    def model_inputs(
        self,
        words: Sequence[Sequence[str]],
        visual_features: Sequence[Mapping[str, Any] | None] | None = None,
        word_labels: Sequence[Sequence[int | str]] | None = None,
    ) -> dict[str, torch.Tensor]:
        """See `HamLearningProcessor.model_inputs`."""
        data = super().model_inputs(words, visual_features, word_labels)
        if "image_mask" not in data:
            return data
        rooms = (self.max_length - data["attention_mask"].sum(dim=1)).clamp(min=0).tolist()
        contexts = [[] if row is None else self._context(row) for row in visual_features or ()]
        sep = self.tokenizer.sep_token_id
        # Room for one sub-token would be that of [SEP].
        contexts = [
            [*ids[: room - 1], sep] if ids and room > 1 else [] for ids, room in zip(contexts, rooms, strict=True)
        ]
        most = max(map(len, contexts), default=0)
        if most:
            padded = [ids + [self.tokenizer.pad_token_id] * (most - len(ids)) for ids in contexts]
            data["context_ids"] = torch.tensor(padded)
            data["context_mask"] = torch.tensor([[1] * len(ids) + [0] * (most - len(ids)) for ids in contexts])
        return data

    def _context(self, row: Mapping[str, Any]) -> list[int]:
        """Sub-tokens of caption and names, with a [SEP] between them."""
        names = row.get("class_names")
        if names is None and self._vision_model is not None:
            known = self._vision_model.config.class_names
            names = [known[number] for number in row["class_ids"]]
        names = list(dict.fromkeys(names if names is not None else ()))[: self.max_regions]
        texts = [row.get("caption") or "", " ".join(names)]
        parts = [self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts if text]
        ids: list[int] = []
        for part in parts:
            ids += [self.tokenizer.sep_token_id] * bool(ids) + part
        return ids

    @property
    def model_input_names(self) -> list[str]:
        """What `__call__` returns at most."""
        return [*super().model_input_names, *ITAForTokenClassification.own_inputs]


@dataclass
class ITAEmissions(RivalEmissions):
    """Emissions of the view with context, and as `auxiliary_logits` those of the text view.

    Args:
        has_context: (B,), 1 where the two differ.
    """

    has_context: Any = None


class ITAForTokenClassification(Rival):
    """ITA: the tweet with its picture in words teaches the tweet alone.

    ```python
    >>> model = ITAForTokenClassification.from_text_pretrained("xlm-roberta-large", num_labels=9)
    >>> model(**processor(text=tweets, visual_features=rows)).predictions
    ```

    Text view: [CLS] tweet [SEP]; cross view: [CLS] tweet [SEP] caption [SEP] names of classes [SEP], whose context
    feeds no word. One encoder, one L(d, T) and one CRF for both. With s the log-scores of forward and backward of the
    CRF: Loss = NLL_text + NLL_cross / 2 + tau^2 / 2 sum_i KL(softmax(s_cross,i / tau) || softmax(s_text,i / tau)), the
    cross view detached in the last. The cross view predicts; without a picture it is the text view.

    Settled: sums of sub-tokens as words (there the first), IOB2 (there IOBES), no dropout and no dropped words;
    no attributes of objects and no text in the picture, as no detector of ours gives them; [SEP] where the public code
    has a word <EOS>. Both views of a tweet are in one batch (there in alternating ones). The CRF learns at a rate of
    its own, `--crf_learning_rate`, as there.
    """

    config_class = ITAConfig
    processor_class = ContextProcessor
    own_inputs = ("context_ids", "context_mask")
    drops_text = False

    def __init__(self, config: ITAConfig, text_model: PreTrainedModel | None = None):
        super().__init__(config, text_model)
        self.classifier = nn.Linear(config.hidden_size, len(config.tags))
        self.post_init()

    def _read(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        word_ids: torch.Tensor | None,
        num_words: int | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **inputs: torch.Tensor | None,
    ) -> ITAEmissions:
        """Both views of texts that have room; the arguments are those of `forward`."""
        context_ids, context_mask = (inputs.pop(name, None) for name in self.own_inputs)
        pieces: Any = inputs_embeds if input_ids is None else input_ids
        is_there = self._picture(pieces, **inputs).is_there
        states, mask = self.model.encode_text(
            input_ids, attention_mask, word_ids, num_words, token_type_ids, inputs_embeds
        )
        text = self.classifier(states[:, 1:])  # (B, W, T)
        if context_ids is None or not self.config.use_vision:
            return ITAEmissions(
                logits=text, word_mask=mask, auxiliary_logits=text, has_context=torch.zeros_like(is_there).float()
            )
        if input_ids is None:
            raise ValueError("inputs_embeds with context_ids: ITA puts the context behind a text: give its input_ids.")
        if context_mask is None:
            context_mask = torch.ones_like(context_ids)
        context_mask = context_mask.bool() & is_there[:, None]
        has_context = context_mask.any(dim=1)
        ids, joint_mask, words = self._join(input_ids, attention_mask, word_ids, context_ids, context_mask)
        states, _ = self.model.encode_text(ids, joint_mask, words, text.shape[1])
        cross = torch.where(has_context[:, None, None], self.classifier(states[:, 1 : 1 + text.shape[1]]), text)
        return ITAEmissions(logits=cross, word_mask=mask, auxiliary_logits=text, has_context=has_context.float())

    @staticmethod
    def _join(
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        word_ids: torch.Tensor | None,
        context_ids: torch.Tensor,
        context_mask: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Texts with their contexts behind the last sub-token, (B, S + C) each: ids, mask and word ids."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        size = input_ids.shape[1]
        column = torch.arange(size + context_ids.shape[1], device=input_ids.device)[None]
        length = attention_mask.sum(dim=1, keepdim=True)
        # From the text up to its last sub-token, from the context on; what is behind that is padding.
        source = torch.where(column < length, column, size + column - length).clamp(max=column.shape[1] - 1)
        mask = column < length + context_mask.sum(dim=1, keepdim=True)
        ids = torch.cat([input_ids, context_ids], dim=1).gather(1, source)
        if word_ids is None:  # every position of the text is a word, and there is no other
            word_ids = torch.where(attention_mask.bool(), torch.arange(size, device=input_ids.device)[None] + 1, -1)
        words = torch.cat([word_ids, torch.full_like(context_ids, -1)], dim=1).gather(1, source)
        return ids, mask.to(attention_mask.dtype), torch.where(mask, words, -1)

    def loss(self, emissions: ITAEmissions, labels: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]  # its own `emit` makes them
        """Likelihoods of both views, and how far the text view is from the other, averaged over tweets."""
        text, cross, has_context = emissions.auxiliary_logits.float(), emissions.logits, emissions.has_context
        loss = self._loss(text, labels)
        loss = loss + 0.5 * self._loss(cross, torch.where(has_context[:, None] > 0, labels, -100))
        tau, mask = self.config.temperature, emissions.word_mask
        log_text, log_cross = (self._log_scores(logits, mask) / tau for logits in (text, cross.detach()))
        distance = nn.functional.kl_div(
            log_text.log_softmax(dim=-1), log_cross.detach().log_softmax(dim=-1), reduction="none", log_target=True
        ).sum(dim=-1)  # (B, W)
        aligned = torch.where((labels != -100) & (has_context[:, None] > 0), distance, 0).sum(dim=1)
        return loss + self.config.alignment_weight * tau**2 * aligned.mean()

    def _log_scores(self, emissions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """s, (B, W, T): forward and backward scores of each tag at each word, but for a number a word."""
        is_on = mask | (torch.arange(mask.shape[1], device=mask.device) == 0)
        alpha, beta, _, _ = self.crf.forward_backward(emissions, is_on)
        return alpha + beta


MODEL = ITAForTokenClassification
