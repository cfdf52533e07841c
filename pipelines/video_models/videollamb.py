"""VideoLLaMB behind the common interface: a video is visual tokens once it is watched, whatever will be asked.

So every question about it has the same prefix, and shares what the decoder made of it.

Shapes: F sampled frames, L visual tokens, C model width, T ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from longvu_model import assembly
from longvu_model.vicuna import STOP_STRING
from longvu_model.videollamb import official
from longvu_model.videollamb.compression import VisualTokens
from longvu_model.videollamb.frame_selection import evenly_spaced, scene_frames, whole_windows
from longvu_model.videollamb.modeling import VideoLLaMBForConditionalGeneration
from longvu_model.videollamb.sight import Media
from longvu_model.videollamb.watching import FrameWatcher
from longvu_model.watching import windows
from pipelines.video_models import chat
from pipelines.video_models.base import (
    DecodeLimits,
    Kind,
    Messages,
    Progress,
    Prompt,
    PromptTooLong,
    Quantization,
    Source,
    VideoModel,
    WatchedMedia,
    token_ids,
    video_id_of,
)
from pipelines.video_models.clock import Clock
from pipelines.video_models.weights import load_options, settle

if TYPE_CHECKING:
    from longvu_model.video import FrameSampling
    from longvu_model.videollamb.processing import VideoLLaMBProcessor
    from pipelines.store import FeatureStore

FEATURE = "languagebind"
"""Name of the towers' features in a feature store: (1 + P, D) of each frame, class token first, pooled."""

_UNQUANTISED = ["model.towers", "model.bridge", "lm_head"]


@dataclass(frozen=True, kw_only=True)
class VideoLLaMBMedia(WatchedMedia):
    """Visual tokens of a video or image.

    Attributes:
        tokens_LC: what the language model is given.
        scene_ends: last sampled frame of each scene.
    """

    tokens_LC: Tensor
    scene_ends: list[int]


