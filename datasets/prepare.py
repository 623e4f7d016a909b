"""Make a data set that `datasets.load_dataset` reads from tagged tweets and, if at hand, their pictures.

    $ python datasets/prepare.py released/twitter2017 prepared/twitter2017 --images released/twitter2017_images
    train: 3373 tweets, 6049 entities, 3373 pictures
    validation: 723 tweets, 1324 entities, 723 pictures
    test: 723 tweets, 1351 entities, 723 pictures
    prepared/twitter2017 is ready for load_dataset

SOURCE holds train.txt, valid.txt (or validation.txt, dev.txt) and test.txt in the released text format: for each tweet
a line IMGID:<id>, a line token<TAB>tag for each token, and a blank line. A line that does not follow it is named with
its file, and nothing is written. OUTPUT gets one Parquet file a split, with the pictures in it, and a data set card.
"""

import argparse
import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Features, Image
from huggingface_hub import DatasetCardData
from PIL import Image as Picture
from PIL.Image import DecompressionBombError

from data_hamlearning import SPLITS, load_tweets, split_sha256
from mner_scores import MNERScores


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
    source: Path, output: Path, images: Path | None = None, name: str | None = None, overwrite: bool = False
) -> None:
    """Write the data set of the text files in `source` to `output`.

    Args:
        source: The folder of the text files.
        output: The folder to make: `data/<split>-00000-of-00001.parquet` and `README.md`.
        images: The folder of the pictures, `<id>.jpg`, `.jpeg` or `.png`. Without it every image is null, as it is
            for a tweet whose picture is missing or unreadable.
        name: The data set's name in its card; that of `source` if None.
        overwrite: Whether `output` may hold something. Only what this function writes is replaced.

    Raises:
        FileNotFoundError: `source` or `images` is missing.
        FileExistsError: `output` is `source`, or holds something and `overwrite` is False.
        ValueError: A file of `source` is malformed or without tags; the message names file and line.
    """
    if output.resolve() == source.resolve():
        raise FileExistsError(f"SOURCE and OUTPUT are both {output}: choose another folder for the data set")
    if output.exists() and (not output.is_dir() or any(output.iterdir())) and not overwrite:
        raise FileExistsError(f"{output} is not an empty folder: choose another one, or add --overwrite")
    splits = load_tweets(source)
    files = {
        split: source / f"{alias}.txt"
        for split, aliases in SPLITS.items()
        for alias in aliases
        if (source / f"{alias}.txt").is_file()
    }
    for split, dataset in splits.items():
        if split not in files:
            raise ValueError(f"{source} holds the {split} split as Parquet: give a folder of text files")
        if "ner_tags" not in dataset.column_names:
            raise ValueError(f"{files[split]} has no tags: add them, or take the file out of {source}")
    pictures = find_pictures(images) if images is not None else {}

    (output / "data").mkdir(parents=True, exist_ok=True)
    for stale in [path for split in SPLITS for path in (output / "data").glob(f"{split}-*.parquet")]:
        stale.unlink()
    counts = {}
    for split, dataset in splits.items():
        target = output / "data" / f"{split}-00000-of-00001.parquet"
        counts[split] = {**count_entities(dataset), **write_split(target, dataset, pictures)}
        print("{0}: {tweets} tweets, {entities} entities, {pictures} pictures".format(split, **counts[split]))
        for picture in counts[split]["unreadable"]:
            print(f"  {images / picture} cannot be read: its tweet is left without a picture")
    card = data_set_card(name or source.resolve().name, files, splits, counts)
    (output / "README.md").write_text(card, encoding="utf-8")
    print(f"{output} is ready for load_dataset")


