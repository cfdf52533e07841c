"""Features as bytes: one little-endian ``large_binary`` value per frame, its bytes split by significance.

A two-byte number is stored as all low bytes, then all high bytes. Sign and exponent lie in the high bytes and repeat
from token to token, which is what lets zstd shrink them; the values themselves are unchanged. One-byte numbers are
stored as they are. Shape, dtype and encoding are in the Parquet field's metadata, so a reader in any language needs
four lines.

Shapes: F frames, P tokens, D channels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipelines.errors import UserError

if TYPE_CHECKING:
    import torch

DTYPES = ("float16", "bfloat16", "float8_e4m3fn")
_FLOAT8_MAX = 448.0  # the largest finite float8_e4m3fn; torch turns anything above into NaN
_DIGEST_MODULUS = 1 << 128
_CACHE_BYTES = 1 << 20


@dataclass(frozen=True)
class FeatureSpec:
    """How one tower's features are stored.

    Args:
        name: column, such as "dinov2".
        tokens: P, tokens per frame.
        width: D, channels per token.
        dtype: one of :data:`DTYPES`.
    """

    name: str
    tokens: int
    width: int
    dtype: str = "float16"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r} of feature {self.name}: use one of {', '.join(DTYPES)}")

    @property
    def encoding(self) -> str:
        return "byte_split" if self.itemsize == 2 else "plain"

    @property
    def itemsize(self) -> int:
        return 1 if self.dtype == "float8_e4m3fn" else 2

    @property
    def frame_bytes(self) -> int:
        """Uncompressed size of one frame."""
        return self.tokens * self.width * self.itemsize

    def field(self) -> pa.Field:
        """The Parquet column with its description."""
        shape = json.dumps([self.tokens, self.width])
        metadata = {"shape": shape, "dtype": self.dtype, "encoding": self.encoding}
        return pa.field(self.name, pa.large_binary(), metadata=metadata)


def cast_features(features_FPD: torch.Tensor, spec: FeatureSpec) -> torch.Tensor:
    """Convert to the stored dtype.

    Raises:
        UserError: a value is not finite, or not after the cast.
    """
    import torch

    if spec.itemsize == 1:
        features_FPD = features_FPD.clamp(-_FLOAT8_MAX, _FLOAT8_MAX)
    cast_FPD = features_FPD.to(getattr(torch, spec.dtype))
    # min and max carry NaN along and show infinities, without a boolean tensor of the features' size
    extremes = cast_FPD.float().aminmax() if cast_FPD.numel() else ()
    if not all(bool(torch.isfinite(value)) for value in extremes):
        raise UserError(f"{spec.name} features are not finite as {spec.dtype}; store them with dtype=bfloat16")
    return cast_FPD


def raw_bytes(features_FPD: torch.Tensor) -> np.ndarray:
    """The numbers' bytes as they lie in memory: uint8 (F, P * D * itemsize), without a copy where contiguous."""
    import torch

    frames = len(features_FPD)
    row_bytes = features_FPD[0].numel() * features_FPD.element_size() if frames else 0
    flat = features_FPD.detach().cpu().contiguous().view(torch.uint8)
    return flat.numpy().reshape(frames, row_bytes)


def encode(raw_FB: np.ndarray, stored_T: np.ndarray, spec: FeatureSpec) -> pa.Array:
    """Bytes of the stored frames -> the Parquet column of all sampled frames, null where nothing is stored.

    Args:
        raw_FB: uint8 (F, frame_bytes), see :func:`raw_bytes`.
        stored_T: bool (T,), true for F of the T sampled frames.
    """
    num_stored = int(stored_T.sum())
    if raw_FB.shape != (num_stored, spec.frame_bytes) and num_stored:
        raise ValueError(f"{spec.name}: {raw_FB.shape} bytes for {num_stored} frames of {spec.frame_bytes}")
    split_FB = _split(raw_FB) if spec.encoding == "byte_split" else np.ascontiguousarray(raw_FB)
    offsets = np.concatenate([[0], np.cumsum(stored_T, dtype=np.int64)]) * spec.frame_bytes
    validity = np.packbits(stored_T, bitorder="little")
    buffers = [pa.py_buffer(validity), pa.py_buffer(offsets), pa.py_buffer(split_FB)]
    return pa.Array.from_buffers(pa.large_binary(), len(stored_T), buffers)


