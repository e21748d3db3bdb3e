"""Image settings of options and saved encoders: limits, and the treatment of an alpha channel."""

from typing import Literal

Alpha = Literal["auto", "white", "drop"]
LARGEST_IMAGE = 16_384
"""Maximum side of a network's input, in pixels."""
MOST_CHANNELS = 10_000
"""Maximum number of channels of an image."""
