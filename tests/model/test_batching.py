"""Corrected semantics: a batch gives what its rows give one by one; videos encoded once answer alike."""

from __future__ import annotations

import pytest
import torch

from longvu_model.modeling import LongVUForConditionalGeneration
from longvu_model.sight import Media
from tests.model import builders

# full, mixed with upgrades, low with reduction, an image, a tall video
SHAPES = ((4, 40, 40), (22, 48, 44), (90, 40, 40), (1, 64, 48), (30, 90, 40))
LENGTHS = (9, 14, 20, 12, 17)


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def model(request: pytest.FixtureRequest) -> LongVUForConditionalGeneration:
    return builders.small_model(backbone=request.param, frame_pos=True)


@pytest.fixture(scope="module")
def batch() -> tuple[list[torch.Tensor], Media, torch.Tensor, torch.Tensor]:
    rows = [builders.prompt(length, seed=index) for index, length in enumerate(LENGTHS)]
    rows.append(builders.prompt(11, slots=(), seed=99))
    longest = max(row.shape[1] for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for index, row in enumerate(rows):
        ids[index, : row.shape[1]] = row[0]
        mask[index, : row.shape[1]] = True
    return rows, builders.media(*SHAPES, images=(3,)), ids, mask


def test_rows_and_batch_agree(model, batch) -> None:  # type: ignore[no-untyped-def]
    rows, media, ids, mask = batch
    with torch.no_grad():
        together = model.model.see(ids, media, mask)
        assert together.media.regime.names == ["full", "mixed", "low", "full", "mixed"]
        logits = model(input_ids=ids, attention_mask=mask, **builders.fields(media)).logits
        for index in range(len(SHAPES)):
            alone = model.model.see(rows[index], builders.select(media, index))
            length = alone.merged.inputs_embeds.shape[1]
            assert int(together.merged.attention_mask[index].sum()) == length
            torch.testing.assert_close(
                together.merged.inputs_embeds[index, :length], alone.merged.inputs_embeds[0], rtol=1e-4, atol=1e-5
            )
            own = model(input_ids=rows[index], **builders.fields(builders.select(media, index))).logits[0]
            torch.testing.assert_close(logits[index, :length], own, rtol=1e-4, atol=1e-4)


def test_generation_of_rows_and_batch_agree(model, batch) -> None:  # type: ignore[no-untyped-def]
    rows, media, ids, mask = batch
    given = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    together = model.generate(ids, attention_mask=mask, **builders.fields(media), **given)
    assert together.shape == (len(rows), 6)
    for index, row in enumerate(rows):
        own = builders.fields(builders.select(media, index)) if index < len(SHAPES) else {}
        assert torch.equal(model.generate(row, **own, **given)[0], together[index])


def test_media_of_one_row_keep_to_its_budget(model) -> None:  # type: ignore[no-untyped-def]
    media = builders.media((60, 40, 40), (1, 30, 40), (5, 40, 30), images=(1,))
    sight = model.model.see(builders.prompt(15, slots=(2, 5, 9)), media)
    budget = model.config.max_sequence_length - model.config.answer_reserve - 12
    assert sight.visual.counts_V.tolist()[1:] == [12, 5 * 12]
    assert 0 < int(sight.visual.counts_V[0]) <= budget // 3
    assert sight.merged.inputs_embeds.shape[1] == 12 + int(sight.visual.counts_V.sum())


def test_encode_once_ask_many(model) -> None:  # type: ignore[no-untyped-def]
    media = builders.media((40, 36, 64))
    encoded = model.encode_video(media, text_tokens=13)
    given = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    for seed in range(3):
        ids = builders.prompt(14, seed=seed)
        fresh = model.generate(ids, **builders.fields(media), **given)
        assert torch.equal(model.generate(ids, encoded=encoded, **given), fresh)
    shorter = model.generate(builders.prompt(6), encoded=encoded, **given)
    assert shorter.shape == (1, 5)
    with pytest.raises(ValueError, match="leave room"):
        model.generate(builders.prompt(15), encoded=encoded, **given)


def test_regime_is_known_beforehand(model) -> None:  # type: ignore[no-untyped-def]
    for frames in (4, 22, 90):
        media = builders.media((frames, 48, 44))
        sight = model.model.see(builders.prompt(12), media)
        planned = model.model.plan(int(sight.media.kept_counts_V[0]), 11, (48, 44))
        assert planned.names == sight.media.regime.names
        assert torch.equal(planned.num_upgraded_V, sight.media.regime.num_upgraded_V)


def test_features_stand_for_pixels(model) -> None:  # type: ignore[no-untyped-def]
    media, ids = builders.media((50, 40, 40)), builders.prompt(12)
    with torch.no_grad():
        whole = model.model.see(ids, media)
        kept = whole.media.kept_frames_F
        dino = model.model.towers.dino(media.pixel_values_dino)
        siglip = model.model.towers.siglip(media.pixel_values_siglip)
        stored = Media(media.frame_counts, media.image_sizes, media.is_video, None, None, siglip[kept], dino)
        selected = Media(
            torch.tensor([len(kept)]),
            media.image_sizes,
            media.is_video,
            siglip_features=siglip[kept],
            dino_features=dino[kept],
            frame_times=kept,
            preselected=True,
        )
        for given in (stored, selected):
            again = model.model.see(ids, given)
            torch.testing.assert_close(again.merged.inputs_embeds, whole.merged.inputs_embeds, rtol=1e-5, atol=1e-5)
            assert torch.equal(again.media.times_F, whole.media.times_F)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame_counts": torch.tensor([5])}, "4 DINOv2 frames"),
        ({"pixel_values_dino": None}, "pixel_values_dino or dino_features"),
        ({"pixel_values_siglip": torch.zeros(4, 3, 16, 16)}, r"\(frames, 3, 14, 14\)"),
        ({"image_sizes": torch.tensor([[0, 40]])}, "at least 1 x 1"),
    ],
)
def test_wrong_media_are_named(model, change, message) -> None:  # type: ignore[no-untyped-def]
    given = {**vars(builders.media((4, 40, 40))), **change}
    with pytest.raises(ValueError, match=message):
        model.model.see(builders.prompt(9), Media(**given))
