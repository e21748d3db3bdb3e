"""The end of a training by an error: too little memory, or another process."""

import re
import sys
import time
import traceback
from typing import NoReturn

import torch
from lightning.pytorch import Trainer

from .. import processes
from ..data import Loader, lost
from ..events import nowhere
from ..files import FORMAT, write_json
from ..printing import say
from ..runs import Resolved
from .checkpoints import NOTHING
from .first_files import FirstFiles
from .launch import Launch
from .memory_errors import explained
from .out_of_memory import OutOfMemory, is_out_of_memory

PROCESS_LOST = "Another process of this training has ended; its own message, or that of its launcher, has the reason."
"""Printed if this process did not start the others."""


def end_alone(launch: Launch, files: FirstFiles, trainer: Trainer, ended: processes.Ended) -> None:
    """Ends this process without its main thread, which waits for a process that has ended."""
    error = RuntimeError(f"{ended}{launch.folder.then() or NOTHING}")
    if ended.stopped:
        launch.folder.say(str(error))
        processes.end(ended.stopped)
    files.give_up(error, trainer.global_step)
    say(f"error: {error}", sys.stderr)
    processes.end(1)


def end_all(launch: Launch, files: FirstFiles, trainer: Trainer, reason: str, stacks: str) -> None:
    """Reports why processes that wait for each other end; the watchdog ends them.

    Args:
        stacks: the Python stacks of all processes, for the log.
    """
    folder = launch.folder
    text = f"{reason}{folder.then() or NOTHING}"
    if trainer.global_step and folder.log.is_file():
        folder.note(stacks)
        text = f"{text} {folder.log} has the Python stacks of the processes."
    else:  # a run without a step is removed with its log
        say(stacks, sys.stderr)
    if launch.is_first:
        files.give_up(RuntimeError(text), trainer.global_step)
    elif folder.log.is_file():
        folder.note(f"error: {text}")
    say(f"error: {text}", sys.stderr)


def raise_as_known(
    run: Resolved, launch: Launch, files: FirstFiles, trainer: Trainer, watch: processes.Watch, loader: Loader,
    error: Exception,
) -> NoReturn:  # fmt: skip
    """Raises the cause of an error of a training: too little memory, or the end of another or a loading process."""
    folder = launch.folder
    if launch.world > 1 and _is_disconnection(error):
        ended = watch.ended(processes.GRACE_SECONDS)
        if ended is None and processes.started_by_another():
            time.sleep(2 * processes.GRACE_SECONDS)  # process 0 knows more, reports it, and ends this one
        gone = RuntimeError(f"{ended or PROCESS_LOST}{folder.then() or NOTHING}")
        if ended is not None and ended.stopped:
            folder.say(str(gone))
            raise (KeyboardInterrupt if ended.stopped == 130 else SystemExit(143)) from None
        files.give_up(gone, trainer.global_step)
        raise gone from error
    # a measurement of the speed fails quietly
    if is_out_of_memory(error) and not isinstance(error, OutOfMemory) and folder.reports_to is not nowhere:
        _end_without_memory(run, launch, files, trainer, error)
    files.give_up(error, trainer.global_step)
    if str(error).startswith("DataLoader worker"):  # torch raises it at any point of the main process
        raise lost(error, loader.workers) from error
    raise error


def _end_without_memory(
    run: Resolved, launch: Launch, files: FirstFiles, trainer: Trainer, error: Exception
) -> NoReturn:
    """Raises an error that says what would fit, and marks the run as one that may be resumed with it."""
    folder, steps = launch.folder, int(trainer.global_step)
    traceback.clear_frames(error.__traceback__)  # they hold the step's tensors
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    found = OutOfMemory(explained(run, folder, steps + 1))
    if files.written or run.resume:
        write_json(folder.memory, {"format": FORMAT, "step": steps + 1, "message": str(found)})
    files.give_up(found, steps)
    raise found from error


def _is_disconnection(error: BaseException | None) -> bool:
    """Whether an error, or its cause, is how gloo, NCCL or torch's store fail when another process has ended."""
    if isinstance(error, torch.distributed.DistError):
        gone = re.search("closed|reset|Broken pipe|remote process", str(error)) is not None
    else:
        gone = isinstance(error, RuntimeError) and "gloo/" in str(error)  # part of the path of the failing line
    return gone or (error is not None and _is_disconnection(error.__cause__))
