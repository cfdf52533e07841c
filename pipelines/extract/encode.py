"""Encode a unit: features of every sampled frame, or with DINOv2's among them of those that are worth storing.

Frames are selected by DINOv2 alone: its features and window similarity of every sampled frame decide what is kept, and
the other towers see only what is stored. Without it, all is stored.

Batching, uploads and memory are :mod:`longvu_model.tower_runner`'s. Windows begin at the start of each source, and on a
CPU batches do too, so a source that was split gives the same numbers as a whole one.

Shapes: T sampled frames of a unit, F frames of some whole windows, P tokens, D channels, s input side of a tower.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch

from longvu_model.frame_selection import window_similarity
from longvu_model.tower_runner import TowerRunner, call_within_memory
from pipelines.errors import UserError
from pipelines.extract.families import Kind
from pipelines.extract.index import IMAGE
from pipelines.extract.towers import TowerBundle
from pipelines.store.features import FeatureSpec, cast_features, raw_bytes
from pipelines.store.schema import SELECTING, WINDOW_FRAMES

Result = TypeVar("Result")


@dataclass(frozen=True)
class EncodeSettings:
    """What encode actors know.

    Args:
        specs: how each tower's features are stored, DINOv2 first where it is one of them.
        keep_threshold, keep_all_below: as in the store's manifest; for DINOv2 only.
        precision: number format of the towers.
        batch_frames: frames per call of a tower, a multiple of 16.
        compile: whether towers are compiled; None: on CUDA only.
    """

    specs: tuple[FeatureSpec, ...]
    keep_threshold: float
    keep_all_below: int
    precision: str
    batch_frames: int
    compile: bool | None = None


@dataclass(frozen=True)
class Encoder:
    """Towers in place and ready to run; their batches shrink for good where memory runs out.

    Args:
        runners: by feature.
        settings: what they were made for.
        image_runners: of the features that have another tower for pictures.
    """

    runners: Mapping[str, TowerRunner]
    settings: EncodeSettings
    image_runners: Mapping[str, TowerRunner] = field(default_factory=dict)

    @classmethod
    def load(cls, bundle: TowerBundle, settings: EncodeSettings) -> Encoder:
        """Build the towers on the GPU where there is one.

        Raises:
            UserError: a tower cannot be compiled, or not even 16 frames fit the memory.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

        def runner(name: str, kind: Kind) -> TowerRunner:
            return TowerRunner(
                bundle.build(name, kind),
                device=device,
                dtype=getattr(torch, settings.precision),
                batch_frames=settings.batch_frames,
                compiled=settings.compile,
            )

        names = [spec.name for spec in settings.specs]
        videos = {name: runner(name, "video") for name in names}
        images = {name: runner(name, "image") for name in names if bundle.by_kind(name)}
        encoder = cls(videos, settings, images)
        encoder._warm_up()
        return encoder

    def runners_of(self, kind: str) -> dict[str, TowerRunner]:
        """By feature, the towers of a unit of videos, or of pictures."""
        return {**self.runners, **(self.image_runners if kind == IMAGE else {})}

    @property
    def batch_frames(self) -> int:
        """Frames per call, as far as they were found to fit."""
        return min(runner.batch_frames for runner in self._all())

    def within_memory(self, call: Callable[[], Result]) -> Result:
        """``call()``, again with smaller batches as often as memory runs out.

        Raises:
            UserError: not even 16 frames fit.
        """
        try:
            return call_within_memory(self._all(), call)
        except MemoryError as error:
            raise UserError(f"{error}; set encode.precision=bfloat16, or run fewer processes beside it") from error

    def _warm_up(self) -> None:
        """Compile, and find the batches that fit, before the first unit waits."""
        try:
            for runner in self._all():
                if runner.one_shape:
                    self.within_memory(runner.warm_up)
        except torch._dynamo.exc.TorchDynamoException as error:
            cause = str(error).strip().splitlines()[0]
            raise UserError(f"the towers cannot be compiled here ({cause}); set encode.compile=false") from error

    def _all(self) -> list[TowerRunner]:
        return [*self.runners.values(), *self.image_runners.values()]


