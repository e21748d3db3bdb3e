"""Trained encoders: saved by a run, loaded from a run, a weights file, or by a name of timm or torchvision."""

from .card import Card, read_as
from .exported import check_verified, is_export, load_onnx
from .initial_weights import start_from
from .loader import image_size, load, own, places
from .pickles import unpickled
from .saved import PREFIX, card_within, mend_card, read_card, read_whole, save, write

__all__ = [
    "PREFIX", "Card", "card_within", "check_verified", "image_size", "is_export", "load", "load_onnx", "mend_card",
    "own", "places", "read_as", "read_card", "read_whole", "save", "start_from", "unpickled", "write",
]  # fmt: skip
