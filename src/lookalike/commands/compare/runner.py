"""Comparison of methods at equal cost: `compare(Comparison(...))` trains, evaluates and ranks them."""

import dataclasses
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from ... import training
from ...backbones import Backbone
from ...core import Config
from ...data import image_set, measured, only_chosen, open_source
from ...data.labelled import open_pair
from ...data.order import Order
from ...devices import default_device
from ...durations import spoken
from ...evaluation.features import fingerprint
from ...evaluation.protocol_table import PROTOCOLS
from ...evaluation.records import Entry
from ...files import FORMAT, becomes, locked, write_json
from ...methods import get_method
from ...methods.distill import Distill
from ...places import check_logger
from ...printing import are, counted, say
from ...runs import Collapsed, Diverged, Folder, Options, Resolved, Run, made, write_run
from ...training import callbacks as callbacks_module
from ...training import inputs, stages
from ...training import resolved as training_resolved
from ...training.resolved import scaled_as
from ...training.timing import MANY_EPOCHS, Pace, Speed
from ..evaluate import evaluate
from .baseline import untrained_encoder
from .cost_meter import Costs, gflops_per_image, spent
from .earlier_runs import is_timed, remove
from .hardware import device_name
from .leakage import shared_images
from .plan import left_line, order, plan_line
from .ranking import OFF_BUDGET, Accuracy, Rank, Results, Training, rank, score_range, seed_noise, training_of
from .record import FILE, add_results, mean_results, plain_results, read, results_of, with_new_paths
from .significance import ERROR_RATE
from .spec import Comparison, changes, extends, with_paths_of
from .summary import recommendation, table

SPEED = ".speed"
"""Prefix of the temporary folders in which the speed of a training is measured."""


@dataclass(frozen=True)
class Compared:
    """Result of a comparison."""

    folder: Path
    ranking: list[Rank]
    """The methods that could be trained and evaluated, best first."""
    trainings: list[Training]
    recommendation: str


def compare(asked: Comparison, callbacks: Sequence[Callback] = ()) -> Compared:
    """Trains methods at equal cost, evaluates them and the untrained network, and ranks them.

    The folder `asked.out` contains `compare.json`, and a run's folder for each training. Finished work in it is not
    repeated, and a stopped training is resumed. A method that fails is reported; the others continue.

    Args:
        asked: methods, images, tests, budget and options.
        callbacks: of every training, as for `lookalike.pretrain`.

    Raises:
        FileExistsError: the folder contains something else.
        ValueError: the folder contains a comparison with other settings; unusable images, labels or protocols.
        FileNotFoundError: the images do not exist; with `resume`, the folder contains no comparison.
        RuntimeError: no method could be trained and evaluated; `compare.json` has the reasons.
    """
    if unknown := [p for p in asked.protocols if p not in PROTOCOLS]:
        raise ValueError(f"Unknown protocol {unknown[0]!r}. Choose from {', '.join(PROTOCOLS)}.")
    check_logger(asked.logger)
    folder = Folder(asked.out)
    _check(folder, asked)
    with folder.held():
        work = _Work(asked, folder.path, callbacks)
        try:
            work.do()
        except (KeyboardInterrupt, SystemExit):
            if work.replaced:
                say(f"Stopped before the first step. The previous comparison in {folder.path} is unchanged.")
            else:
                say(f"Stopped. Finished work is saved in {folder.path}; repeat the command to resume.")
            raise
    found = work.answer()
    say("\n" + "\n".join(table(found.ranking, work.untrained_results, found.trainings)))
    say(f"\n{found.recommendation}")
    if not found.ranking:
        reasons = "; ".join(dict.fromkeys(t.error for t in found.trainings if t.error))
        detail = (
            f"{reasons}. The previous comparison is unchanged."
            if work.replaced
            else f"{folder.path / FILE} has the reasons."
        )
        raise RuntimeError(f"No method could be trained and evaluated. {detail}")
    return found


