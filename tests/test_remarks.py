"""What is said of images before they are used: passed over, left out, of another form, grey, or without contrast."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import tiny
from support.files import png, tiff

from lookalike import cli
from lookalike.commands import show
from lookalike.commands.report import projection
from lookalike.data import BrokenImage, Loader, Pixels, decode, folders, limits, open_source, plugins, remarks
from lookalike.data import tiff as tiff_module
from lookalike.data.decoding import kind_of
from lookalike.data.remarks import ALL, warnings_about
from lookalike.images import levels
from lookalike.runs import Folder
from lookalike.views import black_and_white

RNG = np.random.default_rng(0)
SMALL = ["--backbone", tiny.CNN, "--image-size", "32", "--batch-size", "8", "--epochs", "1", "--workers", "0"]


def noise(*shape: int, top: int = 255, dtype: str = "u1") -> np.ndarray:
    return RNG.integers(0, top + 1, shape).astype(dtype)


def photo(path: Path, size: int = 32) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(size, size, 3)).save(path)


def checked(data: Path, capfd: pytest.CaptureFixture[str], *options: str) -> str:
    """What `check` prints; nothing on stderr, of no library."""
    capfd.readouterr()
    assert cli.main(["check", str(data), "--workers", "0", "--no-timing", *options]) == 0
    shown = capfd.readouterr()
    assert shown.err == ""
    return shown.out


def started(data: Path, out: Path, capfd: pytest.CaptureFixture[str], *options: str) -> str:
    """What a training says before its first epoch's line."""
    capfd.readouterr()
    argv = ["pretrain", "simclr", str(data), "--out", str(out), "--no-report", "--overwrite", *SMALL, *options]
    assert cli.main(argv) == 0, capfd.readouterr().err
    shown = capfd.readouterr()
    assert shown.err == ""
    return shown.out.partition("epoch 1/1")[0]


# ---------------------------------------------------------------- images of other forms


BANDS = {
    "2 x 16 bits": tiff(noise(32, 32, 2, dtype="u2"), extra=[0]),
    "4 x 16 bits": tiff(noise(32, 32, 4, dtype="u2"), 2, extra=[0]),
    "5 x 8 bits": tiff(noise(32, 32, 5), extra=[0] * 4),
    "8 x 16 bits": tiff(noise(32, 32, 8, dtype="u2"), extra=[0] * 7),
    "13 x 16 bits": tiff(noise(32, 32, 13, dtype="u2"), extra=[0] * 12, planar=True),
}


@pytest.mark.parametrize("what", BANDS)
def test_a_file_of_many_bands_says_so_and_what_it_advises_works(what: str, tmp_path: Path) -> None:
    bands = int(what.split()[0])
    other = 5 if bands == 4 else 3
    with pytest.raises(BrokenImage, match=rf"^\(bytes\): not supported: has {bands} channels") as caught:
        decode(BANDS[what], other)
    advised = re.search(r"Give --channels (\d+), or choose some with --bands", str(caught.value))
    assert advised is not None
    assert decode(BANDS[what], int(advised[1])).shape == (bands, 32, 32)
    assert decode(BANDS[what], Pixels(2, bands=("2", "1"))).shape == (2, 32, 32)
    np.save(tmp_path / "x.npy", noise(bands, 7, 9, dtype="u2"))
    assert decode(tmp_path / "x.npy", bands).shape == (bands, 7, 9)


@pytest.mark.parametrize("what", [*BANDS, "RGB of floats", "pages"])
def test_without_tifffile_the_extra_is_named(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"RGB of floats": tiff(noise(9, 7, 3).astype("f4") / 255, 2), "pages": saved(5)}
    monkeypatch.setattr(tiff_module, "is_installed", lambda: False)
    with pytest.raises(BrokenImage, match=r"not supported: a TIFF .*pip install 'lookalike\[tiff\]' reads it"):
        decode((BANDS | more)[what], 5 if what == "pages" else 3)


def test_three_bands_of_other_numbers_are_read(tmp_path: Path) -> None:
    for array in (noise(9, 7, 3, dtype="u2"), noise(9, 7, 3).astype("f4") / 255):
        assert decode(tiff(array, 2), 3).shape == (3, 9, 7)
        np.save(tmp_path / "x.npy", array)
        assert decode(tmp_path / "x.npy", 3).shape == (3, 9, 7)
    assert decode(png(noise(9, 7, 3, dtype="u2")), 3).shape == (3, 9, 7)


