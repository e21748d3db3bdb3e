"""`lookalike serve` under load: requests per second and latency, beside the bare session and LitServe.

    pip install -e '.[serve,onnx]' litserve
    OMP_NUM_THREADS=2 python benchmarks/serving.py [--seconds 10 --repeats 5]
    python benchmarks/serving.py --table

A ViT-S/16 with random weights, exported to ONNX, answers 1, 8 and 32 clients that each send one image at a time and
wait for the answer. Blocks of the bare session (batches of as many images as there are clients, no HTTP), of the server
with tensors (KServe's binary protocol), of the server with JPEG files, and of LitServe with the same tensors (base64 in
JSON, its own form) take turns, so that all see the same machine. Clients are one other process on the same cores; its
processor time, divided by the number of cores, is subtracted from the wall time of a block. A server is stopped
(SIGSTOP) outside its own blocks, since an idle one may still poll. Finished rows are kept, so it can be stopped.
"""

import argparse
import base64
import dataclasses
import io
import itertools
import json
import multiprocessing
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from PIL import Image
from resumable import read
from rows import append, summary

import lookalike
from lookalike import backbones
from lookalike.runs import commit
from lookalike.runs.environment import version

CORES = len(os.sched_getaffinity(0))
PHOTO = 500, 375
"""Width and height of the JPEG file."""


@dataclasses.dataclass(frozen=True)
class Block:
    """What some clients saw in a while."""

    latencies: list[float]
    wall: float
    processor: float
    """Seconds of the clients' process."""

    @property
    def rate(self) -> float:
        """Images per second, without the time that the clients took from the server."""
        return len(self.latencies) / (self.wall - self.processor / CORES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="vit_small_patch16_224")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=10.0, help="of a block")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--table", action="store_true", help="print the record as a table")
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "serving.jsonl")
    args = parser.parse_args()
    if args.table:
        print("\n".join(table(read(args.record))))
    else:
        measure(args)


def measure(args: argparse.Namespace) -> None:
    """A row for each number of clients that has none."""
    done = {(row["network"], row["size"], row["clients"], row["threads"]) for row in read(args.record)}
    threads = torch.get_num_threads()
    left = [each for each in args.clients if (args.network, args.size, each, threads) not in done]
    if not left:
        print(f"All is in {args.record}.")
        return
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        file = _exported(args.network, args.size, Path(folder))
        ours = stack.enter_context(_served("-m", "lookalike", "serve", file, "--port"))
        theirs = None
        if find_spec("litserve") is not None:
            theirs = stack.enter_context(_served(Path(__file__).with_name("serving_litserve.py"), file, args.size))
        tensor = np.random.default_rng(0).standard_normal((1, 3, args.size, args.size)).astype(np.float32)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        for clients in left:
            measured: dict[str, Callable[[], Block]] = {
                "bare": lambda n=clients: _bare(session, np.repeat(tensor, n, 0), args.seconds),
                "tensors": lambda n=clients: _loaded(ours, _of_tensor(tensor), n, args.seconds),
                "jpeg": lambda n=clients: _loaded(ours, _of_jpeg(), n, args.seconds),
            }
            if theirs is not None:
                measured["litserve"] = lambda n=clients: _loaded(theirs, _of_base64(tensor), n, args.seconds)
            found: dict[str, list[Block]] = {name: [] for name in measured}
            for repeat, (name, block) in itertools.product(range(-1, args.repeats), measured.items()):
                one = block()
                if repeat >= 0:  # the first turn only warms up
                    found[name].append(one)
            row = _row(args, clients, threads, found)
            append(args.record, row)
            print(json.dumps(row), flush=True)


def _row(args: argparse.Namespace, clients: int, threads: int, found: dict[str, list[Block]]) -> dict[str, Any]:
    bare = [block.rate for block in found["bare"]]
    results = {}
    for name, blocks in found.items():
        latencies = [1000 * each for block in blocks for each in block.latencies]
        results[name] = {
            "images_per_s": summary([block.rate for block in blocks], 2),
            "fraction_of_bare": summary([block.rate / b for block, b in zip(blocks, bare)], 3),
            "p50_ms": round(statistics.median(latencies), 1), "p99_ms": round(float(np.percentile(latencies, 99)), 1),
            "client_processor_s": round(sum(block.processor for block in blocks), 2),
        }  # fmt: skip
    return {
        "benchmark": "serving", "date": time.strftime("%Y-%m-%dT%H:%M:%S"), "network": args.network, "size": args.size,
        "clients": clients, "threads": threads, "seconds": args.seconds, "repeats": args.repeats, "results": results,
        "load": list(os.getloadavg()), "lookalike": commit(),
        "machine": f"{platform.machine()}, {CORES} cores",
        "versions": {name: version(name) for name in ("onnxruntime", "uvicorn", "starlette", "litserve")},
    }  # fmt: skip


