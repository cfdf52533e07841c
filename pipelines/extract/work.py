"""What a configuration asks for, and what of it is left to do: from listings, plans and commits alone."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines import storage
from pipelines.extract import plan
from pipelines.extract.config import ExtractConfig
from pipelines.extract.index import Source, index_sources
from pipelines.extract.plan import Unit
from pipelines.store.commits import committed_units


@dataclass(frozen=True)
class Work:
    """What a configuration asks for and what of it is left.

    Args:
        store: URI of the store.
        sources: all that was asked for.
        pending: planned units without a commit.
        fresh: sources that were never planned.
    """

    store: str
    sources: list[Source]
    pending: list[Unit]
    fresh: list[Source]

    @property
    def nothing_left(self) -> bool:
        return not self.pending and not self.fresh


def store_uri(config: ExtractConfig) -> str:
    """Where this configuration's store is."""
    return storage.join(storage.resolve(config.store), "features", f"{config.name}-{config.digest12}")


def find_work(config: ExtractConfig) -> Work:
    """Compare sources, stored plans and commits; reads no source.

    Raises:
        UserError: nothing to extract.
    """
    uri = store_uri(config)
    sources = index_sources(config.source, column=config.source_column, media_root=config.media_root)
    known = plan.read_plan(uri)
    done = committed_units(uri)
    wanted = {(source.uri, source.version) for source in sources}
    planned = {member.identity for unit in known for member in unit.members}
    pending = [
        unit for unit in known if unit.unit_id not in done and any(member.identity in wanted for member in unit.members)
    ]
    return Work(uri, sources, pending, [item for item in sources if (item.uri, item.version) not in planned])
