"""Odd inputs, written from a seed: folders, lists and labelled folders of odd images.

A case is a function of its kind and its number alone. Each kind deals its ingredients like cards: as many cases as a
round takes hold each ingredient once, in an order that the round draws, beside whatever else chance adds. The files
beside this one hold image files and names (`odd_files`), Datasets (`odd_datasets`), weights files (`odd_weights`) and
folders of runs (`odd_runs`).
"""

import os
import socket
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from .odd_files import (
    BAD,
    FORGED,
    GOOD,
    NAMES,
    Fate,
    Picture,
    Rng,
    empty,
    jpeg,
    not_an_image,
    npy_of_objects,
    png,
)

T = TypeVar("T")

WAITING: tuple[str, ...] = ()
"""Ingredients that are not dealt."""


def drawn(*key: object) -> Rng:
    """A generator that depends on the key alone."""
    return np.random.default_rng([zlib.crc32(str(part).encode()) for part in key])


def dealt(pool: Sequence[T], kind: str, index: int, hand: int) -> list[T]:
    """The ingredients of a case."""
    pool = [each for each in pool if name_of(each) not in WAITING]
    turns = -(-len(pool) // hand)
    order = drawn("deck", kind, index // turns).permutation(len(pool))
    return [pool[i] for i in order[index % turns * hand :][:hand]]


def name_of(ingredient: object) -> str:
    return ingredient[0] if isinstance(ingredient, tuple) else getattr(ingredient, "__name__", str(ingredient))


# ---------------------------------------------------------------- folders


@dataclass(frozen=True)
class File:
    """One file of a case that stands for an image."""

    name: str
    """Its path below the data, with what Python puts in the place of bytes that are no text."""
    fate: Fate
    about: str
    look: np.ndarray | None = None
    near: float = 0.02


@dataclass
class Case:
    """What was written, and what is to become of it."""

    kind: str
    index: int
    data: Path
    files: list[File] = field(default_factory=list)
    """In any order."""
    channels: int = 3
    passed: int = 0
    """Files that are none of the images."""
    test: Path | None = None
    test_files: list[File] = field(default_factory=list)
    labels: Literal["good", "refused", "none"] = "none"
    """Whether the first folders can be taken for labels."""
    refused: bool = False
    """Whether nothing can be read from it at all."""
    about: list[str] = field(default_factory=list)
    written: int = 0

    def __str__(self) -> str:
        found = [f"{self.kind} {self.index}", *self.about]
        return "\n  ".join([*found, *(f"{f.name!a}: {f.fate}, {f.about}" for f in [*self.files, *self.test_files])])


def folder_case(place: Path, index: int) -> Case:
    """Images of all kinds, whole and damaged, under odd names, among what else lies in folders."""
    rng = drawn("folder", index)
    case = Case("folder", index, place / "photos", channels=1 if rng.integers(5) == 0 else 3)
    case.data.mkdir()
    below = ["", "", "", f"{odd(rng)}/", "deep/er/est/"]
    for make in [*dealt(GOOD, "good", index, 9), *dealt(BAD, "bad", index, 4)]:
        _write(case, str(rng.choice(below)), make, rng)
    for special in dealt(SPECIAL, "special", index, 3):
        case.about.append(name_of(special))
        special(case, rng)
    return case


def odd(rng: Rng, of: Sequence[tuple[str, str]] = NAMES) -> str:
    return of[rng.integers(len(of))][1] if rng.random() < 0.5 else "photo"


def _write(case: Case, below: str, make: Callable[[Rng], Picture], rng: Rng, name: str | None = None) -> File:
    """Writes one image file under a name of its own; now and then with another format's suffix, or in capitals."""
    made = make(rng)
    suffix = made.suffix
    if suffix != ".npy" and rng.random() < 0.15:
        suffix = str(rng.choice([".jpg", ".png", ".tif", ".JPEG", ".WebP"]))
    if rng.random() < 0.15:
        suffix = suffix.upper()
    stem = odd(rng) if name is None else name
    number, case.written = case.written, case.written + 1
    both = f"{number}{stem}" if stem == "photo" or rng.integers(2) else f"{stem}{number}"
    about = f"{made.about} {make.__name__}".strip()
    file = File(f"{below}{both}{suffix}", made.fate, about, made.look, made.near)
    path = case.data / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(made.content)
    case.files.append(file)
    return file


def hidden_files(case: Case, rng: Rng) -> None:
    for name in (".hidden.jpg", ".DS_Store", "._photo.jpg", ".cache/photo.jpg", ".jpg"):
        path = case.data / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(jpeg(rng).content)
        case.passed += 1


def other_files(case: Case, rng: Rng) -> None:
    names = ("notes.txt", "README", "Thumbs.db", "labels.csv", "scan.dng", "slide.svs", "photo.jpg.part", "photo.jpg~",
             "photo.jpg ", "jpg", "archive.zip", "photo.jpg.", "a.jpg\n", "IMG_1.CR2", "movie.mp4")  # fmt: skip
    for name in rng.choice(names, 4, replace=False):
        (case.data / str(name)).write_bytes(jpeg(rng).content)
        case.passed += 1


def folder_of_a_run(case: Case, rng: Rng) -> None:
    run = case.data / "runs" / "last"
    (run / "checkpoints").mkdir(parents=True)
    (run / "run.yaml").write_text("format: 1\nmethod: simclr\n")
    for name in ("views.png", "show/pca.png"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_bytes(png(rng).content)
    case.passed += 3


def pipe(case: Case, rng: Rng) -> None:
    os.mkfifo(case.data / "pipe.jpg")
    case.files.append(File("pipe.jpg", "broken", "a pipe"))


def a_socket(case: Case, rng: Rng) -> None:
    bound = socket.socket(socket.AF_UNIX)
    before = os.getcwd()
    os.chdir(case.data)  # the path of a socket has 108 bytes at most
    try:
        bound.bind("socket.png")
    finally:
        os.chdir(before)
        bound.close()
    case.files.append(File("socket.png", "broken", "a socket"))


def device(case: Case, rng: Rng) -> None:
    os.symlink("/dev/zero", case.data / "zero.png")
    case.files.append(File("zero.png", "broken", "a link to a device without end"))


def dangling_link(case: Case, rng: Rng) -> None:
    os.symlink("nowhere.jpg", case.data / "dangling.jpg")
    os.symlink("nowhere", case.data / "dangling")
    case.passed += 1
    case.files.append(File("dangling.jpg", "broken", "a link that leads nowhere"))


def looped_link(case: Case, rng: Rng) -> None:
    os.symlink("loop.jpg", case.data / "loop.jpg")
    case.files.append(File("loop.jpg", "broken", "a link to itself"))


def link_to_parent(case: Case, rng: Rng) -> None:
    (case.data / "below").mkdir(exist_ok=True)
    os.symlink("..", case.data / "below" / "up")
    os.symlink(".", case.data / "here")
    os.symlink(case.data.absolute(), case.data / "round")


def linked_folder(case: Case, rng: Rng) -> None:
    """A folder outside, linked once."""
    outside = case.data.parent / "outside"
    outside.mkdir()
    made = png(rng)
    (outside / "photo.png").write_bytes(made.content)
    os.symlink(outside, case.data / "linked")
    case.files.append(File("linked/photo.png", "used", "an image in a linked folder", made.look, made.near))


def link_to_a_file(case: Case, rng: Rng) -> None:
    made = png(rng)
    (case.data.parent / "elsewhere").write_bytes(made.content)
    os.symlink("../elsewhere", case.data / "link.png")
    case.files.append(File("link.png", "used", "a link to an image", made.look, made.near))


def folders_linked_to_each_other(case: Case, rng: Rng) -> None:
    """As many ways as there are orders; each folder counts once."""
    for name in "abcdefg":
        (case.data / "each" / name).mkdir(parents=True)
    for name in "abcdefg":
        for other in "abcdefg":
            os.symlink(f"../{other}", case.data / "each" / name / f"to {other}")
    made = png(rng)
    (case.data / "each" / "a" / "one.png").write_bytes(made.content)
    case.files.append(File("each/a/one.png", "used", "an image that many ways lead to", made.look, made.near))


def folder_named_as_an_image(case: Case, rng: Rng) -> None:
    (case.data / "empty.jpg").mkdir()
    _write(case, "album.png/", png, rng)


def empty_folders(case: Case, rng: Rng) -> None:
    (case.data / "empty" / "empty").mkdir(parents=True)


def hard_link(case: Case, rng: Rng) -> None:
    file = _write(case, "", png, rng, "first")
    os.link(case.data / file.name, case.data / "second.png")
    case.files.append(replace(file, name="second.png"))


def deep_folder(case: Case, rng: Rng) -> None:
    _write(case, "d" * 20 + "/" + "deeper/" * 60, png, rng)


def very_odd_names(case: Case, rng: Rng) -> None:
    for _, name in NAMES[:: int(rng.integers(2, 5))]:
        _write(case, "", png, rng, name)


SPECIAL: tuple[Callable[[Case, Rng], None], ...] = (
    hidden_files, other_files, folder_of_a_run, pipe, a_socket, device, dangling_link, looped_link, link_to_parent,
    linked_folder, link_to_a_file, folders_linked_to_each_other, folder_named_as_an_image, empty_folders, hard_link,
    deep_folder, very_odd_names,
)  # fmt: skip
"""What else lies in folders."""


# ---------------------------------------------------------------- lists


def list_case(place: Path, index: int) -> Case:
    """A text file of paths, in the ways that programs of all systems write one."""
    rng = drawn("list", index)
    case = Case("list", index, place / "photos")
    case.data.mkdir()
    makes = [*dealt(GOOD, "listed good", index, 7), *dealt(BAD, "listed bad", index, 2)]
    for make in makes:
        stem = odd(rng, [(name, text) for name, text in NAMES if "\n" not in text and "\r" not in text])
        _write(case, str(rng.choice(["", "sub folder/"])), make, rng, stem)
    lines, files = [], list[File]()
    for file in case.files:
        path = str(case.data / file.name)
        relative = f"photos/{file.name}"
        ways = [relative, f"./{relative}", f"photos/../{relative}", path, path.replace("/photos/", "/./photos//")]
        lines.append(ways[rng.integers(len(ways))])
        files.append(replace(file, name=relative))
    for special in dealt(LISTED, "listed", index, 3):
        case.about.append(name_of(special))
        special(case, lines, files, rng)
    ending = str(rng.choice(["\n", "\r\n"]))
    case.about.append(repr(ending))
    content = os.fsencode(ending.join(lines)) + (ending.encode() if rng.integers(2) else b"")
    if rng.integers(3) == 0:
        content = b"\xef\xbb\xbf" + content
        case.about.append("with a byte order mark")
    case.data = place / str(rng.choice(["images.txt", "list", "a list.csv", "-list.txt"]))
    case.data.write_bytes(content)
    case.files = files
    return case


def blank_lines(case: Case, lines: list[str], files: list[File], rng: Rng) -> None:
    lines[2:2] = ["", "   ", "\t"]
    lines.append("")


def comments(case: Case, lines: list[str], files: list[File], rng: Rng) -> None:
    lines[1:1] = ["# a comment", "#photos/0photo.jpg"]


def twice_the_same(case: Case, lines: list[str], files: list[File], rng: Rng) -> None:
    files.append(files[0])
    lines.append(lines[0])


def missing_files(case: Case, lines: list[str], files: list[File], rng: Rng) -> None:
    for name in ("photos/gone.jpg", "/nowhere/gone.jpg", "C:\\photos\\gone.jpg", "https://example.com/gone.jpg"):
        lines.append(name)
        files.append(File(name, "broken", "a missing file"))


def quoted_lines(case: Case, lines: list[str], files: list[File], rng: Rng) -> None:
    made = png(rng)
    (case.data / "quoted.png").write_bytes(made.content)
    for line in ('"photos/quoted.png"', "photos/quoted.png\t3", "photos/quoted.png,cat", " photos/quoted.png"):
        lines.append(line)
        files.append(File(line, "broken", "a line that is more than a path"))


def listed_folder(case: Case, lines: list[str], files: list[File], rng: Rng) -> None:
    lines.append("photos")
    files.append(File("photos", "broken", "a folder"))


def listed_pipe(case: Case, lines: list[str], files: list[File], rng: Rng) -> None:
    os.mkfifo(case.data / "pipe.jpg")
    for name in ("photos/pipe.jpg", "/dev/zero"):
        lines.append(name)
        files.append(File(name, "broken", "no regular file"))


def other_suffixes(case: Case, lines: list[str], files: list[File], rng: Rng) -> None:
    """What a list names is read whatever it is called."""
    made = jpeg(rng)
    for name in ("noted.txt", "without", ".hidden"):
        (case.data / name).write_bytes(made.content)
        lines.append(f"photos/{name}")
        files.append(File(f"photos/{name}", "used", "an image without its suffix", made.look, made.near))


def above_the_list(case: Case, lines: list[str], files: list[File], rng: Rng) -> None:
    made = png(rng)
    place = case.data.parent.parent / f"{case.data.parent.name} beside.png"
    place.write_bytes(made.content)
    lines.append(f"../{place.name}")
    files.append(File(f"../{place.name}", "used", "an image above the list", made.look, made.near))


def the_list_itself(case: Case, lines: list[str], files: list[File], rng: Rng) -> None:
    for name in ("images.txt", "list", "a list.csv"):
        lines.append(name)
        files.append(File(name, "broken", "the list, or nothing"))


def very_long_line(case: Case, lines: list[str], files: list[File], rng: Rng) -> None:
    lines.append("x" * 100_000)
    files.append(File("x" * 100_000, "broken", "a line that is longer than paths may be"))


LISTED: tuple[Callable[[Case, list[str], list[File], Rng], None], ...] = (
    blank_lines, comments, twice_the_same, missing_files, quoted_lines, listed_folder, listed_pipe, other_suffixes,
    above_the_list, the_list_itself, very_long_line,
)  # fmt: skip


# ---------------------------------------------------------------- data from which nothing can be read


def refused_case(place: Path, index: int) -> Case:
    """A folder, list or other thing that contains no imagess."""
    case = Case("refused", index, place / "images.txt", refused=True)
    (spoil,) = dealt(SPOILED, "spoiled", index, 1)
    case.about.append(name_of(spoil))
    spoil(case, drawn("refused", index))
    return case


def empty_list(case: Case, rng: Rng) -> None:
    case.data.write_bytes(b"")


def only_comments(case: Case, rng: Rng) -> None:
    case.data.write_bytes(b"# nothing\n\n#\r\n")


def all_missing(case: Case, rng: Rng) -> None:
    case.data.write_bytes(os.fsencode("\n".join(f"{name}.jpg" for _, name in NAMES)))


def binary_list(case: Case, rng: Rng) -> None:
    case.data.write_bytes(rng.bytes(4000))


def utf16_list(case: Case, rng: Rng) -> None:
    case.data.write_bytes("photos/a.jpg\n".encode("utf-16"))


def image_as_a_list(case: Case, rng: Rng) -> None:
    case.data = case.data.with_name("image.png")
    case.data.write_bytes(png(rng).content)


def table_as_a_list(case: Case, rng: Rng) -> None:
    case.data = case.data.with_name("labels.csv")
    case.data.write_text("file,label\nphotos/a.jpg,cat\nphotos/b.jpg,dog\n")


def nothing_there(case: Case, rng: Rng) -> None:
    case.data = case.data.with_name(f"nowhere\n{FORGED}\x1b[31m")


def too_long_a_name(case: Case, rng: Rng) -> None:
    case.data = case.data.with_name("x" * 3000)


def pipe_as_a_list(case: Case, rng: Rng) -> None:
    case.data = case.data.with_name("pipe")
    os.mkfifo(case.data)


def endless_list(case: Case, rng: Rng) -> None:
    case.data = Path("/dev/zero")


def empty_folder(case: Case, rng: Rng) -> None:
    case.data = case.data.with_name(odd(rng))
    case.data.mkdir()


def folder_without_images(case: Case, rng: Rng) -> None:
    case.data = case.data.with_name("others")
    case.data.mkdir()
    for name in ("a.txt", "b\x1b[31m.dng", f"c.\n{FORGED}", "d", f"e.{'x' * 200}"):
        (case.data / name).write_bytes(b"x")


def dangling_list(case: Case, rng: Rng) -> None:
    case.data = case.data.with_name("dangling")
    os.symlink("nowhere", case.data)


def looped_folder(case: Case, rng: Rng) -> None:
    case.data = case.data.with_name("loop")
    os.symlink("loop", case.data)


SPOILED: tuple[Callable[[Case, Rng], None], ...] = (
    empty_list, only_comments, all_missing, binary_list, utf16_list, image_as_a_list, table_as_a_list, nothing_there,
    too_long_a_name, pipe_as_a_list, endless_list, empty_folder, folder_without_images, dangling_list, looped_folder,
)  # fmt: skip


# ---------------------------------------------------------------- labelled folders


def labelled_case(place: Path, index: int) -> Case:
    """Two folders of classes."""
    rng = drawn("labelled", index)
    case = Case("labelled", index, place / "train", test=place / "test", labels="good")
    odd = [name for _, name in NAMES]
    classes = [f"class {i}" for i in range(int(rng.integers(2, 4)))] + [str(rng.choice(odd))] * int(rng.integers(2))
    pool = dealt(GOOD, "labelled good", index, 12)
    for count, split in ((3, "train"), (2, "test")):
        root, files = case.data, case.files
        if split == "test":
            assert case.test is not None
            case.data, case.files = case.test, case.test_files
        for k, name in enumerate(classes):
            for i in range(count):
                _write(case, f"{name}/", png if i == 0 else pool[(k + 3 * i) % len(pool)], rng, "photo")
        case.data, case.files = root, files
    for special in dealt(LABELLED, "labels", index, 2):
        case.about.append(name_of(special))
        special(case, rng)
    return case


def one_class(case: Case, rng: Rng) -> None:
    _only(case, {f.name.split("/")[0] for f in case.files if f.name.split("/")[0] != "class 0"})
    case.labels = "refused"


def one_image_in_a_class(case: Case, rng: Rng) -> None:
    for file in [f for f in case.files if f.name.startswith("class 1/")][1:]:
        (case.data / file.name).unlink()
        case.files.remove(file)


def many_of_one_class(case: Case, rng: Rng) -> None:
    for _ in range(15):
        _write(case, "class 0/", jpeg, rng, "photo")


def class_without_test_images(case: Case, rng: Rng) -> None:
    for _ in range(2):
        _write(case, "only to train on/", png, rng, "photo")


def class_of_the_test_alone(case: Case, rng: Rng) -> None:
    assert case.test is not None
    if case.test_files is case.files:
        return
    folder = case.test / f"unknown\x1b[31m\n{FORGED}"
    folder.mkdir()
    (folder / "a.png").write_bytes(png(rng).content)
    case.test_files.append(File(f"{folder.name}/a.png", "used", "an image of a class of the test alone"))
    case.labels = "refused"


def image_outside_the_classes(case: Case, rng: Rng) -> None:
    _write(case, "", png, rng, f"\n{FORGED}")
    case.labels = "refused"


def empty_class(case: Case, rng: Rng) -> None:
    (case.data / "nobody").mkdir()
    (case.data / "others").mkdir()
    (case.data / "others" / "a.txt").write_text("x")
    case.passed += 1


def class_of_broken_images(case: Case, rng: Rng) -> None:
    for make in (not_an_image, empty, npy_of_objects):
        _write(case, "broken/", make, rng, "photo")


def nested_classes(case: Case, rng: Rng) -> None:
    _write(case, "class 0/class 1/class 2/", png, rng, "photo")


def test_is_a_link(case: Case, rng: Rng) -> None:
    """TEST is TRAIN by another name, unless the case is about what is wrong with TEST."""
    if case.labels == "refused":
        return
    case.test = case.data.parent / "linked test"
    os.symlink(case.data.name, case.test)
    case.test_files = case.files


def class_is_a_link(case: Case, rng: Rng) -> None:
    outside = case.data.parent / "outside"
    outside.mkdir()
    made = png(rng)
    (outside / "a.png").write_bytes(made.content)
    os.symlink(outside, case.data / "linked class")
    case.files.append(File("linked class/a.png", "used", "an image of a linked class", made.look, made.near))


def numbered_classes(case: Case, rng: Rng) -> None:
    for name in ("10", "9", "-1", "1.5"):
        _write(case, f"{name}/", png, rng, "photo")


def no_test_images(case: Case, rng: Rng) -> None:
    assert case.test is not None
    case.test = case.test.with_name("empty test")
    case.test.mkdir()
    case.test_files = []
    case.labels = "refused"


def only_broken_test_images(case: Case, rng: Rng) -> None:
    assert case.test is not None
    if case.test_files is case.files:
        return
    for file in case.test_files:
        (case.test / file.name).write_bytes(b"")
    case.test_files = [replace(f, fate="broken", look=None) for f in case.test_files]
    case.labels = "refused"


def _only(case: Case, others: Iterable[str]) -> None:
    for name in others:
        for file in [f for f in case.files if f.name.startswith(f"{name}/")]:
            (case.data / file.name).unlink()
            case.files.remove(file)


LABELLED: tuple[Callable[[Case, Rng], None], ...] = (
    one_class, one_image_in_a_class, many_of_one_class, class_without_test_images, class_of_the_test_alone,
    image_outside_the_classes, empty_class, class_of_broken_images, nested_classes, test_is_a_link, class_is_a_link,
    numbered_classes, no_test_images, only_broken_test_images,
)  # fmt: skip
