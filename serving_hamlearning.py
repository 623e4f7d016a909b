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
import string
import sys
import threading
from contextlib import nullcontext
from typing import Any, NamedTuple

from transformers import pipeline


logger = logging.getLogger(__name__)

LETTERS = (string.ascii_letters + string.digits + "+/").encode()  # of base64
DATA_URL = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)
FAULT = "The server failed on this request, its log says why: try again, or with fewer tweets."
PIXEL = b"GIF87a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"  # the smallest picture


class RequestError(ValueError):
    """The client asked for what cannot be answered; the message says why in one sentence."""


class TooLargeError(RequestError):
    """The client sent more than the server takes at a time."""


class Request(NamedTuple):
    """What a client asks for.

    Attributes:
        tweets: each with `text` or `tokens`, `image` (base64 as it came, the bytes of a file, or None), `image_bytes`
            (of its file) and `place`, what it is called in the request.
        parameters: those that were given, as the pipeline's `postprocess` takes them.
        is_one: whether the answer is that of the one tweet, not a list.
    """

    tweets: list[dict[str, Any]]
    parameters: dict[str, Any]
    is_one: bool

    @property
    def needs_probabilities(self) -> bool:
        """Whether the network must give the probability of each tag."""
        return self.parameters.get("aggregation_strategy") == "none"


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
        # Requests may come from several threads.
        self.network_lock, self.picture_lock = threading.Lock(), threading.Lock()

    def __call__(self, data: dict[str, Any]) -> list[Any] | dict[str, str]:
        """Entities of a tweet or of each of several, or `{"error": ...}`: whatever comes in, JSON goes out."""
        try:
            return self._answer(data)
        except RequestError as error:
            return {"error": str(error)}
        except Exception:  # a fault of ours, or no memory left: the client learns nothing of the server from it
            logger.exception("A request failed.")
            return {"error": FAULT}

    @property
    def max_body_bytes(self) -> int:
        """Most bytes of a request's JSON that can be within the limits."""
        # Base64 has a third more bytes than the pictures; the texts are four bytes a character at most.
        texts = 4 * self.max_tweets * self.max_text_length
        return math.ceil(self.max_total_image_bytes * 4 / 3) + texts + 2**20

    def read(self, data: Any, picture: bytes | None = None) -> Request:
        """What a client asks for, with all that is refused before the network is asked.

        Args:
            data: the request, as `__call__` takes it.
            picture: the file of the picture that its one tweet has, where it came as a file.

        Raises:
            RequestError: names the place in the request, and the remedy.
        """
        _check_object(data, "the request", "inputs", "parameters")
        parameters = _read_parameters(data.get("parameters"))
        inputs = data.get("inputs")
        if parameters.pop("is_split_into_words", False) and isinstance(inputs, list):
            is_one = bool(inputs) and all(isinstance(word, str) for word in inputs)
            several = [{"tokens": words} if isinstance(words, list) else words for words in inputs]
            inputs = {"tokens": inputs} if is_one else several
        if not isinstance(inputs, list):
            tweet = self._read_tweet(inputs, "inputs")
            if picture is not None:
                tweet |= {"image": picture, "image_bytes": self._check_file(picture, "inputs.image")}
            return Request([tweet], parameters, is_one=True)
        if len(inputs) > self.max_tweets:
            raise TooLargeError(
                f"inputs has {len(inputs)} tweets, the limit is {self.max_tweets}: send several requests."
            )
        tweets, total = [], 0
        for number, tweet in enumerate(inputs):
            tweets.append(self._read_tweet(tweet, f"inputs[{number}]"))
            total += tweets[-1]["image_bytes"]
            if total > self.max_total_image_bytes:
                raise TooLargeError(
                    f"the pictures up to inputs[{number}].image have {total} bytes, the limit of a request is "
                    f"{self.max_total_image_bytes}: send several requests."
                )
        return Request(tweets, parameters, is_one=False)

    def find(self, tweets: list[dict[str, Any]], output_probabilities: bool = False) -> list[Any]:
        """What the network says of the first of some tweets, as many as are a batch.

        Args:
            tweets: those of one request or of several, see `Request`.
            output_probabilities: whether `aggregation_strategy="none"` is asked for one of them.

        Returns:
            For each, what the pipeline's `postprocess` takes, or the `RequestError` of a picture that cannot be read.
        """
        # Batches run one at a time: else as many of them as there are requests would share the memory, and
        # transformers does not promise that two threads may use one pipeline. While pictures are decoded, which may
        # take a second, texts alone go on.
        has_picture = any(tweet["image"] is not None for tweet in tweets)
        with self.picture_lock if has_picture else nullcontext():
            batch = self._read_batch(tweets)
            readable = [tweet for tweet in batch if not isinstance(tweet, RequestError)]
            with self.network_lock:
                found = self.ner.forward(readable, output_probabilities=output_probabilities) if readable else []
        outputs = iter(found)
        return [tweet if isinstance(tweet, RequestError) else next(outputs) for tweet in batch]

    def _answer(self, data: Any) -> list[Any]:
        request = self.read(data)
        answers: list[Any] = []
        while len(answers) < len(request.tweets):
            for found in self.find(request.tweets[len(answers) :], request.needs_probabilities):
                if isinstance(found, RequestError):
                    raise found
                answers.append(self.ner.postprocess(found, **request.parameters))
        return answers[0] if request.is_one else answers

    def _read_tweet(self, tweet: Any, place: str) -> dict[str, Any]:
        """A tweet of a `Request`."""
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
        return text | {"image": image, "image_bytes": image_bytes, "place": place}

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
        if len(code) % 4 or not _is_base64(code):
            raise RequestError(f"{place} is {_shown(image)}, which is no base64: {remedy}.")
        return size

    def _check_file(self, picture: bytes, place: str) -> int:
        """Bytes of a picture that came as a file."""
        if not self.reads_pictures:
            raise RequestError(f"{place}: this model takes text alone and reads no pictures: leave it out.")
        check_size(len(picture), place, self.max_image_bytes)
        return len(picture)

    def _read_batch(self, tweets: list[dict[str, Any]]) -> list[Any]:
        """The first tweets, as many as are a batch, with their pictures: decoded only now that nobody else's are.

        The pipeline's steps are called one by one, so that it is known which picture cannot be read, and that whatever
        fails behind this is not the client's fault.
        """
        read, pixels = [], 0
        for tweet in tweets:
            image = tweet["image"]
            if isinstance(image, str):
                image = base64.b64decode(_read_code(image))
            try:
                read.append(self.ner.preprocess(tweet | {"image": image}, max_pixels=self.max_pixels))
                pixels += 0 if image is None else math.prod(read[-1]["image"].size)
            except ValueError as error:  # an ImageError, whose class lies in the repo's own module
                read.append(RequestError(f"{tweet['place']}.image: {error}"))
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
        raise TooLargeError(f"{place} has {len(text)} characters, the limit is {max_length}.")


def check_size(size: int, place: str, max_bytes: int) -> None:
    """Refuse a picture's file that is too large.

    Raises:
        RequestError: names the place and the limit.
    """
    if size > max_bytes:
        raise TooLargeError(f"{place} has {size} bytes, the limit is {max_bytes}: save it smaller, or as JPEG.")


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
    code = code.encode("ascii", "replace")
    # Many tools write base64 in lines.
    return code.translate(None, b" \t\r\n") if any(space in code for space in (b" ", b"\t", b"\r", b"\n")) else code


def _is_base64(code: bytes) -> bool:
    """Whether it is letters of base64, and at most two `=` behind them: four times as fast as by a pattern."""
    rest = code.translate(None, LETTERS)
    return len(rest) <= 2 and rest == b"=" * len(rest) and code.endswith(rest)


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


__all__ = [
    "FAULT",
    "RequestError",
    "TooLargeError",
    "EndpointHandler",
    "RaisingHandler",
    "check_text",
    "return_large_blocks",
]
