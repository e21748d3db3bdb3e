"""Folders of runs that something happened to: damaged, made by hand, or from a stranger who means harm."""

import json
import os
import pickle
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from .corpus import Case, dealt, drawn, odd
from .odd_files import FORGED, Rng, Trap


def run_case(place: Path, index: int, run: Path) -> tuple[Path, Case]:
    """A copy of a run that something happened to. `place / "treasure"` holds what no command may touch."""
    rng = drawn("run", index)
    case = Case("run", index, place)
    copy = place / (odd(rng) + " run")
    shutil.copytree(run, copy)
    treasure = place / "treasure"
    treasure.mkdir()
    for name in ("a.safetensors", "last.ckpt", "notes.txt", "run.yaml"):
        (treasure / name).write_bytes(rng.bytes(500))
    for damage in dealt(DAMAGES, "damages", index, 2):
        case.about.append(damage.__name__)
        said = damage(copy, treasure, rng)
        case.about.append(f"  {said}")
    return copy, case


FILES = ("run.yaml", "metrics.jsonl", "encoder.json", "encoder.safetensors", "evaluation.json", "log.txt",
         "checkpoints/last.ckpt", "checkpoints/last.before.ckpt", "checkpoints/epoch=2.ckpt", "features", "checkpoints",
         "views.png", "report.html")  # fmt: skip


def _some_file(run: Path, rng: Rng) -> Path:
    there = [run / name for name in FILES if (run / name).is_file()]
    return there[rng.integers(len(there))] if there else run / "run.yaml"


def _gone(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)


def file_removed(run: Path, treasure: Path, rng: Rng) -> str:
    path = run / FILES[rng.integers(len(FILES))]
    _gone(path)
    return path.name


def file_emptied(run: Path, treasure: Path, rng: Rng) -> str:
    path = _some_file(run, rng)
    path.write_bytes(b"")
    return path.name


def file_cut(run: Path, treasure: Path, rng: Rng) -> str:
    path = _some_file(run, rng)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * rng.uniform(0, 1))])
    return path.name


def bits_flipped(run: Path, treasure: Path, rng: Rng) -> str:
    path = _some_file(run, rng)
    content = bytearray(path.read_bytes()) or bytearray(1)
    for at in rng.integers(0, len(content), 3):
        content[at] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)
    return path.name


def file_of_noise(run: Path, treasure: Path, rng: Rng) -> str:
    path = _some_file(run, rng)
    path.write_bytes(rng.bytes(300))
    return path.name


def folder_in_its_place(run: Path, treasure: Path, rng: Rng) -> str:
    path = _some_file(run, rng)
    _gone(path)
    path.mkdir(parents=True)
    return path.name


def file_in_a_folders_place(run: Path, treasure: Path, rng: Rng) -> str:
    path = run / ["checkpoints", "features"][rng.integers(2)]
    _gone(path)
    path.write_bytes(b"x")
    return path.name


def pipe_in_its_place(run: Path, treasure: Path, rng: Rng) -> str:
    path = _some_file(run, rng)
    _gone(path)
    os.mkfifo(path)
    return path.name


def dangling_link_in_its_place(run: Path, treasure: Path, rng: Rng) -> str:
    path = run / FILES[rng.integers(len(FILES))]
    _gone(path)
    path.symlink_to(["nowhere", path.name, "/dev/zero", treasure / "new"][rng.integers(4)])
    return f"{path.name} -> {os.readlink(path)}"


def link_to_the_treasure(run: Path, treasure: Path, rng: Rng) -> str:
    """A run from a stranger that would have us write, or remove, elsewhere."""
    path = run / FILES[rng.integers(len(FILES))]
    is_folder = path.name in ("features", "checkpoints")
    _gone(path)
    path.symlink_to(treasure if is_folder else treasure / "notes.txt")
    return f"{path.name} -> {os.readlink(path)}"


