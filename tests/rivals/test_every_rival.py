"""What holds for each system of Table 1, whatever its equations."""

import inspect
import subprocess
import sys

import pytest
import torch
from transformers import AutoTokenizer, pipeline

from conftest import PAD, TINY_RIVALS
from hamlearning.rivals.architectures import RIVALS, architecture_of, class_of, processor_class_of, reads_words
from hamlearning.training.run import main as run_mner
from tiny_world import flags
from words_hamlearning import entity_spans


# Parameters beside the text encoder, with BERT-base, 9 tags, 2048 wide features. Attention here has no bias of its
# keys, 768 parameters a layer, which the softmax would take out again.
NEW_PARAMETERS = {
    "adacan": 7_889_776,
    "bilstm_crf": 646_908,
    "cnn_bilstm_crf": 697_638 + 30 * 2,  # two characters: padding, and the unknown one
    "gvatt": 6_302_317,
    "hbilstm_crf": 737_308 + 25 * 2,
    "hvpnet": 8_296_124,
    "ita": 7_020,
    "maf": 13_595_246 - 768,
    "mrc_mner": 16_937_480 - 2 * 768,
    "mgcmt": 92_998_014 - 12 * 768 + (1601 - 85) * 768,  # a class more than the detector has, there 84
    "umgf": 20_662_124,
    "umt": 39_783_294 - 5 * 768,
}
# Those whose answer depends on the picture.
READS_PICTURES = {"adacan", "gvatt", "hvpnet", "maf", "mgcmt", "mrc_mner", "umgf", "umt"}
# Those whose probabilities are of spans.
HAS_NO_CRF = {"mrc_mner"}
# Those that read the best regions, each in a place of its own.
READS_REGIONS_IN_ORDER = {"hvpnet"}


def predictions(model, batch):
    """Emissions (B, W, T), 0 on padding."""
    batch = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        outputs = model(**batch)
    return torch.where((outputs.predictions != -100)[..., None], outputs.logits, 0)


def rows(batch, places):
    return {name: value[places] for name, value in batch.items()}


@pytest.mark.parametrize("architecture", RIVALS)
def test_the_number_of_new_parameters_is_the_systems(count_new_parameters, architecture):
    assert count_new_parameters(architecture) == NEW_PARAMETERS[architecture]


@pytest.mark.parametrize("architecture", RIVALS)
def test_every_parameter_has_a_gradient(make_rival, make_batch, architecture):
    model = make_rival(architecture).train()
    model(**make_batch()).loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("architecture", RIVALS)
def test_every_parameter_has_a_gradient_in_a_batch_without_pictures(make_rival, make_batch, architecture):
    model = make_rival(architecture).train()
    batch = {n: v for n, v in make_batch().items() if not n.startswith(("image", "region"))}
    model(**batch).loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("architecture", RIVALS)
