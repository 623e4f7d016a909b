"""A replica of `hamlearning serve`: one copy of the model behind HTTP. Ray Serve starts as many as are asked for."""

import asyncio
import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest  # pyright: ignore[reportMissingImports]  # an extra
from prometheus_client.exposition import CONTENT_TYPE_LATEST  # pyright: ignore[reportMissingImports]  # an extra
from prometheus_client.multiprocess import MultiProcessCollector  # pyright: ignore[reportMissingImports]  # an extra
from ray import serve  # pyright: ignore[reportMissingImports]  # an extra
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from hamlearning.hub.lanes import by_length, lane_of
from hamlearning.hub.openapi import ANSWERS, DESCRIPTION, REQUEST
from serving_hamlearning import FAULT, EndpointHandler, RequestError, TooLargeError


logger = logging.getLogger("ray.serve")

BODY_SECONDS = 60  # that the body of a request may take to come
SMALL_BODY = 2**16  # bytes; what is larger is read beside the loop that answers
BATCH_SIZE = 32  # tweets; `HAMLEARNING_BATCH_SIZE` wins

requests = Counter("hamlearning_requests", "Requests to /predict, by the status of their answer", ["status"])
seconds = Histogram(
    "hamlearning_request_seconds",
    "Seconds from the first byte of a request to /predict to its answer",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
batches = Histogram(
    "hamlearning_batch_tweets",
    "Tweets that went through the network together: texts, long texts, or tweets with pictures",
    ["kind"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128),
)


class Refused(Exception):
    """A request gets a status and a reason in place of an answer."""

    def __init__(self, status: int, reason: str, **headers: str):
        super().__init__(reason)
        self.status = status
        self.headers = headers


async def refuse(_: Request, error: HTTPException) -> JSONResponse:
    """What FastAPI refuses itself, in the form of our own refusals."""
    reason = f"{error.detail}: ask GET /health, GET /metrics or POST /predict; GET /docs says more."
    return JSONResponse({"error": reason}, error.status_code, error.headers)


class Turn:
    """Lets tweets wait while a batch is under way, so that all of them are the next one.

    `serve.batch` alone gathers tweets for a time that is set, and does not look whether the last batch is done:
    without such a time each tweet is a batch of its own, with it each one waits, also where nothing else is to do.
    """

    def __init__(self):
        self._is_free = asyncio.Event()
        self._is_free.set()

    async def __aenter__(self) -> None:
        await self._is_free.wait()
        self._is_free.clear()  # all that were woken with this one go on, too

    async def __aexit__(self, *_: object) -> None:
        self._is_free.set()


class Replica:
    """One copy of the model.

    Args:
        model: a folder or Hub id.
        threads: of PyTorch.
        folder: where all replicas of a machine keep their counts; a file `stopping` in it says that no new request is
            taken.
    """

    def __init__(self, model: str, threads: int, folder: str):
        torch.set_num_threads(threads)
        self.handler = EndpointHandler(model, batch_size=BATCH_SIZE)
        self.folder = folder
        self.max_bytes = self.handler.max_body_bytes
        self.held = 0  # bytes of bodies
        lanes: dict[str, Any] = {  # by the names of `lane_of`
            "texts": self._find_texts,
            "long texts": self._find_long_texts,
            "pictures": self._find_pictures,
        }
        self.lanes = {name: (Turn(), find) for name, find in lanes.items()}
        for find in lanes.values():
            find.set_max_batch_size(self.handler.batch_size)
        self.networks = ThreadPoolExecutor(len(lanes))
        self.readers = ThreadPoolExecutor(1)  # one large body at a time: Python has one lock for them all

    def app(self) -> FastAPI:
        """The routes, and the page that describes them."""
        app = FastAPI(title="HamLearning", version=metadata.version("hamlearning"), description=DESCRIPTION)
        app.post("/predict", openapi_extra={"requestBody": REQUEST}, responses=ANSWERS)(self.predict)
        app.get("/health")(self.health)
        app.get("/metrics", response_class=PlainTextResponse)(self.metrics)
        app.exception_handler(HTTPException)(refuse)
        return app

    async def predict(self, request: Request) -> Response:
        """Entities of a tweet or of each of several."""
        start = time.monotonic()
        headers: dict[str, str] = {}
        try:
            content, status = await self._answer(request), 200
        except Refused as error:
            content, status, headers = {"error": str(error)}, error.status, error.headers
        except RequestError as error:
            content, status = {"error": str(error)}, 413 if isinstance(error, TooLargeError) else 400
        except ClientDisconnect:
            content, status = {"error": "The client left."}, 400
        except Exception:  # a fault of ours, or no memory left: the client learns nothing of the server from it
            logger.exception("A request failed.")
            content, status = {"error": FAULT}, 500
        requests.labels(status).inc()
        seconds.observe(time.monotonic() - start)
        return Response(json.dumps(content), status, headers, media_type="application/json")

    async def health(self) -> JSONResponse:
        """`{"status": "ok"}`, or status 503 once the server was asked to stop."""
        if self._is_stopping():
            return JSONResponse({"status": "stopping"}, 503)
        return JSONResponse({"status": "ok"})

    async def metrics(self) -> Response:
        """Counts and times of all replicas, as Prometheus reads them."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=self.folder)
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    def _is_stopping(self) -> bool:
        return (Path(self.folder) / "stopping").exists()

    async def _answer(self, request: Request) -> list[Any]:
        if self._is_stopping():
            headers = {"Retry-After": "5", "Connection": "close"}
            raise Refused(503, "The server is about to stop: ask again, or another one.", **headers)
        body = bytearray()
        try:
            await self._read_body(request, body)
            is_form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
            asked = await self._read_form(request, bytes(body)) if is_form else await self._read_json(body)
            body_bytes, body = len(body), bytearray()  # what was read of it is held by `asked`
            try:
                found = await asyncio.gather(
                    *(self._find(tweet, asked.needs_probabilities) for tweet in asked.tweets), return_exceptions=True
                )
            finally:
                self.held -= body_bytes
        finally:
            self.held -= len(body)
        for answer in found:
            if isinstance(answer, BaseException):
                raise answer
        answers = [self.handler.ner.postprocess(answer, **asked.parameters) for answer in found]
        return answers[0] if asked.is_one else answers

    async def _read_body(self, request: Request, body: bytearray) -> None:
        """Fills `body`; what is held of it counts, until the request is answered."""
        length = request.headers.get("content-length", "")
        try:
            async with asyncio.timeout(BODY_SECONDS):
                if length.isdecimal() and int(length) > self.max_bytes:
                    raise await self._too_large(request, int(length), 0)
                async for chunk in request.stream():
                    if len(body) + len(chunk) > self.max_bytes:
                        raise await self._too_large(request, len(body) + len(chunk), len(body))
                    if self.held + len(chunk) > 4 * self.max_bytes:
                        raise Refused(429, "The server holds as much as it can: ask again.", **{"Retry-After": "1"})
                    self.held += len(chunk)
                    body += chunk
        except TimeoutError:
            raise Refused(408, f"the request was not there after {BODY_SECONDS} seconds.") from None

    async def _too_large(self, request: Request, size: int, read: int) -> Refused:
        """The refusal. A client that still sends would not read it: it gets to its end, within bounds."""
        async for chunk in request.stream():
            read += len(chunk)
            if read > 4 * self.max_bytes:
                break
        return Refused(
            413, f"the request has {size} bytes or more, the limit is {self.max_bytes}: send several requests."
        )

    async def _read_json(self, body: bytearray) -> Any:
        def read() -> Any:
            try:
                data = json.loads(body)
            except (ValueError, RecursionError):
                raise RequestError('the request is no JSON: send {"inputs": "a text"}.') from None
            return self.handler.read(data)

        return read() if len(body) <= SMALL_BODY else await self._beside(self.readers, read)

    async def _read_form(self, request: Request, body: bytes) -> Any:
        """A tweet as a form: `text`, perhaps the file `image`, perhaps `parameters` as JSON."""

        async def replay() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        try:
            form = await Request(request.scope, replay).form(max_files=1, max_fields=8)
        except HTTPException as error:  # of the parser
            raise RequestError(f"the form cannot be read ({error.detail}).") from None
        unknown = sorted(set(form) - {"text", "image", "parameters"})
        if unknown:
            raise RequestError(f"the form has the unknown field {unknown[0]!r:.60}: give text, image and parameters.")
        image, text = form.get("image"), form.get("text")
        if isinstance(image, str) or isinstance(text, UploadFile):
            raise RequestError("the form's image must be a file, and its text none: curl -F text=... -F image=@a.jpg")
        picture = await image.read() if isinstance(image, UploadFile) else None
        parameters = form.get("parameters", "null")
        try:
            read = json.loads(parameters if isinstance(parameters, str) else "")
        except (ValueError, RecursionError):
            raise RequestError("the form's parameters are no JSON: give an object, as in a JSON request.") from None
        return self.handler.read({"inputs": {"text": text}, "parameters": read}, picture)

    async def _find(self, tweet: dict[str, Any], output_probabilities: bool) -> Any:
        """What the network says of a tweet."""
        turn, find = self.lanes[lane_of(tweet)]
        async with turn:
            found = await find((tweet, output_probabilities))
        if isinstance(found, Exception):
            raise found
        return found

    @serve.batch(max_batch_size=BATCH_SIZE, batch_wait_timeout_s=0)
    async def _find_texts(self, asked: list[tuple[dict[str, Any], bool]]) -> list[Any]:
        return await self._find_together(asked)

    @serve.batch(max_batch_size=BATCH_SIZE, batch_wait_timeout_s=0)
    async def _find_long_texts(self, asked: list[tuple[dict[str, Any], bool]]) -> list[Any]:
        return await self._find_together(asked)

    @serve.batch(max_batch_size=BATCH_SIZE, batch_wait_timeout_s=0)
    async def _find_pictures(self, asked: list[tuple[dict[str, Any], bool]]) -> list[Any]:
        return await self._find_together(asked)

    async def _find_together(self, asked: list[tuple[dict[str, Any], bool]]) -> list[Any]:
        """What the network says of each of some tweets, those of like length together."""
        tweets, needs_probabilities = [tweet for tweet, _ in asked], any(needed for _, needed in asked)
        found: list[Any] = [None] * len(tweets)
        for places in by_length(tweets):
            while places:
                find = partial(self.handler.find, [tweets[place] for place in places], needs_probabilities)
                batch = await self._beside(self.networks, find)
                batches.labels(lane_of(tweets[0])).observe(len(batch))
                for place, answer in zip(places, batch, strict=False):
                    found[place] = answer
                places = places[len(batch) :]
        return found

    async def _beside(self, threads: ThreadPoolExecutor, work: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(threads, work)
