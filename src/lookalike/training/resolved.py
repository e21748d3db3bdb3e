"""From what is asked to what will be done: everything that depends on the data and the machine."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch

from .. import backbones
from ..backbones.factory import patch_size
from ..core import Config, DataFacts, Progress
from ..devices import default_device
from ..optim import Optim
from ..printing import counted
from ..runs import Options, Run, dotted, from_mapping, method_name, module_name, plain
from ..schedules import Schedule
from ..views import View, resized

EPOCH_SHARES = {"freeze_epochs": 0.1, "queue_starts": 0.1}
"""Fields of methods that count epochs, and what share of the training they may take at most."""


MANY = 10_000
"""So many images are decoded into a cache by several processes."""


def launched_rank(run: Run) -> int:
    """This process's rank before torch.distributed runs, as torchrun, Lightning's launcher or Slurm tell it."""
    told = os.environ
    if "RANK" in told:
        return int(told["RANK"])
    if "LOCAL_RANK" in told or "NODE_RANK" in told:
        return int(told.get("NODE_RANK", 0)) * run.devices + int(told.get("LOCAL_RANK", 0))
    return int(told.get("SLURM_PROCID", 0))


def resolve(run: Run, images: int, begun: Mapping[str, object] | None = None) -> tuple[Run, list[str]]:
    """Settles all that depends on the data and the machine, so that `run.yaml` says what was done.

    `begun` is the `run.yaml` of a run that is resumed: it was fitted to its epochs then.
    Returns the run, and one line per field of the method that was adapted to the data.
    """
    world = run.devices * run.nodes
    if begun and run.batch_size == Options.batch_size:  # on as many devices as then it would be the same
        world = cast("int", begun.get("devices", run.devices)) * cast("int", begun.get("nodes", run.nodes))
    run = dataclasses.replace(run, batch_size=batch_for(run, images, world, "batch_size" in run.given))
    cfg, patch = run.method, patch_size(run.backbone)
    if run.teacher is not None:
        cfg = _taught_by(run)
    stated = [name for name in run.given if name not in ("batch_size", "epochs")]
    given = (*stated, *_stated(cfg))
    cfg = dataclasses.replace(cfg, views=resized(cfg.views, run.image_size or max(v.size for v in cfg.views), patch))
    size = max(v.size for v in cfg.views)
    # a stated optimizer is kept whole: no other one's learning rate and decay suit it
    whole = "optim.name" in given or (not stated and cfg.optim != cfg.method.Config().optim)  # type: ignore[call-arg]

    def fitted_to(epochs: int) -> Config:
        made = fit_to(cfg, DataFacts(images, size, run.batch_size, epochs, patch))
        if whole:
            made = dataclasses.replace(made, optim=_shortened(cfg.optim, epochs))
        kept: Config = _keep_given(cfg, made, given)
        return kept

    fitted = cfg
    if run.fit and begun:
        content = {name: value for name, value in begun.items() if name != "method"} | {"data": ""}
        then = from_mapping(content, cfg.method, f"{run.out}/run.yaml").method
        # a single epoch shows all that depends on epochs: the run may have had fewer when it was fitted
        made = [fitted_to(cast("int", begun.get("epochs", run.epochs))), fitted_to(1)]
        fitted = _as_fitted(cfg, then, made)
        if any(each.optim != cfg.optim for each in made):  # earlier versions fitted other optimizers
            fitted = dataclasses.replace(fitted, optim=_keep_given(cfg.optim, then.optim, given, "optim"))
    elif run.fit:
        fitted = fitted_to(run.epochs)
    fitted.check(DataFacts(images, size, run.batch_size, run.epochs, patch))
    old, new = (dotted(plain(c)) for c in (cfg, fitted))
    changes = [f"{name} {old.get(name)} -> {new[name]}" for name in new if old.get(name) != new[name]]
    precision = precision_of(run)
    workers = run.workers
    if workers is None:
        filled_at_once = run.cache != "none" and images < MANY  # starting processes would take longer
        workers = 0 if filled_at_once else max(1, min(8, (os.cpu_count() or 1) - 1))
    frozen = run.frozen_epochs
    if frozen is None and begun:  # None for one of before this option
        frozen = cast("float | None", begun.get("frozen_epochs"))
    elif frozen is None and run.init:
        frozen = run.epochs / 10
    settled = dataclasses.replace(
        run, method=fitted, image_size=size, precision=precision, workers=workers, fit=False,
        decode_size=run.decode_size or 2 * max(v.size for v in all_views(fitted, run.epochs)),
        frozen_epochs=frozen,
    )  # fmt: skip
    return settled, changes


def batch_for(options: Options, images: int, world: int, stated: bool) -> int:
    """The images per step: those asked for, or of fewer images than the default batch a quarter, for steps to be made.

    Args:
        options: of a training or a comparison.
        images: in the data.
        world: processes.
        stated: whether the user chose the batch size; one that is not the default is always chosen.
    """
    if stated or options.batch_size != Options.batch_size or images >= options.batch_size:
        return options.batch_size
    least = world * options.accumulate
    return max(2 * least, images // 4 // least * least)


def batch_words(before: int, after: int, images: int) -> list[str]:
    """A line about a batch that was fitted to few images."""
    if before == after:
        return []
    return [
        f"batch       {counted(after, 'image')}: {images} are fewer than a batch of {before}, the default. "
        "--batch-size takes another number"
    ]


def precision_of(options: Options) -> Literal["fp32", "bf16", "fp16", "fp64"]:
    """The precision that is trained with here: the one asked for, or else this device's usual one.

    Raises:
        ValueError: it is fp16, and there is no GPU.
    """
    if options.precision == "fp16" and default_device().type != "cuda":
        raise ValueError("--precision fp16 needs a GPU. Use bf16 or fp32.")
    if options.precision is not None:
        return options.precision
    return "bf16" if default_device().type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def own_settings(run: Run, images: int, fits: bool) -> Config | None:
    """The method's configuration for a settled run, had nobody stated anything; None where something must be.

    `fits` says whether the run was fitted to its images. A teacher belongs to the question.
    """
    asked = {name: vars(run.method)[name] for name in ("teacher", "teacher_backbone") if name in vars(run.method)}
    try:
        fresh = run.method.method.Config(**asked)
        return resolve(dataclasses.replace(run, method=fresh, fit=fits, given=()), images)[0].method
    except (TypeError, ValueError):
        return None


def _taught_by(run: Run) -> Config:
    """The method's configuration with a module of the user's as the teacher, at the size that it was made for."""
    assert run.teacher is not None
    if "teacher" not in vars(run.method):
        raise ValueError(
            f"Run has a teacher, and {method_name(run.method)} takes none. Give method=Distill.Config(...)."
        )
    cfg: Config = dataclasses.replace(run.method, teacher=module_name(run.teacher))  # type: ignore[call-arg]
    if run.fit and isinstance(run.teacher, backbones.Backbone) and vars(cfg)["teacher_size"] is None:
        cfg = dataclasses.replace(cfg, teacher_size=run.teacher.image_size)  # type: ignore[call-arg]
    return cfg


def fit_to(cfg: Config, data: DataFacts) -> Config:
    """Adapts a configuration to data and budget: the method's own `fit_to`, and a warm-up of a tenth at most.

    Other schedules of the method's warm up for three tenths of the epochs at most: DINOv2's share of its 100. Fields
    that count epochs are cut to `EPOCH_SHARES`.
    """
    cfg, epochs = cfg.fit_to(data), data.epochs
    schedules: dict[str, Any] = {
        name: dataclasses.replace(value, warmup_epochs=min(value.warmup_epochs, 3 * epochs / 10))
        for name, value in vars(cfg).items()
        if isinstance(value, Schedule)
    }
    limits = {name: epochs * share for name, share in EPOCH_SHARES.items() if name in vars(cfg)}
    epoch_counts = {name: min(vars(cfg)[name], most) for name, most in limits.items()}
    return dataclasses.replace(cfg, optim=_shortened(cfg.optim, epochs), **schedules, **epoch_counts)


def facts(run: Run, images: int) -> DataFacts:
    """What a settled run is fitted to."""
    assert run.image_size is not None
    patch = patch_size(run.backbone)
    return DataFacts(images, run.image_size, run.batch_size, run.epochs, patch, run.accumulate)


def _shortened(cfg: Optim, epochs: int) -> Optim:
    """The same optimizer with a warm-up of a tenth of the epochs at most."""
    return dataclasses.replace(cfg, warmup_epochs=min(cfg.warmup_epochs, epochs / 10))


def _stated(cfg: Config) -> list[str]:
    """Dotted names of the fields that differ from the method's defaults: somebody chose them."""
    default, own = dotted(plain(cfg.method.Config())), dotted(plain(cfg))  # type: ignore[call-arg]
    return [name for name, value in own.items() if name not in default or default[name] != value]


