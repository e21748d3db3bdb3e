"""`evaluate`: an encoder on labelled images, by the protocols that are asked for. Importing it brings nothing heavy."""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..evaluation.protocol_table import EPOCHS, SHARES, Pool
from ..printing import silent

if TYPE_CHECKING:
    from ..data import Data
    from ..evaluation.extractor import Encoder
    from ..evaluation.records import Entry


def evaluate(
    encoder: "Encoder",
    train: "Data",
    test: "Data",
    *,
    also: "Sequence[tuple[Data, Data]]" = (),
    protocols: Sequence[str] = ("knn", "linear"),
    image_size: int | None = None,
    pool: Pool = "pooled",
    batch_size: int = 256,
    workers: int = 0,
    seed: int = 0,
    seeds: int = 1,
    shares: Sequence[float] = SHARES,
    labels: str | os.PathLike[str] | None = None,
    epochs: int = EPOCHS,
    keep: bool = True,
    out: str | os.PathLike[str] | None = None,
    encoder_backbone: str | None = None,
    baseline: bool = False,
    say: Callable[[str], None] = silent,
) -> "list[Entry]":
    """Evaluates an encoder on labelled images by the field's reference protocols; a run's folder keeps evaluation.json.

    Args:
        encoder: a run's folder, a file of weights, timm/NAME, torchvision/NAME or torchhub/NAME; in Python also a
            loaded encoder, or a module of your own (with `image_size`), which gets images normalised by ImageNet's mean
            and standard deviation.
        train: folder with one sub-folder of images per class; in Python also a labelled Dataset.
        test: folder with the same classes and other images.
        also: further pairs TRAIN TEST, with classes of their own.
        protocols: of these: knn: weighted votes of the 20 nearest training images. linear: a classifier by SGD, its
            learning rate chosen on a held-out tenth. logistic: logistic regression by L-BFGS. semi: the same with few
            of the labels, drawn ten times. retrieval: recall and mAP of test images that look for training images of
            their class. label-free: scores that need no labels; of them pair_auc, how often a view is nearer to its
            image's other view than to another image's, orders short trainings most as k-NN does. These train on the
            images, for hours where there are many: linear-augmented: a classifier of the frozen encoder, on crops and
            flips. semi-finetune, finetune: all of the network, with few and with all labels.
        image_size: pixels of the test crop. Without it the size that the encoder was trained or published at.
        pool: what stands for an image: what the encoder gives (a ViT's class token, a CNN's pooled map), the average of
            the patches, both, or the class tokens of a ViT's last four blocks. For the protocols that take features.
        batch_size: images per forward pass, and per step of the protocols that train on the images.
        workers: processes that decode.
        seed: of all that is drawn: initial weights, order and held-out part, few labels, and the intervals.
        seeds: how often what is trained is trained, from `seed` on; with several the interval covers them.
        shares: of each class's labels, for the protocols semi and semi-finetune.
        labels: text file of the images of `train` that keep their labels for these, in the place of shares: a name per
            line, such as the published lists of ImageNet.
        epochs: of the protocols that train on the images.
        keep: keep the features in the run's folder, where `encoder` is one, and use them again.
        out: file for the results. Without it evaluation.json in the run's folder, where `encoder` is one.
        encoder_backbone: name of the architecture, where `encoder` is a file of weights that does not say it.
        baseline: judge the same network untrained as well, and show both, as 43.0 -> 78.0 %: drawn by the seed, its
            BatchNorm with the statistics of the training images. It takes as long again.
        say: called with lines for the user, each result among them.

    Raises:
        ValueError, FileNotFoundError: encoder, folders, classes or protocols that cannot be used. A protocol that
            these images do not allow is the last to be raised: what the others found is said and recorded.
    """
    from .evaluate_pairs import evaluate_pairs
    from .evaluation_request import Request

    return evaluate_pairs(
        ((train, test), *also), Request(protocols, seed, seeds, tuple(map(float, shares)), labels, epochs),
        encoder=encoder, image_size=image_size, pool=pool, batch_size=batch_size, workers=workers, keep=keep, out=out,
        encoder_backbone=encoder_backbone, baseline=baseline, say=say,
    )  # fmt: skip
