"""The actors around the functions, without Ray: timing, refusals, pool sizes."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from longvu_model.tower_pixels import TowerPixels
from pipelines import storage
from pipelines.config import load_config
from pipelines.errors import JobStopped, UserError
from pipelines.extract.carrier import unpack
from pipelines.extract.config import ExtractConfig
from pipelines.extract.dataflow import CommitActor, DecodeActor, Stage, pool_sizes, read_report
from pipelines.extract.decode import DecodeSettings
from pipelines.extract.index import index_sources
from pipelines.extract.plan import Extent, plan_units
from pipelines.extract.report import stage_speeds


def unit_row(video: Path) -> pa.Table:
    sources = index_sources(str(video))
    (unit,) = plan_units(sources, {sources[0].uri: Extent(20)}, "0" * 64, 64)
    return pa.table({"unit": [unit.to_json()]})


def decoder(**overrides: str) -> DecodeActor:
    config = load_config(ExtractConfig, None, ["source=x", *(f"decode.{key}={val}" for key, val in overrides.items())])
    pixels = {"dinov2": TowerPixels(32, (0.5,) * 3, (0.5,) * 3)}
    return DecodeActor(DecodeSettings(config.sampling, pixels, 0, config.decode))


class Nothing(Stage):
    """Stands for encode and commit where only the header matters."""

    def __init__(self, name: str):
        self.name = name

    def process(self, row: pa.Table) -> tuple[dict[str, object], dict[str, np.ndarray]]:
        header, _ = unpack(row)
        return {"unit_id": header["unit_id"], "counts": {"sampled": 20}, "notes": {}}, {}


def test_stages_note_their_time_and_worker(corpus: Path) -> None:
    row = decoder()(unit_row(corpus / "middle.mp4"))
    header, arrays = unpack(row)
    assert arrays["dinov2"].shape == (20, 32, 32, 3) and header["members"][0]["status"] == "ok"
    report = read_report(Nothing("commit")(Nothing("encode")(row)))
    assert list(report.seconds) == list(report.workers) == ["decode", "encode", "commit"]
    assert report.seconds["decode"] > report.seconds["encode"] > 0
    decode, encode, _ = stage_speeds([report], finished_at_s=report.began_at_s + 4)
    assert decode.achieved == encode.achieved == 5
    assert decode.ceiling == pytest.approx(20 / report.seconds["decode"])
    assert decode.gap == pytest.approx(decode.ceiling / 5)


def test_a_refusal_reaches_the_driver_as_one_line(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pipelines.extract.decode as decode_module

    def refuse(*_: object, **__: object) -> None:
        raise ImportError("decord is not installed")

    monkeypatch.setattr(decode_module, "supervised_blocks", refuse)
    row = decoder(backend="decord")(unit_row(corpus / "middle.mp4"))
    committed = CommitActor("file:///nowhere", (), (), "run", attempts=1)(Nothing("encode")(row))
    with pytest.raises(UserError, match=r"^decode\.backend=decord: decord is not installed$"):
        read_report(committed)


def test_a_full_disk_stops_the_job(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage, "sha256", full)
    with pytest.raises(JobStopped, match="No space left on device; what is committed stays"):
        read_report(decoder()(unit_row(corpus / "middle.mp4")))


@pytest.mark.parametrize(
    ("resources", "overrides", "expected"),
    [
        ({"CPU": 2}, [], (2, 1, 1, 0.0)),
        ({"CPU": 16, "GPU": 1}, [], (16, 1, 4, 1.0)),
        ({"CPU": 512, "GPU": 64}, [], (512, 64, 128, 1.0)),
        ({"CPU": 512, "GPU": 64}, ["encode.gpus=0.5", "decode.max_actors=99"], (99, 128, 128, 0.5)),
        ({"CPU": 8, "GPU": 1}, ["encode.gpus=0", "encode.max_actors=3"], (8, 3, 2, 0.0)),
    ],
)
def test_pools(resources: dict[str, float], overrides: list[str], expected: tuple[int, int, int, float]) -> None:
    config = load_config(ExtractConfig, None, ["source=x", *overrides])
    pools = pool_sizes(config, resources)
    assert (pools.decode, pools.encode, pools.commit, pools.encode_gpus) == expected


def test_smallest_pools_fit_two_cpus() -> None:
    config = load_config(ExtractConfig, None, ["source=x"])
    assert config.decode.cpus + config.encode.cpus + config.commit.cpus < 2
