"""`hamlearning fetch`: real downloads, from servers on loopback that are as bad as the web is."""

import hashlib
import io
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from bad_web import Answer, Web
from hamlearning.cli import main
from hamlearning.data import sources
from hamlearning.data import web as web_module
from hamlearning.data.public_pictures import PictureFolder, read_listing
from hamlearning.data.sources import DataSource, SourceError, SourceFile, fetch
from hamlearning.data.tweets import load_tweets
from hamlearning.data.web import git_sha1


IDS = ["1", "新2-宫", "3", "4"]
TWEETS = "".join(f"IMGID:{image_id}\nAda\tB-PER\nsings\tO\n\n" for image_id in [*IDS, "1"]).encode()
FILE = SourceFile("train.txt", hashlib.sha256(TWEETS).hexdigest(), 5)
DEAD = "http://127.0.0.1:9"
WHOLE = Answer(body=TWEETS)


def jpeg(number: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(content, "JPEG")
    return content.getvalue()


PICTURES = {f"/images/{image_id}.jpg": [Answer(body=jpeg(n))] for n, image_id in enumerate(IDS)}


def listing(files: dict[str, bytes]) -> Answer:
    """What GitHub's API says of a commit's files."""
    tree = [{"path": path.lstrip("/"), "type": "blob", "sha": git_sha1(content)} for path, content in files.items()]
    tree.append({"path": "images", "type": "tree", "sha": "0" * 40})
    return Answer(body=json.dumps({"tree": tree, "truncated": False}).encode())


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Makes a data set `tiny` of one file and its pictures; there is no waiting between tries."""
    monkeypatch.setattr(web_module, "WAITS", (0, 0, 0))

    def make(*addresses: str, pictures: tuple[PictureFolder, ...] = ()) -> None:
        monkeypatch.setitem(sources.SOURCES, "tiny", DataSource(addresses, (FILE,), pictures, "Theirs alone."))

    make(DEAD)
    return make


# --------------------------------------------------------------------------------------------------------------- text


def test_a_file_comes_as_it_was_released(tiny, tmp_path, capsys):
    with Web({"/train.txt": [WHOLE]}) as web:
        tiny(web.address)
        fetch("tiny", tmp_path)
    assert (tmp_path / "train.txt").read_bytes() == TWEETS
    assert capsys.readouterr().out == f"{tmp_path / 'train.txt'}: 5 texts, as released\n"
    assert [path.name for path in tmp_path.iterdir()] == ["train.txt"]


def test_what_is_there_is_not_fetched_again(tiny, tmp_path):
    (tmp_path / "train.txt").write_bytes(TWEETS)
    with Web({"/train.txt": [WHOLE]}) as web:
        tiny(web.address)
        fetch("tiny", tmp_path)
        assert web.asked == []


def test_another_file_of_the_name_is_not_overwritten(tmp_path):
    (tmp_path / "train.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="train.txt is there, and not as released"):
        fetch("tiny", tmp_path)
    assert (tmp_path / "train.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "first", [Answer(404), Answer(403), Answer(429), Answer(body=b"another file"), Answer(body=TWEETS, length=9)]
)
def test_a_dead_source_is_said_and_the_next_one_taken(first, tiny, tmp_path, capsys):
    with Web({"/train.txt": [first]}) as bad, Web({"/train.txt": [WHOLE]}) as good:
        tiny(bad.address, good.address)
        fetch("tiny", tmp_path)
    assert (tmp_path / "train.txt").read_bytes() == TWEETS
    said, _ = capsys.readouterr().out.splitlines()
    assert said.startswith(f"{bad.address}/train.txt (")
    assert said.endswith(f": the next place is asked, {good.address}/train.txt")


def test_where_no_source_has_it_each_is_named_with_its_answer(tiny, tmp_path):
    with Web({}) as bad, Web({"/train.txt": [Answer(body=b"another file")]}) as other:
        tiny(bad.address, other.address, DEAD)
        with pytest.raises(SourceError) as error:
            fetch("tiny", tmp_path)
    assert f"{bad.address}/train.txt (HTTP 404" in str(error.value)
    assert f"{other.address}/train.txt (other bytes than the released file's" in str(error.value)
    assert f"{DEAD}/train.txt (" in str(error.value) and "refused" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_name_of_no_data_set_is_refused(capsys):
    assert main(["fetch", "twitter2016"]) == 1
    assert "no public data set 'twitter2016': choose from twitter2015, twitter2017, cpmner" in capsys.readouterr().err


def test_no_worker_is_refused(capsys):
    assert main(["fetch", "twitter2017", "--workers", "0"]) == 1
    assert "--workers 0: must be at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["twitter2015", "twitter2017", "cpmner"])
def test_the_hashes_are_those_of_the_released_files(name, shared_folder):
    for file in sources.SOURCES[name].files:
        path = shared_folder / "data" / name / file.name
        if path.is_file():
            assert hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256
            assert path.read_text(encoding="utf-8").count("IMGID:") == file.texts


# ----------------------------------------------------------------------------------------------------------- pictures


def files_in(folder):
    return {path.name: path.read_bytes() for path in (folder / "images").iterdir()}


def test_pictures_come_when_they_are_asked_for_with_a_sentence_on_whose_they_are(tiny, tmp_path, capsys):
    with Web({"/train.txt": [WHOLE], **PICTURES}) as web:
        tiny(web.address, pictures=(PictureFolder(f"{web.address}/images"),))
        assert main(["fetch", "tiny", "--to", str(tmp_path)]) == 0
        assert not (tmp_path / "images").exists()
        assert main(["fetch", "tiny", "--to", str(tmp_path), "--pictures"]) == 0
    assert files_in(tmp_path) == {f"{image_id}.jpg": jpeg(n) for n, image_id in enumerate(IDS)}
    out = capsys.readouterr().out
    assert "Theirs alone." in out
    assert f"4 of 4 pictures are in {tmp_path / 'images'}, 4 of them new" in out
    assert not (tmp_path / "missing_pictures.txt").exists()


def test_the_public_tweets_belong_to_their_authors():
    for name in ("twitter2015", "twitter2017"):
        assert "delete each one whose tweet its author has deleted" in sources.SOURCES[name].owners


def test_what_is_missing_is_counted_and_listed(tiny, tmp_path, capsys):
    files = {"/train.txt": [WHOLE], **PICTURES}
    del files["/images/3.jpg"], files["/images/4.jpg"]
    with Web(files) as web:
        tiny(web.address, pictures=(PictureFolder(f"{web.address}/images"),))
        fetch("tiny", tmp_path, pictures=True)
    assert (tmp_path / "missing_pictures.txt").read_text() == "3\n4\n"
    out = capsys.readouterr().out
    assert "2 of 4 pictures are in" in out and "2 are in none of the places: 3, 4" in out
    assert load_tweets(tmp_path)["train"].num_rows == 5  # beside pictures and the list


def test_a_picture_that_one_place_lacks_comes_from_the_next(tiny, tmp_path):
    some = {path: PICTURES[path] for path in ("/images/1.jpg", "/images/3.jpg")}
    with Web({"/train.txt": [WHOLE], **some}) as first, Web(PICTURES) as second:
        tiny(
            first.address,
            pictures=(PictureFolder(f"{first.address}/images"), PictureFolder(f"{second.address}/images")),
        )
        fetch("tiny", tmp_path, pictures=True)
        assert sorted(path for path, _ in second.asked) == ["/images/4.jpg", "/images/新2-宫.jpg"]
    assert len(files_in(tmp_path)) == 4


def test_a_dead_place_is_said_and_not_asked_for_each_picture(tiny, tmp_path, capsys):
    with Web({f"/images/{image_id}.jpg": [Answer(403)] for image_id in IDS}) as dead:
        with Web({"/train.txt": [WHOLE], **PICTURES}) as web:
            tiny(web.address, pictures=tuple(PictureFolder(f"{one.address}/images") for one in (dead, web)))
            fetch("tiny", tmp_path, pictures=True, workers=1)
        assert len(dead.asked) == 3
    assert len(files_in(tmp_path)) == 4
    assert f"{dead.address}/images is dead" in capsys.readouterr().out


def test_pictures_that_did_not_come_are_no_absent_ones_and_come_with_the_next_call(tiny, tmp_path, capsys):
    broken = {**PICTURES, "/images/3.jpg": [Answer(503)] * 4 + PICTURES["/images/3.jpg"]}
    with Web({"/train.txt": [WHOLE], **broken}) as web:
        tiny(web.address, pictures=(PictureFolder(f"{web.address}/images"),))
        assert main(["fetch", "tiny", "--to", str(tmp_path), "--pictures"]) == 1
        answer = capsys.readouterr()
        assert "1 pictures did not come (HTTP 503" in answer.err and "none of the places" not in answer.out
        assert (tmp_path / "missing_pictures.txt").read_text() == "3\n"
        asked = len(web.asked)
        assert main(["fetch", "tiny", "--to", str(tmp_path), "--pictures"]) == 0
        assert web.asked[asked:] == [("/images/3.jpg", None)]
    assert not (tmp_path / "missing_pictures.txt").exists()


def test_pictures_are_held_against_the_hashes_of_the_place_s_list(tiny, tmp_path, capsys):
    names = {path: answers[0].body for path, answers in PICTURES.items() if "4" not in path}
    files = {**PICTURES, "/images/3.jpg": [Answer(body=jpeg(99))], "/list": [listing(names)]}
    with Web({"/train.txt": [WHOLE], **files}) as web:
        tiny(web.address, pictures=(PictureFolder(f"{web.address}/images", f"{web.address}/list", "images"),))
        with pytest.raises(ConnectionError, match="1 pictures did not come .*3.jpg: other bytes than its list says"):
            fetch("tiny", tmp_path, pictures=True)
        assert ("/images/4.jpg", None) not in web.asked  # the list lacks it
    assert sorted(files_in(tmp_path)) == ["1.jpg", "新2-宫.jpg"]
    assert "1 are in none of the places: 4" in capsys.readouterr().out


def test_pictures_of_somebody_s_own_stay(tiny, tmp_path, capsys):
    names = {path: answers[0].body for path, answers in PICTURES.items()}
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").write_bytes(b"mine")
    with Web({"/train.txt": [WHOLE], **PICTURES, "/list": [listing(names)]}) as web:
        tiny(web.address, pictures=(PictureFolder(f"{web.address}/images", f"{web.address}/list", "images"),))
        fetch("tiny", tmp_path, pictures=True)
    assert (tmp_path / "images" / "1.jpg").read_bytes() == b"mine"
    assert "1 were there, with other bytes, and stay: 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "answer", [Answer(403), Answer(body=b"<html>"), Answer(body=b'{"tree": [], "truncated": true}')]
)
def test_without_a_list_pictures_are_taken_if_they_are_some(answer, tiny, tmp_path, capsys):
    files = {**PICTURES, "/images/4.jpg": [Answer(body=b"<html>log in</html>")], "/list": [answer]}
    with Web({"/train.txt": [WHOLE], **files}) as web:
        tiny(web.address, pictures=(PictureFolder(f"{web.address}/images", f"{web.address}/list", "images"),))
        with pytest.raises(ConnectionError, match="4.jpg: no picture"):
            fetch("tiny", tmp_path, pictures=True)
    assert len(files_in(tmp_path)) == 3
    assert f"{web.address}/list gives no hashes" in capsys.readouterr().out


def test_several_pictures_are_asked_for_at_a_time(tiny, tmp_path):
    slow = {path: [Answer(body=answers[0].body[:300], pause=0.0005)] for path, answers in PICTURES.items()}
    names = {path: answers[0].body for path, answers in slow.items()}
    for workers, folder in ((1, tmp_path / "one"), (4, tmp_path / "four")):
        with Web({"/train.txt": [WHOLE], **slow, "/list": [listing({p: a[0].body for p, a in slow.items()})]}) as web:
            tiny(web.address, pictures=(PictureFolder(f"{web.address}/images", f"{web.address}/list", "images"),))
            fetch("tiny", folder, pictures=True, workers=workers)
            assert web.most_at_once == 1 if workers == 1 else web.most_at_once > 1
        assert len(files_in(folder)) == len(names)


def test_ctrl_c_ends_it_at_once_and_leaves_whole_pictures(tmp_path):
    drip = {path: [Answer(body=answers[0].body, pause=0.2)] for path, answers in PICTURES.items()}
    drip["/images/1.jpg"] = PICTURES["/images/1.jpg"]
    with Web({"/train.txt": [WHOLE], **drip}) as web:
        code = f"""
import signal, sys
from hamlearning.cli import main
from hamlearning.data import sources
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start without it
from hamlearning.data.public_pictures import PictureFolder
file = sources.SourceFile({FILE.name!r}, {FILE.sha256!r}, 5)
pictures = (PictureFolder({web.address!r} + "/images"),)
sources.SOURCES["tiny"] = sources.DataSource(({web.address!r},), (file,), pictures)
sys.exit(main(["fetch", "tiny", "--to", {str(tmp_path)!r}, "--pictures"]))
"""
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
        give_up = time.monotonic() + 60
        while not (tmp_path / "images" / "1.jpg").is_file() and time.monotonic() < give_up:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        _, err = process.communicate(timeout=60)
        assert time.monotonic() - started < 10
    assert process.returncode == 130 and "Traceback" not in err
    assert files_in(tmp_path) == {"1.jpg": jpeg(0)}


def test_a_list_holds_the_files_of_the_folder_alone():
    tree = [
        {"path": "data/img/1.jpg", "type": "blob", "sha": "a"},
        {"path": "data/img", "type": "tree", "sha": "b"},
        {"path": "data/train.txt", "type": "blob", "sha": "c"},
    ]
    assert read_listing(json.dumps({"tree": tree, "truncated": False}).encode(), "data/img") == {"1.jpg": "a"}
