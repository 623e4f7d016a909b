"""Files and addresses that were made to do harm: each is refused with a sentence, nothing of it is run or followed."""

import ast
import base64
import contextlib
import hashlib
import io
import json
import logging
import re
import shutil
import socket
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, DatasetDict
from PIL import Image
from transformers import AutoModelForTokenClassification, BertTokenizer, pipeline

from configuration_hamlearning import HamLearningConfig, HamLearningVisionConfig
from hamlearning.data.features import VisualFeatures, read_visual_metadata, write_visual_features
from hamlearning.data.picture_files import find_images
from hamlearning.data.tweets import load_tweets
from hamlearning.pictures.tweet_images import TweetImages
from hamlearning.scores.predictions import read_predictions
from hamlearning.training.arguments import parse_arguments
from hamlearning.training.run import main as run_mner
from image_processing_hamlearning import ImageError, download, read_image
from modeling_faster_rcnn_vg import FasterRCNNVGSettings
from modeling_hamlearning import HamLearningForTokenClassification
from modeling_hamlearning_vision import HamLearningVisionModel
from pipeline_hamlearning import HamLearningPipeline
from processing_hamlearning import HamLearningProcessor
from tiny_world import flags


ROOT = Path(__file__).parents[1]
FOLDERS = ("datasets", "space", "benchmarks", "mutation", ".ci", "tests/fuzz")
VOCABULARY = {piece: place for place, piece in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "look"))}
SIZES = {"image_feature_size": 2, "region_feature_size": 2, "class_names": ["cat"]}


class Malicious:
    """Unpickled, it creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def marker(tmp_path):
    """The file that code would create, if it were run."""
    path = tmp_path / "was_run"
    yield path
    assert not path.exists()


@pytest.fixture
def folder(make_model, tmp_path):
    """A model of text alone as it is published."""
    processor = HamLearningProcessor(BertTokenizer(vocab=VOCABULARY))
    HamLearningPipeline(model=make_model(use_vision=False), processor=processor).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


# ------------------------------------------------------------------------------------------------------------- pickles


def sources() -> list[Path]:
    own = [
        *ROOT.glob("*.py"),
        *(path for name in FOLDERS for path in (ROOT / name).rglob("*.py")),
    ]
    return sorted(path for path in own if "generated" not in path.parts)


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """The calls in a file, each with what is called as it is written."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.name)
def test_no_file_of_the_project_loads_a_pickle_unrestricted_or_evaluates_text(path):
    for name, call in calls(path):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name in ("torch.load", "torch.hub.load_state_dict_from_url") or name.endswith(".get_state_dict"):
            assert given.get("weights_only") == "True", ast.unparse(call)
        assert not re.fullmatch(r"c?[pP]ickle\.loads?|joblib\.load|dill\.loads?|marshal\.loads?|shelve\.open", name)
        assert not re.fullmatch(r"yaml\.(load|load_all|full_load|unsafe_load)|eval|exec|os\.system", name)
        if name.endswith("np.load"):
            assert given.get("allow_pickle", "False") == "False", ast.unparse(call)


@pytest.mark.parametrize("load", [HamLearningForTokenClassification.from_pretrained, "auto", "pipeline"])
def test_a_model_that_is_a_pickle_alone_is_refused_and_its_code_is_not_run(folder, marker, load):
    (folder / "model.safetensors").unlink()
    torch.save({"classifier.weight": Malicious(marker)}, folder / "pytorch_model.bin")
    if load == "auto":
        load = AutoModelForTokenClassification.from_pretrained
    kwargs = {} if load == HamLearningForTokenClassification.from_pretrained else {"trust_remote_code": True}
    # `pipeline` makes a ValueError of what it was told in trying.
    with pytest.raises((OSError, ValueError), match=rf"no file named model.safetensors .*{folder}"):
        pipeline(model=str(folder), **kwargs) if load == "pipeline" else load(folder, **kwargs)


def test_a_vision_model_that_is_a_pickle_alone_is_refused(world, marker, tmp_path):
    vision = HamLearningVisionModel.from_backbone_detector_pretrained(str(world / "backbone"), "grid")
    vision.save_pretrained(tmp_path / "vision")
    (tmp_path / "vision" / "model.safetensors").unlink()
    torch.save({"x": Malicious(marker)}, tmp_path / "vision" / "pytorch_model.bin")
    with pytest.raises(OSError, match="no file named model.safetensors"):
        HamLearningVisionModel.from_pretrained(tmp_path / "vision")


@pytest.mark.parametrize("load", [HamLearningForTokenClassification.from_pretrained, "vision"])
def test_a_pickle_is_refused_whatever_the_caller_says_of_it(world, folder, marker, tmp_path, load):
    if load == "vision":
        load, folder = HamLearningVisionModel.from_pretrained, tmp_path / "vision"
        HamLearningVisionModel.from_backbone_detector_pretrained(str(world / "backbone"), "grid").save_pretrained(
            folder
        )
    (folder / "model.safetensors").unlink()
    torch.save({"x": Malicious(marker)}, folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="no file named model.safetensors"):
        load(folder, use_safetensors=False, weights_only=False)


