"""What the rows of tests/support/remedies work on."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import nn

from lookalike import classifiers, cli, encoders
from lookalike.backbones import create
from lookalike.classifiers import Classifier
from lookalike.runs import Folder

from . import tiny

TINY = ["--image-size", "32", "--batch-size", "8", "--workers", "0", "--epochs", "1", "--no-report"]


@dataclass(frozen=True)
class Place:
    """Files that no row changes, and a folder for each row to write to."""

    labelled: Path
    """train/ and test/, of four classes."""
    photos: Path
    run: Path
    """A run's folder with an encoder alone: a ViT for 32 pixels."""
    trained: Path
    """The folder of a run of one epoch: SimCLR of the tiny CNN on the photos."""
    tuned: Path
    """The folder of a classifier, on the ViT."""
    weights: Path
    """A file of weights that does not say its architecture: the tiny CNN's."""
    out: Path
    """A folder for what is written, which is new for each row."""

    @property
    def pair(self) -> list[str]:
        return [str(self.labelled / "train"), str(self.labelled / "test")]


def made(root: Path, labelled: Path, photos: Path) -> Place:
    """What is there before the first row."""
    torch.manual_seed(0)
    vit = create(tiny.VIT, image_size=32)
    for name in ("run", "tuned"):
        encoders.save(Folder(root / name), vit, method="simclr", epochs=1, dtype=torch.uint8)
    folder = Folder(root / "tuned")
    classes = [f"class{i}" for i in range(4)]
    classifiers.save(folder, Classifier(vit, nn.Linear(vit.dim, 4), classes), encoders.read_card(folder))
    torch.save(timm.create_model(tiny.CNN, num_classes=3).state_dict(), root / "weights.pth")
    argv = ["pretrain", "simclr", str(photos), *TINY, "--backbone", tiny.CNN, "--out", str(root / "trained")]
    assert cli.main(argv) == 0
    return Place(
        labelled, photos, root / "run", root / "trained", root / "tuned", root / "weights.pth", root / "nothing"
    )


def copied(there: Place, folder: Path) -> Place:
    """The same for one row, which may write to its run's folder and to a new one."""
    run = shutil.copytree(there.run, folder / "run")
    (folder / "out").mkdir()
    return Place(there.labelled, there.photos, run, there.trained, there.tuned, there.weights, folder / "out")
