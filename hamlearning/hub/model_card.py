"""The card of a published model: every figure comes from `results.json`."""

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, HfApi, ModelCardData
from huggingface_hub.utils import httpx

from configuration_hamlearning import HamLearningVisionConfig
from hamlearning.data.card import ENGLISH_2014_TO_2017
from hamlearning.data.splitting import splitting_problem
from hamlearning.scores.metric import score_table
from processing_hamlearning import VISION_FOLDER


RESULTS_FILE = "results.json"
# A card without it is somebody's own, and stays.
CARD_MARK = "<!-- Written by publishing.py from results.json. Remove this line to keep your changes. -->"
PAPER = """@article{liu2023hamlearning,
  title   = {A Novel Framework for Multimodal Named Entity Recognition with Multi-level Alignments},
  author  = {Liu, Peipei and Li, Hong and Ren, Yimo and Liu, Jie and Si, Shuaizong and Zhu, Hongsong and Sun, Limin},
  journal = {arXiv preprint arXiv:2305.08372},
  year    = {2023}
}"""


def model_card(
    results: Mapping[str, Any], repo_id: str, license: str, vision_config: HamLearningVisionConfig | None
) -> str:
    """The card of a trained model. Every figure in it is one of `results.json`. It is long as the card's text is."""
    name = repo_id.split("/")[-1]
    training, model = results["training"], results["model"]
    data_name = results["data_name"]
    encoder = results["text_encoder"]
    scored = next((split for split in ("test", "validation") if "f1" in results.get(split, {})), None)
    header = ModelCardData(
        language="en" if _is_english(results) else None,
        license=license,
        library_name="transformers",
        pipeline_tag="token-classification",
        tags=["multimodal", "named-entity-recognition", "hamlearning", "custom_code", "arxiv:2305.08372"],
        base_model=results["starts_from"]["origin"] if results["starts_from"]["is_on_hub"] else None,
        datasets=[data_name] if results["data_is_on_hub"] else None,
        widget=[{"text": example["text"]} for example in results["examples"]],
        model_name=name,
        eval_results=None if scored is None else _eval_results(results[scored], scored, data_name),
    )
    example = results["examples"][0]
    sees = "reads a tweet and its picture" if model["use_vision"] else "reads the text of a tweet"
    types = ", ".join(results["types"])
    parts = [
        f"---\n{header.to_yaml()}\n---",
        CARD_MARK,
        f"""# {name}

This model {sees} and finds its named entities, of the types {types}. {_network(results)}, trained on {data_name}.""",
        f"""## Use

```bash
pip install transformers torch pytorch-crf{" timm torchvision pillow" if vision_config else ""}
```

```python
from transformers import pipeline

ner = pipeline(model="{repo_id}", trust_remote_code=True)
ner({example["text"]!r})
```
```
{_python_output(example["entities"])}
```

`score` is the model's probability of exactly this entity{_temperature(results)}. The repo holds the code that \
`trust_remote_code` runs: pin
what you have read with `revision="<commit>"`.""",
        _pictures(vision_config, model),
        _scores(results, scored),
        f"""## Training

![Training loss and dev F1](training.png)

| | |
|---|---|
| data | {data_name} |
| starts from | {results["starts_from"]["kind"]} {results["starts_from"]["origin"]} |
| text encoder | {encoder["model_type"]}, {encoder["num_hidden_layers"]} layers, {encoder["hidden_size"]} wide |
| parameters, without the vision model | {results["parameters"]:,} |
| epochs | {training["num_train_epochs"]:g}, the best one by dev F1 kept (epoch {results["train"]["best_epoch"]:g}) |
| batch | {training["per_device_train_batch_size"]} tweets a process; processes: {training["world_size"]}, \
accumulated steps: {training["gradient_accumulation_steps"]} |
| learning rates | text encoder {_rate(training, "text_learning_rate")}, new layers {training["learning_rate"]:g}, \
CRF {_rate(training, "crf_learning_rate")}; {training["lr_scheduler_type"]}, warm-up {training["warmup_steps"]:g} \
(below one: a share of the steps), weight decay {training["weight_decay"]:g} |
{_raw_text(results)}| precision | {"bf16" if training["bf16"] else "fp16" if training["fp16"] else "fp32"} |
| seed | {results["seed"]} |
| switches | {", ".join(f"`{key}={value}`" for key, value in model.items())} |
| versions | {", ".join(f"{key} {value}" for key, value in results["versions"].items())} |

All of it, with the loss and dev F1 of each epoch: `{RESULTS_FILE}`.""",
        _limits(results, data_name),
        f"## Licence\n\nOf the weights: {license}. The training data belongs to its authors and is not in this repo.",
        f"## Cite\n\n```bibtex\n{PAPER}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _temperature(results: Mapping[str, Any]) -> str:
    """What its scores were divided by; empty where nothing was fitted."""
    found = results.get("calibration", {})
    if "after" not in found:
        return ""
    return (
        f",\nat a temperature of {found['temperature']:.2f} that was fitted on dev (`calibration` in `{RESULTS_FILE}`)"
    )


def _raw_text(results: Mapping[str, Any]) -> str:
    """A row on how the model splits raw text; empty where the results do not say it, as older ones do not."""
    if "raw_text" not in results:
        return ""
    raw_text = results["raw_text"]
    splitting = raw_text["word_splitting"]
    share = raw_text["same_words"][splitting]
    return (
        f"| raw text | split by `{splitting}`: that gives the words of the training data in {share:.1%} of "
        f"{raw_text['texts']} texts |\n"
    )


def _eval_results(scores: Mapping[str, Any], split: str, data_name: str) -> list[EvalResult]:
    metrics = {
        "precision": "Precision",
        "recall": "Recall",
        "f1": "F1 (seqeval, default mode)",
        "strict_f1": "F1 (seqeval, strict IOB2)",
    }
    return [
        EvalResult(
            task_type="token-classification",
            task_name="Named entity recognition",
            dataset_type=data_name.lower().replace(" ", "-"),
            dataset_name=data_name,
            dataset_split=split,
            metric_type=key.removeprefix("strict_"),
            metric_name=name,
            metric_value=round(100 * scores[key], 2),
        )
        for key, name in metrics.items()
    ]


def _python_output(entities: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "{" + ", ".join(f"{k!r}: {round(v, 4) if isinstance(v, float) else v!r}" for k, v in entity.items()) + "}"
        for entity in entities
    ]
    return "[" + ",\n ".join(lines) + "]"


def _is_english(results: Mapping[str, Any]) -> bool:
    return any(facts["sha256"] in ENGLISH_2014_TO_2017 for facts in results["data"].values())


def _network(results: Mapping[str, Any]) -> str:
    """Which network it is. Results of before other systems could be trained do not name it."""
    architecture = results.get("architecture", "hamlearning")
    if architecture == "hamlearning":
        return (
            "It is HamLearning, a multimodal network with\n"
            "multi-level alignments ([paper](https://arxiv.org/abs/2305.08372))"
        )
    return f"It is the system `{architecture}` as\nHamLearning's package has it (`pip install hamlearning`)"


def _pictures(vision_config: HamLearningVisionConfig | None, model: Mapping[str, Any]) -> str:
    if not model["use_vision"]:
        return "## Pictures\n\nThis model was trained on text alone: it takes no picture."
    if vision_config is None:
        return (
            "## Pictures\n\nThis model learned from a file of visual features and has no vision model: it takes "
            "texts as above, and pictures only as rows of such a file, `processor(text=..., visual_features=...)`."
        )
    backbone: Any = vision_config.global_backbone_config
    lines = ["| part | weights from | licence |", "|---|---|---|"]
    lines += [f"| {part['part']} | {part['origin']} | {part['license']} |" for part in weights_origins(vision_config)]
    table = "\n".join(lines)
    return f"""## Pictures

```python
ner({{"text": "a tweet", "image": "picture.jpg"}})  # or a URL, bytes, a PIL image
```

The frozen vision model is in `{VISION_FOLDER}/` and loads when the first picture comes:
`{backbone.architecture}` for the whole picture, the detector `{vision_config.detector}` for its regions.
{_about_relevance(model)}

{table}"""


def _about_relevance(model: Mapping[str, Any]) -> str:
    """What the figures under `relevance` are."""
    if model.get("relevance_matching", "none") != "none":
        return (
            "`relevance` is one figure, learned from the pairs of the training data: the probability that the picture "
            "is the\ntweet's own, were it one of two, the own one and another tweet's. About 0.5 is: the words do not "
            "tell."
        )
    return (
        "`relevance` is |C| of the paper's Eq 8, one figure a view of the picture. It gates what the network takes "
        "from the\npicture; it has not been shown to measure how much a picture has to do with its text."
    )


def _scores(results: Mapping[str, Any], scored: str | None) -> str:
    if scored is None:
        return "## Scores\n\nThis model was not evaluated."
    shuffled = " **Control run: every tweet had another tweet's picture.**" if results["shuffle_pictures"] else ""
    lines = ["| split | tweets | SHA-256 |", "|---|---|---|"]
    lines += [f"| {split} | {facts['tweets']} | `{facts['sha256']}` |" for split, facts in results["data"].items()]
    splits = "\n".join(lines)
    return f"""## Scores

Evaluator: {results["evaluator"]}. In percent, on the {scored} split, one run, checkpoint chosen on dev.{shuffled}

{score_table(results[scored])}

{splits}"""


def _rate(training: Mapping[str, Any], name: str) -> str:
    rate = training["learning_rate"] if training[name] is None else training[name]
    return f"{rate:g}"


def _limits(results: Mapping[str, Any], data_name: str) -> str:
    tweets = (
        " Its tweets were written in English between 2014 and 2017: expect less of it on newer names, other languages "
        "and other kinds of text."
        if _is_english(results)
        else ""
    )
    raw_text = results.get("raw_text")
    problem = splitting_problem(raw_text, raw_text["word_splitting"]) if raw_text else None
    return f"""## Limits and bias

It knows the types {", ".join(results["types"])} and nothing else, and what it learned of them comes from {data_name}.\
{tweets}{"" if problem is None else " " + problem}
It repeats what is unjust in its data and in the text encoder and vision model that it started from. A name that is
found says nothing about whether the text is true. Do not use it to decide about people."""


def weights_origins(config: HamLearningVisionConfig) -> list[dict[str, str]]:
    """Where the weights of the vision model come from: `part`, `origin` and `license` of backbone and detector.

    What timm's files do not say of a licence, the card of the Hub repo says, where it can be asked.
    """
    backbone: Any = config.global_backbone_config
    facts = getattr(backbone, "pretrained_cfg", None) or {}
    origin = backbone.name_or_path or facts.get("origin_url")
    parts = [("global backbone", origin, facts.get("license"))]
    if config.detector != "grid":
        parts.append(("region detector", config.detector_weights, None))
    return [
        {"part": part, "origin": origin or "not recorded", "license": license or _hub_license(origin)}
        for part, origin, license in parts
    ]


def _hub_license(repo_id: str | None) -> str:
    unknown = "not recorded: ask whoever made them"
    if repo_id is None:
        return unknown
    try:
        card: Any = HfApi().model_info(repo_id).card_data
    except (httpx.HTTPError, OSError, ValueError):  # offline, or no repo of the Hub
        return unknown
    return (card and card.license) or unknown
