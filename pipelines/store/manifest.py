"""``store.json``: what every row of a store was made with, and the refusal to mix in anything else."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from pipelines import storage
from pipelines.errors import UserError
from pipelines.store.features import FeatureSpec
from pipelines.store.schema import FORMAT, FORMAT_VERSION, FORMAT_VERSION_UNSELECTED, SELECTING, StageColumns

FILE_NAME = "store.json"


class StoreError(UserError):
    """A store that cannot be used as asked; the message names the store, what is wrong and the fix."""


@dataclass(frozen=True)
class StoreManifest:
    """The fixed facts of a store.

    Args:
        name: its name; the folder is ``<name>-<config digest, 12 digits>``.
        config: the configuration, dotted names to values, for people.
        config_digest: digest of the fields that decide the content.
        features: stored columns; dinov2 is the first where it is one.
        window_frames: sampled frames per similarity window.
        keep_threshold: frames with a similarity below it are ``kept``, and their features stored; None without
            dinov2, where every sampled frame has features.
        keep_all_below: sources of at most so many sampled frames have the features of all of them; None likewise.
        jpeg: whether frames have thumbnails.
        towers: digest of each tower's configuration and weights, by feature name.
        preprocessing: digest of how frames became pixels, by feature name.
        model: as it was named, and the fingerprint of its files; says nothing about content.
        created_by: version of this project.
        stages: users' stages that add columns to the frames table, by name.
    """

    name: str
    config: dict[str, Any]
    config_digest: str
    features: tuple[FeatureSpec, ...]
    window_frames: int
    keep_threshold: float | None
    keep_all_below: int | None
    jpeg: bool
    towers: dict[str, str]
    preprocessing: dict[str, str]
    model: dict[str, str] = field(default_factory=dict)
    created_by: str = ""
    stages: dict[str, StageColumns] = field(default_factory=dict)

    @property
    def selects(self) -> bool:
        """Whether frames have similarities, by which some can be chosen."""
        return any(spec.name == SELECTING for spec in self.features)

    def to_json(self) -> bytes:
        plain = dataclasses.asdict(dataclasses.replace(self, stages={}))
        stages = {name: stage.to_json() for name, stage in self.stages.items()}
        version = FORMAT_VERSION if self.selects else FORMAT_VERSION_UNSELECTED
        record = {"format": FORMAT, "format_version": version, **plain, "stages": stages}
        return json.dumps(record, indent=2, sort_keys=False).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, uri: str) -> StoreManifest:
        """Parse ``store.json``.

        Raises:
            StoreError: it is not one, or of a newer format.
        """
        try:
            record = json.loads(data)
            found = (record.pop("format"), record.pop("format_version"))
        except (ValueError, KeyError, AttributeError):
            raise StoreError(
                f"{storage.shown(uri)}/{FILE_NAME} is not a feature store's; give another folder"
            ) from None
        if found not in ((FORMAT, FORMAT_VERSION), (FORMAT, FORMAT_VERSION_UNSELECTED)):
            raise StoreError(
                f"{storage.shown(uri)}: format {found[0]} version {found[1]}, this code reads {FORMAT} version "
                f"{FORMAT_VERSION} and {FORMAT_VERSION_UNSELECTED}; use the version of longvu-ray that wrote it "
                f"({record.get('created_by', '?')})"
            )
        record["features"] = tuple(FeatureSpec(**spec) for spec in record["features"])
        record["stages"] = {name: StageColumns.from_json(name, stage) for name, stage in record["stages"].items()}
        return cls(**record)

    def check_same(self, other: StoreManifest, uri: str) -> None:
        """Refuse to add rows made with ``other`` to this store.

        Raises:
            StoreError: something that decides content differs; the first difference is named.
        """
        mine, theirs = _content(self), _content(other)
        for what, stored in mine.items():
            if theirs.get(what) != stored:
                raise StoreError(
                    f"{storage.shown(uri)}: was made with {what} {stored}, this run has {theirs.get(what)}; "
                    f"use the same model and settings, or another name=..."
                )
        surplus = theirs.keys() - mine.keys()
        if surplus:
            raise StoreError(f"{storage.shown(uri)}: has no {', '.join(sorted(surplus))}; use another name=...")


def _content(manifest: StoreManifest) -> dict[str, Any]:
    facts = {"config digest": manifest.config_digest, "keep_threshold": manifest.keep_threshold}
    facts |= {f"{name} tower": digest for name, digest in manifest.towers.items()}
    facts |= {f"{name} preprocessing": digest for name, digest in manifest.preprocessing.items()}
    facts |= {f"{spec.name} features": f"{spec.tokens}x{spec.width} {spec.dtype}" for spec in manifest.features}
    facts |= {f"stage {name}": json.dumps(stage.to_json()) for name, stage in manifest.stages.items()}
    return facts
