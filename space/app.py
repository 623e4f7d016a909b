"""The Space: a tweet and its picture in; out come its names, their types, and what the picture changed.

    $ HAMLEARNING_MODEL=../outputs/demo python app.py
    * Running on local URL:  http://127.0.0.1:7860

`HAMLEARNING_MODEL` is a model of HamLearning, a Hub id or a folder; `HAMLEARNING_REVISION`, if set, its branch, tag or
commit. Its code comes from there too, so this file needs nothing beside it but `examples/`.
"""

import base64
import contextlib
import csv
import html
import io
import json
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import gradio as gr
import gradio.processing_utils
import gradio.routes
import numpy as np
import torch
from fastapi import HTTPException
from gradio.utils import get_upload_folder
from PIL import Image
from transformers import AutoModelForTokenClassification, AutoProcessor
from transformers.dynamic_module_utils import get_class_from_dynamic_module


MAX_CHARACTERS = 50_000  # of a tweet
MAX_BYTES = 10 * 2**20  # of a picture's file
MAX_PIXELS = 40_000_000  # of a picture
MAX_TWEETS = 200  # of some files
MAX_FILES = 201
TWEETS_AT_ONCE = 8
MAX_WAITING = 128  # requests; more are told that the queue is full
MAX_SESSIONS = 64  # that gradio remembers. Nothing is lost with one: each answer fills all of the page anew.
MAX_REGIONS = 6  # shown of a name, those with the largest effect; of a grid all
MAX_EXPLAINED = 8  # names
MAX_EXPLAINED_WINDOWS = 4  # of a tweet: each is read once for every region
SMALL_EFFECT = 0.05  # of a probability
SHOWN_SIDE = 720  # pixels, long side of the picture with its regions

TYPE_NAMES = {"PER": "person", "LOC": "location", "ORG": "organisation", "MISC": "other"}
COLOURS = {
    "person": "#6366f1",
    "location": "#10b981",
    "organisation": "#f59e0b",
    "other": "#ec4899",
}
VIEW_NAMES = {"semantic": "what is there", "spatial": "where it is"}

FOLDER = Path(__file__).parent / "examples"
EXAMPLES = [  # tweet, picture
    ["good morning from me and Austin, oh the car!", str(FOLDER / "austin_place.png")],
    ["good morning from me and Austin, oh the car!", str(FOLDER / "austin_person.png")],
    ["who else loves Jaguar? what a guitar #mood", str(FOLDER / "jaguar_pet.png")],
    ["flew to Georgia this morning. look, a guitar", str(FOLDER / "georgia_trophy.png")],
    ["had lunch with Maria Lopez at Lake Geneva", None],
]


class BadInput(ValueError):
    """What came from the form cannot be used; the message says why, and what to do."""


class Reading(NamedTuple):
    """What the model says of one tweet."""

    text: str
    words: list[str]
    offsets: list[tuple[int, int]]  # of each word in the text
    num_windows: int  # in which the tweet was read
    entities: list[dict[str, Any]]  # with the picture if there is one
    entities_without: list[dict[str, Any]] | None  # None: there is no picture
    relevance: list[float] | None  # |C^r| a view; None: there is no picture, or the model tells none
    picture: Image.Image | None
    row: dict[str, np.ndarray] | None  # its visual features


class Tweet(NamedTuple):
    """One of several that came as files."""

    id: str
    text: str | list[str]  # or its words
    upload: dict[str, Any] | None  # as `Reader.read` takes it
    error: str  # why its picture is not there


