"""Counts what steps move, in each of the processes that torchrun starts.

torchrun --nproc-per-node 2 tests/two_processes_moved.py DATA FOLDER
"""

import json
import os
import sys
from pathlib import Path

import torch
from support.methods import small
from support.moved import moved

from lookalike.methods import METHODS

if __name__ == "__main__":
    torch.set_num_threads(1)
    data, folder = map(Path, sys.argv[1:])
    found = {}
    for name in METHODS:
        found[name] = moved(name, data, folder / name, devices=2, accumulate=2)
        if small(name).needs.couples_batch:
            found[f"{name} joint"] = moved(name, data, folder / f"{name}-joint", devices=2, accumulate=2,
                                           joint_loss=True)  # fmt: skip
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(found))
