#!/usr/bin/env python
"""What an explanation costs: CPU seconds of `ner(tweet, explain=True)` beside those of `ner(tweet)`, with a picture.

```bash
python benchmarks/explaining_speed.py outputs/demo --data_dir datasets/sample/generated
```

The tweets are the first of the test split that have a picture; each is answered both ways in turn, the vision model's
time in both. CPU time of the process, not that of the clock: it is the same on a busy machine. Reported are medians
over tweets, regions a tweet, and the median ratio. `--runtime` is the vision model's.
"""

import argparse
import statistics
import time

import torch
from transformers import pipeline

from hamlearning.data.tweets import load_tweets


def cpu_seconds(ner, tweet: dict, **options) -> float:
    """CPU seconds of one answer."""
    start = time.process_time()
    ner(tweet, **options)
    return time.process_time() - start


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or Hub id of a trained model with a vision model")
    parser.add_argument("--data_dir", required=True, help="folder of a data set with pictures")
    parser.add_argument("--tweets", type=int, default=20, help="how many are answered [%(default)s]")
    parser.add_argument("--runtime", help="torch or openvino [openvino where it is installed]")
    options = parser.parse_args()
    ner = pipeline(model=options.model, trust_remote_code=True)
    ner.processor.vision_model.runtime = options.runtime
    split = load_tweets(options.data_dir)["test"]
    rows = (split[place] for place in range(len(split)))
    tweets = [{"text": " ".join(row["tokens"]), "image": row["image"]} for row in rows if row["image"] is not None]
    tweets = tweets[: options.tweets]
    regions = [len((ner(tweet, explain=True) or [{"regions": []}])[0]["regions"]) for tweet in tweets]  # warm, too
    plain, explained = zip(*((cpu_seconds(ner, t), cpu_seconds(ner, t, explain=True)) for t in tweets), strict=True)
    ratio = statistics.median(both / one for one, both in zip(plain, explained, strict=True))
    print(
        f"{len(tweets)} tweets, {max(regions)} regions at most, {torch.get_num_threads()} threads: "
        f"{statistics.median(plain):.3f} s, explained {statistics.median(explained):.3f} s, ratio {ratio:.2f}"
    )


if __name__ == "__main__":
    main()
