"""`lookalike evaluate`: several sets, all protocols, what is said, written and refused."""

import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from support.networks import saved_vit
from torch import nn

from lookalike import backbones, cli, encoders, training
from lookalike.backbones import Backbone
from lookalike.commands.show import show
from lookalike.data import open_source
from lookalike.evaluation import FROZEN, Entry, embed, evaluate, evaluate_features, label_free, record
from lookalike.evaluation.extractor import Extractor, untrained
from lookalike.methods.simclr import SimCLR
from lookalike.runs import Run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return saved_vit(tmp_path / "run")


def test_processes_that_record_at_once_lose_no_entry(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    (tmp_path / ".evaluation.9.tmp.json").write_text("of a process that was killed")

    def entry(name: str) -> Entry:
        return Entry(
            protocol=name, top1=0.5, top5=1.0, interval=(0.4, 0.6), settings={}, train_images=1, test_images=1,
            classes=2, encoder_sha256="e", data_fingerprint="d", seed=0, seconds=0.0, date="", history=[],
        )  # fmt: skip

    def many(process: int) -> None:
        threads = [threading.Thread(target=record, args=(path, [entry(f"{process}-{i}")])) for i in range(10)]
        for thread in threads:  # threads of one process, too
            thread.start()
        for thread in threads:
            thread.join()

    children = []
    for process in range(8):
        if not (child := os.fork()):
            many(process)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
    found = {row["protocol"] for row in json.loads(path.read_text())}
    assert found == {f"{process}-{i}" for process in range(8) for i in range(10)}
    assert [p.name for p in tmp_path.iterdir()] == ["evaluation.json"], "nothing is left of the locks"


@pytest.mark.usefixtures("quick")
def test_several_labelled_sets_and_all_protocols_in_one_call(
    run: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from support.images import draw

    for split, count in (("train", 6), ("test", 3)):
        for kind in range(2):
            for i in range(count):
                draw(tmp_path / "other" / split / "ab"[kind] / f"{i}.png", kind, 100 * kind + 10 * count + i)
    train, test = str(labelled / "train"), str(labelled / "test")
    others = [str(tmp_path / "other" / split) for split in ("train", "test")]
    argv = [
        "evaluate",
        str(run),
        train,
        test,
        "--also",
        *others,
        "--protocols",
        *FROZEN,
        "label-free",
        "--workers",
        "0",
    ]
    assert cli.main(argv) == 0
    rows = json.loads((run / "evaluation.json").read_text())
    assert [row["protocol"] for row in rows] == 2 * [
        "knn",
        "linear",
        "logistic",
        "semi",
        "semi",
        "retrieval",
        "label-free",
    ]
    assert [row["classes"] for row in rows if row["protocol"] == "knn"] == [4, 2]
    assert {(row["train"], row["test"]) for row in rows} == {(train, test), tuple(others)}
    free = rows[6]["measures"]
    assert free == label_free(run, test)
    assert [*free] == [
        "pair_auc", "view_retrieval", "view_retrieval_of_5", "alignment", "uniformity", "spread", "effective_rank",
    ]  # fmt: skip
    assert rows[6]["top1"] == free["view_retrieval"] <= free["view_retrieval_of_5"] == rows[6]["top5"]
    said = capsys.readouterr().out
    assert f"label-free pair AUC {free['pair_auc']:.2%}  recall@1 {free['view_retrieval']:.2%} (95 % interval" in said
    assert f"{others[1]}:" in said
    assert "map 0." in said


@pytest.mark.parametrize("pool", ["average", "class+average", "last4"])
def test_parts_of_a_transformer_stand_for_an_image(pool: str) -> None:
    from lookalike.evaluation.extractor import _Part

    model = backbones.create("test_vit", image_size=32).eval()
    if pool == "last4":
        model.net.blocks.extend([type(model.net.blocks[0])(64, 2) for _ in range(4 - len(model.net.blocks))])
        model.eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = _Part(model, pool)(x)
        tokens = model.tokens(x)
    if pool == "average":
        assert torch.equal(found, tokens.patches.mean(1))
    elif pool == "class+average":
        assert torch.equal(found, torch.cat([tokens.cls, tokens.patches.mean(1)], 1))
    else:
        assert found.shape == (2, 4 * 64)
        assert torch.allclose(found[:, -64:], tokens.cls, atol=1e-6)
        seen = model._embed(x, None)
        for n, block in enumerate(model.net.blocks):
            seen = block(seen)
            if n >= len(model.net.blocks) - 4:
                place = n - (len(model.net.blocks) - 4)
                assert torch.allclose(found[:, 64 * place : 64 * (place + 1)], model.net.norm(seen)[:, 0], atol=1e-6)


def test_a_network_without_class_tokens_has_none_to_pool(labelled: Path) -> None:
    model = backbones.create("test_byobnet", image_size=32)
    with pytest.raises(ValueError, match="has no class token"):
        evaluate(model, labelled / "train", labelled / "test", pool="last4")


def test_protocols_that_train_on_images(run: Path, labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = str(labelled / "train"), str(labelled / "test")
    before = (run / "encoder.safetensors").read_bytes()
    argv = ["evaluate", str(run), train, test, "--protocols", "linear-augmented", "semi-finetune", "finetune"]
    assert cli.main([*argv, "--epochs", "2", "--shares", "0.25", "--seeds", "2", "--workers", "0"]) == 0
    rows = json.loads((run / "evaluation.json").read_text())
    assert [(row["protocol"], row["train_images"]) for row in rows] == [
        ("linear-augmented", 32), ("semi", 8), ("finetune", 32)
    ]  # fmt: skip
    for row in rows:
        assert row["settings"]["epochs"] == 2
        assert len(row["accuracies"]) == row["settings"]["seeds"] == 2
        assert row["top1"] == pytest.approx(np.mean(row["accuracies"]))
        assert sum(n for *_, n in row["confusion"]) == 32  # two trainings of 16 test images
        assert row["history"][-1]["step"] > 0
    assert rows[0]["settings"]["frozen"] is True
    assert (rows[1]["settings"]["how"], rows[1]["settings"]["share"]) == ("finetune", 0.25)
    assert (run / "encoder.safetensors").read_bytes() == before
    said = capsys.readouterr().out
    assert "semi-finetune 25%" in said
    assert "epoch 2/2" in said


def test_a_module_of_the_users_is_judged_at_a_stated_size(labelled: Path, tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    train, test = labelled / "train", labelled / "test"
    with pytest.raises(ValueError, match="Sequential is a module of your own"):
        evaluate(module, train, test, protocols=["knn"])
    (entry,) = evaluate(module, train, test, protocols=["knn"], image_size=24)
    (same,) = evaluate(backbones.create(module, image_size=24), train, test, protocols=["knn"])
    assert (entry.top1, entry.encoder_sha256) == (same.top1, same.encoder_sha256)
    assert embed(module, train, image_size=24).features.shape == (32, 8)
    pixels = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten())  # no parameters: what colours alone are worth
    (plain,) = evaluate(pixels, train, test, protocols=["knn"], image_size=24)
    assert plain.top1 > 0.25
    assert show(pixels, train, out=tmp_path / "show", count=2, image_size=24)
    with pytest.raises(ValueError, match=r"Sequential> has no parameters. Give a module with layers that learn"):
        training.pretrain(
            Run(
                data=str(train),
                backbone=pixels,
                image_size=24,
                method=SimCLR.Config(),
                batch_size=8,
                workers=0,
                out=str(tmp_path / "run"),
            )
        )
    assert not (tmp_path / "run" / "run.yaml").exists()


def test_what_can_be_judged_is_said_before_what_cannot(
    run: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in range(4):  # one image per class: nothing can be held out
        (tmp_path / "train" / f"class{kind}").mkdir(parents=True)
        shutil.copy(labelled / "train" / f"class{kind}" / "0.jpg", tmp_path / "train" / f"class{kind}")
    argv = ["evaluate", str(run), str(tmp_path / "train"), str(labelled / "test"), "--workers", "0"]
    assert cli.main([*argv, "--protocols", "linear", "knn"]) == 1
    said = capsys.readouterr()
    assert "linear: not possible. None of the 4 classes has two training images" in said.out
    assert "knn        top-1" in said.out
    assert "None of the 4 classes has two training images" in said.err
    assert [row["protocol"] for row in json.loads((run / "evaluation.json").read_text())] == ["knn"]


def test_images_that_cannot_be_read_are_counted(run: Path, labelled: Path, tmp_path: Path) -> None:
    shutil.copytree(labelled / "train", tmp_path / "train")
    for i in range(12):
        (tmp_path / "train" / "class0" / f"broken {i}.jpg").write_bytes(b"no picture")
    said: list[str] = []
    evaluate(run, tmp_path / "train", labelled / "test", protocols=["knn"], say=said.append)
    assert "train: 12 of 44 images could not be read and are left out" in said
    assert "  and 2 more" in said
    some = tmp_path / "some.txt"
    some.write_text("class0/broken 1.jpg\n" + "".join(f"class{k}/1.jpg\n" for k in range(4)))
    (entry,) = evaluate(run, tmp_path / "train", labelled / "test", protocols=["semi"], labels=some)
    assert entry.train_images == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "at least 1"),
        ({"shares": ()}, "give one or more fractions above 0"),
        ({"shares": (2,)}, "give one or more fractions above 0"),
        ({"protocols": ["finetune"], "pool": "average"}, "Leave one of them out"),
        ({"protocols": ["label-free"], "pool": "average"}, "Leave one of them out"),
        ({"protocols": []}, "No protocol was given"),
    ],
)
def test_questions_that_cannot_be(run: Path, labelled: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(run, labelled / "train", labelled / "test", **options)


def test_images_are_looked_for_before_weights_are_fetched(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A slip in a folder is said at once, not behind a download."""
    fetched: list[object] = []

    def published(name: str) -> Backbone:
        fetched.append(name)
        return backbones.create("test_byobnet", image_size=32)

    monkeypatch.setattr(backbones, "published", published)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    train, test, one = str(labelled / "train"), str(labelled / "test"), str(labelled / "train/class0")
    name, few = "timm/test_byobnet", ["--workers", "0"]
    for argv, words in (
        (["evaluate", name, train, "empty"], "holds no image"),
        (["evaluate", name, one, test], "lies in no class folder"),
        (["evaluate", name, train, test, "--also", train, "empty"], "holds no image"),
        (["embed", name, "empty"], "holds no image"),
        (["show", name, "empty"], "holds no image"),
        (["finetune", name, train, "empty"], "holds no image"),
        (["finetune", name, "empty", test], "holds no image"),
    ):
        assert cli.main([*argv, *few]) == 1
        assert words in capsys.readouterr().err
        assert not fetched, argv
    assert cli.main(["evaluate", name, train, test, "--protocols", "knn", *few]) == 0
    assert cli.main(["embed", name, train, *few]) == 0
    assert fetched == [name, name]


def test_a_class_whose_name_is_no_text(run: Path, labelled: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        shutil.copytree(labelled / split, tmp_path / split)
        (tmp_path / split / "class0").rename(tmp_path / split / os.fsdecode(b"caf\xe9"))
    (entry,) = evaluate(run, tmp_path / "train", tmp_path / "test", protocols=["knn"])
    assert "caf\\udce9" in entry.class_names
    for suffix in (".csv", ".npz"):
        embed(run, tmp_path / "train", out=tmp_path / f"train{suffix}")
        embed(run, tmp_path / "test", out=tmp_path / f"test{suffix}")
    (again,) = evaluate_features(tmp_path / "train.npz", tmp_path / "test.csv", protocols=["knn"])
    assert again.top1 == entry.top1


# ---------------------------------------------------------------- the untrained network


def test_the_untrained_network_is_shown_beside_the_result(
    run: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["evaluate", str(run), str(labelled / "train"), str(labelled / "test"), "--workers", "0"]
    argv += ["--protocols", "knn", "label-free"]
    assert cli.main([*argv, "--baseline", "--seed", "7"]) == 0
    said = capsys.readouterr().out
    rows = json.loads((run / "evaluation.json").read_text())
    before = untrained(encoders.load(run), 7)
    assert not torch.equal(before.net.cls_token, encoders.load(run).net.cls_token)
    (expected,) = evaluate(before, labelled / "train", labelled / "test", protocols=["knn"], seed=7)
    assert rows[0]["baseline"] == expected.top1
    assert f"knn        top-1 {100 * expected.top1:.1f} -> {100 * rows[0]['top1']:.1f} % (untrained -> this" in said
    assert f"recall@1 {100 * rows[1]['baseline']:.1f} -> " in said
    assert rows[0]["top1"] == evaluate(run, labelled / "train", labelled / "test", protocols=["knn"], seed=7)[0].top1
    assert len([*(run / "features").glob("*.safetensors")]) == 2  # none of the untrained network's
    # asked once more without it, the same question keeps the answer; another seed draws another network
    assert cli.main([*argv, "--seed", "7"]) == 0
    assert json.loads((run / "evaluation.json").read_text())[0]["baseline"] == expected.top1
    assert cli.main([*argv, "--seed", "8"]) == 0
    assert json.loads((run / "evaluation.json").read_text())[0]["baseline"] is None


def test_an_untrained_baseline_has_the_statistics_of_the_training_images(labelled: Path) -> None:
    """BatchNorm as it is drawn would make it worse than it is."""
    model = backbones.create("test_byobnet", image_size=32)
    found = reader_of(model).untrained(open_source(labelled / "train"), 0).model
    norms = [part for part in found.modules() if isinstance(part, nn.BatchNorm2d)]
    assert norms
    assert all(part.running_mean.abs().max() > 0 for part in norms)


def reader_of(model: backbones.Backbone) -> Extractor:
    return Extractor(model, image_size=None, pool="pooled", batch_size=8, workers=0, keep=False, say=print)


def test_no_baseline_where_it_is_not_known_how_to_make_one(labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match="is a module of your own: it is not known how to make it untrained"):
        evaluate(own, labelled / "train", labelled / "test", image_size=24, baseline=True)
    assert cli.main(["evaluate", "--features", "x.npz", "--baseline"]) == 2
    assert "--baseline applies to encoders" in capsys.readouterr().err
