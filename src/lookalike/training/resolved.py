"""Resolves a requested run: everything that depends on the data and the machine."""

import dataclasses
import re
from collections.abc import Mapping, Sequence, Set
from typing import Any, TypeVar

import torch

from .. import backbones
from ..backbones.cpu_precision import is_faster_in_bf16
from ..backbones.factory import patch_size
from ..core import Config, DataFacts, Progress
from ..cores import worker_count
from ..data import Source
from ..devices import default_device, has_bf16_instructions
from ..optim import Optim
from ..printing import counted
from ..runs import (
    Options,
    Origin,
    Precision,
    Resolved,
    Run,
    dotted,
    flat,
    from_mapping,
    is_stated,
    method_name,
    module_name,
    plain,
    stated_of_method,
)
from ..runs.origins import default_of
from ..schedules import Schedule
from ..views import View, resized
from .joint_loss import check_joint_loss

R = TypeVar("R", bound=Options)
EPOCH_FRACTIONS = {"freeze_epochs": 0.1, "queue_starts": 0.1}
"""Fields of methods that count epochs, and their largest fraction of the training."""


MANY = 10_000
"""From this many images on, several processes decode images into a cache."""


def resolve(run: Run, images: int, begun: Mapping[str, object] | None = None) -> tuple[Resolved, list[str]]:
    """Resolves all that depends on the data and the machine, so that `run.yaml` records what was done.

    `begun` is the `run.yaml` of a resumed run: values that the user did not state are taken from it.
    Returns the run, and one line per field of the method that was adapted to the data.
    """
    then = begun_as(run, begun) if begun else None
    if then is not None:
        run = options_as_begun(run, then, begun or {})
    else:
        stated = run.origins.get("batch_size") == "user"
        batch = batch_for(run, images, run.devices * run.nodes, stated)
        if batch != run.batch_size:
            run = dataclasses.replace(run, batch_size=batch, origins={**run.origins, "batch_size": "fitted"})
    asked, patch = run.method if run.teacher is None else _taught_by(run), patch_size(run.backbone)
    default: Config = asked.method.Config()  # type: ignore[call-arg]
    if run.fit and then is None:  # fitted values of a file may be of other images: they are fitted again
        known = {name for name in _dotted(asked) if run.origins.get(name) != "fitted"}
        asked = _with_stated(default, asked, known) if known != _dotted(asked).keys() else asked
    own = stated_of_method(run, _dotted(asked), _dotted(default), {} if then is None else _dotted(then.method))
    size = run.image_size or max(v.size for v in asked.views)
    cfg = dataclasses.replace(asked, views=resized(asked.views, size, patch))
    size = max(v.size for v in cfg.views)

    def fitted_to(epochs: int) -> Config:
        new = fit_to(cfg, DataFacts(images, size, run.batch_size, epochs, patch, run.loss_batches))
        if "optim.name" in own:
            new = dataclasses.replace(new, optim=_shortened(cfg.optim, epochs))
        with_own: Config = _with_stated(new, cfg, own)
        return with_own

    if then is not None:
        # fitting to a single epoch shows all that depends on epochs: the run may have had fewer when it was fitted
        fitted = _as_begun(cfg, then.method, [fitted_to(then.epochs), fitted_to(1)] if run.fit else [cfg], own)
    else:
        fitted = fitted_to(run.epochs) if run.fit else cfg
    fitted.check(DataFacts(images, size, run.batch_size, run.epochs, patch, run.loss_batches))
    settled = _settled(run, fitted, size, images)
    check_joint_loss(settled)
    settled = dataclasses.replace(settled, origins=_origins(run, settled, own, {} if then is None else then.origins))
    old, new = _dotted(cfg), _dotted(fitted)
    return settled, [f"{name} {old.get(name)} -> {new[name]}" for name in new if old.get(name) != new[name]]


def _settled(run: Run, cfg: Config, size: int, images: int) -> Resolved:
    """The run with its fitted configuration, and the values that depend on this machine."""
    workers, frozen = run.workers, run.frozen_epochs
    if workers is None:
        filled_at_once = run.cache != "none" and images < MANY  # starting processes would take longer than decoding
        workers = 0 if filled_at_once else worker_count(None)
    not_stated = frozen is None or (not frozen and run.origins.get("frozen_epochs") == "fitted")
    if not_stated and run.init and not run.resume:
        frozen = run.epochs / 10
    values = {f.name: vars(run)[f.name] for f in dataclasses.fields(Run)} | {
        "method": cfg, "image_size": size, "precision": precision_of(run), "workers": workers, "fit": False,
        "decode_size": run.decode_size or 2 * max(v.size for v in all_views(cfg, run.epochs)),
        "frozen_epochs": frozen or 0.0,
    }  # fmt: skip
    return Resolved(**values)


