"""`benchmarks/race.py`: times to a level, tuning, and that no training is repeated."""

import importlib
import io
import json
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def race(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("race")


def archive(path: Path, count: int) -> Path:
    """Two classes of grey and colourful squares in train/ and test/."""
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w") as file:
        for name in (f"{s}/class{k}/{i}.jpg" for s in ("train", "test") for k in range(2) for i in range(count)):
            pixels = rng.integers(0, 256, (32, 32, 1 if "class0" in name else 3), dtype=np.uint8).repeat(
                3 if "class0" in name else 1, 2
            )
            content = io.BytesIO()
            Image.fromarray(pixels).save(content, "JPEG")
            member = tarfile.TarInfo(name)
            member.size = content.tell()
            content.seek(0)
            file.addfile(member, content)
    return path


@pytest.mark.parametrize(
    ("level", "seconds"), [(0.1, 10.0), (0.2, 10.0), (0.3, 15.0), (0.4, 20.0), (0.45, 35.0), (0.5, 40.0), (0.6, None)]
)
def test_the_level_is_reached_where_the_line_first_meets_it(
    race: ModuleType, level: float, seconds: float | None
) -> None:
    curve = [(10.0, 0.2), (20.0, 0.4), (30.0, 0.4), (40.0, 0.5), (50.0, 0.3)]
    found = race.reached(curve, level)
    assert found == (seconds if seconds is None else pytest.approx(seconds))


def test_the_first_steps_do_not_count_in_what_is_expected(race: ModuleType) -> None:
    ends = [20.0 + i for i in range(race.SKIP)] + [20.0 + race.SKIP - 1 + 0.5 * (i + 1) for i in range(10)]
    assert race.expected(ends, len(ends) + 100) == pytest.approx(ends[-1] + 50)


def test_each_option_is_chosen_with_the_best_of_those_before_it(race: ModuleType) -> None:
    tried = []

    def attempt(options: Mapping[str, Any]) -> float | None:
        tried.append(dict(options))
        if options["workers"] == 0:
            return None  # it fails
        return 10.0 - options["workers"] - 3 * options["joined"]

    best = race.chosen({"workers": [0, 1, 2], "joined": [False, True]}, attempt)
    assert best == {"workers": 2, "joined": True}
    assert tried[3:] == [{"workers": 2, "joined": False}, {"workers": 2, "joined": True}]


def test_the_rate_rises_in_a_tenth_and_falls_to_zero(race: ModuleType) -> None:
    task = race.Task(
        "", "small", "", 32, 4, 10, 5, 0.1, 0.9, 0.0, 0.5, 8, 8, 0, {}, "", 0.0
    )  # fmt: skip
    rates = [task.rate(i) for i in range(task.steps)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5] == 1
    assert rates == sorted(rates[:5]) + sorted(rates[5:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-12)


def test_trainings_with_a_row_are_skipped(race: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def train(library: str, task: Any, python: str, limit: float) -> dict[str, Any]:
        made.append((library, task.seed, task.trial_seconds))
        each = 1.0 if library == "lookalike" else 2.0 - 0.5 * (task.options["workers"] == 2)
        if task.trial_seconds is None:
            out = Path(task.out)
            out.mkdir(parents=True)
            for epoch in range(1, task.epochs + 1):
                torch.save(race.NETWORKS[task.network]().state_dict(), out / f"{epoch}.pt")
        return {"ends": [each * (i + 1) for i in range(task.steps)], "others": 0.0}

    contest = race.Contest("cifar10", 0.01, 24, "small", 32, 8, 2, 0.1)
    monkeypatch.setattr(race, "CONTESTS", (contest,))
    monkeypatch.setattr(race, "OPTIONS", {n: {"workers": [1, 2], "threads": [1]} for n in ("lookalike", "lightly")})
    monkeypatch.setattr(race, "train", train)
    monkeypatch.setattr(race, "versions", lambda pythons, libraries: {})
    monkeypatch.setattr(race, "answer_signals", lambda: None)
    images, record = archive(tmp_path / "images.tar", 20), tmp_path / "race.jsonl"
    argv = ["race.py", str(images), str(images), "--seeds", "0", "--work", str(tmp_path / "work")]
    monkeypatch.setattr(sys, "argv", [*argv, "--record", str(record)])
    race.main()
    assert [m[:2] for m in made if m[2] is None] == [("lookalike", 0), ("lightly", 0)]
    assert len([m for m in made if m[2] is not None]) == 4
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    theirs = next(r for r in rows if r["benchmark"] == "race" and r["library"] == "lightly")
    assert theirs["options"] == {"workers": 2, "threads": 1}
    assert [seconds for seconds, _ in theirs["curve"]] == [1.5, 4.5, 9.0]
    assert all(0 <= accuracy <= 1 for _, accuracy in theirs["curve"])
    assert len(list((tmp_path / "work" / "images" / "cifar10-24" / "train").rglob("*.jpg"))) == 24
    race.main()
    assert len(made) == 6
    assert "| cifar10 | 1% | lightly | 1 | 2 (2 to 2) | 0 (0 to 0) | 1.50 (1.50 to 1.50) |" in race.table(
        rows, [contest]
    )


def test_a_training_that_fails_is_counted_and_made_again(race: ModuleType) -> None:
    contest = race.CONTESTS[0]
    same = {"benchmark": "race", "images_of": contest.name, "settings": contest.settings()}
    curve = [(5, 0.2), (60, 0.5)]
    rows = [
        {**same, "library": "lookalike", "seed": 0, "curve": curve},
        {**same, "library": "lightly", "seed": 0, "curve": []},
        {**same, "library": "lightly", "seed": 1, "curve": [(10, 0.2), (120, 0.5)]},
    ]  # fmt: skip
    lines = list(race.table(rows, [contest]))
    assert any(
        "| lightly | 2 | not reached by 1 of 2 | not reached by 1 of 2 | not reached by 1 of 1 |" in x for x in lines
    )
    rows.append({**same, "library": "lightly", "seed": 0, "curve": [(10, 0.2), (120, 0.5)]})
    ratio = race.seconds_of(rows[-1], contest.level) / race.seconds_of(rows[0], contest.level)
    assert any(
        "| lightly | 2 | " in x and f"{ratio:.2f} ({ratio:.2f} to {ratio:.2f})" in x
        for x in race.table(rows, [contest])
    )


def test_our_entrant_trains_and_its_snapshots_are_timed(race: ModuleType, tmp_path: Path) -> None:
    contest = race.Contest("cifar10", 0.5, 24, "small", 32, 8, 2, 0.1)
    images, _ = race.folders_of(contest, archive(tmp_path / "images.tar", 20), tmp_path)
    _, weights = race.first_weights(contest, 0, tmp_path)
    options = {"workers": 0, "cache": "none", "threads": 1, "precision": "fp32", "compile": False}
    task = race.task_of(contest, 0, options, images, weights, tmp_path / "out")
    times = race.train("lookalike", task, sys.executable, 120)
    assert len(times["ends"]) == task.steps == 6
    assert times["ends"] == sorted(times["ends"])
    first, second = (torch.load(tmp_path / f"out/{n}.pt", weights_only=True) for n in (1, 2))
    begun = torch.load(weights, weights_only=True)
    for a, b in ((begun, first), (first, second)):
        assert a.keys() == b.keys()
        assert any(not torch.equal(a[name], b[name]) for name in a)


def test_a_library_that_trains_a_copy_is_refused(race: ModuleType, tmp_path: Path) -> None:
    task = race.Task("", "small", "", 32, 4, 1, 1, 0.1, 0.9, 0.0, 0.5, 8, 8, 0, {}, str(tmp_path), 0.0)
    network = race.NETWORKS["small"]()
    clock = importlib.import_module("race_task").Clock.__new__(importlib.import_module("race_task").Clock)
    clock.task, clock.network, clock._first = task, network, next(network.parameters()).detach().clone()
    with pytest.raises(RuntimeError, match="trains a copy"):
        clock._save(1)
    with torch.no_grad():
        next(network.parameters()).add_(1)
    clock._save(1)
    assert (tmp_path / "1.pt").is_file()


def test_the_record_is_drawn(race: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    contest = race.CONTESTS[0]
    rows = [
        {"benchmark": "race", "images_of": contest.name, "library": library, "seed": 0, "settings": contest.settings(),
         "curve": [(5, 0.2), (60, 0.5)]}
        for library in race.OPTIONS
    ]  # fmt: skip
    race.draw(rows, [contest], tmp_path / "race.png")
    with Image.open(tmp_path / "race.png") as picture:
        assert picture.width > 300
