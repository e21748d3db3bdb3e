"""A `View` by other libraries: what it is measured beside."""

import torch
from torch import nn
from torchvision.transforms import v2

from lookalike.backbones import IMAGENET_MEAN as MEAN
from lookalike.backbones import IMAGENET_STD as STD
from lookalike.views import View


def torchvisions(view: View) -> tuple[list[v2.Transform], list[v2.Transform]]:
    """torchvision's steps for one image, a tensor or Pillow's, and those that make numbers of its pixels."""
    jitter = v2.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue)
    steps = [
        v2.RandomResizedCrop(view.size, scale=view.scale, ratio=view.ratio, antialias=True),
        v2.RandomHorizontalFlip(view.hflip), v2.RandomApply([jitter], p=view.jitter),
        v2.RandomGrayscale(view.grayscale), v2.RandomApply([v2.GaussianBlur(view.kernel, view.sigma)], p=view.blur),
    ]  # fmt: skip
    if view.solarize:
        steps.append(v2.RandomSolarize(255 * view.threshold, p=view.solarize))
    return steps, [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]


def kornias(view: View) -> nn.Module:
    """kornia's steps for a batch of floats in [0, 1].

    Raises:
        ImportError: kornia is not installed.
    """
    import kornia.augmentation as K

    solarize = [K.RandomSolarize((view.threshold, view.threshold), 0.0, p=view.solarize)] if view.solarize else []
    steps: nn.Module = K.AugmentationSequential(
        K.RandomResizedCrop((view.size, view.size), scale=view.scale, ratio=view.ratio),
        K.RandomHorizontalFlip(p=view.hflip),
        K.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue, p=view.jitter),
        K.RandomGrayscale(p=view.grayscale),
        K.RandomGaussianBlur((view.kernel, view.kernel), view.sigma, p=view.blur), *solarize,
        K.Normalize(torch.tensor(MEAN), torch.tensor(STD)), data_keys=["input"],
    )  # fmt: skip
    return steps
