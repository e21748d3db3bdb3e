"""str an encoder sees: where it looks, how its patches group, which images are alike to it. For eyes, no measure."""

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
from ..data import BrokenImage, Data, Source, open_source, remarks
from ..evaluation.extractor import Encoder, open_encoder
from ..evaluation.features import as_parameters, crop, features
from ..evaluation.neighbours import others
from ..files import atomic, check_output
from ..images import promote
from ..modes import evaluating
from ..places import is_published
from ..printing import cell, counted
from ..progress import counting
from ..random import permutation
from ..views import black_and_white, sheet

CELL = 128
"""Pixels that an image of a sheet has at least: smaller ones are enlarged by a whole number."""
SHOWN_NEIGHBOURS = 8
"""Nearest images beside each one of the sheet."""
AT_ONCE = 32
"""Images that the encoder sees together."""


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
    say: Callable[[str], None],
) -> list[Path]:
    """Computes and draws the pictures of `show`, whose arguments these are; returns their files."""
    source = open_source(images) if is_published(encoder) else None  # before it is fetched
    model = open_encoder(encoder, image_size, encoder_backbone)
    if model.remark:
        say(f"weights: {model.remark}")
    size = image_size or model.image_size
    model.check_size(size)
    source = source or open_source(images, channels=model.channels, alpha=model.alpha)
    for line in remarks(source):
        say(line)
    names, x = _some(source, map(int, permutation(len(source), seed, "show")), count, size)
    maps = _maps(model, x, what, say)
    wanted = [*maps, *(["neighbours"] if not what or "neighbours" in what else [])]
    files = _files(Path(out), wanted, overwrite)
    found = _found_neighbours(model, source, names, size, workers, what, say) if "neighbours" in files else None
    if found is None:
        files = {name: file for name, file in files.items() if not name.startswith("neighbours")}
    Path(out).mkdir(parents=True, exist_ok=True)  # all is computed: pictures that are there are replaced together
    _draw(_Shown(model, x, size, maps, found), files, say)
    return [*files.values()]


@dataclass(frozen=True)
class _Shown:
    """str was computed of the images, and is drawn."""

    model: Backbone
    x: Tensor
    """(M, C, size, size), in [0, 1]."""
    size: int
    maps: "dict[str, Tensor]"
    """Attention maps (M, heads, rows, columns) and patch tokens (M, N, P)."""
    neighbours: "Neighbours | None"


def _maps(model: Backbone, x: Tensor, what: Sequence[str], say: Callable[[str], None]) -> dict[str, Tensor]:
    """Attention maps and patch tokens, those that are wanted and that the encoder has."""
    drawn: dict[str, Tensor] = {}
    with evaluating(model), torch.inference_mode():
        batches = [_normalized(part, model) for part in torch.split(x, AT_ONCE)]
        if _wanted("attention", what, model.attention, batches[0][:1], say):
            drawn["attention"] = torch.cat([attention_maps(model, batch).cpu() for batch in batches])
        if _wanted("pca", what, model.tokens, batches[0][:1], say):
            drawn["pca"] = torch.cat([model.tokens(batch).patches.float().cpu() for batch in batches])
    return drawn


