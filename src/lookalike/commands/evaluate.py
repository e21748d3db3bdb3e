"""From an encoder and folders of images to judgements and embeddings: what the commands `evaluate` and `embed` do."""

import dataclasses
import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..core import DataFacts
from ..data import Data, Loader, Source, Subset, open_maybe_labelled, open_source
from ..data.labelled import name_of, open_pair, same_folder
from ..evaluation.extractor import Encoder, Pool, Reader, check_known, opened
from ..evaluation.features import Features, check_labels, device_of, fingerprint, load_features, save_features
from ..evaluation.few_labels import SHARES, drawn, listed
from ..evaluation.label_checks import doubts, missing_classes
from ..evaluation.linear import hold_out
from ..evaluation.metrics import interval, measures
from ..evaluation.protocols import FROZEN, PROGRESS, About, Few, entry, judge, now
from ..evaluation.records import Entry, record
from ..files import file_sha256
from ..image_options import Alpha
from ..label_free import alignment, effective_rank, recognition, retrieval, spread, uniformity
from ..methods.simclr import SimCLR
from ..modes import evaluating
from ..places import check_suffix, is_published, no_list, refuse_folder
from ..printing import composed, counted, shown
from ..progress import counting
from ..random import permutation
from ..runs import Folder
from ..views import make_views, resized

LABEL_FREE = {"label-free": "scores that need no labels; `recognition` orders short trainings most as k-NN does"}
TRAINED = {
    "linear-augmented": "a linear classifier on the frozen encoder, by SGD on crops and flips",
    "semi-finetune": "the whole network, fine-tuned on 1 % and 10 % of the labels",
    "finetune": "the whole network, fine-tuned on all labels",
}
"""Protocols that train on the images themselves; see `trained_scores`."""
PROTOCOLS = {**FROZEN, **LABEL_FREE, **TRAINED}
"""What `evaluate` knows, and a line about each."""
EPOCHS = 100
"""Of the protocols that train, over the labelled images: DINO's linear probe, MAE's ViT-B."""
VIEWED = 1000
"""Images that are scored without labels, at most."""


def _silent(text: str) -> None:
    """Says nothing."""


def evaluate(
    encoder: Encoder,
    train: Data,
    test: Data,
    *,
    also: Sequence[tuple[Data, Data]] = (),
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
    say: Callable[[str], None] = _silent,
) -> list[Entry]:
    """Judges an encoder on labelled images.

    Args:
        encoder: what `lookalike.load` takes, a loaded encoder, or a module of your own (with `image_size`), which
            gets images normalised by ImageNet's mean and standard deviation.
        train: folder with one sub-folder per class, or a labelled Dataset.
        test: the same classes, other images.
        also: further pairs of train and test, with classes of their own.
        protocols: of `PROTOCOLS`.
        image_size: pixels of the test crop; without it the size that the encoder was made for.
        pool: what stands for an image, see `Pool`; for the protocols that judge features.
        batch_size: images per forward pass, and per step of the protocols of `TRAINED`.
        workers: processes that decode.
        seed: of all that is drawn: initial weights, order and held-out part, few labels, and the intervals.
        seeds: how often what is trained is trained (`linear`, and the protocols of `TRAINED`), from `seed` on.
        shares: of each class's labels, for `semi` and `semi-finetune`.
        labels: text file of the images of `train` that keep their labels for these, in the place of shares.
        epochs: of the protocols of `TRAINED`.
        keep: features of a run's encoder stay in its folder, and are used again.
        out: file for the results; without it `evaluation.json` in the run's folder, where `encoder` is one.
        encoder_backbone: the name of the architecture, where `encoder` is a file of weights that does not say it.
        baseline: judges the same network untrained as well, for `Entry.baseline`: drawn by the seed, its BatchNorm with
            the statistics of the training images. It takes as long again.
        say: called with lines for the user, each result among them.

    Raises:
        ValueError, FileNotFoundError: encoder, folders, classes or protocols that cannot be used. A protocol that
            these images do not allow is the last to be raised: what the others found is said and recorded.
    """
    question = _Question(protocols, seed, seeds, tuple(map(float, shares)), labels, epochs)
    question.check(PROTOCOLS)
    path = None if out is None else Path(out)
    if path is None and isinstance(encoder, str | os.PathLike) and os.path.isdir(encoder):
        path = Folder(encoder).evaluation
    if path is not None:
        refuse_folder(path, "evaluation.json")
    if pool != "pooled" and (others := [p for p in protocols if p not in FROZEN]):
        raise ValueError(f"{others[0]} takes what the encoder gives, and pool is {pool!r}. Leave one of them out.")
    asked = ((train, test), *also)
    found = [_opened(*each, 3, "auto") for each in asked] if is_published(encoder) else []  # before it is fetched
    reader = Reader(
        encoder, image_size=image_size, pool=pool, batch_size=batch_size, workers=workers, keep=keep, say=say,
        backbone=encoder_backbone,
    )  # fmt: skip
    if baseline:
        check_known(reader.model)
    found = found or [_opened(*each, reader.model.channels, reader.model.alpha) for each in asked]
    pairs = [_pair(*each, *sources, reader) for each, sources in zip(asked, found, strict=True)]
    entries: list[Entry] = []
    errors: list[ValueError] = []
    for pair in pairs:
        if len(pairs) > 1:
            say(f"{pair.about.train}, {pair.about.test}:")
        _judged(pair, reader, question, path, entries, errors, baseline)
    if errors:
        raise errors[0]
    return entries


