"""A teacher and its student beside each other: how good, how large, how fast, and how much they agree."""

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
"""Nearest neighbours of an image that two encoders are compared by."""
TRIALS = 5
"""Times that each is run for its speed, in turns; the median counts."""
TIMING_SECONDS = 0.2
"""That a run for the speed takes, or more."""


@dataclass(frozen=True)
class EncoderProfile:
    """One of the two."""

    name: str
    image_size: int
    dim: int
    parameters: int
    gflops: float
    """Of a forward pass of one image, in 10^9 operations: a multiplication and an addition are two."""
    images_per_s: float
    """Of inference, in float32, in batches, on the device that they are on."""
    accuracy: dict[str, float]
    """Top-1 by protocol, in [0, 1]; empty without labelled images."""


@dataclass(frozen=True)
class TeacherStudent:
    """What a distillation came to."""

    teacher: EncoderProfile
    student: EncoderProfile
    kept: dict[str, float]
    """Share of the teacher's accuracy that the student has, by protocol."""
    cosine: float
    """Of the student's features, behind its head, with the teacher's; the mean over the images."""
    overlap: float
    """Share of an image's 10 nearest neighbours that are the same for both; by chance 10 in all images."""
    images: int
    """That cosine and overlap were measured on."""
    of: str
    """Where these are from."""
    device: str

    def content(self) -> dict[str, object]:
        """As it stands in `distillation.json`."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The table, for the console."""
        sides = self.teacher, self.student
        rows: list[tuple[str, ...]] = [("", "teacher", "student", "student / teacher")]
        rows.append(("encoder", *(s.name for s in sides), ""))
        rows.append(("pixels", *(str(s.image_size) for s in sides), ""))
        rows.append(("numbers per image", *(str(s.dim) for s in sides), ""))
        for name, values, digits in (
            ("parameters, million", [s.parameters / 1e6 for s in sides], 2),
            ("GFLOP per image", [s.gflops for s in sides], 3),
            (f"images/s ({self.device})", [s.images_per_s for s in sides], 0),
        ):
            t, s = values
            rows.append((name, f"{t:,.{digits}f}", f"{s:,.{digits}f}", f"{s / t:.3g}"))
        for protocol, share in self.kept.items():
            values = [s.accuracy[protocol] for s in sides]
            rows.append((f"{protocol} top-1", *(f"{value:.2%}" for value in values), f"{share:.1%} kept"))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        table = [
            "  ".join([row[0].ljust(widths[0]), *(x.rjust(w) for x, w in zip(row[1:], widths[1:]))]) for row in rows
        ]
        chance = min(1.0, COMPARED_NEIGHBOURS / max(1, self.images - 1))
        return [
            *(line.rstrip() for line in table),
            f"agreement on {counted(self.images, 'image')} of {self.of}: mean cosine {self.cosine:.3f}; of the "
            f"{COMPARED_NEIGHBOURS} "
            f"nearest neighbours {self.overlap:.1%} are the same (by chance {chance:.1%})",
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
) -> list[EncoderProfile]:
    """Measures encoders at their image sizes; their accuracies where there are labelled images."""
    speeds = throughput(encoders, sizes)
    found = []
    for encoder, name, size, speed in zip(encoders, names, sizes, speeds):
        accuracy = {}
        if train is not None and test is not None:
            entries = evaluate(
                encoder, train, test, protocols=protocols, image_size=size, batch_size=batch_size, workers=workers,
                seed=seed,
            )  # fmt: skip
            accuracy = {entry.protocol: entry.top1 for entry in entries}
        count = sum(p.numel() for p in encoder.net.parameters())
        found.append(EncoderProfile(name, size, encoder.dim, count, gflops(encoder, size), speed, accuracy))
    return found


def gflops(encoder: Backbone, size: int) -> float:
    """10^9 operations of a forward pass of one image of `size` pixels, as torch's counter sees them."""
    x = _image(encoder, 1, size)
    learnt = [p for p in encoder.parameters() if p.requires_grad]
    for p in learnt:  # the counter's hooks fail on a parameter that is handed to a module, as class tokens are
        p.requires_grad_(False)
    try:
        # attention as plain products, which the counter knows on every device
        with evaluating(encoder), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            encoder.forward(x)
    finally:
        for p in learnt:
            p.requires_grad_(True)
    return int(counter.get_total_flops()) / 1e9


def throughput(encoders: Sequence[Backbone], sizes: Sequence[int], batch_size: int = 64) -> list[float]:
    """Images per second of inference of each encoder, run in turns so that a busy machine is busy for all."""
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
                    if trial:  # the first warms up
                        times.append((time.perf_counter() - begun) / passes)
    return [batch_size / median(times) for times in seconds]


def _image(encoder: Backbone, count: int, size: int) -> Tensor:
    """Images of noise, where the encoder is and as it takes them."""
    like = next(encoder.parameters(), torch.zeros(()))
    return torch.randn(count, encoder.channels, size, size, device=like.device, dtype=like.dtype)


@torch.no_grad()
def mean_cosine(a: Tensor, b: Tensor) -> float:
    """Of the rows of two matrices (N, D)."""
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double()).mean())


@torch.no_grad()
def shared_neighbours(a: Tensor, b: Tensor, k: int = COMPARED_NEIGHBOURS) -> float:
    """Share of the k nearest rows, by cosine, that rows have in common in two matrices (N, D) and (N, E); 0 to 1.

    Huh et al., ICML 2024, https://arxiv.org/abs/2405.07987 (mutual nearest neighbours). With fewer than k + 1 rows all
    others are neighbours; one row alone has none, and 1 is returned.
    """
    if len(a) < 2:
        return 1.0
    k = min(k, len(a) - 1)
    both = [others(x, torch.arange(len(x), device=x.device), k)[1] for x in (a, b)]  # (N, k) each
    return float((both[0][:, :, None] == both[1][:, None]).any(2).double().mean())
