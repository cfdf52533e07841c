"""An endpoint that is busy, broken, gone or picky, each treated as what it is; the server is real, its script ours."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from longvu_model.video import FrameSampling
from pipelines.errors import JobStopped
from pipelines.evaluate import endpoint as module
from pipelines.evaluate.answerers import Ask, EndpointGone, Refused
from pipelines.evaluate.config import MediaFormConfig, RequestsConfig
from pipelines.evaluate.endpoint import Endpoint
from pipelines.evaluate.endpoint_answerer import EndpointAnswerer, EndpointSettings
from pipelines.evaluate.tasks.media import Shown
from tests.pipelines.conftest import write_video
from tests.pipelines.evaluate.scripted_endpoint import Scripted, ScriptedEndpoint, media_of, text_of

QUESTION = [{"role": "user", "content": "which colour"}]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_WAIT_S", 0.01)


def endpoint(url: str, **settings: Any) -> Endpoint:
    return Endpoint(url, "scripted-model", RequestsConfig(**settings))


def in_turn(*replies: Scripted) -> Any:
    left = list(replies)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def test_a_reply_comes_with_what_the_server_says_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    with ScriptedEndpoint(lambda _: Scripted("blue")) as server:
        done = endpoint(server.url, key_variable="MY_KEY").complete(QUESTION, max_tokens=3, temperature=0.0)
    assert (done.text, done.finish_reason, done.usage["completion_tokens"]) == ("blue", "stop", 1)
    assert server.requests[0]["max_tokens"] == 3 and server.requests[0]["messages"] == QUESTION
    assert server.keys == ["Bearer secret"]


@pytest.mark.parametrize("status", [0, 408, 429, 500, 502, 503])
def test_troubles_that_pass_are_waited_for(status: int) -> None:
    with ScriptedEndpoint(in_turn(Scripted("busy", status), Scripted("busy", status), Scripted("green"))) as server:
        assert endpoint(server.url).complete(QUESTION).text == "green"
    assert len(server.requests) == 3


def test_the_server_says_how_long_to_wait() -> None:
    with ScriptedEndpoint(in_turn(Scripted("slow down", 429, {"Retry-After": "0.4"}), Scripted("red"))) as server:
        started_s = time.monotonic()
        assert endpoint(server.url).complete(QUESTION).text == "red"
    assert time.monotonic() - started_s >= 0.4


@pytest.mark.parametrize(("status", "fix"), [(401, "OPENAI_API_KEY"), (404, "/v1"), (429, "later"), (503, "later")])
def test_an_endpoint_that_answers_nobody_stops_the_job(status: int, fix: str) -> None:
    with (
        ScriptedEndpoint(lambda _: Scripted("no", status)) as server,
        pytest.raises(EndpointGone, match=fix) as stopped,
    ):
        endpoint(server.url, attempts=3).complete(QUESTION)
    assert isinstance(stopped.value, JobStopped) and server.url in str(stopped.value)
    assert len(server.requests) == (1 if status in (401, 404) else 3)


def test_nobody_listens_there() -> None:
    with pytest.raises(EndpointGone, match="does not answer"):
        endpoint("http://127.0.0.1:9/v1", attempts=2).complete(QUESTION)


@pytest.mark.parametrize(
    ("scripted", "cause", "requests"),
    [
        (Scripted("too many tokens", 400), "RequestRefused", 1),
        (Scripted("unprocessable", 422), "RequestRefused", 1),
        (Scripted("it crashed", 500), "ServerError", 3),
        (Scripted(None), "UnreadableReply", 1),
    ],
)
def test_what_one_question_does_to_a_server_is_its_own_failure(scripted: Scripted, cause: str, requests: int) -> None:
    with ScriptedEndpoint(lambda _: scripted) as server, pytest.raises(Refused) as refused:
        endpoint(server.url, attempts=3).complete(QUESTION)
    assert refused.value.cause == cause and len(server.requests) == requests


def test_so_many_requests_at_a_time_and_no_more() -> None:
    lock, now, most = threading.Lock(), 0, 0

    def slow(_: dict[str, Any]) -> Scripted:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.03)
        with lock:
            now -= 1
        return Scripted("A")

    with ScriptedEndpoint(slow) as server:
        asker = endpoint(server.url, concurrency=3)
        threads = [threading.Thread(target=asker.complete, args=(QUESTION,)) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == 3


def answerer(url: str, form: str = "frames", **settings: Any) -> EndpointAnswerer:
    chosen = {
        "system": "",
        "reply_prefix": "",
        "max_new_tokens": 5,
        "temperature": 0.0,
        "top_p": 1.0,
        "deadline_s": 60.0,
    }
    return EndpointAnswerer(
        EndpointSettings(
            url=url,
            model="scripted-model",
            requests=RequestsConfig(concurrency=4, attempts=2),
            form=MediaFormConfig(form=form, edge_px=48),
            **{**chosen, **settings},
        )
    )


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "a b.mp4", [4])


def test_frames_are_sampled_here_and_sent_as_pictures(video: Path) -> None:
    with ScriptedEndpoint() as server:
        asker = answerer(server.url, system="Be brief.")
        seen = asker.look(Shown(video, FrameSampling(fps=1.0)), None)
        got = dict(asker.answer(seen, [Ask("first", seed=1), Ask("second", seed=2)]))
        asker.close()
    assert sorted(got) == [0, 1] and seen.facts == {"sampled_frames": 4}
    request = next(request for request in server.requests if text_of(request) == "second")
    assert request["messages"][0] == {"role": "system", "content": "Be brief."} and request["seed"] == 2
    pictures = [part["image_url"]["url"] for part in media_of(request)]
    assert len(pictures) == 4 and all(url.startswith("data:image/jpeg;base64,/9j/") for url in pictures)


def test_a_server_that_samples_gets_the_file_and_the_rule(video: Path) -> None:
    with ScriptedEndpoint() as server:
        asker = answerer(server.url, "video_url")
        list(asker.answer(asker.look(Shown(video, FrameSampling(num_frames=8, end_s=3.0)), None), [Ask("what")]))
        asker.close()
    [request] = server.requests
    assert [part["video_url"]["url"] for part in media_of(request)] == [video.as_uri()]
    assert request["media_io_kwargs"] == {"video": {"num_frames": 8, "end_s": 3.0}}


def test_a_reply_that_is_begun_goes_on(video: Path) -> None:
    with ScriptedEndpoint(lambda _: Scripted("Best option:(C) blue")) as server:
        asker = answerer(server.url, reply_prefix="Best option:(")
        [(_, reply)] = asker.answer(asker.look(Shown(None, FrameSampling()), None), [Ask("what")])
        asker.close()
    assert not isinstance(reply, Refused) and reply.text == "C) blue"
    assert server.requests[0]["messages"][-1] == {"role": "assistant", "content": "Best option:("}
    assert server.requests[0]["continue_final_message"] is True


def test_one_question_fails_alone(video: Path) -> None:
    def script(request: dict[str, Any]) -> Scripted:
        return Scripted("no", 400) if text_of(request) == "bad" else Scripted("A")

    with ScriptedEndpoint(script) as server:
        asker = answerer(server.url)
        seen = asker.look(Shown(None, FrameSampling()), None)
        outcomes = dict(asker.answer(seen, [Ask("good"), Ask("bad"), Ask("good too")]))
        asker.close()
    assert Counter(type(outcome).__name__ for outcome in outcomes.values()) == {"Reply": 2, "Refused": 1}
    assert isinstance(outcomes[1], Refused)
