"""A benchmark in NExT-QA's format: videos of seconds, any number of questions about each."""

from __future__ import annotations

import csv
from pathlib import Path

from tests.pipelines.conftest import write_video

COLOURS = ("red", "green", "blue", "yellow", "grey")
_TYPES = ("CW", "TN", "DC")
_HEADER = ("video", "frame_count", "width", "height", "question", "answer", "qid", "type", "a0", "a1", "a2", "a3", "a4")


def write_benchmark(folder: Path, videos: int = 4, questions: int = 3, seconds: int = 3) -> Path:
    """``nextqa/val.csv`` and ``NExTVideo/<number>.mp4``; answers go round through the options."""
    (folder / "nextqa").mkdir(parents=True)
    with (folder / "nextqa" / "val.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(_HEADER)
        for number in range(videos):
            for question in range(questions):
                text = f"what colour is shape {question} of video {number}"
                kind = _TYPES[question % len(_TYPES)]
                rows.writerow((video_name(number), 8, 96, 64, text, (number + question) % 5, question, kind, *COLOURS))
    for number in range(videos):
        write_video(folder / "NExTVideo" / f"{video_name(number)}.mp4", [seconds], seed=number)
    return folder


def video_name(number: int) -> str:
    return f"10000000{number:02d}"


def video_file(data: Path, number: int) -> Path:
    return data / "NExTVideo" / f"{video_name(number)}.mp4"
