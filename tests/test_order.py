"""Which image comes when: the same for any number of processes and micro-batches, and after a resume."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.datasets import Numbers

from lookalike import random
from lookalike.data import Loader

splits = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(0, 9)).map(
    lambda t: {"b": t[0] * t[1] * t[2], "n": t[0] * t[1] * t[2] * t[3] + t[4], "world": t[1], "accumulate": t[2]}
)


def joined(loaders: list[Loader], accumulate: int) -> list[list[int]]:
    """The rows of each step's joined batch over one epoch, in order."""
    steps: list[list[int]] = []
    for micro, parts in enumerate(zip(*loaders, strict=True)):
        if micro % accumulate == 0:
            steps.append([])
        steps[-1] += [i for part in parts for i in part.index.tolist()]
    return steps


@given(split=splits, seed=st.integers(), share=st.sampled_from([0.0, 0.3]))
@settings(max_examples=60, deadline=None)
def test_the_joined_batch_depends_on_neither_ranks_nor_accumulation(
    split: dict[str, int], seed: int, share: float
) -> None:
    n, b = split["n"], split["b"]
    bad = frozenset(random.permutation(n, seed, "bad")[: int(share * n)].tolist())
    source = Numbers(n, bad)
    whole = Loader(source, b, seed, max_broken=1)
    parts = [
        Loader(source, b, seed, rank=r, world=split["world"], accumulate=split["accumulate"], max_broken=1)
        for r in range(split["world"])
    ]
    for epoch in range(2):
        assert all(len(p) == n // b * split["accumulate"] and p.steps_per_epoch == n // b for p in parts)
        expected = joined([whole], 1)
        assert joined(parts, split["accumulate"]) == expected
        order = random.permutation(n, seed, "order", epoch).tolist()
        for step, rows in enumerate(expected):
            own = order[step * b : (step + 1) * b]
            assert [r for r, o in zip(rows, own, strict=True) if o not in bad] == [o for o in own if o not in bad]
            assert bad.isdisjoint(rows)


@given(split=splits, seed=st.integers(), share=st.floats(0, 0.9))
@settings(max_examples=60, deadline=None)
def test_stand_ins_follow_the_stated_rule(split: dict[str, int], seed: int, share: float) -> None:
    n, b = split["n"], split["b"]
    order = random.permutation(n, seed, "order", 0).tolist()
    bad = set(random.permutation(n, seed, "bad")[: int(share * n)].tolist())
    steps = n // b
    for step, rows in enumerate(joined([Loader(Numbers(n, frozenset(bad)), b, seed, max_broken=1)], 1)):
        for p, row in enumerate(rows):  # slowly, from the words of Order's docstring
            column = [order[(step + k) % steps * b + p] for k in range(steps)]
            others = [order[(step * b + p + k) % n] for k in range(n)]
            assert row == next(i for i in column + others if i not in bad)
        if all(any(order[s * b + p] not in bad for s in range(steps)) for p in range(b)):
            assert len(set(rows)) == b


@given(split=splits, seed=st.integers(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_resumed_loader_goes_on_exactly(split: dict[str, int], seed: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, split["world"] - 1))
    source = Numbers(split["n"], frozenset({0} if split["n"] > 1 else ()))

    def fresh() -> Loader:
        return Loader(
            source, split["b"], seed, rank=rank, world=split["world"], accumulate=split["accumulate"], max_broken=1
        )

    def take(loader: Loader, count: int) -> list[tuple[list[int], list[int]]]:
        got: list[tuple[list[int], list[int]]] = []
        while len(got) < count:
            for batch in loader:
                got.append((batch.index.tolist(), batch.keys.tolist()))
                if len(got) == count:
                    break
        return got

    length = len(fresh())
    stop = data.draw(st.integers(0, 2 * length))
    uninterrupted = take(fresh(), 3 * length)
    first, second = fresh(), fresh()
    before = take(first, stop)
    assert first.state_dict() == {"epoch": stop // length, "consumed": stop % length}
    second.load_state_dict(first.state_dict())
    assert before + take(second, 3 * length - stop) == uninterrupted
    assert before + take(first, 3 * length - stop) == uninterrupted  # a loop left early goes on, too


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("consumed", [0, 2])
def test_a_survey_shows_an_epoch_of_its_own_and_changes_nothing(workers: int, consumed: int) -> None:
    def indices(loader: Loader) -> list[list[int]]:
        return [batch.index.tolist() for batch in loader]

    loader, plain = (Loader(Numbers(10), 4, 0, accumulate=2, workers=workers) for _ in range(2))
    for one in (loader, plain):
        one.load_state_dict({"epoch": 0, "consumed": consumed})
    seen = [(batch.index.tolist(), batch.keys.tolist()) for batch in loader.survey()]
    assert len(seen) == 4
    assert len({i for index, _ in seen for i in index}) == 8
    assert loader.state_dict() == {"epoch": 0, "consumed": consumed}
    assert indices(loader) == indices(plain)
    assert indices(loader) == indices(plain)
    half = loader.survey()
    next(half)
    half.close()
    assert indices(loader) == indices(plain)
    for one in (loader, plain):
        one.close()


def test_the_state_is_advanced_before_the_yield() -> None:
    loader = Loader(Numbers(10), 4, 0, accumulate=2)
    states = [loader.state_dict() for _ in loader]
    assert states == [{"epoch": e, "consumed": c} for e, c in ((0, 1), (0, 2), (0, 3), (1, 0))]
    assert loader.epoch == 1
    assert len(list(loader)) == 4
    assert loader.epoch == 2
    with pytest.raises(ValueError, match="9 consumed micro-batches, but an epoch has 4"):
        loader.load_state_dict({"epoch": 0, "consumed": 9})


def test_keys_depend_on_seed_epoch_and_image_alone() -> None:
    source = Numbers(12)
    seen: dict[tuple[int, int, int], int] = {}
    for seed in (0, 1):
        for b in (4, 12):
            loader = Loader(source, b, seed)
            for epoch in range(2):
                for batch in loader:
                    for i, key in zip(batch.index.tolist(), batch.keys.tolist(), strict=True):
                        assert key == random.key_of(random.key_of(seed, "views"), epoch, 7 * i)
                        assert seen.setdefault((seed, epoch, i), key) == key
    assert len(set(seen.values())) == 48


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Loader(Numbers(3), 4, 0), "A batch of 4 cannot be drawn from 3 images"),
        (lambda: Loader(Numbers(9), 0, 0), "A batch of 0 cannot"),
        (
            lambda: Loader(Numbers(9), 6, 0, world=2, accumulate=2),
            "6 is not divisible into 2 micro-batches .* 2 processes",
        ),
        (lambda: Loader(Numbers(9), 6, 0, world=2, rank=2), "Rank is 2; expected 0 to 1"),
        (lambda: Loader(Numbers(9), 6, 0, cache="tape"), "cache is 'tape'; expected none, ram, device or disk"),
    ],
)
def test_what_cannot_be_loaded_is_named(make: Callable[[], Loader], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
