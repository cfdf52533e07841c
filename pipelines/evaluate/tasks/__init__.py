"""Benchmarks: their files, prompts, frame policies and metrics."""

from pipelines.evaluate.tasks.base import Judged, Preset, Row, Task
from pipelines.evaluate.tasks.media import Clip, Shown
from pipelines.evaluate.tasks.registry import task, task_names

__all__ = ["Clip", "Judged", "Preset", "Row", "Shown", "Task", "task", "task_names"]
