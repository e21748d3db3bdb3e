"""Images in the rows of Parquet and Arrow files: columns, names, memory, and bad input by name."""

import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from support.images import encoded, noise
from support.sources import arrow, columns, files, parquet, written

from lookalike.columns import Columns
from lookalike.data import BrokenImage, decode, open_maybe_labelled, open_source
from lookalike.data.sources import parquet as parquet_module
from lookalike.data.sources import row_files


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def png(seed: int = 0) -> bytes:
    return encoded(Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)), "PNG")


# ---------------------------------------------------------------- columns


def test_several_columns_of_images_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    written(path, {"jpg": [png(), png(1)], "weight": [1.0, 2.0]})
    assert len(open_source(path)) == 2
    written(path, {"left": [png()], "right": [png()]})
    with pytest.raises(ValueError, match=r"a\.parquet has several columns of images: left, right\. Rename the one to"):
        open_source(path)
    written(path, {"left": [png()], "image": [png(1)]})
    assert open_source(path).read(0, None).shape == (3, 8, 8)


def test_labels_are_integers_texts_or_classes_of_datasets(tmp_path: Path) -> None:
    path, content = tmp_path / "a.parquet", {"image": [png(i) for i in range(4)]}
    written(path, content | {"label": [10, 2, 0, 2]})
    source = open_source(path, labelled=True)
    assert (source.classes, source.labels.tolist()) == (("0", "2", "10"), [2, 1, 0, 1])  # type: ignore[union-attr]
    dictionary = pyarrow.array(["b", "a", "a", "b"]).dictionary_encode()
    pyarrow.parquet.write_table(pyarrow.table(content | {"label": dictionary}), path)
    assert open_source(path, labelled=True).classes == ("a", "b")
    assert open_source(path, labelled=True, classes=("b", "a")).labels.tolist() == [0, 1, 1, 0]  # type: ignore[union-attr]
    about = b'{"info": {"features": {"y": {"names": ["z", "y", "x"], "_type": "ClassLabel"}}}}'
    table = pyarrow.table(content | {"y": [0, 2, 0, 0]}).replace_schema_metadata({b"huggingface": about})
    pyarrow.parquet.write_table(table, path)
    source = open_source(path, labelled=True)
    assert (source.classes, source.labels.tolist()) == (("z", "y", "x"), [0, 2, 0, 0])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([0, None, 1], r"1 of 3 images has no label; the first is row 1\. Add a column label of integers or texts"),
        ([0, 1, -1], r"1 of 3 images has no label; the first is row 2\."),
        ([0.5, 1.0, 2.0], r"has no labels \(a\.parquet: column label has the type double, which is no class"),
        ([[0, 1], [1], [2]], r"column label has the type list"),
        (None, r"has no labels\. Add a column label of integers or texts, without nulls"),
    ],
)
def test_labels_that_are_no_classes_are_named(labels: list[object] | None, reason: str, tmp_path: Path) -> None:
    content: dict[str, list[object]] = {"image": [png(i) for i in range(3)]}
    path = written(tmp_path / "a.parquet", content | ({} if labels is None else {"label": labels}))
    with pytest.raises(ValueError, match=reason):
        open_source(path, labelled=True)
    assert open_maybe_labelled(str(path)).labels is None
    assert len(open_source(path)) == 3


def test_several_columns_of_classes_are_a_note(tmp_path: Path) -> None:
    features = ", ".join(f'"{name}": {{"names": ["a", "b"]}}' for name in ("fine", "coarse"))
    about = ('{"info": {"features": {%s}}}' % features).encode()  # noqa: UP031
    table = pyarrow.table({"image": [png()], "fine": [0], "coarse": [1]})
    pyarrow.parquet.write_table(table.replace_schema_metadata({b"huggingface": about}), tmp_path / "a.parquet")
    assert open_source(tmp_path / "a.parquet").notes() == [
        "a.parquet: columns fine, coarse are classes: none is used, none is label"
    ]


# ---------------------------------------------------------------- names


