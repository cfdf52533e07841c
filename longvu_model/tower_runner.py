"""A tower over 8-bit frames, in batches: bytes go up, normalised pixels are made where the tower runs.

On a GPU all batches have one shape, so that a compiled tower is compiled once and a frame's numbers do not depend on
the frames beside it; the next batch travels up and is begun before the caller looks at the last one's features. On a
CPU, where padding would cost time, a batch begins with each group of frames (a source) and is as long as it needs.

Shapes: F frames, s input side of the tower, P tokens, D channels.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from longvu_model.frame_selection import WINDOW_FRAMES
from longvu_model.tower_pixels import TowerPixels
from longvu_model.towers import Tower

Result = TypeVar("Result")

# What PyTorch 2.11 to 2.13 says of memory in plain RuntimeErrors: its CPU allocator, the CUDA driver, cuBLAS.
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


class TowerRunner:
    """One tower on one device.

    Args:
        tower: is moved there.
        dtype: number format of weights and features.
        batch_frames: frames per call, a multiple of 16.
        compiled: whether ``torch.compile`` is used; None: on CUDA only.
        one_shape: whether batches are filled up to one shape; None: if compiled or not on a CPU.

    Raises:
        ValueError: ``batch_frames`` is not a multiple of 16.
    """

    def __init__(
        self,
        tower: Tower,
        *,
        device: torch.device,
        dtype: torch.dtype,
        batch_frames: int,
        compiled: bool | None = None,
        one_shape: bool | None = None,
    ):
        if batch_frames < WINDOW_FRAMES or batch_frames % WINDOW_FRAMES:
            raise ValueError(f"batch_frames={batch_frames}: must be a multiple of {WINDOW_FRAMES}")
        if WINDOW_FRAMES % tower.window:
            raise ValueError(f"a tower with windows of {tower.window} frames: they must divide {WINDOW_FRAMES}")
        self.device, self.batch_frames = device, batch_frames
        self.compiled = device.type == "cuda" if compiled is None else compiled
        self.one_shape = (self.compiled or device.type != "cpu") if one_shape is None else one_shape
        self._tower = tower.to(device, dtype)
        self._encode: Callable[[Tensor], Tensor] = (
            torch.compile(tower.encode, dynamic=False) if self.compiled else tower.encode
        )
        pixels = TowerPixels(tower.image_size, tower.image_mean, tower.image_std)
        self._normalized_3V = torch.from_numpy(pixels.normalized).to(device)
        self._lane = _GpuLane(device) if device.type == "cuda" else None

    def run(self, frames_FssC: np.ndarray, group_sizes: Sequence[int] | None = None) -> Iterator[Tensor]:
        """Features of all frames in order, batch by batch.

        Args:
            frames_FssC: uint8, already made squares of the tower's size; or float32 (F, 3, s, s), normalised too.
            group_sizes: frames of each group, where batches begin on a CPU, and temporal windows of towers that have
                them; one group when absent.

        Yields:
            (n, P, D) on the device, ready for the stream that is current.
        """
        self._check(frames_FssC)
        groups = [len(frames_FssC)] if group_sizes is None else group_sizes
        if any(size % self._tower.window for size in groups):
            yield from self._run_filled(frames_FssC, groups)
            return
        groups = [len(frames_FssC)] if self.one_shape else groups
        parts = (frames_FssC[part] for part in batches(groups, self.batch_frames))
        if self._lane is not None:
            yield from self._lane.run(parts, self.batch_frames, self.encode)
            return
        for part in parts:
            padding = self.batch_frames - len(part) if self.one_shape else 0
            pixels = np.concatenate([part, np.zeros((padding, *part.shape[1:]), part.dtype)]) if padding else part
            yield self.encode(torch.from_numpy(pixels))[: len(part)]

    def _run_filled(self, frames_FssC: np.ndarray, groups: Sequence[int]) -> Iterator[Tensor]:
        """Each group filled up to whole windows by copies of its last frame, whose features are left out."""
        filled = [size + -size % self._tower.window for size in groups]
        within = [np.arange(full) for full in filled]
        last = [start + size - 1 for start, size in zip(np.cumsum(groups) - groups, groups, strict=True)]
        places = [np.minimum(end - size + 1 + at, end) for end, size, at in zip(last, groups, within, strict=True)]
        shown = torch.from_numpy(np.concatenate([at < size for at, size in zip(within, groups, strict=True)]))
        first = 0
        for features in self.run(frames_FssC[np.concatenate(places)], filled):
            part = shown[first : first + len(features)]
            yield features if bool(part.all()) else features[part.to(features.device)]
            first += len(features)

    @torch.inference_mode()
    def encode(self, frames_FssC: Tensor) -> Tensor:
        """One call of the tower: frames on the device, as for :meth:`run`, -> (F, P, D)."""
        pixels = frames_FssC if frames_FssC.is_floating_point() else self._normalized(frames_FssC)
        return self._encode(pixels.to(self._tower.patch.weight.dtype))

    def _normalized(self, frames_FssC: Tensor) -> Tensor:
        pixels = torch.empty(len(frames_FssC), 3, *frames_FssC.shape[1:3], device=self.device)
        for channel in range(3):
            pixels[:, channel] = self._normalized_3V[channel].take(frames_FssC[..., channel].long())
        return pixels

    def warm_up(self) -> None:
        """Compile and take the memory that a full batch needs."""
        size = self._tower.image_size
        for _ in self.run(np.zeros((self.batch_frames, size, size, 3), np.uint8)):
            pass

    def _check(self, frames_FssC: np.ndarray) -> None:
        size = self._tower.image_size
        form = (frames_FssC.dtype.name, frames_FssC.shape[1:])
        if form not in (("uint8", (size, size, 3)), ("float32", (3, size, size))):
            raise ValueError(
                f"frames are {frames_FssC.dtype} {frames_FssC.shape}: {type(self._tower).__name__} takes uint8 "
                f"(frames, {size}, {size}, 3); pad and resize them with tower_pixels.padded_square; or normalised "
                f"float32 (frames, 3, {size}, {size})"
            )


def batches(group_sizes: Sequence[int], batch_frames: int) -> Iterator[slice]:
    """Places of the batches of groups that lie back to back; every group begins one."""
    first = 0
    for size in group_sizes:
        for start in range(first, first + size, batch_frames):
            yield slice(start, min(start + batch_frames, first + size))
        first += size


class _GpuLane:
    """Two pinned buffers in turn, a stream for uploads and one for the tower.

    While the tower works on a batch, the next one is copied to the other buffer and sent; its work is queued before
    the caller gets the last one's features, so that the GPU has work while the caller reads them.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._uploads, self._work = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self._buffers: list[Tensor] = []
        self._sent = [torch.cuda.Event(), torch.cuda.Event()]
        # The tower's weights were written on another stream.
        torch.cuda.synchronize(device)

    def run(
        self, parts: Iterator[np.ndarray], batch_frames: int, encode: Callable[[Tensor], Tensor]
    ) -> Iterator[Tensor]:
        ahead: tuple[Tensor, torch.cuda.Event] | None = None
        for number, part in enumerate(parts):
            frames, sent = self._upload(part, batch_frames, number % 2)
            with torch.cuda.stream(self._work):
                self._work.wait_event(sent)
                frames.record_stream(self._work)
                features = encode(frames)[: len(part)]
                done = self._work.record_event()
            if ahead is not None:
                yield self._hand_over(*ahead)
            ahead = features, done
        if ahead is not None:
            yield self._hand_over(*ahead)

    def _upload(self, part: np.ndarray, batch_frames: int, turn: int) -> tuple[Tensor, torch.cuda.Event]:
        shape, dtype = (batch_frames, *part.shape[1:]), torch.uint8 if part.dtype == np.uint8 else torch.float32
        if not self._buffers or self._buffers[0].shape != shape or self._buffers[0].dtype != dtype:
            torch.cuda.synchronize(self._device)
            self._buffers = [torch.zeros(shape, dtype=dtype, pin_memory=True) for _ in range(2)]
        buffer, sent = self._buffers[turn], self._sent[turn]
        sent.synchronize()
        # What is left behind the last frames is an older batch's, and its features are cut off.
        np.copyto(buffer.numpy()[: len(part)], part)
        with torch.cuda.stream(self._uploads):
            frames = buffer.to(self._device, non_blocking=True)
            sent.record(self._uploads)
        return frames, sent

    def _hand_over(self, features: Tensor, done: torch.cuda.Event) -> Tensor:
        reader = torch.cuda.current_stream(self._device)
        reader.wait_event(done)
        features.record_stream(reader)
        return features


def is_out_of_memory(error: BaseException) -> bool:
    """Whether host or device memory did not suffice."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def call_within_memory(runners: Sequence[TowerRunner], call: Callable[[], Result]) -> Result:
    """``call()``; whenever memory runs out the runners' batches are halved, for good, and it is called again.

    Raises:
        MemoryError: not even batches of 16 frames fit.
    """
    while True:
        try:
            return call()
        except (RuntimeError, MemoryError) as error:
            smallest = min(runner.batch_frames for runner in runners)
            if not is_out_of_memory(error):
                raise
            if smallest == WINDOW_FRAMES:
                raise MemoryError(
                    f"batches of {smallest} frames do not fit the memory of {runners[0].device}"
                ) from error
        # Outside the handler, where the exception no longer holds the frames of the failed call.
        for runner in runners:
            runner.batch_frames = max(WINDOW_FRAMES, runner.batch_frames // 2 // WINDOW_FRAMES * WINDOW_FRAMES)
        gc.collect()
        if runners[0].device.type == "cuda":
            torch.cuda.empty_cache()
