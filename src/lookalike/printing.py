"""Names and values that came from elsewhere, made fit for a terminal, a log, a message, a page or a table."""

import os
import re
import reprlib
import shlex
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TextIO

LONGEST_VALUE = 200
"""Characters of a value in a message."""
LONGEST_PATH = 1000
"""Characters of a path in one."""
LONGEST_LINE = 20_000
"""Characters of a printed line."""
LONGEST_MESSAGE = 20_000
"""Characters of an error's message."""

TOP5_FROM = 10
"""Classes from which top-5 is shown: of fewer, five are more than half of all, and nearly every answer counts."""

_HARMFUL = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of control and format characters, lone surrogates, and separators of lines and paragraphs."""
_JOINERS = "\u200c\u200d"
"""Format characters that Persian, Indic scripts and emoji are written with; they move and hide nothing."""
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")
_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
"""How cells begin that spreadsheets compute (OWASP, "CSV Injection"), guarded or not."""


def printable(text: str, keep: str = "") -> str:
    r"""The text with its control characters written out (`\x1b`, `\u202e`): one line that shows what is in it.

    Args:
        keep: control characters that stay, such as the ends of lines of our own text.
    """
    if text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode()
        if c not in keep and c not in _JOINERS and unicodedata.category(c) in _HARMFUL
        else c
        for c in text
    )


def cut(text: str, most: int = LONGEST_VALUE) -> str:
    """At most so many characters of a text, and how many there were."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = LONGEST_VALUE
        self.maxlevel = 3


def shown(value: object) -> str:
    """A value that somebody else wrote, for a message: as Python writes it, on one line and not long."""
    try:
        text = _Short().repr(value)
    except ValueError:  # Python writes out no integer of more than 4,300 digits
        text = f"<{type(value).__name__}>"
    return cut(printable(text))


def brief(value: object, most: int = LONGEST_VALUE) -> str:
    """The same, but without quotes around a text."""
    return cut(printable(value), most) if isinstance(value, str) else shown(value)


_typed: dict[str, str] = {}
"""Arguments of the command line that hold ends of lines, and how they are printed."""


def typed(arguments: Iterable[str]) -> None:
    """Lets paths on the command line, which a shell may have found, be printed as one line in all that is said."""
    _typed.clear()
    _typed.update({each: printable(each) for each in arguments if "\n" in each})


def lines_of(text: str) -> str:
    """Our own text, which may have several lines, with all that came into it from elsewhere made harmless."""
    for argument, written in _typed.items():
        text = text.replace(argument, written)
    return "\n".join(cut(line, LONGEST_LINE) for line in printable(text, keep="\n").split("\n"))


def say(text: str, file: TextIO | None = None) -> None:
    """Prints text, which may hold names that came from elsewhere; letters that the terminal lacks are written out."""
    file = file or sys.stdout
    encoding = file.encoding or "utf-8"
    print(lines_of(text).encode(encoding, "backslashreplace").decode(encoding), file=file, flush=True)


def message(error: Exception) -> str:
    """What the user reads: our own messages as they are, anything unexpected with its kind."""
    expected = (ValueError, FileNotFoundError, FileExistsError, ModuleNotFoundError, PermissionError, RuntimeError)
    if isinstance(error, MemoryError):
        return "There is not enough memory. Take fewer --workers, smaller images, or a smaller --batch-size."
    if isinstance(error, OSError):
        if not error.errno and str(error):  # our own words
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
    """A name in the form in which names are compared: Unicode writes some letters in two ways (NFC, NFD)."""
    return unicodedata.normalize("NFC", name)


def pasteable(*words: object) -> str:
    """A command as it is typed in a shell: everything that is printed to be pasted goes through here."""
    return shlex.join(map(str, words))


_IRREGULAR = {"epoch": "epochs", "index": "indices"}


def plural(noun: str) -> str:
    """The plural of an English noun, of its last word: "test image" -> "test images"."""
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
        grouped: whether thousands are set apart, 12,000.
    """
    whole = isinstance(count, int) or float(count).is_integer()
    number = f"{int(count):,}" if grouped and whole else str(int(count)) if whole else f"{count:g}"
    return f"{number} {noun if count == 1 else plural(noun)}"


def with_article(noun: str) -> str:
    """A noun with its article, by its first letter: "a tuple", "an int"."""
    return f"{'an' if noun[:1] in 'AEIOUaeiou' else 'a'} {noun}"


def size_of(count: float) -> str:
    """A number of bytes: "12 KiB", "3.4 MiB", "512 GiB"."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 2**10:.3g} KiB"


def are(count: float) -> str:
    """The verb of a count: "is" of one, else "are"."""
    return "is" if count == 1 else "are"


def spanned(low: int, high: int, noun: str = "") -> str:
    """A range of whole numbers, or the number where both are one: "5 to 20 images", "20 images", "1 image"."""
    ends = str(low) if low == high else f"{low} to {high}"
    return f"{ends} {noun if high == 1 else plural(noun)}" if noun else ends


def first_of(parts: Sequence[str], most: int, rest: Callable[[int], str] = lambda left: counted(left, "other")) -> str:
    """The first parts of a list and, where some are left out, how many: "a, b and 3 others". It is never one alone.

    Args:
        rest: what is said of those that are left out, by their number.
    """
    if len(parts) <= most + 1:
        return ", ".join(parts)
    return f"{', '.join(parts[:most])} and {rest(len(parts) - most)}"


def protocol_name(protocol: str, settings: Mapping[str, object]) -> str:
    """What an evaluation is called, everywhere: its protocol and, with few labels, their part: knn, semi 1%.

    Args:
        settings: those of its entry in `evaluation.json`.
    """
    if protocol != "semi":
        return protocol
    share = settings.get("share")
    own = "semi-finetune" if settings.get("how") == "finetune" else "semi"
    return f"{own} {f'{100 * share:.3g}%' if isinstance(share, float | int) else 'list'}"


def cell(text: str) -> str:
    """A text as a cell of a CSV file: an apostrophe goes before what a spreadsheet would compute, as OWASP advises."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def of_cell(text: str) -> str:
    """Undoes `cell`."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text
