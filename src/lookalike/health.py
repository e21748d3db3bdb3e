"""Whether a training learns: figures of the encoder's features on a few fixed images, and a verdict in words."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .backbones import Backbone
from .data import Loader, Source, Subset
from .evaluation.features import as_parameters, calibrated
from .label_free import alignment, effective_rank, recognition, spread, uniformity
from .modes import evaluating
from .printing import counted
from .random import permutation
from .runs import Run
from .views import make_views

IMAGES = 64
"""Images whose features are looked at."""
SHARE = 0.01
"""Share of the time that looking at them takes at most."""
COLLAPSED = 0.15
"""Features whose spread is below this share of the untrained encoder's have collapsed. In healthy trainings of three
kinds of networks the lowest was 0.46, in collapsed ones the highest 0.11 (`docs/health.md`)."""
SAME = 0.95
"""Numbers of an embedding that correlate so much say all the same. In healthy trainings the highest was 0.74, of Barlow
Twins without its second term and with LARS the lowest 0.989 (`docs/health.md`)."""
LEARNT = 0.1
"""An encoder learns once it has shed this share of the untrained encoder's mistakes in recognising images."""
EXPLODED = 1000.0
"""A loss so many times its first size is on its way to infinity."""
SETTLED = 20
"""Optimizer steps before which nothing is called collapsed: BatchNorm's running statistics lag behind the weights."""
RUINED = 3
"""After so many steps without finite gradients in a row, the weights may be ruined already."""

NAMES = ("spread", "effective_rank", "alignment", "uniformity", "recognition")
"""The figures of a look, as `metrics.jsonl` calls them."""

TOLD = 0.01
"""A teacher's targets that say less about their image, as a share of the most there is, are the same for all images. In
healthy trainings the lowest was 0.16 (`docs/health.md`), in vague ones that still learnt by KoLeo 0.03."""
FAINT = 1e-3
"""Targets that said less at first are not judged by it: networks whose blocks begin near zero (DINOv2's layer scale of
1e-5) make nearly the same of all images."""
SPREADS = {"spread": "features", "head_spread": "head's outputs", "embedding_deviation": "embeddings"}
"""Figures that all but vanish in a collapse, where there are such, and whose spread over the images they are."""
OWN = ("embedding_correlation", "embedding_deviation", "target_information")
"""Figures of methods' own that are judged by their first ones, too."""

Word = Literal["learning", "not learning", "collapsed", "diverged"]


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


class Health:
    """Figures of an encoder's features on a fixed draw of the training images, each seen in two views."""

    def __init__(self, source: Source, run: Run, backbone: Backbone) -> None:
        places = permutation(len(source), run.seed, "health")[:IMAGES].tolist()
        loader = Loader(Subset(source, places), len(places), run.seed, decode_size=run.decode_size, max_broken=1.0)
        batch = next(iter(loader))
        view = dataclasses.replace(run.method.views[0], count=2)
        both = make_views(batch, [view], batch.keys, mean=backbone.mean, std=backbone.std)
        self.views = torch.cat(both)  # (2B, C, S, S), on the CPU
        self.every = math.ceil(len(self.views) / SHARE / _forwards(run))
        """Optimizer steps from one look to the next, so that looks take a hundredth of the time."""

    def untrained(self, encoder: Backbone) -> dict[str, float]:
        """The figures of an encoder that has seen no image yet."""
        return self(calibrated(encoder, [self.views]))

    @torch.no_grad()
    def __call__(self, encoder: Backbone) -> dict[str, float]:
        """The figures of `lookalike.label_free`, by name; NaN where a feature is not finite."""
        with evaluating(encoder):
            # not encoder(x): torch.compile would compile once more, for eval mode
            a, b = torch.cat([encoder.forward(as_parameters(encoder, x)) for x in self.views.split(64)]).chunk(2)  # type: ignore[no-untyped-call]
        return figures(a, b)


def figures(a: Tensor, b: Tensor) -> dict[str, float]:
    """Figures of the features (B, D) of two views of B images."""
    if not bool(a.isfinite().all() and b.isfinite().all()):
        return dict.fromkeys(NAMES, math.nan)
    return dict(zip(NAMES, (spread(a), effective_rank(a), alignment(a, b), uniformity(a), recognition(a, b))))


