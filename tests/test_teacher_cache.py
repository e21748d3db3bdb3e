"""Answers of a teacher that are kept: asked for once, never half written, and refused where they are of others."""

import dataclasses
import errno
import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import support.tiny as tiny
import torch
from torch import Tensor, nn

from lookalike import training
from lookalike.data import Answers
from lookalike.methods import Distill
from lookalike.runs import Folder, Run


def test_answers_are_asked_for_once_and_found_again(tmp_path: Path) -> None:
    asked: list[list[int]] = []

    def ask(rows: Tensor) -> Tensor:
        asked.append(rows.tolist())
        return rows[:, None] * torch.ones(1, 5) + 0.1

    answers = Answers(tmp_path, "teacher views", 10, 2, 5, torch.float32)
    first = answers.recall(torch.tensor([7, 3, 5]), 0, ask)
    assert torch.equal(first, torch.tensor([[0.1], [1.1], [2.1]]).expand(3, 5))
    assert torch.equal(answers.recall(torch.tensor([5, 7]), 0, ask), first[[2, 0]])
    answers.recall(torch.tensor([5, 7]), 1, ask)  # the other view of an image
    again = Answers(tmp_path, "teacher views", 10, 2, 5, torch.float32)
    assert torch.equal(again.recall(torch.tensor([3]), 0, ask), first[[1]])
    assert asked == [[0, 1, 2], [0, 1]]
    # of a batch in which some are known all are asked for, and what is known stays
    assert torch.equal(again.recall(torch.tensor([3, 9, 7]), 0, ask)[:, 0], torch.tensor([1.1, 1.1, 0.1]))
    assert asked[2:] == [[0, 1, 2]]
    # what one process writes another one sees
    assert torch.equal(answers.recall(torch.tensor([9]), 0, ask), torch.full((1, 5), 1.1))
    assert len(asked) == 3


class Killed(BaseException):
    """What no handler of errors catches."""


@contextmanager
def killed_at_write(n: int) -> Iterator[None]:
    """The n-th write of an answer or its checksum, from 1, does not happen any more."""
    real, writes = os.pwrite, itertools.count(1)

    def writing(handle: int, content: bytes, start: int) -> int:
        if next(writes) >= n:
            raise Killed
        return real(handle, content, start)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", writing)
        with pytest.raises(Killed):
            yield


@pytest.mark.parametrize("n", range(1, 9))
def test_a_batch_of_which_a_part_was_written_is_asked_for_as_a_whole(n: int, tmp_path: Path) -> None:
    """An answer depends on who else is asked, in its last bits or, as here, much; an image is there twice."""
    asked: list[int] = []

    def ask(rows: Tensor) -> Tensor:
        asked.append(len(rows))
        return torch.stack([rows + 10.0 * len(rows), rows * 0.1], 1)

    def answers(folder: str) -> Answers:
        return Answers(tmp_path / folder, "x", 9, 1, 2, torch.float32)

    first, second = torch.tensor([4, 2, 4, 7]), torch.tensor([2, 8, 1, 4])
    wanted = [answers("whole").recall(index, 0, ask) for index in (first, second, first)]
    assert torch.equal(wanted[0], wanted[2])
    with killed_at_write(n):  # each row is written twice: it, and its checksum
        answers("killed").recall(first, 0, ask)
        answers("killed").recall(second, 0, ask)
    one, other = answers("killed"), answers("killed")  # two processes
    found = [process.recall(index, 0, ask) for process, index in ((one, first), (other, second), (other, first))]
    assert all(torch.equal(a, b) for a, b in zip(found, wanted))
    assert set(asked) == {4}


def test_answers_of_half_precision_and_what_is_not_finite(tmp_path: Path) -> None:
    """A row that float16 cannot hold is not kept, and not spoilt."""
    values = torch.tensor([[0.1, 2.0], [1e6, 1.0]])
    answers = Answers(tmp_path, "x", 2, 1, 2, torch.float16)
    for _ in range(2):
        found = answers.recall(torch.arange(2), 0, lambda rows: values[rows])
        assert found.dtype == torch.float32
        assert torch.equal(found, torch.stack([values[0].half().float(), values[1]]))
    assert np.fromfile(answers.sums, np.int64).astype(bool).tolist() == [True, False]


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(tmp_path, "x", 4, 1, 3, torch.float32)

    def full(handle: int, content: bytes, start: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match=r"answers could not be written .*Make room there"):
        answers.recall(torch.arange(4), 0, lambda rows: torch.ones(len(rows), 3))


