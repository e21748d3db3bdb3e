"""What timm and torchvision have: names, networks without classifiers, and what their published weights are for."""

import functools
import logging
import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout

import torch
from torch import nn

from ..modes import without_chance
from ..places import no_backbone
from ..printing import shown, with_article
from .base import IMAGENET_MEAN, IMAGENET_STD, Interpolation
from .vit import patch_size_of


def published_size(name: str) -> int:
    """Pixels of the images that a library's published weights of this name are for.

    DINOv2's ViTs come at the 224 pixels of their official evaluation, not at the 518 of their last training steps.

    Raises:
        ValueError: an unknown name.
    """
    known = full_name(name)
    if known.startswith("torchvision/"):
        import torchvision

        weights = torchvision.models.get_model_weights(known.removeprefix("torchvision/")).DEFAULT
        return int(weights.transforms().crop_size[0])
    import timm

    cfg = timm.get_pretrained_cfg(known)
    return 224 if cfg is None or "dinov2" in known else int(cfg.input_size[-1])


def interpolation_of(name: str) -> Interpolation:
    """Whose rule the position embedding of published weights is resized by; networks without one do not ask."""
    return "official" if "dino" in name or name.startswith("torchvision/") else "timm"


def without_numbers(known: str) -> nn.Module:
    """The network of a name, without its classifier, that has shapes and no numbers."""
    with torch.device("meta"):
        if known.startswith("torchvision/"):
            return torchvision_net(known, 3, False, 0.0)
        return timm_net(known, 3, None, False, 0)


def tensor_names(name: str) -> list[str]:
    """What the tensors of the network of a name are called, without its classifier.

    Raises:
        ValueError: an unknown name.
    """
    return [*without_numbers(full_name(name)).state_dict()]


def names() -> list[str]:
    """All names that `create` takes: timm's, and `torchvision/...` for the names that timm lacks."""
    import timm
    import torchvision

    own: list[str] = timm.list_models()
    others: list[str] = torchvision.models.list_models(module=torchvision.models)
    return own + [f"torchvision/{name}" for name in others if not timm.is_model(name)]


def full_name(name: object) -> str:
    """The name without `timm/`, if there is such a network."""
    import timm
    import torchvision

    if not isinstance(name, str):
        what = f"the class {name.__name__}" if isinstance(name, type) else with_article(type(name).__name__)
        raise ValueError(f"The backbone is {what}; expected a name, or an instance of torch.nn.Module.")
    library, _, short = name.rpartition("/")
    if library == "torchvision" and short in torchvision.models.list_models(module=torchvision.models):
        return name
    if library in ("", "timm") and timm.is_model(short):
        architecture, _, tag = short.partition(".")
        tags = [known for known in timm.list_pretrained(f"{architecture}.*") if known.split(".")[0] == architecture]
        if not tag or short in tags:
            return short
        raise ValueError(f"{architecture} has no weights {shown(tag)}. There are: {', '.join(tags) or 'none'}.")
    raise no_backbone(name, names())


def timm_net(name: str, channels: int, image_size: int | None, weights: bool, drop_path: float) -> nn.Module:
    """A network of timm's without classifier; image size None is the one that timm states for it."""
    import timm

    published = timm.get_pretrained_cfg(name)
    fixed = published is not None and published.fixed_input_size
    if weights and (published is None or not published.has_weights):
        raise FileNotFoundError(
            f"timm publishes no weights for {name}. timm.list_pretrained() names those that have some."
        )
    try:
        # timm drops the options that are None, which not all networks take.
        with _quiet_hub() if weights else nullcontext():
            net: nn.Module = timm.create_model(
                name, pretrained=weights, in_chans=channels, num_classes=0, img_size=image_size if fixed else None,
                drop_path_rate=drop_path or None,
            )  # fmt: skip
    except OSError as error:
        from huggingface_hub import constants

        source = f"https://huggingface.co/{published.hf_hub_id}" if published else name
        raise _not_fetched(name, source, constants.HF_HUB_CACHE) from error
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        raise ValueError(f"{name} takes no drop path. Leave it at 0, or choose a ViT, ConvNeXt or ResNet.") from error
    without_chance(net, skips=not drop_path)  # some have rates of their own: Swin skips blocks, RexNet's head drops
    return net


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Without a network, lets Hugging Face's library look into its cache alone: it would try for a minute, aloud."""
    from huggingface_hub import constants

    log, before = logging.getLogger("huggingface_hub"), constants.HF_HUB_OFFLINE
    level = log.level
    if not urllib.request.getproxies():  # which know names that this machine does not
        try:
            socket.getaddrinfo(urllib.parse.urlsplit(constants.ENDPOINT).hostname, 443)
        except OSError:
            constants.HF_HUB_OFFLINE = True
    log.setLevel(logging.ERROR)
    try:
        with redirect_stdout(sys.stderr):  # some of timm's weights come by torch's hub, which says so
            yield
    finally:
        constants.HF_HUB_OFFLINE = before
        log.setLevel(level)


