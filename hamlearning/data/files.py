"""Files that are there whole and on the disk, or not at all."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


def write_text(path: Path, text: str):
    """Writes text as `write_bytes` does, in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes):
    """Writes a file that is there, whole and on the disk, or not at all; until then its predecessor stays."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        sync(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_utf8(path: Path) -> str:
    """The text of a file, without a byte order mark; line ends stay as they are.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not UTF-8; the message names the line.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise OSError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: the byte 0x{raw[error.start]:02x} is not UTF-8: save the file as UTF-8"
        ) from None


def move_into(staged: Path, folder: Path):
    """Moves the files of one folder into another, each in place of its predecessor at one stroke."""
    for path in sorted(path for path in staged.rglob("*") if path.is_file()):
        target = folder / path.relative_to(staged)
        target.parent.mkdir(parents=True, exist_ok=True)
        sync(path)
        os.replace(path, target)
    shutil.rmtree(staged, ignore_errors=True)  # NFS keeps names of what is open


@contextmanager
def writing(what: str, folder: Path, remedy: str) -> Iterator[None]:
    """Turns what the libraries raise when they cannot write (each something else) into one sentence.

    Raises:
        OSError: says what could not be written, where, why, and the remedy.
    """
    try:
        yield
    except Exception as error:
        text = str(error).strip().partition("\n")[0]
        libraries = ("os error", "PytorchStreamWriter", "inline_container")
        if not isinstance(error, OSError | SafetensorError) and not any(word in text for word in libraries):
            raise
        existing = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
        is_full = shutil.disk_usage(existing).free < 2**20
        reason = getattr(error, "strerror", None) or ("No space left on device" if is_full else text)
        raise OSError(f"{what} could not be written to {folder}: {reason}. {remedy}") from error


def sync(path: Path):
    """Waits until a file, or a folder's list of names, is on the disk."""
    if os.name == "nt":  # which opens no folder, and waits only for what may be written
        if path.is_file():
            with path.open("r+b") as file:
                os.fsync(file.fileno())
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
