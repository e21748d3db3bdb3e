"""Dispatches the arguments to a command and turns its result into an exit code."""

import gc
import os
import signal
import sys
from collections.abc import Callable

from .. import processes
from ..names import nearest
from ..printing import LONGEST_MESSAGE, cut, message, say, shown, typed
from .comparison import compare
from .encoders import embed, evaluate, predict, show
from .errors import UsageError
from .exports import export
from .first import demo, doctor, show_list
from .images import check
from .overview import OVERVIEW
from .runs import plot, report, thin
from .serve import serve
from .slurm import slurm
from .trainings import distill, estimate, finetune, pretrain, views

VERBS: dict[str, Callable[[list[str]], None]] = {
    "demo": demo,
    "pretrain": pretrain,
    "distill": distill,
    "finetune": finetune,
    "predict": predict,
    "evaluate": evaluate,
    "compare": compare,
    "slurm": slurm,
    "embed": embed,
    "export": export,
    "serve": serve,
    "show": show,
    "report": report,
    "plot": plot,
    "thin": thin,
    "views": views,
    "estimate": estimate,
    "check": check,
    "list": show_list,
    "doctor": doctor,
}


def entry() -> None:
    """The console script."""
    processes.follow_starter()
    processes.follow_torchrun()  # before the imports of a training, which take seconds
    # an interrupted import of torch crashes or prints a traceback; each verb restores Ctrl-C after its imports
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, processes.end_at_once)
    gc.disable()  # a quarter of a training's imports, which make no garbage; each verb turns it on again after them
    sys.exit(main())


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0, 1 (failure), 2 (usage), 130 (Ctrl-C), 143 (SIGTERM)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    typed(argv)
    debug = "--debug" in argv
    argv = [a for a in argv if a != "--debug"]
    try:
        if not argv or argv[0] in ("--help", "-h", "help"):
            print(OVERVIEW)
            return 0
        if argv[0] == "--version":
            from ..runs import version

            print(version())
            return 0
        if argv[0] not in VERBS:
            raise UsageError(f"Unknown command {shown(argv[0])}. {nearest(argv[0], list(VERBS))}")
        VERBS[argv[0]](argv[1:])
        return 0
    except SystemExit as stop:  # tyro's help (0) and usage errors (2); SIGTERM (143)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `lookalike list backbones | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UsageError as error:
        say(f"error: {cut(str(error), LONGEST_MESSAGE)}", sys.stderr)
        return 2
    except Exception as error:
        if debug:
            raise
        say(f"error: {cut(message(error), LONGEST_MESSAGE)}", sys.stderr)
        return 1
