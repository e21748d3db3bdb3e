"""Arrays of images in HDF5 and Zarr files: shapes, labels, and bad input by name."""

import os
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import zarr
from support.images import noise

from lookalike import cli
from lookalike.data import BrokenImage, open_maybe_labelled, open_source
from lookalike.data.sources import array_files

IMAGES = noise(6, 20, 30, 3)


def stored(folder: Path, suffix: str, **arrays: np.ndarray) -> str:
    """A new file with some arrays."""
    path = folder / str(len(os.listdir(folder))) / f"images.{suffix}"
    path.parent.mkdir()
    if suffix == "h5":
        with h5py.File(path, "w") as file:
            for name, values in arrays.items():
                file[name] = values
    else:
        group = zarr.open_group(str(path), mode="w")
        for name, values in arrays.items():
            made = group.create_array(name, shape=values.shape, dtype=values.dtype)
            made[:] = values
    return str(path)


both = pytest.mark.parametrize("suffix", ["h5", "zarr"])


@both
@pytest.mark.parametrize("form", ["gray", "last", "first"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_arrays_in_files_are_those_in_memory(suffix: str, form: str, dtype: type, tmp_path: Path) -> None:
    images = (IMAGES / 255).astype(dtype) if dtype == np.float32 else IMAGES.astype(dtype)
    images = {"gray": images[..., 0], "last": images, "first": images.transpose(0, 3, 1, 2)}[form]
    source = open_source(f"{stored(tmp_path, suffix, x=images)}::x")
    memory = open_source(images)
    assert len(source) == 6
    for i in (5, 0):
        assert torch.equal(source.read(i, None), memory.read(i, None))
        assert source.read(i, None).dtype == memory.read(i, None).dtype
    assert source.kind(0) == f"{'HDF5' if suffix == 'h5' else 'Zarr'} {np.dtype(dtype).name} {images.shape[1:]}"


@both
def test_labels_lie_beside_the_images(suffix: str, tmp_path: Path) -> None:
    file = stored(tmp_path, suffix, images=IMAGES, labels=np.array([0, 2, 1, 0, 1, 2]))
    source = open_source(f"{file}::images", labelled=True)
    assert source.classes == ("0", "1", "2")
    assert source.labels.tolist() == [0, 2, 1, 0, 1, 2]  # type: ignore[union-attr]
    file = stored(tmp_path, suffix, images=IMAGES, labels=np.arange(5))
    with pytest.raises(
        ValueError, match=rf"labels of \S+{suffix}::labels are of shape \(5,\).*expected 6 class indices"
    ):
        open_source(f"{file}::images", labelled=True)
    assert open_maybe_labelled(f"{file}::images").labels is None
    file = stored(tmp_path, suffix, images=IMAGES)
    with pytest.raises(ValueError, match=r"::images has no labels\. Add an array labels \(N,\) beside it"):
        open_source(f"{file}::images", labelled=True)


def test_labels_of_hdf5_may_be_texts(tmp_path: Path) -> None:
    file = stored(tmp_path, "h5", images=IMAGES)
    with h5py.File(file, "a") as opened:
        opened["labels"] = ["b", "a", "a", "b", "a", "a"]
    assert open_source(f"{file}::images", labelled=True).classes == ("a", "b")


@both
def test_bad_arrays_are_refused_by_name(suffix: str, tmp_path: Path) -> None:
    file = stored(tmp_path, suffix, images=IMAGES, labels=np.arange(6), flat=IMAGES[:, 0, 0, 0], none=IMAGES[:0])
    name = re.escape(file)
    for data, reason in (
        (f"{file}::imgs", rf"{name} has no array imgs; it has flat, images, labels, none\. Name the array of images: "),
        (f"{file}::images/deeper", r"has no array images/deeper; it has"),
        (file, rf"{name} has no array of that name; it has .*: {name}::flat"),
        (
            f"{file}::flat",
            r"::flat has shape \(6,\); expected \(N, H, W\), \(N, H, W, C\) or \(N, C, H, W\)\. Name the",
        ),
        (f"{file}::none", r"::none is empty\. Give an array of images"),
    ):
        with pytest.raises(ValueError, match=reason):
            open_source(data)
    with pytest.raises(FileNotFoundError, match=rf"none\.{suffix} does not exist"):
        open_source(tmp_path / f"none.{suffix}::images")


def test_objects_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        made = file.create_dataset("images", (2,), dtype=h5py.vlen_dtype(np.uint8))
        made[0] = np.frombuffer(b"abc", np.uint8)
    with pytest.raises(ValueError, match=r"a\.h5::images has the type object; expected pixels of uint8, uint16 or flo"):
        open_source(tmp_path / "a.h5::images")


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    file = Path(stored(tmp_path, "h5", images=IMAGES))
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"images\.h5 is not an HDF5 file, or is truncated \(.*\)\. Copy it again"):
        open_source(f"{file}::images")
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(ValueError, match=r"a\.zarr is not a Zarr folder, or is incomplete \(.*\)\. Copy it again"):
        open_source(tmp_path / "a.zarr::images")


@both
def test_values_that_are_no_pixels_are_broken_images_by_name(suffix: str, tmp_path: Path) -> None:
    images = (IMAGES / 255).astype(np.float32)
    images[3, 0, 0, 0] = np.nan
    source = open_source(f"{stored(tmp_path, suffix, images=images)}::images")
    assert source.read(2, None).dtype == torch.float32
    with pytest.raises(BrokenImage, match=r"images 3: float values from .* not all of them finite"):
        source.read(3, None)


@both
def test_a_file_that_changes_ends_the_training(suffix: str, tmp_path: Path) -> None:
    file = stored(tmp_path, suffix, images=IMAGES)
    source = open_source(f"{file}::images")
    described = file if suffix == "h5" else os.path.join(file, "images", "zarr.json")
    os.utime(described, ns=(1, 1))
    vars(source.dataset).pop("_open_in")  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=rf"images\.{suffix} has changed since it was opened\. Restore it"):
        source.read(0, None)
    os.rename(file, f"{file}.away")
    assert f"images.{suffix} no longer exists. Restore it" in source.missing()


