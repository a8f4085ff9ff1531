"""One suspect being asked."""

from __future__ import annotations

import pytest

from tests.ownership.services import images
from tests.ownership.test_transcript import Honest, recorded
from wmlightning.ownership.interview import Interview


@pytest.mark.parametrize("first", [0, 2])
def test_all_at_once_is_one_by_one(first: int) -> None:
    """Also where the budget ends before images that were asked about earlier."""
    for together in (True, False):
        with recorded(Honest(), None, 6) as asked:
            asked.ask(images(3, 5 + first))
            interview = Interview(asked)
            labels = interview.ask(images(10)).tolist() if together else list(interview.stream(images(10)))
            assert labels == [0, 1, 2], "what was not asked has no answer, not even a missing one"
            assert (interview.answered, interview.silent, interview.ended) == (3, 0, "the budget was spent")
