"""The command `hamlearning`: its verbs and their flags. A verb's room is imported when the verb is called.

```bash
hamlearning --help
hamlearning train configs/sample.yaml
hamlearning score twitter2017/test.txt predictions.txt
```
"""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from hamlearning.threads import share_the_machine
from hamlearning.training.signals import proposal, run_from_terminal


class Parser(argparse.ArgumentParser):
    """A parser that proposes the nearest flag where it does not know one."""

    def __init__(self, **kwargs: Any):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Ends with status 2 and one sentence."""
        self.exit(2, f"error: {message} (`{self.prog} --help` says more)\n")


class Verb(NamedTuple):
    """What one verb of the command is."""

    summary: str
    examples: tuple[str, str]
    room: str  # module:function, which takes the flags as keywords
    add_flags: Callable[[argparse.ArgumentParser], None]
    takes_training_flags: bool = False  # then the function takes what `hamlearning train` would
    ends_itself: bool = False  # then the function handles signals, and returns the exit code


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb.

    Returns:
        The exit code: 0; 1 for an error, also in the flags of a run; 2 for a wrong verb or flag; 128 + a signal.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if "_ARGCOMPLETE" in os.environ:
        complete()
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if argv[0] == "--version":
        print(metadata.version("hamlearning"))
        return 0
    if "torch" not in sys.modules:  # it would be too late
        share_the_machine()
    name, rest = argv[0], argv[1:]
    if name not in VERBS:
        near = proposal(name, [*VERBS, "--version", "--help"])
        print(f"error: {name!r} is no verb of hamlearning{near} `hamlearning --help` lists them.", file=sys.stderr)
        return 2
    if not {"-h", "--help"}.isdisjoint(rest):
        print(*(f"$ {line}" for line in VERBS[name].examples), "", sep="\n")
        if name == "train":
            call("hamlearning.training.arguments:make_parser").print_help()  # the run itself is a second more
            return 0
    if name == "train":
        return run_from_terminal(lambda: call("hamlearning.training.run:main", rest))
    verb, options = VERBS[name], parse(name, rest)
    if verb.ends_itself:
        return call(verb.room, **options)
    return run_from_terminal(lambda: call(verb.room, **options), any_error=not verb.takes_training_flags)


def call(room: str, *args: Any, **kwargs: Any) -> Any:
    """Calls `module:function`, whose module is imported now."""
    module, _, function = room.partition(":")
    return getattr(importlib.import_module(module), function)(*args, **kwargs)


def overview() -> str:
    """What `hamlearning --help` prints."""
    width = max(map(len, VERBS))
    lines = [f"  {name:{width}}  {verb.summary}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "usage: hamlearning VERB ...",
            "",
            "Multimodal named entity recognition: a text and its picture in, typed entity spans out.",
            "",
            *lines,
            "",
            "`hamlearning VERB --help` begins with two lines to type; `hamlearning --version` says which one this is.",
            'Completion in bash and zsh: eval "$(register-python-argcomplete hamlearning)"',
        ]
    )


def make_parser(name: str) -> Parser:
    """The parser of a verb's flags."""
    verb = VERBS[name]
    description = f"{verb.summary[0].upper()}{verb.summary[1:]}."
    more = "Every flag of `hamlearning train` is taken too." if verb.takes_training_flags else None
    parser = Parser(
        prog=f"hamlearning {name}", description=description, epilog=more, argument_default=argparse.SUPPRESS
    )
    verb.add_flags(parser)
    return parser


def parse(name: str, argv: list[str]) -> dict[str, Any]:
    """The flags that were given, and what their room takes for the others; see `Verb`."""
    parser = make_parser(name)
    if VERBS[name].takes_training_flags:
        needs_model = any(not action.option_strings for action in parser._actions)
        if needs_model and argv and argv[0].startswith("-") and not {"-h", "--help"} & set(argv):
            parser.error(f"{argv[0]!r} comes before MODEL: give the model first, then the flags")
        options, rest = parser.parse_known_args(argv)
        return {"options": vars(options), "flags": rest}
    flags = [flag for action in parser._actions for flag in action.option_strings]
    for given in argv:  # before what argparse would miss, which may be missing for this
        if given.startswith("-") and given != "--" and given.partition("=")[0] not in flags and not is_number(given):
            parser.error(f"{given!r} is no flag of `{parser.prog}`{proposal(given, flags).removesuffix('.')}")
    options, unknown = parser.parse_known_intermixed_args(argv)
    if unknown:
        parser.error(f"{unknown[0]!r} is one argument too many for `{parser.prog}`")
    return vars(options)


