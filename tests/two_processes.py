"""Runs several commands, one after the other, in each of the processes that torchrun starts: imports cost seconds.

torchrun --nproc-per-node 2 tests/two_processes.py COMMANDS.json
"""

import json
import os
import sys
from pathlib import Path

import torch

from lookalike import cli

if __name__ == "__main__":
    torch.set_num_threads(1)
    for argv in json.loads(Path(sys.argv[1]).read_text()):
        if (code := cli.main(argv)) != 0:
            print(f"rank {os.environ['RANK']}: exit code {code} of {argv}", file=sys.stderr)
            sys.exit(code)
