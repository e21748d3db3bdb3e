"""Cards of encoders: what a file says of itself is checked before it is believed."""

import argparse
import io
import json
import os
import re
import shlex
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from safetensors.torch import load_file, save_file
from support import tiny

from lookalike import cli, encoders
from lookalike.backbones import create
from lookalike.encoders import load, start_from
from lookalike.files import write_json
from lookalike.runs import Folder
from lookalike.tensor_file import state_sha256


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Folder(tmp_path_factory.mktemp("made"))
    torch.manual_seed(0)
    net = create("test_byobnet", image_size=32)
    encoders.save(folder, net, method="simclr", epochs=1, dtype=torch.uint8)
    return folder.path


def rewritten(made: Path, out: Path, card: object) -> Path:
    """The same weights, which say something else of themselves."""
    shutil.copytree(made, out)
    path = Folder(out).weights
    state = load_file(path)
    text = card if isinstance(card, str) else json.dumps(card)
    save_file(state, path, metadata={"lookalike": text, "sha256": state_sha256(state)})
    return out


WRONG = [
    ({"std": [0.0, 1.0, 1.0]}, "has std "),
    ({"std": [1e-30] * 3}, "has std "),
    ({"mean": [0.5]}, "has mean "),
    ({"mean": [float("nan")] * 3}, "has mean "),
    ({"mean": "0.5"}, "has mean "),
    ({"image_size": 1_000_000}, "has image_size 1000000; expected an integer from 1 to 16384"),
    ({"image_size": -1}, "has image_size -1"),
    ({"image_size": "64"}, "has image_size '64'"),
    ({"image_size": True}, "has image_size True"),
    ({"channels": 0, "mean": [], "std": []}, "has channels 0"),
    ({"dtype": "float8"}, "has dtype 'float8'; expected uint8, uint16, float32"),
    ({"dim": None}, "has dim None"),
    ({"dim": 7}, "states a feature dimension of 7"),
    ({"backbone": ["resnet18"]}, "has backbone "),
    ({"backbone": "x" * 10**6}, "There is no backbone 'xxx"),
    ({"backbone": "hf-hub:somebody/something"}, "There is no backbone"),
    ({"stem": "huge"}, "has stem 'huge'"),
    ({"interpolation": 5}, "has interpolation 5"),
    ({"epochs": -1}, "has epochs -1"),
    ({"format": 2}, "has format 2, this version reads format 1. Update lookalike."),
    ({"format": "x" * 10**6}, "has format 'xxx"),
    ({"classes": []}, "has classes []"),
    ({"classes": ["a", "a"]}, "has classes "),
    ({"classes": "ab"}, "has classes 'ab'"),
]


