"""A training run that takes a second or two: short texts and a short video, the tiny model."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mlflow.tracking import MlflowClient
from safetensors.torch import load_file
from torch import Tensor

from pipelines import storage
from pipelines.tracking import tracking_uri
from pipelines.train import checkpoint
from pipelines.train.config import TrainConfig
from pipelines.train.loop import Outcome, train
from pipelines.train.materials import Materials, make_materials
from pipelines.train.run import Run, prepare
from pipelines.train.world import World
from tests.pipelines.mlflow_database import write_database

COLOURS = ("red", "green", "blue", "yellow")
STEPS = 24


def write_rows(folder: Path) -> tuple[Path, Path]:
    """Annotations of 24 samples to learn, every sixth with a video, and of 4 held out."""

    def row(number: int) -> dict[str, Any]:
        medium = {"video": "short.mp4"} if number % 6 == 5 else {}
        question = f"{'<video>' if medium else ''}What colour is number {number}?"
        answer = f"The colour is {COLOURS[number % 4]}."
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        return {"id": number, "conversations": turns, **medium}

    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "rows.json", folder / "heldout.json"
    for path, numbers in zip(paths, (range(24), range(30, 34)), strict=True):
        path.write_text(json.dumps([row(number) for number in numbers]))
    return paths


def make_config(folder: Path, media: Path, store: str, **changes: Any) -> TrainConfig:
    """Two epochs of twelve steps; a kill costs at most four."""
    rows, heldout = write_rows(folder)
    write_database(folder)
    values: dict[str, Any] = {
        "output": str(folder),
        "workdir": str(folder),
        "data": {"annotations": str(rows), "heldout": str(heldout), "media_root": str(media), "store": store},
        "stage": {
            "learning_rate": 1e-3,
            "global_batch_samples": 2,
            "epochs": 2,
            "max_sequence_length": 1024,
        },
        "token_budget": 1024,
        "workers": {"threads": 1, "restarts": 8},
        "checkpoint": {"every_steps": 4},
        "evaluation": {"every_steps": 10},
        "audit": str(folder / "audit"),
    }
    return TrainConfig.model_validate({**values, **changes})


def begin(config: TrainConfig, model: Path) -> Materials:
    return make_materials(prepare(config, model).run, torch.device("cpu"))


def run_here(config: TrainConfig, model: Path, stop_at: int | None = None) -> Outcome:
    """Train in this process, without Ray; ask it to stop in the ``stop_at``-th step of this start."""
    return train(begin(config, model), World(), stop_after(stop_at))


def stop_after(steps: int | None) -> Callable[[], str]:
    asked = 0

    def notice() -> str:
        nonlocal asked
        asked += 1
        return "stop" if asked == steps else ""

    return notice


@dataclass(frozen=True)
class Account:
    """What a run came to.

    Args:
        losses: of each step, as MLflow has them: a list for each step, of one value if all is well.
        samples: of each epoch, how often each was learned in the steps that count.
        weights: and moments, of the last checkpoint, whole.
        lost: for each start but the first, steps that the one before had done in vain.
        runs: MLflow runs.
    """

    losses: dict[int, list[float]]
    samples: dict[int, Counter[int]]
    weights: dict[str, Tensor]
    lost: list[int]
    runs: int


def account(run: Run) -> Account:
    return account_of(run.config)


def account_of(config: TrainConfig) -> Account:
    """What the runs of a configuration came to; its workdir holds no other run."""
    workdir = Path(config.workdir)
    client = MlflowClient(tracking_uri=tracking_uri(workdir))
    runs = [one for e in client.search_experiments() for one in client.search_runs([e.experiment_id])]
    losses: dict[int, list[float]] = {}
    for metric in client.get_metric_history(runs[0].info.run_id, "loss"):
        losses.setdefault(metric.step, []).append(metric.value)
    starts = read_audit(Path(str(config.audit)))
    final = {(line["cursor"], rank): line for lines in starts for rank, line in lines}
    samples: dict[int, Counter[int]] = {}
    for line in final.values():
        samples.setdefault(line["epoch"], Counter()).update(line["samples"])
    lost = [
        max(line["cursor"] for _, line in before) + 1 - min(line["cursor"] for _, line in after)
        for before, after in itertools.pairwise(starts)
    ]
    newest = checkpoint.finished(storage.join(config.run_uri, "checkpoints"))[0]
    return Account(losses, samples, weights(newest), lost, len(runs))


def read_audit(folder: Path) -> list[list[tuple[int, dict[str, Any]]]]:
    """(rank, line) of every start that did a step, in their order."""
    starts: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for path in folder.glob("*.jsonl"):
        start, rank = path.stem.split("-")
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        starts.setdefault(start, []).extend((int(rank), line) for line in lines)
    done = [lines for lines in starts.values() if lines]
    return sorted(done, key=lambda lines: min(line["time_s"] for _, line in lines))


def weights(found: checkpoint.Checkpoint) -> dict[str, Tensor]:
    """Tensors of a checkpoint by "<kind>/<name>", whatever the number of shards."""
    pieces: dict[str, list[tuple[int, Tensor]]] = {}
    for shard in found.shards:
        for key, tensor in load_file(storage.local_path(storage.join(found.uri, shard.name))).items():
            kind, start, name = key.split("/", 2)
            pieces.setdefault(f"{kind}/{name}", []).append((int(start), tensor))
    return {name: torch.cat([tensor for _, tensor in sorted(parts, key=first)]) for name, parts in pieces.items()}


def first(pair: tuple[int, Tensor]) -> int:
    return pair[0]
