"""lookalike: self-supervised learning of image representations, from a folder of unlabelled images.

The names below are imported on first use, so that `import lookalike` and the command's help are fast.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .commands.compare.runner import compare as compare
    from .commands.compare.spec import Comparison as Comparison
    from .commands.distill import distill as distill
    from .commands.embed import embed as embed
    from .commands.estimate import estimate as estimate
    from .commands.evaluate import evaluate as evaluate
    from .commands.export import export as export
    from .commands.finetune import finetune as finetune
    from .commands.plot import plot as plot
    from .commands.predict import predict as predict
    from .commands.report.report import report as report
    from .commands.serve import serve as serve
    from .commands.show import show as show
    from .encoders import load as load
    from .runs import Collapsed as Collapsed
    from .runs import Diverged as Diverged
    from .runs import Result as Result
    from .runs import Run as Run
    from .training import pretrain as pretrain

_HOMES = {
    "Collapsed": "runs", "Comparison": "commands.compare.spec", "Diverged": "runs", "Result": "runs", "Run": "runs",
    "compare": "commands.compare.runner", "distill": "commands.distill", "embed": "commands.embed",
    "estimate": "commands.estimate",
    "evaluate": "commands.evaluate", "export": "commands.export", "finetune": "commands.finetune",
    "load": "encoders", "plot": "commands.plot",
    "predict": "commands.predict", "pretrain": "training", "report": "commands.report.report",
    "serve": "commands.serve", "show": "commands.show",
}  # fmt: skip

__all__ = [
    "Collapsed", "Comparison", "Diverged", "Result", "Run", "compare", "distill", "embed", "estimate", "evaluate",
    "export", "finetune", "load", "plot", "predict", "pretrain", "report", "serve", "show",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return importlib.import_module(f"lookalike.{_HOMES[name]}").__dict__[name]
    raise AttributeError(f"module 'lookalike' has no attribute '{name}'")
