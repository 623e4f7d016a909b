"""Label Studio's JSON export: tasks, each with its data and what one or several people have annotated."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from hamlearning.data.picture_files import IMAGE_SUFFIXES
from hamlearning.data.reading import Reading, ReadingOptions
from hamlearning.data.spans import checked_text, cut, tag_words
from hamlearning.data.splitting import splitting_of_raw
from hamlearning.data.text_rows import TEXT_KEYS, Row, Texts, beside, file_name
from words_hamlearning import join_words, split_words


SPAN_TYPES = ("labels", "hypertextlabels", "paragraphlabels")  # of text; others are regions of pictures or sounds
UPLOADED = re.compile(r"(?<=/)[0-9a-f]{8}-(?=[^/]+$)")  # what Label Studio puts before the name of an uploaded file
OF_THE_EXPORT = {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time"}


def is_task(value: Any) -> bool:
    """Whether a row is a task."""
    work = ("annotations", "completions", "predictions")
    return isinstance(value, Mapping) and isinstance(value.get("data"), Mapping) and any(key in value for key in work)


def is_short_row(value: Any) -> bool:
    """Whether a row is one of the exports JSON-MIN, CSV or TSV: one annotation of a task."""
    return isinstance(value, Mapping) and {"id", "annotator", "annotation_id"} <= value.keys()


def read_short_rows(rows: Sequence[Row], options: ReadingOptions, format: str) -> Reading:
    """Read rows of the exports JSON-MIN, CSV and TSV, as `read_tasks` reads the tasks that they are of.

    Raises:
        ValueError: See `read_tasks`.
    """
    tasks: dict[str, Row] = {}
    for row in rows:
        if not is_short_row(row.value):
            raise ValueError(f"{row.place}: {cut(row.value)} is no row of this export: it has no annotation_id")
        regions = [
            {"type": "labels", "value": region}
            for value in row.value.values()
            if isinstance(value, list)
            for region in value
            if isinstance(region, Mapping) and ("labels" in region or "hypertextlabels" in region)
        ]
        kept = {key: value for key, value in row.value.items() if isinstance(value, str) or key == "tokens"}
        data = {key: value for key, value in kept.items() if key not in OF_THE_EXPORT}
        task = {"id": row.value["id"], "data": data, "annotations": []}
        task = tasks.setdefault(str(row.value["id"]), row._replace(value=task)).value
        if row.value["annotation_id"] not in (None, ""):
            task["annotations"].append({"completed_by": row.value["annotator"], "result": regions})
    return read_tasks(list(tasks.values()), options, format)


def read_tasks(rows: Sequence[Row], options: ReadingOptions, format: str) -> Reading:
    """Read tasks: the text, its spans, and its picture if it has one.

    The id of a text is `id` of the task's data; else the name of its picture's file, so that a folder of the pictures
    can be given; else that of the task. `tokens` among the data, of which the text is made, are its words. A task that
    was skipped, or that nobody has annotated, is left out and counted; one that somebody submitted without a region
    is a text without entities. Predictions are not read.

    Args:
        rows: At least one.
        options: `annotator` is a number, an e-mail address or a name; `token_column` names the text among the data.
        format: What the file is called.

    Raises:
        ValueError: A row is no task, several people have annotated one and no annotator is chosen, or a region is none
            of the text; the message names the task.
    """
    texts = Texts()
    work: list[tuple[Row, Mapping[str, Any]]] = []
    for row in rows:
        if not is_task(row.value):
            raise ValueError(f"{row.place}: {cut(row.value)} is no task of Label Studio: export the project as JSON")
        row = row._replace(place=f"{row.file}, task {row.value.get('id', row.number)}")
        done = _annotations(row)
        work += [(row, annotation) for annotation in done]
        if not done:
            texts.left_out.append(f"{row.place}: nobody has annotated it")
    if options.annotator is not None and work:
        work = _of_annotator(work, options.annotator, texts)
    by_task: dict[str, list[str]] = defaultdict(list)
    for row, annotation in work:
        by_task[row.place].append(_names(annotation)[0])
    for place, names in by_task.items():
        if len(names) > 1:
            # Where all have one name, no name tells which is meant.
            remedy = "choose one of them, --annotator, or delete the others"
            remedy = remedy if len(set(names)) > 1 else "delete all but one of them"
            raise ValueError(f"{place} has {len(names)} annotations, by {', '.join(names)}: {remedy}")
    if options.word_splitting is None:
        options = options._replace(word_splitting=splitting_of_raw(_strings([row for row, _ in work])))
    texts.word_splitting = options.word_splitting
    pictures = _picture_names([row for row, _ in work])
    for (row, annotation), picture in zip(work, pictures, strict=True):
        _read_task(row, annotation, picture, options, texts)
    return texts.reading(format)


def _annotations(row: Row) -> list[Mapping[str, Any]]:
    """Those that somebody has submitted."""
    found = row.value.get("annotations", row.value.get("completions")) or []
    if not isinstance(found, list) or not all(isinstance(annotation, Mapping) for annotation in found):
        raise ValueError(f"{row.place} has {cut(found)} as annotations: export the project as JSON, not as JSON-MIN")
    return [annotation for annotation in found if not (annotation.get("was_cancelled") or annotation.get("skipped"))]


def _names(annotation: Mapping[str, Any]) -> list[str]:
    """How the one who made it is called."""
    by = annotation.get("completed_by")
    if isinstance(by, Mapping):
        full = " ".join(str(by[key]) for key in ("first_name", "last_name") if by.get(key))
        return [str(name) for name in (by.get("email"), by.get("id"), by.get("username"), full) if name] or ["unknown"]
    return ["unknown" if by is None else str(by)]


def _of_annotator(
    work: list[tuple[Row, Mapping[str, Any]]], annotator: str, texts: Texts
) -> list[tuple[Row, Mapping[str, Any]]]:
    names = [_names(annotation) for _, annotation in work]
    own = [pair for pair, called in zip(work, names, strict=True) if annotator in called]
    if not own:
        known = ", ".join(sorted({called[0] for called in names}))
        raise ValueError(f"{work[0][0].file} has nothing of the annotator {annotator!r}, only of {known}")
    kept = {row.place for row, _ in own}
    others = dict.fromkeys(row.place for row, _ in work if row.place not in kept)
    texts.left_out += [f"{place}: {annotator} has not annotated it" for place in others]
    return own


def _read_task(row: Row, annotation: Mapping[str, Any], picture: str, options: ReadingOptions, texts: Texts) -> None:
    data = row.value["data"]
    result = annotation.get("result") or []
    if not isinstance(result, list) or not all(isinstance(region, Mapping) for region in result):
        raise ValueError(f"{row.place} has {cut(result)} as result: export the project as JSON")
    regions = [region for region in result if region.get("type") in SPAN_TYPES]
    text = _text(row, data, regions, options.token_column)
    spans = []
    for region in regions:
        value = region.get("value")
        if not isinstance(value, Mapping) or isinstance(value.get("start"), str):
            raise ValueError(f"{row.place}: the region {cut(value)} is none of a plain text: label a Text, not HTML")
        spans.append(
            {key: value.get(key) for key in ("start", "end", "text")}
            | {"label": value.get("labels", value.get("hypertextlabels"))}
        )
    places = _places(checked_text(text, row.place), data.get("tokens"), options.word_splitting or "punctuation")
    words = tag_words(text, spans, places, row.place)
    texts.widened += words.widened
    place = _place_of_picture(row)
    image = None if place is None else {"bytes": None, "path": _found(row.file, place)}
    given = (data.get("id"), picture, row.value.get("id"))
    id_ = next((value for value in given if value not in (None, "")), f"{row.file.stem}-{row.number}")
    texts.add(row.place, str(id_), words.tokens, words.tags, image)


def _places(text: str, tokens: Any, word_splitting: str) -> list[tuple[int, int]]:
    """Where the words of a text stand: those that its task brings, as `hamlearning predict` writes it, or new ones."""
    if isinstance(tokens, list) and tokens and all(isinstance(token, str) and token for token in tokens):
        for form in ("punctuation", "characters"):
            joined, places = join_words(tokens, form)
            if joined == text:
                return places
    return split_words(text, word_splitting)


def _text(row: Row, data: Mapping[str, Any], regions: list[Mapping[str, Any]], wanted: str | None) -> str:
    """The text among the data of a task: the one that its labels are of."""
    objects = sorted({str(region.get("to_name")) for region in regions})
    if len(objects) > 1:
        raise ValueError(f"{row.place} has labels of several texts, {', '.join(objects)}: give each text its own task")
    pictures = [key for key, value in data.items() if _is_picture(value)]
    strings = [key for key, value in data.items() if isinstance(value, str) and key not in pictures and key != "id"]
    named = [key for key in ([wanted] if wanted else (*TEXT_KEYS, *objects)) if key in strings]
    if not named and (wanted is not None or len(strings) != 1):
        raise ValueError(f"{row.place} has the data {cut(dict(data))}: say which is the text, --token_column")
    return data[(named or strings)[0]]


def _strings(rows: Sequence[Row]) -> list[str]:
    """The texts among the data of all tasks."""
    values = [value for row in rows for key, value in row.value["data"].items() if key != "id"]
    return [value for value in values if isinstance(value, str) and not _is_picture(value)]


def _place_of_picture(row: Row) -> str | None:
    """Where a task says that its picture is."""
    data = row.value["data"]
    keys = ["image"] if isinstance(data.get("image"), str) else [key for key in data if _is_picture(data[key])]
    if len(keys) > 1:
        raise ValueError(f"{row.place} has several pictures, {', '.join(keys)}: leave one, called image")
    return data[keys[0]] if keys and data[keys[0]] else None


def _is_picture(value: Any) -> bool:
    return isinstance(value, str) and (
        value.startswith("data:image/") or Path(file_name(_plain(value))).suffix.lower() in IMAGE_SUFFIXES
    )


def _plain(place: str) -> str:
    """A place as Label Studio writes it as a path: its own local files are behind `?d=`."""
    if "\n" in place or len(place) >= 4096:
        return ""
    local = re.fullmatch(r"(?:https?://[^/]+)?/data/local-files/\?d=(.+)", place)
    return unquote(local[1]) if local else place


def _found(file: Path, place: str) -> str:
    """The picture of this place beside the export, else the place as it is written."""
    path = _plain(place) or place
    upload = path.rpartition("/data/")[2] if "/data/upload/" in path else path
    for name in (path, upload, file_name(upload), UPLOADED.sub("", f"/{file_name(upload)}").lstrip("/")):
        if name and "://" not in name and (found := beside(file, name)) != name:
            return found
    return path


def _picture_names(rows: Sequence[Row]) -> list[str]:
    """The name of each task's picture as its owner called it, if no two were uploaded by one name."""
    names = [file_name(_plain(_place_of_picture(row) or "")) for row in rows]
    own = [UPLOADED.sub("", f"/{name}").lstrip("/") for name in names]
    stored = {(called, name) for called, name in zip(own, names, strict=True)}
    twice = {called for called, count in Counter(called for called, _ in stored).items() if count > 1}
    return [name if called in twice else called for called, name in zip(own, names, strict=True)]
