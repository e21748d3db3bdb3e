"""What a training logs and shows while it runs: loss, speed, data wait, k-NN accuracy and the verdict."""

import dataclasses
import math
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from .. import distributed, processes
from ..backbones import Backbone
from ..data import Loader, Subset
from ..data.labelled import open_pair
from ..devices import default_device
from ..evaluation.features import features, with_statistics
from ..evaluation.knn import knn
from ..evaluation.metrics import interval_of_change
from ..evaluation.protocol_table import FeaturePrecision
from ..events import Kind, to_console
from ..label_free import spread
from ..metric_names import with_current_names
from ..printing import counted, lines_of
from ..random import permutation
from ..runs import Folder, Resolved, Row, inputs
from .first_steps import FirstSteps
from .forgetting import ERROR, Forgetting, accuracy
from .health import OWN, RUINED, Course, Remedies, Seen, Verdict, early_looks, empty, ruined
from .looks import NAMES, Change, Health, Look, Neighbours, UpdateRatio, change

if TYPE_CHECKING:
    from rich.progress import Progress

    from .module import Pretraining

LOG_EVERY = 10
"""Optimizer steps between two rows of `metrics.jsonl`; an epoch's last step always gives one."""
LINE_SECONDS = 30
"""Seconds between two progress lines without a terminal; the end of an epoch always gives one."""
PROBES_NOW = "it evaluates the probe"
LOOKS_NOW = "it measures the features"
PROBES = 20
"""The online k-NN runs after at most this many epochs, evenly spaced."""
PROBE_IMAGES = 5000, 2000
"""The online k-NN uses at most this many images of TRAIN and TEST, drawn once."""


class Probe:
    """k-NN accuracy of an encoder on a fixed draw of labelled images, cheap enough to measure during training."""

    def __init__(self, train: str, test: str, run: Resolved) -> None:
        first, second = open_pair(train, test, pixels=run.pixels, columns=run.columns, tiling=run.tiling)
        self.listings = {
            **inputs.of("probe-train", first.listing(), first.head, len(first)),
            **inputs.of("probe-test", second.listing(), second.head, len(second)),
        }
        """What a run stores of them: the names of all images, and digests of some."""
        self.train, self.test = (
            Subset(source, permutation(len(source), run.seed, "probe", part)[:limit].tolist())
            for part, (source, limit) in enumerate(zip((first, second), PROBE_IMAGES))
        )
        self.image_size = run.image_size
        self.workers = run.workers
        on_cpu = default_device().type == "cpu"
        self.precision: FeaturePrecision = "bf16" if on_cpu and run.precision == "bf16" else "fp32"
        """The run's own, also where it is resumed on another processor; on a GPU that of evaluations."""

    def untrained(self, encoder: Backbone) -> Tensor:
        """The same for an untrained encoder."""
        source, size = self.train, self.image_size
        return self(with_statistics(encoder, source, image_size=size, mean=encoder.mean, std=encoder.std))

    def __call__(self, encoder: Backbone) -> Tensor:
        """(M,) bool: whether the 20 nearest neighbours of each test image predict its class."""
        both = [
            features(
                encoder,
                source,
                image_size=self.image_size,
                mean=encoder.mean,
                std=encoder.std,
                workers=self.workers,
                precision=self.precision,
            )
            for source in (self.train, self.test)
        ]
        (a, x), (b, y) = ((f.features, f.labels) for f in both)
        assert x is not None
        assert y is not None
        return knn(a, x, b, y, also=()).predictions == y


def _of_heads(outputs: list[Tensor]) -> dict[str, float]:
    """Metrics of the outputs of a method's heads (B, D each) for a batch; empty if they are not finite."""
    if not outputs:
        return {}
    found = {"head_spread": min(map(spread, outputs)), "head_size": max(float(x.norm(dim=1).mean()) for x in outputs)}
    return found if all(map(math.isfinite, found.values())) else {}


