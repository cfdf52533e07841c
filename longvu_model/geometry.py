"""Where the picture lies on a square token grid: crops, window masks, bilinear taps.

Frames are padded to a square before the towers see them, so a wide picture occupies a band of rows. Sizes are pairs
(a, b), read as (width, height); all divisions are in double precision, in the published order, because truncation is
sensitive to both (SEMANTICS sections 7 to 9).

Shapes: V media, Q query side, r tokens per window side, K taps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from longvu_model.semantics import Semantics


def size_pairs(image_sizes_V2: Tensor, swapped_V: Tensor, rules: Semantics) -> Tensor:
    """(height, width) per medium -> float64 (V, 2) pairs read as (width, height).

    Args:
        swapped_V: bool, media whose size the release hands over the wrong way round [Q3]: videos, but not folders of
            frames and GIFs.
    """
    width_height = image_sizes_V2.flip(1).double()
    if not rules.swap_video_size:
        return width_height
    return torch.where(swapped_V[:, None], image_sizes_V2.double(), width_height)


def content_rectangles(side: int, pairs_V2: Tensor) -> Tensor:
    """Rows and columns of a ``side`` x ``side`` grid that the unpadded picture covers.

    Returns:
        int64 (V, 4) as (row0, row1, column0, column1), half open; empty where row0 >= row1 or column0 >= column1.

    Raises:
        ValueError: a size has a zero height.
    """
    width_V, height_V = pairs_V2.unbind(1)
    if bool((height_V <= 0).any()):
        raise ValueError(f"picture of height 0 on a {side} x {side} grid: sizes must be at least 1 x 1")
    wide_V = width_V / height_V > 1
    rows_V = (height_V * (side / width_V.clamp(min=1))).trunc().long()
    columns_V = (width_V * (side / height_V)).trunc().long()
    pad_V = torch.where(wide_V, side - rows_V, side - columns_V).div(2, rounding_mode="floor")
    whole_V = torch.zeros_like(pad_V)
    row_pad_V = torch.where(wide_V, pad_V, whole_V)
    column_pad_V = torch.where(wide_V, whole_V, pad_V)
    return torch.stack([row_pad_V, side - row_pad_V, column_pad_V, side - column_pad_V], dim=1)


def crop_rectangles(side: int, pairs_V2: Tensor, rules: Semantics) -> Tensor:
    """:func:`content_rectangles` with empty crops replaced: by the whole grid [Q26], or by the central line."""
    rectangles_V4 = content_rectangles(side, pairs_V2)
    row0_V, row1_V, column0_V, column1_V = rectangles_V4.unbind(1)
    empty_V = (row0_V >= row1_V) | (column0_V >= column1_V)
    if rules.empty_crop_uncropped:
        replacement_V4 = torch.tensor([0, side, 0, side]).expand_as(rectangles_V4)
    else:
        middle = side // 2
        line_rows = torch.tensor([middle, middle + 1, 0, side])
        line_columns = torch.tensor([0, side, middle, middle + 1])
        replacement_V4 = torch.where((row0_V >= row1_V)[:, None], line_rows, line_columns)
    return torch.where(empty_V[:, None], replacement_V4, rectangles_V4)


def low_pairs(pairs_V2: Tensor, full_grid: int, low_grid: int, rules: Semantics) -> Tensor:
    """Size pairs of the low-resolution grid: divided by full / low and truncated (section 9).

    A height of 0, by which the release divides, is left for :func:`content_rectangles` to refuse, or counts as 1.
    """
    scaled_V2 = (pairs_V2 / (full_grid / low_grid)).trunc()
    return scaled_V2 if rules.vanishing_low_size_raises else scaled_V2.clamp(min=1)


def window_tokens(token_grid: int, query_grid: int) -> Tensor:
    """Token index of each window position: int64 (Q*Q, r*r), both row-major, r = token_grid // query_grid."""
    r = token_grid // query_grid
    tokens = torch.arange(token_grid * token_grid).view(query_grid, r, query_grid, r)
    return tokens.permute(0, 2, 1, 3).reshape(query_grid * query_grid, r * r)


def window_masks(token_grid: int, query_grid: int, pairs_V2: Tensor) -> Tensor:
    """Which window positions lie on the picture: bool (V, Q*Q, r*r); a window with none counts as fully valid."""
    row0_V, row1_V, column0_V, column1_V = content_rectangles(token_grid, pairs_V2)[:, :, None].unbind(1)
    line = torch.arange(token_grid)
    rows_VG = (line >= row0_V) & (line < row1_V)
    columns_VG = (line >= column0_V) & (line < column1_V)
    valid_VT = (rows_VG[:, :, None] & columns_VG[:, None, :]).flatten(1)
    valid_VQR = valid_VT[:, window_tokens(token_grid, query_grid)]
    return valid_VQR | ~valid_VQR.any(dim=2, keepdim=True)


def bilinear_taps(source: int, target: int) -> tuple[Tensor, Tensor]:
    """Bilinear resize of a square grid as a gather (``align_corners`` false, not antialiased, float32).

    Returns:
        source cell of each tap, int64 (target*target, K), and its weight, float32 of the same shape. K is 1 when
        the sides are equal, otherwise 4.
    """
    if source == target:
        return torch.arange(source * source)[:, None], torch.ones(source * source, 1)
    position = ((torch.arange(target, dtype=torch.float32) + 0.5) * (source / target) - 0.5).clamp(min=0)
    near = position.long().clamp(max=source - 1)
    far = (near + 1).clamp(max=source - 1)
    fraction = position - near
    line = torch.stack([near, far], dim=1)
    weight = torch.stack([1 - fraction, fraction], dim=1)
    cells = line[:, None, :, None] * source + line[None, :, None, :]
    weights = weight[:, None, :, None] * weight[None, :, None, :]
    return cells.reshape(target * target, 4), weights.reshape(target * target, 4)
