"""The tables of the paper, and what it reports in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Args:
        title: what it is called.
        flags: of `run_mner.py`, to train.
        paper: P, R and F1 in percent that the paper reports, by data set.
        at_test: flags of an evaluation of the trained model, if that is what counts.
        trained_on: the data set that the model is trained on, if it is another one than it is tested on.
        reads_pictures: whether the same network is asked what it does without its own pictures, see `controls`.
        at_scale: further flags, by the scale whose data or text encoder asks for them.
    """

    title: str
    flags: Mapping[str, Any] = field(default_factory=dict)
    paper: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    at_test: Mapping[str, Any] | None = None
    trained_on: Mapping[str, str] = field(default_factory=dict)
    reads_pictures: bool = False
    at_scale: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def flags_at(self, scale: str) -> dict[str, Any]:
        """To train at a scale."""
        return {**self.flags, **self.at_scale.get(scale, {})}

    @property
    def architecture(self) -> str | None:
        """The value of `--architecture`; None: HamLearning."""
        return self.flags.get("architecture")

    @property
    def controls(self) -> "dict[str, Row]":
        """The same network with other pictures than its own, by what the page calls them."""
        if not self.reads_pictures:
            return {}
        rows = {
            "hidden": Row(f"{self.title}, every picture hidden", {**self.flags, "hide_pictures": True}),
            "others'": Row(f"{self.title}, others' pictures", {**self.flags, "shuffle_pictures": True}),
            "none at test time": Row(f"{self.title}, none at test time", self.flags, at_test={"hide_pictures": True}),
        }
        return {name: replace(row, at_scale=self.at_scale) for name, row in rows.items()}


@dataclass(frozen=True)
class Table:
    """Rows that are read beside each other.

    Args:
        title: above it.
        rows: from top to bottom.
        references: titles of the rows that the others are compared with.
        split: what is scored; "validation" where the table is there to choose by.
        needs_pictures: whether its rows differ in the vision model, so that features of a file tell nothing.
    """

    title: str
    rows: list[Row]
    references: Sequence[str] = ("HamLearning",)
    split: str = "test"
    needs_pictures: bool = False

    @property
    def all_rows(self) -> list[Row]:
        """The rows, then their controls."""
        return [*self.rows, *(control for row in self.rows for control in row.controls.values())]


def both(twitter2015: tuple[float, float, float], twitter2017: tuple[float, float, float]) -> dict[str, tuple]:
    """P, R and F1 on the two data sets."""
    return {"twitter2015": twitter2015, "twitter2017": twitter2017}


FULL = both((77.25, 75.75, 76.49), (86.99, 87.28, 87.13))
TEXT_ALONE = {"use_vision": False, "num_text_layers": 0, "num_ffnn_layers": 0}
# They learn all they know from the data at hand, and so longer, at a higher rate and in smaller batches than a
# pretrained text encoder.
LSTM = {
    "use_vision": False, "text_model": None, "learning_rate": 1e-3, "text_learning_rate": 1e-3,
    "crf_learning_rate": 1e-3, "max_grad_norm": 5.0,
    "num_train_epochs": 50, "per_device_train_batch_size": 10,
}  # fmt: skip
UNKNOWN = float("nan")  # what the paper does not report


def lstm(title: str, architecture: str, paper: Mapping[str, tuple[float, float, float]]) -> Row:
    """An LSTM tagger of words alone."""
    return Row(title, {"architecture": architecture, **LSTM}, paper)


def rival(
    title: str,
    architecture: str,
    paper: Mapping[str, tuple[float, float, float]],
    at_scale: Mapping[str, Mapping[str, Any]] | None = None,
) -> Row:
    """A system with pictures, by HamLearning's recipe."""
    return Row(title, {"architecture": architecture}, paper, reads_pictures=True, at_scale=at_scale or {})