class Monitor(Callback):
    """Writes `metrics.jsonl` and shows the progress: a live line in a terminal, plain lines elsewhere."""

    def __init__(
        self, folder: Folder, run: Resolved, loader: Loader, probe: Probe | None, health: Health | None,
        remedies: Remedies | None = None, *, quiet: bool,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.run = run
        self.loader = loader
        self.probe = probe
        self.health = health
        self.remedies = remedies or Remedies()
        self.quiet = quiet
        self.figures: dict[str, float] = {}
        """The latest metrics of the features."""
        self.first: dict[str, float] = {}
        """The metrics of the first encoder, and `loss` of the first row."""
        self._pair_auc_per_image = torch.zeros(0, dtype=torch.float64)
        """(B,) each image's contribution to the first encoder's `pair_auc`."""
        self.course = Course()
        self._hits: tuple[Tensor, Tensor] | None = None
        """(M,) which test images the probe classified correctly, before training and at its last evaluation."""
        self.knn: list[float] = []
        self._knn_from_start = False
        """Whether the first of them is of the encoder before training: a resumed run may have added the probe."""
        self.forgetting: Forgetting | None = None
        """For a run with a probe whose encoder starts from weights."""
        self._forgot: dict[str, Any] | None = None
        """Its state in the checkpoint that a run resumes from."""
        self._sums: dict[str, Tensor] = {}
        self._step: dict[str, Tensor] = {}
        self._heads: dict[str, Tensor] = {}
        """The outputs of the method's heads for the last batch that is measured, by name."""
        self._watching = False
        self._ratio: UpdateRatio | None = None
        self._listed: set[str] = set()
        self._count = 0
        self._first_steps = FirstSteps(run, len(loader.source))
        self._bar: "Progress | None" = None

    def state_dict(self) -> dict[str, Any]:
        """The sums since the last row, so that a resumed run writes identical losses."""
        # every process saves and loads, so each gets the mean over all
        sums = {name: distributed.mean(value) for name, value in self._sums.items()}
        forgot = self.forgetting.state_dict() if self.forgetting is not None else self._forgot
        return {
            "sums": sums, "count": self._count, "knn": self.knn, "first": self.first, "forgetting": forgot,
            "pair_auc_per_image": self._pair_auc_per_image, "course": self.course.state_dict(), "hits": self._hits,
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state_dict = with_current_names(state_dict)
        self._sums, self._count, self.knn = state_dict["sums"], state_dict["count"], state_dict["knn"]
        self.first = with_current_names(state_dict.get("first", {}))
        # a checkpoint of 0.1 has none of these
        self._forgot = state_dict.get("forgetting")
        self._pair_auc_per_image = state_dict.get("pair_auc_per_image", self._pair_auc_per_image)
        self._hits = state_dict.get("hits")
        if "course" in state_dict:
            self.course.load_state_dict(state_dict["course"])

    @property
    def verdict(self) -> Verdict | None:
        """The latest verdict; None before the first evidence."""
        return self.course.verdict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = cast("Pretraining", pl_module)
        self._steps, self._per_epoch, done = module.steps, module.steps_per_epoch, module.done_steps
        self._early = early_looks(self._steps)
        self._sums = {name: value.to(module.device) for name, value in self._sums.items()}
        if self.probe is not None and done == 0:
            encoder = module.method.encoder
            began = time.perf_counter()
            with processes.alone(PROBES_NOW):
                hits = self.probe(encoder) if self.run.init else self.probe.untrained(encoder)
            self.knn = [accuracy(hits)]
            self._hits = hits, hits
            if self.run.init:
                self.forgetting = self._forgetting(hits)
            module.probe_seconds = time.perf_counter() - began
            self.folder.append({"step": 0, "epoch": 0, "knn_top1": self.knn[0]})
            self.folder.say(f"k-NN {self._before()}: {self.knn[0]:.1%} ({self._probe_text()})")
        self._knn_from_start = bool(self.knn)
        if self.probe is not None and self._forgot is not None:
            self.forgetting = self._forgetting(self._forgot["before"])
            self.forgetting.load_state_dict(self._forgot)
        if self.health is not None:
            if not self.first:
                with processes.alone(LOOKS_NOW):
                    first = self.health(module.method.encoder)
                self.first, self._pair_auc_per_image = dict(first.figures), first.pair_auc_per_image
            if self.health.lacking and done == 0:
                self.course.set(empty(self.health.lacking, self.remedies))
                self._report(f"WARNING     {self.verdict}", "warning")
            for name, part in module.method.named_children():
                if self.run.method.needs.watch_heads and not isinstance(part, Backbone):
                    part.register_forward_hook(self._watch(name))
            self._ratio = UpdateRatio(module.method.backbone)
        if not self.quiet and self.folder.reports_to is to_console and sys.stdout.isatty():
            from rich.progress import BarColumn, Progress, TextColumn
            from rich.table import Column

            column = TextColumn(
                "{task.description}", table_column=Column(no_wrap=False)
            )  # two lines where 80 columns are few
            self._bar = Progress(BarColumn(20), column, transient=True)
            self._bar.start()
            self._task = self._bar.add_task("the first steps", total=self._steps, completed=done)
        self._begin = self._since = self._line = time.perf_counter()
        self._begin_step = self._since_step = done
        self._first_steps.begin(module)
        self._waited = self._begin_waited = self.loader.waited

    def _forgetting(self, before: Tensor) -> Forgetting:
        return Forgetting(before, min(PROBES, self.run.epochs), self.run)

    def _watch(self, name: str) -> Callable[[nn.Module, object, object], None]:
        def note(part: nn.Module, inputs: object, output: object) -> None:
            if self._watching and isinstance(output, Tensor) and output.ndim == 2 and len(output) > 1:
                self._heads.setdefault(name, output.detach())

        disabled: Callable[[nn.Module, object, object], None] = torch.compiler.disable(note)  # type: ignore[no-untyped-call]
        return disabled

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        step = cast("Pretraining", pl_module).done_steps + 1
        last = (batch_idx + 1) % self.run.loss_batches == 0
        self._heads.clear()
        self._watching = self.health is not None and last and (step == 1 or self._has_row(step))
        if self._ratio is not None and last and self._has_row(step):
            self._ratio.before_step()

    def _has_row(self, step: int) -> bool:
        return step % LOG_EVERY == 0 or step % self._per_epoch == 0 or step in self._early

    def _before(self) -> str:
        return "before training" if self.run.init else "of the untrained encoder"

    def _probe_text(self) -> str:
        assert self.probe is not None
        return f"{counted(len(self.probe.train), 'labelled image')}, {len(self.probe.test)} to classify"

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        module = cast("Pretraining", pl_module)
        if not self._add_losses(module, last=(batch_idx + 1) % self.run.loss_batches == 0):
            return
        step = module.done_steps
        if self._bar is not None:
            self._bar.update(self._task, completed=step)
        if not self.quiet:
            for line in filter(None, (self._first_steps.memory(module), self._first_steps.time(module))):
                self._report(line, "fact")
        heads = _of_heads([*self._heads.values()]) if not module.dropped else {}
        if "head_spread" not in self.first and step <= LOG_EVERY:
            self._note_first(heads, module)
        if not self._has_row(step):
            return
        epoch_ends = step % self._per_epoch == 0
        losses = {name: float(distributed.mean(value / self._count)) for name, value in self._sums.items()}
        now = time.perf_counter()  # a GPU has done the step by now
        row = self._row(module, losses | heads, now)
        if epoch_ends and self.probe is not None and self._probes(step // self._per_epoch):
            self._classify(row, module.method.encoder)
        if math.isfinite(row["loss"]):
            self.first.setdefault("loss", row["loss"])
        if self.health is not None:
            self._evaluate(row, module)
        self._list_broken()
        if not self.quiet:
            self.folder.append(row)
            for logger in trainer.loggers:
                logger.log_metrics({k: v for k, v in row.items() if not isinstance(v, str)}, step=step)
            self._show(row, now, epoch_ends)
        # the time of the probe belongs to no training step
        self._since, self._since_step, self._waited = time.perf_counter(), step, self.loader.waited
        self._first_steps.restart(module)

    def _add_losses(self, module: "Pretraining", *, last: bool) -> bool:
        """Adds a batch's losses to the sums; returns whether it is the `last` batch of an optimizer step."""
        for name, value in module.parts.items():
            self._step[name] = self._step[name] + value if name in self._step else value.clone()
        if not last:
            return False
        if not module.dropped:  # a skipped step has no loss
            for name, value in self._step.items():
                self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._count += self.run.loss_batches
        self._step = {}
        return True

    def _note_first(self, heads: dict[str, float], module: "Pretraining") -> None:
        """Stores the metrics of heads and method in the first steps, to compare later ones with them."""
        own = module.method.metrics(module.outputs) if self.health is not None else {}
        self.first |= heads
        for name in OWN:
            if name in own:
                self.first.setdefault(name, own[name])

    def _row(self, module: "Pretraining", figures: dict[str, float], now: float) -> Row:
        """A row of `metrics.jsonl`: losses, metrics of the heads, learning rate and speed since the last row."""
        step, waited, seconds = module.done_steps, self.loader.waited, now - self._since
        row: Row = {"step": step, "epoch": step // self._per_epoch}
        row["loss"] = math.nan  # stays if all steps since the last row were skipped
        row |= figures
        row["lr"] = module.rates.lr
        row["grad_norm"] = module.grad_norm
        row["skipped"] = module.skipped
        if self._ratio is not None and math.isfinite(ratio := self._ratio()):
            row["update_ratio"] = ratio
        row["images_per_s"] = (step - self._since_step) * self.run.batch_size / seconds
        row["data_wait"] = min(1.0, (waited - self._waited) / seconds)
        self._sums, self._count = {}, 0
        return row

    def _classify(self, row: Row, encoder: Backbone) -> None:
        """Adds the probe's k-NN accuracy to a row, and warns once if the encoder forgets what it knew."""
        assert self.probe is not None
        with processes.alone(PROBES_NOW):
            hits = self.probe(encoder)
        self.knn.append(accuracy(hits))
        row["knn_top1"] = self.knn[-1]
        if self._hits is not None and len(hits) == len(self._hits[0]):  # an image may be unreadable this time
            self._hits = self._hits[0], hits
        learns = row["epoch"] > self.run.frozen_epochs
        if self.forgetting is not None and learns:
            warning = self.forgetting.see(int(row["step"]), hits)
            if warning and self.health is None:  # otherwise the verdict reports it
                self._report(warning, "warning")

    def _list_broken(self) -> None:
        for name in sorted(self.loader.broken.keys() - self._listed):
            self.folder.note(f"broken image {name}: {self.loader.broken[name]}")
            self._listed.add(name)

    def _probes(self, epoch: int) -> bool:
        return epoch * PROBES // self.run.epochs > (epoch - 1) * PROBES // self.run.epochs

    def _looks(self, step: int, every: int) -> bool:
        """Whether an evaluation is due: early, after the last step, and at the first row after every `every` steps."""
        before = max((step - 1) // LOG_EVERY * LOG_EVERY, (step - 1) // self._per_epoch * self._per_epoch)
        return step in self._early or step == self._steps or step // every > before // every

    def _evaluate(self, row: Row, module: "Pretraining") -> None:
        """Adds the metrics of the features and the verdict to a row if they are due; reports a new verdict."""
        assert self.health is not None
        step, before = int(row["step"]), self.verdict
        due = self._looks(step, self.health.every) or "knn_top1" in row
        if module.skipped_in_a_row >= RUINED:
            self.course.set(ruined(module.skipped_in_a_row, float(module.parts["loss"]), module.micro_batch))
        elif "loss" in self.first and due:
            with processes.alone(LOOKS_NOW):
                look = self.health(module.method.encoder)
            self.figures = look.figures
            own = module.method.metrics(module.outputs)
            if taken := own.keys() & (row.keys() | look.figures.keys()):
                raise ValueError(
                    f"{type(module.method).__name__}.metrics() returns {min(taken)!r}, already a column of the row."
                )
            row |= look.figures | own
            moved = change(Look({n: self.first[n] for n in NAMES}, self._pair_auc_per_image), look)
            if moved is not None:
                row |= {"pair_auc_change": moved.mean, "pair_auc_error": moved.error, "moved": moved.moved}
            self.course.see(self._seen(row, moved, step))
        else:
            return
        if self.verdict is None:
            return
        if self.forgetting is not None:
            self.course.verdict = self.forgetting.verdict(self.verdict)
        row |= {"verdict": self.verdict.word, "why": self.verdict.why}
        if self.verdict.remedy:
            row["remedy"] = self.verdict.remedy
        module.collapsed = self.verdict.word == "collapsed"
        if before is None or before.word != self.verdict.word:
            is_alarm = self.verdict.is_alarm
            text = f"{'WARNING  ' if is_alarm else ''}step {step}: {self.verdict}"
            self._report(text, "warning" if is_alarm else "fact")

    def _seen(self, row: Row, moved: Change | None, step: int) -> Seen:
        """The input of the verdict."""
        remedies = self.remedies
        if self.forgetting is not None:
            remedies = dataclasses.replace(remedies, forgetting=self.forgetting.remedy)
        return Seen(
            first=self.first, now=row, change=moved, step=step, steps=self._steps,
            still=round(self.run.frozen_epochs * self._per_epoch), lacking=self.health.lacking if self.health else "",
            labelled=self.run.method.needs.labels, neighbours=self._neighbours(step),
            probed_now="knn_top1" in row, remedies=remedies, start="before training" if self.run.init else "untrained",
        )  # fmt: skip

    def _neighbours(self, step: int) -> Neighbours | None:
        """The result of the probe; None before its first evaluation in training."""
        if self._hits is None or len(self.knn) < 2:
            return None
        # all evaluations together err by chance as often as a single one
        evaluations = 1 if step == self._steps else min(PROBES, self.run.epochs)
        (before, now), (low, high) = map(accuracy, self._hits), interval_of_change(*self._hits, ERROR / evaluations)
        return Neighbours(before, now, low, high)

    def _report(self, text: str, kind: Kind) -> None:
        if self._bar is None:
            self.folder.say(text, kind)
        else:
            self._bar.console.print(lines_of(text), markup=False, highlight=False)
            self.folder.note(text)

    def _show(self, row: Row, now: float, epoch_ends: bool) -> None:
        step = int(row["step"])
        left = (self._steps - step) * (now - self._begin) / max(1, step - self._begin_step)
        speed = row["images_per_s"]
        line = (
            f"epoch {step / self._per_epoch:.4g}/{self.run.epochs}  step {step}/{self._steps}  loss {row['loss']:.4f}  "
            f"{speed:.{0 if speed >= 10 else 1}f} images/s  data wait {row['data_wait']:.0%}  "
            f"left {timedelta(seconds=round(left))}{f' of {self.run.time}' if self.run.time else ''}"
        )
        if "knn_top1" in row:
            line += f"  k-NN {row['knn_top1']:.1%}"
        if row["skipped"]:
            line += f"  skipped {row['skipped']:.0f}"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=line)
        if epoch_ends or now - self._line > LINE_SECONDS:
            self._line = now
            if self._bar is not None:
                self.folder.note(line)
            else:
                self.folder.say(line, "progress")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_bar()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop_bar()
        if trainer.global_step or self.run.resume:  # else the folder is about to be removed
            with suppress(OSError):  # it must not hide the error itself
                self._list_broken()

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def summary(self, module: "Pretraining") -> str:
        """Time, speed, data wait, metrics, verdict and k-NN accuracy, a line each."""
        seconds = time.perf_counter() - self._begin
        steps = module.done_steps - self._begin_step
        text = (
            f"Trained {counted(steps, 'step')} in {timedelta(seconds=round(seconds))}: "
            f"{steps * self.run.batch_size / seconds:.0f} images/s, "
            f"{(self.loader.waited - self._begin_waited) / seconds:.0%} of the time waiting for data"
        )
        if module.skipped:
            text += f", {counted(module.skipped, 'step')} skipped for non-finite gradients"
        if self.figures:
            named = {n.replace("_", " ").replace("auc", "AUC"): v for n, v in self.figures.items()}
            text += "\nFeatures now: " + ", ".join(f"{name} {value:.3g}" for name, value in named.items())
            text += "  (explained in docs/health.md)"
        if self.verdict is not None:
            text += f"\nVerdict: {self.verdict}"
        if self.probe is not None and len(self.knn) > 1 and self._knn_from_start:
            text += f"\nk-NN top-1: {self.knn[0]:.1%} {self._before()}, {self.knn[-1]:.1%} now ({self._probe_text()})"
        if warning := self._forgotten(module):
            text += f"\n{warning}"
        return text

    def _forgotten(self, module: "Pretraining") -> str:
        """A line about forgetting what `--init` knew; empty if there is nothing to report."""
        if self.forgetting is not None:
            reported = self.verdict is not None and self.verdict.word == "getting worse"
            return "" if reported else self.forgetting.at_end()
        if self.probe is not None or not self.run.init or not self.run.method.needs.watch_features:
            return ""
        return (
            "Whether the encoder forgot what --init knew is not measured. To measure it: --probe TRAIN TEST, with "
            "labelled images like those that the weights were trained on."
        )
