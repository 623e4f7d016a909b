"""Publish what was trained: one folder becomes one Hub repo, in one commit.

    $ python publishing.py outputs/demo ORG/NAME
    https://huggingface.co/ORG/NAME/tree/4f2a...

`run_mner.py --push_to_hub True --hub_model_id ORG/NAME` does the same at the end of a run.
"""

import argparse
import json
import logging
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    EvalResult,
    HfApi,
    ModelCardData,
)
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import httpx, parse_ratelimit_headers, validate_repo_id

from configuration_hamlearning import HamLearningVisionConfig
from data_hamlearning import limit_silence
from fault_tolerance import write_text, writing
from mner_scores import score_table
from processing_hamlearning import VISION_FOLDER


logger = logging.getLogger(__name__)

# The Hub client asks again where the Hub is down or busy, but not for what changes a repo: there it is done here, with
# the client's own waits.
WAITS = (1, 2, 4, 8, 8)
LONGEST_WAIT = 300  # seconds that the Hub may ask for: it counts requests in windows of five minutes
# The second one: another one has committed meanwhile.
PASSING = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.PRECONDITION_FAILED, HTTPStatus.TOO_MANY_REQUESTS)
REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)

CARD_FILE, RESULTS_FILE, REQUIREMENTS_FILE = "README.md", "results.json", "requirements.txt"
# A card without it is somebody's own, and stays.
CARD_MARK = "<!-- Written by publishing.py from results.json. Remove this line to keep your changes. -->"
# What of a run's folder is published, and nothing else: the rest is its owner's.
PUBLIC_FILES = (
    "config.json", "*.safetensors", "*.safetensors.index.json", "processor_config.json", "vision/config.json",
    "vision/*.safetensors", "vision/*.safetensors.index.json",
    "tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "bpe.codes", "*.model",
    "configuration_hamlearning.py", "handler.py", "image_processing_hamlearning.py", "modeling_faster_rcnn_vg.py",
    "modeling_hamlearning.py", "modeling_hamlearning_vision.py", "pipeline_hamlearning.py",
    "processing_hamlearning.py",
    CARD_FILE, REQUIREMENTS_FILE, RESULTS_FILE, "scores_*.md", "training.png",
)  # fmt: skip
# What a card is made of.
RESULT_KEYS = (
    "data", "data_is_on_hub", "data_name", "evaluator", "examples", "model", "parameters", "seed", "shuffle_pictures",
    "starts_from", "text_encoder", "train", "training", "types", "versions",
)  # fmt: skip
# `split_sha256` of the train splits of Twitter-2015 and Twitter-2017. Of other tweets nobody here knows the language.
ENGLISH_2014_TO_2017 = (
    "a210814793b78a69ee7d3cb5bf665c032d5cd0b4af83352965405db9dd452a7f",
    "801e149e8635b19d66b4ec1212c329be340ada501b35c5fa55455fb6f53633be",
)
PAPER = """@article{liu2023hamlearning,
  title   = {A Novel Framework for Multimodal Named Entity Recognition with Multi-level Alignments},
  author  = {Liu, Peipei and Li, Hong and Ren, Yimo and Liu, Jie and Si, Shuaizong and Zhu, Hongsong and Sun, Limin},
  journal = {arXiv preprint arXiv:2305.08372},
  year    = {2023}
}"""


class PublishError(RuntimeError):
    """Nothing was published; the message says why and what to do."""


