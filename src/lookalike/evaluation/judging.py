"""From an encoder and folders of images to judgements and embeddings: what the commands `evaluate` and `embed` do."""

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from .. import encoders
from ..backbones import Backbone
from ..data import Loader, Source, Subset, open_source
from ..methods.simclr import SimCLR
from ..random import permutation
from ..runs import Folder
from ..views import make_views, resized
from .features import Features, evaluating, features, fingerprint, save_features
from .knn import KNN, knn
from .labelfree import alignment, effective_rank, retrieval, spread, uniformity
from .linear import DINOV2, Linear, interval, linear
from .records import Entry, record

PROTOCOLS = ("knn", "linear")
"""What `judge` knows."""

Data = str | os.PathLike[str] | Dataset[object]


def _silent(text: str) -> None:
    """Says nothing."""


def evaluate(
    encoder: str | os.PathLike[str] | Backbone,
    train: Data,
    test: Data,
    *,
    protocols: Sequence[str] = PROTOCOLS,
    image_size: int | None = None,
    batch_size: int = 256,
    workers: int = 0,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    say: Callable[[str], None] = _silent,
) -> list[Entry]:
    """Judges an encoder on labelled images.

    Args:
        encoder: what `lookalike.load` takes, or a loaded encoder.
        train: folder with one sub-folder per class, or a labelled Dataset.
        test: the same classes, other images.
        protocols: of `PROTOCOLS`.
        image_size: pixels of the test crop; without it the size that the encoder was made for.
        batch_size: images per forward pass; it does not change the result.
        workers: processes that decode.
        seed: of the linear probe's initial weights, order and held-out part, and of the intervals.
        out: file for the results; without it `evaluation.json` in the run's folder, where `encoder` is one.
        say: called with lines for the user.

    Raises:
        ValueError, FileNotFoundError: encoder, folders, classes or protocols that cannot be used.
    """
    if unknown := [p for p in protocols if p not in PROTOCOLS]:
        raise ValueError(f"There is no protocol {unknown[0]!r}. Choose from {', '.join(PROTOCOLS)}.")
    path = None if out is None else Path(out)
    if path is None and isinstance(encoder, str | os.PathLike) and os.path.isdir(encoder):
        path = Folder(encoder).evaluation
    if path is not None and path.is_dir():
        raise ValueError(f"--out {path} is a folder. Give a file, such as {path / 'evaluation.json'}.")
    _check(batch_size, image_size)
    model = opened(encoder)
    first = open_source(train, channels=model.channels, labelled=True)
    second = open_source(test, channels=model.channels, labelled=True, classes=first.classes)
    assert first.classes is not None
    if len(first.classes) < 2:
        raise ValueError(
            f"{train} has one class, {first.classes[0]!r}; there is nothing to tell apart. Give two or more."
        )
    if (
        isinstance(train, str | os.PathLike)
        and isinstance(test, str | os.PathLike)
        and os.path.realpath(train) == os.path.realpath(test)
    ):
        say("WARNING: TRAIN and TEST are the same folder; each image finds itself, and the figures say nothing.")
    a = _features(model, first, "train", image_size, batch_size, workers, say)
    b = _features(model, second, "test", image_size, batch_size, workers, say)
    device = next(model.parameters()).device
    made = made_at(image_size or model.image_size)
    encoder_sha256, data_fingerprint = _sha256(encoder, model), fingerprint(first, second)
    entries = []
    for protocol in protocols:
        say(f"{protocol}: judging")
        entry = judge(
            protocol, a, b, len(first.classes), seed, device,
            made=made, encoder_sha256=encoder_sha256, data_fingerprint=data_fingerprint,
        )  # fmt: skip
        entries.append(entry)
        if path is not None:
            record(path, [entry])
    return entries


def made_at(image_size: int) -> dict[str, object]:
    """How `features` makes them at a size, as it stands in `Entry.settings`."""
    return {"image_size": image_size, "crop": "256/224 centre", "features": "pooled"}


