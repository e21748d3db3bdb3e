"""Odd inputs of `support.corpus` through the commands: what is said, by whom, and what becomes of each file.

The first cases of each kind belong to the suite, all others are slow. One case again:
`python -m pytest "tests/test_corpus.py::test_odd_input[folder-17]"`.
"""

import faulthandler
import hashlib
import io
import json
import logging
import os
import re
import signal
import sys
import tempfile
import traceback
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
import torch
from support import corpus, odd_datasets, odd_files, odd_runs, odd_weights
from support.corpus import Case, File
from support.odd_files import FORGED

import lookalike
from lookalike import backbones, cli, encoders, training
from lookalike.cli import dispatch
from lookalike.commands.check import check
from lookalike.data import BrokenImage, Source, open_maybe_labelled, open_source
from lookalike.images import promote
from lookalike.methods.simclr import SimCLR
from lookalike.runs import Folder, Run

SUITE = {"folder": 8, "list": 5, "refused": 15, "labelled": 7, "dataset": 12, "weights": 25, "run": 12}
"""How many cases of each kind the suite tries: about a minute of one core."""
ALL = {"folder": 90, "list": 50, "refused": 30, "labelled": 60, "dataset": 96, "weights": 150, "run": 150}
SECONDS = 120
"""A case that takes longer hangs."""
LONGEST = 30_000
"""Characters that one command may print."""
BACKBONE = "test_byobnet"
TINY = ["--backbone", BACKBONE, "--image-size", "32", "--hidden-dim", "16", "--workers", "0", "--no-report"]
FILTERS = list(warnings.filters)
"""What the libraries themselves, and this package, made of Python's when they were imported."""
PACKAGE = str(Path(lookalike.__file__).parent)


# ---------------------------------------------------------------- what a command says


@dataclass
class Heard:
    """What one command left behind."""

    name: str
    code: int = 0
    text: str = ""
    """Printed by Python's `sys.stdout` and `sys.stderr`: this package's lines."""
    beneath: str = ""
    """Written to the file descriptors by libraries."""
    warned: list[str] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)
    error: BaseException | None = None
    message: str = ""

    @property
    def worked(self) -> bool:
        return self.code == 0


class Hung(BaseException):
    """The time of a case is over. No `except Exception` may catch it."""


class _Listener(logging.Handler):
    """Notes records that a handler, or the last resort, would print."""

    def __init__(self, heard: Heard) -> None:
        super().__init__(logging.NOTSET)
        self.heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        log: logging.Logger | None = logging.getLogger(record.name)
        found: list[logging.Handler] = []
        while log is not None:
            found += [h for h in log.handlers if h is not self and not type(h).__module__.startswith("_pytest")]
            log = log.parent if log.propagate else None
        if any(not isinstance(h, logging.NullHandler) for h in found) or (
            not found and record.levelno >= logging.WARNING
        ):
            self.heard.logged.append(f"{record.name}: {record.getMessage()}")


@contextmanager
def listening(name: str) -> Iterator[Heard]:
    """Catches all that is printed, warned and logged, and by whom."""
    heard, out = Heard(name), io.BytesIO()
    streams, kept = (sys.stdout, sys.stderr), (os.dup(1), os.dup(2))
    logs = [logging.getLogger(), *(log for log in map(logging.getLogger, list(logging.root.manager.loggerDict))
                                   if not log.propagate)]  # fmt: skip
    listener = _Listener(heard)
    with tempfile.TemporaryFile() as file, warnings.catch_warnings(record=True) as warned:
        warnings.filters[:] = FILTERS
        warnings.simplefilter("always", append=True)
        for silent in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", silent)  # as Python does on a console
        for log in logs:
            log.addHandler(listener)
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        console = [io.TextIOWrapper(out, "utf-8", e, write_through=True) for e in ("strict", "backslashreplace")]
        sys.stdout, sys.stderr = console
        try:
            yield heard
        finally:
            sys.stdout, sys.stderr = streams
            for number, copy in zip((1, 2), kept):
                os.dup2(copy, number)
                os.close(copy)
            for log in logs:
                log.removeHandler(listener)
            file.seek(0)
            heard.beneath = file.read().decode(errors="replace")
            heard.text = out.getvalue().decode()
            for half in console:
                half.detach()  # it would close what was read
            heard.warned = [f"{w.category.__name__} {w.filename}:{w.lineno}: {w.message}" for w in warned]


