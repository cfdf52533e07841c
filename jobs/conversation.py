"""Two questions about one unseen video over HTTP, with OpenAI's client: what the demo ends with."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from longvu_model.frame_selection import WINDOW_FRAMES
from pipelines.corpus.splits import STILL_QUESTION

FILE = "conversation.json"


def converse(folder: Path, base_url: str, key: str, say: Callable[[str], None]) -> None:
    """Ask, and write ``conversation.json``: questions, answers, seconds, what the endpoint said of each.

    Args:
        folder: of the demo; the video is one of the unseen ones of its corpus, see :func:`subject`.
        say: gets a line at a time.
    """
    from openai import OpenAI

    lines = (folder / "corpus" / "heldout" / "questions.jsonl").read_text().splitlines()
    row = subject([json.loads(line) for line in lines])
    video = folder / "corpus" / "heldout" / row["video"]
    exchanges = []
    with OpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=120) as client:
        model = client.models.list().data[0].id
        for question in (row["question"], STILL_QUESTION):
            exchanges.append(_ask(client, model, video.as_uri(), question))
            told = exchanges[-1]
            say(f"{question}  ->  {told['answer']}   ({told['seconds']:.2f} s; true answer: {row['answer']})")
    record = {"video": str(video), "row": row, "model": model, "base_url": base_url, "exchanges": exchanges}
    partial = folder / f"{FILE}.partial"
    partial.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(partial, folder / FILE)


def subject(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first video whose needle is not seen by the frame in the middle of a window, which is kept whatever it shows;
    the first of all if there is none. At one frame a second, as the demo samples."""
    return next((row for row in rows if not _in_the_middle(row)), rows[0])


def _in_the_middle(row: dict[str, Any]) -> bool:
    frames = int(row["duration_s"])
    middles = [first + min(WINDOW_FRAMES, frames - first) // 2 for first in range(0, frames, WINDOW_FRAMES)]
    return any(row["needle"]["start_s"] <= middle < row["needle"]["end_s"] for middle in middles)


def _ask(client: Any, model: str, url: str, question: str) -> dict[str, Any]:
    part = {"type": "video_url", "video_url": {"url": url}}
    content = [part, {"type": "text", "text": question}]
    started_s = time.perf_counter()
    reply = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": content}], max_tokens=8, temperature=0
    )
    seconds = time.perf_counter() - started_s
    return {
        "question": question,
        "answer": reply.choices[0].message.content,
        "seconds": seconds,
        "usage": reply.usage.model_dump(),
        "longvu": reply.model_extra["longvu"],
    }
