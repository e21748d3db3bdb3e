"""The first command that `check` prints: its rules, its time, and that it runs as it is printed."""

import dataclasses
import itertools
import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given as tried
from hypothesis import strategies as st
from PIL import Image
from support.images import draw

from lookalike import cli
from lookalike.cli import run_places
from lookalike.cli.run_parsing import parse_run
from lookalike.commands import recommendation
from lookalike.commands.catalogue import table
from lookalike.commands.check import look
from lookalike.commands.recommendation import LONGEST, RULES, SIZES, Facts, Given, Recommendation, at_speed, recommended
from lookalike.data import open_maybe_labelled
from lookalike.data.order import Order
from lookalike.durations import seconds_of, spoken
from lookalike.methods import SELF_SUPERVISED
from lookalike.runs import Folder, Run
from lookalike.training import stages, timing
from lookalike.training.timing import Speed

GIVEN = Given("photos")
Say = pytest.CaptureFixture[str]


def facts(images: int = 1500, pixels: int = 128, gpu: str = "", cores: int = 2, gib: float = 16, **more: Any) -> Facts:
    return Facts(images, pixels, gpu=gpu, cores=cores, memory=int(gib * 2**30),
                 **({"channels": 3, "normalize": "imagenet"} | more))  # fmt: skip


def speed(plan: Recommendation, step: float, start: float = 0.0) -> Speed:
    """As measured on a machine where a step takes so many seconds."""
    found = Speed(None)
    found.start, found.step, found.steps_per_epoch = start, step, plan.steps_per_epoch
    return found


anything = st.builds(
    facts, st.integers(2, 10**7), st.integers(1, 5000), st.sampled_from(["", "H200"]), st.integers(1, 128),
    st.floats(0.1, 500),
)  # fmt: skip


# ---------------------------------------------------------------- the rules


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (facts(), ("mobilenetv3_small_050", 96, 64, 22)),
        (facts(10_000, 3000), ("mobilenetv3_small_050", 96, 64, 10)),
        (facts(1_000_000, 500), ("mobilenetv3_small_050", 96, 64, 10)),
        (facts(300), ("mobilenetv3_small_050", 96, 32, 56)),
        (facts(10), ("mobilenetv3_small_050", 96, 10, 100)),
        (facts(2), ("mobilenetv3_small_050", 96, 2, 100)),
        (facts(pixels=16), ("mobilenetv3_small_050", 32, 64, 22)),
        (facts(pixels=90), ("mobilenetv3_small_050", 64, 64, 22)),
        (facts(cores=16), ("mobilenetv3_small_100", 128, 64, 22)),
        (facts(cores=16, gib=2), ("mobilenetv3_small_050", 64, 32, 11)),
        (facts(gpu="H200"), ("resnet18", 128, 128, 100)),
        (facts(50_000, 32, "H200"), ("resnet18", 32, 256, 11)),
        (facts(1_000_000, 400, "H200"), ("resnet50", 224, 256, 10)),
        (facts(image_size=80), ("mobilenetv3_small_050", 80, 64, 22)),
    ],
)
def test_what_is_recommended(of: Facts, expected: tuple[str, int, int, int]) -> None:
    plan = recommended(of, GIVEN)
    assert (plan.backbone, plan.image_size, plan.batch_size, plan.epochs) == expected
    assert plan.method == recommendation.METHOD


@tried(anything)
def test_a_recommendation_can_be_trained(of: Facts) -> None:
    plan = recommended(of, GIVEN)
    assert Order(of.images, plan.batch_size, 0, 0, 1, 1).steps == plan.steps_per_epoch >= 1
    assert 2 <= plan.batch_size <= of.images
    assert 1 <= plan.epochs <= recommendation.MOST_EPOCHS
    assert plan.image_size in SIZES
    assert plan.image_size <= max(of.pixels, SIZES[0])
    if of.images >= 40 * recommendation.LEAST_BATCH:
        assert plan.steps >= 500


@tried(anything, st.integers(0, 10**6))
def test_more_images_are_repeated_less_and_make_no_fewer_steps(of: Facts, more: int) -> None:
    """But for the last epoch, which is made whole."""
    few, many = (recommended(dataclasses.replace(of, images=n), GIVEN) for n in (of.images, of.images + more))
    if few.batch_size == many.batch_size:
        assert many.epochs <= few.epochs
        assert many.steps > few.steps - few.steps_per_epoch
    assert many.batch_size >= few.batch_size
    assert many.steps * many.batch_size >= few.steps * few.batch_size - few.facts.images


