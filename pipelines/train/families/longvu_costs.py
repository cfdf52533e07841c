"""What LongVU's visual path costs: tokens of a sample, operations and bytes of a row, by arithmetic.

Symbols: h width of the language model; D width of the aggregator, R tower tokens per window, T tower tokens per frame.
"""

from __future__ import annotations

import math

import torch

from longvu_model.aggregator import block_frames
from longvu_model.compression import plan_cells
from longvu_model.config import LongVUConfig
from longvu_model.regimes import choose_regime, media_shape
from pipelines.train.families.work import RowWork, VisualPart


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


def visual_parts(config: LongVUConfig, work: RowWork) -> list[VisualPart]:
    """Operations of aggregator and projector in a forward pass."""
    width, per_cell, h = config.vision_hidden_size, window(config), config.text_config.hidden_size
    tower_tokens = work.frames * config.token_grid**2
    siglip, dino = config.siglip_config.hidden_size, config.dino_config.hidden_size
    cell_tokens = work.cells * per_cell
    depth = config.connector_depth
    first = 2 * tower_tokens * siglip * width + 2 * cell_tokens * dino * width
    aggregator = first + 2 * (tower_tokens + cell_tokens) * width**2
    aggregator += depth * (2 * work.frames * 2 * width**2)  # context, and its part of proj_in
    aggregator += 2 * (work.frames + (depth - 1) * 2 * work.cells) * width**2  # queries: the first layer's per frame
    aggregator += depth * (2 * cell_tokens * 2 * (2 * width) * width + 2 * work.cells * 3 * width**2)
    projector = 2 * work.rendered * (width * len(config.query_grids) * h + h * h)
    return [VisualPart("aggregator", aggregator, first, chained=True), VisualPart("projector", projector)]


def tower_flops(config: LongVUConfig) -> float:
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


def visual_bytes(config: LongVUConfig, work: RowWork, size: int, device: str) -> float:
    """Bytes that aggregator, projector and assembly keep, features included."""
    if not work.frames:
        return work.tokens * config.text_config.hidden_size * size
    width, per_cell, h = config.vision_hidden_size, window(config), config.text_config.hidden_size
    towers = config.siglip_config.hidden_size + config.dino_config.hidden_size
    tower_tokens, cell_tokens = work.frames * config.token_grid**2, work.cells * per_cell
    inputs = tower_tokens * towers + cell_tokens * config.dino_config.hidden_size
    projectors = 3 * width * (tower_tokens + cell_tokens)
    weights = 4 + (size if size < 4 else 0)  # the softmax is in float32
    per_layer = size * width * (8 * cell_tokens + 8 * work.cells)
    per_layer += 2 * cell_tokens * config.aggregator_heads * weights
    blocks = math.ceil(work.frames / block_frames(config.token_grid**2, width, device))
    folded = blocks * config.connector_depth * 4 * width**2  # weights with the norms' gains, for both towers
    rendered = work.rendered * (width + 3 * h) + work.tokens * h
    return size * (inputs + projectors + folded + rendered) + config.connector_depth * per_layer


def window(config: LongVUConfig) -> int:
    """Tower tokens that a query cell sees of each tower, R."""
    return (config.token_grid // config.query_grids[0]) ** 2


def _grid_cells(rectangles_V4: torch.Tensor) -> int:
    row0, row1, column0, column1 = rectangles_V4[0].tolist()
    return (row1 - row0) * (column1 - column0)
