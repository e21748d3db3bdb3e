"""Training: `pretrain(run)`, stage by stage. Lightning drives devices, precision and checkpoints."""

import copy
import dataclasses
import io
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout, suppress
from pathlib import Path
from typing import cast

import torch
from lightning.pytorch import Callback
from PIL.Image import Image
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .. import distributed, encoders, optimizers, processes
from ..core import Method
from ..data import Loader, lost
from ..durations import seconds_of, spoken
from ..files import nearest_folder, unused
from ..image_options import Alpha
from ..methods.distill import Distill
from ..printing import LONGEST_PATH, are, brief, counted, pasteable, say
from ..progress import counting
from ..runs import (
    Diverged,
    Folder,
    Options,
    Result,
    Run,
    check_same_time,
    flat,
    inputs,
    method_name,
    read_whole_yaml,
    read_yaml,
    run_text,
    written_by,
)
from .callbacks import Compiling, FirstStep
from .checkpoints import NOTHING, Checkpoints, find_checkpoint
from .health import Remedies
from .inputs import as_begun, listings_of, open_images, probe_of, with_system_folders
from .looks import Health
from .model import build, check_bank, compile_parts, initial_weights, make_loader, normalise, teacher_memory, view_sheet
from .module import Pretraining, Stream
from .monitor import Monitor
from .resolved import batch_words, launched_rank, own_settings, resolve
from .signals import Signals
from .start import other_version, say_start
from .timing import MANY_EPOCHS, Measured, Pace, Speed
from .trainer import make_trainer, of_loggers, quiet_lightning, undisturbed

SOMEBODY = "Another process of this training is gone; its own message, or that of what started it, tells why."
"""Said where this process did not start the others."""


def pretrain(run: Run, callbacks: Sequence[Callback] = ()) -> Result:
    """Trains an encoder on unlabelled images and writes the run's folder.

    Args:
        run: the data, the method and the options.
        callbacks: Lightning callbacks of your own, which see a `Pretraining`.

    Raises:
        FileExistsError: the folder holds a run and neither `resume` nor `overwrite` was asked.
        FileNotFoundError, ValueError: data, method, backbone or sizes that cannot be; the message says what to do.
        Diverged: the gradients were not finite for many steps; the weights keep their last good values.
        Collapsed: all images get one feature, and `run.on_collapse` is "stop".
        KeyboardInterrupt, SystemExit: after Ctrl-C and SIGTERM, once the state is saved.
    """
    processes.follow_starter()
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun's processes go on without it where it is killed
        processes.follow(os.getppid())
    folder, rank, world = Folder(run.out), launched_rank(run), run.devices * run.nodes
    launched = int(os.environ.get("WORLD_SIZE", world))
    if launched != world or rank >= world:
        raise ValueError(
            f"This is process {rank} of {max(launched, rank + 1)} that were launched, but --devices {run.devices} and "
            f"--nodes {run.nodes} make {world}. Give --devices (per node) and --nodes as they were launched."
        )
    if rank == 0:
        folder.check(resume=run.resume, overwrite=run.overwrite)
    if run.cache_dir is not None:
        nearest_folder(Path(run.cache_dir), "--cache-dir")
    teacher = vars(run.method).get("teacher")
    for option, weights in (("init", run.init), ("teacher", teacher if run.teacher is None else None)):
        if not run.resume and isinstance(weights, str) and os.path.realpath(run.out) in encoders.places(weights):
            raise ValueError(
                f"--out {run.out} is the folder of --{option} {weights}, and its weights would go. Give another --out."
            )
    if run.nodes > 1 and not {"MASTER_ADDR", "WORLD_SIZE", "SLURM_NTASKS"} & os.environ.keys():
        raise ValueError(
            f"--nodes {run.nodes} must be started on every node, by torchrun --nnodes {run.nodes} ... or srun: no "
            "MASTER_ADDR says where the first one is."
        )
    with folder.held() if rank == 0 else nullcontext():
        return _pretrain(run, callbacks, folder, rank, world)


