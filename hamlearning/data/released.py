"""The released text format: `IMGID:` lines, `token<TAB>tag` lines, a blank line behind each tweet."""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hamlearning.data.schemes import canonical_tag, is_tag


_TAG_BEHIND_A_SPACE = re.compile(r" (O|[BI]-\S+)$")


def read_tweets(path: str | os.PathLike) -> dict[str, list]:
    r"""Read one file of the released text format.

    ```python
    >>> read_tweets("train.txt")
    {'id': ['1', ...], 'tokens': [['Ada', 'sings'], ...], 'ner_tags': [['B-PER', 'O'], ...]}
    ```

    A tweet is a line `IMGID:<id>`, then a line `token<TAB>tag` for each token, then a blank line. Lines end at `"\n"`
    and nowhere else, and no token is stripped: `"\xa0"` is one. A file whose first line ends in `"\r\n"` was saved on
    Windows: there, and only there, one `"\r"` is dropped from the end of each line. OTHER becomes MISC; an I- tag that
    no B- opens stays as it is. A file in which no line has a tag is read as tokens alone.

    It is long: one pass over the lines, in which each kind of line has an error of its own.

    Args:
        path: The text file, UTF-8.

    Returns:
        `id` (one string a tweet), `tokens` (a list of strings each) and, if the file is tagged, `ner_tags` (a list of
        strings each, as long as its tokens).

    Raises:
        ValueError: The file is empty or malformed; the message names file, line and text.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise OSError(f"{path} cannot be read: {error.strerror}") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: the byte 0x{raw[error.start]:02x} is not UTF-8: save the file as UTF-8"
        ) from None
    lines = text.split("\n")
    if lines[0].endswith("\r"):
        lines = [line.removesuffix("\r") for line in lines]

    ids: list[str] = []
    tokens: list[list[str]] = []
    tags: list[list[str]] = []
    first_token: tuple[int, str] | None = None  # the first token line decides whether the file is tagged
    tagged = in_tweet = False
    opened_at = 0

    def fail(number: int, problem: str) -> None:
        raise ValueError(f"{path}, line {number}: {problem}")

    def close_tweet() -> None:
        if in_tweet and not tokens[-1]:
            fail(opened_at, f"the tweet {'IMGID:' + ids[-1]!r} has no tokens: add its token lines or remove it")

    for number, line in enumerate(lines, start=1):
        if line == "":
            close_tweet()
            in_tweet = False
        elif line.startswith("IMGID:") and "\t" not in line:
            close_tweet()
            if line == "IMGID:":
                fail(number, "'IMGID:' names no image: write IMGID:<id>")
            ids.append(line.removeprefix("IMGID:"))
            tokens.append([])
            tags.append([])
            in_tweet, opened_at = True, number
        elif not in_tweet:
            fail(number, f"{line!r} belongs to no tweet: put a line IMGID:<id> before the first token of each tweet")
        else:
            if first_token is None:
                first_token, tagged = (number, line), "\t" in line
            fields = line.split("\t")
            if tagged and len(fields) != 2:
                found = "no tab" if len(fields) == 1 else f"{len(fields) - 1} tabs"
                fail(number, f"{line!r} has {found}: write token<TAB>tag")
            if not tagged and len(fields) > 1:
                fail(
                    number,
                    f"{line!r} has a tag, but line {first_token[0]}, {first_token[1]!r}, has none: write "
                    "token<TAB>tag on every line, or tokens alone on every line",
                )
            if not tagged and _TAG_BEHIND_A_SPACE.search(line):
                fail(number, f"{line!r} has a space between token and tag: write a tab there")
            if tagged and not is_tag(fields[1]):
                fail(number, f"{line!r} has the tag {fields[1]!r}: write O, B-TYPE or I-TYPE, such as B-PER")
            tokens[-1].append(fields[0])
            if tagged:
                tags[-1].append(canonical_tag(fields[1]))
    close_tweet()
    if not ids:
        raise ValueError(f"{path} holds no tweet: expected lines IMGID:<id> and token<TAB>tag")
    return {"id": ids, "tokens": tokens, "ner_tags": tags} if tagged else {"id": ids, "tokens": tokens}


def tweets_sha256(tweets: Iterable[Mapping[str, Any]]) -> str:
    r"""Hash tweets as they would stand in the released text format, however they are stored.

    What is hashed: for each tweet `"IMGID:<id>\n"`, `"<token>\t<tag>\n"` for each token (`"<token>\n"` without tags)
    and `"\n"`, in UTF-8. For Twitter-2017 these are the bytes of the released files, so `sha256sum` prints the same.
    For Twitter-2015 it does not: those files say OTHER for MISC, and lack the last blank line.

    Args:
        tweets: `id`, `tokens` and, where it is tagged, `ner_tags` (names) of each tweet.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for tweet in tweets:
        lines = [f"IMGID:{tweet['id']}", *tweet["tokens"], "", ""]
        for position, tag in enumerate(tweet.get("ner_tags", []), start=1):
            lines[position] += "\t" + tag
        digest.update("\n".join(lines).encode())
    return digest.hexdigest()
