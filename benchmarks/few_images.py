"""What the studies of an encoder's trainings on few images share: one training, and k-NN image by image.

Each test image's hit or miss is in the row, so that any two rows of a set can be compared on the same images.
"""

import copy
import dataclasses
import shutil
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import resumable
import torch
from resumable import rounded
from torch import Tensor

from lookalike import encoders, training
from lookalike.backbones import Backbone
from lookalike.core import Config
from lookalike.data import Source, Subset
from lookalike.evaluation import features, interval, interval_of_change, knn, with_statistics
from lookalike.runs import Folder, Run, by_user

SIZE, BATCH = 64, 64


def run_of(source: Source, method: Config, network: str, epochs: int, seed: int, given: tuple[str, ...] = ()) -> Run:
    """A training of whole epochs in batches of 64; its folder is yet to be named."""
    return Run(
        data=source, method=method, backbone=network, image_size=SIZE, epochs=epochs, batch_size=BATCH, workers=0,
        precision="fp32", seed=seed, save_every=epochs, origins=by_user(given),
    )  # fmt: skip


def trained(run: Run, keep: Path | None = None) -> dict[str, Any]:
    """Trains in a folder that is removed; the encoder goes to the folder `keep`.

    Returns what a row says of it: steps, optimizer, seconds, the last verdict, and the encoder, under `encoder`.
    """
    with resumable.temporary() as folder:
        run = dataclasses.replace(run, out=str(folder / "run"))
        began, cpu = time.perf_counter(), time.process_time()
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            result = training.pretrain(run)
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
        if keep is not None:
            save(Folder(folder / "run"), keep)
        settled = training.resolve(run, len(run.data))[0]  # type: ignore[arg-type]
        optim = settled.method.optim
        losses = [row["loss"] for row in result.metrics if "loss" in row]
        return {
            "encoder": result.encoder() if isinstance(run.backbone, str) else _of_module(run),
            "epochs": run.epochs,
            "steps": max(row["step"] for row in result.metrics),
            "optim": {
                "name": optim.name, "lr": optim.lr, "lr_scaled": rounded(optim.lr * optim.factor(BATCH)),
                "warmup_epochs": optim.warmup_epochs, "layer_decay": optim.layer_decay,
                "frozen_epochs": settled.frozen_epochs,
            },
            "loss": [rounded(losses[0]), rounded(losses[-1])],
            "verdict": result.verdict,
            "why": result.why,
            "seconds": round(seconds, 2),
            "cpu_seconds": round(cpu_seconds, 2),
        }  # fmt: skip


def _of_module(run: Run) -> Backbone:
    """The encoder of a run whose network is a module."""
    assert not isinstance(run.backbone, str)
    return encoders.load(run.out, copy.deepcopy(run.backbone))


def save(of: Folder, keep: Path) -> None:
    """Copies an encoder; `keep` is whole as soon as it is there."""
    fresh = keep.with_name(f"{keep.name}.part")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for path in (of.weights, of.card):
        shutil.copy(path, fresh / path.name)
    shutil.rmtree(keep, ignore_errors=True)
    fresh.rename(keep)


def weights(folder: Path) -> str:
    return str(Folder(folder).weights)


# ---------------------------------------------------------------- k-NN


@torch.no_grad()
def hits(encoder: Backbone, train: Source, test: Source, size: int = SIZE) -> Tensor:
    """(M,) bool: whether the 20 nearest of the training images give each test image its class."""
    mean, std = encoder.mean, encoder.std
    bank, asked = (features(encoder, each, image_size=size, mean=mean, std=std) for each in (train, test))
    assert bank.labels is not None
    assert asked.labels is not None
    return knn(bank.features, bank.labels, asked.features, asked.labels, also=()).predictions == asked.labels


def untrained(run: Run, train: Source, test: Source) -> Tensor:
    """`hits` of a run's network before its training; its BatchNorm knows the images' statistics."""
    encoder = training.build(training.resolve(run, len(train))[0]).encoder
    return hits(with_statistics(encoder, train, image_size=SIZE, mean=encoder.mean, std=encoder.std), train, test)


def loaded(folder: Path) -> Backbone:
    return encoders.load(weights(folder))


def said(found: Tensor) -> dict[str, Any]:
    """What a row says of `hits`: the accuracy, its interval, and the hits as hexadecimal digits."""
    accuracy = float(found.double().mean())
    return {
        "knn": round(accuracy, 4),
        "interval": [round(x, 4) for x in interval(accuracy, len(found))],
        "hits": np.packbits(found.numpy()).tobytes().hex(),
        "images": len(found),
    }


def hits_in(part: dict[str, Any]) -> Tensor:
    """The hits that `said` wrote."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(part["hits"]), np.uint8))
    return torch.from_numpy(bits[: part["images"]].astype(bool))


def change(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> tuple[float, float, float]:
    """The mean change from some parts of rows to others on the same images, in points: (mean, low, high).

    Of several pairs the images are taken together: it is the interval of these trainings, not of other seeds.
    """
    a, b = (torch.cat([hits_in(part) for part in side]) for side in (before, after))
    low, high = interval_of_change(a, b)
    return 100 * float(b.double().mean() - a.double().mean()), 100 * low, 100 * high


def points(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> str:
    """`change` in words: +3.1 (+1.2 to +5.0)."""
    return "{:+.1f} ({:+.1f} to {:+.1f})".format(*change(before, after))


def of_classes(source: Source, classes: Sequence[int] | None) -> Source:
    """The images of some classes, all of them without."""
    assert source.labels is not None
    if classes is None:
        return source
    return Subset(source, [i for i, label in enumerate(source.labels.tolist()) if label in classes])
