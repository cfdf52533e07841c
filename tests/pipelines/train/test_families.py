"""The sibling families through the whole of training: what is planned, packed, learned and exported."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jobs.train import main
from longvu_model.llamavid.stages import is_trained
from longvu_model.presets import build_preset
from longvu_model.video import FrameSampling
from longvu_model.videollamb.processing import VideoLLaMBProcessor
from pipelines.errors import UserError
from pipelines.extract.config import ExtractConfig
from pipelines.extract.towers import load_towers
from pipelines.train.annotations import AnnotationFile
from pipelines.train.collate import collate
from pipelines.train.config import EngineSettings, TrainConfig
from pipelines.train.costs import step_flops
from pipelines.train.engine import Engine
from pipelines.train.evaluation import guesses, wanted
from pipelines.train.families import Family, TrainableModel, family_of
from pipelines.train.families.base import Watchers
from pipelines.train.manifest import Manifest
from pipelines.train.manifest_builder import ManifestSettings, build_manifest
from pipelines.train.memory import parameter_counts
from pipelines.train.online import OnlineEncoder
from pipelines.train.prepared import PreparedSample
from pipelines.train.reader import Reader
from pipelines.train.run import open_family, staged_model
from pipelines.train.samples import Kind, MediaRef
from pipelines.train.stages import part_of
from pipelines.train.torch_engine import TorchEngine
from tests.pipelines.conftest import write_video
from tests.pipelines.extract.conftest import extract_without_ray
from tests.pipelines.train.conftest import row
from tests.pipelines.train.problem import relative_error, run_workers

FLOAT32, CPU = torch.float32, torch.device("cpu")
PRESETS = ("tiny_videollamb", "tiny_llamavid")
ROWS = [
    row("<video>\nWhat is shown?", "Scenes.", video="scenes.mp4"),
    row("<video>\nHow many?", "One.", video="one.mp4"),
    row("<image>\nWhat is shown?", "Noise, and more of it.", image="picture.png"),
    {
        "id": "turns",
        "video": "scenes.mp4",
        "conversations": [
            {"from": "human", "value": "<video>\nWhat is shown?"},
            {"from": "gpt", "value": "Scenes."},
            {"from": "human", "value": "And what is <image> in a text?"},
            {"from": "gpt", "value": "Only text: <video>."},
        ],
    },
    row("Name three rivers.", "Rhine, <image> and Po."),
]


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sibling-media")
    write_video(folder / "scenes.mp4", [5, 4, 2], seed=1)
    write_video(folder / "one.mp4", [1], seed=2)
    write_video(folder / "long.mp4", [10, 9, 11, 10], seed=3)
    picture = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)
    Image.fromarray(picture).save(folder / "picture.png")
    return folder


@pytest.fixture(scope="session")
def presets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sibling-presets")
    for name in PRESETS:
        build_preset(name, folder / name)
    return folder


def config_of(name: str = "instruction", **changes: Any) -> TrainConfig:
    stage = {"name": name, "max_sequence_length": 1024, "learning_rate": 1e-3, **changes}
    return TrainConfig.model_validate({"data": {"annotations": "none.json"}, "stage": stage})


@dataclass
class Sibling:
    """A staged model with its manifest of :data:`ROWS` and a reader that decodes."""

    config: TrainConfig
    model: TrainableModel
    family: Family[Any]
    manifest: Manifest
    reader: Reader

    def samples(self) -> list[PreparedSample]:
        found = [self.reader.prepare(index) for index in range(len(self.manifest))]
        assert all(isinstance(one, PreparedSample) for one in found), found
        return found  # type: ignore[return-value]

    def engine(self, **settings: Any) -> TorchEngine:
        return TorchEngine(self.model, self.config.stage, EngineSettings(**settings))


def sibling(
    preset: str,
    presets: Path,
    media: Path,
    folder: Path,
    config: TrainConfig | None = None,
    rows: list[dict[str, Any]] = ROWS,
) -> Sibling:
    config = config or config_of()
    model = staged_model(config, presets / preset)
    family = family_of(model.config).open(presets / preset, model.config, config.stage)
    (folder / "rows.json").write_text(json.dumps(rows))
    files = [AnnotationFile(f"file://{folder}/rows.json", f"file://{media}")]
    manifest = build_manifest(str(folder / "manifests"), files, family, None, ManifestSettings(4096))
    online = OnlineEncoder(family.watchers(model, presets / preset, FLOAT32), FrameSampling(fps=1.0))
    return Sibling(config, model, family, manifest, Reader(manifest, family, None, online))


@pytest.mark.parametrize(
    ("preset", "changes"),
    [("tiny_videollamb", {}), ("tiny_videollamb", {"per_scene_loss": True}), ("tiny_llamavid", {})],
)
def test_what_is_planned_is_what_is_computed(
    preset: str, changes: dict[str, Any], presets: Path, media: Path, tmp_path: Path
) -> None:
    """Tokens and targets of each sample; a sample is the same beside another; the last sequence is what answers."""
    one = sibling(preset, presets, media, tmp_path, config_of(**changes))
    engine, table = one.engine(), one.manifest.table.to_pydict()
    assert one.manifest.num_online == 4 and len(one.manifest) == len(ROWS)
    samples = one.samples()
    alone = []
    for sample in samples:
        (result,) = engine.forward([collate([sample], CPU, FLOAT32)])
        planned = table["num_tokens"][sample.index]
        # scenes may be shorter than they can be at most
        exact = preset == "tiny_llamavid" or sample.modality != "video" or sample.sample_id.endswith(":1")
        assert result.num_tokens == planned if exact else result.num_tokens <= planned
        assert result.num_targets == [sample.num_targets] == [table["num_target_tokens"][sample.index]]
        alone.append(float(result.loss_sums))
    (together,) = engine.forward([collate(samples, CPU, FLOAT32)])
    assert together.loss_sums.tolist() == alone, "a neighbour changes nothing, to the last bit"
    scenes = {True: 4, False: 1}[bool(changes)]
    assert [sample.num_sequences for sample in samples] == [scenes, 1, 1, scenes, 1]
    with guesses(engine) as guessed:
        engine.forward([collate(samples, CPU, FLOAT32)])
    assert len(torch.cat(guessed)) == sum(len(wanted(sample)) * sample.num_sequences for sample in samples)


def test_all_turns_look_at_the_video_anew_guided_by_their_question(presets: Path, media: Path, tmp_path: Path) -> None:
    one = sibling("tiny_llamavid", presets, media, tmp_path)
    samples = one.samples()
    shown = samples[3].media
    assert len(shown.views.guide_ids) == 2 and shown.views.media.tolist() == [0, 0]
    words = one.family.guide_tokenizer  # type: ignore[attr-defined]  # it is LLaMA-VID's
    told = [words.decode(ids[mask]) for ids, mask in zip(shown.views.guide_ids, shown.views.guide_mask, strict=True)]
    assert "shown" in told[0] and "text" in told[1]
    assert samples[4].media is None
    again = sibling("tiny_llamavid", presets, media, tmp_path).samples()
    assert torch.equal(again[3].input_ids, samples[3].input_ids), "where a later marker stands is decided once"


def test_videos_are_mirrored_where_the_checkpoint_asks_for_it(presets: Path, tmp_path: Path) -> None:
    """All windows of a video by one coin, the same in every run; about half of all videos, and no picture."""
    shutil.copytree(presets / "tiny_videollamb", tmp_path, dirs_exist_ok=True)
    processor = VideoLLaMBProcessor.from_pretrained(tmp_path)
    processor.video_processor.random_flip = True
    processor.save_pretrained(tmp_path)
    model = staged_model(config_of(), tmp_path)
    family = family_of(model.config).open(tmp_path, model.config, config_of().stage)
    frames = np.random.default_rng(0).integers(0, 256, (16, 96, 96, 3), np.uint8)
    mirrored = []
    with torch.no_grad():
        plain, turned = (
            seen(family.watchers(model, presets / "tiny_videollamb", FLOAT32), "0.mp4", shown)
            for shown in (frames, np.ascontiguousarray(frames[:, :, ::-1]))
        )
        watchers = family.watchers(model, tmp_path, FLOAT32)
        for name in map(str, range(8)):
            shown = seen(watchers, f"{name}.mp4", frames)
            mirrored.append(torch.equal(shown, turned))
            assert mirrored[-1] or torch.equal(shown, plain)
            assert torch.equal(shown, seen(watchers, f"{name}.mp4", frames))
        pictures = [seen(watchers, f"{name}.png", frames[:1]) for name in range(8)]
    assert 0 < sum(mirrored) < 8
    assert all(torch.equal(one, pictures[0]) for one in pictures)


def seen(watchers: Watchers, path: str, frames_FHWC: np.ndarray) -> torch.Tensor:
    """Features of a medium shown in windows of eight frames."""
    kind: Kind = "video" if path.endswith(".mp4") else "image"
    watcher = watchers(MediaRef(kind, path, path), 10, 1)
    for window in np.array_split(frames_FHWC, max(1, len(frames_FHWC) // 8)):
        watcher.add(window)
    return watcher.finish()


@pytest.mark.parametrize("stage", ["alignment", "instruction", "long_video"])
def test_published_stages_train_the_published_parameters(stage: Any, presets: Path) -> None:
    """LLaMA-VID's, parameter by parameter; adapters of the Q-Former's input included."""
    model = staged_model(config_of(stage), presets / "tiny_llamavid")
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == is_trained(name, stage), name
    assert model.config.max_sequence_length == 1024


def test_a_longer_stage_stretches_the_positions(presets: Path) -> None:
    model = staged_model(
        config_of("long_video", max_sequence_length=4096).changed(token_budget=8192), presets / "tiny_llamavid"
    )
    assert model.config.text_config.rope_parameters["factor"] == 2.0
    assert model.config.text_config.max_position_embeddings == 2048
    plain = staged_model(config_of(), presets / "tiny_llamavid")
    ours, theirs = (one.model.language_model.rotary_emb.inv_freq for one in (model, plain))
    torch.testing.assert_close(ours * 2, theirs)


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("tiny_videollamb", {"name": "video"}, "VideoLLaMB has one stage: use instruction"),
        ("tiny_llamavid", {"name": "image"}, "LLaMA-VID has the stages alignment, instruction, long_video"),
        ("tiny_llamavid", {"frozen": ("towers", "bridge")}, "bridge: this model's parts are"),
    ],
)
def test_stages_of_other_families_are_refused(
    preset: str, changes: dict[str, Any], message: str, presets: Path
) -> None:
    with pytest.raises(UserError, match=message):
        staged_model(config_of(**changes), presets / preset)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_part_learns_or_keeps_its_bits(preset: str, presets: Path, media: Path, tmp_path: Path) -> None:
    one = sibling(preset, presets, media, tmp_path, config_of(warmup_ratio=0.0))
    before = {name: p.detach().clone() for name, p in one.model.named_parameters()}
    engine, samples = one.engine(), one.samples()
    losses = [engine.step([collate(samples, CPU, FLOAT32)], sum(s.num_targets for s in samples)).loss for _ in range(6)]
    assert losses[-1] < losses[0] - 0.5
    changed = {part_of(name) for name, p in one.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {part_of(name) for name in before} - {"towers"}
    unread = {
        name for name, p in one.model.named_parameters() if torch.equal(p, before[name]) and part_of(name) != "towers"
    }
    # the Q-Former's text side behind its last cross-attention, and positions that no text reaches
    assert all("text" in name or "layers" in name or "position" in name or "key" in name for name in unread), unread


def gradients_of(rank: int, kind: str, preset: str, presets: Path, media: Path, folder: Path) -> dict[str, Any]:
    """Gradient of one global batch and losses of two steps on it, of this rank's share of three bins."""
    from pipelines.train.deepspeed_engine import DeepSpeedEngine

    changes = {"per_scene_loss": True} if preset == "tiny_videollamb" else {}
    (folder / f"{kind}-{rank}").mkdir()
    one = sibling(preset, presets, media, folder / f"{kind}-{rank}", config_of(warmup_ratio=0.0, **changes))
    # without dropout the engines compute the same, however bins are dealt
    for module in one.model.modules():
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    if kind == "torch":
        engine: Engine = one.engine()
    else:
        settings = EngineSettings(kind="deepspeed", zero_stage=int(kind), bucket_elements=20000)  # type: ignore[arg-type]
        engine = DeepSpeedEngine(one.model, one.config.stage, settings)
    samples = one.samples()
    bins = [samples[:2], samples[2:4], samples[4:]]
    mine = [collate(members, CPU, FLOAT32) for members in bins[engine.rank :: engine.world_size]]
    count = sum(sample.num_targets for members in bins for sample in members)
    engine.backward(mine, count)
    found = engine.gradients()
    engine.discard()
    losses = [engine.step(mine, count, 1.0).loss for _ in range(2)]
    return {"gradient": torch.cat([found[name].flatten() for name in sorted(found)]), "losses": losses}


