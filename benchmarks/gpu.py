"""All that is to be known of `lookalike` on a GPU, by one command in a few minutes.

    python benchmarks/gpu.py CIFAR10_ARCHIVE [--minutes 8] [--only views,step] [--record FILE]
    python benchmarks/gpu.py CIFAR10_ARCHIVE --device cpu --tiny        (shows in a minute that all parts run)

CIFAR10_ARCHIVE: a tar file of train/CLASS/*.jpg and test/CLASS/*.jpg, read into memory and never unpacked; all other
images are made from scikit-learn's two photographs. One NVIDIA GPU; no network. The parts, in the order in which they
run (--only takes some of them):

PARTS

Each part is a process that has a share of --minutes; what one does not use the later ones get, and `cifar`, the last,
gets all that is left. A part that fails, hangs or crashes leaves a row that says so, and the rows that it had written.
Rows are JSON lines in --record, each on the disk as soon as it is measured: [median, smallest, largest] of `repeats`.
A table of this run's rows is printed at the end. The exit code is 1 if a part failed.

Needed: Python 3.11 or later, torch 2.11 with CUDA, torchvision, timm, lightning 2.6, numba, safetensors, scikit-learn,
PyYAML, Pillow. lookalike need not be installed: its sources are taken from beside this folder. Not needed are tyro,
rich, jaxtyping, threadpoolctl, simplejpeg (JPEG files are decoded by Pillow then) and kornia (it is left out then).
Without cattrs no run is resumed (in `correct`); where nothing can be fetched, its wheel is enough:
PYTHONPATH=cattrs-26.2.1-py3-none-any.whl (it wants attrs and typing_extensions). kornia and simplejpeg come as wheels,
too (kornia wants kornia_rs). A checkout without .git does not know its commit: give --commit.
"""

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent
RECORD = HERE / "records" / "gpu.jsonl"


@dataclass(frozen=True)
class Part:
    """A module beside this one with `run(bench)`."""

    module: str
    share: float
    """Of the time, beside those of the other parts."""
    what: str


PARTS = {
    "views": Part("gpu_views", 45, "engines against each other, views/s beside kornia and torchvision, bandwidth"),
    "correct": Part("gpu_correct", 55, "GPU against CPU, resume bit for bit, fp16 with the scaler"),
    "step": Part("gpu_step", 140, "SimCLR, BYOL, DINO at 224 pixels: images/s beside the bare loop, shares, FLOPs"),
    "distil": Part("gpu_distil", 18, "teacher and student on two streams or one; answers that are kept"),
    "files": Part("gpu_files", 25, "from JPEG files to a step: decoded by workers, and by nvJPEG"),
    "neighbours": Part("gpu_neighbours", 15, "k-NN of 50,000 among 1.28 million features"),
    "cifar": Part("gpu_cifar", 230, "ResNet-18 on CIFAR-10: k-NN accuracy over time, linear probe"),
}
PRELOADED = ("gpu_bench", "timm", "numba", "lookalike.views.cpu")
"""Imported once, with the parts' modules: each process has them from here. None of them asks CUDA for anything."""
SOME_FAILED, SOME_CASES = 3, "some cases failed"
"""The exit code of a part whose own rows say what failed, and what it means."""
NO_GPU, NO_CUDA = 4, "CUDA is not available (--device cpu --tiny shows that all runs)"
"""The same where there is no GPU."""
LEAST = 3.0
"""Seconds below which a part is not begun."""
PATIENCE = 15.0
"""Seconds that a killed process may take to end."""


