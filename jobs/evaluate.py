"""checkpoint or endpoint + benchmark -> scores: ``longvu eval task=NAME data=FOLDER``, or ``python -m jobs.evaluate``.

Run the same command again at any time: what is answered is not asked again, and a finished run takes seconds.
Exit codes: 0 done, 2 a mistake in the command or its data, 3 more failed questions than ``max_failed_fraction`` allows,
4 stopped because an endpoint, storage or the cluster gave out.

    longvu eval task=egoschema data=EGOSCHEMA model=CHECKPOINT
    longvu eval task=video_mme data=VIDEO_MME endpoint=http://host:8000/v1 model=NAME
    longvu eval --tasks         which benchmarks there are, and how their files must lie
    longvu compare RUN RUN      two runs, question by question; a run is its folder or its MLflow id
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.cli import Parser
from jobs.settings import SettingsParser
from jobs.terminal import quiet_libraries
from pipelines.config import load_config, reference
from pipelines.errors import UserError, run_cli
from pipelines.evaluate.config import EvaluateConfig

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "eval_tiny.yaml"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``longvu eval`` and of ``python -m jobs.evaluate``."""
    return run_cli(_evaluate, argv)


def compare_main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``longvu compare``."""
    return run_cli(_compare, argv)


def _evaluate(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    if options.tasks:
        print_tasks()
        return 0
    from pipelines.evaluate.evaluation import evaluate
    from pipelines.evaluate.preparation import prepare
    from pipelines.evaluate.report import print_evaluation

    config = load_config(EvaluateConfig, options.config, options.overrides)
    folder = _model_folder(config)
    done = evaluate(
        prepare(config, folder), in_process=options.in_process, before_asking=lambda: _check_store(config, folder)
    )
    print_evaluation(done)
    return done.exit_code


def _compare(argv: Sequence[str]) -> int:
    parser = Parser(prog="longvu compare", description="Two evaluations, question by question.")
    for name in ("first", "second"):
        parser.add_argument(name, metavar="RUN", help="folder or prefix of a finished evaluation, or its MLflow run id")
    parser.add_argument("--workdir", type=Path, default=Path("runs"), help="whose MLflow knows the ids (default: runs)")
    parser.add_argument("--json", action="store_true", help="everything as JSON")
    options = parser.parse_args(argv)
    from pipelines.evaluate.compare import compare, find_run, print_comparison

    done = compare(*(find_run(place, options.workdir) for place in (options.first, options.second)))
    if options.json:
        print(json.dumps(done.as_json(), indent=1, ensure_ascii=False))
    else:
        print_comparison(done)
    return 0


def print_tasks() -> None:
    """Benchmarks with their presets, options and files."""
    from pipelines.evaluate.tasks.registry import task_class, task_names

    for name in task_names():
        task = task_class(name)
        print(f"{name}: {task.about}")
        for preset, chosen in task.presets.items():
            print(f"  preset={preset}  {chosen.about}")
        for line in reference(task.Options, "options."):
            print(f"  {line}")
        print("  " + task.where_from().replace("\n", "\n  ") + "\n")


def _model_folder(config: EvaluateConfig) -> Path | None:
    """None with an endpoint."""
    if config.endpoint is not None:
        if config.model == "tiny":
            raise UserError(f"endpoint={config.endpoint}: also give model=, the model's name there")
        return None
    from pipelines.extract.towers import existing_folder, model_folder

    folder = existing_folder(config.model, Path(config.workdir))
    if folder is None:
        quiet_libraries()
        folder = model_folder(config.model, Path(config.workdir))
    return folder


def _check_store(config: EvaluateConfig, folder: Path | None) -> None:
    """Libraries that take seconds to import are needed only where something is asked."""
    quiet_libraries()
    if config.store is not None and folder is not None:
        from pipelines.extract.towers import check_towers
        from pipelines.store import FeatureStore

        check_towers(FeatureStore.open(config.store), folder)


def _parser() -> SettingsParser:
    parser = SettingsParser("longvu eval", __doc__, EvaluateConfig, DEFAULT_CONFIG)
    parser.add_argument("--tasks", action="store_true", help="list the benchmarks and how their files must lie")
    parser.add_argument("--in-process", action="store_true", help="answer in this process, without Ray")
    return parser


if __name__ == "__main__":
    sys.exit(main())
