"""Formats that other packages add to Pillow or to this library, and what installs them."""

from collections.abc import Iterable
from functools import lru_cache
from importlib.util import find_spec
from typing import Final

from PIL import Image

OPTIONAL: Final = {
    "dcm": ("pydicom", "dicom"),
    "dicom": ("pydicom", "dicom"),
    "heic": ("pillow_heif", "heic"),
    "heif": ("pillow_heif", "heic"),
    "hif": ("pillow_heif", "heic"),
}
"""Suffixes of files that need a package -> the package and the extra that installs it."""
SUFFIXES: Final = tuple(suffix for suffix, (package, _) in OPTIONAL.items() if find_spec(package) is not None)
"""Those of them that this installation reads."""
_HEIF: Final = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AVIF: Final = (b"avif", b"avis")


def register_for(head: bytes) -> None:
    """Registers pillow-heif with Pillow if it is installed and a file that begins with `head` needs it."""
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF:
        _register()


@lru_cache(1)
def _register() -> None:
    if find_spec("pillow_heif") is not None:
        from pillow_heif import register_heif_opener

        register_heif_opener(thumbnails=False)


def needed(head: bytes) -> str:
    """What reads a file that Pillow could not identify; empty if it is in none of these formats."""
    brand = head[8:12]
    if head[4:8] != b"ftyp":
        return ""
    if brand in _HEIF:
        if find_spec("pillow_heif") is None:
            return "HEIC. pip install 'lookalike[heic]' reads it"
        return "HEIC, which pillow-heif could not open. Convert it to PNG or TIFF"
    if brand in _AVIF and "AVIF" not in Image.OPEN:
        return "AVIF, which this build of Pillow does not read. pip install --upgrade pillow"
    return ""


def advice(suffixes: Iterable[str]) -> str:
    """What would read skipped files with these suffixes (with a leading dot); empty if nothing would."""
    extras: dict[str, list[str]] = {}
    for suffix in sorted(suffixes):
        package, extra = OPTIONAL.get(suffix.removeprefix("."), ("", ""))
        if package and find_spec(package) is None:
            extras.setdefault(extra, []).append(suffix)
    return "; ".join(f"pip install 'lookalike[{extra}]' reads {', '.join(names)}" for extra, names in extras.items())