def test_a_processor_s_config_cannot_have_the_vision_model_read_from_a_pickle(world, marker, tmp_path):
    """Of the vision model it says the place alone. Without a dtype in its config, transformers opens it twice."""
    processor = HamLearningProcessor(BertTokenizer(vocab=VOCABULARY))
    processor.vision_model = HamLearningVisionModel.from_backbone_detector_pretrained(str(world / "backbone"), "grid")
    processor.save_pretrained(tmp_path)
    (tmp_path / "vision" / "model.safetensors").unlink()
    torch.save({"x": Malicious(marker)}, tmp_path / "vision" / "pytorch_model.bin")
    vision, config = tmp_path / "vision" / "config.json", tmp_path / "processor_config.json"
    vision.write_text(
        json.dumps({name: value for name, value in json.loads(vision.read_text()).items() if name != "dtype"})
    )
    how = {"use_safetensors": False, "weights_only": False, "dtype": "auto"}
    config.write_text(json.dumps(json.loads(config.read_text()) | {"vision_source": {"subfolder": "vision"} | how}))
    with pytest.raises(ValueError, match="vision_source has 'use_safetensors'"):
        HamLearningProcessor.from_pretrained(tmp_path)
    trusting = HamLearningProcessor(BertTokenizer(vocab=VOCABULARY))
    trusting.vision_source = {"pretrained_model_name_or_path": str(tmp_path / "vision")} | how
    with pytest.raises(OSError, match="no file named model.safetensors"):
        _ = trusting.vision_model


@pytest.mark.parametrize("detector", ["mask_rcnn_coco", "faster_rcnn_vg"])
def test_a_detector_that_carries_code_is_refused_and_its_code_is_not_run(world, marker, tmp_path, detector):
    file = tmp_path / ("weights.pth" if detector == "mask_rcnn_coco" else "pytorch_model.bin")
    torch.save({"x": Malicious(marker)}, file)
    place = file if detector == "mask_rcnn_coco" else tmp_path
    with pytest.raises(ValueError, match=rf"{file.name} holds something else .* carries code, which was not run"):
        HamLearningVisionModel.from_backbone_detector_pretrained(str(world / "backbone"), detector, str(place))


def test_an_array_file_is_read_by_nothing(marker, tmp_path):
    """There is no .npz among the project's formats: where one is given, it is refused by what it is not."""
    np.savez(tmp_path / "features.npz", x=np.array([Malicious(marker)], dtype=object))
    for read in (VisualFeatures, read_image):
        with pytest.raises(ValueError, match="features.npz"):
            read(tmp_path / "features.npz")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoint_that_carries_code_is_not_resumed_and_its_code_is_not_run(world, marker, tmp_path, name):
    run = flags(world, tmp_path / "run", num_train_epochs=2, save_total_limit=2, do_eval=None, do_predict=None)
    run_mner(run)
    checkpoint, last = sorted((tmp_path / "run").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    shutil.rmtree(last)  # a run that has no step left reads no generators
    torch.save({"x": Malicious(marker)}, checkpoint / name)
    sizes = json.loads((checkpoint / "files.json").read_text())
    (checkpoint / "files.json").write_text(json.dumps(sizes | {name: (checkpoint / name).stat().st_size}))
    with pytest.raises(Exception, match="Weights only load failed"):
        run_mner([*run, "--resume_from_checkpoint", "True"])


# --------------------------------------------------------------------------------------------------------- safetensors


def with_header(data: bytes, change) -> bytes:
    """A safetensors file whose first tensor's entry in the header was changed."""
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    change(header[next(name for name in header if name != "__metadata__")])
    new = json.dumps(header).encode()
    return struct.pack("<Q", len(new)) + new + data[8 + size :]


DAMAGES = {
    "empty": lambda data: b"",
    "cut short": lambda data: data[: len(data) // 2],
    "cut in the header": lambda data: data[:100],
    "a header longer than the file": lambda data: struct.pack("<Q", 2**62) + data[8:],
    "a tensor beyond the end": lambda data: with_header(data, lambda entry: entry.update(data_offsets=[0, 2**40])),
    "a shape of 2**62 numbers": lambda data: with_header(data, lambda entry: entry.update(shape=[2**31, 2**31])),
    "a page that says it is missing": lambda data: b"<!DOCTYPE html><title>404</title>",
    "a pointer of Git LFS": lambda data: b"version https://git-lfs.github.com/spec/v1\nsize 3\n",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_are_refused_by_their_file(folder, damage):
    path = folder / "model.safetensors"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))} is damaged.*: copy or download it again\.$"):
        HamLearningForTokenClassification.from_pretrained(folder)


