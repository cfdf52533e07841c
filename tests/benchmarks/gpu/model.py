"""LongVU on a GPU: ``python -m tests.benchmarks.gpu.model``.

First every end-to-end reference case of the tree is computed on the device in float32 and compared with the CPU, and
in half precision for shape and finiteness. Then the towers and the token path (tower features -> inputs_embeds) are
timed at the published sizes with random weights. Needs torch, transformers and Pillow; no network.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import Qwen2Config

from longvu_model.config import IMAGE_TOKEN_INDEX
from longvu_model.modeling import LongVUModel
from longvu_model.presets import PRESETS
from longvu_model.sight import Media
from tests.benchmarks.compression import drifting_features
from tests.golden.longvu_models import build_model, read_case

VECTORS = Path(__file__).resolve().parents[2] / "golden/vectors/longvu"
FRAMES = (120, 256, 1024, 2000)


def check_reference_cases(device: torch.device) -> bool:
    """Every end-to-end case of the tree on the device; prints a line each and says whether all agree."""
    agree = True
    for path in sorted((VECTORS / "e2e").glob("*.json")):
        case = read_case(path)
        meta, tensors = case.meta, case.tensors
        model = build_model(VECTORS, meta["model"], meta["config_overrides"])
        video, sizes = meta["kind"] == "video", torch.tensor(meta["image_sizes"])
        counts = torch.tensor(meta["frames_per_sample"] or [1] * len(sizes))
        media = (counts, sizes if video else sizes.flip(1), torch.full((len(counts),), video))
        pixels = [tensors[f"images_{tower}_i8"].float() / 32 for tower in ("siglip", "dino")]

        def see(dtype: torch.dtype, to: torch.device) -> torch.Tensor:
            model.to(to, dtype)  # noqa: B023 - called within this round
            mask = tensors.get("attention_mask")  # noqa: B023
            given = Media(*media, *(tower.to(to) for tower in pixels))  # noqa: B023
            with torch.no_grad():
                seen = model.model.see(tensors["input_ids"].to(to), given, mask)  # noqa: B023
            return seen.merged.inputs_embeds.float().cpu()

        expected = see(torch.float32, torch.device("cpu"))
        mine = see(torch.float32, device)
        same = mine.shape == expected.shape and bool(torch.allclose(mine, expected, rtol=1e-3, atol=1e-4))
        halves = [see(dtype, device) for dtype in (torch.bfloat16, torch.float16)]
        finite = all(bool(half.isfinite().all()) for half in halves)
        agree &= same and finite
        print(f"{'ok  ' if same and finite else 'FAIL'} {path.stem}")
    return agree


def timed(device: torch.device, run: Callable[[], object]) -> float:
    """Best of three runs in seconds, after one to warm up."""
    times = []
    for _ in range(4):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def time_published_size(device: torch.device, dtype: torch.dtype) -> None:
    """Towers in frames per second, token path in milliseconds; the language model is reduced to its embedding."""
    config = PRESETS["longvu_qwen2_7b"]()
    hidden = config.text_config.hidden_size
    config.text_config = Qwen2Config(
        vocab_size=1000, hidden_size=hidden, intermediate_size=hidden, num_hidden_layers=1, num_attention_heads=28
    )
    config.semantics = "published"
    with device:
        model = LongVUModel(config).to(dtype).eval()
    print(f"{device}, {dtype}, torch {torch.__version__}")
    with torch.no_grad():
        for name, tower in model.towers.named_children():
            pixels = torch.randn(64, 3, tower.image_size, tower.image_size, device=device, dtype=dtype)
            print(f"{name:>8} {64 / timed(device, lambda t=tower, p=pixels: t(p)):8.1f} frames/s")
        ids = torch.randint(0, 999, (1, 40))
        ids[0, 12] = IMAGE_TOKEN_INDEX
        generator = torch.Generator().manual_seed(0)
        for count in FRAMES:
            # a narrow drift, widened by a fixed projection, so that making the features is not the benchmark
            narrow = drifting_features(count, config.token_grid**2, 16, generator).to(device, dtype)
            dino = narrow @ torch.randn(16, model.towers.dino.width, generator=generator).to(device, dtype)
            siglip = narrow @ torch.randn(16, model.towers.siglip.width, generator=generator).to(device, dtype)
            media = Media(
                torch.tensor([count]),
                torch.tensor([[360, 640]]),
                torch.tensor([True]),
                siglip_features=siglip,
                dino_features=dino,
            )
            seconds = timed(device, lambda m=media: model.see(ids, m))
            sight = model.see(ids, media)
            print(
                f"{count:>5} frames, {int(sight.media.kept_counts_V[0]):>3} kept, {sight.media.regime.names[0]:>5}, "
                f"{int(sight.visual.counts_V[0]):>5} tokens: {seconds * 1e3:8.1f} ms"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", type=torch.device)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--check-only", action="store_true", help="reference cases without the timings")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    agree = check_reference_cases(arguments.device)
    if not arguments.check_only:
        time_published_size(arguments.device, getattr(torch, arguments.dtype))
    raise SystemExit(0 if agree else 1)


if __name__ == "__main__":
    main()
