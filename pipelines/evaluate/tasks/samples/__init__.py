"""Five rows of every benchmark, of this project's making, in the benchmark's own file format.

Nothing of any benchmark is in them: questions are about coloured shapes, and their videos, a few seconds and a few
kilobytes each, are drawn when a sample is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import UserError
from pipelines.evaluate.tasks.samples import choices, needles, open_questions


@dataclass(frozen=True)
class Sample:
    """A written sample."""

    data: Path
    """The folder that the task reads."""
    options: tuple[str, ...] = ()
    """``key=value`` that the task needs to stay within five rows."""


_WRITERS: dict[str, Callable[[Path], tuple[str, ...] | None]] = {
    "egoschema": choices.write_egoschema,
    "mvbench": choices.write_mvbench,
    "video_mme": choices.write_video_mme,
    "mlvu": choices.write_mlvu,
    "mlvu_generation": open_questions.write_mlvu_generation,
    "nextqa": choices.write_nextqa,
    "egoplan": choices.write_egoplan,
    "msvd_qa": open_questions.write_msvd_qa,
    "msrvtt_qa": open_questions.write_msrvtt_qa,
    "activitynet_qa": open_questions.write_activitynet_qa,
    "needle_haystack": needles.write_haystack,
    "needle_synthetic": needles.write_synthetic,
    "needle_grid": needles.write_grid,
}


def write_sample(name: str, folder: Path) -> Sample:
    """Write the sample of a task into ``folder``; files of the same names are replaced.

    Raises:
        UserError: there is no such task.
    """
    if name not in _WRITERS:
        raise UserError(f"no sample of {name!r}; there are {', '.join(_WRITERS)}")
    folder.mkdir(parents=True, exist_ok=True)
    return Sample(folder, _WRITERS[name](folder) or ())
