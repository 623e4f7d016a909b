"""Does raw text, split again, give the words that a data set was split into?

```bash
python benchmarks/raw_text_splitting.py twitter2017 twitter2015
```

The raw texts of the public tweets are not released, so two of them are made of each tweet of the validation split:

- spaces: its words joined by single spaces;
- glued: the same, but a word that is one of `. , ! ? : ;` follows the word before without a space, and one that is `#`
  or `@` precedes the word after without one, as people write.

Printed is the share of tweets that come back with exactly the same words, and the same without rounding as JSON.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


# A script's own folder is on the path, the project's is not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hamlearning.data.tweets import load_tweets
from words_hamlearning import split_words


def join_by_spaces(words: Sequence[str]) -> str:
    return " ".join(words)


def join_glued(words: Sequence[str]) -> str:
    text = words[0]
    for before, word in zip(words, words[1:], strict=False):
        is_glued = word in tuple(".,!?:;") or before in ("#", "@")
        text += word if is_glued else f" {word}"
    return text


def splitter(word_splitting: str) -> Callable[[str], list[str]]:
    return lambda text: [text[start:end] for start, end in split_words(text, word_splitting)]


JOINS = {"spaces": join_by_spaces, "glued": join_glued}
SPLITTERS = {"punctuation": splitter("punctuation"), "tweet": splitter("tweet"), "str.split": str.split}


def same_words(tweets: Sequence[Sequence[str]]) -> dict[str, dict[str, float]]:
    """Share of tweets whose words come back, by way of joining and of splitting."""
    return {
        join_name: {
            split_name: sum(split(join(words)) == list(words) for words in tweets) / len(tweets)
            for split_name, split in SPLITTERS.items()
        }
        for join_name, join in JOINS.items()
    }


def main():
    parser = argparse.ArgumentParser(description="Share of tweets whose words come back from raw text.")
    parser.add_argument("data_dirs", nargs="+", type=Path, metavar="FOLDER", help="a data set with a validation split")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the shares here")
    arguments = parser.parse_args()

    results = {}
    for folder in arguments.data_dirs:
        splits = load_tweets(folder)
        if "validation" not in splits:
            parser.error(f"{folder} has no validation split, only {', '.join(splits)}: add valid.txt")
        tweets = splits["validation"]["tokens"]
        results[folder.name] = {"tweets": len(tweets), "same_words": same_words(tweets[:])}

    print(f"| validation split | tweets | joined by | {' | '.join(SPLITTERS)} |")
    print(f"|---|---:|---|{'---:|' * len(SPLITTERS)}")
    for name, result in results.items():
        for join_name, shares in result["same_words"].items():
            cells = " | ".join(f"{share:.1%}" for share in shares.values())
            print(f"| {name} | {result['tweets']} | {join_name} | {cells} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
