"""The implementation of `demo`: builds images, trains and evaluates in one or two minutes on two CPU cores.

Real data: scikit-learn's 1,797 handwritten digits, 8x8 pixels (Alpaydin & Kaynak, UCI, 1998). The last 500 are test
digits and are never used in training. Synthetic part: each digit is drawn on a black canvas of 32 pixels, at a random
position, size and rotation, so that two images of one digit share few pixels. The canvas is black everywhere: the
method could otherwise distinguish images by their background instead of their digit.
"""

import math
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from .. import training
from ..backbones import Backbone
from ..data import Source
from ..data.labelled import open_pair
from ..evaluation.extractor import extraction_settings, open_encoder
from ..evaluation.features import Features, faster_precision, features, fingerprint, with_statistics
from ..evaluation.neighbours import nearest
from ..evaluation.protocols import About, Few, run_protocol
from ..evaluation.records import record
from ..files import atomic, file_sha256, temporary_beside
from ..methods.simclr import SimCLR
from ..optim import Optim
from ..printing import pasteable, say
from ..random import key_of
from ..runs import Folder, Result, Run, read_yaml
from ..schedules import Schedule
from ..training import callbacks
from ..views import View

CANVAS = 32
"""Side of an image, in pixels."""
SIDES = 10.0, 22.0
"""Range of a digit's side, in pixels."""
TURN = 45.0
"""Maximum rotation of a digit in either direction, in degrees."""
IMAGES = "-digits"
"""Suffix of the images' folder, appended to the run folder's name."""
TEST_DIGITS = 500
PLACINGS = 8
"""Number of unlabelled images per training digit, each with a random placement."""
TRAINED = "trained encoder"

_ABOUT = """\
Written by `lookalike demo` (seed {seed}), which can recreate it at any time.

Real: the handwritten digits of scikit-learn (UCI, Alpaydin & Kaynak 1998), 8x8 pixels.
Synthetic: each digit has a random position, size and rotation on a black canvas of 32 pixels.

unlabelled/    {unlabelled} images of {train} digits, without labels, for pretraining
train/DIGIT/   {train} images, one of each of those digits with another placement: training set of k-NN and linear probe
test/DIGIT/    {test} images of {test} other digits: test set
"""


def recipe() -> SimCLR.Config:
    """SimCLR for small grey images: without flips, which change digits, and without colour distortion."""
    view = View(size=CANVAS, count=2, scale=(0.25, 1.0), ratio=(3 / 4, 4 / 3), jitter=0.8, brightness=0.4, contrast=0.4)
    optim = Optim("adamw", lr=5e-3, scaling="none", weight_decay=Schedule(1e-4), warmup_epochs=2)
    return SimCLR.Config(hidden_dim=512, temperature=0.1, views=(view,), optim=optim)


def place(digit: np.ndarray, key: int) -> Image.Image:
    """Draws a digit (8, 8), values 0 to 16, on a black canvas; `key` determines position, size and rotation."""
    draw = np.random.default_rng(key % 2**64)
    side, turn = draw.uniform(*SIDES), math.radians(draw.uniform(-TURN, TURN))
    reach = side / 2 * (abs(math.cos(turn)) + abs(math.sin(turn)))  # half the width of the rotated square
    x, y = draw.uniform(reach, CANVAS - reach, 2)
    cos, sin = math.cos(turn) * 8 / side, math.sin(turn) * 8 / side
    border = 4  # black pixels around the digit, for the interpolation
    centre = 4 + border
    back = (cos, sin, centre - cos * x - sin * y, -sin, cos, centre + sin * x - cos * y)  # canvas -> digit
    padded = Image.fromarray(np.pad(np.round(digit * (255 / 16)).astype(np.uint8), border))
    return padded.transform((CANVAS, CANVAS), Image.Transform.AFFINE, back, Image.Resampling.BICUBIC)


