"""Long videos with what is said in them: frame times from the feature store, subtitles from ``.srt`` files."""

from __future__ import annotations

import functools
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from longvu_model.prompts import escape_markers
from longvu_model.subtitles import Subtitle, decode_subtitles, parse_srt
from pipelines import storage
from pipelines.errors import UserError
from pipelines.train.samples import MediaRef, Unusable

if TYPE_CHECKING:
    from pipelines.store import FeatureStore


@dataclass(frozen=True)
class Film:
    """When the stored frames of a video are shown, and what is said."""

    times_s: Sequence[float]
    subtitles: Sequence[Subtitle]


class Films:
    """Looks films up.

    Args:
        store: features of the videos.
        subtitles: folder or prefix with ``<name of the video>.srt``; a video without one is no film.

    Raises:
        UserError: no such files.
    """

    def __init__(self, store: FeatureStore | None, subtitles: str) -> None:
        self._store = store
        found = storage.listing(storage.resolve(subtitles))
        self._uris = {posixpath.basename(item.uri): item for item in found if item.uri.endswith(".srt")}
        if not self._uris:
            raise UserError(f"data.subtitles={subtitles}: no .srt files; name them after their videos")
        self._said = functools.lru_cache(256)(self._read)

    def facts(self) -> list[tuple[str, str]]:
        """Names and versions of the files: part of a manifest's key."""
        return sorted((name, item.version) for name, item in self._uris.items())

    def film(self, medium: MediaRef) -> Film | None:
        """A medium with its subtitles; None for one without any.

        Raises:
            Unusable: its subtitles cannot be read, or the store has not got its frames.
        """
        name = posixpath.splitext(posixpath.basename(medium.path))[0] + ".srt"
        if medium.kind != "video" or name not in self._uris:
            return None
        if self._store is None or medium.video_id is None or medium.start_s is not None:
            raise Unusable("not stored", f"{medium.path}: has subtitles, and is not in the feature store as a whole")
        row = self._store.row(medium.video_id)
        times_s = np.asarray(row["pts_s"])[np.asarray(row["stored"], bool)].tolist()
        return Film(times_s, self._said(name))

    def _read(self, name: str) -> list[Subtitle]:
        uri = self._uris[name].uri
        try:
            found = parse_srt(decode_subtitles(storage.read_bytes(uri)))
        except ValueError as error:
            raise Unusable("bad subtitles", f"{storage.shown(uri)}: {error}") from None
        return [Subtitle(one.start_s, one.end_s, escape_markers(one.text)) for one in found]
