"""From files to batches of decoded images: sources, decoding, sampling order, loading, replacement of broken images."""

from ..columns import Columns
from ..files import cache_folder
from ..images import Images
from .channel_statistics import statistics
from .chosen import only_chosen
from .decoding import decode
from .errors import BrokenImage
from .loader import Loader
from .remarks import remarks, warnings_about
from .sources import Data, Source, Subset, image_set, open_maybe_labelled, open_source
from .teacher_cache import Answers
from .workers import lost

__all__ = [
    "Answers",
    "BrokenImage",
    "Columns",
    "Data",
    "Images",
    "Loader",
    "Source",
    "Subset",
    "cache_folder",
    "decode",
    "image_set",
    "lost",
    "only_chosen",
    "open_maybe_labelled",
    "open_source",
    "remarks",
    "statistics",
    "warnings_about",
]
