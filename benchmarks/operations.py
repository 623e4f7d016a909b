#!/usr/bin/env python
"""Multiply-adds, parameters and memory traffic of HamLearning by part, counted from its config alone.

```bash
python benchmarks/operations.py bert-base --tweets 32 --subtokens 24 --words 19 --regions 2
python benchmarks/operations.py minilm --set num_interaction_layers=5 use_semantic_encoder=false
python benchmarks/operations.py outputs/demo --regions 15 --json operations.json
```

The first argument is a folder with `config.json`, or a preset of the text encoder. Counted are the products of
matrices, as the batch is padded: B tweets of S sub-tokens, W words and N regions. The CRF has no such product; its
multiply-add is one score added and its exponential summed, and it tags (Viterbi, forward-backward, entities'
probabilities) in inference, and computes the likelihood in training. LayerNorms, activations and other element-wise
work are not counted.

Training is forward and backward: three times the forward products, but twice where one factor takes no gradient
(features of pictures, 0/1 matrices), with attention's scores kept and not computed again.

Memory traffic is what the products read and write, each operand once: matrices of weights, and activations, with
attention in one kernel as `sdpa` has it. So it is the least, not what unfused kernels move.

Growth: what the count is multiplied by when a size doubles, as an exponent; `here` at the given sizes, `in the end`
for a size so large that nothing else matters. Words come with their sub-tokens, in proportion.
"""

import argparse
import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from transformers import AutoModel, BertConfig

from configuration_hamlearning import HamLearningConfig
from modeling_hamlearning import SPATIAL_RELATIONS


PRESETS = {
    "bert-base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
}
# Text encoders whose layers are BERT's: four projections d-d, attention, and a feed-forward block of two products.
BERT_LIKE = ("bert", "camembert", "distilbert", "mpnet", "roberta", "xlm-roberta")
HUGE = 2**60


@dataclass(frozen=True)
class Count:
    """What a part of the network costs. Everything is a number of operations or of elements, not of bytes."""

    multiply_adds: int = 0  # forward
    training: int = 0  # forward and backward
    parameters: int = 0
    weights_read: int = 0  # forward, as often as they are read
    activations_moved: int = 0  # forward

    def __add__(self, other: "Count") -> "Count":
        return Count(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Count)))

    def repeated(self, uses: int, copies: int | None = None) -> "Count":
        """This `uses` times, by as many layers, or by `copies` whose weights are shared."""
        values = {f.name: getattr(self, f.name) * uses for f in fields(Count)}
        return Count(**values | {"parameters": self.parameters * (uses if copies is None else copies)})


def product(count: int, rows: int, inner: int, columns: int, backward: int = 2) -> Count:
    """`count` products of two activations; `backward` is the number of products that their gradients need."""
    operations = count * rows * inner * columns
    moved = count * (rows * inner + inner * columns + rows * columns)
    return Count(operations, (1 + backward) * operations, activations_moved=moved)


def linear(rows: int, inputs: int, outputs: int, bias: bool = True, backward: int = 2) -> Count:
    """`nn.Linear` on so many vectors."""
    matrix = inputs * outputs
    operations = rows * matrix
    return Count(operations, (1 + backward) * operations, matrix + bias * outputs, matrix, rows * (inputs + outputs))


def norm(size: int) -> Count:
    """LayerNorm: no product, but parameters."""
    return Count(parameters=2 * size)


def attention(tweets: int, queries: int, keys: int, size: int, key_bias: bool = False) -> Count:
    """Projections and attention of every tweet's queries to its keys."""
    attend = 2 * tweets * queries * keys * size
    return (
        linear(tweets * queries, size, size).repeated(2)
        + linear(tweets * keys, size, size)
        + linear(tweets * keys, size, size, bias=key_bias)
        + Count(attend, 3 * attend, activations_moved=2 * tweets * (queries + keys) * size)
    )


def mlp(rows: int, size: int, inner: int) -> Count:
    """Feed-forward block of a Transformer layer."""
    return linear(rows, size, inner) + linear(rows, inner, size)


def count_operations(
    config: HamLearningConfig, tweets: int, subtokens: int, words: int, regions: int
) -> dict[str, Count]:
    """The parts of the network in the order of the forward pass; see the top of this file.

    Raises:
        ValueError: the text encoder's layers are none of those that are counted.
    """
    return _count(config, tweets, subtokens, words, regions, config.num_labels, config.num_interaction_layers)


