"""HamLearning for a CPU: the network exported to OpenVINO, behind the same pipeline, processor and outputs.

    $ hamlearning export outputs/demo outputs/demo_cpu
    outputs/demo_cpu: pipeline(model='outputs/demo_cpu', trust_remote_code=True)

What is exported ends at the emissions; the CRF stays PyTorch's, the same code as the trained model's.
"""

import math
import os
import shutil
import warnings
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers.utils import cached_file


try:
    from .configuration_hamlearning import HamLearningConfig
    from .modeling_hamlearning import (
        VISUAL_INPUTS,
        HamLearningCRF,
        HamLearningForTokenClassification,
        HamLearningModel,
        HamLearningModelOutput,
        HamLearningPreTrainedModel,
    )
    from .networks_hamlearning import untold
    from .processing_hamlearning import VISION_FOLDER, HamLearningProcessor
    from .windows_hamlearning import read_in_windows
    from .words_hamlearning import hold_in_package
except ImportError:
    if __package__:
        raise
    from configuration_hamlearning import HamLearningConfig
    from modeling_hamlearning import (
        VISUAL_INPUTS,
        HamLearningCRF,
        HamLearningForTokenClassification,
        HamLearningModel,
        HamLearningModelOutput,
        HamLearningPreTrainedModel,
    )
    from networks_hamlearning import untold
    from processing_hamlearning import VISION_FOLDER, HamLearningProcessor
    from windows_hamlearning import read_in_windows
    from words_hamlearning import hold_in_package
try:
    with untold():
        import openvino
        from openvino import opset15 as opset
        from openvino.frontend.pytorch import ConversionExtension
except ImportError as error:
    raise ImportError('An exported HamLearning model runs on openvino: pip install "hamlearning[export]"') from error


# One that stays: each gives signal handlers another stack, and the first of two that goes takes away the second's.
CORE = openvino.Core()
PRECISIONS = ("bf16", "fp32")
NETWORK_FILES = ("openvino_model.xml", "openvino_model.bin")
TEXT_INPUTS = ("input_ids", "attention_mask", "word_ids")


@strict
class HamLearningExportedConfig(HamLearningConfig):
    """Configuration of the model that was exported, and how it is computed.

    ```python
    >>> AutoConfig.from_pretrained("outputs/demo_cpu", trust_remote_code=True).precision
    'bf16'
    ```

    Args:
        precision: `bf16` (where the processor has it, else fp32) or `fp32`.
        **kwargs: of `HamLearningConfig`.

    Raises:
        ValueError: the precision is neither, or see `HamLearningConfig`.
    """

    model_type = "hamlearning_exported"

    precision: str = "bf16"

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision!r}: must be one of {', '.join(PRECISIONS)}.")
        name = "HamLearningExportedForTokenClassification"
        self.auto_map["AutoConfig"] = f"exported_hamlearning.{type(self).__name__}"
        self.auto_map["AutoModelForTokenClassification"] = f"exported_hamlearning.{name}"
        del self.auto_map["AutoModel"]  # the trunk alone is not in the files


