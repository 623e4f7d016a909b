"""Entities of data sets of any length: Parquet shards in, Parquet shards out, in constant memory.

```bash
python run_mner.py --do_predict --streaming True --model_name_or_path outputs/demo --data_dir shards --output_dir found
accelerate launch run_mner.py --do_predict --streaming True --model_name_or_path ORG/NAME --dataset_name ORG/TWEETS
```

A shard is read some rows at a time, never whole, and its output appears when all of it is done: what was killed goes
on with the shards that are missing. Each of several processes opens its own shards only.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from datasets import load_dataset_builder
from tqdm import tqdm

from data_hamlearning import wanted_of_hub
from modeling_hamlearning import HamLearningForTokenClassification
from processing_hamlearning import HamLearningProcessor


logger = logging.getLogger(__name__)

ROWS = 1024  # tweets that are in memory together; among them, those of like length make a batch
ROWS_WITH_PICTURES = 64
BUFFER_BYTES = 2**20  # of a column that is being read
ENTITY = pa.struct(
    [
        ("entity_group", pa.string()),
        ("word", pa.string()),
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("score", pa.float32()),
        ("word_start", pa.int32()),
        ("word_end", pa.int32()),
    ]
)
SCHEMA = pa.schema([("id", pa.string()), ("entities", pa.list_(ENTITY)), ("relevance", pa.list_(pa.float32()))])
METADATA_KEY = b"hamlearning"


def find_shards(
    data_dir: str | None, dataset_name: str | None = None, config_name: str | None = None, split: str = "test"
) -> list[str]:
    """The Parquet files of a split, of a folder or of a data set of the Hub; nothing is downloaded.

    Raises:
        ValueError: there is no such split, or it is not Parquet.
        ConnectionError: the Hub is down, silent or busy, or refuses.
    """
    place = data_dir if dataset_name is None else dataset_name
    with wanted_of_hub(str(place)):
        files = load_dataset_builder(str(place), config_name).config.data_files or {}
    if split not in files:
        raise ValueError(
            f"{place} has no split {split!r}, only {', '.join(map(str, files)) or 'none'}: name its files "
            f"{split}-*.parquet"
        )
    shards = list(files[split])
    for shard in shards:
        if not shard.endswith(".parquet"):
            raise ValueError(f"{shard} is no Parquet file: streaming reads Parquet alone, see `datasets/prepare.py`")
    return shards


def predict_shards(
    shards: Sequence[str],
    model: HamLearningForTokenClassification,
    processor: HamLearningProcessor,
    folder: Path,
    batch_size: int = 32,
    visual_features: Mapping[str, Mapping[str, Any]] | None = None,
    bf16: bool = False,
    show_progress: bool = True,
) -> list[Path]:
    """Writes the entities of each shard to `predictions-00000-of-00012.parquet` and so on.

    A shard has the columns `tokens` (words) or `text` (raw), perhaps `id`, and perhaps `image`, which is looked at if
    the model has eyes. The output has a row a tweet, in its order: `id` (null where there was none), `entities` (as
    `HamLearningProcessor.post_process_entities` returns them; of `tokens`, places are in the words joined by spaces)
    and `relevance` (|C^r| a view, null without a picture).

    Args:
        shards: paths or URLs that fsspec opens, `hf://` among them.
        model: in eval mode, on its device.
        processor: its own.
        folder: of the output.
        batch_size: tweets that go through the network together.
        visual_features: by tweet id, in place of pictures.
        bf16: autocast.
        show_progress: a bar of the shards of this process.

    Returns:
        The files of this process's shards.

    Raises:
        ValueError: a shard lacks a column, or the folder holds the output of another model or of other shards.
    """
    state = PartialState()
    folder.mkdir(parents=True, exist_ok=True)
    made_by = _fingerprint(model, processor)
    paths = []
    own = range(state.process_index, len(shards), state.num_processes)
    for place in tqdm(own, desc="shards", disable=not (show_progress and state.is_local_main_process)):
        path = folder / f"predictions-{place:05d}-of-{len(shards):05d}.parquet"
        paths.append(path)
        facts = {"shard": shards[place], "model": made_by}
        if path.is_file():
            found = json.loads(pq.read_schema(path).metadata[METADATA_KEY])
            if found != facts:
                raise ValueError(f"{path} is the output of {found}, not of {facts}: give another --output_dir")
            continue
        partial = path.with_suffix(".partial")
        schema = SCHEMA.with_metadata({METADATA_KEY: json.dumps(facts)})
        with fsspec.open(shards[place], "rb") as file, pq.ParquetWriter(partial, schema) as writer:
            for rows in _row_groups(shards[place], file, sees=_sees(model, processor, visual_features)):
                found = _read_rows(rows, model, processor, batch_size, visual_features, bf16)
                writer.write_table(pa.Table.from_pylist(found, schema))
        partial.rename(path)
    return paths


def _sees(model, processor, visual_features) -> bool:
    """Whether pictures of the shards are looked at."""
    return model.config.use_vision and visual_features is None and processor.vision_source is not None


def _fingerprint(model: HamLearningForTokenClassification, processor: HamLearningProcessor) -> str:
    """SHA-256 of the weights and of what makes model inputs."""
    digest = hashlib.sha256(json.dumps(processor.to_dict(), sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _row_groups(shard: str, file: Any, sees: bool) -> Iterator[list[dict[str, Any]]]:
    """The rows of a shard, some at a time, with the columns that are needed."""
    parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=BUFFER_BYTES)  # else a row group is read whole
    there = parquet.schema_arrow.names
    words = next((name for name in ("tokens", "text") if name in there), None)
    if words is None:
        raise ValueError(f"{shard} has the columns {there}: it needs `tokens` (words) or `text`")
    columns = [words, *(name for name in ("id", "image") if name in there and (name == "id" or sees))]
    size = ROWS_WITH_PICTURES if "image" in columns else ROWS
    for batch in parquet.iter_batches(size, columns=columns):
        yield [{"id": row.get("id"), "text": row[words], "image": row.get("image")} for row in batch.to_pylist()]


@torch.inference_mode()
def _read_rows(rows, model, processor, batch_size, visual_features, bf16) -> list[dict[str, Any]]:
    """The output of some rows, in their order. Tweets of like length go together: padding costs time."""
    by_length = sorted(range(len(rows)), key=lambda place: len(rows[place]["text"]))
    found: list[dict[str, Any]] = [{}] * len(rows)
    for first in range(0, len(rows), batch_size):
        places = by_length[first : first + batch_size]
        tweets = [rows[place] for place in places]
        pictures = {}
        if visual_features is not None:
            pictures = {"visual_features": [visual_features.get(tweet["id"]) for tweet in tweets]}
        elif any(tweet["image"] is not None for tweet in tweets):
            pictures = {"images": [tweet["image"] for tweet in tweets], "device": model.device}
        inputs = processor(text=[tweet["text"] for tweet in tweets], **pictures)
        autocast = torch.autocast(model.device.type, torch.bfloat16) if bf16 else nullcontext()
        with autocast:
            outputs = model(**inputs.to(model.device))
        entities = processor.post_process_entities(outputs, inputs)
        relevance = processor.post_process_relevance(outputs, inputs)
        for place, of_tweet, views in zip(places, entities, relevance, strict=True):
            found[place] = {"id": rows[place]["id"], "entities": of_tweet, "relevance": views}
    return found


__all__ = ["find_shards", "predict_shards"]
