"""How raw text has to be split so that it gives the words that a data set was tagged by."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from words_hamlearning import SPACELESS_CHARACTER, WORD_SPLITTINGS, join_words, split_words


MOST_TEXTS = 10_000  # of a split that are split again
LEAST_SHARE = 0.95  # of texts whose words come back, or there is a warning


def splitting_of(tweets: Iterable[Sequence[str]]) -> tuple[str, float]:
    """The word splitting that the words of tagged texts ask for.

    ```python
    >>> splitting_of([["画", "于", "北", "京"]]), splitting_of([["i", "met", "Ada"]])
    (('characters', 1.0), ('punctuation', 0.0))
    ```

    Args:
        tweets: Words of each text.

    Returns:
        `characters` if more than half of the words are single characters of scripts that put no space between words
        (Chinese, Japanese, Thai, ...), else `punctuation`; and the share of such words. `tweet` is never
        guessed: whether handles stay whole is a matter of the annotation.
    """
    counts = Counter(word for words in tweets for word in words)
    single = sum(count for word, count in counts.items() if SPACELESS_CHARACTER.fullmatch(word))
    share = single / max(counts.total(), 1)
    return ("characters" if share > 0.5 else "punctuation"), share


def splitting_of_raw(texts: Iterable[str]) -> str:
    """The word splitting that raw texts ask for: `characters` if most of their letters are of scripts without spaces.

    ```python
    >>> splitting_of_raw(["龙画于北京，2020年", "by Ada"]), splitting_of_raw(["i met Ada in 北京"])
    ('characters', 'punctuation')
    ```
    """
    counts = Counter(character for text in texts for character in text if character.isalpha())
    single = sum(count for character, count in counts.items() if SPACELESS_CHARACTER.fullmatch(character))
    return "characters" if 2 * single > counts.total() else "punctuation"


def words_given_back(tweets: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Whether raw text, split again, gives the words of tagged texts.

    Data sets do not hold the raw texts: the words are joined by spaces, and without in scripts that put no space
    between words.

    ```python
    >>> words_given_back([["i", "met", "@ada", "."]])
    {'texts': 1, 'same_words': {'punctuation': 0.0, 'tweet': 1.0, 'characters': 0.0}}
    ```

    Args:
        tweets: Words of each text.

    Returns:
        `texts`, how many were split, evenly spaced over those given and 10,000 at most; `same_words`, the share of
        them whose words came back, by word splitting.
    """
    tweets = tweets[:: -(-len(tweets) // MOST_TEXTS) or 1]
    form = "characters" if is_without_spaces(tweets) else "punctuation"
    same = dict.fromkeys(WORD_SPLITTINGS, 0)
    for words in tweets:
        text, _ = join_words(words, form)
        for splitting in same:
            same[splitting] += [text[start:end] for start, end in split_words(text, splitting)] == list(words)
    shares = {splitting: count / max(len(tweets), 1) for splitting, count in same.items()}
    return {"texts": len(tweets), "same_words": shares}


def is_without_spaces(tweets: Iterable[Sequence[str]]) -> bool:
    """Whether most words are of scripts that put no space between words, be they of one character or more."""
    counts = Counter(word for words in tweets for word in words)
    return 2 * sum(count for word, count in counts.items() if SPACELESS_CHARACTER.search(word)) > counts.total()


def splitting_problem(found: dict[str, Any], word_splitting: str) -> str | None:
    """What is wrong with a model's word splitting, and the remedy; None if raw text gives the words back.

    Args:
        found: What `words_given_back` returned of the data that the model learned from.
        word_splitting: The model's own.
    """
    shares = found["same_words"]
    if not found["texts"] or shares[word_splitting] >= LEAST_SHARE:
        return None
    best = max(shares, key=lambda splitting: shares[splitting])
    remedy = (
        f"`{best}` gives {shares[best]:.1%}: train with --word_splitting {best}, or write it into the model's "
        "processor_config.json, no weight depends on it"
        if shares[best] > shares[word_splitting]
        else "no other splitting gives more: give the model words, split as those of its training"
    )
    return (
        f"Raw text, split by `{word_splitting}`, gives the words of the data in {shares[word_splitting]:.1%} of "
        f"{found['texts']} texts; of the others the model reads other words than it learned from ({remedy})."
    )
