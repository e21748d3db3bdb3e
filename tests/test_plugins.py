"""HEIC and AVIF: read with their packages, named with what reads them otherwise."""

import io
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from lookalike.data import BrokenImage, boxes, decode, folders, open_source, plugins
from lookalike.data.decoding import kind_of
from lookalike.image_options import Pixels

RNG = np.random.default_rng(0)


def heic(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(array)).save(file, quality=-1)  # without loss
    return file.getvalue()


def test_heic_is_read_by_pillow_heif(tmp_path: Path) -> None:
    array = np.repeat(np.repeat(RNG.integers(0, 256, (6, 8, 3), np.uint8), 8, 0), 8, 1)
    (tmp_path / "x.heic").write_bytes(heic(array))
    source = open_source(tmp_path)
    assert np.abs(source.read(0, None).numpy().astype(int) - array.transpose(2, 0, 1)).max() <= 3
    assert kind_of(tmp_path / "x.heic") == "HEIF RGB"
    assert boxes.stated_size(str(tmp_path / "x.heic"), Pixels()) == (48, 64)


def test_heic_without_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.heic").write_bytes(heic(np.zeros((16, 16, 3), np.uint8)))
    Image.init()
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    monkeypatch.setattr(plugins, "find_spec", lambda name: None)
    monkeypatch.setattr(plugins, "_register", lambda: None)
    with pytest.raises(BrokenImage, match=r"not supported: HEIC\. pip install 'lookalike\[heic\]' reads it"):
        decode(tmp_path / "x.heic", 3)
    monkeypatch.setattr(folders, "SUFFIXES", folders.SUFFIXES - plugins.OPTIONAL.keys())
    with pytest.raises(ValueError, match=r"contains no images, but 1 \.heic\. pip install 'lookalike\[heic\]' reads"):
        open_source(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    assert open_source(tmp_path).notes() == ["skipped: 1 .heic. pip install 'lookalike[heic]' reads .heic"]


def test_avif_is_read_by_pillow_or_its_update_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    Image.init()
    if "AVIF" in Image.SAVE:
        Image.new("RGB", (16, 16), "red").save(file, "AVIF")
        assert decode(file.getvalue(), 3)[:, 0, 0].tolist() == pytest.approx([255, 0, 0], abs=3)
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    with pytest.raises(BrokenImage, match=r"not supported: AVIF, .*pip install --upgrade pillow"):
        decode(b"\0\0\0\x1cftypavif\0\0\0\0" + bytes(40), 3)