def train_one(asked: Comparison, callbacks: Sequence[Callback] = ()) -> Path:
    """Runs the training `asked.training` of a comparison; other processes may run others at the same time.

    Returns the folder of its run. `compare` without `training` evaluates and ranks all.

    Raises:
        As `compare`, and the error of the training.
    """
    folder = Folder(asked.out)
    _check(folder, asked)
    with locked(folder.lock, wait=say):
        work = _Work(asked, folder.path, callbacks)
    work.do_one()
    return folder.path / str(asked.training)


def _check(folder: Folder, asked: Comparison) -> None:
    """Raises if this comparison must not write to the folder; changes nothing."""
    exists = (folder.path / FILE).is_file()
    if folder.run.is_file():
        raise FileExistsError(f"{folder.path} contains a run. Give --out another folder.")
    folder.check_own()
    for weights in (asked.init, asked.teacher) if asked.overwrite else ():
        if weights and os.path.exists(weights) and folder.path.resolve() in Path(weights).resolve().parents:
            raise ValueError(
                f"{weights} is inside the comparison that --overwrite replaces. Copy it, or give another --out."
            )
    if asked.resume and not exists:
        raise FileNotFoundError(f"{folder.path} contains no {FILE} to resume. Leave --resume out to start.")
    if not exists:
        folder.check(resume=False, overwrite=False)  # must be empty and writable


def _with_batch_for(asked: Comparison, images: int) -> Comparison:
    """The comparison with the batch size for this number of images.

    Raises:
        ValueError: the batch size is larger than the number of images.
    """
    batch = training_resolved.batch_for(asked, images, 1, asked.origins.get("batch_size") == "user")
    for line in training_resolved.batch_words(asked.batch_size, batch, images):
        say(line)
    asked = dataclasses.replace(asked, batch_size=batch)
    Order(images, asked.batch_size, asked.seed, 0, 1, asked.accumulate)  # raises if the batch size does not fit
    return asked


def _waiting(asked: Comparison) -> list[Training]:
    """All trainings, none of them started."""
    return [
        Training(
            method=method,
            seed=seed,
            folder=f"{method}-seed{seed}",
            learns_from_labels=get_method(method).Config().needs.labels,  # type: ignore[call-arg]
        )
        for seed in asked.all_seeds
        for method in asked.methods
    ]


