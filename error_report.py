#!/usr/bin/env python
"""One page to look at errors: what each run predicted for each tweet, beside gold and picture, with filters.

```bash
python error_report.py outputs/a/predictions_test.jsonl outputs/b/predictions_test.jsonl \
    --names "with pictures" "text alone" --data_dir prepared/twitter2017 --visual_features features.parquet
python error_report.py mtmner_pred.txt --gold twitter2017/test.txt                    # a peer's file
python error_report.py a.jsonl b.jsonl --ids O_2144 16_05_01_360                      # two examples, for a paper
```

The page is one HTML file, pictures included. It needs no server and no network. The first run is compared with the
second.
"""

import argparse
import base64
import hashlib
import html
import io
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datasets import DatasetDict
from PIL import Image

from configuration_hamlearning import TAGS
from data_hamlearning import load_tweets, read_visual_metadata
from evaluation import Tags, compare, entity_counts, evaluate_tags, read_gold, read_predictions
from image_processing_hamlearning import ImageError, read_image
from processing_hamlearning import SURROGATES, entity_spans
from visual_extraction import TweetImages, find_images


THUMBNAIL = 320  # pixels of the longer side
WHOLE = (0.5, 0.5, 1.0, 1.0)  # the box of a region that lies nobody knows where


# ---------------------------------------------------------------------------------------------------------- figures


def calibration(scores: Sequence[float], is_right: Sequence[bool], bins: int = 10) -> dict[str, Any]:
    """How far the scores of predictions are from how often these are right.

    ```python
    >>> calibration([0.9, 0.7, 0.2], [True, False, False], bins=2)["bins"][1]
    {'low': 0.5, 'high': 1.0, 'number': 2, 'score': 0.8, 'right': 0.5}
    ```

    Args:
        scores: One probability a prediction.
        is_right: Whether that prediction is right.
        bins: How many bins of equal width [0, 1] is cut into. A score on a border belongs to the bin above it.

    Returns:
        `number` of predictions, `ece`, the expected calibration error: the distance of a bin's mean score from its
        share of right predictions, averaged over predictions; and `bins`, lowest first, each with `low`, `high`,
        `number`, and mean `score` and share `right`, None in an empty bin.

    Raises:
        ValueError: There is no score, the numbers differ, or a score is not in [0, 1].
    """
    score_of, right_of = np.asarray(scores, float), np.asarray(is_right, float)
    if not len(score_of) or len(score_of) != len(right_of):
        raise ValueError(f"{len(score_of)} scores, {len(right_of)} answers: give one of each for every prediction")
    outside = ~((score_of >= 0) & (score_of <= 1))
    if outside.any():
        raise ValueError(f"a score is {score_of[outside][0]}: give probabilities, in [0, 1]")
    edges = np.arange(bins + 1) / bins
    bin_of = np.minimum(np.searchsorted(edges, score_of, side="right") - 1, bins - 1)
    rows, ece = [], 0.0
    for number, (low, high) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        inside = bin_of == number
        row = {"low": low, "high": high, "number": int(inside.sum()), "score": None, "right": None}
        if row["number"]:
            row["score"], row["right"] = float(score_of[inside].mean()), float(right_of[inside].mean())
            ece += row["number"] / len(score_of) * abs(row["score"] - row["right"])
        rows.append(row)
    return {"number": len(score_of), "ece": ece, "bins": rows}


def confusion(gold: Tags, predicted: Tags) -> Counter[tuple[str | None, str | None]]:
    """Count entities by (gold type, predicted type), for entities of the same words.

    ```python
    >>> confusion([["B-PER", "O"], ["B-LOC", "I-LOC"]], [["B-ORG", "O"], ["B-LOC", "O"]])
    Counter({('PER', 'ORG'): 1, ('LOC', None): 1, (None, 'LOC'): 1})
    ```

    A gold entity whose words are no predicted entity counts as (type, None), a predicted one whose words are none of
    gold as (None, type): nothing was there, or something of other boundaries.

    Args:
        gold: The gold tags.
        predicted: As many for each tweet.

    Raises:
        ValueError: The numbers of tweets differ.
    """
    counts: Counter[tuple[str | None, str | None]] = Counter()
    for tags, predictions in zip(gold, predicted, strict=True):
        there = {(first, end): type_ for type_, first, end in entity_spans(tags)}
        found = {(first, end): type_ for type_, first, end in entity_spans(predictions)}
        counts.update((there.get(words), found.get(words)) for words in [*there, *(found.keys() - there.keys())])
    return counts


# ---------------------------------------------------------------------------------------------------------- reading


