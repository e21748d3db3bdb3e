"""Advice about evaluations, features and what a training came to: each piece is followed, and works."""

import json
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from unittest import mock

import pytest
import torch
from PIL import Image

import lookalike
from lookalike import cli, training
from lookalike.data import open_source
from lookalike.evaluation import (
    Features,
    embed,
    evaluate,
    evaluate_features,
    features,
    few_labels,
    label_free,
    load_features,
    record,
    run_protocol,
    save_features,
)
from lookalike.evaluation.few_labels import listed_rows
from lookalike.evaluation.label_checks import label_warning
from lookalike.evaluation.neighbours import nearest
from lookalike.places import check_logger, check_suffix
from lookalike.runs import Folder
from lookalike.training import model
from lookalike.training.health import Course, Remedies, Seen, ruined
from lookalike.training.looks import NAMES, Change, Neighbours
from support.calls import (
    EXTRA,
    Net,
    X,
    call,
    cause,
    configured,
    configured_on,
    extra_is_there,
    folders,
    listing,
    looked,
    net,
    written,
)
from support.place import Place


def blobs(count: int = 40, labels: Sequence[int] | None = None, seed: int = 0, dim: int = 8) -> Features:
    """Features of four classes, each around a place of its own; `labels` are what is said of them."""
    kinds = torch.arange(count) % 4
    values = 5 * torch.eye(dim)[kinds] + torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
    said = kinds if labels is None else torch.tensor(labels)[torch.arange(count) % len(labels)]
    return Features(values, said, [f"{i}.png" for i in range(count)], torch.arange(count), [], ("a", "b", "c", "d"))


def shuffled(features: Features) -> Features:
    order = torch.randperm(len(features.features), generator=torch.Generator().manual_seed(1))
    return replace(features, labels=features.labels[order])


def elsewhere() -> Features:
    """Images of another kind, whose classes lie elsewhere."""
    features = blobs(seed=1)
    return replace(features, features=features.features.roll(4, 1) + 20)


def judged(protocol: str = "knn", train: Features | None = None, test: Features | None = None) -> object:
    return run_protocol(protocol, train or blobs(), test or blobs(seed=1), None, 0, None)


def nan(features: Features) -> Features:
    return replace(features, features=features.features * torch.nan)


def evaluated(p: Place, *pair: object, encoder: object = None, **options: object) -> list[str]:
    said: list[str] = []
    own = {"protocols": ("knn",), "say": said.append} | options
    evaluate(encoder or p.run, *(pair or p.pair), **own)  # type: ignore[arg-type]
    return said


def record_of(p: Place, content: object) -> Path:
    path = p.out / "evaluation.json"
    path.write_text(json.dumps(content))
    return path


def few(**options: object) -> object:
    a, b = blobs(), blobs(seed=1)
    return few_labels(a.features, a.labels, b.features, b.labels, **({"draws": 2} | options))  # type: ignore[arg-type]


ROSE, AS_BEFORE, FELL = Change(0.3, 0.02, 0.3), Change(0.0, 0.02, 0.2), Change(-0.1, 0.02, 0.2)


def verdict(
    p: Place, change: Change = AS_BEFORE, *, first: dict[str, float] | None = None, known: bool = True,
    neighbours: Neighbours | None = None, **now: float,
) -> str:  # fmt: skip
    """What is said in the end of a training of 100 steps whose figures were these, where they differ from the first."""
    run = configured_on(p, "simclr")
    remedies = replace(Remedies.of(run, run.method, ""), known=known)
    figures = dict.fromkeys(NAMES, 0.5) | {"loss": 4.0} | (first or {})
    seen = Seen(figures, figures | now, change, 100, 100, neighbours=neighbours, remedies=remedies)
    return str(Course().see(seen))


def trained(p: Place, *options: str, data: Path | None = None) -> str:
    """What a training of five steps an epoch says."""
    said = StringIO()
    run = replace(configured_on(p, "simclr", "--hidden-dim", "8", "--overwrite", *options), data=str(data or p.photos))
    with redirect_stdout(said):
        training.pretrain(run)
    return said.getvalue()


