"""Training: stages from what is asked to a finished run, on Lightning's Trainer."""

from .model import build as build
from .module import Pretraining as Pretraining
from .resolved import fit_to as fit_to
from .resolved import resolve as resolve
from .stages import pretrain as pretrain

__all__ = ["Pretraining", "build", "fit_to", "pretrain", "resolve"]
