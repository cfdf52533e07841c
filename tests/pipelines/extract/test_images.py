"""Images of every kind through extraction: one frame each, with the features that the model itself would see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from longvu_model import LongVUProcessor
from longvu_model.modeling import LongVUForConditionalGeneration
from pipelines import storage
from pipelines.config import load_config
from pipelines.extract.config import ExtractConfig
from pipelines.extract.towers import TowerBundle
from tests.pipelines.extract.conftest import extract_without_ray


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Wide, high, turned by EXIF, transparent, grey, with a palette, animated; one cut off, one that is none."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)

    def picture(width: int, height: int) -> Image.Image:
        coarse = rng.integers(0, 256, (height // 10, width // 10, 3), np.uint8)
        return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)

    exif = Image.Exif()
    exif[0x0112] = 6
    picture(200, 80).save(folder / "wide.jpg", quality=90)
    picture(70, 150).save(folder / "high.png")
    picture(160, 90).save(folder / "turned.JPEG", quality=90, exif=exif)
    transparent = picture(90, 90)
    transparent.putalpha(100)
    transparent.save(folder / "deep" / "transparent.webp", lossless=True)
    picture(100, 60).convert("L").save(folder / "deep" / "grey.tif")
    picture(100, 60).convert("P").save(folder / "palette.bmp")
    picture(60, 60).save(folder / "animated.png", save_all=True, append_images=[picture(60, 60)] * 3, duration=900)
    whole = (folder / "high.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("this is no picture")
    return folder


def test_stored_features_are_those_of_the_processor_and_the_towers(
    pictures: Path, workdir: Path, tmp_path: Path, bundle: TowerBundle
) -> None:
    settings = [f"source={pictures}", f"store={tmp_path}", "features.siglip=true", "sampling=fps:4,start:2"]
    store = extract_without_ray(load_config(ExtractConfig, None, settings), bundle)
    rows = {Path(row["source"]).name: row for row in store.videos().to_pylist()}
    assert {row["kind"] for row in rows.values()} == {"image"}
    assert {name: row["error"] for name, row in rows.items() if row["error"]} == {
        "cut.png": "Truncated",
        "text.jpg": "NotAVideo",
    }
    good = [row for row in rows.values() if row["status"] == "ok"]
    assert len(good) == 7 and len(store.commits) == 1, "images share a unit"

    processor = LongVUProcessor.from_pretrained(workdir / "models" / "tiny")
    towers = LongVUForConditionalGeneration.from_pretrained(workdir / "models" / "tiny").model.towers
    for row in good:
        path = storage.local_path(row["source"])
        assert (row["num_sampled"], row["num_stored"], row["frame_index"]) == (1, 1, [0])
        pixels = processor.image_processor(path)
        assert pixels["image_sizes"].tolist() == [[row["height"], row["width"]]]
        loaded = store.load(row["video_id"])
        with torch.inference_mode():
            wanted = {
                "dinov2": towers.dino(pixels["pixel_values_dino"]),
                "siglip": towers.siglip(pixels["pixel_values_siglip"]),
            }
        for name, features in wanted.items():
            stored = getattr(loaded, name).float()
            assert torch.allclose(stored, features, rtol=2e-3, atol=2e-3), (path.name, name)
