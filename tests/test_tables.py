"""CSV, TSV and JSONL lists: paths and labels by column."""

import json
from pathlib import Path

import pytest
import torch

from lookalike.data import Columns, Subset, image_set, open_maybe_labelled, open_source


def written(suffix: str, out: Path, rows: list[dict[str, str]]) -> Path:
    path = out / f"list.{suffix}"
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        separator = "," if suffix == "csv" else "\t"
        lines = [separator.join(rows[0]), *(separator.join(row.values()) for row in rows)]
        path.write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_a_list_is_the_folder(suffix: str, classed: Path) -> None:
    folder = open_source(classed, labelled=True)
    names = [folder.name(i) for i in range(len(folder))]
    rows = [{"weight": "3", "path": name, "label": name.split("/")[0]} for name in names]
    path = written(suffix, classed, rows)
    try:
        source = open_source(path, labelled=True)
        assert image_set(source) == image_set(folder)
        assert source.classes == folder.classes
        assert source.labels is not None
        assert folder.labels is not None
        assert torch.equal(source.labels, folder.labels)
        assert torch.equal(source.read(7, None), folder.read(7, None))
        assert open_maybe_labelled(path).classes == folder.classes
        path = written(suffix, classed, [{"path": row["path"]} for row in rows])
        assert open_source(path, labelled=True).classes == folder.classes  # the first folders
        path = written(suffix, classed, [{"path": row["path"], "label": str(i % 11)} for i, row in enumerate(rows)])
        assert open_source(path, labelled=True).classes == tuple(map(str, range(11)))
    finally:
        path.unlink()


