"""Advice about images, where they lie and how they are loaded: each piece is followed, and works."""

import pytest
from support.calls import follow
from support.place import Place
from support.remedies.data import CALLS


@pytest.mark.parametrize("case", CALLS)
def test_what_a_message_advises_works(case: str, place: Place) -> None:
    follow(CALLS[case], place)
