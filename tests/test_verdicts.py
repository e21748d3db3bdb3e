"""Which verdict looks at the features suggest, one by one and one after the other, and what is advised."""

import dataclasses
import json
from typing import Any

import pytest
import torch

from lookalike import training
from lookalike.methods.simclr import SimCLR
from lookalike.runs import Run
from lookalike.training import resolved
from lookalike.training.health import Course, Remedies, Seen, Verdict, early_looks, finding, ruined
from lookalike.training.looks import Change, Look, Neighbours, change, look

# ---------------------------------------------------------------- what one look suggests


FIRST = {
    "spread": 0.6, "effective_rank": 30.0, "alignment": 0.6, "uniformity": -1.4, "pair_auc": 0.6, "loss": 4.6,
    "head_spread": 1.0, "head_size": 1.0, "embedding_correlation": 0.5, "embedding_deviation": 0.3,
    "target_information": 0.3,
}  # fmt: skip
UP, BARELY_UP, SAME_AS_BEFORE = Change(0.10, 0.02, 0.2), Change(0.05, 0.02, 0.2), Change(0.01, 0.02, 0.2)
SURELY_UP_BUT_LITTLE = Change(0.019, 0.003, 0.2)
DOWN, STANDING = Change(-0.08, 0.02, 0.2), Change(0.0, 0.0, 0.0)
FELL, ROSE, AS_EVER = (
    Neighbours(0.9, 0.84, -0.09, -0.03),
    Neighbours(0.48, 0.57, 0.05, 0.13),
    Neighbours(0.5, 0.5, -0.04, 0.04),
)
RATE = Remedies(stated="--optim.lr")
OWN_METHOD = Remedies(known=False)
LACKS = Remedies(cause="There is no predictor. Leave --no-predictor out.")


def seen(change: Change | None = SAME_AS_BEFORE, step: int = 100, **options: Any) -> Seen:
    """A look in the middle of a training of 1,000 steps."""
    now = {name: options.pop(name) for name in (*FIRST, "update_ratio") if name in options}
    if change is not None:
        now.setdefault("pair_auc", FIRST["pair_auc"] + change.mean)
    first = FIRST | options.pop("first", {})
    return Seen(first=first, now=FIRST | now, change=change, step=step, steps=1000, **options)


