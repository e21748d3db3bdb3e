"""What a forward pass hands over, as a training passes it on."""

from collections.abc import Mapping

from torch import Tensor


def detached(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in outputs.items()}
