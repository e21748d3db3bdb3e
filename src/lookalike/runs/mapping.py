"""A run as `run.yaml` holds it, and back: the options, the method's own fields beside them, and what made it.

It is as flat as the command line. Under `made` are the versions and the machine, which reading ignores.
"""

import dataclasses
import os
import typing
from collections.abc import Iterator, Mapping, Sequence
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
    }
)
"""Options that `--resume` may give another value. (Of places what is in them is compared: names of images, weights.)"""


def method_name(cfg: "Config") -> str:
    """`dino` for a method of ours, `package.module:Class` for a user's own."""
    owner = cfg.method
    for name, entry in METHODS.items():
        if (entry.module, entry.cls) == (owner.__module__, owner.__qualname__):
            return name
    return f"{owner.__module__}:{owner.__qualname__}"


def plain(value: object) -> object:
    """Dataclasses, tuples and paths as mappings, lists and texts, in the order of their fields."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        content = {f: plain(vars(value)[f.name]) for f in dataclasses.fields(value)}
        # 0 in a field of floats is 0.0, before and after a round trip
        return {f.name: float(v) if f.type is float and isinstance(v, int) else v for f, v in content.items()}
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def flat(run: Run) -> dict[str, object]:
    """The run as `run.yaml` holds it: the method's fields beside the options."""
    content: dict[str, object] = {"method": method_name(run.method)}
    content["data"] = plain(run.data) if isinstance(run.data, str | os.PathLike) else tag(type(run.data).__qualname__)
    for f in dataclasses.fields(Options):
        if f.name in ("resume", "overwrite"):
            continue  # they say what to do with the folder once, not what the run is
        value = getattr(run, f.name)
        content[f.name] = plain(value) if f.name != "backbone" or isinstance(value, str) else module_name(value)
    return content | typing.cast(dict[str, object], plain(run.method))


def module_name(module: object) -> str:
    """What stands in files for a module of the user's; an encoder that `load` gave has a name."""
    from ..backbones import Backbone

    if isinstance(module, Backbone):
        return module.name
    return module_tag(module)


def run_text(run: Run, begun: Mapping[str, object] | None = None) -> str:
    """What stands in `run.yaml`: the run, with the versions, the commit and the machine that made it.

    Args:
        begun: all of the file of a run that is resumed. What made it stays, and its places of images are marked as the
            user's own only where they were, or where this command named others.
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
    by["directory"] = here()  # from where the paths of this run count
    marked = by.get("named_here")
    by["named_here"] = list(dict.fromkeys([*(marked if isinstance(marked, list) else ()), *named_here]))
    content = {"format": FORMAT} | flat(run) | {"origins": origins.written(run.origins), "made": by}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)


def write_run(run: Run, path: Path) -> None:
    """Writes `run.yaml`."""
    with atomic(path) as temporary:
        temporary.write_text(run_text(run), encoding="utf-8")


def read_run(path: str | os.PathLike[str], method: "type[Method] | None" = None) -> Run:
    """Reads a `Run` from YAML. What the file leaves out has its default; `method` is needed for a user's own class.

    Raises:
        ValueError: a key that nothing knows (with the nearest name), a value of another type, no method.
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
    check_keys(rest, [*options, *kinds_of(method.Config), "data"], where)
    stated = {k: v for k, v in rest.items() if k in fields}
    merged = _merged(typing.cast(dict[str, object], plain(defaults)), stated)
    cfg = structured(merged, method.Config, where)
    chosen = structured({k: v for k, v in rest.items() if k in options}, Options, where)
    values = {f.name: getattr(chosen, f.name) for f in dataclasses.fields(Options)}
    if "origins" in content:
        known = origins.read(content["origins"], where)
    else:  # written by hand, or by an earlier version
        known = origins.by_user([*dotted(stated), *(name for name in rest if name in options)])
        if chosen.time is not None and "epochs" in rest:
            known["epochs"] = "fitted"
    return Run(**values, data=typing.cast(str, content["data"]), method=cfg, origins=known)


def structured(value: object, kind: type[T], where: str, at: str = "") -> T:
    """A value of a file as a type.

    Args:
        where: the file.
        at: the place in it with a dot in front, such as `.optim.lr`; nothing for the whole.

    Raises:
        ValueError: it is of another type, or the type refuses it.
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
        told = cut("; ".join(map(_cause, causes)), 2000)
        raise ValueError(f"{where}: {told}. Correct it, or leave that option out.") from None


def _why(error: BaseException, kind: object) -> str:
    """Our own words on a value, or what was expected where a library stumbled over it."""
    if isinstance(error, ValueError) or kind is None:
        return str(error)
    return f"expected {kind.__name__ if isinstance(kind, type) else str(kind).replace('typing.', '')}"


def _cause(text: str) -> str:
    """What cattrs says of a value, and where it is, without all of the value."""
    said, at, place = text.rstrip(" @").rpartition(" @ .")
    said, place = (cut(printable(part), 2 * LONGEST_VALUE) for part in (said, place))
    return f"{said}, at {place}" if at else place


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
    """Lays stated values over the defaults; a list replaces a list as a whole."""
    merged = dict(defaults)
    for key, value in stated.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def kinds_of(cls: type, at: str = "") -> dict[str, object]:
    """The types of all fields of a dataclass by dotted names. `views.*.blur` is of each item of a tuple."""
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
    """Refuses keys that are not among the known ones, which are given by dotted names, at any depth."""
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
    """What is raised of a key that is not `known` below the path `at`: the keys that it may be a slip of, or all."""
    near = nearest_names(key, known, cutoff=0.7)
    if near:
        advice = f"Did you mean {' or '.join(f'{at}{name}' for name in near)}?"
    else:
        advice = f"Known{f' in {at[:-1]}' if at else ''}: {', '.join(sorted(known)[:20])}."
    return ValueError(f"{where}: nothing is called {shown(f'{at}{key}')}. {advice}")


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
    """Refuses another time for a run that is resumed: its schedule was made for the one that it began with.

    Args:
        path: the run's folder.
        then: the time in its `run.yaml`.
        now: the one that is asked for.
    """
    if now is not None and (not isinstance(then, str) or seconds_of(then) != seconds_of(now)):
        raise ValueError(
            f"{path} was begun {f'with --time {brief(then)}' if then else 'without --time'}, and a resumed run keeps "
            "its number of steps. Leave --time out, or ask for more with --epochs."
        )


def differences(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """What keeps a run from being resumed: one line per option that may not change and did."""
    a, b = dotted(dict(old)), dotted(dict(new))
    lines = []
    for key in dict.fromkeys([*a, *b]):
        if key.split(".")[0] not in _MAY_CHANGE and a.get(key) != b.get(key):
            lines.append(f"{brief(key)}: {brief(a.get(key))} in the run, {brief(b.get(key))} now")
    before, now = old.get("epochs"), new.get("epochs")
    if isinstance(before, int) and isinstance(now, int) and now < before:
        lines.append(f"epochs: {before} in the run, {now} now (more are allowed, fewer are not)")
    return lines
