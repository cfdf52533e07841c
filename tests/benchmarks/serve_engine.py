"""Asking many questions about one video, and many clients at once: the engine alone, no Ray, no HTTP.

    python -m tests.benchmarks.serve_engine [--seconds 600] [--questions 16] [--clients 16] [--directory DIR]

The tiny preset, one thread, a synthetic video at one frame a second. In turns, on the same video and questions:

    first       the engine's first question: decode, encode, take in the prompt
    second      another question about the same video
    one by one  the video decoded and encoded for every question, answered by the library's generate

A wide video fits in full; a threshold that keeps most frames makes them too many at any size (low): in both, the
second question starts from the video's keys and values. In between (mixed) the question chooses what is shown large,
and only decoding and encoding are saved. Then all questions, from the file and from a feature store, with decoder and
tower calls counted; then tokens per second of one client and of many. Answers must be the same tokens everywhere. Exits
with 1 if they are not, or a floor is missed.

The decoder's random weights are enlarged, so that answers wander through the vocabulary and can differ.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import torch

from longvu_model.presets import build_preset
from pipelines.corpus import CorpusConfig, write_corpus
from pipelines.engine import Completion, Engine, EngineConfig, SamplingParams, VisualCache
from pipelines.extract.config import ExtractConfig
from pipelines.extract.towers import load_towers
from pipelines.store import FeatureStore
from pipelines.video_models import load_video_model
from pipelines.video_models.longvu import LongVU
from tests.pipelines.extract.conftest import extract_without_ray

FIRST_TO_SECOND, QUESTIONS_FLOOR, CLIENTS_FLOOR = 30.0, 8.0, 3.0
WIDE, TELEVISION = (320, 128), (320, 180)
LIVELINESS = 6.0
RESERVED_TEXT = 64


# Size and threshold that put ten minutes into the full, the low and the mixed regime.
CASES = ((WIDE, 0.83), (TELEVISION, 1.1), (TELEVISION, 0.83))


class Calls:
    """Counts openings of videos and calls of towers."""

    def __init__(self) -> None:
        self.decoder = self.encoder = 0

    @contextlib.contextmanager
    def counted(self, model: LongVU) -> Iterator[Calls]:
        opened = av.open
        towers = [tower.register_forward_hook(self._encoded) for tower in model.model.model.towers.children()]
        av.open = lambda *given, **named: self._decoded() or opened(*given, **named)
        try:
            yield self
        finally:
            av.open = opened
            for tower in towers:
                tower.remove()

    def _decoded(self) -> None:
        self.decoder += 1

    def _encoded(self, *_: Any) -> None:
        self.encoder += 1


def messages(question: str, video: Path | None = None) -> list[dict[str, Any]]:
    part = {"type": "video"} | ({} if video is None else {"path": video})
    return [{"role": "user", "content": [part, {"type": "text", "text": question}]}]


def questions(count: int) -> list[str]:
    asked = ("Which colour does the shape have?", "Which shape appears?", "When does it appear?", "How many scenes?")
    return [f"{asked[number % len(asked)]} (question {number + 1})" for number in range(count)]


class Video:
    """A watched file and an engine that answers about it."""

    def __init__(self, model: LongVU, path: Path, tokens: int, store: FeatureStore | None = None) -> None:
        self.model, self.path, self.store = model, path, store
        self.sampling = SamplingParams(max_tokens=tokens)
        self.engine, self.cache = Engine(model, EngineConfig()), VisualCache(1 << 30)

    def ask(self, question: str) -> tuple[Completion, float]:
        """The answer, and the seconds until its first token."""
        start = time.perf_counter()
        prompt = self.prompt(question)
        prepared_s = time.perf_counter() - start
        answer = self.engine.submit(prompt, self.sampling).result()
        return answer, prepared_s + answer.seconds["first_token"]

    def prompt(self, question: str) -> Any:
        make = self._watch if self.store is None else self._recall
        return self.model.prompt(messages(question), [self.cache.get_or_watch(str(self.path), make)])

    def ask_all(self, asked: list[str]) -> list[Completion]:
        generations = [self.engine.submit(self.prompt(question), self.sampling) for question in asked]
        return [generation.result() for generation in generations]

    def _watch(self) -> Any:
        return self.model.watch(self.path)

    def _recall(self) -> Any:
        assert self.store is not None
        return self.model.recall(self.store, self.path)


@torch.inference_mode()
def one_by_one(model: LongVU, path: Path, question: str, tokens: int) -> list[int]:
    """Ids by the library's own generate, everything made for this question alone."""
    embeds = model.prompt(messages(question), [model.watch(path)]).embeds[None]
    mask = torch.ones(embeds.shape[:2], dtype=torch.long)
    ids = model.model.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=tokens, do_sample=False)
    row = ids[0].tolist()
    ends = [place for place, token in enumerate(row) if token in model.eos_token_ids]
    return row[: ends[0]] if ends else row


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def second_question(folder: Path, path: Path, threshold: float, tokens: int, rounds: int) -> bool:
    """Prints a line; whether answers agree and the floor is held."""
    firsts, seconds, alone = [], [], []
    same = True
    for turn in range(rounds):
        model = loaded(folder, threshold)
        video = Video(model, path, tokens)
        one, other = questions(2 * turn + 2)[-2:]
        firsts.append(video.ask(one)[1])
        answer, second_s = video.ask(other)
        seconds.append(second_s)
        regime = video.prompt(other).regime
        video.engine.close()
        alone.append(timed(lambda: one_by_one(model, path, other, 1))[1])  # noqa: B023 - called at once
        same &= one_by_one(model, path, other, tokens) == answer.token_ids
    first_s, second_s, alone_s = map(statistics.median, (firsts, seconds, alone))
    floor = f"floor {FIRST_TO_SECOND:.0f}" if regime != "mixed" else "no floor in this regime"
    print(
        f"{regime}: first token after {first_s:.2f} s, of a second question {second_s * 1e3:.1f} ms "
        f"({answer.cached_tokens} of {answer.prompt_tokens} positions reused), by itself {alone_s:.2f} s: "
        f"{first_s / second_s:.0f} and {alone_s / second_s:.0f} times sooner, {floor}, {said(same)}",
        flush=True,
    )
    return same and (regime == "mixed" or min(first_s, alone_s) / second_s >= FIRST_TO_SECOND)


