"""From an encoder and folders of images to judgements and embeddings: what the commands `evaluate` and `embed` do."""

import dataclasses
import hashlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from .. import backbones, encoders
from ..backbones import Backbone
from ..data import Loader, Source, Subset, open_maybe_labelled, open_source
from ..methods.simclr import SimCLR
from ..random import permutation
from ..runs import Folder
from ..views import make_views, resized
from .doubts import missing_classes, shuffled, swapped
from .features import Features, device_of, evaluating, features, fingerprint, load_features, save_features
from .keeping import Kept
from .labelfree import alignment, effective_rank, retrieval, spread, uniformity
from .linear import hold_out
from .measures import interval, measures
from .protocols import FROZEN, About, Few, entry, judge, now
from .records import Entry, record
from .semi import SHARES, listed

LABEL_FREE = {"label-free": "scores that need no labels; of them `retrieval` ranks encoders most as k-NN does"}
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

Data = str | os.PathLike[str] | Dataset[object]
Encoder = str | os.PathLike[str] | nn.Module
"""What `lookalike.load` takes, a loaded encoder, or a module of the user's, images (B, C, H, W) to features (B, D)."""
Pool = Literal["pooled", "average", "class+average", "last4"]
"""What stands for an image: what the encoder gives (a ViT's class token, a CNN's pooled map), the average of its patch
tokens, the first beside the second, or the class tokens of the last four blocks side by side."""


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
        pool: what stands for an image, see `Pool`.
        batch_size: images per forward pass; it does not change the result.
        workers: processes that decode.
        seed: of all that is drawn: initial weights, order and held-out part, few labels, and the intervals.
        seeds: how often what is trained is trained (`linear`, and the protocols of `TRAINED`), from `seed` on.
        shares: of each class's labels, for `semi` and `semi-finetune`.
        labels: text file of the images of `train` that keep their labels for these, in the place of shares.
        epochs: of the protocols of `TRAINED`.
        keep: features of a run's encoder stay in its folder, and are used again.
        out: file for the results; without it `evaluation.json` in the run's folder, where `encoder` is one.
        say: called with lines for the user.

    Raises:
        ValueError, FileNotFoundError: encoder, folders, classes or protocols that cannot be used.
    """
    _check_protocols(protocols, PROTOCOLS)
    path = None if out is None else Path(out)
    folder = Folder(encoder) if isinstance(encoder, str | os.PathLike) and os.path.isdir(encoder) else None
    if path is None and folder is not None:
        path = folder.evaluation
    if path is not None and path.is_dir():
        raise ValueError(f"--out {path} is a folder. Give a file, such as {path / 'evaluation.json'}.")
    _check(batch_size, image_size)
    model = opened(encoder, image_size)
    pairs = [_pair(a, b, model.channels, say) for a, b in ((train, test), *also)]
    reader = Reader(encoder, model, image_size, pool, batch_size, workers, keep, say)
    question = _Question(seed, seeds, tuple(shares), labels, epochs)
    entries = []
    for pair in pairs:
        if len(pairs) > 1:
            say(f"{pair.about(reader).train}, {pair.about(reader).test}:")
        entries += _judged(protocols, pair, reader, question, path)
    return entries


@dataclass(frozen=True)
class _Question:
    """What is asked beside the protocols; the fields are arguments of `evaluate`."""

    seed: int
    seeds: int
    shares: tuple[float, ...]
    labels: str | os.PathLike[str] | None
    epochs: int


@dataclass(frozen=True)
class _Pair:
    """Two sets of labelled images, as they were named and as they were opened."""

    named: tuple[Data, Data]
    train: Source
    test: Source

    def about(self, reader: "Reader") -> About:
        names = [os.fspath(d) if isinstance(d, str | os.PathLike) else f"<{type(d).__name__}>" for d in self.named]
        return About(reader.made, reader.encoder_sha256, fingerprint(self.train, self.test), *names)


def _judged(
    protocols: Sequence[str], pair: _Pair, reader: "Reader", question: _Question, path: Path | None
) -> list[Entry]:
    """Judges on one pair, and records each judgement when it is made."""
    about, say = pair.about(reader), reader.say
    found: tuple[Features, Features] | None = None
    entries: list[Entry] = []
    for protocol in protocols:
        if protocol in FROZEN and found is None:
            found = reader.features(pair.train, "train"), reader.features(pair.test, "test")
            for line in missing_classes(*found):
                say(f"WARNING: {line}")
        say(f"{protocol}: judging")
        if protocol in TRAINED:
            made = _trained(protocol, pair, reader, about, question)
        elif protocol in LABEL_FREE:
            made = [_label_free(pair, reader, about, question.seed)]
        else:
            assert found is not None
            labels = question.labels
            made = judge(
                protocol, *found, len(pair.train.classes or ()), question.seed, device_of(reader.model), about=about,
                seeds=question.seeds, few=Few(question.shares) if labels is None else _listed(labels, found[0].names),
                progress=_counting(say, f"{protocol}: ", "test images"),
            )  # fmt: skip
        entries += made
        if path is not None:
            record(path, made)
    if found is not None:
        for line in _doubts(*found, entries):
            say(f"WARNING: {line}")
    return entries


def _counting(say: Callable[[str], None], before: str, of: str, last: bool = False) -> Callable[[int, int], None]:
    """Says how far something is, ten seconds after it was said last; in the end where it took so long, or if `last`."""
    began = shown = time.perf_counter()

    def progress(done: int, total: int) -> None:
        nonlocal shown
        now = time.perf_counter()
        if now - shown > 10 or (done == total and (last or shown > began)):
            shown = now
            rate = done / (now - began)
            left = f", {(total - done) / rate:.0f} s left" if done < total else ""
            say(f"{before}{done} of {total} {of}, {rate:.0f} images/s{left}")

    return progress


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
    _check_protocols(protocols, FROZEN)
    first = load_features(train)
    if first.labels is None:
        raise ValueError(f"{train} holds no labels. Embed a folder with one sub-folder per class.")
    if test is None:
        first, second = _split(first, seed)
        say(f"{train}: a fifth of each class, {len(second.features)} images, is the test; it is not trained on")
    else:
        second = load_features(test)
        if second.labels is None:
            raise ValueError(f"{test} holds no labels. Embed a folder with one sub-folder per class.")
        second = _renamed(second, first.classes, test)
    for line in missing_classes(first, second):
        say(f"WARNING: {line}")
    digests = [encoders.file_sha256(Path(file)) for file in (train, test) if file is not None]
    data = hashlib.sha256(" ".join(digests).encode()).hexdigest()
    about = About({"features": "given"}, "", data, os.fspath(train), os.fspath(test or train))
    few = Few(tuple(shares)) if labels is None else _listed(labels, first.names)
    entries = []
    for protocol in protocols:
        say(f"{protocol}: judging")
        made = judge(protocol, first, second, None, seed, None, about=about, seeds=seeds, few=few)
        entries += made
        if out is not None:
            record(Path(out), made)
    for line in _doubts(first, second, entries):
        say(f"WARNING: {line}")
    return entries


class Reader:
    """Features of one encoder's, computed once per set of images and kept in its run's folder, where it has one."""

    def __init__(
        self,
        encoder: Encoder,
        model: Backbone,
        image_size: int | None,
        pool: Pool,
        batch_size: int,
        workers: int,
        keep: bool,
        say: Callable[[str], None],
    ) -> None:
        if pool not in get_args(Pool):
            raise ValueError(f"Nothing pools as {pool!r}. Choose from {', '.join(get_args(Pool))}.")
        self.model = model
        self.size = image_size or model.image_size
        model.check_size(self.size)
        self.part = model if pool == "pooled" else _Part(model, pool)
        self.made = made_at(self.size, pool)
        self.batch_size, self.workers, self.say = batch_size, workers, say
        self.encoder_sha256 = _sha256(encoder, model)
        self.kept: Kept | None = None
        if keep and isinstance(encoder, str | os.PathLike) and os.path.isdir(encoder):
            self.kept = Kept(Folder(encoder).features, self.encoder_sha256)

    def features(self, source: Source, what: str) -> Features:
        """The features of a source's images, which the lines call `what`."""
        if self.kept is not None and (there := self.kept.find(source, self.made)) is not None:
            self.say(f"{what}: features of {len(there.features)} images, computed before")
            self._left_out(there)
            return there
        found = self._computed(source, what)
        if self.kept is not None:
            try:
                self.kept.keep(source, self.made, found)
            except OSError as error:
                self.say(f"{what}: the features are not kept. {error}")
        return found

    def _computed(self, source: Source, what: str) -> Features:
        counting = _counting(self.say, f"{what}: features of ", f"images at {self.size} px", last=True)
        found = features(
            self.part, source, image_size=self.size, mean=self.model.mean, std=self.model.std,
            batch_size=self.batch_size, workers=self.workers, progress=counting,
        )  # fmt: skip
        self._left_out(found)
        return found

    def _left_out(self, found: Features) -> None:
        for name, reason in found.broken[:10]:
            print(f"left out {name}: {reason}", file=sys.stderr)


