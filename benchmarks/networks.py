"""The small networks that the benchmarks train: fast enough for two CPU cores, and with all that a ResNet has."""

from torch import nn


def narrow_resnet() -> nn.Module:
    """Four basic blocks, half as wide as ResNet-18, and a 3x3 stem: 0.08 GMAC for 32 pixels (ResNet-18: 0.56)."""
    return _blocks((32, 64, 128, 256), stride=1)


def strided_resnet() -> nn.Module:
    """The narrow ResNet behind a 3x3 stem of stride 2: a quarter of its work."""
    return _blocks((32, 64, 128, 256), stride=2)


def small_resnet() -> nn.Module:
    """Four basic blocks of 16 to 128 channels; behind a 3x3 stem of stride 2, 32 pixels still make 2x2 at the end."""
    return _blocks((16, 32, 64, 128), stride=2)


def maps(net: nn.Module) -> nn.Module:
    """The same network with its last feature map as output, which `lookalike` pools itself and takes for patches."""
    net.reset_classifier(0, "")  # type: ignore[operator]
    return net


def vit_patch4() -> nn.Module:
    """A vision transformer for 32 pixels: 64 patches, 3 blocks of 2 heads, 64 wide."""
    return _vit(32, 4, 64, 2)


def vit_patch8() -> nn.Module:
    """A vision transformer for 64 pixels: 64 patches, 3 blocks of 3 heads, 96 wide."""
    return _vit(64, 8, 96, 3)


def vit_of_width(dim: int) -> nn.Module:
    """A vision transformer for 64 pixels: 64 patches, 3 blocks of heads of 32."""
    return _vit(64, 8, dim, dim // 32)


def convolutions(channels: int, groups: int, kernel: int = 3, stride: int = 1) -> nn.Module:
    """Four convolutions with BatchNorm and ReLU, the last three with groups and strides."""
    layers: list[nn.Module] = []
    for n, width in enumerate([3, channels, channels, channels]):
        own, step = (groups, stride) if n else (1, 1)
        conv = nn.Conv2d(width, channels, kernel, step, kernel // 2, groups=own, bias=False)
        layers += [conv, nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers)


def vit_wide() -> nn.Module:
    """A vision transformer for 32 pixels: 16 patches, 3 blocks of 3 heads, as wide as ViT-Tiny (192)."""
    return _vit(32, 8, 192, 3)


def named(name: str) -> str | nn.Module:
    """A network of this module by its function's name; the name itself of all others, such as timm's.

    `convolutions64_groups2_5_2`: 64 channels, 2 groups, kernels of 5 x 5, a stride of 2; `vit96`: 96 dimensions.
    """
    if name.startswith("convolutions"):
        channels, _, rest = name.removeprefix("convolutions").partition("_groups")
        return convolutions(int(channels), *map(int, (rest or "1").split("_")))
    if name.removeprefix("vit").isdigit():
        return vit_of_width(int(name.removeprefix("vit")))
    own = {f.__name__: f for f in (narrow_resnet, strided_resnet, small_resnet, vit_patch4, vit_patch8, vit_wide)}
    return own[name]() if name in own else name


def _vit(size: int, patch: int, dim: int, heads: int) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=size, patch_size=patch, embed_dim=dim, depth=3, num_heads=heads, num_classes=0, drop_path_rate=0.0
    )


def _blocks(channels: tuple[int, int, int, int], stride: int) -> nn.Module:
    from timm.models.resnet import BasicBlock, ResNet

    net = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=0, channels=channels)
    net.conv1 = nn.Conv2d(3, 64, 3, stride=stride, padding=1, bias=False)
    net.maxpool = nn.Identity()
    return net
