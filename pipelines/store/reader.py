"""Read a store: which videos it has, and the features of one; with DINOv2's among them, at any threshold.

Shapes: T sampled frames of a video, K of them loaded, P tokens, D channels.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.store.commits import Commits, Compaction, read_commits
from pipelines.store.features import FeatureSpec, decode
from pipelines.store.manifest import FILE_NAME, StoreError, StoreManifest
from pipelines.store.schema import FAILED, SELECTING, VIDEOS
from pipelines.store.stats import StoreStats, store_stats
from pipelines.store.verification import Verification, verify
from pipelines.store.videos import MERGED, PER_FRAME, conformed, join_frames, merge_chunks, stored_columns

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped]
    import pyarrow.dataset
    import ray.data
    import torch

_READERS = 16
_FOOTERS = 256
MAX_KEPT_FRAMES = 400
_QUARANTINE = [
    *("source", "error", "message", "log_tail", "attempts", "retry"),
    *("kind", "decoder", "size_bytes", "version", "video_id", "units"),
]


@dataclass(frozen=True)
class VideoFeatures:
    """One video's features.

    Args:
        features: by name (K, P, D) in the stored dtype.
        frame_index: int64 (K,), position of each loaded frame in the video.
        pts_s: float64 (K,), its time in seconds.
        similarity: float32 (T,), of every sampled frame; None in a store without dinov2.
        kept: bool (T,), true for the K frames that were loaded.
        video: the video's row of :meth:`FeatureStore.videos`.
    """

    features: dict[str, torch.Tensor]
    frame_index: np.ndarray
    pts_s: np.ndarray
    similarity: np.ndarray | None
    kept: np.ndarray
    video: dict[str, Any]

    @property
    def dinov2(self) -> torch.Tensor:
        """The feature of that name; ``KeyError`` where the store has none."""
        return self.features["dinov2"]

    @property
    def siglip(self) -> torch.Tensor | None:
        """The feature of that name, or None where the store has none."""
        return self.features.get("siglip")


class FeatureStore:
    """A store as it is now; :meth:`refresh` sees what was committed since."""

    def __init__(self, uri: str, manifest: StoreManifest):
        self.uri = uri
        self.manifest = manifest
        self._footer = functools.lru_cache(_FOOTERS)(self._read_footer)

    @classmethod
    def open(cls, uri: str | Path) -> FeatureStore:
        """Open an existing store.

        Raises:
            StoreError: there is none at this place, or its format is another.
        """
        resolved = storage.resolve(uri)
        try:
            data = storage.read_bytes(storage.join(resolved, FILE_NAME))
        except (FileNotFoundError, NotADirectoryError):
            raise StoreError(
                f"{storage.shown(resolved)}: no feature store ({FILE_NAME} is missing); "
                f"give the folder that extract printed"
            ) from None
        return cls(resolved, StoreManifest.from_json(data, resolved))

    @classmethod
    def create(cls, uri: str | Path, manifest: StoreManifest) -> FeatureStore:
        """Open the store, or begin it.

        Raises:
            StoreError: it exists and was made with something else.
        """
        resolved = storage.resolve(uri)
        if storage.exists(storage.join(resolved, FILE_NAME)):
            store = cls.open(resolved)
            store.manifest.check_same(manifest, resolved)
            return store
        storage.write_bytes(storage.join(resolved, FILE_NAME), manifest.to_json())
        return cls(resolved, manifest)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles as its place and manifest; the copy reads for itself what is there."""
        return FeatureStore, (self.uri, self.manifest)

    def refresh(self) -> None:
        """Forget what was read, so that newer commits are seen."""
        for name in ("commits", "_index", "_positions"):
            self.__dict__.pop(name, None)

    @functools.cached_property
    def commits(self) -> Commits:
        """Finished units by id."""
        return read_commits(self.uri)

    def videos(self, columns: Iterable[str] = MERGED.names) -> pa.Table:
        """One row per source, in the order of their names.

        Args:
            columns: of :data:`pipelines.store.videos.MERGED`; a few more, which say what a row is, always come.
                Those of :data:`pipelines.store.videos.PER_FRAME` are nearly all of the bytes.
        """
        if not PER_FRAME.intersection(columns):
            return self._index
        return merge_chunks(self._read_videos(self.commits, columns))

    def quarantine(self) -> pa.Table:
        """The sources that failed: what they are and why; ``units`` names the unit of the part that failed."""
        return self._index.filter(pc.equal(self._index["status"], FAILED)).select(_QUARANTINE)

    def select(self, threshold: float, cap: int | None = MAX_KEPT_FRAMES) -> pa.Table:
        """Which frames a threshold keeps, for every video, from stored similarities alone.

        Args:
            threshold: frames with a similarity below it are kept.
            cap: kept frames per video, thinned evenly beyond it; None for no cap.

        Returns:
            video_id, source, num_sampled, num_kept, num_missing (kept but without features), kept.

        Raises:
            StoreError: frames have no similarity here.
        """
        self.require(SELECTING, "Selecting frames by similarity")
        videos = self.videos(["video_id", "num_sampled", "similarity", "stored"])
        videos = videos.filter(pc.not_equal(videos["status"], FAILED))
        lists = videos["similarity"].combine_chunks()
        counts = np.diff(lists.offsets.to_numpy())
        kept = _keep(lists.flatten().to_numpy(), counts, threshold, cap)
        missing = kept & ~videos["stored"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        starts = np.concatenate([[0], np.cumsum(counts)])
        return pa.table(
            {
                "video_id": videos["video_id"],
                "source": videos["source"],
                "num_sampled": videos["num_sampled"],
                "num_kept": pa.array(_sums(kept, starts), pa.int32()),
                "num_missing": pa.array(_sums(missing, starts), pa.int32()),
                "kept": pa.ListArray.from_arrays(pa.array(starts, pa.int32()), pa.array(kept)),
            }
        )

    def load(self, video_id: str, threshold: float | None = None, cap: int | None = MAX_KEPT_FRAMES) -> VideoFeatures:
        """The features of one video.

        Args:
            video_id: SHA-256 of the video's bytes.
            threshold: frames with a similarity below it are loaded, as the model selects them. ``math.inf`` loads every
                sampled frame and None whatever is stored, both uncapped.
            cap: frames at most, thinned evenly beyond it; None for no cap.

        Raises:
            StoreError: the video is not here or failed, or the threshold asks for frames that were not stored, or
                frames have no similarity here.
        """
        if threshold is not None:
            self.require(SELECTING, "Selecting frames by similarity")
        video = self.row(video_id)
        similarity = np.asarray(video["similarity"], np.float32) if self.manifest.selects else None
        stored = np.asarray(video["stored"], bool)
        kept = stored
        if threshold is not None:
            assert similarity is not None
            kept = _keep(similarity, np.array([len(similarity)]), threshold, cap)
        if bool((kept & ~stored).any()):
            raise StoreError(
                f"video {video_id[:12]}: threshold {threshold:g} keeps {int(kept.sum())} frames and "
                f"{int((kept & ~stored).sum())} of them have no features; use at most "
                f"{self.manifest.keep_threshold:g}, or extract again with a higher keep_threshold"
            )
        parts = list(self._frame_parts(video))
        features = {
            spec.name: _chosen([decode(part[spec.name], spec) for part in parts], spec, kept[stored])
            for spec in self.manifest.features
        }
        return VideoFeatures(
            features=features,
            frame_index=np.asarray(video["frame_index"], np.int64)[kept],
            pts_s=np.asarray(video["pts_s"], np.float64)[kept],
            similarity=similarity,
            kept=kept,
            video=video,
        )

    def blocks(self, video_id: str, name: str) -> Iterator[torch.Tensor]:
        """One feature of a video's stored frames in order, (F, P, D) of a few dozen frames at a time.

        Memory does not grow with the length of the video.

        Raises:
            StoreError: the video is not here or failed.
        """
        (spec,) = (spec for spec in self.manifest.features if spec.name == name)
        video = self.row(video_id)
        for unit in video["units"]:
            # Buffered ahead, a file's groups would stay in memory until its last one is read.
            reader, groups = self._frame_groups(video, unit, pre_buffer=False)
            for group in groups:
                yield decode(reader.read_row_group(group, [name])[name], spec)

    def require(self, name: str, what: str) -> None:
        """Ensure that frames have a feature.

        Args:
            what: needs it, such as "LLaMA-VID".

        Raises:
            StoreError: they have not; names those that there are.
        """
        names = [spec.name for spec in self.manifest.features]
        if name not in names:
            raise StoreError(
                f"{storage.shown(self.uri)} has features of {', '.join(names)} "
                f"(model {self.manifest.model.get('name', '?')}). {what} needs {name}: extract with a model that has it"
            )

    def frames(self, video_id: str, columns: list[str] | None = None) -> pa.Table:
        """The rows of the frames table of one video: every sampled frame, in order."""
        video = self.row(video_id)
        return pa.concat_tables(self._frame_parts(video, columns))

    def verify(self, *, deep: bool = False) -> Verification:
        """Compare every committed file with its commit, and the frames rows with the videos rows.

        Args:
            deep: also decode every feature and compare it with its digest.
        """
        return verify(self.uri, self.manifest, self.commits, deep=deep)

    def stats(self) -> StoreStats:
        """What the store holds, in numbers."""
        return store_stats(self._index, self.commits)

    def to_arrow(self) -> tuple[pa.Table, pyarrow.dataset.Dataset]:
        """The videos table, and the frames table as a dataset: :func:`pipelines.store.views.frames_dataset`."""
        from pipelines.store.views import frames_dataset

        return self.videos(), frames_dataset(self)

    def to_pandas(self, columns: Iterable[str] = MERGED.names) -> pandas.DataFrame:
        """The videos table, one row per source."""
        return self.videos(columns).to_pandas()

    def to_ray_data(
        self,
        per: Literal["video", "frame"] = "video",
        threshold: float | None = None,
        cap: int | None = MAX_KEPT_FRAMES,
    ) -> ray.data.Dataset:
        """Features as a Ray dataset, selected as by :meth:`load`: :func:`pipelines.store.views.ray_dataset`."""
        from pipelines.store.views import ray_dataset

        return ray_dataset(self, per, threshold, cap)

    def to_torch(
        self, threshold: float | None = None, cap: int | None = MAX_KEPT_FRAMES, *, rank: int = 0, world_size: int = 1
    ) -> torch.utils.data.Dataset[VideoFeatures]:
        """Every ``world_size``-th video, selected as by :meth:`load`: :class:`pipelines.store.views.VideoDataset`."""
        from pipelines.store.views import torch_dataset

        return torch_dataset(self, threshold, cap, rank, world_size)

    @functools.cached_property
    def _index(self) -> pa.Table:
        """The videos table without its values per frame."""
        return merge_chunks(self._read_videos(self.commits, [name for name in MERGED.names if name not in PER_FRAME]))

    def _read_videos(self, units: Iterable[str], columns: Iterable[str], source: str | None = None) -> pa.Table:
        """Rows of the videos schema that units wrote, with what is needed to merge them.

        Args:
            source: rows of other sources may be left out.
        """
        names = stored_columns(columns)
        schema = pa.schema([VIDEOS.field(name) for name in names])
        per_frame = not PER_FRAME.isdisjoint(names)
        own: list[str] = []
        compacted: dict[Compaction, list[str]] = defaultdict(list)
        for unit in units:
            compaction = self.commits.compacted_in(unit)
            if compaction is None:
                own.append(self.commits.own[unit].videos.path)
            else:
                compacted[compaction].append(unit)

        def read_own(path: str) -> pa.Table:
            return pq.ParquetFile(self._input(path)).read(names, use_threads=False)

        def read_compacted(compaction: Compaction) -> pa.Table:
            path = (compaction.videos if per_frame else compaction.index).path
            footer = self._footer(path)
            groups = range(footer.num_row_groups) if source is None else _groups_with(footer, "source", source)
            rows = pq.ParquetFile(self._input(path), metadata=footer, pre_buffer=True).read_row_groups(groups, names)
            if len(compacted[compaction]) == compaction.rows.num_rows:
                return rows
            return rows.filter(pc.is_in(rows["unit_id"], pa.array(compacted[compaction], pa.string())))

        with ThreadPoolExecutor(_READERS) as readers:
            tables = [*readers.map(read_compacted, compacted), *readers.map(read_own, own)]
        return pa.concat_tables([schema.empty_table(), *(conformed(table, schema) for table in tables)])

    @functools.cached_property
    def _positions(self) -> dict[str, int]:
        """Index row of each video; of copies of one video the first that did not fail."""
        ids, statuses = (self._index[name].to_pylist() for name in ("video_id", "status"))
        positions: dict[str, int] = {}
        for position, (video_id, status) in enumerate(zip(ids, statuses, strict=True)):
            better = video_id not in positions or (statuses[positions[video_id]] == FAILED and status != FAILED)
            if video_id is not None and better:
                positions[video_id] = position
        return positions

    def row(self, video_id: str) -> dict[str, Any]:
        """The video's row of :meth:`videos`, of copies of one video the first that did not fail.

        Raises:
            StoreError: the video is not here, or failed.
        """
        position = self._positions.get(video_id)
        if position is None:
            raise StoreError(f"video {video_id!r} is not in {storage.shown(self.uri)} ({len(self._positions)} videos)")
        known = self._index.slice(position, 1).to_pylist()[0]
        if known["status"] == FAILED:
            raise StoreError(f"video {video_id[:12]} ({storage.shown(known['source'])}) failed: {known['message']}")
        rows = self._read_videos(known["units"], PER_FRAME, known["source"])
        same = pc.and_(pc.equal(rows["source"], known["source"]), pc.equal(rows["version"], known["version"]))
        return known | join_frames(rows.filter(same).to_pylist())

    def _frame_parts(self, video: dict[str, Any], columns: list[str] | None = None) -> Iterator[pa.Table]:
        for unit in video["units"]:
            reader, groups = self._frame_groups(video, unit, pre_buffer=True)
            yield reader.read_row_groups(groups, columns=columns)

    def _frame_groups(self, video: dict[str, Any], unit: str, *, pre_buffer: bool) -> tuple[pq.ParquetFile, list[int]]:
        """A unit's frames file, and the row groups in it that hold the video."""
        file = self.commits[unit].frames
        footer = self._footer(file.path)
        groups = _groups_with(footer, "video_id", video["video_id"])
        return pq.ParquetFile(self._input(file.path), metadata=footer, pre_buffer=pre_buffer), groups

    def _read_footer(self, path: str) -> pq.FileMetaData:
        return pq.read_metadata(self._input(path))

    def _input(self, path: str) -> pa.NativeFile:
        try:
            return storage.arrow_input(storage.join(self.uri, path))
        except FileNotFoundError:
            raise StoreError(
                f"{storage.shown(self.uri)}/{path}: was there when the store was opened, but a compaction and a sweep "
                f"have replaced it, or it is lost; open the store again, and try longvu store verify"
            ) from None


def _groups_with(footer: pq.FileMetaData, column: str, value: str) -> list[int]:
    """Row groups that may have rows with this value, by their least and greatest."""
    place = footer.schema.names.index(column)
    ranges = ((group, footer.row_group(group).column(place).statistics) for group in range(footer.num_row_groups))
    return [group for group, stats in ranges if not (stats and stats.has_min_max) or stats.min <= value <= stats.max]


def _keep(similarity_T: np.ndarray, counts_V: np.ndarray, threshold: float, cap: int | None) -> np.ndarray:
    """The model's own selection, over all videos at once."""
    import torch

    from longvu_model.frame_selection import keep_frames

    limit = len(similarity_T) + 1 if cap is None or threshold == math.inf else cap
    similarity, counts = torch.tensor(similarity_T), torch.tensor(counts_V, dtype=torch.int64)
    return keep_frames(similarity, threshold, counts, limit).numpy()


def _sums(flags_T: np.ndarray, starts: np.ndarray) -> np.ndarray:
    return np.diff(np.concatenate([[0], np.cumsum(flags_T)])[starts])


def _chosen(parts: list[torch.Tensor], spec: FeatureSpec, chosen_F: np.ndarray) -> torch.Tensor:
    """Join a video's parts and take some of its stored frames; no copy when that is all of one part."""
    import torch

    empty = torch.empty(0, spec.tokens, spec.width, dtype=getattr(torch, spec.dtype))
    joined = parts[0] if len(parts) == 1 else torch.cat(parts) if parts else empty
    return joined if chosen_F.all() else joined[torch.from_numpy(chosen_F)]
