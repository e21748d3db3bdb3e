"""Training: `pretrain(run)` is a sequence of stages; the result of each is the input of the next.

launch -> open data -> settle -> build -> restore -> fit -> finish. Lightning drives devices, precision and checkpoints.
"""

import signal
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from lightning.pytorch import Callback, Trainer
from torch.nn.modules.batchnorm import _BatchNorm

from .. import distributed, encoders, optimizers, processes
from ..core import Config, Method
from ..data import Loader, Source, measured_line
from ..data import measured as with_measured_scale
from ..durations import spoken
from ..events import Report, nowhere, to_console
from ..methods.distill import Distill
from ..printing import LONGEST_PATH, are, brief, counted, pasteable
from ..progress import counting
from ..runs import Diverged, Folder, Resolved, Result, Run, flat, method_name, written_by
from ..runs.start import Start
from .callbacks import Compiling, Reusing
from .checkpoints import Checkpoints, Found, find_checkpoint
from .endings import end_all, end_alone, raise_as_known
from .first_files import FirstFiles
from .health import Remedies
from .inputs import as_begun, listings_of, open_images, probe_of, with_system_folders
from .joint_loss import check_micro_batches
from .launch import Launch, check_launch, launch, launched_rank
from .looks import Health
from .meeting import facts_of as facts_of_process
from .model import build, check_bank, compile_parts, initial_weights, make_loader, normalize, teacher_memory, view_sheet
from .module import Pretraining, Stream
from .monitor import Monitor, Probe
from .resolved import batch_words, begun_as, options_as_begun, own_settings, resolve, scaled_as
from .signals import Signals
from .start import facts_of, memory_changes, other_version, print_start
from .timed import Planned, measured, planned, time_as_begun
from .timing import Pace, Speed
from .trainer import make_trainer, quiet_lightning, undisturbed
from .watchdog import Watchdog


def pretrain(run: Run, callbacks: Sequence[Callback] = (), report: Report = to_console) -> Result:
    """Trains an encoder on unlabelled images and writes the run's folder.

    Args:
        run: the data, the method and the options.
        callbacks: Lightning callbacks of your own, which see a `Pretraining`.
        report: receives the lines instead of the console; `log.txt` has all of them in any case.

    Raises:
        FileExistsError: the folder holds a run, and neither `resume` nor `overwrite` is set.
        FileNotFoundError, ValueError: invalid data, method, backbone or sizes; the message has the remedy.
        Diverged: no finite gradients for many steps; the weights keep their last good values.
        Collapsed: all images get the same feature, and `run.on_collapse` is "stop".
        KeyboardInterrupt, SystemExit: after Ctrl-C and SIGTERM, once the state is saved.
    """
    check_launch(run)
    with Folder(run.out).held() if launched_rank(run) == 0 else nullcontext():
        return _pretrain(run, callbacks, report)


def _pretrain(run: Run, callbacks: Sequence[Callback], report: Report = to_console) -> Result:
    """`pretrain`, once this process has locked the folder."""
    opened = open_data(run, launch(run, callbacks, report))
    built = build_networks(settle(opened))
    ready = restore(built)
    if ready.is_done:
        folder = ready.launch.folder
        epochs = ready.run.epochs
        folder.say(f"All {counted(epochs, 'epoch')} {are(epochs)} done: nothing to resume. Ask for more with --epochs.")
        return Result(folder.path, folder.rows())
    return finish(fit(ready))


def measure(run: Run, speed: Speed) -> None:
    """Times the first steps of a run, by a separate training; see `timed.measured`."""
    measured(run, speed, lambda alone, callbacks: pretrain(alone, callbacks, nowhere))


# ---------------------------------------------------------------- open data


@dataclass(frozen=True)
class Opened:
    """The requested run, with a resumed run's options, and the images."""

    launch: Launch
    run: Run
    source: Source
    scale: list[str]
    """A line about measured percentiles."""


