"""Data sets of the Hugging Face hub: downloaded because the user named them, read without a network, no code run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from support.hub import COMMIT, hub
from support.sources import columns

from lookalike.data import open_source
from lookalike.places import check_images, hub_data

OPEN = """
import json, sys, torch
from lookalike.data import open_maybe_labelled, open_source
found = {}
for name in sys.argv[1:]:
    try:
        source = open_maybe_labelled(name)
        pixels = [source.read(i, None).sum().item() for i in range(len(source))]
        found[name] = [source.name(0), source.classes, pixels]
    except Exception as error:
        found[name] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


def opened(*names: str, **environment: str) -> dict[str, object]:
    """What a process of its own finds: names, classes and sums of the pixels, or its error."""
    done = subprocess.run(
        [sys.executable, "-c", OPEN, *names], env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def rows(root: Path, first: int, last: int) -> bytes:
    sink = pyarrow.BufferOutputStream()
    content = {name: values[first:last] for name, values in columns(root).items()}
    pyarrow.parquet.write_table(pyarrow.table(content), sink)
    return bytes(sink.getvalue())


@pytest.mark.long(9)
def test_a_named_data_set_is_downloaded_and_read_without_a_network_later(classed: Path, tmp_path: Path) -> None:
    images = {
        "README.md": b"---\nlicense: mit\n---\n", "data/train-00000-of-00001.parquet": rows(classed, 0, 6),
        "data/test-00000-of-00001.parquet": rows(classed, 6, 9),
    }  # fmt: skip
    ran = tmp_path / "ran"
    scripted = {"README.md": b"", "scripted.py": f"open({str(ran)!r}, 'w')".encode()}
    splits = {f"data/{name}-00000-of-00001.parquet": rows(classed, 0, 2) for name in ("validation", "test")}
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.parquet\n" for name in "ab")
    configured = {"README.md": f"---\nconfigs:\n{configs}---\n".encode()}
    configured |= {f"{name}.parquet": rows(classed, 0, 2) for name in "ab"}
    here = {"HF_HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    names = ["hf:someone/images", "hf:someone/images:test", f"hf:someone/images@{COMMIT}:test"]
    other = "hf:someone/other:test"
    wrong = ["hf:someone/images:dev", "hf:someone/scripted", "hf:someone/none"]
    sets = {"someone/images": images, "someone/scripted": scripted, "someone/splits": splits}
    with hub(sets | {"someone/configured": configured}) as (address, asked):
        found = opened(
            *names,
            *wrong,
            "hf:someone/splits",
            "hf:someone/splits:test",
            "hf:someone/configured",
            HF_ENDPOINT=address,
            **here,
        )
        count = len(asked)
        again = opened(*names, other, HF_ENDPOINT=address, HF_HUB_OFFLINE="1", **here)
        assert len(asked) == count
    folder = open_source(classed)
    by_name = {folder.name(i): folder.read(i, None).sum().item() for i in range(len(folder))}
    files = [str(name) for name in columns(classed)["path"]]
    for data, part in ((names[0], files[:6]), (names[1], files[6:9]), (names[2], files[6:9])):
        classes = sorted({name.split("/")[0] for name in part})
        assert found[data] == [sorted(part)[0], classes, [by_name[name] for name in sorted(part)]]
    without = str(again.pop(other))
    assert again == {name: found[name] for name in names}
    assert str(found[wrong[0]]).startswith("ValueError: hf:someone/images:dev cannot be loaded (Unknown split")
    assert "has the splits validation, test. Name one of them: hf:someone/splits:" in str(found["hf:someone/splits"])
    assert len(found["hf:someone/splits:test"][2]) == 2  # type: ignore[index]
    assert re.match(
        r"ValueError: hf:someone/configured has several configurations \(Config name is missing.*\['a', 'b'\].*\)\. "
        r"Choose one in Python: run python -c .*load_dataset\('someone/configured', 'CONFIGURATION', split='train'\)",
        str(found["hf:someone/configured"]),
    )
    assert not ran.exists()
    for data in wrong[1:]:
        assert str(found[data]).startswith(f"ValueError: {data} cannot be loaded ("), found[data]
    assert without.startswith(
        f"ValueError: {other} is not in the cache of datasets ({tmp_path / 'home' / 'datasets'}), and HF_HUB_OFFLINE "
        "is set ("
    ), without
    assert without.endswith(
        "On a machine with a network, run python -c \"import datasets; datasets.load_dataset('someone/other', "
        "split='test').save_to_disk('FOLDER')\", copy FOLDER to this machine, and give it as DATA."
    )


def test_names_of_the_hub() -> None:
    assert hub_data("hf:cifar10") == ("cifar10", None, None)
    assert hub_data("hf:a/b@v1.0:test") == ("a/b", "v1.0", "test")
    assert hub_data("hf:a/b:test") == ("a/b", None, "test")
    assert hub_data("hf:a/b@refs/pr/1") == ("a/b", "refs/pr/1", None)
    for name in ("hf:", "hf:a/b/c", "hf:a b", "hf:a:", "hf:a@", "hf:/etc/passwd", "hf:a/b:train[:10%]"):
        with pytest.raises(
            ValueError, match=r"is no name of a data set\. Give hf:NAME, hf:NAME@REVISION or hf:NAME:SPL"
        ):
            check_images(name)
        with pytest.raises(ValueError, match="is no name of a data set"):
            open_source(name)


def test_without_datasets_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lookalike.places.find_spec", lambda name: None if name == "datasets" else name)
    with pytest.raises(ModuleNotFoundError, match=r"hf:a/b needs datasets: pip install 'lookalike\[datasets\]'\."):
        check_images("hf:a/b")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"hf:a/b needs datasets: pip install 'lookalike\[datasets\]'\."):
        open_source("hf:a/b")


def test_a_data_set_in_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = datasets.Dataset.from_dict({"label": [1]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: made)
    with pytest.raises(
        ValueError, match=r"hf:a/b was loaded into memory instead of a file\. Unset HF_DATASETS_IN_MEMORY"
    ):
        open_source("hf:a/b")


def test_an_existing_path_is_no_name_of_the_hub(classed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hf:mine").symlink_to(classed)
    assert len(open_source("hf:mine")) == 40
