"""Uploads: ``/v1/videos``, files by the SHA-256 of their bytes, kept until nobody has asked about them for a while.

    <folder>/<sha256>            the file
    <folder>/<sha256>.json       its name and what it is; the file's time is that of its last use
    <folder>/partial-<random>    an upload that is coming in

The same bytes uploaded twice are one video. Several processes may use one folder: files appear by rename.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO

from longvu_model.video.pictures import is_picture
from pipelines.serve.config import ServeConfig, UploadSettings
from pipelines.serve.media import Probe, check_media
from pipelines.serve.multipart import FormFile, too_large
from pipelines.serve.refusals import Refusal
from pipelines.serve.replies import VideoObject

VIDEO_ID = re.compile(r"[0-9a-f]{64}")
_PARTIAL = "partial-"
# An upload that has not grown for so long belongs to a process that is gone.
_ABANDONED_S = 3600.0
# How often a growing upload of unknown length is held against the quota.
_QUOTA_STEP_BYTES = 16 << 20


class Uploads:
    """The uploads in a folder.

    Args:
        settings: limits.
        folder: where they lie.
        check: looks into a file, raises what :func:`pipelines.serve.media.check_media` does.
    """

    def __init__(self, settings: UploadSettings, folder: Path, check: Callable[[Path], Probe]):
        self._settings, self._folder, self._check = settings, folder, check
        folder.mkdir(parents=True, exist_ok=True)

    async def receive(self, body: AsyncIterator[bytes], content_type: str, announced_bytes: int) -> VideoObject:
        """Write an upload to disk and keep it if it is a video or picture.

        Args:
            body: of the request.
            announced_bytes: its Content-Length, 0 if not known.

        Raises:
            Refusal: a malformed form, too large, over the quota.
            MediaRefused: not a medium, or beyond the policy's limits.
        """
        if announced_bytes > self._settings.max_bytes + _QUOTA_STEP_BYTES:
            raise too_large(self._settings.max_bytes)
        await asyncio.to_thread(self.sweep)
        await asyncio.to_thread(self._hold_quota, announced_bytes)
        partial = self._folder / f"{_PARTIAL}{uuid.uuid4().hex}"
        try:
            with partial.open("wb") as out:
                form = FormFile(content_type, out, self._settings.max_bytes)
                await self._fill(form, body, out)
                digest = form.finish()
            probe = await asyncio.to_thread(self._check, partial)
            return await asyncio.to_thread(self._keep, partial, digest, form, probe)
        finally:
            partial.unlink(missing_ok=True)

    def list(self) -> list[VideoObject]:
        """What is there and has not expired, newest first."""
        found = (self.find(path.stem) for path in self._folder.glob("*.json"))
        return sorted((video for video in found if video), key=lambda video: video.created_at, reverse=True)

    def find(self, video_id: str) -> VideoObject | None:
        """The upload of that id."""
        if not VIDEO_ID.fullmatch(video_id):
            return None
        record = self._folder / f"{video_id}.json"
        try:
            expires_s = record.stat().st_mtime + self._settings.ttl_s
            if expires_s < time.time():
                return None
            return VideoObject(**json.loads(record.read_text()), expires_at=int(expires_s))
        except FileNotFoundError:
            return None

    def use(self, video_id: str) -> Path | None:
        """The file of that id, which from now on is kept for another ``ttl_s``."""
        if self.find(video_id) is None:
            return None
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._folder / f"{video_id}.json")
        return self._folder / video_id

    def delete(self, video_id: str) -> bool:
        """Whether there was such an upload."""
        there = self.find(video_id) is not None
        if there:
            self._remove(video_id)
        return there

    def sweep(self) -> int:
        """Delete what has expired and what was abandoned; returns how many files went."""
        now_s, gone = time.time(), 0
        for path in self._folder.glob("*.json"):
            if _age_s(path, now_s) > self._settings.ttl_s:
                self._remove(path.stem)
                gone += 1
        for path in self._folder.glob(f"{_PARTIAL}*"):
            if _age_s(path, now_s) > _ABANDONED_S:
                path.unlink(missing_ok=True)
                gone += 1
        return gone

    async def _fill(self, form: FormFile, body: AsyncIterator[bytes], out: BinaryIO) -> None:
        checked_bytes = 0
        async for piece in body:
            await asyncio.to_thread(form.write, piece)
            if form.num_bytes - checked_bytes > _QUOTA_STEP_BYTES:
                out.flush()
                await asyncio.to_thread(self._hold_quota, 0)
                checked_bytes = form.num_bytes

    def _keep(self, partial: Path, digest: str, form: FormFile, probe: Probe) -> VideoObject:
        duration_s = probe.duration_s if probe.kind == "video" else None
        record = VideoObject(
            id=digest,
            filename=form.filename or "",
            bytes=form.num_bytes,
            kind=probe.kind,
            duration_s=duration_s,
            created_at=int(time.time()),
            expires_at=0,
        )
        described = partial.with_name(f"{partial.name}-json")
        described.write_text(record.model_dump_json(exclude={"expires_at"}))
        os.replace(partial, self._folder / digest)
        os.replace(described, self._folder / f"{digest}.json")
        kept = self.find(digest)
        assert kept is not None, "it was written just now"
        return kept

    def _hold_quota(self, coming_bytes: int) -> None:
        used = held_bytes(self._folder) + coming_bytes
        if used > self._settings.quota_bytes:
            raise Refusal(
                413,
                f"uploads would take {used} of {self._settings.quota_bytes} bytes",
                "delete some with DELETE /v1/videos/{id}, or wait until they expire",
                "quota_exceeded",
                "file",
            )

    def _remove(self, video_id: str) -> None:
        (self._folder / f"{video_id}.json").unlink(missing_ok=True)
        (self._folder / video_id).unlink(missing_ok=True)


def open_uploads(config: ServeConfig) -> Uploads:
    """The uploads of an endpoint; files are held to its media policy."""

    def check(path: Path) -> Probe:
        return check_media(path, config.media, "image" if is_picture(path) else "video")

    return Uploads(config.uploads, config.upload_folder, check)


def held_bytes(folder: Path) -> int:
    """Of all files below a folder; some may go meanwhile."""
    held = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            held += path.stat().st_size
    return held


def _age_s(path: Path, now_s: float) -> float:
    try:
        return now_s - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
