"""Llama's tokenizer as the sibling models use it: with BOS in front, padded on the right.

Sentencepiece puts a space in front of a text. What it does after a special token inside a text depends on the version
of the library: in legacy mode every part between special tokens gets that space; later, only the first part does.
The library of 2023 (4.31) knew a third way, see :func:`tokenize_by_parts`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerBase

_SPACE = "▁"


def load_llama_tokenizer(folder: str | Path, **kwargs: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint folder, also of one that holds ``tokenizer.model`` alone.

    Args:
        **kwargs: of the library; ``legacy`` chooses the mode where the folder's own settings should not.

    Raises:
        OSError: no tokenizer in the folder.
    """
    path = Path(folder)
    options = {"padding_side": "right", **kwargs}
    if not (path / "tokenizer.json").is_file():
        # Without tokenizer.json the library (5.23) forgets Llama's BOS unless told.
        options.setdefault("add_bos_token", True)
        if not (path / "config.json").is_file():
            return _with_pad(LlamaTokenizer.from_pretrained(path, **options))
    return _with_pad(AutoTokenizer.from_pretrained(path, **options))


def _with_pad(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def tokenize_by_parts(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids as the slow tokenizer of transformers 4.31 gave them, BOS in front.

    The parts between EOS tokens are tokenised apart, each with its space in front. In legacy mode that is all;
    otherwise the space is taken off the first piece of later parts after the merges, so that "USER" may stay in the
    pieces that " USER" has.
    """
    assert tokenizer.eos_token is not None
    ids = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    for i, part in enumerate(text.split(tokenizer.eos_token)):
        if i:
            ids.append(tokenizer.eos_token_id)
        # The library's tokenizer puts no second space in front of one that is there; sentencepiece does.
        spaced = f" {part}" if part.startswith(" ") and isinstance(tokenizer, LlamaTokenizer) else part
        piece_ids = tokenizer(spaced, add_special_tokens=False).input_ids if part else []
        if i and piece_ids and not getattr(tokenizer, "legacy", True) and not part.startswith(" "):
            piece_ids = _without_space(piece_ids, tokenizer)
        ids += piece_ids
    return ids


def _without_space(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    first = str(tokenizer.convert_ids_to_tokens(ids[0]))
    if not first.startswith(_SPACE):
        return ids
    rest = first.removeprefix(_SPACE)
    replaced: list[Any] = [tokenizer.convert_tokens_to_ids(rest)] if rest else []
    return [*replaced, *ids[1:]]
