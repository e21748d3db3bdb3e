"""Compares an export, loaded by the program that will use it, with the encoder on real images."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..backbones import Backbone
from ..backbones.onnx_file import FEATURES, PROBABILITIES
from ..data import BrokenImage, Source
from ..evaluation.features import crop
from ..evaluation.neighbours import TIE, others
from ..images import promote
from ..printing import counted
from ..random import permutation
from .consumers import Consumer, Statement
from .formats import Precision
from .network import Network
from .onnx_graph import STEP, first_line

IMAGES = 256
"""Images on which an export is verified; all if there are fewer."""
BATCHES = (1, 3, 8)
"""Batch sizes, of which the last one repeats."""
NEIGHBOURS = 10
LEAST_FOR_NEIGHBOURS = 40
"""Images from which on a limit on neighbours is meaningful: of so few, a quarter stay the same by chance."""
AT_OTHER_SIZE = 32
"""Images that are verified at a second size, if the export accepts any."""


@dataclass(frozen=True)
class Limits:
    """What an export of a precision must reach on every image or, for neighbours, on average."""

    deviation: float = math.inf
    """Largest length of the difference of two outputs, in lengths of the encoder's output."""
    cosine: float = -1.0
    """Smallest cosine similarity with the encoder's output."""
    neighbours: float = 0.0
    """Smallest mean fraction of the 10 nearest neighbours that stay the same."""


LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(deviation=1e-5),
    "fp16": Limits(cosine=0.999),
    "int8": Limits(neighbours=0.6),
}
"""For int8 below what networks have that keep their k-NN accuracy, and far above what those have that lose it
(docs/results.md, exports)."""


@dataclass(frozen=True)
class Case:
    """Images of one size, in batches of one size, compared for one output."""

    output: str
    batch: int
    height: int
    width: int
    images: int
    largest: float
    """Largest deviation: length of the difference, in lengths of the encoder's output."""
    mean: float
    cosine: float
    """Smallest cosine similarity."""


@dataclass(frozen=True)
class Verification:
    """How well an export agrees with the encoder in one program."""

    program: str
    images: int
    limits: Limits
    cases: list[Case]
    neighbours: float | None
    """Mean fraction of the 10 nearest neighbours that stay the same; None for fewer than 12 images."""
    same_class: float | None = None
    """Fraction of images whose most likely class is the same; None for encoders."""
    failures: list[str] = field(default_factory=list)
    """What is outside the limits, in sentences; empty if the export is verified."""

    @property
    def largest(self) -> float:
        return max(case.largest for case in self.cases)

    @property
    def mean(self) -> float:
        return sum(case.mean * case.images for case in self.cases) / sum(case.images for case in self.cases)

    @property
    def cosine(self) -> float:
        return min(case.cosine for case in self.cases)

    def line(self) -> str:
        """The result in one line."""
        near = "" if self.neighbours is None else f", {self.neighbours:.1%} of the nearest neighbours the same"
        classes = "" if self.same_class is None else f", {self.same_class:.1%} of the classes the same"
        return (
            f"{self.program}, {counted(self.images, 'image')}: deviation {self.mean:.1e} on average and "
            f"{self.largest:.1e} at most, cosine at least {self.cosine:.6f}{near}{classes}"
        )


@dataclass(frozen=True)
class Sample:
    """Real images for verification and calibration."""

    images: list[Tensor]
    """(C, H, W), in their file's size and type."""
    source: str
    """Where they are from."""


def sample(source: Source, count: int, purpose: str, where: str) -> Sample:
    """Up to `count` images of a source that can be read, by a choice that depends on its length and purpose only."""
    found: list[Tensor] = []
    for i in permutation(len(source), purpose).tolist():
        try:
            found.append(source.read(i, None))
        except BrokenImage:
            continue
        if len(found) == count:
            break
    return Sample(found, where)


