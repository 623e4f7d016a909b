"""The frame of a rival: words and picture in, as for HamLearning, a tag a word out; between them its own equations.

Letters in shapes: B tweets, S sub-tokens, W words, N regions, d hidden size, T tags.
"""

import copy
import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedModel, initialization
from transformers.utils import ModelOutput, can_return_tuple

from configuration_hamlearning import NO_SWITCHES, HamLearningConfig
from modeling_hamlearning import (
    HamLearningCRF,
    HamLearningForTokenClassification,
    HamLearningModel,
    HamLearningPreTrainedModel,
    HamLearningTokenClassifierOutput,
)
from processing_hamlearning import HamLearningProcessor
from windows_hamlearning import read_in_windows


VISUAL_INPUTS = (
    "image_features", "region_features", "region_boxes", "region_class_ids", "region_mask", "image_mask",
    "image_sizes",
)  # fmt: skip
# Of HamLearning's switches, those that a rival has as well. The rest is HamLearning's own network.
SHARED_SWITCHES = {"use_vision", "use_crf", "dropout", "picture_dropout"}
# What each processor is made with, beside its tokenizer.
SHARED_SETTINGS = tuple(inspect.signature(HamLearningProcessor).parameters)[1:-1]
CODE_FILE = "rival_hamlearning.py"  # of a saved rival
CODE = '''"""The code of this model is in a package: pip install hamlearning"""

from hamlearning.rivals.{module} import {names}  # noqa: F401
'''


@strict
class RivalConfig(HamLearningConfig):
    r"""Sizes and switches of a rival: those that it shares with HamLearning, and its own.

    ```python
    >>> from hamlearning.rivals.umt import UMTConfig
    >>> UMTConfig(auxiliary_weight=0.5).switches()
    ('auxiliary_weight', 'dropout', 'picture_dropout', 'use_crf', 'use_vision')
    ```

    Args:
        **kwargs: fields of `HamLearningConfig` that are no switches of its own network.

    Raises:
        ValueError: a switch is HamLearning's own; or see `HamLearningConfig`.
    """

    model_type = "hamlearning_rival"
    _auto_class = None  # its code is in this package, no file that goes with it
    _processor_class = None  # name of the `RivalProcessor` that makes its inputs

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        for name in set(HamLearningConfig.switches()) - set(self.switches()):
            if getattr(self, name) != getattr(HamLearningConfig, name):
                raise ValueError(
                    f"{name}={getattr(self, name)!r}: {type(self).__name__} has no such switch; it has "
                    f"{', '.join(self.switches())}."
                )
        place, model = CODE_FILE.removesuffix(".py"), type(self).__name__.replace("Config", "ForTokenClassification")
        self.auto_map = {
            "AutoConfig": f"{place}.{type(self).__name__}",
            "AutoModelForTokenClassification": f"{place}.{model}",
            "AutoProcessor": (
                f"{place}.{self._processor_class}" if self._processor_class else self.auto_map["AutoProcessor"]
            ),
        }

    @classmethod
    def switches(cls) -> tuple[str, ...]:
        """The fields that decide what the network does, which are its flags on the command line."""
        own = {f.name for f in fields(cls)} - {f.name for f in fields(HamLearningConfig)}
        return tuple(sorted(own | SHARED_SWITCHES))

    @property
    def visual_columns(self) -> dict[str, int | None]:
        """Columns of a visual feature file that are read beside those that all have, with their widths."""
        return {}

    def text_alone(self) -> HamLearningConfig:
        """The config of a trunk of `HamLearningModel` that reads words and does nothing else."""
        names = (NO_SWITCHES | SHARED_SWITCHES) - {"use_vision", "word_marks"}
        shared = {name: getattr(self, name) for name in names}
        text_config: Any = self.text_config
        attn_implementation = text_config._attn_implementation
        alone = HamLearningConfig(
            **shared, use_vision=False, num_text_layers=0, num_ffnn_layers=0, id2label=dict(self.id2label or {})
        )
        text_config._attn_implementation = attn_implementation  # a config made of another resets this in both
        return alone


class Text(NamedTuple):
    """What the text encoder has read."""

    sentence: torch.Tensor  # (B, d), h0, the state of [CLS]
    words: torch.Tensor  # (B, W, d), H, sums of sub-tokens
    mask: torch.Tensor  # (B, W), on for a word

    @property
    def states(self) -> torch.Tensor:
        """H0 = [h0; H], (B, 1 + W, d)."""
        return torch.cat([self.sentence[:, None], self.words], dim=1)

    @property
    def states_mask(self) -> torch.Tensor:
        """Of H0, (B, 1 + W)."""
        return nn.functional.pad(self.mask, (1, 0), value=True)


