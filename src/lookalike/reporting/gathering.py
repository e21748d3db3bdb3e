"""What a run's folder says, as plain values: configuration, verdict, curves, evaluations."""

import dataclasses
import importlib
import itertools
import json
import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ..methods import METHODS
from ..runs import Folder, Row
from .words import CURVES, MAIN, PROTOCOLS, VERDICTS, settings_in_short

POINTS_OF_A_CURVE = 1000
"""Longer curves are thinned to so many points, of which the extremes stay."""
MATRIX_CLASSES = 40
"""Confusions of more classes are listed, and not drawn."""
PAIRS = 100
"""Confusions that are listed at most."""

ASIDE = ("Views", "Started from", "Device", "Machine", "Versions", "Commit", "Seed")
"""Facts that are folded away."""

_SAID = re.compile(r"(data|model|weights|views|steps|optimizer|device) {2,}(\S.*)")
Content = dict[str, Any]


def name_of(path: Path) -> str:
    """What a run's folder is called."""
    return path.name or path.resolve().name


def run_names(folders: Sequence[Path]) -> list[str]:
    """Names of runs, no two alike: the folder's, or its path where others are called so."""
    short = [name_of(path) for path in folders]
    return [str(path) if short.count(name) > 1 else name for path, name in zip(folders, short)]


def read_entries(path: Path) -> list[Content]:
    """The entries of a run's `evaluation.json`, as they stand there; none where it cannot be read."""
    entries = _json(Folder(path).evaluation, [])
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def is_run(path: Path) -> bool:
    """Whether a folder holds something of a run that a page can show."""
    folder = Folder(path)
    return any(f.is_file() for f in (folder.run, folder.metrics, folder.evaluation, folder.weights))


def run_content(path: Path, name: str) -> Content:
    """All that the page says of one run but its pictures and its map.

    A file that is not there, or that cannot be read, leaves its part out; `problems` says which could not be read.
    """
    folder, problems = Folder(path), list[str]()
    options = _mapping(folder.run, problems)
    card = _json(folder.card, problems)
    rows = folder.rows()
    method = str(options.get("method") or (card or {}).get("method") or "")
    return {
        "name": name,
        "folder": str(path),
        "method": method,
        "title": _title(method, options.get("data")),
        "paper": paper(method),
        "facts": facts(folder, options, card or {}, rows),
        "verdict": verdict(rows),
        "curves": curves(rows),
        "evaluations": evaluations(_json(folder.evaluation, problems)),
        "distillation": _json(folder.distillation, problems),
        "use": use(path, options),
        "problems": problems,
    }


def paper(method: str) -> str:
    """The citation of a method of ours, with its address; empty for a user's own."""
    if method not in METHODS:
        return ""
    text = importlib.import_module(METHODS[method].module).__doc__ or ""
    return " ".join(text.split("\n\n")[0].split()).replace(" -- ", " – ")


