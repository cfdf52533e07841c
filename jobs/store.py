"""``longvu store``: look at feature stores, check them and keep them small.

Exit codes: 0 done, 1 problems found (verify, compact), 2 a mistake in the command.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.cli import Parser, checked
from pipelines import storage
from pipelines.errors import UserError, run_cli
from pipelines.extract.plan import read_plan
from pipelines.store import FeatureStore, StoreError, compact, sweep
from pipelines.store.manifest import FILE_NAME
from pipelines.store.stats import StoreStats
from pipelines.store.videos import MERGED, PER_FRAME
from pipelines.store.writer import GRACE_S
from pipelines.tables import print_table

PROBLEMS_EXIT = 1

HOURS = checked(float, lambda value: value >= 0, "a number of hours from 0 on")


def build_parser() -> Parser:
    parser = Parser(
        prog="longvu store",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, summary: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary, description=summary)
        if name != "ls":
            added.add_argument("store", metavar="STORE", help="folder or s3:// prefix that extract printed")
        return added

    ls = command("ls", "the stores under a folder or s3:// prefix")
    ls.add_argument("root", metavar="ROOT", nargs="?", default="runs", help="default: runs")
    show = command("show", "what a store was made with and what it holds")
    show.add_argument("--video", metavar="ID", help="one video instead: the beginning of its id, or its source")
    verify = command("verify", "read every committed file and compare it with its commit")
    verify.add_argument("--deep", action="store_true", help="decode every feature and compare it with its digest, too")
    command("compact", "put the records of finished units into a few large files")
    swept = command("sweep", "list files that nothing names any more, and delete them with --yes")
    swept.add_argument("--yes", action="store_true", help="delete them")
    what = f"only files at least so old; with less than {GRACE_S / 3600:g} (default) nothing else may use the store"
    swept.add_argument("--grace-h", type=HOURS, default=GRACE_S / 3600, metavar="H", help=what)
    quarantine = command("quarantine", "the sources that failed, why, and how to try each by hand")
    quarantine.add_argument("--log", metavar="ID|SOURCE", help="the last lines that the decoder logged for one of them")
    quarantine.add_argument("--json", action="store_true", help="one JSON object per source")
    return parser


def run(argv: Sequence[str]) -> int:
    """Parse and do it; returns the exit code."""
    options = build_parser().parse_args(argv)
    return _COMMANDS[options.command](options)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``longvu store``."""
    return run_cli(run, argv)


def list_stores(options: argparse.Namespace) -> int:
    root = storage.resolve(options.root)
    places = (FILE_NAME, f"*/{FILE_NAME}", f"features/*/{FILE_NAME}")
    found = [item.uri.rpartition("/")[0] for place in places for item in storage.glob(storage.join(root, place))]
    if not found:
        raise UserError(f"{storage.shown(root)}: no feature store there; give the store=... of extract")
    header = ("store", "ok", "truncated", "failed", "frames", "with features", "size")
    print_table(header, [_summary(FeatureStore.open(uri)) for uri in sorted(found)], sys.stdout)
    return 0


def _summary(store: FeatureStore) -> tuple[str, ...]:
    stats = store.stats()
    counts = (*stats.statuses.values(), stats.sampled, stats.stored)
    return storage.shown(store.uri), *map(str, counts), _size(stats.frames_bytes + stats.videos_bytes)


def show(options: argparse.Namespace) -> int:
    store = FeatureStore.open(options.store)
    facts = _video(store, options.video) if options.video else _manifest(store) | _stats(store.stats())
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:{width}}  {value}")
    return 0


def _manifest(store: FeatureStore) -> dict[str, object]:
    manifest = store.manifest
    features = (f"{spec.name} {spec.tokens}x{spec.width} {spec.dtype}" for spec in manifest.features)
    stages = (f"{name} ({stage.call} {stage.version})" for name, stage in manifest.stages.items())
    return {
        "store": storage.shown(store.uri),
        "made by": f"longvu-ray {manifest.created_by}, model {manifest.model.get('name', '?')}",
        "sampling": manifest.config.get("sampling", "?"),
        "features": ", ".join(features) + (", thumbnails" if manifest.jpeg else ""),
        "kept below": f"{manifest.keep_threshold:g}; all of up to {manifest.keep_all_below} sampled frames are stored"
        if manifest.selects
        else "every sampled frame is stored",
        **({"stages": ", ".join(stages)} if manifest.stages else {}),
    }


