"""Features of a frozen encoder, from the test transform of the reference protocols, and their files."""

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset

from ..data.workers import stream
from ..images import promote
from ..modes import evaluating
from ..printing import counted
from ..random import permutation

if TYPE_CHECKING:
    from ..data import Source

Encoder = TypeVar("Encoder", bound=nn.Module)
MOST_CLASSES = 10_000
"""So large a label, of few images, is no number of a class."""


@dataclass(frozen=True, eq=False)
class Features:
    """What an encoder makes of N images, in the source's order without the broken ones."""

    features: Tensor
    """(N, D) float32, on the CPU."""
    labels: Tensor | None
    """(N,) int64, or None where the source has none."""
    names: list[str]
    index: Tensor
    """(N,) int64, the images' places in the source."""
    broken: list[tuple[str, str]]
    """(name, reason) of each image that could not be read."""
    classes: tuple[str, ...] | None = None
    """What the labels are places in; None where classes have no names."""


def features(
    encoder: nn.Module,
    source: "Source",
    *,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int = 256,
    workers: int = 0,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Computes the encoder's features of every image that can be read.

    Each image is decoded in full, its shorter side resized to 256/224 of `image_size` (bicubic, antialiased), its
    centre cut out, scaled to [0, 1] and normalised. The encoder runs in eval mode; every module gets its own mode back.

    Args:
        encoder: (B, C, image_size, image_size) float32, normalised -> (B, D).
        source: the images; broken ones are left out and listed, never replaced.
        image_size: pixels of the square that the encoder sees.
        mean: one number per channel, in units of [0, 1].
        std: one number per channel.
        batch_size: images that the encoder sees at once; it does not change the result beyond rounding.
        workers: processes that decode and resize; 0 does it in this one.
        device: where the encoder runs; it is moved there and stays. Without it where its first parameter is.
        progress: called with the number of images seen and of all, after each batch.

    Raises:
        ValueError: no image could be read, or the encoder's output is not (B, D).
    """
    if device is None:
        device = device_of(encoder)
    chunks = [range(i, min(i + batch_size, len(source))) for i in range(0, len(source), batch_size)]
    batches = stream(_Cropped(source, image_size), chunks, workers, pin=torch.device(device).type == "cuda")
    _ = source.keys  # hashed here, the workers inherit them
    exact = next((p.dtype for p in encoder.parameters()), torch.float32)
    shift, scale = (torch.tensor(v, dtype=torch.float32, device=device).view(-1, 1, 1) for v in (mean, std))
    rows: Tensor | None = None
    index: list[int] = []
    broken: list[tuple[str, str]] = []
    encoder.to(device)
    with evaluating(encoder):
        for good, images, bad in batches:
            if images is not None:
                x = promote(images.to(device, non_blocking=True), torch.float32)
                made = _embedded(encoder, x, shift, scale, exact)
                if rows is None:  # all at once: joining batches at the end would need the memory twice
                    rows = torch.empty(len(source), made.shape[1])
                rows[len(index) : len(index) + len(good)] = made.float().cpu()
                index += good
            broken += bad
            if progress is not None:
                progress(len(index) + len(broken), len(source))
    if rows is None:
        why = f"the first is {broken[0][0]}: {broken[0][1]}" if broken else "there are none"
        raise ValueError(f"None of the {counted(len(source), 'image')} could be read; {why}.")
    places = torch.tensor(index)
    labels = None if source.labels is None else source.labels[places]
    return Features(rows[: len(index)], labels, [source.name(i) for i in index], places, broken, source.classes)


def _embedded(encoder: nn.Module, x: Tensor, shift: Tensor, scale: Tensor, exact: torch.dtype) -> Tensor:
    """An encoder's features (B, D) of a batch of images (B, C, H, W) in [0, 1], normalised in the type `exact`."""
    if not len(shift) == len(scale) == x.shape[1]:
        raise ValueError(
            f"The images have {counted(x.shape[1], 'channel')}, but mean has "
            f"{counted(len(shift), 'number')} and std has "
            f"{len(scale)}. Give one number per channel."
        )
    with torch.inference_mode():
        made: Tensor = encoder(((x - shift) / scale).to(exact))
    if made.ndim != 2:
        raise ValueError(f"The encoder's output is {tuple(made.shape)}; expected (B, D), a vector per image.")
    return made


def device_of(module: nn.Module) -> torch.device:
    """Where a module's first parameter is; the CPU for one that has none."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def as_parameters(module: nn.Module, x: Tensor) -> Tensor:
    """A tensor on the device and in the type of a module's parameters; as it is for a module that has none."""
    like = next((p for p in module.parameters() if p.is_floating_point()), x)
    return x.to(like.device, like.dtype)


@torch.no_grad()
def with_statistics(
    encoder: Encoder,
    source: "Source",
    *,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    images: int = 1024,
) -> Encoder:
    """A copy of an untrained encoder, fit to be evaluated: its BatchNorm layers know the images' statistics.

    Fresh ones take mean 0 and variance 1 for granted. An encoder that is evaluated so looks worse than it is, and what
    training adds looks better. At most `images` of `source` are read; the other arguments are those of `features`.
    """
    places = permutation(len(source), "statistics")[:images]
    crops = _Cropped(source, image_size)
    shift, scale = (torch.tensor(v, dtype=torch.float32).view(-1, 1, 1) for v in (mean, std))

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(places), 256):
            _, batch, _ = crops[places[start : start + 256].tolist()]
            if batch is not None and len(batch) > 1:
                yield (promote(batch, torch.float32) - shift) / scale

    return calibrated(encoder, batches())


