"""From a folder to a model: families, layouts, precision, and a digest of all that decides an answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from longvu_model import official
from pipelines.engine import Engine, EngineConfig, SamplingParams
from pipelines.errors import UserError
from pipelines.video_models import checkpoint_digest, load_video_model
from pipelines.video_models.longvu import LongVU
from tests.pipelines.video_models.conftest import Watcher, question


def test_both_layouts_answer_the_same(tiny: LongVU, watch: Watcher, tmp_path: Path) -> None:
    official.export(tiny.model, tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    published = load_video_model(tmp_path)
    assert published.family == "longvu" and published.digest != tiny.digest
    one, other = (model.prompt(question("Why?", "video"), [watch(0.25)]) for model in (tiny, published))
    torch.testing.assert_close(one.embeds, other.embeds)
    assert published.stop_strings == tiny.stop_strings == ("<|im_end|>",)
    assert published.eos_token_ids == tiny.eos_token_ids == {tiny.tokenizer.eos_token_id}


def test_digest_changes_with_whatever_decides_an_answer(tiny_folder: Path, tmp_path: Path) -> None:
    digest = checkpoint_digest(tiny_folder)
    assert load_video_model(tiny_folder).digest == digest
    copy = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    assert checkpoint_digest(copy) == digest
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert checkpoint_digest(copy) != digest
        (copy / name).write_bytes(content)
    changed = load_video_model(tiny_folder, overrides={"dino_threshold": 0.5})
    assert changed.digest != digest
    assert changed.config.dino_threshold == 0.5  # type: ignore[attr-defined]
    assert load_video_model(tiny_folder, dtype=torch.bfloat16).digest not in (digest, changed.digest)


def test_half_precision(tiny_folder: Path, watch: Watcher) -> None:
    model = load_video_model(tiny_folder, dtype=torch.bfloat16)
    prompt = model.prompt(question("Why?", "video"), [watch(0.25)])
    assert model.dtype == prompt.embeds.dtype == torch.bfloat16
    engine = Engine(model, EngineConfig(slots=1))
    assert engine.submit(prompt, SamplingParams(max_tokens=3)).result(120).completion_tokens <= 3
    engine.close()


@pytest.mark.parametrize(("quantization", "kind"), [("8bit", "Linear8bitLt"), ("4bit", "Linear4bit")])
def test_quantised_decoder_answers(quantization: str, kind: str, tiny_folder: Path, watch: Watcher) -> None:
    pytest.importorskip("bitsandbytes")
    model = load_video_model(tiny_folder, quantization=quantization)  # type: ignore[arg-type]
    assert isinstance(model, LongVU)
    linear = {
        name: type(module).__name__ for name, module in model.model.named_modules() if isinstance(module, nn.Linear)
    }
    assert {kind} == {name for place, name in linear.items() if "language_model" in place}
    assert {"Linear"} == {name for place, name in linear.items() if "language_model" not in place}
    prompt = model.prompt(question("Why?", "video"), [watch(0.25)])
    engine = Engine(model, EngineConfig(slots=1))
    answer = engine.submit(prompt, SamplingParams(max_tokens=3, logprobs=1)).result(120)
    engine.close()
    exact = Engine(load_video_model(tiny_folder), EngineConfig(slots=1))
    expected = exact.submit(prompt, SamplingParams(max_tokens=3, logprobs=1)).result(120)
    exact.close()
    assert answer.logprobs[0].logprob == pytest.approx(expected.logprobs[0].logprob, abs=0.5)


def test_what_cannot_be_loaded_is_named(tmp_path: Path, tiny_folder: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json is missing"):
        load_video_model(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="model_type 'bert'"):
        load_video_model(tmp_path)
    with pytest.raises(UserError, match="colour=red"):
        load_video_model(tiny_folder, overrides={"colour": "red"})
    with pytest.raises(UserError, match="quantization=2bit"):
        load_video_model(tiny_folder, quantization="2bit")  # type: ignore[arg-type]
