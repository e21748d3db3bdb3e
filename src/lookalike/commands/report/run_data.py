"""The content of a run's folder as plain values: configuration, verdict, curves, evaluations."""

import dataclasses
import importlib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...encoders import card_within
from ...files import read_json
from ...foreign import class_of, is_tag
from ...methods import METHODS
from ...printing import brief, counted, pasteable, plural
from ...runs import Folder, Row, located, parse_yaml
from ...runs.start import words
from .evaluation_data import dictionaries, evaluations, is_finite
from .labels import CURVES, MAIN, VERDICTS, Curve

POINTS_OF_A_CURVE = 1000
"""Maximum number of points of a curve. Longer ones are thinned, keeping extremes."""

COLLAPSED = (
    "Views",
    "Initial weights",
    "Device",
    "Options set by you",
    "Options fitted to the data",
    "Machine",
    "Versions",
    "Commit",
    "Seed",
)
"""Facts that are collapsed on the page."""

Content = dict[str, Any]


def name_of(path: Path) -> str:
    """The name of a run's folder."""
    return path.name or path.resolve().name


def run_names(folders: Sequence[Path]) -> list[str]:
    """Unique names of runs: the folder's name, or its path if several have the same name."""
    short = [name_of(path) for path in folders]
    return [str(path) if short.count(name) > 1 else name for path, name in zip(folders, short)]


def read_entries(path: Path) -> list[Content]:
    """The entries of a run's `evaluation.json`; empty if it cannot be read."""
    return dictionaries(_json(Folder(path).evaluation, []))


def run_content(path: Path, name: str) -> Content:
    """The content of a page for one run, without pictures and map.

    Parts whose files are missing or unreadable are left out; `problems` names unreadable files.
    """
    folder, problems = Folder(path), list[str]()
    options = read_options(folder.run, problems)
    card = _record(folder.card, problems)
    if (own := card_within(folder.weights)) is not None:
        card |= own  # a training killed between writing the two files leaves an older card
    rows = folder.rows() if is_own(folder.metrics, problems) else []
    method = str(options.get("method") or card.get("method") or "")

    def part(name: str, build: Callable[[], object], default: object) -> Any:
        try:
            return build()
        except Exception as error:  # files may have any content; the other parts are still shown
            problems.append(f"{name} could not be shown: {type(error).__name__}: {brief(str(error))}")
            return default

    return {
        "name": name,
        "folder": str(path),
        "method": method,
        "title": part("The title", lambda: _title(method, options.get("data")), name),
        "paper": part("The paper", lambda: paper(method), ""),
        "facts": part("The facts", lambda: facts(folder, options, card, rows, problems), []),
        "verdict": part("The verdict", lambda: verdict(rows), None),
        "classifies": method in METHODS and METHODS[method].verb == "finetune",
        "curves": part("The curves", lambda: curves(rows), {"perEpoch": None, "series": {}}),
        "evaluations": part("The evaluations", lambda: evaluations(_json(folder.evaluation, problems)), []),
        "distillation": _record(folder.distillation, problems) or None,
        "use": part("The usage", lambda: use(path, options), use(path, {})),
        "problems": problems,
    }


def paper(method: str) -> str:
    """The citation and URL of a built-in method; empty for user-defined ones."""
    if method not in METHODS:
        return ""
    text = importlib.import_module(METHODS[method].module).__doc__ or ""
    return " ".join(text.split("\n\n")[0].split()).replace(" -- ", " – ")


