"""All of CIFAR-10 on the device: what ResNet-18 learns from it, and in how much time.

A 3x3 stem, bf16, channels last, compiled; images are read from the archive into memory. Within the warm-up, which does
not depend on how long the training is, its steps are timed, and it gets as many epochs as its time allows, with a
learning rate that comes down to its end. Accuracy is that of the 20 nearest of the 50,000 training images (DINO's
protocol) and, at the end, of the linear probe, on the 10,000 test images as they are, 32 pixels. `seconds` are those of
training; `wall` has start-up, compiling and looking in it, too.
"""

import dataclasses
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from gpu_bench import Bench, InMemory, settle, short, trained
from lightning.pytorch import Callback
from torch import Tensor

from lookalike.backbones import Backbone
from lookalike.commands.compare.cost_meter import energy, peak_bytes, reset_peak
from lookalike.core import Config
from lookalike.data import decode
from lookalike.evaluation import knn, linear
from lookalike.evaluation.linear import DINOV2
from lookalike.methods import SimCLR, VICReg
from lookalike.modes import evaluating
from lookalike.optim import Optim
from lookalike.runs import Run
from lookalike.schedules import Schedule
from lookalike.training import checkpoints as training_checkpoints
from lookalike.views import View, half_colour, resized, without_blur

SIZE = 32
BATCH = 512
"""Images of a step. Larger ones need longer trainings; smaller ones leave a large GPU idle between its kernels."""
GOALS = (0.80, 0.85, 0.90)
LOOKS = 8
"""Evaluations of a training, spread evenly."""
MOST_EPOCHS = 1000
WARMUP = 2.0
"""Epochs."""
TIMED = 40
"""Steps after which the length of the training is settled, from the time of the last three quarters of them."""
END_SECONDS = 12
"""Kept back for the linear probe and for what ends a run."""
FEW = 10
"""Images of a class, where nothing is measured."""


class Recipe(NamedTuple):
    """What a method trains with here."""

    config: Config
    share: float
    """Of the part's time."""


def _views(views: tuple[View, ...]) -> tuple[View, ...]:
    return tuple(dataclasses.replace(view, scale=(0.2, 1.0)) for view in resized(without_blur(views), SIZE, None))


_SIMCLR = SimCLR.Config(
    temperature=0.2, views=half_colour(_views(SimCLR.Config().views)),
    optim=Optim("sgd", lr=0.2, weight_decay=Schedule(5e-4), warmup_epochs=WARMUP),
)  # fmt: skip
_VICREG = VICReg.Config(
    hidden_dim=2048, out_dim=2048, views=_views(VICReg.Config().views),
    optim=Optim("lars", lr=0.3, trust=0.02, weight_decay=Schedule(1e-4), warmup_epochs=WARMUP),
)  # fmt: skip
RECIPES = {"simclr": Recipe(_SIMCLR, 0.7), "vicreg": Recipe(_VICREG, 0.3)}
"""Chosen for a few minutes, that is 20 to 150 epochs; none was tried on a GPU yet.

Both: crops from 0.2 of the area and no blur, as usual for 32 pixels (MoCo's CIFAR-10 notebook): gentler views are
learnt sooner, and in `records/choosing.jsonl` crops from 0.5 did as well as SimCLR's from 0.08. The rate falls along a
cosine to 0.

SimCLR: SGD in place of LARS, with the rate and decay that suit ResNet-18 on CIFAR-10 under labels (0.1 per 128 images,
5e-4). SimCLR's own setting for CIFAR-10 (LARS 1.0 per 256, temperature 0.5) is for 1,000 epochs. Temperature 0.2
(MoCo v2's) was the best of four in the short trainings of `records/choosing.jsonl`.

VICReg: it learnt most per epoch, with LeJEPA, of our methods in short trainings (`docs/results.md`). solo-learn's
setting for CIFAR-10: LARS 0.3 per 256 images with a trust of 0.02, decay 1e-4, heads of 2,048.

What to expect: published ResNet-18s reach 90 % by k-NN after 200 epochs of several views or 800 of two; 80 to 87 % is
usual for so short trainings."""


class Split(NamedTuple):
    images: Tensor
    """(N, 3, H, W) uint8."""
    labels: Tensor
    """(N,) int64."""


