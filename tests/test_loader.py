"""Batches, and the loader's promises: the same images with any workers and cache, and an end at many broken ones."""

import pickle
from pathlib import Path
from typing import Literal

import pytest
import torch
from support.datasets import Numbers, epochs
from torch import Tensor

from lookalike.data import Images, Loader, open_source
from lookalike.data.order import Order
from lookalike.images import pack, starts

# ---------------------------------------------------------------- batches


def batch_of(images: list[Tensor]) -> Images:
    sizes = torch.tensor([image.shape[1:] for image in images])
    channels, b = images[0].shape[0], len(images)
    return Images(pack(images), starts(channels, sizes), sizes, channels, torch.arange(b), torch.arange(b))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_padded_puts_each_image_at_the_top_left(dtype: torch.dtype) -> None:
    images = [(torch.rand(3, h, w) * 250 + 1).to(dtype) for h, w in ((4, 6), (5, 2), (1, 1))]
    batch = batch_of(images)
    out = batch.padded()
    assert out.shape == (3, 3, 5, 6)
    assert out.dtype == dtype
    for row, image in zip(out, images, strict=True):
        expected = torch.zeros(3, 5, 6)
        expected[:, : image.shape[1], : image.shape[2]] = image.float()
        assert torch.equal(row.float(), expected)
    even = batch_of(images[:1] * 2)
    assert even.padded().data_ptr() == even.buffer.data_ptr()
    assert torch.equal(even.padded().float(), torch.stack(images[:1] * 2).float())
    moved = batch.to("cpu", non_blocking=True)
    assert torch.equal(moved.padded().float(), out.float())
    assert moved.broken == batch.broken


def test_mixed_dtypes_become_the_widest() -> None:
    byte, short = torch.tensor([0, 1, 255], dtype=torch.uint8), torch.tensor([0, 257, 65535]).to(torch.uint16)
    real = torch.tensor([0, 1 / 255, 1])
    images = [x.view(1, 1, 3) for x in (byte, short, real)]
    for some, expected in ((images[:2], short), (images[1:], real), (images[::2], real), (images, real)):
        out = batch_of(some).padded()
        assert out.dtype == expected.dtype
        for row in out:
            assert torch.allclose(row.view(-1).to(torch.float64), expected.to(torch.float64), atol=1e-7)


# ---------------------------------------------------------------- loading


def assert_same(a: list[Images], b: list[Images]) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        for name in ("buffer", "offsets", "sizes", "index", "keys", "labels"):
            assert torch.equal(getattr(x, name), getattr(y, name)), name
        assert (x.channels, x.broken) == (y.channels, y.broken)


@pytest.mark.parametrize("kind", [{"workers": 1}, {"workers": 2}, {"cache": "ram"}, {"cache": "device", "workers": 2}])
def test_workers_and_caches_change_nothing(folder: Path, kind: dict[str, object]) -> None:
    source = open_source(folder, labelled=True)

    def loader(**options: object) -> Loader:
        return Loader(source, 6, 3, rank=1, world=2, accumulate=1, decode_size=4, max_broken=0.5, **options)  # type: ignore[arg-type]

    plain, other = loader(), loader(**kind)
    expected = epochs(plain, 2)
    assert any(batch.broken for batch in expected)
    assert_same(epochs(other, 2), expected)
    assert other.broken == plain.broken
    resumed = loader(**kind)
    resumed.load_state_dict({"epoch": 0, "consumed": 2})
    assert_same(epochs(resumed, 2), expected[2:])
    resumed.load_state_dict({"epoch": 0, "consumed": 1})
    assert_same(epochs(resumed, 1), expected[1:3])
    assert resumed.waited > 0


def test_what_a_batch_holds(folder: Path) -> None:
    source = open_source(folder, labelled=True)
    loader = Loader(source, 6, 0, max_broken=0.5)
    (batch, *_) = loader
    assert source.labels is not None
    assert batch.labels is not None
    assert torch.equal(batch.labels, source.labels[batch.index])
    for row, i in zip(batch.padded(), batch.index.tolist(), strict=True):
        image = source.read(i, None)
        assert torch.equal(row[:, : image.shape[1], : image.shape[2]], image)
    epochs(loader, 5)
    names = {"b/07.png", "a/06.jpg", "c/05.png", "b/13.png"}
    assert set(loader.broken) == names
    assert loader.broken["b/13.png"] == "empty file"


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_batches_for_a_gpu_are_pinned(cache: Literal["none", "ram"], monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[int] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: pinned.append(self.numel()) or self)
    epochs(Loader(Numbers(8), 4, 0, cache=cache, device=torch.device("cpu")), 1)
    assert pinned == []
    epochs(Loader(Numbers(8), 4, 0, cache=cache, device=torch.device("cuda")), 1)
    assert pinned == [4] * 2  # the buffers of two batches


def test_workers_inherit_the_keys(folder: Path) -> None:
    source = open_source(folder)
    assert "_keys" not in vars(source)
    Loader(source, 6, 0)
    assert "_keys" in vars(source)


@pytest.mark.parametrize("options", [{}, {"workers": 1}, {"cache": "ram"}])
def test_too_many_broken_images_stop_the_loader(options: dict[str, object]) -> None:
    source = Numbers(100, frozenset(range(40)))
    with pytest.raises(ValueError, match=r"(?s)of \d+ images could not be read, .* 0\.1:\n  n\d+: bad.*--max-broken"):
        epochs(Loader(source, 10, 0, **options), 2)  # type: ignore[arg-type]
    assert len(epochs(Loader(source, 10, 0, max_broken=0.5, **options), 2)) == 20  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"1 of .* could not be read"):
        epochs(Loader(Numbers(100, frozenset({3})), 10, 0, max_broken=0, **options), 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{}, {"workers": 1}, {"cache": "ram"}])
def test_nothing_but_broken_images(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"(?s)None of 9\d\d images tried in turn could be read:\n  n\d+: bad"):
        next(iter(Loader(Numbers(2500, frozenset(range(2500))), 10, 0, max_broken=1, **options)))  # type: ignore[arg-type]


def test_loading_leaves_the_global_generator_alone(folder: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    epochs(Loader(open_source(folder), 6, 0, workers=1, max_broken=0.5), 1)
    assert torch.equal(torch.rand(3), expected)


def test_sources_and_orders_can_be_sent_to_a_spawned_worker(folder: Path) -> None:
    source = pickle.loads(pickle.dumps(open_source(folder, labelled=True)))
    assert torch.equal(source.keys, open_source(folder).keys)
    assert pickle.loads(pickle.dumps(Order(10, 4, 0, 0, 1, 1))) == Order(10, 4, 0, 0, 1, 1)
