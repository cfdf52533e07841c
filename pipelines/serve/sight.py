"""From the media of a request to what the model saw of them: kept, stored, or fetched, decoded and encoded once.

A medium is looked for in this order, and nothing is decoded or encoded before the last step:

1. in the cache, by the digest of its bytes and the sampling. The digest of a ``video:`` id is the id; a ``uuid`` and,
   for a while, an http(s) URL are remembered together with the digest they had;
2. in the feature store, if it is asked for as the store sampled it;
3. among the uploads, or fetched under the media policy.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from longvu_model.video import FrameSampling, VideoError
from pipelines.engine import VisualCache
from pipelines.serve.guard import MediaPolicy, MediaRefused
from pipelines.serve.media import FetchedMedia, Kind, MediaGuard, check_media, check_sampling, refusal_of
from pipelines.serve.metrics import ReplicaMetrics
from pipelines.serve.protocol import ImagePart, VideoPart, url_of
from pipelines.serve.refusals import Refusal
from pipelines.serve.videos import VIDEO_ID, Uploads
from pipelines.store import FeatureStore, StoreError
from pipelines.video_models import DecodeLimits, VideoModel, WatchedMedia

SCHEME = "video:"
ResultT = TypeVar("ResultT")

_MOST_NAMES = 10_000
_FOREVER_S = float("inf")


@dataclass
class Seen:
    """A medium as the model takes it, and what that took."""

    media: WatchedMedia
    source: Literal["decoded", "cache", "store"]
    seconds: dict[str, float] = field(default_factory=dict)


class Sight:
    """The eyes of a replica.

    Args:
        model: watches and recalls.
        cache: of what it watched.
        guard: fetches.
        uploads: of ``/v1/videos``.
        store: made with this model's towers, or None.
        metrics: counts decoding, encoding and recalling.
        watchers: media worked on at once.
        url_ttl_s: how long an http(s) URL keeps its digest.
    """

    def __init__(
        self,
        model: VideoModel,
        cache: VisualCache,
        guard: MediaGuard,
        uploads: Uploads,
        store: FeatureStore | None,
        metrics: ReplicaMetrics,
        watchers: int,
        url_ttl_s: float,
    ):
        self._model, self._cache, self._guard, self._uploads = model, cache, guard, uploads
        self._store, self._metrics, self._url_ttl_s = store, metrics, url_ttl_s
        self._threads = ThreadPoolExecutor(watchers, thread_name_prefix="watch")
        self._names = _RememberedNames()

    async def see(self, part: VideoPart | ImagePart, param: str, sampling: FrameSampling | None, tenant: str) -> Seen:
        """One medium of a request.

        Args:
            param: the field it stands in.
            sampling: of the request; the model's own if None.
            tenant: whose ``uuid`` it is.

        Raises:
            Refusal: there is no such medium.
            MediaRefused: it may not be fetched, or cannot be used.
        """
        kind: Kind = "video" if isinstance(part, VideoPart) else "image"
        name, url = (tenant, part.uuid) if part.uuid else None, url_of(part)
        lasting_s = _FOREVER_S if name else self._url_ttl_s
        if name is None and url and url[:5].lower() not in ("data:", "file:", SCHEME[:5]):
            name = ("", url)
        digest = _digest_of(url, param) if url and url.startswith(SCHEME) else self._names.find(name)
        if digest is not None and (found := await self._kept(digest, kind, sampling)):
            return found
        if url is None:
            raise _unknown(f"uuid {part.uuid!r} is not known here", f"send {part.type} with its url as well", param)
        started_s = time.monotonic()
        async with self.opened(url, kind, param) as file:
            fetched_s = time.monotonic() - started_s
            if name is not None:
                self._names.remember(name, file.digest, lasting_s)
            seen = await self._kept(file.digest, kind, sampling) or await self._watched(file, kind, sampling, param)
        seen.seconds["fetch"] = fetched_s
        return seen

    def close(self) -> None:
        """Begin nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _kept(self, digest: str, kind: Kind, sampling: FrameSampling | None) -> Seen | None:
        """From the cache or the store."""
        media = await self._in_thread(lambda: self._cache.get(self._key(digest, kind, sampling)))
        if media is not None:
            self._metrics.media("cache")
            return Seen(media, "cache")
        if self._store is None or kind != "video" or not self._sampled_as_stored(sampling):
            return None
        return await self._in_thread(lambda: self._recalled(digest))

    def _recalled(self, digest: str) -> Seen | None:
        assert self._store is not None
        try:
            self._store.row(digest)
        except (KeyError, StoreError):
            return None
        recalled: list[WatchedMedia] = []

        def recall() -> WatchedMedia:
            recalled.append(self._model.recall(self._store, digest))  # type: ignore[arg-type]
            return recalled[0]

        media = self._cache.get_or_watch(self._key(digest, "video", None), recall)
        self._metrics.media("store" if recalled else "cache")
        return Seen(media, "store", dict(media.seconds)) if recalled else Seen(media, "cache")

    async def _watched(self, file: FetchedMedia, kind: Kind, sampling: FrameSampling | None, param: str) -> Seen:
        """Checked, decoded and encoded, by the first of those who want it at the same time; others wait for it."""
        watched: list[WatchedMedia] = []
        policy, rule = self._guard.policy, sampling or self._model.sampling
        checked_s = 0.0

        def watch() -> WatchedMedia:
            nonlocal checked_s
            started_s = time.monotonic()
            probe = check_media(file.path, policy, kind)
            if kind == "video":
                check_sampling(probe, rule, policy)
            checked_s = time.monotonic() - started_s
            self._metrics.decodes.inc()
            self._metrics.encodes.inc()
            watched.append(self._model.watch(file.path, rule, kind=kind, limits=_limits(policy)))
            return watched[0]

        try:
            media = await self._in_thread(
                lambda: self._cache.get_or_watch(self._key(file.digest, kind, sampling), watch)
            )
        except MediaRefused as refused:
            refused.param = refused.param or param
            raise
        except VideoError as error:
            unusable = refusal_of(error, file.path)
            unusable.param = param
            raise unusable from None
        self._metrics.media("decoded" if watched else "cache")
        return Seen(media, "decoded", {"check": checked_s, **media.seconds}) if watched else Seen(media, "cache")

    @contextlib.asynccontextmanager
    async def opened(self, url: str, kind: Kind, param: str) -> AsyncIterator[FetchedMedia]:
        """A medium's file: among the uploads, or fetched under the media policy.

        Raises:
            Refusal: there is no such upload.
            MediaRefused: it may not be fetched.
        """
        if not url.startswith(SCHEME):
            async with self._guard.fetch(url, kind, param) as file:
                yield file
            return
        digest = _digest_of(url, param)
        path = await asyncio.to_thread(self._uploads.use, digest)
        if path is None:
            raise _unknown(
                f"there is no video {digest!r}" + self._stored_otherwise(digest),
                "upload it with POST /v1/videos; GET /v1/videos lists what is there",
                param,
            )
        yield FetchedMedia(path, digest, kind, path.stat().st_size, url)

    def _key(self, digest: str, kind: Kind, sampling: FrameSampling | None) -> str:
        return f"{self._model.digest} {digest} {kind} {sampling or self._model.sampling if kind == 'video' else ''}"

    def _sampled_as_stored(self, sampling: FrameSampling | None) -> bool:
        assert self._store is not None
        return (sampling or self._model.sampling) == stored_sampling(self._store)

    def _stored_otherwise(self, digest: str) -> str:
        if self._store is None:
            return ""
        try:
            self._store.row(digest)
        except (KeyError, StoreError):
            return ""
        return f" among the uploads, and the feature store has it sampled as {stored_sampling(self._store)} only"

    async def _in_thread(self, work: Callable[[], ResultT]) -> ResultT:
        return await finished_in(self._threads, work)


