"""LongVU's prompts are what the model itself makes of the same question, and shared as far as budgets allow."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from longvu_model.sight import Media
from longvu_model.video import FrameBlock, FrameSampling, Timeout, Truncated, decode_frames
from longvu_model.watching import too_many_frames
from pipelines.engine import Engine, EngineConfig, SamplingParams
from pipelines.extract.config import ExtractConfig
from pipelines.extract.towers import load_towers
from pipelines.video_models import DecodeLimits, Prompt, PromptTooLong
from pipelines.video_models.longvu import LongVU
from tests.pipelines.conftest import write_video
from tests.pipelines.extract.conftest import extract_without_ray
from tests.pipelines.video_models.conftest import Watcher, question

FULL, MIXED, LOW = 0.25, 1, 4
"""Frames a second at which the four scenes are in each regime, the last with a threshold that keeps all of them."""
SHORT, LONG = "Why?", "Which colour comes after green? " * 6
WAIT_S = 120


@torch.inference_mode()
def seen_whole(model: LongVU, messages: list[dict[str, object]], **processing: object) -> Tensor:
    """The oracle: embeddings (T, C) when the model is given all frames at once, with exact budgets."""
    inputs = model.processor.apply_chat_template(messages, tokenize=True, return_dict=True, **processing)
    media = Media(**{name: value for name, value in inputs.items() if name in Media.__dataclass_fields__})
    sight = model.model.model.see(inputs["input_ids"], media, inputs["attention_mask"], generating=True)
    return sight.merged.inputs_embeds[0]


@pytest.mark.parametrize("semantics", ["corrected", "published"])
@pytest.mark.parametrize(("fps", "threshold"), [(FULL, 0.83), (MIXED, 0.83), (LOW, 0.83), (LOW, 2.0)])
def test_exact_budgets_give_what_the_model_sees(
    fps: float, threshold: float, semantics: str, tiny: LongVU, watch: Watcher, scenes: Path
) -> None:
    tiny.config.semantics, tiny.config.dino_threshold = semantics, threshold
    model = LongVU(tiny.model, tiny.processor, text_step=1)
    watched = model.watch(scenes, FrameSampling(fps=fps))
    for text in (SHORT, LONG):
        prompt = model.prompt(question(text, "video"), [watched])
        content = [{"type": "video", "path": scenes}, {"type": "text", "text": text}]
        whole = seen_whole(model, [{"role": "user", "content": content}], fps=fps)
        torch.testing.assert_close(prompt.embeds, whole, rtol=1e-4, atol=1e-4)
        assert prompt.visual_tokens + prompt.text_tokens == len(prompt)


def test_held_frames_serve_short_and_long_questions(tiny: LongVU, scenes: Path) -> None:
    """As many frames as fit beside a short question: all are shown to it, and only the kept ones to a long one."""
    model = LongVU(tiny.model, tiny.processor, text_step=1)
    text_tokens = model.prompt(question(SHORT)).text_tokens + 1  # a medium is followed by a line break
    decoded = decode_frames(scenes, FrameSampling(fps=4))
    num = next(n for n in range(220) if too_many_frames(model.config, n + 1, (96, 160), text_tokens))
    watched = model.watch(FrameBlock(decoded.frames[:num], decoded.indices[:num], decoded.pts_s[:num]))
    short, long = (model.prompt(question(text, "video"), [watched]) for text in (SHORT, LONG))
    assert short.text_tokens == text_tokens
    assert len(watched.kept_times_s) == len(short.kept_times_s[0]) == num > len(long.kept_times_s[0]) > 0
    assert set(long.kept_times_s[0]) < set(watched.kept_times_s)


@pytest.mark.parametrize("fps", [FULL, LOW])
def test_questions_within_the_reserved_budget_share_their_prefix(fps: float, tiny: LongVU, watch: Watcher) -> None:
    if fps == LOW:
        tiny.config.dino_threshold = 2.0
        watched = tiny.watch(decode_all(fps))
    else:
        watched = watch(fps)
    prompts = [tiny.prompt(question(text, "video"), [watched]) for text in ("Why?", "Who is it, and where?")]
    assert {prompt.regime for prompt in prompts} == {"full" if fps == FULL else "low"}
    assert prompts[0].text_tokens != prompts[1].text_tokens
    check_shared(prompts)
    beyond = tiny.prompt(question(LONG, "video"), [watched])
    # In the full regime tokens do not depend on the budget at all.
    assert (beyond.prefix_key == prompts[0].prefix_key) == (fps == FULL)


def decode_all(fps: float) -> FrameBlock:
    """Frames that all differ: at a threshold that keeps everything they are too many even at low resolution."""
    frames = np.random.default_rng(1).integers(0, 256, (30 * int(fps), 8, 12, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    return FrameBlock(frames, np.arange(len(frames)), np.arange(len(frames)) / fps)


def check_shared(prompts: list[Prompt]) -> None:
    first = prompts[0]
    assert first.prefix_key is not None
    for other in prompts[1:]:
        assert other.prefix_key == first.prefix_key and other.prefix_length == first.prefix_length
        assert torch.equal(other.embeds[: first.prefix_length], first.embeds[: first.prefix_length])
    # All that is left is the question's own turn.
    assert 0 < first.prefix_length < len(first) <= first.prefix_length + first.text_tokens


def test_mixed_regime_shares_nothing(tiny: LongVU, watch: Watcher) -> None:
    prompts = [tiny.prompt(question(text, "video"), [watch(MIXED)]) for text in ("Why?", "Who?")]
    assert {prompt.regime for prompt in prompts} == {"mixed"}
    assert [prompt.prefix_key for prompt in prompts] == [None, None]


def test_what_stands_before_the_video_is_part_of_the_prefix(tiny: LongVU, watch: Watcher) -> None:
    plain = question("Why?", "video")
    with_system = [{"role": "system", "content": "Be brief."}, *plain]
    one, other = (tiny.prompt(messages, [watch(FULL)]) for messages in (plain, with_system))
    assert one.prefix_key != other.prefix_key


def test_published_budgets_share_where_the_numbers_allow(tiny: LongVU) -> None:
    """Low regime: the budget is exact, so only questions of the same length share."""
    tiny.config.semantics, tiny.config.dino_threshold = "published", 2.0
    model = LongVU(tiny.model, tiny.processor)
    watched = model.watch(decode_all(LOW))
    same = [model.prompt(question(text, "video"), [watched]) for text in ("Why?", "Who?")]
    assert same[0].text_tokens == same[1].text_tokens and same[0].regime == "low"
    check_shared(same)
    other = model.prompt(question("Why is that?", "video"), [watched])
    assert other.prefix_key != same[0].prefix_key


def test_several_media_and_turns(tiny: LongVU, watch: Watcher, scenes: Path, picture: Path) -> None:
    model = LongVU(tiny.model, tiny.processor, text_step=1)
    fps = 0.1  # few enough frames for all media to be shown in full
    media = [model.watch(picture), watch(fps), model.watch(picture)]
    assert [medium.kind for medium in media] == ["image", "video", "image"]

    def messages(**paths: Path) -> list[dict[str, object]]:
        image, video = ({"type": kind} | ({"path": paths[kind]} if paths else {}) for kind in ("image", "video"))
        return [
            {"role": "user", "content": [image, {"type": "text", "text": "And"}, video, {"type": "text", "text": "?"}]},
            {"role": "assistant", "content": "A door."},
            {"role": "user", "content": [{"type": "text", "text": "Or this:"}, image]},
        ]

    prompt = model.prompt(messages(), media)
    whole = seen_whole(model, messages(image=picture, video=scenes), fps=fps)
    torch.testing.assert_close(prompt.embeds, whole, rtol=1e-4, atol=1e-4)
    assert [len(times) for times in prompt.kept_times_s] == [1, 6, 1]
    check_shared([prompt, model.prompt(messages(), media)])
    with pytest.raises(ValueError, match=r"places for \['image', 'video', 'image'\]"):
        model.prompt(messages(), media[:2])
    with pytest.raises(ValueError, match="given are"):
        model.prompt(question("?", "image"), [watch(fps)])


@pytest.mark.parametrize("semantics", ["corrected", "published"])
def test_text_alone(semantics: str, tiny: LongVU) -> None:
    tiny.config.semantics = semantics
    prompt = tiny.prompt([{"role": "user", "content": "Hello?"}])
    ids = tiny.processor.apply_chat_template([{"role": "user", "content": "Hello?"}], tokenize=True)
    assert torch.equal(prompt.embeds, tiny.model.get_input_embeddings()(ids[0]))
    assert (prompt.regime, prompt.visual_tokens, prompt.text_tokens) == ("text", 0, ids.shape[1])


def test_text_that_leaves_no_room_is_refused(tiny: LongVU, watch: Watcher) -> None:
    for media in ([], ["video"]):
        with pytest.raises(PromptTooLong, match="the model takes 1008"):
            tiny.prompt(question("word " * 1100, *media), [watch(FULL)] if media else [])


def test_answers_are_the_same_with_and_without_reuse(tiny: LongVU, watch: Watcher) -> None:
    """Second questions start from the video's keys and values; a fresh engine says the same."""
    asked = SamplingParams(max_tokens=6, logprobs=2)
    prompts = [tiny.prompt(question(text, "video"), [watch(FULL)]) for text in ("Why?", "Who?", LONG)]
    shared, answers, alone = Engine(tiny, EngineConfig(slots=2)), [], []
    for prompt in prompts:
        answers.append(shared.submit(prompt, asked).result(WAIT_S))
        engine = Engine(tiny, EngineConfig(slots=2))
        alone.append(engine.submit(prompt, asked).result(WAIT_S))
        engine.close()
    shared.close()
    assert [answer.cached_tokens for answer in answers] == [0] + [prompts[0].prefix_length] * 2
    assert [answer.logprobs for answer in answers] == [answer.logprobs for answer in alone]


