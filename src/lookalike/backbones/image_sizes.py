"""Image sizes that a network accepts, and errors for other sizes."""

from collections.abc import Callable

SIZES = (16, 32, 48, 64, 96, 128, 160, 192, 224, 256, 288, 320, 384, 448, 512)
"""Image sizes tried in order to suggest one that works in an error message."""


class WrongOutput(ValueError):
    """A user's module does not return features, whatever the image size."""


def patch_grid(name: str, patch: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of patches in an image of `height` x `width` pixels."""
    if height % patch or width % patch or not height or not width:
        near = {max(side // patch + up, 1) * patch for side in (height, width) for up in (0, side % patch > 0)}
        raise ValueError(
            f"{name} has patches of {patch} x {patch} pixels and does not accept images of {height} x {width} pixels. "
            f"The nearest sizes that work: {', '.join(map(str, sorted(near)))}."
        )
    return height // patch, width // patch


def wrong_size(name: str, size: int, error: Exception, attempt: Callable[[int], object], *own: int) -> ValueError:
    """The error for an unsupported size, with the nearest of `SIZES` and `own` for which `attempt` succeeds."""
    works = None
    for other in sorted({*SIZES, *own} - {size}, key=lambda s: abs(s - size)):
        try:
            attempt(other)
        except Exception:
            continue
        works = other
        break
    reason = str(error).strip().split("\n")[0]
    if not isinstance(error, ValueError | RuntimeError) or not reason:  # such as "x", the message of a KeyError
        reason = f"{type(error).__name__}: {reason}".removesuffix(": ")
    advice = f"The nearest size that works is {works}." if works else "No other size works either."
    return ValueError(f"{name} does not accept images of {size} x {size} pixels ({reason}). {advice}")
