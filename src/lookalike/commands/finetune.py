"""Fine-tuning: `finetune` trains a classifier from an encoder and evaluates it, using the common training loop."""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence

import torch
from lightning.pytorch import Callback
from torch import nn

from .. import backbones, classifiers, encoders, training
from ..backbones import Backbone
from ..classifiers import Classifier
from ..data import Data, Source, only_chosen
from ..data.labelled import name_of, open_pair, same_folder
from ..data.splits import Split, open_split, shared_groups
from ..devices import default_device
from ..evaluation.features import Features, features, fingerprint
from ..evaluation.label_checks import missing_classes
from ..evaluation.metrics import classification_metrics
from ..evaluation.protocols import About, entry
from ..evaluation.records import Entry, record
from ..files import file_sha256
from ..methods.finetune import FineTune
from ..places import is_published
from ..printing import are, composed, counted, pasteable
from ..progress import counting
from ..runs import Folder, Options, Resolved, Result, Run, plain
from ..training import checkpoints, launch

SHOWN = 3
"""Number of classes with the lowest accuracy that are reported."""
TEST_BATCH = 256
"""Images per forward pass in testing."""


def finetune(
    encoder: str | os.PathLike[str] | nn.Module,
    train: Data,
    test: Data | None = None,
    *,
    out: str | os.PathLike[str] = Options.out,
    epochs: int = Options.epochs,
    batch_size: int = Options.batch_size,
    image_size: int | None = Options.image_size,
    workers: int | None = Options.workers,
    seed: int = Options.seed,
    resume: bool = Options.resume,
    overwrite: bool = Options.overwrite,
    method: FineTune.Config = FineTune.Config(),  # noqa: B008 (frozen)
    callbacks: Sequence[Callback] = (),
) -> Result:
    """Trains a classifier from an encoder, writes the run folder, and evaluates it once on the test images.

    For devices, precision and all other training options see `train_and_evaluate`.

    Args:
        encoder: what `lookalike.load` accepts, a loaded encoder, or a pretrained module of your own, (B, C, H, W) to
            (B, D); a copy of it is trained.
        train: folder with one sub-folder per class, or a labelled Dataset.
        test: the same classes with other images, which are used only after the last epoch. Without it, they are a part
            of `train`: by the column split of a list, or drawn at random with `method.holdout`.
        out: run folder.
        epochs: number of passes over the training images.
        batch_size: images per optimizer step.
        image_size: size of the images in pixels; by default the size that the encoder was trained or published at.
        workers: number of processes that decode images; None for one per free core, at most 8.
        seed: random seed of the training.
        resume: resume the run in `out`.
        overwrite: replace the run in `out`.
        method: mixing, freezing, views and optimizer. Fields that are not set are fitted to the data.
        callbacks: as for `lookalike.pretrain`.

    Raises:
        ValueError, FileNotFoundError: an encoder, folders or classes that cannot be used; and everything that
            `lookalike.pretrain` raises.
    """
    path = os.fspath(encoder) if isinstance(encoder, str | os.PathLike) else None
    run = Run(
        data=train, method=method, out=os.fspath(out), epochs=epochs, batch_size=batch_size, image_size=image_size,
        workers=workers, seed=seed, resume=resume, overwrite=overwrite, init=path,
        backbone=encoder if isinstance(encoder, nn.Module) else Options.backbone,
    )  # fmt: skip
    return train_and_evaluate(run, test, callbacks)


def train_and_evaluate(run: Run, test: Data | None = None, callbacks: Sequence[Callback] = ()) -> Result:
    """`finetune` with all training options.

    Args:
        run: its method is a `FineTune.Config`. The encoder is `init`, a name or path, or `backbone`, a module.
        test: labelled images; by default those that `run.method.test` names, else a part of `run.data`.
        callbacks: as for `lookalike.pretrain`.
    """
    begun = time.perf_counter()
    run = prepared(run, test)
    result = training.pretrain(run, callbacks)
    if launch.launched_rank(run) == 0:
        _evaluate(run, test, begun)
    return result


