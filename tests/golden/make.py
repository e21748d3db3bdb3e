"""Writes the folders beside it: trainings that version 0.1 began and did not finish.

They were made once, at commit c8e8182, by

    git worktree add ../golden c8e8182
    cd tests/golden && PYTHONPATH=../../../golden/src:.. python make.py

and must not be made again: later versions have to go on with what 0.1 wrote. `losses.json` holds what 0.1 itself
logged when it went on with copies of them.
"""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import support.tiny as tiny
import torch
from PIL import Image

from lookalike import cli, training
from lookalike.training import checkpoints as training_checkpoints

HERE = Path(__file__).parent
COMMON = ["--image-size", "32", "--batch-size", "8", "--epochs", "4", "--workers", "0", "--save-every", "2",
          "--no-report"]  # fmt: skip
HEAD, PROTOTYPES = "--hidden-dim 16 --out-dim 8", "--hidden-dim 16 --bottleneck-dim 8 --prototypes 12"
METHODS = {
    "simclr": HEAD,
    "supcon": HEAD,
    "moco_v2": f"{HEAD} --queue 32",
    "moco_v3": HEAD,
    "byol": HEAD,
    "simsiam": "--out-dim 16 --predictor-dim 8",
    "barlow_twins": "--hidden-dim 16 --out-dim 16",
    "vicreg": "--hidden-dim 16 --out-dim 16",
    "lejepa": f"{HEAD} --directions 32",
    "swav": f"{HEAD} --prototypes 8 --queue 16 --queue-starts 1",
    "deepcluster_v2": f"{HEAD} --prototypes 4 4",
    "dino": PROTOTYPES,
    "ibot": PROTOTYPES,
    "dinov2": PROTOTYPES,
}
VITS = ("moco_v3", "dino", "ibot", "dinov2")


def images() -> None:
    """24 smooth coloured pictures in three classes, and 12 others to be judged on."""
    rng = np.random.default_rng(11)
    for split, count in (("train", 24), ("test", 12)):
        for i in range(count):
            coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            path = HERE / "images" / split / "abc"[i % 3] / f"{i:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(coarse).resize((40, 36), Image.Resampling.BICUBIC).quantize(64).save(path, optimize=True)


@contextlib.contextmanager
def stopped(when: Callable[[training.Pretraining], bool]) -> Iterator[None]:
    """Answers Ctrl-C at the first step for which `when` holds."""
    real = training_checkpoints.Checkpoints.on_train_batch_end

    def watching(self, trainer, module, *rest):  # type: ignore[no-untyped-def]
        if when(module):
            self.signals.caught = 2
        real(self, trainer, module, *rest)

    training_checkpoints.Checkpoints.on_train_batch_end = watching  # type: ignore[method-assign]
    try:
        yield
    finally:
        training_checkpoints.Checkpoints.on_train_batch_end = real  # type: ignore[method-assign]


def begin(name: str, command: list[str]) -> None:
    """A training that is stopped after 7 of its 12 steps, in the middle of its third epoch."""
    shutil.rmtree(HERE / name, ignore_errors=True)
    with stopped(lambda module: module.done_steps == 7):
        assert cli.main([*command, "--out", name]) == 130


def main() -> None:
    torch.set_num_threads(1)
    images()
    for method, options in METHODS.items():
        backbone = ["--backbone", tiny.VIT if method in VITS else tiny.CNN]
        begin(method, ["pretrain", method, "images/train", *COMMON, *backbone, *options.split()])
    assert cli.main(["pretrain", "simclr", "images/train", *COMMON, "--backbone", tiny.CNN, *HEAD.split(), "--epochs",
                     "1", "--out", "encoder"]) == 0  # fmt: skip
    shutil.rmtree(HERE / "encoder" / "checkpoints")
    begin("distill", ["distill", "images/train", "--teacher", "encoder", "--backbone", tiny.CNN, *COMMON, "--probe",
                      "images/train", "images/test"])  # fmt: skip
    begin("finetune", ["finetune", "encoder", "images/train", "images/test", *COMMON])
    shutil.rmtree(HERE / "compare", ignore_errors=True)
    with stopped(lambda module: module.done_steps == 4 and module.run.out.endswith("supcon-seed0")):
        assert cli.main(COMPARE) == 130
    (HERE / "compare.command.json").write_text(json.dumps(COMPARE) + "\n")
    go_on()


COMPARE = [
    "compare", "images/train", "simclr", "supcon", "--train", "images/train", "--test", "images/test", *COMMON,
    "--epochs", "2", "--seeds", "2", "--protocols", "knn", "--backbone", tiny.CNN, "--out", "compare",
]  # fmt: skip


def go_on() -> None:
    """Notes what 0.1 logs when it goes on with copies of the folders."""
    losses = {}
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "golden"
        shutil.copytree(HERE, copy)
        with contextlib.chdir(copy):
            for name in [*METHODS, "distill", "finetune"]:
                verb = name if name in ("distill", "finetune") else "pretrain"
                assert cli.main([verb, "--resume", "--out", name, "--no-report"]) == 0
                rows = [json.loads(line) for line in Path(name, "metrics.jsonl").read_text().splitlines()]
                losses[name] = {str(row["step"]): row["loss"] for row in rows if "loss" in row}
    (HERE / "losses.json").write_text(json.dumps(losses, indent=1) + "\n")


if __name__ == "__main__":
    main()