def _read_run(path: str, name: str, gold: Mapping[str, Any], fill_with_o: bool) -> dict[str, Any]:
    """`name`, `tags`, and for each tweet `scores` (score by span; empty where unknown) and `relevance` (or None)."""
    tags, _ = read_predictions(path, gold, fill_with_o)
    scores: list[dict[tuple[str, int, int], float]] = [{} for _ in tags]
    relevance: list[list[float] | None] = [None for _ in tags]
    if path.endswith(".jsonl"):
        lines = enumerate(Path(path).read_text(encoding="utf-8-sig").split("\n"), start=1)
        rows = ((number, json.loads(line)) for number, line in lines if line)
        for tweet, (number, row) in enumerate(rows):
            entities, views = row.get("entities") or [], row.get("relevance")
            try:
                for entity in entities:
                    type_ = SURROGATES.sub("\ufffd", entity["type"])  # as `read_predictions` reads the tags
                    type_ = "MISC" if type_ == "OTHER" else type_
                    scores[tweet][type_, entity["start"], entity["end"]] = float(entity["score"])
                shares = None if views is None else [abs(float(view)) for view in views]
                if not all(map(math.isfinite, shares or [])):
                    raise ValueError("a relevance is not finite")
                relevance[tweet] = shares
                if not all(0 <= score <= 1 for score in scores[tweet].values()):
                    raise ValueError("a score is not in [0, 1]")
                if scores[tweet].keys() - entity_spans(tags[tweet]):
                    raise ValueError("an entity is not what 'predictions' say")
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise ValueError(
                    f"{path}, line {number}: 'entities' is {entities!r} and 'relevance' {views!r} "
                    f"({type(error).__name__}: {error}): give what run_mner.py writes, or neither"
                ) from None
    return {"name": name, "tags": tags, "scores": scores, "relevance": relevance}


def _is_box(box: Any) -> bool:
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(share, int | float) for share in box):
        return False
    x, y, h, w = box
    return all(map(math.isfinite, (x - w / 2, y - h / 2, h, w)))  # two that are finite may have no finite difference


def _read_regions(path: str, ids: set[str]) -> dict[str, dict[str, Any]]:
    """By image id: `caption` (or None) and `regions`, a list each: class name, and left, top, width, height if known.

    The features stay on disk: they may be gigabytes.
    """
    names = read_visual_metadata(path)["class_names"]
    columns = pq.read_schema(path).names
    missing = [name for name in ("id", "boxes", "class_ids") if name not in columns]
    if missing:
        raise ValueError(f"{path} lacks the columns {missing}, it has {columns}: give a visual feature file")
    wanted = ["id", "boxes", "class_ids", *(["caption"] if "caption" in columns else [])]
    seen = {}
    with pq.ParquetFile(path) as file:
        all_rows = (row for batch in file.iter_batches(columns=wanted) for row in batch.to_pylist())
        rows = [row for row in all_rows if isinstance(row["id"], str) and row["id"] in ids]
    for row in rows:
        regions, boxes, class_ids, caption = [], row["boxes"], row["class_ids"], row.get("caption")
        where = f"{path}, image {row['id']!r}"
        if not isinstance(boxes, list):
            raise ValueError(f"{where}: boxes is {boxes!r}: give a list of boxes, an empty one for no region")
        for box in boxes:
            if not _is_box(box):
                raise ValueError(f"{where}: the box {box!r} is not (x_c, y_c, h, w): give it 4 finite numbers")
        are_classes = isinstance(class_ids, list) and all(isinstance(class_id, int) for class_id in class_ids)
        if not are_classes or len(boxes) != len(class_ids) or not all(0 <= id_ < len(names) for id_ in class_ids):
            raise ValueError(
                f"{where}: {len(boxes)} boxes and the class_ids {class_ids!r}: give each region one box and one of "
                f"the {len(names)} classes that the metadata names"
            )
        if not isinstance(caption, str | None):
            raise ValueError(f"{where}: caption is {caption!r}: give a string, or null for none")
        for class_id, (x, y, h, w) in zip(class_ids, boxes, strict=True):
            place = [] if (x, y, h, w) == WHOLE else [x - w / 2, y - h / 2, w, h]
            regions.append([names[class_id], *(round(share, 4) for share in place)])
        seen[row["id"]] = {"caption": caption, "regions": regions}
    if not seen:
        raise ValueError(f"{path} has no row for any of the {len(ids)} images: give the file of this data set")
    return seen


def _picture_sources(args: argparse.Namespace, ids: set[str]) -> dict[str, Any]:
    """What `read_image` takes, by image id."""
    if args.image_dir is not None:
        found = {id_: file for id_, file in find_images(args.image_dir).items() if id_ in ids}
    elif args.data_dir is not None:
        splits = load_tweets(args.data_dir)
        if args.split not in splits:
            raise ValueError(
                f"{args.data_dir} holds no split {args.split!r}, only {', '.join(map(str, splits))}: give --split"
            )
        images = TweetImages(DatasetDict({args.split: splits[args.split]}))
        found = {id_: images[place] for place, id_ in enumerate(images.ids) if id_ in ids}
        found = {id_: image for id_, image in found.items() if image is not None}
    else:
        return {}
    if not found:
        raise ValueError(
            f"{args.image_dir or args.data_dir} holds no picture of any of the {len(ids)} tweets: give the place of "
            "their pictures and --split, or leave the argument out"
        )
    return found


