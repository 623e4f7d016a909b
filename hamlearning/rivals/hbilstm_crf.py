"""HBiLSTM-CRF (Lample et al., NAACL 2016)."""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn

from hamlearning.rivals.lstm_taggers import PAD, BiLSTM, CharacterProcessor, LSTMConfig, LSTMTagger


@strict
class HBiLSTMCRFConfig(LSTMConfig):
    r"""Sizes and switches of HBiLSTM-CRF.

    ```python
    >>> HBiLSTMCRFConfig(num_characters=120)
    ```

    Args:
        num_characters: C, those that are known, with padding and the unknown one.
        character_size: size of a character's vector, and of the states of the LSTMs over them.
        **kwargs: see `LSTMConfig`.
    """

    model_type = "hamlearning_hbilstm_crf"
    _processor_class = "CharacterProcessor"
    sizes = ("num_characters", "character_size")
    num_characters: int = 2
    character_size: int = 25


class HBiLSTMCRFForTokenClassification(LSTMTagger):
    """HBiLSTM-CRF: beside a word's vector what a BiLSTM says at the ends of its characters.

    ```python
    >>> model, tokenizer, options = HBiLSTMCRFForTokenClassification.from_words(train["tokens"], num_labels=9)
    >>> processor = model.processor_class(tokenizer, tags=model.config.tags, **options)
    >>> model(**processor(text=tweets)).predictions
    ```

    c_i = the last states of a BiLSTM over the word's characters, 25 a direction, 25-d characters, x_i = [E[w_i]; c_i];
    Y = BiLSTM(drop x), 200 a direction; emissions L(drop Y). Loss: CRF.

    Settled: as `BiLSTMCRFForTokenClassification`. Characters have their case, start as U(-sqrt(3/25), sqrt(3/25)), and
    those that occur once are unknown.
    """

    config_class = HBiLSTMCRFConfig
    processor_class = CharacterProcessor
    own_inputs = ("character_ids",)
    word_inputs = ("character_ids",)
    reads_characters = True

    def add_character_encoder(self, config: Any) -> int:
        """Makes table and LSTMs; returns the size of both directions."""
        self.characters = nn.Embedding(config.num_characters, config.character_size, padding_idx=PAD)
        self.character_lstm = BiLSTM(config.character_size, config.character_size)
        return 2 * config.character_size

    def read_characters(self, character_ids: torch.Tensor) -> torch.Tensor:
        """Last states (M, 2 size) of words of characters (M, C); 0 for a word without any."""
        is_there = character_ids != PAD
        characters = self.characters(character_ids)
        device = characters.device.type
        if torch.is_autocast_enabled(device):
            # Else autocast makes it so within PyTorch's fast LSTM, which a processor without bfloat16 does not have.
            characters = characters.to(torch.get_autocast_dtype(device))
        _, ends = self.character_lstm(characters, is_there.sum(dim=1))
        return torch.where(is_there.any(dim=1, keepdim=True), ends, 0)


MODEL = HBiLSTMCRFForTokenClassification
