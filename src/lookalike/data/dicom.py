"""DICOM files, read by pydicom (extra `dicom`): rescaled values, the first window, frames of one file as images.

Values follow PS3.3 of the DICOM standard: the modality LUT or rescale slope and intercept (C.11.1), then the first VOI
LUT or window (C.11.2), both of a frame's functional groups if there are any. MONOCHROME1 is inverted: black is 0.
"""

import logging
import math
import os
import re
import warnings
from contextlib import suppress
from importlib.util import find_spec
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..image_options import Pixels
from ..images import LARGEST
from ..printing import brief
from .errors import Unsupported
from .limits import check_size
from .tensors import from_tensor

if TYPE_CHECKING:
    from pydicom import Dataset

warnings.filterwarnings("ignore", module=r"pydicom\.")  # an unreadable image is reported with its reason
_FRAME: Final = re.compile(r"(.*\.(?:dcm|dicom))#(\d{1,7})", re.IGNORECASE | re.DOTALL)
_EXTRA: Final = "pip install 'lookalike[dicom]' reads it"
_GPL: Final = "pip install pylibjpeg-libjpeg reads it (its license is the GPL)"
SUFFIXES: Final = (".dcm", ".dicom")
_FIRST_GROUPS: Final = (b"\x02\0", b"\x08\0", b"\0\x02", b"\0\x08")
_ONE_FRAME: Final = 1


def frame_of(path: str | os.PathLike[str]) -> tuple[str, int | None]:
    """The file and the number of the frame, from 1, in a path such as `scan.dcm#3`; without a number, None."""
    path = os.fspath(path)
    found = _FRAME.fullmatch(path)
    return (found[1], int(found[2])) if found else (path, None)


def is_dicom(head: bytes, path: str | os.PathLike[str] | None = None) -> bool:
    """Whether a file begins as DICOM files do; those without a preamble are known by their suffix, too."""
    if head[128:132] == b"DICM":
        return True
    return path is not None and os.fspath(path).lower().endswith(SUFFIXES) and head[:2] in _FIRST_GROUPS


def is_installed() -> bool:
    """Whether the extra `dicom` is installed."""
    return find_spec("pydicom") is not None


def frames(path: str | os.PathLike[str]) -> int | None:
    """The number of frames in a file; None if it has no pixels, 1 if it cannot be read, which `decode` reports."""
    try:
        with open(path, "rb") as file:
            return frames_in(file)
    except OSError:
        return _ONE_FRAME


def frames_in(file: IO[bytes]) -> int | None:
    """`frames` for an open file."""
    try:
        head = _head(file, ["NumberOfFrames", "Rows", "Columns"])
    except Exception:  # malformed files make pydicom raise errors of any type
        return _ONE_FRAME
    return _count(head) if "Rows" in head and "Columns" in head else None


def kind(file: IO[bytes]) -> str:
    """Modality, colour space and bits of an open file."""
    head = _head(file, ["Modality", "PhotometricInterpretation", "BitsStored"])
    parts = [head.get("Modality", ""), head.get("PhotometricInterpretation", ""), f"{head.get('BitsStored', '?')} bits"]
    return "DICOM " + " ".join(str(part) for part in parts if part)


def count(file: IO[bytes]) -> int:
    """The number of frames of an open file."""
    return _count(_head(file, ["NumberOfFrames"]))


def pixels_stated(file: IO[bytes]) -> int:
    """Width times height by the header."""
    head = _head(file, ["Rows", "Columns"])
    return int(head.get("Rows", 0)) * int(head.get("Columns", 0))


def stated_size(file: IO[bytes]) -> tuple[int, int]:
    """Height and width by the header."""
    head = _head(file, ["Rows", "Columns"])
    return int(head.Rows), int(head.Columns)


def read(file: IO[bytes], size: int, frame: int, pixels: Pixels, decode_size: int | None, key: int) -> Tensor:
    """`decode` for a frame, from 1, of an open file of `size` bytes.

    With the scale `dtype`, the first window gives black and white; without one, the range of the stored bits. Other
    scales are in rescaled values, such as Hounsfield units.

    Raises:
        Unsupported: pydicom or the decoder of its compression is missing, or the file has no pixels or no such frame.
        ValueError: damaged.
    """
    head = _head(file)
    if "Rows" not in head or "Columns" not in head:
        title = str(getattr(head.get("SOPClassUID", ""), "name", "")) or "unknown content"
        raise Unsupported(f"a DICOM file without pixels ({brief(title)}). Leave it out")
    if not 1 <= frame <= (known := _count(head)):
        raise ValueError(f"no frame {frame}; the file has {known}")
    samples = int(head.get("SamplesPerPixel", 1))
    check_size(int(head.Columns), int(head.Rows), max(pixels.channels, samples) * 4)
    values = _stored(file, head, frame)
    if head.get("PhotometricInterpretation") == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        values = apply_color_lut(values, head)
    elif samples == 1:
        values = _rescaled(values, _group(head, frame, "PixelValueTransformationSequence"))
        if pixels.scale.kind == "dtype":
            values = _windowed(values, head, _group(head, frame, "FrameVOILUTSequence"))
    planes = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
    out = from_tensor(torch.from_numpy(np.ascontiguousarray(planes)), pixels, decode_size, key)
    if head.get("PhotometricInterpretation") == "MONOCHROME1" and pixels.scale.kind != "percentile":
        top = LARGEST[out.dtype]
        return top - out if out.dtype == torch.float32 else (int(top) - out.to(torch.int32)).to(out.dtype)
    return out