def _exported(network: str, size: int, folder: Path) -> Path:
    torch.manual_seed(0)
    encoder = backbones.create(network, image_size=size).eval()
    images = [(torch.rand(3, size, size) * 255).to(torch.uint8) for _ in range(12)]
    return lookalike.export(encoder, out=folder / "export", check=images).file


# ---------------------------------------------------------------- servers


@dataclasses.dataclass(frozen=True)
class Running:
    """A server, whose processes are a group of their own."""

    port: int
    group: int

    @contextmanager
    def awake(self) -> Iterator[None]:
        os.killpg(self.group, signal.SIGCONT)
        try:
            yield
        finally:
            os.killpg(self.group, signal.SIGSTOP)


@contextmanager
def _served(*words: object) -> Iterator[Running]:
    """A stopped server, which a command begins whose last argument is the port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, *map(str, words), str(port)], stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        for _ in range(600):
            time.sleep(0.2)
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if process.poll() is not None:
                    raise SystemExit(f"{words} ended with exit code {process.returncode}.") from None
        time.sleep(5)  # LitServe listens before its workers are ready
        os.killpg(process.pid, signal.SIGSTOP)
        yield Running(port, process.pid)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # LitServe has several processes, which outlive SIGTERM
        process.wait()


# ---------------------------------------------------------------- clients


def _of_tensor(tensor: np.ndarray) -> bytes:
    given = {
        "name": "images", "datatype": "FP32", "shape": list(tensor.shape),
        "parameters": {"binary_data_size": tensor.nbytes},
    }  # fmt: skip
    head = json.dumps({"inputs": [given], "parameters": {"binary_data_output": True}}).encode()
    path = "/v2/models/encoder/infer"
    return _request(path, head + tensor.tobytes(), f"Inference-Header-Content-Length: {len(head)}")


def _of_jpeg() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (PHOTO[1] // 8, PHOTO[0] // 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(PHOTO, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    part = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n'
    return _request(
        "/embed", part + file.getvalue() + b"\r\n--b--\r\n", "Content-Type: multipart/form-data; boundary=b"
    )


def _of_base64(tensor: np.ndarray) -> bytes:
    body = json.dumps({"images": base64.b64encode(tensor.tobytes()).decode()}).encode()
    return _request("/predict", body, "Content-Type: application/json")


def _request(path: str, body: bytes, header: str) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: a\r\n{header}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _bare(session: onnxruntime.InferenceSession, images: np.ndarray, seconds: float) -> Block:
    latencies: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        before = time.perf_counter()
        session.run(["features"], {"images": images})
        latencies += [time.perf_counter() - before] * len(images)
    return Block(latencies, time.perf_counter() - began, 0.0)


def _loaded(server: Running, request: bytes, clients: int, seconds: float) -> Block:
    with multiprocessing.get_context("spawn").Pool(1) as pool, server.awake():
        return pool.apply(_clients, (server.port, request, clients, seconds))


def _clients(port: int, request: bytes, clients: int, seconds: float) -> Block:
    latencies: list[list[float]] = [[] for _ in range(clients)]
    began, processor = time.perf_counter(), time.process_time()

    def client(own: list[float]) -> None:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=60) as connection,
            connection.makefile("rb") as answers,
        ):
            while time.perf_counter() - began < seconds:
                before = time.perf_counter()
                connection.sendall(request)
                status, length = answers.readline(), 0
                while (line := answers.readline()) not in (b"\r\n", b""):
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                body = answers.read(length)
                assert status.split()[1] == b"200", (status, body)
                own.append(time.perf_counter() - before)

    threads = [threading.Thread(target=client, args=(own,)) for own in latencies]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    if not all(latencies):
        raise RuntimeError("A client got no answer.")
    return Block(
        [each for own in latencies for each in own], time.perf_counter() - began, time.process_time() - processor
    )


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The record as a table for `docs/results.md`."""
    lines = [
        "| clients | what | images/s | fraction of the bare session | p50 | p99 |",
        "| -- | -- | -- | -- | -- | -- |",
    ]
    for row in rows:
        for name, found in row["results"].items():
            rate, part = found["images_per_s"][0], found["fraction_of_bare"]
            lines.append(
                f"| {row['clients']} | {name} | {rate:.3g} | {part[0]:.2f} ({part[1]:.2f} to {part[2]:.2f}) | "
                f"{found['p50_ms']:.0f} ms | {found['p99_ms']:.0f} ms |"
            )
    return lines


if __name__ == "__main__":
    main()
