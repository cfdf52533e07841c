"""LLaMA-VID's long path: an hour with subtitles between its frames, from precomputed features, in flat memory.

    python -m tests.benchmarks.long_video [--minutes 5 60] [--directory DIR]

A synthetic 320x176 video of each length is extracted at one frame a second into a feature store, unit after unit. Then,
in a process of its own, it is recalled, and a question is asked about it with an SRT file interleaved: features are
read from the store in parts, two tokens a frame are made for the question, and the answer is begun, all with the tiny
preset whose positions are extended to 64K. Memory is the largest resident set of a process, by the kernel's own
account, at its end and before the language model takes in the tokens. Baseline in the same run: the features of all
frames held in memory, as short videos' are. At the published size these are 2.6 GB for an hour.

Exits with 1 if extraction, or asking until the prompt stands, takes over 10 % more memory for the longest video than
for the shortest.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.decode import generated, repeated

_GROWTH = 1.10
_CONTEXT = 65536
_QUESTION = "Which colour is the square that appears briefly?"
_NEW_TOKENS = 16


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.long_video", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=int, nargs="+", default=[5, 60])
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()) / "longvu-long-video")
    parser.add_argument("--one", nargs=2, metavar=("VIDEO", "STEP"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        video, step = Path(options.one[0]), options.one[1]
        print(json.dumps(_STEPS[step](video, options.directory)))
        return 0
    options.directory.mkdir(parents=True, exist_ok=True)
    minute = generated(options.directory / "minute_180p.mp4", 320, 176, 60)
    peaks: dict[str, list[float]] = {step: [] for step in _STEPS}
    for minutes in options.minutes:
        video = repeated(minute, options.directory / f"minutes_{minutes}.mp4", minutes)
        found = {step: _child(video, options.directory, step) for step in _STEPS}
        for step, facts in found.items():
            peaks[step].append(facts["peak_mib"])
        made, asked, held = found.values()
        print(
            f"{minutes:4} min: {asked['frames']} frames, {asked['visual_tokens']} visual + {asked['text_tokens']} text "
            f"tokens; extract {made['seconds']:.1f} s, prompt {asked['prompt_s']:.1f} s, "
            f"answer {asked['answer_s']:.1f} s; peak memory: extract {made['peak_mib']:.0f} MiB, until the prompt "
            f"stands {asked['peak_mib']:.0f} MiB (baseline, features held: {held['peak_mib']:.0f} MiB), with the "
            f"answer {asked['answered_mib']:.0f} MiB",
            flush=True,
        )
    ratios = {step: max(values) / min(values) for step, values in peaks.items()}
    print(
        f"peak memory, longest over shortest: extract {ratios['extract']:.2f}, ask {ratios['ask']:.2f} (at most "
        f"{_GROWTH:g}); baseline, features held: {ratios['ask-held']:.2f}"
    )
    return int(max(ratios["extract"], ratios["ask"]) > _GROWTH)


def _child(video: Path, directory: Path, step: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.long_video", "--directory", str(directory), "--one"]
    done = subprocess.run([*command, str(video), step], capture_output=True, text=True, check=True)
    facts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return facts


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _config(video: Path, directory: Path) -> Any:
    from longvu_model.presets import build_preset
    from pipelines.extract.config import ExtractConfig

    folder = build_preset("tiny_llamavid", directory / "tiny_llamavid")
    return ExtractConfig(name=video.stem, source=str(video), store=str(directory), model=str(folder))


def _extract(video: Path, directory: Path) -> dict[str, float]:
    """The stages of extraction one after the other; decoding is in a child process, as always."""
    from pipelines.extract.towers import load_towers
    from tests.pipelines.extract.conftest import extract_without_ray

    config = _config(video, directory)
    started_s = time.perf_counter()
    extract_without_ray(config, load_towers(Path(config.model)))
    return {"seconds": time.perf_counter() - started_s, "peak_mib": _peak_mib()}


def _ask(video: Path, directory: Path) -> dict[str, float]:
    """One question about a stored video, of whose features only what is worked on is in memory."""
    import torch

    from longvu_model import LlamaVidForConditionalGeneration, LlamaVidProcessor
    from longvu_model.llamavid.positions import extend_positions
    from longvu_model.subtitles import read_subtitles
    from pipelines.engine import Engine, EngineConfig, SamplingParams
    from pipelines.extract import store_uri
    from pipelines.store import FeatureStore
    from pipelines.video_models.llamavid import LlamaVid

    torch.set_num_threads(1)
    extracted = _config(video, directory)
    folder = Path(extracted.model)
    config = LlamaVidForConditionalGeneration.config_class.from_pretrained(folder)
    config.text_config = extend_positions(config.text_config, _CONTEXT, config.rules)
    config.max_sequence_length = _CONTEXT
    loaded = LlamaVidForConditionalGeneration.from_pretrained(folder, config=config).eval()
    model = LlamaVid(loaded, LlamaVidProcessor.from_pretrained(folder))
    store = FeatureStore.open(store_uri(extracted))

    started_s = time.perf_counter()
    recalled = model.recall(store, video)
    subtitles = read_subtitles(_write_subtitles(directory / f"{video.stem}.srt", recalled.num_frames))
    content = [{"type": "video", "subtitles": subtitles}, {"type": "text", "text": _QUESTION}]
    prompt = model.prompt([{"role": "user", "content": content}], [recalled])
    asked_s, peak_mib = time.perf_counter(), _peak_mib()
    engine = Engine(model, EngineConfig(slots=1, max_length=len(prompt) + _NEW_TOKENS))
    engine.submit(prompt, SamplingParams(max_tokens=_NEW_TOKENS)).result()
    engine.close()
    return {
        "frames": recalled.num_frames,
        "visual_tokens": prompt.visual_tokens,
        "text_tokens": prompt.text_tokens,
        "prompt_s": asked_s - started_s,
        "answer_s": time.perf_counter() - asked_s,
        "peak_mib": peak_mib,
        "answered_mib": _peak_mib(),
    }


def _ask_in_parts(video: Path, directory: Path) -> dict[str, float]:
    from pipelines.video_models import llamavid

    # Tiny features of an hour would be held: they are a fortieth of the published size.
    llamavid.HELD_BYTES = 0
    return _ask(video, directory)


_STEPS: dict[str, Callable[[Path, Path], dict[str, float]]] = {
    "extract": _extract,
    "ask": _ask_in_parts,
    "ask-held": _ask,
}


def _write_subtitles(path: Path, seconds: int) -> Path:
    """A sentence every ten seconds."""
    stamp = "{:02}:{:02}:{:02},000".format
    entries = [
        f"{i + 1}\n{stamp(*divmod(s // 60, 60), s % 60)} --> {stamp(*divmod(s // 60, 60), s % 60 + 3)}\nScene {i}.\n"
        for i, s in enumerate(range(0, seconds, 10))
    ]
    path.write_text("\n".join(entries))
    return path


if __name__ == "__main__":
    sys.exit(main())
