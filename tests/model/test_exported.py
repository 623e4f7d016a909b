"""An exported model: loaded by the same call, the same answers; and what it says when it cannot."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_pipeline import PICTURES, TEXT, VISION, make_processor, same, tweets
from transformers import AutoConfig, BertConfig, pipeline

from configuration_hamlearning import HamLearningConfig, HamLearningVisionConfig
from hamlearning.cli import main
from hub_server import HubServer, run_client, stranger
from modeling_hamlearning import HamLearningAttention, HamLearningForTokenClassification
from modeling_hamlearning_vision import HamLearningVisionModel
from pipeline_hamlearning import HamLearningPipeline


pytest.importorskip("openvino", reason='needs openvino: pip install "hamlearning[export]"')

from exported_hamlearning import (  # noqa: E402
    NETWORK_FILES,
    HamLearningExportedConfig,
    HamLearningExportedForTokenClassification,
    export_model,
)


ROOT = Path(__file__).parents[2]
TINY_TEXT = {
    "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64,
}  # fmt: skip
# Words of each tweet and regions of its picture, None for no picture.
SHAPES = [
    ((5, 2, 4, 1), (3, None, 0, 2)),
    ((1,), (1,)),
    ((7, 30), (12, 5)),
    ((3, 2), (0, 0)),
    ((4, 0, 2), (None, None, None)),
    (tuple(range(1, 18)), (2,) * 17),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """Folder with `trained`, a tiny model with a vision model, and `exported`, the same in fp32."""
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    processor = make_processor(**VISION, max_length=64)
    backbone = {"architecture": "test_resnet"}
    processor.vision_model = HamLearningVisionModel(
        HamLearningVisionConfig(global_backbone_config=backbone, detector="grid", resize_size=72, crop_size=64)
    )
    model = HamLearningForTokenClassification(HamLearningConfig(text_config=BertConfig(**TINY_TEXT), **VISION)).eval()
    HamLearningPipeline(model=model, processor=processor).save_pretrained(folder / "trained")
    export_model(folder / "trained", folder / "exported", precision="fp32")
    return folder


@pytest.fixture(scope="module")
def trained(saved):
    return pipeline(model=str(saved / "trained"), trust_remote_code=True)


@pytest.fixture(scope="module")
def ner(saved):
    return pipeline(model=str(saved / "exported"), trust_remote_code=True)


@pytest.fixture
def copied(saved, tmp_path) -> Path:
    """A copy of the exported folder, to be changed."""
    return shutil.copytree(saved / "exported", tmp_path / "copied")


@pytest.fixture
def export(make_model, tmp_path):
    """`export(text, **config_fields)`: what `make_model` makes, and the same exported in fp32."""

    def make(text: str = "bert", attn_implementation: str = "sdpa", **fields):
        model = make_model(text, **{"num_semantic_layers": 1, "num_spatial_layers": 1} | fields)
        model.set_attn_implementation(attn_implementation)
        HamLearningPipeline(model=model, processor=make_processor()).save_pretrained(tmp_path / "trained")
        export_model(tmp_path / "trained", tmp_path / "exported", precision="fp32")
        return model, HamLearningExportedForTokenClassification.from_pretrained(tmp_path / "exported")

    return make


@torch.no_grad()
def assert_same_outputs(exported, model, batch: dict):
    """Both answer the same but for rounding."""
    found, expected = exported(**batch), model(**batch)
    assert list(found) == list(expected)
    for name in expected:
        if expected[name].is_floating_point():
            torch.testing.assert_close(found[name], expected[name], atol=1e-4, rtol=1e-4, msg=name)
        else:
            assert torch.equal(found[name], expected[name]), name


def unlabelled(batch: dict) -> dict:
    return {name: value for name, value in batch.items() if name != "labels"}


def text_of(batch: dict) -> dict:
    return {name: batch[name] for name in ("input_ids", "attention_mask", "word_ids")}


@pytest.mark.slow
def test_tweets_beyond_the_length_limit_are_read_in_the_same_windows(export, make_batch):
    model, exported = export()
    batch = unlabelled(make_batch(words=(9, 2), regions=(3, None)))
    windows = torch.tensor([[[0, 4], [2, 6], [4, 9]], [[0, 2], [0, 0], [0, 0]]])
    assert_same_outputs(exported, model, batch | {"windows": windows})


# --------------------------------------------------------------------------------------------------- the same pipeline


def test_the_same_call_loads_it(ner):
    assert type(ner).__name__ == "HamLearningPipeline" and ner.task == "token-classification"
    assert type(ner.model).__name__ == "HamLearningExportedForTokenClassification"


@pytest.mark.parametrize("settings", [{}, {"aggregation_strategy": "none"}, {"threshold": 0.1}], ids=str)
@pytest.mark.parametrize("batch_size", [1, 7])
def test_it_answers_as_what_it_was_exported_from(ner, trained, settings, batch_size):
    several = [*tweets(24), "", {"text": " ", "image": PICTURES[0]}]
    expected = trained(several, batch_size=batch_size, **settings)
    assert sum(map(len, expected)) > 10
    assert same(ner(several, batch_size=batch_size, **settings), expected)


def test_one_tweet_gives_its_entities(ner, trained):
    for tweet in (TEXT, {"text": TEXT, "image": PICTURES[0]}):
        assert ner(tweet) and same(ner(tweet), trained(tweet))


def test_a_pipeline_that_was_loaded_can_be_saved_again(ner, copied, tmp_path):
    ner.save_pretrained(tmp_path / "again")
    assert same(pipeline(model=str(tmp_path / "again"), trust_remote_code=True)(TEXT), ner(TEXT))
    loaded = pipeline(model=str(copied), trust_remote_code=True)
    loaded.save_pretrained(copied)  # over itself
    assert same(pipeline(model=str(copied), trust_remote_code=True)(TEXT), ner(TEXT))


def test_it_loads_from_the_hub_where_nothing_of_this_project_is(saved, ner, tmp_path):
    code = f"""
