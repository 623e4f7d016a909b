"""Words and tags: how raw text is split, and what an entity is. Nothing heavy is imported here."""

import re
from collections.abc import Sequence

from tokenizers.pre_tokenizers import BertPreTokenizer


# The tags of the public tweets, in the order of the ids.
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-MISC", "I-MISC")

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


def split_words(text: str, word_splitting: str) -> list[tuple[int, int]]:
    """Where the words of a raw text stand.

    ```python
    >>> [text[start:end] for start, end in split_words("@NASA is live: #Artemis", "punctuation")]
    ['@', 'NASA', 'is', 'live', ':', '#', 'Artemis']
    >>> [text[start:end] for start, end in split_words("@NASA is live: #Artemis", "tweet")]
    ['@NASA', 'is', 'live', ':', '#Artemis']
    ```

    Args:
        text: any string.
        word_splitting: `punctuation` (every punctuation mark stands alone) or `tweet` (handles, hashtags, URLs and
            emoticons stay whole).

    Returns:
        (start, end) of each word, so that `text[start:end]` is the word.
    """
    if word_splitting == "punctuation":
        return [span for _, span in BertPreTokenizer().pre_tokenize_str(SURROGATES.sub("\ufffd", text))]
    return [match.span() for match in TWEET_WORD.finditer(text)]


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
