#!/usr/bin/env python
"""How time grows with words, regions, tags and rounds, beside how it should.

```bash
python benchmarks/growth.py minilm --json growth.json
```

The first table has one term of the network a row, in sizes for which that term dominates. Such sizes are beyond any
tweet, and the width is 32, so that what a token costs by itself (d^2) does not hide what pairs of tokens cost. The
second table is a training step of the network that was asked for, in the sizes of tweets.

An exponent is the slope of a straight line through the logarithms, fitted over all sizes of the row. Beside the one of
the time stand the one of what PyTorch was seen to run (floating-point operations of products, one operation an element
of everything else), which no noise disturbs, and the expected one. In the first table that is the theory's:

- attention of S tokens to each other computes S^2 scores of d / heads, so 2;
- attention of W words to a fixed number of regions, or of N regions to a fixed number of words, 1;
- the spatial view knows a relation for each pair of N regions, and sums over each region's N neighbours, so 2;
- a step of the CRF compares T^2 pairs of tags, so 2 in T; it takes W - 1 steps, so 1 in W;
- the rounds repeat the same work, so 1 in L; the last has no vision updates, which makes the measured one a bit more.

In the second it is counted by `operations.py`, and shows what such a growth amounts to in tweets. Rounds alternate
between all sizes; the time of a size is its median.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import BertConfig, set_seed

from configuration_hamlearning import HamLearningConfig
from kernel_counts import counted_kernels
from modeling_hamlearning import HamLearningForTokenClassification, spatial_relations
from operations import PRESETS, Count, count_operations
from workload import (
    PRECISIONS,
    autocast,
    kind_config,
    print_table,
    random_batch,
    time_rounds,
    write_figures,
)


D, TWEETS = 32, 2
STEP_SIZES = {"words": (8, 16, 32, 64), "regions": (4, 8, 16, 32), "tags": (5, 9, 17, 33), "rounds": (1, 2, 4, 8)}
STEP = {"tweets": 16, "subtokens": 24, "words": 19, "regions": 15}


@dataclass(frozen=True)
class Term:
    """What dominates a part for large sizes; `make(size)` gives the call to time."""

    name: str
    quantity: str
    exponent: int
    sizes: Sequence[int]
    make: Callable[[int], Callable]


def narrow_network(longest: int = 8, **fields) -> HamLearningForTokenClassification:
    """A network of width `D` whose text encoder reads up to `longest` sub-tokens."""
    text = BertConfig(
        vocab_size=100, hidden_size=D, num_hidden_layers=1, num_attention_heads=2, intermediate_size=4 * D,
        max_position_embeddings=longest,
    )  # fmt: skip
    sizes = {"image_feature_size": D, "region_feature_size": D, "num_classes": 10, "class_embedding_size": D}
    return HamLearningForTokenClassification(HamLearningConfig(text_config=text, **sizes | fields)).eval()


def all_on(*shape: int) -> torch.BoolTensor:
    return torch.ones(shape, dtype=torch.bool)


def text_encoder(subtokens: int) -> Callable:
    model = narrow_network(subtokens).model
    return lambda: model.encode_text(torch.ones(TWEETS, subtokens, dtype=torch.long), None, None, None)


def textual_transformer(words: int) -> Callable:
    layer, states = narrow_network().model.text_layers[0], torch.randn(TWEETS, words, D)
    return lambda: layer(states, states, all_on(TWEETS, words))


def interaction(words: int, regions: int, rounds: int = 1) -> Callable:
    rounds_ = narrow_network(num_interaction_layers=rounds).model.interaction
    states, views = torch.randn(TWEETS, words, D), [torch.randn(TWEETS, regions, D) for _ in range(2)]
    masks = all_on(TWEETS, words), all_on(TWEETS, regions), all_on(TWEETS)
    return lambda: rounds_(states, masks[0], views, masks[1], masks[2])


def pictures(regions: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Boxes, sizes and mask of regions."""
    return torch.rand(TWEETS, regions, 4), torch.full((TWEETS, 2), 500), all_on(TWEETS, regions)


def relations(regions: int) -> Callable:
    of_pictures = pictures(regions)
    return lambda: spatial_relations(*of_pictures)


def spatial_view(regions: int) -> Callable:
    encoder, nodes, of_pictures = (
        narrow_network().model.spatial_encoder,
        torch.randn(TWEETS, 1 + regions, D),
        pictures(regions),
    )
    return lambda: encoder(nodes, *of_pictures)


def semantic_view(regions: int) -> Callable:
    encoder, nodes = narrow_network(num_semantic_layers=1).model.semantic_encoder, torch.randn(TWEETS, 1 + regions, D)
    return lambda: encoder(nodes, all_on(TWEETS, 1 + regions))


def visual_embeddings(regions: int) -> Callable:
    embed, features = narrow_network().model.visual_embeddings, torch.randn(TWEETS, regions, D)
    return lambda: embed(features[:, 0], features, torch.zeros(TWEETS, regions, dtype=torch.long))


def likelihood(words: int, tags: int) -> Callable:
    crf, emissions = narrow_network(num_labels=tags).crf, torch.randn(TWEETS, words, tags)
    return lambda: crf(emissions, torch.zeros(TWEETS, words, dtype=torch.long), all_on(TWEETS, words))


