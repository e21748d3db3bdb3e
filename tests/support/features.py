"""Features that are easy to tell apart."""

import torch

from lookalike.evaluation import Features, Settings

NAMES = ("ant", "bee", "cat", "dog")


def blobs(n: int, noise: float, seed: int, classes: int = 4, dim: int = 8) -> Features:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    features = torch.eye(classes, dim)[labels] + noise * torch.randn(n, dim, generator=generator)
    return Features(features, labels, [f"{NAMES[y]}/{i}.jpg" for i, y in enumerate(labels.tolist())],
                    torch.arange(n), [], NAMES[:classes])  # fmt: skip


QUICK = Settings(least_steps=300, batch_size=128)


def clusters(n, dim=16, classes=4, spread=1.0, seed=0):
    """Overlapping Gaussian clusters around the same centres for every seed."""
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=g)
    return centres[labels] + spread * torch.randn(n, dim, generator=g), labels


def example(labelled=True, n=12, seed=0):
    x, y = clusters(n, 5, 3, 0.5, seed)
    names = [f"folder, with comma/{i} \u00e9.jpg" for i in range(n - 1)] + ["odd \udcff byte.jpg"]
    return Features(x, y if labelled else None, names, torch.arange(n), [])
