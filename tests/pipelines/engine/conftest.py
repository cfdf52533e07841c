"""Small decoders of both published kinds, and an engine that is closed after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pipelines.engine import Engine, EngineConfig
from tests.pipelines.engine.text_model import TextModel

EngineMaker = Callable[..., Engine]


@pytest.fixture(scope="session")
def qwen() -> TextModel:
    return TextModel("qwen2")


@pytest.fixture(scope="session")
def llama() -> TextModel:
    return TextModel("llama")


@pytest.fixture
def start() -> Iterator[EngineMaker]:
    """``start(model, slots=4, ...)``: an engine with small chunks."""
    engines: list[Engine] = []

    def make(model: TextModel, **settings: object) -> Engine:
        engines.append(Engine(model, EngineConfig(**{"slots": 8, "prefill_chunk": 64} | settings)))  # type: ignore[arg-type]
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()