class Reader:
    """A model, its processor, and its vision model if it has one."""

    def __init__(self, repo: str, revision: str | None = None):
        source = {"pretrained_model_name_or_path": repo, "trust_remote_code": True, "revision": revision}

        def of_repo(place: str) -> Any:  # what the model's own repo has for it
            return get_class_from_dynamic_module(place, repo, revision=revision)

        of_repo("serving_hamlearning.return_large_blocks")()
        self.check_text = of_repo("serving_hamlearning.check_text")
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.processor = AutoProcessor.from_pretrained(**source)
        self.model = AutoModelForTokenClassification.from_pretrained(**source).to(self.device)
        self.vision_config: Any = None  # the configuration of the vision model
        if self.model.config.use_vision and self.processor.vision_source is not None:
            self.vision_config = self.processor.vision_model.config
            # The reader that the vision model itself uses: so the page shows what it was given.
            self.read_image = of_repo("image_processing_hamlearning.read_image")

    def read(self, text: str, upload: dict[str, Any] | None, progress: Callable[..., Any]) -> Reading:
        """Names with the picture and without it, and what in the picture decided.

        Args:
            text: a tweet.
            upload: `bytes` of a picture's file and `path`, its name; None for no picture.
            progress: is told how far this is, and what comes next.

        Raises:
            BadInput: there is no word, there are too many characters, or the picture cannot be read.
        """
        try:
            self.check_text(text, "The tweet", MAX_CHARACTERS)
        except ValueError as error:
            raise BadInput(f"{error} Please shorten it.") from error
        if not self.processor(text=text).words[0]:
            raise BadInput("The tweet is empty: please write one, or click on an example.")
        picture = row = None
        if upload is not None and self.vision_config is not None:
            progress(0.1, desc="Extracting features of the picture")
            try:
                picture = self.read_image(upload, MAX_PIXELS)
            except ValueError as error:
                raise BadInput(f"This picture does not work: {error}") from error
            row = self.processor.extract_visual_features([picture], device=self.device)[0]
        progress(0.8, desc="Reading the tweet")
        inputs = self.processor(text=text)
        with torch.inference_mode():
            [entities_without] = self.processor.post_process_entities(self.model(**inputs.to(self.device)), inputs)
        entities, relevance = entities_without, None
        if row is not None:
            inputs = self.processor(text=text, visual_features=row)
            entities, relevance = self._read_with_picture(inputs)
        return Reading(
            text=text,
            words=inputs.words[0],
            offsets=inputs.offsets[0],
            num_windows=inputs.num_windows[0],
            entities=entities,
            entities_without=None if row is None else entities_without,
            relevance=relevance,
            picture=picture,
            row=row,
        )

    def read_many(self, tweets: list[Tweet], progress: Callable[..., Any]) -> list[list[Any]]:
        """The names in some tweets, each read with its picture if it has one.

        Returns:
            `COLUMNS`, a row a name; a tweet without one, or whose picture cannot be read, has a row of its own.
        """
        rows: list[list[Any]] = []
        for first in range(0, len(tweets), TWEETS_AT_ONCE):
            progress(first / len(tweets), desc=f"Tweet {first + 1} of {len(tweets)}")
            some = tweets[first : first + TWEETS_AT_ONCE]
            pictures, errors = zip(*map(self._read_picture, some), strict=True)
            inputs = self.processor(
                text=[tweet.text for tweet in some],
                images=list(pictures) if any(picture is not None for picture in pictures) else None,
                device=self.device,
            )
            with torch.inference_mode():
                found = self.processor.post_process_entities(self.model(**inputs.to(self.device)), inputs)
            for tweet, entities, error in zip(some, found, errors, strict=True):
                rows += [
                    [tweet.id, e["word"], e["entity_group"], e["start"], e["end"], round(e["score"], 4), ""]
                    for e in entities
                ]
                if error or not entities:
                    rows.append([tweet.id, "", "", "", "", "", error])
        return rows

    def _read_picture(self, tweet: Tweet) -> tuple[Image.Image | None, str]:
        """The picture of a tweet, and why there is none where there should be one."""
        if tweet.upload is None:
            return None, tweet.error
        if self.vision_config is None:
            return None, "This model has no vision model: the tweet was read without its picture."
        try:
            return self.read_image(tweet.upload, MAX_PIXELS), ""
        except ValueError as error:
            return None, str(error)

    def _read_with_picture(self, inputs: Any) -> tuple[list[dict[str, Any]], list[float] | None]:
        """Entities, explained if the model can and the tweet is not too long, and the relevance."""
        can_explain = hasattr(self.model, "explain") and inputs.num_windows[0] <= MAX_EXPLAINED_WINDOWS
        with torch.inference_mode():
            outputs = (self.model.explain if can_explain else self.model)(**inputs.to(self.device))
        post_process = self.processor.post_process_explanation if can_explain else self.processor.post_process_entities
        [entities], [relevance] = post_process(outputs, inputs), self.processor.post_process_relevance(outputs, inputs)
        return entities, relevance


# ------------------------------------------------------------------------------------------ what the page says of it


def type_name(entity: dict[str, Any] | None) -> str:
    """The type of an entity in plain words."""
    if entity is None:
        return "no name"
    group: str = entity["entity_group"]
    return TYPE_NAMES.get(group, group.lower())


def pair_entities(reading: Reading) -> list[tuple[str, dict[str, Any] | None, dict[str, Any] | None]]:
    """Each name with its entity as read with the picture, and without; None where it is none there."""
    sides = [{(e["start"], e["end"]): e for e in side} for side in (reading.entities, reading.entities_without or [])]
    spans = sorted(sides[0].keys() | sides[1].keys())
    with_picture, without = sides
    return [
        (reading.text[start:end], with_picture.get((start, end)), without.get((start, end))) for start, end in spans
    ]


