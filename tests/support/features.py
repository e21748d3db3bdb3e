"""Features that are easy to tell apart."""

import torch

from lookalike.evaluation import Features

NAMES = ("ant", "bee", "cat", "dog")


def blobs(n: int, noise: float, seed: int, classes: int = 4, dim: int = 8) -> Features:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    features = torch.eye(classes, dim)[labels] + noise * torch.randn(n, dim, generator=generator)
    return Features(features, labels, [f"{NAMES[y]}/{i}.jpg" for i, y in enumerate(labels.tolist())],
                    torch.arange(n), [], NAMES[:classes])  # fmt: skip
