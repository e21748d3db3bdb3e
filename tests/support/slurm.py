"""A Slurm of one machine, out of Debian's packages slurm-wlm and munge: its controller and its node run as root.

`make slurm` installs the packages; tests that need it skip without.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

SECONDS = 600
"""Within which all that is awaited here happens, on a busy machine."""

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue")
CONFIGURATION = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
KillWait=10
MaxArraySize=100
ReturnToService=2
NodeName=localhost NodeAddr=127.0.0.1 CPUs=4 RealMemory=1000 State=UNKNOWN
PartitionName=low Nodes=localhost Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=120
PartitionName=high Nodes=localhost MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


SLOWLY = """
import sys, time

if "lookalike" in sys.orig_argv:
    from lookalike.training import module

    end = module.Pretraining.optimizer_step

    def slowly(*arguments, **options):
        end(*arguments, **options)
        time.sleep(0.25)

    module.Pretraining.optimizer_step = slowly
"""
"""`sitecustomize.py` of trainings that do not end before a test has acted."""


def slow_steps(folder: Path) -> Path:
    """A setup file, after which trainings wait a quarter of a second after each step."""
    (folder / "slow").mkdir()
    (folder / "slow/sitecustomize.py").write_text(SLOWLY)
    file = folder / "setup.sh"
    file.write_text(f'export PYTHONPATH="{folder}/slow:$PYTHONPATH"\n')
    return file


def missing() -> str:
    """The reason why Slurm cannot run here; empty if it can."""
    if os.geteuid() != 0:
        return "Slurm's controller and node run as root here"
    if gone := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"{gone[0]} is not installed: run `make slurm`"
    return ""


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Slurm:
    """A running Slurm. Its partition `low` can be preempted by `high`, after two minutes of grace."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True)
        controller, node = _free_ports(2)
        text = CONFIGURATION.format(folder=self.folder, controller=controller, node=node)
        (self.folder / "slurm.conf").write_text(text)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log",
                 "seed-file": "munge.seed"}  # fmt: skip
        self._start("munged", "--foreground", "--force", *(f"--{k}={self.folder / v}" for k, v in files.items()))
        self._await(lambda: (self.folder / "munge.socket").exists())
        self._start("slurmctld", "-D", "-i")
        self._start("slurmd", "-D", "-N", "localhost")
        self._await(lambda: "idle" in self._output("sinfo", "--noheader", "--format=%T"))

    def _start(self, *command: str) -> None:
        with open(self.folder / f"{command[0]}.out", "wb") as file:
            self._started.append(
                subprocess.Popen(command, env=self.environment, stdout=file, stderr=file, start_new_session=True)
            )

    def stop(self) -> None:
        """Ends all jobs, and then what `start` started."""
        self._output("scancel", "--user=root")
        deadline = time.monotonic() + 30
        while self._output("squeue", "--noheader") and time.monotonic() < deadline:
            time.sleep(0.2)
        for process in reversed(self._started):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _output(self, *command: str) -> str:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True).stdout

    def run(self, *command: str, **more: str) -> str:
        """The output of a command of Slurm, which must succeed."""
        done = subprocess.run(command, env=self.environment | more, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def job(self, number: str) -> Mapping[str, str]:
        """What Slurm says of a job, such as `JobState` and `Restarts`."""
        text = self._output("scontrol", "--oneliner", "show", "job", number)
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def state(self, number: str) -> str:
        return self.job(number).get("JobState", "unknown")

    def started(self, number: str) -> int:
        """How often a job was started again."""
        return int(self.job(number).get("Restarts", "0"))

    def ends(self, number: str, state: str = "COMPLETED", seconds: float = SECONDS) -> None:
        """Waits until a job has ended, and checks how."""
        final = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"}
        self._await(lambda: self.state(number) in final, seconds)
        assert self.state(number) == state, self.report()

    def _await(self, happened: Callable[[], object], seconds: float = SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < deadline, self.report()
            time.sleep(0.2)

    def report(self) -> str:
        """The ends of all logs, for a test that fails."""
        files = [*self.folder.glob("*.log"), *self.folder.glob("*.out")]
        logs = [f"{file.name}: {file.read_text(errors='replace')[-2000:]}" for file in files]
        return "\n".join([self._output("scontrol", "show", "job"), *logs])


@contextmanager
def running(folder: Path) -> Iterator[Slurm]:
    """A Slurm that ends with the context."""
    slurm = Slurm(folder)
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()