@pytest.mark.parametrize(
    ("look", "word", "sure", "words"),
    [
        (seen(UP), "learning", True, "70.0% of pairs (60.0% untrained; +6.1 to +13.9 points, 95 % interval)"),
        (seen(BARELY_UP), "learning", False, "+1.1 to +8.9 points"),
        (seen(UP, spread=0.2), "learning", True, "70.0%"),
        (seen(UP, head_spread=0.01), "learning", True, "70.0%"),  # as in healthy trainings with a momentum teacher
        (seen(SAME_AS_BEFORE), "", False, ""),
        (seen(Change(0.015, 0.001, 0.02)), "", False, ""),  # surely more, and of no account
        (seen(DOWN), "", False, ""),  # as of many healthy trainings at first
        (seen(DOWN, 1000), "not learning", False, "worse than before training"),
        (seen(DOWN, 1000, labelled=True), "", False, ""),
        (seen(DOWN, 1000, neighbours=AS_EVER), "", False, ""),
        (seen(STANDING), "not learning", False, "the features did not change in 100 steps"),
        (seen(STANDING, still=100), "", False, ""),  # the encoder is frozen yet
        (seen(Change(0.001, 0.001, 0.01)), "", False, ""),
        (seen(Change(0.001, 0.001, 0.01), 1000), "not learning", False, "the features hardly changed in 1000 steps"),
        (seen(DOWN, spread=0.01, loss=4.7), "collapsed", False, "the loss did not fall"),
        (seen(DOWN, spread=0.01, loss=0.1), "collapsed", False, "a constant output minimises the loss"),
        (seen(UP, spread=0.01, loss=0.1), "learning", True, "70.0%"),  # as of ViTs under LARS, whose k-NN rose
        (seen(spread=0.01, loss=0.1), "", False, ""),
        (seen(Change(-0.01, 0.02, 0.2), 1000, spread=0.01), "collapsed", False, "spread of the features"),
        (seen(UP, spread=0.01, remedies=LACKS), "collapsed", True, "spread of the features"),
        (seen(None, spread=0.01), "collapsed", False, "spread of the features"),
        (seen(update_ratio=0.03), "not learning", False, "an optimizer step is 3.0% of the weights' norm"),
        (seen(UP, update_ratio=0.03), "learning", True, "70.0%"),
        (seen(SURELY_UP_BUT_LITTLE, update_ratio=0.03), "", False, ""),
        (seen(update_ratio=0.03, labelled=True), "", False, ""),
        (seen(update_ratio=0.014), "", False, ""),
        (seen(DOWN, head_spread=0.02, loss=0.1), "collapsed", False, "head's outputs"),
        (seen(DOWN, head_spread=0.02, loss=0.1, labelled=True), "", False, ""),
        (seen(head_spread=0.1, loss=0.1, remedies=OWN_METHOD), "collapsed", False, "head's outputs"),
        (seen(DOWN, head_size=201.0), "not learning", False, "the norm of the head's outputs grew 201-fold"),
        (seen(UP, head_size=201.0), "learning", True, "70.0%"),
        (seen(DOWN, head_size=201.0, labelled=True), "", False, ""),
        (seen(DOWN, effective_rank=6.0, labelled=True), "", False, ""),
        (seen(DOWN, spread=0.01, labelled=True), "collapsed", False, "spread of the features"),
        (seen(DOWN, effective_rank=2.0), "collapsed", False, "the effective rank of the features fell from 30 to 2"),
        (seen(DOWN, effective_rank=4.0), "", False, ""),
        (seen(effective_rank=2.0), "", False, ""),
        (seen(DOWN, target_information=0.014), "collapsed", False, "information in the targets fell from 0.3 to 0.014"),
        (seen(DOWN, target_information=0.02), "", False, ""),
        (seen(target_information=0.02), "", False, ""),
        (seen(UP, embedding_correlation=0.7, remedies=LACKS), "collapsed", True, "become redundant"),
        (seen(head_spread=0.02, loss=0.1), "", False, ""),
        (seen(DOWN, embedding_correlation=0.96), "collapsed", False, "their correlation is 0.960"),
        (seen(embedding_correlation=0.99), "", False, ""),  # as of Barlow Twins on its way
        (seen(embedding_correlation=0.96, remedies=LACKS), "collapsed", True, "their correlation is 0.960"),
        (seen(UP, embedding_correlation=0.94), "learning", True, "70.0%"),
        (seen(UP, embedding_deviation=0.04, loss=0.1), "collapsed", False, "spread of the embeddings"),
        (seen(DOWN, target_information=0.008), "collapsed", False, "targets are the same for all images"),
        (seen(UP, target_information=0.008), "unclear", False, "so nothing more is learnt. But a view is closer"),
        (seen(UP, target_information=0.008, remedies=LACKS), "collapsed", True, "targets are the same for all images"),
        (seen(UP, target_information=0.05), "learning", True, "70.0%"),
        (seen(UP, target_information=0.2, remedies=LACKS), "collapsed", True, "a collapse has begun"),
        (seen(UP, target_information=0.25, remedies=LACKS), "learning", True, "70.0%"),
        (seen(head_spread=0.7, remedies=LACKS), "collapsed", True, "head's outputs over the images fell from 1 to 0.7"),
        (seen(None, spread=float("nan")), "diverged", True, "not finite"),
        (seen(UP, head_spread=float("nan")), "learning", True, "70.0%"),
        (seen(loss=1e5), "diverged", True, "1e+05"),
        (seen(UP, lacking="all are blank"), "not learning", True, "all are blank. Nothing can be learnt from them."),
        (seen(UP, neighbours=FELL), "getting worse", True, "the k-NN went from 90.0% untrained to 84.0% (-9.0 to -3.0"),
        (seen(DOWN, 1000, neighbours=ROSE), "learning", True, "the k-NN went from 48.0% untrained to 57.0% (+5.0 to"),
        (seen(UP, neighbours=AS_EVER), "learning", True, "70.0%"),
        (seen(spread=0.01, neighbours=ROSE), "learning", True, "57.0%"),
        (seen(DOWN, spread=0.01, neighbours=ROSE, probed_now=False), "collapsed", False, "spread of the features"),
        (seen(DOWN, neighbours=ROSE, probed_now=False), "learning", True, "57.0%"),
        (seen(UP, neighbours=FELL, probed_now=False), "getting worse", True, "84.0%"),
        (seen(UP, neighbours=AS_EVER), "learning", True, "; the k-NN went from 50.0% untrained to 50.0% (-4.0 to"),
        (seen(UP, neighbours=Neighbours(0.287, 0.237, -0.1, 0.005)), "", False, ""),
        (seen(spread=0.01, neighbours=FELL), "collapsed", True, "did not fall; the k-NN went from 90.0%"),
        (seen(UP, neighbours=FELL, lacking="all are blank"), "not learning", True, "all are blank"),
        (seen(UP, neighbours=ROSE, lacking="all are blank"), "learning", True, "57.0%"),
        (seen(UP, 19), "", False, ""),
        (seen(spread=0.01, step=19), "", False, ""),
        (seen(STANDING, 19), "", False, ""),
        (seen(loss=1e5, step=1), "diverged", True, "1e+05"),
        (seen(neighbours=FELL, step=4), "getting worse", True, "90.0%"),
    ],
)  # fmt: skip
def test_what_a_look_suggests(look: Seen, word: str, sure: bool, words: str) -> None:
    found = finding(look)
    if not word:
        assert found is None
        return
    assert found is not None
    assert (found.verdict.word, found.sure) == (word, sure)
    assert words in found.verdict.why
    assert (found.verdict.remedy == "") is (word == "learning")
    assert found.verdict.is_alarm is (word not in ("learning", "unclear"))


