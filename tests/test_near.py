"""Near duplicates by `check`: copies planted among real photographs, what only looks alike, and what is said."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lookalike import cli
from lookalike.commands.check import Split, check, duplicates, look
from lookalike.data import only_chosen, open_source
from lookalike.data.near import NEAR_HASH, PARTNERS, _candidates, _hashes, near_pairs, thumbnail

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # which measures what is tested here
from near_duplicates import USUAL, copied, tiles


class Arrays(torch.utils.data.Dataset[np.ndarray]):
    def __init__(self, images: list[np.ndarray]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.images[i]


def looked(images: list[np.ndarray]) -> Split:
    return look(open_source(Arrays(images)))


def of(grey: np.ndarray) -> np.ndarray:
    return thumbnail(torch.from_numpy(grey).float()[None, None] / 255)[0]


def test_planted_copies_are_found_and_no_others() -> None:
    rng = np.random.default_rng(0)
    images = tiles(96, least=20)
    chosen = rng.choice(len(images), 20 * len(USUAL), replace=False).tolist()
    cuts = [list(USUAL)[n % len(USUAL)] for n in range(len(chosen))]
    copies = [copied(images[i], cut, rng.uniform(0.7, 1.3)) for i, cut in zip(chosen, cuts, strict=True)]
    found = set(duplicates(looked(images + copies)).near)
    planted = {(i, len(images) + n) for n, i in enumerate(chosen)}
    assert len(images) > 200
    assert len(found & planted) / len(planted) >= 0.95
    assert len(found & planted) / len(found) >= 0.99
    other = set(duplicates(looked(images), looked(copies)).near)
    assert {(i, len(images) + j) for i, j in other} == {(i, j) for i, j in found if j >= len(images)}


def added(texture: np.ndarray, slope: np.ndarray) -> np.ndarray:
    return 128 + 90 * slope + 6 * texture


def multiplied(texture: np.ndarray, slope: np.ndarray) -> np.ndarray:
    return (128 + 20 * texture) * (1 + 0.85 * slope)


def lit(side: int, light: Callable[[np.ndarray, np.ndarray], np.ndarray], count: int = 1000) -> list[np.ndarray]:
    """Different textures, weak beside light that falls on them from one of four sides."""
    rng = np.random.default_rng(1)
    textures = [tile.mean(2) for tile in tiles(side, least=8)]
    slope = np.broadcast_to(np.linspace(-1, 1, side), (side, side))
    images = []
    for i in rng.choice(len(textures), count, replace=False):
        texture = (textures[i] - textures[i].mean()) / textures[i].std()
        images.append(light(texture, np.rot90(slope, rng.integers(4))).round().clip(0, 255))
    return images


def test_no_pair_among_1000_textures_lit_from_one_side() -> None:
    """In 0.1 they were: their thumbnails correlate, for the light is all that these show."""
    for light in (added, multiplied):
        images = lit(44, light)
        assert len({image.tobytes() for image in images}) == 1000
        pairs, _ = near_pairs(np.stack([of(image) for image in images]))
        assert len(pairs) == 0
    small = [np.asarray(Image.fromarray(image).resize((16, 16))).ravel() for image in lit(44, added, 200)]
    alike = np.corrcoef(np.stack(small))
    assert (alike[np.triu_indices(200, 1)] > 0.98).mean() > 0.1


def test_the_search_for_candidates_meets_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    some = rng.normal(size=(300, 40)).astype(np.float32)
    some[150:] = some[:150] + 0.8 * rng.normal(size=(150, 40))
    hashes = some / np.linalg.norm(some, axis=1, keepdims=True)
    alike = hashes @ hashes.T
    slow = {(i, j) for j in range(300) for i in range(j) if alike[i, j] >= NEAR_HASH}
    assert len(slow) > 50
    for table in (2**22, 3000):  # at once, and in blocks of ten rows
        monkeypatch.setattr("lookalike.data.near._TABLE", table)
        assert {tuple(pair) for pair in _candidates(hashes, None)[0].tolist()} == slow
        across = {(i, j) for i, j in slow if i < 100 <= j}
        assert {tuple(pair) for pair in _candidates(hashes, 100)[0].tolist()} == across


def test_a_crowd_of_images_that_are_all_alike_is_compared_with_few() -> None:
    rng = np.random.default_rng(0)
    photo = tiles(96, least=20)[100].mean(2)
    crowd = np.stack([of(photo + rng.normal(0, 3, photo.shape)) for _ in range(60)])
    candidates, _ = _candidates(_hashes(crowd), None)
    assert np.bincount(candidates[:, 1]).max() <= PARTNERS
    pairs, detail = near_pairs(crowd)
    assert set(pairs.ravel().tolist()) == set(range(60))
    assert detail.min() > 0.88


def test_nothing_and_one_image_have_no_pairs() -> None:
    for count in (0, 1):
        pairs, detail = near_pairs(np.zeros((count, 48, 48), np.uint8))
        assert pairs.shape == (0, 2)
        assert detail.shape == (0,)


# ---------------------------------------------------------------- the command


def save(image: np.ndarray, path: Path, **options: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)


@pytest.fixture
def suspicious(tmp_path: Path) -> Path:
    """Two classes with near pairs in and across them, an exact one across them, blank masks and files of one name."""
    photos = tiles(96, least=20)[::8]
    root = tmp_path / "photos"
    for i, photo in enumerate(photos[:16]):
        save(photo, root / "ab"[i % 2] / f"{i}.png")
    save(copied(photos[0], "left"), root / "a/near 0.png")
    save(copied(photos[1], "around"), root / "b/near 1.png")
    save(copied(photos[2], "top"), root / "b/near 2.png")
    save(photos[3], root / "a/exact 3.png")
    save(photos[4], root / "a/4.jpg", quality=90)  # 4.png is the same picture
    for i in (6, 8):
        save(np.zeros((96, 96), np.uint8), root / f"a/{i}.gif")  # masks of 6.png and 8.png
    almost = np.full((96, 96), 200, np.uint8)
    almost[::7] += 2
    save(almost, root / "a/even.png")
    spot = np.zeros((96, 96), np.uint8)
    spot[40:44, 40:44] = 255
    save(spot, root / "a/spot.png")
    return root


def test_the_command_says_what_is_suspicious_and_draws_the_pairs(
    suspicious: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, sheet = tmp_path / "check.json", tmp_path / "pairs.png"
    argv = ["check", str(suspicious), "--workers", "0", "--no-timing", "--out", str(out), "--sheet", str(sheet)]
    assert cli.main(argv) == 0
    text = capsys.readouterr().out
    content = json.loads(out.read_text())
    found = content["duplicates"]
    near = {frozenset(pair) for pair in found["near"]}
    assert near == {
        frozenset(("a/0.png", "a/near 0.png")), frozenset(("b/1.png", "b/near 1.png")),
        frozenset(("a/2.png", "b/near 2.png")), frozenset(("a/4.jpg", "a/4.png")),
    }  # fmt: skip
    assert {frozenset(pair) for pair in found["exact"]} == {frozenset(("b/3.png", "a/exact 3.png"))}
    assert len(found["detail"]) == 4
    assert {frozenset(pair) for pair in found["different_classes"]} == {
        frozenset(("a/2.png", "b/near 2.png")), frozenset(("b/3.png", "a/exact 3.png"))
    }  # fmt: skip
    assert content["images"]["blank"] == ["a/6.gif", "a/8.gif", "a/even.png"]
    assert content["images"]["same_names"] == [["a/4.jpg", "a/4.png"], ["a/6.gif", "a/6.png"], ["a/8.gif", "a/8.png"]]
    for words in (
        "OF DIFFERENT CLASSES: 2, such as ",
        "blank       3 of 25 images are constant, or nearly so: a/6.gif, a/8.gif, a/even.png",
        "same names  3 names with several suffixes, such as a/4.jpg, a/4.png. For 1, all files show the same image",
        "For 2, they differ",
        "Remove only exact copies",
        f"Wrote {sheet}",
    ):
        assert words in text, words
    with Image.open(sheet) as picture:
        assert picture.width > 900
        pixels = np.asarray(picture)
    doubt = (pixels == (0xB0, 0x00, 0x20)).all(2).any(0).nonzero()[0]
    assert 12 <= doubt.min() < 100  # the first two pairs are of different classes
    assert 356 < doubt.max() < 700
    assert cli.main(argv) == 1
    assert "check.json exists" in capsys.readouterr().err
    out.unlink()
    assert cli.main(argv) == 1
    assert "pairs.png exists. Give another --sheet, or --overwrite." in capsys.readouterr().err
    assert cli.main([*argv[:-1], str(tmp_path / "pairs.txt"), "--overwrite"]) == 2


def test_every_option_that_the_findings_name_is_one_of_check(suspicious: Path) -> None:
    lines = " ".join(check(open_source(suspicious, labelled=True), say=lambda _: None).lines())
    named = set(re.findall(r"--[a-z-]+", lines))
    assert {"--sheet", "--out"} <= named
    assert named <= {"--sheet", "--out", "--cache", "--alpha", "--channels"}


def test_the_sheet_shows_that_there_are_no_pairs(tmp_path: Path) -> None:
    photos = tiles(96, least=20)[::8][:4]
    for i, photo in enumerate(photos):
        save(photo, tmp_path / "photos" / f"{i}.png")
    assert (
        cli.main(
            ["check", str(tmp_path / "photos"), "--workers", "0", "--no-timing", "--sheet", str(tmp_path / "s.jpg")]
        )
        == 0
    )
    assert Image.open(tmp_path / "s.jpg").format == "JPEG"


def test_images_that_went_away_and_sixteen_bits_are_drawn(tmp_path: Path) -> None:
    photo = tiles(96, least=20)[0].mean(2).astype(np.uint16)
    save(photo * 16, tmp_path / "a.png")
    save(photo * 16 + 1, tmp_path / "b.png")
    found = check(open_source(tmp_path, pixels=1), say=lambda _: None)
    assert found.within.near == [(0, 1)]
    (tmp_path / "b.png").unlink()
    pixels = np.asarray(found.sheet())
    assert pixels[48:208, 12:172].std() > 10
    assert pixels[48:208, 173:333].std() == 0


def test_dark_images_of_few_of_many_bits_are_not_blank() -> None:
    photo = tiles(96, least=20)[0].mean(2).astype(np.uint16)
    images = [photo, photo // 2, np.full((96, 96), 90, np.uint16), np.full((96, 96), 200, np.uint16)]
    images[3][::9] += 1
    assert look(open_source(Arrays(images), pixels=1)).blank.tolist() == [False, False, True, True]


def test_photographs_and_masks_in_two_folders_are_one_name(tmp_path: Path) -> None:
    photos = tiles(96, least=20)[::8]
    for i in range(8):
        save(photos[i], tmp_path / "images" / f"{i}.jpg")
        save((photos[i].mean(2) > 128).astype(np.uint8) * 255, tmp_path / "masks" / f"{i}.png")
        save(photos[8 + i], tmp_path / "c" / f"{i + 20}.png")
        save(photos[16 + i], tmp_path / "d" / f"{i + 20}.png")
    found = check(open_source(tmp_path), say=lambda _: None)
    names = [[found.train.source.name(i) for i in places] for places in found.train.same_stems]
    assert names == [[f"images/{i}.jpg", f"masks/{i}.png"] for i in range(8)]
    assert "8 names with several suffixes" in "\n".join(found.lines())


def test_a_defect_on_a_template_is_kept_by_the_advice(tmp_path: Path) -> None:
    """A near pair is reported, and not as an exact one: only those may go without a look."""
    photo = tiles(96, least=20)[100]
    defect = photo.copy()
    defect[40:44, 40:48] = 255
    save(photo, tmp_path / "good.png")
    save(defect, tmp_path / "defect.png")
    save(tiles(96, least=20)[0], tmp_path / "other.png")
    found = check(open_source(tmp_path), say=lambda _: None)
    assert found.within.exact == []
    assert found.within.near == [(0, 1)]
    assert any("a defect" in line and "only exact copies" in line for line in found.lines())


def test_only_exact_copies_and_blank_images_are_left_out(
    suspicious: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (suspicious / "labels.csv").write_text("x")  # what is no image does not become one
    save(tiles(96, least=20)[0], suspicious / "a/@eaDir/0.png")
    assert cli.main(["check", "photos", "--workers", "0", "--no-timing", "--out", "check.json"]) == 0
    chosen = only_chosen(open_source("photos"), "check.json")
    kept = {chosen.name(i) for i in range(len(chosen))}
    everything = {path.relative_to("photos").as_posix() for path in Path("photos").rglob("*.*")}
    gone = {"b/3.png", "a/6.gif", "a/8.gif", "a/even.png"}
    assert everything - kept == {*gone, "labels.csv", "a/@eaDir/0.png"}
    assert {name for name, _ in json.loads(Path("check.json").read_text())["left_out"]} == gone
