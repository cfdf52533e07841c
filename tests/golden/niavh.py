"""Golden checks of the needle in a video haystack: grids, composition, prompts and results of ``grid.json``.

The vectors were made with stubs: a text is half its size times its characters wide, the footage is 540 pixels wide and
longer than every video, so each is cut from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.config import load_config
from pipelines.evaluate.tasks import heat_map
from pipelines.evaluate.tasks.base import Judged, Row
from pipelines.evaluate.tasks.needle_composition import FPS, NEEDLE_S, cell_file_name, composition, font_size
from pipelines.evaluate.tasks.needle_grid import Cell, result_name
from pipelines.evaluate.tasks.needle_haystack import NeedleHaystack, Options, model_prompt, published_result
from tests.golden.result import Comparison, Result

FRAME_WIDTH = 540
MODEL = "Toy-1.5"
_OPTIONS = {
    "context_lengths_min": "shortest_s",
    "context_lengths_max": "longest_s",
    "context_lengths_num_intervals": "num_lengths",
    "context_lengths": "lengths_s",
    "video_depth_percent_intervals": "num_depths",
    "video_depth_percents": "depths_percent",
    "needle_modality": "modality",
    "retrieval_question": "question",
    "needle_desc": "description",
    "needle": "needle",
}


def recognises(folder: Path) -> bool:
    """Whether the folder holds ``grid.json``."""
    return (folder / "grid.json").is_file()


def check(folder: Path) -> Iterator[Result]:
    """Every run of ``grid.json``."""
    for name, run in json.loads((folder / "grid.json").read_text()).items():
        comparison = Comparison(f"niavh/{name}")
        with comparison.running():
            _compare(comparison, run)
        yield comparison.result()


def task_of(arguments: dict[str, Any]) -> NeedleHaystack:
    """The task set up as the published command line was."""
    values = {_OPTIONS[key]: value for key, value in arguments.items() if key in _OPTIONS}
    # The published sigmoid spacing is the inverted one.
    if arguments.get("video_depth_percent_interval_type") == "sigmoid":
        values["spacing"] = "sigmoid_published"
    return NeedleHaystack("default", load_config(Options).changed(**values))


def _compare(comparison: Comparison, run: dict[str, Any]) -> None:
    task = task_of(run["args"])
    cells, options = task.cells(), task.options
    longest_s = max(cell.length_s for cell in cells)
    lengths = list(dict.fromkeys(cell.length_s for cell in cells))
    depths = list(dict.fromkeys(cell.depth_percent for cell in cells))
    insertions = [[cell.insertion_s for cell in cells if cell.length_s == length] for length in lengths]
    operations = [operation for cell in cells for operation in _operations(cell, options, longest_s)]
    comparison.exact("context_lengths", lengths, run["context_lengths"])
    comparison.exact("depth_percents", depths, run["depth_percents"])
    comparison.exact("insertion_points", insertions, run["insertion_points"])
    comparison.exact("num_cells", len(cells), run["num_cells"])
    comparison.exact("model_prompt", model_prompt(options.question), run["model_prompt"])
    comparison.exact("operations", operations[: len(run["operations"])], run["operations"])
    names = [result_name(MODEL, cell, options.modality) for cell in cells]
    files = [f"contexts/{_folder()}/{name}_context.txt" for name in names]
    files += [f"results/{_folder()}/{name}_results.json" for name in names]
    comparison.exact("files", sorted(files)[: len(run["files"])], run["files"])
    _compare_results(comparison, task, cells, run)


def _compare_results(comparison: Comparison, task: NeedleHaystack, cells: list[Cell], run: dict[str, Any]) -> None:
    needle = type("Needle", (), {"modality": task.options.modality, "source": task.options.needle})
    by_place = {(cell.length_s, cell.depth_percent): cell for cell in cells}
    scored = []
    for result in run["results"]:
        cell = by_place[result["context_length"], result["depth_percent"]]
        row = Row("", task.options.question, None, details={"cell": cell, "needle": needle})
        judged = Judged("scored", score=float(result["score"]))
        _, content = published_result(MODEL, row, result["model_response"], judged)
        comparison.exact(f"results/{result['file_name']}", content, result)
        scored.append((cell.length_s, cell.depth_percent, result["score"]))
    if run["pivot"] is not None:
        table = heat_map.pivot(scored)
        comparison.exact("pivot rows", table.depths, run["pivot"]["rows"])
        comparison.exact("pivot cols", table.lengths_s, run["pivot"]["cols"])
        comparison.floats("pivot values", table.scores_DL, run["pivot"]["values"])
        comparison.floats("mean_score", sum(score for *_, score in scored) / len(scored), run["mean_score"])


def _operations(cell: Cell, options: Options, longest_s: int) -> list[list[Any]]:
    """What the published driver would do for a cell, from our own plan of it."""
    plan = composition(cell, options.modality)
    footage = {"kind": "video", "path": f"{longest_s}.mp4"}
    layer: dict[str, Any] = {"kind": options.modality, "start": plan.start_s, "position": plan.position}
    if options.modality == "text":
        size = font_size(FRAME_WIDTH, 0.5 * len(options.needle) * 70)
        style = {"fontsize": size, "color": "white", "bg_color": "", "font": "FreeSans"}
        layer |= {"text": options.needle, "duration": NEEDLE_S, **style}
    else:
        layer |= {"path": options.needle} | ({"duration": NEEDLE_S} if options.modality == "image" else {})
    file = cell_file_name(cell, options.modality, longest_s)
    written = ["write", file, {"codec": "libx264", "fps": FPS, "logger": None}]
    return [["subclip", 0, plan.length_s], ["composite", [footage, layer]], written]


def _folder() -> str:
    return MODEL.replace(".", "_")
