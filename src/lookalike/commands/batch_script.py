"""The batch scripts that `lookalike slurm` writes: plain bash, to be read and changed. Imports nothing heavy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import join, quote

FIRST_LINES = "#!/bin/bash\n# Written by lookalike slurm."
"""The beginning of every script, by which one is recognised."""
STOPPED = 143
"""Exit code of a training that saved its state on SIGTERM."""
FREE_PORT = 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a batch script asks of Slurm."""

    name: str
    nodes: int
    tasks_per_node: int
    gpus_per_node: int
    cpus_per_task: int
    limits: Sequence[tuple[str, str]]
    """Other options of sbatch that have a value, such as ("partition", "gpu")."""
    notice: int
    """Seconds before the time limit at which the training is told to save its state."""
    log: str
    """File of the output, absolute; `%` begins one of Slurm's patterns, such as `%j`."""
    directory: str
    """Working directory, absolute."""
    python: str
    """Path of the Python that runs lookalike."""
    setup: str | None
    """Shell file that is sourced first, absolute."""

    @property
    def tasks(self) -> int:
        return self.nodes * self.tasks_per_node


def literal(path: str | Path) -> str:
    """A path for an option of sbatch that takes patterns: `%` is a character of the name."""
    return str(path).replace("%", "%%")


def of_training(job: Job, command: Sequence[str], run: str) -> str:
    """The script of a training, which resumes its run when Slurm starts the job again.

    Args:
        command: of the training, without the name of the program: `pretrain simclr DATA --out RUN`.
        run: the file that exists once the run in the output folder has begun: its `run.yaml`.
    """
    words = [*command, "--nodes", str(job.nodes), "--devices", str(job.tasks_per_node)]
    resumes = "--resume" in command
    lines = [*_header(job, []), ""]
    if not resumes:
        lines += [
            "# A job that was requeued continues its run",
            "resume=()",
            f'if [ "${{SLURM_RESTART_COUNT:-0}}" -gt 0 ] && [ -f {quote(run)} ]; then resume=(--resume); fi',
            "",
        ]
    return "\n".join([*lines, *_step(job, words, "" if resumes else ' "${resume[@]}"'), *_requeued("$SLURM_JOB_ID")])


def of_comparison(job: Job, command: Sequence[str]) -> str:
    """The script of a comparison: the same command continues it."""
    return "\n".join([*_header(job, []), "", *_step(job, command), *_requeued("$SLURM_JOB_ID")])


def of_trainings(job: Job, command: Sequence[str], trainings: Sequence[str]) -> str:
    """The script of an array: each of its tasks runs one training of a comparison."""
    return "\n".join(
        [
            *_header(job, [("array", f"0-{len(trainings) - 1}")]),
            "",
            f"trainings=({' '.join(map(quote, trainings))})",
            *_step(job, command, ' --training "${trainings[$SLURM_ARRAY_TASK_ID]}"'),
            *_requeued("${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"),
        ]
    )


def _header(job: Job, more: Sequence[tuple[str, str]]) -> list[str]:
    """The first lines: what is asked of Slurm, and what is done before the first step."""
    options = [
        ("job-name", job.name),
        ("nodes", str(job.nodes)),
        ("ntasks-per-node", str(job.tasks_per_node)),
        *([("gpus-per-node", str(job.gpus_per_node))] if job.gpus_per_node else []),
        ("cpus-per-task", str(job.cpus_per_task)),
        *job.limits,
        *more,
        ("signal", f"TERM@{job.notice}"),
        ("open-mode", "append"),
        ("output", job.log),
        ("chdir", job.directory),
    ]
    lines = [
        FIRST_LINES,
        *(f"#SBATCH --{name}={quote(value)}" for name, value in options),
        "#SBATCH --requeue",
        "",
        f"python={quote(job.python)}",
    ]
    if job.setup is not None:
        lines.append(f"source {quote(job.setup)} || exit 1")
    if job.tasks > 1:
        lines += [
            "# The processes meet at the first node, on which this script runs, at a port that is free there",
            f"export MASTER_PORT=$(\"$python\" -c '{FREE_PORT}')",
        ]
    return lines


def _step(job: Job, command: Sequence[str], more: str = "") -> list[str]:
    """The step that runs lookalike: one process per task, all of which end if one fails."""
    return [
        f"srun --kill-on-bad-exit=1 --cpus-per-task={job.cpus_per_task} \\",
        f'    "$python" -m lookalike {join(command)}{more}',
        "code=$?",
    ]


def _requeued(job_id: str) -> list[str]:
    """The last lines: the job that was stopped by SIGTERM waits in the queue again."""
    return [
        "",
        "# Before the time limit and on a preemption the training saves its state and ends with this code. Slurm does",
        "# not requeue a job that ends by itself.",
        f'if [ "$code" -eq {STOPPED} ]; then scontrol requeue "{job_id}"; fi',
        'exit "$code"',
        "",
    ]