def find_changes(reading: Reading) -> list[str]:
    """What the picture changed, a phrase a name; nothing if there is no picture."""
    if reading.row is None:
        return []
    return [
        f"{name}: {type_name(before)}\u00a0→ {type_name(after)}"
        for name, after, before in pair_entities(reading)
        if type_name(before) != type_name(after)
    ]


def say_changes(reading: Reading) -> str:
    """What the picture changed, as one sentence."""
    count, changes = len(pair_entities(reading)), find_changes(reading)
    if count == 0:
        return "There is no name in this tweet." if reading.row is None else "No name, with the picture or without it."
    if reading.row is None:
        return f"{'One name' if count == 1 else f'{count} names'}, read from the words alone."
    if not changes:
        return "The picture changed nothing."
    return f"The picture changed this: {'; '.join(changes)}."


def say_windows(reading: Reading, max_length: int) -> str:
    """That the tweet was read in windows; an empty string if it was read at once."""
    if reading.num_windows == 1:
        return ""
    return (
        f"The model reads {max_length} sub-tokens at once: the {len(reading.words):,} words were read in "
        f"{reading.num_windows:,} windows that overlap."
    )


def highlight(reading: Reading, entities: list[dict[str, Any]]) -> dict[str, Any]:
    """The tweet with its entities, for `gr.HighlightedText`."""
    marks = [{"entity": type_name(e), "start": e["start"], "end": e["end"]} for e in entities]
    return {"text": reading.text, "entities": marks}


def picture_url(picture: Image.Image) -> str:
    """The picture, small, as an address that holds it."""
    shown = picture.convert("RGB")
    shown.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    file = io.BytesIO()
    shown.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def hidden_score(entity: dict[str, Any], effect: float) -> float:
    """What is left of an entity's probability when that is hidden which has this effect."""
    return min(entity["score"] * math.exp(-effect), 1.0)


def region_name(region: dict[str, Any]) -> str:
    """A region in words: what the detector calls it; of a grid, where it lies."""
    if region["class_name"] not in (None, "region"):
        return region["class_name"]
    x, y, *_ = region["box"]
    rows, columns = ("top", "middle", "bottom"), ("left", "centre", "right")
    return f"{rows[min(int(3 * y), 2)]} {columns[min(int(3 * x), 2)]}"


def say_decider(entity: dict[str, Any]) -> str:
    """What in the picture this entity owes most to, as a sentence."""
    effect, regions = entity["picture_effect"], entity["regions"]
    name, kind = entity["word"], type_name(entity)
    without = TYPE_NAMES.get(effect["entity_group"], str(effect["entity_group"]).lower())
    without = "no name" if effect["entity_group"] is None else without
    changed = effect["entity_group"] != entity["entity_group"]
    first = f"Without the picture “{name}” is read as {without}." if changed else ""
    if not changed and effect["with"] - effect["without"] < SMALL_EFFECT:
        first = f"The picture adds little: “{name}” is a {kind} without it, too."
    elif not changed:
        first = f"“{name}” is a {kind} without the picture, too, but less surely."
    best = max(regions, key=lambda region: region["effect"], default=None)
    if best is None or entity["score"] - hidden_score(entity, best["effect"]) < SMALL_EFFECT:
        return f"{first} No single region decides."
    left = say_score(hidden_score(entity, best["effect"]))
    return f"{first} Most depends on the region “{region_name(best)}”: with it hidden, only {left} remain."


def region_html(entity: dict[str, Any], region: dict[str, Any], largest: float) -> str:
    """A region on the picture: the darker, the larger its effect; dashed, what speaks against the entity."""
    x, y, h, w = region["box"]
    place = f"left:{x - w / 2:.2%};top:{y - h / 2:.2%};width:{w:.2%};height:{h:.2%}"
    shade = 0.65 * max(region["effect"], 0) / largest if largest > 0 else 0
    left = hidden_score(entity, region["effect"])
    kind = "region against" if left - entity["score"] > SMALL_EFFECT else "region"
    title = f"{region_name(region)}: {say_score(entity['score'])} with it, {say_score(left)} without"
    style = f"{place};background:rgb(79 70 229 / {shade:.2f})"
    return f'<div class="{kind}" style="{style}" title="{html.escape(title)}"></div>'


