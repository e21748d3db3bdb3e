"""What a short training adds to the k-NN accuracy on a part of CIFAR-10."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import Dataset

from lookalike import backbones, load, training
from lookalike.data import Subset, open_source
from lookalike.evaluation import features, knn, with_statistics
from lookalike.methods import get_method
from lookalike.runs import Run

from .methods import narrow_resnet, narrow_vit, narrowed


class Listed(NamedTuple):
    """A part of CIFAR-10: the paths in a text file to train on, and the same images with labels to judge with."""

    file: Path
    bank: Subset
    test: Subset


def listed(cifar10: Path, folder: Path, images: int) -> Listed:
    parts = []
    for split, count in (("train", images), ("test", 2000)):
        source = open_source(cifar10 / split, labelled=True)
        at = {source.name(i): i for i in range(len(source))}
        parts.append(Subset(source, [at[name] for name in (cifar10 / f"{split}.txt").read_text().splitlines()[:count]]))
    bank, test = parts
    file = folder / "images.txt"
    file.write_text("\n".join(str(cifar10 / "train" / bank.name(i)) for i in range(images)))
    return Listed(file, bank, test)


class Labelled(Dataset[tuple[torch.Tensor, int]]):
    """A source's images with their labels, for methods that learn from them."""

    def __init__(self, source: Subset) -> None:
        self.source, self.targets = source, source.labels

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        assert self.targets is not None
        return self.source.read(i, None), int(self.targets[i])


def knn_accuracy(encoder: backbones.Backbone, data: Listed, image_size: int) -> float:
    train, test = (
        features(encoder, part, image_size=image_size, mean=encoder.mean, std=encoder.std)
        for part in (data.bank, data.test)
    )
    assert train.labels is not None
    assert test.labels is not None
    return knn(train.features, train.labels, test.features, test.labels).top1


def gain(name: str, data: Listed, out: Path, epochs: int, batch_size: int, image_size: int = 32) -> float:
    """How much training adds to the k-NN accuracy of the same seed's untrained encoder.

    The method is as a user gets it, fitted to the images, but with narrow heads, for time.
    """
    torch.manual_seed(0)
    wide = 512 if name == "barlow_twins" else 64  # it lives by the width of its embedding (paper, figure 4)
    cfg = narrowed(get_method(name).Config(), hidden_dim=256, out_dim=wide, predictor_dim=32, bottleneck_dim=64)  # type: ignore[call-arg]
    images = Labelled(data.bank) if cfg.needs.labels else data.file
    network = narrow_vit if cfg.needs.mask_token else narrow_resnet
    run = Run(data=images, method=cfg, backbone=network(), image_size=image_size, epochs=epochs,
              batch_size=batch_size, cache="ram", precision="fp32", out=str(out))  # fmt: skip
    untrained = training.build(training.resolve(run, len(data.bank))[0]).encoder
    mean, std = untrained.mean, untrained.std
    fit = with_statistics(untrained, data.bank, image_size=image_size, mean=mean, std=std)
    before = knn_accuracy(fit, data, image_size)
    assert training.pretrain(run).verdict == "learning"
    after = knn_accuracy(load(out, backbone=network()), data, image_size)
    return after - before