@tried(anything, st.integers(0, 100), st.floats(0, 100))
def test_a_larger_machine_gets_no_smaller_images_or_network(of: Facts, cores: int, gib: float) -> None:
    _, costs = table()
    larger = dataclasses.replace(of, cores=of.cores + cores, memory=of.memory + int(gib * 2**30))
    one, other = recommended(of, GIVEN), recommended(larger, GIVEN)
    assert other.image_size >= one.image_size
    assert costs[other.backbone].parameters >= costs[one.backbone].parameters  # type: ignore[operator]


def test_the_rules_name_what_there_is_and_each_is_reached() -> None:
    _, costs = table()
    assert recommendation.METHOD in SELF_SUPERVISED
    assert all(rule.backbone in costs and rule.pixels in SIZES and rule.reason for rule in RULES)
    assert all(costs[rule.backbone].small for rule in RULES if not rule.gpu)
    assert all(size % 32 == 0 for size in SIZES)
    tried_out = itertools.product((10, 10**6), ("", "H200"), (1, 16), (1, 32))
    reached = {recommended(facts(n, 500, gpu, cores, gib), GIVEN).reason for n, gpu, cores, gib in tried_out}
    assert reached == {rule.reason for rule in RULES}


def test_the_documentation_has_the_rules() -> None:
    text = (Path(__file__).parents[1] / "docs/choosing.md").read_text()
    for rule in RULES:
        row = f"| `{rule.backbone}` | {rule.pixels} | {rule.batch_size} | {rule.steps:,} | {rule.reason} |"
        assert row in text, row
    assert f"`{recommendation.METHOD}`" in text.partition("## The first command")[2].partition("\n## ")[0]


def test_readme_and_quick_start_show_the_command_of_the_rules() -> None:
    """That of 1,500 photographs of 128 pixels or more on two cores."""
    root = Path(__file__).parents[1]
    for file, data, more in (("README.md", "photos/", ""), ("docs/quickstart.md", "photos", " --probe T1 T2")):
        command = recommended(facts(), Given(data)).command.replace(" --out", f"{more} --out")
        text = (root / file).read_text().replace("--probe labelled/train labelled/test", "--probe T1 T2")
        assert f"\n{command}\n" in text


# ---------------------------------------------------------------- the time


