"""Parquet in, Parquet out: every row once, whatever ended the run before."""

import json
import sys

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hamlearning.cli import main as command
from hamlearning.tagging import Tagger
from hamlearning.tagging import pieces as module
from hamlearning.tagging.pieces import find_files, find_pieces, tag_files, tag_piece
from hamlearning.tagging.shards import ShardError


NAMES = ("ann", "bob", "rome", "oslo", "tired")


@pytest.fixture(scope="module")
def tagger(trained_folder):
    return Tagger(trained_folder)


@pytest.fixture
def data(tmp_path):
    """Two files, of 12 tweets in row groups of 5, and of 7."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number, (first, count, size) in enumerate(((0, 12, 5), (12, 7, 100))):
        rows = range(first, first + count)
        table = pa.table({"id": [str(row) for row in rows], "text": [f"i met {NAMES[row % 5]} today" for row in rows]})
        pq.write_table(table, folder / f"part-{number}.parquet", row_group_size=size)
    return folder


@pytest.fixture
def small(monkeypatch):
    """Pieces of three rows, read two at a time."""
    monkeypatch.setattr(module, "ROWS_OF_A_BATCH", 2)
    find = module.find_pieces
    monkeypatch.setattr(module, "find_pieces", lambda paths, tagger: find(paths, tagger, rows=3))


def rows_of(folder):
    return pq.read_table(folder).to_pylist()


def test_rows_are_those_of_the_callable_in_their_order(tagger, data, tmp_path, small):
    done = tag_files(tagger, str(data), str(tmp_path / "out"))
    assert done == {"pieces": 8, "kept": 0, "tweets": 19, "image_errors": 0, "text_errors": 0}
    expected = tagger(pq.read_table(data)).to_pylist()
    found = rows_of(tmp_path / "out")
    assert [row["id"] for row in found] == [str(n) for n in range(19)]
    assert [[e["word"] for e in row["entities"]] for row in found] == [
        [e["word"] for e in row["entities"]] for row in expected
    ]
    assert any(row["entities"] for row in found)


def test_what_is_there_is_not_made_again_and_what_lacks_is(tagger, data, tmp_path, small, monkeypatch):
    out = tmp_path / "out"
    tag_files(tagger, str(data), str(out))
    before = rows_of(out)
    names = sorted(path.name for path in out.glob("*.parquet"))
    (out / names[3]).unlink()
    made = []
    monkeypatch.setattr(module, "tag_piece", lambda *args: made.append(args[2].name) or tag_piece(*args))
    done = tag_files(tagger, str(data), str(out))
    assert made == [names[3]] and done["kept"] == 7
    assert rows_of(out) == before


def test_a_run_that_was_ended_in_the_middle_leaves_whole_pieces_and_is_gone_on_with(
    tagger, data, tmp_path, small, monkeypatch
):
    out, count = tmp_path / "out", []

    def end(*args):
        count.append(1)
        if len(count) == 4:
            raise KeyboardInterrupt
        return tag_piece(*args)

    monkeypatch.setattr(module, "tag_piece", end)
    with pytest.raises(KeyboardInterrupt):
        tag_files(tagger, str(data), str(out))
    monkeypatch.setattr(module, "tag_piece", tag_piece)
    assert len(list(out.glob("*.parquet"))) == 3
    assert tag_files(tagger, str(data), str(out))["kept"] == 3
    assert [row["id"] for row in rows_of(out)] == [str(n) for n in range(19)]


def test_a_piece_that_is_tagged_twice_is_there_once(tagger, data, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    [piece, *_] = find_pieces(find_files(str(data)), tagger)
    for _ in range(2):
        assert tag_piece(tagger, str(out), piece) == {"tweets": 5, "image_errors": 0, "text_errors": 0}
    assert [path.name for path in out.iterdir()] == [piece.name] and len(rows_of(out)) == 5


@pytest.mark.parametrize("change", ["data", "model"])
def test_output_of_another_run_is_refused(change, tagger, trained_folder, data, tmp_path):
    out = str(tmp_path / "out")
    tag_files(tagger, str(data), out)
    if change == "data":
        pq.write_table(pa.table({"text": ["other"]}), data / "part-1.parquet")
    else:
        tagger = Tagger(trained_folder, dtype="bfloat16")
    with pytest.raises(ValueError, match=rf"--output .*another run \({'data' if change == 'data' else 'tagger'}"):
        tag_files(tagger, str(data), out)


def test_settings_that_no_row_depends_on_may_be_others(tagger, trained_folder, data, tmp_path):
    tag_files(tagger, str(data), str(tmp_path / "out"))
    assert tag_files(Tagger(trained_folder, batch_size=2, threads=1), str(data), str(tmp_path / "out"))["kept"] == 4


def test_broken_rows_are_reasons_and_are_counted(tagger, tmp_path):
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"text": ["ann", None], "image": [b"no picture", None]}), tmp_path / "data" / "a.parquet")
    done = tag_files(tagger, str(tmp_path / "data"), str(tmp_path / "out"))
    assert (done["image_errors"], done["text_errors"]) == (1, 1)


def test_a_file_that_is_none_is_named(tagger, data, tmp_path):
    (data / "part-2.parquet").write_bytes(b"none")
    with pytest.raises(ShardError, match="part-2.parquet cannot be read"):
        tag_files(tagger, str(data), str(tmp_path / "out"))
    pq.write_table(pa.table({"words": ["ann"]}), data / "part-2.parquet")
    with pytest.raises(ValueError, match="part-2.parquet: the table has the columns .*words.*it needs `tokens`"):
        tag_files(tagger, str(data), str(tmp_path / "out"))
    with pytest.raises(FileNotFoundError, match="no Parquet file"):
        tag_files(tagger, str(tmp_path / "nowhere"), str(tmp_path / "out"))


def test_places_are_those_that_fsspec_knows(tagger, data):
    memory = fsspec.filesystem("memory")
    for path in data.iterdir():
        memory.pipe_file(f"/tweets/{path.name}", path.read_bytes())
    try:
        done = tag_files(tagger, "memory://tweets/*.parquet", "memory://found")
        assert done["tweets"] == 19
        with memory.open("/found/predictions-00001-00000.parquet", "rb") as file:
            assert pq.read_table(file)["id"].to_pylist() == [str(n) for n in range(12, 19)]
        assert tag_files(tagger, "memory://tweets/*.parquet", "memory://found")["kept"] == 4
    finally:
        memory.rm("/tweets", recursive=True)
        memory.rm("/found", recursive=True)


def test_the_command_tags_files(trained_folder, data, tmp_path, capsys):
    out = tmp_path / "out"
    assert command(["predict", str(trained_folder), "--data", str(data), "--output", str(out)]) == 0
    assert "tweets 19" in capsys.readouterr().out
    assert json.loads((out / module.MANIFEST).read_text())["columns"]["text"] is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "x"], "give --output, too"),
        (["--output", "x"], "give --data, too"),
        (["--data", "x", "--output", "y", "--data_dir", "z"], "--data_dir does not go with --data"),
        (["--data", "x", "--output", "y", "--seed", "1"], "--seed does not go with --data"),
        (["--data", "x", "--output", "y", "--workers", "2"], "--workers goes with --engine ray"),
        (["--data", "x", "--output", "y", "--engine", "local", "--gpus"], "--gpus goes with --engine ray"),
        (["--engine", "ray", "--data_dir", "x"], "give --data, too"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(flags, message, trained_folder, capsys):
    assert command(["predict", str(trained_folder), *flags]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workers", "0"], "'0' is no whole number of at least 1"),
        (["--threads", "two"], "'two' is no whole number of at least 1"),
        (["--gpus", "1.5"], "'1.5' is no whole number and no share like 0.5"),
        (["--engine", "spark"], "invalid choice: 'spark'"),
    ],
)
def test_values_that_are_none_are_refused(flags, message, trained_folder, capsys):
    with pytest.raises(SystemExit) as ended:
        command(["predict", str(trained_folder), "--data", "x", "--output", "y", *flags])
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_without_ray_nothing_is_begun(trained_folder, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.data", None)
    flags = ["--data", str(data), "--output", str(tmp_path / "out"), "--engine", "ray"]
    assert command(["predict", str(trained_folder), *flags]) == 1
    assert 'pip install "hamlearning[ray]"' in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_pieces_that_are_not_there_in_the_end_are_an_error(tagger, data, tmp_path, monkeypatch):
    """As on a machine of a cluster that has a disk of its own under that name."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(module, "tag_piece", lambda tagger, output, piece: tag_piece(tagger, str(elsewhere), piece))
    with pytest.raises(ShardError, match="4 of 4 pieces are not in .*out, predictions-00000-00000.parquet the first"):
        tag_files(tagger, str(data), str(tmp_path / "out"))