def _thumbnail(image: Any) -> str:
    """A small JPEG of the picture in base64."""
    picture = read_image(image)
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=75, optimize=True)
    return base64.b64encode(file.getvalue()).decode()


# ------------------------------------------------------------------------------------------------------------- page


def _score_table(runs: Sequence[Mapping[str, Any]], types: Sequence[str]) -> str:
    """P, R and F1 by type and over all: three columns a run."""
    all_scores = [run["figures"] for run in runs]
    head = "".join(f"<th colspan=3 scope=colgroup>{html.escape(run['name'])}</th>" for run in runs)
    rows = [f"<tr><td></td>{head}<td></td></tr><tr><th></th>{'<th>P<th>R<th>F1' * len(runs)}<th>gold</th></tr>"]

    def row(title: str, per_run: list[Mapping[str, float]], number: int, prefix: str = "", style: str = "") -> None:
        cells = [
            f"<td class={key}>{100 * scores.get(prefix + key, 0):.2f}</td>"
            for scores in per_run
            for key in ("precision", "recall", "f1")
        ]
        rows.append(f"<tr class='{style}'><th scope=row>{title}</th>{''.join(cells)}<td>{number}</td></tr>")

    for type_ in types:
        of_type = [scores["types"].get(type_, {}) for scores in all_scores]
        number = max(values.get("number", 0) for values in of_type)
        row(html.escape(type_), of_type, number)
    row("all", all_scores, all_scores[0]["gold_entities"], style="all")
    row("all, strict IOB2", all_scores, all_scores[0]["strict_gold_entities"], "strict_")
    intervals = [[100 * share for share in scores["intervals"]["f1"]] for scores in all_scores]
    cells = "".join(f"<td colspan=3>{low:.2f} to {high:.2f}</td>" for low, high in intervals)
    rows.append(f"<tr><th scope=row>F1, 95 % interval</th>{cells}<td></td></tr>")
    return f"<div class=scroll><table>{''.join(rows)}</table></div>"


