#!/usr/bin/env bash
# datasets 5.2.0: Parquet files that number their tags differently are read by the names of the first one, in silence.
#
# Two shards hold the same tags, B-PER and O, each with its own `ClassLabel` in the schema's metadata: one numbers them
# O, B-PER, the other B-PER, O. Each file alone gives B-PER and O. Read together, by `Dataset.from_parquet` or
# `load_dataset`, the second one's tags come out as O and B-PER. `concatenate_datasets` of the two refuses them.
#
# Seen with Python 3.11, pyarrow 26.0.1:
#   each alone: [['B-PER', 'O']] [['B-PER', 'O']]
#   from_parquet: [['B-PER', 'O'], ['O', 'B-PER']]
#   load_dataset: [['B-PER', 'O'], ['O', 'B-PER']]
#   concatenate_datasets: ValueError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet datasets==5.2.0 pyarrow==26.0.1

cd "$folder"
HF_HOME="$folder/home" HF_DATASETS_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/said"
import datasets
from datasets import ClassLabel, Dataset, Features, List, concatenate_datasets, load_dataset

datasets.disable_progress_bars()
files = ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
for file, names in zip(files, (["O", "B-PER"], ["B-PER", "O"])):
    numbers = [[names.index("B-PER"), names.index("O")]]
    Dataset.from_dict({"tags": numbers}, Features(tags=List(ClassLabel(names=names)))).to_parquet(file)


def named(found):
    names = found.features["tags"].feature.names
    return [[names[number] for number in row] for row in found["tags"]]


print("each alone:", *(named(Dataset.from_parquet(file)) for file in files))
print("from_parquet:", named(Dataset.from_parquet(files)))
print("load_dataset:", named(load_dataset("parquet", data_files=files, split="train")))
try:
    print("concatenate_datasets:", named(concatenate_datasets([Dataset.from_parquet(file) for file in files])))
except ValueError as error:
    print("concatenate_datasets:", type(error).__name__)
PYTHON

diff "$folder/said" - <<'SAID'
each alone: [['B-PER', 'O']] [['B-PER', 'O']]
from_parquet: [['B-PER', 'O'], ['O', 'B-PER']]
load_dataset: [['B-PER', 'O'], ['O', 'B-PER']]
concatenate_datasets: ValueError
SAID
