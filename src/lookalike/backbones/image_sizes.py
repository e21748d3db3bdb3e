"""Which image sizes a network takes, and what is said of the others."""

from collections.abc import Callable

SIZES = (16, 32, 48, 64, 96, 128, 160, 192, 224, 256, 288, 320, 384, 448, 512)
"""Image sizes that are tried to say in an error message what works."""


class WrongOutput(ValueError):
    """A module of the user's returns something else than features: no other image size would help."""


def patch_grid(name: str, patch: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of patches in an image of that many pixels."""
    if height % patch or width % patch or not height or not width:
        near = {max(side // patch + up, 1) * patch for side in (height, width) for up in (0, side % patch > 0)}
        raise ValueError(
            f"{name} cuts images into patches of {patch} pixels and cannot take {height} x {width} pixels. "
            f"The nearest sizes that work: {', '.join(map(str, sorted(near)))}."
        )
    return height // patch, width // patch


def wrong_size(name: str, size: int, error: Exception, attempt: Callable[[int], object], *own: int) -> ValueError:
    """Says what is wrong, and the nearest of `SIZES` and the network's `own` that passes `attempt`."""
    works = None
    for other in sorted({*SIZES, *own} - {size}, key=lambda s: abs(s - size)):
        try:
            attempt(other)
        except Exception:
            continue
        works = other
        break
    reason = str(error).strip().split("\n")[0]
    if not isinstance(error, ValueError | RuntimeError) or not reason:  # as a KeyError's "x"
        reason = f"{type(error).__name__}: {reason}".removesuffix(": ")
    advice = f"The nearest size that works is {works}." if works else "No other size works either."
    return ValueError(f"{name} cannot take images of {size} x {size} pixels ({reason}). {advice}")
