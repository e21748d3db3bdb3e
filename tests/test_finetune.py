"""Fine-tuning: the recipe, what learns when, the classifier's files, and what is refused."""

import csv
import dataclasses
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import lookalike
from lookalike import backbones, classifiers, cli, encoders, optimizers, training
from lookalike.backbones import Backbone
from lookalike.commands import finetune
from lookalike.commands.evaluate_trained import trained_scores
from lookalike.commands.predict import Predictions
from lookalike.core import Batch, DataFacts, Progress
from lookalike.data import open_source
from lookalike.evaluation.few_labels import draw_rows
from lookalike.files import file_sha256
from lookalike.methods import FineTune
from lookalike.optim import Optim
from lookalike.runs import Folder, Options, Run, read_run, read_yaml
from lookalike.tensor_file import sha256
from lookalike.training import checkpoints
from lookalike.views import resized

pytestmark = pytest.mark.long(19)

CLASSES = ("class0", "class1", "class2", "class3")


def network(seed: int = 0, channels: int = 3, size: int = 32) -> Backbone:
    """A small network with BatchNorm, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return backbones.create("test_byobnet", image_size=size, channels=channels).eval()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an encoder that has learnt nothing."""
    root = tmp_path_factory.mktemp("encoder")
    encoders.save(Folder(root), network(), method="none", epochs=0, dtype=torch.uint8)
    return root


def tune(*more: str, encoder: Path, data: Path, out: Path) -> int:
    return cli.main(
        ["finetune", str(encoder), str(data / "train"), str(data / "test"), "--out", str(out), "--epochs", "3",
         "--batch-size", "8", "--workers", "0", *more]
    )  # fmt: skip


