"""DICOM files: rescaled values, windows, frames, compressed syntaxes, and what is refused by name."""

import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data.data_manager import DATA_ROOT
from pydicom.dataset import Dataset
from support.scans import scan

from lookalike import cli
from lookalike.data import BrokenImage, Pixels, Scale, Tiling, decode, dicom, open_source
from lookalike.data.decoding import kind_of

RNG = np.random.default_rng(0)


def near(found: object, expected: np.ndarray, by: float) -> None:
    assert np.abs(np.asarray(found).astype("f8") - expected).max() <= by


def test_hounsfield_units_are_scaled_by_range(tmp_path: Path) -> None:
    stored = RNG.integers(0, 4096, (9, 7)).astype("u2")
    scan(tmp_path / "x.dcm", stored, RescaleSlope=1, RescaleIntercept=-1024)
    found = decode(tmp_path / "x.dcm", Pixels(1, scale=Scale.of("range -1000 400"))).numpy()[0]
    near(found, ((stored - 1024.0 + 1000) / 1400).clip(0, 1), 1e-6)
    raw = decode(tmp_path / "x.dcm", Pixels(1, scale=Scale.of("percentile 1 99"))).numpy()[0]
    near(raw, stored - 1024.0, 0)


def test_the_first_window_is_used_by_default(tmp_path: Path) -> None:
    stored = RNG.integers(-1000, 2000, (9, 7)).astype("i2")
    window = {"WindowCenter": [40, 600], "WindowWidth": [400, 1600]}
    scan(tmp_path / "x.dcm", stored, RescaleSlope=1, RescaleIntercept=0, **window)
    unit = ((stored - 39.5) / 399 + 0.5).clip(0, 1)
    near(decode(tmp_path / "x.dcm", 1).numpy()[0], unit * 65535, 0.51)
    for function, expected in (
        ("LINEAR_EXACT", ((stored - 40) / 400 + 0.5).clip(0, 1)),
        ("SIGMOID", 1 / (1 + np.exp(-4 * (stored - 40) / 400))),
    ):
        scan(tmp_path / "x.dcm", stored, VOILUTFunction=function, **window)
        near(decode(tmp_path / "x.dcm", 1).numpy()[0], expected * 65535, 0.51)


def test_without_a_window_the_stored_bits_are_the_range(tmp_path: Path) -> None:
    stored = RNG.integers(0, 4096, (9, 7)).astype("u2")
    scan(tmp_path / "x.dcm", stored, BitsStored=12, HighBit=11)
    near(decode(tmp_path / "x.dcm", 1).numpy()[0], stored / 4095 * 65535, 0.51)
    eight = RNG.integers(0, 256, (9, 7)).astype("u1")
    scan(tmp_path / "y.dcm", eight)
    assert np.array_equal(decode(tmp_path / "y.dcm", 1).numpy()[0], eight)
    assert np.array_equal(decode((tmp_path / "y.dcm").read_bytes(), 3).numpy(), np.stack([eight] * 3))


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    for dtype, scale in (("u1", "dtype"), ("u2", "dtype"), ("u2", "range 0 1000")):
        stored = RNG.integers(0, 200, (9, 7)).astype(dtype)
        pixels = Pixels(1, scale=Scale.of(scale))
        found = []
        for interpretation in ("MONOCHROME1", "MONOCHROME2"):
            scan(tmp_path / "x.dcm", stored, interpretation)
            found.append(decode(tmp_path / "x.dcm", pixels).numpy().astype("i4"))
        assert (found[0] + found[1] == (255 if dtype == "u1" else 65535)).all()


def test_colour_is_read_as_colour(tmp_path: Path) -> None:
    array = RNG.integers(0, 256, (9, 7, 3)).astype("u1")
    scan(tmp_path / "x.dcm", array, "RGB")
    assert np.array_equal(decode(tmp_path / "x.dcm", 3).numpy(), array.transpose(2, 0, 1))
    assert decode(tmp_path / "x.dcm", 1).shape == (1, 9, 7)


def test_each_frame_is_an_image(tmp_path: Path) -> None:
    frames = RNG.integers(0, 256, (4, 9, 7)).astype("u1")
    scan(tmp_path / "p/many.dcm", frames, NumberOfFrames=4)
    scan(tmp_path / "p/one.dcm", frames[0])
    source = open_source(tmp_path, 1, labelled=True)
    names = [f"p/many.dcm#{i}" for i in range(1, 5)] + ["p/one.dcm"]
    assert [source.name(i) for i in range(5)] == names
    assert len(set(source.keys.tolist())) == 5
    for i, array in enumerate([*frames, frames[0]]):
        assert np.array_equal(source.read(i, None).numpy()[0], array)
    assert source.file(2) == str(tmp_path / "p/many.dcm")
    assert source.classes == ("p",)
    listing = tmp_path / "list.txt"
    listing.write_text("p/many.dcm\n")
    assert len(open_source(listing, 1)) == 4
    with pytest.raises(BrokenImage, match="no frame 5; the file has 4"):
        decode(tmp_path / "p/many.dcm#5", 1)
    assert kind_of(tmp_path / "p/many.dcm").endswith("several pages")
    assert not kind_of(tmp_path / "p/many.dcm#2").endswith("several pages")