def open_data(run: Run, launch: Launch) -> Opened:
    """Opens the images; for a resumed run under their earlier names."""
    if run.resume:
        asked, before = run.time, launch.before
        run = options_as_begun(run, begun_as(run, before), before)
        run = time_as_begun(run, asked, launch.folder, before)
    source = open_images(run)
    if run.resume:
        source = with_system_folders(launch.folder, run, source)
    if len(source) < 2:
        raise ValueError(
            f"{brief(flat(run)['data'], LONGEST_PATH)} holds {counted(len(source), 'image')}; at least 2 are needed, "
            "and thousands for useful features."
        )
    source, asked_pixels = with_measured_scale(source), run.pixels
    run = scaled_as(run, source)
    found = as_begun(source, run, launch.folder, launch.before, launch.begun)
    return Opened(launch, run, found, measured_line(asked_pixels, run.pixels))


# ---------------------------------------------------------------- resolve


@dataclass(frozen=True)
class Settled:
    """A resolved run with its images."""

    launch: Launch
    run: Resolved
    source: Source
    plan: Planned
    changes: list[str]
    """A line per field of the method that was fitted to the data."""
    batch: list[str]
    """Lines about the scale and the batch size."""
    own: Config | None
    """The method's configuration without any option of the user; None if it is not valid."""
    fits: bool
    """Whether the run is fitted to its images."""


def settle(opened: Opened) -> Settled:
    """Resolves the requested run: epochs by the time limit, and all that depends on the data and the machine."""
    launch, source = opened.launch, opened.source
    plan = planned(opened.run, launch.folder.reports_to if launch.is_first else nowhere, measure)
    asked = plan.run
    run, changes = resolve(asked, len(source), launch.before)
    batch = [*opened.scale, *batch_words(asked.batch_size, run.batch_size, len(source))]
    own = own_settings(run, len(source), asked.fit)
    return Settled(launch, run, source, plan, changes, batch, own, asked.fit)


# ---------------------------------------------------------------- build


@dataclass(frozen=True)
class Built:
    """The untrained networks, and the loader of images."""

    settled: Settled
    loader: Loader
    method: Method


def build_networks(settled: Settled) -> Built:
    """Builds loader, method and optimizer, the latter only as a check, before any file is written."""
    run, launch = settled.run, settled.launch
    filling = counting(launch.folder.say_progress, f"{'cache':<12}", "images decoded") if launch.is_first else None
    loader = make_loader(run, settled.source, run.batch_size, launch.rank, launch.world, filling)
    at_once = run.batch_size // run.loss_batches
    if at_once < 2:
        raise ValueError(
            f"--batch-size {run.batch_size} in {run.accumulate} micro-batches is {at_once} "
            "image per micro-batch; the loss needs other images to compare with. Give at least 2."
        )
    check_bank(run, launch.rank)
    method, own = build(run), at_once // launch.world
    if not run.method.needs.sync_batchnorm and own < 2 and any(isinstance(m, _BatchNorm) for m in method.modules()):
        raise ValueError(
            f"--batch-size {run.batch_size} leaves {own} image per micro-batch to each of {launch.world} processes, "
            f"and BatchNorm is not synchronised in {method_name(run.method)}. Give --batch-size "
            f"{2 * launch.world * run.loss_batches} or more, or fewer --devices."
        )
    check_micro_batches(run, method.backbone)
    optimizers.build(method, run.method.optim, run.batch_size, fused=False)
    return Built(settled, loader, method)


# ---------------------------------------------------------------- restore


@dataclass(frozen=True)
class Ready:
    """A training that is ready to start or to resume."""

    settled: Settled
    module: Pretraining
    found: Found | None
    """The checkpoint to resume from; None for a new training."""
    origin: str
    """A description of the initial weights."""
    probe: Probe | None
    files: FirstFiles

    @property
    def launch(self) -> Launch:
        return self.settled.launch

    @property
    def run(self) -> Resolved:
        return self.settled.run

    @property
    def is_done(self) -> bool:
        """Whether the checkpoint is of the last step."""
        return self.found is not None and self.found.step >= self.module.steps


