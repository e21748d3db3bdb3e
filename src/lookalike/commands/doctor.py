"""The command `doctor`: facts about the machine and installation for a bug report, and known problems.

Imports and GPUs are tested in a child process: if a broken library kills it, the problem is still reported.
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
"""Bytes of shared memory: a batch of 256 images of 256 pixels has 48 MiB, and each of 8 workers prefetches two."""
LEAST_DISK = 2 * 2**30
"""Bytes of disk: the checkpoints of a ResNet-50, and the next one, which is written before they are removed."""
LEAST_MEMORY = 2 * 2**30
"""Bytes of memory: torch and a loading process need half of it."""
LONGEST_TRY = 300
"""Seconds for all imports; a slow network file system takes a minute."""
LONGEST_ERROR = 500
"""Maximum length of another package's error, in characters."""
MODULES = {"pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn", "lightning": "lightning.pytorch"}
"""Module names of packages, where they differ from the package name."""
ON_TORCH = ("torchvision", "timm", "lightning")
"""Packages that cannot be imported without torch."""


@dataclass(frozen=True)
class Library:
    """A package that lookalike needs."""

    name: str
    needed: str
    """Supported versions, such as `>=2.11`."""
    version: str | None
    """None if it is not installed."""
    error: str | None = None
    """The error of its import."""


@dataclass(frozen=True)
class Extra:
    """An optional part of lookalike."""

    name: str
    missing: tuple[str, ...]
    """Its packages that are not installed or too old."""

    @property
    def command(self) -> str:
        return f"pip install 'lookalike[{self.name}]'"


@dataclass(frozen=True)
class Gpu:
    """A GPU, as torch or NVIDIA's driver reports it."""

    name: str
    memory: int | None
    """Bytes."""
    free: int | None
    driver: str | None = None
    capability: str | None = None
    """CUDA compute capability."""
    error: str | None = None
    """The error of a computation on it."""


@dataclass(frozen=True)
class Place:
    """A folder, with the total and free bytes of its disk."""

    path: str
    total: int
    free: int
    writable: bool


@dataclass(frozen=True)
class Facts:
    """Facts about this machine and installation."""

    lookalike: str
    commit: str | None
    installed_in: str
    python: str
    system: str
    processor: str
    cores: int
    usable_cores: int
    """Cores that this process may run on."""
    memory: int
    """Total bytes of the machine."""
    free_memory: int
    """Available bytes; in a container at most what is left of its limit."""
    shared_memory: Place | None
    """None if the system has no /dev/shm."""
    current_folder: Place
    cache_folder: Place
    libraries: tuple[Library, ...]
    extras: tuple[Extra, ...]
    cuda: str | None
    """The CUDA version that torch was built for."""
    gpus: tuple[Gpu, ...]
    """GPUs that torch detects."""
    warnings: tuple[str, ...]
    """Warnings of torch about them."""
    driver_gpus: tuple[Gpu, ...]
    """GPUs that nvidia-smi lists."""
    driver_error: str | None
    """Error message of nvidia-smi, if it fails."""
    visible_gpus: str | None
    """CUDA_VISIBLE_DEVICES."""
    numba_cache: str | None
    """Folder in which compiled code is cached; None if no folder is writable."""
    tried: bool
    """Whether the child process completed all tests."""


@dataclass(frozen=True)
class Problem:
    """A known problem and its remedy."""

    found: str
    advice: str


@dataclass(frozen=True)
class Diagnosis:
    """The result of `lookalike doctor`."""

    facts: Facts
    problems: tuple[Problem, ...]

    def content(self) -> dict[str, object]:
        """The result for JSON."""
        content: dict[str, Any] = {"format": FORMAT} | asdict(self)
        for extra, named in zip(self.facts.extras, content["facts"]["extras"], strict=True):
            named["command"] = extra.command
        return content

    def lines(self) -> list[str]:
        """The report as lines of text."""
        return [*_machine_lines(self.facts), "", *_package_lines(self.facts), "", *_problem_lines(self.problems)]


def doctor() -> Diagnosis:
    """Reports versions, devices, memory, disks, extras and known problems, for a bug report. Nothing is sent.

    It takes several seconds because it imports all libraries.
    """
    facts = _tried(_facts())
    return Diagnosis(facts, tuple(problem for rule in RULES for problem in rule(facts)))


# ---------------------------------------------------------------- facts


def _facts() -> Facts:
    """Facts that need no import of a library."""
    from ..devices import free_memory  # imports torch, which help must not

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
    """A path that can be shared: the user's home folder is replaced by ~."""
    home = os.path.expanduser("~")
    text = os.path.abspath(path)
    return f"~{text[len(home) :]}" if text.startswith(f"{home}/") and home != "/" else text


