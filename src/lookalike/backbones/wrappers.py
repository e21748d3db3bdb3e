"""Networks of a library or a user, run by their own code, without the classifier."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..printing import counted, with_article
from .base import Backbone, Parts
from .image_sizes import WrongOutput

_MAPS = {
    "AlexNet": "features", "ConvNeXt": "features", "EfficientNet": "features", "GoogLeNet": "inception5b",
    "Inception3": "Mixed_7c", "MNASNet": "layers", "MobileNetV2": "features", "MobileNetV3": "features",
    "RegNet": "trunk_output", "ResNet": "layer4", "ShuffleNetV2": "conv5", "SqueezeNet": "features",
    "SwinTransformer": "permute", "VGG": "features",
}  # fmt: skip
"""torchvision's classes -> the module whose output is the last feature map (B, P, H, W)."""


class Timm(Backbone):
    """A network of timm other than a plain ViT, run by its own code."""

    def forward(self, x: Tensor) -> Tensor:
        return _pooled(self.net(x))

    def _recompute(self) -> bool:
        try:
            self.net.set_grad_checkpointing(True)  # type: ignore[operator]
        except (AttributeError, AssertionError):  # the errors of networks without support
            return False
        return True

    def _parts(self, x: Tensor, mask: Tensor | None) -> Parts:
        self._refuse(mask)
        net = self.net
        features = net.forward_features(x)  # type: ignore[operator]
        feature = _pooled(net.forward_head(features))  # type: ignore[operator]
        if not isinstance(features, Tensor):
            return feature, None, 0
        if features.ndim == 3:
            stages: list[dict[str, int]] = net.feature_info  # type: ignore[assignment]
            stride = stages[-1]["reduction"]
            first = features.shape[1] - math.ceil(x.shape[2] / stride) * math.ceil(x.shape[3] / stride)
            if first < 0:  # PiT returns only its class token
                return feature, None, 0
            classes = min(first, int(getattr(net, "cls_token", None) is not None))
            return feature, features[:, classes:], first - classes
        # (B, P, H, W), or (B, H, W, P) in Swin and similar networks
        patches = features.flatten(2).mT if features.shape[1] == net.num_features else features.flatten(1, 2)
        return feature, patches, 0


class Torchvision(Backbone):
    """A network of torchvision without its last layer."""

    def forward(self, x: Tensor) -> Tensor:
        feature: Tensor = self.net(x)
        return feature

    def _parts(self, x: Tensor, mask: Tensor | None) -> Parts:
        self._refuse(mask)
        path = _MAPS.get(type(self.net).__name__)
        if path is None:
            return self.net(x), None, 0
        maps: list[Tensor] = []
        hook = self.net.get_submodule(path).register_forward_hook(lambda module, args, y: maps.append(y))
        try:
            return self.net(x), maps[0].flatten(2).mT, 0
        finally:
            hook.remove()


def _described(value: object) -> str:
    """A short description of a module's result: its type, shape and parts."""
    if isinstance(value, Tensor):
        kind = "" if value.is_floating_point() else f" of {str(value.dtype).removeprefix('torch.')}"
        return f"a tensor {tuple(value.shape)}{kind}"
    kind = type(value).__name__
    name = with_article(kind)
    if isinstance(value, Mapping):
        return f"{name} of {', '.join(f'{key}: {_short(part)}' for key, part in [*value.items()][:5]) or 'nothing'}"
    if isinstance(value, list | tuple):
        return f"{name} of {counted(len(value), 'part')}: {', '.join(map(_short, value[:5])) or 'nothing'}"
    return "None" if value is None else name


def _short(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


class Own(Backbone):
    """A user's module that returns (B, D) or (B, D, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return _pooled(self.net(x))

    def _parts(self, x: Tensor, mask: Tensor | None) -> Parts:
        self._refuse(mask)
        y = self.net(x)
        is_feature = isinstance(y, Tensor) and y.ndim in (2, 4) and y.shape[0] == x.shape[0] and y.is_floating_point()
        if not is_feature or not y.numel():
            raise WrongOutput(
                f"{self.name} returns {_described(y)} for {counted(len(x), 'image')}; expected one float tensor, "
                f"({len(x)}, D), or ({len(x)}, D, H, W), which is averaged over H and W. Wrap it in a module that "
                "returns only the feature."
            )
        return _pooled(y), y.flatten(2).mT if y.ndim == 4 else None, 0

    def try_size(self, size: int) -> Parts:
        # a user's module may not support the meta device
        device = next((p.device for p in self.net.parameters()), torch.get_default_device())
        with _untouched(self):
            parts = self._parts(self._black(size, device), None)
        if parts[0].dtype != torch.float32:
            raise WrongOutput(
                f"{self.name} returns {str(parts[0].dtype).removeprefix('torch.')}; expected float32. Convert it to "
                "float32, and choose the training precision with --precision."
            )
        return parts

    def check_trainable(self) -> None:
        super().check_trainable()
        device = next(self.net.parameters()).device
        with _untouched(self), torch.enable_grad():
            feature = self._parts(self._black(self.image_size, device), None)[0]
        if not feature.requires_grad:
            raise ValueError(
                f"{self.name} returns features without gradients (detach, no_grad). Give a module that propagates "
                "gradients."
            )


def _pooled(y: Tensor) -> Tensor:
    return y.mean((2, 3)) if y.ndim == 4 else y


@contextmanager
def _untouched(module: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; restores modes and random generators afterwards."""
    modes = [(m, m.training) for m in module.modules()]
    devices = {p.device for p in module.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices), torch.no_grad():
        module.eval()
        try:
            yield
        finally:
            for m, training in modes:
                m.training = training
