"""How long a store of many videos takes to open, to look through for what is left to do, and to report on.

    python -m tests.benchmarks.store_scale [--videos 100000] [--s3-videos 20000] [--frames 60] [--per-unit 8]
                                           [--own 1000] [--where local s3] [--directory DIR]

Writes a store in the real format: plans, videos files, commits and empty source files, but no frames files, for
nothing that is timed reads any (videos files are made from one template, uncompressed). Then the real code runs over
it in fresh processes, whose start and imports count: `committed_units`; `find_work`; opening a store up to its index;
and all that a run does that finds nothing to do, its report included. First while nothing is compacted and the last
``--own`` units are still to do, then compacted but for those. ``s3`` is an `rclone serve s3` on this machine, whose
own time counts too. The floor is 10 s for each, except for opening what was never compacted, which no run leaves
behind. Exits with 1 if a figure misses it. On S3 there are fewer videos, because rclone reads a whole folder anew for
every page of a thousand names, so that its time for the sources grows with the square of their number.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.extract.config import ExtractConfig
from pipelines.extract.plan import Member, Unit, write_plan
from pipelines.extract.work import store_uri
from pipelines.store import Commit, FeatureSpec, FeatureStore, StoreManifest, compact
from pipelines.store.commits import StoredFile
from pipelines.store.schema import VIDEOS
from tests.faults.s3_server import S3Server, environment

_FLOOR_S = 10.0
_SLICE = 10_000
_WIDTH = 15
_MTIME_NS = 1_700_000_000_000_000_000


def main() -> int:
    arguments = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="store-scale-", dir=arguments.directory))
    print(f"videos of {arguments.frames} frames, {arguments.per_unit} per unit; seconds, floor {_FLOOR_S:g}")
    head = ("committed_units", "find_work", "open + index", "resume + report")
    print(f"{'where':6} {'videos':>7} {'commits':16} " + " ".join(name.rjust(_WIDTH) for name in head))
    try:
        right = all([_compare(where, folder, arguments) for where in arguments.where])
    finally:
        shutil.rmtree(folder)
    return 0 if right else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.store_scale", description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=100_000)
    parser.add_argument("--s3-videos", type=int, default=20_000)
    parser.add_argument("--frames", type=int, default=60, help="sampled frames of each")
    parser.add_argument("--per-unit", type=int, default=8, help="videos per unit")
    parser.add_argument("--own", type=int, default=1000, help="units that are finished after the compaction")
    parser.add_argument("--where", nargs="+", choices=("local", "s3"), default=["local", "s3"])
    parser.add_argument("--directory", help="where the stores are made; the system's temporary folder when absent")
    return parser.parse_args()


def _compare(where: str, folder: Path, arguments: argparse.Namespace) -> bool:
    local = folder / where
    local.mkdir()
    videos = arguments.videos if where == "local" else arguments.s3_videos
    label = f"{where:6} {videos:7}"
    root = str(local)
    server = None
    if where == "s3":
        server = S3Server(folder)
        os.environ.update(environment(server.port))
        root = "s3://s3"
    config = ExtractConfig(source=f"{root}/sources", store=f"{root}/runs", workdir=str(folder / "workdir"))
    write_sources(local / "sources", videos)
    with _serving(server):
        units = write_plans(config, videos, arguments)
    before, after = units[: -arguments.own], units[-arguments.own :]
    write_units(config, local, before, arguments.frames)
    with _serving(server):
        print(f"{label} {'never compacted':16} ", end="", flush=True)
        right = _time("units", config, len(before))
        right &= _time("work", config, arguments.own)
        _time("index", config, sum(len(unit.members) for unit in before))
        started_s = time.perf_counter()
        files = compact(store_uri(config)).files
        print(f"\n{label} {'compaction':16} {time.perf_counter() - started_s:.0f} s, {files} files", flush=True)
    write_units(config, local, after, arguments.frames)
    with _serving(server):
        print(f"{label} {f'all but {arguments.own}':16} ", end="")
        steps = (("units", len(units)), ("work", 0), ("index", videos), ("resume", videos))
        right &= all([_time(step, config, expected) for step, expected in steps])
    print("" if right else " MISSED", flush=True)
    return right


def _serving(server: S3Server | None) -> contextlib.AbstractContextManager[object]:
    """A server that sees what was written in its folder meanwhile: one that runs remembers what it has listed."""
    return server or contextlib.nullcontext()


def _time(step: str, config: ExtractConfig, expected: int) -> bool:
    """Run a step in a fresh process and print its seconds; whether they are below the floor."""
    words = [sys.executable, "-c", _STEP, step, config.model_dump_json(), str(time.time())]
    root = Path(__file__).resolve().parents[2]
    spent_s, count = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, cwd=root).stdout.split()
    assert int(count) == expected, f"{step}: {count}, expected {expected}"
    print(f"{float(spent_s):{_WIDTH}.2f}", end=" ", flush=True)
    return float(spent_s) < _FLOOR_S


_STEP = """
import sys, time
from pipelines.extract.config import ExtractConfig
from pipelines.extract.report import make_report
from pipelines.extract.work import find_work, store_uri
from pipelines.store import FeatureStore, committed_units
step, config = sys.argv[1], ExtractConfig.model_validate_json(sys.argv[2])
if step == "units":
    count = len(committed_units(store_uri(config)))