def run(bench: Bench) -> None:
    if bench.archive is None:
        bench.skip("CIFAR-10", "no archive was given")
        return
    began = time.perf_counter()
    train, test, classes = read(bench.archive, FEW if bench.tiny else None)
    bench.row(
        "the archive in memory", {"seconds": short(time.perf_counter() - began)},
        images=[len(train.images), len(test.images)], classes=len(classes),
    )  # fmt: skip
    training_checkpoints.SETTLE_SECONDS = 10**6  # checkpoints are no part of the question
    rest = 1.0
    for name, recipe in RECIPES.items():
        until = time.monotonic() + (0 if bench.tiny else bench.left() * recipe.share / rest - END_SECONDS)
        rest -= recipe.share
        if bench.tiny or bench.has(60, name):
            with bench.trying(name):
                learn(bench, name, recipe, train, test, until)


def members(archive: Path, most: int | None) -> Iterator[tuple[str, str, bytes]]:
    """Split, class and content of each image of an archive of SPLIT/CLASS/NAME.jpg, which is never unpacked.

    Args:
        most: images of a class of a split, the first ones of the archive; None for all.
    """
    seen: Counter[tuple[str, ...]] = Counter()
    with tarfile.open(archive, "r|*") as file:
        for member in file:
            path = PurePosixPath(member.name)
            if not member.isfile() or path.suffix.lower() not in (".jpg", ".png") or len(path.parts) < 3:
                continue
            seen[path.parts[-3:-1]] += 1
            if (most is None or seen[path.parts[-3:-1]] <= most) and (content := file.extractfile(member)):
                yield path.parts[-3], path.parts[-2], content.read()


def read(archive: Path, most: int | None = None) -> tuple[Split, Split, tuple[str, ...]]:
    """Train and test split, and the names of the classes; `most` as for `members`."""
    found = list(members(archive, most))
    if not found:
        raise ValueError(f"{archive} holds no SPLIT/CLASS/NAME.jpg. Give CIFAR-10 as an archive of JPEG files.")
    classes = tuple(sorted({name for _, name, _ in found}))
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(lambda content: decode(content, 3), [content for _, _, content in found]))
    labels = torch.tensor([classes.index(name) for _, name, _ in found])
    splits = []
    for split in ("train", "test"):
        places = [i for i, (own, _, _) in enumerate(found) if own == split]
        splits.append(Split(torch.stack([images[i] for i in places]), labels[places]))
    return splits[0], splits[1], classes


class Watch(Callback):
    """Settles how long a training is, and follows its k-NN accuracy, the time of which it leaves out.

    Args:
        until: when the training is to have ended, by `time.monotonic`.
    """

    def __init__(self, bench: Bench, name: str, train: Split, test: Split, until: float) -> None:
        self.bench, self.name, self.until = bench, name, until
        self.train, self.test = train, test
        self.curve: list[dict[str, float]] = []
        self.epochs = 0
        """Of the whole training."""
        self.joules: float | None = None
        """Of the training without its evaluations."""
        self.peak: int | None = None
        self.cut_at: int | None = None
        """The epoch after which the time was over before the training was."""
        self.compiling = 0.0
        """Seconds that the first steps took longer than later ones."""
        self._at: set[int] = set()
        self._looked = self._looked_joules = 0.0
        self._made = time.perf_counter()
        self._last: tuple[Tensor, Tensor] | None = None

    def on_train_start(self, trainer: Any, module: Any) -> None:
        backbone = module.method.backbone
        self._mean, self._std = (
            torch.tensor(x, device=module.device)[:, None, None] for x in (backbone.mean, backbone.std)
        )
        self.look(module)  # whatever is loaded at the first call
        self._looked = 0.0
        self.look(module)
        self.look_seconds, self._looked, self._looked_joules = self._looked, 0.0, 0.0
        reset_peak()
        self._energy, self._began = energy(), time.perf_counter()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: object, batch: object, batch_idx: int) -> None:
        done, per_epoch = module.done_steps, module.steps_per_epoch
        timed = max(2, min(TIMED, per_epoch))
        first = max(1, timed // 4)
        if done == first:
            settle(module.device)
            self._timed = time.perf_counter()
        elif done == timed:
            settle(module.device)
            step = (time.perf_counter() - self._timed) / (timed - first)
            self.compiling = max(0.0, self._timed - self._began - first * step)
            left = self.until - time.monotonic() - (LOOKS + 1) * self.look_seconds
            epochs = max(1, min(MOST_EPOCHS, int((left / step + done) / per_epoch)))
            self.epochs, module.steps = epochs, epochs * per_epoch
            self._at = {1, *(max(1, round(epochs * (i + 1) / LOOKS)) for i in range(LOOKS))}
        if done % per_epoch:
            return
        epoch = done // per_epoch
        late = time.monotonic() > self.until + 1 and done < module.steps
        if epoch in self._at or late:
            self._note(module, epoch)
        self.cut_at = epoch if late else None
        trainer.should_stop = late or done >= module.steps

    def _note(self, module: Any, epoch: int) -> None:
        settle(module.device)
        seconds = time.perf_counter() - self._began - self._looked - self.compiling
        joules = energy()
        self.joules = None
        if joules is not None and self._energy is not None:
            self.joules = joules - self._energy - self._looked_joules
        self.peak = peak_bytes()
        knn = round(self.look(module), 4)
        wall = time.perf_counter() - self._made
        self.curve.append({"epoch": epoch, "seconds": short(seconds), "wall": short(wall), "knn": knn})
        self.bench.row(f"{self.name}, on its way", self.curve[-1], epochs=self.epochs)

    def look(self, module: Any) -> float:
        settle(module.device)
        began, joules = time.perf_counter(), energy()
        encoder = module.method.encoder
        self._last = a, b = self.features(encoder, self.train), self.features(encoder, self.test)
        top1 = knn(a, self.train.labels, b, self.test.labels, also=()).top1
        settle(module.device)
        self._looked += time.perf_counter() - began
        if joules is not None and (now := energy()) is not None:
            self._looked_joules += now - joules
        return top1

    def features(self, encoder: Backbone, split: Split) -> Tensor:
        """(N, D) float32 on the device. (Not encoder(x): that would be compiled once more, for eval mode.)"""
        device = self._mean.device
        made = []
        with evaluating(encoder), torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=self.bench.cuda):
            for part in split.images.split(2000):
                x = (part.to(device).float() / 255 - self._mean) / self._std
                made.append(encoder.forward(x.to(memory_format=torch.channels_last)).float())
        return torch.cat(made)

    def probe(self) -> float:
        """The linear probe's accuracy on the features of the last look."""
        assert self._last is not None
        a, b = self._last
        settings = dataclasses.replace(DINOV2, least_steps=10) if self.bench.tiny else DINOV2
        return linear(a, self.train.labels, b, self.test.labels, settings=settings).top1


