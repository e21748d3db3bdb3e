"""`--init` with `--probe`: a fall of the k-NN is reported at once and in the end, and no advice contradicts it."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from scipy.stats import binomtest
from torch import Tensor

from lookalike import training
from lookalike.evaluation import interval, interval_of_change
from lookalike.methods.simclr import SimCLR
from lookalike.optim import Optim
from lookalike.runs import Folder, Run
from lookalike.training import monitor
from lookalike.training.forgetting import ERROR, Forgetting
from lookalike.training.health import Verdict
from lookalike.training.monitor import Probe
from lookalike.views import View

TEN_TIMES = Verdict("not learning", "the features hardly moved in 4 steps.", "Try --optim.lr 20 (ten times as much).")


def hits(correct: int, images: int, first: int = 0) -> Tensor:
    """(M,) bool: so many images in a row are classified correctly."""
    found = torch.zeros(images, dtype=torch.bool)
    found[first : first + correct] = True
    return found


def run_of(data: Path, out: Path, epochs: int = 4, **options: object) -> Run:
    method = SimCLR.Config(
        views=(View(size=32, count=2, scale=(0.4, 1.0)),), hidden_dim=16, out_dim=8, optim=Optim("sgd", lr=0.1)
    )
    return Run(
        data=str(data), out=str(out), method=method, backbone="test_efficientnet", epochs=epochs, batch_size=8,
        image_size=32, workers=0, save_every=1, **options,
    )  # fmt: skip


RUN = run_of(Path("photos"), Path("run"), 40, init="old", frozen_epochs=4.0)


# ---------------------------------------------------------------- the interval


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (1, 5), (0, 6), (2, 20), (30, 50), (9, 9), (12, 3)])
def test_the_interval_leaves_out_no_change_where_mcnemars_exact_test_does(won: int, lost: int) -> None:
    images = 200
    before = hits(100, images)
    after = before.clone()
    after[:lost], after[100 : 100 + won] = False, True
    low, high = interval_of_change(before, after)
    change = (won - lost) / images
    assert low <= change <= high
    assert low >= -1
    assert high <= 1
    differs = won + lost > 0 and binomtest(won, won + lost).pvalue < 0.05
    assert (high < 0 or low > 0) == differs


def test_it_is_narrower_than_two_accuracies_where_most_images_stay_as_they_were() -> None:
    before = hits(158, 250)  # 63 %
    after = hits(140, 250)  # 56 %
    assert interval(158 / 250, 250)[0] < interval(140 / 250, 250)[1]
    assert interval_of_change(before, after)[1] < -0.04


# ---------------------------------------------------------------- looks


def test_of_trainings_that_forget_nothing_few_are_warned_however_often_one_looks() -> None:
    random, warned, looks = np.random.default_rng(0), 0, 20
    for _ in range(300):
        # whether an image is hit changes by chance at each look, as often to the better as to the worse
        likely = random.random(200)
        before, *later = torch.from_numpy(random.random((1 + looks, 200)) < likely)
        watch = Forgetting(before, looks, RUN)
        said = [*(watch.see(i, found) for i, found in enumerate(later)), watch.at_end()]
        warned += any(said)
    assert warned / 300 <= ERROR + 3 * (ERROR / 300) ** 0.5


def test_a_fall_on_the_way_is_reported_once_and_in_the_end() -> None:
    watch = Forgetting(hits(158, 250), 20, RUN)
    assert watch.at_end() == ""
    assert watch.see(4, hits(157, 250)) == ""
    first = watch.see(8, hits(110, 250))
    assert first.startswith("WARNING  step 8: the k-NN fell from 63.2% before training to 44.0% (by ")
    assert first.endswith("what --init knew. Try --optim.lr 0.01 (a tenth), or --frozen-epochs 20 (half of them).")
    assert watch.see(12, hits(100, 250)) == ""  # it was said
    assert watch.see(16, hits(155, 250)) == ""
    assert watch.at_end().startswith(
        "WARNING: the k-NN was 63.2% before training, 40.0% at step 12 and is 62.0% now: the encoder forgot part"
    )
    watch.see(20, hits(140, 250))
    assert watch.at_end().startswith("WARNING: the k-NN fell from 63.2% before training to 56.0% (by ")


def test_half_of_the_epochs_is_not_advised_where_more_are_frozen() -> None:
    watch = Forgetting(hits(158, 250), 20, dataclasses.replace(RUN, frozen_epochs=30.0))
    assert watch.see(8, hits(110, 250)).endswith("what --init knew. Try --optim.lr 0.01 (a tenth).")


def test_a_look_at_other_images_is_passed_over() -> None:
    watch = Forgetting(hits(158, 250), 20, RUN)
    assert watch.see(8, hits(10, 249)) == ""
    assert watch.at_end() == ""


def test_advice_that_contradicts_the_probe_is_replaced() -> None:
    watch = Forgetting(hits(158, 250), 20, RUN)
    assert watch.verdict(TEN_TIMES) is TEN_TIMES
    watch.see(8, hits(110, 250))
    found = watch.verdict(TEN_TIMES)
    assert found.word == "not learning"
    assert "hardly moved" not in str(found)
    assert "ten times" not in str(found)
    assert "the k-NN was 63.2% before training, 44.0% at step 8. Try --optim.lr 0.01 (a tenth)" in str(found)
    learning = Verdict("learning", "it does.")
    assert watch.verdict(learning) is learning
    watch.see(12, hits(158, 250))
    assert "ten times" not in str(watch.verdict(TEN_TIMES))  # it fell once, and would again


# ---------------------------------------------------------------- trainings


@pytest.fixture
def first(labelled: Path, tmp_path: Path) -> str:
    training.pretrain(run_of(labelled / "train", tmp_path / "first", 1))
    return str(tmp_path / "first")


def told(monkeypatch: pytest.MonkeyPatch, looks: Iterator[Tensor]) -> None:
    """What the probe finds, look by look."""
    monkeypatch.setattr(Probe, "__call__", lambda self, encoder: next(looks))


def probe_of(labelled: Path) -> tuple[str, str]:
    return str(labelled / "train"), str(labelled / "test")


def test_a_training_warns_at_the_step_and_in_the_end(
    labelled: Path, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(monkeypatch, iter([hits(16, 16), hits(15, 16), hits(3, 16), hits(4, 16), hits(16, 16)]))
    run = run_of(labelled / "train", tmp_path / "next", init=first, frozen_epochs=0.0, probe=probe_of(labelled))
    rows = training.pretrain(run).metrics
    said = Folder(tmp_path / "next").log.read_text()
    assert "WARNING  step 8: getting worse: the k-NN went from 100.0% before training to 18.8%" in said
    assert (
        "the encoder forgets what --init knew. Try --optim.lr 0.01 (a tenth), or --frozen-epochs 2 (half of them)."
        in said
    )
    assert said.count("WARNING  step") == 1
    assert "WARNING: the k-NN was 100.0% before training, 18.8% at step 8 and is 100.0% now" in said
    assert [row.get("verdict") for row in rows if row["step"] in (8, 12)] == ["getting worse"] * 2


def test_a_fall_is_seen_when_the_probe_looks(
    labelled: Path, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(monkeypatch, iter([hits(16, 16), hits(16, 16), hits(3, 16)]))
    monkeypatch.setattr(monitor, "PROBES", 2)
    run = run_of(labelled / "train", tmp_path / "next", init=first, frozen_epochs=2.0, probe=probe_of(labelled))
    training.pretrain(run)
    said = Folder(tmp_path / "next").log.read_text()
    assert re.findall(r"WARNING  (.*): the k-NN went", said) == ["step 16: getting worse"]
    assert "Verdict: getting worse: the k-NN went from 100.0% before training to 18.8%" in said
    assert "WARNING: the k-NN" not in said  # the verdict says it


def test_a_resumed_training_remembers_what_was_known(
    labelled: Path, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
            trainer.should_stop = trainer.global_step == 9

    told(monkeypatch, iter([hits(16, 16), hits(15, 16), hits(3, 16), hits(4, 16), hits(5, 16)]))
    options = {"init": first, "frozen_epochs": 0.0, "probe": probe_of(labelled)}
    training.pretrain(run_of(labelled / "train", tmp_path / "next", **options), callbacks=[Stop()])
    training.pretrain(run_of(labelled / "train", tmp_path / "next", resume=True, **options))
    said = Folder(tmp_path / "next").log.read_text()
    assert re.findall(r"WARNING  (step \d+): getting worse", said) == ["step 8"]
    assert "Verdict: getting worse: the k-NN went from 100.0% before training to 31.2%" in said


def test_without_a_probe_the_end_says_that_nothing_shows_it(labelled: Path, first: str, tmp_path: Path) -> None:
    line = "Whether the encoder forgot what --init knew is not measured. To measure it: --probe TRAIN TEST"
    assert line not in Folder(Path(first)).log.read_text()
    training.pretrain(run_of(labelled / "train", tmp_path / "next", 1, init=first))
    assert line in Folder(tmp_path / "next").log.read_text()