@pytest.fixture(scope="module")
def tuned(encoder: Path, labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learns: the images' colours tell their classes."""
    out = tmp_path_factory.mktemp("tuned") / "run"
    torch.set_num_threads(1)
    stated = ["--epochs", "10", "--optim.lr", "0.1", "--mixup", "0", "--unfreeze-after", "2"]
    assert tune(*stated, encoder=encoder, data=labelled, out=out) == 0
    return out


# ---------------------------------------------------------------- the recipe


def test_the_recipe_is_maes() -> None:
    """`FINETUNE.md` of facebookresearch/mae, ViT-B, and the defaults of its `main_finetune.py`."""
    cfg = FineTune.Config()
    o = cfg.optim
    assert (o.name, o.lr, o.base_batch, o.scaling, o.weight_decay.start) == ("adamw", 5e-4, 256, "linear", 0.05)
    assert (o.betas, o.layer_decay, o.warmup_epochs, o.final_lr, o.shape) == ((0.9, 0.999), 0.65, 5, 1e-6, "cosine")
    assert (cfg.mixup, cfg.cutmix, cfg.smoothing, cfg.drop_path) == (0.8, 1.0, 0.1, 0.1)
    (view,) = cfg.views
    assert (view.scale, view.ratio, view.hflip, view.erase) == ((0.08, 1.0), (3 / 4, 4 / 3), 0.5, 0.25)
    assert Options().epochs == 100
    assert cfg.fit_to(DataFacts(1_281_167, 224, 256, patch_size=16)) == cfg
    head = FineTune(dataclasses.replace(cfg, classes=CLASSES), network()).head
    assert 0 < float(head.weight.detach().std()) < 3e-5
    assert not head.bias.any()


def test_the_probes_recipe() -> None:
    """Crops, flips, SGD, a cosine to zero, no decay: `eval_linear.py` of facebookresearch/dino."""
    cfg = FineTune.Config(frozen=True).fit_to(DataFacts(1_281_167, 224, 256, patch_size=16))
    assert isinstance(cfg, FineTune.Config)
    assert (cfg.mixup, cfg.cutmix, cfg.smoothing, cfg.drop_path) == (0, 0, 0, 0)
    o = cfg.optim
    assert (o.name, o.momentum, o.weight_decay.start, o.shape, o.final_lr) == ("sgd", 0.9, 0.0, "cosine", 0.0)
    (view,) = cfg.views
    assert dataclasses.replace(view, scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0) == lookalike.views.View()


@pytest.mark.parametrize(
    ("epochs", "patch", "lr", "layer_decay", "drop_path"),
    [(50, None, 4e-3, 0.9, 0.0), (50, 16, 2e-3, 0.65, 0.1), (2000, None, 5e-4, 0.9, 0.0)],
)
def test_what_short_trainings_and_cnns_are_given(
    epochs: int, patch: int | None, lr: float, layer_decay: float, drop_path: float
) -> None:
    cfg = FineTune.Config().fit_to(DataFacts(5_000, 224, 256, epochs, patch))
    assert isinstance(cfg, FineTune.Config)
    assert (cfg.optim.lr, cfg.optim.layer_decay, cfg.drop_path) == (lr, layer_decay, drop_path)
    assert cfg.optim.name == "adamw"


def test_the_rates_of_layers_are_maes() -> None:
    """`lr_decay.py` of facebookresearch/mae: tokens and patches are layer 0, block i is i + 1, all else the last."""
    net = backbones.create("test_vit", image_size=32)
    method = FineTune(FineTune.Config(classes=CLASSES), net)
    rates = optimizers.build(method, method.cfg.optim, 256, fused=False)
    rates.apply(Progress(500, 1000, 10))
    found = {id(p): g["lr"] / rates.lr for g in rates.optimizer.param_groups for p in g["params"]}
    depth = len(net.net.blocks)  # type: ignore[arg-type]
    for name, p in method.named_parameters():
        part = name.removeprefix("backbone.net.").split(".")
        if part[0] in ("cls_token", "pos_embed", "reg_token", "patch_embed"):
            layer = 0
        else:
            layer = int(part[1]) + 1 if part[0] == "blocks" else depth + 1
        if part[0] != "reg_token":  # MAE has none
            assert found[id(p)] == pytest.approx(0.65 ** (depth + 1 - layer)), name


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"smoothing": 1.0}, "smoothing is 1.0"),
        ({"mixup": -0.1}, "mixup is -0.1"),
        ({"drop_path": 1.0}, "drop_path is 1.0"),
        ({"unfreeze_after": -1.0}, "unfreeze_after"),
        ({"unfreeze_after": 1.0, "frozen": True}, "frozen keeps the encoder frozen throughout"),
        ({"views": FineTune.Config().views * 2}, "one view of each image, and views make 2"),
    ],
)
def test_configurations_that_cannot_be(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(FineTune.Config(), **fields)  # type: ignore[arg-type]


def test_the_loss_and_the_training_accuracy() -> None:
    """Without mixing: cross-entropy of smoothed labels. In eval mode nothing is mixed."""
    torch.manual_seed(0)
    method = FineTune(FineTune.Config(classes=CLASSES), network())
    with torch.no_grad():
        method.head.weight.normal_()
    batch = Batch([torch.randn(6, 3, 32, 32)], torch.arange(6), Progress(3, 20, 5), torch.arange(6) % 4)
    method.eval()
    with torch.no_grad():
        parts = method(batch)
        logits = method.head(method.backbone(batch.views[0]))
    smoothed = 0.9 * F.one_hot(torch.arange(6) % 4, 4) + 0.1 / 4
    assert float(parts["loss"]) == pytest.approx(float(-(smoothed * logits.log_softmax(1)).sum(1).mean()), rel=1e-5)
    assert float(parts["train_top1"]) == pytest.approx(float((logits.argmax(1) == batch.labels).float().mean()))
    method.train()
    torch.manual_seed(0)
    assert float(method(batch)["loss"].detach()) != pytest.approx(float(parts["loss"]), rel=1e-3)


# ---------------------------------------------------------------- what learns when


class Watch(Callback):
    """Notes the digests of encoder and head after each step."""

    def __init__(self) -> None:
        self.encoder: list[str] = []
        self.head: list[str] = []

    def on_train_batch_end(self, trainer: object, pl_module: object, *rest: object) -> None:
        assert isinstance(pl_module, training.Pretraining)
        method = pl_module.method
        assert isinstance(method, FineTune)
        self.encoder.append(sha256(method.backbone))
        self.head.append(sha256(method.head))
        assert method.backbone.training


def watched(labelled: Path, out: Path, cfg: FineTune.Config, epochs: int = 2) -> tuple[Watch, Backbone]:
    watch, model = Watch(), network()
    model.train()
    lookalike.finetune(
        model, labelled / "train", labelled / "test", out=out, epochs=epochs, batch_size=8, workers=0, method=cfg,
        callbacks=[watch],
    )  # fmt: skip
    return watch, model


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_encoder_rests_until_it_is_unfrozen(name: str, labelled: Path, tmp_path: Path) -> None:
    """Weights and BatchNorm's statistics, to the last bit, while the head learns; then both change in each step."""
    optimizer = dataclasses.replace(FineTune.Config().optim, name=name, warmup_epochs=0)
    watch, model = watched(labelled, tmp_path / "run", FineTune.Config(unfreeze_after=0.5, optim=optimizer))
    start = sha256(network())
    assert sha256(model) == start  # a copy was trained
    assert watch.encoder[:2] == [start] * 2  # half an epoch of four steps
    assert len({start, *watch.encoder[2:]}) == 7
    assert len(set(watch.head)) == 8
    statistics = "bn.running_mean"
    first, last = network().export_state(), lookalike.load(tmp_path / "run").export_state()
    assert any(not torch.equal(first[n], last[n]) for n in first if n.endswith(statistics))


def test_a_frozen_encoder_never_changes(labelled: Path, tmp_path: Path) -> None:
    """The head classifies standardised features; the file's head does the same to plain ones."""
    watch, model = watched(labelled, tmp_path / "run", FineTune.Config(frozen=True))
    assert {sha256(model), *watch.encoder} == {sha256(network())}
    assert all(p.requires_grad for p in model.parameters())
    assert len(set(watch.head)) == 8
    run = read_run(tmp_path / "run" / "run.yaml", FineTune)
    assert run.method.optim.name == "sgd"
    method, _ = checkpoints.restored(dataclasses.replace(run, out=str(tmp_path / "run")))
    made = classifiers.load(tmp_path / "run")
    x = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        method.eval()
        wanted = method.head(method.norm(method.backbone(x)))
        assert torch.allclose(made(x), wanted, atol=1e-5)
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())[0]["protocol"] == "linear-augmented"


