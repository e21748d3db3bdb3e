"""Two processes train exactly as one does on the joined batch: the real command, two gloo processes, float64."""

import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import pytest
import torch
from support.gloo import as_torchrun
from support.processes import Training
from support.two_processes import train_all

from lookalike import backbones, cli, encoders
from lookalike.methods import METHODS, get_method
from lookalike.runs import Folder

pytestmark = pytest.mark.long(1)

TINY = ["--backbone", "test_byobnet", "--image-size", "32", "--batch-size", "8", "--workers", "1", "--epochs", "5000"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def simclr(photos: Path, out: Path, *more: object, launcher: Sequence[str] = ()) -> Training:
    return Training(out, "pretrain", "simclr", photos, "--devices", 2, *TINY, *more, launcher=launcher)


def test_a_killed_process_is_named(photos: Path, tmp_path: Path) -> None:
    """With exit code 1 and the command that resumes."""
    out = tmp_path / "run"
    with simclr(photos, out, "--save-every", 1) as run:
        run.trains()
        os.kill(run.starts(1), signal.SIGKILL)
        text = run.ends(1)
    assert "error: Process 1 of 2 was killed (signal 9, perhaps out of memory)." in text
    assert f"last.ckpt is intact: resume with lookalike pretrain --resume --out {out}" in text
    assert "Traceback" not in text


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_and_the_run_resumes(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with simclr(photos, out, "--save-every", 1) as run:
        run.trains()
        os.kill(run.starts(1), signal.SIGTERM)
        text = run.ends(143)
    assert f"Resume with: lookalike pretrain --resume --out {out}" in text
    before = len(Folder(out).rows())
    with Training(out, "pretrain", "--resume", "--save-every", 1) as run:
        run.await_(lambda: len(run.out.rows()) > before)
        os.kill(run.starts(1), signal.SIGTERM)
        text = run.ends(143)
    assert f"Resume with: lookalike pretrain --resume --out {out}" in text


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGKILL, -9, marks=pytest.mark.slow)]
)
def test_both_processes_end_with_the_first_one_before_the_first_step(
    photos: Path, tmp_path: Path, number: int, code: int
) -> None:
    with simclr(photos, tmp_path / "run") as run:
        run.starts(1)
        os.kill(run.process.pid, number)
        run.ends(code)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [2.0, 8.0])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_both_processes_end_with_the_first_one_at_any_moment(
    photos: Path, tmp_path: Path, number: int, code: int, seconds: float
) -> None:
    """While the second one imports torch, meets the first, fills its cache and begins."""
    with simclr(photos, tmp_path / "run", "--cache", "ram") as run:
        run.starts(1, seconds)
        os.kill(run.process.pid, number)
        run.ends(code)


@pytest.mark.slow
def test_the_second_process_ends_with_the_first_one_in_training(photos: Path, tmp_path: Path) -> None:
    with simclr(photos, tmp_path / "run") as run:
        run.trains(checkpoint=False)
        os.kill(run.process.pid, signal.SIGKILL)
        text = run.ends(-signal.SIGKILL)
    assert "error" not in text


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 1.0])
@pytest.mark.parametrize(
    ("number", "code", "says"),
    [
        (signal.SIGKILL, 1, "error: Process 1 of 2 was killed (signal 9, perhaps out of memory). Nothing was"),
        (signal.SIGTERM, 143, "Process 1 of 2 was stopped by SIGTERM."),
    ],
)
def test_the_first_process_ends_with_the_second_before_the_first_step(
    photos: Path, tmp_path: Path, number: int, code: int, says: str, seconds: float
) -> None:
    with simclr(photos, tmp_path / "run") as run:
        os.kill(run.starts(1, seconds), number)
        text = run.ends(code)
    assert says in text
    assert "Traceback" not in text
    assert code != 1 or not run.out.run.exists()  # the same command can be given again


