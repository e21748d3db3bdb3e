"""The nearest rows of a bank: both engines against a slow loop, what is refused, and how much memory is taken."""

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits
from torch import Tensor

from lookalike.evaluation import knn, neighbours
from lookalike.evaluation.neighbours import nearest, others

ENGINES = [pytest.param("compiled", marks=pytest.mark.skipif(neighbours.ENGINE == "torch", reason="no Numba")), "torch"]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(neighbours, "ENGINE", request.param)
    return str(request.param)


def slow_cosines(queries: Tensor, bank: Tensor) -> Tensor:
    """(M, N) in float64, one pair at a time; a vector without length is similar to nothing."""
    rows = [[float(q @ b) / max(float(q.norm() * b.norm()), 1e-24) for b in bank.double()] for q in queries.double()]
    return torch.tensor(rows, dtype=torch.float64).view(len(queries), len(bank))


def check(queries: Tensor, bank: Tensor, k: int, cosines: Tensor, places: Tensor, tolerance: float) -> None:
    """The k largest cosines in falling order, each of the row that stands beside it, and no row twice."""
    slow = slow_cosines(queries, bank)
    k = min(k, len(bank))
    assert cosines.shape == places.shape == (len(queries), k)
    torch.testing.assert_close(cosines.double(), slow.sort(descending=True).values[:, :k], rtol=0, atol=tolerance)
    torch.testing.assert_close(slow.gather(1, places), cosines.double(), rtol=0, atol=tolerance)
    assert all(len(set(row)) == k for row in places.tolist())
    assert (cosines.diff(dim=1) <= 0).all()


