"""The tokenizer of the tiny presets."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from longvu_model.prompts import CHAT_TEMPLATES
from longvu_model.tiny_tokenizer import build_tiny_tokenizer

TOKENIZERS = {style: build_tiny_tokenizer(style) for style in ("qwen", "llama3")}


@pytest.mark.parametrize("style", TOKENIZERS)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_round_trips(style: str, text: str) -> None:
    ids = TOKENIZERS[style](text, add_special_tokens=False).input_ids
    assert TOKENIZERS[style].decode(ids) == text
    assert all(0 <= i < 512 for i in ids)


@pytest.mark.parametrize("style", TOKENIZERS)
def test_fits_the_vocabulary_and_keeps_the_newline_id(style: str) -> None:
    tokenizer = TOKENIZERS[style]
    assert len(tokenizer) == 512
    assert tokenizer("\n", add_special_tokens=False).input_ids == [198]
    assert max(tokenizer.get_vocab().values()) == 511
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id}) == 3
    assert tokenizer.chat_template == CHAT_TEMPLATES[style]


@pytest.mark.parametrize("vocab_size", [300, 512])
def test_llama3_header_has_the_four_tokens_of_the_published_labels(vocab_size: int) -> None:
    tokenizer = build_tiny_tokenizer("llama3", vocab_size)
    header = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    assert len(tokenizer(header, add_special_tokens=False).input_ids) == 4


def test_words_are_shorter_than_letters() -> None:
    text = "What is happening in the video? Three people are visible."
    assert len(TOKENIZERS["qwen"](text).input_ids) < len(text) / 2


@pytest.mark.parametrize("style", TOKENIZERS)
def test_saves_and_loads(style: str, tmp_path: Path) -> None:
    TOKENIZERS[style].save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "The person opens the door.\n\n<|im_end|><|eot_id|>"
    assert loaded(text).input_ids == TOKENIZERS[style](text).input_ids
    assert (loaded.pad_token, loaded.eos_token) == (TOKENIZERS[style].pad_token, TOKENIZERS[style].eos_token)


def test_is_the_same_in_every_process() -> None:
    program = (
        "import hashlib; from longvu_model.tiny_tokenizer import build_tiny_tokenizer as build;"
        "print(hashlib.sha256(build('qwen').backend_tokenizer.to_str().encode()).hexdigest())"
    )
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    ours = hashlib.sha256(TOKENIZERS["qwen"].backend_tokenizer.to_str().encode()).hexdigest()
    assert run.stdout.strip() == ours


def test_too_small_a_vocabulary() -> None:
    with pytest.raises(ValueError, match="vocab_size=200: at least 259, 256 bytes and 3 markers"):
        build_tiny_tokenizer("qwen", 200)