def test_names_beside_the_bytes_are_keys_unless_they_repeat(classed: Path, tmp_path: Path) -> None:
    rows = list(files(classed))
    full = [{"bytes": content, "path": name} for name, content in rows]
    source = open_source(written(tmp_path / "full.parquet", {"image": full}), labelled=True)
    assert source.listing() == open_source(classed).listing()
    assert source.classes == open_source(classed, labelled=True).classes  # the first folders
    short = [{"bytes": content, "path": f"{len(name) % 2}.jpg"} for name, content in rows]
    source = open_source(written(tmp_path / "short.parquet", {"image": short}))
    assert source.keys.tolist() == list(range(40))
    assert source.name(39) == "row 39"
    (note,) = source.notes()
    assert re.fullmatch(
        r"\d\.jpg names several images \(row \d+ of short\.parquet, row \d+ of short\.parquet\): images are identified "
        "by their row", note,
    )  # fmt: skip
    first = next(iter(dict(rows).values()))
    assert torch.equal(
        source.read(0, None), open_source(written(tmp_path / "b.parquet", {"image": [first]})).read(0, None)
    )
    some = [{"bytes": png(), "path": "a.png"}, {"bytes": png(1), "path": None}]
    source = open_source(written(tmp_path / "some.parquet", {"image": some}))
    assert source.notes() == ["some images have no name: images are identified by their row"]


def test_rows_of_several_files_without_names_are_numbered_in_order(tmp_path: Path) -> None:
    for k in range(2):
        written(tmp_path / f"{k}.parquet", {"image": [png(10 * k + i) for i in range(3)]})
    source, alone = open_source(tmp_path / "{0..1}.parquet"), open_source(tmp_path / "1.parquet")
    assert source.keys.tolist() == list(range(6))
    assert torch.equal(source.read(4, None), alone.read(1, None))
    renamed = source.called(["x"] * 6)
    assert renamed is source


def test_rows_may_hold_paths_instead_of_bytes(classed: Path, tmp_path: Path) -> None:
    names = sorted(dict(files(classed)))
    rows = [{"bytes": None, "path": str(classed / name)} for name in names]
    rows[3] = {"bytes": (classed / names[3]).read_bytes(), "path": names[3]}
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({"image": pyarrow.array(rows[:5], kind)})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    source, folder = open_source(tmp_path / "a.parquet"), open_source(classed)
    pixels = {source.read(i, None).numpy().tobytes() for i in range(5)}
    assert pixels == {folder.read(i, None).numpy().tobytes() for i in range(5)}


def test_paths_in_rows_are_a_list(classed: Path, tmp_path: Path) -> None:
    names = sorted(dict(files(classed)))
    path = written(tmp_path / "a.parquet", {"path": [str(classed / name) for name in names]})
    source = open_source(path)
    assert source.file(3) == str(classed / names[3])
    written(path, {"path": [str(classed / names[0]), None]})
    with pytest.raises(ValueError, match=r"a\.parquet has no path in row 1\. Fill it in, or remove the row"):
        open_source(path)
    written(path, {"path": [str(classed / name) for name in names[:2]], "label": ["a", None]})
    assert len(open_source(path)) == 2
    with pytest.raises(ValueError, match=r"a\.parquet has no label in row 1\. Fill it in, or remove the row"):
        open_source(path, labelled=True)
    written(path, {"path": ["nowhere.png"]})
    with pytest.raises(FileNotFoundError, match=r"None of the first 1 file in .*a\.parquet exists"):
        open_source(path)


# ---------------------------------------------------------------- memory and speed


