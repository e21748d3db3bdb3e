"""What messages advise: each piece of advice is taken from the message itself, followed, and works.

A row of `REMEDIES` is a command that fails, what its message advises, and the command that follows the advice. New
messages that advise something get a row. Two sweeps over the source make sure that no message names a command or an
option that does not exist.
"""

import ast
import dataclasses
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import timm
import torch
from support import tiny

import lookalike
from lookalike import cli, encoders
from lookalike.backbones import create
from lookalike.methods import METHODS, get_method
from lookalike.runs import Folder, Options

SOURCE = Path(lookalike.__file__).parent


@dataclass(frozen=True)
class Place:
    """What the commands work on."""

    labelled: Path
    photos: Path
    run: Path
    """A run's folder with a ViT for 32 pixels, and the labelled test images as a page knows them."""
    weights: Path
    """A file of weights that does not say its architecture: the tiny CNN's."""
    out: Path
    """A folder for what is written, which is new for each row."""

    @property
    def pair(self) -> list[str]:
        return [str(self.labelled / "train"), str(self.labelled / "test")]


Follow = Callable[[Place, re.Match[str], list[str]], list[str]]
TINY = ["--image-size", "32", "--batch-size", "8", "--workers", "0", "--epochs", "1", "--no-report"]


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
    """A command that the message gives whole, with folders in the place of TRAIN, TEST and DATA."""
    words = shlex.split(found[1])
    assert words[0] == "lookalike"
    known = {"TRAIN": place.pair[0], "TEST": place.pair[1], "DATA": str(place.photos)}
    return [known.get(word, word) for word in words[1:]]


@dataclass(frozen=True)
class Remedy:
    argv: Callable[[Place], list[str]]
    """The command that fails."""
    advice: str
    """A pattern of what its message advises; its groups are the options and values that are advised."""
    follow: Follow
    code: int = 1
    """What the failing command exits with."""


def trains(method: str, *options: str) -> Callable[[Place], list[str]]:
    return lambda p: [
        "pretrain", method, str(p.photos), *TINY, "--backbone", tiny.CNN, *options, "--out", str(p.out / "run"),
    ]  # fmt: skip


def distills(*options: str, backbone: str = tiny.CNN) -> Callable[[Place], list[str]]:
    return lambda p: [
        "distill", str(p.photos), *TINY, "--backbone", backbone, *(o.format(p=p) for o in options), "--out",
        str(p.out / "run"),
    ]  # fmt: skip


