"""Stores of the sibling models' features: what is recalled from them is what watching the video gives."""

from __future__ import annotations

import dataclasses
import functools
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jobs.extract import main as extract
from longvu_model.presets import build_preset
from longvu_model.subtitles import Subtitle
from longvu_model.tower_runner import TowerRunner
from longvu_model.video import FrameSampling
from pipelines.config import load_config
from pipelines.errors import UserError
from pipelines.extract.config import ExtractConfig
from pipelines.extract.estimate import estimate
from pipelines.extract.towers import check_towers, load_towers
from pipelines.extract.work import find_work
from pipelines.store import FeatureStore, StoreError, compact
from pipelines.video_models import llamavid as llamavid_module
from pipelines.video_models import load_video_model
from pipelines.video_models.base import Prompt, VideoModel
from tests.pipelines.conftest import write_video
from tests.pipelines.extract.conftest import extract_without_ray

FEATURES = {"tiny_llamavid": "eva", "tiny_videollamb": "languagebind"}
# 29 frames: two units of 16, and a last temporal window that is not full; 5 frames: less than a window.
LONG, SHORT, PICTURE = "long.mp4", "short.mp4", "picture.png"


@dataclass(frozen=True)
class Sibling:
    """A model, the videos, and a store of its features."""

    preset: str
    folder: Path
    model: Any
    videos: Path
    store: FeatureStore
    feature: str

    def towers(self) -> list[torch.nn.Module]:
        """All of the model."""
        inner = self.model.model.model
        return [inner.tower] if hasattr(inner, "tower") else [inner.towers.image, inner.towers.video]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / LONG, [9, 8, 12], size=(160, 96))
    write_video(folder / SHORT, [5], seed=4, size=(64, 96))
    pixels = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)
    Image.fromarray(pixels).save(folder / PICTURE)
    return folder


def config_of(folder: Path, videos: Path, root: Path, *overrides: str) -> ExtractConfig:
    words = [f"source={videos}", f"store={root}", f"model={folder}", f"workdir={root}", "encode.batch_frames=16"]
    return load_config(ExtractConfig, None, [*words, "unit_frames=16", *overrides])


@pytest.fixture(scope="module")
def siblings(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Sibling]:
    """Each by its preset, made once."""

    @functools.cache
    def made(preset: str) -> Sibling:
        root = tmp_path_factory.mktemp(preset)
        folder = build_preset(preset, root / "model")
        store = extract_without_ray(config_of(folder, videos, root), load_towers(folder))
        return Sibling(preset, folder, load_video_model(folder), videos, store, FEATURES[preset])

    return made


@pytest.fixture(params=FEATURES)
def sibling(request: pytest.FixtureRequest, siblings: Callable[[str], Sibling]) -> Sibling:
    return siblings(request.param)


@pytest.fixture
def llamavid(siblings: Callable[[str], Sibling]) -> Sibling:
    return siblings("tiny_llamavid")


@pytest.fixture
def videollamb(siblings: Callable[[str], Sibling]) -> Sibling:
    return siblings("tiny_videollamb")


def ask(kind: str) -> list[dict[str, object]]:
    return [{"role": "user", "content": [{"type": kind}, {"type": "text", "text": "Which colour?"}]}]


def assert_close(found: Prompt, expected: Prompt) -> None:
    """Equal up to what rounding features to 16 bits changes."""
    assert len(found) == len(expected) and found.visual_tokens == expected.visual_tokens
    scale = float(expected.embeds.abs().max())
    np.testing.assert_allclose(found.embeds.numpy(), expected.embeds.numpy(), rtol=0, atol=2e-3 * scale)


@pytest.mark.parametrize("name", [LONG, SHORT, PICTURE])
def test_what_is_recalled_is_what_watching_gives(name: str, sibling: Sibling) -> None:
    """Up to the rounding of features to 16 bits; nothing is decoded, for the store is asked by the video's id."""
    model: VideoModel = sibling.model
    watched = model.watch(sibling.videos / name, FrameSampling(fps=1))
    rows = sibling.store.videos(["video_id", "source"]).to_pylist()
    (video_id,) = (row["video_id"] for row in rows if row["source"].endswith(name))
    encoded: list[str] = []
    hooks = [one.register_forward_hook(lambda *_: encoded.append("call")) for one in sibling.towers()]
    try:
        recalled = model.recall(sibling.store, video_id)
        prompt = model.prompt(ask(watched.kind), [recalled])
        assert not encoded
        model.watch(sibling.videos / name, FrameSampling(fps=1))
        assert encoded, "the hooks would have seen it"
    finally:
        for hook in hooks:
            hook.remove()
    expected = model.prompt(ask(watched.kind), [watched])
    assert (recalled.kind, recalled.num_sampled) == (watched.kind, watched.num_sampled)
    assert recalled.kept_times_s == watched.kept_times_s and prompt.kept_times_s == expected.kept_times_s
    assert_close(prompt, expected)