@pytest.mark.parametrize("preset", PRESETS)
def test_zero_computes_what_plain_torch_does(preset: str, presets: Path, media: Path, tmp_path: Path) -> None:
    """Two workers with bins of unlike make-up; per-scene loss for VideoLLaMB."""
    expected = gradients_of(0, "torch", preset, presets, media, tmp_path)
    for ranks in run_workers(2, zero_gradients, tmp_path, preset, presets, media, tmp_path):
        for mine in ranks:
            assert relative_error(mine["gradient"], expected["gradient"]) < 1e-5
            assert mine["losses"] == pytest.approx(expected["losses"], abs=1e-5)


def zero_gradients(rank: int, *arguments: Any) -> list[dict[str, Any]]:
    return [gradients_of(rank, kind, *arguments) for kind in ("2", "3")]


@pytest.mark.parametrize("preset", PRESETS)
def test_operations_are_those_that_torch_counts(preset: str, presets: Path, media: Path, tmp_path: Path) -> None:
    """Of a video whose four scenes are all long enough; guiding texts are counted at a usual length."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    one = sibling(preset, presets, media, tmp_path, rows=[row("<video>\nWhat?", "Four scenes.", video="long.mp4")])
    engine, sample = one.engine(), one.samples()[0]
    table = one.manifest.table.to_pydict()
    names = ("num_text_tokens", "num_visual_tokens", "num_target_tokens", "num_frames")
    work = one.family.row_work(one.model.config, *(table[name][0] for name in names), 0)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        engine.backward([collate([sample], CPU, FLOAT32)], 1)
    predicted = step_flops(
        one.model.config, one.config.stage, engine.settings, work, causal=False, attention_backward=2.0
    )
    assert predicted == pytest.approx(counter.get_total_flops(), rel=0.15)


def test_published_sizes() -> None:
    from longvu_model.presets import preset_config

    for name, billions in (("videollamb_7b", 7.4), ("llamavid_7b", 8.0)):
        counts = parameter_counts(preset_config(name))
        assert sum(counts.values()) == pytest.approx(billions * 1e9, rel=0.08), counts


@pytest.mark.parametrize("preset", PRESETS)
def test_a_run_is_trained_exported_and_answers(
    preset: str, presets: Path, media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`plan`, `estimate`, `train` and `export` on the shipped configuration; the export answers a question."""
    from pipelines.engine import Engine as AnswerEngine
    from pipelines.engine import SamplingParams
    from pipelines.video_models import load_video_model

    (tmp_path / "rows.json").write_text(json.dumps(ROWS * 2))
    config = f"jobs/configs/train_{preset}.yaml"
    words = ["--config", config, f"model={presets / preset}", f"data.annotations={tmp_path / 'rows.json'}"]
    words += [f"data.media_root={media}", f"data.heldout={tmp_path / 'rows.json'}", f"output={tmp_path}"]
    words += [f"workdir={tmp_path}", "stage.epochs=1", "stage.global_batch_samples=5", "workers.count=1"]
    assert main(["plan", *words]) == 0
    assert main(["estimate", *words]) == 0
    assert "weights:" in capsys.readouterr().out
    assert main(["train", "--in-process", *words]) == 0
    told = capsys.readouterr().out
    assert "heldout/loss" in told
    checkpoint = next(line for line in told.splitlines() if line.startswith("checkpoint: ")).removeprefix(
        "checkpoint: "
    )
    for layout in ("longvu", "published"):
        exported = tmp_path / layout
        assert main(["export", checkpoint, str(exported), "--layout", layout]) == 0
        model = load_video_model(exported)
        watched = model.watch(media / "scenes.mp4")
        messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What is shown?"}]}]
        engine = AnswerEngine(model)
        try:
            done = engine.submit(model.prompt(messages, [watched]), SamplingParams(max_tokens=4)).result()
        finally:
            engine.close()
        assert done.token_ids


