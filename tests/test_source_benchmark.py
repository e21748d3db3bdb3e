"""`benchmarks/sources.py` runs, tiny, and writes rows."""

import importlib
import json
import os
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long(10)
OTHERS = ("ImageFolder", "datasets", "webdataset")


@pytest.mark.slow
def test_the_benchmark_of_sources_writes_its_rows(
    classed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("webdataset")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    paths = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(Path(__file__).parents[1] / "src")])
    monkeypatch.setenv("PYTHONPATH", paths)
    cores = os.sched_getaffinity(0)
    benchmark = importlib.import_module("sources")
    record = tmp_path / "rows.jsonl"
    options = {
        "folder": classed,
        "batch": 4,
        "workers": 0,
        "repeats": 1,
        "seconds": 0.05,
        "members": 50,
        "large": 70,
        "rows": 60,
    }
    argv = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    argv += ["--kinds", "parquet", "--groups", "5", "20", "--work", str(tmp_path / "work"), "--record", str(record)]
    monkeypatch.setattr(sys, "argv", ["sources.py", *argv])
    try:
        benchmark.main()
    finally:
        os.sched_setaffinity(0, cores)
    small, large, groups, index, tar = map(json.loads, record.read_text().splitlines())
    for row, case in ((small, "32 px"), (large, "224 px")):
        assert (row["case"], row["images"], row["workers"]) == (case, 40, 0)
        assert all(row["images_per_s"][name][0] > 0 for name in (*benchmark.OURS, *OTHERS))
        assert row["ratio_to_fastest"].keys() == set(benchmark.OURS)
        assert row["ways"].keys() == {*OTHERS}
    assert (groups["images"], groups["ratio_to_arrow"].keys()) == (60, {"5", "20", "Arrow"})
    assert (tar["case"], tar["members"]) == ("large index, tar", 70)
    assert "| folder |" in benchmark.table(record)
    assert index["case"] == "index, parquet"
    assert index["members"] == 50
    assert {f"{when}_{what}" for when in ("first", "again") for what in ("seconds", "memory_mib")} <= index.keys()