def test_stored_video_answers_as_the_file_does(tiny: LongVU, tiny_folder: Path, tmp_path: Path) -> None:
    """Nothing is decoded and no tower is called; the only difference is the store's half precision."""
    videos = tmp_path / "videos"
    path = write_video(videos / "a.mp4", [30, 40, 50], size=(160, 96))
    config = ExtractConfig(source=str(videos), store=str(tmp_path), features={"siglip": True}, unit_frames=128)
    store = extract_without_ray(config, load_towers(tiny_folder, ("dinov2", "siglip")))
    video_id = store.videos()["video_id"][0].as_py()
    watched = tiny.watch(path)

    def never(*_: object) -> None:
        raise AssertionError("a tower was called")

    for tower in (tiny.model.model.towers.dino, tiny.model.model.towers.siglip):
        tower.forward = never  # type: ignore[method-assign]
    for video in (path, video_id):
        recalled = tiny.recall(store, video)
        assert recalled.num_sampled == watched.num_sampled == 120
        assert recalled.kept_times_s == pytest.approx(watched.kept_times_s)
        one, other = (tiny.prompt(question("Why?", "video"), [medium]) for medium in (watched, recalled))
        torch.testing.assert_close(other.embeds, one.embeds, rtol=0.02, atol=0.02)
        assert set(recalled.seconds) == {"read"}