def test_whole_images_of_another_form_are_not_called_broken(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for i in range(3):
        (tmp_path / f"bands{i}.tif").write_bytes(BANDS["8 x 16 bits"])
    text = checked(tmp_path, capfd)
    assert "3, of which 0 cannot be read, and 3 are valid but not supported" in text
    with pytest.raises(ValueError, match=r"None of 3 images tried in turn (?s:.*)Convert them") as caught:
        next(iter(Loader(open_source(tmp_path), 2, 0)))
    assert "epair" not in str(caught.value)
    for i in range(3):
        photo(tmp_path / f"good{i}.png")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    text = checked(tmp_path, capfd)
    assert "7, of which 1 cannot be read, and 3 are valid but not supported" in text
    line = "3 of 6 inspected images are intact but in an unsupported form. The first is bands"
    assert line in started(tmp_path, tmp_path / "run", capfd, "--max-broken", "0.9", "--batch-size", "2")
    with pytest.raises(
        ValueError, match=r"could not be read, more than the allowed fraction(?s:.*)Repair or convert them"
    ):
        list(Loader(open_source(tmp_path), 2, 0))


def test_a_second_band_is_not_lost_in_silence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bands = noise(32, 32, 2)
    for i in range(8):
        (tmp_path / f"{i}.tif").write_bytes(tiff(bands, extra=[0]))
    line = "8 of 8 inspected images (TIFF L of 2 bands) have extra bands after the colours, which are discarded."
    advice = "Pretraining with --bands 1 2 3 ... chooses bands, --channels 2 reads all."
    for text in (checked(tmp_path, capfd), started(tmp_path, tmp_path / "run", capfd)):
        assert f"{line} {advice}" in text
        assert "--channels 4" not in text
    for i in range(8):
        (tmp_path / f"{i}.tif").unlink()
        np.save(tmp_path / f"{i}.npy", bands.transpose(2, 0, 1))
    assert "extra bands" not in started(tmp_path, tmp_path / "run", capfd, "--channels", "2")


def test_channels_that_lie_in_bands_or_pages_are_named_where_they_are_asked_for() -> None:
    pages = io.BytesIO()
    first, *rest = [Image.fromarray(noise(9, 7)) for _ in range(5)]
    first.save(pages, "TIFF", save_all=True, append_images=rest)
    for content, channels, words in (
        (tiff(noise(9, 7, 6), 2, extra=[0] * 3), 4, r"a TIFF of 6 x 8 bits .*--channels 6"),
        (pages.getvalue(), 4, r"a TIFF with 5 pages, .*--channels 5"),
    ):
        with pytest.raises(BrokenImage, match=words):
            decode(content, channels)
    assert decode(tiff(noise(9, 7, 6), 2, extra=[0] * 3), 6).shape == (6, 9, 7)
    assert decode(tiff(noise(9, 7, 2), extra=[0]), 2).shape == (2, 9, 7)
    assert decode(pages.getvalue(), 5).shape == (5, 9, 7)
    assert decode(tiff(noise(9, 7, 4), 2, extra=[0]), 4).shape == (4, 9, 7)


def test_damaged_pixels_are_called_so_in_our_words() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 8, (128, 128, 3), np.uint8))
    for kind, options in (("TIFF", {"compression": "tiff_adobe_deflate"}), ("PNG", {})):
        file = io.BytesIO()
        image.save(file, kind, **options)
        content = file.getvalue()
        half = len(content) // 2
        with pytest.raises(BrokenImage, match=r": its pixels are damaged$"):
            decode(content[:half] + b"\xff" * 500 + content[half + 500 :], 3)


