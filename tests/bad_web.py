"""A web server on loopback that is as bad as the web is.

>>> with Web({"/a.txt": [Answer(503), Answer(body=b"abc")]}) as web:
...     urlopen(web.address + "/a.txt")
"""

import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


@dataclass
class Answer:
    """What the server says to a request.

    Attributes:
        status: 200 becomes 206 where a part is asked for and `tag` allows it.
        body: All of the file.
        length: Content-Length, if it lies; of the file or of the part.
        cut: Bytes after which the line is cut.
        pause: Seconds before each byte.
        tag: ETag; a part is given to who names it in If-Range, or names none.
        headers: Further ones.
    """

    status: int = 200
    body: bytes = b""
    length: int | str | None = None
    cut: int | None = None
    pause: float = 0
    tag: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


class Web:
    """Serves files by their paths: the answers to the requests come in their order, the last one stays."""

    def __init__(self, files: dict[str, list[Answer]]):
        self.files, self.asked = files, []  # (path, Range) of each request
        self.most_at_once, self._now, self._lock = 0, 0, threading.Lock()
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                with web._lock:
                    web._now += 1
                    web.most_at_once = max(web.most_at_once, web._now)
                    path = unquote(self.path)
                    before = sum(asked == path for asked, _ in web.asked)
                    web.asked.append((path, self.headers.get("Range")))
                answers = web.files.get(path, [Answer(404)])
                try:
                    self.answer(answers[min(before, len(answers) - 1)])
                except OSError:  # the client has left
                    self.close_connection = True
                finally:
                    with web._lock:
                        web._now -= 1

            def answer(self, answer: Answer):
                status, body, wanted = answer.status, answer.body, self.headers.get("Range")
                of_this = self.headers.get("If-Range") in (None, answer.tag)
                headers = dict(answer.headers)
                if status == 200 and wanted and answer.tag and of_this:
                    start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                    status = 206 if start < len(body) else 416
                    headers |= {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
                    body = body[start:]
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if answer.tag:
                    self.send_header("ETag", answer.tag)
                self.send_header("Content-Length", str(len(body) if answer.length is None else answer.length))
                self.end_headers()
                body = body[: answer.cut]
                if answer.pause:
                    for byte in body:
                        time.sleep(answer.pause)
                        self.wfile.write(bytes([byte]))
                        self.wfile.flush()
                else:
                    self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