def decode(column: pa.ChunkedArray, spec: FeatureSpec) -> torch.Tensor:
    """The stored frames of a column, nulls left out: (F, P, D) in the stored dtype.

    Raises:
        ValueError: a value has another length than the field's metadata says.
    """
    import torch

    # Arrow's allocator keeps its pages: numpy's gets large arrays anew, and touching them cost as much as unpacking.
    frames = len(column) - column.null_count
    raw_FB = np.frombuffer(pa.allocate_buffer(frames * spec.frame_bytes), np.uint8).reshape(frames, spec.frame_bytes)
    first = 0
    for chunk in column.chunks:
        count = len(chunk) - chunk.null_count
        offsets = np.frombuffer(chunk.buffers()[1], dtype=np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
        if not count:
            continue
        stored_bytes = np.frombuffer(chunk.buffers()[2], dtype=np.uint8)[offsets[0] : offsets[-1]]
        if stored_bytes.size != count * spec.frame_bytes:
            raise ValueError(f"{spec.name}: {stored_bytes.size} bytes for {count} frames of {spec.frame_bytes}")
        stored_FB = stored_bytes.reshape(count, spec.frame_bytes)
        target_FB = raw_FB[first : first + count]
        if spec.encoding == "byte_split":
            _join(stored_FB, target_FB)
        else:
            target_FB[:] = stored_FB
        first += count
    # shaped before it is reinterpreted: torch refuses to reinterpret an empty (0, B) array
    raw_FPB = torch.from_numpy(raw_FB.reshape(len(raw_FB), spec.tokens, spec.width * spec.itemsize))
    return raw_FPB.view(getattr(torch, spec.dtype))


def content_digest(raw_FB: np.ndarray, frame_index_F: np.ndarray) -> str:
    """Digest of stored frames, 32 hex digits; that of a video is the sum of its chunks' (:func:`add_digests`).

    The sum modulo 2**128 of the first half of each frame's SHA-256 over its index and its numbers: the same however a
    video was cut into units. It guards against mix-ups, not against an adversary. Processors of today have
    instructions for SHA-256, which make it twice as fast as blake2b.
    """
    total = 0
    for index, frame in zip(frame_index_F.tolist(), raw_FB, strict=True):
        digest = hashlib.sha256(index.to_bytes(8, "little"))
        digest.update(memoryview(frame))
        total += int.from_bytes(digest.digest()[:16], "little")
    return f"{total % _DIGEST_MODULUS:032x}"


def add_digests(digests: Iterable[str]) -> str:
    """:func:`content_digest` of all frames from those of disjoint parts."""
    return f"{sum(int(digest, 16) for digest in digests) % _DIGEST_MODULUS:032x}"


def _split(raw_FB: np.ndarray) -> np.ndarray:
    """Low bytes, then high bytes, of every frame; through 16-bit shifts, which numpy vectorises best."""
    words_FN = np.ascontiguousarray(raw_FB).view("<u2")
    split_F2N = np.empty((len(words_FN), 2, words_FN.shape[1]), dtype=np.uint8)
    for block in _cache_blocks(raw_FB):
        np.copyto(split_F2N[block, 0], words_FN[block], casting="unsafe")
        np.copyto(split_F2N[block, 1], words_FN[block] >> 8, casting="unsafe")
    return split_F2N


def _join(split_FB: np.ndarray, raw_FB: np.ndarray) -> None:
    """The inverse of :func:`_split`, into ``raw_FB``."""
    split_F2N = split_FB.reshape(len(split_FB), 2, -1)
    words_FN = raw_FB.view("<u2")
    for block in _cache_blocks(raw_FB):
        words = words_FN[block]
        np.copyto(words, split_F2N[block, 1])
        words <<= 8
        words |= split_F2N[block, 0]


def _cache_blocks(raw_FB: np.ndarray) -> Iterator[slice]:
    """Ranges of frames that stay in the processor's cache over the passes made on them (twice as fast at 450 MB)."""
    frames = max(1, _CACHE_BYTES // max(1, raw_FB.shape[1]))
    return (slice(first, first + frames) for first in range(0, len(raw_FB), frames))
