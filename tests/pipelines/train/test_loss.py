"""Label-only chunked cross-entropy against full logits, and against the golden training losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from longvu_model import checkpoint_names
from longvu_model.config import IGNORE_INDEX
from longvu_model.packing import SampleInputs, packed_forward, use_packed_attention
from longvu_model.sight import Media
from pipelines.train.loss import target_losses
from tests.golden.longvu_models import build_model
from tests.golden.longvu_runs import GRADIENT_LIMIT, LOSS_LIMIT
from tests.golden.test_golden import WHOLE as GOLDEN
from tests.golden.text_checks import collate_batch


def problem(positions: int = 50, width: int = 16, vocabulary: int = 30) -> tuple[Tensor, Tensor, nn.Linear]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(positions, width, generator=generator, requires_grad=True)
    targets = torch.randint(0, vocabulary, (positions,), generator=generator)
    targets[torch.rand(positions, generator=generator) < 0.5] = IGNORE_INDEX
    torch.manual_seed(0)
    return hidden, targets, nn.Linear(width, vocabulary, bias=False)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_loss_and_gradients_are_those_of_full_logits(chunk: int) -> None:
    hidden, targets, head = problem()
    expected = functional.cross_entropy(head(hidden), targets, ignore_index=IGNORE_INDEX, reduction="sum")
    expected_gradients = torch.autograd.grad(expected, (hidden, head.weight))
    losses = target_losses(hidden, targets, head, chunk)
    assert len(losses) == int((targets != IGNORE_INDEX).sum())
    loss = losses.sum()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for mine, full in zip(torch.autograd.grad(loss, (hidden, head.weight)), expected_gradients, strict=True):
        torch.testing.assert_close(mine, full, rtol=1e-5, atol=1e-6)


def test_logits_exist_for_one_chunk_at_a_time() -> None:
    hidden, targets, head = problem(positions=64)
    made: list[int] = []
    kept: list[int] = []

    def counted(hidden_nC: Tensor) -> Tensor:
        made.append(len(hidden_nC))
        return head(hidden_nC)

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.shape[-1] if tensor.dim() == 2 else 0)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = target_losses(hidden, targets, counted, 8)
    assert sum(made) == len(losses) and max(made) <= 8
    assert head.out_features not in kept  # nothing of the vocabulary's width waits for the backward pass
    losses.sum().backward()
    assert sum(made) == 2 * len(losses)


def test_a_row_without_targets_costs_nothing_and_still_has_gradients() -> None:
    hidden, targets, head = problem()
    losses = target_losses(hidden, torch.full_like(targets, IGNORE_INDEX), head)
    assert len(losses) == 0
    losses.sum().backward()
    assert hidden.grad is not None and not hidden.grad.any()


def test_losses_stay_in_the_order_of_positions() -> None:
    hidden, targets, head = problem()
    losses = target_losses(hidden, targets, head, 7)
    places = targets != IGNORE_INDEX
    expected = functional.cross_entropy(head(hidden[places]), targets[places], reduction="none")
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)


def golden_batches() -> list[Any]:
    """Every batch of the reference vectors, which are beside the tree or not there."""
    cases = []
    for path in sorted((GOLDEN / "train").glob("*.json")):
        cases += [
            pytest.param(path, name, id=f"{path.stem}/{name}") for name in json.loads(path.read_text())["batches"]
        ]
    return cases or [pytest.param(None, None, marks=pytest.mark.skip("vectors not beside us"))]


@pytest.mark.parametrize(("path", "name"), golden_batches())
def test_published_losses_and_gradients(path: Path, name: str) -> None:
    """The released trainer's batches, packed: its mean over a batch is sum over count."""
    settings = json.loads(path.read_text())
    overrides = {"frame_pos": False, "tokenizer_model_max_length": settings["model_max_length"]}
    model, batch = build_model(GOLDEN, settings["model"], overrides), settings["batches"][name]
    use_packed_attention(model)
    inputs = collate_batch(GOLDEN, settings, batch["items"])
    media = Media(**{key: inputs[key] for key in Media.__dataclass_fields__ if key in inputs})
    rows = SampleInputs(inputs["input_ids"], inputs["labels"], media, inputs["attention_mask"])
    hidden_SC, row = packed_forward(model.model, [rows])

    tensors = load_file(path.parent / path.stem / f"{name}.safetensors")
    assert row.lengths == tensors["attention_mask_out"].sum(1).tolist()
    loss = target_losses(hidden_SC, row.targets_S, model.lm_head, chunk_targets=16).mean()
    assert loss.item() == pytest.approx(batch["loss"], abs=LOSS_LIMIT)
    loss.backward()
    parameters = dict(model.named_parameters())
    for published, norm in batch.get("grad_norms", {}).items():
        ours = checkpoint_names.rename(published, checkpoint_names.MODEL_NAMES)
        if ours == "lm_head.weight" and ours not in parameters:
            ours = "model.language_model.embed_tokens.weight"
        gradient = parameters[str(ours)].grad
        assert gradient is not None and gradient.norm().item() == pytest.approx(norm, rel=GRADIENT_LIMIT), published
