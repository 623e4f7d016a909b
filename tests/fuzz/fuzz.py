#!/usr/bin/env python
"""Coverage-guided fuzzing of whatever reads a stranger's bytes: tweets in each format, visual features, pictures.

```bash
pip install -e ".[fuzz]"
python tests/fuzz/fuzz.py tweets               # 200,000 executions; Ctrl-C and again: it goes on from its corpus
python tests/fuzz/fuzz.py json_rows            # also json_files, csv_files, arrow_files, parquet_files
python tests/fuzz/fuzz.py feature_bytes
python tests/fuzz/fuzz.py feature_schemas --runs 1000000
python tests/fuzz/fuzz.py pictures
python tests/fuzz/fuzz.py pictures --replay outputs/fuzz/pictures/finding-...    # one finding again
```

A finding is an exception other than the one that is promised, a crash, 10 seconds of the processor for one input, or
500 MB of memory beyond what the process has when its first input is read: libFuzzer's peak of resident memory, which
holds the corpus and the coverage tables too, so that the reader's own share is less. It ends the run and leaves its
input in `outputs/fuzz/TARGET`, where the corpus is. Mend it, and make it a test.

Coverage is that of Python code, this project's and Pillow's: what C code does with the bytes is run, but not seen.
"""

import argparse
import hashlib
import io
import json
import os
import random
import resource
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import atheris


ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
with atheris.instrument_imports(
    include=["hamlearning", "image_processing_hamlearning", "PIL"],
    enable_loader_override=False,
):
    from PIL import Image, features

    from hamlearning.data.csv_files import read_csv
    from hamlearning.data.features import VisualFeatures, write_visual_features
    from hamlearning.data.json_files import read_json
    from hamlearning.data.reading import Reading, ReadingOptions
    from hamlearning.data.released import read_tweets
    from hamlearning.data.tables import read_arrow, read_parquet
    from hamlearning.data.tweets import unified
    from image_processing_hamlearning import ImageError, read_image

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402


RUNS = 200_000
SECONDS = 10  # of the processor, for one input
MEMORY = 500  # MB beyond what the process has at its first input
MAX_PIXELS = 25_000_000  # the endpoint's default
SIZES = {"image_feature_size": 3, "region_feature_size": 2, "class_names": ["cat", "dog"]}
FILE = Path(tempfile.mkdtemp(prefix="fuzz-")) / "input"


# ----------------------------------------------------------------------------------------------------------- tweets


def read_as_tweets(data: bytes) -> None:
    """Any bytes are tweets, as many tags as tokens, or a ValueError."""
    FILE.write_bytes(data)
    try:
        columns = read_tweets(FILE)
    except ValueError as error:
        assert str(FILE) in str(error), f"no file is named: {error!r}"
        return
    assert len(columns["id"]) == len(columns["tokens"]) > 0 and all(columns["tokens"])
    for tokens, tags in zip(columns["tokens"], columns.get("ner_tags", columns["tokens"]), strict=True):
        assert len(tokens) == len(tags)


def seeds_of_tweets() -> list[bytes]:
    """The format's forms: tagged and not, with a byte order mark, of Windows, with odd tokens; and those of others."""
    tagged = "IMGID:1\nHi\tO\nAda\tB-PER\n\nIMGID:2\nRome\tB-LOC\nI\tI-OTHER\n\n"
    others = [
        tagged.replace("\t", " "),
        "-DOCSTART- -X- O\n\nHi UH O\nAda NNP B-PER\n \nRome NNP B-LOC\n",
        "# sent_id = 1\n# text = am\n1-2\tam\t_\n1\tan\tO\n2\tdem\tO\n3\tRhein\tS-LOC\n\n# image_id = 2\n1\ta\tO\n",
        "word\tner\nHi\tO\nAda\tPER\n",
        "Hi O\nAda I-PER\nLee B-PER\n  O\n",
    ]
    texts = [
        *others,
        tagged,
        "\ufeff" + tagged.replace("\n", "\r\n"),
        "IMGID:1\nHi\nAda\n",
        "IMGID:a\n\xa0\tO\n\u2028\tI-X\n",
    ]
    return [text.encode() for text in texts]


