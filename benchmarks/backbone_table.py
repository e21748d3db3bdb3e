"""Makes the table that `lookalike list backbones` shows: parameters, GFLOP at 224 pixels and feature dimension.

    nice python benchmarks/backbone_table.py [--out src/lookalike/commands/backbones.csv] [PATTERN]

Each network is built without its classifier on torch's meta device, which has shapes and no numbers: no memory, no
weights, a second or two of one core each. GFLOP are those of a forward pass of one image of 224 x 224 pixels, by
torch's counter; a multiplication and an addition are two operations. Where a network does not take 224 pixels, or its
operations cannot be counted, the cell stays empty. Names that the file has are not measured again unless the versions
of timm or torchvision differ, so a run that was stopped goes on; remove the file to begin anew.
"""

import argparse
import csv
import time
import warnings
from contextlib import nullcontext
from pathlib import Path

import torch

from lookalike import backbones
from lookalike.backbones import Backbone, base, image_sizes
from lookalike.backbones.library import published_size
from lookalike.commands.catalogue import PIXELS, TABLE, installed
from lookalike.commands.teacher_student import gflops
from lookalike.files import atomic

COLUMNS = ("name", "parameters", "gflop", "dim")


def built(name: str) -> tuple[Backbone, int]:
    """A network and the pixels that it was made for: 224, or its own where it takes no others."""
    failed: Exception | None = None
    for size in (PIXELS, None):
        for device in (torch.device("meta"), nullcontext()):  # some compute with numbers while they are built
            try:
                with device, warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    pixels = size or published_size(name)
                    return backbones.create(name, image_size=pixels, stem=None), pixels
            except Exception as error:
                failed = error
    assert failed is not None
    raise failed


def row(name: str) -> dict[str, object]:
    encoder, size = built(name)
    found: dict[str, object] = {
        "name": name,
        "parameters": sum(p.numel() for p in encoder.net.parameters()),
        "gflop": "",
        "dim": encoder.dim,
    }
    if size == PIXELS:
        try:
            found["gflop"] = f"{gflops(encoder.to('meta'), PIXELS):.4g}"
        except Exception as error:
            print(f"{name}: no operations ({str(error).splitlines()[0][:120]})", flush=True)
    return found


def read(path: Path) -> dict[str, dict[str, object]]:
    if not path.is_file():
        return {}
    with open(path, newline="") as file:
        versions = file.readline().lstrip("# ").strip()
        return {r["name"]: dict(r) for r in csv.DictReader(file)} if versions == installed() else {}


def write(path: Path, rows: dict[str, dict[str, object]]) -> None:
    with atomic(path) as temporary, open(temporary, "w", newline="") as file:
        file.write(f"# {installed()}\n")
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[name] for name in sorted(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pattern", nargs="?", default="")
    parser.add_argument("--out", type=Path, default=TABLE)
    args = parser.parse_args()
    torch.set_num_threads(1)
    image_sizes.SIZES = ()  # type: ignore[assignment]  # no other size is looked for where 224 fails
    rows, saved = read(args.out), time.monotonic()
    names = [name for name in backbones.names() if args.pattern in name and name not in rows]
    for place, name in enumerate(names, 1):
        began = time.monotonic()
        try:
            rows[name] = row(name)
        except Exception as error:
            print(f"{name}: left out ({str(error).splitlines()[0][:160]})", flush=True)
            continue
        print(f"[{place}/{len(names)}] {rows[name]} {time.monotonic() - began:.1f} s", flush=True)
        base.TRIED.clear()
        if time.monotonic() - saved > 20 or place == len(names):
            write(args.out, rows)
            saved = time.monotonic()
    write(args.out, rows)


if __name__ == "__main__":
    main()
