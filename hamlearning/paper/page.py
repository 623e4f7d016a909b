"""What was measured beside what the paper reports, as a page."""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from markdown_it import MarkdownIt

from hamlearning.paper import runner as runs
from hamlearning.paper.runner import runs_of
from hamlearning.paper.tables import SCALES, TABLES, Row, Table
from hamlearning.scores.figures import Figure, rc_context
from hamlearning.scores.significance import compare_counts, mean_f1_interval


SAMPLES = 10_000  # of the paired test
PAPER_DETECTOR = "faster_rcnn_vg"


def write_page(scale: str, seeds: list[int]) -> Path:
    """Writes what was measured beside what the paper reports, as Markdown, HTML and Figure 4; returns the Markdown."""
    folder = runs.ROOT / "results" / scale
    folder.mkdir(parents=True, exist_ok=True)
    parts = [f"# Measured: {scale}", PREFACE, *code_of(folder)]
    for data in SCALES[scale]:
        for name, table in TABLES.items():
            can_run = not (table.needs_pictures and stand_in_detector(scale, data))
            found = {row.title: results_of(row, scale, data, seeds) if can_run else [] for row in table.all_rows}
            if any(results for title, results in found.items() if title not in table.references):
                parts += [f"## {table.title}: {data}", *precisions_of(found), scores_of(table, found, data)]
                parts += [*pictures_of(table, found), types_of(table, found), commands_of(name, found, scale, data)]
            elif any(data in row.paper for row in table.rows):
                parts += [f"## {table.title}: {data}", scores_of(table, found, data)]
        trained = results_of(Row("HamLearning"), scale, data, seeds)
        if trained:
            draw_training(trained, folder / f"figure4-{data}.svg")
            parts += [f"## Training (Figure 4): {data}", f"![Loss and F1 by epoch](figure4-{data}.svg)"]
    text = "\n\n".join(parts) + "\n"
    (folder / "README.md").write_text(text, encoding="utf-8")
    html = MarkdownIt("commonmark").enable("table").render(text)
    (folder / "index.html").write_text(
        HTML.format(title=f"HamLearning measured: {scale}", body=html), encoding="utf-8"
    )
    return folder / "README.md"


PREFACE = f"""Entity-level scores of seqeval in percent, default mode unless it says strict, on the test file as
released (on dev where there was none, and in a search), checkpoint chosen on dev; mean ± standard deviation over the
seeds. The paper had BERT-base and real pictures: another encoder and other pictures than here, but on the page of its
own scale. "not run" means not run here; "paper's F1" is what the paper reports of the row.

An I- tag that no B- opens begins an entity in default mode and none in strict; OTHER of Twitter-2015 counts as MISC;
every tweet counts, those that occur twice too. Where dev is what is scored, the checkpoint was chosen on the same
tweets if the model was trained on that data set: such an F1 is too high.

"95 %" is the interval of that F1, by bootstrap over tweets with {SAMPLES:,} samples. "less X" is the difference of
the F1, of the seeds that both rows have, to the row X; p is two-sided, of approximate randomisation with as many
samples: the predictions of each tweet, of all seeds at once, are swapped by the toss of a coin. Both are about other
tweets, not about other seeds, and no p is corrected for the number of rows."""
PICTURES = """**What the pictures give.** Each network with its own pictures, and the same network again: trained and
tested with every picture hidden (the fair text-alone row, as large and with as much computation), trained and tested
with other tweets' pictures, and its own with none at test time. What it gains from its pictures is what it has over
these; what it has over BERT-CRF, a smaller network, is not."""
HTML = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; display: block; margin: 1rem 0; overflow-x: auto }}
th, td {{ padding: .3rem .7rem; border-bottom: 1px solid #8884; text-align: right; white-space: nowrap;
          font-variant-numeric: tabular-nums }}