def still(p: Place, *left: str) -> str:
    """A training whose rate is 0, where that is not left out."""
    rate = () if "--optim.lr" in left else ("--optim.lr", "0")
    with mock.patch("lookalike.training.health.SETTLED", 5):  # so that ten steps are enough here
        return trained(p, "--epochs", "2", *rate)


def commanded(p: Place, command: str, *more: str) -> None:
    """Runs a command that a message ends with."""
    program, *words = shlex.split(command)
    assert program == "lookalike"
    assert cli.main([*words, *more]) == 0


def blank(p: Place) -> Path:
    for i in range(40):
        (p.out / "blank").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (i, 7, 7)).save(p.out / f"blank/{i}.png")
    return p.out / "blank"


def taken(option: str, value: str, *path: str) -> object:
    """What an option of SimCLR comes to."""
    found: object = configured("simclr", option, value).method
    for name in option[2:].replace("-", "_").split("."):
        found = found[int(name)] if name.isdigit() else vars(found)[name]
    assert found == pytest.approx(float(value))
    return found


CALLS = {
    "labels in another order": call(
        lambda p: label_warning(blobs(), blobs(labels=[1, 2, 3, 0], seed=1)), r"Check the order of the classes\.$",
        lambda p, found: label_warning(blobs(), blobs(seed=1)),
    ),
    "labels that are shuffled": call(
        lambda p: label_warning(blobs(400), shuffled(blobs(400, seed=1))), r"Check the order of labels and images",
        lambda p, found: label_warning(blobs(400), blobs(400, seed=1)),
    ),
    "test images of another kind": call(
        lambda p: label_warning(blobs(400), moved_classes()),
        r"Check that both are images of one kind, and the order of their classes",
        lambda p, found: label_warning(blobs(400), blobs(400, seed=1)),
    ),
    "features under another suffix": call(
        lambda p: load_features(written(b"x", p.out / "a.txt")),
        r"is none of (\.npz), \.parquet and (\.csv), as `lookalike embed`",
        lambda p, found: load_features(embedded(p, found[1])), lambda p, found: load_features(embedded(p, found[2])),
    ),
    "a file without features": call(
        lambda p: load_features(written(b"x", p.out / "a.npz")), r"holds no features as `lookalike embed` writes them",
        lambda p, found: load_features(embedded(p, ".npz")),
    ),
    "features that are not there": call(
        lambda p: load_features(p.out / "none.npz"), r"Give a file that `lookalike embed` wrote",
        lambda p, found: load_features(embedded(p, ".npz")),
    ),
    "features that are not finite": call(
        lambda p: judged("logistic", train=nan(blobs())), r"Check the encoder: its training may have diverged",
        lambda p, found: judged("logistic"),
    ),
    "neighbours that are not finite": call(
        lambda p: judged("knn", train=nan(blobs())), r"Check the encoder: its training may have diverged",
        lambda p, found: judged("knn"),
    ),
    "labels that are no numbers of classes": call(
        lambda p: judged(train=blobs(labels=[10**9, 0])),
        r"Number them so, or save the names of the classes beside", lambda p, found: judged(train=blobs(labels=[1, 0])),
        lambda p, found: load_features(named_labels(p)),
    ),
    "features of two encoders": call(
        lambda p: judged(test=blobs(dim=6)), r"Compute both with the same encoder", lambda p, found: judged()
    ),
    "neighbours of two encoders": call(
        lambda p: nearest(torch.randn(4, 6), torch.randn(9, 8), 2), r"Take features of the same encoder",
        lambda p, found: nearest(torch.randn(4, 8), torch.randn(9, 8), 2),
    ),
    "pyarrow that is missing, to read": call(
        lambda p: without("pyarrow", lambda: load_features(written(b"x", p.out / "a.parquet"))), EXTRA, extra_is_there
    ),
    "pyarrow that is missing, to write": call(
        lambda p: without("pyarrow", lambda: check_suffix("a.parquet")), EXTRA, extra_is_there
    ),
    "a logger that is missing": call(
        lambda p: without("wandb", lambda: check_logger("wandb")),
        r"--logger .+ needs the extra: pip install '(lookalike)\[(.+)\]'",
        lambda p, found: extra_is_there(p, found),
    ),
    "matplotlib that is missing": call(
        lambda p: without("matplotlib", lambda: lookalike.plot(p.trained, out=p.out / "a.png")), EXTRA, extra_is_there
    ),
    "a mean for each of other channels": call(
        lambda p: features(net(), open_source(p.photos), image_size=32, mean=[0.5], std=[0.5]),
        r"Give one number per channel",
        lambda p, found: features(net(), open_source(p.photos), image_size=32, mean=[0.5] * 3, std=[0.5] * 3),
    ),
    "a protocol that takes what the encoder gives": call(
        lambda p: evaluated(p, protocols=("label-free",), pool="average"), r"Leave one of them out",
        lambda p, found: evaluated(p, protocols=("label-free",)), lambda p, found: evaluated(p, pool="average"),
    ),
    "one class": call(
        lambda p: evaluated(p, *2 * [folders(p.out / "one", "a")]), r"has only one class, .+\. Give at least two",
        lambda p, found: evaluated(p),
    ),
    "features without labels": call(
        lambda p: evaluate_features(embedded(p, ".npz", p.photos)), r"Embed a folder with one sub-folder per class",
        lambda p, found: evaluate_features(embedded(p, ".npz")),
    ),
    "one image without others": call(
        lambda p: label_free(p.run, p.photos, images=1), r"Give at least (2), better ([\d,\W]+)\.$",
        *(lambda p, found, i=i: label_free(p.run, p.photos, images=int(found[i].replace(",", ""))) for i in (1, 2)),
    ),
    "no protocol": call(
        lambda p: evaluated(p, protocols=()), r"No protocol was given\. Choose from ([^,.]+)",
        lambda p, found: evaluated(p, protocols=(found[1],)),
    ),
    "shares that are none": call(
        lambda p: evaluated(p, protocols=("semi",), shares=(10.0,)),
        r"shares is .+; give one or more fractions above 0 and at most (1)\.",
        lambda p, found: evaluated(p, protocols=("semi",), shares=(0.1, float(found[1]))),
    ),
    "a protocol that there is not": call(
        lambda p: evaluated(p, protocols=("nn",)), r"There is no protocol .+ here\. Choose from ([^,.]+)",
        lambda p, found: evaluated(p, protocols=(found[1],)),
    ),
    "a protocol that no features are judged by": call(
        lambda p: judged("nn"), r"There is no protocol [^ ]+\. Choose from ([^,.]+)", lambda p, found: judged(found[1])
    ),
    "features that cannot be kept": call(
        lambda p: "\n".join(evaluated(p, encoder=linked_features(p))),
        r"(\S+) is a link\. Remove it, or put what it leads to in its place",
        lambda p, found: Path(found[1]).unlink() or "\n".join(evaluated(p)),
        lambda p, found: put_in_place(linked_features(p) / "features") or "\n".join(evaluated(p)),
    ),
    "classes of one image each": call(
        lambda p: judged("linear", train=blobs(4)), r"Give more images per class, or use the (knn) protocol alone",
        lambda p, found: judged("linear"), lambda p, found: judged(found[1], train=blobs(4)),
    ),
    "features for which there are no labels": call(
        lambda p: judged(train=replace(blobs(), labels=None)), r"Put each class into a folder of its own",
        lambda p, found: judged(train=load_features(embedded(p, ".npz")), test=load_features(embedded(p, ".csv"))),
    ),
    "an untrained network that is not known": call(
        lambda p: evaluated(p, encoder=Net(), image_size=32, baseline=True),
        r"Leave the baseline out, and evaluate an untrained one, too",
        lambda p, found: [evaluated(p, encoder=Net(), image_size=32) for _ in ("trained", "untrained")] and None,
    ),
    "a way to pool that there is not": call(
        lambda p: evaluated(p, pool="mean"), r"Nothing pools as .+ Choose from (.+)\.$",
        *(lambda p, found, i=i: evaluated(p, pool=found[1].split(", ")[i]) for i in (0, 1, 2)),
    ),
    "a module whose size is not known": call(
        lambda p: evaluated(p, encoder=Net()),
        r"Give (image_size); for other than 3 channels, (lookalike\.backbones\.create\(module, channels=\.\.\., "
        r"image_size=\.\.\.\))",
        lambda p, found: evaluated(p, encoder=Net(), **{found[1]: 32}),
        lambda p, found: evaluated(
            p, encoder=eval(found[2].replace("=...", "={}").format(3, 32), {"lookalike": lookalike, "module": Net()})
        ),
    ),
    "a record of another format": call(
        lambda p: record(record_of(p, [{"format": 2}]), []),
        r"may come from a newer lookalike\. It was left as it is; move it away to start a new one",
        lambda p, found: (p.out / "evaluation.json").unlink() or record(p.out / "evaluation.json", []),
    ),
    "a record that is damaged": call(
        lambda p: record(written(b"[", p.out / "evaluation.json"), []),
        r"(?<!lookalike\.) It was left as it is; move it away to start a new one",
        lambda p, found: (p.out / "evaluation.json").unlink() or record(p.out / "evaluation.json", []),
    ),
    "a record with numbers that are none": call(
        lambda p: record(record_of(p, [{"format": 1, "top1": float("nan")}]), []),
        r"as no evaluation writes it\. It was left as it is; move it away to start a new one",
        lambda p, found: (p.out / "evaluation.json").unlink() or record(p.out / "evaluation.json", []),
    ),
    "a record that is a folder": call(
        lambda p: record((p.out / "evaluation.json").mkdir() or p.out / "evaluation.json", []),
        r"is no file\. Move it away, or give another --out", lambda p, found: record(p.out / "other.json", []),
        lambda p, found: (p.out / "evaluation.json").rmdir() or record(p.out / "evaluation.json", []),
    ),
    "few labels in two ways": call(
        lambda p: few(), r"Give either the share of the labels or the rows that keep theirs",
        lambda p, found: few(share=0.1),
        lambda p, found: few(rows=torch.arange(4)),
    ),
    "a share of the labels that is none": call(
        lambda p: few(share=2.0), r"give a share above 0, up to (1), and at least (1) draw",
        lambda p, found: few(share=float(found[1]), draws=int(found[2])),
    ),
    "a list of no images": call(
        lambda p: listed_rows(listing(p.out / "list.txt", ""), ["a/0.png"]),
        r"names no image\. Give the name of a labelled image per line",
        lambda p, found: listed_rows(listing(p.out / "list.txt", "a/0.png"), ["a/0.png"]),
    ),
    "a list that is not there": call(
        lambda p: listed_rows(p.out / "none.txt", ["a/0.png"]),
        r"Give a text file with the name of a labelled image per line",
        lambda p, found: listed_rows(listing(p.out / "list.txt", "a/0.png"), ["a/0.png"]),
    ),
    "features that are not finite, of a training": call(
        lambda p: verdict(p, spread=float("nan")),
        r"Give a longer (--optim\.warmup-epochs), or (--optim\.clip) (1): they reduce the step size",
        lambda p, found: taken(found[1], "20"), lambda p, found: taken(found[2], found[3]),
    ),
    "a rate that is none": call(
        still, r"Leave (.+) out: the method's own settings are fitted to these images",
        lambda p, found: still(p, *re.findall(r"--[\w.-]+", found[1])),
    ),
    "one answer for all images": call(
        lambda p: verdict(p, FELL, spread=0.01, loss=0.0, known=False),
        r"Check that the loss keeps images apart: negatives, a variance term, or a stopped gradient and a predictor\.",
        lambda p, found: cause("vicreg"), lambda p, found: cause("simsiam"), lambda p, found: cause("byol"),
        lambda p, found: cause("barlow_twins", "--lambd", "0.0051"), lambda p, found: cause("dino"),
    ),
    "views that are alike": call(
        lambda p: verdict(p, Change(0.0, 0.0, 0.001), first={"pair_auc": 0.999}),
        r"Use stronger augmentation, by a lower (--views\.0\.scale) or more (--views\.0\.jitter), and check the views: "
        r"(.+)",
        lambda p, found: configured("simclr", found[1], "0.05", "1.0"), lambda p, found: taken(found[2], "1.0"),
        lambda p, found: commanded(p, found[3], "--out", str(p.out / "views.png")),
    ),
    "views that do not show the image": call(
        lambda p: verdict(p, FELL), r"Check that both views show what distinguishes an image from others: (.+)",
        lambda p, found: commanded(p, found[1], "--out", str(p.out / "views.png")),
    ),
    "views that lose the class": call(
        lambda p: verdict(p, ROSE, neighbours=Neighbours(0.9, 0.8, -0.15, -0.05)),
        r"Check that the views preserve what the classes differ in: (.+)",
        lambda p, found: commanded(p, found[1], "--out", str(p.out / "views.png")),
    ),
    "images that hold nothing": call(
        lambda p: trained(p, data=blank(p)), r"Check the images: (.+)", lambda p, found: commanded(p, found[1]),
        lambda p, found: trained(p),
    ),
    "no clear gain": call(
        lambda p: verdict(p), r"Train for longer, such as with (--epochs) (\S+) or a (--time)\.",
        lambda p, found: configured("simclr", found[1], found[2]),
        lambda p, found: configured("simclr", found[3], "1h"),
    ),
    "no clear gain that a probe would show": call(
        lambda p: verdict(p), r"With labelled images, (--probe) TRAIN TEST measures the accuracy",
        lambda p, found: trained(p, found[1], *p.pair),
    ),
    "a training of few steps": call(
        lambda p: trained(p), r"Give more (--epochs), or a (--time)\.", lambda p, found: trained(p, found[1], "4"),
        lambda p, found: configured("simclr", found[2], "1h"),
    ),
    "images that are not finite": call(
        lambda p: str(ruined(3, 1.0, [X * torch.nan])), r"Find such images with `lookalike (check)`",
        lambda p, found: looked(p.photos),
    ),
    "a loss that is not finite": call(
        lambda p: str(ruined(3, float("inf"), [X])),
        r"Try a lower (--optim\.lr), a longer (--optim\.warmup-epochs), or (--optim\.clip) (1)\.",
        lambda p, found: taken(found[1], "0.01"), lambda p, found: taken(found[2], "20"),
        lambda p, found: taken(found[3], found[4]),
    ),
    "gradients that are not finite": call(
        lambda p: str(ruined(3, 1.0, [X])),
        r"Try (--precision) (bf16) instead of fp16, a lower (--optim\.lr), or (--optim\.clip) (1)\.",
        lambda p, found: configured("simclr", found[1], found[2]), lambda p, found: taken(found[3], "0.01"),
        lambda p, found: taken(found[4], found[5]),
    ),
}  # fmt: skip


