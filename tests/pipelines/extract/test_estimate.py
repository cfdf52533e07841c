"""Predictions against what extraction then does, and against whole populations."""

from __future__ import annotations

import functools
import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from longvu_model import official
from longvu_model.presets import PRESETS
from pipelines.config import load_config
from pipelines.errors import UserError
from pipelines.extract import workload
from pipelines.extract.config import ExtractConfig
from pipelines.extract.encode_cost import tower_cost
from pipelines.extract.estimate import Estimate, estimate
from pipelines.extract.families import family
from pipelines.extract.measure import measure
from pipelines.extract.plan import plan_units, write_plan
from pipelines.extract.towers import TowerBundle
from pipelines.extract.work import find_work
from pipelines.extract.workload import Amount, ratio_estimate
from tests.pipelines.extract import conftest as without_ray
from tests.pipelines.extract.conftest import extract_without_ray

CLUSTER = {"CPU": 8.0, "GPU": 0.0}


def config_of(corpus: Path, root: Path, *overrides: str) -> ExtractConfig:
    settings = [f"source={corpus}", f"store={root}/runs", f"workdir={root}/work", "sampling=fps:4", *overrides]
    return load_config(ExtractConfig, None, settings)


def printed(found: Estimate) -> str:
    out = io.StringIO()
    found.print(out)
    return out.getvalue()


def test_a_small_corpus_is_predicted_from_all_of_it(corpus: Path, tmp_path: Path, bundle: TowerBundle) -> None:
    config = config_of(corpus, tmp_path, "unit_frames=64", "keep_all_below=80")
    work = find_work(config)
    found = estimate(config, work, resources=CLUSTER, price_per_hour=36.0)
    assert list(tmp_path.iterdir()) == [], "an estimate writes nothing"

    store = extract_without_ray(config, bundle)
    stats = store.stats()
    # cut.mkv states the 48 frames that it had.
    assert found.workload.frames == Amount(280 + 48, 0.0)
    assert 280 < stats.sampled < 280 + 48
    assert found.workload.long_frames.value == 160
    assert found.stored_frames.value == found.workload.frames.value - 80
    assert (found.left, found.sources, found.retries) == (6, {"video": 6}, 0)
    assert found.source_bytes == sum(source.size_bytes for source in work.sources)
    assert found.stored_bytes.value == pytest.approx(found.stored_frames.value * 144 * 64 * 2 * 0.85)
    assert found.price == found.wall_s * (36.0 / 3600)
    text = printed(found)
    for line in (
        "sources  videos 6  left 6 (",
        "frames   sampled ",
        "price    ",
        "looked at all new ones; 1 of these gave",
    ):
        assert line in text
    assert "+-" not in text.split("note")[0]