def _stats(stats: StoreStats) -> dict[str, object]:
    causes = ", ".join(f"{name} {count}" for name, count in sorted(stats.errors.items()))
    seconds = ", ".join(f"{stage} {spent / 3600:.2f}" for stage, spent in stats.seconds.items())
    return {
        "sources": _counts(stats.statuses) + (f" ({causes})" if causes else ""),
        "video": f"{stats.video_s / 3600:.2f} h",
        "frames": f"sampled {stats.sampled}, kept {stats.kept}, with features {stats.stored}",
        "size": f"frames {_size(stats.frames_bytes)}, videos {_size(stats.videos_bytes)}",
        "units": f"{stats.units} by {stats.runs} runs; {stats.own_commits} not compacted, "
        f"the others in {stats.compactions} files",
        "busy hours": seconds,
    }


def _video(store: FeatureStore, wanted: str) -> dict[str, object]:
    row = _one(store, store.videos([name for name in MERGED.names if name not in PER_FRAME]), wanted)
    return {name: ", ".join(value) if isinstance(value, list) else value for name, value in row.items()}


def verify(options: argparse.Namespace) -> int:
    result = FeatureStore.open(options.store).verify(deep=options.deep)
    for problem in result.problems:
        print(problem)
    what = f"{len(result.problems)} problems" if result.problems else "all as committed"
    print(f"{result.files} files, {_size(result.size_bytes)}: {what}")
    return PROBLEMS_EXIT if result.problems else 0


def compact_store(options: argparse.Namespace) -> int:
    result = compact(FeatureStore.open(options.store).uri)
    for problem in result.problems:
        print(problem)
    print(f"compacted {result.units} units into {result.files} files")
    return PROBLEMS_EXIT if result.problems else 0


def sweep_store(options: argparse.Namespace) -> int:
    uri = FeatureStore.open(options.store).uri
    orphans = sweep(uri, grace_s=options.grace_h * 3600, delete=options.yes)
    for item in orphans:
        print(item.uri.removeprefix(f"{uri}/"))
    size = _size(sum(item.size_bytes for item in orphans))
    done = "deleted" if options.yes else "to delete; the same command with --yes does it"
    print(f"{len(orphans)} files, {size}" + (f": {done}" if orphans else ""))
    return 0


def quarantine(options: argparse.Namespace) -> int:
    store = FeatureStore.open(options.store)
    failed = store.quarantine()
    if options.log is not None:
        row = _one(store, failed, options.log)
        print(row["log_tail"] or f"nothing was logged; the error was: {row['message']}")
        return 0
    commands = reproductions(store, failed)
    rows = [row | {"probe": command} for row, command in zip(failed.to_pylist(), commands, strict=True)]
    if options.json:
        for row in rows:
            print(json.dumps(row))
        return 0
    header = ("cause", "attempts", "source", "message")
    cells = [(row["error"], str(row["attempts"] or 1), storage.shown(row["source"]), row["message"]) for row in rows]
    print_table(header, cells, sys.stdout)
    for row in rows:
        print(row["probe"])
    return 0


def reproductions(store: FeatureStore, failed: pa.Table) -> list[str]:
    """For each failed source the command that decodes again what failed: the source, or the part of it."""
    plan = read_plan(store.uri)
    plan = plan.filter(pc.is_in(plan["unit_id"], failed["units"].combine_chunks().flatten()))
    parts = {(row["unit_id"], row["source"]): row for row in plan.to_pylist()}
    config = store.manifest.config
    commands = []
    for row in failed.to_pylist():
        part = parts.get((row["units"][0], row["source"]), {})
        words = ["longvu", "probe", storage.shown(row["source"])]
        settings = {
            "sampling": config.get("sampling"),
            "backend": config.get("decode.backend"),
            "start-s": part.get("start_s"),
            "end-s": part.get("end_s"),
            "deadline-s": config.get("decode.deadline_s"),
        }
        words += [f"--{name}={value}" for name, value in settings.items() if value is not None]
        commands.append(shlex.join(words))
    return commands


def _one(store: FeatureStore, videos: pa.Table, wanted: str) -> dict[str, Any]:
    """The one row whose id begins so, or whose source this is."""
    source = storage.resolve(wanted) if "/" in wanted or "." in wanted else None
    rows = [row for row in videos.to_pylist() if row["source"] == source or (row["video_id"] or "").startswith(wanted)]
    if len({row["video_id"] for row in rows}) != 1:
        what = "there is none" if not rows else f"{len(rows)} of them"
        raise StoreError(f"{wanted}: {what} in {storage.shown(store.uri)}; give the source, or more of the id")
    return rows[0]


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _size(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "ls": list_stores,
    "show": show,
    "verify": verify,
    "compact": compact_store,
    "sweep": sweep_store,
    "quarantine": quarantine,
}


if __name__ == "__main__":
    sys.exit(main())
