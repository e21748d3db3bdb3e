"""From files to batches of decoded images: sources, decoding, order, loading, and what stands in for a broken image."""

from .decoding import BrokenImage, decode
from .images import Images
from .loading import Loader
from .reading import lost
from .sources import Source, Subset, open_source, statistics

__all__ = [
    "BrokenImage",
    "Images",
    "Loader",
    "Source",
    "Subset",
    "decode",
    "lost",
    "open_source",
    "statistics",
]