SRT = "1\n00:00:01,500 --> 00:00:03,000\nA gate <image> opens...\n\n2\n00:00:08,000 --> 00:00:09,500\nIt closes.\n"


def test_films_are_told_with_subtitles_between_their_frames(presets: Path, media: Path, tmp_path: Path) -> None:
    """The long-video stage: features from a store, a slot for each token, one question that guides all of them."""
    folder = presets / "tiny_llamavid"
    extraction = ExtractConfig(source=str(media), store=str(tmp_path), workdir=str(tmp_path), model=str(folder))
    store = extract_without_ray(extraction, load_towers(folder))
    (tmp_path / "said").mkdir()
    (tmp_path / "said" / "scenes.srt").write_text(SRT)
    rows = [*ROWS[:2], ROWS[3]]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    config = config_of("long_video").changed(
        data={"annotations": str(tmp_path / "rows.json"), "subtitles": str(tmp_path / "said"), "store": store.uri}
    )
    model = staged_model(config, folder)
    family = open_family(config, folder, model.config, store)
    files = [AnnotationFile(f"file://{tmp_path}/rows.json", f"file://{media}")]
    settings = ManifestSettings(4096, max_quarantined_fraction=0.5)
    manifest = build_manifest(str(tmp_path / "manifests"), files, family, store, settings)
    assert manifest.quarantine["cause"].to_pylist() == ["several questions"]
    reader = Reader(manifest, family, store)
    film, plain = (reader.prepare(index) for index in range(2))
    assert isinstance(film, PreparedSample) and isinstance(plain, PreparedSample)
    slots = (film.input_ids < 0).nonzero()[:, 0].tolist()
    assert len(slots) == 2 * 11 and film.media.token_slots and len(film.media.views.guide_ids) == 1
    # frames at 0 to 10 s: the first subtitle ends with the one at 2 s behind it, the second at 9 s
    gaps = [place for place, (one, after) in enumerate(itertools.pairwise(slots)) if after > one + 1]
    assert gaps == [5, 19]
    told = family.tokenizer.decode(film.input_ids[slots[5] + 1 : slots[6]])
    assert told.replace(" ", "") == "Agate<image>opens", "what is said is no slot, and ellipses are left out"
    assert not plain.media.token_slots and int((plain.input_ids < 0).sum()) == 1
    engine = TorchEngine(model, config.stage, EngineSettings())
    for sample in (film, plain):
        (result,) = engine.forward([collate([sample], CPU, FLOAT32)])
        assert result.num_tokens == manifest.table["num_tokens"][sample.index].as_py()
    with pytest.raises(UserError, match="only long_video reads subtitles"):
        open_family(config.changed(stage=config_of().stage), folder, model.config, store)