def command(*argv: object) -> Heard:
    """Runs `lookalike ...` and checks how it behaves, whatever it says."""
    words = [str(a) for a in argv]
    errors: list[Exception] = []
    original = dispatch.message

    def noting(error: Exception) -> str:
        errors.append(error)
        return original(error)

    dispatch.message = noting
    try:
        with listening("lookalike " + " ".join(words)) as heard:
            heard.code = cli.main(words)
    finally:
        dispatch.message = original
    heard.error = errors[0] if errors else None
    if heard.error or heard.code == 2:
        heard.message = heard.text[heard.text.rfind("error: ") :]
    return checked(heard)


def call(name: str, work: Callable[[], object]) -> Heard:
    """The same for a Python function: what it raises is its message."""
    with listening(name) as heard:
        try:
            work()
        except Exception as error:
            heard.code, heard.error, heard.message = 1, error, f"error: {dispatch.message(error)}"
    heard.text = ""  # names are made fit for a terminal where the command line prints them
    return checked(heard)


def checked(heard: Heard) -> Heard:
    """What holds for every command: our own words only, none of them forged, and a remedy where it failed."""
    lines = [ascii(line)[1:301] for line in f"{heard.text}\n{heard.beneath}".split("\n")]
    said = "\n".join([f"{ascii(heard.name)[:500]}: {heard.code}", *lines[-40:]])
    assert heard.code in (0, 1, 2), said
    assert not heard.beneath, f"a library writes to the console: {said}"
    assert not heard.warned, f"a library warns: {heard.warned[:3]}\n{said}"
    assert not heard.logged, f"a library logs: {heard.logged[:3]}\n{said}"
    assert "Traceback" not in heard.text, said
    assert len(heard.text) < LONGEST, f"{len(heard.text)} characters: {said}"
    clean(heard.text, said)
    if heard.code:
        assert heard.message, f"no message: {said}"
        assert len(heard.message) < LONGEST, f"{len(heard.message)} characters: {said}"
        where = "".join(traceback.format_exception(heard.error))[-3000:] if heard.error else ""
        assert has_remedy(heard.message), f"no remedy: {ascii(heard.message)[:1000]}\n{where}"
        assert raised_by_us(heard.error), f"another library's error: {said}\n{where}"
    return heard


def clean(text: str, where: str) -> None:
    """No character that a terminal obeys, and no line that a file's name began."""
    odd = {c for c in text if unicodedata.category(c) == "Cc" and c != "\n"}
    assert not odd, f"control characters {odd}: {where!a}"
    forged = [line for line in re.split(r"[\n\u2028\u2029]", text) if line.startswith(FORGED)]
    assert not forged, f"forged lines: {forged!a}"


def has_remedy(message: str) -> bool:
    """Whether a message is more than one sentence, the last of them whole."""
    text = message.strip()
    whole = text.endswith((".", "?", ")", ">")) or "lookalike " in text.splitlines()[-1]  # a command to be pasted
    return whole and bool(re.search(r"[.?;:,](\s|$).*\S", text.removeprefix("error: "), re.DOTALL))


def raised_by_us(error: BaseException | None) -> bool:
    """Whether an error comes from our own lines; the system's are put into words where they are shown."""
    if error is None or isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno):
        return True
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_code.co_filename.startswith(PACKAGE)


