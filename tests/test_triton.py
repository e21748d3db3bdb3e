"""Exports for Triton: a real server that loads them, its values, the client, and the files where there is no server."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest
import torch
import tritonclient.http as triton
from onnx import ModelProto
from PIL import Image
from support import exports, triton_server
from support.images import draw
from torch import nn

import lookalike
from lookalike import classifiers, cli, encoders
from lookalike.classifiers import Classifier
from lookalike.evaluation.features import crop, short_side
from lookalike.exports import onnx_graph
from lookalike.exports.formats import check_options
from lookalike.exports.triton import client as client_script
from lookalike.exports.triton import repository
from lookalike.runs import Folder

pytestmark = pytest.mark.long(31)

CLASSES = ['"quoted" \\n', "<b>a|b</b>", "Käfer & Co"]
NOT_ON_PATH = "tritonserver is not on PATH: no server has loaded the models, only onnxruntime the file."


@pytest.fixture(scope="module", autouse=True)
def _traced_once() -> Iterator[None]:
    """The same graphs are exported many times here: torch.onnx makes each once."""
    graphs: dict[tuple[object, ...], ModelProto] = {}
    export_graph = onnx_graph._exported

    def cached(module: nn.Module, *arguments: Any) -> ModelProto:
        key = (type(module), arguments[2], arguments[-1])
        if key not in graphs:
            graphs[key] = export_graph(module, *arguments)
        return exports.copy_of(graphs[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_graph, "_exported", cached)
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 photos of several sizes; the first one is stored lying on its side."""
    folder = exports.pictures(tmp_path_factory.mktemp("pictures"), 24, [(24, 20), (64, 48), (40, 90)])
    draw(folder / "000.jpg", 1, 5, (60, 40))
    lying = Image.open(folder / "000.jpg")
    lying.getexif()[0x0112] = 6
    lying.save(folder / "000.jpg", quality=92, exif=lying.getexif())
    return folder