LSTM_RIVALS = [
    lstm("BiLSTM-CRF", "bilstm_crf", both((68.14, 61.09, 64.42), (79.42, 73.43, 76.31))),
    lstm("CNN-BiLSTM-CRF", "cnn_bilstm_crf", both((66.24, 68.09, 67.15), (80.00, 78.76, 79.37))),
    lstm("HBiLSTM-CRF", "hbilstm_crf", both((70.32, 68.05, 69.17), (82.69, 78.16, 80.37))),
]
PICTURE_RIVALS = [
    rival("GVATT-BERT-CRF", "gvatt", both((69.15, 74.46, 71.70), (83.64, 84.38, 84.01))),
    rival("AdaCAN-BERT-CRF", "adacan", both((69.87, 74.59, 72.15), (85.13, 83.20, 84.10))),
    rival("UMT", "umt", both((71.67, 75.23, 73.41), (85.28, 85.34, 85.31))),
    rival("UMGF", "umgf", both((74.49, 75.21, 74.85), (86.54, 84.50, 85.51))),
    rival("MAF", "maf", both((71.86, 75.10, 73.42), (86.13, 86.38, 86.25))),
    rival(  # nobody has captioned the sample or the paintings
        "ITA",
        "ita",
        both((UNKNOWN, UNKNOWN, 75.60), (UNKNOWN, UNKNOWN, 85.72)),
        dict.fromkeys(("sample", "cpmner"), {"use_captions": False}),
    ),
    rival(  # a question in the sub-tokens of the sample is longer than half of what its text encoder reads
        "MRC-MNER", "mrc_mner", both((78.10, 71.45, 74.63), (88.78, 85.00, 86.85)), {"sample": {"max_length": 58}}
    ),
    rival("MGCMT", "mgcmt", both((73.57, 75.59, 74.57), (86.03, 86.16, 86.09))),
    rival(  # HVPNeT-lite where features are from a file, which has no pyramids, or the backbone is no ResNet
        "HVPNeT",
        "hvpnet",
        both((73.87, 76.82, 75.32), (85.84, 87.93, 86.87)),
        dict.fromkeys(("sample", "small", "cpmner"), {"use_pyramid": False}),
    ),
]


def trained_on_the_other(
    title: str, flags: Mapping[str, Any], twitter2015: tuple[float, float, float], twitter2017: tuple
) -> Row:
    """A row of Table 4; what the paper reports is by the data set that is tested on."""
    other = {"twitter2015": "twitter2017", "twitter2017": "twitter2015"}
    return Row(f"{title}, trained on the other", flags, both(twitter2015, twitter2017), at_test={}, trained_on=other)


