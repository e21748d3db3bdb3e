"""Where each value of a run comes from: default, user or fitted; and that a resume needs nothing to be said again."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.runs import TinyNet, tiny_config, tiny_run

from lookalike import cli, training
from lookalike.cli.parsing import with_new_names
from lookalike.cli.run_parsing import parse_run
from lookalike.methods import SELF_SUPERVISED, get_method
from lookalike.methods.ibot import IBOT
from lookalike.methods.simclr import SimCLR
from lookalike.runs import Folder, Run, by_user, dotted, plain, read_run
from lookalike.runs.origins import read


def booleans() -> list[tuple[str, str]]:
    """Each method with each of its fields that is true or false, or neither yet."""
    return [
        (name, field)
        for name in SELF_SUPERVISED
        for field, value in dotted(plain(get_method(name).Config())).items()  # type: ignore[call-arg]
        if isinstance(value, bool) or (name, field) == ("dino", "norm")
    ]


def test_the_booleans_are_those_of_the_methods() -> None:
    assert {("ibot", "norm"), ("byol", "predictor"), ("simsiam", "stop_gradient")} < set(booleans())


@pytest.mark.parametrize(("name", "field"), booleans())
def test_a_flag_is_kept_whichever_way_it_is_given(name: str, field: str, photos: Path) -> None:
    """A flag that is false by default was taken for not given, and overridden by fitting."""
    path, dot, last = field.replace("_", "-").rpartition(".")
    backbone = "test_vit" if get_method(name).Config().needs.mask_token else "test_byobnet"  # type: ignore[call-arg]
    for option, wanted in ((f"--{path}{dot}no-{last}", False), (f"--{path}{dot}{last}", True)):
        options = [option] if field != "norm" or name != "dino" else ["--norm", str(wanted)]
        run = parse_run("pretrain", [name, str(photos), "--backbone", backbone, *options])
        settled, _ = training.resolve(run, 5000)
        assert dotted(plain(settled.method))[field] is wanted, option
        assert settled.origins[field] == "user"


def test_fitting_would_change_what_no_norm_keeps() -> None:
    """Else the test above could not fail."""
    run = Run(data="", method=IBOT.Config(), backbone="test_vit", image_size=32)
    assert training.resolve(run, 5000)[0].method.norm  # type: ignore[attr-defined]


def test_each_value_says_where_it_comes_from(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    argv = [
        "pretrain", "simclr", str(photos), "--backbone", "test_byobnet", "--image-size", "32", "--epochs", "2",
        "--temperature", "0.1", "--optim.lr", "0.01", "--no-report", "--workers", "0", "--out", str(out),
    ]  # fmt: skip
    assert cli.main(argv) == 0
    written = yaml.safe_load((out / "run.yaml").read_text())["origins"]
    assert {"temperature", "optim.lr", "image_size", "epochs", "workers", "backbone"} <= set(written["user"])
    assert {"views.0.blur", "optim.warmup_epochs", "batch_size", "precision", "decode_size"} <= set(written["fitted"])
    assert not {"seed", "hidden_dim"} & {*written["user"], *written["fitted"]}
    assert read_run(out / "run.yaml").origins == read(written, "run.yaml")
    before = (out / "run.yaml").read_text()
    assert cli.main(["pretrain", "--resume", "--out", str(out), "--epochs", "3", "--no-report"]) == 0
    after = yaml.safe_load((out / "run.yaml").read_text())
    assert after["origins"] == yaml.safe_load(before)["origins"]


@pytest.mark.parametrize(
    "content", ["nonsense", {"user": "temperature"}, {"somebody": ["temperature"]}, {"user": [1]}, [1]]
)
def test_origins_that_nobody_wrote_are_refused(content: object) -> None:
    with pytest.raises(ValueError, match=r"run\.yaml: origins .*give lists of names under user and fitted"):
        read(content, "run.yaml")


def test_a_run_goes_on_from_python_with_what_was_said_at_first(photos: Path, tmp_path: Path) -> None:
    """Nothing but the method, its data and the folder is said again; `run.yaml` knows the rest."""
    out = tmp_path / "run"
    stated: dict[str, Any] = {"seed": 5, "save_every": 2, "accumulate": 2, "normalize": "data", "decode_size": 40}
    training.pretrain(tiny_run(photos, out, epochs=2, method=tiny_config(temperature=0.3), **stated))
    run = Run(data=photos, method=SimCLR.Config(), backbone=TinyNet(), out=str(out), resume=True, epochs=3)
    training.pretrain(run)
    settled = read_run(out / "run.yaml")
    assert {name: vars(settled)[name] for name in stated} == stated
    assert settled.method == dataclasses.replace(tiny_config(temperature=0.3), optim=settled.method.optim)
    assert Folder(out).rows()[-1]["step"] == 15


@pytest.mark.parametrize("option", [["--normalise", "data"], ["--normalise=data"]])
def test_the_old_name_of_an_option_is_accepted_with_a_notice(
    option: list[str], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    argv = [
        "pretrain", "simclr", str(photos), "--backbone", "test_byobnet", "--image-size", "32", "--epochs", "1",
        "--workers", "0", "--no-report", "--out", str(out), *option,
    ]  # fmt: skip
    assert cli.main(argv) == 0
    notice = "--normalise is now --normalize; the old spelling is accepted until 0.3."
    assert capsys.readouterr().err.count(notice) == 1
    content = yaml.safe_load((out / "run.yaml").read_text())
    assert content["normalize"] == "data"
    assert "normalize" in content["origins"]["user"]


def test_other_commands_of_trainings_accept_the_old_name(
    photos: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["views", "simclr", str(photos), "--out", str(tmp_path / "v.png"), "--normalise", "data"]) == 0
    assert "--normalise is now --normalize" in capsys.readouterr().err
    train, test = str(labelled / "train"), str(labelled / "test")
    argv = ["compare", str(photos), "simclr", "--train", train, "--test", test, "--normalise", "data", "--seeds", "0"]
    assert cli.main(argv) != 0
    err = capsys.readouterr().err
    assert "--normalise is now --normalize" in err
    assert "seeds is 0; it must be at least 1" in err


def test_what_stands_behind_two_dashes_is_no_old_name(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--out", "normalise", "--", "--normalise"]
    assert with_new_names(argv) == argv
    assert not capsys.readouterr().err


def test_a_run_with_the_old_name_of_an_option_goes_on(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As 0.2.dev wrote it: in the options, in the origins and in the checkpoint."""
    out = tmp_path / "run"
    argv = [
        "pretrain", "simclr", str(photos), "--backbone", "test_byobnet", "--image-size", "32", "--epochs", "1",
        "--workers", "0", "--no-report", "--out", str(out), "--normalize", "data",
    ]  # fmt: skip
    assert cli.main(argv) == 0
    text = (out / "run.yaml").read_text()
    assert text.count("normalize") == 2
    (out / "run.yaml").write_text(text.replace("normalize", "normalise"))
    last = Folder(out).last
    checkpoint = torch.load(last, weights_only=True)
    run = checkpoint["lookalike"]["run"]
    checkpoint["lookalike"]["run"] = {("normalise" if k == "normalize" else k): v for k, v in run.items()}
    torch.save(checkpoint, last)
    settled = read_run(out / "run.yaml")
    assert (settled.normalize, settled.origins["normalize"]) == ("data", "user")
    assert (
        parse_run("pretrain", ["--from", str(out / "run.yaml"), "--out", str(tmp_path / "other")]).normalize == "data"
    )
    capsys.readouterr()
    assert cli.main(["pretrain", "--resume", "--out", str(out), "--epochs", "2", "--no-report"]) == 0
    assert "normali" not in capsys.readouterr().err
    assert (out / "run.yaml").read_text().count("normalize") == 2
    assert "normalise" not in (out / "run.yaml").read_text()


