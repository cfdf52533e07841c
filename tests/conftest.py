"""Settings that every test runs under."""

from __future__ import annotations

import os

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
