"""`lookalike doctor`: what a bug report needs of a machine and an installation, and known problems of both.

Libraries are imported and GPUs tried in another process: what is broken may end that one, and is reported all the same.
"""

import csv
import importlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import cache_folder
from ..printing import brief, counted, size_of
from ..runs.environment import commit, here, version

if TYPE_CHECKING:
    from packaging.requirements import Requirement

FORMAT = 1
SHARED = Path("/dev/shm")
LEAST_SHARED = 2**30
"""Bytes of shared memory: a batch of 256 images of 256 pixels has 48 MiB, and each of 8 workers is two ahead."""
LEAST_DISK = 2 * 2**30
"""Bytes of disk: the checkpoints of a ResNet-50 and the next one, which is written before they go."""
LEAST_MEMORY = 2 * 2**30
"""Bytes of memory: torch and a loading process have half of it."""
LONGEST_TRY = 300
"""Seconds for all imports; a slow network file system takes a minute."""
LONGEST_ERROR = 500
"""Characters of another package's error."""
MODULES = {"pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn", "lightning": "lightning.pytorch"}
"""What a package is imported as, where that is not its name."""
ON_TORCH = ("torchvision", "timm", "lightning")
"""What cannot be imported without torch."""


@dataclass(frozen=True)
class Library:
    """A package that lookalike needs."""

    name: str
    needed: str
    """The versions that work, as `>=2.11`."""
    version: str | None
    """None where it is not installed."""
    error: str | None = None
    """Why it cannot be imported."""


@dataclass(frozen=True)
class Extra:
    """An optional part of lookalike."""

    name: str
    missing: tuple[str, ...]
    """The packages of it that are not installed, or too old."""

    @property
    def command(self) -> str:
        return f"pip install 'lookalike[{self.name}]'"


@dataclass(frozen=True)
class Gpu:
    """A GPU, as torch or NVIDIA's driver sees it."""

    name: str
    memory: int | None
    """Bytes."""
    free: int | None
    driver: str | None = None
    capability: str | None = None
    """NVIDIA's number of its generation."""
    error: str | None = None
    """Why torch cannot compute on it."""


@dataclass(frozen=True)
class Place:
    """A folder, and what room there is."""

    path: str
    total: int
    free: int
    writable: bool


@dataclass(frozen=True)
class Facts:
    """What is so on this machine."""

    lookalike: str
    commit: str | None
    installed_in: str
    python: str
    system: str
    processor: str
    cores: int
    usable_cores: int
    """Those that this process may run on."""
    memory: int
    """Bytes of the machine."""
    free_memory: int
    """Bytes for new data: within a container at most what is left of its limit."""
    shared_memory: Place | None
    """None where the system has none to look at."""
    current_folder: Place
    cache_folder: Place
    libraries: tuple[Library, ...]
    extras: tuple[Extra, ...]
    cuda: str | None
    """The version that torch was built for."""
    gpus: tuple[Gpu, ...]
    """Those that torch sees."""
    warnings: tuple[str, ...]
    """What torch says about them."""
    driver_gpus: tuple[Gpu, ...]
    """Those that nvidia-smi sees."""
    driver_error: str | None
    """What nvidia-smi says where it fails."""
    visible_gpus: str | None
    """CUDA_VISIBLE_DEVICES."""
    numba_cache: str | None
    """Where compiled code is kept; None where no place can be written to."""
    tried: bool
    """Whether the process that tries the libraries came to its end."""


@dataclass(frozen=True)
class Problem:
    """A known problem, and what to do."""

    found: str
    advice: str


@dataclass(frozen=True)
class Diagnosis:
    """What `lookalike doctor` found."""

    facts: Facts
    problems: tuple[Problem, ...]

    def content(self) -> dict[str, object]:
        """The same as data."""
        content: dict[str, Any] = {"format": FORMAT} | asdict(self)
        for extra, named in zip(self.facts.extras, content["facts"]["extras"], strict=True):
            named["command"] = extra.command
        return content

    def lines(self) -> list[str]:
        """The same for a person to read."""
        return [*_machine_lines(self.facts), "", *_package_lines(self.facts), "", *_problem_lines(self.problems)]