def moved_classes() -> Features:
    """Each class where TRAIN has none of them."""
    features = blobs(400, seed=1)
    return replace(features, features=features.features.roll(4, 1))


def embedded(p: Place, suffix: str, data: object = None) -> Path:
    path = p.out / f"features{suffix}"
    embed(p.run, data or p.pair[0], out=path)  # type: ignore[arg-type]
    return path


def named_labels(p: Place) -> Path:
    save_features(p.out / "a.csv", blobs())
    return p.out / "a.csv"


def linked_features(p: Place) -> Path:
    folder = Folder(p.run).features
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    (p.out / "elsewhere").mkdir(exist_ok=True)
    if not folder.is_symlink():
        folder.symlink_to(p.out / "elsewhere")
    return p.run


def put_in_place(link: Path) -> None:
    there = link.resolve()
    link.unlink()
    there.rename(link)


def shown_views(p: Place) -> None:
    model.draw_views(configured_on(p, "simclr"), p.out / "views.png")


def without(package: str, use: Callable[[], object]) -> object:
    """Where a package is not installed."""
    with (
        mock.patch.dict("sys.modules", {package: None, f"{package}.parquet": None}),
        mock.patch("lookalike.places.find_spec", lambda name: None if name == package else find_spec(name)),
    ):
        return use()