def _head(file: IO[bytes], tags: list[str] | None = None) -> "Dataset":
    """The elements before the pixels, or only those of these names."""
    if not is_installed():
        raise Unsupported(f"DICOM. {_EXTRA}")
    import pydicom

    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE  # invalid values of other elements
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    file.seek(0)
    return pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=tags)


def _count(head: "Dataset") -> int:
    with suppress(TypeError, ValueError):
        return max(1, int(head.get("NumberOfFrames", 1) or 1))
    return 1


def _stored(file: IO[bytes], head: "Dataset", frame: int) -> np.ndarray:
    """The stored values of a frame, (H, W) or (H, W, 3), YCbCr converted to RGB."""
    from pydicom.pixels import pixel_array

    syntax = getattr(getattr(head, "file_meta", None), "TransferSyntaxUID", None)
    file.seek(0)
    try:
        array = pixel_array(file, index=frame - 1)
    except MemoryError:
        raise
    except Exception as error:
        text = str(error)
        name = brief(str(getattr(syntax, "name", "")) or "an unknown syntax")
        is_free = "2000" in name or "RLE" in name
        if "missing dependencies" in text or ("plugins" in text and not is_free):
            raise Unsupported(f"DICOM compressed by {name}. {_EXTRA if is_free else _GPL}") from None
        if "no pixel data" in text:
            raise Unsupported("a DICOM file without pixels. Leave it out") from None
        raise ValueError(f"its pixels are damaged ({brief(text)})") from error
    return np.asarray(array)


def _group(head: "Dataset", frame: int, name: str) -> "Dataset":
    """The functional group of a frame, or of all frames; without one the elements of the file itself."""
    for sequence, index in (("PerFrameFunctionalGroupsSequence", frame - 1), ("SharedFunctionalGroupsSequence", 0)):
        groups: Any = head.get(sequence)
        if groups and index < len(groups) and groups[index].get(name):
            found: Dataset = groups[index].get(name)[0]
            return found
    return head


def _rescaled(values: np.ndarray, by: "Dataset") -> np.ndarray:
    """Stored values after the modality LUT, or after the rescale slope and intercept."""
    if by.get("ModalityLUTSequence"):
        from pydicom.pixels import apply_modality_lut

        return np.asarray(apply_modality_lut(values, by))
    slope, intercept = (
        _number(by.get(name), default) for name, default in (("RescaleSlope", 1), ("RescaleIntercept", 0))
    )
    return values if (slope, intercept) == (1, 0) else values.astype(np.float32) * slope + np.float32(intercept)


def _number(value: object, default: float) -> float:
    """The first of an element's numbers; the default if it has none."""
    with suppress(TypeError, ValueError):
        first = value if isinstance(value, int | float | str) else value[0]  # type: ignore[index]
        if math.isfinite(float(first)):
            return float(first)
    return float(default)


def _windowed(values: np.ndarray, head: "Dataset", by: "Dataset") -> np.ndarray:
    """Values through the first VOI LUT or window as uint16; without one, the range of the stored bits (uint8 stays)."""
    if by.get("VOILUTSequence"):
        from pydicom.pixels import apply_voi

        top = 2 ** int(by.VOILUTSequence[0].LUTDescriptor[2]) - 1
        unit = np.asarray(apply_voi(values, by, 0)).astype(np.float32) / top
    elif by.get("WindowCenter") is not None and by.get("WindowWidth") is not None:
        unit = _window(
            values.astype(np.float64), _number(by.WindowCenter, 0), _number(by.WindowWidth, 1),
            str(by.get("VOILUTFunction", "LINEAR")),
        )  # fmt: skip
    elif head.get("BitsStored") is None or (values.dtype == np.uint8 and int(head.BitsStored) == 8):
        return values  # of a parametric map, or 8 bits
    else:
        slope, intercept = _number(head.get("RescaleSlope"), 1), _number(head.get("RescaleIntercept"), 0)
        bits, signed = int(head.get("BitsStored", 16)), int(head.get("PixelRepresentation", 0))
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        low, high = sorted((low * slope + intercept, high * slope + intercept))
        unit = (values.astype(np.float64) - low) / (high - low)
    found: np.ndarray = np.round(np.clip(unit, 0, 1) * 65535).astype(np.uint16)
    return found


def _window(values: NDArray[np.float64], center: float, width: float, function: str) -> NDArray[np.float64]:
    """A window's result in [0, 1]: PS3.3, C.11.2.1.2 and C.11.2.1.3."""
    width = max(width, 1.0 if function == "LINEAR" else 1e-6)
    unit: NDArray[np.float64]
    if function == "SIGMOID":
        unit = 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    elif function == "LINEAR_EXACT":
        unit = (values - center) / width + 0.5
    elif width == 1:
        unit = (values > center - 0.5).astype(np.float64)
    else:
        unit = (values - (center - 0.5)) / (width - 1) + 0.5
    return unit
