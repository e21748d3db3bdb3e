"""The maps and pictures of a page, from runs and images."""

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ... import encoders
from ...backbones import Backbone
from ...columns import COLUMNS, Columns, columns_of
from ...data import Data, Source, Subset, open_maybe_labelled, open_source
from ...evaluation.extractor import open_encoder
from ...evaluation.features import Features, features
from ...image_options import Tiling
from ...image_options import tiling_of as tiles_of_run
from ...printing import counted
from ...progress import counting
from ...random import permutation
from ...runs import Folder, read_yaml
from .. import show
from ..embed import embed
from . import projection
from .run_data import Content, read_options

DRAWN = 4
"""Number of images whose attention and patches are drawn."""
DRAWABLE: tuple[show.What, ...] = ("attention", "pca")
"""Pictures that are drawn for a page if the run's folder lacks them."""
MIN_PATCHES = 5
"""Patches per side below which a PCA of patch features shows nothing."""
MIN_WIDTH, MAX_WIDTH = 300, 1600
"""Width of a picture on a page, in pixels; others are enlarged or shrunk."""

Say = Callable[[str], None]
PICTURES = {
    "views": ("Augmented views", "Each row: an image and its augmented views, as the method sees them in training."),
    "result": ("Neighbours before and after", "Test images and their nearest training images, by raw pixels and by the "
               "encoder. Green frames: same class."),
    "attention": ("Attention", "Each row: an image, the attention of the class token (mean over heads), each head. "
                  "Bright patches have high attention."),
    "pca": ("Patch features", "Each row: an image, the first principal component of its patch features, and the next "
            "three of the foreground as red, green and blue. Patches of one colour have similar features."),
    "neighbours": ("Nearest neighbours", "Each row: an image and the images with the most similar features."),
}  # fmt: skip
"""Title and explanation of each picture."""