def _count(config, tweets, subtokens, words, regions, tags, rounds) -> dict[str, Count]:
    text, d = config.text_config, config.hidden_size
    if text.model_type not in BERT_LIKE:
        raise ValueError(
            f"text_config of model_type {text.model_type!r}: its layers are not counted here, only those of "
            f"{', '.join(BERT_LIKE)}: use one of these."
        )

    def layer(queries, keys):  # with LayerNorms, as in every Transformer here
        return attention(tweets, queries, keys, d) + mlp(tweets * queries, d, 4 * d) + norm(d).repeated(2)

    inner = text.hidden_dim if text.model_type == "distilbert" else text.intermediate_size
    encoder = attention(tweets, subtokens, subtokens, d, key_bias=True) + mlp(tweets * subtokens, d, inner)
    encoder = encoder.repeated(text.num_hidden_layers, copies=0) + Count(parameters=_encoder_parameters(text))
    parts = {
        "text encoder": encoder,
        "words from sub-tokens": product(tweets, 1 + words, subtokens, d, backward=1),  # Eq 1
        "textual Transformer": layer(1 + words, 1 + words).repeated(config.num_text_layers),
        "FFNN": linear(tweets * words, d, d).repeated(config.num_ffnn_layers),  # Eq 12
    }
    if config.use_vision:
        regions = max(regions, 1)  # a picture without regions is given one
        nodes, num_views = regions + 1, len(config.visual_views)
        parts["visual embeddings"] = (  # Eq 2-3
            linear(tweets, config.image_feature_size, d, backward=1)
            + linear(tweets * regions, config.region_feature_size, d, backward=1)
            + linear(tweets * regions, config.class_embedding_size, d, bias=False)
            + Count(parameters=(config.num_classes + 1) * config.class_embedding_size)
        )
        if config.use_semantic_encoder:  # Eq 4
            parts["semantic view"] = layer(nodes, nodes).repeated(config.num_semantic_layers) + norm(d)
        if config.use_spatial_encoder:
            relations = len(SPATIAL_RELATIONS) - 1
            spatial_layer = (
                product(tweets, nodes * relations, nodes, d, backward=1)  # Eq 5: neighbours summed a relation
                + linear(tweets * nodes, relations * d, d)  # Eq 5: all relations' matrices and the bias
                + linear(tweets * nodes, 2 * d, d)  # Eq 6
            )
            box_projection = linear(tweets * nodes, 4 + d, d)
            parts["spatial view"] = box_projection + spatial_layer.repeated(config.num_spatial_layers) + norm(d)
        parts["local-global"] = linear(tweets * regions, 2 * d, d).repeated(num_views, copies=1)  # Eq 10-11
        if config.use_relevance:  # Eq 8-9; a relevance that is forced leaves W of Eq 8 without gradient
            match = linear(tweets, d, d, bias=False, backward=2 if config.forced_relevance is None else 0)
            relevance = match + linear(tweets, d, d, bias=False).repeated(2)
            parts["relevance"] = relevance.repeated(num_views)
        # Eq 13-15. The last round has no vision updates.
        text_copies = 1 if config.share_interaction_layers else rounds
        parts["interaction"] = layer(words, regions).repeated(rounds, text_copies) + layer(regions, words).repeated(
            num_views * (rounds - 1), num_views * min(text_copies, rounds - 1)
        )
        if num_views == 2:
            fusion = linear(tweets * regions, d, d, bias=False).repeated(3)
            parts["interaction"] += fusion.repeated(rounds, copies=1)
    parts["classifier"] = linear(tweets * words, d, tags)
    # Eq 16-18. Viterbi, forward, backward, and what opens and what closes an entity; in training forward alone.
    step = tweets * (words - 1) * tags**2
    parameters = tags**2 + 2 * tags if config.use_crf else 0
    parts["CRF"] = Count(5 * step, 3 * step, parameters, activations_moved=tweets * words * tags)
    return parts


def _encoder_parameters(text_config) -> int:
    """All but the pooler's, which the network removes."""
    with torch.device("meta"):
        encoder = AutoModel.from_config(text_config)
    return sum(p.numel() for name, p in encoder.named_parameters() if not name.startswith("pooler."))


