"""The verdict: whether a training learns, with the cause and a remedy, from its evaluations."""

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
"""No verdict before this many optimizer steps: in fewer, the features of the slowest healthy trainings of the study had
not changed significantly (`docs/health.md`)."""
EARLY = (0.05, 0), (0.1, 10), (0.15, 10)
"""Early evaluations of every training: after a fraction of the steps, and at least this many steps after `SETTLED`. The
second may confirm what the first suggests."""
EXPLODED = 1000.0
"""A loss that is this many times its first value has diverged."""
RUINED = 3
"""After this many steps in a row without finite gradients the weights may already be ruined."""

COLLAPSED = 0.15
"""Features, or embeddings that a loss keeps apart, have collapsed if their spread is below this fraction of the first.
In healthy trainings the lowest was 0.34, in collapsed ones the highest 0.11 (`docs/health.md`)."""
HEADS = 0.03
"""The same for the heads' outputs, if the pair AUC is below its first value, too. Either alone occurs in healthy
trainings, whose heads had down to 0.001 of their first spread; with both the lowest was 0.042."""
SAME = 0.95
"""Above this correlation all dimensions of an embedding are redundant, if the pair AUC clearly fell or the cause is
known. A healthy Barlow Twins reached 0.99 on its way, without its second term it had 1 (`docs/health.md`)."""
SAME_TARGETS = 0.01
"""Below this `target_information` (a fraction of its maximum) a teacher's targets are the same for all images. It has
collapsed if the pair AUC fell, too, or the cause is known; else the verdict is unclear: a DINO whose targets became the
same had learnt before."""
VAGUE = 0.05
"""Below this fraction of their first information the targets are collapsing, if the pair AUC fell, too. In a healthy
training whose pair AUC was below its first value the fraction was 0.07 in the end."""
FAINT = 1e-3
"""Targets with less information at first are not checked: networks whose blocks start near zero (DINOv2's layer scale
of 1e-5) give nearly the same features for all images."""
NARROWED = 0.75
"""Below this fraction of its first value, a metric that falls in a collapse indicates one if the configuration lacks
what prevents it."""

LEARNT = 0.05
"""An encoder learns once 1 - `pair_auc` fell by this fraction, significantly."""
SURE, CLEARLY = 3.29, 2.58
"""Standard errors between a change and zero: 99.9 and 99 % intervals. `LIKELY` is the 95 % interval."""
GROWN = 100.0
"""If the norm of the heads' outputs grew this many times and the pair AUC is below its first value, the step size is
far too large. In healthy trainings without labels the norm grew at most 91 times, with 100 times the learning rate at
least 200 times; SupCon's grew 310 times and learnt."""
OVERLONG = 0.015
"""Above this ratio of an optimizer step to the weights (`looks.UpdateRatio`) the step size is far too large, unless the
pair AUC rose for sure. In healthy trainings the highest was 0.018, with 100 times the learning rate the lowest 0.025
(`docs/health.md`)."""
NARROW = 0.1
"""Features with an effective rank below this fraction of the first have collapsed if the pair AUC clearly fell, too.
Either alone occurs in healthy trainings, which had down to 0.012 of the first rank; with both the lowest was 0.12."""
STILL = 1e-4
"""The features have not changed at all if the mean absolute change of the pair AUC per image is below this."""
HARDLY = 0.05
"""The same for a whole training, as a fraction of 1 - the first `pair_auc`: the features hardly changed. In healthy
trainings it was at least 0.25."""

SPREADS = {"spread": "features", "head_spread": "head's outputs", "embedding_deviation": "embeddings"}
"""Metrics that nearly vanish in a collapse, and what each is the spread of."""
OWN = ("embedding_correlation", "embedding_deviation", "target_information")
"""Metrics of methods that are compared with their first values, too."""

Word = Literal[
    "learning", "not learning", "getting worse", "collapsed", "diverged", "unclear", "too short to tell"
]  # fmt: skip


ALARMS: tuple[Word, ...] = ("not learning", "getting worse", "collapsed", "diverged")


@dataclass(frozen=True)
class Verdict:
    """The verdict on a training."""

    word: Word
    why: str
    """The metrics that it rests on, and the likely cause."""
    remedy: str = ""
    """What to try; empty if nothing is wrong."""

    def __str__(self) -> str:
        return f"{self.word}: {self.why}{' ' + self.remedy if self.remedy else ''}"

    @property
    def is_alarm(self) -> bool:
        """Whether something is wrong."""
        return self.word in ALARMS


