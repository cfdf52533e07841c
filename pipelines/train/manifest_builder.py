"""Annotation files -> manifest: every row is read, looked up, appraised, and kept or left out by name.

A manifest's folder is named by a digest of what decides its content: files, configuration of the model, tokenizer,
store and settings. The same call finds it again; media outside the store are not looked at again, and delete the folder
to have that done.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa

from pipelines import storage
from pipelines.errors import UserError
from pipelines.store import FeatureStore
from pipelines.train.annotations import AnnotationFile, read_rows
from pipelines.train.appraisal import Appraised, Appraiser
from pipelines.train.config import Join
from pipelines.train.families import Family
from pipelines.train.manifest import (
    FORMAT_VERSION,
    QUARANTINE,
    SCHEMA,
    SEAL,
    FileReport,
    Manifest,
    open_manifest,
)
from pipelines.train.media_index import MediaIndex
from pipelines.train.samples import Quarantined, Sample, Unusable, check_keys, read_sample

_ROWS = 1024
_LOOK_UPS = 8
_SHOWN_CAUSES = 5


@dataclass(frozen=True)
class ManifestSettings:
    """What decides the manifest, beside files, model and store.

    Args:
        max_tokens: text and visual tokens of a sample at most: what a bin holds. The model's ``max_sequence_length``
            is a limit, too.
        on_too_long: stop at a longer sample, or quarantine it. It is never cut.
        join: how media are found in the store.
        ignore_keys: keys of rows that teach nothing.
        sampling: which frames of a video that is not in the store are taken.
        max_quarantined_fraction: share of left-out rows above which the manifest is refused.
    """

    max_tokens: int
    on_too_long: Literal["error", "quarantine"] = "error"
    join: Join = "source"
    ignore_keys: tuple[str, ...] = ()
    sampling: str = "fps:1"
    max_quarantined_fraction: float = 0.1


def build_manifest(
    root: str,
    files: Sequence[AnnotationFile],
    family: Family[Any],
    store: FeatureStore | None,
    settings: ManifestSettings,
) -> Manifest:
    """The manifest of some files for a model as a stage configures it; read again if it was made before.

    Args:
        root: folder of manifests.
        family: of the model, as the stage sets it.
        store: features of media; None if all are decoded online.

    Raises:
        UserError: nothing is written: unknown keys or invalid JSON in a file, a sample longer than allowed, too many
            rows left out, no sample left, or a store without what training needs.
    """
    if not 0 <= settings.max_quarantined_fraction <= 1:
        raise UserError(f"max_quarantined_fraction={settings.max_quarantined_fraction}: must be from 0 to 1")
    family.check(store)
    key = manifest_key(files, family, store, settings)
    uri = storage.join(storage.resolve(root), key[:12])
    if storage.exists(storage.join(uri, SEAL)):
        found = open_manifest(uri)
        check_enough(found.files, found.quarantine.slice(0, 1).to_pylist(), settings.max_quarantined_fraction)
        return found
    appraiser = Appraiser(family, store, settings.sampling)
    longest = family.config.max_sequence_length
    builder = _Builder(appraiser, MediaIndex(store, settings.join), settings, longest or settings.max_tokens)
    with _written(storage.join(uri, "samples.arrow"), SCHEMA) as writer:
        for batch in builder.batches(files):
            writer.write_batch(batch)
        first = [asdict(left_out) for left_out in builder.quarantined[:1]]
        check_enough(builder.reports, first, settings.max_quarantined_fraction)
    with _written(storage.join(uri, "quarantine.arrow"), QUARANTINE) as writer:
        writer.write_table(pa.Table.from_pylist([asdict(left_out) for left_out in builder.quarantined], QUARANTINE))
    record = {
        "format_version": FORMAT_VERSION,
        "key": key,
        "digest": builder.digest.hexdigest(),
        "num_online": builder.num_online,
        "files": [asdict(report) for report in builder.reports],
    }
    storage.write_bytes(storage.join(uri, SEAL), json.dumps(record, indent=1).encode() + b"\n")
    return open_manifest(uri)


def file_names(files: Sequence[AnnotationFile]) -> list[str]:
    """A short name for each file: as much of the end of its path as tells it from the others; ``#2`` if named again."""
    paths = {file.uri: file.uri.split("/") for file in files}
    length = 1
    while len({"/".join(path[-length:]) for path in paths.values()}) < len(paths):
        length += 1
    times: Counter[str] = Counter()
    names = []
    for file in files:
        times[file.uri] += 1
        again = f"#{times[file.uri]}" if times[file.uri] > 1 else ""
        names.append("/".join(paths[file.uri][-length:]) + again)
    return names


