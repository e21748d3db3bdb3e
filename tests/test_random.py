"""The counter-based draws: against plain-Python arithmetic, and as random numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.random import key_of, keys_of, permutation, uniform, uniform_table

INT64 = st.integers(-(2**63), 2**63 - 1)


def splitmix64(state: int, n: int) -> list[int]:
    """Steele, Lea and Flood 2014, figure 16, in Python's unbounded integers."""
    numbers = []
    for _ in range(n):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        numbers.append(z ^ (z >> 31))
    return numbers


def test_the_slow_transcription_gives_the_published_numbers():
    # The test vector of Vigna's splitmix64.c for the seed 1234567.
    assert splitmix64(1234567, 3) == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(INT64)
@settings(deadline=None)
def test_a_key_of_one_number_is_splitmix64s_first_output(seed):
    (expected,) = splitmix64(seed % 2**64, 1)
    assert key_of(seed) % 2**64 == expected


@given(INT64, INT64, st.text(max_size=8))
@settings(deadline=None)
def test_keys_of_equals_key_of_number_by_number(a, b, text):
    expected = key_of(a, text, b)
    assert keys_of(torch.tensor([a, 0]), text, b).tolist()[0] == expected
    assert keys_of(a, text, torch.tensor([0, b])).tolist()[1] == expected
    assert keys_of(a, text, b).item() == expected


def test_keys_broadcast():
    grid = keys_of(torch.arange(3)[:, None], torch.arange(4))
    assert grid.tolist() == [[key_of(i, j) for j in range(4)] for i in range(3)]


def test_texts_and_order_matter_and_keys_are_stable_over_time():
    assert len({key_of(1, 2), key_of(2, 1), key_of("a", "b"), key_of("ab"), key_of("b", "a"), key_of(12)}) == 6
    assert key_of(0, "crop", 7) == 5807135401234346663  # a change of this number would change every run's draws


def test_undecodable_file_names_have_keys():
    one, other = (name.decode("utf-8", "surrogateescape") for name in (b"\xff.jpg", b"\xfe.jpg"))
    assert key_of(one) != key_of(other)


def test_uniform_numbers_are_the_top_24_bits_of_a_key():
    keys = keys_of(5, torch.arange(100))
    expected = [(key_of(k, "x") % 2**64 >> 40) / 2**24 for k in keys.tolist()]
    assert uniform(keys, "x").tolist() == expected


@pytest.mark.parametrize("draw", ["x", 3])
def test_uniform_numbers_are_uniform_over_keys(draw):
    u = uniform(keys_of(11, torch.arange(100_000)), draw).double().sort().values
    steps = torch.arange(1, len(u) + 1) / len(u)
    assert (u - steps).abs().max() < 1.63 / len(u) ** 0.5  # Kolmogorov and Smirnov at 1 %
    assert u.min() >= 0
    assert u.max() < 1


def test_draws_of_neighbouring_keys_and_names_are_uncorrelated():
    keys = torch.arange(50_000)
    a, b = uniform(keys, "a"), uniform(keys, "b")
    for x, y in ((a, b), (a[1:], a[:-1]), (a, uniform(keys, 0)), (uniform(keys, 0), uniform(keys, 1))):
        assert torch.corrcoef(torch.stack((x, y)))[0, 1].abs() < 4 / len(keys) ** 0.5


def test_a_table_of_uniform_numbers_equals_single_ones():
    keys, names = keys_of(3, torch.arange(50)), np.array([key_of("a"), 0, -1, key_of("b")])
    expected = uniform(keys_of(keys, 7)[:, None], torch.from_numpy(names))
    assert uniform_table(keys, 7, names).tolist() == expected.tolist()


def test_uniform_takes_a_range_and_a_tensor_of_names():
    keys = torch.arange(7)
    u = uniform(keys[:, None], torch.tensor([4, 9]), -2.0, 3.0)
    torch.testing.assert_close(u[:, 1], uniform(keys, 9) * 5 - 2)
    assert u.shape == (7, 2)
    assert u.dtype == torch.float32


def test_permutation_is_one_and_depends_on_its_parts_alone():
    torch.manual_seed(0)
    first = permutation(1000, 3, "epoch", 1)
    torch.manual_seed(1)
    assert first.sort().values.tolist() == list(range(1000))
    assert torch.equal(first, permutation(1000, 3, "epoch", 1))
    assert not torch.equal(first, permutation(1000, 3, "epoch", 2))
