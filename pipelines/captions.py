"""Captions of a video while it plays: what `longvu caption --stream` prints and a server sends as events.

Frames are encoded once, in temporal windows. When a scene has ended, its frames go through the bridge with the memory
of the scenes before it, and the language model is asked, as any question is: a server's captions share the engine with
everybody's answers. Time for each frame and memory do not grow with the video.

Under published semantics (``stream_recomputes``) everything is done as in the released script instead: all frames are
held, detection looks at all of them again for each new one, and each caption encodes them again.

Shapes: F frames, P pooled tokens of a frame, D width, L visual tokens, C model width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from longvu_model import vicuna
from longvu_model.prompts import VIDEO_MARKER
from longvu_model.video import FrameSampling, iter_frame_blocks
from longvu_model.videollamb.compression import Recurrence, visible_tokens
from longvu_model.videollamb.prompts import tokenizer_with_slots
from longvu_model.videollamb.sight import Media
from longvu_model.videollamb.streaming import Firing, PublishedStream, RunningScenes, SceneRule, SceneSketch
from longvu_model.watching import windows
from pipelines.engine import Engine, EngineConfig, SamplingParams
from pipelines.errors import UserError
from pipelines.video_models import Prompt, VideoModel
from pipelines.video_models.videollamb import VideoLLaMB, VideoLLaMBMedia

TimedFrame = tuple[float, np.ndarray]
"""Seconds, and a frame uint8 (H, W, 3)."""
QUESTION = "Describe the video in one sentence."
# Scenes whose memories are looked at again: as many as the published model ever saw.
MOST_REMEMBERED = 16


@dataclass(frozen=True)
class CaptionSettings:
    """How a stream is captioned.

    Attributes:
        question: what is asked about each scene.
        fps: frames a second.
        shortest_s: of a scene; sooner changes are passed over.
        longest_s: of a scene, after which it is captioned although it goes on.
        max_new_tokens: of a caption.
        seed: of published semantics' sampling.
    """

    question: str = QUESTION
    fps: float = 1.0
    shortest_s: float = 8.0
    longest_s: float | None = 120.0
    max_new_tokens: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.fps <= 1000:
            raise UserError(f"fps={self.fps}: give a number of frames per second above 0, such as 1")

    @property
    def sampling(self) -> SamplingParams:
        """How the engine says a caption: greedily."""
        return SamplingParams(max_tokens=self.max_new_tokens)


@dataclass(frozen=True)
class Caption:
    """A text about a part of a stream.

    Attributes:
        start_s, end_s: the part, in seconds of the stream.
        text: what the model says.
        frames: of the part, those that were looked at.
        visual_tokens: that they cost.
        seconds: that the caption took, from the end of its part being known.
    """

    start_s: float
    end_s: float
    text: str
    frames: int
    visual_tokens: int
    seconds: float

    def __str__(self) -> str:
        return f"[{_clock(self.start_s)} - {_clock(self.end_s)}] {self.text}"


def stream_captions(
    model: VideoModel, source: str | Path, settings: CaptionSettings | None = None
) -> Iterator[Caption]:
    """Captions as the scenes of a stream end; lazily, so that leaving the loop ends the work.

    Args:
        model: a VideoLLaMB from :func:`pipelines.video_models.load_video_model`.
        source: file, camera (``/dev/video0``) or address. Addresses are opened as they are: whoever serves strangers
            fetches what a policy allows first.

    Raises:
        UserError: a model of another family.
        VideoError: the source cannot be opened or decoded.
    """
    if not isinstance(model, VideoLLaMB):
        raise UserError(f"captions need a VideoLLaMB, the model is of family {model.family}: try tiny_videollamb")
    settings = settings or CaptionSettings()
    frames = timed_frames(source, settings.fps)
    if model.config.rules.stream_recomputes:
        return _published_captions(model, frames, settings)
    return _captions_alone(model, frames, settings)


def timed_frames(source: str | Path, fps: float) -> Iterator[TimedFrame]:
    """Seconds and frames uint8 (H, W, 3) of a file, camera or address."""
    if Path(source).is_file():
        for block in iter_frame_blocks(source, FrameSampling(fps=fps)):
            yield from zip(block.pts_s.tolist(), block.frames, strict=True)
        return
    from longvu_model.video.live import live_frames

    yield from live_frames(str(source), fps)


def _captions_alone(model: VideoLLaMB, frames: Iterator[TimedFrame], settings: CaptionSettings) -> Iterator[Caption]:
    engine = Engine(model, EngineConfig(slots=1))
    try:
        yield from scene_captions(
            model, frames, settings, lambda prompt: engine.submit(prompt, settings.sampling).result().text
        )
    finally:
        engine.close()


def scene_captions(
    model: VideoLLaMB, frames: Iterator[TimedFrame], settings: CaptionSettings, say: Callable[[Prompt], str]
) -> Generator[Caption, None, None]:
    """The sound rule: one caption for each scene, when it has ended.

    Args:
        frames: at ``settings.fps``; each is taken when it is needed.
        say: what the language model answers.

    Raises:
        PromptTooLong: the question leaves no room.
    """
    config = model.config
    rule = SceneRule(
        shortest=max(1, round(settings.shortest_s * settings.fps)),
        longest=None if settings.longest_s is None else max(2, round(settings.longest_s * settings.fps)),
    )
    watcher, scenes = model.watcher(), RunningScenes(rule)
    sketch = SceneSketch(config.scene_frames)
    recurrence = Recurrence(model.model.model.bridge, config, MOST_REMEMBERED)
    told: list[Tensor] = []
    times = _Times()

    @torch.inference_mode()
    def caption(scene: tuple[int, int]) -> Caption:
        started_s = time.perf_counter()
        taken = sketch.take(*scene)
        told.append(recurrence.add(torch.cat([tokens for _, tokens in taken])))
        # Memories of as many scenes are shown as the published model ever shows.
        del told[: -(config.max_boundaries + 1) if config.visible == "memory" else -1]
        tokens_LC = visible_tokens(config, told)
        text = " ".join(say(_prompt(model, tokens_LC, settings.question)).split())
        seconds = time.perf_counter() - started_s
        return Caption(*times.span(scene), text, len(taken), len(tokens_LC), seconds)

    for window in windows(times.noted(frames), config.temporal_window):
        features_FND = watcher.encode(window)
        for frame_ND in features_FND:
            frame = scenes.num_frames
            sketch.add(frame, frame_ND[1:].clone())
            ended = scenes.add(frame_ND[0].cpu())
            if ended is not None:
                yield caption(ended)
    last = scenes.finish()
    if last is not None:
        yield caption(last)


class _Times:
    """Times of the frames since the scene that goes on began."""

    def __init__(self) -> None:
        self._first, self._times_s = 0, np.empty(0)

    def noted(self, frames: Iterator[TimedFrame]) -> Iterator[np.ndarray]:
        """Frames one by one, as blocks, their times taken down."""
        for time_s, frame in frames:
            self._times_s = np.append(self._times_s, time_s)
            yield frame[None]

    def span(self, scene: tuple[int, int]) -> tuple[float, float]:
        """Start and end of a scene; what lies before its end is let go."""
        first, last = (frame - self._first for frame in scene)
        span = float(self._times_s[first]), float(self._times_s[last])
        self._times_s, self._first = self._times_s[last + 1 :], scene[1] + 1
        return span


def _prompt(model: VideoLLaMB, tokens_LC: Tensor, question: str) -> Prompt:
    """The question about visual tokens. Its beginning is not kept for others: every scene has another one."""
    media = VideoLLaMBMedia(
        kind="video", num_sampled=0, kept_times_s=[], seconds={}, tokens_LC=tokens_LC, scene_ends=[]
    )
    content = [{"type": "video"}, {"type": "text", "text": question}]
    return replace(model.prompt([{"role": "user", "content": content}], [media]), prefix_length=0, prefix_key=None)


def _published_captions(
    model: VideoLLaMB, frames: Iterator[TimedFrame], settings: CaptionSettings
) -> Iterator[Caption]:
    """The released script: a class token of the image tower for each frame, all frames for each caption.

    The question is asked at the start and stays in the prompt; captions that nobody asked for repeat it.
    """
    core, window = model.model.model, model.config.temporal_window
    stream = PublishedStream(settings.fps, window)
    stream.ask(0.0, settings.question)
    pixels: list[Tensor] = []
    watcher = model.watcher()
    for number, (_, frame) in enumerate(frames):
        pixels.append(watcher.pixels(frame[None])[0])
        with torch.inference_mode():
            vector_D = core.towers.image(pixels[-1][None].to(model.device))[0, 0].cpu()
        firing = stream.add(vector_D)
        if firing is not None:
            # Captions are drawn at random; the same stream and seed give the same ones, and nobody else's draws change.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(settings.seed + number)
                caption = _published_caption(model, torch.stack([pixels[i] for i in firing.frames]), firing, settings)
            yield caption


@torch.inference_mode()
def _published_caption(model: VideoLLaMB, pixels_FCHW: Tensor, firing: Firing, settings: CaptionSettings) -> Caption:
    started_s = time.perf_counter()
    media = Media(torch.tensor([len(pixels_FCHW)]), torch.tensor([True]), pixels_FCHW.to(model.device))
    encoded = model.model.model.encode(media)
    text = vicuna.render("llava_v1", [f"{VIDEO_MARKER}\n{settings.question}", None])
    ids_1T = torch.tensor([tokenizer_with_slots(model.tokenizer)(text)])
    generated = model.model.generate(
        ids_1T,
        encoded=encoded,
        max_new_tokens=settings.max_new_tokens,
        attention_mask=torch.ones_like(ids_1T).to(model.device),
        pad_token_id=model.tokenizer.pad_token_id,
        eos_token_id=sorted(model.eos_token_ids),
        do_sample=True,
        temperature=0.2,
    )
    answer = " ".join(str(model.tokenizer.decode(generated[0], skip_special_tokens=True)).split())
    seconds = time.perf_counter() - started_s
    return Caption(0.0, firing.time_s, answer, len(set(firing.frames)), len(encoded.visual.embeds_LC), seconds)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes):02d}:{rest:04.1f}"
