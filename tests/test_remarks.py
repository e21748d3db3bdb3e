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
from lookalike.data import BrokenImage, Loader, decode, limits, open_source, remarks
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
    with pytest.raises(BrokenImage, match=rf"^\(bytes\): not supported: a TIFF of {what}") as caught:
        decode(BANDS[what], 3)
    advised = re.search(r"\.npy of shape \((\d+), H, W\), which training with --channels (\d+)", str(caught.value))
    assert advised is not None
    bands = int(what.split()[0])
    assert [int(n) for n in advised.groups()] == [bands, bands]
    np.save(tmp_path / "x.npy", noise(bands, 7, 9, dtype="u2"))
    assert decode(tmp_path / "x.npy", bands).shape == (bands, 7, 9)


def test_three_bands_of_other_numbers_can_be_stored_as_advised(tmp_path: Path) -> None:
    for content, words in (
        (
            tiff(noise(9, 7, 3).astype("f4") / 255, 2),
            r"3 x 32 bits .floats, RGB.\. Save it as RGB of 8 bits, or as .npy",
        ),
        (
            tiff(noise(9, 7, 3, dtype="u2"), 2),
            r"3 x 16 bits .*Save it as PNG of 16 bits, or as .npy of shape \(3, H, W\)",
        ),
    ):
        with pytest.raises(BrokenImage, match=words):
            decode(content, 3)
    for array in (noise(3, 9, 7, dtype="u2"), noise(3, 9, 7).astype("f4") / 255):
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
    line = "3 of 6 images looked at are whole, but cannot be used as they are. The first is bands"
    assert line in started(tmp_path, tmp_path / "run", capfd, "--max-broken", "0.9", "--batch-size", "2")
    with pytest.raises(ValueError, match=r"could not be read, more than the share(?s:.*)Repair or convert them"):
        list(Loader(open_source(tmp_path), 2, 0))


def test_a_second_band_is_not_lost_in_silence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bands = noise(32, 32, 2)
    for i in range(8):
        (tmp_path / f"{i}.tif").write_bytes(tiff(bands, extra=[0]))
    line = "8 of 8 images looked at (TIFF L of 2 bands) have further bands behind the colours, which are left out."
    advice = "Pretraining with --channels 2 reads them from .npy files of shape (2, H, W)"
    for text in (checked(tmp_path, capfd), started(tmp_path, tmp_path / "run", capfd)):
        assert f"{line} {advice}" in text
        assert "--channels 4" not in text
    for i in range(8):
        (tmp_path / f"{i}.tif").unlink()
        np.save(tmp_path / f"{i}.npy", bands.transpose(2, 0, 1))
    assert "further bands" not in started(tmp_path, tmp_path / "run", capfd, "--channels", "2")


def test_channels_that_lie_in_bands_or_pages_are_named_where_they_are_asked_for() -> None:
    pages = io.BytesIO()
    first, *rest = [Image.fromarray(noise(9, 7)) for _ in range(5)]
    first.save(pages, "TIFF", save_all=True, append_images=rest)
    for content, channels, words in (
        (tiff(noise(9, 7, 6), 2, extra=[0] * 3), 6, r"a TIFF of 6 x 8 bits .*\.npy of shape \(6, H, W\)"),
        (tiff(noise(9, 7, 6), 2, extra=[0] * 3), 4, r"a TIFF of 6 x 8 bits .*--channels 6"),
        (tiff(noise(9, 7, 2), extra=[0]), 2, r"a TIFF of 2 x 8 bits .*\.npy of shape \(2, H, W\)"),
        (pages.getvalue(), 5, r"several pages, of which the first alone is read.*\.npy of shape \(5, H, W\)"),
    ):
        with pytest.raises(BrokenImage, match=words):
            decode(content, channels)
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
        "1 of 4 files looked at has several pages; the first is used. Pages that are channels are read from .npy",
        "1 of 4 images looked at (TIFF RGB of 5 bands) has further bands behind the colours",
        "1 image of uint16 uses little of the range of values",
        "1 of 4 images is constant, or nearly so: dark.png. ",
        "same names  1 name with several suffixes, such as dark.npy, dark.png. For 1, they differ",
    ):
        assert words in text, words
    assert "of uint8 use" not in text  # what is blank has no range