# ---------------------------------------------------------------------------------------------------- other formats


def check_reading(read: Callable[[list[Path], ReadingOptions], Reading], options: ReadingOptions) -> None:
    """What a reader gives of the file as it lies there is a data set, or a ValueError that names the file or split."""
    try:
        reading = read([FILE], options)
        tweets = unified({"train": reading}, options).splits["train"]
    except ValueError as error:
        assert str(FILE) in str(error) or "train" in str(error) or "--t" in str(error), f"nothing named: {error!r}"
        return
    assert len(tweets) > 0 and all(tweets["tokens"][:])
    if "ner_tags" in tweets.column_names:
        assert list(map(len, tweets["tokens"][:])) == list(map(len, tweets["ner_tags"][:]))


def read_as_json(data: bytes) -> None:
    """Any bytes are JSON or JSON lines with tweets, or a ValueError."""
    FILE.write_bytes(data)
    check_reading(read_json, ReadingOptions())


def read_as_csv(data: bytes) -> None:
    """Any bytes are CSV with tweets, or a ValueError."""
    FILE.write_bytes(data)
    check_reading(read_csv, ReadingOptions())


def read_as_arrow(data: bytes) -> None:
    """Any bytes are an Arrow file with tweets, or a ValueError."""
    FILE.write_bytes(data)
    check_reading(read_arrow, ReadingOptions())


def read_as_parquet(data: bytes) -> None:
    """Any bytes are a Parquet file with tweets, or a ValueError."""
    FILE.write_bytes(data)
    with tempfile.TemporaryDirectory() as cache:
        check_reading(read_parquet, ReadingOptions(cache_dir=cache))


# What rows of JSON are made of, in the places where tools have them and in others.
KEYS = (
    "id text tokens ner_tags tags labels label entities spans ents ner tokenized_text image data annotations result "
    "value start end type to_name completed_by was_cancelled answer _annotator_id _input_hash annotator annotation_id "
    "paragraphs raw sentences orth bytes path columns"
).split()
ATOMS = [
    0,
    1,
    2,
    -1,
    3.0,
    0.5,
    10**30,
    True,
    None,
    "",
    "O",
    "B-PER",
    "Ada met Bob",
    "a",
    "PER",
    "labels",
    "\ud83d",
    "a.jpg",
]


def read_as_rows(data: bytes) -> None:
    """Sound JSON, in which any value stands in any place."""
    given = atheris.FuzzedDataProvider(data)

    def value(depth: int) -> object:
        kind = given.ConsumeIntInRange(0, 5)
        if depth == 0 or kind == 0:
            return given.PickValueInList(ATOMS)
        if kind == 1:
            return [0, given.ConsumeIntInRange(0, 12), "PER"]
        if kind == 2:
            return {"start": 0, "end": given.ConsumeIntInRange(0, 12), "label": value(0), "text": value(0)}
        if kind == 3:
            return [value(depth - 1) for _ in range(given.ConsumeIntInRange(0, 3))]
        return {given.PickValueInList(KEYS): value(depth - 1) for _ in range(given.ConsumeIntInRange(0, 4))}

    rows: list[object] = []
    for _ in range(given.ConsumeIntInRange(1, 3)):
        kind = given.ConsumeIntInRange(0, 4)
        row: dict[str, object] = (
            {"text": "Ada met Bob"} if kind < 2 else {"tokens": ["Ada", "met"]} if kind < 4 else {}
        )
        row |= {given.PickValueInList(KEYS): value(3) for _ in range(given.ConsumeIntInRange(0, 3))}
        rows.append(row)
    whole = value(4) if given.ConsumeIntInRange(0, 9) == 0 else rows
    FILE.write_text(json.dumps(whole) if given.ConsumeBool() else "\n".join(map(json.dumps, rows)))
    check_reading(read_json, ReadingOptions(tag_names=("O", "B-PER")))


