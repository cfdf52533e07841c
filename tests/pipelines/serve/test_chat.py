"""OpenAI's client against the live endpoint: one answer, streamed answers, media in every form, refusals."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image

from tests.pipelines.conftest import write_video
from tests.pipelines.serve.endpoint import LiveEndpoint, ask, video_part

QUESTION = "Which colour does the shape have?"


@pytest.fixture(scope="module")
def video(endpoint: LiveEndpoint, clip: Path) -> str:
    """URL of an upload."""
    return f"video:{endpoint.upload(clip)['id']}"


def complete(endpoint: LiveEndpoint, messages: Any, **options: Any) -> Any:
    return endpoint.client().chat.completions.create(
        model=options.pop("model", "tiny"), messages=messages, **{"max_tokens": 8, **options}
    )


def test_an_answer_says_what_was_seen(endpoint: LiveEndpoint, video: str) -> None:
    reply = complete(endpoint, ask(video_part(video), QUESTION))
    seen, usage = reply.longvu, reply.usage
    assert reply.choices[0].finish_reason in ("stop", "length")
    assert usage.prompt_tokens > seen["visual_tokens"] > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.completion_tokens <= 8
    (medium,) = seen["media"]
    assert medium["num_sampled"] == 20
    assert 0 < len(medium["kept_times_s"]) <= 20
    assert seen["regime"] in ("full", "mixed", "low")
    assert {"media", "prompt", "first_token", "answer"} <= seen["seconds"].keys()


def test_the_second_question_decodes_and_encodes_nothing(endpoint: LiveEndpoint, tmp_path: Path) -> None:
    path = write_video(tmp_path / "new.mp4", [6, 4], seed=11)
    url = f"video:{endpoint.upload(path)['id']}"
    first = complete(endpoint, ask(video_part(url), QUESTION))
    assert first.longvu["media"][0]["source"] == "decoded"
    assert not first.longvu["cache"]["visual"]
    second = complete(endpoint, ask(video_part(url), QUESTION))
    assert second.longvu["media"][0]["source"] == "cache"
    assert second.longvu["cache"] == {"visual": True, "prefix": True}
    assert second.usage.prompt_tokens_details.cached_tokens > 0
    assert second.choices[0].message.content == first.choices[0].message.content


def test_streamed_words_are_the_whole_answer(endpoint: LiveEndpoint, video: str) -> None:
    messages = ask(video_part(video), QUESTION)
    whole = complete(endpoint, messages)
    chunks = list(complete(endpoint, messages, stream=True, stream_options={"include_usage": True}))
    texts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(texts) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage or chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].longvu["visual_tokens"] == whole.longvu["visual_tokens"]
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_without_usage_ends_with_what_was_seen(endpoint: LiveEndpoint, video: str) -> None:
    chunks = list(complete(endpoint, ask(video_part(video), QUESTION), stream=True))
    assert chunks[-1].choices[0].finish_reason
    assert chunks[-1].longvu["media"]
    assert all(chunk.usage is None for chunk in chunks)


def test_log_probabilities(endpoint: LiveEndpoint, video: str) -> None:
    messages = ask(video_part(video), QUESTION)
    reply = complete(endpoint, messages, logprobs=True, top_logprobs=3)
    tokens = reply.choices[0].logprobs.content
    assert len(tokens) == reply.usage.completion_tokens
    assert all(len(token.top_logprobs) == 3 for token in tokens)
    # Greedy: the chosen one is the likeliest.
    assert all(token.logprob == token.top_logprobs[0].logprob <= 0 for token in tokens)
    alone = complete(endpoint, messages, logprobs=True).choices[0].logprobs.content
    assert [token.token for token in alone] == [token.token for token in tokens]
    assert all(token.top_logprobs == [] for token in alone)
    streamed = complete(endpoint, messages, logprobs=True, stream=True)
    parts = [
        part for chunk in streamed for choice in chunk.choices if choice.logprobs for part in choice.logprobs.content
    ]
    assert [part.token for part in parts] == [token.token for token in tokens]


def test_equal_seeds_give_equal_answers(endpoint: LiveEndpoint, video: str) -> None:
    messages = ask(video_part(video), QUESTION)
    texts = [
        complete(endpoint, messages, temperature=1.5, top_p=0.9, seed=seed).choices[0].message.content
        for seed in (3, 3, 4)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_stop_texts_end_the_answer_and_are_not_part_of_it(endpoint: LiveEndpoint, video: str) -> None:
    messages = ask(video_part(video), QUESTION)
    for seed in range(50):  # the model is random: most of what it says is no text that could be sent back
        sampled = {"max_tokens": 16, "temperature": 2.0, "seed": seed}
        whole = complete(endpoint, messages, **sampled).choices[0].message.content
        stop = next((letter for letter in whole[4:] if letter.isascii() and letter.isalpha()), None)
        if stop is not None:
            break
    assert stop is not None
    reply = complete(endpoint, messages, stop=[stop], **sampled)
    assert reply.choices[0].finish_reason == "stop"
    assert reply.choices[0].message.content == whole[: whole.index(stop)]


def test_several_turns_and_a_system_prompt(endpoint: LiveEndpoint, video: str) -> None:
    first = complete(endpoint, ask(video_part(video), QUESTION))
    turns = [
        {"role": "system", "content": "Answer in one word."},
        *ask(video_part(video), QUESTION),
        first.choices[0].message.model_dump(),  # as clients append it, with its empty fields
        {"role": "user", "content": "And which shape?"},
    ]
    second = complete(endpoint, turns)
    assert second.usage.prompt_tokens > first.usage.prompt_tokens
    assert len(second.longvu["media"]) == 1


def test_an_opened_answer_is_continued(endpoint: LiveEndpoint, video: str) -> None:
    turns = [*ask(video_part(video), QUESTION), {"role": "assistant", "content": "Best option: ("}]
    with pytest.raises(openai.BadRequestError, match="continue_final_message"):
        complete(endpoint, turns)
    continued = {"continue_final_message": True, "add_generation_prompt": False}
    reply = complete(endpoint, turns, extra_body=continued)
    assert not reply.choices[0].message.content.startswith("Best")


def test_text_alone_and_another_model(endpoint: LiveEndpoint) -> None:
    reply = complete(endpoint, [{"role": "user", "content": "Hello"}], model="other")
    assert reply.model == "other"
    assert reply.longvu["visual_tokens"] == 0
    assert reply.longvu["media"] == []


def test_media_come_as_file_data_and_uuid(endpoint: LiveEndpoint, clip: Path, video: str) -> None:
    by_id = complete(endpoint, ask(video_part(video), QUESTION))
    shutil.copyfile(clip, endpoint.file_root / "a clip.mp4")
    by_file = complete(endpoint, ask(video_part(f"file://{endpoint.file_root}/a%20clip.mp4"), QUESTION))
    encoded = base64.b64encode(clip.read_bytes()).decode()
    by_data = complete(endpoint, ask(video_part(f"data:video/mp4;base64,{encoded}", uuid="the clip"), QUESTION))
    by_uuid = complete(endpoint, ask({"type": "video_url", "uuid": "the clip"}, QUESTION))
    # The same bytes are the same video, however they come.
    replies = (by_file, by_data, by_uuid)
    assert all(reply.choices[0].message == by_id.choices[0].message for reply in replies)
    assert [reply.longvu["media"][0]["source"] for reply in replies] == ["cache"] * 3
    with pytest.raises(openai.NotFoundError, match="not known here; send video_url"):
        complete(endpoint, ask({"type": "video_url", "uuid": "another"}, QUESTION))


def test_the_form_of_lmms_eval(endpoint: LiveEndpoint, clip: Path) -> None:
    shutil.copyfile(clip, endpoint.file_root / "sample.mp4")
    extra = {"media_io_kwargs": {"video": {"num_frames": 6, "fps": None}}, "mm_processor_kwargs": {}}
    reply = complete(endpoint, ask(video_part(f"file://{endpoint.file_root}/sample.mp4"), QUESTION), extra_body=extra)
    assert reply.longvu["media"][0]["num_sampled"] == 6


@pytest.mark.parametrize(
    ("options", "num_sampled"),
    [
        ({"media_io_kwargs": {"video": {"fps": 0.5}}}, 10),
        ({"media_io_kwargs": {"video": {"fps": 2, "num_frames": 7}}}, 7),
        ({"media_io_kwargs": {"video": {"fps": 1, "start_s": 5, "end_s": 10}}}, 5),
        ({"mm_processor_kwargs": {"num_frames": 4}}, 4),
        ({"media_io_kwargs": {"video": {"num_frames": -1}}}, 20),
    ],
)
def test_frames_are_sampled_as_asked(
    endpoint: LiveEndpoint, video: str, options: dict[str, Any], num_sampled: int
) -> None:
    reply = complete(endpoint, ask(video_part(video), QUESTION), extra_body=options)
    assert reply.longvu["media"][0]["num_sampled"] == num_sampled


def test_a_picture(endpoint: LiveEndpoint, tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    Image.new("RGB", (64, 48), "red").save(path)
    url = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    reply = complete(endpoint, ask({"type": "image_url", "image_url": {"url": url}}, "Which colour?"))
    assert reply.longvu["media"][0]["kind"] == "image"


@pytest.mark.parametrize(
    ("options", "message", "param"),
    [
        ({"n": 2}, "one answer is given per request", "n"),
        ({"tools": [{"type": "function"}]}, "calls no tools", "tools"),
        ({"presence_penalty": 0.5}, "penalties are not applied", "presence_penalty"),
        ({"response_format": {"type": "json_object"}}, "answers are free text", "response_format.type"),
        ({"logit_bias": {"5": 1}}, "token biases are not applied", "logit_bias"),
        ({"extra_body": {"top_k": 5}}, "temperature and top_p", "top_k"),
        ({"extra_body": {"nonsense": 5}}, "nonsense is not a field", "nonsense"),
        ({"temperature": 3}, "less than or equal to 2", "temperature"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "at most 4", "stop"),
        ({"top_logprobs": 3}, "needs logprobs=true", None),
        ({"stream_options": {"include_usage": True}}, "needs stream=true", None),
        ({"extra_body": {"media_io_kwargs": {"video": {"fps": 0}}}}, "greater than 0", "media_io_kwargs.video.fps"),
        ({"extra_body": {"mm_processor_kwargs": {"max_pixels": 5}}}, "max_pixels", "mm_processor_kwargs.max_pixels"),
        ({"max_tokens": 5000}, "tokens", "messages"),
    ],
)
def test_what_is_not_done_is_refused(
    endpoint: LiveEndpoint, options: dict[str, Any], message: str, param: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        complete(endpoint, [{"role": "user", "content": "Hello"}], **options)
    body: Any = refused.value.body
    assert message in body["message"]
    assert body["param"] == param
    assert body["code"]
    assert ";" in body["message"]  # the reason, then the fix


def test_what_changes_nothing_is_taken(endpoint: LiveEndpoint) -> None:
    harmless = {"user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "n": 1, "top_p": 1.0}
    neutral = {"presence_penalty": 0.0, "logit_bias": {}, "response_format": {"type": "text"}, "temperature": 0}
    assert complete(endpoint, [{"role": "user", "content": "Hello"}], **harmless, **neutral).choices


@pytest.mark.parametrize(
    ("messages", "status", "message"),
    [
        ([{"role": "assistant", "content": "Hi"}], 400, "messages end with 'assistant'"),
        ([{"role": "tool", "content": "x"}, *ask("Hi")], 400, "role"),
        ([{"role": "system", "content": [video_part("video:x")]}, *ask("Hi")], 400, "must be 'text'"),
        (ask({"type": "input_audio", "input_audio": {}}), 400, "type"),
        (ask({"type": "video_url"}), 400, "neither video_url nor uuid"),
        (ask(video_part("video:../../etc/passwd")), 400, "64 hex digits"),
        (ask(video_part("video:" + "0" * 64)), 404, "upload it"),
        (ask(video_part("https://example.org/film.mp4")), 403, "example.org"),
        (ask(video_part("file:///etc/passwd")), None, ""),
        (ask(video_part("ftp://example.org/film.mp4")), 400, "ftp"),
    ],
)
def test_bad_messages(endpoint: LiveEndpoint, messages: Any, status: int | None, message: str) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        complete(endpoint, messages)
    assert refused.value.status_code == status if status else 400 <= refused.value.status_code < 500
    body: Any = refused.value.body
    assert message in body["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b'{"model": "tiny"}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "\\ud800", "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "\\udfff": 1}',
        b'{"model": "tiny", "temperature": NaN, "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "tiny", "seed": 1e400, "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "tiny", "messages": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b"\xff\xfe{}",
    ],
)
def test_bodies_that_are_no_request(endpoint: LiveEndpoint, body: bytes) -> None:
    status, _, reply = endpoint.post("/v1/chat/completions", body)
    assert 400 <= status < 500
    assert json.loads(reply)["error"]["message"]


def test_an_unknown_model(endpoint: LiveEndpoint) -> None:
    with pytest.raises(openai.NotFoundError, match="use one of tiny, other"):
        complete(endpoint, [{"role": "user", "content": "Hello"}], model="gpt-9")
