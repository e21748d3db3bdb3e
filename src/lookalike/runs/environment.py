"""Date, directory, versions, commit and machine of a run."""

import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

from ..printing import pasteable, printable


def made() -> dict[str, object]:
    """Date, directory, versions, commit and machine of the current process."""
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "directory": here(),
        "versions": {p: version(p) for p in ("lookalike", "torch", "torchvision", "timm", "lightning")}
        | {"python": platform.python_version()},
        "commit": commit(),
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
    }


def here() -> str | None:
    """The current directory; None if it was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def version(package: str = "lookalike") -> str:
    """The version of an installed package; "not installed" for a source tree without installation."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def commit() -> str | None:
    """The commit of a source checkout of lookalike, with + if it has local changes; None elsewhere."""
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
