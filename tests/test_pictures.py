"""`lookalike show`: pictures of attention, patches and neighbours."""

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import tiny
from torch import Tensor

from lookalike import cli, encoders
from lookalike.backbones import create
from lookalike.commands import pictures, show
from lookalike.commands.pictures import CELL, _coarse, attention_maps, heat, otsu, patch_colours
from lookalike.runs import Folder


def saved(folder: Path, name: str, **options: Any) -> Path:
    torch.manual_seed(0)
    made = create(name, image_size=32, **options)
    folder.mkdir()
    encoders.save(Folder(folder), made, method="simclr", epochs=1, dtype=torch.uint8)
    return folder


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    return saved(tmp_path / "vit", "test_vit")


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_every_picture_through_the_command(
    vit: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["show", str(vit), str(photos), "--out", str(out), "--count", "3", "--workers", "0"]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    for name in ("attention.png", "pca.png", "neighbours.png", "neighbours.csv"):
        assert str(out / name) in said
        assert (out / name).is_file()
    assert f"Next: lookalike evaluate {vit}" in said
    heads = create("test_vit").net.blocks[-1].attn.num_heads
    for name, columns in (("attention", 2 + heads), ("pca", 3), ("neighbours", 1 + pictures.SHOWN_NEIGHBOURS)):
        assert pixels(out / f"{name}.png").shape == (3 * (CELL + 1) - 1, columns * (CELL + 1) - 1, 3)
    first = pixels(out / "attention.png")
    assert cli.main(command) == 1
    assert "attention.png exists. Give another --out, or --overwrite." in capsys.readouterr().err
    assert cli.main([*command, "--overwrite", "--seed", "1"]) == 0
    assert not np.array_equal(first, pixels(out / "attention.png"))
    assert cli.main([*command, "--overwrite"]) == 0
    np.testing.assert_array_equal(first, pixels(out / "attention.png"))  # the same seed draws the same images


def test_one_picture_alone_and_a_larger_image(vit: Path, photos: Path, tmp_path: Path) -> None:
    files = show.show(vit, photos, out=tmp_path / "out", what=["pca"], count=2, image_size=64)
    assert [f.name for f in files] == ["pca.png"] == [f.name for f in (tmp_path / "out").iterdir()]


def test_a_cnn_has_no_attention_to_show(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cnn = saved(tmp_path / "cnn", "test_resnet")
    command = ["show", str(cnn), str(photos), "--out", str(tmp_path / "out"), "--workers", "0"]
    assert cli.main(command) == 0
    assert "attention: skipped. test_resnet has no class token" in capsys.readouterr().out
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["neighbours.csv", "neighbours.png", "pca.png"]
    assert cli.main([*command, "--what", "attention", "--overwrite"]) == 1
    assert "Choose a plain ViT" in capsys.readouterr().err


def test_neighbours_are_the_nearest_by_cosine(vit: Path, photos: Path, tmp_path: Path) -> None:
    show.show(vit, photos, out=tmp_path, what=["neighbours"], count=2)
    rows = list(csv.DictReader((tmp_path / "neighbours.csv").open()))
    assert len(rows) == 2 * pictures.SHOWN_NEIGHBOURS
    from lookalike import embed

    made = embed(vit, photos)
    unit = torch.nn.functional.normalize(made.features)
    for row in rows:
        a, b = (made.names.index(row[name]) for name in ("image", "neighbour"))
        cosines = (unit @ unit[a]).tolist()
        assert float(row["cosine"]) == pytest.approx(cosines[b], abs=1e-4)
        cosines[a] = -2.0
        assert sorted(cosines, reverse=True).index(cosines[b]) == int(row["rank"]) - 1


def test_attention_maps_are_the_class_tokens_row() -> None:
    made = create("test_vit", image_size=32).eval()
    x = torch.randn(2, 3, 32, 48)
    maps = attention_maps(made, x)
    whole = made.attention(x)
    assert maps.shape == (2, whole.shape[1], 2, 3)
    torch.testing.assert_close(maps.flatten(2).sum(-1) + whole[:, :, 0, 0], torch.ones(maps.shape[:2]))
    torch.testing.assert_close(maps[..., 1, 2], whole[:, :, 0, -1])


def planted(images: int = 4, side: int = 8) -> tuple[Tensor, Tensor]:
    """Tokens whose foreground, in the middle, differs from the background; the foreground has two halves."""
    torch.manual_seed(0)
    tokens = torch.randn(images, side, side, 16) * 0.05
    foreground = torch.zeros(images, side, side, dtype=torch.bool)
    foreground[:, 2:6, 2:6] = True
    tokens[..., 0] += foreground * 3.0
    tokens[:, 2:4, 2:6, 1] += 1.0
    return tokens, foreground


@pytest.mark.parametrize("sign", [1, -1])
def test_colours_part_the_planted_foreground_and_its_halves(sign: int) -> None:
    tokens, foreground = planted()
    first, colours = patch_colours(tokens * sign)
    assert torch.equal(colours.amax(1) > 0, foreground)
    assert first[foreground].min() > first[~foreground].max()
    upper, lower = colours[:, :, 2:4, 2:6], colours[:, :, 4:6, 2:6]
    assert (upper - lower).mean((0, 2, 3)).abs().max() > 0.5
    # the same thing has the same colour in all images
    torch.testing.assert_close(upper[0, 0].mean(), upper[1, 0].mean(), atol=0.1, rtol=0)  # red: the halves


def test_what_tells_images_apart_does_not_hide_their_foregrounds() -> None:
    tokens, foreground = planted()
    shifts = torch.linspace(-3, 3, len(tokens))[:, None, None, None] * (tokens.amax() - tokens.amin())
    _, colours = patch_colours(tokens + shifts)
    assert torch.equal(colours.amax(1) > 0, foreground)


def test_colours_of_tokens_that_are_all_alike() -> None:
    first, colours = patch_colours(torch.ones(2, 4, 4, 8))
    assert bool(first.isfinite().all())
    assert bool(colours.isfinite().all())
    assert patch_colours(torch.randn(1, 1, 1, 8))[1].shape == (1, 3, 1, 1)
    assert patch_colours(torch.randn(2, 4, 4, 2))[1].shape == (2, 3, 4, 4)  # fewer numbers than colours


def test_otsu_parts_two_groups_and_equals_a_search() -> None:
    assert 0.3 < otsu(torch.tensor([0.1, 0.15, 0.2, 0.7, 0.8])) < 0.7
    torch.manual_seed(0)
    x = torch.cat([torch.rand(300) * 0.5, 0.4 + torch.rand(100) * 0.6])

    def within(threshold: float) -> float:
        low, high = x[x <= threshold], x[x > threshold]
        return float(len(low) * low.var(correction=0) + len(high) * high.var(correction=0))

    best = min(within(t / 256) for t in range(32, 224))
    assert within(otsu(x)) <= best * 1.01


def test_heat_rises_from_black_to_pale() -> None:
    colours = heat(torch.linspace(0, 1, 50)[None])
    assert colours.shape == (3, 1, 50)
    light = (colours[:, 0].T @ torch.tensor([0.3, 0.6, 0.1])).diff()
    assert bool((light > 0).all())
    assert colours.max() <= 1
    assert colours[:, 0, 0].max() < 0.05


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"count": 0}, "count is 0; it must be at least 1 image"),
        ({"what": ["gradients"]}, "Unknown picture 'gradients'. Choose from attention, pca, neighbours"),
        ({"image_size": 33}, "cannot take 33 x 33 pixels"),
    ],
)
def test_what_cannot_be_shown(vit: Path, photos: Path, tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        show.show(vit, photos, out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_broken_images_are_passed_over(vit: Path, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i, file in enumerate(sorted(photos.rglob("*.jpg"))[:4]):
        (folder / f"{i}.jpg").write_bytes(file.read_bytes() if i % 2 else b"no image")
    show.show(vit, folder, out=tmp_path / "out")
    assert pixels(tmp_path / "out" / "pca.png").shape[0] == 2 * (CELL + 1) - 1
    for file in folder.glob("[13].jpg"):
        file.write_bytes(b"none either")
    with pytest.raises(ValueError, match="None of the 4 images could be read"):
        show.show(vit, folder, out=tmp_path / "out", overwrite=True)


def test_one_image_has_no_neighbours(vit: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(next(photos.rglob("*.jpg")).read_bytes())
    with pytest.raises(ValueError, match="A single image has no neighbours"):
        show.show(vit, tmp_path / "images", out=tmp_path / "out", what=["neighbours"])
    said: list[str] = []
    files = show.show(vit, tmp_path / "images", out=tmp_path / "out", say=said.append)
    assert [f.name for f in files] == ["attention.png", "pca.png"]
    assert any("neighbours: skipped. A single image has no neighbours" in line for line in said)


def test_a_table_that_is_there_is_not_replaced(vit: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "neighbours.csv").write_text("mine")
    with pytest.raises(FileExistsError, match=r"neighbours\.csv exists"):
        show.show(vit, photos, out=tmp_path)
    assert (tmp_path / "neighbours.csv").read_text() == "mine"


def test_images_of_one_channel(photos: Path, tmp_path: Path) -> None:
    grey = saved(tmp_path / "grey", "test_vit", channels=1)
    files = show.show(grey, photos, out=tmp_path / "out", count=2)
    assert len(files) == 4
    shown = pixels(files[0])[:CELL, :CELL]
    assert np.array_equal(shown[..., 0], shown[..., 1])


def test_pictures_are_replaced_together_or_not_at_all(
    vit: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("attention.png", "pca.png", "neighbours.png", "neighbours.csv"):
        (out / name).write_text("old")

    def fails(*args: object, **options: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(pictures, "features", fails)
    argv = ["show", str(vit), str(photos), "--out", str(out), "--workers", "0", "--count", "2", "--overwrite"]
    assert cli.main(argv) == 1
    assert "error: out of memory" in capsys.readouterr().err
    assert {p.name: p.read_text() for p in out.iterdir()} == dict.fromkeys(
        ("attention.png", "pca.png", "neighbours.png", "neighbours.csv"), "old"
    )


def test_maps_of_few_patches_are_called_coarse_with_a_size_that_makes_finer_ones(photos: Path, tmp_path: Path) -> None:
    made = create(tiny.VIT, image_size=24).eval()  # 3 x 3 patches
    said: list[str] = []
    show.show(made, photos, out=tmp_path / "few", what=["pca"], count=2, say=said.append)
    (line,) = [each for each in said if "coarse" in each]
    found = re.fullmatch(r"3 x 3 patches per image give coarse maps: --image-size (\d+) gives finer ones\.", line)
    assert found
    said.clear()
    show.show(made, photos, out=tmp_path / "many", what=["pca"], count=2, image_size=int(found[1]), say=said.append)
    assert not [each for each in said if "coarse" in each]
    fixed = create("swin_tiny_patch4_window7_224", image_size=224).eval()
    assert _coarse(fixed, 7, 7, 224).endswith(
        "does not accept larger images. A network with smaller patches gives finer maps."
    )
