"""``longvu lineage SUBJECT``: from anything that a job made back to every source, and forward to what uses it.

A subject is a run or model in MLflow (its id, or the first digits), the path or URI of a training run, a checkpoint, an
exported model, a store or an evaluation, the name of a served model, or the digest that its replies carry.
Exit codes: 0 the way back is complete, 1 a link is broken or a source has no digest, 2 nothing of that name is known.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from jobs.cli import Parser
from pipelines import storage
from pipelines.errors import run_cli
from pipelines.lineage import Node, dump, lineage

_SHOWN_SOURCES = 4
_DIGITS = 12


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``longvu lineage``."""
    return run_cli(_lineage, argv)


def _lineage(argv: Sequence[str]) -> int:
    parser = Parser(prog="longvu lineage", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", metavar="SUBJECT", help="run, checkpoint, model folder, store, or served model")
    parser.add_argument("--workdir", type=Path, default=Path("runs"), help="whose MLflow is asked (default: runs)")
    parser.add_argument("--sources", action="store_true", help=f"every source, not only the first {_SHOWN_SOURCES}")
    parser.add_argument("--json", action="store_true", help="everything as JSON")
    options = parser.parse_args(argv)
    found = lineage(options.subject, options.workdir)
    if options.json:
        print(dump(found))
    else:
        most = sys.maxsize if options.sources else _SHOWN_SOURCES
        print("\n".join(tree_lines(found.origin, most)))
        if found.uses:
            print("\nused by")
            for number, use in enumerate(found.uses, 1):
                print("\n".join(_branch(use, most, number == len(found.uses))))
        print(f"\n{len(found.source_digests)} sources with a digest; MLflow: {found.server}")
    for problem in found.problems:
        print(f"incomplete: {problem}", file=sys.stderr)
    return 1 if found.problems else 0


def tree_lines(node: Node, most_sources: int) -> Iterator[str]:
    """A node, its sources and what is behind it, a line each.

    Args:
        most_sources: sources shown of each node.
    """
    yield _title(node)
    leaves = [_source(row) for row in node.sources[:most_sources]]
    if (left := len(node.sources) - len(leaves)) > 0:
        leaves.append(f"... {left} more sources; --sources shows all")
    leaves += [f"!! {problem}" for problem in node.problems]
    for number, leaf in enumerate(leaves, 1):
        yield ("└─ " if number == len(leaves) and not node.links else "├─ ") + leaf
    for number, link in enumerate(node.links, 1):
        yield from _branch(link, most_sources, number == len(node.links))


def _branch(node: Node, most_sources: int, last: bool) -> Iterator[str]:
    first, *rest = tree_lines(node, most_sources)
    yield ("└─ " if last else "├─ ") + first
    yield from (("   " if last else "│  ") + line for line in rest)


def _title(node: Node) -> str:
    facts = dict(node.facts)
    words = [f"{node.why}:" if node.why else "", node.kind]
    if node.kind == "model":
        place = facts["checkpoint"]
        words += [node.name, node.id, storage.shown(place) if "://" in place else place]
        words.append(f"digest {facts['digest'][:_DIGITS]}" if facts["digest"] else "")
        words.append("" if facts["trained_here"] else "(not trained here)")
    elif "status" in facts:
        begun = datetime.datetime.fromtimestamp(facts["started_ms"] / 1000).strftime("%Y-%m-%d %H:%M")
        words += [f'"{node.name}"', f"run {node.id}", facts["status"].lower(), begun, facts.get("endpoint", "")]
    else:
        counts = ", ".join(f"{value} {name.removeprefix('num_')}" for name, value in facts.items() if name != "digest")
        words += [node.name, storage.shown(node.id), f"digest {facts['digest'][:_DIGITS]}", counts]
    return " ".join(filter(None, words))


def _source(row: dict[str, str | None]) -> str:
    shown = storage.shown(str(row["source"])) if "://" in str(row["source"]) else str(row["source"])
    status = "" if row["status"] == "ok" else f" ({row['status']})"
    return f"source {shown} sha256 {row['video_id'] or 'unknown'}{status}"


if __name__ == "__main__":
    sys.exit(main())
