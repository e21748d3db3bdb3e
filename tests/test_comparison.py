"""What a comparison is asked: questions that cannot be, that are the same, and that extend another."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lookalike.commands.compare.leakage import shared_images
from lookalike.commands.compare.spec import Comparison, changes, extends
from lookalike.data import open_source
from lookalike.methods import METHODS, Entry

ASKED: dict[str, Any] = {"data": "photos", "methods": ("simclr",), "train": ("a",), "test": ("b",)}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"methods": ("simcl",)}, "Did you mean simclr"),
        ({"methods": ()}, "methods is empty"),
        ({"methods": ("byol", "simclr", "byol")}, "methods contains byol twice"),
        ({"methods": ("distill",)}, "Give --teacher"),
        ({"teacher": "runs/big"}, "Add distill"),
        ({"train": ("a", "b")}, "train has 2 folders and test 1"),
        ({"train": ()}, "train has 0 folders"),
        ({"test": ("b", "b")}, "test contains b twice"),
        ({"seeds": 0}, "seeds is 0"),
        ({"budget": "soon"}, "budget is 'soon'"),
        ({"devices": 2}, "one device"),
        ({"probe": ("a", "b")}, "probe would use time"),
        ({"protocols": ()}, "protocols is empty"),
        ({"protocols": ("label-free", "knn")}, "Put another one before it"),
        ({"epochs": 0}, "epochs is 0"),
    ],
)
def test_questions_that_cannot_be(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Comparison(**ASKED | fields)


def test_what_learns_from_labels_alone_is_no_method_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "classify", Entry("lookalike.methods.simclr", "SimCLR", "labels", "finetune"))
    with pytest.raises(ValueError, match="classify learns no representation"):
        Comparison(**ASKED | {"methods": ("classify",)})


def test_pairs_and_what_changes_the_question() -> None:
    asked = Comparison(**ASKED | {"test": ("b", "c")})
    assert asked.pairs == (("a", "b"), ("a", "c"))
    assert Comparison(**ASKED | {"train": ("a", "d"), "test": ("b", "c")}).pairs == (("a", "b"), ("d", "c"))
    same = dataclasses.replace(asked, workers=3, out="elsewhere", save_every=1)
    assert changes(asked.question(), same.question()) == []
    other = dataclasses.replace(asked, epochs=7, batch_size=64)
    assert changes(asked.question(), other.question()) == [
        "batch_size: 256 stored, 64 requested", "budget.epochs: 100 stored, 7 requested"
    ]  # fmt: skip
    timed = dataclasses.replace(asked, budget="2h", epochs=7)
    assert timed.question()["budget"] == {"minutes": 120}
    assert timed.question() == dataclasses.replace(timed, epochs=8, budget="120min").question() | {
        "budget": {"minutes": 120}
    }


def test_questions_that_extend_another() -> None:
    def asked(**fields: Any) -> dict[str, object]:
        question: dict[str, object] = json.loads(json.dumps(Comparison(**ASKED | fields).question()))
        return question

    old = asked(methods=("byol", "simclr"), seeds=2)
    assert extends(old, asked(methods=("simclr", "vicreg", "byol"), seeds=3))
    assert extends(old, asked(methods=("simclr", "byol"), seeds=2))  # another order
    assert extends(old, asked(methods=("byol", "simclr", "distill"), seeds=2, teacher="timm/resnet18"))
    assert not extends(old, asked(methods=("byol", "simclr"), seeds=1))
    assert not extends(old, asked(methods=("byol", "vicreg"), seeds=2))
    assert not extends(old, asked(methods=("byol", "simclr"), seeds=3, batch_size=64))
    taught = asked(methods=("distill",), teacher="timm/resnet18")
    assert not extends(taught, asked(methods=("distill", "byol"), teacher="timm/resnet50"))


def test_test_images_among_those_to_learn_from_are_counted(classed: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(classed, data)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "class0").symlink_to(data / "class0")
    (tmp_path / "test" / "class1").mkdir()
    (tmp_path / "test" / "class1" / "linked.jpg").symlink_to(data / "class1" / "1.jpg")
    shutil.copy(data / "class1" / "5.jpg", tmp_path / "test" / "class1" / "copy.jpg")
    tests = {"linked": open_source(str(tmp_path / "test")), "apart": open_source(str(classed))}
    assert shared_images(open_source(str(data)), tests) == {"linked": 11}
