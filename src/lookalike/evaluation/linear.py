"""Linear classification of frozen features, after Oquab et al. (DINOv2), TMLR 2024, https://arxiv.org/abs/2304.07193.

The constants are those of the official `dinov2/eval/linear.py`. Five things differ:
- Features are computed once, with the test transform; the official code draws random crops in every epoch.
- There is one vector per image; the official grid also tries the last four blocks and averaged patches.
- The learning rate is chosen on a held-out part of the training images, officially on the reported validation images.
- Small data sets are trained for more epochs, see `Settings.steps`.
- The grid extends beyond the official 0.1, which suits features of unit size: the pooled features of a CNN can be 50
  times smaller, and no rate of the official grid converges on them.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.holdout import held_out
from ..printing import counted
from ..random import key_of, permutation
from .average_precision import set_metrics
from .features import check_finite, count_classes
from .knn import rank, share_below


@dataclass(frozen=True)
class Settings:
    """The protocol's constants."""

    rates: tuple[float, ...] = (
        1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0
    )  # fmt: skip
    """Learning rates to choose from, per 256 images: they are multiplied by batch_size / 256."""
    batch_size: int = 1024
    """Images per step. Officially 128 on each of 8 GPUs."""
    epochs: int = 10
    """Passes over the training images. For ImageNet's 1.28 M these are the official 10 x 1,250 steps."""
    least_steps: int = 2500
    """Minimum number of steps: 10 epochs of 10,000 images would be 98, too few for any of the rates to converge."""
    few_steps: int = 500
    """Minimum number of steps for few images."""
    steps_per_image: float = 0.5
    """Steps per image between `few_steps` and `least_steps`: fewer images need fewer steps for the same accuracy, as
    measured by benchmarks/probe_steps.py."""
    momentum: float = 0.9
    deviation: float = 0.01
    """Standard deviation of the initial weights; biases start at 0."""
    held_out: float = 0.1
    """Fraction of each class's training images on which the learning rate is chosen."""

    def steps(self, images: int) -> int:
        """Number of steps for a number of images."""
        few = max(self.few_steps, math.ceil(images * self.steps_per_image))
        return max(min(self.least_steps, few), self.epochs * math.ceil(images / self.batch_size))


DINOV2 = Settings()


@dataclass(frozen=True)
class Linear:
    """The classifier of the chosen learning rate, trained on all training images. All tensors are on the CPU."""

    top1: float
    """Fraction of the test images that the final classifier classifies correctly, in [0, 1]."""
    top5: float
    lr: float
    """The chosen member of `Settings.rates`."""
    held_out: dict[float, float]
    """Accuracy on the held-out training images, for each rate."""
    weight: Tensor
    """(classes, D), for features that are not normalised."""
    bias: Tensor
    """(classes,)"""
    history: list[tuple[int, float]]
    """(step, cross-entropy) at about 50 points, each the mean over the steps since the previous point."""
    curve: list[tuple[int, float, float]]
    """(step, top1, top5) on the test images at these points, for plots only: nothing is chosen by them."""


