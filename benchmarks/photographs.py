"""Real photographs without a download: windows of scikit-learn's two sample images."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images


def _each(side: int, count: int) -> Iterator[np.ndarray]:
    """(side, side, 3) uint8: random windows, shrunk to `side` pixels where they are larger."""
    draw = np.random.default_rng(0)
    photos = [Image.fromarray(image) for image in load_sample_images().images]

    def window(i: int) -> tuple[Image.Image, tuple[int, int, int, int]]:
        photo = photos[i % 2]
        wide = int(draw.integers(side, 1 + min(photo.size)))
        x, y = (int(draw.integers(0, 1 + n - wide)) for n in photo.size)
        return photo, (x, y, x + wide, y + wide)

    def cut(place: tuple[Image.Image, tuple[int, int, int, int]]) -> np.ndarray:
        photo, box = place
        return np.asarray(photo.resize((side, side), Image.Resampling.BICUBIC, box))

    with ThreadPoolExecutor() as pool:
        yield from pool.map(cut, [window(i) for i in range(count)])


def photographs(side: int, count: int) -> np.ndarray:
    """(count, side, side, 3) uint8."""
    return np.stack(list(_each(side, count)))


def as_files(folder: Path, side: int, count: int) -> None:
    """Writes them as JPEG files of quality 90, unless they are there."""
    if (folder / f"{count - 1}.jpg").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)

    def save(numbered: tuple[int, np.ndarray]) -> None:
        i, image = numbered
        Image.fromarray(image).save(folder / f"{i}.jpg", quality=90)

    with ThreadPoolExecutor() as pool:
        list(pool.map(save, enumerate(_each(side, count))))