from huggingface_hub import HfApi
HfApi().create_repo("org/exported")
HfApi().upload_folder(repo_id="org/exported", folder_path={str(saved / "exported")!r})
ner = pipeline(model="org/exported", trust_remote_code=True)
ner.push_to_hub("org/pushed")
pushed = pipeline(model="org/pushed", revision="main", trust_remote_code=True)
ner.model.save_pretrained("saved", push_to_hub=True, repo_id="org/model")
print(json.dumps([one({TEXT!r}) for one in (ner, pushed)]))
"""
    with HubServer() as hub:
        found = json.loads(run_client(hub, stranger(code), tmp_path).splitlines()[-1])
        assert {*NETWORK_FILES, "config.json", "model.safetensors"} <= set(hub.files("org/model"))
    assert same(found, [ner(TEXT)] * 2)


# ---------------------------------------------------------------------------------------------------- the same numbers


SLOW = pytest.mark.slow  # an export takes seconds: the quick tests try one of a kind


@pytest.mark.parametrize(
    "text", ["modernbert", *(pytest.param(name, marks=SLOW) for name in ("bert", "roberta", "mpnet", "distilbert"))]
)
def test_any_text_encoder_and_any_shape_gives_the_same_numbers(export, make_batch, text):
    model, exported = export(text)
    for seed, (words, regions) in enumerate(SHAPES):
        batch = unlabelled(make_batch(words, regions, seed=seed))
        assert_same_outputs(exported, model, batch)
        assert_same_outputs(exported, model, text_of(batch))


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"use_vision": False}, marks=SLOW),
        pytest.param({"use_vision": False, "num_text_layers": 0, "num_ffnn_layers": 0, "use_crf": False}, marks=SLOW),
        pytest.param({"use_semantic_encoder": False}, marks=SLOW),
        pytest.param({"use_spatial_encoder": False}, marks=SLOW),
        pytest.param({"use_relevance": False}, marks=SLOW),
        pytest.param({"relevance_matching": "gate"}, marks=SLOW),
        pytest.param({"use_crf": False}, marks=SLOW),
        pytest.param({"forced_relevance": 0.5}, marks=SLOW),
        pytest.param({"num_interaction_layers": 1}, marks=SLOW),
        pytest.param({"share_interaction_layers": False, "num_interaction_layers": 2}, marks=SLOW),
        pytest.param({"attn_implementation": "eager"}, marks=SLOW),
    ],
    ids=str,
)
def test_every_switch_gives_the_same_numbers(export, make_batch, fields):
    model, exported = export(**fields)
    for seed, (words, regions) in enumerate(SHAPES[:4]):
        batch = unlabelled(make_batch(words, regions, seed=seed))
        assert_same_outputs(exported, model, batch)
        assert_same_outputs(exported, model, text_of(batch))


@pytest.mark.parametrize(
    "text, attn_implementation",
    [("modernbert", "sdpa")]
    + [pytest.param(text, "sdpa", marks=SLOW) for text in ("bert", "roberta", "mpnet", "distilbert")]
    + [pytest.param(text, "eager", marks=SLOW) for text in ("bert", "mpnet", "modernbert")],
)
def test_who_may_attend_to_nothing_is_answered_as_in_pytorch(
    export, make_batch, tiny_text_configs, text, attn_implementation
):
    """In every place: padding beyond all windows, a text without sub-tokens, one without words, without regions."""
    tiny_text_configs["modernbert"].local_attention = 8
    model, exported = export(text, attn_implementation)
    batch = unlabelled(make_batch(words=(40, 2, 0, 3, 5), regions=(3, 2, 4, 0, None)))
    assert batch["attention_mask"].sum(dim=1)[1] + 8 < batch["attention_mask"].shape[1]
    batch["attention_mask"][2], batch["word_ids"][2] = 0, -1
    batch["attention_mask"][3, 3:], batch["word_ids"][3, 1:] = 0, -1
    for given in (batch, text_of(batch)):
        assert exported(**given).logits.isfinite().all()
        assert_same_outputs(exported, model, given)


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
def test_the_networks_own_attention_always_has_a_key(make_model, make_batch, monkeypatch, attn_implementation):
    """So that no library, of which each has its own answer where there is none, is asked for it."""
    model = make_model()
    model.set_attn_implementation(attn_implementation)
    seen, forward = [], HamLearningAttention.forward

    def spy(self, queries, keys, key_mask):
        seen.append((self, key_mask.any(dim=1).all().item()))
        return forward(self, queries, keys, key_mask)

    monkeypatch.setattr(HamLearningAttention, "forward", spy)
    batch = unlabelled(make_batch(words=(4, 2, 0, 3, 5), regions=(3, 2, 4, 0, None)))
    batch["attention_mask"][2], batch["word_ids"][2] = 0, -1
    model(**batch)
    assert {module for module, _ in seen} == {one for one in model.modules() if isinstance(one, HamLearningAttention)}
    assert all(has_keys for _, has_keys in seen)


@pytest.fixture(scope="module")
def pair(saved):
    """The trained model and the exported one."""
    return (
        HamLearningForTokenClassification.from_pretrained(saved / "trained"),
        HamLearningExportedForTokenClassification.from_pretrained(saved / "exported"),
    )


@pytest.fixture
def inputs(trained) -> dict:
    """Two tweets with a picture, one without."""
    return dict(trained.processor(text=[TEXT, "so tired", TEXT], images=[PICTURES[0], None, PICTURES[1]]))


def test_what_stands_in_place_of_a_picture_changes_nothing(pair, inputs):
    model, exported = pair
    for name in ("image_features", "region_features", "region_boxes"):
        inputs[name][1] = torch.nan
    assert exported(**inputs).logits.isfinite().all()
    assert_same_outputs(exported, model, inputs)


@pytest.mark.parametrize(
    "name", ["attention_mask", "region_boxes", "region_class_ids", "region_mask", "image_mask", "image_sizes"]
)
def test_what_is_left_out_is_filled_in_as_ever(pair, inputs, name):
    model, exported = pair
    del inputs[name]
    assert_same_outputs(exported, model, inputs)


def test_it_explains_as_what_it_was_exported_from(pair, inputs):
    model, exported = pair
    found, expected = exported.explain(**inputs), model.explain(**inputs)
    assert list(found) == list(expected) and found.region_effects.any()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-3, rtol=1e-3, msg=name)


def test_a_picture_without_any_region_is_one(pair, inputs):
    model, exported = pair
    for name in list(inputs):
        if name.startswith("region"):
            del inputs[name]
    assert_same_outputs(exported, model, inputs)


@pytest.mark.parametrize("kind", [torch.bool, torch.int32, torch.float64, torch.bfloat16], ids=str)
def test_masks_may_be_of_any_type(pair, inputs, kind):
    model, exported = pair
    inputs |= {name: inputs[name].to(kind) for name in ("region_mask", "image_mask")}
    assert_same_outputs(exported, model, inputs)


@pytest.mark.slow
def test_bf16_is_half_the_size_and_finds_nearly_the_same(saved, trained, tmp_path):
    export_model(saved / "trained", tmp_path / "bf16")
    sizes = [(folder / NETWORK_FILES[1]).stat().st_size for folder in (tmp_path / "bf16", saved / "exported")]
    assert sizes[0] < 0.6 * sizes[1]
    half = pipeline(model=str(tmp_path / "bf16"), trust_remote_code=True)
    assert half.model.config.precision == "bf16"
    several = tweets(30)
    tags = [
        [word["entity"] for words in one(several, aggregation_strategy="none", batch_size=8) for word in words]
        for one in (trained, half)
    ]
    assert sum(one == other for one, other in zip(*tags, strict=True)) > 0.9 * len(tags[0])


def test_a_network_of_text_alone_takes_three_inputs(export):
    _, exported = export(use_vision=False)
    assert len(exported.model.network.inputs) == 3


def test_the_text_encoder_is_in_the_file_once(saved):
    size = (saved / "exported" / NETWORK_FILES[1]).stat().st_size
    assert size < 1.1 * (saved / "trained" / "model.safetensors").stat().st_size


# ---------------------------------------------------------------------------------------------------------- the folder


def test_the_folder_holds_all_code_and_the_vision_model(saved):
    trained, exported = ({path.name for path in (saved / kind).rglob("*")} for kind in ("trained", "exported"))
    networks = {f"openvino_global_backbone.{suffix}" for suffix in ("xml", "bin")}
    assert exported - trained == {"exported_hamlearning.py", *NETWORK_FILES, *networks}
    assert trained <= exported


def test_its_config_is_that_of_the_model_and_how_it_is_computed(saved):
    found, expected = (
        json.loads((saved / kind / "config.json").read_text(encoding="utf-8")) for kind in ("exported", "trained")
    )
    for config in (found, expected):
        config["text_config"].pop("dtype", None)  # which it is loaded with
    differing = {name for name in found | expected if found.get(name) != expected.get(name)}
    assert differing == {"architectures", "auto_map", "model_type", "precision"} and found["precision"] == "fp32"
    loaded = AutoConfig.from_pretrained(saved / "exported", trust_remote_code=True)
    assert loaded.model_type == "hamlearning_exported" and loaded.auto_map == found["auto_map"]


def test_the_command_makes_a_folder_that_loads(saved, ner, tmp_path, capsys):
    assert main(["export", str(saved / "trained"), str(tmp_path / "made"), "--precision", "fp32"]) == 0
    assert "pipeline(model=" in capsys.readouterr().out
    assert same(pipeline(model=str(tmp_path / "made"), trust_remote_code=True)(TEXT), ner(TEXT))


@pytest.mark.slow
def test_a_signal_finds_its_handler_when_models_are_gone(saved):
    code = f"""