def verify(
    consumer: Consumer,
    network: Network,
    images: Sample,
    precision: Precision,
    *,
    dynamic_size: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Runs an export and the encoder on the same images, in several batch sizes, and compares their outputs.

    The export gets images as its own statement asks for them; the encoder gets those of evaluation.

    Args:
        consumer: the loaded export.
        network: the encoder as it should have been exported, in fp32.
        images: at least one image.
        precision: chooses the limits.
        dynamic_size: whether the export accepts other image sizes: then some are compared at a second one.
        progress: called with the number of images done and the total.

    Raises:
        ValueError: the program cannot run the export, or the images do not fit it.
    """
    cases: list[Case] = []
    features: list[tuple[Tensor, Tensor]] = []
    same: list[Tensor] = []
    size = network.encoder.image_size
    total = len(images.images) + (min(AT_OTHER_SIZE, len(images.images)) if dynamic_size else 0)
    done = 0
    for height, width in [(size, size), *([_other_size(network)] if dynamic_size else [])]:
        chosen = images.images if (height, width) == (size, size) else images.images[:AT_OTHER_SIZE]
        compared: dict[tuple[str, int], list[tuple[Tensor, Tensor]]] = {}
        for batch in _batches(len(chosen)):
            ours, theirs = _both(consumer, network, [chosen[i] for i in batch], height, width)
            for name in ours:
                compared.setdefault((name, len(batch)), []).append((ours[name].flatten(1), theirs[name].flatten(1)))
            if (height, width) == (size, size):
                features.append((ours[FEATURES], theirs[FEATURES]))
                if PROBABILITIES in ours:
                    same.append(ours[PROBABILITIES].argmax(1) == theirs[PROBABILITIES].argmax(1))
            done += len(batch)
            if progress is not None:
                progress(done, total)
        for (name, batch_size), pairs in compared.items():
            cases.append(_case(name, batch_size, height, width, *map(torch.cat, zip(*pairs))))
    kept = kept_neighbours(*map(torch.cat, zip(*features)))
    classes = float(torch.cat(same).double().mean()) if same else None
    limits = LIMITS[precision]
    failures = [*_misstated(consumer.statement, network.encoder), *_failures(cases, kept, limits, len(images.images))]
    return Verification(consumer.name, len(images.images), limits, cases, kept, classes, failures)


def kept_neighbours(before: Tensor, after: Tensor) -> float | None:
    """Mean fraction of the nearest neighbours in `after` that are among the nearest in `before`, both (N, D).

    Images that are as near as the last one, such as duplicates, all count as nearest. None for fewer than 12 images.
    """
    if len(before) < NEIGHBOURS + 2:
        return None
    if not bool(after.isfinite().all()):
        return 0.0
    cosines = torch.nn.functional.normalize(before.double())
    cosines = (cosines @ cosines.mT).fill_diagonal_(-math.inf)
    least = cosines.topk(NEIGHBOURS).values[:, -1:]
    found = others(after, torch.arange(len(after)), NEIGHBOURS)[1]
    return float((cosines.gather(1, found) >= least - TIE).double().mean())


def _both(
    consumer: Consumer, network: Network, images: Sequence[Tensor], height: int, width: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The outputs of the encoder and of the export, (B, ...) in float32."""
    encoder, stated = network.encoder, consumer.statement
    if stated.preprocesses:
        images = _of_one_size(images)
    crops = test_crops(images, max(height, width))[..., :height, :width]
    with torch.inference_mode():
        ours = dict(zip(network.outputs, network(normalised(crops, encoder.mean, encoder.std))))
    if stated.preprocesses:
        given = torch.stack([x.permute(1, 2, 0) for x in images])
    else:
        given = normalised(crops, stated.mean, stated.std)
    try:
        found = consumer.run(np.ascontiguousarray(given.numpy()))
    except Exception as error:  # each program raises errors of its own
        raise ValueError(
            f"{consumer.name} cannot run the export on {counted(len(images), 'image')} of {width} x {height} pixels: "
            f"{first_line(error)} Try another --opset or --format."
        ) from error
    theirs = {name: torch.from_numpy(np.array(value)).float() for name, value in found.items()}
    return {name: x for name, x in ours.items() if name in theirs}, theirs


def test_crops(images: Sequence[Tensor], size: int) -> Tensor:
    """Images (C, H, W) of any sizes as test crops (B, C, size, size), float32 in [0, 1]."""
    return torch.stack([promote(crop(image, size), torch.float32) for image in images])


def normalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Images (B, C, H, W) in [0, 1], less the mean, divided by the standard deviation of each channel."""
    shift, scale = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
    return (images - shift) / scale


def _of_one_size(images: Sequence[Tensor]) -> list[Tensor]:
    """The images, cut to the smallest height and width, as a batch needs them."""
    for image in images:
        if image.dtype != torch.uint8:
            kind = str(image.dtype).removeprefix("torch.")
            raise ValueError(
                f"Preprocessing in the graph takes uint8 images, but these are {kind}. Leave --with-preprocessing out."
            )
    height, width = (min(image.shape[axis] for image in images) for axis in (1, 2))
    return [image[:, :height, :width] for image in images]


def _case(output: str, batch: int, height: int, width: int, ours: Tensor, theirs: Tensor) -> Case:
    length = ours.norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    deviation = ((theirs - ours).norm(dim=1) / length).nan_to_num(math.inf)
    cosine = torch.cosine_similarity(ours.double(), theirs.double()).nan_to_num(-1.0)
    return Case(
        output, batch, height, width, len(ours), float(deviation.max()), float(deviation.mean()), float(cosine.min())
    )


def _misstated(stated: Statement, encoder: Backbone) -> Iterator[str]:
    """What a file states wrongly about its input, if it does not normalise images itself."""
    values: dict[str, tuple[Sequence[float], Sequence[float]]] = {
        "the mean": (stated.mean, encoder.mean), "the standard deviation": (stated.std, encoder.std),
        "the image size": ((stated.image_size,), (encoder.image_size,)),
    }  # fmt: skip
    for what, (found, expected) in values.items():
        if not np.allclose(found, expected, rtol=1e-6, atol=0):
            yield f"{what} is stated as {_numbers(found)}; the encoder's is {_numbers(expected)}"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


def _failures(cases: Sequence[Case], kept: float | None, limits: Limits, images: int) -> Iterator[str]:
    worst = max(cases, key=lambda case: case.largest)
    if worst.largest > limits.deviation:
        yield (
            f"the {worst.output} of an image deviate by {worst.largest:.2g} of their length at batch size {worst.batch}"
            f" and {worst.width} x {worst.height} pixels (limit {limits.deviation:.0e})"
        )
    least = min(cases, key=lambda case: case.cosine)
    if least.cosine < limits.cosine:
        yield f"the cosine similarity of the {least.output} of an image is {least.cosine:.6f} (limit {limits.cosine})"
    if limits.neighbours and images < LEAST_FOR_NEIGHBOURS:
        yield f"nearest neighbours cannot be compared on {counted(images, 'image')} (at least {LEAST_FOR_NEIGHBOURS})"
    elif kept is not None and kept < limits.neighbours:
        yield f"{kept:.1%} of the nearest neighbours stay the same (limit {limits.neighbours:.0%})"


def _batches(count: int) -> Iterator[range]:
    """Ranges of images in batches of `BATCHES`, the last one repeated."""
    start, sizes = 0, iter(BATCHES)
    while start < count:
        size = next(sizes, BATCHES[-1])
        yield range(start, min(start + size, count))
        start += size


def _other_size(network: Network) -> tuple[int, int]:
    """A second size, higher than wide, that the encoder accepts."""
    step = network.encoder.patch_size or STEP
    return network.encoder.image_size + 2 * step, network.encoder.image_size + step
