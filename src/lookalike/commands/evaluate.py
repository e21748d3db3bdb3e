"""The command `evaluate`: evaluates an encoder on labelled images by standard protocols. It imports nothing heavy."""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..columns import COLUMNS, Columns
from ..evaluation.protocol_table import EPOCHS, SHARES, FeaturePrecision, Pool
from ..image_options import Tiling
from ..printing import silent

if TYPE_CHECKING:
    from ..data import Data
    from ..evaluation.extractor import Encoder
    from ..evaluation.records import Entry


def evaluate(
    encoder: "Encoder",
    train: "Data",
    test: "Data | None" = None,
    *,
    also: "Sequence[tuple[Data, Data]]" = (),
    protocols: Sequence[str] = ("knn", "linear"),
    image_size: int | None = None,
    pool: Pool = "pooled",
    tile: int | None = None,
    stride: int | None = None,
    precision: FeaturePrecision | None = None,
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
    holdout: float | None = None,
    multi_label: bool = False,
    columns: Columns = COLUMNS,
    only: str | os.PathLike[str] | None = None,
    say: Callable[[str], None] = silent,
) -> "list[Entry]":
    """Evaluates an encoder on labelled images by standard protocols; results go to evaluation.json in a run folder.

    Args:
        encoder: a run folder, a weights file, an exported .onnx file, timm/NAME, torchvision/NAME or torchhub/NAME; in
            Python also a loaded encoder, or a module of your own (with `image_size`), whose input is normalised by
            ImageNet's mean and standard deviation.
        train: folder with one sub-folder of images per class, labelled archives (.tar, .zip), a list (.csv, .tsv,
            .jsonl) or table (.parquet, .arrow) with the column label, or another labelled DATA; in Python also a
            labelled Dataset.
        test: folder with the same classes and other images. Without it, `train` is split by the column split of a list
            (train and test; without images of test, val), or at random with `holdout`.
        also: further pairs TRAIN TEST, which may have other classes.
        protocols: one or more of: knn: weighted vote of the 20 nearest training images. linear: linear classifier
            trained by SGD, its learning rate chosen on a held-out tenth. logistic: logistic regression by L-BFGS. semi:
            logistic regression on few labels, drawn ten times. retrieval: recall and mAP of retrieving training images
            of the test image's class. label-free: scores without labels; among them pair_auc, the probability that
            a view is nearer to its image's other view than to a view of another image, ranks short trainings most
            similarly to k-NN. The following train on images, which takes hours on large sets: linear-augmented: linear
            classifier on the frozen encoder, with crops and flips. semi-finetune, finetune: the whole network, with few
            or all labels.
        image_size: size of the test crop in pixels; by default the size that the encoder was trained or published at.
        pool: pooling of the features: the encoder's output (a ViT's class token, a CNN's pooled map), the mean of the
            patches, both, or the class tokens of a ViT's last four blocks. For protocols that use features.
        tile: cut images into tiles of this many pixels, each of which counts as an image named FILE@TOP,LEFT.
        stride: distance between the beginnings of two tiles in pixels; by default the size of a tile.
        precision: fp32, or bf16 for convolutions and matrix products, for protocols that use features. The default is
            bf16 on a CPU with bf16 instructions where the network is faster in it, as for `pretrain`; else fp32.
        batch_size: images per forward pass, and per step of protocols that train on images.
        workers: number of processes that decode images.
        seed: random seed of initial weights, order, held-out part, label draws and intervals.
        seeds: number of repetitions of protocols that train, with seeds from `seed` on; the interval covers them all.
        shares: fractions of each class's labels, for the protocols semi and semi-finetune.
        labels: text file with the images of `train` whose labels these protocols use, instead of shares: a name per
            line, such as the published lists of ImageNet.
        epochs: number of epochs of protocols that train on images.
        keep: cache the features in the run folder, if `encoder` is one, and reuse them.
        out: file for the results; by default evaluation.json in the run folder, if `encoder` is one.
        encoder_backbone: name of the architecture, if `encoder` is a weights file that does not state it.
        baseline: also evaluate the same network untrained, and show both, such as 43.0 -> 78.0 %. Its weights are
            initialised with the seed, its BatchNorm statistics come from the training images. Doubles the time.
        holdout: fraction of the images of each class that is held out of `train` for testing, instead of `test`. The
            draw depends on the names of the images and the seed; images of one group (column group) are not separated.
        multi_label: an image may have any number of classes, written as a;b in the column label of a list; empty for
            none. knn and linear then report mAP and micro F1. Without it, a ; is part of a class name.
        columns: names of the columns of lists.
        only: file of `lookalike check TRAIN --out`: use only the images of `train` that it proposes to keep.
        say: called with lines for the user, including each result.

    Raises:
        ValueError, FileNotFoundError: encoder, folders, classes or protocols that cannot be used. If these images do
            not allow a protocol, its error is raised last: results of the others are reported and recorded.
    """
    from .evaluate_pairs import evaluate_pairs
    from .evaluation_request import Reading, Request

    if test is not None and holdout is not None:
        raise ValueError("holdout splits TRAIN, but TEST is given. Leave one of them out.")
    request = Request(protocols, seed, seeds, tuple(map(float, shares)), labels, epochs, multi_label)
    return evaluate_pairs(
        ((train, test), *also), request,
        Reading(columns, multi_label, holdout, seed, only, Tiling.of(tile, stride)),
        encoder=encoder, image_size=image_size, pool=pool, precision=precision, batch_size=batch_size,
        workers=workers, keep=keep, out=out,
        encoder_backbone=encoder_backbone, baseline=baseline, say=say,
    )  # fmt: skip
