"""Where each value of a run comes from: default, user or fitted; and that a resume needs nothing to be said again."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.runs import TinyNet, tiny_config, tiny_run

from lookalike import cli, training
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
    stated: dict[str, Any] = {"seed": 5, "save_every": 2, "accumulate": 2, "normalise": "data", "decode_size": 40}
    training.pretrain(tiny_run(photos, out, epochs=2, method=tiny_config(temperature=0.3), **stated))
    run = Run(data=photos, method=SimCLR.Config(), backbone=TinyNet(), out=str(out), resume=True, epochs=3)
    training.pretrain(run)
    settled = read_run(out / "run.yaml")
    assert {name: vars(settled)[name] for name in stated} == stated
    assert settled.method == dataclasses.replace(tiny_config(temperature=0.3), optim=settled.method.optim)
    assert Folder(out).rows()[-1]["step"] == 15


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