class HamLearningExportedForTokenClassification(HamLearningForTokenClassification):
    """A trained `HamLearningForTokenClassification` that OpenVINO computes, on a CPU: the same in, the same out.

    ```python
    >>> model = AutoModelForTokenClassification.from_pretrained("outputs/demo_cpu", trust_remote_code=True)
    >>> outputs = model(**processor(text=tweets, images=pictures))
    >>> entities = processor.post_process_entities(outputs, inputs)
    ```

    It uses as many threads as PyTorch does when the first tweet comes. Its precision is that of the export, whatever
    `dtype` it is loaded with.

    Args:
        config: of the model that was exported.
        network_files: the network, `NETWORK_FILES` of a folder; `from_pretrained` finds them.
    """

    config_class = HamLearningExportedConfig
    _encodes_text_apart = False  # the network is one piece

    def __init__(self, config: HamLearningExportedConfig, network_files: tuple[Path, Path] | None = None):
        HamLearningPreTrainedModel.__init__(self, config)  # without the layers of PyTorch
        self.model = HamLearningExportedTrunk(config, network_files)  # called as a `HamLearningModel` is
        self.dropout = self.classifier = nn.Identity()  # both are in the network
        self.crf = HamLearningCRF(len(config.tags))  # one without transitions has them at zero
        self.post_init()
        self.eval()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any) -> Self:
        """An exported model: a folder or Hub id, and what else `PreTrainedModel.from_pretrained` takes.

        Raises:
            OSError: a file is missing or cut short.
        """
        model = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        options = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
        found = {name: kwargs[name] for name in options if kwargs.get(name) is not None}
        structure, weights = (str(cached_file(pretrained_model_name_or_path, name, **found)) for name in NETWORK_FILES)
        model.model = HamLearningExportedTrunk(model.config, (Path(structure), Path(weights)))
        return model

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Saves config, CRF, code and network. `kwargs` are those of `PreTrainedModel.save_pretrained`."""
        super().save_pretrained(save_directory, **kwargs)
        for path in self.model.network_files or ():
            copy = Path(save_directory, path.name)
            if not (copy.exists() and copy.samefile(path)):
                shutil.copyfile(path, copy)
        if push_to_hub:  # not by the base class: it would leave out the network, which it did not write
            self.push_to_hub(kwargs.get("repo_id", Path(save_directory).resolve().name), token=kwargs.get("token"))

    def train(self, mode: bool = True) -> Self:
        """Refuses: there is nothing to train.

        Raises:
            ValueError: `mode` is true.
        """
        if mode:
            raise ValueError("An exported model cannot be trained: train the model that it was exported from.")
        return super().train(mode)

    def _label_width(self, labels: torch.Tensor, pieces: torch.Tensor, word_ids: torch.Tensor | None) -> int | None:
        raise ValueError("labels: an exported model gives no loss: ask the model that it was exported from.")


class HamLearningExportedTrunk(nn.Module):
    """The network that OpenVINO computes, called as `HamLearningModel` is; its last hidden state is the emissions.

    Args:
        config: of the model that was exported.
        network_files: the network, `NETWORK_FILES` of a folder.
    """

    def __init__(self, config: HamLearningExportedConfig, network_files: tuple[Path, Path] | None = None):
        super().__init__()
        self.config = config
        self.network_files = network_files
        self.network = None if network_files is None else read_network(network_files)
        self.compiled: dict[str, openvino.CompiledModel] = {}

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        word_ids: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        region_features: torch.Tensor | None = None,
        region_boxes: torch.Tensor | None = None,
        region_class_ids: torch.Tensor | None = None,
        region_mask: torch.Tensor | None = None,
        image_mask: torch.Tensor | None = None,
        image_sizes: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        windows: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        num_words: int | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> HamLearningModelOutput:
        """Reads tweets. The arguments are those of `HamLearningModel.forward`; `num_words` comes with labels.

        Raises:
            ValueError: see `HamLearningModel.forward`; or what is asked for was not exported: a loss, hidden states,
                attentions, token types, embeddings, or tweets without `word_ids`.
        """
        asked = {
            "output_hidden_states": output_hidden_states,
            "output_attentions": output_attentions,
            "token_type_ids": token_type_ids is not None,
            "inputs_embeds": inputs_embeds is not None,
        }
        for name, is_asked in asked.items():
            if is_asked:
                raise ValueError(
                    f"{name}: an exported model gives emissions, predictions and scores, no loss, hidden states or "
                    "attentions, and takes no token types or embeddings: ask the model that it was exported from."
                )
        if input_ids is None or word_ids is None:
            raise ValueError(
                "word_ids or input_ids are missing: an exported model takes what HamLearningProcessor returns."
            )
        if region_features is not None and image_features is None:
            raise ValueError("region_features without image_features: a region needs its picture's features.")
        if windows is not None:
            given = (
                image_features, region_features, region_boxes, region_class_ids, region_mask, image_mask, image_sizes
            )  # fmt: skip
            visual_inputs = dict(zip(VISUAL_INPUTS, given, strict=True))
            return read_in_windows(
                self.forward, windows, input_ids, attention_mask, word_ids, visual_inputs, num_words
            )
        inputs = {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids) if attention_mask is None else attention_mask,
            "word_ids": word_ids,
        }
        kind = "text"
        if image_features is not None and self.config.use_vision:
            kind = "pictures"
            # Of a trunk it has the config, which is all that this reads.
            visual_inputs = HamLearningModel.fill_visual_inputs(
                self,  # pyright: ignore[reportArgumentType]  # no trunk
                input_ids, image_features, region_features, region_boxes, region_class_ids, region_mask,
                image_mask, image_sizes,
            )  # fmt: skip
            inputs |= visual_inputs | {"image_mask": visual_inputs.pop("has_picture")}
            if inputs["region_mask"].shape[1] == 0:  # the network was exported with regions
                for name in ("region_features", "region_boxes"):
                    inputs[name] = nn.functional.pad(inputs[name], (0, 0, 0, 1))
                for name in ("region_class_ids", "region_mask"):
                    inputs[name] = nn.functional.pad(inputs[name], (0, 1))

        emissions, word_mask, *relevance = self._compute(kind, inputs)
        return HamLearningModelOutput(
            last_hidden_state=emissions, word_mask=word_mask, relevance=relevance[0] if relevance else None
        )

    def _compute(self, kind: str, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Emissions, `word_mask` and, if it is measured, relevance."""
        if kind not in self.compiled:
            if self.network is None:
                raise ValueError("This model was made without its network: load it with `from_pretrained`.")
            self.compiled[kind] = compile_network(self.network, kind, self.config.precision)
        arrays = {
            name: (value.float() if value.is_floating_point() else value).cpu().numpy()
            for name, value in inputs.items()
        }
        outputs = self.compiled[kind](arrays)
        return [torch.from_numpy(array).to(inputs["input_ids"].device) for array in outputs.values()]


