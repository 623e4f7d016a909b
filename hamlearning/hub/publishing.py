"""Publish what was trained: one folder becomes one Hub repo, in one commit."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo

from configuration_hamlearning import HamLearningVisionConfig
from hamlearning.data.files import write_text, writing
from hamlearning.hub.model_card import CARD_MARK, RESULTS_FILE, model_card
from hamlearning.hub.repos import PublishError, commit_files, create_repo
from processing_hamlearning import VISION_FOLDER


CARD_FILE, REQUIREMENTS_FILE = "README.md", "requirements.txt"
# What of a run's folder is published, and nothing else: the rest is its owner's.
PUBLIC_FILES = (
    "config.json", "*.safetensors", "*.safetensors.index.json", "processor_config.json", "vision/config.json",
    "vision/*.safetensors", "vision/*.safetensors.index.json",
    "tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "bpe.codes", "*.model",
    "configuration_hamlearning.py", "handler.py", "image_processing_hamlearning.py", "modeling_faster_rcnn_vg.py",
    "modeling_hamlearning.py", "modeling_hamlearning_vision.py", "networks_hamlearning.py", "pipeline_hamlearning.py",
    "processing_hamlearning.py", "serving_hamlearning.py", "words_hamlearning.py",
    "marks_hamlearning.py", "windows_hamlearning.py",
    CARD_FILE, REQUIREMENTS_FILE, RESULTS_FILE, "scores_*.md", "training.png",
)  # fmt: skip
# What a card is made of.
RESULT_KEYS = (
    "data", "data_is_on_hub", "data_name", "evaluator", "examples", "model", "parameters", "seed", "shuffle_pictures",
    "starts_from", "text_encoder", "train", "training", "types", "versions",
)  # fmt: skip


def publish_model(
    folder: str | Path,
    repo_id: str,
    license: str = "apache-2.0",
    private: bool | None = None,
    token: str | None = None,
) -> str:
    """Makes a folder that a run trained into a Hub repo, or into the next revision of one.

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
        ValueError: the results are no such results, the vision model lies in another folder of this machine, or
            `repo_id` is no name of a repo.
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
            f"The vision model of {folder} lies in {elsewhere}, where nobody else can reach it: load its processor, "
            "use `processor.vision_model`, and save it to the folder again."
        )
    vision_config = None
    if (folder / VISION_FOLDER).is_dir():
        vision_config = HamLearningVisionConfig.from_pretrained(folder / VISION_FOLDER)
    try:
        repo_id = create_repo(repo_id, private=private, token=token)
        commit = _commit_model(folder, repo_id, results, license, vision_config, token)
    except (OSError, PublishError) as error:
        again = ["hamlearning", "publish", str(folder), repo_id, *(["--private"] if private else [])]
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
    vision_config: HamLearningVisionConfig | None,
    token: str | None,
) -> CommitInfo:
    card = folder / CARD_FILE
    before = card.read_text(encoding="utf-8").strip() if card.is_file() else ""
    text = None
    if not before or CARD_MARK in before:  # an empty one is what a full disk has left of one
        text = model_card(results, repo_id, license, vision_config)
    packages = ["torch", "transformers", "pytorch-crf", *(("timm", "torchvision", "pillow") if vision_config else ())]
    with writing(f"{CARD_FILE} or {REQUIREMENTS_FILE}", folder, "Make room, or let it be written to."):
        if text is not None:
            write_text(card, text)
        write_text(folder / REQUIREMENTS_FILE, "\n".join(packages) + "\n")
    paths = {path.relative_to(folder).as_posix() for pattern in PUBLIC_FILES for path in folder.glob(pattern)}
    files = {path: folder / path for path in paths}
    return commit_files(files, repo_id, "Publish model", own_files=PUBLIC_FILES, token=token)


def read_results(path: Path) -> dict[str, Any]:
    """What a run wrote of a training.

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


def publish(folder: Path, repo_id: str, license: str = "apache-2.0", private: bool | None = None) -> None:
    """`hamlearning publish`: see `publish_model`; prints where the model is."""
    print(publish_model(folder, repo_id, license, private))
