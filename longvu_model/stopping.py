"""When to stop generating: a keyword such as the turn separator has been written.

Generation from embeddings returns new ids only, without the prompt. The published rule slices as if the prompt were
there [Q18]; the corrected one looks for the keyword anywhere in a row's new text, row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import BoolTensor, Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria

from longvu_model.semantics import Semantics


def keyword_ids(keyword: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a keyword, without the BOS that some tokenizers put in front."""
    ids = list(tokenizer(keyword).input_ids)
    return ids[1:] if len(ids) > 1 and ids[0] == tokenizer.bos_token_id else ids


class KeywordStop(StoppingCriteria):
    """Stops when a keyword has been generated.

    Args:
        keywords: texts to stop at; none may be empty.
        tokenizer: encodes the keywords and decodes the output.
        rules: ``stop_by_suffix`` chooses the published rule.
        prompt_length: number of prompt ids, which the published rule subtracts from the output's length although the
            output does not contain them; unused by the corrected rule.
    """

    def __init__(
        self,
        keywords: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        rules: Semantics,
        *,
        prompt_length: int = 0,
    ) -> None:
        if isinstance(keywords, str) or not keywords or not all(keywords):
            raise ValueError(f"keywords={keywords!r}: give a list of one or more texts, none of them empty")
        self.keywords = list(keywords)
        self.keyword_ids = [keyword_ids(keyword, tokenizer) for keyword in self.keywords]
        self.tokenizer = tokenizer
        self.rules = rules
        self.prompt_length = prompt_length

    def __call__(self, input_ids: Tensor, scores: Any = None, **kwargs: Any) -> BoolTensor:
        """Which rows are finished: bool (B,).

        Args:
            input_ids: generated ids so far, int64 (B, n), without the prompt.
            scores: unused.
            **kwargs: unused.
        """
        rows = input_ids.tolist()
        if self.rules.stop_by_suffix:
            finished = [all(self._ends_or_contains(row) for row in rows)] * len(rows)
        else:
            finished = [self._contains(row) for row in rows]
        return torch.tensor(finished, dtype=torch.bool, device=input_ids.device)  # type: ignore[return-value]

    def _ends_or_contains(self, row: list[int]) -> bool:
        if any(row[-len(ids) :] == ids for ids in self.keyword_ids):
            return True
        offset = min(len(row) - self.prompt_length, max(map(len, self.keyword_ids)))
        # A negative offset makes this drop the first ids instead of taking the last ones.
        text = self.tokenizer.decode(row[-offset:], skip_special_tokens=True)
        return any(keyword in text for keyword in self.keywords)

    def _contains(self, row: list[int]) -> bool:
        text = self.tokenizer.decode(row, skip_special_tokens=False)
        return any(keyword in text for keyword in self.keywords)
