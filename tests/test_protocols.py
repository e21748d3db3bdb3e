"""What the protocols report beside an accuracy, the new protocols, kept features, saved features, doubtful labels."""

import dataclasses
import itertools
import json
import os
import re
import shutil
import threading
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from lookalike import backbones, cli, encoders, training
from lookalike.backbones import Backbone
from lookalike.cli.encoders import EVALUATE
from lookalike.commands.show import show
from lookalike.data import open_source
from lookalike.evaluation import (
    FROZEN,
    PROTOCOLS,
    Entry,
    Features,
    Few,
    classification_metrics,
    embed,
    evaluate,
    evaluate_features,
    interval,
    interval_of_draws,
    knn,
    label_free,
    load_features,
    logistic,
    record,
    retrieve,
    run_protocol,
    save_features,
)
from lookalike.evaluation.extractor import Extractor, untrained
from lookalike.evaluation.few_labels import draw_rows, listed_rows
from lookalike.evaluation.label_checks import label_warning, missing_classes, swapped
from lookalike.evaluation.linear import DINOV2, Settings, _train
from lookalike.evaluation.logistic import PENALTIES
from lookalike.evaluation.metrics import pooled
from lookalike.evaluation.neighbours import tied
from lookalike.evaluation.retrieval import RANKS, _expected
from lookalike.methods.simclr import SimCLR
from lookalike.runs import Folder, Run

NAMES = ("ant", "bee", "cat", "dog")