def prepared(run: Run, test: Data | None = None) -> Run:
    """The run with its encoder loaded, and all fields set that depend on the encoder and the classes.

    Raises:
        ValueError: the method is not `FineTune.Config`, or the encoder or classes cannot be used.
    """
    cfg = run.method
    _check(run)
    assert isinstance(cfg, FineTune.Config)
    folder = Folder(run.out)
    if launch.launched_rank(run) == 0:
        folder.check(resume=run.resume, overwrite=run.overwrite)
    published = not run.resume and is_published(run.init)
    given = test if test is not None else cfg.test
    splits_train = isinstance(given, str) and not given
    if cfg.holdout and not splits_train:
        raise ValueError("holdout splits TRAIN, but TEST is given. Leave one of them out.")
    cfg = dataclasses.replace(cfg, splits_train=splits_train)
    parts = _opened(run, cfg, given) if published else None  # before a download
    resumes = run.resume and bool(cfg.classes) and (folder.last.is_file() or folder.before.is_file())
    if not (resumes and isinstance(run.backbone, str)):
        model = _encoder(run, cfg)
        cfg = dataclasses.replace(cfg, encoder_stem=model.stem, encoder_interpolation=model.interpolation)
        run = dataclasses.replace(
            run,
            backbone=model,
            channels=model.channels,
            image_size=run.image_size or (None if run.resume else model.image_size),  # a resumed run has it in run.yaml
            alpha=model.pixels.alpha if run.alpha == "auto" else run.alpha,
            bands=model.pixels.bands if run.bands is None else run.bands,
            scale=model.pixels.scale.words() if run.pixels.scale.kind == "dtype" else run.scale,
        )
    classes = (parts or _opened(run, cfg, given)).train.classes
    assert classes is not None
    if sorted(map(composed, classes)) != sorted(map(composed, cfg.classes)):  # the same classes keep the chosen order
        cfg = dataclasses.replace(cfg, classes=classes)
    if isinstance(given, str | os.PathLike):
        cfg = dataclasses.replace(cfg, test=os.fspath(given))
    return dataclasses.replace(run, method=cfg, frozen_epochs=0.0)


def _check(run: Run) -> None:
    """Raises if the run is not a fine-tuning, or if its settings contradict each other."""
    cfg = run.method
    if not isinstance(cfg, FineTune.Config):
        raise ValueError(
            f"lookalike.finetune expects a FineTune.Config, but the run has {type(cfg).__qualname__}. Use "
            "lookalike.pretrain."
        )
    if run.to_be_timed and cfg.unfreeze_after:
        raise ValueError(
            f"--unfreeze-after {cfg.unfreeze_after:g} with --time: the first steps train only the head and are faster "
            "than later ones, so the number of steps cannot be estimated. Give --epochs instead of --time."
        )
    if 0 < run.epochs <= cfg.unfreeze_after:
        raise ValueError(
            f"--unfreeze-after {cfg.unfreeze_after:g} of {counted(run.epochs, 'epoch')}: the encoder would never be "
            "trained. Give fewer, or --frozen for a linear probe."
        )
    if run.init is not None and not run.resume and os.path.realpath(run.out) in encoders.places(run.init):
        raise ValueError(f"--out {run.out} is the encoder's own folder. Give another one.")


def _encoder(run: Run, cfg: FineTune.Config) -> Backbone:
    """The encoder that a run starts from."""
    if isinstance(run.backbone, Backbone):
        return run.backbone
    if isinstance(run.backbone, nn.Module):
        if run.image_size is None:
            raise ValueError("The image size of a module of your own is unknown. Give image_size.")
        return backbones.create(run.backbone, channels=run.channels, image_size=run.image_size)
    if not run.init:
        raise ValueError(
            "No encoder was given. Give ENCODER: a run folder, a weights file, timm/NAME, torchvision/NAME or "
            "torchhub/NAME."
        )
    return encoders.load(run.init, cfg.encoder_backbone or None)


def _opened(run: Run, cfg: FineTune.Config, test: Data, classes: Sequence[str] | None = None) -> Split:
    """Opens the training and test images, for a resumed run with its original classes.

    Raises:
        ValueError: no test images, or a class of them that the training images do not have.
    """
    if classes is None and run.resume and cfg.classes:
        classes = cfg.classes
    if cfg.splits_train:
        return open_split(
            run.data, pixels=run.pixels, columns=run.columns, only=run.only, holdout=cfg.holdout or None,
            seed=run.seed, tiling=run.tiling, classes=classes,
        )  # fmt: skip
    first, second = open_pair(
        run.data, test, pixels=run.pixels, classes=classes, columns=run.columns, tiling=run.tiling
    )
    return Split(first if run.only is None else only_chosen(first, run.only), second, {}, "")


def trained_classifier(run: Run) -> tuple[Classifier, Resolved]:
    """The classifier of a run's last checkpoint, in eval mode on the default device, and the resolved run."""
    method, settled = checkpoints.restored(run)
    assert isinstance(method, FineTune)
    classifier = Classifier(method.backbone, method.linear(), method.cfg.classes)
    return classifier.eval().to(default_device()), settled


