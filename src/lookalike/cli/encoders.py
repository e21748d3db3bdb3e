"""What is done with a trained encoder or classifier: `evaluate`, `predict`, `embed`, `show`."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from ..files import check_writable
from ..places import PREDICTED, check_backbones, check_images, check_suffix, no_features, no_list, refuse_folder
from ..printing import are, counted, pasteable, say
from ..runs import Folder
from ..runs.lookup import check_encoder, classifier_of
from .errors import UsageError
from .interrupts import imported
from .parsing import parse, worker_count

Protocol = Literal[
    "knn", "linear", "logistic", "semi", "retrieval", "label-free", "linear-augmented", "semi-finetune", "finetune"
]
"""Names of `evaluation.PROTOCOLS`, which help must not import."""


@dataclass(frozen=True)
class Evaluate:
    """Judge an encoder on labelled images by the field's reference protocols; a run's folder keeps evaluation.json."""

    encoder: Annotated[Positional[str], tyro.conf.arg(metavar="ENCODER")] = ""
    """A run's folder, a file of weights, timm/NAME, torchvision/NAME or torchhub/NAME."""
    train: Annotated[Positional[str], tyro.conf.arg(metavar="TRAIN")] = ""
    """Folder with one sub-folder of images per class."""
    test: Annotated[Positional[str], tyro.conf.arg(metavar="TEST")] = ""
    """Folder with the same classes and other images."""
    protocols: tuple[Protocol, ...] = ("knn", "linear")
    """knn: weighted votes of the 20 nearest training images. linear: a classifier by SGD, its learning rate chosen on a
    held-out tenth. logistic: logistic regression by L-BFGS. semi: the same with few of the labels, drawn ten times.
    retrieval: recall and mAP of test images that look for training images of their class. label-free: scores that need
    no labels; of them recognition, how often a view is nearer to its image's other view than to another image's, orders
    short trainings most as k-NN does. These train on the images, for hours where there are many: linear-augmented: a
    classifier of the frozen encoder, on crops and flips. semi-finetune, finetune: all of the network, with few and with
    all labels."""
    also: tuple[tuple[str, str], ...] = ()
    """Further pairs TRAIN TEST, with classes of their own."""
    features: tuple[str, ...] = ()
    """Files of `lookalike embed` in the place of ENCODER TRAIN TEST: those to train on and to test on, or one, of which
    a fifth is the test."""
    image_size: int | None = None
    """Pixels of the test crop. Without it the size that the encoder was trained or published at."""
    pool: Literal["pooled", "average", "class+average", "last4"] = "pooled"
    """What stands for an image: what the encoder gives (a ViT's class token, a CNN's pooled map), the average of the
    patches, both, or the class tokens of a ViT's last four blocks."""
    batch_size: int = 256
    workers: int | None = None
    """Processes that decode images. Without it one per free core, 8 at most."""
    seed: int = 0
    seeds: int = 1
    """How often what is trained is trained, from --seed on; with several the interval covers them."""
    shares: tuple[float, ...] = (0.01, 0.1)
    """Of each class's labels, for the protocols semi and semi-finetune."""
    labels: str | None = None
    """Text file of the images of TRAIN that keep their labels for these, in the place of --shares: a name per line,
    such as the published lists of ImageNet."""
    epochs: int = 100
    """Of the protocols that train on the images."""
    encoder_backbone: str | None = None
    """Name of the architecture, where ENCODER is a file of weights that does not say it."""
    baseline: bool = False
    """Judge the same network untrained as well, and show both, as 43.0 -> 78.0 %. It takes as long again."""
    keep: bool = True
    """Keep the features in the run's folder, where ENCODER is one, and use them again."""
    out: str | None = None
    """File for the results. Without it evaluation.json in the run's folder, where ENCODER is one."""


@dataclass(frozen=True)
class Predict:
    """Tell the classes of images by a classifier that `finetune` trained."""

    classifier: Annotated[Positional[str], tyro.conf.arg(metavar="RUN")]
    """The folder of a finetune run, or its classifier.safetensors."""
    data: Annotated[Positional[str], tyro.conf.arg(metavar="DATA")]
    """A folder (scanned recursively, labels are not looked at) or a text file of paths."""
    out: str = "predictions.csv"
    """.csv or .parquet (needs the extra 'tables'): file, label, probability, and the next four."""
    image_size: int | None = None
    """Pixels of the centre crop. Without it the size that the classifier was trained at."""
    batch_size: int = 256
    workers: int | None = None
    """Processes that decode images. Without it one per free core, 8 at most."""
    overwrite: bool = False
    """Replace the file if it exists."""