def test_a_damaged_vision_model_is_refused_by_its_file(world, tmp_path):
    vision = HamLearningVisionModel.from_backbone_detector_pretrained(str(world / "backbone"), "grid")
    vision.save_pretrained(tmp_path / "vision")
    path = tmp_path / "vision" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))} is damaged"):
        HamLearningVisionModel.from_pretrained(tmp_path, subfolder="vision")


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"num_ffnn_layers": 10**9}, "num_ffnn_layers=1000000000: must be at most 1000"),
        (
            {"num_interaction_layers": 10**30},
            "num_interaction_layers=1000000000000000000000000000000: must be at most",
        ),
        ({"num_text_layers": "2"}, "'num_text_layers' expected int, got str"),
        ({"dropout": float("nan")}, "dropout=nan: must be a share"),
        ({"num_classes": float("inf")}, "'num_classes' expected int, got float"),
    ],
)
def test_a_config_of_absurd_sizes_is_refused_by_the_field(folder, setting, message):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | setting))
    with pytest.raises(Exception, match=message):
        HamLearningForTokenClassification.from_pretrained(folder)


def read_config(folder: Path, config_class, fields: dict):
    (folder / "config.json").write_text(json.dumps(fields))
    return config_class.from_pretrained(folder)


def object_detection(**fields) -> dict:
    return {"detector": "object_detection", "detector_config": {"model_type": "detr"} | fields}


def faster_rcnn(num_classes) -> dict:
    return {"detector": "faster_rcnn_vg", "detector_settings": {"num_classes": num_classes}}


def grid(**settings) -> dict:
    return {"detector": "grid", "detector_settings": settings}


# One more than allowed: the checks come before the lists are made, and without them a test should not fill the memory.
@pytest.mark.parametrize(
    "config_class, fields, message",
    [
        (HamLearningConfig, {"num_labels": 100_001}, "num_labels=100001: must be a whole number in [0, 100000]"),
        (HamLearningConfig, {"num_labels": 100_001, "id2label": {"0": "O"}}, "num_labels=100001: must be"),
        (HamLearningConfig, {"id2label": {str(i): "O" for i in range(100_001)}}, "at most 100000 of them"),
        (HamLearningConfig, {"num_classes": 100_001}, "num_classes=100001: must be at most 100000"),
        (
            HamLearningConfig,
            {"text_config": {"model_type": "bert", "num_labels": 100_001}},
            "text_config.num_labels=100001: must be",
        ),
        (HamLearningVisionConfig, {"num_labels": 100_001}, "num_labels=100001: must be"),
        (
            HamLearningVisionConfig,
            {"global_backbone_config": {"architecture": "resnet18", "num_labels": 100_001}},
            "global_backbone_config.num_labels=100001: must be",
        ),
        (HamLearningVisionConfig, object_detection(num_labels=100_001), "detector_config.num_labels=100001: must be"),
        (
            HamLearningVisionConfig,
            object_detection(backbone_config={"model_type": "resnet", "num_labels": 100_001}),
            "detector_config.backbone_config.num_labels=100001: must be",
        ),
        (
            HamLearningVisionConfig,
            object_detection(id2label={"100000": "x"}),
            "detector_config.id2label={100000: 'x'}: must give ids in [0, 100000) names",
        ),
        (
            HamLearningVisionConfig,
            faster_rcnn(100_001),
            "detector_settings['num_classes']=100001: must be a whole number in [1, 100000]",
        ),
        (
            HamLearningVisionConfig,
            faster_rcnn(100_001) | {"class_names": ["cat"]},
            "detector_settings['num_classes']=100001: must be",
        ),
        (HamLearningVisionConfig, grid(rows=1001), "detector_settings={'rows': 1001, 'columns': 5}: a grid has"),
        (HamLearningVisionConfig, grid(columns=1001), "at most 1000 of each"),
    ],
)
def test_a_number_that_would_fill_the_memory_is_refused_by_the_field(config_class, fields, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)) as refusal:
        read_config(tmp_path, config_class, fields)
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("count", [0, 100_000])
def test_the_least_and_most_tags_are_allowed_and_saved(count, tmp_path):
    config = read_config(tmp_path, HamLearningConfig, {"num_labels": count, "num_classes": 100_000})
    assert len(config.tags) == count
    config.save_pretrained(tmp_path / "again")
    again = HamLearningConfig.from_pretrained(tmp_path / "again")
    assert (again.to_dict(), again.tags) == (config.to_dict(), config.tags)


@pytest.mark.parametrize(
    "fields, count",
    [
        (faster_rcnn(1), 1),
        (faster_rcnn(100_000), 100_000),
        (object_detection(id2label={"0": "x"}), 1),
        (object_detection(id2label={"99999": "x", "1": "y"}), 100_000),
        (grid(rows=1, columns=1), 1),
        (grid(rows=1000, columns=1000), 1),
    ],
)
def test_the_least_and_most_classes_and_cells_are_allowed_and_saved(fields, count, tmp_path):
    config = read_config(tmp_path, HamLearningVisionConfig, fields)
    assert len(config.class_names or []) == count
    config.save_pretrained(tmp_path / "again")
    assert HamLearningVisionConfig.from_pretrained(tmp_path / "again").to_dict() == config.to_dict()