def judge(
    protocol: str,
    train: Features,
    test: Features,
    num_classes: int | None,
    seed: int,
    device: torch.device | str | None,
    *,
    made: Mapping[str, object] | None = None,
    encoder_sha256: str = "",
    data_fingerprint: str = "",
) -> Entry:
    """Judges features by one of `PROTOCOLS`.

    Args:
        protocol: "knn" or "linear".
        train: labelled.
        test: labelled.
        num_classes: without it one more than the largest label.
        seed: decides all that is random.
        device: where to compute; without it the CPU, where features lie.
        made: how the features were made, for the record: it joins the protocol's constants in `Entry.settings`.
        encoder_sha256: what the features were made with, for the record.
        data_fingerprint: what they were made from, for the record.

    Raises:
        ValueError: an unknown protocol, or features that have no labels or do not fit together.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"There is no protocol {protocol!r}. Choose from {', '.join(PROTOCOLS)}.")
    if train.labels is None or test.labels is None:
        which = "training" if train.labels is None else "test"
        raise ValueError(f"The {which} images have no labels. Put each class into a folder of its own.")
    began = time.perf_counter()
    data = train.features, train.labels, test.features, test.labels
    result: KNN | Linear
    settings: dict[str, object]
    history: list[dict[str, float]]
    if protocol == "knn":
        result = knn(*data, num_classes=num_classes, device=device)
        settings = {
            "k": result.k,
            "temperature": result.temperature,
            "also": [k for k in result.accuracies if k != result.k],
        }
        history = [{"k": k, "top1": top1, "top5": top5} for k, (top1, top5) in result.accuracies.items()]
        classes = result.votes.shape[1]
    else:
        result = linear(*data, num_classes=num_classes, seed=seed, settings=DINOV2, device=device)
        settings = dataclasses.asdict(DINOV2)
        history = [{"lr": lr, "held_out": top1, "chosen": lr == result.lr} for lr, top1 in result.held_out.items()]
        history += [{"step": step, "loss": loss} for step, loss in result.history]
        classes = len(result.bias)
    return Entry(
        protocol=protocol,
        top1=result.top1,
        top5=result.top5,
        interval=interval(result.top1, len(test.features), seed),
        settings={**(made or {}), **settings},
        train_images=len(train.features),
        test_images=len(test.features),
        classes=classes,
        encoder_sha256=encoder_sha256,
        data_fingerprint=data_fingerprint,
        seed=seed,
        seconds=round(time.perf_counter() - began, 3),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        history=history,
    )


def embed(
    encoder: str | os.PathLike[str] | Backbone,
    data: Data,
    *,
    out: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    batch_size: int = 256,
    workers: int = 0,
    say: Callable[[str], None] = _silent,
) -> Features:
    """Computes one feature vector per image and, with `out`, writes them to .npz, .parquet or .csv with the names.

    The arguments are those of `evaluate`; images that cannot be read are left out and listed in the result.
    """
    if out is not None and Path(out).suffix.lower() not in (".npz", ".parquet", ".csv"):
        raise ValueError(f"{out} must end in .npz, .parquet or .csv.")  # before the work, not after it
    _check(batch_size, image_size)
    model = opened(encoder)
    source = open_source(data, channels=model.channels)
    found = _features(model, source, "images", image_size, batch_size, workers, say)
    if out is not None:
        save_features(out, found)
    return found


def label_free(
    encoder: str | os.PathLike[str] | Backbone, data: Data, *, images: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Scores an encoder without labels, on the same images in the same two views for all encoders of one image size.

    To choose between trainings that saw the same views take the one with the highest `retrieval`; docs/results.md says
    how well that ranks them, where it misleads, and that the other figures do not rank.

    Args:
        encoder: what `lookalike.load` takes, or a loaded encoder.
        data: images without labels; broken ones are replaced.
        images: how many of them, drawn by `seed`. `retrieval` depends on it: compare at equal numbers only.
        seed: of the draw and of the views, which are SimCLR's at the encoder's size.

    Returns:
        retrieval, alignment, uniformity, spread and effective_rank, as in `lookalike.evaluation.labelfree`.

    Raises:
        ValueError, FileNotFoundError: an encoder or images that cannot be used, or fewer than two images.
    """
    model = opened(encoder)
    source = open_source(data, channels=model.channels)
    count = min(images, len(source))
    if count < 2:
        raise ValueError(f"{count} image cannot be told apart from others. Give at least 2, better 1,000.")
    size, device = model.image_size, next(model.parameters()).device
    paper = SimCLR.Config(views=resized(SimCLR.Config().views, size))
    views = SimCLR.fit_to(paper, count, size).views
    group = min(count, 100)
    count -= count % group  # the loader makes whole batches only
    places = permutation(len(source), seed, "label-free")[:count].tolist()
    made: list[list[torch.Tensor]] = [[], []]
    for batch in Loader(Subset(source, places), group, seed, decode_size=2 * size, max_broken=1.0):
        batch = batch.to(device)
        pair = make_views(batch, views, batch.keys, mean=model.mean, std=model.std)
        with evaluating(model), torch.inference_mode():
            for side, x in zip(made, pair, strict=True):
                side.append(model(x).float().cpu())
    a, b = (torch.cat(side) for side in made)
    return {
        "retrieval": retrieval(a, b), "alignment": alignment(a, b), "uniformity": uniformity(a), "spread": spread(a),
        "effective_rank": effective_rank(a),
    }  # fmt: skip


def _check(batch_size: int, image_size: int | None) -> None:
    if batch_size < 1 or (image_size is not None and image_size < 1):
        raise ValueError(f"batch_size is {batch_size} and image_size {image_size}; both are at least 1.")


def _sha256(encoder: str | os.PathLike[str] | Backbone, model: Backbone) -> str:
    """Of the weights file, as `encoder.json` and `sha256sum` say; of the tensors where there is no file."""
    if not isinstance(encoder, str | os.PathLike) or not os.path.exists(encoder):
        return encoders.sha256(model)
    return encoders.file_sha256(Folder(encoder).weights if os.path.isdir(encoder) else Path(encoder))


def opened(encoder: str | os.PathLike[str] | Backbone) -> Backbone:
    """An encoder, loaded unless it is, on the GPU where there is one."""
    model = encoder if isinstance(encoder, nn.Module) else encoders.load(encoder)
    return model.to(device="cuda" if torch.cuda.is_available() else "cpu", memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _features(
    model: Backbone, source: Source, what: str, image_size: int | None, batch_size: int, workers: int,
    say: Callable[[str], None],
) -> Features:  # fmt: skip
    size = image_size or model.image_size
    model.check_size(size)
    began = shown = time.perf_counter()

    def progress(done: int, total: int) -> None:
        nonlocal shown
        now = time.perf_counter()
        if now - shown > 10 or done == total:
            shown = now
            say(f"{what}: features of {done} of {total} images at {size} px, {done / (now - began):.0f} images/s")

    found = features(
        model, source, image_size=size, mean=model.mean, std=model.std, batch_size=batch_size, workers=workers,
        progress=progress,
    )  # fmt: skip
    for name, reason in found.broken[:10]:
        print(f"left out {name}: {reason}", file=sys.stderr)
    return found
