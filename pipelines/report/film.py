"""The frames of one video as the page shows them: thumbnails, similarities, which were kept, which show the needle."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pipelines import storage
from pipelines.report.artifacts import Artifacts

_QUALITY = 88


@dataclass(frozen=True)
class FilmFrame:
    """A sampled frame; ``picture`` is a data: URL."""

    time_s: float
    similarity: float
    kept: bool
    needle: bool
    picture: str


@dataclass(frozen=True)
class Film:
    """A video's sampled frames.

    Args:
        needle: colour, shape, start_s and end_s of the needle; None where no one knows.
        threshold: similarity from which on frames are dropped.
    """

    name: str
    frames: Sequence[FilmFrame]
    threshold: float
    needle: Mapping[str, Any] | None

    @property
    def kept(self) -> list[FilmFrame]:
        return [frame for frame in self.frames if frame.kept]


def read_film(found: Artifacts) -> Film | None:
    """The video that was asked about, or the store's first; None where no stored video is known."""
    store = found.store
    if store is None:
        return None
    from pipelines.scored_frames import stored_frames

    videos = store.videos(["video_id"]).to_pylist()
    row, wanted = None, None
    if found.conversation is not None:
        row, wanted = found.conversation.record["row"], storage.resolve(found.conversation.record["video"])
    usable = [video for video in videos if video["status"] == "ok"]
    video = next((video for video in usable if video["source"] == wanted), usable[0] if usable else None)
    if video is None:
        return None
    needle = row["needle"] if row is not None and video["source"] == wanted else None
    scored = stored_frames(store, video["video_id"])
    times_s = [float(time) for time in scored.times_s]
    return Film(
        name=Path(storage.shown(video["source"])).name,
        frames=[
            FilmFrame(
                time_s=time_s,
                similarity=float(similarity),
                kept=bool(kept),
                needle=needle is not None and needle["start_s"] <= time_s < needle["end_s"],
                picture=_data_url(picture),
            )
            for time_s, similarity, kept, picture in zip(
                times_s, scored.similarity, scored.kept, scored.frames, strict=True
            )
        ],
        threshold=scored.threshold,
        needle=needle,
    )


def _data_url(picture: Image.Image) -> str:
    memory = io.BytesIO()
    picture.save(memory, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(memory.getvalue()).decode()}"
