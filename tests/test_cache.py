"""Decoded images that are kept: in memory as on the disk, what a cache gives is what was decoded."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from support.datasets import Items, Numbers, epochs
from support.images import noise
from torch import Tensor

from lookalike.data import BrokenImage, Images, Loader, open_source
from lookalike.data import cache as cache_module


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32, None])
def test_resident_images_of_every_dtype(dtype: torch.dtype | None) -> None:
    kinds = [torch.uint8, torch.uint16, torch.float32] if dtype is None else [dtype]
    items: list[object] = [
        (torch.rand(2, 3, 3) * {torch.uint8: 255, torch.uint16: 65535}.get(k := kinds[i // 70 % len(kinds)], 1)).to(k)
        for i in range(200)
    ]
    source = open_source(Items(items), pixels=2)
    done: list[tuple[int, int]] = []
    resident = Loader(source, 200, 0, cache="ram", progress=lambda d, n: done.append((d, n)))
    (streamed,), (kept,) = Loader(source, 200, 0), resident
    assert torch.equal(kept.index, streamed.index)
    assert kept.buffer.dtype == (dtype or torch.float32)
    assert torch.equal(kept.buffer.to(torch.float64), streamed.buffer.to(torch.float64))
    assert done[-1] == (200, 200)
    assert [d for d, _ in done] == sorted({d for d, _ in done})


def test_the_disk_cache_is_what_was_decoded_and_is_found_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, cache = tmp_path / "images", tmp_path / "cache"
    images.mkdir()
    for i in range(30):
        Image.fromarray(noise(20 + i % 3, 24, 3)).save(images / f"{i}.png")
    (images / "5.png").write_bytes(b"nothing")

    def all_of(cache: Literal["none", "ram", "disk"], **options: object) -> list[Images]:
        loader = Loader(open_source(images), 8, 0, cache=cache, max_broken=0.5, **options)  # type: ignore[arg-type]
        return epochs(loader, 2)

    def same(a: list[Images], b: list[Images]) -> bool:
        return all(
            torch.equal(x.index, y.index) and torch.equal(x.buffer, y.buffer) and x.broken == y.broken
            for x, y in zip(a, b, strict=True)
        )

    decoded, kept = all_of("none"), all_of("disk", cache_dir=cache)
    assert same(decoded, kept)
    files = sorted(path.suffix for path in cache.iterdir())
    assert files == [".lock", ".npz", ".pixels"]
    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "_decode_all", None)  # nothing is decoded once more
        assert same(decoded, all_of("disk", cache_dir=cache))
    (images / "5.png").write_bytes((images / "6.png").read_bytes())  # another file: another cache
    assert same(all_of("none"), all_of("disk", cache_dir=cache))
    assert len(list(cache.glob("*.npz"))) == 2
    expected = all_of("none")
    for path in cache.glob("*.pixels"):  # a copy: what is damaged is made anew
        path.write_bytes(path.read_bytes()[:-1])
    assert same(expected, all_of("disk", cache_dir=cache))
    for path in cache.glob("*.npz"):
        path.write_bytes(b"damaged")
    assert same(expected, all_of("disk", cache_dir=cache))
    assert not list(cache.glob(".*"))


def test_the_disk_cache_does_not_remember_a_failing_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(8):
        Image.fromarray(noise(5, 4, 3)).save(tmp_path / f"{i}.png")
    source, cache = open_source(tmp_path), tmp_path / "cache"
    with monkeypatch.context() as patch:

        def failing(*_: object) -> Tensor:
            raise BrokenImage("it", "Input/output error")

        patch.setattr(type(source), "read", failing)
        with pytest.raises(ValueError, match="Input/output error"):
            next(iter(Loader(source, 4, 0, cache="disk", cache_dir=cache)))
    assert len(epochs(Loader(source, 4, 0, cache="disk", cache_dir=cache), 1)) == 2


def test_the_disk_cache_leaves_what_others_keep_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Temporary names of 0.1 can be foretold, where another host's process has the same number."""
    cache = tmp_path / "cache"
    cache.mkdir()
    Image.fromarray(noise(5, 4, 3)).save(tmp_path / "0.png")
    source = open_source(tmp_path)
    kept = cache_module.DiskCache(source, None, cache)
    stem = kept.pixels.stem
    monkeypatch.setattr("platform.node", lambda: "host")
    foreign = [f".{stem}.notes.tmp", f".{stem}.tmp.pixels", "mine.txt", f".{stem}0.host.1.tmp.pixels"]
    stale = [f".{stem}.host.1.tmp.pixels", f".{stem}.ho.st.1.tmp.pixels.wide", f".{stem}.7.tmp.npz",
             f".{stem}.host.0123456789abcdef.tmp.pixels"]  # fmt: skip
    for name in (*foreign, *stale):
        (cache / name).write_text("mine")
    (cache / f".{stem}.host.{os.getpid()}.tmp.pixels").symlink_to(cache / "mine.txt")
    kept.load(0, None)
    left = {path.name for path in cache.iterdir()}
    assert left >= {*foreign, f".{stem}.host.{os.getpid()}.tmp.pixels"}
    assert not left & {*stale}
    assert (cache / "mine.txt").read_text() == "mine"


