"""A run, from arguments to results, as a sequence of steps: `main` is their list.

Arguments checked, output claimed, data, vision model, model, trainer, training, scores, results, publishing.
"""

import json
import logging
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from datasets import Dataset, DatasetDict, IterableDataset
from transformers import EarlyStoppingCallback, EvalPrediction, TrainerCallback, set_seed
from transformers.trainer import TRAINER_STATE_NAME

from configuration_hamlearning import MORE_FEATURES
from hamlearning.data.downloads import limit_silence, local_file, wanted_of_hub
from hamlearning.data.features import VisualFeatures
from hamlearning.data.files import move_into, write_text, writing
from hamlearning.data.ray_cluster import load_ray
from hamlearning.data.tweets import tag_names, with_tags
from hamlearning.hub.model_card import RESULTS_FILE
from hamlearning.hub.publishing import publish_model
from hamlearning.hub.repos import PublishError, create_repo
from hamlearning.rivals.architectures import (
    HAMLEARNING,
    RIVALS,
    architecture_of,
    class_of,
    reads_words,
    register,
    takes_word_vectors,
)
from hamlearning.scores.metric import entity_scores, score_table
from hamlearning.training.arguments import (
    Arguments,
    MNERTrainingArguments,
    ModelArguments,
    VisionArguments,
    parse_arguments,
)
from hamlearning.training.batches import PictureInEveryBatch
from hamlearning.training.checkpoints import UNFINISHED
from hamlearning.training.data import Data, find_pictures, load_data, look_at_words, prepare_words, report_raw_text
from hamlearning.training.model import load_model
from hamlearning.training.prediction import predict, show_tweet, whole_tags, write_predictions
from hamlearning.training.results import data_set_name, describe_run, plot_training, run_facts
from hamlearning.training.resuming import begin_run, claim_folder
from hamlearning.training.streamed import predict_streamed
from hamlearning.training.temperature import calibrate, wants_calibration
from hamlearning.training.text_encoders import has_unread_parameters
from hamlearning.training.trainer import MNERTrainer, TrainingWatch, compile_trunk
from hamlearning.training.vision import find_visual_features
from modeling_hamlearning import HamLearningForTokenClassification
from modeling_hamlearning_vision import HamLearningVisionModel
from pipeline_hamlearning import HamLearningPipeline
from processing_hamlearning import HamLearningDataCollator, HamLearningProcessor


logger = logging.getLogger(__name__)

KEPT = "Checkpoints and earlier results stay: make room, and go on with --resume_from_checkpoint True."


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Runs what the arguments ask for, and returns what `results.json` holds."""
    configure_logging()
    arguments = parse_arguments(sys.argv[1:] if argv is None else argv)
    check_arguments(arguments)
    name = data_set_name(arguments.data)
    claim_output(arguments)
    if arguments.data.streaming and not arguments.training.do_train:
        predict_streamed(*arguments)
        return {}
    data = load_data(arguments, name)
    features_file, vision_model = find_visual_features(data.tweets, *arguments)
    if not arguments.wants_model:
        return {}
    set_seed(arguments.training.seed)  # behind the vision model, which draws random numbers too where it is new
    data.features = None if features_file is None else VisualFeatures(features_file)
    model, processor = prepare_model(arguments, data)
    prepare_words(data, processor, arguments)
    pictures = find_pictures(data, model, arguments)
    checkpoint = claim_run(data, model, processor, arguments)
    # Trainer would make the repo once more, and give up at the first fault of the Hub.
    publishes, arguments.training.push_to_hub = arguments.training.push_to_hub, False
    trainer, watch = make_trainer(data, model, processor, pictures, arguments)
    results: dict[str, Any] = {}
    if arguments.training.do_train:
        train(trainer, checkpoint)
    if wants_calibration(trainer):
        results["calibration"] = calibrate(trainer, data.tweets["validation"])
    if arguments.training.do_train:
        results["train"] = keep(trainer, watch, Path(arguments.training.output_dir), vision_model)
    results |= score_splits(trainer, data)
    results |= describe_run(data, model, arguments)
    if trainer.is_world_process_zero():
        if arguments.training.do_train:
            results["raw_text"] = report_raw_text(data, processor.word_splitting)
        write_results(results, trainer, model)
        if publishes:
            publish_run(arguments.training)
    return results


def configure_logging() -> None:
    """Has the steps say on stderr what they do."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # the Hub client's, a line a request


