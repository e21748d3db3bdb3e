"""Views of all operations, images for them, and a slow way: one image at a time, by torchvision."""

import math

import torch
from torchvision.transforms.v2 import functional as tv

from lookalike.images import Images, pack, promote, starts
from lookalike.random import keys_of, uniform
from lookalike.views import View, boxes

EVERYTHING = View(
    size=20, count=2, scale=(0.2, 1.0), ratio=(0.5, 2.0), hflip=0.5, vflip=0.5, rot90=0.5, jitter=0.8, brightness=0.4,
    contrast=0.4, saturation=0.2, hue=0.1, grayscale=0.2, blur=0.5, kernel=5, solarize=0.3, erase=0.3,
)  # fmt: skip


def u(n: int, *names: int | str) -> torch.Tensor:
    """Uniform numbers that are the same in every run of the tests."""
    return uniform(keys_of(torch.arange(n), *names), "test")


def photos(b: int, c: int = 3, h: int = 24, w: int = 30) -> torch.Tensor:
    """Images in [0, 1] with flat, saturated, grey, black and white areas beside noise."""
    x = u(b * c * h * w).view(b, c, h, w).clone()
    x[:, :, :4] = 0
    x[:, :, 4:8] = 1
    x[:, :, 8:10] = x[:, :1, 8:10]
    x[:, 0, 10:12] = 1
    x[:, -1, 12:14] = 0
    return x


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def slow_box(u, name, height, width, scale, ratio, fits):
    for a, r in zip(u[f"{name}area"].tolist(), u[f"{name}aspect"].tolist(), strict=True):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * a)
        aspect = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * r)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if fits(h, w):
            y, x = u[f"{name}corner"].tolist()
            return int(y * (height - h + 1)), int(x * (width - w + 1)), h, w
    return None


def slow_view(image, view, u):
    u = {name: x[0] for name, x in u.items()}
    _, height, width = image.shape
    box = slow_box(u, "", height, width, view.scale, view.ratio, lambda h, w: 0 < h <= height and 0 < w <= width)
    assert box, "choose images that some try fits"
    x = tv.resized_crop(image, *box, [view.size, view.size], antialias=True)
    x = tv.horizontal_flip(x) if u["hflip"] < view.hflip else x
    x = tv.vertical_flip(x) if u["vflip"] < view.vflip else x
    x = torch.rot90(x, 1 + int(3 * u["quarters"]), (1, 2)) if u["rot90"] < view.rot90 else x
    if u["jitter"] < view.jitter:
        for number in u["order"].argsort().tolist():
            name = ("brightness", "contrast", "saturation", "hue")[number]
            strength, draw = getattr(view, name), u[name].item()
            if name == "hue":
                x = tv.adjust_hue(x, -strength + 2 * strength * draw)
            else:
                low = max(0.0, 1 - strength)
                x = getattr(tv, f"adjust_{name}")(x, low + (1 + strength - low) * draw)
    x = tv.rgb_to_grayscale(x, num_output_channels=3) if u["grayscale"] < view.grayscale else x
    if u["blur"] < view.blur:
        sigma = view.sigma[0] + (view.sigma[1] - view.sigma[0]) * u["sigma"].item()
        x = tv.gaussian_blur(x, [view.kernel, view.kernel], [sigma, sigma])
    x = tv.solarize(x, view.threshold) if u["solarize"] < view.solarize else x
    if u["erase"] < view.erase:
        s, ratio = view.size, (1 / boxes.ERASE_RATIO[0], 1 / boxes.ERASE_RATIO[1])
        box = slow_box(u, "erase_", s, s, boxes.ERASE_SCALE, ratio, lambda h, w: h < s and w < s)
        x = tv.erase(x, *box, v=torch.zeros(1))
    return x


SIZES = [(24, 30), (30, 24), (17, 17), (30, 30), (25, 12), (20, 28)]


def flat_and_padded(sizes, channels=3, dtype=torch.uint8):
    """The same images of different sizes, one after the other and in one tensor."""
    wide = [max(n) for n in zip(*sizes, strict=True)]
    padded = (photos(len(sizes), channels, *wide) * 255).round().to(torch.uint8)
    padded = promote(padded, dtype)
    images = [image[:, :h, :w].contiguous() for image, (h, w) in zip(padded, sizes, strict=True)]
    numbers, keys = torch.tensor(sizes), keys_of(torch.arange(len(sizes)))
    return Images(pack(images), starts(channels, numbers), numbers, channels, torch.arange(len(sizes)), keys), padded
