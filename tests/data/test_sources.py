"""`hamlearning fetch`: real downloads, from servers on loopback that are as bad as the web is."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hamlearning.cli import main
from hamlearning.data import sources
from hamlearning.data.sources import DataSource, SourceError, SourceFile, fetch


TWEETS = b"IMGID:1\nAda\tB-PER\nsings\tO\n\n"
FILE = SourceFile("train.txt", hashlib.sha256(TWEETS).hexdigest(), 1)


class Web:
    """A server whose answers to the requests come in this order; the last one stays."""

    def __init__(self, *answers):
        web = self
        self.answers, self.asked = list(answers), 0

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                answer = web.answers[min(web.asked, len(web.answers) - 1)]
                web.asked += 1
                status, body, length = answer
                self.send_response(status)
                self.send_header("Content-Length", str(len(body) if length is None else length))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


WHOLE = (200, TWEETS, None)


@pytest.fixture(autouse=True)
def one_small_source(monkeypatch):
    """A data set `tiny` of one file, and no waiting between tries."""
    monkeypatch.setattr(sources, "WAITS", (0, 0, 0))
    monkeypatch.setitem(sources.SOURCES, "tiny", DataSource(("http://127.0.0.1:9",), (FILE,)))


def test_a_file_comes_as_it_was_released(tmp_path, capsys):
    with Web(WHOLE) as web:
        fetch("tiny", tmp_path, [web.address])
    assert (tmp_path / "train.txt").read_bytes() == TWEETS
    assert "1 tweets, as released" in capsys.readouterr().out


def test_what_is_there_is_not_fetched_again(tmp_path):
    (tmp_path / "train.txt").write_bytes(TWEETS)
    with Web(WHOLE) as web:
        fetch("tiny", tmp_path, [web.address])
        assert web.asked == 0


def test_another_file_of_the_name_is_not_overwritten(tmp_path):
    (tmp_path / "train.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="train.txt is there, and not as released"):
        fetch("tiny", tmp_path, ["http://127.0.0.1:9"])
    assert (tmp_path / "train.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "first", [(503, b"", None), (429, b"", None), (200, TWEETS[:9], len(TWEETS))], ids=["busy", "too many", "cut off"]
)
def test_a_source_that_fails_is_asked_again(first, tmp_path):
    with Web(first, WHOLE) as web:
        fetch("tiny", tmp_path, [web.address])
        assert web.asked == 2
    assert (tmp_path / "train.txt").read_bytes() == TWEETS


@pytest.mark.parametrize("first", [(404, b"", None), (200, b"another file", None)], ids=["dead", "other bytes"])
def test_a_dead_source_gives_way_to_the_next(first, tmp_path):
    with Web(first) as dead, Web(WHOLE) as alive:
        fetch("tiny", tmp_path, [dead.address, alive.address])
        assert dead.asked == 1
    assert (tmp_path / "train.txt").read_bytes() == TWEETS


def test_where_no_source_has_it_each_is_named_with_its_answer(tmp_path):
    with Web((404, b"", None)) as dead, Web((200, b"another file", None)) as other:
        with pytest.raises(SourceError) as error:
            fetch("tiny", tmp_path, [dead.address, other.address])
    assert f"{dead.address}/train.txt (HTTP Error 404" in str(error.value)
    assert f"{other.address}/train.txt (other bytes than the released file's" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_name_of_no_data_set_is_refused(capsys):
    assert main(["fetch", "twitter2016"]) == 1
    assert "no public data set 'twitter2016': choose from twitter2015, twitter2017" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["twitter2015", "twitter2017"])
def test_the_hashes_are_those_of_the_released_files(name, shared_folder):
    for file in sources.SOURCES[name].files:
        path = shared_folder / "data" / name / file.name
        if path.is_file():
            assert hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256
            assert path.read_text(encoding="utf-8").count("IMGID:") == file.tweets
