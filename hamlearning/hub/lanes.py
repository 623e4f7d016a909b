"""Which tweets of `hamlearning serve` go through the network together."""

from typing import Any


LONG = 500  # characters


def length_of(tweet: dict[str, Any]) -> int:
    """Characters of a tweet, or of its words."""
    return len(tweet["text"]) if "text" in tweet else sum(map(len, tweet["tokens"]))


def lane_of(tweet: dict[str, Any]) -> str:
    """In which line a tweet waits: short texts do not wait until a long one, or pictures, have been read."""
    if tweet["image"] is not None:
        return "pictures"
    return "texts" if length_of(tweet) <= LONG else "long texts"


def by_length(tweets: list[dict[str, Any]]) -> list[list[int]]:
    """The places of tweets that go together: what goes with a text of 10,000 words takes as long as if it had them."""
    groups: list[list[int]] = []
    for place in sorted(range(len(tweets)), key=lambda place: length_of(tweets[place])):
        if not groups or length_of(tweets[place]) > max(LONG, 2 * length_of(tweets[groups[-1][0]])):
            groups.append([])
        groups[-1].append(place)
    return groups
