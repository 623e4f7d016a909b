"""MRC-MNER: entities as answers to a question a type (Jia et al., ACM MM 2022), as far as it is known."""

from typing import Any, NamedTuple, NoReturn

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedModel

from hamlearning.rivals.rival import Rival, RivalConfig, RivalEmissions
from modeling_hamlearning import HamLearningTransformerLayer


QUERIES = {
    "PER": "names of people, real or invented, and what they are called",
    "LOC": "names of places: countries, cities, regions, streets, rivers, and buildings one can go to",
    "ORG": "names of organizations: companies, teams, bands, parties, schools and agencies",
    "MISC": "names of anything else: events, works of art, products, nationalities and languages",
}


@strict
class MRCMNERConfig(RivalConfig):
    r"""Sizes and switches of MRC-MNER.

    ```python
    >>> MRCMNERConfig(text_config=bert, query_ids=[[2466, 1997, 2111, 102], ...])
    ```

    Args:
        query_ids: sub-tokens of the question of each type, [SEP] at the end, types in the order of the tags. None
            until `MRCMNERForTokenClassification.meet` has made them.
        **kwargs: see `RivalConfig`; there is no CRF.
    """

    model_type = "hamlearning_mrc_mner"
    query_ids: list[list[int]] | None = None

    @classmethod
    def switches(cls) -> tuple[str, ...]:
        """See `RivalConfig`; the questions are made, and no CRF can be left out."""
        return tuple(name for name in super().switches() if name not in ("query_ids", "use_crf"))

    @property
    def types(self) -> list[str]:
        """Types of entities, in the order of the tags."""
        return list(dict.fromkeys(tag[2:] for tag in self.tags if tag != "O"))


class Margins(NamedTuple):
    """Log-odds of W words and K types, (B, W, K) each; `start[b, i, k]` says that an entity of k starts at word i."""

    start: torch.Tensor
    end: torch.Tensor
    existence: torch.Tensor  # that the tweet has an entity of k; the same at all words of a window
    match_start: torch.Tensor  # the two parts of the log-odds that a start and an end belong together
    match_end: torch.Tensor


