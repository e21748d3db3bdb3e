"""Files of torch.save, of which plain tensors and values alone are read."""

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
    """What a file of `torch.save` holds: tensors and plain values.

    Raises:
        ValueError: it is none, is damaged, or holds other objects, which could run programs.
    """
    if (kind := _format_of(path)) is not None:
        raise ValueError(
            f"{path} holds {kind}, and no weights as torch.save and safetensors write them. Give another, or where it "
            "was made save the tensors alone: torch.save(model.state_dict(), path)."
        )
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:  # torch looks at no checksum
                if (bad := archive.testzip()) is not None:
                    raise ValueError(f"{bad} in it has another checksum")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sparse tensors, which are refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise  # nothing is wrong with the file
    except pickle.UnpicklingError as error:
        named = _OBJECT.search(str(error))
        what = f"holds {with_article(named[1])}" if named else "is damaged, or holds objects of Python"
        raise ValueError(
            f"{path} {what}, and only files of plain tensors are read, since others could run programs. Where it was "
            "made, save the tensors alone: torch.save(model.state_dict(), path), or of a checkpoint "
            "torch.save(checkpoint['state_dict'], path)."
        ) from None
    except Exception as error:  # a malformed file makes torch stumble in every way there is
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise ValueError(
            f"{path} is no whole file of torch.save ({reason}). Give another, or copy it once more."
        ) from None


_FORMATS = {
    b"\x89HDF": "HDF5 (Keras)", b"\x1f\x8b": "gzip: unpack it first", b"%PDF": "PDF", b"<": "a web page or XML",
    b"version https://git-lfs": "a pointer of Git LFS (git lfs pull fetches the file)", b"GGUF": "GGUF",
}  # fmt: skip
"""How files begin that are given for weights by mistake."""


def _format_of(path: Path) -> str | None:
    """What a file holds that torch.save did not write; None where it may have, or that is not known."""
    with open(path, "rb") as file:
        try:
            head = file.read(64)
        except OSError as error:  # which does not say of which file
            reason = f"{path} cannot be read ({error.strerror}). Give another, or copy it once more."
            raise ValueError(reason) from error
    if not head:
        return "nothing (0 bytes)"
    with suppress(zipfile.BadZipFile, OSError):
        if head.startswith(b"PK"):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            if any(name.endswith("/constants.pkl") for name in names):
                return "a program of TorchScript"
            return "arrays of NumPy (.npz)" if any(name.endswith(".npy") for name in names) else None
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "safetensors: let its name end in .safetensors"
    return next((what for begin, what in _FORMATS.items() if head.lstrip().startswith(begin)), None)


_OBJECT = re.compile(r"\bGLOBAL ([\w.]+)")
"""What torch names in a refusal."""
