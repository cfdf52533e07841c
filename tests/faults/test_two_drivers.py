"""Two drivers at once on one store: both end well, and the store holds what one driver would have stored."""

from __future__ import annotations

import pytest

from tests.faults.conftest import Place
from tests.faults.content import Content, difference, read_content
from tests.faults.job import Job


@pytest.mark.slow
def test_two_drivers_at_once(place: Place, expected: Content) -> None:
    with Job(place.words, place.logs) as first, Job(place.words, place.logs) as second:
        assert (first.wait(), second.wait()) == (0, 0), first.stderr + second.stderr
        assert "ok 13" in first.stdout and "ok 13" in second.stdout
    assert not difference(read_content(place.store), expected)
