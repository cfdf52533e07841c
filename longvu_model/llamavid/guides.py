"""Guiding texts as word pieces: what the Q-Former reads (SEMANTICS section 2)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import BertTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from longvu_model.tiny_tokenizer import CORPUS

FOLDER = "guide_tokenizer"
"""Where a checkpoint folder keeps this tokenizer, beside the language model's."""
_BOS = "[DEC]"  # added by the release, never produced


def load_guide_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a checkpoint folder: in ``guide_tokenizer/``, or its ``vocab.txt`` beside the weights.

    Raises:
        FileNotFoundError: neither is there.
    """
    inside = Path(folder) / FOLDER
    if inside.is_dir():
        return _as_guide(BertTokenizer.from_pretrained(inside))
    if (Path(folder) / "vocab.txt").is_file():
        return guide_tokenizer((Path(folder) / "vocab.txt").read_text(encoding="utf-8").splitlines())
    raise FileNotFoundError(f"{inside}: no tokenizer of the Q-Former; put the files of bert-base-uncased there")


def guide_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A lower-cased WordPiece tokenizer over a vocabulary in the order of its ids."""
    return _as_guide(BertTokenizer(vocab={word: i for i, word in enumerate(words)}, do_lower_case=True))


def build_tiny_guide_tokenizer() -> PreTrainedTokenizerFast:
    """The tiny preset's: letters, and the words that its language model's tokenizer is made from."""
    words = sorted(set(re.findall(r"[a-z]+", CORPUS.lower())))
    letters, signs = "abcdefghijklmnopqrstuvwxyz0123456789", ".,!?'\"-:;()/"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *letters, *signs, *(f"##{letter}" for letter in letters)]
    return guide_tokenizer([*pieces, *(word for word in words if len(word) > 1)])


def _as_guide(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    tokenizer.truncation_side, tokenizer.padding_side = "left", "right"
    if tokenizer.bos_token is None:
        tokenizer.add_special_tokens({"bos_token": _BOS})
    return tokenizer


def tokenize_guides(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> tuple[Tensor, Tensor]:
    """Word pieces int64 (S, L) and mask bool (S, L), padded to the longest; of long texts the end survives."""
    if not texts:
        return torch.zeros(0, 0, dtype=torch.int64), torch.zeros(0, 0, dtype=torch.bool)
    encoded = tokenizer(list(texts), padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    return encoded["input_ids"], encoded["attention_mask"].bool()
