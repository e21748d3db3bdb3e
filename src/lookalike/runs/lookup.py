"""Finds files in a run's folder, with errors for missing ones, before torch is imported."""

import os
from pathlib import Path

from ..places import check_backbones, hub_entry, is_published, no_encoder
from ..printing import pasteable
from .folder import Folder
from .yaml import read_yaml


def weights_of(run: str | os.PathLike[str]) -> Path:
    """The weights in a run's folder.

    Raises:
        FileNotFoundError: the folder has none.
    """
    path = Folder(run).weights
    if not path.is_file():
        raise FileNotFoundError(
            f"{run} holds no encoder.safetensors; a run writes it with its first checkpoint. Give the folder of such a "
            "run, or a weights file."
        )
    return path


def check_encoder(name: str, what: str = "encoder") -> None:
    """Checks that `load` and `--init` will find an encoder; they check its content.

    Raises:
        FileNotFoundError, ValueError: no such file, folder or name.
    """
    if os.path.isdir(name):
        weights_of(name)
    elif is_published(name):
        if name.startswith("torchhub/"):
            hub_entry(name.removeprefix("torchhub/"))
        else:
            check_backbones(name)
    elif not os.path.exists(name):
        raise no_encoder(name, what)


def classifier_of(classifier: str | os.PathLike[str]) -> Path:
    """The file of a classifier, given by its path or its run's folder.

    Raises:
        FileNotFoundError: it does not exist.
    """
    path = Path(classifier)
    if path.is_dir():
        path = Folder(path).classifier
        if not path.is_file():
            raise FileNotFoundError(f"{classifier} holds no classifier.safetensors. {_advice(path.parent)}")
    if not path.is_file():
        raise FileNotFoundError(
            f"No classifier at {classifier}. Give the folder of a finetune run, its classifier.safetensors or an "
            ".onnx file exported from it."
        )
    return path


def is_finetuned(encoder: Path) -> bool:
    """Whether an encoder is given by the folder of a finetune run, or by its classifier's file."""
    run = Folder(encoder if encoder.is_dir() else encoder.parent)
    return run.classifier.is_file() and encoder in (run.path, run.classifier)


def _advice(folder: Path) -> str:
    """How to get a classifier into a folder without one."""
    run = Folder(folder).run
    if run.is_file() and read_yaml(run).get("method") == "finetune":
        return f"The run has not ended: {pasteable('lookalike', 'finetune', '--resume', '--out', folder)}"
    return f"Train one: {pasteable('lookalike', 'finetune', folder, 'TRAIN', 'TEST', '--out', 'runs/classifier')}"


def holds_run(path: Path) -> bool:
    """Whether a folder holds any file of a run that can be shown."""
    folder = Folder(path)
    return any(f.is_file() for f in (folder.run, folder.metrics, folder.evaluation, folder.weights))


def no_run(folder: Path) -> FileNotFoundError:
    """The error for a folder without a run to report on."""
    what = "holds no run (no run.yaml)" if folder.is_dir() else "is not a folder"
    return FileNotFoundError(f"{folder} {what}. Give the folder of a run or of a comparison.")
