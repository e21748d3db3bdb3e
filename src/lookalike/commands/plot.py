"""The command `plot`: training curves of runs, and of the linear probe if there is one. It imports nothing heavy."""

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import atomic, check_output
from ..places import PLOTTED, check_suffix
from ..printing import TOP5_FROM, printable
from ..runs import Folder, Row
from .report.evaluation_data import dictionaries, is_finite

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072b2", "#d55e00", "#008f68", "#b8568f", "#c08a00", "#3ba3d8", "#5b4a9e", "#6b6f73")
"""A palette for colour-blind readers (after Okabe and Ito)."""


def plot(
    runs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str],
    overwrite: bool = False,
) -> Path:
    """Draws training curves of runs in one picture, with the linear probe if there is one.

    The curves are loss and learning rate over steps, and the linear probe's loss, top-1 and top-5 accuracy.

    Args:
        runs: run folders; each is one series.
        out: output file: .png, .pdf or .svg.
        overwrite: replace an existing file.

    Returns:
        The file that was written.

    Raises:
        ValueError: no runs, or an unsupported suffix.
        FileNotFoundError: a folder with neither `metrics.jsonl` nor a linear probe.
        FileExistsError: `out` exists.
        ModuleNotFoundError: matplotlib is not installed.
    """
    folders = [Path(r) for r in ([runs] if isinstance(runs, str | os.PathLike) else runs)]
    path = Path(out)
    if not folders:
        raise ValueError("No run was given. Give at least one run folder.")
    check_suffix(path, PLOTTED)
    check_output(path, overwrite)
    rows = [Folder(folder).rows() for folder in folders]
    probes = [_probe(folder) for folder in folders]
    for folder, found, probe in zip(folders, rows, probes):
        if not found and probe is None:
            raise FileNotFoundError(
                f"{folder} has no metrics.jsonl and no linear probe. Give the folder of a run with at least one step."
            )
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Drawing curves needs matplotlib: pip install 'lookalike[plots]'.") from error
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    trained, probed = any(rows), any(probes)
    figure = Figure(figsize=(11, 3.6 * (trained + probed)), layout="constrained")
    parts = figure.subfigures(trained + probed, 1, squeeze=False)[:, 0]
    from .report.run_data import run_names

    names = [_label(name) for name in run_names(folders)]
    if trained:
        left, right = parts[0].subplots(1, 2)
        _curve(left, names, rows, "loss", "Pretraining: loss", "loss")
        _curve(right, names, rows, "lr", "Pretraining: learning rate", "learning rate")
    if probed:
        histories = [dictionaries(probe.get("history")) if probe else [] for probe in probes]
        tested = any("step" in row and "top1" in row for rows in histories for row in rows)
        left, *middle, right = parts[-1].subplots(1, 3 if tested else 2)
        _curve(left, names, histories, "loss", "Linear probe: loss", "cross-entropy in nats")
        for axes in middle:
            _test_curves(axes, names, histories)
        _accuracies(right, names, probes)
    with atomic(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # characters that the font lacks are drawn as boxes
        figure.savefig(temporary, dpi=150)
    return path


def _label(name: str) -> str:
    """A name escaped for matplotlib, where $ starts a formula and labels that start with _ are hidden."""
    name = printable(name).replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def _probe(folder: Path) -> dict[str, Any] | None:
    """The last entry of a linear probe, without top-5 if there are too few classes."""
    from .report.run_data import read_entries

    found = [e for e in read_entries(folder) if e.get("protocol") == "linear" and is_finite(e.get("top1"))]
    if not found:
        return None
    classes = found[-1].get("classes")
    if isinstance(classes, int) and classes < TOP5_FROM:
        rows = [{k: v for k, v in row.items() if k != "top5"} for row in dictionaries(found[-1].get("history"))]
        return {**found[-1], "history": rows, "top5": None}
    return found[-1]


def _curve(
    axes: "Axes", names: Sequence[str], series: Sequence[Sequence[Row]], key: str, title: str, unit: str
) -> None:
    for i, (name, rows) in enumerate(zip(names, series)):
        points = [(row["step"], row[key]) for row in rows if is_finite(row.get(key)) and is_finite(row.get("step"))]
        if points:
            axes.plot(*zip(*points), color=COLOURS[i % len(COLOURS)], label=name, linewidth=1.5,
                      linestyle="-" if i < len(COLOURS) else "--")  # fmt: skip
    axes.set(title=title, xlabel="optimizer step", ylabel=unit)
    axes.grid(alpha=0.25)
    if axes.lines:
        axes.legend(frameon=False, fontsize="small")


def _test_curves(axes: "Axes", names: Sequence[str], series: Sequence[Sequence[Row]]) -> None:
    """Top-1 and, dotted, top-5 accuracy of the probe on the test images during its training."""
    for i, (name, rows) in enumerate(zip(names, series)):
        for key, style in (("top1", "-"), ("top5", ":")):
            points = [(row["step"], 100 * row[key]) for row in rows if is_finite(row.get(key)) and "step" in row]
            if points:
                colour = COLOURS[i % len(COLOURS)]
                label = f"{name}, {'top-1' if key == 'top1' else 'top-5'}"
                axes.plot(*zip(*points), color=colour, linestyle=style, label=label, linewidth=1.5)
    axes.set(title="Linear probe: test images", xlabel="optimizer step", ylabel="accuracy in %", ylim=(0, 100))
    axes.grid(alpha=0.25)
    if axes.lines:
        axes.legend(frameon=False, fontsize="small")


def _accuracies(axes: "Axes", names: Sequence[str], probes: Sequence[Mapping[str, Any] | None]) -> None:
    """Bars of each run's top-1 accuracy with its interval, and top-5 next to it."""
    for i, probe in enumerate(probes):
        if probe is None:
            continue
        top1, top5 = 100 * probe["top1"], probe.get("top5", math.nan)
        low, high = (100 * v for v in probe.get("interval") or (probe["top1"], probe["top1"]))
        colour = COLOURS[i % len(COLOURS)]
        reach = [[max(0.0, top1 - low)], [max(0.0, high - top1)]]
        bars = ((i - 0.2, top1, 1.0, reach), (i + 0.2, 100 * top5 if is_finite(top5) else None, 0.45, None))
        for x, value, alpha, error in bars:
            if value is None:
                continue
            axes.bar(x, value, 0.38, color=colour, alpha=alpha, yerr=error, capsize=3)
            axes.annotate(
                f"{value:.1f}", (x, 2), ha="center", fontsize="small", color="white" if alpha == 1 else "black"
            )
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.8, max(len(names) - 0.2, 1.8))
    both = any(probe is not None and is_finite(probe.get("top5")) for probe in probes)
    title = "Top-1 (left, 95 % interval) and top-5" if both else "Top-1 (95 % interval)"
    axes.set(title=title, ylabel="accuracy in %", ylim=(0, 100))
