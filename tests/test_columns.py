"""Every command that takes DATA reads a list whose columns have other names, and a run remembers them."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from support import tiny
from support.networks import saved_vit

from lookalike import cli
from lookalike.columns import COLUMNS, Columns, columns_of
from lookalike.runs import Folder, differences, flat, read_run

NAMES = ["--columns.path", "file", "--columns.label", "finding"]
SMALL = ["--image-size", "32", "--batch-size", "8", "--workers", "0", "--no-report"]


@pytest.fixture(scope="module")
def lists(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The images of train and of test, with their classes by another name."""
    root = tmp_path_factory.mktemp("lists")
    for split in ("train", "test"):
        with (root / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["label", "file", "finding"])
            for n, image in enumerate(sorted((labelled / split).rglob("*.jpg"))):
                rows.writerow([f"unused {n % 2}", str(image), image.parent.name.replace("class", "finding ")])
    return str(root / "train.csv"), str(root / "test.csv")


def test_commands_that_use_an_encoder(
    lists: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, (train, test) = str(saved_vit(tmp_path / "run")), lists
    assert cli.main(["embed", run, train, *NAMES, "--out", str(tmp_path / "e.npz"), "--workers", "0"]) == 0
    saved = np.load(tmp_path / "e.npz")
    assert saved["classes"].tolist() == [f"finding {n}" for n in range(4)]
    assert saved["labels"].tolist() == [n // 8 for n in range(32)]
    assert cli.main(["evaluate", run, train, test, *NAMES, "--protocols", "knn", "--workers", "0"]) == 0
    assert json.loads((tmp_path / "run/evaluation.json").read_text())[0]["class_names"] == saved["classes"].tolist()
    out = str(tmp_path / "show")
    assert cli.main(["show", run, train, *NAMES, "--what", "neighbours", "--out", out, "--workers", "0"]) == 0
    assert cli.main(["check", train, "--test", test, *NAMES, "--no-timing", "--workers", "0"]) == 0
    said = capsys.readouterr().out
    assert "classes     4" in said
    assert "pretrain lejepa" in said.split("Next: ")[-1]
    assert said.count(" ".join(["--columns.path file", "--columns.label finding"])) == 2
    for argv in (["embed", run, train], ["show", run, train], ["evaluate", run, train, test], ["check", train]):
        assert cli.main(argv) == 1
        assert (
            "has no column path in line 2 (columns: label, file, finding). Name the columns" in capsys.readouterr().err
        )


def test_trainings_and_what_follows(lists: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, (train, test) = tmp_path / "run", lists
    argv = ["pretrain", "supcon", train, *NAMES, "--backbone", tiny.CNN, *SMALL, "--probe", train, test]
    assert cli.main([*argv, "--epochs", "1", "--out", str(out)]) == 0
    own = read_run(out / "run.yaml")
    assert own.columns == Columns(path="file", label="finding")
    assert own.origins["columns.label"] == "user"
    assert cli.main(["pretrain", "--resume", "--epochs", "2", "--no-report", "--out", str(out)]) == 0
    assert len([row for row in Folder(out).rows() if "knn_top1" in row]) >= 2
    resume = ["pretrain", "--resume", "--epochs", "3", "--no-report", "--out", str(out)]
    assert cli.main([*resume, "--columns.label", "label"]) == 1
    assert "columns.label: finding in the run, label now" in capsys.readouterr().err
    tuned = ["finetune", str(out), train, test, *NAMES, *SMALL, "--epochs", "1", "--out", str(tmp_path / "tuned")]
    assert cli.main(tuned) == 0
    assert json.loads((tmp_path / "tuned/classes.json").read_text()) == [f"finding {n}" for n in range(4)]
    predict = ["predict", str(tmp_path / "tuned"), test, *NAMES, "--workers", "0", "--out", str(tmp_path / "p.csv")]
    assert cli.main(predict) == 0
    assert cli.main(["report", str(out), "--workers", "0"]) == 0
    assert "left out" not in capsys.readouterr().out


def test_a_comparison(lists: tuple[str, str], tmp_path: Path) -> None:
    train, test = lists
    argv = ["compare", train, "simclr", "--train", train, "--test", test, *NAMES, "--backbone", tiny.CNN, *SMALL]
    argv += ["--epochs", "1", "--seeds", "1", "--protocols", "knn", "--out", str(tmp_path / "compared")]
    assert cli.main(argv) == 0
    question = json.loads((tmp_path / "compared/compare.json").read_text())["question"]
    assert question["columns"] == vars(Columns(path="file", label="finding"))
    assert question["only"] is None


def test_columns_in_files_of_strangers() -> None:
    assert columns_of({}) == columns_of({"columns": 3}) == columns_of({"columns": {"path": ""}}) == COLUMNS
    assert columns_of({"columns": {"path": "file", "label": 3, "more": "x"}}) == Columns(path="file")


def test_only_the_classes_of_a_resumed_run_keep_their_column(lists: tuple[str, str]) -> None:
    from lookalike.methods.simclr import SimCLR
    from lookalike.runs import Run

    first, *moved, other = (
        flat(Run(data=lists[0], method=SimCLR.Config(), columns=columns))
        for columns in (COLUMNS, Columns(path="file"), Columns(group="", split="fold"), Columns(label="finding"))
    )
    assert [differences(first, each) for each in moved] == [[], []]
    assert differences(first, other) == ["columns.label: label in the run, finding now"]
