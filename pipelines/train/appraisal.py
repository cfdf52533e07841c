"""What samples cost: their text through the real tokenizer, their media by the model's own rules.

Shapes: B samples, V media of all samples back to back.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from longvu_model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX, LongVUConfig
from longvu_model.labels import LabelledIds, label_turns
from longvu_model.video import FrameSampling
from pipelines import storage
from pipelines.store import FeatureStore, StoreError
from pipelines.train.flops import language_flops
from pipelines.train.online import measure
from pipelines.train.samples import MediaRef, Sample, Unusable
from pipelines.train.visibility import MediumFacts, clip_facts, stored_facts, visual_cost

_MEASURERS = 8


@dataclass(frozen=True)
class Appraised:
    """A sample and its cost; token counts are those of the merged sequence, visual ones an upper bound."""

    sample: Sample
    num_text_tokens: int
    num_target_tokens: int
    num_visual_tokens: int
    num_frames: int
    flops: float
    has_room: bool
    """Whether the text leaves room for its media."""

    @property
    def num_tokens(self) -> int:
        return self.num_text_tokens + self.num_visual_tokens


def encode_turns(sample: Sample, tokenizer: PreTrainedTokenizerBase, config: LongVUConfig) -> LabelledIds:
    """Token ids and labels of a sample, as both the manifest and the reader see it.

    Raises:
        Unusable: nothing in it is learned.
    """
    style = str(config.prompt_style)
    labelled = label_turns(sample.turns, tokenizer, style, config.rules, has_medium=bool(sample.media))
    if not num_targets(labelled):
        raise Unusable("no answer", "none of its tokens is learned")
    return labelled


def num_targets(labelled: LabelledIds) -> int:
    """Labels that the loss sums over; the first token has none before it to predict it."""
    return sum(label != IGNORE_INDEX for label in labelled.labels[1:])


class Appraiser:
    """Counts tokens.

    Args:
        config: grids, budgets and thresholds of the stage.
        store: features of media; facts of the others come from their files.
        sampling: which frames of a video file are taken, as text.
    """

    def __init__(
        self, config: LongVUConfig, tokenizer: PreTrainedTokenizerBase, store: FeatureStore | None, sampling: str
    ) -> None:
        self._config, self._tokenizer, self._store = config, tokenizer, store
        self._sampling = FrameSampling.parse(sampling)
        self._stored = {} if store is None else stored_facts(store, config.dino_threshold)

    def appraise(self, samples: Sequence[Sample]) -> list[Appraised | Unusable]:
        """The cost of each sample, or why it cannot be used.

        Raises:
            StoreError: the model's threshold asks for frames that the store does not have.
        """
        with ThreadPoolExecutor(_MEASURERS) as measurers:
            located = measurers.map(self._located, samples)
            # the tokenizer is not made for threads, so it works on one while files are looked at by others
            prepared = [self._prepare(sample, facts) for sample, facts in zip(samples, located, strict=True)]
        usable = [entry for entry in prepared if not isinstance(entry, Unusable)]
        costs = iter(self._costs(usable))
        return [entry if isinstance(entry, Unusable) else next(costs) for entry in prepared]

    def _located(self, sample: Sample) -> list[tuple[MediaRef, MediumFacts]] | Unusable:
        try:
            return [self._facts(medium) for medium in sample.media]
        except Unusable as error:
            return error

    def _prepare(
        self, sample: Sample, located: list[tuple[MediaRef, MediumFacts]] | Unusable
    ) -> tuple[Sample, LabelledIds, list[MediumFacts]] | Unusable:
        if isinstance(located, Unusable):
            return located
        try:
            labelled = encode_turns(sample, self._tokenizer, self._config)
        except Unusable as error:
            return error
        return replace(sample, media=tuple(medium for medium, _ in located)), labelled, [fact for _, fact in located]

    def _facts(self, medium: MediaRef) -> tuple[MediaRef, MediumFacts]:
        """The medium, no longer of the store if that has it in another form, and its facts."""
        if medium.video_id is not None:
            assert self._store is not None
            if medium.start_s is not None:
                return medium, clip_facts(self._store.row(medium.video_id), medium, self._config.dino_threshold)
            facts = self._stored[medium.video_id]
            if medium.kind == "video":
                return medium, facts
            if facts.sampled == 1:
                return medium, replace(facts, is_video=False)
            # an animation, of which a sample that calls it an image shows the first frame
            medium = replace(medium, video_id=None)
        found = measure(medium, self._sampling)
        kept = None if medium.kind == "video" else found.num_frames
        facts = MediumFacts(medium.kind == "video", found.num_frames, found.num_frames, kept, 0, found.size)
        return medium, facts

    def _costs(self, entries: Sequence[tuple[Sample, LabelledIds, list[MediumFacts]]]) -> list[Appraised]:
        text_B = torch.tensor(
            [sum(i != IMAGE_TOKEN_INDEX for i in labelled.input_ids) for _, labelled, _ in entries], dtype=torch.int64
        )
        media_B = torch.tensor([len(facts) for _, _, facts in entries], dtype=torch.int64)
        row_V = torch.repeat_interleave(torch.arange(len(entries)), media_B)
        facts_V = [fact for _, _, facts in entries for fact in facts]
        cost = visual_cost(self._config, row_V, facts_V, text_B)
        for fact, reduced in zip(facts_V, cost.reduced_V.tolist(), strict=True):
            if reduced and fact.missing:
                self._refuse_threshold(fact)
        visual_B = torch.zeros_like(text_B).index_add(0, row_V, cost.tokens_V)
        frames_B = torch.zeros_like(text_B).index_add(0, row_V, cost.frames_V)
        roomless_B = torch.zeros_like(text_B).index_add(0, row_V, (~cost.fits_V).long())
        targets = [num_targets(labelled) for _, labelled, _ in entries]
        flops = language_flops(self._config.text_config, (text_B + visual_B).numpy(), np.array(targets, np.int64))
        reduced = iter(cost.reduced_V.tolist())
        return [
            Appraised(
                replace(sample, media=tuple(replace(medium, reduced=next(reduced)) for medium in sample.media)),
                int(text_B[i]),
                targets[i],
                int(visual_B[i]),
                int(frames_B[i]),
                float(flops[i]),
                not roomless_B[i],
            )
            for i, (sample, _, _) in enumerate(entries)
        ]

    def _refuse_threshold(self, fact: MediumFacts) -> None:
        assert self._store is not None
        keep = self._store.manifest.keep_threshold
        raise StoreError(
            f"{storage.shown(self._store.uri)}: stored features below a similarity of {keep:g}, the model keeps frames "
            f"below {self._config.dino_threshold:g}: of a video of {fact.sampled} frames {fact.missing} are missing; "
            f"train with a lower dino_threshold, or extract again with a higher keep_threshold"
        )
