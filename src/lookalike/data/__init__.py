"""From files to batches of decoded images: sources, decoding, sampling order, loading, replacement of broken images."""

from ..columns import Columns
from ..files import cache_folder
from ..image_options import Pixels, Scale, Tiling
from ..images import Images
from .channel_statistics import statistics
from .chosen import only_chosen
from .decoding import decode
from .errors import BrokenImage
from .loader import Loader
from .remarks import remarks, warnings_about
from .scale_statistics import measured, measured_line
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
    "Pixels",
    "Scale",
    "Source",
    "Subset",
    "Tiling",
    "cache_folder",
    "decode",
    "image_set",
    "lost",
    "measured",
    "measured_line",
    "only_chosen",
    "open_maybe_labelled",
    "open_source",
    "remarks",
    "statistics",
    "warnings_about",
]
