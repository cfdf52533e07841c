"""Extraction that is killed with SIGKILL at random moments and resumed: rows lost, duplicated, changed.

    python -m tests.benchmarks.kills [--runs 20] [--s3] [--seed 0] [--victims driver raylet ...]

One undisturbed run is the reference. Every further run starts with an empty store, loses one process (the driver, a
decode, encode or commit actor, a decoding child, Ray's raylet or its GCS, in turn) after a random number of commits,
and is finished: after the death of an actor by itself, after that of the driver or the node by the same command given
again. With ``--s3`` sources and store are on a real S3 server (rclone). Exits with 1 when a row is wrong anywhere.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
from pathlib import Path

from jobs.extract import DEFAULT_CONFIG
from pipelines.config import load_config
from pipelines.extract import ExtractConfig, store_uri
from pipelines.store import committed_units
from tests.faults.content import difference, read_content
from tests.faults.interruption import FATAL, interrupt, random_moments
from tests.faults.job import SETTINGS, VICTIMS, finish
from tests.faults.s3_server import S3Server
from tests.faults.s3_server import environment as s3_environment
from tests.faults.small_corpus import write_corpus

# Decoding then takes as long as the other stages, and does not run far ahead of them.
_SIZE = (480, 320)


def main() -> int:
    options = _arguments()
    with tempfile.TemporaryDirectory(prefix="longvu-kills-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        corpus = write_corpus(folder / "s3" / "bucket" / "videos", options.short, options.long_s, _SIZE)
        environment: dict[str, str] = {}
        source, root = str(corpus), folder / "s3" / "bucket" / "stores"
        if options.s3:
            server = stack.enter_context(S3Server(folder / "s3"))
            environment = s3_environment(server.port)
            source = "s3://bucket/videos"
        return _compare(options, folder, source, root, environment)


def _compare(options: argparse.Namespace, folder: Path, source: str, root: Path, environment: dict[str, str]) -> int:
    def words(name: str) -> list[str]:
        place = f"s3://bucket/stores/{name}" if options.s3 else str(root / name)
        return [f"source={source}", f"store={place}", f"workdir={folder / 'work'}", "name=kills", *SETTINGS]

    def local_store(name: str) -> str:
        """The store as files of this machine: rclone serves a folder."""
        config = load_config(ExtractConfig, DEFAULT_CONFIG, [*words(name), f"store={root / name}"])
        return store_uri(config)

    reference = finish(words("reference"), folder, environment)
    if reference.driver.returncode:
        print(reference.stderr, file=sys.stderr)
        return 1
    expected = read_content(local_store("reference"))
    units = len(committed_units(local_store("reference")))
    print(
        f"reference: {len(expected.videos)} sources, {units} units, {len(expected.frames)} rows, {expected.digest}"
        f" on {'S3' if options.s3 else 'a local folder'}"
    )
    print(
        f"{'victim':15} {'after':>7} {'commands':>8} {'ended':>6} {'lost':>5} {'twice':>5} {'changed':>7} "
        f"{'added':>5}  {'digest':16}  seconds"
    )
    right = True
    moments = [moment for moment in random_moments(options.runs, units, options.seed)]
    for number, (victim, after_units, delay_s) in enumerate(moments):
        victim = options.victims[number % len(options.victims)] if options.victims else victim
        name = f"run{number}"
        store = local_store(name)
        run = interrupt(
            words(name),
            folder,
            victim,
            after=after_units,
            delay_s=delay_s,
            environment=environment,
            progress=lambda uri=store: len(committed_units(uri)),
        )
        if run.exit_codes[-1] != 0:
            print(f"{victim:15} exits {run.exit_codes}\n  " + "\n  ".join(run.last_words), flush=True)
            right = False
            continue
        found = read_content(store)
        wrong = difference(found, expected)
        alone = victim in FATAL or len(run.exit_codes) == 1
        right &= not wrong and alone
        after = "missed" if run.before is None else f"{run.before}/{units}"
        print(
            f"{victim:15} {after:>7} {len(run.exit_codes):>8} {run.ended_after_s:>5.1f}s {wrong.lost:>5} "
            f"{wrong.duplicated:>5} {wrong.changed:>7} {wrong.added:>5}  {found.digest}  {run.seconds:.0f}"
            f"  exits {run.exit_codes}",
            flush=True,
        )
        shutil.rmtree(root / name)
    print(f"{'all right' if right else 'WRONG'}: {len(moments)} runs killed and finished")
    return 0 if right else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.kills", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="kills")
    parser.add_argument("--s3", action="store_true", help="sources and store on an S3 server")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--victims", nargs="+", choices=sorted(VICTIMS), help="only these, in turn")
    parser.add_argument("--short", type=int, default=12, help="short videos")
    parser.add_argument("--long-s", type=int, default=160, help="seconds of the long one")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
