"""Advice that commands give. A row is a command that fails, what its message advises, and what follows it."""

import dataclasses
import os
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import lookalike
from lookalike.runs import Folder
from support import tiny
from support.calls import configured
from support.place import TINY, Place

Follow = Callable[[Place, re.Match[str], list[str]], list[str] | None]


def more(*words: str) -> Follow:
    """The same command with more words, in which groups of the advice stand as {0}, {1}."""
    return lambda place, found, argv: [*argv, *(word.format(*found.groups(), place=place) for word in words)]


def instead(old: str, *new: str) -> Follow:
    """The same command with one word replaced."""

    def follow(place: Place, found: re.Match[str], argv: list[str]) -> list[str]:
        assert old in argv
        at = argv.index(old)
        return [*argv[:at], *(word.format(*found.groups(), place=place) for word in new), *argv[at + 1 :]]

    return follow


def pasted(place: Place, found: re.Match[str], argv: list[str]) -> list[str]:
    """A command that the message gives whole, with what is here in the place of DATA and the like."""
    words = shlex.split(found[1], comments=True)
    assert words[0] == "lookalike"
    known = {
        "TRAIN": place.pair[0], "TEST": place.pair[1], "DATA": str(place.photos), "ENCODER": str(place.run),
        "TEACHER": str(place.run), "METHOD": "simclr", "RUN...": str(place.trained), "FILE.png": f"{place.out}/a.png",
    }  # fmt: skip
    return [known.get(word, word) for word in words[1:] if word != "[options]"]


def pasted_with(*words: str) -> Follow:
    """The same with more words."""
    return lambda place, found, argv: [*pasted(place, found, argv), *(word.format(place=place) for word in words)]


def without(*words: str) -> Follow:
    """The same command without some of its words."""
    return lambda place, found, argv: [word for word in argv if word not in words]


@dataclass(frozen=True)
class Remedy:
    argv: Callable[[Place], list[str]]
    """The command that fails."""
    advice: str
    """A pattern of what its message advises; its groups are the options and values that are advised."""
    follow: Follow | tuple[Follow, ...]
    """What follows it; several where it gives a choice. None is to be run where it was no command that was advised."""
    code: int = 1
    """What the failing command exits with."""


def trains(method: str, *options: str, backbone: str = tiny.CNN) -> Callable[[Place], list[str]]:
    return lambda p: [
        "pretrain", method, str(p.photos), *TINY, "--backbone", backbone, *(o.format(p=p) for o in options), "--out",
        str(p.out / "run"),
    ]  # fmt: skip


def resumes(*options: str, data: Callable[[Place], Path] | None = None) -> Callable[[Place], list[str]]:
    """Goes on with a run of one epoch."""
    return lambda p: [
        "pretrain", *([] if data is None else [str(data(p))]), "--resume", "--out", str(copied_run(p)), "--no-report",
        "--epochs", "2", *options,
    ]  # fmt: skip


def copied_run(p: Place) -> Path:
    there = p.out / "trained"
    return there if there.is_dir() else Path(shutil.copytree(p.trained, there))


def other_images(p: Place) -> Path:
    """The photos, and one more."""
    there = Path(shutil.copytree(p.photos, p.out / "photos"))
    shutil.copy(there / "image 0.jpg", there / "new.jpg")
    return there


def another_image(p: Place) -> Path:
    """The photos, of which one is another."""
    there = Path(shutil.copytree(p.photos, p.out / "photos"))
    shutil.copy(there / "image 3.jpg", there / "image 0.jpg")
    return there


def unreadable(p: Place) -> list[str]:
    for path in Folder(copied_run(p)).checkpoints.iterdir():
        path.write_bytes(b"nothing")
    return resumes()(p)


def anew(*options: str) -> Follow:
    """A training of the photos that begins."""
    return lambda place, found, argv: [
        "pretrain", "simclr", str(place.photos), *TINY, "--backbone", tiny.CNN,
        *(option.format(place=place) for option in options),
    ]  # fmt: skip


