"""A checkpoint through the engine: a video is seen once for all its questions, options are weighed as by the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from longvu_model.video import FrameSampling
from pipelines.config import load_config
from pipelines.evaluate.answerers import Ask, LocalSettings, Refused, Reply
from pipelines.evaluate.evaluation import Evaluation, evaluate
from pipelines.evaluate.local_answerer import LocalAnswerer, chat_messages
from pipelines.evaluate.preparation import prepare
from pipelines.evaluate.tasks.media import Shown
from pipelines.extract import ExtractConfig
from pipelines.extract.towers import load_towers
from tests.pipelines.conftest import write_video
from tests.pipelines.evaluate.conftest import config_of
from tests.pipelines.extract.conftest import extract_without_ray

ASKS = [Ask(f"Question {number}: what is seen?") for number in range(5)]


def settings(folder: Path, **changes: Any) -> LocalSettings:
    chosen = LocalSettings(
        folder=str(folder),
        device="cpu",
        dtype="auto",
        quantization=None,
        overrides={},
        store=None,
        mode="generate",
        system="",
        reply_prefix="",
        max_new_tokens=6,
        temperature=0.0,
        top_p=1.0,
        slots=4,
        deadline_s=60.0,
    )
    return dataclasses.replace(chosen, **changes)


@pytest.fixture(scope="module")
def model(workdir: Path) -> Path:
    return workdir / "models" / "tiny"


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "a.mp4", [4, 4])


@pytest.fixture(scope="module")
def answerer(model: Path) -> Iterator[LocalAnswerer]:
    loaded = LocalAnswerer(settings(model))
    yield loaded
    loaded.close()


def shown(video: Path, **sampling: Any) -> Shown:
    return Shown(video, FrameSampling(**sampling))


def replies(answerer: LocalAnswerer, video: Path, asks: list[Ask]) -> list[Reply | Refused]:
    seen = answerer.look(shown(video), None)
    return [outcome for _, outcome in sorted(answerer.answer(seen, asks), key=lambda item: item[0])]


def test_many_questions_together_are_answered_as_each_alone(answerer: LocalAnswerer, video: Path) -> None:
    together = replies(answerer, video, ASKS)
    alone = [replies(answerer, video, [ask])[0] for ask in ASKS]
    for one, other in zip(together, alone, strict=True):
        assert isinstance(one, Reply) and isinstance(other, Reply)
        assert one.text == other.text and one.facts["reply_tokens"] <= 6
    first = together[0]
    assert isinstance(first, Reply) and first.facts["visual_tokens"] > 0 and first.facts["kept_frames"] == 8


def test_options_are_weighed_as_the_model_itself_weighs_them(model: Path, video: Path) -> None:
    options = ("A", "B", "a longer text", "C")
    for mode in ("label", "text"):
        answerer = LocalAnswerer(settings(model, mode=mode, system="Look closely.", reply_prefix="Best option:("))
        seen = answerer.look(shown(video), None)
        [(_, reply)] = answerer.answer(seen, [Ask("Which?", options)])
        messages = chat_messages(answerer._settings, ["video"], "Which?")
        prompt = answerer.model.prompt(messages, seen.held)
        assert isinstance(reply, Reply)
        expected = [log_likelihood(answerer, prompt.embeds, option, per_token=mode == "text") for option in options]
        assert reply.option_scores == pytest.approx(expected, abs=1e-3)
        answerer.close()


@torch.inference_mode()
def log_likelihood(answerer: LocalAnswerer, embeds_TC: torch.Tensor, text: str, per_token: bool) -> float:
    """One pass over prompt and text, without caches or batches."""
    model = answerer.model
    ids = torch.tensor(model.tokenizer(text, add_special_tokens=False).input_ids)
    embedded = model.decoder.get_input_embeddings()(ids)  # type: ignore[operator]
    hidden = model.decoder(inputs_embeds=torch.cat([embeds_TC, embedded])[None]).last_hidden_state[0]
    logprobs = torch.log_softmax(model.lm_head(hidden[len(embeds_TC) - 1 : -1]).float(), -1)
    total = float(logprobs.gather(1, ids[:, None]).sum())
    return total / len(ids) if per_token else total


def test_a_prompt_that_does_not_fit_fails_alone(answerer: LocalAnswerer, video: Path) -> None:
    long, short = replies(answerer, video, [Ask("very " * 30_000 + "long?"), Ask("short?")])
    assert isinstance(long, Refused) and long.cause == "PromptTooLong" and isinstance(short, Reply)


def test_every_sampled_frame_is_shown_without_selection(model: Path, tmp_path: Path) -> None:
    """The baseline: as many frames as asked for, evenly, nothing left out, where the model would leave out most."""
    video = write_video(tmp_path / "long.mp4", [120], size=(96, 64))
    kept = {}
    for threshold in (None, 2.0):
        overrides = {} if threshold is None else {"dino_threshold": threshold}
        answerer = LocalAnswerer(settings(model, overrides=overrides))
        [(_, reply)] = answerer.answer(answerer.look(shown(video, fps=2.0), None), ASKS[:1])
        assert isinstance(reply, Reply)
        kept[threshold] = reply.facts["kept_frames"]
        answerer.close()
    assert kept[None] is not None and kept[None] < 100 and kept[2.0] == 240


def run(folder: Path, data: Path, model: Path, *words: str) -> Evaluation:
    config = config_of(folder, data, *words, model=model)
    return evaluate(prepare(config, model), in_process=True)


def test_a_checkpoint_is_evaluated_and_its_digest_is_in_the_result(
    tmp_path: Path, small_benchmark: Path, model: Path
) -> None:
    done = run(tmp_path, small_benchmark, model, "mode=likelihood")
    found = done.results.summary
    assert found["counts"]["scored"] == 12 and found["mode"] == "likelihood of the label"
    assert len(found["model"]["digest"]) == 32 and found["facts"]["visual_tokens"] > 0
    assert run(tmp_path, small_benchmark, model, "mode=likelihood").asked == 0
    assert run(tmp_path, small_benchmark, model, "mode=likelihood", "likelihood_of=text").asked == 12


def test_videos_of_a_store_are_not_decoded(tmp_path: Path, small_benchmark: Path, model: Path) -> None:
    words = [
        f"source={small_benchmark / 'NExTVideo'}",
        f"store={tmp_path}",
        "features.siglip=true",
        "keep_all_below=300",
    ]
    store = extract_without_ray(load_config(ExtractConfig, None, words), load_towers(model, ("dinov2", "siglip")))
    stored = run(tmp_path, small_benchmark, model, f"store={store.uri}")
    facts = [row for row in stored.results.rows.to_pylist() if row["decode_s"] is not None]
    assert not facts and stored.results.summary["counts"]["failed"] == 0
    decoded = run(tmp_path, small_benchmark, model)
    assert decoded.asked == 12, "features of a store are rounded: its answers are kept apart"
    columns = ["row", "visual_tokens", "kept_frames"]
    assert stored.results.rows.select(columns).equals(decoded.results.rows.select(columns))