def temporary_links(run: Path, treasure: Path, rng: Rng) -> str:
    """Names that could be foretold, linked elsewhere."""
    for name in ("encoder", "run", "metrics", "evaluation", "report", "last", "views", "log"):
        for suffix in (".safetensors", ".yaml", ".json", ".jsonl", ".html", ".ckpt", ".png", ".txt"):
            for folder in (run, run / "checkpoints"):
                if folder.is_dir() and not folder.is_symlink():
                    (folder / f".{name}.{os.getpid()}.tmp{suffix}").symlink_to(treasure / "notes.txt")
    return "of this process"


def foreign_files(run: Path, treasure: Path, rng: Rng) -> str:
    """What somebody else put there: it is left as it is."""
    for name in ("notes.txt", "features/mine.safetensors", "checkpoints/mine.ckpt", "checkpoints/notes.corrupt",
                 "mine/x", "checkpoints/epoch=x.ckpt", "tensorboard/mine.txt", ".mine.tmp"):  # fmt: skip
        path = run / name
        if not path.parent.is_symlink() and (path.parent.is_dir() or not path.parent.exists()):
            path.parent.mkdir(exist_ok=True)
            path.write_text("MINE")
    return "beside"


def _many_aliases() -> str:
    """A list of 9**6 lists."""
    lists = [f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]" for i in range(6)]
    return "\n".join(["a0: &a0 [1, 1]", *lists, "epochs: *a6"])


def odd_yaml(run: Path, treasure: Path, rng: Rng) -> str:
    lines = (
        "epochs: many", "epochs: 10000000000000000000000", "seed: 2020-01-01", "unknown: 3", "method: evil:Class",
        "method: 3", "data: 3", "data: [a, b]", f'data: "gone\\e[31m\\n{FORGED}"', "probe: 3", "probe: [a]",
        "out: /elsewhere", "format: 99", "format: x", "channels: 0", "batch_size: -1", "backbone: no_such_network",
        "optim: 3", "optim: {lr: .nan}", "optim: {lr: 1e400}", "views: 3", "views: []", "image_size: 1000000000",
        "temperature: text", "x: !!python/object/apply:os.mkdir [TRAPPED]", "made: 3", "made: {versions: 3}",
        "made: {machine: [1]}", "x: &a [*a]", "{", "\t", "workers: 10000", "precision: fp7", "devices: 64",
        _many_aliases(),
        "x: " + "[" * 5000, "? [a, b]\n: c", "1: 2", "null: null", "init: /dev/zero", "logger: evil", "given: 3",
        "teacher: x", "max_broken: .inf", "hidden_dim: 100000000000", "accumulate: 999", "save_every: 0",
    )  # fmt: skip
    return _lines(run / "run.yaml", [lines[i] for i in rng.integers(0, len(lines), 1)], rng)


def odd_rows(run: Path, treasure: Path, rng: Rng) -> str:
    lines = (
        '{"epoch": 1, "loss": 3}', '{"step": "x"}', '{"step": null, "loss": 1}', '{"step": -5, "loss": 1}', "[1, 2]",
        '{"step": 1', "NaN", '{"step": NaN, "loss": Infinity}', "null", '{"step": 1e400}', '{"step": 3, "loss": "x"}',
        '{"step": 2, "verdict": 3, "why": [], "remedy": {}}', f'{{"step": 2, "verdict": "\\u001b[31m\\n{FORGED}"}}',
        "[" * 100_000, '{"a":' * 50_000, '{"step": 99999999999999999999999999, "loss": 1}', "\x1b[31m", "\ufeff{}",
        '{"step": 1, "epoch": true, "images_per_s": []}', '{"step": 1, "\\u001b[31m": 3}', "x" * 100_000,
        '{"step": ' + "9" * 5000 + "}",
    )  # fmt: skip
    return _lines(run / "metrics.jsonl", [lines[i] for i in rng.integers(0, len(lines), 2)], rng)


