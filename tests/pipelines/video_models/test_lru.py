"""The two-tier cache against a list of what was used when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipelines.video_models.lru import ByteLRU

KEYS = "abcdef"


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from(KEYS), st.integers(1, 60)), max_size=60),
    st.integers(0, 120),
    st.integers(0, 120),
)
def test_least_recently_used_goes_first(steps: list[tuple[bool, str, int]], capacity: int, spill: int) -> None:
    cache: ByteLRU[tuple[str, int]] = ByteLRU(
        capacity,
        lambda value: value[1],
        spill_bytes=spill,
        demote=lambda value: ("host", value[1]),
        promote=lambda value: ("device", value[1]),
    )
    device: list[tuple[str, int]] = []  # key and size, the oldest first
    host: list[tuple[str, int]] = []

    def hold(key: str, size: int) -> None:
        device.append((key, size))
        while sum(size for _, size in device) > capacity:
            # What can never fit makes nobody else leave.
            fallen = device.pop() if device[-1][1] > capacity else device.pop(0)
            if fallen[1] <= spill:
                host.append(fallen)
            while sum(size for _, size in host) > spill:
                host.pop(0)

    for is_put, key, size in steps:
        known = dict(device + host)
        if is_put:
            device[:] = [entry for entry in device if entry[0] != key]
            host[:] = [entry for entry in host if entry[0] != key]
            cache.put(key, ("device", size))
            hold(key, size)
            continue
        found = cache.get(key)
        assert (found is not None) == (key in known)
        if found is not None:
            assert found == ("device", known[key])
            device[:] = [entry for entry in device if entry[0] != key]
            host[:] = [entry for entry in host if entry[0] != key]
            hold(key, known[key])
    assert cache.held_bytes == (sum(size for _, size in device), sum(size for _, size in host))
    assert len(cache) == len(device) + len(host)