def early_looks(steps: int) -> frozenset[int]:
    """The steps of the early evaluations in a training of `steps` steps; none if it is very short."""
    marks = (max(SETTLED + later, math.floor(fraction * steps)) for fraction, later in EARLY)
    return frozenset(mark for mark in marks if 2 * mark <= steps)


# ---------------------------------------------------------------- remedies


@dataclass(frozen=True)
class Remedies:
    """What to try if a training goes wrong."""

    stated: str = ""
    """A list of the options that differ from the method's own settings for these images; empty if none does."""
    cause: str = ""
    """What the configuration lacks, and the option that adds it; see `Method.diagnose`."""
    method: str = ""
    """Its name in the library's table, or the user's own class."""
    known: bool = True
    """Whether it is one of the library's methods."""
    check: str = "lookalike check DATA"
    views: str = "lookalike views METHOD DATA"
    epochs: int = 1
    forgetting: str = ""
    """Against forgetting what `--init` knew; empty if that is not measured."""

    @staticmethod
    def of(run: Resolved, own: Config | None, cause: str, fits: bool = True) -> "Remedies":
        """The remedies for a resolved run.

        Args:
            own: the configuration without any option of the user; None if there is none to compare with.
            cause: see `Method.diagnose`.
            fits: whether the run was fitted to its images before it was resolved; `--no-fit` leaves it unchanged.
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
        """What to change in the settings, or other methods if the settings are the method's own."""
        if self.cause:
            return self.cause
        if self.stated:
            return f"Leave {self.stated} out: the method's own settings are fitted to these images."
        if self.method == "lejepa":  # of all without labels it gained most in 300 steps: docs/fitting.md
            return "Another method may suit these images better: `lookalike compare` ranks several."
        return "In short trainings `lejepa` learns fastest; `lookalike compare` ranks several methods."

    def apart(self) -> str:
        """Against a collapse."""
        if self.cause or self.stated or self.known:
            return self.settings()
        return (
            "Check that the loss keeps images apart: negatives, a variance term, or a stopped gradient and a predictor."
        )

    def longer(self) -> str:
        return f"Train for longer, such as with --epochs {2 * self.epochs} or a --time."

    def steadier(self) -> str:
        """Against a step size that is too large."""
        if self.cause or self.stated:
            return self.settings()
        return "Give a longer --optim.warmup-epochs, or --optim.clip 1: they reduce the step size."


MOST_OPTIONS = 7
"""At most this many options are named; the rest is counted."""


def _stated(cfg: Config, own: Config, fits: bool) -> str:
    """A list of the options that differ from the method's own settings, except those of views."""
    defaults, values = dotted(plain(own)), dotted(plain(cfg))
    options = [] if fits else ["--no-fit"]
    for name, value in values.items():
        if name.startswith("views") or defaults.get(name) == value:
            continue
        *path, last = name.replace("_", "-").split(".")
        options.append(f"--{'.'.join([*path, f'no-{last}' if value is False else last])}")
    options.sort(key=lambda option: option not in ("--optim.name", "--optim.lr"))  # the most important first
    if 1 < len(options) <= MOST_OPTIONS:
        return f"{', '.join(options[:-1])} and {options[-1]}"
    return first_of(options, MOST_OPTIONS - 1, lambda left: counted(left, "more option"))


# ---------------------------------------------------------------- rules


@dataclass(frozen=True)
class Seen:
    """The input of a verdict."""

    first: Mapping[str, float]
    """Metrics of the first encoder, `loss` of the first steps and, of the first step, `head_spread` and `head_size` if
    there is a head, and those of `OWN` that the method has."""
    now: Mapping[str, float]
    """The current values."""
    change: Change | None
    step: int
    steps: int
    still: int = 0
    """Steps at the start with a frozen encoder."""
    lacking: str = ""
    labelled: bool = False
    """Whether images of a class shall get similar features: then a lower pair AUC or head spread is no evidence."""
    neighbours: Neighbours | None = None
    """Results of the probe; None before its first evaluation, or without a probe."""
    probed_now: bool = True
    """Whether the probe was evaluated at this step, not some steps earlier."""
    start: str = "untrained"
    """How messages call the first encoder."""
    remedies: Remedies = field(default_factory=Remedies)

    @property
    def is_last(self) -> bool:
        return self.step >= self.steps