def said(same: bool) -> str:
    return "same tokens" if same else "OTHER TOKENS"


def loaded(folder: Path, threshold: float) -> LongVU:
    """The tiny model with a decoder that has something to say."""
    model = load_video_model(folder, overrides={"dino_threshold": threshold})
    assert isinstance(model, LongVU)
    for layer in model.model.model.language_model.layers:
        for parameter in layer.parameters():
            if parameter.dim() > 1:
                parameter.data *= LIVELINESS
    return LongVU(model.model, model.processor, text_step=RESERVED_TEXT)


def all_questions(folder: Path, path: Path, store: FeatureStore, count: int, tokens: int) -> bool:
    """Prints two lines; whether answers agree and the floor is held."""
    model, asked = loaded(folder, CASES[0][1]), questions(count)
    together_s = stored_s = float("inf")
    for _ in range(3):
        video, from_store = Video(model, path, tokens), Video(model, path, tokens, store)
        answers, seconds = timed(lambda: video.ask_all(asked))  # noqa: B023
        together_s = min(together_s, seconds)
        with Calls().counted(model) as calls:
            stored, seconds = timed(lambda: from_store.ask_all(asked))  # noqa: B023
        stored_s = min(stored_s, seconds)
        video.engine.close()
        from_store.engine.close()
    ids, one_by_one_s = timed(lambda: [one_by_one(model, path, question, tokens) for question in asked])
    same = [answer.token_ids for answer in answers] == ids
    agree = sum(answer.token_ids == other for answer, other in zip(stored, ids, strict=True))
    print(
        f"{count} questions about one video: {together_s:.2f} s together, {one_by_one_s:.2f} s one by one: "
        f"{one_by_one_s / together_s:.1f} times faster, floor {QUESTIONS_FLOOR:.0f}, {said(same)}, "
        f"{len({token for row in ids for token in row})} different ones"
    )
    print(
        f"from a feature store: {stored_s:.2f} s, {one_by_one_s / stored_s:.1f} times faster, {calls.decoder} decoder "
        f"and {calls.encoder} tower calls, both must be 0; {agree} of {count} answers the same (features are float16)",
        flush=True,
    )
    return same and calls.decoder == calls.encoder == 0 and one_by_one_s / together_s >= QUESTIONS_FLOOR


