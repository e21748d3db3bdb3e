"""lookalike: self-supervised learning of image representations, from a folder of unlabelled images.

The names below are imported when they are first used, so that `import lookalike` and the command's help are quick.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .comparing.comparison import Comparison as Comparison
    from .comparing.working import compare as compare
    from .distilling import distill as distill
    from .encoders import load as load
    from .evaluation import embed as embed
    from .evaluation import evaluate as evaluate
    from .finetuning import finetune as finetune
    from .pictures import show as show
    from .plotting import plot as plot
    from .predicting import predict as predict
    from .reporting.writing import report as report
    from .runs import Collapsed as Collapsed
    from .runs import Diverged as Diverged
    from .runs import Result as Result
    from .runs import Run as Run
    from .training import pretrain as pretrain

_HOMES = {
    "Collapsed": "runs", "Comparison": "comparing.comparison", "Diverged": "runs", "Result": "runs", "Run": "runs",
    "compare": "comparing.working", "distill": "distilling", "embed": "evaluation", "evaluate": "evaluation",
    "finetune": "finetuning", "load": "encoders", "plot": "plotting", "predict": "predicting", "pretrain": "training",
    "report": "reporting.writing", "show": "pictures",
}  # fmt: skip

__all__ = [
    "Collapsed", "Comparison", "Diverged", "Result", "Run", "compare", "distill", "embed", "evaluate", "finetune",
    "load", "plot", "predict", "pretrain", "report", "show",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return importlib.import_module(f"lookalike.{_HOMES[name]}").__dict__[name]
    raise AttributeError(f"module 'lookalike' has no attribute '{name}'")
