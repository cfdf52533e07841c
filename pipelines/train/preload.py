"""What driver and workers of training import, which is most of what their start takes: import this first.

Nothing that is imported is garbage, yet the collector looks through all of it again and again: a fifth of the time.
"""

from __future__ import annotations

import gc
import os
from importlib import import_module

from pipelines.ray_session import SKIP_PRELOAD, announce_preloaded

_MODULES = ("ray.train.torch", "pipelines.train.trainer", "pipelines.train.materials", "pipelines.train.loop")

if SKIP_PRELOAD not in os.environ:
    gc.disable()
    try:
        for _name in _MODULES:
            import_module(_name)
    finally:
        gc.enable()
    gc.freeze()  # what is there by now will stay
    announce_preloaded()
