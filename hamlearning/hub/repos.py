"""Repos of the Hub: made, and given a new revision in one commit, whatever state the Hub is in."""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import httpx, parse_ratelimit_headers, validate_repo_id

from hamlearning.data.downloads import limit_silence


logger = logging.getLogger(__name__)

# The Hub client asks again where the Hub is down or busy, but not for what changes a repo: there it is done here, with
# the client's own waits.
WAITS = (1, 2, 4, 8, 8)
LONGEST_WAIT = 300  # seconds that the Hub may ask for: it counts requests in windows of five minutes
# The second one: another one has committed meanwhile.
PASSING = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.PRECONDITION_FAILED, HTTPStatus.TOO_MANY_REQUESTS)
REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


class PublishError(RuntimeError):
    """Nothing was published; the message says why and what to do."""


def create_repo(repo_id: str, repo_type: str = "model", private: bool | None = None, token: str | None = None) -> str:
    """Makes the repo if there is none, makes sure that it can be written to, and returns its full name.

    Raises:
        ValueError: the Hub could have no repo of this name.
        PublishError: nobody is logged in, the name is not theirs, the Hub cannot be reached, or what is meant to be
            private is public there already.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(
            f"{repo_id!r} is no name of a {repo_type} repo: give ORG/NAME, each of letters, digits, '-', '_' and '.' "
            "(neither at an end, nor '--' or '..'), and of 96 characters at most."
        ) from error
    api = HfApi(token=token)

    def make() -> tuple[str, bool]:
        full_name = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True).repo_id
        # `exist_ok` forgives a bad token where there is a repo, and does not make that repo private.
        api.auth_check(full_name, repo_type=repo_type, write=True)
        return full_name, bool(api.repo_info(full_name, repo_type=repo_type).private)

    try:
        full_name, is_private = _persist(make)
    except (httpx.HTTPError, OSError, ValueError) as error:
        remedy = "log in with `hf auth login` and check that the name is ORG/NAME with an ORG that you may write to."
        if isinstance(error, OfflineModeIsEnabled) or _is_passing(error):
            remedy = "try again later."
        raise PublishError(
            f"The {repo_type} repo {repo_id} cannot be written to ({_reason(error)}): {remedy}"
        ) from error
    if private and not is_private:
        raise PublishError(
            f"The {repo_type} repo {repo_id} is public: make it private on the Hub, or take another name."
        )
    return full_name


def commit_files(
    files: Mapping[str, Path | bytes],
    repo_id: str,
    message: str,
    repo_type: str = "model",
    own_files: Sequence[str] = (),
    token: str | None = None,
) -> CommitInfo:
    """Makes `files` the content of a repo, in one commit.

    Not by `upload_folder`: it cuts a slow upload into several commits, and people would be served half of it.

    Args:
        files: by their paths in the repo, where they lie or what they hold.
        repo_id: a repo that exists.
        message: of the commit.
        repo_type: `model` or `dataset`.
        own_files: patterns of what is ours in the repo: files that match and are not among `files` are removed.
        token: of the Hub; that of `hf auth login` if None.

    Raises:
        PublishError: the Hub cannot be reached or refuses; it serves whole revisions alone.
    """
    api = HfApi(token=token)

    def additions() -> list[CommitOperationAdd]:
        return [CommitOperationAdd(path, files[path]) for path in sorted(files)]

    def commit() -> CommitInfo:
        # Anew each time: the commit may have been made and the answer lost, and then nothing is left to do.
        head: Any = api.repo_info(repo_id, repo_type=repo_type)
        stale = sorted(
            file.rfilename
            for file in head.siblings or ()
            if file.rfilename not in files and any(_matches(file.rfilename, pattern) for pattern in own_files)
        )
        operations = [*additions(), *map(CommitOperationDelete, stale)]
        return api.create_commit(
            repo_id, operations, commit_message=message, repo_type=repo_type, parent_commit=head.sha
        )

    try:
        limit_silence()
        # By itself, because here the client persists: tried again as a part of the commit, it would do so 36 times.
        api.preupload_lfs_files(repo_id, additions(), repo_type=repo_type)
        return _persist(commit)
    except (httpx.HTTPError, OSError, RuntimeError, ValueError) as error:
        # The client's RuntimeError says which file it was, and has the reason behind it.
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ is not None else error
        reason = _reason(error) if cause is error else f"{error} {_reason(cause)}"
        is_refused = isinstance(cause, HfHubHTTPError) and cause.response.status_code in REFUSED
        remedy = " Log in with `hf auth login`, as one who may write to it." if is_refused else ""
        raise PublishError(
            f"{repo_id} was not published ({reason}). The Hub serves its last whole revision.{remedy}"
        ) from error


def _persist(call: Callable[[], Any]) -> Any:
    """What `call` returns; it is called again while the Hub is down, silent or busy, and has to bear that."""
    for wait in (*WAITS, None):
        limit_silence()
        try:
            return call()
        except (httpx.HTTPError, json.JSONDecodeError) as error:
            if wait is None or not _is_passing(error):
                raise
            asked = _asked_wait(error)
            if asked is not None and asked > LONGEST_WAIT:
                raise
            wait = wait if asked is None else asked + 1  # they are whole seconds, rounded
            logger.warning(f"The Hub: {_reason(error)}. Trying again in {wait} s.")
        time.sleep(wait)


def _is_passing(error: Exception) -> bool:
    """Whether it may be over soon: no connection, no answer, a busy server, another one's commit at the same time."""
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return status in PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    # A gateway's page where the client expects JSON.
    kinds = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError, json.JSONDecodeError)
    return isinstance(error, kinds)


def _asked_wait(error: BaseException) -> int | None:
    """The seconds that the Hub asks to wait, if it does."""
    if not isinstance(error, HfHubHTTPError):
        return None
    limit = parse_ratelimit_headers(error.response.headers)
    if limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds
    asked = error.response.headers.get("Retry-After", "")
    return int(asked) if asked.isdecimal() else None


def _matches(path: str, pattern: str) -> bool:
    """Whether the pattern means the path, folder by folder."""
    return path.count("/") == pattern.count("/") and PurePosixPath(path).match(pattern)


def _reason(error: BaseException) -> str:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    asked = _asked_wait(error)
    return reason if asked is None else f"{reason}; it asks to wait {asked} s"