@pytest.mark.parametrize(
    ("look", "remedy"),
    [
        (seen(STANDING, remedies=RATE), "Leave --optim.lr out: the method's own settings are fitted to these images."),
        (seen(STANDING, remedies=Remedies(epochs=20)), "Train for longer, such as with --epochs 40 or a --time."),
        (seen(STANDING, remedies=LACKS), "There is no predictor. Leave --no-predictor out."),
        (seen(DOWN, spread=0.01, remedies=RATE), "Leave --optim.lr out"),
        (seen(update_ratio=0.03, remedies=RATE), "Leave --optim.lr out"),
        (seen(update_ratio=0.03), "Give a longer --optim.warmup-epochs, or --optim.clip 1"),
        (seen(DOWN, spread=0.01), "`lejepa` learns fastest"),
        (seen(loss=1e5), "Give a longer --optim.warmup-epochs, or --optim.clip 1"),
        (seen(loss=1e5, remedies=RATE), "Leave --optim.lr out"),
        (
            seen(lacking="all are blank", remedies=Remedies(check="lookalike check a")),
            "Check the images: lookalike check a",
        ),
        (
            seen(neighbours=FELL),
            "Check that the views preserve what the classes differ in: lookalike views METHOD DATA",
        ),
        (seen(neighbours=FELL, remedies=RATE), "Leave --optim.lr out"),
        (seen(neighbours=FELL, remedies=Remedies(forgetting="Try more --frozen-epochs.")), "Try more --frozen-epochs."),
        (
            seen(DOWN, 1000),
            "Check that both views show what distinguishes an image from others: lookalike views METHOD DATA",
        ),
    ],
)
def test_what_is_advised(look: Seen, remedy: str) -> None:
    found = finding(look)
    assert found is not None
    assert remedy in found.verdict.remedy
    assert "ten times" not in found.verdict.remedy
    assert "tenth" not in found.verdict.remedy


