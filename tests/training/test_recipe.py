"""A recipe of token classification, as transformers' `run_ner.py` writes it, on this project's model."""

import json
import subprocess
import sys

import numpy as np
import pytest
from datasets import load_dataset
from seqeval.metrics import f1_score
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)

from conftest import ROOT
from hamlearning.training.run import main as run_mner
from modeling_hamlearning import HamLearningForTokenClassification
from processing_hamlearning import HamLearningProcessor


SETTINGS = {
    "num_train_epochs": 20,
    "per_device_train_batch_size": 16,
    "learning_rate": 5e-4,
    "weight_decay": 0.01,
    "warmup_steps": 0.1,
    "seed": 42,
    "use_cpu": True,
    "disable_tqdm": True,
}


def without_types(tags: list[list[str]]) -> list[list[str]]:
    """Where entities are, whatever they are: the sample's types are in the pictures, so text alone guesses them."""
    return [[tag if tag == "O" else f"{tag[0]}-NAME" for tag in row] for row in tags]


def recipe(folder, data, output_dir) -> tuple[list[list[str]], list[list[str]]]:
    """Gold and predicted tags of the test split, these by the logits alone of a model that `Trainer` has trained."""
    set_seed(42)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForTokenClassification.from_pretrained(folder, config=config, trust_remote_code=True)
    names = data["train"].features["ner_tags"].feature.names
    assert names == [config.id2label[index] for index in range(model.num_labels)]

    def tokenize_and_align_labels(examples):
        inputs = tokenizer(examples["tokens"], truncation=True, max_length=128, is_split_into_words=True)
        inputs["labels"] = []
        for row, tags in enumerate(examples["ner_tags"]):
            previous, labels = None, []
            for word in inputs.word_ids(batch_index=row):
                labels.append(-100 if word is None or word == previous else tags[word])
                previous = word
            inputs["labels"].append(labels)
        return inputs

    data = data.map(tokenize_and_align_labels, batched=True)
    trainer = Trainer(
        model,
        TrainingArguments(str(output_dir), save_strategy="no", **SETTINGS),
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        processing_class=tokenizer,
        data_collator=DataCollatorForTokenClassification(tokenizer),
    )
    trainer.train()
    logits, labels, _ = trainer.predict(data["test"])
    predictions = np.argmax(logits, axis=2)
    kept = [(row, gold, gold != -100) for row, gold in zip(predictions, labels, strict=True)]
    found = [[names[tag] for tag in row[mask]] for row, _, mask in kept]
    return [[names[tag] for tag in gold[mask]] for _, gold, mask in kept], found


@pytest.mark.slow
def test_a_recipe_of_token_classification_learns_what_a_run_learns(tmp_path):
    """The sample set, text alone."""
    script = ROOT / "datasets" / "sample" / "make_sample.py"
    subprocess.run([sys.executable, script, "--output", tmp_path / "data"], check=True)
    text_encoder = tmp_path / "data" / "text_encoder"
    data = load_dataset(str(tmp_path / "data"), cache_dir=str(tmp_path / "cache")).remove_columns("image")

    flags = {"data_dir": tmp_path / "data", "text_model": text_encoder, "output_dir": tmp_path / "run"}
    flags |= {"use_vision": False, "do_train": True, "do_predict": True} | SETTINGS
    flags |= {"text_learning_rate": SETTINGS["learning_rate"], "crf_learning_rate": SETTINGS["learning_rate"]}
    run_mner([part for name, value in flags.items() for part in (f"--{name}", str(value))])

    names = data["train"].features["ner_tags"].feature.names
    set_seed(42)
    model = HamLearningForTokenClassification.from_text_pretrained(
        str(text_encoder), use_vision=False, id2label=dict(enumerate(names))
    )
    processor = HamLearningProcessor(AutoTokenizer.from_pretrained(text_encoder), tags=names)
    model.config.word_marks = processor.word_marks()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    lines = (tmp_path / "run" / "predictions_test.jsonl").read_text(encoding="utf-8").splitlines()
    of_run = [json.loads(line)["predictions"] for line in lines]
    gold, of_recipe = recipe(tmp_path / "model", data, tmp_path / "recipe")
    scores = [f1_score(without_types(gold), without_types(found)) for found in (of_run, of_recipe)]
    print(f"F1 of names: {scores[0]:.4f} of a run, {scores[1]:.4f} of the recipe")
    print(f"with types: {f1_score(gold, of_run):.4f} and {f1_score(gold, of_recipe):.4f}")
    assert abs(scores[0] - scores[1]) < 0.02 and min(scores) > 0.9
