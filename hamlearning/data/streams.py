"""Tagged tweets of Parquet shards, read as they come."""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import ClassLabel, Features, IterableDataset, List, Value, load_dataset

from hamlearning.data.schemes import TYPES_READ_AS, mapped_tag
from hamlearning.data.tables import check_shards


def stream_tweets(
    shards: Sequence[str], tags: Sequence[str], seed: int, buffer_size: int, type_map: Mapping[str, str] | None = None
) -> IterableDataset:
    """Stream tagged tweets from Parquet shards, shuffled and without end: behind the last the first come again.

    ```python
    >>> next(iter(stream_tweets(["train-00000-of-00001.parquet"], TAGS, seed=1, buffer_size=1000)))
    {'id': '17', 'tokens': ['Ada', 'sings'], 'ner_tags': ['B-PER', 'O']}
    ```

    Shards come in random order, their tweets through a buffer of which the next ones are drawn. A tweet may so come
    again before another has come once, near the end of a pass, or throughout if the buffer holds more than there are.

    Args:
        shards: Paths or URLs that fsspec opens, `hf://` among them, with the columns `id`, `tokens` and `ner_tags`.
        tags: All tags that a model of them knows.
        seed: Of the shuffling.
        buffer_size: Tweets of the buffer.
        type_map: Types that are read as another one.

    Raises:
        ValueError: The shards lack a column, their `ner_tags` are no `ClassLabel`, or not among `tags`; or two
            shards number their tags in different ways.
    """
    if len(shards) > 1:
        check_shards(shards)
    columns = ["id", "tokens", "ner_tags"]  # no others are read: pictures would be most of the bytes
    files = {"train": list(shards)}
    stream = load_dataset("parquet", data_files=files, columns=columns, split="train", streaming=True)
    names_there, types = stream.column_names or [], stream.features or {}
    missing = [name for name in columns if name not in names_there]
    if missing:
        raise ValueError(f"{shards[0]} has no column {missing[0]!r}, only {names_there}: write it there")
    label = getattr(types["ner_tags"], "feature", None)
    if not isinstance(label, ClassLabel):
        raise ValueError(
            f"{shards[0]} has ner_tags of type {types['ner_tags']}: a stream needs lists of ClassLabel, "
            "which say what tags will come, as `hamlearning prepare` writes them"
        )
    types_read_as = TYPES_READ_AS | dict(type_map or {})
    names = [mapped_tag(name, types_read_as) for name in label.names]
    unknown = sorted(set(names) - set(tags))
    if unknown:
        raise ValueError(f"{shards[0]} names the tags {unknown}, which are not among {list(tags)}")

    def read(tweet: dict[str, Any]) -> dict[str, Any]:
        return {"id": str(tweet["id"]), "ner_tags": [names[tag] for tag in tweet["ner_tags"]]}

    # Tags by name, as the numbers are those of this file.
    features = Features(id=Value("string"), tokens=types["tokens"], ner_tags=List(Value("string")))
    stream = stream.select_columns(columns).map(read, features=features)
    return stream.repeat(None).shuffle(seed=seed, buffer_size=buffer_size)
