"""The pictures of a public data set, from the places on the web that hold them."""

import json
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from io import BytesIO
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from hamlearning.data.files import write_bytes, write_text
from hamlearning.data.web import AbsentError, Server, StoppedError, git_sha1


IMAGES, MISSING = "images", "missing_pictures.txt"  # of the data set's folder
MOST_NAMED = 5


class PictureFolder(NamedTuple):
    """A place on the web with pictures `<id>.jpg`.

    Attributes:
        address: Of the folder.
        listing: Address of a list of its files as GitHub's API gives it: names, and the hashes that git gives to their
            content. None: there is none.
        folder: Its path in that list.
    """

    address: str
    listing: str | None = None
    folder: str = ""


class Place:
    """A folder of pictures that is asked, and what its list says.

    Args:
        source: The folder.
        stops: Set to end what is going on.
    """

    def __init__(self, source: PictureFolder, stops: threading.Event):
        self.server = Server(source.address, stops=stops)
        self.hashes: Mapping[str, str] | None = None
        if source.listing is not None:
            try:
                self.hashes = read_listing(Server(source.listing).get(source.listing), source.folder)
            except (OSError, ValueError) as error:
                print(f"{source.listing} gives no hashes ({error}): the pictures are taken as they come")

    def get(self, name: str) -> bytes:
        """A picture's bytes.

        Raises:
            AbsentError: It is not there.
            OSError: It does not come, or not as it is.
        """
        if self.hashes is not None and name not in self.hashes:
            raise AbsentError("not in its list")
        url = f"{self.server.address}/{quote(name)}"
        content = self.server.get(url, is_fixed=self.hashes is not None)
        if self.hashes is not None and git_sha1(content) != self.hashes[name]:
            raise OSError(f"{url}: other bytes than its list says")
        if self.hashes is None and not is_picture(content):
            raise OSError(f"{url}: no picture")
        return content


class Outcome(NamedTuple):
    """What became of a picture: `fetched`, `kept` or `other` (there already, as released or not), `absent`, `failed`.

    A reason is with what failed.
    """

    name: str
    state: str
    reason: str = ""


def fetch_pictures(ids: Sequence[str], sources: Sequence[PictureFolder], folder: Path, workers: int) -> None:
    """Download the pictures of ids into the subfolder `images/`, and say which are missing.

    What is there already is not fetched again, so a run that was broken off goes on. `missing_pictures.txt` lists the
    ids without a picture; where there are none, there is no such file.

    Raises:
        ConnectionError: Some did not come, though a source may have them.
    """
    (folder / IMAGES).mkdir(exist_ok=True)
    stops = threading.Event()
    places = [Place(source, stops) for source in sources]
    pool = ThreadPoolExecutor(workers)
    tasks = [pool.submit(fetch_picture, image_id, places, folder / IMAGES) for image_id in ids]
    try:
        outcomes = [task.result() for task in tqdm(as_completed(tasks), "pictures", len(tasks))]
    finally:  # also at Ctrl-C: nobody waits for what is still on its way
        stops.set()
        pool.shutdown(wait=False, cancel_futures=True)
    say_outcomes(ids, outcomes, places, folder)


def fetch_picture(image_id: str, places: Sequence[Place], folder: Path) -> Outcome:
    """Write a picture from the first place that gives it."""
    name, reasons = f"{image_id}.jpg", []
    path = folder / name
    if path.is_file():
        hashes = [place.hashes[name] for place in places if place.hashes and name in place.hashes]
        is_other = bool(hashes) and git_sha1(path.read_bytes()) not in hashes
        return Outcome(image_id, "other" if is_other else "kept")
    for place in places:
        if place.server.is_dead:
            reasons.append(f"{place.server.address} is dead")
            continue
        try:
            content = place.get(name)
        except AbsentError:
            continue
        except StoppedError:
            raise
        except OSError as error:
            reasons.append(str(error))
            continue
        write_bytes(path, content)
        return Outcome(image_id, "fetched")
    return Outcome(image_id, "failed" if reasons else "absent", "; ".join(reasons))


def say_outcomes(ids: Sequence[str], outcomes: Sequence[Outcome], places: Sequence[Place], folder: Path) -> None:
    """Count and list what is there and what is missing.

    Raises:
        ConnectionError: see `fetch_pictures`.
    """
    states = {outcome.name: outcome for outcome in outcomes}
    by_state = {
        state: [image_id for image_id in ids if states[image_id].state == state]
        for state in ("fetched", "kept", "other", "absent", "failed")
    }
    for place in places:
        if place.server.is_dead:
            print(f"{place.server.address} is dead: it gave no answer to {place.server.faults} pictures in a row")
    there = len(ids) - len(by_state["absent"]) - len(by_state["failed"])
    print(f"{there} of {len(ids)} pictures are in {folder / IMAGES}, {len(by_state['fetched'])} of them new")
    if by_state["other"]:
        print(f"{len(by_state['other'])} were there, with other bytes, and stay: {named(by_state['other'])}")
    missing = by_state["absent"] + by_state["failed"]
    if missing:
        write_text(folder / MISSING, "".join(f"{image_id}\n" for image_id in missing))
    else:
        (folder / MISSING).unlink(missing_ok=True)
    if by_state["absent"]:
        print(f"{len(by_state['absent'])} are in none of the places: {named(by_state['absent'])}")
    if missing:
        print(f"{folder / MISSING} lists the {len(missing)} without a picture: their texts are read without one")
    if by_state["failed"]:
        raise ConnectionError(
            f"{len(by_state['failed'])} pictures did not come ({states[by_state['failed'][0]].reason}): call the same "
            "again, what is there is not fetched again"
        )


def named(ids: Sequence[str]) -> str:
    """The first few of some ids."""
    return ", ".join(ids[:MOST_NAMED]) + (", ..." if len(ids) > MOST_NAMED else "")


def read_listing(content: bytes, folder: str) -> dict[str, str]:
    """File names of a folder and the hashes that git gives to their content, of what GitHub's API says of a commit.

    Raises:
        ValueError: It is no such list, or not whole.
    """
    listing = json.loads(content)
    if not isinstance(listing, dict) or not isinstance(listing.get("tree"), list) or listing.get("truncated"):
        raise ValueError("it is no whole list of files")
    prefix = f"{folder}/" if folder else ""
    return {
        entry["path"].removeprefix(prefix): entry["sha"]
        for entry in listing["tree"]
        if isinstance(entry, dict) and entry.get("type") == "blob" and str(entry.get("path", "")).startswith(prefix)
    }


def is_picture(content: bytes) -> bool:
    """Whether bytes begin as a picture does, and not as a page that says sorry."""
    try:
        Image.open(BytesIO(content)).close()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return False
    return True
