"""What clients, files and signals may do to a server: it answers with a clear status, never hangs, and stays small."""

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from support.images import draw
from support.serving import Process, bomb, files, resident, saved_classifier, served

from lookalike import cli
from lookalike.serving import bodies, connections
from lookalike.serving.model import Model, load
from lookalike.serving.process import listening, max_connections, seeing_gpu, serve
from lookalike.serving.settings import Settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images/, and the folder of a classifier."""
    root = tmp_path_factory.mktemp("faults")
    for i in range(2):
        draw(root / "images" / f"{i}.jpg", i, i, (96, 80))
    saved_classifier(root / "classifier")
    return root


@pytest.fixture(scope="module")
def image(folder: Path) -> Path:
    return folder / "images" / "0.jpg"


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load(folder / "classifier")


@pytest.fixture
def url(model: Model) -> Iterator[str]:
    with served(model=model, max_upload_mb=1) as found:
        yield found


def connected(url: str) -> socket.socket:
    place = urlsplit(url)
    assert place.hostname is not None
    return socket.create_connection((place.hostname, place.port or 0), timeout=20)


def received(client: socket.socket) -> bytes:
    """All that the server sends until it closes the connection."""
    parts = []
    with suppress(ConnectionResetError):
        while part := client.recv(65_536):
            parts.append(part)
    return b"".join(parts)


def answers(url: str, image: Path) -> bool:
    return httpx.post(f"{url}/embed", files=files(image), timeout=20).status_code == 200


def gauge(url: str, name: str) -> int:
    return int(re.findall(rf"^{name} (\d+)", httpx.get(f"{url}/metrics").text, re.MULTILINE)[0])


def post(length: str) -> bytes:
    return (
        "POST /embed HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        f"{length}\r\n\r\n--b\r\nContent-Disposition: form-data; name=\"images\"; filename=\"a.jpg\"\r\n\r\n"
    ).encode()  # fmt: skip


def test_a_client_that_leaves_in_the_middle_of_an_upload_costs_nothing(url: str, image: Path) -> None:
    for _ in range(20):
        with connected(url) as client:
            client.sendall(post("Content-Length: 500000") + b"x" * 100_000)
    for _ in range(100):
        if gauge(url, "lookalike_upload_bytes") == 0:
            break
        time.sleep(0.05)
    assert gauge(url, "lookalike_upload_bytes") == 0
    assert 'path="/embed",status="499"} 20' in httpx.get(f"{url}/metrics").text
    assert answers(url, image)


def test_an_endless_body_is_cut_off(url: str, image: Path) -> None:
    with connected(url) as client:
        found: list[bytes] = []
        reader = threading.Thread(target=lambda: found.append(received(client)))
        reader.start()
        client.sendall(post("Transfer-Encoding: chunked").partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
        begin, sent = time.monotonic(), 0
        with suppress(ConnectionResetError, BrokenPipeError):
            while time.monotonic() < begin + 20:
                client.sendall(chunk)
                sent += len(chunk)
        reader.join(20)
    assert found[0].startswith(b"HTTP/1.1 400")  # no form begins so
    assert b"connection: close" in found[0]
    assert sent < 2 * bodies.DISCARDED
    with connected(url) as client:
        client.sendall(post("Content-Length: 900000000"))
        assert received(client).startswith(b"HTTP/1.1 413")
    assert answers(url, image)


def test_a_body_within_the_form_is_cut_off_at_the_limit(url: str) -> None:
    def endless() -> Iterator[bytes]:
        yield post("").partition(b"\r\n\r\n\r\n")[2] or post("").split(b"\r\n\r\n", 1)[1]
        for _ in range(10_000):
            yield b"x" * 65_536

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = httpx.post(f"{url}/embed", content=endless(), headers=headers, timeout=20)
    assert answer.status_code == 413
    assert "more than 1 MiB, the limit of --max-upload-mb" in answer.json()["error"]


def test_a_body_that_does_not_come_is_waited_for_within_limits(
    url: str, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "SECONDS", 0.3)
    monkeypatch.setattr(bodies, "DISCARD_SECONDS", 0.2)
    with connected(url) as client:
        client.sendall(post("Content-Length: 1000"))
        answer = received(client)
    assert answer.startswith(b"HTTP/1.1 408")
    assert answers(url, image)


def test_uploads_of_all_clients_are_limited_together(url: str, image: Path) -> None:
    with ExitStack() as stack:
        for _ in range(16):  # as many as fit, and none of them is complete
            stack.enter_context(connected(url)).sendall(post(f"Content-Length: {2**20}") + b"x" * (2**20 - 2000))
        for _ in range(100):
            if gauge(url, "lookalike_upload_bytes") > 15.9 * 2**20:
                break
            time.sleep(0.05)
        refused = httpx.post(f"{url}/embed", files=files(image))
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"].startswith("Other requests take all the memory for uploads. Repeat the request")
    for _ in range(100):
        if gauge(url, "lookalike_upload_bytes") == 0:
            break
        time.sleep(0.05)
    assert answers(url, image)


def test_idle_connections_do_not_keep_others_out(url: str, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 2.0)
    stay_idle(url, 300, image)


@pytest.mark.slow
def test_ten_thousand_idle_connections_do_not_keep_others_out(folder: Path, image: Path) -> None:
    if max_connections() is not None and (max_connections() or 0) < 10_500:
        pytest.skip("needs ulimit -n of 11,000")
    server = Process(folder / "classifier")
    try:
        before = resident(server.process.pid) if server.url else 0
        stay_idle(server.url, 10_000, image)
        assert resident(server.process.pid) < before + 300 * 2**20
        assert server.stop() == 0
    finally:
        server.kill()


def stay_idle(url: str, count: int, image: Path) -> None:
    """Opens connections of which half begin a request and none ends one; others are answered meanwhile."""
    with ExitStack() as stack:
        idle = [stack.enter_context(connected(url)) for _ in range(count)]
        for client in idle[::2]:
            client.sendall(b"GET /v2 HTTP/1.1\r\nHo")  # and no more
        begin = time.monotonic()
        assert answers(url, image)
        assert time.monotonic() - begin < 10
        for client in idle:
            client.settimeout(60)
            assert received(client) == b""
    assert answers(url, image)


def test_a_head_without_end_is_refused(url: str, image: Path) -> None:
    with connected(url) as client:
        client.sendall(b"GET /v2 HTTP/1.1\r\n")
        with suppress(ConnectionResetError, BrokenPipeError):
            for i in range(200):
                client.sendall(f"X-{i}: {'x' * 1000}\r\n".encode())
        assert received(client).startswith((b"HTTP/1.1 400", b""))
    with connected(url) as client:
        client.sendall(b"nonsense\r\n\r\n")
        assert received(client).startswith(b"HTTP/1.1 400")
    assert answers(url, image)


def test_a_decompression_bomb_is_not_decoded(url: str, image: Path, tmp_path: Path) -> None:
    path = bomb(tmp_path / "bomb.png", 12_000)
    assert path.stat().st_size < 2**18
    begin = time.monotonic()
    answer = httpx.post(f"{url}/embed", files=files(image, path), timeout=20)
    assert answer.status_code == 413
    assert "bomb.png have more than 100,000,000 pixels" in answer.json()["error"]
    assert time.monotonic() - begin < 5
    assert answers(url, image)


def test_a_port_in_use_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with listening("127.0.0.1", 0) as other:
        port = other.getsockname()[1]
        assert cli.main(["serve", str(folder / "classifier"), "--port", str(port)]) == 1
    error = capsys.readouterr().err
    assert f"127.0.0.1 port {port} cannot be used (Address already in use). Give another --port, or stop" in error
    listening("127.0.0.1", port).close()  # what used it is stopped
    assert cli.main(["serve", str(folder / "classifier"), "--host", "no.such.host.invalid", "--no-token"]) == 1
    assert "no.such.host.invalid is no address of this machine" in capsys.readouterr().err


# ---------------------------------------------------------------- processes

REQUESTS = 60


def test_sigterm_under_load_loses_no_accepted_request(folder: Path, image: Path) -> None:
    """The model file is replaced while it serves, too, which changes no answer; then the server is stopped."""
    server = Process(saved_classifier(folder / "replaced"))
    try:
        url = server.url
        check_memory(server, image, 200)
        expected = httpx.post(f"{url}/embed", files=files(image)).json()
        with open(folder / "replaced" / "classifier.safetensors", "r+b") as opened:
            opened.truncate(1000)
        results: list[object] = []
        accepted = threading.Barrier(9, timeout=30)

        def client() -> None:
            with httpx.Client(timeout=30) as session:
                for i in range(REQUESTS):
                    if i == 5:
                        accepted.wait()
                    try:
                        results.append(session.post(f"{url}/embed", files=files(image)).json())
                    except (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
                        results.append(type(error).__name__)
                        return

        with ThreadPoolExecutor(8) as clients:
            for _ in range(8):
                clients.submit(client)
            accepted.wait()
            assert server.stop() == 0
        assert server.lines[-1] == "Stopped."
        assert server.await_line("^Try it: (.*)")[1] == f"curl -F images=@photo.jpg {url}/embed"
        full = [each for each in results if isinstance(each, dict)]
        assert len(full) >= 40
        for each in full:
            assert each["model"] == expected["model"]
            assert each["embeddings"][0] == pytest.approx(expected["embeddings"][0], abs=1e-5)
        # a connection that was idle at the end is closed; none is cut within an answer
        assert {each for each in results if isinstance(each, str)} <= {
            "ConnectError",
            "RemoteProtocolError",
            "ReadError",
        }
    finally:
        server.kill()


def test_the_function_serves_until_sigterm_and_returns(folder: Path, image: Path) -> None:
    program = (
        f"import lookalike; lookalike.serve({str(folder / 'classifier')!r}, port=0, max_batch=8, say=print); "
        "print('after')"
    )
    server = Process(folder, program=program)
    try:
        assert len(httpx.post(f"{server.url}/embed", files=files(image), timeout=30).json()["embeddings"]) == 1
        assert server.stop() == 0
        assert server.lines[-2:] == ["Stopped.", "after"]
    finally:
        server.kill()


def test_a_killed_worker_is_started_again_unless_its_file_was_replaced(folder: Path, image: Path) -> None:
    server = Process(folder / "classifier", "--workers", "2")
    try:
        url = server.url
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")

        def workers() -> list[int]:
            found = [int(each) for each in children.read_text().split()]
            return [each for each in found if "spawn_main" in Path(f"/proc/{each}/cmdline").read_text()]

        before = workers()
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        server.await_line("Worker [12] was killed by SIGKILL; it is started again")
        assert answers(url, image)
        server.await_line("Worker [12] serves again")
        assert len(workers()) == 2
        weights = folder / "classifier" / "classifier.safetensors"
        saved_classifier(folder / "another", seed=1)
        content = (folder / "another" / "classifier.safetensors").read_bytes()
        assert content != weights.read_bytes()
        weights.with_suffix(".new").write_bytes(content)
        weights.with_suffix(".new").replace(weights)
        os.kill(before[1], signal.SIGKILL)
        server.await_line(
            "Worker [12] is not started again: .* was replaced since the server started. Start the server"
        )
        assert answers(url, image)
        assert server.stop() == 0
    finally:
        server.kill()


@pytest.mark.slow
def test_workers_say_why_they_cannot_begin(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing.safetensors").write_bytes(b"nothing")
    server = Process(tmp_path / "nothing.safetensors", "--workers", "2")
    assert server.process.wait(60) == 1
    server.kill()
    assert any(line.startswith("error: ") and "nothing.safetensors" in line for line in server.lines), server.lines


@pytest.mark.slow
def test_memory_is_flat_over_many_requests(folder: Path, image: Path) -> None:
    server = Process(folder / "classifier")
    try:
        check_memory(server, image, 10_000)
        assert server.stop(signal.SIGINT) == 0
    finally:
        server.kill()


def check_memory(server: Process, image: Path, count: int) -> None:
    """Sends good and bad requests, and compares the memory of the server with that after half as many."""
    url, broken = server.url, [("images", ("a.jpg", image.read_bytes()[:300]))]

    def client(requests: int) -> None:
        with httpx.Client(timeout=30) as session:
            for i in range(requests):
                sent = files(image) if i % 4 else broken
                assert session.post(f"{url}/embed", files=sent).status_code == (200 if i % 4 else 422)

    def load(requests: int) -> int:
        with ThreadPoolExecutor(4) as clients:
            for each in [clients.submit(client, requests // 4) for _ in range(4)]:
                each.result()
        return resident(server.process.pid)

    first = load(count // 2)
    assert load(count) < first + 8 * 2**20


def test_each_worker_sees_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for visible, expected in ((None, ["0", "1"]), ("2,3", ["2", "3"])):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        found = []
        for worker in range(2):
            with seeing_gpu(worker):
                found.append(os.environ["CUDA_VISIBLE_DEVICES"])
            assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible
        assert found == expected
    with seeing_gpu(None):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3"
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ValueError, match="--workers is 2, but there is 1 GPU"):
        serve(Settings(encoder="x", workers=2), lambda text: None)