def write_images(folder: Path, seed: int) -> None:
    """Writes the demo's images to a new folder, which appears once all are written."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    train = len(digits.target) - TEST_DIGITS
    temporary = temporary_beside(folder)
    temporary.mkdir(parents=True)  # fails if it exists
    try:
        for i, (digit, label) in enumerate(zip(digits.images, digits.target)):
            own = temporary / ("train" if i < train else "test") / str(label)
            targets = [(own / f"{i:04d}.png", PLACINGS)]
            if i < train:
                targets += [(temporary / "unlabelled" / f"{i:04d}-{n}.png", n) for n in range(PLACINGS)]
            for path, n in targets:
                path.parent.mkdir(parents=True, exist_ok=True)
                place(digit, key_of(seed, "demo", i, n)).save(path)
        about = _ABOUT.format(seed=seed, unlabelled=PLACINGS * train, train=train, test=TEST_DIGITS)
        (temporary / "README.txt").write_text(about)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@dataclass(frozen=True)
class Score:
    """Test accuracies of one representation of the images."""

    name: str
    knn: float
    """Top-1 accuracy of 20-nearest-neighbour classification, in [0, 1]."""
    linear: float
    """Top-1 accuracy of the linear probe with all labels."""
    few: float
    """Mean top-1 accuracy over ten draws of 1 % of the labels, one per class."""
    deviation: float
    """Standard deviation over those draws."""


def train_on_digits(
    out: str | os.PathLike[str], *, epochs: int, seed: int, overwrite: bool
) -> tuple[Result, list[Score]]:
    """Trains SimCLR on digits and evaluates raw pixels, the untrained and the trained encoder.

    Args:
        out: run folder. The images are written next to it, to `<out>-digits`.
        epochs: number of passes over the unlabelled images.
        seed: random seed of digit positions, weights, views and label draws.
        overwrite: replace an existing run and images of the demo.

    Raises:
        FileExistsError: `out` or `<out>-digits` exists.
    """
    if epochs < 1:
        raise ValueError(f"epochs is {epochs}; it must be at least 1.")
    folder = Folder(out)
    folder.check(resume=False, overwrite=overwrite)
    if folder.path.name in ("", ".."):
        raise ValueError(
            f"--out {out} does not name a folder. Give one such as runs/demo; the images are written next to it."
        )
    images = folder.path.with_name(f"{folder.path.name}{IMAGES}")
    if folder.run.is_file() and read_yaml(folder.run).get("data") != str(images / "unlabelled"):
        raise FileExistsError(f"{folder.path} holds a run that is not a demo. Give another --out.")
    aside = images.with_name(f".{images.name}.before")
    if _are_ours(aside):  # a demo was killed before its training started
        if _are_ours(images):
            shutil.rmtree(images)
        aside.rename(images)
    existing, begun = images.exists(), False
    if existing:
        _check_replaceable(images, overwrite)
        images.rename(aside)

    def begin() -> None:
        nonlocal begun
        begun = True
        if existing:  # renamed first: a kill during removal must not leave a folder that looks complete
            gone = temporary_beside(aside)
            aside.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    try:
        return _train_and_evaluate(folder, images, epochs, seed, overwrite, begin)
    except BaseException:
        if not begun:
            shutil.rmtree(images, ignore_errors=True)
            if existing:
                aside.rename(images)
        raise


def _train_and_evaluate(
    folder: Folder, images: Path, epochs: int, seed: int, overwrite: bool, begin: Callable[[], None]
) -> tuple[Result, list[Score]]:
    """Runs the demo once `images` is free; `begin` is called after the first training step."""
    write_images(images, seed)
    parts = {name: len(list((images / name).rglob("*.png"))) for name in ("unlabelled", "train", "test")}
    say(
        f"Wrote {images}: {parts['unlabelled']} unlabelled images of {parts['train']} handwritten digits (real, from "
        f"scikit-learn),\neach at a random position, size and rotation on a black canvas (drawn by this demo); "
        f"{parts['test']} other digits for testing.\n"
    )
    train, test = str(images / "train"), str(images / "test")
    run = Run(
        data=str(images / "unlabelled"), method=recipe(), backbone="test_byobnet", channels=1, image_size=CANVAS,
        epochs=epochs, batch_size=256, cache="ram", seed=seed, fit=False, probe=(train, test),
        save_every=epochs, out=str(folder.path), overwrite=overwrite,
    )  # fmt: skip
    result = training.pretrain(run, [callbacks.FirstStep(begin)])
    bank, other = open_pair(train, test, pixels=1)
    encoders_by_name = {"raw pixels": nn.Flatten(), **_encoders(run, folder, bank, parts["unlabelled"])}
    say("\nEvaluating raw pixels, the untrained and the trained encoder ...")
    scores, near = [], []
    for name, model in encoders_by_name.items():
        a, b = (_features(model, source) for source in (bank, other))
        about = _about(model, folder if name == TRAINED else None, bank, other, images)
        scores.append(_score(name, a, b, seed, about, folder if name == TRAINED else None))
        near.append(nearest(b.features, a.features, 6)[1])
    lines = table(scores)
    labels = len(bank.classes or ())
    folder.say(
        "\n"
        + "\n".join(lines)
        + f"\n{parts['test']} test digits. 1 % of the labels: {labels} of {parts['train']} images, one per class; mean "
        "and standard deviation over ten draws."
    )
    with atomic(folder.path / "result.png") as temporary:
        picture(bank, other, near[0], near[2], lines).save(temporary)
    _report(folder, train, test)
    return result, scores


def _encoders(run: Run, folder: Folder, bank: Source, images: int) -> dict[str, Backbone]:
    """The encoder before and after training."""
    untrained = training.build(training.resolve(run, images)[0]).encoder
    mean, std = untrained.mean, untrained.std
    untrained = with_statistics(untrained, bank, image_size=CANVAS, mean=mean, std=std)
    # opened as `evaluate` opens it, whose figures are then equal: another memory layout would change the rounding
    return {"untrained encoder": open_encoder(untrained), TRAINED: open_encoder(folder.path)}


def _report(folder: Folder, train: str, test: str) -> None:
    """Reports the written files and the next commands."""
    folder.say(
        f"Wrote {folder.path}/result.png: test digits and their nearest neighbours, by pixels and by the trained "
        f"encoder; {folder.views}: augmented training views; {folder.evaluation}\n"
        f"Next: {pasteable('lookalike', 'evaluate', folder.path, train, test)}   # the same accuracies again\n"
        "      lookalike check DATA   # inspect your own images, and get a first command"
    )


def table(scores: list[Score]) -> list[str]:
    """The scores as lines of text."""
    rows = [f"{'':<19}{'k-NN':>7}{'linear':>9}{'1 % of the labels':>20}"]
    return rows + [f"{s.name:<19}{s.knn:>7.1%}{s.linear:>9.1%}{s.few:>12.1%} ± {s.deviation:.1%}" for s in scores]


def _are_ours(images: Path) -> bool:
    """Whether a folder contains only images of the demo."""
    readme = images / "README.txt"
    if images.is_symlink() or not readme.is_file():
        return False
    names = re.compile(r"README\.txt|unlabelled(/\d{4}-\d\.png)?|(train|test)(/\d(/\d{4}\.png)?)?")
    return readme.read_text(errors="replace").startswith("Written by `lookalike demo`") and all(
        names.fullmatch(p.relative_to(images).as_posix()) and p.is_file() == bool(p.suffix) and not p.is_symlink()
        for p in images.rglob("*")
    )


def _check_replaceable(images: Path, overwrite: bool) -> None:
    ours = _are_ours(images)
    if not (ours and overwrite):
        what = "holds the images of an earlier demo" if ours else "exists and was not written by this demo"
        advice = "Use --overwrite to replace them, or another --out." if ours else "Give another --out."
        raise FileExistsError(f"{images} {what}. {advice}")


def _features(model: nn.Module, source: Source) -> Features:
    mean, std = (model.mean, model.std) if isinstance(model, Backbone) else ((0.0,), (1.0,))
    return features(model, source, image_size=CANVAS, mean=mean, std=std, precision=faster_precision(model))


def _about(model: nn.Module, folder: Folder | None, bank: Source, test: Source, images: Path) -> About:
    """The facts of an evaluation that are recorded for a run."""
    sha256, data = ("", "") if folder is None else (file_sha256(folder.weights), fingerprint(bank, test))
    settings = extraction_settings(CANVAS, precision=faster_precision(model))
    return About(settings, sha256, data, str(images / "train"), str(images / "test"))


def _score(name: str, a: Features, b: Features, seed: int, about: About, folder: Folder | None) -> Score:
    """Evaluates one representation; results of a run are also recorded in its `evaluation.json`."""
    (knn,), (linear,), (few,) = (
        run_protocol(protocol, a, b, None, seed, None, about=about, few=Few(shares=(0.01,)))
        for protocol in ("knn", "linear", "semi")
    )
    if folder is not None:
        record(folder.evaluation, [knn, linear, few])
    assert few.deviation is not None
    return Score(name, knn.top1, linear.top1, few.top1, few.deviation)


def picture(bank: Source, test: Source, by_pixels: Tensor, by_encoder: Tensor, lines: list[str]) -> Image.Image:
    """One test image per class with its nearest bank images, framed green for the same class, otherwise red."""
    assert bank.labels is not None
    assert test.labels is not None
    side, gap, head = 2 * CANVAS, 6, 26
    columns, rows = by_pixels.shape[1], sorted(set(test.labels.tolist()))
    step, block = side + gap, by_pixels.shape[1] * (side + gap)
    left = step + 2 * gap
    width, foot = left + 2 * block + 3 * gap, 22 * len(lines) + 3 * gap
    sheet = Image.new("RGB", (width, head + step * len(rows) + foot), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    second = left + block + 2 * gap
    for x, text in ((0, "test"), (left, "nearest by pixels"), (second, "nearest by the trained encoder")):
        draw.text((x + gap, 5), text, "black", font)

    def paste(source: Source, i: int, x: int, y: int, colour: str) -> None:
        tile = Image.fromarray(source.read(i, None)[0].numpy()).resize((side, side), Image.Resampling.NEAREST)
        draw.rectangle((x - 3, y - 3, x + side + 2, y + side + 2), fill=colour)
        sheet.paste(tile, (x, y))

    for row, label in enumerate(rows):
        query = int((test.labels == label).nonzero()[0, 0])  # the first of its class, not hand-picked
        y = head + row * step
        paste(test, query, gap, y, "white")
        for start, near in ((left, by_pixels), (second, by_encoder)):
            for column in range(columns):
                i = int(near[query, column])
                right = int(bank.labels[i]) == label
                paste(bank, i, start + gap + column * step, y, "#2a9d4a" if right else "#d64541")
    y = head + step * len(rows) + gap
    edges = (gap, left + 200, left + 320, left + 520)
    for line in lines:
        cells = [line[:19], line[19:26], line[26:35], line[35:]]
        for x, cell in zip(edges, cells):
            draw.text((x, y), cell.strip(), "black", font)
        y += 22
    return sheet
