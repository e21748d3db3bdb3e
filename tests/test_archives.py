"""Images in tar and zip archives are those of the folder: names, keys, pixels, classes, order and trainings."""

import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from support import tiny

from lookalike import cli
from lookalike.data import BrokenImage, Source, image_set, open_source
from lookalike.data.loader import Loader
from lookalike.data.sources import archives, members
from lookalike.places import expanded
from lookalike.runs import Folder, inputs
from lookalike.runs.yaml import located


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def files(root: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(root.rglob("*.jpg"), key=lambda path: path.name):  # another order than by path
        yield str(path.relative_to(root)), path.read_bytes()


def tar(path: Path, members: Iterator[tuple[str, bytes]], format: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as file:
        for name, content in members:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            file.addfile(about, io.BytesIO(content))
    return path


def tar_of(root: Path, out: Path) -> Path:
    return tar(out / "images.tar", files(root))


def pax(root: Path, out: Path) -> Path:
    return tar(out / "images.tar", ((f"./{name}", content) for name, content in files(root)), tarfile.PAX_FORMAT)


def shards(root: Path, out: Path) -> Path:
    members = list(files(root))
    for i in range(3):
        tar(out / f"shard-{i:02d}.tar", iter(members[i::3]))
    return out / "shard-{00..02}.tar"


def folder_of_shards(root: Path, out: Path) -> Path:
    shards(root, out)
    return out


def webdataset(root: Path, out: Path) -> Path:
    members = []
    for name, content in files(root):
        members += [(name, content), (f"{name.removesuffix('.jpg')}.cls", name.split("/")[0].encode())]
    return tar(out / "images.tar", iter(members))


def with_json(root: Path, out: Path) -> Path:
    members = []
    for name, content in files(root):
        members += [(f"{name[:-4]}.json", b'{"label": "%s"}' % name.split("/")[0].encode()), (name, content)]
    return tar(out / "images.tar", iter(members))


def zipped(root: Path, out: Path, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(out / "images.zip", "w", method) as file:
        for name, content in files(root):
            file.writestr(name, content)
    return out / "images.zip"


def deflated(root: Path, out: Path) -> Path:
    return zipped(root, out, zipfile.ZIP_DEFLATED)


KINDS: dict[str, Callable[[Path, Path], Path]] = {
    each.__name__: each for each in (tar_of, pax, shards, folder_of_shards, webdataset, with_json, zipped, deflated)
}


@pytest.fixture(params=KINDS)
def both(request: pytest.FixtureRequest, classed: Path, tmp_path: Path) -> tuple[Source, Source]:
    """The folder, and the same images in another form."""
    (tmp_path / "data").mkdir()
    path = KINDS[request.param](classed, tmp_path / "data")
    return open_source(classed, labelled=True), open_source(path, labelled=True)


def test_every_kind_is_the_folder(both: tuple[Source, Source]) -> None:
    folder, other = both
    assert image_set(other) == image_set(folder)
    assert other.listing() == folder.listing()
    assert other.classes == folder.classes
    assert folder.labels is not None
    assert other.labels is not None
    assert torch.equal(other.labels, folder.labels)
    assert not other.missing()
    sent = pickle.loads(pickle.dumps(other))
    assert len(pickle.dumps(other)) < 5000  # indices are mapped, not sent
    for i in (0, 17, len(folder) - 1):
        assert other.name(i) == folder.name(i)
        assert other.kind(i) == folder.kind(i)
        assert torch.equal(other.read(i, None), folder.read(i, None))
        assert torch.equal(sent.read(i, 16), folder.read(i, 16))
    stored = [inputs.of("data", each.listing(), each.head, len(each)) for each in both]
    assert stored[0] == stored[1]
    again = [next(iter(Loader(each, 8, seed=3, decode_size=16))) for each in both]
    assert torch.equal(again[0].buffer, again[1].buffer)


def test_a_renamed_part_keeps_its_pixels(classed: Path, tmp_path: Path) -> None:
    folder, other = (open_source(each, labelled=True) for each in (classed, tar_of(classed, tmp_path)))
    for source in (folder, other):
        part = source.called(["b.jpg", "a.jpg"], [5, 3])
        assert [part.name(0), len(part)] == [folder.name(5), 2]
        assert torch.equal(part.read(1, None), folder.read(3, None))
        assert torch.equal(part.keys, folder.called(["b.jpg", "a.jpg"], [5, 3]).keys)


def test_trainings_from_folder_and_tar_are_equal_and_resume_from_the_other(
    classed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tar_of(classed, tmp_path)

    def train(data: Path, out: str, *more: str) -> bytes:
        argv = ["pretrain", "simclr", str(data), "--backbone", tiny.CNN, "--image-size", "32", "--batch-size", "8"]
        argv += ["--epochs", "2", "--workers", "0", "--no-report", "--out", str(tmp_path / out), *more]
        assert cli.main(argv) == 0, capsys.readouterr()
        return Folder(tmp_path / out).weights.read_bytes()

    assert train(classed, "folder", "--epochs", "1") == train(data, "tar", "--epochs", "1")
    assert train(data, "folder", "--resume") == train(classed, "tar", "--resume")


# ---------------------------------------------------------------- names and labels


def test_names_that_lead_outside_are_skipped_and_counted(classed: Path, tmp_path: Path) -> None:
    image = next(files(classed))[1]
    names = ["a/1.jpg", "../2.jpg", "/etc/3.jpg", ".hidden/4.jpg", "__MACOSX/5.jpg", "b/6.txt"]
    source = open_source(tar(tmp_path / "a.tar", ((name, image) for name in names)))
    assert [source.name(i) for i in range(len(source))] == ["a/1.jpg"]
    notes = "\n".join(source.notes())
    assert "skipped 2 members whose name is absolute or contains ..: ../2.jpg" in notes
    assert "1 .txt" in notes
    assert "1 __MACOSX" in notes
    assert not (tmp_path.parent / "2.jpg").exists()


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_long_and_foreign_names_are_read(format: int, classed: Path, tmp_path: Path) -> None:
    image = next(files(classed))[1]
    names = sorted(["x" * 90 + "/" + "y" * 90 + ".jpg", "b.jpg", "ü/ä.jpg"])
    source = open_source(tar(tmp_path / "a.tar", ((name, image) for name in names), format))
    assert source.listing() == os.fsencode("\0".join(names))


def test_labels_that_are_numbers_are_ordered_as_numbers(classed: Path, tmp_path: Path) -> None:
    image = next(files(classed))[1]
    members = [each for k in (10, 2, 0) for each in ((f"{k}.jpg", image), (f"{k}.cls", str(k).encode()))]
    source = open_source(tar(tmp_path / "a.tar", iter(members)), labelled=True)
    assert source.classes == ("0", "2", "10")
    members = [*members, ("x.jpg", image)]
    with pytest.raises(ValueError, match=r"1 of 4 images has no label; the first is x\.jpg\. Add its class as x\.cls"):
        open_source(tar(tmp_path / "b.tar", iter(members)), labelled=True)
    members = [*members, ("x.cls", b"2")]
    assert len(open_source(tar(tmp_path / "b.tar", iter(members)), labelled=True)) == 4


def test_brace_patterns_are_expanded_as_a_shell_does() -> None:
    assert expanded("s-{08..10}.tar") == ["s-08.tar", "s-09.tar", "s-10.tar"]
    assert expanded("{a,b}-{1..2}.tar") == ["a-1.tar", "a-2.tar", "b-1.tar", "b-2.tar"]
    assert expanded("plain.tar") == ["plain.tar"]
    with pytest.raises(ValueError, match="Give a smaller range"):
        expanded("{0..9999999}.tar")


# ---------------------------------------------------------------- the index


def test_an_index_is_built_once_and_again_after_a_change(
    classed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = shards(classed, tmp_path)
    searched = []
    search = archives._search
    monkeypatch.setattr(archives, "_search", lambda path, alone: searched.append(path) or search(path, alone))
    opened = open_source(pattern)
    assert len(searched) == 3
    open_source(pattern)
    assert len(searched) == 3
    last = tmp_path / "shard-02.tar"
    tar(last, iter([("new.jpg", next(files(classed))[1])]))
    assert len(open_source(pattern)) == len(opened) - 13 + 1
    assert searched[3:] == [str(last)]  # the others' indices are kept
    with pytest.raises(ValueError, match=r"shard-02\.tar has changed since it was indexed\. Restore it"):
        [pickle.loads(pickle.dumps(opened)).read(i, None) for i in range(len(opened))]
    last.unlink()
    assert "shard-02.tar no longer exists" in opened.missing()
    with pytest.raises(FileNotFoundError, match=r"shard-02\.tar does not exist"):
        open_source(pattern)
    shards(classed, tmp_path)
    assert torch.equal(open_source(pattern).read(39, None), open_source(classed).read(39, None))


def test_a_search_that_was_interrupted_keeps_the_archives_that_were_done(
    classed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = shards(classed, tmp_path)
    searched: list[str] = []
    search = archives._search

    def interrupted(path: str, alone: bool) -> object:
        searched.append(path)
        if len(searched) == 3:
            raise KeyboardInterrupt
        return search(path, alone)

    monkeypatch.setattr(archives, "_search", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_source(pattern)
    assert len(open_source(pattern)) == 40
    assert len(searched) == 4


def test_a_damaged_index_is_rebuilt(classed: Path, tmp_path: Path) -> None:
    path = tar_of(classed, tmp_path)
    count = len(open_source(path))
    (index,) = members.folder_of_indices().glob("*.members")
    index.write_bytes(index.read_bytes()[:-5])
    assert len(open_source(path)) == count


# ---------------------------------------------------------------- bad input


def test_bad_archives_are_refused_by_name(classed: Path, tmp_path: Path) -> None:
    whole = tar_of(classed, tmp_path).read_bytes()
    image = next(files(classed))[1]
    bad = tmp_path / "bad.tar"
    for content, reason in (
        (whole[: len(whole) // 2], "is truncated: its last file begins at byte"),
        (b"x" * 2000, "is not a tar archive, or is damaged at byte 0"),
        (b"\x1f\x8b" + whole, "is compressed by gzip"),
        (b"\0" * 1024, "contains no images"),
    ):
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=f"bad.tar {reason}"):
            open_source(bad)
    sparse = tarfile.TarInfo("a.jpg")
    sparse.type = tarfile.GNUTYPE_SPARSE
    bad.write_bytes(sparse.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(ValueError, match=r"has a sparse file at byte 512\. Create it again without sparse files"):
        open_source(bad)
    header = tarfile.TarInfo("a.jpg")
    header.type, header.size = tarfile.XHDTYPE, 5
    bad.write_bytes(header.tobuf(tarfile.USTAR_FORMAT) + b"99 a=".ljust(512, b"\0"))
    with pytest.raises(ValueError, match=r"bad\.tar has a damaged pax header"):
        open_source(bad)
    header.size = 2**21
    bad.write_bytes(header.tobuf(tarfile.USTAR_FORMAT) + bytes(2**21))
    with pytest.raises(ValueError, match=r"has a header of 2097152 bytes at byte 512"):
        open_source(bad)
    bad.write_bytes(whole)
    assert len(open_source(bad)) == 40  # copied again
    tar(bad, iter([("a.jpg", image), ("./a.jpg", image)]))
    with pytest.raises(ValueError, match=r"bad\.tar contains a\.jpg twice"):
        open_source(bad)
    tar(tmp_path / "s-0.tar", iter([("a.jpg", image)]))
    tar(tmp_path / "s-1.tar", iter([("a.jpg", image)]))
    with pytest.raises(ValueError, match=r"s-0\.tar and \S+s-1\.tar both contain a\.jpg"):
        open_source(tmp_path / "s-{0..1}.tar")


def test_bad_zip_archives_and_members_are_named(classed: Path, tmp_path: Path) -> None:
    path = deflated(classed, tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"images\.zip is not a zip archive, or is truncated"):
        open_source(path)
    with zipfile.ZipFile(io.BytesIO(whole)) as file:
        first = min(file.infolist(), key=lambda entry: entry.filename)
    at = first.header_offset + 30 + len(first.filename) + first.compress_size // 2
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
    with pytest.raises(BrokenImage, match=f"{first.filename}: its content in the zip archive is damaged"):
        open_source(path).read(0, None)
    path.write_bytes(whole)
    assert open_source(path).read(0, None).ndim == 3  # copied again
    directory = whole.index(b"PK\x01\x02")
    flags = struct.pack("<H", 1)
    path.write_bytes(whole[: directory + 8] + flags + whole[directory + 10 :])
    with pytest.raises(ValueError, match=r"images\.zip is encrypted"):
        open_source(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as file:
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "PNG")
        file.writestr("a.png", buffer.getvalue())
    with pytest.raises(BrokenImage, match=r"a\.png: compressed by zip's method 12; expected stored or deflated"):
        open_source(path).read(0, None)


def test_shards_named_relative_to_the_runs_directory_are_found_from_another(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "0.tar").touch()
    content = {"data": "shards/{0..3}.tar", "made": {"directory": str(tmp_path)}}
    assert located(content)["data"] == str(tmp_path / "shards" / "{0..3}.tar")
    assert located({**content, "data": "shards/{5..6}.tar"})["data"] == "shards/{5..6}.tar"
