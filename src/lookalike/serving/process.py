"""The processes of a server: a single one, or several workers that share a port and are restarted if they end."""

import logging
import multiprocessing
import os
import signal
import socket
import time
from array import array
from collections.abc import Callable, Iterator, MutableSequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.sharedctypes import RawArray
from types import FrameType

import torch
import uvicorn

from .. import processes
from ..printing import are, counted, message, pasteable
from .app import make_app
from .connections import Connection
from .metrics import SERIES
from .model import Model, load
from .settings import Settings

BACKLOG = 2048
"""Connections that the system keeps until they are accepted."""
DRAIN_SECONDS = 25
"""Time for accepted requests to be answered after SIGTERM; Kubernetes kills after 30."""
QUICK_SECONDS = 30.0
"""A worker that ends sooner than this after its start counts as one that cannot run."""
MOST_QUICK = 3
"""Such ends in a row, after which the server gives up."""
KEEP_SECONDS = 75
"""Time in which a client may use its connection again; proxies close theirs after 60."""
_SPARE_FILES = 128
"""Open files that are not connections."""


class Server(uvicorn.Server):
    """Answers accepted requests after the first signal, and ends at once after the second."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


class Worker(Server):
    """One of several: its starter alone ends it. (Ctrl-C reaches all processes of a terminal.)"""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig != signal.SIGINT:
            super().handle_exit(sig, frame)


def serve(settings: Settings, say: Callable[[str], None]) -> None:
    """Serves until SIGTERM or Ctrl-C.

    Raises:
        ValueError, FileNotFoundError, ModuleNotFoundError: the encoder cannot be loaded.
        OSError: the port cannot be used.
        RuntimeError: workers end again and again.
    """
    gpus = torch.cuda.device_count()
    if 0 < gpus < settings.workers:
        raise ValueError(
            f"--workers is {settings.workers}, but there {are(gpus)} {counted(gpus, 'GPU')}. Give at most one worker "
            "per GPU."
        )
    with listening(settings.host, settings.port) as listener:
        if settings.workers > 1:
            Supervisor(settings, listener, gpus, say).run()
        else:
            model = load(settings.encoder, settings.backbone)
            _say_ready(model.description.line(), settings, listener, say)
            server = new_server(model, settings, array("d", [0.0]) * len(SERIES))
            server.run([listener])
    say("Stopped.")


def listening(host: str, port: int) -> socket.socket:
    """A socket that accepts connections from now on.

    Raises:
        OSError: the address is in use, or none of this machine.
    """
    where = f"{host} port {port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise OSError(f"{host} is no address of this machine ({error.strerror}). Give another --host.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(
            f"{where} cannot be used ({error.strerror}). Give another --port, or stop what uses it."
        ) from None
    return listener


def new_server(
    model: Model, settings: Settings, cells: MutableSequence[float], worker: int = 0, kind: type[Server] = Server
) -> Server:
    """A server that is not running yet; arguments are those of `make_app`."""
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # errors of clients are reported to them
    config = uvicorn.Config(
        make_app(model, settings, cells, worker), http=Connection, ws="none", lifespan="on", log_config=None,
        access_log=False, server_header=False, timeout_keep_alive=KEEP_SECONDS, proxy_headers=False, backlog=BACKLOG,
        limit_concurrency=max_connections(), timeout_graceful_shutdown=DRAIN_SECONDS,
    )  # fmt: skip
    return kind(config)


def max_connections() -> int | None:
    """Connections that a process may hold open; the limit of open files is raised as far as the system allows."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return None if soft == resource.RLIM_INFINITY else max(16, soft - _SPARE_FILES)


def url_of(settings: Settings, listener: socket.socket) -> str:
    host = settings.host if ":" not in settings.host else f"[{settings.host}]"
    return f"http://{host}:{listener.getsockname()[1]}"


def _say_ready(line: str, settings: Settings, listener: socket.socket, say: Callable[[str], None]) -> None:
    url = url_of(settings, listener)
    token = [] if settings.token is None else ["-H", "Authorization: Bearer TOKEN"]
    say(f"Serving {line}, at {url}; {url}/docs says what it takes. Ctrl-C or SIGTERM stops it.")
    say(f"Try it: {pasteable('curl', *token, '-F', 'images=@photo.jpg', f'{url}/embed')}")


@dataclass
class _Started:
    """A worker's process."""

    process: SpawnProcess
    pipe: Pipe
    since: float
    quick: int
    """Times in a row that it ended soon after its start."""
    is_ready: bool = False


