"""Temporal reduction: which sampled frames differ enough from their window to be kept (paper section 3.1).

Windows are 16 consecutive sampled frames, aligned to the start of each medium, so a long video may be scored in
pieces cut at multiples of 16. A frame's similarity is the mean cosine to every frame of its window, itself included
[Q7]; the centre frame's is set to 0 so that one frame of each window always stays [Q8]. The thresholds of released
models are calibrated against exactly this quantity, so both semantics share it.

Shapes: F frames, N tokens, D channels, V media, W windows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from longvu_model import ragged

WINDOW_FRAMES = 16
MAX_KEPT_FRAMES = 400

# Windows are compared in blocks of about this many bytes: on a CPU few enough to stay in the cache, elsewhere enough
# to keep the device busy. The result does not depend on it.
_CPU_BLOCK = 4 << 20
_DEVICE_BLOCK = 256 << 20


def window_similarity(features_FND: Tensor, frame_counts_V: Tensor | None = None) -> Tensor:
    """Mean cosine similarity of each frame to its window.

    Args:
        features_FND: tower features of all media's frames back to back, any float type.
        frame_counts_V: int64, frames per medium; one medium when absent.

    Returns:
        float32 (F,), 0 at the centre (index m // 2) of every window of m frames.
    """
    num_frames = len(features_FND)
    flat_FK = features_FND.flatten(1)
    if frame_counts_V is None:
        frame_counts_V = torch.tensor([num_frames])
    windows_V = -(-frame_counts_V // WINDOW_FRAMES)
    medium_W, window_W = ragged.expand(windows_V)
    first_W = ragged.starts(frame_counts_V)[medium_W] + window_W * WINDOW_FRAMES
    size_W = (frame_counts_V[medium_W] - window_W * WINDOW_FRAMES).clamp(max=WINDOW_FRAMES)

    place = torch.arange(WINDOW_FRAMES)
    real_W16 = place < size_W[:, None]
    frame_W16 = torch.where(real_W16, first_W[:, None] + place, first_W[:, None])
    scale_W16 = torch.where(real_W16, 1.0, 0.0)

    device = flat_FK.device
    block_bytes = _CPU_BLOCK if device.type == "cpu" else _DEVICE_BLOCK
    block = max(1, block_bytes // (WINDOW_FRAMES * flat_FK.shape[1] * 4))
    scores = [
        _block_similarity(_windows(flat_FK, frames), scale.to(device), size.to(device))
        for frames, scale, size in zip(frame_W16.split(block), scale_W16.split(block), size_W.split(block), strict=True)
    ]
    similarity_W16 = torch.cat(scores) if scores else flat_FK.new_zeros(0, WINDOW_FRAMES, dtype=torch.float32)
    similarity_W16 = similarity_W16.masked_fill((place == (size_W // 2)[:, None]).to(device), 0.0)
    return similarity_W16[real_W16.to(device)]


def _windows(flat_FK: Tensor, frame_W16: Tensor) -> Tensor:
    """Frames by window (W, 16, K); a view where the windows lie back to back, as all but a medium's last do."""
    first, count = int(frame_W16[0, 0]), frame_W16.numel()
    if bool((frame_W16.flatten() == torch.arange(first, first + count)).all()):
        return flat_FK[first : first + count].view(*frame_W16.shape, -1)
    return flat_FK[frame_W16.to(flat_FK.device)]


def _block_similarity(frames_W16K: Tensor, scale_W16: Tensor, size_W: Tensor) -> Tensor:
    frames_W16K = frames_W16K.float()
    inverse_norm_W16 = scale_W16 / frames_W16K.norm(dim=2)
    total_W1K = torch.bmm(inverse_norm_W16[:, None, :], frames_W16K)
    return torch.bmm(frames_W16K, total_W1K.transpose(1, 2))[:, :, 0] * inverse_norm_W16 / size_W[:, None]


def keep_frames(
    similarity_F: Tensor,
    threshold: float,
    frame_counts_V: Tensor | None = None,
    max_frames: int = MAX_KEPT_FRAMES,
) -> Tensor:
    """Frames whose similarity is below ``threshold``, thinned evenly to ``max_frames`` per medium [Q9].

    The cap applies only to media of at least 16 frames; shorter ones cannot reach the published cap.

    Returns:
        bool (F,), true for kept frames.
    """
    counts_V = torch.tensor([len(similarity_F)]) if frame_counts_V is None else frame_counts_V
    counts_V = counts_V.to(similarity_F.device)
    keep_F = similarity_F < threshold
    medium_F, _ = ragged.expand(counts_V)
    kept_V = ragged.sums(keep_F.long(), medium_F, len(counts_V))
    over_V = (kept_V > max_frames) & (counts_V >= WINDOW_FRAMES)
    if not bool(over_V.any()):
        return keep_F
    rank_F = ragged.ranks(keep_F, medium_F, len(counts_V))
    limit_V = torch.where(over_V, max_frames, kept_V)
    return keep_F & thin_evenly(kept_V, limit_V, medium_F, rank_F)


def thin_evenly(counts: Tensor, limits: Tensor, owner: Tensor, rank: Tensor) -> Tensor:
    """Keep ``limit`` of ``count`` entries per row, evenly: those of rank trunc(i * (count / limit)), i < limit.

    The arithmetic is double precision in this order, as published.

    Args:
        counts: int64 (n,), entries per row.
        limits: int64 (n,), how many may stay; rows within their limit are untouched.
        owner: row of every packed entry.
        rank: place of every packed entry among its row's entries.

    Returns:
        bool, true for entries that stay.
    """
    over = counts > limits
    step = (counts.double() / limits.clamp(min=1))[owner]
    nearest = (rank / step).floor()
    hit = torch.zeros_like(owner, dtype=torch.bool)
    for index in (nearest, nearest + 1):  # the division rounds, so the entry may be the next one's
        hit |= ((index * step).trunc() == rank) & (index < limits[owner])
    return hit | ~over[owner]
