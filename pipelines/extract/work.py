"""What a configuration asks for, and what of it is left to do: from listings, plans and commits; no source is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import storage
from pipelines.extract.config import ExtractConfig
from pipelines.extract.index import Source, index_sources
from pipelines.extract.plan import Unit, by_cost, read_plan, units_of
from pipelines.store.commits import committed_units
from pipelines.store.reader import FeatureStore
from pipelines.store.schema import FAILED

Identity = tuple[str, str]
"""URI and version of a source."""


@dataclass(frozen=True)
class Work:
    """What a configuration asks for and what of it is left.

    Args:
        store: URI of the store.
        sources: all that was asked for.
        pending: planned units without a commit, the most expensive first.
        fresh: sources to plan: those that never were, then those that are taken out of quarantine.
    """

    store: str
    sources: list[Source]
    pending: list[Unit]
    fresh: list[Source]

    @property
    def nothing_left(self) -> bool:
        return not self.pending and not self.fresh

    @property
    def retries(self) -> list[Source]:
        """The sources among ``fresh`` that failed before."""
        return [source for source in self.fresh if source.retry]


def store_uri(config: ExtractConfig) -> str:
    """Where this configuration's store is."""
    return storage.join(storage.resolve(config.store), "features", f"{config.name}-{config.digest12}")


def find_work(config: ExtractConfig, *, retry_quarantined: bool = False) -> Work:
    """Compare sources, stored plans and commits; reads no source.

    Args:
        retry_quarantined: plan anew what failed, wholly or from some part on.

    Raises:
        UserError: nothing to extract.
    """
    uri = store_uri(config)
    sources = index_sources(config.source, column=config.source_column, media_root=config.media_root)
    planned = read_plan(uri)
    open_rows = planned.filter(pc.invert(pc.is_in(planned["unit_id"], pa.array(committed_units(uri), pa.string()))))
    wanted = {source.identity for source in sources}
    pending = [unit for unit in units_of(open_rows) if any(member.identity in wanted for member in unit.members)]
    tries = _tries(planned)
    fresh = [source for source in sources if source.identity not in tries]
    if retry_quarantined and tries:
        under_way = {member.identity for unit in pending for member in unit.members}
        fresh += _retries(uri, [source for source in sources if source.identity not in under_way], tries)
    return Work(uri, sources, by_cost(pending), fresh)


def _tries(planned: pa.Table) -> dict[Identity, int]:
    """The latest try of every source that was ever planned."""
    columns = (planned[name].to_pylist() for name in ("source", "version", "retry"))
    tries: dict[Identity, int] = {}
    for source, version, retry in zip(*columns, strict=True):
        if (retry or 0) >= tries.get((source, version), 0):
            tries[source, version] = retry or 0
    return tries


def _retries(store: str, sources: Iterable[Source], tries: dict[Identity, int]) -> list[Source]:
    """Those that failed, as their next try."""
    from longvu_model.video.errors import Truncated

    videos = FeatureStore.open(store).videos(["source", "version", "status", "error"])
    # A long video is truncated, too, where one of its parts failed: at a deadline, for want of memory.
    bad = pc.or_(
        pc.equal(videos["status"], FAILED),
        pc.fill_null(pc.not_equal(videos["error"], Truncated.code), False),
    )
    columns = (videos.filter(bad)[name].to_pylist() for name in ("source", "version"))
    failed = set(zip(*columns, strict=True))
    return [
        dataclasses.replace(source, retry=tries[source.identity] + 1) for source in sources if source.identity in failed
    ]