def test_large_chunks_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_files, "_SLOW", 2**12)
    for count, notes in ((1, 0), (4, 1)):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("images", data=IMAGES, chunks=(count, 20, 30, 3))
        found = open_source(tmp_path / "a.h5::images").notes()
        assert len(found) == notes
    assert found[0].startswith("chunks of 4 images (7.03 KiB): reading one image decodes its chunk")


@both
def test_the_disk_cache_knows_the_file_or_says_why_not(suffix: str, tmp_path: Path) -> None:
    file = stored(tmp_path, suffix, images=IMAGES)
    source = open_source(f"{file}::images")
    if suffix == "h5":
        before = source.version()
        os.utime(file, ns=(1, 1))
        assert open_source(f"{file}::images").version() != before
    else:
        with pytest.raises(ValueError, match=r"images\.zarr is a folder of chunks\. Use --cache ram or none"):
            source.version()


@both
def test_without_its_package_the_extra_is_named(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = stored(tmp_path, suffix, images=IMAGES)
    monkeypatch.setattr("lookalike.places.find_spec", lambda name: None)
    package, extra = {"h5": ("h5py", "hdf5"), "zarr": ("zarr", "zarr")}[suffix]
    said = rf"Reading \.{suffix} needs {package}: pip install 'lookalike\[{extra}\]'"
    with pytest.raises(ModuleNotFoundError, match=said):
        open_source(f"{file}::images")


def test_the_command_line_takes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = stored(tmp_path, "h5", images=IMAGES)
    assert cli.main(["check", f"{file}::images", "--no-timing", "--workers", "0"]) == 0, capsys.readouterr()
    assert "formats     6 HDF5 uint8 (20, 30, 3)" in capsys.readouterr().out
    assert cli.main(["check", f"{file}::imgs", "--no-timing"]) == 1
    assert "has no array imgs; it has images" in capsys.readouterr().err
    assert cli.main(["check", f"{tmp_path}/none.h5::images"]) == 1
    assert "none.h5::images does not exist" in capsys.readouterr().err
