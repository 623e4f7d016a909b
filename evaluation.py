#!/usr/bin/env python
"""Score predictions, whoever made them: gold and predicted tags in, everything that tells two systems apart out.

```bash
python evaluation.py outputs/demo/predictions_test.jsonl                         # it holds the gold tags
python evaluation.py twitter2017/test.txt mtmner_pred.txt --train twitter2017/train.txt    # a peer's file
python evaluation.py twitter2017/test.txt one.jsonl --against two.jsonl --samples 10000    # is one better than two?
```

Or from Python, on lists of tags:

```python
>>> evaluate_tags([["B-PER", "O"], ["B-LOC"]], [["B-PER", "O"], ["O"]])["f1"]
0.6666666666666666
>>> compare([["B-PER"]] * 9, [["B-PER"]] * 9, [["O"]] * 9)["p_value"]
0.004995004995004995
```
"""

import argparse
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from datasets import ClassLabel, Dataset, Features, List, Value
from numpy.typing import ArrayLike
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB2, Entities

from data_hamlearning import load_tweets, read_tweets, split_sha256
from mner_scores import MNERScores, score_table
from processing_hamlearning import SURROGATES


Tags = Sequence[Sequence[str]]  # one list a tweet, one tag a word
Entity = tuple[str, int, int]  # type, first word, last word

# What BERT code writes at a position that begins no word. As a word, X may well be one.
_NO_TAGS = {"X", "[CLS]", "[SEP]", "[PAD]", "<pad>", "<s>", "</s>"}
_NO_WORDS = _NO_TAGS - {"X"}
_TAG = re.compile(r"O|[BI]-\S+")
_SAME_TWEETS = "give the predictions of the same tweets, all of them, in the same order"
_CHUNK = 256  # samples at a time: 7 MB of weights for 3,257 tweets


# ----------------------------------------------------------------------------------------------------------- scores


