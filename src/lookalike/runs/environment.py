"""When, where, by which versions and commit, and on which machine something is made."""

import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

from ..printing import pasteable, printable


def made() -> dict[str, object]:
    """When, where, by which versions and commit, and on which machine something is made."""
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "directory": here(),
        "versions": {p: version(p) for p in ("lookalike", "torch", "torchvision", "timm", "lightning")}
        | {"python": platform.python_version()},
        "commit": commit(),
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
    }


def here() -> str | None:
    """The current directory; None where it was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def version(package: str = "lookalike") -> str:
    """Of an installed package; "not installed" of a source tree that is used as it lies."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def commit() -> str | None:
    """The commit of a source checkout of lookalike, with + where it was changed."""
    here = Path(__file__).parents[3]
    if not (here / ".git").exists():
        return None
    try:
        out = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=12"],
            capture_output=True, text=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return out.stdout.strip() or None


def command_line() -> str:
    """The command that the user typed, for `log.txt`."""
    program = Path(sys.argv[0])
    of_module = (program.parent.name, program.name) == ("lookalike", "__main__.py")  # python -m lookalike
    return printable(pasteable("lookalike" if of_module else program.name, *sys.argv[1:]))
