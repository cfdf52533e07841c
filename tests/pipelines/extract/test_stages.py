"""Users' stages: found and checked before anything is read, run for every source, stored as columns."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipelines.config import Config, ConfigError, load_config, setting
from pipelines.extract.carrier import pack, unpack
from pipelines.extract.stage_columns import FAILURES, StageFrames, columns_of, reduced, run_stage
from pipelines.extract.stages import FrameStage, StageError, Stages, find_stage, frame_stage

FILE = '''
from __future__ import annotations
from dataclasses import dataclass
import pyarrow as pa
from pipelines.extract.stages import frame_stage

@dataclass
class Scale:
    factor: float = 1.0

@frame_stage(columns={"brightness": pa.float32()}, version="3", edge_px=16)
def brightness(frames_THWC, pts_s, *, factor=1.0):
    return {"brightness": frames_THWC.mean(axis=(1, 2, 3)) * Scale(factor).factor}

@frame_stage(columns={"words": pa.list_(pa.string()), "seen": pa.int32()}, version="1", edge_px=0)
class Reader:
    def __init__(self, language: str = "en"):
        self.language, self.calls = language, 0

    def __call__(self, frames_THWC, pts_s):
        self.calls += 1
        return {"words": [[self.language] if i else None for i in range(len(pts_s))], "seen": [self.calls] * len(pts_s)}

@frame_stage(columns={"boom": pa.bool_()}, edge_px=16)
def explode(frames_THWC, pts_s):
    raise RuntimeError("no luck\\nwith this one")

def plain(frames_THWC, pts_s):
    return {}
'''


class Settings(Config):
    """A configuration with stages, as extraction's is one."""

    stages: Stages = setting((), about="stages")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def frames_of(sizes: list[tuple[int, int, int]], edges_px: tuple[int, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A decoded unit of sources with (frames, width, height); brightness of frame ``i`` of source ``m`` is 10 m + i."""
    collected = StageFrames(edges_px)
    for member, (count, width, height) in enumerate(sizes):
        for frame in range(count):
            collected.add(member, Image.new("RGB", (width, height), (10 * member + frame,) * 3), expected=2)
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


def test_a_function_of_a_file_with_options(file: Path) -> None:
    stage = find_stage(f"{file}:brightness", {"factor": 2.0})
    assert (stage.name, stage.declared.version, stage.declared.edge_px) == ("brightness", "3", 16)
    values = run(stage, [(3, 64, 32), (0, 8, 8), (4, 8, 24)])["brightness"]
    assert values.type == pa.float32()
    assert values.to_pylist() == [0, 2, 4, 40, 42, 44, 46]


def test_a_class_is_built_once_and_called_per_source(file: Path) -> None:
    stage = find_stage(f"{file}:Reader", {"language": "zh"})
    columns = run(stage, [(2, 64, 32), (1, 8, 24)])
    assert columns["words"].to_pylist() == [None, ["zh"], None] and columns["seen"].to_pylist() == [1, 1, 2]


def test_workers_need_not_have_the_file(file: Path) -> None:
    import cloudpickle

    stage = find_stage(f"{file}:brightness", {})
    file.unlink()
    code = (
        "import pickle, sys, numpy as np; stage = pickle.load(sys.stdin.buffer);"
        "print(stage.build()(np.full((2, 4, 4, 3), 7, np.uint8), np.arange(2.0)))"
    )
    worker = subprocess.run([sys.executable, "-c", code], input=cloudpickle.dumps(stage), capture_output=True)
    assert b"7., 7." in worker.stdout, worker.stderr


def test_settings_find_stages_without_ray_or_torch(file: Path) -> None:
    code = f"""if True:
        import sys
        from pipelines.config import Config, setting
        from pipelines.extract.stages import Stages
        class Settings(Config):
            stages: Stages = setting((), about="stages")
        shots = "pipelines.extract.shot_boundaries:shot_boundaries"
        Settings(stages=[{{"call": "{file}:brightness"}}, {{"call": shots}}])
        sys.exit(f"imported {{heavy}}" if (heavy := {{"ray", "torch", "mlflow"}} & sys.modules.keys()) else 0)
    """
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


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


def test_a_failing_stage_stops_or_leaves_nulls(file: Path) -> None:
    stage = find_stage(f"{file}:explode", {})
    with pytest.raises(StageError) as caught:
        run(stage, [(2, 8, 8)])
    line = FILE[: FILE.index("raise RuntimeError")].count("\n") + 1
    assert f"failed for file:///v0.mp4: RuntimeError: with this one ({file}:{line}); mend it" in str(caught.value)
    tolerant = find_stage(f"{file}:explode", {}, nulls_on_error=True)
    header, arrays = run_stage(*frames_of([(2, 8, 8), (0, 8, 8), (1, 8, 8)], (16,)), tolerant, tolerant.build())
    assert header[FAILURES] == {"explode": 2}
    assert columns_of(arrays, tolerant)["boom"].to_pylist() == [None] * 3


def test_frames_stay_until_the_last_stage_that_needs_them(file: Path) -> None:
    stages = [find_stage(f"{file}:{name}", {}) for name in ("brightness", "Reader")]
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


def test_dropped_members_leave_no_frames() -> None:
    collected = StageFrames((8,))
    for member in (0, 1, 1):
        collected.add(member, Image.new("RGB", (16, 8)), None)
    collected.drop(1)
    collected.add(1, Image.new("RGB", (4, 4)), None)
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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("mine", "must be module:function or path/to/file.py:function"),
        ("nowhere/mine.py:f", "nowhere/mine.py cannot be read (No such file or directory); relative paths start at"),
        ("no_such_module:f", "no module 'no_such_module'; install it, or give its file as no_such_module.py:f"),
        ("pipelines.extract.shot_boundaries:cuts", "has no 'cuts'; its stages are: shot_boundaries"),
        ("pipelines.extract.stages:find_stage", "is no stage; decorate it with @frame_stage"),
    ],
)
def test_a_call_that_leads_nowhere(call: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^stages.*{re.escape(message)}") as caught:
        Settings_of(call)
    assert "\n" not in str(caught.value)


def Settings_of(*calls: str, **fields: Any) -> Settings:
    import yaml

    return load_config(Settings, None, [f"stages={yaml.safe_dump([{'call': call, **fields} for call in calls])}"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import absent_package", "there is no module 'absent_package'; install it on every node"),
        ("x = 1 +", r"cannot be imported: SyntaxError: invalid syntax \(.*mine.py:1\)"),
        ("\nx = y", r"cannot be imported: NameError: name 'y' is not defined \(.*mine.py:2\)"),
    ],
)
def test_a_file_that_cannot_be_imported(text: str, message: str, file: Path) -> None:
    file.write_text(text)
    with pytest.raises(StageError, match=message):
        find_stage(f"{file}:f", {})


def test_options_that_are_not_taken(file: Path) -> None:
    with pytest.raises(StageError, match=r"unexpected keyword argument 'facto'.* takes the options factor$"):
        find_stage(f"{file}:brightness", {"facto": 1})
    with pytest.raises(StageError, match=r"takes the options language$"):
        find_stage(f"{file}:Reader", {"factor": 1})


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"columns": {"similarity": pa.float32()}}, "column 'similarity' is one of the store's own"),
        ({"columns": {"siglip": pa.float32()}}, "column 'siglip' is one of the store's own"),
        ({"columns": {"a b": pa.float32()}}, "letters, digits and _"),
        ({"columns": {"score": "float"}}, "'float' is not a type that can be declared"),
        ({"columns": {"score": pa.struct([("x", pa.int8())])}}, "is not a type that can be declared"),
        ({"columns": {}}, "declare at least one"),
        ({"columns": {"score": pa.int8()}, "version": 1}, "version=1: must be text"),
        ({"columns": {"score": pa.int8()}, "edge_px": -1}, "edge_px=-1"),
    ],
)
def test_declarations_are_checked(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(StageError, match=re.escape(message)):
        frame_stage(**declared)


def test_stages_that_clash(file: Path) -> None:
    other = file.with_name("other.py")
    other.write_text(FILE.replace("def brightness", "def glow"))
    with pytest.raises(ConfigError, match="both named 'brightness'"):
        Settings_of(f"{file}:brightness", f"{file}:brightness")
    with pytest.raises(ConfigError, match="both declare column 'brightness'"):
        Settings_of(f"{file}:brightness", f"{other}:glow")


def test_what_makes_another_store(file: Path) -> None:
    call = f"{file}:brightness"
    plain = Settings_of(call)
    assert plain.digest() == Settings_of(call, cpus=2, gpus=1, max_actors=3, on_error=None).digest()
    assert plain.digest() == Settings_of(call, version="3").digest() == plain.changed().digest()
    different = [Settings_of(), Settings_of(call, options={"factor": 2.0}), Settings_of(f"{file}:Reader")]
    file.write_text(FILE.replace('version="3"', 'version="4"'))
    different.append(Settings_of(call))
    assert len({settings.digest() for settings in (plain, *different)}) == 5
    with pytest.raises(ConfigError, match="declares version '4', the settings ask for '3'"):
        Settings_of(call, version="3")


def test_settings_of_a_stage_are_checked_by_name(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"^stages\.0\.cpus=-1: must be greater than or equal to 0"):
        Settings_of(f"{file}:brightness", cpus=-1)
    with pytest.raises(ConfigError, match=r"^stages\.0\.call: is required .*; give it as stages\.0\.call=\.\.\.$"):
        load_config(Settings, None, ["stages.0.cpus=1"])
    with pytest.raises(ConfigError, match=r"^stages\.0\.cpu: unknown key; did you mean stages\.0\.cpus\?"):
        Settings_of(f"{file}:brightness", cpu=1)


def test_overrides_reach_into_stages(file: Path) -> None:
    call = f"{file}:brightness"
    settings = load_config(Settings, None, [f"stages.0.call={call}", "stages.0.options.factor=2.5", "stages.0.cpus=2"])
    (stage,) = settings.stages
    assert (stage.call, stage.options, stage.cpus, stage.version) == (call, {"factor": 2.5}, 2.0, "3")
    with pytest.raises(ConfigError, match=r"^stages\.1\.cpus=2: stages\.1 does not exist or has no part 'cpus'$"):
        load_config(Settings, None, ["stages.1.cpus=2"])
    with pytest.raises(ConfigError, match=r"^stages\.0=2: set the fields of an item one by one"):
        load_config(Settings, None, ["stages.0=2"])
