"""From settings (`optim.Optim`) to optimizers: `build` creates one, `Rates` sets its rates, `clip` clips gradients."""

from .build import Rates, build, clip
from .lars import LARS, Rule

__all__ = ["LARS", "Rates", "Rule", "build", "clip"]