def decider_html(entity: dict[str, Any], is_open: bool) -> str:
    """One name: a sentence, its probability with the picture and without it, and the picture with shaded regions."""
    effect = entity["picture_effect"]
    kind = type_name(entity)
    bars = "".join(
        f'<div class="view"><span>{label}</span><b>{say_score(value)}</b>'
        f'<div class="bar"><div style="width:{value:.0%};background:{colour}"></div></div></div>'
        for label, value, colour in (
            (f"{kind}, with the picture", effect["with"], "#4f46e5"),
            (f"{kind}, without it", effect["without"], "#9ca3af"),
        )
    )
    shown = sorted(entity["regions"], key=lambda region: -abs(region["effect"]))
    if any(region["class_name"] not in (None, "region") for region in shown):
        shown = shown[:MAX_REGIONS]
    largest = max((region["effect"] for region in shown), default=0)
    regions = "".join(region_html(entity, region, largest) for region in shown)
    return (
        f'<details name="decider"{" open" if is_open else ""}><summary><i style="background:'
        f'{COLOURS.get(kind, "#9ca3af")}"></i>{html.escape(entity["word"])} <b>{html.escape(kind)}</b></summary>'
        f"<p>{html.escape(say_decider(entity))}</p>{bars}"
        f'<div class="seen" role="img" aria-label="the picture, its regions shaded by their effect">{regions}</div>'
        "</details>"
    )


def deciders_html(reading: Reading) -> str:
    """What in the picture decided, a name each; an empty string where there is nothing to explain."""
    explained = [entity for entity in reading.entities if entity.get("picture_effect")]
    if reading.picture is None or not explained:
        return ""
    width, height = reading.picture.size
    names = "".join(decider_html(entity, place == 0) for place, entity in enumerate(explained[:MAX_EXPLAINED]))
    style = f"--picture:url({picture_url(reading.picture)});--shape:{width}/{height}"
    return (
        f'<div class="card deciders" style="{style}"><h3>What in the picture decided</h3>{names}'
        "<p>Each region was hidden in turn, and the tweet read again. The darker a region, the more the answer "
        "depends on it; dashed in orange, one that speaks against it.</p></div>"
    )


def say_score(score: float) -> str:
    """A probability in percent; never one that only a certainty has."""
    return ("> 99%" if score > 0.99 else f"{score:.0%}").replace(" ", "\u00a0")


def table_html(reading: Reading) -> str:
    """Names, types and scores as a table."""

    def cell(entity: dict[str, Any] | None) -> str:
        name = type_name(entity)
        score = "" if entity is None else f" <b>{say_score(entity['score'])}</b>"
        return f'<td><i style="background:{COLOURS.get(name, "#9ca3af")}"></i>{html.escape(name)}{score}</td>'

    sides = 1 if reading.row is None else 2
    heads = "".join(f"<th>{head}</th>" for head in ("with the picture", "without it")[:sides])
    heads = "<th>type</th>" if reading.row is None else heads
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th>{''.join(map(cell, entities[:sides]))}</tr>"
        for name, *entities in pair_entities(reading)
    )
    return f'<div class="card"><table><tr><th>name</th>{heads}</tr>{rows}</table></div>'


def probability_html(probability: float) -> str:
    """How likely the picture is the tweet's own, as a bar."""
    return (
        '<div class="card"><h3>Does the picture belong to the tweet?</h3><div class="view"><span>it and not another '
        f'one</span><b>{say_score(probability)}</b><div class="bar"><div style="width:{probability:.0%}"></div></div>'
        "</div><p>Learned from pairs of tweets and pictures: the probability that of this picture and another tweet's "
        "this one belongs here. Where nobody can tell, it is about 50%.</p></div>"
    )


def relevance_html(relevance: list[float], views: tuple[str, ...]) -> str:
    """The relevance of the picture, a bar a view, and what it is worth."""
    bars = "".join(
        f'<div class="view"><span>{view} view ({VIEW_NAMES[view]})</span><b>{value:.2f}</b>'
        f'<div class="bar"><div style="width:{value:.0%}"></div></div></div>'
        for view, value in zip(views, relevance, strict=True)
    )
    return (
        f'<div class="card"><h3>Relevance of the picture</h3>{bars}<p>0 to 1, as the network itself reports it (|C|'
        " of the paper's Eq 8). Measured on the project's sample, it mostly follows the words of the tweet, not what "
        "the picture shows.</p></div>"
    )


# ------------------------------------------------------------------------------------------------------------ the page


async def refuse_address(url: str, **_: Any) -> NoReturn:
    """What gradio does here with an address that comes by hand in place of an upload: by itself it would fetch it."""
    raise gr.Error(
        f"This page opens no address ({html.escape(url[:100])}): upload the picture.", print_exception=False
    )