def asks(p: Place, *lines: str) -> list[str]:
    """A training that a file asks for."""
    (p.out / "asked.yaml").write_text("\n".join(lines))
    return ["pretrain", "--from", f"{p.out}/asked.yaml", *TINY, "--backbone", tiny.CNN, "--out", f"{p.out}/run"]


def evaluates(*options: str) -> Callable[[Place], list[str]]:
    return lambda p: [
        "evaluate", str(p.run), *p.pair, "--workers", "0", "--protocols", "knn", *(o.format(p=p) for o in options)
    ]  # fmt: skip


def compares(*options: str) -> Callable[[Place], list[str]]:
    return lambda p: [
        "compare", str(p.photos), "simclr", "--train", p.pair[0], "--test", p.pair[1], *TINY, "--backbone", tiny.CNN,
        "--seeds", "1", "--protocols", "knn", *options, "--out", f"{p.out}/compare",
    ]  # fmt: skip


def features(p: Place, *names: str) -> list[str]:
    """Files of features."""
    for name in names:
        lookalike.embed(p.run, p.pair[0], out=p.out / name)
    return [str(p.out / name) for name in names]


def from_python(place: Place, found: re.Match[str], argv: list[str]) -> None:
    """The training that a file asks for, of what no file can name."""
    run = configured("simclr", *TINY[:-1], "--backbone", tiny.CNN, "--hidden-dim", "8")
    images = [np.zeros((16, 16, 3), np.uint8)] * 16
    lookalike.pretrain(dataclasses.replace(run, data=images, out=f"{place.out}/python"))


def arrays(place: Place, found: re.Match[str], argv: list[str]) -> None:
    """What a line of Python gives, as it says."""
    content = eval(found[1], {"numpy": np})
    assert len(content["features"]) == len(content["names"]) == 40


def in_quotes(place: Place, found: re.Match[str], argv: list[str]) -> list[str]:
    (place.out / "5").symlink_to(place.photos)
    os.chdir(place.out)
    (place.out / "asked.yaml").write_text("method: simclr\ndata: '5'")
    return argv


def where_it_began(place: Place, found: re.Match[str], argv: list[str]) -> list[str]:
    os.chdir(place.photos.parent)
    return argv


def called(*suffixes: int) -> tuple[Follow, ...]:
    """The same command with a file of a suffix that the message names."""
    return tuple(
        lambda place, found, argv, i=i: [*argv[:-1], f"{place.out}/a{found[i]}"]
        for i in suffixes  # type: ignore[misc]
    )


def distills(*options: str, backbone: str = tiny.CNN) -> Callable[[Place], list[str]]:
    return lambda p: [
        "distill", str(p.photos), *TINY, "--backbone", backbone, *(o.format(p=p) for o in options), "--out",
        str(p.out / "run"),
    ]  # fmt: skip


