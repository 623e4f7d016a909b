"""`run_mner.py` from the command line's point of view, on a tiny data set and a tiny text encoder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import pipeline

from hamlearning.data.features import VisualFeatures
from hamlearning.data.tweets import load_tweets, split_sha256, tag_names
from hamlearning.training.arguments import MNERTrainingArguments, parse_arguments
from hamlearning.training.run import main as run_mner
from hamlearning.training.trainer import MNERTrainer
from hamlearning.training.vision import picture_source
from hub_server import HubServer, run_client
from modeling_hamlearning import HamLearningForTokenClassification
from processing_hamlearning import HamLearningDataCollator, HamLearningProcessor
from tiny_world import dropout_free, flags, results_of, write_features, write_tweets


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(world) -> Path:
    output_dir = world / "trained"
    run_mner(flags(world, output_dir, num_train_epochs=30))
    return output_dir


def test_a_run_learns_a_task_that_can_be_learned(trained):
    assert results_of(trained)["test"]["f1"] > 0.8


def test_results_hold_every_score_and_what_it_takes_to_trust_them(trained, world):
    results = results_of(trained)
    for split in ("validation", "test"):
        scores = results[split]
        assert {"f1", "precision", "recall", "strict_f1", "gold_entities", "strict_gold_entities"} <= scores.keys()
        assert scores["types"].keys() == {"PER", "LOC"}
        assert scores["tweets_per_second"] > 0
    assert results["seed"] == 42
    assert results["versions"]["torch"] == torch.__version__.split("+")[0]
    assert results["data"]["test"]["sha256"] == split_sha256(load_tweets(world / "tweets")["test"])
    assert results["train"]["tweets_per_second"] > 0


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator, so the CPU is not chosen")
def test_without_an_accelerator_bf16_is_taken_to_the_cpu_unasked(tmp_path):
    args = MNERTrainingArguments(str(tmp_path), bf16=True)
    assert args.bf16 and args.device.type == "cpu"


def test_a_command_that_asks_for_nothing_says_what_there_is(tmp_path):
    with pytest.raises(ValueError, match="Nothing to do: give --do_train, --do_eval, --do_predict or --do_extract"):
        run_mner(["--output_dir", str(tmp_path / "out"), "--use_cpu", "True"])


def test_the_checkpoint_with_the_best_dev_f1_is_kept(trained):
    results = results_of(trained)
    best = max(entry["eval_f1"] for entry in results["train"]["history"] if "eval_f1" in entry)
    assert results["validation"]["f1"] == pytest.approx(best)


def test_predictions_are_tokens_with_gold_and_predicted_tags_in_the_order_of_the_data(trained, world):
    tweets = load_tweets(world / "tweets")["test"]
    lines = [json.loads(line) for line in (trained / "predictions_test.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == tweets["id"][:]
    assert [line["tokens"] for line in lines] == tweets["tokens"][:]
    assert [line["ner_tags"] for line in lines] == tag_names(tweets)
    assert all(len(line["predictions"]) == len(line["tokens"]) for line in lines)
    without_picture = {"test9", "test10", "test11"}
    assert {line["id"] for line in lines if line["relevance"] is None} == without_picture
    assert {len(line["relevance"]) for line in lines if line["id"] not in without_picture} == {2}


def test_a_run_leaves_a_table_a_plot_and_a_model_for_the_auto_classes(trained):
    assert "| PER |" in (trained / "scores_test.md").read_text()
    assert (trained / "training.png").read_bytes().startswith(b"\x89PNG")
    code = f"""
import torch
from transformers import pipeline
from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification, AutoProcessor
path = {str(trained)!r}
processor = AutoProcessor.from_pretrained(path, trust_remote_code=True)
model = AutoModelForTokenClassification.from_pretrained(path, trust_remote_code=True)
inputs = processor(text=["i met ann today", "flying to rome with bob"])
entities = processor.post_process_entities(model(**inputs), inputs)
assert [[(e["entity_group"], e["word"]) for e in tweet] for tweet in entities] == [
    [("PER", "ann")], [("LOC", "rome"), ("PER", "bob")]], entities
trunk = AutoModel.from_pretrained(path, trust_remote_code=True)
assert torch.equal(trunk.text_model.embeddings.word_embeddings.weight,
                   model.model.text_model.embeddings.word_embeddings.weight)
