"""Reads files of torch.save, restricted to plain tensors and values."""

import pickle
import re
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ..printing import with_article


def unpickled(path: Path) -> Any:
    """The contents of a file of `torch.save`: tensors and plain values.

    Raises:
        ValueError: the file has another format, is damaged, or contains other objects, which could run code.
    """
    if (kind := _format_of(path)) is not None:
        raise ValueError(
            f"{path} contains {kind}, not weights in the format of torch.save or safetensors. Give another file, or "
            "save only the tensors where it was created: torch.save(model.state_dict(), path)."
        )
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:  # torch does not verify checksums
                if (bad := archive.testzip()) is not None:
                    raise ValueError(f"wrong checksum of {bad}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sparse tensors, which are rejected
            return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise  # the file itself is not at fault
    except pickle.UnpicklingError as error:
        named = _OBJECT.search(str(error))
        problem = f"contains {with_article(named[1])}" if named else "is damaged, or contains Python objects"
        raise ValueError(
            f"{path} {problem}. Only files of plain tensors are read, because others could run code. Where it was "
            "created, save only the tensors: torch.save(model.state_dict(), path), or for a checkpoint "
            "torch.save(checkpoint['state_dict'], path)."
        ) from None
    except Exception as error:  # malformed files make torch raise errors of any type
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise ValueError(
            f"{path} is not a complete file of torch.save ({reason}). Give another file, or copy it again."
        ) from None


_FORMATS = {
    b"\x89HDF": "HDF5 (Keras)", b"\x1f\x8b": "gzip: unpack it first", b"%PDF": "PDF", b"<": "a web page or XML",
    b"version https://git-lfs": "a pointer of Git LFS (git lfs pull fetches the file)", b"GGUF": "GGUF",
}  # fmt: skip
"""First bytes of files that are mistaken for weights -> their format."""


def _format_of(path: Path) -> str | None:
    """The format of a file not written by torch.save; None if torch.save may have written it, or if unknown."""
    with open(path, "rb") as file:
        try:
            head = file.read(64)
        except OSError as error:  # it does not name the file
            reason = f"{path} cannot be read ({error.strerror}). Give another file, or copy it again."
            raise ValueError(reason) from error
    if not head:
        return "nothing (0 bytes)"
    with suppress(zipfile.BadZipFile, OSError):
        if head.startswith(b"PK"):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            if any(name.endswith("/constants.pkl") for name in names):
                return "a TorchScript program"
            return "NumPy arrays (.npz)" if any(name.endswith(".npy") for name in names) else None
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "safetensors: rename it to end in .safetensors"
    return next((kind for begin, kind in _FORMATS.items() if head.lstrip().startswith(begin)), None)


_OBJECT = re.compile(r"\bGLOBAL ([\w.]+)")
"""Matches the object named in an error of torch.load."""
