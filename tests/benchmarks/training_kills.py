"""Training on Ray that loses workers and drivers to SIGKILL at random moments: what it costs, and what it changes.

    python -m tests.benchmarks.training_kills [--kills 20] [--workers 2] [--seed 0]

A run of short texts is trained once undisturbed and once through the kills, a worker or the driver in turn. Prints for
each kill the seconds to the next optimiser step and the steps that had to be done again; in the end whether losses,
weights and moments, samples and the MLflow record are those of the undisturbed run. Exits with 1 if not.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import torch

from pipelines.config import load_config
from pipelines.train.config import TrainConfig
from tests.faults.training import start, train_through_kills, write_problem
from tests.pipelines.train.small_run import account_of

_INTERVAL = 4
_MOST_S = 15.0


def main() -> int:
    options = _arguments()
    samples = 60 * (options.kills + 4)  # what a killed driver leaves behind goes on for a second or two
    workers = {"workers": {"count": options.workers, "cpus": 0.75, "threads": 1, "restarts": options.kills + 5}}
    with tempfile.TemporaryDirectory(prefix="longvu-training-kills-") as name:
        folder = Path(name)
        expected_config = write_problem(folder / "undisturbed", samples, 2, **workers)
        with start(expected_config) as job:
            if job.wait(1200):
                print(job.stderr[-2000:], file=sys.stderr)
                return 1
        config = write_problem(folder / "killed", samples, 2, **workers)
        victims = [("worker", "driver")[number % 2] for number in range(options.kills)]
        kills, exit_codes = train_through_kills(config, victims, last=samples, seed=options.seed)
        found, expected = (account_of(load_config(TrainConfig, one)) for one in (config, expected_config))
    for kill in kills:
        print(f"{kill.victim:8} killed after step {kill.cursor:5}: {kill.lost:2} steps again, {kill.recovery_s:5.1f} s")
    same_weights = all(torch.equal(found.weights[name], expected.weights[name]) for name in expected.weights)
    recovery = [kill.recovery_s for kill in kills]
    facts = {
        f"losses of {samples} steps bit-identical": found.losses == expected.losses,
        "weights and moments bit-identical": same_weights,
        "every sample once per epoch": found.samples == {e: dict.fromkeys(range(samples), 1) for e in (0, 1)},
        "one MLflow run, each step once": found.runs == 1 and all(len(values) == 1 for values in found.losses.values()),
        f"work lost at most one interval ({_INTERVAL} steps)": max(kill.lost for kill in kills) <= _INTERVAL,
        "last command ended well": exit_codes[-1] == 0,
    }
    for fact, holds in facts.items():
        print(f"{'yes' if holds else 'NO ':3} {fact}")
    print(
        f"kill to next step, {len(kills)} kills, {options.workers} workers: "
        f"median {statistics.median(recovery):.1f} s, longest {max(recovery):.1f} s (floor {_MOST_S:g} s)"
    )
    return 0 if all(facts.values()) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.training_kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="SIGKILLs (default 20, about 6 minutes)")
    parser.add_argument("--workers", type=int, default=2, help="workers (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