def is_number(text: str) -> bool:
    """Whether it is a value that may begin with a minus."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def complete() -> None:
    """Answers the shell's question for completions, and ends the process."""
    import argcomplete

    parser = argparse.ArgumentParser("hamlearning")
    verbs = parser.add_subparsers()
    for name, verb in VERBS.items():
        is_run = name == "train" or verb.takes_training_flags
        if is_run and name in os.environ.get("COMP_LINE", "").split()[1:2]:  # these flags take seconds to import
            verbs.add_parser(name, add_help=False, parents=[call("hamlearning.training.arguments:make_parser")])
        else:
            verb.add_flags(verbs.add_parser(name, help=verb.summary))
    argcomplete.autocomplete(parser)


# ------------------------------------------------------------------------------------------------- the verbs' flags


def add_train_flags(parser: argparse.ArgumentParser) -> None:
    """None here: `hamlearning.training.arguments` has them."""


def add_reading_flags(parser: argparse.ArgumentParser) -> None:
    """What the files of a data set do not say of themselves."""
    parser.add_argument("--token_column", metavar="COLUMN", help="of the tokens: a number from 1, or a name [found]")
    parser.add_argument("--tag_column", metavar="COLUMN", help="of the tags: a number, -1 the last, or a name [found]")
    parser.add_argument(
        "--tag_scheme", metavar="SCHEME", help="iob2, iob1, io, bioes, bmes, bilou, bmewo, none [found]"
    )
    parser.add_argument(
        "--type_map", metavar="OLD=NEW,...", help="types that are read as another one, or left out, =O"
    )
    parser.add_argument("--annotator", help="whose annotations are read, where a task has several")
    parser.add_argument("--tag_names", metavar="O,B-PER,...", help="of tags that are numbers without names")


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Where tweets and pictures lie, and where what is made of them goes."""
    parser.add_argument("--data_dir", help="folder with the splits: columns, JSON lines, CSV, Parquet, ...")
    parser.add_argument("--dataset_name", help="data set of the Hub, in place of --data_dir")
    parser.add_argument("--image_dir", help="folder of pictures named by the tweets' ids")
    parser.add_argument("--image_subfolders", nargs="?", const="True", help="those of its folders, too")
    parser.add_argument("--vision_model", help="folder or Hub id of a vision model, or of a model that has one")
    parser.add_argument("--output_dir", help="a new folder [runs/hamlearning]")
    add_reading_flags(parser)


def add_predict_flags(parser: argparse.ArgumentParser) -> None:
    """Of `hamlearning predict`."""
    parser.add_argument("model_name_or_path", metavar="MODEL", help="trained model: folder or Hub id")
    add_data_flags(parser)
    parser.add_argument("--visual_features", metavar="FILE", help="visual feature file, in place of the pictures")
    parser.add_argument(
        "--streaming", nargs="?", const="True", help="read Parquet shards as they come, and write a file a shard"
    )
    parser.add_argument("--per_device_eval_batch_size", metavar="N", help="tweets of a batch [32]")
    parser.add_argument("--bf16", metavar="True|False", help="bfloat16 [where the hardware has it]")
    parser.add_argument(
        "--format",
        choices=("label-studio", "conll", "jsonl", "brat", "spacy"),
        help="write what is found for another program, too",
    )
    files = parser.add_argument_group("Parquet files of any number, in place of --data_dir and --output_dir")
    files.add_argument("--data", metavar="PLACE", help="folder, file or pattern; also hf://, s3:// and the like")
    files.add_argument("--output", metavar="PLACE", help="folder of the Parquet files that are made")
    add_engine_flags(files)
    files.add_argument("--threads", type=at_least_one, metavar="N", help="of PyTorch [all cores; 1 a worker of Ray]")


def add_engine_flags(parser: argparse._ActionsContainer) -> None:
    """What does the work."""
    parser.add_argument("--engine", choices=("local", "ray"), help="one process, or those of a Ray cluster [local]")
    parser.add_argument("--workers", type=at_least_one, metavar="N", help="of Ray, at most [all there is room for]")
    parser.add_argument(
        "--gpus", type=more_than_none, nargs="?", const=1.0, metavar="N", help="of a worker of Ray, or a share [none]"
    )


def at_least_one(text: str) -> int:
    """A whole number, as argparse asks for one."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def more_than_none(text: str) -> float:
    """A number of GPUs: whole, or a share of one."""
    if not is_number(text) or not (0 < float(text) <= 1 or float(text) > 1 and float(text).is_integer()):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number and no share like 0.5")
    return float(text)


