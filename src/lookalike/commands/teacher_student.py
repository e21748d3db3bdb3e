"""Comparison of a teacher and its student: accuracy, size, speed, and agreement of their features."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..backbones import Backbone
from ..data import Data
from ..evaluation.neighbours import others
from ..modes import evaluating
from ..printing import counted
from .evaluate import evaluate

COMPARED_NEIGHBOURS = 10
"""Number of nearest neighbours per image in the comparison of two encoders."""
TRIALS = 5
"""Number of timing runs per encoder, alternating between encoders; the median is reported."""
TIMING_SECONDS = 0.2
"""Minimum duration of a timing run."""


@dataclass(frozen=True)
class EncoderProfile:
    """Size, speed and accuracy of an encoder."""

    name: str
    image_size: int
    dim: int
    parameters: int
    gflops: float
    """10^9 operations of a forward pass of one image; a multiply-add counts as two."""
    images_per_s: float
    """Inference speed in float32, in batches, on the encoder's device."""
    accuracy: dict[str, float]
    """Top-1 by protocol, in [0, 1]; empty without labelled images."""


@dataclass(frozen=True)
class TeacherStudent:
    """Result of a distillation."""

    teacher: EncoderProfile
    student: EncoderProfile
    kept: dict[str, float]
    """Student's accuracy as a fraction of the teacher's, by protocol."""
    cosine: float
    """Mean cosine similarity over the images between the student's features, after its head, and the teacher's."""
    overlap: float
    """Fraction of an image's 10 nearest neighbours that both share; the chance level is 10 / (images - 1)."""
    images: int
    """Number of images on which cosine and overlap were measured."""
    of: str
    """Name of their data set."""
    device: str

    def content(self) -> dict[str, object]:
        """The content of `distillation.json`."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The report as lines of text."""
        sides = self.teacher, self.student
        rows: list[tuple[str, ...]] = [("", "teacher", "student", "student / teacher")]
        rows.append(("encoder", *(s.name for s in sides), ""))
        rows.append(("pixels", *(str(s.image_size) for s in sides), ""))
        rows.append(("feature dimension", *(str(s.dim) for s in sides), ""))
        for name, values, digits in (
            ("parameters, million", [s.parameters / 1e6 for s in sides], 2),
            ("GFLOP per image", [s.gflops for s in sides], 3),
            (f"images/s ({self.device})", [s.images_per_s for s in sides], 0),
        ):
            t, s = values
            # an exported teacher's parameters and operations are unknown, counted as 0
            rows.append((name, f"{t:,.{digits}f}" if t else "unknown", f"{s:,.{digits}f}", f"{s / t:.3g}" if t else ""))
        for protocol, fraction in self.kept.items():
            values = [s.accuracy[protocol] for s in sides]
            rows.append((f"{protocol} top-1", *(f"{value:.2%}" for value in values), f"{fraction:.1%} retained"))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        table = [
            "  ".join([row[0].ljust(widths[0]), *(x.rjust(w) for x, w in zip(row[1:], widths[1:]))]) for row in rows
        ]
        chance = min(1.0, COMPARED_NEIGHBOURS / max(1, self.images - 1))
        return [
            *(line.rstrip() for line in table),
            f"agreement on {counted(self.images, 'image')} of {self.of}: mean cosine {self.cosine:.3f}; "
            f"{self.overlap:.1%} of the {COMPARED_NEIGHBOURS} nearest neighbours are shared "
            f"(chance level {chance:.1%})",
        ]


def profile_encoders(
    encoders: Sequence[Backbone],
    names: Sequence[str],
    sizes: Sequence[int],
    train: Data | None,
    test: Data | None,
    *,
    protocols: Sequence[str] = ("knn", "linear"),
    batch_size: int = 256,
    workers: int = 0,
    seed: int = 0,
    tile: int | None = None,
    stride: int | None = None,
) -> list[EncoderProfile]:
    """Profiles encoders at their image sizes, with accuracies if labelled images are given."""
    speeds = throughput(encoders, sizes)
    found = []
    for encoder, name, size, speed in zip(encoders, names, sizes, speeds):
        accuracy = {}
        if train is not None and test is not None:
            entries = evaluate(
                encoder, train, test, protocols=protocols, image_size=size, batch_size=batch_size, workers=workers,
                seed=seed, tile=tile, stride=stride,
            )  # fmt: skip
            accuracy = {entry.protocol: entry.top1 for entry in entries}
        count = sum(p.numel() for p in encoder.net.parameters())
        found.append(EncoderProfile(name, size, encoder.dim, count, gflops(encoder, size), speed, accuracy))
    return found


def gflops(encoder: Backbone, size: int) -> float:
    """10^9 operations of a forward pass of one image of `size` pixels, by torch's FLOP counter."""
    x = _image(encoder, 1, size)
    trainable = [p for p in encoder.parameters() if p.requires_grad]
    for p in trainable:  # the counter's hooks fail on a parameter that is passed to a module, such as a class token
        p.requires_grad_(False)
    try:
        # attention as plain matrix products, which the counter supports on every device
        with evaluating(encoder), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            encoder.forward(x)
    finally:
        for p in trainable:
            p.requires_grad_(True)
    return int(counter.get_total_flops()) / 1e9


def throughput(encoders: Sequence[Backbone], sizes: Sequence[int], batch_size: int = 64) -> list[float]:
    """Images per second of inference of each encoder, in alternating runs so that other load affects all equally."""
    seconds: list[list[float]] = [[] for _ in encoders]
    images = [_image(encoder, batch_size, size) for encoder, size in zip(encoders, sizes)]
    with torch.inference_mode():
        for trial in range(TRIALS + 1):
            for encoder, x, times in zip(encoders, images, seconds):
                with evaluating(encoder):
                    passes, begun = 0, time.perf_counter()
                    while passes == 0 or (trial and time.perf_counter() - begun < TIMING_SECONDS):
                        encoder.forward(x)
                        if x.is_cuda:
                            torch.cuda.synchronize(x.device)
                        passes += 1
                    if trial:  # the first is a warm-up
                        times.append((time.perf_counter() - begun) / passes)
    return [batch_size / median(times) for times in seconds]


def _image(encoder: Backbone, count: int, size: int) -> Tensor:
    """Noise images with the encoder's device, type and number of channels."""
    like = next(encoder.parameters(), torch.zeros(()))
    return torch.randn(count, encoder.channels, size, size, device=like.device, dtype=like.dtype)


@torch.no_grad()
def mean_cosine(a: Tensor, b: Tensor) -> float:
    """Mean cosine similarity between corresponding rows of two matrices (N, D)."""
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double()).mean())


@torch.no_grad()
def shared_neighbours(a: Tensor, b: Tensor, k: int = COMPARED_NEIGHBOURS) -> float:
    """Mean fraction of a row's k nearest neighbours, by cosine, shared between matrices (N, D) and (N, E); 0 to 1.

    Huh et al., ICML 2024, https://arxiv.org/abs/2405.07987 (mutual nearest neighbours). With fewer than k + 1 rows, all
    other rows are neighbours; for a single row, which has none, the result is 1.
    """
    if len(a) < 2:
        return 1.0
    k = min(k, len(a) - 1)
    both = [others(x, torch.arange(len(x), device=x.device), k)[1] for x in (a, b)]  # (N, k) each
    return float((both[0][:, :, None] == both[1][:, None]).any(2).double().mean())
