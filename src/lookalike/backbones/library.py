"""Networks of timm and torchvision: names, networks without classifiers, and settings of their published weights."""

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
    """Image size in pixels of the weights published under a name.

    For DINOv2's ViTs, the 224 pixels of their official evaluation instead of the 518 of their last training steps.

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
    """The interpolation of the position embedding for published weights; unused by networks without one."""
    return "official" if "dino" in name or name.startswith("torchvision/") else "timm"


def without_numbers(known: str) -> nn.Module:
    """The named network without its classifier, on the meta device."""
    with torch.device("meta"):
        if known.startswith("torchvision/"):
            return torchvision_net(known, 3, False, 0.0)
        return timm_net(known, 3, None, False, 0)


def tensor_names(name: str) -> list[str]:
    """Names of the tensors of the named network, without its classifier.

    Raises:
        ValueError: an unknown name.
    """
    return [*without_numbers(full_name(name)).state_dict()]


def names() -> list[str]:
    """All names that `create` accepts: timm's, and `torchvision/...` for networks missing in timm."""
    import timm
    import torchvision

    own: list[str] = timm.list_models()
    others: list[str] = torchvision.models.list_models(module=torchvision.models)
    return own + [f"torchvision/{name}" for name in others if not timm.is_model(name)]


def full_name(name: object) -> str:
    """The name without `timm/`. Raises ValueError if there is no such network."""
    import timm
    import torchvision

    if not isinstance(name, str):
        found = f"the class {name.__name__}" if isinstance(name, type) else with_article(type(name).__name__)
        raise ValueError(f"The backbone is {found}; expected a name, or an instance of torch.nn.Module.")
    library, _, short = name.rpartition("/")
    if library == "torchvision" and short in torchvision.models.list_models(module=torchvision.models):
        return name
    if library in ("", "timm") and timm.is_model(short):
        architecture, _, tag = short.partition(".")
        tags = [known for known in timm.list_pretrained(f"{architecture}.*") if known.split(".")[0] == architecture]
        if not tag or short in tags:
            return short
        raise ValueError(f"{architecture} has no weights {shown(tag)}. Available: {', '.join(tags) or 'none'}.")
    raise no_backbone(name, names())


def timm_net(name: str, channels: int, image_size: int | None, weights: bool, drop_path: float) -> nn.Module:
    """A network of timm without its classifier; image size None means timm's default."""
    import timm

    published = timm.get_pretrained_cfg(name)
    fixed = published is not None and published.fixed_input_size
    if weights and (published is None or not published.has_weights):
        raise FileNotFoundError(
            f"timm publishes no weights for {name}. timm.list_pretrained() lists all names with weights."
        )
    try:
        # timm ignores options that are None; not all networks accept them
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
        raise ValueError(
            f"{name} does not support drop path. Leave it at 0, or choose a ViT, ConvNeXt or ResNet."
        ) from error
    without_chance(net, skips=not drop_path)  # some have default rates: drop path in Swin, dropout in RexNet's head
    return net


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Silences huggingface_hub, and limits it to its cache if the machine is offline: it would retry for a minute."""
    from huggingface_hub import constants

    log, before = logging.getLogger("huggingface_hub"), constants.HF_HUB_OFFLINE
    level = log.level
    if not urllib.request.getproxies():  # a proxy may resolve names that this machine cannot
        try:
            socket.getaddrinfo(urllib.parse.urlsplit(constants.ENDPOINT).hostname, 443)
        except OSError:
            constants.HF_HUB_OFFLINE = True
    log.setLevel(logging.ERROR)
    try:
        with redirect_stdout(sys.stderr):  # torch hub, the source of some of timm's weights, prints to stdout
            yield
    finally:
        constants.HF_HUB_OFFLINE = before
        log.setLevel(level)


@functools.cache
def timm_patch_size(name: str, channels: int, drop_path: float) -> int | None:
    """Side of the patches of a plain ViT of timm in pixels; None for its other networks."""
    with torch.device("meta"):
        return patch_size_of(timm_net(name, channels, None, False, drop_path))


def _set_drop_path(net: nn.Module, name: str, drop_path: float) -> None:
    """Scales the stochastic depth of a torchvision network so that the largest probability is `drop_path`."""
    from torchvision.ops import StochasticDepth

    skips = [part for part in net.modules() if isinstance(part, StochasticDepth)]
    highest = max((part.p for part in skips), default=0.0)
    if drop_path and not highest:
        raise ValueError(
            f"{name} does not support drop path. Leave it at 0, or choose a ConvNeXt, Swin, EfficientNet or MaxViT "
            "from torchvision, or a ViT, ConvNeXt or ResNet from timm."
        )
    without_chance(net, skips=not drop_path)
    for part in skips:
        part.p *= drop_path / highest if highest else 0.0


def torchvision_net(name: str, channels: int, weights: bool, drop_path: float) -> nn.Module:
    """A network of torchvision without the last layer of its classifier and that layer's dropout."""
    import torchvision
    from timm.models import adapt_input_conv

    short = name.removeprefix("torchvision/")
    options: dict[str, bool] = {}
    if short in ("googlenet", "inception_v3"):
        # init_weights is stated to avoid a warning; with weights, torchvision itself uses False. transform_input would
        # convert ImageNet's normalisation to their own, (x - 0.5) / 0.5, which `statistics_of` returns instead.
        options = {"init_weights": not weights, "transform_input": False}
    try:
        with redirect_stdout(sys.stderr):  # messages belong with torch's progress bar, not among results
            net: nn.Module = torchvision.models.get_model(short, weights="DEFAULT" if weights else None, **options)
    except OSError as error:
        url = torchvision.models.get_model_weights(short).DEFAULT.url
        raise _not_fetched(name, url, f"{torch.hub.get_dir()}/checkpoints") from error
    if isinstance(net, torchvision.models.GoogLeNet | torchvision.models.Inception3):
        net.aux_logits = net.transform_input = False  # torchvision ignores the option when it loads weights
        net.aux1 = net.aux2 = net.AuxLogits = None
    linear = [path for path, module in net.named_modules() if isinstance(module, nn.Linear)]
    convolutions = [path for path, module in net.named_modules() if isinstance(module, nn.Conv2d)]
    net.set_submodule((linear or convolutions)[-1], nn.Identity())  # SqueezeNet's classifier is a convolution
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
        f"The weights of {name} could not be downloaded from {source}. Check the network, or run the same command on a "
        f"machine with network access and copy its {cache} here. Or download a weights file manually and give it "
        f"instead of the name: as ENCODER with --encoder-backbone {name}, as --teacher with --teacher-backbone {name}, "
        f"as --init with --backbone {name}."
    )


def statistics_of(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation used to train the published weights."""
    if name.startswith("torchvision/"):
        import torchvision

        if name in ("torchvision/googlenet", "torchvision/inception_v3"):  # equivalent to their transform_input
            return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
        transform = torchvision.models.get_model_weights(name.removeprefix("torchvision/")).DEFAULT.transforms()
        return tuple(transform.mean), tuple(transform.std)
    import timm

    published = timm.get_pretrained_cfg(name)
    if published is None:  # a network registered by the user, without weights in timm
        return IMAGENET_MEAN, IMAGENET_STD
    return tuple(published.mean), tuple(published.std)


def per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values if len(values) == channels else (sum(values) / len(values),) * channels
