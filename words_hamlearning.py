"""Words and tags: how raw text is split, and what an entity is. Nothing heavy is imported here."""

import re
import sys
from collections.abc import Sequence

import regex
from tokenizers.pre_tokenizers import BertPreTokenizer


# The tags of the public tweets, in the order of the ids.
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-MISC", "I-MISC")

WORD_SPLITTINGS = ("punctuation", "tweet", "characters")

SURROGATES = re.compile("[\ud800-\udfff]")

# How a tweet's words look where handles, hashtags, URLs and emoticons stay whole, as in Twitter-2015.
TWEET_WORD = re.compile(
    r"""(?:https?://|www\.)\S*|(?<!\S)//\w+          # URL, to the next space
    |h(?:t(?:t(?:p(?:s?:/?)?)?)?)?…                  # URL that was cut off
    |(?<![-=])[-=]*+&(?:amp|gt|lt)\b                 # HTML entity, with the shaft of an arrow
    |(?<!\w)[:;=][-o^']?[DPpOo3](?!\w)               # emoticon of a letter: not the ":D" of "Name:David"
    |[:;=][-o^']?[()\[\]/\\|]++(?!\w)|<3(?!\w)       # emoticon of marks
    |\#\w*[^\W_][\w\u0300-\u036f]*(?:[/-]\w+)*       # hashtag
    |@\w*[^\W_]\w*                                   # handle
    |\$[A-Za-z]+                                     # cashtag
    |[Ww]/(?!\w)                                     # short for "with"
    |\w[\w\u0300-\u036f]*(?:['’.&/@\#-]\w[\w\u0300-\u036f]*)*  # word, with its accents and what joins its parts
    |[.,!?:;]                                        # mark that stands alone, however often it is repeated
    |([^\w\s])\1*""",  # other mark, once or repeated
    re.VERBOSE,
)

# Unicode's properties, which `re` has not: scripts that put no space between words. scx: signs that several of them
# share, as \u30fc; lb=SA: Thai, Lao, Khmer, Myanmar and others that Unicode's line breaking leaves to a dictionary.
SPACELESS = r"[\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{scx=Bopomofo}\p{Yi}\p{Tangut}\p{Nushu}\p{lb=SA}]"
# What Unicode's grapheme clusters (UAX 29) put to a character: accents, vowel signs, what an emoji is joined to. Not
# the library's own \X, whose time is quadratic in flags.
MARKS = r"[\p{GCB=Extend}\p{GCB=SpacingMark}]*+"
MARKED = rf"{MARKS}(?:\u200d(?:\p{{ExtPict}}{MARKS})?)*+"
SPACELESS_CHARACTER = regex.compile(rf"(?V1)(?=[\p{{L}}\p{{N}}\p{{M}}]){SPACELESS}{MARKED}")
LETTERS = regex.compile(rf"(?V1)(?:[\p{{L}}--{SPACELESS}]{MARKED})++")
# Not UAX 29's word boundaries: they keep runs of katakana, runs of digits, "can't" and "3.14" whole, which the data
# sets of characters cut.
CHARACTER_WORD = regex.compile(rf"{LETTERS.pattern}|(?:\p{{RI}}{{2}}|\S){MARKED}")


def split_words(text: str, word_splitting: str) -> list[tuple[int, int]]:
    """Where the words of a raw text stand.

    ```python
    >>> [text[start:end] for start, end in split_words("@NASA is live: #Artemis", "punctuation")]
    ['@', 'NASA', 'is', 'live', ':', '#', 'Artemis']
    >>> [text[start:end] for start, end in split_words("@NASA is live: #Artemis", "tweet")]
    ['@NASA', 'is', 'live', ':', '#Artemis']
    >>> [text[start:end] for start, end in split_words("2020年NASA", "characters")]
    ['2', '0', '2', '0', '年', 'NASA']
    ```

    Args:
        text: any string.
        word_splitting: `punctuation` (every punctuation mark stands alone), `tweet` (handles, hashtags, URLs and
            emoticons stay whole) or `characters` (for scripts without spaces, such as Chinese, Japanese and Thai:
            every character stands alone with its marks, only runs of the letters of other scripts stay whole).

    Returns:
        (start, end) of each word, so that `text[start:end]` is the word.

    Raises:
        ValueError: there is no such splitting.
    """
    if word_splitting not in WORD_SPLITTINGS:
        raise ValueError(f"word_splitting={word_splitting!r}: must be 'punctuation', 'tweet' or 'characters'.")
    if word_splitting == "punctuation":
        return [span for _, span in BertPreTokenizer().pre_tokenize_str(SURROGATES.sub("\ufffd", text))]
    pattern = CHARACTER_WORD if word_splitting == "characters" else TWEET_WORD
    return [match.span() for match in pattern.finditer(text)]


def join_words(words: Sequence[str], word_splitting: str) -> tuple[str, list[tuple[int, int]]]:
    """The raw text that words would stand in, and where; spaces are between them where their language has some.

    ```python
    >>> join_words(["Ada", "codes", "."], "punctuation")
    ('Ada codes .', [(0, 3), (4, 9), (10, 11)])
    >>> join_words(["北", "京", "Ada", "Lo"], "characters")
    ('北京Ada Lo', [(0, 1), (1, 2), (2, 5), (6, 8)])
    ```
    """
    pieces, spans, start, before = [], [], 0, ""
    for word in words:
        if spans and (word_splitting != "characters" or _has_space_between(before, word)):
            pieces.append(" ")
            start += 1
        pieces.append(word)
        spans.append((start, start + len(word)))
        start, before = start + len(word), word
    return "".join(pieces), spans


def _has_space_between(before: str, word: str) -> bool:
    """Whether both are runs of letters. Two letters that stand alone were cut out of one word, "c" and "m"."""
    return len(before + word) > 2 and LETTERS.fullmatch(before) is not None and LETTERS.fullmatch(word) is not None


def entity_spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """The entities of a tag sequence, as seqeval's default mode counts them: an I- without its B- opens one too.

    ```python
    >>> entity_spans(["B-PER", "I-PER", "O", "I-LOC"])
    [('PER', 0, 2), ('LOC', 3, 4)]
    ```

    Returns:
        (type, first word, word after the last) of each entity.
    """
    spans: list[tuple[str, int, int]] = []
    previous_type = None
    for index, tag in enumerate(tags):
        prefix, _, entity_type = tag.partition("-")
        if prefix == "I" and entity_type == previous_type:
            spans[-1] = (entity_type, spans[-1][1], index + 1)
        elif prefix in ("B", "I"):
            spans.append((entity_type, index, index + 1))
        previous_type = entity_type if prefix in ("B", "I") else None
    return spans


def hold_in_package(module_name: str) -> None:
    """Has the package of a repo's code hold this module of it, as every package holds what is imported from it.

    transformers loads the first file of a repo's code past the import system. Who looks for a class by its name, as
    dill does for the fingerprints that `datasets.map` finds its cache by, would find none there.
    """
    package, _, name = module_name.rpartition(".")
    if package in sys.modules:
        setattr(sys.modules[package], name, sys.modules[module_name])
