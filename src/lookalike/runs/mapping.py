"""Conversion of a run to the content of `run.yaml` and back: the options, the method's fields and the environment.

The file is as flat as the command line. `made` has the versions and the machine, which reading ignores.
"""

import dataclasses
import os
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import yaml

from .. import marks
from ..durations import seconds_of
from ..files import FORMAT, atomic
from ..foreign import module_tag, tag
from ..methods import METHODS, get_method
from ..names import nearest_names
from ..printing import LONGEST_VALUE, brief, cut, printable, shown
from . import origins
from .environment import here, made
from .options import Options, Run
from .yaml import located, read_yaml

if TYPE_CHECKING:
    from ..core import Config, Method

T = TypeVar("T")

_MAY_CHANGE = frozenset(
    {
        "epochs",
        "time",
        "workers",
        "cache_dir",
        "devices",
        "nodes",
        "strategy",
        "logger",
        "save_every",
        "keep_checkpoints",
        "out",
        "fit",
        "max_broken",
        "data",
        "probe",
        "test",
        "teacher",
        "on_collapse",
        "only",
        "columns.path",
        "columns.group",
        "columns.split",
    }
)
"""Options that may change with `--resume`. (Of paths the content is compared: names of images, weights.)"""


def method_name(cfg: "Config") -> str:
    """`dino` for a method of the library, `package.module:Class` for a user's own."""
    owner = cfg.method
    for name, entry in METHODS.items():
        if (entry.module, entry.cls) == (owner.__module__, owner.__qualname__):
            return name
    return f"{owner.__module__}:{owner.__qualname__}"


def plain(value: object) -> object:
    """Dataclasses, tuples and paths as mappings, lists and strings, in the order of their fields."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        content = {f: plain(vars(value)[f.name]) for f in dataclasses.fields(value)}
        # 0 in a field of floats is 0.0, before and after a round trip
        return {f.name: float(v) if f.type is float and isinstance(v, int) else v for f, v in content.items()}
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def flat(run: Run) -> dict[str, object]:
    """The run as in `run.yaml`: the options and the method's fields at one level."""
    content: dict[str, object] = {"method": method_name(run.method)}
    content["data"] = plain(run.data) if isinstance(run.data, str | os.PathLike) else tag(type(run.data).__qualname__)
    for f in dataclasses.fields(Options):
        if f.name in ("resume", "overwrite"):
            continue  # they are about the folder, not about the run
        value = getattr(run, f.name)
        content[f.name] = plain(value) if f.name != "backbone" or isinstance(value, str) else module_name(value)
    return content | typing.cast(dict[str, object], plain(run.method))


def module_name(module: object) -> str:
    """How files name a user's module; an encoder from `load` has a name of its own."""
    from ..backbones import Backbone

    if isinstance(module, Backbone):
        return module.name
    return module_tag(module)


def run_text(run: Run, begun: Mapping[str, object] | None = None) -> str:
    """The content of `run.yaml`: the run, with the versions, the commit and the machine.

    Args:
        begun: the whole file of a resumed run. Its environment stays, and its paths of images are marked as the
            user's own only if they were before, or if this command named others.
    """
    before = begun or {}
    known = {
        place
        for content in (before, located(before))
        for place in (*typing.cast(list[object], content.get("probe") or ()), content.get("data"))
    }
    own = [place for place in (run.data, *(run.probe or ())) if isinstance(place, str | os.PathLike)]
    named_here = [marks.mark(place) for place in own if plain(place) not in known]
    by = dict(typing.cast(Mapping[str, object], m)) if isinstance(m := before.get("made"), dict) else made()
    by["directory"] = here()  # the paths of this run are relative to it
    marked = by.get("named_here")
    by["named_here"] = list(dict.fromkeys([*(marked if isinstance(marked, list) else ()), *named_here]))
    content = {"format": FORMAT} | flat(run) | {"origins": origins.written(run.origins), "made": by}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)


def write_run(run: Run, path: Path) -> None:
    """Writes `run.yaml`."""
    with atomic(path) as temporary:
        temporary.write_text(run_text(run), encoding="utf-8")