def test_a_run_that_was_stopped_goes_on_bit_for_bit(encoder: Path, labelled: Path, tmp_path: Path) -> None:
    """With mixing, while the encoder rests and after; by the command, once the encoder is gone."""
    own = tmp_path / "encoder"
    shutil.copytree(encoder, own)
    stated = ["--unfreeze-after", "1", "--optim.lr", "0.01"]
    assert tune(*stated, encoder=own, data=labelled, out=tmp_path / "whole") == 0
    for stop in (3, 6):
        out = tmp_path / f"stopped{stop}"

        def interrupted(self: FineTune, at: Progress, outputs: object, stop: int = stop) -> None:
            if at.step + 1 == stop:
                os.kill(os.getpid(), signal.SIGINT)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FineTune, "after_step", interrupted)
            assert tune(*stated, encoder=own, data=labelled, out=out) == 130
        assert f"Resume with: lookalike finetune --resume --out {out}" in Folder(out).log.read_text()
        assert not Folder(out).classifier.exists()
        if stop == 6:
            shutil.rmtree(own)
        assert cli.main(["finetune", "--resume", "--out", str(out)]) == 0
        a, b = (load_file(Folder(p).classifier) for p in (tmp_path / "whole", out))
        assert a.keys() == b.keys()
        assert all(torch.equal(value, b[name]) for name, value in a.items())
        assert [r["loss"] for r in Folder(out).rows()] == [r["loss"] for r in Folder(tmp_path / "whole").rows()]
    # killed between the last checkpoint and the judgement
    Folder(out).classifier.unlink()
    assert cli.main(["pretrain", "--resume", "--out", str(out)]) == 0
    assert Folder(out).classifier.is_file()
    assert len(json.loads(Folder(out).evaluation.read_text())) == 1


def test_the_encoders_own_size_channels_and_normalisation(labelled: Path, tmp_path: Path) -> None:
    """Grey images of 16 pixels; and a small stem stays one at 80 pixels, where fresh networks have another."""
    model = network(channels=1, size=16)
    model.mean, model.std = (0.4,), (0.2,)
    lookalike.finetune(
        model, labelled / "train", labelled / "test", out=tmp_path / "grey", epochs=1, batch_size=8, workers=0
    )
    made = classifiers.load(tmp_path / "grey").encoder
    assert (made.channels, made.image_size, made.mean, made.std, made.stem) == (1, 16, (0.4,), (0.2,), model.stem)
    run = read_run(tmp_path / "grey" / "run.yaml", FineTune)
    assert (run.backbone, run.channels, run.image_size) == ("test_byobnet", 1, 16)
    with torch.random.fork_rng():
        small = backbones.create("resnet10t", image_size=32)
    assert small.stem == "small"
    asked = Run(
        data=labelled / "train", method=FineTune.Config(), backbone=small, image_size=80, out=str(tmp_path / "run")
    )
    run = training.resolve(finetune.prepared(asked, labelled / "test"), 32)[0]
    for backbone in (run.backbone, "resnet10t"):  # at the start, and by its name when the run is resumed
        assert training.build(dataclasses.replace(run, backbone=backbone)).backbone.stem == "small"
    assert run.method.views[0].size == 80


