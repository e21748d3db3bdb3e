"""run.yaml, the folder and the atomic files."""

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from lookalike import marks, runs
from lookalike.files import atomic, write_json
from lookalike.methods import METHODS, get_method
from lookalike.methods.simclr import SimCLR
from lookalike.names import nearest
from lookalike.runs import Folder, Options, Run, differences, dotted, flat, plain, read_run, write_run


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
    assert set(run.origins) == {"optim.lr", "views.0.size", "views.0.count"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: simclr\ndata: p\ntemperatur: 1.0", "nothing is called 'temperatur'. Did you mean temperature"),
        ("method: simclr\ndata: p\noptim: {lrr: 1.0}", "nothing is called 'optim.lrr'. Did you mean optim.lr?"),
        ("method: simclr\ndata: p\nviews: [{siz: 3}]", "nothing is called 'views.0.siz'. Did you mean views.0.size?"),
        ("method: simclr\ndata: p\noptim: {rate: 1.0}", "nothing is called 'optim.rate'. Known in optim: base_batch, "),
        ("method: simclr\ndata: p\noptim: {weight_decay: {stop: 1.0}}", "Known in optim.weight_decay: end, "),
        ("method: simclr\ndata: p\nrate: 1.0", "nothing is called 'rate'. Known: accumulate, "),
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


# ---------------------------------------------------------------- what is not ours


def test_temporary_names_cannot_be_foretold_and_hosts_do_not_collide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links under the names of 0.1 lead to somebody's file; two containers have processes of one number."""
    mine, path = tmp_path / "mine", tmp_path / "run" / "run.yaml"
    mine.write_text("mine")
    path.parent.mkdir()
    monkeypatch.setattr(os, "getpid", lambda: 7)
    (path.parent / ".run.7.tmp.yaml").symlink_to(mine)
    with atomic(path) as first, atomic(path) as second:
        assert first != second
        assert all(part.read_bytes() == b"" and not part.is_symlink() for part in (first, second))
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"
    assert mine.read_text() == "mine"
    assert sorted(p.name for p in path.parent.iterdir()) == [".run.7.tmp.yaml", "run.yaml"]
    with monkeypatch.context() as patch:  # a name that is taken is never written to
        patch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)
        with atomic(tmp_path / "a.txt") as taken:
            names = taken.name
        (tmp_path / names).symlink_to(mine)
        with pytest.raises(FileExistsError), atomic(tmp_path / "a.txt") as taken:
            taken.write_text("through the link")
    assert mine.read_text() == "mine"


def test_the_files_have_the_mode_that_the_user_asks_of_new_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic(tmp_path / "a.safetensors") as temporary:
            save_file({"a": torch.zeros(1)}, temporary)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == 0o640


def test_a_long_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 120 + ".json")
    write_json(path, 1)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["log.txt", "metrics.jsonl", ".lock"])
def test_files_that_grow_are_not_written_through_links(tmp_path: Path, name: str) -> None:
    folder, outside = Folder(tmp_path / "run"), tmp_path / "outside.txt"
    folder.path.mkdir()
    (folder.path / name).symlink_to(outside)  # a link that leads nowhere yet would make the file
    with pytest.raises(FileExistsError, match=f"{name} is a link, and a run writes to its own folder only"):
        folder.check(resume=False, overwrite=False)
    for act in (lambda: folder.note("x"), lambda: folder.append({"step": 1}), lambda: folder.held().__enter__()):
        with suppress(OSError):
            act()
        assert not outside.exists()
    act = {"log.txt": lambda: folder.note("x"), "metrics.jsonl": lambda: folder.append({"step": 1})}.get(
        name, lambda: folder.held().__enter__()
    )
    with pytest.raises(OSError, match=r"nothing is written through links: put the file itself in its place"):
        act()


