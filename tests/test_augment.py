"""The batched operations against torchvision on single images, and the views that they make together."""

import dataclasses
import functools
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.views import EVERYTHING, SIZES, close, flat_and_padded, photos, slow_view, u
from torchvision.transforms import v2
from torchvision.transforms.v2 import RandomErasing, RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from lookalike.random import keys_of
from lookalike.views import SIMCLR_VIEW, View, boxes, make_views, ops, resized, sheet
from lookalike.views import make as making
from lookalike.views.plan import draw

pytestmark = pytest.mark.long(17)

FEW = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True, params=["numba", "torch"])
def engine(request, monkeypatch):
    """Every test of this file holds for both ways of a CPU; `ops` alone is tested twice, which is cheap."""
    if request.param == "numba":
        pytest.importorskip("numba")
    monkeypatch.setitem(making.ENGINES, "cpu", request.param)
    return request.param


# --- each operation against torchvision -------------------------------------------------------------------------------


@given(st.integers(3, 40), st.integers(3, 40), st.integers(1, 33), st.booleans(), st.booleans(), st.data())
@FEW
def test_resized_crop_equals_torchvision(h, w, size, hflip, vflip, data):
    height, width = data.draw(st.integers(1, h)), data.draw(st.integers(1, w))
    top, left = data.draw(st.integers(0, h - height)), data.draw(st.integers(0, w - width))
    x = u(2 * 3 * h * w).view(2, 3, h, w)
    box = torch.tensor([[top, left, height, width], [0, 0, h, w]])
    ours = ops.resized_crop(x, box, torch.tensor([hflip, False]), torch.tensor([vflip, False]), size)
    theirs = tv.resized_crop(x[0], top, left, height, width, [size, size], antialias=True)
    theirs = tv.horizontal_flip(theirs) if hflip else theirs
    close(ours[0], tv.vertical_flip(theirs) if vflip else theirs)
    close(ours[1], tv.resize(x[1], [size, size], antialias=True))


@pytest.mark.parametrize(
    ("name", "channels"), [("brightness", 1), ("brightness", 3), ("contrast", 1), ("contrast", 3), ("saturation", 3)]
)
def test_blends_equal_torchvision(name, channels):
    x, factors = photos(6, channels), torch.tensor([0.0, 0.2, 0.9, 1.0, 1.3, 1.8])
    theirs = [getattr(tv, f"adjust_{name}")(image, factor.item()) for image, factor in zip(x, factors, strict=True)]
    close(getattr(ops, name)(x, factors), torch.stack(theirs))


def test_hue_equals_torchvision():
    shifts = torch.tensor([-0.5, -0.21, -1 / 6, 0.0, 0.1, 1 / 3, 0.5])
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 0.25, 1.0])] * 3).T.reshape(1, 3, 3, 9)  # ties of all kinds
    for x in (photos(7), corners.expand(7, -1, -1, -1)):
        theirs = [tv.adjust_hue(image, shift.item()) for image, shift in zip(x, shifts, strict=True)]
        close(ops.hue(x, shifts), torch.stack(theirs))


@given(st.integers(0, 5), st.floats(0.1, 3))
@FEW
def test_blur_equals_torchvision(half, sigma):
    x, kernel = photos(2), 2 * half + 1
    ours = ops.gaussian_blur(x, torch.tensor([sigma, 0.7]), kernel)
    for i, s in enumerate((sigma, 0.7)):
        close(ours[i], tv.gaussian_blur(x[i], [kernel, kernel], [s, s]))


def test_grayscale_solarize_and_erase_equal_torchvision():
    x = photos(4)
    close(ops.grayscale(x), tv.rgb_to_grayscale(x, num_output_channels=3), 1e-6)
    steps = (x * 4).round() / 4  # values that equal the threshold
    close(ops.solarize(steps, 0.25), tv.solarize(steps, 0.25), 0)
    rectangles = torch.tensor([[0, 0, 3, 4], [5, 7, 10, 2], [0, 0, 0, 0], [23, 29, 1, 1]])
    theirs = [tv.erase(image, *box.tolist(), v=torch.zeros(1)) for image, box in zip(x, rectangles, strict=True)]
    close(ops.erase(x, rectangles), torch.stack(theirs), 0)


