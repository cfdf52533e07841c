"""``longvu report FOLDER``: one HTML page about a run folder, with its pictures inside."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.cli import Parser
from pipelines.errors import run_cli


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``longvu report``."""
    return run_cli(run, argv)


def run(argv: Sequence[str]) -> int:
    """Write the page and say where it is; returns the exit code."""
    parser = Parser(prog="longvu report", description=__doc__)
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="store=, output= and workdir= of the jobs it is about"
    )
    options = parser.parse_args(argv)
    from pipelines.report import write_report

    print(write_report(options.folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