def check_arguments(arguments: Arguments) -> None:
    """Refuses what no run could do, before anything is read.

    Raises:
        ValueError: names the argument and the remedy.
    """
    args = arguments.training
    if args.process_index != 0:
        logging.getLogger("hamlearning").setLevel(logging.WARNING)
        transformers.utils.logging.set_verbosity_error()
    if not (arguments.wants_model or args.do_extract):
        raise ValueError("Nothing to do: give --do_train, --do_eval, --do_predict or --do_extract.")
    if not arguments.data.streaming:  # which has reasons of its own
        check_engine(arguments.vision, args)
    if args.do_train or not arguments.data.streaming:
        check_further_features(arguments.vision, args)
    learns = args.do_train and arguments.model.model_name_or_path is not None
    if arguments.model.new_head and not learns and not arguments.data.streaming:
        raise ValueError(
            "--new_head True: a new classifier learns, so give --do_train, and --model_name_or_path, the model to go "
            "on with; a new model has one anyway."
        )
    settle_architecture(arguments.model)
    if args.push_to_hub and not args.do_train:
        raise ValueError(
            "--push_to_hub without --do_train: a run publishes what it trained. Publish what was trained before with "
            "`hamlearning publish FOLDER ORG/NAME`."
        )
    if args.push_to_hub and (args.hub_strategy != "end" or args.hub_revision is not None):
        raise ValueError(
            f"--hub_strategy {args.hub_strategy} --hub_revision {args.hub_revision}: a run is published once, at its "
            "end, to main: leave them out."
        )


def check_engine(vision_args: VisionArguments, args: MNERTrainingArguments) -> None:
    """Refuses Ray where it cannot work, and flags of its workers without it.

    Raises:
        ImportError: Ray is asked for, and not installed.
        ValueError: names the flag and the remedy.
    """
    if vision_args.extraction_engine == "ray":
        load_ray()
        if args.world_size > 1:
            raise ValueError(
                f"--extraction_engine ray in {args.world_size} processes: Ray starts its own, so start this in one, "
                "without `accelerate launch`, and train on the file."
            )
        return
    for name in ("ray_workers", "ray_threads", "ray_gpus"):
        value = getattr(vision_args, name)
        if value != getattr(VisionArguments, name):
            raise ValueError(f"--{name} {value} goes with --extraction_engine ray: leave it out, or give both.")


def check_further_features(vision_args: VisionArguments, args: MNERTrainingArguments) -> None:
    """Refuses features that would be extracted and read by nobody.

    Raises:
        ValueError: names the flag and the remedy.
    """
    for name in MORE_FEATURES:
        if getattr(vision_args, name) and not args.do_extract:
            raise ValueError(
                f"--{name} True goes with --do_extract, as of `hamlearning extract`: a training extracts what its "
                "architecture reads, hvpnet pyramid_features, mgcmt with --grid_feature_size grid_features, so leave "
                "it out."
            )


def settle_architecture(model_args: ModelArguments) -> None:
    """Refuses what an architecture of words alone does not have, and what only such a one has.

    Raises:
        ValueError: names the argument and the remedy.
    """
    architecture = model_args.architecture or HAMLEARNING
    if model_args.word_vectors is not None:
        if model_args.model_name_or_path is not None or not takes_word_vectors(architecture):
            raise ValueError(
                f"--word_vectors {model_args.word_vectors}: a new model of "
                f"{', '.join(name for name in RIVALS if takes_word_vectors(name))} alone has vectors of words: leave "
                "it out."
            )
    if model_args.model_name_or_path is not None or not reads_words(architecture):
        return
    if model_args.text_model is not None:
        raise ValueError(
            f"--text_model {model_args.text_model}: {architecture} has no text encoder, but vectors of words, perhaps "
            "of a file, --word_vectors: leave it out."
        )
    if model_args.use_vision is None:
        model_args.use_vision = False  # no picture is looked for


def claim_output(arguments: Arguments) -> None:
    """Sees that results have a place, and the model a repo if it is to be published: now, not after hours of training.

    Raises:
        FileExistsError: see `check_output_dir`.
        PublishError: the repo cannot be made.
    """
    args = arguments.training
    limit_silence()
    if args.process_index == 0:
        check_output_dir(args)
        if args.push_to_hub:
            name = args.hub_model_id or Path(args.output_dir).resolve().name
            try:
                args.hub_model_id = create_repo(name, private=args.hub_private_repo, token=args.hub_token)
            except PublishError as error:
                command = shlex.join(["hamlearning", "publish", args.output_dir, name])
                raise PublishError(
                    f"{error} Or train without --push_to_hub and publish afterwards: `{command}`."
                ) from error
    # A model folder is loaded with this code, never with the code that it carries.
    path, architecture = arguments.model.model_name_or_path, arguments.model.architecture or HAMLEARNING
    if path is not None:
        with wanted_of_hub(path):
            architecture = architecture_of(path)
    register(architecture)
    if arguments.data.visual_features is not None:
        arguments.data.visual_features = local_file(arguments.data.visual_features)