def test_bad_lists_are_refused_with_the_line(classed: Path, tmp_path: Path) -> None:
    image = classed / "class0" / "0.jpg"
    for name, content, reason in (
        ("a.csv", f"file,label\n{image},a\n", r"no column path in line 2 \(columns: file, label\). Name the columns"),
        ("a.csv", f"path,label,path\n{image},a,b\n", "its header has 'path' twice"),
        ("a.csv", f"path,label\n{image},a,b\n", "line 2 has more fields than the header; quote commas"),
        ("a.jsonl", f'{{"path": "{image}", "label": ["a", "b"]}}\n', r"has the label \['a', 'b'\] in line 1; expected"),
        (
            "a.jsonl",
            f'{{"path": "{image}", "label": 1.5}}\n',
            "has the label 1.5 in line 1; expected a text or a whole",
        ),
        ("a.jsonl", f'{{"path": "{image}", "label": "a"}}\n{{"path": "{image}"}}\n', "no label in line 2"),
        ("a.csv", f"path,label\n{image},a\n,b\n", "no path in line 3. Fill it in, or remove the line"),
        ("a.csv", f"path,label\n{image},a\n{image},\n", "no label in line 3. Fill it in, or remove the line"),
        ("a.tsv", "path\tlabel\n", "lists no images. Give a list with one image per line"),
        ("a.jsonl", f'{{"path": "{image}", "label": null}}\n', "no label in line 1"),
        ("a.jsonl", f'{{"path": "{image}"}}\n{{"pa', "cannot be read as a list of images"),
        ("a.jsonl", "[1]\n", r"cannot be read as a list of images \(line 1 is no object"),
        ("a.csv", 'path\n"' + "x" * 10, "cannot be read as a list of images"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=reason):
            open_source(tmp_path / name, labelled=True)
    (tmp_path / "a.csv").write_text(f"path,label\n{image},a\n")
    assert len(open_source(tmp_path / "a.csv", labelled=True)) == 1


OWN = Columns(path="file", label="finding", group="patient", split="fold")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_columns_have_the_names_that_are_given(suffix: str, classed: Path) -> None:
    names = sorted(path.relative_to(classed).as_posix() for path in classed.rglob("*.jpg"))
    rows = [
        {
            "file": name,
            "finding": "ab"[i % 2],
            "patient": str(i // 3),
            "fold": "test" if i < 9 else "train",
            "path": "x",
        }
        for i, name in enumerate(names)
    ]
    path = written(suffix, classed, rows)
    try:
        source = open_source(path, labelled=True, columns=OWN)
        assert source.classes == ("a", "b")
        assert source.groups is not None
        assert source.splits is not None
        assert [source.groups.names[n] for n in source.groups.numbers.tolist()] == [row["patient"] for row in rows]
        assert [source.splits.names[n] for n in source.splits.numbers.tolist()] == [row["fold"] for row in rows]
        for part in (Subset(source, [7, 2]), source.called(["b", "a"], [7, 2])):
            assert part.groups is not None
            assert part.splits is not None
            assert part.groups.numbers.tolist() == source.groups.numbers[[7, 2]].tolist()
            assert part.splits.names == source.splits.names
            assert part.labels is not None
            assert part.labels.tolist() == [1, 0]
        plain = open_source(path, columns=Columns(path="file", label="", group="patient", split=""))
        assert (plain.splits, plain.labels) == (None, None)
        assert plain.groups is not None
        assert open_source(path, labelled=True, columns=Columns(path="file", label="")).classes == tuple(
            f"class{n}" for n in range(4)
        )
        for wrong in (Columns(path="file", label="diagnosis"), Columns(path="file", group="diagnosis")):
            with pytest.raises(ValueError, match="no column diagnosis in line"):
                open_source(path, labelled=True, columns=wrong)
    finally:
        path.unlink()
    for names_twice in ({"path": "a", "label": "a"}, {"path": ""}):
        with pytest.raises(ValueError, match=r"names 'a' twice. Give each column|columns.path is empty. Give the name"):
            Columns(**names_twice)


def test_columns_that_are_not_needed_do_no_harm(classed: Path) -> None:
    names = sorted(path.relative_to(classed).as_posix() for path in classed.rglob("*.jpg"))[:3]
    rows = [{"path": name, "label": "", "group": "" if i else "p", "split": "train"} for i, name in enumerate(names)]
    path = written("csv", classed, rows)
    try:
        source = open_maybe_labelled(path)
        assert (source.labels, source.groups) == (None, None)
        assert source.splits is not None
        assert {name: reason.split(": ")[0] for name, reason in source.unusable.items()} == {
            "labels": f"{path} has no label in line 2. Fill it in, or remove the line.",
            "groups": f"{path} has no group in line 3. Fill it in, or remove the line.",
        }
        with pytest.raises(ValueError, match="no label in line 2"):
            open_source(path, labelled=True)
    finally:
        path.unlink()


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_an_image_may_have_several_classes(suffix: str, classed: Path) -> None:
    names = sorted(path.relative_to(classed).as_posix() for path in classed.rglob("*.jpg"))[:5]
    labels = ["b;a", "", " a ", "c;;a;c", "a;b;c"]
    path = written(suffix, classed, [{"path": name, "label": label} for name, label in zip(names, labels)])
    try:
        source = open_source(path, labelled=True, multi_label=True)
        assert (source.classes, source.labels) == (("a", "b", "c"), None)
        assert source.label_sets is not None
        expected = [[1, 1, 0], [0, 0, 0], [1, 0, 0], [1, 0, 1], [1, 1, 1]]
        assert source.label_sets.int().tolist() == expected
        assert open_source(path, labelled=True, multi_label=True, classes=["c", "b", "a"]).label_sets[0].tolist() == [  # type: ignore[index]
            False, True, True,
        ]  # fmt: skip
        with pytest.raises(ValueError, match=r"has the class 'c', which is not one of the 2 known classes"):
            open_source(path, labelled=True, multi_label=True, classes=["a", "b"])
        if suffix == "jsonl":
            sets = [{"path": name, "label": label.split(";")} for name, label in zip(names, labels)]
            path.write_text("".join(json.dumps(row) + "\n" for row in sets))
            again = open_source(path, labelled=True, multi_label=True).label_sets
            assert again is not None
            assert again.int().tolist() == expected
    finally:
        path.unlink()


def test_a_semicolon_is_a_part_of_a_class_unless_several_are_asked_for(classed: Path) -> None:
    names = sorted(path.relative_to(classed).as_posix() for path in classed.rglob("*.jpg"))[:3]
    path = written("csv", classed, [{"path": n, "label": c} for n, c in zip(names, ["a;b", "a", "a;b"])])
    try:
        assert open_source(path, labelled=True).classes == ("a", "a;b")
    finally:
        path.unlink()


def test_an_open_list_has_the_labels_that_it_was_opened_with(classed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(classed.rglob("*.jpg")).relative_to(classed).as_posix()
    path = written("csv", classed, [{"path": name, "label": "a;b"}])
    try:
        with pytest.raises(ValueError, match=r"no sets of classes. Open it with labelled=True, multi_label=True"):
            open_source(open_source(path, labelled=True), labelled=True, multi_label=True)
        source = open_source(path, labelled=True, multi_label=True)
        assert open_source(source, labelled=True, multi_label=True) is source
        with pytest.raises(ValueError, match=r"has no labels. Open it with labelled=True"):
            open_source(source, labelled=True)
        monkeypatch.setattr("lookalike.data.sources.tables.MOST_MARKS", 1)
        with pytest.raises(ValueError, match=r"has 2 classes for 1 image, too many for several classes per image"):
            open_source(path, labelled=True, multi_label=True)
        assert open_source(path, labelled=True).classes == ("a;b",)  # what the message advises
    finally:
        path.unlink()


def test_several_classes_need_a_list_with_their_column(classed: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot have several classes per image. Give a list \(.csv, .tsv, .jsonl\)"):
        open_source(classed, labelled=True, multi_label=True)
    name = next(classed.rglob("*.jpg")).relative_to(classed).as_posix()
    for rows, reason in (
        ([{"path": name}], "has no column label. Give each image its classes there, such as a;b"),
        ([{"path": name, "label": ";"}], "No image of .* has a class. Give each image its classes"),
    ):
        path = written("csv", classed, rows)
        try:
            with pytest.raises(ValueError, match=reason):
                open_source(path, labelled=True, multi_label=True)
        finally:
            path.unlink()
    with pytest.raises(FileNotFoundError):
        open_source(classed / "none", labelled=True, multi_label=True)


def test_unicode_forms_of_a_name_are_one_group(classed: Path) -> None:
    names = sorted(path.relative_to(classed).as_posix() for path in classed.rglob("*.jpg"))[:3]
    groups = ["J\u00f6rg", "Jo\u0308rg", "A"]
    path = written("jsonl", classed, [{"path": name, "group": group} for name, group in zip(names, groups)])
    try:
        found = open_source(path).groups
        assert found is not None
        assert (found.numbers.tolist(), found.names) == ([1, 1, 0], ("A", "J\u00f6rg"))
    finally:
        path.unlink()
