"""A real server on a free port of this machine, in a thread or as a process of its own."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from lookalike import classifiers, encoders
from lookalike.classifiers import Classifier
from lookalike.data import decode
from lookalike.evaluation.features import crop
from lookalike.images import promote
from lookalike.runs import Folder
from lookalike.serving.metrics import SERIES
from lookalike.serving.model import Arrays, Description, Model, load
from lookalike.serving.process import Server, listening, new_server
from lookalike.serving.settings import Settings

from .networks import saved_vit


class Held:
    """A model that computes nothing until it is told to."""

    def __init__(self, model: Model) -> None:
        self.description: Description = model.description
        self.free = threading.Event()
        self.batches: list[int] = []
        self._run = model.run

    def run(self, images: NDArray[np.float32]) -> Arrays:
        self.batches.append(len(images))
        assert self.free.wait(30)
        return self._run(images)


@contextmanager
def served(encoder: Path | None = None, model: Model | None = None, **settings: Any) -> Iterator[str]:
    """The address of a server of an encoder or of a loaded model, in a thread of this process."""
    chosen = Settings(encoder=str(encoder), port=0, **settings)
    listener = listening(chosen.host, 0)
    server = new_server(model or load(chosen.encoder), chosen, array("d", [0.0]) * len(SERIES))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    port = listener.getsockname()[1]
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        stopped(server, thread)


def stopped(server: Server, thread: threading.Thread) -> None:
    server.should_exit = True
    thread.join(40)
    assert not thread.is_alive()


class Process:
    """`lookalike serve`, or a Python program that calls the function, as a user starts it."""

    def __init__(self, encoder: Path, *options: object, port: int = 0, program: str | None = None) -> None:
        command = ["-m", "lookalike", "serve", str(encoder), "--port", port, *options]
        words = [sys.executable, *(command if program is None else ["-c", program])]
        self.process = subprocess.Popen(
            [*map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True,
        )  # fmt: skip
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def await_line(self, pattern: str, seconds: float = 180) -> re.Match[str]:
        """The first line that a pattern meets."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for line in self.lines:
                if found := re.search(pattern, line):
                    return found
            if self.process.poll() is not None and not self._reader.is_alive():
                break
            time.sleep(0.05)
        raise AssertionError(f"no line {pattern!r}: {self.lines}")

    @property
    def url(self) -> str:
        return self.await_line(r", at (http://\S+);")[1]

    def stop(self, number: int = signal.SIGTERM, seconds: float = 40) -> int:
        """Sends a signal and returns the exit code."""
        self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        finally:
            self.kill()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(5)


def files(*paths: Path) -> list[tuple[str, tuple[str, bytes]]]:
    """Images as a form, for httpx."""
    return [("images", (path.name, path.read_bytes())) for path in paths]


def tensors(model: Description, *paths: Path) -> NDArray[np.float32]:
    """Images as the model takes them: cropped and normalised, (N, C, S, S)."""
    crops = [crop(decode(path, model.pixels), model.image_size) for path in paths]
    mean, std = (np.array(v, np.float32).reshape(-1, 1, 1) for v in (model.mean, model.std))
    return np.stack([(promote(each, torch.float32).numpy() - mean) / std for each in crops])


def bomb(path: Path, side: int) -> Path:
    """A small PNG file of many black pixels."""
    Image.new("1", (side, side)).save(path)
    return path


def resident(process: int) -> int:
    """Bytes of memory of a process."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


CLASSES = ("cat", "dog", "fox", "owl")


def saved_classifier(folder: Path, seed: int = 0) -> Path:
    """The folder of a classifier with four classes, timm's test_vit for 32 pixels; the seed is of its head."""
    encoder = encoders.load(saved_vit(folder))
    torch.manual_seed(seed)
    head = nn.Linear(encoder.dim, len(CLASSES))
    classifiers.save(Folder(folder), Classifier(encoder, head, CLASSES), encoders.read_card(Folder(folder)))
    return folder
