"""Make a data set that `datasets.load_dataset` reads from tagged tweets and, if at hand, their pictures; publish it.

    $ python datasets/prepare.py released/twitter2017 prepared/twitter2017 --images released/twitter2017_images
    train: 3373 tweets, 6049 entities, 3373 pictures
    validation: 723 tweets, 1324 entities, 723 pictures
    test: 723 tweets, 1351 entities, 723 pictures
    prepared/twitter2017 is ready for load_dataset

SOURCE holds train.txt, valid.txt (or validation.txt, dev.txt) and test.txt in the released text format: for each tweet
a line IMGID:<id>, a line token<TAB>tag for each token, and a blank line. A line that does not follow it is named with
its file, and nothing is written. OUTPUT gets a data set card and, for each configuration, Parquet files:

    text             the tweets, one file a split
    pictures         the tweets with their pictures in the files; with --images
    visual_features  a copy of the visual feature file, split "features"; with --visual_features

--push_to_hub ORG/NAME makes text, visual features and card the repo's next revision, in one commit. Pictures stay here
without --push_pictures: tweets and pictures belong to their authors, and you answer for what you pass on.
"""

import argparse
import hashlib
import itertools
import os
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Features, Image
from huggingface_hub import DatasetCardData
from PIL import Image as Picture
from PIL.Image import DecompressionBombError

from data_hamlearning import SPLITS, VisualFeatures, load_tweets, picture_files, split_sha256
from mner_scores import MNERScores
from publishing import ENGLISH_2014_TO_2017, PublishError, commit_files, create_repo


CONFIGS = ("text", "pictures", "visual_features")  # each a folder of the data set
FEATURES_FILE = "visual_features/visual_features.parquet"
SUFFIXES = (".jpg", ".jpeg", ".png")
ROW_GROUP = 100  # pictures of about 100 KB: 10 MB that a reader loads at once
SIZE_CATEGORIES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
)


