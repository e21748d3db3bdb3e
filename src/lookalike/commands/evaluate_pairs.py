"""Evaluation of an encoder on pairs of labelled training and test images, protocol by protocol."""

import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..data import Data, Source, only_chosen
from ..data.labelled import name_of, open_pair, same_folder
from ..data.splits import Split, open_split, shared_groups
from ..evaluation.extractor import Encoder, Extractor, check_known
from ..evaluation.features import Features, device_of, fingerprint
from ..evaluation.few_labels import draw_rows, listed_rows
from ..evaluation.label_checks import label_warning, missing_classes
from ..evaluation.metrics import classification_metrics, interval
from ..evaluation.protocol_table import FROZEN, LABEL_FREE, PROTOCOLS, TRAINED, FeaturePrecision, Pool
from ..evaluation.protocols import About, entry, now
from ..evaluation.records import Entry
from ..files import file_sha256
from ..image_options import Pixels
from ..places import is_published, refuse_folder
from ..runs import Folder
from .evaluate_label_free import VIEWED, images_viewed, label_free
from .evaluation_request import Reading, Request, Results


def evaluate_pairs(
    data: Sequence[tuple[Data, Data | None]],
    request: Request,
    reading: Reading,
    *,
    encoder: Encoder,
    image_size: int | None,
    pool: Pool,
    precision: FeaturePrecision | None,
    batch_size: int,
    workers: int,
    keep: bool,
    out: str | os.PathLike[str] | None,
    encoder_backbone: str | None,
    baseline: bool,
    say: Callable[[str], None],
) -> list[Entry]:
    """Evaluates an encoder on pairs of train and test; the arguments are those of `evaluate`."""
    request.check(PROTOCOLS)
    results = Results(_record_of(encoder, out), say)
    if pool != "pooled" and (others := [p for p in request.protocols if p not in FROZEN]):
        raise ValueError(f"{others[0]} uses the encoder's output, but pool is {pool!r}. Leave one of them out.")
    later = dataclasses.replace(reading, holdout=None, only=None)
    asked = [(*pair, later if n else reading) for n, pair in enumerate(data)]
    opened = [_open_pair(*each, Pixels()) for each in asked] if is_published(encoder) else []  # before a download
    extractor = Extractor(
        encoder, image_size=image_size, pool=pool, batch_size=batch_size, workers=workers, keep=keep, say=say,
        backbone=encoder_backbone, precision=precision,
    )  # fmt: skip
    if baseline:
        check_known(extractor.model)
    opened = opened or [_open_pair(*each, extractor.model.pixels) for each in asked]
    pairs = [_pair(*each, split, extractor) for each, split in zip(data, opened, strict=True)]
    for pair in pairs:
        if len(pairs) > 1:
            say(f"{pair.about.train}, {pair.about.test}:")
        _evaluate_pair(pair, extractor, request, results, baseline)
    return results.checked()


def _record_of(encoder: Encoder, out: str | os.PathLike[str] | None) -> Path | None:
    """The file for the results: `out`, or that of the run folder."""
    path = None if out is None else Path(out)
    if path is None and isinstance(encoder, str | os.PathLike) and os.path.isdir(encoder):
        path = Folder(encoder).evaluation
    if path is not None:
        refuse_folder(path, "evaluation.json")
    return path


@dataclass(frozen=True)
class _Pair:
    """Training and test images, and the facts that are recorded about them."""

    train: Source
    test: Source
    about: About


def _open_pair(train: Data, test: Data | None, reading: Reading, pixels: Pixels) -> Split:
    """Opens the labelled images of a pair, with the classes of the first; without TEST, splits TRAIN."""
    if test is None:
        found = open_split(
            train, pixels=pixels, columns=reading.columns, multi_label=reading.multi_label, only=reading.only,
            holdout=reading.holdout, seed=reading.seed, tiling=reading.tiling,
        )  # fmt: skip
    else:
        first, second = open_pair(
            train, test, pixels=pixels, columns=reading.columns, multi_label=reading.multi_label, tiling=reading.tiling
        )
        found = Split(first if reading.only is None else only_chosen(first, reading.only), second, {}, "")
    classes = found.train.classes
    assert classes is not None
    if len(classes) < 2 and not reading.multi_label:
        raise ValueError(f"{name_of(train)} has only one class, {classes[0]!r}. Give at least two.")
    return found


def _pair(train: Data, test: Data | None, split: Split, extractor: Extractor) -> _Pair:
    """A pair with the facts that are recorded about it; warns if both are the same, or have images of one group."""
    if split.line:
        extractor.say(split.line)
    if test is not None and same_folder(train, test):
        extractor.say(
            "WARNING: TRAIN and TEST are the same folder: each image is its own neighbour, and accuracies are "
            "meaningless."
        )
    if line := shared_groups(split.train, split.test):
        extractor.say(f"WARNING: {line}")
    about = About(
        extractor.made, extractor.encoder_sha256, fingerprint(split.train, split.test), name_of(train),
        name_of(train if test is None else test), split.about,
    )  # fmt: skip
    return _Pair(split.train, split.test, about)


