"""Trains a method in plain PyTorch, to show that it needs no trainer: `python examples/bare_loop.py photos/`."""

import dataclasses
import sys

import torch

from lookalike import backbones, optimizers
from lookalike.core import Batch, DataFacts, Progress
from lookalike.data import Images, Loader, open_source
from lookalike.methods import SimCLR
from lookalike.views import make_views, resized


def main(
    folder: str, backbone: str = "resnet18", image_size: int = 32, epochs: int = 5, batch_size: int = 128
) -> float:
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    source = open_source(folder)
    loader = Loader(source, batch_size, seed=0, decode_size=2 * image_size)
    facts = DataFacts(len(source), image_size, batch_size, epochs)
    cfg = SimCLR.Config().fit_to(facts)
    short = dataclasses.replace(cfg.optim, warmup_epochs=min(cfg.optim.warmup_epochs, epochs / 10))
    cfg = dataclasses.replace(cfg, views=resized(cfg.views, image_size), optim=short)
    encoder = backbones.create(backbone, image_size=image_size)
    method = SimCLR(cfg, encoder).to(device).train()
    cfg.check(facts)
    rates = optimizers.build(method, cfg.optim, batch_size, fused=True)
    steps = epochs * loader.steps_per_epoch

    def batch_of(images: Images, at: Progress) -> Batch:
        images = images.to(device)
        with torch.no_grad():
            views = make_views(images, cfg.views, images.keys, mean=encoder.mean, std=encoder.std)
        return Batch(views, images.index, at)

    method.before_training()  # teachers copy the student
    with torch.no_grad():  # memory banks look at all images; this method does not
        method.initialize_bank(batch_of(each, Progress(0, steps, steps // epochs)) for each in loader.survey())
    step = 0
    for epoch in range(epochs):
        for images in loader:
            at = Progress(step, steps, loader.steps_per_epoch)
            outputs = method(batch_of(images, at))
            rates.optimizer.zero_grad()
            outputs["loss"].backward()
            method.before_step(at)
            optimizers.clip(method, cfg.optim)
            rates.apply(at)
            rates.optimizer.step()
            method.after_step(at, [{name: value.detach() for name, value in outputs.items()}])
            step += 1
        print(f"epoch {epoch + 1}  loss {outputs['loss'].item():.4f}")
    torch.save(method.encoder.state_dict(), "encoder.pt")
    return outputs["loss"].item()


if __name__ == "__main__":
    main(sys.argv[1])