print("loaded", AutoConfig.from_pretrained(path, trust_remote_code=True).model_type)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=trained.parent)
    assert done.stdout.strip().endswith("loaded hamlearning"), done.stderr


def test_evaluating_a_trained_model_gives_its_scores_again(trained, world, tmp_path):
    run_mner(
        flags(world, tmp_path / "again", do_train=None, text_model=None, num_semantic_layers=None)
        + ["--model_name_or_path", str(trained)]
    )
    again, first = results_of(tmp_path / "again"), results_of(trained)
    for split in ("validation", "test"):
        assert {k: v for k, v in again[split].items() if k != "tweets_per_second"} == {
            k: v for k, v in first[split].items() if k != "tweets_per_second"
        }


def test_a_trained_model_predicts_tweets_without_tags(trained, world, tmp_path):
    write_tweets(tmp_path / "tweets", "test", 5, seed=0, with_tags=False)
    run_mner(
        ["--model_name_or_path", str(trained), "--data_dir", str(tmp_path / "tweets"), "--do_predict", "True"]
        + ["--output_dir", str(tmp_path / "out"), "--use_cpu", "True"]
    )
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions_test.jsonl").read_text().splitlines()]
    assert len(lines) == 5
    assert all("predictions" in line and "ner_tags" not in line for line in lines)
    assert "f1" not in results_of(tmp_path / "out")["test"]


def test_probabilities_of_each_tag_at_each_word_are_written_where_asked(trained, world, tmp_path):
    run_mner(
        ["--model_name_or_path", str(trained), "--data_dir", str(world / "tweets"), "--do_predict", "True"]
        + [
            "--output_dir",
            str(tmp_path / "out"),
            "--use_cpu",
            "True",
            "--bf16",
            "False",
            "--predict_probabilities",
            "True",
        ]
    )
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions_test.jsonl").read_text().splitlines()]
    ner = pipeline(model=str(trained), trust_remote_code=True)
    for line in lines:
        words = ner(line["tokens"], is_split_into_words=True, aggregation_strategy="none")
        expected = {tag: [word["probabilities"][tag] for word in words] for tag in line["probabilities"]}
        assert list(expected) == ner.model.config.tags
        for tag, values in line["probabilities"].items():
            assert values == pytest.approx(expected[tag], abs=1e-3)
    without = [json.loads(line) for line in (trained / "predictions_test.jsonl").read_text().splitlines()]
    assert all("probabilities" not in line for line in without)