def read_network(files: tuple[Path, Path]) -> openvino.Model:
    """The network that `NETWORK_FILES` hold.

    Raises:
        OSError: a file is cut short or damaged.
    """
    try:
        network: openvino.Model = CORE.read_model(*files)
        return network
    except (RuntimeError, UnicodeDecodeError) as error:  # the second where what OpenVINO quotes is no text
        raise OSError(
            f"{files[0]} and {files[1].name} do not hold a whole network ({' '.join(str(error).split())[-200:]}): "
            "copy or download them again, or export the model again."
        ) from error


def compile_network(network: openvino.Model, kind: str, precision: str) -> openvino.CompiledModel:
    """The part of the network that reads texts alone, or texts with pictures; ready to run on this CPU.

    A batch without any picture then does not pay for the visual branch.

    Args:
        network: both in one, so that the text encoder's weights are in the file once.
        kind: `text` or `pictures`.
        precision: see `HamLearningExportedConfig`.
    """
    return CORE.compile_model(cut_network(network, kind), "CPU", network_settings(precision))


def cut_network(network: openvino.Model, kind: str) -> openvino.Model:
    """The part of the network that reads texts alone (`text`), or texts with pictures (`pictures`)."""
    outputs = [output for output in network.outputs if any(name.startswith(f"{kind}.") for name in output.names)]
    names = TEXT_INPUTS if kind == "text" else TEXT_INPUTS + VISUAL_INPUTS
    parameters = [network.input(name).get_node() for name in names]
    model_class: Any = openvino.Model  # its stub knows no list of outputs
    part: openvino.Model = model_class([output.get_node().input_value(0) for output in outputs], parameters)
    return part


def network_settings(precision: str) -> dict[str, Any]:
    """OpenVINO's settings for a network of this precision: as many threads as PyTorch has now."""
    has_bf16 = "BF16" in CORE.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" and has_bf16 else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,  # two processes of one thread would both be pinned to the first core
    }


class TracedNetwork(nn.Module):
    """What is exported: emissions, `word_mask` and relevance of texts alone, then, with vision, with pictures."""

    def __init__(self, model: HamLearningForTokenClassification):
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        word_ids: torch.Tensor,
        image_features: torch.Tensor | None = None,
        region_features: torch.Tensor | None = None,
        region_boxes: torch.Tensor | None = None,
        region_class_ids: torch.Tensor | None = None,
        region_mask: torch.Tensor | None = None,
        image_mask: torch.Tensor | None = None,
        image_sizes: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """As `HamLearningModel.forward`, all of it given, or all of the text."""
        visual_inputs = (
            image_features, region_features, region_boxes, region_class_ids, region_mask, image_mask, image_sizes
        )  # fmt: skip
        found = self._read(input_ids, attention_mask, word_ids)
        if self.model.config.use_vision:
            found += self._read(input_ids, attention_mask, word_ids, *visual_inputs)
        return found

    def _read(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        word_ids: torch.Tensor,
        *visual_inputs: torch.Tensor | None,
    ) -> tuple[torch.Tensor, ...]:
        # A tensor: a number would be the traced tweets' for ever.
        num_words = word_ids.max().clamp(min=1)
        outputs = self.model.model(input_ids, attention_mask, word_ids, *visual_inputs, num_words=num_words)
        emissions = self.model.classifier(outputs.last_hidden_state)
        return tuple(x for x in (emissions, outputs.word_mask, outputs.relevance) if x is not None)


