"""Finds the members of a zip archive by its directory, and unpacks the content of one in memory."""

import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Final

from .. import limits
from .tar_members import Member

_ENCRYPTED: Final = 0x1
_LOCAL: Final = 30
"""Bytes of a local header before the name."""
_METHODS: Final = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}


def members(file: IO[bytes], path: str) -> Iterator[Member]:
    """The files of an open zip archive. `storage` is the compression method times 2**32 plus the CRC-32.

    Raises:
        ValueError: it is damaged, truncated or encrypted.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, EOFError, struct.error) as error:
        raise ValueError(f"{path} is not a zip archive, or is truncated ({error}). Copy it again.") from None
    for entry in entries:
        if entry.is_dir():
            continue
        if entry.flag_bits & _ENCRYPTED:
            raise ValueError(f"{path} is encrypted ({entry.filename}). Create it again without a password.")
        yield Member(entry.filename, entry.header_offset, entry.compress_size, entry.compress_type << 32 | entry.CRC)


class Damaged(ValueError):
    """A member that cannot be unpacked."""


def content(read: Callable[[int, int], bytes], offset: int, size: int, storage: int) -> bytes:
    """The unpacked content of a member.

    Args:
        read: returns a number of bytes of the archive from an offset.
        offset, size, storage: of the member.

    Raises:
        Damaged: another compression method, damaged or too large content.
    """
    method, crc = storage >> 32, storage & 0xFFFFFFFF
    if method not in _METHODS:
        raise Damaged(f"compressed by zip's method {method}; expected stored or deflated")
    if size > limits.MAX_BYTES:
        raise Damaged(f"a file of {size / 2**20:.0f} MiB, {limits.TOO_MUCH}")
    head = read(offset, _LOCAL)
    if len(head) < _LOCAL or not head.startswith(b"PK\x03\x04"):
        raise Damaged("its header in the zip archive is damaged")
    name, extra = struct.unpack("<HH", head[26:30])
    found = read(offset + _LOCAL + name + extra, size)
    if method == zipfile.ZIP_DEFLATED:
        try:
            unpacker = zlib.decompressobj(-15)
            found = unpacker.decompress(found, limits.MAX_BYTES + 1)
        except zlib.error:
            raise Damaged("its content in the zip archive is damaged") from None
        if len(found) > limits.MAX_BYTES:
            raise Damaged(f"a file of more than {limits.MAX_BYTES / 2**20:.0f} MiB, {limits.TOO_MUCH}")
    if zlib.crc32(found) != crc:
        raise Damaged("its content in the zip archive is damaged")
    return found
