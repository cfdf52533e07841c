"""From anything that a run made back to every source it comes from, and forward to what uses it.

All of it is read from MLflow: runs, models, datasets and the tables of sources that runs left there
(:mod:`pipelines.source_table`). A link that leads nowhere is kept in the tree as a problem, never left out.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines import storage
from pipelines.errors import UserError
from pipelines.provenance import Provenance
from pipelines.source_table import NAME, ROLE, read_sources
from pipelines.store.schema import FAILED
from pipelines.tracking import (
    LINK_TAG,
    MODEL_DIGEST_TAG,
    MODEL_TAG,
    DatasetInput,
    History,
    ModelRecord,
    RunRecord,
    read_artifact,
    read_history,
)

_SHORTEST_PREFIX = 6


@dataclass(frozen=True)
class Node:
    """A run, a model or data, and what it comes from (backward) or what uses it (forward).

    Args:
        kind: a run's stage, model, store, or the role of a dataset.
        name: for people.
        id: of the run or model in MLflow; the URI of data.
        why: what the node below it in the tree has to do with it, such as "init".
        facts: status, digests, counts.
        sources: rows of ``sources.parquet`` of this run.
        problems: links that lead nowhere, and sources without a digest.
        links: the next nodes.
    """

    kind: str
    name: str
    id: str
    why: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    sources: tuple[dict[str, str | None], ...] = ()
    problems: tuple[str, ...] = ()
    links: tuple[Node, ...] = ()

    def walk(self) -> Iterator[Node]:
        """This node and all behind it."""
        yield self
        for link in self.links:
            yield from link.walk()

    def as_json(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("kind", "name", "id", "why", "facts", "sources", "problems")}
        return own | {"links": [link.as_json() for link in self.links]}


@dataclass(frozen=True)
class Lineage:
    """Where something comes from and what uses it.

    Args:
        server: MLflow's URI.
        origin: the thing itself; its links lead back to the sources.
        uses: what was made from it; their links lead forward.
    """

    server: str
    origin: Node
    uses: tuple[Node, ...]

    @property
    def problems(self) -> list[str]:
        """What keeps the way back from being complete."""
        return list(dict.fromkeys(problem for node in self.origin.walk() for problem in node.problems))

    @property
    def source_digests(self) -> dict[str, str]:
        """SHA-256 of every source that anything on the way back read, by URI."""
        rows = [row for node in self.origin.walk() for row in node.sources]
        return {str(row["source"]): row["video_id"] for row in rows if row["video_id"]}

    def as_json(self) -> dict[str, Any]:
        return {
            "server": self.server,
            "complete": not self.problems,
            "problems": self.problems,
            "source_digests": self.source_digests,
            "origin": self.origin.as_json(),
            "uses": [use.as_json() for use in self.uses],
        }


def lineage(subject: str, workdir: Path) -> Lineage:
    """The lineage of a run, checkpoint, model folder, store, or served model.

    Args:
        subject: id of a run or LoggedModel or its beginning; the digest that a served model's replies carry; path or
            URI of a training run, checkpoint, exported model, store or evaluation; or the name of a served model.

    Raises:
        UserError: the server cannot be reached, or knows nothing of this.
    """
    history = read_history(workdir)
    found = _find(subject, history)
    graph = _Graph(history, workdir)
    if isinstance(found, RunRecord):
        return Lineage(history.uri, graph.run(found), graph.uses_of_run(found))
    return Lineage(history.uri, graph.model(found), graph.uses_of_model(found))


def _find(subject: str, history: History) -> RunRecord | ModelRecord:
    if not history.runs:
        raise UserError(f"{history.uri} has no runs: give --workdir, or set MLFLOW_TRACKING_URI to the server that has")
    for found in (_by_id(subject, history), _by_digest(subject, history), _by_place(subject, history)):
        if found is not None:
            return found
    served = [run for run in history.runs.values() if run.stage == "serve" and subject in run.tagged(MODEL_TAG)]
    if served:
        return served[0]
    raise UserError(
        f"{subject}: {history.uri} knows no run, checkpoint, store or served model of that name; give an id from "
        f"MLflow's list, or the folder that the job printed, or name another server by --workdir or MLFLOW_TRACKING_URI"
    )


def _by_id(subject: str, history: History) -> RunRecord | ModelRecord | None:
    known: dict[str, RunRecord | ModelRecord] = {**history.runs, **history.models}
    if subject in known or len(subject) < _SHORTEST_PREFIX:
        return known.get(subject)
    begin = [known_id for known_id in known if known_id.startswith(subject)]
    if len(begin) > 1:
        raise UserError(f"{subject}: {len(begin)} runs or models begin so; give more of the id")
    return known[begin[0]] if begin else None


def _by_digest(subject: str, history: History) -> ModelRecord | None:
    """A model by the digest of its content, whole or in the part that replies carry."""
    if len(subject) < _SHORTEST_PREFIX:
        return None
    for run in history.runs.values():
        for role, digest in run.tagged(MODEL_DIGEST_TAG).items():
            if digest.startswith(subject):
                return history.models.get(run.tags[MODEL_TAG + role])
    return None


def _by_place(subject: str, history: History) -> RunRecord | ModelRecord | None:
    try:
        uri = storage.resolve(subject)
    except ValueError:
        return None
    origin = Provenance.read(storage.local_path(uri)) if storage.is_local(uri) else None
    checkpoint = origin.checkpoint if origin else uri
    models = [model for model in history.models.values() if model.checkpoint == checkpoint]
    if models:  # the one that training made, where training made it
        return max(models, key=lambda model: model.run_id is not None)
    if origin is not None:
        raise UserError(
            f"{subject} was exported from {storage.shown(origin.checkpoint)} of run {origin.mlflow_run}, which "
            f"{history.uri} does not know: name that server by --workdir or MLFLOW_TRACKING_URI"
        )
    return next((run for run in history.runs.values() if run.output == uri), None)


class _Graph:
    """The records as a graph."""

    def __init__(self, history: History, workdir: Path):
        self._history, self._workdir = history, workdir
        self._stores = {run.output: run for run in history.runs.values() if run.stage == "extract"}
        self._sources = functools.cache(self._read_sources)

    def run(self, run: RunRecord, why: str = "") -> Node:
        """A run and all that it comes from."""
        problems: list[str] = []
        links: list[Node] = []
        for role, model_id in run.tagged(MODEL_TAG).items():
            if model_id in self._history.models:
                links.append(self.model(self._history.models[model_id], role))
            else:
                problems.append(f"{run.name} uses model {model_id} ({role}), which was deleted from MLflow")
        for stage, run_id in run.tagged(LINK_TAG).items():
            if run_id not in self._history.runs:
                problems.append(f"{run.name} builds on {stage} run {run_id}, which {self._history.uri} does not know")
        links += [self._data(one, run, problems) for one in run.inputs if one.role != ROLE]
        sources = self._sources(run.run_id)
        if sources is None and run.stage in ("extract", "train"):
            problems.append(f"{run.name} ({run.run_id}, {run.status}) left no {NAME}: run the same command again")
        problems += self._unaccounted(run, sources or (), links)
        return Node(run.stage, run.name, run.run_id, why, _facts(run), sources or (), tuple(problems), tuple(links))

    def model(self, model: ModelRecord, why: str = "") -> Node:
        """A model and the training that it comes from, if it was trained here."""
        problems: tuple[str, ...] = ()
        links: tuple[Node, ...] = ()
        if model.run_id is not None and model.run_id in self._history.runs:
            links = (self.run(self._history.runs[model.run_id], "trained by"),)
        elif model.run_id is not None:
            problems = (f"{model.name} was trained by run {model.run_id}, which was deleted from MLflow",)
        facts = {"checkpoint": model.checkpoint, "digest": model.digest, "trained_here": model.run_id is not None}
        return Node("model", model.name, model.model_id, why, facts, problems=problems, links=links)

    def uses_of_model(self, model: ModelRecord) -> tuple[Node, ...]:
        """Runs that use a model, and what uses these."""
        found = []
        for run in self._history.runs.values():
            roles = [role for role, model_id in run.tagged(MODEL_TAG).items() if model_id == model.model_id]
            if roles:
                found.append(self._use(run, ", ".join(roles)))
        return tuple(found)

    def uses_of_run(self, run: RunRecord) -> tuple[Node, ...]:
        """What uses what a run made: models of a training, the store of an extraction."""
        uses = []
        for model in self._history.models.values():
            links = self.uses_of_model(model) if model.run_id == run.run_id else ()
            if links:
                uses.append(Node("model", model.name, model.model_id, "made", links=links))
        if run.stage == "extract":
            readers = [
                other
                for other in self._history.runs.values()
                if any((one.role, one.uri) == ("store", run.output) for one in other.inputs)
            ]
            uses += [self._use(other, "store") for other in readers]
        return tuple(uses)

    def _use(self, run: RunRecord, why: str) -> Node:
        return Node(run.stage, run.name, run.run_id, why, _facts(run), links=self.uses_of_run(run))

    def _data(self, data: DatasetInput, run: RunRecord, problems: list[str]) -> Node:
        facts = {"digest": data.digest, **data.facts}
        links: tuple[Node, ...] = ()
        if data.role == "store":
            if data.uri in self._stores:
                links = (self.run(self._stores[data.uri], "extracted by"),)
            else:
                problems.append(
                    f"{run.name} reads the store {storage.shown(data.uri)}, and {self._history.uri} knows "
                    f"no extraction that made it"
                )
        return Node(data.role, data.name, data.uri, "", facts, links=links)

    def _unaccounted(
        self, run: RunRecord, sources: Sequence[dict[str, str | None]], links: Sequence[Node]
    ) -> Iterator[str]:
        """Sources that the chain does not lead back to."""
        unknown = [row["source"] for row in sources if row["video_id"] is None and row["status"] != FAILED]
        if unknown:
            yield (
                f"{run.name} decoded {len(unknown)} sources past any store, whose content was never hashed: "
                f"{unknown[0]}{' and others' if len(unknown) > 1 else ''}; extract them to have their digests"
            )
        stored = {row["video_id"] for link in links if link.kind == "store" for row in _all_sources(link)}
        if run.stage == "train" and stored:
            lost = [row["source"] for row in sources if row["video_id"] and row["video_id"] not in stored]
            if lost:
                yield f"{run.name} learned from {lost[0]}, which the extraction of its store does not list"

    def _read_sources(self, run_id: str) -> tuple[dict[str, str | None], ...] | None:
        data = read_artifact(self._workdir, run_id, NAME)
        table: pa.Table | None = None if data is None else read_sources(data)
        return None if table is None else tuple(table.to_pylist())


def _all_sources(node: Node) -> Iterator[dict[str, str | None]]:
    for one in node.walk():
        yield from one.sources


def _facts(run: RunRecord) -> dict[str, Any]:
    facts: dict[str, Any] = {"status": run.status, "output": run.output, "started_ms": run.started_ms}
    endpoint = run.tags.get("longvu.endpoint")
    return facts | ({"endpoint": endpoint} if endpoint else {})


def dump(found: Lineage) -> str:
    """As JSON text."""
    return json.dumps(found.as_json(), indent=1, ensure_ascii=False)