@dataclass(frozen=True)
class _Question:
    """What is asked of each pair; the fields are arguments of `evaluate`."""

    protocols: Sequence[str]
    seed: int
    seeds: int
    shares: tuple[float, ...]
    labels: str | os.PathLike[str] | None
    epochs: int = EPOCHS

    def check(self, known: dict[str, str]) -> None:
        if not self.protocols:
            raise ValueError(f"No protocol was asked for. Choose from {', '.join(known)}.")
        for name in self.protocols:
            if name not in known:
                raise ValueError(f"There is no protocol {name!r} here. Choose from {', '.join(known)}.")
        if min(self.seeds, self.epochs) < 1:
            raise ValueError(f"seeds is {self.seeds} and epochs {self.epochs}; both are at least 1.")
        if not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise ValueError(f"shares are {list(self.shares)}; give one or more above 0, up to 1.")
        if self.labels is not None and not Path(self.labels).is_file():
            raise no_list(self.labels)

    def judged(
        self, protocol: str, train: Features, test: Features, classes: int | None, device: torch.device | None,
        about: About, say: Callable[[str], None],
    ) -> list[Entry]:  # fmt: skip
        """Judges features by one of `FROZEN`."""
        return judge(
            protocol, train, test, classes, self.seed, device, about=about, seeds=self.seeds,
            few=self.few(train) if protocol == "semi" else None,
            progress=counting(say, f"{protocol}: ", PROGRESS[protocol][0], unit=PROGRESS[protocol][1]),
        )  # fmt: skip

    def few(self, train: Features) -> Few:
        """Which of some images keep their labels for `semi`."""
        if self.labels is None:
            return Few(self.shares)
        # broken images may be listed, too
        rows = listed(self.labels, [*train.names, *(name for name, _ in train.broken)])
        return Few(rows=rows[rows < len(train.names)], sha256=file_sha256(Path(self.labels)))


@dataclass(frozen=True)
class _Pair:
    """Two sets of labelled images, as they were opened, and what is recorded of them."""

    train: Source
    test: Source
    test_data: Data
    about: About


def _opened(train: Data, test: Data, channels: int, alpha: Alpha) -> tuple[Source, Source]:
    """The labelled images of a pair, with the classes of the first."""
    first, second = open_pair(train, test, channels=channels, alpha=alpha)
    assert first.classes is not None
    if len(first.classes) < 2:
        raise ValueError(
            f"{name_of(train)} has one class, {first.classes[0]!r}; there is nothing to tell apart. Give two or more."
        )
    return first, second


def _pair(train: Data, test: Data, first: Source, second: Source, reader: Reader) -> _Pair:
    """A pair, and what is recorded of it."""
    if same_folder(train, test):
        reader.say("WARNING: TRAIN and TEST are the same folder; each image finds itself, and the figures say nothing.")
    about = About(reader.made, reader.encoder_sha256, fingerprint(first, second), name_of(train), name_of(test))
    return _Pair(first, second, test, about)


