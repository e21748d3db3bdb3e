"""Features in files, and judging them."""

import csv
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.features import NAMES, blobs, example

from lookalike import cli
from lookalike.evaluation import evaluate_features, load_features, run_protocol, save_features


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".parquet"])
@pytest.mark.parametrize("classes", [NAMES, None])
def test_features_come_back_from_their_file(tmp_path: Path, suffix: str, classes: tuple[str, ...] | None) -> None:
    made = dataclasses.replace(blobs(12, 0.5, 0), classes=classes)
    save_features(tmp_path / f"f{suffix}", made)
    found = load_features(tmp_path / f"f{suffix}")
    assert torch.equal(found.features, made.features)
    assert torch.equal(found.labels, made.labels)
    assert (found.names, found.classes) == (made.names, classes)
    save_features(tmp_path / f"g{suffix}", dataclasses.replace(made, labels=None, classes=None))
    assert load_features(tmp_path / f"g{suffix}").labels is None


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"file,label\na,1\n", b"file,label,f0\na,1,x\n"])
@pytest.mark.parametrize("suffix", [".npz", ".csv", ".parquet"])
def test_a_file_that_holds_no_features(tmp_path: Path, content: bytes, suffix: str) -> None:
    file = tmp_path / f"f{suffix}"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="has no features"):
        load_features(file)


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", features=np.array([object()], dtype=object))
    with pytest.raises(ValueError, match="has no features"):
        load_features(tmp_path / "f.npz")


def test_saved_features_are_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = blobs(200, 0.4, 0), blobs(100, 0.4, 1)
    files = [tmp_path / "train.npz", tmp_path / "test.parquet"]
    for file, side in zip(files, (train, test)):
        save_features(file, side)
    out = tmp_path / "e.json"
    assert cli.main(["evaluate", "--features", *map(str, files), "--protocols", "knn", "semi", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())
    assert [row["protocol"] for row in rows] == ["knn", "semi", "semi"]
    (expected,) = run_protocol("knn", train, test, None, 0, None)
    assert rows[0]["top1"] == expected.top1
    assert "Wrote" in capsys.readouterr().out
    (alone,) = evaluate_features(files[0], protocols=["knn"])
    assert (alone.train_images, alone.test_images) == (160, 40)


def test_classes_of_two_files_are_matched_by_name(tmp_path: Path) -> None:
    train, test = blobs(100, 0.1, 0), blobs(40, 0.1, 1)
    other = dataclasses.replace(test, labels=3 - test.labels, classes=NAMES[::-1])  # the same, in another order
    save_features(tmp_path / "a.npz", train)
    save_features(tmp_path / "b.npz", other)
    (entry,) = evaluate_features(tmp_path / "a.npz", tmp_path / "b.npz", protocols=["knn"])
    assert entry.top1 == 1.0
    save_features(tmp_path / "b.npz", dataclasses.replace(test, classes=("ant", "bee", "cat", "eel")))
    with pytest.raises(ValueError, match="'eel'"):
        evaluate_features(tmp_path / "a.npz", tmp_path / "b.npz", protocols=["knn"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["runs/a"], "Expected an encoder and labelled images"),
        (["runs/a", "t", "s", "--features", "f.npz"], "replaces ENCODER TRAIN TEST"),
        (["--features", "a.npz", "b.npz", "c.npz"], "one or two files"),
    ],
)
def test_a_question_that_cannot_be_understood(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", *argv]) == 2
    assert message in capsys.readouterr().err


def test_files_that_cannot_be_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = blobs(60, 0.3, 0), blobs(40, 0.3, 1)
    names = tmp_path / "names.npz", tmp_path / "numbers.npz"
    save_features(names[0], train)
    save_features(names[1], dataclasses.replace(test, classes=None))
    (entry,) = evaluate_features(*names, protocols=["knn"])  # names on one side: numbers on both
    assert entry.class_names == ["0", "1", "2", "3"]
    save_features(names[1], dataclasses.replace(test, classes=None, labels=test.labels + 1_440_764))
    with pytest.raises(ValueError, match="The largest label is 144076"):
        evaluate_features(*names, protocols=["knn"])
    save_features(names[1], dataclasses.replace(train, labels=torch.zeros(60, dtype=torch.int64)))
    with pytest.raises(ValueError, match="are of one class"):
        evaluate_features(names[1], protocols=["knn"])
    broken = dataclasses.replace(train, features=train.features * float("nan"))
    for protocol in ("semi", "logistic", "linear", "retrieval", "knn"):
        with pytest.raises(ValueError, match="not finite"):
            run_protocol(protocol, broken, test, 4, 0, None)
    assert cli.main(["evaluate", "--features", str(names[0]), "--protocols", "knn"]) == 0
    assert "Results were not saved" in capsys.readouterr().out
    assert cli.main(["evaluate", "--features", str(names[0]), "--image-size", "64"]) == 2


# ---------------------------------------------------------------- kinds of files


@pytest.mark.parametrize("labelled", [True, False])
def test_npz_needs_no_pickle(tmp_path, labelled):
    made = example(labelled)
    save_features(tmp_path / "f.npz", made)
    with np.load(tmp_path / "f.npz", allow_pickle=False) as file:
        assert set(file) == {"features", "names"} | ({"labels"} if labelled else set())
        assert np.array_equal(file["features"], made.features.numpy())
        assert file["features"].dtype == np.float32
        assert file["names"].tolist() == made.names
        if labelled:
            assert file["labels"].tolist() == made.labels.tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["f.npz"]


@pytest.mark.parametrize("labelled", [True, False])
def test_csv_gives_every_float_back(tmp_path, labelled):
    made = example(labelled)
    save_features(tmp_path / "f.csv", made)
    with open(tmp_path / "f.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        head, *rows = csv.reader(file)
    assert head == ["file", "label", "f0", "f1", "f2", "f3", "f4"]
    assert [row[0] for row in rows] == made.names
    assert [row[1] for row in rows] == ([str(y) for y in made.labels.tolist()] if labelled else [""] * 12)
    values = np.array([row[2:] for row in rows], dtype=np.float64).astype(np.float32)
    assert np.array_equal(values, made.features.numpy())


@pytest.mark.parametrize("labelled", [True, False])
def test_parquet_holds_a_column_of_vectors(tmp_path, labelled):
    parquet = pytest.importorskip("pyarrow.parquet")
    made = example(labelled)
    save_features(tmp_path / "f.PARQUET", made)
    table = parquet.read_table(tmp_path / "f.PARQUET")
    assert table.column_names == ["file", "label", "features"]
    assert table["file"].to_pylist() == [*made.names[:-1], "odd \\udcff byte.jpg"]
    assert table["label"].to_pylist() == (made.labels.tolist() if labelled else [None] * 12)
    assert torch.equal(torch.tensor(table["features"].to_pylist()), made.features)


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'lookalike\[tables\]'"):
        save_features(tmp_path / "f.parquet", example())
    assert not list(tmp_path.iterdir())


def test_an_unknown_suffix_names_the_three(tmp_path):
    with pytest.raises(ValueError, match=r"'\.pkl'; expected \.npz, \.parquet or \.csv"):
        save_features(tmp_path / "f.pkl", example())
