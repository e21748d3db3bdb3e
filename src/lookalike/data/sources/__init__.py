"""Where images come from: files, the items of Datasets, lists and arrays, and parts of these, behind one face."""

from .factory import open_maybe_labelled, open_source
from .source import Data, Indexed, Source
from .subset import Subset

__all__ = ["Data", "Indexed", "Source", "Subset", "open_maybe_labelled", "open_source"]
