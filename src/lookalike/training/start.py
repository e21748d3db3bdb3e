"""The lines that a run prints before its first step."""

from collections.abc import Mapping

from torch import nn

from .. import backbones
from ..core import Method
from ..data import Source, warnings_about
from ..devices import default_device
from ..foreign import is_tag
from ..printing import LONGEST_PATH, brief, counted, printable, spanned
from ..runs import OF_MEMORY, Folder, Resolved, command_line, flat, method_name, version
from ..runs.start import Start
from . import joint_loss
from .checkpoints import Found
from .module import Pretraining
from .resolved import all_views, facts
from .trainer import not_taken

DRAWN_ANEW = {
    "moco_v2": "the order in which several processes compute keys",
    "lejepa": "directions",
    "deepcluster_v2": "the first centroids of groups",
    "ibot": "masks",
    "dinov2": "masks",
}
"""What methods draw differently than in version 0.1, which did not use the run's seed."""


def _classes(source: Source) -> list[str]:
    """The line about the labels; empty without labels."""
    if source.labels is None or source.classes is None:
        return []
    counts = source.labels.bincount(minlength=len(source.classes))
    names = f": {', '.join(source.classes)}" if len(source.classes) <= 10 else ""
    spread = spanned(int(counts.min()), int(counts.max()), "image")
    return [f"labels      {counted(len(counts), 'class')} of {spread}{names}"]


def _single_images(source: Source, views: int) -> list[str]:
    """A warning about classes with a single image, for methods that compare views."""
    if source.labels is None or source.classes is None or views < 2:
        return []
    counts = source.labels.bincount(minlength=len(source.classes)).tolist()
    alone = [name for name, count in zip(source.classes, counts) if count == 1]
    few = ", ".join(alone[:5]) + (", ..." if len(alone) > 5 else "")
    text = (
        f"{len(alone)} of the classes have a single image ({few}): its only positive is its own other view. Add "
        "images, or leave such classes out."
    )
    return [text] if alone else []


def facts_of(
    run: Resolved, source: Source, module: Pretraining, origin: str, changes: list[str], found: Found | None
) -> Start:
    """The facts of a run before its first step.

    Args:
        origin: the initial weights of a training that does not resume.
        changes: lines about the fields that were fitted to the data.
        found: the checkpoint that a training resumes from.
    """
    method, cfg = module.method, run.method
    views = all_views(cfg, run.epochs)
    first, last = views[: len(cfg.views)], views[len(cfg.views) :]
    return Start(
        lookalike=version(), command=command_line(), data=brief(flat(run)["data"], LONGEST_PATH), images=len(source),
        notes=source.notes(), method=method_name(cfg), backbone=method.backbone.name,
        stem=method.backbone.stem if isinstance(run.backbone, str) else "",
        parameters={name: sum(p.numel() for p in part.parameters()) for name, part in method.named_children()},
        weights=f"step {found.step} of {found.path}" if found else printable(origin),
        views=[(v.count, v.size) for v in first], last_views=[(v.count, v.size) for v in last],
        channels=run.channels, mean=list(method.backbone.mean), std=list(method.backbone.std), steps=module.steps,
        epochs=run.epochs, steps_per_epoch=module.steps_per_epoch, batch_size=run.batch_size,
        accumulate=run.accumulate, joint_loss=run.joint_loss, optimizer=cfg.optim.name,
        learning_rate=cfg.optim.lr * cfg.optim.factor(run.batch_size), warmup_epochs=cfg.optim.warmup_epochs,
        devices=run.devices * run.nodes, device=default_device().type, precision=run.precision, workers=run.workers,
        cache=run.cache, fitted=changes,
        warnings=[
            *_single_images(source, sum(v.count for v in first)),
            *warnings_about(source, _choices(run, method.backbone)), *cfg.warnings(facts(run, len(source))),
        ],
    )  # fmt: skip