@pytest.mark.slow
def test_an_error_of_the_second_process_ends_the_first(photos: Path, tmp_path: Path) -> None:
    own = tmp_path / "photos"
    shutil.copytree(photos, own)
    with simclr(own, tmp_path / "run") as run:
        run.starts(1)
        own.rename(tmp_path / "elsewhere")  # the first process knows its images already
        text = run.ends(1)
    assert f"error: {own} does not exist" in text
    assert (
        "error: Process 1 of 2 failed (exit code 1); its own message has the reason. Nothing was saved before." in text
    )
    assert "Traceback" not in text


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_process_of_torchrun_says_that_another_one_is_gone(photos: Path, tmp_path: Path, number: int) -> None:
    with simclr(photos, tmp_path / "run", "--save-every", 1, launcher=TORCHRUN) as run:
        run.trains()
        os.kill(run.starts(number), signal.SIGKILL)
        text = run.ends(1)
    assert "error: Another process of this training has ended; " in text
    assert f"last.ckpt is intact: resume with lookalike pretrain --resume --out {run.out.path}" in text
    assert "RuntimeError" not in text


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_processes_of_torchrun_end_with_it(photos: Path, tmp_path: Path, number: int) -> None:
    with simclr(photos, tmp_path / "run", launcher=TORCHRUN) as run:
        run.trains(checkpoint=False)
        os.kill(run.process.pid, number)
        text = run.ends(-9 if number == signal.SIGKILL else 1)  # torchrun's own
    assert ("Resume with: lookalike pretrain --resume" in text) == (number == signal.SIGTERM)


Case: TypeAlias = tuple[str, str, int]

CASES: list[Case] = [
    *(
        (m, "test_vit" if get_method(m).Config().needs.mask_token else "test_byobnet", 1)
        for m in METHODS
        if m != "moco_v2"
    ),
    ("simclr", "test_byobnet", 2),
    ("moco_v3", "test_vit", 1),
    ("moco_v2", "test_vit", 1),
    ("moco_v2", "test_vit", 2),
]
"""Methods, backbones, and micro-batches per step. MoCo v2's BatchNorm is each process's own, so these have none."""

SLOW = [("dino", "test_vit", 2), ("swav", "test_vit", 2), ("deepcluster_v2", "test_vit", 2)]
"""The same of methods that are above with whole batches."""

OWN_NORM = ("moco_v2", "test_byobnet", 1)


def name_of(method: str, backbone: str, accumulate: int) -> str:
    return f"{method}-{backbone}-{accumulate}"


def teacher(root: Path, backbone: str = "test_vit") -> Path:
    """The folder of a small pretrained network."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        encoders.save(Folder(root), backbones.create(backbone, image_size=32), method="none", epochs=0,
                      dtype=torch.uint8)  # fmt: skip
    return root


def arguments(method: str, backbone: str, accumulate: int, data: Path, out: Path, devices: int) -> list[str]:
    fields = vars(get_method(method).Config())  # type: ignore[call-arg]
    # a queue of three batches, so that five go round
    widths = {"hidden_dim": 64, "out_dim": 32, "queue": 24, "queue_starts": 0, "directions": 16, "bottleneck_dim": 16}
    if "drop_path" in fields:
        widths["drop_path"] = 0  # its draws are each process's own
    if method == "finetune":
        # the head learns alone for two of the five steps; what is mixed is each process's own
        verb = ["finetune", str(teacher(out.parent / "encoder", backbone)), str(data), str(data)]
        verb += ["--unfreeze-after", "0.4", "--mixup", "0", "--cutmix", "0"]
    elif method == "distill":
        verb = ["distill", str(data), "--teacher", str(teacher(out.parent / "teacher")), "--vicreg", "1"]
        verb += ["--cosine", "1", "--relational", "1"]
    else:
        verb = ["pretrain", method, str(data)]
    return [
        *verb, "--out", str(out / name_of(method, backbone, accumulate)),
        "--devices", str(devices), "--accumulate", str(accumulate),
        *(["--backbone", backbone] if method != "finetune" else []),  # the encoder's own
        "--image-size", "32",
        "--batch-size", "8", "--epochs", "1", "--precision", "fp64", "--workers", "0",
        *(["--prototypes", *("654" if method == "deepcluster_v2" else "6")] if "prototypes" in fields else []),
        *(word for name, n in widths.items() if name in fields for word in (f"--{name.replace('_', '-')}", str(n))),
    ]  # fmt: skip


def in_one_and_two(cases: Sequence[Case], data: Path, root: Path, *more: list[str]) -> tuple[Path, Path]:
    """The folders of all cases trained in one process, and in two; these carry out more commands, too."""
    one, two = root / "one", root / "two"
    one.mkdir()
    two.mkdir()
    torch.set_num_threads(1)
    for case in cases:
        assert cli.main(arguments(*case, data, one, 1)) == 0
    as_torchrun(train_all, [*(arguments(*case, data, two, 2) for case in cases), *more])
    return one, two


@pytest.fixture(scope="module")
def both(classed: Path, labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("both")
    two = root / "two"
    probed = arguments("simclr", "test_byobnet", 1, classed, two / "probed", 2)
    probed += ["--probe", str(labelled / "train"), str(labelled / "test")]
    return in_one_and_two(CASES, classed, root, arguments(*OWN_NORM, classed, two, 2), probed)


@pytest.mark.parametrize("case", [*CASES, OWN_NORM])
def test_state_is_equal_on_both_processes(case: Case, both: tuple[Path, Path]) -> None:
    """Parameters, BatchNorm's statistics, teachers and queues, to the last bit: any of them can save the run."""
    check_equal_state(case, both[1])


