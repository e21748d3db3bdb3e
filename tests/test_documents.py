"""Files that are read whole: what is no JSON, too deep, too large or of another kind is refused in one sentence."""

import json
from pathlib import Path

import pytest

from lookalike.files import DEEPEST, parse_json, read_json, read_text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[" * 100_000, "is nested more than"),
        (b"[" * 100_000 + b"]" * 100_000, "is nested more than"),
        (b'{"a":' * 900 + b"1" + b"}" * 900, "is nested more than"),
        (b"\xff\xfe[]", "is not UTF-8 text"),
        (b"{", "is not JSON"),
        (b"1" * 5000, "is not JSON"),
        (b"", "is not JSON"),
        (b"[]", "holds no object"),
    ],
)
def test_json_that_nobody_wrote_for_us_is_refused_in_a_sentence(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        read_json(tmp_path / "x.json", dict)
    assert len(str(caught.value)) < 500


def test_our_own_depth_is_read() -> None:
    deep: object = 1
    for _ in range(DEEPEST - 1):
        deep = [deep]
    assert parse_json(json.dumps(deep), "text", list) == deep


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "x", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="is larger than the 1 MiB"):
        read_text(tmp_path / "x", 2**20)
