"""Exports of seven networks: how far each format and precision is from the encoder, and how fast it runs on a CPU.

    pip install -e '.[onnx,transformers]'
    OMP_NUM_THREADS=1 python benchmarks/exports.py --accuracy --cifar10 cifar10-jpeg.tar.xz --work FOLDER
    OMP_NUM_THREADS=2 python benchmarks/exports.py --speed [--repeats 5]
    python benchmarks/exports.py --table

Accuracy: each network is trained (--method, all defaults) on 3,200 images of CIFAR-10 for --epochs, so that its
features are not those of random weights, and exported by `lookalike.export` in each format and precision. Its own
verification gives deviation, cosine and nearest neighbours on 256 test images; for int8 also the k-NN accuracy of the
encoder and its export on the 10,000 test images (half are the bank), with the paired interval of the change.
Speed: images per second at 224 pixels (small stem: 32) in batches of 1 and 32, with random weights: PyTorch, PyTorch
compiled, and onnxruntime in three precisions, in turns in one run. Finished rows are kept, so it can be stopped.
"""

import argparse
import dataclasses
import itertools
import json
import os
import platform
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import timm
import torch
from resumable import read
from rows import append, summary

import lookalike
from lookalike import backbones
from lookalike.exports.formats import FORMATS, Precision
from lookalike.methods import SELF_SUPERVISED, get_method
from lookalike.random import permutation
from lookalike.runs import commit


@dataclasses.dataclass(frozen=True)
class Net:
    """A network, and the image sizes for training and for speed."""

    name: str
    size: int
    fast: int = 224


NETS = {
    "ResNet-18": Net("resnet18", 80),
    "ResNet-50": Net("resnet50", 80),
    "ConvNeXt-Tiny": Net("convnext_tiny", 80),
    "EfficientNet-B0": Net("efficientnet_b0", 80),
    "ViT-S/16": Net("vit_small_patch16_224", 80),
    "DINOv2 ViT-S/14, registers": Net("vit_small_patch14_reg4_dinov2", 84),
    "ResNet-18, small stem": Net("resnet18", 32, 32),
}
IMAGES = 3200
BATCHES = 1, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accuracy", action="store_true", help="train, export and compare")
    parser.add_argument("--speed", action="store_true", help="images per second")
    parser.add_argument("--table", action="store_true", help="print the record as tables")
    parser.add_argument("--networks", nargs="+", choices=[*NETS], default=[*NETS], metavar="NAME")
    parser.add_argument("--method", choices=SELF_SUPERVISED, default="simclr")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cifar10", type=Path, help="the archive of CIFAR-10 as JPEG files")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "lookalike-exports")
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "exports.jsonl")
    args = parser.parse_args()
    if args.accuracy:
        train, test = _images(args.cifar10, args.work)
        for name in args.networks:
            measure_accuracy(name, train, test, args)
    if args.speed:
        for name in args.networks:
            measure_speed(name, args)
    if args.table:
        print("\n".join(table(read(args.record))))


def measure_accuracy(name: str, train: Path, test: Path, args: argparse.Namespace) -> None:
    """A row for each format and precision that has none."""
    net, done = NETS[name], {_key(row) for row in read(args.record)}
    left = [
        (format, precision)
        for format, info in FORMATS.items()
        for precision in info.precisions
        if ("accuracy", name, format, precision, args.method) not in done and format != "tensorrt"
    ]
    if not left:
        return
    run = args.work / f"{args.method} {name}".replace("/", "-").replace(" ", "-")
    if not (run / "encoder.safetensors").is_file():
        began = time.process_time()
        lookalike.pretrain(
            lookalike.Run(
                data=str(train), method=get_method(args.method).Config(), backbone=net.name, image_size=net.size,
                epochs=args.epochs, batch_size=64, out=str(run), workers=0, overwrite=True,
            ),
            report=lambda text, kind: None,
        )  # fmt: skip
        print(f"{name}: trained, {time.process_time() - began:.0f} s of processor time", flush=True)
    for format, precision in left:
        row = _base("accuracy", name) | {
            "format": format,
            "precision": precision,
            "size": net.size,
            "method": args.method,
            "epochs": args.epochs,
        }
        out, began = args.work / "out", time.process_time()
        shutil.rmtree(out, ignore_errors=True)
        try:
            lookalike.export(run, format=format, precision=precision, check=test, calibrate=train, out=out)
        except ValueError as error:  # a network that a format does not have
            append(args.record, row | {"refused": str(error)})
            print(f"{name}, {format} {precision}: {error}", flush=True)
            continue
        except RuntimeError as error:
            print(f"{name}, {format} {precision}: {error}", flush=True)
        append(args.record, row | _found(out, precision) | {"processor_s": round(time.process_time() - began, 1)})
        print(f"{name}, {format} {precision}: {read(args.record)[-1]}", flush=True)


def _found(out: Path, precision: Precision) -> dict[str, Any]:
    """What `export.json` says."""
    record = json.loads((out / "export.json").read_text())
    found = {
        each["program"]: {
            "largest": max(case["largest"] for case in each["cases"]),
            "mean": float(np.average([c["mean"] for c in each["cases"]], weights=[c["images"] for c in each["cases"]])),
            "cosine": min(case["cosine"] for case in each["cases"]), "neighbours": each["neighbours"],
        }
        for each in record["verifications"]
    }  # fmt: skip
    return {
        "status": record["status"], "bytes": sum(file["bytes"] for file in record["files"].values()),
        "programs": found, "accuracy": record["accuracy"],
    }  # fmt: skip