class _Part(nn.Module):
    """An encoder whose feature is another part of what it computes."""

    def __init__(self, model: Backbone, pool: Pool) -> None:
        super().__init__()
        self.model, self.pool = model, pool

    def forward(self, x: Tensor) -> Tensor:
        if self.pool == "last4":
            return self.model.class_tokens(x, 4)
        tokens = self.model.tokens(x)
        average = tokens.patches.mean(1)
        return average if self.pool == "average" else torch.cat([tokens.cls, average], 1)


def made_at(image_size: int, pool: Pool = "pooled") -> dict[str, object]:
    """How `features` makes them at a size, as it stands in `Entry.settings`."""
    return {"image_size": image_size, "crop": "256/224 centre", "features": pool}


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
    say: Callable[[str], None] = _silent,
) -> Features:
    """Computes one feature vector per image and, with `out`, writes them to .npz, .parquet or .csv with the names.

    Where all images lie in class folders, or a Dataset has `targets`, labels are written, too. The arguments are those
    of `evaluate`; images that cannot be read are left out and listed in the result.
    """
    if out is not None and Path(out).suffix.lower() not in (".npz", ".parquet", ".csv"):
        raise ValueError(f"{out} must end in .npz, .parquet or .csv.")  # before the work, not after it
    _check(batch_size, image_size)
    model = opened(encoder, image_size)
    source = open_maybe_labelled(data, model.channels)
    found = Reader(encoder, model, image_size, pool, batch_size, workers, keep, say).features(source, "images")
    if out is not None:
        save_features(out, found)
    return found


