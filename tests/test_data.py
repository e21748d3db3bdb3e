"""Sources, decoding, batches, and the loader's promises: the same images for any rank, worker, cache and resume."""

import gc
import io
import multiprocessing
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_processes import is_running
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from lookalike import random
from lookalike.commands.check import look
from lookalike.data import (
    BrokenImage,
    Images,
    Loader,
    Source,
    Subset,
    decode,
    jpeg,
    limits,
    open_maybe_labelled,
    open_source,
)
from lookalike.data import cache as cache_module
from lookalike.data import workers as workers_module
from lookalike.data.order import Order
from lookalike.evaluation.features import features
from lookalike.images import pack, starts
from lookalike.printing import printable
from lookalike.random import key_of

RNG = np.random.default_rng(0)


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return RNG.integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def ramp(height: int, width: int) -> np.ndarray:
    """A smooth RGB image, which JPEG keeps well."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * y / height, 255 * x / width, 128 + 0 * x], -1).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chw(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.atleast_3d(array).transpose(2, 0, 1).copy())


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 images of three sizes and two suffixes, of which b/05, b/06, b/07 and c/13 are broken."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(1)
    for i in range(23):
        size = [(8, 8), (6, 9), (12, 5)][i % 3]
        path = root / "abc"[i % 3] / f"{i:02d}.{'png' if i % 2 else 'jpg'}"
        save(path, rng.integers(0, 256, (*size, 3), np.uint8))
        if i in (5, 6, 7):
            path.write_bytes(path.read_bytes()[:40])
        if i == 13:
            path.write_bytes(b"")
    return root


# ---------------------------------------------------------------- sources


def test_folder_is_sorted_recursive_and_passes_over_hidden_names(tmp_path: Path) -> None:
    for name in ("b/2.jpg", "b/1.PNG", "a/deep/er/x y.webp", "ü.tif", ".hidden/3.jpg", "b/.4.jpg", "0.bmp"):
        save(tmp_path / name, noise(4, 4, 3))
    (tmp_path / "notes.txt").write_text("no image")
    source = open_source(tmp_path)
    assert [source.name(i) for i in range(len(source))] == [
        "0.bmp",
        "a/deep/er/x y.webp",
        "b/1.PNG",
        "b/2.jpg",
        "ü.tif",
    ]
    assert source.keys.tolist() == [random.key_of(source.name(i)) for i in range(5)]
    assert source.labels is None
    assert source.classes is None
    assert all(source.read(i, None).shape == (3, 4, 4) for i in range(5))


def test_linked_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    save(tmp_path / "data/a/1.png", noise(4, 4, 3))
    save(tmp_path / "elsewhere/2.png", noise(4, 4, 3))
    (tmp_path / "data/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/a/up").symlink_to(tmp_path / "data")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/self.png").symlink_to(tmp_path / "data/self.png")
    source = open_source(tmp_path / "data")
    assert [source.name(i) for i in range(len(source))] == ["a/1.png", "linked/2.png", "self.png"]
    with pytest.raises(BrokenImage, match=r"self\.png: "):
        source.read(2, None)


def names_of(source: Source) -> list[str]:
    return [source.name(i) for i in range(len(source))]


def test_folders_that_are_linked_to_each_other_give_each_image_once(tmp_path: Path) -> None:
    """In 0.1 ten such folders gave each image a million times."""
    root = tmp_path / "data"
    for i in range(10):
        save(root / f"f{i}" / f"{i}.png", noise(4, 4, 3))
    for i in range(10):
        for j in range(10):
            (root / f"f{i}" / f"to{j}").symlink_to(root / f"f{j}")
    source = open_source(root)
    assert names_of(source) == [f"f{i}/{i}.png" for i in range(10)]
    assert source.keys.tolist() == [key_of(f"f{i}/{i}.png") for i in range(10)]
    (note,) = source.notes()
    assert note.startswith("100 linked folders lead to folders that are read already")


@pytest.mark.parametrize("backwards", [False, True])
def test_which_way_to_a_linked_folder_counts_depends_on_names_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backwards: bool
) -> None:
    root, other = tmp_path / "data", tmp_path / "other"
    save(other / "inner/1.png", noise(4, 4, 3))
    save(other / "2.png", noise(4, 4, 3))
    save(root / "z/real/3.png", noise(4, 4, 3))
    for link, to in (
        ("b", other),
        ("a", other / "inner"),
        ("c", other),
        ("d", root / "z"),
        ("e/up", root),
        ("z/f", other),
    ):
        (root / link).parent.mkdir(exist_ok=True)
        (root / link).symlink_to(to)
    whole = os.scandir

    @contextmanager
    def ordered(path: str) -> Iterator[Iterator[os.DirEntry[str]]]:
        with whole(path) as entries:
            yield iter(sorted(entries, key=lambda entry: entry.name, reverse=backwards))

    monkeypatch.setattr(os, "scandir", ordered)
    # the real way before a link, a shorter way before a longer one, then the first name
    assert names_of(open_source(root)) == ["a/1.png", "b/2.png", "z/real/3.png"]


def test_a_folder_that_is_two_classes_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in "ab":
        save(root / name / "1.png", noise(4, 4, 3))
    (root / "a" / "round").symlink_to(root)  # a circle is none
    source = open_source(root, labelled=True)
    assert source.labels is not None
    assert source.labels.tolist() == [0, 1]
    (root / "c").symlink_to(root / "a")
    with pytest.raises(ValueError, match="c/ is the same folder as a/: its images would be of two classes"):
        open_source(root, labelled=True)
    assert names_of(open_source(root)) == ["a/1.png", "b/1.png"]
    assert open_maybe_labelled(root).labels is None


def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(BrokenImage, match="not a regular file"):
        decode(tmp_path / "pipe.png", 3)


def test_a_name_of_undecodable_bytes_is_read_printed_and_hashed(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9 \xff.png"
    try:
        with open(name, "wb") as file:
            file.write(encoded(Image.fromarray(noise(4, 4, 3)), "PNG"))
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    source = open_source(tmp_path)
    assert source.read(0, None).shape == (3, 4, 4)
    assert source.name(0).encode("utf-8") == b"caf\\udce9 \\udcff.png"
    assert source.keys.item() == random.key_of(os.fsdecode(b"caf\xe9 \xff.png"))


def test_a_list_of_paths_names_its_images_as_their_folder_does(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/2.png"):
        save(tmp_path / name, noise(4, 4, 3))
    save(tmp_path / "outside/3.png", noise(5, 5, 3))
    (tmp_path / "b/list.txt").write_text("x")
    listing = tmp_path / "list.txt"
    listing.write_text(f"\ufeff# some\r\n\r\n./b/2.png\r\n{tmp_path}/a/1.png\n \nmissing.png\n", "utf-8")
    source, whole = open_source(listing), open_source(tmp_path)
    assert [source.name(i) for i in range(3)] == ["b/2.png", "a/1.png", "missing.png"]
    assert source.keys[:2].tolist() == whole.keys[[1, 0]].tolist()
    with pytest.raises(BrokenImage, match=r"missing\.png: no such file"):
        source.read(2, None)
    elsewhere = tmp_path / "b/list.txt"
    elsewhere.write_text(f"{tmp_path}/outside/3.png")
    assert open_source(elsewhere).read(0, None).shape == (3, 5, 5)


@pytest.mark.parametrize(("on_disk", "listed"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_list_finds_files_whose_names_unicode_writes_in_another_way(
    on_disk: str, listed: str, tmp_path: Path
) -> None:
    """A list from a Mac beside a copy that composed the names anew."""
    names = ["Ärzte/für ö.png", "Ärzte/plain.png", "plain/é.png"]
    for i, name in enumerate(names):
        save(tmp_path / unicodedata.normalize(on_disk, name), noise(4, 4 + i, 3))
    listing = tmp_path / "list.txt"
    wanted = [unicodedata.normalize(listed, name) for name in names]
    listing.write_text("\n".join([*wanted, f"{tmp_path}/{wanted[0]}", "Ärzte/missing.png"]), "utf-8")
    source, whole = open_source(listing), open_source(tmp_path)
    assert [source.read(i, None).shape[2] for i in range(4)] == [4, 5, 6, 4]
    assert sorted(source.keys[:3].tolist()) == sorted(whole.keys.tolist())
    assert [source.name(i) for i in range(3)] == [unicodedata.normalize(on_disk, name) for name in names]
    with pytest.raises(BrokenImage, match=r"missing\.png: no such file"):
        source.read(4, None)
    assert open_source([str(tmp_path / name) for name in wanted]).read(2, None).shape[2] == 6


def test_a_list_takes_every_name_that_a_file_can_have_in_a_line(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    names = ["a .png", "b\u2028c.png", "d\x85e.png", "f\x0b g.png", "h /i.png", "k.png "]
    for i, name in enumerate(names):
        save(folder / f"{i}.png", noise(4, 4 + i, 3))
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / f"{i}.png").rename(folder / name)
    listing = tmp_path / "list.txt"
    listing.write_bytes("\n".join(f"f/{name}" for name in names).encode())
    source = open_source(listing)
    assert [source.read(i, None).shape[2] for i in range(len(source))] == [4, 5, 6, 7, 8, 9]
    assert [source.name(i) for i in range(len(source))] == [f"f/{printable(name)}" for name in names]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda d: d / "nowhere", FileNotFoundError, ["nowhere does not exist", "folder of images"]),
        (lambda d: (d / "empty").mkdir() or d / "empty", ValueError, ["holds no image", "no files at all"]),
        (lambda d: [(d / n).write_text("x") for n in ("a.txt", "b.txt", "c.csv", "d")] and d, ValueError,
         ["holds no image", "2 .txt", "1 .csv", "1 without suffix"]),
        (lambda d: (d / "l.txt").write_text("x.png\ny.png") and d / "l.txt", FileNotFoundError,
         ["None of the first 2 files", "x.png"]),
        (lambda d: (d / "l.txt").write_text("# nothing\n\n") and d / "l.txt", ValueError, ["names no image"]),
        (lambda d: (d / "i.png").write_bytes(b"x") and d / "i.png", ValueError, ["no text file of paths"]),
        (lambda d: (d / "z.tar").write_bytes(b"a\0b") and d / "z.tar", ValueError, ["no text file of paths"]),
    ],
)  # fmt: skip
def test_what_is_no_data_is_named(
    tmp_path: Path, make: Callable[[Path], Path], error: type[Exception], words: list[str]
) -> None:
    with pytest.raises(error) as caught:
        open_source(make(tmp_path))
    assert all(word in str(caught.value) for word in words), caught.value


def test_labels_are_the_first_folders(tmp_path: Path) -> None:
    for name in ("dog/1.png", "cat/x/2.png", "cat/3.png"):
        save(tmp_path / name, noise(4, 4, 3))
    source = open_source(tmp_path, labelled=True)
    assert source.classes == ("cat", "dog")
    assert source.labels is not None
    assert source.labels.tolist() == [0, 0, 1]
    given = open_source(tmp_path, labelled=True, classes=["dog", "horse", "cat"])
    assert given.labels is not None
    assert given.labels.tolist() == [2, 2, 0]
    with pytest.raises(ValueError, match="'cat', which is none of the 2 known ones; nearest: cats"):
        open_source(tmp_path, labelled=True, classes=["cats", "dog"])
    save(tmp_path / "5.png", noise(4, 4, 3))
    with pytest.raises(ValueError, match=r"5\.png lies in no class folder"):
        open_source(tmp_path, labelled=True)


class Items(Dataset[object]):
    def __init__(self, items: list[object]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> object:
        item = self.items[i]
        if isinstance(item, Exception):
            raise item
        return item


def test_a_dataset_may_hold_any_kind_of_image() -> None:
    array = noise(3, 5, 3)  # as high as it has channels, to tell the axes apart
    grey = noise(3, 5)
    kinds: list[object] = [Image.fromarray(array), array, chw(array), (array, 7), [chw(array)]]
    source = open_source(Items([*kinds, grey, torch.from_numpy(grey)]))
    assert source.keys.tolist() == list(range(7))
    for i in range(5):
        assert torch.equal(source.read(i, None), chw(array)), i
    for i in (5, 6):
        assert torch.equal(source.read(i, None), chw(grey).expand(3, -1, -1)), i
    five = open_source(Items([torch.rand(5, 4, 4)]), channels=5)
    assert five.read(0, None).shape == (5, 4, 4)


def test_a_datasets_broken_items_and_wrong_kinds() -> None:
    source = open_source(Items([OSError("gone"), BrokenImage("x", "bad"), torch.zeros(5, 4, 4), {"image": 1}]))
    for i, reason in enumerate(
        ["item 0: OSError: gone", "item 1: bad", "item 2: not supported: has 5 channels, and 3 cannot be made"]
    ):
        with pytest.raises(BrokenImage, match=reason):
            source.read(i, None)
    with pytest.raises(TypeError, match="Item 3 of Items holds a dict"):
        source.read(3, None)
    with pytest.raises(ValueError, match="Items is empty"):
        open_source(Items([]))

    class Endless(IterableDataset[object]):
        def __iter__(self) -> Iterator[object]:
            return iter([])

    with pytest.raises(ValueError, match="Endless cannot be read by index"):
        open_source(Endless())


def test_a_datasets_labels() -> None:
    image = noise(4, 4, 3)
    source = open_source(Items([(image, 2), (image, 0)]), labelled=True)
    assert source.labels is not None
    assert (source.labels.tolist(), source.classes) == ([2, 0], ("0", "1", "2"))
    named = Items([image, image])
    named.targets, named.classes = [1, 0], ["b", "a"]  # type: ignore[attr-defined]
    source = open_source(named, labelled=True, classes=["a", "b"])
    assert source.labels is not None
    assert (source.labels.tolist(), source.classes) == ([0, 1], ("a", "b"))
    with pytest.raises(ValueError, match="Item 0 of Items has no label"):
        open_source(Items([image]), labelled=True)
    with pytest.raises(ValueError, match="label -1; expected 1 integers from 0"):
        open_source(Items([(image, -1)]), labelled=True)
    with pytest.raises(ValueError, match="label 3, but there are 2 classes"):
        open_source(Items([(image, 3)]), labelled=True, classes=["a", "b"])
    with pytest.raises(ValueError, match=r"label 1000000000000, .* Number the classes from 0"):
        open_source(Items([(image, 10**12)]), labelled=True)


def test_an_image_that_is_part_of_a_computation_is_taken_by_its_values() -> None:
    image = torch.rand(3, 4, 5, requires_grad=True)
    assert torch.equal(open_source(Items([image])).read(0, None), image.detach())


class Boxes(Items):
    """A Dataset for detection, or of what else its `targets` are."""

    def __init__(self, items: list[object], targets: object, classes: object = None) -> None:
        super().__init__(items)
        self.targets = targets
        if classes is not None:
            self.classes = classes


ODD_LABELS = {
    "boxes": [{"boxes": [1, 2], "labels": 3}] * 3, "nothing": [None] * 3, "ragged": [[1], [1, 2], []],
    "several": 1 - np.eye(3), "none or many": torch.ones(3, 3).triu(1).long(), "columns": np.zeros((3, 2), np.int64),
    "more than one": np.eye(3) * 2, "texts and numbers": ["cat", 1, "dog"], "rows of texts": [["a"], ["a", "b"], []],
    "tensors": [torch.zeros(2), torch.zeros(1), torch.zeros(2)],
    "objects": np.array([{}, object(), None]), "floats": [0.5, 1.0, 2.0], "too few": [0, 1], "negative": [0, 1, -1],
    "a number": 7, "a text": "train", "dates": np.array(["2020-01-01"] * 3, "M8[D]"),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_LABELS)
def test_labels_that_are_not_needed_stop_nothing_and_others_are_described(name: str) -> None:
    dataset = Boxes([noise(4, 4, 3)] * 3, ODD_LABELS[name])
    source = open_maybe_labelled(dataset)
    assert source.labels is None
    assert source.read(2, None).shape == (3, 4, 4)
    assert len(look(source).places) == 3
    with pytest.raises(ValueError, match=r"Boxes.*expected 3 integers from 0, the numbers of classes"):
        open_source(dataset, labelled=True)


def test_labels_of_every_kind_of_whole_numbers_are_taken() -> None:
    for labels in (
        [1, 0, 1],
        (1, 0, 1),
        np.array([1, 0, 1], np.uint8),
        torch.tensor([1, 0, 1]),
        [np.int32(1), 0, True],
    ):
        for classes in (None, ["no", "yes"], {"no": 0, "yes": 1}, 7):
            source = open_maybe_labelled(Boxes([noise(4, 4, 3)] * 3, labels, classes))
            assert source.labels is not None
            assert source.labels.tolist() == [1, 0, 1]
            assert source.classes == (("no", "yes") if isinstance(classes, list | dict) else ("0", "1"))

    class Failing(Items):
        @property
        def targets(self) -> object:
            raise RuntimeError("not loaded")

    assert open_maybe_labelled(Failing([(noise(4, 4, 3), 0)])).labels is None


class Odd(Exception):
    """An exception of a library that nobody knows."""


FAILURES = [
    KeyError("key"),
    RuntimeError("decode_jpeg\nfailed"),
    zlib.error("Error -3"),
    Odd("odd"),
    IndexError(3),
    ValueError("v"),
    TypeError("t"),
    AssertionError(),
    UnicodeDecodeError("utf-8", b"", 0, 1, "bad"),
    RecursionError("deep"),
    OSError("o"),
]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_exception_of_a_dataset_is_the_failure_of_its_item(workers: int) -> None:
    items: list[object] = [noise(4, 4, 3) for _ in range(40)]
    items[3 : 3 + len(FAILURES)] = FAILURES
    found = look(open_source(Items(items)), workers)
    assert dict(found.broken) == {
        f"item {3 + i}": " ".join(f"{type(e).__name__}: {e}".split()).removesuffix(":") for i, e in enumerate(FAILURES)
    }
    loader = Loader(open_source(Items(items)), 8, 0, workers=workers, max_broken=0.5)
    assert sum(len(batch.index) for batch in loader) == 40
    loader.close()
    assert set(loader.broken) <= {f"item {i}" for i in range(3, 14)}
    assert all(": " in reason or reason == "AssertionError" for reason in loader.broken.values())


def test_what_stops_a_program_is_no_failure_of_an_item() -> None:
    for stop in (KeyboardInterrupt(), SystemExit(3), MemoryError()):

        class Stopping(Items):
            def __getitem__(self, i: int, stop: BaseException = stop) -> object:
                raise stop

        source = open_source(Stopping([0]))
        with pytest.raises(type(stop)):
            source.read(0, None)


def test_an_error_that_all_items_share_is_shown() -> None:
    items = Items([KeyError("pixels")] * 40)
    with pytest.raises(ValueError, match=r"None of 40 images .*\n  item \d+: KeyError: 'pixels'\n  and 39 others"):
        next(iter(Loader(open_source(items), 8, 0)))
    with pytest.raises(ValueError, match=r"None of the 40 images could be read; .*KeyError: 'pixels'"):
        features(torch.nn.Flatten(), open_source(items), image_size=8, mean=(0.0,) * 3, std=(1.0,) * 3)


def test_an_item_that_cannot_be_had_has_no_label_and_is_not_used() -> None:
    image = noise(4, 4, 3)
    source = open_source(Items([(image, 1), Odd("gone"), (image, 0)]), labelled=True)
    assert source.labels is not None
    assert source.labels[[0, 2]].tolist() == [1, 0]
    source.dataset.items[1] = (image, 1)  # type: ignore[attr-defined]
    with pytest.raises(BrokenImage, match="item 1: Odd: gone"):
        source.read(1, None)


# ---------------------------------------------------------------- decoding


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA", "GIF", "WEBP", "JPEG2000", "JPEG"])
def test_formats_of_colour(kind: str) -> None:
    array = ramp(20, 30)
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(kind, {})
    image = decode(encoded(Image.fromarray(array), kind, **options), 3)
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    limit = {"JPEG": 12, "GIF": 30}.get(kind, 0)
    assert int((image.int() - chw(array).int()).abs().max()) <= limit


def test_modes_become_the_asked_channels() -> None:
    array, grey = noise(5, 7, 3), noise(5, 7)
    colour = Image.fromarray(array)
    luma = chw(np.asarray(colour.convert("L")))
    assert torch.equal(decode(encoded(colour, "PNG"), 1), luma)
    assert torch.equal(decode(encoded(Image.fromarray(grey), "PNG"), 3), chw(grey).expand(3, -1, -1))
    bits = Image.fromarray(grey).point(lambda v: 255 * (v > 99), mode="1")
    assert torch.equal(decode(encoded(bits, "PNG"), 1), chw(np.where(grey > 99, 255, 0).astype(np.uint8)))
    palette = colour.quantize(16)
    assert torch.equal(decode(encoded(palette, "PNG"), 3), chw(np.asarray(palette.convert("RGB"))))
    cmyk = Image.new("CMYK", (6, 4), (0, 255, 255, 0))
    assert decode(encoded(cmyk, "TIFF"), 3)[:, 0, 0].tolist() == [255, 0, 0]
    assert decode(encoded(cmyk, "JPEG"), 3)[0].float().mean() > 240
    assert decode(encoded(cmyk, "TIFF"), 1).shape == (1, 4, 6)


def test_transparency_is_laid_on_white_or_kept() -> None:
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[0] = (10, 20, 30, 255)
    rgba[1] = (10, 20, 30, 0)
    on_white = torch.tensor([[[v] * 3, [255] * 3] for v in (10, 20, 30)], dtype=torch.uint8)
    image = Image.fromarray(rgba)
    assert torch.equal(decode(encoded(image, "PNG"), 3), on_white)
    assert torch.equal(decode(encoded(image, "PNG"), 4), chw(rgba))
    assert decode(encoded(image.convert("LA"), "PNG"), 1)[0, 1].tolist() == [255] * 3
    palette = Image.new("P", (3, 2), 1)
    palette.putpalette([0, 0, 0, 200, 0, 0])
    assert decode(encoded(palette, "GIF", transparency=1), 3).unique().tolist() == [255]
    with pytest.raises(BrokenImage, match="no transparency"):
        decode(encoded(image.convert("RGB"), "PNG"), 4)
    with pytest.raises(BrokenImage, match="has 4 channels, and 5 cannot be made"):
        decode(encoded(image, "PNG"), 5)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits(kind: str) -> None:
    array = noise(5, 7, dtype=np.uint16)
    file = encoded(Image.fromarray(array), kind)
    for channels in (1, 3):
        image = decode(file, channels)
        assert image.dtype == torch.uint16
        assert torch.equal(image.int(), chw(array.astype(np.int32)).expand(channels, -1, -1))


def test_floats() -> None:
    array = RNG.random((5, 7), np.float32)
    assert torch.equal(decode(encoded(Image.fromarray(array), "TIFF"), 1), chw(array))
    for bad in (array * 300, np.full_like(array, np.nan)):
        with pytest.raises(BrokenImage, match=r"float values from .*; expected 0 to 1"):
            decode(encoded(Image.fromarray(bad), "TIFF"), 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(kind: str, orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encoded(Image.fromarray(ramp(16, 24)), kind, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB")
    assert torch.equal(decode(file, 3), chw(np.asarray(upright)))
    assert decode(file, 3).shape == ((3, 16, 24) if orientation < 5 else (3, 24, 16))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_corrupt_exif_does_not_break_a_good_image() -> None:
    assert decode(encoded(Image.fromarray(ramp(8, 8)), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"), 3).shape == (
        3,
        8,
        8,
    )


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        file = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        assert decode(file, 3)[:, 0, 0].tolist() == pytest.approx([255, 0, 0], abs=1), kind


@given(
    height=st.integers(1, 300), width=st.integers(1, 300), size=st.one_of(st.none(), st.integers(1, 150)),
    kind=st.sampled_from(["JPEG", "PNG", "array", "PNG of 16 bits"]), key=st.integers(),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_sizes_follow_the_rules(height: int, width: int, size: int | None, kind: str, key: int) -> None:
    grey = ramp(height, width)[..., 1]
    if kind == "array":
        file = io.BytesIO()
        np.save(file, grey)
        content = file.getvalue()
    elif kind == "PNG of 16 bits":
        content = encoded(Image.fromarray(grey.astype(np.uint16) * 257), "PNG")
    else:
        content = encoded(Image.fromarray(grey), kind)
    image = decode(content, 1, size, key)
    assert torch.equal(image.int(), decode(content, 1, size, key).int())
    if size is None:  # judging sees all of it
        assert tuple(image.shape) == (1, height, width)
        return
    factor = 1
    while min(height, width) // (2 * factor) >= size:
        factor *= 2
    short, long = -(-min(height, width) // factor), max(image.shape)
    if kind == "JPEG" and max(height, width) > 4 * min(height, width):  # it is shrunk before it is cut
        assert min(image.shape[1:]) >= short
        assert long <= 4 * min(image.shape[1:])
        return
    cut = min(max(height, width), 4 * min(height, width))
    assert sorted(image.shape[1:]) == [short, -(-cut // factor)]
    assert (image.shape[1] >= image.shape[2]) == (height >= width) or image.shape[1] == image.shape[2]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "array"])
def test_shrinking_keeps_the_picture(kind: str) -> None:
    array = ramp(96, 128)
    if kind == "array":
        source = open_source(Items([array]))
        image = source.read(0, 24)
    else:
        image = decode(encoded(Image.fromarray(array), kind), 3, 24)
    mean = chw(array).float().unfold(1, 4, 4).unfold(2, 4, 4).mean((3, 4))
    assert image.shape == (3, 24, 32)
    assert (image.float() - mean).abs().max() < 6


def test_the_window_of_a_long_image_depends_on_its_key() -> None:
    array = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None], (200, 10)).copy()
    file = encoded(Image.fromarray(array), "PNG")
    tops = {int(decode(file, 1, 10, key)[0, 0, 0]) for key in range(60)}
    assert len(tops) > 30
    assert 0 <= min(tops) < 20
    assert 140 < max(tops) <= 160
    image = decode(file, 1, 10, 5)
    assert torch.equal(image[0, :, 0], torch.arange(40, dtype=torch.uint8) + image[0, 0, 0])
    assert decode(file, 1, None, 5).shape == (1, 200, 10)  # judging sees all of it


@pytest.mark.parametrize("shape", [(6, 7), (3, 6, 7), (6, 7, 3), (1, 6, 7)])
@pytest.mark.parametrize("dtype", [">u2", np.uint8, np.float64, np.bool_])
def test_npy_files(tmp_path: Path, shape: tuple[int, ...], dtype: str | type) -> None:
    array = (RNG.random(shape) > 0.5).astype(dtype)
    np.save(tmp_path / "x.npy", array)
    image = decode(tmp_path / "x.npy", 3)
    assert image.shape == (3, 6, 7)
    assert image.dtype == {">u2": torch.uint16, np.float64: torch.float32}.get(dtype, torch.uint8)
    plane = array if array.ndim == 2 else array[..., 0] if array.shape[-1] == 3 else array[0]
    scale = 255 if dtype is np.bool_ else 1
    assert np.array_equal(image[0].to(torch.float64).numpy(), plane.astype(np.float64) * scale)


def test_npy_files_that_are_no_image(tmp_path: Path) -> None:
    for name, array, reason in (
        ("objects", np.array([{}], dtype=object), "Python objects"),
        ("integers", noise(4, 4, dtype=np.int32), "values of type int32; expected uint8"),
        ("axes", noise(4, 5, 6, 3), "shape .4, 5, 6, 3.; expected"),
        ("none", noise(0, 5), "empty file|shape .1, 0, 5."),
    ):
        np.save(tmp_path / f"{name}.npy", array, allow_pickle=True)
        with pytest.raises(BrokenImage, match=reason):
            decode(tmp_path / f"{name}.npy", 3)
    header = (tmp_path / "integers.npy").read_bytes().replace(b"(4, 4)", b"(9999999999, 4)").replace(b" " * 9, b"", 1)
    (tmp_path / "lies.npy").write_bytes(header)
    with pytest.raises(BrokenImage):
        decode(tmp_path / "lies.npy", 3)


def test_broken_files_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = encoded(Image.fromarray(noise(40, 40, 3)), "PNG")
    jpeg = encoded(Image.fromarray(noise(40, 40, 3)), "JPEG")
    flat = good[:16] + struct.pack(">II", 0, 0) + good[24:]
    for content, reason in (
        (b"", "empty file"),
        (b"hello", "not an image of a known format"),
        (good[: len(good) // 2], "truncated"),
        (jpeg[: len(jpeg) // 2], "truncated"),
        (good[:60] + b"\0" * 40 + good[100:], "."),
        (flat, "."),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\n%%EndComments\n%%EOF\n", "a EPS file|not an image"),
    ):
        path = tmp_path / "image.png"
        path.write_bytes(content)
        for image in (content, path):
            with pytest.raises(BrokenImage, match=reason):
                decode(image, 3)
    with pytest.raises(BrokenImage, match="no such file"):
        decode(tmp_path / "nowhere.png", 3)
    monkeypatch.setattr(limits, "MAX_PIXELS", 1000)
    with pytest.raises(BrokenImage, match="40 x 40 pixels are above the limit of 1000"):
        decode(good, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BrokenImage, match="more pixels than the limit"):
        decode(good, 3)


def test_a_broken_image_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(BrokenImage("a", "b")))
    assert (error.name, error.reason, str(error)) == ("a", "b", "a: b")


# ---------------------------------------------------------------- batches


def batch_of(images: list[Tensor]) -> Images:
    sizes = torch.tensor([image.shape[1:] for image in images])
    channels, b = images[0].shape[0], len(images)
    return Images(pack(images), starts(channels, sizes), sizes, channels, torch.arange(b), torch.arange(b))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_padded_puts_each_image_at_the_top_left(dtype: torch.dtype) -> None:
    images = [(torch.rand(3, h, w) * 250 + 1).to(dtype) for h, w in ((4, 6), (5, 2), (1, 1))]
    batch = batch_of(images)
    out = batch.padded()
    assert out.shape == (3, 3, 5, 6)
    assert out.dtype == dtype
    for row, image in zip(out, images, strict=True):
        expected = torch.zeros(3, 5, 6)
        expected[:, : image.shape[1], : image.shape[2]] = image.float()
        assert torch.equal(row.float(), expected)
    even = batch_of(images[:1] * 2)
    assert even.padded().data_ptr() == even.buffer.data_ptr()
    assert torch.equal(even.padded().float(), torch.stack(images[:1] * 2).float())
    moved = batch.to("cpu", non_blocking=True)
    assert torch.equal(moved.padded().float(), out.float())
    assert moved.broken == batch.broken


def test_mixed_dtypes_become_the_widest() -> None:
    byte, short = torch.tensor([0, 1, 255], dtype=torch.uint8), torch.tensor([0, 257, 65535]).to(torch.uint16)
    real = torch.tensor([0, 1 / 255, 1])
    images = [x.view(1, 1, 3) for x in (byte, short, real)]
    for some, expected in ((images[:2], short), (images[1:], real), (images[::2], real), (images, real)):
        out = batch_of(some).padded()
        assert out.dtype == expected.dtype
        for row in out:
            assert torch.allclose(row.view(-1).to(torch.float64), expected.to(torch.float64), atol=1e-7)


# ---------------------------------------------------------------- order


class Numbers(Source):
    """Images of one pixel that show their place; some are broken. Small enough for Hypothesis."""

    def __init__(self, count: int, broken: frozenset[int] = frozenset()) -> None:
        self.count = count
        self.channels = 1
        self.bad = broken

    def __len__(self) -> int:
        return self.count

    @property
    def keys(self) -> Tensor:
        return torch.arange(self.count) * 7

    def name(self, i: int) -> str:
        return f"n{i}"

    def read(self, i: int, decode_size: int | None) -> Tensor:
        if i in self.bad:
            raise BrokenImage(self.name(i), "bad")
        return torch.tensor([[[i / 1000]]])


splits = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(0, 9)).map(
    lambda t: {"b": t[0] * t[1] * t[2], "n": t[0] * t[1] * t[2] * t[3] + t[4], "world": t[1], "accumulate": t[2]}
)


def joined(loaders: list[Loader], accumulate: int) -> list[list[int]]:
    """The rows of each step's joined batch over one epoch, in order."""
    steps: list[list[int]] = []
    for micro, parts in enumerate(zip(*loaders, strict=True)):
        if micro % accumulate == 0:
            steps.append([])
        steps[-1] += [i for part in parts for i in part.index.tolist()]
    return steps


