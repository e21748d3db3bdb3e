"""Distillation: `distill(run)` trains a student and compares it with its teacher."""

import os
from collections.abc import Sequence

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from .. import training
from ..data import Subset, only_chosen, open_source
from ..devices import default_device
from ..evaluation.features import features
from ..files import write_json
from ..methods.distill import Distill
from ..printing import counted
from ..random import permutation
from ..runs import Folder, Result, Run
from ..training import checkpoints, launch
from .teacher_student import TeacherStudent, mean_cosine, profile_encoders, shared_neighbours

IMAGES = 1000
"""Maximum number of images on which agreement is measured."""


def distill(run: Run, callbacks: Sequence[Callback] = ()) -> Result:
    """Trains a student on a frozen teacher's features, writes the run folder, and compares the two.

    Args:
        run: as for `lookalike.pretrain`; its method is a `Distill.Config`, `backbone` is the student's. If `probe`
            names labelled folders, both are evaluated on them.
        callbacks: as for `lookalike.pretrain`.

    Raises:
        ValueError: the method is not `Distill.Config`; everything that `lookalike.pretrain` raises.
    """
    if not isinstance(run.method, Distill.Config):
        raise ValueError(
            f"lookalike.distill expects a Distill.Config, but the run has {type(run.method).__qualname__}. Use "
            "lookalike.pretrain."
        )
    result = training.pretrain(run, callbacks)
    if launch.launched_rank(run) == 0:
        compare_with_teacher(run)
    return result


def compare_with_teacher(run: Run) -> TeacherStudent:
    """Compares the student of a finished run with its teacher, and writes `distillation.json`."""
    folder = Folder(run.out)
    folder.say("Comparing teacher and student ...")
    method, settled = checkpoints.restored(run)
    assert isinstance(method, Distill)
    device = default_device()
    method.to(device).eval()
    size, teacher = method.cfg.views[0].size, method.teacher_net
    teacher_size = method.cfg.teacher_pixels
    exists = settled.probe is not None and all(map(os.path.exists, settled.probe))  # the training warns if not
    train, test = settled.probe if settled.probe and exists else (None, None)
    student = method.backbone.pixels
    if teacher.channels == student.channels:  # both got the same images
        teacher.pixels = student
    elif student.channels not in (1, 3):
        folder.say(f"The probe is left out: the teacher cannot read images of {counted(student.channels, 'channel')}.")
        train, test = None, None
    measured = profile_encoders(
        (teacher, method.backbone), (method.cfg.teacher, method.backbone.name), (teacher_size, size), train, test,
        batch_size=64, workers=settled.workers, seed=settled.seed, tile=settled.tile, stride=settled.stride,
    )  # fmt: skip
    data = run.data if test is None else test
    source = open_source(data, settled.pixels, columns=settled.columns, tiling=settled.tiling)
    if test is None and settled.only is not None:
        source = only_chosen(source, settled.only)
    drawn = Subset(source, permutation(len(source), settled.seed, "agreement")[:IMAGES].tolist())
    by_teacher, by_student = (
        features(
            each, drawn, image_size=pixels, mean=method.backbone.mean, std=method.backbone.std, batch_size=64,
            workers=settled.workers,
        ).features
        for each, pixels in ((FeaturesOf(method, "teacher"), teacher_size), (FeaturesOf(method, "student"), size))
    )  # fmt: skip
    result = TeacherStudent(
        teacher=measured[0],
        student=measured[1],
        kept={p: measured[1].accuracy[p] / max(top1, 1e-9) for p, top1 in measured[0].accuracy.items()},
        cosine=mean_cosine(by_teacher, by_student),
        overlap=shared_neighbours(by_teacher, by_student),
        images=len(by_teacher),
        of=str(data) if isinstance(data, str) else type(data).__name__,
        device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
    )
    write_json(folder.distillation, result.content())
    for line in result.lines():
        folder.say(line)
    folder.say(f"Wrote {folder.distillation}")
    return result


class FeaturesOf(nn.Module):
    """Features of the teacher, or of the student after its head, for images normalised as for the student."""

    def __init__(self, method: Distill, who: str) -> None:
        super().__init__()
        self.method = method
        self.who = who

    def forward(self, x: Tensor) -> Tensor:
        return self.method.teacher_features(x) if self.who == "teacher" else self.method.student_features(x)