def _pretrain(run: Run, callbacks: Sequence[Callback], folder: Folder, rank: int, world: int) -> Result:
    """`pretrain`, once the folder is this process's alone."""
    if rank == 0:  # once more: another process may have had it in between
        folder.check(resume=run.resume, overwrite=run.overwrite)
    # a run that is there stays as it is until this one has made a step: much can fail before
    later = rank == 0 and folder.run.is_file()
    if later:
        folder.wait(folder.metrics, *(() if run.resume else (folder.log,)))
    before = read_yaml(folder.run) if run.resume else {}
    if run.resume and run.alpha == "auto":  # as the run was begun
        run = dataclasses.replace(run, alpha=cast(Alpha, before.get("alpha", run.alpha)))
    run = _time_as_begun(run, folder, before)
    source = open_images(run)
    if run.resume:
        source = with_system_folders(folder, run, source)
    if len(source) < 2:
        raise ValueError(
            f"{brief(flat(run)['data'], LONGEST_PATH)} holds {len(source)} image; at least 2 are needed, and "
            "thousands to learn something."
        )
    whole = read_whole_yaml(folder.run) if run.resume else {}
    begun = inputs.read(folder.inputs) if run.resume else {}
    source = as_begun(source, run, folder, before, begun)
    asked = run.batch_size
    run, planned, timed = _in_time(run, rank)
    fits = run.fit
    run, changes = resolve(run, len(source), before)
    filling = counting(folder.say, f"{'cache':<12}", "images decoded") if rank == 0 else None
    loader = make_loader(run, source, run.batch_size, rank, world, filling)
    if run.batch_size // run.accumulate < 2:
        raise ValueError(
            f"--batch-size {run.batch_size} in {run.accumulate} micro-batches is {run.batch_size // run.accumulate} "
            "image at a time; nothing can be learnt without others to compare with. Give at least 2."
        )
    check_bank(run, rank)
    method = build(run)
    own = run.batch_size // run.accumulate // world
    if not run.method.needs.sync_batchnorm and own < 2 and any(isinstance(m, _BatchNorm) for m in method.modules()):
        raise ValueError(
            f"--batch-size {run.batch_size} leaves {own} image at a time to each of {world} processes, and in "
            f"{method_name(run.method)} BatchNorm sees those alone. Give --batch-size {2 * world * run.accumulate} or "
            "more, or fewer --devices."
        )
    optimizers.build(
        method, run.method.optim, run.batch_size, fused=False
    )  # whatever is wrong with it, before a file is made
    found = find_checkpoint(folder, run, before, source, begun) if run.resume else None
    if run.resume and rank == 0:
        encoders.mend_card(folder, folder.say)
    opened = of_loggers(folder, run)

    def begin() -> None:
        """Writes the first files, where an old run's were."""
        for path in found.unreadable if found else ():
            path.replace(unused(path.with_suffix(".corrupt")))  # else it would become the one before
        if run.resume:
            folder.cut_metrics(found.step if found else -1)
        files = {folder.run: run_text(run, whole).encode()}
        if picture is not None:
            files[folder.views] = _png(picture)
        if listings:
            files[folder.inputs] = inputs.packed(listings)
        folder.claim(resume=run.resume, files=files, keep=of_loggers(folder, run) - opened)

    module = Pretraining(method, run, loader, folder, begin if later else None)
    if found is not None and found.step >= module.steps:
        folder.say(
            f"All {counted(run.epochs, 'epoch')} {are(run.epochs)} done: nothing to resume. Ask for more with --epochs."
        )
        return Result(folder.path, folder.rows())
    if found is None:
        normalise(method.backbone, run, source)
    else:
        method.backbone.mean, method.backbone.std = found.mean, found.std
    origin = initial_weights(method.backbone, run) if found is None else ""
    method.before_training()
    if isinstance(method, Distill):
        method.memory = teacher_memory(run, source, method)
    probe, listings = None, dict[str, bytes]()
    if rank == 0:
        probe = probe_of(run, folder, before, begun)
        listings = listings_of(run, folder, before, begun, source, probe, found is not None)

    def clear_loggers() -> None:
        """Removes what loggers wrote where no step was made."""
        if module.begin is not None or (rank == 0 and trainer.global_step == 0):
            for path in sorted(of_loggers(folder, run) - opened, reverse=True):
                with suppress(OSError):
                    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()

    def give_up(error: Exception) -> None:
        """Notes an error, and removes a run that did not begin."""
        clear_loggers()
        if rank == 0:
            with suppress(OSError):  # it must not hide the error itself
                if folder.run.is_file():
                    folder.note(f"error: {error}")
            with suppress(OSError):
                if trainer.global_step == 0 and not later:
                    folder.abandon()

    def alone(ended: processes.Ended) -> None:
        """Ends this process without its main thread, which waits for another one that is gone."""
        error = RuntimeError(f"{ended}{folder.then() or NOTHING}")
        if ended.stopped:
            folder.say(str(error))
            processes.end(ended.stopped)
        give_up(error)
        say(f"error: {error}", sys.stderr)
        processes.end(1)

    watch = processes.Watch(rank, world, alone)
    signals = Signals(watch)
    saver = Checkpoints(folder, run, signals)
    health = Health(source, run, method.backbone) if rank == 0 and run.method.needs.watch_features else None
    remedies = Remedies.of(run, own_settings(run, len(source), fits), method.diagnose(), fits)
    monitor = Monitor(folder, run, loader, probe, health, remedies, quiet=rank != 0)

    def correct(seconds: float) -> None:
        """Says that a training with a time takes another one."""
        if rank == 0:
            label = "WARNING" if planned is not None and seconds > planned else "time"
            folder.say(
                f"{label:<12}this training takes about {spoken(seconds)}, not {spoken(planned or 0)} as was expected. "
                f"It keeps its {counted(run.epochs, 'epoch')}, so that every schedule comes to its end."
            )

    with quiet_lightning(), undisturbed():
        timers: list[Callback] = [Compiling(folder)] if run.compile else []
        if planned is not None:
            timers.append(Pace(planned, correct))
        trainer = make_trainer(run, folder, [signals, *timers, *callbacks, monitor, saver])
    picture = view_sheet(run, source, method.backbone) if rank == 0 and found is None else None
    if rank == 0 and not later:  # all that can be known to fail has been tried
        begin()
    try:
        if rank == 0:
            batch = [*timed, *batch_words(asked, run.batch_size, len(source))]
            say_start(folder, run, source, module, origin, changes, found, batch)
            if found is not None and (line := other_version(written_by(whole), run)):
                folder.say(line)
        if world > 1 and run.method.needs.sync_batchnorm:
            distributed.convert(method)
        if run.compile:
            compile_parts(method)
        with quiet_lightning(), signals.put_back(), watch if world > 1 else nullcontext():
            trainer.fit(module, Stream(loader, run.epochs), ckpt_path=str(found.path) if found else None)
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # so Lightning answers it
            raise KeyboardInterrupt from None
        raise
    except Exception as error:
        if world > 1 and _is_disconnection(error):
            ended = watch.ended(processes.GRACE_SECONDS)
            if ended is None and processes.started_by_another():
                time.sleep(2 * processes.GRACE_SECONDS)  # process 0 knows more, says it, and takes this one with it
            gone = RuntimeError(f"{ended or SOMEBODY}{folder.then() or NOTHING}")
            if ended is not None and ended.stopped:
                folder.say(str(gone))
                raise (KeyboardInterrupt if ended.stopped == 130 else SystemExit(143)) from None
            give_up(gone)
            raise gone from error
        give_up(error)
        if str(error).startswith("DataLoader worker"):  # torch raises it wherever the main process is
            raise lost(error, loader.workers) from error
        raise
    finally:
        loader.close()
        clear_loggers()
    is_part = any(isinstance(each, FirstStep) and each.part for each in callbacks)
    if signals.caught is not None and module.done_steps < module.steps:
        if rank != 0:
            raise SystemExit(0)  # rank 0 tells how it ended
        folder.say(
            f"Stopped after step {module.done_steps} of {module.steps}; all is saved."
            + ("" if is_part else f"\nGo on with: {folder.resume_command()}")
        )
        if signals.caught == signal.SIGTERM:
            raise SystemExit(143)
        raise KeyboardInterrupt
    if module.skipped_in_a_row and module.skipped_in_a_row == module.done_steps:
        raise Diverged(
            f"None of the {counted(module.done_steps, 'step')} had finite gradients: nothing was learnt. Look "
            "at the images "
            "(lookalike check), and try a lower --optim.lr or the method's own settings."
        )
    if rank == 0:
        _say_end(folder, loader, monitor.summary(module), method, is_part)
        if monitor.verdict is not None and monitor.verdict.word == "diverged":
            raise Diverged(f"{folder.path}: the training diverged. {monitor.verdict.why} {monitor.verdict.remedy}")
    return Result(folder.path, folder.rows())


