"""Images/s from each kind of DATA, in turns with webdataset, `datasets` and torchvision; indices of many members.

    pip install webdataset datasets
    python benchmarks/sources.py [--parts loading groups index large --workers 2 --repeats 5]
    python benchmarks/sources.py --table

Loading: the same JPEG files as folder, tar shards, Parquet and Arrow, for crops of 32 pixels (CIFAR-10) and 224 pixels
(photographs of 128 pixels and more). Each library decodes, makes one random crop with a flip, normalises, and gives
batches to the process that would train, on the same two cores, with the same number of --workers. All others are tried
with their default decoder (Pillow) and with the one that we use (simplejpeg), `datasets` also as a stream; the fastest
way of each in a first round is measured. The ratio is that of ours to the fastest of the others in the same round:
median, and its 95% bootstrap interval over rounds.

Groups: photographs in Parquet files with row groups of several sizes, read in random order, in turns with Arrow; the
file is larger than the decoded row groups that a process stores.

Index: --members images of a few bytes as tar, Parquet and Arrow. Each measurement is a new process: seconds until the
source is open for the first time and again (without imports), and the memory that this takes. Large: once, a tar
archive of --large members.

A line of JSON per case goes to --record; cases that it holds for this commit are left out (--again repeats them).
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
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
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
Runs = Callable[[], Iterator[int]]
"""Starts loading, and yields sizes of batches for ever."""
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
            yield len(made["image"] if isinstance(made, dict) else made if isinstance(made, torch.Tensor) else made[0])


Made = Callable[[bytes], torch.Tensor]
"""The content of an image file -> a normalised view."""


def by_pillow(side: int) -> Made:
    transform = transform_of(side)
    return lambda content: transform(Image.open(io.BytesIO(content)).convert("RGB"))


def by_simplejpeg(side: int) -> Made:
    transform = transform_of(side)
    return lambda content: transform(torch.from_numpy(simplejpeg.decode_jpeg(content)).permute(2, 0, 1))


DECODERS = {"Pillow": by_pillow, "simplejpeg": by_simplejpeg}


def loaded(source: object, batch: int, workers: int, **options: object) -> Iterator[int]:
    return batches(
        DataLoader(source, batch, drop_last=True, num_workers=workers, persistent_workers=workers > 0, **options)  # type: ignore[arg-type]
    )


def torchvisions(data: str, made: Made, batch: int, workers: int) -> Iterator[int]:
    from torchvision.datasets import ImageFolder

    source = ImageFolder(data, made, loader=lambda path: Path(path).read_bytes())  # type: ignore[arg-type]
    return loaded(source, batch, workers, shuffle=True)


def rows_of(data: str) -> Any:
    import datasets

    found = datasets.load_from_disk(data).select_columns(["image"])
    return found.cast_column("image", datasets.Image(decode=False))


def datasetss(data: str, made: Made, batch: int, workers: int) -> Iterator[int]:
    rows = rows_of(data).with_transform(lambda rows: {"image": [made(row["bytes"]) for row in rows["image"]]})
    return loaded(rows, batch, workers, shuffle=True)


def streams(data: str, made: Made, batch: int, workers: int) -> Iterator[int]:
    rows = rows_of(data).to_iterable_dataset(num_shards=SHARDS).shuffle(seed=0, buffer_size=1000)
    return loaded(
        rows, batch, workers, collate_fn=lambda rows: torch.stack([made(row["image"]["bytes"]) for row in rows])
    )


def webdatasets(data: str, made: Made, batch: int, workers: int) -> Iterator[int]:
    import webdataset

    source = webdataset.WebDataset(data, resampled=True, shardshuffle=False)
    source = source.shuffle(1000).to_tuple("jpg").map_tuple(made).batched(batch)
    return batches(webdataset.WebLoader(source, batch_size=None, num_workers=workers))


OTHERS: dict[str, tuple[str, dict[str, Callable[[str, Made, int, int], Iterator[int]]]]] = {
    "ImageFolder": ("folder", {"": torchvisions}),
    "datasets": ("arrow", {"": datasetss, "as a stream": streams}),
    "webdataset": ("tar", {"": webdatasets}),
}
"""Library -> the kind that it reads, and ways to make its batches."""


def ways_of(library: str, data: dict[str, str], side: int, batch: int, workers: int) -> dict[str, Runs]:
    """Each way to read by a library, by its name."""
    kind, ways = OTHERS[library]
    return {
        f"{decoder} {way}".strip(): partial(make, data[kind], DECODERS[decoder](side), batch, workers)
        for way, make in ways.items()
        for decoder in DECODERS
    }


def interval(values: list[float]) -> list[float]:
    """Median and its 95% bootstrap interval."""
    draws = np.random.default_rng(0).choice(values, (2000, len(values)))
    low, high = np.quantile(np.median(draws, 1), (0.025, 0.975))
    return [round(v, 3) for v in (statistics.median(values), float(low), float(high))]


def in_turns(runs: dict[str, Runs], args: argparse.Namespace) -> dict[str, list[float]]:
    """Images/s of each run in each round."""
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(args.repeats):
        names = list(runs)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            rates[name].append(rate(runs[name](), args.seconds))
    return rates


def loading(args: argparse.Namespace) -> Iterator[dict[str, object]]:
    for side, (archive, batch) in CASES.items():
        if is_done(args, f"{side} px"):
            continue
        folder = args.folder or unpacked(args.archives / archive, args.work)
        data = forms(folder, args.work / f"forms-{side}")
        size = args.batch or batch
        runs = {kind: partial(ours, data[kind], side, size, args.workers) for kind in OURS}
        chosen = {}
        for name in OTHERS:
            ways = ways_of(name, data, side, size, args.workers)
            first = {way: rate(make(), min(2.0, args.seconds)) for way, make in ways.items()}
            chosen[name] = max(first, key=first.__getitem__)
            runs[name] = ways[chosen[name]]
        rates = in_turns(runs, args)
        fastest = [max(each) for each in zip(*(rates[name] for name in OTHERS))]
        yield {
            "case": f"{side} px", "images": len(list(folder.rglob("*.jpg"))), "batch": size,
            "workers": args.workers, "repeats": args.repeats, "seconds": args.seconds, "ways": chosen,
            "images_per_s": {name: summary(found, 1) for name, found in rates.items()},
            "ratio_to_fastest": {kind: interval([a / b for a, b in zip(rates[kind], fastest)]) for kind in OURS},
        }  # fmt: skip


def groups(args: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Images/s from Parquet files by the number of images in a row group, and from Arrow."""
    import pyarrow
    import pyarrow.parquet

    if is_done(args, "row groups"):
        return
    archive, batch = CASES[224]
    files = sorted((args.folder or unpacked(args.archives / archive, args.work)).rglob("*.jpg"))
    files = (files * (-(-args.rows // len(files))))[: args.rows]
    table = pyarrow.table(
        {"image": [file.read_bytes() for file in files], "path": [f"{i:09d}.jpg" for i in range(len(files))]}
    )
    data = {str(size): str(args.work / f"groups-{len(files)}-{size}.parquet") for size in args.groups}
    data["Arrow"] = str(args.work / f"groups-{len(files)}.arrow")
    for size, path in data.items():
        if not Path(path).is_file() and size != "Arrow":
            # equal images would be stored once
            pyarrow.parquet.write_table(table, path, row_group_size=int(size), use_dictionary=False)
        elif not Path(path).is_file():
            with pyarrow.OSFile(path, "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table, 1000)
    mib = table.nbytes / 2**20
    del table
    size = args.batch or batch
    rates = in_turns({name: partial(ours, path, 224, size, args.workers) for name, path in data.items()}, args)
    yield {
        "case": "row groups", "images": len(files), "mib": round(mib, 1), "batch": size, "workers": args.workers,
        "repeats": args.repeats, "seconds": args.seconds,
        "images_per_s": {name: summary(found, 1) for name, found in rates.items()},
        "ratio_to_arrow": {
            name: interval([a / b for a, b in zip(found, rates["Arrow"])]) for name, found in rates.items()
        },
    }  # fmt: skip


# ---------------------------------------------------------------- the index


def write_tar(path: str, count: int, pixels: bytes) -> None:
    """A tar archive of `count` members with the same content, class000/000000000.png, ..., by copies of one header."""
    about = tarfile.TarInfo("class000/000000000.png")
    about.size = len(pixels)
    head = about.tobuf(tarfile.USTAR_FORMAT)
    member = np.frombuffer(head + pixels + bytes(-len(pixels) % 512), np.uint8)
    rest = sum(head) - sum(head[148:156]) + 8 * 32 - 12 * ord("0")  # the checksum without the 12 digits of the name
    with open(path, "wb") as file:
        for start in range(0, count, 2**16):
            numbers = np.arange(start, min(start + 2**16, count))
            block = np.tile(member, (len(numbers), 1))
            digits = np.stack([numbers % 1000 // 10**k % 10 for k in (2, 1, 0)], 1)
            digits = np.concatenate([digits, np.stack([numbers // 10**k % 10 for k in range(8, -1, -1)], 1)], 1)
            block[:, [5, 6, 7, *range(9, 18)]] = digits + ord("0")
            sums = rest + digits.sum(1) + 12 * ord("0")
            block[:, 148:154] = np.stack([sums // 8**k % 8 for k in range(5, -1, -1)], 1) + ord("0")
            file.write(block.tobytes())
        file.write(bytes(1024))


def tiny_images(count: int, work: Path, kinds: Sequence[str]) -> dict[str, str]:
    """Images of a few bytes as tar, Parquet and Arrow."""
    import pyarrow
    import pyarrow.parquet

    content = io.BytesIO()
    Image.new("L", (1, 1)).save(content, "PNG")
    pixels = content.getvalue()
    found = {kind: str(work / f"{count}.{kind}") for kind in kinds}
    work.mkdir(parents=True, exist_ok=True)
    for kind, path in found.items():
        part = f"{path}.part"
        if Path(path).is_file():
            continue
        if kind == "tar":
            write_tar(part, count, pixels)
        else:
            names = [f"class{i % 1000:03d}/{i:09d}.png" for i in range(count)]
            table = pyarrow.table({"image": [pixels] * count, "path": names})
            if kind == "parquet":
                pyarrow.parquet.write_table(table, part, row_group_size=GROUP)
            else:
                with pyarrow.OSFile(part, "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
                    writer.write_table(table, 1000)
        os.rename(part, path)
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


def opened(path: str, repeats: int) -> dict[str, list[float]]:
    """Summaries of seconds and memory, for the first time and again."""
    found: dict[str, list[dict[str, float]]] = {"first": [], "again": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            for rows in found.values():
                done = subprocess.run(
                    [sys.executable, __file__, "--opening", path], env=os.environ | {"XDG_CACHE_HOME": cache},
                    capture_output=True, text=True, check=True,
                )  # fmt: skip
                rows.append(json.loads(done.stdout.splitlines()[-1]))
    return {
        f"{when}_{what}": summary([row[what] for row in rows], 3)
        for when, rows in found.items()
        for what in ("seconds", "memory_mib", "largest_mib")
    }


def index(args: argparse.Namespace) -> Iterator[dict[str, object]]:
    for kind in args.kinds:
        case = f"index, {kind}"
        if not is_done(args, case):
            path = tiny_images(args.members, args.work, [kind])[kind]
            repeats = min(3, args.repeats)
            yield {"case": case, "members": args.members, "repeats": repeats, **opened(path, repeats)}


def large(args: argparse.Namespace) -> Iterator[dict[str, object]]:
    case = "large index, tar"
    if not is_done(args, case):
        path = tiny_images(args.large, args.work, ["tar"])["tar"]
        yield {"case": case, "members": args.large, "repeats": 1, **opened(path, 1)}
        os.unlink(path)


PARTS = {"loading": loading, "groups": groups, "index": index, "large": large}


def is_done(args: argparse.Namespace, case: str) -> bool:
    """Whether the record holds a case for this commit."""
    rows = rows_in(args.record)
    return not args.again and any(row["case"] == case and row["lookalike"] == commit() for row in rows)


def rows_in(record: Path) -> list[dict[str, Any]]:
    lines = record.read_text().splitlines() if record.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def table(record: Path) -> str:
    """The latest row of each case as tables for the documentation."""
    rows = {str(row["case"]): row for row in rows_in(record)}
    sizes = [row for case, row in rows.items() if case.endswith(" px")]
    lines = [f"| images/s | {' | '.join(str(row['case']) for row in sizes)} |", f"| -- {'| -- ' * len(sizes)}|"]
    for name in (*OURS, *OTHERS):
        cells = []
        for row in sizes:
            middle, low, high = row["images_per_s"][name]
            ratio = row["ratio_to_fastest"].get(name)
            more = f"; {ratio[0]:.2f} ({ratio[1]:.2f} to {ratio[2]:.2f}) x" if ratio else f"; {row['ways'][name]}"
            cells.append(f"{middle:,.0f} ({low:,.0f} to {high:,.0f}){more}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if row := rows.get("row groups"):
        lines += [
            "",
            f"| images in a row group | images/s of {row['images']:,} images, {row['mib']:.0f} MiB | of Arrow's |",
        ]
        lines += ["| -- | -- | -- |"]
        for name, (middle, low, high) in row["images_per_s"].items():
            ratio = row["ratio_to_arrow"][name]
            cell = f"{ratio[0]:.2f} ({ratio[1]:.2f} to {ratio[2]:.2f})"
            lines.append(f"| {name} | {middle:,.0f} ({low:,.0f} to {high:,.0f}) | {cell} |")
    lines += ["", "| index | members | first start | memory | later start | memory |", "| -- " * 6 + "|"]
    for case, row in rows.items():
        if "index" in case:
            cells = [case.rpartition(" ")[2], f"{row['members']:,}"]
            for when in ("first", "again"):
                cells += [f"{row[f'{when}_seconds'][0]:.2f} s", f"{row[f'{when}_largest_mib'][0]:.0f} MiB"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--archives", type=Path, default=ARCHIVES)
    parser.add_argument("--folder", type=Path, help="images CLASS/NAME.jpg for all sizes, instead of --archives")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rows", type=int, default=120_000, help="images of the part groups")
    parser.add_argument("--groups", type=int, nargs="+", default=[10, 100, 1000, 10_000], help="images in a row group")
    parser.add_argument("--members", type=int, default=1_000_000)
    parser.add_argument("--large", type=int, default=10_000_000)
    parser.add_argument("--again", action="store_true", help="repeat cases that the record holds for this commit")
    parser.add_argument("--table", action="store_true", help="print the latest rows as tables")
    parser.add_argument("--kinds", nargs="+", choices=OURS[1:], default=OURS[1:], help="of the index")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "lookalike-sources")
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "sources.jsonl")
    parser.add_argument("--opening", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.opening:
        opening(args.opening)
        return
    if args.table:
        print(table(args.record))
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
