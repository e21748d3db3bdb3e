"""`benchmarks/defaults.py`: the sets that it makes, what it chooses to measure, and what a row of it says."""

import dataclasses
import importlib
import io
import itertools
import json
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lookalike.training import resolve

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def sets(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("unlike_sets")


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("settings_tried")


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("defaults")


def archive(path: Path, size: tuple[int, int], splits: dict[str, int]) -> Path:
    """Laid out as SPLIT/CLASS/NAME.jpg, with three classes."""
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w:xz") as file:
        for name in (f"./{s}/class{k}/{i}.jpg" for s, n in splits.items() for k in range(3) for i in range(n)):
            content = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(content, "JPEG")
            member = tarfile.TarInfo(name)
            member.size = content.tell()
            content.seek(0)
            file.addfile(member, content)
    return path


# ---------------------------------------------------------------- the sets


def test_sets_are_the_same_each_time_and_have_no_image_in_both_parts(sets: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    made = sets.makers(
        archive(tmp_path / "cifar.tar.xz", (32, 32), {"train": 9, "test": 4}),
        archive(tmp_path / "clothes.tar.xz", (100, 128), {"train": 6, "validation": 2, "test": 1}),
    )
    made |= {"digits": lambda: sets.digits(40, 20), "textures": lambda: sets.textures(18, 9)}
    counts = {"cifar10": (27, 12), "clothes": (18, 9), "digits": (40, 20), "textures": (18, 9)}
    for name in sets.NAMES:
        first, again = made[name](), made[name]()
        assert all(np.array_equal(a, b) for a, b in zip(vars(first).values(), vars(again).values(), strict=True)), name
        assert (len(first.train), len(first.test)) == (len(first.train_labels), len(first.test_labels)) == counts[name]
        assert first.train.dtype == np.uint8
        both = [image.tobytes() for image in (*first.train, *first.test)]
        assert len(set(both)) == len(both), name
    assert made["clothes"]().train.shape[1:] == (96, 96, 3)


def test_a_set_is_made_once_and_then_read(sets: ModuleType, tmp_path: Path) -> None:
    made = sets.kept("digits", lambda: sets.digits(6, 3), tmp_path)
    read = sets.kept("digits", lambda: pytest.fail("made twice"), tmp_path)
    assert np.array_equal(made.train, read.train)
    train, test = sets.drawn(4, read, seed=0)
    assert (len(train), len(test), train.read(0, None).shape) == (4, 3, (3, 96, 96))
    image = train.read(2, None)
    assert torch.equal(image[0], torch.from_numpy(read.train[int(train.keys[2])].copy()))
    assert train.labels[2] == read.train_labels[int(train.keys[2])]


def test_no_window_for_tests_shows_a_place_to_train_on(sets: ModuleType) -> None:
    photos = sets.photographs() if importlib.util.find_spec("matplotlib") else {}
    for (photo, train, _), (other, _, test) in itertools.product(sets.MATERIALS.values(), repeat=2):
        if photo == other:
            apart = train[2] <= test[0] or test[2] <= train[0] or train[3] <= test[1] or test[3] <= train[1]
            assert apart, (photo, train, test)
    materials = list(sets.MATERIALS.values())
    assert len(materials) >= 6
    for part in (0, 1):
        found = sets.windows(part, 200)
        for material, (x0, y0, x1, y1) in found:
            photo, *regions = materials[material]
            left, top, right, bottom = regions[part]
            assert left <= x0 < x1 <= right and top <= y0 < y1 <= bottom  # noqa: PT018
            if photos:
                height, width = photos[photo].shape
                assert right <= width
                assert bottom <= height
    assert len({box for _, box in sets.windows(1, 200)}) > 150


# ---------------------------------------------------------------- what is to be measured


def row(study: ModuleType, job: Any, knn: float | None) -> dict[str, Any]:
    """As it is recorded, as far as the choice needs it."""
    after = None if knn is None else {"knn": knn}
    return {**vars(job), "before": {"knn": 0.1}, "after": after, "error": "" if after else "failed", "cpu_seconds": 1.0}


def test_halving_keeps_what_is_best_over_the_sets(study: ModuleType) -> None:
    pairs, names = [("simclr", study.CNN)], ["digits", "textures"]
    settings = [name for name in study.SETTINGS[pairs[0]] if name != study.SAID]
    # one is best on one set only, and one fails on one set
    later = list(study.LATER[pairs[0]])
    quality = dict.fromkeys([study.SAID, *settings, *later], (0.2, 0.2))
    quality |= dict(zip(settings[1:5], [(0.9, 0.1), (0.5, 0.6), (0.7, 0.7), (0.4, 0.4)]))
    quality[settings[5]] = (0.8, None)
    rows: list[dict[str, Any]] = []
    stages: dict[tuple[int, int], list[tuple[str, str]]] = {}
    while todo := study.left("core", rows, pairs, names):
        job = todo[0]
        stages.setdefault((job.stage, job.seed), []).append((job.setting, job.set))
        rows.append(row(study, job, quality[job.setting][names.index(job.set)]))
        assert len(rows) < 200
    assert stages[75, 0] == [(name, s) for name in settings for s in names]
    best = settings[3]  # 0.7; others have 0.55, 0.5, 0.4 and less
    old = study.BEFORE[pairs[0]]
    assert stages[300, 0] == [(name, s) for name in (study.SAID, best, old, *later) for s in names]
    assert stages[300, 1] == stages[300, 2] == [(study.SAID, "digits"), (best, "digits")]
    assert study.best(rows, *pairs[0], names) == [best, study.SAID]


def test_the_best_other_setting_goes_on_where_the_default_is_best(study: ModuleType) -> None:
    pairs, names = [("byol", study.CNN)], ["digits"]
    old = study.BEFORE[pairs[0]]
    rows = [row(study, job, 0.9 if job.setting == old else 0.5) for job in study.left("core", [], pairs, names)]
    new = [name for name in study.SETTINGS[pairs[0]] if name not in (study.SAID, old)]
    assert [job.setting for job in study.left("core", rows, pairs, names)] == [study.SAID, new[0], old]


def test_no_stage_is_begun_from_half_of_the_one_before(study: ModuleType) -> None:
    pairs, names = [("simclr", study.CNN), ("byol", study.CNN)], ["digits"]
    whole = [row(study, job, 0.5) for job in study.left("core", [], pairs[:1], names)]
    part = [row(study, job, 0.5) for job in study.left("core", [], pairs[1:], names)[:-1]]
    todo = study.left("core", whole + part, pairs, names)
    assert [(job.method, job.stage) for job in todo] == [("byol", 75), *[("simclr", 300)] * 4]
    assert study.best(part, *pairs[1], names) == []


def test_all_methods_have_a_stage_behind_them_before_the_next(study: ModuleType) -> None:
    pairs, names = list(study.PAIRS), list(study.unlike_sets.NAMES)
    first = study.left("core", [], pairs, names)
    assert {job.stage for job in first} == {75}
    for method, net in pairs:
        on = {job.set for job in first if (job.method, job.network) == (method, net)}
        assert on == set(study.FIRST_OF_VITS if net == study.VIT else names)
    assert {method for method, _ in pairs} >= set(study.SIDE_METHODS)
    assert len({method for method, _ in pairs}) == 14


def test_what_has_a_row_is_not_measured_again(study: ModuleType) -> None:
    pairs, names = [("byol", study.CNN)], ["digits"]
    todo = study.left("core", [], pairs, names)
    done = row(study, todo[0], 0.5)
    assert study.left("core", [done], pairs, names) == todo[1:]
    assert study.left("core", [row(study, todo[0], None)], pairs, names) == todo[1:]  # nor what failed
    assert study.left("core", [done], pairs, names, busy=[todo[1]]) == todo[2:]
    assert todo[0] in study.left("core", [{**done, "seed": 1}], pairs, names)
    # a row as it comes back from the file
    assert study.left("core", [json.loads(json.dumps(done))], pairs, names) == todo[1:]


def test_the_side_grid_takes_what_was_best_and_the_default(study: ModuleType) -> None:
    pairs, names = [("vicreg", study.CNN)], list(study.unlike_sets.NAMES)
    assert {job.setting for job in study.left("side", [], pairs, names)} == {study.SAID}  # nothing is known yet
    settings = list(study.SETTINGS[pairs[0]])
    rows = [row(study, job, settings.index(job.setting) / 10) for job in study.left("core", [], pairs, names)]
    found = study.left("side", rows, pairs, names)
    assert {job.setting for job in found} == {study.SAID, settings[-1]}
    assert {500, 5000, 20_000} <= {job.images for job in found}


def test_summary_says_default_best_and_what_was_tried(study: ModuleType) -> None:
    pairs, names = [("simclr", study.CNN)], ["digits", "textures"]
    rows: list[dict[str, Any]] = []
    while todo := study.left("core", rows, pairs, names):
        rows.append(row(study, todo[0], 0.7 if todo[0].setting == "adamw 3e-4" else 0.4))
    text = "\n".join(study.summary(rows))
    assert "best over the sets: adamw 3e-4" in text
    assert "untrained  10.0% default  40.0%   best  70.0%   +30.0 adamw 3e-4" in text
    assert "tried: default 4, lars_simclr 0.25 4, adamw 1e-3 2, adamw 3e-4 6" in text


def test_the_table_compares_today_with_0_1_and_the_best(study: ModuleType) -> None:
    pairs, names = [("simclr", study.CNN)], list(study.unlike_sets.NAMES)
    rows: list[dict[str, Any]] = []
    while todo := study.left("core", rows, pairs, names):
        made = row(
            study, todo[0], {study.SAID: 0.5, "lars_simclr 0.25": 0.3, "adamw 3e-4": 0.52}.get(todo[0].setting, 0.4)
        )
        made["after"]["interval"] = [0.09 if todo[0].set == "digits" else 0.45, 0.55]
        rows.append(made)
    text = "\n".join(study.table(rows))
    assert f"simclr, {study.CNN} | 0.1 | 30.0% | 30.0% | 30.0% | 30.0% | 30.0% |" in text
    assert "| today | 50.0% * | 50.0% * | 50.0% | 50.0% * | 50.0% |" in text
    assert "| best: adamw 3e-4 | 52.0% | 52.0% | 52.0% | 52.0% | 52.0% |" in text
    assert "Within 3 points of the best: 1 of 1" in text
    assert "above the untrained encoder: 3 of 4 trainings" in text


def test_what_stands_for_the_default_is_the_same_training(study: ModuleType, sets: ModuleType) -> None:
    """Rows of the record that were measured under another name."""
    source = sets.InMemory(np.zeros((1500, 32, 32), np.uint8), np.arange(1500) % 2)
    copies = [each for each in study.read(study.RECORD) if each.get("same_as")]
    assert copies
    for method, net, name in {(each["method"], each["network"], each["same_as"]) for each in copies}:
        made = []
        for setting in (study.SAID, name):
            cfg = study.settled(study.Job("core", method, net, "digits", setting, 300), source, "unused").method
            optim = dataclasses.replace(cfg.optim, lr=cfg.optim.lr * cfg.optim.factor(study.BATCH), scaling="none")
            made.append(dataclasses.replace(cfg, optim=optim))
        assert made[0] == made[1], (method, name)


# ---------------------------------------------------------------- settings


def test_each_setting_reaches_the_training(study: ModuleType, sets: ModuleType) -> None:
    images = np.zeros((1500, 32, 32), np.uint8)
    source = sets.InMemory(images, np.arange(1500) % 2)
    for (method, net), settings in study.SETTINGS.items():
        assert next(iter(settings)) == study.SAID
        assert len(settings) <= 9
        settings = {**settings, **study.LATER.get((method, net), {})}
        for name, overrides in settings.items():
            run = study.settled(study.Job("core", method, net, "digits", name, 300), source, "unused")
            assert run.epochs * (1500 // 64) == pytest.approx(300, abs=12)
            if "optim" in overrides:
                wanted = overrides["optim"]
                assert (run.method.optim.name, run.method.optim.lr) == (wanted["name"], wanted["lr"]), (method, name)
                assert run.method.optim.factor(64) == 1
                assert run.method.optim.warmup_epochs == pytest.approx(run.epochs * wanted.get("warmup", 0.1))
            for path, value in overrides.items():
                if path not in ("optim", "predictor"):
                    found: Any = run.method
                    for part in path.split("."):
                        found = vars(found)[part]
                    assert found == value, (method, name, path)


def test_the_default_is_that_of_a_user_who_says_nothing(study: ModuleType, sets: ModuleType) -> None:
    source = sets.InMemory(np.zeros((1500, 32, 32), np.uint8), np.arange(1500) % 2)
    run = study.settled(study.Job("core", "moco_v2", study.CNN, "digits", study.SAID, 300), source, "unused")
    plain = study.Run(
        data=source, method=type(run.method)(), backbone=study.CNN, image_size=64, epochs=run.epochs, batch_size=64
    )
    assert run.method == resolve(plain, 1500)[0].method


def test_what_is_broken_is_broken(study: ModuleType, sets: ModuleType, tried: ModuleType) -> None:
    names = list(study.unlike_sets.NAMES)
    jobs = study.left("broken", [], list(study.PAIRS), names)
    assert len(jobs) >= 60
    assert {job.broken for job in jobs} == set(tried.BROKEN)
    source = sets.InMemory(np.arange(1500 * 64, dtype=np.uint8).reshape(1500, 8, 8), np.arange(1500) % 2)
    for job in jobs:
        run = study.settled(job, source, "unused")
        whole = study.settled(study.dataclasses.replace(job, broken=None), source, "unused")
        rate = tried.BROKEN[job.broken].rate
        assert run.method.optim.lr == pytest.approx(rate * whole.method.optim.lr)
        if rate == 1 and tried.BROKEN[job.broken].overrides:
            assert run.method != whole.method, job
    shuffled = tried.shown(source, "shuffled pixels", 0)
    first, again, true = shuffled.read(3, None), shuffled.read(3, None), source.read(3, None)
    assert not torch.equal(first, again)
    assert torch.equal(first.flatten().sort().values, true.flatten().sort().values)
    assert len(tried.shown(source, "constant images", 0).read(3, None).unique()) == 1
    assert tried.shown(source, None, 0) is source


# ---------------------------------------------------------------- a training


def test_a_training_makes_a_whole_row(study: ModuleType, sets: ModuleType) -> None:
    job = study.Job("side", "simclr", study.RESNET, "digits", "adamw 1e-3", 4, images=128, size=32)
    of, judge = sets.digits(140, 30), study.Judge()
    made = study.measured(job, of, judge)
    found = json.loads(json.dumps(made, allow_nan=False))
    assert study.key(found) == study.key_of_job(job)
    assert (found["error"], found["steps"], found["done"], found["epochs"]) == ("", 4, 4, 2)
    assert found["optim"]["name"] == "adamw"
    assert found["optim"]["lr_scaled"] == 1e-3
    for part in ("before", "after"):
        low, high = found[part]["interval"]
        assert 0 <= low <= found[part]["knn"] <= high <= 1
        assert {"pair_auc", "effective_rank", "alignment", "uniformity", "spread"} <= found[part]["label_free"].keys()
    assert found["looks"][-1]["step"] == 4
    assert found["first"]["pair_auc"] > 0
    assert found["wide_looks"][-1]["step"] == 4
    assert found["verdict"] == "too short to tell"


def test_an_untrained_encoder_is_judged_once(
    study: ModuleType, sets: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        study.Judge, "__call__", lambda self, encoder, *_: {"knn": next(encoder.parameters()).sum().item()}
    )
    train, test = sets.drawn(128, sets.digits(140, 30), 0)
    judge, found = study.Judge(), []
    for method, seed in (("simclr", 0), ("vicreg", 0), ("simclr", 1)):
        job = study.Job("side", method, study.RESNET, "digits", study.SAID, 4, images=128, size=32, seed=seed)
        encoder = study.training.build(study.settled(job, train, "unused")).encoder
        found.append(judge.untrained(encoder, train, test, job))
    assert found[0] is found[1]
    assert found[2] != found[0]


def test_a_training_that_fails_leaves_a_row(study: ModuleType, sets: ModuleType) -> None:
    job = study.Job("side", "simclr", study.RESNET, "digits", study.SAID, 4, images=40, size=32)  # no batch of 64
    pipe = Pipe([job])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study.unlike_sets, "kept", lambda *_: sets.digits(60, 30))
        study.work(pipe, Path("none"), Path("none"), Path("none"), "abc")
    (found,) = pipe.sent
    assert found["error"]
    assert found["after"] is None
    assert found["lookalike"] == "abc"
    assert study.key(found) == study.key_of_job(job)


class Pipe:
    """Gives jobs, and then is closed."""

    def __init__(self, jobs: list[Any]) -> None:
        self.jobs, self.sent = jobs, []

    def recv(self) -> Any:
        if not self.jobs:
            raise EOFError
        return self.jobs.pop()

    def send(self, made: Any) -> None:
        self.sent.append(made)


@pytest.mark.parametrize("name", ["defaults", "choosing"])
def test_records_of_earlier_studies_are_read_with_the_current_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmarks = Path(__file__).parents[1] / "benchmarks"
    monkeypatch.syspath_prepend(str(benchmarks))
    record = benchmarks / "records" / f"{name}.jsonl"
    rows = importlib.import_module("resumable").read(record)
    assert len(rows) == len(record.read_text().splitlines())
    if name == "choosing":
        scores = importlib.import_module("choosing").with_current_scores(rows[0])["scores"]
        assert {"view_retrieval", "view_retrieval (gentle)"} <= scores.keys()
        assert not {"retrieval", "retrieval (gentle)"} & scores.keys()
    else:
        scored = importlib.import_module("which_score").scored
        assert "recognition" not in str([row["after"]["label_free"] for row in rows if row.get("after")])
        found = [score for row in rows if row.get("after") and (score := scored(row))]
        assert len(found) > 500
        assert {"pair_auc", "view_retrieval", "change of pair_auc"} <= found[0].keys()