def blobs(n: int, noise: float, seed: int, classes: int = 4, dim: int = 8) -> Features:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    features = torch.eye(classes, dim)[labels] + noise * torch.randn(n, dim, generator=generator)
    return Features(features, labels, [f"{NAMES[y]}/{i}.jpg" for i, y in enumerate(labels.tolist())],
                    torch.arange(n), [], NAMES[:classes])  # fmt: skip


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A linear probe of few steps."""
    short = Settings(rates=(0.5, 1.0), least_steps=60, epochs=1, batch_size=64)
    monkeypatch.setattr("lookalike.evaluation.protocols.DINOV2", short)


# ---------------------------------------------------------------- measures


def slow_measures(shares: list[list[float]], labels: list[int]) -> tuple[float, list[float | None], dict, float]:
    classes = len(shares[0])
    right, confusion = [], {}
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(shares, labels):
        predicted = row.index(max(row))
        right.append(predicted == label)
        confusion[label, predicted] = confusion.get((label, predicted), 0) + 1
        place = next(b for b in range(15) if max(row) <= (b + 1) / 15 or b == 14)
        bins.setdefault(place, []).append((max(row), predicted == label))
    per_class = []
    for c in range(classes):
        own = [r for r, label in zip(right, labels) if label == c]
        per_class.append(sum(own) / len(own) if own else None)
    ece = 0.0
    for rows in bins.values():
        ece += abs(sum(c for c, _ in rows) - sum(r for _, r in rows)) / len(labels)
    return sum(right) / len(right), per_class, confusion, ece


@given(st.integers(1, 60), st.integers(2, 6), st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_measures_meet_a_slow_loop(n: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shares = torch.randn(n, classes, generator=generator, dtype=torch.float64).mul(2).softmax(1)
    labels = torch.randint(classes, (n,), generator=generator)
    found = classification_metrics(shares, labels)
    top1, per_class, confusion, ece = slow_measures(shares.tolist(), labels.tolist())
    assert found.top1 == pytest.approx(top1)
    assert found.per_class == pytest.approx(per_class)
    assert {(a, b): n for a, b, n in found.confusion} == confusion
    assert found.ece == pytest.approx(ece, abs=1e-9)
    assert sum(n for _, _, n in found.bins) == n


def test_a_row_that_is_no_number_is_wrong() -> None:
    shares = torch.tensor([[0.9, 0.1], [float("nan"), 0.5]])
    found = classification_metrics(shares, torch.tensor([0, 0]))
    assert (found.top1, found.per_class, found.confusion) == (0.5, [0.5, None], [[0, 0, 1]])


@pytest.mark.parametrize("labels", [torch.tensor([0, 2]), torch.tensor([0, -1]), torch.tensor([0])])
def test_measures_refuse_labels_that_do_not_fit(labels: Tensor) -> None:
    with pytest.raises(ValueError, match="expected"):
        classification_metrics(torch.full((2, 2), 0.5), labels)


def test_several_draws_are_pooled() -> None:
    labels = torch.tensor([0, 0, 1])
    one = classification_metrics(torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]), labels)
    two = classification_metrics(torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), labels)
    both = pooled([one, two])
    assert both.top1 == pytest.approx((1 + 1 / 3) / 2)
    assert both.per_class == [0.75, 0.5]
    assert both.confusion == [[0, 0, 3], [0, 1, 1], [1, 0, 1], [1, 1, 1]]
    assert sum(n for *_, n in both.bins) == 6
    assert pooled([one]) == one


def test_an_interval_covers_draws_and_images() -> None:
    assert interval_of_draws([0.7] * 5, 1000, 0) == interval(0.7, 1000)  # nothing but the images differs
    assert interval_of_draws([0.5], 100, 3) == interval(0.5, 100)
    low, high = interval_of_draws([0.6, 0.7, 0.8], 10**6, 0)
    # Student's t of two degrees of freedom, times 0.1 / sqrt(3)
    assert (high - low) / 2 == pytest.approx(4.303 * 0.1 / 3**0.5, rel=0.1)


@pytest.mark.parametrize("draws", [2, 3, 10])
def test_intervals_hold_the_truth_in_95_of_100_cases(draws: int) -> None:
    random = np.random.default_rng(draws)
    inside = 0
    for case in range(300):
        found = 0.6 + 0.02 * random.standard_normal(draws)
        low, high = interval_of_draws(found.tolist(), 10**7, case)
        inside += low <= 0.6 <= high
    assert 0.91 < inside / 300 < 0.985


def test_an_interval_of_no_mistakes_is_not_a_point() -> None:
    assert interval(1.0, 3) == (pytest.approx(0.2924, abs=1e-4), 1.0)  # Clopper and Pearson
    assert interval(0.0, 20) == (0.0, pytest.approx(0.1684, abs=1e-4))
    assert interval_of_draws([1.0, 1.0], 3, 0) == interval(1.0, 3)


# ---------------------------------------------------------------- protocols


def test_the_command_line_names_every_protocol() -> None:
    assert EVALUATE.options()["protocols"].kind == tuple[Literal[tuple(PROTOCOLS)], ...]  # type: ignore[misc]


@pytest.mark.usefixtures("quick")
def test_a_perfect_encoder_has_all_and_a_random_one_chance() -> None:
    perfect = blobs(80, 0.0, 0), blobs(40, 0.0, 1)
    generator = torch.Generator().manual_seed(2)
    noise = [
        dataclasses.replace(side, features=torch.randn(side.features.shape, generator=generator))
        for side in (blobs(800, 0, 0), blobs(400, 0, 1))
    ]
    for protocol in FROZEN:
        for entry in run_protocol(protocol, *perfect, 4, 0, None):
            assert entry.top1 == 1.0, protocol
            assert entry.interval == interval(1.0, 40)
        for entry in run_protocol(protocol, *noise, 4, 0, None):
            assert abs(entry.top1 - 0.25) < 0.08, protocol
            assert entry.interval[0] < 0.25 < entry.interval[1]
    (found,) = run_protocol("retrieval", *perfect, 4, 0, None)
    assert found.measures == {"map": 1.0}


@pytest.mark.usefixtures("quick")
def test_shuffled_labels_are_at_chance() -> None:
    train, test = blobs(800, 0.1, 0), blobs(400, 0.1, 1)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    mixed = dataclasses.replace(test, labels=test.labels[order])
    for protocol in ("knn", "linear", "logistic", "retrieval"):
        (entry,) = run_protocol(protocol, train, mixed, 4, 0, None)
        assert abs(entry.top1 - 0.25) < 0.08, protocol


@pytest.mark.usefixtures("quick")
def test_entries_say_all_that_was_measured() -> None:
    train, test = blobs(200, 0.5, 0), blobs(100, 0.5, 1)
    for protocol in ("knn", "linear", "logistic"):
        (entry,) = run_protocol(protocol, train, test, 4, 0, None)
        assert entry.class_names == list(NAMES)
        assert sum(n for *_, n in entry.confusion) == 100
        hits = sum(n for a, b, n in entry.confusion if a == b)
        assert hits / 100 == pytest.approx(entry.top1)
        assert np.mean(entry.per_class) == pytest.approx(entry.top1)  # classes are of one size
        assert 0 <= entry.calibration["ece"] <= 1
        assert (entry.accuracies, entry.deviation) == ([], None)
        json.dumps(dataclasses.asdict(entry), allow_nan=False)
        assert f"top-1 {entry.top1:.2%}" in entry.line()


@pytest.mark.usefixtures("quick")
def test_several_seeds_of_the_linear_probe() -> None:
    train, test = blobs(200, 0.7, 0), blobs(100, 0.7, 1)
    (both,) = run_protocol("linear", train, test, 4, 3, None, seeds=2)
    each = [run_protocol("linear", train, test, 4, seed, None)[0] for seed in (3, 4)]
    assert both.accuracies == [e.top1 for e in each]
    assert both.top1 == pytest.approx(np.mean(both.accuracies))
    assert both.deviation == pytest.approx(np.std(both.accuracies, ddof=1))
    assert both.settings["seeds"] == 2
    assert both.history == each[0].history
    with pytest.raises(ValueError, match="seeds is 0"):
        run_protocol("linear", train, test, 4, 3, None, seeds=0)


def test_logistic_is_the_best_penalty_on_held_out_images() -> None:
    train, test = blobs(300, 0.8, 0), blobs(200, 0.8, 1)
    found = logistic(train.features, train.labels, test.features, test.labels, seed=1)
    assert [*found.held_out] == list(PENALTIES)
    best = max(found.held_out.values())
    assert found.inverse_penalty == min(c for c, top1 in found.held_out.items() if top1 == best)
    assert torch.allclose(found.shares.sum(1), torch.ones(200, dtype=torch.float64))
    again = logistic(train.features, train.labels, test.features, test.labels, seed=1)
    assert torch.equal(found.shares, again.shares)


def test_logistic_needs_two_classes() -> None:
    one = torch.zeros(10, dtype=torch.int64)
    with pytest.raises(ValueError, match="of one class"):
        logistic(torch.randn(10, 3), one, torch.randn(4, 3), one[:4])


def slow_retrieval(train: Features, test: Features, ks: tuple[int, ...]) -> tuple[dict[int, float], float]:
    found, precisions = {k: [] for k in ks}, []
    for q, label in zip(test.features.double(), test.labels.tolist()):
        cosines = [float(q @ b / q.norm() / b.norm()) for b in train.features.double()]
        order = sorted(range(len(cosines)), key=lambda i: -cosines[i])
        hits = [int(train.labels[i]) == label for i in order]
        if not any(hits):
            continue
        for k in ks:
            found[k].append(any(hits[:k]))
        right = [sum(hits[: n + 1]) / (n + 1) for n, hit in enumerate(hits) if hit]
        precisions.append(sum(right) / len(right))
    return {k: float(np.mean(v)) for k, v in found.items()}, float(np.mean(precisions))


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_retrieval_meets_a_slow_loop(n: int, m: int, seed: int) -> None:
    train, test = blobs(n, 0.6, seed), blobs(m, 0.6, seed + 1)
    found = retrieve(train.features, train.labels, test.features, test.labels)
    recall, precision = slow_retrieval(train, test, (1, 5, 10, 100))
    assert found.recall == pytest.approx(recall)
    assert found.mean_average_precision == pytest.approx(precision)
    assert found.alone == sum(int(y) not in train.labels for y in test.labels)


def test_retrieval_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = blobs(50, 0.6, 0), blobs(33, 0.6, 1)
    args = train.features, train.labels, test.features, test.labels
    whole = retrieve(*args)
    monkeypatch.setattr("lookalike.evaluation.retrieval.NUMBERS", 200)
    assert retrieve(*args) == whole
    with pytest.raises(ValueError, match="nothing can be found"):
        retrieve(train.features, torch.zeros_like(train.labels), test.features, torch.ones_like(test.labels))


def test_semi_has_an_entry_for_each_share_and_for_a_list(tmp_path: Path) -> None:
    train, test = blobs(400, 0.3, 0), blobs(100, 0.3, 1)
    one, ten = run_protocol("semi", train, test, 4, 0, None)
    assert [(e.settings["share"], e.train_images, len(e.accuracies)) for e in (one, ten)] == [
        (0.01, 4, 10),
        (0.1, 40, 10),
    ]
    assert ten.top1 > one.top1
    assert one.deviation > 0
    assert sum(n for *_, n in one.confusion) == 1000  # ten draws
    assert "± " in one.line()
    assert one.line().startswith("semi 1% ")
    assert "1 label per class, 4 classes" in one.line()
    assert ten.line().startswith("semi 10% ")
    assert "about 10 labels per class" in ten.line()
    file = tmp_path / "1percent.txt"
    file.write_text("".join(f"{Path(train.names[i]).name}\n" for i in range(4)))
    (given,) = run_protocol("semi", train, test, 4, 0, None, few=Few(rows=listed_rows(file, train.names), sha256="s"))
    assert (given.train_images, given.settings["list_sha256"], given.deviation) == (4, "s", None)


def test_draws_are_balanced() -> None:
    labels = torch.tensor([0] * 50 + [1] * 30 + [3] * 10)
    found = draw_rows(labels, 0.1, 0, 0)
    assert labels[found].bincount().tolist() == [5, 3, 0, 1]
    assert not torch.equal(found, draw_rows(labels, 0.1, 0, 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [("zebra.jpg\n", "names no image"), ("same.jpg\n", "names 2 images"), ("\n\n", "names no image")],
)
def test_a_list_that_names_nothing(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "list.txt"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        listed_rows(file, ["a/same.jpg", "b/same.jpg", "b/other.jpg"])
    with pytest.raises(FileNotFoundError, match="is not there"):
        listed_rows(tmp_path / "none.txt", ["a"])
    file.write_text("b/same.jpg\n/data/train/b/other.jpg\nb/same.jpg\n")
    assert listed_rows(file, ["a/same.jpg", "b/same.jpg", "b/other.jpg"]).tolist() == [1, 2]
    file.write_text("cat/1.jpg\n")
    with pytest.raises(ValueError, match="names no image"):
        listed_rows(file, ["dog/1.jpg"])


# ---------------------------------------------------------------- doubtful labels


def test_names_in_another_order_are_found() -> None:
    train, test = blobs(400, 0.2, 0), blobs(100, 0.2, 1)
    turned = dataclasses.replace(test, labels=(test.labels + 1) % 4)
    said = label_warning(train, turned)
    assert "in different orders" in said
    assert "'bee' look like 'ant'" in said
    assert label_warning(train, test) == ""


def test_a_hard_class_is_no_mistake_and_hides_none() -> None:
    # all bees are taken for ants, and ants for ants
    hard = [[0, 0, 50], [1, 0, 45], [1, 1, 5]]
    assert swapped([*hard, [2, 2, 50], [3, 3, 50]], NAMES) == ""
    said = swapped([*hard, [2, 3, 45], [2, 2, 5], [3, 2, 45], [3, 3, 5]], NAMES)
    assert "'cat' look like 'dog', 'dog' look like 'cat'." in said
    assert "bee" not in said


def test_rows_in_another_order_are_found() -> None:
    train, test = blobs(400, 0.2, 0), blobs(200, 0.2, 1)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    mixed = dataclasses.replace(test, labels=test.labels[order])
    assert "labels of TEST do not go with its images" in label_warning(train, mixed)
    assert "labels of TRAIN do not go with its images" in label_warning(mixed, train)
    far = dataclasses.replace(test, features=test.features.roll(4, 1))
    assert "do not fit together" in label_warning(train, far)


def test_many_shuffled_classes_are_found() -> None:
    classes = 500

    def clusters(each: int, seed: int) -> Features:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(classes * each) % classes
        centres = torch.randn(classes, 32, generator=torch.Generator().manual_seed(9))
        x = centres[labels] + 0.3 * torch.randn(len(labels), 32, generator=generator)
        return Features(x, labels, [], torch.arange(len(labels)), [])

    train, test = clusters(12, 0), clusters(10, 1)
    assert label_warning(train, test) == ""
    mixed = dataclasses.replace(test, labels=test.labels[torch.randperm(len(test.labels))])
    assert "labels of TEST do not go with" in label_warning(train, mixed)


@pytest.mark.parametrize("noise", [0.6, 100.0])  # a fair encoder, and one that knows nothing
@pytest.mark.parametrize("kind", ["balanced", "unbalanced", "two classes", "round robin", "one shot"])
def test_honest_labels_are_not_doubted(kind: str, noise: float) -> None:
    train, test = blobs(600, noise, 0), blobs(300, noise, 1)
    if kind == "unbalanced":  # nine tenths of TRAIN are ants
        rows = torch.cat([(train.labels == 0).nonzero()[:, 0], (train.labels != 0).nonzero()[:17, 0]])
        train = dataclasses.replace(train, features=train.features[rows], labels=train.labels[rows])
    elif kind == "two classes":
        train, test = blobs(600, noise, 0, classes=2), blobs(300, noise, 1, classes=2)
    elif kind == "round robin":
        train = blobs(20_000, noise, 0)
    elif kind == "one shot":
        train = blobs(4, noise, 0)
    assert label_warning(train, test) == ""


def test_classes_without_images_are_named() -> None:
    labels = torch.tensor([0, 1, 2])
    assert missing_classes(NAMES, torch.arange(4), labels) == ["TEST has no image of 1 of the 4 classes: dog."]
    assert missing_classes(NAMES, labels, torch.arange(4)) == ["TRAIN has no image of 1 of the 4 classes: dog."]


# ---------------------------------------------------------------- files of features


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".parquet"])
@pytest.mark.parametrize("classes", [NAMES, None])
def test_features_come_back_from_their_file(tmp_path: Path, suffix: str, classes: tuple[str, ...] | None) -> None:
    made = dataclasses.replace(blobs(12, 0.5, 0), classes=classes)
    save_features(tmp_path / f"f{suffix}", made)
    found = load_features(tmp_path / f"f{suffix}")
    assert torch.equal(found.features, made.features)
    assert torch.equal(found.labels, made.labels)
    assert (found.names, found.classes) == (made.names, classes)
    save_features(tmp_path / f"g{suffix}", dataclasses.replace(made, labels=None, classes=None))
    assert load_features(tmp_path / f"g{suffix}").labels is None


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"file,label\na,1\n", b"file,label,f0\na,1,x\n"])
@pytest.mark.parametrize("suffix", [".npz", ".csv", ".parquet"])
def test_a_file_that_holds_no_features(tmp_path: Path, content: bytes, suffix: str) -> None:
    file = tmp_path / f"f{suffix}"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="holds no features"):
        load_features(file)


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", features=np.array([object()], dtype=object))
    with pytest.raises(ValueError, match="holds no features"):
        load_features(tmp_path / "f.npz")


def test_saved_features_are_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = blobs(200, 0.4, 0), blobs(100, 0.4, 1)
    files = [tmp_path / "train.npz", tmp_path / "test.parquet"]
    for file, side in zip(files, (train, test)):
        save_features(file, side)
    out = tmp_path / "e.json"
    assert cli.main(["evaluate", "--features", *map(str, files), "--protocols", "knn", "semi", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())
    assert [row["protocol"] for row in rows] == ["knn", "semi", "semi"]
    (expected,) = run_protocol("knn", train, test, None, 0, None)
    assert rows[0]["top1"] == expected.top1
    assert "Wrote" in capsys.readouterr().out
    (alone,) = evaluate_features(files[0], protocols=["knn"])
    assert (alone.train_images, alone.test_images) == (160, 40)


def test_classes_of_two_files_are_matched_by_name(tmp_path: Path) -> None:
    train, test = blobs(100, 0.1, 0), blobs(40, 0.1, 1)
    other = dataclasses.replace(test, labels=3 - test.labels, classes=NAMES[::-1])  # the same, in another order
    save_features(tmp_path / "a.npz", train)
    save_features(tmp_path / "b.npz", other)
    (entry,) = evaluate_features(tmp_path / "a.npz", tmp_path / "b.npz", protocols=["knn"])
    assert entry.top1 == 1.0
    save_features(tmp_path / "b.npz", dataclasses.replace(test, classes=("ant", "bee", "cat", "eel")))
    with pytest.raises(ValueError, match="'eel'"):
        evaluate_features(tmp_path / "a.npz", tmp_path / "b.npz", protocols=["knn"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["runs/a"], "Give an encoder and two labelled folders"),
        (["runs/a", "t", "s", "--features", "f.npz"], "takes the place of"),
        (["--features", "a.npz", "b.npz", "c.npz"], "one or two files"),
    ],
)
def test_a_question_that_cannot_be_understood(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", *argv]) == 2
    assert message in capsys.readouterr().err


# ---------------------------------------------------------------- kept features


@pytest.fixture
def run(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    folder = tmp_path / "run"
    encoder = backbones.create("test_vit", image_size=32)
    encoders.save(Folder(folder), encoder, method="simclr", epochs=1, dtype=torch.uint8)
    return folder


def test_features_are_computed_once(run: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = labelled / "train", labelled / "test"
    passes = []
    forward = backbones.ViT.forward
    monkeypatch.setattr(backbones.ViT, "forward", lambda self, x: passes.append(len(x)) or forward(self, x))
    said: list[str] = []
    first = evaluate(run, train, test, protocols=["knn"], say=said.append)
    seen = sum(passes)
    assert seen >= 48
    second = evaluate(run, train, test, protocols=["knn", "logistic"], say=said.append)
    assert sum(passes) == seen, "the second question needs no pass"
    assert "train: features of 32 images, computed before" in said
    assert second[0].top1 == first[0].top1
    assert [p.suffix for p in (run / "features").iterdir()] == [".safetensors"] * 2
    # labels play no part in what is kept: the same files, embedded
    assert torch.equal(embed(run, train).features, embed(run, train, keep=False).features)
    passes.clear()
    embed(run, test)
    assert not passes
    evaluate(run, train, test, protocols=["knn"], image_size=64)
    assert sum(passes) >= 48, "another size is another feature"


@pytest.mark.parametrize("change", ["weights", "image", "damage"])
def test_what_was_kept_does_not_outlive_its_cause(
    run: Path, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from conftest import draw

    photos = tmp_path / "photos"
    for i in range(6):
        draw(photos / f"{i}.png", i % 4, i)
    before = embed(run, photos).features
    (kept,) = (run / "features").iterdir()
    if change == "weights":
        torch.manual_seed(1)
        other = backbones.create("test_vit", image_size=32)
        encoders.save(Folder(run), other, method="simclr", epochs=2, dtype=torch.uint8)
    elif change == "image":
        draw(photos / "0.png", 3, 99)
    else:
        kept.write_bytes(kept.read_bytes()[:-10])
    after = embed(run, photos).features
    fresh = embed(run, photos, keep=False).features
    assert torch.equal(after, fresh)
    assert torch.equal(after, before) == (change == "damage")
    names = [p.name for p in (run / "features").iterdir()]
    assert len(names) == (2 if change == "image" else 1)
    if change == "weights":
        assert names != [kept.name], "features of the weights of before are of no use"


def test_files_of_others_among_the_kept_features_stay(run: Path, tmp_path: Path) -> None:
    """A new encoder's features take the place of the old one's, known by what is in them."""
    from conftest import draw

    draw(tmp_path / "photos" / "0.png", 0, 0)
    embed(run, tmp_path / "photos")
    (old,) = (run / "features").iterdir()
    foreign = [run / "features" / f"{name}.safetensors" for name in ("mine", "other", "0" * 32, "copy", "broken")]
    shutil.copy(run / "encoder.safetensors", foreign[0])
    save_file({"features": torch.zeros(1, 2), "index": torch.zeros(1)}, foreign[1], metadata={"encoder": "another"})
    foreign[2].symlink_to(foreign[0])
    shutil.copy(old, foreign[3])
    foreign[4].write_bytes(b"\x00")
    torch.manual_seed(1)
    other = backbones.create("test_vit", image_size=32)
    encoders.save(Folder(run), other, method="simclr", epochs=2, dtype=torch.uint8)
    embed(run, tmp_path / "photos")
    left = {p.name for p in (run / "features").iterdir()}
    assert {p.name for p in foreign} < left
    assert old.name not in left
    assert len(left) == len(foreign) + 1


def test_a_linked_folder_of_features_is_neither_used_nor_changed(run: Path, tmp_path: Path) -> None:
    from conftest import draw

    draw(tmp_path / "photos" / "0.png", 0, 0)
    models = tmp_path / "models"
    models.mkdir()
    shutil.copy(run / "encoder.safetensors", models / "best.safetensors")
    (run / "features").symlink_to(models)
    said: list[str] = []
    embed(run, tmp_path / "photos", say=said.append)
    assert [p.name for p in models.iterdir()] == ["best.safetensors"]
    assert any("the features are not kept" in line and "features is a link" in line for line in said)


def test_processes_that_record_at_once_lose_no_entry(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    (tmp_path / ".evaluation.9.tmp.json").write_text("of a process that was killed")

    def entry(name: str) -> Entry:
        return Entry(
            protocol=name, top1=0.5, top5=1.0, interval=(0.4, 0.6), settings={}, train_images=1, test_images=1,
            classes=2, encoder_sha256="e", data_fingerprint="d", seed=0, seconds=0.0, date="", history=[],
        )  # fmt: skip

    def many(process: int) -> None:
        threads = [threading.Thread(target=record, args=(path, [entry(f"{process}-{i}")])) for i in range(10)]
        for thread in threads:  # threads of one process, too
            thread.start()
        for thread in threads:
            thread.join()

    children = []
    for process in range(8):
        if not (child := os.fork()):
            many(process)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
    found = {row["protocol"] for row in json.loads(path.read_text())}
    assert found == {f"{process}-{i}" for process in range(8) for i in range(10)}
    assert [p.name for p in tmp_path.iterdir()] == ["evaluation.json"], "nothing is left of the locks"


def test_features_that_cannot_be_kept_do_not_stop_an_evaluation(
    run: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lookalike.evaluation.feature_cache.FeatureCache.save", full)
    said: list[str] = []
    (entry,) = evaluate(run, labelled / "train", labelled / "test", protocols=["knn"], say=said.append)
    assert entry.train_images == 32
    assert any("are not kept" in line for line in said)


# ---------------------------------------------------------------- the command


@pytest.mark.usefixtures("quick")
def test_several_labelled_sets_and_all_protocols_in_one_call(
    run: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from conftest import draw

    for split, count in (("train", 6), ("test", 3)):
        for kind in range(2):
            for i in range(count):
                draw(tmp_path / "other" / split / "ab"[kind] / f"{i}.png", kind, 100 * kind + 10 * count + i)
    train, test = str(labelled / "train"), str(labelled / "test")
    others = [str(tmp_path / "other" / split) for split in ("train", "test")]
    argv = [
        "evaluate",
        str(run),
        train,
        test,
        "--also",
        *others,
        "--protocols",
        *FROZEN,
        "label-free",
        "--workers",
        "0",
    ]
    assert cli.main(argv) == 0
    rows = json.loads((run / "evaluation.json").read_text())
    assert [row["protocol"] for row in rows] == 2 * [
        "knn",
        "linear",
        "logistic",
        "semi",
        "semi",
        "retrieval",
        "label-free",
    ]
    assert [row["classes"] for row in rows if row["protocol"] == "knn"] == [4, 2]
    assert {(row["train"], row["test"]) for row in rows} == {(train, test), tuple(others)}
    free = rows[6]["measures"]
    assert free == label_free(run, test)
    assert [*free] == [
        "recognition", "retrieval", "retrieval_of_5", "alignment", "uniformity", "spread", "effective_rank",
    ]  # fmt: skip
    assert rows[6]["top1"] == free["retrieval"] <= free["retrieval_of_5"] == rows[6]["top5"]
    said = capsys.readouterr().out
    assert f"label-free recognition {free['recognition']:.2%}  recall@1 {free['retrieval']:.2%} (95 % interval" in said
    assert f"{others[1]}:" in said
    assert "map 0." in said


def test_wrongly_ordered_labels_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    class Turned(torch.utils.data.Dataset):
        def __init__(self, turn: int, n: int) -> None:
            generator = torch.Generator().manual_seed(turn)
            self.true = torch.arange(n) % 3
            self.targets = (self.true + turn) % 3
            colours = torch.eye(3)[self.true]
            self.images = (colours[:, :, None, None] * 150 + 50 * torch.rand(n, 3, 16, 16, generator=generator)).byte()

        def __len__(self) -> int:
            return len(self.true)

        def __getitem__(self, i: int) -> tuple[Tensor, int]:
            return self.images[i], int(self.targets[i])

    encoder = backbones.create(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), image_size=16)
    said: list[str] = []
    (entry,) = evaluate(encoder, Turned(0, 90), Turned(1, 60), protocols=["knn"], say=said.append)
    assert entry.top1 == 0
    assert any("WARNING: The labels of TRAIN and TEST seem to be in different orders" in line for line in said)
    said.clear()
    evaluate(encoder, Turned(0, 90), Turned(0, 60), protocols=["knn"], say=said.append)
    assert not any("WARNING" in line for line in said)


@pytest.mark.parametrize("pool", ["average", "class+average", "last4"])
def test_parts_of_a_transformer_stand_for_an_image(pool: str) -> None:
    from lookalike.evaluation.extractor import _Part

    model = backbones.create("test_vit", image_size=32).eval()
    if pool == "last4":
        model.net.blocks.extend([type(model.net.blocks[0])(64, 2) for _ in range(4 - len(model.net.blocks))])
        model.eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = _Part(model, pool)(x)
        tokens = model.tokens(x)
    if pool == "average":
        assert torch.equal(found, tokens.patches.mean(1))
    elif pool == "class+average":
        assert torch.equal(found, torch.cat([tokens.cls, tokens.patches.mean(1)], 1))
    else:
        assert found.shape == (2, 4 * 64)
        assert torch.allclose(found[:, -64:], tokens.cls, atol=1e-6)
        seen = model._embed(x, None)
        for n, block in enumerate(model.net.blocks):
            seen = block(seen)
            if n >= len(model.net.blocks) - 4:
                place = n - (len(model.net.blocks) - 4)
                assert torch.allclose(found[:, 64 * place : 64 * (place + 1)], model.net.norm(seen)[:, 0], atol=1e-6)


def test_a_network_without_class_tokens_has_none_to_pool(labelled: Path) -> None:
    model = backbones.create("test_byobnet", image_size=32)
    with pytest.raises(ValueError, match="has no class token"):
        evaluate(model, labelled / "train", labelled / "test", pool="last4")


def test_protocols_that_train_on_images(run: Path, labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = str(labelled / "train"), str(labelled / "test")
    before = (run / "encoder.safetensors").read_bytes()
    argv = ["evaluate", str(run), train, test, "--protocols", "linear-augmented", "semi-finetune", "finetune"]
    assert cli.main([*argv, "--epochs", "2", "--shares", "0.25", "--seeds", "2", "--workers", "0"]) == 0
    rows = json.loads((run / "evaluation.json").read_text())
    assert [(row["protocol"], row["train_images"]) for row in rows] == [
        ("linear-augmented", 32), ("semi", 8), ("finetune", 32)
    ]  # fmt: skip
    for row in rows:
        assert row["settings"]["epochs"] == 2
        assert len(row["accuracies"]) == row["settings"]["seeds"] == 2
        assert row["top1"] == pytest.approx(np.mean(row["accuracies"]))
        assert sum(n for *_, n in row["confusion"]) == 32  # two trainings of 16 test images
        assert row["history"][-1]["step"] > 0
    assert rows[0]["settings"]["frozen"] is True
    assert (rows[1]["settings"]["how"], rows[1]["settings"]["share"]) == ("finetune", 0.25)
    assert (run / "encoder.safetensors").read_bytes() == before
    said = capsys.readouterr().out
    assert "semi-finetune 25%" in said
    assert "epoch 2/2" in said


def test_a_module_of_the_users_is_judged_at_a_stated_size(labelled: Path, tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    train, test = labelled / "train", labelled / "test"
    with pytest.raises(ValueError, match="Sequential is a module of your own"):
        evaluate(module, train, test, protocols=["knn"])
    (entry,) = evaluate(module, train, test, protocols=["knn"], image_size=24)
    (same,) = evaluate(backbones.create(module, image_size=24), train, test, protocols=["knn"])
    assert (entry.top1, entry.encoder_sha256) == (same.top1, same.encoder_sha256)
    assert embed(module, train, image_size=24).features.shape == (32, 8)
    pixels = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten())  # no parameters: what colours alone are worth
    (plain,) = evaluate(pixels, train, test, protocols=["knn"], image_size=24)
    assert plain.top1 > 0.25
    assert show(pixels, train, out=tmp_path / "show", count=2, image_size=24)
    with pytest.raises(ValueError, match=r"Sequential> has no parameters. Give a module with layers that learn"):
        training.pretrain(
            Run(
                data=str(train),
                backbone=pixels,
                image_size=24,
                method=SimCLR.Config(),
                batch_size=8,
                workers=0,
                out=str(tmp_path / "run"),
            )
        )
    assert not (tmp_path / "run" / "run.yaml").exists()


def test_what_can_be_judged_is_said_before_what_cannot(
    run: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in range(4):  # one image per class: nothing can be held out
        (tmp_path / "train" / f"class{kind}").mkdir(parents=True)
        shutil.copy(labelled / "train" / f"class{kind}" / "0.jpg", tmp_path / "train" / f"class{kind}")
    argv = ["evaluate", str(run), str(tmp_path / "train"), str(labelled / "test"), "--workers", "0"]
    assert cli.main([*argv, "--protocols", "linear", "knn"]) == 1
    said = capsys.readouterr()
    assert "linear: not possible. None of the 4 classes has two training images" in said.out
    assert "knn        top-1" in said.out
    assert "None of the 4 classes has two training images" in said.err
    assert [row["protocol"] for row in json.loads((run / "evaluation.json").read_text())] == ["knn"]


def test_images_that_cannot_be_read_are_counted(run: Path, labelled: Path, tmp_path: Path) -> None:
    shutil.copytree(labelled / "train", tmp_path / "train")
    for i in range(12):
        (tmp_path / "train" / "class0" / f"broken {i}.jpg").write_bytes(b"no picture")
    said: list[str] = []
    evaluate(run, tmp_path / "train", labelled / "test", protocols=["knn"], say=said.append)
    assert "train: 12 of 44 images could not be read and are left out" in said
    assert "  and 2 more" in said
    some = tmp_path / "some.txt"
    some.write_text("class0/broken 1.jpg\n" + "".join(f"class{k}/1.jpg\n" for k in range(4)))
    (entry,) = evaluate(run, tmp_path / "train", labelled / "test", protocols=["semi"], labels=some)
    assert entry.train_images == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "at least 1"),
        ({"shares": ()}, "give one or more above 0"),
        ({"shares": (2,)}, "give one or more above 0"),
        ({"protocols": ["finetune"], "pool": "average"}, "Leave one of them out"),
        ({"protocols": ["label-free"], "pool": "average"}, "Leave one of them out"),
        ({"protocols": []}, "No protocol was asked for"),
    ],
)
def test_questions_that_cannot_be(run: Path, labelled: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(run, labelled / "train", labelled / "test", **options)


def test_images_are_looked_for_before_weights_are_fetched(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A slip in a folder is said at once, not behind a download."""
    fetched: list[object] = []

    def published(name: str) -> Backbone:
        fetched.append(name)
        return backbones.create("test_byobnet", image_size=32)

    monkeypatch.setattr(backbones, "published", published)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    train, test, one = str(labelled / "train"), str(labelled / "test"), str(labelled / "train/class0")
    name, few = "timm/test_byobnet", ["--workers", "0"]
    for argv, words in (
        (["evaluate", name, train, "empty"], "holds no image"),
        (["evaluate", name, one, test], "lies in no class folder"),
        (["evaluate", name, train, test, "--also", train, "empty"], "holds no image"),
        (["embed", name, "empty"], "holds no image"),
        (["show", name, "empty"], "holds no image"),
        (["finetune", name, train, "empty"], "holds no image"),
        (["finetune", name, "empty", test], "holds no image"),
    ):
        assert cli.main([*argv, *few]) == 1
        assert words in capsys.readouterr().err
        assert not fetched, argv
    assert cli.main(["evaluate", name, train, test, "--protocols", "knn", *few]) == 0
    assert cli.main(["embed", name, train, *few]) == 0
    assert fetched == [name, name]