# --- the boxes' distributions -----------------------------------------------------------------------------------------


def uniforms(count, name):
    """The numbers of the tries of `count` boxes: areas, aspect ratios and corners."""
    return [u(count * k, name, i).view(count, k).numpy() for i, k in enumerate((10, 10, 2))]


def ks(a: torch.Tensor, b: torch.Tensor) -> float:
    """Kolmogorov and Smirnov's distance of two samples."""
    grid = torch.cat((a, b)).double().unique()
    cdf = [torch.searchsorted(x.double().sort().values, grid, right=True) / len(x) for x in (a, b)]
    return (cdf[0] - cdf[1]).abs().max().item()


@pytest.mark.parametrize("size", [(60, 40), (20, 200)])
def test_crops_are_distributed_as_torchvisions(size):
    n, scale, ratio = 2000, (0.08, 1.0), (3 / 4, 4 / 3)
    ours = torch.from_numpy(boxes.random_crop(np.tile(size, (n, 1)), *uniforms(n, "crop"), scale, ratio))
    torch.manual_seed(0)
    crop, image = RandomResizedCrop(8, scale, ratio), torch.empty(3, *size)
    theirs = [crop.make_params([image]) for _ in range(n)]
    for i, name in enumerate(("top", "left", "height", "width")):
        assert ks(ours[:, i], torch.tensor([p[name] for p in theirs])) < 1.95 * math.sqrt(2 / n)  # at 0.1 %
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= torch.tensor(size)).all()


def test_erased_boxes_are_distributed_as_torchvisions():
    n, size = 2000, (32, 32)
    ours = torch.from_numpy(boxes.random_erase(np.tile(size, (n, 1)), *uniforms(n, "erase")))
    torch.manual_seed(0)
    erasing, image = RandomErasing(), torch.empty(3, *size)
    theirs = [erasing.make_params([image]) for _ in range(n)]
    for i, name in enumerate("ijhw"):
        assert ks(ours[:, i], torch.tensor([p[name] for p in theirs])) < 1.95 * math.sqrt(2 / n)


def test_boxes_of_tiny_images_are_neither_empty_nor_erase_all():
    draws, sizes = uniforms(500, "tiny"), np.full((500, 2), 2)
    assert boxes.random_crop(sizes, *draws, (0.01, 1.0), (3 / 4, 4 / 3))[:, 2:].min() == 1
    assert boxes.random_erase(sizes, *draws)[:, 2:].max() == 1


@pytest.mark.parametrize(
    ("size", "ratio", "expected"),
    [
        ((10, 40), (1.0, 1.0), [0, 15, 10, 10]),
        ((41, 10), (1.0, 1.0), [15, 0, 10, 10]),
        ((10, 40), (3 / 4, 4 / 3), [0, 13, 10, 13]),
        ((30, 40), (0.5, 0.5), [0, 12, 30, 15]),
        ((1, 500), (4.0, 4.0), [0, 248, 1, 4]),
        ((500, 1), (4.0, 4.0), [249, 0, 1, 1]),
    ],
)
def test_a_crop_that_never_fits_falls_back_to_the_centre(size, ratio, expected):
    draws = [np.full((1, k), 0.5, np.float32) for k in (10, 10, 2)]
    assert boxes.random_crop(np.array([size]), *draws, (1.0, 1.0), ratio).tolist() == [expected]


# --- views ------------------------------------------------------------------------------------------------------------


def test_the_neutral_view_is_the_resized_image():
    x = photos(3, h=30, w=30)
    (ours,) = make_views(x, [View(size=17)], 0)
    close(ours, tv.resize(x, [17, 17], antialias=True))


def test_views_are_normalised_and_come_in_order_with_count_expanded():
    x, mean, std = photos(2, h=30, w=30), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    views = make_views(x, [View(size=8, count=2), View(size=12)], 0, mean=mean, std=std)
    assert [v.shape[-1] for v in views] == [8, 8, 12]
    assert all(v.dtype == torch.float32 for v in views)
    close(views[2], tv.normalize(tv.resize(x, [12, 12], antialias=True), mean, std))


