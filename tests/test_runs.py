"""run.yaml, the folder and the atomic files."""

import dataclasses
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lookalike.methods import METHODS, get_method
from lookalike.methods.simclr import SimCLR
from lookalike.runs import Folder, Options, Run, atomic, differences, dotted, flat, nearest, plain, read_run, write_run


@pytest.mark.parametrize("name", METHODS)
def test_every_config_survives_the_yaml_file(name: str, tmp_path: Path) -> None:
    run = Run(data="photos", method=get_method(name).Config(), epochs=7, probe=("a", "b"))
    write_run(run, tmp_path / "run.yaml")
    again = read_run(tmp_path / "run.yaml")
    assert flat(again) == flat(run)
    assert again.method == run.method
    content = yaml.safe_load((tmp_path / "run.yaml").read_text())
    assert content["format"] == 1
    assert list(content)[:3] == ["format", "method", "data"]
    assert {"torch", "lookalike"} <= set(content["made"]["versions"])


@pytest.mark.parametrize("name", METHODS)
def test_no_field_of_a_method_collides_with_an_option(name: str) -> None:
    options = {f.name for f in dataclasses.fields(Options)} | {
        "data",
        "method",
        "from",
        "format",
        "made",
        "debug",
        "given",
    }
    assert not options & {f.name for f in dataclasses.fields(get_method(name).Config)}


def read(tmp_path: Path, text: str) -> Run:
    (tmp_path / "run.yaml").write_text(text)
    return read_run(tmp_path / "run.yaml")


def test_a_short_file_takes_the_defaults(tmp_path: Path) -> None:
    run = read(tmp_path, "method: simclr\ndata: photos\noptim:\n  lr: 1e-6\nviews:\n- size: 32\n  count: 2\n")
    default = SimCLR.Config()
    assert run.method.optim == dataclasses.replace(default.optim, lr=1e-6)
    assert run.method.views[0].size == 32
    assert run.epochs == Options().epochs
    assert set(run.given) == {"optim.lr", "views.0.size", "views.0.count"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: simclr\ndata: p\ntemperatur: 1.0", "nothing is called 'temperatur'. Did you mean temperature"),
        ("method: simclr\ndata: p\noptim: {lrr: 1.0}", "nothing is called 'optim.lrr'. Did you mean lr"),
        ("method: simclr\ndata: p\nviews: [{siz: 3}]", "nothing is called 'views.0.siz'. Did you mean size"),
        ("method: simcrl\ndata: p", "No method is called 'simcrl'. Did you mean simclr"),
        ("method: my.module:Mine\ndata: p", "your own class: pass it from Python"),
        ("data: p", "names no method"),
        ("method: simclr", "names no data"),
        ("method: simclr\ndata: p\nepochs: many", "epochs"),
        ("method: simclr\ndata: p\nepochs: 1.5", "not a whole number"),
        ("method: simclr\ndata: p\ntemperature: yes", "not a number"),
        ("method: simclr\ndata: p\nepochs: 0", "epochs is 0; it must be at least 1"),
        ("method: [", "not valid YAML"),
        ("just text", "holds no options"),
        ("format: 2\nmethod: simclr\ndata: p", "has format 2, this version reads format 1"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        read(tmp_path, text)
    assert message in str(caught.value)


def test_differences_name_what_may_not_change() -> None:
    old = flat(Run(data="p", method=SimCLR.Config(), epochs=10))
    new = flat(Run(data="p", method=SimCLR.Config(temperature=0.5), epochs=12, workers=3, batch_size=8, logger="wandb"))
    lines = differences(old, new)
    assert lines == ["batch_size: 256 in the run, 8 now", "temperature: 0.1 in the run, 0.5 now"]
    fewer = flat(Run(data="p", method=SimCLR.Config(), epochs=9))
    assert differences(old, fewer) == ["epochs: 10 in the run, 9 now (more are allowed, fewer are not)"]


def test_dotted_names_reach_into_lists() -> None:
    names = dotted(plain(SimCLR.Config()))
    assert names["views.0.blur"] == 0.5
    assert names["optim.weight_decay.start"] == 1e-6
    assert names["views.0.scale"] == [0.08, 1.0]


def test_atomic_leaves_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail() -> None:
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_metrics_are_cut_and_half_lines_ignored(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for step in range(5):
        folder.append({"step": step})
    with open(folder.metrics, "a") as file:
        file.write('{"step": 5, "lo')
    assert [r["step"] for r in folder.rows()] == [0, 1, 2, 3, 4]
    folder.cut_metrics(2)
    assert [r["step"] for r in folder.rows()] == [0, 1, 2]
    folder.cut_metrics(-1)
    assert folder.rows() == []


def test_a_folder_with_other_files_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="not empty and holds no run"):
        Folder(tmp_path).check(resume=False, overwrite=True)
    (tmp_path / "run.yaml").write_text("format: 1")
    with pytest.raises(FileExistsError, match="holds a run"):
        Folder(tmp_path).check(resume=False, overwrite=False)
    folder = Folder(tmp_path)
    folder.check(resume=False, overwrite=True)
    folder.claim(resume=False)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert not folder.run.exists()


@given(st.sampled_from(["simclr", "byol", "dino", "vicreg"]), st.integers(0, 4))
def test_nearest_finds_a_name_with_one_letter_missing(name: str, at: int) -> None:
    typo = name[: at % len(name)] + name[at % len(name) + 1 :]
    assert name in nearest(typo, ["simclr", "byol", "dino", "vicreg"])


def test_a_run_goes_on_by_its_own_verb(tmp_path: Path) -> None:
    """Or by the call that began it, where run.yaml does not hold all that this was given."""
    folder = Folder(tmp_path / "a run")
    assert folder.resume_command() == f"lookalike pretrain --resume --out '{folder.path}'"
    for name, verb in [("simclr", "pretrain"), ("distill", "distill"), ("finetune", "finetune")]:
        write_run(Run(data="photos", method=get_method(name).Config()), folder.run)
        assert folder.resume_command() == f"lookalike {verb} --resume --out '{folder.path}'"
    folder.checkpoints.mkdir()
    folder.last.touch()
    assert folder.then() == f" {folder.last} is whole: go on with {folder.resume_command()}"
    write_run(Run(data=[1, 2], method=SimCLR.Config()), folder.run)  # type: ignore[arg-type]
    assert folder.resume_command() == "the same call and resume=True"
