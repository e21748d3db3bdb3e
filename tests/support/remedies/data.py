"""Advice about images, where they lie and how they are loaded: each piece is followed, and works."""

import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from unittest import mock

import numpy as np
import tifffile
import torch
from PIL import Image

import lookalike
from lookalike.commands.evaluate_trained import trained_scores
from lookalike.data import decode, open_source, statistics
from lookalike.data.order import Order
from lookalike.data.remarks import ALL, warnings_about
from lookalike.data.teacher_cache import Answers
from lookalike.image_options import Pixels, Scale
from lookalike.runs import Options
from lookalike.training import model, resolved
from support.calls import (
    Lengthless,
    Rows,
    call,
    configured,
    damaged,
    distilled,
    epoch,
    folders,
    four,
    image,
    images,
    listing,
    looked,
    net,
    noise,
    npy,
    numbered,
    several,
    written,
)
from support.files import png, tiff
from support.place import Place


def lines(data: object, **options: object) -> str:
    return "\n".join(looked(data, **options).lines())


def all_of(data: Path) -> dict[str, Any]:
    """What a check writes to its file."""
    return dict(looked(data).content())["images"]  # type: ignore[return-value]


def twins(p: Place) -> Path:
    """A picture, the same once more in another class, and a smaller copy."""
    root = p.out / "twins"
    picture = Image.fromarray(np.kron(noise(8, 8, 3), np.ones((16, 16, 1), np.uint8)))
    for name, side in (("a/0.png", 128), ("b/0.png", 128), ("a/1.png", 96)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture.resize((side, side)).save(root / name)
    image(root / "b/1.png", 5, 128)
    return root


def drop_copies(p: Place, said: str) -> None:
    for first, copy in re.findall(r"exact: (\S+) = (\S+)", said):
        assert (p.out / "twins" / first).read_bytes() == (p.out / "twins" / copy).read_bytes()
        (p.out / "twins" / copy).unlink()
    assert "0 exact pairs, 1 near pair" in lines(p.out / "twins")


def masked(p: Place) -> Path:
    """Two photographs with a mask of their name each."""
    root = p.out / "masked"
    for i in range(2):
        image(root / f"{i}.jpg", i, 64)
        Image.fromarray(np.kron(noise(4, 4, seed=9 + i), np.ones((16, 16), np.uint8))).save(root / f"{i}.png")
    return root


def twofold(p: Place) -> Path:
    root = p.out / "twofold"
    for i in range(2):
        with Image.open(image(root / f"{i}.png", i, 64)) as png:
            png.save(root / f"{i}.bmp")
    return root


def blank(p: Place) -> Path:
    root = images(p.out / "blank", 3)
    Image.new("RGB", (16, 16)).save(root / "black.png")
    return root


def answers(folder: Path, name: str = "mine", width: int = 3) -> Answers:
    made = Answers(folder, name, 4, 1, width, torch.float32)
    made.recall(torch.arange(4), 0, lambda rows: torch.ones(len(rows), width))
    return made


def swapped_answers(p: Place) -> Answers:
    """Those of one teacher under the name of another's."""
    mine, theirs = Answers(p.out, "mine", 4, 1, 3, torch.float32), answers(p.out, "theirs")
    for a, b in ((theirs.card, mine.card), (theirs.values, mine.values), (theirs.sums, mine.sums)):
        shutil.copy(a, b)
    return mine


def cut_answers(p: Place) -> Answers:
    made = answers(p.out)
    made.values.write_bytes(made.values.read_bytes()[:-4])
    return made


def with_room(free: int, make: Callable[[], object]) -> object:
    """On a disk with so many bytes free."""
    with mock.patch("shutil.disk_usage", return_value=mock.Mock(free=free)):
        return make()


def with_memory(free: int, make: Callable[[], object]) -> object:
    with mock.patch("lookalike.data.cache.free_memory", return_value=free):
        return make()


def tiff_of(p: Place, *shape: int, dtype: type = np.uint8, **options: object) -> Path:
    array = np.zeros(shape, dtype) if dtype != np.uint8 else noise(*shape)
    return written(tiff(array, **options), p.out / "odd.tif")  # type: ignore[arg-type]


def paged(p: Place) -> Path:
    grey = [Image.fromarray(noise(16, 16, seed=i)) for i in range(2)]
    grey[0].save(p.out / "pages.tif", save_all=True, append_images=grey[1:])
    return p.out / "pages.tif"


def jpeg2000(p: Place, array: np.ndarray) -> Path:
    Image.fromarray(array).save(p.out / "a.jp2", no_jp2=True)
    return p.out / "a.jp2"


def deep_jpeg2000(p: Place) -> Path:
    """Grey of 12 bits, as its head says."""
    content = bytearray(jpeg2000(p, noise(16, 16)).read_bytes())
    content[content.index(b"\xff\x4f\xff\x51") + 42] = 11
    return written(bytes(content), p.out / "deep.jp2")


class Table:
    """A table of another library, whose items are columns."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, name: object) -> object:
        raise KeyError(name)


def read(data: object, **options: object) -> object:
    source = open_source(data, **options)  # type: ignore[arg-type]
    return [source.read(i, None) for i in range(len(source))]


def opened(data: object, **options: object) -> object:
    open_source(data, **options)  # type: ignore[arg-type]


def labelled(data: object) -> object:
    return opened(data, labelled=True)


def linked(p: Place) -> Path:
    root = folders(p.out / "linked", "a", "b")
    (root / "c").symlink_to(root / "a")
    return root


def remarked(data: object, pixels: Pixels | int = 3) -> str:
    return "\n".join(warnings_about(open_source(data, pixels), ALL))  # type: ignore[arg-type]


def infrared(p: Place) -> Path:
    """Colours with a last channel that hides nothing and is never whole."""
    pixels = np.dstack([noise(16, 16, 3), np.full((16, 16), 5, np.uint8)])
    for i in range(2):
        written(tiff(pixels, 2, extra=(2,)), p.out / f"nir/{i}.tif")
    return p.out / "nir"


def bands(p: Place) -> Path:
    for i in range(2):
        written(tiff(noise(16, 16, 5, seed=i), 2, extra=(0, 0)), p.out / f"bands/{i}.tif")
    return p.out / "bands"


def pages(p: Place) -> Path:
    (p.out / "several").mkdir(exist_ok=True)
    return paged(p).rename(p.out / "several/0.tif").parent


def grey(p: Place) -> Path:
    for i in range(2):
        (p.out / "grey").mkdir(exist_ok=True)
        Image.fromarray(noise(16, 16, seed=i)).convert("RGB").save(p.out / f"grey/{i}.png")
    return p.out / "grey"


def dark(p: Place) -> Path:
    (p.out / "dark").mkdir(exist_ok=True)
    for i in range(2):
        Image.fromarray(noise(16, 16, 3, seed=i) // 16).save(p.out / f"dark/{i}.png")
    return p.out / "dark"


LARGE: Final = Scale.of(f"range 0 {2**64}")


def beyond(p: Place, dtype: str = "uint64") -> Path:
    tifffile.imwrite(p.out / "large.tif", np.full((32, 32), 2**64 - 2**12, dtype), photometric="minisblack")
    return p.out / "large.tif"


def volume(p: Place) -> Path:
    tifffile.imwrite(p.out / "volume.tif", noise(2, 32, 32), volumetric=True, tile=(1, 16, 16))
    return p.out / "volume.tif"


def away(p: Place) -> str:
    """What a source says whose folder went away."""
    source = open_source(images(p.out / "away"))
    (p.out / "away").rename(p.out / "elsewhere")
    return source.missing()


def back(p: Place) -> str:
    source = open_source((p.out / "elsewhere").rename(p.out / "away"))
    return source.missing()


def zipped(path: Path, file: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(file, file.name)
    return path


CALLS = {
    "answers of another teacher": call(
        lambda p: answers_of(swapped_answers(p)), r"Remove it, or give another (--cache-dir)\.",
        lambda p, found: answers(p.out / "another"),
        lambda p, found: Path(re.match(r"(\S+) belongs", found.string)[1]).unlink() or answers(p.out),
    ),
    "answers that are not whole": call(
        lambda p: answers_of(cut_answers(p)),
        r"^(\S+) does not have the size stated in (\S+)\. Remove both to rebuild them",
        lambda p, found: [Path(name).unlink() for name in found.groups()] and answers(p.out),
    ),
    "answers for which there is no room": call(
        lambda p: with_room(100, lambda: answers(p.out, width=50)),
        r"Omit patches \(--patch-weight 0\), give another (--cache-dir), or omit (--cache-teacher)",
        lambda p, found: with_room(100, lambda: answers(p.out, width=1)), lambda p, found: answers(p.out / "another"),
        lambda p, found: distilled(p).memory_name(),
    ),
    "pairs that are near": call(
        lambda p: lines(twins(p)), r"Inspect near pairs first: .+ \(--sheet FILE\.png draws the pairs",
        lambda p, found: looked(p.out / "twins").sheet().save(p.out / "sheet.png"),
    ),
    "pairs of different classes": call(
        lambda p: lines(twins(p)), r"OF DIFFERENT CLASSES: .+ inspect these first",
        lambda p, found: looked(p.out / "twins").sheet().save(p.out / "sheet.png"),
        lambda p, found: (p.out / "twins/b/0.png").unlink() or lines(p.out / "twins"),
    ),
    "exact copies": call(
        lambda p: lines(twins(p)), r"Remove only exact copies\.",
        lambda p, found: drop_copies(p, found.string),
    ),
    "images that are blank": call(
        lambda p: lines(blank(p)),
        r"If they are masks, give a list of the photographs as DATA; --out FILE\.json lists all",
        lambda p, found: lines(listing(p.out / "list.txt", *(p.out / "blank").glob("[0-9].png"))),
        lambda p, found: [all_of(p.out / "blank")["blank"].remove("black.png")],
    ),
    "one picture under two suffixes": call(
        lambda p: lines(twofold(p)), r"all files show the same image: keep one of each\.",
        lambda p, found: lines(listing(p.out / "list.txt", *(p.out / "twofold").glob("*.png"))),
    ),
    "masks beside photographs": call(
        lambda p: lines(masked(p)),
        r"they differ \(masks, previews\?\): give a list of the images to train on as DATA\.",
        lambda p, found: lines(listing(p.out / "list.txt", *(p.out / "masked").glob("*.jpg"))),
    ),
    "names of several files": call(
        lambda p: lines(masked(p)), r"(?<!;) --out FILE\.json lists all",
        lambda p, found: all_of(p.out / "masked")["same_names"].remove(["0.jpg", "0.png"]),
    ),
    "many broken images": call(
        lambda p: lines(damaged(p)), r"and .+ more \(--out FILE\.json lists all\)",
        lambda p, found: [dict(all_of(p.out / "damaged")["broken"])[f"bad{i}.png"] for i in range(12)],
    ),
    "an image that is not RGB of 8 bits": call(
        lambda p: decode(written(b"P6 4 4 65535\n" + bytes(96), p.out / "deep.ppm"), 3),
        r"Save it as 8-bit RGB, or as \.npy of shape \(C, H, W\)",
        lambda p, found: decode(image(p.out / "rgb.png"), 3),
        lambda p, found: decode(npy(p.out / "a.npy", noise(3, 8, 8)), 3),
    ),
    "JPEG 2000 of 12 bits": call(
        lambda p: decode(deep_jpeg2000(p), 1), r"; use 8 bits, or 16-bit greyscale\.",
        lambda p, found: decode(jpeg2000(p, noise(16, 16)), 1),
        lambda p, found: decode(jpeg2000(p, noise(16, 16).astype(np.uint16)), 1),
    ),
    "values above 1": call(
        lambda p: decode(npy(p.out / "a.npy", np.full((3, 8, 8), 5, np.float32)), 3),
        r"Give --scale range LOW HIGH",
        lambda p, found: decode(p.out / "a.npy", Pixels(3, scale=Scale.of("range 0 5"))),
    ),
    "channels that lie on pages": call(
        lambda p: decode(paged(p), 4), r"Give --channels (\S+), or choose pages with --bands",
        lambda p, found: decode(paged(p), int(found[1])), lambda p, found: decode(paged(p), Pixels(1, bands=("2",))),
    ),
    "channels of an array": call(
        lambda p: decode(npy(p.out / "a.npy", noise(7, 9, 11)), 3),
        r"with C = \S+ Give --channels, or choose some with --bands",
        lambda p, found: decode(p.out / "a.npy", 7), lambda p, found: decode(p.out / "a.npy", Pixels(1, bands=("7",))),
    ),
    "channels of a TIFF file": call(
        lambda p: decode(tiff(noise(8, 8, 5, seed=1), extra=[0] * 4), 3),
        r"\. Give --channels (\S+), or choose some with --bands",
        lambda p, found: decode(tiff(noise(8, 8, 5), extra=[0] * 4), int(found[1])),
        lambda p, found: decode(tiff(noise(8, 8, 5), extra=[0] * 4), Pixels(1, bands=("5",))),
    ),
    "a band that a file does not have": call(
        lambda p: decode(tiff(noise(8, 8, 5), extra=[0] * 4), Pixels(1, bands=("nir",))),
        r"has .+, but no band \S+ \(--bands\)",
        lambda p, found: decode(tiff(noise(8, 8, 5), extra=[0] * 4), Pixels(1, bands=("5",))),
    ),
    "bands of inks": call(
        lambda p: decode(tiff(noise(8, 8, 4), 5), Pixels(1, bands=("2",))), r"in the colour space \S+ Save it as RGB",
        lambda p, found: decode(tiff(noise(8, 8, 3), 2), Pixels(1, bands=("2",))),
    ),
    "floats that begin with white": call(
        lambda p: decode(tiff(np.zeros((8, 8, 1), "f4"), 0), 1), r"inverted greyscale of \S+ Save it with black at 0",
        lambda p, found: decode(tiff(np.zeros((8, 8, 1), "f4"), 1), 1),
    ),
    "integers beyond those of torch": call(
        lambda p: decode(beyond(p), Pixels(1, scale=LARGE)),
        r"expected at most \S+ Save it as (float64)",
        lambda p, found: decode(beyond(p, found[1]), Pixels(1, scale=LARGE)),
    ),
    "a volume": call(
        lambda p: decode(volume(p), Pixels(1, bands=("1",))), r"a TIFF volume of \S+ slices\. Save each slice as",
        lambda p, found: decode(tiff(noise(16, 16, 1)), Pixels(1, bands=("1",))),
    ),
    "a file of another kind that is called an image": call(
        lambda p: decode(written(b"%PDF-1.7", p.out / "a.png"), 3), r"Convert it to (PNG) or (TIFF)",
        lambda p, found: decode(image(p.out / f"b.{found[1].lower()}"), 3),
        lambda p, found: decode(image(p.out / f"b.{found[2].lower()}"), 3),
    ),
    "a TIFF of five bands": call(
        lambda p: decode(tiff_of(p, 16, 16, 5, dtype=np.complex64), 3),
        r"Save it as (\.npy) of shape \((.+), H, W\) and train with --channels",
        lambda p, found: decode(npy(p.out / f"a{found[1]}", noise(int(found[2]), 16, 16)), int(found[2])),
    ),
    "a TIFF of 64 bits": call(
        lambda p: decode(tiff_of(p, 16, 16, 1, dtype=np.complex64), 1),
        r"Save it with 8 or 16 bits, or as floats from 0 to 1",
        lambda p, found: decode(tiff_of(p, 16, 16, 1), 1),
        lambda p, found: decode(tiff_of(p, 16, 16, 1, dtype=np.uint16), 1),
        lambda p, found: decode(tiff_of(p, 16, 16, 1, dtype=np.float32), 1),
    ),
    "a TIFF of other colours": call(
        lambda p: decode(tiff_of(p, 16, 16, 3, dtype=np.uint16, photometric=8), 3),
        r"Save it as (.+), or as (\.npy) of shape \(3, H, W\)",
        lambda p, found: decode(written(png(np.zeros((8, 8, 3), np.uint16)), p.out / "deep.png"), 3),
        lambda p, found: decode(npy(p.out / "a.npy", np.zeros((3, 8, 8), np.uint16)), 3),
    ),
    "a TIFF with much metadata": call(
        lambda p: with_little(lambda: decode(tiff_of(p, 4, 4, 3, photometric=2, more=[(700, 4, [0] * 9999)]), 3)),
        r"Save the image without metadata",
        lambda p, found: with_little(lambda: decode(tiff_of(p, 4, 4, 3, photometric=2), 3)),
    ),
    "colours that are multiplied": call(
        lambda p: decode(multiplied(p), 3), r"Save it with colours that are not premultiplied, or give --alpha (white)",
        lambda p, found: decode(multiplied(p, extra=2), 3), lambda p, found: decode(multiplied(p), Pixels(3, found[1])),
    ),
    "images that cannot be used": call(
        lambda p: epoch(arrays(p, 7, 3, 8, 8)), r"^Convert them$|(?<=\n)Convert them\b",
        lambda p, found: epoch(arrays(p, 3, 8, 8)),
    ),
    "images that cannot be read": call(
        lambda p: epoch(damaged(p, 3)),
        r"^Repair or convert them$|Repair or convert them(?:, or restore them)",
        lambda p, found: [image(p.out / f"damaged/bad{i}.png") for i in range(3)] and epoch(p.out / "damaged"),
    ),
    "too many images that cannot be read": call(
        lambda p: epoch(damaged(p, 3)),
        r"or restore them \(an interrupted run continues with --resume\), raise (--max-broken), or remove them and "
        r"start a new run",
        lambda p, found: epoch(p.out / "damaged", max_broken=0.5),
        lambda p, found: [file.unlink() for file in (p.out / "damaged").glob("bad*")] and epoch(p.out / "damaged", 3),
    ),
    "a folder of other files": call(
        lambda p: opened(written(b"x", p.out / "scans/0.nef").parent),
        r"Convert images among them to (PNG) or (TIFF)\. To read images with other suffixes, list their paths in a "
        r"text file and give it as DATA",
        lambda p, found: read(image(p.out / "converted/0.png").parent),
        lambda p, found: read(image(p.out / "converted/0.tiff").parent),
        lambda p, found: read(listing(p.out / "list.txt", image(p.out / "a.png").rename(p.out / "scan.0001"))),
    ),
    "rows with two images": call(
        lambda p: read(Rows(several)), r"Rename the column to use to (image)\b",
        lambda p, found: read(Rows(lambda i: several(i) | {found[1]: several(i)["left"]})),
    ),
    "rows with two labels": call(
        lambda p: labelled(Rows(numbered)), r"Rename the column to use to (label)\.",
        lambda p, found: labelled(Rows(lambda i: numbered(i) | {found[1]: i % 2})),
    ),
    "folders that are written alike": call(
        lambda p: labelled(folders(p.out / "alike", "a\n", r"a\n")), r"Rename all but one",
        lambda p, found: (p.out / "alike" / r"a\n").rename(p.out / "alike/b") and labelled(p.out / "alike"),
    ),
    "a class with a slip": call(
        lambda p: opened(folders(p.out / "slips", "cat", "doog"), labelled=True, classes=("cat", "dog")),
        r"; nearest: ([^,.]+)",
        lambda p, found: (p.out / "slips/doog").rename(p.out / "slips" / found[1])
        and opened(p.out / "slips", labelled=True, classes=("cat", "dog")),
    ),
    "labels of several classes": call(
        lambda p: labelled(Rows(lambda i: noise(8, 8, 3), targets=np.ones((4, 3), int))), r"Choose one class per image",
        lambda p, found: labelled(Rows(lambda i: noise(8, 8, 3), targets=np.eye(4, dtype=int))),
    ),
    "a batch of more images than there are": call(
        lambda p: Order(40, 50, 0, 0, 1, 1),
        r"Give a --batch-size of at most (\S+), such as (\S+), or omit it to choose it automatically",
        lambda p, found: Order(40, int(found[1]), 0, 0, 1, 1), lambda p, found: Order(40, int(found[2]), 0, 0, 1, 1),
        lambda p, found: Order(40, resolved.batch_for(Options(), 40, 1, False), 0, 0, 1, 1),
    ),
    "more processes than images": call(
        lambda p: Order(3, 50, 0, 0, 2, 2), r"Give a smaller (--accumulate), fewer (--devices), or more images",
        lambda p, found: Order(3, 2, 0, 0, 2, 1), lambda p, found: Order(3, 2, 0, 0, 1, 2),
        lambda p, found: Order(50, 48, 0, 0, 2, 2),
    ),
    "a batch that does not divide": call(
        lambda p: Order(40, 10, 0, 0, 2, 2), r"Give a multiple of (\S+)\.$",
        lambda p, found: Order(40, 3 * int(found[1]), 0, 0, 2, 2),
    ),
    "a channel that may be no transparency": call(
        lambda p: remarked(infrared(p)),
        r"--alpha (white) composites such images on white, --alpha (drop) discards the channel of all images; "
        r"pretraining with --channels (4)",
        lambda p, found: read(p.out / "nir", pixels=Pixels(alpha=found[1])),
        lambda p, found: read(p.out / "nir", pixels=Pixels(alpha=found[2])),
        lambda p, found: read(p.out / "nir", pixels=int(found[3])),
    ),
    "bands behind the colours": call(
        lambda p: remarked(bands(p)),
        r"--bands (1 2 3) \.\.\. chooses bands, --channels (\S+) reads all\.",
        lambda p, found: read(bands(p), pixels=Pixels(3, bands=tuple(found[1].split()))),
        lambda p, found: read(bands(p), pixels=int(found[2])),
    ),
    "several pages": call(
        lambda p: remarked(pages(p)),
        r"If pages are channels, --bands 1 2 3 \.\.\. reads those",
        lambda p, found: read(pages(p), pixels=Pixels(2, bands=("1", "2"))),
    ),
    "channels that are equal": call(
        lambda p: remarked(grey(p)), r"use --channels (1)\.", lambda p, found: remarked(p.out / "grey", int(found[1]))
    ),
    "values that use little of their range": call(
        lambda p: remarked(dark(p)), r"Train with --scale ([^,\n]+)",
        lambda p, found: remarked(p.out / "dark", Pixels(scale=Scale.of(found[1].rstrip(".")))),
    ),
    "values that use little of their range, or so": call(
        lambda p: remarked(dark(p)), r", or with (--normalize data)\.",
        lambda p, found: normalized(p, p.out / "dark", *found[1].split()),
    ),
    "images that do not fit into memory": call(
        lambda p: with_memory(1000, lambda: epoch(images(p.out / "many"), cache="ram")),
        r"Leave them on disk with --cache (none) or (disk), or use",
        lambda p, found: with_memory(1000, lambda: epoch(p.out / "many", cache=found[1])),
        lambda p, found: with_memory(1000, lambda: epoch(p.out / "many", cache=found[2], cache_dir=p.out / "kept")),
    ),
    "images that do not fit on a disk": call(
        lambda p: with_room(1000, lambda: epoch(images(p.out / "many"), cache="disk", cache_dir=p.out / "kept")),
        r"Give another --cache-dir, use --cache (none), or",
        lambda p, found: epoch(p.out / "many", cache="disk", cache_dir=p.out / "another"),
        lambda p, found: with_room(1000, lambda: epoch(p.out / "many", cache=found[1])),
    ),
    "images that do not fit": call(
        lambda p: with_memory(2500, lambda: epoch(images(p.out / "many"), cache="ram", decode_size=16)),
        r"decoded images take about .+ a smaller --image-size\.",
        lambda p, found: with_memory(2500, lambda: epoch(p.out / "many", cache="ram", decode_size=8)),
    ),
    "a table of another library": call(
        lambda p: opened(Table()),
        r"Give a list of images, an array \(N, H, W, C\), or a Dataset whose items 0 to N - 1 are images",
        lambda p, found: read([noise(8, 8, 3)]), lambda p, found: read(noise(2, 8, 8, 3)),
        lambda p, found: read(Rows(lambda i: noise(8, 8, 3))),
    ),
    "a Dataset that is to be kept on a disk": call(
        lambda p: epoch(Rows(lambda i: noise(8, 8, 3)), cache="disk"),
        r"Use --cache (ram) or (none), and no --cache-teacher",
        lambda p, found: epoch(Rows(lambda i: noise(8, 8, 3)), cache=found[1]),
        lambda p, found: epoch(Rows(lambda i: noise(8, 8, 3)), cache=found[2]),
    ),
    "a class of Datasets": call(
        lambda p: opened(Rows), r"Give an instance of it, such as (\S+)\(\)\.", lambda p, found: opened(Rows(several))
    ),
    "a Dataset without items": call(
        lambda p: opened(Rows(several, 0)), r"Give a Dataset with items", lambda p, found: opened(Rows(several, 1))
    ),
    "a source of other channels": call(
        lambda p: opened(open_source(p.photos), pixels=1), r"Open it with pixels=\S+",
        lambda p, found: opened(open_source(p.photos, pixels=1), pixels=1),
    ),
    "a source without labels": call(
        lambda p: labelled(open_source(p.pair[0])), r"Open it with (labelled)=True",
        lambda p, found: labelled(open_source(p.pair[0], **{found[1]: True})),
    ),
    "a source of other classes": call(
        lambda p: opened(open_source(p.pair[0], labelled=True), labelled=True, classes=("class1", "class0")),
        r"Open it with those",
        lambda p, found: opened(
            open_source(p.pair[0], labelled=True, classes=four(p)[::-1]), labelled=True, classes=four(p)[::-1]
        ),
    ),
    "items that hold no image": call(
        lambda p: read(Rows(lambda i: 5)),
        r"Return a PIL image, an array \(H, W, C\), a tensor \(C, H, W\) or a path: alone, first in a tuple, or as "
        r"the column image",
        lambda p, found: read(Rows(lambda i: Image.fromarray(noise(8, 8, 3)))),
        lambda p, found: read(Rows(lambda i: noise(8, 8, 3))),
        lambda p, found: read(Rows(lambda i: torch.zeros(3, 8, 8))),
        lambda p, found: read(Rows(lambda i: str(image(p.out / "a.png")))),
        lambda p, found: read(Rows(lambda i: (noise(8, 8, 3), 1))),
        lambda p, found: read(Rows(lambda i: {"image": noise(8, 8, 3)})),
    ),
    "a channel that is the same everywhere": call(
        lambda p: statistics(open_source(npy(only(p) / "0.npy", flat_channel()).parent, 4), None),
        r"Remove this channel",
        lambda p, found: statistics(open_source(npy(only(p) / "0.npy", flat_channel()[:3]).parent, 3), None),
    ),
    "a file that is no list": call(
        lambda p: opened(image(p.out / "a.png")),
        r"is not a text file of paths\. Give a folder of images, or a text file with one path per line",
        lambda p, found: read(p.photos), lambda p, found: read(listing(p.out / "list.txt", image(p.out / "a.png"))),
    ),
    "a list of nothing": call(
        lambda p: opened(listing(p.out / "list.txt", "# none")),
        r"lists no images\. Give a text file with one path per line",
        lambda p, found: read(listing(p.out / "list.txt", image(p.out / "a.png"))),
    ),
    "a label that is a large number": call(
        lambda p: labelled(Rows(lambda i: (noise(8, 8, 3), 10**7 + i % 2))),
        r"Number the classes from 0, such as with (numpy\.unique\(labels, return_inverse=True\))",
        lambda p, found: labelled(numbered_by(found[1])),
    ),
    "a mapping of data": call(
        lambda p: opened({"train": [noise(8, 8, 3)], "test": []}), r"Give one of its values, or a list of images",
        lambda p, found: read({"train": [noise(8, 8, 3)]}["train"]),
    ),
    "a Dataset without a length": call(
        lambda p: opened(Lengthless(several)), r"Give a Dataset of known length",
        lambda p, found: opened(Rows(several))
    ),
    "images that went away": call(
        lambda p: away(p), r"Restore or remount it; an interrupted run continues with --resume",
        lambda p, found: back(p)
    ),
    "a class folder that is another": call(
        lambda p: labelled(linked(p)), r"would have two classes\. Remove one",
        lambda p, found: (p.out / "linked/c").unlink() or labelled(p.out / "linked"),
    ),
    "items without labels": call(
        lambda p: labelled(Rows(lambda i: noise(8, 8, 3))),
        r"Return tuples of an image and an int, or rows with a column (label)\.",
        lambda p, found: labelled(Rows(lambda i: (noise(8, 8, 3), i % 2))),
        lambda p, found: labelled(Rows(lambda i: {"image": noise(8, 8, 3), found[1]: i % 2})),
    ),
    "what cannot be read by index": call(
        lambda p: opened(iter([1])),
        r"Give a folder, a text file of paths, a list of images, an array \(N, H, W, C\), or a Dataset with __len__ "
        r"and __getitem__",
        lambda p, found: read(p.photos), lambda p, found: read(listing(p.out / "l.txt", image(p.out / "a.png"))),
        lambda p, found: read([noise(8, 8, 3)]), lambda p, found: read(noise(2, 8, 8, 3)),
        lambda p, found: read(Rows(lambda i: noise(8, 8, 3))),
    ),
    "no path": call(
        lambda p: opened(""),
        r"Give a folder of images, a text file with one path per line, archives \(\.tar, \.zip\), tables \(\.parquet, "
        r"\.arrow\), arrays \(FILE\.h5::NAME, FILE\.zarr::NAME\), or hf:NAME\.",
        lambda p, found: read(p.photos), lambda p, found: read(listing(p.out / "l.txt", image(p.out / "a.png"))),
        lambda p, found: read(zipped(p.out / "a.zip", image(p.out / "a.png"))),
    ),
    "a path that leads nowhere": call(
        lambda p: opened(p.out / "none"),
        r"Give a folder of images, a text file with one path per line, archives \(\.tar, \.zip\), tables \(\.parquet, "
        r"\.arrow\), arrays \(FILE\.h5::NAME, FILE\.zarr::NAME\), or hf:NAME\.",
        lambda p, found: read(p.photos), lambda p, found: read(listing(p.out / "l.txt", image(p.out / "a.png"))),
    ),
    "classes of two sets": call(
        lambda p: trained_on(p, four(p)[::-1]), r"Open both with one list", lambda p, found: trained_on(p, four(p))
    ),
}  # fmt: skip


def answers_of(made: Answers) -> object:
    """Those that another process finds."""
    return answers(made.card.parent)


def only(p: Place) -> Path:
    (p.out / "only").mkdir(exist_ok=True)
    return p.out / "only"


def arrays(p: Place, *shape: int) -> Path:
    for i in range(4):
        npy(only(p) / f"{i}.npy", noise(*shape, seed=i))
    return only(p)


def flat_channel() -> np.ndarray:
    array = noise(4, 8, 8)
    array[3] = 7
    return array


def numbered_by(program: str) -> Rows:
    """Images with large labels, numbered by a line of Python."""
    _, numbers = eval(program, {"numpy": np, "labels": [10**7 + i % 2 for i in range(4)]})
    return Rows(lambda i: (noise(8, 8, 3), int(numbers[i])))


def with_little(make: Callable[[], object]) -> object:
    with mock.patch("lookalike.data.limits.MAX_BYTES", 2**14):
        return make()


def multiplied(p: Place, extra: int = 1) -> Path:
    pixels = np.dstack([noise(16, 16, 3), np.full((16, 16), 5, np.uint8)])
    return written(tiff(pixels, 2, extra=(extra,)), p.out / f"multiplied{extra}.tif")


def normalized(p: Place, data: Path, *options: str) -> None:
    run = configured("simclr", "--image-size", "32", *options)
    backbone = net()
    model.normalize(backbone, run, open_source(data))
    assert max(backbone.mean) < 0.1


def trained_on(p: Place, classes: tuple[str, ...]) -> object:
    train, test = (open_source(data, labelled=True, classes=own) for data, own in zip(p.pair, (four(p), classes)))
    return trained_scores(
        lookalike.load(p.run), train, test, frozen=True, epochs=1, batch_size=8, say=lambda line: None
    )