class MRCMNERForTokenClassification(Rival):
    """MRC-MNER: each type asks the tweet its question; what starts and ends an answer, and whether there is one.

    ```python
    >>> model = MRCMNERForTokenClassification.from_text_pretrained("bert-base-cased", num_labels=9)
    >>> model.meet(processor)
    >>> model(**processor(text=tweets, visual_features=rows)).predictions
    ```

    For each type: [CLS] question [SEP] tweet [SEP] gives h0, Hq and H; V = L R, q = mean Hq, r_j = sigmoid(L[V_j; q]),
    V_j <- r_j V_j; X = Self(H <- [H; Hq]), C = Cross(X <- V), z = sigmoid(L[X; C]), F = X + z * C. Existence L h0,
    start L F, end L F, match L[F_start; F_end], of two classes each but the last. Loss: the sum of their four
    cross-entropies, means over words, types and pairs of a tweet; a pair is a gold start and a gold or predicted end.
    An entity has a start, an end not before it, a match and an existence that are all more likely than not; of those
    that overlap the one whose product of the four probabilities is largest stays, and that is its score.

    Settled: **a reconstruction**. No code and no full text could be had, so this is "after MRC-MNER": questions in own
    words; the weights r of regions are learned from the tags alone (there from a grounding corpus); no CRF.
    Without a picture F = X.
    """

    config_class = MRCMNERConfig
    has_score_temperature = False

    def __init__(self, config: MRCMNERConfig, text_model: PreTrainedModel | None = None):
        super().__init__(config, text_model)
        d = config.hidden_size
        del self.crf
        self.regions = nn.Linear(config.region_feature_size, d)
        self.region_weight = nn.Linear(2 * d, 1)  # r
        self.text_layer = HamLearningTransformerLayer(config)  # Self
        self.text_reads_picture = HamLearningTransformerLayer(config)  # Cross
        self.gate = nn.Linear(2 * d, d)  # z
        self.existence = nn.Linear(d, 2)
        self.start = nn.Linear(d, 2)
        self.end = nn.Linear(d, 2)
        self.match = nn.Linear(2 * d, 1)
        self.post_init()

    def meet(self, processor: Any) -> None:
        """Makes the questions of the types, in sub-tokens of the processor's tokenizer, if there are none yet.

        Raises:
            ValueError: the text encoder has no room for question and tweet.
        """
        tokenizer = processor.tokenizer
        if self.config.query_ids is None:
            texts = [QUERIES.get(name, f"names of the type {name.lower()}") for name in self.config.types]
            pieces = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
            self.config.query_ids = [[*ids, tokenizer.sep_token_id] for ids in pieces]
        most = getattr(self.config.text_config, "max_position_embeddings", None)
        longest = max(map(len, self.config.query_ids), default=0)
        if most is not None and processor.max_length + longest > most:
            raise ValueError(
                f"MRC-MNER reads a question of {longest} sub-tokens beside a tweet of {processor.max_length}, the "
                f"text encoder {most} in all: give --max_length {most - longest} or less."
            )

    def _read(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        word_ids: torch.Tensor | None,
        num_words: int | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **inputs: torch.Tensor | None,
    ) -> RivalEmissions:
        """Margins of texts that have room, each read once a type; the arguments are those of `forward`."""
        if input_ids is None:
            raise ValueError("inputs_embeds: MRC-MNER puts its questions before a text: give its input_ids.")
        picture = self._picture(input_ids, **inputs)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if word_ids is None:  # every position is a word
            word_ids = torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device).expand_as(input_ids)
            word_mask = attention_mask.bool()
        else:
            num_words = max(int(word_ids.max()), 1) if num_words is None else num_words
            word_mask = torch.arange(1, num_words + 1, device=word_ids.device) <= word_ids.amax(dim=1, keepdim=True)
        asked: Any
        asked, query_mask = self._ask(input_ids, attention_mask, word_ids)
        (count, width), size = query_mask.shape, word_mask.shape[1]  # K, Q and W
        states, _ = self.model.encode_text(**asked, num_words=width + size)
        states = self.dropout(states)  # (B K, 1 + Q + W, d)
        sentence, query, words = states[:, 0], states[:, 1 : 1 + width], states[:, 1 + width :]
        query_mask = query_mask.repeat(len(input_ids), 1)
        mask, there, is_region, features = (
            given.repeat_interleave(count, dim=0)
            for given in (word_mask, picture.is_there, picture.keys_mask, picture.regions)
        )

        visual = self.regions(features)  # V (B K, N, d)
        mean = (query * query_mask[..., None]).sum(dim=1) / query_mask.sum(dim=1, keepdim=True).clamp(min=1)  # q
        weight = self.region_weight(torch.cat([visual, mean[:, None].expand_as(visual)], dim=-1))
        visual = torch.sigmoid(weight) * visual
        text, _ = self.text_layer(words, torch.cat([words, query], dim=1), torch.cat([mask, query_mask], dim=1))  # X
        seen, _ = self.text_reads_picture(text, visual, is_region)  # C
        gate = torch.sigmoid(self.gate(torch.cat([text, seen], dim=-1)))  # z
        fused = text + torch.where(there[:, None, None], gate * seen, 0)  # F (B K, W, d)
        return self._emissions(sentence, fused, word_mask)

    def _ask(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, word_ids: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Inputs of the text encoder, (B K, Q + S) each, whose words are those of question and tweet; mask (K, Q).

        A word of a tweet has its number and Q added; a question shorter than Q has no sub-tokens of the last numbers.
        """
        if self.config.query_ids is None:
            raise ValueError("config.query_ids=None: MRC-MNER has no questions; call `model.meet(processor)` first.")
        device, queries = input_ids.device, self.config.query_ids
        width = max(map(len, queries)) - 1  # Q: a question without its [SEP]
        of_tweet = torch.where(word_ids > 0, word_ids + width, -1)
        asked: dict[str, list[torch.Tensor]] = {"input_ids": [], "attention_mask": [], "word_ids": []}
        if getattr(self.config.text_config, "type_vocab_size", 0) > 1:
            asked["token_type_ids"] = []
        for ids in queries:
            query = torch.tensor(ids, device=device).expand(len(input_ids), -1)
            on, number = torch.ones_like(query), torch.arange(1, len(ids) + 1, device=device).expand_as(query)
            parts = {  # [CLS], the question with its [SEP], the tweet with its [SEP], padding
                "input_ids": (input_ids[:, :1], query, input_ids[:, 1:], 0),
                "attention_mask": (attention_mask[:, :1], on, attention_mask[:, 1:], 0),
                "word_ids": (0 * word_ids[:, :1], torch.where(number < len(ids), number, -1), of_tweet[:, 1:], -1),
                "token_type_ids": (0 * input_ids[:, :1], 0 * on, torch.ones_like(input_ids[:, 1:]), 0),
            }
            for name, rows in asked.items():
                *row, filling = parts[name]
                rows.append(nn.functional.pad(torch.cat(row, dim=1), (0, width + 1 - len(ids)), value=filling))
        lengths = torch.tensor([len(ids) - 1 for ids in queries], device=device)
        stacked = {name: torch.stack(rows, dim=1).flatten(0, 1) for name, rows in asked.items()}
        return stacked, torch.arange(width, device=device) < lengths[:, None]

    def _emissions(self, sentence: torch.Tensor, fused: torch.Tensor, word_mask: torch.Tensor) -> RivalEmissions:
        """Margins of words, from h0 (B K, d) and F (B K, W, d)."""

        def margin(two_classes: torch.Tensor) -> torch.Tensor:
            return two_classes[..., 1] - two_classes[..., 0]

        d = fused.shape[-1]
        existence = margin(self.existence(sentence))[:, None].expand(fused.shape[:2])
        match_start = nn.functional.linear(fused, self.match.weight[:, :d], self.match.bias)[..., 0]
        match_end = nn.functional.linear(fused, self.match.weight[:, d:])[..., 0]
        found = Margins(margin(self.start(fused)), margin(self.end(fused)), existence, match_start, match_end)
        of_types = (given.unflatten(0, (len(word_mask), -1)).transpose(1, 2) for given in found)
        margins = Margins(*of_types)
        types = self.config.types
        # What one can see: log-odds of the beginning at B-, of the end at I-, O at 0.
        shown = [
            torch.zeros_like(margins.start[..., 0])
            if tag == "O"
            else (margins.start if tag.startswith("B-") else margins.end)[..., types.index(tag[2:])]
            for tag in self.config.tags
        ]
        return RivalEmissions(
            logits=torch.stack(shown, dim=-1), word_mask=word_mask, auxiliary_logits=torch.stack(margins, dim=-1)
        )

    def loss(self, emissions: RivalEmissions, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropies of start, end, match and existence, averaged over tweets."""
        margins, is_known = Margins(*emissions.auxiliary_logits.unbind(-1)), labels != -100
        starts, ends = self.gold(labels)  # (B, W, K)
        known = is_known[..., None].expand_as(starts)

        def of_tweets(margin: torch.Tensor, gold: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            terms = nn.functional.binary_cross_entropy_with_logits(margin, gold.float(), reduction="none")
            return (terms * mask).flatten(1).sum(dim=1) / mask.flatten(1).sum(dim=1).clamp(min=1)

        loss = of_tweets(margins.start, starts, known) + of_tweets(margins.end, ends, known)
        loss = loss + of_tweets(margins.existence, starts.any(dim=1, keepdim=True).expand_as(starts), known)
        place = torch.arange(labels.shape[1], device=labels.device)
        is_ahead = (place[:, None] <= place)[None, :, :, None]  # (1, W, W, 1), a start and an end
        ends_before = ends.long().cumsum(dim=1) - ends.long()
        is_next = ends_before[:, :, None] == ends_before[:, None]
        gold = starts[:, :, None] & ends[:, None] & is_ahead & is_next
        asked = starts[:, :, None] & (ends | (margins.end > 0) & known)[:, None] & is_ahead  # (B, W, W, K)
        match = margins.match_start[:, :, None] + margins.match_end[:, None]
        return (loss + of_tweets(match, gold, asked)).mean()

    def gold(self, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Whether an entity of a type starts at a word, and whether one ends there: (B, W) to (B, W, K) each."""
        tags, types = self.config.tags, self.config.types
        kind_of = torch.tensor([types.index(tag[2:]) if tag != "O" else -1 for tag in tags], device=labels.device)
        goes_on = torch.tensor([tag.startswith("I-") for tag in tags], device=labels.device)
        kind = torch.where(labels == -100, -1, kind_of[labels.clamp(min=0)])
        within = (labels != -100) & goes_on[labels.clamp(min=0)]
        continues = nn.functional.pad(within[:, 1:] & (kind[:, 1:] == kind[:, :-1]), (1, 0), value=False)
        is_type = kind[..., None] == torch.arange(len(types), device=labels.device)
        ends = nn.functional.pad(~continues[:, 1:], (0, 1), value=True)
        return is_type & ~continues[..., None], is_type & ends[..., None]

    def decode(self, emissions: RivalEmissions, output_probabilities: bool) -> dict[str, torch.Tensor]:
        """Entities as tags; `scores` are products of four probabilities, `probabilities` the softmax of the emissions.

        What it knows is of entities, not of tags: so the latter are no probabilities that it has learned.
        """
        mask, tags = emissions.word_mask, self.config.tags
        predictions = torch.where(mask, tags.index("O"), -100).cpu()
        scores = torch.zeros(mask.shape)
        margins = Margins(*emissions.auxiliary_logits.detach().cpu().unbind(-1))
        is_start = (margins.start > 0) & (margins.existence > 0) & mask.cpu()[..., None]
        is_end = (margins.end > 0) & mask.cpu()[..., None]
        for row in range(len(mask)):
            for score, first, last, kind in self._spans(
                Margins(*(m[row] for m in margins)), is_start[row], is_end[row]
            ):
                known = [tags.index(tag) for prefix in ("B", "I") if (tag := f"{prefix}-{kind}") in tags]
                predictions[row, first : last + 1] = known[-1]
                predictions[row, first] = known[0]
                scores[row, first] = score
        decoded = {"predictions": predictions.to(mask.device), "scores": scores.to(mask.device)}
        if output_probabilities:
            decoded["probabilities"] = emissions.logits.softmax(dim=-1) * mask[..., None]
        return decoded

    def explain(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Nothing: effects are of the probability of an entity among all ways to tag, which only a CRF has.

        Raises:
            ValueError: always.
        """
        raise ValueError("MRC-MNER has no CRF, whose probabilities `explain` compares: ask another architecture.")

    def _spans(
        self, margins: Margins, is_start: torch.Tensor, is_end: torch.Tensor
    ) -> list[tuple[float, int, int, str]]:
        """Entities of one tweet that do not overlap, best first: score, first and last word, type."""
        found = []
        for k, kind in enumerate(self.config.types):
            first, last = is_start[:, k].nonzero()[:, 0], is_end[:, k].nonzero()[:, 0]
            match = margins.match_start[first, k][:, None] + margins.match_end[last, k]
            rows, columns = ((match > 0) & (first[:, None] <= last)).nonzero(as_tuple=True)
            first, last = first[rows], last[columns]
            of_parts = (
                margins.start[first, k],
                margins.end[last, k],
                match[rows, columns],
                margins.existence[first, k],
            )
            product = torch.stack(of_parts).sigmoid().prod(dim=0)
            found += zip(product.tolist(), first.tolist(), last.tolist(), [kind] * len(first), strict=True)
        taken, kept = set(), []
        for span in sorted(found, key=lambda span: (-span[0], span[1], span[2])):
            words = set(range(span[1], span[2] + 1))
            if not words & taken:
                taken |= words
                kept.append(span)
        return kept


MODEL = MRCMNERForTokenClassification
