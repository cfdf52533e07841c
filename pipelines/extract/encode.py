"""Encode a unit: DINOv2 features and window similarity of every sampled frame; what is kept; SigLIP of what is stored.

Frames go through a tower in batches of whole windows that begin at the start of each source, so a source that was
split gives the same numbers as a whole one.

Shapes: T sampled frames of a source, P tokens, D channels, s input side of a tower.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from longvu_model.frame_selection import window_similarity
from longvu_model.image_processing import preprocess_frames
from pipelines.extract.towers import TowerBundle
from pipelines.store.features import FeatureSpec, add_digests, cast_features, content_digest, raw_bytes


@dataclass(frozen=True)
class EncodeSettings:
    """What encode actors know.

    Args:
        specs: how each tower's features are stored, DINOv2 first.
        keep_threshold, keep_all_below: as in the store's manifest.
        precision: number format of the towers.
        batch_frames: frames per call of a tower, a multiple of 16.
    """

    specs: tuple[FeatureSpec, ...]
    keep_threshold: float
    keep_all_below: int
    precision: str
    batch_frames: int


@dataclass(frozen=True)
class Encoder:
    """Towers in place and ready to run."""

    towers: Mapping[str, Any]
    settings: EncodeSettings
    device: torch.device

    @classmethod
    def load(cls, bundle: TowerBundle, settings: EncodeSettings) -> Encoder:
        """Build the towers on the GPU where there is one."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = getattr(torch, settings.precision)
        towers = {spec.name: bundle.build(spec.name).to(device, dtype) for spec in settings.specs}
        return cls(towers, settings, device)

    def features(self, name: str, frames_TssC: np.ndarray) -> torch.Tensor:
        """One tower's features of frames that are already square: (T, P, D) on the device."""
        tower = self.towers[name]
        pixels = preprocess_frames(frames_TssC, tower.image_size, tower.image_mean, tower.image_std)
        return tower(pixels.to(self.device))


@torch.inference_mode()
def encode_unit(
    header: Mapping[str, Any], arrays: Mapping[str, np.ndarray], encoder: Encoder
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Encode what :func:`pipelines.extract.decode.decode_unit` gave.

    Returns:
        its header with the counts and digests of each member filled in, and its arrays with pixels replaced by:
        similarity float32 (T,), kept bool (T,), stored bool (T,), and per tower uint8 (stored frames, bytes).
    """
    settings = encoder.settings
    names = {spec.name for spec in settings.specs}
    columns: dict[str, list[np.ndarray]] = {
        "similarity": [np.empty(0, np.float32)],
        "kept": [np.empty(0, bool)],
        "stored": [np.empty(0, bool)],
        **{spec.name: [np.empty((0, spec.frame_bytes), np.uint8)] for spec in settings.specs},
    }
    members = []
    first = 0
    for member in header["members"]:
        last = first + member["num_sampled"]
        total = member["num_sampled"] if member["num_chunks"] == 1 else member["total_samples"]
        store_all = total <= settings.keep_all_below
        counts: Counter[str] = Counter()
        digests: dict[str, list[str]] = {f"{name}_digest": [] for name in names}
        for start in range(first, last, settings.batch_frames):
            batch = slice(start, min(start + settings.batch_frames, last))
            encoded = _encode_batch({name: arrays[name][batch] for name in names}, store_all, encoder)
            for name, values in encoded.items():
                columns[name].append(values)
            counts.update(num_kept=int(encoded["kept"].sum()), num_stored=int(encoded["stored"].sum()))
            stored_index = arrays["frame_index"][batch][encoded["stored"]]
            for name in names:
                digests[f"{name}_digest"].append(content_digest(encoded[name], stored_index))
        facts = {"num_kept": counts["num_kept"], "num_stored": counts["num_stored"]}
        members.append(
            member | facts | {name: add_digests(parts) if parts else None for name, parts in digests.items()}
        )
        first = last
    others = {name: array for name, array in arrays.items() if name not in names}
    return {**header, "members": members}, others | {name: np.concatenate(parts) for name, parts in columns.items()}


def _encode_batch(frames: Mapping[str, np.ndarray], store_all: bool, encoder: Encoder) -> dict[str, np.ndarray]:
    """Whole windows of one source: similarity, kept, stored, and per tower the stored frames' bytes."""
    dino_FPD = encoder.features("dinov2", frames["dinov2"])
    similarity_F = window_similarity(dino_FPD).cpu()
    kept_F = similarity_F < encoder.settings.keep_threshold
    stored_F = kept_F | store_all
    encoded = {"similarity": similarity_F.numpy(), "kept": kept_F.numpy(), "stored": stored_F.numpy()}
    for spec in encoder.settings.specs:
        if spec.name == "dinov2":
            features_KPD = dino_FPD[stored_F.to(dino_FPD.device)]
        elif stored_F.any():
            features_KPD = encoder.features(spec.name, frames[spec.name][encoded["stored"]])
        else:
            features_KPD = dino_FPD.new_empty(0, spec.tokens, spec.width)
        encoded[spec.name] = raw_bytes(cast_features(features_KPD, spec)).reshape(-1, spec.frame_bytes)
    return encoded
