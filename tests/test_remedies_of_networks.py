"""Advice about networks, weights and methods: each piece is followed, and works. See test_remedies_complete.py."""

import pytest
from support.calls import follow
from support.place import Place
from support.remedies.networks import CALLS


@pytest.mark.parametrize("case", CALLS)
def test_what_a_message_advises_works(case: str, place: Place) -> None:
    follow(CALLS[case], place)