def check_equal_state(case: Case, two: Path) -> None:
    first, second = ((two / name_of(*case) / f"rank{rank}.sha256").read_text() for rank in range(2))
    assert first == second


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(case: Case, both: tuple[Path, Path]) -> None:
    check_equal(case, both)


@pytest.mark.slow
def test_so_they_do_with_micro_batches(classed: Path, tmp_path: Path) -> None:
    both = in_one_and_two(SLOW, classed, tmp_path)
    for case in SLOW:
        check_equal_state(case, both[1])
        check_equal(case, both)


def check_equal(case: Case, both: tuple[Path, Path]) -> None:
    folders = [Folder(root / name_of(*case)) for root in both]
    contents = [torch.load(folder.last, weights_only=True) for folder in folders]
    assert [content["global_step"] for content in contents] == [5, 5]
    one, two = (content["state_dict"] for content in contents)
    assert one.keys() == two.keys()
    for name, value in one.items():
        if value.is_floating_point():
            assert value.dtype == torch.float64
            # a bias before BatchNorm has no gradient but rounding, of which AdamW makes much
            in_head = "head.mlp" in name or "teacher.1.mlp" in name
            before_norm = in_head or name in ("method.backbone.net.norm.bias", "method.teacher.0.net.norm.bias")
            of_keys = name.endswith("attn.qkv.bias")  # a key's bias moves all scores of a query alike
            floor = 0.1 if (before_norm and name.endswith("bias")) or of_keys else 1e-3
            assert float((value - two[name]).abs().max()) <= 1e-9 * max(float(value.abs().max()), floor), name
        else:
            assert torch.equal(value, two[name]), name
    a, b = (folder.rows() for folder in folders)
    assert [r["loss"] for r in a] == pytest.approx([r["loss"] for r in b], rel=1e-9)
    assert folders[1].log.read_text().count("Next: lookalike ") == 1  # rank 0 alone speaks


def test_the_online_knn_runs_on_one_of_two_processes(both: tuple[Path, Path]) -> None:
    """From the untrained encoder on, whose statistics are estimated while the other process waits in a step."""
    plain, probed = (Folder(root / name_of("simclr", "test_byobnet", 1)) for root in (both[1], both[1] / "probed"))
    a, b = (torch.load(folder.last, weights_only=True)["state_dict"] for folder in (plain, probed))
    assert a.keys() == b.keys()
    assert all(torch.equal(value, b[name]) for name, value in a.items())
    assert ["knn_top1" in row for row in probed.rows()] == [True, True]