def test_files_that_cannot_be_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = blobs(60, 0.3, 0), blobs(40, 0.3, 1)
    names = tmp_path / "names.npz", tmp_path / "numbers.npz"
    save_features(names[0], train)
    save_features(names[1], dataclasses.replace(test, classes=None))
    (entry,) = evaluate_features(*names, protocols=["knn"])  # names on one side: numbers on both
    assert entry.class_names == ["0", "1", "2", "3"]
    save_features(names[1], dataclasses.replace(test, classes=None, labels=test.labels + 1_440_764))
    with pytest.raises(ValueError, match="The largest label is 144076"):
        evaluate_features(*names, protocols=["knn"])
    save_features(names[1], dataclasses.replace(train, labels=torch.zeros(60, dtype=torch.int64)))
    with pytest.raises(ValueError, match="are of one class"):
        evaluate_features(names[1], protocols=["knn"])
    broken = dataclasses.replace(train, features=train.features * float("nan"))
    for protocol in ("semi", "logistic", "linear", "retrieval", "knn"):
        with pytest.raises(ValueError, match="not finite"):
            run_protocol(protocol, broken, test, 4, 0, None)
    assert cli.main(["evaluate", "--features", str(names[0]), "--protocols", "knn"]) == 0
    assert "Nothing was written" in capsys.readouterr().out
    assert cli.main(["evaluate", "--features", str(names[0]), "--image-size", "64"]) == 2