def publish_model(
    folder: str | Path,
    repo_id: str,
    license: str = "apache-2.0",
    private: bool | None = None,
    token: str | None = None,
) -> str:
    """Makes a folder that `run_mner.py` trained into a Hub repo, or into the next revision of one.

    ```python
    >>> publish_model("outputs/demo", "ORG/NAME")
    'https://huggingface.co/ORG/NAME/tree/4f2a...'
    ```

    The model card and `requirements.txt` are written into the folder; a card of your own, without `CARD_MARK`, stays.
    All of it goes up in one commit: until that is made, and when it fails, the Hub serves the last revision.

    Args:
        folder: what `--output_dir` was. Only `PUBLIC_FILES` are published: no checkpoint, no prediction (others'
            tweets), no pickle.
        repo_id: `ORG/NAME`.
        license: of the weights.
        private: whether a new repo is private; the organisation's default if None.
        token: of the Hub; that of `hf auth login` if None.

    Returns:
        The address of the new revision.

    Raises:
        FileNotFoundError: the folder holds no model or no results.
        ValueError: the results are no such results, the eyes lie in another folder of this machine, or `repo_id` is
            no name of a repo.
        PublishError: the card cannot be written, or the Hub cannot be reached or refuses; the message says how to
            publish later.
    """
    folder = Path(folder)
    for name in ("config.json", RESULTS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}: give the --output_dir of a training run that has ended.")
    results = read_results(folder / RESULTS_FILE)
    source = json.loads((folder / "processor_config.json").read_text(encoding="utf-8")).get("vision_source") or {}
    elsewhere = source.get("pretrained_model_name_or_path")
    if elsewhere is not None and Path(elsewhere).is_absolute():
        raise ValueError(
            f"The eyes of {folder} lie in {elsewhere}, where nobody else can reach them: load its processor, touch "
            "`processor.vision_model`, and save it to the folder again."
        )
    eyes = None
    if (folder / VISION_FOLDER).is_dir():
        eyes = HamLearningVisionConfig.from_pretrained(folder / VISION_FOLDER)
    try:
        repo_id = create_repo(repo_id, private=private, token=token)
        commit = _commit_model(folder, repo_id, results, license, eyes, token)
    except (OSError, PublishError) as error:
        again = ["python", "publishing.py", str(folder), repo_id, *(["--private"] if private else [])]
        again += [] if license == "apache-2.0" else ["--license", license]
        raise PublishError(
            f"{error} Nothing is lost: {folder} holds the model and its results. Publish it later with "
            f"`{shlex.join(again)}`."
        ) from error
    return f"{commit.repo_url}/tree/{commit.oid}"


def _commit_model(
    folder: Path,
    repo_id: str,
    results: Mapping[str, Any],
    license: str,
    eyes: HamLearningVisionConfig | None,
    token: str | None,
) -> CommitInfo:
    card = folder / CARD_FILE
    before = card.read_text(encoding="utf-8").strip() if card.is_file() else ""
    text = None
    if not before or CARD_MARK in before:  # an empty one is what a full disk has left of one
        text = model_card(results, repo_id, license, eyes)
    packages = ["torch", "transformers", "pytorch-crf", *(("timm", "torchvision", "pillow") if eyes else ())]
    with writing(f"{CARD_FILE} or {REQUIREMENTS_FILE}", folder, "Make room, or let it be written to."):
        if text is not None:
            write_text(card, text)
        write_text(folder / REQUIREMENTS_FILE, "\n".join(packages) + "\n")
    paths = {path.relative_to(folder).as_posix() for pattern in PUBLIC_FILES for path in folder.glob(pattern)}
    files = {path: folder / path for path in paths}
    return commit_files(files, repo_id, "Publish model", own_files=PUBLIC_FILES, token=token)


def read_results(path: Path) -> dict[str, Any]:
    """What `run_mner.py` wrote of a training.

    Raises:
        ValueError: it is something else, or of a version that wrote less.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): train again.") from error
    missing = [key for key in RESULT_KEYS if key not in results]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: it is not of a training by this version, train again.")
    return results


def create_repo(repo_id: str, repo_type: str = "model", private: bool | None = None, token: str | None = None) -> str:
    """Makes the repo if there is none, makes sure that it can be written to, and returns its full name.

    Raises:
        ValueError: the Hub could have no repo of this name.
        PublishError: nobody is logged in, the name is not theirs, the Hub cannot be reached, or what is meant to be
            private is public there already.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(
            f"{repo_id!r} is no name of a {repo_type} repo: give ORG/NAME, each of letters, digits, '-', '_' and '.' "
            "(neither at an end, nor '--' or '..'), and of 96 characters at most."
        ) from error
    api = HfApi(token=token)

    def make() -> tuple[str, bool]:
        full_name = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True).repo_id
        # `exist_ok` forgives a bad token where there is a repo, and does not make that repo private.
        api.auth_check(full_name, repo_type=repo_type, write=True)
        return full_name, bool(api.repo_info(full_name, repo_type=repo_type).private)

    try:
        full_name, is_private = _persist(make)
    except (httpx.HTTPError, OSError, ValueError) as error:
        remedy = "log in with `hf auth login` and check that the name is ORG/NAME with an ORG that you may write to."
        if isinstance(error, OfflineModeIsEnabled) or _is_passing(error):
            remedy = "try again later."
        raise PublishError(
            f"The {repo_type} repo {repo_id} cannot be written to ({_reason(error)}): {remedy}"
        ) from error
    if private and not is_private:
        raise PublishError(
            f"The {repo_type} repo {repo_id} is public: make it private on the Hub, or take another name."
        )
    return full_name