def seeds_of_json() -> list[bytes]:
    """Rows of each kind, as lines and as a whole."""
    rows: list[object] = [
        {"id": 1, "tokens": ["Ada", "met"], "ner_tags": ["B-PER", "O"]},
        {"text": "Ada met", "label": [[0, 3, "PER"]]},
        {"text": "Ada met", "spans": [{"start": 0, "end": 3, "label": "PER"}], "answer": "accept", "_input_hash": 1},
        {"tokenized_text": ["Ada", "met"], "ner": [[0, 0, "PER"]]},
        ["Ada met", {"entities": [[0, 3, "PER"]]}],
        {"id": 1, "paragraphs": [{"raw": "Ada met", "entities": [[0, 3, "PER"]]}]},
        {
            "id": 1,
            "data": {"text": "Ada met", "image": "/data/upload/1/1a2b3c4d-a.jpg"},
            "annotations": [
                {"completed_by": 1, "result": [{"type": "labels", "value": {"start": 0, "end": 3, "labels": ["PER"]}}]}
            ],
        },
    ]
    return [json.dumps(shape).encode() for row in rows for shape in (row, [row, row])]


def seeds_of_csv() -> list[bytes]:
    """A text a row, with each tool's lists, and a token a row."""
    return [
        b"id,tokens,ner_tags\n1,\"['Ada', 'met']\",\"['B-PER', 'O']\"\n",
        b"tokens;tags\n['Ada' 'met'];['B-PER' 'O']\n",
        b"tokens\ttags\n[Ada, 'it\\'s']\t[B-PER, O]\n",
        b'text,label\nAda met,"[[0, 3, ""PER""]]"\n',
        b"Sentence #,Word,Tag\nSentence: 1,Ada,B-per\n,met,O\n",
    ]


def table_of_tweets() -> pa.Table:
    """Two tweets with a picture."""
    return pa.table(
        {
            "id": ["1", "2"],
            "tokens": [["Ada", "met"], ["so"]],
            "ner_tags": [["B-PER", "O"], ["O"]],
            "image": [{"bytes": b"x", "path": "a"}, None],
        }
    )


def seeds_of_arrow() -> list[bytes]:
    """Files and streams, of types that programs write."""
    seeds = []
    table = table_of_tweets()
    views = table.set_column(0, "id", table["id"].cast(pa.string_view()))
    for own in (table, views):
        for open_ in (pa.ipc.new_file, pa.ipc.new_stream):
            stream = io.BytesIO()
            with open_(stream, own.schema) as writer:
                writer.write_table(own)
            seeds.append(stream.getvalue())
    return seeds


def seeds_of_parquet() -> list[bytes]:
    """One file, packed and not."""
    seeds = []
    for compression in ("none", "snappy"):
        stream = io.BytesIO()
        pq.write_table(table_of_tweets(), stream, compression=compression)
        seeds.append(stream.getvalue())
    return seeds


# -------------------------------------------------------------------------------------------------- visual features


def read_as_features(data: bytes) -> None:
    """Any bytes are a visual feature file that keeps its promises, or a ValueError."""
    FILE.write_bytes(data)
    check_features()


def check_features() -> None:
    """What `read_as_features` promises, of the file as it lies there."""
    try:
        vision = VisualFeatures(FILE)
    except ValueError as error:
        assert str(FILE) in str(error), f"no file is named: {error!r}"
        return
    assert len(vision) > 0
    for id_ in vision:
        row = vision[id_]
        count = len(row["boxes"])
        assert row["image_size"].shape == (2,) and row["image_features"].shape == (vision.image_feature_size,)
        assert row["boxes"].shape == (count, 4) and row["features"].shape == (count, vision.region_feature_size)
        assert row["class_ids"].shape == row["scores"].shape == (count,)
        assert all(np.isfinite(row[name]).all() for name in ("image_features", "boxes", "scores", "features"))
        assert ((0 <= row["class_ids"]) & (row["class_ids"] < vision.num_classes)).all()


