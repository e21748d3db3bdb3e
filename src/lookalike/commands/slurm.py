"""The command `slurm`: writes the batch script of a training and submits it. Imports nothing heavy."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..files import atomic, nearest_folder, read_text
from ..names import nearest
from ..printing import counted, pasteable, printable, shown, silent
from .batch_script import FIRST_LINES, Job, literal, of_comparison, of_training, of_trainings

TRAININGS = ("pretrain", "distill", "finetune")
VERBS = (*TRAININGS, "compare")
"""The commands that can be submitted."""
_LIMIT = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
MOST_CPUS = 8
"""CPUs of a process by default: one for the training, the others for decoding."""


@dataclass(frozen=True)
class Submitted:
    """Batch scripts: one, or two for an array."""

    scripts: Sequence[str]
    jobs: Sequence[str]
    """The numbers that Slurm gave the jobs; none if they were not submitted."""


def slurm(
    command: Sequence[str],
    *,
    nodes: int = 1,
    gpus_per_node: int = 1,
    time: str | None = None,
    partition: str | None = None,
    account: str | None = None,
    qos: str | None = None,
    constraint: str | None = None,
    mem: str | None = None,
    cpus_per_task: int = MOST_CPUS,
    tasks_per_node: int | None = None,
    notice: int = 180,
    setup: str | os.PathLike[str] | None = None,
    job_name: str | None = None,
    log: str | None = None,
    array: bool = False,
    dry_run: bool = False,
    trainings: Callable[[Sequence[str]], Sequence[str]] | None = None,
    say: Callable[[str], None] = silent,
) -> Submitted:
    """Writes the batch script of a training and submits it to Slurm with sbatch.

    One process trains per GPU. Before the time limit and on a preemption the training saves its state, the job is
    requeued, and the run continues bit for bit.

    Args:
        command: pretrain, distill, finetune or compare with its arguments, without --nodes and --devices, and with
            --out.
        nodes: number of machines.
        gpus_per_node: GPUs of each machine; 0 trains on CPUs.
        time: time limit of the job as sbatch takes it: MINUTES, HH:MM:SS or DAYS-HH:MM:SS. The default is the
            partition's.
        partition: name of the partition. The default is the cluster's.
        account: account that is charged.
        qos: quality of service.
        constraint: features that the machines must have.
        mem: memory of each machine, such as 64G. The default is the partition's.
        cpus_per_task: CPUs of each process, for decoding images.
        tasks_per_node: processes of each machine. The default is one per GPU, or one without GPUs.
        notice: seconds before the time limit at which the training is told to save its state.
        setup: shell file that the job runs first, for example to load modules.
        job_name: name of the job. The default is that of the output folder.
        log: file of the job's output, to which a requeued job appends; %j is the number of the job. The default lies
            beside the output folder.
        array: run each training of compare as a task of a job array; a second job evaluates and ranks them.
        dry_run: print the script instead of submitting it.
        trainings: returns the names of the trainings of a compare command, for an array.
        say: called with lines for the user.

    Raises:
        ValueError: an argument that cannot be used.
        FileNotFoundError: sbatch or the setup file does not exist.
        RuntimeError: sbatch refused the job.
    """
    out = output_folder(command)
    if command[0] == "compare" and (nodes, gpus_per_node > 1, (tasks_per_node or 1) > 1) != (1, False, False):
        raise ValueError("A comparison runs on one device. Leave --nodes out, and give --gpus-per-node 1 or 0.")
    limits = (
        ("time", time), ("partition", partition), ("account", account), ("qos", qos), ("constraint", constraint),
        ("mem", mem),
    )  # fmt: skip
    if array and (command[0] != "compare" or trainings is None):
        raise ValueError(f"--array runs the trainings of compare, but the command is {command[0]}. Leave --array out.")
    _check_numbers(nodes, gpus_per_node, cpus_per_task, tasks_per_node, notice, time)
    if setup is not None and not os.path.isfile(setup):
        raise FileNotFoundError(f"--setup {os.fspath(setup)} does not exist. Give a shell file that the job can read.")
    beside = Path(os.path.abspath(out))
    job = Job(
        name=job_name or f"lookalike-{beside.name}", nodes=nodes, gpus_per_node=gpus_per_node,
        tasks_per_node=tasks_per_node or max(1, gpus_per_node), cpus_per_task=cpus_per_task,
        limits=[(name, value) for name, value in limits if value is not None], notice=notice,
        log=os.path.abspath(log or f"{literal(beside)}.slurm-{'%A_%a' if array else '%j'}.log"),
        directory=os.getcwd(), python=sys.executable, setup=None if setup is None else os.path.abspath(setup),
    )  # fmt: skip
    _check_texts(job, command)
    texts = _scripts(job, command, os.path.join(out, "run.yaml"), trainings if array else None)
    if dry_run:
        say("\n".join(texts).rstrip("\n"))
        return Submitted(texts, [])
    if shutil.which("sbatch") is None:
        raise FileNotFoundError(
            "sbatch was not found: jobs are submitted on a login node of a Slurm cluster. To print the script instead, "
            "give --dry-run; on the cluster it is submitted by sbatch FILE."
        )
    files = [_written(beside, ".slurm.sh" if i == 0 else ".slurm-rank.sh", text) for i, text in enumerate(texts)]
    Path(job.log).parent.mkdir(parents=True, exist_ok=True)  # Slurm does not create it, and ends the job silently
    numbers = [submitted(files[0])]
    tasks = f"{counted(nodes, 'node')}, {counted(job.tasks, 'process')}"
    say(f"Submitted job {numbers[0]}: {tasks}{' per training' if array else ''}. Script: {files[0]}")
    if array:
        numbers.append(submitted(files[1], f"--dependency=afterany:{numbers[0]}"))
        say(f"Submitted job {numbers[1]}, which evaluates and ranks them at the end. Script: {files[1]}")
    say(f"Its output: {job.log.replace('%j', numbers[0]).replace('%A', numbers[0]).replace('%%', '%')}")
    say(f"Its state: {pasteable('squeue', '--jobs', ','.join(numbers))}; to end it: {pasteable('scancel', *numbers)}")
    return Submitted(texts, numbers)


def _scripts(
    job: Job, command: Sequence[str], run: str, trainings: Callable[[Sequence[str]], Sequence[str]] | None
) -> list[str]:
    """The script of a job; of an array, and of the job after it."""
    if command[0] in TRAININGS:
        return [of_training(job, command, run)]
    if trainings is None:
        return [of_comparison(job, command)]
    after = replace(job, name=f"{job.name}-rank", log=job.log.replace("%A_%a", "%j"))
    return [of_trainings(job, command, trainings(command)), of_comparison(after, command)]


def output_folder(command: Sequence[str]) -> str:
    """The output folder of a command that can be submitted.

    Raises:
        ValueError: the command cannot be submitted as it is.
    """
    if not command or command[0] not in VERBS:
        found = f"found {shown(command[0])}. {nearest(command[0], list(VERBS))}" if command else "found nothing."
        raise ValueError(
            f"Expected the command of a training after --, such as pretrain METHOD DATA --out FOLDER; {found}"
        )
    for option, source in (("nodes", "nodes"), ("devices", "gpus-per-node")):
        if _value(command, option) is not None:
            raise ValueError(
                f"The command of the training has --{option}, which lookalike slurm sets by its own --{source}. "
                f"Leave --{option} out of the command, and give --{source} before the --."
            )
    if command[0] in TRAININGS and "--overwrite" in command:
        raise ValueError(
            "--overwrite would replace the job's own run when the job is requeued. Leave it out, and give another "
            "--out."
        )
    out = _value(command, "out")
    if not out:
        raise ValueError(
            "The command has no --out. A requeued job continues the run in its output folder: give --out FOLDER, one "
            "for each job."
        )
    return out


def _value(command: Sequence[str], option: str) -> str | None:
    """The value of an option in a command; "" if it is missing, None without the option."""
    for i, word in enumerate(command):
        name, equals, value = word.partition("=")
        if name == f"--{option}":
            return value if equals else next(iter(command[i + 1 : i + 2]), "")
    return None


def _check_numbers(nodes: int, gpus: int, cpus: int, tasks: int | None, notice: int, time: str | None) -> None:
    least = {"nodes": (nodes, 1), "gpus-per-node": (gpus, 0), "cpus-per-task": (cpus, 1), "notice": (notice, 1)}
    least |= {} if tasks is None else {"tasks-per-node": (tasks, 1)}
    for option, (found, minimum) in least.items():
        if found < minimum:
            raise ValueError(f"--{option} is {found}; it must be at least {minimum}.")
    if tasks is not None and 0 < gpus < tasks:
        raise ValueError(f"--tasks-per-node is {tasks}; expected at most {gpus}, one process per GPU.")
    if time is not None and (seconds := seconds_of_limit(time)) and seconds <= notice:
        raise ValueError(
            f"--time {time} is {seconds:g} seconds; expected more than the {notice} seconds of --notice, in which the "
            "training saves its state. Give a longer --time, or a smaller --notice."
        )


def seconds_of_limit(time: str) -> float:
    """Seconds of a time limit in one of Slurm's forms.

    Raises:
        ValueError: it has none of them, or is 0, with which Slurm sets no limit.
    """
    found = _LIMIT.fullmatch(time)
    seconds = 0
    if found:
        days, *others = found.groups()
        numbers = [int(other) for other in others if other is not None]
        # after days the first number is hours; two numbers alone are minutes and seconds, one is minutes
        units = (3600, 60, 1) if days is not None or len(numbers) == 3 else (60, 1)
        seconds = int(days or 0) * 86400 + sum(number * unit for number, unit in zip(numbers, units))
    if not seconds:
        raise ValueError(
            f"--time is {shown(time)}; expected a time limit as sbatch takes it. Give minutes (90), HH:MM:SS "
            "(24:00:00) or DAYS-HH:MM:SS (2-00:00:00)."
        )
    return seconds


def _check_texts(job: Job, command: Sequence[str]) -> None:
    """Refuses text that would end a line of the script."""
    for text in (job.name, job.log, job.directory, job.python, job.setup or "", *command, *(v for _, v in job.limits)):
        if any(character in text for character in "\n\r\0"):
            raise ValueError(f"{printable(text)} contains a line end, which a batch script cannot hold. Rename it.")


def _written(out: Path, suffix: str, text: str) -> Path:
    """Writes the script beside the output folder.

    Raises:
        FileExistsError: another file has its name.
    """
    file = out.with_name(out.name + suffix)
    nearest_folder(file.parent, "--out")
    if file.exists() and not (file.is_file() and read_text(file).startswith(FIRST_LINES)):
        raise FileExistsError(f"{file} was not written by lookalike slurm. Move it away, or give another --out.")
    with atomic(file) as temporary:
        temporary.write_text(text)
    return file


def submitted(file: Path, *options: str) -> str:
    """Submits a script and returns the number of its job.

    Raises:
        RuntimeError: Slurm refused it.
    """
    done = subprocess.run(["sbatch", "--parsable", *options, str(file)], capture_output=True, text=True)
    if done.returncode:
        reason = printable(done.stderr.strip().replace("sbatch: ", "").replace("error: ", "") or "no reason given")
        raise RuntimeError(f"sbatch refused {file}: {reason.rstrip('.')}.")
    return done.stdout.strip().split(";")[0]
