"""Finds the members of a tar archive by its headers, without reading their content."""

import os
from collections.abc import Iterator
from typing import IO, Final, NamedTuple

_BLOCK: Final = 512
_MAX_HEADER: Final = 2**20
"""Limit for a long name or a pax header, in bytes."""
_COMPRESSED: Final = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Member(NamedTuple):
    """A regular file in an archive."""

    name: str
    offset: int
    """Position of its first byte in the archive."""
    size: int
    storage: int = 0
    """How it is stored: 0 in tar archives; see `zip_members.py`."""


def members(file: IO[bytes], path: str) -> Iterator[Member]:
    """The regular files of an open tar archive, in file order: ustar, GNU and pax headers.

    Raises:
        ValueError: it is compressed, truncated, damaged, or has sparse files; the message names the position.
    """
    size = os.fstat(file.fileno()).st_size
    at, long_name, pax = 0, b"", dict[bytes, bytes]()
    while at < size:
        file.seek(at)
        head = file.read(_BLOCK)
        if len(head) < _BLOCK and at:
            raise ValueError(_truncated(path, at))
        if not head.strip(b"\0"):
            return
        if not at and (packed := next((name for begin, name in _COMPRESSED.items() if head.startswith(begin)), "")):
            raise ValueError(f"{path} is compressed by {packed}, so its members cannot be read one by one. Unpack it.")
        try:
            declared, length = int(head[148:156].strip(b" \0") or b"0", 8), _number(head[124:136])
        except (ValueError, IndexError):  # too short
            declared, length = -1, 0
        if len(head) < _BLOCK or declared != sum(head) - sum(head[148:156]) + 8 * 32:
            raise ValueError(f"{path} is not a tar archive, or is damaged at byte {at}. Create or copy it again.")
        length = int(pax.get(b"size", length))
        start, kind = at + _BLOCK, head[156:157]
        at = start + -(-length // _BLOCK) * _BLOCK
        if start + length > size:
            raise ValueError(_truncated(path, start))
        if kind in b"LxK":
            if length > _MAX_HEADER:
                raise ValueError(f"{path} has a header of {length} bytes at byte {start}. Create or copy it again.")
            content = file.read(length)
            if kind == b"L":
                long_name = content.rstrip(b"\0")
            elif kind == b"x":
                pax = _pax(content, path)
            continue
        if kind in b"\x000" + b"7" and kind:
            prefix = head[345:500].split(b"\0")[0] if head[257:263] == b"ustar\0" else b""
            short = head[:100].split(b"\0")[0]
            name = pax.get(b"path") or long_name or (prefix + b"/" + short if prefix else short)
            if not name.endswith(b"/"):  # old archives mark folders so
                yield Member(os.fsdecode(name), start, length)
        elif kind == b"S":
            raise ValueError(
                f"{path} has a sparse file at byte {start}. Create it again without sparse files (option -S of tar)."
            )
        long_name, pax = b"", {}


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # GNU's form of numbers above 8 GiB
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    return int(field.strip(b" \0") or b"0", 8)


def _pax(content: bytes, path: str) -> dict[bytes, bytes]:
    """The records "LENGTH KEY=VALUE\\n" of a pax header."""
    found = {}
    while content.strip(b"\0"):
        length, _, _ = content.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(content):
            raise ValueError(f"{path} has a damaged pax header. Create or copy it again.")
        key, _, value = content[len(length) + 1 : int(length) - 1].partition(b"=")
        found[key] = value
        content = content[int(length) :]
    return found


def _truncated(path: str, at: int) -> str:
    return f"{path} is truncated: its last file begins at byte {at} and is incomplete. Copy the archive again."