@dataclass(frozen=True)
class Finding:
    """A verdict that an evaluation suggests, and whether it needs no confirmation by a second one."""

    verdict: Verdict
    sure: bool = False


def finding(seen: Seen) -> Finding | None:
    """What an evaluation suggests; None if it is not conclusive.

    Checks, in this order: values that are not finite; a probe that improved; images without content; collapses; a probe
    that got worse; targets without information; a step size that is too large; features that do not change; a pair AUC
    that rose, or fell by the end.
    """
    if (found := _diverged(seen)) is not None:
        return found
    probed, settled = _probed(seen), seen.step >= SETTLED
    collapsed = _collapsed(seen) if settled else None
    if probed is not None and not probed.verdict.is_alarm:
        return probed if seen.probed_now or collapsed is None else collapsed  # it improved some steps ago
    if seen.lacking:
        return Finding(empty(seen.lacking, seen.remedies), sure=True)
    if probed is not None and collapsed is not None and seen.neighbours is not None:
        why = f"{collapsed.verdict.why.removesuffix('.')}; {seen.neighbours.words(seen.start)}."
        return Finding(dataclasses.replace(collapsed.verdict, why=why), sure=True)
    if probed is not None or not settled:
        return probed
    return collapsed or _untaught(seen) or _overlong(seen) or _unmoved(seen) or _by_pair_auc(seen)


def empty(lacking: str, remedies: Remedies) -> Verdict:
    """The verdict for images without content."""
    return Verdict(
        "not learning", f"{lacking}. Nothing can be learnt from them.", f"Check the images: {remedies.check}"
    )


def _diverged(seen: Seen) -> Finding | None:
    helps = seen.remedies.steadier()
    if not all(math.isfinite(seen.now[name]) for name in NAMES):
        return Finding(Verdict("diverged", "the encoder's features are not finite.", helps), sure=True)
    loss, before = seen.now["loss"], seen.first["loss"]
    if abs(loss) > EXPLODED * max(1.0, abs(before)):
        return Finding(Verdict("diverged", f"the loss went from {before:.3g} to {loss:.3g}.", helps), sure=True)
    return None


def _probed(seen: Seen) -> Finding | None:
    """The verdict by a probe: labels count more than views."""
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
            "getting worse", f"{why}.", f"Check that the views preserve what the classes differ in: {helps.views}"
        )
    return Finding(found, sure=True)


def _collapsed(seen: Seen) -> Finding | None:
    first, now, helps = seen.first, seen.now, seen.remedies
    sure = bool(helps.cause)  # the metrics confirm what was to be expected

    def found(why: str) -> Finding:
        return Finding(Verdict("collapsed", why, helps.apart()), sure)

    same = now.get("embedding_correlation", 0.0)
    if same > max(SAME, first.get("embedding_correlation", 0.0)) and (sure or _may_be_worse(seen)):
        return found(f"the dimensions of the embedding are redundant: their correlation is {same:.3f}.")
    if (why := _same_targets(seen)) and (sure or _may_be_worse(seen)):
        return found(f"{why}.")
    limits = {"embedding_deviation": COLLAPSED}
    if sure or _may_be_worse(seen):  # features that shrank at an unchanged pair AUC are no collapse
        limits["spread"] = COLLAPSED
    # in methods that are known to work, features may improve while the head's outputs are nearly constant
    # with labels a lower pair AUC is no evidence: images of a class shall get the same features
    away = math.inf if seen.change is None or seen.labelled else seen.change.away
    limit_away = 0 if seen.is_last else -1
    if away < (limit_away if helps.known else LIKELY):
        limits["head_spread"] = HEADS if helps.known else COLLAPSED
    if away < (0 if seen.is_last else -LIKELY):
        limits["target_information"] = VAGUE
    for name, limit in limits.items():
        faint = name == "target_information" and first.get(name, 0.0) < FAINT
        if _ratio(seen, name) < limit and not faint:
            return found(f"{_fell(seen, name)}: {_how(seen)}.")
    if away < limit_away and GROWN < (size := _ratio(seen, "head_size")) < math.inf:
        why = f"the norm of the head's outputs grew {size:.3g}-fold, and {_known(seen)}: the step size is too large."
        return Finding(Verdict("not learning", why, helps.steadier()), sure)
    if away < -CLEARLY and _ratio(seen, "effective_rank") < NARROW:
        rank, was = now["effective_rank"], first["effective_rank"]
        return found(f"the effective rank of the features fell from {was:.2g} to {rank:.2g}, and {_known(seen)}.")
    if helps.cause:
        if 1 - same < NARROWED * (1 - first.get("embedding_correlation", 0.0)):
            return found(f"the dimensions of the embedding become redundant: their correlation is {same:.2f}.")
        for name in (*SPREADS, "target_information"):
            if _ratio(seen, name) < NARROWED:
                return found(f"{_fell(seen, name)}: a collapse has begun.")
    return None