def doctor() -> Diagnosis:
    """Reports versions, devices, memory, disks, extras and known problems, for a bug report. It sends nothing.

    It takes some seconds, for it imports all libraries.
    """
    facts = _tried(_facts())
    return Diagnosis(facts, tuple(problem for rule in RULES for problem in rule(facts)))


# ---------------------------------------------------------------- facts


def _facts() -> Facts:
    """All that can be said without importing a library."""
    from ..devices import free_memory  # with torch, which help must not import

    libraries, extras = _packages()
    driver_gpus, driver_error = _driver_gpus()
    return Facts(
        lookalike=version(), commit=commit(), installed_in=_homely(Path(__file__).parents[1]),
        python=f"{platform.python_version()} ({platform.python_implementation()})", system=platform.platform(),
        processor=platform.machine(), cores=os.cpu_count() or 1, usable_cores=_usable_cores(),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), free_memory=free_memory(),
        shared_memory=_place(SHARED) if SHARED.is_dir() else None, current_folder=_place(Path(here() or "/")),
        cache_folder=_place(cache_folder().absolute()), libraries=libraries, extras=extras, cuda=None, gpus=(),
        warnings=(), driver_gpus=driver_gpus, driver_error=driver_error,
        visible_gpus=os.environ.get("CUDA_VISIBLE_DEVICES"), numba_cache=None, tried=False,
    )  # fmt: skip


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _homely(path: Path | str) -> str:
    """A path as it may be shown to others: without the name of the user."""
    home = os.path.expanduser("~")
    text = os.path.abspath(path)
    return f"~{text[len(home) :]}" if text.startswith(f"{home}/") and home != "/" else text


def _place(path: Path) -> Place:
    """A folder, and the room of the nearest one above it where it is not there yet."""
    there = next(each for each in (path, *path.parents) if each.is_dir())
    usage = shutil.disk_usage(there)
    return Place(_homely(path), usage.total, usage.free, os.access(there, os.W_OK))


def _packages() -> tuple[tuple[Library, ...], tuple[Extra, ...]]:
    """What lookalike needs, and its extras, by the metadata of the installed package; nothing where it has none."""
    from packaging.requirements import Requirement

    try:
        found = metadata.metadata("lookalike")
    except metadata.PackageNotFoundError:
        return (), ()
    needed = [Requirement(text) for text in found.get_all("Requires-Dist") or []]
    libraries = [
        Library(each.name, str(each.specifier), _installed(each.name)) for each in needed if _asked_by(each, "")
    ]
    extras = [
        Extra(name, tuple(str(each) for each in _of_extra(needed, name) if not _is_met(each)))
        for name in found.get_all("Provides-Extra") or []
    ]
    return tuple(sorted(libraries, key=lambda each: each.name != "torch")), tuple(extras)


