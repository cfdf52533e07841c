"""Our towers against the library's, where both define the same thing."""

from __future__ import annotations

import pytest
import torch
from transformers import Dinov2Model, SiglipVisionModel

from longvu_model import checkpoint_names as names
from longvu_model import official
from longvu_model.towers import DinoTower, SiglipTower, resize_tokens
from tests.model import builders


@pytest.mark.parametrize("swiglu", [True, False])
def test_dino_equals_the_library(tmp_path, swiglu: bool) -> None:  # type: ignore[no-untyped-def]
    config = builders.small_config(token_grid=7, full_grid=7, low_grid=2)
    # the same side as the position table, because the two resize it differently [Q4]
    config.dino_config.image_size, config.dino_config.use_swiglu_ffn = 14, swiglu
    torch.manual_seed(0)
    library = Dinov2Model(config.dino_config).eval()
    library.save_pretrained(tmp_path)
    tower = DinoTower(config)
    tower.load_state_dict(official.read_state(tmp_path, names.DINO_NAMES, names.DINO_UNUSED))
    pixels = torch.randn(3, 3, 14, 14)
    with torch.no_grad():
        torch.testing.assert_close(tower(pixels), library(pixels).last_hidden_state[:, 1:], rtol=1e-4, atol=1e-5)


def test_siglip_equals_the_library(tmp_path) -> None:  # type: ignore[no-untyped-def]
    config = builders.small_config(token_grid=7, full_grid=7, low_grid=2)
    torch.manual_seed(0)
    library = SiglipVisionModel(config.siglip_config).eval()
    library.save_pretrained(tmp_path)
    tower = SiglipTower(config)
    tower.load_state_dict(official.read_state(tmp_path, names.SIGLIP_NAMES, names.SIGLIP_UNUSED))
    pixels = torch.randn(3, 3, 14, 14)
    with torch.no_grad():
        # the library goes on to a final norm, which LongVU leaves out [Q1]
        core = getattr(library, "vision_model", library)
        torch.testing.assert_close(
            core.post_layernorm(tower(pixels)), library(pixels).last_hidden_state, rtol=1e-4, atol=1e-5
        )


def test_frames_do_not_depend_on_their_chunk() -> None:
    tower = DinoTower(builders.small_config()).eval()
    pixels = torch.randn(70, 3, 14, 14)
    with torch.no_grad():
        torch.testing.assert_close(tower(pixels)[64:], tower(pixels[64:]))


def test_tokens_resize_like_a_picture() -> None:
    ramp = torch.arange(4.0).repeat(4).view(1, 16, 1)  # grows from left to right
    resized = resize_tokens(ramp, 8).view(8, 8)
    assert torch.equal(resized[0], resized[-1])
    assert resized[0].tolist() == [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]