def check_output_dir(args: MNERTrainingArguments) -> None:
    """Refuses a folder that holds another run.

    Raises:
        FileExistsError: the folder holds results or checkpoints, and the run does not go on with them.
    """
    folder, wanted = Path(args.output_dir), args.resume_from_checkpoint
    goes_on = wanted == "True" or wanted is not None and Path(wanted).resolve().parent == folder.resolve()
    if goes_on or not folder.is_dir():
        return
    held = sorted(p.name for p in folder.iterdir() if p.name == RESULTS_FILE or p.name.startswith("checkpoint-"))
    if held:
        raise FileExistsError(
            f"--output_dir {folder} holds another run ({', '.join(held)}): give another folder, remove that one, or "
            "go on from its last checkpoint with --resume_from_checkpoint True."
        )


def prepare_model(arguments: Arguments, data: Data) -> tuple[HamLearningForTokenClassification, HamLearningProcessor]:
    """The model, compiled if that is asked for, and its processor."""
    if arguments.training.do_train:
        look_at_words(data, arguments.model)
    train_words = data.tweets["train"]["tokens"] if "train" in data.tweets else None
    model, processor = load_model(arguments.model, data.tags, data.features, data.used_tags, train_words)
    data.tweets = DatasetDict({split: with_tags(dataset, processor.tags) for split, dataset in data.tweets.items()})
    if arguments.training.world_size > 1 and has_unread_parameters(model.model.text_model):
        arguments.training.ddp_find_unused_parameters = True
        logger.info("Not all weights of the text encoder are read: processes look for those without a gradient.")
    if arguments.training.torch_compile:
        compile_trunk(model, arguments.training)
    return model, processor


def claim_run(
    data: Data, model: HamLearningForTokenClassification, processor: HamLearningProcessor, arguments: Arguments
) -> Path | None:
    """Writes down what the run is, or makes its folder if nothing is trained; returns the checkpoint to go on from."""
    args = arguments.training
    if args.do_train:
        return begin_run(args, run_facts(data, model, processor, arguments))
    if args.process_index == 0:
        claim_folder(Path(args.output_dir))
    return None


def make_trainer(
    data: Data,
    model: HamLearningForTokenClassification,
    processor: HamLearningProcessor,
    pictures: Mapping[str, Mapping[str, Any]] | None,
    arguments: Arguments,
) -> tuple[MNERTrainer, TrainingWatch]:
    """The trainer, and what times its epochs."""
    args = arguments.training
    watch = TrainingWatch()
    callbacks: list[TrainerCallback] = [watch]
    if args.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))

    def compute_metrics(evaluation: EvalPrediction) -> dict[str, float]:
        gold = tag_names(data.tweets["validation"])
        names = np.array(processor.tags)
        predictions = [
            whole_tags(row, len(tags), names) for row, tags in zip(evaluation.predictions[0], gold, strict=True)
        ]
        scores = entity_scores(gold, predictions)
        return {name: scores[name] for name in ("precision", "recall", "f1", "strict_f1")}

    trainer = MNERTrainer(
        model=model,
        args=args,
        data_collator=HamLearningDataCollator(processor, pictures),
        train_dataset=data.stream or (data.tweets["train"] if args.do_train else None),
        eval_dataset=data.tweets["validation"] if args.do_train or args.do_eval else None,
        processing_class=processor,
        compute_metrics=compute_metrics,
        # The emissions are large and needed no more once the tags are found.
        preprocess_logits_for_metrics=lambda outputs, labels: outputs[1:],
        callbacks=callbacks,
    )
    if pictures is not None and (args.torch_compile or trainer.is_fsdp_enabled):
        trainer.data_collator = PictureInEveryBatch(processor, pictures)
    return trainer, watch


def train(trainer: MNERTrainer, checkpoint: Path | None) -> None:
    """Trains to the checkpoint with the best dev F1; its scores are not calibrated any more, if they were."""
    model: Any = trainer.model
    model.config.score_temperature = 1.0
    trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))


def keep(
    trainer: MNERTrainer, watch: TrainingWatch, output_dir: Path, vision_model: HamLearningVisionModel | None
) -> dict[str, Any]:
    """Saves what was trained with its vision model, and returns how it went."""
    processor = trainer.processing_class
    if vision_model is not None:
        processor.vision_model = vision_model  # not before: every checkpoint would carry it
    elif processor.vision_source is not None and trainer.is_world_process_zero():
        _ = processor.vision_model  # loaded, that of the model to go on with is saved with what became of it
    save_model(trainer, output_dir)
    return describe_training(trainer, watch)


