"""Our entrant in `race.py`."""

import dataclasses

import race_task
from race_task import GRAYSCALE, HFLIP, JITTER, JITTERED, SCALE

import lookalike
from lookalike.methods import SimCLR
from lookalike.optim import Optim
from lookalike.runs import Run
from lookalike.schedules import Schedule
from lookalike.views import SIMCLR_VIEW


def main() -> None:
    task = race_task.read()
    options = task.options
    brightness, contrast, saturation, hue = JITTER
    view = dataclasses.replace(
        SIMCLR_VIEW, size=task.image_size, scale=SCALE, hflip=HFLIP, jitter=JITTERED, brightness=brightness,
        contrast=contrast, saturation=saturation, hue=hue, grayscale=GRAYSCALE, blur=0.0, kernel=3,
    )  # fmt: skip
    optim = Optim(
        "sgd", lr=task.lr, scaling="none", momentum=task.momentum, weight_decay=Schedule(task.weight_decay),
        warmup_epochs=task.warmup_epochs,
    )  # fmt: skip
    method = SimCLR.Config(
        hidden_dim=task.hidden_dim, out_dim=task.out_dim, temperature=task.temperature, views=(view,), optim=optim
    )
    network = race_task.network_of(task)
    race_task.Clock(task, network)
    lookalike.pretrain(
        Run(
            data=task.images, method=method, backbone=network, image_size=task.image_size, batch_size=task.batch_size,
            epochs=task.epochs, seed=task.seed, fit=False, workers=options["workers"], precision=options["precision"],
            cache=options["cache"], save_every=task.epochs, out=f"{task.out}/run", overwrite=True,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
