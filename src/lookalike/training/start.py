"""What a run says of itself before the first step."""

from collections.abc import Sequence

from torch import nn

from .. import backbones
from ..data import Source, warnings_about
from ..devices import default_device
from ..foreign import is_tag
from ..printing import LONGEST_PATH, brief, counted, printable, spanned
from ..runs import Folder, Resolved, command_line, flat, method_name, version
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
"""What methods draw otherwise than in 0.1, which did so without the run's seed."""


def _classes(source: Source, views: int) -> list[str]:
    """A line about the labels, and one about the classes of a single image, where views are compared."""
    if source.labels is None or source.classes is None:
        return []
    counts = source.labels.bincount(minlength=len(source.classes))
    names = f": {', '.join(source.classes)}" if len(source.classes) <= 10 else ""
    lines = [
        f"labels      {counted(len(counts), 'class')} of "
        f"{spanned(int(counts.min()), int(counts.max()), 'image')}{names}"
    ]
    alone = [name for name, count in zip(source.classes, counts.tolist()) if count == 1]
    if alone and views > 1:
        few = ", ".join(alone[:5]) + (", ..." if len(alone) > 5 else "")
        lines.append(
            f"WARNING     {len(alone)} of the classes have one image ({few}): nothing but its own other view is like "
            "it. Add images, or leave such classes out."
        )
    return lines


def say_start(
    folder: Folder, run: Resolved, source: Source, module: Pretraining, origin: str, changes: list[str],
    found: Found | None, batch: list[str],
) -> None:  # fmt: skip
    method, cfg = module.method, run.method
    parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in method.named_children()}
    parts = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in parameters.items() if count)
    both = all_views(cfg, run.epochs)
    first, last = both[: len(cfg.views)], both[len(cfg.views) :]
    views = ", ".join(f"{v.count} x {v.size} px" for v in first)
    if last != first:
        views += f" (at the end {', '.join(f'{v.count} x {v.size} px' for v in last)})"
    stem = f" ({method.backbone.stem} stem)" if isinstance(run.backbone, str) else ""
    lines = [
        f"lookalike {version()}  {command_line()}",
        f"data        {counted(len(source), 'image')} in {brief(flat(run)['data'], LONGEST_PATH)}",
        *(f"            {line}" for line in source.notes()),
        f"model       {method_name(cfg)}, {method.backbone.name}{stem}, parameters: {parts}",
        f"weights     {f'step {found.step} of {found.path}' if found else printable(origin)}",
        f"views       {views} of {counted(run.channels, 'channel')}, mean {_numbers(method.backbone.mean)}, "
        f"std {_numbers(method.backbone.std)}",
        *method.describe(),
        *_left_out(run),
        *_classes(source, sum(view.count for view in first)),
        *(f"WARNING     {line}" for line in warnings_about(source, _choices(run, method.backbone))),
        *(f"WARNING     {line}" for line in cfg.warnings(facts(run, len(source)))),
        f"steps       {module.steps} = {counted(run.epochs, 'epoch')} x {module.steps_per_epoch} of "
        f"{counted(run.batch_size, 'image')}"
        + (f" ({run.accumulate} micro-batches, which the loss sees one at a time)" if run.accumulate > 1 else ""),
        *batch,
        *_frozen(run),
        *not_taken(),
        f"optimizer   {cfg.optim.name}, learning rate {cfg.optim.lr * cfg.optim.factor(run.batch_size):.4g}"
        f" after {counted(cfg.optim.warmup_epochs, 'epoch')} of warm-up",
        f"device      {run.devices * run.nodes} x {default_device().type}, {run.precision}, "
        f"{run.workers} workers, cache {run.cache}",
    ]
    if changes:
        lines.append("fitted      " + "\n            ".join(changes) + "  (--no-fit keeps the paper's values)")
    if found is not None and found.epochs != run.epochs:
        lines.append(
            f"EPOCHS      {found.epochs} became {run.epochs}: every schedule now ends later, and jumps at this step. "
            "A run of so many epochs from the start would differ."
        )
    for line in lines:
        folder.say(line)


def _choices(run: Resolved, backbone: backbones.Backbone) -> set[str]:
    """The options of a run that its images may ask for; see `warnings_about`."""
    if run.init is None and isinstance(run.backbone, str):
        return {"alpha", "channels"} | ({"normalise"} if run.normalise == "imagenet" else set())
    # the weights say how many channels, and what is normalised with: perhaps images of another brightness
    return {"alpha", "scale"} if max(backbone.mean) > 0.25 else {"alpha"}


def other_version(before: str, run: Resolved) -> str:
    """A line for a run that was begun by another version; else ""."""
    now = version()
    if before in ("", now):
        return ""
    new = DRAWN_ANEW.get(method_name(run.method)) if before.startswith("0.1.") else None
    return (
        f"VERSION     begun with lookalike {before:.20}, this is {now}: it continues, bits may differ from an "
        f"uninterrupted run{f' (drawn anew: {new})' if new else ''}"
    )


def _frozen(run: Resolved) -> list[str]:
    """Says how long the encoder stays as it is, and what of it."""
    if not run.frozen_epochs:
        return []
    return [
        f"frozen      the encoder stays as it is for {counted(run.frozen_epochs, 'epoch')}, what is random of it, too "
        "(--frozen-epochs 0 lets it learn from the start)"
    ]


def _left_out(run: Resolved) -> list[str]:
    """Says which steps of the views need colour where there is none, and what does not reach a module of one's own."""
    lines = []
    own = isinstance(run.backbone, nn.Module) and (
        not isinstance(run.backbone, backbones.Backbone) or is_tag(run.backbone.name)
    )
    if own and (drop_path := run.method.needs.drop_path):
        lines = [f"            drop path {drop_path:g} does not reach a module of your own: it keeps what it has"]
    if run.channels == 3:
        return lines
    wanted = {
        "saturation": any(v.jitter and v.saturation for v in run.method.views),
        "hue": any(v.jitter and v.hue for v in run.method.views),
        "grayscale": any(v.grayscale for v in run.method.views),
    }
    names = [name for name, is_wanted in wanted.items() if is_wanted]
    return [*lines, *([f"            without {', '.join(names)}, which need 3 channels"] if names else [])]


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{v:.3f}" for v in values[:4]) + (" ..." if len(values) > 4 else "")
