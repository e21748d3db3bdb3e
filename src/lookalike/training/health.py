"""The verdict: whether a training learns, in words, from what is seen of it."""

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from ..core import Config
from ..printing import counted, first_of, pasteable
from ..runs import Resolved, Run, dotted, method_name, plain
from .looks import LIKELY, NAMES, Change, Neighbours

SETTLED = 20
"""Optimizer steps before which nothing can be told: in the slowest healthy trainings of the study the features had
changed by less than chance makes of them in fewer steps (`docs/health.md`)."""
EARLY = (0.05, 0), (0.1, 10), (0.15, 10)
"""Looks that there are in any case: after a share of the steps, and so many steps after `SETTLED` at the soonest. The
second may confirm what the first suggests."""
EXPLODED = 1000.0
"""A loss so many times its first size is on its way to infinity."""
RUINED = 3
"""After so many steps without finite gradients in a row, the weights may be ruined already."""

COLLAPSED = 0.15
"""Features, or embeddings that a loss keeps apart, have collapsed where their spread is below this share of the first.
In healthy trainings the lowest was 0.34, in collapsed ones the highest 0.11 (`docs/health.md`)."""
HEADS = 0.05
"""The same of the heads' outputs, where images are recognised worse than at first, too. Either alone is seen in healthy
trainings, whose heads had down to 0.001 of their first spread; both were not."""
SAME = 0.95
"""Numbers of an embedding that correlate so much say all the same, where images are clearly recognised worse or the
cause is known. Barlow Twins that learns had 0.99 on its way, without its second term it had 1 (`docs/health.md`)."""
TOLD = 0.01
"""A teacher's targets that say less about their image, as a share of the most there is, are the same for all images. In
healthy trainings the lowest was 0.16 (`docs/health.md`), in vague ones that still learnt by KoLeo 0.03."""
VAGUE = 0.1
"""Targets of less than this share of their first information are on the way there, where images are recognised worse
than at first. In healthy trainings the lowest share was 0.13."""
FAINT = 1e-3
"""Targets that said less at first are not judged by it: networks whose blocks begin near zero (DINOv2's layer scale of
1e-5) make nearly the same of all images."""
NARROWED = 0.75
"""Below this share of its first size, a figure that falls in a collapse is a sign of it where the configuration lacks
what prevents one."""

LEARNT = 0.05
"""An encoder learns once it has shed this share of the first one's mistakes in recognising images, surely."""
SURE, CLEARLY = 3.29, 2.58
"""Standard errors that a change is away from none: 99.9 and 99 % intervals. `LIKELY` is that of 95 %."""
GROWN = 100.0
"""Heads' outputs so many times as long as at first come from steps that are far too long, where images are recognised
worse than at first, too. In healthy trainings without labels they grew 91 times at most, with 100 times the rate 200
times or more; SupCon's grew 310 times and learnt."""
OVERLONG = 0.015
"""Optimizer steps longer than this fraction of the weights (`looks.UpdateRatio`) are far too long where recognition has
not risen. In healthy trainings the highest was 0.010, with 100 times the rate the lowest 0.025 (`docs/health.md`)."""
NARROW = 0.25
"""Features whose effective rank is below this share of the first have collapsed if images are clearly recognised worse
than at first, too. Either alone is seen in healthy trainings, which had down to 0.02 of the first rank."""
STILL = 1e-4
"""Features have not moved at all where images' shares in `pair_auc` differ by less from the first, on average."""
HARDLY = 0.05
"""The same for a whole training, as a share of the first mistakes in `pair_auc`: they hardly moved. In healthy ones
it was 0.25 or more."""

SPREADS = {"spread": "features", "head_spread": "head's outputs", "embedding_deviation": "embeddings"}
"""Figures that all but vanish in a collapse, where there are such, and whose spread over the images they are."""
OWN = ("embedding_correlation", "embedding_deviation", "target_information")
"""Figures of methods' own that are judged by their first ones, too."""

Word = Literal[
    "learning", "not learning", "getting worse", "collapsed", "diverged", "unclear", "too short to tell"
]  # fmt: skip


ALARMS: tuple[Word, ...] = ("not learning", "getting worse", "collapsed", "diverged")


@dataclass(frozen=True)
class Verdict:
    """What a training's figures amount to."""

    word: Word
    why: str
    """What was seen, in figures, and its likely cause."""
    remedy: str = ""
    """What to try; empty where nothing is wrong."""

    def __str__(self) -> str:
        return f"{self.word}: {self.why}{' ' + self.remedy if self.remedy else ''}"

    @property
    def is_alarm(self) -> bool:
        """Whether something is wrong."""
        return self.word in ALARMS