def prepare(
    source: Path,
    output: Path,
    images: Path | None = None,
    visual_features: Path | None = None,
    name: str | None = None,
    overwrite: bool = False,
    push_to_hub: str | None = None,
    push_pictures: bool = False,
    private: bool | None = None,
) -> None:
    """Turn the text files in `source` into a data set in `output`, which `push_to_hub` publishes.

    Args:
        source: The folder of the text files.
        output: The folder to make: `README.md`, `text/<split>-00000-of-00001.parquet`, with `images` the same in
            `pictures/`, with `visual_features` `visual_features/visual_features.parquet`.
        images: The folder of the pictures, `<id>.jpg`, `.jpeg` or `.png`. A tweet whose picture is missing or
            unreadable has a null image.
        visual_features: A visual feature file (see `data_hamlearning.VisualFeatures`) of these tweets.
        name: The data set's name in its card; that of `source` if None.
        overwrite: Whether `output` may hold something. Only what this function writes is replaced.
        push_to_hub: The data set repo `ORG/NAME`, new or not. It gets one commit, when all is written.
        push_pictures: Whether the pictures are published too.
        private: Whether a new repo is private; the organisation's default if None.

    Raises:
        FileNotFoundError: `source`, `images` or `visual_features` is missing.
        FileExistsError: `output` is `source`, or holds something and `overwrite` is False.
        ValueError: A file of `source` is malformed or without tags; the message names file and line. `images` or
            `visual_features` has none of the tweets. An argument lacks another one that it needs.
        PublishError: The Hub cannot be reached or refuses. It serves what it served before.
    """
    if (push_pictures or private) and push_to_hub is None:
        flag = "--push_pictures" if push_pictures else "--private"
        raise ValueError(f"{flag} without --push_to_hub: name the repo, --push_to_hub ORG/NAME")
    if push_pictures and images is None:
        raise ValueError("--push_pictures without --images: give the folder that holds <id>.jpg")
    if output.resolve() == source.resolve():
        raise FileExistsError(f"SOURCE and OUTPUT are both {output}: choose another folder for the data set")
    if output.exists() and (not output.is_dir() or any(output.iterdir())) and not overwrite:
        raise FileExistsError(f"{output} is not an empty folder: choose another one, or add --overwrite")
    if visual_features is not None and visual_features.resolve() == (output / FEATURES_FILE).resolve():
        raise FileExistsError(f"{visual_features} is in OUTPUT and would be replaced: give --visual_features a copy")
    splits, files = read_source(source)
    pictures = None if images is None else find_pictures(images)
    features = None if visual_features is None else VisualFeatures(visual_features)
    ids = {image_id for dataset in splits.values() for image_id in dataset["id"]}
    for place, found in ((images, pictures), (visual_features, features)):
        if found is not None and ids.isdisjoint(found):
            raise ValueError(
                f"{place} has none of the tweets of {source}: an id there is {next(iter(found), None)!r}, one of the "
                f"tweets' is {next(iter(splits.values()))['id'][0]!r}"
            )
    if push_to_hub is not None:
        push_to_hub = create_repo(push_to_hub, repo_type="dataset", private=private)  # now, not after all the work

    remove_data_set(output)
    for config in ("text", "pictures") if pictures is not None else ("text",):
        (output / config).mkdir(parents=True, exist_ok=True)
    counts = {}
    for split, dataset in splits.items():
        file_name = f"{split}-00000-of-00001.parquet"
        pq.write_table(pa.table(dataset[:], schema=dataset.features.arrow_schema), output / "text" / file_name)
        counts[split] = count_entities(dataset) | {"pictures": 0, "unreadable": []}
        if pictures is not None:
            counts[split] |= write_pictures(output / "pictures" / file_name, dataset, pictures)
        print("{0}: {tweets} tweets, {entities} entities, {pictures} pictures".format(split, **counts[split]))
        for picture in counts[split]["unreadable"]:
            print(f"  {images / picture} cannot be read: its tweet is left without a picture")
    if pictures is not None and not any(count["pictures"] for count in counts.values()):
        raise ValueError(f"{images} has no picture that can be read: get it anew, or leave out --images")
    if features is not None and visual_features is not None:
        (output / "visual_features").mkdir(exist_ok=True)
        shutil.copyfile(visual_features, output / FEATURES_FILE)
        print(f"visual features: {len(features)} rows, {len(set(features) - ids)} of them of no tweet here")

    given = {"text": True, "pictures": pictures is not None, "visual_features": features is not None}
    configs = [config for config in CONFIGS if given[config]]
    facts = (name or source.resolve().name, files, splits, counts, features)
    card = data_set_card(f"path/to/{output.resolve().name}", configs, *facts)
    (output / "README.md").write_text(card, encoding="utf-8")
    print(f"{output} is ready for load_dataset")
    if push_to_hub is not None:
        public = [config for config in configs if config != "pictures" or push_pictures]
        publish(output, push_to_hub, public, data_set_card(push_to_hub, public, *facts))


def read_source(source: Path) -> tuple[DatasetDict, dict[str, Path]]:
    """Read the splits of the text files, and say which file each is from."""
    splits = load_tweets(source)
    files = {
        split: source / f"{alias}.txt"
        for split, aliases in SPLITS.items()
        for alias in aliases
        if (source / f"{alias}.txt").is_file()
    }
    for split, dataset in ((str(split), dataset) for split, dataset in splits.items()):
        if split not in files:
            raise ValueError(f"{source} holds the {split} split as Parquet: give a folder of text files")
        if "ner_tags" not in dataset.column_names:
            raise ValueError(f"{files[split]} has no tags: add them, or take the file out of {source}")
    return splits, files


def publish(output: Path, repo_id: str, configs: list[str], card: str) -> None:
    """Make `configs` of the data set the content of a repo, whose card is `card`."""
    files: dict[str, Path | bytes] = {
        file.relative_to(output).as_posix(): file for config in configs for file in data_files(output, config)
    }
    # The repo's card names what the repo holds, which may be less than what is here.
    files["README.md"] = card.encode()
    own_files = [f"{config}/*" for config in CONFIGS]
    try:
        commit = commit_files(files, repo_id, "Publish data set", repo_type="dataset", own_files=own_files)
    except PublishError as error:
        raise PublishError(f"{error} The new data set is complete in {output}.") from error
    print(f"{commit.repo_url} has {', '.join(configs)}, revision {commit.oid}")


