"""Features of a frozen encoder, with the test transform of the reference protocols."""

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

from ..backbones.cpu_precision import is_faster_in_bf16
from ..data.workers import stream
from ..devices import has_bf16_instructions
from ..images import promote
from ..modes import evaluating
from ..printing import counted
from ..random import permutation
from .protocol_table import FeaturePrecision

if TYPE_CHECKING:
    from ..data import Source

Encoder = TypeVar("Encoder", bound=nn.Module)
MOST_CLASSES = 10_000
"""Maximum label, unless there are more than a tenth as many images."""
MOST_ELONGATED = 64
"""Longest side of an image's part that is resized, in shorter sides."""


@dataclass(frozen=True, eq=False)
class Features:
    """Features of N images, in the source's order, without broken images."""

    features: Tensor
    """(N, D) float32, on the CPU."""
    labels: Tensor | None
    """(N,) int64, or None if the source has no labels."""
    names: list[str]
    index: Tensor
    """(N,) int64, the images' indices in the source."""
    broken: list[tuple[str, str]]
    """(name, reason) of each image that could not be read."""
    classes: tuple[str, ...] | None = None
    """Names of the classes, which labels are indices into; None if classes have no names."""
    label_sets: Tensor | None = None
    """(N, classes) bool, whether an image has a class, if images may have several; `labels` is then None."""


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
    precision: FeaturePrecision = "fp32",
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Computes the encoder's features of every image that can be read.

    Each image is decoded at full size, its shorter side resized to 256/224 of `image_size` (bicubic, antialiased),
    centre-cropped, scaled to [0, 1] and normalised. The encoder runs in eval mode; afterwards each module has its
    previous mode.

    Args:
        encoder: (B, C, image_size, image_size) float32, normalised -> (B, D).
        source: the images; broken ones are left out and listed, never replaced.
        image_size: side of the encoder's input, in pixels.
        mean: one number per channel, in units of [0, 1].
        std: one number per channel, in units of [0, 1].
        batch_size: images per forward pass; changes the result only by rounding.
        workers: processes that decode and resize; 0 for this process.
        device: the encoder is moved there and stays there. Without it the device of its first parameter.
        precision: of an encoder in float32; `faster_precision` returns the faster one.
        progress: called with the number of images done and the total, after each batch.

    Raises:
        ValueError: no image could be read, or the encoder's output is not (B, D).
    """
    if device is None:
        device = device_of(encoder)
    chunks = [range(i, min(i + batch_size, len(source))) for i in range(0, len(source), batch_size)]
    batches = stream(_Cropped(source, image_size), chunks, workers, pin=torch.device(device).type == "cuda")
    _ = source.keys  # hashed here, the workers inherit them
    exact = _dtype_of(encoder)
    shift, scale = (torch.tensor(v, dtype=torch.float32, device=device).view(-1, 1, 1) for v in (mean, std))
    rows: Tensor | None = None
    index: list[int] = []
    broken: list[tuple[str, str]] = []
    encoder.to(device)
    half = precision == "bf16" and exact == torch.float32
    with evaluating(encoder), torch.autocast(torch.device(device).type, torch.bfloat16, enabled=half):
        for good, images, bad in batches:
            if images is not None:
                x = promote(images.to(device, non_blocking=True), torch.float32)
                batch = _embedded(encoder, x, shift, scale, exact)  # (B, D)
                if rows is None:  # allocated once: concatenating batches at the end would need twice the memory
                    rows = torch.empty(len(source), batch.shape[1])
                rows[len(index) : len(index) + len(good)] = batch.float().cpu()
                index += good
            broken += bad
            if progress is not None:
                progress(len(index) + len(broken), len(source))
    if rows is None:
        why = f"the first is {broken[0][0]}: {broken[0][1]}" if broken else "there are none"
        raise ValueError(f"None of the {counted(len(source), 'image')} could be read; {why}.")
    indices = torch.tensor(index)
    labels = None if source.labels is None else source.labels[indices]
    sets = None if source.label_sets is None else source.label_sets[indices]
    names = [source.name(i) for i in index]
    return Features(rows[: len(index)], labels, names, indices, broken, source.classes, sets)


def _embedded(encoder: nn.Module, x: Tensor, shift: Tensor, scale: Tensor, exact: torch.dtype) -> Tensor:
    """Features (B, D) of images (B, C, H, W) in [0, 1], which are normalised here and cast to `exact`."""
    if not len(shift) == len(scale) == x.shape[1]:
        raise ValueError(
            f"The images have {counted(x.shape[1], 'channel')}, but mean has {counted(len(shift), 'number')} and std "
            f"has {len(scale)}. Give one number per channel."
        )
    with torch.inference_mode():
        output: Tensor = encoder(((x - shift) / scale).to(exact))
    if output.ndim != 2:
        raise ValueError(f"The encoder's output is {tuple(output.shape)}; expected (B, D), a vector per image.")
    return output


def faster_precision(encoder: nn.Module, device: torch.device | str | None = None) -> FeaturePrecision:
    """bf16 for an encoder in float32 on a CPU whose bf16 instructions make it faster, as for `pretrain`; else fp32.

    Args:
        device: without it the device of the encoder's first parameter.
    """
    fits = _dtype_of(encoder) == torch.float32 and torch.device(device or device_of(encoder)).type == "cpu"
    return "bf16" if fits and has_bf16_instructions() and is_faster_in_bf16(encoder) else "fp32"


def precision_of(encoder: nn.Module, stated: FeaturePrecision | None) -> FeaturePrecision:
    """The precision in which `features` computes: the stated one for an encoder in float32, or the faster one."""
    if stated is None:
        return faster_precision(encoder)
    return stated if _dtype_of(encoder) == torch.float32 else "fp32"


def _dtype_of(module: nn.Module) -> torch.dtype:
    """The dtype of a module's first parameter; float32 if it has none."""
    return next((p.dtype for p in module.parameters()), torch.float32)


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's first parameter; the CPU if it has none."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def as_parameters(module: nn.Module, x: Tensor) -> Tensor:
    """A tensor on the device and in the dtype of a module's parameters; unchanged if it has none."""
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
    """A copy of an untrained encoder for evaluation, with the BatchNorm statistics of the images.

    Initially these are mean 0 and variance 1. With them an untrained encoder would be underestimated, and the gain from
    training overestimated. At most `images` of `source` are read; the other arguments are those of `features`.
    """
    chosen = permutation(len(source), "statistics")[:images]
    crops = _Cropped(source, image_size)
    shift, scale = (torch.tensor(v, dtype=torch.float32).view(-1, 1, 1) for v in (mean, std))

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(chosen), 256):
            _, batch, _ = crops[chosen[start : start + 256].tolist()]
            if batch is not None and len(batch) > 1:
                yield (promote(batch, torch.float32) - shift) / scale

    return calibrated(encoder, batches())


