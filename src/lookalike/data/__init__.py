"""From files to batches of decoded images: sources, decoding, order, loading, and what stands in for a broken image."""

from ..files import cache_folder
from ..images import Images
from .answers import Answers
from .decoding import BrokenImage, decode
from .loading import Loader
from .reading import lost
from .remarks import remarks, warnings_about
from .sources import Data, Source, Subset, open_maybe_labelled, open_source, statistics

__all__ = [
    "Answers",
    "BrokenImage",
    "Data",
    "Images",
    "Loader",
    "Source",
    "Subset",
    "cache_folder",
    "decode",
    "lost",
    "open_maybe_labelled",
    "open_source",
    "remarks",
    "statistics",
    "warnings_about",
]
