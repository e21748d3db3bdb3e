"""Features in files, and judging them."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.features import NAMES, blobs

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
    with pytest.raises(ValueError, match="holds no features"):
        load_features(file)


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", features=np.array([object()], dtype=object))
    with pytest.raises(ValueError, match="holds no features"):
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
        (["runs/a"], "Give an encoder and two labelled folders"),
        (["runs/a", "t", "s", "--features", "f.npz"], "takes the place of"),
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
    assert "Nothing was written" in capsys.readouterr().out
    assert cli.main(["evaluate", "--features", str(names[0]), "--image-size", "64"]) == 2