def learn(bench: Bench, name: str, recipe: Recipe, train: Split, test: Split, until: float) -> None:
    """A training of as many epochs as can be made until then, and the linear probe."""
    torch._dynamo.reset()  # the other method's code is for other batches
    here = [Split(split.images.to(bench.device), split.labels) for split in (train, test)]
    batch = min(BATCH, len(train.images) // 2)
    watch = Watch(bench, name, *here, until)
    with tempfile.TemporaryDirectory() as folder:
        asked = Run(
            data=InMemory(train.images), method=recipe.config, backbone="test_byobnet" if bench.tiny else "resnet18",
            image_size=SIZE, batch_size=batch, epochs=MOST_EPOCHS, precision="fp32" if bench.tiny else "bf16",
            cache="device", workers=0, compile=bench.cuda, fit=False, save_every=10**6, out=f"{folder}/run",
        )  # fmt: skip
        trained(asked, watch)
    last = watch.curve[-1]
    done = int(last["epoch"])
    images = done * (len(train.images) // batch) * batch
    reached = {goal: next((look for look in watch.curve if look["knn"] >= goal), None) for goal in GOALS}
    bench.row(
        name,
        {
            "knn": last["knn"], "time_to": {f"{goal:.0%}": look for goal, look in reached.items()},
            "seconds": last["seconds"], "wall": last["wall"], "seconds_per_epoch": short(last["seconds"] / done),
            "images_per_s": short(images / last["seconds"]),
            "compiling_seconds": short(watch.compiling), "look_seconds": short(watch.look_seconds),
            "joules_per_image": None if watch.joules is None else short(watch.joules / images),
            "peak_gib": None if watch.peak is None else short(watch.peak / 2**30),
            "knn_over_time": [[look["epoch"], look["seconds"], look["knn"]] for look in watch.curve],
        },
        epochs=watch.epochs, cut_at=watch.cut_at, batch=batch, compiled=asked.compile, precision=asked.precision,
        network=asked.backbone, optim=dataclasses.asdict(recipe.config.optim), repeats=1,
    )  # fmt: skip
    case = f"{name}, linear probe"
    if bench.has(0 if bench.tiny else 4, case):
        began = time.monotonic()
        top1 = watch.probe()
        bench.row(case, {"top1": round(top1, 4), "seconds": short(time.monotonic() - began)}, repeats=1)
