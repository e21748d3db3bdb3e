"""CSV, TSV and JSONL lists: paths and labels by column."""

import json
from pathlib import Path

import pytest
import torch

from lookalike.data import image_set, open_maybe_labelled, open_source


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
        ("a.csv", f"file,label\n{image},a\n", r"no column path in line 2 \(columns: file, label\)"),
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
