"""What a model found, as the files of annotation tools, evaluators and spaCy."""

import json
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from hamlearning.data.files import write_text
from hamlearning.data.picture_files import find_images, picture_of
from hamlearning.data.splitting import is_without_spaces
from words_hamlearning import join_words


@dataclass
class Found:
    """What was found in one tweet.

    Attributes:
        id: Of the tweet.
        tokens: Its words.
        tags: A predicted tag a word, IOB2.
        entities: `type`, `start` and `end` in words (`end` behind the last), `score`.
        text: The words as one text.
        offsets: (start, end) of each word in it.
        picture: The path of its picture, below the folder of pictures.
        relevance: |C^r| a view.
    """

    id: str
    tokens: list[str]
    tags: list[str]
    entities: list[dict[str, Any]]
    text: str
    offsets: list[tuple[int, int]]
    picture: Path | None = None
    relevance: list[float] | None = None

    def spans(self) -> list[dict[str, Any]]:
        """`type`, `start` and `end` in characters, `text` and `score` of each entity."""
        places = [(self.offsets[e["start"]][0], self.offsets[e["end"] - 1][1]) for e in self.entities]
        return [
            {
                "type": entity["type"],
                "start": start,
                "end": end,
                "text": self.text[start:end],
                "score": entity["score"],
            }
            for entity, (start, end) in zip(self.entities, places, strict=True)
        ]


def write_format(
    predictions: Path, format: str, image_dir: str | None = None, image_subfolders: bool = False, model: str = ""
) -> Path:
    """Write the predictions of a run in the format of another program, beside them.

    ```python
    >>> write_format(Path("outputs/found/predictions_test.jsonl"), "label-studio", model="outputs/demo")
    PosixPath('outputs/found/entities_test.json')
    ```

    Args:
        predictions: `predictions_*.jsonl` of a run.
        format: One of `FORMATS`.
        image_dir: Folder of the pictures, for Label Studio's tasks.
        image_subfolders: Whether those of its folders are among them.
        model: What Label Studio shows as the version of the model.

    Returns:
        The file, or the folder (brat).

    Raises:
        ValueError: A token or an id cannot stand in this format; the message names the tweet.
    """
    found = read_found(predictions, image_dir, image_subfolders)
    stem = predictions.stem.replace("predictions", "entities")
    return FORMATS[format](found, predictions.parent, stem, model)


def read_found(predictions: Path, image_dir: str | None = None, image_subfolders: bool = False) -> list[Found]:
    """What a run found, tweet by tweet; see `write_format`."""
    with predictions.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    form = "characters" if is_without_spaces([row["tokens"] for row in rows]) else "punctuation"
    pictures = {} if image_dir is None else find_images(Path(image_dir), image_subfolders)
    found = []
    for row in rows:
        text, offsets = join_words(row["tokens"], form)
        picture = picture_of(row["id"], pictures)
        if picture is not None:
            picture = Path(Path(str(image_dir)).resolve().name) / picture.relative_to(str(image_dir))
        tweet = (row["id"], row["tokens"], row["predictions"], row["entities"])
        found.append(Found(*tweet, text, offsets, picture, row.get("relevance")))
    return found


def write_label_studio(found: Sequence[Found], folder: Path, stem: str, model: str) -> Path:
    """Tasks with predictions, and beside them the labelling interface that shows them."""
    tasks = [{"id": number, **_task(tweet, model)} for number, tweet in enumerate(found, start=1)]
    path = folder / f"{stem}.json"
    write_text(path, json.dumps(tasks, ensure_ascii=False, indent=1) + "\n")
    types = sorted({entity["type"] for tweet in found for entity in tweet.entities})
    labels = "".join(f"    <Label value={quoteattr(type_)}/>\n" for type_ in types)
    image = '  <Image name="picture" value="$image"/>\n' if any(tweet.picture for tweet in found) else ""
    interface = f'<View>\n{image}  <Labels name="label" toName="text">\n{labels}  </Labels>\n'
    write_text(folder / f"{stem}.xml", f'{interface}  <Text name="text" value="$text"/>\n</View>\n')
    return path


