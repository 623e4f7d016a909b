"""`hamlearning report`: one HTML page to look at errors, each tweet with gold, what each run predicted, its picture.

The page is one file, pictures included. It needs no server and no network. The first run is compared with the second.
"""

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hamlearning.data.schemes import Tags
from hamlearning.scores.calibration import calibration, confusion
from hamlearning.scores.counts import entity_counts
from hamlearning.scores.evaluation import evaluate_tags
from hamlearning.scores.predictions import read_gold, read_predictions, span_of, span_scores
from hamlearning.scores.report_page import PAGE, SCRIPT, STYLE
from hamlearning.scores.significance import compare
from words_hamlearning import TAGS, entity_spans


def report(
    predictions: Sequence[str],
    names: Sequence[str] | None = None,
    gold: str | None = None,
    data_dir: str | None = None,
    image_dir: Path | None = None,
    image_subfolders: bool = False,
    split: str = "test",
    visual_features: str | None = None,
    fill_with_o: bool = False,
    ids: Sequence[str] | None = None,
    output: Path = Path("error_report.html"),
) -> None:
    """Write the page.

    Args:
        predictions: Files of predictions of the same tweets, as `read_predictions` reads them.
        names: Of the runs, as many.
        gold: What `read_gold` reads; the first of `predictions` if None.
        data_dir: A folder of tweets with pictures.
        image_dir: A folder of pictures, in place of it.
        image_subfolders: Whether pictures in the folders of `image_dir` are read as well.
        split: Of `data_dir`, and of `gold` if it is a folder.
        visual_features: A visual feature file, whose regions and captions are shown.
        fill_with_o: Whether words that a length limit cut off count as O.
        ids: Which tweets are shown, all if None; scores are of all.
        output: The HTML file.

    Raises:
        OSError: A file is missing.
        ValueError: A file is malformed, or about other tweets.
    """
    names = list(names or predictions)
    if len(names) != len(predictions) or len(set(names)) != len(names):
        raise ValueError(f"--names is {names} for {len(predictions)} files: give each file a name of its own")
    if gold is None and not predictions[0].endswith(".jsonl"):
        raise ValueError(f"{predictions[0]} is no .jsonl of a run: give the gold tags with --gold")
    gold_path = gold or predictions[0]
    there = read_gold(gold_path, split)
    runs = [_read_run(path, name, there, fill_with_o) for path, name in zip(predictions, names, strict=True)]
    shown = _shown_tweets(there, gold_path, ids)
    shown_ids = {there["id"][tweet] for tweet in shown}
    regions, pictures, broken = {}, {}, {}
    if visual_features is not None or image_dir is not None or data_dir is not None:
        from hamlearning.scores import report_pictures  # with PyTorch and Arrow, which text alone does not need

        regions = {} if visual_features is None else report_pictures.read_regions(visual_features, shown_ids)
        sources = report_pictures.picture_sources(shown_ids, image_dir, data_dir, split, image_subfolders)
        pictures, broken = report_pictures.read_thumbnails(sources)
    page = _page(there, gold_path, runs, shown, regions, pictures, broken)
    # A name of --names or of a file may hold half a surrogate pair, which UTF-8 cannot.
    output.write_text(page, encoding="utf-8", errors="replace")
    print(f"{output}: open it in a browser")


def _shown_tweets(gold: Mapping[str, Any], gold_path: str, ids: Sequence[str] | None) -> Sequence[int]:
    """The places of the tweets that are shown."""
    everything = range(len(gold["id"]))
    if ids is None:
        return everything
    unknown = [id_ for id_ in ids if id_ not in gold["id"]]
    if unknown:
        raise ValueError(f"--ids names {unknown}, which {gold_path} does not hold: give ids of its tweets")
    return [tweet for id_ in ids for tweet in everything if gold["id"][tweet] == id_]


