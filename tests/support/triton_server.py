"""NVIDIA's `tritonserver` with the Python backend, out of the wheel of nvidia-pytriton, which is not installed.

`python tests/support/triton_server.py` (`make tritonserver`) fetches it into the cache; tests that need it skip
without.
"""

import os
import stat
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path
from shlex import quote

VERSION = "0.7.0"
"""Of nvidia-pytriton: it holds tritonserver 2.51."""
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
FOLDER = (
    Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lookalike-tests" / f"triton-{VERSION}-{PYTHON}"
)
LIBRARY = Path(str(sysconfig.get_config_var("LIBDIR")), str(sysconfig.get_config_var("INSTSONAME")))
"""Python as a library, which the Python backend loads."""


def found() -> tuple[Path | None, str]:
    """The folder of the executable `tritonserver`, or the reason why there is none."""
    if sys.platform != "linux":
        return None, "tritonserver runs on Linux"
    if not LIBRARY.is_file():
        return None, f"Python's library {LIBRARY} is missing, which tritonserver's Python backend loads"
    if not (FOLDER / "bin" / "tritonserver").is_file():
        return None, f"tritonserver is not in {FOLDER}: run `make tritonserver`"
    return FOLDER / "bin", ""


def path_with(folder: Path) -> str:
    """PATH with a folder, and with this Python as the `python3` that the server takes."""
    return os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])


def fetch() -> None:
    """Downloads the wheel and puts server, Python backend and this Python's stub where `found` looks."""
    if FOLDER.is_dir():
        return
    FOLDER.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER.parent) as temporary:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*download, f"nvidia-pytriton=={VERSION}", "--dest", temporary], check=True)
        (wheel,) = Path(temporary).glob("*.whl")
        root = Path(temporary, "root")
        with zipfile.ZipFile(wheel) as content:
            content.extractall(root)
        server = root / "pytriton" / "tritonserver"
        stub = server / "python_backend_stubs" / PYTHON / "triton_python_backend_stub"
        stub = stub.replace(server / "backends" / "python" / stub.name)
        start = root / "bin" / "tritonserver"
        start.parent.mkdir()
        within = FOLDER / "pytriton" / "tritonserver"
        start.write_text(
            f"#!/bin/sh\nLD_LIBRARY_PATH={quote(str(LIBRARY.parent))} exec {quote(f'{within}/bin/tritonserver')} "
            f'--backend-directory {quote(f"{within}/backends")} "$@"\n'
        )
        for file in (stub, start, server / "bin" / "tritonserver"):
            file.chmod(file.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        root.replace(FOLDER)


if __name__ == "__main__":
    fetch()
    print(*found())
