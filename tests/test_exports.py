"""Exported graphs: what a file holds, that faults are found when it is verified, fp16 and int8, who loads it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, numpy_helper
from support import exports, networks
from support.exports import (
    blocked,
    calibrated_on,
    changed,
    cnn,
    copy_of,
    loaded,
    metadata_of,
    pictures,
    sample_of,
    sizes_of,
    traced,
    vit,
    weights,
)
from torch import Tensor, nn

from lookalike import backbones
from lookalike.backbones import Backbone
from lookalike.exports import onnx_graph, torch_program
from lookalike.exports.consumers import ByOnnxruntime, ByTorchExport, Statement
from lookalike.exports.formats import FORMATS, check_options
from lookalike.exports.lower_precision import KEPT_IN_FP32, eight_bits, half
from lookalike.exports.network import Network
from lookalike.exports.onnx_graph import OPSET, check_batch
from lookalike.exports.preprocessing import Preprocessing
from lookalike.exports.verify import Sample, Verification, kept_neighbours, verify

NETWORKS: dict[str, Callable[[], Backbone]] = {"cnn": cnn, "vit": vit}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("pictures"), 40, [(24, 20), (64, 48), (40, 90)])


@pytest.fixture(scope="module")
def graphs(images: Path) -> dict[str, tuple[Network, ModelProto]]:
    """Each network and its graph in fp32; the CNN's statistics are those of the images."""
    return {name: traced(calibrated_on(make(), images)) for name, make in NETWORKS.items()}


@pytest.fixture(scope="module")
def with_preprocessing(graphs: dict[str, tuple[Network, ModelProto]]) -> tuple[Network, ModelProto]:
    network, model = graphs["cnn"]
    preprocessing = Preprocessing(32, network.encoder.mean, network.encoder.std).eval()
    return network, onnx_graph.with_preprocessing(copy_of(model), preprocessing, 3, OPSET)


def verified(model: ModelProto, network: Network, images: Path, path: Path, **changes: str) -> Verification:
    return verify(loaded(model, network, path, **changes), network, sample_of(images, network.encoder), "fp32")


# ---------------------------------------------------------------- the file


@pytest.mark.parametrize("name", NETWORKS)
def test_the_batch_is_free_and_the_file_states_its_input(
    name: str, graphs: dict[str, tuple[Network, ModelProto]], tmp_path: Path
) -> None:
    network, model = graphs[name]
    consumer = loaded(copy_of(model), network, tmp_path / "encoder.onnx")
    assert [*tmp_path.iterdir()] == [tmp_path / "encoder.onnx"]
    read = onnx.load(tmp_path / "encoder.onnx")
    onnx.checker.check_model(read, full_check=True)
    assert sizes_of(read) == {"images": ["batch", 3, 32, 32], "features": ["batch", network.encoder.dim]}
    assert [each.version for each in read.opset_import if each.domain == ""] == [OPSET]
    stated = {each.key: json.loads(each.value) for each in read.metadata_props}
    assert stated == {
        "lookalike": {}, "mean": pytest.approx(network.encoder.mean), "std": pytest.approx(network.encoder.std),
        "image_size": 32, "resize": 37, "interpolation": "bicubic, antialiased", "scaling": "pixels / 255",
        "with_preprocessing": False, "outputs": ["features"], "precision": "fp32",
    }  # fmt: skip
    for batch in (1, 3, 8):
        x = torch.randn(batch, 3, 32, 32)
        found = consumer.run(x.numpy())["features"]
        np.testing.assert_allclose(found, network(x)[0], rtol=1e-4, atol=1e-5)
        one_by_one = np.concatenate([consumer.run(each[None].numpy())["features"] for each in x])
        np.testing.assert_allclose(found, one_by_one, rtol=1e-4, atol=1e-5)


