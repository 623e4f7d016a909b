"""The card of a prepared data set: YAML for the Hub, examples and tables for the reader."""

import itertools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from datasets import DatasetDict
from huggingface_hub import DatasetCardData

from hamlearning.data.features import VisualFeatures
from hamlearning.data.files import file_sha256
from hamlearning.data.tweets import split_sha256


# `split_sha256` of the train splits of Twitter-2015 and Twitter-2017. Of other tweets nobody here knows the language.
ENGLISH_2014_TO_2017 = (
    "a210814793b78a69ee7d3cb5bf665c032d5cd0b4af83352965405db9dd452a7f",
    "801e149e8635b19d66b4ec1212c329be340ada501b35c5fa55455fb6f53633be",
)
SIZE_CATEGORIES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
)
FEATURES_FILE = "visual_features/visual_features.parquet"


def data_set_card(
    address: str,
    configs: list[str],
    name: str,
    files: dict[str, list[Path]],
    splits: DatasetDict,
    counts: dict[str, dict],
    features: VisualFeatures | None,
) -> str:
    """Write the data set card: YAML for the Hub, examples and tables for the reader. It is long as the card's text is.

    Args:
        address: What `load_dataset` is to be given.
        configs: Which of `CONFIGS` are there.
        name: What the data set is called.
        files: Of each split.
        splits: The tweets.
        counts: What was counted in each split.
        features: The visual features, if `configs` has it.
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
        for split, paths in files.items()
        for path in paths
    ]
    written = "The tweets were written in English between 2014 and 2017. " if is_english else ""
    parts = [
        f"---\n{header.to_yaml()}\n---",
        f"""# {name}

{tweets} tweets with their named entities, of the types {", ".join(types)}, for multimodal named entity recognition.
Made by HamLearning's `hamlearning prepare` from {sources_named(files)}.

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


def sources_named(files: dict[str, list[Path]]) -> str:
    """The kinds of files that a data set was made from."""
    kinds = sorted({path.suffix.lower() for paths in files.values() for path in paths})
    return f"files of the kind {', '.join(f'`{kind}`' for kind in kinds)}"


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

Features of the pictures by frozen vision models: one row an image id, regions with the best score first, boxes
(x_c, y_c, h, w) as shares of the picture. The file is one for `hamlearning train --visual_features`; its schema's
metadata names the classes.

{markdown_table(["", f"`{FEATURES_FILE}`"], [(title, [fact]) for title, fact in facts.items() if fact is not None])}"""


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
