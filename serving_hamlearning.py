"""A model as a service: tweets come in as JSON, with their pictures or without, entities go out as JSON.

An Inference Endpoint, `hamlearning serve` and the Space have their limits and refusals from here. Nothing of the
project is imported: an endpoint has this file on its path, outside of any package.
"""

import base64
import ctypes
import json
import logging
import math
import os
import re
import sys
import threading
from typing import Any

from transformers import pipeline


logger = logging.getLogger(__name__)

BASE64 = re.compile(rb"[A-Za-z0-9+/]*={0,2}")  # of a multiple of four characters
DATA_URL = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)
PIXEL = b"GIF87a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"  # the smallest picture


class RequestError(ValueError):
    """The client asked for what cannot be answered; the message says why in one sentence."""


class EndpointHandler:
    """A model as a service.

    ```python
    >>> service = EndpointHandler("outputs/demo")
    >>> def ask(inputs, **parameters):
    ...     return service({"inputs": inputs, "parameters": parameters})
    >>> picture = base64.b64encode(open("game.jpg", "rb").read()).decode()
    >>> ask({"text": "Loved watching the Huskies warm up", "image": picture})
    [{'entity_group': 'ORG', 'word': 'Huskies', 'start': 19, 'end': 26, 'score': 0.97, ...}]
    >>> ask(["just a text", {"text": "and one", "image": None}], threshold=0.5)
    [[], []]
    >>> ask({"text": "Loved it", "image": "https://example.org/game.jpg"})
    {'error': "inputs.image is 'https://example.org/game.jpg', which is no base64: give the base64 of a picture's ..."}
    ```

    `inputs` is a tweet or a list of tweets. A tweet is a string, or an object with `text` (or `tokens`, its words) and
    perhaps `image`: base64, bare or behind `data:image/png;base64,`. No URL and no file is ever opened; other keys are
    not read. `parameters` may be left out; they are `aggregation_strategy`, `threshold`, `ignore_labels`,
    `is_split_into_words` and `stride` of `HamLearningPipeline`, which says what the answer holds. One tweet that
    cannot be answered makes an error of the whole request.

    Who runs it sets the limits as environment variables, which win over arguments: `HAMLEARNING_MAX_TWEETS=8`.

    Args:
        path: folder of the model's repo.
        max_text_length: most characters of a text.
        max_image_bytes: most bytes of a picture's file.
        max_total_image_bytes: most bytes of all the pictures of a request.
        max_pixels: most pixels of a picture, width times height: a small file can hold many, and decode for long.
        max_tweets: most tweets of a request.
        batch_size: most tweets that go through the network together. A batch also ends with the picture that brings
            its pictures to `max_pixels` in all, so that no list needs the memory of more than two of the largest.

    Raises:
        ValueError: a limit is no whole number, or less than 1.
        OSError: the repo lacks a file.
    """

    def __init__(
        self,
        path: str,
        max_text_length: int = 10_000,
        max_image_bytes: int = 10 * 2**20,
        max_total_image_bytes: int = 64 * 2**20,
        max_pixels: int = 25_000_000,
        max_tweets: int = 64,
        batch_size: int = 8,
    ):
        return_large_blocks()
        self.max_text_length = _limit("max_text_length", max_text_length)
        self.max_image_bytes = _limit("max_image_bytes", max_image_bytes)
        self.max_total_image_bytes = _limit("max_total_image_bytes", max_total_image_bytes)
        self.max_pixels = _limit("max_pixels", max_pixels)
        self.max_tweets = _limit("max_tweets", max_tweets)
        self.batch_size = _limit("batch_size", batch_size)
        self.ner = pipeline(model=path, trust_remote_code=True)  # pyright: ignore[reportCallIssue]  # transformers names the tasks it knows
        self.reads_pictures = self.ner.model.config.use_vision and self.ner.processor.vision_source is not None
        # A first picture now: the vision model loads with it, so no client waits for it, no two requests load it at
        # once, and a repo that lacks it fails here.
        self.ner({"text": "Warm up", "image": PIXEL if self.reads_pictures else None})
        # Requests may come from several threads, but batches run one at a time: else as many of them as there are
        # requests would share the memory, and transformers does not promise that two threads may use one pipeline.
        self.lock = threading.Lock()

    def __call__(self, data: dict[str, Any]) -> list[Any] | dict[str, str]:
        """Entities of a tweet or of each of several, or `{"error": ...}`: whatever comes in, JSON goes out."""
        try:
            return self._answer(data)
        except RequestError as error:
            return {"error": str(error)}
        except Exception:  # a fault of ours, or no memory left: the client learns nothing of the server from it
            logger.exception("A request failed.")
            return {"error": "The server failed on this request, its log says why: try again, or with fewer tweets."}

    def _answer(self, data: Any) -> list[Any]:
        _check_object(data, "the request", "inputs", "parameters")
        parameters = _read_parameters(data.get("parameters"))
        inputs = data.get("inputs")
        if parameters.pop("is_split_into_words", False) and isinstance(inputs, list):
            is_one = bool(inputs) and all(isinstance(word, str) for word in inputs)
            several = [{"tokens": words} if isinstance(words, list) else words for words in inputs]
            inputs = {"tokens": inputs} if is_one else several
        if not isinstance(inputs, list):
            return self._find([self._read_tweet(inputs, "inputs")], ["inputs"], parameters)[0]
        if len(inputs) > self.max_tweets:
            raise RequestError(
                f"inputs has {len(inputs)} tweets, the limit is {self.max_tweets}: send several requests."
            )
        places = [f"inputs[{number}]" for number in range(len(inputs))]
        tweets, total = [], 0
        for tweet, place in zip(inputs, places, strict=True):
            tweets.append(self._read_tweet(tweet, place))
            total += tweets[-1]["image_bytes"]
            if total > self.max_total_image_bytes:
                raise RequestError(
                    f"the pictures up to {place}.image have {total} bytes, the limit of a request is "
                    f"{self.max_total_image_bytes}: send several requests."
                )
        return self._find(tweets, places, parameters)

    def _read_tweet(self, tweet: Any, place: str) -> dict[str, Any]:
        """`text` or `tokens`, `image` (base64 or None) and `image_bytes`, of its file."""
        if isinstance(tweet, str):
            tweet = {"text": tweet}
        if not isinstance(tweet, dict):
            raise RequestError(f'{place} is {_shown(tweet)}: give {{"text": ..., "image": ...}}.')
        text, tokens, image = tweet.get("text"), tweet.get("tokens"), tweet.get("image")
        if image is None or isinstance(image, float) and math.isnan(image):  # of a table
            image = None
            for name in self.ner.picture_names:
                if tweet.get(name) is not None:
                    raise RequestError(f"{place} has no image, but {_shown(name)}: call the picture image.")
        if "text" not in tweet and isinstance(tokens, list) and all(isinstance(word, str) for word in tokens):
            check_text(" ".join(tokens), f"{place}.tokens", self.max_text_length)
            text = {"tokens": tokens}
        else:
            check_text(text, f"{place}.text", self.max_text_length)
            text = {"text": text}
        image_bytes = 0 if image is None else self._check_image(image, f"{place}.image")
        return text | {"image": image, "image_bytes": image_bytes}

    def _check_image(self, image: Any, place: str) -> int:
        """Bytes of the picture's file. A string is base64 and nothing else, whatever file or URL it may name."""
        if not self.reads_pictures:
            raise RequestError(f"{place}: this model takes text alone and reads no pictures: leave it out.")
        remedy = "give the base64 of a picture's file, bare or behind data:image/png;base64, (no URL and no path)"
        if not isinstance(image, str):
            raise RequestError(f"{place} is {_shown(image)}: {remedy}.")
        code = _read_code(image)
        size = len(code) // 4 * 3 - code[-2:].count(b"=")
        check_size(size, place, self.max_image_bytes)
        if len(code) % 4 or not BASE64.fullmatch(code):
            raise RequestError(f"{place} is {_shown(image)}, which is no base64: {remedy}.")
        return size

    def _find(self, tweets: list[dict[str, Any]], places: list[str], parameters: dict[str, Any]) -> list[Any]:
        """The answer to each tweet.

        The pipeline's steps are called one by one, so that it is known which picture cannot be read, and that whatever
        fails behind this is not the client's fault.
        """
        answers: list[Any] = []
        asked = {"output_probabilities": parameters.get("aggregation_strategy") == "none"}
        while len(answers) < len(tweets):
            with self.lock:
                batch = self._read_batch(tweets[len(answers) :], places[len(answers) :])
                outputs = self.ner.forward(batch, **asked)
            answers += [self.ner.postprocess(output, **parameters) for output in outputs]
        return answers

    def _read_batch(self, tweets: list[dict[str, Any]], places: list[str]) -> list[dict[str, Any]]:
        """The first tweets, as many as are a batch, with their pictures: decoded only now that nobody else's are."""
        read, pixels = [], 0
        for tweet, place in zip(tweets, places, strict=True):
            image = None if tweet["image"] is None else base64.b64decode(_read_code(tweet["image"]))
            try:
                read.append(self.ner.preprocess(tweet | {"image": image}, max_pixels=self.max_pixels))
            except ValueError as error:  # an ImageError, whose class lies in the repo's own module
                raise RequestError(f"{place}.image: {error}") from None
            pixels += 0 if image is None else math.prod(read[-1]["image"].size)
            if len(read) == self.batch_size or pixels >= self.max_pixels:
                break
        return read