@tried(anything, st.floats(1e-4, 100), st.floats(0, 100))
def test_the_time_is_the_measured_step_times_the_steps(of: Facts, step: float, start: float) -> None:
    plan = recommended(of, GIVEN)
    found = at_speed(plan, speed(plan, step, start))
    assert found.seconds == pytest.approx(start + step * found.epochs * (of.images // found.batch_size))
    most = seconds_of(LONGEST)
    if found.time is None and found.epochs == plan.epochs:
        assert found.seconds <= most or found.epochs == 1
    elif found.time is None:  # not even an epoch fits
        assert found.epochs == 1
        assert found.seconds > most
    else:
        assert found.time == LONGEST
        assert found.seconds <= most
        assert found.seconds + step * found.steps_per_epoch > most * (1 - 1e-9)


def test_a_slow_training_is_given_a_time_and_a_very_slow_one_an_epoch() -> None:
    plan = recommended(facts(), GIVEN)
    command = "lookalike pretrain lejepa photos --backbone mobilenetv3_small_050 --image-size 96 --batch-size 64"
    fast, slow, slower = (at_speed(plan, speed(plan, step)) for step in (0.5, 6.0, 90.0))
    assert fast.lines() == [
        "1,500 images at 96 pixels, 2 cores: about 4.2 min for 22 epochs, from a measured 0.5 s per step and 506 steps",
        "To draw its views: lookalike views lejepa photos --image-size 96",
        f"Next: {command} --epochs 22 --out runs/first   # about 4.2 min",
    ]
    assert slow.lines() == [
        "1,500 images at 96 pixels, 2 cores: about 30 min for 13 epochs, from a measured 6 s per step and 299 steps",
        "To draw its views: lookalike views lejepa photos --image-size 96",
        f"Next: {command} --time 30min --out runs/first   # about 30 min",
    ]
    assert slower.lines()[1].strip().startswith("One epoch takes longer than 30min.")
    assert slower.lines()[3] == f"Next: {command} --epochs 1 --out runs/first   # about {spoken(90 * 23)}"
    assert plan.lines()[-1] == f"Next: {command} --epochs 22 --out runs/first"
    assert "not measured" in plan.lines()[0]


def test_few_images_are_told_of_published_weights() -> None:
    (_, remark, *_) = recommended(facts(10), GIVEN).lines()
    assert "10 images are few for a training" in remark
    assert "--init timm/mobilenetv3_small_050" in remark
    assert len(recommended(facts(recommendation.FEW_IMAGES), GIVEN).lines()) == 3


@pytest.mark.parametrize(("step", "steps"), [(0.001, 8), (0.7, 7), (1.0, 4), (2.0, 2), (100.0, 2)])
def test_of_slow_steps_fewer_are_timed(step: float, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ones, of which one takes longer, warm up; after 6 s no further one begins, unless there was but one."""
    now = [0.0]
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    run = SimpleNamespace(batch_size=8, cache="none", accumulate=1, loss_batches=1)
    module = SimpleNamespace(steps_per_epoch=5, run=run, probe_seconds=0.0, done_steps=0)
    found = Speed(None, 1, within=6.0)
    found.on_fit_start(cast(Any, None), cast(Any, module))
    found.on_train_batch_start(cast(Any, None), cast(Any, module), None, 0)

    def train() -> None:
        while True:
            now[0] += step if module.done_steps else 3 * step
            module.done_steps += 1
            found.on_train_batch_end(cast(Any, None), cast(Any, module), None, None, module.done_steps - 1)

    with pytest.raises(timing.Measured):
        train()
    assert module.done_steps == steps
    assert found.step == pytest.approx(step)
    assert found.start == pytest.approx(2 * step)


def test_a_batch_that_is_too_large_for_the_gpu_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    tried_out = []

    def measure(run: Run, found: Speed) -> None:
        Path(run.out).rmdir()
        tried_out.append(run.batch_size)
        if run.batch_size > 64:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        found.start, found.step, found.steps_per_epoch = 1.0, 0.25, 10_000 // run.batch_size

    monkeypatch.setattr(stages, "measure", measure)
    plan = dataclasses.replace(recommended(facts(10_000, 300, "H200"), GIVEN), out="runs/first.2")
    source = cast(Any, SimpleNamespace(channels=3))
    found = recommendation.timed(plan, source)
    assert tried_out == [256, 128, 64]
    assert (found.batch_size, found.out, found.facts) == (64, "runs/first.2", plan.facts)
    assert found.seconds == 1.0 + 0.25 * found.steps
    monkeypatch.setattr(recommendation, "LEAST_BATCH", 128)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        recommendation.timed(plan, source)


# ---------------------------------------------------------------- facts of images


def seen(folder: Path, channels: int = 3) -> Facts:
    return recommendation.facts_of(look(open_maybe_labelled(folder, channels)))


def test_facts_are_those_of_the_images(tmp_path: Path) -> None:
    for i in range(9):
        draw(tmp_path / "photos" / f"{i}.png", i % 4, i, (40 + i, 100))
    found = seen(tmp_path / "photos")
    assert (found.images, found.pixels, found.channels, found.normalize) == (9, 44, 3, "imagenet")
    assert found.cores >= 1
    assert found.memory > 2**20
    grey = tmp_path / "grey"
    grey.mkdir()
    for i in range(9):
        noise = np.random.default_rng(i).integers(0, 4096, (20, 30)).astype(np.uint16)
        Image.fromarray(noise).save(grey / f"{i}.png")  # 12 bits in a file of 16
    assert (seen(grey).channels, seen(grey).normalize) == (1, "data")
    assert seen(grey, 1).channels == 1


@pytest.mark.parametrize(("good", "bad", "words"), [(1, 3, "Only 1 image can be read; a training needs at least 2"),
                                                    (0, 3, "Only 0 images can be read; a training needs at least 2"),
                                                    (8, 2, "2 of 10 images cannot be read or used")])  # fmt: skip
def test_data_that_cannot_be_trained_on_get_a_reason_and_no_command(
    good: int, bad: int, words: str, tmp_path: Path, capsys: Say
) -> None:
    photos = tmp_path / "photos"
    for i in range(good):
        draw(photos / f"{i}.png", i, i)
    photos.mkdir(exist_ok=True)
    for i in range(bad):
        (photos / f"bad{i}.png").write_bytes(b"x")
    out = tmp_path / "check.json"
    assert cli.main(["check", str(photos), "--workers", "0", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"No first command can be recommended: {words}" in said
    assert "Next:" not in said
    assert json.loads(out.read_text())["first_command"] is None
    if remedy := re.search(r"--max-broken (\d)\.\n", said):
        argv = ["pretrain", "simclr", str(photos), "--max-broken", remedy[1], "--backbone", "test_byobnet", "--epochs"]
        more = ["1", "--image-size", "32", "--batch-size", "4", "--workers", "0", "--out", str(tmp_path / "run")]
        assert cli.main([*argv, *more]) == 0


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize(
    "plan",
    [
        recommended(facts(), GIVEN),
        recommended(facts(10**6, 300, "H200"), GIVEN),
        recommended(facts(channels=1, normalize="data"), Given("my photos; $HOME", "drop", 0)),
        dataclasses.replace(recommended(facts(), GIVEN), time="30min", epochs=7, out="runs/first.2"),
    ],
)
def test_the_command_is_the_training_that_is_timed(plan: Recommendation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_places, "check_images", lambda *data: None)
    first, verb, *argv = shlex.split(plan.command)
    assert (first, verb) == ("lookalike", "pretrain")
    assert parse_run(verb, argv) == plan.run(plan.given.data, plan.out)


def test_the_last_line_of_check_is_a_command_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Say
) -> None:
    """As it is printed: on 24 grey images, in a folder with a name to be quoted, where there is a run already."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recommendation, "MOST_EPOCHS", 2)  # for time
    for i in range(24):
        pixels = np.random.default_rng(i).integers(0, 256, (32, 36)).astype(np.uint8)
        (tmp_path / "my photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"my photos/{i}.png")
    Path("runs/first").mkdir(parents=True)
    before = {path.name for path in tmp_path.iterdir()}
    assert cli.main(["check", "my photos", "--workers", "0", "--out", "check.json"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert {path.name for path in tmp_path.iterdir()} == before | {"check.json"}  # nothing is left of the timing
    lines = said.out.splitlines()
    assert lines[-5] == "Timing a step of lejepa with mobilenetv3_small_050 at 32 pixels ..."
    assert re.match(
        r"24 images at 32 pixels, \d+ cores?: about .* for 2 epochs, from a measured .* per step and 2 steps$",
        lines[-4],
    )
    command, _, about = lines[-1].removeprefix("Next: ").partition("   # about ")
    content = json.loads(Path("check.json").read_text())["first_command"]
    assert cli.main([*shlex.split(lines[-2].removeprefix("To draw its views: "))[1:], "--out", "views.png"]) == 0
    assert content["command"] == command
    assert content["channels"] == 1
    assert about == spoken(content["seconds"])
    assert content["seconds"] > content["steps"] * content["step_seconds"] > 0
    assert cli.main(shlex.split(command)[1:]) == 0
    run = Folder("runs/first.2")
    assert run.rows()[-1]["step"] == content["steps"] == 2
    assert json.loads(run.card.read_text())["channels"] == 1


def test_check_without_timing_names_the_same_command(
    photos: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "measure", None)
    argv = ["check", str(photos), "--workers", "0", "--no-timing", "--image-size", "64", "--alpha", "drop"]
    assert cli.main(argv) == 0
    said = capsys.readouterr().out
    assert "with a side below 64 pixels would be enlarged" in said
    words = shlex.split(said.splitlines()[-1].removeprefix("Next: "))
    assert words[:4] == ["lookalike", "pretrain", "lejepa", str(photos)]
    assert words[words.index("--image-size") + 1] == "64"
    assert words[words.index("--alpha") + 1] == "drop"
    assert words[words.index("--workers") + 1] == "0"
    assert words[words.index("--epochs") + 1] == "100"


def test_a_step_that_fails_fails_no_check(
    photos: Path, tmp_path: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(run: Run, found: Speed) -> None:
        Path(run.out).rmdir()
        raise RuntimeError("the machine is too small")

    monkeypatch.setattr(stages, "measure", measure)
    out = tmp_path / "check.json"
    assert cli.main(["check", str(photos), "--workers", "0", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "Timing failed: the machine is too small\n40 images at 32 pixels" in said
    assert said.splitlines()[-1].startswith("Next: lookalike pretrain lejepa")
    assert json.loads(out.read_text())["first_command"]["seconds"] is None


def test_ctrl_c_while_a_step_is_timed_loses_nothing(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(run: Run, found: Speed) -> None:
        Path(run.out).rmdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "measure", measure)
    out = tmp_path / "check.json"
    assert cli.main(["check", str(photos), "--workers", "0", "--out", str(out)]) == 130
    assert json.loads(out.read_text())["images"]["images"] == 40
