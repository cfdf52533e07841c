"""Training on one GPU: ``python -m tests.benchmarks.gpu.train``.

The Llama-3.2-3B shape with random weights, rows packed to 8192 tokens, bfloat16 with float32 weights in the optimiser,
layers recomputed: once from stored features and once online, from pixels through both towers. Prints tokens per second
and the share of the GPU's peak that useful operations reach (no filler, nothing recomputed, causal attention). Needs
torch, transformers, pydantic and PyYAML; no network. ``--smoke`` runs the tiny preset on a CPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import time
from collections.abc import Sequence

import torch

from longvu_model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX, LongVUConfig
from longvu_model.modeling import LongVUForConditionalGeneration
from longvu_model.packing import FLASH, PACKED_SDPA
from longvu_model.presets import PRESETS
from longvu_model.sight import Media
from pipelines.train import costs, stages, staging
from pipelines.train.collate import collate
from pipelines.train.config import EngineSettings
from pipelines.train.estimate import GPUS
from pipelines.train.families.longvu_costs import sample_work
from pipelines.train.families.work import RowWork
from pipelines.train.memory import step_memory
from pipelines.train.prepared import PreparedSample
from pipelines.train.torch_engine import TorchEngine

SIZE = (360, 640)
TEXT, ANSWER = 96, 48


def row_of(config: LongVUConfig, budget: int, online: bool) -> tuple[list[PreparedSample], RowWork]:
    """Videos of growing length, then text, until the row's budget is full; random content."""
    generator = torch.Generator().manual_seed(0)
    samples: list[PreparedSample] = []
    work = RowWork([], 0)
    for frames in (8, 16, 24, 32, 16, 8, 4, 2, 1, 0, 0, 0, 0):
        text = TEXT if frames else min(4 * TEXT, budget - sum(work.lengths))
        one = sample_work(config, text, ANSWER, frames, SIZE)
        if text <= ANSWER or sum(work.lengths) + one.lengths[0] > budget:
            continue
        work += dataclasses.replace(one, online_frames=frames if online else 0)
        samples.append(sample(config, len(samples), text, frames, online, generator))
    return samples, work


def sample(
    config: LongVUConfig, index: int, text: int, frames: int, online: bool, generator: torch.Generator
) -> PreparedSample:
    ids = torch.randint(0, config.text_config.vocab_size, (text + (frames > 0),), generator=generator)
    media = None
    if frames:
        ids[8] = IMAGE_TOKEN_INDEX
        media = Media(torch.tensor([frames]), torch.tensor([SIZE]), torch.tensor([True]), preselected=True)
        names = ("pixel_values_siglip", "pixel_values_dino") if online else ("siglip_features", "dino_features")
        towers = ((config.siglip_config, config.siglip_config.image_size), (config.dino_config, config.dino_image_size))
        tensors = {}
        for name, (tower, side) in zip(names, towers, strict=True):
            shape = (frames, 3, side, side) if online else (frames, config.token_grid**2, tower.hidden_size)
            tensors[name] = torch.randn(shape, generator=generator).half()
        media = dataclasses.replace(media, **tensors)
    labels = torch.where(torch.arange(len(ids)) < len(ids) - ANSWER, IGNORE_INDEX, ids)
    return PreparedSample(index, f"row-{index}", "video" if frames else "text", ids, labels, ANSWER, media)


def measure(engine: TorchEngine, budget: int, online: bool, steps: int) -> tuple[float, float, RowWork]:
    """Seconds of a median step, seconds of its optimiser alone, and the work of its row."""
    samples, work = row_of(engine.model.config, budget, online)
    times: list[tuple[float, float]] = []
    for _ in range(steps + 1):
        start = clock(engine.device)
        # The copy to the device is part of a step: features and pixels come from the reader.
        bins = [collate(samples, engine.device, engine.settings.dtype)]
        results = engine.backward(bins, work.targets)
        middle = clock(engine.device)
        engine.update(1.0)
        times.append((clock(engine.device) - start, clock(engine.device) - middle))
    assert results[0].num_tokens == sum(work.lengths), "the row is not what its work says"
    median = sorted(times[1:])[len(times[1:]) // 2]
    return *median, work


def clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def build(preset: str, device: torch.device, settings: EngineSettings) -> TorchEngine:
    config = PRESETS[preset]()
    stage = stages.video_stage(max_sequence_length=config.max_sequence_length)
    default = torch.get_default_dtype()
    torch.set_default_dtype(settings.dtype)
    try:
        with device:
            model = LongVUForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(default)
    staging.apply(model, stage)
    return TorchEngine(model, stage, settings, device)


def peak_of(device: torch.device, given: float | None) -> float | None:
    """Operations per second of the device's data sheet, if it is known."""
    if given is not None:
        return given * 1e12
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((gpu.peak_flops for gpu in GPUS.values() if gpu.name.split("-")[0] in name), None)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="longvu_llama3_2_3b", choices=sorted(PRESETS))
    parser.add_argument("--device", default="cuda", type=torch.device)
    parser.add_argument("--budget", type=int, default=8192, help="tokens of a row")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--peak-tflops", type=float, help="of the device in bfloat16, where its name is not known")
    parser.add_argument("--no-checkpointing", action="store_true", help="keep all activations")
    parser.add_argument("--smoke", action="store_true", help="the tiny preset on a CPU")
    options = parser.parse_args(argv)
    if options.smoke:
        options.preset, options.device, options.budget, options.steps = "tiny", torch.device("cpu"), 1024, 1
    flash = options.device.type == "cuda" and importlib.util.find_spec("flash_attn") is not None
    settings = EngineSettings(
        precision="bfloat16",
        attention=FLASH if flash else PACKED_SDPA,
        gradient_checkpointing=not options.no_checkpointing,
    )
    engine = build(options.preset, options.device, settings)
    config, stage, peak = engine.model.config, engine.stage, peak_of(options.device, options.peak_tflops)
    print(f"{options.preset}, rows of {options.budget}, {settings.attention}, torch {torch.__version__}")
    useful = EngineSettings(precision="bfloat16")
    for online in (False, True):
        if options.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        step_s, update_s, work = measure(engine, options.budget, online, options.steps)
        flops = costs.step_flops(config, stage, useful, work, attention_backward=2.0)
        flops -= costs.language_model_flops(config, work)["head"]  # the logits that are made a second time
        share = f"{flops / step_s / peak:.1%} of the peak" if peak else "no peak known"
        line = (
            f"{'online ' if online else 'features'}: {sum(work.lengths) / step_s:9.0f} tokens/s, "
            f"{flops / step_s / 1e12:6.1f} useful TFLOP/s, {share}; "
            f"{sum(work.lengths)} tokens, {work.frames} frames, {step_s:.3f} s ({update_s:.3f} s optimiser)"
        )
        if options.device.type == "cuda":
            predicted = step_memory(config, stage, settings, work).peak
            line += f", {torch.cuda.max_memory_allocated() / 1e9:.1f} GB ({predicted / 1e9:.1f} predicted)"
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