@pytest.mark.parametrize("value", ["9", 9.5, None, True, [9], -1, float("nan")], ids=str)
@pytest.mark.parametrize(
    "name, config_class, fields",
    [
        ("num_labels", HamLearningConfig, lambda value: {"num_labels": value}),
        ("num_labels", HamLearningVisionConfig, lambda value: {"num_labels": value}),
        ("detector_settings['num_classes']", HamLearningVisionConfig, faster_rcnn),
    ],
    ids=["network", "vision", "detector"],
)
def test_a_count_of_labels_that_is_no_whole_number_is_refused(name, config_class, fields, value, tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"{name}={value!r}: must be a whole number in [")):
        read_config(tmp_path, config_class, fields(value))


def test_a_detector_of_no_classes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="=0: must be a whole number in"):
        read_config(tmp_path, HamLearningVisionConfig, faster_rcnn(0))


NO_NAMES = [["O"], "O", 5, {"a": "O"}, {"": "O"}, ["O"] * 1000]


@pytest.mark.parametrize("names", NO_NAMES, ids=lambda names: str(names)[:20])
@pytest.mark.parametrize(
    "field, config_class, fields",
    [
        ("id2label", HamLearningConfig, lambda names: {"id2label": names}),
        ("text_config.id2label", HamLearningConfig, lambda names: {"text_config": {"id2label": names}}),
        ("id2label", HamLearningVisionConfig, lambda names: {"id2label": names}),
        ("detector_config.id2label", HamLearningVisionConfig, lambda names: object_detection(id2label=names)),
        (
            "global_backbone_config.id2label",
            HamLearningVisionConfig,
            lambda names: {"global_backbone_config": {"id2label": names}},
        ),
    ],
    ids=["network", "text", "vision", "detector", "backbone"],
)
def test_names_that_are_no_dict_from_ids_are_refused(field, config_class, fields, names, tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"{field}={names!r:.100}: must be a dict from ids")) as refusal:
        read_config(tmp_path, config_class, fields(names))
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("names", [{"0": "O", "2": "B-X"}, {"1": "O"}, {"-1": "O", "0": "B-X"}, {"9" * 4000: "O"}])
def test_tags_that_are_not_numbered_from_0_on_are_refused(names, tmp_path):
    with pytest.raises(ValueError, match=r"^id2label=\{.*: must number the tags from 0 on without a gap"):
        read_config(tmp_path, HamLearningConfig, {"id2label": names})


def test_tags_that_are_replaced_later_are_checked_when_they_are_read(tmp_path):
    HamLearningConfig().save_pretrained(tmp_path)
    config = HamLearningConfig.from_pretrained(tmp_path, id2label={0: "O", 2: "B-X"})
    with pytest.raises(ValueError, match="id2label={0: 'O', 2: 'B-X'}: must number the tags from 0 on"):
        _ = config.tags


@pytest.mark.parametrize("name", [5, None, ["O"], {}], ids=str)
def test_a_tag_that_is_no_text_is_refused_by_its_id(name, tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"id2label[1]={name!r}: must be the name of a tag")):
        read_config(tmp_path, HamLearningConfig, {"id2label": {"0": "O", "1": name}})


@pytest.mark.parametrize("names", [{"0": 5}, {"0": "x", "1": None}, {}, {"-1": "x"}], ids=str)
def test_classes_of_a_detector_without_names_or_ids_are_refused(names, tmp_path):
    with pytest.raises(ValueError, match=r"^detector_config.id2label=\{.*: must give ids in \[0, 100000\) names"):
        read_config(tmp_path, HamLearningVisionConfig, object_detection(id2label=names))


@pytest.mark.parametrize(
    "names", [{"1": "B-X", "0": "O"}, {1: "B-X", 0: "O"}, {np.int64(0): "O", np.int64(1): "B-X"}], ids=repr
)
def test_tags_are_numbered_in_any_order_by_text_or_whole_numbers(names):
    assert HamLearningConfig(id2label=names).tags == ["O", "B-X"]
    assert HamLearningConfig(id2label=names, num_labels=np.int64(2)).tags == ["O", "B-X"]