def test_windows_of_functional_groups_belong_to_their_frame(tmp_path: Path) -> None:
    frames = np.stack([np.full((4, 4), 100), np.full((4, 4), 100)]).astype("u2")
    groups = []
    for center in (100, 10_000):
        window, group = Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth, window.VOILUTFunction = center, 100, "LINEAR_EXACT"
        group.FrameVOILUTSequence = [window]
        groups.append(group)
    scan(tmp_path / "x.dcm", frames, NumberOfFrames=2, PerFrameFunctionalGroupsSequence=groups)
    assert abs(int(decode(tmp_path / "x.dcm#1", 1)[0, 0, 0]) - 32768) <= 1
    assert int(decode(tmp_path / "x.dcm#2", 1)[0, 0, 0]) == 0


def test_files_without_pixels_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan(tmp_path / "a.dcm", RNG.integers(0, 256, (40, 40)).astype("u1"))
    scan(tmp_path / "b.dcm", RNG.integers(0, 256, (40, 40)).astype("u1"))
    report = pydicom.dcmread(tmp_path / "a.dcm")
    for name in ("PixelData", "Rows", "Columns"):
        delattr(report, name)
    report.save_as(tmp_path / "report.dcm")
    source = open_source(tmp_path, 1)
    assert [source.name(i) for i in range(len(source))] == ["a.dcm", "b.dcm"]
    assert source.notes() == ["skipped: 1 DICOM file without pixels, such as report.dcm"]
    assert cli.main(["check", str(tmp_path), "--channels", "1", "--workers", "0", "--no-timing"]) == 0
    assert "1 DICOM file without pixels" in (shown := capsys.readouterr().out)
    assert "2 DICOM CT MONOCHROME2 8 bits" in shown
    with pytest.raises(BrokenImage, match="not supported: a DICOM file without pixels"):
        decode(tmp_path / "report.dcm", 1)
    for name in ("a.dcm", "b.dcm"):
        (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=r"contains no images .*1 DICOM file without pixels"):
        open_source(tmp_path, 1)


def test_damaged_and_cut_files_are_broken_by_name(tmp_path: Path) -> None:
    scan(tmp_path / "x.dcm", RNG.integers(0, 256, (40, 40)).astype("u1"))
    whole = (tmp_path / "x.dcm").read_bytes()
    for end in (132, 200, 400, len(whole) // 2, len(whole) - 100):
        (tmp_path / "cut.dcm").write_bytes(whole[:end])
        with pytest.raises(BrokenImage, match=r"cut\.dcm"):
            decode(tmp_path / "cut.dcm", 1)
        assert dicom.frames(tmp_path / "cut.dcm") in (None, 1)


def test_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan(tmp_path / "x.dcm", RNG.integers(0, 256, (40, 40)).astype("u1"))
    monkeypatch.setattr(dicom, "is_installed", lambda: False)
    with pytest.raises(BrokenImage, match=r"not supported: DICOM\. pip install 'lookalike\[dicom\]' reads it"):
        decode(tmp_path / "x.dcm", 1)


SHIPPED = sorted(path for path in (Path(DATA_ROOT) / "test_files").rglob("*") if path.is_file())
"""The files that pydicom's package contains; others would be downloaded."""


def test_pydicoms_own_files_are_read_or_refused_by_name(capfd: pytest.CaptureFixture[str]) -> None:
    read, refused = [], {}
    for path in SHIPPED:
        if path.read_bytes()[128:132] != b"DICM" and path.suffix != ".dcm":
            continue
        try:
            image = decode(path, 3)
        except BrokenImage as error:
            refused[path.name] = error.reason
            continue
        assert image.shape[0] == 3
        assert image.numel()
        read.append(path.name)
    assert capfd.readouterr().err == ""
    assert len(read) >= 30, refused
    for name, reason in refused.items():
        assert reason.startswith(("not supported: ", "its pixels are damaged", "not an image of a known format")), (
            name,
            reason,
        )
    assert {"CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "MR_small_RLE.dcm", "US1_J2KR.dcm"} & {*read} >= {
        "CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "MR_small_RLE.dcm",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["tar", "zip", "deflated"])
def test_each_frame_in_an_archive_is_an_image(kind: str, tmp_path: Path) -> None:
    """As in the folder: the same names, keys, labels and pixels; without pixels, counted."""
    folder, frames = tmp_path / "folder", RNG.integers(0, 256, (4, 90, 70)).astype("u1")
    scan(folder / "p/many.dcm", frames, NumberOfFrames=4)
    scan(folder / "q/one.dcm", frames[0])
    report = pydicom.dcmread(folder / "q/one.dcm")
    for name in ("PixelData", "Rows", "Columns"):
        delattr(report, name)
    report.save_as(folder / "q/report.dcm")
    archive = tmp_path / f"scans.{'tar' if kind == 'tar' else 'zip'}"
    if kind == "tar":
        with tarfile.open(archive, "w") as file:
            file.add(folder, ".")
    else:
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED if kind == "deflated" else zipfile.ZIP_STORED) as made:
            for path in sorted(folder.rglob("*.dcm")):
                made.write(path, path.relative_to(folder))
    a, b = open_source(folder, 1, labelled=True), open_source(archive, 1, labelled=True)
    assert len(a) == len(b) == 5
    assert a.keys.tolist() == b.keys.tolist()
    assert a.labels is not None
    assert b.labels is not None
    assert a.labels.tolist() == b.labels.tolist()
    for i in range(5):
        assert a.name(i) == b.name(i)
        assert a.kind(i) == b.kind(i)
        assert np.array_equal(a.read(i, None).numpy(), b.read(i, None).numpy())
    assert b.notes() == [f"{archive.name}: skipped: 1 DICOM file without pixels, such as q/report.dcm"]
    tiles = open_source(archive, 1, tiling=Tiling(40, 40))
    assert np.array_equal(tiles.read(6, None).numpy()[0], frames[1, :40, :40])
