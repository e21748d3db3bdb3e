"""The GPU's kernels, carried out on the CPU by Triton's interpreter, against torchvision and the CPU's ways.

(On a machine with a GPU these tests run the kernels themselves; `conftest.py` asks for the interpreter elsewhere.)
"""

import dataclasses
import math
import os
import subprocess
import sys
import warnings

import pytest
import torch
from support.views import EVERYTHING, SIZES, close, flat_and_padded, photos, slow_view, u

from lookalike.random import keys_of
from lookalike.views import View, make_views, torch_engine
from lookalike.views import make as making
from lookalike.views.plan import draw

triton = pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


@pytest.fixture(autouse=True)
def by_kernels(monkeypatch):
    monkeypatch.setitem(making.ENGINES, DEVICE, "triton")
    assert making._works(torch.device(DEVICE), torch.uint8, 3)  # else all would be made by torch's operations


def both(images, recipes, seed=0, **options):
    """The views of the kernels, and those of torch's operations on the CPU."""
    made = [x.cpu() for x in make_views(images.to(DEVICE), recipes, seed, **options)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(making.ENGINES, "cpu", "torch")
        return made, make_views(images, recipes, seed, **options)


def test_views_equal_torchvision_image_by_image():
    images, keys = u(12 * 3 * 30 * 30).view(12, 3, 30, 30), keys_of("views", torch.arange(12))
    (ours,) = make_views(images.to(DEVICE), [dataclasses.replace(EVERYTHING, count=1)], keys, torch.tensor(SIZES * 2))
    for image, (h, w), made, key in zip(images, SIZES * 2, ours.cpu(), keys, strict=True):
        close(made, slow_view(image[:, :h, :w], EVERYTHING, draw(key[None], 0)), 1e-4)


@pytest.mark.parametrize(("size", "kernel"), [(9, 9), (33, 23), (40, 1)])
def test_images_of_all_sizes(size, kernel):
    """Enlarged, shrunk a little and a lot, from a flat buffer."""
    view = dataclasses.replace(EVERYTHING, size=size, kernel=kernel, sigma=(0.1, 4), count=1)
    flat, _ = flat_and_padded([(24, 30), (31, 9), (90, 120), (7, 200), (1, 1)], dtype=torch.float32)
    ours, theirs = both(flat, [view], flat.keys, mean=MEAN, std=STD)
    close(ours[0], theirs[0], 2e-4)  # of about 5: hue amplifies the last bits of colours that are nearly grey


@pytest.mark.parametrize(
    ("dtype", "channels"), [(torch.uint8, 1), (torch.uint16, 3), (torch.float32, 5), (torch.uint8, 2)]
)
def test_types_and_channels(dtype, channels):
    _, padded = flat_and_padded([(20, 22), (20, 22), (20, 22)], channels, dtype)
    sizes = torch.tensor([[20, 22], [12, 22], [20, 9]])
    ours, theirs = both(padded, [EVERYTHING], sizes=sizes)
    for a, b in zip(ours, theirs, strict=True):
        close(a, b)


@pytest.mark.parametrize("name", ["hflip", "vflip", "rot90", "jitter", "grayscale", "blur", "solarize", "erase"])
def test_each_step_alone(name):
    view = View(size=12, kernel=5, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2, **{name: 0.6})
    ours, theirs = both(photos(4), [view], 1)
    close(ours[0], theirs[0])


def test_the_memory_format_changes_nothing_else():
    images = photos(2).to(DEVICE)
    planes = make_views(images, [EVERYTHING], 0, mean=MEAN, std=STD)
    pixels = make_views(images, [EVERYTHING], 0, mean=MEAN, std=STD, memory_format=torch.channels_last)
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in pixels)
    assert all(torch.equal(a, b) for a, b in zip(planes, pixels, strict=True))


def test_cutting_the_batch_into_chunks_changes_nothing(monkeypatch):
    images, view = photos(3).to(DEVICE), dataclasses.replace(EVERYTHING, count=1)
    (whole,) = make_views(images, [view], 3)
    monkeypatch.setitem(torch_engine.CHUNK, DEVICE, 2 * 3 * view.size * (24 + view.size))
    assert torch.equal(whole, make_views(images, [view], 3)[0])