def data_files(output: Path, config: str) -> list[Path]:
    """The Parquet files of a configuration, as this script calls them."""
    if config == "visual_features":
        return [output / FEATURES_FILE] if (output / FEATURES_FILE).is_file() else []
    return [file for split in SPLITS for file in (output / config).glob(f"{split}-*.parquet")]


def remove_data_set(output: Path) -> None:
    """Remove what an earlier run wrote to `output`; `data/` is where the tweets used to be."""
    for folder in (*CONFIGS, "data"):
        for file in data_files(output, folder):
            file.unlink()
        if (output / folder).is_dir() and not any((output / folder).iterdir()):
            (output / folder).rmdir()


def find_pictures(folder: Path) -> dict[str, Path]:
    """List the pictures of a folder by image id.

    The folder is listed and ids are looked up in the list, so that an id such as ../../etc/passwd finds nothing. Of
    links see `data_hamlearning.picture_files`.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: give --images the folder that holds <id>.jpg")
    files = [path for path in picture_files(folder, SUFFIXES) if path.is_file()]
    files.sort(key=lambda path: SUFFIXES.index(path.suffix.lower()), reverse=True)
    return {path.stem: path for path in files}


def write_pictures(target: Path, dataset: Dataset, pictures: dict[str, Path]) -> dict:
    """Write one split with the bytes of its pictures in it, and count them."""
    features = Features({**dataset.features, "image": Image()})
    unreadable: list[str] = []
    found, first = 0, None
    with pq.ParquetWriter(target, features.arrow_schema) as writer:
        for start in range(0, dataset.num_rows, ROW_GROUP):
            rows = dataset[start : start + ROW_GROUP]
            rows["image"] = []
            for row, image_id in enumerate(rows["id"], start):
                path = pictures.get(image_id)
                image = None
                if path is not None and is_readable(path):
                    image = {"bytes": path.read_bytes(), "path": path.name}
                    first = first or (row, Image().decode_example(image).size)
                elif path is not None:
                    unreadable.append(path.name)
                rows["image"].append(image)
                found += image is not None
            writer.write_table(pa.table(rows, schema=features.arrow_schema))
    missing = dataset.num_rows - found - len(unreadable)
    return {"pictures": found, "missing": missing, "unreadable": unreadable, "first": first}


def is_readable(path: Path) -> bool:
    """Decode the whole picture: published folders hold a few that are cut short."""
    try:
        with Picture.open(path) as picture:
            picture.load()
    except (OSError, SyntaxError, ValueError, DecompressionBombError):
        return False
    return True


def count_entities(dataset: Dataset) -> dict:
    """Count tweets, tokens and gold entities of one split."""
    names = dataset.features["ner_tags"].feature.names
    gold = [[names[tag] for tag in tags] for tags in dataset["ner_tags"]]
    scores: Any = MNERScores().compute(predictions=gold, references=gold)
    return {
        "tweets": len(gold),
        "tokens": sum(map(len, gold)),
        "entities": scores["gold_entities"],
        "strict_entities": scores["strict_gold_entities"],
        "orphan_i_tags": scores["orphan_i_tags"],
        "types": {type_: score["number"] for type_, score in scores["types"].items()},
    }


def data_set_card(
    address: str,
    configs: list[str],
    name: str,
    files: dict[str, Path],
    splits: DatasetDict,
    counts: dict[str, dict],
    features: VisualFeatures | None,
) -> str:
    """Write the data set card: YAML for the Hub, examples and tables for the reader.

    Args:
        address: What `load_dataset` is to be given.
        configs: Which of `CONFIGS` are there.
        name: What the data set is called.
        files: The text file of each split.
        splits: The tweets.
        counts: What was counted in each split.
        features: What the frozen eyes saw, if `configs` has it.
    """
    tweets = sum(count["tweets"] for count in counts.values())
    types = sorted({type_ for count in counts.values() for type_ in count["types"]})
    is_english = any(split_sha256(dataset) in ENGLISH_2014_TO_2017 for dataset in splits.values())
    paths = {config: [{"split": split, "path": f"{config}/{split}-*"} for split in splits] for config in configs}
    if "visual_features" in configs:
        # One file for all splits. "all" would say so, but `datasets` keeps that word for itself.
        paths["visual_features"] = [{"split": "features", "path": FEATURES_FILE}]
    header = DatasetCardData(
        pretty_name=name,
        language=["en"] if is_english else None,
        license="other",
        license_name="tweets-belong-to-their-authors",
        license_link="https://x.com/en/tos",
        task_categories=["token-classification"],
        task_ids=["named-entity-recognition"],
        size_categories=[next(size for limit, size in SIZE_CATEGORIES if tweets < limit)],
        source_datasets=["original"],
        configs=[
            {"config_name": config, **({"default": True} if config == "text" else {}), "data_files": paths[config]}
            for config in configs
        ],
    )
    contents = [
        ("Tweets", [count["tweets"] for count in counts.values()]),
        ("Tokens", [count["tokens"] for count in counts.values()]),
        *((f"{type_} entities", [count["types"].get(type_, 0) for count in counts.values()]) for type_ in types),
        ("Entities, seqeval's default mode", [count["entities"] for count in counts.values()]),
        ("Entities, strict IOB2", [count["strict_entities"] for count in counts.values()]),
        ("Entities that an I- tag opens", [count["orphan_i_tags"] for count in counts.values()]),
    ]
    if "pictures" in configs:
        contents += [
            ("Tweets with a picture", [count["pictures"] for count in counts.values()]),
            ("Tweets whose picture is missing", [count["missing"] for count in counts.values()]),
            ("Tweets whose picture is unreadable", [len(count["unreadable"]) for count in counts.values()]),
        ]
    if features is not None and "visual_features" in configs:
        seen = [sum(image_id in features for image_id in dataset["id"]) for dataset in splits.values()]
        contents.append(("Tweets with visual features", seen))
    shared = []
    for first, second in itertools.combinations_with_replacement(splits, 2):
        columns = [(map(tuple, splits[split]["tokens"]), splits[split]["id"]) for split in (first, second)]
        title = f"within {first}" if first == second else f"of {second}, also in {first}"
        shared.append((title, [repeats(*pair, within=first == second) for pair in zip(*columns, strict=True)]))
    sources = [
        (f"`{path.name}`", [f"`{file_sha256(path)}`", f"`{split_sha256(splits[split])}`"])
        for split, path in files.items()
    ]
    written = "The tweets were written in English between 2014 and 2017. " if is_english else ""
    parts = [
        f"---\n{header.to_yaml()}\n---",
        f"""# {name}