def _comparison(gold: Tags, first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    test = compare(gold, first["tags"], second["tags"])
    wrong, other_wrong = (
        counts[:, 1] + counts[:, 2] - 2 * counts[:, 0]
        for counts in (entity_counts(gold, run["tags"]) for run in (first, second))
    )
    low, high = test["interval"]
    fewer, more = (wrong < other_wrong).sum(), (wrong > other_wrong).sum()
    one, other = html.escape(first["name"]), html.escape(second["name"])
    return (
        f"<p><b>{one}</b> against <b>{other}</b>: F1 {100 * test['f1']:.2f} against {100 * test['other_f1']:.2f}, "
        f"difference <b>{100 * test['difference']:+.2f}</b> (95&nbsp;% interval {100 * low:+.2f} to "
        f"{100 * high:+.2f}), p&nbsp;=&nbsp;{test['p_value']:.4g} (approximate randomisation over tweets, "
        f"two-sided). Fewer wrong entities than <i>{other}</i> in {fewer} tweets, more in {more}.</p>"
    )


def _confusion_table(counts: Mapping[tuple[str | None, str | None], int], types: Sequence[str]) -> str:
    kinds = [*types, None]
    cells = []
    for gold_type in kinds:
        total = max(sum(counts.get((gold_type, type_), 0) for type_ in kinds), 1)
        cells.append(f"<tr><th scope=row>{'none' if gold_type is None else html.escape(gold_type)}</th>")
        for type_ in kinds:
            number = counts.get((gold_type, type_), 0)
            text = "" if gold_type is type_ is None else f"{number}"
            share = 0 if gold_type is None else number / total
            right = "class=right" if gold_type == type_ else ""
            cells.append(f"<td {right} style='--share:{100 * share:.0f}%'>{text}</td>")
        cells.append("</tr>")
    head = "".join(f"<th scope=col>{'none' if type_ is None else html.escape(type_)}</th>" for type_ in kinds)
    return (
        f"<table class=confusion><caption>gold type (rows) × predicted type</caption><tr><td></td>{head}</tr>"
        f"{''.join(cells)}</table><p class=note>Entities of the same words; “none”: nothing, or other boundaries.</p>"
    )


def _reliability_plot(run: Mapping[str, Any], gold: Tags) -> str:
    pairs = [
        (score, span in set(entity_spans(tags)))
        for scores, tags in zip(run["scores"], gold, strict=True)
        for span, score in scores.items()
    ]
    if not pairs:
        return "<p class=note>The file holds no scores of spans.</p>"
    scores, are_right = zip(*pairs, strict=True)
    figures = calibration(scores, are_right)
    size, marks = 170, []
    for row in figures["bins"]:
        left, middle = size * row["low"], size * (row["low"] + row["high"]) / 2
        marks.append(f"<text x={middle:.1f} y={size + 24} class='count number'>{row['number']}</text>")
        if row["number"]:
            height, width = size * row["right"], size * (row["high"] - row["low"])
            score, y = size * row["score"], size - height
            marks.append(
                f"<g><title>{row['low']:.1f} to {row['high']:.1f}: {row['number']} entities, mean score "
                f"{row['score']:.3f}, {100 * row['right']:.1f} % right</title>"
                f"<rect x={left + 1:.1f} y={y:.1f} width={width - 2:.1f} height={height:.1f} />"
                f"<circle cx={score:.1f} cy={y:.1f} r=3 /></g>"
            )
    ticks = "".join(
        f"<text x={size * share} y={size + 12} class=count>{share:g}</text>"
        f"<text x=-5 y={size * (1 - share) + 3} class=tick>{share:g}</text>"
        for share in (0, 0.5, 1)
    )
    summary = f"ECE {100 * figures['ece']:.2f} % over {figures['number']} predicted entities"
    return (
        f"<figure class=plot><svg viewBox='-36 -8 {size + 46} {size + 52}' role=img aria-label='{summary}'>"
        f"<path d='M0 0V{size}H{size}M0 {size}L{size} 0' />{''.join(marks)}{ticks}"
        f"<text x={size / 2} y={size + 38} class=count>score (below it: entities)</text>"
        f"<text transform='translate(-27 {size / 2}) rotate(-90)' class=count>share exactly right</text></svg>"
        f"<figcaption class=note><b>{summary}</b>, weighted by count. Right: type and both boundaries are those of "
        "gold. Dots: mean score.</figcaption></figure>"
    )


def _report(args: argparse.Namespace) -> str:
    """The whole page."""
    names = args.names or args.predictions
    if len(names) != len(args.predictions) or len(set(names)) != len(names):
        raise ValueError(f"--names is {names} for {len(args.predictions)} files: give each file a name of its own")
    if args.gold is None and not args.predictions[0].endswith(".jsonl"):
        raise ValueError(f"{args.predictions[0]} is no .jsonl of run_mner.py: give the gold tags with --gold")
    gold_path = args.gold or args.predictions[0]
    gold = read_gold(gold_path, args.split)
    tags = gold["ner_tags"]
    runs = [_read_run(path, name, gold, args.fill_with_o) for path, name in zip(args.predictions, names, strict=True)]
    shown = range(len(tags))
    if args.ids is not None:
        unknown = [id_ for id_ in args.ids if id_ not in gold["id"]]
        if unknown:
            raise ValueError(f"--ids names {unknown}, which {gold_path} does not hold: give ids of its tweets")
        shown = [tweet for id_ in args.ids for tweet in shown if gold["id"][tweet] == id_]

    ids = {gold["id"][tweet] for tweet in shown}
    seen = {} if args.visual_features is None else _read_regions(args.visual_features, ids)
    pictures: dict[str, str] = {}
    broken: dict[str, str] = {}
    for id_, source in _picture_sources(args, ids).items():
        try:
            pictures[id_] = _thumbnail(source)
        except ImageError as error:
            broken[id_] = str(error)
    place_of = {id_: place for place, id_ in enumerate(pictures)}

    found = {span[0] for run in [{"tags": tags}, *runs] for sentence in run["tags"] for span in entity_spans(sentence)}
    known = [tag[2:] for tag in TAGS[1::2]]
    types = [*(type_ for type_ in known if type_ in found), *sorted(found - set(known))]
    parts = []
    for run in runs:
        run["figures"] = evaluate_tags(tags, run["tags"])
        parts.append(
            f"<section class=run><h3>{html.escape(run['name'])}</h3><div class=pair>"
            f"<div>{_confusion_table(confusion(tags, run['tags']), types)}</div>"
            f"{_reliability_plot(run, tags)}</div></section>"
        )
    tweets = [
        {
            "id": gold["id"][tweet],
            "words": gold["tokens"][tweet],
            "gold": entity_spans(tags[tweet]),
            "runs": [
                [[*span, run["scores"][tweet].get(span)] for span in entity_spans(run["tags"][tweet])] for run in runs
            ],
            "relevance": [run["relevance"][tweet] for run in runs],
            "picture": place_of.get(gold["id"][tweet]),
            "broken": broken.get(gold["id"][tweet]),
            **seen.get(gold["id"][tweet], {"caption": None, "regions": []}),
        }
        for tweet in shown
    ]
    # NaN and Infinity are no JSON: the page's script would show no tweet at all.
    data = json.dumps({"tweets": tweets, "names": names, "types": types}, allow_nan=False, separators=(",", ":"))
    about = f"{len(tags)} tweets of {gold_path}, {runs[0]['figures']['gold_entities']} gold entities, SHA-256 "
    about += f"{gold['sha256'][:12]}…" + ("" if args.ids is None else f" Scores are of all; {len(tweets)} are shown.")
    filling = {
        "title": html.escape(" / ".join(names)),
        "about": html.escape(about),
        "scores": _score_table(runs, types),
        "comparison": _comparison(tags, *runs[:2]) if len(runs) > 1 else "",
        "runs": "".join(parts),
        "style": STYLE,
        # Escaped so that no tweet can close the element: "<" stands in JSON strings alone.
        "data": data.replace("<", "\\u003c"),
        "script": SCRIPT,
        "hash": base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode(),
        # Text that nothing parses until its tweet is shown, so that thousands of pictures cost no time.
        "pictures": "".join(
            f"<script type=text/plain id=picture{place}>{pictures[id_]}</script>\n" for id_, place in place_of.items()
        ),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: filling[match[1]], PAGE)


# --------------------------------------------------------------------------------------------------------- template

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{{hash}}'">
<title>Errors: {{title}}</title>
<style>{{style}}</style>
</head>
<body>
<header>
<h1>Errors of {{title}}</h1>
<p class="note">{{about}}</p>
</header>
<details open id="figures">
<summary>Scores</summary>
{{scores}}
{{comparison}}
<div class="runs">{{runs}}</div>
</details>
<form id="filters" role="search">
<label>Errors <select name="wrong"><option value="">all tweets</option></select></label>
<label>Type <select name="type"><option value="">any</option></select></label>
<label><select name="change"><option value="">any</option></select></label>
<label class="wide">Search <input type="search" name="query" placeholder="words, id, caption, class name"></label>
<output id="count" aria-live="polite"></output>
</form>
<p class="note" id="legend">Under each entity: <span class="chip gold">gold</span>, then each run by its number with
the score of the span. <span class="chip">solid: right</span> <span class="chip wrong">dashed ✗: wrong</span>
<span class="none missed">dotted ✗: missed</span> Wrong entities of a tweet are those of gold that a run lacks, and
those of the run that gold lacks: a wrong type or boundary is both. With a type chosen, only its entities count.</p>
<main id="tweets" tabindex="-1"></main>
<nav id="pages" aria-label="Pages">
<button type="button" id="back">← back</button> <span id="page"></span> <button type="button" id="on">on →</button>
</nav>
<noscript>The tweets are shown by a script in this page: allow it.</noscript>
<script type="application/json" id="data">{{data}}</script>
{{pictures}}
<script>{{script}}</script>
</body>
</html>
"""

STYLE = """
:root { color-scheme: light dark; --back: light-dark(#f6f7f9, #14171c); --card: light-dark(#fff, #1d2128);
  --text: light-dark(#1b1f26, #e6e9ee); --soft: light-dark(#5c6573, #9aa4b2); --line: light-dark(#dde1e7, #343b46);
  --accent: light-dark(#2f5fd0, #7aa2ff); --t0: light-dark(#0a6fb8, #5cb3f2); --t1: light-dark(#0a8a5f, #3fc797);
  --t2: light-dark(#c25400, #ff9b4a); --t3: light-dark(#9b3f96, #e08bdb); --t4: light-dark(#7a6a00, #d9c64a);
  --t5: light-dark(#b3263e, #ff7d92); --t6: light-dark(#4d55c4, #a3a9ff); --t7: light-dark(#5d6b2f, #b6c97a); }
* { box-sizing: border-box; } [hidden] { display: none !important; }
body { margin: 0 auto; padding: 1rem; max-width: 1240px; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
header, #figures p, h3, th[colspan], label { overflow-wrap: anywhere; }
h1 { font-size: 1.35rem; margin: 0; } h3 { font-size: 1rem; margin: 0 0 .4rem; }
p { margin: .4rem 0; } .note { color: var(--soft); font-size: .82rem; }
summary { cursor: pointer; font-weight: 600; padding: .3rem 0; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; } main:focus { outline: none; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .16rem .55rem; text-align: right; font-weight: 400; border-bottom: 1px solid var(--line); }
th { color: var(--soft); } th[scope=row] { text-align: left; color: var(--text); } th[colspan] { text-align: center; }
td.f1, tr.all * { font-weight: 650; } td.precision { border-left: 1px solid var(--line); }
.scroll { overflow-x: auto; } caption { caption-side: top; text-align: left; color: var(--soft); font-size: .82rem; }
.runs { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: .8rem; }
.run, article { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .8rem; }
.run { overflow-x: auto; } .pair { display: flex; gap: 1rem; flex-wrap: wrap; align-items: flex-start; }
.pair > div { width: min-content; } .plot { flex: 1 1 190px; }
.confusion { font-size: .82rem; } .confusion th, .confusion td { padding: .22rem .4rem; }
.confusion td[style] { background: color-mix(in srgb, var(--t5) var(--share), transparent); }
.confusion td.right { background: color-mix(in srgb, var(--t1) calc(var(--share) * .6), transparent); }
.plot { margin: 0; max-width: 330px; } .plot path { fill: none; stroke: var(--soft); stroke-width: .8; }
.plot rect { fill: color-mix(in srgb, var(--accent) 45%, transparent); } .plot circle { fill: var(--text); }
.plot text { fill: var(--soft); font-size: 9.5px; } .plot .count { text-anchor: middle; }
.plot .number { font-size: 7.5px; } .tick { text-anchor: end; }
#filters { position: sticky; top: 0; z-index: 2; display: flex; flex-wrap: wrap; gap: .5rem .9rem; align-items: end;
  margin-top: .8rem; padding: .6rem 0; background: var(--back); border-bottom: 1px solid var(--line); }
#filters label { display: grid; grid-template-columns: minmax(0, 1fr); max-width: 100%; font-size: .78rem;
  color: var(--soft); } .wide { flex: 1 1 12rem; }
select, input, button { font: inherit; font-size: .92rem; color: var(--text); background: var(--card); max-width: 100%;
  border: 1px solid var(--line); border-radius: 6px; padding: .3rem .5rem; } button { cursor: pointer; }
button:disabled { opacity: .45; cursor: default; } #count { font-weight: 600; padding: .35rem 0; }
#tweets { display: grid; gap: .7rem; scroll-margin-top: 6rem; }
article { display: grid; grid-template-columns: minmax(0, 240px) minmax(0, 1fr); gap: .3rem 1.1rem; }
article.bare, article.large { grid-template-columns: minmax(0, 1fr); }
article > figure { margin: 0; font-size: .8rem; color: var(--soft); } figcaption { overflow-wrap: anywhere; }
.picture { position: relative; display: block; width: 100%; padding: 0; border: 0; line-height: 0; cursor: zoom-in; }
.large .picture { cursor: zoom-out; max-width: 680px; } .picture img { width: 100%; height: auto; border-radius: 6px; }
.box { position: absolute; border: 1.5px solid #fff; outline: 1px solid #000a; border-radius: 2px; }
.box b { position: absolute; left: 0; top: 0; padding: 0 3px; font: 600 10px/13px system-ui, sans-serif; color: #fff;
  background: #000b; white-space: nowrap; } .box.right b { left: auto; right: 0; }
.many:not(:hover) .box b { display: none; }
.large .box b { display: block !important; } .box:hover { border-color: #ffd84a; z-index: 1; }
.text { font-size: 1.06rem; line-height: 1.75; overflow-wrap: anywhere; margin: 0 0 .5rem; }
.place { display: inline-grid; gap: 1px 0; vertical-align: baseline; max-width: 100%; margin: 0 1px .35rem; }
.word { padding: 0 .12em; } .word.in { background: color-mix(in srgb, var(--c) 22%, transparent); }
.chip, .none { font: 600 11px/16px system-ui, sans-serif; padding: 0 4px; white-space: nowrap; overflow: hidden;
  direction: ltr; background: color-mix(in srgb, var(--c, var(--soft)) 14%, transparent); user-select: none;
  border-bottom: 3px solid var(--c, var(--soft)); margin-right: 1px; }
.chip small, .none small { font-weight: 400; font-size: inherit; }
.chip.gold { background: var(--c, var(--soft)); color: light-dark(#fff, #14171c); }
.chip.wrong { border-bottom-style: dashed; }
.none { background: none; border-bottom: 3px dotted var(--line); color: var(--soft); font-weight: 400; }
.none.missed { border-bottom-color: var(--text); }
dl { display: grid; grid-template-columns: auto auto 1fr; gap: .1rem .9rem; margin: 0; font-size: .82rem; }
dt { overflow-wrap: anywhere; } dd { margin: 0; color: var(--soft); } dd.bad { color: var(--text); font-weight: 600; }
.view { display: inline-block; margin-right: .9rem; white-space: nowrap; }
.bar { display: inline-block; width: 3.5rem; height: .45rem; margin: 0 .3rem; border-radius: 3px; background:
  linear-gradient(90deg, var(--accent) var(--share), var(--line) var(--share)); }
.id { font: .75rem ui-monospace, monospace; color: var(--soft); margin: 0 0 .1rem; overflow-wrap: anywhere; }
#pages { display: flex; gap: .8rem; align-items: center; justify-content: center; padding: 1rem; }
@media (max-width: 640px) { article { grid-template-columns: minmax(0, 1fr); } #filters { position: static; }
  article > figure { max-width: 320px; } #tweets { scroll-margin-top: 0; } dl { grid-template-columns: 1fr auto; }
  dd.views { grid-column: 1 / -1; } }
"""

SCRIPT = """
"use strict";
const PAGE_SIZE = 25;
const FEW_BOXES = 8;  // more names than these hide the picture: they show on hover, and when it is enlarged
const $ = id => document.getElementById(id);
const { tweets, names, types } = JSON.parse($("data").textContent);
const filters = $("filters");
let page = 0;

// Only text ever enters the page: tweets are written by strangers.
function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const key = ([type, first, end]) => [type, first, end].join(" ");
const keys = (spans, type) => new Set(spans.filter(span => !type || span[0] === type).map(key));
const wrong = (tweet, run, type) => keys(tweet.gold, type).symmetricDifference(keys(tweet.runs[run], type)).size;
const textOf = tweet => [tweet.words.join(" "), tweet.id, tweet.caption ?? "", ...tweet.regions.map(r => r[0])]
  .join("\\n").toLowerCase();

function matches(tweet) {
  const type = filters.type.value, errors = names.map((_, run) => wrong(tweet, run, type));
  const gain = names.length > 1 ? errors[1] - errors[0] : 0;
  const compared = { "": true, better: gain > 0, worse: gain < 0, either: gain !== 0 };
  const chosen = { "": true, any: errors.some(Boolean) };
  return (!type || [tweet.gold, ...tweet.runs].flat().some(span => span[0] === type))
    && (filters.wrong.value in chosen ? chosen[filters.wrong.value] : errors[filters.wrong.value] > 0)
    && compared[filters.change.value] && textOf(tweet).includes(filters.query.value.trim().toLowerCase());
}

// By the first letter. dir="auto" would pass over words in elements with a direction of their own: the entities.
const RIGHT_TO_LEFT = /^[^\\p{L}]*[\\p{Script=Hebrew}\\p{Script=Arabic}\\p{Script=Syriac}\\p{Script=Thaana}]/u;
const direction = words => RIGHT_TO_LEFT.test(words.join(" ")) ? "rtl" : "ltr";

const colour = type => `--c: var(--t${types.indexOf(type) % 8})`;

function chip(lane, [type, first, end, score], right, start) {
  const who = lane ? names[lane - 1] : "gold", sure = score == null ? "" : score.toFixed(2).replace(/^0/, "");
  return make("span", {
    class: "chip" + (lane ? right ? "" : " wrong" : " gold"),
    style: `${colour(type)}; grid-area: ${lane + 2} / ${first - start + 1} / auto / ${end - start + 1}`,
    title: `${who}: ${type}` + (score == null ? "" : `, score ${score}`) + (lane ? right ? ", right" : ", wrong" : ""),
  }, lane ? `${lane} ${type} ` : type, make("small", {}, sure), lane && !right ? " ✗" : "");
}

// The words from the first to the last of entities that overlap, in gold or in a run, and a line of each below them.
function place(tweet, start, end) {
  const lanes = [tweet.gold, ...tweet.runs].map(spans => spans.filter(s => s[1] >= start && s[2] <= end));
  const gold = keys(lanes[0]);
  const node = make("span", { class: "place", dir: direction(tweet.words.slice(start, end)),
    style: `grid-template-columns: repeat(${end - start}, auto)` });
  for (let at = start; at < end; at++) {
    const inside = lanes[0].find(span => span[1] <= at && at < span[2]);
    node.append(make("span", { class: inside ? "word in" : "word",
      style: `${inside ? colour(inside[0]) : ""}; grid-area: 1 / ${at - start + 1}` }, tweet.words[at]));
  }
  lanes.forEach((spans, lane) => {
    for (const span of spans) node.append(chip(lane, span, gold.has(key(span)), start));
    if (!spans.length) {
      const missed = lane > 0 && gold.size > 0;
      node.append(make("span", { class: missed ? "none missed" : "none",
        style: `grid-area: ${lane + 2} / 1 / auto / -1` },
        lane ? `${lane} ${missed ? "missed ✗" : "nothing"}` : "no entity"));
    }
  });
  return node;
}

function text(tweet) {
  const line = make("p", { class: "text", dir: direction(tweet.words) });
  const spans = [tweet.gold, ...tweet.runs].flat().sort((a, b) => a[1] - b[1]);
  for (let at = 0; at < tweet.words.length;) {
    let end = at;
    for (const span of spans) if (span[1] >= at && span[1] < Math.max(end, at + 1)) end = Math.max(end, span[2]);
    line.append(end > at ? place(tweet, at, end) : tweet.words[at], " ");
    at = Math.max(end, at + 1);
  }
  if (!tweet.words.length) line.append(make("span", { class: "note" }, "(no words)"));
  return line;
}

function seen(tweet, article) {
  const figure = make("figure", {}), data = $("picture" + tweet.picture);
  if (data) {
    const boxes = tweet.regions.filter(region => region.length > 1);
    const button = make("button", { type: "button", class: boxes.length > FEW_BOXES ? "picture many" : "picture",
      "aria-expanded": "false" },
      make("img", { src: "data:image/jpeg;base64," + data.textContent, alt: "picture, press to enlarge" }));
    for (const [name, left, top, width, height] of boxes)
      button.append(make("span", { class: left > 0.7 ? "box right" : "box", title: name,
        style: `left: ${100 * left}%; top: ${100 * top}%; width: ${100 * width}%; height: ${100 * height}%`,
      }, make("b", {}, name)));
    button.addEventListener("click", () =>
      button.setAttribute("aria-expanded", article.classList.toggle("large")));
    figure.append(button);
  }
  if (tweet.broken) figure.append(make("p", {}, "The picture cannot be shown: " + tweet.broken));
  const counts = new Map();
  for (const [name] of tweet.regions) counts.set(name, (counts.get(name) ?? 0) + 1);
  const list = [...counts].map(([name, count]) => count > 1 ? `${name} × ${count}` : name).join(", ");
  const caption = make("figcaption", {});
  if (tweet.caption) caption.append(make("div", {}, `“${tweet.caption}”`));
  if (list) caption.append(make("div", {}, make("b", {}, "seen: "), list));
  if (caption.childNodes.length) figure.append(caption);
  return figure;
}

function card(tweet) {
  const article = make("article", {}), figure = seen(tweet, article), runs = make("dl", {});
  names.forEach((name, run) => {
    const errors = wrong(tweet, run, ""), views = tweet.relevance[run] ?? [];
    const titles = views.length > 1 ? ["semantic", "spatial"] : [""];
    const bars = views.map((value, view) => make("span", { class: "view" }, titles[view],
      make("span", { class: "bar", style: `--share: ${100 * value}%` }), value.toFixed(2)));
    if (bars.length) bars.unshift(make("span", { title: "relevance of the picture to the text, by view" }, "|C| "));
    runs.append(make("dt", {}, `${run + 1} ${name}`),
      make("dd", { class: errors ? "bad" : "good" }, errors ? `✗ ${errors} wrong` : "✓ all right"),
      make("dd", { class: "views" }, ...bars));
  });
  const words = make("div", {}, make("p", { class: "id" }, tweet.id), text(tweet), runs);
  if (figure.childNodes.length) article.append(figure); else article.classList.add("bare");
  article.append(words);
  return article;
}

function show() {
  const found = tweets.filter(matches), last = Math.max(Math.ceil(found.length / PAGE_SIZE) - 1, 0);
  page = Math.min(page, last);
  $("count").textContent = `${found.length} of ${tweets.length} tweets`;
  $("page").textContent = `page ${page + 1} of ${last + 1}`;
  $("back").disabled = page === 0;
  $("on").disabled = page === last;
  $("tweets").replaceChildren(...found.slice(page * PAGE_SIZE, (page + 1) * PAGE_SIZE).map(card));
}

function turn(step) {
  page += step;
  show();
  $("tweets").scrollIntoView();
  $("tweets").focus({ preventScroll: true });
}

const choose = (select, value, title) => select.append(make("option", { value }, title));
choose(filters.wrong, "any", "wrong in any run");
names.forEach((name, run) => choose(filters.wrong, run, `wrong: ${run + 1} ${name}`));
types.forEach(type => choose(filters.type, type, type));
if (names.length > 1) {
  filters.change.before(`1 ${names[0]} against 2 ${names[1]} `);
  for (const title of ["better", "worse", "either"]) choose(filters.change, title, title);
} else filters.change.parentNode.hidden = true;
filters.addEventListener("input", () => { page = 0; show(); });
filters.addEventListener("submit", event => event.preventDefault());
$("back").addEventListener("click", () => turn(-1));
$("on").addEventListener("click", () => turn(1));
show();
"""


def main(command_line: list[str] | None = None) -> None:
    """Read the command line, and end with status 1 and one line on what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", metavar="PREDICTIONS", nargs="+", help=".jsonl of run_mner.py, or a peer's")
    parser.add_argument("--names", metavar="NAME", nargs="+", help="of the runs (default: their files)")
    parser.add_argument("--gold", help="tagged text file, folder, or .jsonl (default: the first PREDICTIONS)")
    pictures = parser.add_mutually_exclusive_group()
    pictures.add_argument("--data_dir", help="folder of a data set with pictures")
    pictures.add_argument("--image_dir", type=Path, help="folder of pictures named by the tweets' ids")
    parser.add_argument("--split", default="test", help="of --data_dir and --gold, if a folder (default: %(default)s)")
    parser.add_argument("--visual_features", metavar="FILE", help="what the eyes saw: regions, captions")
    parser.add_argument("--fill_with_o", action="store_true", help="words that a length limit cut off count as O")
    parser.add_argument("--ids", metavar="ID", nargs="+", help="show these tweets alone, in this order")
    parser.add_argument("--output", type=Path, default="error_report.html", help="(default: %(default)s)")
    args = parser.parse_args(command_line)
    try:
        # A name of --names or of a file may hold half a surrogate pair, which UTF-8 cannot.
        args.output.write_text(_report(args), encoding="utf-8", errors="replace")
    except (OSError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{args.output}: open it in a browser")


if __name__ == "__main__":
    main()
