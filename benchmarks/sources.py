"""Images/s from each kind of DATA, in turns with webdataset, `datasets` and torchvision; an index of a million members.

    pip install webdataset datasets
    python benchmarks/sources.py [--parts loading index --workers 2 --repeats 5]

Loading: the same JPEG files as folder, tar shards, Parquet and Arrow, for crops of 32 pixels (CIFAR-10) and 224 pixels
(photographs of 128 pixels and more). Each library decodes, makes one random crop with a flip, normalises, and gives
batches to the process that would train, on the same two cores, with the same number of --workers. The ratio is that of
ours to the fastest of the others in the same round: median, and its 95% bootstrap interval over rounds.

Index: --members images of a few bytes as tar, Parquet and Arrow. Each measurement is a new process: seconds until the
source is open for the first time and again (without imports), and the memory that this takes. A line of JSON per case
goes to --record.
"""

import argparse
import importlib.metadata
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from loading import MEAN, STD, rate
from PIL import Image
from rows import append, summary
from torch.utils.data import DataLoader

from lookalike.data import Loader, open_source
from lookalike.runs import commit
from lookalike.views import SIMCLR_VIEW, View, make_views

ARCHIVES = Path(__file__).parents[2] / "shared" / "data"
CASES = {32: ("cifar10-jpeg.tar.xz", 128), 224: ("clothing128.tar.xz", 32)}
"""Side of the crops -> the archive of the files, and images in a batch."""
SHARDS = 8
OURS = ("folder", "tar", "parquet", "arrow")
GROUP = 100
"""Images in a row group."""


def view_of(side: int) -> View:
    """A random crop and a flip, nothing else."""
    plain = {"jitter": 0.0, "grayscale": 0.0, "blur": 0.0, "count": 1}
    return View(**{**vars(SIMCLR_VIEW), **plain, "size": side})


def transform_of(side: int) -> Callable[[Image.Image], torch.Tensor]:
    """The same by torchvision."""
    from torchvision.transforms import v2

    crop = v2.RandomResizedCrop(side, SIMCLR_VIEW.scale, SIMCLR_VIEW.ratio, antialias=True)
    steps = [v2.ToImage(), crop, v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)]
    return v2.Compose([*steps, v2.Normalize(MEAN, STD)])


# ---------------------------------------------------------------- the same files in every form


def unpacked(archive: Path, work: Path) -> Path:
    """The training images of an archive, CLASS/NAME.jpg."""
    folder = work / archive.name.partition(".")[0]
    if not folder.is_dir():
        temporary = folder.with_suffix(".part")
        with tarfile.open(archive) as file:
            file.extractall(temporary, filter="data")
        temporary.rename(folder)
    return next(each for each in (folder / "train", *folder.glob("*/train")) if each.is_dir())


def forms(folder: Path, work: Path) -> dict[str, str]:
    """Kind -> DATA. Classes are in the names."""
    import datasets
    import pyarrow
    import pyarrow.parquet

    files = sorted(folder.rglob("*.jpg"))
    names = [file.relative_to(folder).as_posix() for file in files]
    found = {"folder": str(folder), "tar": str(work / f"images-{{0..{SHARDS - 1}}}.tar")}
    found |= {"parquet": str(work / "images.parquet"), "arrow": str(work / "arrow")}
    if (work / "done").is_file():
        return found
    work.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(0).permutation(len(files))
    for k in range(SHARDS):
        with tarfile.open(work / f"images-{k}.tar", "w") as file:
            for i in order[k::SHARDS]:
                file.add(files[i], names[i])
    images = [{"bytes": files[i].read_bytes(), "path": None} for i in order]
    columns = {"image": images, "path": [names[i] for i in order]}
    pyarrow.parquet.write_table(pyarrow.table(columns), found["parquet"], row_group_size=GROUP)
    kinds = datasets.Features({"image": datasets.Image(), "path": datasets.Value("string")})
    datasets.Dataset.from_dict(columns, features=kinds).save_to_disk(found["arrow"])
    (work / "done").touch()
    return found


# ---------------------------------------------------------------- libraries: sizes of batches, for ever


def ours(data: str, side: int, batch: int, workers: int) -> Iterator[int]:
    loader = Loader(open_source(data), batch, 0, workers=workers, decode_size=2 * side)
    try:
        while True:
            for images in loader:
                yield len(make_views(images, (view_of(side),), images.keys, mean=MEAN, std=STD)[0])
    finally:
        loader.close()


def batches(loader: DataLoader[object]) -> Iterator[int]:
    while True:
        for made in loader:
            yield len(made[0] if isinstance(made, list | tuple) else made["image"])


def torchvisions(data: str, side: int, batch: int, workers: int) -> Iterator[int]:
    from torchvision.datasets import ImageFolder

    source = ImageFolder(data, transform_of(side))
    return batches(
        DataLoader(source, batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0)
    )


def datasetss(data: str, side: int, batch: int, workers: int) -> Iterator[int]:
    import datasets

    transform = transform_of(side)

    def made(rows: dict[str, list[Image.Image]]) -> dict[str, list[torch.Tensor]]:
        return {"image": [transform(image.convert("RGB")) for image in rows["image"]]}

    source = datasets.load_from_disk(data).select_columns(["image"]).with_transform(made)
    return batches(
        DataLoader(source, batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0)
    )


def webdatasets(data: str, side: int, batch: int, workers: int) -> Iterator[int]:
    import webdataset

    transform = transform_of(side)
    source = webdataset.WebDataset(data, resampled=True, shardshuffle=False)
    source = source.shuffle(1000).decode("pil").to_tuple("jpg").map_tuple(transform).batched(batch)
    return batches(webdataset.WebLoader(source, batch_size=None, num_workers=workers))


