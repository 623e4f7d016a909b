"""Entities of the tweets of many shards, a file a shard."""

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from tqdm import tqdm

from hamlearning.data.files import sync
from hamlearning.tagging.reader import TweetReader
from hamlearning.tagging.rows import Shard
from hamlearning.tagging.schema import SCHEMA
from hamlearning.tagging.shards import ShardError, content_sha256, named, shard_identity


logger = logging.getLogger(__name__)

METADATA_KEY = b"hamlearning"
OUTPUT_NAME = re.compile(r"predictions-\d+-of-(\d+)\.parquet")
NO_PICTURES = "the shard has none"
# What the rows of an output depend on, as its metadata names it, and as a user does.
FACTS = {
    "shard": "the shard",
    "content": "its content",
    "model": "the model",
    "precision": "the precision (--bf16, --fp16)",
    "words": "what was read (--mask_words)",
    "pictures": "the source of pictures (--visual_features, --image_dir, --hide_pictures)",
    "vision_model": "the fingerprint of the vision model",
}


def predict_shards(
    shards: Sequence[str], reader: TweetReader, folder: Path, show_progress: bool = True
) -> dict[str, int]:
    """Writes the entities of each shard to `predictions-00000-of-00012.parquet` and so on.

    A shard has the columns `tokens` (words) or `text` (raw), perhaps `id`, and perhaps `image`, which is read if the
    model has a vision model. Ids are compared, and written, as strings. A word that is null is an empty one.

    The output has a row a tweet, in its order: `id` (null where there was none), `entities` (as
    `HamLearningProcessor.post_process_entities` returns them; of `tokens`, places are in what `join_words` makes of
    them; null where the tweet is), `relevance` (|C^r| a view, null without a picture), `image_error` (why the
    tweet's picture could not be used, null where there is none or it could) and `text_error` (the same of its text).

    Its metadata hold what it depends on, see `FACTS`. Output that is there is kept if all of that is as it was: the
    content of a shard of the Hub is told by the hash that the Hub has of it, that of a file by size and time of change
    and, where the time is another, by its SHA-256. So a data set may be moved or get a commit that leaves it alone.

    Args:
        shards: paths or URLs that fsspec opens, `hf://` among them.
        reader: model and processor.
        folder: of the output.
        show_progress: a bar of the shards.

    Returns:
        `shards`, those that were `kept`, and of those that were made `tweets`, their `pictures`, and `image_errors`.

    Raises:
        ValueError: a shard lacks a column, has one twice or a tweet that is too long, or the folder holds output that
            this call would not write.
        ShardError: a shard cannot be read, its output not be written, or another run is at it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        named = OUTPUT_NAME.fullmatch(path.name)
        if named is not None and int(named[1]) != len(shards):
            raise ValueError(
                f"{path} is of {int(named[1])} shards, and these are {len(shards)}: give another --output_dir, or "
                "remove the predictions that are there"
            )
    digits = max(len(str(len(shards))), 5)  # so that the order of names is that of shards
    outputs = {
        folder / f"predictions-{place:0{digits}d}-of-{len(shards):0{digits}d}.parquet": shard
        for place, shard in enumerate(shards)
    }
    kept = [path for path in outputs if path.is_file()]
    for path in kept:  # before anything is computed
        _check_output(path, outputs[path], reader)
    total = {"shards": len(outputs), "kept": len(kept), "tweets": 0, "pictures": 0, "image_errors": 0}
    logger.info(f"{len(outputs)} shards, {len(kept)} are done")
    with tqdm(total=len(outputs), initial=len(kept), desc="shards", disable=not show_progress) as progress:
        for path, shard in outputs.items():
            if path in kept:
                continue
            counts = _predict_shard(path, shard, reader)
            done = (
                f"{counts['tweets']} tweets, {counts['pictures']} with a picture, {counts['image_errors']} pictures "
                "cannot be used"
            )
            done = "another run was faster" if counts["kept"] else done
            logger.info(f"{shard}: {done}: {path.name}")
            total |= {name: total[name] + count for name, count in counts.items()}
            progress.update()
    return total


def _predict_shard(path: Path, shard: str, reader: TweetReader) -> dict[str, int]:
    """Writes the output of one shard and counts its tweets; keeps what another run wrote meanwhile."""
    counts = {"kept": 0, "tweets": 0, "pictures": 0, "image_errors": 0}
    partial, lock = path.with_suffix(".partial"), FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ShardError(
            f"{path} is being written by another run: wait for it, or give another --output_dir"
        ) from None
    try:
        if path.is_file():  # since this run began
            _check_output(path, shard, reader)
            return counts | {"kept": 1}
        with Shard(shard, reader) as rows:
            facts = reader.facts | rows.identity | {"vision_model": None}
            with named(shard, "read"):
                facts["content"] = facts["content"] or content_sha256(shard)
            if reader.extracts:
                facts["vision_model"] = reader.vision_fingerprint if rows.has_pictures else NO_PICTURES
            schema = SCHEMA.with_metadata({METADATA_KEY: json.dumps(facts)})
            with named(path, "written"), pq.ParquetWriter(partial, schema) as writer:
                for some in rows:
                    found = reader.read(some)
                    writer.write_table(pa.Table.from_pylist(found, schema))
                    counts["tweets"] += len(found)
                    counts["pictures"] += sum(row.get("has_picture", False) for row in found)
                    counts["image_errors"] += sum(row.get("image_error") is not None for row in found)
            with named(path, "written"):
                sync(partial)
                partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
    return counts


def _check_output(path: Path, shard: str, reader: TweetReader):
    """Refuses output that this run would not write.

    Raises:
        ValueError: says in what it differs.
    """
    try:
        found = json.loads((pq.read_schema(path).metadata or {}).get(METADATA_KEY, b"{}"))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}): remove it, and its shard is predicted again") from error
    if "eyes" in found:  # as it was called until 0.1.0
        found["vision_model"] = found.pop("eyes")
    with named(shard, "read"):
        now = reader.facts | shard_identity(shard) | {"vision_model": None}
        if now["content"] is None:
            is_untouched = all(found.get(name) == now[name] for name in ("shard", "bytes", "modified"))
            now["content"] = found.get("content") if is_untouched else content_sha256(shard)
    if reader.extracts:
        now["vision_model"] = NO_PICTURES if found.get("vision_model") == NO_PICTURES else reader.vision_fingerprint
    others = [
        f"{description} was {str(found.get(name)):.40}, is {str(now[name]):.40}"
        for name, description in FACTS.items()
        if found.get(name) != now[name]
    ]
    if others:
        raise ValueError(
            f"{path} is the output of another run ({'; '.join(others)}): give another --output_dir, or remove it"
        )