def print_start(
    folder: Folder, start: Start, run: Resolved, source: Source, method: Method, found: Found | None, batch: list[str]
) -> None:
    """Prints and logs the start of a run.

    Args:
        batch: lines about the batch and the time.
    """
    lines = {label: f"{label:<12}{text}" for label, text in start.lines().items()}
    before = [
        f"lookalike {start.lookalike}  {start.command}",
        lines["data"],
        *(f"            {line}" for line in start.notes),
        lines["model"],
        lines["weights"],
        lines["views"],
        *method.describe(),
        *_left_out(run),
        *_classes(source),
    ]
    after = [
        lines["steps"],
        *joint_loss.lines(run, method.backbone),
        *batch,
        *_frozen(run),
        *not_taken(),
        lines["optimizer"],
        lines["device"],
    ]
    if start.fitted:
        after.append("fitted      " + "\n            ".join(start.fitted) + "  (--no-fit keeps the paper's values)")
    if found is not None and found.epochs != run.epochs:
        after.append(
            f"EPOCHS      changed from {found.epochs} to {run.epochs}: every schedule now ends later, and jumps at "
            f"this step. A run of {counted(run.epochs, 'epoch')} from the start would differ."
        )
    if found is not None and found.world != (world := run.devices * run.nodes):
        after.append(
            f"PROCESSES   changed from {found.world} to {world}: the batches are the same, but bits may differ from an "
            "uninterrupted run, and random numbers that each process draws (dropout, mixing) do."
        )
    for line in before:
        folder.say(line)
    for line in start.warnings:
        folder.say(f"WARNING     {line}", "warning")
    for line in after:
        folder.say(line)


def _choices(run: Resolved, backbone: backbones.Backbone) -> set[str]:
    """The options of a run that its images may ask for; see `warnings_about`."""
    if run.init is None and isinstance(run.backbone, str):
        return {"alpha", "channels"} | ({"normalize"} if run.normalize == "imagenet" else set())
    # the weights fix the channels and the normalisation, which may be of images of another brightness
    return {"alpha", "scale"} if max(backbone.mean) > 0.25 else {"alpha"}


def other_version(before: str, run: Resolved) -> str:
    """A line for a run that another version started; else ""."""
    now = version()
    if before in ("", now):
        return ""
    new = DRAWN_ANEW.get(method_name(run.method)) if before.startswith("0.1.") else None
    return (
        f"VERSION     started with lookalike {before:.20}, this is {now}: it continues, but bits may differ from "
        f"an uninterrupted run{f' (other random numbers: {new})' if new else ''}"
    )


def memory_changes(before: Mapping[str, object], run: Resolved) -> list[str]:
    """The line about options that were changed after the run ran out of memory; empty without any.

    Args:
        before: `run.yaml` of the resumed run.
    """
    now = flat(run)
    changed = [
        f"{name} {before[name]} -> {now[name]}" for name in OF_MEMORY if before.get(name, now[name]) != now[name]
    ]
    if not changed:
        return []
    other = [
        f"; each loss now compares {counted(run.batch_size // run.loss_batches, 'image')}"
        for _ in changed
        if run.method.needs.couples_batch and before.get("accumulate") != run.loss_batches > 1
    ][:1]
    return [
        f"MEMORY      {', '.join(changed)} from this step on: sums are rounded in another order, so bits may differ "
        f"from an uninterrupted run{''.join(other)}"
    ]


def _frozen(run: Resolved) -> list[str]:
    """The line about a frozen encoder; empty without one."""
    if not run.frozen_epochs:
        return []
    return [
        f"frozen      the whole encoder for the first {counted(run.frozen_epochs, 'epoch')}, including its randomly "
        "initialised layers (--frozen-epochs 0 trains it from the start)"
    ]


def _left_out(run: Resolved) -> list[str]:
    """Lines about augmentations without effect for lack of colour, and options without effect on a user's module."""
    lines = []
    is_own = isinstance(run.backbone, nn.Module) and (
        not isinstance(run.backbone, backbones.Backbone) or is_tag(run.backbone.name)
    )
    if is_own and (drop_path := run.method.needs.drop_path):
        lines = [f"            drop path {drop_path:g} is not applied to your own module, which keeps its own"]
    if run.channels == 3:
        return lines
    wanted = {
        "saturation": any(v.jitter and v.saturation for v in run.method.views),
        "hue": any(v.jitter and v.hue for v in run.method.views),
        "grayscale": any(v.grayscale for v in run.method.views),
    }
    names = [name for name, is_wanted in wanted.items() if is_wanted]
    return [*lines, *([f"            without {', '.join(names)}: 3 channels are needed"] if names else [])]