def main(argv: Sequence[str] | None = None) -> int:
    parts = "\n".join(f"  {name:<12}{part.what}" for name, part in PARTS.items())
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").replace("PARTS\n", f"{parts}\n"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("archive", type=Path, nargs="?", help="without it `cifar` is left out")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument("--only", type=_names, default=tuple(PARTS), help=f"of {','.join(PARTS)}")
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="to see that all runs: next to nothing is measured")
    parser.add_argument("--commit", help="of lookalike, where the checkout does not tell")
    parser.add_argument("--part", choices=tuple(PARTS), help=argparse.SUPPRESS)  # what a process is, see `_begin`
    parser.add_argument("--limit", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--same", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.archive is not None and not args.archive.is_file():
        parser.error(f"{args.archive} is not a file. Give CIFAR-10 as a tar archive of JPEG files.")
    _prepare(args.device, args.tiny)
    if args.part:
        _end_with(lambda: _work(args.part, PARTS[args.part], args, args.limit, args.same))
    return measure({name: PARTS[name] for name in PARTS if name in args.only}, args)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names or (unknown := [name for name in names if name not in PARTS]):
        raise argparse.ArgumentTypeError(
            f"{', '.join(unknown) if names else 'nothing'} is no part of {', '.join(PARTS)}"
        )
    return names


def _prepare(device: str, tiny: bool) -> None:
    """What must be settled before torch is imported."""
    for folder in (HERE, HERE.parent / "src"):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if tiny:  # on a busy machine threads would wait for each other longer than they compute
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    # whether there is a GPU is asked of the driver: CUDA itself would not work any more in the parts' processes
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    os.environ.setdefault("PYTHONUNBUFFERED", "1")


def measure(parts: dict[str, Part], args: argparse.Namespace) -> int:
    """Runs the parts, one process after the other, and prints the table; 1 if one failed."""
    end = time.monotonic() + 60 * args.minutes
    started = time.strftime("%Y%m%d-%H%M%S") + f"-{os.getpid()}"
    same: dict[str, Any] = {"run": started, "tiny": args.tiny, "minutes": args.minutes, **driver(args.device)}
    same["lookalike"] = args.commit or _commit()
    failed = False
    with tempfile.TemporaryDirectory(prefix="lookalike-gpu-") as temporary:
        before = os.environ.get("TMPDIR")
        os.environ["TMPDIR"] = temporary  # what a killed part leaves there goes, too
        tempfile.tempdir = None
        try:
            for module in (*(part.module for part in parts.values()), *PRELOADED):
                with suppress(Exception):  # the part that needs it will say so
                    importlib.import_module(module)
            names = list(parts)
            for i, name in enumerate(names):
                left = end - time.monotonic()
                limit = left * parts[name].share / sum(parts[other].share for other in names[i:])
                print(f"--- {name}: {limit:.0f} of {left:.0f} s", flush=True)
                began = time.monotonic()
                why = _run(name, parts[name], args, limit, same) if limit > LEAST else "not begun: the time was over"
                print(f"--- {name}: {why or 'done'} after {time.monotonic() - began:.1f} s", flush=True)
                failed |= bool(why)
                if why and why != SOME_CASES:
                    _append(args.record, {"benchmark": "gpu", "part": name, **same, "case": name, "failed": why})
        finally:
            tempfile.tempdir = None
            if before is None:
                os.environ.pop("TMPDIR", None)
            else:
                os.environ["TMPDIR"] = before
    print(table([row for row in rows_of(args.record) if row.get("run") == started]), flush=True)
    return int(failed)


def _commit() -> str | None:
    with suppress(ImportError):  # the parts will say what is missing
        from lookalike.runs import commit

        return commit()
    return None


def driver(device: str) -> dict[str, str]:
    """What the driver says, by its own program: asking CUDA would spoil the parts' processes."""
    if device == "cpu":
        return {}
    fields = ("driver_version", "power.limit", "clocks.max.sm", "clocks.max.memory")
    command = ["nvidia-smi", "--id=0", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return {"driver_version": f"unknown ({type(error).__name__})"}
    return dict(zip(fields, (value.strip() for value in done.stdout.split(",")), strict=False))


def _run(name: str, part: Part, args: argparse.Namespace, limit: float, same: dict[str, Any]) -> str:
    """Runs a part in a process of its own, which is ended at its limit; how it failed, or ""."""
    sys.stdout.flush()
    sys.stderr.flush()
    end = time.monotonic() + limit
    child = os.fork()
    if child == 0:
        _end_with(lambda: _begin(name, part, args, limit, same))
    with suppress(OSError):  # a group of its own, whoever is first to make it
        os.setpgid(child, child)
    status = None
    try:
        while status is None and time.monotonic() < end:
            status = _ended(child)
            time.sleep(0 if status is not None else 0.05)
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)  # what it left behind, such as decoding processes, too
        patience = time.monotonic() + PATIENCE
        late = status is None
        while status is None and time.monotonic() < patience:
            status = _ended(child)
            time.sleep(0.05)
    if late or status is None:
        return f"killed at its limit of {limit:.0f} s"
    known = {0: "", SOME_FAILED: SOME_CASES, NO_GPU: NO_CUDA}
    return known.get(status, f"ended by signal {-status}" if status < 0 else f"exit code {status}")


def _ended(child: int) -> int | None:
    """The exit code of a process, minus the signal that ended it, or None while it runs."""
    found, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def _end_with(work: Callable[[], int]) -> NoReturn:
    """Ends this process with what `work` returns, and without waiting for anything else."""
    code = 1
    try:
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _begin(name: str, part: Part, args: argparse.Namespace, limit: float, same: dict[str, Any]) -> int:
    """What a forked process does."""
    with suppress(OSError):
        os.setpgid(0, 0)
    began = time.monotonic()
    if args.device == "cuda" and not _usable():
        left = limit - (time.monotonic() - began)
        command = [sys.executable, str(HERE / "gpu.py"), *([str(args.archive)] if args.archive else [])]
        command += ["--record", str(args.record), "--part", name, "--limit", str(left), "--same", json.dumps(same)]
        os.execv(sys.executable, [*command, *(["--tiny"] if args.tiny else [])])
    return _work(name, part, args, limit, same)


def _usable() -> bool:
    """Whether CUDA works in this process, which was forked; else a new program must take its place."""
    import torch

    try:
        torch.zeros(1, device="cuda")
    except Exception as error:
        print(f"CUDA does not work in a forked process ({error}); starting a new one.", flush=True)
        return False
    return True


def _work(name: str, part: Part, args: argparse.Namespace, limit: float, same: dict[str, Any]) -> int:
    """Measures a part in this process; the exit code."""
    import torch
    from gpu_bench import Bench, without_broken_numba

    if args.device == "cuda" and not torch.cuda.is_available():
        return NO_GPU
    without_broken_numba()
    bench = Bench(name, args.archive, args.record, args.device, tiny=args.tiny, limit=limit, same=same)
    with bench.trying(name):
        importlib.import_module(part.module).run(bench)
    return SOME_FAILED if bench.failed else 0


def _append(record: Path, row: dict[str, Any]) -> None:
    from rows import append

    append(record, row)


def rows_of(record: Path) -> list[dict[str, Any]]:
    """The rows of a record; a line that a kill cut short is left out."""
    rows = []
    for line in record.read_text().splitlines() if record.exists() else []:
        with suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows for people: a line per case and figure."""
    first = rows[0] if rows else {}
    device = next((row["device"] for row in rows if "device" in row), "?")
    versions = next((row["versions"] for row in rows if "versions" in row), {})
    lines = [
        "",
        f"{device}, driver {first.get('driver_version', '-')}, torch {versions.get('torch', '?')}, "
        f"lookalike {next((row['lookalike'] for row in rows if row.get('lookalike')), 'of an unknown commit')}"
        + (", TINY: no measurement" if first.get("tiny") else ""),
        "median (smallest to largest)",
    ]
    for row in rows:
        if str(row["case"]).endswith("on its way"):
            continue  # the end of the training tells it all
        lines.append(f"{row['part']:<11}{row['case']}")
        for word in ("skipped", "failed"):
            if isinstance(row.get(word), str):
                lines.append(f"{'':<13}{word}: {row[word]}")
        lines += [f"{'':<13}{text}" for text in _figures("", row.get("figures", {}))]
    return "\n".join(lines)


def _figures(name: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for key, one in value.items() for text in _figures(f"{name} {key}".strip(), one)]
    if isinstance(value, list) and len(value) == 3 and not any(isinstance(one, list) for one in value):
        return [f"{name}: {_number(value[0])} ({_number(value[1])} to {_number(value[2])})"]
    return [f"{name}: {_number(value)}"]


def _number(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


if __name__ == "__main__":
    sys.exit(main())