@dataclass(frozen=True)
class Embed:
    """Write one feature vector per image, with the file's name."""

    encoder: Annotated[Positional[str], tyro.conf.arg(metavar="ENCODER")]
    """A run's folder, a file of weights, timm/NAME, torchvision/NAME or torchhub/NAME."""
    data: Annotated[Positional[str], tyro.conf.arg(metavar="DATA")]
    """A folder (scanned recursively) or a text file of paths. Labels are written where all lie in class folders."""
    out: str = "embeddings.npz"
    """.npz, .parquet (needs the extra 'tables') or .csv"""
    image_size: int | None = None
    """Pixels of the test crop. Without it the size that the encoder was trained or published at."""
    pool: Literal["pooled", "average", "class+average", "last4"] = "pooled"
    """What stands for an image, as for `evaluate`."""
    encoder_backbone: str | None = None
    """Name of the architecture, where ENCODER is a file of weights that does not say it."""
    batch_size: int = 256
    workers: int | None = None
    """Processes that decode images. Without it one per free core, 8 at most."""
    keep: bool = True
    """Keep the features in the run's folder, where ENCODER is one, and use them again."""
    overwrite: bool = False
    """Replace the file if it exists."""


@dataclass(frozen=True)
class Show:
    """Draw what an encoder sees: its attention, its patches as colours, the nearest neighbours of some images."""

    encoder: Annotated[Positional[str], tyro.conf.arg(metavar="ENCODER")]
    """A run's folder, a file of weights, timm/NAME, torchvision/NAME or torchhub/NAME."""
    data: Annotated[Positional[str], tyro.conf.arg(metavar="DATA")]
    """A folder (scanned recursively) or a text file of paths."""
    what: tuple[Literal["attention", "pca", "neighbours"], ...] = ()
    """The pictures. Without it all that the encoder has: attention takes a plain ViT with a class token."""
    out: str = "show"
    """Folder of the pictures."""
    count: int = 8
    """Images per picture, drawn by the seed."""
    image_size: int | None = None
    """Pixels that the encoder sees: larger ones make finer maps. Without it those it was trained or published at."""
    encoder_backbone: str | None = None
    """Name of the architecture, where ENCODER is a file of weights that does not say it."""
    workers: int | None = None
    """Processes that decode images. Without it one per free core, 8 at most."""
    seed: int = 0
    overwrite: bool = False
    """Replace pictures that are there."""


def evaluate(argv: list[str]) -> None:
    options = parse(Evaluate, argv, "evaluate")
    _check_question(options)
    is_run = bool(options.encoder) and Path(options.encoder).is_dir()
    target = options.out or (Folder(options.encoder).evaluation if is_run else None)
    if target is not None:
        refuse_folder(Path(target), "evaluation.json")
        check_writable(Path(target))
        if Path(target).is_file():  # it is added to
            open(target, "rb").close()
    from ..commands.evaluate import evaluate as judge
    from ..commands.evaluate_features import evaluate_features

    imported()

    if options.features:
        evaluate_features(
            *options.features, protocols=options.protocols, seed=options.seed, seeds=options.seeds,
            shares=options.shares, labels=options.labels, out=options.out, say=say,
        )  # fmt: skip
    else:
        judge(
            options.encoder, options.train, options.test, also=options.also, protocols=options.protocols,
            image_size=options.image_size, pool=options.pool, batch_size=options.batch_size,
            workers=worker_count(options.workers), seed=options.seed, seeds=options.seeds, shares=options.shares,
            labels=options.labels, epochs=options.epochs, keep=options.keep, out=options.out,
            encoder_backbone=options.encoder_backbone, baseline=options.baseline, say=say,
        )  # fmt: skip
    say(f"Wrote {target}" if target else "Nothing was written; --out FILE keeps the results.")
    more = [*_of_encoder(options), *([] if options.pool == "pooled" else ["--pool", options.pool])]
    command = pasteable("lookalike", "embed", options.encoder or "ENCODER", "DATA", *more, "--out", "embeddings.npz")
    say(f"Next: {command}")


def _of_encoder(options: Evaluate | Show) -> list[object]:
    """The options that the next command on the same encoder must have, too."""
    chosen = [("--encoder-backbone", options.encoder_backbone), ("--image-size", options.image_size)]
    return [word for option, value in chosen if value is not None for word in (option, value)]


