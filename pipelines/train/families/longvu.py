"""LongVU in training: budgets and regimes, two towers, frames left out where not all fit.

Shapes: B samples, V media of all samples back to back.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from longvu_model.aggregator import KeyValue
from longvu_model.config import LongVUConfig
from longvu_model.image_processing import tower_pixels
from longvu_model.labels import check_markers, label_turns
from longvu_model.modeling import LongVUForConditionalGeneration
from longvu_model.processing import LongVUProcessor
from longvu_model.sight import Media
from longvu_model.watching import FrameWatcher, KeptFrames, too_many_frames
from pipelines import storage
from pipelines.errors import UserError
from pipelines.train.families import longvu_costs
from pipelines.train.families.base import Family, SampleCost, SampleText, Watchers
from pipelines.train.families.work import RowWork, VisualPart
from pipelines.train.samples import MediaRef, Sample
from pipelines.train.visibility import MediumFacts, clip_facts, load_stored, stored_facts, visual_cost

if TYPE_CHECKING:
    from pipelines.store import FeatureStore
    from pipelines.train.stages import Stage

_PER_MEDIUM = ("frame_counts", "image_sizes", "is_video")
_PER_FRAME = ("siglip_features", "dino_features", "frame_times")


class LongVUFamily(Family[KeptFrames]):
    """See :class:`Family`."""

    config: LongVUConfig
    model_class = LongVUForConditionalGeneration
    feature_names = ("dinov2", "siglip")

    @staticmethod
    def configure(config: LongVUConfig, stage: Stage) -> None:
        if stage.name not in ("image", "video"):
            raise UserError(f"stage.name={stage.name}: LongVU has the stages image and video")
        if stage.per_scene_loss:
            raise UserError("stage.per_scene_loss=true: LongVU has no scenes; set it to false")

    @staticmethod
    def prepare(model: LongVUForConditionalGeneration, stage: Stage) -> None:
        """Token grids and thresholds, and the windows of the aggregator that come with the grids."""
        config, video = model.config, stage.name == "video"
        full_grid = stage.full_grid or (config.token_grid // 2 if video else config.token_grid)
        low_grid = stage.low_grid or config.token_grid // 3
        if config.token_grid % full_grid:
            raise UserError(f"full_grid={full_grid} must divide the towers' grid of {config.token_grid} tokens a side")
        if low_grid > config.token_grid:
            raise UserError(
                f"low_grid={low_grid}: the towers' grid has {config.token_grid} tokens a side; set it lower"
            )
        if len(config.query_grids) > 1:
            raise UserError(
                f"query_grids={config.query_grids}: stages of models with several query grids are not defined"
            )
        window = (config.token_grid // full_grid) ** 2
        generator = torch.Generator().manual_seed(stage.seed)
        for module in model.model.aggregator.modules():
            if isinstance(module, KeyValue):
                _set_window(module, window, generator)
        config.full_grid, config.query_grids, config.low_grid = full_grid, [full_grid], low_grid
        config.mixed_resolution = video
        config.max_sequence_length = stage.max_sequence_length
        config.dino_threshold, config.drop_threshold = stage.dino_threshold, stage.drop_threshold

    def check(self, store: FeatureStore | None) -> None:
        """See :meth:`Family.check`."""
        if self.config.rules.regime_from_first_row:
            raise UserError(
                "semantics='published': its samples cost what their neighbours in a padded batch make of them, so they "
                "cannot be planned or packed; train with semantics='corrected'"
            )
        try:
            check_markers(self.tokenizer, str(self.config.prompt_style))
        except ValueError as error:
            raise UserError(f"{error}; give a model with the tokenizer that it was made for") from None
        if self.config.max_sequence_length is None:
            raise UserError("max_sequence_length is not set: media need a token budget; set it, for example to 8192")
        if store is not None and "siglip" not in {spec.name for spec in store.manifest.features}:
            from pipelines.store import StoreError

            raise StoreError(
                f"{storage.shown(store.uri)} has DINOv2 features only and training needs SigLIP's too: extract with "
                f"features.siglip=true, or train without a store"
            )

    def label(self, sample: Sample) -> SampleText:
        """See :meth:`Family.label`."""
        style = str(self.config.prompt_style)
        return SampleText.of(
            label_turns(sample.turns, self.tokenizer, style, self.config.rules, has_medium=bool(sample.media))
        )

    def stored_facts(self, store: FeatureStore) -> dict[str, MediumFacts]:
        return stored_facts(store, self.config.dino_threshold)

    def clip_facts(self, video: dict[str, Any], medium: MediaRef) -> MediumFacts:
        return clip_facts(video, medium, self.config.dino_threshold)

    def costs(
        self, texts: Sequence[SampleText], facts: Sequence[Sequence[MediumFacts]], store: FeatureStore | None
    ) -> list[SampleCost]:
        """See :meth:`Family.costs`."""
        text_B = torch.tensor([text.num_text for text in texts], dtype=torch.int64)
        media_B = torch.tensor([len(of_sample) for of_sample in facts], dtype=torch.int64)
        row_V = torch.repeat_interleave(torch.arange(len(texts)), media_B)
        facts_V = [fact for of_sample in facts for fact in of_sample]
        cost = visual_cost(self.config, row_V, facts_V, text_B)
        for fact, reduced in zip(facts_V, cost.reduced_V.tolist(), strict=True):
            if reduced and fact.missing:
                self._refuse_threshold(fact, store)
        visual_B = torch.zeros_like(text_B).index_add(0, row_V, cost.tokens_V)
        frames_B = torch.zeros_like(text_B).index_add(0, row_V, cost.frames_V)
        roomless_B = torch.zeros_like(text_B).index_add(0, row_V, (~cost.fits_V).long())
        reduced = iter(cost.reduced_V.tolist())
        return [
            SampleCost(int(visual), int(frames), tuple(next(reduced) for _ in of_sample), not roomless)
            for visual, frames, roomless, of_sample in zip(visual_B, frames_B, roomless_B, facts, strict=True)
        ]

    def _refuse_threshold(self, fact: MediumFacts, store: FeatureStore | None) -> None:
        assert store is not None
        from pipelines.store import StoreError

        raise StoreError(
            f"{storage.shown(store.uri)}: stored features below a similarity of {store.manifest.keep_threshold:g}, the "
            f"model keeps frames below {self.config.dino_threshold:g}: of a video of {fact.sampled} frames "
            f"{fact.missing} are missing; train with a lower dino_threshold, or extract again with a higher "
            f"keep_threshold"
        )

    def watchers(self, model: LongVUForConditionalGeneration, folder: Path, dtype: torch.dtype) -> Watchers:
        """See :meth:`Family.watchers`."""
        pixels = tower_pixels(LongVUProcessor.from_pretrained(folder).video_processor)
        towers = copy.deepcopy(model.model.towers).requires_grad_(False).to(dtype)

        def watcher(medium: MediaRef, num_text: int, num_media: int) -> FrameWatcher:
            def too_many(num_frames: int, size: tuple[int, int]) -> bool:
                return medium.kind == "video" and too_many_frames(self.config, num_frames, size, num_text, num_media)

            return FrameWatcher(towers, pixels, self.config.dino_threshold, too_many, dtype)

        return watcher

    def recall(self, store: FeatureStore, medium: MediaRef) -> KeptFrames:
        return load_stored(store, medium, self.config.dino_threshold)

    def media(self, text: SampleText, frames: Sequence[KeptFrames], is_video: Sequence[bool]) -> Media:
        """See :meth:`Family.media`; as features of the frames to be seen."""
        media = [one.media(is_video=video) for one, video in zip(frames, is_video, strict=True)]
        columns = {name: [getattr(one, name) for one in media] for name in _PER_MEDIUM + _PER_FRAME}
        joined = {name: parts[0] if len(parts) == 1 else torch.cat(parts) for name, parts in columns.items()}
        return Media(**joined, preselected=True)

    def save_processor(self, folder: Path) -> None:
        LongVUProcessor.from_config(self.config, self.tokenizer).save_pretrained(folder)

    @classmethod
    def row_work(cls, config: Any, text: int, visual: int, targets: int, frames: int, online: int) -> RowWork:
        """See :meth:`Family.row_work`; frames count as uncropped."""
        cells = sum(grid**2 for grid in config.query_grids)
        return RowWork([text + visual], targets, frames, frames * cells, visual, online)

    @classmethod
    def tower_flops(cls, config: Any) -> float:
        return longvu_costs.tower_flops(config)

    @classmethod
    def visual_parts(cls, config: Any, work: RowWork) -> list[VisualPart]:
        return longvu_costs.visual_parts(config, work)

    @classmethod
    def visual_bytes(cls, config: Any, work: RowWork, size: int, device: str) -> float:
        return longvu_costs.visual_bytes(config, work, size, device)

    @classmethod
    def frame_bytes(cls, config: Any, size: int) -> float:
        return float(config.token_grid**2 * (config.siglip_config.hidden_size + config.dino_config.hidden_size) * size)


def _set_window(module: KeyValue, window: int, generator: torch.Generator) -> None:
    """Give a window of more than one token its position table, which a stage of single tokens does not have."""
    table, gain = module.pos_embed, module.key_norm_weight
    has = 1 if table is None else len(table)
    if has == window:
        return
    if has != 1:
        raise UserError(
            f"the checkpoint was trained with windows of {has} tower tokens and the stage asks for {window}: "
            f"windows can only grow from 1; start from an image-stage checkpoint, or set full_grid to fit"
        )
    values = torch.randn(window, len(gain), generator=generator)
    module.pos_embed = nn.Parameter(values.to(gain.device, gain.dtype))
