"""Several methods on the same videos: ``longvu compare-methods data=CORPUS models.LongVU=FOLDER models.Other=FOLDER``.

Evaluates each checkpoint, and one of them on evenly spread frames at the others' budgets; writes a table, a plot of
accuracy against visual tokens per video with error bars, and the numbers. What is evaluated is not asked again.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.settings import SettingsParser
from jobs.terminal import quiet_libraries
from pipelines.config import load_config
from pipelines.errors import run_cli
from pipelines.evaluate.methods import MethodsConfig, compare_methods, print_methods

if TYPE_CHECKING:
    from pipelines.evaluate.config import EvaluateConfig
    from pipelines.evaluate.results import Results


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``longvu compare-methods`` and of ``python -m jobs.methods``."""
    return run_cli(_compare, argv)


def _compare(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    config = load_config(MethodsConfig, options.config, options.overrides)
    quiet_libraries()
    from pipelines.extract.towers import model_folder

    families = {}
    for name, model in config.models.items():
        record = json.loads((model_folder(model, Path(config.workdir)) / "config.json").read_text())
        families[name] = record["model_type"]
    with contextlib.ExitStack() as stack:
        if not options.in_process:
            from pipelines.ray_session import ray_session

            stack.enter_context(ray_session(1))
        done = compare_methods(config, families, lambda chosen: evaluated(chosen, options.in_process))
    print_methods(done)
    return 0


def evaluated(config: EvaluateConfig, in_process: bool) -> Results:
    """The results of an evaluation, run now if it is not finished."""
    from pipelines.evaluate.evaluation import evaluate
    from pipelines.evaluate.preparation import prepare
    from pipelines.extract.towers import model_folder

    return evaluate(prepare(config, model_folder(config.model, Path(config.workdir))), in_process=in_process).results


def _parser() -> SettingsParser:
    parser = SettingsParser("longvu compare-methods", __doc__, MethodsConfig)
    parser.add_argument("--in-process", action="store_true", help="answer in this process, without Ray")
    return parser


if __name__ == "__main__":
    sys.exit(main())
