"""torch Datasets with whole, damaged and odd items, labelled in all the ways that people label them."""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from .corpus import Case, File, dealt, drawn
from .odd_files import FORGED, Fate, Rng, luma, png, scene

Item = tuple[str, Fate, Callable[[Rng], object]]


class _Unreadable(Exception):
    """As another library raises it, with a text that is not for a terminal."""


def _raises(error: BaseException) -> Callable[[Rng], object]:
    def item(rng: Rng) -> object:
        raise error

    return item


def _pil(mode: str) -> Callable[[Rng], object]:
    return lambda rng: Image.fromarray(scene(rng, most=300)).convert(mode)


def _array(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Rng], object]:
    return lambda rng: change(scene(rng, most=300))


ITEMS: tuple[Item, ...] = (
    *((f"PIL {mode}", "used", _pil(mode)) for mode in ("RGB", "L", "1", "P", "CMYK", "RGBA", "YCbCr", "HSV", "LAB")),
    ("PIL LA", "used", lambda rng: Image.fromarray(scene(rng)[..., :2].copy(), "LA")),
    ("PIL I", "used", lambda rng: Image.fromarray(luma(scene(rng)).astype(np.int32))),
    ("PIL I;16", "used", lambda rng: Image.fromarray(luma(scene(rng)).astype(np.uint16))),
    ("PIL F", "used", lambda rng: Image.fromarray(luma(scene(rng)).astype(np.float32) / 255)),
    ("PIL F of 0 to 255", "broken", lambda rng: Image.fromarray(luma(scene(rng)).astype(np.float32) + 2)),
    ("PIL without pixels", "broken", lambda rng: Image.new("RGB", (0, 5))),
    ("PIL of a file cut short", "broken", lambda rng: Image.open(io.BytesIO(png(rng).content[:-40]))),
    ("array", "used", _array(lambda a: a)),
    ("grey array", "used", _array(luma)),
    ("array with one channel", "used", _array(lambda a: luma(a)[..., None])),
    ("array turned round", "used", _array(lambda a: a[::-1, ::-1])),
    ("array of another byte order", "used", _array(lambda a: a.astype(">u2"))),
    ("float array", "used", _array(lambda a: (a / 255).astype(np.float32))),
    ("double array", "used", _array(lambda a: a / 255)),
    ("read-only array", "used", _array(lambda a: np.broadcast_to(a[:1], a.shape))),
    ("array of booleans", "used", _array(lambda a: luma(a) > 128)),
    ("array of int64", "broken", _array(lambda a: a.astype(np.int64))),
    ("array of 0.0 to 255.0", "broken", _array(lambda a: a.astype(np.float32) + 2)),
    ("array of NaN", "broken", _array(lambda a: a * np.float32(np.nan))),
    ("array of objects", "either", _array(lambda a: a.astype(object))),
    ("array of texts", "either", _array(lambda a: a.astype(str))),
    ("array without pixels", "broken", _array(lambda a: a[:0])),
    ("array of 4 dimensions", "broken", _array(lambda a: a[None])),
    ("number", "either", lambda rng: np.uint8(3)),
    ("tensor", "used", lambda rng: torch.from_numpy(scene(rng, most=300)).permute(2, 0, 1)),
    ("grey tensor", "used", lambda rng: torch.from_numpy(luma(scene(rng, most=300)))),
    ("half tensor", "used", lambda rng: torch.rand(3, 9, 7).half()),
    ("bfloat16 tensor", "used", lambda rng: torch.rand(3, 9, 7).bfloat16()),
    ("tensor with a gradient", "used", lambda rng: torch.rand(3, 9, 7, requires_grad=True)),
    ("normalised tensor", "broken", lambda rng: torch.randn(3, 40, 40)),
    ("complex tensor", "broken", lambda rng: torch.zeros(3, 4, 4, dtype=torch.complex64)),
    ("sparse tensor", "broken", lambda rng: torch.zeros(3, 4, 4).to_sparse()),
    ("tensor without storage", "broken", lambda rng: torch.zeros(3, 4, 4, device="meta")),
    ("OSError", "broken", _raises(OSError("cannot identify image file"))),
    ("ValueError", "broken", _raises(ValueError(f"a\x1b[31m\n{FORGED}"))),
    ("KeyError", "broken", _raises(KeyError("path"))),
    ("IndexError", "broken", _raises(IndexError("list index out of range"))),
    ("RuntimeError", "broken", _raises(RuntimeError("[libjpeg] Premature end of JPEG file"))),
    ("StopIteration", "broken", _raises(StopIteration())),
    ("MemoryError", "either", _raises(MemoryError())),
    ("an error of its own", "broken", _raises(_Unreadable("x" * 100_000))),
    ("None", "either", lambda rng: None),
    ("path", "either", lambda rng: "photo.jpg"),
    ("bytes", "either", lambda rng: png(rng).content),
    ("dict", "either", lambda rng: {"image": scene(rng), "label": 3}),
    ("empty tuple", "either", lambda rng: ()),
    ("list of lists", "either", lambda rng: [[0, 1], [2, 3]]),
)  # fmt: skip
"""Items of a Dataset: what each is, and what becomes of it."""