def convert_network(model: HamLearningForTokenClassification) -> openvino.Model:
    """The network up to the emissions, for any number of tweets, sub-tokens, words and regions.

    Its outputs are called `text.logits`, `text.word_mask`, `text.relevance` (if it is measured), and with vision
    `pictures.logits` and so on; its inputs as in `HamLearningModel.forward`.
    """
    config = model.config
    word_ids = torch.tensor([[0, 1, 1, 2, -1], [0, 1, -1, -1, -1]])
    example = [torch.ones_like(word_ids), (word_ids >= 0).long(), word_ids]
    if config.use_vision:
        example += [
            torch.zeros(2, config.image_feature_size),
            torch.zeros(2, 3, config.region_feature_size),
            torch.full((2, 3, 4), 0.5),
            torch.zeros(2, 3, dtype=torch.long),
            torch.ones(2, 3, dtype=torch.bool),
            torch.ones(2, dtype=torch.bool),
            torch.ones(2, 2, dtype=torch.long),
        ]

    def hypot(node: Any) -> list[openvino.Output]:
        squares = [opset.multiply(side, side) for side in (node.get_input(0), node.get_input(1))]
        return opset.sqrt(opset.add(*squares)).outputs()

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of tracing: shapes that Python reads, each of which is checked for nothing
        network = openvino.convert_model(
            TracedNetwork(model.eval()),
            example_input=tuple(example),
            extension=[ConversionExtension("aten::hypot", hypot)],
        )
    _answer_rows_without_keys(network)
    for node, name in zip(network.inputs, TEXT_INPUTS + VISUAL_INPUTS, strict=False):
        node.get_tensor().set_names({name})
    outputs = ("logits", "word_mask", "relevance")[: len(network.outputs) // (1 + config.use_vision)]
    kinds = ("text", "pictures")[: 1 + config.use_vision]
    names = [f"{kind}.{output}" for kind in kinds for output in outputs]
    for node, name in zip(network.outputs, names, strict=True):
        node.get_tensor().add_names({name})
    return network


def _answer_rows_without_keys(network: openvino.Model) -> None:
    """Attention of a query that may attend to nothing gives 0, as PyTorch's does; OpenVINO's gives NaN.

    Padding far from the last sub-token is such a query in a text encoder with windows, and NaN spreads from it: what a
    mask leaves out is multiplied by 0, not left out.
    """
    for attention in network.get_ordered_ops():
        if attention.get_type_name() != "ScaledDotProductAttention" or attention.get_input_size() < 4:
            continue
        mask = attention.input_value(3)
        if mask.get_element_type() != openvino.Type.boolean:
            lowest = opset.convert(opset.constant(-math.inf, openvino.Type.f32), mask.get_element_type())
            mask = opset.greater(mask, lowest).output(0)
        has_key = opset.reduce_logical_or(mask, opset.constant(-1, openvino.Type.i64), keep_dims=True)
        attended = attention.output(0)
        readers = attended.get_target_inputs()
        zero = opset.convert(opset.constant(0.0, openvino.Type.f32), attended.get_element_type())
        answered = opset.select(has_key, attended, zero).output(0)
        for reader in readers:
            reader.replace_source_output(answered)


def export_model(source: str | os.PathLike, folder: str | os.PathLike, precision: str = "bf16") -> None:
    """Makes a folder that `pipeline` loads, of a trained model.

    ```python
    >>> export_model("outputs/demo", "outputs/demo_cpu")
    >>> ner = pipeline(model="outputs/demo_cpu", trust_remote_code=True)
    ```

    Args:
        source: folder or Hub id of a trained model, with its processor, and its vision model if it has one.
        folder: new or empty; for the network, the CRF, the processor, the vision model and its networks, and all code.
        precision: see `HamLearningExportedConfig`.

    Raises:
        FileExistsError: the folder holds something.
        ValueError: the precision is unknown, or the source is no trained HamLearning model.
        OSError: the source lacks a file.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already: give a new folder.")
    found, _ = HamLearningConfig.get_config_dict(source)
    if found.get("model_type") != HamLearningConfig.model_type:
        raise ValueError(
            f"{source} holds a model of the type {found.get('model_type')!r}: give a HamLearning, which "
            "`hamlearning train` makes without --architecture; nothing else is exported."
        )
    model = HamLearningForTokenClassification.from_pretrained(source, dtype=torch.float32)
    processor = HamLearningProcessor.from_pretrained(source, trust_remote_code=True)
    if processor.vision_source is not None:
        processor.vision_model.export_networks(folder / VISION_FOLDER)  # and, being loaded, it is saved
    config = HamLearningExportedConfig.from_dict(model.config.to_dict(), precision=precision)

    folder.mkdir(parents=True, exist_ok=True)
    files = folder / NETWORK_FILES[0], folder / NETWORK_FILES[1]
    # Of the 11 bits that fp16 keeps of a weight bf16 computes with 8.
    openvino.save_model(convert_network(model), files[0], compress_to_fp16=precision == "bf16")
    exported = HamLearningExportedForTokenClassification(config, files)
    with torch.no_grad():
        for name, parameter in exported.crf.named_parameters():
            parameter.copy_(getattr(model.crf, name))
    exported.save_pretrained(folder)
    processor.save_pretrained(folder)


HamLearningExportedConfig.register_for_auto_class()
HamLearningExportedForTokenClassification.register_for_auto_class("AutoModelForTokenClassification")
hold_in_package(__name__)

__all__ = ["HamLearningExportedConfig", "HamLearningExportedForTokenClassification", "export_model"]
