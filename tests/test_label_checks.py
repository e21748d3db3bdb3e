"""Doubtful labels: in another order, or of classes without images."""

import dataclasses

import pytest
import torch
from support.features import NAMES, blobs
from torch import Tensor, nn

from lookalike import backbones
from lookalike.evaluation import Features, evaluate
from lookalike.evaluation.label_checks import label_warning, missing_classes, swapped


def test_names_in_another_order_are_found() -> None:
    train, test = blobs(400, 0.2, 0), blobs(100, 0.2, 1)
    turned = dataclasses.replace(test, labels=(test.labels + 1) % 4)
    said = label_warning(train, turned)
    assert "in different orders" in said
    assert "'bee' look like 'ant'" in said
    assert label_warning(train, test) == ""


def test_a_hard_class_is_no_mistake_and_hides_none() -> None:
    # all bees are taken for ants, and ants for ants
    hard = [[0, 0, 50], [1, 0, 45], [1, 1, 5]]
    assert swapped([*hard, [2, 2, 50], [3, 3, 50]], NAMES) == ""
    said = swapped([*hard, [2, 3, 45], [2, 2, 5], [3, 2, 45], [3, 3, 5]], NAMES)
    assert "'cat' look like 'dog', 'dog' look like 'cat'." in said
    assert "bee" not in said


def test_rows_in_another_order_are_found() -> None:
    train, test = blobs(400, 0.2, 0), blobs(200, 0.2, 1)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    mixed = dataclasses.replace(test, labels=test.labels[order])
    assert "labels of TEST do not match its images" in label_warning(train, mixed)
    assert "labels of TRAIN do not match its images" in label_warning(mixed, train)
    far = dataclasses.replace(test, features=test.features.roll(4, 1))
    assert "do not match" in label_warning(train, far)


def test_many_shuffled_classes_are_found() -> None:
    classes = 500

    def clusters(each: int, seed: int) -> Features:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(classes * each) % classes
        centres = torch.randn(classes, 32, generator=torch.Generator().manual_seed(9))
        x = centres[labels] + 0.3 * torch.randn(len(labels), 32, generator=generator)
        return Features(x, labels, [], torch.arange(len(labels)), [])

    train, test = clusters(12, 0), clusters(10, 1)
    assert label_warning(train, test) == ""
    mixed = dataclasses.replace(test, labels=test.labels[torch.randperm(len(test.labels))])
    assert "labels of TEST do not match" in label_warning(train, mixed)


@pytest.mark.parametrize("noise", [0.6, 100.0])  # a fair encoder, and one that knows nothing
@pytest.mark.parametrize("kind", ["balanced", "unbalanced", "two classes", "round robin", "one shot"])
def test_honest_labels_are_not_doubted(kind: str, noise: float) -> None:
    train, test = blobs(600, noise, 0), blobs(300, noise, 1)
    if kind == "unbalanced":  # nine tenths of TRAIN are ants
        rows = torch.cat([(train.labels == 0).nonzero()[:, 0], (train.labels != 0).nonzero()[:17, 0]])
        train = dataclasses.replace(train, features=train.features[rows], labels=train.labels[rows])
    elif kind == "two classes":
        train, test = blobs(600, noise, 0, classes=2), blobs(300, noise, 1, classes=2)
    elif kind == "round robin":
        train = blobs(20_000, noise, 0)
    elif kind == "one shot":
        train = blobs(4, noise, 0)
    assert label_warning(train, test) == ""


def test_classes_without_images_are_named() -> None:
    labels = torch.tensor([0, 1, 2])
    assert missing_classes(NAMES, torch.arange(4), labels) == ["TEST has no image of 1 of the 4 classes: dog."]
    assert missing_classes(NAMES, labels, torch.arange(4)) == ["TRAIN has no image of 1 of the 4 classes: dog."]


def test_classes_that_train_lacks_are_no_doubt_about_the_others() -> None:
    train, test = blobs(400, 0.2, 0), blobs(200, 0.2, 1)
    known = (train.labels < 2).nonzero()[:, 0]
    few = dataclasses.replace(train, features=train.features[known], labels=train.labels[known])
    assert label_warning(few, test) == ""


def test_wrongly_ordered_labels_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    class Turned(torch.utils.data.Dataset):
        def __init__(self, turn: int, n: int) -> None:
            generator = torch.Generator().manual_seed(turn)
            self.true = torch.arange(n) % 3
            self.targets = (self.true + turn) % 3
            colours = torch.eye(3)[self.true]
            self.images = (colours[:, :, None, None] * 150 + 50 * torch.rand(n, 3, 16, 16, generator=generator)).byte()

        def __len__(self) -> int:
            return len(self.true)

        def __getitem__(self, i: int) -> tuple[Tensor, int]:
            return self.images[i], int(self.targets[i])

    encoder = backbones.create(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), image_size=16)
    said: list[str] = []
    (entry,) = evaluate(encoder, Turned(0, 90), Turned(1, 60), protocols=["knn"], say=said.append)
    assert entry.top1 == 0
    assert any("WARNING: The labels of TRAIN and TEST seem to be in different orders" in line for line in said)
    said.clear()
    evaluate(encoder, Turned(0, 90), Turned(0, 60), protocols=["knn"], say=said.append)
    assert not any("WARNING" in line for line in said)
