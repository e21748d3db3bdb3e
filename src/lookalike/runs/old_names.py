"""Options that were renamed. Their old names are accepted until version 0.3."""

from collections.abc import Mapping

OLD_NAMES = {"normalise": "normalize"}
"""Each old name, with the new one."""


def renamed(content: Mapping[str, object]) -> dict[str, object]:
    """The options of a run with their new names, also in its `origins`. A mapping that has both is left with both."""
    new = {_new_name(name, content): value for name, value in content.items()}
    if isinstance(origins := new.get("origins"), Mapping):
        new["origins"] = {
            origin: [OLD_NAMES.get(each, each) if isinstance(each, str) else each for each in names]
            if isinstance(names, list)
            else names
            for origin, names in origins.items()
        }
    return new


def _new_name(name: str, content: Mapping[str, object]) -> str:
    new = OLD_NAMES.get(name, name)
    return name if new in content else new