def many_clients(folder: Path, path: Path, clients: int, tokens: int) -> bool:
    """Prints a line; whether answers agree and the floor is held."""
    model = loaded(folder, CASES[0][1])
    video = Video(model, path, tokens)
    asked = questions(clients)
    prompts = [video.prompt(question) for question in asked]
    alone: dict[int, list[int]] = {}
    together: dict[int, list[int]] = {}
    one_rate, many_rate = [], []

    def client(number: int, answers: dict[int, list[int]]) -> None:
        answers[number] = video.engine.submit(prompts[number], video.sampling).result().token_ids

    def rate(run: Callable[[], None], answers: dict[int, list[int]]) -> float:
        _, seconds = timed(run)
        return sum(map(len, answers.values())) / seconds

    def at_once() -> None:
        threads = [threading.Thread(target=client, args=(number, together)) for number in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    for _ in range(3):
        one_rate.append(rate(lambda: [client(number, alone) for number in range(clients)] and None, alone))
        many_rate.append(rate(at_once, together))
    video.engine.close()
    same, ratio = alone == together, max(many_rate) / max(one_rate)
    print(
        f"{clients} clients at once: {max(many_rate):.0f} tokens/s, one client {max(one_rate):.0f}: {ratio:.1f} times "
        f"more, floor {CLIENTS_FLOOR:.0f}, {said(same)}",
        flush=True,
    )
    return same and ratio >= CLIENTS_FLOOR


def main(argv: list[str] | None = None) -> int:
    options = _arguments(argv)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread; tiny preset, one video of {options.seconds} s")
    with tempfile.TemporaryDirectory() as scratch:
        directory = options.directory or Path(scratch)
        folder = build_preset("tiny", directory / "tiny")
        videos = {size: _video(directory, size, options.seconds) for size in (WIDE, TELEVISION)}
        config = ExtractConfig(
            source=str(videos[WIDE].parent), store=str(Path(scratch)), features={"siglip": True}, name="bench"
        )
        store = extract_without_ray(config, load_towers(folder, ("dinov2", "siglip")))
        results = [
            second_question(folder, videos[size], threshold, options.tokens, options.rounds)
            for size, threshold in CASES
        ]
        results.append(all_questions(folder, videos[WIDE], store, options.questions, options.tokens))
        results.append(many_clients(folder, videos[WIDE], options.clients, 2 * options.tokens))
    return 0 if all(results) else 1


def _video(directory: Path, size: tuple[int, int], seconds: float) -> Path:
    width, height = size
    config = CorpusConfig(
        num_videos=1, seconds=seconds, width=width, height=height, fps=5, scenes=(5,), needle_area=0.05
    )
    return write_corpus(directory / f"{width}x{height}", config).videos[0]


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="of the video; sampled once a second")
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=32, help="of an answer")
    parser.add_argument("--rounds", type=int, default=3, help="of the first two lines, of which the median counts")
    parser.add_argument("--directory", type=Path, help="keeps the videos and the model for another run")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