@torch.no_grad()
def linear(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    num_classes: int | None = None,
    seed: int = 0,
    settings: Settings = DINOV2,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Linear:
    """Trains a linear classifier by SGD on frozen features, and evaluates it once on the test images, at the end.

    All learning rates are trained in parallel, with a class-balanced, seeded tenth of the training images held out. The
    one with the highest accuracy on that tenth (then the lowest cross-entropy) is trained again on all images.

    Args:
        train_features: (N, D), not normalised here, in float32, or in float64 if either side is.
        train_labels: (N,) integers 0 .. classes - 1; at least one class needs two images.
        test_features: (M, D).
        test_labels: (M,) integers 0 .. classes - 1.
        num_classes: without it the largest label plus 1.
        seed: of the held-out part, the initial weights and the order. Global generators are not used.
        settings: the protocol's constants.
        device: to compute on, features included; without it that of the training features.
        progress: called with the number of steps done and the total, over the choice and the final training.

    Raises:
        ValueError: shapes or labels do not match, a feature is not finite, or no class has two images.
    """
    classes = count_classes(train_features, train_labels, test_features, test_labels, num_classes)
    dtype = torch.promote_types(torch.promote_types(train_features.dtype, test_features.dtype), torch.float32)
    device = torch.device(device or train_features.device)
    x, y = train_features.to(device, dtype), train_labels.to(device, torch.int64)
    test_x, test_y = test_features.to(device, dtype), test_labels.to(device, torch.int64)
    check_finite(x, test_x)

    small = min(settings.batch_size, len(x)) * classes * len(settings.rates) * x.shape[1] < 10_000_000
    with torch.autocast(device.type, enabled=False), _threads(1 if small else torch.get_num_threads()):
        held = hold_out(train_labels.cpu().long(), settings.held_out, seed).to(device)
        rest = (~held).nonzero()[:, 0]
        steps = settings.steps(len(rest)), settings.steps(len(x))

        def count(before: int) -> Callable[[int], None]:
            return lambda step: progress(before + step, sum(steps)) if progress is not None else None

        weights, biases, _ = _train(x, y, rest, classes, settings.rates, seed, settings, done=count(0))
        accuracies, best = _best(weights, biases, x[held], y[held])
        lr = settings.rates[best]

        curve: list[tuple[int, float, float]] = []

        def watch(step: int, weight: Tensor, bias: Tensor) -> None:
            ranks = rank(torch.addmm(bias, test_x, weight.T), test_y)
            curve.append((step, share_below(ranks, 1), share_below(ranks, 5)))

        every = torch.arange(len(x), device=device)
        weights, biases, history = _train(x, y, every, classes, (lr,), seed, settings, watch, count(steps[0]))
        ranks = rank(torch.addmm(biases[0], test_x, weights[0].T), test_y)
    return Linear(
        top1=share_below(ranks, 1),
        top5=share_below(ranks, 5),
        lr=lr,
        held_out=dict(zip(settings.rates, accuracies)),
        weight=weights[0].cpu(),
        bias=biases[0].cpu(),
        history=history,
        curve=curve,
    )


@dataclass(frozen=True)
class LinearSets:
    """The classifier of the chosen learning rate for images that may have several classes."""

    scores: Tensor
    """(M, classes) float64, the probability of each class for each test image, on the CPU."""
    lr: float
    held_out: dict[float, float]
    """Mean average precision on the held-out training images, for each rate; 0 if they have no class."""
    history: list[tuple[int, float]]
    """(step, binary cross-entropy per class) at about 50 points."""
    curve: list[tuple[int, float, float]]
    """(step, mean average precision, micro F1) on the test images at these points, for plots only."""


@torch.no_grad()
def linear_sets(
    train_features: Tensor,
    train_sets: Tensor,
    test_features: Tensor,
    test_sets: Tensor,
    *,
    seed: int = 0,
    settings: Settings = DINOV2,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LinearSets:
    """`linear` for images that may have several classes: a sigmoid per class, trained by binary cross-entropy.

    Learning rates, steps and batches are those of `linear`. The rate is chosen by the mean average precision on a
    held-out tenth (then the lowest cross-entropy), in which each class has about a tenth of its images.

    Args:
        train_features: (N, D), at least two images.
        train_sets: (N, classes) bool, whether an image has a class.
        test_features: (M, D).
        test_sets: (M, classes) bool.
        seed, settings, device, progress: as for `linear`.

    Raises:
        ValueError: shapes do not match, a feature is not finite, no test image has a class, or there is one image.
    """
    classes = train_sets.shape[1]
    if len(train_features) < 2:
        raise ValueError("There is one training image, so no learning rate can be chosen. Give more.")
    dtype = torch.promote_types(torch.promote_types(train_features.dtype, test_features.dtype), torch.float32)
    device = torch.device(device or train_features.device)
    x, y = train_features.to(device, dtype), train_sets.to(device, dtype)
    test_x = test_features.to(device, dtype)
    check_finite(x, test_x)
    held = held_out(torch.arange(len(x)), train_sets.cpu(), settings.held_out, seed)
    small = min(settings.batch_size, len(x)) * classes * len(settings.rates) * x.shape[1] < 10_000_000
    with torch.autocast(device.type, enabled=False), _threads(1 if small else torch.get_num_threads()):
        rest = (~held).nonzero()[:, 0].to(device)
        steps = settings.steps(len(rest)), settings.steps(len(x))

        def count(before: int) -> Callable[[int], None]:
            return lambda step: progress(before + step, sum(steps)) if progress is not None else None

        weights, biases, _ = _train(x, y, rest, classes, settings.rates, seed, settings, done=count(0))
        precisions, best = _best_sets(weights, biases, x[held.to(device)], y[held.to(device)])
        curve: list[tuple[int, float, float]] = []

        def scores(weight: Tensor, bias: Tensor) -> Tensor:
            return torch.addmm(bias, test_x, weight.T).double().sigmoid().cpu()

        def watch(step: int, weight: Tensor, bias: Tensor) -> None:
            found = set_metrics(scores(weight, bias), test_sets)
            curve.append((step, found.map, found.f1))

        every = torch.arange(len(x), device=device)
        lr = settings.rates[best]
        weights, biases, history = _train(x, y, every, classes, (lr,), seed, settings, watch, count(steps[0]))
        found = scores(weights[0], biases[0])
    return LinearSets(found, lr, dict(zip(settings.rates, precisions)), history, curve)


def _best_sets(weights: Tensor, biases: Tensor, x: Tensor, y: Tensor) -> tuple[list[float], int]:
    """As `_best`, by mean average precision, for labels (B, classes)."""
    precisions, losses = [], []
    for weight, bias in zip(weights, biases):
        logits = torch.addmm(bias, x, weight.T)
        precisions.append(set_metrics(logits.sigmoid(), y > 0).map if bool(y.any()) else 0.0)
        losses.append(torch.nn.functional.binary_cross_entropy_with_logits(logits, y).nan_to_num(math.inf).item())
    return precisions, min(range(len(losses)), key=lambda i: (-precisions[i], losses[i]))


def _best(weights: Tensor, biases: Tensor, x: Tensor, y: Tensor) -> tuple[list[float], int]:
    """The accuracies of G classifiers on held-out images, and the index of the best; of ties by cross-entropy."""
    accuracies, losses = [], []
    for weight, bias in zip(weights, biases):
        scores = torch.addmm(bias, x, weight.T)
        accuracies.append(share_below(rank(scores, y), 1))
        losses.append(torch.nn.functional.cross_entropy(scores, y).nan_to_num(math.inf).item())
    return accuracies, min(range(len(losses)), key=lambda i: (-accuracies[i], losses[i]))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Limits torch to `count` threads: for small products, synchronising threads costs more than it gains."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def hold_out(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Draws a fraction of each class's images, at least one and never all: labels (N,) -> (N,) bool."""
    counts = labels.bincount()
    wanted = (counts * fraction).round().long().clamp(min=1)
    wanted = torch.minimum(wanted, (counts - 1).clamp(min=0))
    if not wanted.any():
        raise ValueError(
            f"None of the {counted(len(counts), 'class')} has two training images, so no learning rate can be chosen. "
            "Give more images per class, or use the knn protocol alone."
        )
    order = permutation(len(labels), seed, "hold out")
    order = order[labels[order].argsort(stable=True)]  # class by class, each shuffled
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    held = torch.zeros(len(labels), dtype=torch.bool)
    held[order] = torch.arange(len(labels)) - first < wanted.repeat_interleave(counts)
    return held


def _batches(images: int, size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Cuts an endless sequence of permutations into batches."""
    row, epoch = torch.empty(0, dtype=torch.int64), 0
    for _ in range(steps):
        while len(row) < size:
            row, epoch = torch.cat([row, permutation(images, seed, "linear", epoch)]), epoch + 1
        yield row[:size]
        row = row[size:]


def _train(
    features: Tensor,
    labels: Tensor,
    rows: Tensor,
    classes: int,
    rates: tuple[float, ...],
    seed: int,
    settings: Settings,
    watch: Callable[[int, Tensor, Tensor], None] | None = None,
    done: Callable[[int], None] | None = None,
) -> tuple[Tensor, Tensor, list[tuple[int, float]]]:
    """SGD with momentum and cosine decay to 0, for G rates at once, with the same rows, initial weights and batches.

    If there are fewer rows than a batch has, each step takes all of them once: repeating them would change almost
    nothing.

    `watch` is called with the step, the weights (G classes, D) and the biases at each point of the history, `done` with
    every step. Labels are (N,) class indices, or (N, classes) 0 or 1 if an image may have several. Returns weights (G,
    classes, D), biases (G, classes), and the history of the mean cross-entropy over rates.
    """
    size, steps, groups = min(settings.batch_size, len(rows)), settings.steps(len(rows)), len(rates)
    generator = torch.Generator().manual_seed(key_of(seed, "linear"))
    start = torch.randn(classes, features.shape[1], generator=generator) * settings.deviation
    weight = start.to(features).repeat(groups, 1)  # (G C, D)
    bias = weight.new_zeros(groups * classes)
    weight_velocity, bias_velocity = torch.zeros_like(weight), torch.zeros_like(bias)
    lr = torch.tensor(rates, dtype=features.dtype).repeat_interleave(classes).to(features.device)
    lr *= settings.batch_size / 256

    loss_of = _binary_cross_entropy if labels.ndim == 2 else _cross_entropy
    history, total, last, every = [], features.new_zeros(()), 0, math.ceil(steps / 50)
    for step, batch in enumerate(_batches(len(rows), size, steps, seed)):
        batch = rows[batch.to(rows.device)]
        x, y = features[batch], labels[batch]
        loss, gradient = loss_of(torch.addmm(bias, x, weight.T).view(size, groups, classes), y)
        total += loss
        gradient = gradient.view(size, groups * classes)  # (B, G C)
        weight_velocity.addmm_(gradient.T, x, beta=settings.momentum, alpha=1 / size)
        bias_velocity.mul_(settings.momentum).add_(gradient.mean(0))
        now = lr * (0.5 * (1 + math.cos(math.pi * step / steps)))
        weight.addcmul_(now[:, None], weight_velocity, value=-1)
        bias.addcmul_(now, bias_velocity, value=-1)
        if (step + 1) % every == 0 or step + 1 == steps:
            history.append((step + 1, total.item() / (step + 1 - last)))
            if watch is not None:
                watch(step + 1, weight, bias)
            total, last = torch.zeros_like(total), step + 1
        if done is not None:
            done(step + 1)
    return weight.view(groups, classes, -1), bias.view(groups, classes), history


def _cross_entropy(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The mean cross-entropy of logits (B, G, C) with labels (B,), and its gradient for each image (B, G, C)."""
    each = torch.arange(len(y), device=y.device)
    log_p = logits.log_softmax(-1)
    loss = -log_p[each, :, y].mean()
    gradient = log_p.exp_()
    gradient[each, :, y] -= 1
    return loss, gradient


def _binary_cross_entropy(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The mean binary cross-entropy of logits (B, G, C) with labels (B, C), 0 or 1, and its gradient per image.

    The gradient is that of the sum over classes: each class has a logistic regression, as if trained alone.
    """
    y = y[:, None].to(logits)
    loss = (torch.nn.functional.softplus(logits) - logits * y).mean()
    return loss, logits.sigmoid() - y
