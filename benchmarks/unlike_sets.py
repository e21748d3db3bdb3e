"""Four labelled sets that have little in common, made the same way each time and kept in a folder.

- `cifar10`: photographs of 32 pixels, 10 classes; up to 20,000 of the archive's train/, 1,000 of its test/.
- `clothes`: photographs of clothes in 96 pixels, 10 unbalanced classes; 1,000 for tests, all others to train on.
- `digits`: scikit-learn's digits at a random place, in a random size and grey on a noisy canvas; grey, 10 classes.
- `textures`: windows of seven materials in photographs that scikit-learn and Matplotlib ship, lit from a random side;
  grey. Each material has a region to train on and another for tests: a place that was memorised is of no use.
"""

import hashlib
import io
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lookalike.data import Source
from lookalike.random import permutation

SIDE = 96
"""Pixels of what is stored, but for CIFAR-10, which has 32."""
MOST, TEST = 20_000, 1000
"""Images to train on at most, and for tests."""

Box = tuple[int, int, int, int]

MATERIALS: dict[str, tuple[str, Box, Box]] = {
    "bush": ("china", (445, 310, 560, 427), (390, 320, 443, 427)),
    "building": ("china", (90, 180, 230, 330), (232, 180, 330, 330)),
    "petals": ("flower", (190, 120, 310, 320), (312, 120, 425, 320)),
    "leaf": ("flower", (0, 60, 140, 200), (0, 202, 140, 320)),
    "flag": ("grace_hopper", (0, 0, 130, 150), (0, 152, 130, 240)),
    "cloth": ("grace_hopper", (60, 390, 200, 478), (310, 390, 460, 478)),
    "face": ("grace_hopper", (165, 150, 258, 330), (260, 150, 350, 330)),
}
"""The photograph of each, and the regions (left, top, right, bottom) to train on and for tests."""
WINDOW = 28, 48
"""Smallest and largest side of a window in a photograph, in pixels."""


@dataclass(frozen=True)
class Labelled:
    """Images (N, S, S) of one channel or (N, S, S, 3), uint8, with labels (N,) int64."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


class InMemory(Source):
    """Some of such images, decoded already, in three channels."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, places: Tensor | None = None) -> None:
        self.images = images
        self.places = torch.arange(len(images)) if places is None else places
        self.channels = 3
        self.labels = torch.from_numpy(np.array(labels)).long()[self.places]
        self.classes = tuple(f"class {k}" for k in range(int(labels.max()) + 1))

    def __len__(self) -> int:
        return len(self.places)

    @property
    def keys(self) -> Tensor:
        return self.places

    def name(self, i: int) -> str:
        return f"image {int(self.places[i])}"

    def read(self, i: int, decode_size: int | None) -> Tensor:
        image = np.array(self.images[int(self.places[i])])  # out of the file that is mapped into memory
        pixels = torch.from_numpy(image)
        return pixels.expand(3, -1, -1).contiguous() if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


# ---------------------------------------------------------------- photographs


def members(archive: Path) -> Iterator[tuple[str, str, str, bytes]]:
    """Split, class, name and content of each file SPLIT/CLASS/NAME.jpg of an archive."""
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = Path(member.name).parts
            if member.isfile() and len(parts) == 3:
                content = tar.extractfile(member)
                assert content is not None
                yield *parts, content.read()


def square(content: bytes, side: int) -> np.ndarray:
    """(side, side, 3) uint8: the middle of a photograph."""
    photo = Image.open(io.BytesIO(content)).convert("RGB")
    least = min(photo.size)
    left, top = ((n - least) / 2 for n in photo.size)
    if photo.size == (side, side):
        return np.asarray(photo)
    return np.asarray(photo.resize((side, side), Image.Resampling.BICUBIC, (left, top, left + least, top + least)))


def cifar10(archive: Path) -> Labelled:
    found = sorted(members(archive), key=lambda m: m[:3])
    classes = sorted({m[1] for m in found})
    parts: list[np.ndarray] = []
    for split, most in (("train", MOST), ("test", TEST)):
        own = [m for m in found if m[0] == split]
        drawn = [own[i] for i in permutation(len(own), 0, split)[:most].tolist()]
        parts += [np.stack([square(m[3], 32) for m in drawn]), np.array([classes.index(m[1]) for m in drawn])]
    return Labelled(*parts)


