"""The flags of a run."""

import json
import logging
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from huggingface_hub.constants import HF_HOME
from transformers import HfArgumentParser, TrainingArguments
from transformers.utils import is_torch_bf16_gpu_available

from configuration_hamlearning import DETECTORS, RELEVANCE_MATCHINGS, HamLearningConfig
from hamlearning.data.reading import ReadingOptions, parse_options
from hamlearning.data.schemes import SCHEMES
from hamlearning.rivals.architectures import ARCHITECTURES
from hamlearning.training.signals import proposal
from networks_hamlearning import PRECISIONS, RUNTIMES
from words_hamlearning import WORD_SPLITTINGS


logger = logging.getLogger(__name__)

DESCRIPTION = "Train on tagged tweets and their pictures, score and predict: a file of settings, and flags over it."


@dataclass
class ModelArguments:
    """Which model: one to go on with, or a new one around a text encoder. A switch left out keeps its default."""

    architecture: str | None = field(
        default=None,
        metadata={
            "help": "Network of a new model: HamLearning, or another system of the paper's Table 1. [hamlearning]",
            "choices": ARCHITECTURES,
        },
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Model to evaluate, predict with or train further: folder or Hub id."},
    )
    new_head: bool = field(
        default=False,
        metadata={"help": "With --model_name_or_path: a new classifier and CRF for the types of the data."},
    )
    text_model: str | None = field(
        default=None,
        metadata={"help": "Pretrained text encoder of a new model: folder or Hub id. [bert-base-uncased]"},
    )
    use_vision: bool | None = field(
        default=None, metadata={"help": "Read pictures. [True where the data set or --visual_features has them]"}
    )
    use_semantic_encoder: bool | None = field(default=None, metadata={"help": "False: without ViT (Table 2)."})
    use_spatial_encoder: bool | None = field(default=None, metadata={"help": "False: without RGCN (Table 2)."})
    use_relevance: bool | None = field(default=None, metadata={"help": "False: without RM (Table 2)."})
    relevance_matching: str | None = field(
        default=None,
        metadata={
            "help": "Relevance learned from pairs of tweet and picture: `apart` is reported and changes no tag, "
            "`gate` tells it to the network too. [none: Eq 8]",
            "choices": RELEVANCE_MATCHINGS,
        },
    )
    use_crf: bool | None = field(default=None, metadata={"help": "False: every word's tag by itself."})
    num_text_layers: int | None = field(default=None, metadata={"help": "Layers of the textual Transformer."})
    num_semantic_layers: int | None = field(default=None, metadata={"help": "Layers of the ViT (Eq 4)."})
    num_spatial_layers: int | None = field(default=None, metadata={"help": "Layers of the R-GCN (Eq 5-7)."})
    num_ffnn_layers: int | None = field(default=None, metadata={"help": "Linear layers of Eq 12."})
    num_interaction_layers: int | None = field(default=None, metadata={"help": "L, rounds of Eq 13-15 (Table 3)."})
    share_interaction_layers: bool | None = field(
        default=None, metadata={"help": "One set of weights for all rounds."}
    )
    class_embedding_size: int | None = field(default=None, metadata={"help": "Size of a detector class's embedding."})
    dropout: float | None = field(default=None, metadata={"help": "Dropout outside the text encoder."})
    forced_relevance: float | None = field(
        default=None, metadata={"help": "Control: C^r of Eq 8 is this, whatever tweet and picture."}
    )
    picture_dropout: float | None = field(
        default=None, metadata={"help": "Share of pictures hidden in training, so that the model can do without."}
    )
    auxiliary_weight: float | None = field(
        default=None,
        metadata={"help": "umt, mgcmt: of the text-only tagger's loss. maf: share of matching and contrast."},
    )
    conversion_weight: float | None = field(
        default=None, metadata={"help": "umt: share of the text-only tagger in the prediction."}
    )
    joint_attention: bool | None = field(
        default=None,
        metadata={"help": "gvatt, adacan: attention that sees its query, which that of the papers does not."},
    )
    attention_size: int | None = field(
        default=None, metadata={"help": "adacan: k, size of its layers. [that of the text encoder]"}
    )
    fusion_size: int | None = field(default=None, metadata={"help": "umgf: width of words and regions in fusion."})
    num_fusion_heads: int | None = field(default=None, metadata={"help": "umgf: heads of attention in fusion."})
    num_fusion_layers: int | None = field(default=None, metadata={"help": "umgf: rounds of fusion."})
    num_fusion_regions: int | None = field(default=None, metadata={"help": "umgf: most regions that are read."})
    contrast_temperature: float | None = field(
        default=None, metadata={"help": "maf: what cosines of text and picture are divided by."}
    )
    num_swapped: int | None = field(
        default=None, metadata={"help": "maf: tweets at a batch's end that swap what they read of their pictures."}
    )
    match_positions: int | None = field(
        default=None, metadata={"help": "maf: words that are looked at to tell whether text and picture match."}
    )
    use_pyramid: bool | None = field(
        default=None,
        metadata={"help": "hvpnet: False: HVPNeT-lite, of the last stage alone, without pyramid_features."},
    )
    num_crops: int | None = field(
        default=None, metadata={"help": "hvpnet: regions that are read beside the picture, best score first."}
    )
    use_captions: bool | None = field(
        default=None, metadata={"help": "ita: False: of the picture only names of classes, no caption."}
    )
    temperature: float | None = field(
        default=None, metadata={"help": "ita: of the alignment of text view and cross view."}
    )
    alignment_weight: float | None = field(
        default=None, metadata={"help": "ita: of that alignment's loss. 0: without it."}
    )
    num_objects: int | None = field(default=None, metadata={"help": "mgcmt: most objects whose classes are read."})
    fusion_dropout: float | None = field(
        default=None, metadata={"help": "mgcmt: share dropped of what the picture gives."}
    )
    grid_feature_size: int | None = field(
        default=None, metadata={"help": "mgcmt: width of grid_features. [none are read, regions in their place]"}
    )
    word_vectors: str | None = field(
        default=None,
        metadata={
            "help": "bilstm_crf, cnn_bilstm_crf, hbilstm_crf, mgcmt: text file, a word and its vector a line, as "
            "GloVe's. All of its words are known then; `head -n 100000` cuts it to the most frequent ones."
        },
    )
    lstm_size: int | None = field(
        default=None, metadata={"help": "bilstm_crf, cnn_bilstm_crf, hbilstm_crf: size of the LSTMs over words."}
    )
    character_size: int | None = field(
        default=None, metadata={"help": "cnn_bilstm_crf, hbilstm_crf: size of a character's vector."}
    )
    num_filters: int | None = field(
        default=None, metadata={"help": "cnn_bilstm_crf: filters of the convolution over characters."}
    )
    word_splitting: str | None = field(
        default=None,
        metadata={
            "help": "How the model will split raw text. [that of --model_name_or_path; characters where most training "
            "words are single characters of a script without spaces; else punctuation]",
            "choices": WORD_SPLITTINGS,
        },
    )
    max_length: int | None = field(
        default=None,
        metadata={
            "help": "Most sub-tokens that are read at once; a longer tweet is read in windows. [that of "
            "--model_name_or_path, else 128]"
        },
    )
    stride: int | None = field(
        default=None,
        metadata={
            "help": "Words that a window shares with the one before it, half of that one at most. [that of "
            "--model_name_or_path, else 32]"
        },
    )
    max_regions: int | None = field(
        default=None,
        metadata={"help": "Most regions of a picture, best score first. [that of --model_name_or_path, else 15]"},
    )

    def limits(self) -> dict[str, int]:
        """The limits of `HamLearningProcessor` that were given."""
        given = {"max_length": self.max_length, "stride": self.stride, "max_regions": self.max_regions}
        return {name: value for name, value in given.items() if value is not None}

    def config_switches(self, config_class: type[HamLearningConfig] = HamLearningConfig) -> dict[str, Any]:
        """The switches of a config that were given.

        Raises:
            ValueError: a switch was given that the architecture does not have.
        """
        known = config_class.switches()
        given = {name: getattr(self, name) for name in self.all_switches() if getattr(self, name) is not None}
        for name in given.keys() - set(known):
            raise ValueError(
                f"--{name} {given[name]}: the architecture {self.architecture or config_class.model_type} has no such "
                f"switch; it has {', '.join(f'--{switch}' for switch in known)}."
            )
        return given

    @classmethod
    def all_switches(cls) -> list[str]:
        """The flags that are switches of some architecture."""
        others = {"architecture", "model_name_or_path", "new_head", "text_model", "word_vectors", "word_splitting"}
        return sorted({f.name for f in fields(cls)} - others - {"max_length", "stride", "max_regions"})


