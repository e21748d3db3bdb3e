"""Files that are made to harm: never opened, never read whole, and refused before they take memory."""

import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.files import chunk, png, tiff
from support.images import encoded
from support.samples import RGB, assert_holds, chw, integers, npy

from lookalike.data import BrokenImage, decode


def test_what_is_no_regular_file_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "endless.jpg").symlink_to("/proc/self/pagemap")
    here = os.getcwd()
    os.chdir(tmp_path)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("socket.jpg")
            for name in ("pipe.jpg", "device.jpg", "folder.jpg", "endless.jpg", "socket.jpg"):
                for function in (lambda p: decode(p, 3), lambda p: decode(p, 1)):
                    with pytest.raises(BrokenImage, match=r"not a regular file|empty file"):
                        function(tmp_path / name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp"])
def test_a_file_with_a_hole_is_not_read_whole(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(RGB).save(path)
    os.truncate(path, 3 << 30)
    with pytest.raises(BrokenImage, match="a file of 3072 MiB, more than the limit of 512 MiB"):
        decode(path, 3)


def test_headers_of_npy_files_are_checked_before_their_values_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    for content, reason in (
        (npy("(3, 32768, 32768)"), "takes 3072 MiB, more than the limit of 512 MiB"),
        (npy("(4294967296, 4294967296, 3)"), "more than the limit"),
        (npy("(-3, -5)"), "shape"), (npy("(-1,)"), "shape"), (npy("(5, 50)"), "truncated: it contains 100 of 250"),
        (npy("(5, 5)", "'|O'"), "Python objects"), (npy("(5, 5)", "[('a', '<f8')]"), "expected uint8"),
        (npy("(5, 5)", "'<U9'"), "expected uint8"), (npy("(5, 5)", "'<M8[s]'"), "expected uint8"),
        (npy("(2, 3)", "'<c16'"), "expected uint8"), (npy("(2, 3)", "'<f16'"), "expected uint8"),
        (npy("()"), "shape"), (npy("(0, 5)"), "shape"), (npy("(5, 5)", version=9), "version"), (npy("'a'"), "."),
        (npy("(1,) * 99999999"), "."), (b"\x93NUMPY", "."), (b"PK\3\4 an archive", "not an image .*: it contains zip"),
    ):  # fmt: skip
        path.write_bytes(content)
        for image in (path, content):
            with pytest.raises(BrokenImage, match=reason):
                decode(image, 3)
    array = np.asfortranarray(integers(255, 5, 6, 3))
    np.save(path, array)
    assert_holds(decode(path, 3), chw(array))


def test_the_limit_counts_the_bytes_that_decoding_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lookalike.data.limits.MAX_BYTES", 4000)
    grey = integers(65535, 30, 30, dtype="u2")
    assert decode(encoded(Image.fromarray(grey), "PNG"), 1).shape == (1, 30, 30)
    for content in (
        encoded(Image.fromarray(grey), "PNG"),
        png(np.dstack([grey] * 3)),
        tiff(grey[..., None] / np.float32(65535)),
    ):
        with pytest.raises(BrokenImage, match=r"30 x 30 pixels of .* bytes take|more than the limit"):
            decode(content, 3)
    bomb = tiff(integers(255, 9, 9, 1), more=[(322, 4, [1 << 15]), (323, 4, [1 << 15])])
    with pytest.raises(BrokenImage, match="tiles of 1024 MiB"):
        decode(bomb, 1)


def test_large_images_take_little_more_than_their_pixels_and_print_nothing(tmp_path: Path) -> None:
    """In a process of its own, whose largest size tells. In 0.1 it was 4.3 times the pixels, and 16 for `check`."""
    side = 4000
    image = Image.new("P", (side, side), 1)
    image.putpalette([9, 8, 7, 200, 100, 50])
    image.save(tmp_path / "large.png", transparency=0, compress_level=1)
    image.crop((0, 0, 99, 99)).save(tmp_path / "small.png", transparency=0)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 12_000, 8_000, 8, 0, 0, 0, 0))  # above Pillow's limit, below ours
    content = png(np.zeros((1, 1), np.uint8))
    (tmp_path / "larger.png").write_bytes(content[:8] + head + content[33:])
    script = """
from pathlib import Path
from lookalike.commands.check import _look
from lookalike.data import BrokenImage, decode
from lookalike.images import levels, moments

def bytes_of(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(what))

def grown(function):
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = bytes_of("VmRSS")
    image = function()
    return image, (bytes_of("VmHWM") - before) / image.nbytes

def look(image):
    _look(image), moments(image), levels(image)
    return image

look(decode("small.png", 3))
image, decoding = grown(lambda: decode("large.png", 3))
print(decoding, grown(lambda: look(image))[1])
try:
    decode("larger.png", 3)
except BrokenImage as error:
    print(error.reason)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.stderr == ""
    decoding, looking, reason = done.stdout.split(maxsplit=2)
    assert float(decoding) < 3.5
    assert float(looking) < 5
    assert "limit" not in reason
