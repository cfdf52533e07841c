"""Training samples from raw files (SEMANTICS section 16.1); :mod:`longvu_model.collation` makes batches of them.

A data set is a JSON list; each record has ``conversations`` and optionally ``image`` or ``video``, a path under the
media folder: a picture; or a ``.npy`` array, a ``.gif`` (looked for in a sub-folder ``gifs`` first), a folder of
pictures in name order, or a video file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageSequence
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from longvu_model.config import Semantics
from longvu_model.image_processing import preprocess_frames
from longvu_model.labels import LabelledIds, Turn, label_turns, place_markers, read_turns
from longvu_model.media import Medium, load_image
from longvu_model.tower_pixels import TowerPixels
from longvu_model.video import FrameSampling, VideoError
from longvu_model.video_processing import load_video

DUMMY_SIZE = (336, 336)


class UnusableSample(ValueError):
    """A sample that cannot be learned from: its medium cannot be read, or none of its tokens is learned.

    Attributes:
        index: position in the data set.
        source: the medium's path as the record gives it, or ``None``.
    """

    def __init__(self, index: int, source: str | None, reason: str) -> None:
        super().__init__(f"sample {index} ({source or 'text only'}): {reason}")
        self.index = index
        self.source = source


@dataclass(frozen=True)
class TrainingSample:
    """Ids, labels and pixels of one sample.

    ``size`` is (height, width) of its medium. ``size_swapped`` says that the release hands the size of this medium to
    the model as (height, width) where (width, height) is expected [Q3]: arrays and video files, but neither pictures
    nor GIFs and folders. Without a medium, ``pixels`` is ``None``.
    """

    index: int
    text: LabelledIds
    pixels: tuple[Tensor, Tensor] | None
    """SigLIP and DINOv2, float32 (frames, 3, s, s) each."""
    size: tuple[int, int] = DUMMY_SIZE
    is_video: bool = False
    size_swapped: bool = False

    @property
    def published_size(self) -> tuple[int, int]:
        """The pair that the release passes on."""
        return self.size if self.size_swapped else (self.size[1], self.size[0])


class TrainingSamples(Sequence[TrainingSample]):
    """The samples of a data set, read when they are asked for.

    Args:
        records: the JSON list, or the path of its file.
        media_folder: what paths in the records are relative to.
        tokenizer: of the language model.
        style: "qwen" or "llama3".
        towers: preprocessing of the SigLIP and the DINOv2 tower.
        rules: which quirks to keep.
        sampling: which frames of a video file to take.
    """

    def __init__(
        self,
        records: Sequence[Mapping[str, Any]] | str | Path,
        media_folder: str | Path,
        tokenizer: PreTrainedTokenizerBase,
        style: str,
        towers: tuple[TowerPixels, TowerPixels],
        rules: Semantics,
        sampling: FrameSampling | None = None,
    ) -> None:
        if isinstance(records, str | Path):
            records = json.loads(Path(records).read_text(encoding="utf-8"))
        if not isinstance(records, Sequence) or not records:
            raise ValueError("an empty data set: give a list of at least one record")
        self.records: Sequence[Mapping[str, Any]] = records  # type: ignore[assignment]
        self.media_folder = Path(media_folder)
        self.tokenizer = tokenizer
        self.style = style
        self.towers = towers
        self.rules = rules
        self.sampling = sampling or FrameSampling(fps=1.0)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> TrainingSample:  # type: ignore[override]
        """Sample ``index``; under published semantics the first one stands in for a sample that cannot be used.

        Raises:
            UnusableSample: the sample (published: the first one too) cannot be used.
            IndexError: no such sample.
        """
        index = range(len(self))[index]
        try:
            return self._read(index)
        except UnusableSample:
            if not self.rules.missing_media_is_sample_zero or index == 0:
                raise
            return self._read(0)

    def _read(self, index: int) -> TrainingSample:
        record = self.records[index]
        source = _source(record)
        try:
            turns = _turns(record)
            turns = place_markers(turns) if source else turns
            text = label_turns(turns, self.tokenizer, self.style, self.rules, has_medium=source is not None)
            medium, size_swapped = self._load(record) if source else (None, False)
        except (OSError, ValueError, VideoError) as error:
            raise UnusableSample(index, source, str(error)) from error
        if not text.learnable:
            raise UnusableSample(index, source, "none of its tokens is learned: it has no answer")
        if medium is None:
            dummy = tuple(torch.zeros(1, 3, tower.size, tower.size) for tower in self.towers)
            return TrainingSample(index, text, dummy if self.rules.dummy_image_for_text else None)  # type: ignore[arg-type]
        siglip, dino = (preprocess_frames(medium.frames, tower.size, tower.mean, tower.std) for tower in self.towers)
        return TrainingSample(index, text, (siglip, dino), medium.size, medium.is_video, size_swapped)

    def _load(self, record: Mapping[str, Any]) -> tuple[Medium, bool]:
        """The record's medium, and whether the release swaps its size."""
        if "image" in record:
            return Medium([load_image(self.media_folder / record["image"])], is_video=False), False
        path = self.media_folder / record["video"]
        if path.suffix == ".gif":
            in_gifs = self.media_folder / "gifs" / record["video"]
            with Image.open(in_gifs if in_gifs.exists() else path) as gif:
                frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(gif)]
            return Medium(frames, is_video=True), False
        if path.is_dir():
            return Medium([load_image(file) for file in sorted(path.iterdir())], is_video=True), False
        if path.suffix == ".npy":
            return Medium(np.load(path, allow_pickle=False), is_video=True), True
        return load_video(path, self.sampling), True

    def word_counts(self) -> list[int]:
        """Words of each conversation as its record has it, markers included."""
        return [sum(len(turn.text.split()) for turn in _turns(record)) for record in self.records]

    def lengths(self, image_token_len: int) -> list[int]:
        """Estimated length of each sample: its words, and ``image_token_len`` (S * S) if it has a medium."""
        media = [_source(record) is not None for record in self.records]
        return [words + image_token_len * int(has) for words, has in zip(self.word_counts(), media, strict=True)]

    def modality_lengths(self) -> list[int]:
        """Words of each sample, negative for those that grouping takes for text-only [Q24]."""
        keys = ("image",) if self.rules.videos_grouped_as_text else ("image", "video")
        visual = [any(key in record for key in keys) for record in self.records]
        return [words if has else -words for words, has in zip(self.word_counts(), visual, strict=True)]


def _source(record: Mapping[str, Any]) -> str | None:
    return record.get("image", record.get("video"))


def _turns(record: Mapping[str, Any]) -> list[Turn]:
    if not record.get("conversations"):
        raise ValueError(f"record with keys {sorted(record)}: it needs 'conversations', a list of turns")
    return read_turns(record["conversations"])
