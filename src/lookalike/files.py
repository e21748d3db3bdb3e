"""Files: atomic writing, locks, reading within limits, digests. Errors include a remedy.

Imports nothing else of the package.
"""

import errno
import hashlib
import itertools
import json
import os
import platform
import re
import secrets
import shutil
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

FORMAT = 1
"""The format number in every file that later versions must be able to read."""


# ---------------------------------------------------------------- errors of the system


_REMEDIES = {
    errno.ENOSPC: "Make room there.",
    errno.EDQUOT: "Make room there.",
    errno.EACCES: "Make it and its folder writable for this user.",
    errno.EPERM: "Make it and its folder writable for this user.",
    errno.EROFS: "Make the file system writable; the system turns it read-only after a fault of the disk.",
    errno.EIO: "Check the disk.",
    errno.ENOENT: "Its folder was moved or removed.",
    errno.ELOOP: "It is a link, and nothing is written through links: replace it by the file itself.",
}
"""Remedies for errors of the system on writing."""


@contextmanager
def named(path: Path, then: Callable[[], str] = str) -> Iterator[None]:
    """Replaces an error of the system while `path` is written by one with the path, the reason and a remedy.

    `then` returns what to do once the cause is removed.
    """
    try:
        yield
    except Exception as error:
        if (cause := _of_the_system(error)) is None:
            raise
        number = cause.errno or 0
        reason = os.strerror(number) + (f", {_room(path)}" if number == errno.ENOSPC else "")
        remedy = _REMEDIES.get(number, "")
        raise type(cause)(f"{path} could not be written ({reason}). {remedy}{then()}".strip()) from error


def _of_the_system(error: BaseException | None) -> OSError | None:
    """The system error that caused an error of torch, as its context, or of safetensors, in its message."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            return OSError(int(number[1]), os.strerror(int(number[1])))
        error = error.__cause__ or error.__context__
    return None


def _room(path: Path) -> str:
    """The free space of a full disk, as text."""
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return "the disk is gone"
    if disk.f_files and not disk.f_favail:
        return "no more files can be created"
    return f"{disk.f_bavail * disk.f_frsize / 2**20:.0f} MiB are free"


# ---------------------------------------------------------------- writing


def sync(path: Path) -> None:
    """Flushes a file or folder to disk, so that a power failure cannot undo a rename."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def nearest_folder(path: Path, option: str) -> Path:
    """The folder at `path`, or else its nearest existing parent, in which it would be created.

    Args:
        option: the option with the path, for the message.

    Raises:
        FileExistsError: it, or a parent, is a file.
    """
    folder = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    if not folder.is_dir():
        raise FileExistsError(f"{folder} is a file. Give {option} another folder.")
    return folder


def check_writable(path: Path, option: str = "--out") -> None:
    """Refuses a file that could not be written, before there is work to lose; changes nothing.

    Args:
        path: of the file.
        option: the option with the path or its folder, for the message.

    Raises:
        FileExistsError, PermissionError: it is a folder, its folder is a file, or nothing may be written there.
    """
    if path.is_dir():
        raise FileExistsError(f"{path} is a folder. Give {option} a file.")
    folder = next(p for p in path.absolute().parents if p.exists())
    if not folder.is_dir():
        raise FileExistsError(f"{path} cannot be written: {folder} is a file. Give another {option}.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} cannot be written: {folder} is read-only for this user. Give another {option}.")


def check_output(path: Path, overwrite: bool, option: str = "--out") -> None:
    """Refuses a file that could not be written, or that exists and must not be replaced.

    Raises:
        FileExistsError, PermissionError: as `check_writable`, or the file exists.
    """
    check_writable(path, option)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists. Give another {option}, or --overwrite.")


def not_through_links(path: str | os.PathLike[str], flags: int) -> int:
    """For `open(..., opener=)`: opens a regular file for writing, and refuses links."""
    if sys.platform == "win32":
        return os.open(path, flags, 0o666)
    handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)  # O_NONBLOCK: a pipe would block
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise FileExistsError(errno.EEXIST, "it is not a regular file", os.fspath(path))
    return handle


def temporary_beside(path: Path) -> Path:
    """A temporary name next to `path`: unpredictable, and unique among hosts that share the folder."""
    host = re.sub(r"[^A-Za-z0-9-]", "-", platform.node())[:32]
    return path.with_name(f".{path.stem[:40]}.{host}.{secrets.token_hex(8)}.tmp{path.suffix}")


_TEMPORARY = re.compile(r"\.(.+?)\.(?:[A-Za-z0-9-]*\.[0-9a-f]{16}|\d+)\.tmp((?:\.\w+)*)")
"""Names by `temporary_beside`, and those of 0.1, which had only the process id."""


def becomes(path: Path) -> str | None:
    """The final name of a temporary file of ours; None for any other file."""
    found = _TEMPORARY.fullmatch(path.name)
    return f"{found[1]}{found[2]}" if found and path.is_file() and not path.is_symlink() else None


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a new, empty file next to `path` to write to; on success it is flushed and renamed, else removed.

    Raises:
        OSError: it could not be written; the message has the path, the reason and a remedy.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        with named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "xb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            yield temporary
            with suppress(PermissionError):  # not all file systems have modes
                temporary.chmod(mode)  # safetensors replaces it by a file with mode 600
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        with suppress(OSError):  # a folder that cannot be written to
            temporary.unlink()