def feature_rows(count: int) -> list[dict]:
    """Rows of a feature file, the first of them without regions."""
    return [
        {
            "id": f"picture{number}",
            "image_size": [640, 480],
            "image_features": [0.5] * 3,
            "boxes": [[0.5, 0.5, 0.2, 0.2]] * number,
            "class_ids": [number % 2] * number,
            "scores": [0.75] * number,
            "features": [[1.0, 2.0]] * number,
        }
        for number in range(count)
    ]


def seeds_of_features() -> list[bytes]:
    """The project's own files, and the same columns as other writers store them."""
    write_visual_features(FILE, feature_rows(3), SIZES)
    own = FILE.read_bytes()
    table = pq.read_table(FILE)
    seeds = [own]
    for options in (
        {"compression": "none"},
        {"compression": "snappy", "data_page_version": "2.0"},
        {"compression": "gzip", "use_dictionary": False},
        {"compression": "none", "use_dictionary": False, "write_statistics": False, "row_group_size": 1},
        {"compression": "none", "store_schema": False},
    ):
        pq.write_table(table, FILE, **options)
        seeds.append(FILE.read_bytes())
    return seeds


def change_parquet(data: bytes, max_size: int, seed: int) -> bytes:
    """Changes pages or footer of a Parquet file, and puts the frame around them that makes a reader go on."""
    if len(data) < 12 or random.Random(seed).random() < 0.1:
        return atheris.Mutate(data, max_size)
    size = struct.unpack("<I", data[-8:-4])[0]
    if not 0 < size <= len(data) - 12:
        size = len(data) // 2
    pages, footer = data[4 : -8 - size], data[-8 - size : -8]
    if random.Random(seed).random() < 0.5:
        pages = bytes(atheris.Mutate(pages, max(max_size - size - 12, len(pages), 1)))
    else:
        footer = bytes(atheris.Mutate(footer, max(max_size - len(pages) - 12, len(footer), 1)))
    return b"PAR1" + pages + footer + struct.pack("<I", len(footer)) + b"PAR1"


NUMBERS = [pa.float16(), pa.float32(), pa.float64(), pa.int8(), pa.int32(), pa.int64(), pa.uint64(), pa.bool_()]
TYPES = [*NUMBERS, pa.string(), pa.large_string(), pa.binary(), pa.null(), pa.date32(), pa.decimal128(5, 2)]


def read_as_lying_features(data: bytes) -> None:
    """A Parquet file that is sound, and whose columns, types, values and metadata are anything."""
    given = atheris.FuzzedDataProvider(data)

    def number():
        kind = given.ConsumeIntInRange(0, 5)
        if kind == 0:
            return given.ConsumeRegularFloat()
        if kind == 1:
            return given.ConsumeInt(8)
        return [0.5, float("nan"), None, -1][kind - 2]

    def value(depth: int):
        if depth == 0:
            return number()
        if given.ConsumeIntInRange(0, 9) == 0:
            return None
        return [value(depth - 1) for _ in range(given.ConsumeIntInRange(0, 4))]

    def column(name: str, rows: list[dict]) -> pa.Array:
        own = [row[name] for row in rows]
        if given.ConsumeIntInRange(0, 2) == 0:
            place = given.ConsumeIntInRange(0, len(own) - 1)
            depth = given.ConsumeIntInRange(0, 3)
            own[place] = value(depth) if name != "id" else given.ConsumeUnicode(4)
        type_ = given.PickValueInList(TYPES) if given.ConsumeIntInRange(0, 3) == 0 else None
        for _ in range(given.ConsumeIntInRange(0, 3) if type_ is not None else 0):
            wrap = given.PickValueInList(
                [pa.list_, pa.large_list, lambda t: pa.list_(t, 2), lambda t: pa.struct({"a": t})]
            )
            type_ = wrap(type_)
        try:
            return pa.array(own, type_)
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            return pa.nulls(len(own), type_)

    rows = feature_rows(given.ConsumeIntInRange(1, 3))
    columns = {name: column(name, rows) for name in rows[0] if given.ConsumeIntInRange(0, 19)}
    metadata = dict(SIZES)
    if given.ConsumeBool():
        key = given.PickValueInList([*SIZES, "extraction"])
        metadata[key] = given.PickValueInList(
            [0, 1, 3, 2**31, 2**70, 1e300, None, "3", [], {}, ["cat"], [["cat"]], True]
        )
    stored = json.dumps(metadata).encode()
    if given.ConsumeIntInRange(0, 5) == 0:
        stored = given.PickValueInList([b"", b"[]", b"null", b"[" * 100_000, b"1e999", b"\xff", b"{}", stored[:-1]])
    if not columns:
        return
    schema = {} if given.ConsumeIntInRange(0, 19) == 0 else {b"hamlearning": stored}
    try:
        table = pa.table(columns).replace_schema_metadata(schema)
        pq.write_table(table, FILE, compression="none", use_dictionary=False, write_statistics=False)
    except (pa.ArrowException, NotImplementedError):
        return  # a type that no Parquet file has
    check_features()