@dataclass
class DataArguments:
    """Which tweets and which pictures."""

    data_dir: str | None = field(
        default=None,
        metadata={"help": "Folder with train, valid and test, each a file of columns, JSON lines, CSV, Parquet, ..."},
    )
    dataset_name: str | None = field(default=None, metadata={"help": "Data set of the Hub."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration."})
    token_column: str | None = field(
        default=None,
        metadata={"help": "Column of the tokens: a number from 1, from -1 for the last, or a name. [found]"},
    )
    tag_column: str | None = field(default=None, metadata={"help": "Column of the tags, as --token_column. [found]"})
    tag_scheme: str | None = field(
        default=None, metadata={"help": "How the tags are written. [found from all of them]", "choices": [*SCHEMES]}
    )
    type_map: str | None = field(
        default=None, metadata={"help": "Types that are read as another one: OTHER=MISC,per=PER. O leaves a type out."}
    )
    annotator: str | None = field(
        default=None, metadata={"help": "Whose annotations are read of tasks that several people annotated."}
    )
    tag_names: str | None = field(
        default=None,
        metadata={"help": "Names of tags that are numbers, 0 the first, where the files do not say: O,B-PER,I-PER."},
    )
    visual_features: str | None = field(
        default=None,
        metadata={
            "help": "Visual feature file (Parquet), in place of the pictures themselves: a path, or "
            "hf://datasets/ORG/NAME/FILE of the Hub."
        },
    )
    image_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of pictures named by tweet id. [the data set's own image column, if it has one]"},
    )
    image_subfolders: bool = field(
        default=False, metadata={"help": "Pictures in the folders of --image_dir are read as well."}
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "With --do_train: read the train split's Parquet shards as they come, again and again until "
            "--max_steps; the other splits are read as ever. With --do_predict alone: read those of the test split, "
            "write shards."
        },
    )
    shuffle_buffer: int = field(
        default=10_000,
        metadata={"help": "Streamed training: tweets in memory of each process, of which the next ones are drawn."},
    )
    shuffle_pictures: bool = field(
        default=False, metadata={"help": "Control: every tweet gets the picture of another tweet of its split."}
    )
    hide_pictures: bool = field(default=False, metadata={"help": "Control: no tweet has its picture."})
    mask_words: bool = field(
        default=False, metadata={"help": "Control: every word is the mask token, so only the pictures tell."}
    )

    def reading_options(self, word_splitting: str | None) -> ReadingOptions:
        """What is said here of the files; `word_splitting` is the model's own.

        Raises:
            ValueError: see `parse_options`.
        """
        typed = {name: getattr(self, name, None) for name in ReadingOptions._fields}
        return parse_options(typed | {"word_splitting": word_splitting})


@dataclass
class VisionArguments:
    """Which vision model reads the pictures. A model that has its own keeps it."""

    vision_model: str | None = field(
        default=None, metadata={"help": "A saved vision model: folder or Hub id, or that of a model that has one."}
    )
    vision_backbone: str = field(
        default="timm/resnet152.tv_in1k",
        metadata={"help": "Global backbone of a new vision model: timm model, folder or Hub id."},
    )
    detector: str = field(
        default="faster_rcnn_vg",
        metadata={"help": "Region detector of a new vision model (Table 5).", "choices": DETECTORS},
    )
    detector_name_or_path: str | None = field(
        default=None, metadata={"help": "Its weights: folder, file, Hub id or torchvision name. [those of the kind]"}
    )
    class_names_file: str | None = field(default=None, metadata={"help": "A name a line of the detector's classes."})
    vision_runtime: str | None = field(
        default=None,
        metadata={
            "help": "What computes the vision model on a CPU. [openvino where it is installed]",
            "choices": [*RUNTIMES],
        },
    )
    vision_precision: str | None = field(
        default=None,
        metadata={
            "help": "bfloat16 where its features are near enough, or float32 throughout. [the vision model's own]",
            "choices": [*PRECISIONS],
        },
    )
    grid_features: bool = field(
        default=False,
        metadata={"help": "With --do_extract: the cells of the backbone's last map of each picture, too, for mgcmt."},
    )
    pyramid_features: bool = field(
        default=False,
        metadata={
            "help": "With --do_extract: all stages of the backbone, a ResNet-50, -101 or -152, of each picture and "
            "its best three regions, too, for hvpnet."
        },
    )
    extraction_dir: str = field(
        default=os.path.join(HF_HOME, "hamlearning"),
        metadata={"help": "Where features of pictures are kept, to be found again by the next run."},
    )
    extraction_batch_size: int = field(
        default=8, metadata={"help": "Pictures that go through the vision model together."}
    )
    extraction_workers: int | None = field(
        default=None,
        metadata={"help": "Processes that decode pictures meanwhile. [CPU cores but one, 8 at most; none with Ray]"},
    )
    extraction_engine: str = field(
        default="local",
        metadata={"help": "What extracts: this run's processes, or workers of Ray.", "choices": ["local", "ray"]},
    )
    ray_workers: int | None = field(default=None, metadata={"help": "Of Ray, at most. [all there is room for]"})
    ray_threads: int = field(default=1, metadata={"help": "Of a worker of Ray, and its cores."})
    ray_gpus: float = field(default=0, metadata={"help": "GPUs of a worker of Ray, or a share of one."})


@dataclass
class MNERTrainingArguments(TrainingArguments):
    """`TrainingArguments` with this project's defaults and a learning rate a part of the network."""

    output_dir: str = field(default="runs/hamlearning", metadata={"help": "Where model and results go."})  # pyright: ignore[reportIncompatibleVariableOverride]  # never None here
    do_extract: bool = field(
        default=False, metadata={"help": "Write the visual features of all pictures to the output folder."}
    )
    text_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the text encoder. [--learning_rate]"}
    )
    crf_learning_rate: float | None = field(default=None, metadata={"help": "Of the CRF. [--learning_rate]"})
    matching_learning_rate: float = field(default=5e-3, metadata={"help": "Of --relevance_matching's own weights."})
    tokens_per_batch: int | None = field(
        default=None,
        metadata={
            "help": "A device's training batches are tweets of like length with at most so many sub-tokens, padding "
            "included, in place of --per_device_train_batch_size tweets."
        },
    )
    calibrate: bool | None = field(
        default=None,
        metadata={
            "help": "Fit the temperature of scores on the dev split, which changes no tag. [True at the end of a "
            "training; `hamlearning calibrate` does it to a trained model]"
        },
    )
    predict_probabilities: bool = field(
        default=False,
        metadata={"help": "Write the probability of each tag at each word into predictions_*.jsonl, for cleanlab."},
    )
    predict_explanations: bool = field(
        default=False,
        metadata={
            "help": "Write what in the picture decided each entity into predictions_*.jsonl: its probability and type "
            "without the picture, and the effect of hiding each region."
        },
    )
    hub_license: str = field(default="apache-2.0", metadata={"help": "Licence of the published weights."})
    example_texts: list[str] = field(
        default_factory=lambda: ["Just landed in Chicago with Maria Lopez, the NBA finals start tonight"],
        metadata={"help": "Texts whose entities the model card shows: your own, no one else's tweets."},
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after so many epochs without a better dev F1."}
    )
    bf16: bool | None = field(default=None, metadata={"help": "bfloat16 autocast. [True where the hardware has it]"})
    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    logging_strategy: str = "epoch"
    save_total_limit: int | None = 1
    load_best_model_at_end: bool = True
    metric_for_best_model: str | None = "f1"
    train_sampling_strategy: str = "group_by_length"
    warmup_steps: float = 0.1
    remove_unused_columns: bool = False
    # A filtered log would hide a loss that is not a number.
    logging_nan_inf_filter: bool = False
    # Every parameter gets a gradient in every step, so nobody has to look for those that do not.
    ddp_find_unused_parameters: bool | None = False
    per_device_train_batch_size: int = 32
    per_device_eval_batch_size: int = 32
    # What is half trained is nobody else's business: the repo gets one commit, at the end.
    hub_strategy: str = "end"

    def __post_init__(self):
        wanted = str(self.resume_from_checkpoint)
        if wanted.lower() in ("true", "false", "none"):  # a settings file has YAML's, a command line text
            self.resume_from_checkpoint = "True" if wanted.lower() == "true" else None
        if not torch.accelerator.is_available():
            self.use_cpu = True  # without it TrainingArguments refuses bf16 on a CPU
        if self.bf16 is None:
            self.bf16 = not self.fp16 and self._hardware_has_bf16()  # pyright: ignore[reportIncompatibleVariableOverride]  # from here on a bool, as in the base class
            logger.info(f"bf16 is {'on' if self.bf16 else 'off'}: chosen by the hardware, --bf16 overrides it.")
        self.label_names = ["labels"]
        wants_eval = self.do_eval
        if not self.do_train:
            self.eval_strategy = self.save_strategy = "no"
            self.load_best_model_at_end = False
        super().__post_init__()
        self.do_eval = wants_eval  # evaluating between epochs is no wish for scores at the end

    def _hardware_has_bf16(self) -> bool:
        if not self.use_cpu:
            if torch.cuda.is_available():
                return torch.cuda.is_bf16_supported(including_emulation=False)
            return is_torch_bf16_gpu_available()
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


