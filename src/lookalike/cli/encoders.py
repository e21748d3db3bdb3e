"""Commands that use a trained encoder or classifier: `evaluate`, `predict`, `embed`, `show`."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from ..commands.embed import embed as write_features
from ..commands.evaluate import evaluate as run_protocols
from ..commands.predict import predict as classify
from ..commands.show import show as draw
from ..evaluation.protocol_table import PROTOCOLS
from ..files import check_output, check_writable
from ..places import (
    PREDICTED,
    check_backbones,
    check_images,
    check_shares,
    check_suffix,
    no_check,
    no_features,
    no_list,
    refuse_folder,
)
from ..printing import are, counted, pasteable, say
from ..runs import Folder
from ..runs.lookup import check_encoder, classifier_of
from .command import Command, Option
from .errors import UsageError
from .interrupts import imported

OF_ENCODERS = (
    "image_size", "pool", "precision", "batch_size", "workers", "epochs", "keep", "encoder_backbone", "baseline",
)  # fmt: skip
OF_IMAGES = ("holdout", "multi_label", "columns", "only")
"""Options of `evaluate` that do not apply to saved features."""
OVERWRITE = Option(bool, False, "Whether to replace an existing file.")
PROTOCOL: Any = Literal[tuple(PROTOCOLS)]
EVALUATE = Command(
    function=run_protocols,
    defaults={"encoder": "", "train": "", "test": ""},
    kinds={"protocols": tuple[PROTOCOL, ...]},
    extra={
        "features": Option(
            tuple[str, ...], (),
            "Files written by `embed`, instead of ENCODER TRAIN TEST: a training and a test file, or one file, of "
            "which a fifth is held out for testing.",
        )
    },
    needs="commands.evaluate_pairs",
)  # fmt: skip


PREDICT = Command(
    function=classify,
    metavars={"classifier": "RUN"},
    defaults={"out": "predictions.csv"},
    extra={"overwrite": OVERWRITE},
    needs="classifiers",
)
EMBED = Command(
    function=write_features,
    defaults={"out": "embeddings.npz"},
    extra={"overwrite": OVERWRITE},
    needs="evaluation.extractor",
)


SHOW = Command(function=draw, metavars={"images": "DATA"}, defaults={"out": "show"}, needs="commands.pictures")


def evaluate(argv: list[str]) -> None:
    options = EVALUATE.read(argv)
    _check_evaluation(options)
    is_run = bool(options.encoder) and Path(options.encoder).is_dir()
    target = options.out or (Folder(options.encoder).evaluation if is_run else None)
    if target is not None:
        refuse_folder(Path(target), "evaluation.json")
        check_writable(Path(target))
        if Path(target).is_file():  # results are appended
            open(target, "rb").close()
    if options.features:
        from ..commands.evaluate_features import evaluate_features

        imported()
        evaluate_features(
            *options.features, protocols=options.protocols, seed=options.seed, seeds=options.seeds,
            shares=options.shares, labels=options.labels, out=options.out, say=say,
        )  # fmt: skip
    else:
        options.test = options.test or None
        EVALUATE.call(options, say=say)
    say(f"Wrote {target}" if target else "Results were not saved; --out FILE saves them.")
    more = [*_encoder_options(options), *_precision(options)]
    more += [] if options.pool == "pooled" else ["--pool", options.pool]
    command = pasteable("lookalike", "embed", options.encoder or "ENCODER", "DATA", *more, "--out", "embeddings.npz")
    say(f"Next: {command}")


def _encoder_options(options: SimpleNamespace) -> list[object]:
    """The options that the next command needs for the same encoder."""
    values = [("--encoder-backbone", options.encoder_backbone), ("--image-size", options.image_size)]
    return [word for option, value in values if value is not None for word in (option, value)]


def _precision(options: SimpleNamespace) -> list[object]:
    return [] if options.precision is None else ["--precision", options.precision]


def _check_evaluation(options: SimpleNamespace) -> None:
    positionals = [value for value in (options.encoder, options.train, options.test) if value]
    if options.features:
        if positionals or options.also:
            raise UsageError("--features replaces ENCODER TRAIN TEST and --also. Leave them out.")
        for name in (*OF_ENCODERS, *OF_IMAGES):
            if vars(options)[name] != EVALUATE.options()[name].default:
                option = name.replace("_", "-")
                raise UsageError(f"--{option} applies to encoders, but --features reads saved features. Leave it out.")
        if len(options.features) > 2:
            raise UsageError(f"--features expects one or two files, but got {len(options.features)}.")
    elif len(positionals) < 2:
        raise UsageError(
            "Expected an encoder and labelled images: lookalike evaluate ENCODER TRAIN TEST, or lookalike evaluate "
            "ENCODER TRAIN --holdout 0.2."
        )
    elif options.test and options.holdout is not None:
        raise UsageError("--holdout splits TRAIN, but TEST is given. Leave one of them out.")
    else:
        check_encoder(options.encoder)
        check_backbones(options.encoder_backbone)
        check_images(
            options.train, *filter(None, [options.test]), *(folder for pair in options.also for folder in pair)
        )
        _check_only(options.only)
    check_shares(options.shares)
    for file in options.features:
        if not os.path.isfile(file):
            raise no_features(file)
    if options.labels is not None and not os.path.isfile(options.labels):
        raise no_list(options.labels)


def _check_only(file: str | None) -> None:
    if file is not None and not os.path.isfile(file):
        raise no_check(file)


def predict(argv: list[str]) -> None:
    options = PREDICT.read(argv)
    path = Path(options.out)
    check_output(path, options.overwrite)
    check_suffix(path, PREDICTED)
    classifier_of(options.classifier)
    check_images(options.data)
    found = PREDICT.call(options, out=path, say=say)
    say(f"Wrote {path}: {counted(len(found.names), 'image')}; {found.counts()}")
    if found.broken:
        name, reason = found.broken[0]
        say(
            f"{counted(len(found.broken), 'image')} could not be read and {are(len(found.broken))} left out; "
            f"the first is {name}: {reason}"
        )
    size = [] if options.image_size is None else ["--image-size", options.image_size]
    command = pasteable("lookalike", "show", options.classifier, options.data, *size, "--out", "show")
    say(f"Next: {command}   # attention maps of the encoder")


def embed(argv: list[str]) -> None:
    options = EMBED.read(argv)
    path = Path(options.out)
    check_output(path, options.overwrite)
    check_suffix(path)
    check_encoder(options.encoder)
    check_backbones(options.encoder_backbone)
    check_images(options.data)
    _check_only(options.only)
    found = EMBED.call(options, out=path, say=say)
    count, dim = found.features.shape
    say(f"Wrote {path}: {counted(count, 'image')} x {counted(dim, 'dimension')}, with file names.")
    if found.broken:
        name, reason = found.broken[0]
        say(
            f"{counted(len(found.broken), 'image')} could not be read and {are(len(found.broken))} left out; "
            f"the first is {name}: {reason}"
        )
    if path.suffix == ".npz":
        say(f"Next: numpy.load({str(path)!r}) returns the arrays features and names")


def show(argv: list[str]) -> None:
    options = SHOW.read(argv)
    check_encoder(options.encoder)
    check_backbones(options.encoder_backbone)
    check_images(options.images)
    check_writable(Path(options.out) / "neighbours.csv")
    files = SHOW.call(options, say=say)
    say(f"Wrote {', '.join(map(str, files))}")
    command = pasteable("lookalike", "evaluate", options.encoder, "TRAIN", "TEST", *_encoder_options(options))
    say(f"Next: {command}   # folders with one sub-folder per class")