def test_a_store_without_dinov2_stores_every_frame_and_selects_none(sibling: Sibling) -> None:
    store = sibling.store
    record = json.loads((Path(store.uri.removeprefix("file://")) / "store.json").read_text())
    assert (record["format_version"], record["keep_threshold"]) == (3, None)
    row = next(row for row in store.videos().to_pylist() if row["source"].endswith(LONG))
    assert row["num_sampled"] == row["num_stored"] == 29 and row["similarity"] == row["kept"] == []
    frames = store.frames(row["video_id"])
    assert frames["similarity"].null_count == frames["kept"].null_count == 29
    loaded = store.load(row["video_id"])
    assert loaded.similarity is None and loaded.kept.all() and list(loaded.features) == [sibling.feature]
    blocks = list(store.blocks(row["video_id"], sibling.feature))
    assert len(blocks) > 1 and torch.equal(torch.cat(blocks), loaded.features[sibling.feature])
    with pytest.raises(KeyError):
        loaded.dinov2  # noqa: B018
    said = f"has features of {sibling.feature} .* Selecting frames by similarity needs dinov2"
    with pytest.raises(StoreError, match=said):
        store.load(row["video_id"], 0.8)
    with pytest.raises(StoreError, match=said):
        store.select(0.8)


def test_a_split_video_has_the_features_of_a_whole_one(sibling: Sibling, tmp_path: Path) -> None:
    whole = extract_without_ray(
        config_of(sibling.folder, sibling.videos, tmp_path, "unit_frames=512"), load_towers(sibling.folder)
    )
    column = f"{sibling.feature}_digest"
    assert len(whole.commits) < len(sibling.store.commits)
    assert whole.videos()[column].null_count == 0
    assert whole.videos()[column].equals(sibling.store.videos()[column])
    assert compact(whole.uri).units == len(whole.commits)
    whole.refresh()
    assert whole.videos()[column].equals(sibling.store.videos()[column])
    assert whole.verify(deep=True).problems == ()


def test_other_towers_and_other_pixels_are_named(sibling: Sibling, workdir: Path, videos: Path, tmp_path: Path) -> None:
    check_towers(sibling.store, sibling.folder)
    with pytest.raises(StoreError, match=f"has features of {sibling.feature}, which LongVU .* does not have"):
        check_towers(sibling.store, workdir / "models" / "tiny")
    other = build_preset(sibling.preset, tmp_path / "other", seed=1)
    with pytest.raises(StoreError, match=f"another {sibling.feature} tower"):
        check_towers(sibling.store, other)
    manifest = dataclasses.replace(sibling.store.manifest, preprocessing={sibling.feature: "other"})
    with pytest.raises(StoreError, match=f"other pixels for the {sibling.feature} tower"):
        check_towers(FeatureStore(sibling.store.uri, manifest), sibling.folder)
    config = config_of(sibling.folder, videos, tmp_path, "features.siglip=true")
    with pytest.raises(UserError, match=r"has no siglip tower, .*; set features\.siglip=false"):
        estimate(config, find_work(config))


def test_a_dry_run_counts_every_frame(sibling: Sibling, tmp_path: Path) -> None:
    config = config_of(sibling.folder, sibling.videos, tmp_path, "keep_all_below=0")
    predicted = estimate(config, find_work(config), resources={"CPU": 2.0})
    assert predicted.stored_frames.value == predicted.workload.frames.value == 35
    spec = sibling.store.manifest.features[0]
    assert predicted.stored_bytes.value == pytest.approx(35 * spec.frame_bytes * 0.85)
    assert any(sibling.feature in note for note in predicted.notes)