class Items(Dataset[object]):
    """Items that are made anew each time they are asked for."""

    def __init__(self, items: Sequence[Item], index: int, around: Callable[[object, int], object]) -> None:
        self.items, self.index, self.around = items, index, around

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> object:
        return self.around(self.items[i][2](drawn("item", self.index, i)), i)


class Endless(IterableDataset[object]):
    """No Dataset with places."""

    def __iter__(self) -> Iterator[object]:
        while True:
            yield Image.new("RGB", (4, 4))


class NoLength(Dataset[object]):
    def __getitem__(self, i: int) -> object:
        return Image.new("RGB", (4, 4))


class LyingLength(Items):
    def __len__(self) -> int:
        return len(self.items) + 3


AROUND: tuple[tuple[str, Callable[[object, int], object]], ...] = (
    ("alone", lambda image, i: image),
    ("with a label", lambda image, i: (image, i % 2)),
    ("with more", lambda image, i: [image, i % 2, {"name": f"{i}"}]),
    ("with a text", lambda image, i: (image, "ab"[i % 2])),
    ("with a tensor", lambda image, i: (image, torch.tensor(i % 2))),
    ("with several labels", lambda image, i: (image, [i % 2, 1])),
    ("with None", lambda image, i: (image, None)),
    ("with a dict", lambda image, i: (image, {"label": i % 2})),
)

TARGETS: tuple[tuple[str, Callable[[int], object]], ...] = (
    ("integers", lambda n: [i % 2 for i in range(n)]),
    ("a tensor", lambda n: torch.arange(n) % 2),
    ("an array", lambda n: np.arange(n) % 3),
    ("dicts", lambda n: [{"label": i} for i in range(n)]),
    ("texts", lambda n: ["ab"[i % 2] for i in range(n)]),
    ("too few", lambda n: [0] * (n - 1)),
    ("negative", lambda n: [-1] * n),
    ("floats", lambda n: [0.5] * n),
    ("huge", lambda n: [10**12] * n),
    ("None", lambda n: None),
    ("ragged", lambda n: [[0] * (i % 3) for i in range(n)]),
    ("of several columns", lambda n: np.eye(n, 3)),
)


def dataset_case(place: Path, index: int) -> tuple[Dataset[object], Case]:
    """A torch Dataset with whole and odd items, labelled in one way or another."""
    rng = drawn("dataset", index)
    case = Case("dataset", index, place)
    items = [*dealt([i for i in ITEMS if i[1] == "used"], "items", index, 6),
             *dealt([i for i in ITEMS if i[1] != "used"], "odd items", index, 2)]  # fmt: skip
    if index % 4 == 3:
        items = [item for item in items if item[1] == "used"]
    (way, around), (kind, targets) = AROUND[index % len(AROUND)], TARGETS[index % len(TARGETS)]
    dataset: Dataset[object] = Items(items, index, around)
    case.about = [f"items {way}"]
    if rng.integers(2):
        dataset.targets = targets(len(items))  # type: ignore[attr-defined]
        case.about.append(f"targets are {kind}")
    case.files = [File(f"item {i}", fate, name) for i, (name, fate, _) in enumerate(items)]
    match index % 12:
        case 5:
            dataset, case.refused, case.about = Items([], index, around), True, ["empty"]
        case 7:
            dataset, case.about = Items(items[:1], index, around), ["a single item"]
            case.files = case.files[:1]
        case 9:
            dataset, case.refused, case.about = (Endless if index // 12 % 2 else NoLength)(), True, ["without places"]
        case 11:
            dataset, case.about = LyingLength(items, index, around), ["a length that is too large"]
            case.files += [File(f"item {len(items) + i}", "broken", "an item that is not there") for i in range(3)]
    return dataset, case
