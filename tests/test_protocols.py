"""The protocols on features that are easy to tell apart, and on those that are equally near."""

import dataclasses
import itertools
import json
import re
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.features import NAMES, blobs

from lookalike.cli.encoders import EVALUATE
from lookalike.evaluation import (
    FROZEN,
    PROTOCOLS,
    Features,
    Few,
    evaluate_features,
    interval,
    knn,
    logistic,
    retrieve,
    run_protocol,
    save_features,
)
from lookalike.evaluation.few_labels import draw_rows, listed_rows
from lookalike.evaluation.linear import DINOV2, Settings, _train
from lookalike.evaluation.logistic import PENALTIES
from lookalike.evaluation.neighbours import tied
from lookalike.evaluation.retrieval import RANKS, _expected


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
    with pytest.raises(ValueError, match="nothing can be retrieved"):
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
    with pytest.raises(FileNotFoundError, match="does not exist"):
        listed_rows(tmp_path / "none.txt", ["a"])
    file.write_text("b/same.jpg\n/data/train/b/other.jpg\nb/same.jpg\n")
    assert listed_rows(file, ["a/same.jpg", "b/same.jpg", "b/other.jpg"]).tolist() == [1, 2]
    file.write_text("cat/1.jpg\n")
    with pytest.raises(ValueError, match="names no image"):
        listed_rows(file, ["dog/1.jpg"])


def test_an_exact_name_is_not_ambiguous(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("a/x.jpg\n")
    assert listed_rows(file, ["b/a/x.jpg", "a/x.jpg"]).tolist() == [1]


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


# ---------------------------------------------------------------- few images and progress


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
