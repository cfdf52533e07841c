"""Window by window gives what the whole video at once gives; from a store, what the video gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from longvu_model import watching
from longvu_model.modeling import LongVUForConditionalGeneration
from longvu_model.processing import LongVUProcessor
from longvu_model.sight import Media
from longvu_model.video import FrameSampling, decode_frames
from pipelines import answering
from tests.pipelines.conftest import write_video

QUESTION = "Which colour comes after green?"
Loaded = tuple[LongVUForConditionalGeneration, LongVUProcessor]


@pytest.fixture(scope="module")
def loaded(workdir: Path) -> Loaded:
    return answering.load_model(workdir / "models" / "tiny", torch.device("cpu"))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """55 s in four scenes, the last window not full."""
    return write_video(tmp_path_factory.mktemp("videos") / "scenes.mp4", [14, 13, 15, 13], size=(160, 96))


def whole(model: LongVUForConditionalGeneration, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Merged embeddings, and tokens generated, from all frames at once."""
    media = Media(**{name: value for name, value in inputs.items() if name in Media.__dataclass_fields__})
    with torch.inference_mode():
        sight = model.model.see(inputs["input_ids"], media, inputs["attention_mask"], generating=True)
        return sight.merged.inputs_embeds, model.generate(**inputs, max_new_tokens=12, do_sample=False)


@pytest.mark.parametrize("semantics", ["corrected", "published"])
@pytest.mark.parametrize(("fps", "block_bytes"), [(1, 64 << 20), (4, 64 << 20), (4, 5 * 160 * 96 * 3)])
def test_watching_equals_all_frames_at_once(
    fps: int, block_bytes: int, semantics: str, loaded: Loaded, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All frames fit (1 fps); near-duplicates are left out (4 fps); the decoder's blocks are smaller than a window."""
    monkeypatch.setattr("longvu_model.video.decode._MAX_BLOCK_BYTES", block_bytes)
    model, processor = loaded
    monkeypatch.setattr(model.config, "semantics", semantics)
    ids = answering.question_ids(processor, QUESTION)
    messages = [{"role": "user", "content": [{"type": "video", "path": video}, {"type": "text", "text": QUESTION}]}]
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, fps=fps)
    assert torch.equal(ids, inputs["input_ids"])
    seen: list[tuple[int, int]] = []
    watched = answering.watch(
        model, processor, video, FrameSampling(fps=fps), ids, lambda done, planned: seen.append((done, planned))
    )
    with torch.inference_mode():
        ours = model.model.see(ids, watched.media, torch.ones_like(ids), generating=True).merged.inputs_embeds
    embeds, generated = whole(model, inputs)
    num_frames = len(decode_frames(video, FrameSampling(fps=fps)).frames)
    assert watched.num_sampled == num_frames == seen[-1][0] == seen[-1][1]
    assert (len(watched.media.dino_features) < num_frames) == (fps == 4)
    torch.testing.assert_close(ours, embeds, rtol=1e-5, atol=1e-5)
    answer = answering.answer(model, processor, watched, ids, max_new_tokens=12)
    assert answer.text == processor.tokenizer.decode(generated[0]).split("<|im_end|>")[0].strip()
    assert answer.num_kept == len(watched.media.dino_features)
    assert set(answer.seconds) == {"decode", "encode", "answer"}


def test_frames_that_cannot_be_used_are_not_prepared(
    loaded: Loaded, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a threshold that leaves only the centre of each window, SigLIP is shown those and the few that ever fit."""
    model, processor = loaded
    monkeypatch.setattr(model.config, "dino_threshold", 1e-6)
    ids = answering.question_ids(processor, QUESTION)
    prepared: list[int] = []
    preprocess = watching.preprocess_frames
    monkeypatch.setattr(
        watching, "preprocess_frames", lambda frames, *rest: prepared.append(len(frames)) or preprocess(frames, *rest)
    )
    watched = answering.watch(model, processor, video, FrameSampling(fps=4), ids)
    windows = -(-watched.num_sampled // 16)
    for_dino, for_siglip = prepared[::2], prepared[1::2]
    assert sum(for_dino) == watched.num_sampled
    assert for_siglip[-1] == 1
    assert len(watched.media.dino_features) == windows
    text = ids.shape[1] - 1  # the slot is no text
    fitting = next(n for n in range(1, 10_000) if watching.too_many_frames(model.config, n, (96, 160), text))
    assert sum(for_siglip) <= fitting + windows < watched.num_sampled
