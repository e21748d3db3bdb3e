"""Whether an encoder forgets what its first weights knew: its k-NN accuracy on the same images, before and now."""

from typing import Any

from torch import Tensor

from ..evaluation.metrics import interval_of_change
from ..runs import Resolved
from .health import Verdict

ERROR = 0.05
"""Probability of a false warning in a training that forgets nothing, over all its evaluations."""


class Forgetting:
    """Compares each evaluation of the probe with the one before training, image by image."""

    def __init__(self, before: Tensor, looks: int, run: Resolved) -> None:
        """Args:
        before: (M,) bool, which of the test images the first weights classify correctly.
        looks: evaluations in the whole training, at most.
        run: the resolved run, for the advice; `docs/results.md` has its evidence.
        """
        self.before = self.now = before
        self.looks = looks
        half = run.epochs / 2
        frozen = f", or --frozen-epochs {half:g} (half of them)" if run.frozen_epochs < half else ""
        self.remedy = f"Try --optim.lr {run.method.optim.lr / 10:.2g} (a tenth){frozen}."
        self.looked = False
        """Whether there was an evaluation since the encoder is trainable."""
        self.fallen = False
        """Whether the last evaluation was below the one before training."""
        self.lowest: tuple[int, float] | None = None
        """Optimizer step and accuracy of the lowest evaluation below it."""

    def state_dict(self) -> dict[str, Any]:
        return {
            "before": self.before, "now": self.now, "looked": self.looked, "fallen": self.fallen, "lowest": self.lowest,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.before, self.now, self.lowest = state["before"], state["now"], state["lowest"]
        self.looked, self.fallen = state["looked"], state["fallen"]

    def see(self, step: int, hits: Tensor) -> str:
        """Adds an evaluation (M,); returns a warning if it is the first of several below the one before training.

        An evaluation without all images, because one could not be read this time, is ignored.
        """
        if len(hits) != len(self.before):
            return ""
        already, self.now, self.looked = self.fallen, hits, True
        self.fallen = interval_of_change(self.before, hits, ERROR / self.looks)[1] < 0
        if not self.fallen:
            return ""
        if self.lowest is None or accuracy(hits) < self.lowest[1]:
            self.lowest = step, accuracy(hits)
        return "" if already else f"WARNING  step {step}: {self._fall()}. {self.remedy}"

    def _fall(self) -> str:
        low, high = interval_of_change(self.before, self.now)
        return (
            f"the k-NN fell from {accuracy(self.before):.1%} before training to {accuracy(self.now):.1%} (by "
            f"{-100 * high:.1f} to {-100 * low:.1f} points, 95 % interval): the encoder forgets what --init knew"
        )

    def verdict(self, found: Verdict) -> Verdict:
        """The verdict; if the probe got worse, one without advice that would make it worse still."""
        if self.lowest is None or found.word != "not learning":
            return found
        step, knn = self.lowest
        why = f"the encoder forgets what --init knew: the k-NN was {accuracy(self.before):.1%} before training, "
        return Verdict(found.word, f"{why}{knn:.1%} at step {step}.", self.remedy)

    def at_end(self) -> str:
        """A warning for the end of the training; empty if nothing is known to be forgotten."""
        if interval_of_change(self.before, self.now)[1] < 0:
            return f"WARNING: {self._fall()}. {self.remedy}"
        if self.lowest is None:
            return ""
        step, knn = self.lowest
        return (
            f"WARNING: the k-NN was {accuracy(self.before):.1%} before training, {knn:.1%} at step {step} and is "
            f"{accuracy(self.now):.1%} now: the encoder forgot part of what --init knew. {self.remedy}"
        )


def accuracy(hits: Tensor) -> float:
    """The fraction of correctly classified test images, in [0, 1]."""
    return float(hits.double().mean())