def check_enough(files: Sequence[FileReport], first_left_out: Sequence[Mapping[str, Any]], allowed: float) -> None:
    """Refuse a manifest that leaves out more than the share of rows that is allowed, or that keeps none.

    Raises:
        UserError: the message counts the causes and shows the first row that is left out.
    """
    rows, kept = sum(report.rows for report in files), sum(report.kept for report in files)
    if kept and rows - kept <= allowed * rows:
        return
    causes: Counter[str] = Counter()
    for report in files:
        causes.update(report.quarantined)
    told = ", ".join(f"{count} {cause}" for cause, count in causes.most_common(_SHOWN_CAUSES))
    names = files[0].file + (f" and {len(files) - 1} more files" if len(files) > 1 else "") if files else "no file"
    told = told or "no rows"
    example = "".join(f"; the first: {one['sample_id']}: {one['message']}" for one in first_left_out)
    if not kept:
        raise UserError(f"an empty split: none of {rows} rows of {names} can be learned from ({told}){example}")
    raise UserError(
        f"{rows - kept} of {rows} rows of {names} are left out ({told}), more than "
        f"max_quarantined_fraction={allowed:g} allows{example}"
    )


@contextlib.contextmanager
def _written(uri: str, schema: pa.Schema) -> Iterator[pa.ipc.RecordBatchFileWriter]:
    """An Arrow file that is there in whole, or not at all, nor the folder that was made for it."""
    try:
        with storage.HashingOutput(uri) as output, pa.ipc.new_file(output, schema) as writer:
            yield writer
    except BaseException:
        if storage.is_local(uri):
            with contextlib.suppress(OSError):
                storage.local_path(uri).parent.rmdir()
        raise