def test_a_damaged_answer_is_asked_for_again(tmp_path: Path) -> None:
    def ask(rows: Tensor) -> Tensor:
        return torch.full((len(rows), 4), 2.0)

    Answers(tmp_path, "x", 3, 1, 4, torch.float32).recall(torch.arange(3), 0, ask)
    (values,) = tmp_path.glob("*.answers")
    content = bytearray(values.read_bytes())
    content[20] ^= 1  # of the second image
    values.write_bytes(content)
    asked: list[int] = []

    def note(rows: Tensor) -> Tensor:
        asked.extend(rows.tolist())
        return ask(rows)

    found = Answers(tmp_path, "x", 3, 1, 4, torch.float32).recall(torch.arange(3), 0, note)
    assert asked == [0, 1, 2]
    assert torch.equal(found, torch.full((3, 4), 2.0))
    values.write_bytes(bytes(content[:-4]))
    with pytest.raises(ValueError, match="does not have the size"):
        Answers(tmp_path, "x", 3, 1, 4, torch.float32)


def test_answers_of_other_images_or_views_are_refused(tmp_path: Path) -> None:
    """Another name is another file; a file that was put in its place is seen through."""
    mine = Answers(tmp_path, "mine", 4, 1, 3, torch.float32)
    theirs = Answers(tmp_path, "theirs", 4, 1, 3, torch.float32)
    assert mine.card != theirs.card
    theirs.recall(torch.arange(4), 0, lambda rows: torch.ones(len(rows), 3))
    for a, b in ((theirs.card, mine.card), (theirs.values, mine.values), (theirs.sums, mine.sums)):
        shutil.copy(a, b)
    with pytest.raises(ValueError, match="belongs to another teacher, other images or other views"):
        mine.recall(torch.arange(4), 0, lambda rows: torch.ones(len(rows), 3))
    with pytest.raises(ValueError, match="belongs to another teacher, other images or other views"):
        Answers(tmp_path, "mine", 4, 1, 3, torch.float32)


@pytest.mark.parametrize("kind", ["values", "sums"])
def test_answers_are_not_written_through_links(tmp_path: Path, kind: str) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    answers = Answers(tmp_path / "cache", "x", 3, 1, 4, torch.float32)
    (tmp_path / "cache").mkdir()
    vars(answers)[kind].symlink_to(outside)
    with pytest.raises(OSError, match="nothing is written through links"):
        answers.recall(torch.arange(3), 0, lambda rows: torch.ones(len(rows), 4))
    assert outside.read_text() == "mine"


def test_answers_that_do_not_fit_on_the_disk_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 50, 50))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="--patch-weight 0"):
        Answers(tmp_path, "x", 4, 1, 3, torch.float32)
    assert not [*tmp_path.glob("*.answers")]


class Crowded(nn.Module):
    """A teacher whose answers depend on how many are asked for at once, more than in the last bits."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x.mean((1, 2, 3)), x.std((1, 2, 3)), torch.full((len(x),), 0.1 * len(x))], 1)


@pytest.fixture(scope="module")
def crowded(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A whole training of two epochs of three steps, each with views of its own."""
    root = tmp_path_factory.mktemp("crowded")
    images = root / "images.txt"
    images.write_text("\n".join(map(str, sorted(photos.rglob("*.jpg"))[:25])))  # one is left out of each epoch
    cfg = Distill.Config(cache_teacher=True, cached_views=2, patch_weight=0.0, hidden_dim=8)
    run = Run(
        data=images, method=cfg, teacher=Crowded(), backbone=tiny.CNN, image_size=32, epochs=4, batch_size=8,
        workers=0, out=str(root / "run"), cache_dir=str(root / "cache"),
    )  # fmt: skip
    training.pretrain(run)
    return run


@pytest.mark.parametrize("n", [6, 23, 60])
def test_a_run_killed_while_answers_are_written_goes_on_to_the_same_bits(n: int, crowded: Run, tmp_path: Path) -> None:
    """In the first batch, in the second, and in the second epoch, which has a checkpoint behind it."""
    run = dataclasses.replace(crowded, out=str(tmp_path / "run"), cache_dir=str(tmp_path / "cache"))
    with killed_at_write(n):
        training.pretrain(run)
    training.pretrain(dataclasses.replace(run, resume=True))
    states = [torch.load(Folder(out).last, weights_only=True)["state_dict"] for out in (crowded.out, run.out)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