def add_calibrate_flags(parser: argparse.ArgumentParser) -> None:
    """Of `hamlearning calibrate`."""
    parser.add_argument("model_name_or_path", metavar="MODEL", help="folder of a trained model")
    parser.add_argument("--data_dir", help="folder with a valid split: columns, JSON lines, CSV, Parquet, ...")
    parser.add_argument("--dataset_name", help="data set of the Hub, in place of --data_dir")
    parser.add_argument("--image_dir", help="folder of pictures named by the tweets' ids")
    parser.add_argument("--visual_features", metavar="FILE", help="visual feature file, in place of the pictures")
    add_reading_flags(parser)


def add_extract_flags(parser: argparse.ArgumentParser) -> None:
    """Of `hamlearning extract`."""
    add_data_flags(parser)
    parser.add_argument("--vision_backbone", help="global backbone of a new vision model [timm/resnet152.tv_in1k]")
    parser.add_argument("--detector", help="faster_rcnn_vg, mask_rcnn_coco, object_detection or grid [faster_rcnn_vg]")
    parser.add_argument("--detector_name_or_path", help="weights of the detector [those of the kind]")
    for name, what in (
        ("grid_features", "the cells of the backbone's last map, too, which mgcmt reads"),
        ("pyramid_features", "all stages of a ResNet of picture and best regions, too, which hvpnet reads"),
    ):
        parser.add_argument(f"--{name}", nargs="?", const="True", metavar="True|False", help=what)
    parser.add_argument("--vision_runtime", help="torch or openvino, on a CPU [openvino where it is installed]")
    parser.add_argument("--vision_precision", help="float32, or bfloat16 where it is near enough [float32]")
    parser.add_argument("--extraction_batch_size", metavar="N", help="pictures that go through together [8]")
    parser.add_argument("--extraction_workers", metavar="N", help="processes that decode pictures")
    add_engine_flags(parser)
    parser.add_argument("--threads", type=at_least_one, metavar="N", help="of a worker of Ray, and its cores [1]")


