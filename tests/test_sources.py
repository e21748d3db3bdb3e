"""Where images and labels come from: folders, lists of paths, Datasets and parts of them."""

import os
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.datasets import Items
from support.images import chw, encoded, noise, save
from torch.utils.data import IterableDataset

from lookalike import random
from lookalike.commands.check import look
from lookalike.data import BrokenImage, Loader, Source, Subset, decode, open_maybe_labelled, open_source
from lookalike.evaluation.features import features
from lookalike.printing import printable
from lookalike.random import key_of

# ---------------------------------------------------------------- folders and lists


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
    assert note.startswith("100 linked folders were skipped because their targets are read already")


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
    with pytest.raises(ValueError, match="c/ is the same folder as a/: its images would have two classes"):
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
        (lambda d: (d / "empty").mkdir() or d / "empty", ValueError, ["contains no images", "no files at all"]),
        (lambda d: [(d / n).write_text("x") for n in ("a.txt", "b.txt", "c.csv", "d")] and d, ValueError,
         ["contains no images", "2 .txt", "1 .csv", "1 without suffix"]),
        (lambda d: (d / "l.txt").write_text("x.png\ny.png") and d / "l.txt", FileNotFoundError,
         ["None of the first 2 files", "x.png"]),
        (lambda d: (d / "l.txt").write_text("# nothing\n\n") and d / "l.txt", ValueError, ["lists no images"]),
        (lambda d: (d / "i.png").write_bytes(b"x") and d / "i.png", ValueError, ["not a text file of paths"]),
        (lambda d: (d / "z.tar").write_bytes(b"a\0b") and d / "z.tar", ValueError, ["z.tar is not a tar archive"]),
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
    with pytest.raises(ValueError, match="'cat', which is not one of the 2 known classes; nearest: cats"):
        open_source(tmp_path, labelled=True, classes=["cats", "dog"])
    save(tmp_path / "5.png", noise(4, 4, 3))
    with pytest.raises(ValueError, match=r"5\.png is not in a class folder"):
        open_source(tmp_path, labelled=True)


# ---------------------------------------------------------------- Datasets


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
    five = open_source(Items([torch.rand(5, 4, 4)]), pixels=5)
    assert five.read(0, None).shape == (5, 4, 4)


def test_a_datasets_broken_items_and_wrong_kinds() -> None:
    source = open_source(Items([OSError("gone"), BrokenImage("x", "bad"), torch.zeros(5, 4, 4), {"image": 1}]))
    for i, reason in enumerate(
        [
            "item 0: OSError: gone",
            "item 1: bad",
            "item 2: not supported: has 5 channels, which cannot be converted to 3",
        ]
    ):
        with pytest.raises(BrokenImage, match=reason):
            source.read(i, None)
    with pytest.raises(TypeError, match="Item 3 of Items: expected an image, found a dict"):
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
    with pytest.raises(ValueError, match="label -1; expected 1 class indices"):
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
    assert len(look(source).indices) == 3
    with pytest.raises(ValueError, match=r"Boxes.*expected 3 class indices \(integers from 0\)"):
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


# ---------------------------------------------------------------- parts


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
