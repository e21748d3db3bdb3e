"""What each objective makes of a small student, beside its teacher and beside the same network trained from scratch.

    python benchmarks/distilling.py DATA [--settings mse cosine simclr ... --images 5000 --epochs 20 --seeds 0]

DATA holds train/ and test/ with one sub-folder per class; 32 pixels. The teacher, the narrow ResNet of `networks.py`,
is trained once per seed by --teacher-method on --images of train/, drawn by the seed; no label is used. Each student,
the small ResNet (a fifth of the work), sees the same images for --epochs: from random weights by one of `SETTINGS`
("kept": the teacher is asked once for each image, or for each of 5 views), or by a method of `lookalike pretrain`
alone. All are judged by k-NN and linear probe: those images are the bank, all of test/ is classified. `rank` is the
effective rank of the features of 2,000 test images. A row of JSON per student goes to --record; rows that are there
already are not made again, and a training that was stopped goes on where it was.
"""

import argparse
import dataclasses
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch
from learning import Labelled
from networks import maps, narrow_resnet, small_resnet
from rows import append

import lookalike
from lookalike import training
from lookalike.backbones import Backbone
from lookalike.commands.distill import FeaturesOf
from lookalike.commands.teacher_student import gflops, mean_cosine, shared_neighbours
from lookalike.data import Subset, open_source
from lookalike.evaluation import evaluate, features, with_statistics
from lookalike.label_free import effective_rank
from lookalike.methods import SELF_SUPERVISED, Distill, get_method
from lookalike.random import permutation
from lookalike.runs import Folder, Run, commit
from lookalike.training import checkpoints
from lookalike.views import View

SIZE = 32
PLAIN = {"patch_weight": 0.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "mse": {},
    "mse, no patches": PLAIN,
    "cosine": {"mse": 0.0, "cosine": 1.0, **PLAIN},
    "to the teacher by vicreg": {"mse": 0.0, "vicreg": 1.0, **PLAIN},
    "relational": {"mse": 0.0, "relational": 1.0, **PLAIN},
    "mse + vicreg": {"vicreg": 0.02, **PLAIN},
    "mse + relational": {"relational": 1.0, **PLAIN},
    "mse, kept": {"cache_teacher": True},
    "mse, kept 5": {"cache_teacher": True, "cached_views": 5},
}
"""Fields of `Distill.Config`. With " x4" behind its name a student also sees four local views."""


def config(setting: str) -> Distill.Config:
    name = setting.removesuffix(" x4")
    cfg = Distill.Config(teacher="<teacher>", **SETTINGS[name])
    if name == setting:
        return cfg
    (view,) = cfg.views
    local: View = dataclasses.replace(view, size=view.size // 2, count=4, scale=(0.05, 0.4))
    return dataclasses.replace(cfg, views=(dataclasses.replace(view, scale=(0.4, 1.0)), local))


def judged(encoder: Backbone, train: Labelled, test: Labelled, seed: int) -> dict[str, Any]:
    entries = evaluate(encoder, train, test, seed=seed, image_size=SIZE)
    few = Subset(test.source, permutation(len(test), 0, "rank")[:2000].tolist())
    found = features(encoder, few, image_size=SIZE, mean=encoder.mean, std=encoder.std).features
    return {e.protocol: round(e.top1, 4) for e in entries} | {"rank": round(effective_rank(found), 1)}


def trained(run: Run) -> float:
    """Seconds of the steps of a training, which goes on where it was and is not made twice."""
    folder = Folder(run.out)
    if not any(row["epoch"] == run.epochs for row in folder.rows()):
        training.pretrain(dataclasses.replace(run, resume=folder.run.is_file()))
    seconds, before = 0.0, 0
    for row in folder.rows():
        if "images_per_s" in row:
            seconds += (row["step"] - before) * run.batch_size / row["images_per_s"]
            before = row["step"]
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--settings", nargs="+", default=[*SETTINGS, "mse x4", "simclr", "dino"])
    parser.add_argument("--teacher-method", default="lejepa", choices=SELF_SUPERVISED)
    parser.add_argument("--teacher-epochs", type=int, default=20)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--work", type=Path, default=Path("runs/distilling"), help="folder of the trainings")
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "distilling.jsonl")
    args = parser.parse_args()
    for seed in args.seeds:
        one_seed(args, seed)


