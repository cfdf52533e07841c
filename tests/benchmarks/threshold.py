"""Choosing another threshold: from the similarities of a store, against encoding the frames again.

    python -m tests.benchmarks.threshold [--videos 8] [--thresholds 0.7 0.8 0.83 0.88]

Generated videos of about 6 minutes are decoded and encoded by extraction's own functions with the tiny preset into a
store that keeps all features, which is compacted then. Per threshold: `FeatureStore.open` and `.select(threshold)`
over all videos, against what has to be done without a store, the frames being decoded already: DINOv2 over all of
them, window similarity, selection. CPU-seconds of this process. The masks of both are compared, and with
`longvu_model.frame_selection` on the stored features as they are. The floor is 100x for the median; exits with 1 if it
is missed or a mask differs.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from longvu_model.frame_selection import keep_frames, window_similarity
from longvu_model.presets import build_preset
from pipelines.extract.commit import unit_tables
from pipelines.extract.config import DecodeConfig
from pipelines.extract.decode import DecodeSettings, decode_unit
from pipelines.extract.encode import Encoder, EncodeSettings, encode_unit
from pipelines.extract.fetch import Fetcher
from pipelines.extract.index import index_sources
from pipelines.extract.measure import measure
from pipelines.extract.plan import plan_units
from pipelines.extract.towers import load_towers
from pipelines.store import FeatureStore, commit_unit, compact
from tests.pipelines.conftest import write_video
from tests.pipelines.store.units import manifest

_FLOOR = 100.0
_UNIT_FRAMES = 256


def main() -> int:
    summary = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.threshold", description=summary)
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.7, 0.8, 0.83, 0.88])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="threshold-"))
    try:
        return _compare(folder, arguments.videos, arguments.thresholds)
    finally:
        shutil.rmtree(folder)


def _compare(folder: Path, videos: int, thresholds: list[float]) -> int:
    for number in range(videos):
        scenes = np.random.default_rng(number).integers(5, 40, 16).tolist()
        write_video(folder / "videos" / f"{number}.mp4", scenes, seed=number, size=(160, 96))
    uri, decoded, encoder = extracted(folder)
    right, ratios = True, []
    print("threshold  frames   kept  select CPU s  encode again    ratio  masks equal")
    for threshold in thresholds:
        again_s, masks = _timed(lambda threshold=threshold: encode_again(decoded, encoder, threshold))  # type: ignore[misc]
        select_s, table = _timed(lambda threshold=threshold: FeatureStore.open(uri).select(threshold))  # type: ignore[misc]
        selected = {row["source"]: np.array(row["kept"]) for row in table.to_pylist()}
        equal = masks.keys() == selected.keys() and all(np.array_equal(selected[key], masks[key]) for key in masks)
        equal &= all(np.array_equal(selected[key], mask) for key, mask in from_features(uri, threshold).items())
        right &= equal
        ratios.append(again_s / select_s)
        total = sum(map(len, masks.values()))
        kept = sum(int(mask.sum()) for mask in masks.values())
        print(
            f"{threshold:9g} {total:7} {kept:6} {select_s:13.4f} {again_s:13.3f} {ratios[-1]:7.0f}x  "
            f"{'yes' if equal else 'NO'}",
            flush=True,
        )
    ratio = statistics.median(ratios)
    print(f"median {ratio:.0f}x, floor {_FLOOR:g}x" + ("" if ratio >= _FLOOR else " MISSED"))
    return 0 if right and ratio >= _FLOOR else 1


def extracted(folder: Path) -> tuple[str, list[tuple[dict[str, Any], dict[str, np.ndarray]]], Encoder]:
    """A store of the videos; the decoded units, and the encoder."""
    build_preset("tiny", folder / "tiny")
    bundle = load_towers(folder / "tiny", ("dinov2",))
    spec = bundle.spec("dinov2", "float16")
    store = FeatureStore.create(folder / "store", manifest(features=(spec,), keep_threshold=1.0))
    encoder = Encoder.load(bundle, EncodeSettings((spec,), 1.01, 0, "float32", 64))
    settings = DecodeSettings("fps:1", {"dinov2": bundle.pixels("dinov2")}, 0, DecodeConfig())
    sources = index_sources(str(folder / "videos"))
    extents = {source.uri: measure(source.uri, "fps:1", _UNIT_FRAMES) for source in sources}
    fetcher, decoded = Fetcher(None, attempts=1), []
    for unit in plan_units(sources, extents, "0", _UNIT_FRAMES):
        decoded.append(decode_unit(unit, settings, fetcher))
        frames, videos = unit_tables(*encode_unit(*decoded[-1], encoder), (spec,))
        commit_unit(store.uri, unit.unit_id, frames, videos, run_id="benchmark")
    compact(store.uri)
    return store.uri, decoded, encoder


def encode_again(
    decoded: list[tuple[dict[str, Any], dict[str, np.ndarray]]], encoder: Encoder, threshold: float
) -> dict[str, np.ndarray]:
    """Masks by source, from pixels."""
    similarity: dict[str, list[np.ndarray]] = {}
    for header, arrays in decoded:
        encoded, columns = encode_unit(header, arrays, encoder)
        ends = np.cumsum([member["num_sampled"] for member in encoded["members"]])
        for member, part in zip(encoded["members"], np.split(columns["similarity"], ends[:-1]), strict=True):
            similarity.setdefault(member["source"], []).append(part)
    return {
        source: keep_frames(torch.from_numpy(np.concatenate(parts)), threshold).numpy()
        for source, parts in similarity.items()
    }


def from_features(uri: str, threshold: float) -> dict[str, np.ndarray]:
    """Masks by source, by the model's own functions on the features as they are stored."""
    store = FeatureStore.open(uri)
    masks = {}
    for row in store.videos(["video_id"]).to_pylist():
        features_TPD = store.load(row["video_id"]).dinov2
        masks[row["source"]] = keep_frames(window_similarity(features_TPD.float()), threshold).numpy()
    return masks


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started_s = time.process_time()
    result = work()
    return time.process_time() - started_s, result


if __name__ == "__main__":
    sys.exit(main())
