#!/usr/bin/env python
"""Training and prediction speed and parameters of every system of Table 1, same batch, same machine.

```bash
python benchmarks/rivals_speed.py minilm --batch_sizes 32 --precisions fp32 --json rivals_speed.json
```

Every system has the same text encoder with random weights and reads the same random batch: tweets of 24 sub-tokens and
18 words with 15 regions, and what a system reads beside these. The three without a text encoder read words alone, of 7
letters. A training step is forward, backward, clipping and AdamW; a prediction ends with tags on the host. Steps
repeat for `--seconds`; reported is the median step. Parameters are those beside the text encoder.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForTokenClassification, set_seed

from hamlearning.rivals.architectures import HAMLEARNING, RIVALS, class_of, reads_words
from hamlearning.rivals.lstm_taggers import WordVectorsConfig
from operations import PRESETS, network_config
from workload import PRECISIONS, autocast, markdown_table, random_batch, write_figures


SIZES = {"subtokens": 24, "words": 18, "regions": 15}
PLAIN = "plain"  # transformers' own token classifier
VOCABULARY, CHARACTERS = 5000, 100  # of the systems without a text encoder
SYSTEMS = (PLAIN, "bert_crf", HAMLEARNING, *RIVALS)


def make_system(system: str, source: str) -> torch.nn.Module:
    """A network with random weights around the text encoder of a preset or a folder."""
    set_seed(1)
    base = network_config(source)
    if system == PLAIN:
        text_config: Any = base.text_config
        text_config.num_labels = base.num_labels
        return AutoModelForTokenClassification.from_config(text_config)
    if system in ("bert_crf", HAMLEARNING):
        switches: dict = {"use_vision": False, "num_text_layers": 0, "num_ffnn_layers": 0}
        config = network_config(source, **(switches if system == "bert_crf" else {}))
        return class_of(HAMLEARNING)(config)
    model_class = class_of(system)
    names = ("image_feature_size", "region_feature_size", "num_classes")
    sizes: dict[str, Any] = {name: getattr(base, name) for name in names}
    if reads_words(system):  # vectors of words of their own in place of the text encoder
        sizes |= {"num_characters": CHARACTERS} if model_class.reads_characters else {}
        return model_class(model_class.config_class(text_config=WordVectorsConfig(vocab_size=VOCABULARY), **sizes))
    if system == "mrc_mner":  # four questions of the length of its own
        sizes["query_ids"] = [[1] * 14] * 4
    return model_class(model_class.config_class(text_config=base.text_config, **sizes))


def batch_of(system: str, model: torch.nn.Module, tweets: int) -> dict[str, torch.Tensor]:
    """What a system reads: text, regions, and what is its own."""
    torch.manual_seed(1)
    if system == PLAIN:
        shape = (tweets, SIZES["subtokens"])
        config: Any = model.config
        ids, labels = torch.randint(config.vocab_size, shape), torch.randint(config.num_labels, shape)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    if system in RIVALS and reads_words(system):
        batch = random_batch(model.config, tweets, SIZES["words"] + 2, SIZES["words"], regions=0)
        if "character_ids" in model.own_inputs:
            batch["character_ids"] = torch.randint(2, CHARACTERS, (tweets, SIZES["words"], 7))
        return batch
    batch = random_batch(model.config, tweets, **SIZES)
    if system == "ita":  # a caption and names of classes
        ids = torch.randint(model.config.text_config.vocab_size, (tweets, 24))
        batch |= {"context_ids": ids, "context_mask": torch.ones_like(ids)}
    if system == "hvpnet":
        from hamlearning.rivals.hvpnet import PYRAMID_SIZE

        batch |= {
            "pyramid_features": torch.randn(tweets, 4, PYRAMID_SIZE),
            "pyramid_mask": torch.ones(tweets, 4, dtype=torch.long),
        }
    return batch


def seconds_of(step: Callable[[], Any], device: torch.device, seconds: float) -> float:
    """The median time of a step that repeats for some seconds, three times at least; the first two warm up."""
    times, start = [], time.perf_counter()
    while len(times) < 5 or time.perf_counter() - start < seconds:
        begin = time.perf_counter()
        step()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[2:])


def new_parameters(model: torch.nn.Module) -> int:
    """Parameters beside the text encoder."""
    prefix = getattr(model, "base_model_prefix", "")
    encoder = getattr(model, prefix)
    encoder = getattr(encoder, "text_model", encoder)
    known = {id(parameter) for parameter in encoder.parameters()}
    return sum(p.numel() for p in model.parameters() if id(p) not in known)


def measure(
    system: str, source: str, device: torch.device, precision: str, tweets: int, seconds: float, compiled: bool = False
) -> dict[str, Any]:
    """Tweets a second in training and in prediction, and where the device tells it, the most memory."""
    model = make_system(system, source).to(device)
    batch = {name: tensor.to(device) for name, tensor in batch_of(system, model, tweets).items()}
    figures: dict[str, Any] = {"system": system, "precision": precision, "batch": tweets, "compiled": compiled}
    figures["new_parameters"] = new_parameters(model)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    network: Any = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def train() -> None:
        with autocast(device, precision):
            loss = network(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    @torch.no_grad()
    def predict() -> None:
        with autocast(device, precision):
            outputs = network(**without_labels)
        (outputs.logits.argmax(dim=-1) if system == PLAIN else outputs.predictions).cpu()

    without_labels = {name: tensor for name, tensor in batch.items() if name != "labels"}
    model.train()
    figures["train"] = tweets / seconds_of(train, device, seconds)
    if device.type == "cuda":
        figures["train_gib"] = torch.cuda.max_memory_allocated() / 2**30
    model.eval()
    figures["predict"] = tweets / seconds_of(predict, device, seconds)
    return figures


def table(figures: list[dict[str, Any]]) -> list[str]:
    """Lines of Markdown, a line a measurement."""
    head = ["system", "new parameters", "precision", "batch", "training, tweets/s", "prediction, tweets/s", "peak GiB"]
    lines = []
    for entry in figures:
        name = entry["system"] + ", compiled" * entry["compiled"]
        if "problem" in entry:
            lines.append([name, "", entry["precision"], str(entry["batch"]), entry["problem"], "", ""])
            continue
        memory = f"{entry['train_gib']:.1f}" if "train_gib" in entry else ""
        lines.append(
            [name, f"{entry['new_parameters']:,}", entry["precision"], str(entry["batch"]), f"{entry['train']:,.1f}",
             f"{entry['predict']:,.1f}", memory]
        )  # fmt: skip
    return markdown_table(head, lines)


def main():
    """Prints the table, and writes the figures as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help=f"{', '.join(PRESETS)}, or a folder with config.json; its weights are not read")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[32])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--seconds", type=float, default=5, help="so long each is repeated")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here, as JSON")
    options = parser.parse_args()
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    figures = [
        measure(system, options.config, device, precision, tweets, options.seconds)
        for precision in options.precisions
        for tweets in options.batch_sizes
        for system in options.systems
    ]
    print("\n".join(table(figures)))
    write_figures({"torch": torch.__version__, "threads": torch.get_num_threads(), "systems": figures}, options)


if __name__ == "__main__":
    main()
