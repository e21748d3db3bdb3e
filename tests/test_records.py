"""`evaluation.json`: what an entry holds, which one it replaces, and what is never overwritten."""

import dataclasses
import json
import math

import pytest
from support.features import QUICK, example

from lookalike import backbones
from lookalike.evaluation import About, Entry, evaluate, interval, knn, linear, record, run_protocol


def test_judge_fills_an_entry():
    train, test = example(n=60), example(n=40, seed=1)
    made = {"image_size": 32}
    (entry,) = run_protocol("knn", train, test, None, 3, None, about=About(made, "abc", "def", "train/", "test/"))
    expected = knn(train.features, train.labels, test.features, test.labels)
    assert (entry.protocol, entry.top1, entry.top5) == ("knn", expected.top1, expected.top5)
    assert entry.interval == interval(expected.top1, 40)
    assert entry.settings == {"image_size": 32, "k": 20, "temperature": 0.07, "also": [10, 100, 200]}
    assert (entry.train_images, entry.test_images, entry.classes, entry.seed) == (60, 40, 3, 3)
    assert (entry.encoder_sha256, entry.data_fingerprint, entry.format) == ("abc", "def", 1)
    assert [row["k"] for row in entry.history] == [10, 20, 100, 200]
    assert entry.history[1]["top1"] == entry.top1
    assert entry.date.endswith("+00:00")
    assert entry.seconds >= 0
    json.dumps(dataclasses.asdict(entry), allow_nan=False)


def test_judge_linear_tells_how_the_rate_was_chosen(monkeypatch):
    monkeypatch.setattr("lookalike.evaluation.protocols.DINOV2", QUICK)
    train, test = example(n=60), example(n=40, seed=1)
    (entry,) = run_protocol("linear", train, test, 3, 0, None)
    expected = linear(train.features, train.labels, test.features, test.labels, settings=QUICK)
    assert (entry.top1, entry.top5, entry.classes) == (expected.top1, expected.top5, 3)
    assert entry.settings == dataclasses.asdict(QUICK)
    assert [row["lr"] for row in entry.history if row.get("chosen")] == [expected.lr]
    assert [row["loss"] for row in entry.history if "loss" in row] == [loss for _, loss in expected.history]
    assert (entry.history[-1]["top1"], entry.history[-1]["top5"]) == (expected.top1, expected.top5)
    json.dumps(dataclasses.asdict(entry), allow_nan=False)


def test_judge_refuses_what_it_cannot_judge():
    with pytest.raises(ValueError, match=r"'knm'\. Choose from knn, linear"):
        run_protocol("knm", example(), example(), None, 0, None)
    with pytest.raises(ValueError, match="test images have no labels"):
        run_protocol("knn", example(), example(labelled=False), None, 0, None)


def test_every_protocol_and_image_size_has_its_own_entry(tmp_path, labelled, monkeypatch):
    monkeypatch.setattr("lookalike.evaluation.protocols.DINOV2", QUICK)
    encoder = backbones.create("test_resnet", image_size=32)
    out = tmp_path / "evaluation.json"
    for size in (None, 64, 32):
        made = evaluate(encoder, labelled / "train", labelled / "test", image_size=size, out=out)
        assert [e.protocol for e in made] == ["knn", "linear"]
        assert all((e.settings["crop"], e.settings["features"]) == ("256/224 centre", "pooled") for e in made)
    found = [(row["protocol"], row["settings"]["image_size"]) for row in json.loads(out.read_text())]
    assert found == [("knn", 64), ("linear", 64), ("knn", 32), ("linear", 32)]


def entry(**change):
    plain = Entry(
        protocol="knn",
        top1=0.5,
        top5=0.9,
        interval=(0.4, 0.6),
        settings={"k": 20, "also": (10, 100)},
        train_images=10,
        test_images=5,
        classes=2,
        encoder_sha256="a",
        data_fingerprint="b",
        seed=0,
        seconds=1.0,
        date="2026-01-01T00:00:00+00:00",
        history=[],
    )
    return dataclasses.replace(plain, **change)


def test_the_same_judgement_replaces_its_entry_and_others_stay(tmp_path):
    path = tmp_path / "evaluation.json"
    others = [
        entry(protocol="linear"),
        entry(settings={"k": 10}),
        entry(encoder_sha256="other"),
        entry(data_fingerprint="other"),
    ]
    record(path, [entry(), *others])
    record(path, [entry(top1=0.75, seed=4, date="2026-02-02T00:00:00+00:00")])
    rows = json.loads(path.read_text())
    assert len(rows) == 5
    assert [row["top1"] for row in rows] == [0.5] * 4 + [0.75]
    assert rows[-1] == {
        "format": 1,
        "protocol": "knn",
        "top1": 0.75,
        "top5": 0.9,
        "interval": [0.4, 0.6],
        "settings": {"k": 20, "also": [10, 100]},
        "train_images": 10,
        "test_images": 5,
        "classes": 2,
        "encoder_sha256": "a",
        "data_fingerprint": "b",
        "seed": 4,
        "seconds": 1.0,
        "date": "2026-02-02T00:00:00+00:00",
        "history": [],
        "train": "",
        "test": "",
        "class_names": [],
        "per_class": [],
        "confusion": [],
        "calibration": None,
        "accuracies": [],
        "deviation": None,
        "measures": {},
        "baseline": None,
        "intervals": {},
        "split": {},
    }
    assert [child.name for child in tmp_path.iterdir()] == ["evaluation.json"]


@pytest.mark.parametrize("content", ["[{", "{}", '[{"format": 2}]', '["knn"]', '[{"protocol": "knn"}]'])
def test_a_file_that_is_not_ours_is_never_overwritten(tmp_path, content):
    path = tmp_path / "evaluation.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"evaluation\.json is not .* left unchanged"):
        record(path, [entry()])
    assert path.read_text() == content


def test_a_number_that_json_does_not_know_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        record(tmp_path / "evaluation.json", [entry(top1=math.nan)])
    assert not list(tmp_path.iterdir())
