"""BiLSTM-CRF (Huang et al., 2015)."""

from huggingface_hub.dataclasses import strict

from hamlearning.rivals.lstm_taggers import LSTMConfig, LSTMTagger


@strict
class BiLSTMCRFConfig(LSTMConfig):
    r"""Sizes and switches of BiLSTM-CRF.

    ```python
    >>> BiLSTMCRFConfig(lstm_size=200)
    ```

    Args:
        **kwargs: see `LSTMConfig`.
    """

    model_type = "hamlearning_bilstm_crf"


class BiLSTMCRFForTokenClassification(LSTMTagger):
    """BiLSTM-CRF: a vector a word, a BiLSTM over them, a CRF.

    ```python
    >>> model, tokenizer, _ = BiLSTMCRFForTokenClassification.from_words(train["tokens"], num_labels=9)
    >>> processor = model.processor_class(tokenizer, tags=model.config.tags)
    >>> model(**processor(text=tweets)).predictions
    ```

    x_i = E[w_i], 200-d, trained on; Y = BiLSTM(drop x), 200 a direction; emissions L(drop Y). Loss: CRF.

    Settled: dropout 0.5; no spelling features. The vocabulary is of the train split's words that occur twice,
    lower-cased, and of the words of `--word_vectors`, whose vectors are where the training starts; other vectors
    start as U(-0.25, 0.25).
    """

    config_class = BiLSTMCRFConfig


MODEL = BiLSTMCRFForTokenClassification
