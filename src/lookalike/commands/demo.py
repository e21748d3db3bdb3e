"""`demo`: a training and its evaluation without any images of one's own. Importing it brings along nothing heavy."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..runs import Result
    from .digits import Score


def demo(
    *, out: str | os.PathLike[str] = "runs/demo", epochs: int = 20, seed: int = 0, overwrite: bool = False
) -> "tuple[Result, list[Score]]":
    """Trains SimCLR on scikit-learn's handwritten digits and judges it: no data needed, a minute or two on two cores.

    Args:
        out: folder of the run; the images go beside it, to OUT-digits.
        epochs: passes over the unlabelled images.
        seed: of placing, weights, views and draws.
        overwrite: replace an earlier demo in these folders.

    Returns:
        The training's result, and what the test says of raw pixels, the untrained and the trained encoder.

    Raises:
        FileExistsError: `out` or OUT-digits is taken.
    """
    from .digits import train_on_digits

    return train_on_digits(out, epochs=epochs, seed=seed, overwrite=overwrite)
