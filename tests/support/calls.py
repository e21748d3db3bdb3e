"""Rows of the tables of advice that functions give, and what many of them are made of."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import metadata
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from lookalike.backbones import Backbone, create
from lookalike.cli.run_parsing import parse_run
from lookalike.commands.check import Checked, check
from lookalike.data import Loader, open_maybe_labelled, open_source
from lookalike.methods import get_method
from lookalike.runs import Run
from lookalike.views import View
from support import tiny
from support.place import Place


@dataclass(frozen=True)
class Call:
    fails: Callable[[Place], object]
    """Raises an error with the message, or returns the message."""
    advice: str
    """A pattern of what the message advises. It matches the source's text, too, in which a value is one character."""
    follow: tuple[Callable[[Place, re.Match[str]], object], ...]
    """Each follows the advice, one of several that it gives; what is returned must not advise the same again."""


def call(fails: Callable[[Place], object], advice: str, *follow: Callable[[Place, re.Match[str]], object]) -> Call:
    return Call(fails, advice, follow)


class Net(nn.Module):
    """Somebody's own module: 4 numbers per image, or what `change` makes of them."""

    def __init__(self, change: Callable[[Tensor], object] = lambda y: y, pooled: bool = True) -> None:
        super().__init__()
        self.layer, self.change, self.pooled = nn.Conv2d(3, 4, 8, 8), change, pooled

    def forward(self, x: Tensor) -> object:
        y = self.layer(x)
        return self.change(y.mean((2, 3)) if self.pooled else y)


def net(name: str | nn.Module = tiny.CNN, **options: object) -> Backbone:
    return create(name, **({"image_size": 32} | options))  # type: ignore[arg-type]


X = torch.zeros(2, 3, 32, 32)


def configured(method: str, *options: str) -> Run:
    """A run as the command line makes it."""
    return parse_run("views", [method, ".", *options])


def written(content: bytes, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def cut(path: Path, folder: Path) -> Path:
    content = path.read_bytes()
    return written(content[: len(content) // 2], folder / path.name)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def image(path: Path, seed: int = 0, side: int = 16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(side, side, 3, seed=seed)).save(path)
    return path


def images(folder: Path, count: int = 4) -> Path:
    for i in range(count):
        image(folder / f"{i}.png", i)
    return folder


def listing(path: Path, *names: object) -> Path:
    path.write_text("\n".join(map(str, names)))
    return path


def npy(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


class Rows(Dataset[object]):
    """Somebody's own data: what `make` makes of a number."""

    def __init__(self, make: Callable[[int], object], count: int = 4, **more: object) -> None:
        self.make, self.count = make, count
        vars(self).update(more)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> object:
        if not 0 <= i < self.count:
            raise IndexError(i)
        return self.make(i)


class Lengthless(Rows):
    def __len__(self) -> int:
        raise NotImplementedError


def looked(data: object, **options: object) -> Checked:
    return check(open_maybe_labelled(data, **options), say=lambda line: None)  # type: ignore[arg-type]


def damaged(p: Place, count: int = 12) -> Path:
    root = images(p.out / "damaged", 3)
    for i in range(count):
        written(b"\x89PNG\r\n\x1a\n", root / f"bad{i}.png")
    return root


def folders(root: Path, *names: str) -> Path:
    for name in names:
        image(root / name / "0.png")
    return root


def epoch(data: object, batch_size: int = 4, **options: object) -> list[object]:
    return [*Loader(open_source(data), batch_size, 0, **options)]  # type: ignore[arg-type]


def joined(*tables: dict[str, Call]) -> dict[str, Call]:
    """All rows of some tables, of which none has the name of another."""
    made = {name: row for each in tables for name, row in each.items()}
    assert len(made) == sum(map(len, tables))
    return made


EXTRA = r"pip install '(lookalike)\[((?!onnx\b).+)\]'"


def extra_is_there(p: Place, found: re.Match[str]) -> None:
    """What is to be installed is an extra of the package."""
    assert found[2] in metadata(found[1]).get_all("Provides-Extra")


def cause(method: str, *options: str) -> str:
    """What a method says of itself once its training collapsed."""
    cls = get_method(method)
    known = vars(cls.Config())
    small = [
        word
        for name, value in SMALL.items()
        if isinstance(known.get(name), int)
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    masked = cls.Config().needs.mask_token
    return cls(configured(method, *small, *options).method, net(tiny.VIT, mask_token=masked)).diagnose()


SMALL = {"hidden_dim": 8, "out_dim": 8, "bottleneck_dim": 8, "prototypes": 16}


def distilled(p: Place, teacher: nn.Module | None = None, student: Backbone | None = None, **fields: object) -> object:
    cls = get_method("distill")
    cfg = cls.Config(**({"teacher": str(p.run), "teacher_size": 32, "views": views(32)} | fields))
    return cls(cfg, student or net(tiny.VIT), teacher)


def views(*sizes: int, count: int = 1) -> tuple[View, ...]:
    return tuple(View(size=size, count=count, blur=0.0) for size in sizes)


def four(p: Place) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in Path(p.pair[0]).iterdir()))


def configured_on(p: Place, method: str, *options: str) -> Run:
    tiny_ones = ("--backbone", tiny.CNN, "--image-size", "32", "--batch-size", "8", "--workers", "0")
    epochs = () if "--time" in options else ("--epochs", "1")
    # `views` has an --out of its own
    out = options[options.index("--out") + 1] if "--out" in options else str(p.out / "made")
    return replace(configured(method, *tiny_ones, *epochs, *options), data=str(p.photos), out=out)


def numbered(i: int) -> dict[str, object]:
    return {"image": noise(8, 8, 3), "age": i % 2, "size": i % 2}


def several(i: int) -> dict[str, object]:
    return {"left": noise(8, 8, 3), "right": noise(8, 8, 3), "label": i % 2}


def put(path: Path, to: Path) -> Path:
    to.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(path, to))


def follow(row: Call, place: Place) -> None:
    """Meets the message of a row, and follows what it advises in each way."""
    try:
        said = row.fails(place)
    except Exception as error:
        said = str(error)
    assert isinstance(said, str)
    found = re.search(row.advice, said)
    assert found, said
    for each in row.follow:
        after = each(place, found)
        assert not isinstance(after, str) or not re.search(row.advice, after), after
