"""From settings (`optim.Optim`) to optimizers: `build` makes one, `Rates` drives it, `clip` clips gradients."""

from .build import Rates, build, clip
from .lars import LARS, Rule

__all__ = ["LARS", "Rates", "Rule", "build", "clip"]
