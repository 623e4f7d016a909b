"""A world that a tiny network learns in seconds: tweets whose words decide, pictures of noise, a tiny text encoder."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizer,
    TimmWrapperConfig,
    TimmWrapperModel,
)

from configuration_hamlearning import HamLearningVisionConfig
from hamlearning.data.features import write_visual_features
from modeling_hamlearning import HamLearningForTokenClassification
from modeling_hamlearning_vision import HamLearningVisionModel
from processing_hamlearning import HamLearningProcessor


NAMES = {"PER": ["ann", "bob", "cleo"], "LOC": ["rome", "oslo", "bern"]}
FRAMES = [["i", "met", "{PER}", "today"], ["flying", "to", "{LOC}", "with", "{PER}", "{PER}", "!"], ["so", "tired"]]
SIZES = {"image_feature_size": 6, "region_feature_size": 5, "class_names": ["cat", "dog"]}
# Of a vision model that takes milliseconds.
BACKBONE = {"architecture": "test_convnext", "model_args": {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 16]}}
# Its stages have the channels of a ResNet-50's, one block each, of 16 channels at most within.
PYRAMID_BACKBONE = {"architecture": "resnet50", "model_args": {"layers": [1, 1, 1, 1], "base_width": 2}}
VISION = {"detector": "grid", "resize_size": 40, "crop_size": 32, "detector_settings": {"rows": 1, "columns": 2}}
SEEN_SIZES = {"image_feature_size": 16, "region_feature_size": 16}


def write_tweets(folder: Path, split: str, count: int, seed: int, with_tags: bool = True):
    rng = np.random.default_rng(seed)
    lines = []
    for number in range(count):
        lines.append(f"IMGID:{split}{number}")
        previous = None
        for word in FRAMES[rng.integers(len(FRAMES))]:
            kind = word.strip("{}") if word.startswith("{") else None
            tag = "O" if kind is None else f"{'I' if kind == previous else 'B'}-{kind}"
            token = word if kind is None else rng.choice(NAMES[kind])
            lines.append(f"{token}\t{tag}" if with_tags else token)
            previous = kind
        lines.append("")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_features(path: Path, ids: list[str], **sizes):
    sizes = SIZES | sizes
    rng = np.random.default_rng(0)
    rows = [
        {
            "id": id_,
            "image_size": [64, 48],
            "image_features": rng.normal(size=sizes["image_feature_size"]).astype(np.float32),
            "boxes": [[0.5, 0.5, 0.4, 0.4], [0.2, 0.2, 0.2, 0.2]],
            "class_ids": [0, 1],
            "scores": [0.9, 0.8],
            "features": rng.normal(size=(2, sizes["region_feature_size"])).astype(np.float32),
        }
        for id_ in ids
    ]
    write_visual_features(path, rows, {"producer": "test", **sizes})


def make_world(folder: Path):
    """Fills a folder with tweets/, features.parquet, text_encoder/, and for a vision model images/ and backbone/."""
    for split, count in (("train", 48), ("valid", 12), ("test", 12)):
        write_tweets(folder / "tweets", split, count, seed=len(split))
    ids = [f"{split}{n}" for split, count in (("train", 48), ("valid", 12), ("test", 9)) for n in range(count)]
    write_features(folder / "features.parquet", ids)
    words = sorted({w for frame in FRAMES for w in frame if w[0] != "{"} | {w for ws in NAMES.values() for w in ws})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    BertModel(config).save_pretrained(folder / "text_encoder")
    BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}).save_pretrained(folder / "text_encoder")
    (folder / "images").mkdir()
    for number, id_ in enumerate(ids):
        noise = np.random.default_rng(number).integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(noise).save(folder / "images" / f"{id_}.png")
    backbone = TimmWrapperConfig(architecture="test_resnet", pretrained_cfg={"license": "mit", "origin_url": "noise"})
    TimmWrapperModel(backbone).save_pretrained(folder / "backbone")


def save_vision_model(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    HamLearningVisionModel(HamLearningVisionConfig(global_backbone_config=BACKBONE, **VISION)).save_pretrained(folder)
    return folder


def make_pyramid_model(seed: int = 0, **fields) -> HamLearningVisionModel:
    """A vision model that can give pyramids, of squares of 64 pixels."""
    torch.manual_seed(seed)
    fields = VISION | {"resize_size": 72, "crop_size": 64} | fields
    return HamLearningVisionModel(HamLearningVisionConfig(global_backbone_config=PYRAMID_BACKBONE, **fields))


def save_seeing_model(world: Path, folder: Path) -> Path:
    """The folder of a random model with a tiny vision model, whose answers depend on pictures."""
    vision = HamLearningVisionModel.from_pretrained(save_vision_model(folder / "vision", seed=0))
    torch.manual_seed(3)
    model = HamLearningForTokenClassification.from_text_pretrained(
        world / "text_encoder", num_semantic_layers=1, **SEEN_SIZES, num_classes=1
    )
    torch.nn.init.normal_(model.classifier.weight, std=1)
    model.save_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(world / "text_encoder")
    processor = HamLearningProcessor(tokenizer, **SEEN_SIZES, num_classes=1)
    processor.vision_model = vision
    processor.save_pretrained(folder / "model")
    return folder / "model"


def dropout_free(world: Path, folder: Path) -> Path:
    """The tiny text encoder without dropout, in `folder`."""
    model = BertModel.from_pretrained(world / "text_encoder", hidden_dropout_prob=0, attention_probs_dropout_prob=0)
    model.save_pretrained(folder / "text_encoder")
    BertTokenizer.from_pretrained(world / "text_encoder").save_pretrained(folder / "text_encoder")
    return folder / "text_encoder"


def flags(world: Path, output_dir: Path, **more) -> list[str]:
    """Command line of a short training run; `None` leaves a flag out."""
    settings = {
        "data_dir": world / "tweets",
        "visual_features": world / "features.parquet",
        "text_model": world / "text_encoder",
        "output_dir": output_dir,
        "do_train": True,
        "do_eval": True,
        "do_predict": True,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "learning_rate": 3e-3,
        "crf_learning_rate": 1e-2,
        "num_semantic_layers": 1,
        "warmup_steps": 0,
        "use_cpu": True,
        "disable_tqdm": True,
    } | more
    return [part for name, value in settings.items() if value is not None for part in (f"--{name}", str(value))]


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def rounded(value):
    """An answer whose figures have four decimals: what is the same but for rounding is equal."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value
