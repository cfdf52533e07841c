"""Units of made-up numbers, for tests of the store alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipelines.extract.commit import unit_tables
from pipelines.store import Commit, FeatureSpec, StoreManifest, commit_unit
from pipelines.store.features import cast_features, content_digest, raw_bytes

TOKENS, WIDTH = 6, 10
THRESHOLD = 0.9


def manifest(dtype: str = "float16", siglip: bool = False, **changes: Any) -> StoreManifest:
    names = ("dinov2", "siglip") if siglip else ("dinov2",)
    fields: dict[str, Any] = {
        "name": "test",
        "config": {"name": "test"},
        "config_digest": "0" * 64,
        "features": tuple(FeatureSpec(name, TOKENS, WIDTH, dtype) for name in names),
        "window_frames": 16,
        "keep_threshold": THRESHOLD,
        "keep_all_below": 0,
        "jpeg": False,
        "towers": dict.fromkeys(names, "t"),
        "preprocessing": dict.fromkeys(names, "p"),
    }
    return StoreManifest(**fields | changes)


@dataclass(frozen=True)
class Source:
    """A source (or a chunk) of made-up numbers, the same for the same name and range."""

    name: str
    frames: int
    chunk: int = 0
    num_chunks: int = 1
    first_sample: int = 0
    status: str = "ok"
    retry: int = 0

    @property
    def video_id(self) -> str:
        return f"{self.name}-id"

    @property
    def _numbers(self) -> np.random.Generator:
        return np.random.default_rng([*self.name.encode(), self.first_sample])

    @property
    def similarity(self) -> np.ndarray:
        return self._numbers.uniform(0.7, 1.0, self.frames).astype(np.float32)

    def features(self, name: str) -> torch.Tensor:
        """float32 (T, P, D), before the cast."""
        offset = 0.0 if name == "dinov2" else 100.0
        return torch.from_numpy(self._numbers.normal(offset, 1, (self.frames, TOKENS, WIDTH)).astype(np.float32))

    @property
    def kept(self) -> np.ndarray:
        return self.similarity < THRESHOLD


LONG = [
    Source("long", 32, chunk=0, num_chunks=3),
    Source("long", 32, chunk=1, num_chunks=3, first_sample=32),
    Source("long", 20, chunk=2, num_chunks=3, first_sample=64),
]


def commit(store: str, unit_id: str, sources: list[Source], made_with: StoreManifest) -> Commit:
    members: list[dict[str, Any]] = []
    stored = np.concatenate([np.empty(0, bool), *(source.kept for source in sources)])
    arrays: dict[str, np.ndarray] = {
        "frame_index": np.concatenate([source.first_sample + np.arange(source.frames) for source in sources]) * 25,
        "similarity": np.concatenate([source.similarity for source in sources]),
        "kept": stored,
        "stored": stored,
    }
    arrays["pts_s"] = arrays["frame_index"] / 25.0
    for spec in made_with.features:
        kept = [raw_bytes(cast_features(source.features(spec.name)[source.kept], spec)) for source in sources]
        arrays[spec.name] = np.concatenate([part.reshape(-1, spec.frame_bytes) for part in kept])
    for source in sources:
        failed = source.status == "failed"
        index = (source.first_sample + np.flatnonzero(source.kept)) * 25
        raw = raw_bytes(cast_features(source.features("dinov2")[source.kept], made_with.features[0]))
        members.append(
            {
                "video_id": source.video_id,
                "source": f"file:///{source.name}.mp4",
                "size_bytes": 1,
                "version": "mtime:1",
                "chunk": source.chunk,
                "num_chunks": source.num_chunks,
                "first_sample": source.first_sample,
                "status": source.status,
                "error": "Corrupt" if failed else None,
                "message": "bad" if failed else None,
                "log_tail": "moov atom not found" if failed else None,
                "attempts": 2 if failed else 1,
                "retry": source.retry,
                "kind": "video",
                "decoder": None if failed else "pyav",
                "codec": None if failed else "h264",
                "num_sampled": source.frames,
                "num_kept": int(source.kept.sum()),
                "num_stored": int(source.kept.sum()),
                "dinov2_digest": content_digest(raw, index) if source.frames else None,
            }
        )
    frames, videos = unit_tables({"unit_id": unit_id, "members": members}, arrays, made_with.features)
    return commit_unit(store, unit_id, frames, videos, run_id="r", seconds={"decode": 1.0})
