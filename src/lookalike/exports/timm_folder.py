"""A network of timm as a folder with timm's own layout, which transformers reads, too."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..backbones import Backbone
from ..backbones.library import timm_net
from ..classifiers import Classifier
from ..evaluation.features import short_side
from ..foreign import is_tag

FILES = ("config.json", "model.safetensors")
STRUCTURE = ("architecture", "input_size", "fixed_input_size", "pool_size", "first_conv", "classifier", "num_classes")
"""Entries of timm's settings that describe the network, not the weights published under its name."""


def check(encoder: Backbone) -> None:
    """Refuses networks that timm cannot build by a name and options.

    Raises:
        ValueError: the network is not timm's, or its stem was replaced.
    """
    use = "Use --format onnx or pt2."
    if is_tag(encoder.name):
        raise ValueError(f"{encoder.name} is your own module, which timm cannot build. {use}")
    if encoder.name.startswith("torchvision/"):
        raise ValueError(f"{encoder.name} is torchvision's network, whose tensors have other names than timm's. {use}")
    if encoder.stem == "small":
        raise ValueError(
            f"This {encoder.name} has the small stem (a 3x3 convolution without pooling, for images up to 64 pixels), "
            f"which timm cannot build. {use}"
        )


def write(trained: Backbone | Classifier, folder: Path) -> list[Path]:
    """Writes `FILES`: the network with its weights, normalisation and, for a classifier, head and class names.

    Raises:
        ValueError: see `check`, or timm's head of this network is not one linear layer.
    """
    from timm.models import save_for_hf

    encoder = trained.encoder if isinstance(trained, Classifier) else trained
    check(encoder)
    classes = trained.classes if isinstance(trained, Classifier) else ()
    net = _with_head(encoder, trained) if isinstance(trained, Classifier) else _plain(encoder, 0)
    size = encoder.image_size
    config = {
        "mean": encoder.mean, "std": encoder.std, "input_size": (encoder.channels, size, size),
        "interpolation": "bicubic", "crop_pct": size / short_side(size), "crop_mode": "center",
    }  # fmt: skip
    # what the published weights of the same name were made with does not hold for these
    net.pretrained_cfg = {  # type: ignore[assignment]
        key: value
        for key, value in net.pretrained_cfg.items()  # type: ignore[operator, union-attr]
        if key in STRUCTURE
    }
    settings: dict[str, Any] = {"pretrained_cfg": config}
    if classes:
        settings["label_names"] = list(classes)
    save_for_hf(net, str(folder), model_config=settings, model_args=_arguments(encoder), safe_serialization=True)
    _leave_classes_to_the_reader(folder / "config.json")
    return [folder / name for name in FILES]


def _leave_classes_to_the_reader(config: Path) -> None:
    """Removes the number of classes from the options of the network: transformers states it, too, and fails."""
    content = json.loads(config.read_text(encoding="utf-8"))
    content.get("model_args", {}).pop("num_classes", None)
    config.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _arguments(encoder: Backbone) -> dict[str, Any]:
    """The options of `timm.create_model` that differ from those of the name."""
    options: dict[str, Any] = {}
    if encoder.channels != 3:
        options["in_chans"] = encoder.channels
    config: Any = encoder.net.pretrained_cfg
    if encoder.patch_size is not None or config.get("fixed_input_size"):
        options["img_size"] = encoder.image_size
    return options


def _plain(encoder: Backbone, classes: int) -> nn.Module:
    net = timm_net(encoder.name, encoder.channels, encoder.image_size, False, 0.0)
    net.load_state_dict(encoder.export_state())
    if classes:
        net.reset_classifier(classes)  # type: ignore[operator]
    return net.eval()


def _with_head(encoder: Backbone, classifier: Classifier) -> nn.Module:
    net = _plain(encoder, len(classifier.classes))
    head = net.get_classifier()  # type: ignore[operator]
    if not (isinstance(head, nn.Linear) and isinstance(classifier.head, nn.Linear)):
        raise ValueError(
            f"The head of {encoder.name} in timm is no linear layer. Export its encoder.safetensors to timm, or the "
            "classifier with --format onnx."
        )
    with torch.no_grad():
        head.weight.copy_(classifier.head.weight)
        head.bias.copy_(classifier.head.bias)
    return net
