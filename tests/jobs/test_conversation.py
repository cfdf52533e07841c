"""Which video the demo asks about."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.conversation import subject


def row(start_s: float, duration_s: float = 60.0) -> dict[str, Any]:
    return {"needle": {"start_s": start_s, "end_s": start_s + 1.5}, "duration_s": duration_s}


@pytest.mark.parametrize("start_s", [6.6, 8.0, 23.0, 39.5, 52.8])
def test_a_needle_in_the_middle_of_a_window_proves_nothing(start_s: float) -> None:
    """60 frames are windows of 16, 16, 16 and 12; their middles are the frames 8, 24, 40 and 54."""
    other = row(30.0)
    assert subject([row(start_s), other, row(31.0)]) is other


def test_where_all_are_in_the_middle_it_is_the_first() -> None:
    rows = [row(23.0), row(8.0)]
    assert subject(rows) is rows[0]
    assert subject([row(54.0, 80.0), row(23.0, 80.0)])["needle"]["start_s"] == 54.0
