"""``longvu probe SOURCE``: decode one source exactly as extraction would, and say what came of it.

It goes through extraction's own functions: fetched, decoded in a supervised child with a deadline, by the other decoder
when the first gives up. So it shows again why a source is in quarantine, or that it no longer has to be.
Exit codes: 0 extraction takes it (whole, or the good part of a damaged one), 1 it does not, 2 a mistake in the command.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from jobs.cli import Parser, checked
from longvu_model.video import FrameSampling
from pipelines import storage
from pipelines.errors import UserError, run_cli
from pipelines.extract.config import DecodeConfig
from pipelines.extract.decode import DecodeSettings, decode_unit
from pipelines.extract.fetch import Fetcher
from pipelines.extract.plan import Member, Unit
from pipelines.store.schema import FAILED

BAD_SOURCE_EXIT = 1

_DEFAULTS = DecodeConfig()
_SECONDS = checked(float, lambda value: value >= 0, "a number of seconds")
_POSITIVE = checked(float, lambda value: value > 0, "a number above 0")


def build_parser() -> Parser:
    parser = Parser(
        prog="longvu probe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("source", metavar="SOURCE", help="file or s3:// object")
    parser.add_argument("--sampling", type=_sampling, default="fps:1", metavar="RULE", help="as of extract (fps:1)")
    parser.add_argument("--backend", choices=("pyav", "decord"), default=_DEFAULTS.backend, help="the first decoder")
    parser.add_argument("--start-s", type=_SECONDS, metavar="S", help="decode from here; a part as in the store's plan")
    parser.add_argument("--end-s", type=_SECONDS, metavar="S", help="decode up to here")
    parser.add_argument(
        "--deadline-s",
        type=_POSITIVE,
        default=_DEFAULTS.deadline_s,
        metavar="S",
        help=f"give up after so long ({_DEFAULTS.deadline_s:g})",
    )
    parser.add_argument(
        "--max-pixels",
        type=_POSITIVE,
        default=_DEFAULTS.max_pixels,
        metavar="N",
        help=f"largest frame ({_DEFAULTS.max_pixels})",
    )
    parser.add_argument("--scratch", metavar="DIR", help="folder for a download from S3")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _sampling(text: str) -> FrameSampling:
    try:
        return FrameSampling.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(argv: Sequence[str]) -> int:
    """Parse, decode, print; returns the exit code."""
    options = build_parser().parse_args(argv)
    ends_s = {name: getattr(options, name) for name in ("start_s", "end_s") if getattr(options, name) is not None}
    try:
        sampling = dataclasses.replace(FrameSampling.parse(options.sampling), **ends_s)
    except ValueError as error:
        raise UserError(str(error)) from None
    decode = DecodeConfig(
        backend=options.backend,
        deadline_s=options.deadline_s,
        max_pixels=int(options.max_pixels),
        scratch=options.scratch,
    )
    facts = probe_source(storage.resolve(options.source), DecodeSettings(str(sampling), {}, 0, decode))
    print(json.dumps(facts, indent=1) if options.json else "\n".join(_lines(facts)))
    return BAD_SOURCE_EXIT if facts["status"] == FAILED else 0


def probe_source(uri: str, settings: DecodeSettings) -> dict[str, Any]:
    """Fetch and decode a source as a unit of its own.

    Returns:
        what its row of the videos table would say, with ``rotation_applied``, how it was decoded (``method``), the
        time of its first and last sampled frame and the seconds that all of it took.

    Raises:
        StorageError: the storage does not answer.
        UserError: the decoder is not installed.
    """
    try:
        found = storage.stat(uri)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        found = storage.StoredObject(uri, 0, storage.MISSING)
    unit = Unit("probe", (Member(uri, found.size_bytes, found.version),))
    started_s = time.perf_counter()
    with contextlib.closing(Fetcher(settings.decode.scratch, attempts=1)) as fetcher:
        header, arrays = decode_unit(unit, settings, fetcher)
    (row,) = header["members"]
    pts_s = arrays["pts_s"].tolist()
    ends = {"first_pts_s": pts_s[0], "last_pts_s": pts_s[-1]} if pts_s else {}
    row |= {"source": storage.shown(uri), **ends, "seconds": round(time.perf_counter() - started_s, 3)}
    return {name: row[name] for name in _TOLD if row.get(name) is not None}


_TOLD = (
    *("source", "status", "error", "message", "log_tail", "attempts", "decoder", "method", "video_id", "size_bytes"),
    *("codec", "width", "height", "rotation_applied", "fps", "duration_s", "num_sampled", "first_pts_s", "last_pts_s"),
    "seconds",
)


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    yield f"{facts['source']}: {facts['status']}" + (f" ({facts['error']})" if "error" in facts else "")
    if "message" in facts:
        yield f"message  {facts['message']}"
    for line in facts.get("log_tail", "").splitlines():
        yield f"log      {line}"
    if "codec" in facts:
        turned = f", turned by {facts['rotation_applied']} degrees" if facts["rotation_applied"] else ""
        yield f"video    {facts['codec']} {facts['width']}x{facts['height']}{turned}"
        yield f"length   {facts['duration_s']:.2f} s at {facts['fps']:.3f} frames/s, {facts['size_bytes']} bytes"
        yield f"decoder  {facts['decoder']} ({facts['method']}), attempt {facts['attempts']}"
        yield f"sampled  {facts['num_sampled']} frames from {facts['first_pts_s']:.2f} s to {facts['last_pts_s']:.2f} s"
    elif "decoder" in facts:
        yield f"decoder  tried {facts['attempts']} times, the last time with {facts['decoder']}"
    if "video_id" in facts:
        yield f"sha256   {facts['video_id']}"
    yield f"seconds  {facts['seconds']:.2f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``longvu probe``."""
    return run_cli(run, argv)


if __name__ == "__main__":
    sys.exit(main())
