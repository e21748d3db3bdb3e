"""What foreign names and values can do to a terminal, a log and a table: nothing."""

import ast
import io
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookalike import printing
from lookalike.printing import (
    cell,
    counted,
    first_of,
    lines_of,
    of_cell,
    plural,
    printable,
    say,
    shown,
    spanned,
)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("plain Ärztin 写真 👩\u200d🔬.jpg", "plain Ärztin 写真 👩\u200d🔬.jpg"),
        ("\x1b]0;title\x07.png", r"\x1b]0;title\x07.png"),
        ("a\nerror: forged\r.png", r"a\nerror: forged\r.png"),
        ("photo\u202egnp.exe", r"photo\u202egnp.exe"),
        ("\x9b2J", r"\x9b2J"),
        ("a\u2028b\ufeff", r"a\u2028b\ufeff"),
        ("bytes \udcff", r"bytes \udcff"),
    ],
)
def test_control_characters_of_names_are_written_out(name: str, written: str) -> None:
    assert printable(name) == written
    assert printable(written) == written


def test_our_own_lines_stay_lines() -> None:
    assert lines_of("one\ntwo \x1b[31m") == "one\ntwo \\x1b[31m"
    assert len(lines_of("x" * 10**6)) < 30_000


def test_a_terminal_without_the_letters_gets_them_written_out() -> None:
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    say("Ärztin", ascii_only)
    assert ascii_only.buffer.getvalue() == b"\\xc4rztin\n"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, list(range(10**6)), {str(i): [[i]] for i in range(10**5)}, 10**5000, b"x" * 10**6, {1: "\x1b"}],
    ids=["text", "list", "mapping", "number", "bytes", "escape"],
)
def test_values_in_messages_are_cut_and_escaped(value: object) -> None:
    assert len(shown(value)) < 300
    assert shown(value).isprintable()


@given(st.text())
def test_a_guarded_cell_reads_back_as_it_was(text: str) -> None:
    assert of_cell(cell(text)) == text
    assert cell(text)[:1] not in set("=@\t\r")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("=1+1", "'=1+1"),
        ("-1", "-1"),
        ("+1.5", "+1.5"),
        ("-1+1", "'-1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("'=1", "''=1"),
        ("dogs", "dogs"),
    ],
)
def test_cells_that_a_spreadsheet_would_compute_get_an_apostrophe(text: str, written: str) -> None:
    assert cell(text) == written


def test_arguments_with_ends_of_lines_are_printed_on_one(capsys: pytest.CaptureFixture[str]) -> None:
    printing.typed(["a\nerror: forged"])
    say("Wrote a\nerror: forged/run.yaml\nNext: more")
    printing.typed([])
    assert capsys.readouterr().out == "Wrote a\\nerror: forged/run.yaml\nNext: more\n"


@pytest.mark.parametrize(
    ("noun", "several"),
    [("epoch", "epochs"), ("class", "classes"), ("test image", "test images"), ("index", "indices"), ("box", "boxes"),
     ("query", "queries"), ("day", "days"), ("batch", "batches"), ("other class", "other classes")],
)  # fmt: skip
def test_plurals(noun: str, several: str) -> None:
    assert plural(noun) == several


def test_counts_and_ranges_agree_with_their_nouns() -> None:
    assert [counted(n, "epoch") for n in (0, 1, 2, 1.0, 0.5, 1.5)] == [
        "0 epochs", "1 epoch", "2 epochs", "1 epoch", "0.5 epochs", "1.5 epochs",
    ]  # fmt: skip
    assert counted(12000, "image", grouped=True) == "12,000 images"
    assert [spanned(*ends, "image") for ends in ((5, 20), (20, 20), (1, 1), (0, 1))] == [
        "5 to 20 images", "20 images", "1 image", "0 to 1 image",
    ]  # fmt: skip
    assert (spanned(3, 3), spanned(2, 3)) == ("3", "2 to 3")


def test_a_list_that_is_cut_says_how_many_are_left_out() -> None:
    assert first_of(["a"], 2) == "a"
    assert first_of(["a", "b", "c"], 2) == "a, b, c"  # in the place of "and 1 other"
    assert first_of(["a", "b", "c", "d"], 2) == "a, b and 2 others"


NOUNS = {"images", "epochs", "classes", "channels", "steps", "seeds", "tensors", "files", "pages", "bands", "trainings"}
NO_COUNTS = {
    ("features.py", "len(source)"),  # of a digest, which must not change
    ("protocols.py", "which"),
    ("labels.py", "value"),  # no number
    ("digits.py", "parts['train']"),
    ("client.py", "channels"),  # never 1; the script runs without lookalike
}
"""Files and values before a noun that are no counts, or none of one."""


def test_every_count_in_the_source_agrees_with_its_noun() -> None:
    """A number in front of a plural is written by `counted` or `spanned`: "1 epochs" cannot be printed."""
    found = set()
    for path in Path(printing.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else []
            for value, text in itertools.pairwise(parts):
                if isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant):
                    word = (str(text.value).split() or [""])[0].rstrip(".,:;")
                    if str(text.value).startswith(" ") and word in NOUNS:
                        found.add((path.name, ast.unparse(value.value)))
    assert found <= NO_COUNTS, "use lookalike.printing.counted"
