"""Tasks by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib import import_module

from pipelines.config import load_config
from pipelines.errors import UserError
from pipelines.evaluate.tasks.base import Task

_CLASSES: dict[str, str] = {
    "egoschema": "egoschema:EgoSchema",
    "mvbench": "mvbench:MVBench",
    "video_mme": "video_mme:VideoMME",
    "mlvu": "mlvu:MLVU",
    "mlvu_generation": "mlvu_generation:MLVUGeneration",
    "nextqa": "nextqa:NExTQA",
    "egoplan": "egoplan:EgoPlan",
    "msvd_qa": "open_qa:MSVDQA",
    "msrvtt_qa": "open_qa:MSRVTTQA",
    "activitynet_qa": "activitynet_qa:ActivityNetQA",
    "needle_haystack": "needle_haystack:NeedleHaystack",
    "needle_synthetic": "needle_synthetic:SyntheticNeedle",
    "needle_grid": "needle_synthetic:SyntheticNeedleGrid",
}


def task_names() -> list[str]:
    """Every task, in the order of lists."""
    return list(_CLASSES)


def task_class(name: str) -> type[Task]:
    """Raises UserError: there is no such task."""
    if name not in _CLASSES:
        near = difflib.get_close_matches(name, _CLASSES, n=1)
        fix = f"did you mean {near[0]}?" if near else f"there are {', '.join(_CLASSES)}"
        raise UserError(f"task {name!r} is not known; {fix}")
    module, _, attribute = _CLASSES[name].partition(":")
    found: type[Task] = getattr(import_module(f"pipelines.evaluate.tasks.{module}"), attribute)
    return found


def task(name: str, preset: str | None = None, options: Sequence[str] = ()) -> Task:
    """A task, set up.

    Args:
        name: one of :func:`task_names`.
        preset: one of the task's; its first when absent.
        options: ``key=value`` of the task's ``Options``.

    Raises:
        UserError: an unknown name, preset or option, or a value outside its range.
    """
    cls = task_class(name)
    if preset is not None and preset not in cls.presets:
        raise UserError(f"preset {preset!r} of {name}: use one of {', '.join(cls.presets)}")
    return cls(preset or next(iter(cls.presets)), load_config(cls.Options, None, options))