def commit_files(
    files: Mapping[str, Path | bytes],
    repo_id: str,
    message: str,
    repo_type: str = "model",
    own_files: Sequence[str] = (),
    token: str | None = None,
) -> CommitInfo:
    """Makes `files` the content of a repo, in one commit.

    Not by `upload_folder`: it cuts a slow upload into several commits, and people would be served half of it.

    Args:
        files: by their paths in the repo, where they lie or what they hold.
        repo_id: a repo that exists.
        message: of the commit.
        repo_type: `model` or `dataset`.
        own_files: patterns of what is ours in the repo: files that match and are not among `files` are removed.
        token: of the Hub; that of `hf auth login` if None.

    Raises:
        PublishError: the Hub cannot be reached or refuses; it serves whole revisions alone.
    """
    api = HfApi(token=token)

    def additions() -> list[CommitOperationAdd]:
        return [CommitOperationAdd(path, files[path]) for path in sorted(files)]

    def commit() -> CommitInfo:
        # Anew each time: the commit may have been made and the answer lost, and then nothing is left to do.
        head: Any = api.repo_info(repo_id, repo_type=repo_type)
        stale = sorted(
            file.rfilename
            for file in head.siblings or ()
            if file.rfilename not in files and any(_matches(file.rfilename, pattern) for pattern in own_files)
        )
        operations = [*additions(), *map(CommitOperationDelete, stale)]
        return api.create_commit(
            repo_id, operations, commit_message=message, repo_type=repo_type, parent_commit=head.sha
        )

    try:
        limit_silence()
        # By itself, because here the client persists: tried again as a part of the commit, it would do so 36 times.
        api.preupload_lfs_files(repo_id, additions(), repo_type=repo_type)
        return _persist(commit)
    except (httpx.HTTPError, OSError, RuntimeError, ValueError) as error:
        # The client's RuntimeError says which file it was, and has the reason behind it.
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ is not None else error
        reason = _reason(error) if cause is error else f"{error} {_reason(cause)}"
        is_refused = isinstance(cause, HfHubHTTPError) and cause.response.status_code in REFUSED
        remedy = " Log in with `hf auth login`, as one who may write to it." if is_refused else ""
        raise PublishError(
            f"{repo_id} was not published ({reason}). The Hub serves its last whole revision.{remedy}"
        ) from error


def _persist(call: Callable[[], Any]) -> Any:
    """What `call` returns; it is called again while the Hub is down, silent or busy, and has to bear that."""
    for wait in (*WAITS, None):
        limit_silence()
        try:
            return call()
        except (httpx.HTTPError, json.JSONDecodeError) as error:
            if wait is None or not _is_passing(error):
                raise
            asked = _asked_wait(error)
            if asked is not None and asked > LONGEST_WAIT:
                raise
            wait = wait if asked is None else asked + 1  # they are whole seconds, rounded
            logger.warning(f"The Hub: {_reason(error)}. Trying again in {wait} s.")
        time.sleep(wait)


def _is_passing(error: Exception) -> bool:
    """Whether it may be over soon: no connection, no answer, a busy server, another one's commit at the same time."""
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return status in PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    # A gateway's page where the client expects JSON.
    kinds = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError, json.JSONDecodeError)
    return isinstance(error, kinds)


def _asked_wait(error: BaseException) -> int | None:
    """The seconds that the Hub asks to wait, if it does."""
    if not isinstance(error, HfHubHTTPError):
        return None
    limit = parse_ratelimit_headers(error.response.headers)
    if limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds
    asked = error.response.headers.get("Retry-After", "")
    return int(asked) if asked.isdecimal() else None


def _matches(path: str, pattern: str) -> bool:
    """Whether the pattern means the path, folder by folder."""
    return path.count("/") == pattern.count("/") and PurePosixPath(path).match(pattern)


def _reason(error: BaseException) -> str:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    asked = _asked_wait(error)
    return reason if asked is None else f"{reason}; it asks to wait {asked} s"