def read_run(path: str | os.PathLike[str], method: "type[Method] | None" = None) -> Run:
    """Reads a `Run` from YAML. Missing values have their defaults; `method` is needed for a user's own class.

    Raises:
        ValueError: an unknown key (with the nearest name), a value of another type, or no method.
    """
    content = read_yaml(path)
    name = content.pop("method", None)
    if method is None:
        if not isinstance(name, str):
            raise ValueError(f"{path} names no method. Add a line like 'method: simclr'.")
        if name not in METHODS and ":" in name:
            raise ValueError(
                f"{path} asks for {shown(name)}, your own class: pass it from Python, read_run(path, method=...)."
            )
        method = get_method(name)
    if not isinstance(content.get("data"), str):
        raise ValueError(f"{path} names no data. Add a line like 'data: photos/'.")
    return from_mapping(content, method, str(path))


def from_mapping(content: Mapping[str, object], method: "type[Method]", where: str) -> Run:
    """Builds a `Run` from flat options and method fields. `where` names the source in messages."""
    defaults = method.Config()  # type: ignore[call-arg]
    options = [f.name for f in dataclasses.fields(Options)]
    fields = [f.name for f in dataclasses.fields(defaults)]
    rest = {k: v for k, v in content.items() if k not in ("data", "origins")}
    check_keys(rest, [*kinds_of(Options), *kinds_of(method.Config), "data"], where)
    stated = {k: v for k, v in rest.items() if k in fields}
    merged = _merged(typing.cast(dict[str, object], plain(defaults)), stated)
    cfg = structured(merged, method.Config, where)
    chosen = structured({k: v for k, v in rest.items() if k in options}, Options, where)
    values = {f.name: getattr(chosen, f.name) for f in dataclasses.fields(Options)}
    if "origins" in content:
        known = origins.read(content["origins"], where)
    else:  # written by hand or by an earlier version
        known = origins.by_user([*dotted(stated), *(name for name in rest if name in options)])
        if chosen.time is not None and "epochs" in rest:
            known["epochs"] = "fitted"
    return Run(**values, data=typing.cast(str, content["data"]), method=cfg, origins=known)


def structured(value: object, kind: type[T], where: str, at: str = "") -> T:
    """Converts a value from a file to a type.

    Args:
        where: the file.
        at: the path in it with a leading dot, such as `.optim.lr`; empty for the whole.

    Raises:
        ValueError: it has another type, or the type rejects it.
    """
    from cattrs import Converter, transform_error

    converter = Converter()
    converter.register_structure_hook(float, _to_float)
    converter.register_structure_hook(int, _to_int)
    converter.register_structure_hook(bool, _to_bool)
    converter.register_structure_hook(str, _to_str)
    try:
        return converter.structure(value, kind)
    except Exception as error:
        if isinstance(error, ExceptionGroup):
            causes = transform_error(error, at, format_exception=_why)
        else:
            causes = [f"{_why(error, kind)} @ {at}" if at else str(error)]
        reasons = cut("; ".join(map(_cause, causes)), 2000)
        raise ValueError(f"{where}: {reasons}. Correct it, or leave that option out.") from None


def _why(error: BaseException, kind: object) -> str:
    """Our own message about a value, or the expected type if a library raised the error."""
    if isinstance(error, ValueError) or kind is None:
        return str(error)
    return f"expected {kind.__name__ if isinstance(kind, type) else str(kind).replace('typing.', '')}"


def _cause(text: str) -> str:
    """The message of cattrs about a value, and its path, with a long value cut."""
    reason, at, path = text.rstrip(" @").rpartition(" @ .")
    reason, path = (cut(printable(part), 2 * LONGEST_VALUE) for part in (reason, path))
    return f"{reason}, at {path}" if at else path


def _to_float(value: object, _: type) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{shown(value)} is not a number")
    return float(value)


def _to_int(value: object, _: type) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{shown(value)} is not a whole number")
    return value


def _to_bool(value: object, _: type) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{shown(value)} is neither true nor false")
    return value


def _to_str(value: object, _: type) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is not a text")
    return value


