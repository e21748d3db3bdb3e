"""What exports compute by operations of their own equals PyTorch's: resizing, cropping, positions of a ViT."""

from pathlib import Path

import numpy as np
import onnx
import onnx.utils
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from support import networks
from support.exports import cnn, loaded, moved, pictures, sizes_of, traced, vit
from torch import nn

import lookalike
from lookalike import backbones
from lookalike.backbones.onnx_file import OnnxFile
from lookalike.backbones.vit import DINO_OFFSET, ViT
from lookalike.evaluation.features import crop
from lookalike.exports import onnx_graph
from lookalike.exports.consumers import ByOnnxruntime
from lookalike.exports.network import Network, ViTOfAnySize
from lookalike.exports.onnx_graph import OPSET
from lookalike.exports.preprocessing import Preprocessing
from lookalike.exports.resampling import antialiased, length, sharp

SHAPES = [
    (32, 32), (37, 37), (37, 90), (90, 37), (20, 24), (24, 20), (33, 32), (36, 38), (64, 48), (75, 100), (111, 64),
    (200, 150), (5, 7), (2, 2), (3, 40), (1, 1), (1, 5), (5, 1), (1, 64), (1, 65), (65, 1), (200, 1), (1, 300),
    (3, 400), (400, 3), (2, 129), (129, 2), (31, 2100), (2100, 31), (37, 2369), (180, 181),
]  # fmt: skip
"""Heights and widths: larger and smaller than the crop, of its size, and up to 300 times longer than wide."""