def _keep_given(before: Any, after: Any, given: Sequence[str], at: str = "") -> Any:
    """`after`, but with `before`'s values where the user stated them."""
    if at in given:
        return before
    if dataclasses.is_dataclass(after) and not isinstance(after, type) and type(before) is type(after):
        names = [f.name for f in dataclasses.fields(after)]
        kept = {n: _keep_given(vars(before)[n], vars(after)[n], given, f"{at}.{n}".lstrip(".")) for n in names}
        return dataclasses.replace(after, **kept)
    if isinstance(after, tuple) and isinstance(before, tuple):
        if len(after) == len(before):
            return tuple(_keep_given(b, a, given, f"{at}.{i}") for i, (b, a) in enumerate(zip(before, after)))
        if any(name.startswith(f"{at}.") for name in given):  # places mean nothing among others
            return before
    return after


def _as_fitted(asked: Any, then: Any, fits: Sequence[Any]) -> Any:
    """`asked`, but with the values of `then` wherever one of the fits is another."""
    if all(type(x) is type(asked) for x in (then, *fits)):
        if dataclasses.is_dataclass(asked) and not isinstance(asked, type):
            names = [f.name for f in dataclasses.fields(asked)]
            return dataclasses.replace(
                asked, **{n: _as_fitted(vars(asked)[n], vars(then)[n], [vars(x)[n] for x in fits]) for n in names}
            )
        if isinstance(asked, tuple) and {len(x) for x in (then, *fits)} == {len(asked)}:
            return tuple(_as_fitted(a, b, list(x)) for a, b, *x in zip(asked, then, *fits))
    return then if any(x != asked for x in fits) else asked


def all_views(cfg: Config, epochs: int) -> tuple[View, ...]:
    """The views of a training's first step and of its last, which may be others."""
    many = 10**6  # steps of an epoch: the last one is its very end
    ends = (Progress(step, many * epochs, many) for step in (0, many * epochs - 1))
    return tuple(view for at in ends for view in cfg.views_at(at))
