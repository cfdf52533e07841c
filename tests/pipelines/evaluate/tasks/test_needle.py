"""Grids, composed videos looked at pixel by pixel, heat maps."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from longvu_model.video.decode import decode_frames
from longvu_model.video.errors import Missing
from longvu_model.video.sampling import FrameSampling
from pipelines.errors import UserError
from pipelines.evaluate.outcomes import Outcome
from pipelines.evaluate.report import pictures_of
from pipelines.evaluate.tasks import heat_map
from pipelines.evaluate.tasks.base import Judged, Row
from pipelines.evaluate.tasks.needle_composition import Needle, compose, font_size, text_picture
from pipelines.evaluate.tasks.needle_grid import Cell, Spacing, depths, lengths
from pipelines.evaluate.tasks.needle_haystack import NeedleHaystack
from pipelines.evaluate.tasks.needle_synthetic import SyntheticNeedleGrid
from pipelines.evaluate.tasks.registry import task
from pipelines.evaluate.tasks.samples import Sample

Samples = Callable[[str], Sample]
EVERY = FrameSampling(fps=1e6)


def needle_of(folder: Path, modality: str) -> Needle:
    source = {"video": "readingsky.mp4", "image": "readingsky.png"}.get(modality)
    if source is None:
        return Needle("text", "\nlook here\n")
    return Needle(modality, str(folder / "haystack" / source))  # type: ignore[arg-type]


def marked(frames_THWC: np.ndarray, modality: str) -> list[bool]:
    """Which frames show the needle: a yellow star in the middle, or white text at the bottom, on a grey room."""
    height, width = frames_THWC.shape[1:3]
    if modality == "text":
        bright = frames_THWC[:, height // 2 :].min(axis=3) > 200
        return (bright.sum(axis=(1, 2)) > 20).tolist()
    middle = frames_THWC[:, height // 2 - 4 : height // 2 + 4, width // 2 - 4 : width // 2 + 4].astype(int)
    yellow = (middle[..., 0] - middle[..., 2]).mean(axis=(1, 2))
    return (yellow > 100).tolist()


@pytest.mark.parametrize("modality", ["video", "image", "text"])
@pytest.mark.parametrize("depth", [0, 34, 50, 100])
def test_needle_lies_where_it_should(modality: str, depth: int, sample: Samples, tmp_path: Path) -> None:
    folder = sample("needle_haystack").data
    cell = Cell(6, float(depth))
    path = compose(cell, needle_of(folder, modality), folder / "haystack/ego", 9, tmp_path)
    assert path.name == f"9_{modality}_6_{6 * depth // 100}.mp4"
    video = decode_frames(str(path), EVERY)
    start = 5 * (6 * depth // 100)
    total = 35 if depth == 100 else 30
    assert video.frames.shape == (total, 96, 128, 3) and video.summary.fps == 5
    seen = marked(video.frames, modality)
    if modality == "video":  # its star is there only for the middle half of its second
        assert not any(seen[:start]) and not any(seen[start + 5 :]) and any(seen[start : start + 5])
    else:
        assert [number for number, mark in enumerate(seen) if mark] == list(range(start, start + 5))
    # What lies beyond the footage is black around the needle.
    assert (video.frames[30:, :8, :8] < 20).all() and (video.frames[:30, :8, :8] > 40).all()


def test_the_needle_hides_only_what_it_covers(sample: Samples, tmp_path: Path) -> None:
    folder = sample("needle_haystack").data
    haystack = folder / "haystack/ego"
    with_needle, without = (
        decode_frames(str(compose(cell, needle_of(folder, "image"), haystack, 6, tmp_path)), EVERY).frames.astype(int)
        for cell in (Cell(6, 0), Cell(6, 100))
    )
    difference = np.abs(with_needle[:30] - without[:30])
    assert difference[:5].max() > 100
    assert difference[:5, :, :20].max() < 25 and difference[5:].max() < 25


def test_footage_is_repeated_and_made_once(sample: Samples, tmp_path: Path) -> None:
    folder = sample("needle_haystack").data
    path = compose(Cell(6, 100), needle_of(folder, "image"), folder / "haystack/ego", 6, tmp_path)
    video = decode_frames(str(path), EVERY).frames.astype(int)
    # Two seconds of footage, three times: a blue square comes and goes in each.
    blue = (video[:, 40:56, 56:72, 2] - video[:, 40:56, 56:72, 0]).mean(axis=(1, 2)) > 40
    assert blue[:10].any() and not blue[:10].all()
    assert blue[:10].tolist() == blue[10:20].tolist() == blue[20:30].tolist()
    (footage,) = tmp_path.glob("haystack-*.mp4")
    written = footage.stat().st_mtime_ns, path.stat().st_mtime_ns
    compose(Cell(6, 100), needle_of(folder, "image"), folder / "haystack/ego", 6, tmp_path)
    compose(Cell(3, 50), needle_of(folder, "image"), folder / "haystack/ego", 6, tmp_path)
    assert (footage.stat().st_mtime_ns, path.stat().st_mtime_ns) == written
    other = compose(Cell(6, 100), Needle("text", "other"), folder / "haystack/ego", 6, tmp_path)
    another = compose(Cell(6, 100), Needle("text", "another"), folder / "haystack/ego", 6, tmp_path)
    assert other.name == another.name and other != another
    assert list(tmp_path.glob("haystack-*.mp4")) == [footage]


def test_missing_parts(sample: Samples, tmp_path: Path) -> None:
    folder = sample("needle_haystack").data
    with pytest.raises(Missing, match="nowhere: neither a video nor a folder"):
        compose(Cell(6, 0), needle_of(folder, "image"), tmp_path / "nowhere", 6, tmp_path)
    with pytest.raises(Missing, match=r"nowhere\.png: no such file"):
        compose(Cell(6, 0), Needle("image", str(tmp_path / "nowhere.png")), folder / "haystack/ego", 6, tmp_path)


@pytest.mark.parametrize(("text", "width"), [("short", 540), ("A young man is sitting on a piece of cloud.", 540)])
def test_text_fits_nine_tenths_of_the_frame(text: str, width: int) -> None:
    picture = text_picture(text, width)
    assert picture.width <= 0.92 * width
    assert np.asarray(picture)[..., :3][np.asarray(picture)[..., 3] > 0].min() == 255


@pytest.mark.parametrize(("width", "at_70", "size"), [(540, 2520, 13), (540, 10, 70), (540, 99999, 10)])
def test_font_size(width: int, at_70: float, size: int) -> None:
    assert font_size(width, at_70) == size


def test_default_grid() -> None:
    chosen = task("needle_haystack")
    assert isinstance(chosen, NeedleHaystack)
    cells = chosen.cells()
    assert len(cells) == 480
    assert [cell.length_s for cell in (*cells[:60:12], cells[-1])] == [1, 9, 17, 26, 34, 320]
    assert [cell.depth_percent for cell in cells[:12]] == [0, 9, 18, 27, 36, 45, 55, 64, 73, 82, 91, 100]
    assert (cells[13].insertion_s, cells[-1].insertion_s) == (0, 320)
    assert lengths(1, 2, 2) == [1, 2]


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        ("linear", [0.0, 12.0, 25.0, 38.0, 50.0, 62.0, 75.0, 88.0, 100.0]),
        ("sigmoid", [0.0, 2.298, 7.586, 22.27, 50.0, 77.73, 92.414, 97.702, 100.0]),
        ("sigmoid_published", [0.0, 97.702, 92.414, 77.73, 50.0, 22.27, 7.586, 2.298, 100.0]),
    ],
)
def test_spacing_of_depths(spacing: Spacing, expected: list[float]) -> None:
    assert depths(0, 100, 9, spacing) == expected
    chosen = task("needle_haystack", options=["num_depths=9", f"spacing={spacing}", "lengths_s=[60]"])
    assert isinstance(chosen, NeedleHaystack)
    assert [cell.depth_percent for cell in chosen.cells()] == expected


@pytest.mark.parametrize("options", ["lengths_s=[0]", "depths_percent=[50, 101]", "depths_percent=[-1]"])
def test_grid_out_of_range(options: str, sample: Samples) -> None:
    with pytest.raises(UserError, match=options.partition("=")[0]):
        list(task("needle_haystack", options=[options]).rows(sample("needle_haystack").data))


def test_needle_and_footage_are_found(sample: Samples, tmp_path: Path) -> None:
    data = sample("needle_haystack").data
    text = task("needle_haystack", options=["modality=text", "lengths_s=[6]", "num_depths=2"])
    rows = list(text.rows(data))
    assert rows[0].answer == "\nA young man is sitting on a piece of cloud in the sky, reading a book.\n"
    assert [row.id for row in rows] == ["modality_text_len_6_depth_0", "modality_text_len_6_depth_10000"]
    (tmp_path / "haystack/ego").mkdir(parents=True)
    with pytest.raises(UserError, match=r"haystack/ego has no \.mp4 files"):
        list(text.rows(tmp_path))
    with pytest.raises(UserError, match=r"has no FreeSans\.ttf"):
        list(task("needle_haystack", options=["modality=text", "font=FreeSans.ttf"]).rows(data))
    with pytest.raises(UserError, match=r"has no haystack/readingsky\.mp4"):
        list(task("needle_haystack").rows(tmp_path))


def test_pivot_and_heat_map(tmp_path: Path) -> None:
    cells = [(30.0, 0.0, 10.0), (30.0, 0.0, 5.0), (30.0, 100.0, 1.0), (60.0, 0.0, 7.0)]
    table = heat_map.pivot(cells)
    assert (table.lengths_s, table.depths) == ([30.0, 60.0], [0.0, 100.0])
    np.testing.assert_array_equal(table.scores_DL, [[7.5, 7.0], [1.0, np.nan]])
    path = heat_map.draw(table, tmp_path / "maps" / "map.png", title="a map")
    picture = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    colours = {tuple(colour) for colour in np.unique(picture, axis=0).tolist()}
    # The worst score and the cell without one have their own colours.
    assert picture.shape[0] == 1260 * 576 and {(0xF0, 0x49, 0x6E), (0xD0, 0xD0, 0xD0)} <= colours


def scored_rows(chosen: NeedleHaystack | SyntheticNeedleGrid, data: Path, score: float) -> list[tuple[Row, Judged]]:
    return [(row, Judged("scored", "a star", score)) for row in chosen.rows(data)]


def test_plots_of_the_tasks(sample: Samples, tmp_path: Path) -> None:
    for name, file in (("needle_haystack", "niavh_video.png"), ("needle_grid", "needle_grid_colour.png")):
        written = sample(name)
        chosen = task(name, options=written.options)
        assert isinstance(chosen, NeedleHaystack | SyntheticNeedleGrid)
        assert chosen.plots(scored_rows(chosen, written.data, 1.0), tmp_path) == [tmp_path / file]
        assert (tmp_path / file).stat().st_size > 5000
        assert chosen.plots([(row, Judged("judge_failed")) for row in chosen.rows(written.data)], tmp_path) == []


def test_unread_replies_count_as_not_right_and_failures_not_at_all(
    sample: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = sample("needle_grid")
    chosen = task("needle_grid", options=written.options)
    row, *others = chosen.rows(written.data)
    outcomes = [
        Outcome(row, "scored", "", score=1.0),
        Outcome(row, "unparsed", ""),
        Outcome(row, "failed", "", cause="Missing"),
        *(Outcome(other, "failed", "", cause="Missing") for other in others),
    ]
    drawn: list[heat_map.Pivot] = []
    real = heat_map.draw

    def draw(table: heat_map.Pivot, path: Path, **settings: Any) -> Path:
        drawn.append(table)
        return real(table, path, **settings)

    monkeypatch.setattr(heat_map, "draw", draw)
    assert list(pictures_of(chosen, outcomes)) == ["needle_grid_colour.png"]
    np.testing.assert_array_equal(drawn[0].scores_DL, [[0.5]])
    assert pictures_of(chosen, outcomes[2:]) == {}


def test_published_result_files(sample: Samples) -> None:
    written = sample("needle_haystack")
    chosen = task("needle_haystack", options=written.options)
    scored = [(row, "a star", Judged("scored", "a star", 10.0)) for row in chosen.rows(written.data)]
    ((name, data),) = chosen.published_results("Toy-1.5", scored).items()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert name == "niavh_results.zip" and archive.namelist() == [
            f"results/Toy-1_5/Toy-1_5_modality_video_len_6_depth_{depth}_results.json"
            for depth in (0, 2500, 5000, 7500, 10000)
        ]
        content = json.loads(archive.read(archive.namelist()[0]))
    assert (content["score"], content["context_length"], content["model"]) == (10, 6, "Toy-1.5")


def test_synthetic_grid_hides_the_needle_at_its_depth(sample: Samples, made: Path) -> None:
    from pipelines.corpus.needle import COLOURS

    written = sample("needle_grid")
    chosen = task("needle_grid", options=written.options)
    rows = list(chosen.rows(written.data))
    assert len({row.cluster for row in rows}) == 1
    for row in rows:
        colour = row.options["ABCD".index(str(row.answer))]
        video = decode_frames(str(chosen.shown(row, made).video), EVERY)
        near = np.abs(video.frames.astype(int) - COLOURS[colour]).max(axis=3) < 60
        seen_s = np.flatnonzero(near.mean(axis=(1, 2)) > 0.04) / video.summary.fps
        start_s = row.details["depth_percent"] / 100 * (30 - 2)
        assert 0 <= seen_s.min() - start_s <= 0.25 and 1.5 <= seen_s.max() - start_s <= 2


def test_cells_of_the_synthetic_grid_have_the_same_needles() -> None:
    options = ["lengths_s=[30, 60]", "num_depths=3", "repeats=6"]
    rows = list(task("needle_grid", options=options).rows(Path(".")))
    cells: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        needle = row.details["plan"].needle
        cells.setdefault(row.id.rpartition("_")[0], []).append((needle.colour, needle.shape))
    assert len(cells) == 6 and len({tuple(found) for found in cells.values()}) == 1
    assert len(set(next(iter(cells.values())))) == 6


def test_synthetic_grid_asks_as_its_model_was_taught() -> None:
    options = ["lengths_s=[30]", "num_depths=2", "repeats=2", "colours=[red, green, blue, yellow, orange]"]
    rows = list(task("needle_grid", "text", options).rows(Path(".")))
    chosen = task("needle_grid", "text", options)
    assert {row.options for row in rows} == {("red", "green", "blue", "yellow", "orange")}
    assert chosen.prompt(rows[0]) == "What colour is the shape that appears briefly?"
    assert [chosen.score(rows[0], colour).score for colour in rows[0].options].count(1.0) == 1


def test_grid_too_short_for_its_needle() -> None:
    with pytest.raises(UserError, match="lengths_s=10: seconds=10"):
        list(task("needle_grid", options=["lengths_s=[10]"]).rows(Path(".")))