th:first-child, td:first-child {{ text-align: left }}
img {{ max-width: 100%; background: #fff }}
</style>
{body}
</html>
"""


def code_of(folder: Path) -> list[str]:
    """A sentence on the runs that are not of today's code; none if all are, or there is no run."""
    identities = [json.loads(path.read_text(encoding="utf-8"))["identity"] for path in sorted(folder.glob("*.json"))]
    now = {name: runs.code_sha256(name) for name in set(map(runs.architecture_in, identities))}
    before = [made["code"] for made in identities if made["code"] != now[runs.architecture_in(made)]]
    if not before:
        return []
    hashes = ", ".join(sorted({code[:10] for code in before}))
    some = f"{len(before)} of the {len(identities)} runs here"
    return [f"**{some} are of earlier code** (hash {hashes}), not made again since."]


def precisions_of(found: Mapping[str, list[dict]]) -> list[str]:
    """A sentence on the runs that are not of the precision of most; none if all are of one.

    Unless `--bf16` says it the machine chooses, and a table may have been made on several.
    """
    runs_in: dict[str, dict[str, list[str]]] = {}  # precision -> row -> seeds
    for title, results in found.items():
        for result in results:
            rows = runs_in.setdefault(precision_of(result["results"]["training"]), {})
            rows.setdefault(title, []).append(str(result["results"]["seed"]))
    if len(runs_in) < 2:
        return []
    most = max(runs_in, key=lambda precision: sum(map(len, runs_in[precision].values())))
    rarer = []
    for precision in sorted(runs_in.keys() - {most}):
        rows = (f"{title} ({', '.join(seeds)})" for title, seeds in runs_in[precision].items())
        rarer.append(f"{precision} in {', '.join(rows)}")
    return [f"**Several precisions** (in brackets the seeds): {'; '.join(rarer)}; {most} in all else."]


def precision_of(training: Mapping[str, Any]) -> str:
    """Of the products in a run."""
    return "bfloat16" if training["bf16"] else "float16" if training["fp16"] else "float32"


def stand_in_detector(scale: str, data: str) -> str | None:
    """What a config has in place of the paper's detector: a file of features, or another detector; None: that one."""
    config = yaml.safe_load((runs.ROOT / "configs" / SCALES[scale][data]).read_text(encoding="utf-8"))
    detector = config.get("detector", PAPER_DETECTOR)
    return config.get("visual_features") or (None if detector == PAPER_DETECTOR else detector)


def results_of(row: Row, scale: str, data: str, seeds: list[int]) -> list[dict[str, Any]]:
    """The committed JSON of a row's runs that are there, one a seed."""
    paths = [runs_of(row, scale, data, seed).result_path for seed in seeds]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]


def scored_split(table: Table, found: Mapping[str, list[dict]]) -> str:
    """The table's split, or dev where that was not scored: one for all rows."""
    scored = [result["results"] for results in found.values() for result in results]
    return table.split if all(table.split in result for result in scored) else "validation"


def scores_of(table: Table, found: Mapping[str, list[dict]], data: str) -> str:
    """The F1 of each row, all types together, beside the paper's."""
    split = scored_split(table, found)
    of = "" if split == "test" else " (dev)"
    head = ["", "seeds", "dev F1", f"P{of}", f"R{of}", f"F1{of}", "95 %", f"strict F1{of}"]
    head += [f"less {title} (p)" for title in table.references]
    has_paper = any(data in row.paper for row in table.rows)
    head += ["paper's F1"] * has_paper
    lines = [head]
    for row in table.rows:
        paper = [f"{row.paper[data][2]:.2f}" if data in row.paper else ""] * has_paper
        results = found[row.title]
        if not results:
            lines.append([row.title, "not run", *[""] * (len(head) - 2 - len(paper)), *paper])
            continue
        cells = [mean_and_deviation([result["results"]["validation"]["f1"] for result in results])]
        for name in ("precision", "recall", "f1", "strict_f1"):
            cells.append(mean_and_deviation([result["results"][split][name] for result in results]))
        cells.insert(-1, interval_of(results, split))
        for title in table.references:
            cells.append("" if row.title == title else difference(results, found[title], split))
        lines.append([row.title, seeds_of(results), *cells, *paper])
    return markdown_table(lines)


def pictures_of(table: Table, found: Mapping[str, list[dict]]) -> list[str]:
    """What each network that reads pictures does without its own; nothing if no row of the table is asked that."""
    rows = [row for row in table.rows if row.controls]
    if not rows:
        return []
    split = scored_split(table, found)
    lines = [["", "seeds", "own pictures"]]
    for name in rows[0].controls:
        lines[0] += [name, f"own less {name} (p)"]
    for row in rows:
        own = found[row.title]
        cells = [seeds_of(own), f1_with_deviation(own, split)] if own else ["not run", ""]
        for control in row.controls.values():
            results = found[control.title]
            cells += [f1_with_deviation(results, split), difference(own, results, split)] if results else ["", ""]
        lines.append([row.title, *cells])
    return [PICTURES, markdown_table(lines)]


def commands_of(name: str, found: Mapping[str, list[dict]], scale: str, data: str) -> str:
    """What to type for each row of a table that was run, and which flags that gives to a training or evaluation."""
    lines = [["", "made by", "which gives"]]
    for row in TABLES[name].all_rows:
        if results := found[row.title]:
            seeds = seeds_of(results).replace(",", "")
            command = f'hamlearning tables {name} --scale {scale} --on {data} --seeds {seeds} --rows "{row.title}"'
            flags = " ".join(f"--{flag} {value}" for flag, value in (row.at_test or row.flags_at(scale)).items())
            lines.append([row.title, f"`{command}`", f"`{flags}`" if flags else "no flag"])
    return markdown_table(lines)


def seeds_of(results: list[dict]) -> str:
    """Of the runs of a row."""
    return ", ".join(str(result["results"]["seed"]) for result in results)


def f1_with_deviation(results: list[dict], split: str) -> str:
    """The F1 of a row, mean over its seeds."""
    return mean_and_deviation([result["results"][split]["f1"] for result in results])


def interval_of(results: list[dict], split: str) -> str:
    """The 95 % interval of the F1 of a row."""
    low, high = mean_f1_interval([result["counts"][split] for result in results], samples=SAMPLES)
    return f"{100 * low:.1f} to {100 * high:.1f}"


def difference(results: list[dict], reference: list[dict], split: str) -> str:
    """F1 of a row less that of another on the seeds of both, in points, and the p-value of the paired test."""
    counts, others = ({r["results"]["seed"]: r["counts"][split] for r in rows} for rows in (results, reference))
    shared = sorted(counts.keys() & others.keys())
    tweets = {r["identity"]["data"][split] for r in results + reference}
    if not shared or len(tweets) > 1:
        return ""
    compared = compare_counts([counts[seed] for seed in shared], [others[seed] for seed in shared], samples=SAMPLES)
    p_value = compared["p_value"]
    return f"{100 * compared['difference']:+.2f} ({'< 0.001' if p_value < 0.001 else f'{p_value:.3f}'})"


def types_of(table: Table, found: Mapping[str, list[dict]]) -> str:
    """Precision, recall and F1 of each type, means over the seeds; nothing where a seed has no entity of it."""
    split = scored_split(table, found)
    types = sorted({kind for results in found.values() for r in results for kind in r["results"][split]["types"]})
    lines = [["P / R / F1", *types]]
    for row in table.all_rows:
        if results := found[row.title]:
            scores = [result["results"][split]["types"] for result in results]
            lines.append([row.title, *(type_scores([score.get(kind) for score in scores]) for kind in types)])
    return markdown_table(lines)


def type_scores(scores: list[Mapping[str, float] | None]) -> str:
    """Of one type, one a seed; None: neither gold nor predicted."""
    of_seeds = [score for score in scores if score is not None]
    if len(of_seeds) < len(scores):
        return ""
    means = (statistics.mean(score[name] for score in of_seeds) for name in ("precision", "recall", "f1"))
    return " / ".join(f"{100 * mean:.1f}" for mean in means)


def markdown_table(lines: list[list[str]]) -> str:
    """The first line is the head."""
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw_training(results: list[dict], path: Path) -> None:
    """Figure 4: loss on the training data and F1 on dev by epoch, a line a seed."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    for result in results:
        for axes, name, times in ((losses, "loss", 1), (scores, "eval_f1", 100)):
            points = [
                (entry["epoch"], times * entry[name])
                for entry in result["results"]["train"]["history"]
                if name in entry
            ]
            axes.plot(*zip(*points, strict=True), marker="o", label=f"seed {result['results']['seed']}")
    losses.set(xlabel="epoch", ylabel="loss, train", ylim=(0, None))
    scores.set(xlabel="epoch", ylabel="F1, dev (%)")
    scores.legend()
    with rc_context({"svg.hashsalt": "figure4"}):  # the same figure, the same file
        figure.savefig(path, metadata={"Date": None})


def mean_and_deviation(fractions: list[float]) -> str:
    """In percent; one figure has no deviation."""
    mean = f"{100 * statistics.mean(fractions):.2f}"
    return mean if len(fractions) == 1 else f"{mean} ± {100 * statistics.stdev(fractions):.2f}"
