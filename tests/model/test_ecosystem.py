"""What programs around transformers and torch do with a model and a processor: quantize, offload, export, pickle."""

import copy
import pickle
import re
import subprocess
import sys
import warnings

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from accelerate.utils import send_to_device
from datasets import Dataset
from datasets.fingerprint import Hasher
from datasets.utils._dill import dumps
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForTokenClassification,
    AutoProcessor,
    BertTokenizer,
    Trainer,
    TrainingArguments,
    pipeline,
)

from pipeline_hamlearning import HamLearningPipeline
from processing_hamlearning import HamLearningDataCollator, HamLearningInputs, HamLearningProcessor


VOCABULARY = "[PAD] [UNK] [CLS] [SEP] [MASK] ann in rome met".split()


@pytest.fixture
def processor():
    return HamLearningProcessor(BertTokenizer(vocab={piece: i for i, piece in enumerate(VOCABULARY)}))


@pytest.fixture
def inputs(make_batch):
    """A batch with pictures, without labels."""
    return {name: tensor for name, tensor in make_batch().items() if name != "labels"}


def test_a_model_whose_linear_layers_are_quantized_reads_pictures(make_model, inputs):
    """Their weight is packed then, a method in the place of a tensor."""
    model = make_model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it moves to torchao
        quantized = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    torch.testing.assert_close(quantized(**inputs).logits, model(**inputs).logits, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("fields", [{}, {"use_crf": False}], ids=["crf", "no_crf"])
@pytest.mark.parametrize("to_disk", [False, True], ids=["cpu", "disk"])
def test_offloaded_weights_decode_as_those_in_memory(make_model, inputs, tmp_path, to_disk, fields):
    model = make_model(**fields)
    expected = model(**inputs)
    marginals = model.crf.marginals(expected.logits, expected.predictions != -100)
    if to_disk:
        disk_offload(model, tmp_path, execution_device=torch.device("cpu"), offload_buffers=True)
    else:
        cpu_offload(model, execution_device=torch.device("cpu"), offload_buffers=True)
    assert model.crf.transitions.is_meta == model.config.use_crf  # what is no weight stays
    found = model(**inputs)
    for name in ("logits", "predictions", "scores", "relevance"):
        torch.testing.assert_close(found[name], expected[name])
    torch.testing.assert_close(model.crf.marginals(found.logits, found.predictions != -100), marginals)


def test_torch_export_gives_a_program_for_any_number_of_tweets(make_model, make_batch):
    """Its loops over words are unrolled: few are quick."""
    model = make_model(num_semantic_layers=1, num_spatial_layers=1, num_interaction_layers=1)
    inputs = make_batch(words=(2, 1, 2, 1), regions=(2, None, 1, 1))
    del inputs["labels"]
    batch = torch.export.Dim("batch", min=2, max=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own
        program = torch.export.export(model, (), inputs, dynamic_shapes=dict.fromkeys(inputs, {0: batch}))
    few = {name: tensor[:3] for name, tensor in inputs.items()}
    expected, found = model(**few), program.module()(**few)
    # There is no number of words in the graph: there are as many columns as sub-tokens.
    assert found["predictions"].shape == few["input_ids"].shape and (found["predictions"][:, 2:] == -100).all()
    torch.testing.assert_close(found["predictions"][:, :2], expected.predictions)
    torch.testing.assert_close(found["scores"][:, :2], expected.scores)


@pytest.mark.parametrize("text", ["bert", "roberta", "mpnet", "distilbert", "modernbert"])
def test_embeddings_of_sub_tokens_stand_for_their_ids(make_model, inputs, text):
    model = make_model(text)
    embeddings = model.get_input_embeddings()(inputs["input_ids"])
    others = {name: tensor for name, tensor in inputs.items() if name != "input_ids"}
    found, expected = model(inputs_embeds=embeddings, **others), model(**inputs)
    is_word = expected.predictions != -100
    torch.testing.assert_close(found.logits[is_word], expected.logits[is_word])


def test_embeddings_beside_ids_and_neither_of_them_are_refused(make_model, inputs):
    model = make_model()
    with pytest.raises(ValueError, match="input_ids and inputs_embeds: both are given: give one of them"):
        model(**inputs, inputs_embeds=model.get_input_embeddings()(inputs["input_ids"]))
    with pytest.raises(ValueError, match="input_ids and inputs_embeds: neither is given"):
        model(word_ids=inputs["word_ids"])


def test_word_ids_of_another_width_than_the_text_are_refused(make_model, inputs):
    """As where prompt tuning puts embeddings before those of the text."""
    model = make_model()
    embeddings = torch.nn.functional.pad(model.get_input_embeddings()(inputs["input_ids"]), (0, 0, 3, 0))
    mask = torch.nn.functional.pad(inputs["attention_mask"], (3, 0), value=1)
    with pytest.raises(ValueError, match=r"word_ids has the shape \(4, 10\), expected \(4, 13\)"):
        model(inputs_embeds=embeddings, attention_mask=mask, word_ids=inputs["word_ids"])


def test_a_model_says_how_many_labels_it_has(make_model):
    assert make_model().num_labels == 9
    assert make_model(id2label={0: "O", 1: "B-X", 2: "I-X"}).num_labels == 3


@pytest.mark.parametrize("moved", [copy.copy, copy.deepcopy, lambda inputs: pickle.loads(pickle.dumps(inputs))])
def test_a_batch_keeps_its_words_in_copies_and_in_other_processes(processor, moved):
    inputs = processor(text="ann met rome")
    found = moved(inputs)
    assert type(found) is HamLearningInputs
    assert (found.words, found.offsets, found.texts) == (inputs.words, inputs.offsets, inputs.texts)
    torch.testing.assert_close(found["word_ids"], inputs.word_ids)


def test_a_batch_that_a_worker_makes_has_its_words(processor):
    loader = DataLoader(["ann met", "rome"], batch_size=2, num_workers=1, collate_fn=processor)
    [inputs] = loader
    assert send_to_device(inputs, "cpu").words == [["ann", "met"], ["rome"]]


def test_a_batch_made_of_the_tensors_alone_says_what_it_lacks(processor, make_model):
    inputs = processor(text="ann met rome")
    anew = type(inputs)(dict(inputs))
    with pytest.raises(AttributeError, match="have lost their words: .* Keep what the processor returned"):
        _ = anew.words
    with pytest.raises(AttributeError, match="has no 'colour', neither a tensor nor an attribute"):
        _ = inputs.colour
    outputs = make_model(use_vision=False)(**inputs)
    for bare in (anew, dict(inputs)):
        with pytest.raises(ValueError, match="holds no texts: give what the processor returned"):
            processor.post_process_entities(outputs, bare)


def test_rows_without_their_tokens_name_the_setting_that_took_them(processor, make_model, tmp_path):
    rows = [{"id": "1", "tokens": ["ann"], "ner_tags": [1]}] * 2
    collator = HamLearningDataCollator(processor)
    settings = {"use_cpu": True, "max_steps": 1, "save_strategy": "no", "disable_tqdm": True}
    model = make_model(use_vision=False)
    trainer = Trainer(model, TrainingArguments(str(tmp_path), **settings), collator, rows)
    with pytest.raises(ValueError, match=r"no 'ner_tags'|no 'tokens', only nothing: .*remove_unused_columns=False"):
        trainer.train()
    settings["remove_unused_columns"] = False
    trainer = Trainer(model, TrainingArguments(str(tmp_path), **settings), collator, Dataset.from_list(rows))
    assert trainer.train().training_loss > 0


def test_a_processor_of_a_repos_code_is_found_by_its_name(processor, tmp_path):
    """What `datasets.map` finds its cache by: with the code of the class in it, it would be another one each time."""
    processor.save_pretrained(tmp_path)
    of_repo = AutoProcessor.from_pretrained(tmp_path, trust_remote_code=True)
    assert type(of_repo).__module__.startswith("transformers_modules.")
    assert Hasher.hash(of_repo) == Hasher.hash(AutoProcessor.from_pretrained(tmp_path, trust_remote_code=True))
    assert len(dumps(type(of_repo))) < 500


def test_a_pipeline_of_a_model_without_its_processor_says_how_to_save_one(processor, make_model, tmp_path):
    """What every recipe saves: model and tokenizer."""
    model = make_model(use_vision=False)
    model.save_pretrained(tmp_path)
    processor.tokenizer.save_pretrained(tmp_path)
    remedy = re.escape(f"`processor.save_pretrained('{tmp_path}')`")
    with pytest.raises(OSError, match=f"has no processor_config.json: the processor is missing, .* {remedy}"):
        pipeline(model=str(tmp_path), trust_remote_code=True)
    processor.save_pretrained(tmp_path)
    of_folder = pipeline(model=str(tmp_path), trust_remote_code=True)
    assert of_folder("ann met rome") == HamLearningPipeline(model=model, processor=processor)("ann met rome")


def test_a_model_of_a_repos_code_is_saved_with_the_code_of_the_pipeline_too(processor, make_model, tmp_path):
    make_model(use_vision=False).save_pretrained(tmp_path / "first")
    of_repo = AutoModelForTokenClassification.from_pretrained(tmp_path / "first", trust_remote_code=True)
    assert type(of_repo).__module__.startswith("transformers_modules.")
    of_repo.save_pretrained(tmp_path / "second")
    processor.tokenizer.save_pretrained(tmp_path / "second")
    with pytest.raises(OSError, match="has no processor_config.json: the processor is missing"):
        pipeline(model=str(tmp_path / "second"), trust_remote_code=True)


MAPS = """
import sys
from datasets import Dataset, disable_progress_bars
from transformers import AutoProcessor

disable_progress_bars()
folder = sys.argv[1]
processor = AutoProcessor.from_pretrained(f"{folder}/processor", trust_remote_code=True)
tweets = Dataset.from_parquet(f"{folder}/tweets.parquet", cache_dir=f"{folder}/cache")
mapped = tweets.map(processor, batched=True, input_columns=["tokens"])
print(type(processor).__module__, mapped.cache_files[0]["filename"], sep="\\n")
"""


@pytest.mark.slow
def test_datasets_finds_what_a_processor_of_a_repo_has_mapped_before(processor, tmp_path):
    """By a fingerprint, which is random where it does not find the code of a processor by its name."""
    processor.save_pretrained(tmp_path / "processor")
    Dataset.from_dict({"tokens": [["ann", "met"], ["rome"]]}).to_parquet(tmp_path / "tweets.parquet")
    command = [sys.executable, "-c", MAPS, tmp_path]
    found = [subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path) for _ in range(2)]
    modules, files = zip(*(run.stdout.split() for run in found), strict=True)
    assert modules[0].startswith("transformers_modules.") and len(set(files)) == 1
    assert not any("couldn't be hashed" in run.stderr for run in found)
