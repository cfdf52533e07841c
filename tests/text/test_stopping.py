"""The stop rule, alone and inside generation."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from longvu_model.config import CORRECTED, PUBLISHED
from longvu_model.stopping import KeywordStop
from longvu_model.tiny_tokenizer import build_tiny_tokenizer

TOKENIZER = build_tiny_tokenizer("qwen")


def _ids(text: str) -> list[int]:
    return list(TOKENIZER(text).input_ids)


@pytest.mark.parametrize("text", ["opens the door.", "the door", "<|im_end|> door", "door\n\nand more words after it"])
def test_corrected_rule_finds_a_keyword_anywhere(text: str) -> None:
    stop = KeywordStop(["door"], TOKENIZER, CORRECTED)
    assert stop(torch.tensor([_ids(text)])).tolist() == [True]
    assert stop(torch.tensor([_ids("opens the window")])).tolist() == [False]


def test_corrected_rule_finds_a_keyword_across_tokens() -> None:
    ids = [token for letter in "door" for token in _ids(letter)]
    assert len(ids) == 4
    assert KeywordStop(["door"], TOKENIZER, CORRECTED)(torch.tensor([ids])).tolist() == [True]
    assert KeywordStop(["door"], TOKENIZER, PUBLISHED, prompt_length=9)(torch.tensor([ids])).tolist() == [False]


def test_corrected_rows_stop_one_by_one_and_published_ones_together() -> None:
    end = TOKENIZER.convert_tokens_to_ids("<|im_end|>")
    ids = torch.tensor([[5, end], [5, 6]])
    assert KeywordStop(["<|im_end|>"], TOKENIZER, CORRECTED)(ids).tolist() == [True, False]
    assert KeywordStop(["<|im_end|>"], TOKENIZER, PUBLISHED)(ids).tolist() == [False, False]
    assert KeywordStop(["<|im_end|>"], TOKENIZER, PUBLISHED)(ids[:1]).tolist() == [True]


def test_any_of_several_keywords() -> None:
    stop = KeywordStop(["cat", "dog"], TOKENIZER, CORRECTED)
    assert [stop(torch.tensor([_ids(text)])).tolist() for text in ("a dog", "a car")] == [[True], [False]]


@pytest.mark.parametrize("keywords", [[], [""], "door"])
def test_bad_keywords(keywords: list[str]) -> None:
    with pytest.raises(ValueError, match="give a list of one or more texts"):
        KeywordStop(keywords, TOKENIZER, CORRECTED)


def test_generation_from_embeddings_stops_at_the_keyword() -> None:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(TOKENIZER),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = Qwen2ForCausalLM(config).eval()
    embeds = torch.randn(1, 5, 16)
    options = {"max_new_tokens": 12, "do_sample": True, "pad_token_id": TOKENIZER.pad_token_id}
    torch.manual_seed(1)
    free = model.generate(inputs_embeds=embeds, **options)
    keyword = TOKENIZER.decode(free[0, 4:6])
    torch.manual_seed(1)
    stopped = model.generate(
        inputs_embeds=embeds, stopping_criteria=[KeywordStop([keyword], TOKENIZER, CORRECTED)], **options
    )
    assert free.shape == (1, 12)
    assert torch.equal(stopped, free[:, :6])
