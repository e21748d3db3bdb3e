"""From image files to the encoder's input, as `embed` and `predict` compute it."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..data import BrokenImage, decode
from ..data.decoding import pixels_stated
from ..evaluation.features import crop
from ..images import promote
from .model import Description
from .refusal import Refused
from .uploads import Upload


def prepared(uploads: Sequence[Upload], model: Description, max_pixels: int) -> NDArray[np.float32]:
    """The test crops of image files, normalised: (N, C, S, S).

    Raises:
        Refused: more pixels than allowed (413), or a file that cannot be read (422).
    """
    total = 0
    for upload in uploads:  # before the first is decoded
        total += pixels_stated(upload.content)
        if total > max_pixels:
            which = f"{upload.name} has" if len(uploads) == 1 else f"The images up to {upload.name} have"
            raise Refused(
                413,
                f"{which} more than {max_pixels:,} pixels, the limit of --max-pixels. Send fewer or smaller images.",
            )
    shift, scale = (torch.tensor(v, dtype=torch.float32).view(-1, 1, 1) for v in (model.mean, model.std))
    size = model.image_size
    images = torch.empty(len(uploads), model.channels, size, size)
    for i, upload in enumerate(uploads):
        try:
            image = crop(decode(upload.content, model.pixels), size)
        except BrokenImage as error:
            raise Refused(422, f"{upload.name}: {error.reason}") from None
        images[i] = (promote(image, torch.float32) - shift) / scale
    return images.numpy()