# ---------------------------------------------------------------- the folder, and its use


def test_it_learns_and_says_so(tuned: Path) -> None:
    (entry,) = json.loads((tuned / "evaluation.json").read_text())
    assert entry["protocol"] == "finetune"
    assert entry["top1"] > 0.6  # of four classes
    rows = Folder(tuned).rows()
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["train_top1"] > rows[0]["train_top1"]
    log = Folder(tuned).log.read_text()
    assert "top-1" in log
    assert f"Next: lookalike predict {tuned} DATA" in log
    assert "WARNING" not in log
    assert lookalike.Result(tuned, rows).verdict == "unknown"  # images of a class are to become alike


def test_the_folders_files(tuned: Path, encoder: Path, labelled: Path) -> None:
    folder = Folder(tuned)
    assert json.loads(folder.classes.read_text()) == list(CLASSES)
    state, card = encoders.read_whole(folder.classifier)
    assert card is not None
    assert card["classes"] == list(CLASSES)
    assert (card["method"], card["backbone"]) == ("finetune", "test_byobnet")
    assert state["head.weight"].shape == (4, 256)
    run = read_run(folder.run)
    assert isinstance(run.method, FineTune.Config)
    assert (run.init, run.data, run.method.test) == (str(encoder), *(str(labelled / s) for s in ("train", "test")))
    assert run.method.classes == CLASSES
    # the encoder is that of the run, from the folder and from the classifier
    first, second = lookalike.load(tuned), lookalike.load(folder.classifier)
    assert sha256(first) == sha256(second)
    assert all(torch.equal(v, state[f"encoder.{n}"]) for n, v in first.export_state().items())


def test_the_entry_is_what_predictions_say(tuned: Path, labelled: Path) -> None:
    """Top-1, per class, confusion and calibration, counted again from `predict`."""
    (entry,) = json.loads((tuned / "evaluation.json").read_text())
    found = lookalike.predict(tuned, labelled / "test")
    truth = [name.split("/")[0] for name in found.names]
    right = np.array(truth) == np.array(found.labels)
    assert entry["top1"] == pytest.approx(right.mean())
    assert entry["top5"] == 1
    assert entry["per_class"] == pytest.approx([right[np.array(truth) == c].mean() for c in CLASSES])
    assert entry["class_names"] == list(CLASSES)
    counts: dict[tuple[str, str], int] = {}
    for pair in zip(truth, found.labels):
        counts[pair] = counts.get(pair, 0) + 1
    assert {(CLASSES[t], CLASSES[p]): n for t, p, n in entry["confusion"]} == counts
    confidence = found.probabilities.max(1).values.numpy()
    place = np.clip(np.ceil(confidence * 15).astype(int), 1, 15)
    ece = sum(abs(confidence[place == k].mean() - right[place == k].mean()) * (place == k).mean() for k in set(place))
    assert entry["calibration"]["ece"] == pytest.approx(ece, abs=1e-5)
    assert sum(n for _, _, n in entry["calibration"]["bins"]) == 16
    assert (entry["train_images"], entry["test_images"], entry["classes"]) == (32, 16, 4)
    assert entry["settings"]["unfreeze_after"] == 2
    assert entry["encoder_sha256"] == file_sha256(Folder(tuned).weights)
    assert entry["history"][-1]["step"] == 40


