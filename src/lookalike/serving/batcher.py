"""Joins the images of all requests to batches, which one thread computes."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from .model import Arrays

CLOSE_SECONDS = 5.0
"""Time for the last batch, when all requests were answered or given up."""
Run: TypeAlias = Callable[[NDArray[np.float32]], Arrays]


@dataclass(frozen=True, eq=False)
class Waiting:
    """The images of one request."""

    images: NDArray[np.float32]
    answer: "asyncio.Future[Arrays]"


class Batcher:
    """Runs a model on batches of at most `max_batch` images.

    A batch is begun when the model is free. It waits at most `max_wait` seconds for as many images as the batch before
    it had; so one client alone never waits, and many are answered together.
    """

    def __init__(
        self,
        run: Run,
        *,
        max_batch: int,
        max_wait: float,
        report: Callable[[int, float], None],
    ) -> None:
        """`report` is called after each batch, in the event loop, with its number of images and its seconds."""
        self._run, self._max_batch, self._max_wait, self._report = run, max_batch, max_wait, report
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._left: Waiting | None = None
        self._closed = False
        self._threads = torch.get_num_threads()
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    async def run(self, images: NDArray[np.float32]) -> Arrays:
        """The outputs of the model for at most `max_batch` images."""
        waiting = Waiting(images, self._loop.create_future())
        self._queue.put(waiting)
        return await waiting.answer

    def close(self) -> None:
        """Ends the thread, or leaves it alone if it does not end: its model may hang."""
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)

    def _work(self) -> None:
        torch.set_num_threads(self._threads)  # each thread of Python has its own number
        last = 1
        while batch := self._next(min(last, self._max_batch)):
            last = sum(len(each.images) for each in batch)
            begin = time.perf_counter()
            try:
                joined = batch[0].images if len(batch) == 1 else np.concatenate([each.images for each in batch])
                found: Arrays | Exception = self._run(joined)
            except Exception as error:  # concerns one batch only
                found = error
            self._loop.call_soon_threadsafe(self._answer, batch, found, time.perf_counter() - begin)

    def _next(self, target: int) -> list[Waiting]:
        """The next batch; empty at the end.

        Args:
            target: images for which it waits.
        """
        first = self._left or self._get(None)
        self._left = None
        if first is None:
            return []
        batch, count = [first], len(first.images)
        until = time.perf_counter() + self._max_wait
        while count < self._max_batch and not self._closed:
            following = self._get(max(0.0, until - time.perf_counter()) if count < target else 0.0)
            if following is None:
                break
            if count + len(following.images) > self._max_batch:
                self._left = following
                break
            batch.append(following)
            count += len(following.images)
        return batch

    def _get(self, seconds: float | None) -> Waiting | None:
        """The next request; None if there is none after `seconds`, or no more at all."""
        while not self._closed:
            try:
                found = self._queue.get(timeout=seconds) if seconds != 0 else self._queue.get_nowait()
            except queue.Empty:
                return None
            if found is None:
                self._closed = True
            elif not found.answer.cancelled():
                return found
        return None

    def _answer(self, batch: Sequence[Waiting], found: Arrays | Exception, seconds: float) -> None:
        at = 0
        for each in batch:
            rows = slice(at, at + len(each.images))
            at = rows.stop
            if each.answer.done():  # its client is gone
                continue
            if isinstance(found, Exception):
                each.answer.set_exception(found)
            else:
                each.answer.set_result({name: value[rows] for name, value in found.items()})
        self._report(at, seconds)
