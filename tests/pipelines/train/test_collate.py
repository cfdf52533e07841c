"""Bins as the packed forward pass takes them."""

from __future__ import annotations

import torch

from longvu_model.config import IGNORE_INDEX
from longvu_model.packing import embed_samples, use_packed_attention
from pipelines.train.collate import collate, filler
from tests.model.builders import small_model
from tests.pipelines.train import problem


def test_media_change_format_and_ids_stay_as_they_are() -> None:
    samples = [problem.sample(0, "video"), problem.sample(1, "text")]
    one = collate(samples, torch.device("cpu"), torch.bfloat16)
    assert one.samples == samples
    video, text = one.inputs
    assert text.media is None and video.media is not None
    assert video.media.pixel_values_dino is not None and video.media.pixel_values_dino.dtype == torch.bfloat16
    assert samples[0].media is not None and torch.equal(video.media.frame_counts, samples[0].media.frame_counts)
    for inputs, sample in zip(one.inputs, samples, strict=True):
        assert torch.equal(inputs.input_ids[0], sample.input_ids) and torch.equal(inputs.labels[0], sample.labels)
        # what the manifest counts is what the loss will sum over
        model = small_model()
        use_packed_attention(model)
        with torch.no_grad():
            targets = embed_samples(model.model, [collate([sample], model.device, model.dtype).inputs[0]]).targets_S
        assert int((targets != IGNORE_INDEX).sum()) == sample.num_targets


def test_nothing_to_learn_is_a_token_without_a_target() -> None:
    assert list(collate([], torch.device("cpu"), torch.float32).inputs) == []
    with torch.no_grad():
        row = embed_samples(small_model().model, [filler()])
    assert row.lengths == [1] and row.targets_S.tolist() == [IGNORE_INDEX]
