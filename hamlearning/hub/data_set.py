"""`hamlearning prepare`: a data set made of the files of others, and published."""

import shlex
from pathlib import Path

from hamlearning.data.dividing import parse_shares
from hamlearning.data.prepare import CONFIGS, DataSet, check_target, data_files, read_data_set
from hamlearning.data.reading import parse_options
from hamlearning.hub.repos import PublishError, commit_files, create_repo


def prepare(
    source: Path,
    target: Path | None = None,
    images: Path | None = None,
    visual_features: Path | None = None,
    name: str | None = None,
    overwrite: bool = False,
    push_to_hub: str | None = None,
    push_pictures: bool = False,
    private: bool | None = None,
    check: bool = False,
    split: str | None = None,
    seed: int = 1,
    image_subfolders: bool = False,
    max_length: int = 128,
    **reading: str,
) -> None:
    """Turn the files in `source` into a data set in `target`, which `push_to_hub` publishes, and say what was seen.

    Args:
        source: See `read_data_set`, as for the next three.
        target: None with `check` alone. The folder to make: `README.md`,
            `text/<split>-00000-of-00001.parquet`, with `images` the same in
            `pictures/`, with `visual_features` `visual_features/visual_features.parquet`.
        images: The folder of the pictures.
        visual_features: A visual feature file of the same tweets.
        name: The data set's name in its card.
        overwrite: Whether `target` may hold something. Only what this function writes is replaced.
        push_to_hub: The data set repo `ORG/NAME`, new or not. It gets one commit, when all is written.
        push_pictures: Whether the pictures are published too.
        private: Whether a new repo is private; the organisation's default if None.
        check: Read and say, and write nothing.
        split: How one file is divided, "80/10/10".
        seed: Of that.
        image_subfolders: Whether pictures in the folders of `images` are read as well.
        max_length: Texts of more words are counted.
        reading: Fields of `ReadingOptions`, as they are typed.

    Raises:
        OSError: See `read_data_set` and `check_target`.
        ValueError: See `read_data_set`; or an argument lacks another one that it needs.
        PublishError: The Hub cannot be reached or refuses. It serves what it served before.
    """
    if (push_pictures or private) and push_to_hub is None:
        flag = "--push_pictures" if push_pictures else "--private"
        raise ValueError(f"{flag} without --push_to_hub: name the repo, --push_to_hub ORG/NAME")
    if target is None and not check:
        raise ValueError("no TARGET: give the folder to make, or --check to read and write nothing")
    if target is not None:
        check_target(source, target, visual_features, overwrite)
    options = parse_options(reading)
    shares = None if split is None else parse_shares(split)
    data_set = read_data_set(source, images, visual_features, name, image_subfolders, options, shares, seed)
    if push_pictures and not data_set.has_pictures:
        raise ValueError(f"--push_pictures, but {source} holds no pictures: give the folder of them, --images")
    print(*data_set.report(max_length), sep="\n")
    if check or target is None:
        print(*data_set.report_pictures(), "nothing was written: --check", sep="\n")
        return
    if push_to_hub is None:
        write(data_set, target)
        return
    again = ["hamlearning", "prepare", str(source), str(target), "--overwrite", "--push_to_hub", push_to_hub]
    again += [] if images is None else ["--images", str(images)]
    again += [] if visual_features is None else ["--visual_features", str(visual_features)]
    again += [] if name is None else ["--name", name]
    again += [] if split is None else ["--split", split, "--seed", str(seed)]
    again += ["--image_subfolders"] * image_subfolders
    again += [part for flag, value in reading.items() for part in (f"--{flag}", value)]
    again += ["--push_pictures"] * push_pictures + ["--private"] * bool(private)
    try:
        repo_id = create_repo(push_to_hub, repo_type="dataset", private=private)  # now, not after all the work
        write(data_set, target)
        publish(data_set, target, repo_id, [c for c in data_set.configs if c != "pictures" or push_pictures])
    except PublishError as error:
        raise PublishError(f"{error} Try again: {shlex.join(again)}") from error


def write(data_set: DataSet, target: Path) -> None:
    """Write a data set, and say that it can be loaded."""
    data_set.write(target)
    print(f"{target} is ready for load_dataset")


def publish(data_set: DataSet, folder: Path, repo_id: str, configs: list[str]) -> None:
    """Make `configs` of a data set that was written to a folder the content of a repo."""
    files: dict[str, Path | bytes] = {
        file.relative_to(folder).as_posix(): file for config in configs for file in data_files(folder, config)
    }
    # The repo's card names what the repo holds, which may be less than what is here.
    files["README.md"] = data_set.card(repo_id, configs).encode()
    own_files = [f"{config}/*" for config in CONFIGS]
    try:
        commit = commit_files(files, repo_id, "Publish data set", repo_type="dataset", own_files=own_files)
    except PublishError as error:
        raise PublishError(f"{error} The new data set is complete in {folder}.") from error
    print(f"{commit.repo_url} has {', '.join(configs)}, revision {commit.oid}")
