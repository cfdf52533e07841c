"""A small library: videos, pictures, rows about them, and a store of most of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from longvu_model.modeling import LongVUForConditionalGeneration
from longvu_model.processing import LongVUProcessor
from longvu_model.video import FrameSampling
from pipelines.extract.config import ExtractConfig
from pipelines.extract.towers import load_towers
from pipelines.store import FeatureStore
from pipelines.train.annotations import AnnotationFile
from pipelines.train.families import LongVUFamily
from pipelines.train.manifest import Manifest
from pipelines.train.manifest_builder import ManifestSettings, build_manifest
from pipelines.train.online import OnlineEncoder
from tests.pipelines.conftest import write_video
from tests.pipelines.extract.conftest import extract_without_ray


def row(question: str, answer: str, **fields: Any) -> dict[str, Any]:
    """A row of one question and its answer."""
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": "row", "conversations": turns, **fields}


@dataclass(frozen=True)
class Library:
    """Media of all kinds under one folder; ``stored`` has features of the videos, not of what begins with "new"."""

    media: Path
    model: LongVUForConditionalGeneration
    processor: LongVUProcessor
    tokenizer: PreTrainedTokenizerBase
    stored: FeatureStore
    folder: Path

    def manifest(self, rows: list[dict[str, Any]], folder: Path, *, store: bool = True, **settings: Any) -> Manifest:
        """The manifest of some rows, for the tiny model."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "rows.json"
        path.write_text(json.dumps(rows))
        return build_manifest(
            str(folder / "manifests"),
            [AnnotationFile(f"file://{path}", f"file://{self.media}")],
            self.family,
            self.stored if store else None,
            ManifestSettings(**{"max_tokens": 1024, "max_quarantined_fraction": 1.0} | settings),
        )

    def online(self) -> OnlineEncoder:
        """Decodes and encodes with the model's own towers."""
        watchers = self.family.watchers(self.model, self.folder, torch.float32)
        return OnlineEncoder(watchers, FrameSampling(fps=1.0))

    @property
    def family(self) -> LongVUFamily:
        """The tiny model's."""
        return LongVUFamily(self.model.config, self.tokenizer)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory, workdir: Path) -> Library:
    folder = tmp_path_factory.mktemp("library")
    media = folder / "media"
    write_video(media / "short.mp4", [5], seed=3)
    write_video(media / "scenes.mp4", [9, 8, 3], seed=1)
    # more frames than fit the tiny model's context, so near-duplicates are left out
    write_video(media / "sub" / "long.mp4", [40, 35, 25], seed=2)
    (media / "broken.mp4").write_text("this is no video")
    picture = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)
    Image.fromarray(picture).save(media / "picture.png")
    extracted = ExtractConfig(
        source=str(media), store=str(folder), keep_all_below=32, features={"siglip": True}, unit_frames=128
    )
    store = extract_without_ray(extracted, load_towers(workdir / "models" / "tiny", ("dinov2", "siglip")))
    write_video(media / "new.mp4", [7], seed=5)
    Image.fromarray(picture).save(media / "new_picture.png")
    Image.fromarray(picture[:, ::-1]).save(media / "new_other.jpg")
    (media / "new_broken.jpg").write_bytes(b"\xff\xd8\xff and no picture")
    np.save(media / "new_frames.npy", np.stack([np.roll(picture, 7 * shift, 1) for shift in range(5)]))
    for number in (10, 9, 8):
        (media / "new_folder").mkdir(exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), number, np.uint8)).save(media / "new_folder" / f"frame{number}.png")
    model_folder = workdir / "models" / "tiny"
    return Library(
        media,
        LongVUForConditionalGeneration.from_pretrained(model_folder).eval(),
        LongVUProcessor.from_pretrained(model_folder),
        AutoTokenizer.from_pretrained(model_folder),
        store,
        model_folder,
    )
