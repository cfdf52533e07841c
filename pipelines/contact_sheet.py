"""Contact sheet: every sampled frame of a video in one picture, with what frame selection made of it.

Each window of 16 sampled frames begins a row of its own. Kept frames have a bright border, dropped ones are dimmed;
below each stand its time, its similarity to its window, and the same as a bar with the threshold marked.

It draws what it is given; :mod:`pipelines.scored_frames` gets frames and similarities from a video or from a store.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from longvu_model.frame_selection import WINDOW_FRAMES

Colour = tuple[int, int, int]

_BACKGROUND: Colour = (18, 20, 24)
_BAND: Colour = (27, 30, 36)
_TEXT: Colour = (232, 234, 237)
_FAINT: Colour = (140, 146, 156)
_KEPT: Colour = (74, 222, 128)
_TRACK: Colour = (52, 57, 66)
_VEIL: Colour = (30, 33, 39)
_DROPPED_BAR: Colour = (108, 114, 124)
_DROPPED_SATURATION = 0.4
# Towards the background rather than towards black, in which dark scenes would vanish.
_DROPPED_FADE = 0.55

# Few frames are shown large; from here on a window fits in one row.
_FEW_FRAMES = 64
# Outside these height-to-width ratios a frame is fitted into its cell instead of shaping it.
_LOWEST_CELL, _HIGHEST_CELL = 0.4, 1.25


@dataclass(frozen=True)
class _Layout:
    """Sizes in pixels, from the number of columns and the shape of the frames."""

    columns: int
    thumb_width: int
    thumb_height: int

    @property
    def small(self) -> int:
        return 12 if self.thumb_width < 150 else 14

    @property
    def gap(self) -> int:
        return max(10, self.thumb_width // 16)

    @property
    def caption(self) -> int:
        return self.small + 14

    @property
    def gutter(self) -> int:
        return 9 * self.small

    @property
    def cell(self) -> tuple[int, int]:
        return self.thumb_width + self.gap, self.thumb_height + self.caption + self.gap

    @property
    def header(self) -> int:
        return 108

    def rows(self, frames: int) -> int:
        return -(-frames // self.columns)


@dataclass(frozen=True)
class _Caption:
    time: str
    similarity: float
    kept: bool
    centre: bool


def contact_sheet(
    frames: Iterable[Image.Image | NDArray[np.uint8]],
    times_s: Sequence[float] | NDArray[Any],
    similarity: Sequence[float] | NDArray[Any],
    kept: Sequence[bool] | NDArray[np.bool_],
    title: str,
    *,
    threshold: float | None = None,
    columns: int | None = None,
) -> Image.Image:
    """Draw the sheet.

    Args:
        frames: T pictures of one size, or uint8 (H, W, 3) RGB arrays; taken one by one, so that a generator will do.
        times_s: of each frame, in seconds.
        similarity: of each frame to its window, 0 for the frame at a window's centre.
        kept: whether each frame was kept.
        title: first line.
        threshold: similarity from which on frames are dropped, marked on the bars and named in the header.
        columns: frames in a row; 8 for up to 64 frames, then 16.

    Returns:
        RGB picture.

    Raises:
        ValueError: no frames, or sequences of different lengths.
    """
    count = len(times_s)
    if count == 0:
        raise ValueError("a contact sheet of no frames: sample at least one")
    if not (count == len(similarity) == len(kept)):
        raise ValueError(
            f"{count} times, {len(similarity)} similarities and {len(kept)} kept flags: give one of each per frame"
        )
    if columns is not None and columns < 1:
        raise ValueError(f"columns={columns}: use at least 1")
    pictures = (frame if isinstance(frame, Image.Image) else Image.fromarray(frame) for frame in frames)
    first = next(pictures, None)
    if first is None:
        raise ValueError(f"no frames for {count} times: give one of each per frame")
    layout = _layout(first.size, count, columns)
    tops = _window_tops(count, layout)
    sheet = Image.new("RGB", (_width(layout), tops[-1]), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    _draw_header(draw, layout, title, count, int(np.sum(kept)), threshold)
    _draw_windows(draw, layout, tops, times_s, kept)
    number = 0
    for number, picture in enumerate(chain([first], pictures)):
        if number >= count:
            raise ValueError(f"more frames than the {count} times: give one of each per frame")
        window, place = divmod(number, WINDOW_FRAMES)
        x = layout.gutter + layout.gap + place % layout.columns * layout.cell[0]
        y = tops[window] + layout.gap + place // layout.columns * layout.cell[1]
        _draw_frame(sheet, draw, layout, (x, y), picture, bool(kept[number]))
        middle = min(WINDOW_FRAMES, count - window * WINDOW_FRAMES) // 2
        caption = _Caption(
            clock(times_s[number]),
            float(similarity[number]),
            bool(kept[number]),
            centre=place == middle and similarity[number] == 0,
        )
        _draw_caption(draw, layout, (x, y + layout.thumb_height), caption, threshold)
    if number + 1 != count:
        raise ValueError(f"{number + 1} frames for {count} times: give one of each per frame")
    return sheet


def _layout(frame_size: tuple[int, int], count: int, columns: int | None) -> _Layout:
    columns = columns or (8 if count <= _FEW_FRAMES else WINDOW_FRAMES)
    thumb_width = min(208, max(112, 1920 // columns))
    shape = min(max(frame_size[1] / frame_size[0], _LOWEST_CELL), _HIGHEST_CELL)
    return _Layout(columns, thumb_width, round(thumb_width * shape))


def _width(layout: _Layout) -> int:
    return layout.gutter + layout.gap + max(layout.columns * layout.cell[0], 720)


def _window_tops(count: int, layout: _Layout) -> list[int]:
    """The y at which each window begins, and the bottom of the last."""
    tops = [layout.header]
    for first in range(0, count, WINDOW_FRAMES):
        rows = layout.rows(min(WINDOW_FRAMES, count - first))
        tops.append(tops[-1] + rows * layout.cell[1] + layout.gap)
    return tops


def _draw_header(
    draw: ImageDraw.ImageDraw, layout: _Layout, title: str, count: int, kept: int, threshold: float | None
) -> None:
    left = 2 * layout.gap
    draw.text((left, 12), _fitting(title, _width(layout) - 2 * left, 26), fill=_TEXT, font=_font(26))
    facts = [
        f"{count} sampled",
        f"{kept} kept ({kept / count:.0%})",
        f"{count - kept} dropped",
        f"{-(-count // WINDOW_FRAMES)} windows of {WINDOW_FRAMES}",
    ]
    x = float(left)
    for fact in facts:
        draw.text((x, 50), fact, fill=_TEXT, font=_font(16))
        x += draw.textlength(fact, font=_font(16)) + 24
    y, x = 80, float(left)
    draw.rounded_rectangle((x, y, x + 24, y + 16), 2, fill=(96, 102, 112), outline=_KEPT, width=3)
    x = _after(draw, x + 32, y, "kept") + 24
    draw.rounded_rectangle((x, y, x + 24, y + 16), 2, fill=(44, 47, 53))
    x = _after(draw, x + 32, y, "dropped") + 24
    draw.rectangle((x, y + 6, x + 40, y + 10), fill=_TRACK)
    draw.rectangle((x, y + 6, x + 26, y + 10), fill=_DROPPED_BAR)
    draw.rectangle((x + 30, y + 2, x + 31, y + 14), fill=_TEXT)
    limit = f", dropped from {threshold:g} on" if threshold is not None else ""
    x = _after(draw, x + 48, y, f"mean similarity to the window{limit}") + 24
    _after(draw, x, y, "centre: always kept", _KEPT)


def _after(draw: ImageDraw.ImageDraw, x: float, y: float, text: str, colour: Colour = _FAINT) -> float:
    """Write a legend entry; returns where it ends."""
    draw.text((x, y - 1), text, fill=colour, font=_font(14))
    return x + draw.textlength(text, font=_font(14))


def _draw_windows(
    draw: ImageDraw.ImageDraw,
    layout: _Layout,
    tops: list[int],
    times_s: Sequence[float] | NDArray[Any],
    kept: Sequence[bool] | NDArray[np.bool_],
) -> None:
    """Bands and the labels at their left: number, time range, frames kept."""
    for window, (top, bottom) in enumerate(pairwise(tops)):
        if window % 2 == 0:
            draw.rectangle((0, top, _width(layout), bottom - 1), fill=_BAND)
        draw.line((0, top, _width(layout), top), fill=_TRACK)
        first, last = window * WINDOW_FRAMES, min((window + 1) * WINDOW_FRAMES, len(times_s)) - 1
        total = int(np.sum(kept[first : last + 1]))
        x, y = layout.gap, top + layout.gap - 2
        step = layout.small + 5
        draw.text((x, y), f"window {window + 1}", fill=_TEXT, font=_font(layout.small))
        draw.text(
            (x, y + step), f"{clock(times_s[first])} - {clock(times_s[last])}", fill=_FAINT, font=_font(layout.small)
        )
        draw.text((x, y + 2 * step), f"{total} of {last - first + 1} kept", fill=_FAINT, font=_font(layout.small))


def _draw_frame(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    layout: _Layout,
    corner: tuple[int, int],
    picture: Image.Image,
    kept: bool,
) -> None:
    x, y = corner
    scale = min(layout.thumb_width / picture.width, layout.thumb_height / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    thumb = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    if not kept:
        thumb = ImageEnhance.Color(thumb).enhance(_DROPPED_SATURATION)
        thumb = Image.blend(thumb, Image.new("RGB", thumb.size, _VEIL), _DROPPED_FADE)
    sheet.paste(thumb, (x + (layout.thumb_width - size[0]) // 2, y + (layout.thumb_height - size[1]) // 2))
    if kept:
        draw.rectangle((x - 3, y - 3, x + layout.thumb_width + 2, y + layout.thumb_height + 2), outline=_KEPT, width=3)
        tag = draw.textlength("kept", font=_font(layout.small)) + 8
        draw.rectangle((x, y, x + tag, y + layout.small + 4), fill=_KEPT)
        draw.text((x + 4, y), "kept", fill=_BACKGROUND, font=_font(layout.small))


def _draw_caption(
    draw: ImageDraw.ImageDraw, layout: _Layout, corner: tuple[int, int], caption: _Caption, threshold: float | None
) -> None:
    """Bar, time and similarity below a frame."""
    x, y = corner[0], corner[1] + 5
    right = x + layout.thumb_width - 1
    draw.rectangle((x, y, right, y + 2), fill=_TRACK)
    filled = x + round(min(max(caption.similarity, 0.0), 1.0) * layout.thumb_width)
    if filled > x:
        draw.rectangle((x, y, filled - 1, y + 2), fill=_KEPT if caption.kept else _DROPPED_BAR)
    if threshold is not None and 0 <= threshold <= 1:
        mark = x + round(threshold * layout.thumb_width)
        draw.rectangle((mark, y - 1, mark, y + 3), fill=_TEXT)
    font = _font(layout.small)
    draw.text((x, y + 5), caption.time, fill=_TEXT if caption.kept else _FAINT, font=font)
    text = f"centre {caption.similarity:.2f}" if caption.centre else f"{caption.similarity:.3f}"
    draw.text((right, y + 5), text, fill=_KEPT if caption.kept else _FAINT, font=font, anchor="ra")


def clock(time_s: float) -> str:
    """Seconds as ``1:02:03``, ``2:03`` or, off the whole second, ``2:03.5``."""
    tenths = round(time_s * 10)
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{tenths // 10:02d}" + (f".{tenths % 10}" if tenths % 10 else "")
    return f"{hours}:{minutes:02d}:{seconds}" if hours else f"{minutes}:{seconds}"


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def _fitting(text: str, width: float, size: int) -> str:
    """``text``, cut in the middle if it is longer than ``width`` pixels."""
    font = _font(size)
    if font.getlength(text) <= width:
        return text
    half = len(text) // 2
    while half > 1 and font.getlength(f"{text[:half]}...{text[-half:]}") > width:
        half -= 1
    return f"{text[:half]}...{text[-half:]}"