def test_a_large_model_has_its_weights_in_a_second_file(
    graphs: dict[str, tuple[Network, ModelProto]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, model = graphs["vit"]
    monkeypatch.setattr(onnx_graph, "LARGEST_FILE", 20_000)
    before = copy_of(model)
    files = onnx_graph.write(before, tmp_path / "encoder.onnx", metadata_of(network))
    assert files == [tmp_path / "encoder.onnx", tmp_path / "encoder.onnx.data"]
    assert {*files} == {*tmp_path.iterdir()}
    x = torch.randn(3, 3, 32, 32)
    found = ByOnnxruntime(files[0]).run(x.numpy())["features"]
    np.testing.assert_allclose(found, network(x)[0], rtol=1e-4, atol=1e-5)
    # the model in memory still has its weights: it is cast afterwards
    whole = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    assert {each.name for each in before.graph.initializer} == whole.keys()
    for each in before.graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(each), whole[each.name])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_sound_file_is_verified(
    name: str, graphs: dict[str, tuple[Network, ModelProto]], images: Path, tmp_path: Path
) -> None:
    network, model = graphs[name]
    found = verified(copy_of(model), network, images, tmp_path / "encoder.onnx")
    assert found.failures == []
    assert found.images == 40
    assert {case.batch: case.images for case in found.cases} == {1: 1, 3: 3, 8: 32, 4: 4}
    assert found.largest < 1e-5
    assert found.neighbours == 1
    assert found.program.startswith("onnxruntime ")


# ---------------------------------------------------------------- what must fail


@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_weight_tensor_scaled_by_one_percent_fails(
    name: str, where: str, graphs: dict[str, tuple[Network, ModelProto]], images: Path, tmp_path: Path
) -> None:
    network, model = graphs[name]
    there = weights(model)
    assert len(there) >= 9
    chosen = {"first": there[0], "middle": there[len(there) // 2], "last": there[-1]}[where]
    found = verified(changed(model, chosen, lambda w: w * 1.01), network, images, tmp_path / "encoder.onnx")
    (failure,) = found.failures
    assert failure.startswith("the features of an image deviate by ")
    assert re.search(r"of their length at batch size \d and 32 x 32 pixels \(limit 1e-05\)$", failure)
    assert found.largest > 1e-4


def test_every_weight_tensor_counts(
    graphs: dict[str, tuple[Network, ModelProto]], images: Path, tmp_path: Path
) -> None:
    """Biases, too: any of them scaled by 1 % is found."""
    network, model = graphs["cnn"]
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.dtype == np.float32 and value.any() and value.size > 1:
            scaled = changed(model, tensor.name, lambda w: w * 1.01)
            assert verified(scaled, network, images, tmp_path / "encoder.onnx").failures, tensor.name


def test_a_wrong_mean_fails(graphs: dict[str, tuple[Network, ModelProto]], images: Path, tmp_path: Path) -> None:
    network, model = graphs["cnn"]
    found = verified(copy_of(model), network, images, tmp_path / "encoder.onnx", mean="[0.485, 0.456, 0.407]")
    assert "the mean is stated as 0.485, 0.456, 0.407; the encoder's is 0.485, 0.456, 0.406" in found.failures
    assert found.largest > 1e-5


@pytest.mark.parametrize(
    ("changes", "failure"),
    [
        ({"std": "[0.229, 0.224, 0.226]"}, "the standard deviation is stated as 0.229, 0.224, 0.226; "),
        ({"image_size": "64"}, "the image size is stated as 64; the encoder's is 32"),
    ],
)
def test_wrong_metadata_fail(
    changes: dict[str, str],
    failure: str,
    graphs: dict[str, tuple[Network, ModelProto]],
    images: Path,
    tmp_path: Path,
) -> None:
    network, model = graphs["cnn"]
    found = verified(copy_of(model), network, images, tmp_path / "encoder.onnx", **changes)
    assert any(each.startswith(failure) for each in found.failures)


def test_swapped_channels_fail(graphs: dict[str, tuple[Network, ModelProto]], images: Path, tmp_path: Path) -> None:
    network, model = graphs["cnn"]
    swapped = changed(model, weights(model)[0], lambda w: w[:, ::-1])
    assert verified(swapped, network, images, tmp_path / "encoder.onnx").failures


def test_a_graph_with_preprocessing_lists_its_operators_once(
    with_preprocessing: tuple[Network, ModelProto],
) -> None:
    assert [(each.domain, each.version) for each in with_preprocessing[1].opset_import] == [("", OPSET)]


def test_with_preprocessing_a_sound_file_is_verified(
    with_preprocessing: tuple[Network, ModelProto], images: Path, tmp_path: Path
) -> None:
    network, model = with_preprocessing
    found = verified(copy_of(model), network, images, tmp_path / "encoder.onnx")
    assert found.failures == []


@pytest.mark.parametrize("swapped", ["images", "mean", "std"])
def test_swapped_channels_in_the_preprocessing_fail(
    swapped: str, with_preprocessing: tuple[Network, ModelProto], images: Path, tmp_path: Path
) -> None:
    network, model = with_preprocessing
    if swapped == "images":
        wrong = changed(model, "network/encoder.net.conv1.weight", lambda w: w[:, ::-1])
    else:
        wrong = changed(model, f"preprocessing/{swapped}", lambda v: v[::-1])
    assert verified(wrong, network, images, tmp_path / "encoder.onnx").failures


def test_images_of_16_bits_do_not_fit_the_preprocessing(
    with_preprocessing: tuple[Network, ModelProto], tmp_path: Path
) -> None:
    network, model = with_preprocessing
    consumer = loaded(copy_of(model), network, tmp_path / "encoder.onnx")
    deep = Sample([torch.zeros(3, 40, 40, dtype=torch.uint16)], "x")
    with pytest.raises(ValueError, match=r"takes uint8 images, but these are uint16\. Leave --with-preproc"):
        verify(consumer, network, deep, "fp32")


# ---------------------------------------------------------------- a batch that is not free


class Baked(nn.Module):
    """A module that makes the number of images a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        count = int(x.shape[0])
        return self.layer(x).mean((2, 3)).view(count, 4) * (2 if count == 2 else 1)


def test_a_module_that_makes_the_batch_a_constant_is_refused(tmp_path: Path) -> None:
    network = Network(backbones.create(Baked(), image_size=32))
    with pytest.raises(ValueError, match=r"Baked.* cannot be exported to ONNX: .*\. Try --format pt2, or another --op"):
        onnx_graph.trace(network, dynamic_size=False)
    with pytest.raises(ValueError, match=r"Baked.* cannot be exported by torch\.export: .*\. Try --format onnx\."):
        torch_program.write(network, None, tmp_path / "a.pt2", {}, dynamic_size=False)
    assert not [*tmp_path.iterdir()]


def frozen(model: ModelProto, what: str) -> ModelProto:
    copied = copy_of(model)
    for each in getattr(copied.graph, what):
        each.type.tensor_type.shape.dim[0].dim_value = 2
    return copied


@pytest.mark.parametrize("what", ["input", "output"])
def test_a_graph_with_a_frozen_batch_is_refused(what: str, graphs: dict[str, tuple[Network, ModelProto]]) -> None:
    model = frozen(graphs["cnn"][1], what)
    with pytest.raises(ValueError, match=r"The batch of \w+ is fixed to 2 in the graph: .*Change the operation"):
        check_batch(model)
    check_batch(graphs["cnn"][1])


def test_a_frozen_batch_fails_when_the_file_is_verified(
    graphs: dict[str, tuple[Network, ModelProto]], images: Path, tmp_path: Path
) -> None:
    network, model = graphs["cnn"]
    shape = next(node for node in reversed(model.graph.node) if node.op_type == "Reshape").input[1]
    for wrong in (frozen(model, "input"), changed(model, shape, lambda value: np.array([2, 16]))):
        with pytest.raises(
            ValueError, match=r"onnxruntime \S+ cannot run the export on 1 image of 32 x 32 pixels: \S.*"
        ):
            verified(wrong, network, images, tmp_path / "encoder.onnx")


# ---------------------------------------------------------------- a file that is cut


def test_a_truncated_file_is_refused(
    graphs: dict[str, tuple[Network, ModelProto]], tmp_path: Path, program: Path
) -> None:
    network, model = graphs["cnn"]
    path = tmp_path / "encoder.onnx"
    onnx_graph.write(copy_of(model), path, metadata_of(network))
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"onnxruntime cannot load .*encoder\.onnx: .*export the encoder again"):
            ByOnnxruntime(path)
    cut = tmp_path / "encoder.pt2"
    whole = program.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        cut.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"torch\.export cannot load .*encoder\.pt2: .*Export the encoder again\."):
            ByTorchExport(cut)


# ---------------------------------------------------------------- lower precision


def norms(model: ModelProto) -> dict[str, int]:
    """Element types of what norms and softmax take, by operator."""
    shaped = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    types = {each.name: each.type.tensor_type.elem_type for each in (*shaped.graph.value_info, *shaped.graph.input)}
    return {node.op_type: types[node.input[0]] for node in shaped.graph.node if node.op_type in KEPT_IN_FP32}


@pytest.mark.parametrize("name", NETWORKS)
def test_half_precision_keeps_norms_and_softmax_in_fp32(
    name: str, graphs: dict[str, tuple[Network, ModelProto]], images: Path, tmp_path: Path
) -> None:
    network, model = graphs[name]
    cast = half(copy_of(model))
    check_batch(cast)
    onnx.checker.check_model(cast, full_check=True)
    assert {each.type.tensor_type.elem_type for each in (*cast.graph.input, *cast.graph.output)} == {1}
    assert {*norms(cast).values()} == {onnx.TensorProto.FLOAT}
    assert {*norms(cast)} == ({"ReduceMean"} if name == "cnn" else {"LayerNormalization", "Softmax"})
    stored = {each.name: each.data_type for each in cast.graph.initializer}
    assert {stored[weight] for weight in weights(cast)} == {onnx.TensorProto.FLOAT16}
    found = verify(
        loaded(cast, network, tmp_path / "encoder.onnx"), network, sample_of(images, network.encoder), "fp16"
    )
    assert found.failures == []
    assert 1e-6 < found.largest < 0.01
    assert (tmp_path / "encoder.onnx").stat().st_size < 0.75 * len(model.SerializeToString())


@pytest.mark.parametrize("name", NETWORKS)
def test_int8_replaces_convolutions_and_products_per_channel(
    name: str, graphs: dict[str, tuple[Network, ModelProto]], images: Path, tmp_path: Path
) -> None:
    network, model = graphs[name]
    some = sample_of(images, network.encoder)
    crops = exports.crops_of(some, network.encoder)
    quantised = eight_bits(copy_of(model), [each.numpy() for each in crops.split(8)], tmp_path)
    assert not [*tmp_path.iterdir()]
    check_batch(quantised)
    onnx.checker.check_model(quantised, full_check=True)
    made_by = {output: node for node in quantised.graph.node for output in node.output}
    stored = {each.name: each for each in quantised.graph.initializer}
    products = [node for node in quantised.graph.node if node.op_type in exports.WEIGHTED]
    assert len(products) == len([node for node in model.graph.node if node.op_type in exports.WEIGHTED])
    per_channel = 0
    for node in products:
        for position in (0, 1):
            assert made_by[node.input[position]].op_type == "DequantizeLinear", node.name
        weight = stored.get(made_by[node.input[1]].input[0])
        if weight is not None:
            assert weight.data_type == onnx.TensorProto.INT8
            scales = stored[made_by[node.input[1]].input[1]]
            assert [*scales.dims] == [weight.dims[0 if node.op_type == "Conv" else 1]]
            per_channel += 1
    assert per_channel == len(weights(model))
    found = verify(loaded(quantised, network, tmp_path / "encoder.onnx"), network, some, "int8")
    assert found.failures == []
    assert found.neighbours is not None
    assert found.largest > 1e-3


def test_int8_by_the_wrong_ranges_fails(
    graphs: dict[str, tuple[Network, ModelProto]], images: Path, tmp_path: Path
) -> None:
    network, model = graphs["cnn"]
    ranges = [np.full((8, 3, 32, 32), 1e-3, np.float32)]
    quantised = eight_bits(copy_of(model), ranges, tmp_path)
    some = sample_of(images, network.encoder)
    found = verify(loaded(quantised, network, tmp_path / "encoder.onnx"), network, some, "int8")
    (failure,) = found.failures
    assert re.fullmatch(r"\d+\.\d% of the nearest neighbours stay the same \(limit \d+%\)", failure)


def test_int8_on_too_few_images_is_not_verified(
    graphs: dict[str, tuple[Network, ModelProto]], images: Path, tmp_path: Path
) -> None:
    """Its only limit is on neighbours, of which there must be some: a file of noise would pass otherwise."""
    network, model = graphs["cnn"]
    some = sample_of(images, network.encoder)
    few = Sample(some.images[:11], some.source)
    noise = changed(model, weights(model)[0], lambda w: np.random.default_rng(0).normal(size=w.shape).astype(w.dtype))
    for images_there in (few, Sample(some.images[:12], some.source)):
        found = verify(loaded(noise, network, tmp_path / "encoder.onnx"), network, images_there, "int8")
        (failure,) = found.failures
        assert re.fullmatch(r"nearest neighbours cannot be compared on 1[12] images \(at least 40\)", failure)
    enough = verify(loaded(noise, network, tmp_path / "encoder.onnx"), network, some, "int8")
    assert "of the nearest neighbours stay the same" in enough.failures[0]


# ---------------------------------------------------------------- neighbours


def test_kept_neighbours() -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 16)
    assert kept_neighbours(x, x) == 1
    assert kept_neighbours(x, 3 * x + 1e-7) == pytest.approx(1, abs=1e-3)
    assert kept_neighbours(x, torch.randn(200, 16)) == pytest.approx(10 / 199, abs=0.02)
    slightly = kept_neighbours(x, x + 0.1 * torch.randn(200, 16))
    assert slightly is not None
    assert 0.7 < slightly < 1
    assert kept_neighbours(x[:11], x[:11]) is None
    assert kept_neighbours(x, x.index_fill(0, torch.tensor([3]), float("nan"))) == 0
    duplicates = x[:20].repeat(10, 1)  # any of the nine others is as near as the next image's
    assert kept_neighbours(duplicates, duplicates[:, torch.randperm(16)]) == 1


# ---------------------------------------------------------------- torch.export


@pytest.fixture(scope="module")
def program(graphs: dict[str, tuple[Network, ModelProto]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    network, _ = graphs["cnn"]
    path = tmp_path_factory.mktemp("pt2") / "encoder.pt2"
    torch_program.write(network, None, path, metadata_of(network), dynamic_size=False)
    return path


def test_a_program_loads_without_lookalike_and_timm(
    program: Path, graphs: dict[str, tuple[Network, ModelProto]], tmp_path: Path
) -> None:
    x = torch.randn(3, 3, 32, 32)
    torch.save(x, tmp_path / "x.pt")
    blocked(
        """
import torch
model = torch.export.load(sys.argv[1]).module()
x = torch.load(sys.argv[2])
torch.save([model(x)[0], *(model(each[None])[0] for each in x)], sys.argv[3])
assert not [name for name in sys.modules if name.startswith(("lookalike.", "timm."))]
""",
        program, tmp_path / "x.pt", tmp_path / "y.pt", without=("lookalike", "timm", "torchvision", "lightning"),
    )  # fmt: skip
    together, *single = torch.load(tmp_path / "y.pt")
    with torch.inference_mode():
        wanted = graphs["cnn"][0](x)[0]
    torch.testing.assert_close(together, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.cat(single), wanted, rtol=1e-4, atol=1e-5)


def test_a_program_states_its_input_and_is_verified(
    program: Path, graphs: dict[str, tuple[Network, ModelProto]], images: Path
) -> None:
    network, _ = graphs["cnn"]
    consumer = ByTorchExport(program)
    encoder = network.encoder
    assert consumer.statement == Statement(encoder.mean, encoder.std, 32)
    assert verify(consumer, network, sample_of(images, encoder), "fp32").failures == []


def test_a_program_with_other_weights_fails(
    program: Path, graphs: dict[str, tuple[Network, ModelProto]], images: Path
) -> None:
    network, _ = graphs["cnn"]
    consumer = ByTorchExport(program)
    for name in ("network.encoder.net.conv1.weight", "encoder.net.conv1.weight"):
        if name in consumer.module.state_dict():
            consumer.module.state_dict()[name].mul_(1.01)
    (failure,) = verify(consumer, network, sample_of(images, network.encoder), "fp32").failures
    assert "deviate by" in failure


# ---------------------------------------------------------------- networks of other kinds


def registers() -> Backbone:
    module = networks.vit(dynamic_img_size=True, reg_tokens=3, no_embed_class=True)
    return exports.moved(backbones.create(module, image_size=32)).eval()


OTHERS: dict[str, Callable[[], Backbone]] = {
    "registers": registers,
    "torchvision": lambda: backbones.create("torchvision/resnet18", image_size=32).eval(),
    "small stem": lambda: backbones.create("resnet10t", image_size=32).eval(),
    "convnext": lambda: backbones.create("test_convnext", image_size=32).eval(),
    "efficientnet": lambda: backbones.create("test_efficientnet", image_size=64).eval(),
    "grey": lambda: cnn(channels=1),
}


ALL = [name if name == "registers" else pytest.param(name, marks=pytest.mark.slow) for name in OTHERS]


@pytest.mark.parametrize("name", ALL)
def test_other_networks_are_verified_in_all_precisions(name: str, images: Path, tmp_path: Path) -> None:
    encoder = calibrated_on(OTHERS[name](), images)
    network, model = traced(encoder, patch_tokens=name != "torchvision")
    some = sample_of(images, encoder)
    crops = exports.crops_of(some, encoder)
    for precision, made in (
        ("fp32", copy_of(model)), ("fp16", half(copy_of(model))),
        ("int8", eight_bits(copy_of(model), [each.numpy() for each in crops.split(8)], tmp_path)),
    ):  # fmt: skip
        found = verify(loaded(made, network, tmp_path / "encoder.onnx"), network, some, precision)
        assert found.failures == [], precision


# ---------------------------------------------------------------- options


@pytest.mark.parametrize("package", FORMATS["onnx"].needs)
def test_a_missing_package_names_the_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(name: str) -> object:
        return None if name == package else name

    monkeypatch.setattr("lookalike.exports.formats.find_spec", found)
    options = {"with_preprocessing": False, "patch_tokens": False, "dynamic_size": False}
    with pytest.raises(ModuleNotFoundError, match=rf"needs {package}: pip install 'lookalike\[onnx\]'"):
        check_options("onnx", "fp32", **options)
    check_options("pt2", "fp32", **options)