@pytest.mark.parametrize(
    "settings",
    [
        {"rows": "3"},
        {"rows": None},
        {"rows": 3, "x": [1]},
        {"rows": 3, "depth": 2},
        {"rows": 1.5},
        {"columns": True},
        {"columns": float("nan")},
        {"columns": [5]},
        {"columns": -1},
        {"x" * 1000: 1},
    ],
    ids=lambda settings: str(settings)[:30],
)
def test_a_grid_of_anything_but_rows_and_columns_is_refused(settings, tmp_path):
    with pytest.raises(ValueError, match="^detector_settings={'rows'.*: a grid has at least one row") as refusal:
        read_config(tmp_path, HamLearningVisionConfig, grid(**settings))
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e39])
@pytest.mark.parametrize("field", ["forced_relevance", "layer_norm_eps", "initializer_range"])
def test_a_number_that_is_not_finite_in_the_network_is_refused_by_the_field(field, value, tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"{field}={value!r}: must be a finite number of 32 bits")):
        read_config(tmp_path, HamLearningConfig, {field: value})


def test_a_relevance_of_a_thousand_digits_is_refused(tmp_path):
    with pytest.raises(ValueError, match="^forced_relevance=10{99}: must be a finite number of 32 bits"):
        read_config(tmp_path, HamLearningConfig, {"forced_relevance": 10**1000})


@pytest.mark.parametrize(
    "values", [[float("nan")] * 3, [0.5, 0.5, float("inf")], [0.5], [0.5] * 4, [], [0.5, 1e39, 1.0]]
)
@pytest.mark.parametrize("field", ["image_mean", "image_std"])
def test_colours_that_are_not_three_finite_numbers_are_refused(field, values, tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"{field}={values!r}: must be three finite numbers")):
        read_config(tmp_path, HamLearningVisionConfig, {"detector": "grid", field: values})


@pytest.mark.parametrize("values", [[0.0, 0.5, 0.5], [0.5, 0.5, -0.5]])
def test_pixels_are_not_divided_by_0_or_less(values, tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"image_std={values!r}: must be more than 0")):
        read_config(tmp_path, HamLearningVisionConfig, {"detector": "grid", "image_std": values})


# ------------------------------------------------------------------------------------------------- settings of a run

# Nine times nine times ... : 250 bytes that stand for 4 GB.
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + chr(ord(name) - 1)] * 9)}]\n" for name in "bcdefghij"
)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("data_dir: !!python/object/apply:pathlib.Path.touch [{marker}]\n", "could not determine a constructor"),
        ("!!python/object:os.system\n", "could not determine a constructor"),
        (LAUGHS, r"line 2 has the alias \*a: write it out"),
        ("seed: &a [*a]\n", r"line 1 has the alias \*a"),
        ("<<: {a: 1}\nseed: 1" + "0" * 5000, "4300 digits"),
        ("seed: 0x" + "f" * 5000, "4300 digits"),
        ("[" * 100_000, "line 1 is more than 20 brackets deep"),
        ('{"a":' * 5_000, "line 1 is more than 20 brackets deep"),
        ("a: [1,", "while parsing"),
        ("a:\n\tb: 1", "cannot start any token"),
        ("? [a, b]\n: 1", "unhashable key"),
        ("a: \0", "unacceptable character"),
        ("a: {b: 2001-01-01}", "not JSON serializable"),
        ("- a", "it is of type list"),
        ("", "it is of type NoneType"),
        (b"\xff\xfea: 1", "invalid start byte"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "bytes",
)
@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_file_that_holds_no_settings_is_refused_by_its_name(text, reason, suffix, marker, tmp_path):
    path = tmp_path / f"run.{suffix}"
    path.write_bytes(text if isinstance(text, bytes) else text.replace("{marker}", str(marker)).encode())
    with pytest.raises(
        ValueError, match=rf"(?is)^{re.escape(str(path))} holds no settings \(.*{reason}.*\): expected"
    ):
        parse_arguments([str(path)])