class Picture(NamedTuple):
    """The pictures of a batch; what is hidden or missing is 0, and the masks say so."""

    image: torch.Tensor  # (B, D_i), g
    regions: torch.Tensor  # (B, N, D_f), G or R, N at least 1
    region_mask: torch.Tensor  # (B, N), on for a region
    class_ids: torch.Tensor  # (B, N), `num_classes` for none
    is_there: torch.Tensor  # (B,), on for a tweet with a picture

    @property
    def keys_mask(self) -> torch.Tensor:
        """(B, N), on for at least one region, so that an attention always has a key: `is_there` says whether to."""
        is_first = torch.arange(self.region_mask.shape[1], device=self.region_mask.device) == 0
        return self.region_mask | (is_first & ~self.region_mask.any(dim=1, keepdim=True))


@dataclass
class RivalEmissions(ModelOutput):
    """What a rival says of words, before the CRF.

    Args:
        logits: (B, W, T), the emissions.
        word_mask: (B, W), on for a word.
        auxiliary_logits: (B, W, A), of a second tagger.
        auxiliary_loss: (B,), what a tweet adds to the loss beside its tags' likelihood.
    """

    logits: Any = None
    word_mask: Any = None
    auxiliary_logits: Any = None
    auxiliary_loss: Any = None


class RivalProcessor(HamLearningProcessor):
    """A processor of inputs that HamLearning does not have; a saved one is found where this package is installed.

    A subclass may take arguments of its own, and give `HamLearningProcessor` the others as `**kwargs`: transformers
    would neither save nor load those, since it reads the signature of the subclass alone.
    """

    _auto_class = None  # its code is in this package

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoProcessor") -> None:
        """Nothing: no file of code goes with a saved one but that of its model."""

    def to_dict(self) -> dict[str, Any]:
        """What `processor_config.json` holds."""
        place = CODE_FILE.removesuffix(".py")
        shared = {name: copy.deepcopy(self.__dict__[name]) for name in SHARED_SETTINGS}
        return super().to_dict() | shared | {"auto_map": {"AutoProcessor": f"{place}.{type(self).__name__}"}}

    @staticmethod
    def validate_init_kwargs(processor_config: dict[str, Any], valid_kwargs: Sequence[str]) -> Any:
        """Which of the saved settings `__init__` takes, and which it does not."""
        return HamLearningProcessor.validate_init_kwargs(processor_config, {*valid_kwargs, *SHARED_SETTINGS})