def test_a_class_whose_name_is_no_text(run: Path, labelled: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        shutil.copytree(labelled / split, tmp_path / split)
        (tmp_path / split / "class0").rename(tmp_path / split / os.fsdecode(b"caf\xe9"))
    (entry,) = evaluate(run, tmp_path / "train", tmp_path / "test", protocols=["knn"])
    assert "caf\\udce9" in entry.class_names
    for suffix in (".csv", ".npz"):
        embed(run, tmp_path / "train", out=tmp_path / f"train{suffix}")
        embed(run, tmp_path / "test", out=tmp_path / f"test{suffix}")
    (again,) = evaluate_features(tmp_path / "train.npz", tmp_path / "test.csv", protocols=["knn"])
    assert again.top1 == entry.top1


def test_a_weights_file_that_a_training_replaces_meanwhile(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, calls = encoders.load, []

    def and_then_replaced(name: Path, backbone: str | None = None) -> backbones.Backbone:
        model = load(name, backbone)
        calls.append(name)
        if len(calls) == 1:
            torch.manual_seed(7)
            encoders.save(
                Folder(run), backbones.create("test_vit", image_size=32), method="m", epochs=2, dtype=torch.uint8
            )
        return model

    monkeypatch.setattr(encoders, "load", and_then_replaced)
    found = embed(run, photos).features
    assert len(calls) == 2
    assert torch.equal(found, embed(run, photos, keep=False).features)


def test_more_hits_never_have_a_lower_interval() -> None:
    for images in (50, 1000):
        lows, highs = zip(*(interval(hits / images, images) for hits in (0, 1, 2, 9, images - 2, images - 1, images)))
        assert list(lows) == sorted(lows)
        assert list(highs) == sorted(highs)


def test_an_exact_name_is_not_ambiguous(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("a/x.jpg\n")
    assert listed_rows(file, ["b/a/x.jpg", "a/x.jpg"]).tolist() == [1]


def test_classes_that_train_lacks_are_no_doubt_about_the_others() -> None:
    train, test = blobs(400, 0.2, 0), blobs(200, 0.2, 1)
    known = (train.labels < 2).nonzero()[:, 0]
    few = dataclasses.replace(train, features=train.features[known], labels=train.labels[known])
    assert label_warning(few, test) == ""


# ---------------------------------------------------------------- images that are equally near


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["one feature", "one up to rounding", "zeros", "three features"])
def test_a_collapsed_encoder_scores_the_same_in_any_order_of_the_training_images(kind: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    few = torch.randn(3, 37)
    made = {
        "one feature": lambda n: few[:1].repeat(n, 1),
        "one up to rounding": lambda n: few[:1] + 1e-7 * torch.randn(n, 37),
        "zeros": lambda n: torch.zeros(n, 37),
        "three features": lambda n: few[torch.arange(n) % 3],
    }[kind]
    counts = (300, 60, 20, 20)
    labels = torch.cat([torch.full((n,), i) for i, n in enumerate(counts)])  # as folders lie
    train, test, own = made(400).to(dtype), made(50).to(dtype), torch.arange(50) % 4
    orders = torch.arange(400), torch.randperm(400)
    found = [retrieve(train[o], labels[o], test, own) for o in orders]
    assert found[0].recall == pytest.approx(found[1].recall, abs=1e-9)
    assert found[0].mean_average_precision == pytest.approx(found[1].mean_average_precision, abs=1e-9)
    near = [knn(train[o], labels[o], test, own, also=(1, 7, 399)) for o in orders]
    assert near[0].accuracies == near[1].accuracies
    torch.testing.assert_close(near[0].votes, near[1].votes, rtol=1e-5, atol=0)
    if kind in ("one feature", "zeros"):  # chance
        shares = torch.tensor(counts, dtype=dtype) / 400
        assert found[0].recall[1] == pytest.approx(float(shares[own].mean()))
        votes = near[0].votes / near[0].votes.sum(1, keepdim=True)
        torch.testing.assert_close(votes, shares.expand(50, 4), rtol=1e-5, atol=0)
        assert near[0].top1 == 13 / 50  # all are taken for the largest class


def test_what_ties_give_is_the_mean_over_their_orders() -> None:
    """Two ties, of two and of four images, in all their orders."""
    hit = [True, False, False, True, True, False]
    begin, end = tied(torch.tensor([[0.9, 0.9, 0.5, 0.5, 0.5, 0.5]]))
    assert begin.tolist() == [[0, 0, 2, 2, 2, 2]]
    assert end.tolist() == [[2, 2, 6, 6, 6, 6]]
    recalls, precisions = [], []
    for first, rest in itertools.product(itertools.permutations(hit[:2]), itertools.permutations(hit[2:])):
        order = [*first, *rest]
        recalls.append([any(order[:k]) for k in RANKS])
        right = [sum(order[: n + 1]) / (n + 1) for n, x in enumerate(order) if x]
        precisions.append(sum(right) / len(right))
    recall, precision = _expected(torch.tensor([hit]), begin, end)
    assert recall[0].tolist() == pytest.approx(np.mean(recalls, 0).tolist())
    assert precision.tolist() == pytest.approx([np.mean(precisions)])


def test_ties_are_no_wider_than_rounding() -> None:
    """However long a run of close cosines is."""
    step = 2**-22
    begin, end = tied(1 - step * torch.arange(12.0)[None])
    assert (end - begin).tolist() == [[4] * 12]
    begin, end = tied(torch.tensor([[0.5, 0.5 - 2**-19, 0.25, 0.25 - 2**-21]]))
    assert begin.tolist() == [[0, 1, 2, 2]]
    assert end.tolist() == [[1, 2, 4, 4]]


# ---------------------------------------------------------------- few images, progress, the untrained network


@pytest.mark.parametrize(
    ("images", "steps"),
    [(6, 500), (120, 500), (1000, 500), (2000, 1000), (4999, 2500), (5000, 2500), (50_000, 2500), (1_281_167, 12_520)],
)
def test_few_images_take_fewer_steps_of_the_linear_probe(images: int, steps: int) -> None:
    """benchmarks/probe_steps.py measures that they lose nothing; large sets keep the steps that they had."""
    assert DINOV2.steps(images) == steps


def test_a_step_takes_few_images_once_and_is_the_same_as_with_each_several_times() -> None:
    """A batch of 1,024 of 128 images holds each eight times: the gradient of all, at eight times the cost."""
    side = blobs(128, 0.6, 0)
    settings = Settings(least_steps=50)
    rows = torch.arange(128)
    data = side.features.double(), side.labels
    looked: list[int] = []

    def count(step: int) -> None:
        looked.append(step)

    few = _train(*data, rows, 4, (0.1, 1.0), 0, settings, done=count)
    many = _train(*data, rows.repeat(8), 4, (0.1, 1.0), 0, settings)
    torch.testing.assert_close(few[:2], many[:2], rtol=1e-9, atol=1e-12)
    assert looked == list(range(1, 51))


@pytest.mark.usefixtures("quick")
def test_what_takes_long_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = blobs(80, 0.5, 0), blobs(40, 0.5, 1)
    save_features(tmp_path / "train.npz", train)
    save_features(tmp_path / "test.npz", test)
    monkeypatch.setattr("lookalike.progress.LINE_SECONDS", -1)
    said: list[str] = []
    protocols = ("knn", "linear", "logistic", "semi")
    evaluate_features(tmp_path / "train.npz", tmp_path / "test.npz", protocols=protocols, seeds=2, say=said.append)
    for line in (
        r"linear: 1 of 240 steps, \d[\d.]* steps/s, \d+ s left",  # 60 to choose and 60 in the end, of two seeds
        r"linear: 240 of 240 steps, \d[\d.]* steps/s",
        r"logistic: 2 of 7 regressions, \d[\d.]* fits/s, \d+ s left",
        r"semi: 20 of 20 regressions, \d[\d.]* fits/s",
        r"knn: 40 of 40 test images, \d[\d.]* images/s",
    ):
        assert any(re.fullmatch(line, each) for each in said), (line, said)


def named_blobs(names: tuple[str, ...], seed: int) -> Features:
    labels = torch.arange(20 * len(names)) % len(names)
    noise = torch.randn(len(labels), len(names), generator=torch.Generator().manual_seed(seed))
    rows = torch.arange(len(labels))
    return Features(torch.eye(len(names))[labels] + 0.5 * noise, labels, [str(i) for i in rows], rows, [], names)


def test_the_lowest_class_is_shown_and_top_5_where_five_are_not_most_of_the_classes() -> None:
    for classes, shown in ((4, False), (6, False), (9, False), (10, True)):
        names = tuple(f"kind {n}" for n in range(classes))
        train, test = (named_blobs(names, seed) for seed in (0, 1))
        for entry in run_protocol("knn", train, test, classes, 0, None):
            worst = min(range(classes), key=lambda n: (entry.per_class[n], names[n]))
            assert f"  lowest class {names[worst]} {entry.per_class[worst]:.1%}  " in entry.line()
            assert ("top-5" in entry.line()) == shown
    (found,) = run_protocol("retrieval", train, test, 10, 0, None)
    assert "recall@5" in found.line()
    assert found.lowest(1) == ""


def test_the_untrained_network_is_shown_beside_the_result(
    run: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["evaluate", str(run), str(labelled / "train"), str(labelled / "test"), "--workers", "0"]
    argv += ["--protocols", "knn", "label-free"]
    assert cli.main([*argv, "--baseline", "--seed", "7"]) == 0
    said = capsys.readouterr().out
    rows = json.loads((run / "evaluation.json").read_text())
    before = untrained(encoders.load(run), 7)
    assert not torch.equal(before.net.cls_token, encoders.load(run).net.cls_token)
    (expected,) = evaluate(before, labelled / "train", labelled / "test", protocols=["knn"], seed=7)
    assert rows[0]["baseline"] == expected.top1
    assert f"knn        top-1 {100 * expected.top1:.1f} -> {100 * rows[0]['top1']:.1f} % (untrained -> this" in said
    assert f"recall@1 {100 * rows[1]['baseline']:.1f} -> " in said
    assert rows[0]["top1"] == evaluate(run, labelled / "train", labelled / "test", protocols=["knn"], seed=7)[0].top1
    assert len([*(run / "features").glob("*.safetensors")]) == 2  # none of the untrained network's
    # asked once more without it, the same question keeps the answer; another seed draws another network
    assert cli.main([*argv, "--seed", "7"]) == 0
    assert json.loads((run / "evaluation.json").read_text())[0]["baseline"] == expected.top1
    assert cli.main([*argv, "--seed", "8"]) == 0
    assert json.loads((run / "evaluation.json").read_text())[0]["baseline"] is None


def test_an_untrained_baseline_has_the_statistics_of_the_training_images(labelled: Path) -> None:
    """BatchNorm as it is drawn would make it worse than it is."""
    model = backbones.create("test_byobnet", image_size=32)
    found = reader_of(model).untrained(open_source(labelled / "train"), 0).model
    norms = [part for part in found.modules() if isinstance(part, nn.BatchNorm2d)]
    assert norms
    assert all(part.running_mean.abs().max() > 0 for part in norms)


def reader_of(model: backbones.Backbone) -> Extractor:
    return Extractor(model, image_size=None, pool="pooled", batch_size=8, workers=0, keep=False, say=print)


def test_no_baseline_where_it_is_not_known_how_to_make_one(labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match="is a module of your own: it is not known how to make it untrained"):
        evaluate(own, labelled / "train", labelled / "test", image_size=24, baseline=True)
    assert cli.main(["evaluate", "--features", "x.npz", "--baseline"]) == 2
    assert "--baseline is of encoders" in capsys.readouterr().err
