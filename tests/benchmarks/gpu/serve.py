"""Answering on a GPU: ``python -m tests.benchmarks.gpu.serve [--preset longvu_llama3_2_3b longvu_qwen2_7b]``.

The published shapes with random weights, bfloat16, a video of --frames frames that are already decoded. For each shape:
seconds until the first token of the first question (encode, take in the prompt) and of a second one about the same
video, then tokens per second of one request and of --clients at once, as it is and with CUDA graphs; beside it the
library's ``generate`` on the same embeddings. A threshold that keeps one frame of every window puts the video into the
full regime, whatever random towers see in it.

Exits with 1 if an answer among others differs from the same answer alone. Needs what longvu_model needs; no network, no
Ray. ``--smoke`` runs the tiny preset on the CPU, to check the script.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from longvu_model.modeling import LongVUForConditionalGeneration
from longvu_model.presets import PRESETS
from longvu_model.processing import LongVUProcessor
from longvu_model.tiny_tokenizer import build_tiny_tokenizer
from pipelines.engine import Engine, EngineConfig, SamplingParams
from pipelines.video_models import Prompt
from pipelines.video_models.longvu import LongVU

ONE_OF_A_WINDOW = 1e-6
QUESTION = "Which colour does the shape have that appears after about so many seconds: {}?"


def random_longvu(preset: str, device: torch.device, dtype: torch.dtype) -> LongVU:
    """A model of a published shape whose answers wander through the vocabulary, so that they can differ."""
    config = PRESETS[preset]()
    config.dino_threshold = ONE_OF_A_WINDOW
    torch.manual_seed(0)
    with device:
        model = LongVUForConditionalGeneration._from_config(config, dtype=dtype)
    text = config.text_config
    with torch.no_grad():
        for parameter in model.model.language_model.layers.parameters():
            if parameter.dim() > 1:
                parameter *= 1.5 / (text.initializer_range * text.hidden_size**0.5)
    model.generation_config.eos_token_id = None
    tokenizer = build_tiny_tokenizer(str(config.prompt_style), 1024)
    longvu = LongVU(model.to(device).eval(), LongVUProcessor.from_config(config, tokenizer))
    # Random answers end by chance; here all are of the same length.
    longvu.eos_token_ids, longvu.stop_strings = frozenset(), ()
    return longvu


def prompt(model: LongVU, watched: Any, number: int) -> Prompt:
    part, text = {"type": "video"}, {"type": "text", "text": QUESTION.format(number)}
    return model.prompt([{"role": "user", "content": [part, text]}], [watched])


def seconds(device: torch.device, call: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - start


def time_questions(model: LongVU, frames: np.ndarray, tokens: int) -> list[Prompt]:
    """Prints first and second question, and the library's generate; returns prompts for more."""
    device = model.device
    engine = Engine(model, EngineConfig(slots=1))
    warm = prompt(model, model.watch_frames([frames[:32]]), 0)
    engine.submit(warm, SamplingParams(max_tokens=2)).result()
    watched, encode_s = seconds(device, lambda: model.watch_frames([frames]))
    spent = []
    for number in range(2):
        asked, prompt_s = seconds(device, lambda: prompt(model, watched, number))  # noqa: B023
        answer = engine.submit(asked, SamplingParams(max_tokens=2)).result()
        spent.append(prompt_s + answer.seconds["first_token"])
    engine.close()
    print(
        f"  {len(frames)} frames, {asked.visual_tokens} visual tokens, regime {asked.regime}: first question "
        f"{encode_s + spent[0]:.2f} s to the first token (encode {encode_s:.2f}, prompt {spent[0]:.3f}); second "
        f"{spent[1] * 1e3:.1f} ms, {(encode_s + spent[0]) / spent[1]:.0f} times sooner "
        f"({answer.cached_tokens} of {len(asked)} positions reused)"
    )
    prompts = [prompt(model, watched, number) for number in range(64)]
    mask = torch.ones(1, len(prompts[0]), dtype=torch.long, device=device)
    options = {"inputs_embeds": prompts[0].embeds[None], "attention_mask": mask, "do_sample": False}
    with torch.inference_mode():
        _, first_s = seconds(device, lambda: model.model.generate(**options, max_new_tokens=1))
        _, all_s = seconds(device, lambda: model.model.generate(**options, max_new_tokens=tokens))
    print(
        f"  library's generate: first token {first_s * 1e3:.1f} ms, "
        f"then {(tokens - 1) / (all_s - first_s):.1f} tokens/s"
    )
    return prompts


def time_tokens(model: LongVU, prompts: Sequence[Prompt], clients: int, tokens: int, graphs: bool) -> bool:
    """Prints tokens per second of one and of many; whether every answer is the same alone and among others."""
    engine = Engine(model, EngineConfig(slots=clients, cuda_graphs=graphs))
    params = SamplingParams(max_tokens=tokens)
    engine.submit(prompts[0], params).result()
    alone, alone_s = seconds(model.device, lambda: [engine.submit(one, params).result() for one in prompts[:4]])
    generations = [engine.submit(one, params) for one in prompts[:clients]]
    together, together_s = seconds(model.device, lambda: [generation.result() for generation in generations])
    engine.close()
    same = all(one.token_ids == other.token_ids for one, other in zip(alone, together, strict=False))
    one_rate, many_rate = len(alone) * tokens / alone_s, clients * tokens / together_s
    print(
        f"  {'CUDA graphs' if graphs else 'as it is':>11}: one request {one_rate:.1f} tokens/s, {clients} at once "
        f"{many_rate:.1f}, {many_rate / one_rate:.1f} times more; answers among others "
        + ("the same" if same else "DIFFER")
        + f", {len({token for answer in together for token in answer.token_ids})} different tokens",
        flush=True,
    )
    return same


def main(argv: list[str] | None = None) -> int:
    options = _arguments(argv)
    device: torch.device = options.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, {options.dtype}, torch {torch.__version__}")
    same = True
    for preset in options.preset:
        model = random_longvu(preset, device, getattr(torch, options.dtype))
        side = max(model.config.siglip_config.image_size, model.config.dino_image_size)
        frames = np.random.default_rng(0).integers(0, 256, (options.frames, side, side, 3), dtype=np.uint8)
        weights = sum(parameter.numel() for parameter in model.model.parameters())
        print(f"{preset}, {weights / 1e9:.2f} G weights")
        prompts = time_questions(model, frames, options.tokens)
        for graphs in (False, True) if device.type == "cuda" else (False,):
            same &= time_tokens(model, prompts, options.clients, options.tokens, graphs)
        del model, prompts
        if device.type == "cuda":
            print(f"  peak memory {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB")
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
    return 0 if same else 1


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu.serve", description=__doc__.splitlines()[0])
    parser.add_argument("--preset", nargs="+", default=["longvu_llama3_2_3b", "longvu_qwen2_7b"], choices=PRESETS)
    parser.add_argument("--device", default="cuda", type=torch.device)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--tokens", type=int, default=128, help="of an answer")
    parser.add_argument("--clients", type=int, default=16, help="at once, at most 64")
    parser.add_argument("--smoke", action="store_true", help="the tiny preset and few frames, on the CPU")
    options = parser.parse_args(argv)
    if options.smoke:
        options.preset, options.device, options.dtype = ["tiny"], torch.device("cpu"), "float32"
        options.frames, options.tokens, options.clients = 320, 6, 4
    return options


if __name__ == "__main__":
    raise SystemExit(main())