OTHERS: dict[str, tuple[str, Callable[[str, int, int, int], Iterator[int]]]] = {
    "ImageFolder": ("folder", torchvisions), "datasets": ("arrow", datasetss), "webdataset": ("tar", webdatasets),
}  # fmt: skip
"""Library -> the kind that it reads, and its batches."""


def interval(values: list[float]) -> list[float]:
    """Median and its 95% bootstrap interval."""
    draws = np.random.default_rng(0).choice(values, (2000, len(values)))
    low, high = np.quantile(np.median(draws, 1), (0.025, 0.975))
    return [round(v, 3) for v in (statistics.median(values), float(low), float(high))]


def loading(args: argparse.Namespace) -> Iterator[dict[str, object]]:
    for side, (archive, batch) in CASES.items():
        folder = args.folder or unpacked(args.archives / archive, args.work)
        data = forms(folder, args.work / f"forms-{side}")
        size = args.batch or batch
        runs = {kind: partial(ours, data[kind], side, size, args.workers) for kind in OURS}
        runs |= {name: partial(made, data[kind], side, size, args.workers) for name, (kind, made) in OTHERS.items()}
        rates: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(args.repeats):
            names = list(runs)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                rates[name].append(rate(runs[name](), args.seconds))
        fastest = [max(each) for each in zip(*(rates[name] for name in OTHERS))]
        yield {
            "case": f"{side} px", "images": len(list(folder.rglob("*.jpg"))), "batch": size,
            "workers": args.workers, "repeats": args.repeats, "seconds": args.seconds,
            "images_per_s": {name: summary(found, 1) for name, found in rates.items()},
            "ratio_to_fastest": {kind: interval([a / b for a, b in zip(rates[kind], fastest)]) for kind in OURS},
        }  # fmt: skip


# ---------------------------------------------------------------- the index


def tiny_images(count: int, work: Path) -> dict[str, str]:
    """Images of a few bytes as tar, Parquet and Arrow."""
    import pyarrow
    import pyarrow.parquet

    names = [f"class{i % 1000}/{i:09d}.png" for i in range(count)]
    content = io.BytesIO()
    Image.new("L", (1, 1)).save(content, "PNG")
    found = {kind: str(work / f"{count}.{kind}") for kind in ("tar", "parquet", "arrow")}
    if not Path(found["arrow"]).is_file():
        work.mkdir(parents=True, exist_ok=True)
        about, pixels = tarfile.TarInfo(), content.getvalue()
        about.size = len(pixels)
        padded = pixels + bytes(-len(pixels) % 512)
        with open(found["tar"], "wb") as file:
            for name in names:
                about.name = name
                file.write(about.tobuf(tarfile.USTAR_FORMAT) + padded)
            file.write(bytes(1024))
        table = pyarrow.table({"image": [pixels] * count, "path": names})
        pyarrow.parquet.write_table(table, found["parquet"], row_group_size=GROUP)
        with pyarrow.OSFile(found["arrow"], "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, 1000)
    return found


def memory() -> dict[str, float]:
    """MiB of this process: anonymous memory now, and the largest resident size so far."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {name: int(lines[name].split()[0]) / 1024 for name in ("RssAnon", "VmHWM")}


def opening(data: str) -> None:
    """Prints how long it takes to open a source, and its memory; in a process of its own."""
    before, began = memory(), time.perf_counter()
    source = open_source(data)
    seconds = time.perf_counter() - began
    _ = source.keys, source.read(len(source) // 2, None)
    after = memory()
    print(json.dumps({
        "seconds": round(seconds, 3), "images": len(source),
        "memory_mib": round(after["RssAnon"] - before["RssAnon"], 1),
        "largest_mib": round(after["VmHWM"] - before["VmHWM"], 1),
    }))  # fmt: skip


def index(args: argparse.Namespace) -> Iterator[dict[str, object]]:
    data = tiny_images(args.members, args.work)
    for kind in args.kinds:
        path = data[kind]
        found: dict[str, list[dict[str, float]]] = {"first": [], "again": []}
        for _ in range(args.repeats):
            with tempfile.TemporaryDirectory() as cache:
                for when in found:
                    command = [sys.executable, __file__, "--opening", path]
                    done = subprocess.run(
                        command, env=os.environ | {"XDG_CACHE_HOME": cache}, capture_output=True, text=True, check=True
                    )
                    found[when].append(json.loads(done.stdout.splitlines()[-1]))
        yield {
            "case": f"index, {kind}", "members": args.members, "repeats": args.repeats,
            **{
                f"{when}_{what}": summary([row[what] for row in rows], 3)
                for when, rows in found.items() for what in ("seconds", "memory_mib", "largest_mib")
            },
        }  # fmt: skip


PARTS = {"loading": loading, "index": index}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--archives", type=Path, default=ARCHIVES)
    parser.add_argument("--folder", type=Path, help="images CLASS/NAME.jpg for all sizes, instead of --archives")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--members", type=int, default=1_000_000)
    parser.add_argument("--kinds", nargs="+", choices=OURS[1:], default=OURS[1:], help="of the index")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "lookalike-sources")
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "sources.jsonl")
    parser.add_argument("--opening", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.opening:
        opening(args.opening)
        return
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    torch.set_num_threads(1)
    versions = {
        name: importlib.metadata.version(name) for name in ("torch", "torchvision", "pyarrow", "datasets", "webdataset")
    }
    about = {"cores": args.cores, **versions, "lookalike": commit(), "machine": platform.machine()}
    for part in args.parts:
        for found in PARTS[part](args):
            row = {"benchmark": "sources", "date": time.strftime("%Y-%m-%d"), **found, **about}
            print(json.dumps(row), flush=True)
            append(args.record, row)


if __name__ == "__main__":
    main()
