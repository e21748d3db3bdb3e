"""Files of tensors: the official library reads them, and the same content gives the same bytes."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lookalike.tensor_file import write_tensors

METADATA = {"lookalike": '{"a": "é\\n"}', "sha256": "0" * 64, "about": "x", "encoder": "y"}


def test_safetensors_reads_every_type_and_shape(tmp_path: Path) -> None:
    types = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
             torch.int8, torch.uint16, torch.uint8, torch.bool]  # fmt: skip
    tensors = {str(t): (torch.arange(7) % 2).to(t) for t in types}
    tensors |= {"scalar": torch.tensor(3.0), "none": torch.zeros(0, 4), "turned": torch.rand(3, 5).mT,
                "learnt": torch.nn.Parameter(torch.rand(2, 2))}  # fmt: skip
    path = tmp_path / "a.safetensors"
    write_tensors(path, tensors, METADATA)
    found = load_file(path)
    assert found.keys() == tensors.keys()
    assert all(found[k].dtype == v.dtype and torch.equal(found[k], v) for k, v in tensors.items())
    with safe_open(path, "pt") as file:
        assert file.metadata() == METADATA
    size = int.from_bytes(path.read_bytes()[:8], "little")
    assert size % 8 == 0
    with pytest.raises(ValueError, match=r"complex64.*Convert it"):
        write_tensors(path, {"a": torch.zeros(2, dtype=torch.complex64)}, {})


def test_the_same_content_gives_the_same_bytes_in_every_order(tmp_path: Path) -> None:
    """safetensors' own writer orders metadata by a number that is drawn anew for each file."""
    tensors = {name: torch.full((3,), float(i)) for i, name in enumerate("abcd")}
    contents = set()
    for i in range(12):
        turned = dict(list(METADATA.items())[:: 1 if i % 2 else -1])
        write_tensors(tmp_path / f"{i}", dict(list(tensors.items())[:: 1 if i % 3 else -1]), turned)
        contents.add((tmp_path / f"{i}").read_bytes())
    assert len(contents) == 1