def _judged(
    pair: _Pair,
    reader: Reader,
    question: _Question,
    path: Path | None,
    entries: list[Entry],
    errors: list[ValueError],
    baseline: bool = False,
) -> None:
    """Judges on one pair; with `baseline` the untrained network, too."""
    if pair.train.labels is not None and pair.test.labels is not None:
        for line in missing_classes(pair.train.classes or (), pair.train.labels, pair.test.labels):
            reader.say(f"WARNING: {line}")
    ask = _asking(pair, reader, question)
    if baseline:
        before = _asking(pair, reader.untrained(pair.train, question.seed), question, "untrained, ")
        _each(question.protocols, lambda p: _beside(ask(p), before(p)), path, reader.say, entries, errors)
    else:
        _each(question.protocols, ask, path, reader.say, entries, errors)


def _asking(pair: _Pair, reader: Reader, question: _Question, before: str = "") -> Callable[[str], list[Entry]]:
    """What judges on a pair by a protocol; features are computed when they are first asked for."""
    found: list[tuple[Features, Features]] = []

    def ask(protocol: str) -> list[Entry]:
        if protocol in TRAINED:
            return _trained(protocol, pair, reader, question)
        if protocol in LABEL_FREE:
            return [_label_free(pair, reader, question.seed)]
        if not found:
            found.append((reader.features(pair.train, f"{before}train"), reader.features(pair.test, f"{before}test")))
            if not before and (line := doubts(*found[0])):
                reader.say(f"WARNING: {line}")
        return question.judged(
            protocol, *found[0], len(pair.train.classes or ()), device_of(reader.model), pair.about, reader.say
        )

    return ask


def _beside(found: list[Entry], before: list[Entry]) -> list[Entry]:
    """Judgements with those of the untrained network beside them."""
    return [dataclasses.replace(entry, baseline=old.top1) for entry, old in zip(found, before, strict=True)]


def _each(
    protocols: Sequence[str],
    ask: Callable[[str], list[Entry]],
    path: Path | None,
    say: Callable[[str], None],
    entries: list[Entry],
    errors: list[ValueError],
) -> None:
    """Asks one protocol after the other; says and records what each finds when it is found, and why it cannot."""
    for protocol in protocols:
        try:
            made = ask(protocol)
        except ValueError as error:
            say(f"{protocol}: not possible. {error}")
            errors.append(error)
            continue
        entries += made
        if path is not None:
            record(path, made)
        for each in made:
            say(each.line())


def evaluate_features(
    train: str | os.PathLike[str],
    test: str | os.PathLike[str] | None = None,
    *,
    protocols: Sequence[str] = ("knn", "linear"),
    seed: int = 0,
    seeds: int = 1,
    shares: Sequence[float] = SHARES,
    labels: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    say: Callable[[str], None] = _silent,
) -> list[Entry]:
    """Judges saved embeddings with labels: files as `save_features` writes them, of any encoder.

    Without `test` a class-balanced, seeded fifth of `train` is the test. The other arguments are those of `evaluate`.
    """
    question = _Question(protocols, seed, seeds, tuple(map(float, shares)), labels)
    question.check(FROZEN)
    first, second = _labelled(train), None if test is None else _labelled(test)
    if second is None:
        first, second = _split(first, seed)
        say(
            f"{train}: a fifth of each class, {counted(len(second.features), 'image')}, is the test; it is not "
            "trained on"
        )
    first, second = _with_one_list(first, second, test or train)
    assert first.labels is not None
    assert second.labels is not None
    if int(first.labels.min()) == int(first.labels.max()):
        raise ValueError(f"The images of {train} are of one class; there is nothing to tell apart.")
    for line in missing_classes(first.classes or (), first.labels, second.labels) if first.classes else ():
        say(f"WARNING: {line}")
    if line := doubts(first, second):
        say(f"WARNING: {line}")
    digests = [file_sha256(Path(file)) for file in (train, test) if file is not None]
    data = hashlib.sha256(" ".join(digests).encode()).hexdigest()
    about = About({"features": "given"}, "", data, os.fspath(train), os.fspath(test or train))
    entries: list[Entry] = []
    errors: list[ValueError] = []

    def ask(protocol: str) -> list[Entry]:
        return question.judged(protocol, first, second, len(first.classes) if first.classes else None, None, about, say)

    _each(protocols, ask, None if out is None else Path(out), say, entries, errors)
    if errors:
        raise errors[0]
    return entries


