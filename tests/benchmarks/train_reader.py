"""How fast features reach a training step, beside a plain scan of the same bytes; and how long steps wait for them.

    python -m tests.benchmarks.train_reader [--videos N] [--frames N] [--rounds N] [--threads N] [--directory DIR]

Reading: a store of made-up float16 features (N videos of N frames, 576 tokens of 1536 and 1152 channels each as in the
published model, which zstd leaves at 85 %), read in the shuffled order of a plan by the training reader, and by
``pyarrow.parquet`` file after file, the feature columns only, into Arrow buffers that nothing unpacks. Both run in
turns in this process, from the page cache; figures are medians. Stalls: the tiny preset is trained with the plain
engine on videos of the demo's kind, once from features that were extracted beforehand and once from the files.

Exits with 1 if the reader is below 0.8 of the scan or a step waits for more than 2 % of its time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers

from longvu_model.modeling import LongVUForConditionalGeneration
from longvu_model.presets import PRESETS, build_preset
from longvu_model.tiny_tokenizer import build_tiny_tokenizer
from longvu_model.video import FrameSampling
from pipelines import storage
from pipelines.corpus import CorpusConfig, CorpusManifest, write_corpus
from pipelines.extract.commit import unit_tables
from pipelines.extract.config import ExtractConfig, FeatureConfig
from pipelines.extract.towers import load_towers
from pipelines.store import FeatureSpec, FeatureStore, StoreManifest, commit_unit
from pipelines.train import stages, staging
from pipelines.train.annotations import AnnotationFile
from pipelines.train.collate import collate
from pipelines.train.config import EngineSettings
from pipelines.train.families import LongVUFamily
from pipelines.train.manifest_builder import ManifestSettings, build_manifest
from pipelines.train.online import OnlineEncoder
from pipelines.train.plan import PlanSettings, TrainingPlan
from pipelines.train.reader import Reader, ReaderStats
from pipelines.train.torch_engine import TorchEngine
from tests.pipelines.extract.conftest import extract_without_ray

RATIO, STALL = 0.8, 0.02
TOKENS, WIDTHS = 576, {"dinov2": 1536, "siglip": 1152}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.train_reader", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--videos", type=int, default=8, help="videos of the store")
    parser.add_argument("--frames", type=int, default=32, help="frames of each")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each program")
    parser.add_argument("--threads", type=int, default=2, help="threads of the reader")
    parser.add_argument("--directory", help="where the store is kept; by default it is made anew and deleted")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(
        f"machine: {_processor()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}, pyarrow {pa.__version__}, torch {torch.__version__}"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.directory or temporary)
        fast = compare(folder, arguments.videos, arguments.frames, arguments.rounds, arguments.threads)
        return 0 if stalls(folder, arguments.threads) & fast else 1


def compare(folder: Path, videos: int, frames: int, rounds: int, threads: int) -> bool:
    """Read everything both ways, in turns."""
    store = made_up_store(folder / f"store-{videos}-{frames}", videos, frames)
    files = sorted(storage.local_path(store.uri).glob("frames/*.parquet"))
    stored_bytes = sum(file.stat().st_size for file in files)
    reader, plan = made_up_reader(folder, store, videos, threads)
    raw_bytes = videos * frames * TOKENS * sum(WIDTHS.values()) * 2

    def read() -> int:
        before = reader.stats.feature_bytes
        for _ in reader.steps(plan, 0, 1):
            pass
        return reader.stats.feature_bytes - before

    programs: dict[str, Callable[[], int]] = {"scan by pyarrow": lambda: scan(files), "training reader": read}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for turn in range(rounds + 1):
        for name, program in programs.items():
            started = time.perf_counter(), time.process_time()
            assert program() == raw_bytes, "not the same bytes"
            if turn:  # the first fills caches
                seconds[name].append((time.perf_counter() - started[0], time.process_time() - started[1]))
    wall_s = {name: statistics.median(wall for wall, _ in times) for name, times in seconds.items()}
    cpu_s = {name: statistics.median(cpu for _, cpu in times) for name, times in seconds.items()}
    print(f"{videos} videos of {frames} frames, {raw_bytes >> 20} MiB of features, {stored_bytes >> 20} MiB of Parquet")
    for name in programs:
        print(f"{name}: {raw_bytes / wall_s[name] / 1e9:6.2f} GB/s, {cpu_s[name]:5.2f} s of CPU")
    ratio = wall_s["scan by pyarrow"] / wall_s["training reader"]
    print(f"the reader with {threads} threads is at {ratio:.0%} of the scan (floor: {RATIO:.0%})")
    return ratio >= RATIO


def stalls(folder: Path, threads: int) -> bool:
    """Train the tiny preset and see how long its steps wait: for stored features, and for files decoded meanwhile."""
    corpus = write_corpus(folder / "corpus", CorpusConfig(num_videos=6, seconds=60, fps=4))
    model_folder = build_preset("tiny", folder / "tiny")
    extracted = ExtractConfig(source=str(corpus.directory), store=str(folder), features=FeatureConfig(siglip=True))
    store = extract_without_ray(extracted, load_towers(model_folder, ("dinov2", "siglip")))
    stored = train(folder, model_folder, corpus, store, threads)
    online = train(folder, model_folder, corpus, None, threads)
    for name, stats in (("features", stored), ("online", online)):
        print(
            f"training, {name:8}: {stats.samples / stats.wall_s:6.2f} samples/s, {stats.stall_share:6.2%} of the time "
            f"waiting for data" + (f" (floor: {STALL:.0%})" if name == "features" else "")
        )
    return stored.stall_share <= STALL


def train(
    folder: Path, model_folder: Path, corpus: CorpusManifest, store: FeatureStore | None, threads: int
) -> ReaderStats:
    """Two epochs, the first only to warm up."""
    model = LongVUForConditionalGeneration.from_pretrained(model_folder)
    settings = stages.video_stage(max_sequence_length=1024)
    staging.apply(model, settings)
    family = LongVUFamily.open(model_folder, model.config, settings)
    file = AnnotationFile(f"file://{corpus.annotations}", f"file://{corpus.directory}")
    manifest = build_manifest(str(folder), [file], family, store, ManifestSettings(2048))
    plan = TrainingPlan(manifest.costs, 0, 2, PlanSettings(2048, global_batch_tokens=4096))
    online = None
    if store is None:
        online = OnlineEncoder(family.watchers(model, model_folder, torch.float32), FrameSampling(fps=1.0))
    engine = TorchEngine(model, settings, EngineSettings())
    reader = Reader(manifest, family, store, online, threads=threads)
    for step in reader.steps(plan, 0, 1):
        bins = [collate(members, engine.device, torch.float32) for members in step.bins]
        engine.step(bins, step.target_tokens)
        if step.epoch == 0:
            reader.stats = ReaderStats()
    return reader.stats


def scan(files: list[Path]) -> int:
    """Read the feature columns of all files; their bytes."""
    total = 0
    for file in files:
        table = pq.ParquetFile(pa.memory_map(str(file)), pre_buffer=True).read(columns=list(WIDTHS))
        total += sum(len(chunk.buffers()[2]) for name in WIDTHS for chunk in table[name].chunks)
    return total


def made_up_store(folder: Path, videos: int, frames: int) -> FeatureStore:
    """A store of normal float16 numbers, two videos to a unit; made once."""
    specs = tuple(FeatureSpec(name, TOKENS, width) for name, width in WIDTHS.items())
    manifest = StoreManifest(
        name="made-up",
        config={},
        config_digest="0" * 64,
        features=specs,
        window_frames=16,
        keep_threshold=0.9,
        keep_all_below=256,
        jpeg=False,
        towers=dict.fromkeys(WIDTHS, "made up"),
        preprocessing={},
    )
    store = FeatureStore.create(folder, manifest)
    if store.videos(["video_id"]).num_rows == videos:
        return store
    rng = np.random.default_rng(0)
    for first in range(0, videos, 2):
        members = [_member(number, frames) for number in range(first, min(first + 2, videos))]
        count = frames * len(members)
        arrays: dict[str, np.ndarray] = {
            "frame_index": np.tile(np.arange(frames), len(members)) * 25,
            "pts_s": np.tile(np.arange(frames), len(members)).astype(float),
            "similarity": np.full(count, 0.5, np.float32),
            "kept": np.ones(count, bool),
            "stored": np.ones(count, bool),
        }
        for spec in specs:
            numbers = rng.standard_normal((count, spec.tokens * spec.width), np.float32).astype(np.float16)
            arrays[spec.name] = numbers.view(np.uint8)
        tables = unit_tables({"unit_id": f"unit-{first:04}", "members": members}, arrays, specs)
        commit_unit(store.uri, f"unit-{first:04}", *tables, run_id="benchmark")
    store.refresh()
    return store


def _member(number: int, frames: int) -> dict[str, Any]:
    return {
        "video_id": f"{number:064x}",
        "source": f"file:///made-up/{number}.mp4",
        "version": "mtime:0",
        "chunk": 0,
        "num_chunks": 1,
        "first_sample": 0,
        "status": "ok",
        "width": 1280,
        "height": 720,
        "fps": 25.0,
        "duration_s": float(frames),
        "num_sampled": frames,
        "num_kept": frames,
        "num_stored": frames,
    }


def made_up_reader(folder: Path, store: FeatureStore, videos: int, threads: int) -> tuple[Reader, TrainingPlan]:
    """A question about every video, one video to a bin, one bin to a step."""
    config = PRESETS["tiny"]()
    config.max_sequence_length = 8192
    family = LongVUFamily(config, build_tiny_tokenizer("qwen", 1024))
    rows = [
        {
            "video": f"{number}.mp4",
            "conversations": [
                {"from": "human", "value": "<video>\nWhat happens?"},
                {"from": "gpt", "value": "A gate opens."},
            ],
        }
        for number in range(videos)
    ]
    (folder / "rows.json").write_text(json.dumps(rows))
    file = AnnotationFile(f"file://{folder / 'rows.json'}", "file:///made-up")
    manifest = build_manifest(str(folder), [file], family, store, ManifestSettings(8192))
    budget = int(manifest.costs.tokens_N.max())
    plan = TrainingPlan(manifest.costs, 0, 1, PlanSettings(budget, global_batch_tokens=budget))
    return Reader(manifest, family, store, threads=threads), plan


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    sys.exit(main())