def scores_of(classifier: Classifier, source: Source, workers: int, say: Callable[[str], None]) -> Features:
    """Logits (M, K) of the centre crops of all readable images."""
    net = classifier.encoder
    return features(
        classifier, source, image_size=net.image_size, mean=net.mean, std=net.std, batch_size=TEST_BATCH,
        workers=workers, progress=counting(say, "test: ", "images", last=True),
    )  # fmt: skip


def _evaluate(run: Run, test: Data | None, begun: float) -> None:
    """Evaluates a finished run, and writes its classifier, its classes and an entry in `evaluation.json`."""
    folder = Folder(run.out)
    folder.say("Evaluating the last epoch's classifier on the test images ...")
    classifier, settled = trained_classifier(run)
    cfg = settled.method
    assert isinstance(cfg, FineTune.Config)
    given = test if test is not None else cfg.test
    parts = _opened(settled, cfg, given, cfg.classes)
    first, second = parts.train, parts.test
    if parts.line:
        folder.say(parts.line)
    found = scores_of(classifier, second, settled.workers, folder.say)
    assert found.labels is not None
    classifiers.save(folder, classifier, encoders.read_card(folder))
    about = About(
        {}, file_sha256(folder.weights), fingerprint(first, second), name_of(settled.data),
        name_of(settled.data if cfg.splits_train else given), parts.about,
    )  # fmt: skip
    metrics = classification_metrics(found.features.double().softmax(1), found.labels)
    result = entry(
        "linear-augmented" if cfg.frozen else "finetune", [metrics], found.labels, train_images=len(first),
        classes=cfg.classes, settings=settings_of(settled), history=history_of(folder), seed=settled.seed,
        seconds=time.perf_counter() - begun, about=about,
    )  # fmt: skip
    record(folder.evaluation, [result], named_here=not run.resume)
    for name, reason in found.broken:
        folder.note(f"broken test image {name}: {reason}")
    for line in _lines(result, found, settled, given):
        folder.say(line)
    if line := shared_groups(first, second):
        folder.say(f"WARNING     {line}", "warning")
    folder.say(
        f"Wrote {folder.classifier} (encoder, head and classes), {folder.classes} and {folder.evaluation}\n"
        f"Next: {pasteable('lookalike', 'predict', folder.path, 'DATA', '--out', 'predictions.csv')}"
    )


def _lines(result: Entry, found: Features, run: Run, test: Data) -> list[str]:
    """The report of an evaluation."""
    assert found.labels is not None
    majority = int(found.labels.bincount().max()) / len(found.labels)
    lines = [result.line(SHOWN)]
    if run_classes := result.class_names:
        absent = missing_classes(run_classes, torch.arange(len(run_classes)), found.labels)
        lines += [f"WARNING     {line}" for line in absent]
    if result.interval[0] <= majority:
        lines.append(
            f"WARNING     accuracy is not significantly above the majority-class baseline ({majority:.2%}). Train for "
            "longer, on more images, or from another encoder."
        )
    if (not isinstance(test, str) or test) and same_folder(run.data, test):
        lines.append("WARNING     TRAIN and TEST are the same: accuracies do not apply to other images.")
    if found.broken:
        name, reason = found.broken[0]
        lines.append(
            f"{counted(len(found.broken), 'test image')} could not be read and {are(len(found.broken))} excluded; the "
            f"first is {name}: {reason}"
        )
    return lines


def history_of(folder: Folder) -> list[dict[str, float]]:
    """Training history: `step`, `loss` and `train_top1`, the latter on mixed views if mixing is on."""
    names = ("step", "loss", "train_top1")
    rows = [{name: row.get(name) for name in names} for row in folder.rows()]
    return [{k: float(v) for k, v in row.items() if v is not None} for row in rows if None not in row.values()]


def settings_of(run: Run) -> dict[str, object]:
    """The settings of a resolved run for the record: the recipe, without names of files and classes."""
    recipe = plain(run.method)
    assert isinstance(recipe, dict)
    left_out = {
        "classes",
        "test",
        "holdout",
        "splits_train",
        "encoder_backbone",
        "encoder_stem",
        "encoder_interpolation",
    }
    return {
        "image_size": run.image_size,
        "crop": "256/224 centre",
        "epochs": run.epochs,
        "batch_size": run.batch_size,
        **{name: value for name, value in recipe.items() if name not in left_out},
    }
