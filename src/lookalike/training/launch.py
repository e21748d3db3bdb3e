"""What a process knows before data are opened: its rank, the folder, and the content of the folder."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch import Callback

from .. import encoders, processes
from ..events import Report
from ..files import nearest_folder
from ..runs import Folder, Run, inputs, read_whole_yaml, read_yaml
from .callbacks import FirstStep


@dataclass(frozen=True)
class Launch:
    """A process of a training, and the state of the folder at its start."""

    folder: Folder
    rank: int
    world: int
    callbacks: Sequence[Callback]
    """The user's own callbacks."""
    replaces: bool
    """Whether the folder holds a run. It stays unchanged until this one has made a step: much can fail before."""
    before: Mapping[str, object]
    """`run.yaml` of a resumed run, with located paths; else empty."""
    whole: Mapping[str, object]
    """The whole file, unchanged."""
    begun: Mapping[str, bytes]
    """What it stored of its inputs; see `runs.inputs`."""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def is_part(self) -> bool:
        """Whether the training is part of a larger job, which prints how to resume."""
        return any(isinstance(each, FirstStep) and each.part for each in self.callbacks)


def in_slurm_step() -> bool:
    """Whether srun started this process: other processes of a job have the variables of the job, too."""
    step = os.environ.get("SLURM_STEP_ID", "")
    # Slurm's own steps, of the batch script and of an interactive shell, have the highest numbers
    return step.isdigit() and int(step) < 2**32 - 16 and "SLURM_NTASKS" in os.environ


def launched_rank(run: Run) -> int:
    """This process's rank before torch.distributed runs, from the variables of torchrun, Lightning or Slurm."""
    variables = os.environ
    if "RANK" in variables:
        return int(variables["RANK"])
    if "LOCAL_RANK" in variables or "NODE_RANK" in variables:
        return int(variables.get("NODE_RANK", 0)) * run.devices + int(variables.get("LOCAL_RANK", 0))
    return int(variables["SLURM_PROCID"]) if in_slurm_step() else 0


def _launched(world: int) -> int:
    """The number of processes that were launched, as far as the environment states it."""
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    return int(os.environ["SLURM_NTASKS"]) if in_slurm_step() and "LOCAL_RANK" not in os.environ else world


def check_launch(run: Run) -> None:
    """Checks all that can be checked before data are opened.

    Raises:
        FileExistsError, FileNotFoundError, ValueError: the folder, or how the processes were started.
    """
    processes.follow_starter()
    processes.follow_torchrun()
    if in_slurm_step() and "TORCHELASTIC_RUN_ID" not in os.environ:
        processes.follow_slurm()
    rank, world = launched_rank(run), run.devices * run.nodes
    launched = _launched(world)
    if launched != world or rank >= world:
        raise ValueError(
            f"This is process {rank} of {max(launched, rank + 1)} launched ones, but --devices {run.devices} and "
            f"--nodes {run.nodes} make {world}. Give --devices (per node) and --nodes as they were launched."
        )
    if rank == 0:
        Folder(run.out).check(resume=run.resume, overwrite=run.overwrite)
    if run.cache_dir is not None:
        nearest_folder(Path(run.cache_dir), "--cache-dir")
    teacher = vars(run.method).get("teacher")
    for option, weights in (("init", run.init), ("teacher", teacher if run.teacher is None else None)):
        if not run.resume and isinstance(weights, str) and os.path.realpath(run.out) in encoders.places(weights):
            raise ValueError(
                f"--out {run.out} is the folder of --{option} {weights}, whose weights it would replace. Give another "
                "--out."
            )
    if run.nodes > 1 and not {"MASTER_ADDR", "WORLD_SIZE", "SLURM_NTASKS"} & os.environ.keys():
        raise ValueError(
            f"--nodes {run.nodes} must be started on every node, by torchrun --nnodes {run.nodes} ... or srun: no "
            "MASTER_ADDR names the first one."
        )


def launch(run: Run, callbacks: Sequence[Callback], report: Report) -> Launch:
    """Reads the folder, once this process has locked it."""
    folder, rank = Folder(run.out, report), launched_rank(run)
    if rank == 0:  # again: another process may have used it in between
        folder.check(resume=run.resume, overwrite=run.overwrite)
    replaces = rank == 0 and folder.run.is_file()
    if replaces:
        folder.wait(folder.metrics, *(() if run.resume else (folder.log,)))
    return Launch(
        folder, rank, run.devices * run.nodes, callbacks, replaces,
        before=read_yaml(folder.run) if run.resume else {},
        whole=read_whole_yaml(folder.run) if run.resume else {},
        begun=inputs.read(folder.inputs) if run.resume else {},
    )  # fmt: skip