def find_pictures(folder: Path) -> dict[str, Path]:
    """List the pictures of a folder by image id.

    The folder is listed and ids are looked up in the list, so that an id such as ../../etc/passwd finds nothing.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: give --images the folder that holds <id>.jpg")
    files = [Path(entry.path) for entry in os.scandir(folder) if entry.is_file()]
    files = [path for path in files if path.suffix.lower() in SUFFIXES]
    files.sort(key=lambda path: SUFFIXES.index(path.suffix.lower()), reverse=True)
    return {path.stem: path for path in files}


def write_split(target: Path, dataset: Dataset, pictures: dict[str, Path]) -> dict:
    """Write one split with the bytes of its pictures in it, and count them."""
    features = Features({**dataset.features, "image": Image()})
    unreadable: list[str] = []
    found = 0
    with pq.ParquetWriter(target, features.arrow_schema) as writer:
        for start in range(0, dataset.num_rows, ROW_GROUP):
            rows = dataset[start : start + ROW_GROUP]
            rows["image"] = []
            for image_id in rows["id"]:
                path = pictures.get(image_id)
                image = None
                if path is not None and is_readable(path):
                    image = {"bytes": path.read_bytes(), "path": path.name}
                elif path is not None:
                    unreadable.append(path.name)
                rows["image"].append(image)
                found += image is not None
            writer.write_table(pa.table(rows, schema=features.arrow_schema))
    missing = dataset.num_rows - found - len(unreadable)
    return {"pictures": found, "missing": missing, "unreadable": unreadable}


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
    scores = MNERScores().compute(predictions=gold, references=gold)
    return {
        "tweets": len(gold),
        "tokens": sum(map(len, gold)),
        "entities": scores["gold_entities"],
        "strict_entities": scores["strict_gold_entities"],
        "orphan_i_tags": scores["orphan_i_tags"],
        "types": {type_: score["number"] for type_, score in scores["types"].items()},
    }


def data_set_card(name: str, files: dict[str, Path], splits: DatasetDict, counts: dict[str, dict]) -> str:
    """Write the data set card: YAML for the Hub, tables for the reader."""
    tweets = sum(count["tweets"] for count in counts.values())
    header = DatasetCardData(
        pretty_name=name,
        language=["en"],
        license="other",
        task_categories=["token-classification"],
        task_ids=["named-entity-recognition"],
        size_categories=[next(size for limit, size in SIZE_CATEGORIES if tweets < limit)],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*"} for split in splits],
            }
        ],
    )
    types = sorted({type_ for count in counts.values() for type_ in count["types"]})
    contents = [
        ("Tweets", [count["tweets"] for count in counts.values()]),
        ("Tokens", [count["tokens"] for count in counts.values()]),
        *((f"{type_} entities", [count["types"].get(type_, 0) for count in counts.values()]) for type_ in types),
        ("Entities, seqeval's default mode", [count["entities"] for count in counts.values()]),
        ("Entities, strict IOB2", [count["strict_entities"] for count in counts.values()]),
        ("Entities that an I- tag opens", [count["orphan_i_tags"] for count in counts.values()]),
        ("Tweets with a picture", [count["pictures"] for count in counts.values()]),
        ("Tweets whose picture is missing", [count["missing"] for count in counts.values()]),
        ("Tweets whose picture is unreadable", [len(count["unreadable"]) for count in counts.values()]),
    ]
    shared = []
    for first, second in itertools.combinations_with_replacement(splits, 2):
        columns = [(map(tuple, splits[split]["tokens"]), splits[split]["id"]) for split in (first, second)]
        title = f"within {first}" if first == second else f"of {second}, also in {first}"
        shared.append((title, [repeats(*pair, within=first == second) for pair in zip(*columns, strict=True)]))
    sources = [
        (f"`{path.name}`", [f"`{hashlib.sha256(path.read_bytes()).hexdigest()}`", f"`{split_sha256(splits[split])}`"])
        for split, path in files.items()
    ]
    return f"""---
{header.to_yaml()}
---

# {name}

Tweets and their pictures for multimodal named entity recognition, made by HamLearning's `datasets/prepare.py` from
files in the released text format. Tweets and pictures belong to their authors: see what terms hold before you pass
them on.

`id` names the picture, `tokens` and `ner_tags` are as long as each other, and `image` is null where there is no
picture.

## Contents

{markdown_table(["", *splits], contents)}

In seqeval's default mode an I- tag that no B- opens begins an entity; in strict IOB2 it does not. The entities of each
type are counted in default mode.

## Duplicates

How many tweets have the tokens, and how many the image id, of another one.

{markdown_table(["Tweets", "same tokens", "same image id"], shared)}

## Sources

The second hash is `split_sha256`'s: that of the split in the released text format, however it is stored.

{markdown_table(["File", "SHA-256 of the file", "SHA-256 of the split"], sources)}
"""


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
    parser.add_argument("--name", help="the data set's name in its card (default: SOURCE's own)")
    parser.add_argument("--overwrite", action="store_true", help="replace the data set that OUTPUT holds")
    arguments = parser.parse_args(command_line)
    try:
        prepare(**vars(arguments))
    except (OSError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