def test_large_row_groups_are_read_in_pieces_with_bounded_memory(
    classed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = open_source(classed)
    path = written(tmp_path / "a.parquet", columns(classed), rows=40)
    monkeypatch.setattr(parquet_module, "_PIECE", 2**12)
    monkeypatch.setattr(parquet_module, "CACHED", 2**13)
    source = open_source(path)
    for i in torch.randperm(40, generator=torch.Generator().manual_seed(0)).tolist():
        assert torch.equal(source.read(i, None), folder.read(i, None))
        assert source._pieces._bytes <= 2**13  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(source))._pieces._bytes == 0
    reads = []
    real = pyarrow.parquet.ParquetFile.iter_batches
    monkeypatch.setattr(
        pyarrow.parquet.ParquetFile, "iter_batches", lambda self, *a, **k: reads.append(k) or real(self, *a, **k)
    )
    table = row_files.opened(str(path), parquet_module.Pieces()).table
    assert [table.value("label", row) for row in range(40)] == columns(classed)["label"]
    assert [table.value("image", row)["bytes"] for row in range(40)] == [content for _, content in files(classed)]  # type: ignore[index]
    assert len(reads) <= 2  # in the order of the rows, each piece is read once


def test_slow_row_groups_are_noted_with_what_to_do(
    classed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_module, "_SLOW", 2**12)
    path = written(tmp_path / "a.parquet", columns(classed), rows=20)
    assert open_source(path).notes() == []  # all row groups fit into memory
    monkeypatch.setattr(parquet_module, "CACHED", 2**13)
    (tmp_path / "cache").rename(tmp_path / "other")
    (note,) = open_source(path).notes()
    assert re.match(r"a\.parquet: row groups of up to 20 images \([\d.]+ KiB\): reading one image decodes", note)
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(path), path, row_group_size=1)  # as it says, but smaller
    assert open_source(path).notes() == []


def test_few_files_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(6):
        written(tmp_path / f"{k}.parquet", {"image": [png(k)]})
    source = open_source(tmp_path)
    monkeypatch.setattr("lookalike.data.sources.members._MOST_OPEN", 2)
    before = len(os.listdir("/proc/self/fd"))
    found = [source.read(i, None) for i in (*range(6), *range(6))]
    assert len(os.listdir("/proc/self/fd")) - before <= 3
    assert all(torch.equal(a, b) for a, b in zip(found[:6], found[6:]))


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("make", [parquet, arrow])
def test_a_cut_file_and_one_of_another_kind_are_refused(
    make: Callable[[Path, Path], str], classed: Path, tmp_path: Path
) -> None:
    made = Path(make(classed, tmp_path))
    path = made if made.is_file() else made / "data-00001-of-00002.arrow"
    kind, whole = "Parquet" if made.is_file() else "Arrow", path.read_bytes()
    for content in (whole[: len(whole) // 2], b"x" * 100, b""):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=rf"{path.name} is not an? {kind} file, or is truncated \(.+\)\. Copy it ag"
        ):
            open_source(made)
    path.write_bytes(whole)
    assert len(open_source(made)) == 40


def test_damaged_rows_count_as_broken_images(classed: Path, tmp_path: Path) -> None:
    content = columns(classed)
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(
        pyarrow.table(content), path, row_group_size=20, compression="zstd", use_dictionary=False
    )
    about = pyarrow.parquet.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    data[about.data_page_offset : about.data_page_offset + 64] = b"\xff" * 64
    path.write_bytes(data)
    source = open_source(path)
    broken = []
    for i in range(40):
        try:
            source.read(i, None)
        except BrokenImage as error:
            broken.append(str(error))
    assert len(broken) == 20
    assert re.match(r"class\d/\d+\.jpg: its row cannot be read \(", broken[0])


def test_nulls_and_what_is_no_image_are_broken_images_by_name(tmp_path: Path) -> None:
    rows = [png(), None, b"no image", b""]
    source = open_source(written(tmp_path / "a.parquet", {"image": rows, "path": ["a.png", "b.png", "c.png", "d.png"]}))
    assert source.read(0, None).shape == (3, 8, 8)
    for i, reason in (
        (1, r"b\.png: its row has no image \(null\)"),
        (2, r"c\.png: not an image"),
        (3, r"d\.png: empty"),
    ):
        with pytest.raises(BrokenImage, match=reason):
            source.read(i, None)
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    rows = pyarrow.array([None, {"bytes": None, "path": None}, {"bytes": None, "path": "none.png"}], kind)
    pyarrow.parquet.write_table(pyarrow.table({"image": rows}), tmp_path / "b.parquet")
    source = open_source(tmp_path / "b.parquet")
    for i, reason in ((0, r"row 0: its row has no image"), (1, r"row 1: its row has"), (2, r"none\.png: no such file")):
        with pytest.raises(BrokenImage, match=reason):
            source.read(i, None)
        assert source.head(i, 10) is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"file": ["a.png"], "label": [1]}, r"has no column of images \(columns: file, label\)\. Name the column with"),
        (
            {"image": [[1, 2]]},
            r"column image has the type list<.*>; expected the bytes of image files, or rows of bytes",
        ),
        ({"image": ["a.png"]}, r"column image has the type string; .* a column of paths is named path"),
        ({"image": [png(), png(1)], "path": ["a.png", None]}, r"has no path in row 1\. Fill it in, or remove the row"),
        ({"image": [png(), png(1)], "path": ["a.png", ""]}, r"has no path in row 1\."),
        ({"image": [png()], "path": ["a\0.png"]}, r"has a zero byte in the path of row 0\. Correct it"),
        ({"image": [png(), png(1)], "path": ["a.png", "./a.png"]}, r"a\.parquet contains a\.png twice\. Images need"),
        ({"image": pyarrow.array([], pyarrow.binary())}, r"contains no images\. Give files with one image per row"),
        ({"path": pyarrow.array([], pyarrow.string())}, r"lists no images\. Give files with one image per row"),
    ],
)
def test_bad_columns_are_refused_by_name(content: dict[str, list[object]], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=reason):
        open_source(written(tmp_path / "a.parquet", content))


