"""Pictures of an encoder's attention, patch features and nearest neighbours, for visual inspection."""

import csv
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbones import Backbone
from ..columns import Columns
from ..data import BrokenImage, Data, Source, open_source, remarks
from ..evaluation.extractor import Encoder, open_encoder
from ..evaluation.features import as_parameters, crop, features
from ..evaluation.neighbours import others
from ..files import atomic, check_output
from ..image_options import Tiling
from ..images import promote
from ..modes import evaluating
from ..places import is_published
from ..printing import cell, counted
from ..progress import counting
from ..random import permutation
from ..views import sheet, stretch

CELL = 128
"""Approximate size of an image on a sheet, in pixels: smaller images are enlarged by an integer factor."""
SHOWN_NEIGHBOURS = 8
"""Number of nearest neighbours next to each image."""
AT_ONCE = 32
"""Images per forward pass."""


def draw_pictures(
    encoder: Encoder,
    images: Data,
    *,
    out: str | os.PathLike[str],
    what: Sequence[str],
    count: int,
    image_size: int | None,
    workers: int,
    seed: int,
    overwrite: bool,
    encoder_backbone: str | None,
    columns: Columns,
    tiling: Tiling | None,
    say: Callable[[str], None],
) -> list[Path]:
    """Computes and draws the pictures of `show`, with its arguments; returns the files."""
    # before a download
    source = open_source(images, columns=columns, tiling=tiling) if is_published(encoder) else None
    model = open_encoder(encoder, image_size, encoder_backbone)
    if model.remark:
        say(f"weights: {model.remark}")
    size = image_size or model.image_size
    model.check_size(size)
    source = source or open_source(images, model.pixels, columns=columns, tiling=tiling)
    for line in remarks(source):
        say(line)
    names, x = _some(source, map(int, permutation(len(source), seed, "show")), count, size)
    maps = _maps(model, x, what, say)
    wanted = [*maps, *(["neighbours"] if not what or "neighbours" in what else [])]
    files = _files(Path(out), wanted, overwrite)
    found = _found_neighbours(model, source, names, size, workers, what, say) if "neighbours" in files else None
    if found is None:
        files = {name: file for name, file in files.items() if not name.startswith("neighbours")}
    Path(out).mkdir(parents=True, exist_ok=True)  # after all computations: existing pictures are replaced together
    _draw(_Shown(model, x, size, maps, found), files, say)
    return [*files.values()]


@dataclass(frozen=True)
class _Shown:
    """The results that are drawn."""

    model: Backbone
    x: Tensor
    """(M, C, size, size), in [0, 1]."""
    size: int
    maps: "dict[str, Tensor]"
    """Attention maps (M, heads, rows, columns) and patch tokens (M, N, P)."""
    neighbours: "Neighbours | None"


def _maps(model: Backbone, x: Tensor, what: Sequence[str], say: Callable[[str], None]) -> dict[str, Tensor]:
    """The requested attention maps and patch tokens, if the encoder has them."""
    drawn: dict[str, Tensor] = {}
    with evaluating(model), torch.inference_mode():
        batches = [_normalized(part, model) for part in torch.split(x, AT_ONCE)]
        if _wanted("attention", what, model.attention, batches[0][:1], say):
            drawn["attention"] = torch.cat([attention_maps(model, batch).cpu() for batch in batches])
        if _wanted("pca", what, model.tokens, batches[0][:1], say):
            drawn["pca"] = torch.cat([model.tokens(batch).patches.float().cpu() for batch in batches])
    return drawn


def _files(folder: Path, wanted: Sequence[str], overwrite: bool) -> dict[str, Path]:
    """The files of the pictures, and of the table of neighbours.

    Raises:
        FileExistsError: a file exists and `overwrite` is not set.
    """
    files = {name: folder / f"{name}.png" for name in wanted}
    if "neighbours" in files:
        files["neighbours of each"] = folder / "neighbours.csv"
    for file in files.values():
        check_output(file, overwrite)
    return files


def _found_neighbours(
    model: Backbone, source: Source, names: list[str], size: int, workers: int, what: Sequence[str],
    say: Callable[[str], None],
) -> "Neighbours | None":  # fmt: skip
    """The nearest neighbours; None if they cannot be computed and were not requested explicitly."""
    try:
        return _neighbours(model, source, names, size, workers, say)
    except ValueError as error:
        if "neighbours" in what:
            raise
        say(f"neighbours: skipped. {error}")
        return None