UNNAMED = r"Name it: (--encoder-backbone) NAME \(evaluate, embed, show, finetune\)"
THERE = r"exists\. Give another --out, or (--overwrite)\."
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
        r"in place of the name: as ENCODER with (--encoder-backbone) (test_resnet), as",
        instead("timm/test_resnet", "{place.out}/hand.pth", "{0}", "{1}"),
    ),
    "a name whose weights cannot be fetched, to begin with": Remedy(
        trains("simclr", "--init", "timm/test_resnet"), r"as --init with --backbone (test_resnet)\.",
        lambda p, found, argv: [{"timm/test_resnet": f"{p.out}/hand.pth", tiny.CNN: found[1]}.get(a, a) for a in argv],
    ),
    "a backbone that is named though the file says it": Remedy(
        lambda p: ["embed", str(p.run), str(p.photos), "--workers", "0", "--out", str(p.out / "a.npz"),
                   "--encoder-backbone", "test_resnet"],
        r"Leave the name of the backbone (out)\.", lambda p, found, argv: argv[:-2],
    ),
    "an encoder of other image sizes": Remedy(
        lambda p: ["embed", str(p.run), str(p.photos), "--workers", "0", "--out", str(p.out / "a.npz"), "--image-size",
                   "41"],
        r"The nearest sizes that work: \d+, (\d+)", lambda p, found, argv: [*argv[:-1], found[1]],
    ),
    "a misspelt backbone": Remedy(
        trains("simclr", "--backbone", "test_resnte"), r"The nearest names: (\w+)", instead("test_resnte", "{0}"),
    ),
    "a backbone that no list has": Remedy(
        trains("simclr", "--backbone", "zzzzzzzzzz"), r"`(lookalike list backbones)` shows all", pasted
    ),
    "a pattern that finds no backbone": Remedy(
        lambda p: ["list", "backbones", "resnte18"], r"'resnte18'\. .*?\b(resnet\w*)", instead("resnte18", "{0}")
    ),
    "a folder for the results": Remedy(
        lambda p: ["evaluate", str(p.run), *p.pair, "--workers", "0", "--protocols", "knn", "--out", str(p.out)],
        r"Give a file, such as (\S+evaluation\.json)\.", lambda p, found, argv: [*argv[:-1], found[1]],
    ),
    "a table of another kind": Remedy(
        lambda p: ["embed", str(p.run), str(p.photos), "--workers", "0", "--out", str(p.out / "a.xlsx")],
        r"it is written as (\.npz), \.parquet or (\.csv)\. Choose one",
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
        r"Train one: (lookalike finetune .* TRAIN TEST)",
        lambda p, found, argv: [*pasted(p, found, argv), *TINY, "--out", str(p.out / "tuned")],
    ),
    "labels that are not there": Remedy(
        lambda p: ["evaluate", str(p.run)], r"(lookalike evaluate) ENCODER TRAIN TEST",
        lambda p, found, argv: [*argv, *p.pair, "--workers", "0", "--protocols", "knn"], 2,
    ),
    "features and an encoder": Remedy(
        lambda p: ["evaluate", str(p.run), *p.pair, "--features", str(p.out / "there.npz"), "--protocols", "knn"],
        r"(--features) takes the place of ENCODER TRAIN TEST and --also\. Leave them out\.",
        lambda p, found, argv: ["embed", str(p.run), p.pair[0], "--workers", "0", "--out", str(p.out / "b.npz")], 2,
    ),
    "a queue of no whole batches": Remedy(
        trains("moco_v2", "--queue", "20", "--hidden-dim", "8"), r"Give (--queue) (\d+)\.", instead("20", "{1}")
    ),
    "more prototypes than images": Remedy(
        trains("swav", "--prototypes", "500", "--hidden-dim", "8"), r"Give (--prototypes) (\d+) or so",
        instead("500", "{1}"),
    ),
    "a teacher of other image sizes": Remedy(
        distills("--teacher", "{p.run}", "--teacher-size", "41"),
        r"The nearest sizes that work: (\d+).*Give (--teacher-size)\.",
        instead("41", "{0}"),
    ),
    "a comparison without the teacher": Remedy(
        lambda p: ["compare", str(p.photos), "distill", "--train", p.pair[0], "--test", p.pair[1], *TINY, "--backbone",
                   tiny.CNN, "--seeds", "1", "--protocols", "knn", "--out", str(p.out / "compare")],
        r"Give (--teacher), or leave distill out", more("{0}", "{place.run}"), 2,
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
        trains("simclr", "--checkpoint-activations"), r"a smaller batch in more micro-batches \((--accumulate)\)",
        lambda p, found, argv: [*(a for a in argv if a != "--checkpoint-activations"), found[1], "2"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run's folder, and a file of weights."""
    root = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    encoders.save(Folder(root / "run"), create(tiny.VIT, image_size=32), method="simclr", epochs=1, dtype=torch.uint8)
    torch.save(timm.create_model(tiny.CNN, num_classes=3).state_dict(), root / "weights.pth")
    return root / "run", root / "weights.pth"


@pytest.fixture
def place(files: tuple[Path, Path], labelled: Path, photos: Path, tmp_path: Path) -> Place:
    run = shutil.copytree(files[0], tmp_path / "run")
    out = tmp_path / "out"
    out.mkdir()
    for name in ("there.npz", "there.png", "there.json", "neighbours.png"):
        (out / name).write_text("old")
    return Place(labelled, photos, run, files[1], out)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("lookalike.evaluation.side_by_side.SECONDS", 0.0)
    monkeypatch.setattr("lookalike.timing.WARM_STEPS", 1)
    monkeypatch.setattr("lookalike.timing.TIMED_STEPS", 1)


@pytest.mark.parametrize("case", REMEDIES)
def test_what_a_message_advises_works(case: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    remedy = REMEDIES[case]
    if "fetched" in case:
        torch.save(timm.create_model("test_resnet").state_dict(), place.out / "hand.pth")
    argv = remedy.argv(place)
    assert cli.main(argv) == remedy.code
    said = capsys.readouterr()
    message = re.sub(r"\s*\n[│ ]*", " ", said.err + said.out)
    found = re.search(remedy.advice, message)
    assert found, message
    after = remedy.follow(place, found, argv)
    assert after != argv
    assert cli.main(after) == 0, capsys.readouterr().err


# ---------------------------------------------------------------- what is named exists


def literals() -> Iterator[tuple[str, str]]:
    """All texts in the source, with the file that they are in; what is put into one is a NUL."""
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inside: set[int] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [str(v.value) if isinstance(v, ast.Constant) else "\0" for v in node.values]
                inside |= {id(v) for v in ast.walk(node) if v is not node}
                yield path.name, "".join(parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
                yield path.name, node.value


def fields_of(cls: type, before: str = "") -> Iterator[str]:
    """The options of a dataclass, those of the dataclasses within it included."""
    for f in dataclasses.fields(cls):
        name = f"{before}{f.name.replace('_', '-')}"
        yield name
        default = f.default if f.default is not dataclasses.MISSING else None
        for part in default if isinstance(default, tuple) else (default,):
            if dataclasses.is_dataclass(part):
                number = "0." if isinstance(default, tuple) else ""
                yield from fields_of(type(part), f"{name}.{number}")


def options() -> set[str]:
    """Every option that a command takes."""
    verbs = [value for value in vars(cli).values() if dataclasses.is_dataclass(value) and isinstance(value, type)]
    found = {name for cls in (*verbs, Options) for name in fields_of(cls)}
    for name in METHODS:
        found |= set(fields_of(get_method(name).Config))
    return found | {f"no-{name}" for name in found} | {"help", "version", "debug", "from", "no-report"}


OF_OTHERS = {"option", "nnodes", "shm-size", "mlp", "moco-t", "aug-plus", "cos"}
"""A word for any; torchrun's, docker's, and those of facebookresearch/moco."""


def test_no_text_names_an_option_that_no_command_has() -> None:
    known, strange = options(), []
    for file, text in literals():
        if " " not in text:  # what is given to git, and names that are looked for
            continue
        for name in re.findall(r"(?<![\w-])--([a-z][a-z0-9]*(?:[-.][a-z0-9]+)*)(?![\w\0-])", text):
            if re.sub(r"\.\d+\.", ".0.", name) not in known:
                strange.append((file, name, text[:80]))
    assert not [row for row in strange if row[1] not in OF_OTHERS]


def test_no_text_names_a_command_that_there_is_not() -> None:
    verbs = {"demo", "pretrain", "distill", "finetune", "predict", "evaluate", "compare", "embed", "show", "report",
             "plot", "views", "check", "list", "thin", "VERB"}  # fmt: skip
    found = {
        (file, verb)
        for file, text in literals()
        for verb in re.findall(r"(?:`|: |Try: |^  )lookalike ([a-zA-Z]+)", text)
    }
    assert {verb for _, verb in found} >= {"evaluate", "finetune", "list", "report"}
    assert not [row for row in found if row[1] not in verbs]


def test_the_sweep_finds_an_option_that_is_not_there() -> None:
    known = options()
    assert {"encoder-backbone", "teacher-backbone", "optim.lr", "views.0.size", "overwrite", "no-report"} <= known
    assert "backbone-of-the-encoder" not in known