def drawn(count: int, dim: int, seed: int) -> Tensor:
    """Rows of very different lengths."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, dim, generator=g) * torch.rand(count, 1, generator=g).mul(8).sub(4).exp()


@given(
    queries=st.integers(1, 9),
    rows=st.integers(1, 100),
    dim=st.integers(1, 9),
    k=st.integers(1, 110),
    block=st.integers(1, 110),
    threads=st.integers(1, 3),
    copies=st.booleans(),
    name=st.sampled_from(["compiled", "torch"]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=50, deadline=None)
def test_both_engines_meet_a_slow_loop(
    queries: int, rows: int, dim: int, k: int, block: int, threads: int, copies: bool, name: str, seed: int
) -> None:
    bank, asked = drawn(rows, dim, seed), drawn(queries, dim, seed + 1)
    if copies:  # exact ties, rows without length, a query that stands in the bank
        bank = bank[torch.randint(rows, (rows,), generator=torch.Generator().manual_seed(seed))]
        bank[:: max(1, rows // 3)] = 0
        asked[0] = bank[-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "ENGINE", name if neighbours.ENGINE == "compiled" else "torch")
        torch.set_num_threads(threads)
        try:
            cosines, places = nearest(asked, bank, k, block)
        finally:
            torch.set_num_threads(1)
    assert (cosines.dtype, places.dtype) == (torch.float32, torch.int64)
    check(asked, bank, k, cosines, places, 1e-6)


@pytest.mark.skipif(neighbours.ENGINE == "torch", reason="no Numba")
def test_the_engines_agree_on_many_blocks_of_features_as_encoders_make_them() -> None:
    """Sorted by class, above zero (behind a ReLU), so that blocks are anything but alike; queries of several tasks."""
    g = torch.Generator().manual_seed(0)
    centres = torch.randn(40, 64, generator=g)
    bank, asked = ((centres.repeat_interleave(n, 0) + torch.randn(40 * n, 64, generator=g)).relu() for n in (250, 30))
    one = neighbours._compiled(*(neighbours._unit(asked)[0], bank, 200, 700))
    other = neighbours._by_torch(*(neighbours._unit(asked)[0], bank, 200, 700))
    torch.testing.assert_close(one[0], other[0], rtol=0, atol=1e-6)
    assert (one[1] == other[1]).double().mean() > 0.999  # but for similarities that rounding makes equal
    torch.set_num_threads(3)
    again = neighbours._compiled(neighbours._unit(asked)[0], bank, 200, 700)
    torch.testing.assert_close(again[0], one[0], rtol=0, atol=1e-6)


def test_a_bank_in_rising_or_falling_order_changes_nothing(engine: str) -> None:
    """Rising: every row is a new best one. Falling: none is behind the first k."""
    angles = torch.linspace(math.pi / 2, 0.1, 300, dtype=torch.float64)
    rising = torch.stack([angles.cos(), angles.sin()], 1).float()
    query = torch.tensor([[1.0, 0.0]])
    for bank, expected in ((rising, range(299, 292, -1)), (rising.flip(0), range(7))):
        _, places = nearest(query, bank, 7, 13)
        assert places[0].tolist() == list(expected)


def test_copies_and_rows_without_length_come_last_and_first(engine: str) -> None:
    bank = torch.zeros(50, 3)
    bank[[7, 31, 44]] = torch.tensor([2.0, 0, 0])
    bank[20] = torch.tensor([-1.0, 0, 0])
    cosines, places = nearest(torch.tensor([[5.0, 0, 0], [0, 0, 0]]), bank, 50, 8)
    assert sorted(places[0, :3].tolist()) == [7, 31, 44]
    assert places[0, -1] == 20
    assert cosines[0].tolist() == [1.0] * 3 + [0.0] * 46 + [-1.0]
    assert not cosines[1].any()
    assert sorted(places[1].tolist()) == list(range(50))


@pytest.mark.parametrize("where", [0, 61, 199])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_features_that_are_not_finite_are_refused_wherever_they_are(engine: str, where: int, value: float) -> None:
    torch.set_num_threads(2)
    x = drawn(200, 5, 0)
    x[where, 2] = value
    for queries, bank in ((drawn(9, 5, 1), x), (x, drawn(200, 5, 1))):
        with pytest.raises(ValueError, match="not finite"):
            nearest(queries, bank, 3, 50)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_in_float32(engine: str, dtype: torch.dtype) -> None:
    bank, asked = drawn(300, 16, 0).to(dtype), drawn(20, 16, 1).to(dtype)
    expected = nearest(asked.float(), bank.float(), 10, 64)
    for queries in (asked, asked.float()):
        found = nearest(queries, bank, 10, 64)
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest(asked, bank, 10, 64)[0], expected[0])


def test_float64_stays_float64(engine: str) -> None:
    bank, asked = drawn(120, 16, 0).double(), drawn(6, 16, 1)
    for a, b in ((asked, bank), (asked.double(), bank), (asked.double(), bank.float())):
        cosines, places = nearest(a, b, 10, 32)
        assert cosines.dtype == torch.float64
        check(a, b, 10, cosines, places, 1e-12)


def test_any_memory_layout_and_parameters_too(engine: str) -> None:
    bank = drawn(16, 300, 0).T.requires_grad_()
    assert not bank.is_contiguous()
    asked = drawn(4, 32, 1)[:, ::2]
    cosines, places = nearest(asked, bank, 5, 64)
    check(asked, bank.detach(), 5, cosines, places, 1e-6)
    assert not cosines.requires_grad


def test_one_query_none_and_an_empty_bank(engine: str) -> None:
    bank = drawn(90, 4, 0)
    check(bank[:1], bank, 5, *nearest(bank[:1], bank, 5, 20), 1e-6)
    assert [x.shape for x in nearest(bank[:0], bank, 5, 20)] == [(0, 5)] * 2
    assert [x.shape for x in nearest(bank, bank[:0], 5, 20)] == [(90, 0)] * 2


def test_what_does_not_fit_together_is_refused() -> None:
    x = torch.ones(4, 3)
    with pytest.raises(ValueError, match=r"\(4, 3\) and the bank is \(4, 2\)"):
        nearest(x, x[:, :2], 1)
    with pytest.raises(ValueError, match="expected"):
        nearest(x[0], x, 1)
    for k, block in ((0, 8), (1, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            nearest(x, x, k, block)


def test_progress_counts_queries(engine: str) -> None:
    seen: list[tuple[int, int]] = []
    x = drawn(50, 4, 0)
    nearest(x, x, 3, 20, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(20, 50), (40, 50), (50, 50)]
    seen.clear()
    y = torch.arange(50) % 3
    knn(x, y, x, y, block=20, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(20, 50), (40, 50), (50, 50)]


@pytest.mark.skipif(neighbours.ENGINE == "torch", reason="no Numba")
def test_compiled_code_searches_banks_of_several_blocks_and_gives_threads_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def blas() -> list[int]:
        return [found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"]

    compiled, calls = neighbours._compiled, []
    monkeypatch.setattr(neighbours, "_compiled", lambda *given: calls.append(blas()) or compiled(*given))
    x = drawn(neighbours.ROWS + 1, 4, 0)
    with threadpool_limits(2, "blas"):  # the tests' processes have one
        before = blas()
        nearest(x[:5], x, 3)
        assert calls == [before]
        assert blas() == before
    nearest(x[:5], x[1:], 3)  # one block
    assert len(calls) == 1


def test_knn_does_not_depend_on_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = drawn(500, 8, 0), torch.arange(500) % 7
    one = knn(x[:400], y[:400], x[400:], y[400:], block=90)
    monkeypatch.setattr(neighbours, "ENGINE", "torch")
    other = knn(x[:400], y[:400], x[400:], y[400:], block=90)
    assert one.accuracies == other.accuracies
    torch.testing.assert_close(one.votes, other.votes, rtol=1e-4, atol=0)


def test_rows_are_not_their_own_neighbours_even_beside_copies() -> None:
    x = torch.tensor([[1.0, 0], [0, 1], [1, 0], [1, 1]])
    cosines, places = others(x, torch.tensor([0, 3]), 8)
    assert places.tolist()[0] == [2, 3, 1]
    assert places.shape == (2, 3)
    torch.testing.assert_close(cosines[0], torch.tensor([1.0, 0.5**0.5, 0.0]))
    same = torch.ones(9, 2)
    for row, found in enumerate(others(same, torch.arange(9), 3)[1].tolist()):
        assert row not in found
        assert len(set(found)) == 3


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_bank_or_queries() -> None:
    """All similarities would be 293 MiB, the bank once more 37 MiB; a block of similarities is 4 or 2 MiB."""
    code = """
import re, torch
from lookalike.evaluation import neighbours
torch.set_num_threads(1)
def memory(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
bank, queries = torch.randn(300_000, 32), torch.randn(256, 32)
for engine, block in ((neighbours.ENGINE, 8192), ("torch", 2048)):
    neighbours.ENGINE = engine
    neighbours.nearest(queries[:8], bank[:9000], 20, block)
    before = memory("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")
    neighbours.nearest(queries, bank, 20, block)
    print(memory("VmHWM") - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    compiled, by_torch = (float(line) for line in done.stdout.split())
    assert compiled < 20
    assert by_torch < 20
