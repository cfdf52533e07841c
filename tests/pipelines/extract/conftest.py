"""Extraction without Ray: the functions that the actors wrap, one after the other. The reference for real runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipelines.extract import store_uri
from pipelines.extract.carrier import pack, unpack
from pipelines.extract.commit import unit_tables
from pipelines.extract.config import ExtractConfig
from pipelines.extract.decode import DecodeSettings, decode_unit
from pipelines.extract.encode import Encoder, EncodeSettings, encode_unit
from pipelines.extract.extraction import chosen_features, store_manifest
from pipelines.extract.families import family
from pipelines.extract.fetch import Fetcher
from pipelines.extract.index import index_sources
from pipelines.extract.measure import measure
from pipelines.extract.plan import plan_units
from pipelines.extract.stage_columns import run_stage
from pipelines.extract.stages import stages_of
from pipelines.extract.towers import TowerBundle, load_towers
from pipelines.store import FeatureStore, commit_unit


@pytest.fixture(scope="session")
def bundle(workdir: Path) -> TowerBundle:
    return load_towers(workdir / "models" / "tiny", ("dinov2", "siglip"))


def extract_without_ray(config: ExtractConfig, bundle: TowerBundle) -> FeatureStore:
    """A store with everything that the configuration asks for."""
    names = chosen_features(config, family(bundle.family))
    bundle = dataclasses.replace(bundle, weights={name: bundle.weights[name] for name in names})
    manifest = store_manifest(config, bundle, {})
    store = FeatureStore.create(store_uri(config), manifest)
    sources = index_sources(config.source)
    extents = {item.uri: measure(item.uri, config.sampling, config.unit_frames) for item in sources}
    pixels = {name: bundle.pixels(name) for name in names}
    stages = stages_of(config.stages)
    edges_px = tuple(stage.declared.edge_px for stage in stages)
    images = {name: bundle.pixels(name, "image") for name in names}
    decode = DecodeSettings(config.sampling, pixels, config.features.jpeg_edge_px, config.decode, edges_px, images)
    specs = manifest.features
    encode = EncodeSettings(
        specs, config.keep_threshold, config.keep_all_below, config.encode.precision, config.encode.batch_frames
    )
    encoder = Encoder.load(bundle, encode)
    fetcher = Fetcher(None, attempts=1)
    for unit in plan_units(sources, extents, config.digest(), config.unit_frames):
        decoded = unpack(pack(*decode_unit(unit, decode, fetcher)))
        for stage in stages:
            decoded = unpack(pack(*run_stage(*decoded, stage, stage.build(), edges_px)))
        encoded = unpack(pack(*encode_unit(*decoded, encoder)))
        frames, videos = unit_tables(*encoded, specs, stages)
        commit_unit(store.uri, unit.unit_id, frames, videos, run_id="reference")
    return store