@torch.no_grad()
def calibrated(encoder: Encoder, batches: Iterable[Tensor]) -> Encoder:
    """A copy of an encoder in eval mode, with BatchNorm statistics averaged over batches (B, C, H, W)."""
    encoder = copy.deepcopy(encoder).eval()
    _calibrate(encoder, batches)
    return encoder


@contextmanager
def calibrating(encoder: Encoder, batches: Iterable[Tensor]) -> Iterator[None]:
    """Eval mode with those statistics within the context; then the encoder is restored. Copies statistics only."""
    previous = [(b, b.clone()) for norm in _norms(encoder) for b in norm.buffers(recurse=False)]
    try:
        with evaluating(encoder):
            _calibrate(encoder, batches)
            yield
    finally:
        for buffer, value in previous:
            buffer.copy_(value)


def _norms(encoder: nn.Module) -> list[_BatchNorm]:
    return [m for m in encoder.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def _calibrate(encoder: Encoder, batches: Iterable[Tensor]) -> None:
    """Replaces the BatchNorm statistics of the encoder, which is in eval mode."""
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
        weight = 1 / int(norm.num_batches_tracked)  # gives the mean over all batches
        norm.running_mean.lerp_(x.mean(axes).to(norm.running_mean), weight)
        norm.running_var.lerp_(x.var(axes).to(norm.running_var), weight)

    # in eval mode: in train mode a synchronised norm would communicate, and other processes do not take part
    for norm in norms:
        norm.reset_running_stats()
    handles = [norm.register_forward_pre_hook(note) for norm in norms]
    try:
        for x in batches:
            encoder.forward(as_parameters(encoder, x))  # not encoder(x): torch.compile would compile it
    finally:
        for handle in handles:
            handle.remove()


def short_side(size: int) -> int:
    """The shorter side of a resized image, of which the centre of `size` x `size` pixels is the crop."""
    return round(size * 256 / 224)


def crop(image: Tensor, size: int) -> Tensor:
    """The test transform of the reference protocols: resize and centre crop, (C, H, W) -> (C, size, size).

    The shorter side becomes round(size * 256 / 224) pixels, bicubic and antialiased, then the centre is cropped.
    Images longer than `MOST_ELONGATED` times their width are cropped to that first: resizing them as a whole would
    take gigabytes.
    A uint8 image stays uint8, resized in fixed point as in torchvision, within one level of Pillow's result; other
    images become float32 in [0, 1].
    """
    if image.dtype != torch.uint8:
        image = promote(image, torch.float32)
    reach = MOST_ELONGATED * min(image.shape[-2:])
    image = _centre(image, min(image.shape[-2], reach), min(image.shape[-1], reach))
    height, width = image.shape[-2:]
    short = short_side(size)
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
    """Ranges of a source: indices and test crops of the images that can be read, names and reasons of the others."""

    def __init__(self, source: "Source", size: int) -> None:
        self.source, self.size = source, size

    def __getitem__(self, chunk: Iterable[int]) -> Cropped:
        from ..data import BrokenImage

        index, images, broken = [], [], []
        for i in chunk:
            try:
                images.append(crop(self.source.read(i, None), self.size))
                index.append(i)
            except BrokenImage as e:
                broken.append((e.name, e.reason))
        if len({image.dtype for image in images}) > 1:
            images = [promote(image, torch.float32) for image in images]
        return index, torch.stack(images) if images else None, broken


def fingerprint(*sources: "Source") -> str:
    """Identifies data: the SHA-256, in hex, of every image's key and class and of the pixels of 32 images per source.

    A file's key is the hash of its relative path. The sample, spread evenly over the keys, detects files with the same
    name but other content, and distinguishes Datasets, whose keys are only numbers. Independent of the order of files
    and the path of the folder.
    """
    from ..data import BrokenImage

    digest = hashlib.sha256()
    for source in sources:
        order = source.keys.argsort(stable=True)
        digest.update(f"{len(source)} images of the classes {source.classes}".encode("utf-8", "surrogateescape"))
        digest.update(source.keys[order].numpy().tobytes())
        if source.labels is not None:
            digest.update(source.labels[order].numpy().tobytes())
        if source.label_sets is not None:
            digest.update(source.label_sets[order].numpy().tobytes())
        sample = min(32, len(source))
        for i in order[[n * len(source) // sample for n in range(sample)]].tolist():
            try:
                image = source.read(i, None)
                digest.update(f"{image.dtype} {tuple(image.shape)}".encode() + image.numpy().tobytes())
            except BrokenImage:
                digest.update(b"broken")
    return digest.hexdigest()


def check_finite(*features: Tensor) -> None:
    """Raises ValueError if a value of the features is not finite."""
    if not all(bool(x.isfinite().all()) for x in features):
        raise ValueError(
            "The features contain values that are not finite. Check the encoder: its training may have diverged."
        )


def check_labels(largest: int, images: int) -> None:
    """Refuses labels that cannot be class indices, before memory for as many classes is allocated."""
    if largest >= max(MOST_CLASSES, 10 * images):
        raise ValueError(
            f"The largest label is {largest}, for {counted(images, 'image')}: labels must be class indices from 0 on. "
            "Number them so, or also save the names of the classes."
        )


def count_classes(
    train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor, num_classes: int | None
) -> int:
    """Checks that two labelled sets of features are compatible, and returns the number of classes.

    Raises:
        ValueError: shapes, dtypes or labels do not match.
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
            f"Training features have {counted(train_features.shape[1], 'dimension')} and test features "
            f"{test_features.shape[1]}. Compute both with the same encoder."
        )
    low = min(int(train_labels.min()), int(test_labels.min()))
    high = max(int(train_labels.max()), int(test_labels.max()))
    if num_classes is None:
        check_labels(high, len(train_labels) + len(test_labels))
    classes = high + 1 if num_classes is None else num_classes
    if low < 0 or high >= classes:
        raise ValueError(f"Labels go from {low} to {high}; expected 0 to {classes - 1}.")
    return classes
