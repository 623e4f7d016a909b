"""Files of the web, whole or not at all: asked for again, and gone on with where they broke off."""

import email.utils
import hashlib
import http.client
import re
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from datetime import UTC, datetime


WAITS = (1, 2, 4)  # seconds before a server is asked again
LONGEST_WAIT = 60  # seconds, where the server says how long to wait
SECONDS = 30  # that a server may be silent for
LEAST_SPEED = 500  # bytes a second, once SECONDS have passed
MAX_BYTES = 2**26  # of a file
CHUNK = 2**16
BUSY = (408, 429, 500, 502, 503, 504)  # answers that may be others in a while
ABSENT = (404, 410)
ENOUGH_FAULTS = 3  # in a row, of different files: the server is not asked any more


class AbsentError(OSError):
    """The server is there and does not have the file."""


class StoppedError(OSError):
    """Somebody has asked to stop."""


@dataclass
class Server:
    """What was seen of one place that holds files: threads that ask it share it.

    Attributes:
        address: The folder of its files.
        faults: How many files in a row it did not give, though it may have them.
        stops: Set to end what is going on.
    """

    address: str
    faults: int = 0
    stops: threading.Event = field(default_factory=threading.Event)
    _free_at: float = 0.0  # time.monotonic()

    @property
    def is_dead(self) -> bool:
        """Whether asking it is no use any more."""
        return self.faults >= ENOUGH_FAULTS

    def wait(self) -> None:
        """Waits as long as the server has asked for."""
        if self.stops.wait(max(0.0, self._free_at - time.monotonic())):
            raise StoppedError("stopped")

    def rest(self, seconds: float) -> None:
        """Lets nobody ask it for so long."""
        self._free_at = max(self._free_at, time.monotonic() + min(seconds, LONGEST_WAIT))

    def get(self, url: str, is_fixed: bool = False) -> bytes:
        """The bytes behind an address of this server, asked for again where that may help.

        What has come is kept: a server that says by an ETag or a date that the file is still the same one is asked for
        the rest alone.

        Args:
            url: The address.
            is_fixed: The bytes are checked against a hash afterwards: the rest is asked for without such a sign too.

        Raises:
            AbsentError: The server does not have it.
            OSError: It cannot be had.
        """
        part = Part(url, is_fixed)
        for wait in (*WAITS, None):
            self.wait()
            try:
                content = part.go_on(self.stops)
                self.faults = 0
                return content
            except urllib.error.HTTPError as error:
                if error.code in ABSENT:
                    self.faults = 0
                    raise AbsentError(f"HTTP {error.code} {error.reason}") from None
                if wait is None or error.code not in BUSY:
                    self.faults += 1
                    raise OSError(f"HTTP {error.code} {error.reason}") from None
                self.rest(asked_to_wait(error.headers.get("Retry-After")) or wait)
            except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
                if isinstance(error, StoppedError):
                    raise
                if wait is None:
                    self.faults += 1
                    raise ConnectionError(str(error) or type(error).__name__) from error
                if self.stops.wait(wait):
                    raise StoppedError("stopped") from None
        raise AssertionError("the last attempt returns or raises")


class Part:
    """What has come of a file, and how to ask for the rest.

    Args:
        url: Where it is.
        is_fixed: See `Server.get`.
    """

    def __init__(self, url: str, is_fixed: bool):
        self.url, self.is_fixed = url, is_fixed
        self.content = bytearray()
        self.total: int | None = None  # bytes, as the server says
        self.sign: str | None = None  # that it is still the same file: a strong ETag, or a date

    def go_on(self, stops: threading.Event) -> bytes:
        """Reads on until all is there.

        Raises:
            OSError: It broke off, is too slow or too long, or the sizes that the server names do not fit.
        """
        request = urllib.request.Request(self.url, headers={"Accept-Encoding": "identity"})
        if self.content and (self.sign or self.is_fixed):
            request.add_header("Range", f"bytes={len(self.content)}-")
            if self.sign:
                request.add_header("If-Range", self.sign)
        try:
            response = urllib.request.urlopen(request, timeout=SECONDS)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # more has come than there is
                self.begin_anew()
                raise OSError("the sizes that the server names do not fit") from None
            raise
        with response:
            self._read_header(response)
            self._read_body(response, stops)
        if self.total is not None and len(self.content) != self.total:
            raise ConnectionError(f"{len(self.content)} of {self.total} bytes came")
        return bytes(self.content)

    def begin_anew(self) -> None:
        """Forgets what has come."""
        self.content.clear()
        self.total = self.sign = None

    def _read_header(self, response: http.client.HTTPResponse) -> None:
        found = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", response.headers.get("Content-Range", ""))
        if response.status == 206 and found is not None and int(found[1]) == len(self.content):
            total = None if found[2] == "*" else int(found[2])
            if self.total not in (None, total):
                self.begin_anew()
                raise OSError("the sizes that the server names do not fit")
            self.total = total
        elif response.status == 206:
            self.begin_anew()
            raise OSError("another part of the file came than was asked for")
        else:
            self.begin_anew()
            length = response.headers.get("Content-Length", "")
            self.total = int(length) if re.fullmatch(r"\d{1,18}", length) else None
            tag = response.headers.get("ETag", "")
            self.sign = tag if tag.startswith('"') else response.headers.get("Last-Modified")
        if (self.total or 0) > MAX_BYTES:
            raise OSError(f"{self.total} bytes, more than {MAX_BYTES}")

    def _read_body(self, response: http.client.HTTPResponse, stops: threading.Event) -> None:
        started, came = time.monotonic(), 0
        while chunk := response.read1(CHUNK):
            self.content += chunk
            came += len(chunk)
            if len(self.content) > MAX_BYTES:
                self.begin_anew()
                raise OSError(f"more than {MAX_BYTES} bytes")
            if stops.is_set():
                raise StoppedError("stopped")
            seconds = time.monotonic() - started
            if seconds > SECONDS and came < LEAST_SPEED * seconds:
                raise TimeoutError(f"{came} bytes in {seconds:.0f} seconds")


def asked_to_wait(header: str | None) -> float:
    """The seconds of a Retry-After: a number or a date; 0 where it says nothing."""
    if not header:
        return 0
    if header.strip().isdecimal():
        return float(header)
    try:
        date = email.utils.parsedate_to_datetime(header)
        return max(0.0, (date.astimezone(UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):  # no date, or one at the edge of what Python has
        return 0


def git_sha1(content: bytes) -> str:
    """The name that git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
