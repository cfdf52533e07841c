"""CPU time and size of writing and reading features: the store, against Ray Data's tensor column in default Parquet.

    python -m tests.benchmarks.store_format [--rounds 5] [--tiny-frames 2048] [--wide-frames 96]

Data, float16: *tiny*, real DINOv2 features of the tiny preset over frames of generated videos; *wide*, 576 tokens of
1152 channels as the published models have them, made from the tiny features by a fixed random projection, a gain per
channel and a little noise, so that neighbouring tokens and frames resemble each other as real ones do. The same arrays
go through all programs, in turns; figures are medians of CPU-seconds (user and system).

- ours: `unit_tables` and `commit_unit` (digests, encoding, zstd, SHA-256, the videos file, the commit); then
  `FeatureStore.open` and `load` into a torch tensor. This process alone works.
- ray: `write_parquet` of a materialised dataset in blocks of 32 frames, and `read_parquet` into one numpy array, with
  default arguments. This process and Ray's workers count; the raylet and the rest of the cluster do not.
- bare: the same tensor column through `pyarrow.parquet` with default arguments in this process, without Ray.

Floors, against ray: 8x writing, 8x reading, size at most 0.90. Exits with 1 if one is missed or an array differs.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
import torch
from PIL import Image
from ray.data.extensions import ArrowTensorArray

from longvu_model.image_processing import preprocess_frames
from longvu_model.presets import build_preset
from longvu_model.tower_pixels import padded_square
from longvu_model.video import decode_frames
from pipelines.extract.commit import unit_tables
from pipelines.extract.towers import load_towers
from pipelines.store import FeatureSpec, FeatureStore, commit_unit
from pipelines.store.features import raw_bytes
from tests.benchmarks.decode_path import CpuTime, ray_workers
from tests.pipelines.conftest import write_video
from tests.pipelines.store.units import manifest

_FASTER, _SIZE = 8.0, 0.90
_BLOCK_FRAMES = 32
_VIDEO_ID = "0" * 64


def main() -> int:
    summary = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.store_format", description=summary)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny-frames", type=int, default=2048)
    parser.add_argument("--wide-frames", type=int, default=96)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="store-format-"))
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        data = {"tiny": tiny_features(folder, arguments.tiny_frames)}
        data["wide"] = wide_features(data["tiny"], arguments.wide_frames)
        print(
            f"{'data':5} {'shape':>15} {'':6} {'ours CPU s':>10} {'ray':>8} {'bare':>8} {'ray / ours':>11} "
            f"{'bare / ours':>12}   floor against ray"
        )
        return 0 if all([_compare(name, array, folder, arguments.rounds) for name, array in data.items()]) else 1
    finally:
        ray.shutdown()
        shutil.rmtree(folder)


def tiny_features(folder: Path, frames: int) -> np.ndarray:
    """Real features (T, P, D) float16, of scenes that change slowly."""
    build_preset("tiny", folder / "tiny")
    bundle = load_towers(folder / "tiny", ("dinov2",))
    tower, pixels = bundle.build("dinov2"), bundle.pixels("dinov2")
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < frames:
        video = write_video(folder / f"{len(parts)}.mp4", [20, 9, 35], seed=len(parts), size=(320, 176))
        pictures = map(Image.fromarray, decode_frames(video, "fps:1").frames)
        squares = np.stack([padded_square(picture, pixels.size, pixels.fill) for picture in pictures])
        images = preprocess_frames(squares, pixels.size, pixels.mean, pixels.std)
        with torch.inference_mode():
            parts.append(tower(images).half().numpy())
    return np.concatenate(parts)[:frames]


def wide_features(tiny_TPD: np.ndarray, frames: int, tokens: int = 576, width: int = 1152) -> np.ndarray:
    """As said above: (T, 576, 1152) float16."""
    numbers = np.random.default_rng(0)
    source_TPD = tiny_TPD[:frames].astype(np.float32)
    source_TPD = (source_TPD - source_TPD.mean()) / source_TPD.std()
    place_P = np.arange(tokens) * source_TPD.shape[1] // tokens
    project = numbers.normal(0, source_TPD.shape[2] ** -0.5, (source_TPD.shape[2], width)).astype(np.float32)
    gain_D = numbers.lognormal(0, 0.5, width).astype(np.float32)
    wide = np.empty((frames, tokens, width), np.float16)
    for frame, source_PD in enumerate(source_TPD):
        noise = numbers.normal(0, 0.3, (tokens, width)).astype(np.float32)
        wide[frame] = (source_PD[place_P] @ project + noise) * gain_D
    return wide


def _compare(name: str, features_TPD: np.ndarray, folder: Path, rounds: int) -> bool:
    """Time all programs on one array, print two rows; whether they meet the floors and read what was written."""
    me = psutil.Process()
    alone, cluster = CpuTime(lambda: [me]), CpuTime(lambda: [me, *ray_workers()])
    blocks = np.array_split(features_TPD, max(1, len(features_TPD) // _BLOCK_FRAMES))
    dataset = ray.data.from_numpy([np.ascontiguousarray(block) for block in blocks]).materialize()
    writers: dict[str, tuple[CpuTime, Callable[[Path], object], Callable[[Path], np.ndarray]]] = {
        "ours": (alone, lambda path: write_ours(features_TPD, path), read_ours),
        "ray": (cluster, lambda path: dataset.write_parquet(str(path)), read_ray),
        "bare": (alone, lambda path: write_bare(features_TPD, path), read_bare),
    }
    writing: dict[str, list[float]] = {program: [] for program in writers}
    reading: dict[str, list[float]] = {program: [] for program in writers}
    size: dict[str, int] = {}
    right = True
    for round_ in range(rounds + 1):
        for program, (clock, write, read) in writers.items():
            path = folder / f"{name}-{program}"
            written_s, _ = clock.of(lambda write=write, path=path: write(path))  # type: ignore[misc]
            read_s, found = clock.of(lambda read=read, path=path: read(path))  # type: ignore[misc]
            right &= np.array_equal(found, features_TPD)
            size[program] = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            shutil.rmtree(path)
            if round_:  # the first turn starts workers and imports modules
                writing[program].append(written_s)
                reading[program].append(read_s)
    shape = "x".join(map(str, features_TPD.shape))
    for what, spent in (("write", writing), ("read", reading)):
        cost = {program: statistics.median(values) for program, values in spent.items()}
        ratio = cost["ray"] / cost["ours"]
        right &= ratio >= _FASTER
        seconds = " ".join(f"{cost[program]:8.3f}" for program in writers)
        verdict = f"{_FASTER:g}x" + ("" if ratio >= _FASTER else " MISSED")
        bare = cost["bare"] / cost["ours"]
        print(f"{name:5} {shape:>15} {what:6}   {seconds} {ratio:10.1f}x {bare:11.1f}x   {verdict}", flush=True)
    ratio = size["ours"] / size["ray"]
    print(
        f"{name:5} {shape:>15} size   {size['ours'] / 1e6:.1f} MB, ray {size['ray'] / 1e6:.1f} MB, ratio {ratio:.3f} "
        f"(floor {_SIZE}); of the raw numbers {size['ours'] / features_TPD.nbytes:.3f}, "
        f"ray {size['ray'] / features_TPD.nbytes:.3f}",
        flush=True,
    )
    return right and ratio <= _SIZE


def write_ours(features_TPD: np.ndarray, path: Path) -> None:
    """One unit of one video, all frames stored."""
    frames, tokens, width = features_TPD.shape
    spec = FeatureSpec("dinov2", tokens, width)
    store = FeatureStore.create(path, manifest(features=(spec,)))
    everything = np.ones(frames, bool)
    arrays = {
        "frame_index": np.arange(frames) * 30,
        "pts_s": np.arange(frames, dtype=float),
        "similarity": np.full(frames, 0.5, np.float32),
        "kept": everything,
        "stored": everything,
        "dinov2": raw_bytes(torch.from_numpy(features_TPD)),
    }
    member = {
        "video_id": _VIDEO_ID,
        "source": "file:///video.mp4",
        "version": "mtime:1",
        "chunk": 0,
        "num_chunks": 1,
        "first_sample": 0,
        "status": "ok",
        **dict.fromkeys(("num_sampled", "num_kept", "num_stored"), frames),
    }
    rows, videos = unit_tables({"unit_id": "0" * 20, "members": [member]}, arrays, (spec,))
    commit_unit(store.uri, "0" * 20, rows, videos, run_id="benchmark")


def read_ours(path: Path) -> np.ndarray:
    return FeatureStore.open(path).load(_VIDEO_ID).dinov2.numpy()


def read_ray(path: Path) -> np.ndarray:
    batches = ray.data.read_parquet(str(path)).iter_batches(batch_size=None, batch_format="numpy")
    return np.concatenate([batch["data"] for batch in batches])


def write_bare(features_TPD: np.ndarray, path: Path) -> None:
    path.mkdir()
    pq.write_table(pa.table({"data": ArrowTensorArray.from_numpy(features_TPD)}), path / "0.parquet")


def read_bare(path: Path) -> np.ndarray:
    column = pq.read_table(path / "0.parquet")["data"]
    return np.concatenate([chunk.to_numpy(zero_copy_only=False) for chunk in column.chunks])


if __name__ == "__main__":
    sys.exit(main())