@pytest.mark.parametrize(
    ("recipe", "operation"),
    [
        ({"hflip": 1.0}, tv.horizontal_flip),
        ({"vflip": 1.0}, tv.vertical_flip),
        ({"grayscale": 1.0}, lambda x: tv.rgb_to_grayscale(x, num_output_channels=3)),
        ({"blur": 1.0, "sigma": (0.8, 0.8), "kernel": 5}, lambda x: tv.gaussian_blur(x, [5, 5], [0.8, 0.8])),
        ({"solarize": 1.0, "threshold": 0.4}, lambda x: tv.solarize(x, 0.4)),
    ],
)
def test_each_field_of_a_view_does_its_operation(recipe, operation):
    x = photos(3, h=16, w=16)
    close(make_views(x, [View(size=16, **recipe)], 0)[0], operation(x))


# One image and one view at a time, in plain Python and torchvision: what `make_views` must equal.


@pytest.mark.parametrize("view", [EVERYTHING, resized((SIMCLR_VIEW,), 24)[0]], ids=["everything", "simclr"])
def test_views_equal_torchvision_image_by_image(view):
    sizes = SIZES * 10
    images, keys = u(60 * 3 * 30 * 30).view(60, 3, 30, 30), keys_of("views", torch.arange(60))
    ours = make_views(images, [view], keys, torch.tensor(sizes))
    for number, views in enumerate(ours):
        for image, (h, w), made, key in zip(images, sizes, views, keys, strict=True):
            close(made, slow_view(image[:, :h, :w], view, draw(key[None], number)), 1e-4)


def test_orders_of_jitter_are_equally_likely():
    order = draw(torch.arange(24_000), 0)["order"].argsort(axis=1)
    _, counts = np.unique(order, axis=0, return_counts=True)
    assert len(counts) == 24
    assert ((counts - 1000) ** 2 / 1000).sum() < 49.7


@pytest.mark.parametrize("field", ["hflip", "grayscale", "solarize", "erase"])
def test_probabilities_are_kept(field):
    x, p = u(3 * 8 * 8).view(1, 3, 8, 8).expand(4000, -1, -1, -1), 0.3
    plain, changed = (make_views(x, [View(size=8, **{field: value})], 0)[0] for value in (0.0, p))
    share = (plain != changed).flatten(1).any(1).double().mean().item()
    assert abs(share - p) < 3.3 * math.sqrt(p * (1 - p) / 4000)


def test_views_of_an_image_do_not_depend_on_its_batch():
    images, sizes, keys = photos(6, h=30, w=30), torch.tensor(SIZES), keys_of(torch.arange(6))
    together = make_views(images, [EVERYTHING], keys, sizes)
    order = torch.tensor([4, 2, 5, 0, 3, 1])
    for a, b in zip(together, make_views(images[order], [EVERYTHING], keys[order], sizes[order]), strict=True):
        close(a[order], b)
    for i, (h, w) in enumerate(SIZES):
        alone = make_views(images[i : i + 1, :, :h, :w], [EVERYTHING], keys[i : i + 1])
        padded = torch.nn.functional.pad(images[i : i + 1, :, :h, :w], (0, 9, 0, 5), value=7.0)
        in_padding = make_views(padded, [EVERYTHING], keys[i : i + 1], torch.tensor([[h, w]]))
        for whole, a, b in zip(together, alone, in_padding, strict=True):
            close(whole[i : i + 1], a)
            close(a, b)


def test_cutting_the_batch_into_chunks_changes_nothing(monkeypatch):
    images = photos(7)
    whole = make_views(images, [EVERYTHING], 3)
    monkeypatch.setattr("lookalike.views.torch_engine.CHUNK", {"cpu": 3 * 24 * 30 * 3})
    for a, b in zip(whole, make_views(images, [EVERYTHING], 3), strict=True):
        close(a, b)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_flat_batch_gives_the_views_of_a_padded_one(channels, dtype):
    flat, padded = flat_and_padded(SIZES, channels, dtype)
    for a, b in zip(
        make_views(flat, [EVERYTHING], flat.keys),
        make_views(padded, [EVERYTHING], flat.keys, flat.sizes),
        strict=True,
    ):
        close(a, b)