PLAIN = ["--optim.lr", "0.02", "--mixup", "0", "--cutmix", "0", "--smoothing", "0"]
"""Fine-tuning that fits few images."""
UNNAMED = r"Name it: (--encoder-backbone) NAME \(evaluate, embed, show, finetune\)"
THERE = r"exists\. Give another \S+, or (--overwrite)\."
REMEDIES: dict[str, Remedy] = {
    "weights of an unknown network, evaluate": Remedy(
        lambda p: ["evaluate", str(p.weights), *p.pair, "--workers", "0", "--protocols", "knn"], UNNAMED,
        more("{0}", tiny.CNN),
    ),
    "weights of an unknown network, embed": Remedy(
        lambda p: ["embed", str(p.weights), str(p.photos), "--workers", "0", "--out", str(p.out / "a.npz")], UNNAMED,
        more("{0}", tiny.CNN),
    ),
    "weights of an unknown network, show": Remedy(
        lambda p: ["show", str(p.weights), str(p.photos), "--workers", "0", "--out", str(p.out / "show")], UNNAMED,
        more("{0}", tiny.CNN),
    ),
    "weights of an unknown network, finetune": Remedy(
        lambda p: ["finetune", str(p.weights), *p.pair, *TINY, "--out", str(p.out / "run")], UNNAMED,
        more("{0}", tiny.CNN),
    ),
    "weights of an unknown teacher": Remedy(
        distills("--teacher", "{p.weights}"), r"(--teacher-backbone) NAME \(distill, compare\)", more("{0}", tiny.CNN)
    ),
    "weights of an unknown teacher, compare": Remedy(
        lambda p: ["compare", str(p.photos), "distill", "--train", p.pair[0], "--test", p.pair[1], *TINY, "--backbone",
                   tiny.CNN, "--seeds", "1", "--protocols", "knn", "--teacher", str(p.weights), "--out",
                   str(p.out / "compare")],
        r"(--teacher-backbone) NAME \(distill, compare\)", more("{0}", tiny.CNN),
    ),
    "a name whose weights cannot be fetched": Remedy(
        lambda p: ["evaluate", "timm/test_resnet", *p.pair, "--workers", "0", "--protocols", "knn"],
        r"instead of the name: as ENCODER with (--encoder-backbone) (\S+), as",
        instead("timm/test_resnet", "{place.out}/hand.pth", "{0}", "{1}"),
    ),
    "a name whose weights cannot be fetched, to begin with": Remedy(
        trains("simclr", "--init", "timm/test_resnet"), r"as --init with --backbone (\S+)\.",
        lambda p, found, argv: [{"timm/test_resnet": f"{p.out}/hand.pth", tiny.CNN: found[1]}.get(a, a) for a in argv],
    ),
    "a backbone that is named though the file says it": Remedy(
        lambda p: ["embed", str(p.run), str(p.photos), "--workers", "0", "--out", str(p.out / "a.npz"),
                   "--encoder-backbone", "test_resnet"],
        r"Omit the name of the backbone\.", lambda p, found, argv: argv[:-2],
    ),
    "an encoder of other image sizes": Remedy(
        lambda p: ["embed", str(p.run), str(p.photos), "--workers", "0", "--out", str(p.out / "a.npz"), "--image-size",
                   "41"],
        r"The nearest sizes that work: (?:\S+, )?(\S+)\.", lambda p, found, argv: [*argv[:-1], found[1]],
    ),
    "a misspelt backbone": Remedy(
        trains("simclr", "--backbone", "test_resnte"), r"The nearest names: ([^,. ]+)", instead("test_resnte", "{0}"),
    ),
    "a backbone that no list has": Remedy(
        trains("simclr", "--backbone", "zzzzzzzzzz"), r"`(lookalike list backbones)` shows all", pasted
    ),
    "a pattern that finds no backbone": Remedy(
        lambda p: ["list", "backbones", "resnte18"], r"Did you mean ([^ ?]+)", instead("resnte18", "{0}")
    ),
    "a folder for the results": Remedy(
        lambda p: ["evaluate", str(p.run), *p.pair, "--workers", "0", "--protocols", "knn", "--out", str(p.out)],
        r"Give a file, such as (\S+)\.", lambda p, found, argv: [*argv[:-1], found[1]],
    ),
    "a table of another kind": Remedy(
        lambda p: ["embed", str(p.run), str(p.photos), "--workers", "0", "--out", str(p.out / "a.xlsx")],
        r"; expected (.+) or (\S+)\. Choose one",
        lambda p, found, argv: [*argv[:-1], str(p.out / f"a{found[2]}")],
    ),
    "features that are there": Remedy(
        lambda p: ["embed", str(p.run), str(p.photos), "--workers", "0", "--out", str(p.out / "there.npz")], THERE,
        more("{0}"),
    ),
    "a sheet that is there": Remedy(
        lambda p: ["views", "simclr", str(p.photos), "--image-size", "32", "--out", str(p.out / "there.png")], THERE,
        more("{0}"),
    ),
    "pictures that are there": Remedy(
        lambda p: ["show", str(p.run), str(p.photos), "--workers", "0", "--what", "neighbours", "--out", str(p.out)],
        THERE, more("{0}"),
    ),
    "a check that is there": Remedy(
        lambda p: ["check", str(p.photos), "--workers", "0", "--out", str(p.out / "there.json")], THERE, more("{0}")
    ),
    "a run that is no classifier": Remedy(
        lambda p: ["predict", str(p.run), str(p.photos), "--workers", "0", "--out", str(p.out / "a.csv")],
        r"Train one: (.+)",
        lambda p, found, argv: [*pasted(p, found, argv), *TINY, "--out", str(p.out / "tuned")],
    ),
    "labels that are not there": Remedy(
        lambda p: ["evaluate", str(p.run)], r"(lookalike evaluate) ENCODER TRAIN TEST",
        lambda p, found, argv: [*argv, *p.pair, "--workers", "0", "--protocols", "knn"], 2,
    ),
    "features and an encoder": Remedy(
        lambda p: ["evaluate", str(p.run), *p.pair, "--features", str(p.out / "there.npz"), "--protocols", "knn"],
        r"(--features) replaces ENCODER TRAIN TEST and --also\. Leave them out\.",
        lambda p, found, argv: ["evaluate", found[1], *features(p, "a.npz", "b.npz"), "--protocols", "knn"], 2,
    ),
    "a queue of no whole batches": Remedy(
        trains("moco_v2", "--queue", "20", "--hidden-dim", "8"), r"Give (--queue) (\S+)\.", instead("20", "{1}")
    ),
    "more prototypes than images": Remedy(
        trains("swav", "--prototypes", "500", "--hidden-dim", "8"), r"Give about (--prototypes) (\S+), or more",
        instead("500", "{1}"),
    ),
    "a teacher of other image sizes": Remedy(
        distills("--teacher", "{p.run}", "--teacher-size", "41"),
        r"Teacher: .*?(?:sizes that work: (\S+),.*)?Give (--teacher-size)\.",
        instead("41", "{0}"),
    ),
    "a comparison without the teacher": Remedy(
        lambda p: ["compare", str(p.photos), "simclr", "distill", "--train", p.pair[0], "--test", p.pair[1], *TINY,
                   "--backbone", tiny.CNN, "--seeds", "1", "--protocols", "knn", "--out", str(p.out / "compare")],
        r"Give (--teacher), or leave (\S+) out",
        (more("{0}", "{place.run}"), lambda p, found, argv: [*(a for a in argv if a != found[2]), "--overwrite"]), 2,
    ),
    "a budget and epochs": Remedy(
        lambda p: ["compare", str(p.photos), "simclr", "--train", p.pair[0], "--test", p.pair[1], *TINY, "--backbone",
                   tiny.CNN, "--seeds", "1", "--protocols", "knn", "--out", str(p.out / "compare"), "--budget", "1s"],
        r"(--budget) and (--epochs) exclude each other", lambda p, found, argv: argv[: argv.index(found[1])], 2,
    ),
    "a time and epochs": Remedy(
        trains("simclr", "--time", "1s"), r"(--time) and (--epochs) exclude each other",
        lambda p, found, argv: [a for i, a in enumerate(argv) if found[2] not in argv[max(0, i - 1) : i + 1]], 2,
    ),
    "a small backbone that is none": Remedy(
        lambda p: ["list", "backbones", "resnet152", "--small"], r"Leave (--small) out",
        lambda p, found, argv: [a for a in argv if a != found[1]],
    ),
    "a module without memory for activations": Remedy(
        trains("simclr", "--checkpoint-activations"),
        r"Choose a ViT or ConvNeXt from timm, or a smaller batch in more micro-batches \((--accumulate)\)",
        (
            instead(tiny.CNN, tiny.VIT),
            lambda p, found, argv: [*without("--checkpoint-activations")(p, found, argv), found[1], "2", "--overwrite"],
        ),
    ),
    "weights of another backbone": Remedy(
        trains("simclr", "--init", "{p.weights}", backbone=tiny.VIT),
        r"Give the (--backbone) to which the weights belong",
        more("{0}", tiny.CNN),
    ),
    "too many backbones to measure": Remedy(
        lambda p: ["list", "backbones", "resnet", "--measure", "--image-size", "32"],
        r"Narrow the PATTERN: it matches .+\.", instead("resnet", "test_resnet"),
    ),
    "a method that learns from a teacher": Remedy(
        lambda p: ["pretrain", "distill", str(p.photos)],
        r"trains with a teacher: (lookalike distill DATA --teacher TEACHER)",
        pasted_with(*TINY, "--backbone", tiny.CNN, "--out", "{place.out}/run"), 2,
    ),
    "a method that learns from labels": Remedy(
        lambda p: ["pretrain", "finetune", str(p.photos)],
        r"trains with labels: (lookalike finetune ENCODER TRAIN TEST)",
        pasted_with(*TINY, "--out", "{place.out}/run"), 2,
    ),
    "images that are not where a file says": Remedy(
        lambda p: asks(p, "method: simclr", "data: nowhere"), r"To use another path: (.+)",
        pasted_with(*TINY, "--backbone", tiny.CNN, "--out", "{place.out}/run"),
    ),
    "images that are not where an old run's file says": Remedy(
        lambda p: asks(p, "method: simclr", f"data: {p.photos.name}", "made: {}"),
        r"which lookalike 0\.1 did not record\. Run the command in that directory", where_it_began,
    ),
    "what comes after predicting": Remedy(
        lambda p: ["predict", str(p.tuned), str(p.photos), "--workers", "0"],
        r"Next: (.+)   # attention maps of the encoder", pasted_with("--workers", "0"), 0,
    ),
    "what comes after looking at views": Remedy(
        lambda p: ["views", "simclr", str(p.photos), "--backbone", tiny.CNN, "--image-size", "32"],
        r"the original first\.\s+Next: (.+)", pasted_with(*TINY, "--out", "{place.out}/run"), 0,
    ),
    "what comes after evaluating": Remedy(
        evaluates(), r"Next: (lookalike [^#]+|\W)$", pasted_with("--workers", "0"), 0,
    ),
    "what comes after comparing": Remedy(compares(), r"Next: (lookalike [^#]+|\W)$", pasted_with("--workers", "0"), 0),
    "what comes after showing": Remedy(
        lambda p: ["show", str(p.run), str(p.photos), "--workers", "0"],
        r"Next: (.+)   # folders with one sub-folder per class", pasted_with("--workers", "0", "--protocols", "knn"), 0,
    ),
    "what comes after plotting": Remedy(
        lambda p: ["plot", str(p.trained), "--out", f"{p.out}/a.png"],
        r"Next: (.+)   # all curves and a map of the embedding", pasted_with("--workers", "0", "--points", "4"), 0,
    ),
    "what comes after finetuning": Remedy(
        lambda p: ["finetune", str(p.run), *p.pair, *TINY, "--out", f"{p.out}/tuned"],
        r"\(encoder, head and classes\), \S+ and \S+\s+Next: (.+)", pasted_with("--workers", "0"), 0,
    ),
    "what comes after pretraining": Remedy(
        trains("simclr", "--hidden-dim", "8"), r"Next: (.+)   # folders with one sub-folder per class",
        pasted_with("--workers", "0", "--protocols", "knn"), 0,
    ),
    "what comes after embedding": Remedy(
        lambda p: ["embed", str(p.run), str(p.photos), "--workers", "0"],
        r"Next: (numpy\.load\(.+\)) returns the arrays features and names", arrays, 0,
    ),
    "a path that is a number": Remedy(
        lambda p: asks(p, "method: simclr", "data: 5"), r"give a path, in quotes if it is a number", in_quotes
    ),
    "a sheet of another kind": Remedy(
        lambda p: ["views", "simclr", str(p.photos), "--backbone", tiny.CNN, "--image-size", "32", "--out",
                   f"{p.out}/a.gif"],
        r"--out \S+ is neither (\.png) nor (\.jpg)\.", called(1, 2), 2,
    ),
    "pairs drawn to another kind of file": Remedy(
        lambda p: ["check", str(p.photos), "--workers", "0", "--sheet", f"{p.out}/a.gif"],
        r"--sheet \S+ is neither (\.png) nor (\.jpg)\.", called(1, 2), 2,
    ),
    "results that are not written": Remedy(
        lambda p: ["evaluate", str(p.weights), *p.pair, "--workers", "0", "--protocols", "knn", "--encoder-backbone",
                   tiny.CNN],
        r"Results were not saved; (--out) FILE saves them", more("{0}", "{place.out}/a.json"), 0,
    ),
    "a check that is not written": Remedy(
        lambda p: ["check", str(p.photos), "--workers", "0"],
        r"The full report was not saved; (--out) FILE\.json saves it", more("{0}", "{place.out}/a.json"), 0,
    ),
    "a report without runs": Remedy(
        lambda p: ["report"], r"No run was given: (lookalike report RUN\.\.\. \[options\])\.",
        pasted_with("--points", "4"), 2,
    ),
    "a plot without runs": Remedy(
        lambda p: ["plot", "--out", "a.png"], r"No run was given: (lookalike plot RUN\.\.\. --out FILE\.png)\.",
        pasted, 2,
    ),
    "thinning without runs": Remedy(
        lambda p: ["thin"], r"No run was given: (lookalike thin RUN\.\.\.)", pasted, 2
    ),
    "a probe of one folder": Remedy(
        lambda p: [*trains("simclr", "--hidden-dim", "8")(p), "--probe", p.pair[0]], r"(--probe) TRAIN TEST\.",
        more("{place.pair[1]}"), 2,
    ),
    "data that a file cannot name": Remedy(
        lambda p: asks(p, "method: simclr", "data: <mine.Images>"), r"Continue from Python with the same call",
        from_python
    ),
    "data that a file cannot name, and the command line can": Remedy(
        lambda p: asks(p, "method: simclr", "data: <mine.Images>"), r", or name another \S+ on the command line",
        lambda p, found, argv: ["pretrain", str(p.photos), *argv[1:]],
    ),
    "a method that a file cannot name": Remedy(
        lambda p: asks(p, "method: mine:Method", "data: photos"), r"Run it from Python: lookalike\.pretrain\(\.\.\.\)",
        from_python,
    ),
    "a file of one method, and another": Remedy(
        lambda p: ["pretrain", "byol", *asks(p, "method: simclr", f"data: {p.photos}")[1:]],
        r"is a run of \S+, but the command names \S+\. Leave one of them out\.", without("byol"), 2,
    ),
    "three files of features": Remedy(
        lambda p: ["evaluate", "--features", *features(p, "a.npz", "b.npz", "c.npz"), "--protocols", "knn"],
        r"--features expects one or two files, but got \S+\.",
        lambda p, found, argv: [a for a in argv if "c.npz" not in a], 2,
    ),
    "no method": Remedy(
        lambda p: ["pretrain", "--epochs", "1"],
        r"The method is missing: (lookalike \S+ METHOD DATA \[options\])\.",
        pasted_with(*TINY, "--backbone", tiny.CNN, "--out", "{place.out}/run"), 2,
    ),
    "an option of encoders with features": Remedy(
        lambda p: ["evaluate", "--features", *features(p, "a.npz", "b.npz"), "--protocols", "knn", "--baseline"],
        r"--\S+ applies to encoders, but --features reads saved features\. Leave it out", without("--baseline"), 2,
    ),
    "an option of backbones with methods": Remedy(
        lambda p: ["list", "methods", "--small"], r"--\S+ applies to backbones only\. Leave it out",
        without("--small"), 2
    ),
    "shares that are none": Remedy(
        evaluates("--shares", "10"), r"shares is .+; give one or more fractions above 0 and at most (\S+)\.",
        instead("10", "{0}")
    ),
    "groups of no name": Remedy(
        lambda p: ["check", str(p.photos), "--workers", "0", "--groups", "zzz"],
        r"--groups \S+ matches none of \S+ file names, such as (.+)\.",
        lambda p, found, argv: [*argv[:-1], re.escape(found[1][:3])],
    ),
    "groups by no expression": Remedy(
        lambda p: ["check", str(p.photos), "--workers", "0", "--groups", "["],
        r"--groups \S+ is not a valid regular expression", instead("[", "^(.)"),
    ),
    "reading once": Remedy(
        lambda p: ["check", str(p.photos), "--workers", "0"], r"--cache ram reads them once",
        anew("--cache", "ram", "--out", "{place.out}/run"), 0,
    ),
    "maps of few patches": Remedy(
        lambda p: ["show", str(p.run), str(p.photos), "--workers", "0", "--out", f"{p.out}/show", "--overwrite"],
        r"(--image-size) (\S+) gives finer ones", more("{0}", "{1}"), 0,
    ),
    "a classifier that is no better than chance": Remedy(
        lambda p: ["finetune", str(p.run), *p.pair, *TINY, "--out", f"{p.out}/tuned", *PLAIN],
        r"Train for longer, on more images, or from another encoder",
        lambda p, found, argv: ["finetune", str(p.run), *p.pair, *TINY, "--out", f"{p.out}/longer", *PLAIN, "--epochs",
                                "8"], 0,
    ),
    "a batch of few images": Remedy(
        lambda p: [a for a in trains("simclr")(p) if a not in ("--batch-size", "8")],
        r"\(change it with (--batch-size)\)", more("{0}", "8", "--overwrite"), 0,
    ),
    "an encoder that rests at first": Remedy(
        trains("simclr", "--hidden-dim", "8", "--init", "{p.weights}"),
        r"\((--frozen-epochs) (0) trains it from the start\)", more("{0}", "{1}", "--overwrite"), 0,
    ),
    "values that were fitted": Remedy(
        trains("simclr", "--hidden-dim", "8"), r"\((--no-fit) keeps the paper's values\)", more("{0}", "--overwrite"),
        0,
    ),
    "a resume with more images": Remedy(
        resumes(data=other_images),
        r"\. A resumed run needs the same images\. Restore them, or start a new run with (--init)",
        (
            anew("--out", "{place.out}/new", "--init", "{place.out}/trained"),
            lambda p, found, argv: (p.out / "photos/new.jpg").unlink() or argv,
        ),
    ),
    "a resume with another image": Remedy(
        resumes(data=another_image),
        r"\. A resumed run needs the same images\. Restore them, or start a new run with (--init)",
        (
            anew("--out", "{place.out}/new", "--init", "{place.out}/trained"),
            lambda p, found, argv: [str(p.photos) if a == f"{p.out}/photos" else a for a in argv],
        ),
    ),
    "a resume without a checkpoint": Remedy(
        unreadable, r"Start again with (--overwrite), or a new run from the encoder with (--init)",
        (
            anew("--out", "{place.out}/new", "--init", "{place.out}/trained"),
            anew("--out", "{place.out}/trained", "--overwrite"),
        ),
    ),
    "a resume with another configuration": Remedy(
        resumes("--temperature", "0.3"), r"Leave these options out, or give (--out) another folder",
        (without("--temperature", "0.3"), anew("--out", "{place.out}/new", "--temperature", "0.3")),
    ),
}  # fmt: skip