def _check_question(options: Evaluate) -> None:
    given = [part for part in (options.encoder, options.train, options.test) if part]
    if options.features:
        if given or options.also:
            raise UsageError("--features takes the place of ENCODER TRAIN TEST and --also. Leave them out.")
        for name in ("image_size", "pool", "batch_size", "workers", "epochs", "keep", "encoder_backbone", "baseline"):
            if vars(options)[name] != vars(Evaluate())[name]:
                raise UsageError(f"--{name.replace('_', '-')} is of encoders, and --features gives none. Leave it out.")
        if len(options.features) > 2:
            raise UsageError(f"--features takes one or two files, and {len(options.features)} were given.")
    elif len(given) < 3:
        raise UsageError("Give an encoder and two labelled folders: lookalike evaluate ENCODER TRAIN TEST.")
    else:
        check_encoder(options.encoder)
        check_backbones(options.encoder_backbone)
        check_images(options.train, options.test, *(place for pair in options.also for place in pair))
    if not options.shares or not all(0 < share <= 1 for share in options.shares):
        raise ValueError(f"shares are {list(options.shares)}; give one or more above 0, up to 1.")
    for file in options.features:
        if not os.path.isfile(file):
            raise no_features(file)
    if options.labels is not None and not os.path.isfile(options.labels):
        raise no_list(options.labels)


def predict(argv: list[str]) -> None:
    options = parse(Predict, argv, "predict")
    path = Path(options.out)
    if path.exists() and not options.overwrite:
        raise FileExistsError(f"{path} exists. Give another --out, or --overwrite.")
    check_writable(path)
    check_suffix(path, PREDICTED)
    classifier_of(options.classifier)
    check_images(options.data)
    from ..commands.predict import predict as tell

    imported()

    found = tell(
        options.classifier, options.data, out=path, image_size=options.image_size, batch_size=options.batch_size,
        workers=worker_count(options.workers), say=say,
    )  # fmt: skip
    say(f"Wrote {path}: {counted(len(found.names), 'image')}; {found.counts()}")
    if found.broken:
        name, reason = found.broken[0]
        say(
            f"{counted(len(found.broken), 'image')} could not be read and {are(len(found.broken))} left out; "
            f"the first is {name}: {reason}"
        )
    more = [] if options.image_size is None else ["--image-size", options.image_size]
    command = pasteable("lookalike", "show", options.classifier, options.data, *more, "--out", "show")
    say(f"Next: {command}   # where the encoder looks")


def embed(argv: list[str]) -> None:
    options = parse(Embed, argv, "embed")
    path = Path(options.out)
    if path.exists() and not options.overwrite:
        raise FileExistsError(f"{path} exists. Give another --out, or --overwrite.")
    check_writable(path)
    check_suffix(path)
    check_encoder(options.encoder)
    check_backbones(options.encoder_backbone)
    check_images(options.data)
    from ..commands.embed import embed as write

    imported()

    found = write(
        options.encoder, options.data, out=path, image_size=options.image_size, pool=options.pool,
        batch_size=options.batch_size, workers=worker_count(options.workers), keep=options.keep,
        encoder_backbone=options.encoder_backbone, say=say,
    )  # fmt: skip
    count, width = found.features.shape
    say(f"Wrote {path}: {counted(count, 'image')} x {counted(width, 'number')}, with file names.")
    if found.broken:
        name, reason = found.broken[0]
        say(
            f"{counted(len(found.broken), 'image')} could not be read and {are(len(found.broken))} left out; "
            f"the first is {name}: {reason}"
        )
    if path.suffix == ".npz":
        say(f"Next: numpy.load({str(path)!r}) gives the arrays features and names")


def show(argv: list[str]) -> None:
    options = parse(Show, argv, "show")
    check_encoder(options.encoder)
    check_backbones(options.encoder_backbone)
    check_images(options.data)
    check_writable(Path(options.out) / "neighbours.csv")
    from ..commands.show import show as draw

    imported()

    files = draw(
        options.encoder, options.data, out=options.out, what=options.what, count=options.count,
        image_size=options.image_size, workers=worker_count(options.workers), seed=options.seed,
        overwrite=options.overwrite, encoder_backbone=options.encoder_backbone, say=say,
    )  # fmt: skip
    say(f"Wrote {', '.join(map(str, files))}")
    command = pasteable("lookalike", "evaluate", options.encoder, "TRAIN", "TEST", *_of_encoder(options))
    say(f"Next: {command}   # folders with one sub-folder per class")