def _evaluate_pair(
    pair: _Pair, extractor: Extractor, request: Request, results: Results, baseline: bool = False
) -> None:
    """Evaluates on one pair; with `baseline` also the untrained network."""
    for line in missing_classes(pair.train.classes or (), _labels_of(pair.train), _labels_of(pair.test)):
        extractor.say(f"WARNING: {line}")
    run = _protocol_runner(pair, extractor, request)
    if baseline:
        before = _protocol_runner(pair, extractor.untrained(pair.train, request.seed), request, "untrained, ")
        results.collect(request.protocols, lambda protocol: _with_baselines(run(protocol), before(protocol)))
    else:
        results.collect(request.protocols, run)


def _labels_of(source: Source) -> Tensor:
    """The classes of all images, one after the other; an image may have several."""
    if source.label_sets is not None:
        return source.label_sets.nonzero()[:, 1]
    assert source.labels is not None
    return source.labels


def _protocol_runner(
    pair: _Pair, extractor: Extractor, request: Request, before: str = ""
) -> Callable[[str], list[Entry]]:
    """A function that runs a protocol on a pair; features are computed when first needed."""
    found: list[tuple[Features, Features]] = []

    def run(protocol: str) -> list[Entry]:
        if protocol in TRAINED:
            return _trained_entries(protocol, pair, extractor, request)
        if protocol in LABEL_FREE:
            return [_label_free_entry(pair, extractor, request.seed)]
        if not found:
            train = extractor.features(pair.train, f"{before}train")
            found.append((train, extractor.features(pair.test, f"{before}test")))
            if not before and (line := label_warning(*found[0])):
                extractor.say(f"WARNING: {line}")
        return request.run(
            protocol, *found[0], len(pair.train.classes or ()), device_of(extractor.model), pair.about, extractor.say
        )

    return run


def _with_baselines(found: list[Entry], before: list[Entry]) -> list[Entry]:
    """Entries with the accuracy of the untrained network added."""
    return [dataclasses.replace(entry, baseline=old.top1) for entry, old in zip(found, before, strict=True)]


def _label_free_entry(pair: _Pair, extractor: Extractor, seed: int) -> Entry:
    began, about = time.perf_counter(), pair.about
    found = label_free(extractor.model, pair.test, image_size=extractor.size, seed=seed)
    used = images_viewed(min(VIEWED, len(pair.test)))
    return Entry(
        protocol="label-free",
        top1=found["view_retrieval"],  # not pair_auc, for comparison with files of older versions
        top5=found["view_retrieval_of_5"],
        interval=interval(found["view_retrieval"], used),
        settings={"image_size": extractor.size, "views": "SimCLR's, two of each image"},
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
        split=dict(about.split),
    )


def _trained_entries(protocol: str, pair: _Pair, extractor: Extractor, request: Request) -> list[Entry]:
    """Trains classifiers on images, all from the same encoder, and evaluates them; one entry per set of labels."""
    if protocol != "semi-finetune":
        return [_trained_entry(protocol, [None] * request.seeds, {}, pair, extractor, request)]
    assert pair.train.labels is not None
    if request.labels is not None:
        rows = listed_rows(request.labels, [pair.train.name(i) for i in range(len(pair.train))])
        about: dict[str, object] = {"how": "finetune", "list_sha256": file_sha256(Path(request.labels))}
        return [_trained_entry(protocol, [rows] * request.seeds, about, pair, extractor, request)]
    entries = []
    for share in request.shares:
        draws = [draw_rows(pair.train.labels, share, request.seed, n) for n in range(request.seeds)]  # as in `semi`
        about = {"how": "finetune", "share": share}
        entries.append(_trained_entry(protocol, draws, about, pair, extractor, request))
    return entries


def _trained_entry(
    protocol: str, rows: Sequence[Tensor | None], more: Mapping[str, object], pair: _Pair, extractor: Extractor,
    request: Request,
) -> Entry:  # fmt: skip
    """Trains once per set of rows (None: all rows), each with its own seed."""
    from .evaluate_trained import trained_scores  # imports Lightning, which the other protocols do not need

    began = time.perf_counter()
    trained = [
        trained_scores(
            extractor.model, pair.train, pair.test, frozen=protocol == "linear-augmented", epochs=request.epochs,
            rows=each, seed=request.seed + n, batch_size=extractor.batch_size, workers=extractor.workers,
            image_size=extractor.size, say=extractor.say,
        )
        for n, each in enumerate(rows)
    ]  # fmt: skip
    first, several = trained[0], {"seeds": request.seeds} if request.seeds > 1 else {}
    return entry(
        "semi" if protocol == "semi-finetune" else protocol,
        [classification_metrics(each.scores.double().softmax(1), each.labels) for each in trained], first.labels,
        train_images=first.train_images, classes=pair.train.classes or (),
        settings={**first.settings, **more, **several}, history=first.history, seed=request.seed,
        seconds=time.perf_counter() - began, about=dataclasses.replace(pair.about, made={}),
    )  # fmt: skip
