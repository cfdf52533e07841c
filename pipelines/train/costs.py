"""Floating-point operations of a training step on one row, by arithmetic from the model's configuration.

They are those of matrix products, as ``torch.utils.flop_counter`` counts them; the tests hold the two together.

Symbols: h width, i inner width, a query width, k key width of the language model; D width of the aggregator, R tower
tokens per window, T tower tokens per frame.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from longvu_model.compression import plan_cells
from longvu_model.config import LongVUConfig
from longvu_model.packing import ROW_MULTIPLE
from longvu_model.regimes import choose_regime, media_shape
from pipelines.train.engine import EngineSettings
from pipelines.train.stages import Stage


@dataclass(frozen=True)
class RowWork:
    """What one packed row asks of the model.

    Attributes:
        lengths: tokens of each sequence, text and visual.
        targets: learned tokens.
        frames: frames that the aggregator sees.
        cells: query cells that it computes for them.
        rendered: grid cells projected to the language model, newlines not counted.
        online_frames: frames that go through both towers.
    """

    lengths: Sequence[int]
    targets: int
    frames: int = 0
    cells: int = 0
    rendered: int = 0
    online_frames: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of the row as it is computed, filled up."""
        return -(-sum(self.lengths) // ROW_MULTIPLE) * ROW_MULTIPLE

    @property
    def attention_pairs(self) -> int:
        """Sum of squared lengths, the filler's included."""
        return sum(length**2 for length in self.lengths) + (self.tokens - sum(self.lengths)) ** 2

    def __add__(self, other: RowWork) -> RowWork:
        """Both in one row."""
        mine, theirs = ({f.name: getattr(work, f.name) for f in dataclasses.fields(work)} for work in (self, other))
        return RowWork(**{name: mine[name] + theirs[name] for name in mine})


def sample_work(
    config: LongVUConfig,
    text_tokens: int,
    targets: int,
    frames: int = 0,
    size: tuple[int, int] = (1, 1),
    *,
    is_video: bool = True,
) -> RowWork:
    """A sample of text and at most one medium, under the model's own budgets.

    Args:
        frames: kept frames of the medium; 0 for text alone.
        size: (height, width) of the medium.
    """
    if not frames:
        return RowWork([text_tokens], targets)
    row, count = torch.zeros(1, dtype=torch.long), torch.tensor([frames])
    shape = media_shape(config, row, torch.tensor([is_video]), count, torch.tensor([size]))
    text = torch.tensor([text_tokens])
    regime = choose_regime(config, shape, count, text, text)
    base_full, upgraded = bool(regime.base_full_V[0]), int(regime.num_upgraded_V[0])
    full, low = int(shape.full_tokens_V[0]), int(shape.low_tokens_V[0])
    visual = frames * (full if base_full else low) + upgraded * (full - low)
    if bool(regime.drop_V[0]):
        visual = min(visual, int(regime.budget_V[0]))
    rendered = frames * _grid_cells(
        shape.full_rectangles_V4 if base_full else shape.low_rectangles_V4
    ) + upgraded * _grid_cells(shape.full_rectangles_V4)
    cells = sum(len(frame_N) for frame_N, _, _ in plan_cells(config, shape, regime, count).cells)
    return RowWork([text_tokens + visual], targets, frames, cells, rendered)


def forward_flops(config: LongVUConfig, work: RowWork, *, causal: bool = True) -> dict[str, float]:
    """Operations of one forward pass by part.

    Args:
        causal: count the half of the attention that kernels compute; otherwise all pairs, as torch's counter does.
    """
    text, pairs = config.text_config, work.attention_pairs / (2 if causal else 1)
    h, i, a, k = widths(config)
    width, per_cell = config.vision_hidden_size, window(config)
    tower_tokens = work.frames * config.token_grid**2
    siglip, dino = config.siglip_config.hidden_size, config.dino_config.hidden_size
    cell_tokens = work.cells * per_cell
    depth = config.connector_depth
    first = 2 * tower_tokens * siglip * width + 2 * cell_tokens * dino * width
    aggregator = first + 2 * (tower_tokens + cell_tokens) * width**2
    aggregator += depth * (2 * work.frames * 2 * width**2)  # context, and its part of proj_in
    aggregator += 2 * (work.frames + (depth - 1) * 2 * work.cells) * width**2  # queries: the first layer's per frame
    aggregator += depth * (2 * cell_tokens * 2 * (2 * width) * width + 2 * work.cells * 3 * width**2)
    return {
        "towers": work.online_frames * _tower_flops(config),
        "aggregator": aggregator,
        "aggregator, first products": first,
        "projector": 2 * work.rendered * (width * len(config.query_grids) * h + h * h),
        "language_model": 2 * work.tokens * text.num_hidden_layers * (2 * h * a + 2 * h * k + 3 * h * i),
        "down projections": 2 * work.tokens * text.num_hidden_layers * h * i,
        "attention": 4 * text.num_hidden_layers * a * pairs,
        "head": 2 * work.targets * h * text.vocab_size,
    }


def step_flops(
    config: LongVUConfig,
    stage: Stage,
    settings: EngineSettings,
    work: RowWork,
    *,
    causal: bool = True,
    attention_backward: float = 2.5,
) -> float:
    """Operations of forward and backward of one row, what is recomputed included.

    A product's backward pass costs as much again for its weight's gradient if that learns, and for its input's if
    anything before it does.

    Args:
        causal: see :func:`forward_flops`.
        attention_backward: what the backward pass of attention costs in forward passes; flash kernels recompute the
            scores (2.5), others do not (2).
    """
    forward = forward_flops(config, work, causal=causal)
    learns = {part: part not in stage.frozen for part in ("aggregator", "projector", "language_model", "head")}
    adapters = stage.lora is not None
    learns["language_model"] &= not adapters
    before_projector = learns["aggregator"] or "towers" not in stage.frozen
    before_layers = before_projector or learns["projector"] or "embeddings" not in stage.frozen
    before_head = before_layers or learns["language_model"] or adapters

    total = forward["towers"] * (1 if "towers" in stage.frozen else 3)
    total += forward["aggregator"] * (1 + learns["aggregator"] + before_projector)
    if "towers" in stage.frozen and before_projector:  # features need no gradient
        total -= forward["aggregator, first products"]
    total += forward["projector"] * (1 + learns["projector"] + before_projector)
    layers = forward["language_model"] * (1 + learns["language_model"] + (before_layers or adapters))
    layers += forward["attention"] * (1 + attention_backward * before_head)
    if settings.gradient_checkpointing and before_head:
        layers += forward["language_model"] + forward["attention"]
        layers -= forward["down projections"]  # what is after the last tensor to be kept is not made again
    if adapters:
        layers += 3 * _adapter_flops(config, stage, work)
    return total + layers + forward["head"] * (2 + learns["head"] + before_head)


def widths(config: LongVUConfig) -> tuple[int, int, int, int]:
    """h, i, a, k of the language model."""
    text, head = config.text_config, head_width(config)
    return text.hidden_size, text.intermediate_size, text.num_attention_heads * head, text.num_key_value_heads * head


def head_width(config: LongVUConfig) -> int:
    """Width of one attention head."""
    text = config.text_config
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def window(config: LongVUConfig) -> int:
    """Tower tokens that a query cell sees of each tower, R."""
    return (config.token_grid // config.query_grids[0]) ** 2


def _grid_cells(rectangles_V4: torch.Tensor) -> int:
    row0, row1, column0, column1 = rectangles_V4[0].tolist()
    return (row1 - row0) * (column1 - column0)


def _tower_flops(config: LongVUConfig) -> float:
    """Both towers on one frame."""
    siglip, dino = config.siglip_config, config.dino_config
    dino_inner = dino.hidden_size * dino.mlp_ratio
    # SwiGLU has three products of two thirds of the width
    dino_products = 3 * ((int(dino_inner * 2 / 3) + 7) // 8 * 8) if dino.use_swiglu_ffn else 2 * dino_inner
    return sum(
        2 * tokens * 3 * patch**2 * width
        + layers * (2 * tokens * width * (4 * width + products) + 4 * tokens**2 * width)
        for tokens, patch, width, layers, products in (
            (
                (siglip.image_size // siglip.patch_size) ** 2,
                siglip.patch_size,
                siglip.hidden_size,
                siglip.num_hidden_layers,
                2 * siglip.intermediate_size,
            ),
            (
                (config.dino_image_size // dino.patch_size) ** 2 + 1,
                dino.patch_size,
                dino.hidden_size,
                dino.num_hidden_layers,
                dino_products,
            ),
        )
    )


def adapter_weights(config: LongVUConfig, stage: Stage) -> int:
    """Weights of all low-rank adapters."""
    assert stage.lora is not None
    h, i, a, k = widths(config)
    sides = {
        "q_proj": h + a, "k_proj": h + k, "v_proj": h + k, "o_proj": a + h,
        "gate_proj": h + i, "up_proj": h + i, "down_proj": i + h,
    }  # fmt: skip
    per_layer = sum(sides[target] for target in stage.lora.targets)
    return stage.lora.rank * per_layer * int(config.text_config.num_hidden_layers)


def _adapter_flops(config: LongVUConfig, stage: Stage, work: RowWork) -> float:
    return 2 * work.tokens * adapter_weights(config, stage)
