"""Comparing methods at equal cost: `compare(Comparison(...))` trains each, evaluates all, and orders them."""

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
from ...data import image_set, open_source
from ...data.labelled import open_pair
from ...data.order import Order
from ...devices import default_device
from ...durations import spoken
from ...evaluation.features import fingerprint
from ...evaluation.protocol_table import PROTOCOLS
from ...evaluation.records import Entry
from ...files import FORMAT, becomes, is_lock, write_json
from ...methods import get_method
from ...methods.distill import Distill
from ...places import check_logger
from ...printing import are, counted, say
from ...runs import Collapsed, Diverged, Folder, Options, Resolved, Run, made, read_yaml, write_run
from ...training import callbacks as callbacks_module
from ...training import inputs, stages
from ...training import resolved as training_resolved
from ...training.timing import MANY_EPOCHS, Pace, Speed
from ..evaluate import evaluate
from .baseline import untrained_encoder
from .cost_meter import Costs, gflops_per_image, spent
from .hardware import device_name
from .leakage import shared_images
from .plan import left_line, order, plan_line
from .ranking import OFF_BUDGET, Accuracy, Rank, Results, Training, rank, score_range, seed_noise, training_of
from .record import FILE, add_results, mean_results, plain_results, read, results_of, with_new_places
from .significance import ERROR_RATE
from .spec import Comparison, changes, extends, with_places_of
from .summary import recommendation, table

SPEED = ".speed"
"""What the folder of a training that is begun to be timed is called, and then something drawn; it is removed."""


@dataclass(frozen=True)
class Compared:
    """What a comparison came to."""

    folder: Path
    ranking: list[Rank]
    """The methods that could be trained and evaluated, the best first."""
    trainings: list[Training]
    recommendation: str


def compare(asked: Comparison, callbacks: Sequence[Callback] = ()) -> Compared:
    """Trains methods at equal cost, evaluates them and the untrained network alike, and orders them.

    Everything lies in the folder `asked.out`: `compare.json`, and a run's folder for each training. What is finished
    there is not done again; a training that was stopped goes on. A method that fails is reported, the rest goes on.

    Args:
        asked: methods, images, tests, budget and options.
        callbacks: as for `lookalike.pretrain`, of every training.

    Raises:
        FileExistsError: the folder holds something else.
        ValueError: the folder holds the answer to a question that this one does not extend; images, labels or protocols
            that cannot be used.
        FileNotFoundError: no such images; or `resume`, and nothing is there to go on with.
        RuntimeError: no method could be trained and judged; `compare.json` says why.
    """
    if unknown := [p for p in asked.protocols if p not in PROTOCOLS]:
        raise ValueError(f"There is no protocol {unknown[0]!r}. Choose from {', '.join(PROTOCOLS)}.")
    check_logger(asked.logger)
    folder = Folder(asked.out)
    _check(folder, asked)
    with folder.held():
        work = _Work(asked, folder.path, callbacks)
        try:
            work.do()
        except (KeyboardInterrupt, SystemExit):
            if work.replaced:
                say(f"Stopped before the first step. {folder.path} holds the comparison that was to be replaced.")
            else:
                say(f"Stopped. {folder.path} holds what was done; the same command goes on with it.")
            raise
    found = work.answer()
    say("\n" + "\n".join(table(found.ranking, work.untrained_results, found.trainings)))
    say(f"\n{found.recommendation}")
    if not found.ranking:
        reasons = "; ".join(dict.fromkeys(t.error for t in found.trainings if t.error))
        why = (
            f"{reasons}. The comparison that was there is as it was."
            if work.replaced
            else f"{folder.path / FILE} says why."
        )
        raise RuntimeError(f"No method could be trained and judged. {why}")
    return found


