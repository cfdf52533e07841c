"""Encoding on a GPU, from 8-bit frames in host memory: ``python -m tests.benchmarks.gpu.encode``.

The published tower (DINOv2 giant, 378 x 378 pixels, 40 layers of 1536 channels, random weights) runs as extraction runs
it (longvu_model/tower_runner.py): window similarities and all features as float16 are read back. Beside it, in turns:

    plain   a loop over 64 frames: normalised on the CPU, sent as float32, features read back before the next batch
    bound   what the arithmetic allows: operations per frame, derived below, over the device's dense peak, and over
            the rate that a large product reaches here

and the cosine of its features to those in float32. Needs torch, transformers and Pillow; no network, no Ray.
``--smoke`` runs the tiny preset on any device, to check the script.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from longvu_model.config import LongVUConfig
from longvu_model.frame_selection import window_similarity
from longvu_model.image_processing import preprocess_frames
from longvu_model.presets import PRESETS
from longvu_model.tower_runner import TowerRunner
from longvu_model.towers import DinoTower

PLAIN_BATCH = 64
# The bound that encoding is held against: 80 % of the dense bfloat16 peak of an H100.
REACHABLE_FRAMES_PER_S = 442.0
LEAST_COSINE = 0.99
# Dense bf16 operations per second, from the vendor's data sheets (SXM).
PEAKS = {"H100": 989.4e12, "H200": 989.4e12, "A100": 312e12}


def operations(config: LongVUConfig) -> dict[str, float]:
    """Multiplications and additions of one frame, by part."""
    tower = config.dino_config
    patches = (config.dino_image_size // tower.patch_size) ** 2
    tokens, width, layers = patches + 1, tower.hidden_size, tower.num_hidden_layers
    hidden = int(width * tower.mlp_ratio)
    mlp = 3 * ((int(hidden * 2 / 3) + 7) // 8 * 8) if tower.use_swiglu_ffn else 2 * hidden
    return {
        "patches": 2.0 * patches * 3 * tower.patch_size**2 * width,
        "projections": 2.0 * tokens * layers * 4 * width**2,
        "attention": 4.0 * tokens**2 * layers * width,
        "mlp": 2.0 * tokens * layers * mlp * width,
    }


def print_bounds(config: LongVUConfig, device: torch.device) -> float:
    """Print where the bound comes from; the frames per second at the device's peak, or at its measured rate."""
    parts = operations(config)
    total = sum(parts.values())
    print("operations per frame: " + " + ".join(f"{name} {value / 1e9:.1f} G" for name, value in parts.items()))
    rate = product_rate(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    peak = next((value for key, value in PEAKS.items() if key in name), None)
    print(
        f"= {total / 1e12:.3f} T; a large bf16 product runs at {rate / 1e12:.0f} T/s here: {rate / total:.0f} frames/s"
    )
    if peak is None:
        return rate / total
    print(
        f"bound at the dense peak of {name}, {peak / 1e12:.0f} T/s: {peak / total:.0f} frames/s, 80 % of it "
        f"{0.8 * peak / total:.0f} (aim {REACHABLE_FRAMES_PER_S:.0f})"
    )
    return peak / total


def product_rate(device: torch.device) -> float:
    """Operations per second of a square bf16 product."""
    side = 8192 if device.type == "cuda" else 512
    one, other = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / best_s(device, lambda: one @ other, turns=5)


def best_s(device: torch.device, call: Callable[[], object], turns: int) -> float:
    """Best of some turns, after one to warm up."""
    times = []
    for _ in range(turns + 1):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def read_back(batches: Iterator[Tensor]) -> int:
    """What extraction does with features, of frames that are all stored."""
    count = 0
    with torch.inference_mode():
        for features_FPD in batches:
            window_similarity(features_FPD).cpu()
            count += len(features_FPD.to(torch.float16).cpu())
    return count


@torch.inference_mode()
def plain_loop(tower: DinoTower, frames: np.ndarray, device: torch.device) -> Iterator[Tensor]:
    for first in range(0, len(frames), PLAIN_BATCH):
        batch = frames[first : first + PLAIN_BATCH]
        yield tower(preprocess_frames(batch, tower.image_size, tower.image_mean, tower.image_std).to(device))


@torch.inference_mode()
def cosines(features_FPD: Tensor, exact_FPD: Tensor) -> Tensor:
    """Of every frame's features to the exact ones."""
    return torch.nn.functional.cosine_similarity(features_FPD.float().flatten(1), exact_FPD.flatten(1), dim=1)


def main(argv: list[str] | None = None) -> int:
    arguments = _arguments(argv)
    device: torch.device = arguments.device
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    config = PRESETS["tiny" if arguments.smoke else "longvu_qwen2_7b"]()
    torch.manual_seed(0)
    with device:
        tower = DinoTower(config).eval().requires_grad_(False)
        for table in (tower.position, tower.class_token):
            torch.nn.init.normal_(table, std=0.02)
    weights = sum(parameter.numel() for parameter in tower.parameters())
    print(f"{device}, {arguments.dtype}, torch {torch.__version__}, {weights:,} weights")
    side, dtype = tower.image_size, getattr(torch, arguments.dtype)
    frames = np.random.default_rng(0).integers(0, 256, (arguments.frames, side, side, 3), dtype=np.uint8)
    exact = torch.cat(list(plain_loop(tower, frames[:16], device)))
    bound = print_bounds(config, device)

    tower.to(dtype)
    seconds = best_s(device, lambda: read_back(plain_loop(tower, frames, device)), arguments.turns)
    plain = len(frames) / seconds
    print(
        f"plain loop, batches of {PLAIN_BATCH:3}:              {plain:8.1f} frames/s, {plain / bound:5.1%} of the bound"
    )
    least = 1.0
    for compiled in (False, True) if arguments.compile else (False,):
        for batch_frames in arguments.batch_frames:
            runner = TowerRunner(
                tower, device=device, dtype=dtype, batch_frames=batch_frames, compiled=compiled, one_shape=True
            )
            start = time.perf_counter()
            runner.warm_up()
            ready_s = time.perf_counter() - start
            speed = len(frames) / best_s(device, lambda r=runner: read_back(r.run(frames)), arguments.turns)  # type: ignore[misc]
            same = cosines(next(runner.run(frames[:16])), exact)
            least = min(least, float(same.min()))
            print(
                f"runner, batches of {batch_frames:3}, {'compiled' if compiled else 'as it is'}:        {speed:8.1f} "
                f"frames/s, {speed / bound:5.1%} of the bound, {speed / plain:.2f} x plain, cosine to float32 "
                f"{float(same.mean()):.5f} (lowest {float(same.min()):.5f}), ready after {ready_s:.0f} s"
            )
    print(f"{'ok  ' if least >= LEAST_COSINE else 'FAIL'} lowest cosine {least:.5f}, floor {LEAST_COSINE}")
    return 0 if least >= LEAST_COSINE else 1


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu.encode", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", type=torch.device)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--frames", type=int, default=1024, help="8-bit frames in host memory, 0.4 GB at 378 pixels")
    parser.add_argument("--batch-frames", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--turns", type=int, default=3, help="of which the best counts")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave out torch.compile")
    parser.add_argument("--smoke", action="store_true", help="the tiny preset and few frames, on the CPU")
    arguments = parser.parse_args(argv)
    if arguments.smoke:
        arguments.device, arguments.frames, arguments.batch_frames, arguments.turns = torch.device("cpu"), 48, [32], 1
    return arguments


if __name__ == "__main__":
    raise SystemExit(main())