def test_evaluate_and_a_second_training_accept_it(
    tuned: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (tuned, Folder(tuned).classifier):
        argv = ["evaluate", str(path), str(labelled / "train"), str(labelled / "test"), "--protocols", "knn"]
        assert cli.main([*argv, "--workers", "0", "--out", str(tmp_path / "evaluation.json")]) == 0
    a, b = json.loads((tmp_path / "evaluation.json").read_text())
    assert a["top1"] == b["top1"]
    argv = ["finetune", "--from", str(tuned / "run.yaml"), "--out", str(tmp_path / "again"), "--epochs", "3"]
    assert cli.main([*argv, "--smoothing", "0"]) == 0
    old, new = (read_run(p / "run.yaml") for p in (tuned, tmp_path / "again"))
    assert new.method == dataclasses.replace(old.method, smoothing=0.0)  # type: ignore[call-arg]
    assert tune("--epochs", "1", encoder=Folder(tuned).classifier, data=labelled, out=tmp_path / "second") == 0


def test_predicted_classes_that_are_not_named_are_counted() -> None:
    classes = tuple("abcdefgh")

    def counts(labels: str) -> str:
        places = torch.tensor([classes.index(label) for label in labels])
        return Predictions([""] * len(labels), torch.eye(8)[places], classes, []).counts()

    assert counts("aaabbcdef") == "3 a, 2 b, 1 c, 1 d, 1 e, 1 f"  # six of them: all are named
    assert counts("aaaabbbcccddeefgg") == "4 a, 3 b, 3 c, 2 d, 2 e and 2 other classes (3 images)"


def test_predictions_of_unlabelled_and_broken_images(
    tuned: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "photos"
    shutil.copytree(photos, data)
    (data / "broken.jpg").write_bytes(b"no image")
    out = tmp_path / "predictions.csv"
    argv = ["predict", str(tuned), str(data), "--out", str(out), "--workers", "0"]
    assert cli.main(argv) == 0
    said = capsys.readouterr().out
    assert "40 images" in said
    assert "1 image could not be read and is left out; the first is broken.jpg" in said
    rows = list(csv.DictReader(out.open()))
    assert len(rows) == 40
    assert list(rows[0]) == ["file", "label", "probability", *(f"{c}_{k}" for k in (2, 3, 4) for c in ("label", "probability"))]  # fmt: skip # noqa: E501
    found = lookalike.predict(Folder(tuned).classifier, data)
    assert [row["file"] for row in rows] == found.names
    assert [row["label"] for row in rows] == found.labels
    assert found.broken[0][0] == "broken.jpg"
    assert torch.allclose(found.probabilities.sum(1), torch.ones(40))
    for row, p in zip(rows, found.probabilities):
        shares = [float(row[c]) for c in ("probability", "probability_2", "probability_3", "probability_4")]
        assert shares == pytest.approx(p.sort(descending=True).values.tolist(), abs=1e-6)
    assert cli.main(argv) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert cli.main([*argv, "--overwrite"]) == 0
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    found.save(tmp_path / "p.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "p.parquet")
    assert table.column("label").to_pylist() == found.labels
    with pytest.raises(ValueError, match=r"\.csv or \.parquet"):
        lookalike.predict(tuned, data, out=tmp_path / "p.xlsx")


class Own(nn.Module):
    """A pretrained module of somebody's own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Conv2d(8, 12, 2, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


class Coloured(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Plain colours, with labels."""

    classes = ("red", "blue")
    targets = tuple(k % 2 for k in range(12))

    def __len__(self) -> int:
        return 12

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        colour = torch.eye(3)[2 * (i % 2)] * (150 + 8 * i)
        return colour.byte()[:, None, None].expand(3, 20, 20), i % 2


def test_modules_and_datasets_from_python(tmp_path: Path) -> None:
    net = Own()
    result = lookalike.finetune(
        net, Coloured(), Coloured(), out=tmp_path / "run", epochs=8, batch_size=6, image_size=16, workers=0,
        method=FineTune.Config(mixup=0.0, cutmix=0.0, optim=Optim("adamw", lr=1.0)),
    )  # fmt: skip
    assert json.loads((result.folder / "evaluation.json").read_text())[0]["top1"] == 1
    assert json.loads((result.folder / "classes.json").read_text()) == ["red", "blue"]
    again = classifiers.load(result.folder, Own())
    assert lookalike.predict(again, Coloured()).labels == ["red", "blue"] * 6
    with pytest.raises(ValueError, match="pass the module"):
        lookalike.predict(result.folder, Coloured())
    with pytest.raises(ValueError, match="Give image_size"):
        lookalike.finetune(net, Coloured(), Coloured(), out=tmp_path / "other")


def test_a_class_that_test_lacks_is_named_and_the_rest_is_judged(
    encoder: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(labelled / "test", tmp_path / "test")
    shutil.rmtree(tmp_path / "test" / "class2")
    argv = ["finetune", str(encoder), str(labelled / "train"), str(tmp_path / "test"), "--out", str(tmp_path / "run")]
    assert cli.main([*argv, "--epochs", "1", "--batch-size", "8", "--workers", "0"]) == 0
    said = capsys.readouterr().out
    assert "TEST has no image of 1 of the 4 classes: class2." in said
    assert said.count("Next: lookalike") == 1
    (row,) = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert (row["test_images"], row["per_class"][2]) == (12, None)


def test_a_run_that_was_extended_goes_on_from_python(encoder: Path, labelled: Path, tmp_path: Path) -> None:
    def tune(epochs: int, resume: bool) -> None:
        lookalike.finetune(
            encoder, labelled / "train", labelled / "test", out=tmp_path / "run", epochs=epochs, batch_size=8,
            workers=0, resume=resume,
        )  # fmt: skip

    tune(1, False)
    tune(2, True)
    first = (tmp_path / "run" / "encoder.safetensors").read_bytes()
    tune(2, True)  # nothing is left to be done, and nothing has changed
    assert (tmp_path / "run" / "encoder.safetensors").read_bytes() == first
    tune(3, True)
    assert Folder(tmp_path / "run").rows()[-1]["epoch"] == 3


def test_a_run_goes_on_from_python_at_the_image_size_that_was_stated(
    encoder: Path, labelled: Path, tmp_path: Path
) -> None:
    own = {"out": tmp_path / "run", "batch_size": 8, "workers": 0}
    stated = 40
    assert lookalike.load(encoder).image_size != stated
    lookalike.finetune(encoder, labelled / "train", labelled / "test", epochs=1, image_size=stated, **own)
    lookalike.finetune(encoder, labelled / "train", labelled / "test", epochs=2, resume=True, **own)
    content = read_yaml(Folder(tmp_path / "run").run)
    assert (content["image_size"], content["epochs"]) == (stated, 2)
    assert "image_size" in content["origins"]["user"]


def test_positions_and_class_tokens_have_no_decay() -> None:
    backbone = backbones.create("test_vit", image_size=32)
    method = FineTune(FineTune.Config(classes=("a", "b")), backbone)
    rates = optimizers.build(method, method.cfg.optim, 256, fused=False)
    rates.apply(Progress(0, 10, 10))
    decays = {id(p): g["weight_decay"] for g in rates.optimizer.param_groups for p in g["params"]}
    for name, p in backbone.net.named_parameters():
        wanted = 0.0 if p.ndim == 1 or name in ("pos_embed", "cls_token") else 0.05
        assert decays[id(p)] == wanted, name


# ---------------------------------------------------------------- for evaluate


@pytest.mark.parametrize(("frozen", "share"), [(True, None), (False, 0.5)])
def test_scores_for_evaluate(
    frozen: bool, share: float | None, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = network().train()
    before = sha256(model)
    train = open_source(labelled / "train", labelled=True)
    test = open_source(labelled / "test", labelled=True, classes=train.classes)
    said: list[str] = []
    rows = None if share is None else draw_rows(train.labels, share, 0, 0)  # type: ignore[arg-type]
    found = trained_scores(
        model, train, test, frozen=frozen, epochs=3, rows=rows, batch_size=8, say=lambda line: said.append(line)
    )
    assert found.scores.shape == (16, 4)
    assert torch.equal(found.labels, test.labels)  # type: ignore[arg-type]
    assert sha256(model) == before
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert [line.split()[:2] for line in said] == [*(["epoch", f"{n}/3"] for n in (1, 2, 3)), ["test:", "16"]]
    assert capsys.readouterr().out == ""
    assert found.settings["frozen"] is frozen
    assert found.train_images == (32 if share is None else 16)
    again = trained_scores(model, train, test, frozen=frozen, epochs=3, rows=rows, batch_size=8, say=print)
    assert torch.equal(again.scores, found.scores)


def test_a_share_of_the_labels_is_balanced_and_drawn_by_its_seed() -> None:
    labels = torch.tensor([0] * 10 + [2] * 4 + [1] * 1)
    found = draw_rows(labels, 0.3, seed=0, draw=0)
    assert labels[found].bincount().tolist() == [3, 1, 1]
    assert torch.equal(found, draw_rows(labels, 0.3, seed=0, draw=0))
    others = [draw_rows(labels, 0.3, seed, draw).tolist() for seed, draw in ((0, 1), (1, 0))]
    assert found.tolist() not in others


# ---------------------------------------------------------------- bad input


def failing(capsys: pytest.CaptureFixture[str], argv: list[str], code: int) -> str:
    capsys.readouterr()
    assert cli.main(argv) == code
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    return said.err


def test_folders_that_do_not_fit(
    encoder: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(change: Callable[[Path], object], *more: str) -> str:
        data = tmp_path / "data"
        shutil.copytree(labelled, data)
        change(data)
        argv = ["finetune", str(encoder), str(data / "train"), str(data / "test"), "--out", str(tmp_path / "run")]
        said = failing(capsys, [*argv, "--batch-size", "8", "--workers", "0", *more], 1)
        shutil.rmtree(data)
        assert not (tmp_path / "run").exists()
        return said

    other = refused(lambda data: (data / "test" / "class3").rename(data / "test" / "klass3"))
    assert "has the class 'klass3', which is not one of the 4 known classes; nearest: class3" in other

    def single(data: Path) -> None:
        for folder in data.glob("*/class[123]"):
            shutil.rmtree(folder)

    one = refused(single)
    assert "all images of" in one
    flat = refused(lambda data: shutil.copy(data / "train/class0/0.jpg", data / "train/0.jpg"))
    assert "is not in a class folder" in flat
    late = refused(lambda data: None, "--unfreeze-after", "3", "--epochs", "3")
    assert "--unfreeze-after 3 of 3 epochs: the encoder would never be trained" in late


def test_commands_that_are_refused_with_one_message(
    encoder: Path, tuned: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [str(labelled / "train"), str(labelled / "test")]
    before = Folder(tuned).classifier.read_bytes()
    assert "holds a run" in failing(capsys, ["finetune", str(encoder), *data, "--out", str(tuned)], 1)
    own = failing(capsys, ["finetune", str(tuned), *data, "--out", str(tuned), "--overwrite"], 1)
    assert "the encoder's own folder" in own
    file = failing(capsys, ["finetune", str(Folder(tuned).weights), *data, "--out", str(tuned), "--overwrite"], 1)
    assert "the encoder's own folder" in file
    assert Folder(tuned).classifier.read_bytes() == before
    assert "No encoder at" in failing(
        capsys, ["finetune", str(tmp_path / "no"), *data, "--out", str(tmp_path / "r")], 1
    )
    assert "trains with labels: lookalike finetune ENCODER" in failing(capsys, ["pretrain", "finetune", data[0]], 2)
    failing(capsys, ["finetune", str(encoder), *data, "--classes", "a"], 2)
    failing(capsys, ["finetune", str(encoder), *data, "--backbone", "resnet18"], 2)
    failing(capsys, ["finetune", str(encoder)], 2)
    argv = ["finetune", "--resume", "--out", str(tuned), "--mixup", "0.5"]
    assert "mixup: 0.0 in the run, 0.5 now" in failing(capsys, argv, 1)
    with pytest.raises(ValueError, match=r"FineTune\.Config"):
        finetune.train_and_evaluate(
            Run(data=data[0], method=lookalike.methods.SimCLR.Config(), out=str(tmp_path / "r"))
        )
    with pytest.raises(ValueError, match=r"Use lookalike\.finetune"):
        FineTune(FineTune.Config(), network())
    assert not (tmp_path / "r").exists()


def test_files_that_are_no_classifier(
    encoder: Path, tuned: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "p.csv"), "--workers", "0"]

    def refused(path: Path) -> str:
        return failing(capsys, ["predict", str(path), str(photos), *out], 1)

    assert f"Train one: lookalike finetune {encoder} TRAIN TEST" in refused(encoder)
    assert "it has no head and no classes" in refused(Folder(encoder).weights)
    assert "No classifier at" in refused(tmp_path / "none")
    damaged = tmp_path / "damaged.safetensors"
    content = bytearray(Folder(tuned).classifier.read_bytes())
    content[-5] ^= 1
    damaged.write_bytes(content)
    assert "is damaged" in refused(damaged)
    damaged.write_bytes(content[:-100])
    assert "not a complete safetensors file" in refused(damaged)
    plain = tmp_path / "plain.safetensors"
    save_file({"head.weight": torch.zeros(4, 96), "head.bias": torch.zeros(4)}, plain)
    assert "it has no head and no classes" in refused(plain)
    stopped = tmp_path / "stopped"
    shutil.copytree(tuned, stopped)
    Folder(stopped).classifier.unlink()
    assert f"The run has not ended: lookalike finetune --resume --out {stopped}" in refused(stopped)
    assert not (tmp_path / "p.csv").exists()


def test_broken_test_images_do_not_count(encoder: Path, labelled: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(labelled, data)
    (data / "test" / "class0" / "0.jpg").write_bytes(b"no image")
    Image.new("RGB", (24, 20)).save(data / "train" / "class0" / "black.png")
    assert tune("--epochs", "1", encoder=encoder, data=data, out=tmp_path / "run") == 0
    (entry,) = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert (entry["train_images"], entry["test_images"]) == (33, 15)
    assert "broken test image class0/0.jpg" in Folder(tmp_path / "run").log.read_text()


@pytest.mark.parametrize("argv", [["finetune", "--help"], ["predict", "--help"]])
def test_help_shows_what_applies(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 0
    said = capsys.readouterr().out
    assert "--image-size" in said
    if argv[0] == "finetune":
        assert all(option in said for option in ("--unfreeze-after", "--frozen", "--optim.layer-decay", "--accumulate"))
        assert not any(
            f"{option} " in said for option in ("--classes", "--init", "--backbone", "--normalize", "--test")
        )


def test_views_are_kept_in_their_sizes() -> None:
    """`views finetune` shows what is trained on, for which no classes are needed."""
    cfg = dataclasses.replace(FineTune.Config(), views=resized(FineTune.Config().views, 32))
    assert training.resolve(Run(data="", method=cfg, backbone="test_resnet", image_size=32), 100)[0].image_size == 32


@pytest.mark.parametrize("how", ["column", "holdout"])
def test_a_part_of_the_training_images_is_the_test(
    how: str, encoder: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a list with the column split, or by --holdout; a run that was stopped continues with the same parts."""
    shutil.copytree(labelled, tmp_path / "data")
    names = sorted(path.relative_to(labelled).as_posix() for path in labelled.rglob("*.jpg"))
    rows = [f"{name},{name.split('/')[1]},{'test' if i % 4 == 0 else 'train'}" for i, name in enumerate(names)]
    data = tmp_path / "data/list.csv"
    data.write_text("\n".join(["path,label,split", *rows]))
    more = [] if how == "column" else ["--holdout", "0.25", "--columns.split", ""]
    base = ["finetune", str(encoder), str(data), "--epochs", "2", "--batch-size", "8", "--workers", "0", *more]
    assert cli.main([*base, "--out", str(tmp_path / "whole")]) == 0
    by = "by the column split" if how == "column" else "by a random split with seed 0"
    shown = capsys.readouterr().out
    assert f"36 training images and 12 test images {by}" in shown
    assert "data        36 images in" in shown
    (entry,) = json.loads(Folder(tmp_path / "whole").evaluation.read_text())
    assert (entry["train_images"], entry["test_images"]) == (36, 12)
    assert entry["split"]["by"] == how
    assert entry["test"] == entry["train"] == str(data)
    listed = cli.main(["evaluate", str(tmp_path / "whole"), str(data), "--protocols", "knn", *more])
    assert listed == 0
    assert f"36 training images and 12 test images {by}" in capsys.readouterr().out

    def interrupted(self: FineTune, at: Progress, outputs: object) -> None:
        if at.step + 1 == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FineTune, "after_step", interrupted)
        assert cli.main([*base, "--out", str(tmp_path / "again")]) == 130
    assert cli.main(["finetune", "--resume", "--out", str(tmp_path / "again")]) == 0
    a, b = (load_file(Folder(tmp_path / name).classifier) for name in ("whole", "again"))
    assert all(torch.equal(value, b[name]) for name, value in a.items())
    assert f"36 training images and 12 test images {by}" in capsys.readouterr().out
    train, test = str(labelled / "train"), str(labelled / "test")
    argv = ["finetune", str(encoder), train, "--out", str(tmp_path / "no")]
    assert "has no column split. Give TEST, the fraction" in failing(capsys, argv, 1)
    argv = ["finetune", str(encoder), train, test, "--holdout", "0.2", "--out", str(tmp_path / "no")]
    assert "holdout splits TRAIN, but TEST is given" in failing(capsys, argv, 1)
