"""lightly's entrant in `race.py`: the plain loop of its examples."""

import race_task
import torch
from lightly.data import LightlyDataset
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from lightly.utils.scheduler import CosineWarmupScheduler
from race_task import GRAYSCALE, HFLIP, JITTER, JITTERED, MEAN, SCALE, STD
from torch.utils.data import DataLoader


def main() -> None:
    task = race_task.read()
    options = task.options
    brightness, contrast, saturation, hue = JITTER
    transform = SimCLRTransform(
        input_size=task.image_size, cj_prob=JITTERED, cj_strength=1.0, cj_bright=brightness, cj_contrast=contrast,
        cj_sat=saturation, cj_hue=hue, min_scale=SCALE[0], random_gray_scale=GRAYSCALE, gaussian_blur=0.0,
        hf_prob=HFLIP, normalize={"mean": list(MEAN), "std": list(STD)},
    )  # fmt: skip
    loader = DataLoader(
        LightlyDataset(task.images, transform=transform), task.batch_size, shuffle=True, drop_last=True,
        num_workers=options["workers"], persistent_workers=options["workers"] > 0,
    )  # fmt: skip
    network = race_task.network_of(task)
    head = SimCLRProjectionHead(network.num_features, task.hidden_dim, task.out_dim)
    criterion = NTXentLoss(temperature=task.temperature)
    optimizer = torch.optim.SGD(
        race_task.decayed([*network.parameters(), *head.parameters()], task), lr=task.lr, momentum=task.momentum,
        fused=options["fused"],
    )  # fmt: skip
    scheduler = CosineWarmupScheduler(
        optimizer, warmup_epochs=round(task.warmup_epochs * task.steps_per_epoch), max_epochs=task.steps
    )
    race_task.Clock(task, network)
    network.train()
    head.train()
    while True:  # the clock ends it
        for (x0, x1), _, _ in loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=options["precision"] == "bf16"):
                z0, z1 = head(network(torch.cat([x0, x1]))).chunk(2)
            loss = criterion(z0.float(), z1.float())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()


if __name__ == "__main__":
    main()
