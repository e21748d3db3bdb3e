"""Protocols that train on augmented images: a linear probe of a frozen encoder, and fine-tuning, on all or few labels.

Recipes and their sources are in `lookalike.methods.finetune`; training is that of the command `finetune`, in a
temporary folder.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .. import training
from ..backbones import Backbone
from ..data import Source, Subset
from ..events import only
from ..methods.finetune import FineTune
from ..runs import Folder, Options, Run, by_user
from . import finetune

IN_MEMORY = 2**30
"""Bytes of images up to which they are decoded once and cached in memory."""


@dataclass(frozen=True, eq=False)
class Trained:
    """Scores of a trained classifier on M readable test images. C classes."""

    scores: Tensor
    """(M, C) float32 logits of the last epoch's classifier."""
    labels: Tensor
    """(M,) int64."""
    broken: list[tuple[str, str]]
    """(name, reason) of each test image that could not be read."""
    train_images: int
    """Number of labelled training images."""
    settings: dict[str, object]
    """The recipe, fitted to the images."""
    history: list[dict[str, float]]
    """`step`, `loss` and `train_top1`, at regular intervals."""


def trained_scores(
    encoder: Backbone,
    train: Source,
    test: Source,
    *,
    frozen: bool,
    epochs: int,
    rows: Tensor | None = None,
    seed: int = 0,
    batch_size: int = Options.batch_size,
    workers: int = 0,
    image_size: int | None = None,
    say: Callable[[str], None],
) -> Trained:
    """Trains a classifier on a copy of an encoder, and scores the test images once, after the last epoch.

    Args:
        encoder: left unchanged.
        train: labelled images with class names.
        test: labelled images with the same classes.
        frozen: whether only the head is trained, as for `linear-augmented`, or the whole network, as for `finetune`.
        epochs: number of passes over the labelled images.
        rows: indices (L,) of the training images whose labels are used; by default all.
        seed: random seed of the training.
        batch_size: images per step, at most the number of labelled images.
        workers: number of processes that decode images.
        image_size: size of the images in pixels; by default the size that the encoder was trained or published at.
        say: called with a line per epoch, warnings, and the progress on test images.

    Raises:
        ValueError: images without labels, or an encoder, classes or sizes that cannot be used.
    """
    if train.labels is None or train.classes is None or test.classes != train.classes:
        raise ValueError(
            f"TRAIN has the classes {train.classes} and TEST has {test.classes}. Open both with one list of classes."
        )
    labelled = train if rows is None else Subset(train, rows.tolist())
    size = image_size or encoder.image_size
    decoded = len(labelled) * encoder.channels * (2 * size) ** 2
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        run = Run(
            data=labelled, backbone=encoder, channels=encoder.channels, image_size=size, epochs=epochs,
            batch_size=min(batch_size, len(labelled)), workers=workers, seed=seed, out=folder, save_every=epochs,
            alpha=encoder.pixels.alpha, bands=encoder.pixels.bands, scale=encoder.pixels.scale.words(),
            frozen_epochs=0.0, cache="ram" if decoded < IN_MEMORY else "none",
            method=FineTune.Config(
                frozen=frozen, classes=train.classes, encoder_stem=encoder.stem,
                encoder_interpolation=encoder.interpolation,
            ),
            origins=by_user(GIVEN),
        )  # fmt: skip
        training.pretrain(run, report=only(("progress", "warning"), say))
        classifier, settled = finetune.trained_classifier(run)
        history = finetune.history_of(Folder(folder))
    found = finetune.scores_of(classifier, test, workers, say)
    assert found.labels is not None
    settings = finetune.settings_of(settled)
    return Trained(found.features, found.labels, found.broken, len(labelled), settings, history)


GIVEN = ("frozen", "classes")
"""Fields that are set here; the rest of the recipe is fitted to the images."""
