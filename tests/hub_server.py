"""A small Hub on loopback, for tests that drive the real clients against it.

    >>> with HubServer() as hub:
    ...     revision = hub.add_repo("org/model", "folder/of/a/model")
    ...     run_client(hub, "from transformers import AutoModel; AutoModel.from_pretrained('org/model')", tmp_path)
    ...     assert ("GET", f"/org/model/resolve/{revision}/config.json") in hub.requests

`huggingface_hub`, `datasets`, `transformers` and `evaluate` read `HF_ENDPOINT` when they are imported: so they run in
a subprocess with `hub.env` in its environment, and nothing of them is patched. Everything is kept in memory, and every
revision for good. Tokens, hashes and parent commits are checked as the Hub checks them. There is one branch, `main`,
no pull request and no Xet storage; any YAML is valid, and of a card only its plain `key: value` lines are read.

It fails on request, see `Fault`:

    >>> hub.fail("GET .*/model.safetensors", "cut", times=1)
"""

import base64
import hashlib
import json
import os
import re
import select
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


USER, TOKEN = "tester", "hf_loopback"
PREFIXES = {"model": "", "dataset": "datasets/", "space": "spaces/"}
LFS_SUFFIXES = {".arrow", ".bin", ".npy", ".npz", ".onnx", ".parquet", ".pt", ".pth", ".safetensors", ".zip"}
LFS_SIZE = 10_000_000  # bytes from which a file of any name goes to LFS


def run_client(hub: "HubServer", code: str, home: Path, timeout: float = 300) -> str:
    """Runs code in a Python whose Hub is `hub` and whose cache and folder are `home`; returns what it printed.

    A failure is an AssertionError with its traceback. Importing a client takes seconds: group the calls.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE_", "TRANSFORMERS_"))}
    env = inherited | hub.env | {"HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"the client failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def stranger(code: str, hidden: Iterable[str] = ()) -> str:
    """Code for a Python that has nothing of this project, and of other packages not those in `hidden`.

    It finds json, sys and the Auto classes imported.
    """
    return f"""