def _labelled(file: str | os.PathLike[str]) -> Features:
    found = load_features(file)
    if found.labels is None:
        raise ValueError(f"{file} holds no labels. Embed a folder with one sub-folder per class.")
    if found.classes is None:
        check_labels(int(found.labels.max()), len(found.labels))
    return found


def _split(found: Features, seed: int) -> tuple[Features, Features]:
    """Four fifths and a fifth of each class's images."""
    assert found.labels is not None
    test = hold_out(found.labels, 0.2, seed)

    def part(rows: Tensor) -> Features:
        assert found.labels is not None
        places = rows.nonzero()[:, 0]
        names = [found.names[i] for i in places.tolist()]
        return dataclasses.replace(
            found, features=found.features[places], labels=found.labels[places], names=names, index=found.index[places]
        )

    return part(~test), part(test)


def _with_one_list(train: Features, test: Features, file: str | os.PathLike[str]) -> tuple[Features, Features]:
    """Labels of two files as places in one list of class names; without names where one file has none."""
    if train.classes is None or test.classes is None:
        return dataclasses.replace(train, classes=None), dataclasses.replace(test, classes=None)
    if train.classes == test.classes:
        return train, test
    assert test.labels is not None
    known, own = ([*map(composed, names)] for names in (train.classes, test.classes))
    if strange := sorted({own[i] for i in test.labels.tolist()} - set(known)):
        raise ValueError(f"{file} has the class {shown(strange[0])}, which the training features do not have.")
    place = torch.tensor([known.index(name) if name in known else -1 for name in own])
    return train, dataclasses.replace(test, labels=place[test.labels], classes=train.classes)


def embed(
    encoder: Encoder,
    data: Data,
    *,
    out: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    pool: Pool = "pooled",
    batch_size: int = 256,
    workers: int = 0,
    keep: bool = True,
    encoder_backbone: str | None = None,
    say: Callable[[str], None] = _silent,
) -> Features:
    """Computes one feature vector per image and, with `out`, writes them to .npz, .parquet or .csv with the names.

    Where all images lie in class folders, or a Dataset has `targets`, labels are written, too. The arguments are those
    of `evaluate`; images that cannot be read are left out and listed in the result.
    """
    if out is not None:
        check_suffix(out)  # before the work, not after it
    source = open_maybe_labelled(data) if is_published(encoder) else None  # before it is fetched
    reader = Reader(
        encoder, image_size=image_size, pool=pool, batch_size=batch_size, workers=workers, keep=keep, say=say,
        backbone=encoder_backbone,
    )  # fmt: skip
    source = source or open_maybe_labelled(data, reader.model.channels, reader.model.alpha)
    found = reader.features(source, "images")
    if out is not None:
        save_features(out, found)
    return found


def label_free(
    encoder: Encoder, data: Data, *, images: int = VIEWED, image_size: int | None = None, seed: int = 0
) -> dict[str, float]:
    """Scores an encoder without labels, on the same images in the same two views for all encoders of one image size.

    To choose between short trainings of different settings or methods take the one with the highest `recognition`. It
    cannot order trainings of nearly equal k-NN accuracy, and knows nothing of your classes. docs/choosing.md has
    the measurements, and docs/results.md those of an older study, in which `retrieval` ranked SimCLR's settings best.

    Args:
        encoder: what `lookalike.load` takes, a loaded encoder, or a module of your own (with `image_size`).
        data: images without labels; broken ones are replaced.
        images: how many of them, drawn by `seed`. More of them make `retrieval` lower: compare it at equal numbers
            only. The expected `recognition` does not depend on how many they are.
        image_size: pixels of the views; without it the size that the encoder was made for.
        seed: of the draw and of the views, which are SimCLR's at that size.

    Returns:
        recognition, retrieval, retrieval_of_5 (among the five nearest), alignment, uniformity, spread and
        effective_rank (RankMe), as in `lookalike.label_free`.

    Raises:
        ValueError, FileNotFoundError: an encoder or images that cannot be used, or fewer than two images.
    """
    model = opened(encoder, image_size)
    source = open_source(data, channels=model.channels, alpha=model.alpha)
    count = min(images, len(source))
    if count < 2:
        raise ValueError(f"{counted(count, 'image')} cannot be told apart from others. Give at least 2, better 1,000.")
    size, device = image_size or model.image_size, device_of(model)
    paper = SimCLR.Config(views=resized(SimCLR.Config().views, size))
    views = SimCLR.fit_to(paper, DataFacts(count, size)).views
    count, group = _whole_groups(count), min(count, 100)
    places = permutation(len(source), seed, "label-free")[:count].tolist()
    made: list[list[torch.Tensor]] = [[], []]
    for batch in Loader(Subset(source, places), group, seed, decode_size=2 * size, max_broken=1.0):
        batch = batch.to(device)
        pair = make_views(batch, views, batch.keys, mean=model.mean, std=model.std)
        with evaluating(model), torch.inference_mode():
            for side, x in zip(made, pair, strict=True):
                side.append(model(x).float().cpu())
    a, b = (torch.cat(side) for side in made)
    return {
        "recognition": recognition(a, b), "retrieval": retrieval(a, b), "retrieval_of_5": retrieval(a, b, 5),
        "alignment": alignment(a, b), "uniformity": uniformity(a), "spread": spread(a),
        "effective_rank": effective_rank(a),
    }  # fmt: skip


