#!/usr/bin/env python
"""Peak memory of `run_mner.py --do_predict --streaming True` for few tweets and many.

```bash
python benchmarks/streaming.py --json streaming.json
```

Tweets are made up, of the lengths of Twitter-2017, in Parquet shards of 10,000 and, the most of them, in a single one
too. The network is small and random: what is measured is memory, which must not grow with the number of tweets. Each
run is a process of its own; its peak is the resident memory that Linux counts.
"""

import argparse
import json
import re
import tempfile
import time
from multiprocessing import Pipe, get_context
from pathlib import Path

import numpy as np
from transformers import BertConfig, set_seed

from configuration_hamlearning import HamLearningConfig
from hamlearning.training.run import main as run_mner
from modeling_hamlearning import HamLearningForTokenClassification
from processing_hamlearning import HamLearningProcessor
from workload import made_up_tweets, print_table


SHARD = 10_000
GOOD = 1.1  # times the memory of the few: caches and the allocator grow to a bound


def save_network(folder: Path):
    """A random network of width 64 that reads the made-up tweets."""
    set_seed(1)
    _, tokenizer = made_up_tweets(1, np.random.default_rng(1))
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256}
    config = HamLearningConfig(text_config=BertConfig(vocab_size=len(tokenizer), **sizes), use_vision=False)
    HamLearningForTokenClassification(config).save_pretrained(folder)
    HamLearningProcessor(tokenizer).save_pretrained(folder)


def write_shards(folder: Path, count: int, size: int):
    """`count` tweets, `size` a shard."""
    folder.mkdir()
    for shard in range(count // size):
        tweets, _ = made_up_tweets(size, np.random.default_rng(shard))
        tweets.to_parquet(folder / f"test-{shard:05d}-of-{count // size:05d}.parquet")


def _predict(arguments: list[str], pipe):
    run_mner(arguments)
    # Not `getrusage`: what it tells may be the peak of the process that started this one.
    status = Path("/proc/self/status").read_text()
    pipe.send(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024)


def predict(model: Path, shards: Path, output: Path) -> dict[str, float]:
    """Peak memory in MB and seconds of one process."""
    here, there = Pipe()
    process = get_context("spawn").Process(target=_predict, args=(command(model, shards, output), there))
    start = time.perf_counter()
    process.start()
    there.close()
    megabytes = here.recv()
    process.join()
    return {"megabytes": megabytes, "seconds": time.perf_counter() - start}


def command(model: Path, shards: Path, output: Path) -> list[str]:
    """Arguments of run_mner.py."""
    named = {"model_name_or_path": model, "data_dir": shards, "output_dir": output, "disable_tqdm": True}
    return ["--do_predict", "--streaming", "True", *(str(part) for k, v in named.items() for part in (f"--{k}", v))]


def main():
    """Prints a table, and writes it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few", type=int, default=SHARD, help="tweets")
    parser.add_argument("--many", type=int, default=20 * SHARD, help="tweets")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    options = parser.parse_args()

    figures: dict = {"few": options.few, "many": options.many, "runs": {}}
    with tempfile.TemporaryDirectory() as root:
        root = Path(root)
        save_network(root / "model")
        sizes = {"few": (options.few, options.few), "many": (options.many, options.few)}
        for name, (count, size) in (sizes | {"many in one shard": (options.many, options.many)}).items():
            write_shards(root / name, count, size)
            figures["runs"][name] = predict(root / "model", root / name, root / f"{name} out")

    few = figures["runs"]["few"]["megabytes"]
    rows = []
    for name, found in figures["runs"].items():
        found["ratio"] = found["megabytes"] / few
        tweets = options.few if name == "few" else options.many
        row = [name, f"{tweets:,}", f"{found['megabytes']:.0f}", f"{found['ratio']:.3f}", f"{found['seconds']:.0f}"]
        rows.append(row)
    print_table(["", "tweets", "peak, MB", "over few", "s"], rows)
    is_constant = all(found["ratio"] <= GOOD for found in figures["runs"].values())
    print(f"\nconstant: {is_constant}")
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
