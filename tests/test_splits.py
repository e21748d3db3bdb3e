"""`evaluate` without TEST: the column split of a list, and random splits that keep groups together."""

import csv
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.networks import saved_vit

from lookalike import cli
from lookalike.data import Columns
from lookalike.data.splits import open_split, shared_groups
from lookalike.evaluation import evaluate

KNN = ("--protocols", "knn", "--workers", "0")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return saved_vit(tmp_path / "run")


def listed(out: Path, labelled: Path, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    """A list of the images of `labelled`, with absolute paths."""
    path = out / "list.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *([str(labelled / row[0]), *row[1:]] for row in rows)])
    return path


def images(labelled: Path) -> list[tuple[str, str]]:
    """The names and classes of all images, those of train first."""
    found = [path.relative_to(labelled).as_posix() for split in ("train", "test")
             for path in sorted((labelled / split).rglob("*.jpg"))]  # fmt: skip
    return [(name, name.split("/")[1]) for name in found]


def both(path: Path, **options: object) -> tuple[set[str], set[str]]:
    found = open_split(path, **options)  # type: ignore[arg-type]
    train, test = ({side.name(i) for i in range(len(side))} for side in (found.train, found.test))
    return train, test


def test_the_column_gives_what_two_folders_give(
    run: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(name, label, name.split("/")[0].upper()) for name, label in images(labelled)]
    path = listed(tmp_path, labelled, ["path", "label", "split"], rows)
    protocols = ["--protocols", "knn", "retrieval", "logistic", "label-free", "--workers", "0"]
    assert cli.main(["evaluate", str(run), str(path), *protocols]) == 0
    assert f"{path}: 32 training images and 16 test images by the column split\n" in capsys.readouterr().out
    assert cli.main(["evaluate", str(run), str(labelled / "train"), str(labelled / "test"), *protocols]) == 0
    found = json.loads((run / "evaluation.json").read_text())
    assert [row["protocol"] for row in found] == 2 * ["knn", "retrieval", "logistic", "label-free"]
    for one, other in zip(found[:4], found[4:]):
        if one["protocol"] != "label-free":  # views are drawn from names, which are longer here
            assert (one["top1"], one["confusion"]) == (other["top1"], other["confusion"])
        assert one["split"] == {"by": "column", "column": "split", "train": "train", "test": "test"}
        assert (one["train"], one["test"], other["split"]) == (str(path), str(path), {})
        assert (one["train_images"], one["test_images"]) == (other["train_images"], other["test_images"])


def test_validation_images_are_for_testing_where_there_is_no_test(labelled: Path, tmp_path: Path) -> None:
    names = images(labelled)
    rows = [(name, label, ("Train", "valid", "test")[i % 3]) for i, (name, label) in enumerate(names)]
    path = listed(tmp_path, labelled, ["path", "label", "split"], rows)
    found = open_split(path)
    assert (len(found.train), len(found.test), found.about["test"]) == (16, 16, "test")
    assert found.line.endswith("by the column split; 16 images of val left out")
    listed(tmp_path, labelled, ["path", "label", "split"], [row for row in rows if row[2] != "test"])
    found = open_split(path)
    assert (len(found.train), len(found.test), found.about["test"]) == (16, 16, "val")
    assert found.line.endswith("by the column split (val for testing)")


def test_splits_that_cannot_be_used_say_why(
    run: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = images(labelled)

    def refused(reason: str, splits: Sequence[str], *options: str, code: int = 1) -> None:
        rows = [(name, label, splits[i % len(splits)]) for i, (name, label) in enumerate(names)]
        path = listed(tmp_path, labelled, ["path", "label", "split"], rows)
        assert cli.main(["evaluate", str(run), str(path), *KNN, *options]) == code
        assert reason in capsys.readouterr().err

    refused(
        "has the split 'later'; expected train, val or test. Correct it, or name another column", ["train", "later"]
    )
    refused("has no split in line 3. Fill it in, or remove the line", ["train", ""])
    refused("has no image of the split test or val (found: train). Correct the column, give TEST", ["train"])
    refused("has no image of the split train (found: test)", ["test"])
    refused("has the column split. Leave --holdout out to use it, or ignore", ["train", "test"], "--holdout", "0.2")
    refused("has no column fold in line 2", ["train", "test"], "--columns.split", "fold")
    refused("has no column of splits. Give TEST, the fraction of a random", ["train", "test"], "--columns.split", "")
    refused("holdout is 1.0; it must be above 0 and below 1", ["train"], "--columns.split", "", "--holdout", "1")
    assert cli.main(["evaluate", str(run), str(labelled / "train"), *KNN]) == 1
    assert (
        "has no column split. Give TEST, the fraction of a random split with --holdout 0.2" in capsys.readouterr().err
    )
    two = [str(labelled / "train"), str(labelled / "test")]
    assert cli.main(["evaluate", str(run), *two, "--holdout", "0.2"]) == 2
    assert "--holdout splits TRAIN, but TEST is given. Leave one of them out" in capsys.readouterr().err
    with pytest.raises(ValueError, match="holdout splits TRAIN, but TEST is given"):
        evaluate(run, *two, holdout=0.2)
    assert cli.main(["evaluate", str(run), *KNN]) == 2
    assert "lookalike evaluate ENCODER TRAIN --holdout 0.2" in capsys.readouterr().err
    assert not (run / "evaluation.json").exists()


def test_what_the_messages_advise_works(
    run: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(name, label, "", "") for name, label in images(labelled)]
    path = listed(tmp_path, labelled, ["path", "label", "split", "group"], rows)
    without = ["--columns.split", "", "--holdout", "0.2"]
    assert cli.main(["evaluate", str(run), str(path), *without, *KNN]) == 1
    assert "has no group in line 2. Fill it in, or remove the line. Or ignore the column" in capsys.readouterr().err
    for more in ([*without, "--columns.group", ""], [str(labelled / "test")]):
        assert cli.main(["evaluate", str(run), str(path), *more, *KNN]) == 0
    assert cli.main(["evaluate", str(run), str(labelled / "train"), "--holdout", "0.2", *KNN]) == 0


def test_patients_on_both_sides_are_counted(
    run: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(name, label, name.split("/")[0], f"p{n if n < 40 else n - 40}")
            for n, (name, label) in enumerate(images(labelled))]  # fmt: skip
    path = listed(tmp_path, labelled, ["path", "label", "split", "group"], rows)
    assert cli.main(["evaluate", str(run), str(path), *KNN]) == 0
    assert (
        "WARNING: 8 groups are in both TRAIN and TEST (p0, p1, p2 and 5 others): 8 of 32 training images and 8 "
        "of 16 test images. Results on them do not apply to new groups."
    ) in capsys.readouterr().out
    assert not shared_groups(
        *(open_split(path, columns=Columns(group="")).__dict__[side] for side in ("train", "test"))
    )


@pytest.mark.parametrize("seed", range(3))
def test_a_random_split_keeps_patients_together_whatever_the_order_of_rows(
    labelled: Path, tmp_path: Path, seed: int
) -> None:
    rows = [(name, label, f"p{n // 3}") for n, (name, label) in enumerate(images(labelled))]
    path = listed(tmp_path, labelled, ["path", "label", "group"], rows)
    group_of = {str(labelled / row[0]): row[2] for row in rows}
    train, test = both(path, holdout=0.25, seed=seed)
    assert not {group_of[f"/{name.lstrip('/')}"] for name in train} & {
        group_of[f"/{name.lstrip('/')}"] for name in test
    }
    assert 6 <= len(test) <= 18
    random.Random(seed).shuffle(rows)
    listed(tmp_path, labelled, ["path", "label", "group"], rows)
    assert both(path, holdout=0.25, seed=seed) == (train, test)
    assert both(path, holdout=0.25, seed=seed + 10) != (train, test)


def test_a_random_split_is_recorded_and_the_same_for_list_and_folder(
    run: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = labelled / "train"
    assert cli.main(["evaluate", str(run), str(folder), "--holdout", "0.25", "--seed", "3", *KNN]) == 0
    said = capsys.readouterr().out
    assert f"{folder}: 24 training images and 8 test images by a random split with seed 3\n" in said
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))
    path = folder / "list.csv"
    try:
        path.write_text("path,label,patient\n" + "".join(f"{n},{n.split('/')[0]},{n[-5]}\n" for n in names))
        assert both(path, holdout=0.25, seed=3) == both(folder, holdout=0.25, seed=3)
        grouped = ["--holdout", "0.25", "--columns.group", "patient"]
        assert cli.main(["evaluate", str(run), str(path), *grouped, *KNN]) == 0
    finally:
        path.unlink()
    assert "which keeps groups together: 6 groups and 2" in capsys.readouterr().out
    found = json.loads((run / "evaluation.json").read_text())
    assert found[0]["split"] == {"by": "holdout", "fraction": 0.25, "seed": 3}
    assert found[1]["split"] == {
        "by": "holdout", "fraction": 0.25, "seed": 0, "column": "patient", "train_groups": 6, "test_groups": 2,
    }  # fmt: skip
    assert [row["test_images"] for row in found] == [8, 8]
