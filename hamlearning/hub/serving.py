"""`hamlearning serve`: a model behind HTTP, with the limits and refusals of an endpoint.

    $ hamlearning serve outputs/demo
    http://127.0.0.1:8000/predict answers POST requests; Ctrl-C ends it
    $ curl -d '{"inputs": "had lunch with Maria Lopez"}' http://127.0.0.1:8000/predict
    [{"entity_group": "PER", "word": "Maria Lopez", ...}]

One process, one batch at a time: for many users put it on an Inference Endpoint.
"""

import json
import logging
import math
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from hamlearning.data.downloads import wanted_of_hub
from serving_hamlearning import EndpointHandler


logger = logging.getLogger(__name__)

SECONDS = 30  # that a client may be silent for


def serve(model: str, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Answer requests until the process is ended.

    Args:
        model: A trained or exported model, a folder or Hub id.
        host: The address to listen on.
        port: 0 takes a free one.

    Raises:
        OSError: The model cannot be loaded, or the port is taken.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    with wanted_of_hub(model):
        handler = EndpointHandler(model)
    with make_server(handler, host, port) as server:
        print(f"http://{host}:{server.server_address[1]}/predict answers POST requests; Ctrl-C ends it", flush=True)
        server.serve_forever()


def make_server(service: EndpointHandler, host: str = "127.0.0.1", port: int = 0) -> ThreadingHTTPServer:
    """A server that listens, and answers once its `serve_forever` is called."""
    # Base64 has a third more bytes than the pictures; the texts are four bytes a character at most.
    texts = 4 * service.max_tweets * service.max_text_length
    max_bytes = math.ceil(service.max_total_image_bytes * 4 / 3) + texts + 2**20

    class Requests(BaseHTTPRequestHandler):
        timeout = SECONDS
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/health":
                self.answer(HTTPStatus.OK, {"status": "ok"})
            else:
                self.refuse(HTTPStatus.NOT_FOUND, f"{self.path}: ask GET /health or POST /predict")

        def do_POST(self) -> None:
            if self.path != "/predict":
                return self.refuse(HTTPStatus.NOT_FOUND, f"{self.path}: ask GET /health or POST /predict")
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal():
                return self.refuse(HTTPStatus.LENGTH_REQUIRED, "the request says no Content-Length: send one")
            if int(length) > max_bytes:
                reason = f"the request has {length} bytes, the limit is {max_bytes}: send several requests"
                # A client that still sends would not read the answer: it gets to its end, within bounds.
                left = min(int(length), 4 * max_bytes)
                while left > 0 and (block := self.rfile.read(min(left, 2**16))):
                    left -= len(block)
                return self.refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason)
            try:
                request = json.loads(self.rfile.read(int(length)))
            except (ValueError, RecursionError):
                return self.refuse(HTTPStatus.BAD_REQUEST, 'the request is no JSON: send {"inputs": "a text"}')
            answer = service(request)
            is_error = isinstance(answer, dict) and "error" in answer
            self.answer(HTTPStatus.BAD_REQUEST if is_error else HTTPStatus.OK, answer)

        def refuse(self, status: HTTPStatus, reason: str) -> None:
            self.close_connection = True  # the body is not read
            self.answer(status, {"error": f"{reason}."})

        def answer(self, status: HTTPStatus, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            logger.info(format, *args)

    return ThreadingHTTPServer((host, port), Requests)
