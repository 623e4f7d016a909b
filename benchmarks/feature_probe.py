#!/usr/bin/env python
"""What the features of the pictures know of a tweet's entities, and what of it the text did not say already.

```bash
python benchmarks/feature_probe.py runs/text_1 runs/text_2 --visual_features twitter2017/caption_features.parquet
python benchmarks/feature_probe.py --data_dir released/cpmner --visual_features cpmner/visual_features.parquet
```

For each entity type a logistic regression says whether a tweet has an entity of it. It is fitted on the dev tweets and
measured on the test tweets, on neither of which the text model was trained. It sees the text model's entities (the
summed scores of each type), the pictures' features (the whole and the mean region, the first principal components of
the dev tweets), both, or both with the features dealt out anew among the tweets. Features that add something to the
text make the third log loss lower than the first, and the fourth does not share it.

With `--data_dir` it is asked what the features alone know: fitted on the training tweets, measured on dev, beside the
same with the dev tweets' features dealt out anew, and beside what text models, if there are runs, found on dev.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hamlearning.data.features import VisualFeatures
from hamlearning.data.tweets import load_tweets, tag_names
from words_hamlearning import entity_spans


COMPONENTS = 32
PENALTIES = np.logspace(-5, 0, 11)  # inverse strengths of the L2 penalty, chosen by cross-validation within dev
PROBED_SPLITS = ("train", "validation")  # fitted on, measured on, where there is no text model
TEXT_SCALE = 100  # the penalty is for the features: the text's four weights are as good as free


def read_run(folder: Path, split: str, features: VisualFeatures, types: list[str]):
    """Presence of each type (tweets, types), the text model's scores (tweets, types), features (tweets, 2 D)."""
    lines = (folder / f"predictions_{split}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    present = presence([row["ner_tags"] for row in rows], types)
    scores = np.array(
        [[sum(e["score"] for e in row["entities"] if e["type"] == type_) for type_ in types] for row in rows]
    )
    return present, scores, seen_of([row["id"] for row in rows], features)


def presence(tags: list[list[str]], types: list[str]) -> np.ndarray:
    """Whether each tweet has an entity of each type, (tweets, types)."""
    there = [{type_ for type_, _, _ in entity_spans(names)} for names in tags]
    return np.array([[type_ in kinds for type_ in types] for kinds in there])


def seen_of(ids: list[str], features: VisualFeatures) -> np.ndarray:
    """Features of the whole and the mean region of each tweet's picture, (tweets, 2 D); 0 where there is none."""
    pictures = [features.get(id_) for id_ in ids]
    size = next(len(picture["image_features"]) for picture in pictures if picture is not None)
    seen = np.zeros((len(ids), 2 * size))
    for row, picture in zip(seen, pictures, strict=True):
        if picture is not None:
            row[:size] = picture["image_features"]
            row[size:] = np.mean(picture["features"], axis=0) if len(picture["features"]) else 0
    return seen


def probe(fitted: np.ndarray, present: np.ndarray, measured: np.ndarray, gold: np.ndarray) -> tuple[float, float]:
    """AUC and log loss (nats) on `measured` of a regression fitted to `fitted`."""
    model = LogisticRegressionCV(Cs=PENALTIES, cv=5, scoring="neg_log_loss", max_iter=5000)
    probability = model.fit(fitted, present).predict_proba(measured)[:, 1]
    return roc_auc_score(gold, probability), log_loss(gold, probability)


def probe_alone(data_dir: str, runs: list[Path], features: VisualFeatures, seed: int):
    """Prints a row a type: what the features know without any text, and what text models know without a picture."""
    splits = load_tweets(data_dir, splits=PROBED_SPLITS)
    tags = {split: tag_names(splits[split]) for split in PROBED_SPLITS}
    types = sorted({type_ for names in tags["train"] for type_, _, _ in entity_spans(names)})
    (train, train_seen), (dev, dev_seen) = (
        (presence(tags[split], types), seen_of(splits[split]["id"], features)) for split in PROBED_SPLITS
    )
    reduce = make_pipeline(StandardScaler(), PCA(COMPONENTS, random_state=0), StandardScaler()).fit(train_seen)
    train_seen, dev_seen = reduce.transform(train_seen), reduce.transform(dev_seen)
    others = np.random.default_rng(seed).permutation(dev_seen)
    found = [read_run(folder, "validation", features, types)[:2] for folder in runs]
    print("| type | train tweets with it | dev tweets with it | features: AUC | dealt out anew: AUC | text: AUC |")
    print("|---|---|---|---|---|---|")
    for column, type_ in enumerate(types):
        if len(set(train[:, column])) < 2 or len(set(dev[:, column])) < 2:
            continue  # all have it, or none
        aucs = [probe(train_seen, train[:, column], seen, dev[:, column])[0] for seen in (dev_seen, others)]
        of_texts = [roc_auc_score(gold[:, column], scores[:, column]) for gold, scores in found]
        aucs.append(float(np.mean(of_texts)) if of_texts else float("nan"))
        counts = train[:, column].sum(), dev[:, column].sum()
        print(f"| {type_} | {counts[0]} | {counts[1]} | " + " | ".join(f"{auc:.2f}" for auc in aucs) + " |")


def main():
    """Prints a row a type, averaged over the runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="output folders of text models: --do_eval and --do_predict")
    parser.add_argument("--data_dir", help="what the features alone know of the entities of its tweets")
    parser.add_argument("--visual_features", required=True, help="visual feature file")
    parser.add_argument("--seed", type=int, default=0, help="of the features dealt out anew")
    options = parser.parse_args()
    if not options.runs and not options.data_dir:
        parser.error("give output folders of text models, or --data_dir, or both")
    features = VisualFeatures(options.visual_features)
    if options.data_dir:
        return probe_alone(options.data_dir, options.runs, features, options.seed)
    types = json.loads((options.runs[0] / "results.json").read_text(encoding="utf-8"))["types"]
    measured = []
    for folder in options.runs:
        dev_gold, dev_text, dev_seen = read_run(folder, "validation", features, types)
        test_gold, test_text, test_seen = read_run(folder, "test", features, types)
        reduce = make_pipeline(StandardScaler(), PCA(COMPONENTS, random_state=0), StandardScaler()).fit(dev_seen)
        scale = StandardScaler().fit(dev_text)
        texts = [TEXT_SCALE * scale.transform(scores) for scores in (dev_text, test_text)]
        pictures = [reduce.transform(seen) for seen in (dev_seen, test_seen)]
        rng = np.random.default_rng(options.seed)
        others = [rng.permutation(seen) for seen in pictures]
        inputs = [texts, pictures, [np.hstack(x) for x in zip(texts, pictures, strict=True)]]
        inputs.append([np.hstack(x) for x in zip(texts, others, strict=True)])
        measured.append(
            [
                [probe(dev, dev_gold[:, column], test, test_gold[:, column]) for dev, test in inputs]
                for column in range(len(types))
            ]
        )
    kinds = ("text", "features", "both", "both, dealt out anew")
    print("| type | " + " | ".join(f"{kind}: AUC | log loss" for kind in kinds) + " |")
    print("|---" * (1 + 2 * len(kinds)) + "|")
    for type_, row in zip(types, np.mean(measured, axis=0), strict=True):
        print(f"| {type_} | " + " | ".join(f"{auc:.3f} | {loss:.3f}" for auc, loss in row) + " |")


if __name__ == "__main__":
    main()