@given(split=splits, seed=st.integers(), share=st.sampled_from([0.0, 0.3]))
@settings(max_examples=60, deadline=None)
def test_the_joined_batch_depends_on_neither_ranks_nor_accumulation(
    split: dict[str, int], seed: int, share: float
) -> None:
    n, b = split["n"], split["b"]
    bad = frozenset(random.permutation(n, seed, "bad")[: int(share * n)].tolist())
    source = Numbers(n, bad)
    whole = Loader(source, b, seed, max_broken=1)
    parts = [
        Loader(source, b, seed, rank=r, world=split["world"], accumulate=split["accumulate"], max_broken=1)
        for r in range(split["world"])
    ]
    for epoch in range(2):
        assert all(len(p) == n // b * split["accumulate"] and p.steps_per_epoch == n // b for p in parts)
        expected = joined([whole], 1)
        assert joined(parts, split["accumulate"]) == expected
        order = random.permutation(n, seed, "order", epoch).tolist()
        for step, rows in enumerate(expected):
            own = order[step * b : (step + 1) * b]
            assert [r for r, o in zip(rows, own, strict=True) if o not in bad] == [o for o in own if o not in bad]
            assert bad.isdisjoint(rows)


@given(split=splits, seed=st.integers(), share=st.floats(0, 0.9))
@settings(max_examples=60, deadline=None)
def test_stand_ins_follow_the_stated_rule(split: dict[str, int], seed: int, share: float) -> None:
    n, b = split["n"], split["b"]
    order = random.permutation(n, seed, "order", 0).tolist()
    bad = set(random.permutation(n, seed, "bad")[: int(share * n)].tolist())
    steps = n // b
    for step, rows in enumerate(joined([Loader(Numbers(n, frozenset(bad)), b, seed, max_broken=1)], 1)):
        for p, row in enumerate(rows):  # slowly, from the words of Order's docstring
            column = [order[(step + k) % steps * b + p] for k in range(steps)]
            others = [order[(step * b + p + k) % n] for k in range(n)]
            assert row == next(i for i in column + others if i not in bad)
        if all(any(order[s * b + p] not in bad for s in range(steps)) for p in range(b)):
            assert len(set(rows)) == b


@given(split=splits, seed=st.integers(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_resumed_loader_goes_on_exactly(split: dict[str, int], seed: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, split["world"] - 1))
    source = Numbers(split["n"], frozenset({0} if split["n"] > 1 else ()))

    def fresh() -> Loader:
        return Loader(
            source, split["b"], seed, rank=rank, world=split["world"], accumulate=split["accumulate"], max_broken=1
        )

    def take(loader: Loader, count: int) -> list[tuple[list[int], list[int]]]:
        got: list[tuple[list[int], list[int]]] = []
        while len(got) < count:
            for batch in loader:
                got.append((batch.index.tolist(), batch.keys.tolist()))
                if len(got) == count:
                    break
        return got

    length = len(fresh())
    stop = data.draw(st.integers(0, 2 * length))
    uninterrupted = take(fresh(), 3 * length)
    first, second = fresh(), fresh()
    before = take(first, stop)
    assert first.state_dict() == {"epoch": stop // length, "consumed": stop % length}
    second.load_state_dict(first.state_dict())
    assert before + take(second, 3 * length - stop) == uninterrupted
    assert before + take(first, 3 * length - stop) == uninterrupted  # a loop left early goes on, too


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("consumed", [0, 2])
def test_a_survey_shows_an_epoch_of_its_own_and_changes_nothing(workers: int, consumed: int) -> None:
    def indices(loader: Loader) -> list[list[int]]:
        return [batch.index.tolist() for batch in loader]

    loader, plain = (Loader(Numbers(10), 4, 0, accumulate=2, workers=workers) for _ in range(2))
    for one in (loader, plain):
        one.load_state_dict({"epoch": 0, "consumed": consumed})
    seen = [(batch.index.tolist(), batch.keys.tolist()) for batch in loader.survey()]
    assert len(seen) == 4
    assert len({i for index, _ in seen for i in index}) == 8
    assert loader.state_dict() == {"epoch": 0, "consumed": consumed}
    assert indices(loader) == indices(plain)
    assert indices(loader) == indices(plain)
    half = loader.survey()
    next(half)
    half.close()
    assert indices(loader) == indices(plain)
    for one in (loader, plain):
        one.close()


def test_the_state_is_advanced_before_the_yield() -> None:
    loader = Loader(Numbers(10), 4, 0, accumulate=2)
    states = [loader.state_dict() for _ in loader]
    assert states == [{"epoch": e, "consumed": c} for e, c in ((0, 1), (0, 2), (0, 3), (1, 0))]
    assert loader.epoch == 1
    assert len(list(loader)) == 4
    assert loader.epoch == 2
    with pytest.raises(ValueError, match="9 micro-batches consumed, an epoch has 4"):
        loader.load_state_dict({"epoch": 0, "consumed": 9})


def test_keys_depend_on_seed_epoch_and_image_alone() -> None:
    source = Numbers(12)
    seen: dict[tuple[int, int, int], int] = {}
    for seed in (0, 1):
        for b in (4, 12):
            loader = Loader(source, b, seed)
            for epoch in range(2):
                for batch in loader:
                    for i, key in zip(batch.index.tolist(), batch.keys.tolist(), strict=True):
                        assert key == random.key_of(random.key_of(seed, "views"), epoch, 7 * i)
                        assert seen.setdefault((seed, epoch, i), key) == key
    assert len(set(seen.values())) == 48


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Loader(Numbers(3), 4, 0), "A batch of 4 cannot be taken from 3 images"),
        (lambda: Loader(Numbers(9), 0, 0), "A batch of 0 cannot"),
        (
            lambda: Loader(Numbers(9), 6, 0, world=2, accumulate=2),
            "6 does not divide into 2 micro-batches .* 2 processes",
        ),
        (lambda: Loader(Numbers(9), 6, 0, world=2, rank=2), "Rank 2 is none of 0 to 1"),
        (lambda: Loader(Numbers(9), 6, 0, cache="tape"), "cache is 'tape'; expected none, ram, device or disk"),
    ],
)
def test_what_cannot_be_loaded_is_named(make: Callable[[], Loader], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# ---------------------------------------------------------------- loading


def epochs(loader: Loader, count: int) -> list[Images]:
    return [batch for _ in range(count) for batch in loader]


def assert_same(a: list[Images], b: list[Images]) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        for name in ("buffer", "offsets", "sizes", "index", "keys", "labels"):
            assert torch.equal(getattr(x, name), getattr(y, name)), name
        assert (x.channels, x.broken) == (y.channels, y.broken)


@pytest.mark.parametrize("kind", [{"workers": 1}, {"workers": 2}, {"cache": "ram"}, {"cache": "device", "workers": 2}])
def test_workers_and_caches_change_nothing(folder: Path, kind: dict[str, object]) -> None:
    source = open_source(folder, labelled=True)

    def loader(**options: object) -> Loader:
        return Loader(source, 6, 3, rank=1, world=2, accumulate=1, decode_size=4, max_broken=0.5, **options)  # type: ignore[arg-type]

    plain, other = loader(), loader(**kind)
    expected = epochs(plain, 2)
    assert any(batch.broken for batch in expected)
    assert_same(epochs(other, 2), expected)
    assert other.broken == plain.broken
    resumed = loader(**kind)
    resumed.load_state_dict({"epoch": 0, "consumed": 2})
    assert_same(epochs(resumed, 2), expected[2:])
    resumed.load_state_dict({"epoch": 0, "consumed": 1})
    assert_same(epochs(resumed, 1), expected[1:3])
    assert resumed.waited > 0


def test_what_a_batch_holds(folder: Path) -> None:
    source = open_source(folder, labelled=True)
    loader = Loader(source, 6, 0, max_broken=0.5)
    (batch, *_) = loader
    assert source.labels is not None
    assert batch.labels is not None
    assert torch.equal(batch.labels, source.labels[batch.index])
    for row, i in zip(batch.padded(), batch.index.tolist(), strict=True):
        image = source.read(i, None)
        assert torch.equal(row[:, : image.shape[1], : image.shape[2]], image)
    epochs(loader, 5)
    names = {"b/07.png", "a/06.jpg", "c/05.png", "b/13.png"}
    assert set(loader.broken) == names
    assert loader.broken["b/13.png"] == "empty file"


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_batches_for_a_gpu_are_pinned(cache: Literal["none", "ram"], monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[int] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: pinned.append(self.numel()) or self)
    epochs(Loader(Numbers(8), 4, 0, cache=cache, device=torch.device("cpu")), 1)
    assert pinned == []
    epochs(Loader(Numbers(8), 4, 0, cache=cache, device=torch.device("cuda")), 1)
    assert pinned == [4] * 2  # the buffers of two batches


def test_workers_inherit_the_keys(folder: Path) -> None:
    source = open_source(folder)
    assert "_keys" not in vars(source)
    Loader(source, 6, 0)
    assert "_keys" in vars(source)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32, None])