def facts(folder: Folder, options: Content, card: Content, rows: Sequence[Row], problems: list[str]) -> list[Content]:
    """The configuration of a run, as labels and values."""
    start = _start_facts(folder.start, problems)
    made = options.get("made") or {}
    versions, machine = made.get("versions") or {}, made.get("machine") or {}
    optim = options.get("optim") or {}
    size = options.get("image_size") or card.get("image_size")
    last = rows[-1] if rows else {}
    speeds = sorted(row["images_per_s"] for row in rows if row.get("images_per_s") and is_finite(row["images_per_s"]))
    rate = f"{optim['lr']:g}" if is_finite(optim.get("lr")) else optim.get("lr")
    lr = f"{optim.get('name')}, learning rate {rate} ({optim.get('scaling')} scaling)" if rate else ""
    found = {
        "Method": METHODS[options["method"]].line if options.get("method") in METHODS else options.get("method"),
        "Images": start.get("data") or options.get("data"),
        "Backbone": start.get("model", "").split(", ", 1)[-1] or options.get("backbone") or card.get("backbone"),
        "Features": _counted(card["dim"], "dimension") if card.get("dim") else "",
        "Image size": f"{size} x {size} pixels, {_counted(options.get('channels', 3), 'channel')}" if size else "",
        "Steps": start.get("steps") or (f"{last['step']}" if last.get("step") else ""),
        "Epochs": f"{card.get('epochs', options.get('epochs', '')):g} of {options['epochs']}"
        if isinstance(options.get("epochs"), int) and isinstance(card.get("epochs"), int | float)
        else options.get("epochs"),
        "Batch size": f"{_counted(options['batch_size'], 'image')} per step" if options.get("batch_size") else "",
        "Optimizer": start.get("optimizer") or lr,
        "Initial weights": start.get("weights"),
        "Views": start.get("views"),
        "Device": start.get("device"),
        "Speed": f"{speeds[len(speeds) // 2]:,.0f} images/s (median)" if speeds else "",
        "Options set by you": _named(options, "user"),
        "Options fitted to the data": _named(options, "fitted"),
        "Machine": f"{machine.get('system')}, {machine.get('cores')} cores" if machine else "",
        "Versions": ", ".join(f"{k} {v}" for k, v in versions.items()),
        "Commit": made.get("commit"),
        "Seed": options.get("seed"),
        "Started": str(made.get("date") or "").replace("T", " "),
    }
    return [{"label": k, "value": str(v), "main": k not in COLLAPSED} for k, v in found.items() if v not in (None, "")]


def verdict(rows: Sequence[Row]) -> dict[str, str] | None:
    """The last verdict, with its meaning, reason and remedy."""
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
        points = [(row["step"], row[name]) for row in rows if is_finite(row.get("step")) and is_finite(row.get(name))]
        if points and not (name == "skipped" and not any(y for _, y in points)):
            points = thinned(points)
            series[name] = {"x": [x for x, _ in points], "y": [float(f"{y:.5g}") for _, y in points]}
    return {"perEpoch": _steps_per_epoch(rows), "series": series}


def curve_labels(names: Sequence[str]) -> Content:
    """Title, unit and explanation of each curve."""
    found = {}
    for name in names:
        curve = CURVES.get(name) or Curve(name.replace("_", " "), "", "")
        found[name] = {**dataclasses.asdict(curve), "main": name in MAIN}
    return found