def viterbi(words: int, tags: int) -> Callable:
    crf, emissions = narrow_network(num_labels=tags).crf, torch.randn(TWEETS, words, tags)
    return lambda: crf.viterbi(emissions, all_on(TWEETS, words))


def marginals(words: int, tags: int) -> Callable:
    crf, emissions = narrow_network(num_labels=tags).crf, torch.randn(TWEETS, words, tags)
    return lambda: crf.marginals(emissions, all_on(TWEETS, words))


LONG, LARGE, SHORT = (1024, 2048, 4096), (128, 256, 512), (32, 64, 128, 256)
TERMS = [
    Term("text encoder (Eq 1)", "sub-tokens", 2, LONG, text_encoder),
    Term("textual Transformer", "words", 2, LONG, textual_transformer),
    Term("words attend to regions (Eq 15)", "words", 1, LONG, lambda n: interaction(n, 15)),
    Term("CRF, likelihood (Eq 17)", "words", 1, SHORT, lambda n: likelihood(n, 9)),
    Term("CRF, Viterbi (Eq 18)", "words", 1, SHORT, lambda n: viterbi(n, 9)),
    Term("CRF, marginals", "words", 1, SHORT, lambda n: marginals(n, 9)),
    Term("visual embeddings (Eq 2-3)", "regions", 1, LONG, visual_embeddings),
    Term("semantic view (Eq 4)", "regions", 2, LONG, semantic_view),
    Term("spatial relations", "regions", 2, LARGE, relations),
    Term("spatial view (Eq 5-7)", "regions", 2, LARGE, spatial_view),
    Term("words attend to regions (Eq 15)", "regions", 1, LONG, lambda n: interaction(19, n)),
    Term("CRF, likelihood (Eq 17)", "tags", 2, LARGE, lambda n: likelihood(8, n)),
    Term("CRF, Viterbi (Eq 18)", "tags", 2, LARGE, lambda n: viterbi(8, n)),
    Term("CRF, marginals", "tags", 2, LARGE, lambda n: marginals(8, n)),
    Term("rounds (Eq 13-15)", "rounds", 1, (8, 16, 32), lambda n: interaction(19, 15, n)),
]


def slope(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Exponent of the growth."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def measure(calls: dict[int, Callable], rounds: int) -> dict:
    """Seconds and operations of each size, and their exponents."""
    seconds = {size: statistics.median(values) for size, values in time_rounds(calls, rounds).items()}
    operations = {size: sum(kernel.operations for kernel in counted_kernels(call)) for size, call in calls.items()}
    return {
        "sizes": list(calls),
        "seconds": list(seconds.values()),
        "operations": list(operations.values()),
        "exponent_of_time": slope(list(calls), list(seconds.values())),
        "exponent_of_operations": slope(list(calls), list(operations.values())),
    }


def training_step(source: str, precision: str, quantity: str, size: int) -> tuple[Callable, int]:
    """A forward and backward pass with so many words, regions, tags or rounds; and its counted multiply-adds."""
    config = kind_config(source, "regions")
    sizes = dict(STEP)
    if quantity == "words":
        sizes |= {"words": size, "subtokens": size + max(size // 8, 1) + 2}
    elif quantity == "regions":
        sizes["regions"] = size
    elif quantity == "tags":
        config.num_labels = size
    else:
        config.num_interaction_layers = size
    set_seed(1)
    model, batch = HamLearningForTokenClassification(config).train(), random_batch(config, **sizes)
    counted = sum(count_operations(config, **sizes).values(), Count()).training

    def step():
        with autocast(model.device, precision):
            loss = model(**batch).loss
        loss.backward()
        model.zero_grad()

    return step, counted


def main():
    """Prints two tables, and writes them as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help=f"{', '.join(PRESETS)}, or a folder with config.json; its weights are not read")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS), help="of the steps")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="also write the figures here, as JSON")
    options = parser.parse_args()

    set_seed(1)
    figures = {"config": options.config, "rounds": options.rounds, "threads": torch.get_num_threads()}
    figures |= {"torch": torch.__version__, "terms": [], "steps": []}
    for term in TERMS:
        with torch.no_grad():
            found = measure({size: term.make(size) for size in term.sizes}, options.rounds)
        row = {"term": term.name, "quantity": term.quantity, "exponent_expected": term.exponent}
        figures["terms"].append(row | found)
    for precision in options.precisions:
        for quantity, sizes in STEP_SIZES.items():
            steps = {size: training_step(options.config, precision, quantity, size) for size in sizes}
            found = measure({size: step for size, (step, _) in steps.items()}, options.rounds)
            expected = slope(sizes, [counted for _, counted in steps.values()])
            row = {"term": f"training step, {precision}", "quantity": quantity, "exponent_expected": expected}
            figures["steps"].append(row | found)
    for table in ("terms", "steps"):
        print()
        print_table(
            ["", "grows with", "from ... to", "ms", "exponent of time", "of operations", "expected"],
            [
                [
                    row["term"], row["quantity"], f"{row['sizes'][0]} ... {row['sizes'][-1]}",
                    f"{1e3 * row['seconds'][0]:.1f} ... {1e3 * row['seconds'][-1]:.1f}",
                    *(f"{row[f'exponent_{of}']:.2f}" for of in ("of_time", "of_operations", "expected")),
                ]
                for row in figures[table]
            ],
        )  # fmt: skip
    write_figures(figures, options)


if __name__ == "__main__":
    main()