@pytest.mark.parametrize(("change", "words"), WRONG)
def test_a_card_with_a_value_that_no_encoder_has_is_refused(
    change: dict[str, Any], words: str, made: Path, tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = json.loads(Folder(made).card.read_text()) | change
    odd = rewritten(made, tmp_path / "odd", card)
    argv = ["embed", str(odd), str(photos), "--out", str(tmp_path / "e.npz"), "--workers", "0"]
    assert cli.main(argv) == 1
    said = capsys.readouterr().err
    assert words in said
    assert len(said) < 1000
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ("[" * 100_000, "nested more than"),
        ("[]", "does not describe an encoder"),
        ("null", "does not describe an encoder"),
        ('{"format": 1}', "it lacks backbone, stem"),
        ("no JSON", "is not JSON"),
    ],
)
def test_a_card_that_is_none_is_refused(card: str, words: str, made: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        encoders.load(rewritten(made, tmp_path / "odd", card))
    folder = Folder(tmp_path / "odd")
    folder.card.write_text(card)
    with pytest.raises(ValueError, match=words):
        encoders.read_card(folder)


def test_every_way_to_start_from_weights_checks_their_card(made: Path, tmp_path: Path) -> None:
    card = json.loads(Folder(made).card.read_text()) | {"std": [0, 0, 0]}
    net = create("test_byobnet", image_size=32)
    with pytest.raises(ValueError, match="has std "):
        encoders.start_from(net, str(rewritten(made, tmp_path / "odd", card)))
    with pytest.raises(ValueError, match="has std "):
        encoders.image_size(tmp_path / "odd")
    for said in (5, {"mean": "x", "std": [1, 1, 1]}, {"mean": [0, 0, 0], "std": [0, 0, 0]}, {}):
        torch.save({"state_dict": net.export_state(), "lookalike": said}, tmp_path / "last.ckpt")
        with pytest.raises(ValueError, match="without the normalisation of its images"):
            encoders.start_from(net, str(tmp_path / "last.ckpt"))


def test_what_we_write_is_read(made: Path) -> None:
    card = encoders.read_card(Folder(made))
    assert encoders.load(made).dim == card.dim
    write_json(Folder(made).card, {**json.loads(Folder(made).card.read_text()), "of_a_later_version": 1})
    assert encoders.read_card(Folder(made)).channels == 3


def test_a_folder_whose_name_is_no_utf8_is_opened(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copytree(made, folder)
    assert encoders.load(folder).dim == encoders.load(made).dim
    assert encoders.start_from(create("test_byobnet", image_size=32), str(folder))


def test_a_pipe_in_the_place_of_weights_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "encoder.safetensors")
    assert encoders.card_within(tmp_path / "encoder.safetensors") is None


def test_an_empty_name_is_no_encoder_of_this_folder(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    for open_it in (encoders.load, lambda name: encoders.start_from(create("test_byobnet", image_size=32), name)):
        with pytest.raises(FileNotFoundError, match="Give a run"):
            open_it("")


def test_weights_whose_checksums_do_not_hold_are_refused(tmp_path: Path) -> None:
    """torch itself looks at none, and loads the wrong numbers."""
    net = create("test_byobnet", image_size=32)
    path = tmp_path / "weights.pth"
    torch.save(net.export_state(), path)
    content = bytearray(path.read_bytes())
    content[content.index(net.export_state()["stem.conv.weight"].numpy().tobytes()) + 3] ^= 64
    path.write_bytes(content)
    before = net.export_state()["stem.conv.weight"].clone()
    with pytest.raises(ValueError, match=r"wrong checksum of \S+\)\. Give another file, or copy it again"):
        encoders.start_from(net, str(path))
    assert torch.equal(net.export_state()["stem.conv.weight"], before)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x.to(torch.int8), "of another type: .*int8"),
        (lambda x: x > 0, "of another type: .*bool"),
        (lambda x: x * float("nan"), "with NaN, as after a training that diverged: "),
        (lambda x: x.to(torch.complex64), "is torch.complex64, torch.strided. Save dense tensors of real numbers"),
        (lambda x: x.to_sparse(), "is torch.float32, torch.sparse_coo. Save dense"),
        (lambda x: x.to("meta"), "is a meta tensor. Save dense"),
    ],
)
def test_weights_that_are_no_real_numbers_are_refused(
    change: Callable[[torch.Tensor], torch.Tensor], words: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    net = create("test_byobnet", image_size=32)
    state = {k: change(v) if v.is_floating_point() and v.ndim > 1 else v for k, v in net.export_state().items()}
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=words):
        encoders.start_from(net, str(tmp_path / "weights.pth"))
    assert not recwarn.list


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_taken(dtype: torch.dtype, tmp_path: Path) -> None:
    net, fresh = create("test_byobnet", image_size=32), create("test_byobnet", image_size=32)
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in net.export_state().items()}
    torch.save(state, tmp_path / "weights.pth")
    encoders.start_from(fresh, str(tmp_path / "weights.pth"))
    assert all(torch.equal(v, state[k].to(v.dtype)) for k, v in fresh.export_state().items())


def test_a_file_with_objects_is_refused_with_what_it_holds_and_what_to_do(tmp_path: Path) -> None:
    """torch's own message of many lines proposes to run what is in the file."""
    net, path = create("test_byobnet", image_size=32), tmp_path / "weights.pth"
    torch.save({"state_dict": net.export_state(), "args": argparse.Namespace(lr=0.1)}, path)
    with pytest.raises(
        ValueError, match=r"^[^\n]* contains an argparse.Namespace\. Only files of plain tensors"
    ) as refused:
        encoders.start_from(net, str(path))
    checkpoint = {"state_dict": net.export_state(), "args": argparse.Namespace(lr=0.1)}
    programs = re.findall(r"torch\.save\(.*?, path\)", str(refused.value))
    assert len(programs) == 2
    for program in programs:
        exec(program, {"torch": torch, "model": net.net, "checkpoint": checkpoint, "path": path})
        fresh = create("test_byobnet", image_size=32)
        encoders.start_from(fresh, str(path))
        assert_same(fresh.export_state(), net.export_state())
    for content in (b"", b"PK\x03\x04", b"\x80\x02}q\x00.", b"<html>"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"(Give another file, or copy it again|save only the tensors)"):
            encoders.start_from(net, str(path))