@pytest.mark.parametrize(
    "text", ["seed: abc", "do_train: {a: 1}", "learning_rate: [fast]", "per_device_eval_batch_size: 1.5"]
)
def test_a_setting_of_the_wrong_type_is_named(text, tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(SystemExit):
        parse_arguments([str(path)])
    assert f"argument --{text.split(':')[0]}" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[" * 100_000, "a: 1" + "0" * 5000, "!!python/object:os.system\n"])
def test_the_detectors_config_is_refused_by_its_name(text, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="config.yaml is not YAML"):
        FasterRCNNVGSettings.from_published_config(path)


def test_predictions_of_brackets_in_brackets_are_refused_by_their_line(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="predictions.jsonl, line 1: this is no JSON"):
        read_predictions(path, {"id": ["1"], "tokens": [["a"]], "ner_tags": [["O"]]})


# ------------------------------------------------------------------------------------------------------ feature files


def one_row(**changes) -> dict:
    row = {"id": "1", "image_size": [4, 3], "image_features": [1.0, 2.0], "boxes": [[0.5, 0.5, 0.5, 0.5]]}
    return row | {"class_ids": [0], "scores": [1.0], "features": [[1.0, 2.0]]} | changes


def sound_file(path: Path, **options) -> bytes:
    write_visual_features(path, [one_row()], SIZES)
    if options:
        pq.write_table(pq.read_table(path), path, **options)
    return path.read_bytes()


def test_pages_that_do_not_unpack_are_a_damaged_file(tmp_path):
    """Found by the fuzzer: Arrow calls it an OSError."""
    path = tmp_path / "features.parquet"
    data = sound_file(path, compression="gzip")
    first = data.index(b"\x1f\x8b")
    path.write_bytes(data[: first + 10] + b"\xff" * 8 + data[first + 18 :])
    with pytest.raises(ValueError, match="features.parquet is not a Parquet file, or it is damaged"):
        VisualFeatures(path)


@pytest.mark.slow
def test_whatever_byte_of_a_footer_is_another_the_file_is_read_or_named(tmp_path):
    """Found by the fuzzer: Arrow ends the process where an index of the pages is asked for and damaged."""
    path = tmp_path / "features.parquet"
    data = sound_file(path)
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    for place in range(footer, len(data) - 8):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        with contextlib.suppress(ValueError):
            VisualFeatures(path)


def test_a_column_whose_name_is_no_text_is_a_damaged_file(tmp_path):
    """Found by the fuzzer: Arrow says so with a UnicodeDecodeError, which names no file."""
    path = tmp_path / "features.parquet"
    path.write_bytes(sound_file(path, store_schema=False).replace(b"element", b"elemen\x89"))
    with pytest.raises(ValueError, match="features.parquet is not a Parquet file, or it is damaged"):
        VisualFeatures(path)


def test_a_number_that_is_too_large_for_32_bits_is_refused(tmp_path):
    """Found by the fuzzer: it was finite as it was stored, and infinite as it was used."""
    path = tmp_path / "features.parquet"
    sound_file(path)
    table = pq.read_table(path)
    wide = pa.array([[1e300, 1.0]], pa.list_(pa.float64()))
    pq.write_table(table.set_column(table.schema.get_field_index("image_features"), "image_features", wide), path)
    with pytest.raises(ValueError, match="features.parquet, image '1': image_features holds inf"):
        VisualFeatures(path)


def test_metadata_of_brackets_in_brackets_are_refused(tmp_path):
    """Found by the fuzzer: a RecursionError."""
    path = tmp_path / "features.parquet"
    sound_file(path)
    pq.write_table(pq.read_table(path).replace_schema_metadata({"hamlearning": "[" * 100_000}), path)
    for read in (VisualFeatures, read_visual_metadata):
        with pytest.raises(ValueError, match="features.parquet has metadata 'hamlearning' that is not JSON"):
            read(path)


@pytest.mark.parametrize("lie", [{"image_feature_size": 10**12}, {"region_feature_size": 3}, {"class_names": []}])
def test_metadata_that_lie_about_sizes_are_refused(tmp_path, lie):
    path = tmp_path / "features.parquet"
    sound_file(path)
    stored = json.dumps(SIZES | lie)
    pq.write_table(pq.read_table(path).replace_schema_metadata({"hamlearning": stored}), path)
    with pytest.raises(ValueError, match=f"features.parquet.*{next(iter(lie)).split('_')[0]}"):
        VisualFeatures(path)


@pytest.mark.slow
def test_a_small_file_of_millions_of_regions_is_refused_before_it_fills_the_memory(tmp_path):
    """36 kB of one box again and again took 2.7 GB and a minute."""
    path, count = tmp_path / "features.parquet", 10_000_000
    sound_file(path)
    schema = pq.read_schema(path)

    def lists(values, lengths):
        return pa.ListArray.from_arrays(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32), values)

    fours, twos = np.full(count, 4), np.full(count, 2)
    columns = {
        "id": pa.array(["1"]),
        "image_size": pa.array([[4, 3]], pa.list_(pa.int32())),
        "image_features": pa.array([np.zeros(2, np.float16)], pa.list_(pa.float16())),
        "boxes": lists(lists(pa.array(np.full(4 * count, 0.5, np.float32)), fours), [count]),
        "class_ids": lists(pa.array(np.zeros(count, np.int32)), [count]),
        "scores": lists(pa.array(np.ones(count, np.float32)), [count]),
        "features": lists(lists(pa.array(np.zeros(2 * count, np.float16)), twos), [count]),
    }
    pq.write_table(pa.table(columns, schema=schema), path, compression="zstd")
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"features.parquet has \d+ bytes and stands for \d+ MiB"):
        VisualFeatures(path)


