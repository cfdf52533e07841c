"""``longvu chat VIDEO``: questions and answers about a video in the terminal, with a model here or an endpoint.

The video is watched once; every question after the first is answered at once. Words appear as they come. Ctrl-C stops
an answer, Ctrl-D ends the chat, ``/new`` forgets what was said, ``/frames`` lists the frames that the model saw. From
a pipe, every line is a question, and only answers go to stdout.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.cli import COUNT, RATE, Parser
from jobs.terminal import Progress, note, note_damage, quiet_libraries
from pipelines.chat_client import ChatClient, Conversation, Medium, Seen
from pipelines.errors import UserError, run_cli

KEY_VARIABLE = "LONGVU_API_KEY"
_HISTORY_LINES = 1000

Answer = Callable[[list[dict[str, Any]]], Generator[str | Seen, None, None]]
"""The messages of a request to the words of its answer, and what it was based on."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``longvu chat``."""
    return run_cli(run, argv)


def run(argv: Sequence[str]) -> int:
    """Parse, chat; returns the exit code."""
    options = build_parser().parse_args(argv)
    with _endpoint(options) if options.url else _local(options) as (conversation, answer):
        chat(conversation, answer, _lines())
    return 0


def build_parser() -> Parser:
    parser = Parser(
        prog="longvu chat",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("video", metavar="VIDEO", help="video, GIF or picture; with --url also an address or video:ID")
    parser.add_argument(
        "--url", help=f"of an endpoint, such as http://127.0.0.1:8000/v1; its key is in ${KEY_VARIABLE}"
    )
    parser.add_argument(
        "--model",
        help="checkpoint folder, or tiny, which has random weights (default); with --url a model of the endpoint",
    )
    parser.add_argument("--fps", type=RATE, help="frames sampled per second of video (default: the model's way)")
    parser.add_argument(
        "--max-new-tokens", type=COUNT, default=512, metavar="N", help="limit on an answer (default 512)"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda where there is one)")
    return parser


def chat(conversation: Conversation, answer: Answer, lines: Iterator[str]) -> None:
    """Answer line after line."""
    seen = Seen()
    for line in lines:
        if line == "/new":
            conversation.messages = []
            note("(what was said is forgotten)")
        elif line == "/frames":
            note(_frames(seen))
        elif line.startswith("/"):
            note(f"{line}: no such command; there are /new and /frames, and Ctrl-D ends the chat")
        elif line:
            seen = _exchange(conversation, answer, line) or seen


def _exchange(conversation: Conversation, answer: Answer, question: str) -> Seen | None:
    """One question and its answer; what it was based on, None if it did not come to its end."""
    said, seen = "", None
    try:
        with contextlib.closing(answer(conversation.asked(question))) as pieces:
            for piece in pieces:
                if isinstance(piece, Seen):
                    seen = piece
                    continue
                said += piece
                print(piece, end="", flush=True)
    except KeyboardInterrupt:
        print(flush=True)
        note("(stopped)")
        return None
    except UserError as error:
        if not sys.stdin.isatty():
            raise
        note(f"error: {error}")
        return None
    print(flush=True)
    conversation.answered(question, said)
    if seen is not None:
        note(f"({seen}{'; cut at the limit, see --max-new-tokens' if seen.cut else ''})")
    return seen


def _frames(seen: Seen) -> str:
    if not seen.kept_times_s:
        return "(ask something first)"
    times_s = [f"{time_s:.1f}" for times_s in seen.kept_times_s for time_s in times_s]
    return f"{len(times_s)} of {sum(seen.num_sampled)} frames kept, at seconds {', '.join(times_s)}"


def _lines() -> Iterator[str]:
    """What is typed, or comes through a pipe, until its end."""
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin)
        return
    with _typed_before():
        while True:
            try:
                yield input("> ").strip()
            except EOFError:
                print(flush=True)
                return


@contextlib.contextmanager
def _typed_before() -> Iterator[None]:
    """Arrow keys bring back earlier questions, also those of earlier chats."""
    import readline

    from jobs.checkpoint import cache_folder

    path = cache_folder() / "chat_history"
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        readline.read_history_file(path)
    readline.set_history_length(_HISTORY_LINES)
    try:
        yield
    finally:
        readline.write_history_file(path)


@contextlib.contextmanager
def _endpoint(options: argparse.Namespace) -> Iterator[tuple[Conversation, Answer]]:
    """A conversation with an endpoint, to which a local file is sent."""
    if options.device:
        raise UserError("--device goes with a model here; leave it out, or leave out --url")
    client = ChatClient(options.url, os.environ.get(KEY_VARIABLE))
    with contextlib.closing(client):
        names = client.models()
        model = options.model or next(iter(names), "")
        if model not in names:
            raise UserError(f"--model {model}: {options.url} has {', '.join(names) or 'no model'}")
        medium = _medium(client, options.video)

        def answer(messages: list[dict[str, Any]]) -> Generator[str | Seen, None, None]:
            return client.answer(model, messages, options.max_new_tokens, options.fps)

        yield Conversation(medium.part), answer


def _medium(client: ChatClient, video: str) -> Medium:
    if video.startswith(("http://", "https://", "file://", "video:")):
        return Medium(video, "video")
    note(f"sending {video} ...")
    try:
        return client.upload(Path(video))
    except OSError as error:
        raise UserError(f"{video}: {error.strerror}; give a video or picture file") from None


@contextlib.contextmanager
def _local(options: argparse.Namespace) -> Iterator[tuple[Conversation, Answer]]:
    """A conversation with a model that is loaded here."""
    from longvu_model.video import FrameSampling, probe

    probe(options.video)  # a wrong file is known before the seconds that loading a model takes
    from jobs.checkpoint import checkpoint_folder, device_of, note_random_weights
    from pipelines.engine import Engine, EngineConfig
    from pipelines.video_models import load_video_model

    quiet_libraries()
    device = device_of(options.device)
    name = options.model or "tiny"
    folder = checkpoint_folder(name)
    note_random_weights(name, folder)
    model = load_video_model(folder, device=device)
    sampling = FrameSampling(fps=options.fps) if options.fps else None
    watched = model.watch(options.video, sampling, Progress("frames"))
    note_damage(options.video, watched.damage)
    engine = Engine(model, EngineConfig(slots=1))
    with contextlib.closing(engine):

        def answer(messages: list[dict[str, Any]]) -> Generator[str | Seen, None, None]:
            return _generated(model, engine, watched, messages, options.max_new_tokens)

        yield Conversation({"type": watched.kind}), answer


def _generated(
    model: Any, engine: Any, watched: Any, messages: Sequence[Mapping[str, Any]], max_tokens: int
) -> Generator[str | Seen, None, None]:
    """As :meth:`ChatClient.answer`, by an engine of this process."""
    from pipelines.engine import SamplingParams

    prompt = model.prompt(messages, [watched])
    generation = engine.submit(prompt, SamplingParams(max_tokens=max_tokens))
    try:
        for delta in generation:
            yield delta.text
    finally:
        generation.cancel()
    completion = generation.result()
    yield Seen(
        kept_times_s=prompt.kept_times_s,
        num_sampled=[watched.num_sampled],
        damage=[watched.damage],
        visual_tokens=prompt.visual_tokens,
        regime=prompt.regime,
        seconds=completion.seconds,
        cut=completion.finish_reason == "length",
    )


if __name__ == "__main__":
    sys.exit(main())
