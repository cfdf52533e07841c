"""Users' stages as plain functions: which frames they see, what they may return, what becomes of their mistakes."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipelines.extract.carrier import pack, unpack
from pipelines.extract.stage_columns import StageFrames, columns_of, reduced, run_stage
from pipelines.extract.stages import FrameStage, StageError, find_stage, frame_stage
from tests.pipelines.extract import own_stages

OWN = own_stages.__name__


def frames_of(sizes: list[tuple[int, int, int]], edges_px: tuple[int, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A decoded unit of sources with (frames, width, height); brightness of frame ``i`` of source ``m`` is 10 m + i."""
    collected = StageFrames(edges_px)
    for member, (count, width, height) in enumerate(sizes):
        collected.begin(expected=2)
        for frame in range(count):
            collected.add(Image.new("RGB", (width, height), (10 * member + frame,) * 3))
    members = [
        {"source": f"file:///v{member}.mp4", "num_sampled": count, "chunk": 0, "num_chunks": 1}
        for member, (count, *_) in enumerate(sizes)
    ]
    pts_s = np.concatenate([np.arange(count, dtype=np.float64) for count, *_ in sizes])
    return unpack(pack({"unit_id": "u", "members": members}, {"pts_s": pts_s, **collected.arrays()}))


def run(stage: FrameStage, sizes: list[tuple[int, int, int]]) -> Mapping[str, pa.ChunkedArray]:
    header, arrays = run_stage(*frames_of(sizes, (stage.declared.edge_px,)), stage, stage.build())
    assert not [name for name in arrays if name.startswith("pixels")]
    return columns_of(unpack(pack(header, arrays))[1], stage)


def returning(values: Callable[[int], Any], kind: pa.DataType = pa.float32()) -> FrameStage:  # noqa: B008
    @frame_stage(columns={"value": kind}, edge_px=16)
    def measure(frames_THWC: np.ndarray, pts_s: np.ndarray) -> Any:
        return {"value": values(len(pts_s))}

    return _in_memory(measure)


def _in_memory(function: Any) -> FrameStage:
    module = sys.modules[__name__]
    vars(module)[function.__name__] = function
    return find_stage(f"{__name__}:{function.__name__}", {})


def test_a_function_of_a_file_with_options() -> None:
    stage = find_stage(f"{OWN}:brightness", {"factor": 2.0})
    assert (stage.name, stage.declared.version, stage.declared.edge_px) == ("brightness", "3", 16)
    values = run(stage, [(3, 64, 32), (0, 8, 8), (4, 8, 24)])["brightness"]
    assert values.type == pa.float32()
    assert values.to_pylist() == [0, 2, 4, 40, 42, 44, 46]


def test_a_class_is_built_once_and_called_per_source() -> None:
    stage = find_stage(f"{OWN}:Reader", {"language": "zh"})
    columns = run(stage, [(2, 64, 32), (1, 8, 24)])
    assert columns["words"].to_pylist() == [None, ["zh", "2"], None] and columns["calls"].to_pylist() == [1, 1, 2]


@pytest.mark.parametrize(
    "values",
    [
        lambda count: np.arange(count),
        lambda count: list(range(count)),
        lambda count: tuple(float(i) for i in range(count)),
        lambda count: pa.array(range(count)),
        lambda count: pa.chunked_array([pa.array([0.0]), pa.array(range(1, count), pa.float64())]),
    ],
    ids=["numpy", "list", "tuple", "arrow", "chunks"],
)
def test_what_a_column_may_be(values: Callable[[int], Any]) -> None:
    assert run(returning(values), [(3, 8, 8)])["value"].to_pylist() == [0, 1, 2]


def test_tensors_vectors_and_nulls() -> None:
    import torch

    vectors = run(returning(lambda count: torch.ones(count, 2), pa.list_(pa.float32())), [(2, 8, 8)])
    assert vectors["value"].to_pylist() == [[1, 1], [1, 1]]
    missing = run(returning(lambda count: [None, float("nan")]), [(2, 8, 8)])["value"].to_pylist()
    assert missing[0] is None and np.isnan(missing[1])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (lambda count: [0.0] * (count + 1), "column 'value' has 4 values for 3 frames"),
        (lambda count: ["x"] * count, "column 'value' is declared float: "),
        (lambda count: 1.0, "column 'value' is declared float: a single float64 is no column"),
        (lambda count: np.zeros((count, 2)), "column 'value' is declared float: "),
    ],
)
def test_what_does_not_fit_the_declaration(values: Callable[[int], Any], message: str) -> None:
    with pytest.raises(StageError, match=f"^stage measure .*v0.mp4: {re.escape(message)}") as caught:
        run(returning(values), [(3, 8, 8)])
    assert "\n" not in str(caught.value)


def test_columns_that_are_not_declared() -> None:
    @frame_stage(columns={"value": pa.int8()}, edge_px=16)
    def other(frames_THWC: np.ndarray, pts_s: np.ndarray) -> Any:
        return {"values": [1] * len(pts_s)} if len(pts_s) < 3 else [1] * len(pts_s)

    stage = _in_memory(other)
    with pytest.raises(StageError, match=r"returned columns \['values'\], declared are \['value'\]$"):
        run(stage, [(2, 8, 8)])
    with pytest.raises(StageError, match=r"returned list; it must return a dictionary with \['value'\]$"):
        run(stage, [(3, 8, 8)])