import faulthandler, gc, signal
faulthandler.enable()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
from exported_hamlearning import HamLearningExportedForTokenClassification as Model
from processing_hamlearning import HamLearningProcessor
inputs = HamLearningProcessor.from_pretrained({str(saved / "exported")!r})(text=["so tired"])
models = [Model.from_pretrained({str(saved / "exported")!r}) for _ in range(2)]
for model in models:
    model(**inputs)
while models:
    model = None
    del models[0]
    gc.collect()
signal.raise_signal(signal.SIGUSR1)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "handled" in done.stdout, done.stderr


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("name", NETWORK_FILES)
def test_a_file_that_is_cut_short_is_named(copied, name):
    path = copied / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(OSError, match=f"{copied}.* do not hold a whole network .*export the model again"):
        HamLearningExportedForTokenClassification.from_pretrained(copied)


def test_a_file_with_other_bytes_in_it_is_named(copied):
    path = copied / NETWORK_FILES[0]
    path.write_bytes(path.read_bytes().replace(b'type="Parameter"', b'type="\x93arameter"'))
    with pytest.raises(OSError, match=f"{copied}.* do not hold a whole network .*export the model again"):
        HamLearningExportedForTokenClassification.from_pretrained(copied)


@pytest.mark.parametrize("name", NETWORK_FILES)
def test_a_file_that_is_missing_is_named(copied, name):
    (copied / name).unlink()
    with pytest.raises(OSError, match=name):
        HamLearningExportedForTokenClassification.from_pretrained(copied)