def test_parquet_tweets_that_are_damaged_are_refused_by_their_file(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    path = tmp_path / "tweets" / "train.parquet"
    Dataset.from_dict({"id": ["1"], "tokens": [["a"]]}).to_parquet(str(path))
    sound = path.read_bytes()
    for damaged in (b"", b"PAR1", sound[:-108] + b"\xff" * 100 + sound[-8:], b"PAR1" + bytes(60) + sound[-8:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="train.parquet is not a Parquet file, or it is damaged"):
            load_tweets(tmp_path / "tweets")


# ------------------------------------------------------------------------------------------------ ids, paths and links


@pytest.fixture
def pictures(tmp_path):
    """A folder of pictures, beside a secret one, with links of all kinds in it."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for place in (tmp_path / "secret.png", folder / "own.png"):
        Image.new("RGB", (4, 3)).save(place)
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    (folder / "relative.png").symlink_to("../secret.png")
    (folder / "passwd.jpg").symlink_to("/etc/passwd")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "inside.png").symlink_to("own.png")
    return folder


def tweets_with(*ids: str) -> DatasetDict:
    return DatasetDict(train=Dataset.from_dict({"id": list(ids), "tokens": [["a"]] * len(ids)}))


@pytest.mark.parametrize("id_", ["../secret", "../../etc/passwd", "/etc/passwd", "", ".", "../own.png", "own\0", "*"])
def test_an_id_is_looked_up_among_the_names_of_the_folder_and_never_a_path(pictures, id_):
    images = TweetImages(tweets_with(id_, str(pictures.parent / "secret"), "own"), pictures)
    assert [images[place] for place in range(3)] == [None, None, pictures / "own.png"]
    assert images.sha256(0) == "none"


def test_a_link_out_of_the_folder_of_pictures_is_not_followed(pictures, caplog):
    with caplog.at_level(logging.WARNING):
        found = find_images(pictures)
    assert {"own", "inside"} <= set(found) <= {"own", "inside", "gone", "loop"}
    assert (
        "has 3 links that lead out of it, out.png the first: they are not followed, copy the pictures" in caplog.text
    )
    images = TweetImages(tweets_with("out", "relative", "passwd", "own"), pictures)
    assert [images[place] for place in range(4)] == [*[None] * 3, pictures / "own.png"]


def test_a_folder_of_nothing_but_links_out_of_it_is_refused_by_its_name(pictures):
    for name in ("own", "inside", "loop", "gone"):
        (pictures / f"{name}.png").unlink()
    with pytest.raises(ValueError, match=f"^{pictures} has no picture but 3 links that lead out of it, out.png the"):
        find_images(pictures)


def test_a_link_to_a_blob_of_the_same_repo_in_the_hubs_cache_is_followed(tmp_path, caplog):
    repos = [tmp_path / f"datasets--org--{name}" for name in ("own", "other")]
    for repo in repos:
        (repo / "blobs").mkdir(parents=True)
        Image.new("RGB", (4, 3)).save(repo / "blobs" / "a1b2", "PNG")
    folder = repos[0] / "snapshots" / "c3d4" / "images"
    folder.mkdir(parents=True)
    (folder / "own.png").symlink_to("../../../blobs/a1b2")
    (folder / "other.png").symlink_to("../../../../datasets--org--other/blobs/a1b2")
    assert set(find_images(folder)) == {"own"}
    assert "has 1 links that lead out of it, other.png the first" in caplog.text


# ------------------------------------------------------------------------------------------------------------ pictures


def run_lengths(width: int, height: int) -> bytes:
    """A BMP of 8 bits with run lengths: of each row a pixel, and then its end."""
    head = struct.pack("<IIIIiiHHIIiiII", 62, 0, 58, 40, width, height, 1, 8, 1, 0, 0, 0, 1, 0)
    return b"BM" + head + bytes(4) + b"\x01\x00\x00\x00" * height + b"\x00\x01"


def test_a_bmp_with_run_lengths_is_refused_at_once_however_small():
    """Found by the fuzzer: Pillow decodes it in Python, and 62 bytes took 18 seconds."""
    started = time.process_time()
    for size in ((25_000_000, 1), (40, 30)):
        with pytest.raises(ImageError, match="a BMP with run-length encoding, which is not read here: save it as PNG"):
            read_image(run_lengths(*size))
    assert time.process_time() - started < 1


def test_a_picture_that_unfolds_to_gigabytes_is_refused_by_its_header():
    stream = io.BytesIO()
    Image.new("1", (14_000, 14_000)).save(stream, "PNG")
    assert len(stream.getvalue()) < 50_000
    with pytest.raises(ImageError, match="has 14000 x 14000 pixels, the limit is"):
        read_image(stream.getvalue())


# ------------------------------------------------------------------------------------------------------------- the web


@contextlib.contextmanager
def server(answer):
    """A port of loopback where `answer(connection)` speaks to whoever comes: its address, and how many came."""
    listener, came = socket.create_server(("127.0.0.1", 0)), []

    def speak():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                came.append(connection)
                threading.Thread(target=quietly, args=[connection], daemon=True).start()

    def quietly(connection):
        with contextlib.suppress(OSError), connection:
            answer(connection)

    threading.Thread(target=speak, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/", came
    finally:
        listener.close()


def drip(connection):
    """A header without end, a letter at a time."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Name: ")
    while True:
        connection.sendall(b"a")
        time.sleep(0.05)


def stay_silent(connection):
    time.sleep(30)


def redirect_for_ever(connection):
    time.sleep(0.2)
    connection.recv(1000)
    connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def drip_the_body(connection):
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b"a")
        time.sleep(0.05)


