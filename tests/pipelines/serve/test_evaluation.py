"""Evaluation asks our own endpoint what it would ask the checkpoint: the replies are the same, continued ones too."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from longvu_model.video import FrameSampling
from pipelines.evaluate.answerers import Answerer, Ask, LocalSettings, Reply
from pipelines.evaluate.config import MediaFormConfig, RequestsConfig
from pipelines.evaluate.endpoint_answerer import EndpointAnswerer, EndpointSettings
from pipelines.evaluate.local_answerer import LocalAnswerer
from pipelines.evaluate.tasks.media import Shown
from tests.pipelines.serve.endpoint import LiveEndpoint

ASKS = [Ask("Which colour does the shape have?\n(A) red\n(B) blue"), Ask("Which shape is it?")]
PREFIX = "Best option: ("
TOKENS = 6


def replies(answerer: Answerer, shown: Shown) -> dict[int, str | None]:
    try:
        told = dict(answerer.answer(answerer.look(shown, None), ASKS))
    finally:
        answerer.close()
    assert all(isinstance(reply, Reply) for reply in told.values()), told
    return {place: reply.text for place, reply in told.items() if isinstance(reply, Reply)}


@pytest.mark.parametrize("prefix", ["", PREFIX])
@pytest.mark.parametrize(
    "sampling", [FrameSampling(fps=1, max_frames=7), FrameSampling(num_frames=5, start_s=2, end_s=12)], ids=str
)
def test_the_endpoint_replies_as_the_checkpoint_does(
    endpoint: LiveEndpoint,
    tiny: Path,
    clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    prefix: str,
    sampling: FrameSampling,
) -> None:
    monkeypatch.setenv("ENDPOINT_KEY", endpoint.key)
    local = LocalSettings(
        folder=str(tiny), device="cpu", dtype="auto", quantization=None, overrides={}, store=None, mode="generate",
        system="", reply_prefix=prefix, max_new_tokens=TOKENS, temperature=0.0, top_p=1.0, slots=2, deadline_s=60.0,
    )  # fmt: skip
    remote = EndpointSettings(
        f"{endpoint.url}/v1", "tiny", RequestsConfig(key_variable="ENDPOINT_KEY", attempts=2),
        MediaFormConfig(form="video_url"), "", prefix, TOKENS, 0.0, 1.0, 60.0,
    )  # fmt: skip
    video = endpoint.file_root / "asked.mp4"
    shutil.copyfile(clip, video)
    shown = Shown(video, sampling)
    expected = replies(LocalAnswerer(local), shown)
    assert replies(EndpointAnswerer(remote), shown) == expected
    assert any(expected.values())
