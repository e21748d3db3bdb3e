"""Sources of images with a common interface: files, items of Datasets, lists and arrays, and subsets of these."""

from .factory import open_maybe_labelled, open_source
from .source import Data, Indexed, Source, image_set
from .subset import Subset

__all__ = ["Data", "Indexed", "Source", "Subset", "image_set", "open_maybe_labelled", "open_source"]
