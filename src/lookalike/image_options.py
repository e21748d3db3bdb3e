"""What options and saved encoders say of images: their limits, and what becomes of an alpha channel."""

from typing import Literal

Alpha = Literal["auto", "white", "drop"]
LARGEST_IMAGE = 16_384
"""Pixels a side of what a network sees, at most."""
MOST_CHANNELS = 10_000
"""Of an image."""
