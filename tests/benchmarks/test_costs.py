"""The costs in the documentation are those that the estimators give."""

from __future__ import annotations

import re

from tests.benchmarks.costs import tables
from tests.documents import ROOT


def test_the_page_says_what_the_estimators_say() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    found = re.search(r"<!-- costs -->\n(.*?)\n<!-- /costs -->", page, re.DOTALL)
    assert found, "docs/operations.md has no <!-- costs --> marks"
    assert found[1] == tables(), "run python -m tests.benchmarks.costs and put its output between the marks"
