"""Files of gold tags and of predictions, ours and those that other systems write."""

import json
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hamlearning.data.released import read_tweets, tweets_sha256
from hamlearning.data.schemes import TAG, canonical_tag
from words_hamlearning import SURROGATES, entity_spans


# What BERT code writes at a position that begins no word. As a word, X may well be one.
_NO_TAGS = {"X", "[CLS]", "[SEP]", "[PAD]", "<pad>", "<s>", "</s>"}
_NO_WORDS = _NO_TAGS - {"X"}
_SAME_TWEETS = "give the predictions of the same tweets, all of them, in the same order"


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
        path: A file of the released text format, a prediction file of a run (*.jsonl), or a folder that
            `load_tweets` reads.
        split: Which split of a folder.

    Returns:
        `id`, `tokens` and `ner_tags`, a list each, one entry a tweet, and `sha256`, the split's hash (see
        `tweets_sha256`).

    Raises:
        OSError: There is no such file.
        ValueError: It is malformed or holds no tags; the message names file and line.
    """
    path = Path(path)
    if path.is_dir():
        columns = _read_split(path, split)
    elif path.suffix == ".jsonl":
        tweets = _read_jsonl(path)
        columns = {"id": [tweet.id for tweet in tweets], "tokens": [tweet.words for tweet in tweets]}
        if all(tweet.gold is not None for tweet in tweets):
            columns["ner_tags"] = [tweet.gold for tweet in tweets]
    else:
        columns = read_tweets(path)
    if "ner_tags" not in columns:
        raise ValueError(f"{path} holds tweets without gold tags: give the tagged file as GOLD")
    rows = zip(*columns.values(), strict=True)
    return columns | {"sha256": tweets_sha256(dict(zip(columns, row, strict=True)) for row in rows)}


def _read_split(folder: Path, split: str) -> dict[str, list]:
    """`id`, `tokens` and, if it is tagged, `ner_tags` of a split."""
    from hamlearning.data.tweets import load_tweets, tag_names  # with `datasets` and Arrow: files need neither

    splits = load_tweets(folder)
    if split not in splits:
        raise ValueError(f"{folder} holds no split {split!r}, only {', '.join(map(str, splits))}: give --split")
    dataset = splits[split]
    columns = {name: dataset[name][:] for name in ("id", "tokens")}
    return columns | ({"ner_tags": tag_names(dataset)} if "ner_tags" in dataset.column_names else {})


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
    *.jsonl of a run;
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


def read_span_scores(
    path: str | os.PathLike, tags: Sequence[Sequence[str]]
) -> list[dict[tuple[str, int, int], float]]:
    """The scores of the entities of a run's predictions.

    Args:
        path: predictions_*.jsonl of a run.
        tags: what `read_predictions` read of it.

    Returns:
        A dict a tweet, by (type, first word, word after the last).

    Raises:
        ValueError: the file is no .jsonl, or an entity is malformed; the message names file and line.
    """
    if Path(path).suffix != ".jsonl":
        raise ValueError(f"{path} holds no scores of entities: give a predictions_*.jsonl of a run")
    rows = [(number, json.loads(line)) for number, line in enumerate(_lines(Path(path)), start=1) if line]
    found = []
    for (number, row), predicted in zip(rows, tags, strict=True):
        entities = row.get("entities") or []
        try:
            found.append(span_scores(entities, predicted))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(
                f"{path}, line {number}: 'entities' is {entities!r} ({type(error).__name__}: {error}): give what a "
                "run writes"
            ) from None
    return found


def span_scores(entities: Sequence[Mapping[str, Any]], tags: Sequence[str]) -> dict[tuple[str, int, int], float]:
    """The scores of a tweet's entities as a run writes them, by `span_of`.

    Raises:
        KeyError: one has no type, score or place.
        TypeError: or another thing.
        ValueError: a score is not in [0, 1], or an entity is not that of `tags`.
    """
    scores = {span_of(entity): float(entity["score"]) for entity in entities}
    if not all(0 <= score <= 1 for score in scores.values()):
        raise ValueError("a score is not in [0, 1]")
    if scores.keys() - entity_spans(tags):
        raise ValueError("an entity is not what 'predictions' say")
    return scores


def span_of(entity: Mapping[str, Any]) -> tuple[str, int, int]:
    """Type, first word and word after the last of an entity as a run writes it, its type as the tags are read."""
    type_ = SURROGATES.sub("\ufffd", entity["type"])
    return "MISC" if type_ == "OTHER" else type_, entity["start"], entity["end"]


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
    return text in _NO_TAGS or TAG.fullmatch(text) is not None


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
            raise ValueError(f"{path}, line {number}: {problem}: give a predictions_*.jsonl of a run")

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
                if not TAG.fullmatch(tag):
                    fail(f"{key!r} holds {tag!r}, which is not O, B-TYPE or I-TYPE")
            # Here, for gold and predictions alike: so a tweet has the same words in both.
            lists[key] = [SURROGATES.sub("\ufffd", value) for value in values]
        gold = lists["ner_tags"]
        tweets.append(
            _Tweet(
                line=number,
                id=SURROGATES.sub("\ufffd", str(entry.get("id"))),
                words=lists["tokens"],
                gold=None if gold is None else [canonical_tag(tag) for tag in gold],
                tags=[canonical_tag(tag) for tag in lists["predictions"]],
            )
        )
    if not tweets:
        raise ValueError(f"{path} holds no tweet: give a predictions_*.jsonl of a run")
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
    tags = all(map(_is_tag, predicted)) and all(map(TAG.fullmatch, gold))
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
        tweets.append(_Tweet(number, None, words, [*map(canonical_tag, gold)], [*map(canonical_tag, predicted)]))
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
            gold=[canonical_tag(fields[-2]) for fields in rows] if has_gold else None,
            tags=[canonical_tag(fields[-1]) for fields in rows],
        )
        for number, id_, rows in tweets
    ]


def _check_tags(place: str, tags: Sequence[str]) -> None:
    for tag in tags:
        if not _is_tag(tag):
            raise ValueError(f"{place} has the tag {tag!r}: write O, B-TYPE or I-TYPE, or X for a sub-token")