def growth(config: HamLearningConfig, tweets: int, subtokens: int, words: int, regions: int) -> dict[str, dict]:
    """`{size: {part: (exponent here, exponent in the end)}}` of the forward multiply-adds; `all` is their sum."""
    tags, rounds = config.num_labels, config.num_interaction_layers

    def counted(scale: dict[str, int]) -> dict[str, int]:
        factor = {"W": 1, "N": 1, "T": 1, "L": 1} | scale
        sizes = [subtokens * factor["W"], words * factor["W"], regions * factor["N"]]
        parts = _count(config, tweets, *sizes, tags * factor["T"], rounds * factor["L"])
        found = {name: part.multiply_adds for name, part in parts.items()}
        return found | {"all": sum(found.values())}

    exponents = {}
    for size in "WNTL" if config.use_vision else "WT":
        once, twice, huge, huge_twice = (counted({size: factor}) for factor in (1, 2, HUGE, 2 * HUGE))
        exponents[size] = {
            name: (math.log2(twice[name] / once[name]), round(math.log2(huge_twice[name] / huge[name])))
            for name in once
            if once[name]
        }
    return exponents


def network_config(source: str, **fields_) -> HamLearningConfig:
    """Config of a saved model's folder, or with a preset's text encoder; `fields_` override it."""
    if source in PRESETS:
        return HamLearningConfig(text_config=BertConfig(**PRESETS[source]), **fields_)
    if not Path(source).is_dir():
        raise ValueError(f"{source} is no folder: give one that holds config.json, or {' or '.join(PRESETS)}.")
    return HamLearningConfig.from_pretrained(source, **fields_)


def main():
    """Prints two tables, and writes them as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help=f"folder with config.json, or {' or '.join(PRESETS)}")
    parser.add_argument("--tweets", type=int, default=32, help="B")
    parser.add_argument("--subtokens", type=int, default=24, help="S, with [CLS] and [SEP]")
    parser.add_argument("--words", type=int, default=19, help="W")
    parser.add_argument("--regions", type=int, default=2, help="N")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="fields of the config")
    parser.add_argument("--bytes", type=int, default=4, help="of an element: 4 for float32, 2 for bfloat16")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here, as JSON")
    options = parser.parse_args()

    switches = dict(field.split("=", 1) for field in options.set)
    config = network_config(options.config, **{name: json.loads(value) for name, value in switches.items()})
    sizes = {name: getattr(options, name) for name in ("tweets", "subtokens", "words", "regions")}
    parts = count_operations(config, **sizes)
    total = sum(parts.values(), Count())
    shown = {name: part for name, part in parts.items() if part.multiply_adds} | {"all": total}

    print(", ".join(f"{value} {name}" for name, value in sizes.items()) + f", {options.bytes} bytes an element\n")
    print(
        "| part | forward, M multiply-adds | share | training, M | share | parameters, MB | weights read, MB |", end=""
    )
    print(" activations moved, MB |\n|" + "---|" * 8)
    for name, part in shown.items():
        shares = f"{part.multiply_adds / total.multiply_adds:.1%}", f"{part.training / total.training:.1%}"
        megabytes = (part.parameters, part.weights_read, part.activations_moved)
        print(
            f"| {name} | {part.multiply_adds / 1e6:,.1f} | {shares[0]} | {part.training / 1e6:,.1f} | {shares[1]} | ",
            end="",
        )
        print(" | ".join(f"{elements * options.bytes / 1e6:,.1f}" for elements in megabytes) + " |")
    encoder = parts["text encoder"]
    ratios = {
        "forward": total.multiply_adds / encoder.multiply_adds - 1,
        "training": total.training / encoder.training - 1,
    }
    print(
        f"\neverything but the encoder, over the encoder: {ratios['forward']:.3f} forward, {ratios['training']:.3f}",
        end="",
    )
    print(" in training\n")

    exponents = growth(config, **sizes)
    print("exponents of the growth of the forward count, here (in the end):\n")
    print(f"| part | {' | '.join(exponents)} |\n|" + "---|" * (1 + len(exponents)))
    for name in shown:
        print(f"| {name} | {' | '.join('{:.2f} ({})'.format(*exponents[size][name]) for size in exponents)} |")
    if options.json:
        counted = {name: asdict(part) for name, part in parts.items()}
        figures = {"sizes": sizes, "parts": counted, "but_encoder_over_encoder": ratios, "growth": exponents}
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
