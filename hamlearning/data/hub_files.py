"""The tweets of a data set of the Hub, or of another that `datasets.load_dataset` takes by its name."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from datasets import Dataset, get_dataset_config_names, load_dataset, load_dataset_builder

from hamlearning.data.downloads import local_file, wanted_of_hub
from hamlearning.data.reading import READERS, Reading, ReadingOptions, read_files
from hamlearning.data.tables import check_shards, read_table


def read_hub(
    name: str,
    config_name: str | None,
    revision: str | None,
    wanted: Mapping[str, Sequence[str]],
    is_all: bool,
    options: ReadingOptions,
) -> dict[str, Reading]:
    """Read the splits of a data set: Parquet as `datasets` does, JSON lines, CSV and others by their readers.

    Args:
        name: ORG/NAME, or what else `datasets.load_dataset` takes.
        config_name: Its configuration; `pictures` if None and there is one of this name, else its own default.
        revision: Its branch, tag or commit.
        wanted: By split, the names that it may have there.
        is_all: Whether other splits, and those of no files of their own, are read as well.
        options: What the user says of the files.

    Raises:
        FileNotFoundError: There is no such data set.
        ConnectionError: The Hub is down, silent or busy, or refuses.
        ValueError: A file is malformed, or shards of a split number their tags in different ways.
    """
    names = {alias: split for split, aliases in wanted.items() for alias in aliases}
    with wanted_of_hub(name):
        if config_name is None and "pictures" in get_dataset_config_names(
            name, revision=revision, cache_dir=options.cache_dir
        ):
            config_name = "pictures"
        builder = load_dataset_builder(name, config_name, revision=revision, cache_dir=options.cache_dir)
        files = {str(split): list(paths) for split, paths in (builder.config.data_files or {}).items()}
        files = {split: paths for split, paths in files.items() if is_all or names.get(split, split) in wanted}
        suffixes = {PurePosixPath(path).suffix.lower() for paths in files.values() for path in paths}
        # Of these `datasets` would split no raw text, and take the tokens "NA" and "null" of a CSV for missing ones.
        if suffixes and suffixes <= READERS.keys() - {".parquet"}:
            local = {split: [Path(local_file(path)) for path in paths] for split, paths in files.items()}
            return {names.get(split, split): read_files(paths, options) for split, paths in local.items()}
        for paths in files.values():
            if len(paths) > 1 and suffixes == {".parquet"}:
                check_shards([str(path) for path in paths])
        if is_all:
            builder.download_and_prepare()
            found = builder.as_dataset()
        else:  # asked for a split, `datasets` downloads all of them
            found = load_dataset("parquet", data_files=files, cache_dir=options.cache_dir)
    assert isinstance(found, dict)
    return {
        names.get(str(split), str(split)): read_table(dataset, Path(str(split)), options, f"Parquet of {name}")
        for split, dataset in found.items()
        if isinstance(dataset, Dataset)
    }
