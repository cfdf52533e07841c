"""A request's file stays as long as somebody reads it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from longvu_model.video import FrameSampling
from pipelines.serve.media import MediaGuard, MediaPolicy
from pipelines.serve.protocol import MediaUrl, VideoPart
from pipelines.serve.sight import Sight


def test_a_cancelled_request_keeps_its_file_until_it_was_watched(clip: Path, tmp_path: Path) -> None:
    """Else the descriptor's number would soon be another file's, seen under this one's digest."""
    begun, go_on = threading.Event(), threading.Event()
    read: list[bytes] = []

    def watch(path: Path, *_: Any, **__: Any) -> SimpleNamespace:
        begun.set()
        assert go_on.wait(60)
        read.append(path.read_bytes())
        return SimpleNamespace(seconds={})

    model = SimpleNamespace(digest="model", sampling=FrameSampling(fps=1), watch=watch)
    cache = SimpleNamespace(get=lambda key: None, get_or_watch=lambda key, make: make())
    count = SimpleNamespace(inc=lambda: None)
    metrics = SimpleNamespace(media=lambda source: None, decodes=count, encodes=count)

    async def cancelled() -> None:
        guard = MediaGuard(MediaPolicy(file_roots=(clip.parent,)), tmp_path)
        sight = Sight(model, cache, guard, None, None, metrics, watchers=1, url_ttl_s=0)  # type: ignore[arg-type]
        part = VideoPart(type="video_url", video_url=MediaUrl(url=clip.as_uri()))
        request = asyncio.create_task(sight.see(part, "messages.0", None, "tenant"))
        assert await asyncio.to_thread(begun.wait, 60)
        request.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await request

    asyncio.run(cancelled())
    assert read == [clip.read_bytes()]