def test_padding_changes_nothing(make_rival, make_batch, architecture):
    model, batch = make_rival(architecture), make_batch()
    wider = {
        name: torch.nn.functional.pad(value, (0, 3), value={"input_ids": PAD, "word_ids": -1}.get(name, 0))
        for name, value in batch.items()
        if name in ("input_ids", "attention_mask", "word_ids", "region_mask", "region_class_ids")
    }
    wider |= {n: torch.nn.functional.pad(batch[n], (0, 0, 0, 3)) for n in ("region_features", "region_boxes")}
    torch.testing.assert_close(predictions(model, batch | wider), predictions(model, batch), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", RIVALS)
def test_a_tweets_answer_does_not_depend_on_its_batch(make_rival, make_batch, architecture):
    model, batch = make_rival(architecture), make_batch()
    order = [2, 0, 3, 1]
    together = predictions(model, batch)
    torch.testing.assert_close(predictions(model, rows(batch, order)), together[order], atol=1e-5, rtol=1e-4)
    for place in range(len(together)):
        alone = predictions(model, rows(batch, [place]))
        torch.testing.assert_close(alone[0], together[place, : alone.shape[1]], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", sorted(set(RIVALS) - READS_REGIONS_IN_ORDER))
def test_the_order_of_regions_does_not_matter(make_rival, make_batch, architecture):
    model, batch = make_rival(architecture), make_batch(regions=(3, 3, 3, 3))
    names = ("region_features", "region_boxes", "region_class_ids", "region_mask")
    turned = batch | {name: batch[name][:, [2, 0, 1]] for name in names}
    torch.testing.assert_close(predictions(model, turned), predictions(model, batch), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", RIVALS)
def test_without_a_picture_what_stands_in_its_place_is_not_read(make_rival, make_batch, architecture):
    model, batch = make_rival(architecture), make_batch(regions=(None, None, None, None))
    poisoned = batch | {name: torch.full_like(batch[name], torch.nan) for name in ("image_features",)}
    torch.testing.assert_close(predictions(model, poisoned), predictions(model, batch), atol=1e-6, rtol=1e-5)
    without = {n: v for n, v in batch.items() if not n.startswith(("image", "region"))}
    torch.testing.assert_close(predictions(model, without), predictions(model, batch), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", sorted(READS_PICTURES))
def test_the_picture_is_read(make_rival, make_batch, architecture):
    model, batch = make_rival(architecture, initializer_range=0.3), make_batch(regions=(3, 3, 3, 3))
    other = batch | {name: batch[name].roll(1, 0) for name in ("image_features", "region_features")}
    assert (predictions(model, other) - predictions(model, batch)).abs().max() > 1e-4


@pytest.mark.parametrize("architecture", RIVALS)
def test_eight_tweets_are_learned_by_heart(make_rival, make_batch, architecture):
    model = make_rival(architecture).train()
    batch = make_batch(words=(5, 2, 4, 1, 3, 6, 2, 4), regions=(3, None, 0, 2, 1, 3, None, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(80):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    found = model.eval()(**batch).predictions.tolist()
    for tags, gold in zip(found, batch["labels"].tolist(), strict=True):
        spans = [entity_spans([model.config.tags[tag] for tag in row if tag != -100]) for row in (tags, gold)]
        assert spans[0] == spans[1]


@pytest.mark.parametrize("architecture", RIVALS)
def test_windows_give_the_words_of_a_text_that_is_read_whole(make_rival, make_batch, architecture):
    model, batch = make_rival(architecture), make_batch(words=(6, 3, 2, 1))
    windows = torch.tensor([[[0, 6]], [[0, 3]], [[0, 2]], [[0, 1]]])
    read = predictions(model, batch | {"windows": windows})
    torch.testing.assert_close(read, predictions(model, batch), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", RIVALS)
def test_a_run_trains_saves_and_answers_from_its_folder(world, tmp_path, architecture):
    settings: dict = {"architecture": architecture, "num_train_epochs": 1, "num_semantic_layers": None}
    settings |= TINY_RIVALS.get(architecture, {})
    settings |= {"text_model": None} if reads_words(architecture) else {}
    results = run_mner(flags(world, tmp_path / "model", **settings))
    assert results["architecture"] == architecture_of(str(tmp_path / "model")) == architecture
    again = run_mner(
        flags(
            world, tmp_path / "again", model_name_or_path=tmp_path / "model", text_model=None, do_train=None,
            num_semantic_layers=None,
        )
    )  # fmt: skip
    assert again["test"]["f1"] == results["test"]["f1"]
    ner = pipeline(model=str(tmp_path / "model"), trust_remote_code=True)
    assert isinstance(ner("i met ann in rome today"), list)


@pytest.mark.parametrize("architecture", RIVALS)
def test_a_saved_processor_keeps_what_it_was_made_with(world, tmp_path, architecture):
    processor_class = processor_class_of(architecture)
    made_with = {
        "tags": ["O", "B-BIRD", "I-BIRD"], "word_splitting": "tweet", "max_length": 50, "stride": 3, "max_regions": 2,
        "image_feature_size": 6, "region_feature_size": 5, "num_classes": 2, "vision_source": {"subfolder": "vision"},
    }  # fmt: skip
    own = set(inspect.signature(processor_class).parameters) & {"known_words", "characters"}
    made_with |= dict.fromkeys(own, ["a", "b"])
    tokenizer = AutoTokenizer.from_pretrained(world / "text_encoder")
    processor_class(tokenizer, **made_with).save_pretrained(tmp_path)
    loaded = processor_class.from_pretrained(tmp_path)
    home = loaded.vision_source.pop("pretrained_model_name_or_path")
    assert {name: getattr(loaded, name) for name in made_with} == made_with and home == str(tmp_path)


def test_a_saved_folder_answers_where_the_package_is_installed(world, tmp_path):
    """In a process of its own, which has imported nothing of it: by the code file that the folder carries."""
    run_mner(flags(world, tmp_path / "model", architecture="umt", num_train_epochs=8, num_semantic_layers=None))
    code = (
        "import sys; from transformers import pipeline\n"
        "ner = pipeline(model=sys.argv[1], trust_remote_code=True)\n"
        "print(type(ner.model).__name__, [entity['word'] for entity in ner('flying to rome with ann !')])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "model"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert answer.stdout.split("\n")[0] == "UMTForTokenClassification ['rome', 'ann']"


def test_a_switch_of_another_architecture_is_refused(world, tmp_path):
    with pytest.raises(ValueError, match="--num_semantic_layers 1: the architecture umt has no such switch; it has"):
        run_mner(flags(world, tmp_path / "model", architecture="umt", num_semantic_layers=1))


def test_a_config_with_a_switch_of_hamlearning_is_refused():
    with pytest.raises(ValueError, match="num_text_layers=2: UMTConfig has no such switch"):
        class_of("umt").config_class(num_text_layers=2)


@pytest.mark.parametrize("architecture", sorted(READS_PICTURES - HAS_NO_CRF))
def test_what_decided_an_entity_is_what_its_answer_without_it_says(make_rival, make_batch, architecture):
    model, batch = make_rival(architecture), {n: v for n, v in make_batch().items() if n != "labels"}
    explanation = model.explain(**batch)
    texts = {n: v for n, v in batch.items() if not n.startswith(("image", "region"))}
    with torch.no_grad():
        logits = [model(**inputs).logits for inputs in (batch, texts)]
    path, mask = explanation.predictions.clamp(min=0), explanation.predictions != -100
    before, after = (model.crf.span_log_probabilities(x, path, mask, *model._tag_tables()) for x in logits)
    begins = before > -torch.inf
    assert begins.any()
    torch.testing.assert_close(
        explanation.picture_effects[begins], (before - after)[begins], atol=1e-4, rtol=0, check_dtype=False
    )