def _merged(defaults: Mapping[str, object], stated: Mapping[str, object]) -> dict[str, object]:
    """Merges stated values into the defaults; a list replaces the whole list."""
    merged = dict(defaults)
    for key, value in stated.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def kinds_of(cls: type, at: str = "") -> dict[str, object]:
    """The types of all fields of a dataclass by dotted names; `views.*.blur` stands for each item of a tuple."""
    hints = typing.get_type_hints(cls)
    found: dict[str, object] = {}
    for name in (f.name for f in dataclasses.fields(cls)):
        first, *_ = typing.get_args(hints[name]) or [None]
        for part, kind in (("", hints[name]), ("*.", first)):
            if dataclasses.is_dataclass(kind):
                found |= kinds_of(typing.cast(type, kind), f"{at}{name}.{part}")
                break
        else:
            found[f"{at}{name}"] = hints[name]
    return found


def check_keys(content: object, known: Sequence[str], where: str, at: str = "") -> None:
    """Raises an error for unknown keys at any depth; the known ones are given by dotted names."""
    parts = [name.partition(".") for name in known]
    keys = list(dict.fromkeys(first for first, _, _ in parts))
    if isinstance(content, Mapping) and keys and keys != ["*"]:
        for key, value in content.items():
            if key not in keys:
                raise no_key(where, at, str(key), keys)
            check_keys(value, [rest for first, _, rest in parts if first == key and rest], where, f"{at}{key}.")
    elif isinstance(content, list) and keys == ["*"]:
        for i, item in enumerate(content):
            check_keys(item, [rest for _, _, rest in parts], where, f"{at}{i}.")


def no_key(where: str, at: str, key: str, known: Sequence[str]) -> ValueError:
    """The error for an unknown key below the path `at`, with the nearest known keys, or all."""
    near = nearest_names(key, known, cutoff=0.7)
    if near:
        advice = f"Did you mean {' or '.join(f'{at}{name}' for name in near)}?"
    else:
        advice = f"Known{f' in {at[:-1]}' if at else ''}: {', '.join(sorted(known)[:20])}."
    return ValueError(f"{where}: unknown key {shown(f'{at}{key}')}. {advice}")


def dotted(content: object, at: str = "") -> dict[str, object]:
    """A nested mapping as one level of dotted names: {"views.0.blur": 0.5}."""
    if isinstance(content, Mapping):
        items: Iterator[tuple[object, object]] = iter(content.items())
    elif isinstance(content, list) and any(isinstance(v, Mapping) for v in content):
        items = iter(enumerate(content))
    else:
        return {at: content}
    return {k: v for key, value in items for k, v in dotted(value, f"{at}.{key}" if at else str(key)).items()}


def check_same_time(path: Path, then: object, now: str | None) -> None:
    """Raises an error for another time limit of a resumed run: its schedule was computed for the first one.

    Args:
        path: the run's folder.
        then: the time limit in its `run.yaml`.
        now: the requested one.
    """
    if now is not None and (not isinstance(then, str) or seconds_of(then) != seconds_of(now)):
        raise ValueError(
            f"{path} was started {f'with --time {brief(then)}' if then else 'without --time'}, and a resumed run keeps "
            "its number of steps. Leave --time out, or ask for more with --epochs."
        )


OF_MEMORY = ("accumulate", "joint_loss", "checkpoint_activations")
"""Options that may change when a run is resumed that has run out of memory."""


def differences(old: Mapping[str, object], new: Mapping[str, object], may_change: Collection[str] = ()) -> list[str]:
    """One line per changed option that must not change when a run is resumed.

    Args:
        may_change: further options that may change.
    """
    a, b = dotted(dict(old)), dotted(dict(new))
    lines = []
    for key in dict.fromkeys([*a, *b]):
        if not {key, key.split(".")[0]} & {*_MAY_CHANGE, *may_change} and a.get(key) != b.get(key):
            lines.append(f"{brief(key)}: {brief(a.get(key))} in the run, {brief(b.get(key))} now")
    before, now = old.get("epochs"), new.get("epochs")
    if isinstance(before, int) and isinstance(now, int) and now < before:
        lines.append(f"epochs: {before} in the run, {now} now (only more are allowed)")
    return lines