class _Work:
    """The work of a comparison: its settings and its results so far."""

    def __init__(self, asked: Comparison, path: Path, callbacks: Sequence[Callback]) -> None:
        if asked.alpha == "auto" and not asked.overwrite and (path / FILE).is_file():  # unchanged on resume
            asked = dataclasses.replace(asked, alpha=read(path / FILE)["question"]["alpha"])
        self.asked = asked
        self.path = path
        self.callbacks = callbacks
        self.replaced: list[str] = []
        """Training folders of the previous comparison. They are replaced after the first training step of this one."""
        self.shares = False
        """Whether other processes run other trainings of this comparison."""
        self.made = made()
        source = open_source(asked.data, asked.pixels, columns=asked.columns, tiling=asked.tiling)
        self.source = measured(source if asked.only is None else only_chosen(source, asked.only))
        if len(self.source) < 2:
            raise ValueError(f"{asked.data} contains {counted(len(self.source), 'image')}; at least 2 are needed.")
        self.asked = asked = _with_batch_for(scaled_as(asked, self.source), len(self.source))
        largest = {max(view.size for view in self._config(name).views) for name in asked.methods}
        self.size = asked.image_size or max(largest)
        labelled = [
            open_pair(train, test, pixels=asked.pixels, columns=asked.columns, tiling=asked.tiling)
            for train, test in asked.pairs
        ]
        self.question = asked.question() | {
            "device": device_name(),
            "precision": training_resolved.precision_of(asked),
            "image_size": self.size,
            "images": image_set(self.source),
            "labels": [fingerprint(*pair) for pair in labelled],
        }
        self.shared = shared_images(self.source, {name: pair[1] for name, pair in zip(asked.test, labelled)})
        """Number of test images that are also training images, by test."""
        self.ready: dict[str, tuple[Resolved, float | None]] = {}
        """The resolved run and the operations per image of each method that can be trained."""
        self.untrained: dict[int, dict[str, dict[str, Accuracy]]] = {}
        """Results of the untrained network, by seed."""
        self.speeds: dict[str, Speed] = {}
        """Measured speed, by method."""
        self.seconds: dict[str, float | None] = {}
        """Seconds of one training of each method: planned, later measured."""
        self.trainings = _waiting(asked)
        self._begin()
        for line in self._shared_lines():
            say(f"WARNING: {line}")

    # ---- compare.json

    def _begin(self) -> None:
        """Loads `compare.json`, or creates it."""
        file = self.path / FILE
        for path in self.path.iterdir():
            if becomes(path) == FILE:
                path.unlink()
        if file.is_file():
            old = read(file)
            moved = json.loads(json.dumps(self.question))
            now = with_paths_of(old["question"], moved)
            lines = changes(old["question"], now)
            if lines and all(row.get("epochs") is None for row in old["trainings"]):  # no training was started
                self.write()
                return
            if self.asked.overwrite:
                resumed = not lines and any(row["status"] == "waiting" for row in old["trainings"])
                if resumed:
                    say(f"{self.path} contains this comparison, unfinished: it is resumed, nothing is replaced.")
            else:
                resumed = not lines or extends(old["question"], now)
                if not resumed:
                    if self.source.system_folders:
                        lines.append("system folders, such as @eaDir: included by version 0.1, skipped now")
                    raise ValueError(
                        f"{self.path} contains a comparison with other settings:\n  "
                        + "\n  ".join(lines)
                        + "\nGive another --out, or --overwrite to replace it. Only methods and seeds can be added."
                    )
            if resumed:
                self._load(old)
                if lines or moved != now or "error_rate" not in old:  # version 0.1 ranked by another rule
                    self.write()
                return
            self.replaced = [row["folder"] for row in old["trainings"]]
        self.write()

    def take_over(self) -> None:
        """Removes the previous comparison, except for folders that trainings of this one use."""
        replaced, self.replaced = self.replaced, []
        if replaced:
            self.write()
        own = {t.folder for t in self.trainings}  # each training replaces its own folder
        for name in replaced:
            if name not in own:
                try:
                    remove(self.path / name)
                except BlockingIOError as error:
                    say(f"{name} was not removed: {error}")

    def _load(self, old: dict[str, Any]) -> None:
        """Takes the results of the requested trainings from the stored comparison."""
        known = {(t.method, t.seed): t for t in map(training_of, old["trainings"])}
        new = sum((t.method, t.seed) not in known for t in self.trainings)
        if new:
            say(f"{self.path} contains {len(known)} of these trainings; {new} {are(new)} new.")
        paths = dict(zip(old["question"]["test"], self.asked.test))  # tests may have moved
        self.trainings = [known.get((t.method, t.seed), t) for t in self.trainings]
        self.trainings = [dataclasses.replace(t, results=with_new_paths(paths, t.results)) for t in self.trainings]
        self.untrained = {
            int(seed): with_new_paths(paths, results_of(found)) for seed, found in old["untrained_by_seed"].items()
        }

    def _shared_lines(self) -> list[str]:
        return [
            f"{counted(count, 'image')} of the test {test} {are(count)} also in the training images {self.asked.data}: "
            "scores on this test do not measure performance on new images. Leave them out of DATA."
            for test, count in self.shared.items()
        ]

    def write(self) -> None:
        """Writes `compare.json`, with the ranking so far; not while a previous comparison is still to be replaced."""
        if not self.shares:
            return self._write()
        with locked(Folder(self.path).lock, wait=say):
            own = [t for t in self.trainings if t.folder == self.asked.training]
            self._load(read(self.path / FILE))
            self.trainings = [next((o for o in own if o.folder == t.folder), t) for t in self.trainings]
            self._write()

    def _write(self) -> None:
        if self.replaced:
            return
        asked, seconds = self.asked, self.asked.budget_seconds
        found = self.answer()
        content = {
            "format": FORMAT,
            "data": asked.data,
            "train": list(asked.train),
            "tests": list(asked.test),
            "budget": self.question["budget"] if seconds is None else {"minutes": seconds / 60},
            "seeds": asked.all_seeds,
            "backbone": asked.backbone,
            "image_size": self.size,
            "batch_size": asked.batch_size,
            "device": self.question["device"],
            **self.made,
            "question": self.question,
            "shared_images": self.shared,
            "error_rate": ERROR_RATE,
            "untrained": mean_results(self.untrained_results),
            "untrained_range": self.untrained_results
            and score_range(self.untrained_results, seed_noise(self.trainings)),
            "untrained_by_seed": {str(seed): plain_results(results) for seed, results in self.untrained.items()},
            "trainings": [dataclasses.asdict(t) for t in self.trainings],
            "ranking": [dataclasses.asdict(r) for r in found.ranking],
            "recommendation": found.recommendation,
        }
        write_json(self.path / FILE, content)

    def answer(self) -> Compared:
        """The ranking so far."""
        ranking = rank(self.trainings, self.asked.budget_seconds)
        text = ""
        if ranking or all(t.status == "failed" for t in self.trainings):
            timed = self.asked.budget is not None
            advice = recommendation(ranking, self.trainings, self.untrained_results, timed=timed)
            text = " ".join([advice, *self._shared_lines()])
        return Compared(self.path, ranking, self.trainings, text)

    @property
    def untrained_results(self) -> list[Results]:
        return list(self.untrained.values())

    def _set(self, index: int, **values: Any) -> Training:
        """Updates a training, and writes `compare.json`."""
        self.trainings[index] = dataclasses.replace(self.trainings[index], **values)
        self.write()
        return self.trainings[index]

    # ---- the work

    def do(self) -> None:
        """Trains and evaluates everything that is not done yet."""
        left = [i for i, t in enumerate(self.trainings) if t.status != "done" and not t.final]
        for method in dict.fromkeys(self.trainings[i].method for i in left):
            self._try_out(method)
        left = [i for i in left if self.trainings[i].method in self.ready]
        if self.ready:  # also reads the labelled images before hours of training
            self._plan()
            self._evaluate_untrained()
        for i in left:
            try:
                self._train(i)
                self._evaluate_training(i)
            except Exception as error:
                self._fail(i, error)

    def do_one(self) -> None:
        """Runs the one training that was asked for. Raises its error, which `compare.json` then holds."""
        self.shares = True
        index = self.asked.training_names.index(str(self.asked.training))
        t = self.trainings[index]
        if t.seconds is not None or t.final:
            say(f"{t.folder} {'has failed for good' if t.final else 'is trained already'}: nothing to do.")
            return
        self._try_out(t.method)
        if t.method not in self.ready:
            raise RuntimeError(f"{t.method} cannot be trained: {self.trainings[index].error}")
        try:
            self._train(index)
        except Exception as error:
            self._fail(index, error)
            raise

    def _fail(self, index: int, error: Exception) -> None:
        """Marks a training as failed; a collapsed or diverged one is not repeated."""
        t, final = self.trainings[index], isinstance(error, Collapsed | Diverged)
        verdict = {"verdict": "collapsed" if isinstance(error, Collapsed) else "diverged"} if final else {}
        self._set(index, status="failed", final=final, error=_message(error), **verdict)
        say(f"{t.method}, seed {t.seed}, failed: {_message(error)}")

    def _to_train(self) -> dict[str, int]:
        """Number of remaining trainings of each method."""
        return order([t.method for t in self.trainings if t.method in self.ready and t.seconds is None and not t.final])

    def _plan(self) -> None:
        """Prints the remaining trainings and their time, before the work starts."""
        left = self._to_train()
        if not left:
            return
        for method in left:
            known = [t.seconds for t in self.trainings if t.method == method and t.seconds is not None]
            budget = self.asked.budget_seconds
            if known:
                self.seconds[method] = sum(known) / len(known)
            elif budget is not None:
                self.seconds[method] = budget
            else:
                try:
                    self.seconds[method] = self._speed(method).seconds(self.asked.epochs)
                except Exception as error:  # its training fails the same way, and is reported as the failure
                    say(f"{method} fails in its first steps: {_message(error)}")
                    self.seconds[method] = None
        trainings = sum(t.method in self.ready for t in self.trainings)
        line = plan_line(self.seconds, left, seeds=self.asked.seeds, trainings=trainings, tests=len(self.asked.pairs))
        say(f"Plan: {line}")

    def _speed(self, method: str) -> Speed:
        """The speed of a method, measured once. Raises the error of its training if the first steps fail."""
        if method in self.speeds:
            return self.speeds[method]
        say(f"Measuring the speed of {method} ...")
        for old in self.path.glob(f"{SPEED}*"):  # left by killed processes
            if is_timed(old):
                remove(old)
        folder = Path(tempfile.mkdtemp(prefix=f"{SPEED}-", dir=self.path))
        speed = Speed(self.asked.budget_seconds, self.asked.epochs)
        stages.measure(self._run(method, self.asked.seed, MANY_EPOCHS, folder), speed)
        self.speeds[method] = speed
        return speed

    def _try_out(self, method: str) -> None:
        """Checks whether a method can be trained, and counts its operations."""
        try:
            run = self._run(method, self.asked.seed, self.asked.epochs, self.path / SPEED)
            source = inputs.open_images(run)
            if self.shared and run.method.needs.labels:
                test, count = next(iter(self.shared.items()))
                raise ValueError(
                    f"{run.method.method.__name__} learns from labels, and {counted(count, 'image')} of the test "
                    f"{test} {are(count)} also in the training images: the test labels would be known. Leave them out "
                    f"of DATA, or leave {method} out."
                )
            run, _ = training.resolve(run, len(source))
            built = training.build(run)
            built.before_training()
        except Exception as error:
            say(f"{method} cannot be trained: {_message(error)}")
            for i, t in enumerate(self.trainings):
                if t.method == method and t.status != "done" and not t.final:
                    self.trainings[i] = dataclasses.replace(t, status="failed", error=_message(error))
            self.write()
            return
        flops = None
        try:
            flops = gflops_per_image(built.to(default_device()), run)
        except Exception as error:  # the training works without this number
            say(f"The operations of {method} could not be counted: {_message(error)}")
        self.ready[method] = run, flops

    def _config(self, method: str) -> Config:
        cls = get_method(method)
        if cls is Distill:
            assert self.asked.teacher is not None
            return Distill.Config(teacher=self.asked.teacher, teacher_backbone=self.asked.teacher_backbone or "")
        return cls.Config()  # type: ignore[call-arg]

    def _run(self, method: str, seed: int, epochs: int, out: Path) -> Run:
        """A training's options, before they are resolved for the images."""
        options = {f.name: vars(self.asked)[f.name] for f in dataclasses.fields(Options)} | {
            "seed": seed, "epochs": epochs, "out": str(out), "image_size": self.size, "resume": False,
            "overwrite": False,
        }  # fmt: skip
        return Run(**options, data=self.asked.data, method=self._config(method), origins={"batch_size": "user"})

    def _evaluate_untrained(self) -> None:
        """Evaluates the untrained network, with BatchNorm statistics of the images."""
        resolved, _ = next(iter(self.ready.values()))
        for seed in self.asked.all_seeds:
            for train, test in self.asked.pairs:
                found = self.untrained.setdefault(seed, {})
                if any(test in tests for tests in found.values()):
                    continue
                say(f"Evaluating the untrained network, seed {seed}, on {test}")
                model = untrained_encoder(dataclasses.replace(resolved, seed=seed), self.source)
                add_results(found, test, self._evaluate(model, train, test, seed))
                self.write()

    def _train(self, index: int) -> None:
        """Starts or resumes a training and completes it."""
        t, asked = self.trainings[index], self.asked
        if t.seconds is not None:
            return
        folder = Folder(self.path / t.folder)
        if folder.path.is_symlink():
            raise FileExistsError(f"{folder.path} is a link. Remove it, or replace it by the folder it points to.")
        number = f"[{index + 1}/{len(self.trainings)}]"
        started, epochs = t.epochs is not None, t.epochs or self._epochs(t.method)
        gflops = self.ready[t.method][1]
        self._set(index, status="waiting", error=None, epochs=epochs, gflops_per_image=gflops)
        run = self._run(t.method, t.seed, epochs, folder.path)
        if folder.path.is_dir() and not folder.is_left_over() and folder.is_of_others():
            write_run(run, folder.run)  # keeps foreign files in the training's folder
        exists = folder.run.is_file()
        run = dataclasses.replace(run, resume=exists and started, overwrite=exists and not started)
        planned = self.seconds.get(t.method)
        about = "" if planned is None else f", about {spoken(planned)}"
        say(f"\n{number} {t.method}, seed {t.seed}: {counted(epochs, 'epoch')}{about}; {self._left()}")

        def correct(seconds: float) -> None:
            before = "" if planned is None else f", not {spoken(planned)} as planned"
            self.seconds[t.method] = seconds
            folder.say(f"This training takes about {spoken(seconds)}{before}; {self._left()}")

        first = callbacks_module.FirstStep(self.take_over, part=True)
        result = training.pretrain(run, [first, *self.callbacks, Pace(planned, correct), Costs()])
        cost = spent(folder.last)
        self.seconds[t.method] = cost.seconds
        self._set(
            index,
            steps=cost.steps,
            seconds=round(cost.seconds, 3),
            images_per_s=round(cost.steps * asked.batch_size / cost.seconds, 2),
            peak_memory_gib=None if cost.peak_gib is None else round(cost.peak_gib, 4),
            energy_kj=cost.energy_kj,
            verdict=result.verdict,
            why=result.why,
        )
        budget = asked.budget_seconds
        if budget is not None and abs(cost.seconds / budget - 1) > OFF_BUDGET:
            say(f"WARNING: it took {cost.seconds:.0f} s, {cost.seconds / budget:.0%} of the budget of {asked.budget}.")

    def _left(self) -> str:
        return left_line(self.seconds, self._to_train())

    def _epochs(self, method: str) -> int:
        """The number of epochs of each training of a method: those that fit into the budget at its measured speed."""
        budget = self.asked.budget_seconds
        if budget is None:
            return self.asked.epochs
        if known := [t.epochs for t in self.trainings if t.method == method and t.epochs is not None]:
            return known[0]
        speed = self._speed(method)
        epochs = speed.epochs_in(budget)
        say(f"{method}: {speed.words(epochs, str(self.asked.budget))}")
        if speed.start + speed.epoch > budget:
            say(
                f"WARNING: one epoch of {method} takes longer than the budget of {self.asked.budget}. It trains for "
                "one epoch, and the ranking notes this. Give a larger --budget, or fewer images."
            )
        return epochs

    def _evaluate_training(self, index: int) -> None:
        """Evaluates a finished training on the remaining tests, and marks it as done."""
        t = self.trainings[index]
        for train, test in self.asked.pairs:
            if any(test in tests for tests in t.results.values()):
                continue
            found = {protocol: dict(tests) for protocol, tests in t.results.items()}
            add_results(found, test, self._evaluate(self.path / t.folder, train, test, t.seed))
            t = self._set(index, results=found)
        t = self._set(index, status="done", error=None)
        accuracies = ", ".join(
            f"{protocol} {a.top1:.1%}" + (f" ({test})" if len(tests) > 1 else "")
            for protocol, tests in t.results.items()
            for test, a in tests.items()
        )
        say(f"{t.method}, seed {t.seed}: {accuracies}; {t.seconds:.1f} s, {t.images_per_s} images/s")

    def _evaluate(self, encoder: Path | Backbone, train: str, test: str, seed: int) -> list[Entry]:
        resolved, _ = next(iter(self.ready.values()))
        return evaluate(
            encoder, train, test, protocols=self.asked.protocols, workers=resolved.workers, seed=seed,
            columns=self.asked.columns, tile=self.asked.tile, stride=self.asked.stride, say=say,
            precision="fp32" if self.asked.precision == "fp32" else None,
        )  # fmt: skip


def _message(error: Exception) -> str:
    """The text of an expected error; of others also the type."""
    expected = isinstance(error, ValueError | RuntimeError | OSError | ModuleNotFoundError)
    return str(error) if expected and str(error) else f"{type(error).__name__}: {error}"
