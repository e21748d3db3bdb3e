"""Protocols that train on augmented images: a linear probe of a frozen encoder, and fine-tuning, on all labels or few.

Recipes and their sources are in `lookalike.methods.finetune`; training is that of the command `finetune`, in a folder
that is removed afterwards.
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
"""Bytes of images up to which they are decoded once for all epochs."""


@dataclass(frozen=True, eq=False)
class Trained:
    """What a trained classifier says of the M test images that can be read. C classes."""

    scores: Tensor
    """(M, C) float32, whose softmax are probabilities; of the last epoch's classifier."""
    labels: Tensor
    """(M,) int64."""
    broken: list[tuple[str, str]]
    """(name, reason) of each test image that could not be read."""
    train_images: int
    """Labelled images that it was trained on."""
    settings: dict[str, object]
    """The recipe, as it was fitted to the images."""
    history: list[dict[str, float]]
    """`step`, `loss` and `train_top1`, now and then."""


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
        encoder: stays as it is.
        train: labelled, with names of classes.
        test: labelled, with the same classes.
        frozen: whether the head alone is trained, as `linear-augmented` is; else all is, as `finetune`.
        epochs: over the labelled images.
        rows: places (L,) of the training images that keep their labels; without it all do.
        seed: decides all that is random.
        batch_size: images per step; all, where they are fewer.
        workers: processes that decode.
        image_size: pixels of the images; without it those that the encoder was made for.
        say: called with a line per epoch, with warnings, and while the test images are looked at.

    Raises:
        ValueError: images without labels, or an encoder, classes or sizes that cannot be used.
    """
    if train.labels is None or train.classes is None or test.classes != train.classes:
        raise ValueError(f"TRAIN has the classes {train.classes} and TEST {test.classes}. Open both with one list.")
    labelled = train if rows is None else Subset(train, rows.tolist())
    size = image_size or encoder.image_size
    decoded = len(labelled) * encoder.channels * (2 * size) ** 2
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        run = Run(
            data=labelled, backbone=encoder, channels=encoder.channels, image_size=size, epochs=epochs,
            batch_size=min(batch_size, len(labelled)), workers=workers, seed=seed, out=folder, save_every=epochs,
            alpha=encoder.alpha, frozen_epochs=0.0, cache="ram" if decoded < IN_MEMORY else "none",
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
"""What is stated here; the rest of the recipe is fitted to the images."""