import json, sys
from importlib.machinery import PathFinder
class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {set(hidden)} else super().find_spec(name, path, target)
sys.meta_path[:] = [
    Hiding if finder is PathFinder else finder
    for finder in sys.meta_path
    if "hamlearning" not in getattr(finder, "__module__", "")
]
from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification, AutoProcessor, AutoTokenizer, pipeline
{code}"""


@dataclass(frozen=True)
class File:
    data: bytes
    lfs: bool

    @cached_property
    def etag(self) -> str:
        """What the Hub knows a file's content by: its SHA-256 in LFS, git's hash of the blob elsewhere."""
        if self.lfs:
            return hashlib.sha256(self.data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    def entry(self, path: str) -> dict:
        size = len(self.data)
        lfs = {"lfs": {"oid": self.etag, "size": size, "pointerSize": 134}} if self.lfs else {}
        return {"type": "file", "path": path, "size": size, "oid": self.etag[:40]} | lfs


@dataclass
class Repo:
    """Revisions that never change, and the names (`main` and tags) that point at them."""

    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False

    def commit(self, files: dict[str, File]) -> str:
        content = [len(self.commits), sorted((path, file.etag) for path, file in files.items())]
        revision = hashlib.sha1(json.dumps(content).encode()).hexdigest()
        self.commits[revision] = files
        self.refs["main"] = revision
        return revision


@dataclass
class Reply:
    content: bytes | dict | list
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class HubError(Exception):
    """Answered as JSON, with the headers by which clients choose the exception they raise."""

    def __init__(self, status: int, message: str, code: str = "", headers: dict[str, str] | None = None):
        super().__init__(message)
        names = {"X-Error-Code": code, "X-Error-Message": message} | (headers or {})
        self.reply = Reply({"error": message}, status, {name: value for name, value in names.items() if value})


@dataclass
class Fault:
    """What befalls a request whose "METHOD /path" the pattern matches from its start.

    Kinds: `status` answers with it and does nothing; `cut` closes the connection after half of the answer's body, or
    before it if it is empty; `short` sends half of the body and says that this is all; `cut upload` closes it when
    half of the request's body has come; `lost answer` does what was asked for and closes it; `stall` never answers;
    `stalled upload` reads half of the request's body and no more; `drip` sends a byte every `seconds`; `late` answers
    after `seconds`, or once `due` is set.
    """

    pattern: str
    kind: str
    times: int | None = None  # for ever if None
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    due: threading.Event = field(default_factory=threading.Event)
    hits: int = 0


ROUTES: list[tuple[str, re.Pattern, Callable[..., Reply], bool]] = []
API = r"/api/(?P<kind>model|dataset|space)s/(?P<repo_id>[^/]+(?:/[^/]+)?)"
WEB = r"/(?P<kind>datasets/|spaces/|)(?P<repo_id>[^/]+(?:/[^/]+)?)"
REV = r"(?P<rev>[^/]+)"


def route(method: str, pattern: str, signed_in: bool = False) -> Callable:
    """Registers a method of `HubServer` for a path, whose named groups become its arguments."""

    def register(answer: Callable[..., Reply]) -> Callable[..., Reply]:
        ROUTES.append((method, re.compile(pattern), answer, signed_in))
        return answer

    return register


class HubServer:
    """The Hub; it serves from entering this context manager to leaving it.

    Attributes:
        env: the environment variables that make a subprocess use this Hub (give it an `HF_HOME` of its own).
        requests: (method, path without query) of every request so far; clear it to look at what comes next.
        fail_next_commit: whether the next commit is refused; set it to see what a client then says and leaves.
        faults: what fails, see `fail`.
    """

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.fail_next_commit = False
        self.faults: list[Fault] = []
        self.connections: set[socket.socket] = set()
        self.lock = threading.Lock()
        self.http = Server(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.env = {"HF_ENDPOINT": self.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
        self.env |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self.http.serve_forever, args=[0.02], daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.http.shutdown()
        self.http.server_close()
        for connection in list(self.connections):
            _close(connection)

    @contextmanager
    def down(self) -> Iterator[None]:
        """Without a port and connections; afterwards with the same port."""
        self.__exit__()
        try:
            yield
        finally:
            self.http = Server(self.http.server_address, self.http.RequestHandlerClass)
            self.__enter__()

    def fail(self, pattern: str, kind: str, **settings: Any) -> Fault:
        """From now on such requests fail, see `Fault`; of several faults that match, the first one that is left."""
        self.faults.append(Fault(pattern, kind, **settings))
        return self.faults[-1]

    def next_fault(self, request: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if (fault.times is None or fault.hits < fault.times) and re.match(fault.pattern, request):
                    fault.hits += 1
                    return fault
        return None

    def add_repo(self, repo_id: str, folder: str | Path, kind: str = "model") -> str:
        """Makes the files of `folder` the content of a repo, new or not, in one commit; returns its revision."""
        paths = [path for path in Path(folder).rglob("*") if path.is_file()]
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        repo = self.repos.setdefault((kind, repo_id), Repo())
        return repo.commit({path: File(data, _goes_to_lfs(path, len(data))) for path, data in files.items()})

    def files(self, repo_id: str, kind: str = "model", rev: str = "main") -> dict[str, bytes]:
        """The content of a repo at `main`, a tag or a commit, by path."""
        return {path: file.data for path, file in self.find(kind, repo_id, rev)[2].items()}

    def find(self, kind: str, repo_id: str, rev: str = "main") -> tuple[Repo, str, dict[str, File]]:
        if (kind, repo_id) not in self.repos:
            raise HubError(404, "Repository not found", "RepoNotFound")
        repo = self.repos[kind, repo_id]
        revision = repo.refs.get(rev, rev)
        if revision not in repo.commits:
            raise HubError(404, f"Invalid rev id: {rev}", "RevisionNotFound")
        return repo, revision, repo.commits[revision]

    @route("GET", "/api/whoami-v2", signed_in=True)
    def whoami(self, request: "Handler") -> Reply:
        auth = {"type": "access_token", "accessToken": {"displayName": "tests", "role": "write"}}
        return Reply({"type": "user", "name": USER, "orgs": [], "auth": auth})

    @route("POST", "/api/validate-yaml")
    def validate_yaml(self, request: "Handler") -> Reply:
        return Reply({"errors": [], "warnings": []})

    @route("POST", "/api/repos/create", signed_in=True)
    def create_repo(self, request: "Handler") -> Reply:
        kind, repo_id = request.named_repo()
        link = {"url": f"{self.url}/{PREFIXES[kind]}{repo_id}"}
        if (kind, repo_id) in self.repos:
            return Reply(link | {"error": f"You already created this {kind} repo"}, 409)
        self.repos[kind, repo_id] = Repo(private=request.json().get("visibility") == "private")
        self.repos[kind, repo_id].commit({})
        return Reply(link)

    @route("GET", f"{API}/auth-check/write", signed_in=True)
    def auth_check(self, request: "Handler", kind: str, repo_id: str) -> Reply:
        self.find(kind, repo_id)
        return Reply({})

    @route("DELETE", "/api/repos/delete", signed_in=True)
    def delete_repo(self, request: "Handler") -> Reply:
        kind, repo_id = request.named_repo()
        self.find(kind, repo_id)
        del self.repos[kind, repo_id]
        return Reply({})

    @route("GET", f"{API}/tree/{REV}(?:/(?P<folder>.*))?")
    def tree(self, request: "Handler", kind: str, repo_id: str, rev: str, folder: str | None) -> Reply:
        _, revision, files = self.find(kind, repo_id, rev)
        prefix = f"{folder}/" if folder else ""
        entries = {path: entry for path, entry in _entries(files).items() if path.startswith(prefix)}
        if prefix and not entries:
            raise HubError(404, f"{folder} does not exist", "EntryNotFound", {"X-Repo-Commit": revision})
        if request.query.get("recursive", ["false"])[0].lower() != "true":
            entries = {path: entry for path, entry in entries.items() if "/" not in path.removeprefix(prefix)}
        return Reply(list(entries.values()))

    @route("POST", f"{API}/paths-info/{REV}")
    def paths_info(self, request: "Handler", kind: str, repo_id: str, rev: str) -> Reply:
        entries = _entries(self.find(kind, repo_id, rev)[2])
        return Reply([entries[path] for path in parse_qs(request.body.decode())["paths"] if path in entries])

    @route("POST", f"{API}/preupload/{REV}", signed_in=True)
    def preupload(self, request: "Handler", kind: str, repo_id: str, rev: str) -> Reply:
        files, answers = self.find(kind, repo_id, rev)[2], []
        for path, size in [(file["path"], file["size"]) for file in request.json()["files"]]:
            answer = {"path": path, "uploadMode": "lfs" if _goes_to_lfs(path, size) else "regular"}
            answers.append(answer | {"shouldIgnore": False, "oid": files[path].etag if path in files else None})
        return Reply({"files": answers})

    @route("POST", f"{API}/commit/{REV}", signed_in=True)
    def commit(self, request: "Handler", kind: str, repo_id: str, rev: str) -> Reply:
        repo, head, files = self.find(kind, repo_id, rev)
        if rev != "main" or "create_pr" in request.query:
            raise HubError(400, f"This Hub takes commits to main alone, not to {rev} or as pull requests")
        if self.fail_next_commit:
            self.fail_next_commit = False
            raise HubError(403, "Storage limit reached")  # not a 5xx: clients ask again then
        files = dict(files)
        for operation in map(json.loads, request.body.splitlines()):
            value, path = operation["value"], operation["value"].get("path")
            if operation["key"] == "header":
                if value.get("parentCommit", head) != head:
                    raise HubError(412, f"A commit has happened since {value['parentCommit']}: main is at {head}")
            elif operation["key"] == "file":
                files[path] = File(base64.b64decode(value["content"]), lfs=False)
            elif operation["key"] == "lfsFile":
                if value["oid"] not in self.lfs:
                    raise HubError(400, f"The LFS object of {path} was not uploaded: {value['oid']}")
                files[path] = File(self.lfs[value["oid"]], lfs=True)
            elif operation["key"] in ("deletedFile", "deletedFolder"):
                kept = {p: f for p, f in files.items() if p != path and not p.startswith(f"{path.rstrip('/')}/")}
                if len(kept) == len(files):
                    raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                files = kept
            else:
                raise HubError(400, f"Unknown operation in a commit: {operation['key']}")
        revision = repo.commit(files)
        return Reply({"commitOid": revision, "commitUrl": f"{self.url}/{PREFIXES[kind]}{repo_id}/commit/{revision}"})

    @route("POST", f"{API}/tag/{REV}", signed_in=True)
    def create_tag(self, request: "Handler", kind: str, repo_id: str, rev: str) -> Reply:
        repo, revision, _ = self.find(kind, repo_id, rev)
        tag = request.json()["tag"]
        if tag in repo.refs:
            raise HubError(409, f"Tag reference exists already: {tag}")
        repo.refs[tag] = revision
        return Reply({})

    @route("GET", f"{API}(?:/revision/{REV})?")
    def info(self, request: "Handler", kind: str, repo_id: str, rev: str | None) -> Reply:
        repo, revision, files = self.find(kind, repo_id, rev or "main")
        card = files["README.md"].data.decode() if "README.md" in files else ""
        front_matter = re.match(r"---\n(.*?\n)---\n|", card, re.DOTALL)[1] or ""
        facts = dict(re.findall(r"^(\w+): *(\S+)$", front_matter, re.MULTILINE))
        tops = {name: facts[name] for name in ("pipeline_tag", "library_name", "sdk") if name in facts}
        siblings = [{"rfilename": path, "size": len(file.data)} for path, file in sorted(files.items())]
        state = {"private": repo.private, "gated": False, "disabled": False, "tags": [], "siblings": siblings}
        return Reply(
            {"id": repo_id, "author": repo_id.split("/")[0], "sha": revision, "cardData": facts} | state | tops
        )

    @route("POST", rf"{WEB}\.git/info/lfs/objects/batch", signed_in=True)
    def lfs_batch(self, request: "Handler", kind: str, repo_id: str) -> Reply:
        self.find(kind, repo_id)
        objects = request.json()["objects"]
        for wanted in objects:
            if wanted["oid"] not in self.lfs:
                href = f"{self.url}/lfs/{wanted['oid']}"
                wanted["actions"] = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
        return Reply({"transfer": "basic", "objects": objects})

    @route("PUT", r"/lfs/(?P<oid>\w+)")
    def lfs_put(self, request: "Handler", oid: str) -> Reply:
        if hashlib.sha256(request.body).hexdigest() != oid:
            raise HubError(400, f"The bytes that came are not the LFS object {oid}")
        self.lfs[oid] = request.body
        return Reply({})

    @route("POST", r"/lfs/(?P<oid>\w+)/verify", signed_in=True)
    def lfs_verify(self, request: "Handler", oid: str) -> Reply:
        if oid not in self.lfs:
            raise HubError(404, f"The LFS object {oid} was not uploaded")
        return Reply({})

    @route("GET", f"{WEB}/resolve/{REV}/(?P<path>.+)")
    def resolve(self, request: "Handler", kind: str, repo_id: str, rev: str, path: str) -> Reply:
        _, revision, files = self.find(kind, repo_id, rev)
        if path not in files:
            raise HubError(404, f"Entry not found: {path}", "EntryNotFound", {"X-Repo-Commit": revision})
        data, etag = files[path].data, f'"{files[path].etag}"'
        headers = {"X-Repo-Commit": revision, "ETag": etag, "Accept-Ranges": "bytes"}
        if files[path].lfs:
            headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(len(data))}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", ""))
        if asked is None or not any(asked.groups()):
            return Reply(data, headers=headers)
        first, last = asked.groups()  # "a-b" and "a-" count from the start, "-n" is the last n bytes
        start = int(first) if first else max(0, len(data) - int(last))
        stop = min(len(data), int(last) + 1) if first and last else len(data)
        if start >= stop:
            raise HubError(416, f"{path} has {len(data)} bytes, none of them in {asked[0]}")
        return Reply(data[start:stop], 206, headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"})


def _goes_to_lfs(path: str, size: int) -> bool:
    return Path(path).suffix in LFS_SUFFIXES or size >= LFS_SIZE


def _entries(files: dict[str, File]) -> dict[str, dict]:
    entries = {path: file.entry(path) for path, file in files.items()}
    for folder in {str(parent) for path in files for parent in Path(path).parents if parent.name}:
        oid = hashlib.sha1(json.dumps(sorted(p for p in files if p.startswith(f"{folder}/"))).encode()).hexdigest()
        entries[folder] = {"type": "directory", "path": folder, "size": 0, "oid": oid}
    return dict(sorted(entries.items()))


def _close(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the client was first


class Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up, or are hung up on, are nothing to tell."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One request: `query`, `body` and `headers` are what a route reads."""

    hub: HubServer
    protocol_version = "HTTP/1.1"  # connections stay open
    wbufsize = -1  # headers and body leave together

    def setup(self) -> None:
        super().setup()
        self.hub.connections.add(self.connection)

    def finish(self) -> None:
        self.hub.connections.discard(self.connection)
        super().finish()

    def answer(self) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        place = unquote(url.path)
        fault = self.hub.next_fault(f"{self.command} {place}")
        kind = fault and fault.kind
        size = int(self.headers.get("Content-Length", 0))
        if kind in ("cut upload", "stalled upload"):
            self.rfile.read(size // 2)
            self.hub.requests.append((self.command, place))
            self.stall() if kind == "stalled upload" else self.hang_up()
            return
        self.body = self.rfile.read(size)
        self.hub.requests.append((self.command, place))
        if kind == "stall":
            self.stall()
            return
        if kind == "late":
            fault.due.wait(fault.seconds)
        try:
            if kind == "status":
                raise HubError(fault.status, f"This is fault {fault.status}", headers=fault.headers)
            with self.hub.lock:
                reply = self.dispatch(url.path)
        except HubError as error:
            reply = error.reply
        except Exception:
            traceback.print_exc()
            reply = Reply({"error": traceback.format_exc()}, 500)
        if kind == "status" and fault.status >= 500:
            reply.content = b"<html>Not the Hub speaks, but a gateway before it</html>"
        if kind == "lost answer":
            self.hang_up()
            return
        is_file = isinstance(reply.content, bytes)
        body = reply.content if is_file else json.dumps(reply.content).encode()
        if kind == "short":
            body = body[: len(body) // 2]
        content = {"Content-Type": "application/octet-stream" if is_file else "application/json"}
        self.send_response(reply.status)
        for name, value in (content | {"Content-Length": str(len(body))} | reply.headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            body = b""
        if kind == "cut":
            if body:
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
            self.hang_up()
        elif kind == "drip":
            for byte in body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(fault.seconds)
        else:
            self.wfile.write(body)

    def hang_up(self) -> None:
        self.close_connection = True
        _close(self.connection)

    def stall(self) -> None:
        """Until the client has closed the connection, or the Hub is down."""
        self.close_connection = True
        ends = select.poll()
        ends.register(self.connection, select.POLLRDHUP)
        ends.poll()

    do_DELETE = do_GET = do_HEAD = do_POST = do_PUT = answer

    def dispatch(self, path: str) -> Reply:
        for method, pattern, answer, signed_in in ROUTES:
            # The pattern meets the path as it came: a "/" inside a revision or a folder is still a %2F.
            found = pattern.fullmatch(path)
            if not found or method != self.command.replace("HEAD", "GET"):
                continue
            if signed_in and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise HubError(401, "Invalid username or password.")
            arguments = {name: value and unquote(value) for name, value in found.groupdict().items()}
            if "kind" in arguments:
                arguments["kind"] = arguments["kind"].rstrip("s/") or "model"
            return answer(self.hub, self, **arguments)
        raise HubError(404, f"This Hub has no {self.command} {path}")

    def json(self) -> dict:
        return json.loads(self.body)

    def named_repo(self) -> tuple[str, str]:
        named = self.json()
        return named.get("type") or "model", f"{named.get('organization') or USER}/{named['name']}"

    def log_message(self, *args: object) -> None:
        """Nothing is printed: tests read `HubServer.requests`."""