def measure(run: Run, speed: Speed) -> None:
    """Times the first steps of a run, by a training of its own in the folder `run.out`, which is removed then.

    Of the run itself nothing is touched: not its folder, and no module of the user's.

    Raises:
        Exception: what its training would raise before it is measured.
    """
    backbone = copy.deepcopy(run.backbone) if isinstance(run.backbone, nn.Module) else run.backbone
    alone = dataclasses.replace(
        run, backbone=backbone, epochs=MANY_EPOCHS, time=None, save_every=MANY_EPOCHS, logger="none", resume=False,
        overwrite=False,
    )  # fmt: skip
    try:
        with redirect_stdout(io.StringIO()):
            pretrain(alone, [speed])
    except Measured:
        pass
    finally:
        shutil.rmtree(run.out, ignore_errors=True)


def _time_as_begun(run: Run, folder: Folder, before: Mapping[str, object]) -> Run:
    """A resumed run with the epochs that its time came to; with more epochs its time says nothing any more.

    Raises:
        ValueError: another time is asked for than the run began with.
    """
    if not run.resume:
        return run
    then, epochs = before.get("time"), cast("int", before.get("epochs", run.epochs))
    check_same_time(folder.path, then, run.time)
    if run.time is not None and "epochs" not in run.given and run.epochs == Options.epochs:
        run = dataclasses.replace(run, epochs=epochs)
    return dataclasses.replace(run, time=cast("str | None", then) if run.epochs == epochs else None)


