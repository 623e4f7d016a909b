"""What comes from the Hub, and what is said where it does not come."""

import errno
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ssl import SSLError

from huggingface_hub import get_session, hf_hub_download
from huggingface_hub.utils import httpx


SILENCE = 100  # seconds that a silent Hub is waited for
# Those of the network that have no class of their own.
NETWORK_ERRNOS = {errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH}


def limit_silence() -> None:
    """Has a silent Hub end in a timeout; for some requests (commits, lists of files) its client would wait for ever.

    It holds for this process and all requests without a limit of their own: those obey the `HF_HUB_*_TIMEOUT`.
    """
    session = get_session()
    hooks = session.event_hooks
    if _limit_silence not in hooks["request"]:
        session.event_hooks = hooks | {"request": [*hooks["request"], _limit_silence]}


def _limit_silence(request: httpx.Request) -> None:
    limits = request.extensions.get("timeout") or {}
    if not any(limits.values()):
        request.extensions["timeout"] = httpx.Timeout(SILENCE).as_dict()


@contextmanager
def wanted_of_hub(name: str) -> Iterator[None]:
    """Says what was wanted, and what to do, where the Hub does not give it.

    Raises:
        ConnectionError: The Hub is down, silent or busy, or refuses. Errors that name the thing stay as they are, and
            so do those of a path of this machine and of its own disk.
    """
    limit_silence()
    try:
        yield
    except (httpx.HTTPError, OSError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        is_of_network = isinstance(error, (httpx.HTTPError, ConnectionError, TimeoutError, socket.gaierror, SSLError))
        is_of_disk = not is_of_network and error.errno is not None and error.errno not in NETWORK_ERRNOS
        if os.path.exists(name) or is_of_disk or (name in said and not isinstance(error, httpx.HTTPError)):
            raise
        raise ConnectionError(
            f"{name} cannot be had from the Hub ({said[:500]}): try again later, and where it refuses, log in with "
            "`hf auth login`"
        ) from error


def local_file(path: str) -> str:
    """The path itself, or where `hf://datasets/ORG/NAME/FILE` lies once it is downloaded."""
    if not path.startswith("hf://"):
        return path
    found = re.fullmatch(r"hf://datasets/([^/]+/[^/@]+)(?:@([^/]+))?/(.+)", path)
    if found is None:
        raise ValueError(f"{path}: expected hf://datasets/ORG/NAME/FILE or hf://datasets/ORG/NAME@REVISION/FILE.")
    repo_id, revision, file_name = found.groups()
    with wanted_of_hub(path):
        return hf_hub_download(repo_id, file_name, repo_type="dataset", revision=revision)
