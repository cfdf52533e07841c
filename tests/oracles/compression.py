"""The token path written down as the specification describes the published code: the oracle of the fast one.

One row, one video. Loops over windows, frames and tokens; every cell of every frame is aggregated, the context is
projected once per cell, and the towers' features are rearranged into windows twice, the second time for nothing (the
release does so for sampler layers that it never runs). It reads the same parameters as the model and shares no code
with it beyond the modules' plain linear maps and norms. SEMANTICS sections 5 to 13, published semantics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from longvu_model.aggregator import AggregatorLayer
from longvu_model.config import IMAGE_TOKEN_INDEX, LongVUConfig
from longvu_model.modeling import LongVUForConditionalGeneration


@dataclass(frozen=True)
class OracleOutput:
    """What the token path decided and produced for one video."""

    kept: list[int]
    upgraded: list[int]
    inputs_embeds: Tensor
    """(1, S, C)."""


def token_path(
    model: LongVUForConditionalGeneration,
    input_ids: Tensor,
    dino_FTD: Tensor,
    siglip_FTD: Tensor,
    size: tuple[int, int],
) -> OracleOutput:
    """Tower features of all sampled frames -> inputs of the language model.

    Args:
        input_ids: (1, T) with one slot.
        size: (height, width), read as (width, height) as published.
    """
    config = model.config
    num_ids = input_ids.shape[1]
    kept = select_frames(config, dino_FTD, num_ids)
    mix, _ = resolution_mode(config, len(kept), num_ids)
    high, low = frame_sequences(model, dino_FTD[kept], siglip_FTD[kept], size, kept)

    slot = int((input_ids[0] == IMAGE_TOKEN_INDEX).nonzero()[0, 0])
    table = model.get_input_embeddings()
    head, tail = table(input_ids[0, :slot]), table(input_ids[0, slot + 1 :])
    budget = config.max_sequence_length - config.answer_reserve - (num_ids - 1)
    frames = low if config.mixed_resolution and mix else high
    num_visual = sum(len(frame) for frame in frames)
    upgraded: list[int] = []
    if config.mixed_resolution and mix and budget > num_visual:
        gain = len(torch.cat(high)) // len(kept) - len(torch.cat(low)) // len(kept)
        wanted = min(math.floor((budget - num_visual) / gain), len(kept))
        if wanted >= 1:
            scores = torch.stack([(frame @ tail.T).mean(dim=1).mean() for frame in low])
            upgraded = sorted(scores.topk(wanted).indices.tolist())
            frames = [high[i] if i in upgraded else low[i] for i in range(len(kept))]
        visual = torch.cat(frames)
    elif budget < num_visual:
        visual = drop_tokens(torch.stack(frames), config.drop_threshold, budget)
    else:
        visual = torch.cat(frames)
    sequence = torch.cat([head, visual, tail])[: config.max_sequence_length]
    return OracleOutput(kept, upgraded, sequence[None])


def select_frames(config: LongVUConfig, dino_FTD: Tensor, text_length: int) -> list[int]:
    """Temporal reduction (section 5)."""
    num_frames = len(dino_FTD)
    cells = config.low_grid**2 if config.mixed_resolution else config.full_grid**2
    limit = max(1, (config.max_sequence_length - text_length - config.answer_reserve) // cells)
    if num_frames < limit:
        return list(range(num_frames))
    window = 16 if num_frames >= 16 else num_frames
    kept = []
    for start in range(0, num_frames, window):
        features = dino_FTD[start : start + window].flatten(1)
        features = features / features.norm(dim=1, keepdim=True)
        similarity = (features @ features.T).mean(dim=1)
        similarity[len(features) // 2] = 0
        for i in range(len(features)):
            if similarity[i] < config.dino_threshold:
                kept.append(start + i)
    if num_frames >= 16 and len(kept) > 400:
        kept = [kept[int(i * (len(kept) / 400))] for i in range(400)]
    return kept


def resolution_mode(config: LongVUConfig, num_kept: int, text_length: int) -> tuple[bool, bool]:
    """(mix, high) of section 6."""
    room = config.max_sequence_length - text_length - config.answer_reserve
    if num_kept < max(1, room // config.full_grid**2):
        return False, True
    if num_kept > max(1, room // config.low_grid**2):
        return False, False
    return True, True


def frame_sequences(
    model: LongVUForConditionalGeneration,
    dino_FTD: Tensor,
    siglip_FTD: Tensor,
    size: tuple[int, int],
    times: list[int],
) -> tuple[list[Tensor], list[Tensor]]:
    """Full- and low-resolution tokens of every frame (sections 7 to 9)."""
    config, core = model.config, model.model
    side, full, low = config.query_grids[0], config.full_grid, config.low_grid
    projected = [core.aggregator.projectors[0](siglip_FTD), core.aggregator.projectors[1](dino_FTD)]
    context = projected[0].mean(dim=1, keepdim=True).expand(-1, side * side, -1).reshape(-1, 1, projected[0].shape[2])
    windows, masks = rearrange(projected, config.token_grid, side, size)
    rearrange(projected, config.token_grid, side, size)  # the release's second, unused rearrangement
    query = core.aggregator.queries[0].expand(len(dino_FTD) * side * side, 1, -1)
    for layer in core.aggregator.groups[0]:
        query = aggregate(layer, query, context, windows, masks)
    grid = query.view(len(dino_FTD), side, side, -1).permute(0, 3, 1, 2)

    versions = []
    for target in (full, low):
        if target != side:
            grid_here = functional.interpolate(grid, size=(target, target), mode="bilinear", align_corners=False)
        else:
            grid_here = grid
        versions.append(core.frame_tokens.projector(grid_here.permute(0, 2, 3, 1)))
    ratio = full / low
    sizes = [size, (int(size[0] / ratio), int(size[1] / ratio))]
    outputs = []
    for tokens, pair in zip(versions, sizes, strict=True):
        frames = []
        for frame, time in zip(tokens, times, strict=True):
            picture = crop(frame, *pair)
            newline = core.frame_tokens.newline.expand(len(picture), 1, -1)
            rows = torch.cat([picture, newline], dim=1).flatten(0, 1)
            if config.frame_pos:
                rows = rows + position(time, rows.shape[1])
            frames.append(rows)
        outputs.append(frames)
    return outputs[0], outputs[1]


def rearrange(
    towers: list[Tensor], token_grid: int, query_grid: int, size: tuple[int, int]
) -> tuple[list[Tensor], list[Tensor]]:
    """Every tower's features as windows (frames * cells, r*r, D), with masks of the same rows."""
    r = token_grid // query_grid
    windows, masks = [], []
    for features in towers:
        frames, _, width = features.shape
        grid = features.view(frames, query_grid, r, query_grid, r, width).permute(0, 1, 3, 2, 4, 5)
        windows.append(grid.reshape(frames * query_grid * query_grid, r * r, width).contiguous())
        valid = torch.zeros(token_grid, token_grid, dtype=torch.bool)
        row0, row1, column0, column1 = unpad(token_grid, *size)
        valid[row0:row1, column0:column1] = True
        mask = valid.view(query_grid, r, query_grid, r).permute(0, 2, 1, 3).reshape(query_grid * query_grid, r * r)
        mask = mask.clone()
        mask[~mask.any(dim=1)] = True
        masks.append(mask.repeat(frames, 1))
    return windows, masks