async def refuse_fetching(url: str, request: Any):
    """The same for an address behind `/gradio_api/file=`: gradio would fetch it, unless it is of a private network."""
    raise HTTPException(403, f"This page opens no address ({url[:100]}).")


def refuse_addresses() -> None:
    """Puts both refusals in the places of what gradio fetches with.

    Raises:
        RuntimeError: this gradio has no such place. A refusal set there would never be called.
    """
    for module, name, refusal in (
        (gradio.processing_utils, "async_ssrf_protected_download", refuse_address),
        (gradio.routes, "secure_url_stream_response", refuse_fetching),
    ):
        if not hasattr(module, name):
            raise RuntimeError(
                f"gradio {gr.__version__} has no {module.__name__}.{name}, so this page cannot keep it from opening "
                "addresses: install the version that README.md names."
            )
        setattr(module, name, refusal)


def read_text(text: Any) -> str:
    """The tweet, where half a character, as a browser can send it, is a question mark: it would break the answer.

    Raises:
        BadInput: it is none. What comes by hand can be anything.
    """
    if not isinstance(text, str | None):
        raise BadInput(f"The tweet is no text but {type(text).__name__}: please write one.")
    return (text or "").encode(errors="replace").decode()


def read_upload(upload: Any) -> dict[str, Any] | None:
    """Bytes and name of an uploaded file, None for none: as it came, since `gr.Image` opens whatever Pillow can.

    Raises:
        BadInput: it is no upload. Gradio checks the path only where it is said to be a file.
    """
    if upload is None:
        return None
    path = None
    with contextlib.suppress(KeyError, TypeError, ValueError, OSError):  # no such form, or no path: NUL, too long, ...
        given = Path(upload["path"]).resolve()
        if given.is_relative_to(Path(get_upload_folder()).resolve()) and given.is_file():
            path = given
    if path is None:
        raise BadInput("The picture is not here (any more): please upload it again.")
    name = upload.get("orig_name")
    return {"bytes": path.read_bytes(), "path": name if isinstance(name, str) else path.name}


COLUMNS = ("id", "name", "type", "start", "end", "score", "error")  # of the names in several tweets


def read_files(uploads: Any) -> list[Tweet]:
    """The tweets of some files: one CSV and the pictures that it names, or texts and the pictures of the same names.

    Raises:
        BadInput: they are no uploads, or it is not clear what in them is a tweet.
    """
    if not isinstance(uploads, list) or not uploads:
        raise BadInput("There is no file: please upload a CSV with a column text, or a few text files.")
    if len(uploads) > MAX_FILES:
        raise BadInput(f"There are {len(uploads)} files, the limit is {MAX_FILES}: please send fewer at a time.")
    files: dict[str, dict[str, Any]] = {}
    for upload in uploads:
        file = read_upload(upload)
        if file is None or file["path"] in files:
            raise BadInput("There are two files of one name: please give each its own.")
        files[file["path"]] = file
    tables = [name for name in files if name.lower().endswith(".csv")]
    texts = [name for name in files if name.lower().endswith(".txt")]
    if len(tables) > 1 or tables and texts:
        raise BadInput("Please upload one CSV alone, or text files alone; and pictures.")
    if not tables and not texts:
        raise BadInput("There is neither a CSV file nor a text file (.txt) among the files.")
    tweets = read_table(tables[0], files) if tables else [read_text_file(name, files) for name in texts]
    if len(tweets) > MAX_TWEETS:
        raise BadInput(f"There are {len(tweets)} tweets, the limit is {MAX_TWEETS}: please send fewer at a time.")
    for tweet in tweets:
        length = len(tweet.text if isinstance(tweet.text, str) else " ".join(tweet.text))
        if length > MAX_CHARACTERS:
            raise BadInput(f"Tweet {tweet.id:.40} has {length} characters, the limit is {MAX_CHARACTERS}.")
    return tweets


def decode(file: dict[str, Any]) -> str:
    """The text of a file.

    Raises:
        BadInput: it is none.
    """
    try:
        return file["bytes"].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{file['path']} is no text in UTF-8: please save it so.") from error


def read_text_file(name: str, files: dict[str, dict[str, Any]]) -> Tweet:
    """A file that is one tweet; a picture that is called as it is, but for the ending, is its."""
    stem = Path(name).stem
    pictures = [other for other in files if other != name and Path(other).stem == stem]
    return Tweet(stem, decode(files[name]).strip(), files[pictures[0]] if pictures else None, "")