def _in_time(run: Run, rank: int) -> tuple[Run, float | None, list[str]]:
    """Settles the epochs of a run that has a time, by its speed.

    Returns the run, the seconds that it is to take, and lines that say so.
    """
    if run.time is None:
        return run, None, []
    seconds = seconds_of(run.time)
    if not run.to_be_timed:
        words = f"time        {counted(run.epochs, 'epoch')}: what {run.time} came to when the run began"
        again = "" if run.resume else f". {pasteable('--time', run.time)} measures the speed of now"
        return run, seconds, [words + again]
    if run.epochs != Options.epochs:
        raise ValueError(
            f"time is {run.time} and epochs {run.epochs}: they exclude each other. Give the time of the training, or "
            "its epochs."
        )
    if rank == 0:
        say(f"Measuring the speed of {method_name(run.method)}, for {run.time} of training ...")
    speed = Speed(seconds)
    try:
        measure(dataclasses.replace(run, out=tempfile.mkdtemp(prefix="lookalike-speed-")), speed)
    except (KeyboardInterrupt, SystemExit):
        if rank == 0:
            say("Stopped while the speed was measured: the training had not begun.")
        raise
    except Diverged as error:
        raise Diverged(
            "The first steps, which the speed is measured by, had no finite gradients: the training was not begun. "
            "Try a lower --optim.lr, or give --epochs in the place of --time to keep what led to it."
        ) from error
    epochs = speed.epochs_in(seconds)
    run = dataclasses.replace(run, epochs=epochs, given=(*run.given, "epochs"))
    run.check_frozen()
    lines = [f"time        {speed.words(epochs, f'about {run.time}')} (measured before the first step)"]
    if (one := speed.seconds(1)) > seconds:
        lines.append(
            f"WARNING     one epoch takes about {spoken(one)}, longer than --time {run.time}. It is made whole, so "
            "that every schedule comes to its end. Give a longer --time, or fewer images."
        )
    return run, speed.seconds(epochs), lines


def _png(picture: Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def _is_disconnection(error: BaseException | None) -> bool:
    """Whether gloo, NCCL or torch's store failed as they do when another process is gone, or this is the cause."""
    if isinstance(error, torch.distributed.DistError):
        gone = re.search("closed|reset|Broken pipe|remote process", str(error)) is not None
    else:
        gone = isinstance(error, RuntimeError) and "gloo/" in str(error)  # the file of the line that failed
    return gone or (error is not None and _is_disconnection(error.__cause__))


def _say_end(folder: Folder, loader: Loader, summary: str, method: Method, is_part: bool) -> None:
    folder.say(summary)
    if loader.broken:
        were = "was" if len(loader.broken) == 1 else "were"
        folder.say(
            f"{counted(len(loader.broken), 'image')} could not be read and {were} replaced; {folder.log} lists them."
        )
    folder.say(
        f"Wrote {folder.path}: encoder.safetensors and encoder.json (the encoder), run.yaml, metrics.jsonl, views.png, "
        "checkpoints/, log.txt"
    )
    if line := checkpoint_words(folder):
        folder.say(line)
    if method.cfg.needs.watch_features and not is_part:  # others are judged by who trains them
        command = pasteable("lookalike", "evaluate", folder.path, "TRAIN", "TEST")
        folder.say(f"Next: {command}   # folders with one sub-folder per class")


def checkpoint_words(folder: Folder) -> str:
    """What a run's checkpoints take, and how to remove those that nothing needs; empty where that frees nothing."""
    whole, needed = folder.checkpoint_bytes(), folder.checkpoint_bytes(of_epochs=False)
    if whole == needed or not needed:
        return ""
    return (
        f"Checkpoints take {whole / 1e6:.1f} MB, {(whole - needed) / 1e6:.1f} MB of them those of single epochs, which "
        f"--resume does not need. To remove them: {pasteable('lookalike', 'thin', folder.path)}"
    )
