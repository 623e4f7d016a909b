"""CNN-BiLSTM-CRF (Ma and Hovy, ACL 2016)."""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn

from hamlearning.rivals.lstm_taggers import PAD, CharacterProcessor, LSTMConfig, LSTMTagger


@strict
class CNNBiLSTMCRFConfig(LSTMConfig):
    r"""Sizes and switches of CNN-BiLSTM-CRF.

    ```python
    >>> CNNBiLSTMCRFConfig(num_characters=120)
    ```

    Args:
        num_characters: C, those that are known, with padding and the unknown one.
        character_size: size of a character's vector.
        num_filters: of the convolution over characters.
        **kwargs: see `LSTMConfig`.
    """

    model_type = "hamlearning_cnn_bilstm_crf"
    _processor_class = "CharacterProcessor"
    sizes = ("num_characters", "character_size", "num_filters")
    num_characters: int = 2
    character_size: int = 30
    num_filters: int = 30


class CNNBiLSTMCRFForTokenClassification(LSTMTagger):
    """CNN-BiLSTM-CRF: beside a word's vector the strongest that filters find in its characters.

    ```python
    >>> model, tokenizer, options = CNNBiLSTMCRFForTokenClassification.from_words(train["tokens"], num_labels=9)
    >>> processor = model.processor_class(tokenizer, tags=model.config.tags, **options)
    >>> model(**processor(text=tweets)).predictions
    ```

    c_i = max over time of conv(drop characters), 30 filters of width 3 on 30-d characters, x_i = [E[w_i]; c_i];
    Y = BiLSTM(drop x), 200 a direction; emissions L(drop Y). Loss: CRF.

    Settled: as `BiLSTMCRFForTokenClassification`. Characters have their case, start as U(-sqrt(3/30), sqrt(3/30)), and
    those that occur once are unknown. The maximum is over the word's own places, not over padding: else a word would
    depend on the longest one of its batch.
    """

    config_class = CNNBiLSTMCRFConfig
    processor_class = CharacterProcessor
    own_inputs = ("character_ids",)
    word_inputs = ("character_ids",)
    reads_characters = True

    def add_character_encoder(self, config: Any) -> int:
        """Makes table and filters; returns their number."""
        self.characters = nn.Embedding(config.num_characters, config.character_size, padding_idx=PAD)
        self.filters = nn.Conv1d(config.character_size, config.num_filters, kernel_size=3, padding=1)
        return config.num_filters

    def read_characters(self, character_ids: torch.Tensor) -> torch.Tensor:
        """Maxima (M, filters) of words of characters (M, C); 0 for a word without any."""
        is_there = character_ids != PAD
        # Padding's vector is drawn like the others', and has no part in what a word says.
        vectors = torch.where(is_there[..., None], self.characters(character_ids), 0)
        found = self.filters(self.dropout(vectors).transpose(1, 2))  # (M, filters, C)
        lowest = found.masked_fill(~is_there[:, None], torch.finfo(found.dtype).min).amax(dim=2)
        return torch.where(is_there.any(dim=1, keepdim=True), lowest, 0)


MODEL = CNNBiLSTMCRFForTokenClassification
