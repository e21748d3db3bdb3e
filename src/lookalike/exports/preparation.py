"""How an export's input is prepared, as metadata, as text and as code."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ..backbones.onnx_file import FEATURES, IMAGES, PATCHES, PROBABILITIES
from ..evaluation.features import short_side
from ..image_options import Pixels
from ..printing import counted
from .formats import Format
from .network import Network


def check_scale(pixels: Pixels, format: Format, *, with_preprocessing: bool) -> None:
    """Refuses formats and options that have no place for the scale of an encoder's images.

    Raises:
        ValueError: the format would divide by 255 instead.
    """
    if pixels.scale.kind == "dtype":
        return
    option = f"--scale {pixels.scale}" if len(pixels.scale.limits) == 1 else "a --scale per band"
    if format == "timm":
        raise ValueError(
            f"The encoder was trained with {option}, which the settings of timm cannot state. Export to onnx or pt2, "
            "whose metadata state it."
        )
    if with_preprocessing:
        what = format if format == "triton" else "--with-preprocessing"
        raise ValueError(
            f"The encoder was trained with {option}, but {what} takes images of 8 bits and divides them by 255. Export "
            "to onnx without preprocessing, whose metadata and README.md state how values are scaled."
        )


@dataclass(frozen=True)
class Tensors:
    """The name, shape and dtype of an input or output; free dimensions have names."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str


def tensors(network: Network, *, preprocesses: bool, dynamic_size: bool) -> tuple[Tensors, list[Tensors]]:
    """The input and the outputs of an export."""
    encoder = network.encoder
    size: int | str = encoder.image_size
    if preprocesses:
        given = Tensors(IMAGES, ("batch", "height", "width", encoder.channels), "uint8")
    else:
        sides = ("height", "width") if dynamic_size else (size, size)
        given = Tensors(IMAGES, ("batch", encoder.channels, *sides), "float32")
    classes = network.head.out_features if isinstance(network.head, nn.Linear) else 0
    patches: int | str = "patches" if dynamic_size else encoder.patches_at(encoder.image_size)
    shapes: dict[str, tuple[int | str, ...]] = {
        PROBABILITIES: ("batch", classes), FEATURES: ("batch", encoder.dim),
        PATCHES: ("batch", patches, encoder.patch_dim),
    }  # fmt: skip
    return given, [Tensors(name, shapes[name], "float32") for name in network.outputs]


def metadata(
    network: Network, card: str, classes: Sequence[str] | None, precision: str, *, preprocesses: bool
) -> dict[str, str]:
    """The metadata of a file: each value in JSON, so that any program can read it."""
    encoder = network.encoder
    values: dict[str, object] = {
        "mean": list(encoder.mean), "std": list(encoder.std), "image_size": encoder.image_size,
        "resize": short_side(encoder.image_size), "interpolation": "bicubic, antialiased",
        "scaling": scaling(encoder.pixels),
        "with_preprocessing": preprocesses, "outputs": list(network.outputs), "precision": precision,
    }  # fmt: skip
    if classes is not None:
        values["classes"] = list(classes)
    return {"lookalike": card} | {name: json.dumps(value) for name, value in values.items()}


def scaling(pixels: Pixels) -> str:
    """How values of a file become numbers from 0 to 1, in the metadata."""
    if pixels.scale.kind == "dtype":
        return "pixels / 255"
    low, high = ([pair[end] for pair in pixels.scale.limits] for end in (0, 1))
    return f"clip((pixels - {_list(low)}) / ({_list(high)} - {_list(low)}), 0, 1)"


def _list(values: Sequence[float]) -> str:
    """One number, or one per channel in brackets."""
    return f"{values[0]:.9g}" if len(values) == 1 else "[" + ", ".join(f"{value:.9g}" for value in values) + "]"


def as_text(network: Network, *, preprocesses: bool) -> str:
    """The preparation of an image in one paragraph."""
    encoder = network.encoder
    size = encoder.image_size
    first, divided = "", ", divide by 255"
    if encoder.pixels.scale.kind != "dtype":
        first, divided = f"scale the values of the file by {scaling(encoder.pixels)}, ", ""
    if encoder.pixels.bands is not None:
        first = f"take the bands {', '.join(encoder.pixels.bands)} in this order, {first}"
    steps = (
        f"{first}resize the shorter side to {short_side(size)} pixels (bicubic, antialiased), crop the centre of "
        f"{size} x {size} pixels{divided}, subtract the mean {_numbers(encoder.mean)} and divide by the standard "
        f"deviation {_numbers(encoder.std)}"
    )
    if preprocesses:
        return (
            "The graph takes images as they were decoded: uint8, of any size, all of one size in a batch. It does the "
            f"rest: {steps}."
        )
    return f"For each image: {steps}."


def as_code(network: Network, *, preprocesses: bool) -> str:
    """Python code that prepares the image `photo.jpg` as the array `images`."""
    encoder = network.encoder
    size, mode = encoder.image_size, "L" if encoder.channels == 1 else "RGB"
    opened = f'image = Image.open("photo.jpg").convert("{mode}")'
    if not encoder.pixels.is_plain:
        return _code_of_values(network)
    if encoder.channels not in (1, 3):
        opened = f"image = ...  # {counted(encoder.channels, 'channel')}, (H, W, {encoder.channels}) uint8"
    if preprocesses:
        axis = "[..., None]" if mode == "L" else ""
        return f"import numpy as np\nfrom PIL import Image\n\n{opened}\nimages = np.asarray(image){axis}[None]\n"
    normalised = f"v2.Normalize({list(encoder.mean)}, {list(encoder.std)})"
    return (
        "import numpy as np\nimport torch\nfrom PIL import Image\nfrom torchvision.transforms import v2\n\n"
        f"prepare = v2.Compose([\n    v2.PILToTensor(),\n    v2.Resize({short_side(size)}, "
        f"interpolation=v2.InterpolationMode.BICUBIC, antialias=True),\n    v2.CenterCrop({size}),\n"
        f"    v2.ToDtype(torch.float32, scale=True),\n    {normalised},\n])\n"
        f"{opened}\nimages = prepare(image)[None].numpy()\n"
    )


def _code_of_values(network: Network) -> str:
    """`as_code` for an encoder that chooses bands or scales values."""
    encoder = network.encoder
    size, limits = encoder.image_size, encoder.pixels.scale.limits or ((0.0, 255.0),)
    low, high = (_list([pair[end] for pair in limits]) for end in (0, 1))
    bands = "" if encoder.pixels.bands is None else f", the bands {' '.join(encoder.pixels.bands)} in this order"
    return (
        "import torch\nfrom torchvision.transforms import v2\n\n"
        f"prepare = v2.Compose([\n    v2.Resize({short_side(size)}, interpolation=v2.InterpolationMode.BICUBIC, "
        f"antialias=True),\n    v2.CenterCrop({size}),\n"
        f"    v2.Normalize({list(encoder.mean)}, {list(encoder.std)}),\n])\n"
        f"low, high = (torch.tensor(x, dtype=torch.float32).view(-1, 1, 1) for x in ({low}, {high}))\n"
        f"values = ...  # a float32 tensor ({encoder.channels}, H, W) of the values in the file{bands}\n"
        "images = prepare(((values - low) / (high - low)).clamp(0, 1))[None].numpy()\n"
    )


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"