def test_flags_override_the_file(world, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("seed: 7\nlearning_rate: 2.0e-3\nuse_vision: false\nlabel_smoothing_factor: 0\n")
    model_args, _, _, args = parse_arguments([str(file), "--seed", "8", "--output_dir", str(tmp_path / "o")])
    assert (args.seed, args.learning_rate, model_args.use_vision) == (8, 2e-3, False)


def test_a_json_file_is_read_like_a_yaml_file(tmp_path):
    file = tmp_path / "run.json"
    file.write_text('{"seed": 7, "use_relevance": false}')
    model_args, _, _, args = parse_arguments([str(file)])
    assert (args.seed, model_args.use_relevance) == (7, False)


def test_an_unknown_name_in_the_file_is_an_error(tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text("use_visoin: false\n")
    with pytest.raises((SystemExit, ValueError)) as error:
        parse_arguments([str(file)])
    assert "use_visoin" in str(error.value) + capsys.readouterr().err


def test_a_resumed_run_ends_like_an_undisturbed_one(world, tmp_path):
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    run_mner(flags(world, whole, num_train_epochs=2, save_total_limit=3))
    first_checkpoint = min(whole.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    run_mner(flags(world, halved, num_train_epochs=2, resume_from_checkpoint=first_checkpoint))
    assert results_of(halved)["test"]["f1"] == results_of(whole)["test"]["f1"]
    assert (halved / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_the_same_seed_gives_the_same_weights(world, tmp_path):
    for name in ("one", "two"):
        run_mner(flags(world, tmp_path / name, num_train_epochs=1))
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()


def test_learning_rates_are_those_of_the_parts(world, trained):
    args = parse_arguments(
        flags(
            world,
            world / "o",
            do_train=None,
            learning_rate=3e-4,
            text_learning_rate=1e-4,
            crf_learning_rate=5e-3,
            weight_decay=0.1,
        )
    )[-1]
    model = HamLearningForTokenClassification.from_pretrained(trained)
    optimizer = MNERTrainer(model=model, args=args, data_collator=list).create_optimizer()
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {rate[id(p)] for n, p in model.named_parameters() if "text_model" in n} == {1e-4}
    assert {rate[id(p)] for p in model.crf.parameters()} == {5e-3}
    assert {rate[id(p)] for n, p in model.named_parameters() if "text_model" not in n and "crf" not in n} == {3e-4}
    assert decay[id(model.classifier.weight)] == 0.1
    assert decay[id(model.classifier.bias)] == 0


def test_shuffled_pictures_are_those_of_other_tweets_of_the_split(world):
    tweets = load_tweets(world / "tweets")
    features = VisualFeatures(world / "features.parquet")
    straight = picture_source(tweets, features, shuffle=False, seed=1)
    shuffled = picture_source(tweets, features, shuffle=True, seed=1)
    assert straight.keys() == shuffled.keys()
    by_content = {row["image_features"].tobytes(): id_ for id_, row in straight.items()}
    donors = {id_: by_content[row["image_features"].tobytes()] for id_, row in shuffled.items()}
    assert all(id_ != donor and id_[:3] == donor[:3] for id_, donor in donors.items())
    assert sorted(donors.values()) == sorted(donors)


def test_a_folder_that_holds_another_run_is_refused(trained, world):
    before = (trained / "results.json").read_bytes()
    with pytest.raises(FileExistsError, match="holds another run .*results.json"):
        run_mner(flags(world, trained))
    assert (trained / "results.json").read_bytes() == before


def test_a_data_set_without_a_test_split_is_refused_before_training(world, tmp_path):
    for split in ("train", "valid"):
        write_tweets(tmp_path / "tweets", split, 8, seed=1)
    with pytest.raises(ValueError, match="no test split, which --do_predict needs; it has train, validation"):
        run_mner(flags(world, tmp_path / "out", data_dir=tmp_path / "tweets"))
    assert not (tmp_path / "out").exists()


def test_features_of_other_sizes_than_the_model_s_are_refused(trained, world, tmp_path):
    write_features(tmp_path / "other.parquet", ["test0"], region_feature_size=7)
    with pytest.raises(ValueError, match=r"other.parquet has region_feature_size 7, the model takes 5"):
        run_mner(
            ["--model_name_or_path", str(trained), "--data_dir", str(world / "tweets"), "--do_predict", "True"]
            + ["--output_dir", str(tmp_path / "out"), "--visual_features", str(tmp_path / "other.parquet")]
        )


def test_features_of_other_tweets_are_refused(world, tmp_path):
    write_features(tmp_path / "other.parquet", ["somebody"])
    with pytest.raises(ValueError, match="no picture of any tweet: its ids are like 'somebody'"):
        run_mner(flags(world, tmp_path / "out", visual_features=tmp_path / "other.parquet"))


def test_vision_without_pictures_is_refused(world, tmp_path):
    with pytest.raises(ValueError, match="the data set has no pictures: give --image_dir or --visual_features"):
        run_mner(flags(world, tmp_path / "out", visual_features=None, use_vision=True))


def test_without_visual_features_the_model_is_one_of_text_alone(world, tmp_path):
    run_mner(flags(world, tmp_path / "out", visual_features=None, num_train_epochs=1))
    assert results_of(tmp_path / "out")["model"]["use_vision"] is False


def test_types_that_the_model_does_not_know_are_refused(trained, world, tmp_path):
    (tmp_path / "tweets").mkdir()
    (tmp_path / "tweets" / "test.txt").write_text("IMGID:1\nrome\tB-CITY\n\n")
    with pytest.raises(
        ValueError, match="entities of the types CITY, which .* does not know; it has .*--new_head True"
    ):
        run_mner(
            ["--model_name_or_path", str(trained), "--data_dir", str(tmp_path / "tweets"), "--do_predict", "True"]
            + ["--output_dir", str(tmp_path / "out")]
        )


def write_typed(folder: Path, types: dict[str, str]) -> Path:
    """Tweets of two words each, a name and a verb; `types` are those of the names."""
    folder.mkdir(parents=True)
    for split in ("train", "valid", "test"):
        tweets = [f"IMGID:{split}{n}\n{name}\tB-{types[name]}\nmet\tO\n\n" for n, name in enumerate([*types] * 12)]
        (folder / f"{split}.txt").write_text("".join(tweets))
    return folder


@pytest.fixture(scope="module")
def typed(world, tmp_path_factory) -> Path:
    """A model that has learned LOC, PER and WORK of three names."""
    folder = tmp_path_factory.mktemp("typed")
    tweets = write_typed(folder / "tweets", {"rome": "LOC", "ann": "PER", "oslo": "WORK"})
    settings = {"data_dir": tweets, "visual_features": None, "num_train_epochs": 25}
    run_mner(flags(world, folder / "model", **settings))
    assert results_of(folder / "model")["test"]["f1"] == 1
    return folder / "model"


def further(world, typed, folder, types, **more):
    """What becomes of the model when it is trained on such names."""
    settings = {"data_dir": write_typed(folder / "tweets", types), "visual_features": None, "text_model": None}
    settings |= {"model_name_or_path": typed, "num_semantic_layers": None, "num_train_epochs": 1} | more
    run_mner(flags(world, folder / "out", **settings))
    return results_of(folder / "out")


def test_labels_travel_by_name_where_the_data_lack_a_type(world, typed, tmp_path):
    results = further(world, typed, tmp_path, {"ann": "PER", "oslo": "WORK"})
    assert results["test"]["f1"] == 1 and results["types"] == ["LOC", "PER", "WORK"]
    [dev_loss] = [entry["eval_loss"] for entry in results["train"]["history"] if "eval_loss" in entry]
    assert dev_loss < 2  # of labels by another number it is 16
    lines = (tmp_path / "out" / "predictions_test.jsonl").read_text().splitlines()
    assert {tag for line in lines for tag in json.loads(line)["predictions"]} == {"B-PER", "B-WORK", "O"}


def test_a_test_file_that_lacks_a_type_of_the_model_is_scored(world, typed, tmp_path):
    settings = {"do_train": None, "do_eval": None, "num_train_epochs": None, "crf_learning_rate": None}
    results = further(world, typed, tmp_path, {"ann": "PER"}, **settings)
    assert results["test"]["types"].keys() == {"PER"} and results["test"]["f1"] == 1


def test_a_new_head_that_does_not_learn_is_refused(typed, tmp_path):
    with pytest.raises(ValueError, match="--new_head True: a new classifier learns, so give --do_train"):
        run_mner(
            ["--model_name_or_path", str(typed), "--do_predict", "--new_head", "True", "--output_dir", str(tmp_path)]
        )


def test_new_types_are_learned_by_a_new_head(world, typed, tmp_path):
    with pytest.raises(ValueError, match="entities of the types FOOD, which"):
        further(world, typed, tmp_path / "one", {"ann": "FOOD", "rome": "LOC"})
    results = further(
        world, typed, tmp_path / "two", {"ann": "FOOD", "rome": "LOC"}, new_head=True, num_train_epochs=25
    )
    assert results["test"]["f1"] == 1 and results["types"] == ["FOOD", "LOC"]


def test_limits_are_those_of_the_model_that_is_trained_further_but_where_they_are_given(
    world, trained_folder, tmp_path
):
    settings = {"model_name_or_path": trained_folder, "text_model": None, "num_train_epochs": 1}
    run_mner(flags(world, tmp_path / "kept", **settings))
    run_mner(flags(world, tmp_path / "given", **settings, max_length=24, stride=4, max_regions=1))
    kept, given = (HamLearningProcessor.from_pretrained(tmp_path / name) for name in ("kept", "given"))
    before = HamLearningProcessor.from_pretrained(trained_folder)
    names = ("max_length", "stride", "max_regions")
    assert [getattr(kept, name) for name in names] == [getattr(before, name) for name in names]
    assert [getattr(given, name) for name in names] == [24, 4, 1]


def test_a_tweet_beyond_the_length_limit_is_learned_and_tagged_whole(world, tmp_path):
    (tmp_path / "tweets").mkdir()
    words = "\n".join(["so\tO"] * 20 + ["ann\tB-PER", "bob\tB-PER"])
    for split in ("train", "valid", "test"):
        tweets = [f"IMGID:{split}{number}\n{words}\n\n" for number in range(8)]
        (tmp_path / "tweets" / f"{split}.txt").write_text("".join(tweets) + "IMGID:short\nso\tO\n\n")
    run_mner(flags(world, tmp_path / "out", data_dir=tmp_path / "tweets", visual_features=None, max_length=12,
                        stride=4, num_train_epochs=25))  # fmt: skip
    test = results_of(tmp_path / "out")["test"]
    assert (test["f1"], test["gold_entities"]) == (1, 16)
    assert (test["words_in_windows"], test["words_not_read"]) == (8 * 22, 0)


def test_a_loss_that_is_no_number_stops_the_run_with_its_step(world, tmp_path):
    with pytest.raises(FloatingPointError, match=r"The loss is nan at step \d+"):
        run_mner(flags(world, tmp_path / "out", learning_rate=1e30, crf_learning_rate=1e30, logging_steps=1,
                            logging_strategy="steps", max_grad_norm=0))  # fmt: skip


@pytest.mark.slow
def test_model_and_data_set_come_from_the_hub_by_their_ids(trained, world, tmp_path):
    folder = tmp_path / "prepared"
    command = [sys.executable, "-m", "hamlearning", "prepare", world / "tweets", folder]
    subprocess.run([*command, "--visual_features", world / "features.parquet"], check=True)
    (tmp_path / "home").mkdir()
    with HubServer() as hub:
        hub.add_repo("org/tiny", trained)
        hub.add_repo("org/tweets", folder, kind="dataset")
        code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from hamlearning.data.features import VisualFeatures
from hamlearning.data.tweets import tag_names
from hamlearning.training.arguments import MNERTrainingArguments, parse_arguments
from hamlearning.training.run import main as run_mner
from hamlearning.training.trainer import MNERTrainer
from hamlearning.training.vision import picture_source
from modeling_hamlearning import HamLearningForTokenClassification
from processing_hamlearning import HamLearningDataCollator, HamLearningProcessor
results = run_mner(["--model_name_or_path", "org/tiny", "--dataset_name", "org/tweets", "--do_predict", "True",
    "--output_dir", {str(tmp_path / "out")!r},
    "--visual_features", "hf://datasets/org/tweets@main/visual_features/visual_features.parquet",
    "--use_cpu", "True", "--disable_tqdm", "True"])
print("F1", results["test"]["f1"])
"""
        stdout = run_client(hub, code, tmp_path / "home")
    assert f"F1 {results_of(trained)['test']['f1']}" in stdout


def test_an_address_that_is_no_file_of_a_data_set_is_refused(world, tmp_path):
    with pytest.raises(ValueError, match="hf://org/tweets/f.parquet: expected hf://datasets/ORG/NAME/FILE"):
        run_mner(flags(world, tmp_path / "out", visual_features="hf://org/tweets/f.parquet"))


def test_hidden_pictures_are_no_pictures(trained, world, tmp_path):
    again = ["--model_name_or_path", str(trained)]
    evaluate = {"do_train": None, "text_model": None, "num_semantic_layers": None}
    run_mner(flags(world, tmp_path / "hidden", hide_pictures=True, **evaluate) + again)
    run_mner(flags(world, tmp_path / "none", visual_features=None, **evaluate) + again)
    hidden, none = ((tmp_path / name / "predictions_test.jsonl").read_text() for name in ("hidden", "none"))
    assert hidden == none and results_of(tmp_path / "hidden")["hide_pictures"]
    assert {json.dumps(json.loads(line)["relevance"]) for line in hidden.splitlines()} == {"null"}


def test_masked_words_all_look_alike_and_the_data_stays_named(trained, world, tmp_path):
    evaluate = {"do_train": None, "text_model": None, "num_semantic_layers": None, "hide_pictures": True}
    run_mner(flags(world, tmp_path / "masked", mask_words=True, **evaluate) + ["--model_name_or_path", str(trained)])
    lines = [json.loads(line) for line in (tmp_path / "masked" / "predictions_test.jsonl").read_text().splitlines()]
    assert {word for line in lines for word in line["tokens"]} == {"[MASK]"}
    assert len({(len(line["tokens"]), *line["predictions"]) for line in lines}) == len(
        {len(line["tokens"]) for line in lines}
    )
    assert results_of(tmp_path / "masked")["data"] == results_of(trained)["data"]


def test_a_forced_relevance_is_what_every_picture_gets(trained, world, tmp_path):
    evaluate = {"do_train": None, "text_model": None, "num_semantic_layers": None}
    run_mner(flags(world, tmp_path / "one", forced_relevance=1.0, **evaluate) + ["--model_name_or_path", str(trained)])
    lines = [json.loads(line) for line in (tmp_path / "one" / "predictions_test.jsonl").read_text().splitlines()]
    assert {tuple(line["relevance"]) for line in lines if line["relevance"] is not None} == {(1.0, 1.0)}
    assert results_of(tmp_path / "one")["model"]["forced_relevance"] == 1.0


def launch(command: list[str], world: Path, output_dir: Path, **more):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(ROOT / "run_mner.py"), *flags(world, output_dir, **more)],
        capture_output=True, text=True, env=environment, cwd=world,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return results_of(output_dir)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["accelerate", "torchrun"])
def test_two_processes_evaluate_like_one(launcher, trained, world, tmp_path):
    commands = {
        "torchrun": ["-m", "torch.distributed.run", "--nproc_per_node", "2"],
        "accelerate": ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines",
                       "1", "--mixed_precision", "no", "--dynamo_backend", "no"],
    }  # fmt: skip
    results = launch(
        [sys.executable, *commands[launcher]], world, tmp_path / "out",
        do_train=None, text_model=None, num_semantic_layers=None, model_name_or_path=trained,
        per_device_eval_batch_size=4,
    )  # fmt: skip
    assert results["training"]["world_size"] == 2
    assert results["test"]["types"] == results_of(trained)["test"]["types"]
    assert (tmp_path / "out" / "predictions_test.jsonl").read_text() == (
        trained / "predictions_test.jsonl"
    ).read_text()


@pytest.mark.slow
def test_two_processes_train_to_the_weights_of_one(world, tmp_path):
    steady = {
        "dropout": 0,
        "num_train_epochs": 2,
        "train_sampling_strategy": "sequential",
        "lr_scheduler_type": "constant",
        "text_model": dropout_free(world, tmp_path),
    }
    two = launch(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"], world, tmp_path / "two",
        per_device_train_batch_size=4, **steady,
    )  # fmt: skip
    one = launch([sys.executable], world, tmp_path / "one", per_device_train_batch_size=8, **steady)
    assert two["training"]["world_size"] == 2
    losses = [[entry["loss"] for entry in run["train"]["history"] if "loss" in entry] for run in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert one["test"]["types"] == two["test"]["types"]


@pytest.mark.slow
@pytest.mark.parametrize("pictures", ["some", "none on one process"])
def test_two_processes_have_the_gradient_of_one_with_the_whole_batch(pictures, trained, world, tmp_path):
    processor = HamLearningProcessor.from_pretrained(trained)
    features = VisualFeatures(world / "features.parquet")
    tweets = load_tweets(world / "tweets")["train"].select(range(8))
    batch = HamLearningDataCollator(processor, features)(list(tweets))
    if pictures == "none on one process":
        batch["image_mask"][1::2] = 0
    model = HamLearningForTokenClassification.from_pretrained(trained)
    model.config.dropout = model.config.text_config.hidden_dropout_prob = 0
    model.config.text_config.attention_probs_dropout_prob = 0
    model.save_pretrained(tmp_path)
    torch.save(batch, tmp_path / "batch.pt")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
        + [str(ROOT / "tests" / "training" / "two_process_gradient.py"), str(tmp_path)],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout.count("equal gradients") == 2, done.stderr[-4000:]


def test_a_run_learns_a_relevance_and_explains_its_predictions(world, tmp_path):
    run_mner(flags(world, tmp_path / "one", relevance_matching="gate", predict_explanations=True, num_train_epochs=3))
    lines = [json.loads(line) for line in (tmp_path / "one" / "predictions_test.jsonl").read_text().splitlines()]
    with_picture = [line for line in lines if line["id"] not in ("test9", "test10", "test11")]
    assert all(line["relevance_kind"] == "probability" for line in lines)
    assert all(len(line["relevance"]) == 1 and 0 < line["relevance"][0] < 1 for line in with_picture)
    entities = [entity for line in with_picture for entity in line["entities"]]
    assert entities and {len(entity["picture"]["regions"]) for entity in entities} == {2}
    assert all(abs(entity["picture"]["with"] - entity["score"]) < 1e-3 for entity in entities)
    blind = [entity for line in lines if line not in with_picture for entity in line["entities"]]
    assert blind and all(entity["picture"] is None for entity in blind)
    assert results_of(tmp_path / "one")["model"]["relevance_matching"] == "gate"
