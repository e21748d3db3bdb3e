"""A server on this machine: its answers are those of `embed` and `predict`, and it follows its own document."""

import base64
import json
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import numpy as np
import pytest
import schemathesis
import torch
import tritonclient.http
from PIL import Image
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from support.images import draw
from support.serving import CLASSES, Held, bomb, files, saved_classifier, served, tensors

import lookalike
from lookalike import classifiers, encoders
from lookalike.commands.export import export
from lookalike.runs import Folder
from lookalike.serving.kserve import LENGTH
from lookalike.serving.model import Model, load
from lookalike.serving.settings import check_settings

TOKEN = "0123456789abcdef-token"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images/ with colour, transparent and 16-bit files, and the folder of a classifier with its export."""
    root = tmp_path_factory.mktemp("serving")
    for i, size in enumerate([(96, 80), (40, 64), (33, 33), (200, 50)]):
        draw(root / "images" / f"{i}.jpg", i % 4, i, size)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 50, 4), np.uint8)).save(root / "images" / "4.png")
    Image.fromarray(rng.integers(0, 65_536, (40, 50), np.uint16)).save(root / "images" / "5.png")
    saved_classifier(root / "classifier")
    export(root / "classifier", check=root / "images")
    return root


@pytest.fixture(scope="module")
def images(folder: Path) -> list[Path]:
    return sorted((folder / "images").iterdir())


@pytest.fixture(scope="module", params=["torch", "onnx"])
def encoder(request: pytest.FixtureRequest, folder: Path) -> Path:
    """A classifier, by torch and by onnxruntime."""
    return folder / "classifier" / ("" if request.param == "torch" else "export/onnx/classifier.onnx")


@pytest.fixture(scope="module")
def model(encoder: Path) -> Model:
    torch.set_num_threads(1)
    return load(encoder)


@pytest.fixture(scope="module")
def url(model: Model) -> Iterator[str]:
    with served(model=model, max_pixels=1_000_000, max_upload_mb=1, max_batch=8) as found:
        yield found


@pytest.fixture(scope="module")
def of_torch(folder: Path) -> Model:
    return load(folder / "classifier")


def test_embeddings_are_those_of_embed(url: str, encoder: Path, images: list[Path]) -> None:
    expected = lookalike.embed(encoder, images, keep=False).features.numpy()
    answer = httpx.post(f"{url}/embed", files=files(*images)).raise_for_status().json()
    np.testing.assert_allclose(answer["embeddings"], expected, rtol=1e-4, atol=1e-5)
    texts = [base64.b64encode(path.read_bytes()).decode() for path in images]
    assert httpx.post(f"{url}/embed", json={"images": texts}).json()["embeddings"] == answer["embeddings"]
    told = answer["model"]
    assert (told["name"], told["dim"], told["image_size"]) == ("classifier", 64, 32)
    assert len(told["sha256"]) == 64


def test_predictions_are_those_of_predict(url: str, encoder: Path, images: list[Path]) -> None:
    expected = lookalike.predict(encoder, images)
    labels, probabilities = expected.likeliest(5)
    rows = httpx.post(f"{url}/predict", files=files(*images)).raise_for_status().json()["predictions"]
    assert [[each["label"] for each in row] for row in rows] == labels
    np.testing.assert_allclose([[each["probability"] for each in row] for row in rows], probabilities, atol=1e-5)
    assert {each["label"] for row in rows for each in row} == set(CLASSES)


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client_gets_the_same(url: str, model: Model, encoder: Path, images: list[Path], binary: bool) -> None:
    expected = lookalike.embed(encoder, images, keep=False).features.numpy()
    client = tritonclient.http.InferenceServerClient(url.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("classifier")
    assert not client.is_model_ready("another")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    stated = client.get_model_metadata("classifier", "1")
    assert stated["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, 3, 32, 32]}]
    batch = tensors(model.description, *images)
    given = tritonclient.http.InferInput("images", [*batch.shape], "FP32")
    given.set_data_from_numpy(batch, binary_data=binary)
    asked = [tritonclient.http.InferRequestedOutput("features", binary_data=binary)]
    found = client.infer("classifier", [given], outputs=asked, request_id="7")
    np.testing.assert_allclose(found.as_numpy("features"), expected, rtol=1e-4, atol=1e-5)
    assert found.as_numpy("probabilities") is None
    assert found.get_response()["id"] == "7"
    both = client.infer("classifier", [given])
    np.testing.assert_allclose(both.as_numpy("probabilities").sum(1), 1, rtol=1e-5)
    client.close()


def request(**changes: Any) -> dict[str, Any]:
    """A valid request of one black image, with changes of its input."""
    given = {"name": "images", "datatype": "FP32", "shape": [1, 3, 32, 32], "data": [0.0] * 3072}
    return {"inputs": [{name: value for name, value in (given | changes).items() if value is not None}]}


@pytest.mark.parametrize(
    ("content", "status", "text"),
    [
        (b"[", 400, "The body is not JSON"), (b"[]", 400, "The body holds no"),
        (b"\xff", 400, "Send a JSON object"), (b"[" * 100_000, 400, "nested"),
        ({}, 400, "no list of one input"), ({"inputs": [1]}, 400, "no list of one input"),
        (request(name="pixels"), 400, "The input is 'pixels' of type 'FP32'; expected images of type FP32"),
        (request(datatype="UINT8"), 400, "of type 'UINT8'"),
        (request(shape=[1, 3, 16, 16]), 400, r"expected \[N, 3, 32, 32\]"), (request(shape=[0, 3, 32, 32]), 400, "one"),
        (request(shape=[True, 3, 32, 32]), 400, "The shape"), (request(shape="x"), 400, "The shape"),
        (request(shape=[9, 3, 32, 32]), 413, "more than 8 images"),
        (request(data=[0.0]), 400, "not 3072 numbers"), (request(data=["0"] * 3072), 400, "not 3072 numbers"),
        (request(data=[[0.0], [0.0, 1.0]]), 400, "not 3072"), (request(data=None), 400, "not 3072 numbers"),
        (request(parameters={"binary_data_size": 4}), 400, "binary_data_size is 4 and 0 bytes follow"),
        (request(parameters={"shared_memory_region": "x"}), 400, "Shared memory is not supported"),
        (request(parameters=[]), 400, "Send an object"),
        (request() | {"outputs": [{"name": "pixels"}]}, 400, "There is no output 'pixels'. Choose from"),
        (request() | {"outputs": [{"name": ["features"]}]}, 400, "There is no output"),
        (request() | {"outputs": [{"name": "features", "parameters": {"classification": 1}}]}, 400, "classification"),
        (request() | {"outputs": 1}, 400, "outputs is 1"), (request() | {"id": 1}, 400, "id is 1"),
    ],
)  # fmt: skip
def test_malformed_requests_of_tensors_are_refused(url: str, content: Any, status: int, text: str) -> None:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    answer = httpx.post(f"{url}/v2/models/classifier/infer", content=body)
    assert answer.status_code == status, answer.text
    assert re.search(text, answer.json()["error"])


def test_binary_lengths_are_checked(url: str) -> None:
    head = json.dumps(request(data=None, parameters={"binary_data_size": 12_288})).encode()
    path = f"{url}/v2/models/classifier/infer"
    for length, tail in ((str(len(head)), b"\0" * 12_287), ("-1", b""), ("99999999", b""), ("x", b"")):
        answer = httpx.post(path, content=head + tail, headers={LENGTH: length})
        assert answer.status_code == 400, answer.text
    assert httpx.post(path, content=head + b"\0" * 12_288, headers={LENGTH: str(len(head))}).status_code == 200
    assert httpx.post(path, content=json.dumps(request()).encode() + b" ", headers={LENGTH: "0"}).status_code == 400
    assert httpx.post(f"{url}/v2/models/classifier/versions/2/infer", json=request()).status_code == 404


def test_values_that_json_cannot_hold_are_refused(url: str) -> None:
    body = json.dumps(request(data=[float("nan")] * 3072))
    answer = httpx.post(f"{url}/v2/models/classifier/infer", content=body)
    assert answer.status_code == 422
    assert "not finite" in answer.json()["error"]


def test_a_file_that_is_replaced_changes_no_answer(folder: Path, images: list[Path], tmp_path: Path) -> None:
    file = Path(shutil.copy(folder / "classifier" / "export" / "onnx" / "classifier.onnx", tmp_path))
    with served(file) as url:
        before = httpx.post(f"{url}/embed", files=files(*images)).json()
        with open(file, "r+b") as opened:
            opened.truncate(100)
        assert httpx.post(f"{url}/embed", files=files(*images)).json() == before


def test_requests_without_usable_images_are_refused(url: str, images: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken\u202e.jpg"
    broken.write_bytes(images[0].read_bytes()[:200])
    large, several = bomb(tmp_path / "large.png", 1200), [bomb(tmp_path / f"{i}.png", 500) for i in range(5)]
    for given, status, text in (
        ({"files": files(images[0], broken)}, 422, r"^broken\\u202e\.jpg: "),
        ({"files": files(large)}, 413, r"^large\.png has more than 1,000,000 pixels, the limit of --max-pixels"),
        ({"files": files(*several)}, 413, r"^The images up to 4\.png have more than"),
        ({"files": files(*[images[0]] * 9)}, 413, "more than 8 images, the limit of --max-batch"),
        ({"files": [("image", images[0].read_bytes())]}, 422, "The form has a field 'image'. Send every image"),
        ({"files": [("images", b"")]}, 422, "empty file"),
        ({"json": {"images": []}}, 422, "The request has no images"),
        ({"json": {"images": ["?"]}}, 422, r"^image 1: not base64"), ({"json": {"images": [1]}}, 422, "is no text"),
        ({"json": {"images": ["a" * 8] * 9}}, 413, "more than 8 images"),
        ({"json": {"image": "x"}}, 422, r"The JSON has \['image'\]"), ({"json": []}, 400, "Send a JSON object"),
        ({"content": b"x"}, 415, "send multipart/form-data or application/json"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "no boundary"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=a"}}, 400, "The form"),
        ({"content": b"--a--\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=a"}}, 422, "no images"),
        ({"content": b"{}", "headers": {"Content-Type": "application/json", "Content-Encoding": "gzip"}}, 415, "gzip"),
        ({"files": [("images", b"\0" * 1_100_000)]}, 413, "more than 1 MiB, the limit of --max-upload-mb"),
    ):  # fmt: skip
        answer = httpx.post(f"{url}/embed", **given)
        assert answer.status_code == status, answer.text
        assert re.search(text, answer.json()["error"]), answer.text


def test_what_an_error_advises_is_accepted(url: str, images: list[Path], tmp_path: Path) -> None:
    """Each request is refused, with advice; what follows it is answered."""
    tensor, embed = f"{url}/v2/models/classifier/infer", f"{url}/embed"
    form = {"Content-Type": "multipart/form-data"}
    nan = json.dumps(request(data=[float("nan")] * 3072) | {"parameters": {"binary_data_output": True}})
    cut_off = {"content": b"--a\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=a"}}
    plain, few = {"json": request()}, {"files": files(images[0])}
    for path, refused, advice, followed in (
        (f"{url}/v2/models/another/infer", plain, "Use classifier", (tensor, plain)),
        (embed, {"files": [("images", b"\0" * 1_100_000)]}, "Send fewer images per request", (embed, few)),
        (embed, {"files": files(bomb(tmp_path / "a.png", 1200))}, "Send fewer or smaller images", (embed, few)),
        (embed, {"files": files(*[images[0]] * 9)}, "Send fewer", (embed, few)),
        (tensor, {"json": request() | {"id": 1}}, "Send a text", (tensor, {"json": request() | {"id": "1"}})),
        (tensor, {"json": request() | {"outputs": 1}}, "or leave it out", (tensor, plain)),
        (tensor, {"json": request() | {"outputs": [{"name": "x"}]}}, "Choose from probabilities, features",
         (tensor, {"json": request() | {"outputs": [{"name": "features"}]}})),
        (tensor, {"json": request() | {"outputs": [{"name": "features", "parameters": {"classification": 1}}]}},
         "Leave it out", (tensor, {"json": request() | {"outputs": [{"name": "features", "parameters": {}}]}})),
        (tensor, {"content": nan.replace("true", "false")}, "binary outputs", (tensor, {"content": nan})),
        (embed, {"content": b"x", "headers": form}, "Let the HTTP library write it", (embed, few)),
        (embed, cut_off, "Let an HTTP library write it", (embed, few)),
    ):  # fmt: skip
        answer = httpx.post(path, **refused)
        assert answer.status_code >= 400
        assert advice in answer.json()["error"], answer.text
        assert httpx.post(followed[0], **followed[1]).status_code == 200


def test_an_encoder_that_diverged_is_not_served(folder: Path, tmp_path: Path) -> None:
    classifier = classifiers.load(folder / "classifier")
    with torch.no_grad():
        classifier.head.bias.fill_(torch.nan)  # type: ignore[operator, union-attr]
    shutil.copytree(folder / "classifier", tmp_path / "diverged")
    classifiers.save(Folder(tmp_path / "diverged"), classifier, encoders.read_card(Folder(folder / "classifier")))
    with pytest.raises(ValueError, match=r"The probabilities of a grey image are not finite\. Check the encoder"):
        load(tmp_path / "diverged")


def test_other_paths_and_methods_get_errors_as_json(url: str) -> None:
    for method, path, status in (("GET", "/nothing", 404), ("GET", "/embed", 405), ("POST", "/metrics", 405)):
        answer = httpx.request(method, url + path)
        assert answer.status_code == status
        assert answer.json()["error"].endswith("See /docs.")
        assert status != 405 or answer.headers["allow"]


def test_an_encoder_has_no_predictions(folder: Path, images: list[Path]) -> None:
    with served(folder / "classifier" / "encoder.safetensors") as url:
        answer = httpx.post(f"{url}/predict", files=files(images[0]))
        assert answer.status_code == 404
        assert answer.json()["error"].endswith("Use /embed, or serve a finetune run.")
        assert "/predict" not in httpx.get(f"{url}/openapi.json").json()["paths"]
        assert httpx.get(f"{url}/v2/models/encoder").json()["platform"] == "pytorch"


def test_without_the_token_only_health_is_told(of_torch: Model, images: list[Path]) -> None:
    with served(model=of_torch, token=TOKEN) as url:
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert httpx.get(url + path).status_code == 200
        wrong: list[dict[str, str]] = [{}, {"Authorization": TOKEN}, {"Authorization": f"Bearer {TOKEN}x"}]
        for path in ("/v2", "/metrics", "/docs", "/openapi.json", "/v2/models/classifier", "/nothing"):
            for headers in wrong:
                answer = httpx.get(url + path, headers=headers)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
        assert httpx.post(f"{url}/embed", files=files(images[0])).status_code == 401
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert httpx.post(f"{url}/embed", files=files(images[0]), headers=right).status_code == 200
        assert httpx.get(f"{url}/openapi.json", headers=right).json()["paths"]["/embed"]["post"]["security"]


def test_metrics_count_requests_images_and_batches(of_torch: Model, images: list[Path]) -> None:
    with served(model=of_torch) as url:
        for count in (1, 3):
            httpx.post(f"{url}/embed", files=files(*images[:count])).raise_for_status()
        httpx.post(f"{url}/embed", json={})
        text = httpx.get(f"{url}/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert lines['lookalike_requests_total{path="/embed",status="200"}'] == "2"
    assert lines['lookalike_requests_total{path="/embed",status="422"}'] == "1"
    assert lines["lookalike_batch_images_count"] == "2"
    assert lines["lookalike_batch_images_sum"] == "4"
    assert lines['lookalike_batch_images_bucket{le="2"}'] == "1"
    assert lines['lookalike_batch_images_bucket{le="4"}'] == lines['lookalike_batch_images_bucket{le="+Inf"}'] == "2"
    assert lines["lookalike_images_waiting"] == lines["lookalike_upload_bytes"] == "0"


def test_the_page_asks_no_other_host(url: str) -> None:
    answer = httpx.get(f"{url}/docs")
    assert not re.search(r"https?://|<script|@import|url\(|src=", answer.text)
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert "POST /embed" in answer.text


CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
    unsupported_method,
]  # fmt: skip
"""A schema cannot say which bytes are an image, so valid requests may be refused."""


def test_it_does_what_its_document_states(of_torch: Model) -> None:
    with served(model=of_torch, max_batch=4) as url:
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        names = []
        for found in schema.get_all_operations():
            operation = found.ok()
            names.append(operation.path)

            @hypothesis.settings(
                max_examples=10 if operation.method == "post" else 3, deadline=None, derandomize=True, database=None,
                suppress_health_check=list(hypothesis.HealthCheck),
            )  # fmt: skip
            @hypothesis.given(case=operation.as_strategy())
            def follows(case: Any) -> None:
                case.call_and_validate(checks=CHECKS)

            follows()
    assert {"/embed", "/predict", "/v2/models/classifier/infer", "/metrics"} <= {*names}


# ---------------------------------------------------------------- many clients


def until(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(500):
        if condition():
            return
        waiting.wait(0.02)
    raise AssertionError("it did not happen within 10 seconds")


def waiting_images(url: str) -> int:
    return int(re.findall(r"^lookalike_images_waiting (\d+)", httpx.get(f"{url}/metrics").text, re.MULTILINE)[0])


def test_requests_of_all_clients_are_computed_together(of_torch: Model, images: list[Path]) -> None:
    held = Held(of_torch)
    held.free.set()
    with served(model=held, max_batch=4) as url, ThreadPoolExecutor(8) as clients:
        single = [httpx.post(f"{url}/embed", files=files(path)).json()["embeddings"][0] for path in images]
        held.free.clear()
        held.batches.clear()
        first = clients.submit(httpx.post, f"{url}/embed", files=files(images[0]), timeout=30)
        until(lambda: held.batches == [1])
        others = [
            clients.submit(httpx.post, f"{url}/embed", files=files(*images[i : i + 2]), timeout=30) for i in (1, 2, 3)
        ]
        until(lambda: waiting_images(url) == 7)
        held.free.set()
        assert first.result().json()["embeddings"] == [single[0]]
        for i, other in zip((1, 2, 3), others):
            np.testing.assert_allclose(other.result().json()["embeddings"], single[i : i + 2], atol=1e-5)
    assert held.batches == [1, 4, 2]


def test_when_too_many_wait_the_next_is_told_when_to_come_back(of_torch: Model, images: list[Path]) -> None:
    held = Held(of_torch)
    with served(model=held, max_batch=1) as url, ThreadPoolExecutor(8) as clients:
        accepted = [clients.submit(httpx.post, f"{url}/embed", files=files(images[0]), timeout=30) for _ in range(8)]
        until(lambda: waiting_images(url) == 8)
        refused = httpx.post(f"{url}/embed", files=files(images[0]))
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"] == "The queue holds 8 images, of at most 8. Repeat the request in 1 s."
        assert httpx.get(f"{url}/v2/health/ready").status_code == 200
        held.free.set()
        assert [each.result().status_code for each in accepted] == [200] * 8
        assert httpx.post(f"{url}/embed", files=files(images[0])).status_code == 200


def test_one_failing_batch_is_an_error_and_the_next_is_computed(of_torch: Model, images: list[Path]) -> None:
    held = Held(of_torch)
    held.free.set()
    run, fails = held._run, [True]

    def failing(batch: Any) -> Any:
        if fails.pop() if fails else False:
            raise RuntimeError("out of memory")
        return run(batch)

    held._run = failing
    with served(model=held) as url:
        answer = httpx.post(f"{url}/embed", files=files(images[0]))
        assert answer.status_code == 500
        assert "out of memory" in answer.json()["error"]
        assert httpx.post(f"{url}/embed", files=files(images[0])).status_code == 200


# ---------------------------------------------------------------- settings

SAFE: dict[str, Any] = {
    "host": "127.0.0.1", "port": 0, "token_file": None, "token": True, "max_batch": 1, "max_wait_ms": 0.0,
    "max_upload_mb": 1, "max_pixels": 1, "workers": 1,
}  # fmt: skip


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_this_machine_needs_no_token(host: str) -> None:
    assert check_settings(**SAFE | {"host": host}) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "", "example.org"])
def test_other_hosts_need_a_token_or_say_that_they_need_none(host: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Give --token-file FILE, or --no-token if everybody"):
        check_settings(**SAFE | {"host": host})
    assert check_settings(**SAFE | {"host": host, "token": False}) is None
    (tmp_path / "token").write_text(f" {TOKEN}\n")
    assert check_settings(**SAFE | {"host": host, "token_file": tmp_path / "token"}) == TOKEN


@pytest.mark.parametrize(
    ("content", "text"),
    [("short", "has 5 characters; it must have at least 16"), ("a b" * 10, "spaces or other"), ("x" * 5000, "4 KiB")],
)
def test_unusable_tokens_are_refused(content: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(content)
    with pytest.raises(ValueError, match=text):
        check_settings(**SAFE | {"token_file": tmp_path / "token"})
    with pytest.raises(FileNotFoundError, match="Make a token: openssl rand"):
        check_settings(**SAFE | {"token_file": tmp_path / "nothing"})
    made = secrets.token_hex(32)  # as openssl makes it
    (tmp_path / "token").write_text(f"{made}\n")
    assert check_settings(**SAFE | {"token_file": tmp_path / "token"}) == made


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"port": 70_000}, "The port is 70000"), ({"workers": 0}, "workers is 0"), ({"max_batch": 0}, "max_batch is 0"),
        ({"max_wait_ms": -1.0}, "max_wait_ms is -1"), ({"token": False, "token_file": "x"}, "Leave one of them out"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        check_settings(**SAFE | changes)
