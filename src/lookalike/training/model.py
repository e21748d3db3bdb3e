"""Builds the networks and the loader of a run, and the picture of its views."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from PIL.Image import Image

from .. import backbones, encoders
from ..backbones.factory import remade
from ..core import Method, Progress
from ..data import Answers, Loader, Source, only_chosen, open_source, statistics
from ..devices import default_device, free_for_state
from ..files import atomic, cache_folder
from ..layers import Teacher
from ..methods.distill import Distill
from ..printing import counted, size_of
from ..random import key_of
from ..runs import Resolved, Run, method_name
from ..views import make_views, sheet
from .resolved import all_views, resolve


def build(run: Resolved) -> Method:
    """The method of a resolved run, with seeded weights; the global generator is unchanged."""
    with torch.random.fork_rng():
        torch.manual_seed(key_of(run.seed, "weights"))
        needs = run.method.needs
        if isinstance(run.backbone, backbones.Backbone):
            backbone = remade(
                run.backbone, image_size=run.image_size, drop_path=needs.drop_path, mask_token=needs.mask_token
            )
        else:
            backbone = backbones.create(
                run.backbone, channels=run.channels, image_size=run.image_size,
                drop_path=needs.drop_path if isinstance(run.backbone, str) else 0.0, mask_token=needs.mask_token,
                stem=needs.stem, interpolation=needs.interpolation,
            )  # fmt: skip
        backbone.alpha = run.alpha
        if not vars(run.method).get("frozen"):
            backbone.check_trainable()
        for size in sorted(run.method.input_sizes(all_views(run.method, run.epochs))):
            backbone.check_size(size)
        own = () if run.teacher is None else (run.teacher,)
        method = run.method.method(run.method, backbone, *own)
        if run.checkpoint_activations:  # after the teacher was copied, which needs none
            backbone.checkpoint_activations()
    return method.to(memory_format=torch.channels_last)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a message of torch is more than the lack of a GPU, which the first lines of a run report."""
    return not str(record.msg).startswith("No CUDA runtime is found")


def compile_parts(method: Method) -> None:
    """Compiles the backbone and the heads, also of a teacher, with torch.compile."""
    logging.getLogger("torch.utils.cpp_extension").addFilter(_is_news)  # it is imported when the first step compiles
    for part in method.children():
        for each in part if isinstance(part, Teacher) else (part,):
            each.compile()


def normalize(backbone: backbones.Backbone, run: Resolved, source: Source) -> None:
    """Sets an untrained backbone's mean and standard deviation to those of the images, if the run asks for it."""
    if run.normalize == "data":
        mean, std = statistics(source, run.decode_size)
        backbone.mean, backbone.std = tuple(mean), tuple(std)


def initial_weights(backbone: backbones.Backbone, run: Resolved) -> str:
    """Loads the initial weights into the backbone, and returns a description of them."""
    if isinstance(run.backbone, backbones.Backbone):
        remark = f", {run.backbone.remark}" if run.backbone.remark else ""
        tensors = counted(len(backbone.export_state()), "tensor")
        return f"those of {run.init or run.backbone.name}, all {tensors}{remark}"
    return encoders.start_from(backbone, run.init) if run.init else "random"


def check_bank(run: Resolved, rank: int) -> None:
    """Checks that a memory bank leaves enough memory for the training."""
    need = run.method.needs.memory_bank * (8 if run.precision == "fp64" else 4)
    free = free_for_state(rank % run.devices, run.devices) if need else 0
    if need > free / 2:
        raise ValueError(
            f"The memory bank of {method_name(run.method)} takes {size_of(need)}, more than half of the "
            f"{size_of(free)} of free memory, and the training needs the rest. Give a smaller --out-dim, or "
            "choose a method without a bank, such as swav."
        )


def teacher_memory(run: Resolved, source: Source, method: Distill) -> Answers | None:
    """The cache for the features of a teacher whose views repeat; None without one."""
    turns, name = run.method.needs.repeated_views, method.memory_name()
    if not turns or not name:
        return None
    if run.nodes > 1:
        raise ValueError(
            "--cache-teacher is a file that only the processes of one machine can share. Leave it out with --nodes."
        )
    half = run.precision in ("bf16", "fp16")
    name = f"{name} {source.version()} {run.channels} {run.seed} {run.decode_size} {run.precision}"
    folder = Path(run.cache_dir) if run.cache_dir else cache_folder()
    dtype = torch.float16 if half else torch.float32
    return Answers(folder, name, len(source), turns, method.memory_width(), dtype)


def make_loader(
    run: Resolved, source: Source, batch_size: int, rank: int = 0, world: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Loader:  # fmt: skip
    return Loader(
        source, batch_size, run.seed, rank=rank, world=world, accumulate=run.loss_batches, workers=run.workers,
        decode_size=run.decode_size, cache=run.cache, max_broken=run.max_broken,
        cache_dir=Path(run.cache_dir) if run.cache_dir else None, repeats=run.method.needs.repeated_views,
        device=default_device(rank % run.devices),
        progress=progress,
    )  # fmt: skip


def view_sheet(run: Resolved, source: Source, backbone: backbones.Backbone, images: int = 8) -> Image:
    """The picture of the first images and their views, exactly as in a training of this resolved run."""
    first = dataclasses.replace(run, cache="none", workers=0, accumulate=1, joint_loss=False)
    batch = next(iter(make_loader(first, source, min(images, len(source)))))
    views = make_views(batch, run.method.views_at(Progress(0, 1, 1)), batch.keys, mean=backbone.mean, std=backbone.std)
    return sheet(views, backbone.mean, backbone.std, images, sources=batch.padded(), sizes=batch.sizes)


def draw_views(run: Run, path: Path) -> None:
    """Writes the picture of a run's first images and their views, without training."""
    source = open_source(run.data, channels=run.channels, alpha=run.alpha, columns=run.columns)
    source = source if run.only is None else only_chosen(source, run.only)
    settled, _ = resolve(run, len(source))
    backbone = backbones.create(settled.backbone, channels=settled.channels, image_size=settled.image_size)
    normalize(backbone, settled, source)
    with atomic(path) as temporary:
        view_sheet(settled, source, backbone).save(temporary)