def _whole_groups(images: int) -> int:
    """How many of so many images are viewed: the loader makes whole batches only."""
    return images - images % min(images, 100)


def _label_free(pair: _Pair, reader: Reader, seed: int) -> Entry:
    began, about = time.perf_counter(), pair.about
    found = label_free(reader.model, pair.test_data, image_size=reader.size, seed=seed)
    used = _whole_groups(min(VIEWED, len(pair.test)))
    return Entry(
        protocol="label-free",
        top1=found["retrieval"],  # and not recognition, so that files of older versions compare
        top5=found["retrieval_of_5"],
        interval=interval(found["retrieval"], used, seed),
        settings={"image_size": reader.size, "views": "SimCLR's, two of each image"},
        train_images=0,
        test_images=used,
        classes=0,
        encoder_sha256=about.encoder_sha256,
        data_fingerprint=about.data_fingerprint,
        seed=seed,
        seconds=round(time.perf_counter() - began, 3),
        date=now(),
        history=[],
        train=about.train,
        test=about.test,
        measures=found,
    )


def _trained(protocol: str, pair: _Pair, reader: Reader, question: _Question) -> list[Entry]:
    """Trains classifiers on images, each from the same encoder, and judges them; one entry for each set of labels."""
    if protocol != "semi-finetune":
        return [_trained_on(protocol, [None] * question.seeds, {}, pair, reader, question)]
    assert pair.train.labels is not None
    if question.labels is not None:
        rows = listed(question.labels, [pair.train.name(i) for i in range(len(pair.train))])
        about: dict[str, object] = {"how": "finetune", "list_sha256": file_sha256(Path(question.labels))}
        return [_trained_on(protocol, [rows] * question.seeds, about, pair, reader, question)]
    entries = []
    for share in question.shares:
        draws = [drawn(pair.train.labels, share, question.seed, n) for n in range(question.seeds)]  # those of `semi`
        about = {"how": "finetune", "share": share}
        entries.append(_trained_on(protocol, draws, about, pair, reader, question))
    return entries


def _trained_on(
    protocol: str, rows: Sequence[Tensor | None], more: Mapping[str, object], pair: _Pair, reader: Reader,
    question: _Question,
) -> Entry:  # fmt: skip
    """Trains on each of some sets of rows (all where None), with a seed of its own."""
    from .evaluate_trained import trained_scores  # with Lightning, which the other protocols do not need

    began = time.perf_counter()
    made = [
        trained_scores(
            reader.model, pair.train, pair.test, frozen=protocol == "linear-augmented", epochs=question.epochs,
            rows=each, seed=question.seed + n, batch_size=reader.batch_size, workers=reader.workers,
            image_size=reader.size, say=reader.say,
        )
        for n, each in enumerate(rows)
    ]  # fmt: skip
    first, several = made[0], {"seeds": question.seeds} if question.seeds > 1 else {}
    return entry(
        "semi" if protocol == "semi-finetune" else protocol,
        [measures(each.scores.double().softmax(1), each.labels) for each in made], first.labels,
        train_images=first.train_images, classes=pair.train.classes or (),
        settings={**first.settings, **more, **several}, history=first.history, seed=question.seed,
        seconds=time.perf_counter() - began, about=dataclasses.replace(pair.about, made={}),
    )  # fmt: skip