def noisy(height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    """Images of noise, of black and white only, and smooth ones, (3, H, W, C)."""
    rng = np.random.default_rng([seed, height, width])
    random = rng.integers(0, 256, (height, width, channels), np.uint8)
    ramp = np.linspace(0, 255, height * width * channels).reshape(height, width, channels).astype(np.uint8)
    return np.stack([random, 255 * (random > 127).astype(np.uint8), ramp])


def expected(images: np.ndarray, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    crops = torch.stack([crop(torch.from_numpy(image).permute(2, 0, 1), size) for image in images])
    shift, scale = (torch.tensor(v).view(-1, 1, 1) for v in (mean, std))
    return (crops.float() / 255 - shift) / scale


def statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return (0.485, 0.456, 0.406, 0.5)[:channels], (0.229, 0.224, 0.225, 0.25)[:channels]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [32, 17])
def test_the_preprocessing_equals_that_of_embed_to_the_last_bit(size: int, channels: int) -> None:
    mean, std = statistics(channels)
    module = Preprocessing(size, mean, std)
    for height, width in SHAPES:
        images = noisy(height, width, channels)
        found = module(torch.from_numpy(images))
        assert torch.equal(found, expected(images, size, mean, std)), (height, width)


def test_the_preprocessing_equals_that_of_embed_for_any_shape() -> None:
    rng = np.random.default_rng(3)
    for trial in range(150):
        size = int(rng.choice([8, 24, 32, 56]))
        height, width = (int(x) for x in np.exp(rng.uniform(0, np.log(5 * size), 2)).astype(int) + 1)
        images = noisy(height, width, 1, trial)
        module = Preprocessing(size, (0.5,), (0.25,))
        assert torch.equal(module(torch.from_numpy(images)), expected(images, size, (0.5,), (0.25,))), (height, width)


def test_in_large_photos_single_values_differ_by_one_level() -> None:
    images = noisy(700, 900, 1)
    levels = (Preprocessing(32, (0.0,), (1.0,))(torch.from_numpy(images)) * 255).round()
    differing = (levels - expected(images, 32, (0.0,), (1.0,)) * 255).abs()
    assert differing.max() <= 1.01
    assert (differing > 0.5).float().mean() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("size", [96, 224])
def test_the_preprocessing_equals_that_of_embed_at_usual_sizes(size: int) -> None:
    mean, std = statistics(3)
    module = Preprocessing(size, mean, std)
    for height, width in [(375, 500), (500, 375), (224, 224), (256, 256), (1024, 768), (32, 32), (20, 1400), (1, 1)]:
        images = noisy(height, width, 3)
        assert torch.equal(module(torch.from_numpy(images)), expected(images, size, mean, std)), (height, width)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> ByOnnxruntime:
    """The tiny CNN in a graph that takes decoded images."""
    encoder = cnn()
    network, model = traced(encoder)
    model = onnx_graph.with_preprocessing(model, Preprocessing(32, encoder.mean, encoder.std).eval(), 3, OPSET)
    return loaded(model, network, tmp_path_factory.mktemp("onnx") / "encoder.onnx")


def test_the_graph_equals_embed(whole: ByOnnxruntime) -> None:
    """By onnxruntime; the crops, which are within the graph, to the last bit."""
    encoder, model = cnn(), onnx.load(whole.file.path)
    assert sizes_of(model) == {"images": ["batch", "height", "width", 3], "features": ["batch", 16]}
    part = onnx.utils.Extractor(model).extract_model(["images"], ["normalised"])
    crops = OnnxFile(whole.file.path, part.SerializeToString())
    for height, width in SHAPES[::2]:
        images = noisy(height, width, 3)
        x = expected(images, 32, encoder.mean, encoder.std)
        assert np.array_equal(crops.run(images)["normalised"], x.numpy()), (height, width)
        with torch.inference_mode():
            np.testing.assert_allclose(whole.run(images)["features"], encoder(x), rtol=1e-4, atol=1e-5)


def test_jpeg_files_through_the_graph_equal_embed(whole: ByOnnxruntime, tmp_path: Path) -> None:
    folder = pictures(tmp_path, 12, [(24, 20), (150, 100), (40, 90), (32, 32), (37, 64), (300, 9)])
    found = lookalike.embed(cnn(), folder)
    for name, feature in zip(found.names, found.features):
        pixels = np.asarray(Image.open(folder / name).convert("RGB"))
        theirs = whole.run(pixels[None])["features"][0]
        assert np.linalg.norm(theirs - feature.numpy()) <= 1e-5 * feature.norm()


@pytest.mark.parametrize("old", [1, 2, 5, 14, 37])
@pytest.mark.parametrize("new", [1, 3, 7, 14, 40])
def test_interpolation_as_a_matrix_equals_that_of_torch(old: int, new: int) -> None:
    x = torch.randn(1, 2, old, 6, dtype=torch.float64)
    rows, columns = torch.arange(new, dtype=torch.float64)[:, None], torch.arange(old, dtype=torch.float64)
    weights = antialiased(rows, columns, length(old) / length(new), length(old))
    reference = F.interpolate(x, size=(new, 6), mode="bicubic", antialias=True)
    torch.testing.assert_close(weights @ x, reference, rtol=1e-12, atol=1e-12)
    weights = sharp(rows, columns, length(old) / length(new), length(old))
    torch.testing.assert_close(weights @ x, F.interpolate(x, size=(new, 6), mode="bicubic"), rtol=1e-12, atol=1e-12)
    weights = sharp(rows, columns, length(old) / (new + DINO_OFFSET), length(old))
    reference = F.interpolate(x, scale_factor=((new + DINO_OFFSET) / old, 1.0), mode="bicubic")
    torch.testing.assert_close(weights @ x, reference, rtol=1e-12, atol=1e-12)


def with_registers() -> nn.Module:
    options = {"dynamic_img_size": True, "reg_tokens": 3, "no_embed_class": True}
    return networks.vit(**options)


VITS = {
    "official": lambda: vit(),
    "timm": lambda: vit(interpolation="timm"),
    "with registers": lambda: moved(backbones.create(with_registers(), image_size=32)).eval(),
    "with registers, timm": lambda: moved(
        backbones.create(with_registers(), image_size=32, interpolation="timm")
    ).eval(),
    "without class token": lambda: moved(
        backbones.create(networks.vit(class_token=False, global_pool="avg"), image_size=32)
    ).eval(),
}


@pytest.mark.parametrize("kind", VITS)
def test_a_vit_of_any_size_equals_the_vit(kind: str) -> None:
    encoder = VITS[kind]()
    assert isinstance(encoder, ViT)
    network = Network(encoder, patch_tokens=True, dynamic_size=True)
    assert isinstance(network.encoder, ViTOfAnySize)
    for height, width in [(32, 32), (64, 48), (32, 40), (40, 32), (16, 24), (8, 8), (96, 32), (16, 64)]:
        x = torch.randn(2, 3, height, width)
        with torch.inference_mode():
            ours, theirs = network(x), encoder.tokens(x)
        for found, wanted in zip(ours, (theirs.cls, theirs.patches)):
            torch.testing.assert_close(found, wanted, rtol=2e-5, atol=2e-5)


@pytest.fixture(scope="module")
def of_any_size(tmp_path_factory: pytest.TempPathFactory) -> ByOnnxruntime:
    network, model = traced(vit(), patch_tokens=True, dynamic_size=True)
    return loaded(model, network, tmp_path_factory.mktemp("onnx") / "encoder.onnx")


def test_the_graph_of_a_vit_of_any_size_equals_the_vit(of_any_size: ByOnnxruntime) -> None:
    assert sizes_of(onnx.load(of_any_size.file.path))["images"] == ["batch", 3, "height", "width"]
    encoder = vit()
    for height, width in [(32, 32), (64, 48), (32, 40), (40, 32), (16, 24), (8, 8)]:
        x = torch.randn(3, 3, height, width)
        with torch.inference_mode():
            tokens = encoder.tokens(x)
        found = of_any_size.run(x.numpy())
        np.testing.assert_allclose(found["features"], tokens.cls, rtol=1e-4, atol=2e-5)
        np.testing.assert_allclose(found["patch_tokens"], tokens.patches, rtol=1e-4, atol=2e-5)