def restore(built: Built) -> Ready:
    """Finds the checkpoint to resume from, or loads the initial weights."""
    settled, method = built.settled, built.method
    launch, run, source = settled.launch, settled.run, settled.source
    found = find_checkpoint(launch.folder, run, launch.before, source, launch.begun) if run.resume else None
    if run.resume and launch.is_first:
        encoders.mend_card(launch.folder, launch.folder.say)
    files = FirstFiles(launch, run, found)
    module = Pretraining(method, run, built.loader, launch.folder, files.write if launch.replaces else None)
    ready = Ready(settled, module, found, "", None, files)
    if ready.is_done:
        return ready
    if found is None:
        normalize(method.backbone, run, source)
    else:
        method.backbone.mean, method.backbone.std = found.mean, found.std
    origin = initial_weights(method.backbone, run) if found is None else ""
    method.before_training()
    if isinstance(method, Distill):
        method.memory = teacher_memory(run, source, method)
    probe = None
    if launch.is_first:
        probe = probe_of(run, launch.folder, launch.before, launch.begun)
        files.listings = listings_of(run, launch.folder, launch.before, launch.begun, source, probe, found is not None)
    return Ready(settled, module, found, origin, probe, files)


# ---------------------------------------------------------------- fit


@dataclass(frozen=True)
class Fitted:
    """A training that has ended or was stopped."""

    ready: Ready
    monitor: Monitor
    signals: Signals


def fit(ready: Ready) -> Fitted:
    """Trains."""
    run, launch, module, loader = ready.run, ready.launch, ready.module, ready.module.loader
    files = ready.files
    watch = processes.Watch(launch.rank, launch.world, lambda ended: end_alone(launch, files, trainer, ended))
    signals, watchdog = Signals(watch), None
    if launch.world > 1:
        watchdog = Watchdog(
            launch.rank, launch.world, run.accumulate,
            lambda: facts_of_process(run, ready.settled.source, ready.found.step if ready.found else 0),
            lambda reason, stacks: end_all(launch, files, trainer, reason, stacks),
        )  # fmt: skip
    monitor, reusing = _monitor(ready), Reusing(run.devices)
    trainer = _trainer(ready, signals, monitor, watchdog, reusing)
    start = None
    if launch.is_first:
        if ready.found is None:
            files.picture = view_sheet(run, ready.settled.source, module.method.backbone)
        settled, found = ready.settled, ready.found
        start = facts_of(run, settled.source, module, ready.origin, settled.changes, found)
        files.start = start
        if not launch.replaces:  # all checks have passed
            files.write()
    try:
        if start is not None:
            _print_start(ready, start)
        if launch.world > 1 and run.method.needs.sync_batchnorm:
            distributed.convert(module.method)
        if run.compile:
            compile_parts(module.method)
        with reusing, quiet_lightning(), signals.restored(), watch if launch.world > 1 else nullcontext():
            path = str(ready.found.path) if ready.found else None
            trainer.fit(module, Stream(loader, run.epochs), ckpt_path=path)
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # so that Lightning handles it
            raise KeyboardInterrupt from None
        raise
    except Exception as error:
        raise_as_known(ready.run, launch, files, trainer, watch, loader, error)
    finally:
        if watchdog is not None:
            watchdog.close()
        loader.close()
        files.clear_loggers(trainer.global_step)
    return Fitted(ready, monitor, signals)


def _monitor(ready: Ready) -> Monitor:
    settled, launch, method = ready.settled, ready.launch, ready.module.method
    watched = launch.is_first and settled.run.method.needs.watch_features
    health = Health(settled.source, settled.run, method.backbone) if watched else None
    remedies = Remedies.of(settled.run, settled.own, method.diagnose(), settled.fits)
    loader = ready.module.loader
    return Monitor(launch.folder, settled.run, loader, ready.probe, health, remedies, quiet=not launch.is_first)


