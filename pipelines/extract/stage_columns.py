"""Running users' stages: the frames they see, their calls, and the columns that come of it.

Decoding keeps reduced frames beside the towers' (:class:`StageFrames`); each stage's actor turns them into a table
with a row per sampled frame (:func:`run_stage`); committing adds its columns to the frames table (:func:`columns_of`).

In the carrier row the frames of member ``m`` at edge ``e`` are ``pixels<e>.<m>``, because the members of a unit differ
in size, and a stage's table is ``stage.<name>``, an Arrow IPC stream.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from pipelines import storage
from pipelines.extract.stages import FrameStage, StageError, described, place_of

_MIN_ROOM = 16
_DEATHS = 3


class StageFrames:
    """Frames of a unit's sources for its stages, one array per source and edge.

    Args:
        edges_px: longer edges that the stages ask for; 0 for frames as decoded.
    """

    def __init__(self, edges_px: Iterable[int]):
        self._edges_px = tuple(dict.fromkeys(edges_px))
        self._frames: dict[str, np.ndarray] = {}
        self._counts: Counter[str] = Counter()
        self._member, self._expected = -1, 0

    def begin(self, expected: int | None) -> None:
        """Go on to the unit's next source, which should have so many frames."""
        self._member, self._expected = self._member + 1, expected or _MIN_ROOM

    def add(self, picture: Image.Image) -> None:
        """One more frame of the source."""
        for edge_px in self._edges_px:
            name, frame_HWC = _pixels(edge_px, self._member), np.asarray(reduced(picture, edge_px))
            count = self._counts[name]
            if not count:
                self._frames[name] = np.empty((self._expected, *frame_HWC.shape), np.uint8)
            elif count == len(self._frames[name]):
                more = np.empty((max(_MIN_ROOM, count // 2), *frame_HWC.shape), np.uint8)
                self._frames[name] = np.concatenate([self._frames[name], more])
            self._frames[name][count] = frame_HWC
            self._counts[name] += 1

    def clear(self) -> None:
        """Forget the source's frames, because it failed or is decoded again."""
        for name in (_pixels(edge_px, self._member) for edge_px in self._edges_px):
            self._counts.pop(name, None)
            self._frames.pop(name, None)

    def arrays(self) -> dict[str, np.ndarray]:
        """uint8 (T, H, W, 3) per edge and source with frames."""
        return {name: room[: self._counts[name]] for name, room in self._frames.items()}


def reduced(picture: Image.Image, edge_px: int) -> Image.Image:
    """A picture with a longer edge of at most ``edge_px``; itself where it is smaller, or where that is 0."""
    longest = max(picture.size)
    if not edge_px or longest <= edge_px:
        return picture
    width, height = (max(1, round(side * edge_px / longest)) for side in picture.size)
    # Whole pixels are averaged first where the picture is more than twice too large: a third of the time.
    return picture.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)


def run_stage(
    header: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    stage: FrameStage,
    function: Callable[..., Any],
    later_edges_px: Sequence[int] = (),
    calls: Calls | None = None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Call a stage for every member of a unit that has frames.

    Args:
        header, arrays: of the carrier row, as decoding or the stage before gave them.
        function: what ``stage.build()`` gave.
        later_edges_px: edges of stages that are still to come; frames of other edges are left out.
        calls: remembers calls in which the process died.

    Returns:
        header and arrays with the stage's table, and without the frames that nobody needs any more.

    Raises:
        StageError: what it returned is not what it declares; or it raised, unless nulls are asked for.
    """
    tables = [stage.schema.empty_table()]
    notes = Counter(header.get("notes", {}))
    first = 0
    for position, member in enumerate(header["members"]):
        last = first + member["num_sampled"]
        if last > first:
            frames_THWC = arrays[_pixels(stage.declared.edge_px, position)].view()
            frames_THWC.flags.writeable = False  # another stage may see them too
            try:
                with calls.counted(f"{header['unit_id']}.{position}") if calls else contextlib.nullcontext():
                    returned = function(frames_THWC, arrays["pts_s"][first:last])
            except Exception as error:
                if not stage.nulls_on_error:
                    raise StageError(_failure(stage, member, error)) from error
                where = place_of(error, stage.call)
                notes[f"sources with nulls because stage {stage.name} raised {type(error).__name__} ({where})"] += 1
                returned = {name: [None] * (last - first) for name in stage.schema.names}
            tables.append(_checked(stage, member, returned, last - first))
        first = last
    edge_px = stage.declared.edge_px
    spent = () if edge_px in later_edges_px else tuple(_pixels(edge_px, i) for i in range(len(header["members"])))
    left = {name: array for name, array in arrays.items() if name not in spent}
    return {**header, "notes": dict(notes)}, left | {_table(stage.name): _to_bytes(pa.concat_tables(tables))}


class ProcessDied(Exception):
    """A stage's process died more often than chance explains."""


class Calls:
    """Remembers on this machine's disk in which calls a process died: crashes of native code cannot be caught.

    Ray repeats what a dead process had in hand, without end. Nothing is left of a call that returns or raises.

    Args:
        name: of the stage and the run; another run begins to count anew.
    """

    def __init__(self, name: str):
        self._prefix = Path(tempfile.gettempdir()) / f"longvu-{name}"

    @contextlib.contextmanager
    def counted(self, call: str) -> Iterator[None]:
        """Around a call.

        Raises:
            ProcessDied: three processes died in it.
        """
        path = self._prefix.with_name(f"{self._prefix.name}-{call}")
        with path.open("ab") as begun:
            deaths = begun.tell()
            begun.write(b".")
        try:
            if deaths >= _DEATHS:
                raise ProcessDied(f"its process died {deaths} times here, by a crash or for want of memory")
            yield
        finally:
            path.unlink(missing_ok=True)


def columns_of(arrays: Mapping[str, np.ndarray], stage: FrameStage) -> dict[str, pa.ChunkedArray]:
    """A stage's columns for all sampled frames of a unit, by name."""
    table = pa.ipc.open_stream(pa.py_buffer(arrays[_table(stage.name)])).read_all()
    return dict(zip(table.column_names, table.columns, strict=True))


def _pixels(edge_px: int, member: int) -> str:
    return f"pixels{edge_px}.{member}"


def _table(name: str) -> str:
    return f"stage.{name}"


def _part(member: Mapping[str, Any]) -> str:
    chunks = f" (part {member['chunk'] + 1} of {member['num_chunks']})" if member["num_chunks"] > 1 else ""
    return f"{storage.shown(member['source'])}{chunks}"


def _failure(stage: FrameStage, member: Mapping[str, Any], error: Exception) -> str:
    return (
        f"stage {stage.name} failed for {_part(member)}: {described(error, stage.call)}; mend it and run the same "
        "command again, or set its on_error to null to store nulls for such sources"
    )


def _checked(stage: FrameStage, member: Mapping[str, Any], returned: Any, length: int) -> pa.Table:
    """What a stage returned for ``length`` frames, as its declared columns."""
    opening = f"stage {stage.name} ({stage.call}), {_part(member)}:"
    declared = set(stage.schema.names)
    if not isinstance(returned, Mapping):
        raise StageError(
            f"{opening} returned {type(returned).__name__}; it must return a dictionary with {sorted(declared)}"
        )
    if returned.keys() != declared:
        raise StageError(f"{opening} returned columns {sorted(map(str, returned))}, declared are {sorted(declared)}")
    columns = []
    for field in stage.schema:
        try:
            column = _arrow(returned[field.name], field.type)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            reason = " ".join(str(error).split())
            raise StageError(f"{opening} column {field.name!r} is declared {field.type}: {reason}") from None
        if len(column) != length:
            raise StageError(
                f"{opening} column {field.name!r} has {len(column)} values for {length} frames; return one per frame"
            )
        columns.append(column)
    return pa.table(columns, schema=stage.schema)


def _arrow(values: Any, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values.cast(kind)
    if not isinstance(values, list | tuple):
        values = np.asarray(values)  # also what other libraries call arrays and tensors
        if not values.ndim:
            raise TypeError(f"a single {values.dtype} is no column")
        if values.ndim > 1:
            values = values.tolist()
    return pa.array(values, kind, from_pandas=False)


def _to_bytes(table: pa.Table) -> np.ndarray:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return np.frombuffer(sink.getvalue(), np.uint8)
