"""How well `lookalike check` finds near duplicates: planted copies, and textures that share no more than their light.

    python benchmarks/near_duplicates.py [FOLDER ...] [--copies 400]

Images: squares of 96 pixels of scikit-learn's two photographs that do not overlap, in eight positions each (turned,
mirrored), plain sky left out; and those of each FOLDER. Copies: cut by 5 %, resized to 60 to 130 % (not those of up to
64 pixels), JPEG quality 60; a set of copies per cut. Recall: planted pairs that are found. Precision: planted among all
pairs of an image and a copy that are found; a copy's pair with an image that is itself a found pair of its original
counts as right, and all pairs among the images alone are counted apart, for folders hold duplicates of their own
(`lookalike check --sheet` draws them). Textures: 1,000 squares of 44 pixels, weak or strong, light from a random side
added or multiplied. Time: of finding the pairs, per image, once thumbnails are there. A row of JSON per set goes to
--record.
"""

import argparse
import io
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rows import append
from sklearn.datasets import load_sample_images

from lookalike.data import open_source
from lookalike.data.near import near_pairs, thumbnail

CUTS = {
    "nothing": (0, 0, 1, 1), "left": (0.05, 0, 1, 1), "right": (0, 0, 0.95, 1), "top": (0, 0.05, 1, 1),
    "bottom": (0, 0, 1, 0.95), "around": (0.025, 0.025, 0.975, 0.975), "corner": (0.05, 0.05, 1, 1),
    "each side": (0.05, 0.05, 0.95, 0.95),
}  # fmt: skip
USUAL = ("nothing", "left", "right", "top", "bottom", "around")
"""Cuts that take 5 % of the width, the height or both."""
LIGHTS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "weak, light added": lambda texture, slope: 128 + 90 * slope + 6 * texture,
    "strong, light added": lambda texture, slope: 128 + 90 * slope + 20 * texture,
    "weak, light multiplied": lambda texture, slope: (128 + 8 * texture) * (1 + 0.85 * slope),
    "strong, light multiplied": lambda texture, slope: (128 + 30 * texture) * (1 + 0.85 * slope),
}


def tiles(side: int, least: float) -> list[np.ndarray]:
    """Squares of two photographs that do not overlap, turned and mirrored, where there is more than a plain sky."""
    found = []
    for photo in load_sample_images().images:
        for y in range(0, photo.shape[0] - side + 1, side):
            for x in range(0, photo.shape[1] - side + 1, side):
                tile = photo[y : y + side, x : x + side]
                if tile.mean(2).std() >= least:
                    found += [np.rot90(flipped, k) for flipped in (tile, tile[:, ::-1]) for k in range(4)]
    return [np.ascontiguousarray(tile) for tile in found]


def copied(image: np.ndarray, cut: str, size: float = 1.0) -> np.ndarray:
    """Cropped, resized, and compressed as a JPEG of quality 60."""
    left, upper, right, lower = CUTS[cut]
    picture = Image.fromarray(image)
    w, h = picture.size
    picture = picture.crop((round(left * w), round(upper * h), round(right * w), round(lower * h)))
    fit = [max(8, round(n * size)) for n in picture.size]
    buffer = io.BytesIO()
    picture.resize((fit[0], fit[1]), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=60)
    return np.asarray(Image.open(buffer))


def of(image: np.ndarray) -> np.ndarray:
    grey = image if image.ndim == 2 else image.mean(2)
    return thumbnail(torch.from_numpy(grey.astype(np.float32))[None, None] / 255)[0]


def pixels_of(folder: str) -> Callable[[int], np.ndarray]:
    source = open_source(folder)
    return lambda i: source.read(i, None).movedim(0, -1).numpy()


def planted(name: str, read: Callable[[int], np.ndarray], total: int, count: int) -> dict[str, object]:
    draw = np.random.default_rng(0)
    small = np.stack([of(read(i)) for i in range(total)])
    chosen = draw.choice(total, min(count, total), replace=False)
    began = time.process_time()
    own = {(i, j) for i, j in near_pairs(small)[0].tolist()}
    seconds = time.process_time() - began
    recall, right, found = {}, 0, 0
    for cut in CUTS:
        sizes = [draw.uniform(0.6, 1.3) if min(read(i).shape[:2]) > 64 else 1.0 for i in chosen]
        copies = np.stack([of(copied(read(i), cut, size)) for i, size in zip(chosen, sizes)])
        pairs, _ = near_pairs(np.concatenate([small, copies]), total)
        truth = [(i, int(chosen[j - total])) for i, j in pairs.tolist()]
        recall[cut] = sum(i == original for i, original in truth) / len(chosen)
        good = sum(i == o or (min(i, o), max(i, o)) in own for i, o in truth)
        right, found = right + good, found + len(truth)
    return {
        "set": name, "images": total, "copies": len(CUTS) * len(chosen), "recall": recall,
        "recall_usual": float(np.mean([recall[cut] for cut in USUAL])), "pairs": found,
        "precision": right / max(1, found), "pairs_among_images": len(own),
        "milliseconds_per_image": 1000 * seconds / total,
    }  # fmt: skip


def textures(light: str, count: int = 1000) -> dict[str, object]:
    draw = np.random.default_rng(1)
    side = 44
    flat = [tile.mean(2) for tile in tiles(side, least=8)]
    slope = np.broadcast_to(np.linspace(-1, 1, side), (side, side))
    small = []
    for i in draw.choice(len(flat), count, replace=False):
        texture = (flat[i] - flat[i].mean()) / flat[i].std()
        small.append(of(LIGHTS[light](texture, np.rot90(slope, draw.integers(4))).round().clip(0, 255)))
    return {"set": f"textures, {light}", "images": count, "pairs": len(near_pairs(np.stack(small))[0])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--copies", type=int, default=400)
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records/near_duplicates.jsonl")
    options = parser.parse_args()
    photos = tiles(96, least=20)
    rows = [planted("squares of two photographs", photos.__getitem__, len(photos), options.copies)]
    rows += [textures(light) for light in LIGHTS]
    for folder in options.folders:
        rows.append(
            planted("/".join(Path(folder).parts[-2:]), pixels_of(folder), len(open_source(folder)), options.copies)
        )
    where = {"cores": os.cpu_count(), "torch": torch.__version__, "machine": platform.machine()}
    for row in rows:
        print(row)
        append(options.record, {"benchmark": "near_duplicates", **row, **where, "date": time.strftime("%Y-%m-%d")})


if __name__ == "__main__":
    main()