def add_scoring_flags(parser: argparse.ArgumentParser) -> None:
    """Of `hamlearning score` and `hamlearning compare`."""
    parser.add_argument("--train", help="the training tweets, as GOLD: tells seen mentions from unseen", default=None)
    parser.add_argument("--split", default="test", help="of GOLD, if it is a folder [%(default)s]")
    parser.add_argument(
        "--fill_with_o", action="store_true", default=False, help="words that a length limit cut off count as O"
    )
    parser.add_argument("--samples", type=int, default=1000, help="of intervals and test [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="of the samples [%(default)s]")
    parser.add_argument("--json", type=Path, metavar="FILE", default=None, help="write everything there too")


def add_score_flags(parser: argparse.ArgumentParser) -> None:
    """Of `hamlearning score`."""
    parser.add_argument(
        "gold",
        metavar="GOLD",
        nargs="?",
        default=None,
        help="tagged text file, folder, or .jsonl [PREDICTIONS, if it is a .jsonl]",
    )
    parser.add_argument("predictions", metavar="PREDICTIONS", help=".jsonl of a run, or another system's text file")
    parser.add_argument("--against", metavar="PREDICTIONS", default=None, help="another system's, to compare with")
    parser.add_argument(
        "--precision", type=float, metavar="P", default=None, help="say which threshold of scores gives it, as 0.95"
    )
    add_scoring_flags(parser)


def add_compare_flags(parser: argparse.ArgumentParser) -> None:
    """Of `hamlearning compare`."""
    parser.add_argument("gold", metavar="GOLD", nargs="?", default=None, help="as in `hamlearning score` [ONE]")
    parser.add_argument("predictions", metavar="ONE", help="one system's predictions")
    parser.add_argument("against", metavar="OTHER", help="the other's")
    add_scoring_flags(parser)


def add_report_flags(parser: argparse.ArgumentParser) -> None:
    """Of `hamlearning report`."""
    parser.add_argument("predictions", metavar="PREDICTIONS", nargs="+", help=".jsonl of a run, or another system's")
    parser.add_argument("--names", metavar="NAME", nargs="+", default=None, help="of the runs [their files]")
    parser.add_argument("--gold", default=None, help="tagged text file, folder, or .jsonl [the first PREDICTIONS]")
    pictures = parser.add_mutually_exclusive_group()
    pictures.add_argument("--data_dir", default=None, help="folder of a data set with pictures")
    pictures.add_argument("--image_dir", type=Path, default=None, help="folder of pictures named by the tweets' ids")
    parser.add_argument("--image_subfolders", action="store_true", default=False, help="those of its folders, too")
    parser.add_argument("--split", default="test", help="of --data_dir and --gold, if a folder [%(default)s]")
    parser.add_argument(
        "--visual_features", metavar="FILE", default=None, help="visual feature file: shows regions and captions"
    )
    parser.add_argument(
        "--fill_with_o", action="store_true", default=False, help="words that a length limit cut off count as O"
    )
    parser.add_argument("--ids", metavar="ID", nargs="+", default=None, help="show these tweets alone, in this order")
    parser.add_argument("--output", type=Path, default=Path("error_report.html"), help="[%(default)s]")


def add_tables_flags(parser: argparse.ArgumentParser) -> None:
    """Of `hamlearning tables`."""
    parser.add_argument("tables", nargs="*", default=[], help="table1, table2, ..., controls, search")
    parser.add_argument("--scale", default="small", help="small, paper, sample or cpmner [%(default)s]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="[1 2 3]")
    parser.add_argument("--on", nargs="+", default=None, help="data sets [all of the scale]")
    parser.add_argument("--data", nargs="+", default=[], metavar="NAME=FOLDER", help="where a data set lies")
    parser.add_argument(
        "--visual_features",
        nargs="+",
        default=[],
        metavar="NAME=FILE",
        help="visual feature file that is read in place of a data set's pictures",
    )
    parser.add_argument("--text_model", default=None, help="the text encoder, where it is not the config's")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time [%(default)s]")
    parser.add_argument(
        "--runs_dir", type=Path, default=None, help="models and logs [outputs/experiments of the clone]"
    )
    parser.add_argument("--rows", nargs="+", metavar="TITLE", default=None, help="only these rows [all]")
    parser.add_argument("--page", action="store_true", default=False, help="make no run, only the page")


def add_prepare_flags(parser: argparse.ArgumentParser) -> None:
    """Of `hamlearning prepare`."""
    parser.add_argument("source", metavar="SOURCE", type=Path, help="folder of train, valid and test, or one file")
    parser.add_argument("target", metavar="TARGET", type=Path, nargs="?", default=None, help="folder to make")
    parser.add_argument("--check", action="store_true", default=False, help="say what is there, and write nothing")
    parser.add_argument("--split", metavar="80/10/10", default=None, help="divide one file into train, valid and test")
    parser.add_argument("--seed", type=int, default=1, help="of --split [%(default)s]")
    parser.add_argument("--max_length", type=int, default=128, help="texts of more words are counted [%(default)s]")
    parser.add_argument("--word_splitting", help="of raw text with spans: punctuation, tweet or characters")
    add_reading_flags(parser)
    parser.add_argument("--images", type=Path, default=None, help="folder of the pictures, named by the tweets' ids")
    parser.add_argument("--image_subfolders", action="store_true", default=False, help="those of its folders, too")
    parser.add_argument("--visual_features", type=Path, default=None, help="visual feature file of the pictures")
    parser.add_argument("--name", default=None, help="the data set's name in its card [SOURCE's own]")
    parser.add_argument(
        "--overwrite", action="store_true", default=False, help="replace the data set that TARGET holds"
    )
    parser.add_argument(
        "--push_to_hub", metavar="ORG/NAME", default=None, help="publish text, visual features and card"
    )
    parser.add_argument("--push_pictures", action="store_true", default=False, help="publish the pictures too")
    parser.add_argument("--private", action="store_true", default=None, help="make a new repo private")


def add_fetch_flags(parser: argparse.ArgumentParser) -> None:
    """Of `hamlearning fetch`."""
    parser.add_argument("name", metavar="NAME", help="twitter2015, twitter2017 or cpmner")
    parser.add_argument("--to", type=Path, default=None, metavar="DIR", help="folder to make [released/NAME]")
    parser.add_argument("--pictures", action="store_true", default=False, help="fetch the pictures too")
    parser.add_argument(
        "--workers", type=int, metavar="N", default=8, help="pictures that are asked for at a time [%(default)s]"
    )


def add_encoder_flags(parser: argparse.ArgumentParser) -> None:
    """Of `hamlearning encoder`."""
    parser.add_argument("data_dir", metavar="DATA_DIR", type=Path, help="folder with a train split")
    parser.add_argument("target", metavar="TARGET", type=Path, help="folder to make, for --text_model")
    parser.add_argument("--layers", type=int, metavar="N", default=4, help="Transformer layers [%(default)s]")
    parser.add_argument("--width", type=int, metavar="N", default=256, help="of hidden states [%(default)s]")
    parser.add_argument("--heads", type=int, metavar="N", default=4, help="of attention [%(default)s]")
    parser.add_argument(
        "--positions", type=int, metavar="N", default=512, help="most sub-tokens of a text [%(default)s]"
    )
    parser.add_argument(
        "--min_count", type=int, metavar="N", default=2, help="times that a piece must occur [%(default)s]"
    )
    parser.add_argument("--seed", type=int, metavar="N", default=1, help="of the weights [%(default)s]")
    parser.add_argument("--word_splitting", help="of raw text with spans: punctuation, tweet or characters")
    add_reading_flags(parser)


def add_publish_flags(parser: argparse.ArgumentParser) -> None:
    """Of `hamlearning publish`."""
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="--output_dir of a training run")
    parser.add_argument("repo_id", metavar="ORG/NAME", help="the Hub repo, new or not")
    parser.add_argument("--license", default="apache-2.0", help="of the weights [%(default)s]")
    parser.add_argument("--private", action="store_true", default=None, help="make a new repo private")


def add_export_flags(parser: argparse.ArgumentParser) -> None:
    """Of `hamlearning export`."""
    parser.add_argument("source", metavar="MODEL", help="trained model: folder or Hub id")
    parser.add_argument("folder", metavar="FOLDER", help="a new folder")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="[%(default)s]")


