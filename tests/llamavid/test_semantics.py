"""Each field of the record of quirks: what it changes, and that nothing else does."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig

from longvu_model.assembly import MergedInputs
from longvu_model.llamavid.compression import num_content_tokens, pool, split_tokens
from longvu_model.llamavid.length_grouping import grouped_order
from longvu_model.llamavid.long_video import interleave, read_srt
from longvu_model.llamavid.positions import extend_positions
from longvu_model.llamavid.semantics import CORRECTED, PUBLISHED
from longvu_model.llamavid.sight import Media, Views
from longvu_model.subtitles import Subtitle
from tests.llamavid import builders


def see(semantics: str, ids: Tensor, media: Media, guides: dict[str, Tensor], **given: Tensor) -> MergedInputs:
    model = builders.small_model(semantics=semantics)
    views = Views(guides["guide_ids"], guides["guide_mask"], torch.arange(len(media.frame_counts)))
    with torch.no_grad():
        return model.model.see(ids, media, views, **given).merged  # type: ignore[arg-type]


def test_every_field_differs() -> None:
    for field in dataclasses.fields(PUBLISHED):
        assert getattr(PUBLISHED, field.name) is True and getattr(CORRECTED, field.name) is False, field.name


@pytest.mark.parametrize("grid", [3, 4])
def test_class_token_is_dropped_where_there_is_one(grid: int) -> None:
    tokens = torch.arange(grid**2 + 1.0).view(1, -1, 1)
    seen, visual = split_tokens(tokens, grid, CORRECTED, stored=False)
    assert seen.flatten().tolist() == tokens.flatten().tolist()
    assert visual.flatten().tolist() == tokens.flatten()[1:].tolist()
    _, published = split_tokens(tokens, grid, PUBLISHED, stored=False)
    assert published.shape[1] == (grid**2 if grid % 2 == 0 else grid**2 + 1)


def test_stored_features_give_the_same_tokens() -> None:
    media, guides = builders.media(3), builders.guides(5)
    for semantics, same in (("corrected", True), ("published", False)):
        model = builders.small_model(semantics=semantics)
        encoded = model.encode_video(media)
        again = Media(media.frame_counts, features=encoded.features)
        mine = see(semantics, builders.prompt(8), media, guides).inputs_embeds
        stored = see(semantics, builders.prompt(8), again, guides).inputs_embeds
        assert torch.equal(mine, stored) == same


def test_published_features_may_come_with_or_without_class_token() -> None:
    features = torch.randn(2, 17, 24)
    for rows in (features, features[:, 1:]):
        seen, visual = split_tokens(rows, 4, PUBLISHED, stored=True)
        assert torch.equal(seen, features[:, 1:]) and torch.equal(visual, features[:, 1:])
    with pytest.raises(ValueError, match="18 tokens a frame"):
        split_tokens(torch.zeros(1, 18, 4), 4, CORRECTED, stored=True)


def test_grid_pooling_gives_the_cells_that_it_names() -> None:
    frame = torch.arange(36.0).view(1, 36, 1)
    assert pool(frame, "grid:4", CORRECTED).shape[1] == 16
    assert pool(frame, "grid:4", PUBLISHED).shape[1] == 36
    assert torch.equal(pool(frame, "grid:3", CORRECTED), pool(frame, "grid:3", PUBLISHED))
    left_over = torch.zeros(1, 25, 1)
    left_over[0, -1] = 9
    assert pool(left_over, "grid:2", PUBLISHED).sum() == 0 and pool(left_over, "grid:2", CORRECTED).sum() > 0
    assert num_content_tokens("grid:4", 6, CORRECTED) == 16


def batch(semantics: str) -> MergedInputs:
    """Two rows of different length about videos of different length."""
    ids = torch.cat([builders.prompt(9), builders.prompt(9, seed=1)])
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    ids[1, 7:] = 0
    return see(semantics, ids, builders.media(3, 1), builders.guides(5, 7), attention_mask=mask, labels=ids.clamp(0))


def test_hidden_ids_are_not_embedded() -> None:
    corrected, published = batch("corrected"), batch("published")
    assert corrected.attention_mask is not None and published.attention_mask is not None
    assert corrected.attention_mask.sum(1).tolist() == published.attention_mask.sum(1).tolist() == [14, 8]
    padding = corrected.inputs_embeds[1, 8:]
    assert torch.equal(padding, torch.zeros_like(padding))
    assert published.inputs_embeds[1, 8:10].abs().sum() > 0  # the padding's own embedding


def test_rows_do_not_depend_on_their_batch() -> None:
    merged = batch("corrected")
    ids = builders.prompt(9, seed=1)[:, :7]
    alone_media = Media(torch.tensor([1]), pixel_values=builders.media(3, 1).pixel_values[3:])  # type: ignore[index]
    guides = {name: value[1:] for name, value in builders.guides(5, 7).items()}
    alone = see("corrected", ids, alone_media, guides)
    torch.testing.assert_close(merged.inputs_embeds[1, :8], alone.inputs_embeds[0], rtol=1e-5, atol=1e-5)
    assert alone.attention_mask is not None and alone.attention_mask.all()


def test_published_mask_is_given_only_if_one_came() -> None:
    merged = see("published", builders.prompt(6), builders.media(2), builders.guides(4))
    assert merged.attention_mask is None
    mask = torch.ones(2, 6)
    ids = torch.cat([builders.prompt(6), builders.prompt(6)])
    with pytest.raises(ValueError, match=r"grow by \[3, 1\] positions need labels"):
        see("published", ids, builders.media(2, 1), builders.guides(4, 4), attention_mask=mask)


def test_generation_pads_in_front() -> None:
    ids = torch.cat([builders.prompt(9), builders.prompt(9, seed=1)])
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    inputs = {**builders.fields(builders.media(3, 1)), **builders.guides(5, 7)}
    model = builders.small_model()
    together = model.generate(ids, attention_mask=mask, max_new_tokens=5, do_sample=False, pad_token_id=0, **inputs)
    alone = model.generate(
        ids[1:, :7],
        max_new_tokens=5,
        do_sample=False,
        pad_token_id=0,
        frame_counts=torch.tensor([1]),
        pixel_values=inputs["pixel_values"][3:],
        guide_ids=inputs["guide_ids"][1:],
        guide_mask=inputs["guide_mask"][1:],
    )
    assert together[1].tolist() == alone[0].tolist()


def test_text_rows_need_no_picture() -> None:
    ids = torch.cat([builders.prompt(6), builders.prompt(6, slots=(), seed=2)])
    assert see("corrected", ids, builders.media(2), builders.guides(4)).inputs_embeds.shape[1] == 9
    dummy = see("published", ids, builders.media(2, 1), builders.guides(4, 4))
    assert dummy.inputs_embeds.shape[1] == 9
    with pytest.raises(ValueError, match="1 images and videos for 2 places"):
        see("published", ids, builders.media(2), builders.guides(4))
    text = builders.prompt(6, slots=())
    assert builders.small_model(semantics="published")(input_ids=text).logits.shape == (1, 6, builders.VOCABULARY)


def test_early_subtitles_belong_to_the_first_frame() -> None:
    early = [Subtitle(0.0, 0.0, "early"), Subtitle(1.2, 1.4, "late")]
    assert interleave([0.0, 1.0, 2.0], early, CORRECTED) == "<image>early<image>late<image>"
    assert interleave([0.0, 1.0, 2.0], early, PUBLISHED) == "<image><image>late<image>early"


def test_subtitles_of_digits_stay() -> None:
    text = "1\n00:00:01,000 --> 00:00:02,000\n42\n\n2\n00:00:03,000 --> 00:00:04,000\nWell...\n"
    assert [s.text for s in read_srt(text, CORRECTED)] == ["42", "Well..."]
    assert [s.text for s in read_srt(text, PUBLISHED)] == ["Well"]


def test_scaling_counts_from_the_original_context() -> None:
    scaled = LlamaConfig(max_position_embeddings=4096, rope_parameters={"rope_type": "linear", "factor": 16.0})
    assert extend_positions(scaled, 131072, PUBLISHED).rope_parameters["factor"] == 2
    assert extend_positions(scaled, 131072, CORRECTED).rope_parameters["factor"] == 32
    assert extend_positions(scaled, 65536, CORRECTED) is scaled


def test_sampler_takes_one_kind_alone() -> None:
    lengths = [5, 9, 4, 7, 3]
    with pytest.raises(ValueError, match="5 samples with a medium, 0 without"):
        grouped_order(lengths, 1, 2, torch.Generator().manual_seed(0), PUBLISHED)
    order = grouped_order(lengths, 1, 2, torch.Generator().manual_seed(0), CORRECTED)
    assert sorted(order) == list(range(5))
    assert order[-1:] != order[:1]