class RaisingHandler(EndpointHandler):
    """An `EndpointHandler` of which a client of an Inference Endpoint learns the reason.

    What serves an endpoint answers with status 400 and the message where the handler raises, and with 200 where it
    returns, whatever that is: clients would take the reason for entities.
    """

    def __call__(self, data: dict[str, Any]) -> list[Any]:
        """Entities of a tweet or of each of several.

        Raises:
            RequestError: the request cannot be answered.
        """
        answer = super().__call__(data)
        if isinstance(answer, dict):
            raise RequestError(answer["error"])
        return answer


def check_text(text: Any, place: str, max_length: int) -> None:
    """Refuse what is no text, or too long.

    Raises:
        RequestError: names the place and the limit.
    """
    if not isinstance(text, str):
        raise RequestError(f"{place} is {_shown(text)}: give a string.")
    if len(text) > max_length:
        raise RequestError(f"{place} has {len(text)} characters, the limit is {max_length}.")


def check_size(size: int, place: str, max_bytes: int) -> None:
    """Refuse a picture's file that is too large.

    Raises:
        RequestError: names the place and the limit.
    """
    if size > max_bytes:
        raise RequestError(f"{place} has {size} bytes, the limit is {max_bytes}: save it smaller, or as JPEG.")


def return_large_blocks() -> None:
    """Has glibc return free blocks of 1 MiB or more to the system, as it says it does.

    By itself it learns from each large block to keep such, each thread its own: a few pictures of 10 MiB to every
    thread of a server leave up to 64 MiB in each. Small blocks come from two arenas in place of eight a core.
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return  # another C library
    mmap_threshold, arena_max = -3, -8  # of malloc.h
    libc.mallopt(mmap_threshold, 2**20)
    libc.mallopt(arena_max, 2)


def _limit(name: str, value: int) -> int:
    """The environment's word on a limit, or else the argument's."""
    variable = f"HAMLEARNING_{name.upper()}"
    given: int | str = value
    if variable in os.environ:
        name, given = variable, os.environ[variable]
    if not (str(given).isdecimal() and int(given) > 0):
        raise ValueError(f"{name}={given!r}: must be a whole number, at least 1.")
    return int(given)


def _read_code(image: str) -> bytes:
    """The base64 in a string."""
    header = DATA_URL.match(image)
    code = image[header.end() :] if header else image
    return code.encode("ascii", "replace").translate(None, b" \t\r\n")  # many tools write base64 in lines


def _read_parameters(parameters: Any) -> dict[str, Any]:
    """Those that were given, as the pipeline's `postprocess` takes them."""
    if parameters is None:
        return {}
    known = ("aggregation_strategy", "threshold", "ignore_labels", "is_split_into_words", "stride")
    _check_object(parameters, "parameters", *known)
    given = {name: value for name, value in parameters.items() if value is not None}
    strategy, threshold = given.get("aggregation_strategy", "simple"), given.get("threshold", 0)
    if strategy not in ("simple", "none", "first", "average", "max"):
        raise RequestError(f'parameters.aggregation_strategy is {_shown(strategy)}: give "simple" or "none".')
    if type(threshold) not in (int, float) or not 0 <= threshold <= 1:  # True is an int, NaN is in no range
        raise RequestError(f"parameters.threshold is {_shown(threshold)}: give a number from 0 to 1.")
    ignored = given.get("ignore_labels", ["O"])
    if not isinstance(ignored, list) or not all(isinstance(label, str) for label in ignored):
        raise RequestError(f'parameters.ignore_labels is {_shown(ignored)}: give a list of types or tags, as ["O"].')
    if not ignored:  # as `HamLearningPipeline` takes it
        given.setdefault("aggregation_strategy", "none")
    if type(given.get("is_split_into_words", False)) is not bool:
        raise RequestError(f"parameters.is_split_into_words is {_shown(given['is_split_into_words'])}: give true.")
    if type(given.pop("stride", 0)) is not int:  # texts are read whole
        raise RequestError(
            f"parameters.stride is {_shown(parameters['stride'])}: give a whole number, or none at all."
        )
    return given


def _check_object(value: Any, place: str, *known: str):
    """RequestError if it is no JSON object, or has a key that is not known."""
    remedy = "give {" + ", ".join(f'"{name}": ...' for name in known) + "}"
    if not isinstance(value, dict):
        raise RequestError(f"{place} is {_shown(value)}: {remedy}.")
    for key in value:
        if key not in known:
            raise RequestError(f"{place} has the unknown key {_shown(key)}: {remedy}.")


def _shown(value: Any) -> str:
    """What a client sent, in a few characters, whatever it is."""
    if isinstance(value, str):
        return repr(value) if len(value) <= 40 else f"{value[:40]!r}... ({len(value)} characters)"
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    if value is None:
        return "null or missing"
    if isinstance(value, int) and value.bit_length() > 10_000:  # Python does not write out more than 4,300 digits
        return "a number of more than 3,000 digits"
    return json.dumps(value)[:40] if isinstance(value, int | float) else type(value).__name__


__all__ = ["RequestError", "EndpointHandler", "RaisingHandler", "check_text", "return_large_blocks"]
