"""The command `demo`: training and evaluation on built-in data. It imports nothing heavy."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..runs import Result
    from .digits import Score


def demo(
    *, out: str | os.PathLike[str] = "runs/demo", epochs: int = 20, seed: int = 0, overwrite: bool = False
) -> "tuple[Result, list[Score]]":
    """Trains SimCLR on scikit-learn's handwritten digits and evaluates it: no data needed, 1-2 minutes on two cores.

    Args:
        out: run folder; the images are written next to it, to OUT-digits.
        epochs: number of passes over the unlabelled images.
        seed: random seed of digit positions, weights, views and label draws.
        overwrite: replace an earlier demo in these folders.

    Returns:
        The training's result, and the scores of raw pixels, the untrained and the trained encoder.

    Raises:
        FileExistsError: `out` or OUT-digits exists.
    """
    from .digits import train_on_digits

    return train_on_digits(out, epochs=epochs, seed=seed, overwrite=overwrite)