def _lines(path: Path, lines: Sequence[str], rng: Rng) -> str:
    """Puts lines between those of a file."""
    if not path.is_file() or path.is_symlink():
        return "not there any more"
    there = path.read_text(errors="replace").splitlines()
    at = int(rng.integers(0, len(there) + 1)) if path.suffix == ".jsonl" else len(there)
    path.write_text("\n".join([*there[:at], *lines, *there[at:]]) + "\n", errors="replace")
    return ascii([line[:80] for line in lines])


ODD_VALUES: tuple[object, ...] = (
    None, 3, -1, 0, 10**30, 0.5, float("nan"), float("inf"), "text", "", f"\x1b[31m\n{FORGED}", [], {}, [3],
    [0.0, 0.0, 0.0], [[]], {"a": 1}, True, "x" * 10_000, [None], ["a", "b", "c"], [10**400], "../../../etc/passwd",
)  # fmt: skip


def odd_json(run: Path, treasure: Path, rng: Rng) -> str:
    path = run / ["encoder.json", "evaluation.json", "evaluation.json", "encoder.json"][rng.integers(4)]
    if not path.is_file() or path.is_symlink():
        return "not there any more"
    if rng.integers(4) == 0:
        whole = ("", "{", "[]", "null", "3", '"x"', "[" * 100_000, '{"a":' * 50_000, "[3, null, []]", "NaN", "[{}]",
                 '[{"format": 1}]', "\ufeff[]", "9" * 5000)  # fmt: skip
        text = whole[rng.integers(len(whole))]
    else:
        try:
            content = json.loads(path.read_text(errors="replace"))
        except ValueError:
            return "no JSON any more"
        for _ in range(2):
            entry = content[0] if isinstance(content, list) and content else content
            if isinstance(entry, dict) and entry:
                key = sorted(entry)[rng.integers(len(entry))]
                if rng.integers(4):
                    entry[key] = ODD_VALUES[rng.integers(len(ODD_VALUES))]
                else:
                    del entry[key]
        text = json.dumps(content)
    path.write_text(text)
    return f"{path.name}: {ascii(text)[:300]}"


def trapped_checkpoint(run: Path, treasure: Path, rng: Rng) -> str:
    path = run / "checkpoints" / "last.ckpt"
    if not path.is_file() or path.is_symlink():
        return "not there any more"
    content: object = [Trap(), {"lookalike": Trap()}, {}, [], {"lookalike": {}}, {"lookalike": {"format": 99}},
                       {"lookalike": {"format": 1, "data": 3}, "global_step": "x"}][rng.integers(7)]  # fmt: skip
    path.unlink()  # it may have a second name
    torch.save(content, path)
    return ascii(content)[:100]


def trapped_encoder(run: Path, treasure: Path, rng: Rng) -> str:
    """Weights of another network, or none, under the run's card."""
    path = run / "encoder.safetensors"
    if not path.is_file() or path.is_symlink():
        return "not there any more"
    path.unlink()
    if rng.integers(2):
        path.write_bytes(pickle.dumps(Trap()))
        return "a pickle"
    save_file({"a": torch.zeros(3)}, path)
    return "another network"


def only_the_encoder(run: Path, treasure: Path, rng: Rng) -> str:
    for path in run.iterdir():
        if path.name not in ("encoder.safetensors", "encoder.json"):
            _gone(path)
    return "is left"


DAMAGES: tuple[Callable[[Path, Path, Rng], str], ...] = (
    file_removed, file_emptied, file_cut, bits_flipped, file_of_noise, folder_in_its_place, file_in_a_folders_place,
    pipe_in_its_place, dangling_link_in_its_place, link_to_the_treasure, temporary_links, foreign_files, odd_yaml,
    odd_yaml, odd_yaml, odd_rows, odd_rows, odd_json, odd_json, odd_json, trapped_checkpoint, trapped_encoder,
    only_the_encoder, link_to_the_treasure,
)  # fmt: skip