def _dotted(cfg: Config) -> dict[str, object]:
    return dotted(plain(cfg))


def _origins(run: Run, settled: Resolved, own: Set[str], then: Mapping[str, Origin]) -> dict[str, Origin]:
    """The origin of each value of a resolved run.

    Args:
        own: the method's fields that the user stated.
        then: the origins in the `run.yaml` of a resumed run.
    """
    default = flat(Run(data="", method=settled.method.method.Config()))  # type: ignore[call-arg]
    before, found = dotted(default), dict[str, Origin]()
    for name, value in dotted(flat(settled)).items():
        if name == "fit":  # it states how the others were found
            continue
        if name in run.origins or (name in then and name not in own):
            found[name] = run.origins[name] if name in run.origins else then[name]
            continue
        option = name.split(".")[0]
        is_users = is_stated(run, option) if option in OPTIONS else name in own or option in ("data", "method")
        found[name] = "user" if is_users else "default" if before.get(name) == value else "fitted"
    return found


# ---------------------------------------------------------------- resumed runs

OPTIONS = tuple(f.name for f in dataclasses.fields(Options))
OF_THE_MACHINE = ("devices", "nodes")
"""Options of the current machine, so that another machine can resume."""


def scaled_as(run: R, source: Source) -> R:
    """The options with the scale that a source is read with: a measured one is stored as a range."""
    if run.pixels.scale.kind != "percentile" or source.pixels.scale.kind == "percentile":
        return run
    return dataclasses.replace(run, scale=source.pixels.scale.words())


def begun_as(run: Run, begun: Mapping[str, object]) -> Run:
    """The run in a folder's `run.yaml`."""
    content = {name: value for name, value in begun.items() if name != "method"} | {"data": ""}
    return from_mapping(content, run.method.method, f"{run.out}/run.yaml")


def options_as_begun(run: Run, then: Run, begun: Mapping[str, object]) -> Run:
    """A resumed run with its earlier options, except those that the user stated."""
    left = {*OF_THE_MACHINE, "out", "fit"}
    if any(origin == "user" and re.fullmatch(r"views\.\d+\.size", name) for name, origin in run.origins.items()):
        left.add("image_size")  # these sizes determine it
    same = {
        name: vars(then)[name]
        for name in OPTIONS
        if name in begun and name not in left and not _is_other(run, then, name)
    }
    backbone = run.backbone if not isinstance(run.backbone, str) else same.get("backbone", run.backbone)
    origins = {**{name: then.origins[name] for name in same if name in then.origins}, **run.origins}
    return dataclasses.replace(run, **{**same, "backbone": backbone, "origins": origins})


def _is_other(run: Run, then: Run, option: str) -> bool:
    """Whether the user stated an option, or gave it a value that is neither the default nor the earlier one."""
    if run.origins.get(option) == "user":
        return True
    return bool(vars(run)[option] != vars(then)[option] and vars(run)[option] != default_of(Run, option))


def _as_begun(asked: Any, then: Any, fits: Sequence[Any], stated: Set[str], at: str = "") -> Any:
    """The earlier configuration `then`, with the values that the user stated and fitting does not change."""
    if all(type(x) is type(asked) for x in (then, *fits)):
        if dataclasses.is_dataclass(asked) and not isinstance(asked, type):
            values = {
                n: _as_begun(vars(asked)[n], vars(then)[n], [vars(x)[n] for x in fits], stated, f"{at}.{n}".lstrip("."))
                for n in (f.name for f in dataclasses.fields(asked))
            }
            return dataclasses.replace(asked, **values)
        if isinstance(asked, tuple) and {len(x) for x in (then, *fits)} == {len(asked)}:
            parts = enumerate(zip(asked, then, *fits))
            return tuple(_as_begun(a, b, list(x), stated, f"{at}.{i}") for i, (a, b, *x) in parts)
    own = any(name == at or name.startswith(f"{at}.") or at.startswith(f"{name}.") for name in stated)
    return asked if own and all(x == asked for x in fits) else then


