"""Predicted operations and bytes against torch's own counter and against live tensors."""

from __future__ import annotations

import dataclasses
import weakref
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from longvu_model.presets import PRESETS, random_model, tiny
from longvu_model.sight import Media
from pipelines.train import costs, stages, staging
from pipelines.train.collate import Bin, collate
from pipelines.train.config import EngineSettings
from pipelines.train.families.longvu_costs import sample_work
from pipelines.train.families.work import RowWork
from pipelines.train.memory import Memory, parameter_counts, step_memory
from pipelines.train.prepared import PreparedSample
from pipelines.train.torch_engine import TorchEngine
from tests.pipelines.train import problem

TEXT = 24


class LiveBytes(TorchDispatchMode):
    """Bytes of all tensor storages made inside, at the fullest moment."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: dict[int, Any] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen and self._seen[key]() is not None:
            return

        def gone(_: Any) -> None:
            self.now -= size
            self._seen.pop(key, None)

        self._seen[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def tiny_row(frames: tuple[int, ...], stage_name: str = "video") -> list[PreparedSample]:
    """A sample of the tiny preset for each number of frames, square, as tower features; 0 frames for text alone."""
    samples = []
    for index, count in enumerate(frames):
        sample = problem.sample(index, "video" if count else "text", text_tokens=TEXT)
        if count:
            generator = torch.Generator().manual_seed(index)
            features = [torch.randn(count, 144, 64, generator=generator).half() for _ in range(2)]
            shown = Media(
                torch.tensor([count]),
                torch.tensor([[30, 30]]),
                torch.tensor([stage_name == "video"]),
                siglip_features=features[0],
                dino_features=features[1],
                preselected=True,
            )
            sample = dataclasses.replace(sample, media=shown)
        samples.append(sample)
    return samples


def work_of(engine: TorchEngine, samples: list[PreparedSample], online: bool = False) -> RowWork:
    total = RowWork([], 0)
    for sample in samples:
        text = int((sample.input_ids >= 0).sum())
        frames, size, video = 0, (1, 1), True
        if sample.media is not None:
            frames, video = int(sample.media.frame_counts[0]), bool(sample.media.is_video[0])
            size = tuple(sample.media.image_sizes[0].tolist())
        total += sample_work(engine.model.config, text, sample.num_targets, frames, size, is_video=video)
    return dataclasses.replace(total, online_frames=total.frames if online else 0)


def tiny_engine(stage_name: str = "video", **changes: Any) -> TorchEngine:
    settings = {name: changes.pop(name) for name in ("precision", "gradient_checkpointing") if name in changes}
    make = stages.video_stage if stage_name == "video" else stages.image_stage
    stage = make(max_sequence_length=1024, **changes)
    model = random_model(tiny(stage_name))
    staging.apply(model, stage)
    return TorchEngine(model, stage, EngineSettings(**settings))


def counted(engine: TorchEngine, one: Bin) -> float:
    # With the plain kernel, attention is made of products that the counter sees.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        engine.backward([one], 1)
    engine.discard()
    return float(counter.get_total_flops())


CASES: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "text alone": ("video", (0,), {}),
    "all frames full": ("video", (12, 0), {}),
    "some frames full": ("video", (40,), {}),
    "several samples": ("video", (3, 0, 9, 1), {}),
    "image stage": ("image", (1, 1), {}),
    "layers recomputed": ("video", (12, 0), {"gradient_checkpointing": True}),
    "adapters": ("video", (12, 0), {"lora": stages.LoraSettings(rank=4)}),
    "language model frozen": ("video", (12, 0), {"frozen": ("towers", "embeddings", "language_model", "head")}),
    "connector frozen": ("video", (12, 0), {"frozen": ("towers", "aggregator", "projector", "newline")}),
}


@pytest.mark.parametrize("name", CASES)
def test_operations_are_those_that_torch_counts(name: str) -> None:
    stage_name, frames, changes = CASES[name]
    engine = tiny_engine(stage_name, **changes)
    samples = tiny_row(frames, stage_name)
    work = work_of(engine, samples)
    one = collate(samples, engine.device, torch.float32)
    assert engine.forward([one])[0].num_tokens == sum(work.lengths)
    predicted = costs.step_flops(
        engine.model.config, engine.stage, engine.settings, work, causal=False, attention_backward=2.0
    )
    assert predicted == pytest.approx(counted(engine, one), rel=0.02)


def test_operations_of_the_towers_are_counted_too() -> None:
    """The online path: pixels instead of features."""
    stage = problem.stage()
    engine = TorchEngine(problem.model(stage), stage, EngineSettings())
    sample = problem.sample(0, "video", frames=8)
    sample = dataclasses.replace(sample, media=dataclasses.replace(sample.media, image_sizes=torch.tensor([[30, 30]])))
    predicted = costs.step_flops(
        engine.model.config,
        stage,
        engine.settings,
        work_of(engine, [sample], online=True),
        causal=False,
        attention_backward=2.0,
    )
    assert predicted == pytest.approx(counted(engine, collate([sample], engine.device, torch.float32)), rel=0.02)


@pytest.mark.parametrize(
    ("frames", "changes"),
    [
        ((20, 3), {}),
        ((20, 3), {"gradient_checkpointing": True}),
        ((20, 3), {"precision": "bfloat16"}),
        ((20, 3), {"ema_decay": 0.9}),
        ((45,), {}),
        ((0,) * 30, {}),
    ],
)
@pytest.mark.parametrize("accumulates", [True, False])
def test_memory_is_what_a_step_measures(frames: tuple[int, ...], changes: dict[str, Any], accumulates: bool) -> None:
    engine = tiny_engine(**changes)
    samples = tiny_row(frames)
    one = collate(samples, engine.device, engine.settings.dtype)
    inputs = sum(t.nbytes for i in one.inputs if i.media for t in vars(i.media).values() if isinstance(t, torch.Tensor))
    before = sum(p.nbytes for p in engine.model.parameters())
    if engine.settings.precision == "bfloat16":
        before += sum(master.nbytes for master in engine.masters.values())
    before += sum(s[key].nbytes for s in engine.optimizer.state.values() for key in ("exp_avg", "exp_avg_sq"))
    before += sum(average.nbytes for average in engine._averages.values())
    with LiveBytes() as live:
        engine.step([one] * (2 if accumulates else 1), 10)
    measured = before + inputs + live.peak
    predicted = step_memory(
        engine.model.config,
        engine.stage,
        engine.settings,
        work_of(engine, samples),
        accumulates=accumulates,
        device="cpu",
    )
    assert predicted.peak == pytest.approx(measured, rel=0.10)


def test_published_sizes() -> None:
    """Weights of the released models, without making one."""
    for preset, billions in (("longvu_qwen2_7b", 7.6), ("longvu_llama3_2_3b", 3.21), ("longvu_llama3_2_1b", 1.24)):
        counts = parameter_counts(PRESETS[preset]())
        language = counts["language_model"] + counts["embeddings"] + counts.get("head", 0)
        assert language / 1e9 == pytest.approx(billions, rel=0.02)
        assert counts["towers"] / 1e9 == pytest.approx(1.54, rel=0.05)


def test_zero_stages_divide_what_they_say() -> None:
    config, stage = PRESETS["longvu_qwen2_7b"](), stages.video_stage()
    work = RowWork([8192], 512)

    def on(workers: int, zero_stage: int) -> Memory:
        settings = EngineSettings(kind="deepspeed", zero_stage=zero_stage, precision="bfloat16")
        return step_memory(config, stage, settings, work, workers=workers)

    one, eight = on(1, 3), on(8, 3)
    assert eight.optimizer == one.optimizer / 8
    peaks = [on(64, zero_stage).peak for zero_stage in (1, 2, 3)]
    assert peaks == sorted(peaks, reverse=True) and peaks[2] < 0.7 * peaks[0]
    assert on(64, 1).optimizer == on(64, 3).optimizer


def test_the_average_of_the_weights_takes_a_copy_of_them() -> None:
    config, settings = PRESETS["longvu_qwen2_7b"](), EngineSettings(kind="deepspeed", zero_stage=3)
    plain, averaged = (
        step_memory(config, stages.video_stage(ema_decay=decay), settings, RowWork([8192], 512), workers=8)
        for decay in (None, 0.999)
    )
    assert averaged.optimizer == plain.optimizer * 3 / 2  # two moments and one average