@contextmanager
def in_time(case: str) -> Iterator[None]:
    """A case that hangs fails; one that hangs in a library ends the process, with a word about where."""

    def over(number: int, frame: FrameType | None) -> None:
        raise Hung(f"{case} takes longer than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    with os.fdopen(os.dup(2), "w") as console:
        faulthandler.dump_traceback_later(2 * SECONDS, exit=True, file=console)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def contents(folder: Path) -> dict[str, object]:
    """All that lies below a folder: kinds, and the bytes of files. Links are not followed."""
    found: dict[str, object] = {}
    for path, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            each = os.path.join(path, name)
            if os.path.islink(each):
                found[each] = os.readlink(each)
            elif os.path.isfile(each):
                with open(each, "rb") as file:
                    found[each] = hashlib.file_digest(file, "sha256").hexdigest()
            else:
                found[each] = os.lstat(each).st_mode
    return found


# ---------------------------------------------------------------- what becomes of each file


def place_of(path: str) -> str:
    """A file by its real folder: links between folders make several names for it."""
    path = os.path.normpath(path)
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def accounted(
    case: Case, source: Source, broken: Sequence[tuple[str, str]], files: Sequence[File], root: Path
) -> set[str]:
    """Checks that each file is used as it is, or named with a reason; returns the names of the broken ones."""
    expected = Counter(place_of(os.path.join(root, file.name)) for file in files)
    found = Counter(place_of(source.file(i) or "") for i in range(len(source)))
    assert found == expected, f"not found {dict(expected - found)!a}, unexpected {dict(found - expected)!a}"
    by_place = {place_of(source.file(i) or ""): i for i in range(len(source))}
    names = {name for name, _ in broken}
    for file in files:
        i = by_place[place_of(os.path.join(root, file.name))]
        told = f"{ascii(file.name)[:300]} ({file.about})"
        if file.fate != "either":
            assert (source.name(i) in names) == (file.fate == "broken"), f"{told} should be {file.fate}: {dict(broken)}"
        if source.name(i) not in names and file.look is not None:
            looks_right(source, i, file, told)
    reasons(broken)
    return names


def reasons(broken: Sequence[tuple[str, str]]) -> None:
    for name, reason in broken:
        assert reason.strip(), ascii(name)
        assert len(reason) < 1000, ascii(reason)[:1000]


def looks_right(source: Source, i: int, file: File, told: str) -> None:
    assert file.look is not None
    image = promote(source.read(i, None), torch.float32).permute(1, 2, 0).numpy()
    look = file.look if source.channels == 3 else (file.look @ np.array([0.299, 0.587, 0.114]))[..., None]
    assert image.shape == look.shape, f"{told} is {image.shape}, expected {look.shape}"
    off = float(np.abs(image - look).mean())
    assert off <= file.near + 0.005 * (source.channels == 1), f"{told} is wrong by {off:.4f}, {file.near} is allowed"


def only_named(log: Path, broken: Iterable[str]) -> None:
    """Checks that the broken images which a run's log names are so."""
    clean(text := log.read_text(encoding="utf-8"), str(log))
    for line in re.findall(r"^broken image (.+)", text, re.MULTILINE):
        assert any(line.startswith(f"{name}: "[:1000]) for name in broken), line[:1000]


def through_all_commands(case: Case, given: Path, spare: Path) -> None:
    """Check, two steps of training, embed, evaluate and show, each with what the one before found."""
    before = contents(given.parent)
    data = os.path.relpath(given) if case.index % 2 else str(given)
    data = f"./{data}" if data.startswith("-") else data
    found = command("check", data, "--channels", case.channels, "--workers", 0, "--no-timing", "--out", "check.json")
    assert found.worked, found.text
    content = json.loads(Path("check.json").read_text())["images"]
    assert content["images"] == len(case.files)
    source = open_maybe_labelled(given, case.channels)
    root = given if given.is_dir() else given.parent
    broken = accounted(case, source, [tuple(pair) for pair in content["broken"]], case.files, root)
    good = [source.name(i) for i in range(len(source)) if source.name(i) not in broken]
    run = trained(case, data, good, broken)
    made = command("embed", run or spare, data, "--out", "features.npz", "--workers", 0)
    if case.channels == 3 or run:
        assert made.worked == bool(good), made.text
        if good:
            table = np.load("features.npz")
            assert table["names"].tolist() == good
            assert np.isfinite(table["features"]).all()
    shown = command("show", run or spare, data, "--out", "show", "--workers", 0, "--image-size", 32)
    assert shown.worked == bool(good) or (case.channels != 3 and not run), shown.text
    if case.test is not None:
        judged(case, run or spare)
    assert contents(given.parent).items() >= before.items()
    expected = {"check.json", "run", "features.npz", "show", "evaluation.json", "data beside.png"}
    assert {path.name for path in Path.cwd().iterdir()} <= expected | {given.parent.name}


def refused_by_all_commands(case: Case, given: Path, spare: Path) -> None:
    """Each says what is wrong before it writes anything."""
    before = contents(given.parent) if given.parent != Path("/dev") else {}
    data = given if case.index % 2 else os.path.relpath(given)
    for argv in (["check", data, "--out", "check.json"], ["pretrain", "simclr", data, "--out", "run", *TINY],
                 ["embed", spare, data, "--out", "features.npz"], ["show", spare, data, "--out", "show"],
                 ["evaluate", spare, data, data, "--out", "evaluation.json"]):  # fmt: skip
        assert not command(*argv).worked, str(case)
    assert [path.name for path in Path.cwd().iterdir()] == ["data"]
    assert not before or contents(given.parent) == before


def trained(case: Case, data: str, good: Sequence[str], broken: set[str]) -> str | None:
    """Two steps of SimCLR; the run's folder where it worked."""
    batch = max(2, min(8, len(case.files) // 2))
    epochs = 1 if len(case.files) // batch >= 2 else 2
    probe = (
        ["--probe", case.data, case.test] if case.test is not None and case.labels == "good" and case.index % 2 else []
    )
    found = command("pretrain", "simclr", data, "--out", "run", *TINY, "--epochs", epochs, "--batch-size", batch,
                    "--max-broken", 1, "--channels", case.channels, *probe)  # fmt: skip
    may = len(case.files) >= 2 and bool(good)
    if not probe:
        assert found.worked == may, found.text
    if not found.worked:
        return None
    only_named(Path("run/log.txt"), broken)
    assert Folder("run").rows()[-1]["step"] >= 2
    return "run"


def judged(case: Case, encoder: object) -> None:
    """Evaluates on labelled folders; where it works each test image is counted, or named as broken."""
    assert case.test is not None
    found = command(
        "evaluate", encoder, case.data, case.test, "--protocols", "knn", "--workers", 0, "--out", "evaluation.json"
    )
    if case.labels == "refused":
        assert not found.worked, found.text
        return
    assert found.worked, found.text
    (entry,) = json.loads(Path("evaluation.json").read_text())
    sources = [open_source(data, pixels=3) for data in (case.data, case.test)]
    for key, source, files in zip(("train_images", "test_images"), sources, (case.files, case.test_files)):
        used = 0
        for i in range(len(source)):
            with suppress(BrokenImage):
                source.read(i, None)
                used += 1
        assert entry[key] == used
        assert sum(f.fate == "used" for f in files) <= used <= sum(f.fate != "broken" for f in files)


# ---------------------------------------------------------------- the kinds


def try_folder(index: int, spare: Path) -> None:
    place = _inner()
    through_all_commands(case := corpus.folder_case(place, index), case.data, spare)


def try_list(index: int, spare: Path) -> None:
    place = _inner()
    through_all_commands(case := corpus.list_case(place, index), case.data, spare)


def try_labelled(index: int, spare: Path) -> None:
    place = _inner()
    through_all_commands(case := corpus.labelled_case(place, index), case.data, spare)


def try_refused(index: int, spare: Path) -> None:
    place = _inner()
    refused_by_all_commands(case := corpus.refused_case(place, index), case.data, spare)


def _inner() -> Path:
    place = Path.cwd() / "data"
    place.mkdir()
    return place


def try_dataset(index: int, spare: Path) -> None:
    dataset, case = odd_datasets.dataset_case(Path.cwd(), index)
    names: list[str] = []
    broken: list[tuple[str, str]] = []

    def look() -> None:
        source = open_maybe_labelled(dataset)
        found = check(source, say=print)
        print("\n".join(found.lines()))
        names.extend(source.name(i) for i in range(len(source)))
        broken.extend(found.train.broken)

    looked = call("check", look)
    batch = max(2, min(4, len(case.files) // 2))

    def train() -> None:
        views = SimCLR.Config(hidden_dim=16)
        training.pretrain(Run(data=dataset, method=views, backbone=BACKBONE, image_size=32, batch_size=batch, workers=0,
                              epochs=1 if len(case.files) // batch >= 2 else 2, out="run", max_broken=1.0))  # fmt: skip

    learnt = call("pretrain", train)
    made: list[list[str]] = []
    embedded = call("embed", lambda: made.append(lookalike.embed(spare, dataset, out="features.npz").names))
    shown = call("show", lambda: lookalike.show(spare, dataset, out="show"))
    call("evaluate", lambda: lookalike.evaluate(spare, dataset, dataset, protocols=["knn"], out="e.json"))
    if case.refused:
        assert not any(heard.worked for heard in (looked, learnt, embedded, shown))
        return
    wrong_type = any(file.fate == "either" for file in case.files)
    if not looked.worked:  # an item that is no image is a mistake in the program
        assert wrong_type, looked.message
        return
    reasons(broken)
    bad = {name for name, _ in broken}
    for file in case.files:
        if file.fate != "either":
            assert (file.name in bad) == (file.fate == "broken"), (
                f"{file.name} ({file.about}) should be {file.fate}: {broken}"
            )
    good = [name for name in names if name not in bad]
    assert embedded.worked == bool(good), embedded.message
    assert made == ([good] if good else [])
    assert learnt.worked == (bool(good) and len(names) >= 2), learnt.message
    assert shown.worked == bool(good), shown.message
    if learnt.worked:
        only_named(Path("run/log.txt"), bad)


def try_weights(index: int, spare: Path) -> None:
    weights, case, says = odd_weights.weights_case(Path.cwd(), index, spare)
    before = contents(Path.cwd())
    data = _some_images()
    network = backbones.create(BACKBONE, image_size=32)
    right = encoders.load(spare).export_state()

    found = call("start_from", lambda: encoders.start_from(network, weights))
    if found.worked:
        assert says != "refused", str(case)
        loaded = network.export_state()
        wrong = [k for k, v in loaded.items() if not torch.allclose(v.double(), right[k].double(), 2e-2, 2e-2)]
        assert not wrong, f"{len(wrong)} of {len(right)} tensors are others, such as {wrong[0]}: {case}"
    else:
        assert says != "same", found.message
    learnt = command(
        "pretrain", "simclr", data, "--init", weights, "--out", "run", *TINY, "--epochs", 2, "--batch-size", 4
    )
    if "text" not in case.about[0]:
        assert learnt.worked <= found.worked, learnt.text
    for argv in (["embed", weights, data, "--out", "features.npz"], ["show", weights, data, "--what", "neighbours"],
                 ["evaluate", weights, data, data, "--protocols", "knn", "--out", "e.json"]):  # fmt: skip
        used = command(*argv, "--workers", 0)
        if used.worked and argv[0] == "embed":
            assert np.isfinite(np.load("features.npz")["features"]).all()
    assert contents(Path.cwd()).items() >= before.items()


def try_run(index: int, spare: Path) -> None:
    run, case = odd_runs.run_case(Path.cwd(), index, spare)
    data = spare.parent / "images"
    treasure, foreign = contents(Path.cwd() / "treasure"), [p for p in run.rglob("*") if _is_mine(p)]
    everything = contents(run)
    for argv in (
        ["report", run, "--out", "page.html", "--points", 10], ["embed", run, data, "--out", "features.npz"],
        ["show", run, data, "--what", "neighbours"], ["evaluate", run, data, data, "--protocols", "knn"],
        ["plot", run, "--out", "plot.png"],
    ):  # fmt: skip
        command(*argv, *([] if argv[0] == "plot" else ["--workers", 0]))
        assert contents(Path.cwd() / "treasure") == treasure, argv[0]
    assert {path for path in everything if "checkpoints" in path or _is_mine(Path(path))} <= contents(run).keys()
    if index % 2:
        command("pretrain", "--resume", "--out", run, "--epochs", 3, "--no-report", "--workers", 0)
    else:
        command("pretrain", "simclr", data, "--out", run, "--overwrite", *TINY, "--epochs", 1, "--batch-size", 4)
    command("report", run, "--points", 10, "--workers", 0)
    assert contents(Path.cwd() / "treasure") == treasure
    assert all(path.read_text() == "MINE" for path in foreign)
    with suppress(OSError):
        clean((run / "log.txt").read_text(errors="replace"), "log.txt") if "log.txt" not in str(case) else None


def _is_mine(path: Path) -> bool:
    """Whether somebody else put a file there."""
    return path.is_file() and path.read_bytes()[:10] == b"MINE"


def _some_images() -> Path:
    """Six labelled images, of which all can be read."""
    place = Path.cwd() / "images"
    write_images(place)
    return place


def write_images(place: Path) -> None:
    for i in range(8):
        made = odd_files.png(corpus.drawn("some", i))
        path = place / f"class {i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made.content)


KINDS: dict[str, Callable[[int, Path], None]] = {
    "folder": try_folder, "list": try_list, "refused": try_refused, "labelled": try_labelled, "dataset": try_dataset,
    "weights": try_weights, "run": try_run,
}  # fmt: skip


@pytest.fixture(scope="module")
def spare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all files, for commands that need one, and to be damaged."""
    place = tmp_path_factory.mktemp("spare")
    torch.set_num_threads(1)
    images, run = place / "images", place / "run"
    write_images(images)
    options = [*TINY, "--epochs", "2", "--batch-size", "4", "--save-every", "1"]
    assert cli.main(["pretrain", "simclr", str(images), "--out", str(run), *options]) == 0
    assert cli.main(["evaluate", str(run), str(images), str(images), "--protocols", "knn", "--workers", "0"]) == 0
    assert cli.main(["report", str(run), "--workers", "0", "--points", "10"]) == 0
    return run


@pytest.mark.parametrize(
    ("kind", "index"),
    [
        pytest.param(kind, index, id=f"{kind}-{index}", marks=() if index < SUITE[kind] else pytest.mark.slow)
        for kind in KINDS
        for index in range(ALL[kind])
    ],
)
def test_odd_input(kind: str, index: int, spare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file is used or named with a reason; no traceback, no hang, nobody else's words, nothing touched."""
    monkeypatch.chdir(tmp_path)
    try:
        with in_time(f"{kind} {index}"):
            KINDS[kind](index, spare)
    except (Exception, Hung) as error:
        error.add_note(f'Again: python -m pytest "tests/test_corpus.py::test_odd_input[{kind}-{index}]"')
        raise
    assert not list(tmp_path.rglob("TRAPPED"))