def early_looks(steps: int) -> frozenset[int]:
    """The steps of a training of so many after which it is looked at early; none of a very short one."""
    marks = (max(SETTLED + later, math.floor(share * steps)) for share, later in EARLY)
    return frozenset(mark for mark in marks if 2 * mark <= steps)


# ---------------------------------------------------------------- what helps


@dataclass(frozen=True)
class Remedies:
    """What to try, for a training that goes wrong."""

    stated: str = ""
    """The options that differ from the method's own settings for these images, in words; empty where none does."""
    cause: str = ""
    """What the configuration lacks, and what to give; see `Method.diagnose`."""
    method: str = ""
    """Its name in the library's table, or the class of one's own."""
    known: bool = True
    """Whether the method is one of the library's."""
    check: str = "lookalike check DATA"
    views: str = "lookalike views METHOD DATA"
    epochs: int = 1
    forgetting: str = ""
    """Against forgetting what `--init` knew; empty where that is not looked for."""

    @staticmethod
    def of(run: Resolved, own: Config | None, cause: str, fits: bool = True) -> "Remedies":
        """What helps a settled run.

        Args:
            own: what the configuration were, had the user stated nothing; None where there is none to compare with.
            cause: see `Method.diagnose`.
            fits: whether the run was fitted to its images before it was settled; `--no-fit` leaves it as it was stated.
        """
        from ..methods import METHODS

        method, data = method_name(run.method), run.data if isinstance(run.data, str | os.PathLike) else "DATA"
        more = [] if run.channels == Run.channels else ["--channels", run.channels]
        return Remedies(
            stated=_stated(run.method, own, fits) if own is not None else "",
            cause=cause,
            method=method,
            known=method in METHODS,
            check=pasteable("lookalike", "check", data, *more),
            views=pasteable("lookalike", "views", method, data, "--image-size", run.image_size, *more)
            if method in METHODS
            else "lookalike.training.draw_views(run, Path('views.png'))",
            epochs=run.epochs,
        )

    def settings(self) -> str:
        """What is wrong with the settings, or another method where they are the method's own."""
        if self.cause:
            return self.cause
        if self.stated:
            return f"Leave {self.stated} out: the method's own settings are fitted to these images."
        if self.method == "lejepa":  # of all without labels it gained most in 300 steps: docs/fitting.md
            return "Another method may suit these images better: `lookalike compare` ranks several."
        return "`lejepa` learns soonest in short trainings, and `lookalike compare` ranks several methods."

    def apart(self) -> str:
        """Against one answer for all images."""
        if self.cause or self.stated or self.known:
            return self.settings()
        return (
            "See that the loss keeps images apart: negatives, a variance term, or a stopped gradient and a predictor."
        )

    def longer(self) -> str:
        return f"Train for longer, such as with --epochs {2 * self.epochs} or a --time."

    def steadier(self) -> str:
        """For steps that are too long."""
        if self.cause or self.stated:
            return self.settings()
        return "Give a longer --optim.warmup-epochs, or --optim.clip 1: they make the steps shorter."


MOST_OPTIONS = 7
"""Options that are named; of more there are so many that the rest is counted."""


def _stated(cfg: Config, own: Config, fits: bool) -> str:
    """The options that keep a training from the method's own settings, in words, but for those of views."""
    there, here = dotted(plain(own)), dotted(plain(cfg))
    options = [] if fits else ["--no-fit"]
    for name, value in here.items():
        if name.startswith("views") or there.get(name) == value:
            continue
        *path, last = name.replace("_", "-").split(".")
        options.append(f"--{'.'.join([*path, f'no-{last}' if value is False else last])}")
    options.sort(key=lambda option: option not in ("--optim.name", "--optim.lr"))  # first what matters most
    if 1 < len(options) <= MOST_OPTIONS:
        return f"{', '.join(options[:-1])} and {options[-1]}"
    return first_of(options, MOST_OPTIONS - 1, lambda left: counted(left, "more option"))


# ---------------------------------------------------------------- rules


@dataclass(frozen=True)
class Seen:
    """All that is known when a verdict is asked for."""

    first: Mapping[str, float]
    """Figures of the first encoder, `loss` of the first steps, and, of the first step, `head_spread` and `head_size`
    if there is a head, and those of `OWN` that the method has."""
    now: Mapping[str, float]
    """The same now."""
    change: Change | None
    step: int
    steps: int
    still: int = 0
    """Steps at the beginning in which the encoder is frozen."""
    lacking: str = ""
    labelled: bool = False
    """Whether images of a class are to become alike: then they need not be recognised, nor heads part them."""
    neighbours: Neighbours | None = None
    """Of a probe, where there is one that has looked."""
    probed_now: bool = True
    """Whether the probe looked at this step, and not some steps ago."""
    start: str = "untrained"
    """What to call the first encoder."""
    remedies: Remedies = field(default_factory=Remedies)

    @property
    def is_last(self) -> bool:
        return self.step >= self.steps


