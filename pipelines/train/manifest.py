"""The manifest: one row per usable sample with what it costs, made once and found again by what it was made from.

<root>/<key>/samples.arrow      one row per sample, see SCHEMA; memory-mapped where local
             quarantine.arrow   one row per row of the files that is left out
             manifest.json      digest, counts per file; written last
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from longvu_model.labels import Turn
from pipelines import storage
from pipelines.errors import UserError
from pipelines.train.plan import SampleCosts
from pipelines.train.samples import MediaRef, Sample

FORMAT_VERSION = 1
SEAL = "manifest.json"

_MEDIUM = pa.struct(
    [
        ("kind", pa.string()),
        ("path", pa.string()),
        ("uri", pa.string()),
        ("video_id", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("reduced", pa.bool_()),
    ]
)
SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("original_id", pa.string()),
        ("modality", pa.string()),
        ("media", pa.list_(_MEDIUM)),
        ("turns", pa.string()),  # JSON: [[role, text], ...]
        ("num_text_tokens", pa.int32()),
        ("num_target_tokens", pa.int32()),
        ("num_visual_tokens", pa.int32()),
        ("num_tokens", pa.int32()),
        ("num_frames", pa.int32()),
        ("predicted_flops", pa.float64()),
    ]
)
QUARANTINE = pa.schema(
    [
        ("file", pa.string()),
        ("row", pa.int64()),
        ("sample_id", pa.string()),
        ("cause", pa.string()),
        ("message", pa.string()),
    ]
)


@dataclass(frozen=True)
class FileReport:
    """What became of the rows of one file."""

    file: str
    rows: int
    kept: int
    quarantined: dict[str, int]
    repairs: dict[str, int]


@dataclass(frozen=True)
class Manifest:
    """Samples and what they cost.

    Args:
        uri: its folder.
        digest: of the content, 32 hex digits.
        table: rows of :data:`SCHEMA`.
        quarantine: rows of :data:`QUARANTINE`.
        files: what became of each file's rows.
        num_online: samples with a medium that the store does not have.
    """

    uri: str
    digest: str
    table: pa.Table = field(repr=False)
    quarantine: pa.Table = field(repr=False)
    files: tuple[FileReport, ...]
    num_online: int

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @functools.cached_property
    def costs(self) -> SampleCosts:
        """What the planner needs."""
        tokens, targets, flops = (
            self.table[name].to_numpy() for name in ("num_tokens", "num_target_tokens", "predicted_flops")
        )
        return SampleCosts(tokens.astype(np.int64), flops, targets.astype(np.int64), self.digest)

    def sample(self, index: int) -> Sample:
        """The sample of a row, its media located."""
        row = {name: self.table[name][index].as_py() for name in ("sample_id", "original_id", "modality", "media")}
        media = tuple(MediaRef(**medium) for medium in row.pop("media"))
        turns = tuple(Turn(role, text) for role, text in json.loads(self.table["turns"][index].as_py()))
        return Sample(**row, media=media, turns=turns)

    def part(self, most: int) -> Manifest:
        """At most so many of its samples, always the same ones."""
        if len(self) <= most:
            return self
        rows = np.sort(np.random.default_rng(0).permutation(len(self))[:most])
        return replace(self, table=self.table.take(pa.array(rows)))

    def summary(self) -> str:
        """A line per file: rows read and kept, left out by cause, mended by kind."""
        return "\n".join(map(_summary_line, self.files))


def open_manifest(uri: str) -> Manifest:
    """A manifest that was built, by the URI that it says.

    Raises:
        UserError: there is none, or of another format.
    """
    try:
        record = json.loads(storage.read_bytes(storage.join(uri, SEAL)))
    except FileNotFoundError:
        raise UserError(f"{storage.shown(uri)}: no finished manifest ({SEAL} is missing); plan again") from None
    if record["format_version"] != FORMAT_VERSION:
        raise UserError(
            f"{storage.shown(uri)}: manifest of format {record['format_version']}; delete it and plan again"
        )
    samples, quarantine = (
        pa.ipc.open_file(storage.arrow_input(storage.join(uri, name))).read_all()
        for name in ("samples.arrow", "quarantine.arrow")
    )
    files = tuple(FileReport(**report) for report in record["files"])
    return Manifest(uri, record["digest"], samples, quarantine, files, record["num_online"])


def _summary_line(report: FileReport) -> str:
    left_out = ", ".join(f"{count} {cause}" for cause, count in sorted(report.quarantined.items()))
    mended = ", ".join(f"{count} {repair}" for repair, count in sorted(report.repairs.items()))
    line = f"{report.file}: {report.rows} rows, {report.kept} samples"
    return line + (f"; left out: {left_out}" if left_out else "") + (f"; mended: {mended}" if mended else "")