def _check(folder: Folder, asked: Comparison) -> None:
    """Refuses a folder that this comparison must not write to; changes nothing."""
    there = (folder.path / FILE).is_file()
    if folder.run.is_file():
        raise FileExistsError(f"{folder.path} holds a run. Give --out another folder.")
    folder.check_own()
    for weights in (asked.init, asked.teacher) if asked.overwrite else ():
        if weights and os.path.exists(weights) and folder.path.resolve() in Path(weights).resolve().parents:
            raise ValueError(
                f"{weights} lies in the comparison that --overwrite replaces. Copy it, or give another --out."
            )
    if asked.resume and not there:
        raise FileNotFoundError(f"{folder.path} holds no {FILE} to go on with. Leave --resume out to start.")
    if not there:
        folder.check(resume=False, overwrite=False)  # an empty one, which can be written to


def _with_batch_for(asked: Comparison, images: int) -> Comparison:
    """The same with the batch size that so many images get.

    Raises:
        ValueError: there are fewer than a batch of those that were asked for.
    """
    batch = training_resolved.batch_for(asked, images, 1, asked.origins.get("batch_size") == "user")
    for line in training_resolved.batch_words(asked.batch_size, batch, images):
        say(line)
    asked = dataclasses.replace(asked, batch_size=batch)
    Order(images, asked.batch_size, asked.seed, 0, 1, asked.accumulate)  # says what batch would do
    return asked