def evaluate_tags(
    gold: Tags,
    predicted: Tags,
    tokens: Sequence[Sequence[str]] | None = None,
    known: set[tuple[str, str]] | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything that one system's predictions are scored by.

    ```python
    >>> scores = evaluate_tags([["B-PER", "I-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "O", "O"]])
    >>> scores["f1"], scores["words"]["1"]["recall"], scores["words"]["2"]["recall"]
    (0.6666666666666666, 0.0, 1.0)
    ```

    An entity, gold or predicted, belongs to a group by its own words, so that each group has its precision, its recall
    and its F1, and what was found in a group is counted once.

    Args:
        gold: The gold tags.
        predicted: As many for each tweet.
        tokens: The words of the tweets. Only seen and unseen mentions need them.
        known: The `mentions` of the training tweets; without them nothing is said on seen and unseen.
        samples: How many samples the confidence intervals rest on.
        seed: Of the samples.

    Returns:
        What `MNERScores` returns, and
        `predicted_orphan_i_tags`: how many predicted entities of default mode open with an I- tag,
        `words`: precision, recall, f1 and number (of gold entities) of entities of "1", "2" and "3+" words,
        `mentions` (with `known`): the same of "seen" and "unseen" ones,
        `intervals`: f1 and strict_f1, each [low, high]: 95 %, percentile bootstrap over tweets.

    Raises:
        ValueError: There is no tweet, numbers of tweets or of tags differ, or a tag is not O, B-TYPE or I-TYPE.
    """
    # In memory: the metric would else write a file that runs beside this one wait for.
    scores: dict[str, Any] = MNERScores(keep_in_memory=True).compute(predictions=predicted, references=gold) or {}
    scores["predicted_orphan_i_tags"] = sum(
        tags[first].startswith("I-")
        for tags, found in zip(predicted, _entities(predicted), strict=True)
        for _, first, _ in found
    )
    scores["words"] = _group_scores(
        gold, predicted, ("1", "2", "3+"), lambda tweet, entity: ("1", "2", "3+")[min(entity[2] - entity[1], 2)]
    )
    if known is not None:
        scores["mentions"] = _group_scores(
            gold,
            predicted,
            ("seen", "unseen"),
            lambda tweet, entity: "seen" if _mention((tokens or [])[tweet], entity) in known else "unseen",
        )
    counts = np.concatenate([entity_counts(gold, predicted), entity_counts(gold, predicted, strict=True)], axis=1)
    resampled = _bootstrap(counts, samples, np.random.default_rng(seed))
    scores["intervals"] = {"f1": _interval(_f1(resampled[:, :3])), "strict_f1": _interval(_f1(resampled[:, 3:]))}
    return scores


def compare(gold: Tags, one: Tags, other: Tags, samples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Whether one system is better than another, on the same tweets, by default-mode F1.

    ```python
    >>> compare([["B-PER"]] * 9, [["B-PER"]] * 9, [["O"]] * 9)
    {'f1': 1.0, 'other_f1': 0.0, 'difference': 1.0, 'interval': [1.0, 1.0], 'p_value': 0.004995004995004995}
    ```

    Args:
        gold: The gold tags.
        one: One system's.
        other: The other's.
        samples: How often tweets are resampled, and how often predictions are swapped.
        seed: Of both.

    Returns:
        `f1`, `other_f1`, `difference` (the first less the second), `interval` (of the difference: 95 %, percentile
        bootstrap over tweets, the same tweets for both) and `p_value`, two-sided: of approximate randomisation, in
        which the two predictions of each tweet are swapped by the toss of a coin; (1 + how many differences are at
        least as large as the observed one) / (1 + samples).

    Raises:
        ValueError: There is no tweet, or numbers of tweets or of tags differ.
    """
    return compare_counts(entity_counts(gold, one)[None], entity_counts(gold, other)[None], samples, seed)


def compare_counts(counts: ArrayLike, other_counts: ArrayLike, samples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Whether one system is better than another, each trained with several seeds, by the mean of their F1.

    What is drawn is the tweet, with all seeds' predictions of it: so the answer is about other tweets of this kind,
    not about other seeds.

    Args:
        counts: (seeds, tweets, 3), the `entity_counts` of one system.
        other_counts: (seeds, tweets, 3), the other's.
        samples: How often tweets are resampled, and how often predictions are swapped.
        seed: Of both.

    Returns:
        What `compare` returns, means over the seeds.

    Raises:
        ValueError: The shapes differ.
    """
    counts, other_counts = np.asarray(counts), np.asarray(other_counts)
    if counts.shape != other_counts.shape:
        raise ValueError(
            f"counts {counts.shape} and {other_counts.shape}: both must be (seeds, tweets, 3), of the same tweets and "
            "as many seeds"
        )
    seeds, tweets = counts.shape[:2]

    def mean_f1(summed: np.ndarray) -> np.ndarray:  # (..., seeds, 3)
        return _f1(summed).mean(axis=-1)

    difference = mean_f1(counts.sum(axis=1)) - mean_f1(other_counts.sum(axis=1))
    rng = np.random.default_rng(seed)
    both = np.stack([counts, other_counts], axis=1)  # (seeds, 2, tweets, 3)
    resampled = _bootstrap(np.moveaxis(both, 2, 0).reshape(tweets, -1), samples, rng).reshape(samples, seeds, 2, 3)

    gain = np.moveaxis(other_counts - counts, 1, 0).reshape(tweets, -1)  # (tweets, seeds * 3)
    gain = gain[gain.any(axis=1)].astype(float)  # to swap what is counted alike changes nothing
    as_large = 0
    for size in _chunks(samples):
        moved = (rng.integers(2, size=(size, len(gain))).astype(float) @ gain).reshape(size, seeds, 3)
        differences = mean_f1(counts.sum(axis=1) + moved) - mean_f1(other_counts.sum(axis=1) - moved)
        # The same difference may come out of other counts, rounded otherwise.
        as_large += int((np.abs(differences) >= abs(difference) - 1e-12).sum())
    return {
        "f1": float(mean_f1(counts.sum(axis=1))),
        "other_f1": float(mean_f1(other_counts.sum(axis=1))),
        "difference": float(difference),
        "interval": _interval(mean_f1(resampled[:, :, 0]) - mean_f1(resampled[:, :, 1])),
        "p_value": (1 + as_large) / (1 + samples),
    }


def entity_counts(gold: Tags, predicted: Tags, strict: bool = False) -> np.ndarray:
    """Count the entities of each tweet: those found (of the right type and extent), those predicted, those of gold.

    ```python
    >>> entity_counts([["B-PER", "O"], ["B-LOC", "I-LOC"]], [["B-PER", "O"], ["B-LOC", "O"]]).tolist()
    [[1, 1, 1], [0, 1, 1]]
    ```

    Args:
        gold: The gold tags.
        predicted: As many for each tweet.
        strict: Count as strict IOB2 does, not as seqeval's default mode.

    Returns:
        Integers of shape (tweets, 3).

    Raises:
        ValueError: There is no tweet, or numbers of tweets or of tags differ.
    """
    if not gold or len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} tweets with gold tags, {len(predicted)} with predictions: give both of each")
    for tweet, (tags, predictions) in enumerate(zip(gold, predicted, strict=True)):
        if len(tags) != len(predictions):
            raise ValueError(
                f"tweet {tweet} has {len(predictions)} predictions but {len(tags)} gold tags: give one prediction a "
                "word"
            )
    pairs = zip(_entities(gold, strict), _entities(predicted, strict), strict=True)
    return np.array([[len(there & found), len(found), len(there)] for there, found in pairs]).reshape(-1, 3)


def mentions(tokens: Sequence[Sequence[str]], tags: Tags) -> set[tuple[str, str]]:
    """The entities of some tweets as (type, text), the words joined by spaces; letter case stays.

    ```python
    >>> mentions([["in", "New", "York"]], [["O", "B-LOC", "I-LOC"]])
    {('LOC', 'New York')}
    ```
    """
    found = zip(tokens, _entities(tags), strict=True)
    return {_mention(words, entity) for words, entities in found for entity in entities}


def _mention(words: Sequence[str], entity: Entity) -> tuple[str, str]:
    type_, first, last = entity
    return type_, " ".join(words[first : last + 1])


def _entities(tags: Tags, strict: bool = False) -> list[set[Entity]]:
    if strict:
        found = Entities([list(sequence) for sequence in tags], IOB2).entities
        return [{entity.to_tuple()[1:] for entity in entities} for entities in found]
    return [set(get_entities(list(sequence))) for sequence in tags]


def _group_scores(
    gold: Tags, predicted: Tags, groups: Sequence[str], group_of: Callable[[int, Entity], str]
) -> dict[str, dict[str, float]]:
    there, found, right = Counter(), Counter(), Counter()
    for tweet, (of_gold, of_prediction) in enumerate(zip(_entities(gold), _entities(predicted), strict=True)):
        for counter, entities in ((there, of_gold), (found, of_prediction), (right, of_gold & of_prediction)):
            counter.update(group_of(tweet, entity) for entity in entities)
    return {
        group: {
            "precision": right[group] / max(found[group], 1),
            "recall": right[group] / max(there[group], 1),
            "f1": 2 * right[group] / max(found[group] + there[group], 1),
            "number": there[group],
        }
        for group in groups
    }


def _f1(counts: np.ndarray) -> np.ndarray:
    """F1 of (found, predicted, gold) along the last axis; 0 where there is nothing to find and nothing was found."""
    return 2 * counts[..., 0] / np.maximum(counts[..., 1] + counts[..., 2], 1)


def _bootstrap(counts: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Sum the counts (tweets, k) over as many tweets, drawn with replacement: (samples, k)."""
    tweets = len(counts)
    sums = []
    for size in _chunks(samples):
        drawn = rng.integers(tweets, size=(size, tweets)) + tweets * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * tweets).reshape(size, tweets)
        sums.append(times.astype(float) @ counts.astype(float))
    return np.concatenate(sums)


def _chunks(samples: int) -> Iterator[int]:
    yield from (min(_CHUNK, samples - done) for done in range(0, samples, _CHUNK))


def _interval(values: np.ndarray) -> list[float]:
    return np.percentile(values, [2.5, 97.5]).tolist()


# ------------------------------------------------------------------------------------------------------------ files


@dataclass
class _Tweet:
    """One tweet of a prediction file; `words` and `gold` are None where the file has none."""

    line: int
    id: str | None
    words: list[str] | None
    gold: list[str] | None
    tags: list[str]


def read_gold(path: str | os.PathLike, split: str = "test") -> dict[str, Any]:
    """Read tagged tweets.

    ```python
    >>> read_gold("twitter2017/test.txt")["sha256"][:12]
    'a7d9e172ae85'
    ```

    Half a surrogate pair, which JSON can hold and UTF-8 cannot, is read as U+FFFD, as the processor reads it.

    Args:
        path: A file of the released text format, a prediction file of `run_mner.py` (*.jsonl), or a folder that
            `load_tweets` reads.
        split: Which split of a folder.

    Returns:
        `id`, `tokens` and `ner_tags`, a list each, one entry a tweet, and `sha256`, the split's hash (see
        `split_sha256`).

    Raises:
        OSError: There is no such file.
        ValueError: It is malformed or holds no tags; the message names file and line.
    """
    path = Path(path)
    dataset: Dataset | None = None
    if path.is_dir():
        splits = load_tweets(path)
        if split not in splits:
            raise ValueError(f"{path} holds no split {split!r}, only {', '.join(map(str, splits))}: give --split")
        if "ner_tags" in splits[split].column_names:
            dataset = splits[split]
    else:
        if path.suffix == ".jsonl":
            tweets = _read_jsonl(path)
            columns: dict[str, list] = {
                "id": [tweet.id for tweet in tweets],
                "tokens": [tweet.words for tweet in tweets],
                "ner_tags": [tweet.gold for tweet in tweets],
            }
            is_tagged = None not in columns["ner_tags"]
        else:
            columns = read_tweets(path)
            is_tagged = "ner_tags" in columns
        if is_tagged:
            names = sorted({tag for tags in columns["ner_tags"] for tag in tags})
            features = {
                "id": Value("string"),
                "tokens": List(Value("string")),
                "ner_tags": List(ClassLabel(names=names)),
            }
            dataset = Dataset.from_dict(columns, features=Features(features))
    if dataset is None:
        raise ValueError(f"{path} holds tweets without gold tags: give the tagged file as GOLD")
    names = dataset.features["ner_tags"].feature.names
    return {
        "id": dataset["id"][:],
        "tokens": dataset["tokens"][:],
        "ner_tags": [[names[tag] for tag in tags] for tags in dataset["ner_tags"]],
        "sha256": split_sha256(dataset),
    }


def read_predictions(
    path: str | os.PathLike, gold: Mapping[str, Any], fill_with_o: bool = False
) -> tuple[list[list[str]], dict[str, int]]:
    """Read what a system predicted for the tweets of `gold`, and check that it is about them.

    ```python
    >>> predicted, notes = read_predictions("mtmner_pred.txt", read_gold("twitter2017/test.txt"))
    >>> notes
    {'dropped': 0, 'no_tag': 3, 'filled': 0, 'other_gold': 0}
    ```

    Three forms are read:
    *.jsonl of `run_mner.py`;
    columns, divided by tabs or spaces, a blank line (or a line `IMGID:<id>`) between tweets: the last is the predicted
    tag, the one before it the gold tag if it holds nothing but tags, the first the word if one is left;
    the lines that BERT-based systems of the UMT family write of a tweet: the name of its picture (or nothing), its
    words, the predicted tags, the gold tags, and a blank line.

    Rows of X, [CLS], [SEP] and padding are no words and are dropped: which rows these are, the gold column says, and
    where there is none, the predicted tag, unless the file's words are just those of gold. X and its like, predicted
    for a word, count as O. OTHER is MISC.

    Args:
        path: The file, UTF-8.
        gold: What `read_gold` returns.
        fill_with_o: Whether a tweet may have fewer predictions than words. The last words count as O then.

    Returns:
        The tags, as many for each tweet as it has words, and how many rows were dropped (`dropped`), how many words
        had X or the like predicted (`no_tag`) or nothing (`filled`), and how many tweets have other gold tags in this
        file than in `gold`, which is what counts (`other_gold`).

    Raises:
        OSError: There is no such file.
        ValueError: It is malformed, or is about other tweets; the message names file, line and tweet.
    """
    path = Path(path)
    tweets = _read_jsonl(path) if path.suffix == ".jsonl" else _read_text(path)
    expected = list(zip(gold["id"], gold["tokens"], gold["ner_tags"], strict=True))
    notes: dict[str, int] = dict.fromkeys(("dropped", "no_tag", "filled", "other_gold"), 0)
    predicted = []
    # A missing or surplus tweet shows first where words differ: there its cause is found.
    for number, (tweet, (id_, tokens, gold_tags)) in enumerate(zip(tweets, expected, strict=False), start=1):
        place = f"{path}, line {tweet.line}: tweet {number} ({id_!r} in the gold file)"
        if tweet.words is None and tweet.id not in (None, id_):
            raise ValueError(f"{place} is {tweet.id!r} here: {_SAME_TWEETS}")
        begins = _rows_that_begin_words(tweet, tokens)
        tags = [tag for tag, row in zip(tweet.tags, begins, strict=True) if row]
        _check_words(place, tweet, begins, tokens)
        if len(tags) > len(tokens):
            raise ValueError(
                f"{place} has {len(tags)} predictions for {len(tokens)} words: give one prediction a word, and mark "
                "other sub-tokens X"
            )
        if len(tags) < len(tokens) and not fill_with_o:
            raise ValueError(
                f"{place} has {len(tags)} predictions for {len(tokens)} words: give one prediction a word; if a "
                "length limit cut the tweet off, let --fill_with_o count its last words as O"
            )
        if tweet.gold is not None:
            own = [tag for tag, row in zip(tweet.gold, begins, strict=True) if row]
            notes["other_gold"] += own != gold_tags[: len(own)]
        notes["dropped"] += len(begins) - len(tags)
        notes["no_tag"] += sum(tag in _NO_TAGS for tag in tags)
        notes["filled"] += len(tokens) - len(tags)
        predicted.append(["O" if tag in _NO_TAGS else tag for tag in tags] + ["O"] * (len(tokens) - len(tags)))
    if len(tweets) != len(expected):
        last = tweets[min(len(tweets), len(expected) + 1) - 1]
        raise ValueError(
            f"{path}, line {last.line}: the file holds {len(tweets)} tweets and the gold file {len(expected)}, which "
            f"agree up to tweet {len(predicted)}: {_SAME_TWEETS}"
        )
    if notes["other_gold"] and predicted == gold["ner_tags"]:
        raise ValueError(
            f"{path}: the last column is the gold tags, and the column before it, taken for them, differs in "
            f"{notes['other_gold']} tweets: put the predicted tags last"
        )
    return predicted, notes


def _rows_that_begin_words(tweet: _Tweet, tokens: list[str]) -> list[bool]:
    """For each row of a tweet, whether it is the first of a word; sub-tokens, [CLS], [SEP] and padding are not."""
    if tweet.gold is not None:
        return [tag not in _NO_TAGS for tag in tweet.gold]
    if tweet.words is None:
        return [tag not in _NO_TAGS for tag in tweet.tags]
    # Where the words are whole, X is a wrong prediction and no mark of a sub-token.
    whole = tweet.words == tokens
    rows = zip(tweet.tags, tweet.words, strict=True)
    return [whole or (tag not in _NO_TAGS and word not in _NO_WORDS) for tag, word in rows]


def _check_words(place: str, tweet: _Tweet, begins: list[bool], tokens: list[str]) -> None:
    if tweet.words is None:
        return
    words = _joined_pieces(tweet, begins)
    for position, (word, token) in enumerate(zip(words, tokens, strict=False), start=1):
        # A tokenizer may have changed the letters of the words that it split, or not have known one.
        same = word == token if all(begins) else "[UNK]" in word or _plain(word) == _plain(token)
        if not same:
            raise ValueError(
                f"{place} has {word!r} where the gold file has {token!r} (word {position}): {_SAME_TWEETS}"
            )
    if len(words) > len(tokens):
        raise ValueError(f"{place} has {len(words)} words, the gold file {len(tokens)}: {_SAME_TWEETS}")


def _joined_pieces(tweet: _Tweet, begins: list[bool]) -> list[str]:
    """The words of a tweet, each joined from its word pieces."""
    words: list[str] = []
    pieces = tweet.words or []
    for word, first in zip(pieces, begins, strict=False):
        if first:
            words.append(word)
        elif words and word not in _NO_WORDS:
            words[-1] += word.removeprefix("##")
    # Words beyond the tags are those that a length limit cut off.
    return words + pieces[len(begins) :]


def _plain(word: str) -> str:
    """As an uncased tokenizer writes it: no capitals, no accents."""
    return "".join(c for c in unicodedata.normalize("NFD", word.lower()) if unicodedata.category(c) != "Mn")


def _is_tag(text: str) -> bool:
    return text in _NO_TAGS or _TAG.fullmatch(text) is not None


def _canonical(tag: str) -> str:
    """Twitter-2015 says OTHER where the literature, and Twitter-2017, say MISC."""
    return f"{tag[0]}-MISC" if tag in ("B-OTHER", "I-OTHER") else tag


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from None
    return [line.removesuffix("\r") for line in text.split("\n")]


def _read_jsonl(path: Path) -> list[_Tweet]:
    tweets = []
    for number, line in enumerate(_lines(path), start=1):
        if not line:
            continue

        def fail(problem: str, number: int = number) -> NoReturn:
            raise ValueError(f"{path}, line {number}: {problem}: give a predictions_*.jsonl of run_mner.py")

        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            fail(f"this is no JSON ({error})")
        if not isinstance(entry, dict):
            fail("this is no JSON object")
        lists: dict[str, Any] = {key: entry.get(key) for key in ("tokens", "ner_tags", "predictions")}
        for key, values in lists.items():
            if values is None and key == "ner_tags":
                continue
            if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
                fail(f"{key!r} is {values!r}, no list of strings")
            if len(values) != len(lists["tokens"]):
                fail(f"{len(lists['tokens'])} tokens but {len(values)} {key}")
            for tag in values if key != "tokens" else ():
                if not _TAG.fullmatch(tag):
                    fail(f"{key!r} holds {tag!r}, which is not O, B-TYPE or I-TYPE")
            # Here, for gold and predictions alike: so a tweet has the same words in both.
            lists[key] = [SURROGATES.sub("\ufffd", value) for value in values]
        gold = lists["ner_tags"]
        tweets.append(
            _Tweet(
                line=number,
                id=SURROGATES.sub("\ufffd", str(entry.get("id"))),
                words=lists["tokens"],
                gold=None if gold is None else [_canonical(tag) for tag in gold],
                tags=[_canonical(tag) for tag in lists["predictions"]],
            )
        )
    if not tweets:
        raise ValueError(f"{path} holds no tweet: give a predictions_*.jsonl of run_mner.py")
    return tweets


def _read_text(path: Path) -> list[_Tweet]:
    blocks: list[list[tuple[int, str]]] = []
    open_ = False
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip(" \t"):
            open_ = False
            continue
        if not open_ or line.startswith("IMGID:"):
            blocks.append([])
            open_ = True
        blocks[-1].append((number, line))
    if not blocks:
        raise ValueError(f"{path} holds no tweet: expected columns, the last of them the predicted tag")
    return _from_lines(path, blocks) if _is_written_in_lines(blocks[0]) else _from_columns(path, blocks)


def _is_written_in_lines(block: list[tuple[int, str]]) -> bool:
    lines = [line.strip(" ").split(" ") for _, line in block if not line.startswith("IMGID:")]
    if len(lines) not in (3, 4):
        return False
    words, predicted, gold = lines[-3:]
    # A gold line holds true tags alone: two rows [SEP] [SEP] [SEP] are columns.
    tags = all(map(_is_tag, predicted)) and all(map(_TAG.fullmatch, gold))
    return tags and not all(map(_is_tag, words)) and len(predicted) == len(gold)


def _from_lines(path: Path, blocks: list[list[tuple[int, str]]]) -> list[_Tweet]:
    tweets = []
    for tweet, block in enumerate(blocks, start=1):
        number = block[0][0]
        lines = [line.strip(" ").split(" ") for _, line in block]
        if len(lines) not in (3, 4) or len(lines[-1]) != len(lines[-2]):
            sizes = ", ".join(str(len(line)) for line in lines)
            raise ValueError(
                f"{path}, line {number}: tweet {tweet} has lines of {sizes} words: write each tweet as the first one, "
                "a line of words, one of predicted tags, one of as many gold tags"
            )
        for (at, _), tags in zip(block[-2:], lines[-2:], strict=True):
            _check_tags(f"{path}, line {at}: tweet {tweet}", tags)
        words, predicted, gold = lines[-3:]
        tweets.append(_Tweet(number, None, words, [*map(_canonical, gold)], [*map(_canonical, predicted)]))
    return tweets


def _from_columns(path: Path, blocks: list[list[tuple[int, str]]]) -> list[_Tweet]:
    tweets: list[tuple[int, str | None, list[list[str]]]] = []
    width = None
    for tweet, block in enumerate(blocks, start=1):
        number, first = block[0]
        id_ = first.removeprefix("IMGID:") if first.startswith("IMGID:") else None
        rows = []
        for at, line in block[id_ is not None :]:
            # Tweets hold words such as a no-break space: only what divides columns divides them here.
            fields = line.split("\t") if "\t" in line else line.strip(" ").split(" ")
            fields = [field for field in fields if field]
            width = width or len(fields)
            if len(fields) != width:
                raise ValueError(
                    f"{path}, line {at}: tweet {tweet} has {len(fields)} columns here, {line!r}, and the file's first "
                    f"row {width}: write the same columns in every row"
                )
            _check_tags(f"{path}, line {at}: tweet {tweet}", fields[-1:])
            rows.append(fields)
        tweets.append((number, id_, rows))
    if width is None:
        raise ValueError(f"{path} holds no tag: expected columns, the last of them the predicted tag")
    has_gold = width > 1 and all(_is_tag(fields[-2]) for _, _, rows in tweets for fields in rows)
    has_words = width > 1 + has_gold
    return [
        _Tweet(
            line=number,
            id=id_,
            words=[fields[0] for fields in rows] if has_words else None,
            gold=[_canonical(fields[-2]) for fields in rows] if has_gold else None,
            tags=[_canonical(fields[-1]) for fields in rows],
        )
        for number, id_, rows in tweets
    ]


def _check_tags(place: str, tags: Sequence[str]) -> None:
    for tag in tags:
        if not _is_tag(tag):
            raise ValueError(f"{place} has the tag {tag!r}: write O, B-TYPE or I-TYPE, or X for a sub-token")


# ------------------------------------------------------------------------------------------------------------- page


def to_markdown(result: Mapping[str, Any]) -> str:
    """What `main` prints: the scores, their intervals, the comparison if there is one, and how it was scored."""
    scores = result["scores"]
    low, high = scores["intervals"]["f1"]
    strict_low, strict_high = scores["intervals"]["strict_f1"]
    parts = [
        f"# {result['predictions']}",
        f"F1 **{100 * scores['f1']:.2f}** (95 % interval {100 * low:.2f} to {100 * high:.2f}); strict IOB2 "
        f"{100 * scores['strict_f1']:.2f} ({100 * strict_low:.2f} to {100 * strict_high:.2f})",
        score_table(scores),
    ]
    lines = ["| entities | P | R | F1 | gold |", "|---|---|---|---|---|"]
    groups = {
        "of 1 word": scores["words"]["1"],
        "of 2 words": scores["words"]["2"],
        "of 3 words and more": scores["words"]["3+"],
        **{f"{group} in training": values for group, values in scores.get("mentions", {}).items()},
    }
    for name, values in groups.items():
        percent = " | ".join(f"{100 * values[key]:.2f}" for key in ("precision", "recall", "f1"))
        lines.append(f"| {name} | {percent} | {values['number']} |")
    parts.append("\n".join(lines))
    if "comparison" in result:
        test = result["comparison"]
        low, high = test["interval"]
        parts.append(
            f"## Against {test['predictions']}\n\n"
            f"F1 {100 * test['f1']:.2f} against {100 * test['other_f1']:.2f}: difference "
            f"{100 * test['difference']:+.2f} (95 % interval {100 * low:+.2f} to {100 * high:+.2f}), "
            f"p = {test['p_value']:.4g}"
        )
    parts.append("## How it was scored\n\n" + "\n".join(f"- {choice}" for choice in result["choices"]))
    return "\n\n".join(parts)


def _choices(result: Mapping[str, Any], notes: Mapping[str, Mapping[str, int]], repeated: int) -> list[str]:
    scores, gold = result["scores"], result["gold"]
    choices = [
        f"Evaluator: seqeval {metadata.version('seqeval')}, whole entities, of the right type and extent. The "
        "headline, the types and the groups are default mode.",
        "An I- tag that no B- of its type opens begins an entity in default mode and none in strict IOB2. "
        f"{scores['orphan_i_tags']} of the {scores['gold_entities']} gold entities begin so, and "
        f"{scores['predicted_orphan_i_tags']} of the {scores['predicted_entities']} predicted ones.",
        f"Gold: {gold['path']}, {gold['tweets']} tweets, {scores['gold_entities']} entities, SHA-256 {gold['sha256']} "
        "(as a released text file, with MISC for OTHER).",
        "OTHER of Twitter-2015 counts as MISC, in gold and predictions.",
        f"Every tweet counts, {repeated} of them with the words of an earlier one.",
        "An entity belongs to a group by its own words, a predicted one by those predicted.",
    ]
    if "train" in result:
        train = result["train"]
        choices.append(
            "Seen: the same words, in the same letters, are an entity of the same type in "
            f"{train['path']} ({train['tweets']} tweets, SHA-256 {train['sha256']})."
        )
    for path, counts in notes.items():
        choices.append(
            f"{path}: {counts['dropped']} rows of sub-tokens, [CLS], [SEP] or padding were dropped. Words that count "
            f"as O for want of a tag: {counts['no_tag']} with X or the like predicted, {counts['filled']} cut off."
        )
        if counts["other_gold"]:
            choices.append(
                f"{path} holds other gold tags than the gold file for {counts['other_gold']} tweets: the gold file's "
                "count. Its own system's figure may rest on another version of the data."
            )
    choices.append(
        f"Intervals: percentile bootstrap, {result['samples']} samples of the tweets, seed {result['seed']}."
    )
    if "comparison" in result:
        choices.append(
            "p: approximate randomisation, two-sided, on default-mode F1; the predictions of a tweet are swapped "
            f"together, {result['samples']} times; (1 + differences at least as large) / (1 + samples)."
        )
    return choices


def main(command_line: list[str] | None = None) -> None:
    """Read the command line, and end with status 1 and one line on what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "gold",
        metavar="GOLD",
        nargs="?",
        help="tagged text file, folder, or .jsonl (default: PREDICTIONS, if a .jsonl)",
    )
    parser.add_argument("predictions", metavar="PREDICTIONS", help=".jsonl of run_mner.py, or a peer's text file")
    parser.add_argument("--against", metavar="PREDICTIONS", help="another system's, to compare with")
    parser.add_argument("--train", help="the training tweets, as GOLD: tells seen mentions from unseen")
    parser.add_argument("--split", default="test", help="of GOLD, if it is a folder (default: %(default)s)")
    parser.add_argument("--fill_with_o", action="store_true", help="words that a length limit cut off count as O")
    parser.add_argument("--samples", type=int, default=1000, help="of intervals and test (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the samples (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there too")
    args = parser.parse_intermixed_args(command_line)
    try:
        if args.samples < 1:
            raise ValueError(f"--samples is {args.samples}: give at least 1")
        if args.gold is None and not args.predictions.endswith(".jsonl"):
            raise ValueError(f"{args.predictions} is no .jsonl of run_mner.py: give GOLD before it")
        result = _evaluate_files(args)
        if args.json is not None:
            args.json.write_text(json.dumps(result, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        print(to_markdown(result))
    except (OSError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")


def _evaluate_files(args: argparse.Namespace) -> dict[str, Any]:
    gold_path = args.gold or args.predictions
    gold = read_gold(gold_path, args.split)
    tags, tokens = gold["ner_tags"], gold["tokens"]
    predicted, notes = read_predictions(args.predictions, gold, args.fill_with_o)
    result = {
        "predictions": args.predictions,
        "gold": {"path": gold_path, "tweets": len(tags), "sha256": gold["sha256"]},
        "samples": args.samples,
        "seed": args.seed,
    }
    known = None
    if args.train is not None:
        train = read_gold(args.train, "train")
        known = mentions(train["tokens"], train["ner_tags"])
        result["train"] = {"path": args.train, "tweets": len(train["tokens"]), "sha256": train["sha256"]}
    result["scores"] = evaluate_tags(tags, predicted, tokens, known, args.samples, args.seed)
    all_notes = {args.predictions: notes}
    if args.against is not None:
        other, all_notes[args.against] = read_predictions(args.against, gold, args.fill_with_o)
        comparison = compare(tags, predicted, other, args.samples, args.seed)
        result["comparison"] = {"predictions": args.against, **comparison}
    result["notes"] = all_notes
    result["choices"] = _choices(result, all_notes, len(tokens) - len(set(map(tuple, tokens))))
    return result


if __name__ == "__main__":
    main()
