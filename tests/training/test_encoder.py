"""`hamlearning encoder`: a text encoder of a data set's own characters, as a training takes it."""

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from hamlearning.cli import main


@pytest.fixture
def data_dir(tmp_path):
    """Texts of single characters; each but \u9f99 and the letter X occurs twice."""
    tagged = "".join(f"{character}\tO\n" for character in "画于北京Ada。龙画于北京Ada。X")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "train.txt").write_text(f"IMGID:1\n{tagged}\n", encoding="utf-8")
    return tmp_path / "texts"


def test_the_vocabulary_is_of_what_the_train_split_has_twice(data_dir, tmp_path, capsys):
    assert main(["encoder", str(data_dir), str(tmp_path / "encoder")]) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "encoder")
    assert set(tokenizer.get_vocab()) == {*"画于北京Ada。", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    assert tokenizer.tokenize("北京龙") == ["北", "京", "[UNK]"]
    assert "13 pieces in its vocabulary, of 1 texts. 11.1% of their words" in capsys.readouterr().out


def test_case_and_accents_stay(data_dir, tmp_path):
    (data_dir / "train.txt").write_text("IMGID:1\n" + "が\tO\nか\tO\nCafé\tO\n" * 2 + "\n", encoding="utf-8")
    assert main(["encoder", str(data_dir), str(tmp_path / "encoder")]) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "encoder")
    assert tokenizer.tokenize("が か Café cafe") == ["が", "か", "Café", "[UNK]"]


def test_words_that_are_not_in_the_vocabulary_are_spelt(data_dir, tmp_path):
    (data_dir / "train.txt").write_text("IMGID:1\n" + "sun\tO\nnun\tO\n" * 2 + "\n", encoding="utf-8")
    assert main(["encoder", str(data_dir), str(tmp_path / "encoder")]) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "encoder")
    assert tokenizer.tokenize("sun snn") == ["sun", "s", "##n", "##n"]


def test_sizes_and_seed_are_those_of_the_flags(data_dir, tmp_path):
    flags = ["--layers", "1", "--width", "24", "--heads", "3", "--positions", "40"]
    for name, seed in (("one", "1"), ("same", "1"), ("other", "2")):
        assert main(["encoder", str(data_dir), str(tmp_path / name), *flags, "--seed", seed]) == 0
    one, same, other = (AutoModel.from_pretrained(tmp_path / name) for name in ("one", "same", "other"))
    config = one.config
    sizes = (config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.max_position_embeddings)
    assert sizes == (1, 24, 3, 40)
    assert AutoTokenizer.from_pretrained(tmp_path / "one").model_max_length == 40
    weights = [model.embeddings.word_embeddings.weight for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_files_are_read_as_a_training_reads_them(data_dir, tmp_path, capsys):
    (data_dir / "train.txt").write_text("Ada\tB-PER\t7\nAda\tI-PER\t7\n", encoding="utf-8")
    assert main(["encoder", str(data_dir), str(tmp_path / "encoder")]) == 1
    assert "--tag_column" in capsys.readouterr().err
    assert main(["encoder", str(data_dir), str(tmp_path / "encoder"), "--tag_column", "2"]) == 0
    assert "Ada" in AutoTokenizer.from_pretrained(tmp_path / "encoder").get_vocab()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--layers", "0"], "--layers 0: must be at least 1"),
        (["--positions", "2"], "--positions 2: must be at least 3"),
        (["--min_count", "0"], "--min_count 0: must be at least 1"),
        (["--width", "30"], "--width 30 is no multiple of --heads 4"),
        (["--heads", "-1"], "--heads -1: must be at least 1"),
    ],
)
def test_sizes_that_cannot_be_are_refused(flags, message, data_dir, tmp_path, capsys):
    assert main(["encoder", str(data_dir), str(tmp_path / "encoder"), *flags]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "encoder").exists()


def test_a_folder_that_holds_something_is_not_written_into(data_dir, tmp_path, capsys):
    assert main(["encoder", str(data_dir), str(data_dir)]) == 1
    assert "texts is not an empty folder: choose another one" in capsys.readouterr().err
    assert [path.name for path in data_dir.iterdir()] == ["train.txt"]


def test_a_folder_without_a_train_split_is_refused(data_dir, tmp_path, capsys):
    (data_dir / "train.txt").rename(data_dir / "valid.txt")
    assert main(["encoder", str(data_dir), str(tmp_path / "encoder")]) == 1
    assert "has no train split" in capsys.readouterr().err