class Rival(HamLearningForTokenClassification):
    """A system of Table 1 with HamLearning's inputs, outputs and CRF; a subclass has its equations in `emit`.

    Args:
        config: sizes and switches.
        text_model: the text encoder; built from `config.text_config` with random weights when it is missing.
    """

    _auto_class = None
    _encodes_text_apart = False
    config: Any
    config_class: ClassVar[Any] = RivalConfig
    processor_class: ClassVar[Any] = HamLearningProcessor
    # Names of what `emit` takes beside text and picture.
    own_inputs: ClassVar[tuple[str, ...]] = ()
    # Those of them that are of words, (B, W, ...), of which a window has a part.
    word_inputs: ClassVar[tuple[str, ...]] = ()
    # Whether there is a dropout straight after the text encoder.
    drops_text: ClassVar[bool] = True

    def __init__(self, config: Any, text_model: PreTrainedModel | None = None):
        HamLearningPreTrainedModel.__init__(self, config)
        self.model = HamLearningModel(config.text_alone(), text_model=text_model)
        self.dropout = nn.Dropout(config.dropout)
        self.crf = HamLearningCRF(len(config.tags), has_transitions=config.use_crf)

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """Draws the weights that nobody has given, then those of `init_own_weights`."""
        is_new = not getattr(self, "_is_hf_initialized", False)
        super().initialize_weights()
        if is_new:
            self.init_own_weights()

    def init_own_weights(self) -> None:
        """Draws weights as this system does, where that is not HamLearning's way; by `transformers.initialization`.

        Not a part of `_init_weights`: transformers 5.24 calls that of code which is not its own for no module that has
        no parameter by itself, as a layer made of others.
        """

    def emit(self, text: Text, picture: Picture, **own_inputs: torch.Tensor | None) -> RivalEmissions:
        """The equations of the system: emissions of words, from text and picture."""
        raise NotImplementedError(f"{type(self).__name__} has no equations.")

    def meet(self, processor: Any) -> None:
        """Learns what it has to know of its processor, before it is trained; nothing, if it says not otherwise."""

    def text_options(self, picture: Picture, **own_inputs: torch.Tensor | None) -> dict[str, Any]:
        """What the text encoder is given beside the text, by name."""
        return {}

    def loss(self, emissions: RivalEmissions, labels: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood of the tags, and what a tweet adds to it, averaged over tweets."""
        loss = self._loss(emissions.logits, labels)
        return loss if emissions.auxiliary_loss is None else loss + emissions.auxiliary_loss.mean()

    def decode(self, emissions: RivalEmissions, output_probabilities: bool) -> dict[str, torch.Tensor]:
        """`predictions`, `scores` and, if asked, `probabilities`; see `HamLearningTokenClassifierOutput`."""
        return self._decode(emissions.logits, emissions.word_mask, output_probabilities)

    @can_return_tuple
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # visual inputs by name alone
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        word_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        windows: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        output_probabilities: bool = False,
        **inputs: torch.Tensor | None,
    ) -> HamLearningTokenClassifierOutput:
        """Tags the words of tweets; see `HamLearningForTokenClassification.forward`, whose arguments these are.

        `inputs` are the visual ones of it, and those of `own_inputs`.

        Raises:
            ValueError: see `HamLearningForTokenClassification.forward`; or hidden states or attentions are asked.
            TypeError: an input has no such name.
        """
        if output_hidden_states or output_attentions:
            raise ValueError(f"{type(self).__name__} returns no hidden states and no attentions: do not ask for them.")
        for name in inputs.keys() - {*VISUAL_INPUTS, *self.own_inputs}:
            raise TypeError(f"{type(self).__name__} takes no {name!r}.")
        if windows is not None and input_ids is None:
            raise ValueError("windows with inputs_embeds: a text in windows is read by its input_ids: give them.")
        words = self.find_words(input_ids, attention_mask, word_ids, labels, inputs_embeds)
        given: Any = {name: value for name, value in inputs.items() if value is not None}
        if windows is None:
            read = self._read(
                input_ids, attention_mask, words.ids, words.number, token_type_ids, inputs_embeds, **given
            )
        else:
            pieces: Any = input_ids
            of_words = {name: given.pop(name) for name in self.word_inputs if name in given}
            read = read_in_windows(
                self._read, windows, pieces, attention_mask, words.ids, given, words.number, token_type_ids,
                word_inputs=of_words,
            )  # fmt: skip

        with torch.autocast(read.logits.device.type, enabled=False):
            for name in ("logits", "auxiliary_logits", "auxiliary_loss"):
                if read.get(name) is not None:
                    read[name] = read[name].float()
            gold = words.labels_of_words(read.logits.shape[1])
            loss = None if gold is None else self.loss(read, gold)
            of_words = {"logits": read.logits}
            if not self.training:
                of_words |= self.decode(read, output_probabilities or words.are_found)
        return HamLearningTokenClassifierOutput(loss=loss, **self.spread(of_words, words))

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
        """Emissions of texts that have room; the arguments are those of `forward`."""
        own = {name: inputs.pop(name, None) for name in self.own_inputs}
        pieces: Any = inputs_embeds if input_ids is None else input_ids
        picture = self._picture(pieces, **inputs)
        options = self.text_options(picture, **own)
        states, mask = self.model.encode_text(
            input_ids, attention_mask, word_ids, num_words, token_type_ids, inputs_embeds, options
        )
        states = self.dropout(states) if self.drops_text else states
        return self.emit(Text(states[:, 0], states[:, 1:], mask), picture, **own)

    def _picture(self, pieces: torch.Tensor, **visual_inputs: torch.Tensor | None) -> Picture:
        """The pictures of a batch of texts, with 0 in the place of what nobody gave and what is hidden."""
        if not self.config.use_vision:
            visual_inputs = {}
        if visual_inputs.get("region_features") is not None and visual_inputs.get("image_features") is None:
            raise ValueError("region_features without image_features: a region needs its picture's features.")
        given = {name: visual_inputs.get(name) for name in VISUAL_INPUTS}
        filled = self.model.fill_visual_inputs(pieces, **given)
        is_there, regions = filled["has_picture"], filled["region_features"]
        mask, classes = filled["region_mask"].bool() & is_there[:, None], filled["region_class_ids"]
        if regions.shape[1] == 0:
            regions = nn.functional.pad(regions, (0, 0, 0, 1))
            mask, classes = nn.functional.pad(mask, (0, 1)), nn.functional.pad(classes, (0, 1))
        dtype = self.dtype
        return Picture(
            torch.where(is_there[:, None], filled["image_features"], 0).to(dtype),
            torch.where(mask[..., None], regions, 0).to(dtype),
            mask,
            torch.where(mask, classes, self.config.num_classes).long(),
            is_there,
        )

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Saves weights, config and the code that serves them; the network's own is that of this package."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            model = type(self)
            classes = [model.config_class, model]
            if issubclass(model.processor_class, RivalProcessor):
                classes.append(model.processor_class)
            names = ", ".join(named.__name__ for named in classes)
            code = CODE.format(module=model.__module__.rpartition(".")[2], names=names)
            Path(save_directory, CODE_FILE).write_text(code, encoding="utf-8")


def init_as_torch(linear: nn.Linear) -> None:
    """Draws weights as PyTorch does where nobody says how: uniformly within 1 / sqrt(number of inputs)."""
    bound = linear.in_features**-0.5
    for parameter in linear.parameters():
        initialization.uniform_(parameter, -bound, bound)


__all__ = ["Picture", "Rival", "RivalConfig", "RivalEmissions", "RivalProcessor", "Text", "init_as_torch"]
