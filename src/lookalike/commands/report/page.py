"""The content of a page about one or several runs."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...data import Data
from ...foreign import is_tag
from ...marks import is_marked
from ...printing import LONGEST_PATH, brief, counted, pasteable, printable
from ...runs import Folder, directory_of, located, version
from ...runs.lookup import holds_run
from .gallery import Gallery, run_pictures
from .run_data import Content, comparison, curve_labels, name_of, read_entries, read_options, run_content, run_names

Say = Callable[[str], None]


def page_content(
    folders: Sequence[Path], images: "Data | None", points: int, workers: int, say: Say
) -> tuple[str, dict[str, object]]:
    """The page's title, and its content by the ids of its elements."""
    chosen = _chosen(folders)
    names = run_names(chosen.shown)
    runs = [run_content(path, name) for path, name in zip(chosen.shown, names)]
    groups = _grouped(chosen.shown, names, runs, chosen.trained_of)
    gallery = Gallery(max(1, points // max(1, len(chosen.mapped))), workers, say)
    notes: list[str] = []
    for path, name, run in zip(chosen.shown, names, runs):
        mapped = path in chosen.mapped
        data, refused = (images, None) if images is not None else _own_images(path)
        run["pictures"], run["shown"] = [], mapped or not chosen.comparisons
        _add_pictures(run, path, data if mapped else None, say)
        if mapped and Folder(path).weights.is_file():
            notes += _add_map(gallery, path, name, data, refused)
    title = _title(chosen.comparisons, runs)
    content = {
        "title": f"Comparison{'s' if len(chosen.comparisons) > 1 else ''}: {title}" if chosen.comparisons else title,
        "version": version(),
        "date": time.strftime("%d %B %Y, %H:%M").lstrip("0"),
        "runs": runs,
        "groups": groups,
        "comparisons": chosen.comparisons,
        "curves": curve_labels(list(dict.fromkeys(key for run in runs for key in run["curves"]["series"]))),
        "mapNotes": notes,
    }
    return f"{title} - lookalike", {"report": content, "maps": {"sets": gallery.sets, "maps": gallery.maps}}


@dataclass
class _Chosen:
    """The runs and comparisons of a page."""

    comparisons: list[Content] = field(default_factory=list)
    shown: list[Path] = field(default_factory=list)
    """Folders of all runs."""
    mapped: list[Path] = field(default_factory=list)
    """Folders of runs with a map: of a comparison, one run of the best method."""
    trained_of: dict[Path, tuple[int, str, int]] = field(default_factory=dict)
    """Comparison index, method and seed of runs that belong to a comparison."""


def _chosen(folders: Sequence[Path]) -> _Chosen:
    """The runs and comparisons of some folders."""
    chosen = _Chosen()
    for folder in folders:
        if not (folder / "compare.json").is_file():
            chosen.shown.append(folder)
            chosen.mapped.append(folder)
            continue
        found = comparison(folder)
        trained = _trainings(folder, found)
        chosen.trained_of |= {path: (len(chosen.comparisons), *key) for key, path in trained.items()}
        chosen.comparisons.append({**found, "name": name_of(folder), "folder": str(folder)})
        chosen.shown += trained.values()
        best = [ranked.get("method") for ranked in found["ranking"][:1]]
        chosen.mapped += [path for (method, _), path in trained.items() if method in best][:1]
    return chosen


def _add_pictures(run: Content, path: Path, data: "Data | None", say: Say) -> None:
    """Adds a run's pictures; of a run that is not shown, removes the details of its evaluations."""
    if not run["shown"]:
        for entry in run["evaluations"]:
            entry |= {"per_class": [], "confusion": [], "pairs": [], "calibration": None}
        return
    try:
        run["pictures"] = run_pictures(path, data, say)
    except (OSError, ValueError) as error:
        run["problems"].append(f"Pictures: {error}")


def _add_map(gallery: Gallery, path: Path, name: str, data: "Data | None", refused: str | None) -> list[str]:
    """Adds the map of a run's embedding of `data`; returns a note if there is no map."""
    label = printable(name)
    if data is None and refused is not None:
        note = (
            f"{label}: its files name the images {brief(refused)}, which you have not used in a command on this "
            "machine. To show them: "
            f"{pasteable('lookalike', 'report', path, '--images', brief(refused, LONGEST_PATH))}"
            f"{'.' + hint if (hint := _hint(refused)) else ''}"
        )
        gallery.say(f"map of {note}")
        return [note]
    if data is None:
        return [f"{name}: its images are not in a folder or list. Give --images FOLDER."]
    try:
        gallery.add(name, path, data)
    except Exception as error:  # a page without a map is better than none
        gallery.say(f"map of {label}: left out. {error}")
        return [f"{name}: {error}{_hint(data)}"]
    return []


def _title(comparisons: Sequence[Content], runs: Sequence[Content]) -> str:
    """The comparisons' names, the title of a single run, or the number of runs."""
    if comparisons:
        return " and ".join(found["name"] for found in comparisons)
    return str(runs[0]["title"]) if len(runs) == 1 else f"{counted(len(runs), 'run')}"


def _own_images(path: Path) -> tuple[str | None, str | None]:
    """The images of a run's map, or otherwise the first images that its files name but that may not be shown.

    Candidates are the test images of its probe, of its evaluations, and its training images. Only images that the user
    named on this machine are shown: the files of an untrusted run could name any private folder.
    """
    stored = read_options(Folder(path).run, [])
    options = located(stored)
    made, probe = options.get("made"), options.get("probe")
    marks = made.get("named_here") if isinstance(made, dict) else None
    probed = probe[1] if isinstance(probe, list) and len(probe) == 2 else None
    directory = directory_of(stored)
    tests = [
        (_located_test(entry.get("test"), directory), entry.get("named_here")) for entry in reversed(read_entries(path))
    ]
    refused = None
    for images, marked_by in ((probed, marks), *tests, (options.get("data"), marks)):
        if not isinstance(images, str) or not images or is_tag(images):
            continue
        if not is_marked(images, marked_by):
            refused = refused or images
        elif (images, marked_by) not in tests or os.path.isdir(images):
            return images, None
    return None, refused


def _located_test(images: object, directory: str | None) -> object:
    """The path of test images: relative to the current directory, or to that in which the run was started."""
    if not isinstance(images, str) or not images or directory is None or os.path.exists(images):
        return images
    joined = os.path.join(directory, images)
    return joined if os.path.exists(joined) else images


def _hint(data: object) -> str:
    """Advice for a relative path that does not exist."""
    if not isinstance(data, str) or os.path.isabs(data) or os.path.exists(data):
        return ""
    return (
        " The path is relative to the folder in which the training was started: run the command there, or give "
        "--images FOLDER."
    )


def _grouped(
    shown: Sequence[Path], names: Sequence[str], runs: Sequence[Content], trained_of: dict[Path, tuple[int, str, int]]
) -> list[Content]:
    """Sets the `group` of each run; returns the groups: all seeds of a compared method, or a single run."""
    several = len({found[0] for found in trained_of.values()}) > 1
    groups: dict[tuple[int, str], Content] = {}
    for path, name, run in zip(shown, names, runs):
        run["of"], run["trained"], run["seed"] = trained_of.get(path, (-1, name, 0))
        key = (run["of"], str(path) if run["of"] < 0 else run["trained"])
        suffix = f", {path.parent.name}" if several and run["of"] >= 0 else ""
        run["later"] = key in groups
        group = groups.setdefault(key, {"name": f"{run['trained']}{suffix}", "of": run["of"], "method": run["trained"]})
        run["group"] = list(groups).index(key)
        group["size"] = group.get("size", 0) + 1
    return list(groups.values())


def _trainings(folder: Path, found: Content) -> dict[tuple[str, int], Path]:
    """The existing folders of a comparison's trainings, by method and seed."""
    trained = {}
    for training in found["trainings"]:
        method, seed = training.get("method"), training.get("seed")
        if not isinstance(method, str) or not isinstance(seed, int):
            continue
        path = folder / Path(f"{method}-seed{seed}").name  # inside the comparison, whatever its file says
        # neither a path nor a link may lead out of the comparison
        if path.is_dir() and holds_run(path) and path.resolve().parent == folder.resolve():
            trained[(method, seed)] = path
    return trained