def test_both_engines_make_the_same_views(monkeypatch):
    """Enlarged, shrunk a little and a lot, from both kinds of memory: what a GPU makes, a CPU makes."""
    pytest.importorskip("numba")
    recipes = [
        dataclasses.replace(EVERYTHING, size=n, kernel=k, sigma=(0.1, 4))
        for n, k in ((9, 9), (33, 23), (48, 11), (64, 1), (98, 9))
    ]
    flat, _ = flat_and_padded([*SIZES, (90, 120), (7, 200), (1, 1)], dtype=torch.float32)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    both = []
    for engine in ("numba", "torch"):
        monkeypatch.setitem(making.ENGINES, "cpu", engine)
        both.append(make_views(flat, recipes, flat.keys, mean=mean, std=std))
    for a, b in zip(*both, strict=True):
        close(a, b, 2e-4)  # of about 5: hue amplifies the last bits of colours that are nearly grey


def test_the_memory_format_changes_nothing_else():
    images = photos(5)
    planes = make_views(images, [EVERYTHING], 0, mean=(0.1,) * 3)
    pixels = make_views(images, [EVERYTHING], 0, mean=(0.1,) * 3, memory_format=torch.channels_last)
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in pixels)
    assert all(torch.equal(a, b) for a, b in zip(planes, pixels, strict=True))


@pytest.mark.parametrize("size", [20, 32, 80])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_writing_past_the_cache_changes_nothing(size, memory_format, engine, monkeypatch):
    if engine != "numba":
        pytest.skip("torch chooses how it writes")
    from lookalike.views import cpu

    images, view = photos(9), dataclasses.replace(EVERYTHING, size=size)
    through, past = [], []
    for bytes_, found in ((2**60, through), (0, past)):
        monkeypatch.setattr(cpu, "STREAMED", bytes_)
        found += make_views(images, [view], 0, mean=(0.1,) * 3, memory_format=memory_format)
    assert all(torch.equal(a, b) for a, b in zip(through, past, strict=True))


def test_threads_change_nothing():
    images, before = photos(9), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = make_views(images, [EVERYTHING], 0)
        torch.set_num_threads(3)
        three = make_views(images, [EVERYTHING], 0)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))


def test_memory_is_used_again_but_never_while_a_part_of_it_is_seen(engine):
    images, view = photos(6), View(size=19)
    first = make_views(images, [view, view], 0)
    places, part = [x.data_ptr() for x in first], first[0][2:3, :, 3:]
    expected = part.clone()
    del first
    for seed in range(1, 4):
        second = make_views(images, [view, view], seed)
        assert places[0] not in [x.data_ptr() for x in second]
        assert engine == "torch" or seed > 1 or places[1] in [x.data_ptr() for x in second]
        assert torch.equal(part, expected)
    held = [make_views(images, [view], seed)[0] for seed in range(40)]
    assert len({x.data_ptr() for x in held}) == 40
    assert all(torch.equal(x, make_views(images, [view], seed)[0]) for seed, x in enumerate(held))


def test_no_images_make_no_views():
    assert [x.shape for x in make_views(photos(2)[:0], [View(size=8), View(size=9)], 0)] == [(0, 3, 8, 8), (0, 3, 9, 9)]


def test_what_is_not_finite_stays_so():
    """A clamp must not turn NaN into black: the run is told of it."""
    images = torch.full((3, 3, 8, 8), math.nan)
    view = dataclasses.replace(EVERYTHING, erase=0.0, jitter=1.0, blur=1.0)
    assert all(x.isnan().all() for x in make_views(images, [view], 0))