def save_model(trainer: MNERTrainer, output_dir: Path) -> None:
    """Writes the trained model to the output folder, all of it or nothing."""
    staged = output_dir / UNFINISHED / "model"
    with writing("The trained model", output_dir, KEPT):
        if trainer.is_world_process_zero():
            shutil.rmtree(staged.parent, ignore_errors=True)  # what a kill may have left
        trainer.accelerator.wait_for_everyone()
        try:
            # Called by its public name it would push a model that has neither card nor scores yet.
            trainer.save_model(str(staged), _internal_call=True)
            if trainer.is_world_process_zero():
                plot_training(trainer.state.log_history, staged / "training.png")
                move_into(staged, output_dir)
        finally:  # also on a full disk, which needs the room
            if trainer.is_world_process_zero():
                shutil.rmtree(staged.parent, ignore_errors=True)


def describe_training(trainer: MNERTrainer, watch: TrainingWatch) -> dict[str, Any]:
    """How a training went: epochs, the best of them, time, and the history of losses and dev F1."""
    args, history = trainer.args, trainer.state.log_history
    evaluations = [entry for entry in history if "eval_f1" in entry]
    last = {"epoch": trainer.state.epoch}
    best = max(evaluations, key=lambda entry: entry["eval_f1"], default=last)
    if args.load_best_model_at_end and trainer.state.best_model_checkpoint is not None:
        # Not always of the best evaluation: there may be more evaluations than checkpoints.
        state_file = Path(trainer.state.best_model_checkpoint) / TRAINER_STATE_NAME
        kept = json.loads(state_file.read_text(encoding="utf-8"))["global_step"]
        best = next((entry for entry in evaluations if entry["step"] == kept), best)
    tweets_an_epoch = args.max_steps * trainer.get_total_train_batch_size(args)
    if not isinstance(trainer.train_dataset, IterableDataset):
        tweets_an_epoch = len(trainer.train_dataset)
    return {
        "epochs": trainer.state.epoch,
        "best_epoch": best["epoch"],
        "seconds": watch.seconds,
        "tweets_per_second": tweets_an_epoch * watch.epochs / max(watch.seconds, 1e-9),
        "history": [
            {key: entry[key] for key in ("epoch", "loss", "eval_loss", "eval_f1") if key in entry}
            for entry in history
            if "loss" in entry or "eval_f1" in entry
        ],
    }


def score_splits(trainer: MNERTrainer, data: Data) -> dict[str, Any]:
    """Predicts the splits that are asked for, and writes predictions and scores; returns the scores by split."""
    trainer.compute_metrics = None  # from here on whole splits are scored, with all their tags
    args, results = trainer.args, {}
    splits = {"validation": args.do_eval, "test": args.do_predict}
    for split in (name for name, wanted in splits.items() if wanted):
        dataset = data.tweets[split]
        predicted = predict(trainer, dataset)
        results[split] = {name: predicted[name] for name in ("words_in_windows", "words_not_read")}
        results[split]["tweets_per_second"] = len(dataset) / predicted["seconds"]
        if "ner_tags" in dataset.column_names:
            results[split] = entity_scores(tag_names(dataset), predicted["tags"]) | results[split]
        if trainer.is_world_process_zero():
            write_split(split, dataset, predicted, results[split], Path(args.output_dir))
    return results


def write_split(
    split: str, dataset: Dataset, predicted: dict[str, Any], scores: dict[str, Any], output_dir: Path
) -> None:
    """Writes the predictions and the scores of a split, and shows the scores and a tweet."""
    with writing(f"The predictions of the {split} split", output_dir, KEPT):
        write_predictions(output_dir / f"predictions_{split}.jsonl", dataset, predicted)
        if "types" in scores:
            table = score_table(scores)
            write_text(output_dir / f"scores_{split}.md", table + "\n")
            print(f"\n{split}: entity-level, seqeval\n{table}")
    print(f"\n{show_tweet(dataset, predicted)}\n")


def write_results(results: dict[str, Any], trainer: MNERTrainer, model: HamLearningForTokenClassification) -> None:
    """Writes `results.json`, with what the model finds in the example texts."""
    args, output_dir = trainer.args, Path(trainer.args.output_dir)
    model = trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # as who loads it will have it
    if args.do_train:  # this one may be compiled, or in pieces
        model = class_of(architecture_of(str(output_dir))).from_pretrained(output_dir)
    ner = HamLearningPipeline(model=model, processor=trainer.processing_class, device=args.device)
    results["examples"] = [{"text": text, "entities": ner(text)} for text in args.example_texts]
    with writing(RESULTS_FILE, output_dir, KEPT):
        write_text(output_dir / RESULTS_FILE, json.dumps(results, indent=2) + "\n")
    logger.info(f"Everything is in {output_dir}")


def publish_run(args: MNERTrainingArguments) -> None:
    """Publishes what was trained."""
    url = publish_model(
        args.output_dir, str(args.hub_model_id), args.hub_license, args.hub_private_repo, args.hub_token
    )
    logger.info(f"Published: {url}")
