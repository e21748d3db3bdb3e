"""How long the optimizer's steps are beside the encoder's weights: in healthy trainings, and with 100 times the rate.

    python benchmarks/update_ratio.py --work FOLDER [--cifar10 FILE --clothes FILE --record ROWS.jsonl]

Of the record of `defaults.py` it takes all trainings with 100 times the rate, and of those that ended above the
untrained encoder one of each method, network and setting: of 300 steps, and with AdamW of any length. Each is trained
for 45 steps on one thread, in the order of the record. A row has the median over the encoder's weight matrices of the
length of a step, as a fraction of theirs, after 10, 20, 30 and 45 steps.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import resumable
import torch
import unlike_sets
from defaults import FIELDS, RECORD, Job, settled
from lightning.pytorch import Callback
from resumable import Row, read
from settings_tried import shown

from lookalike import training

STEPS = 10, 20, 30, 45


class Over(Exception):
    """The last step that is measured was made."""


class Lengths(Callback):
    """The length of some steps."""

    def __init__(self) -> None:
        self.found: dict[int, float] = {}

    def on_train_batch_start(self, trainer: Any, module: Any, batch: object, index: int) -> None:
        self.parts = [p for p in module.method.backbone.parameters() if p.requires_grad and p.ndim > 1]
        self.before = [p.detach().clone() for p in self.parts] if module.done_steps + 1 in STEPS else []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: object, batch: object, index: int) -> None:
        if self.before:
            pairs = zip(self.before, (p.detach() for p in self.parts))
            lengths = [float((now - then).norm() / then.norm().clamp_min(1e-12)) for then, now in pairs]
            self.found[module.done_steps] = round(statistics.median(lengths), 5)
        if module.done_steps == STEPS[-1]:
            raise Over


def chosen(rows: list[Row]) -> Iterator[Row]:
    """The trainings that are measured."""
    yield from (row for row in rows if row["broken"] == "rate x100")
    for of_adam in (False, True):
        seen = set()
        for row in rows:
            healthy = not row["broken"] and row.get("after") and row["after"]["interval"][0] > row["before"]["knn"]
            key = row["method"], row["network"], row["setting"]
            wanted = row["optim"]["name"].startswith("adam") if of_adam else row["stage"] == 300
            if healthy and wanted and key not in seen:
                seen.add(key)
                yield row


def measured(row: Row, args: argparse.Namespace) -> Row:
    job = Job(**{name: row[name] for name in FIELDS}, grid="update ratio")
    make = unlike_sets.makers(args.cifar10, args.clothes)
    train, _ = unlike_sets.drawn(job.images, unlike_sets.kept(job.set, make[job.set], args.work / "sets"), job.seed)
    lengths, error = Lengths(), ""
    with resumable.temporary() as folder, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        run = settled(job, shown(train, job.broken, job.seed), str(folder / "run"))
        try:
            with suppress(Over):
                training.pretrain(run, callbacks=[lengths])
        except Exception as problem:
            error = f"{type(problem).__name__}: {problem}"[:200]
    named = {name: row[name] for name in ("method", "network", "set", "setting", "broken", "stage", "seed")}
    return {**named, "update_ratio": lengths.found, "error": error}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    resumable.add_options(parser, Path("runs/defaults"), RECORD.with_name("update_ratio.jsonl"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    done = {json.dumps([row.get(n) for n in ("method", "network", "set", "setting", "broken", "stage")])
            for row in read(args.record)}  # fmt: skip
    for row in chosen(read(RECORD)):
        if json.dumps([row[n] for n in ("method", "network", "set", "setting", "broken", "stage")]) in done:
            continue
        found = measured(row, args)
        with open(args.record, "a") as file:
            file.write(json.dumps(found) + "\n")
        print(found, flush=True)


if __name__ == "__main__":
    main()