def _files(folder: Path, wanted: Sequence[str], overwrite: bool) -> dict[str, Path]:
    """Where the pictures go, and last the table of neighbours.

    Raises:
        FileExistsError: one is there, and is not to be replaced.
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
    """The nearest images; None where there are none and nobody asked for them by name."""
    try:
        return _neighbours(model, source, names, size, workers, say)
    except ValueError as error:
        if "neighbours" in what:
            raise
        say(f"neighbours: left out. {error}")
        return None


def _draw(shown: _Shown, files: dict[str, Path], say: Callable[[str], None]) -> None:
    """Writes the pictures, and says what each of them shows."""
    model, x, size, maps, found = shown.model, shown.x, shown.size, shown.maps, shown.neighbours
    limits = black_and_white([*x])
    seen, images = _rgb(x, limits), counted(len(x), "image")
    grid = _grid(maps["pca"], size, model) if "pca" in maps else None
    if maps:
        rows, columns = maps["attention"].shape[-2:] if grid is None else grid.shape[1:3]
        if line := _coarse(model, rows, columns, size):
            say(line)
    if "attention" in maps:
        heads = maps["attention"]
        _write(files["attention"], [seen, *(heat(_scaled(m)) for m in (heads.mean(1), *heads.unbind(1)))], size)
        each = counted(heads.shape[1], "head")
        say(f"attention: {images}; in each row the image, the mean of {each}, then each head")
    if grid is not None:
        first, colours = patch_colours(grid)
        _write(files["pca"], [seen, heat(first), colours], size)
        say(f"pca: {images}; in each row the image, the first component, and the three next of the foreground")
    if found is not None:
        _write(files["neighbours"], [_rgb(column, limits) for column in found.columns], size)
        _write_table(files["neighbours of each"], found)
        say(f"neighbours: {images}, each followed by the {len(found.columns) - 1} nearest of {found.images}")


def attention_maps(model: Backbone, x: Tensor) -> Tensor:
    """Shares of the class token's attention that each patch gets in the last block.

    (B, C, H, W), normalised -> (B, heads, rows, columns); what goes to the class token and registers is left out.
    """
    patch = model.patch_size
    assert patch is not None
    rows, columns = (side // patch for side in x.shape[-2:])
    to_patches = model.attention(x)[:, :, 0, -rows * columns :]
    return to_patches.view(*to_patches.shape[:2], rows, columns).float()


def patch_colours(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Patch tokens of several images as colours that mean the same in all of them (after Oquab et al., DINOv2, fig. 1).

    The first principal component of all patches parts foreground from background, at Otsu's threshold; the side that is
    rarer along the borders of images is the foreground. Other than in the paper each image's mean is taken off before
    it: in small networks images differ by what they show more than things differ from what is around them. The three
    components of the foreground's patches, means included, are red, green and blue. Of images that are one patch each
    nothing is left to part.

    Args:
        tokens: (M, rows, columns, P), of M images.

    Returns:
        The first component, from 0 to 1, larger in the foreground (M, rows, columns), and the colours, black in the
        background (M, 3, rows, columns).
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
    """The threshold that leaves values (N,) in [0, 1] with the least variance on its two sides (Otsu, 1979)."""
    counts = torch.histc(values.double(), bins, 0, 1)
    centres = (torch.arange(bins, dtype=torch.float64) + 0.5) / bins
    below, total = counts.cumsum(0), counts.sum()
    mass = (counts * centres).cumsum(0)
    between = (mass[-1] * below - mass * total) ** 2 / (below * (total - below)).clamp(min=1e-12)
    best = (between >= between.max() * (1 - 1e-9)).nonzero()  # an empty stretch between two groups: take its middle
    return float((best[0] + best[-1] + 2) / 2 / bins)


def heat(values: Tensor) -> Tensor:
    """Values (..., H, W) in [0, 1] as colours from black over violet and orange to pale yellow: (..., 3, H, W)."""
    ramp = torch.tensor(
        [[0.0, 0.0, 0.02], [0.34, 0.06, 0.43], [0.73, 0.21, 0.33], [0.98, 0.55, 0.04], [0.99, 1.0, 0.64]]
    )
    at = values.clamp(0, 1) * (len(ramp) - 1)
    low = at.floor().long().clamp(max=len(ramp) - 2)
    return torch.lerp(ramp[low], ramp[low + 1], (at - low)[..., None]).movedim(-1, -3)


def _wanted(
    name: str, what: Sequence[str], method: Callable[[Tensor], object], x: Tensor, say: Callable[[str], None]
) -> bool:
    """Whether a picture is to be drawn: one that was not asked for by name is left out where the encoder lacks it."""
    if what and name not in what:
        return False
    try:
        method(x)
    except ValueError as error:
        if name in what:
            raise
        say(f"{name}: left out. {error}")
        return False
    return True


def _some(source: Source, places: Iterable[int], count: int, size: int) -> tuple[list[str], Tensor]:
    """Names and test crops (M, C, size, size), in [0, 1], of the first images that can be read."""
    names: list[str] = []
    crops: list[Tensor] = []
    for place in places:
        if len(crops) == count:
            break
        try:
            image = crop(source.read(place, None), size)
        except BrokenImage:
            continue
        names.append(source.name(place))
        crops.append(promote(image, torch.float32))
    if not crops:
        raise ValueError(f"None of the {counted(len(source), 'image')} could be read; `lookalike check` says why.")
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
    """Each column from its 1st to its 99th percentile brought to [0, 1]."""
    low, high = torch.quantile(x, torch.tensor([0.01, 0.99], dtype=x.dtype), 0)
    stretched: Tensor = (x - low) / (high - low).clamp(min=1e-12)
    return stretched.clamp(0, 1)


COARSE, FINE = 7, 14
"""Patches a side up to which a map shows next to nothing, and of one that shows things."""


def _coarse(model: Backbone, rows: int, columns: int, size: int) -> str:
    """str is to be known of maps of few patches, and the image size that makes finer ones; empty of others."""
    if min(rows, columns) > COARSE:
        return ""
    line = f"{rows} x {columns} patches of an image make coarse maps"
    wanted = size * math.ceil(FINE / min(rows, columns))
    try:
        model.patches_at(wanted)
    except Exception:  # whatever its library raises
        return f"{line}: {model.name} takes no larger images. A network with smaller patches makes finer ones."
    return f"{line}: --image-size {wanted} makes finer ones."


def _scaled(maps: Tensor) -> Tensor:
    """Each map (M, H, W) as a share of its largest value."""
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12)


def _rgb(x: Tensor, limits: tuple[float, float]) -> Tensor:
    """Images (M, C, H, W) with 3 channels, the first 3 or the first as grey, and these values as black and white."""
    rgb = x[:, :3] if x.shape[1] >= 3 else x[:, :1].expand(-1, 3, -1, -1)
    return (rgb - limits[0]) / (limits[1] - limits[0])


def _write(path: Path, columns: Sequence[Tensor], size: int) -> None:
    """A sheet with a row per image; all columns (M, 3, h, w) are enlarged to the same cell."""
    cell = size * max(1, round(CELL / size))
    with atomic(path) as temporary:
        sheet([F.interpolate(c, (cell, cell)) for c in columns], None, None, len(columns[0])).save(temporary)


@dataclass(frozen=True)
class Neighbours:
    """The nearest images of some images."""

    columns: list[Tensor]
    """(M, C, size, size): the images, then the nearest of each, then the next."""
    rows: list[tuple[str, int, str, float]]
    """An image's name, a rank from 1, the neighbour's name and the cosine."""
    images: int
    """That they were looked for among."""


def _neighbours(
    model: Backbone, source: Source, names: list[str], size: int, workers: int, say: Callable[[str], None]
) -> Neighbours:
    made = features(
        model, source, image_size=size, mean=model.mean, std=model.std, workers=workers,
        progress=counting(say, "neighbours: ", "images"),
    )  # fmt: skip
    if len(made.names) < 2:
        raise ValueError("One image alone has no neighbours. Give a folder of more.")
    places_of = {name: row for row, name in enumerate(made.names)}
    queries = torch.tensor([places_of[name] for name in names])
    cosines, places = others(made.features, queries, SHOWN_NEIGHBOURS)
    shown = [queries[:, None], places]
    columns = [_some(source, made.index[c].tolist(), len(c), size)[1] for c in torch.cat(shown, 1).unbind(1)]
    rows = [
        (name, n, made.names[place], cosine)
        for name, values, found in zip(names, cosines.tolist(), places.tolist())
        for n, (cosine, place) in enumerate(zip(values, found), 1)
    ]
    return Neighbours(columns, rows, len(made.names))


def _write_table(path: Path, found: Neighbours) -> None:
    with (
        atomic(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["image", "rank", "neighbour", "cosine"])
        writer.writerows([cell(image), n, cell(near), f"{cosine:.4f}"] for image, n, near, cosine in found.rows)