{tweets} tweets with their named entities, of the types {", ".join(types)}, for multimodal named entity recognition.
Made by HamLearning's `datasets/prepare.py` from files in the released text format.

**Whose tweets these are.** Tweets and pictures belong to the people who posted them, and the terms of X (Twitter)
hold. Who made this copy answers for the right to pass it on, and so do you if you pass it on; `license: other` gives
you no such right. A tweet that its author has deleted should go from every copy.""",
        load_examples(address, configs, splits, counts, features),
        f"""`id` names the picture, `tokens` and `ner_tags` are as long as each other.
{"`image` is null where there is no picture." if "pictures" in configs else "The pictures are not in this copy."}

## Contents

{markdown_table(["", *map(str, splits)], contents)}

In seqeval's default mode an I- tag that no B- opens begins an entity; in strict IOB2 it does not. The entities of each
type are counted in default mode.""",
        features_table(features) if features is not None and "visual_features" in configs else "",
        f"""## Duplicates

How many tweets have the tokens, and how many the image id, of another one.

{markdown_table(["Tweets", "same tokens", "same image id"], shared)}""",
        f"""## Limits and bias

{written}Only names of the types {", ".join(types)} are tagged, and nothing was corrected or removed.

What is learned from these tweets holds for such tweets. They name people and say whatever their authors wanted to say:
do not use them to find out about anyone.""",
        f"""## Sources

The second hash is `split_sha256`'s: that of the split in the released text format, however it is stored.