def read_table(name: str, files: dict[str, dict[str, Any]]) -> list[Tweet]:
    """The rows of a CSV: `text` or `tokens` (words: a JSON list, or between spaces), perhaps `id` and `image`.

    Raises:
        BadInput: it has no such column, or is no CSV.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(decode(files[name]), newline="")))
    except csv.Error as error:
        raise BadInput(f"{name} cannot be read as CSV ({error}).") from error
    columns = list(rows[0]) if rows else []
    kind = next((kind for kind in ("text", "tokens") if kind in columns), None)
    if kind is None:
        found = ", ".join(map(str, columns))
        raise BadInput(f"{name} has the columns {found:.200} and no row that can be read: it needs text or tokens.")
    tweets = []
    for number, row in enumerate(rows, 1):
        image = (row.get("image") or "").strip()
        upload = files.get(Path(image).name) if image else None
        error = "" if upload or not image else f"{image:.100} is not among the files: read without it."
        text = row[kind] or ""
        tweets.append(
            Tweet(row.get("id") or str(number), read_words(text) if kind == "tokens" else text, upload, error)
        )
    return tweets


def read_words(cell: str) -> list[str]:
    """Words, as a JSON list or between spaces."""
    with contextlib.suppress(ValueError, RecursionError):
        words = json.loads(cell)
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            return words
    return cell.split()


def write_table(rows: list[list[Any]]) -> str:
    """The path of a CSV of names, for the visitor to download."""
    folder = tempfile.mkdtemp(dir=get_upload_folder())
    path = Path(folder) / "names.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return str(path)


CSS = """
.gradio-container .main { width: 100%; max-width: 1152px !important; margin: 0 auto; padding: 16px; }
#title h1 { font-size: 2rem; margin: 0; letter-spacing: -0.02em; }
#title p { margin: 0.2rem 0 0; color: var(--body-text-color-subdued); }
#columns { display: grid; gap: 16px; align-items: start; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr);
  grid-template-rows: auto 1fr; grid-template-areas: "form answer" "examples answer"; }
