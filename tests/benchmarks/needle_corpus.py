"""What benchmarks of training learn from: the demo's stills and videos, their features, and the jobs that learn."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from pipelines.config import load_config
from pipelines.corpus import Splits, SplitsConfig, write_splits
from pipelines.extract.config import ExtractConfig
from pipelines.extract.towers import load_towers, model_folder
from tests.pipelines.extract.conftest import extract_without_ray

CONFIG = Path(__file__).resolve().parents[2] / "jobs" / "configs" / "corpus_demo.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How much there is of each split, and where everything is kept."""
    parser.add_argument("--stills", type=int, default=480, help="stills to learn from")
    parser.add_argument("--videos", type=int, default=400, help="videos to learn from")
    parser.add_argument("--heldout", type=int, default=96, help="unseen videos")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn: another one gives other videos")
    parser.add_argument("--folder", help="keep everything here; default: a temporary folder")


def written(root: Path, options: argparse.Namespace) -> tuple[Splits, SplitsConfig]:
    """The splits below ``root``, drawn unless they are there."""
    counts = [f"{name}={getattr(options, name)}" for name in ("stills", "videos", "heldout", "seed")]
    config = load_config(SplitsConfig, CONFIG, counts)
    return write_splits(root / "corpus", config), config


def stored(root: Path, splits: Splits, preset: str = "tiny", name: str = "tiny") -> str:
    """URI of a store of the features of all media, of every frame, that the towers of ``preset`` see."""
    longvu = preset == "tiny"
    config = ExtractConfig(
        name=name,
        source=[str(folder) for folder in splits.media],
        store=str(root),
        workdir=str(root),
        model=preset,
        keep_all_below=0,
        features={"siglip": True} if longvu else {},  # type: ignore[arg-type]
    )
    folder = model_folder(preset, root)
    towers = load_towers(folder, ("dinov2", "siglip")) if longvu else load_towers(folder)
    return extract_without_ray(config, towers).uri


def job(module: str, words: list[str]) -> str:
    """What a job printed; the steps of a training run go on to stderr when it has ended.

    Raises:
        RuntimeError: it failed; the message ends with its last words.
    """
    done = subprocess.run([sys.executable, "-m", module, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(words)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    for line in done.stderr.splitlines():
        if "step " in line:
            print(line, file=sys.stderr, flush=True)
    return done.stdout