def test_floats_beyond_1_are_named_at_the_start(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for i in range(16):
        values = noise(32, 32).astype(np.float32) / 255
        if i % 4 == 0:
            values[3, 5] = 1.02
        Image.fromarray(values).save(tmp_path / f"{i:02}.tif")
    reason = "not supported: float values from 0 to 1.02; expected 0 to 1. Scale all images alike"
    assert "16, of which 0 cannot be read, and 4 are whole" in (text := checked(tmp_path, capfd))
    assert f"00.tif: {reason}" in text
    text = started(tmp_path, tmp_path / "run", capfd, "--max-broken", "0.5")
    assert re.search(rf"WARNING     4 of 16 images looked at are whole, but .* \d+\.tif: {re.escape(reason)}", text)
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
        assert "8 of 16 files looked at have several pages; the first is used" in text
        assert "8 of 16 files looked at are animated; the first frame is used" in text
    assert cli.main(["embed", str(tmp_path / "run"), str(tmp_path), "--out", str(tmp_path / "e.npz")]) == 0
    assert "images: 8 of 16 files looked at have several pages; the first is used" in capfd.readouterr().out


def test_a_cameras_preview_is_no_animation(tmp_path: Path) -> None:
    (tmp_path / "x.mpo").write_bytes(saved(2, "MPO"))
    assert kind_of(tmp_path / "x.mpo") == "MPO L"


# ---------------------------------------------------------------- what is passed over


def test_files_that_are_passed_over_are_counted_by_suffix(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "photos", tmp_path / "run"
    for i in range(16):
        photo(data / f"{i}.jpg")
    for count, suffix in ((10, ".HEIC"), (10, ""), (14, ".dcm"), (1, ".csv")):
        for i in range(count):
            (data / "more").mkdir(exist_ok=True)
            (data / "more" / f"other{i}{suffix}").write_bytes(b"x")
    (data / ".hidden.jpg").write_bytes(b"x")
    passed = (
        "passed over: 14 .dcm, 10 .heic, 10 without suffix, 1 .csv, 1 hidden or of a system (.hidden.jpg). Convert "
        "images among them to PNG or TIFF"
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
    assert "passed over" not in text


def test_nothing_is_advised_about_files_that_lie_beside_images(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("0.jpg", "1.jpg"):
        photo(tmp_path / name)
    assert "passed over" not in checked(tmp_path, capfd)
    (tmp_path / "labels.csv").write_text("x")
    assert "            passed over: 1 .csv\n" in checked(tmp_path, capfd)
    (tmp_path / "scan.nii.gz").write_bytes(b"x")
    assert "passed over: 1 .csv, 1 .nii.gz. Convert images among them" in checked(tmp_path, capfd)


def test_numbers_and_words_behind_a_dot_are_no_suffixes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    photo(tmp_path / "0.jpg")
    for i in range(20):
        (tmp_path / f"1.2.840.10008.{i}").write_bytes(b"x")  # as scanners name DICOM files
    (tmp_path / "Dr. Weiss last scan").write_bytes(b"x")
    (tmp_path / "x.CR2").write_bytes(b"x")
    assert "passed over: 21 without suffix, 1 .cr2. Convert images" in checked(tmp_path, capfd)
    (tmp_path / "0.jpg").unlink()
    assert cli.main(["check", str(tmp_path)]) == 1
    assert "holds no image, but 21 without suffix, 1 .cr2. Convert images among them" in capfd.readouterr().err


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
    assert "12 hidden or of a system (" in line
    for name in ("2 @eaDir", "2 $RECYCLE.BIN", "2 #recycle", "2 System Volume Information", "2 __MACOSX"):
        assert name in line or "others" in line, name
    assert source.system_folders == 12
    inside = open_source(tmp_path / "cat" / "@eaDir")  # somebody wants them
    assert len(inside) == 1
    every = open_source(tmp_path, system_folders=True)
    assert len(every) == 2 + 12
    (tmp_path / "cat/0.jpg").unlink()
    (tmp_path / "dog/0.jpg").unlink()
    with pytest.raises(ValueError, match=r"holds no image, but .*folders of systems \("):
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
    line = "All channels are equal in 16 images looked at: grey stored as RGB; use --channels 1."
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
WORDS = {"uint16": "4,095 of 65,535", "float32": "0.1 of 1", "uint8": "20 of 255"}


@pytest.mark.parametrize("kind", DIM)
def test_images_that_use_little_of_their_range_are_named(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for i in range(16):
        (tmp_path / f"{i}.{'tif' if kind == 'float32' else 'png'}").write_bytes(DIM[kind]())
    values = f"the largest value seen is {WORDS[kind]}, the smallest 0."
    line = f"16 images of {kind} use little of the range of values: {values}"
    advice = "Train with --normalize data, or scale all files alike"
    assert f"{line} {advice}" in checked(tmp_path, capfd, "--channels", "1")
    source = open_source(tmp_path, channels=1)
    assert warnings_about(source, ALL)[0].startswith(f"{line} {advice}")
    assert warnings_about(source, {"scale"})[0].startswith(f"{line} Scale all files alike")
    assert warnings_about(source, {"alpha"}) == remarks(source) == []
    Image.new("L", (32, 32), 255).save(tmp_path / "spot.png")  # one of them changes nothing
    assert "use little of the range" in checked(tmp_path, capfd, "--channels", "1")


def test_a_training_advises_what_it_does_not_do_yet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for i in range(16):
        (tmp_path / f"{i}.png").write_bytes(DIM["uint16"]())
    out = tmp_path / "run"
    assert "WARNING     16 images of uint16 use little" in started(tmp_path, out, capfd, "--channels", "1")
    text = started(tmp_path, out, capfd, "--channels", "1", "--normalize", "data")
    assert "use little" not in text
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
    assert "use little" not in started(
        tmp_path, tmp_path / "next", capfd, "--channels", "1", "--init", str(out), "--frozen-epochs", "0"
    )


def test_thumbnails_of_dim_images_can_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(DIM["uint16"]())
    (tmp_path / "broken.png").write_bytes(b"x")
    drawn: list[Image.Image] = []
    monkeypatch.setattr(projection, "data_uri", lambda image, quality: drawn.append(image) or "")
    projection.sheets(open_source(tmp_path, channels=1), list(range(7)), 16)
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
    words = r"not supported: 50 x 60 pixels are above the limit of 2000. Cut it into tiles, .*; docs/checking.md"
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
