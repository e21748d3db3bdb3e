"""Every method learns on real images. Each takes a minute or so, and most are marked slow."""

from pathlib import Path

import pytest
from support.learning import gain, listed

from lookalike.methods import SELF_SUPERVISED, get_method

pytestmark = pytest.mark.long(20)

QUICK = ("simclr",)
"""Those that `make test` trains, at 16 pixels; all others are `make test-slow`'s, and learn in tests/test_health.py in
part."""


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SELF_SUPERVISED]
)
def test_learns_on_real_images(name: str, cifar10: Path, tmp_path: Path) -> None:
    """Measured after 10 epochs: 0.028 (SimSiam), 0.038 (BYOL), 0.052 (MoCo v2), 0.054 (MoCo v3), 0.071 (SupCon), 0.081
    (SimCLR; after 8 at 16 pixels 0.073 and 0.084, two seeds); of ViTs after 16 epochs: 0.040 (iBOT), 0.042 (DINOv2). By
    chance an accuracy from 2,000 images moves by 0.009, the gain between two encoders of equal worth by about 0.013."""
    epochs, batch_size = 8, 64
    if name == "dino":  # its teacher has to move, and its targets to sharpen, first
        epochs = 16
    if get_method(name).Config().needs.mask_token:  # small ViTs want steps
        epochs, batch_size = 16, 32
    image_size = 16 if name in QUICK else 32
    assert gain(name, listed(cifar10, tmp_path, 1500), tmp_path / "run", epochs, batch_size, image_size) > 0.015


@pytest.mark.slow
@pytest.mark.parametrize("name", SELF_SUPERVISED)
def test_learns_more_from_more_images(name: str, cifar10: Path, tmp_path: Path) -> None:
    """Measured for SimCLR: 0.148, from 0.237 to 0.385."""
    is_vit = get_method(name).Config().needs.mask_token  # small ViTs gain half as much in as many images, by more steps
    batch_size, least = (32, 0.05) if is_vit else (128, 0.08)
    assert gain(name, listed(cifar10, tmp_path, 10_000), tmp_path / "run", 10, batch_size) > least
