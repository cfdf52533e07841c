"""Users' stages: found and checked before anything is read, run for every source, stored as columns."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.config import Config, ConfigError, load_config, setting
from pipelines.extract.stages import StageError, Stages, find_stage, frame_stage, stages_of
from tests.pipelines.extract import own_stages

SOURCE = Path(own_stages.__file__).read_text()


class Settings(Config):
    """A configuration with stages, as extraction's is one."""

    stages: Stages = setting((), about="stages")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


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
    other.write_text(SOURCE.replace("def brightness", "def glow"))
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
    file.write_text(SOURCE.replace('version="3"', 'version="4"'))
    different.append(Settings_of(call))
    assert len({settings.digest() for settings in (plain, *different)}) == 5
    with pytest.raises(ConfigError, match="declares version '4', the settings ask for '3'"):
        Settings_of(call, version="3")


def test_a_file_that_is_edited_later_changes_nothing(file: Path) -> None:
    settings = Settings_of(f"{file}:brightness")
    file.write_text("not even Python")
    (stage,) = stages_of(settings.stages)
    assert stage.build()(np.full((1, 2, 2, 3), 7), np.zeros(1)) == {"brightness": [7]}


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
