"""Settings that every test runs under, and the order in which two workers share the tests out."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import settings

# Before torch and ray are imported: one thread per process, so that a run's time and its last digits
# do not depend on how many cores the machine has; no look-ups at the hub.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

# A loaded machine is slow, not wrong; the same examples on every run, so that a failure can be repeated.
settings.register_profile("project", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("project")

# What takes longest comes first, so that both workers end at about the same time.
_LONGEST_FIRST = (
    "tests/faults",
    "tests/pipelines/serve",
    "tests/pipelines/train",
    "tests/pipelines/extract",
    "tests/jobs",
    "tests/test_quickstarts.py",
    "tests/test_readme.py",
    "tests/pipelines",
)
# Their tests share something that takes long to start: one worker runs them all.
_TOGETHER = ("tests/pipelines/serve/",)


def _rank(item: pytest.Item) -> tuple[bool, int]:
    path = item.nodeid
    place = next((n for n, start in enumerate(_LONGEST_FIRST) if path.startswith(start)), len(_LONGEST_FIRST))
    return item.get_closest_marker("slow") is None, place


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # one of several workers; alone, tests keep the order of the tree
        items.sort(key=_rank)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Files are shared out whole, for the sake of their fixtures, in the order of collection."""
    from xdist.scheduler import LoadScopeScheduling

    class FileScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            together = [folder for folder in _TOGETHER if nodeid.startswith(folder)]
            return together[0] if together else nodeid.split("::")[0]

    config.option.loadscopereorder = False
    return FileScheduling(config, log)