def thinned(points: Sequence[tuple[float, float]], limit: int = POINTS_OF_A_CURVE) -> list[tuple[float, float]]:
    """At most `limit` points: the minimum and maximum of each interval in their order, and both ends."""
    if len(points) <= limit:
        return list(points)
    intervals = (limit - 2) // 2
    inner = points[1:-1]
    bounds = [len(inner) * i // intervals for i in range(intervals + 1)]
    kept = [points[0]]
    for start, end in itertools.pairwise(bounds):
        part = inner[start:end]
        kept += sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
    return [*kept, points[-1]]


def use(path: Path, content: Content) -> Content:
    """Code and commands that use this encoder."""
    options: Content = located(content)
    path = path if path.name else path.resolve()  # "." would be wrong in another directory
    train, test = options.get("probe") or ("TRAIN", "TEST")
    data = options.get("data")
    data = data if isinstance(data, str) and not is_tag(data) else "DATA"
    return {
        "python": (
            "import lookalike\n\n"
            f"encoder = lookalike.load({str(path)!r})  # (B, C, H, W) normalised images -> (B, D) features\n"
            f"features = lookalike.embed(encoder, {data!r}).features  # one row per image"
        ),
        "shell": (
            f"{pasteable('lookalike', 'evaluate', path, train, test)}\n"
            f"{pasteable('lookalike', 'embed', path, data, '--out', 'embeddings.npz')}\n"
            f"{pasteable('lookalike', 'show', path, data, '--out', 'show')}"
        ),
    }


def comparison(path: Path) -> Content:
    """`compare.json` of a folder.

    Raises:
        ValueError: it is not a comparison of format 1.
    """
    problems: list[str] = []
    content = _json(path / "compare.json", problems)
    if problems or not isinstance(content, dict) or content.get("format") != 1:
        raise ValueError(
            f"{path / 'compare.json'} is not a comparison of format 1{': ' if problems else ''}{' '.join(problems)}. "
            "It may be from a newer version; repeat it with `lookalike compare` and another --out."
        )
    return {**content, **{name: dictionaries(content.get(name)) for name in ("ranking", "trainings")}}


def _title(method: str, data: object) -> str:
    name = METHODS[method].cls if method in METHODS else method.rsplit(":", 1)[-1] or "Encoder"
    if not isinstance(data, str) or not data:
        return name
    if is_tag(data):
        return f"{name} on a {class_of(data)}"
    return f"{name} on {'/'.join(Path(data).parts[-2:]).lstrip('/')}"


def _named(options: Content, origin: str) -> str:
    """The options whose values are from the user or derived from the data, as recorded in `run.yaml`."""
    origins = options.get("origins")
    names = origins.get(origin) if isinstance(origins, dict) else None
    return ", ".join(map(str, names)) if isinstance(names, list) else ""


def _start_facts(path: Path, problems: list[str]) -> dict[str, str]:
    """The facts of `start.json` as text; empty if the file is missing, as in runs of version 0.1."""
    content = _record(path, problems)
    if not content:
        return {}
    try:
        return words(content)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        problems.append(f"{path.name} could not be read: {type(error).__name__}: {error}")
        return {}


def read_options(path: Path, problems: list[str]) -> Content:
    """The content of `run.yaml`, including `made`, which `runs.read_yaml` leaves out."""
    if not is_own(path, problems):
        return {}
    try:
        return parse_yaml(path)
    except (OSError, ValueError) as error:
        problems.append(f"{path.name} could not be read: {error}")
        return {}


def is_own(path: Path, problems: list[str]) -> bool:
    """Whether a file exists in its run's folder. A link in an untrusted folder could point to any file."""
    if not path.is_file():
        return False
    if path.resolve().is_relative_to(path.parent.resolve()):
        return True
    problems.append(f"{path.name} is a link to a file outside of the run's folder, and is left out.")
    return False


def _record(path: Path, problems: list[str]) -> Content:
    """The object in a JSON file; empty for other content."""
    content = _json(path, problems)
    if content is not None and not isinstance(content, dict):
        problems.append(f"{path.name} is not a JSON object, and is left out.")
    return content if isinstance(content, dict) else {}


def _json(path: Path, problems: list[str]) -> Any:
    if not is_own(path, problems):
        return None
    try:
        return read_json(path, object)
    except (OSError, ValueError) as error:
        problems.append(f"{path.name} could not be read: {error}")
        return None


def _steps_per_epoch(rows: Sequence[Row]) -> float | None:
    """Steps per epoch, from the row at the end of the first epoch, or else from the last row."""
    first = next((row for row in rows if row.get("epoch") == 1 and is_finite(row.get("step"))), None)
    if first is not None:
        return float(first["step"])
    last = rows[-1] if rows else {}
    return last["step"] / last["epoch"] if last.get("epoch") and last.get("step") else None


def _counted(value: object, noun: str) -> str:
    """A value from a file, of any type, with its noun."""
    return counted(value, noun) if isinstance(value, int | float) else f"{value} {plural(noun)}"
