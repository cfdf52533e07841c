"""A run folder with a little of everything: two stored videos, two trainings in MLflow, three evaluations, a talk."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import storage
from pipelines.corpus import SplitsConfig, write_corpus
from pipelines.extract import ExtractConfig
from pipelines.extract.towers import TowerBundle
from pipelines.stage_records import StageRecord
from pipelines.tracking import RunIdentity, TrackedRun
from tests.pipelines.extract.conftest import bundle, extract_without_ray

__all__ = ["bundle"]

NUM_STEPS = 40


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, bundle: TowerBundle) -> Path:
    root = tmp_path_factory.mktemp("run")
    config = dataclasses.replace(SplitsConfig().corpus("heldout"), num_videos=2, seconds=42.0)
    corpus = write_corpus(root / "corpus", config)
    extraction = ExtractConfig(
        source=str(corpus.directory / "videos"),
        store=str(root),
        workdir=str(root),
        keep_all_below=0,
        features={"jpeg_edge_px": 96},  # type: ignore[arg-type]
    )
    store = extract_without_ray(extraction, bundle)
    with TrackedRun(root, RunIdentity("extract", "extract", store.uri)) as run:
        run.metrics({"frames_per_s": 321.4, "ceiling_frames_per_s/decode": 900.2, "ceiling_frames_per_s/encode": 456.7})
    for stage in ("image", "video"):
        _training(root, stage)
    right = {"longvu": (3, "fps:1"), "uniform": (1, "uniform:7, all kept")}
    for name, (count, frames) in right.items():
        _evaluation(root, name, "needle_synthetic", frames, [1.0] * count + [0.0] * (4 - count))
    _evaluation(root, "grid", "needle_grid", "fps:1", [1.0, 0.0, 1.0, 1.0])
    row = json.loads(corpus.questions.read_text().partition("\n")[0])
    exchanges = [
        {"question": question, "answer": answer, "seconds": seconds, "longvu": {"seconds": {"answer": seconds / 2}}}
        for question, answer, seconds in ((row["question"], "mauve", 1.5), ("Which <b>shape</b>?", "a star", 0.05))
    ]
    talk = {"video": str(corpus.directory / row["video"]), "row": row, "base_url": "http://127.0.0.1:1/v1"}
    (root / "conversation.json").write_text(json.dumps(talk | {"exchanges": exchanges}))
    StageRecord("extract", "about", ["python", "-m", "jobs.extract", "x=1"], 12.3, 1.0).write(root)
    StageRecord("train video stage", "about", ["python", "-m", "jobs.train"], 130.0, 2.0).write(root)
    return root


def _training(root: Path, stage: str) -> None:
    folder = root / "train" / f"tiny-{stage}-0123456789ab"
    folder.mkdir(parents=True)
    record = {"config": {"name": f"tiny-{stage}", "stage": {"name": stage}}, "num_steps": NUM_STEPS}
    (folder / "run.json").write_text(json.dumps(record))
    rows: list[tuple[int, dict[str, float]]] = []
    for step in range(1, NUM_STEPS + 1):
        rows.append((step, {"loss": 3.0 / step, "tokens_per_s": 1000.0, "data_stall_share": 0.2}))
    rows[-1][1].update({"heldout/loss": 0.25, "heldout/exact_match": 0.875})
    with TrackedRun(root, RunIdentity("train", f"train {stage}", storage.resolve(folder))) as run:
        run.steps(rows)


def _evaluation(root: Path, name: str, task: str, frames: str, scores: list[float]) -> None:
    folder = root / "evaluate" / f"{name}-0123456789ab"
    folder.mkdir(parents=True)
    value = sum(scores) / len(scores)
    estimate = {"value": value, "se": 0.1, "n": len(scores), "clusters": len(scores)}
    summary: dict[str, Any] = {
        "name": name,
        "task": {"task": task},
        "frames": frames,
        "headline": estimate,
        "unparsed_as_wrong": estimate,
        "model": {"folder": str(root / "models" / "video")},
        "facts": {"visual_tokens": 280.4, "kept_frames": 6.7},
    }
    (folder / "results.json").write_text(json.dumps(summary))
    rows = [
        {
            "status": "scored",
            "options": [str(number) for number in range(8)],
            "score": score,
            "categories": [("length_s", "60"), ("depth_percent", str(50 * (place % 2)))],
        }
        for place, score in enumerate(scores)
    ]
    schema = pa.schema(
        [
            ("status", pa.string()),
            ("options", pa.list_(pa.string())),
            ("score", pa.float64()),
            ("categories", pa.map_(pa.string(), pa.string())),
        ]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "results.parquet")
