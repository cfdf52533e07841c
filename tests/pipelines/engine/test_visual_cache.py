"""Media are watched once, however many ask at the same time, and go where there is room."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest
import torch

from pipelines.engine import VisualCache
from pipelines.video_models import WatchedMedia


@dataclass(frozen=True, kw_only=True)
class Media(WatchedMedia):
    features: torch.Tensor


def media(nbytes: int = 100) -> Media:
    return Media(
        kind="video", num_sampled=1, kept_times_s=[0.0], seconds={}, features=torch.zeros(nbytes, dtype=torch.uint8)
    )


def in_threads(count: int, work: object) -> list[object]:
    """What the function gave, or raised, in each of so many threads that begin together."""
    results: list[object] = []
    barrier = threading.Barrier(count)

    def one() -> None:
        barrier.wait(60)
        try:
            results.append(work())  # type: ignore[operator]
        except ZeroDivisionError as error:
            results.append(error)

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def test_first_questions_at_once_watch_once() -> None:
    cache, all_asked, calls = VisualCache(1000), threading.Event(), []

    def make() -> Media:
        calls.append(1)
        assert all_asked.wait(60)
        return media()

    def ask() -> WatchedMedia:
        stats = cache.stats
        if stats.misses + stats.joined >= 7:
            all_asked.set()
        return cache.get_or_watch("film", make)

    asking = threading.Thread(target=lambda: _until(lambda: cache.stats.joined == 7, all_asked))
    asking.start()
    results = in_threads(8, ask)
    asking.join(60)
    assert len(calls) == 1
    assert len({id(result) for result in results}) == 1
    cache.get_or_watch("film", make)
    assert (cache.stats.misses, cache.stats.joined, cache.stats.hits) == (1, 7, 1)


def _until(condition: object, event: threading.Event) -> None:
    while not condition() and not event.wait(0.01):  # type: ignore[operator]
        pass
    event.set()


def test_failures_reach_all_who_waited_and_are_not_kept() -> None:
    cache, joined = VisualCache(1000), threading.Event()

    def broken() -> Media:
        assert joined.wait(60)
        raise ZeroDivisionError

    watcher = threading.Thread(target=lambda: _until(lambda: cache.stats.joined == 3, joined))
    watcher.start()
    results = in_threads(4, lambda: cache.get_or_watch("film", broken))
    watcher.join(60)
    assert [type(result) for result in results] == [ZeroDivisionError] * 4
    assert cache.get_or_watch("film", media).nbytes == 100


def test_what_falls_out_is_held_in_host_memory_and_comes_back() -> None:
    """On the meta device: moved there when used, to the CPU when it falls out."""
    cache = VisualCache(250, 150, device="meta")
    made = {name: media().to("meta") for name in "abcd"}
    with pytest.MonkeyPatch.context() as patch:
        # A meta tensor has no content to copy back.
        patch.setattr(WatchedMedia, "to", lambda self, device: media() if str(device) == "cpu" else made["a"])
        for name in "abc":
            cache.get_or_watch(name, lambda name=name: made[name])  # type: ignore[misc]
        assert (cache.stats.held_bytes, cache.stats.spilled_bytes) == (200, 100)
        assert cache.get_or_watch("a", _never) is made["a"]
        cache.get_or_watch("d", lambda: made["d"])
    assert (cache.stats.held_bytes, cache.stats.spilled_bytes) == (200, 100)
    with pytest.raises(AssertionError):
        cache.get_or_watch("b", _never)


def _never() -> Media:
    raise AssertionError("watched again")


def test_media_larger_than_the_cache_are_given_and_forgotten() -> None:
    cache = VisualCache(50)
    assert cache.get_or_watch("film", media).nbytes == 100
    assert cache.stats.held_bytes == 0