def test_no_images_make_no_views():
    made = make_views(photos(2)[:0].to(DEVICE), [View(size=8), View(size=9)], 0)
    assert [x.shape for x in made] == [(0, 3, 8, 8), (0, 3, 9, 9)]


def test_what_is_not_finite_stays_so():
    images = torch.full((2, 3, 8, 8), math.nan, device=DEVICE)
    view = dataclasses.replace(EVERYTHING, erase=0.0, jitter=1.0, blur=1.0)
    assert all(x.isnan().all() for x in make_views(images, [view], 0))


def test_one_channel_that_is_not_finite_stays_so():
    images = photos(4)
    images[:, 1] = math.nan
    view = dataclasses.replace(EVERYTHING, grayscale=0.0, blur=0.0, erase=0.0, jitter=1.0)
    ours, theirs = both(images, [view], 2)
    assert ours[0].isnan().any()
    assert torch.equal(ours[0].isnan(), theirs[0].isnan())


def test_double_precision_by_default_changes_nothing():
    """DeepCluster-v2's survey makes views under it, in fp64 trainings."""
    ours, theirs = both(photos(2), [EVERYTHING])
    torch.set_default_dtype(torch.float64)
    try:
        wide, slow = both(photos(2).float(), [EVERYTHING])
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b, c, d in zip(ours, theirs, wide, slow, strict=True):
        assert c.dtype == d.dtype == torch.float32
        close(a, c)
        close(b, d)


def test_kernels_that_fail_are_replaced_with_a_word(monkeypatch):
    """No C compiler, an unknown GPU, or other pixels than they should be: torch's operations make the views."""
    from lookalike.views import gpu

    images, view = photos(2).to(DEVICE), dataclasses.replace(EVERYTHING, count=1)
    (expected,) = make_views(images, [view], 0)

    def broken(*_, **__):
        raise RuntimeError("Failed to find C compiler.")

    right = gpu.views

    def wrong(*arguments, **options):
        return [1 - x for x in right(*arguments, **options)]

    for views, said in ((broken, "Failed to find C compiler"), (wrong, "of the value range")):
        monkeypatch.setattr(gpu, "views", views)
        making._works.cache_clear()
        with pytest.warns(UserWarning, match=said):
            (made,) = make_views(images, [view], 0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # it is said once
            make_views(images, [view], 0)
        close(made, expected, 1e-4)
    making._works.cache_clear()


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lookalike.views import gpu

KERNELS = (gpu._across, gpu._down, gpu._recolour, gpu._blur_across, gpu._blur_down)
TYPES = {"offsets": "*i64", "rows": "*i64", "whole": "*i32"} | dict.fromkeys(("unit", "threshold", "reach"), "fp32")
TYPES |= dict.fromkeys(("highest", "sb", "sc", "sy", "sx"), "i32")
every = [(75, 3, "*u8", k) for k in KERNELS] + [(90, c, "*u8", k) for c in (3, 5) for k in KERNELS]
for capability, channels, pixels, kernel in [*every, *((90, 3, kind, gpu._across) for kind in ("*u16", "*fp32"))]:
    known = {"BLOCK": gpu._BLOCK, "WHOLE": 20, "FRACTIONS": 8, "KERNEL": 23, "TILES": 128, "C": channels, "size": 224}
    kinds = {"pixels": pixels} | TYPES | dict.fromkeys(known, "constexpr")
    signature = {name: kinds.get(name, "*fp32") for name in kernel.arg_names}
    constants = {(i,): known[name] for i, name in enumerate(kernel.arg_names) if name in known}
    made = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", capability, 32))
    assert made.asm["cubin"], kernel
print("all compiled")
"""


def test_the_kernels_compile_for_real_gpus(tmp_path):
    """To machine code, by NVIDIA's assembler, which Triton brings along: no GPU is needed for that."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.strip() == "all compiled", done.stderr
