"""The page itself: artifacts, figures and tables in one HTML file that needs nothing else."""

from __future__ import annotations

import datetime
import os
import platform
from importlib.resources import files
from pathlib import Path

from pipelines import storage
from pipelines.errors import UserError
from pipelines.report import figures, tables
from pipelines.report.artifacts import Artifacts, read_artifacts
from pipelines.report.film import read_film
from pipelines.tracking import tracking_uri

NAME = "report.html"
_MISSING = "This run folder does not have it (yet)."


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into a run folder, from whatever its stages left there.

    Returns:
        Its path.

    Raises:
        UserError: there is nothing to report, or MLflow's server cannot be reached.
    """
    found = read_artifacts(folder)
    if found.store is None and not found.trainings and not found.evaluations:
        raise UserError(f"{folder}: no feature store, training or evaluation here; give the folder that jobs wrote to")
    path = found.folder / NAME
    partial = path.with_suffix(".partial")
    partial.write_text(render(found), encoding="utf-8")
    os.replace(partial, path)
    return path


def render(found: Artifacts) -> str:
    """The page as text."""
    from jinja2 import Environment, StrictUndefined

    film, scored, grid = read_film(found), found.scored, found.grid
    # The one that selects frames comes first, in its colour.
    scored.sort(key=lambda one: "uniform" in str(one.summary["frames"]))
    labels = [tables.label(one) for one in scored]
    chance = scored[0].chance if scored else None
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(
        files("pipelines.report").joinpath("page.html.jinja").read_text(encoding="utf-8")
    )
    return page.render(
        found=found,
        film=film,
        missing=_MISSING,
        similarity=figures.similarity_curve(film) if film else None,
        scored=scored,
        shares=[tables.share(one) for one in scored],
        labels=[text.replace("\n", " ") for text in labels],
        chance=chance,
        accuracy=figures.accuracy_bars(scored, labels, chance) if scored else None,
        heat=figures.heat_map(grid) if grid else None,
        grid=grid,
        losses=[(training, figures.loss_curve(training)) for training in found.trainings],
        latencies=tables.latencies(found),
        stages=tables.stage_rows(found),
        total=tables.total(found),
        mlflow=tracking_uri(found.folder),
        model=next((one.summary["model"]["folder"] for one in scored if one.summary["model"]["folder"]), None),
        store=storage.shown(found.store.uri) if found.store else None,
        machine=f"{os.cpu_count()} CPUs, {platform.system()} {platform.machine()}, Python {platform.python_version()}",
        today=datetime.datetime.now(datetime.UTC).strftime("%d %B %Y, %H:%M UTC"),
    )