elif step == "index":
    count = FeatureStore.open(store_uri(config)).videos(["source"]).num_rows
elif step == "work":
    work = find_work(config)
    assert not work.fresh
    count = len(work.pending)
else:
    work = find_work(config)
    assert work.nothing_left
    report = make_report(config, FeatureStore.open(work.store), work.sources, seconds=0.0)
    count = report.statuses["ok"]
print(time.time() - float(sys.argv[3]), count)
"""


def write_sources(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        path = folder / f"{number:08}.mp4"
        path.touch()
        os.utime(path, ns=(_MTIME_NS, _MTIME_NS))


def write_plans(config: ExtractConfig, videos: int, arguments: argparse.Namespace) -> list[Unit]:
    """``store.json`` and the plans."""
    FeatureStore.create(store_uri(config), _MANIFEST)
    names = [f"{number:08}.mp4" for number in range(videos)]
    folder = storage.resolve(str(config.source))
    version = storage.stat(f"{folder}/{names[0]}").version
    members = [Member(f"{folder}/{name}", 0, version, expected_samples=arguments.frames) for name in names]
    starts = range(0, len(members), arguments.per_unit)
    units = [Unit(f"{start:020x}", tuple(members[start : start + arguments.per_unit])) for start in starts]
    for number, first in enumerate(range(0, len(units), _SLICE)):
        write_plan(store_uri(config), f"run-{number:04}", units[first : first + _SLICE])
    return units


def write_units(config: ExtractConfig, local: Path, units: Sequence[Unit], frames: int) -> None:
    """Videos files and commits; ``local`` is the folder behind the configuration's URIs."""
    folder = local / "runs" / store_uri(config).partition("/runs/")[2]
    for name in ("commits", "videos"):
        (folder / name).mkdir(exist_ok=True)
    templates: dict[int, bytes] = {}
    for unit in units:
        if len(unit.members) not in templates:
            templates[len(unit.members)] = _videos_file(unit.members, frames)
        _write_unit(folder, unit, templates[len(unit.members)], frames)


def _write_unit(folder: Path, unit: Unit, template: bytes, frames: int) -> None:
    """A unit's videos file, from the template by names of the same length, and its commit."""
    unit_id, members = unit.unit_id, [member.source for member in unit.members]
    data = template.replace(_UNIT, unit_id.encode())
    for number, source in enumerate(members):
        data = data.replace(_name(number), source[-12:-4].encode()).replace(_video_id(number), _digest(source))
    attempt = f"{unit_id}-00000000"
    commit = Commit(
        unit_id=unit_id,
        frames=StoredFile(f"frames/{attempt}.parquet", "0" * 64, 0, frames * len(members)),
        videos=StoredFile(f"videos/{attempt}.parquet", hashlib.sha256(data).hexdigest(), len(data), len(members)),
        video_ids=tuple(_digest(source).decode() for source in members),
        counts={"ok": len(members), "truncated": 0, "failed": 0}
        | dict.fromkeys(("sampled", "kept", "stored"), frames * len(members)),
        errors={},
        seconds={"decode": 1.0, "encode": 1.0},
        run_id="benchmark",
        code_version="0",
        committed_at="2026-01-01T00:00:00+00:00",
    )
    (folder / commit.videos.path).write_bytes(data)
    (folder / "commits" / f"{unit_id}.json").write_bytes(commit.to_json())


def _videos_file(members: Sequence[Member], frames: int) -> bytes:
    numbers = np.random.default_rng(0)
    rows = [
        {
            "video_id": _video_id(number).decode(),
            "source": member.source[:-12] + _name(number).decode() + ".mp4",
            "size_bytes": 0,
            "version": member.version,
            "unit_id": _UNIT.decode(),
            "chunk": 0,
            "num_chunks": 1,
            "first_sample": 0,
            "status": "ok",
            "attempts": 1,
            "retry": 0,
            "kind": "video",
            "decoder": "pyav",
            "codec": "h264",
            "width": 1280,
            "height": 720,
            "fps": 30.0,
            "duration_s": float(frames),
            **dict.fromkeys(("num_sampled", "num_kept", "num_stored"), frames),
            "frame_index": np.arange(frames) * 30,
            "pts_s": np.arange(frames, dtype=float),
            "similarity": numbers.random(frames, np.float32),
            **dict.fromkeys(("kept", "stored"), np.ones(frames, bool)),
            "dinov2_digest": "0" * 32,
        }
        for number, member in enumerate(members)
    ]
    output = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, VIDEOS), output, compression="none")
    return output.getvalue()


_UNIT = b"U" * 20
_MANIFEST = StoreManifest(
    name="features",
    config={},
    config_digest="0" * 64,
    features=(FeatureSpec("dinov2", 576, 1152),),
    window_frames=16,
    keep_threshold=0.9,
    keep_all_below=256,
    jpeg=False,
    towers={"dinov2": "t"},
    preprocessing={"dinov2": "p"},
)


def _name(number: int) -> bytes:
    return f"NAME{number:04}".encode()


def _video_id(number: int) -> bytes:
    return f"ID{number:062}".encode()


def _digest(source: str) -> bytes:
    return hashlib.sha256(source.encode()).hexdigest().encode()


if __name__ == "__main__":
    sys.exit(main())