def _draw(shown: _Shown, files: dict[str, Path], say: Callable[[str], None]) -> None:
    """Writes the pictures, and reports what each of them shows."""
    model, x, size, maps, found = shown.model, shown.x, shown.size, shown.maps, shown.neighbours
    bands = model.pixels.shown
    limits = stretch([*x], bands)
    inputs, images = _rgb(x, bands, limits), counted(len(x), "image")
    grid = _grid(maps["pca"], size, model) if "pca" in maps else None
    if maps:
        rows, columns = maps["attention"].shape[-2:] if grid is None else grid.shape[1:3]
        if line := _coarse(model, rows, columns, size):
            say(line)
    if "attention" in maps:
        heads = maps["attention"]
        _write(files["attention"], [inputs, *(heat(_scaled(m)) for m in (heads.mean(1), *heads.unbind(1)))], size)
        count = counted(heads.shape[1], "head")
        say(f"attention: {images}; each row shows the image, the mean of {count}, then each head")
    if grid is not None:
        first, colours = patch_colours(grid)
        _write(files["pca"], [inputs, heat(first), colours], size)
        say(
            f"pca: {images}; each row shows the image, the first component, and three components of the foreground "
            "as colours"
        )
    if found is not None:
        _write(files["neighbours"], [_rgb(column, bands, limits) for column in found.columns], size)
        _write_table(files["neighbours of each"], found)
        say(f"neighbours: {images}, each followed by its {len(found.columns) - 1} nearest of {found.images}")


