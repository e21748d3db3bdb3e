"""The command `slurm`, whose arguments after -- are the command of a training."""

from collections.abc import Sequence

from ..commands.slurm import TRAININGS, output_folder
from ..commands.slurm import slurm as submit
from ..printing import say, shown
from . import comparison
from .command import Command, Option
from .errors import UsageError
from .parsing import with_new_names
from .run_parsing import parse_run

USAGE = "lookalike slurm [options] -- pretrain METHOD DATA --out FOLDER [options of pretrain]"
SLURM = Command(
    function=submit,
    metavars={"command": "-- COMMAND"},
    extra={"check": Option(bool, True, "Whether to check paths and options of the command before it is submitted.")},
)


def slurm(argv: list[str]) -> None:
    at = argv.index("--") if "--" in argv else len(argv)
    own, command = argv[:at], with_new_names(argv[at + 1 :])
    if not {"--help", "-h"} & {*own} and not command:
        raise UsageError(f"The command of the training is missing: {USAGE}")
    options = SLURM.read([*own, *command[:1]])
    if options.command != tuple(command[:1]):
        raise UsageError(f"Found {shown(options.command[0])} before the --; expected {USAGE}")
    options.command = tuple(command)
    try:
        output_folder(command)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if options.check and not options.dry_run:
        _check(command, options.nodes, options.tasks_per_node or max(1, options.gpus_per_node))
    SLURM.call(options, trainings=_trainings, say=say)


def _trainings(command: Sequence[str]) -> list[str]:
    """The names of the trainings of a comparison that an array can run."""
    first, _ = comparison.read([*command[1:]])
    names = first.training_names
    comparison.read([*command[1:], "--training", names[0]])  # refuses what needs one process for all
    return names


def _check(command: list[str], nodes: int, devices: int) -> None:
    """Parses the command as the job will, which checks its paths and options."""
    verb, *arguments = command
    if verb in TRAININGS:
        method = [] if verb == "pretrain" else [verb]
        parse_run(verb, [*method, *arguments, "--nodes", str(nodes), "--devices", str(devices)])
    else:
        comparison.read(arguments)