def test_a_file_with_both_names_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("method: simclr\ndata: photos\nnormalise: data\nnormalize: imagenet\n")
    with pytest.raises(ValueError, match=r"unknown key 'normalise'\. Did you mean normalize"):
        read_run(file)


def test_another_machine_or_a_later_default_refuses_no_resume(photos: Path, tmp_path: Path) -> None:
    """What a machine would choose, and what a later version would have as its default, is as it was begun."""
    out = tmp_path / "run"
    training.pretrain(tiny_run(photos, out, epochs=1, precision="bf16", workers=1))
    content = yaml.safe_load((out / "run.yaml").read_text())
    content["origins"] = {"user": [], "fitted": ["precision", "workers"]}
    content["temperature"] = 0.25  # as if an earlier version had this default
    (out / "run.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    run = Run(data=photos, method=tiny_config(), backbone=TinyNet(), out=str(out), resume=True, epochs=2)
    settled, _ = training.resolve(run, 40, {k: v for k, v in content.items() if k not in ("made", "format")})
    assert (settled.precision, settled.workers) == ("bf16", 1)
    assert settled.method.temperature == 0.25  # type: ignore[attr-defined]


def test_what_is_stated_is_refused_where_it_may_not_change(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    training.pretrain(tiny_run(photos, out, epochs=1, seed=4))
    with pytest.raises(ValueError, match="seed: 4 in the run, 0 now"):
        training.pretrain(tiny_run(photos, out, epochs=2, resume=True, origins=by_user(["seed"])))
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 5


def test_a_value_changed_in_a_run_that_was_read_is_stated(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    training.pretrain(tiny_run(photos, out, epochs=1, workers=0))
    run = dataclasses.replace(read_run(out / "run.yaml", SimCLR), data=photos, backbone=TinyNet(), resume=True)
    content = {k: v for k, v in yaml.safe_load((out / "run.yaml").read_text()).items() if k not in ("made", "format")}
    settled, _ = training.resolve(dataclasses.replace(run, epochs=7, workers=3, decode_size=99), 40, content)
    assert (settled.epochs, settled.workers, settled.decode_size) == (7, 3, 99)
    other = dataclasses.replace(run.method, temperature=0.7)  # type: ignore[call-arg]
    settled, _ = training.resolve(dataclasses.replace(run, method=other), 40, content)
    assert settled.method.temperature == 0.7  # type: ignore[attr-defined]


def test_a_file_gives_its_fitted_values_up_where_fitting_is_asked_for(photos: Path, tmp_path: Path) -> None:
    """Else those of a short training would be taken for the paper's."""
    out = tmp_path / "run"
    argv = ["pretrain", "simclr", str(photos), "--backbone", "test_byobnet", "--image-size", "32", "--epochs", "1"]
    assert cli.main([*argv, "--hidden-dim", "64", "--no-report", "--workers", "0", "--out", str(out)]) == 0
    paths = ["--from", str(out / "run.yaml"), "--out", str(tmp_path / "next")]
    again, _ = training.resolve(parse_run("pretrain", paths), 40)
    assert again.method == read_run(out / "run.yaml").method
    anew, _ = training.resolve(parse_run("pretrain", [*paths, "--fit", "--epochs", "100"]), 1_281_167)
    fresh = Run(data="", method=SimCLR.Config(hidden_dim=64), backbone="test_byobnet", image_size=32, batch_size=10)
    assert anew.method == training.resolve(fresh, 1_281_167)[0].method


def test_a_run_from_a_file_freezes_new_weights_for_a_tenth(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    training.pretrain(tiny_run(photos, out, epochs=1))
    run = dataclasses.replace(read_run(out / "run.yaml", SimCLR), data=photos, backbone=TinyNet(), init="x", epochs=20)
    assert training.resolve(run, 40)[0].frozen_epochs == 2


def test_another_size_of_views_is_refused_by_a_resume(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    argv = ["pretrain", "simclr", str(photos), "--backbone", "test_byobnet", "--image-size", "32", "--epochs", "1"]
    assert cli.main([*argv, "--no-report", "--workers", "0", "--out", str(out)]) == 0
    assert cli.main(["pretrain", "--resume", "--out", str(out), "--views.0.size", "48", "--epochs", "2"]) == 1
