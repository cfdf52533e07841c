"""The whole job with users' stages on real Ray: their columns, mistakes, resuming, other options."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
import yaml

from jobs.extract import DEFAULT_CONFIG, main
from pipelines.config import load_config
from pipelines.errors import UserError
from pipelines.extract import ExtractConfig, store_uri
from pipelines.extract.carrier import pack
from pipelines.extract.dataflow import FrameStageActor, check_gpus, read_report
from pipelines.extract.stages import find_stage
from pipelines.extract.towers import TowerBundle
from pipelines.store import FeatureStore
from tests.pipelines.extract import own_stages
from tests.pipelines.extract.conftest import extract_without_ray

SHOTS = {"call": "pipelines.extract.shot_boundaries:shot_boundaries", "options": {"threshold": 0.3}, "cpus": 0.1}
# A unit per source, so that a job can stop between them; the one of 20 frames is what the stage `picky` dislikes.
SETTINGS = ("sampling=fps:1", "unit_frames=32", "encode.batch_frames=16", "keep_all_below=0", "name=test")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One Ray for all jobs here."""
    ray.init(
        address="local",
        num_cpus=3,
        object_store_memory=300 << 20,
        include_dashboard=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()


@pytest.fixture
def words(corpus: Path, workdir: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """The words of a command over three sources, with stages in a settings file as users have it."""
    listed = tmp_path / "sources.txt"
    listed.write_text("\n".join(str(corpus / name) for name in ("middle.mp4", "nested/short.mp4", "text.mp4")))

    def give(*stages: dict[str, object]) -> list[str]:
        settings = tmp_path / "settings.yaml"
        base = yaml.safe_load(DEFAULT_CONFIG.read_text())
        settings.write_text(yaml.safe_dump({**base, "stages": list(stages), "max_failed_fraction": 1.0}))
        place = (f"source={listed}", f"store={tmp_path / 'runs'}", f"workdir={workdir}")
        return ["--config", str(settings), *place, *SETTINGS]

    return give


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(Path(own_stages.__file__).read_text())
    return path


def store_of(words: list[str]) -> FeatureStore:
    return FeatureStore.open(store_uri(load_config(ExtractConfig, Path(words[1]), words[2:])))


def frames(store: FeatureStore, columns: list[str]) -> list[tuple[object, ...]]:
    videos = store.videos()
    rows = []
    for video_id, status in zip(videos["video_id"].to_pylist(), videos["status"].to_pylist(), strict=True):
        if status != "failed":
            rows += [tuple(row[name] for name in columns) for row in store.frames(video_id, columns).to_pylist()]
    return rows


def test_stages_of_a_job(
    cluster: None,
    words: Callable[..., list[str]],
    mine: Path,
    bundle: TowerBundle,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bright = {"call": f"{mine}:brightness", "options": {"factor": 2.0}, "cpus": 0.1}
    picky = {"call": f"{mine}:picky", "cpus": 0.1}

    # it fails for one source: the job stops, what is committed stays
    command = words(bright, SHOTS, picky)
    assert main(command) == 2
    captured = capsys.readouterr()
    error = captured.err.splitlines()[-1]
    assert error.startswith("error: stage picky failed for ") and "middle.mp4: RuntimeError: with this one" in error
    assert f"({mine}:" in error and "on_error" in error and "Traceback" not in captured.err
    survived = dict(store_of(command).commits)

    # told to go on, it goes on in the same store
    command = words(bright, SHOTS, {**picky, "on_error": None})
    assert main(command) == 0
    out = capsys.readouterr().out
    (note,) = (line for line in out.splitlines() if line.startswith("note"))
    assert "sources with nulls because stage picky raised RuntimeError" in note and note.endswith(": 1")
    stages = [line.split()[0] for line in out.splitlines() if line.split()[1:2] in (["20"], ["25"])]
    assert stages == ["decode", "brightness", "shot_boundaries", "picky", "encode", "commit"]
    store = store_of(command)
    assert survived.items() <= store.commits.items()
    assert {name: (stage.call, stage.version) for name, stage in store.manifest.stages.items()} == {
        "brightness": (f"{mine}:brightness", "3"),
        "shot_boundaries": (SHOTS["call"], "1"),
        "picky": (f"{mine}:picky", "1"),
    }
    config = load_config(ExtractConfig, Path(command[1]), [*command[2:], f"store={tmp_path / 'reference'}"])
    columns = ["frame_index", "brightness", "shot_score", "shot_boundary", "shot", "picky", "similarity"]
    rows = frames(store, columns)
    assert rows == frames(extract_without_ray(config, bundle), columns) and len(rows) == 25
    assert store.verify().problems == ()
    assert all(0 < row[1] < 512 for row in rows)
    assert [row[2] is None for row in rows].count(True) == 2  # of the first frame of each source
    assert [row[5] for row in rows].count(None) == 20

    # other resources: nothing to do; other options: another store
    command = words({**bright, "cpus": 0.2, "max_actors": 2}, SHOTS, {**picky, "on_error": None})
    assert main(command) == 0
    assert "nothing to do" in capsys.readouterr().out
    command = words({**bright, "options": {"factor": 1.0}}, SHOTS, picky)
    assert store_uri(load_config(ExtractConfig, Path(command[1]), command[2:])) != store.uri


def test_a_mistake_is_told_before_anything_is_read(
    words: Callable[..., list[str]], mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words({"call": f"{mine}:plain"})) == 2
    captured = capsys.readouterr()
    assert "is no stage; decorate it" in captured.err and captured.err.count("\n") == 1
    assert not captured.out and not (tmp_path / "runs").exists()


def test_a_stage_that_cannot_be_built_is_a_refusal(mine: Path) -> None:
    actor = FrameStageActor(find_stage(f"{mine}:Unbuildable", {}), (), "run")
    row = actor(pack({"unit_id": "u", "members": [], "began_at_s": 0.0}, {}))
    with pytest.raises(UserError, match=r"^stage Unbuildable: cannot be built: FileNotFoundError: weights\.bin is not"):
        read_report(row)


def test_stages_that_find_no_gpu_do_not_wait_for_ever(words: Callable[..., list[str]], mine: Path) -> None:
    command = words({"call": f"{mine}:brightness", "gpus": 0.5})
    config = load_config(ExtractConfig, Path(command[1]), command[2:])
    with pytest.raises(UserError, match=r"take 0\.5 GPUs at least, this machine has 0"):
        check_gpus(config, {"CPU": 2})
    with pytest.raises(UserError, match=r"take 1\.5 GPUs at least, this machine has 1"):
        check_gpus(config, {"CPU": 2, "GPU": 1})
    shared = load_config(ExtractConfig, Path(command[1]), [*command[2:], "encode.gpus=0.5"])
    check_gpus(shared, {"CPU": 2, "GPU": 1})
