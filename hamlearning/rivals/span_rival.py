"""What UMT and MGCMT share: beside the tagger one of text alone, of O, B and I."""

import torch

from hamlearning.rivals.rival import Rival, RivalEmissions
from modeling_hamlearning import HamLearningCRF


class SpanRival(Rival):
    """A rival with a text-only tagger of O, B and I: `auxiliary_crf` over the `auxiliary_logits` of its emissions."""

    auxiliary_crf: HamLearningCRF

    def loss(self, emissions: RivalEmissions, labels: torch.Tensor) -> torch.Tensor:
        """CRF(E, y) + 0.5 CRF(E_a, y_a), y_a the first letters of the tags."""
        kinds = torch.where(labels == -100, -100, self._kinds().to(labels.device)[labels.clamp(min=0)])  # y_a
        auxiliary = self.likelihood_loss(self.auxiliary_crf, emissions.auxiliary_logits, kinds)
        return super().loss(emissions, labels) + self.config.auxiliary_weight * auxiliary

    def _kinds(self) -> torch.Tensor:
        """Of each tag, (T,): 0 for O, 1 for a B-, 2 for an I-."""
        return torch.tensor([{"B-": 1, "I-": 2}.get(tag[:2], 0) for tag in self.config.tags])


__all__ = ["SpanRival"]
