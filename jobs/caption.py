"""``longvu caption --stream VIDEO|DEVICE|URL``: a line for each scene of a video, printed when the scene has ended."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict

from jobs.cli import COUNT, RATE, Parser
from pipelines.errors import run_cli


def build_parser() -> Parser:
    parser = Parser(prog="longvu caption", description=__doc__)
    parser.add_argument("--stream", required=True, metavar="SOURCE", help="video file, camera (/dev/video0) or address")
    parser.add_argument(
        "--model",
        default="tiny_videollamb",
        help="VideoLLaMB checkpoint folder; or tiny_videollamb, which has random weights (default)",
    )
    parser.add_argument("--question", metavar="TEXT", help="what is asked about each scene")
    parser.add_argument("--fps", type=RATE, default=1.0, help="frames looked at per second (default 1)")
    parser.add_argument(
        "--shortest", type=RATE, default=8.0, metavar="S", help="seconds of a scene at least (default 8)"
    )
    parser.add_argument("--longest", type=RATE, default=120.0, metavar="S", help="and at most (default 120)")
    parser.add_argument("--max-new-tokens", type=COUNT, default=64, metavar="N", help="of a caption (default 64)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda where there is one)")
    parser.add_argument("--json", action="store_true", help="one JSON object per caption")
    return parser


def main(argv: Sequence[str]) -> int:
    options = build_parser().parse_args(argv)
    return run_cli(lambda _: run(options), [])


def run(options: argparse.Namespace) -> int:
    from jobs.checkpoint import checkpoint_folder, device_of, note_random_weights
    from jobs.terminal import note, quiet_libraries
    from pipelines.captions import QUESTION, CaptionSettings, stream_captions
    from pipelines.video_models import load_video_model

    quiet_libraries()
    folder = checkpoint_folder(options.model)
    note_random_weights(options.model, folder)
    model = load_video_model(folder, device_of(options.device))
    settings = CaptionSettings(
        question=options.question or QUESTION,
        fps=options.fps,
        shortest_s=options.shortest,
        longest_s=options.longest,
        max_new_tokens=options.max_new_tokens,
    )
    started_s, count, end_s = time.monotonic(), 0, 0.0
    for caption in stream_captions(model, options.stream, settings):
        print(json.dumps(asdict(caption)) if options.json else caption, flush=True)
        count, end_s = count + 1, caption.end_s
    took_s = time.monotonic() - started_s
    note(
        f"{count} captions of {end_s:.0f} s of video in {took_s:.1f} s, {end_s / took_s:.1f} times as fast as it plays"
    )
    return 0