def label_free(encoder: Encoder, data: Data, *, images: int = VIEWED, seed: int = 0) -> dict[str, float]:
    """Scores an encoder without labels, on the same images in the same two views for all encoders of one image size.

    To choose between trainings that saw the same views take the one with the highest `retrieval`; docs/results.md says
    how well that ranks them, where it misleads, and that the other figures do not rank.

    Args:
        encoder: what `lookalike.load` takes, or a loaded encoder.
        data: images without labels; broken ones are replaced.
        images: how many of them, drawn by `seed`. `retrieval` depends on it: compare at equal numbers only.
        seed: of the draw and of the views, which are SimCLR's at the encoder's size.

    Returns:
        retrieval, retrieval_of_5 (among the five nearest), alignment, uniformity, spread and effective_rank (RankMe),
        as in `lookalike.evaluation.labelfree`.

    Raises:
        ValueError, FileNotFoundError: an encoder or images that cannot be used, or fewer than two images.
    """
    model = opened(encoder)
    source = open_source(data, channels=model.channels)
    count = min(images, len(source))
    if count < 2:
        raise ValueError(f"{count} image cannot be told apart from others. Give at least 2, better 1,000.")
    size, device = model.image_size, device_of(model)
    paper = SimCLR.Config(views=resized(SimCLR.Config().views, size))
    views = SimCLR.fit_to(paper, count, size).views
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
        "retrieval": retrieval(a, b), "retrieval_of_5": retrieval(a, b, 5), "alignment": alignment(a, b),
        "uniformity": uniformity(a), "spread": spread(a), "effective_rank": effective_rank(a),
    }  # fmt: skip


def _whole_groups(images: int) -> int:
    """How many of so many images are viewed: the loader makes whole batches only."""
    return images - images % min(images, 100)


def _check(batch_size: int, image_size: int | None) -> None:
    if batch_size < 1 or (image_size is not None and image_size < 1):
        raise ValueError(f"batch_size is {batch_size} and image_size {image_size}; both are at least 1.")


def _sha256(encoder: Encoder, model: Backbone) -> str:
    """Of the weights file, as `encoder.json` and `sha256sum` say; of the tensors where there is no file."""
    if not isinstance(encoder, str | os.PathLike) or not os.path.exists(encoder):
        return encoders.sha256(model)
    return encoders.file_sha256(Folder(encoder).weights if os.path.isdir(encoder) else Path(encoder))