def test_equal_columns_and_texts_that_are_no_utf8_are_refused(tmp_path: Path) -> None:
    table = pyarrow.Table.from_arrays([pyarrow.array([png()])] * 2, names=["image", "image"])
    with pyarrow.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pyarrow.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ValueError, match=r"a\.arrow has several columns image\. Rename all but one"):
        open_source(tmp_path / "a.arrow")
    names = pyarrow.Array.from_buffers(pyarrow.string(), 1, pyarrow.array([b"\xff.png"]).buffers())
    table = pyarrow.table({"image": [png()], "path": names})
    pyarrow.parquet.write_table(table, tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet: column path has texts that are not UTF-8 \(.*\)\. Correct them"):
        open_source(tmp_path / "b.parquet")


def test_duplicate_names_in_two_files_are_refused(tmp_path: Path) -> None:
    for k in range(2):
        written(tmp_path / f"{k}.parquet", {"image": [png(k)], "path": ["a.png"]})
    with pytest.raises(ValueError, match=r"0\.parquet and \S+1\.parquet both contain a\.png\. Images need different"):
        open_source(tmp_path)


def test_files_of_different_columns_are_refused(classed: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    written(data / "0.parquet", {"image": [png()]})
    written(data / "1.parquet", {"path": [str(classed / "class0/0.jpg")]})
    with pytest.raises(ValueError, match=r"1\.parquet has no column image, unlike other files of .*\. Give them alone"):
        open_source(data)
    (data / "1.parquet").rename(data / "-.parquet")
    with pytest.raises(ValueError, match=r"0\.parquet has a column image, unlike other files of .*\. Give them alone"):
        open_source(data)


@pytest.mark.parametrize("make", [parquet, arrow])
def test_a_file_that_changes_ends_the_training(
    make: Callable[[Path, Path], str], classed: Path, tmp_path: Path
) -> None:
    made = Path(make(classed, tmp_path))
    path = made if made.is_file() else made / "data-00001-of-00002.arrow"
    source = open_source(made)
    os.utime(path, ns=(1, 1))
    with pytest.raises(ValueError, match=rf"{path.name} has changed since it was indexed\. Restore it"):
        [source.read(i, None) for i in range(40)]
    path.unlink()
    with pytest.raises(ValueError, match=rf"{path.name} is no longer readable \(No such file"):
        [source.read(i, None) for i in range(40)]
    assert f"{path.name} no longer exists. Restore it" in source.missing()


def test_an_index_is_found_again_until_the_file_changes(classed: Path, tmp_path: Path) -> None:
    path = Path(parquet(classed, tmp_path))
    open_source(path)
    with mock.patch.object(row_files.Rows, "_search", side_effect=AssertionError):
        assert len(open_source(path)) == 40
    written(path, {"image": [png()], "path": ["a.png"]})
    assert len(open_source(path)) == 1


def test_compressed_arrow_files_are_refused_and_others_are_read(tmp_path: Path) -> None:
    table = pyarrow.table({"image": [encoded(Image.fromarray(noise(99, 99, 3)), "PNG") for i in range(100)]})
    path = tmp_path / "a.arrow"
    for compression in (None, "zstd"):
        options = pyarrow.ipc.IpcWriteOptions(compression=compression)
        for new in (pyarrow.ipc.new_file, pyarrow.ipc.new_stream):
            with pyarrow.OSFile(str(path), "wb") as file, new(file, table.schema, options=options) as writer:
                writer.write_table(table)
            if compression is None:
                assert open_source(path).read(99, None).shape == (3, 99, 99)
                continue
            with pytest.raises(
                ValueError, match=r"a\.arrow .* compressed, so they cannot be read one by one\. Write it"
            ):
                open_source(path)


def test_folders_of_save_to_disk_are_refused_if_something_is_missing(classed: Path, tmp_path: Path) -> None:
    import datasets

    saved = Path(arrow(classed, tmp_path))
    state = (saved / "state.json").read_text()
    (saved / "state.json").write_text('{"_data_files": [{"filename": "../x.arrow"}]}')
    with pytest.raises(ValueError, match=r"state\.json does not name the files of its rows, or was written by an old"):
        open_source(saved)
    (saved / "state.json").write_text(state)
    rows = datasets.load_from_disk(str(saved))
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / "both"))
    with pytest.raises(
        ValueError, match=r"both holds the splits test, train\. Give one of them, such as (\S+)\.$"
    ) as e:
        open_source(tmp_path / "both")
    assert len(open_source(str(e.value).split()[-1].rstrip("."))) == 40
    rows.select([5, 3]).save_to_disk(str(tmp_path / "part"))
    assert len(open_source(tmp_path / "part")) == 2
    (saved / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(ValueError, match=r"data-00001-of-00002\.arrow is missing; \S+state\.json names it\. Copy the"):
        open_source(saved)


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "a.parquet", {"image": [png()]})
    monkeypatch.setattr("lookalike.places.find_spec", lambda name: None)
    for data in (tmp_path / "a.parquet", tmp_path):
        with pytest.raises(
            ModuleNotFoundError, match=r"Reading \.parquet needs pyarrow: pip install 'lookalike\[tables"
        ):
            open_source(data)


