"""Transparency: what is certain is laid on white, other channels are left out, and what is doubtful is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.files import chunk, png, tiff
from support.images import encoded
from support.samples import RGB, RNG, assert_holds, chw, integers

from lookalike.data import BrokenImage, decode
from lookalike.data.decoding import kind_of
from lookalike.image_options import Pixels

LEFT = np.s_[:, :20]


def with_alpha(alpha: np.ndarray | int, hidden: bool = False) -> np.ndarray:
    """The colours, cleared where alpha is 0 unless they stay hidden there."""
    array = np.dstack([RGB, np.broadcast_to(np.uint8(alpha), RGB.shape[:2])])
    if not hidden:
        array[array[..., 3] == 0] = 0
    return array


def cut_out() -> np.ndarray:
    alpha = np.full(RGB.shape[:2], 255, np.uint8)
    alpha[LEFT] = 0
    alpha[:, 20] = 128
    return alpha


def on_white(array: np.ndarray) -> np.ndarray:
    white = Image.new("RGBA", array.shape[1::-1], "white")
    white.alpha_composite(Image.fromarray(array))
    return np.asarray(white.convert("RGB"))


def as_tiff(array: np.ndarray, extra: list[int]) -> bytes:
    return tiff(array, 2, extra=extra)


@pytest.mark.parametrize("make", [
    lambda a: encoded(Image.fromarray(a), "PNG"), lambda a: encoded(Image.fromarray(a), "TGA"),
    lambda a: encoded(Image.fromarray(a), "TIFF"), lambda a: as_tiff(a, []),
    lambda a: encoded(Image.fromarray(a), "WEBP", lossless=True, exact=True),
    lambda a: encoded(Image.fromarray(a), "JPEG2000", irreversible=False),
])  # fmt: skip
def test_certain_transparency_is_laid_on_white_and_other_channels_are_left_out(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    infrared = RNG.integers(0, 256, RGB.shape[:2])
    mask = np.where(np.add.outer(np.arange(30), np.arange(40)) % 7, 255, 0)
    for array, certain in (
        (with_alpha(cut_out()), True),
        (with_alpha(255), True),
        (with_alpha(5), False),  # near infrared of a shadow
        (with_alpha(0, hidden=True), False),  # nobody filled the channel in
        (with_alpha(infrared, hidden=True), False),
        (with_alpha(np.arange(40) * 6), False),  # a height
        *([(with_alpha(mask, hidden=True), False)] if make(RGB[..., [0, 1, 2, 2]])[8:12] != b"WEBP" else []),
    ):
        content = make(array)
        path = tmp_path / "image"
        path.write_bytes(content)
        assert_holds(decode(content, 3), chw(on_white(array) if certain else array[..., :3]))
        assert_holds(decode(content, Pixels(3, "white")), chw(on_white(array)))
        assert_holds(decode(content, Pixels(3, "drop")), chw(array[..., :3]))
        if array[..., 3].min() < 255:  # else some formats have no such channel
            assert_holds(decode(content, 4), chw(array))
        assert kind_of(path).endswith("last channel left out") != certain
        assert not kind_of(path, Pixels(alpha="white")).endswith("left out")
        assert torch.equal(decode(content, 3, 8), decode(content, 3, 8))


def test_a_fourth_band_that_tiff_does_not_call_alpha_is_one_of_four_channels(tmp_path: Path) -> None:
    array = with_alpha(cut_out())
    for options in ({}, {"tile": 16}, {"packed": True}, {"order": ">"}):
        path = tmp_path / "bands.tif"
        path.write_bytes(tiff(array, 2, extra=[0], **options))  # type: ignore[arg-type]
        assert_holds(decode(path, 3), chw(RGB * (array[..., 3:] > 0)))
        assert_holds(decode(path, 4), chw(array))
        assert kind_of(path).endswith("last channel left out")
    with pytest.raises(BrokenImage, match=r"cannot be converted to 4|planar"):
        decode(tiff(array, 2, extra=[0], planar=True), 4)


def test_colours_that_are_multiplied_with_a_doubtful_channel_are_refused() -> None:
    with pytest.raises(BrokenImage, match="--alpha white"):
        decode(tiff(with_alpha(5), 2, extra=[1]), 3)
    cut = with_alpha(np.where(cut_out() == 128, 255, cut_out()))
    assert_holds(decode(tiff(cut, 2, extra=[1]), 3), chw(on_white(cut)))


def test_grey_with_alpha_follows_the_same_rule() -> None:
    grey = RGB[..., 0]
    for alpha, certain in ((cut_out(), True), (np.full_like(grey, 7), False)):
        array = np.dstack([np.where(alpha == 0, 0, grey), alpha]).astype(np.uint8)
        for channels in (1, 3):
            image = decode(encoded(Image.fromarray(array), "PNG"), channels)
            white = np.round(array[..., 0] * (alpha / 255) + 255 - alpha) if certain else array[..., 0]
            assert np.abs(image.numpy().astype(int) - np.broadcast_to(white, image.shape)).max() <= 1


@pytest.mark.parametrize("channels", [2, 4])
def test_transparency_of_16_bits_follows_the_same_rule(channels: int) -> None:
    wide = RGB[..., : channels - 1].astype(np.uint16) * 257 + 3
    for alpha, certain in ((cut_out().astype(np.uint16) * 257, True), (np.full((30, 40), 1285, np.uint16), False)):
        array = np.dstack([np.where(alpha[..., None] == 0, 0, wide), alpha]).astype(np.uint16)
        share = alpha[..., None] / 65535
        white = np.round(array[..., :-1] * share + 65535 * (1 - share))
        content = png(array)
        assert_holds(decode(content, channels - 1), chw(white if certain else array[..., :-1]))
        assert_holds(decode(content, Pixels(channels - 1, "white")), chw(white))
        assert_holds(decode(content, Pixels(channels - 1, "drop")), chw(array[..., :-1]))
    assert decode(png(array), 4).shape[0] == 4


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_colour_that_png_marks_as_transparent_is_white(bits: int) -> None:
    top = 2**bits - 1
    for colour, channels in ((0, 1), (2, 3)) if bits >= 8 else ((0, 1),):
        array = integers(top, 9, 11, channels, dtype="u2" if bits == 16 else "u1")
        key = array[0, 0].astype(">u2").tobytes()
        content = png(array, colour, bits=bits, before=chunk(b"tRNS", key))
        full = array.astype(int) if bits == 16 else array.astype(int) * 255 // top
        marked = (array == array[0, 0]).all(2, keepdims=True)
        assert_holds(decode(content, channels), chw(np.where(marked, 65535 if bits == 16 else 255, full)))
        assert_holds(decode(content, Pixels(channels, "drop")), chw(full))
