"""A model repository of Triton: two models with complete settings around one ONNX file, and a client.

MODEL is for the backend onnxruntime, MODEL_python for the Python backend, which reads MODEL's file. A server loads the
one that is named.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from ...backbones.onnx_file import PROBABILITIES
from ...evaluation.features import short_side
from ...printing import pasteable, printable
from ..preparation import Tensors

FILE, SUFFIX = "model.onnx", "_python"
"""The ONNX file, and the suffix of the model for the Python backend; `model.py` has the same."""
VERSION = "1"
CLIENT, LABELS = "client.py", "labels.txt"
IMAGE = "nvcr.io/nvidia/tritonserver:24.10-py3"
"""NVIDIA's container of the server 2.51, with which exports are tested, and both backends."""
MOST_IMAGES = 64
"""Largest batch that the server composes."""
MOST_WAITING = 256
"""Requests that wait at most; further ones are refused at once."""
DELAY = 2000
"""Microseconds that a request waits at most for others of its batch."""
WARM_UP = (1, 8)
"""Batch sizes that are computed before the server says that it is ready."""
TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}


def file_in(repository: Path, name: str) -> Path:
    """Where the ONNX file belongs."""
    return repository / name / VERSION / FILE


def models(name: str) -> tuple[str, str]:
    """The model for the backend onnxruntime and the one for the Python backend."""
    return name, f"{name}{SUFFIX}"


def write(
    repository: Path,
    name: str,
    given: Tensors,
    outputs: Sequence[Tensors],
    *,
    image_size: int,
    classes: Sequence[str] | None,
) -> list[Path]:
    """Writes all but the ONNX file, and returns what was written.

    Args:
        repository: the folder of the models.
        name: of the model for the backend onnxruntime.
        given: images (B, H, W, C) in uint8.
        image_size: of the network, in pixels.
        classes: of a classifier.
    """
    files = [repository / CLIENT]
    shutil.copyfile(Path(__file__).with_name(CLIENT), files[0])
    for model, backend in zip(models(name), ("onnxruntime", "python")):
        folder = repository / model
        (folder / VERSION).mkdir(parents=True, exist_ok=True)
        files.append(folder / "config.pbtxt")
        files[-1].write_text(
            settings(model, backend, given, outputs, image_size=image_size, classes=classes), encoding="utf-8"
        )
        if classes is not None:
            files.append(folder / LABELS)
            files[-1].write_text("".join(f"{printable(each)}\n" for each in classes), encoding="utf-8")
        if backend == "python":
            files.append(folder / VERSION / "model.py")
            shutil.copyfile(Path(__file__).with_name("model.py"), files[-1])
    return files


def settings(
    model: str,
    backend: str,
    given: Tensors,
    outputs: Sequence[Tensors],
    *,
    image_size: int,
    classes: Sequence[str] | None,
) -> str:
    """The content of `config.pbtxt`, which leaves nothing for the server to guess."""
    side, channels = short_side(image_size), given.shape[-1]
    parameters = {"image_size": json.dumps(image_size), "short_side": json.dumps(side)}
    if classes is not None:
        parameters["classes"] = json.dumps(list(classes))
    free = [-1 if isinstance(side, str) else side for side in given.shape[1:]]
    lines = [
        f'name: "{model}"', f'backend: "{backend}"', f"max_batch_size: {MOST_IMAGES}",
        f'input [ {{ name: "{given.name}" data_type: {TYPES[given.dtype]} dims: {free} }} ]', "output [",
        ",\n".join(f"  {_output(each)}" for each in outputs), "]",
        "instance_group [ { count: 1 kind: KIND_AUTO } ]  # a GPU if there is one, else the CPU",
        "# requests are computed together until the next one has images of another size",
        f"dynamic_batching {{ max_queue_delay_microseconds: {DELAY} default_queue_policy {{ max_queue_size: "
        f"{MOST_WAITING} }} }}",
    ]  # fmt: skip
    for batch in WARM_UP:
        lines += [
            f'model_warmup [ {{ name: "batch of {batch}" batch_size: {batch} inputs {{ key: "{given.name}" value {{ '
            f"data_type: {TYPES[given.dtype]} dims: {[side, side, channels]} random_data: true }} }} }} ]"
        ]
    for key, value in parameters.items():
        # JSON in ASCII has no other escapes than protobuf's text
        lines += [f"parameters {{ key: {json.dumps(key)} value {{ string_value: {json.dumps(value)} }} }}"]
    return "\n".join(lines) + "\n"


def _output(tensor: Tensors) -> str:
    labels = f' label_filename: "{LABELS}"' if tensor.name == PROBABILITIES else ""
    return f'{{ name: "{tensor.name}" data_type: {TYPES[tensor.dtype]} dims: {[*tensor.shape[1:]]}{labels} }}'


def command(repository: Path, model: str) -> str:
    """Starts a server on this machine, for this machine only."""
    return pasteable(
        "tritonserver", "--model-repository", repository.resolve(), "--model-control-mode", "explicit",
        "--load-model", model, "--http-address", "127.0.0.1", "--grpc-address", "127.0.0.1",
    )  # fmt: skip


def container(repository: Path, model: str) -> str:
    """Starts NVIDIA's container, which this machine alone reaches."""
    return pasteable(
        "docker", "run", "--rm", "-p", "127.0.0.1:8000:8000", "-v", f"{repository.resolve()}:/models:ro", IMAGE,
        "tritonserver", "--model-repository", "/models", "--model-control-mode", "explicit", "--load-model", model,
    )  # fmt: skip


def card(repository: Path, name: str) -> list[str]:
    """The section of the model card on the server, in Markdown."""
    model, by_python = models(name)
    return [
        "## Server", "",
        f"This folder is a model repository of Triton. `{model}` is for the backend onnxruntime, for example in "
        "NVIDIA's container (with `--gpus all` after `--rm` on a GPU):", "",
        "```", container(repository, model), "```", "",
        f"`{by_python}` is for a server without that backend: its Python backend calls onnxruntime, which must be "
        "installed with NumPy for the `python3` on PATH. Name the other model to serve it:", "",
        "```", command(repository, by_python), "```", "",
        f"`{CLIENT}` sends image files:", "",
        "```", 'pip install "tritonclient[http]" pillow', f"python {CLIENT} photo.jpg --url 127.0.0.1:8000", "```", "",
        f"The server computes up to {MOST_IMAGES} waiting images together, but a batch ends where the next image has "
        f"another size. `python {CLIENT} --one-size` resizes and crops before it sends, by the rule above, so that all "
        "fit.", "",
    ]  # fmt: skip
