"""The tweets and the pictures of a run."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset, DatasetDict, IterableDataset

from hamlearning.data.features import VisualFeatures
from hamlearning.data.splitting import splitting_of, splitting_problem, words_given_back
from hamlearning.data.streams import stream_tweets
from hamlearning.data.tweets import SPLITS, read_data, split_sha256, tag_names
from hamlearning.pictures.tweet_images import TweetImages
from hamlearning.tagging.shards import find_shards
from hamlearning.training.arguments import Arguments, MNERTrainingArguments, ModelArguments
from hamlearning.training.batches import with_lengths
from hamlearning.training.streamed import prepare_streamed_training
from hamlearning.training.vision import picture_source
from modeling_hamlearning import HamLearningForTokenClassification
from processing_hamlearning import HamLearningProcessor


logger = logging.getLogger(__name__)


@dataclass
class Data:
    """The data of a run: what `load_data` found, and what later steps made of it."""

    name: str
    tweets: DatasetDict
    facts: dict[str, Any]  # how many tweets each tagged split has, and its hash
    tags: list[str] | None  # None: no split is tagged
    used_tags: set[str]  # those of `tags` that occur
    stream: IterableDataset | None = None  # of the train split, if it is streamed
    shards: list[str] = field(default_factory=list)  # that it is read from
    features: VisualFeatures | None = None
    word_splittings: list[str] = field(default_factory=list)  # of its raw texts with spans
    raw_text: dict[str, Any] = field(default_factory=dict)  # whether it gives the words back; see `words_given_back`


def load_data(arguments: Arguments, name: str) -> Data:
    """The tweets of the run.

    Raises:
        ValueError: see `load_tweets`, `check_splits`, `stream_tweets`; or streamed tweets have pictures that nobody
            has computed features of.
    """
    model_args, data_args, args = arguments.model, arguments.data, arguments.training
    is_streamed = data_args.streaming
    if is_streamed:
        prepare_streamed_training(data_args, args)
    if args.torch_compile and args.torch_compile_backend == "inductor" and args.device.type == "cpu":
        raise ValueError(
            "--torch_compile True on a CPU: steps are no faster (docs/performance.md), compiling takes minutes: leave "
            "it out, it is for GPUs."
        )
    place = (data_args.data_dir, data_args.dataset_name, data_args.dataset_config_name)
    options = data_args.reading_options(model_args.word_splitting or splitting_of_checkpoint(model_args))
    found = read_data(*place, splits=("validation", "test") if is_streamed else tuple(SPLITS), options=options)
    found.log()
    tweets = found.splits
    check_splits(tweets, args, is_streamed)
    tags: Any = next(
        (d.features["ner_tags"].feature.names for d in tweets.values() if "ner_tags" in d.column_names), None
    )
    tagged = {str(split): dataset for split, dataset in tweets.items() if "ner_tags" in dataset.column_names}
    facts: dict[str, Any] = {}
    used_tags: set[str] = set(tags or ()) if is_streamed else set()  # nobody knows yet which ones a stream has
    if arguments.wants_model:
        for split, dataset in tagged.items():
            facts[split] = {"tweets": len(dataset), "sha256": split_sha256(dataset)}
            used_tags |= {tag for sentence in tag_names(dataset) for tag in sentence}
    data = Data(name, tweets, facts, tags, used_tags, word_splittings=found.word_splittings)
    if is_streamed:
        if found.labels.scheme != "iob2":
            raise ValueError(
                f"--streaming True --do_train: the tags are of the scheme {found.labels.scheme}, and a stream is read "
                "as IOB2: `hamlearning prepare` writes them so."
            )
        data.shards = find_shards(*place, split="train")
        logger.info(f"{len(data.shards)} shards, from {data.shards[0]} to {data.shards[-1]}")
        data.stream = stream_tweets(data.shards, tags, args.seed, data_args.shuffle_buffer, options.type_map)
        reads_pictures = data_args.visual_features is None and model_args.use_vision is not False
        if reads_pictures and TweetImages(tweets, data_args.image_dir, data_args.image_subfolders).has_pictures:
            raise ValueError(
                "--streaming True --do_train with pictures: extract their features before, --do_extract, and give the "
                "file as --visual_features; or leave them out, --use_vision False."
            )
    return data


def splitting_of_checkpoint(model_args: ModelArguments) -> str | None:
    """How the model to go on with splits raw text; None for a new one, and where there is none of its name."""
    if model_args.model_name_or_path is None:
        return None
    try:
        settings, _ = HamLearningProcessor.get_processor_dict(model_args.model_name_or_path)
    except OSError:  # said when the model is loaded
        return None
    return settings.get("word_splitting")


def check_splits(tweets: DatasetDict, args: MNERTrainingArguments, is_streamed: bool) -> None:
    """Refuses a data set that lacks a split or the tags that the run needs, before anything is computed.

    A train split that is streamed is not among them.

    Raises:
        ValueError: names the split and what to leave out.
    """
    needed = {}
    if args.do_train:
        needed |= {} if is_streamed else {"train": "--do_train"}
        needed |= {"validation": "--do_train (the checkpoint is chosen on it)"}
    if args.calibrate:
        needed["validation"] = "--calibrate True"
    if args.do_eval:
        needed["validation"] = "--do_eval"
    for split, reason in needed.items():
        if split in tweets and "ner_tags" not in tweets[split].column_names:
            raise ValueError(f"The {split} split has no ner_tags, which {reason} needs: use --do_predict alone.")
    if args.do_predict:
        needed["test"] = "--do_predict"
    for split, reason in needed.items():
        if split not in tweets:
            raise ValueError(
                f"The data set has no {split} split, which {reason} needs; it has {', '.join(map(str, tweets))}: "
                "add it, or leave that flag out."
            )


def look_at_words(data: Data, model_args: ModelArguments) -> None:
    """Finds how raw text has to be split, and chooses that for a new model where no flag does."""
    split = "train" if "train" in data.tweets else "validation"  # that stands for a stream
    words = data.tweets[split]["tokens"][:]
    data.raw_text = words_given_back(words)
    if model_args.word_splitting is None and model_args.model_name_or_path is None:
        model_args.word_splitting, share = splitting_of(words)
        if len(data.word_splittings) == 1:  # raw text was split here, so the model is to split it in the same way
            [model_args.word_splitting] = data.word_splittings
        elif model_args.word_splitting == "characters":
            logger.info(
                f"The model will split raw text into characters: {share:.0%} of the words of the {split} split are "
                "single characters of a script without spaces; --word_splitting overrides it."
            )


def report_raw_text(data: Data, word_splitting: str) -> dict[str, Any]:
    """Says whether raw text gives the words that a model learned from; for `results.json`."""
    problem = splitting_problem(data.raw_text, word_splitting)
    if problem is not None:
        logger.warning(problem)
    else:
        share = data.raw_text["same_words"][word_splitting]
        logger.info(
            f"Raw text, split by `{word_splitting}`, gives the words of the data in {share:.1%} of "
            f"{data.raw_text['texts']} texts."
        )
    return {"word_splitting": word_splitting, **data.raw_text}


def prepare_words(data: Data, processor: HamLearningProcessor, arguments: Arguments) -> None:
    """Leaves the words of the tweets, masked if that is asked for, with their number of sub-tokens."""

    def without_images(dataset: Dataset) -> Dataset:
        return dataset.remove_columns([*({"image"} & set(dataset.column_names))])

    data.tweets = DatasetDict({split: without_images(dataset) for split, dataset in data.tweets.items()})
    if arguments.data.mask_words:
        mask = processor.tokenizer.mask_token or processor.tokenizer.unk_token

        def mask_words(tweet: dict[str, Any]) -> dict[str, Any]:
            return {"tokens": [mask] * len(tweet["tokens"])}

        data.tweets = data.tweets.map(mask_words)
        data.stream = data.stream and data.stream.map(mask_words)
    data.tweets = DatasetDict({split: with_lengths(dataset, processor) for split, dataset in data.tweets.items()})


def find_pictures(
    data: Data, model: HamLearningForTokenClassification, arguments: Arguments
) -> Mapping[str, Mapping[str, Any]] | None:
    """Visual features by tweet id; None where the model reads no pictures, or is given none."""
    if not model.config.use_vision:
        return None
    if data.features is None:
        logger.warning("No pictures: the model was trained with pictures and does without them now.")
        return None
    if arguments.data.hide_pictures:
        return None
    pictures = picture_source(data.tweets, data.features, arguments.data.shuffle_pictures, arguments.training.seed)
    return pictures if data.stream is None else data.features  # nobody knows yet whose are needed