class Arguments(NamedTuple):
    """All flags of a run, by what they are about."""

    model: ModelArguments
    data: DataArguments
    vision: VisionArguments
    training: MNERTrainingArguments

    @property
    def wants_model(self) -> bool:
        """Whether anything but the extraction of visual features is asked for."""
        return self.training.do_train or self.training.do_eval or self.training.do_predict


def parse_arguments(argv: list[str]) -> Arguments:
    """Flags, or one YAML/JSON file and flags that override it.

    Raises:
        ValueError: see `read_settings`; a flag is unknown; or a value does not go with the others.
        SystemExit: a value is of the wrong type; argparse names it.
    """
    if argv and argv[0].endswith((".yaml", ".yml", ".json")):
        argv = read_settings(argv[0]) + argv[1:]
    parser = make_parser()
    _, unknown = parser.parse_known_args(argv)
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        known = proposal(unknown[0], flags)
        raise ValueError(f"{unknown[0]!r} is no flag of a run{known} `hamlearning train --help` lists them.")
    try:
        return Arguments(*parser.parse_args_into_dataclasses(argv, look_for_args_file=False))
    except ValueError as error:  # of `TrainingArguments`
        raise ValueError(f"{error} `hamlearning train --help` lists the flags.") from error


def make_parser() -> Any:
    """The parser of all flags of a run."""
    parts: Any = (ModelArguments, DataArguments, VisionArguments, MNERTrainingArguments)
    return HfArgumentParser(
        parts,
        prog="hamlearning train",
        usage="%(prog)s [SETTINGS.yaml] [--flag value ...]",
        description=DESCRIPTION,
        allow_abbrev=False,
    )


def read_settings(path: str) -> list[str]:
    """The flags that a YAML or JSON file of settings stands for.

    Raises:
        ValueError: the file is not a mapping of names to values, or holds what has no place in one: tags of Python
            objects, aliases (a few lines of them can stand for gigabytes), brackets in brackets without end.
    """
    from modeling_faster_rcnn_vg import load_plain_yaml  # with torchvision, which no help page needs

    flags = []
    try:
        text = Path(path).read_text(encoding="utf-8")  # JSON is YAML too
        settings = load_plain_yaml(text)
        if not isinstance(settings, dict):
            raise ValueError(f"it is of type {type(settings).__name__}")
        for name, value in settings.items():
            if isinstance(value, list):
                flags += [f"--{name}", *map(str, value)]
            elif value is not None:
                flags += [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]
    except (yaml.YAMLError, ValueError, TypeError) as error:  # TypeError: a dict of what JSON does not have
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} holds no settings ({reason}): expected lines `name: value`.") from None
    return flags