# ---------------------------------------------------------------- wrappings


def run_the_advice(message: str) -> None:
    """Runs the Python program that a message proposes, as a shell would pass it on."""
    found = re.search(r"with `(python -c .*)`\.$", message, re.DOTALL)
    assert found, message
    python, option, program = shlex.split(found[1])
    assert (python, option) == ("python", "-c")
    exec(program, {})


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.fixture(scope="module")
def plain() -> dict[str, torch.Tensor]:
    """A network's tensors, all different from those of a new one."""
    return {k: v + 1 for k, v in create("test_byobnet", image_size=32).export_state().items()}


def beneath(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in state.items()}


def loaded_each_way(content: object, path: Path) -> list[tuple[dict[str, torch.Tensor], str]]:
    """What `--init`, and `--encoder-backbone` or `--teacher-backbone`, make of a file, and what they say of it."""
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    made = create("test_byobnet", image_size=32)
    line = encoders.start_from(made, str(path))
    named = encoders.load(path, "test_byobnet")
    return [(made.export_state(), line), (named.export_state(), named.remark)]


@pytest.mark.parametrize(
    "prefix",
    ["model.", "_orig_mod.", "module.", "backbone.", "encoder.", "model.net.", "module._orig_mod.", "student.backbone.",
     "net.body.stem.", "stages.", "a.b.c.d."],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_any_prefix_below_which_a_network_lies_is_removed(
    prefix: str, suffix: str, plain: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    for found, _ in loaded_each_way(beneath(prefix, plain), tmp_path / f"weights{suffix}"):
        assert_same(found, plain)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"model_state_dict": s, "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 0.1}]}},
        lambda s: {"model": s, "epoch": 3},
        lambda s: {"net": beneath("module.", s), "acc": 93.2},
        lambda s: {"checkpoint": {"state_dict": beneath("backbone.", s)}},
        lambda s: {"model": {"encoder": s, "head": {"weight": torch.zeros(3, 4)}}},
        lambda s: {"anything": beneath("_orig_mod.", s)},
        lambda s: {"teacher": s, "student": {k: v + 3 for k, v in s.items()}},
        lambda s: {"model": beneath("student.backbone.", {k: v + 3 for k, v in s.items()})
                   | beneath("teacher.backbone.", s)},
    ],
)  # fmt: skip
def test_a_network_is_found_in_nested_mappings(
    wrap: Callable[[dict[str, torch.Tensor]], object], plain: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    for found, said in loaded_each_way(wrap(plain), tmp_path / "weights.pth"):
        assert_same(found, plain)
        assert "averaged" not in said


@pytest.mark.parametrize(
    ("wrap", "chosen", "left"),
    [
        (lambda raw, ema: {"state_dict": raw, "state_dict_ema": ema}, "state_dict_ema", "state_dict"),
        (lambda raw, ema: {"model": raw, "model_ema": beneath("module.", ema)}, "model_ema.module", "model"),
        (lambda raw, ema: {"model_state_dict": raw, "ema_state_dict": ema}, "ema_state_dict", "model_state_dict"),
        (lambda raw, ema: {"state_dict": beneath("model.", raw) | beneath("ema_model.", ema)},
         "state_dict.ema_model", "state_dict.model"),
        (lambda raw, ema: beneath("model.", raw) | beneath("ema.module.", ema), "ema.module", "model"),
    ],
)  # fmt: skip
def test_averaged_weights_are_preferred_and_said(
    wrap: Callable[..., object], chosen: str, left: str, plain: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    raw = {name: value + 5 for name, value in plain.items()}
    for found, said in loaded_each_way(wrap(raw, plain), tmp_path / "weights.pth"):
        assert_same(found, plain)
        assert f"the averaged weights in {chosen}, not those in {left}" in said


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_two_networks_that_fit_alike_are_refused_with_a_command_that_parts_them(
    suffix: str, plain: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    other = {name: value + 5 for name, value in plain.items()}
    contents: list[object] = [beneath("first.", plain) | beneath("second.", other)]
    if suffix == ".pth":
        contents += [{"first": plain, "second": other}, {"all": {"first": plain, "second": other}}]
    for content in contents:
        path = tmp_path / f"it's weights{suffix}"
        with pytest.raises(
            ValueError, match=r"several networks that match: (all\.)?first and (all\.)?second"
        ) as refused:
            loaded_each_way(content, path)
        run_the_advice(str(refused.value))
        (alone,) = tmp_path.glob(f"it's weights-*first{suffix}")
        made = create("test_byobnet", image_size=32)
        encoders.start_from(made, str(alone))
        assert_same(made.export_state(), plain)
        alone.unlink()


def test_a_network_of_another_file_is_not_taken_for_a_part_of_it(
    plain: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """A prefix that only some names fit is none: the refusal names the tensors as before."""
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": beneath("model.", timm.create_model("test_resnet").state_dict())}, path)
    made = create("test_byobnet", image_size=32)
    with pytest.raises(ValueError, match="unexpected: "):
        encoders.start_from(made, str(path))


def test_a_vit_of_dinov2_is_recognised_below_any_prefix(tmp_path: Path) -> None:
    state = timm.create_model("vit_small_patch14_dinov2.lvd142m", num_classes=0).state_dict()
    torch.save({"checkpoint": {"model_ema": beneath("module.encoder.", state)}}, tmp_path / "weights.pth")
    found = encoders.load(tmp_path / "weights.pth")
    assert found.name == "vit_small_patch14_dinov2.lvd142m"
    assert torch.equal(found.net.blocks[3].attn.qkv.weight, state["blocks.3.attn.qkv.weight"])
    assert "averaged weights in checkpoint.model_ema" in found.remark


def test_commands_say_that_averaged_weights_were_taken(
    plain: dict[str, torch.Tensor], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": {k: v + 5 for k, v in plain.items()}, "model_ema": plain}, tmp_path / "weights.pth")
    argv = [str(tmp_path / "weights.pth"), str(photos), "--encoder-backbone", "test_byobnet", "--image-size", "32"]
    for verb, out in (("embed", "a.npz"), ("show", "pictures")):
        assert cli.main([verb, *argv, "--workers", "0", "--out", str(tmp_path / out)]) == 0
        assert "weights: the averaged weights in model_ema, not those in model\n" in capsys.readouterr().out
    assert cli.main(["embed", *argv[:-3], "resnet10t", *argv[-2:], "--out", str(tmp_path / "b.npz")]) == 1


def test_files_that_hold_no_weights_are_named_by_what_they_hold(tmp_path: Path) -> None:
    backbone = create(tiny.CNN, image_size=32)
    script = io.BytesIO()
    with zipfile.ZipFile(script, "w") as archive:
        archive.writestr("net/constants.pkl", b"x")
    arrays = io.BytesIO()
    np.savez(arrays, weight=np.zeros(3))
    tensors = io.BytesIO()
    torch.save({}, tensors)
    listed = io.BytesIO()
    torch.save([{"weight": torch.zeros(3)}], listed)
    for content, words in (
        (b"", r"contains nothing \(0 bytes\)"),
        (b"\x89HDF\r\n", r"contains HDF5 \(Keras\), not weights"),
        (b"<!DOCTYPE html>", "contains a web page or XML, not weights"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS"),
        (script.getvalue(), "contains a TorchScript program"),
        (arrays.getvalue(), r"contains NumPy arrays \(\.npz\)"),
        (safetensors.torch.save({"x": torch.zeros(3)}), r"safetensors: rename it to end in \.safetensors"),
        (tensors.getvalue(), "contains nothing, but no named tensors"),
        (listed.getvalue(), "contains a list, but no named tensors"),
    ):
        (tmp_path / "x.pth").write_bytes(content)
        for use in (
            partial(start_from, backbone, str(tmp_path / "x.pth")),
            partial(load, tmp_path / "x.pth", tiny.CNN),
        ):
            with pytest.raises(ValueError, match=words):
                use()