def test_the_job_makes_the_same_store(videollamb: Sibling, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On Ray, through the entry point; and a second time nothing is left to do."""
    sibling = videollamb
    config = config_of(sibling.folder, sibling.videos, tmp_path)
    words = [f"{name}={value}" for name, value in (("source", sibling.videos), ("store", tmp_path))]
    words += [f"workdir={tmp_path}", f"model={sibling.folder}", "unit_frames=16", "encode.batch_frames=16"]
    words += [f"name={config.name}", "sampling=fps:1", "features.siglip=false", "features.jpeg_edge_px=0"]
    for said in ("with features 35", "nothing to do"):
        assert extract([*words, "keep_all_below=256"]) == 0
        assert said in (shown := capsys.readouterr().out) and "kept" not in shown
    store = FeatureStore.open(next((tmp_path / "features").iterdir()))
    columns = ["video_id", "status", f"{sibling.feature}_digest"]
    assert store.videos().select(columns).equals(sibling.store.videos().select(columns))


def test_features_of_long_videos_stay_in_the_store(llamavid: Sibling, monkeypatch: pytest.MonkeyPatch) -> None:
    model, path = llamavid.model, llamavid.videos / LONG
    held = model.recall(llamavid.store, path)
    monkeypatch.setattr(llamavid_module, "HELD_BYTES", 1)
    left = pickle.loads(pickle.dumps(model.recall(llamavid.store, path)))
    assert held.nbytes > 0 == left.nbytes and left.num_frames == 29
    subtitles = [Subtitle(2.0, 4.0, "hello"), Subtitle(20.0, 21.0, "good bye")]
    film = [{"role": "user", "content": [{"type": "video", "subtitles": subtitles}, {"type": "text", "text": "Who?"}]}]
    for messages in (ask("video"), film):
        expected, found = (model.prompt(messages, [medium]) for medium in (held, left))
        np.testing.assert_allclose(found.embeds.numpy(), expected.embeds.numpy(), atol=1e-5)
        assert found.visual_tokens == expected.visual_tokens == 58


@pytest.mark.parametrize("semantics", ["corrected", "published"])
def test_published_films_are_seen_without_class_token(semantics: str, llamavid: Sibling) -> None:
    """An ordinary question is answered as about the file under both semantics; a film as the release stores it."""
    path = llamavid.videos / SHORT
    model = load_video_model(llamavid.folder, overrides={"semantics": semantics})
    recalled, watched = model.recall(llamavid.store, path), model.watch(path)
    assert_close(model.prompt(ask("video"), [recalled]), model.prompt(ask("video"), [watched]))
    part = {"type": "video", "subtitles": [Subtitle(1, 2, "hello")]}
    film = [{"role": "user", "content": [part, {"type": "text", "text": "Which colour?"}]}]
    without = dataclasses.replace(watched, features_FTD=watched.features_FTD[:, 1:], identity="without class tokens")
    whole, cut = (model.prompt(film, [medium]).embeds for medium in (watched, without))
    assert torch.equal(whole, cut) == (semantics == "published")
    assert_close(model.prompt(film, [recalled]), model.prompt(film, [watched]))


def test_published_semantics_take_whole_windows_only(
    videollamb: Sibling, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(videollamb.model.config, "semantics", "published")
    with pytest.raises(StoreError, match=r"29 frames are stored, .* multiple of 8 is needed; .*uniform:16"):
        videollamb.model.recall(videollamb.store, videollamb.videos / LONG)
    config = config_of(videollamb.folder, videollamb.videos, tmp_path, "sampling=uniform:16")
    store = extract_without_ray(config, load_towers(videollamb.folder))
    recalled = videollamb.model.recall(store, videollamb.videos / LONG)
    watched = videollamb.model.watch(videollamb.videos / LONG, FrameSampling(num_frames=16))
    assert recalled.scene_ends == watched.scene_ends
    assert_close(*(videollamb.model.prompt(ask("video"), [medium]) for medium in (recalled, watched)))


def test_windows_do_not_cross_sources_in_batches_of_one_shape(videollamb: Sibling) -> None:
    """As on a GPU, where batches run on over the sources of a unit."""
    tower = load_towers(videollamb.folder).build("languagebind")
    pixels = np.random.default_rng(0).standard_normal((29, 3, 96, 96)).astype(np.float32)
    alone, packed = (
        TowerRunner(tower, device=torch.device("cpu"), dtype=torch.float32, batch_frames=16, one_shape=one_shape)
        for one_shape in (False, True)
    )
    expected = torch.cat([part for source in (pixels[:5], pixels[5:]) for part in alone.run(source)])
    found = torch.cat(list(packed.run(pixels, [5, 24])))
    assert found.shape == expected.shape == (29, 37, 64)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