@pytest.mark.parametrize("answer", [drip, stay_silent, redirect_for_ever, drip_the_body])
def test_no_server_holds_the_call_longer_than_its_limit(answer):
    with server(answer) as (url, _):
        started = time.monotonic()
        with pytest.raises(ImageError, match=f"{url} did not come within 0.6 seconds: try again later"):
            download(url, seconds=0.6)
        assert time.monotonic() - started < 20


def test_a_name_that_is_not_resolved_holds_the_call_no_longer_than_its_limit(monkeypatch):
    resolved, ended = threading.Event(), threading.Event()

    def resolve(*args, **kwargs):
        resolved.wait(60)
        ended.set()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(ImageError, match="did not come within 0.3 seconds"):
        download("http://example.org/a.png", seconds=0.3)
    assert not ended.is_set()
    resolved.set()


@pytest.mark.parametrize("scheme", ["file:///etc/passwd", "ftp://127.0.0.1/a", "gopher://127.0.0.1/", "data:,a"])
def test_a_redirect_leads_to_the_web_alone(scheme):
    def redirect(connection):
        connection.recv(1000)
        connection.sendall(f"HTTP/1.1 302 Found\r\nLocation: {scheme}\r\nContent-Length: 0\r\n\r\n".encode())

    with server(redirect) as (url, _), pytest.raises(ImageError, match="cannot be downloaded"):
        download(url)


def test_a_body_that_says_it_is_packed_is_not_unfolded():
    import gzip

    packed = gzip.compress(bytes(50_000_000))

    def answer(connection):
        request = connection.recv(1000)
        assert b"accept-encoding: identity" in request.lower()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n" + packed)

    with server(answer) as (url, _):
        assert download(url) == packed


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:99999/", "http://127.0.0.1:-1/", "http://a:b/", "http://\0/", "http://\ud800/"]
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ImageError, match="cannot be downloaded"):
        download(url)


def test_a_notebooks_loop_is_no_hindrance():
    import asyncio

    def answer(connection):
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nbytes")

    async def cell(url):
        return download(url)

    with server(answer) as (url, _):
        assert asyncio.run(cell(url)) == b"bytes"


def test_urls_in_texts_ids_and_columns_open_nothing(world, make_model, tmp_path, monkeypatch):
    """Only the pipeline opens a URL, and only one that its caller gives as `image`."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    with server(stay_silent) as (url, came):
        (tmp_path / "tweets").mkdir()
        (tmp_path / "tweets" / "train.txt").write_text(f"IMGID:{url}\nsee\tO\n{url}a.png\tO\n\nIMGID:train0\nso\tO\n")
        tweets = load_tweets(tmp_path / "tweets")
        assert TweetImages(tweets, world / "images")[0] is None
        column = tweets["train"].add_column("image", [{"bytes": None, "path": f"{url}a.png"}, None])
        images = TweetImages(DatasetDict(train=column))
        assert images.sha256(0) == hashlib.sha256(f"{url}a.png".encode()).hexdigest()
        for image in (url, images[0], Path(url), base64.b64encode(url.encode()).decode()):
            with pytest.raises(ImageError):
                read_image(image)
        ner = HamLearningPipeline(
            model=make_model(use_vision=False), processor=HamLearningProcessor(BertTokenizer(vocab=VOCABULARY))
        )
        ner([url, f"look {url}a.png"])
        ner.processor(text=tweets["train"]["tokens"][:])
        time.sleep(0.1)
        assert came == []


def test_nothing_of_a_folder_is_followed_that_a_model_card_or_config_names(folder, tmp_path):
    """The vision model lies where the processor's config says, by a name of the Hub or a folder, never by a URL."""
    config = folder / "processor_config.json"
    with server(stay_silent) as (url, came):
        settings = json.loads(config.read_text()) | {"vision_source": {"pretrained_model_name_or_path": url}}
        config.write_text(json.dumps(settings))
        processor = HamLearningProcessor.from_pretrained(folder)
        with pytest.raises(Exception):  # noqa: B017, the Hub client's own
            _ = processor.vision_model
        assert came == []


def test_a_broken_picture_is_named_by_its_place_among_the_tweets(make_model):
    ner = HamLearningPipeline(model=make_model(), processor=HamLearningProcessor(BertTokenizer(vocab=VOCABULARY)))
    tweets = [{"text": "a"}, {"text": "b", "image": b"\x89PNG\r\n\x1a\n broken"}]
    for given in (tweets, (tweet for tweet in tweets)):
        with pytest.raises(ImageError, match="^tweet 1: the picture given as bytes cannot be decoded"):
            list(ner(given, batch_size=8))