@torch.no_grad()
def calibrated(encoder: Encoder, batches: Iterable[Tensor]) -> Encoder:
    """A copy of an encoder in eval mode whose BatchNorm layers have the mean statistics of batches (B, C, H, W)."""
    encoder = copy.deepcopy(encoder).eval()
    _calibrate(encoder, batches)
    return encoder


@contextmanager
def calibrating(encoder: Encoder, batches: Iterable[Tensor]) -> Iterator[None]:
    """In eval mode, with those statistics; afterwards the encoder is as it was, and nothing was copied but them."""
    kept = [(b, b.clone()) for norm in _norms(encoder) for b in norm.buffers(recurse=False)]
    try:
        with evaluating(encoder):
            _calibrate(encoder, batches)
            yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)


def _norms(encoder: nn.Module) -> list[_BatchNorm]:
    return [m for m in encoder.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def _calibrate(encoder: Encoder, batches: Iterable[Tensor]) -> None:
    """Puts the statistics in place of those that the encoder, which is in eval mode, has."""
    norms = _norms(encoder)
    if not norms:
        return

    def note(norm: _BatchNorm, inputs: tuple[Tensor]) -> None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        x = inputs[0].float()
        axes = [axis for axis in range(x.ndim) if axis != 1]
        norm.num_batches_tracked += 1
        share = 1 / int(norm.num_batches_tracked)  # the mean over all batches
        norm.running_mean.lerp_(x.mean(axes).to(norm.running_mean), share)
        norm.running_var.lerp_(x.var(axes).to(norm.running_var), share)

    # in eval mode, for a synchronised norm would talk to other processes, which do something else now
    for norm in norms:
        norm.reset_running_stats()
    handles = [norm.register_forward_pre_hook(note) for norm in norms]
    try:
        for x in batches:
            encoder.forward(as_parameters(encoder, x))  # not encoder(x): torch.compile would compile it
    finally:
        for handle in handles:
            handle.remove()


def crop(image: Tensor, size: int) -> Tensor:
    """Cuts out what the reference protocols look at: (C, H, W) -> (C, size, size).

    The shorter side becomes round(size * 256 / 224) pixels, bicubic and antialiased, then the centre is taken.
    What is longer than 64 times its width is cut to that before: a thread of pixels resized as a whole takes gigabytes.
    A uint8 image stays uint8, resized in fixed point as in torchvision, within one level of Pillow's result; other
    images come back as float32 in [0, 1].
    """
    if image.dtype != torch.uint8:
        image = promote(image, torch.float32)
    reach = 64 * min(image.shape[-2:])
    image = _centre(image, min(image.shape[-2], reach), min(image.shape[-1], reach))
    height, width = image.shape[-2:]
    short = round(size * 256 / 224)
    scaled = (short, short * width // height) if height <= width else (short * height // width, short)
    if scaled != (height, width):
        image = nn.functional.interpolate(image[None], scaled, mode="bicubic", antialias=True, align_corners=False)[0]
    image = _centre(image, size, size)
    return image if image.dtype == torch.uint8 else image.clamp(0, 1)


def _centre(image: Tensor, height: int, width: int) -> Tensor:
    top = round((image.shape[-2] - height) / 2)
    left = round((image.shape[-1] - width) / 2)
    return image[..., top : top + height, left : left + width]


Cropped = tuple[list[int], Tensor | None, list[tuple[str, str]]]


class _Cropped(Dataset[Cropped]):
    """Ranges of a source: places and test crops of the images that can be read, names and reasons of the others."""

    def __init__(self, source: "Source", size: int) -> None:
        self.source, self.size = source, size

    def __getitem__(self, chunk: Iterable[int]) -> Cropped:
        from ..data import BrokenImage

        places, images, broken = [], [], []
        for i in chunk:
            try:
                images.append(crop(self.source.read(i, None), self.size))
                places.append(i)
            except BrokenImage as e:
                broken.append((e.name, e.reason))
        if len({image.dtype for image in images}) > 1:
            images = [promote(image, torch.float32) for image in images]
        return places, torch.stack(images) if images else None, broken


def fingerprint(*sources: "Source") -> str:
    """Identifies data: a sha256, in hex, of every image's key and class and of the pixels of 32 images per source.

    A file's key is the hash of its relative path. The sample, spread evenly over the keys, notices files that kept
    their names but not their content, and tells Datasets apart, whose keys are only numbers. File order and the
    folder's place do not count.
    """
    from ..data import BrokenImage

    digest = hashlib.sha256()
    for source in sources:
        order = source.keys.argsort(stable=True)
        digest.update(f"{len(source)} images of the classes {source.classes}".encode("utf-8", "surrogateescape"))
        digest.update(source.keys[order].numpy().tobytes())
        if source.labels is not None:
            digest.update(source.labels[order].numpy().tobytes())
        sample = min(32, len(source))
        for i in order[[n * len(source) // sample for n in range(sample)]].tolist():
            try:
                image = source.read(i, None)
                digest.update(f"{image.dtype} {tuple(image.shape)}".encode() + image.numpy().tobytes())
            except BrokenImage:
                digest.update(b"broken")
    return digest.hexdigest()


def check_finite(*features: Tensor) -> None:
    """Raises ValueError if a number of some features is not finite."""
    if not all(bool(x.isfinite().all()) for x in features):
        raise ValueError(
            "The features hold numbers that are not finite. Check the encoder: its training may have diverged."
        )


def check_labels(largest: int, images: int) -> None:
    """Refuses labels that are no numbers of classes, before as many classes are made."""
    if largest >= max(MOST_CLASSES, 10 * images):
        raise ValueError(
            f"The largest label is {largest}, of {counted(images, 'image')}: labels are places of classes, from "
            "0 on. Number them "
            "so, or save the names of the classes beside."
        )


def count_classes(
    train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor, num_classes: int | None
) -> int:
    """Checks that two labelled sets of features fit together, and returns the number of classes.

    Raises:
        ValueError: what does not fit.
    """
    for name, x, y in (("training", train_features, train_labels), ("test", test_features, test_labels)):
        if x.ndim != 2 or len(x) == 0 or y.shape != x.shape[:1]:
            raise ValueError(
                f"The {name} features are {tuple(x.shape)} and their labels {tuple(y.shape)}; "
                "expected (N, D) and (N,) with at least one image."
            )
        if y.dtype.is_floating_point or y.dtype.is_complex:
            raise ValueError(f"The {name} labels are {y.dtype}; expected integers 0 .. classes - 1.")
    if train_features.shape[1] != test_features.shape[1]:
        raise ValueError(
            f"Training features have {counted(train_features.shape[1], 'number')} and test features "
            f"{test_features.shape[1]}. "
            "Compute both with the same encoder."
        )
    low = min(int(train_labels.min()), int(test_labels.min()))
    high = max(int(train_labels.max()), int(test_labels.max()))
    if num_classes is None:
        check_labels(high, len(train_labels) + len(test_labels))
    classes = high + 1 if num_classes is None else num_classes
    if low < 0 or high >= classes:
        raise ValueError(f"Labels go from {low} to {high}; expected 0 to {classes - 1}.")
    return classes
