"""LLaMA-VID's long path: an hour with subtitles between its frames, and how memory grows with length.

    python -m tests.benchmarks.long_video [--minutes 10 60] [--directory DIR]

Each length runs in a process of its own: a synthetic 320x176 video is decoded at one frame a second, every frame
becomes two tokens for the question, an SRT file is read and interleaved, and the answer is begun, all with the tiny
preset whose positions are extended. Baseline in the same run: holding the tower's features of all frames instead of
their tokens, which is what answering many questions costs. Exits with 1 if the longest takes over 25 % more memory than
the shortest until its tokens are made; what the language model takes for that many tokens is shown apart.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from tests.benchmarks.decode import generated, repeated

_GROWTH = 1.25
_CONTEXT = 65536
_QUESTION = "Which colour is the square that appears briefly?"
_NEW_TOKENS = 16


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.long_video", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=int, nargs="+", default=[10, 60])
    parser.add_argument("--directory", default=tempfile.gettempdir())
    parser.add_argument("--one", nargs=2, metavar=("VIDEO", "HOW"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(_run(Path(options.one[0]), Path(options.directory), options.one[1] == "features")))
        return 0
    directory = Path(options.directory)
    directory.mkdir(parents=True, exist_ok=True)
    minute = generated(directory / "minute_180p.mp4", 320, 176, 60)
    peaks = []
    for minutes in options.minutes:
        video = repeated(minute, directory / f"minutes_{minutes}.mp4", minutes)
        tokens, features = (_child(video, directory, how) for how in ("tokens", "features"))
        peaks.append(tokens["watched_mib"])
        print(
            f"{minutes:4} min: {tokens['frames']} frames, {tokens['visual_tokens']} visual + {tokens['text_tokens']} "
            f"text tokens; decode + encode {tokens['watch_s']:.1f} s, answer {tokens['answer_s']:.1f} s; memory "
            f"+{tokens['watched_mib']} MiB while watching (baseline, features held: +{features['watched_mib']} MiB), "
            f"+{tokens['answered_mib']} MiB with the language model",
            flush=True,
        )
    ratio = max(peaks) / max(min(peaks), 1)
    print(f"memory while watching, longest over shortest: {ratio:.2f} (at most {_GROWTH})")
    return int(ratio > _GROWTH)


def _child(video: Path, directory: Path, how: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.long_video", "--directory", str(directory), "--one"]
    done = subprocess.run([*command, str(video), how], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _run(video: Path, directory: Path, hold_features: bool) -> dict[str, float]:
    """One video, one question, in this process; memory counts from the loaded model on."""
    import torch

    from longvu_model import LlamaVidForConditionalGeneration, LlamaVidProcessor, assembly
    from longvu_model.llamavid.long_video import interleave, question_about
    from longvu_model.llamavid.positions import extend_positions
    from longvu_model.llamavid.processing import tower_pixels
    from longvu_model.llamavid.watching import FrameWatcher
    from longvu_model.presets import build_preset
    from longvu_model.subtitles import read_subtitles
    from longvu_model.video import FrameSampling, iter_frame_blocks

    folder = build_preset("tiny_llamavid", directory / "tiny_llamavid")
    config = LlamaVidForConditionalGeneration.config_class.from_pretrained(folder)
    config.text_config = extend_positions(config.text_config, _CONTEXT, config.rules)
    config.max_sequence_length = _CONTEXT
    model = LlamaVidForConditionalGeneration.from_pretrained(folder, config=config).eval()
    processor = LlamaVidProcessor.from_pretrained(folder)
    guide = processor.guide_inputs([_QUESTION])
    watcher = FrameWatcher(
        model.model, tower_pixels(processor.video_processor), guide["guide_ids"], guide["guide_mask"]
    )

    process, held, times_s = psutil.Process(), [], []
    before = process.memory_info().rss
    peak, started_s = before, time.perf_counter()
    stream = iter_frame_blocks(video, FrameSampling(fps=1.0), block_frames=16)
    for block in stream:
        times_s.extend(block.pts_s.tolist())
        watcher.add(block.frames)
        if hold_features:
            with torch.no_grad():
                pixels = processor.video_processor.preprocess(block.frames)["pixel_values"]
                held.append(model.model.tower(pixels))
        peak = max(peak, process.memory_info().rss)
    tokens_LC = watcher.tokens()
    watched, watch_s = peak - before, time.perf_counter() - started_s
    if hold_features:
        return {"watched_mib": watched >> 20}

    subtitles = read_subtitles(_write_subtitles(directory / f"{video.stem}.srt", len(times_s)))
    started_s = time.perf_counter()
    text = question_about(interleave(times_s, subtitles, config.rules), _QUESTION, config.tokens_per_frame)
    layout = assembly.text_layout(processor.tokenize_question(text), None)
    row_L, slot_L = assembly.rows_of_media(layout, len(tokens_LC), config.rules)
    merged = assembly.merge(
        None,
        layout,
        model.model.embed,
        tokens_LC,
        torch.ones(len(tokens_LC), dtype=torch.int64),
        row_L,
        slot_L,
        labels=None,
        with_mask=False,
        with_positions=False,
        pad_left=False,
    )
    ids = model.generate(inputs_embeds=merged.inputs_embeds, max_new_tokens=_NEW_TOKENS, do_sample=False)
    assert ids.shape[1] <= _NEW_TOKENS
    return {
        "frames": watcher.num_frames,
        "visual_tokens": len(tokens_LC),
        "text_tokens": int(layout.num_text_B),
        "watch_s": watch_s,
        "answer_s": time.perf_counter() - started_s,
        "watched_mib": watched >> 20,
        "answered_mib": (process.memory_info().rss - before) >> 20,
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