# --------------------------------------------------------------------------------------------------------- pictures


def read_as_picture(data: bytes) -> None:
    """Any bytes are a picture, RGB, within the limit, or an ImageError."""
    try:
        picture = read_image(data, MAX_PIXELS)
    except ImageError as error:
        assert str(error).endswith(".") and "\n" not in str(error)
        return
    assert picture.mode == "RGB" and 0 < picture.width * picture.height <= MAX_PIXELS


def seeds_of_pictures() -> list[bytes]:
    """A small picture in each format that is accepted, and in each form that its reader treats apart."""
    noise = np.random.default_rng(0).integers(0, 256, (7, 9, 4), np.uint8)
    glass = Image.fromarray(noise)
    rgb, other = glass.convert("RGB"), Image.fromarray(255 - noise).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation
    film = {"save_all": True}
    forms = [
        ("PNG", rgb, {}),
        ("PNG", glass, {"exif": exif}),
        ("PNG", rgb.quantize(16), {"transparency": bytes(range(16)), "bits": 4}),
        ("PNG", rgb.convert("I;16"), {}),
        ("PNG", rgb.convert("1"), {}),
        ("PNG", rgb, film),
        ("JPEG", rgb, {"exif": exif, "comment": "a", "icc_profile": b"icc"}),
        ("JPEG", rgb, {"progressive": True}),
        ("JPEG", rgb.convert("CMYK"), {}),
        ("JPEG", rgb.convert("L"), {}),
        ("MPO", rgb, film),
        ("GIF", rgb, film | {"disposal": 2, "loop": 0}),
        ("GIF", rgb.quantize(16), {"transparency": 3}),
        ("WEBP", glass, {"lossless": True}),
        ("WEBP", rgb, {"exif": exif}),
        ("WEBP", rgb, film),
        ("BMP", rgb, {}),
        ("BMP", rgb.quantize(16), {}),
        ("BMP", rgb.convert("1"), {}),
        ("TIFF", rgb, {"exif": exif}),
        ("TIFF", rgb, {"compression": "tiff_lzw"}),
        ("TIFF", rgb.convert("1"), {"compression": "group4"}),
        ("TIFF", rgb, {"compression": "jpeg"}),
        ("TIFF", rgb.convert("F"), {}),
        ("TIFF", rgb.convert("I;16"), {}),
        ("TIFF", rgb, {"big_tiff": True}),
        ("TIFF", rgb.convert("LAB"), film),
    ]
    if features.check("avif"):
        forms += [("AVIF", glass, {"exif": exif}), ("AVIF", rgb, film)]
    seeds = []
    for format_, picture, options in forms:
        stream = io.BytesIO()
        # Copies: a picture that was saved as JPEG keeps settings that TIFF stumbles over.
        others = {"append_images": [other.copy()]} if options.get("save_all") else {}
        picture.copy().save(stream, format_, **options, **others)
        seeds.append(stream.getvalue())
    return seeds


# -------------------------------------------------------------------------------------------------------------- run

Target = tuple[Callable[[bytes], None], Callable[[], list[bytes]], list[str], int]