def manifest_key(
    files: Sequence[AnnotationFile],
    family: Family[Any],
    store: FeatureStore | None,
    settings: ManifestSettings,
) -> str:
    """Digest of what decides a manifest, 32 hex digits. Reads the files."""
    model = {name: value for name, value in family.config.to_dict().items() if name != "transformers_version"}
    facts = [
        FORMAT_VERSION,
        [[file.uri, file.media, file.strategy, storage.sha256(file.uri)] for file in files],
        model,
        *family.facts(),
        None if store is None else _store_facts(store, f"{family.feature_names[0]}_digest"),
        {name: value for name, value in asdict(settings).items() if name != "max_quarantined_fraction"},
    ]
    return hashlib.blake2b(json.dumps(facts, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def _store_facts(store: FeatureStore, digest: str) -> list[Any]:
    columns = ["video_id", "source", "version", "status", "num_sampled", "num_stored", digest]
    rows = store.videos(columns).select(columns).to_pylist()
    return [store.manifest.config_digest, *(list(row.values()) for row in rows)]


class _Builder:
    """Rows -> batches of the manifest's table, and what is counted on the way."""

    def __init__(self, appraiser: Appraiser, index: MediaIndex, settings: ManifestSettings, longest: int) -> None:
        self._appraiser, self._index, self._settings, self._longest = appraiser, index, settings, longest
        self.digest = hashlib.blake2b(digest_size=16)
        self.quarantined: list[Quarantined] = []
        self.reports: list[FileReport] = []
        self.num_online = 0

    def batches(self, files: Sequence[AnnotationFile]) -> Iterator[pa.RecordBatch]:
        for file, prefix in zip(files, file_names(files), strict=True):
            name, rows, kept = storage.shown(file.uri), 0, 0
            self._prefix = prefix
            repairs: Counter[str] = Counter()
            first_out = len(self.quarantined)
            for chunk in _chunks(read_rows(file)):
                rows += len(chunk)
                appraised = self._appraise(self._located(file, name, chunk), name)
                repairs.update(repair for one in appraised for repair in one.sample.repairs)
                kept += len(appraised)
                if appraised:
                    yield self._batch(appraised)
            causes = Counter(left_out.cause for left_out in self.quarantined[first_out:])
            self.reports.append(FileReport(name, rows, kept, dict(causes), dict(repairs)))

    def _located(
        self, file: AnnotationFile, name: str, chunk: Sequence[tuple[int, Mapping[str, Any]]]
    ) -> list[tuple[int, Sample]]:
        def read(numbered: tuple[int, Mapping[str, Any]]) -> Sample | Unusable:
            row, record = numbered
            check_keys(record, name, row, self._settings.ignore_keys)
            try:
                return self._index.located(read_sample(record, f"{self._prefix}:{row}"), file.media)
            except Unusable as error:
                return error

        with ThreadPoolExecutor(_LOOK_UPS) as readers:
            results = list(readers.map(read, chunk))
        samples = []
        for (row, _), result in zip(chunk, results, strict=True):
            if isinstance(result, Sample):
                samples.append((row, result))
            else:
                self._leave_out(name, row, result)
        return samples

    def _appraise(self, samples: Sequence[tuple[int, Sample]], name: str) -> list[Appraised]:
        usable = []
        for (row, _), result in zip(samples, self._appraiser.appraise([sample for _, sample in samples]), strict=True):
            if isinstance(result, Unusable):
                self._leave_out(name, row, result)
            elif result.num_tokens > self._settings.max_tokens or result.longest > self._longest or not result.has_room:
                self._too_long(name, row, result)
            else:
                usable.append(result)
        return usable

    def _too_long(self, name: str, row: int, result: Appraised) -> None:
        message = (
            f"{result.num_text_tokens} text and {result.num_visual_tokens} visual tokens"
            + (f" in {result.num_sequences} sequences" if result.num_sequences > 1 else "")
            + ("" if result.has_room else ", and no room for its media beside the text")
            + f"; a sample may have {min(self._settings.max_tokens, self._longest * result.num_sequences)}"
        )
        if self._settings.on_too_long == "error":
            raise UserError(f"{name}: row {row} has {message}; shorten it, or set on_too_long=quarantine")
        self._leave_out(name, row, Unusable("too long", message))

    def _leave_out(self, name: str, row: int, error: Unusable) -> None:
        self.quarantined.append(Quarantined(name, row, f"{self._prefix}:{row}", error.cause, str(error)))

    def _batch(self, appraised: Sequence[Appraised]) -> pa.RecordBatch:
        rows: list[dict[str, Any]] = []
        for one in appraised:
            sample = one.sample
            self.num_online += any(medium.video_id is None for medium in sample.media)
            rows.append(
                {
                    "sample_id": sample.sample_id,
                    "original_id": sample.original_id,
                    "modality": sample.modality,
                    "media": [asdict(medium) for medium in sample.media],
                    "turns": json.dumps([[turn.role, turn.text] for turn in sample.turns]),
                    "num_text_tokens": one.num_text_tokens,
                    "num_target_tokens": one.num_target_tokens,
                    "num_visual_tokens": one.num_visual_tokens,
                    "num_tokens": one.num_tokens,
                    "num_frames": one.num_frames,
                    "predicted_flops": one.flops,
                }
            )
        for row in rows:
            # where media lie is no part of what is learned: a run may go on where they lie elsewhere
            media = [{**medium, "uri": None} for medium in row["media"]]
            self.digest.update(json.dumps({**row, "media": media}, sort_keys=True).encode())
        return pa.RecordBatch.from_pylist(rows, SCHEMA)


def _chunks(rows: Iterator[tuple[int, dict[str, Any]]]) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    chunk = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == _ROWS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
