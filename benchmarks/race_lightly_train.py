"""lightly-train's entrant in `race.py`: its `pretrain`, without loggers and checkpoints."""

import lightly_train
import race_task
from race_task import GRAYSCALE, HFLIP, JITTER, JITTERED, MEAN, SCALE, STD

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}


def main() -> None:
    task = race_task.read()
    options = task.options
    brightness, contrast, saturation, hue = JITTER
    network = race_task.network_of(task)
    race_task.Clock(task, network)
    lightly_train.pretrain(
        out=f"{task.out}/run", data=task.images, model=network, method="simclr", epochs=task.epochs,
        batch_size=task.batch_size, num_workers=options["workers"], accelerator="cpu", devices=1, seed=task.seed,
        precision=PRECISIONS[options["precision"]], float32_matmul_precision="highest", optim="sgd",
        # it multiplies the rate by batch / 256, and warms up for a tenth of the epochs
        optim_args={"lr": task.lr * 256 / task.batch_size, "momentum": task.momentum,
                    "weight_decay": task.weight_decay},
        method_args={"hidden_dim": task.hidden_dim, "output_dim": task.out_dim, "temperature": task.temperature},
        transform_args={
            "image_size": (task.image_size, task.image_size),
            "random_resize": {"min_scale": SCALE[0], "max_scale": SCALE[1]},
            "random_flip": {"horizontal_prob": HFLIP, "vertical_prob": 0.0},
            "color_jitter": {"prob": JITTERED, "strength": 1.0, "brightness": brightness, "contrast": contrast,
                             "saturation": saturation, "hue": hue},
            "random_gray_scale": GRAYSCALE, "gaussian_blur": None, "normalize": {"mean": MEAN, "std": STD},
        },
        loggers={"jsonl": None, "tensorboard": None},
        callbacks={"model_checkpoint": None, "device_stats_monitor": None, "early_stopping": None,
                   "learning_rate_monitor": None},
    )  # fmt: skip


if __name__ == "__main__":
    main()