def _waiting(asked: Comparison) -> list[Training]:
    """All trainings, none of which is begun."""
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
    """What is asked, what is done so far, and how to go on."""

    def __init__(self, asked: Comparison, path: Path, callbacks: Sequence[Callback]) -> None:
        if asked.alpha == "auto" and not asked.overwrite and (path / FILE).is_file():  # as it was begun
            asked = dataclasses.replace(asked, alpha=read(path / FILE)["question"]["alpha"])
        self.asked = asked
        self.path = path
        self.callbacks = callbacks
        self.replaced: list[str] = []
        """Folders of the trainings of a comparison that is replaced once one of this one has made a step."""
        self.made = made()
        self.source = open_source(asked.data, channels=asked.channels, alpha=asked.alpha)
        if len(self.source) < 2:
            raise ValueError(f"{asked.data} holds {counted(len(self.source), 'image')}; at least 2 are needed.")
        self.asked = asked = _with_batch_for(asked, len(self.source))
        largest = {max(view.size for view in self._config(name).views) for name in asked.methods}
        self.size = asked.image_size or max(largest)
        labelled = [open_pair(train, test, channels=asked.channels, alpha=asked.alpha) for train, test in asked.pairs]
        self.question = asked.question() | {
            "device": device_name(),
            "precision": training_resolved.precision_of(asked),
            "image_size": self.size,
            "images": image_set(self.source),
            "labels": [fingerprint(*pair) for pair in labelled],
        }
        self.shared = shared_images(self.source, {name: pair[1] for name, pair in zip(asked.test, labelled)})
        """Test images that are learnt from, by test."""
        self.ready: dict[str, tuple[Resolved, float | None]] = {}
        """The resolved run and the operations per image of each method that can be trained."""
        self.untrained: dict[int, dict[str, dict[str, Accuracy]]] = {}
        """Results of the untrained network, by seed."""
        self.speeds: dict[str, Speed] = {}
        """As measured, by method."""
        self.seconds: dict[str, float | None] = {}
        """Of a training of each method: as planned, and as it turns out to be."""
        self.trainings = _waiting(asked)
        self._begin()
        for line in self._shared_words():
            say(f"WARNING: {line}")

    # ---- the file

    def _begin(self) -> None:
        """Takes up what `compare.json` holds, or starts it."""
        file = self.path / FILE
        for path in self.path.iterdir():
            if becomes(path) == FILE:
                path.unlink()
        if file.is_file():
            old = read(file)
            moved = json.loads(json.dumps(self.question))
            now = with_places_of(old["question"], moved)
            lines = changes(old["question"], now)
            if lines and all(row.get("epochs") is None for row in old["trainings"]):  # none was begun: nothing is lost
                self.write()
                return
            if self.asked.overwrite:
                goes_on = not lines and any(row["status"] == "waiting" for row in old["trainings"])
                if goes_on:
                    say(f"{self.path} holds this comparison, unfinished: it goes on, nothing is replaced.")
            else:
                goes_on = not lines or extends(old["question"], now)
                if not goes_on:
                    if self.source.system_folders:
                        lines.append(
                            "folders of systems, such as @eaDir, whose images version 0.1 took: passed over now"
                        )
                    raise ValueError(
                        f"{self.path} holds a comparison that asked something else:\n  "
                        + "\n  ".join(lines)
                        + "\nGive another --out, or --overwrite to replace it. More methods or seeds would extend it."
                    )
            if goes_on:
                self._take_up(old)
                if lines or moved != now or "error_rate" not in old:  # version 0.1 ranked by another rule
                    self.write()
                return
            self.replaced = [row["folder"] for row in old["trainings"]]
        self.write()

    def take_over(self) -> None:
        """Removes the comparison that is replaced, but for the folders that trainings of this one take."""
        replaced, self.replaced = self.replaced, []
        if replaced:
            self.write()
        asked = {t.folder for t in self.trainings}  # they replace what is there when it is their turn
        for name in replaced:
            if name not in asked:
                try:
                    _remove(self.path / name)
                except BlockingIOError as error:
                    say(f"{name} stays: {error}")

    def _take_up(self, old: dict[str, Any]) -> None:
        """Keeps all that is known of the trainings that are asked for."""
        known = {(t.method, t.seed): t for t in map(training_of, old["trainings"])}
        more = sum((t.method, t.seed) not in known for t in self.trainings)
        if more:
            say(f"{self.path} holds {len(known)} of these trainings: they are kept, {more} are new.")
        places = dict(zip(old["question"]["test"], self.asked.test))  # tests may lie elsewhere now
        self.trainings = [known.get((t.method, t.seed), t) for t in self.trainings]
        self.trainings = [dataclasses.replace(t, results=with_new_places(places, t.results)) for t in self.trainings]
        self.untrained = {
            int(seed): with_new_places(places, results_of(found)) for seed, found in old["untrained_by_seed"].items()
        }

    def _shared_words(self) -> list[str]:
        return [
            f"{counted(count, 'image')} of the test {test} {are(count)} among those to learn from, "
            f"{self.asked.data}: scores there do not "
            "say how well new images are told apart. Leave them out of DATA."
            for test, count in self.shared.items()
        ]

    def write(self) -> None:
        """Writes `compare.json`, with the ranking so far; not over one that is yet to be replaced."""
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
        said = ""
        if ranking or all(t.status == "failed" for t in self.trainings):
            timed = self.asked.budget is not None
            words = recommendation(ranking, self.trainings, self.untrained_results, timed=timed)
            said = " ".join([words, *self._shared_words()])
        return Compared(self.path, ranking, self.trainings, said)

    @property
    def untrained_results(self) -> list[Results]:
        return list(self.untrained.values())

    def _set(self, place: int, **values: Any) -> Training:
        """Changes what is known of a training, and writes it down."""
        self.trainings[place] = dataclasses.replace(self.trainings[place], **values)
        self.write()
        return self.trainings[place]

    # ---- the work

    def do(self) -> None:
        """Does all that is left to be done."""
        left = [i for i, t in enumerate(self.trainings) if t.status != "done" and not t.final]
        for method in dict.fromkeys(self.trainings[i].method for i in left):
            self._try_out(method)
        left = [i for i in left if self.trainings[i].method in self.ready]
        if self.ready:  # also a look at the labelled images, before hours of training
            self._plan()
            self._evaluate_untrained()
        for i in left:
            t = self.trainings[i]
            try:
                self._train(i)
                self._evaluate_training(i)
            except Exception as error:
                ended = isinstance(error, Collapsed | Diverged)
                words = {"verdict": "collapsed" if isinstance(error, Collapsed) else "diverged"} if ended else {}
                self._set(i, status="failed", final=ended, error=_message(error), **words)
                say(f"{t.method}, seed {t.seed}, failed: {_message(error)}")

    def _to_train(self) -> dict[str, int]:
        """How many trainings of each method are still to be made."""
        return order([t.method for t in self.trainings if t.method in self.ready and t.seconds is None and not t.final])

    def _plan(self) -> None:
        """Says what is to be done and how long it takes, before anything else."""
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
                except Exception as error:  # its training says so once more, and is the failure that counts
                    say(f"{method} fails in its first steps: {_message(error)}")
                    self.seconds[method] = None
        trainings = sum(t.method in self.ready for t in self.trainings)
        line = plan_line(self.seconds, left, seeds=self.asked.seeds, trainings=trainings, tests=len(self.asked.pairs))
        say(f"Plan: {line}")

    def _speed(self, method: str) -> Speed:
        """How fast a method trains, measured once. Where its first steps fail this raises what its training would."""
        if method in self.speeds:
            return self.speeds[method]
        say(f"Measuring the speed of {method} ...")
        for old in self.path.glob(f"{SPEED}*"):  # of processes that were killed
            if _is_timed(old):
                _remove(old)
        folder = Path(tempfile.mkdtemp(prefix=f"{SPEED}-", dir=self.path))
        speed = Speed(self.asked.budget_seconds, self.asked.epochs)
        stages.measure(self._run(method, self.asked.seed, MANY_EPOCHS, folder), speed)
        self.speeds[method] = speed
        return speed

    def _try_out(self, method: str) -> None:
        """Finds out whether a method can be trained at all, and how many operations it takes."""
        try:
            run = self._run(method, self.asked.seed, self.asked.epochs, self.path / SPEED)
            source = inputs.open_images(run)
            if self.shared and run.method.needs.labels:
                test, count = next(iter(self.shared.items()))
                raise ValueError(
                    f"{run.method.method.__name__} learns from labels, and {counted(count, 'image')} of the "
                    f"test {test} {are(count)} among "
                    f"those to learn from: it would be asked what it was told. Leave them out of DATA, or {method} out."
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
        except Exception as error:  # a figure beside others: the training may do well
            say(f"The operations of {method} could not be counted: {_message(error)}")
        self.ready[method] = run, flops

    def _config(self, method: str) -> Config:
        cls = get_method(method)
        if cls is Distill:
            assert self.asked.teacher is not None
            return Distill.Config(teacher=self.asked.teacher, teacher_backbone=self.asked.teacher_backbone or "")
        return cls.Config()  # type: ignore[call-arg]

    def _run(self, method: str, seed: int, epochs: int, out: Path) -> Run:
        """A training, as it stands in its `run.yaml` before it is fitted to the images."""
        options = {f.name: vars(self.asked)[f.name] for f in dataclasses.fields(Options)} | {
            "seed": seed, "epochs": epochs, "out": str(out), "image_size": self.size, "resume": False,
            "overwrite": False,
        }  # fmt: skip
        return Run(**options, data=self.asked.data, method=self._config(method), origins={"batch_size": "user"})

    def _evaluate_untrained(self) -> None:
        """Evaluates the network before any training, its BatchNorm with the statistics of the images."""
        settled, _ = next(iter(self.ready.values()))
        for seed in self.asked.all_seeds:
            for train, test in self.asked.pairs:
                found = self.untrained.setdefault(seed, {})
                if any(test in tests for tests in found.values()):
                    continue
                say(f"The untrained network, seed {seed}, on {test}")
                model = untrained_encoder(dataclasses.replace(settled, seed=seed), self.source)
                add_results(found, test, self._evaluate(model, train, test, seed))
                self.write()

    def _train(self, place: int) -> None:
        """Trains, or goes on with it, until the training is over."""
        t, asked = self.trainings[place], self.asked
        if t.seconds is not None:
            return
        folder = Folder(self.path / t.folder)
        if folder.path.is_symlink():
            raise FileExistsError(f"{folder.path} is a link. Remove it, or put what it leads to in its place.")
        number = f"[{place + 1}/{len(self.trainings)}]"
        begun, epochs = t.epochs is not None, t.epochs or self._epochs(t.method)
        gflops = self.ready[t.method][1]
        self._set(place, status="waiting", error=None, epochs=epochs, gflops_per_image=gflops)
        run = self._run(t.method, t.seed, epochs, folder.path)
        if folder.path.is_dir() and not folder.is_left_over() and folder.is_of_others():
            write_run(run, folder.run)  # somebody's notes lie in the training's own folder: they stay, and it begins
        there = folder.run.is_file()
        run = dataclasses.replace(run, resume=there and begun, overwrite=there and not begun)
        planned = self.seconds.get(t.method)
        about = "" if planned is None else f", about {spoken(planned)}"
        say(f"\n{number} {t.method}, seed {t.seed}: {counted(epochs, 'epoch')}{about}; {self._left()}")

        def correct(seconds: float) -> None:
            before = "" if planned is None else f", not {spoken(planned)} as was expected"
            self.seconds[t.method] = seconds
            folder.say(f"This training takes about {spoken(seconds)}{before}; {self._left()}")

        first = callbacks_module.FirstStep(self.take_over, part=True)
        result = training.pretrain(run, [first, *self.callbacks, Pace(planned, correct), Costs()])
        cost = spent(folder.last)
        self.seconds[t.method] = cost.seconds
        self._set(
            place,
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
            say(
                f"WARNING: it took {cost.seconds:.0f} s, {cost.seconds / budget:.0%} of the budget of {asked.budget}.",
            )

    def _left(self) -> str:
        return left_line(self.seconds, self._to_train())

    def _epochs(self, method: str) -> int:
        """The epochs of each training of a method: those that fit into the budget by its speed, measured once."""
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
                f"WARNING: one epoch of {method} takes longer than the budget of {self.asked.budget}. It gets this one "
                "epoch, so that its schedule is whole; the ranking says so. Give a larger --budget, or fewer images.",
            )
        return epochs

    def _evaluate_training(self, place: int) -> None:
        """Evaluates a finished training on the tests that it has not met, and closes it."""
        t = self.trainings[place]
        for train, test in self.asked.pairs:
            if any(test in tests for tests in t.results.values()):
                continue
            found = {protocol: dict(tests) for protocol, tests in t.results.items()}
            add_results(found, test, self._evaluate(self.path / t.folder, train, test, t.seed))
            t = self._set(place, results=found)
        t = self._set(place, status="done", error=None)
        accuracies = ", ".join(
            f"{protocol} {a.top1:.1%}" + (f" ({test})" if len(tests) > 1 else "")
            for protocol, tests in t.results.items()
            for test, a in tests.items()
        )
        say(f"{t.method}, seed {t.seed}: {accuracies}; {t.seconds:.1f} s, {t.images_per_s} images/s")

    def _evaluate(self, encoder: Path | Backbone, train: str, test: str, seed: int) -> list[Entry]:
        settled, _ = next(iter(self.ready.values()))
        return evaluate(
            encoder, train, test, protocols=self.asked.protocols, workers=settled.workers, seed=seed, say=say
        )


def _is_timed(path: Path) -> bool:
    """Whether a training that was begun to be timed left this folder behind."""
    run = Folder(path).run
    try:
        return not run.is_file() or read_yaml(run).get("epochs") == MANY_EPOCHS
    except (OSError, ValueError):
        return False


def _remove(path: Path) -> None:
    """Removes the run of a comparison that is replaced, and nothing that somebody else put there."""
    folder = Folder(path)
    if not path.is_dir() or path.is_symlink() or not (folder.run.is_file() or folder.is_left_over()):
        return
    with folder.held():
        folder.abandon()
        if is_lock(folder.lock):
            folder.lock.unlink()
        if not any(path.iterdir()):
            path.rmdir()


def _message(error: Exception) -> str:
    """Our own words as they are, anything unexpected with its kind."""
    expected = isinstance(error, ValueError | RuntimeError | OSError | ModuleNotFoundError)
    return str(error) if expected and str(error) else f"{type(error).__name__}: {error}"