def add_serve_flags(parser: argparse.ArgumentParser) -> None:
    """Of `hamlearning serve`."""
    parser.add_argument("model", metavar="MODEL", help="trained or exported model: folder or Hub id; its code is run")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on [%(default)s]")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one [%(default)s]")
    parser.add_argument("--replicas", type=int, default=1, help="processes with a copy of the model [%(default)s]")
    parser.add_argument("--threads", type=int, default=None, help="of each replica [all cores, divided by them]")
    parser.add_argument(
        "--max_waiting", type=int, default=256, metavar="N", help="requests that a replica holds; others: 429 [256]"
    )


def add_info_flags(parser: argparse.ArgumentParser) -> None:
    """Of `hamlearning info`."""
    parser.add_argument("model", metavar="MODEL", nargs="?", default=None, help="a model: folder or Hub id")
    parser.add_argument("--json", action="store_true", default=False, help="print it as JSON")


VERBS = {
    "train": Verb(
        "train on tagged tweets and their pictures, score and predict",
        ("hamlearning train configs/sample.yaml", "hamlearning train my.yaml --seed 2 --output_dir outputs/two"),
        "hamlearning.training.run:main",
        add_train_flags,
    ),
    "predict": Verb(
        "write the entities that a trained model finds in tweets",
        (
            "hamlearning predict outputs/demo --data_dir my/tweets --output_dir outputs/found",
            "hamlearning predict outputs/demo --data my/shards --output outputs/found --engine ray",
        ),
        "hamlearning.training.verbs:predict",
        add_predict_flags,
        takes_training_flags=True,
    ),
    "extract": Verb(
        "compute the visual features of a data set's pictures",
        (
            "hamlearning extract --data_dir my/tweets --image_dir my/pictures --output_dir features",
            "hamlearning extract --data_dir my/tweets --output_dir features --engine ray",
        ),
        "hamlearning.training.verbs:extract",
        add_extract_flags,
        takes_training_flags=True,
    ),
    "calibrate": Verb(
        "fit the temperature of a trained model's scores on the dev split",
        (
            "hamlearning calibrate outputs/demo --data_dir my/tweets",
            "hamlearning calibrate outputs/demo --data_dir my/tweets --image_dir my/pictures",
        ),
        "hamlearning.training.verbs:calibrate",
        add_calibrate_flags,
        takes_training_flags=True,
    ),
    "score": Verb(
        "score predictions, whoever made them",
        (
            "hamlearning score outputs/demo/predictions_test.jsonl",
            "hamlearning score twitter2017/test.txt their_predictions.txt --train twitter2017/train.txt",
        ),
        "hamlearning.scores.score:score",
        add_score_flags,
    ),
    "compare": Verb(
        "test whether one system is better than another",
        (
            "hamlearning compare outputs/one/predictions_test.jsonl outputs/two/predictions_test.jsonl",
            "hamlearning compare twitter2017/test.txt theirs.txt ours.jsonl --samples 10000",
        ),
        "hamlearning.scores.score:compare_files",
        add_compare_flags,
    ),
    "report": Verb(
        "make an HTML page of errors: each tweet with gold, predictions and picture",
        (
            "hamlearning report outputs/one/predictions_test.jsonl outputs/two/predictions_test.jsonl",
            "hamlearning report theirs.txt --gold twitter2017/test.txt --output theirs.html",
        ),
        "hamlearning.scores.report:report",
        add_report_flags,
    ),
    "tables": Verb(
        "run the paper's tables, and set them beside what it reports",
        (
            "hamlearning tables table1 table2 --on twitter2017 --data twitter2017=my/twitter2017",
            "hamlearning tables --page",
        ),
        "hamlearning.paper.command:make_tables",
        add_tables_flags,
        ends_itself=True,
    ),
    "prepare": Verb(
        "make a data set with a card of tagged tweets and pictures",
        (
            "hamlearning prepare released/twitter2017 prepared/twitter2017 --images released/twitter2017_images",
            "hamlearning prepare my/export.json --check",
        ),
        "hamlearning.hub.data_set:prepare",
        add_prepare_flags,
    ),
    "fetch": Verb(
        "download a public data set, and check its hashes",
        ("hamlearning fetch twitter2017", "hamlearning fetch cpmner --to my/cpmner --pictures"),
        "hamlearning.data.sources:fetch",
        add_fetch_flags,
    ),
    "encoder": Verb(
        "make a text encoder with random weights, for a language that no pretrained one knows",
        (
            "hamlearning encoder my/paintings encoders/paintings --positions 640",
            "hamlearning encoder my/paintings encoders/small --layers 2 --width 128",
        ),
        "hamlearning.training.encoder:make_encoder",
        add_encoder_flags,
    ),
    "publish": Verb(
        "publish a trained model, with its card, on the Hub",
        ("hamlearning publish outputs/demo ORG/NAME", "hamlearning publish outputs/demo ORG/NAME --private"),
        "hamlearning.hub.publishing:publish",
        add_publish_flags,
    ),
    "export": Verb(
        "export a trained model to OpenVINO, for a CPU",
        (
            "hamlearning export outputs/demo outputs/demo_cpu",
            "hamlearning export outputs/demo outputs/demo_fp32 --precision fp32",
        ),
        "hamlearning.hub.exporting:export",
        add_export_flags,
    ),
    "serve": Verb(
        "answer HTTP requests with a model",
        ("hamlearning serve outputs/demo", "hamlearning serve ORG/NAME --host 0.0.0.0 --port 8080"),
        "hamlearning.hub.serving:serve",
        add_serve_flags,
    ),
    "info": Verb(
        "print what is installed here, or what a model is",
        ("hamlearning info", "hamlearning info outputs/demo"),
        "hamlearning.info:info",
        add_info_flags,
    ),
}