def aggregate(
    layer: AggregatorLayer, query: Tensor, context: Tensor, windows: list[Tensor], masks: list[Tensor]
) -> Tensor:
    """One aggregator layer over all cells (section 7)."""
    z = functional.linear(torch.cat([query, layer.proj_context(context)], dim=-1), layer.proj_in)
    keys, values = [], []
    for tower, window in zip(layer.towers, windows, strict=True):
        shifted = window if tower.pos_embed is None else window + tower.pos_embed
        width = shifted.shape[-1:]
        key_in = functional.layer_norm(shifted, width, tower.key_norm_weight, tower.key_norm_bias)
        value_in = functional.layer_norm(shifted, width, tower.value_norm_weight, tower.value_norm_bias)
        keys.append(functional.linear(key_in, tower.key_weight))
        values.append(functional.linear(value_in, tower.value_weight))
    shape = (len(query), -1, layer.num_heads, z.shape[-1] // layer.num_heads)
    attending = layer.query(z).view(shape).transpose(1, 2)
    key = torch.cat(keys, dim=1).view(shape).transpose(1, 2)
    value = torch.cat(values, dim=1).view(shape).transpose(1, 2)
    mask = torch.cat(masks, dim=1)[:, None, None, :]
    attended = functional.scaled_dot_product_attention(attending, key, value, attn_mask=mask)
    y = z + layer.out(attended.transpose(1, 2).flatten(2))
    return query + layer.proj_out(layer.norm(y))


def unpad(side: int, width: float, height: float) -> tuple[int, int, int, int]:
    """Rows and columns of the picture on a padded square grid."""
    if width / height > 1:
        pad = (side - int(height * (side / width))) // 2
        return pad, side - pad, 0, side
    pad = (side - int(width * (side / height))) // 2
    return 0, side, pad, side - pad


def crop(grid: Tensor, width: float, height: float) -> Tensor:
    """The picture's part of a (side, side, C) grid; the whole grid where that is empty."""
    row0, row1, column0, column1 = unpad(len(grid), width, height)
    cropped = grid[row0:row1, column0:column1]
    return cropped if cropped.numel() else grid


def position(time: int, width: int) -> Tensor:
    """Temporal sinusoid, cosine of the sine at odd channels (section 9)."""
    channel = torch.arange(width)
    angle = time * torch.pow(torch.tensor(10000.0), -(channel // 2 * 2) / width)
    return torch.where(channel % 2 == 1, angle.sin().cos(), angle.sin())


def drop_tokens(frames_FNC: Tensor, threshold: float, budget: int) -> Tensor:
    """Spatial token drop (section 12)."""
    chunks = []
    for chunk in frames_FNC.split(8):
        kept = [chunk[0]]
        for frame in chunk[1:]:
            similarity = functional.cosine_similarity(frame, chunk[0], dim=1, eps=1e-8)
            kept.append(frame[similarity < threshold])
        chunks.append(torch.cat(kept))
    excess = sum(len(chunk) for chunk in chunks) - budget
    if excess > 0:
        cut = math.ceil(excess / len(chunks))
        chunks = [chunk[: max(0, len(chunk) - cut)] for chunk in chunks]
    return torch.cat(chunks)[:budget]