def test_the_disk_cache_is_not_locked_through_a_link(tmp_path: Path) -> None:
    Image.fromarray(noise(5, 4, 3)).save(tmp_path / "0.png")
    kept = cache_module.DiskCache(open_source(tmp_path), None, tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    kept.lock.symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match="nothing is written through links"):
        kept.load(0, None)
    assert not (tmp_path / "outside").exists()


def test_the_disk_cache_tells_folders_apart(tmp_path: Path) -> None:
    for name in "ab":
        for i in range(4):
            (tmp_path / name).mkdir(exist_ok=True)
            np.save(tmp_path / name / f"{i}.npy", np.full((3, 4, 5), ord(name), np.uint8))
            os.utime(tmp_path / name / f"{i}.npy", (1, 1))
    for name in "ab":
        (batch,) = Loader(open_source(tmp_path / name), 4, 0, cache="disk", cache_dir=tmp_path / "cache")
        assert batch.buffer.unique().tolist() == [ord(name)]


def test_the_disk_cache_widens_as_memory_does(tmp_path: Path) -> None:
    for i in range(200):
        array = noise(5, 4) if i < 150 else noise(5, 4, dtype=np.uint16)
        Image.fromarray(array).save(tmp_path / f"{i:03}.png")
    source = open_source(tmp_path, pixels=1)
    (kept,) = Loader(source, 200, 0, cache="disk", cache_dir=tmp_path / "cache")
    (held,) = Loader(source, 200, 0, cache="ram")
    assert kept.buffer.dtype == torch.uint16
    assert torch.equal(kept.buffer.view(torch.int16), held.buffer.view(torch.int16))
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_a_cache_that_another_process_fills_is_waited_for(tmp_path: Path) -> None:
    Image.fromarray(noise(5, 4, 3)).save(tmp_path / "0.png")
    Image.fromarray(noise(5, 4, 3)).save(tmp_path / "1.png")
    cache = tmp_path / "cache"
    code = (
        "import sys, time; from pathlib import Path; from lookalike.data import Loader, cache, open_source\n"
        "fill = cache._decode_all\n"
        "cache._decode_all = lambda *a: (print('filling', flush=True), time.sleep(1), fill(*a))[2]\n"
        f"next(iter(Loader(open_source({str(tmp_path)!r}), 2, 0, cache='disk', cache_dir=Path({str(cache)!r}))))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "filling\n"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cache_module, "_decode_all", None)  # it is done by the other one
            next(iter(Loader(open_source(tmp_path), 2, 0, cache="disk", cache_dir=cache)))
    assert other.returncode == 0


def test_only_files_are_found_again(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="items of a Dataset"):
        Loader(Numbers(9), 3, 0, cache="disk", cache_dir=tmp_path)


def test_images_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "free_memory", lambda: 1000)
    with pytest.raises(ValueError, match=r"500 decoded images take about .* [KMG]iB, more than 80% .*--cache none"):
        next(iter(Loader(Numbers(500), 4, 0, cache="ram")))
