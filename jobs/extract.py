"""videos -> feature store: ``python -m jobs.extract source=VIDEOS``, or under ``ray job submit``.

Run the same command again at any time: it continues where it stopped, and takes seconds when nothing is left.
Exit codes: 0 done, 2 a mistake in the command, 3 more failed sources than ``max_failed_fraction`` allows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.config import load_config, reference
from pipelines.errors import run_cli
from pipelines.extract.config import ExtractConfig

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "extract_tiny.yaml"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.extract",
        description=__doc__,
        epilog="settings:\n  " + "\n  ".join(reference(ExtractConfig)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="YAML", help=f"default {DEFAULT_CONFIG}")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the file's")
    return parser


def run(argv: Sequence[str]) -> int:
    """Parse, extract, print; returns the exit code."""
    options = build_parser().parse_args(argv)
    config = load_config(ExtractConfig, options.config, options.overrides)
    from pipelines.extract.extraction import extract

    report = extract(config)
    report.print()
    return report.exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``longvu extract``."""
    return run_cli(run, argv)


if __name__ == "__main__":
    sys.exit(main())