@dataclass(frozen=True)
class Finding:
    """A verdict that a look suggests, and whether it needs no second look."""

    verdict: Verdict
    sure: bool = False


def finding(seen: Seen) -> Finding | None:
    """What a look suggests; None where it tells nothing.

    In this order: what is not finite; a probe that rose; images that hold nothing; collapses; a probe that fell;
    steps that are too long; features that do not move; recognition that rose, or fell by the end.
    """
    if (found := _diverged(seen)) is not None:
        return found
    probed, settled = _probed(seen), seen.step >= SETTLED
    collapsed = _collapsed(seen) if settled else None
    if probed is not None and not probed.verdict.is_alarm:
        return probed if seen.probed_now or collapsed is None else collapsed  # it rose some steps ago
    if seen.lacking:
        return Finding(empty(seen.lacking, seen.remedies), sure=True)
    if probed is not None and collapsed is not None and seen.neighbours is not None:
        why = f"{collapsed.verdict.why.removesuffix('.')}; {seen.neighbours.words(seen.start)}."
        return Finding(dataclasses.replace(collapsed.verdict, why=why), sure=True)
    if probed is not None or not settled:
        return probed
    return collapsed or _overlong(seen) or _unmoved(seen) or _recognising(seen)


def empty(lacking: str, remedies: Remedies) -> Verdict:
    """The verdict where the images hold nothing."""
    return Verdict("not learning", f"{lacking}. Nothing can be learnt from them.", f"Look at them: {remedies.check}")


def _diverged(seen: Seen) -> Finding | None:
    helps = seen.remedies.steadier()
    if not all(math.isfinite(seen.now[name]) for name in NAMES):
        return Finding(Verdict("diverged", "the encoder's features are not finite.", helps), sure=True)
    loss, before = seen.now["loss"], seen.first["loss"]
    if abs(loss) > EXPLODED * max(1.0, abs(before)):
        return Finding(Verdict("diverged", f"the loss went from {before:.3g} to {loss:.3g}.", helps), sure=True)
    return None


def _probed(seen: Seen) -> Finding | None:
    """What labels say counts more than what views say."""
    probe = seen.neighbours
    if probe is None or probe.low <= 0 <= probe.high:
        return None
    why, helps = probe.words(seen.start), seen.remedies
    if probe.low > 0:
        return Finding(Verdict("learning", f"{why}."), sure=True)
    if helps.forgetting:
        found = Verdict("getting worse", f"{why}: the encoder forgets what --init knew.", helps.forgetting)
    elif helps.cause or helps.stated:
        found = Verdict("getting worse", f"{why}.", helps.settings())
    else:
        found = Verdict(
            "getting worse", f"{why}.", f"See that the views keep what the classes differ in: {helps.views}"
        )
    return Finding(found, sure=True)


def _collapsed(seen: Seen) -> Finding | None:
    first, now, helps = seen.first, seen.now, seen.remedies
    sure = bool(helps.cause)  # what is seen was to be expected

    def found(why: str) -> Finding:
        return Finding(Verdict("collapsed", why, helps.apart()), sure)

    same = now.get("embedding_correlation", 0.0)
    if same > max(SAME, first.get("embedding_correlation", 0.0)) and (sure or _may_be_worse(seen)):
        return found(f"the numbers of an embedding say the same: they correlate by {same:.3f}.")
    told, was_told = now.get("target_information", 1.0), first.get("target_information", 0.0)
    if was_told >= FAINT and told < min(TOLD, COLLAPSED * was_told):
        return found(
            f"the teacher's targets are the same for all images: they tell {told:.2g} of 1, at first {was_told:.2g}."
        )
    limits = {"embedding_deviation": COLLAPSED}
    if sure or _may_be_worse(seen):  # features that shrank, and recognise images as well as before, are no collapse
        limits["spread"] = COLLAPSED
    # features may get better while a head makes nearly one answer of them, in methods that are known to work
    # where images of a class are to become alike, that they are recognised worse says nothing
    away = math.inf if seen.change is None or seen.labelled else seen.change.away
    most = 0 if seen.is_last else -1
    if away < (most if helps.known else LIKELY):
        limits["head_spread"] = HEADS if helps.known else COLLAPSED
    if away < most:
        limits["target_information"] = VAGUE
    for name, limit in limits.items():
        if _share(seen, name) < limit and (name != "target_information" or was_told >= FAINT):
            return found(f"{_fell(seen, name)}: {_how(seen)}.")
    if away < most and GROWN < (size := _share(seen, "head_size")) < math.inf:
        why = (
            f"the head's outputs are {size:.3g} times as long as at first, and {_known(seen)}: the steps are too long."
        )
        return Finding(Verdict("not learning", why, helps.steadier()), sure)
    if away < -CLEARLY and _share(seen, "effective_rank") < NARROW:
        rank, was = now["effective_rank"], first["effective_rank"]
        return found(f"the features keep to {rank:.2g} directions, at first {was:.2g}, and {_known(seen)}.")
    if helps.cause:
        if 1 - same < NARROWED * (1 - first.get("embedding_correlation", 0.0)):
            return found(f"the numbers of an embedding come to say the same: they correlate by {same:.2f}.")
        for name in (*SPREADS, "target_information"):
            if _share(seen, name) < NARROWED:
                return found(f"{_fell(seen, name)}, on the way to one answer for all images.")
    return None