async def finished_in(
    threads: ThreadPoolExecutor, work: Callable[[], ResultT], on_cancel: Callable[[], None] = lambda: None
) -> ResultT:
    """The result of work in a thread. Once begun it is waited for even when the request is cancelled: it reads the
    request's file, and others may wait for what it sees.

    Args:
        on_cancel: called when the request is cancelled, before the waiting.
    """
    future = threads.submit(work)
    done = asyncio.wrap_future(future)
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        on_cancel()
        if not future.cancel():
            await asyncio.wait([done])
            done.exception()  # looked at: nobody is left to be told of it
        raise


def stored_sampling(store: FeatureStore) -> FrameSampling:
    """How the videos of a store were sampled."""
    return FrameSampling.parse(str(store.manifest.config["sampling"]))


class _RememberedNames:
    """Digests of what uuids and URLs gave, the most recent ones."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], tuple[str, float]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, name: tuple[str, str] | None) -> str | None:
        if name is None:
            return None
        with self._lock:
            digest, until_s = self._known.get(name, (None, 0.0))
        return digest if time.monotonic() < until_s else None

    def remember(self, name: tuple[str, str], digest: str, lasting_s: float) -> None:
        with self._lock:
            self._known[name] = digest, time.monotonic() + lasting_s
            self._known.move_to_end(name)
            while len(self._known) > _MOST_NAMES:
                self._known.popitem(last=False)


def _digest_of(url: str, param: str) -> str:
    video_id = url.removeprefix(SCHEME)
    if not VIDEO_ID.fullmatch(video_id):
        raise Refusal(
            400,
            f"{SCHEME} is followed by {video_id[:80]!r}",
            "give the id that POST /v1/videos returned: 64 hex digits",
            "invalid_url",
            param,
        )
    return video_id


def _limits(policy: MediaPolicy) -> DecodeLimits:
    return DecodeLimits(policy.decode_timeout_s, policy.decode_memory_bytes, policy.max_pixels)


def _unknown(reason: str, fix: str, param: str) -> Refusal:
    return Refusal(404, reason, fix, "media_not_found", param)
