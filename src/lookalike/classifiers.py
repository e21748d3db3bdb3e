"""Classifiers: an encoder with a linear head and the classes' names, and their file `classifier.safetensors`."""

import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from . import encoders
from .backbones import Backbone
from .files import write_json
from .printing import counted
from .runs import Folder
from .runs.lookup import classifier_of


class Classifier(nn.Module):
    """Turns normalised images (B, C, H, W) into scores of classes (B, K), whose softmax are probabilities."""

    def __init__(self, encoder: Backbone, head: nn.Linear, classes: Sequence[str]) -> None:
        super().__init__()
        if head.in_features != encoder.dim or head.out_features != len(classes):
            raise ValueError(
                f"A head from {head.in_features} to {counted(head.out_features, 'number')} does not fit "
                f"{encoder.name} with "
                f"{counted(encoder.dim, 'number')} and {counted(len(classes), 'class')}."
            )
        self.encoder = encoder
        self.head = head
        self.classes = tuple(classes)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.encoder(x))
        return scores


def save(folder: Folder, classifier: Classifier, card: encoders.Card) -> None:
    """Writes `classes.json` and `classifier.safetensors`, atomically.

    `card` is the encoder's. The tensors are called `encoder.NAME`, as the encoder's library calls them, `head.weight`
    and `head.bias`.
    """
    state = {f"{encoders.PREFIX}{name}": value for name, value in classifier.encoder.export_state().items()}
    state |= {f"head.{name}": value for name, value in classifier.head.state_dict().items()}
    write_json(folder.classes, list(classifier.classes))
    encoders.write(folder.classifier, state, card, classifier.classes)


def load(classifier: str | os.PathLike[str], backbone: nn.Module | None = None) -> Classifier:
    """Loads a classifier, in eval mode.

    Args:
        classifier: the folder of a `finetune` run, or its `classifier.safetensors`.
        backbone: the architecture, where the encoder is a user's own module.

    Raises:
        FileNotFoundError, ValueError: nothing is there, or it is no classifier; the message says what was expected.
    """
    path = classifier_of(classifier)
    open(path, "rb").close()  # safetensors says of a file without permission that it does not exist
    state, card = encoders.read_whole(path)
    classes = card.get("classes") if card is not None else None
    if card is None or classes is None or not {"head.weight", "head.bias"} <= state.keys():
        raise ValueError(
            f"{path} is no classifier: it holds no head and no classes. Give the classifier.safetensors of a finetune "
            "run."
        )
    encoder = encoders.load(path, backbone)
    weight = state["head.weight"]
    if weight.ndim != 2 or state["head.bias"].shape != weight.shape[:1]:
        raise ValueError(f"{path} is no classifier: its head is {tuple(weight.shape)}, expected (classes, numbers).")
    head = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(state["head.bias"])
    return Classifier(encoder, head, classes).eval()