class Supervisor:
    """Starts workers, and starts them again if they end; sends them SIGTERM at the end."""

    def __init__(self, settings: Settings, listener: socket.socket, gpus: int, say: Callable[[str], None]) -> None:
        self._settings, self._listener, self._gpus, self._say = settings, listener, gpus, say
        self._context: SpawnContext = multiprocessing.get_context("spawn")
        self._cells: MutableSequence[float] = RawArray("d", settings.workers * len(SERIES))
        self._workers: dict[int, _Started] = {}
        self._sha256 = ""
        self._stops = False

    def run(self) -> None:
        """Until a signal.

        Raises:
            ValueError: the first workers cannot load the encoder.
            RuntimeError: workers end again and again, or none is left.
        """
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for worker in range(self._settings.workers):
                self._start(worker, 0)
            line = ""
            for worker in [*self._workers]:
                line = self._await_first(worker) or line
            for started in self._workers.values():
                self._let_serve(started)
            if not self._stops:
                _say_ready(f"{line}, by {self._settings.workers} workers", self._settings, self._listener, self._say)
            while not self._stops:
                self._look()
        finally:
            self._end()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stops = True

    def _start(self, worker: int, quick: int) -> None:
        ours, theirs = self._context.Pipe()
        arguments = (self._settings, self._listener, self._cells, worker, theirs)
        process = self._context.Process(target=_work, args=arguments, daemon=True)
        with seeing_gpu(worker if self._gpus else None):
            process.start()
        theirs.close()
        self._workers[worker] = _Started(process, ours, time.monotonic(), quick)

    def _await_first(self, worker: int) -> str:
        """A worker's line about its model, once it is loaded; "" if the server stops meanwhile."""
        started = self._workers[worker]
        while not self._stops:
            if wait([started.pipe], timeout=0.2):
                return self._received(started)
        return ""

    def _received(self, started: _Started) -> str:
        """A worker's line about its model, which must be that of all others."""
        try:
            sha256, text = started.pipe.recv()
        except (EOFError, OSError):  # it ended
            started.process.join()
            raise RuntimeError(
                f"A worker ended with exit code {started.process.exitcode} while it loaded the encoder. Try "
                "--workers 1, which shows why."
            ) from None
        if not sha256:
            raise ValueError(text)
        if self._sha256 not in ("", sha256):
            raise ValueError(
                f"{self._settings.encoder} was replaced since the server started. Start the server again to serve the "
                "new file."
            )
        self._sha256 = sha256
        return str(text)

    def _let_serve(self, started: _Started) -> None:
        started.is_ready = True
        with suppress(OSError):  # it ended: the next look notices
            started.pipe.send(True)

    def _look(self) -> None:
        """Waits for a while, and starts workers again that have ended."""
        wait([each.process.sentinel for each in self._workers.values()], timeout=0.5)
        for worker, started in [*self._workers.items()]:
            if started.process.is_alive():
                if not started.is_ready and started.pipe.poll():
                    self._check_again(worker, started)
                continue
            if self._stops:
                return
            code = started.process.exitcode or 0
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            lived = time.monotonic() - started.since
            quick = started.quick + 1 if lived < QUICK_SECONDS else 0
            if quick > MOST_QUICK:
                raise RuntimeError(
                    f"Worker {worker + 1} {how}, the {quick}th time soon after its start. Try --workers 1, which shows "
                    "why."
                )
            self._say(f"Worker {worker + 1} {how}; it is started again.")
            self._start(worker, quick)

    def _check_again(self, worker: int, started: _Started) -> None:
        """Reads the message of a restarted worker; one with another model is ended for good."""
        try:
            self._received(started)
            self._let_serve(started)
            self._say(f"Worker {worker + 1} serves again.")
        except RuntimeError:  # it ended while it loaded: counted and started again by the next look
            return
        except ValueError as error:
            started.process.terminate()
            started.process.join()
            del self._workers[worker]
            self._say(f"Worker {worker + 1} is not started again: {error}")
            if not self._workers:
                raise RuntimeError(f"No worker is left. {error}") from None

    def _end(self) -> None:
        """Lets all workers answer what they accepted."""
        self._listener.close()
        for each in self._workers.values():
            each.process.terminate()
        until = time.monotonic() + DRAIN_SECONDS + 2
        for each in self._workers.values():
            each.process.join(max(0.0, until - time.monotonic()))
            if each.process.is_alive():
                each.process.kill()


@contextmanager
def seeing_gpu(worker: int | None) -> Iterator[None]:
    """Within it a process is started that sees one GPU only, or all for None."""
    if worker is None:
        yield
        return
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = before.split(",")[worker] if before else str(worker)
    try:
        yield
    finally:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def _work(settings: Settings, listener: socket.socket, cells: MutableSequence[float], worker: int, pipe: Pipe) -> None:
    """A worker's process.

    Sends the digest of its model and a line about it, or "" and why it cannot be loaded; serves once it is allowed to.
    """
    processes.follow_main_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, torch.get_num_threads() // settings.workers))
    try:
        model = load(settings.encoder, settings.backbone)
    except Exception as error:
        pipe.send(("", message(error)))
        return
    server = new_server(model, settings, cells, worker, Worker)
    pipe.send((model.description.sha256, model.description.line()))
    pipe.recv()
    server.run([listener])
