"""What driver and workers of training import, which is most of what their start takes: import this first.

Nothing that is imported is garbage, yet the collector looks through all of it again and again: a fifth of the time.
With each model transformers imports its losses of object detection, and they SciPy: a tenth.
"""

from __future__ import annotations

import gc
from importlib import import_module
from unittest import mock

from pipelines.ray_session import announce_preloaded

_MODULES = ("ray.train.torch", "pipelines.train.trainer", "pipelines.train.materials", "pipelines.train.loop")

gc.disable()
try:
    with mock.patch("transformers.utils.is_scipy_available", return_value=False):
        for _name in _MODULES:
            import_module(_name)
finally:
    gc.enable()
gc.freeze()  # what is there by now will stay
announce_preloaded()