def _place(path: Path) -> Place:
    """A folder and its disk space; if it does not exist, that of its nearest existing parent."""
    existing = next(each for each in (path, *path.parents) if each.is_dir())
    usage = shutil.disk_usage(existing)
    return Place(_homely(path), usage.total, usage.free, os.access(existing, os.W_OK))


def _packages() -> tuple[tuple[Library, ...], tuple[Extra, ...]]:
    """Required libraries and extras, from the installed package's metadata; empty if it has none."""
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
    """The requirements that an extra adds, including those of extras that it names."""
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
    """Whether a version meets the specifier; a vendor's pre-release build counts as the release."""
    from packaging.requirements import Requirement
    from packaging.version import InvalidVersion, Version

    try:
        return Version(found).base_version in Requirement(f"x{needed}").specifier
    except InvalidVersion:
        return True


def _driver_gpus() -> tuple[tuple[Gpu, ...], str | None]:
    """The GPUs that NVIDIA's driver lists, or its error message."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return (), None
    query = "--query-gpu=name,memory.total,memory.free,driver_version"
    try:
        done = subprocess.run(
            [program, query, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=30,
            errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return (), brief(str(error), LONGEST_ERROR)
    if done.returncode:
        return (), brief((done.stdout + done.stderr).strip(), LONGEST_ERROR) or f"exit code {done.returncode}"
    rows = [row for row in csv.reader(done.stdout.splitlines(), skipinitialspace=True) if len(row) == 4]
    return tuple(Gpu(name, _mebibytes(total), _mebibytes(free), driver) for name, total, free, driver in rows), None


def _mebibytes(text: str) -> int | None:
    """Bytes of a number of MiB; None if the driver reports none, as for parts of a GPU."""
    return int(text) * 2**20 if text.strip().isdigit() else None


# ---------------------------------------------------------------- tests in a child process


def _tried(facts: Facts) -> Facts:
    """The facts, with the results of importing the libraries and computing on the GPUs."""
    modules = {module_of(each.name): each.name for each in facts.libraries if each.version is not None}
    code = "import sys; sys.path[:] = sys.argv[2:]; from lookalike.commands.doctor import answer; answer(sys.argv[1])"
    command = [sys.executable, "-c", code, ",".join(modules), *sys.path]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_TRY, errors="replace")
        output, stderr, returncode = done.stdout, done.stderr, done.returncode
    except subprocess.TimeoutExpired as error:
        output, stderr, returncode = _text(error.stdout), "", None
    answers = dict(json.loads(line) for line in output.splitlines())
    steps = [*modules, "cuda", "numba_cache"]
    for step in steps:
        if step not in answers:  # it killed the process
            answers[step] = {"error": _exit_reason(returncode, stderr)}
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
        numba_cache=_homely(cache) if (cache := answers.get("numba_cache", {}).get("folder")) else None,
        tried="numba_cache" in answers,
    )  # fmt: skip


def _text(output: object) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else str(output or "")


def _exit_reason(code: int | None, stderr: str) -> str:
    """Why the child process did not report a result."""
    if code is None:
        return f"it took more than {LONGEST_TRY} seconds"
    reason = (
        f"the process was killed by {signal.Signals(-code).name}" if code < 0 else f"the process exited with {code}"
    )
    last = stderr.strip().splitlines()[-1:]
    return brief(": ".join([reason, *last]), LONGEST_ERROR)


def module_of(package: str) -> str:
    """The module name of a package."""
    return MODULES.get(package.lower(), package.replace("-", "_"))


def answer(modules: str) -> None:
    """Runs in the child process: imports modules, tests GPUs, and writes a line of JSON per result."""
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # keeps the output of libraries out of the results
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
            "lookalike is not installed but imported from its source folder, so its requirements are unknown.",
            "Install it: pip install -e . in the folder of its pyproject.toml.",
        )
    for each in facts.libraries:
        wanted = f"'{each.name}{each.needed}'"
        if each.version is None:
            yield Problem(f"{each.name} is not installed.", f"Install it: pip install {wanted}")
        elif not _suits(each.version, each.needed):
            yield Problem(
                f"{each.name} is {each.version}, but lookalike needs {each.needed}.",
                f"Install a supported version: pip install {wanted}",
            )
        if each.error is not None:
            both = "torch torchvision" if each.name in ("torch", "torchvision") else each.name
            yield Problem(
                f"{each.name} {each.version} is installed but cannot be imported: {each.error}",
                f"Reinstall it: pip install --force-reinstall {both}. If that does not help, create a new "
                "environment: python -m venv NEW.",
            )


def _of_gpus(facts: Facts) -> Iterator[Problem]:
    if facts.driver_error is not None:
        yield Problem(
            f"nvidia-smi is installed but fails: {facts.driver_error}",
            "Reboot the machine, which loads an updated driver; if that does not help, reinstall NVIDIA's driver.",
        )
    for index, gpu in enumerate(facts.gpus):
        if gpu.error is not None:
            others = ",".join(str(other) for other in range(len(facts.gpus)) if other != index)
            yield Problem(
                f"GPU {index} ({gpu.name}) cannot be used: {gpu.error}",
                "Check in nvidia-smi which processes use it, or exclude it before running a command: "
                f"export CUDA_VISIBLE_DEVICES={others}",
            )
    imported = any(each.name == "torch" and each.version and each.error is None for each in facts.libraries)
    if facts.driver_gpus and not facts.gpus and imported:
        yield _no_gpu(facts)


def _no_gpu(facts: Facts) -> Problem:
    """Why torch detects no GPU although nvidia-smi lists one."""
    first = facts.driver_gpus[0]
    found = f"nvidia-smi lists {counted(len(facts.driver_gpus), 'GPU')} ({first.name}), but torch detects none"
    if facts.visible_gpus is not None:
        return Problem(
            f"{found}: CUDA_VISIBLE_DEVICES is {facts.visible_gpus!r}.",
            "Unset it before running a command: unset CUDA_VISIBLE_DEVICES",
        )
    if facts.cuda is None:
        return Problem(
            f"{found}: it was built without CUDA, so everything runs on the CPU.",
            "Install torch and torchvision with CUDA, as described at https://pytorch.org/get-started/locally/.",
        )
    reported = f" torch reports: {' '.join(facts.warnings)}" if facts.warnings else ""
    return Problem(
        f"{found}. It was built for CUDA {facts.cuda}, and the driver is {first.driver}.{reported}",
        "Update NVIDIA's driver, or install torch and torchvision for the CUDA version that nvidia-smi shows.",
    )


def _of_room(facts: Facts) -> Iterator[Problem]:
    shared = facts.shared_memory
    if shared is not None and shared.free < LEAST_SHARED:
        yield Problem(
            f"{shared.path} has {size_of(shared.free)} free of {size_of(shared.total)}: loading processes send large "
            "batches through a pipe, which is slower.",
            "Give the container more shared memory: docker run --shm-size 8g. Or use fewer --workers.",
        )
    if facts.free_memory < LEAST_MEMORY:
        yield Problem(
            f"Only {size_of(facts.free_memory)} of memory is free.",
            "Stop other programs, give the container more memory, or use fewer --workers and a smaller --batch-size.",
        )
    for place, what, option in (
        (facts.current_folder, "current folder", "--out"), (facts.cache_folder, "cache folder", "--cache-dir"),
    ):  # fmt: skip
        if not place.writable:
            yield Problem(f"The {what}, {place.path}, is not writable.", f"Choose another folder with {option}.")
        elif place.free < LEAST_DISK:
            yield Problem(
                f"The disk of the {what}, {place.path}, has only {size_of(place.free)} free.",
                f"Free some space, or choose a folder on another disk with {option}.",
            )
    numba = next((each for each in facts.libraries if each.name == "numba"), None)
    if facts.tried and facts.numba_cache is None and numba is not None and numba.error is None:
        yield Problem(
            "No folder in which Numba could cache compiled code is writable: each process compiles it again, which "
            "takes about ten seconds.",
            "Set a folder before running a command: export NUMBA_CACHE_DIR=/tmp/numba",
        )


RULES: tuple[Callable[[Facts], Iterator[Problem]], ...] = (_of_packages, _of_gpus, _of_room)


# ---------------------------------------------------------------- report


def _machine_lines(facts: Facts) -> Iterator[str]:
    yield f"lookalike      {facts.lookalike}" + (f", commit {facts.commit}" if facts.commit else "")
    yield f"               in {facts.installed_in}"
    yield f"Python         {facts.python}"
    yield f"system         {facts.system}"
    usable = "" if facts.usable_cores == facts.cores else f", {facts.usable_cores} usable"
    yield f"CPU            {facts.processor}, {counted(facts.cores, 'core')}{usable}"
    yield f"memory         {size_of(facts.free_memory)} free, {size_of(facts.memory)} in the machine"
    if facts.shared_memory is not None:
        yield f"shared memory  {_room(facts.shared_memory)}"
    for index, gpu in enumerate(facts.gpus or facts.driver_gpus):
        yield f"GPU {index:<10} {_gpu_line(gpu)}" + ("" if facts.gpus else ", not detected by torch")
    if not facts.gpus and not facts.driver_gpus:
        yield "GPU            none"
    yield f"CUDA           {facts.cuda or 'none'} (torch build)"
    yield f"current folder {_room(facts.current_folder)}"
    yield f"cache folder   {_room(facts.cache_folder)}"
    yield f"compiled code  {facts.numba_cache or 'not cached'}"


def _room(place: Place) -> str:
    closed = "" if place.writable else ", not writable"
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