@pytest.mark.parametrize(
    ("fits", "options", "stated"),
    [
        (True, {}, ""),
        (True, {"optim": dataclasses.replace(SimCLR.Config().optim, lr=0.0)}, "--optim.lr"),
        (False, {}, "--no-fit"),
        (False, {"hidden_dim": 64, "out_dim": 8}, "--no-fit, --hidden-dim and --out-dim"),
    ],
)
def test_options_that_differ_from_the_methods_own_settings_are_named(
    fits: bool, options: dict[str, Any], stated: str
) -> None:
    """A settled run has its fitted values, and is fitted no more; that is nobody's option."""
    run = Run(data=".", method=SimCLR.Config(**options), out="run", backbone="test_byobnet", epochs=9, batch_size=8)
    settled, _ = training.resolve(dataclasses.replace(run, image_size=32, fit=fits), 40)
    own = resolved.own_settings(settled, 40, fits)
    assert own is not None
    assert Remedies.of(settled, own, "", fits).stated == stated


def test_views_that_are_all_alike_leave_nothing_to_learn() -> None:
    easy, change = {"pair_auc": 1.0}, Change(0.0, 0.0, 0.001)
    assert finding(seen(change, first=easy, pair_auc=1.0)) is None
    found = finding(seen(change, 1000, first=easy, pair_auc=1.0))
    assert found is not None
    assert (found.verdict.word, "little to learn" in found.verdict.why) == ("not learning", True)
    fell = finding(seen(change, 1000, first=easy, pair_auc=1.0, loss=4.0))
    assert fell is not None
    assert fell.verdict.word == "learning"


def test_embeddings_that_began_alike_are_not_called_collapsed() -> None:
    """A ViT's first embeddings may say all the same."""
    found = finding(seen(UP, first={"embedding_correlation": 0.99}, embedding_correlation=0.98))
    assert found is not None
    assert found.verdict.word == "learning"


@pytest.mark.parametrize(
    ("at_first", "now", "word"), [(1e-6, 1e-8, "learning"), (0.007, 0.005, "learning"), (0.007, 1e-4, "unclear")]
)
def test_targets_that_began_alike_are_not_called_collapsed(at_first: float, now: float, word: str) -> None:
    """A ViT with DINOv2's layer scale of 1e-5 makes nearly the same of all images before it has learnt."""
    found = finding(seen(UP, first={"target_information": at_first}, target_information=now))
    assert found is not None
    assert found.verdict.word == word


# ---------------------------------------------------------------- look after look


def words(*looks: Seen) -> list[str]:
    course = Course()
    return [verdict.word if (verdict := course.see(look)) is not None else "" for look in looks]


def test_nothing_is_said_before_something_is_known() -> None:
    assert words(seen(SAME_AS_BEFORE), seen(DOWN), seen(BARELY_UP), seen(SAME_AS_BEFORE)) == ["", "", "", ""]


def test_a_word_needs_two_looks_in_a_row_or_one_that_is_sure() -> None:
    fallen = seen(DOWN, spread=0.01)
    assert words(fallen, seen(), fallen, fallen) == ["", "", "", "collapsed"]
    assert words(seen(BARELY_UP), seen(BARELY_UP)) == ["", "learning"]
    assert words(seen(UP)) == ["learning"]
    assert words(seen(BARELY_UP), fallen, seen(BARELY_UP)) == ["", "", ""]
    assert words(seen(DOWN, head_size=200.0), fallen) == ["", "collapsed"]


def test_a_verdict_does_not_flip_without_evidence() -> None:
    assert words(seen(UP), seen(), seen(DOWN), seen(DOWN, spread=0.01), seen()) == ["learning"] * 5
    fallen = seen(DOWN, spread=0.01)
    assert words(fallen, fallen, seen(), seen(BARELY_UP), seen()) == ["", *["collapsed"] * 4]
    assert words(seen(UP), seen(loss=1e5)) == ["learning", "diverged"]


