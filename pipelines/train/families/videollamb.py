"""VideoLLaMB in training: one stage, whole videos through the recurrent bridge, the loss after the last scene or each.

SEMANTICS section 11. Shapes: F frames, P pooled patches of a frame, D width.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from longvu_model.prompts import IMAGE_MARKER, VIDEO_MARKER
from longvu_model.videollamb.compression import most_tokens, pool, short_frames
from longvu_model.videollamb.config import VideoLLaMBConfig
from longvu_model.videollamb.modeling import VideoLLaMBForConditionalGeneration
from longvu_model.videollamb.processing import VideoLLaMBProcessor
from longvu_model.videollamb.prompts import TRAINING_STYLE, label_turns
from longvu_model.videollamb.sight import Media
from longvu_model.videollamb.tower_pixels import flipped, image_pixels, video_pixels
from longvu_model.videollamb.towers import num_blocks
from pipelines.errors import UserError
from pipelines.train.families.base import SampleCost, SampleText, Watchers
from pipelines.train.families.features import FeatureFamily, FeatureWatcher, turns_with, vit_flops
from pipelines.train.families.work import RowWork, VisualPart
from pipelines.train.samples import MediaRef, Sample, Unusable
from pipelines.train.visibility import MediumFacts

if TYPE_CHECKING:
    from pipelines.store import FeatureStore
    from pipelines.train.stages import Stage


class VideoLLaMBFamily(FeatureFamily):
    """See :class:`pipelines.train.families.base.Family`."""

    config: VideoLLaMBConfig
    model_class = VideoLLaMBForConditionalGeneration
    feature_names = ("languagebind",)
    title = "VideoLLaMB"

    @staticmethod
    def configure(config: VideoLLaMBConfig, stage: Stage) -> None:
        """Lengths, the template of training, and which loss."""
        if stage.name != "instruction":
            raise UserError(f"stage.name={stage.name}: VideoLLaMB has one stage: use instruction")
        if stage.per_scene_loss and (config.num_scenes is None or config.visible != "last_scene"):
            raise UserError(
                f"stage.per_scene_loss=true with num_scenes={config.num_scenes}, visible={config.visible}: it needs a "
                f"fixed number of scenes whose tokens are visible, as videollamb_7b has; set it to false"
            )
        config.per_scene_loss = stage.per_scene_loss
        config.max_sequence_length = stage.max_sequence_length
        config.prompt_style = TRAINING_STYLE

    def label(self, sample: Sample) -> SampleText:
        """See :meth:`Family.label`."""
        marker = VIDEO_MARKER if sample.modality == "video" else IMAGE_MARKER
        turns = turns_with(sample, lambda text: text.replace(IMAGE_MARKER, marker))
        return SampleText.of(label_turns(turns, self.tokenizer, self.config.rules, str(self.config.prompt_style)))

    def clip_facts(self, video: dict[str, Any], medium: MediaRef) -> MediumFacts:
        """Refused: the frames of a temporal window have seen one another."""
        raise Unusable(
            "bad clip",
            f"{medium.path}: stored features see windows of {self.config.temporal_window} frames, no part can be cut "
            f"out of them; leave the video out of the store",
        )

    def costs(
        self, texts: Sequence[SampleText], facts: Sequence[Sequence[MediumFacts]], store: FeatureStore | None
    ) -> list[SampleCost]:
        """See :meth:`Family.costs`."""
        costs = []
        for media in facts:
            counts = [fact.whole for fact in media]
            sequences = self._sequences(counts)
            visual = sequences * sum(most_tokens(self.config, count) for count in counts)
            costs.append(SampleCost(visual, sum(counts), (False,) * len(counts), sequences=sequences))
        return costs

    def _sequences(self, frame_counts: Sequence[int]) -> int:
        if not self.config.per_scene_loss or not frame_counts:
            return 1
        assert self.config.num_scenes is not None, "checked by configure"
        return max(
            1 if count <= short_frames(self.config) else min(self.config.num_scenes, count) for count in frame_counts
        )

    def num_sequences(self, frames: Sequence[Tensor]) -> int:
        return self._sequences([len(features) for features in frames])

    def watchers(self, model: VideoLLaMBForConditionalGeneration, folder: Path, dtype: torch.dtype) -> Watchers:
        """See :meth:`Family.watchers`."""
        pixels = VideoLLaMBProcessor.from_pretrained(folder).video_processor
        towers = copy.deepcopy(model.model.towers).requires_grad_(False).to(dtype)
        weight = next(towers.parameters())
        size, mean, std = pixels.size, pixels.mean, pixels.std

        def watcher(medium: MediaRef, num_text: int, num_media: int) -> FeatureWatcher:
            is_video = torch.tensor([medium.kind == "video"])

            def encode(frames_FHWC: np.ndarray) -> Tensor:
                frames = torch.tensor(frames_FHWC)
                if medium.kind == "video":
                    shown = video_pixels(frames, size, mean, std)
                    if pixels.random_flip:
                        # The video's own coin: the same for all its windows, and in a run that is resumed.
                        shown = flipped(shown, torch.Generator().manual_seed(zlib.crc32(medium.path.encode())))
                else:
                    shown = image_pixels(frames[0], size, mean, std)[None]
                features = towers(shown.to(weight), torch.tensor([len(shown)]), is_video)
                return pool(features, self.config.pool_grid)

            return FeatureWatcher(encode)

        return watcher

    def media(self, text: SampleText, frames: Sequence[Tensor], is_video: Sequence[bool]) -> Media:
        """See :meth:`Family.media`."""
        counts = torch.tensor([len(features) for features in frames])
        return Media(counts, torch.tensor(is_video), features=torch.cat(list(frames)))

    def save_processor(self, folder: Path) -> None:
        VideoLLaMBProcessor.from_config(self.config, self.tokenizer).save_pretrained(folder)

    @classmethod
    def row_work(cls, config: Any, text: int, visual: int, targets: int, frames: int, online: int) -> RowWork:
        """See :meth:`Family.row_work`; scenes are as many and as long as they may be."""
        if not frames:
            return RowWork([text], targets)
        scenes = 1 if frames <= short_frames(config) else min(config.num_scenes or config.max_boundaries + 1, frames)
        seen = min(frames, scenes * config.scene_frames) * config.frame_tokens
        cells = seen + scenes * config.num_memory_tokens
        sequences = scenes if config.per_scene_loss else 1
        rendered = scenes * config.num_memory_tokens if config.visible == "memory" else seen
        return RowWork([text + visual // sequences] * sequences, targets, frames, cells, rendered, online)

    @classmethod
    def tower_flops(cls, config: Any) -> float:
        """The video tower's, with attention over time in each layer, or without one the image tower's."""
        tower = config.video_config or config.image_config
        tokens, depth = (tower.image_size // tower.patch_size) ** 2 + 1, num_blocks(tower, config.feature_layer)
        flops = vit_flops(tokens, tower.patch_size, tower.hidden_size, tower.intermediate_size, depth)
        if config.video_config is None:
            return flops
        width = tower.hidden_size
        return flops + depth * tokens * (2 * 4 * width**2 + 4 * config.temporal_window * width)

    @classmethod
    def visual_parts(cls, config: Any, work: RowWork) -> list[VisualPart]:
        """Operations of the bridge and its projector; all scenes count as full."""
        width, inner, hidden = config.width, config.bridge_intermediate_size, config.text_config.hidden_size
        scene = config.scene_frames * config.frame_tokens + config.num_memory_tokens
        bridge = config.bridge_depth * work.cells * (2 * (4 * width**2 + 2 * width * inner) + 4 * scene * width)
        if config.retrieval:  # queries of each scene, keys and values of it and of all before
            memory = work.cells * config.num_memory_tokens / scene
            scenes = (config.num_scenes or config.max_boundaries + 1) / 2 + 0.5
            looked_at = memory * scenes * (scene / config.num_memory_tokens if config.visible == "memory" else 1)
            bridge += 2 * 2 * width**2 * (memory + looked_at) + 4 * config.num_memory_tokens * looked_at * width
        return [
            VisualPart("bridge", bridge, chained=True),
            VisualPart("projector", 2 * work.rendered * width * hidden),
        ]

    @classmethod
    def visual_bytes(cls, config: Any, work: RowWork, size: int, device: str) -> float:
        """See :meth:`Family.visual_bytes`."""
        width, inner, hidden = config.width, config.bridge_intermediate_size, config.text_config.hidden_size
        scene = config.scene_frames * config.frame_tokens + config.num_memory_tokens
        features = work.frames * (1 + config.frame_tokens) * width
        # queries, keys, values, mixed, dense, dropped, both norms; the MLP before and behind its activation
        per_cell = config.bridge_depth * (12 * width + 2 * inner + 4 * config.bridge_heads * scene)
        rendered = work.rendered * (width + 2 * hidden) + work.tokens * hidden
        return float(size * (features + work.cells * (width + per_cell) + rendered))

    @classmethod
    def frame_bytes(cls, config: Any, size: int) -> float:
        return float((1 + config.frame_tokens) * config.width * size)