@dataclass
class Gallery:
    """The maps of a page and their image sets; maps of the same images share thumbnails."""

    points: int
    workers: int
    say: Say
    sets: list[Content] = field(default_factory=list)
    maps: list[Content] = field(default_factory=list)
    _known: dict[tuple[str, int, tuple[int, ...]], int] = field(default_factory=dict)

    def add(self, name: str, folder: Path, data: Data) -> None:
        """Adds the map of a run's embedding of some images.

        Raises:
            ValueError, FileNotFoundError: the encoder or the images cannot be used.
        """
        model = open_encoder(folder)
        columns = columns_of(read_options(Folder(folder).run, []))
        source = source_of(data, model, columns, tiling_of(folder))
        found, indices = self._features(folder, model, source, data, columns)
        if len(indices) > 2000:
            self.say(f"map: projecting {counted(len(indices), 'image')}")
        layout = projection.project(found.features)
        clusters = len(source.classes) if source.classes else projection.CLUSTERS
        clusters = min(clusters, projection.MAX_CLUSTERS, max(1, len(indices) // 4))
        nearest = projection.neighbours(found.features)
        self.maps.append(
            {
                "run": name,
                "images": self._set(data, source, indices, model),
                "xy": projection.encoded(layout.xy),
                "near": projection.encoded(nearest),
                "nearCount": nearest.shape[1],
                "clusters": projection.encoded(projection.clusters(found.features, clusters)),
                "how": layout.how,
                "unreadable": len(found.broken),
            }
        )

    def _features(
        self, folder: Path, model: Backbone, source: Source, data: Data, columns: Columns
    ) -> tuple[Features, list[int]]:
        """Features of at most `points` images, and their indices in the source."""
        chosen = permutation(len(source), 0, "report")[: self.points].sort().values
        if len(chosen) == len(source) and isinstance(data, str | os.PathLike):
            tiling = tiling_of(folder)
            tile, stride = (None, None) if tiling is None else (tiling.size, tiling.stride)
            found = embed(folder, data, workers=self.workers, columns=columns, tile=tile, stride=stride)
            return found, found.index.tolist()
        found = features(
            model, Subset(source, chosen.tolist()), image_size=model.image_size, mean=model.mean, std=model.std,
            workers=self.workers,
            progress=counting(self.say, "map: ", "images"),
        )  # fmt: skip
        return found, chosen[found.index].tolist()

    def _set(self, data: Data, source: Source, indices: list[int], model: Backbone) -> int:
        """The index of an image set, which is added if it is new."""
        key = (
            os.fspath(data) if isinstance(data, str | os.PathLike) else str(id(data)),
            model.channels,
            tuple(indices),
        )
        if key not in self._known:
            self._known[key] = len(self.sets)
            labels = None if source.labels is None else source.labels[indices]
            self.sets.append(
                {
                    "names": [source.name(i) for i in indices],
                    "classes": list(source.classes or ()),
                    "labels": None if labels is None else projection.encoded(labels.numpy().astype(np.uint32)),
                    "sheets": projection.sheets(source, indices, min(projection.TILE, model.image_size)),
                    "of": str(data) if isinstance(data, str | os.PathLike) else type(data).__name__,
                    "all": len(source),
                }
            )
        return self._known[key]


def source_of(data: Data, model: Backbone, columns: Columns = COLUMNS, tiling: Tiling | None = None) -> Source:
    """The images, with labels if they have some."""
    if isinstance(data, str | os.PathLike):
        return open_maybe_labelled(os.fspath(data), model.pixels, columns, tiling)
    return open_source(data, model.pixels, tiling=tiling)


def tiling_of(folder: Path) -> Tiling | None:
    """The tiles that a run was trained on."""
    path = Folder(folder).run
    if not path.is_file():
        return None
    with suppress(OSError, ValueError):
        return tiles_of_run(read_yaml(path))
    return None


MAX_PIXELS = 2**26
"""Maximum number of pixels of a picture on a page."""


def picture(path: Path) -> str:
    """A picture's file as a data URI, scaled to a width between `MIN_WIDTH` and `MAX_WIDTH`."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(
                    f"{path} has {image.width} x {image.height} pixels, above the limit of a page, {MAX_PIXELS:,}."
                )
            rgb = image.convert("RGB")
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} has more pixels than the limit of a page, {MAX_PIXELS:,}.") from error
    if rgb.width < MIN_WIDTH:
        factor = -(-MIN_WIDTH // rgb.width)
        rgb = rgb.resize((factor * rgb.width, factor * rgb.height), Image.Resampling.NEAREST)
    if rgb.width > MAX_WIDTH:
        rgb = rgb.resize((MAX_WIDTH, round(rgb.height * MAX_WIDTH / rgb.width)), Image.Resampling.LANCZOS)
    return projection.data_uri(rgb, quality=85)


def found_pictures(folder: Path) -> dict[str, Path]:
    """The pictures in a run's folder, or in its sub-folder `show`, by name."""
    found: dict[str, Path] = {}
    for name in PICTURES:
        for path in (folder / "show" / f"{name}.png", folder / f"{name}.png"):
            # a link in an untrusted folder could point to any picture of this machine
            if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
                found.setdefault(name, path)
    return found


def run_pictures(folder: Path, data: Data | None, say: Say) -> list[Content]:
    """The pictures of a run: those in its folder, and attention and patch features of a few images of `data`."""
    found = {name: picture(path) for name, path in found_pictures(folder).items()}
    if data is not None and Folder(folder).weights.is_file():
        try:
            found |= _drawn(folder, data, [name for name in DRAWABLE if name not in found])
        except (ValueError, OSError) as error:  # unloadable encoder, missing images
            say(f"attention and patch features are left out: {error}")
    return [
        {"name": name, "title": title, "note": note, "url": found[name]}
        for name, (title, note) in PICTURES.items()
        if name in found
    ]


def _drawn(folder: Path, data: Data, names: list[show.What]) -> dict[str, str]:
    model = encoders.load(folder)
    drawable = [name for name in names if _is_drawable(name, model)]
    tiling = tiling_of(folder)
    tile, stride = (None, None) if tiling is None else (tiling.size, tiling.stride)
    with tempfile.TemporaryDirectory(prefix="lookalike-report-") as temporary:
        return {
            name: picture(show.show(model, data, out=temporary, what=[name], count=DRAWN, tile=tile, stride=stride)[0])
            for name in drawable
        }


@torch.inference_mode()
def _is_drawable(name: show.What, model: Backbone) -> bool:
    """Whether an encoder supports a picture: attention needs a plain ViT, PCA enough patches."""
    blank = torch.zeros(1, model.channels, model.image_size, model.image_size)
    if name == "pca":
        return model.tokens(blank).patches.shape[1] >= MIN_PATCHES**2
    try:
        model.attention(blank)
    except ValueError:
        return False
    return True
