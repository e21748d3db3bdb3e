"""The work that a server has accepted: images that wait and bytes in memory, both limited."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..printing import counted
from .refusal import Refused

LEAST_RESERVED = 2**16
"""Bytes that count for any body: what a connection buffers before it waits."""
LONGEST_RETRY = 60
"""Seconds that a refused client is told to wait, at most."""


class Load:
    """Images and bytes of all requests that are in progress. Used in the event loop only."""

    def __init__(self, max_images: int, max_bytes: int) -> None:
        self.max_images, self.max_bytes = max_images, max_bytes
        self.images = 0
        self.bytes = 0
        self.seconds_per_image = 0.0
        """Of the last batches."""

    @contextmanager
    def uploading(self) -> Iterator[Callable[[int], None]]:
        """Counts the bytes of one request until its end. Calls with a number of bytes reserve memory for them.

        Raises:
            Refused: too many bytes are in memory (429).
        """
        reserved = 0

        def reserve(total: int) -> None:
            nonlocal reserved
            more = max(total, LEAST_RESERVED) - reserved
            if more <= 0:
                return
            if self.bytes + more > self.max_bytes:
                raise self._busy("Other requests take all the memory for uploads.")
            self.bytes += more
            reserved += more

        try:
            yield reserve
        finally:
            self.bytes -= reserved

    @contextmanager
    def waiting(self, images: int) -> Iterator[None]:
        """Counts images until they are answered.

        Raises:
            Refused: too many images wait (429).
        """
        if self.images + images > self.max_images:
            raise self._busy(f"The queue holds {counted(self.images, 'image')}, of at most {self.max_images}.")
        self.images += images
        try:
            yield
        finally:
            self.images -= images

    def _busy(self, why: str) -> Refused:
        seconds = min(LONGEST_RETRY, max(1, math.ceil(self.images * self.seconds_per_image)))
        return Refused(429, f"{why} Repeat the request in {seconds} s.", {"Retry-After": str(seconds)})