def _same_targets(seen: Seen) -> str:
    """How a teacher's targets became the same for all images; empty if they did not."""
    first, now = seen.first.get("target_information", 0.0), seen.now.get("target_information", 1.0)
    if first < FAINT or now >= min(SAME_TARGETS, COLLAPSED * first):
        return ""
    return (
        f"the teacher's targets are the same for all images: their information went from {first:.2g} to {now:.2g} of 1"
    )


def _untaught(seen: Seen) -> Finding | None:
    """For targets that are the same for all images while the features are no worse than before."""
    if not (why := _same_targets(seen)):
        return None
    return Finding(Verdict("unclear", f"{why}, so nothing more is learnt. But {_known(seen)}.", seen.remedies.apart()))


def _may_be_worse(seen: Seen) -> bool:
    """Whether the pair AUC clearly fell, or the probe got worse, or neither is known."""
    if seen.change is None or seen.labelled or (seen.neighbours is not None and seen.neighbours.high < 0):
        return True
    return seen.change.away < (0 if seen.is_last else -LIKELY)


def _ratio(seen: Seen, name: str) -> float:
    """A metric as a fraction of its first value; infinite if there is none."""
    if name not in seen.first or name not in seen.now or not math.isfinite(seen.now[name]):
        return math.inf
    return seen.now[name] / seen.first[name] if seen.first[name] else math.inf


def _fell(seen: Seen, name: str) -> str:
    spread_of = SPREADS.get(name)
    metric = f"the spread of the {spread_of} over the images" if spread_of else "the information in the targets"
    return f"{metric} fell from {seen.first[name]:.2g} to {seen.now[name]:.2g}"


def _how(seen: Seen) -> str:
    loss, before = seen.now["loss"], seen.first["loss"]
    if before - loss > 0.5 * max(abs(loss), abs(before)):
        return "a constant output minimises the loss"
    return "all images get nearly the same output, and the loss did not fall"


def _overlong(seen: Seen) -> Finding | None:
    ratio = seen.now.get("update_ratio", 0.0)
    if seen.change is None or seen.labelled or ratio < OVERLONG or seen.change.away >= SURE:
        return None
    why = f"an optimizer step is {ratio:.1%} of the weights' norm, and {_known(seen)}: the step size is too large."
    return Finding(Verdict("not learning", why, seen.remedies.steadier()))


def _unmoved(seen: Seen) -> Finding | None:
    change, helps = seen.change, seen.remedies
    if change is None or seen.step <= seen.still or _rose(seen, LIKELY):
        return None
    if change.moved > (HARDLY * (1 - seen.first["pair_auc"]) if seen.is_last else STILL):
        return None
    steps = counted(seen.step, "step")
    if change.moved <= STILL:
        why = f"the features did not change in {steps}."
    else:
        why = f"the features hardly changed in {steps}: {_known(seen)}."
    remedy = helps.settings() if helps.cause or helps.stated else helps.longer()
    return Finding(Verdict("not learning", why, remedy))


def _rose(seen: Seen, errors: float) -> bool:
    """Whether the pair AUC rose by at least this many standard errors, and by enough to count."""
    change = seen.change
    return change is not None and change.away >= errors and change.mean >= LEARNT * (1 - seen.first["pair_auc"])