# What is run, its seeds, words that it knows, the largest input
TARGETS: dict[str, Target] = {
    "tweets": (
        read_as_tweets,
        seeds_of_tweets,
        [
            "IMGID:",
            "# id = ",
            "-DOCSTART-",
            "\\x20O\\x0a",
            "\\x20S-PER\\x0a",
            "\\x20PER\\x0a",
            "\\x20\\x0a",
            "\\x0a",
            "\\x09",
            "\\x0d\\x0a",
            "\\x09O\\x0a",
            "\\x09B-PER\\x0a",
            "I-OTHER",
            "\\xef\\xbb\\xbf",
        ],
        4096,
    ),
    "json_files": (read_as_json, seeds_of_json, [f'\\"{key}\\"' for key in KEYS], 2048),
    "json_rows": (read_as_rows, lambda: [bytes(64), bytes(range(256))], [], 512),
    "csv_files": (read_as_csv, seeds_of_csv, ["tokens", "tags", "text", "id", "sentence_id", "token", "tag"], 1024),
    "arrow_files": (read_as_arrow, seeds_of_arrow, ["ARROW1"], 8192),
    "parquet_files": (read_as_parquet, seeds_of_parquet, ["PAR1"], 8192),
    "feature_bytes": (read_as_features, seeds_of_features, ["PAR1", "hamlearning", "ARROW:schema"], 16384),
    "feature_schemas": (read_as_lying_features, lambda: [bytes(64), bytes(range(256))], [], 512),
    "pictures": (
        read_as_picture,
        seeds_of_pictures,
        [
            *("IHDR", "IDAT", "IEND", "PLTE", "tRNS", "acTL", "fcTL", "fdAT", "iCCP", "zTXt", "iTXt", "eXIf", "Exif"),
            *("JFIF", "ICC_PROFILE", "\\xff\\xc0", "\\xff\\xc2", "\\xff\\xe1", "\\xff\\xdb", "\\xff\\xd9", "MPF"),
            *("RIFF", "WEBP", "VP8 ", "VP8L", "VP8X", "ANIM", "ANMF", "GIF89a", "NETSCAPE2.0", "BM"),
            *("II*\\x00", "MM\\x00*", "ftypavif", "ftypavis", "meta", "ispe", "av1C", "mdat", "iloc"),
        ],
        4096,
    ),
}


def main() -> None:
    """Runs a target until it has been executed often enough, or something is found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--runs", type=int, default=RUNS, help="executions (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "fuzz", help="of corpora and findings")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run this input alone")
    args = parser.parse_args()
    run, make_seeds, words, max_len = TARGETS[args.target]
    if args.replay is not None:
        run(args.replay.read_bytes())
        print(f"{args.replay}: nothing found")
        return
    folder = args.folder / args.target
    corpus, seeds, dictionary = folder / "corpus", folder / "seeds", folder / "words.dict"
    for place in (corpus, seeds):
        place.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(make_seeds()):
        (seeds / f"{number:02d}").write_bytes(seed)
        run(seed)
    dictionary.write_text("".join(f'"{word}"\n' for word in words))
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{args.target}: {start} MB at the first input, the limit is {start + MEMORY} MB", flush=True)
    flags = [
        f"-runs={args.runs}",
        f"-max_len={max_len}",
        f"-timeout={60 * SECONDS}",  # by the clock, for what never ends: on a busy machine seconds are long
        f"-rss_limit_mb={start + MEMORY}",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
        *([f"-dict={dictionary}"] if words else []),
        str(corpus),
        str(seeds),
    ]

    def run_and_keep(data: bytes) -> None:
        started = time.process_time()
        try:
            run(data)
            seconds = time.process_time() - started
            assert seconds < SECONDS, f"{seconds:.1f} seconds"
        except Exception:  # not left to libFuzzer: Python's end can take longer than its alarm allows
            finding = folder / f"finding-{hashlib.sha256(data).hexdigest()[:16]}"
            finding.write_bytes(data)
            traceback.print_exc()
            print(f"{finding}: run it again with --replay", file=sys.stderr, flush=True)
            os._exit(1)

    custom = {"custom_mutator": change_parquet} if args.target in ("feature_bytes", "parquet_files") else {}
    atheris.Setup([sys.argv[0], *flags], run_and_keep, **custom)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
