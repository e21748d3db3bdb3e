"""The texts of the source that advise something, as they stand there: what is put into one is a NUL."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import lookalike

SOURCE = Path(lookalike.__file__).parent


class Text(NamedTuple):
    """A text in the source."""

    file: str
    """Relative to the package."""
    line: int
    text: str


@cache
def literals() -> list[Text]:
    """All texts in the source but docstrings; parts of one that Python joins are one."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        tree, file = ast.parse(path.read_text(encoding="utf-8")), path.relative_to(SOURCE).as_posix()
        parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                whole = "".join(str(v.value) if isinstance(v, ast.Constant) else "\0" for v in node.values)
                found.append(Text(file, node.lineno, whole))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts | documents:
                found.append(Text(file, node.lineno, node.value))
    return found


IMPERATIVES = (
    "Add", "Ask", "Call", "Change", "Check", "Choose", "Compute", "Continue", "Convert", "Copy", "Correct", "Create",
    "Crop", "Cut", "Delete", "Download", "Drop", "Embed", "Exclude", "Fetch", "Find", "Free", "Give", "Go", "Inspect",
    "Install", "Keep", "Leave", "Let", "Look", "Lower", "Make", "Mend", "Mount", "Move", "Name", "Narrow", "Number",
    "Omit", "Open", "Pass", "Pick", "Point", "Put", "Raise", "Read", "Reboot", "Reinstall", "Remove", "Rename",
    "Repair", "Replace", "Restore", "Resume", "Return", "Run", "Save", "Scale", "See", "Set", "Split", "Start", "Stop",
    "Store", "Take", "Train", "Try", "Turn", "Unset", "Update", "Use", "Wait", "Wrap", "Write",
)  # fmt: skip
"""What a sentence of advice begins with."""

VERBS = (
    "demo", "pretrain", "distill", "finetune", "predict", "evaluate", "compare", "embed", "export", "serve",
    "show", "report", "plot", "views", "estimate", "check", "list", "thin", "doctor", "slurm",
)  # fmt: skip
"""What `lookalike` is followed by."""

_FIRST = "|".join(IMPERATIVES)
_ADVICE = re.compile(
    r"(?<![\w-])--[a-z]"  # an option
    rf"|(?<!by )`lookalike |(?<!with )(?<!`)\blookalike (?:\0|(?:{'|'.join(VERBS)})\b)|\bpip install\b"  # a command
    rf"|(?:^|[.:;!?)] |\n|\0 )\s*(?:{_FIRST})\b(?! of\b)"
    rf"|(?:[:;,] |, or |, and |: or )(?:{_FIRST.lower()}) (?!by\b|of\b|in\b|to\b|as\b|is\b)"
    rf"|^(?:give|use|try|choose|take|put|leave) "
    r"|\b(?:Next|Resume with|give its new path|To \w+(?: \w+)*): "
    r"|\bThe nearest\b|\bDid you mean\b|\bNear names\b|\bnearest: "
)


def advises(text: str) -> bool:
    """Whether a text names an option or a command, or begins a sentence by what to do. Help does not count."""
    is_help = text.startswith(("lookalike ", "lookalike:"))
    return " " in text.strip() and not is_help and _ADVICE.search(text) is not None


@cache
def advice() -> list[Text]:
    """All texts of the source that advise something."""
    return [each for each in literals() if advises(each.text)]