@pytest.fixture(scope="module")
def tuned(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a classifier with class names that need escapes."""
    folder = Folder(tmp_path_factory.mktemp("runs") / "tuned")
    encoder = exports.calibrated_on(exports.cnn(), images)
    encoders.save(folder, encoder, method="finetune", epochs=3, dtype=torch.uint8)
    head = nn.Linear(encoder.dim, len(CLASSES))
    classifiers.save(folder, Classifier(encoder, head, CLASSES), encoders.read_card(folder))
    return folder.path


def export(run: Path, images: Path, *options: object) -> int:
    return cli.main(["export", str(run), "--format", "triton", "--check", str(images), *map(str, options)])


def record(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "export.json").read_text())
    return content


# ---------------------------------------------------------------- a real server


@pytest.fixture(scope="module")
def with_server() -> Iterator[None]:
    """A real tritonserver on PATH, which takes this Python's NumPy and onnxruntime."""
    folder, reason = triton_server.found()
    if folder is None:
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", triton_server.path_with(folder))
        yield


@pytest.fixture(scope="module")
def exported(with_server: None, tuned: Path, images: Path) -> Path:
    """An export that was verified by the server."""
    assert export(tuned, images) == 0
    return tuned / "export" / "triton"


@pytest.fixture(scope="module")
def client(exported: Path) -> Iterator[triton.InferenceServerClient]:
    """Of the server that the model card's command starts."""
    (command,) = re.findall(r"^tritonserver .*", (exported / "README.md").read_text(), re.MULTILINE)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    free = ["--http-port", str(port), "--allow-grpc", "false", "--allow-metrics", "false"]
    process = subprocess.Popen([*shlex.split(command), *free], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as found:
            for _ in range(600):
                assert process.poll() is None
                try:
                    if found.is_server_ready():
                        break
                except OSError:
                    time.sleep(0.1)
            found.address = f"127.0.0.1:{port}"
            yield found
    finally:
        process.terminate()
        process.wait(30)


def ask(client: triton.InferenceServerClient, pixels: np.ndarray) -> dict[str, np.ndarray]:
    given = triton.InferInput("images", pixels.shape, "UINT8")
    given.set_data_from_numpy(pixels)
    answer = client.infer("classifier_python", [given])
    return {name: answer.as_numpy(name) for name in ("probabilities", "features")}


def test_an_export_is_verified_by_the_real_server(exported: Path) -> None:
    found = record(exported)
    assert found["status"] == "verified"
    programs = [each["program"] for each in found["verifications"]]
    assert programs == [f"onnxruntime {onnxruntime.__version__}", "tritonserver 2.51.0 (classifier_python)"]
    assert {case["batch"] for case in found["verifications"][1]["cases"]} >= {1, 3, 8}
    # the wheel has no backend for ONNX files
    assert [note.split(": ")[0] for note in found["notes"]] == ["tritonserver 2.51.0 cannot load classifier"]


def test_its_values_are_those_of_onnxruntime_bit_for_bit(exported: Path, client: triton.InferenceServerClient) -> None:
    session = onnxruntime.InferenceSession(exported / "classifier" / "1" / "model.onnx")
    rng = np.random.default_rng(0)
    for shape in ((1, 24, 20), (3, 24, 20), (8, 50, 70)):
        pixels = rng.integers(0, 256, (*shape, 3), np.uint8)
        expected = session.run(["probabilities", "features"], {"images": pixels})
        for name, value in zip(("probabilities", "features"), expected):
            assert np.array_equal(ask(client, pixels)[name], value), (name, shape)


def test_requests_of_one_size_share_batches_and_keep_their_answers(client: triton.InferenceServerClient) -> None:
    rng = np.random.default_rng(1)
    pixels = [rng.integers(0, 256, (1, *((37, 37) if i < 40 else (20, 20 + i)), 3), np.uint8) for i in range(48)]
    expected = [ask(client, each)["features"] for each in pixels]
    before = client.get_inference_statistics("classifier_python")["model_stats"][0]

    def post(each: np.ndarray) -> np.ndarray:  # in a thread, which tritonclient does not support
        given = triton.InferInput("images", each.shape, "UINT8")
        given.set_data_from_numpy(each)
        body, length = triton.InferenceServerClient.generate_request_body([given])
        answer = httpx.post(
            f"http://{client.address}/v2/models/classifier_python/infer", content=body,
            headers={"Inference-Header-Content-Length": str(length)},
        )  # fmt: skip
        found = triton.InferenceServerClient.parse_response_body(
            answer.content, header_length=int(answer.headers["Inference-Header-Content-Length"])
        )
        values: np.ndarray = found.as_numpy("features")
        return values

    with ThreadPoolExecutor(16) as threads:
        for value, alone in zip(threads.map(post, pixels), expected):
            np.testing.assert_allclose(value, alone, rtol=1e-5, atol=1e-5)
    after = client.get_inference_statistics("classifier_python")["model_stats"][0]
    assert after["inference_count"] - before["inference_count"] == len(pixels)
    assert after["execution_count"] - before["execution_count"] < len(pixels)


@pytest.mark.parametrize(("options", "limit"), [([], 1e-5), (["--one-size"], 0.2)])  # see the pixels below
def test_the_client_gives_the_features_of_embed(
    options: list[str],
    limit: float,
    exported: Path,
    tuned: Path,
    images: Path,
    client: triton.InferenceServerClient,
    tmp_path: Path,
) -> None:
    files, out = sorted(map(str, images.glob("*.jpg"))), tmp_path / "answers.npz"
    done = subprocess.run(
        [sys.executable, exported / "client.py", *files, "--url", client.address, "--out", out, *options],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = np.load(out)
    embedded = lookalike.embed(tuned / "encoder.safetensors", images, workers=0)
    assert [Path(file).name for file in found["files"]] == [Path(name).name for name in embedded.names]
    expected = embedded.features.numpy()
    away = np.linalg.norm(found["features"] - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert away.max() < limit
    likeliest = CLASSES[found["probabilities"][0].argmax()]
    assert done.stdout.splitlines()[0].startswith(f"{files[0]}: {likeliest} {found['probabilities'][0].max():.1%}, ")


def test_it_names_classes_and_refuses_what_the_settings_exclude(client: triton.InferenceServerClient) -> None:
    pixels = np.zeros((1, 24, 20, 3), np.uint8)
    given = triton.InferInput("images", pixels.shape, "UINT8")
    given.set_data_from_numpy(pixels)
    wanted = triton.InferRequestedOutput("probabilities", class_count=1)
    (text,) = client.infer("classifier_python", [given], outputs=[wanted]).as_numpy("probabilities").ravel()
    index, name = text.decode().split(":", 2)[1:]
    assert name == CLASSES[int(index)]
    for wrong in (np.zeros((1, 24, 20, 4), np.uint8), np.zeros((65, 24, 20, 3), np.uint8)):
        with pytest.raises(triton.InferenceServerException, match=r"shape|batch"):
            ask(client, wrong)
    assert client.is_model_ready("classifier_python")


# ---------------------------------------------------------------- without a server


@pytest.fixture
def without_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def test_the_repository_is_complete_without_a_server_and_says_that_none_was_seen(
    without_server: None, tuned: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "repository"
    assert export(tuned, images, "--out", out) == 0
    lines = capsys.readouterr().out.splitlines()
    assert NOT_ON_PATH in lines
    assert lines[-1] == f"Next: {repository.command(out, 'classifier')}"
    found = record(out)
    assert found["notes"] == [NOT_ON_PATH]
    assert found["export"]["with_preprocessing"]
    assert found["command"] == (
        f"lookalike export {tuned} --format triton --check {images} --out {out}"
    )  # fmt: skip
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert files == {*found["files"], "README.md", "export.json"}
    assert {*found["files"]} == {
        "client.py", "classifier/1/model.onnx", "classifier/config.pbtxt", "classifier/labels.txt",
        "classifier_python/1/model.py", "classifier_python/config.pbtxt", "classifier_python/labels.txt",
    }  # fmt: skip
    card = (out / "README.md").read_text()
    assert NOT_ON_PATH in card
    assert f"-v {out}:/models:ro" in card
    for name, backend in (("classifier", "onnxruntime"), ("classifier_python", "python")):
        settings = (out / name / "config.pbtxt").read_text()
        for line in (f'name: "{name}"', f'backend: "{backend}"', "max_batch_size: 64", "dims: [-1, -1, 3]"):
            assert line in settings
        for block in ("dynamic_batching", "instance_group", "model_warmup"):
            assert f"\n{block} " in settings
        assert f'"probabilities" data_type: TYPE_FP32 dims: [{len(CLASSES)}]' in settings


def test_what_an_older_export_left_is_removed(without_server: None, tuned: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "repository"
    assert export(tuned, images, "--out", out) == 0
    assert export(tuned / "encoder.safetensors", images, "--out", out) == 1
    assert (out / "classifier" / "config.pbtxt").is_file()
    (out / "classifier" / "mine.txt").write_text("mine")
    assert export(tuned / "encoder.safetensors", images, "--out", out, "--overwrite", "--precision", "fp16") == 0
    assert {path.name for path in out.iterdir()} == {
        "README.md", "client.py", "classifier", "encoder", "encoder_python", "export.json",
    }  # fmt: skip
    assert [path.name for path in (out / "classifier").rglob("*")] == ["mine.txt"]


def test_a_file_that_differs_has_a_name_that_no_server_loads(
    without_server: None, tuned: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge = onnx_graph.with_preprocessing

    def damaged(model: ModelProto, *arguments: Any) -> ModelProto:
        return merge(exports.changed(model, exports.weights(model)[0], lambda value: 1.01 * value), *arguments)

    monkeypatch.setattr(onnx_graph, "with_preprocessing", damaged)
    out = tmp_path / "repository"
    assert export(tuned, images, "--out", out) == 1
    assert [path.name for path in (out / "classifier" / "1").iterdir()] == ["model.onnx.unverified"]
    assert record(out)["status"] == "failed"


def test_a_link_out_of_the_folder_is_not_followed(
    without_server: None, tuned: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, elsewhere = tmp_path / "repository", tmp_path / "elsewhere"
    (elsewhere / "1").mkdir(parents=True)
    (elsewhere / "1" / "model.onnx").write_text("mine")
    out.mkdir()
    (out / "classifier").symlink_to(elsewhere)
    (out / "export.json").write_text(json.dumps({"files": {"classifier/1/model.onnx": {}, "../mine": {}, "..": {}}}))
    (tmp_path / "mine").write_text("mine")
    assert export(tuned, images, "--out", out, "--overwrite") == 1
    assert f"{out / 'classifier' / '1'} is a link to another folder. Give another --out." in capsys.readouterr().err
    assert (elsewhere / "1" / "model.onnx").read_text() == (tmp_path / "mine").read_text() == "mine"
    assert export(tuned, images, "--out", tmp_path / "another") == 0


def test_a_server_that_does_not_start_is_reported(
    tuned: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = tmp_path / "bin" / "tritonserver"
    server.parent.mkdir()
    server.write_text("#!/bin/sh\necho 'starting'\necho 'error: creating server: no memory' >&2\nexit 3\n")
    server.chmod(0o755)
    monkeypatch.setenv("PATH", f"{server.parent}{os.pathsep}/usr/bin{os.pathsep}/bin")
    out = tmp_path / "repository"
    assert export(tuned, images, "--out", out) == 1
    assert "tritonserver exits with 3: error: creating server: no memory. Start it" in capsys.readouterr().err
    assert not out.exists()
    monkeypatch.setenv("PATH", "/usr/bin")
    assert export(tuned, images, "--out", out) == 0


@pytest.mark.parametrize("side", [(24, 20), (41, 90), (90, 42), (36, 37), (60, 61), (200, 37), (37, 37)])
def test_the_client_crops_to_one_size_as_the_graph_does(side: tuple[int, int], tmp_path: Path) -> None:
    draw(tmp_path / "photo.png", 1, 3, side)
    sent = client_script.read(str(tmp_path / "photo.png"), 3, (short_side(32), 32))
    assert sent.shape == (1, short_side(32), short_side(32), 3)
    photo = torch.from_numpy(np.asarray(Image.open(tmp_path / "photo.png")).copy()).permute(2, 0, 1)
    expected = crop(photo, 32).int()
    away = (crop(torch.from_numpy(sent[0].copy()).permute(2, 0, 1), 32).int() - expected).abs()
    assert away.max() <= 1  # Pillow and PyTorch round differently


def test_the_client_takes_the_only_model_that_is_ready() -> None:
    class Client:
        def get_model_repository_index(self) -> list[dict[str, str]]:
            return [{"name": "b", "state": "READY"}, {"name": "c", "state": "UNAVAILABLE"}, {"name": "d"}, *self.more]

        more: list[dict[str, str]] = []  # noqa: RUF012

    client = Client()
    assert client_script.ready(client) == "b"
    client.more = [{"name": "a", "state": "READY"}]
    with pytest.raises(SystemExit, match=r"The server has 2 models ready: b, a. Choose one with --model"):
        client_script.ready(client)


def test_sizes_are_free_already() -> None:
    with pytest.raises(ValueError, match=r"triton takes images of any size .* Leave --dynamic-size out"):
        check_options("triton", "fp32", with_preprocessing=False, patch_tokens=False, dynamic_size=True)


class Given:
    """A tensor of `triton_python_backend_utils`."""

    def __init__(self, name: str, value: np.ndarray) -> None:
        self.name, self.value = name, value

    def __dlpack__(self, **options: Any) -> object:
        return self.value.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.value.__dlpack_device__()

    @classmethod
    def from_dlpack(cls, name: str, value: np.ndarray) -> "Given":
        return cls(name, np.from_dlpack(value))


def test_the_model_for_python_gives_each_request_its_rows(
    without_server: None, tuned: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "repository"
    assert export(tuned, images, "--out", out) == 0
    utils = ModuleType("triton_python_backend_utils")
    utils.Tensor = Given  # type: ignore[attr-defined]
    utils.get_input_tensor_by_name = lambda request, name: request[name]  # type: ignore[attr-defined]
    utils.InferenceResponse = lambda tensors: {each.name: each.value for each in tensors}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, utils.__name__, utils)
    file = out / "classifier_python" / "1" / "model.py"
    spec = importlib.util.spec_from_file_location("exported_model", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (module.FILE, module.SUFFIX) == (repository.FILE, repository.SUFFIX)
    config = {"input": [{"name": "images"}], "output": [{"name": "probabilities"}, {"name": "features"}]}
    model = module.TritonPythonModel()
    model.initialize({
        "model_repository": str(out / "classifier_python"), "model_version": "1", "model_instance_kind": "CPU",
        "model_instance_device_id": "0", "model_config": json.dumps(config),
    })  # fmt: skip
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, 256, (count, 30, 40, 3), np.uint8) for count in (1, 3, 2)]
    answers = model.execute([{"images": Given("images", each)} for each in batches])
    session = onnxruntime.InferenceSession(out / "classifier" / "1" / "model.onnx")
    features, probabilities = session.run(["features", "probabilities"], {"images": np.concatenate(batches)})
    assert [len(each["features"]) for each in answers] == [1, 3, 2]
    assert np.array_equal(np.concatenate([each["features"] for each in answers]), features)
    assert np.array_equal(np.concatenate([each["probabilities"] for each in answers]), probabilities)
    shutil.copy(out / "classifier" / "1" / "model.onnx", file.with_name("model.onnx"))
    shutil.rmtree(out / "classifier")
    assert module.find(out / "classifier_python", "1") == file.with_name("model.onnx")