def one_seed(args: argparse.Namespace, seed: int) -> None:
    kept = ("teacher_method", "teacher_epochs", "images", "epochs", "batch_size")
    same = {
        "benchmark": "distilling",
        "seed": seed,
        "data": args.data.name,
        **{name: vars(args)[name] for name in kept},
    }
    places = permutation(len(open_source(args.data / "train")), seed, "images")[: args.images].tolist()
    train, test = Labelled(args.data / "train", places), Labelled(args.data / "test", None)
    file = args.work / f"images-{seed}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{(args.data / 'train' / train.source.name(i)).absolute()}\n" for i in range(len(train))))
    options: dict[str, Any] = {
        "image_size": SIZE,
        "batch_size": args.batch_size,
        "cache": "ram",
        "cache_dir": str(args.work / "cache"),
        "seed": seed,
        "save_every": 10**6,
    }
    torch.manual_seed(seed)
    teacher = Run(
        data=train, method=get_method(args.teacher_method).Config(), backbone=maps(narrow_resnet()),
        epochs=args.teacher_epochs,
        out=str(args.work / f"teacher-{args.teacher_method}-{seed}"), **options,
    )  # fmt: skip
    seconds = trained(teacher)
    teaching = lookalike.load(teacher.out, backbone=maps(narrow_resnet()))

    def done(setting: str) -> bool:
        rows = [json.loads(line) for line in args.record.read_text().splitlines()] if args.record.exists() else []
        return any((same | {"setting": setting}).items() <= row.items() for row in rows)

    def write(setting: str, encoder: Backbone, seconds: float, epochs: int, more: dict[str, Any]) -> None:
        row = {
            **same,
            "setting": setting,
            **judged(encoder, train, test, seed),
            **more,
            "parameters": sum(p.numel() for p in encoder.net.parameters()),
            "gflops": round(gflops(encoder, SIZE), 4),
            "seconds": round(seconds, 1),
            "images_per_s": round(len(train) * epochs / seconds, 1),
            "threads": torch.get_num_threads(),
            "date": time.strftime("%Y-%m-%d"),
            "torch": torch.__version__,
            "lookalike": commit(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        }
        print(json.dumps(row, indent=2), flush=True)
        append(args.record, row)

    if not done("teacher"):
        write("teacher", teaching, seconds, args.teacher_epochs, {})
    few = Subset(test.source, permutation(len(test), 0, "rank")[:2000].tolist())
    before: dict[str, Any] = {}
    for setting in args.settings:
        if done(setting):
            print(f"seed {seed}, {setting}: in {args.record} already")
            continue
        torch.manual_seed(seed)  # so that all students begin with the same weights
        student = maps(small_resnet())
        alone = setting in SELF_SUPERVISED
        method = get_method(setting).Config() if alone else config(setting)
        out = args.work / f"{setting.replace(' ', '_').replace(',', '')}-{seed}"
        run = Run(
            data=train if method.needs.labels else str(file), method=method, backbone=student,
            teacher=None if alone else teaching, epochs=args.epochs, out=str(out), **options,
        )  # fmt: skip
        if not before:
            fresh = training.build(training.resolve(run, len(train))[0]).backbone
            fresh = with_statistics(fresh, train.source, image_size=SIZE, mean=fresh.mean, std=fresh.std)
            before = {f"untrained_{name}": value for name, value in judged(fresh, train, test, seed).items()}
        seconds = trained(run)
        if alone:
            write(setting, lookalike.load(out, backbone=maps(small_resnet())), seconds, args.epochs, before)
            continue
        net, _ = checkpoints.restored(run)
        net.eval()
        said = [
            features(each, few, image_size=SIZE, mean=net.backbone.mean, std=net.backbone.std).features
            for each in (FeaturesOf(net, "teacher"), FeaturesOf(net, "student"))
        ]
        more = {"cosine": round(mean_cosine(*said), 4), "overlap": round(shared_neighbours(*said), 4)}
        write(setting, net.backbone, seconds, args.epochs, before | more)
        assert Folder(out).last.is_file()


if __name__ == "__main__":
    main()