def spectrum(x):
    """The mean log power at each distance from the centre of the spectrum, up to the highest that all angles have."""
    power = torch.fft.fft2(x.mean(1)).abs().square().mean(0)
    f = torch.fft.fftfreq(x.shape[-1]) * x.shape[-1]
    ring = (f[:, None] ** 2 + f**2).sqrt().round().long()
    return torch.stack([power[ring == r].mean() for r in range(1, x.shape[-1] // 2)]).log()


@functools.cache
def simclr_views_of_torchvision(n, size):
    """An image and n views of it by torchvision's own SimCLR recipe: drawn once, for both engines are beside them."""
    image = torch.nn.functional.interpolate(photos(1, h=12, w=15), scale_factor=4, mode="bicubic").clamp(0, 1)[0]
    torch.manual_seed(0)
    recipe = v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.08, 1.0), antialias=True), v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8), v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(5, (0.1, 2.0))], p=0.5),
        ]
    )  # fmt: skip
    return image, torch.stack([recipe(image) for _ in range(n)])


def test_many_views_are_distributed_as_torchvisions():
    """Mean, spread, histogram and spectrum of 3,000 views of an image, beside torchvision's own SimCLR recipe."""
    n, size = 3000, 24
    image, theirs = simclr_views_of_torchvision(n, size)
    view = dataclasses.replace(resized((SIMCLR_VIEW,), size)[0], count=1, kernel=5)
    (ours,) = make_views(image.expand(n, -1, -1, -1), [view], 0)
    for of in (lambda x: x.mean((2, 3)), lambda x: x.std((2, 3)), lambda x: x.flatten(2)[:, :, 100]):
        for channel in range(3):
            assert ks(of(ours)[:, channel], of(theirs)[:, channel]) < 1.95 * math.sqrt(2 / n)  # at 0.1 %
    bins = [torch.histc(x, 20, 0, 1) / x.numel() for x in (ours, theirs)]
    assert (bins[0] - bins[1]).abs().max() < 0.01
    assert (spectrum(ours) - spectrum(theirs)).abs().max() < 0.12


def test_views_are_a_function_of_the_seed():
    images = photos(4)
    torch.manual_seed(0)
    first, again, other = (make_views(images, [EVERYTHING], seed) for seed in (5, 5, 6))
    by_key = make_views(images, [EVERYTHING], keys_of(5, torch.arange(4)))
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(first, again, by_key, strict=True))
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], first[1])
    state = torch.get_rng_state()
    make_views(images, [EVERYTHING], 5)
    assert torch.equal(state, torch.get_rng_state())


def test_one_operations_draws_do_not_move_anothers():
    images = photos(8)
    plain = dataclasses.replace(EVERYTHING, jitter=0.0, grayscale=0.0, solarize=0.0, erase=0.0, blur=0.0, count=1)
    flipped = make_views(images, [dataclasses.replace(plain, hflip=0.0)], 1)[0]
    for a, b in zip(make_views(images, [plain], 1)[0], flipped, strict=True):
        assert any((a - c).abs().max() < 1e-5 for c in (b, b.flip(1), b.flip(2)))


@pytest.mark.parametrize(("dtype", "most"), [(torch.uint8, 255), (torch.uint16, 65535)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_types_and_channels(dtype, most, channels):
    numbers = (photos(3, channels) * most).round()
    views = make_views(numbers.to(dtype), [EVERYTHING], 0)
    for a, b in zip(views, make_views(numbers / most, [EVERYTHING], 0), strict=True):
        assert a.shape == (3, channels, 20, 20)
        close(a, b)
    assert all(v.min() >= 0 and v.max() <= 1 + 1e-6 for v in views)


def test_views_are_float32_tensors_to_train_on_even_under_autocast():
    images, layer = photos(2), torch.nn.Conv2d(3, 2, 3)
    expected = make_views(images, [EVERYTHING], 0)
    with torch.autocast("cpu", torch.bfloat16):
        views = make_views(images, [EVERYTHING], 0)
    assert all(torch.equal(a, b) for a, b in zip(views, expected, strict=True))
    layer(views[0]).sum().backward()
    assert layer.weight.grad is not None


# --- recipes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hflip", 1.1), ("blur", -0.1), ("threshold", 2.0), ("hue", 0.6), ("brightness", -1.0), ("scale", (0.0, 1.0)),
        ("scale", (0.5, 0.2)), ("scale", (0.5, 1.5)), ("ratio", (2.0, 1.0)), ("sigma", (0.0, 1.0)), ("kernel", 4),
        ("size", 0), ("count", 0),
    ],
)  # fmt: skip
def test_impossible_views_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=rf"View\.{field}"):
        View(**{field: value})


