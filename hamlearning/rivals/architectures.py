"""Which architectures there are, by the name that a user types; none is imported before it is asked for."""

from importlib import import_module
from typing import Any

from transformers import AutoConfig, AutoModelForTokenClassification, PreTrainedConfig


HAMLEARNING = "hamlearning"
# Module of this package by the value of `--architecture`; its `MODEL` is the class.
RIVALS = (
    "adacan", "bilstm_crf", "cnn_bilstm_crf", "gvatt", "hbilstm_crf", "hvpnet", "ita", "maf", "mgcmt", "mrc_mner",
    "umgf", "umt",
)  # fmt: skip
ARCHITECTURES = (HAMLEARNING, *RIVALS)


def class_of(architecture: str) -> Any:
    """The class of an architecture.

    ```python
    >>> class_of("umt")
    <class 'hamlearning.rivals.umt.UMTForTokenClassification'>
    ```

    Raises:
        ValueError: there is none of that name.
    """
    if architecture == HAMLEARNING:
        from modeling_hamlearning import HamLearningForTokenClassification

        return HamLearningForTokenClassification
    if architecture not in RIVALS:
        raise ValueError(f"architecture={architecture!r}: must be one of {', '.join(ARCHITECTURES)}.")
    return import_module(f"hamlearning.rivals.{architecture}").MODEL


def reads_words(architecture: str) -> bool:
    """Whether an architecture has no text encoder, but vectors of the train split's words."""
    return hasattr(class_of(architecture), "from_words")


def takes_word_vectors(architecture: str) -> bool:
    """Whether a new model of an architecture may take vectors of words from a text file."""
    return reads_words(architecture) or hasattr(class_of(architecture), "learn_word_vectors")


def processor_class_of(architecture: str) -> Any:
    """The class of the processor of an architecture; see `class_of`."""
    if architecture == HAMLEARNING:
        from processing_hamlearning import HamLearningProcessor

        return HamLearningProcessor
    return class_of(architecture).processor_class


def architecture_of(name_or_path: str) -> str:
    """The architecture of a saved model, a folder or Hub id, by the type in its config."""
    found, _ = PreTrainedConfig.get_config_dict(name_or_path)
    return architecture_of_type(found.get("model_type"))


def architecture_of_type(model_type: str | None) -> str:
    """The architecture of a config's `model_type`."""
    return next((name for name in RIVALS if model_type == f"hamlearning_{name}"), HAMLEARNING)


def register(architecture: str) -> None:
    """Has `AutoConfig` and `AutoModelForTokenClassification` take this code for a folder, never what it carries."""
    model = class_of(architecture)
    AutoConfig.register(model.config_class.model_type, model.config_class, exist_ok=True)
    if architecture != HAMLEARNING:
        AutoModelForTokenClassification.register(model.config_class, model, exist_ok=True)
