"""The model and the processor of a run."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from hamlearning.data.downloads import wanted_of_hub
from hamlearning.data.features import VisualFeatures
from hamlearning.rivals.architectures import HAMLEARNING, architecture_of, class_of, processor_class_of, reads_words
from hamlearning.rivals.rival import Rival
from hamlearning.training.arguments import ModelArguments
from hamlearning.training.text_encoders import check_text_encoder
from modeling_hamlearning import HamLearningCRF, HamLearningForTokenClassification
from processing_hamlearning import HamLearningProcessor


def load_model(
    model_args: ModelArguments,
    tags: list[str] | None,
    visual_features: VisualFeatures | None,
    used_tags: Collection[str] = (),
    words: Iterable[Sequence[str]] | None = None,
) -> tuple[HamLearningForTokenClassification, HamLearningProcessor]:
    """The model to go on with, or a new one around its text encoder; and its processor.

    Args:
        model_args: say which.
        tags: the labels of the data; None if it has none.
        visual_features: of the data; None if it has none.
        used_tags: those of `tags` that occur.
        words: of the tweets of the train split; None if there is none, or it is a stream.

    Raises:
        ValueError: the types, sizes or classes of the data are not the model's; or see `check_text_encoder`.
    """
    if model_args.model_name_or_path is not None:
        model, processor = load_trained_model(model_args, tags, used_tags)
    else:
        model, processor = make_model(model_args, tags, visual_features, words)
    model.config.word_marks = processor.word_marks()
    if isinstance(model, Rival):
        model.meet(processor)
    if model.config.use_vision and visual_features is not None:
        for name in ("image_feature_size", "region_feature_size", "num_classes"):
            if getattr(visual_features, name) != getattr(model.config, name):
                raise ValueError(
                    f"{visual_features.path} has {name} {getattr(visual_features, name)}, the model takes "
                    f"{getattr(model.config, name)}: give the features of the vision model that it was trained with."
                )
        visual_features.read_more(getattr(model.config, "visual_columns", {}))
    return model, processor


def load_trained_model(
    model_args: ModelArguments, tags: list[str] | None, used_tags: Collection[str]
) -> tuple[HamLearningForTokenClassification, HamLearningProcessor]:
    """The model to go on with; see `load_model`."""
    path: Any = model_args.model_name_or_path
    with wanted_of_hub(path):
        architecture = architecture_of(path)
        if model_args.architecture not in (None, architecture):
            raise ValueError(f"--architecture {model_args.architecture}, but {path} is a model of {architecture}.")
        model_class = class_of(architecture)
        switches = model_args.config_switches(model_class.config_class)
        config = model_class.config_class.from_pretrained(path, **switches)
        model = model_class.from_pretrained(path, config=config, dtype=torch.float32)
        processor = processor_class_of(architecture).from_pretrained(path, **model_args.limits())
    processor.word_splitting = model_args.word_splitting or processor.word_splitting
    remedy = "give --max_length {most}"
    check_text_encoder(model.model.text_model, f"The text encoder of {path}", processor.max_length, remedy)
    unknown = sorted({tag[2:] for tag in set(used_tags) - set(processor.tags)})
    if model_args.new_head and architecture != HAMLEARNING:
        raise ValueError(f"--new_head True: {path} is a model of {architecture}, which has none: train a new one.")
    if model_args.new_head and tags is not None:
        replace_head(model, processor, tags)
    elif unknown:
        known = ", ".join(dict.fromkeys(tag[2:] for tag in processor.tags if tag != "O"))
        raise ValueError(
            f"The data has entities of the types {', '.join(unknown)}, which {path} does not know; it has "
            f"{known}. To train it further on them give --new_head True: a new classifier and CRF, the rest as "
            "it was trained."
        )
    return model, processor


def make_model(
    model_args: ModelArguments,
    tags: list[str] | None,
    visual_features: VisualFeatures | None,
    words: Iterable[Sequence[str]] | None = None,
) -> tuple[HamLearningForTokenClassification, HamLearningProcessor]:
    """A new model around its text encoder; see `load_model`."""
    architecture = model_args.architecture or HAMLEARNING
    model_class = class_of(architecture)
    switches = model_args.config_switches(model_class.config_class)
    switches.setdefault("use_vision", visual_features is not None and model_class.config_class.use_vision)
    if switches["use_vision"]:
        if visual_features is None:
            raise ValueError(
                "--use_vision True, but the data set has no pictures: give --image_dir or --visual_features, or "
                "--use_vision False."
            )
        switches |= {
            "image_feature_size": visual_features.image_feature_size,
            "region_feature_size": visual_features.region_feature_size,
            "num_classes": visual_features.num_classes,
        }
    if tags is None:
        raise ValueError("The train split has no ner_tags: a new model learns from them.")
    text_model = model_args.text_model or "bert-base-uncased"
    switches |= {"id2label": dict(enumerate(tags)), "label2id": {tag: i for i, tag in enumerate(tags)}}
    options: dict[str, Any] = {}
    if reads_words(architecture):
        if words is None:
            raise ValueError(
                f"--architecture {architecture} with a train split that is a stream: its vocabulary is of that "
                "split's words, so leave out --streaming."
            )
        model, tokenizer, options = model_class.from_words(words, model_args.word_vectors, **switches)
    else:
        with wanted_of_hub(text_model):
            model = model_class.from_text_pretrained(text_model, **switches)
            tokenizer = AutoTokenizer.from_pretrained(text_model)
        if model_args.word_vectors is not None:
            options = model.learn_word_vectors(model_args.word_vectors)
    names = ("image_feature_size", "region_feature_size", "num_classes")
    sizes: dict[str, Any] = {name: switches.get(name) for name in names}
    processor = processor_class_of(architecture)(
        tokenizer,
        tags=tags,
        word_splitting=model_args.word_splitting or "punctuation",
        **model_args.limits(),
        **sizes,
        **options,
    )
    remedy = "give --max_length {most}"
    check_text_encoder(model.model.text_model, f"--text_model {text_model}", processor.max_length, remedy)
    return model, processor


def replace_head(
    model: HamLearningForTokenClassification, processor: HamLearningProcessor, tags: Sequence[str]
) -> None:
    """Gives a trained model a classifier and a CRF that have learned nothing, for other tags."""
    config = model.config
    config.id2label, config.label2id = dict(enumerate(tags)), {tag: i for i, tag in enumerate(tags)}
    model.classifier = torch.nn.Linear(config.hidden_size, len(tags))
    model.crf = HamLearningCRF(len(tags), has_transitions=config.use_crf)
    for module in (model.classifier, model.crf):
        model._init_weights(module)
    processor.tags = list(tags)


def starting_point(model_args: ModelArguments) -> dict[str, Any]:
    """What the training starts from: `kind` (text encoder or trained model), `origin`, and whether it `is_on_hub`."""
    if model_args.model_name_or_path is None and reads_words(model_args.architecture or HAMLEARNING):
        name = "random vectors" if model_args.word_vectors is None else Path(model_args.word_vectors).name
        return {"kind": "words of the train split", "origin": name, "is_on_hub": False}
    kind = "text encoder" if model_args.model_name_or_path is None else "trained model"
    origin = model_args.model_name_or_path or model_args.text_model or "bert-base-uncased"
    is_folder = Path(origin).is_dir()
    name = f"in a folder of its maker, {Path(origin).resolve().name}" if is_folder else origin
    return {"kind": kind, "origin": name, "is_on_hub": not is_folder}