{markdown_table(["File", "SHA-256 of the file", "SHA-256 of the split"], sources)}""",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def load_examples(
    address: str, configs: list[str], splits: DatasetDict, counts: dict[str, dict], features: VisualFeatures | None
) -> str:
    """What a user would type for each configuration, and its output."""
    split = next(iter(splits))
    code = [
        "from datasets import load_dataset\n",
        f'tweets = load_dataset("{address}", "text")',
        f'print(tweets.num_rows, tweets["{split}"].column_names)',
    ]
    output = [f"{splits.num_rows} {splits[split].column_names}"]
    if "pictures" in configs:
        split, (row, size) = next((split, count["first"]) for split, count in counts.items() if count["first"])
        code += [
            f'\ntweet = load_dataset("{address}", "pictures", split="{split}")[{row}]',
            'print(tweet["id"], tweet["image"].size)',
        ]
        output.append(f"{splits[split]['id'][row]} {size}")
    if features is not None and "visual_features" in configs:
        code += [
            f'\nseen = load_dataset("{address}", "visual_features", split="features")',
            'print(seen.num_rows, len(seen[0]["image_features"]))',
        ]
        output.append(f"{len(features)} {features.image_feature_size}")
    return "\n".join(["## Load", "", "```python", *code, "```", "```", *output, "```"])


def features_table(features: VisualFeatures) -> str:
    """What the visual features are, as far as their file says."""
    made_by = features.metadata.get("vision_config", {})
    facts = {
        "Made by": features.metadata.get("producer"),
        "Picture": made_by.get("global_backbone_config", {}).get("architecture"),
        "Regions": made_by.get("detector"),
        "SHA-256 of the weights": features.metadata.get("vision_sha256"),
        "Classes of regions": features.num_classes,
        "Numbers a picture": features.image_feature_size,
        "Numbers a region": features.region_feature_size,
        "Rows": len(features),
        "SHA-256 of the file": file_sha256(features.path),
    }
    return f"""## Visual features

What frozen vision models saw of the pictures: one row an image id, regions with the best score first, boxes
(x_c, y_c, h, w) as shares of the picture. The file is one for `run_mner.py --visual_features`; its schema's metadata
names the classes.

{markdown_table(["", f"`{FEATURES_FILE}`"], [(title, [fact]) for title, fact in facts.items() if fact is not None])}"""


def file_sha256(path: Path) -> str:
    """Hash a file without taking it into memory whole."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def repeats(first: Iterable, second: Iterable, within: bool) -> int:
    """How many items of `second` stand in `first`; `within` one split, how many stand there before."""
    if within:
        return sum(count - 1 for count in Counter(second).values())
    first = set(first)
    return sum(item in first for item in second)


def markdown_table(header: list[str], rows: list[tuple[str, list]]) -> str:
    """Lay out titled rows."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *([title, *map(str, cells)] for title, cells in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(command_line: list[str] | None = None) -> None:
    """Read the command line, and end with status 1 and one line on what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SOURCE", type=Path, help="folder of train.txt, valid.txt and test.txt")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="folder to make")
    parser.add_argument("--images", type=Path, help="folder of the pictures, <id>.jpg, <id>.jpeg or <id>.png")
    parser.add_argument("--visual_features", type=Path, help="what frozen vision models saw of the pictures")
    parser.add_argument("--name", help="the data set's name in its card (default: SOURCE's own)")
    parser.add_argument("--overwrite", action="store_true", help="replace the data set that OUTPUT holds")
    parser.add_argument("--push_to_hub", metavar="ORG/NAME", help="publish text, visual features and card")
    parser.add_argument("--push_pictures", action="store_true", help="publish the pictures too")
    parser.add_argument("--private", action="store_true", default=None, help="make a new repo private")
    command_line = sys.argv[1:] if command_line is None else command_line
    arguments = parser.parse_args(command_line)
    try:
        prepare(**vars(arguments))
    except PublishError as error:
        again = [os.path.relpath(__file__), *command_line, *([] if arguments.overwrite else ["--overwrite"])]
        parser.exit(1, f"error: {error} Try again: python {shlex.join(again)}\n")
    except (OSError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
