"""Packed rows: the same as samples one by one, neighbours invisible to the last bit."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from longvu_model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from longvu_model.modeling import LongVUForConditionalGeneration
from longvu_model.packing import SampleInputs, packed_forward, run_backbone, use_packed_attention
from longvu_model.sight import Media
from tests.model.builders import media, prompt, small_model

BACKBONES = ("qwen2", "llama")


def sample(length: int, seed: int, *shapes: tuple[int, int, int], images: tuple[int, ...] = ()) -> SampleInputs:
    """Text with a slot for each medium of the given (frames, height, width); the second half is the answer."""
    ids = prompt(length, tuple(range(2, 2 + len(shapes))), seed)
    labels = torch.where(torch.arange(length) < length // 2, IGNORE_INDEX, ids)
    return SampleInputs(ids, labels, media(*shapes, seed=seed, images=images) if shapes else None)


def bin_of_all_kinds() -> list[SampleInputs]:
    """Text, an image, videos of every regime, two media in one sample, text of a single token."""
    return [
        sample(17, 1),
        sample(23, 2, (1, 20, 30), images=(0,)),
        sample(30, 3, (6, 30, 30)),
        sample(20, 4, (22, 24, 30)),
        sample(12, 5, (60, 30, 20)),
        sample(26, 6, (3, 30, 30), (1, 30, 20), images=(1,)),
        sample(1, 7),
    ]


def build(backbone: str = "qwen2") -> LongVUForConditionalGeneration:
    model = small_model(backbone=backbone)
    use_packed_attention(model)
    return model


def losses_one_by_one(model: LongVUForConditionalGeneration, samples: list[SampleInputs]) -> Tensor:
    """Sum of the token losses by the model's own forward pass, full logits, one sample at a time."""
    total = torch.zeros(())
    for one in samples:
        given = {} if one.media is None else {k: v for k, v in vars(one.media).items() if v is not None}
        out = model(input_ids=one.input_ids, attention_mask=torch.ones_like(one.input_ids), labels=one.labels, **given)
        learned = int((one.labels[:, 1:] != IGNORE_INDEX).sum())
        total = total + (out.loss * learned if learned else 0.0)
    return total


def packed_loss(model: LongVUForConditionalGeneration, samples: list[SampleInputs]) -> Tensor:
    hidden_SC, row = packed_forward(model.model, samples)
    return functional.cross_entropy(model.lm_head(hidden_SC), row.targets_S, ignore_index=IGNORE_INDEX, reduction="sum")


def gradients(model: LongVUForConditionalGeneration, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_gradients_are_those_of_the_samples_one_by_one(backbone: str, checkpointing: bool) -> None:
    model, samples = build(backbone).train(), bin_of_all_kinds()
    expected_loss = losses_one_by_one(model, samples)
    expected = gradients(model, expected_loss)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    loss = packed_loss(model, samples)
    mine = gradients(model, loss)
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-6)
    assert mine.keys() == expected.keys() and len(mine) > 40
    scale = torch.cat([g.flatten() for g in expected.values()]).norm()
    error = torch.cat([(mine[name] - expected[name]).flatten() for name in expected]).norm()
    assert error / scale < 1e-6


@pytest.mark.parametrize("backbone", BACKBONES)
def test_neighbours_are_invisible_to_the_last_bit(backbone: str) -> None:
    model, samples = build(backbone), bin_of_all_kinds()
    with torch.no_grad():
        hidden_SC, row = packed_forward(model.model, samples)
        parts = hidden_SC.split(row.lengths)
        for place in range(len(samples)):
            for neighbour in (sample(9, 20), sample(40, 21, (9, 20, 20))):  # shorter or longer, text or video
                changed = [neighbour] * len(samples)
                changed[place] = samples[place]
                other_SC, other = packed_forward(model.model, changed)
                assert torch.equal(other_SC.split(other.lengths)[place], parts[place])
            alone_SC, _ = packed_forward(model.model, [samples[place]])
            assert torch.equal(alone_SC, parts[place])


def test_gradients_of_a_sample_do_not_see_its_neighbours_either() -> None:
    """The loss of one sample reaches its neighbours' embeddings with exactly zero."""
    model = build()
    with torch.no_grad():
        _, row = packed_forward(model.model, bin_of_all_kinds())
    embeds_SC = row.embeds_SC.clone().requires_grad_()
    hidden_SC = run_backbone(model.model.language_model, dataclasses.replace(row, embeds_SC=embeds_SC))
    hidden_SC.split(row.lengths)[2].square().sum().backward()
    reached = [bool(part.any()) for part in embeds_SC.grad.split(row.lengths)]  # type: ignore[union-attr]
    assert reached == [index == 2 for index in range(len(row.lengths))]


def test_a_padded_batch_is_packed_without_its_padding() -> None:
    model = build()
    rows = [sample(14, 1, (4, 20, 20)), sample(9, 2, (2, 20, 30))]
    ids, labels, mask = torch.zeros(2, 14, dtype=torch.long), torch.full((2, 14), IGNORE_INDEX), torch.zeros(2, 14)
    for index, one in enumerate(rows):
        length = one.input_ids.shape[1]
        ids[index, :length], labels[index, :length] = one.input_ids, one.labels
        mask[index, :length] = 1
    both = [one.media for one in rows]
    joined = Media(*(torch.cat([getattr(m, f.name) for m in both]) for f in dataclasses.fields(Media)[:5]))
    with torch.no_grad():
        apart_SC, apart = packed_forward(model.model, rows)
        batch_SC, batch = packed_forward(model.model, [SampleInputs(ids, labels, joined, mask.bool())])
    assert batch.lengths == apart.lengths and torch.equal(batch.targets_S, apart.targets_S)
    torch.testing.assert_close(batch_SC, apart_SC, rtol=1e-5, atol=1e-5)


def test_targets_are_the_next_labels_of_the_same_sequence() -> None:
    model = build()
    ids = torch.tensor([[5, IMAGE_TOKEN_INDEX, 6, 7, 8]])
    given = SampleInputs(ids, torch.tensor([[5, -100, -100, 7, 8]]), media((1, 20, 20), images=(0,)))
    with torch.no_grad():
        _, row = packed_forward(model.model, [given, given])
    half = row.targets_S[: row.lengths[0]]
    assert row.lengths[0] == row.lengths[1] and torch.equal(row.targets_S, torch.cat([half, half]))
    # the sequence's own first label has no position before it, its last position has nothing to predict
    assert half.tolist() == [-100] * (row.lengths[0] - 3) + [7, 8, -100]


def test_unpacked_calls_and_generation_stay_as_they_were() -> None:
    ids, plain, packing = prompt(12, ()), small_model(), build()
    mask = torch.ones_like(ids)
    mask[:, :3] = 0
    with torch.no_grad():
        expected, mine = (model(input_ids=ids, attention_mask=mask).logits for model in (plain, packing))
    assert torch.equal(mine, expected)
    lines = [model.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0) for model in (plain, packing)]
    assert torch.equal(*lines)


def test_mistakes_are_named() -> None:
    model = small_model()
    with pytest.raises(ValueError, match="call use_packed_attention"):
        packed_forward(model.model, [sample(5, 0)])
    with pytest.raises(ValueError, match="longvu_packed_sdpa"):
        use_packed_attention(model, "eager")
    use_packed_attention(model)
    with pytest.raises(ValueError, match="empty bin"):
        packed_forward(model.model, [])