def batch_for(options: Options, images: int, world: int, stated: bool) -> int:
    """The batch size: the requested one, or a quarter of the images if they are fewer than the default batch size.

    Args:
        options: of a training or a comparison.
        images: number of images.
        world: number of processes.
        stated: whether the user chose the batch size; any other than the default counts as chosen.
    """
    if stated or options.batch_size != Options.batch_size or images >= options.batch_size:
        return options.batch_size
    multiple = world * options.accumulate
    return max(2 * multiple, images // 4 // multiple * multiple)


def batch_words(before: int, after: int, images: int) -> list[str]:
    """A line about a batch size that was fitted to few images; empty if it was not."""
    if before == after:
        return []
    return [
        f"batch       {counted(after, 'image')}, as {counted(images, 'image')} are fewer than the default batch of "
        f"{before} (change it with --batch-size)"
    ]


def precision_of(options: Options) -> Precision:
    """The precision of the training: the requested one, or the default of this device and network.

    Raises:
        ValueError: it is fp16 without a GPU.
    """
    if options.precision == "fp16" and default_device().type != "cuda":
        raise ValueError("--precision fp16 needs a GPU. Use bf16 or fp32.")
    if options.precision is not None:
        return options.precision
    if default_device().type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if has_bf16_instructions() and is_faster_in_bf16(options.backbone) else "fp32"


def own_settings(run: Resolved, images: int, fits: bool) -> Config | None:
    """The method's configuration for a resolved run without the user's options; None if a field must be given.

    `fits`: whether the run was fitted to its images. The teacher stays the same.
    """
    asked = {name: vars(run.method)[name] for name in ("teacher", "teacher_backbone") if name in vars(run.method)}
    try:
        fresh = run.method.method.Config(**asked)
        return resolve(dataclasses.replace(run, method=fresh, fit=fits, resume=False, origins={}), images)[0].method
    except (TypeError, ValueError):
        return None


def _taught_by(run: Run) -> Config:
    """The method's configuration with a user's module as the teacher, at the module's own image size."""
    assert run.teacher is not None
    if "teacher" not in vars(run.method):
        raise ValueError(
            f"Run has a teacher, but {method_name(run.method)} takes none. Give method=Distill.Config(...)."
        )
    cfg: Config = dataclasses.replace(run.method, teacher=module_name(run.teacher))  # type: ignore[call-arg]
    if run.fit and isinstance(run.teacher, backbones.Backbone) and vars(cfg)["teacher_size"] is None:
        cfg = dataclasses.replace(cfg, teacher_size=run.teacher.image_size)  # type: ignore[call-arg]
    return cfg


def fit_to(cfg: Config, data: DataFacts) -> Config:
    """Adapts a configuration to data and budget: the method's own `fit_to`, and a warm-up of at most a tenth.

    Other schedules of the method warm up for at most three tenths of the epochs: DINOv2's fraction of its 100. Fields
    that count epochs are cut to `EPOCH_FRACTIONS`.
    """
    cfg, epochs = cfg.fit_to(data), data.epochs
    schedules: dict[str, Any] = {
        name: dataclasses.replace(value, warmup_epochs=min(value.warmup_epochs, 3 * epochs / 10))
        for name, value in vars(cfg).items()
        if isinstance(value, Schedule)
    }
    limits = {name: epochs * fraction for name, fraction in EPOCH_FRACTIONS.items() if name in vars(cfg)}
    epoch_counts = {name: min(vars(cfg)[name], limit) for name, limit in limits.items()}
    return dataclasses.replace(cfg, optim=_shortened(cfg.optim, epochs), **schedules, **epoch_counts)


def facts(run: Resolved, images: int) -> DataFacts:
    """The facts that a resolved run is fitted to."""
    patch = patch_size(run.backbone)
    return DataFacts(images, run.image_size, run.batch_size, run.epochs, patch, run.loss_batches)


def _shortened(cfg: Optim, epochs: int) -> Optim:
    """The same optimizer with a warm-up of at most a tenth of the epochs."""
    return dataclasses.replace(cfg, warmup_epochs=min(cfg.warmup_epochs, epochs / 10))


def _with_stated(fitted: Any, asked: Any, stated: Set[str], at: str = "") -> Any:
    """`fitted`, with the values that the user stated."""
    if at in stated:
        return asked
    if dataclasses.is_dataclass(fitted) and not isinstance(fitted, type) and type(asked) is type(fitted):
        names = [f.name for f in dataclasses.fields(fitted)]
        kept = {n: _with_stated(vars(fitted)[n], vars(asked)[n], stated, f"{at}.{n}".lstrip(".")) for n in names}
        return dataclasses.replace(fitted, **kept)
    if isinstance(fitted, tuple) and isinstance(asked, tuple):
        if len(fitted) == len(asked):
            return tuple(_with_stated(f, a, stated, f"{at}.{i}") for i, (f, a) in enumerate(zip(fitted, asked)))
        if any(name.startswith(f"{at}.") for name in stated):  # indices have no meaning in a list of another length
            return asked
    return fitted


def all_views(cfg: Config, epochs: int) -> tuple[View, ...]:
    """The views of a training's first step and of its last, which may differ."""
    many = 10**6  # steps per epoch, so that the last one is the very end
    ends = (Progress(step, many * epochs, many) for step in (0, many * epochs - 1))
    return tuple(view for at in ends for view in cfg.views_at(at))