def test_a_failing_stage_stops_or_leaves_nulls() -> None:
    stage = find_stage(f"{OWN}:picky", {})
    assert run(stage, [(2, 8, 8)])["picky"].to_pylist() == [True, True]
    with pytest.raises(StageError) as caught:
        run(stage, [(2, 8, 8), (20, 8, 8)])
    text = Path(own_stages.__file__).read_text()
    place = f"{own_stages.__file__}:{text[: text.index('raise RuntimeError')].count(chr(10)) + 1}"
    assert str(caught.value).startswith(
        f"stage picky failed for /v1.mp4: RuntimeError: with this one ({place}); mend it"
    )
    tolerant = find_stage(f"{OWN}:picky", {}, nulls_on_error=True)
    unit = frames_of([(20, 8, 8), (1, 8, 8), (0, 8, 8), (20, 8, 8)], (16,))
    header, arrays = run_stage(*unit, tolerant, tolerant.build())
    assert header["notes"] == {f"sources with nulls because stage picky raised RuntimeError ({place})": 2}
    assert columns_of(arrays, tolerant)["picky"].to_pylist() == [None] * 20 + [True] + [None] * 20


def test_a_call_that_kills_its_process_is_not_repeated_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ray does it: a new process with the same unit, until it returns."""
    code = f"""if True:
        from pipelines.extract.stage_columns import Calls, columns_of, run_stage
        from pipelines.extract.stages import find_stage
        from tests.pipelines.extract.test_stage_columns import frames_of
        stage = find_stage("{OWN}:deadly", {{}}, nulls_on_error=True)
        unit = frames_of([(1, 8, 8), (20, 8, 8)], (16,))
        header, arrays = run_stage(*unit, stage, stage.build(), calls=Calls("deadly-run"))
        print(header["notes"], columns_of(arrays, stage)["deadly"].to_pylist())
    """
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    processes = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True) for _ in range(4)]
    assert [process.returncode for process in processes] == [-signal.SIGKILL] * 3 + [0]
    note = f"sources with nulls because stage deadly raised ProcessDied ({OWN}:deadly)"
    assert processes[3].stdout.strip() == f"{ {note: 1} } {[True] + [None] * 20}"
    assert not list(tmp_path.iterdir())


def test_a_class_that_cannot_be_built() -> None:
    stage = find_stage(f"{OWN}:Unbuildable", {})
    with pytest.raises(
        StageError, match=r"^stage Unbuildable: cannot be built: FileNotFoundError: weights\.bin is not"
    ):
        stage.build()


def test_frames_stay_until_the_last_stage_that_needs_them() -> None:
    stages = [find_stage(f"{OWN}:{name}", {}) for name in ("brightness", "Reader")]
    header, arrays = frames_of([(2, 64, 32)], (16, 0, 16))
    assert arrays["pixels16.0"].shape == (2, 8, 16, 3) and arrays["pixels0.0"].shape == (2, 32, 64, 3)
    header, arrays = run_stage(header, arrays, stages[0], stages[0].build(), later_edges_px=(0, 16))
    assert {"pixels16.0", "pixels0.0", "stage.brightness"} < arrays.keys()
    header, arrays = run_stage(header, arrays, stages[1], stages[1].build())
    assert set(arrays) == {"pts_s", "pixels16.0", "stage.brightness", "stage.Reader"}


def test_frames_cannot_be_written_to() -> None:
    @frame_stage(columns={"value": pa.int8()}, edge_px=16)
    def scribble(frames_THWC: np.ndarray, pts_s: np.ndarray) -> Any:
        frames_THWC[:] = 0

    with pytest.raises(StageError, match="read-only"):
        run(_in_memory(scribble), [(2, 8, 8)])


def test_a_source_that_is_decoded_again_may_have_another_size() -> None:
    collected = StageFrames((8,))
    for sizes in ([(16, 8)], [(16, 8), (16, 8)]):
        collected.begin(None)
        for size in sizes:
            collected.add(Image.new("RGB", size))
    collected.clear()
    collected.add(Image.new("RGB", (4, 4)))
    collected.begin(None)
    collected.clear()
    assert {name: array.shape for name, array in collected.arrays().items()} == {
        "pixels8.0": (1, 4, 8, 3),
        "pixels8.1": (1, 4, 4, 3),
    }


@pytest.mark.parametrize(
    ("size", "edge_px", "expected"),
    [((1280, 720), 384, (384, 216)), ((720, 1280), 384, (216, 384)), ((100, 50), 384, (100, 50)),
     ((1280, 720), 0, (1280, 720)), ((5000, 1), 384, (384, 1))],
)  # fmt: skip
def test_sizes(size: tuple[int, int], edge_px: int, expected: tuple[int, int]) -> None:
    assert reduced(Image.new("RGB", size), edge_px).size == expected
