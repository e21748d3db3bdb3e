"""Trainings from every kind of DATA, killed at random moments and continued, see the images of an uninterrupted one."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from support import tiny
from support.recorded_training import record
from support.runs import forkserver
from support.sources import NAMED, NUMBERED, TILED, TILES

from lookalike.processes import _is_alive
from lookalike.runs import Folder

pytestmark = pytest.mark.long(8)
KINDS = NAMED | NUMBERED | TILED
EPOCHS = 3
LIMIT = 600
"""Seconds after which a process counts as stuck, also on a busy machine."""


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def arguments(data: str, out: Path, workers: int, *more: str) -> list[str]:
    argv = ["pretrain", "simclr", data, "--backbone", tiny.CNN, "--image-size", "32", "--batch-size", "8"]
    argv += ["--epochs", str(EPOCHS), "--save-every", "1", "--workers", str(workers), "--no-report"]
    return [*argv, "--out", str(out), *(["--resume"] if (out / "run.yaml").is_file() else []), *more]


def exited(path: str, argv: list[str]) -> None:
    sys.exit(record(path, argv))


def seen_in(path: Path) -> dict[int, list[set[str]]]:
    """The images and views of each step, once for each time that it was made."""
    steps = defaultdict(list)
    for line in path.read_text().splitlines():
        step, *images = line.split()
        steps[int(step)].append(set(images))
    return steps


def assert_as_uninterrupted(seen: Mapping[int, list[set[str]]], expected: Mapping[int, list[set[str]]]) -> None:
    assert seen.keys() == expected.keys() == set(range(5 * EPOCHS))
    for step, made in seen.items():
        for images in made:
            assert images == expected[step][0], f"step {step}"


def straight(data: str, out: Path, *more: str) -> tuple[dict[int, list[set[str]]], bytes]:
    """An uninterrupted training: what it saw, and its weights."""
    process = forkserver().Process(target=exited, args=(str(out) + ".txt", arguments(data, out, 0, *more)))
    process.start()
    process.join(LIMIT)
    assert process.exitcode == 0
    return seen_in(Path(str(out) + ".txt")), Folder(out).weights.read_bytes()


def killed(data: str, out: Path, kills: int, seed: int, *more: str) -> tuple[dict[int, list[set[str]]], bytes]:
    """The same, killed so often, each time with another number of loading processes."""
    rng, path = random.Random(seed), Path(str(out) + ".txt")
    path.touch()
    survived = 0
    for kill in range(100 * kills):
        argv = arguments(data, out, (0, 2, 1)[kill % 3], *more)
        process = forkserver().Process(target=exited, args=(str(path), argv))
        process.start()
        lines, wait = len(path.read_text().splitlines()) + rng.randint(1, 6), rng.uniform(0, 0.05)
        until = time.monotonic() + LIMIT
        while process.is_alive() and len(path.read_text().splitlines()) < lines and time.monotonic() < until:
            time.sleep(0.002)
        time.sleep(wait)
        if survived < kills:
            process.kill()
        process.join(LIMIT)
        assert process.exitcode in (0, -signal.SIGKILL)
        survived += process.exitcode == -signal.SIGKILL
        if process.exitcode == 0:
            break
    assert survived >= min(kills, 2)
    return seen_in(path), Folder(out).weights.read_bytes()


def end(processes: list[int]) -> None:
    """Kills processes, and waits until they have ended."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    until = time.monotonic() + LIMIT
    while any(map(_is_alive, processes)) and time.monotonic() < until:
        time.sleep(0.01)


def check_killed(kind: str, classed: Path, folder: Path, times: int) -> None:
    """A training that is killed several times sees the images and views of an uninterrupted one, and ends as it."""
    (folder / "data").mkdir()
    data, more = KINDS[kind](classed, folder / "data"), TILES if kind in TILED else ()
    expected, weights = straight(data, folder / "straight", *more)
    seen, again = killed(data, folder / "killed", times, len(kind), *more)
    assert_as_uninterrupted(seen, expected)
    assert again == weights


@pytest.mark.parametrize("kind", ["parquet"])
def test_a_training_killed_three_times_is_the_uninterrupted_one(kind: str, classed: Path, tmp_path: Path) -> None:
    check_killed(kind, classed, tmp_path, 3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_killed_twenty_times_is_the_uninterrupted_one(
    kind: str, classed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "EPOCHS", 16)
    check_killed(kind, classed, tmp_path, 20)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "tar", "zipped", "parquet", "arrow", "hdf5"])
def test_two_processes_killed_and_one_that_continues_see_the_same(kind: str, classed: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    data = KINDS[kind](classed, tmp_path / "data")
    expected, _ = straight(data, tmp_path / "straight")
    out, path = tmp_path / "killed", tmp_path / "killed.txt"
    script = ["-m", "support.recorded_training", str(path)]
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *script]
    path.touch()
    with subprocess.Popen(
        [*launch, *arguments(data, out, 1, "--devices", "2")], start_new_session=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": paths},
    ) as both:  # fmt: skip
        until = time.monotonic() + LIMIT
        while both.poll() is None and len(path.read_text().splitlines()) < 24 and time.monotonic() < until:
            time.sleep(0.005)
        os.killpg(both.pid, signal.SIGKILL)
        # torchrun's processes are no part of that group: they would end by themselves, and write until then
        end([int(line) for line in Path(f"{path}.processes").read_text().splitlines()])
    halves = path.read_text().splitlines()
    assert len(halves) >= 24
    path.write_text("")
    process = forkserver().Process(target=exited, args=(str(path), arguments(data, out, 0, "--devices", "1")))
    process.start()
    process.join(LIMIT)
    assert process.exitcode == 0
    rest, together = seen_in(path), defaultdict(set)
    for line in halves:
        step, *images = line.split()
        together[int(step)] |= set(images)
    whole = [step for step in together if len(together[step]) == 8]
    assert min(rest) <= max(whole) + 1
    assert_as_uninterrupted({step: [together[step]] for step in whole} | rest, expected)