def _may_be_worse(seen: Seen) -> bool:
    """Whether images are clearly recognised worse than at first, or classified worse, or neither can be said."""
    if seen.change is None or seen.labelled or (seen.neighbours is not None and seen.neighbours.high < 0):
        return True
    return seen.change.away < (0 if seen.is_last else -LIKELY)


def _share(seen: Seen, name: str) -> float:
    """A figure as a share of its first; infinite where there is none."""
    if name not in seen.first or name not in seen.now or not math.isfinite(seen.now[name]):
        return math.inf
    return seen.now[name] / seen.first[name] if seen.first[name] else math.inf


def _fell(seen: Seen, name: str) -> str:
    what = f"the spread of the {SPREADS[name]} over the images" if name in SPREADS else "what targets tell of an image"
    return f"{what} went from {seen.first[name]:.2g} to {seen.now[name]:.2g}"


def _how(seen: Seen) -> str:
    loss, before = seen.now["loss"], seen.first["loss"]
    if before - loss > 0.5 * max(abs(loss), abs(before)):
        return "one answer for all images is enough for the loss"
    return "images get nearly one answer, and the loss did not fall with it"


def _overlong(seen: Seen) -> Finding | None:
    ratio = seen.now.get("update_ratio", 0.0)
    if seen.change is None or seen.labelled or ratio < OVERLONG or _rose(seen, LIKELY):
        return None
    why = f"an optimizer step changes the weights by {ratio:.1%} of their length, and {_known(seen)}: it is too long."
    return Finding(Verdict("not learning", why, seen.remedies.steadier()))


def _unmoved(seen: Seen) -> Finding | None:
    change, helps = seen.change, seen.remedies
    if change is None or seen.step <= seen.still or _rose(seen, LIKELY):
        return None
    if change.moved > (HARDLY * (1 - seen.first["pair_auc"]) if seen.is_last else STILL):
        return None
    taken = counted(seen.step, "step")
    if change.moved <= STILL:
        why = f"the features did not move in {taken}."
    else:
        why = f"the features hardly moved in {taken}: {_known(seen)}."
    remedy = helps.settings() if helps.cause or helps.stated else helps.longer()
    return Finding(Verdict("not learning", why, remedy))


def _rose(seen: Seen, least: float) -> bool:
    """Whether recognition rose by more than so many standard errors, and by enough to count."""
    change = seen.change
    mistakes = 1 - seen.first["pair_auc"]
    return change is not None and change.away >= least and change.mean >= LEARNT * mistakes


