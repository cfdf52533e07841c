"""``longvu ask VIDEO QUESTION``: the answer on stdout; what the model looked at, and how long it took, on stderr."""

from __future__ import annotations

import argparse
import contextlib
import time
from pathlib import Path
from typing import Any

from jobs.checkpoint import checkpoint_folder, device_of, note_random_weights
from jobs.terminal import Progress, note, note_damage, quiet_libraries
from longvu_model.video import FrameSampling
from pipelines.engine import Engine, EngineConfig, SamplingParams
from pipelines.errors import UserError
from pipelines.extract.towers import check_towers
from pipelines.store import FeatureStore
from pipelines.video_models import Prompt, VideoModel, WatchedMedia, load_video_model


def run(options: argparse.Namespace) -> int:
    quiet_libraries()
    device = device_of(options.device)
    folder = checkpoint_folder(options.model)
    note_random_weights(options.model, folder)
    overrides = {} if options.threshold is None else {"dino_threshold": options.threshold}
    model = load_video_model(folder, device, overrides=overrides)
    watched = _media(model, folder, options)
    note_damage(options.video, watched.damage)
    part: dict[str, Any] = {"type": watched.kind}
    if options.subtitles is not None:
        part["subtitles"] = _subtitles(model, options.subtitles)
    started_s = time.perf_counter()
    content = [part, {"type": "text", "text": options.question}]
    prompt = model.prompt([{"role": "user", "content": content}], [watched])
    print(_answer(model, prompt, options.max_new_tokens))
    seconds = watched.seconds | {"answer": time.perf_counter() - started_s}
    steps = ", ".join(f"{step} {value:.2f} s" for step, value in seconds.items())
    note(
        f"{watched.num_sampled} frames sampled, {sum(map(len, prompt.kept_times_s))} kept; regime {prompt.regime}, "
        f"{prompt.visual_tokens} visual tokens, {prompt.text_tokens} of text; {steps}"
    )
    return 0


def _media(model: VideoModel, folder: Path, options: argparse.Namespace) -> WatchedMedia:
    if options.store is None:
        sampling = None if options.fps is None else FrameSampling(fps=options.fps)
        return model.watch(options.video, sampling, Progress("frames"))
    store = FeatureStore.open(options.store)
    check_towers(store, folder)
    return model.recall(store, options.video)


def _subtitles(model: VideoModel, path: Path) -> Any:
    from longvu_model.llamavid.long_video import read_srt
    from longvu_model.subtitles import decode_subtitles
    from pipelines.video_models.llamavid import LlamaVid

    if not isinstance(model, LlamaVid):
        raise UserError(f"--subtitles {path}: only LLaMA-VID reads them between frames, the model is a {model.family}")
    try:
        return read_srt(decode_subtitles(path.read_bytes()), model.config.rules)
    except OSError as error:
        raise UserError(f"--subtitles {path}: {error.strerror}; give an .srt file") from None


def _answer(model: VideoModel, prompt: Prompt, max_new_tokens: int) -> str:
    longest = min(model.max_length, len(prompt) + max_new_tokens)
    with contextlib.closing(Engine(model, EngineConfig(slots=1, max_length=longest))) as engine:
        return engine.submit(prompt, SamplingParams(max_tokens=max_new_tokens)).result().text.strip()