def test_the_last_look_counts_by_itself() -> None:
    assert words(seen(UP), seen(step=1000)) == ["learning", "unclear"]
    assert words(seen(UP), seen(DOWN, spread=0.01, step=1000)) == ["learning", "collapsed"]
    assert words(seen(BARELY_UP, 1000)) == ["learning"]


def test_a_run_of_few_steps_is_too_short_to_tell() -> None:
    for steps in (1, 4, 19):
        verdict = Course().see(dataclasses.replace(seen(STANDING, steps), steps=steps))
        assert verdict is not None
        assert verdict.word == "too short to tell"
        assert not verdict.is_alarm
        assert verdict.why == f"{steps} step{'s' if steps > 1 else ''}; a measurable change takes at least 20."
        assert "lr" not in verdict.remedy
    assert words(dataclasses.replace(seen(STANDING, 20), steps=20)) == ["not learning"]


def test_what_stays_unknown_is_called_so_and_names_the_probe() -> None:
    verdict = Course().see(seen(step=1000))
    assert verdict is not None
    assert verdict.why.startswith("no clear gain: a view is closer")
    assert "--probe TRAIN TEST" in verdict.remedy
    probed = Course().see(seen(step=1000, neighbours=AS_EVER))
    assert probed is not None
    assert "the k-NN went from 50.0% untrained to 50.0%" in probed.why
    assert "--probe" not in probed.remedy
    lower = Course().see(seen(UP, step=1000, neighbours=Neighbours(0.287, 0.237, -0.1, 0.005)))
    assert lower is not None
    assert lower.word == "unclear"
    assert "in 70.0% of pairs" in lower.why
    assert ", and the k-NN went from 28.7% untrained to 23.7% (-10.0 to +0.5 points, 95 % interval)" in lower.why


@pytest.mark.parametrize("at", range(5))
def test_the_state_survives(at: int) -> None:
    looks = [seen(UP), seen(DOWN, spread=0.01), seen(DOWN, spread=0.01), seen(BARELY_UP), seen(BARELY_UP)]
    whole = Course()
    expected = [whole.see(look) for look in looks]
    before, after = Course(), Course()
    found = [before.see(look) for look in looks[:at]]
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert found + [after.see(look) for look in looks[at:]] == expected


def test_early_looks_are_at_5_10_and_15_percent() -> None:
    assert early_looks(1000) == {50, 100, 150}
    assert early_looks(300) == {20, 30, 45}
    assert early_looks(93) == {20, 30}
    assert early_looks(50) == {20}
    assert early_looks(39) == set()


def test_a_training_of_0_1_has_no_first_images_and_a_wider_interval() -> None:
    generator = torch.Generator().manual_seed(0)
    image, own, other = (torch.randn(256, 8, generator=generator) for _ in range(3))
    first, now = look(image + 2 * own, image + 2 * other), look(image + own, image + other)
    paired, alone = change(first, now), change(Look(first.figures, torch.zeros(0)), now)
    assert paired is not None
    assert alone is not None
    assert alone.mean == pytest.approx(paired.mean)
    assert alone.error > 1.5 * paired.error
    assert finding(seen(alone, 1000)) is None or alone.away > 0  # nothing is said of whether it moved


def test_ruined_names_what_is_not_finite() -> None:
    fine, bad = [torch.zeros(2)], [torch.tensor([float("inf")])]
    assert "images of the last batch" in ruined(3, 1.0, bad).why
    assert "lookalike check" in ruined(3, 1.0, bad).remedy
    assert "the loss is nan" in ruined(3, float("nan"), fine).why
    assert "backward pass" in ruined(3, 1.0, fine).why
    assert str(Verdict("learning", "so it is.")) == "learning: so it is."
