"""The contract of all kinds of DATA: the same images, keys and trainings, read at random in any process."""

import dataclasses
import pickle
from pathlib import Path

import pytest
import torch
from support.runs import tiny_run
from support.sources import NAMED, NUMBERED

from lookalike import training
from lookalike.commands.check import check
from lookalike.data import Source, Subset, image_set, open_maybe_labelled, open_source
from lookalike.data.loader import Loader
from lookalike.data.workers import Chunks, stream
from lookalike.runs import Folder, inputs


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def data_of(kind: str, root: Path, out: Path) -> str:
    out.mkdir()
    return (NAMED | NUMBERED)[kind](root, out)


def order(kind: str, root: Path, source: Source, folder: Source) -> list[int]:
    """The index in the folder of each image of a source."""
    if kind != "arrow_numbered":
        return list(range(len(folder)))
    from support.sources import files  # the rows are in the order in which they were written

    names = [folder.name(i) for i in range(len(folder))]
    return [names.index(name) for name, _ in files(root)]


@pytest.mark.parametrize("kind", [*NAMED, *NUMBERED])
def test_every_kind_is_the_folder(kind: str, classed: Path, tmp_path: Path) -> None:
    folder = open_source(classed, labelled=True)
    data = data_of(kind, classed, tmp_path / "data")
    source = open_source(data, labelled=True)
    assert len(source) == len(folder) == 40
    indices = order(kind, classed, source, folder)
    assert source.classes is not None
    assert source.labels is not None
    assert folder.labels is not None
    assert torch.equal(source.labels, folder.labels[indices])
    assert source.classes == (folder.classes if kind not in ("hdf5", "zarrs") else ("0", "1", "2", "3"))
    assert open_maybe_labelled(data).classes == (source.classes if kind != "text_list" else None)
    assert source.keys.dtype == torch.int64
    assert source.keys.shape == (40,)
    assert len(source.keys.unique()) == 40
    if kind in NAMED:
        assert image_set(source) == image_set(folder)
        assert source.listing() == folder.listing()
        assert [source.name(i) for i in range(40)] == [folder.name(i) for i in range(40)]
        stored = [inputs.of("data", each.listing(), each.head, 40) for each in (source, folder)]
        assert stored[0] == stored[1]
    else:
        assert source.keys.tolist() == list(range(40))
        assert source.listing() is None
    assert len({source.name(i) for i in range(40)}) == 40
    assert not source.missing()
    assert source.notes() == []
    for i in (39, 0, 17, 18, 0):  # in any order, and again
        assert torch.equal(source.read(i, None), folder.read(indices[i], None))
        assert source.kind(i)
    part = Subset(source, [5, 3])
    assert torch.equal(part.read(1, None), source.read(3, None))
    assert part.keys.tolist() == source.keys[[5, 3]].tolist()


@pytest.mark.parametrize("kind", [*NAMED, *NUMBERED])
def test_every_kind_is_read_in_other_processes(kind: str, classed: Path, tmp_path: Path) -> None:
    """Forked ones, after this process has read an image, and those that get the source by a pipe."""
    source = open_source(data_of(kind, classed, tmp_path / "data"))
    assert source.read(3, None).shape == (3, 20, 24)
    sent = pickle.loads(pickle.dumps(source))
    assert len(pickle.dumps(source)) < 8000  # no image, no open file
    assert torch.equal(sent.read(7, 8), source.read(7, 8))
    assert torch.equal(sent.keys, source.keys)
    loaders = [Loader(source, 8, seed=3, decode_size=16, workers=workers) for workers in (0, 2)]
    for here, there in zip(*loaders, strict=True):
        assert torch.equal(here.buffer, there.buffer)
        assert torch.equal(here.keys, there.keys)
    chunks = [range(i, i + 8) for i in range(0, 40, 8)]
    for here, there in zip(*(stream(Chunks(source, None), chunks, workers) for workers in (0, 2)), strict=True):
        assert torch.equal(here.buffer, there.buffer)
        assert not here.broken


@pytest.mark.parametrize("kind", ["parquet", "arrow", "hdf5", "zarrs"])
def test_check_knows_every_kind(kind: str, classed: Path, tmp_path: Path) -> None:
    found = check(open_maybe_labelled(data_of(kind, classed, tmp_path / "data")), say=lambda line: None)
    assert len(found.train.indices) == 40
    assert found.train.classes == dict.fromkeys(found.train.source.classes or (), 10)
    assert not found.train.broken


def train(data: str, out: Path, epochs: int) -> bytes:
    run = dataclasses.replace(tiny_run(Path(), out), data=data, epochs=epochs, resume=(out / "run.yaml").is_file())
    training.pretrain(run)
    return Folder(out).weights.read_bytes()


def test_trainings_are_equal_bit_for_bit_and_each_kind_continues_the_one_before(classed: Path, tmp_path: Path) -> None:
    kinds = ["folder", "tar", "parquet", "arrow", "zipped", "parquet_shards"]
    data = {kind: data_of(kind, classed, tmp_path / kind) for kind in kinds}
    made = {kind: train(data[kind], tmp_path / f"run-{kind}", 1) for kind in kinds}
    for kind in kinds[1:]:
        assert made[kind] == made["folder"], kind
    for epochs, kind in enumerate(kinds[1:], 2):
        mixed = train(data[kind], tmp_path / "run-folder", epochs)
        straight = train(data["folder"], tmp_path / "run-tar", epochs)
        assert mixed == straight, kind
    assert mixed != made["folder"]