@functools.cache
def timm_patch_size(name: str, channels: int, drop_path: float) -> int | None:
    """Pixels of a side of the patches of one of timm's plain ViTs, None for its other networks."""
    with torch.device("meta"):
        return patch_size_of(timm_net(name, channels, None, False, drop_path))


def _set_drop_path(net: nn.Module, name: str, drop_path: float) -> None:
    """Scales the probabilities with which torchvision's network skips blocks, so that the largest is `drop_path`."""
    from torchvision.ops import StochasticDepth

    skips = [part for part in net.modules() if isinstance(part, StochasticDepth)]
    most = max((part.p for part in skips), default=0.0)
    if drop_path and not most:
        raise ValueError(
            f"{name} takes no drop path. Leave it at 0, or choose a ConvNeXt, Swin, EfficientNet or MaxViT of "
            "torchvision's, or a ViT, ConvNeXt or ResNet of timm's."
        )
    without_chance(net, skips=not drop_path)
    for part in skips:
        part.p *= drop_path / most if most else 0.0


def torchvision_net(name: str, channels: int, weights: bool, drop_path: float) -> nn.Module:
    """A network of torchvision's without the last layer of its classifier, and without that one's dropout."""
    import torchvision
    from timm.models import adapt_input_conv

    short = name.removeprefix("torchvision/")
    options: dict[str, bool] = {}
    if short in ("googlenet", "inception_v3"):
        # They warn unless init_weights is stated; False is what torchvision itself takes with weights. With weights
        # they would turn ImageNet's normalisation into their own, (x - 0.5) / 0.5, which `statistics_of` gives instead.
        options = {"init_weights": not weights, "transform_input": False}
    try:
        with redirect_stdout(sys.stderr):  # where torch's bar is, and not among the lines of results
            net: nn.Module = torchvision.models.get_model(short, weights="DEFAULT" if weights else None, **options)
    except OSError as error:
        url = torchvision.models.get_model_weights(short).DEFAULT.url
        raise _not_fetched(name, url, f"{torch.hub.get_dir()}/checkpoints") from error
    if isinstance(net, torchvision.models.GoogLeNet | torchvision.models.Inception3):
        net.aux_logits = net.transform_input = False  # torchvision overrides the option where there are weights
        net.aux1 = net.aux2 = net.AuxLogits = None
    linear = [path for path, module in net.named_modules() if isinstance(module, nn.Linear)]
    convolutions = [path for path, module in net.named_modules() if isinstance(module, nn.Conv2d)]
    net.set_submodule((linear or convolutions)[-1], nn.Identity())  # SqueezeNet classifies by a convolution
    _set_drop_path(net, name, drop_path)
    if channels != 3:
        first = net.get_submodule(convolutions[0])
        assert isinstance(first, nn.Conv2d)
        first.in_channels = channels
        if weights:
            first.weight = nn.Parameter(adapt_input_conv(channels, first.weight.detach()))
        else:
            first.weight = nn.Parameter(first.weight.new_empty(first.out_channels, channels, *first.kernel_size))
            first.reset_parameters()
    return net


def _not_fetched(name: str, source: str, cache: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"The weights of {name} could not be fetched from {source}. Check the network, or do the same on a machine "
        f"that has one and copy its {cache} here. Or fetch a file of weights by hand, and give it in place of the "
        f"name: as ENCODER with --encoder-backbone {name}, as --teacher with --teacher-backbone {name}, as --init with "
        f"--backbone {name}."
    )


def statistics_of(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation with which the published weights were trained."""
    if name.startswith("torchvision/"):
        import torchvision

        if name in ("torchvision/googlenet", "torchvision/inception_v3"):  # what their transform_input does
            return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
        transform = torchvision.models.get_model_weights(name.removeprefix("torchvision/")).DEFAULT.transforms()
        return tuple(transform.mean), tuple(transform.std)
    import timm

    published = timm.get_pretrained_cfg(name)
    if published is None:  # somebody's own network, which timm has no weights of
        return IMAGENET_MEAN, IMAGENET_STD
    return tuple(published.mean), tuple(published.std)


def per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values if len(values) == channels else (sum(values) / len(values),) * channels
