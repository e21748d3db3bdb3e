"""Classifiers: an encoder, a linear head and the class names, and their file `classifier.safetensors`."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from . import encoders
from .backbones import Backbone
from .backbones.onnx_file import Onnx
from .files import write_json
from .printing import counted
from .runs import Folder
from .runs.lookup import classifier_of


class Classifier(nn.Module):
    """Normalised images (B, C, H, W) -> logits (B, K) of K classes."""

    def __init__(self, encoder: Backbone, head: nn.Linear, classes: Sequence[str]) -> None:
        super().__init__()
        if head.in_features != encoder.dim or head.out_features != len(classes):
            raise ValueError(
                f"A head from {head.in_features} to {counted(head.out_features, 'dimension')} does not fit "
                f"{encoder.name} with {counted(encoder.dim, 'dimension')} and {counted(len(classes), 'class')}."
            )
        self.encoder = encoder
        self.head: nn.Module = head
        self.classes = tuple(classes)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.encoder(x))
        return scores


class ExportedClassifier(Classifier):
    """A classifier in an exported file; its logits are logarithms of probabilities."""

    def __init__(self, encoder: Onnx, classes: Sequence[str]) -> None:
        nn.Module.__init__(self)
        self.encoder: Onnx = encoder
        self.head = nn.Identity()
        self.classes = tuple(classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder.probabilities(x).log()


def save(folder: Folder, classifier: Classifier, card: encoders.Card) -> None:
    """Writes `classes.json` and `classifier.safetensors`, atomically.

    `card` is the encoder's. The names of the tensors are `encoder.NAME`, with the names of the encoder's library,
    `head.weight` and `head.bias`.
    """
    state = {f"{encoders.PREFIX}{name}": value for name, value in classifier.encoder.export_state().items()}
    state |= {f"head.{name}": value for name, value in classifier.head.state_dict().items()}
    write_json(folder.classes, list(classifier.classes))
    encoders.write(folder.classifier, state, card, classifier.classes)


def load(classifier: str | os.PathLike[str], backbone: nn.Module | None = None) -> Classifier:
    """Loads a classifier, in eval mode.

    Args:
        classifier: the folder of a `finetune` run, its `classifier.safetensors`, or an `.onnx` file exported from it.
        backbone: the architecture, if the encoder is the user's own module.

    Raises:
        FileNotFoundError, ValueError: it does not exist, or is not a classifier.
    """
    path = classifier_of(classifier)
    open(path, "rb").close()  # safetensors reports an unreadable file as missing
    encoders.check_verified(path)
    if encoders.is_export(path):
        return _exported(path)
    state, card = encoders.read_whole(path)
    classes = card.get("classes") if card is not None else None
    if card is None or classes is None or not {"head.weight", "head.bias"} <= state.keys():
        raise ValueError(
            f"{path} is not a classifier: it has no head and no classes. Give the classifier.safetensors of a finetune "
            "run."
        )
    encoder = encoders.load(path, backbone)
    weight = state["head.weight"]
    if weight.ndim != 2 or state["head.bias"].shape != weight.shape[:1]:
        raise ValueError(
            f"{path} is not a classifier: its head has shape {tuple(weight.shape)}, expected (classes, dimensions)."
        )
    head = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(state["head.bias"])
    return Classifier(encoder, head, classes).eval()


def _exported(path: Path) -> ExportedClassifier:
    encoder, classes = encoders.load_onnx(path)
    if classes is None:
        raise ValueError(
            f"{path} is not a classifier: it gives features only. Export the folder of a finetune run, or use `embed`."
        )
    return ExportedClassifier(encoder, classes).eval()
