"""What samples cost: their text through the real tokenizer, their media by the model's own rules.

Shapes: B samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from longvu_model.video import FrameSampling
from pipelines.store import FeatureStore
from pipelines.train.families import Family
from pipelines.train.families.base import SampleText
from pipelines.train.flops import language_flops
from pipelines.train.online import measure
from pipelines.train.samples import MediaRef, Sample, Unusable
from pipelines.train.visibility import MediumFacts

_MEASURERS = 8


@dataclass(frozen=True)
class Appraised:
    """A sample and its cost; token counts are those of the merged sequences, visual ones an upper bound.

    A sample that is learned in several sequences has its text in each: ``num_text_tokens`` is that of one, all other
    counts are of all.
    """

    sample: Sample
    num_text_tokens: int
    num_target_tokens: int
    num_visual_tokens: int
    num_frames: int
    flops: float
    has_room: bool
    """Whether the text leaves room for its media."""
    num_sequences: int = 1

    @property
    def num_tokens(self) -> int:
        return self.num_sequences * self.num_text_tokens + self.num_visual_tokens

    @property
    def longest(self) -> int:
        """Tokens of one sequence."""
        return -(-self.num_tokens // self.num_sequences)


def encoded(sample: Sample, family: Family[Any]) -> SampleText:
    """Token ids and labels of a sample, as both the manifest and the reader see it.

    Raises:
        Unusable: nothing in it is learned, or the family cannot learn such a sample.
    """
    text = family.label(sample)
    if not text.num_targets:
        raise Unusable("no answer", "none of its tokens is learned")
    return text


class Appraiser:
    """Counts tokens.

    Args:
        family: of the model, as the stage sets it.
        store: features of media; facts of the others come from their files.
        sampling: which frames of a video file are taken, as text.
    """

    def __init__(self, family: Family[Any], store: FeatureStore | None, sampling: str) -> None:
        self._family, self._store = family, store
        self._sampling = FrameSampling.parse(sampling)
        self._stored = {} if store is None else family.stored_facts(store)

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
    ) -> tuple[Sample, SampleText, list[MediumFacts]] | Unusable:
        if isinstance(located, Unusable):
            return located
        try:
            text = encoded(sample, self._family)
        except Unusable as error:
            return error
        return replace(sample, media=tuple(medium for medium, _ in located)), text, [fact for _, fact in located]

    def _facts(self, medium: MediaRef) -> tuple[MediaRef, MediumFacts]:
        """The medium, no longer of the store if that has it in another form, and its facts."""
        if medium.video_id is not None:
            assert self._store is not None
            if medium.start_s is not None:
                return medium, self._family.clip_facts(self._store.row(medium.video_id), medium)
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

    def _costs(self, entries: Sequence[tuple[Sample, SampleText, list[MediumFacts]]]) -> list[Appraised]:
        samples, texts = [sample for sample, _, _ in entries], [text for _, text, _ in entries]
        facts = [of_sample for _, _, of_sample in entries]
        costs = self._family.costs(texts, facts, self._store)
        sequences_B = np.array([cost.sequences for cost in costs], np.int64)
        text_B = np.array([text.num_text for text in texts], np.int64)
        visual_B = np.array([cost.visual_tokens for cost in costs], np.int64)
        targets_B = np.array([text.num_targets for text in texts], np.int64)
        each_B = text_B + visual_B // np.maximum(sequences_B, 1)
        flops = sequences_B * language_flops(self._family.config.text_config, each_B, targets_B)
        return [
            Appraised(
                replace(
                    sample,
                    media=tuple(
                        replace(medium, reduced=reduced)
                        for medium, reduced in zip(sample.media, cost.reduced, strict=True)
                    ),
                ),
                text.num_text,
                text.num_targets * cost.sequences,
                cost.visual_tokens,
                cost.frames,
                float(flops[i]),
                cost.has_room,
                cost.sequences,
            )
            for i, (sample, text, cost) in enumerate(zip(samples, texts, costs, strict=True))
        ]