class VideoLLaMB(VideoModel):
    """A VideoLLaMB model and its processor.

    Args:
        model: in evaluation mode, on its device.
        processor: fits the model; of it the tokenizer, ``apply_chat_template`` and the towers' pixels are used.
    """

    family: ClassVar[str] = "videollamb"

    def __init__(self, model: VideoLLaMBForConditionalGeneration, processor: VideoLLaMBProcessor) -> None:
        super().__init__(model, processor)
        self.stop_strings = (STOP_STRING,)
        self.eos_token_ids = frozenset({self.tokenizer.eos_token_id, *token_ids(model.generation_config.eos_token_id)})
        self.max_length = int(self.config.text_config.max_position_embeddings)

    def watcher(self) -> FrameWatcher:
        """An encoder for the frames of a video."""
        pixels = self.processor.video_processor
        return FrameWatcher(self.model.model, pixels.size, tuple(pixels.mean), tuple(pixels.std))

    @torch.inference_mode()
    def watch(
        self,
        source: Source,
        sampling: FrameSampling | None = None,
        progress: Progress = lambda done, planned: None,
        *,
        kind: Kind | None = None,
        limits: DecodeLimits | None = None,
    ) -> VideoLLaMBMedia:
        """See :meth:`VideoModel.watch`."""
        from pipelines.video_models.frames import SampledFrames  # needs PyAV

        clock = Clock()
        with clock("decode"):
            frames = SampledFrames(source, sampling or self.sampling, kind, limits)
        if frames.kind == "image":
            with clock("decode"):
                picture = next(iter(frames))
            with clock("encode"):
                inputs = self.processor.image_processor.preprocess(picture[0])
                visual = self.model.model.encode(Media(**_on(inputs, self.device))).visual
            return self._media("image", visual, frames.times_s[:1] or [0.0], clock, frames.damage)
        watcher, parts = self.watcher(), []
        incoming = windows(frames, self.config.temporal_window)
        while True:
            with clock("decode"):
                window = next(incoming, None)
            if window is None:
                break
            with clock("encode"):
                parts.append(watcher.encode(self._whole(window, frames.planned)))
            progress(sum(map(len, parts)), frames.planned)
        with clock("encode"):
            features = torch.cat(parts)
            visual = self.model.model.compress(features, torch.tensor([len(features)]))
        return self._media("video", visual, frames.times_s, clock, frames.damage)

    def recall(self, store: FeatureStore, video: str | Path) -> VideoLLaMBMedia:
        """See :meth:`VideoModel.recall`. Scenes and the bridge, which are not stored, are computed.

        Raises:
            StoreError: beside its causes, frames that are no whole windows under published semantics, which have no
                such videos.
        """
        from pipelines.store import StoreError  # needs Arrow, which answering about files does without

        store.require(FEATURE, "VideoLLaMB")
        clock = Clock()
        with clock("read"):
            video_id = video_id_of(video)
            found = store.load(video_id)
            features = found.features[FEATURE]
        kind, window = found.video["kind"], self.config.temporal_window
        windowed = kind == "video" and self.config.video_config is not None and self.config.rules.whole_windows_only
        if windowed and len(features) % window:
            raise StoreError(
                f"video {video_id[:12]}: {len(features)} frames are stored, under published semantics a multiple of "
                f"{window} is needed; extract with sampling=uniform:{self.config.num_frames}"
            )
        with clock("compress"), torch.inference_mode():
            media = Media(torch.tensor([len(features)]), torch.tensor([kind == "video"]), features=features)
            visual = self.model.model.encode(media).visual
        return self._media(kind, visual, found.pts_s.tolist(), clock, found.video["message"])

    def _whole(self, window: Any, planned: int) -> Any:
        """Under published semantics a video shorter than a window shows frames more than once."""
        size = self.config.temporal_window
        if self.config.rules.whole_windows_only and len(window) < size and planned < size:
            return window[evenly_spaced(len(window), whole_windows(len(window), size))]
        return window

    def _media(
        self, kind: Kind, visual: VisualTokens, times_s: list[float], clock: Clock, damage: str | None
    ) -> VideoLLaMBMedia:
        found = visual.scenes_V[0]
        looked_at = [frame for scene in found for frame in scene_frames(*scene, self.config.scene_frames)]
        return VideoLLaMBMedia(
            kind=kind,
            num_sampled=len(times_s),
            kept_times_s=[times_s[frame] for frame in looked_at if frame < len(times_s)],
            seconds=clock.seconds,
            damage=damage,
            tokens_LC=visual.embeds_LC,
            scene_ends=[last for _, last in found],
        )

    @torch.inference_mode()
    def prompt(self, messages: Messages, media: Sequence[WatchedMedia] = ()) -> Prompt:
        """See :meth:`VideoModel.prompt`."""
        ours = chat.matched(messages, media, VideoLLaMBMedia)
        open_answer = messages[-1]["role"] == "assistant"
        ids_BT = self.processor.apply_chat_template(
            chat.without_sources(messages), tokenize=True, continue_final_message=open_answer
        )
        layout = assembly.text_layout(ids_BT, None)
        num_visual = sum(len(medium.tokens_LC) for medium in ours)
        self._check_length(int(layout.num_text_B), num_visual)
        if not ours:
            return Prompt(self.model.model.embed(ids_BT[0]), 0, "text", ids_BT.shape[1])
        row_V, slot_V = assembly.rows_of_media(layout, len(ours), self.config.rules)
        merged = assembly.merge(
            None,
            layout,
            self.model.model.embed,
            torch.cat([medium.tokens_LC.to(self.device) for medium in ours]),
            torch.tensor([len(medium.tokens_LC) for medium in ours]),
            row_V,
            slot_V,
        )
        last_slot = int(slot_V[-1])
        key = repr(([medium.identity for medium in ours], ids_BT[0, : last_slot + 1].tolist()))
        return Prompt(
            embeds=merged.inputs_embeds[0],
            visual_tokens=num_visual,
            regime="+".join(dict.fromkeys("scenes" if medium.kind == "video" else "image" for medium in ours)),
            text_tokens=int(layout.num_text_B),
            kept_times_s=[medium.kept_times_s for medium in ours],
            prefix_length=int(layout.is_text_BT[0, :last_slot].sum()) + num_visual,
            prefix_key=hashlib.blake2b(key.encode(), digest_size=16).hexdigest(),
        )

    def _check_length(self, num_text: int, num_visual: int) -> None:
        limit = self.config.max_sequence_length or self.max_length
        if num_text + num_visual > limit:
            raise PromptTooLong(
                f"{num_text} tokens of text and {num_visual} of media, the model takes {limit}: shorten the question, "
                "leave out earlier turns, or show fewer media"
            )


def load(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype | None,
    quantization: Quantization | None,
    overrides: Mapping[str, Any],
) -> VideoLLaMB:
    """See :func:`pipelines.video_models.load_video_model`."""
    from longvu_model.llama_tokenizer import load_llama_tokenizer
    from longvu_model.videollamb.processing import VideoLLaMBProcessor  # needs PyAV

    options = load_options(device, dtype, quantization, _UNQUANTISED)
    if official.is_published(folder):
        model = official.load(folder, **options)
        processor = VideoLLaMBProcessor.from_config(model.config, load_llama_tokenizer(folder))
    else:
        model = VideoLLaMBForConditionalGeneration.from_pretrained(folder, **options)
        processor = VideoLLaMBProcessor.from_pretrained(folder)
    settle(model, device, quantization, overrides)
    return VideoLLaMB(model, processor)


def _on(inputs: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) if name == "pixel_values" else tensor for name, tensor in inputs.items()}
