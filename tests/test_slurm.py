"""`lookalike slurm`: its scripts by a bash with stand-ins for Slurm's programs, and by a real Slurm of one machine."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from support.processes import Training, is_running
from support.runs import assert_equal, losses, state
from support.slurm import Slurm, missing, running, slow_steps

from lookalike import cli
from lookalike.commands.slurm import seconds_of_limit, slurm
from lookalike.runs import Folder

pytestmark = pytest.mark.long(4)

ISSUE = ["--nodes", "2", "--gpus-per-node", "8", "--time", "24:00:00", "--partition", "gpu", "--account", "vision"]
TRAINING = ["pretrain", "simclr", "photos", "--out", "runs/eight"]

SCRIPT = """\
#!/bin/bash
# Written by lookalike slurm.
#SBATCH --job-name=lookalike-eight
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --partition=gpu
#SBATCH --account=vision
#SBATCH --signal=TERM@180
#SBATCH --open-mode=append
#SBATCH --output={here}/runs/eight.slurm-%j.log
#SBATCH --chdir={here}
#SBATCH --requeue

python={python}
# The processes meet at the first node, on which this script runs, at a port that is free there
export MASTER_PORT=$("$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')

# A job that was requeued continues its run
resume=()
if [ "${{SLURM_RESTART_COUNT:-0}}" -gt 0 ] && [ -f runs/eight/run.yaml ]; then resume=(--resume); fi

srun --kill-on-bad-exit=1 --cpus-per-task=8 \\
    "$python" -m lookalike pretrain simclr photos --out runs/eight --nodes 2 --devices 8 "${{resume[@]}}"
code=$?

# Before the time limit and on a preemption the training saves its state and ends with this code. Slurm does
# not requeue a job that ends by itself.
if [ "$code" -eq 143 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
"""


def test_dry_run_prints_a_plain_script_and_needs_neither_slurm_nor_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["slurm", *ISSUE, "--dry-run", "--", *TRAINING]) == 0
    assert capsys.readouterr().out == SCRIPT.format(here=tmp_path, python=sys.executable)
    assert not [*tmp_path.iterdir()]


# ---------------------------------------------------------------- stand-ins


ODD = 'it\'s "quoted" $HOME `date` * é ; & 100% \\ #1'
"""A name with characters that a shell would act on."""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on PATH with an srun and a scontrol that write their arguments down, and a file of srun's exit code."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name, code in (("srun", f'exit "$(cat {folder}/code)"'), ("scontrol", "exit 0"), ("sbatch", "echo '7;here'")):
        file = folder / name
        file.write_text(f'#!/bin/bash\nprintf "%s\\0" "$@" >> {folder}/{name}.arguments\n{code}\n')
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    (folder / "code").write_text("0")
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    return folder


def arguments(programs: Path, name: str) -> list[str]:
    file = programs / f"{name}.arguments"
    words = file.read_text().split("\0")[:-1] if file.exists() else []
    with suppress(FileNotFoundError):
        file.unlink()
    return words


def test_words_reach_the_training_exactly_as_they_were_typed(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "setup $1.sh").write_text("export SEEN=yes\n")
    command = ["pretrain", "simclr", f"photos/{ODD}", "--out", f"runs/{ODD}", "--logger", ""]
    text = slurm(command, gpus_per_node=0, setup="setup $1.sh", dry_run=True).scripts[0]
    done = subprocess.run(["bash", "-c", text], env=os.environ | {"SLURM_JOB_ID": "5"}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert arguments(programs, "srun") == [
        "--kill-on-bad-exit=1", "--cpus-per-task=8", sys.executable, "-m", "lookalike", *command, "--nodes", "1",
        "--devices", "1",
    ]  # fmt: skip
    assert arguments(programs, "scontrol") == []


@pytest.mark.parametrize(("code", "requeued"), [(143, True), (0, False), (1, False), (130, False), (137, False)])
def test_only_a_training_that_saved_its_state_is_requeued(programs: Path, code: int, requeued: bool) -> None:
    (programs / "code").write_text(str(code))
    text = slurm(["pretrain", "simclr", "photos", "--out", "run"], dry_run=True).scripts[0]
    done = subprocess.run(["bash", "-c", text], env=os.environ | {"SLURM_JOB_ID": "5"})
    assert done.returncode == code
    assert arguments(programs, "scontrol") == (["requeue", "5"] if requeued else [])


@pytest.mark.parametrize(
    ("restarts", "began", "typed", "resumes"),
    [(None, True, [], False), ("1", False, [], False), ("1", True, [], True), ("2", True, ["--resume"], True)],
)
def test_a_requeued_job_resumes_the_run_that_it_began(
    programs: Path, tmp_path: Path, restarts: str | None, began: bool, typed: list[str], resumes: bool
) -> None:
    """The first start does not, so that it never continues the run of somebody else."""
    if began:
        (tmp_path / "run").mkdir()
        (tmp_path / "run/run.yaml").touch()
    text = slurm(["pretrain", "simclr", "photos", "--out", "run", *typed], dry_run=True).scripts[0]
    environment = {k: v for k, v in os.environ.items() if k != "SLURM_RESTART_COUNT"} | {"SLURM_JOB_ID": "5"}
    environment |= {} if restarts is None else {"SLURM_RESTART_COUNT": restarts}
    assert subprocess.run(["bash", "-c", text], env=environment).returncode == 0
    assert arguments(programs, "srun").count("--resume") == resumes


def test_a_job_is_submitted_with_its_script_beside_the_run(
    programs: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["pretrain", "simclr", str(photos), "--out", "runs/first"]
    assert cli.main(["slurm", "--time", "60", "--", *command]) == 0
    script = tmp_path / "runs/first.slurm.sh"
    assert arguments(programs, "sbatch") == ["--parsable", str(script)]
    assert script.read_text() == slurm(command, time="60", dry_run=True).scripts[0]
    said = capsys.readouterr().out
    assert f"Submitted job 7: 1 node, 1 process. Script: {script}\n" in said
    assert f"Its output: {tmp_path}/runs/first.slurm-7.log\n" in said
    assert "squeue --jobs 7; to end it: scancel 7\n" in said
    assert cli.main(["slurm", "--time", "60", "--", *command]) == 0  # its own script is replaced
    script.write_text("mine")
    assert cli.main(["slurm", "--", *command]) == 1
    assert "was not written by lookalike slurm" in capsys.readouterr().err
    assert script.read_text() == "mine"


def test_a_comparison_is_one_job(programs: Path) -> None:
    command = ["compare", "photos", "simclr", "byol", "--train", "a", "--test", "b", "--out", "runs/two"]
    text = slurm(command, dry_run=True).scripts[0]
    assert subprocess.run(["bash", "-c", text], env=os.environ | {"SLURM_JOB_ID": "5"}).returncode == 0
    assert arguments(programs, "srun")[5:] == command


def test_an_array_runs_one_training_per_task_and_ranks_them_afterwards(programs: Path) -> None:
    command = ["compare", "photos", "simclr", "byol", "--seeds", "2", "--train", "a", "--test", "b", "--out", "two"]
    tasks, after = slurm(command, array=True, trainings=names_of, dry_run=True).scripts
    assert "#SBATCH --array=0-3\n" in tasks
    assert "--array" not in after
    environment = os.environ | {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"}
    (programs / "code").write_text("143")
    assert subprocess.run(["bash", "-c", tasks], env=environment).returncode == 143
    assert arguments(programs, "srun")[5:] == [*command, "--training", "simclr-seed1"]
    assert arguments(programs, "scontrol") == ["requeue", "5_2"]  # the number of the job would be that of all tasks
    assert subprocess.run(["bash", "-c", after], env=environment).returncode == 143
    assert arguments(programs, "srun")[5:] == command


def names_of(command: Sequence[str]) -> list[str]:
    return ["simclr-seed0", "byol-seed0", "simclr-seed1", "byol-seed1"]


def test_the_second_job_of_an_array_waits_for_the_first(
    programs: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compare", str(photos), "simclr", "byol", "--train", "a", "--test", "b", "--out", "two"]
    assert cli.main(["slurm", "--array", "--", *command]) == 0
    tasks, after = (str(tmp_path / f"two.{name}.sh") for name in ("slurm", "slurm-rank"))
    assert arguments(programs, "sbatch") == ["--parsable", tasks, "--parsable", "--dependency=afterany:7", after]
    assert "#SBATCH --array=0-5\n" in Path(tasks).read_text()
    assert "Submitted job 7, which evaluates and ranks them at the end." in capsys.readouterr().out
    assert "Give --epochs instead of --budget" in errs(
        ["slurm", "--array", "--", *command, "--budget", "1h"], 2, capsys
    )
    assert "Leave --array out." in errs(["slurm", "--array", "--dry-run", "--", *TRAINING], 1, capsys)


# ---------------------------------------------------------------- errors


def errs(argv: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(argv) == code
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message", "then"),
    [
        (["--nodes", "2"], "The command of the training is missing: lookalike slurm", ["--", *TRAINING]),
        (["simclr", "--", *TRAINING], "Found 'simclr' before the --; expected lookalike slurm", ["--", *TRAINING]),
        (["--", "evaluate", "run", "a", "b"], "Expected the command of a training after --", ["--", *TRAINING]),
        (["--", *TRAINING[:3]], "The command has no --out.", ["--", *TRAINING]),
        (
            ["--", *TRAINING, "--devices", "2"], "Leave --devices out of the command, and give --gpus-per-node before",
            ["--gpus-per-node", "2", "--", *TRAINING],
        ),
        (
            ["--", *TRAINING, "--nodes=2"], "Leave --nodes out of the command, and give --nodes before the --",
            ["--nodes", "2", "--", *TRAINING],
        ),
        (["--", *TRAINING, "--overwrite"], "--overwrite would replace the job's own run", ["--", *TRAINING]),
    ],
)  # fmt: skip
def test_commands_that_cannot_be_submitted_are_usage_errors(
    argv: list[str], message: str, then: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in errs(["slurm", "--dry-run", *argv], 2, capsys)
    assert cli.main(["slurm", "--dry-run", *then]) == 0


@pytest.mark.parametrize(
    ("options", "message", "then"),
    [
        (["--nodes", "0"], "--nodes is 0; it must be at least 1.", ["--nodes", "1"]),
        (["--gpus-per-node", "-1"], "--gpus-per-node is -1; it must be at least 0.", ["--gpus-per-node", "0"]),
        (["--gpus-per-node", "2", "--tasks-per-node", "3"], "--tasks-per-node is 3; expected at most 2", []),
        (["--time", "soon"], "--time is 'soon'; expected a time limit as sbatch takes it.", ["--time", "2-00:00:00"]),
        (["--time", "2"], "--time 2 is 120 seconds; expected more than the 180 seconds of --notice", ["--time", "4"]),
        (["--time", "2"], "Give a longer --time, or a smaller --notice.", ["--time", "2", "--notice", "60"]),
        (["--setup", "gone.sh"], "--setup gone.sh does not exist. Give a shell file", ["--setup", __file__]),
        (["--partition", "a\nb"], "contains a line end, which a batch script cannot hold.", ["--partition", "a b"]),
        (["--array"], "--array runs the trainings of compare, but the command is pretrain. Leave --array out.", []),
    ],
)
def test_options_that_cannot_be_used_are_named(
    options: list[str], message: str, then: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in errs(["slurm", *options, "--dry-run", "--", *TRAINING], 1, capsys)
    assert cli.main(["slurm", *then, "--dry-run", "--", *TRAINING]) == 0


def test_a_comparison_takes_one_device(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", "photos", "simclr", "--train", "a", "--test", "b", "--out", "runs/two"]
    assert "A comparison runs on one device." in errs(["slurm", "--nodes", "2", "--dry-run", "--", *command], 1, capsys)
    assert cli.main(["slurm", "--gpus-per-node", "0", "--dry-run", "--", *command]) == 0


def test_without_sbatch_the_script_can_be_printed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    argv = ["slurm", "--", "pretrain", "simclr", str(photos), "--out", "run"]
    message = errs(argv, 1, capsys)
    assert "sbatch was not found" in message
    assert "give --dry-run" in message
    assert cli.main([argv[0], "--dry-run", *argv[1:]]) == 0
    assert not [*tmp_path.iterdir()]


def test_a_command_is_checked_before_it_is_submitted(
    programs: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["slurm", "--", "pretrain"]
    assert "nowhere does not exist" in errs([*start, "simclr", "nowhere", "--out", "run"], 1, capsys)
    assert cli.main([*start, "simclr", str(photos), "--epoch", "5", "--out", "run"]) == 2
    assert arguments(programs, "sbatch") == []
    assert cli.main(["slurm", "--no-check", "--", "pretrain", "simclr", "nowhere", "--out", "run"]) == 0
    assert arguments(programs, "sbatch")


def test_what_sbatch_says_is_passed_on(programs: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (programs / "sbatch").write_text(
        "#!/bin/bash\necho 'sbatch: error: invalid partition specified: gpu' >&2\nexit 1\n"
    )
    message = errs(["slurm", "--", "pretrain", "simclr", str(photos), "--out", "run"], 1, capsys)
    assert message.endswith("run.slurm.sh: invalid partition specified: gpu.\n")


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("90", 5400), ("90:30", 5430), ("24:00:00", 86400), ("2-00", 172800), ("2-12:30", 217800), ("1-00:00:01", 86401)],
)
def test_time_limits_have_the_forms_of_sbatch(time: str, seconds: int) -> None:
    assert seconds_of_limit(time) == seconds


@pytest.mark.parametrize("time", ["", "0", "0:00", "24h", "1:2:3:4", "-5"])
def test_other_time_limits_are_refused(time: str) -> None:
    with pytest.raises(ValueError, match="expected a time limit as sbatch takes it"):
        seconds_of_limit(time)


# ---------------------------------------------------------------- a real Slurm


TINY = ["--backbone", "test_byobnet", "--image-size", "32", "--batch-size", "8", "--workers", "0", "--cache", "ram"]
ON_CPUS = ["--gpus-per-node", "0", "--cpus-per-task", "1"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    if reason := missing():
        pytest.skip(reason)
    with running(tmp_path_factory.mktemp("slurm")) as slurm:
        yield slurm


@pytest.fixture
def submit(cluster: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Submit"]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    made = Submit(cluster, tmp_path)
    yield made
    for number in made.numbers:
        cluster.run("scancel", number)


class Submit:
    """Submits trainings by the real command."""

    def __init__(self, cluster: Slurm, here: Path) -> None:
        self.cluster = cluster
        self.here = here
        self.numbers: list[str] = []

    def __call__(self, photos: Path, out: str, epochs: int, *options: str, slowly: bool = True) -> str:
        command = ["pretrain", "simclr", str(photos), *TINY, "--epochs", str(epochs), "--out", out, "--no-report"]
        if slowly:
            options += "--setup", str(slow_steps(self.here))
        assert cli.main(["slurm", *ON_CPUS, *options, "--", *command]) == 0
        self.numbers.append(self.cluster.run("squeue", "--noheader", "--sort=-i", "--format=%A").split()[0])
        return self.numbers[-1]

    def trains(self, out: str, rows: int = 1) -> None:
        """Waits until a run has begun."""
        self.cluster._await(lambda: len(Folder(out).rows()) >= rows)

    def log(self, out: str, number: str) -> str:
        return (self.here / f"{out}.slurm-{number}.log").read_text()


def whole(photos: Path, out: Path, epochs: int, devices: int = 1) -> Path:
    """The same training without an interruption and without Slurm, through the real command."""
    argv = ["pretrain", "simclr", photos, *TINY, "--epochs", epochs, "--devices", devices]
    with Training(out, *argv) as run:
        run.ends(0)
    return out


def test_a_job_trains_under_slurm(submit: Submit, cluster: Slurm, photos: Path) -> None:
    out = "runs/it's 100% #1"
    number = submit(photos, out, 2, "--time", "10", "--partition", "low", slowly=False)
    cluster.ends(number)
    assert len(Folder(out).rows()) == 2
    text = submit.log(out, number)
    assert "Next: lookalike evaluate" in text
    assert "error" not in text


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [1, 2])
def test_a_preempted_job_is_requeued_and_ends_bit_for_bit_as_if_nothing_had_happened(
    submit: Submit, cluster: Slurm, photos: Path, tmp_path: Path, tasks: int
) -> None:
    epochs = 16
    number = submit(photos, "run", epochs, "--partition", "low", "--tasks-per-node", str(tasks))
    submit.trains("run")
    other = cluster.run(
        "sbatch", "--parsable", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=sleep 3"
    )
    cluster.ends(other)
    cluster.ends(number)
    assert cluster.started(number) == 1
    text = submit.log("run", number)
    assert text.count("Stopped after step") == 1
    assert text.count("Next: lookalike evaluate") == 1
    assert not [line for line in text.splitlines() if line.startswith("error")]
    reference = whole(photos, tmp_path / "whole", epochs, tasks)
    assert_equal(state(tmp_path / "run"), state(reference))
    assert losses(tmp_path / "run") == losses(reference)


@pytest.mark.slow
def test_a_job_is_requeued_at_its_time_limit(submit: Submit, cluster: Slurm, photos: Path, tmp_path: Path) -> None:
    """It is told in time, saves its state, and never gets the state TIMEOUT."""
    number = submit(photos, "run", 100_000, "--time", "2", "--notice", "30")
    cluster._await(lambda: cluster.started(number) == 1 and cluster.state(number) == "RUNNING", 400)
    text = submit.log("run", number)
    assert text.count("Stopped after step") == 1
    step = int(text.split("Stopped after step ")[1].split()[0])
    cluster._await(lambda: Folder("run").rows()[-1]["step"] > step)
    assert f"step {step} of " in submit.log("run", number).split("Stopped after step")[1]  # it resumed there


@pytest.mark.slow
def test_a_cancelled_job_is_not_requeued(submit: Submit, cluster: Slurm, photos: Path) -> None:
    number = submit(photos, "run", 100_000)
    submit.trains("run")
    cluster.run("scancel", number)
    cluster.ends(number, "CANCELLED")
    time.sleep(10)
    assert cluster.state(number) == "CANCELLED"
    assert cluster.started(number) == 0
    assert Folder("run").last.is_file()


@pytest.mark.slow
def test_a_job_that_fails_is_not_requeued(submit: Submit, cluster: Slurm, photos: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(photos, tmp_path / "photos"))
    other = cluster.run("sbatch", "--parsable", "--exclusive", "--output=/dev/null", "--wrap=sleep 600")
    number = submit(own, "run", 2)
    shutil.rmtree(own)
    cluster.run("scancel", other)
    cluster.ends(number, "FAILED")
    assert cluster.started(number) == 0
    assert f"error: {own} does not exist" in submit.log("run", number)


@pytest.mark.slow
def test_an_array_of_trainings_is_ranked_by_the_job_after_it(
    submit: Submit, cluster: Slurm, photos: Path, labelled: Path, tmp_path: Path
) -> None:
    pair = ["--train", str(labelled / "train"), "--test", str(labelled / "test")]
    command = ["compare", str(photos), "simclr", "byol", *pair, *TINY, "--epochs", "2", "--seeds", "1", "--protocols",
               "knn", "--no-report"]  # fmt: skip
    argv = ["slurm", *ON_CPUS, "--array", "--", *command, "--out", "two"]
    assert cli.main(argv) == 0
    numbers = sorted(
        {each.split("_")[0] for each in cluster.run("squeue", "--noheader", "--format=%i").split()}, key=int
    )
    submit.numbers += numbers[-2:]
    cluster.ends(numbers[-1])
    content = json.loads((tmp_path / "two/compare.json").read_text())
    assert [row["status"] for row in content["trainings"]] == ["done", "done"]
    assert len(content["ranking"]) == 2
    text = (tmp_path / f"two.slurm-{numbers[-1]}.log").read_text()
    assert "[1/2]" not in text  # nothing was left to train
    assert cli.main([*command, "--out", "one"]) == 0
    one = json.loads((tmp_path / "one/compare.json").read_text())
    assert [row["results"] for row in content["trainings"]] == [row["results"] for row in one["trainings"]]


@pytest.mark.slow
def test_a_process_ends_with_the_daemon_that_started_it(submit: Submit, cluster: Slurm, photos: Path) -> None:
    number = submit(photos, "run", 100_000, "--tasks-per-node", "2")
    submit.trains("run")
    pids = [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit() and of_job(each, number)]
    assert len(pids) == 2
    parents = {int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]) for pid in pids}
    for parent in parents:
        assert Path(f"/proc/{parent}/comm").read_text().strip() == "slurmstepd"
        os.kill(parent, signal.SIGKILL)
    cluster._await(lambda: not any(map(is_running, pids)), 30)


def of_job(process: Path, number: str) -> bool:
    """Whether a process trains in a step of a job."""
    try:
        environment = (process / "environ").read_bytes().split(b"\0")
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return f"SLURM_JOB_ID={number}".encode() in environment and words[1:3] == [b"-m", b"lookalike"]
