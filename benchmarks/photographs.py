"""Real photographs without a download: windows of scikit-learn's two sample images."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images


def photographs(side: int, count: int) -> np.ndarray:
    """(count, side, side, 3) uint8: random windows, shrunk to `side` pixels where they are larger."""
    draw, out = np.random.default_rng(0), []
    photos = [Image.fromarray(image) for image in load_sample_images().images]
    for i in range(count):
        photo = photos[i % 2]
        window = int(draw.integers(side, 1 + min(photo.size)))
        x, y = (int(draw.integers(0, 1 + n - window)) for n in photo.size)
        out.append(np.asarray(photo.resize((side, side), Image.Resampling.BICUBIC, (x, y, x + window, y + window))))
    return np.stack(out)


def as_files(folder: Path, side: int, count: int) -> None:
    """Writes them as JPEG files of quality 90, unless they are there."""
    if not (folder / f"{count - 1}.jpg").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(photographs(side, count)):
            Image.fromarray(image).save(folder / f"{i}.jpg", quality=90)
