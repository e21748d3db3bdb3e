"""Images with several classes: mAP and F1 are scikit-learn's, k-NN a slow loop's, the probe a regression per class."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score
from support.networks import saved_vit
from torch import Tensor

from lookalike import cli
from lookalike.evaluation import Features, evaluate, knn, knn_sets, linear_sets, run_multi_label, set_metrics
from lookalike.evaluation.average_precision import _Ranked, bootstrap, resamples_of
from lookalike.evaluation.linear import Settings


def scored(seed: int, images: int = 90, classes: int = 7, levels: int = 6) -> tuple[Tensor, Tensor]:
    """Scores with many ties, and labels, of which the last class has none."""
    random = np.random.default_rng(seed)
    scores = torch.from_numpy(random.integers(0, levels, (images, classes)) / (levels - 1))
    sets = torch.from_numpy(random.random((images, classes)) < 0.3)
    sets[:, -1] = False
    return scores, sets


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("levels", [2, 6, 1000])
def test_metrics_are_those_of_scikit_learn(seed: int, levels: int) -> None:
    scores, sets = scored(seed, levels=levels)
    found = set_metrics(scores, sets)
    each = [average_precision_score(sets[:, c].numpy(), scores[:, c].numpy()) for c in range(6)]
    assert found.per_class[:6] == pytest.approx(each, abs=1e-12)
    assert found.per_class[6] is None
    assert found.map == pytest.approx(np.mean(each), abs=1e-12)
    assert found.f1 == pytest.approx(f1_score(sets.numpy(), scores.numpy() >= 0.5, average="micro"), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_a_resample_is_what_scikit_learn_gives_for_its_weights(seed: int) -> None:
    scores, sets = scored(seed)
    weights = np.random.default_rng(seed).multinomial(90, np.full(90, 1 / 90), 4).astype(float)
    means, f1 = _Ranked(scores, sets).summaries(weights)
    for n, own in enumerate(weights):
        each = [
            average_precision_score(sets[:, c].numpy(), scores[:, c].numpy(), sample_weight=own)
            for c in range(6)
            if own[sets[:, c].numpy()].sum()
        ]
        assert means[n] == pytest.approx(np.mean(each), abs=1e-12)
        flat = f1_score(
            sets.numpy().ravel(), (scores.numpy() >= 0.5).ravel(), sample_weight=np.repeat(own, sets.shape[1])
        )
        assert f1[n] == pytest.approx(flat, abs=1e-12)


def test_intervals_are_seeded_and_cover_the_value() -> None:
    scores, sets = scored(0, levels=1000)
    one, again, other = (bootstrap([scores], sets, seed) for seed in (0, 0, 1))
    assert one == again != other
    metrics = set_metrics(scores, sets)
    for name, value in (("map", metrics.map), ("f1", metrics.f1)):
        assert one[name][0] < value < one[name][1]
        assert one[name] == pytest.approx(other[name], abs=0.02)
    twice = bootstrap([scores, scores], sets, 0)
    assert all(twice[name] == pytest.approx(one[name]) for name in one)
    assert [resamples_of(90, 7), resamples_of(10_000, 100), resamples_of(10**6, 1000)] == [1000, 500, 100]


def test_scores_that_cannot_be_measured_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Scores are \(2, 3\) and labels \(2, 2\)"):
        set_metrics(torch.zeros(2, 3), torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="No test image has a class"):
        set_metrics(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool))
    found = set_metrics(torch.tensor([[torch.nan], [0.6]]), torch.tensor([[True], [False]]))
    assert (found.map, found.f1) == (0.5, 0.0)  # what is no number ranks last


def features(seed: int, images: int = 60, dim: int = 5, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Features that tell the classes apart to some extent; some images have none."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(images, dim, generator=random)
    noise = torch.randn(images, classes, generator=random)
    return x, (x[:, :classes] + 0.3 * noise) > 0.5


@pytest.mark.parametrize("k", [1, 5, 20, 80])
def test_shares_of_votes_are_those_of_a_slow_loop(k: int) -> None:
    (x, sets), (test, _) = features(0), features(1, 12)
    found = knn_sets(x, sets, test, k, also=(3,), block=16)
    assert [*found] == sorted({k, 3})
    cosines = torch.nn.functional.normalize(test.double()) @ torch.nn.functional.normalize(x.double()).T
    for n in found:
        for i, row in enumerate(cosines):
            nearest = row.argsort(descending=True)[:n]
            weights = (row[nearest] / 0.07).exp()
            expected = (weights[:, None] * sets[nearest]).sum(0) / weights.sum()
            assert torch.allclose(found[n][i].double(), expected, atol=1e-5)


def test_with_one_class_each_the_shares_are_those_of_knn() -> None:
    (x, _), (test, _) = features(0), features(1, 12)
    x = torch.cat([x, x[:20]])  # ties, also across the limit of k
    labels = torch.arange(80) % 3
    sets = torch.nn.functional.one_hot(labels) > 0
    for k in (1, 4, 7):
        votes = knn(x, labels, test, torch.zeros(12, dtype=torch.int64), k, num_classes=3, also=()).votes
        shares = knn_sets(x, sets, test, k, also=())[k]
        assert torch.allclose(shares, votes / votes.sum(1, keepdim=True), atol=1e-6)
        order = torch.randperm(80, generator=torch.Generator().manual_seed(k))
        assert torch.allclose(knn_sets(x[order], sets[order], test, k, also=())[k], shares, atol=1e-6)


def test_the_probe_is_a_logistic_regression_per_class() -> None:
    (x, sets), (test, test_sets) = features(2, 400), features(3, 200)
    found = linear_sets(
        x, sets, test, test_sets, settings=Settings(rates=(1e-5, 1.0), least_steps=1000, few_steps=1000)
    )
    assert found.lr == 1.0
    assert found.held_out[1.0] > found.held_out[1e-5]
    assert found.scores.min() >= 0
    assert found.scores.max() <= 1
    for c in range(sets.shape[1]):
        exact = LogisticRegression(C=1e4).fit(x.numpy(), sets[:, c].numpy()).predict_proba(test.numpy())[:, 1]
        assert np.abs(found.scores[:, c].numpy() - exact).mean() < 0.03
    last = found.curve[-1]
    metrics = set_metrics(found.scores, test_sets)
    assert last[1:] == pytest.approx((metrics.map, metrics.f1))
    assert found.history[0][1] > found.history[-1][1]


def test_the_gradient_of_the_probe_is_that_of_torch() -> None:
    from lookalike.evaluation.linear import _binary_cross_entropy, _cross_entropy

    logits = torch.randn(6, 2, 4, dtype=torch.float64, requires_grad=True)
    y = torch.rand(6, 4) < 0.4
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, y[:, None].expand(6, 2, 4).double())
    (by_torch,) = torch.autograd.grad(expected, logits)
    loss, gradient = _binary_cross_entropy(logits.detach(), y)
    assert torch.allclose(loss, expected)
    assert torch.allclose(gradient / logits.numel(), by_torch)
    labels = torch.arange(6) % 4
    expected = torch.nn.functional.cross_entropy(logits.view(12, 4), labels.repeat_interleave(2))
    (by_torch,) = torch.autograd.grad(expected, logits)
    loss, gradient = _cross_entropy(logits.detach(), labels)
    assert torch.allclose(loss, expected)
    assert torch.allclose(gradient / 12, by_torch)


def test_features_without_sets_and_other_protocols_are_refused() -> None:
    x, sets = features(0)
    plain = Features(x, torch.zeros(60, dtype=torch.int64), [], torch.arange(60), [])
    with pytest.raises(ValueError, match=r"The features have no label_sets. Open their images with labelled=True"):
        run_multi_label("knn", plain, plain)
    own = Features(x, None, [], torch.arange(60), [], None, sets)
    with pytest.raises(ValueError, match=r"semi needs one class per image. Choose knn or linear"):
        run_multi_label("semi", own, own)
    with pytest.raises(ValueError, match="There is one training image"):
        linear_sets(x[:1], sets[:1], x, sets)


# ---------------------------------------------------------------- the command


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return saved_vit(tmp_path / "run")


@pytest.fixture
def tagged(labelled: Path, tmp_path: Path) -> Path:
    """A list of all images: their class, every third image another one, every seventh none."""
    path = tmp_path / "list.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "tags", "split"])
        for n, image in enumerate(sorted(labelled.rglob("*.jpg"))):
            tags = [image.parent.name, *(["also"] if n % 3 == 0 else [])] if n % 7 else []
            rows.writerow([str(image), ";".join(tags), image.parts[-3]])
    return path


@pytest.mark.usefixtures("quick")
def test_the_command_reports_map_and_f1(run: Path, tagged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["evaluate", str(run), str(tagged), "--multi-label", "--columns.label", "tags", "--workers", "0"]
    protocols = ["--protocols", "knn", "linear", "label-free"]
    assert cli.main([*argv, *protocols, "--seeds", "2", "--baseline"]) == 0
    said = capsys.readouterr().out
    found = json.loads((run / "evaluation.json").read_text())
    assert [row["protocol"] for row in found] == ["knn", "linear", "label-free"]
    for row in found[:2]:
        assert row["class_names"] == ["also", *(f"class{n}" for n in range(4))]
        assert row["classes"] == len(row["per_class"]) == 5
        assert row["settings"]["multi_label"] is True
        assert (row["top1"], [*row["measures"]]) == (row["measures"]["map"], ["map", "f1"])
        assert row["interval"] == row["intervals"]["map"]
        for name, value in row["measures"].items():
            assert row["intervals"][name][0] <= value <= row["intervals"][name][1]
        assert 0 < row["baseline"] < 1
        assert (row["confusion"], row["calibration"]) == ([], None)
        low, high = row["interval"]
        line = f"{100 * row['baseline']:.1f} -> {100 * row['top1']:.1f} %"
        assert f"{row['protocol']} multi-label mAP {line}" in said
        assert f"95 % interval {low:.2%} to {high:.2%}" in said
        assert f"micro F1 {row['measures']['f1']:.2%} (" in said
    assert len(found[1]["accuracies"]) == 2
    assert found[1]["deviation"] is not None
    assert found[2]["split"] == found[0]["split"] != {}
    assert cli.main([*argv, *protocols]) == 0  # with the cached features
    again = json.loads((run / "evaluation.json").read_text())
    assert next(row for row in again if row["protocol"] == "knn")["top1"] == found[0]["top1"]
    from lookalike.commands.report.evaluation_data import evaluations

    page = evaluations(found)
    assert page[0]["title"] == "k nearest neighbours, several classes per image"
    assert [metric["title"] for metric in page[0]["metrics"]] == ["Mean average precision", "Micro F1"]
    assert page[0]["top5"] is None


def test_protocols_for_one_class_are_refused_before_any_work(
    run: Path, tagged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["evaluate", str(run), str(tagged), "--multi-label", "--columns.label", "tags", "--workers", "0"]
    for name in ("logistic", "semi", "retrieval", "linear-augmented", "semi-finetune", "finetune"):
        assert cli.main([*argv, "--protocols", "knn", name]) == 1
        said = capsys.readouterr()
        assert f"{name} needs one class per image, but multi_label is set. Leave {name} out" in said.err
        assert "images at" not in said.out
    assert not (run / "evaluation.json").exists()


def test_from_python_with_a_random_split(run: Path, tagged: Path) -> None:
    from lookalike.data import Columns

    names = Columns(label="tags", split="")
    (entry,) = evaluate(run, tagged, holdout=0.25, multi_label=True, columns=names, protocols=["knn"], keep=False)
    assert entry.split["by"] == "holdout"
    assert entry.test_images == pytest.approx(12, abs=3)
    assert 0 < entry.top1 <= 1