def test_history_replaces_assumptions(
    corpus: Path, tmp_path: Path, bundle: TowerBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(corpus / "nested", tmp_path)
    work = find_work(config)
    extents = {source.uri: measure(source.uri, config.sampling, config.unit_frames) for source in work.fresh}
    write_plan(work.store, "1", plan_units(work.fresh, extents, config.digest(), config.unit_frames))
    # Without Ray nobody times the stages, so what a run would have written down is put in.
    timed = functools.partial(without_ray.commit_unit, seconds={"decode": 3.0, "encode": 2.0})
    monkeypatch.setattr(without_ray, "commit_unit", timed)
    stats = extract_without_ray(config, bundle).stats()
    more = config_of(corpus, tmp_path)
    found = estimate(more, find_work(more), resources=CLUSTER)
    assert found.left == 4
    assert found.encode_s.value == pytest.approx(found.workload.frames.value * 2.0 / stats.sampled)
    assert found.stored_frames.value == pytest.approx(found.workload.frames.value * stats.stored / stats.sampled)
    assert "as in this store so far" in printed(found)
    given = estimate(more, find_work(more), resources=CLUSTER, encode_frames_per_s=10.0)
    assert given.encode_s.value == pytest.approx(found.workload.frames.value / 10)


def test_planned_units_need_no_measuring(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(corpus, tmp_path)
    work = find_work(config)
    fresh = estimate(config, work, resources=CLUSTER, encode_frames_per_s=10.0)
    extents = {source.uri: measure(source.uri, config.sampling, config.unit_frames) for source in work.fresh}
    write_plan(work.store, "1", plan_units(work.fresh, extents, config.digest(), config.unit_frames))
    monkeypatch.setattr(workload, "measure", None)
    planned = estimate(config, find_work(config), resources=CLUSTER, encode_frames_per_s=10.0)
    assert planned.workload.frames == fresh.workload.frames
    assert planned.workload.decode_s.value == pytest.approx(fresh.workload.decode_s.value)
    assert (planned.left, planned.source_bytes) == (fresh.left, fresh.source_bytes)


def test_a_file_that_gives_no_answer_is_told(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload, "_TIMEOUT_S", 0.0)
    config = config_of(corpus, tmp_path)
    found = estimate(config, find_work(config), resources=CLUSTER, encode_frames_per_s=10.0)
    assert found.workload.frames == Amount(0.0, 0.0)
    assert "6 of these gave no frame" in printed(found)


def test_the_error_of_a_sample_is_honest() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.lognormal(0, 1, 5000)
    values = sizes * rng.lognormal(0, 0.5, 5000)
    inside, errors = [], []
    for _ in range(300):
        chosen = rng.choice(5000, 64, replace=False)
        found = ratio_estimate(values[chosen], sizes[chosen], 5000, float(sizes.sum()))
        inside.append(abs(found.value - values.sum()) <= found.error)
        errors.append(found.error / values.sum())
    assert 0.85 <= np.mean(inside) <= 0.99
    assert np.mean(errors) < 0.25
    whole = ratio_estimate(values, sizes, 5000, float(sizes.sum()))
    assert whole == Amount(pytest.approx(values.sum()), 0.0)
    assert ratio_estimate(values[:1], sizes[:1], 5000, 1.0).error == math.inf
    assert ratio_estimate(values[:0], sizes[:0], 0, 0.0) == Amount()


def test_the_towers_of_every_kind_of_model(workdir: Path, tmp_path: Path) -> None:
    tiny = tower_cost(PRESETS["tiny"](), family("longvu").feature("dinov2"), "float32", 64)
    # 2 layers of 64 channels on 145 tokens: projections, attention and an MLP of 128, then the patches.
    per_layer = 2 * 145 * (4 * 64 * 64 + 2 * 64 * 128) + 4 * 145 * 145 * 64
    assert tiny.flops == pytest.approx(2 * per_layer + 2 * 144 * 64 * 192, rel=0.01)
    assert 0 < tiny.seconds < 1 and tiny.device

    from longvu_model.modeling import LongVUForConditionalGeneration

    model = LongVUForConditionalGeneration.from_pretrained(workdir / "models" / "tiny")
    official.export(model, tmp_path / "published")
    read = official.read_config(tmp_path / "published")
    assert read.dino_config.hidden_size == model.config.dino_config.hidden_size
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    sizes = []
    for folder in ("tiny", workdir / "models" / "tiny", tmp_path / "published"):
        config = config_of(tmp_path / "a.png", tmp_path, "features.siglip=true", f"model={folder}")
        found = estimate(config, find_work(config), resources=CLUSTER, encode_frames_per_s=10.0)
        sizes.append(found.stored_bytes.value)
    assert sizes[0] == sizes[1] == sizes[2] == 2 * 144 * 64 * 2 * 0.85
    with pytest.raises(UserError, match="model=nowhere: neither a checkpoint folder nor a preset"):
        config = config_of(tmp_path / "a.png", tmp_path, "model=nowhere")
        estimate(config, find_work(config), resources=CLUSTER)
