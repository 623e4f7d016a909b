"""Files of the web: whole or not at all, from servers on loopback that are as bad as the web is."""

import email.utils
import threading
import time

import pytest

from bad_web import Answer, Web
from hamlearning.data import web as web_module
from hamlearning.data.web import AbsentError, Server, StoppedError, asked_to_wait, git_sha1


TEXT = b"IMGID:1\nAda\tB-PER\nsings\tO\n\n"
WHOLE = Answer(body=TEXT, tag='"one"')


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(web_module, "WAITS", (0, 0, 0))


def get(web: Web, **more) -> bytes:
    return Server(web.address).get(f"{web.address}/a.txt", **more)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(status):
    with Web({"/a.txt": [Answer(status), Answer(status), WHOLE]}) as web:
        assert get(web) == TEXT
        assert len(web.asked) == 3


@pytest.mark.parametrize("status", [404, 410])
def test_what_is_not_there_is_asked_for_once(status):
    with Web({"/a.txt": [Answer(status), WHOLE]}) as web:
        with pytest.raises(AbsentError, match=f"HTTP {status}"):
            get(web)
        assert len(web.asked) == 1


@pytest.mark.parametrize("status", [401, 403, 451])
def test_a_refusal_is_no_absence_and_stays_one(status):
    with Web({"/a.txt": [Answer(status), WHOLE]}) as web:
        with pytest.raises(OSError, match=f"HTTP {status}") as error:
            get(web)
        assert not isinstance(error.value, AbsentError)
        assert len(web.asked) == 1


def test_a_file_that_broke_off_goes_on_where_it_did():
    with Web({"/a.txt": [Answer(body=TEXT, tag='"one"', cut=9, length=len(TEXT)), WHOLE]}) as web:
        assert get(web) == TEXT
        assert web.asked == [("/a.txt", None), ("/a.txt", "bytes=9-")]


def test_of_a_file_that_changed_meanwhile_nothing_is_kept():
    first = Answer(body=b"x" * 20, tag='"zero"', cut=9, length=20)
    with Web({"/a.txt": [first, WHOLE]}) as web:
        assert get(web) == TEXT


@pytest.mark.parametrize("tag", [None, 'W/"weak"'])
def test_without_a_sign_that_it_is_the_same_file_it_begins_anew(tag):
    first = Answer(body=TEXT, tag=tag, cut=9, length=len(TEXT))
    with Web({"/a.txt": [first, WHOLE]}) as web:
        assert get(web) == TEXT
        assert web.asked[1] == ("/a.txt", None)


def test_a_file_whose_hash_is_known_goes_on_without_such_a_sign():
    first = Answer(body=TEXT, cut=9, length=len(TEXT))
    with Web({"/a.txt": [first, WHOLE]}) as web:
        assert get(web, is_fixed=True) == TEXT
        assert web.asked[1] == ("/a.txt", "bytes=9-")


def test_a_size_that_was_too_large_is_no_file():
    lies = Answer(body=TEXT, tag='"one"', length=len(TEXT) + 9)
    with (
        Web({"/a.txt": [lies]}) as web,
        pytest.raises(OSError, match="sizes that the server names do not fit|bytes came"),
    ):
        get(web)


def test_a_part_that_nobody_asked_for_is_not_put_behind_the_first():
    first = Answer(body=TEXT, tag='"one"', cut=9, length=len(TEXT))
    wrong = Answer(206, body=TEXT[12:], headers={"Content-Range": f"bytes 12-{len(TEXT) - 1}/{len(TEXT)}"})
    with Web({"/a.txt": [first, wrong, WHOLE]}) as web:
        assert get(web) == TEXT


def test_a_file_that_is_too_long_is_refused(monkeypatch):
    monkeypatch.setattr(web_module, "MAX_BYTES", 10)
    with Web({"/a.txt": [WHOLE]}) as web, pytest.raises(OSError, match=f"{len(TEXT)} bytes, more than 10"):
        get(web)


def test_a_server_that_is_silent_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(web_module, "SECONDS", 0.2)
    with Web({"/a.txt": [Answer(body=TEXT, pause=5)]}) as web:
        started = time.monotonic()
        with pytest.raises(OSError, match="timed out"):
            get(web)
        assert time.monotonic() - started < 4


def test_a_server_that_drips_is_left_and_its_bytes_are_kept(monkeypatch):
    monkeypatch.setattr(web_module, "SECONDS", 0.3)
    drips = Answer(body=TEXT, tag='"one"', pause=0.1)
    with Web({"/a.txt": [drips, WHOLE]}) as web:
        assert get(web) == TEXT
        assert int(web.asked[1][1].removeprefix("bytes=").removesuffix("-")) > 0


def test_a_server_that_says_how_long_to_wait_is_given_the_time(monkeypatch):
    monkeypatch.setattr(web_module, "LONGEST_WAIT", 0.3)
    with Web({"/a.txt": [Answer(429, headers={"Retry-After": "3600"}), WHOLE]}) as web:
        started = time.monotonic()
        assert get(web) == TEXT
        assert 0.25 < time.monotonic() - started < 3


def test_sizes_of_more_digits_than_are_numbers_are_none():
    with Web({"/a.txt": [Answer(body=TEXT, length="9" * 5000)]}) as web:  # Python reads 4300 digits
        assert get(web) == TEXT
    part = {"Content-Range": f"bytes {'1' * 5000}-2/3"}
    with Web({"/a.txt": [Answer(206, TEXT, headers=part), WHOLE]}) as web:
        assert get(web) == TEXT


@pytest.mark.parametrize(
    "header, least, most", [(None, 0, 0), ("7", 7, 7), ("soon", 0, 0), ("Fri, 31 Dec 9999 23:59:59 -2359", 0, 0)]
)
def test_what_a_server_says_of_waiting(header, least, most):
    assert least <= asked_to_wait(header) <= most


def test_a_date_to_wait_for_is_understood():
    assert 50 < asked_to_wait(email.utils.formatdate(time.time() + 60, usegmt=True)) < 61
    assert asked_to_wait(email.utils.formatdate(time.time() - 60, usegmt=True)) == 0


def test_a_server_that_gives_nothing_three_times_in_a_row_is_dead():
    server = Server("http://127.0.0.1:9")
    for faults in range(3):
        assert server.faults == faults and not server.is_dead
        with pytest.raises(ConnectionError):
            server.get("http://127.0.0.1:9/a.txt")
    assert server.is_dead


def test_an_absence_is_a_sign_of_life():
    with Web({"/b.txt": [Answer(403)]}) as web:
        server = Server(web.address)
        for name in ("b", "b", "a", "b"):
            with pytest.raises(OSError):
                server.get(f"{web.address}/{name}.txt")
        assert not server.is_dead


def test_what_is_stopped_ends(monkeypatch):
    stops = threading.Event()
    with Web({"/a.txt": [Answer(body=TEXT, pause=0.05)]}) as web:
        threading.Timer(0.2, stops.set).start()
        with pytest.raises(StoppedError):
            Server(web.address, stops=stops).get(f"{web.address}/a.txt")


def test_the_name_that_git_gives_to_content():
    assert git_sha1(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