def clothes(archive: Path) -> Labelled:
    found = sorted(members(archive), key=lambda m: m[:3])
    classes = sorted({m[1] for m in found})
    order = permutation(len(found), 0, "clothes").tolist()
    images = np.stack([square(found[i][3], SIDE) for i in order])
    labels = np.array([classes.index(found[i][1]) for i in order])
    test = min(TEST, len(found) // 3)
    return Labelled(images[test:][:MOST], labels[test:][:MOST], images[:test], labels[:test])


# ---------------------------------------------------------------- digits


def digits(train: int = MOST, test: int = TEST) -> Labelled:
    """Some writers' digits are for tests alone: the last 500 of scikit-learn's."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pictures, labels = bunch.images.astype(np.float32) / 16, bunch.target.astype(np.int64)
    parts: list[np.ndarray] = []
    for part, (start, end, count) in enumerate(((0, -500, train), (-500, None, test))):
        draw = np.random.default_rng([1, part])
        own, names = pictures[start:end], labels[start:end]
        chosen = draw.integers(len(own), size=count)
        parts += [np.stack([on_canvas(own[i], draw) for i in chosen]), names[chosen]]
    return Labelled(*parts)


def on_canvas(digit: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """(SIDE, SIDE) uint8: a digit (8, 8) from 0 to 1, at a random place, size and grey, on a dark ground with noise.

    The ground is the same in all images: else it, and not the digit, is what tells an image from others.
    """
    canvas = 24 + draw.normal(scale=4, size=(SIDE, SIDE))
    side = int(draw.integers(56, 93))
    x, y = draw.integers(0, SIDE - side + 1, size=2)
    stroke = resized(digit, side).clip(0, 1)
    canvas[y : y + side, x : x + side] += draw.uniform(110, 220) * stroke
    return canvas.clip(0, 255).astype(np.uint8)


def resized(image: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


# ---------------------------------------------------------------- textures


def photographs() -> dict[str, np.ndarray]:
    """(H, W) float32 each: scikit-learn's two sample images and Matplotlib's, in grey."""
    import matplotlib
    from sklearn.datasets import load_sample_image

    hopper = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    photos = {name: Image.fromarray(load_sample_image(f"{name}.jpg")) for name in ("china", "flower")}
    photos["grace_hopper"] = Image.open(hopper)
    return {name: np.asarray(photo.convert("L"), dtype=np.float32) for name, photo in photos.items()}


def windows(part: int, count: int) -> list[tuple[int, Box]]:
    """The material and the window of each image, in the regions to train on (part 0) or for tests (part 1)."""
    draw, found = np.random.default_rng([2, part]), []
    regions = [material[1 + part] for material in MATERIALS.values()]
    for i in range(count):
        left, top, right, bottom = regions[i % len(regions)]
        wide = int(draw.integers(WINDOW[0], 1 + WINDOW[1]))
        x, y = int(draw.integers(left, right - wide + 1)), int(draw.integers(top, bottom - wide + 1))
        found.append((i % len(regions), (x, y, x + wide, y + wide)))
    return found


def lit(window: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """(SIDE, SIDE) uint8: a window (W, W) with the light of one side, neither its own brightness nor its contrast."""
    image = resized(window, SIDE)
    image = (image - image.mean()) / (image.std() + 8)  # what is smooth stays smoother
    angle = draw.uniform(0, 2 * np.pi)
    down, right = np.gradient(image)
    slope = np.cos(angle) * right + np.sin(angle) * down  # bright where the surface faces the light
    side = np.linspace(-1, 1, SIDE)
    ramp = np.cos(angle) * side[None, :] + np.sin(angle) * side[:, None]
    shaded = image + draw.uniform(0.5, 2) * slope / (2 * slope.std() + 0.1) + draw.uniform(0.3, 1) * ramp
    shaded = draw.uniform(90, 165) + draw.uniform(20, 50) * shaded + draw.normal(scale=3, size=shaded.shape)
    return shaded.clip(0, 255).astype(np.uint8)


def textures(train: int = MOST, test: int = TEST) -> Labelled:
    photos = photographs()
    sources = [photos[photo] for photo, *_ in MATERIALS.values()]
    parts: list[np.ndarray] = []
    for part, count in enumerate((train, test)):
        draw = np.random.default_rng([3, part])
        found = windows(part, count)
        parts.append(np.stack([lit(sources[m][y0:y1, x0:x1], draw) for m, (x0, y0, x1, y1) in found]))
        parts.append(np.array([m for m, _ in found], dtype=np.int64))
    return Labelled(*parts)


# ---------------------------------------------------------------- all


def makers(cifar: Path, clothing: Path) -> dict[str, Callable[[], Labelled]]:
    """Each set by its name."""
    return {
        "cifar10": lambda: cifar10(cifar), "clothes": lambda: clothes(clothing), "digits": digits, "textures": textures,
    }  # fmt: skip


NAMES = "cifar10", "clothes", "digits", "textures"


def kept(name: str, make: Callable[[], Labelled], folder: Path) -> Labelled:
    """A set, from its files in `folder`, where it is made once; the images stay on the disk until they are read.

    A change of this module makes it anew.
    """
    code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    own = folder / f"{name}-{code}"
    if not own.is_dir():
        made = make()
        folder.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=folder))
        for field, value in vars(made).items():
            np.save(fresh / f"{field}.npy", value)
        fresh.rename(own)
    return Labelled(**{
        field: np.load(own / f"{field}.npy", mmap_mode=None if field.endswith("labels") else "r")
        for field in Labelled.__dataclass_fields__
    })  # fmt: skip


def drawn(images: int, of: Labelled, seed: int) -> tuple[InMemory, InMemory]:
    """So many images to train on, others for each seed, and all that are for tests."""
    places = permutation(len(of.train), seed, "images")[:images]
    return InMemory(of.train, of.train_labels, places), InMemory(of.test, of.test_labels)
