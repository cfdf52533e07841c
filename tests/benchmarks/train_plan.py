"""How full bins are and how even steps, planned and published, and how long a million samples take to plan.

    python -m tests.benchmarks.train_plan [--samples N] [--ranks R] [--scaling N]

A made-up manifest: lengths of videos are lognormal (median 45 s, one frame a second, 16:9), texts too; two of three
samples are videos, the others pictures and plain text. What each costs is computed by the project's own code for the 7B
preset: visual tokens by the model's rules, FLOPs from its language model. Beside the plan stands the published sampler
(modality-grouped, sorted by length) with its published batch, one sample per rank in a row of 8192 tokens.

Fill is tokens over the rows' budgets; step cost is the mean over the maximum of the ranks' predicted FLOPs, averaged
over steps. Exits with 1 if the plan misses a floor: fill 0.98, step cost 0.97, 60 s for a million samples.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch

from longvu_model.presets import longvu_qwen2_7b
from pipelines.train.flops import language_flops
from pipelines.train.length_grouped import length_grouped_batches
from pipelines.train.plan import EpochPlan, PlanSettings, SampleCosts, plan_epoch
from pipelines.train.visibility import MediumFacts, visual_cost

FILL, BALANCE, SECONDS = 0.98, 0.97, 60.0
ROW_TOKENS = 8192


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.train_plan", description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=100_000, help="samples of the manifest for fill and step cost")
    parser.add_argument("--ranks", type=int, default=64, help="planned ranks")
    parser.add_argument("--scaling", type=int, default=1_000_000, help="samples of the timed plan")
    arguments = parser.parse_args()
    print(
        f"machine: {_processor()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}, numpy {np.__version__}"
    )
    costs, lengths = manifest(arguments.samples)
    print(
        f"{arguments.samples} samples, {costs.tokens_N.mean():.0f} tokens on average, "
        f"{(costs.tokens_N > 8000).mean():.0%} fill a row of {ROW_TOKENS} alone"
    )
    print(f"{f'{arguments.ranks} planned ranks':58} {'steps':>6} {'fill':>7} {'step cost':>10}")
    right = True
    for budget, rounds in ((ROW_TOKENS, 1), (ROW_TOKENS, 2), (4 * ROW_TOKENS, 1)):
        settings = PlanSettings(
            budget, global_batch_tokens=budget * arguments.ranks * rounds, planned_ranks=arguments.ranks
        )
        plan = plan_epoch(costs, 0, 0, settings)
        right &= _report(f"planned: bins of {budget} tokens, {rounds} per rank and step", plan, arguments.ranks)
    recipe = PlanSettings(ROW_TOKENS, global_batch_samples=arguments.ranks, planned_ranks=arguments.ranks)
    _report("planned: published number of samples per step", plan_epoch(costs, 0, 0, recipe), arguments.ranks)
    steps, fill, balance = published(costs, lengths, arguments.ranks)
    print(f"{'published: length-grouped sampler, 1 sample per rank':58} {steps:6} {fill:7.1%} {balance:10.3f}")
    print(f"floors: fill {FILL:.0%}, step cost {BALANCE}")
    return 0 if right & time_plan(arguments.scaling, arguments.ranks) else 1


def manifest(count: int) -> tuple[SampleCosts, np.ndarray]:
    """Costs of made-up samples, and their lengths as the published sampler takes them."""
    rng = np.random.default_rng(0)
    config = longvu_qwen2_7b()
    kind = rng.choice(["video", "image", "text"], count, p=[0.65, 0.25, 0.1])
    text = np.clip(rng.lognormal(np.log(150), 0.8, count), 30, 4000).astype(np.int64)
    targets = np.maximum(2, (text * rng.uniform(0.05, 0.6, count)).astype(np.int64))
    sampled = np.maximum(1, rng.lognormal(np.log(45), 1.1, count)).astype(np.int64)
    kept = np.maximum(sampled // 16, (sampled * rng.beta(4, 6, count)).astype(np.int64)).clip(1, 400)
    media = np.flatnonzero(kind != "text")
    facts = [_facts(kind[i] == "video", int(sampled[i]), int(kept[i])) for i in media]
    cost = visual_cost(config, torch.from_numpy(media), facts, torch.from_numpy(text))
    tokens = text.copy()
    tokens[media] += cost.tokens_V.numpy()
    words = (text * 0.75).astype(np.int64) + 1
    flops = language_flops(config.text_config, tokens, targets)
    # the release takes videos for text [Q24]
    return SampleCosts(tokens, flops, targets, "made up"), np.where(kind == "image", words, -words)


def _facts(is_video: bool, sampled: int, kept: int) -> MediumFacts:
    frames = MediumFacts(True, sampled, sampled, kept, 0, (720, 1280))
    return frames if is_video else dataclasses.replace(frames, is_video=False, sampled=1, whole=1, kept=1)


def published(costs: SampleCosts, lengths: np.ndarray, ranks: int) -> tuple[int, float, float]:
    """Steps, fill and step cost of the published sampler."""
    steps = [shares for shares in length_grouped_batches(lengths.tolist(), 1, ranks, seed=0)]
    flops = np.array([[costs.flops_N[share].sum() for share in shares] for shares in steps])
    fill = float(costs.tokens_N.sum()) / (sum(len(shares) for shares in steps) * ROW_TOKENS)
    return len(steps), fill, float((flops.mean(1) / flops.max(1)).mean())


def time_plan(count: int, ranks: int) -> bool:
    """Plan many samples, the costs drawn from the same manifest."""
    small, _ = manifest(min(count, 50_000))
    drawn = np.random.default_rng(1).integers(0, len(small.tokens_N), count)
    costs = SampleCosts(small.tokens_N[drawn], small.flops_N[drawn], small.targets_N[drawn], "made up")
    started_s = time.perf_counter()
    settings = PlanSettings(ROW_TOKENS, global_batch_tokens=ROW_TOKENS * ranks, planned_ranks=ranks)
    plan = plan_epoch(costs, 0, 0, settings)
    seconds = time.perf_counter() - started_s
    print(
        f"{count} samples planned in {seconds:.1f} s on one core: {len(plan)} steps, {len(plan.bin_ends_B)} bins, "
        f"fill {plan.fill:.1%} (floor: {SECONDS:.0f} s for a million)"
    )
    return seconds / count * 1e6 <= SECONDS


def _report(name: str, plan: EpochPlan, ranks: int) -> bool:
    balance = plan.balance(ranks)
    print(f"{name:58} {len(plan):6} {plan.fill:7.1%} {balance:10.3f}")
    return plan.fill >= FILL and balance >= BALANCE


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    sys.exit(main())