def _page(
    gold: Mapping[str, Any],
    gold_path: str,
    runs: Sequence[dict[str, Any]],
    shown: Sequence[int],
    regions: Mapping[str, Any],
    pictures: Mapping[str, str],
    broken: Mapping[str, str],
) -> str:
    """The whole page."""
    tags, names = gold["ner_tags"], [run["name"] for run in runs]
    place_of = {id_: place for place, id_ in enumerate(pictures)}
    types = _types([tags, *(run["tags"] for run in runs)])
    for run in runs:
        run["figures"] = evaluate_tags(tags, run["tags"])
    tweets = [
        {
            "id": gold["id"][tweet],
            "words": gold["tokens"][tweet],
            "gold": entity_spans(tags[tweet]),
            "runs": [
                [[*span, run["scores"][tweet].get(span)] for span in entity_spans(run["tags"][tweet])] for run in runs
            ],
            "relevance": [run["relevance"][tweet] for run in runs],
            "decided": [
                [run["decided"][tweet].get(span) for span in entity_spans(run["tags"][tweet])] for run in runs
            ],
            "picture": place_of.get(gold["id"][tweet]),
            "broken": broken.get(gold["id"][tweet]),
            **regions.get(gold["id"][tweet], {"caption": None, "regions": []}),
        }
        for tweet in shown
    ]
    # NaN and Infinity are no JSON: the page's script would show no tweet at all.
    kinds = [run["relevance_kind"] for run in runs]
    contents = {"tweets": tweets, "names": names, "types": types, "kinds": kinds}
    data = json.dumps(contents, allow_nan=False, separators=(",", ":"))
    about = f"{len(tags)} tweets of {gold_path}, {runs[0]['figures']['gold_entities']} gold entities, SHA-256 "
    about += f"{gold['sha256'][:12]}…"
    about += "" if len(shown) == len(tags) else f" Scores are of all; {len(tweets)} are shown."
    filling = {
        "title": html.escape(" / ".join(names)),
        "about": html.escape(about),
        "scores": _score_table(runs, types),
        "comparison": _comparison(tags, *runs[:2]) if len(runs) > 1 else "",
        "runs": "".join(_run_section(run, tags, types) for run in runs),
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


def _types(all_tags: Sequence[Tags]) -> list[str]:
    """The types of all entities, those of the public sets first, in their order."""
    found = {type_ for tags in all_tags for sequence in tags for type_, _, _ in entity_spans(sequence)}
    known = [tag[2:] for tag in TAGS[1::2]]
    return [*(type_ for type_ in known if type_ in found), *sorted(found - set(known))]


def _run_section(run: Mapping[str, Any], gold: Tags, types: Sequence[str]) -> str:
    """Confusion and calibration of one run."""
    return (
        f"<section class=run><h3>{html.escape(run['name'])}</h3><div class=pair>"
        f"<div>{_confusion_table(confusion(gold, run['tags']), types)}</div>"
        f"{_reliability_plot(run, gold)}</div></section>"
    )


def _read_run(path: str, name: str, gold: Mapping[str, Any], fill_with_o: bool) -> dict[str, Any]:
    """`name`, `tags`, and for each tweet `scores` (by span; empty where unknown), `relevance` (or None) and `decided`.

    `decided`, by span, is what hiding the picture and its regions does; `relevance_kind` what the figures are.
    """
    tags, _ = read_predictions(path, gold, fill_with_o)
    scores: list[dict[tuple[str, int, int], float]] = [{} for _ in tags]
    relevance: list[list[float] | None] = [None for _ in tags]
    decided: list[dict[tuple[str, int, int], dict[str, Any]]] = [{} for _ in tags]
    kind = "|C|"
    if path.endswith(".jsonl"):
        lines = enumerate(Path(path).read_text(encoding="utf-8-sig").split("\n"), start=1)
        rows = ((number, json.loads(line)) for number, line in lines if line)
        for tweet, (number, row) in enumerate(rows):
            entities, views = row.get("entities") or [], row.get("relevance")
            try:
                scores[tweet] = span_scores(entities, tags[tweet])
                for span, entity in zip(map(span_of, entities), entities, strict=True):
                    if entity.get("picture") is not None:
                        decided[tweet][span] = _read_decided(entity["picture"])
                kind = "probability" if row.get("relevance_kind") == "probability" else kind
                shares = None if views is None else [abs(float(view)) for view in views]
                if not all(map(math.isfinite, shares or [])):
                    raise ValueError("a relevance is not finite")
                relevance[tweet] = shares
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise ValueError(
                    f"{path}, line {number}: 'entities' is {entities!r} and 'relevance' {views!r} "
                    f"({type(error).__name__}: {error}): give what a run writes, or neither"
                ) from None
    found = {"scores": scores, "relevance": relevance, "decided": decided}
    return {"name": name, "tags": tags, "relevance_kind": kind} | found


def _read_decided(picture: Mapping[str, Any]) -> dict[str, Any]:
    """What a run wrote of the picture's part in an entity.

    Raises:
        ValueError: a figure is not finite, or a type is none.
    """
    shares, effects = [float(picture[key]) for key in ("with", "without")], list(map(float, picture["regions"]))
    if not all(map(math.isfinite, shares + effects)):
        raise ValueError("an effect is not finite")
    if not isinstance(picture["type"], str | None):
        raise ValueError("a type without the picture is no name")
    return {"with": shares[0], "without": shares[1], "type": picture["type"], "regions": effects}


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
    shares = f"ECE {100 * figures['ece']:.2f} %, Brier score {100 * figures['brier']:.2f} %"
    summary = f"{shares} over {figures['number']} predicted entities"
    return (
        f"<figure class=plot><svg viewBox='-36 -8 {size + 46} {size + 52}' role=img aria-label='{summary}'>"
        f"<path d='M0 0V{size}H{size}M0 {size}L{size} 0' />{''.join(marks)}{ticks}"
        f"<text x={size / 2} y={size + 38} class=count>score (below it: entities)</text>"
        f"<text transform='translate(-27 {size / 2}) rotate(-90)' class=count>share exactly right</text></svg>"
        f"<figcaption class=note><b>{summary}</b>, weighted by count. Right: type and both boundaries are those of "
        "gold. Dots: mean score.</figcaption></figure>"
    )