def test_a_kernel_wider_than_its_mirrored_borders_is_refused():
    View(size=12, blur=0.5, kernel=23)
    with pytest.raises(ValueError, match="at most 21"):
        View(size=11, blur=0.5, kernel=23)


def test_resized_keeps_proportions_patches_and_odd_kernels():
    large, small = dataclasses.replace(SIMCLR_VIEW, size=224), View(size=96, kernel=9)
    assert [(v.size, v.kernel) for v in resized((large, small), 224)] == [(224, 23), (96, 9)]
    assert [(v.size, v.kernel) for v in resized((large, small), 32)] == [(32, 3), (14, 1)]
    assert [v.size for v in resized((large, small), 224, patch=14)] == [224, 98]
    assert [v.size for v in resized((large, small), 32, patch=16)] == [32, 16]
    assert resized((large,), 448)[0] == dataclasses.replace(large, size=448, kernel=45)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(2, 3, 8)}, "shape"),
        ({"images": torch.zeros(2, 3, 8, 8, dtype=torch.float64)}, "float64"),
        ({"mean": (0.5,)}, "mean has 1"),
        ({"std": (0.5,) * 4}, "std has 4"),
        ({"seed": torch.arange(3)}, "keys"),
        ({"sizes": torch.ones(3, 2, dtype=torch.int64)}, "sizes"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        make_views(**{"images": photos(2), "views": [View(size=8)], "seed": 0, **change})


@pytest.mark.parametrize("sizes", [[[24, 31], [24, 30]], [[0, 5], [24, 30]], [[-1, 5], [24, 30]]])
def test_sizes_that_the_images_do_not_have_are_refused(sizes, monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setitem(making.ENGINES, "cpu", "numba")  # the other engine reads no memory but the images'
    with pytest.raises(ValueError, match="expected sizes of at least 1, within the images' memory"):
        make_views(photos(2), [View(size=8)], 0, sizes=torch.tensor(sizes))
    flat, _ = flat_and_padded([(4, 5), (6, 7)])
    flat.buffer = flat.buffer[:-1]
    with pytest.raises(ValueError, match="expected sizes of at least 1, within the images' memory"):
        make_views(flat, [View(size=8)], 0)


def test_compiled_code_that_cannot_be_kept_is_made_all_the_same(engine):
    """Numba's cache on a full disk."""
    if engine != "numba":
        pytest.skip("the other engine compiles nothing")
    code = (
        "import torch; from lookalike import numba_cache, views; from lookalike.views import cpu\n"
        "for kernel in numba_cache._KERNELS:\n"
        "    def full(*_): raise OSError(28, 'No space left on device')\n"
        "    kernel._cache.load_overload = lambda *_: None\n"
        "    kernel._cache.save_overload = full\n"
        "print(views.make_views(torch.zeros(2, 3, 8, 8), [views.View(size=4)], 0)[0].shape)"
    )
    quick = os.environ | {"NUMBA_OPT": "0"}  # it has to compile, not well
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=quick)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([2, 3, 4, 4])" in done.stdout


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_a_sheet_shows_sources_and_views_in_their_places(channels):
    images, mean, std = photos(3, channels, 16, 16), [0.4] * channels, [0.3] * channels
    views = make_views(images, [View(size=16), View(size=8)], 0, mean=mean, std=std)
    picture = sheet(views, mean, std, 2, images, torch.tensor([[16, 16], [16, 8], [16, 16]]))
    assert picture.size == (3 * 17 - 1, 2 * 17 - 1)
    pixels = torch.from_numpy(np.array(picture)) / 255
    shown = images[:2, : 3 if channels > 2 else 1].expand(2, 3, 16, 16)
    for x in (0, 17):
        close(pixels[:16, x : x + 16].permute(2, 0, 1), shown[0], 0.003)
    close(pixels[17:, :8].permute(2, 0, 1), shown[1, :, :, :8], 0.003)
    assert (pixels[16] == 1).all()
    assert (pixels[:, 16] == 1).all()
    assert (pixels[17:, 8:16] == 1).all()