def attention_maps(model: Backbone, x: Tensor) -> Tensor:
    """Attention of the class token to each patch in the last block.

    (B, C, H, W), normalised -> (B, heads, rows, columns); attention to the class token and registers is left out.
    """
    patch = model.patch_size
    assert patch is not None
    rows, columns = (side // patch for side in x.shape[-2:])
    to_patches = model.attention(x)[:, :, 0, -rows * columns :]
    return to_patches.view(*to_patches.shape[:2], rows, columns).float()


def patch_colours(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Patch tokens of several images as colours with one meaning in all of them (after Oquab et al., DINOv2, fig. 1).

    The first principal component of all patches separates foreground from background, at Otsu's threshold; the side
    that is rarer along image borders is the foreground. Unlike in the paper, each image's mean is subtracted first: in
    small networks, patches differ more between images than between foreground and background. The first three
    components of the foreground patches, without this subtraction, are red, green and blue. Images of a single patch
    have no foreground.

    Args:
        tokens: (M, rows, columns, P), of M images.

    Returns:
        The first component (M, rows, columns), from 0 to 1 and larger in the foreground, and the colours
        (M, 3, rows, columns), black in the background.
    """
    x = tokens.double()
    first = _components((x - x.mean((1, 2), keepdim=True)).flatten(0, 2), 1).view(x.shape[:3])
    inner = torch.zeros_like(first, dtype=torch.bool)
    inner[:, 1:-1, 1:-1] = True
    if inner.any() and first[~inner].mean() > first[inner].mean():
        first = -first
    first = (first - first.min()) / (first.max() - first.min()).clamp(min=1e-12)
    foreground = first > otsu(first.flatten())
    colours = torch.zeros(*first.shape, 3, dtype=x.dtype)
    if int(foreground.sum()) > 3:
        colours[foreground] = _stretched(_components(x[foreground], 3))
    return first.float(), colours.movedim(-1, 1).float()


def otsu(values: Tensor, bins: int = 256) -> float:
    """The threshold of values (N,) in [0, 1] that minimises the variance within its two sides (Otsu, 1979)."""
    counts = torch.histc(values.double(), bins, 0, 1)
    centres = (torch.arange(bins, dtype=torch.float64) + 0.5) / bins
    below, total = counts.cumsum(0), counts.sum()
    mass = (counts * centres).cumsum(0)
    between = (mass[-1] * below - mass * total) ** 2 / (below * (total - below)).clamp(min=1e-12)
    best = (between >= between.max() * (1 - 1e-9)).nonzero()  # the middle of an empty interval between two groups
    return float((best[0] + best[-1] + 2) / 2 / bins)


def heat(values: Tensor) -> Tensor:
    """Colours (..., 3, H, W) of values (..., H, W) in [0, 1], from black via violet and orange to pale yellow."""
    ramp = torch.tensor(
        [[0.0, 0.0, 0.02], [0.34, 0.06, 0.43], [0.73, 0.21, 0.33], [0.98, 0.55, 0.04], [0.99, 1.0, 0.64]]
    )
    at = values.clamp(0, 1) * (len(ramp) - 1)
    low = at.floor().long().clamp(max=len(ramp) - 2)
    return torch.lerp(ramp[low], ramp[low + 1], (at - low)[..., None]).movedim(-1, -3)


def _wanted(
    name: str, what: Sequence[str], method: Callable[[Tensor], object], x: Tensor, say: Callable[[str], None]
) -> bool:
    """Whether to draw a picture; one that the encoder does not support is skipped unless requested explicitly."""
    if what and name not in what:
        return False
    try:
        method(x)
    except ValueError as error:
        if name in what:
            raise
        say(f"{name}: skipped. {error}")
        return False
    return True


def _some(source: Source, indices: Iterable[int], count: int, size: int) -> tuple[list[str], Tensor]:
    """Names and test crops (M, C, size, size), in [0, 1], of the first `count` readable images."""
    names: list[str] = []
    crops: list[Tensor] = []
    for index in indices:
        if len(crops) == count:
            break
        try:
            image = crop(source.read(index, None), size)
        except BrokenImage:
            continue
        names.append(source.name(index))
        crops.append(promote(image, torch.float32))
    if not crops:
        raise ValueError(f"None of the {counted(len(source), 'image')} could be read; `lookalike check` reports why.")
    return names, torch.stack(crops)


def _normalized(x: Tensor, model: Backbone) -> Tensor:
    mean, std = (torch.tensor(n).view(-1, 1, 1) for n in (model.mean, model.std))
    return as_parameters(model, (x - mean) / std)


def _grid(patches: Tensor, size: int, model: Backbone) -> Tensor:
    """(M, N, P) -> (M, rows, columns, P)."""
    side = size // model.patch_size if model.patch_size else round(patches.shape[1] ** 0.5)
    return patches.view(len(patches), side, -1, patches.shape[2])


def _components(x: Tensor, count: int) -> Tensor:
    """Coordinates (N, count) of samples (N, P) along their principal components; the largest loading is positive."""
    x = x - x.mean(0)
    _, directions = torch.linalg.eigh(x.mT @ x)
    top = directions[:, -count:].flip(1)
    largest = top.gather(0, top.abs().argmax(0, keepdim=True))
    found: Tensor = x @ (top * largest.sign())
    return F.pad(found, (0, count - found.shape[1]))


def _stretched(x: Tensor) -> Tensor:
    """Scales each column's 1st to 99th percentile to [0, 1]."""
    low, high = torch.quantile(x, torch.tensor([0.01, 0.99], dtype=x.dtype), 0)
    stretched: Tensor = (x - low) / (high - low).clamp(min=1e-12)
    return stretched.clamp(0, 1)


COARSE, FINE = 7, 14
"""Patches per side: a map of at most `COARSE` shows hardly any detail, one of `FINE` shows objects."""


def _coarse(model: Backbone, rows: int, columns: int, size: int) -> str:
    """A remark on maps of few patches, with the image size for finer ones; empty if they are fine enough."""
    if min(rows, columns) > COARSE:
        return ""
    line = f"{rows} x {columns} patches per image give coarse maps"
    wanted = size * math.ceil(FINE / min(rows, columns))
    try:
        model.patches_at(wanted)
    except Exception:  # the error depends on the network's library
        return f"{line}: {model.name} does not accept larger images. A network with smaller patches gives finer maps."
    return f"{line}: --image-size {wanted} gives finer ones."


def _scaled(maps: Tensor) -> Tensor:
    """Each map (M, H, W) divided by its maximum."""
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12)


def _rgb(x: Tensor, bands: Sequence[int], limits: tuple[Tensor, Tensor]) -> Tensor:
    """Images (M, C, H, W) as RGB: three channels, or one as grey, with `limits` as black and white."""
    return ((x[:, [*bands]] - limits[0]) / (limits[1] - limits[0])).expand(-1, 3, -1, -1)


def _write(path: Path, columns: Sequence[Tensor], size: int) -> None:
    """Writes a sheet with a row per image; all columns (M, 3, h, w) are enlarged to the same size."""
    cell = size * max(1, round(CELL / size))
    with atomic(path) as temporary:
        sheet([F.interpolate(c, (cell, cell)) for c in columns], None, None, len(columns[0])).save(temporary)


@dataclass(frozen=True)
class Neighbours:
    """Nearest neighbours of some images."""

    columns: list[Tensor]
    """(M, C, size, size) each: the images, their nearest neighbours, their second nearest, and so on."""
    rows: list[tuple[str, int, str, float]]
    """An image's name, the neighbour's rank from 1, its name and cosine similarity."""
    images: int
    """Number of images that were searched."""


def _neighbours(
    model: Backbone, source: Source, names: list[str], size: int, workers: int, say: Callable[[str], None]
) -> Neighbours:
    computed = features(
        model, source, image_size=size, mean=model.mean, std=model.std, workers=workers,
        progress=counting(say, "neighbours: ", "images"),
    )  # fmt: skip
    if len(computed.names) < 2:
        raise ValueError("A single image has no neighbours. Give a folder with more images.")
    row_of = {name: row for row, name in enumerate(computed.names)}
    queries = torch.tensor([row_of[name] for name in names])
    cosines, indices = others(computed.features, queries, SHOWN_NEIGHBOURS)
    shown = [queries[:, None], indices]
    columns = [_some(source, computed.index[c].tolist(), len(c), size)[1] for c in torch.cat(shown, 1).unbind(1)]
    rows = [
        (name, n, computed.names[index], cosine)
        for name, values, found in zip(names, cosines.tolist(), indices.tolist())
        for n, (cosine, index) in enumerate(zip(values, found), 1)
    ]
    return Neighbours(columns, rows, len(computed.names))


def _write_table(path: Path, found: Neighbours) -> None:
    with (
        atomic(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["image", "rank", "neighbour", "cosine"])
        writer.writerows([cell(image), n, cell(near), f"{cosine:.4f}"] for image, n, near, cosine in found.rows)
