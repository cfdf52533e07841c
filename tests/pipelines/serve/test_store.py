"""Videos in the feature store cost no decoder and no encoder call."""

from __future__ import annotations

import time

import pytest

from tests.pipelines.serve.conftest import Stored
from tests.pipelines.serve.endpoint import LiveEndpoint, ask, video_part, wait_for

QUESTION = "Which colour does the shape have?"


def calls(endpoint: LiveEndpoint) -> dict[str, float]:
    names = ("longvu_decodes_total", "longvu_encodes_total")
    return {name: endpoint.metric(name) for name in names}


def steady(endpoint: LiveEndpoint) -> dict[str, float] | None:
    """The counts, once all replicas were asked since the last request ended."""
    first = calls(endpoint)
    time.sleep(1.5)  # replicas are asked every second
    return first if first == calls(endpoint) else None


def test_a_stored_video_is_neither_decoded_nor_encoded(endpoint: LiveEndpoint, stored: Stored) -> None:
    client = endpoint.client()
    # One that is decoded, so that the counters are known to count.
    fresh = video_part(endpoint.file_root.joinpath("fresh.mp4").as_uri())
    (endpoint.file_root / "fresh.mp4").write_bytes(stored.video.read_bytes() + b"\0")
    recalled_before = endpoint.metric("longvu_media_total", source="store")
    decoded_before = wait_for(lambda: steady(endpoint))["longvu_decodes_total"]
    client.chat.completions.create(model="tiny", messages=ask(fresh, QUESTION), max_tokens=4)
    wait_for(lambda: calls(endpoint)["longvu_decodes_total"] == decoded_before + 1)
    counted = calls(endpoint)

    by_id = client.chat.completions.create(
        model="tiny", messages=ask(video_part(stored.url), QUESTION), max_tokens=8, logprobs=True
    )
    assert by_id.longvu["media"][0]["source"] == "store"  # type: ignore[attr-defined]
    (endpoint.file_root / "moved.mp4").write_bytes(stored.video.read_bytes())
    moved = video_part((endpoint.file_root / "moved.mp4").as_uri())
    by_content = client.chat.completions.create(model="tiny", messages=ask(moved, QUESTION), max_tokens=8)
    assert by_content.longvu["media"][0]["source"] == "cache"  # type: ignore[attr-defined]
    wait_for(lambda: endpoint.metric("longvu_media_total", source="store") == recalled_before + 1)
    assert calls(endpoint) == counted

    # The store's features are the file's up to float16, and the model is random: the first token is what can be held.
    decoded = client.chat.completions.create(model="other", messages=ask(moved, QUESTION), max_tokens=8, logprobs=True)
    assert decoded.longvu["media"][0]["source"] == "decoded"  # type: ignore[attr-defined]
    assert decoded.longvu["media"][0]["kept_times_s"] == by_id.longvu["media"][0]["kept_times_s"]  # type: ignore[attr-defined]
    tokens = [reply.choices[0].logprobs.content[0] for reply in (by_id, decoded)]  # type: ignore[union-attr, index]
    assert tokens[0].token == tokens[1].token
    assert tokens[0].logprob == pytest.approx(tokens[1].logprob, abs=0.02)


def test_another_sampling_needs_the_file(endpoint: LiveEndpoint, stored: Stored) -> None:
    import openai

    with pytest.raises(openai.NotFoundError, match="the feature store has it sampled as"):
        endpoint.client().chat.completions.create(
            model="tiny",
            messages=ask(video_part(stored.url), QUESTION),
            max_tokens=4,
            extra_body={"media_io_kwargs": {"video": {"num_frames": 4}}},
        )
