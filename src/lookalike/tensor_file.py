"""Deterministic safetensors files: equal content gives equal bytes (the library writes metadata in random order)."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The format's names of dtypes."""
_ALIGNMENT = 8
"""Tensors start at a multiple of this many bytes in the file, for memory mapping."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes dense tensors and metadata, each by name, as a safetensors file: equal content gives equal bytes.

    Raises:
        ValueError: the format has no name for the dtype of a tensor.
        OSError: the file could not be written.
    """
    head: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    order = sorted(
        tensors, key=lambda name: (-tensors[name].element_size(), name)
    )  # largest elements first, for alignment
    end = 0
    for name in order:
        value = tensors[name]
        if value.dtype not in _TYPES:
            raise ValueError(f"{name} has dtype {value.dtype}, which safetensors does not support. Convert it.")
        begin, end = end, end + value.numel() * value.element_size()
        head[name] = {"dtype": _TYPES[value.dtype], "shape": list(value.shape), "data_offsets": [begin, end]}
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "backslashreplace")
    text += b" " * (-len(text) % _ALIGNMENT)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            flat = tensors[name].detach().cpu().contiguous().reshape(-1)
            file.write(flat.view(torch.uint8).numpy().data)


@contextmanager
def tensor_file(path: Path) -> Iterator[Path]:
    """A path of a file for libraries that map tensors: they accept only UTF-8 names, and would block on a pipe.

    Raises:
        FileNotFoundError: it is not a file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file.")
    try:
        os.fspath(path).encode("utf-8")
    except UnicodeEncodeError:
        with open(path, "rb") as file:
            yield Path(f"/dev/fd/{file.fileno()}")
    else:
        yield path


def sha256(network: nn.Module) -> str:
    """SHA-256 of a network's weights, those in its `state_dict`."""
    return state_sha256(network.state_dict())


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors: names, dtypes, shapes and bytes, sorted by name."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
