"""Features that are kept beside an encoder."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.networks import saved_vit

from lookalike import backbones, encoders
from lookalike.evaluation import embed, evaluate
from lookalike.runs import Folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return saved_vit(tmp_path / "run")


def test_features_are_computed_once(run: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = labelled / "train", labelled / "test"
    passes = []
    forward = backbones.ViT.forward
    monkeypatch.setattr(backbones.ViT, "forward", lambda self, x: passes.append(len(x)) or forward(self, x))
    said: list[str] = []
    first = evaluate(run, train, test, protocols=["knn"], say=said.append)
    seen = sum(passes)
    assert seen >= 48
    second = evaluate(run, train, test, protocols=["knn", "logistic"], say=said.append)
    assert sum(passes) == seen, "the second question needs no pass"
    assert "train: features of 32 images, from the cache" in said
    assert second[0].top1 == first[0].top1
    assert [p.suffix for p in (run / "features").iterdir()] == [".safetensors"] * 2
    # labels play no part in what is kept: the same files, embedded
    assert torch.equal(embed(run, train).features, embed(run, train, keep=False).features)
    passes.clear()
    embed(run, test)
    assert not passes
    evaluate(run, train, test, protocols=["knn"], image_size=64)
    assert sum(passes) >= 48, "another size is another feature"


@pytest.mark.parametrize("change", ["weights", "image", "damage"])
def test_what_was_kept_does_not_outlive_its_cause(
    run: Path, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from support.images import draw

    photos = tmp_path / "photos"
    for i in range(6):
        draw(photos / f"{i}.png", i % 4, i)
    before = embed(run, photos).features
    (kept,) = (run / "features").iterdir()
    if change == "weights":
        torch.manual_seed(1)
        other = backbones.create("test_vit", image_size=32)
        encoders.save(Folder(run), other, method="simclr", epochs=2, dtype=torch.uint8)
    elif change == "image":
        draw(photos / "0.png", 3, 99)
    else:
        kept.write_bytes(kept.read_bytes()[:-10])
    after = embed(run, photos).features
    fresh = embed(run, photos, keep=False).features
    assert torch.equal(after, fresh)
    assert torch.equal(after, before) == (change == "damage")
    names = [p.name for p in (run / "features").iterdir()]
    assert len(names) == (2 if change == "image" else 1)
    if change == "weights":
        assert names != [kept.name], "features of the weights of before are of no use"


def test_files_of_others_among_the_kept_features_stay(run: Path, tmp_path: Path) -> None:
    """A new encoder's features take the place of the old one's, known by what is in them."""
    from support.images import draw

    draw(tmp_path / "photos" / "0.png", 0, 0)
    embed(run, tmp_path / "photos")
    (old,) = (run / "features").iterdir()
    foreign = [run / "features" / f"{name}.safetensors" for name in ("mine", "other", "0" * 32, "copy", "broken")]
    shutil.copy(run / "encoder.safetensors", foreign[0])
    save_file({"features": torch.zeros(1, 2), "index": torch.zeros(1)}, foreign[1], metadata={"encoder": "another"})
    foreign[2].symlink_to(foreign[0])
    shutil.copy(old, foreign[3])
    foreign[4].write_bytes(b"\x00")
    torch.manual_seed(1)
    other = backbones.create("test_vit", image_size=32)
    encoders.save(Folder(run), other, method="simclr", epochs=2, dtype=torch.uint8)
    embed(run, tmp_path / "photos")
    left = {p.name for p in (run / "features").iterdir()}
    assert {p.name for p in foreign} < left
    assert old.name not in left
    assert len(left) == len(foreign) + 1


def test_a_linked_folder_of_features_is_neither_used_nor_changed(run: Path, tmp_path: Path) -> None:
    from support.images import draw

    draw(tmp_path / "photos" / "0.png", 0, 0)
    models = tmp_path / "models"
    models.mkdir()
    shutil.copy(run / "encoder.safetensors", models / "best.safetensors")
    (run / "features").symlink_to(models)
    said: list[str] = []
    embed(run, tmp_path / "photos", say=said.append)
    assert [p.name for p in models.iterdir()] == ["best.safetensors"]
    assert any("the features could not be cached" in line and "features is a link" in line for line in said)


def test_features_that_cannot_be_kept_do_not_stop_an_evaluation(
    run: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lookalike.evaluation.feature_cache.FeatureCache.save", full)
    said: list[str] = []
    (entry,) = evaluate(run, labelled / "train", labelled / "test", protocols=["knn"], say=said.append)
    assert entry.train_images == 32
    assert any("could not be cached" in line for line in said)


def test_a_weights_file_that_a_training_replaces_meanwhile(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, calls = encoders.load, []

    def and_then_replaced(name: Path, backbone: str | None = None) -> backbones.Backbone:
        model = load(name, backbone)
        calls.append(name)
        if len(calls) == 1:
            torch.manual_seed(7)
            encoders.save(
                Folder(run), backbones.create("test_vit", image_size=32), method="m", epochs=2, dtype=torch.uint8
            )
        return model

    monkeypatch.setattr(encoders, "load", and_then_replaced)
    found = embed(run, photos).features
    assert len(calls) == 2
    assert torch.equal(found, embed(run, photos, keep=False).features)