def weights_origins(config: HamLearningVisionConfig) -> list[dict[str, str]]:
    """Where the weights of the eyes come from: `part`, `origin` and `license` of backbone and detector.

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


def model_card(results: Mapping[str, Any], repo_id: str, license: str, eyes: HamLearningVisionConfig | None) -> str:
    """The card of a trained model with these eyes. Every figure in it is one of `results`, of `results.json`."""
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

This model {sees} and finds its named entities, of the types {types}. It is HamLearning, a multimodal network with
multi-level alignments ([paper](https://arxiv.org/abs/2305.08372)), trained on {data_name}.""",
        f"""## Use

```bash
pip install transformers torch pytorch-crf{" timm torchvision pillow" if eyes else ""}
```

```python
from transformers import pipeline

ner = pipeline(model="{repo_id}", trust_remote_code=True)
ner({example["text"]!r})
```
```
{_python_output(example["entities"])}
```

`score` is the model's probability of exactly this entity. The repo holds the code that `trust_remote_code` runs: pin
what you have read with `revision="<commit>"`.""",
        _pictures(eyes, model),
        _scores(results, scored),
        f"""## Training

![Training loss and dev F1](training.png)

| | |
|---|---|
| data | {data_name} |
| starts from | {results["starts_from"]["kind"]} {results["starts_from"]["origin"]} |
| text encoder | {encoder["model_type"]}, {encoder["num_hidden_layers"]} layers, {encoder["hidden_size"]} wide |
| parameters, without the eyes | {results["parameters"]:,} |
| epochs | {training["num_train_epochs"]:g}, the best one by dev F1 kept (epoch {results["train"]["best_epoch"]:g}) |
| batch | {training["per_device_train_batch_size"]} tweets a process; processes: {training["world_size"]}, \
accumulated steps: {training["gradient_accumulation_steps"]} |
| learning rates | text encoder {_rate(training, "text_learning_rate")}, new layers {training["learning_rate"]:g}, \
CRF {_rate(training, "crf_learning_rate")}; {training["lr_scheduler_type"]}, warm-up {training["warmup_steps"]:g} \
(below one: a share of the steps), weight decay {training["weight_decay"]:g} |
| precision | {"bf16" if training["bf16"] else "fp16" if training["fp16"] else "fp32"} |
| seed | {results["seed"]} |
| switches | {", ".join(f"`{key}={value}`" for key, value in model.items())} |
| versions | {", ".join(f"{key} {value}" for key, value in results["versions"].items())} |

All of it, with the loss and dev F1 of each epoch: `{RESULTS_FILE}`.""",
        _limits(results, data_name),
        f"## Licence\n\nOf the weights: {license}. The training data belongs to its authors and is not in this repo.",
        f"## Cite\n\n```bibtex\n{PAPER}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


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


def _pictures(eyes: HamLearningVisionConfig | None, model: Mapping[str, Any]) -> str:
    if not model["use_vision"]:
        return "## Pictures\n\nThis model was trained on text alone: it takes no picture."
    if eyes is None:
        return (
            "## Pictures\n\nThis model learned from a file of visual features and has no eyes of its own: it takes "
            "texts as above, and pictures only as rows of such a file, `processor(text=..., visual_features=...)`."
        )
    backbone: Any = eyes.global_backbone_config
    lines = ["| part | weights from | licence |", "|---|---|---|"]
    lines += [f"| {part['part']} | {part['origin']} | {part['license']} |" for part in weights_origins(eyes)]
    table = "\n".join(lines)
    return f"""## Pictures

```python
ner({{"text": "a tweet", "image": "picture.jpg"}})  # or a URL, bytes, a PIL image
```

The frozen eyes are in `{VISION_FOLDER}/` and load when the first picture comes:
`{backbone.architecture}` for the whole picture, the detector `{eyes.detector}` for its regions.
`relevance` is |C| of the paper's Eq 8, one figure a view of the picture. It gates what the network takes from the
picture; it has not been shown to measure how much a picture has to do with its text.

{table}"""


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
    return f"""## Limits and bias

It knows the types {", ".join(results["types"])} and nothing else, and what it learned of them comes from {data_name}.\
{tweets}
It repeats what is unjust in its data and in the text encoder and eyes that it started from. A name that is found says
nothing about whether the text is true. Do not use it to decide about people."""


def main(command_line: list[str] | None = None) -> None:
    """Read the command line, and end with status 1 and one line on what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="--output_dir of a training run")
    parser.add_argument("repo_id", metavar="ORG/NAME", help="the Hub repo, new or not")
    parser.add_argument("--license", default="apache-2.0", help="of the weights (default: %(default)s)")
    parser.add_argument("--private", action="store_true", default=None, help="make a new repo private")
    try:
        print(publish_model(**vars(parser.parse_args(command_line))))
    except (OSError, ValueError, PublishError) as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
