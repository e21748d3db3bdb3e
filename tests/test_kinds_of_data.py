"""What may be given as data in Python: lists, arrays, rows with columns; labels of every form; names of classes."""

import json
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import tiny
from torch.utils.data import DataLoader, Dataset, TensorDataset

import lookalike
from lookalike import cli
from lookalike.commands.check import look
from lookalike.commands.finetune import finetune
from lookalike.data import BrokenImage, Source, open_maybe_labelled, open_source
from lookalike.methods import SimCLR
from lookalike.runs import Folder

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 20, 30, 3), np.uint8)
"""Six images (H, W, C)."""
PLANES = torch.from_numpy(PIXELS.transpose(0, 3, 1, 2).copy())


class ClassLabel:
    """What a Hugging Face Dataset says of a column of classes."""

    def __init__(self, names: list[str]) -> None:
        self.names = names


class Column:
    """As `datasets` 4 gives a column: a sequence of its own."""

    def __init__(self, values: list[object]) -> None:
        self.values = values

    def __iter__(self) -> Iterator[object]:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)


class Rows:
    """Behaves as a Hugging Face Dataset does: rows are dicts, columns are asked for by name."""

    def __init__(self, features: dict[str, object], **columns: list[object]) -> None:
        self.features, self.columns = features, columns
        self.read = 0
        """Rows that were decoded."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: int | str) -> object:
        if isinstance(key, str):
            return Column(self.columns[key])
        if not isinstance(key, int):
            raise TypeError(f"Wrong key type: {key!r}")
        self.read += 1
        return {name: values[key] for name, values in self.columns.items()}


def pictures() -> list[object]:
    return [Image.fromarray(image) for image in PIXELS]


def assert_are_the_images(source: Source) -> None:
    assert len(source) == 6
    for i in range(6):
        assert torch.equal(source.read(i, None), PLANES[i])


def labels_of(source: Source) -> list[str]:
    assert source.labels is not None
    assert source.classes is not None
    return [source.classes[k] for k in source.labels.tolist()]


# ---------------------------------------------------------------- lists, arrays, rows


KINDS: dict[str, Callable[[], object]] = {
    "a list of PIL images": pictures,
    "a tuple of arrays": lambda: tuple(PIXELS),
    "a list of tensors": lambda: list(PLANES),
    "a list of pairs": lambda: [(image, 0) for image in PIXELS],
    "an array (N, H, W, C)": lambda: PIXELS,
    "an array (N, C, H, W)": lambda: PLANES.numpy(),
    "an array of objects": lambda: np.array([*pictures(), None], object)[:6],
    "a tensor": lambda: PLANES,
    "a TensorDataset": lambda: TensorDataset(PLANES),
    "rows": lambda: Rows({}, image=pictures()),
    "rows of arrays": lambda: Rows({}, index=list(range(6)), pixels=list(PIXELS), text=["a cat"] * 6),
    "rows with a mask": lambda: Rows({}, mask=list(PIXELS[..., 0]), image=pictures()),
    "dicts": lambda: [{"img": image, "id": i} for i, image in enumerate(PIXELS)],
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_has_items_is_data(kind: str) -> None:
    source = open_source(KINDS[kind]())  # type: ignore[arg-type]
    assert_are_the_images(source)
    assert len(look(source).indices) == 6


def test_paths_and_encoded_images_are_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for i, image in enumerate(PIXELS):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "ab"[i % 2] / f"{i}.png")
    files = [f"{'ab'[i % 2]}/{i}.png" for i in range(6)]
    for paths in (files, [tmp_path / f for f in files], [Path(f) for f in files], tuple(files)):
        source = open_source(paths, labelled=True)
        assert_are_the_images(source)
        assert [source.name(i) for i in range(6)] == files
        assert labels_of(source) == ["a", "b"] * 3
    content = [Path(f).read_bytes() for f in files]
    for column in ([{"bytes": b, "path": None} for b in content], [{"bytes": None, "path": f} for f in files]):
        assert_are_the_images(open_source(Rows({}, image=column)))
        assert_are_the_images(open_source(column))
    assert_are_the_images(open_source(content))
    assert_are_the_images(open_source([(f, 0) for f in files]))
    with pytest.raises(FileNotFoundError, match=r"None of the first 2 files in the list exists"):
        open_source(["x.png", "y.png"])
    with pytest.raises(BrokenImage, match="item 0: no such file"):
        open_source([("x.png", 0)]).read(0, None)


class Frame:
    """As a table of pandas: columns by name, and a length."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, key: object) -> object:
        raise KeyError(key)