def _by_pair_auc(seen: Seen) -> Finding | None:
    first, now, helps, probe = seen.first, seen.now, seen.remedies, seen.neighbours
    # a fall within the probe's interval is no alarm, but then the views alone are no evidence of learning
    lower = probe is not None and probe.now < probe.before
    if 1 - first["pair_auc"] < 0.01:  # nearly perfect from the start: only the loss can show progress
        if not seen.is_last or lower:
            return None
        if now["loss"] < first["loss"] - 0.05 * abs(first["loss"]):
            why = f"{_known(seen)}, and the loss fell from {first['loss']:.3g} to {now['loss']:.3g}."
            return Finding(Verdict("learning", why))
        return Finding(
            Verdict(
                "not learning", f"{_known(seen)}: nearly perfect from the start, so there is little to learn.",
                "Use stronger augmentation, by a lower --views.0.scale or more --views.0.jitter, and check the views: "
                f"{helps.views}",
            )
        )  # fmt: skip
    if _rose(seen, LIKELY):
        by_probe = "" if probe is None else f"; {probe.words(seen.start)}"
        verdict = Verdict("learning", f"{_known(seen)}{by_probe}.")
        return None if lower else Finding(verdict, sure=_rose(seen, SURE))
    may_be_worse = seen.is_last and not seen.labelled and (probe is None or lower)
    if may_be_worse and seen.change is not None and seen.change.away < -SURE:
        remedy = (
            helps.settings()
            if helps.cause or helps.stated
            else f"Check that both views show what distinguishes an image from others: {helps.views}"
        )
        return Finding(Verdict("not learning", f"{_known(seen)}: worse than before training.", remedy))
    return None


def _known(seen: Seen) -> str:
    """The pair AUC before and now, as a part of a sentence."""
    known = (
        f"a view is closer to its image's other view than to another image's in {seen.now['pair_auc']:.1%} of pairs "
        f"({seen.first['pair_auc']:.1%} {seen.start}"
    )
    return f"{known}; {seen.change.points()}, 95 % interval)" if seen.change is not None else f"{known})"


def unknown(seen: Seen) -> Verdict:
    """The verdict on a training whose last evaluation is not conclusive."""
    if seen.step < SETTLED:
        return Verdict(
            "too short to tell", f"{counted(seen.step, 'step')}; a measurable change takes at least {SETTLED}.",
            "Give more --epochs, or a --time.",
        )  # fmt: skip
    probe = "" if seen.neighbours is None else f", and {seen.neighbours.words(seen.start)}"
    remedy = seen.remedies.longer()
    if seen.neighbours is None:
        remedy += " With labelled images, --probe TRAIN TEST measures the accuracy."
    return Verdict("unclear", f"no clear gain: {_known(seen)}{probe}.", remedy)


# ---------------------------------------------------------------- over the training


class Course:
    """The verdict over a training, updated at each evaluation. It changes only on evidence, and is None before.

    A verdict needs two evaluations in a row that suggest it, or one that is sure; an alarm needs two that suggest any
    alarm. The last evaluation counts alone: it is of the final encoder, and earlier verdicts that it does not confirm
    are withdrawn.
    """

    def __init__(self) -> None:
        self.verdict: Verdict | None = None
        """None before the first evidence."""
        self.suspected: str = ""
        """What the last evaluation suggested, if it is not the verdict."""

    def state_dict(self) -> dict[str, Any]:
        verdict = None if self.verdict is None else dataclasses.asdict(self.verdict)
        return {"verdict": verdict, "suspected": self.suspected}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.verdict = None if state["verdict"] is None else Verdict(**state["verdict"])
        self.suspected = state["suspected"]

    def see(self, seen: Seen) -> Verdict | None:
        """Adds an evaluation, and returns the verdict."""
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
        """Whether a verdict was given or suggested before; of alarms any one."""
        earlier = {self.suspected, "" if self.verdict is None else self.verdict.word}
        return verdict.word in earlier or (verdict.is_alarm and self.suspected in ALARMS)

    def set(self, verdict: Verdict) -> None:
        """Sets a verdict that needs no evaluation."""
        self.verdict, self.suspected = verdict, ""


def ruined(skipped_in_a_row: int, loss: float, views: list[Tensor]) -> Verdict:
    """The verdict on a training without finite gradients in its last steps."""
    if any(not bool(view.isfinite().all()) for view in views):
        cause, remedy = "the images of the last batch are not finite", "Find such images with `lookalike check`."
    elif not math.isfinite(loss):
        cause = f"the loss is {loss} on finite images: the weights grew too far, or the loss divides by zero"
        remedy = "Try a lower --optim.lr, a longer --optim.warmup-epochs, or --optim.clip 1."
    else:
        cause = f"the loss is {loss:.3g}, so the backward pass overflows"
        remedy = "Try --precision bf16 instead of fp16, a lower --optim.lr, or --optim.clip 1."
    return Verdict(
        "diverged",
        f"the last {counted(skipped_in_a_row, 'step')} had no finite gradients and were skipped; {cause}.",
        remedy,
    )