def test_the_documented_table_is_the_folder(classed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[1] / "docs" / "data.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "photos").symlink_to(classed)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/data.md", "exec"), {})
    table, folder = open_source("photos.parquet", labelled=True), open_source("photos", labelled=True)
    assert table.listing() == folder.listing()
    assert table.classes == folder.classes
    assert torch.equal(table.read(39, None), folder.read(39, None))


@pytest.mark.parametrize("kind", ["bytes", "paths"])
def test_groups_and_splits_follow_the_images_and_columns_may_have_other_names(
    kind: str, classed: Path, tmp_path: Path
) -> None:
    names = [name for name, _ in files(classed)][::-1]
    content: dict[str, list[object]] = {"file": [str(classed / name) for name in names]}
    if kind == "bytes":
        content |= {"image": [(classed / name).read_bytes() for name in names]}
    content |= {"y": [name.split("/")[0] for name in names], "patient": [len(name) for name in names]}
    content["fold"] = ["test" if name.startswith("class0") else "train" for name in names]
    for k in range(2):
        written(tmp_path / f"{k}.parquet", {name: values[k::2] for name, values in content.items()})
    columns = Columns("file", "y", "patient", "fold")
    source = open_source(tmp_path / "{0..1}.parquet", labelled=True, columns=columns)
    assert source.labels is not None
    assert source.classes is not None
    assert source.groups is not None
    assert source.splits is not None
    for i in range(40):
        name = source.name(i).removeprefix(f"{classed}/".removeprefix("/")).removeprefix(f"{classed}/")
        assert source.groups.names[int(source.groups.numbers[i])] == str(len(name))
        assert source.splits.names[int(source.splits.numbers[i])] == ("test" if name.startswith("class0") else "train")
        assert source.classes[int(source.labels[i])] == name.split("/")[0]
        assert torch.equal(source.read(i, None), decode(str(classed / name), 3))
    assert open_source(written(tmp_path / "a.parquet", {"image": [png()], "group": ["a"]})).groups is not None
    source = open_source(written(tmp_path / "a.parquet", {"image": [png(), png(1)], "group": ["a", None]}))
    assert source.groups is None
    assert source.unusable == {"groups": "row 1 has no usable group: None. Correct it."}