def facts(folder: Folder, options: Content, card: Content, rows: Sequence[Row]) -> list[Content]:
    """What was trained on what, as labels and values."""
    said = _said(folder)
    made = options.get("made") or {}
    versions, machine = made.get("versions") or {}, made.get("machine") or {}
    optim = options.get("optim") or {}
    size = options.get("image_size") or card.get("image_size")
    last = rows[-1] if rows else {}
    speeds = sorted(row["images_per_s"] for row in rows if row.get("images_per_s"))
    lr = f"{optim['name']}, learning rate {optim['lr']:g} ({optim.get('scaling')} scaling)" if optim.get("lr") else ""
    found = {
        "Method": METHODS[options["method"]].line if options.get("method") in METHODS else options.get("method"),
        "Images": said.get("data") or options.get("data"),
        "Backbone": said.get("model", "").split(", ", 1)[-1] or options.get("backbone") or card.get("backbone"),
        "Feature": f"{card['dim']} numbers per image" if card.get("dim") else "",
        "Image size": f"{size} x {size} pixels, {options.get('channels', 3)} channels" if size else "",
        "Steps": said.get("steps") or (f"{last['step']}" if last.get("step") else ""),
        "Epochs": f"{card.get('epochs', options.get('epochs', '')):g} of {options['epochs']}"
        if isinstance(options.get("epochs"), int) and isinstance(card.get("epochs"), int | float)
        else options.get("epochs"),
        "Batch": f"{options['batch_size']} images per step" if options.get("batch_size") else "",
        "Optimizer": said.get("optimizer") or lr,
        "Started from": said.get("weights"),
        "Views": said.get("views"),
        "Device": said.get("device"),
        "Speed": f"{speeds[len(speeds) // 2]:,.0f} images/s (median)" if speeds else "",
        "Machine": f"{machine.get('system')}, {machine.get('cores')} cores" if machine else "",
        "Versions": ", ".join(f"{k} {v}" for k, v in versions.items()),
        "Commit": made.get("commit"),
        "Seed": options.get("seed"),
        "Started": str(made.get("date") or "").replace("T", " "),
    }
    return [{"label": k, "value": str(v), "main": k not in ASIDE} for k, v in found.items() if v not in (None, "")]


def verdict(rows: Sequence[Row]) -> dict[str, str] | None:
    """The last verdict, in words, with what it means."""
    row = next((row for row in reversed(rows) if "verdict" in row), None)
    if row is None:
        return None
    word = str(row["verdict"])
    return {
        "word": word,
        "meaning": VERDICTS.get(word, ""),
        "why": str(row.get("why") or ""),
        "remedy": str(row.get("remedy") or ""),
    }


def curves(rows: Sequence[Row]) -> Content:
    """The columns of `metrics.jsonl`, thinned, and the steps of an epoch."""
    names = dict.fromkeys([*CURVES, *(name for row in rows for name in row)])
    series = {}
    for name in names:
        if name in ("step", "epoch"):
            continue
        points = [(row["step"], row[name]) for row in rows if "step" in row and _is_finite(row.get(name))]
        if points and not (name == "skipped" and not any(y for _, y in points)):
            kept = thinned(points)
            series[name] = {"x": [x for x, _ in kept], "y": [float(f"{y:.5g}") for _, y in kept]}
    return {"perEpoch": _steps_per_epoch(rows), "series": series}


def curve_words(names: Sequence[str]) -> Content:
    """Title, unit and explanation of each curve."""
    found = {}
    for name in names:
        curve = CURVES.get(name)
        words = dataclasses.asdict(curve) if curve else {"title": name.replace("_", " "), "unit": "", "note": "",
                                                         "kind": "number"}  # fmt: skip
        found[name] = {**words, "main": name in MAIN}
    return found


def thinned(points: Sequence[tuple[float, float]], most: int = POINTS_OF_A_CURVE) -> list[tuple[float, float]]:
    """At most so many points: of each stretch the lowest and the highest, in their order; the two ends stay."""
    if len(points) <= most:
        return list(points)
    stretches = (most - 2) // 2
    inner = points[1:-1]
    bounds = [len(inner) * i // stretches for i in range(stretches + 1)]
    kept = [points[0]]
    for start, end in itertools.pairwise(bounds):
        part = inner[start:end]
        kept += sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
    return [*kept, points[-1]]


def evaluations(entries: object) -> list[Content]:
    """The entries of `evaluation.json`, newest last, with words; confusions of many classes as pairs."""
    found = []
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, dict) or not _is_finite(entry.get("top1")):
            continue
        protocol = str(entry.get("protocol"))
        title, note = PROTOCOLS.get(protocol, (protocol, ""))
        names = [str(name) for name in entry.get("class_names") or []]
        triples = entry.get("confusion") or []
        settings = entry.get("settings") or {}
        found.append(
            {
                "protocol": protocol,
                "title": title,
                "note": note,
                "settings": settings_in_short(settings),
                "question": json.dumps([protocol, settings, entry.get("data_fingerprint")], sort_keys=True),
                **{k: entry.get(k) for k in ("top1", "top5", "interval", "deviation", "train_images", "test_images",
                                             "classes", "seconds", "date", "per_class", "calibration")},
                "draws": len(entry.get("accuracies") or []),
                "names": names,
                "confusion": triples if len(names) <= MATRIX_CLASSES else [],
                "pairs": confused(triples)[: PAIRS if len(names) > MATRIX_CLASSES else 10],
            }
        )  # fmt: skip
    return found