def encode_unit(
    header: Mapping[str, Any], arrays: Mapping[str, np.ndarray], encoder: Encoder
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Encode what :func:`pipelines.extract.decode.decode_unit` gave.

    Returns:
        its header with the counts of each member filled in, and a note where memory allowed only smaller batches; and
        its arrays with pixels replaced by: stored bool (T,), with DINOv2 similarity float32 (T,) and kept bool (T,),
        and per tower uint8 (stored frames, bytes).

    Raises:
        UserError: features that the stored format cannot hold, or not even 16 frames fit the memory.
    """
    counts = [member["num_sampled"] for member in header["members"]]
    # A unit holds sources of one kind.
    runners = encoder.runners_of(header["members"][0].get("kind"))
    pixels = {name: arrays[name] for name in runners}
    if SELECTING in runners:
        store_all = [_total(member) <= encoder.settings.keep_all_below for member in header["members"]]
        store_all_T = np.repeat(store_all, counts)
        encoded = encoder.within_memory(lambda: _select(pixels, counts, store_all_T, runners, encoder.settings))
    else:
        encoded = encoder.within_memory(lambda: _encode_all(pixels, counts, runners, encoder.settings.specs))
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    facts = [
        {f"num_{name}": int(encoded[name][start:stop].sum()) for name in ("kept", "stored") if name in encoded}
        for start, stop in itertools.pairwise(starts.tolist())
    ]
    members = [member | fact for member, fact in zip(header["members"], facts, strict=True)]
    others = {name: array for name, array in arrays.items() if name not in pixels}
    notes = dict(header.get("notes", {}))
    if encoder.batch_frames < encoder.settings.batch_frames:
        notes[f"units encoded {encoder.batch_frames} frames at a time for want of memory"] = 1
    return {**header, "members": members, "notes": notes}, others | encoded


def _total(member: Mapping[str, Any]) -> int:
    return int(member["num_sampled"] if member["num_chunks"] == 1 else member["total_samples"])


@torch.inference_mode()
def _encode_all(
    pixels: Mapping[str, np.ndarray],
    counts: Sequence[int],
    runners: Mapping[str, TowerRunner],
    specs: Sequence[FeatureSpec],
) -> dict[str, np.ndarray]:
    """The arrays of :func:`encode_unit` without DINOv2, of sources of so many frames each."""
    features = {spec.name: _features(runners[spec.name], pixels[spec.name], counts, spec) for spec in specs}
    return {"stored": np.ones(sum(counts), bool), **features}


@torch.inference_mode()
def _select(
    pixels: Mapping[str, np.ndarray],
    counts: Sequence[int],
    store_all_T: np.ndarray,
    runners: Mapping[str, TowerRunner],
    settings: EncodeSettings,
) -> dict[str, np.ndarray]:
    """The arrays of :func:`encode_unit` with DINOv2, of sources of so many frames each."""
    total = sum(counts)
    similarity_T, stored_T = np.empty(total, np.float32), np.empty(total, bool)
    dino, *others = settings.specs
    dino_KB = np.empty((total, dino.frame_bytes), np.uint8)
    first = num_stored = 0
    stored_counts = []
    features = runners[dino.name].run(pixels[dino.name], counts)
    for features_FPD, windows in whole_windows(features, window_sizes(counts)):
        span = slice(first, first + len(features_FPD))
        similarity_T[span] = window_similarity(features_FPD, torch.tensor(windows)).cpu().numpy()
        stored_T[span] = (similarity_T[span] < settings.keep_threshold) | store_all_T[span]
        stored_F = torch.from_numpy(stored_T[span])
        stored_counts.append(int(stored_F.sum()))
        kept_KPD = features_FPD[stored_F.to(features_FPD.device)]
        dino_KB[num_stored : num_stored + stored_counts[-1]] = _bytes(kept_KPD, dino)
        first, num_stored = span.stop, num_stored + stored_counts[-1]
    encoded = {
        "similarity": similarity_T,
        "kept": similarity_T < settings.keep_threshold,
        "stored": stored_T,
        dino.name: dino_KB[:num_stored],
    }
    for spec in others:
        encoded[spec.name] = _features(runners[spec.name], pixels[spec.name][stored_T], stored_counts, spec)
    return encoded


def _features(runner: TowerRunner, frames: np.ndarray, counts: Sequence[int], spec: FeatureSpec) -> np.ndarray:
    """Bytes of the features of all frames, uint8 (F, bytes)."""
    raw_FB = np.empty((len(frames), spec.frame_bytes), np.uint8)
    first = 0
    for features_FPD in runner.run(frames, counts):
        raw_FB[first : first + len(features_FPD)] = _bytes(features_FPD, spec)
        first += len(features_FPD)
    return raw_FB


def _bytes(features_FPD: torch.Tensor, spec: FeatureSpec) -> np.ndarray:
    return raw_bytes(cast_features(features_FPD, spec)).reshape(-1, spec.frame_bytes)


def window_sizes(counts: Iterable[int]) -> list[int]:
    """Frames of each window of sources of so many frames."""
    return [min(WINDOW_FRAMES, count - first) for count in counts for first in range(0, count, WINDOW_FRAMES)]


def whole_windows(batches: Iterable[torch.Tensor], sizes: Sequence[int]) -> Iterator[tuple[torch.Tensor, list[int]]]:
    """Cut batches anew where windows end: features of whole windows, and the windows' sizes."""
    waiting: torch.Tensor | None = None
    next_window = 0
    for batch in batches:
        features = batch if waiting is None else torch.cat([waiting, batch])
        done, ready = 0, []
        while next_window < len(sizes) and done + sizes[next_window] <= len(features):
            ready.append(sizes[next_window])
            done, next_window = done + sizes[next_window], next_window + 1
        waiting = features[done:] if done < len(features) else None
        if ready:
            yield features[:done], ready