def _trainer(ready: Ready, signals: Signals, monitor: Monitor, watchdog: Watchdog | None, reusing: Reusing) -> Trainer:
    """Lightning's trainer. Signals come first; checkpoints are saved after the monitor has its verdict."""
    run, launch, plan = ready.run, ready.launch, ready.settled.plan

    def correct(seconds: float) -> None:
        """Corrects the expected duration of a training with a time limit."""
        if launch.is_first:
            label = "WARNING" if plan.seconds is not None and seconds > plan.seconds else "time"
            launch.folder.say(
                f"{label:<12}this training takes about {spoken(seconds)}, not {spoken(plan.seconds or 0)} as "
                f"expected. It keeps its {counted(run.epochs, 'epoch')}, so that every schedule reaches its end.",
                "warning" if label == "WARNING" else "fact",
            )

    saver = Checkpoints(launch.folder, run, signals)
    with quiet_lightning(), undisturbed():
        timers: list[Callback] = [Compiling(launch.folder)] if run.compile else []
        if plan.seconds is not None:
            timers.append(Pace(plan.seconds, correct))
        last = [] if watchdog is None else [watchdog]
        callbacks = [signals, reusing, *timers, *launch.callbacks, monitor, saver, *last]
        return make_trainer(run, launch.folder, callbacks, watchdog)


def _print_start(ready: Ready, start: Start) -> None:
    settled, folder = ready.settled, ready.launch.folder
    batch = [*settled.plan.lines, *settled.batch]
    print_start(folder, start, ready.run, settled.source, ready.module.method, ready.found, batch)
    for line in memory_changes(ready.launch.before, ready.run) if ready.found is not None else ():
        folder.say(line, "warning")
    if ready.found is not None and (line := other_version(written_by(ready.launch.whole), ready.run)):
        folder.say(line)


# ---------------------------------------------------------------- finish


def finish(fitted: Fitted) -> Result:
    """Reports the end of the training.

    Raises:
        KeyboardInterrupt, SystemExit: a signal stopped it.
        Diverged: the weights are of no use.
    """
    ready, monitor, signals = fitted.ready, fitted.monitor, fitted.signals
    module, launch, folder = ready.module, ready.launch, ready.launch.folder
    if signals.caught is not None and module.done_steps < module.steps:
        if not launch.is_first:
            raise SystemExit(0)  # the first process reports the end
        folder.say(
            f"Stopped after step {module.done_steps} of {module.steps}; the state is saved."
            + ("" if launch.is_part else f"\nResume with: {folder.resume_command()}")
        )
        if signals.caught == signal.SIGTERM:
            raise SystemExit(143)
        raise KeyboardInterrupt
    if module.skipped_in_a_row and module.skipped_in_a_row == module.done_steps:
        raise Diverged(
            f"None of the {counted(module.done_steps, 'step')} had finite gradients: nothing was learnt. Check "
            "the images (lookalike check), and try a lower --optim.lr or the method's own settings."
        )
    if launch.is_first:
        _print_end(folder, module.loader, monitor.summary(module), module.method, launch.is_part)
        if monitor.verdict is not None and monitor.verdict.word == "diverged":
            raise Diverged(f"{folder.path}: the training diverged. {monitor.verdict.why} {monitor.verdict.remedy}")
    return Result(folder.path, folder.rows())


def _print_end(folder: Folder, loader: Loader, summary: str, method: Method, is_part: bool) -> None:
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
    if method.cfg.needs.watch_features and not is_part:  # others are evaluated by the job that trains them
        command = pasteable("lookalike", "evaluate", folder.path, "TRAIN", "TEST")
        folder.say(f"Next: {command}   # folders with one sub-folder per class")


def checkpoint_words(folder: Folder) -> str:
    """The size of a run's checkpoints, and how to remove those not needed; empty if there are none."""
    whole, needed = folder.checkpoint_bytes(), folder.checkpoint_bytes(of_epochs=False)
    if whole == needed or not needed:
        return ""
    return (
        f"Checkpoints take {whole / 1e6:.1f} MB, of which {(whole - needed) / 1e6:.1f} MB are of single epochs, which "
        f"--resume does not need. To remove them: {pasteable('lookalike', 'thin', folder.path)}"
    )
