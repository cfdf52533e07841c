"""The adapters to other evaluation suites: the same answers as the model gives, each video watched once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from pipelines.engine import Engine, EngineConfig, SamplingParams
from pipelines.errors import UserError
from pipelines.evaluate.media_chat import MediaChat
from pipelines.evaluate.vlmeval_model import VLMEvalModel
from pipelines.video_models import load_video_model
from tests.pipelines.conftest import write_video

QUESTION = "What is seen?"
TOKENS = 5


@pytest.fixture(scope="module")
def checkpoint(workdir: Path) -> str:
    return str(workdir / "models" / "tiny")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "a.mp4", [4, 4])


@pytest.fixture(scope="module")
def expected(checkpoint: str, video: Path) -> str:
    """What the engine alone answers."""
    model = load_video_model(checkpoint)
    messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTION}]}]
    engine = Engine(model, EngineConfig(slots=1))
    try:
        prompt = model.prompt(messages, [model.watch(video)])
        return engine.submit(prompt, SamplingParams(max_tokens=TOKENS)).result().text
    finally:
        engine.close()


@pytest.fixture(scope="module")
def vlmeval(checkpoint: str) -> Iterator[VLMEvalModel]:
    model = VLMEvalModel(checkpoint, max_new_tokens=TOKENS, slots=2)
    yield model
    model.chat.close()


def watches(chat: MediaChat, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The sources that the model is given from now on."""
    seen: list[Any] = []
    watch = chat.model.watch
    monkeypatch.setattr(
        chat.model, "watch", lambda source, *rest, **named: (seen.append(source), watch(source, *rest, **named))[1]
    )
    return seen


def test_a_message_is_answered_as_by_the_engine(
    vlmeval: VLMEvalModel, video: Path, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watches(vlmeval.chat, monkeypatch)
    message = [{"type": "video", "value": str(video)}, {"type": "text", "value": QUESTION}]
    assert [vlmeval.generate_inner(message, dataset="MVBench"), vlmeval.generate(message)] == [expected] * 2
    assert seen == [str(video)]


def test_pictures_and_text_alone_are_answered(vlmeval: VLMEvalModel, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (40, 30), "red").save(path)
    assert isinstance(vlmeval.generate([{"type": "image", "value": str(path)}, QUESTION]), str)
    assert isinstance(vlmeval.generate(QUESTION), str)


@pytest.mark.parametrize("part", [{"type": "audio", "value": "a.wav"}, {"type": "video", "value": "missing.mp4"}])
def test_what_cannot_be_shown_is_named(vlmeval: VLMEvalModel, part: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"audio|missing\.mp4"):
        vlmeval.generate_inner([part])


def test_more_conversations_than_slots_are_answered_in_order(vlmeval: VLMEvalModel, video: Path) -> None:
    chat = vlmeval.chat
    asks = [[("user", [chat.medium(video), f"{QUESTION} {number}"])] for number in range(5)]
    together = chat.replies(asks, [SamplingParams(max_tokens=3)] * 5)
    assert together == [chat.replies([ask], [SamplingParams(max_tokens=3)])[0] for ask in asks]


def test_lmms_eval_finds_and_runs_the_model(checkpoint: str, video: Path, expected: str) -> None:
    pytest.importorskip("lmms_eval", reason="lmms-eval is not installed")
    from lmms_eval.api.instance import Instance  # type: ignore[import-not-found]
    from lmms_eval.models.registry_v2 import ModelRegistryV2  # type: ignore[import-not-found]

    from pipelines.evaluate.lmms_eval_model import MODEL_ID, manifest

    registry = ModelRegistryV2()
    registry.register_manifest(manifest())
    model = registry.get_model_class(MODEL_ID).create_from_arg_string(f"pretrained={checkpoint},batch_size=2")
    model.task_dict = {"task": {"test": [{"video": str(video)}]}}
    arguments = {"max_new_tokens": TOKENS, "temperature": 0, "until": ["\n\n\n"], "do_sample": False}
    asked = (QUESTION, arguments, lambda doc: [doc["video"]], 0, "task", "test")
    weighed = (QUESTION, lambda doc: "yes", lambda doc: [doc["video"]], 0, "task", "test")
    metadata = {"task": "task", "doc_id": 0, "repeats": 1}
    try:
        requests = [Instance("generate_until", asked, number, metadata) for number in range(3)]
        assert model.generate_until(requests) == [expected] * 3
        ((score, greedy),) = model.loglikelihood([Instance("loglikelihood", weighed, 0, metadata)])
        assert score < 0 and greedy in (True, False)
        with pytest.raises(NotImplementedError):
            model.generate_until_multi_round([SimpleNamespace()])
    finally:
        model.chat.close()
