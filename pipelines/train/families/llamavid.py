"""LLaMA-VID in training: three stages, every look at a medium guided by its question.

SEMANTICS sections 6 and 7. Shapes: F frames, T tower tokens of a frame, D width, S looks, L word pieces.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from longvu_model.config import IMAGE_TOKEN_INDEX
from longvu_model.image_processing import preprocess_frames
from longvu_model.llamavid.config import LlamaVidConfig
from longvu_model.llamavid.guides import FOLDER, load_guide_tokenizer, tokenize_guides
from longvu_model.llamavid.labels import GuidedText, label_caption, label_turns, place_slots
from longvu_model.llamavid.long_video import interleave, training_turns
from longvu_model.llamavid.modeling import LlamaVidForConditionalGeneration
from longvu_model.llamavid.positions import extend_positions
from longvu_model.llamavid.processing import LlamaVidProcessor, tower_pixels
from longvu_model.llamavid.sight import GuidedMedia, Media, Views
from pipelines.errors import UserError
from pipelines.train.families.base import SampleCost, SampleText, Watchers, text_digest
from pipelines.train.families.features import FeatureFamily, FeatureWatcher, turns_with, vit_flops
from pipelines.train.families.work import RowWork, VisualPart
from pipelines.train.samples import MediaRef, Sample, Unusable
from pipelines.train.visibility import MediumFacts

if TYPE_CHECKING:
    from pipelines.store import FeatureStore
    from pipelines.train.families.films import Film, Films
    from pipelines.train.stages import Stage

STAGES = ("alignment", "instruction", "long_video")
TRAINING_STYLE = "imgsp_v1"
GUIDE_PIECES = 24  # word pieces that a guiding text is counted with, in estimates


class LlamaVidFamily(FeatureFamily):
    """See :class:`pipelines.train.families.base.Family`.

    Args:
        guide_tokenizer: of the Q-Former.
        captions: learn answers as captions, as the alignment stage does.
        films: videos with subtitles, which are written between their frames, as in the long-video stage.
    """

    config: LlamaVidConfig
    model_class = LlamaVidForConditionalGeneration
    feature_names = ("eva",)
    title = "LLaMA-VID"

    def __init__(
        self,
        config: LlamaVidConfig,
        tokenizer: PreTrainedTokenizerBase,
        guide_tokenizer: PreTrainedTokenizerBase,
        captions: bool = False,
        films: Films | None = None,
    ) -> None:
        super().__init__(config, tokenizer)
        self.guide_tokenizer, self._captions, self._films = guide_tokenizer, captions, films

    @classmethod
    def open(cls, folder: Path, config: LlamaVidConfig, stage: Stage, films: Films | None = None) -> Self:
        """See :meth:`Family.open`."""
        if films is not None and stage.name != "long_video":
            raise UserError(f"data.subtitles with stage.name={stage.name}: only long_video reads subtitles")
        tokenizers = AutoTokenizer.from_pretrained(folder), load_guide_tokenizer(folder)
        return cls(config, *tokenizers, captions=stage.name == "alignment", films=films)

    @staticmethod
    def configure(config: LlamaVidConfig, stage: Stage) -> None:
        """Lengths, with positions stretched where the model was made for fewer."""
        if stage.name not in STAGES:
            raise UserError(f"stage.name={stage.name}: LLaMA-VID has the stages {', '.join(STAGES)}")
        if stage.per_scene_loss:
            raise UserError("stage.per_scene_loss=true: LLaMA-VID has no scenes; set it to false")
        config.max_sequence_length = stage.max_sequence_length
        config.text_config = extend_positions(config.text_config, stage.max_sequence_length, config.rules)

    def facts(self) -> list[Any]:
        films = None if self._films is None else self._films.facts()
        return [*super().facts(), text_digest(self.guide_tokenizer), self._captions, films]

    def label(self, sample: Sample) -> SampleText:
        """See :meth:`Family.label`; where a marker goes in later turns is a coin's toss, the same one every time."""
        if len(sample.media) > 1:
            raise Unusable("several media", f"{len(sample.media)} media: LLaMA-VID looks at one in all turns")
        film = self._films.film(sample.media[0]) if self._films is not None and sample.media else None
        if self._captions:
            labelled = self._caption(sample)
        elif film is not None:
            labelled = self._told(sample, film)
        else:
            turns = turns_with(sample, lambda text: text)
            if sample.media:
                turns = place_slots(turns, random.Random(sample.sample_id))
            labelled = label_turns(turns, self.tokenizer, TRAINING_STYLE, self.config.rules)
        guides = tokenize_guides(labelled.guides, self.guide_tokenizer, self.config.guide_length)
        return SampleText(
            labelled.text.input_ids, labelled.text.labels, guides if sample.media else None, film is not None
        )

    def _told(self, sample: Sample, film: Film) -> GuidedText:
        """A film in place of its marker: a slot for each token, and what is said between them."""
        questions = sum(turn.role == "user" for turn in sample.turns)
        if questions > 1:
            raise Unusable("several questions", f"{questions} questions about a film: one guides all of its tokens")
        system, asked = sample.turns[:-2], sample.turns[-2:]
        inputs = interleave(film.times_s, film.subtitles, self.config.rules)
        turns, guide = training_turns(asked, inputs, self.config.tokens_per_frame)
        labelled = label_turns([*system, *turns], self.tokenizer, TRAINING_STYLE, self.config.rules)
        return GuidedText(labelled.text, [guide])

    def _caption(self, sample: Sample) -> GuidedText:
        try:
            if not sample.media:
                raise ValueError("no medium: this stage learns captions")
            return label_caption(sample.turns, self.tokenizer)
        except ValueError as error:
            raise Unusable("no caption", str(error)) from None

    def costs(
        self, texts: Sequence[SampleText], facts: Sequence[Sequence[MediumFacts]], store: FeatureStore | None
    ) -> list[SampleCost]:
        """See :meth:`Family.costs`; a medium is shown once for each slot."""
        costs = []
        for text, media in zip(texts, facts, strict=True):
            frames = sum(fact.whole for fact in media)
            slots = text.input_ids.count(IMAGE_TOKEN_INDEX)
            tokens = slots if text.token_slots else slots * frames * self.config.tokens_per_frame
            costs.append(SampleCost(tokens, frames, (False,) * len(media)))
        return costs

    def watchers(self, model: LlamaVidForConditionalGeneration, folder: Path, dtype: torch.dtype) -> Watchers:
        """See :meth:`Family.watchers`."""
        processor = LlamaVidProcessor.from_pretrained(folder)
        pixels = {"video": tower_pixels(processor.video_processor), "image": tower_pixels(processor.image_processor)}
        tower = copy.deepcopy(model.model.tower).requires_grad_(False).to(dtype)
        weight = next(tower.parameters())

        def watcher(medium: MediaRef, num_text: int, num_media: int) -> FeatureWatcher:
            by = pixels[medium.kind]

            def encode(frames_FHWC: np.ndarray) -> Tensor:
                shown = preprocess_frames(frames_FHWC, by.size, by.mean, by.std, crop=by.crop)
                features: Tensor = tower(shown.to(weight))
                return features

            return FeatureWatcher(encode)

        return watcher

    def media(self, text: SampleText, frames: Sequence[Tensor], is_video: Sequence[bool]) -> GuidedMedia:
        """See :meth:`Family.media`."""
        assert text.guides is not None and len(frames) == 1, "label refuses all else"
        ids_SL, mask_SL = text.guides
        views = Views(ids_SL, mask_SL, torch.zeros(len(ids_SL), dtype=torch.int64))
        return GuidedMedia(Media(torch.tensor([len(frames[0])]), features=frames[0]), views, text.token_slots)

    def save_tokenizers(self, folder: Path) -> None:
        super().save_tokenizers(folder)
        self.guide_tokenizer.save_pretrained(folder / FOLDER)

    def save_processor(self, folder: Path) -> None:
        LlamaVidProcessor.from_config(self.config, self.tokenizer, self.guide_tokenizer).save_pretrained(folder)

    @classmethod
    def row_work(cls, config: Any, text: int, visual: int, targets: int, frames: int, online: int) -> RowWork:
        """See :meth:`Family.row_work`."""
        content = config.tokens_per_frame - 1
        return RowWork([text + visual], targets, frames, visual // config.tokens_per_frame, frames * content, online)

    @classmethod
    def tower_flops(cls, config: Any) -> float:
        tower = config.vision_config
        return vit_flops(
            config.grid**2 + 1,
            tower.patch_size,
            tower.hidden_size,
            tower.intermediate_size,
            tower.num_hidden_layers,
        )

    @classmethod
    def visual_parts(cls, config: Any, work: RowWork) -> list[VisualPart]:
        """Operations on pairs of a guiding text and a frame, and of content tokens."""
        bert, width, hidden = config.qformer_config, config.vision_config.hidden_size, config.text_config.hidden_size
        patches, queries = config.grid**2, config.num_queries
        seen, inner, read = patches + 1, bert.intermediate_size, bert.encoder_hidden_size
        tokens, b = queries + GUIDE_PIECES, bert.hidden_size
        layer = 2 * tokens * (4 * b**2 + 2 * b * inner) + 4 * tokens**2 * b
        keys = 2 * seen * 2 * read * b
        looks = -(-bert.num_hidden_layers // bert.cross_attention_frequency)
        qformer = bert.num_hidden_layers * layer
        qformer += looks * (2 * queries * 2 * b**2 + keys + 4 * queries * seen * b)
        context = 2 * queries * width * (b + width + patches) + 2 * patches * width + 2 * width * hidden
        projected = 2 * seen * width * read if config.image_projection else 0
        return [
            VisualPart("qformer_input", float(work.cells * projected), float(work.cells * projected)),
            VisualPart("qformer", float(work.cells * qformer), float(work.cells * looks * keys), chained=True),
            VisualPart("context", float(work.cells * context), chained=True),
            VisualPart("projector", 2.0 * work.rendered * (width * hidden + hidden**2)),
        ]

    @classmethod
    def visual_bytes(cls, config: Any, work: RowWork, size: int, device: str) -> float:
        """See :meth:`Family.visual_bytes`."""
        bert, width, hidden = config.qformer_config, config.vision_config.hidden_size, config.text_config.hidden_size
        patches, queries = config.grid**2, config.num_queries
        tokens, b = queries + GUIDE_PIECES, bert.hidden_size
        features = work.frames * (patches + 1) * width
        # a pair has its own copies of what it reads
        pair = (2 * patches + 2) * width + bert.encoder_hidden_size * (patches + 1)
        pair += bert.num_hidden_layers * tokens * (14 * b + 2 * bert.intermediate_size)
        pair += bert.num_hidden_layers * (patches + 1) * b + queries * (3 * width + 2 * patches)
        rendered = work.rendered * (width + 3 * hidden) + work.tokens * hidden
        return float(size * (features + work.cells * pair + rendered))

    @classmethod
    def frame_bytes(cls, config: Any, size: int) -> float:
        return float((config.grid**2 + 1) * config.vision_config.hidden_size * size)