def _asked_by(requirement: "Requirement", extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _of_extra(needed: "list[Requirement]", name: str) -> "Iterator[Requirement]":
    """What an extra adds, with what the extras that it names add."""
    from packaging.requirements import Requirement

    for each in needed:
        if _asked_by(each, name) and not _asked_by(each, ""):
            if each.name == "lookalike":
                for other in sorted(each.extras):
                    yield from _of_extra(needed, other)
            else:
                yield Requirement(f"{each.name}{each.specifier}")


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _is_met(requirement: "Requirement") -> bool:
    found = _installed(requirement.name)
    return found is not None and _suits(found, str(requirement.specifier))


def _suits(found: str, needed: str) -> bool:
    """Whether a version is one of those needed; a vendor's build of a version before its release counts as that one."""
    from packaging.requirements import Requirement
    from packaging.version import InvalidVersion, Version

    try:
        return Version(found).base_version in Requirement(f"x{needed}").specifier
    except InvalidVersion:
        return True


def _driver_gpus() -> tuple[tuple[Gpu, ...], str | None]:
    """The GPUs that NVIDIA's driver knows; where it is broken, what it says."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return (), None
    asked = "--query-gpu=name,memory.total,memory.free,driver_version"
    try:
        done = subprocess.run(
            [program, asked, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=30,
            errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return (), brief(str(error), LONGEST_ERROR)
    if done.returncode:
        return (), brief((done.stdout + done.stderr).strip(), LONGEST_ERROR) or f"it ended with {done.returncode}"
    rows = [row for row in csv.reader(done.stdout.splitlines(), skipinitialspace=True) if len(row) == 4]
    return tuple(Gpu(name, _mebibytes(total), _mebibytes(free), driver) for name, total, free, driver in rows), None


def _mebibytes(text: str) -> int | None:
    """Bytes of a number of MiB; None where the driver does not know, as of parts of a GPU."""
    return int(text) * 2**20 if text.strip().isdigit() else None


# ---------------------------------------------------------------- what is tried in another process


def _tried(facts: Facts) -> Facts:
    """The facts, with what comes of importing the libraries and of computing on the GPUs."""
    modules = {module_of(each.name): each.name for each in facts.libraries if each.version is not None}
    code = "import sys; sys.path[:] = sys.argv[2:]; from lookalike.commands.doctor import answer; answer(sys.argv[1])"
    command = [sys.executable, "-c", code, ",".join(modules), *sys.path]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_TRY, errors="replace")
        output, words, end = done.stdout, done.stderr, done.returncode
    except subprocess.TimeoutExpired as error:
        output, words, end = _text(error.stdout), "", None
    answers = dict(json.loads(line) for line in output.splitlines())
    steps = [*modules, "cuda", "numba_cache"]
    for step in steps:
        if step not in answers:  # it ended the process
            answers[step] = {"error": _ending(end, words)}
            break
    errors = {modules[step]: answers[step].get("error") for step in modules if step in answers}
    cuda = answers.get("cuda", {})
    broken = [] if cuda.get("error") is None or errors.get("torch") is not None else [cuda["error"]]
    drivers = {gpu.driver for gpu in facts.driver_gpus}
    driver = drivers.pop() if len(drivers) == 1 else None
    return replace(
        facts,
        libraries=tuple(replace(each, error=errors.get(each.name)) for each in facts.libraries),
        cuda=cuda.get("version"), gpus=tuple(Gpu(**{"driver": driver} | gpu) for gpu in cuda.get("gpus", ())),
        warnings=(*cuda.get("warnings", ()), *broken),
        numba_cache=_homely(kept) if (kept := answers.get("numba_cache", {}).get("folder")) else None,
        tried="numba_cache" in answers,
    )  # fmt: skip


def _text(output: object) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else str(output or "")


def _ending(end: int | None, words: str) -> str:
    """How the process ended, which had no time to say so."""
    if end is None:
        return f"it took more than {LONGEST_TRY} seconds"
    how = f"it ended the process with {signal.Signals(-end).name if end < 0 else end}"
    last = words.strip().splitlines()[-1:]
    return brief(": ".join([how, *last]), LONGEST_ERROR)


def module_of(package: str) -> str:
    """What a package is imported as."""
    return MODULES.get(package.lower(), package.replace("-", "_"))


def answer(modules: str) -> None:
    """The other process: imports modules and tries GPUs, and writes a line of JSON on what comes of each."""
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what libraries print is no answer
    steps: dict[str, Callable[[], object]] = {name: partial(_imported, name) for name in modules.split(",") if name}
    without_torch = False
    for name, step in (steps | {"cuda": _cuda, "numba_cache": _numba_cache}).items():
        if without_torch and (name in map(module_of, ON_TORCH) or name == "cuda"):
            found: object = {}
        else:
            try:
                found = step()
            except Exception as error:
                found = {"error": _error(error)}
                without_torch = without_torch or name == "torch"
        print(json.dumps([name, found]), file=answers, flush=True)


def _imported(module: str) -> dict[str, object]:
    importlib.import_module(module)
    return {}


def _error(error: Exception) -> str:
    """An error of another package, on one line."""
    text = re.sub(r"\s+", " ", f"{type(error).__name__}: {error}").replace(os.path.expanduser("~") + "/", "~/")
    return brief(text, LONGEST_ERROR)


def _cuda() -> dict[str, object]:
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        gpus = [_gpu(index) for index in range(count)]
    return {
        "version": torch.version.cuda,
        "gpus": gpus,
        "warnings": [brief(re.sub(r"\s+", " ", str(each.message)), LONGEST_ERROR) for each in caught],
    }


def _gpu(index: int) -> dict[str, object]:
    import torch

    known = torch.cuda.get_device_properties(index)
    found: dict[str, object] = {"name": known.name, "memory": known.total_memory, "free": None}
    found["capability"] = f"{known.major}.{known.minor}"
    try:
        found["free"] = torch.cuda.mem_get_info(index)[0]
        torch.ones(2, device=f"cuda:{index}").sum().item()
    except Exception as error:
        found["error"] = _error(error)
    return found


def _numba_cache() -> dict[str, object]:
    from ..numba_cache import kept_in

    return {"folder": kept_in()}


# ---------------------------------------------------------------- known problems


def _of_packages(facts: Facts) -> Iterator[Problem]:
    if not facts.libraries:
        yield Problem(
            "lookalike is not installed, but used from its source as it lies there: what it needs is not known.",
            "Install it: pip install -e . in the folder of its pyproject.toml.",
        )
    for each in facts.libraries:
        wanted = f"'{each.name}{each.needed}'"
        if each.version is None:
            yield Problem(f"{each.name} is not installed.", f"Install it: pip install {wanted}")
        elif not _suits(each.version, each.needed):
            yield Problem(
                f"{each.name} is {each.version}, and lookalike needs {each.needed}.",
                f"Install another version: pip install {wanted}",
            )
        if each.error is not None:
            both = "torch torchvision" if each.name in ("torch", "torchvision") else each.name
            yield Problem(
                f"{each.name} {each.version} is installed and cannot be imported: {each.error}",
                f"Install it anew: pip install --force-reinstall {both}. If that changes nothing, make a new "
                "environment: python -m venv NEW.",
            )


def _of_gpus(facts: Facts) -> Iterator[Problem]:
    if facts.driver_error is not None:
        yield Problem(
            f"nvidia-smi is there and fails: {facts.driver_error}",
            "Start the machine anew, which loads a driver that was updated; else install NVIDIA's driver anew.",
        )
    for index, gpu in enumerate(facts.gpus):
        if gpu.error is not None:
            others = ",".join(str(other) for other in range(len(facts.gpus)) if other != index)
            yield Problem(
                f"GPU {index} ({gpu.name}) cannot be used: {gpu.error}",
                "Look in nvidia-smi at what runs on it, or leave it out before a command: "
                f"export CUDA_VISIBLE_DEVICES={others}",
            )
    seen = any(each.name == "torch" and each.version and each.error is None for each in facts.libraries)
    if facts.driver_gpus and not facts.gpus and seen:
        yield _no_gpu(facts)


def _no_gpu(facts: Facts) -> Problem:
    """Why torch sees no GPU where nvidia-smi does."""
    first = facts.driver_gpus[0]
    found = f"nvidia-smi shows {counted(len(facts.driver_gpus), 'GPU')} ({first.name}), and torch sees none"
    if facts.visible_gpus is not None:
        return Problem(
            f"{found}: CUDA_VISIBLE_DEVICES is {facts.visible_gpus!r}.",
            "Take it away before a command: unset CUDA_VISIBLE_DEVICES",
        )
    if facts.cuda is None:
        return Problem(
            f"{found}: it was built without CUDA, so everything runs on the CPU.",
            "Install torch and torchvision for CUDA, as https://pytorch.org/get-started/locally/ says.",
        )
    said = f" torch says: {' '.join(facts.warnings)}" if facts.warnings else ""
    return Problem(
        f"{found}. It was built for CUDA {facts.cuda}, and the driver is {first.driver}.{said}",
        "Update NVIDIA's driver, or install torch and torchvision for the CUDA that nvidia-smi names.",
    )


def _of_room(facts: Facts) -> Iterator[Problem]:
    shared = facts.shared_memory
    if shared is not None and shared.free < LEAST_SHARED:
        yield Problem(
            f"{shared.path} has {size_of(shared.free)} free, of {size_of(shared.total)}: loading processes send large "
            "batches through a pipe, which is slower.",
            "Give a container more shared memory: docker run --shm-size 8g. Or use fewer --workers.",
        )
    if facts.free_memory < LEAST_MEMORY:
        yield Problem(
            f"Of the memory {size_of(facts.free_memory)} is free.",
            "Stop other programs, give the container more, or use fewer --workers and a smaller --batch-size.",
        )
    for place, what, option in (
        (facts.current_folder, "current folder", "--out"), (facts.cache_folder, "cache folder", "--cache-dir"),
    ):  # fmt: skip
        if not place.writable:
            yield Problem(f"The {what}, {place.path}, cannot be written to.", f"Name another folder with {option}.")
        elif place.free < LEAST_DISK:
            yield Problem(
                f"The disk of the {what}, {place.path}, has {size_of(place.free)} free.",
                f"Free some of it, or name a folder on another disk with {option}.",
            )
    numba = next((each for each in facts.libraries if each.name == "numba"), None)
    if facts.tried and facts.numba_cache is None and numba is not None and numba.error is None:
        yield Problem(
            "No folder can be written to where Numba would keep compiled code: each process compiles it anew, which "
            "takes some ten seconds.",
            "Name one before a command: export NUMBA_CACHE_DIR=/tmp/numba",
        )


RULES: tuple[Callable[[Facts], Iterator[Problem]], ...] = (_of_packages, _of_gpus, _of_room)


# ---------------------------------------------------------------- words


def _machine_lines(facts: Facts) -> Iterator[str]:
    yield f"lookalike      {facts.lookalike}" + (f", commit {facts.commit}" if facts.commit else "")
    yield f"               in {facts.installed_in}"
    yield f"Python         {facts.python}"
    yield f"system         {facts.system}"
    usable = "" if facts.usable_cores == facts.cores else f", of which {facts.usable_cores} may be used"
    yield f"CPU            {facts.processor}, {counted(facts.cores, 'core')}{usable}"
    yield f"memory         {size_of(facts.free_memory)} free, the machine has {size_of(facts.memory)}"
    if facts.shared_memory is not None:
        yield f"shared memory  {_room(facts.shared_memory)}"
    for index, gpu in enumerate(facts.gpus or facts.driver_gpus):
        yield f"GPU {index:<10} {_gpu_line(gpu)}" + ("" if facts.gpus else ", which torch does not see")
    if not facts.gpus and not facts.driver_gpus:
        yield "GPU            none"
    yield f"CUDA           {facts.cuda or 'none'} of torch"
    yield f"current folder {_room(facts.current_folder)}"
    yield f"cache folder   {_room(facts.cache_folder)}"
    yield f"compiled code  {facts.numba_cache or 'not kept'}"


def _room(place: Place) -> str:
    closed = "" if place.writable else ", cannot be written to"
    return f"{place.path}: {size_of(place.free)} of {size_of(place.total)} free{closed}"


def _gpu_line(gpu: Gpu) -> str:
    sizes = [("of memory", gpu.memory), ("free", gpu.free)]
    parts = [gpu.name, *(f"{size_of(size)} {what}" for what, size in sizes if size is not None)]
    parts += [f"capability {gpu.capability}"] if gpu.capability else []
    return ", ".join([*parts, *([f"driver {gpu.driver}"] if gpu.driver else [])])


def _package_lines(facts: Facts) -> Iterator[str]:
    yield "libraries"
    for each in facts.libraries:
        broken = "" if each.error is None else "  cannot be imported"
        yield f"  {each.name:<14} {each.version or 'not installed'}{broken}"
    yield "extras"
    for extra in facts.extras:
        lacks = f"lacks {', '.join(extra.missing)}: {extra.command}"
        yield f"  {extra.name:<14} {lacks if extra.missing else 'installed'}"


def _problem_lines(problems: tuple[Problem, ...]) -> Iterator[str]:
    yield "No known problem." if not problems else f"{counted(len(problems), 'problem')}:"
    for number, problem in enumerate(problems, 1):
        yield f"  {number}. {problem.found}"
        yield f"     {problem.advice}"
