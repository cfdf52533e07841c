"""samples + features -> checkpoints: ``longvu train --config YAML``, or ``python -m jobs.train``.

Run the same command again at any time: it continues at the last checkpoint, with any number of workers.
Exit codes: 0 done, 2 a mistake in the command or its data, 4 training halted itself; 130 Ctrl-C, 143 SIGTERM, and
saved unless it says otherwise.

    longvu train    ...          train
    longvu plan     ...          samples, steps and balance; nothing is trained
    longvu estimate ... --gpus N memory, FLOPs, I/O and cost on N GPUs, without one
    longvu export   CHECKPOINT DESTINATION   weights of a checkpoint, in our layout or the published one
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.cli import COUNT, FOLDER, Parser
from jobs.settings import SettingsParser
from jobs.terminal import quiet_libraries
from pipelines import storage
from pipelines.config import load_config
from pipelines.errors import INTERRUPTED_EXIT, TERMINATED_EXIT, UserError, run_cli
from pipelines.train.config import TrainConfig

if TYPE_CHECKING:
    from pipelines.train.loop import Outcome
    from pipelines.train.run import Prepared, Run

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "train_tiny_video.yaml"
_PRELOAD = "pipelines.train.preload"
COMMANDS = ("train", "plan", "estimate", "export")


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m jobs.train [train|plan|estimate|export] ...``; without a command, train."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = words.pop(0) if words and words[0] in COMMANDS else "train"
    return {"train": train_main, "plan": plan_main, "estimate": estimate_main, "export": export_main}[command](words)


def train_main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``longvu train``."""
    return run_cli(_train, argv)


def plan_main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``longvu plan``."""
    return run_cli(_plan, argv)


def estimate_main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``longvu estimate``."""
    return run_cli(_estimate, argv)


def export_main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``longvu export``."""
    return run_cli(_export, argv)


def _train(argv: Sequence[str]) -> int:
    parser = _parser("train")
    parser.add_argument("--in-process", action="store_true", help="train in this process, the only worker, without Ray")
    options = parser.parse_args(argv)
    config = load_config(TrainConfig, options.config, options.overrides)
    if options.in_process:
        _check_in_process(config)
        outcome = _train_here(_prepare(config).run)
    else:
        from pipelines.ray_session import starting_ray
        from pipelines.train.worker import train_on_ray

        workers = config.workers
        with starting_ray(workers.count * workers.cpus + 1, _PRELOAD, workers.count) as ready:
            import_module(_PRELOAD)
            run = _prepare(config).run
            ready()
            outcome = train_on_ray(run)
    told = ", ".join(f"{name} {outcome.metrics[name]:.4g}" for name in _TOLD if name in outcome.metrics)
    print(f"{outcome.cursor} of {outcome.num_steps} steps" + (f": {told}" if told else ""))
    print(f"checkpoint: {outcome.checkpoint}")
    if outcome.mlflow:
        print(f"MLflow: {outcome.mlflow}")
    if outcome.notice:
        from pipelines.train.preemption import interrupted

        return INTERRUPTED_EXIT if interrupted() else TERMINATED_EXIT
    print(f"next: longvu export {outcome.checkpoint} MODEL")
    return 0


_TOLD = ("loss", "heldout/loss", "heldout/exact_match", "tokens_per_s", "data_stall_share")


def _check_in_process(config: TrainConfig) -> None:
    if config.engine.kind == "deepspeed":
        raise UserError("engine.kind=deepspeed needs workers: leave out --in-process, or set engine.kind=torch")
    if config.workers.gpus:
        import torch

        if not torch.cuda.is_available():
            raise UserError(f"workers.gpus={config.workers.gpus:g}: torch finds no GPU here")


def _train_here(run: Run) -> Outcome:
    import torch

    from pipelines.train import preemption
    from pipelines.train.loop import train
    from pipelines.train.materials import make_materials
    from pipelines.train.world import World

    preemption.listen()
    device = torch.device("cuda" if run.config.workers.gpus else "cpu")
    with preemption.listening_to_ctrl_c():
        return train(make_materials(run, device), World(), lambda: "stop" if preemption.asked() else "")


def _plan(argv: Sequence[str]) -> int:
    options = _parser("plan").parse_args(argv)
    prepared = _prepare(load_config(TrainConfig, options.config, options.overrides))
    plan, config = prepared.plan, prepared.run.config
    first = plan.epoch(0)
    print(prepared.manifest.summary())
    if prepared.heldout is not None:
        print(f"held out: {prepared.heldout.summary()}")
    print(f"{plan.num_steps} steps, {len(first)} per epoch; {first.fill:.1%} of the token budget filled")
    workers = config.workers.count
    print(f"mean/max cost of {workers} workers: {first.balance(workers):.3f}; plan {plan.digest}")
    print(f"manifest: {storage.shown(prepared.manifest.uri)}")
    return 0


def _estimate(argv: Sequence[str]) -> int:
    parser = _parser("estimate")
    parser.add_argument("--gpus", type=COUNT, metavar="N", help="default: workers.count of the configuration")
    options = parser.parse_args(argv)
    prepared = _prepare(load_config(TrainConfig, options.config, options.overrides))
    from pipelines.train.estimate import estimate

    print(estimate(prepared, options.gpus or prepared.run.config.workers.count))
    return 0


def _export(argv: Sequence[str]) -> int:
    parser = Parser(prog="longvu export", description=_export.__doc__)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder or prefix of a finished checkpoint")
    parser.add_argument("destination", type=FOLDER, metavar="DESTINATION", help="new local folder")
    parser.add_argument("--layout", choices=("longvu", "published"), default="longvu", help="default: longvu")
    parser.add_argument("--average", action="store_true", help="the weights' average over steps (stage.ema_decay)")
    options = parser.parse_args(argv)
    quiet_libraries()
    from pipelines.train.export import export

    export(options.checkpoint, options.destination, options.layout, average=options.average)
    print(f"{options.destination}: {options.layout} layout")
    return 0


def _prepare(config: TrainConfig) -> Prepared:
    quiet_libraries()
    from pipelines.extract.towers import check_towers, model_folder
    from pipelines.store import FeatureStore
    from pipelines.train.run import prepare

    folder = model_folder(config.model, Path(config.workdir))
    if config.data.store:
        check_towers(FeatureStore.open(config.data.store), folder)
    return prepare(config, folder)


def _parser(command: str) -> SettingsParser:
    return SettingsParser(f"longvu {command}", __doc__, TrainConfig, DEFAULT_CONFIG)


if __name__ == "__main__":
    sys.exit(main())