def test_sources(tiny: LongVU, watch: Watcher, scenes: Path, picture: Path) -> None:
    """A file here, in a child, as frames; a picture as an image, a video's first frame as one."""
    sampling, seen = FrameSampling(fps=FULL), []
    file = watch(FULL)
    child = tiny.watch(scenes, sampling, lambda *counts: seen.append(counts), limits=DecodeLimits(deadline_s=60))
    frames = tiny.watch(decode_frames(scenes, sampling))
    for other in (child, frames):
        torch.testing.assert_close(other.dino_KPD, file.dino_KPD)
        assert other.kept_times_s == file.kept_times_s and len(file.kept_times_s) == 14
        assert other.identity != file.identity
    assert seen == [(14, 14)]
    first = tiny.watch(scenes, kind="image")
    assert (first.kind, first.num_sampled, first.kept_times_s) == ("image", 1, [0.0])
    assert tiny.watch(picture, kind="video").kind == "video"
    with pytest.raises(Timeout):
        tiny.watch(scenes, limits=DecodeLimits(deadline_s=1e-3))


def test_damage_is_told(tiny: LongVU, scenes: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(scenes.read_bytes()[:2000])
    with pytest.raises(Truncated):
        tiny.watch(broken)
    cut = write_video(tmp_path / "cut.mkv", [6, 6], seed=4)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 2 // 3])
    assert tiny.watch(cut).damage


def test_media_travel(watch: Watcher, tiny: LongVU) -> None:
    watched = watch(FULL)
    again = pickle.loads(pickle.dumps(watched))
    assert again.identity == watched.identity
    assert (
        again.nbytes
        == watched.nbytes
        == sum(
            tensor.nbytes for tensor in (watched.siglip_KPD, watched.dino_KPD, watched.places_K, watched.similarity_F)
        )
    )
    assert watched.to("cpu") is watched
    moved = watched.to("meta")
    assert moved.dino_KPD.device.type == "meta" and moved.identity == watched.identity
    one, other = (tiny.prompt(question("Why?", "video"), [medium]) for medium in (watched, again))
    check_shared([one, other])
