"""Captions of a stream: one for each scene in flat memory, or as the release gives them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.cli import main
from longvu_model.presets import build_preset
from longvu_model.video import NotAVideo
from longvu_model.video.live import live_frames
from pipelines import captions
from pipelines.captions import CaptionSettings, stream_captions
from pipelines.errors import UserError
from pipelines.video_models import load_video_model
from pipelines.video_models.videollamb import VideoLLaMB
from tests.pipelines.conftest import write_video

COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200), (220, 220, 40))
SECONDS = 12
SETTINGS = CaptionSettings(max_new_tokens=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_preset("tiny_videollamb", tmp_path_factory.mktemp("presets") / "tiny_videollamb")


@pytest.fixture(scope="module")
def model(folder: Path) -> VideoLLaMB:
    loaded = load_video_model(folder)
    assert isinstance(loaded, VideoLLaMB)
    return loaded


def frames(repeats: int = 1) -> Iterator[tuple[float, np.ndarray]]:
    """A frame a second of shots of one colour each, with a little noise."""
    noise = np.random.default_rng(0)
    for second in range(repeats * len(COLOURS) * SECONDS):
        colour = COLOURS[second // SECONDS % len(COLOURS)]
        picture = np.full((48, 64, 3), colour, np.int16) + noise.integers(-6, 7, (48, 64, 3))
        yield float(second), picture.clip(0, 255).astype(np.uint8)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions, "timed_frames", lambda source, fps: frames())


def test_each_scene_is_told_once(model: VideoLLaMB, scripted: None) -> None:
    told = list(stream_captions(model, "camera", SETTINGS))
    spans = [(caption.start_s, caption.end_s) for caption in told]
    assert spans == [(start, start + SECONDS - 1.0) for start in range(0, len(COLOURS) * SECONDS, SECONDS)]
    assert all(caption.frames == 8 and caption.visual_tokens == 8 * 36 for caption in told)


def test_captions_come_while_the_video_plays(model: VideoLLaMB, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def counted(source: str, fps: float) -> Iterator[tuple[float, np.ndarray]]:
        for time_s, frame in frames():
            seen.append(time_s)
            yield time_s, frame

    monkeypatch.setattr(captions, "timed_frames", counted)
    first = next(stream_captions(model, "camera", SETTINGS))
    assert first.end_s == SECONDS - 1.0 and len(seen) < 2 * SECONDS


def test_published_semantics_speak_on_every_second_frame(model: VideoLLaMB, scripted: None) -> None:
    model.config.semantics = "published"
    state = torch.random.get_rng_state()
    try:
        told = list(stream_captions(model, "camera", SETTINGS))
        again = list(stream_captions(model, "camera", SETTINGS))
    finally:
        model.config.semantics = "corrected"
    assert [caption.text for caption in told] == [caption.text for caption in again]
    assert torch.equal(torch.random.get_rng_state(), state)
    times = [caption.end_s for caption in told]
    assert len(told) > len(COLOURS) and {b - a for a, b in zip(times[-6:], times[-5:], strict=False)} == {2.0}


def test_files_and_streams_give_the_same_captions(
    model: VideoLLaMB, tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    path = write_video(tmp_path / "a.mp4", [10, 10, 10], size=(64, 48))
    from_file = list(captions.timed_frames(path, 1.0))
    live = list(live_frames(str(path), 1.0))
    assert [time_s for time_s, _ in live] == pytest.approx([time_s for time_s, _ in from_file])
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(live, from_file, strict=True))
    arguments = ["caption", "--stream", str(path), "--model", str(folder), "--max-new-tokens", "2", "--json"]
    assert main(arguments) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(list(stream_captions(model, path, SETTINGS)))


def test_an_address_is_captioned_as_its_file(
    model: VideoLLaMB, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Matroska, because this server cannot be asked for the end of a file, where MP4 has its index.
    path = write_video(tmp_path / "a.mkv", [10, 10, 10], size=(64, 48))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/a.mkv"
        arguments = ["caption", "--stream", address, "--model", str(folder), "--max-new-tokens", "3", "--json"]
        assert main(arguments) == 0
        server.shutdown()
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = list(stream_captions(model, path, SETTINGS))
    assert [(one["end_s"], one["text"]) for one in told] == [(one.end_s, one.text) for one in expected]
    assert told


def test_mistakes_are_named(model: VideoLLaMB, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("no video")
    assert main(["caption", "--stream", str(tmp_path / "a.txt"), "--model", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    with pytest.raises(NotAVideo):
        next(live_frames(str(tmp_path / "missing"), 1.0))
    with pytest.raises(UserError, match="fps=0"):
        CaptionSettings(fps=0)