def measure_speed(name: str, args: argparse.Namespace) -> None:
    """A row for each batch size that has none."""
    net, done = NETS[name], {_key(row) for row in read(args.record)}
    left = [batch for batch in BATCHES if ("speed", name, batch, torch.get_num_threads()) not in done]
    if not left:
        return
    torch.manual_seed(0)
    encoder = backbones.create(net.name, image_size=net.fast).eval()
    images = (torch.rand(64, 3, net.fast, net.fast) * 255).to(torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        files = _onnx_files(encoder, images, Path(folder))
        compiled = torch.compile(encoder)
        for batch in left:
            x = torch.randn(batch, 3, net.fast, net.fast)
            runners: dict[str, Callable[[], object]] = {
                "PyTorch": lambda x=x: encoder(x),
                "PyTorch, compiled": lambda x=x: compiled(x),
            } | {
                f"onnxruntime, {precision}": lambda x=x, session=session: session.run(None, {"images": x.numpy()})
                for precision, session in files.items()
            }
            rates = _in_turns(runners, batch, args.repeats)
            row = _base("speed", name) | {"size": net.fast, "batch": batch, "threads": torch.get_num_threads()}
            append(args.record, row | {"repeats": args.repeats, "images_per_s": rates, "load": list(os.getloadavg())})
            print(name, batch, {what: rate[0] for what, rate in rates.items()}, flush=True)


def _onnx_files(encoder: backbones.Backbone, images: torch.Tensor, folder: Path) -> dict[Precision, Any]:
    sessions = {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    for precision in FORMATS["onnx"].precisions:
        out = folder / precision
        try:
            done = lookalike.export(
                encoder, precision=precision, out=out, check=list(images), calibrate=list(images)
            ).file
        except RuntimeError:  # int8 of random weights may be outside the limits: its speed is the same
            done = out / "encoder.onnx.unverified"
        sessions[precision] = onnxruntime.InferenceSession(done, options, providers=["CPUExecutionProvider"])
    return sessions


@torch.inference_mode()
def _in_turns(runners: dict[str, Callable[[], object]], batch: int, repeats: int) -> dict[str, list[float]]:
    """Images per second: median, smallest and largest over turns of at least a second each."""
    for run in runners.values():
        run()
    rates: dict[str, list[float]] = {what: [] for what in runners}
    for _, (what, run) in itertools.product(range(repeats), runners.items()):
        began, calls = time.perf_counter(), 0
        while time.perf_counter() - began < 1 or not calls:
            run()
            calls += 1
        rates[what].append(calls * batch / (time.perf_counter() - began))
    return {what: summary(found, 1) for what, found in rates.items()}


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The record as tables for `docs/results.md`."""
    lines = [
        "| network | format | largest deviation | smallest cosine | neighbours kept | MB | k-NN accuracy |",
        "| -- | -- | -- | -- | -- | -- | -- |",
    ]
    for row in (row for row in rows if row["what"] == "accuracy" and "programs" in row):
        for program, found in row["programs"].items():
            change, acc = "", row["accuracy"]
            if acc is not None:
                low, high = (100 * end for end in acc["interval"])
                change = f"{acc['fp32']:.1%} -> {acc['int8']:.1%} ({low:+.1f} to {high:+.1f})"
            cells = (
                row["network"], f"{row['format']} {row['precision']}, {program.split()[0]}", f"{found['largest']:.1e}",
                f"{found['cosine']:.5f}", f"{found['neighbours']:.1%}", f"{row['bytes'] / 1e6:.1f}", change,
            )  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    lines += [""]
    speeds = [row for row in rows if row["what"] == "speed"]
    if speeds:
        names = [*speeds[0]["images_per_s"]]
        lines += [f"| network | batch | {' | '.join(names)} |", f"| -- | -- |{' -- |' * len(names)}"]
        for row in speeds:
            cells = (f"{rate[0]:.3g}" for rate in row["images_per_s"].values())
            lines.append(f"| {row['network']} | {row['batch']} | {' | '.join(cells)} |")
    return lines


def _base(what: str, name: str) -> dict[str, Any]:
    return {
        "benchmark": "exports", "what": what, "date": time.strftime("%Y-%m-%dT%H:%M:%S"), "network": name,
        "lookalike": commit(), "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__, "timm": timm.__version__},
    }  # fmt: skip


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    if row["what"] == "speed":
        return "speed", row["network"], row["batch"], row["threads"]
    return "accuracy", row["network"], row["format"], row["precision"], row.get("method", "simclr")


def _images(archive: Path | None, work: Path) -> tuple[Path, Path]:
    """Folders of 3,200 training images and all test images."""
    train, test = work / "train", work / "cifar10" / "test"
    if not test.is_dir():
        if archive is None:
            raise SystemExit("--accuracy needs --cifar10 ARCHIVE.")
        with tarfile.open(archive) as file:
            file.extractall(work / "cifar10", filter="data")
    if not train.is_dir():
        files = sorted((work / "cifar10" / "train").rglob("*.jpg"))
        for i in permutation(len(files), "exports")[:IMAGES].tolist():
            target = train / files[i].parent.name / files[i].name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(files[i], target)
    return train, test


if __name__ == "__main__":
    main()