def opened(encoder: Encoder, image_size: int | None = None) -> Backbone:
    """An encoder, loaded unless it is, on the GPU where there is one.

    Raises:
        ValueError: a module of the user's, and no `image_size` that it is for.
    """
    if not isinstance(encoder, nn.Module):
        model = encoders.load(encoder)
    elif isinstance(encoder, Backbone):
        model = encoder
    elif image_size is None:
        raise ValueError(
            f"{type(encoder).__qualname__} is a module of your own and does not say which images it is for. Give "
            "image_size; for other than 3 channels, lookalike.backbones.create(module, channels=..., image_size=...)."
        )
    else:
        model = backbones.create(encoder, image_size=image_size).eval()
    return model.to(device="cuda" if torch.cuda.is_available() else "cpu", memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _trained(protocol: str, pair: _Pair, reader: "Reader", about: About, question: _Question) -> list[Entry]:
    """Trains classifiers on images, each from the same encoder, and judges them; one entry for each set of labels."""
    portions: list[tuple[float | None, Few | None]] = [(None, None)]
    if protocol == "semi-finetune" and question.labels is not None:
        portions = [(None, _listed(question.labels, [pair.train.name(i) for i in range(len(pair.train))]))]
    elif protocol == "semi-finetune":
        portions = [(share, None) for share in question.shares]
    return [_trained_on(protocol, pair, share, few, reader, about, question) for share, few in portions]


def _trained_on(
    protocol: str, pair: _Pair, share: float | None, few: Few | None, reader: "Reader", about: About,
    question: _Question,
) -> Entry:  # fmt: skip
    from .trained import trained_scores  # which imports this package

    began = time.perf_counter()
    made = [
        trained_scores(
            reader.model, pair.train, pair.test, frozen=protocol == "linear-augmented", epochs=question.epochs,
            share=share, rows=None if few is None else few.rows, draw=n, seed=question.seed + n,
            batch_size=reader.batch_size, workers=reader.workers, image_size=reader.size, say=reader.say,
        )
        for n in range(question.seeds)
    ]  # fmt: skip
    first = made[0]
    settings = dict(first.settings)
    if question.seeds > 1:
        settings["seeds"] = question.seeds
    if few is not None:
        settings["list_sha256"] = few.sha256
    return entry(
        "semi" if protocol == "semi-finetune" else protocol,
        [measures(each.scores.double().softmax(1), each.labels) for each in made], first.labels,
        train_images=first.train_images, classes=pair.train.classes or (), settings=settings, history=first.history,
        seed=question.seed, seconds=time.perf_counter() - began, about=dataclasses.replace(about, made={}),
    )  # fmt: skip


def _check_protocols(asked: Sequence[str], known: Sequence[str] | dict[str, str]) -> None:
    if not asked:
        raise ValueError(f"No protocol was asked for. Choose from {', '.join(known)}.")
    for name in asked:
        if name not in known:
            raise ValueError(f"There is no protocol {name!r} here. Choose from {', '.join(known)}.")


def _pair(train: Data, test: Data, channels: int, say: Callable[[str], None]) -> _Pair:
    """The labelled images of a pair, with the classes of the first."""
    first = open_source(train, channels=channels, labelled=True)
    second = open_source(test, channels=channels, labelled=True, classes=first.classes)
    assert first.classes is not None
    if len(first.classes) < 2:
        raise ValueError(
            f"{train} has one class, {first.classes[0]!r}; there is nothing to tell apart. Give two or more."
        )
    if (
        isinstance(train, str | os.PathLike)
        and isinstance(test, str | os.PathLike)
        and os.path.realpath(train) == os.path.realpath(test)
    ):
        say("WARNING: TRAIN and TEST are the same folder; each image finds itself, and the figures say nothing.")
    return _Pair((train, test), first, second)


def _listed(labels: str | os.PathLike[str], names: Sequence[str]) -> Few:
    return Few(rows=listed(labels, names), sha256=encoders.file_sha256(Path(labels)))


def _doubts(train: Features, test: Features, entries: Sequence[Entry]) -> list[str]:
    """What is wrong with the labels, as far as the first classifier tells."""
    judged = next((e for e in entries if e.confusion), None)
    if judged is None:
        return []
    lines = swapped(judged.confusion, judged.class_names), shuffled(train, test, judged.top1)
    return [line for line in lines if line][:1]


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


def _renamed(test: Features, classes: tuple[str, ...] | None, file: str | os.PathLike[str]) -> Features:
    """Labels of a file as places in the class names of another."""
    if classes is None or test.classes is None or classes == test.classes:
        return test
    assert test.labels is not None
    if strange := sorted({test.classes[i] for i in test.labels.tolist()} - set(classes)):
        raise ValueError(f"{file} has the class {strange[0]!r}, which the training features do not have.")
    place = torch.tensor([classes.index(name) if name in classes else -1 for name in test.classes])
    return dataclasses.replace(test, labels=place[test.labels], classes=classes)


def _label_free(pair: _Pair, reader: "Reader", about: About, seed: int) -> Entry:
    began = time.perf_counter()
    model, used = reader.model, _whole_groups(min(VIEWED, len(pair.test)))
    found = label_free(model, pair.named[1], seed=seed)
    return Entry(
        protocol="label-free",
        top1=found["retrieval"],
        top5=found["retrieval_of_5"],
        interval=interval(found["retrieval"], used, seed),
        settings={"image_size": model.image_size, "views": "SimCLR's, two of each image"},
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
