"""`hamlearning encoder`: a text encoder with random weights, for languages that no pretrained one at hand knows.

    $ hamlearning encoder my/paintings encoders/paintings --layers 4 --width 256 --positions 640
    encoders/paintings: BERT of 4 layers, 256 wide, 640 positions, random weights; 3263 pieces in its vocabulary, of
    950 texts. 0.3% of their words have a piece that is unknown.
    $ hamlearning train --data_dir my/paintings --text_model encoders/paintings --max_length 640 ...

A pretrained encoder of the language is better wherever there is one.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from transformers import BertConfig, BertModel, BertTokenizer

from hamlearning.data.reading import parse_options
from hamlearning.data.tweets import load_tweets


SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Case tells names, and accents are letters: nothing is folded.
NORMALIZER = BertNormalizer(lowercase=False, strip_accents=False)


def make_encoder(
    data_dir: Path,
    target: Path,
    layers: int = 4,
    width: int = 256,
    heads: int = 4,
    positions: int = 512,
    min_count: int = 2,
    seed: int = 1,
    **reading: str,
) -> None:
    """Write a BERT with random weights and a tokenizer whose vocabulary is of the train split.

    ```python
    >>> make_encoder(Path("my/paintings"), Path("encoders/paintings"), positions=640)
    encoders/paintings: BERT of 4 layers, 256 wide, 640 positions, random weights; 3263 pieces in its vocabulary, ...
    ```

    Args:
        data_dir: A folder that `load_tweets` reads, with a train split.
        target: The folder to make, for `--text_model`.
        layers: Number of its Transformer layers.
        width: Size of its hidden states; the feed-forward layers are four times as wide.
        heads: Number of its attention heads, of which `width` is a multiple.
        positions: Most sub-tokens of a text, [CLS] and [SEP] included.
        min_count: How often a piece must occur to be in the vocabulary; others are unknown.
        seed: Of the weights.
        reading: Fields of `ReadingOptions`, as they are typed.

    Raises:
        FileExistsError: `target` holds something.
        ValueError: a number is out of range, or there is no train split; or see `load_tweets`.
    """
    least = {"layers": (layers, 1), "heads": (heads, 1), "positions": (positions, 3), "min_count": (min_count, 1)}
    for name, (value, minimum) in least.items():
        if value < minimum:
            raise ValueError(f"--{name} {value}: must be at least {minimum}")
    if width < heads or width % heads:
        raise ValueError(f"--width {width} is no multiple of --heads {heads}: make it one")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} is not an empty folder: choose another one")
    splits = load_tweets(data_dir, options=parse_options(reading))
    if "train" not in splits:
        raise ValueError(f"{data_dir} has no train split: its words are the vocabulary, add train.txt")
    tokenizer = make_tokenizer(splits["train"], positions, min_count)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=positions,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(config)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    print(
        f"{target}: BERT of {layers} layers, {width} wide, {positions} positions, random weights; {len(tokenizer)} "
        f"pieces in its vocabulary, of {len(splits['train'])} texts. "
        f"{unknown_share(tokenizer, splits['train']):.1%} of their words have a piece that is unknown."
    )


def make_tokenizer(tweets: Dataset, positions: int = 512, min_count: int = 2) -> BertTokenizer:
    """A WordPiece tokenizer of the words of tweets and, for other words, of their characters.

    Args:
        tweets: With a column `tokens`.
        positions: Its `model_max_length`.
        min_count: How often a word, or a character of longer words, must occur to be in the vocabulary.
    """
    words = Counter(word for tokens in tweets["tokens"] for word in pieces_of(tokens))
    characters: Counter[str] = Counter()
    for word, count in words.items():
        if len(word) > 1:
            characters[word[0]] += count
            for character in word[1:]:
                characters[f"##{character}"] += count
    frequent = [*_frequent(words, min_count), *_frequent(characters, min_count)]
    vocabulary = list(dict.fromkeys([*SPECIAL, *frequent]))
    return BertTokenizer(
        vocab={piece: i for i, piece in enumerate(vocabulary)},
        do_lower_case=NORMALIZER.lowercase,
        strip_accents=NORMALIZER.strip_accents,
        model_max_length=positions,
    )


def pieces_of(tokens: Sequence[str]) -> Iterable[str]:
    """What BERT's own splitting makes of the words, before it looks into its vocabulary."""
    for token in tokens:
        for piece, _ in BertPreTokenizer().pre_tokenize_str(NORMALIZER.normalize_str(token)):
            yield piece


def _frequent(counts: Counter[str], min_count: int) -> list[str]:
    """Those that occur so often, the most frequent first."""
    return [
        piece for piece, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if count >= min_count
    ]


def unknown_share(tokenizer: BertTokenizer, tweets: Dataset) -> float:
    """The share of words of tweets that the tokenizer has a piece of, but does not know it."""
    known = Counter(token for tokens in tweets["tokens"] for token in tokens)
    unknown = sum(count for token, count in known.items() if tokenizer.unk_token in tokenizer.tokenize(token))
    return unknown / max(sum(known.values()), 1)
