"""One model of each family behind one endpoint, by name; and captions, which one of them can give."""

from __future__ import annotations

import contextlib
import http.client
import json
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from longvu_model.presets import build_preset
from pipelines.captions import CaptionSettings, stream_captions
from pipelines.video_models import load_video_model
from tests.pipelines.conftest import write_video
from tests.pipelines.serve.endpoint import LiveEndpoint, ask, live_endpoint, tiny_model, video_part, wait_for

FAMILIES = {"tiny": "longvu", "tiny_videollamb": "videollamb", "tiny_llamavid": "llamavid"}
CAPTIONER = "tiny_videollamb"
QUESTION = "Which colour does the shape have?"
SCENES_S = [20, 12, 15, 9, 25]
MOST_CAPTIONS = 1


@pytest.fixture(scope="module")
def presets(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("presets")
    return {name: tiny if name == "tiny" else build_preset(name, folder / name) for name in FAMILIES}


@pytest.fixture(scope="module")
def families(presets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveEndpoint]:
    models = [tiny_model(path, name=name, captions=MOST_CAPTIONS) for name, path in presets.items()]
    with live_endpoint(tmp_path_factory.mktemp("families"), models=models, endpoint={"num_cpus": 0.1}) as live:
        yield live


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", SCENES_S, seed=3)


def test_models_of_all_families_answer_by_name(families: LiveEndpoint, clip: Path) -> None:
    told = {model.id: model.family for model in families.client().models.list()}  # type: ignore[attr-defined]
    assert told == FAMILIES
    messages = ask(video_part(f"video:{families.upload(clip)['id']}"), QUESTION)
    for name in FAMILIES:
        replies = [
            families.client().chat.completions.create(model=name, messages=messages, max_tokens=6) for _ in range(2)
        ]
        assert [reply.model for reply in replies] == [name, name]
        first, second = (reply.longvu for reply in replies)  # type: ignore[attr-defined]
        assert first["visual_tokens"] == second["visual_tokens"] > 0
        assert (first["media"][0]["source"], second["media"][0]["source"]) == ("decoded", "cache")
        assert replies[0].choices[0].message.content == replies[1].choices[0].message.content
        streamed = families.client().chat.completions.create(model=name, messages=messages, max_tokens=6, stream=True)
        text = "".join(choice.delta.content or "" for chunk in streamed for choice in chunk.choices)
        assert text == replies[0].choices[0].message.content
    opened = [*messages, {"role": "assistant", "content": "Best option: ("}]
    continued: Any = {"continue_final_message": True, "add_generation_prompt": False}
    for name in FAMILIES:
        reply = families.client().chat.completions.create(
            model=name, messages=opened, max_tokens=6, extra_body=continued
        )
        assert reply.usage and reply.usage.completion_tokens


def caption_request(url: str, **fields: Any) -> dict[str, Any]:
    return {"model": CAPTIONER, "url": url, "max_tokens": 4, **fields}


def begun_captions(endpoint: LiveEndpoint, request: dict[str, Any]) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(endpoint.url.removeprefix("http://"), timeout=120)
    headers = {"Authorization": f"Bearer {endpoint.key}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/captions", json.dumps(request), headers)
    return connection.getresponse()


def events(body: bytes) -> list[Any]:
    """What a stream's events hold, the last one as it is."""
    lines = [line.removeprefix("data: ") for line in body.decode().split("\n\n") if line]
    return [*map(json.loads, lines[:-1]), lines[-1]]


def test_captions_are_those_of_the_same_video_alone(
    families: LiveEndpoint, presets: dict[str, Path], film: Path
) -> None:
    url = f"video:{families.upload(film)['id']}"
    status, headers, body = families.post("/v1/captions", json.dumps(caption_request(url)).encode())
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    *captions, end = events(body)
    assert end == "[DONE]"
    alone = list(stream_captions(load_video_model(presets[CAPTIONER]), film, CaptionSettings(max_new_tokens=4)))
    assert len(alone) > 2
    told = [(one["start_s"], one["end_s"], one["text"], one["visual_tokens"]) for one in captions]
    assert told == [(one.start_s, one.end_s, one.text, one.visual_tokens) for one in alone]
    assert {one["object"] for one in captions} == {"video.caption"}
    query = urllib.parse.urlencode(caption_request(url))
    assert [one["text"] for one in events(families.get(f"/v1/captions?{query}")[2])[:-1]] == [c.text for c in alone]


def test_captions_come_while_the_video_is_read_and_end_when_the_client_leaves(
    families: LiveEndpoint, tmp_path: Path
) -> None:
    film = write_video(tmp_path / "long.mp4", SCENES_S * 6, seed=4)
    request = caption_request(f"video:{families.upload(film)['id']}", fps=8.0)
    with contextlib.closing(begun_captions(families, request)) as reply:
        assert reply.status == 200
        first = json.loads(reply.readline().decode().removeprefix("data: "))
        assert first["start_s"] == 0
        assert families.metric("longvu_captions_total") < len(SCENES_S) * 6  # far from the end of the video
        # As many as are captioned at a time: the next one is told to come back.
        with contextlib.closing(begun_captions(families, request)) as refused:
            assert refused.status == 429 and refused.getheader("Retry-After")
        wait_for(lambda: families.metric("longvu_held_tokens", model=CAPTIONER))  # replicas tell once in a while
    wait_for(lambda: not families.metric("longvu_held_tokens", model=CAPTIONER))
    wait_for(lambda: families.metric("longvu_requests_total", model=CAPTIONER, status="499") == 1)
    again = begun_captions(families, request)
    assert again.status == 200 and again.readline().startswith(b"data: ")
    again.close()


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"model": "tiny"}, 400, "use one of tiny_videollamb"),
        ({"model": "none"}, 404, "use one of"),
        ({"url": "file:///etc/passwd"}, 403, ""),
        ({"url": "http://169.254.169.254/latest"}, 403, ""),
        ({"url": "video:" + "0" * 64}, 404, "upload it"),
        ({"fps": 0}, 400, "fps: must be greater than 0"),
        ({"frames": 3}, 400, "not a field"),
        ({"url": "data:video/mp4;base64,AAAA"}, 415, ""),
        ({"question": "why " * 1999}, 400, "shorten the text"),
    ],
)
def test_captions_that_cannot_be_given(
    families: LiveEndpoint, film: Path, fields: dict[str, Any], status: int, message: str
) -> None:
    request = caption_request(f"video:{families.upload(film)['id']}") | fields
    found, _, body = families.post("/v1/captions", json.dumps(request).encode())
    if found == 200:  # known too late for a status
        error = json.loads(events(body)[-1])["error"]
        assert status == 400 and error["param"]
    else:
        error = json.loads(body)["error"]
        assert found == status
    assert message in error["message"]
