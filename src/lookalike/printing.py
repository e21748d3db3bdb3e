"""Formatting of names and values, also untrusted ones, for terminals, logs, messages, pages and tables."""

import os
import re
import reprlib
import shlex
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TextIO

LONGEST_VALUE = 200
"""Maximum characters of a value in a message."""
LONGEST_PATH = 1000
"""Maximum characters of a path in a message."""
LONGEST_LINE = 20_000
"""Maximum characters of a printed line."""
LONGEST_MESSAGE = 20_000
"""Maximum characters of an error message."""

TOP5_FROM = 10
"""Minimum number of classes for top-5: with fewer, 5 are more than half of all classes."""

_HARMFUL = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories of control and format characters, lone surrogates, and separators of lines and paragraphs."""
_JOINERS = "\u200c\u200d"
"""Format characters used by Persian, Indic scripts and emoji, which neither move nor hide text."""
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")
_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
"""Start of a cell that a spreadsheet would evaluate (OWASP, "CSV Injection"), escaped or not."""


def printable(text: str, keep: str = "") -> str:
    r"""The text with its control characters escaped (`\x1b`, `\u202e`), on one line.

    Args:
        keep: control characters that are not escaped, such as line ends of our own text.
    """
    if text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode()
        if c not in keep and c not in _JOINERS and unicodedata.category(c) in _HARMFUL
        else c
        for c in text
    )


def cut(text: str, maximum: int = LONGEST_VALUE) -> str:
    """The text, or its first `maximum` characters and its length."""
    return text if len(text) <= maximum else f"{text[:maximum]}... ({len(text)} characters)"


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = LONGEST_VALUE
        self.maxlevel = 3


def shown(value: object) -> str:
    """An untrusted value for a message: its repr, on one line, shortened."""
    try:
        text = _Short().repr(value)
    except ValueError:  # Python refuses to print integers of more than 4,300 digits
        text = f"<{type(value).__name__}>"
    return cut(printable(text))


def brief(value: object, maximum: int = LONGEST_VALUE) -> str:
    """Like `shown`, but a string has no quotes."""
    return cut(printable(value), maximum) if isinstance(value, str) else shown(value)


_typed: dict[str, str] = {}
"""Command-line arguments with line ends, and their escaped form."""


def typed(arguments: Iterable[str]) -> None:
    """Registers command-line arguments, so that paths with line ends, from a shell's pattern, print on one line."""
    _typed.clear()
    _typed.update({each: printable(each) for each in arguments if "\n" in each})


def lines_of(text: str) -> str:
    """Our own text, of one or more lines, with control characters from untrusted parts escaped."""
    for argument, written in _typed.items():
        text = text.replace(argument, written)
    return "\n".join(cut(line, LONGEST_LINE) for line in printable(text, keep="\n").split("\n"))


def say(text: str, file: TextIO | None = None) -> None:
    """Prints text, which may include untrusted names; characters that the terminal cannot encode are escaped."""
    file = file or sys.stdout
    encoding = file.encoding or "utf-8"
    print(lines_of(text).encode(encoding, "backslashreplace").decode(encoding), file=file, flush=True)


def message(error: Exception) -> str:
    """The message for the user: our own errors unchanged, unexpected ones with their type."""
    expected = (ValueError, FileNotFoundError, FileExistsError, ModuleNotFoundError, PermissionError, RuntimeError)
    if isinstance(error, MemoryError):
        return "There is not enough memory. Take fewer --workers, smaller images, or a smaller --batch-size."
    if isinstance(error, OSError):
        if not error.errno and str(error):  # our own message
            return str(error)
        if error.filename is not None and error.strerror:
            denied = isinstance(error, PermissionError)
            advice = " Give this user the permission (ls -ld shows who has it), or name another." if denied else ""
            return f"{printable(os.fsdecode(error.filename))}: {error.strerror}.{advice}"
    return str(error) if isinstance(error, expected) and str(error) else f"{type(error).__name__}: {error}"


def silent(text: str) -> None:
    """Reports nothing."""


def warn(text: str) -> None:
    """`say` on standard error."""
    say(text, sys.stderr)


def composed(name: str) -> str:
    """A name in Unicode's NFC, for comparisons: some characters have two encodings (NFC, NFD)."""
    return unicodedata.normalize("NFC", name)


def pasteable(*words: object) -> str:
    """A command quoted for the shell; use it for every command that is printed for the user."""
    return shlex.join(map(str, words))


_IRREGULAR = {"epoch": "epochs", "index": "indices"}


def plural(noun: str) -> str:
    """The plural of an English noun, by its last word: "test image" -> "test images"."""
    before, space, last = noun.rpartition(" ")
    if last in _IRREGULAR:
        last = _IRREGULAR[last]
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        last = f"{last[:-1]}ies"
    elif last.endswith(("s", "x", "ch", "sh")):
        last = f"{last}es"
    else:
        last = f"{last}s"
    return f"{before}{space}{last}"


def counted(count: float, noun: str, grouped: bool = False) -> str:
    """A number with its noun: "1 epoch", "20 epochs", "0 images", "1.5 epochs".

    Args:
        grouped: separate thousands: 12,000.
    """
    whole = isinstance(count, int) or float(count).is_integer()
    number = f"{int(count):,}" if grouped and whole else str(int(count)) if whole else f"{count:g}"
    return f"{number} {noun if count == 1 else plural(noun)}"


def with_article(noun: str) -> str:
    """A noun with its article, chosen by the first letter: "a tuple", "an int"."""
    return f"{'an' if noun[:1] in 'AEIOUaeiou' else 'a'} {noun}"


def size_of(count: float) -> str:
    """A number of bytes: "12 KiB", "3.4 MiB", "512 GiB"."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= 999.5 * size / 2**10:  # with three digits, of the smaller unit
            return f"{count / size:.3g} {unit}"
    return f"{count / 2**10:.3g} KiB"


def are(count: float) -> str:
    """The verb for a count: "is" for 1, else "are"."""
    return "is" if count == 1 else "are"


def spanned(low: int, high: int, noun: str = "") -> str:
    """A range of integers, or a single one if both are equal: "5 to 20 images", "20 images", "1 image"."""
    ends = str(low) if low == high else f"{low} to {high}"
    return f"{ends} {noun if high == 1 else plural(noun)}" if noun else ends


def first_of(
    parts: Sequence[str], maximum: int, rest: Callable[[int], str] = lambda left: counted(left, "other")
) -> str:
    """The first parts of a list, and the number of those left out, which is never 1: "a, b and 3 others".

    Args:
        rest: formats the number of those left out.
    """
    if len(parts) <= maximum + 1:
        return ", ".join(parts)
    return f"{', '.join(parts[:maximum])} and {rest(len(parts) - maximum)}"


def protocol_name(protocol: str, settings: Mapping[str, object]) -> str:
    """The name of an evaluation: its protocol and, with few labels, their fraction: knn, semi 1%.

    Args:
        settings: of its entry in `evaluation.json`.
    """
    if protocol != "semi":
        return f"{protocol} multi-label" if settings.get("multi_label") is True else protocol
    fraction = settings.get("share")
    own = "semi-finetune" if settings.get("how") == "finetune" else "semi"
    return f"{own} {f'{100 * fraction:.3g}%' if isinstance(fraction, float | int) else 'list'}"


def cell(text: str) -> str:
    """A text as a CSV cell: an apostrophe precedes anything a spreadsheet would evaluate, as OWASP recommends."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def of_cell(text: str) -> str:
    """Undoes `cell`."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text