def judge(
    first: Mapping[str, float], now: Mapping[str, float], *, lr: float, steps: int, start: str = "untrained"
) -> Verdict:
    """Says what has become of an encoder.

    Args:
        first: figures of the untrained encoder, `loss` of the first steps, and, of the first step, `head_spread` if
            there is a head, and those of `OWN` that the method has.
        now: the same after `steps` optimizer steps.
        lr: the configured learning rate, for the advice.
        steps: optimizer steps that were made.
        start: what to call the encoder of the first figures.
    """
    lower = f"Try --optim.lr {lr / 10:.2g} (a tenth), or a longer --optim.warmup-epochs."
    if not all(math.isfinite(now[name]) for name in NAMES):
        return Verdict("diverged", "the encoder's features are not finite.", f"{lower} --optim.clip 1 may help, too.")
    loss, first_loss = now["loss"], first["loss"]
    if abs(loss) > EXPLODED * max(1.0, abs(first_loss)):
        return Verdict("diverged", f"the loss went from {first_loss:.3g} to {loss:.3g}.", lower)
    known = f"the two views of an image are told from other images' with {now['recognition']:.1%}"
    was = f"{first['recognition']:.1%} {start}"
    same = now.get("embedding_correlation", 0.0)
    if same > max(SAME, first.get("embedding_correlation", 0.0)):
        return Verdict(
            "collapsed", f"the numbers of an embedding say the same: they correlate by {same:.3f}.",
            f"See that the loss keeps them apart (a covariance term). {lower}",
        )  # fmt: skip
    told, was_told = now.get("target_information", 1.0), first.get("target_information", 0.0)
    if was_told >= FAINT and told < min(TOLD, COLLAPSED * was_told):
        return Verdict(
            "collapsed",
            f"the teacher's targets are the same for all images: they tell {told:.2g} of 1, at first {was_told:.2g}.",
            f"See that they are centred, and sharper than what tells them. {lower}",
        )
    for name, what in SPREADS.items():
        if name not in first or name not in now or not now[name] < COLLAPSED * first[name]:
            continue
        fell = f"the spread of the {what} over the images went from {first[name]:.2g} to {now[name]:.2g}"
        if first_loss - loss > 0.5 * max(abs(loss), abs(first_loss)):
            return Verdict(
                "collapsed", f"{fell} while the loss all but vanished: one answer for all images is enough for it.",
                "See that the loss keeps images apart (negatives, a variance term), or has a stopped gradient and a "
                f"predictor. {lower}",
            )  # fmt: skip
        return Verdict("collapsed", f"{fell}, and the loss did not fall with it: the steps are far too long.", lower)
    mistakes, before = 1 - now["recognition"], 1 - first["recognition"]
    if before < 0.01:  # so easy that mistakes do not tell; the loss may
        if loss < first_loss - 0.05 * abs(first_loss):
            return Verdict("learning", f"{known} ({was}), and the loss fell from {first_loss:.3g} to {loss:.3g}.")
        return Verdict(
            "not learning", f"{known} ({was}): there is next to nothing to learn.",
            "Look at `lookalike views`, and make them differ more: a lower --views.0.scale, more --views.0.jitter.",
        )  # fmt: skip
    if mistakes <= (1 - LEARNT) * before:
        return Verdict("learning", f"{known} ({was}).")
    if abs(now["spread"] / max(first["spread"], 1e-12) - 1) < 0.3 and loss > first_loss - 0.02 * abs(first_loss):
        return Verdict(
            "not learning", f"{known} ({was}), and the features hardly moved in {counted(steps, 'step')}.",
            f"Train for longer, or try --optim.lr {lr * 10:.2g} (ten times as much).",
        )  # fmt: skip
    return Verdict(
        "not learning", f"{known} ({was}), though the features moved.",
        f"Train for longer. {lower} Look at `lookalike views`: what makes an image itself must be seen in both.",
    )  # fmt: skip


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


def _forwards(run: Run) -> int:
    """What an optimizer step costs a device, in views that go forward: a view's backward pass counts as two."""
    images = run.batch_size // (run.devices * run.nodes)
    return 3 * images * sum(view.count for view in run.method.views)