SETS: list[object] = [["cat", "dog"], ["dog"], [], None, ["cat"]]
"""Classes of the first images; the others have none."""


@pytest.mark.parametrize("form", ["lists", "texts", "numbers", "paths", "arrow"])
def test_rows_may_have_several_classes(form: str, classed: Path, tmp_path: Path) -> None:
    """As lists, as a;b and as numbers of `datasets`: those of the CSV list with the same images."""
    import datasets

    copied = Path(shutil.copytree(classed, tmp_path / "images"))
    names = sorted(dict(files(copied)))
    sets = [each or [] for each in SETS] + [[]] * (len(names) - len(SETS))
    texts = [";".join(each) for each in sets]  # type: ignore[arg-type]
    (copied / "list.csv").write_text("".join(f"{a},{b}\n" for a, b in zip(["path", *names], ["label", *texts])))
    expected = open_source(copied / "list.csv", labelled=True, multi_label=True)
    images, path = [(copied / name).read_bytes() for name in names], copied / "images.parquet"
    content: dict[str, list[object]] = {"path": [*names], "label": [*texts] if form == "texts" else [*sets]}
    if form != "paths":
        content["image"] = [*images]
    if form in ("numbers", "arrow"):
        known = ["dog", "cat"]
        content |= {"label": [[known.index(each) for each in row] for row in sets]}  # type: ignore[union-attr]
        content |= {"image": [{"bytes": each, "path": None} for each in images]}
        kinds = {"path": datasets.Value("string"), "label": datasets.List(datasets.ClassLabel(names=known))}
        made = datasets.Dataset.from_dict(content, features=datasets.Features(kinds | {"image": datasets.Image()}))
        path = tmp_path / "saved" if form == "arrow" else path
        made.save_to_disk(str(path)) if form == "arrow" else made.to_parquet(str(path))
    else:
        written(path, content)
    source = open_source(path, labelled=True, multi_label=True)
    assert source.classes == expected.classes == ("cat", "dog")
    assert source.labels is None
    assert source.label_sets is not None
    assert expected.label_sets is not None
    by_name = {expected.name(i): expected.label_sets[i].tolist() for i in range(len(expected))}
    assert {source.name(i): source.label_sets[i].tolist() for i in range(len(source))} == by_name
    assert source.notes() == []


def test_classes_that_are_no_lists_of_texts_are_refused_by_row(tmp_path: Path) -> None:
    path = written(tmp_path / "x.parquet", {"image": [png(0), png(1)], "label": [0.5, 1.5]})
    with pytest.raises(
        ValueError, match=r"x\.parquet has the label 0\.5 in row 0; expected a;b or a list\. Correct it"
    ):
        open_source(path, labelled=True, multi_label=True)
    path = written(tmp_path / "y.parquet", {"image": [png(0), png(1)]})
    with pytest.raises(ValueError, match=r"y\.parquet has no column label\. Give each image its classes there"):
        open_source(path, labelled=True, multi_label=True)