def confused(triples: Sequence[Sequence[int]]) -> list[tuple[int, int, int, int]]:
    """Pairs of classes that are taken for each other, most often first: true, predicted, count, images of the true."""
    total: dict[int, int] = {}
    for true, _, count in triples:
        total[true] = total.get(true, 0) + count
    return sorted(
        ((true, said, count, total[true]) for true, said, count in triples if true != said),
        key=lambda p: (-p[2], p[:2]),
    )


def use(path: Path, options: Content) -> Content:
    """The lines that use this encoder."""
    train, test = options.get("probe") or ("TRAIN", "TEST")
    data = options.get("data")
    data = data if isinstance(data, str) and not data.startswith("<") else "DATA"
    return {
        "python": (
            "import lookalike\n\n"
            f"encoder = lookalike.load({str(path)!r})  # (B, C, H, W) normalised images -> (B, D) features\n"
            f"features = lookalike.embed(encoder, {data!r}).features  # one row per image"
        ),
        "shell": (
            f"lookalike evaluate {_quoted(path)} {_quoted(train)} {_quoted(test)}\n"
            f"lookalike embed {_quoted(path)} {_quoted(data)} --out embeddings.npz\n"
            f"lookalike show {_quoted(path)} {_quoted(data)} --out show"
        ),
    }


def comparison(path: Path) -> Content:
    """`compare.json` of a folder.

    Raises:
        ValueError: it is no comparison of format 1.
    """
    problems: list[str] = []
    content = _json(path / "compare.json", problems)
    if problems or not isinstance(content, dict) or content.get("format") != 1:
        raise ValueError(
            f"{path / 'compare.json'} is no comparison with format 1{': ' if problems else ''}{' '.join(problems)}. It "
            "may come from a newer lookalike; make it again with `lookalike compare`."
        )
    return content


def _title(method: str, data: object) -> str:
    what = METHODS[method].cls if method in METHODS else method.rsplit(":", 1)[-1] or "Encoder"
    if not isinstance(data, str) or not data:
        return what
    if data.startswith("<"):
        return f"{what} on a {data.strip('<>')}"
    return f"{what} on {'/'.join(Path(data).parts[-2:]).lstrip('/')}"


def _said(folder: Folder) -> dict[str, str]:
    """What the first lines of the last training's log say."""
    try:
        text = folder.log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    return {m[1]: m[2].strip() for line in text.splitlines() if (m := _SAID.match(line))}


def _mapping(path: Path, problems: list[str]) -> Content:
    """`run.yaml` as it is, with what was `made`; `runs.read_yaml` leaves that out."""
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        problems.append(f"{path.name} could not be read: {error}")
        return {}
    if not isinstance(content, dict):
        return {}
    if isinstance(optim := content.get("optim"), dict):
        content["optim"] = {k: _number(v) for k, v in optim.items()}
    return content


def _number(value: object) -> object:
    """PyYAML takes 1e-6 for a text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _json(path: Path, problems: list[str]) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problems.append(f"{path.name} could not be read: {error}")
        return None


def _steps_per_epoch(rows: Sequence[Row]) -> float | None:
    """The last step of each epoch has a row."""
    first = next((row for row in rows if row.get("epoch") == 1), None)
    if first is not None:
        return float(first["step"])
    last = rows[-1] if rows else {}
    return last["step"] / last["epoch"] if last.get("epoch") else None


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _quoted(path: object) -> str:
    text = str(path)
    return text if text in ("TRAIN", "TEST", "DATA") else shlex.quote(text)