def test_resident_images_of_every_dtype(dtype: torch.dtype | None) -> None:
    kinds = [torch.uint8, torch.uint16, torch.float32] if dtype is None else [dtype]
    items: list[object] = [
        (torch.rand(2, 3, 3) * {torch.uint8: 255, torch.uint16: 65535}.get(k := kinds[i // 70 % len(kinds)], 1)).to(k)
        for i in range(200)
    ]
    source = open_source(Items(items), channels=2)
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
    kept = cache_module.Kept(source, None, cache)
    stem = kept.pixels.stem
    monkeypatch.setattr("platform.node", lambda: "host")
    foreign = [f".{stem}.notes.tmp", f".{stem}.tmp.pixels", "mine.txt", f".{stem}0.host.1.tmp.pixels"]
    stale = [f".{stem}.host.1.tmp.pixels", f".{stem}.ho.st.1.tmp.pixels.wide", f".{stem}.7.tmp.npz",
             f".{stem}.host.0123456789abcdef.tmp.pixels"]  # fmt: skip
    for name in (*foreign, *stale):
        (cache / name).write_text("mine")
    (cache / f".{stem}.host.{os.getpid()}.tmp.pixels").symlink_to(cache / "mine.txt")
    kept.images(0, None)
    left = {path.name for path in cache.iterdir()}
    assert left >= {*foreign, f".{stem}.host.{os.getpid()}.tmp.pixels"}
    assert not left & {*stale}
    assert (cache / "mine.txt").read_text() == "mine"


def test_shared_memory_of_another_container_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers that share /dev/shm have processes of one number."""
    foreign, own = (tmp_path / f"torch_{os.getpid()}_{i}_0" for i in (1, 2))
    foreign.touch()
    monkeypatch.setattr(workers_module, "_SHARED", tmp_path)
    monkeypatch.setattr(workers_module, "_no_sharing", False)
    with open(own, "wb"):

        def full(x: Tensor) -> Tensor:
            raise RuntimeError("no room")

        monkeypatch.setattr(Tensor, "share_memory_", full)
        workers_module._shared(torch.zeros(1))
    assert foreign.exists()
    assert not own.exists()


def test_the_disk_cache_is_not_locked_through_a_link(tmp_path: Path) -> None:
    Image.fromarray(noise(5, 4, 3)).save(tmp_path / "0.png")
    kept = cache_module.Kept(open_source(tmp_path), None, tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    kept.lock.symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match="nothing is written through links"):
        kept.images(0, None)
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
    source = open_source(tmp_path, channels=1)
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


@pytest.mark.parametrize("options", [{}, {"workers": 1}, {"cache": "ram"}])
def test_too_many_broken_images_stop_the_loader(options: dict[str, object]) -> None:
    source = Numbers(100, frozenset(range(40)))
    with pytest.raises(ValueError, match=r"(?s)of \d+ images could not be read, .* 0\.1 .*\n  n\d+: bad.*--max-broken"):
        epochs(Loader(source, 10, 0, **options), 2)  # type: ignore[arg-type]
    assert len(epochs(Loader(source, 10, 0, max_broken=0.5, **options), 2)) == 20  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"1 of .* could not be read"):
        epochs(Loader(Numbers(100, frozenset({3})), 10, 0, max_broken=0, **options), 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{}, {"workers": 1}, {"cache": "ram"}])
def test_nothing_but_broken_images(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"(?s)None of 9\d\d images tried in turn could be read:\n  n\d+: bad"):
        next(iter(Loader(Numbers(2500, frozenset(range(2500))), 10, 0, max_broken=1, **options)))  # type: ignore[arg-type]


class Dying(Numbers):
    def read(self, i: int, decode_size: int | None) -> Tensor:
        if multiprocessing.parent_process() is not None:
            os._exit(9)
        return super().read(i, decode_size)


class Failing(Numbers):
    def read(self, i: int, decode_size: int | None) -> Tensor:
        raise TypeError("this image is a teapot")


def test_a_worker_that_dies_or_fails_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"loading process died.*/dev/shm.*--workers \(now 1\)"):
        next(iter(Loader(Dying(20), 4, 0, workers=1)))
    with pytest.raises(RuntimeError, match=r"^A loading process failed: TypeError: this image is a teapot$"):
        next(iter(Loader(Failing(20), 4, 0, workers=1)))
    with pytest.raises(TypeError, match="teapot"):
        next(iter(Loader(Failing(20), 4, 0)))


def test_loading_leaves_the_global_generator_alone(folder: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    epochs(Loader(open_source(folder), 6, 0, workers=1, max_broken=0.5), 1)
    assert torch.equal(torch.rand(3), expected)


def test_sources_and_orders_can_be_sent_to_a_spawned_worker(folder: Path) -> None:
    source = pickle.loads(pickle.dumps(open_source(folder, labelled=True)))
    assert torch.equal(source.keys, open_source(folder).keys)
    assert pickle.loads(pickle.dumps(Order(10, 4, 0, 0, 1, 1))) == Order(10, 4, 0, 0, 1, 1)


def test_workers_leave_signals_to_the_main_process() -> None:
    """Ctrl-C and a batch system's SIGTERM reach the workers, too; the main process may still want a batch from them."""
    loader, plain = Loader(Numbers(40), 4, 0, workers=1), Loader(Numbers(40), 4, 0)
    before = set(multiprocessing.active_children())
    batches = iter(loader)
    got = [next(batches)]
    (worker,) = set(multiprocessing.active_children()) - before
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker.pid or 0, number)
    got += batches
    assert [b.index.tolist() for b in got] == [b.index.tolist() for b in plain]
    assert worker.is_alive()
    del loader, batches
    gc.collect()
    assert not worker.is_alive()


LEAVES = """
import sys, torch
from torch.utils.data import Dataset
from lookalike.data import Loader, open_source

class Items(Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, i):
        if "failed" in sys.argv:
            return "a teapot"
        return torch.zeros(3, 4, 4)

loader = Loader(open_source(Items()), 4, 0, workers=2)
try:
    next(iter(loader))
except RuntimeError as error:
    kept = error  # and with it the frames that were running
"""


@pytest.mark.parametrize("how", ["busy", "failed"])
def test_a_process_with_workers_ends(how: str) -> None:
    command = [sys.executable, "-W", "ignore::UserWarning", "-c", LEAVES, how]  # torch warns where there is one core
    done = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)
    assert done.stderr == ""


DIES = """
import multiprocessing, os, signal, sys, time, torch
from torch.utils.data import Dataset
from lookalike.data import Loader, open_source, workers

class Items(Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, i):
        return torch.zeros(3, 256, 256)

workers._no_sharing = True
batches = iter(Loader(open_source(Items()), 8, 0, workers=2))
next(batches)
print(*[process.pid for process in multiprocessing.active_children()], flush=True)
time.sleep(2)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_with_a_main_process_that_was_killed() -> None:
    """Even while they send through a pipe, for want of shared memory, that nobody empties any more."""
    command = [sys.executable, "-W", "ignore::UserWarning", "-c", DIES]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert len(workers) == 2
        deadline = time.monotonic() + 60
        while any(map(is_running, workers)) and time.monotonic() < deadline:
            time.sleep(0.1)
        left = [pid for pid in workers if is_running(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert left == []


def test_a_failure_ends_its_workers() -> None:
    before = set(multiprocessing.active_children())
    with pytest.raises(RuntimeError, match="teapot") as caught:
        next(iter(Loader(Failing(20), 4, 0, workers=2)))
    assert caught.value.__cause__ is not None
    assert set(multiprocessing.active_children()) <= before


def test_a_subset_keeps_names_keys_and_labels(tmp_path: Path) -> None:
    for i, kind in enumerate("abab"):
        (tmp_path / kind).mkdir(exist_ok=True)
        Image.new("RGB", (4 + i, 3), (i, 0, 0)).save(tmp_path / kind / f"{i}.png")
    whole = open_source(tmp_path, labelled=True)
    part = Subset(whole, [3, 0])
    assert len(part) == 2
    assert [part.name(i) for i in range(2)] == [whole.name(3), whole.name(0)]
    assert part.classes == whole.classes == ("a", "b")
    assert whole.labels is not None
    assert part.labels is not None
    assert part.labels.tolist() == whole.labels[[3, 0]].tolist()
    assert part.keys.tolist() == whole.keys[[3, 0]].tolist()
    assert torch.equal(part.read(0, None), whole.read(3, None))


@given(
    st.integers(1, 70), st.integers(1, 70), st.sampled_from([None, 1, 9, 16, 33]), st.integers(30, 100),
    st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]), st.booleans(), st.sampled_from(["RGB", "L"]),
)  # fmt: skip
@settings(deadline=None, max_examples=150)
@example(3, 3, 1, 30, "4:4:4", False, "RGB")
def test_the_fast_decoder_gives_pillows_pixels(width, height, decode_size, quality, subsampling, progressive, mode):
    picture = Image.fromarray(ramp(height, width)[:, :, [0, 2, 1]]).rotate(30).convert(mode)
    file = encoded(picture, "JPEG", quality=quality, subsampling=subsampling, progressive=progressive)
    fast = jpeg.read(file, decode_size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jpeg, "simplejpeg", None)
        pillows = decode(file, 3, decode_size)
    # what is long, shrunk by more than 8, or tiny and shrunk, is left to Pillow
    factor = limits.shrink_factor(min(width, height), decode_size)
    long = decode_size is not None and max(width, height) > 4 * min(width, height)
    assert (fast is None) == (factor > 8 or long or (factor > 1 and min(width, height) < 8))
    assert fast is None or torch.equal(fast, pillows)
    assert torch.equal(decode(file, 3, decode_size), pillows)


def test_odd_jpegs_are_left_to_pillow():
    picture, exif = Image.fromarray(noise(20, 30, 3)), Image.Exif()
    exif[0x0112] = 6
    turned = encoded(picture, "JPEG", exif=exif)
    assert not jpeg.is_plain(turned)
    long = b"\xff\xe2" + (65000).to_bytes(2, "big") + bytes(64998)
    late = turned[:2] + long + long + turned[2:]  # the metadata begin after 64 KiB
    assert decode(late, 3).shape == (3, 30, 20)
    assert decode(turned, 3).shape == (3, 30, 20)
    inks = encoded(picture.convert("CMYK"), "JPEG")
    assert jpeg.read(inks, None) is None
    assert decode(inks, 3).shape == (3, 20, 30)
    cut = encoded(picture, "JPEG")[:-200]
    assert jpeg.read(cut, None) is None
    with pytest.raises(BrokenImage, match="truncated"):
        decode(cut, 3)