TABLES = {
    "table1": Table(
        "Text alone and with pictures (Table 1)",
        [
            *LSTM_RIVALS,
            Row("BERT", TEXT_ALONE | {"use_crf": False}, both((68.30, 74.61, 71.32), (82.19, 83.72, 82.95))),
            Row("BERT-CRF", TEXT_ALONE, both((69.22, 74.59, 71.81), (83.32, 83.57, 83.44))),
            *PICTURE_RIVALS,
            Row("HamLearning, text alone", {"use_vision": False}),
            Row("HamLearning", {}, FULL, reads_pictures=True),
        ],
        references=("HamLearning", "BERT-CRF"),
    ),
    "table2": Table(
        "Without one part (Table 2)",
        [
            Row("HamLearning", {}, FULL),
            Row("w/o RGCN", {"use_spatial_encoder": False}, both((74.73, 75.42, 75.07), (86.17, 85.94, 86.05))),
            Row("w/o ViT", {"use_semantic_encoder": False}, both((74.45, 75.92, 75.18), (85.75, 86.53, 86.14))),
            Row("w/o RM", {"use_relevance": False}, both((75.35, 73.89, 74.61), (86.02, 85.19, 85.60))),
        ],
    ),
    "table3": Table(
        "Rounds of interaction L (Table 3)",
        [
            Row("L = 1", {"num_interaction_layers": 1}, both((74.97, 75.49, 75.23), (85.30, 86.16, 85.73))),
            Row("L = 2", {"num_interaction_layers": 2}, both((76.61, 75.36, 75.98), (86.97, 86.38, 86.67))),
            Row("L = 3", {}, FULL),
            Row("L = 4", {"num_interaction_layers": 4}, both((76.33, 75.21, 75.77), (87.01, 85.79, 86.40))),
            Row("L = 5", {"num_interaction_layers": 5}, both((75.25, 76.03, 75.64), (85.43, 86.57, 86.00))),
        ],
        references=("L = 3",),
    ),
    "table4": Table(
        "Trained on the other data set (Table 4)",
        [
            trained_on_the_other("UMT", {"architecture": "umt"}, (64.67, 63.59, 64.13), (67.80, 55.23, 60.87)),
            trained_on_the_other("UMGF", {"architecture": "umgf"}, (67.00, 62.81, 66.21), (69.88, 56.92, 62.74)),
            trained_on_the_other("HamLearning", {}, (69.17, 66.84, 67.98), (71.03, 59.40, 64.70)),
        ],
        references=(),
    ),
    "table5": Table(
        "Detectors (Table 5)",
        [
            Row("Faster R-CNN, Visual Genome", {}, FULL),
            Row(
                "Mask R-CNN, COCO",
                {"detector": "mask_rcnn_coco"},
                both((76.93, 75.74, 76.33), (87.03, 86.45, 86.73)),
            ),
        ],
        references=("Faster R-CNN, Visual Genome",),
        needs_pictures=True,
    ),
    "controls": Table(
        "Controls",
        [
            Row("HamLearning", {}),
            Row("trained and tested with other tweets' pictures", {"shuffle_pictures": True}),
            Row("other tweets' pictures at test time", {}, at_test={"shuffle_pictures": True}),
            Row("no pictures at test time", {}, at_test={"hide_pictures": True}),
            Row("pictures alone: words masked", {"mask_words": True}),
            Row("C = 0 at test time", {}, at_test={"forced_relevance": 0.0}),
            Row("C = 1 at test time", {}, at_test={"forced_relevance": 1.0}),
        ],
    ),
    "search_text": Table(
        "What the paper leaves open, text alone, one change at a time",
        [
            Row("text alone", {"use_vision": False}),
            Row("text encoder's rate 5e-5", {"use_vision": False, "text_learning_rate": 5e-5}),
            Row("text encoder's rate 2e-4", {"use_vision": False, "text_learning_rate": 2e-4}),
            Row("new layers' rate 1e-4", {"use_vision": False, "learning_rate": 1e-4}),
            Row("CRF's rate 1e-3", {"use_vision": False, "crf_learning_rate": 1e-3}),
            Row("CRF's rate 2e-2", {"use_vision": False, "crf_learning_rate": 2e-2}),
            Row("4 epochs", {"use_vision": False, "num_train_epochs": 4}),
            Row("10 epochs", {"use_vision": False, "num_train_epochs": 10}),
            Row("constant rate", {"use_vision": False, "lr_scheduler_type": "constant_with_warmup"}),
            Row("cosine", {"use_vision": False, "lr_scheduler_type": "cosine"}),
            Row("no warm-up", {"use_vision": False, "warmup_steps": 0}),
        ],
        references=("text alone",),
        split="validation",
    ),
    "search": Table(
        "What the paper leaves open, with pictures, one change at a time",
        [
            Row("HamLearning", {}),
            Row("new layers' rate 1e-4", {"learning_rate": 1e-4}),
            Row("new layers' rate 1e-3", {"learning_rate": 1e-3}),
            Row("picture_dropout 0.3", {"picture_dropout": 0.3}),
            Row("new layers' rate 1e-4, picture_dropout 0.3", {"learning_rate": 1e-4, "picture_dropout": 0.3}),
            Row("each round its own weights", {"share_interaction_layers": False}),
        ],
        split="validation",
    ),
}
SCALES = {
    "small": {"twitter2017": "twitter2017_minilm.yaml", "twitter2015": "twitter2015_minilm.yaml"},
    "paper": {"twitter2017": "twitter2017.yaml", "twitter2015": "twitter2015.yaml"},
    "sample": {"sample": "sample_regions.yaml"},
    "cpmner": {"cpmner": "cpmner.yaml"},
}