def test_one_of_a_kind_is_said_as_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pages.tif").write_bytes(saved(3))
    (tmp_path / "bands.tif").write_bytes(tiff(noise(32, 32, 5), 2, extra=[0] * 2))
    np.save(tmp_path / "dark.npy", noise(1, 32, 32, top=99, dtype="u2"))
    Image.new("L", (32, 32)).save(tmp_path / "dark.png")
    text = checked(tmp_path, capfd)
    for words in (
        "1 of 4 inspected files has several pages; only the first is used. If pages are channels, --bands 1 2 3 ...",
        "1 of 4 inspected images (TIFF RGB of 5 bands) has extra bands after the colours",
        "1 uint16 image uses a small part of the value range",
        "1 of 4 images is constant, or nearly so: dark.png. ",
        "same names  1 name with several suffixes, such as dark.npy, dark.png. For 1, they differ",
    ):
        assert words in text, words
    assert "uint8 image" not in text  # what is blank has no range


def test_floats_beyond_1_are_named_at_the_start(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for i in range(16):
        values = noise(32, 32).astype(np.float32) / 255
        if i % 4 == 0:
            values[3, 5] = 1.02
        Image.fromarray(values).save(tmp_path / f"{i:02}.tif")
    reason = "not supported: float values from 0 to 1.02; expected 0 to 1. Give --scale range LOW HIGH"
    assert "16, of which 0 cannot be read, and 4 are valid" in (text := checked(tmp_path, capfd))
    assert f"00.tif: {reason}" in text
    text = started(tmp_path, tmp_path / "run", capfd, "--max-broken", "0.5")
    assert re.search(rf"WARNING     4 of 16 inspected images are intact but .* \d+\.tif: {re.escape(reason)}", text)
    for path in tmp_path.glob("*.tif"):
        Image.fromarray(np.asarray(Image.open(path, formats=["TIFF"])) / np.float32(1.02)).save(path)
    assert "16, of which 0 cannot be read\n" in checked(tmp_path, capfd)


# ---------------------------------------------------------------- pages and animations


def saved(pages: int, kind: str = "TIFF", **options: object) -> bytes:
    file = io.BytesIO()
    first, *rest = [Image.fromarray(noise(9, 7)) for _ in range(pages)]
    first.save(file, kind, save_all=True, append_images=rest, **options)  # type: ignore[arg-type]
    return file.getvalue()


@pytest.mark.parametrize("big", [False, True])
def test_pages_are_counted_as_pages(big: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    for pages in (1, 2, 3):
        path.write_bytes(saved(pages, big_tiff=big))
        assert kind_of(path) == ("TIFF L" if pages == 1 else "TIFF L, several pages")
    content = saved(3, big_tiff=big)
    for end in range(0, len(content), 11):  # whatever is missing, the first picture counts
        path.write_bytes(content[:end])
        try:
            kind = kind_of(path)
        except Exception:
            continue
        assert kind.startswith("TIFF L")


def test_smaller_versions_of_a_picture_are_no_pages(tmp_path: Path) -> None:
    large, small = Image.fromarray(noise(32, 32)), Image.fromarray(noise(16, 16))
    for tag, value in ((254, 1), (254, 4), (255, 2)):
        small.encoderinfo = {"tiffinfo": {tag: value}}
        large.save(tmp_path / "x.tif", save_all=True, append_images=[small])
        with Image.open(tmp_path / "x.tif", formats=["TIFF"]) as image:
            image.seek(1)
            assert image.tag_v2[tag] == value
        assert kind_of(tmp_path / "x.tif") == "TIFF L"


def test_of_several_pages_the_first_is_used_and_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for i in range(8):
        (tmp_path / f"{i}.tif").write_bytes(saved(3))
        (tmp_path / f"{i}.gif").write_bytes(saved(2, "GIF"))
    for text in (checked(tmp_path, capfd), started(tmp_path, tmp_path / "run", capfd)):
        assert "8 of 16 inspected files have several pages; only the first is used" in text
        assert "8 of 16 inspected files are animated; only the first frame is used" in text
    assert cli.main(["embed", str(tmp_path / "run"), str(tmp_path), "--out", str(tmp_path / "e.npz")]) == 0
    assert "images: 8 of 16 inspected files have several pages; only the first is used" in capfd.readouterr().out


def test_a_cameras_preview_is_no_animation(tmp_path: Path) -> None:
    (tmp_path / "x.mpo").write_bytes(saved(2, "MPO"))
    assert kind_of(tmp_path / "x.mpo") == "MPO L"


# ---------------------------------------------------------------- what is passed over


def test_files_that_are_passed_over_are_counted_by_suffix(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "SUFFIXES", folders.SUFFIXES - plugins.OPTIONAL.keys())  # without the extras
    monkeypatch.setattr(plugins, "find_spec", lambda name: None)
    data, out = tmp_path / "photos", tmp_path / "run"
    for i in range(16):
        photo(data / f"{i}.jpg")
    for count, suffix in ((10, ".HEIC"), (10, ""), (14, ".dcm"), (1, ".csv")):
        for i in range(count):
            (data / "more").mkdir(exist_ok=True)
            (data / "more" / f"other{i}{suffix}").write_bytes(b"x")
    (data / ".hidden.jpg").write_bytes(b"x")
    passed = (
        "skipped: 14 .dcm, 10 .heic, 10 without suffix, 1 .csv, 1 hidden or system files (.hidden.jpg). pip install "
        "'lookalike[dicom]' reads .dcm; pip install 'lookalike[heic]' reads .heic. Convert images among them to PNG or "
        "TIFF"
    )
    table = tmp_path / "check.json"
    assert passed in checked(data, capfd, "--out", str(table))
    assert json.loads(table.read_text())["images"]["notes"][0].startswith(passed)
    assert f"16 images in {data}\n            {passed}" in started(data, out, capfd)
    assert cli.main(["embed", str(out), str(data), "--out", str(tmp_path / "e.npz"), "--workers", "0"]) == 0
    assert f"images: {passed}" in capfd.readouterr().out
    listing = tmp_path / "list.txt"  # as is advised
    for i in range(2):
        (data / "more" / f"other{i}").write_bytes((data / f"{i}.jpg").read_bytes())
    listing.write_text("".join(f"{data}/more/other{i}\n" for i in range(2)))
    assert "2, of which 0 cannot be read\n" in (text := checked(listing, capfd))
    assert "skipped" not in text


def test_nothing_is_advised_about_files_that_lie_beside_images(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("0.jpg", "1.jpg"):
        photo(tmp_path / name)
    assert "skipped" not in checked(tmp_path, capfd)
    (tmp_path / "labels.csv").write_text("x")
    assert "            skipped: 1 .csv\n" in checked(tmp_path, capfd)
    (tmp_path / "scan.nii.gz").write_bytes(b"x")
    assert "skipped: 1 .csv, 1 .nii.gz. Convert images among them" in checked(tmp_path, capfd)


def test_numbers_and_words_behind_a_dot_are_no_suffixes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    photo(tmp_path / "0.jpg")
    for i in range(20):
        (tmp_path / f"1.2.840.10008.{i}").write_bytes(b"x")  # as scanners name DICOM files
    (tmp_path / "Dr. Weiss last scan").write_bytes(b"x")
    (tmp_path / "x.CR2").write_bytes(b"x")
    assert "skipped: 21 without suffix, 1 .cr2. Convert images" in checked(tmp_path, capfd)
    (tmp_path / "0.jpg").unlink()
    assert cli.main(["check", str(tmp_path)]) == 1
    assert "contains no images, but 21 without suffix, 1 .cr2. Convert images among them" in capfd.readouterr().err


SYSTEMS = (
    "@eaDir", "$RECYCLE.BIN", "System Volume Information", "__MACOSX", "lost+found", "#recycle", ".Trashes",
    ".thumbnails", ".ipynb_checkpoints", ".@__thumb",
)  # fmt: skip


def test_folders_and_files_of_systems_are_passed_over_and_counted(tmp_path: Path) -> None:
    photo(tmp_path / "cat/0.jpg")
    photo(tmp_path / "dog/0.jpg")
    for name in SYSTEMS:
        for place in (tmp_path, tmp_path / "cat"):
            photo(place / name / "0.jpg/thumbnail.jpg")
    for name in ("._0.jpg", "Thumbs.db", "desktop.ini", ".DS_Store"):
        (tmp_path / "dog" / name).write_bytes(b"x")
    source = open_source(tmp_path, labelled=True)
    assert [source.name(i) for i in range(len(source))] == ["cat/0.jpg", "dog/0.jpg"]
    assert source.classes == ("cat", "dog")
    (line,) = source.notes()
    assert "12 hidden or system files (" in line
    for name in ("2 @eaDir", "2 $RECYCLE.BIN", "2 #recycle", "2 System Volume Information", "2 __MACOSX"):
        assert name in line or "others" in line, name
    assert source.system_folders == 12
    inside = open_source(tmp_path / "cat" / "@eaDir")  # somebody wants them
    assert len(inside) == 1
    every = open_source(tmp_path, system_folders=True)
    assert len(every) == 2 + 12
    (tmp_path / "cat/0.jpg").unlink()
    (tmp_path / "dog/0.jpg").unlink()
    with pytest.raises(ValueError, match=r"contains no images, but .*system folders \("):
        open_source(tmp_path)


def test_a_run_that_took_images_in_folders_of_systems_goes_on_with_them(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = tmp_path / "photos", tmp_path / "run"
    for i in range(8):
        photo(data / f"{i}.jpg")
        photo(data / "@eaDir" / f"{i}.jpg")
    with monkeypatch.context() as older:  # 0.1 knew no such folders
        older.setattr("lookalike.data.folders._SYSTEMS", frozenset())
        assert "16 images" in started(data, out, capfd)
    resume = ["pretrain", "--resume", "--out", str(out), "--epochs", "2", "--no-report"]
    assert cli.main(resume) == 0, capfd.readouterr().err
    assert "16 images in" in capfd.readouterr().out
    assert [row["step"] for row in Folder(out).rows()][-1] == 4
    photo(data / "8.jpg")
    assert cli.main([*resume[:-2], "3", "--no-report"]) == 1
    assert "holds other images than when" in capfd.readouterr().err


# ---------------------------------------------------------------- grey and dim images


def test_grey_images_that_are_stored_as_colour_are_found(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for i in range(16):
        grey = Image.fromarray(noise(64, 48)).convert("RGB")
        grey.save(tmp_path / f"{i:02}.{('jpg', 'png', 'webp', 'bmp')[i % 4]}")
    line = "All channels are equal in 16 inspected images: greyscale stored as RGB; use --channels 1."
    assert line in checked(tmp_path, capfd)
    assert f"WARNING     {line}" in started(tmp_path, tmp_path / "run", capfd)
    for text in (checked(tmp_path, capfd, "--channels", "1"),
                 started(tmp_path, tmp_path / "run", capfd, "--channels", "1")):  # fmt: skip
        assert "All channels are equal" not in text
    photo(tmp_path / "colour.png")
    assert "All channels are equal" not in checked(tmp_path, capfd)


def test_whether_channels_are_equal() -> None:
    grey = torch.from_numpy(noise(1, 500, 700)).expand(3, -1, -1).contiguous()
    assert levels(grey).grey
    for dtype in (torch.uint16, torch.float32):
        assert levels(grey.to(torch.float32).div(255 if dtype == torch.float32 else 1).to(dtype)).grey
    other = grey.clone()
    other[2, 499, 699] ^= 128
    assert not levels(other).grey
    assert not levels(grey[:1]).grey
    assert not levels(torch.zeros(4, 3, 3, dtype=torch.uint8)).grey


def of_12_bits() -> bytes:
    array = noise(32, 32, top=4095, dtype="u2")
    array[0, :2] = 0, 4095
    return png(array)


DIM: dict[str, Callable[[], bytes]] = {
    "uint16": of_12_bits,
    "float32": lambda: tiff(np.append(np.float32([0, 0.1]), noise(1022) / 2550).reshape(32, 32, 1).astype("f4")),
    "uint8": lambda: png(np.append(np.uint8([0, 20]), noise(1022, top=20)).reshape(32, 32)),
}
SCALES = {"uint16": "range 0 4095", "float32": "range 0 0.1", "uint8": "range 0 20"}
WORDS = {"uint16": "4,095 of 65,535", "float32": "0.1 of 1", "uint8": "20 of 255"}


@pytest.mark.parametrize("kind", DIM)
def test_images_that_use_little_of_their_range_are_named(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for i in range(16):
        (tmp_path / f"{i}.{'tif' if kind == 'float32' else 'png'}").write_bytes(DIM[kind]())
    values = f"the largest value is {WORDS[kind]}, the smallest 0."
    line = f"16 {kind} images use a small part of the value range: {values}"
    advice = f"Train with --scale {SCALES[kind]}"
    assert f"{line} {advice}, or with --normalize data." in (text := checked(tmp_path, capfd, "--channels", "1"))
    assert f"--scale {SCALES[kind]} " in text.splitlines()[-1]  # the first command
    assert "small part" not in checked(tmp_path, capfd, "--channels", "1", "--scale", *SCALES[kind].split())
    source = open_source(tmp_path, pixels=1)
    assert warnings_about(source, ALL)[0].startswith(f"{line} {advice}")
    assert warnings_about(source, {"scale"})[0].startswith(f"{line} {advice}.")
    assert warnings_about(source, {"alpha"}) == remarks(source) == []
    Image.new("L", (32, 32), 255).save(tmp_path / "spot.png")  # one of them changes nothing
    assert "use a small part of the value range" in checked(tmp_path, capfd, "--channels", "1")


def test_a_training_advises_what_it_does_not_do_yet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for i in range(16):
        (tmp_path / f"{i}.png").write_bytes(DIM["uint16"]())
    out = tmp_path / "run"
    assert "WARNING     16 uint16 images use a small part" in started(tmp_path, out, capfd, "--channels", "1")
    text = started(tmp_path, out, capfd, "--channels", "1", "--normalize", "data")
    assert "use a small part" not in text
    mean = json.loads((out / "encoder.json").read_text())["mean"]
    assert mean[0] == pytest.approx(2048 / 65535, abs=0.002)
    # its pictures can be seen
    seen = np.asarray(Image.open(out / "views.png", formats=["PNG"]))
    assert np.ptp(seen[:32, :32]) > 200
    assert seen[:32, :32].mean() > 80
    show.show(out, tmp_path, out=tmp_path / "show", what=["neighbours"], count=2)
    seen = np.asarray(Image.open(tmp_path / "show/neighbours.png", formats=["PNG"]))
    assert seen[:120, :120].mean() > 80
    # and a run that starts from weights for other brightness is told to scale, from its own nothing
    assert "use a small part" not in started(
        tmp_path, tmp_path / "next", capfd, "--channels", "1", "--init", str(out), "--frozen-epochs", "0"
    )


def test_thumbnails_of_dim_images_can_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(DIM["uint16"]())
    (tmp_path / "broken.png").write_bytes(b"x")
    drawn: list[Image.Image] = []
    monkeypatch.setattr(projection, "data_uri", lambda image, quality: drawn.append(image) or "")
    projection.sheets(open_source(tmp_path, pixels=1), list(range(7)), 16)
    tiles = np.asarray(drawn[0])[:16, : 16 * 7]
    assert tiles[:, : 16 * 6].mean() > 80
    assert (tiles[:, 16 * 6 :] == 0x88).all()


def test_pictures_of_ordinary_images_are_shown_as_they_are() -> None:
    assert black_and_white([torch.rand(3, 40, 40) for _ in range(3)]) == (0, 1)
    assert black_and_white([torch.full((1, 4, 4), 0.1)]) == (0, 1)
    low, high = black_and_white([0.1 + torch.rand(1, 200, 200) / 16, torch.full((1, 9, 9), 0.12)])
    assert (low, high) == (pytest.approx(0.1, abs=1e-3), pytest.approx(0.1625, abs=1e-3))
    spots = torch.rand(1, 200, 200) / 16
    spots[0, 0, :3] = 1
    assert black_and_white([spots])[1] == pytest.approx(1 / 16, abs=1e-3)


# ---------------------------------------------------------------- large images


def test_an_image_that_is_too_large_can_be_cut_as_the_documentation_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_PIXELS", 2000)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    Image.fromarray(noise(60, 50, 3)).save("large.tif")
    words = r"not supported: 50 x 60 pixels exceed the limit of 2000. Cut it into tiles, .*; docs/checking.md"
    with pytest.raises(BrokenImage, match=words):
        decode("large.tif", 3)
    guide = (Path(__file__).parents[1] / "docs/checking.md").read_text()
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "large.tif" in block)
    exec(code.replace("1024", "32"), {})
    tiles = open_source("tiles")
    assert sum(tiles.read(i, None)[0].numel() for i in range(len(tiles))) == 60 * 50
    (shrink,) = re.findall(r"`(image\.reduce\(.*?\)\.save\(.*?\))`", guide)
    with Image.open("large.tif", formats=["TIFF"]) as image:
        exec(shrink, {"image": image})
    assert decode("small.png", 3).shape == (3, 15, 13)
