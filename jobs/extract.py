"""videos -> feature store: ``longvu extract source=VIDEOS``, or ``python -m jobs.extract`` under ``ray job submit``.

Run the same command again at any time: it continues where it stopped, and takes seconds when nothing is left.
Exit codes: 0 done, 2 a mistake in the command, 3 more failed sources than ``max_failed_fraction`` allows, 4 stopped
because storage or the cluster gave out.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.cli import checked
from jobs.settings import SettingsParser
from jobs.terminal import quiet_libraries
from pipelines.config import load_config
from pipelines.errors import run_cli
from pipelines.extract.config import ExtractConfig
from pipelines.extract.estimate import estimate
from pipelines.extract.extraction import extract
from pipelines.extract.work import find_work

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "extract_tiny.yaml"


def build_parser() -> SettingsParser:
    parser = SettingsParser("longvu extract", __doc__, ExtractConfig, DEFAULT_CONFIG)
    parser.add_argument(
        "--retry-quarantined", action="store_true", help="also do what failed before, for example with new settings"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what the run would do, take and cost; nothing is written"
    )
    parser.add_argument(
        "--encode-frames-per-s", type=RATE, metavar="R", help="for --dry-run: of one encode actor; timed without it"
    )
    parser.add_argument(
        "--price-per-hour", type=PRICE, metavar="P", help="for --dry-run: price of the whole cluster, in any currency"
    )
    return parser


RATE = checked(float, lambda value: value > 0, "a number of frames per second above 0")
PRICE = checked(float, lambda value: value >= 0, "a price from 0 on")


def run(argv: Sequence[str]) -> int:
    """Parse, extract, print; returns the exit code."""
    options = build_parser().parse_args(argv)
    config = load_config(ExtractConfig, options.config, options.overrides)
    work = find_work(config, retry_quarantined=options.retry_quarantined)
    if not work.nothing_left:
        quiet_libraries()
    if options.dry_run:
        predicted = estimate(
            config, work, encode_frames_per_s=options.encode_frames_per_s, price_per_hour=options.price_per_hour
        )
        predicted.print()
        return 0
    report = extract(config, work)
    report.print()
    return report.exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``longvu extract``."""
    return run_cli(run, argv)


if __name__ == "__main__":
    sys.exit(main())
