"""What a small vision transformer sees before and after self-distillation: pictures to look at.

    python benchmarks/seeing.py CLOTHES --out FOLDER [--method dinov2 --epochs 16 --image-size 64]

CLOTHES holds train/ and test/ (labels are not used). A ViT of 8-pixel patches (`networks.vit_patch8`) is trained on
train/; FOLDER/untrained and FOLDER/trained get the pictures of `lookalike.show` for the same test images, seen at twice
the size of the training, and FOLDER itself both side by side.
"""

import argparse
from pathlib import Path

import torch
from networks import vit_patch8
from PIL import Image

import lookalike
from lookalike import training
from lookalike.core import Config
from lookalike.data import open_source
from lookalike.methods import get_method
from lookalike.runs import Run


def beside(left: Path, right: Path, out: Path) -> None:
    """Two sheets of the same images as one picture, at two thirds of their size."""
    a, b = Image.open(left), Image.open(right)
    both = Image.new("RGB", (a.width + 12 + b.width, a.height), "white")
    both.paste(a, (0, 0))
    both.paste(b, (a.width + 12, 0))
    both.resize((both.width * 2 // 3, both.height * 2 // 3)).save(out, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--method", choices=["dino", "ibot", "dinov2"], default="dinov2")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    # narrow heads: the papers' would take most of the time beside such a network
    cfg: Config = get_method(args.method).Config(hidden_dim=512, bottleneck_dim=128)  # type: ignore[call-arg]
    run = Run(
        data=str(args.data / "train"), method=cfg, backbone=vit_patch8(), image_size=args.image_size, cache="ram",
        epochs=args.epochs, batch_size=args.batch_size, seed=args.seed, workers=0, out=str(args.out / "run"),
    )  # fmt: skip
    untrained = training.build(training.resolve(run, len(open_source(args.data / "train")))[0]).encoder
    lookalike.show(untrained, args.data / "test", out=args.out / "untrained", image_size=2 * args.image_size)
    lookalike.pretrain(run)
    trained = lookalike.load(args.out / "run", backbone=vit_patch8())
    lookalike.show(trained, args.data / "test", out=args.out / "trained", image_size=2 * args.image_size)
    for name in ("attention", "pca", "neighbours"):
        beside(args.out / "untrained" / f"{name}.png", args.out / "trained" / f"{name}.png", args.out / f"{name}.png")


if __name__ == "__main__":
    main()