@pytest.mark.parametrize("name", ["checkpoints", "features", "tensorboard"])
def test_folders_in_a_run_may_not_be_links_but_the_run_may(tmp_path: Path, name: str) -> None:
    real, outside = tmp_path / "real", tmp_path / "outside"
    outside.mkdir()
    (outside / "last.ckpt").write_text("mine")
    real.mkdir()
    (tmp_path / "run").symlink_to(real)
    folder = Folder(tmp_path / "run")
    folder.check(resume=False, overwrite=False)
    folder.claim(resume=False)
    write_run(Run(data="p", method=SimCLR.Config()), folder.run)
    assert (real / "run.yaml").is_file()
    shutil.rmtree(real / name, ignore_errors=True)
    (real / name).symlink_to(outside)
    for options in ({"resume": True, "overwrite": False}, {"resume": False, "overwrite": True}):
        with pytest.raises(FileExistsError, match=f"{name} is a link"):
            folder.check(**options)
        with pytest.raises(FileExistsError, match=f"{name} is a link"):
            folder.claim(resume=options["resume"])
    folder.abandon()
    assert (outside / "last.ckpt").read_text() == "mine"


def test_a_folder_in_the_place_of_a_file_is_refused_before_anything_is_removed(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.run.write_text("format: 1")
    (folder.views / "mine").mkdir(parents=True)
    with pytest.raises(FileExistsError, match=r"views.png is no file. Move it away"):
        folder.check(resume=False, overwrite=True)


def features_file(folder: Path, encoder: str) -> Path:
    """As `evaluation.keeping` writes them."""
    about = json.dumps({"encoder": encoder, "images": "v1"}, sort_keys=True)
    path = folder / f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.safetensors"
    content = {"features": torch.zeros(2, 3), "index": torch.arange(2)}
    save_file(content, path, metadata={"about": about, "broken": "[]", "encoder": encoder})
    return path


def test_overwrite_removes_what_runs_write_and_nothing_else(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    tensorboard = tmp_path / "tensorboard"
    for own in (folder.checkpoints, folder.features, tensorboard, tmp_path / "show"):
        own.mkdir()
    ours = [folder.metrics, folder.weights, folder.views, folder.log, tmp_path / "metrics.jsonl.corrupt"]
    ours += [tmp_path / name for name in (".run.12.tmp.yaml", ".encoder.a-host.0123456789abcdef.tmp.json")]
    ours += [folder.checkpoints / name for name in (
        "last.ckpt", "last.before.ckpt", "epoch=10.ckpt", "last.corrupt", "epoch=3.corrupt", "last.corrupt.2",
        "nonfinite-30-rank1.safetensors", ".last.99.tmp.ckpt", ".epoch=3.host.0123456789abcdef.tmp.ckpt",
    )]  # fmt: skip
    theirs = [folder.checkpoints / name for name in (
        "resnet50.ckpt", "epoch=best.ckpt", "epoch=3-copy.ckpt", "last-good.ckpt", "important.corrupt",
        "nonfinite-notes.safetensors", ".notes.tmp", ".mine.tmp.ckpt", ".mine.123.tmp.ckpt",
    )]  # fmt: skip
    theirs += [tmp_path / name for name in (
        "thesis.tex", ".notes.tmp.txt", ".tmp", ".tmpnotes", ".tmp12ab.x", ".thesis.12.tmp.tex", "metrics.jsonl.old",
        "metrics.jsonl.corrupt.mine", "show/attention.png",
    )]  # fmt: skip
    theirs += [folder.features / name for name in (".x.tmp.safetensors", "mine.txt")]
    for path in (*ours, *theirs):
        path.write_text("content")
    (tmp_path / ".tmpAb12cd").write_bytes(b'12345678{"__metadata__":{"lookalike":"{}"')  # what safetensors had begun
    ours.append(tmp_path / ".tmpAb12cd")
    (tmp_path / ".tmpAb12ce").write_bytes(b'12345678{"__metadata__":{"format":"pt"}')
    theirs.append(tmp_path / ".tmpAb12ce")
    ours.append(features_file(folder.features, "one"))
    save_file({"w": torch.zeros(1)}, folder.features / "model.safetensors", metadata={"encoder": "x", "about": "y"})
    renamed = folder.features / "copy.safetensors"
    shutil.copy(ours[-1], renamed)
    linked = folder.features / f"{'0' * 32}.safetensors"
    linked.symlink_to(folder.features / "model.safetensors")
    theirs += [folder.features / "model.safetensors", renamed, linked]
    events = tensorboard / "events.out.tfevents.1.host.1.0"
    events.write_bytes(b"\0loss\0images_per_s\0data_wait\0")
    (tensorboard / "hparams.yaml").write_text("{}\n")
    ours += [events, tensorboard / "hparams.yaml"]
    for name, content in (("events.out.tfevents.2.host.2.0", b"\0accuracy"), ("mine.yaml", b"{}")):
        (tensorboard / name).write_bytes(content)
        theirs.append(tensorboard / name)
    (folder.checkpoints / "epoch=7.ckpt").mkdir()  # a folder is nothing that we write under this name
    folder.run.write_text("format: 1")
    folder.check(resume=False, overwrite=True)
    folder.claim(resume=False)
    assert [path.name for path in ours if path.exists()] == []
    assert [path.name for path in theirs if not os.path.lexists(path)] == []
    assert (folder.checkpoints / "epoch=7.ckpt").is_dir()


def test_resume_removes_stale_temporary_files_of_ours_alone(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.checkpoints.mkdir()
    folder.run.write_text("format: 1")
    ours = [tmp_path / ".metrics.1.tmp.jsonl", folder.checkpoints / ".last.h.0123456789abcdef.tmp.ckpt"]
    others = [tmp_path / name for name in (".swap.tmp", ".a.1.tmp.json", ".evaluation.h.0123456789abcdef.tmp.json")]
    others.append(folder.checkpoints / ".foreign.tmp")
    for path in (*ours, *others):
        path.write_text("x")
    (tmp_path / ".run.5.tmp.yaml").symlink_to(others[0])
    folder.claim(resume=True)
    assert not any(path.exists() for path in ours)
    assert all(path.exists() for path in (*others, tmp_path / ".run.5.tmp.yaml"))


# ---------------------------------------------------------------- kills


def killed_at(count: int, act: Callable[[], object]) -> bool:
    """Does something in a process of its own, which dies by SIGKILL at the n-th name that it takes or removes."""
    if not (child := os.fork()):
        left = count

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def replacement(*args: Any, **options: Any) -> Any:
                nonlocal left
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **options)

            return replacement

        os.unlink, os.replace, os.mkdir = map(counted, (os.unlink, os.replace, os.mkdir))
        act()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_a_kill_while_a_run_is_replaced_leaves_a_folder_that_commands_take(tmp_path: Path) -> None:
    for count in range(1, 30):
        folder = Folder(tmp_path / str(count))
        for own in (folder.checkpoints, folder.features, folder.path / "tensorboard"):
            own.mkdir(parents=True)
        for path in (folder.run, folder.metrics, folder.weights, folder.log, folder.last, folder.before, folder.lock):
            path.write_text("" if path == folder.lock else "format: 1")
        features_file(folder.features, "one")
        foreign = folder.path / "thesis.tex"
        foreign.write_text("years of work")
        new = Run(data="photos", method=SimCLR.Config())
        died = killed_at(
            count,
            lambda folder=folder, new=new: folder.claim(resume=False, files={folder.run: runs.run_text(new).encode()}),
        )
        folder.check(resume=False, overwrite=True)
        assert folder.run.is_file()
        assert foreign.read_text() == "years of work"
        if not died:
            break
    assert count > 7
    assert read_run(folder.run).data == "photos"


def test_what_a_kill_before_run_yaml_left_is_recognised_and_foreign_files_are_not(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for own in (folder.checkpoints, folder.features, folder.path / "tensorboard"):
        own.mkdir()
    for name in (".lock", ".evaluation.json.lock", ".run.77.tmp.yaml", ".run.host.0123456789abcdef.tmp.yaml"):
        (tmp_path / name).touch()
    folder.check(resume=False, overwrite=False)
    for name in (".notes.tmp", ".thesis.3.tmp.tex", "checkpoints/mine.ckpt", "features/mine.safetensors", "log.txt"):
        (tmp_path / name).touch()
        with pytest.raises(FileExistsError, match="not empty and holds no run"):
            folder.check(resume=False, overwrite=True)
        (tmp_path / name).unlink()
    folder.lock.write_text("somebody's")  # ours are empty
    with pytest.raises(FileExistsError, match="not empty and holds no run"):
        folder.check(resume=False, overwrite=True)
    with folder.held():
        pass
    assert folder.lock.read_text() == "somebody's"


# ---------------------------------------------------------------- metrics.jsonl


DAMAGED = [
    b"\x00\xff\xfe\x93 junk", b"{", b"[1, 2]", b"7", b"NaN", b'"step"', b'{"loss": 1.0}', b'{"step": "3"}',
    b'{"step": true}', b'{"step": null}', b'{"step": NaN}', b'{"step": 1e999}', b'{"step": 2.5}', b'{"step": -1}',
    b'{"step": [3]}', b"[" * 100_000, b'{"step": ' + b"9" * 5000 + b"}", b'{"step": 3, "loss": 1.0',
]  # fmt: skip


def test_a_damaged_row_costs_none_of_those_behind_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = Folder(tmp_path)
    good = [json.dumps({"step": step, "loss": 0.5}).encode() for step in range(1, len(DAMAGED) + 1)]
    lines = [line for pair in zip(good, DAMAGED) for line in pair]
    content = b"\n".join([*lines, b"", b'{"step": 90, "loss": NaN}', b'{"step": 91, "lo'])
    folder.metrics.write_bytes(content)
    steps = [*range(1, len(DAMAGED) + 1), 90]
    assert [row["step"] for row in folder.rows()] == steps
    assert folder.rows()[-1]["loss"] is None
    assert f"holds {len(DAMAGED)} damaged rows, which are left out" in capfd.readouterr().err
    (tmp_path / "metrics.jsonl.corrupt").write_text("an earlier one")
    folder.cut_metrics(89)
    assert [row["step"] for row in folder.rows()] == steps[:-1]
    assert (tmp_path / "metrics.jsonl.corrupt").read_text() == "an earlier one"
    assert (tmp_path / "metrics.jsonl.corrupt.2").read_bytes() == content
    said = f"held {len(DAMAGED)} damaged rows. The others are kept, and the file as it was as"
    assert said in capfd.readouterr().out
    assert said in folder.log.read_text()
    folder.cut_metrics(5)
    assert [row["step"] for row in folder.rows()] == [1, 2, 3, 4, 5]
    assert not (tmp_path / "metrics.jsonl.corrupt.3").exists(), "a whole file is cut, and not put aside"


def test_rows_of_earlier_versions_have_the_current_names(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    old = {"step": 1, "recognition": 0.8, "recognition_change": 0.1, "recognition_error": 0.02, "retrieval": 0.5}
    new = {"step": 2, "pair_auc": 0.9, "pair_auc_change": 0.2, "pair_auc_error": 0.03, "recognition": 7.0}
    folder.metrics.write_text(f"{json.dumps(old)}\n{json.dumps(new)}\n")
    first, second = folder.rows()
    # a method of one's own may log a metric `retrieval`, and one that is called as ours was
    assert first == {"step": 1, "pair_auc": 0.8, "pair_auc_change": 0.1, "pair_auc_error": 0.02, "retrieval": 0.5}
    assert second == new


# ---------------------------------------------------------------- files from elsewhere


LAUGHS = "\n".join(
    ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
)
"""A billion values in a kilobyte."""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"method: simclr\ndata: p\n{LAUGHS}\nprobe: *a8", "aliases stand for more than 100000 values"),
        ("method: simclr\ndata: p\nprobe: &a [*a]", "aliases stand for values without end"),
        ("method: simclr\ndata: p\nprobe: " + "[" * 100_000, "is nested deeper than options ever are"),
        (f"method: simclr\ndata: p\n? {'x' * 10**6}\n: 1", "nothing is called 'xxx"),
        (f"method: simclr\ndata: p\nepochs: {'x' * 10**6}", "is not a whole number"),
        (f"method: simclr\ndata: p\nprobe: [{'x, ' * 50_000}]", "probe"),
        (f"method: simclr\ndata: p\nviews: [{{size: [{'1, ' * 50_000}]}}]", "is not a whole number"),
        (f"format: {'x' * 10**6}\nmethod: simclr\ndata: p", "this version reads format 1"),
        (f"method: {'x' * 10**6}\ndata: p", "No method is called 'xxx"),
        (f"method: simclr\ndata: p\nepochs: {'1' * 5000}", "is not valid YAML"),
        (f"method: simclr\ndata: p\n? [{'a, ' * 10_000}]\n: 1", ""),
        ("method: simclr\ndata: p\n\x1b[31m: 1", "not valid YAML"),
        ('method: simclr\ndata: p\n"\\e[31m\\n": 1', r"nothing is called '\x1b[31m\n'"),
        ("# " + "x" * 2**21 + "\nmethod: simclr", "is larger than the 2 MiB"),
    ],
)  # fmt: skip
def test_values_of_a_strangers_file_are_cut_in_messages(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        read(tmp_path, text)
    said = str(caught.value)
    assert words in said
    assert len(said) < 3000
    assert said.replace("\n", "").isprintable()


def test_aliases_of_ones_own_stand_for_what_they_name(tmp_path: Path) -> None:
    run = read(tmp_path, "method: simclr\ndata: p\nviews:\n- &v {size: 32, count: 1}\n- *v\n")
    assert [view.size for view in run.method.views] == [32, 32]


def old_run(path: Path) -> Folder:
    folder = Folder(path)
    for file in (folder.run, folder.last, folder.weights, folder.card, folder.metrics, folder.log, folder.views):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("old")
    (path / "notes.txt").write_text("mine")
    return folder


def begin(folder: Folder) -> None:
    folder.wait(folder.log, folder.metrics)
    folder.note("new")
    folder.append({"step": 1})
    folder.claim(resume=False, files={folder.run: b"new", folder.views: b"new"})


def test_kill_9_while_a_run_is_replaced_leaves_one_that_commands_take(tmp_path: Path) -> None:
    """A process of its own dies at the n-th change of the folder."""
    for call in range(1, 100):
        folder = old_run(tmp_path / str(call))
        child = os.fork()
        if child == 0:
            _dying(call)
            begin(folder)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            break
        assert folder.run.read_text() in ("old", "new")
        if folder.last.exists():  # what is left to resume is whole
            assert folder.run.read_text() == folder.weights.read_text() == folder.card.read_text() == "old"
        assert (folder.path / "notes.txt").read_text() == "mine"
        folder.check(resume=True, overwrite=False)
        folder.check(resume=False, overwrite=True)
        begin(Folder(folder.path))
        left = {p.name: p.read_text() for p in folder.path.rglob("*") if p.is_file()}
        assert left == {"run.yaml": "new", "views.png": "new", "log.txt": "new\n", "metrics.jsonl": '{"step": 1}\n',
                        "notes.txt": "mine"}  # fmt: skip
    assert call > 12


def _dying(call: int) -> None:
    calls = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def replacement(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        return replacement

    for name in ("fsync", "rename", "replace", "unlink", "mkdir"):
        setattr(os, name, counted(getattr(os, name)))


def test_a_run_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = old_run(tmp_path / "run")
    before = {p: p.read_bytes() for p in folder.path.rglob("*") if p.is_file()}
    flush, flushed = os.fsync, 0

    def full(handle: int) -> None:
        nonlocal flushed
        flushed += 1
        if flushed == 3:
            raise OSError(28, "No space left on device")
        flush(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="could not be written"):
        begin(folder)
    assert {p: p.read_bytes() for p in folder.path.rglob("*") if p.is_file()} == before


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


def test_a_pipe_in_the_place_of_a_file_makes_no_command_wait(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for path in (folder.log, folder.metrics, folder.lock):
        os.mkfifo(path)
    for act in (lambda: folder.note("x"), lambda: folder.append({"step": 1}), lambda: folder.held().__enter__()):
        with pytest.raises(OSError, match=r"could not be written"):
            act()


def test_a_resumed_run_keeps_what_made_it_and_marks_nothing_that_a_file_named() -> None:
    run = Run(data="photos", method=SimCLR.Config(), probe=("a", "b"))
    begun = yaml.safe_load(runs.run_text(run))
    begun["made"] |= {"versions": {"lookalike": "0.1.0"}, "named_here": ["somebody else's"]}
    again = yaml.safe_load(runs.run_text(run, begun))
    assert again["made"] == begun["made"]
    moved = yaml.safe_load(runs.run_text(dataclasses.replace(run, data="elsewhere"), begun))
    assert moved["made"]["named_here"] == ["somebody else's", marks.mark("elsewhere")]
