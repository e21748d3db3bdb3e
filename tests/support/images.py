"""Images for the tests: arrays, tensors, files, and pictures whose kinds can be told apart."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

RNG = np.random.default_rng(0)


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return RNG.integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def ramp(height: int, width: int) -> np.ndarray:
    """A smooth RGB image, which JPEG keeps well."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * y / height, 255 * x / width, 128 + 0 * x], -1).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chw(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.atleast_3d(array).transpose(2, 0, 1).copy())


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def draw(path: Path, kind: int, seed: int, side: tuple[int, int] = (24, 20)) -> None:
    """A noisy picture whose colours and stripes depend on its kind."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: side[1], : side[0]]
    stripes = np.sin((x if kind % 2 else y) * (0.5 + 0.4 * kind) + rng.uniform(0, 6))[..., None]
    colour = np.eye(3)[kind % 3] * 0.5 + 0.25
    pixels = 0.5 + 0.3 * stripes * colour + 0.3 * (colour - 0.5) + rng.normal(0, 0.05, (*side[::-1], 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8)).save(path, quality=92)
