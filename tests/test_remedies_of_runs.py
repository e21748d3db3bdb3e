"""Advice about runs and folders, trainings, comparisons, pictures and pages: each piece is followed, and works."""

import pytest
from support.calls import follow
from support.place import Place
from support.remedies.runs import CALLS

pytestmark = pytest.mark.long(23)


@pytest.mark.parametrize("case", CALLS)
def test_what_a_message_advises_works(case: str, place: Place) -> None:
    follow(CALLS[case], place)
