"""Cards of encoders: what a file says of itself is checked before it is believed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lookalike import cli, encoders
from lookalike.backbones import create
from lookalike.runs import Folder, write_json


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
    save_file(state, path, metadata={"lookalike": text, "sha256": encoders._digest(state)})
    return out


WRONG = [
    ({"std": [0.0, 1.0, 1.0]}, "says that std is"),
    ({"std": [1e-30] * 3}, "says that std is"),
    ({"mean": [0.5]}, "says that mean is"),
    ({"mean": [float("nan")] * 3}, "says that mean is"),
    ({"mean": "0.5"}, "says that mean is"),
    ({"image_size": 1_000_000}, "says that image_size is 1000000; expected a whole number from 1 to 16384"),
    ({"image_size": -1}, "says that image_size is -1"),
    ({"image_size": "64"}, "says that image_size is '64'"),
    ({"image_size": True}, "says that image_size is True"),
    ({"channels": 0, "mean": [], "std": []}, "says that channels is 0"),
    ({"dtype": "float8"}, "says that dtype is 'float8'; expected uint8, uint16, float32"),
    ({"dim": None}, "says that dim is None"),
    ({"dim": 7}, "says that it gives 7 numbers per image"),
    ({"backbone": ["resnet18"]}, "says that backbone is"),
    ({"backbone": "x" * 10**6}, "There is no backbone 'xxx"),
    ({"backbone": "hf-hub:somebody/something"}, "There is no backbone"),
    ({"stem": "huge"}, "says that stem is 'huge'"),
    ({"interpolation": 5}, "says that interpolation is 5"),
    ({"epochs": -1}, "says that epochs is -1"),
    ({"format": 2}, "has format 2, this version reads format 1. Update lookalike."),
    ({"format": "x" * 10**6}, "has format 'xxx"),
    ({"classes": []}, "says that classes is []"),
    ({"classes": ["a", "a"]}, "says that classes is"),
    ({"classes": "ab"}, "says that classes is 'ab'"),
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
        ("[]", "describes no encoder"),
        ("null", "describes no encoder"),
        ('{"format": 1}', "does not say backbone, stem"),
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
    with pytest.raises(ValueError, match="says that std is"):
        encoders.start_from(net, str(rewritten(made, tmp_path / "odd", card)))
    with pytest.raises(ValueError, match="says that std is"):
        encoders.image_size(tmp_path / "odd")
    for said in (5, {"mean": "x", "std": [1, 1, 1]}, {"mean": [0, 0, 0], "std": [0, 0, 0]}, {}):
        torch.save({"state_dict": net.export_state(), "lookalike": said}, tmp_path / "last.ckpt")
        with pytest.raises(ValueError, match="does not say how images are normalised"):
            encoders.start_from(net, str(tmp_path / "last.ckpt"))


def test_what_we_write_is_read(made: Path) -> None:
    card = encoders.read_card(Folder(made))
    assert encoders.load(made).dim == card.dim
    write_json(Folder(made).card, {**json.loads(Folder(made).card.read_text()), "of_a_later_version": 1})
    assert encoders.read_card(Folder(made)).channels == 3