def _task(tweet: Found, model: str) -> dict[str, Any]:
    data: dict[str, Any] = {"id": tweet.id, "text": tweet.text, "tokens": tweet.tokens}
    if tweet.picture is not None:  # as Label Studio serves the files of its own machine
        data["image"] = f"/data/local-files/?d={quote(tweet.picture.as_posix())}"
    result = [
        {
            "id": uuid.uuid5(uuid.NAMESPACE_OID, f"{tweet.id} {span['start']}").hex[:10],
            "from_name": "label",
            "to_name": "text",
            "type": "labels",
            "score": span["score"],
            "value": {name: span[name] for name in ("start", "end", "text")} | {"labels": [span["type"]]},
        }
        for span in tweet.spans()
    ]
    scores = [span["score"] for span in result]
    prediction = {"model_version": model, "score": min(scores, default=1.0), "result": result}
    return {"data": data, "predictions": [prediction]}


def write_conll(found: Sequence[Found], folder: Path, stem: str, model: str) -> Path:
    """A line `token<TAB>tag` a word, as the public sets are released."""
    lines = []
    for tweet in found:
        _check(tweet, [tweet.id, *tweet.tokens], "\n\t\r", "conll")
        if not all(tweet.tokens) or not tweet.id:
            raise ValueError(f"tweet {tweet.id!r}: an empty id or token cannot stand in conll: take --format jsonl")
        lines += [f"IMGID:{tweet.id}", *map("\t".join, zip(tweet.tokens, tweet.tags, strict=True)), ""]
    path = folder / f"{stem}.conll"
    write_text(path, "\n".join(lines) + "\n")
    return path


def write_jsonl(found: Sequence[Found], folder: Path, stem: str, model: str) -> Path:
    """A line a tweet: its words with predicted tags, and its text with spans."""
    lines = []
    for tweet in found:
        row = {"id": tweet.id, "text": tweet.text, "tokens": tweet.tokens, "ner_tags": tweet.tags}
        lines.append(_json(row | {"spans": tweet.spans(), "relevance": tweet.relevance}))
    path = folder / f"{stem}.jsonl"
    write_text(path, "".join(lines))
    return path


def write_brat(found: Sequence[Found], folder: Path, stem: str, model: str) -> Path:
    """A text and a file of standoff annotations a tweet, and the configuration of their types."""
    target = folder / f"{stem}_brat"
    texts = {}
    names: dict[str, str] = {}
    for number, tweet in enumerate(found, start=1):
        name = re.sub(r"[^\w.-]", "_", tweet.id) or str(number)
        name = f"{name}-{number}" if name.lower() in names else name  # also where a disk does not tell cases
        names[name.lower()] = tweet.id
        lines = []
        for place, span in enumerate(tweet.spans(), start=1):
            _check(tweet, [span["type"]], " \n\t", "brat")
            shown = re.sub(r"\s", " ", span["text"])
            lines.append(f"T{place}\t{span['type']} {span['start']} {span['end']}\t{shown}")
            lines.append(f"#{place}\tAnnotatorNotes T{place}\tscore {span['score']}")
        texts |= {f"{name}.txt": tweet.text, f"{name}.ann": "".join(f"{line}\n" for line in lines)}
    types = sorted({entity["type"] for tweet in found for entity in tweet.entities})
    texts["annotation.conf"] = "\n".join(["[entities]", *types, "[relations]", "[events]", "[attributes]", ""])
    if target.exists():
        shutil.rmtree(target)
    target.mkdir()
    for name, text in texts.items():
        write_text(target / name, text)
    return target


def write_spacy(found: Sequence[Found], folder: Path, stem: str, model: str) -> Path:
    """A line a tweet, as `Doc.to_json` writes it and `Doc.from_json` reads it."""
    lines = []
    for tweet in found:
        ents = [
            # A score as text: `from_json` takes no other kind of what it does not know.
            {"start": span["start"], "end": span["end"], "label": span["type"], "score": str(span["score"])}
            for span in tweet.spans()
        ]
        tokens = [{"id": place, "start": a, "end": b} for place, (a, b) in enumerate(tweet.offsets)]
        lines.append(_json({"id": tweet.id, "text": tweet.text, "ents": ents, "tokens": tokens}))
    path = folder / f"{stem}.spacy.jsonl"
    write_text(path, "".join(lines))
    return path


def _json(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _check(tweet: Found, parts: Iterable[str], refused: str, format: str) -> None:
    """ValueError where a part has what the format has its own use for."""
    for part in parts:
        sign = next((sign for sign in part if sign in refused), None)
        if sign is not None:
            raise ValueError(f"tweet {tweet.id!r}: {part!r} has {sign!r}, which {format} has no place for")


FORMATS: dict[str, Callable[[Sequence[Found], Path, str, str], Path]] = {
    "label-studio": write_label_studio,
    "conll": write_conll,
    "jsonl": write_jsonl,
    "brat": write_brat,
    "spacy": write_spacy,
}
