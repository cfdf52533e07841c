"""Token path (tower features -> inputs_embeds) against its oracle: ``python -m tests.benchmarks.compression``.

Official 24/12/8 grids, narrow widths, one thread, float32; both run in turn in one process, best of several rounds.
The video is 16:9, its features drift slowly within scenes, so temporal reduction keeps a part of it, as in real life.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from longvu_model.config import IMAGE_TOKEN_INDEX, LongVUConfig
from longvu_model.modeling import LongVUForConditionalGeneration
from longvu_model.sight import Media
from tests.oracles.compression import token_path

FRAMES = (120, 256, 1024, 2000)
SIZE = (360, 640)
TOLERANCE = 1e-5


def build(width: int, hidden: int) -> LongVUForConditionalGeneration:
    """A published-semantics model with official grids and the given aggregator and model widths."""
    tower = {"hidden_size": width, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": width}
    config = LongVUConfig(
        text_config={
            "model_type": "qwen2",
            "hidden_size": hidden,
            "intermediate_size": hidden,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": 512,
        },
        siglip_config={**tower, "image_size": 384, "patch_size": 16},
        dino_config={**tower, "image_size": 384, "patch_size": 16},
        dino_image_size=384,
        vision_hidden_size=width,
        drop_threshold=0.8,
        semantics="published",
    )
    model = LongVUForConditionalGeneration(config).eval()
    for parameter in model.model.frame_tokens.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # visual tokens of order 1, so that differences show
    return model


def drifting_features(num_frames: int, tokens: int, width: int, generator: torch.Generator) -> Tensor:
    """Features (F, T, D) that wander around a new centre every 20 to 40 frames."""
    scenes = torch.randn(num_frames // 20 + 2, tokens, width, generator=generator)
    lengths = torch.randint(20, 41, (len(scenes),), generator=generator)
    scene_F = torch.repeat_interleave(torch.arange(len(scenes)), lengths)[:num_frames]
    wander = torch.randn(num_frames, tokens, width, generator=generator).cumsum(0)
    wander -= wander[(scene_F[:, None] == torch.arange(len(scenes))).int().argmax(0)][scene_F]
    return scenes[scene_F] + 0.15 * wander


def best_of(rounds: int, run: Callable[[], Any]) -> tuple[float, Any]:
    """Shortest wall time in seconds and the last output."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        output = run()
        times.append(time.perf_counter() - start)
    return min(times), output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=FRAMES)
    parser.add_argument("--width", type=int, default=32, help="aggregator and tower width")
    parser.add_argument("--hidden", type=int, default=32, help="language model width")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = build(arguments.width, arguments.hidden)
    core, tokens = model.model, model.config.token_grid**2
    ids = torch.randint(0, 500, (1, 40), generator=generator)
    ids[0, 12] = IMAGE_TOKEN_INDEX

    print(f"{platform.machine()}, torch {torch.__version__}, one thread, widths {arguments.width}/{arguments.hidden}")
    print(f"{'frames':>6} {'kept':>5} {'regime':>6} {'oracle s':>9} {'ours s':>8} {'ratio':>6}  relative difference")
    for count in arguments.frames:
        dino = drifting_features(count, tokens, arguments.width, generator)
        siglip = torch.randn(count, tokens, arguments.width, generator=generator)
        media = Media(
            torch.tensor([count]),
            torch.tensor([SIZE]),
            torch.tensor([True]),
            siglip_features=siglip,
            dino_features=dino,
        )
        with torch.no_grad():
            ours_s, mine = best_of(arguments.rounds, partial(core.see, ids, media))
            oracle_s, oracle = best_of(arguments.rounds, partial(token_path, model, ids, dino, siglip, SIZE))
        embeds, expected = mine.merged.inputs_embeds, oracle.inputs_embeds
        same = embeds.shape == expected.shape
        difference = float((embeds - expected).abs().max() / expected.abs().max()) if same else float("nan")
        verdict = f"{difference:.1e}" if same and difference <= TOLERANCE else f"NOT EQUAL ({difference:.1e})"
        kept, regime = int(mine.media.kept_counts_V[0]), mine.media.regime.names[0]
        print(
            f"{count:>6} {kept:>5} {regime:>6} {oracle_s:>9.3f} {ours_s:>8.3f} {oracle_s / ours_s:>5.1f}x  {verdict}",
            flush=True,
        )


if __name__ == "__main__":
    main()