def test_training_it_is_refused(pair):
    with pytest.raises(ValueError, match="train the model that it was exported from"):
        pair[1].train()


@pytest.mark.parametrize("asked", ["labels", "output_hidden_states", "output_attentions", "token_type_ids"])
def test_what_was_not_exported_is_refused(pair, inputs, asked):
    with pytest.raises(ValueError, match=f"{asked}: .*ask the model that it was exported from"):
        pair[1](**inputs, **{asked: torch.zeros_like(inputs["input_ids"]) if "output" not in asked else True})


def test_sub_tokens_without_word_ids_and_marks_are_refused(pair, inputs, monkeypatch):
    monkeypatch.setattr(pair[1].config, "word_marks", None)
    with pytest.raises(ValueError, match="word_ids or input_ids are missing"):
        pair[1](inputs["input_ids"])


def test_regions_without_their_picture_are_refused(pair, inputs):
    del inputs["image_features"]
    with pytest.raises(ValueError, match="region_features without image_features"):
        pair[1](**inputs)


def test_features_of_another_size_are_refused(pair, inputs):
    inputs["region_features"] = inputs["region_features"][..., :5]
    with pytest.raises(ValueError, match="region_features has the shape"):
        pair[1](**inputs)


@pytest.mark.parametrize(
    "source, target, message",
    [
        ("trained", "trained", "is there already: give a new folder"),
        ("exported", "new", "holds a model of the type 'hamlearning_exported'"),
        ("trained/vision", "new", "holds a model of the type 'hamlearning_vision'"),
        ("nowhere", "new", "nowhere"),
    ],
)
def test_the_command_says_what_it_cannot_export(saved, tmp_path, capsys, source, target, message):
    target = saved / target if target == "trained" else tmp_path / target
    assert main(["export", str(saved / source), str(target)]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision='int4': must be one of bf16, fp32"):
        HamLearningExportedConfig(precision="int4")


def test_without_openvino_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    spec = importlib.util.spec_from_file_location("again", ROOT / "exported_hamlearning.py")
    with pytest.raises(ImportError, match=r'pip install "hamlearning\[export\]"'):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
