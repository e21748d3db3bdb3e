"""Runs and comparisons to make pages of, and what a page holds."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from lookalike import cli
from support.images import draw

HOSTILE = "<img src=x onerror=alert(1)>"
"""A name that must stay a name."""


def made_run(folder: Path) -> Path:
    """A short real training on labelled images, one class and one file of which have hostile names, with entries."""
    for split, count in (("train", 6), ("test", 4)):
        for kind, name in enumerate(("cats", "dogs", HOSTILE)):
            for i in range(count):
                draw(folder / split / name / f"{i}.jpg", kind, 100 * len(split) + 10 * kind + i)
    shutil.copy(folder / "test/cats/0.jpg", folder / "test/cats" / f"{HOSTILE}.jpg")
    train, test, out = str(folder / "train"), str(folder / "test"), folder / "run"
    argv = ["pretrain", "simclr", train, "--out", str(out), "--backbone", "test_vit", "--image-size", "96"]
    argv += ["--epochs", "2", "--batch-size", "6", "--workers", "0", "--hidden-dim", "16", "--probe", train, test]
    assert cli.main([*argv, "--no-report"]) == 0
    assert cli.main(["evaluate", str(out), train, test, "--protocols", "knn", "--workers", "0"]) == 0
    entries = json.loads((out / "evaluation.json").read_text())
    history = [{"step": step, "loss": 1 / step} for step in (50, 100)]
    entries.append(entries[0] | {"protocol": "linear", "settings": {"epochs": 10}, "history": history})
    entries[0] |= {
        "class_names": [HOSTILE, "cats", "dogs"],
        "per_class": [0.75, 0.8, None],
        "confusion": [[0, 0, 3], [0, 1, 1], [1, 1, 4], [1, 2, 1]],
        "calibration": {"ece": 0.08, "bins": [[(i + 0.5) / 15, i / 15, i] for i in range(15)]},
        "accuracies": [],
        "deviation": None,
    }
    (out / "evaluation.json").write_text(json.dumps(entries))
    return out


def content_of(page: Path, element: str = "report") -> Any:
    """What the page's scripts read."""
    found = re.search(rf'<script type="application/json" id="{element}">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])


def comparison(
    folder: Path, run: Path, methods: tuple[str, ...] = ("byol", "simclr"), seeds: int = 1, minutes: float | None = None
) -> Path:
    """A comparison of methods, best first, with trainings that are all the same run, and one that failed."""
    folder.mkdir()
    trainings: list[dict[str, Any]] = []
    for seed in range(seeds):
        for method in methods:
            name = f"{method}-seed{seed}"
            shutil.copytree(run, folder / name, ignore=shutil.ignore_patterns("checkpoints", "features"))
            trainings.append({"method": method, "seed": seed, "folder": name, "status": "done", "error": None})
    trainings.append({"method": "ibot", "seed": 0, "folder": "ibot-seed0", "status": "failed", "error": "takes a ViT"})
    ranking = [
        {
            "method": method, "seeds": seeds, "score": 0.8 - n / 50, "low": 0.75 - n / 50, "high": 0.85 - n / 50,
            "deviation": None, "results": {"knn": {"labelled/test": {"mean": 0.8 - n / 50, "deviation": None}}},
            "epochs": 2, "seconds": 60.0 + n, "images_per_s": 100.0, "peak_memory_gib": None, "gflops_per_image": 0.1,
            "stable": n != 1, "remark": "saw fewer images" if n == 1 else "",
        }
        for n, method in enumerate(methods)
    ]  # fmt: skip
    untrained = {"top1": 0.31, "top5": 0.9, "interval": [0.28, 0.34], "accuracies": [0.31] * seeds}
    content = {
        "format": 1, "data": "photos", "train": ["labelled/train"], "tests": ["labelled/test"],
        "budget": {"minutes": minutes} if minutes else {"epochs": 2}, "seeds": list(range(seeds)),
        "backbone": "test_vit", "trainings": trainings, "ranking": ranking,
        "untrained": {"knn": {"labelled/test": untrained}}, "recommendation": f"Take byol, not {HOSTILE}.",
    }  # fmt: skip
    (folder / "compare.json").write_text(json.dumps(content))
    return folder