#form { grid-area: form; } #answer { grid-area: answer; } #examples { grid-area: examples; }
#answer .html-container { padding: 0; }
#answer .prose { overflow-wrap: anywhere; }
#answer .token .label { display: inline-block; line-height: 1.5; white-space: nowrap; }
footer .divider { display: none; }
.dark #answer .token.highlighted { color: white !important; }
.verdict { padding: 0.9rem 1.1rem; border-radius: 8px; font-size: 1.1rem; line-height: 1.4; font-weight: 600;
  background: var(--block-background-fill); border-left: 5px solid #9ca3af; }
.verdict.changed { border-color: #6366f1; background: #6366f122; }
.verdict.bad { border-color: #ef4444; background: #ef444422; }
.verdict small { display: block; margin-top: 0.4rem; font-weight: 400; font-size: 0.9rem; }
.card { padding: 0.7rem 1.1rem; border-radius: 8px; background: var(--block-background-fill); }
.card h3 { margin: 0.2rem 0 0.5rem; font-size: 1rem; }
.card p { margin: 0.5rem 0 0; font-size: 0.85rem; color: var(--body-text-color-subdued); }
.prose .card :is(table, tr, th, td) { border: 0 !important; }
.prose .card table { width: 100%; margin: 0; table-layout: fixed; font-size: 0.95rem; }
.prose .card :is(th, td) { padding: 0.35rem 0.5rem 0.35rem 0; text-align: left; vertical-align: baseline; }
.prose .card th:first-child { width: 28%; }
.prose .card tr:first-child th { color: var(--body-text-color-subdued); font-weight: 400; font-size: 0.85rem; }
.card i { display: inline-block; width: 0.7em; height: 0.7em; border-radius: 50%; margin-right: 0.45em; }
.view { display: grid; grid-template-columns: 1fr auto; gap: 0.15rem 0.5rem; margin-top: 0.4rem; font-size: 0.95rem; }
.bar { grid-column: 1 / -1; height: 7px; border-radius: 4px; background: var(--border-color-primary); }
.bar div { height: 100%; border-radius: 4px; background: #6366f1; }
.deciders summary { cursor: pointer; padding: 0.35rem 0; }
.deciders summary b { font-weight: 400; color: var(--body-text-color-subdued); }
.deciders details p { margin: 0.2rem 0 0.4rem; font-size: 0.95rem; color: var(--body-text-color); }
.seen { position: relative; width: 100%; max-width: 560px; margin-top: 0.7rem; aspect-ratio: var(--shape);
  overflow: hidden; background: var(--picture) 0 0 / 100% 100%; border-radius: 6px; }
.region { position: absolute; box-sizing: border-box; border: 1px solid rgb(255 255 255 / 0.75);
  outline: 1px solid rgb(0 0 0 / 0.25); }
.region.against { border: 2px dashed #f97316; }
#examples td { padding: 0.35rem 0.7rem; text-align: left; }
#examples td .container { width: 72px; height: 54px; }
#examples td img { object-fit: contain; }
@media (max-width: 760px) {
  #columns { grid-template-columns: minmax(0, 1fr); grid-template-areas: "form" "answer" "examples"; }
}
"""
WELCOME = """<div class="card"><h3>What you see here</h3><ol>
<li>The model marks the names in a tweet: persons, locations, organisations and others.</li>
<li>It reads the tweet twice, with its picture and without it.</li>
<li>Here it says what the picture changed, and which part of it decided. Click on an example to see it.</li>
</ol></div>"""


def build_page(reader: Reader) -> gr.Blocks:
    """The page of one model.

    Raises:
        RuntimeError: gradio cannot be kept from opening addresses.
    """
    refuse_addresses()
    has_vision_model = reader.vision_config is not None
    # A model without a vision model has each tweet once.
    examples = EXAMPLES if has_vision_model else [[tweet] for tweet in dict(EXAMPLES)]

    def answer(text: str, upload: dict[str, Any] | None = None, progress: gr.Progress = gr.Progress()):  # noqa: B008 (gradio finds it by its default)
        hidden = gr.update(visible=False)
        try:
            reading = reader.read(read_text(text), read_upload(upload), progress)
        except BadInput as error:
            return [f'<div class="verdict bad">{html.escape(str(error))}</div>', *[hidden] * 5]
        deciders = deciders_html(reading)
        sentence, note = say_changes(reading), say_windows(reading, reader.processor.max_length)
        kind = "verdict changed" if find_changes(reading) else "verdict"
        has_picture = reading.row is not None
        views, matching = reader.model.config.visual_views, reader.model.config.to_dict().get("relevance_matching")
        relevance = reading.relevance or []
        if relevance:
            learned = matching not in (None, "none")
            relevance = probability_html(relevance[0]) if learned else relevance_html(relevance, views)
        return [
            f'<div class="{kind}">{html.escape(sentence)}{note and f"<small>{html.escape(note)}</small>"}</div>',
            gr.update(
                value=highlight(reading, reading.entities),
                label="With the picture" if has_picture else "The tweet",
                visible=True,
            ),
            gr.update(value=highlight(reading, reading.entities_without or []), visible=True)
            if has_picture
            else hidden,
            gr.update(value=table_html(reading), visible=True) if pair_entities(reading) else hidden,
            gr.update(value=deciders, visible=True) if deciders else hidden,
            gr.update(value=relevance, visible=True) if relevance else hidden,
        ]

    def answer_files(uploads: Any = None, progress: gr.Progress = gr.Progress()):  # noqa: B008
        try:
            tweets = read_files(uploads)
            rows = reader.read_many(tweets, progress)
        except BadInput as error:
            bad = f'<div class="verdict bad">{html.escape(str(error))}</div>'
            return [bad, gr.update(visible=False), gr.update(visible=False)]
        count, failed = sum(row[1] != "" for row in rows), sum(row[-1] != "" for row in rows)
        said = f"{count} names in {len(tweets)} tweets."
        said += f"<small>{failed} pictures could not be read, see the last column.</small>" if failed else ""
        return [
            f'<div class="verdict">{said}</div>',
            gr.update(value=rows, visible=True),
            gr.update(value=write_table(rows), visible=True),
        ]

    def find_names_in_files(files: list) -> list:
        """The names in several tweets, for programs.

        Args:
            files: one CSV (`text` or `tokens`, perhaps `id` and `image`, the name of a picture) and its pictures, or
                text files and pictures of the same names; each as `handle_file` of gradio_client gives it.

        Returns:
            A dict a name: `id`, `name`, `type`, `start`, `end`, `score`, `error`. A tweet without a name has one with
            empty ones.
        """
        try:
            rows = reader.read_many(read_files(files), lambda *_, **__: None)
        except BadInput as error:
            raise gr.Error(str(error), print_exception=False) from error
        return [dict(zip(COLUMNS, row, strict=True)) for row in rows]

    def find_names(text: str, picture: dict | None = None) -> dict:
        """The names in a tweet, for programs: as read with its picture, and as read without it.

        Args:
            text: a tweet.
            picture: a file, as `handle_file` of gradio_client gives it; None for no picture.

        Returns:
            `entities`, each with `entity_group`, `word`, `start`, `end`, `score` and, with a picture, `picture_effect`
            and `regions`, what in it decided; `entities_without` and `relevance`, None where there is no picture.
        """
        try:
            if picture is not None and not has_vision_model:
                raise BadInput("This model has no vision model: it reads the words alone, so leave the picture out.")
            reading = reader.read(read_text(text), read_upload(picture), lambda *_, **__: None)
        except BadInput as error:
            raise gr.Error(str(error), print_exception=False) from error
        return {name: getattr(reading, name) for name in ("entities", "entities_without", "relevance")}

    with gr.Blocks(title="HamLearning", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML(
            "<h1>HamLearning</h1><p>Which names are in a tweet, and what does its picture say about them?</p>",
            elem_id="title",
        )
        with gr.Tab("One tweet"):
            with gr.Row(elem_id="columns"):
                with gr.Column(elem_id="form"):
                    text = gr.Textbox(label="Tweet", lines=3, max_lines=8, placeholder="Write a tweet")
                    picture = gr.Image(
                        label="Its picture", sources=["upload", "clipboard"], height=240, visible=has_vision_model
                    )
                    if not has_vision_model:
                        gr.Markdown(
                            "This model has no vision model: it reads the words alone, so it takes no picture."
                        )
                    form = [text, picture] if has_vision_model else [text]
                    button = gr.Button("Find the names", variant="primary")
                with gr.Column(elem_id="answer"):
                    verdict = gr.HTML(WELCOME)
                    with gr.Row():
                        with_picture = gr.HighlightedText(color_map=COLOURS, visible=False)
                        without = gr.HighlightedText(color_map=COLOURS, label="Without it", visible=False)
                    table = gr.HTML(visible=False)
                    deciders = gr.HTML(visible=False)
                    relevance = gr.HTML(visible=False)
                with gr.Column(elem_id="examples"):
                    dataset = gr.Dataset(
                        components=form,
                        samples=examples,
                        layout="table",
                        label="Examples",
                        type="index",
                    )
        with gr.Tab("Many tweets"):
            gr.Markdown(
                "A CSV with the column `text` (or `tokens`), perhaps `id` and `image`, and the pictures that it "
                f"names; or text files, and pictures of the same names. At most {MAX_TWEETS} tweets."
            )
            files = gr.File(label="Files", file_count="multiple", height=160, elem_id="files")
            many_button = gr.Button("Find all names", variant="primary")
            many_verdict = gr.HTML(elem_id="many")
            names = gr.Dataframe(headers=list(COLUMNS), interactive=False, visible=False, wrap=True, elem_id="names")
            download = gr.DownloadButton("Download as CSV", visible=False, elem_id="download")
        alone: dict[str, Any] = {"concurrency_id": "reader", "concurrency_limit": 1}
        run = {
            "fn": answer,
            "inputs": form,
            "outputs": [verdict, with_picture, without, table, deciders, relevance],
            "preprocess": False,
            "show_progress_on": verdict,
            "scroll_to_output": True,
            "api_visibility": "private",
            **alone,
        }
        button.click(**run)
        text.submit(**run)
        dataset.click(
            lambda index: examples[index] if has_vision_model else examples[index][0],
            dataset,
            form,
            show_progress="hidden",
            api_visibility="private",
        ).then(**run)
        many_button.click(
            answer_files,
            files,
            [many_verdict, names, download],
            preprocess=False,
            show_progress_on=many_verdict,
            api_visibility="private",
            **alone,
        )
        gr.api(find_names, api_name="find_names", **alone)
        gr.api(find_names_in_files, api_name="find_names_in_files", **alone)
    # One request at a time, as gradio's queue does it for a function; nothing may pass by the queue, as it could
    # outside of the Hub.
    return page.queue(max_size=MAX_WAITING, api_open=False)


if __name__ == "__main__":
    repo = os.environ.get("HAMLEARNING_MODEL")
    if not repo:
        raise SystemExit("HAMLEARNING_MODEL is not set: give the Hub id or the folder of a HamLearning model.")
    os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", str(MAX_WAITING))  # remembered; by itself 10,000
    try:
        reader = Reader(repo, os.environ.get("HAMLEARNING_REVISION"))
    except (OSError, ValueError) as error:  # a name that no repo can have is a ValueError
        raise SystemExit(f"HAMLEARNING_MODEL={repo!r} cannot be loaded: {error}") from error
    build_page(reader).launch(
        theme=gr.themes.Soft(primary_hue="indigo", font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        css=CSS,
        max_file_size=MAX_BYTES,
        state_session_capacity=MAX_SESSIONS,  # by itself 10,000, and whoever asks names a session as they like
        allowed_paths=[str(FOLDER)],  # wherever the app is started from
        run_history=False,
        footer_links=["gradio"],
    )