def second_name(file: Path, name: Path) -> None:
    """Creates `name` as a hard link to `file`, or as a copy if the file system has no links."""
    try:
        os.link(file, name)
    except FileExistsError:
        raise
    except OSError:
        with open(file, "rb") as old, open(name, "xb") as new:
            shutil.copyfileobj(old, new)
        sync(name)


def unused(path: Path) -> Path:
    """`path`, or if it exists the first of `path.2`, `path.3`, ... that does not."""
    names = (path if i == 1 else path.with_name(f"{path.name}.{i}") for i in itertools.count(1))
    return next(name for name in names if not os.path.lexists(name))


def cache_folder() -> Path:
    """The default folder of files for later runs: ~/.cache/lookalike."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lookalike"


# ---------------------------------------------------------------- locks


@contextmanager
def locked(path: Path, *, wait: Callable[[str], None] | None) -> Iterator[bool]:
    """Holds a lock, released when the process exits for any reason; yields False if the system has no locks.

    Args:
        wait: called with a line once another process has held it for a second; None: do not wait.

    Raises:
        BlockingIOError: another process holds it, and `wait` is None.
    """
    if sys.platform == "win32":
        path.parent.mkdir(parents=True, exist_ok=True)
        yield False
        return
    import fcntl

    reported, began = False, time.monotonic()
    while True:
        with named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # errors within the context are not errors of this file
            file = open(path, "a", opener=not_through_links)  # noqa: SIM115
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock, which workers would inherit
            held = True
        except BlockingIOError:
            file.close()
            if wait is None:
                raise BlockingIOError(
                    f"Another process is working in {path.parent}. Wait for it, stop it, or name another folder."
                ) from None
            if not reported and time.monotonic() - began > 1:
                wait(f"Waiting for another process that holds {path}")
                reported = True
            time.sleep(0.05)
            continue
        except OSError:  # a file system without locks
            held = False
        same = False
        with suppress(FileNotFoundError):  # its last holder removed it
            same = os.path.samestat(os.fstat(file.fileno()), os.stat(path))
        if same or not held:
            break
        file.close()
    with file:
        yield held


_CHANGING = threading.Lock()  # locks of the system are per process


@contextmanager
def changing(path: Path, wait: Callable[[str], None]) -> Iterator[None]:
    """Lets one process at a time read a file, change it and write it back; a lock file is next to it meanwhile.

    `wait` is as in `locked`.
    """
    lock = lock_of(path)
    with _CHANGING, locked(lock, wait=wait) as held:
        try:
            for other in path.parent.iterdir() if held else ():
                if becomes(other) == path.name:  # left by a killed process
                    other.unlink(missing_ok=True)
            yield
        finally:
            if is_lock(lock):
                lock.unlink(missing_ok=True)


def lock_of(path: Path) -> Path:
    """The lock file of a file that several processes change."""
    return path.with_name(f".{path.name}.lock")


def is_lock(path: Path) -> bool:
    """Whether a file may be one of our lock files, which are empty."""
    return path.is_file() and not path.is_symlink() and not path.stat().st_size


# ---------------------------------------------------------------- text and JSON


MOST_BYTES = 2**28
"""Maximum size of a file that is read as a whole."""
DEEPEST = 64
"""Maximum nesting of lists and mappings; our own files have 5 levels."""

_KINDS: dict[type, str] = {dict: "object", list: "list"}


def read_text(path: Path, maximum: int = MOST_BYTES) -> str:
    """The text of a file.

    Raises:
        ValueError: it is larger than `maximum` bytes, or not in UTF-8.
        OSError: it is not a regular file (a pipe would block), or cannot be read.
    """
    if path.exists() and not path.is_file():
        raise FileExistsError(f"{path} is not a file. Move it away, or replace it by the file.")
    with open(path, "rb") as file:
        content = file.read(maximum + 1)
    if len(content) > maximum:
        raise ValueError(f"{path} is larger than the {maximum / 2**20:g} MiB limit for a file of its type.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}). Save it as UTF-8."
        ) from None


def parse_json(text: str, where: object, kind: type[T]) -> T:
    """The content of a JSON text; `where` names it in messages.

    Raises:
        ValueError: it is not JSON, nested too deeply, or not of type `kind`.
    """
    try:
        content: Any = json.loads(text)
    except RecursionError:
        raise ValueError(_too_deep(where)) from None
    except ValueError as error:
        raise ValueError(f"{where} is not JSON ({error}).") from None
    if _is_deep(content):
        raise ValueError(_too_deep(where))
    if not isinstance(content, kind):
        raise ValueError(f"{where} holds no {_KINDS.get(kind, kind.__name__)}.")
    return content


def read_json(path: Path, kind: type[T]) -> T:
    """The content of a JSON file; errors are those of `read_text` and `parse_json`."""
    return parse_json(read_text(path), path, kind)


def _is_deep(content: object) -> bool:
    level = [content]
    for _ in range(DEEPEST):
        parts = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level = [child for part in parts for child in part if isinstance(child, dict | list)]
    return bool(level)


def _too_deep(where: object) -> str:
    return f"{where} is nested more than {DEEPEST} levels deep, which none of our files is."


def write_json(path: Path, content: object) -> None:
    """Writes JSON atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


# ---------------------------------------------------------------- digests


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as `sha256sum` prints it."""
    with open(path, "rb") as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:  # an error of the disk has no path
            raise OSError(error.errno, error.strerror, str(path)) from None