def _recognising(seen: Seen) -> Finding | None:
    first, now, helps, probe = seen.first, seen.now, seen.remedies, seen.neighbours
    # a fall within the probe's interval is no alarm, and with it views alone do not show that the encoder learns
    lower = probe is not None and probe.now < probe.before
    if 1 - first["pair_auc"] < 0.01:  # so easy that mistakes do not tell; the loss may
        if not seen.is_last or lower:
            return None
        if now["loss"] < first["loss"] - 0.05 * abs(first["loss"]):
            why = f"{_known(seen)}, and the loss fell from {first['loss']:.3g} to {now['loss']:.3g}."
            return Finding(Verdict("learning", why))
        return Finding(
            Verdict(
                "not learning", f"{_known(seen)}: there is next to nothing to learn.",
                "Make the views differ more, by a lower --views.0.scale or more --views.0.jitter, and look at them: "
                f"{helps.views}",
            )
        )  # fmt: skip
    if _rose(seen, LIKELY):
        as_probed = "" if probe is None else f"; {probe.words(seen.start)}"
        verdict = Verdict("learning", f"{_known(seen)}{as_probed}.")
        return None if lower else Finding(verdict, sure=_rose(seen, SURE))
    asked = seen.is_last and not seen.labelled and (probe is None or lower)
    if asked and seen.change is not None and seen.change.away < -SURE:
        remedy = (
            helps.settings()
            if helps.cause or helps.stated
            else f"See that both views show what tells an image from others: {helps.views}"
        )
        return Finding(Verdict("not learning", f"{_known(seen)}: worse than at first.", remedy))
    return None


def _known(seen: Seen) -> str:
    """How well an image is recognised, then and now."""
    known = (
        f"a view is nearer to its image's other view than to another image's in {seen.now['pair_auc']:.1%} of cases "
        f"({seen.first['pair_auc']:.1%} {seen.start}"
    )
    return f"{known}; {seen.change.points()}, 95 % interval)" if seen.change is not None else f"{known})"


def unknown(seen: Seen) -> Verdict:
    """What is said of a whole training whose last look tells nothing."""
    if seen.step < SETTLED:
        return Verdict(
            "too short to tell", f"{counted(seen.step, 'step')}; fewer than {SETTLED} change too little to be seen.",
            "Give more --epochs, or a --time.",
        )  # fmt: skip
    probe = "" if seen.neighbours is None else f", and {seen.neighbours.words(seen.start)}"
    remedy = seen.remedies.longer()
    if seen.neighbours is None:
        remedy += " With labelled images --probe TRAIN TEST tells more."
    return Verdict("unclear", f"no clear gain: {_known(seen)}{probe}.", remedy)


# ---------------------------------------------------------------- look after look


class Course:
    """The verdict on a training, look after look. It changes only on evidence, and says nothing before there is some.

    A word needs two looks in a row that suggest it, or one that is sure; that something is wrong needs two that suggest
    some fault. The last look counts by itself: it is of the encoder that is left, and what it does not bear out is
    withdrawn.
    """

    def __init__(self) -> None:
        self.verdict: Verdict | None = None
        """None until something is known."""
        self.suspected: str = ""
        """The word that the last look suggested and that is not the verdict's."""

    def state_dict(self) -> dict[str, Any]:
        verdict = None if self.verdict is None else dataclasses.asdict(self.verdict)
        return {"verdict": verdict, "suspected": self.suspected}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.verdict = None if state["verdict"] is None else Verdict(**state["verdict"])
        self.suspected = state["suspected"]

    def see(self, seen: Seen) -> Verdict | None:
        """Takes in a look, and returns the verdict."""
        found = finding(seen)
        if seen.is_last:
            self.verdict, self.suspected = found.verdict if found is not None else unknown(seen), ""
            return self.verdict
        if found is not None and (found.sure or self._expects(found.verdict)):
            self.verdict, self.suspected = found.verdict, ""
        else:
            self.suspected = "" if found is None else found.verdict.word
        return self.verdict

    def _expects(self, verdict: Verdict) -> bool:
        """Whether a verdict was given or suspected before: of those that say that something is wrong any."""
        said = {self.suspected, "" if self.verdict is None else self.verdict.word}
        return verdict.word in said or (verdict.is_alarm and self.suspected in ALARMS)

    def set(self, verdict: Verdict) -> None:
        """A verdict that needs no look."""
        self.verdict, self.suspected = verdict, ""


def ruined(skipped_in_a_row: int, loss: float, views: list[Tensor]) -> Verdict:
    """The verdict on a training whose last steps had no finite gradients."""
    if any(not bool(view.isfinite().all()) for view in views):
        cause, remedy = "the images of the last batch are not finite", "Look for such images with `lookalike check`."
    elif not math.isfinite(loss):
        cause = f"the loss is {loss} on finite images: the weights grew too far, or the loss divides by zero"
        remedy = "Try a lower --optim.lr, a longer --optim.warmup-epochs, or --optim.clip 1."
    else:
        cause = f"the loss is {loss:.3g}, so it is the backward pass that overflows"
        remedy = "Try --precision bf16 in place of fp16, a lower --optim.lr, or --optim.clip 1."
    return Verdict(
        "diverged",
        f"{counted(skipped_in_a_row, 'step')} at the end had no finite gradients and had no effect; {cause}.",
        remedy,
    )
