"""From runs and images to the maps and pictures of a page."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ... import encoders
from ...backbones import Backbone
from ...data import Data, Source, Subset, open_maybe_labelled, open_source
from ...evaluation.extractor import open_encoder
from ...evaluation.features import Features, features
from ...printing import counted
from ...progress import counting
from ...random import permutation
from ...runs import Folder
from .. import show
from ..embed import embed
from . import projection
from .run_data import Content

DRAWN = 4
"""Images whose attention and patches are drawn."""
DRAWABLE: tuple[show.What, ...] = ("attention", "pca")
"""Pictures that are drawn for a page where the run's folder has none."""
FINEST = 5
"""Patches a side below which their colours show nothing."""
NARROWEST, WIDEST = 300, 1600
"""Pixels of a picture on a page; others are enlarged or shrunk."""

Say = Callable[[str], None]
PICTURES = {
    "views": ("What it was trained on", "Each row: an image, and the augmented views of it that the method compares."),
    "result": ("Before and after", "Test images and their nearest training images, by raw pixels and by the encoder. "
               "Green frames are of the same class."),
    "attention": ("Where it looks", "Each row: an image, the mean attention of the class token, then head by head. "
                  "Bright patches count most."),
    "pca": ("What it tells apart", "Each row: an image, its patches' first principal component, and the next three of "
            "the foreground as red, green and blue. One colour means: alike to the encoder."),
    "neighbours": ("Nearest neighbours", "Each row: an image, and the images whose features are most like its own."),
}  # fmt: skip
"""Title and explanation of each picture."""


@dataclass
class Gallery:
    """The image sets of a page and the maps over them; runs that are mapped over the same images share thumbnails."""

    points: int
    workers: int
    say: Say
    sets: list[Content] = field(default_factory=list)
    maps: list[Content] = field(default_factory=list)
    _known: dict[tuple[str, int, tuple[int, ...]], int] = field(default_factory=dict)

    def add(self, name: str, folder: Path, data: Data) -> None:
        """Maps a run's embedding of some images.

        Raises:
            ValueError, FileNotFoundError: an encoder or images that cannot be used.
        """
        model = open_encoder(folder)
        source = source_of(data, model)
        made, places = self._features(folder, model, source, data)
        if len(places) > 2000:
            self.say(f"map: placing {counted(len(places), 'image')}")
        place = projection.placed(made.features)
        wanted = len(source.classes) if source.classes else projection.CLUSTERS
        groups = min(wanted, projection.MOST_CLUSTERS, max(1, len(places) // 4))
        nearest = projection.neighbours(made.features)
        self.maps.append(
            {
                "run": name,
                "images": self._set(data, source, places, model),
                "xy": projection.encoded(place.xy),
                "near": projection.encoded(nearest),
                "nearCount": nearest.shape[1],
                "clusters": projection.encoded(projection.clusters(made.features, groups)),
                "how": place.how,
                "left": len(made.broken),
            }
        )

    def _features(self, folder: Path, model: Backbone, source: Source, data: Data) -> tuple[Features, list[int]]:
        """Features of `points` images at most, and their indices in the source."""
        chosen = permutation(len(source), 0, "report")[: self.points].sort().values
        if len(chosen) == len(source) and isinstance(data, str | os.PathLike):
            made = embed(folder, data, workers=self.workers)
            return made, made.index.tolist()
        made = features(
            model, Subset(source, chosen.tolist()), image_size=model.image_size, mean=model.mean, std=model.std,
            workers=self.workers,
            progress=counting(self.say, "map: ", "images"),
        )  # fmt: skip
        return made, chosen[made.index].tolist()

    def _set(self, data: Data, source: Source, places: list[int], model: Backbone) -> int:
        """The index of an image set, which is added where it is not known yet."""
        key = (os.fspath(data) if isinstance(data, str | os.PathLike) else str(id(data)), model.channels, tuple(places))
        if key not in self._known:
            self._known[key] = len(self.sets)
            labels = None if source.labels is None else source.labels[places]
            self.sets.append(
                {
                    "names": [source.name(i) for i in places],
                    "classes": list(source.classes or ()),
                    "labels": None if labels is None else projection.encoded(labels.numpy().astype(np.uint32)),
                    "sheets": projection.sheets(source, places, min(projection.TILE, model.image_size)),
                    "of": str(data) if isinstance(data, str | os.PathLike) else type(data).__name__,
                    "all": len(source),
                }
            )
        return self._known[key]


def source_of(data: Data, model: Backbone) -> Source:
    """The images, with labels where they have some."""
    if isinstance(data, str | os.PathLike):
        return open_maybe_labelled(os.fspath(data), model.channels, model.alpha)
    return open_source(data, channels=model.channels, alpha=model.alpha)


MOST_PIXELS = 2**26
"""Of a picture on a page."""


def picture(path: Path) -> str:
    """A picture's file as a data URI, neither tiny nor wider than a page."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{path} has {image.width} x {image.height} pixels, more than a page shows.")
            rgb = image.convert("RGB")
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} has more pixels than a page shows.") from error
    if rgb.width < NARROWEST:
        factor = -(-NARROWEST // rgb.width)
        rgb = rgb.resize((factor * rgb.width, factor * rgb.height), Image.Resampling.NEAREST)
    if rgb.width > WIDEST:
        rgb = rgb.resize((WIDEST, round(rgb.height * WIDEST / rgb.width)), Image.Resampling.LANCZOS)
    return projection.data_uri(rgb, quality=85)


def found_pictures(folder: Path) -> dict[str, Path]:
    """The pictures that lie in a run's folder, or in `show` within it, by name."""
    found: dict[str, Path] = {}
    for name in PICTURES:
        for path in (folder / "show" / f"{name}.png", folder / f"{name}.png"):
            # a link in a stranger's folder could lead to any picture of this machine
            if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
                found.setdefault(name, path)
    return found


def run_pictures(folder: Path, data: Data | None, say: Say) -> list[Content]:
    """The pictures of a run: those in its folder, and attention and patches of a few of `data`, drawn now."""
    found = {name: picture(path) for name, path in found_pictures(folder).items()}
    if data is not None and Folder(folder).weights.is_file():
        try:
            found |= _drawn(folder, data, [name for name in DRAWABLE if name not in found])
        except (ValueError, OSError) as error:  # an encoder that cannot be loaded, images that are gone
            say(f"attention and patches: left out. {error}")
    return [
        {"name": name, "title": title, "note": note, "url": found[name]}
        for name, (title, note) in PICTURES.items()
        if name in found
    ]


def _drawn(folder: Path, data: Data, names: list[show.What]) -> dict[str, str]:
    model = encoders.load(folder)
    worth = [name for name in names if _is_worth(name, model)]
    with tempfile.TemporaryDirectory(prefix="lookalike-report-") as temporary:
        return {name: picture(show.show(model, data, out=temporary, what=[name], count=DRAWN)[0]) for name in worth}


@torch.inference_mode()
def _is_worth(name: show.What, model: Backbone) -> bool:
    """Whether an encoder has the picture: attention takes a plain ViT, colours enough patches."""
    blank = torch.zeros(1, model.channels, model.image_size, model.image_size)
    if name == "pca":
        return model.tokens(blank).patches.shape[1] >= FINEST**2
    try:
        model.attention(blank)
    except ValueError:
        return False
    return True