REFUSED: dict[str, tuple[object, str]] = {
    "a dict of splits": (
        {"train": pictures(), "test": []},
        r"a dict with the keys train, test\. Give one of its values",
    ),
    "a table": (Frame(), r"Frame has no item 0 \(KeyError: .*Give a list of images"),
    "a generator": (iter([]), r"list_iterator cannot be read by index\. Give a folder"),
    "a loader": (DataLoader(TensorDataset(PLANES)), "DataLoader cannot be read by index"),
    "nothing": (None, "NoneType cannot be read by index"),
    "a number": (3, "int cannot be read by index"),
    "an empty list": ([], "list is empty"),
    "one image": (PIXELS[0], r"have shape \(20, 30, 3\), which looks like a single image; expected \(N, H, W\)"),
    "one tensor": (PLANES[0], r"have shape \(3, 20, 30\), which looks like a single image"),
    "a table of numbers": (np.zeros((6, 784)), r"have shape \(6, 784\); expected \(N, H, W\), \(N, H, W, C\)"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_items_is_named_in_our_words(kind: str) -> None:
    data, words = REFUSED[kind]
    for function in (open_source, open_maybe_labelled):
        with pytest.raises(ValueError, match=words):
            function(data)  # type: ignore[operator]


def test_what_is_advised_about_arrays_works() -> None:
    x = PIXELS[0]
    assert torch.equal(open_source(x[None]).read(0, None), PLANES[0])
    grey = PIXELS[:3, ..., 0]  # as one image with channels first would be
    with pytest.raises(ValueError, match=r"x\[:, None\]"):
        open_source(grey)
    assert torch.equal(open_source(grey[:, None], pixels=1).read(2, None), PLANES[2, :1])
    pair = open_source([PIXELS, np.arange(6)])
    with pytest.raises(BrokenImage, match=r"an array of shape \(6, 20, 30, 3\); expected one image"):
        pair.read(0, None)


def test_rows_without_one_image_are_named() -> None:
    for rows, words in (
        (
            Rows({}, text=["a"], label=[3]),
            r"Item 0 of Rows: expected an image, found a dict without an image \(columns: text, label\)",
        ),
        (
            Rows({}, left=list(PIXELS), right=list(PIXELS)),
            r"several images \(left, right\)\. Rename the column to use to image",
        ),
    ):
        with pytest.raises(TypeError, match=words):
            open_source(rows).read(0, None)


def test_a_list_is_trained_on_embedded_and_shown(tmp_path: Path) -> None:
    images = [Image.fromarray(RNG.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(16)]
    run = lookalike.Run(
        data=images, method=SimCLR.Config(), backbone=tiny.CNN, image_size=32, epochs=1, batch_size=8, workers=0,
        out=str(tmp_path / "run"),
    )  # fmt: skip
    lookalike.pretrain(run)
    assert "16 images in <list>" in (tmp_path / "run/log.txt").read_text()
    rows = Rows({"label": ClassLabel(["cat", "dog"])}, image=list(images), label=[i % 2 for i in range(16)])
    found = lookalike.embed(tmp_path / "run", rows)
    assert found.labels is not None
    assert (found.labels.tolist(), found.classes) == ([0, 1] * 8, ("cat", "dog"))
    array = np.stack([np.asarray(image) for image in images])
    assert torch.equal(lookalike.embed(tmp_path / "run", array).features, found.features)
    assert lookalike.show(tmp_path / "run", images, out=tmp_path / "show", what=["neighbours"])
    (entry,) = lookalike.evaluate(tmp_path / "run", rows, rows, protocols=["knn"], out=tmp_path / "e.json")
    assert tuple(entry.class_names) == ("cat", "dog")


# ---------------------------------------------------------------- labels


LABELS: dict[str, object] = {
    "texts": ["cat", "dog", "cat", "ant", "dog", "cat"],
    "an array of texts": np.array(["cat", "dog", "cat", "ant", "dog", "cat"]),
    "an array of objects": np.array(["cat", "dog", "cat", "ant", "dog", "cat"], object),
    "bytes": [b"cat", b"dog", b"cat", b"ant", b"dog", b"cat"],
    "numbers": [1, 2, 1, 0, 2, 1],
    "a column": np.array([[1], [2], [1], [0], [2], [1]]),
    "a column of texts": [["cat"], ["dog"], ["cat"], ["ant"], ["dog"], ["cat"]],
    "whole floats": np.array([1.0, 2.0, 1.0, 0.0, 2.0, 1.0]),
    "one-hot rows": np.eye(3)[[1, 2, 1, 0, 2, 1]],
    "a one-hot tensor": torch.eye(3, dtype=torch.bool)[[1, 2, 1, 0, 2, 1]],
    "a list of one-hot tensors": list(torch.eye(3)[[1, 2, 1, 0, 2, 1]]),
    "a list of tensors": [torch.tensor(k) for k in (1, 2, 1, 0, 2, 1)],
    "a list of columns": [np.array([k]) for k in (1, 2, 1, 0, 2, 1)],
}


class Labelled(Dataset[object]):
    def __init__(self, labels: object) -> None:
        self.targets = labels

    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> object:
        return PIXELS[i]


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_every_clear_form_are_classes(kind: str) -> None:
    labels = LABELS[kind]
    are_texts = kind in ("texts", "bytes") or "of texts" in kind or "of objects" in kind
    for data in (
        Labelled(labels),
        [(image, label) for image, label in zip(PIXELS, labels)],  # type: ignore[call-overload]
        Rows({}, image=pictures(), label=list(labels)),  # type: ignore[call-overload]
    ):
        source = open_source(data, labelled=True)
        assert source.labels is not None
        assert source.labels.tolist() == [1, 2, 1, 0, 2, 1]
        assert source.classes == (("ant", "cat", "dog") if are_texts else ("0", "1", "2"))
    classes = ["dog", "cat", "ant"] if are_texts else ["a", "b", "c"]
    named = open_source(Labelled(labels), labelled=True, classes=classes)
    assert labels_of(named) == (
        ["cat", "dog", "cat", "ant", "dog", "cat"] if are_texts else ["b", "c", "b", "a", "c", "b"]
    )


ODD: dict[str, tuple[object, str]] = {
    "multi-hot": (
        np.array([[1, 1, 0]] * 6),
        r"have shape \(6, 3\), with zero or several classes for an",
    ),
    "boxes": ([{"box": 1}] * 6, r"of type dict, such as \{'box': 1\}"),
    "shares": (np.full((6, 3), 1 / 3), r"of shape \(6, 3\) and type float64"),
    "halves": ([0.5] * 6, r"of shape \(6,\) and type float64"),
    "negative": ([-1] * 6, "has the label -1"),
    "texts and numbers": (["cat", 1] * 3, "of types str, int, such as 'cat'"),
    "one of none": ([0, 1, None, 1, 0, 1], "of types int, NoneType, such as None"),
    "a number beyond all": ([0, 10**30, 1, 2, 1, 0], f"of type int, such as {10**30}"),
    "a dict": (dict.fromkeys(range(6), 1), "a dict"),
    "too few": (["cat"], "of type str, such as 'cat'"),
    "images": (pictures(), "of type Image, such as <PIL"),
    "masks": (list(PIXELS[..., 0]), "of type ndarray, such as array"),
}


@pytest.mark.parametrize("kind", ODD)
def test_labels_of_other_forms_are_explained(kind: str) -> None:
    labels, words = ODD[kind]
    with pytest.raises(
        ValueError, match=rf"{words}(?s:.*)expected 6 class indices \(integers from 0\) or 6 class names"
    ):
        open_source(Labelled(labels), labelled=True)
    assert open_maybe_labelled(Labelled(labels)).labels is None


def test_captions_are_no_classes() -> None:
    class Captions(Labelled):
        def __len__(self) -> int:
            return 300

    captions = Captions([f"photo {i} of a cat" for i in range(300)])
    assert open_maybe_labelled(captions).labels is None
    with pytest.raises(
        ValueError, match="are 300 different texts, such as 'photo 0 of a cat'; expected 300 class indices"
    ):
        open_source(captions, labelled=True)


def test_columns_of_labels_are_found_by_what_they_are() -> None:
    names = ClassLabel(["cat", "dog"])
    numbers: list[object] = [0, 1] * 3
    rows = Rows({"kind": names, "id": None}, image=pictures(), id=list(range(6)), kind=numbers)
    source = open_maybe_labelled(rows)
    assert labels_of(source) == ["cat", "dog"] * 3
    assert rows.read <= 2  # the column is enough
    assert open_maybe_labelled(Rows({}, image=pictures(), kind=numbers)).labels is None
    only = open_source(Rows({}, image=pictures(), text=["a b"] * 6, kind=numbers), labelled=True)
    assert labels_of(only) == ["0", "1"] * 3
    both = {"fine": names, "coarse": names}
    with pytest.raises(ValueError, match=r"several columns that may be labels: fine, coarse\. Rename the column"):
        open_source(Rows(both, image=pictures(), fine=numbers, coarse=numbers), labelled=True)
    renamed = Rows({"label": names, "coarse": names}, image=pictures(), label=numbers, coarse=numbers[::-1])
    assert labels_of(open_source(renamed, labelled=True)) == ["cat", "dog"] * 3
    with pytest.raises(ValueError, match=r"Item 0 of Rows has no label\. Return .* a column label"):
        open_source(Rows({}, image=pictures()), labelled=True)
    with pytest.raises(ValueError, match="Rows has the label -1"):  # as in test splits without labels
        open_source(Rows({"label": names}, image=pictures(), label=[-1] * 6), labelled=True)


def test_a_failing_item_takes_no_part_in_labels_of_texts() -> None:
    class Failing(Labelled):
        def __getitem__(self, i: int) -> object:
            if i == 0:
                raise OSError("gone")
            return PIXELS[i], "ab"[i % 2]

    source = open_source(Failing(None), labelled=True)
    assert labels_of(source)[1:] == ["b", "a", "b", "a", "b"]
    with pytest.raises(BrokenImage, match="OSError: gone"):
        source.read(0, None)


# ---------------------------------------------------------------- the axes of arrays


def test_an_array_is_never_taken_transposed() -> None:
    """Channels are last as documented, or first where only that can be; else the shape is named."""
    for count in (1, 3, 4):
        channels = 3 if count == 1 else count
        array = RNG.integers(0, 256, (count, 20, 30), np.uint8)
        expected = torch.from_numpy(array).expand(channels, -1, -1)
        for image in (array, array.transpose(1, 2, 0)):
            assert torch.equal(open_source([image], pixels=channels).read(0, None), expected)
            assert torch.equal(open_source([torch.from_numpy(image)], pixels=channels).read(0, None), expected)
    five = RNG.integers(0, 256, (5, 20, 30), np.uint8)
    for image in (five, five.transpose(1, 2, 0)):
        assert torch.equal(open_source([image], pixels=5).read(0, None), torch.from_numpy(five))
        with pytest.raises(BrokenImage, match=r"an array of shape .*expected \(H, W, C\) or \(C, H, W\)"):
            open_source([image]).read(0, None)
    both = RNG.integers(0, 256, (3, 20, 3), np.uint8)  # as documented
    assert open_source([both]).read(0, None).shape == (3, 3, 20)
    assert open_source([torch.from_numpy(both)]).read(0, None).shape == (3, 20, 3)


# ---------------------------------------------------------------- names of classes


COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Ärztin") for form in ("NFC", "NFD"))


def labelled_folder(root: Path, names: list[str], count: int = 4) -> Path:
    for k, name in enumerate(names):
        for i in range(count):
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(RNG.integers(0, 100, (32, 32, 3), np.uint8) + 100 * (k % 2)).save(root / name / f"{i}.png")
    return root


def test_a_class_is_the_same_however_its_name_is_composed(tmp_path: Path) -> None:
    assert COMPOSED != DECOMPOSED
    for first, second in ((COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)):
        train = open_source(labelled_folder(tmp_path / first, [first, "Koch"]), labelled=True)
        root = labelled_folder(tmp_path / second / "test", [second, "Koch"])
        test = open_source(root, labelled=True, classes=train.classes)
        assert test.classes == train.classes
        assert labels_of(test).count(first) == 4
        open_source(test, labelled=True, classes=[unicodedata.normalize("NFC", c) for c in train.classes or ()])
        texts = open_source([(PIXELS[0], second), (PIXELS[1], "Koch")], labelled=True, classes=train.classes)
        assert labels_of(texts) == [first, "Koch"]
    both = open_source(labelled_folder(tmp_path / "both", [COMPOSED, DECOMPOSED, "Koch"]), labelled=True)
    assert sorted(unicodedata.normalize("NFC", c) for c in both.classes or ()) == sorted([COMPOSED, "Koch"])
    assert both.labels is not None
    assert both.labels.bincount().tolist() in ([8, 4], [4, 8])


def test_what_was_written_of_class_names_stays_as_it_is(tmp_path: Path) -> None:
    """Runs begun before go on: their names, their order and the keys of their images do not change."""
    root = labelled_folder(tmp_path, [DECOMPOSED, "Zoo", "Koch"])
    source = open_source(root, labelled=True)
    assert source.classes == tuple(sorted([DECOMPOSED, "Zoo", "Koch"]))
    other = labelled_folder(tmp_path / "other", [COMPOSED, "Zoo", "Koch"])
    assert not set(source.keys.tolist()) <= set(open_source(other).keys.tolist())
    two = open_source(labelled_folder(tmp_path / "two", [COMPOSED, DECOMPOSED]), labelled=True,
                      classes=[DECOMPOSED, COMPOSED])  # fmt: skip
    assert sorted(labels_of(two)) == sorted([COMPOSED] * 4 + [DECOMPOSED] * 4)


def test_names_of_classes_agree_through_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = labelled_folder(tmp_path / "train", [DECOMPOSED, "Koch"])
    test = labelled_folder(tmp_path / "test", [COMPOSED, "Koch"])
    run, tuned = tmp_path / "run", tmp_path / "tuned"
    small = ["--image-size", "32", "--batch-size", "4", "--epochs", "1", "--workers", "0", "--no-report"]
    argv = ["pretrain", "simclr", train, "--probe", train, test, "--backbone", tiny.CNN, "--out", run, *small]
    assert cli.main([*map(str, argv)]) == 0, capsys.readouterr().err
    assert "knn_top1" in Folder(run).rows()[-1]
    argv = ["evaluate", run, train, test, "--protocols", "knn", "--workers", "0"]
    assert cli.main([*map(str, argv)]) == 0, capsys.readouterr().err
    for name, data in (("a", train), ("b", test)):
        lookalike.embed(run, data, out=tmp_path / f"{name}.npz")
    argv = ["evaluate", "--features", tmp_path / "a.npz", tmp_path / "b.npz", "--protocols", "knn"]
    assert cli.main([*map(str, argv)]) == 0, capsys.readouterr().err
    finetune(run, train, test, out=tuned, image_size=32, batch_size=4, epochs=1, workers=0)
    assert json.loads((tuned / "classes.json").read_text()) == [DECOMPOSED, "Koch"]
    argv = ["finetune", "--resume", "--out", tuned, "--epochs", "2", "--no-report"]
    assert cli.main([*map(str, argv)]) == 0, capsys.readouterr().err


def test_rows_may_name_their_image_by_a_path(tmp_path: Path) -> None:
    files = [str(tmp_path / f"{i}.png") for i in range(6)]
    for file, image in zip(files, pictures()):
        image.save(file)
    for column in ("image", "file_name"):
        rows = [{column: file, "caption": "a cat", "label": i % 2} for i, file in enumerate(files)]
        assert_are_the_images(open_source(rows))
    assert_are_the_images(open_source(np.array(files)))


def test_texts_that_unicode_writes_in_two_ways_are_one_class() -> None:
    source = open_source(Labelled([COMPOSED, DECOMPOSED, "Koch"] * 2), labelled=True)
    assert source.classes is not None
    assert len(source.classes) == 2
    assert labels_of(source) == [labels_of(source)[0]] * 2 + ["Koch"] + [labels_of(source)[0]] * 2 + ["Koch"]


def test_what_is_no_dataset_yet_is_named() -> None:
    class Endless(Labelled):
        def __len__(self) -> int:
            raise TypeError("this library's words")

    with pytest.raises(ValueError, match=r"Labelled is a class\. Give an instance of it, such as Labelled\(\)"):
        open_source(Labelled)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Endless has no length \(TypeError: this library's words\)\. Give a Dataset"):
        open_source(Endless(None))
    with pytest.raises(ValueError, match="bytes cannot be read by index"):
        open_source(b"photos")  # type: ignore[arg-type]
