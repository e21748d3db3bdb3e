"""The same images in every kind of DATA."""

import io
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from lookalike.data import open_source


def files(root: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents, in another order than that of the names."""
    for path in sorted(root.rglob("*.jpg"), key=lambda path: path.name):
        yield path.relative_to(root).as_posix(), path.read_bytes()


def folder(root: Path, out: Path) -> str:
    return str(root)


def text_list(root: Path, out: Path) -> str:
    copied = Path(shutil.copytree(root, out / "images"))
    (copied / "list.txt").write_text("".join(f"{name}\n" for name in sorted(dict(files(root)))))
    return str(copied / "list.txt")


def csv_list(root: Path, out: Path) -> str:
    copied = Path(shutil.copytree(root, out / "images"))
    rows = [f"{name},{name.split('/')[0]}\n" for name in sorted(dict(files(root)))]
    (copied / "list.csv").write_text("".join(["path,label\n", *rows]))
    return str(copied / "list.csv")


def tar(root: Path, out: Path) -> str:
    with tarfile.open(out / "images.tar", "w") as file:
        for name, content in files(root):
            about = tarfile.TarInfo(name)
            about.size = len(content)
            file.addfile(about, io.BytesIO(content))
    return str(out / "images.tar")


def zipped(root: Path, out: Path) -> str:
    with zipfile.ZipFile(out / "images.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files(root):
            file.writestr(name, content)
    return str(out / "images.zip")


def columns(root: Path, as_struct: bool = True, names: bool = True) -> dict[str, list[object]]:
    """Columns of a table: images as `datasets` has them, or bytes; their names and classes."""
    rows = list(files(root))
    images = [{"bytes": content, "path": None} if as_struct else content for _, content in rows]
    found: dict[str, list[object]] = {"image": list(images), "label": [name.split("/")[0] for name, _ in rows]}
    return found | ({"path": [name for name, _ in rows]} if names else {})


def written(path: Path, content: dict[str, list[object]], rows: int = 7) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(content), path, row_group_size=rows)
    return path


def parquet(root: Path, out: Path) -> str:
    return str(written(out / "images.parquet", columns(root)))


def parquet_shards(root: Path, out: Path) -> str:
    """Three files with plain bytes; the names are in no order among the files."""
    content = columns(root, as_struct=False)
    for i in range(3):
        written(out / f"images-{i:02d}.parquet", {name: values[i::3] for name, values in content.items()})
    return str(out / "images-{00..02}.parquet")


def parquet_folder(root: Path, out: Path) -> str:
    parquet_shards(root, out)
    return str(out)


def parquet_of_paths(root: Path, out: Path) -> str:
    copied = Path(shutil.copytree(root, out / "images"))
    names = sorted(dict(files(root)))
    return str(written(copied / "list.parquet", {"path": list(names), "label": [n.split("/")[0] for n in names]}))


def arrow(root: Path, out: Path, names: bool = True) -> str:
    """Two files, as `save_to_disk` writes them, with classes as numbers."""
    import datasets

    content = columns(root, names=names)
    classes = sorted({str(label) for label in content["label"]})
    kinds: dict[str, object] = {"image": datasets.Image(), "label": datasets.ClassLabel(names=classes)}
    kinds |= {"path": datasets.Value("string")} if names else {}
    made = datasets.Dataset.from_dict(content, features=datasets.Features(kinds))
    made.save_to_disk(str(out / "saved"), num_shards=2)
    return str(out / "saved")


def arrow_numbered(root: Path, out: Path) -> str:
    return arrow(root, out, names=False)


def pixels(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """(N, H, W, C) uint8, and the classes as numbers, in the order of the names."""
    source = open_source(root, labelled=True)
    assert source.labels is not None
    images = [source.read(i, None).permute(1, 2, 0).numpy() for i in range(len(source))]
    return np.stack(images), source.labels.numpy()


def frames(root: Path, out: Path) -> str:
    """An eighth of the images, larger: with `TILES`, as many tiles as there were images."""
    from PIL import Image

    (out / "frames").mkdir()
    for name, _ in list(files(root))[::8]:
        with Image.open(root / name) as opened:
            large = opened.resize((104, 56))
        large.save(out / "frames" / f"{name.replace('/', '-')}.png")
    return str(out / "frames")


TILES = ("--tile", "32", "--stride", "24")


def hdf5(root: Path, out: Path) -> str:
    import h5py

    images, labels = pixels(root)
    with h5py.File(out / "images.h5", "w") as file:
        file.create_dataset("train/images", data=images, chunks=(1, *images.shape[1:]), compression="gzip")
        file["train/labels"] = labels
    return f"{out / 'images.h5'}::train/images"


def zarrs(root: Path, out: Path) -> str:
    import zarr

    images, labels = pixels(root)
    group = zarr.open_group(str(out / "images.zarr"), mode="w")
    for name, values in (("images", images.transpose(0, 3, 1, 2)), ("labels", labels)):
        group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=(4, *values.shape[1:]))[:] = values
    return f"{out / 'images.zarr'}::images"


Kind = Callable[[Path, Path], str]
"""Writes the images of a folder in another form, into a folder that is empty, and returns the DATA."""


def _named(kinds: Sequence[Kind]) -> dict[str, Kind]:
    return {kind.__name__: kind for kind in kinds}


NAMED = _named(
    (folder, text_list, csv_list, tar, zipped, parquet, parquet_shards, parquet_folder, parquet_of_paths, arrow)
)
"""Kinds whose images have names, which are those of the folder."""
TILED = _named((frames,))
"""Large frames, given with `TILES`."""
NUMBERED = _named((arrow_numbered, hdf5, zarrs))
"""Kinds whose images have numbers only."""
