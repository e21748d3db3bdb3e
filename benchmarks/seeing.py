"""What a small vision transformer sees before and after self-distillation: pictures to look at, and a measure of them.

    pip install opencv-python-headless
    python benchmarks/seeing.py CLOTHES --out FOLDER [--method dinov2 --epochs 16 --image-size 64]

CLOTHES holds train/ and test/ (labels are not used). A ViT of 8-pixel patches (`networks.vit_patch8`) is trained on
train/; FOLDER/untrained and FOLDER/trained get the pictures of `lookalike.show` for the same test images, seen at twice
the size of the training, and FOLDER itself both side by side. A training that is there is not made again.

The measure: GrabCut of OpenCV, begun with a frame of 6 pixels as ground, cuts the garments out of 200 test images
(by colour; no person drew them); those with 10 to 80 % of garment count. How well does the attention of each head, and
the first component of patches, rank patches of the garment above patches of the ground of the same image (area under
the ROC curve, mean over images)? How much does the foreground that `patch_colours` finds overlap (intersection over
union)? A row of JSON per network goes to --record.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import vit_patch8
from PIL import Image
from rows import append
from sklearn.metrics import roc_auc_score
from torch import Tensor

import lookalike
from lookalike import training
from lookalike.backbones import Backbone
from lookalike.commands.pictures import attention_maps, patch_colours
from lookalike.core import Config
from lookalike.data import open_source
from lookalike.evaluation.features import crop
from lookalike.methods import get_method
from lookalike.random import permutation
from lookalike.runs import Run, commit

IMAGES, FRAME = 200, 6


def beside(left: Path, right: Path, out: Path) -> None:
    """Two sheets of the same images as one picture, at two thirds of their size."""
    a, b = Image.open(left), Image.open(right)
    both = Image.new("RGB", (a.width + 12 + b.width, a.height), "white")
    both.paste(a, (0, 0))
    both.paste(b, (a.width + 12, 0))
    both.resize((both.width * 2 // 3, both.height * 2 // 3)).save(out, optimize=True)


def garments(images: Tensor) -> Tensor:
    """(N, H, W) of 0 and 1: what GrabCut takes for the garment in images (N, 3, H, W) of uint8."""
    import cv2

    masks = []
    for image in images:
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy()[:, :, ::-1])
        mask = np.zeros(pixels.shape[:2], np.uint8)
        inner = (FRAME, FRAME, pixels.shape[1] - 2 * FRAME, pixels.shape[0] - 2 * FRAME)
        cv2.setRNGSeed(0)
        cv2.grabCut(pixels, mask, inner, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_RECT)
        masks.append(torch.from_numpy(np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD))))
    return torch.stack(masks).float()


@torch.inference_mode()
def measured(encoder: Backbone, images: Tensor) -> dict[str, Any]:
    """Of a network and images (N, 3, H, W) of uint8; see the head of this file."""
    encoder.eval()
    patch = encoder.patch_size
    assert patch is not None
    masks = garments(images)
    share = torch.nn.functional.avg_pool2d(masks[:, None], patch)[:, 0]  # of each patch
    clear, cut = (share > 0.9) | (share < 0.1), masks.mean((1, 2))
    counts = [bool(0.1 < s < 0.8) and 0 < float((g > 0.5)[c].float().mean()) < 1 for s, g, c in zip(cut, share, clear)]
    mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (encoder.mean, encoder.std))
    parts = ((images.float() / 255 - mean) / std).split(50)
    attention = torch.cat([attention_maps(encoder, part) for part in parts])
    side = images.shape[-1] // patch
    tokens = torch.cat([encoder.tokens(part).patches for part in parts]).unflatten(1, (side, side))
    first, colours = patch_colours(tokens)

    def area(maps: Tensor) -> tuple[float, float]:
        each = [
            roc_auc_score((g > 0.5)[c].numpy(), m[c].numpy())
            for m, g, c, counted in zip(maps, share, clear, counts)
            if counted
        ]
        return round(statistics.mean(each), 3), round(statistics.stdev(each) / len(each) ** 0.5, 3)

    found = (colours.amax(1) > 0)[counts]
    wanted = (share > 0.5)[counts]
    overlap = (found & wanted).sum((1, 2)) / (found | wanted).sum((1, 2)).clamp(min=1)
    return {
        "images": sum(counts),
        "first_component": area(first),
        "heads": [area(attention[:, head]) for head in range(attention.shape[1])],
        "foreground_iou": round(float(overlap.mean()), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--method", choices=["dino", "ibot", "dinov2"], default="dinov2")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "seeing.jsonl")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    # narrow heads: the papers' would take most of the time beside such a network
    cfg: Config = get_method(args.method).Config(hidden_dim=512, bottleneck_dim=128)  # type: ignore[call-arg]
    run = Run(
        data=str(args.data / "train"), method=cfg, backbone=vit_patch8(), image_size=args.image_size, cache="ram",
        epochs=args.epochs, batch_size=args.batch_size, seed=args.seed, workers=0, out=str(args.out / "run"),
    )  # fmt: skip
    untrained = training.build(training.resolve(run, len(open_source(args.data / "train")))[0]).encoder
    if not (args.out / "run" / "encoder.safetensors").is_file():
        lookalike.pretrain(run)
    trained = lookalike.load(args.out / "run", backbone=vit_patch8())
    size = 2 * args.image_size
    source = open_source(args.data / "test")
    images = torch.stack([crop(source.read(i, None), size) for i in permutation(len(source), 0, "seeing")[:IMAGES]])
    for name, encoder in (("untrained", untrained), ("trained", trained)):
        lookalike.show(encoder, args.data / "test", out=args.out / name, image_size=size, overwrite=True)
        row = {
            "benchmark": "seeing", "date": time.strftime("%Y-%m-%d"), "data": args.data.name, "network": name,
            "method": args.method, "epochs": args.epochs, "batch_size": args.batch_size, "seed": args.seed,
            "image_size": args.image_size, **measured(encoder, images), "torch": torch.__version__,
            "lookalike": commit(), "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        }  # fmt: skip
        print(json.dumps(row), flush=True)
        append(args.record, row)
    for name in ("attention", "pca", "neighbours"):
        beside(args.out / "untrained" / f"{name}.png", args.out / "trained" / f"{name}.png", args.out / f"{name}.png")


if __name__ == "__main__":
    main()
