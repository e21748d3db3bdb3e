"""A real `tritonserver` on a free port of this machine, as a program that reads an export."""

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ...backbones.onnx_file import IMAGES
from ..consumers import Statement

EXECUTABLE = "tritonserver"
START = 180
"""Seconds within which a server must have loaded its models."""
STOP = 15
"""Seconds for its end."""
NOT_INSTALLED = ("unable to find backend library", "No module named")
"""In the reasons of models whose backend, or Python package, this server does not have."""


@dataclass(frozen=True)
class Server:
    """A server that answers."""

    address: str
    """Host and port."""
    name: str
    """The program and its version."""
    ready: list[str]
    """Models that it has loaded."""
    refused: dict[str, str]
    """The reasons for which it has not loaded others."""


def missing() -> str:
    """What this machine lacks to start a server and ask it; "" if nothing."""
    if shutil.which(EXECUTABLE) is None:
        return f"{EXECUTABLE} is not on PATH"
    return "" if find_spec("tritonclient") is not None else "tritonclient[http] is not installed"


def is_not_installed(reason: str) -> bool:
    """Whether a model was refused because this server lacks its backend or a Python package."""
    return any(text in reason for text in NOT_INSTALLED)


@contextlib.contextmanager
def running(repository: Path, models: Sequence[str]) -> Iterator[Server]:
    """Starts the `tritonserver` on PATH with those of the models that it can load, and ends it afterwards.

    Raises:
        ValueError: it does not start.
    """
    import tritonclient.http as triton

    port = _free_port()
    words = [
        EXECUTABLE, "--model-repository", str(repository), "--model-control-mode", "explicit",
        *(word for model in models for word in ("--load-model", model)), "--exit-on-error", "false",
        "--disable-auto-complete-config", "--http-address", "127.0.0.1", "--http-port", str(port), "--allow-grpc",
        "false", "--allow-metrics", "false",
    ]  # fmt: skip
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        try:
            with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
                _wait(client, process, log)
                facts = client.get_server_metadata()
                index = {each["name"]: each for each in client.get_model_repository_index() if each["name"] in models}
            ready = [model for model in models if index.get(model, {}).get("state") == "READY"]
            reasons = {model: _line(index.get(model, {}).get("reason", "")) for model in models if model not in ready}
            yield Server(f"127.0.0.1:{port}", f"{EXECUTABLE} {facts['version']}", ready, reasons)
        finally:
            process.terminate()
            try:
                process.wait(STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class ByTriton:
    """A model in a running server."""

    def __init__(self, server: Server, model: str, statement: Statement) -> None:
        """`statement` is that of the ONNX file: a server states names and shapes only."""
        import tritonclient.http as triton

        self.triton, self.model, self.statement = triton, model, statement
        self.name = f"{server.name} ({model})"
        self.client = triton.InferenceServerClient(server.address, network_timeout=START)

    def run(self, images: NDArray[Any]) -> Mapping[str, NDArray[np.float32]]:
        given = self.triton.InferInput(IMAGES, images.shape, "UINT8")
        given.set_data_from_numpy(images)
        answer = self.client.infer(self.model, [given])
        return {each["name"]: answer.as_numpy(each["name"]) for each in answer.get_response()["outputs"]}


def _wait(client: Any, process: "subprocess.Popen[bytes]", log: IO[str]) -> None:
    """Returns when the server answers, which it does after it has loaded its models."""
    end = time.monotonic() + START
    while time.monotonic() < end and process.poll() is None:
        try:
            if client.is_server_live():
                return
        except OSError:  # it does not listen yet
            time.sleep(0.1)
    log.seek(0)
    lines = [line for line in log.read().splitlines() if line.strip()] or ["it printed nothing"]
    errors = [line for line in lines if line.startswith("E") or "error" in line.lower()]
    state = "does not answer" if process.poll() is None else f"exits with {process.returncode}"
    raise ValueError(
        f"{EXECUTABLE} {state}: {_line((errors or lines)[-1])} Start it as README.md shows, or take it off PATH to "
        "export without it."
    )


def _line(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith(".") else f"{text}."


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
