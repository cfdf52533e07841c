"""What all jobs share that are configured by a YAML file and by ``key=value`` words that win over it."""

from __future__ import annotations

import argparse
from pathlib import Path

from jobs.cli import Parser
from pipelines.config import Config, reference


class SettingsParser(Parser):
    """Takes ``--config`` and ``overrides``, and lists every setting with its default in its help.

    Args:
        default: the file when none is named.
    """

    def __init__(self, prog: str, description: str | None, settings: type[Config], default: Path | None = None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog="settings and their defaults:\n  " + "\n  ".join(reference(settings)),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        about = f"default: {default.name}" if default else "settings; none by default"
        self.add_argument("--config", type=Path, default=default, metavar="YAML", help=about)
        self.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the file's")
