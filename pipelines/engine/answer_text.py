"""Text of an answer as its tokens come: whole signs only, and nothing that may turn out to be a stop text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers.decoders import DecodeStream

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class AnswerText:
    """Takes ids, gives text; the pieces together are the decoded ids up to the first stop text.

    Args:
        tokenizer: with a ``backend_tokenizer``.
        stops: texts that end the answer; special tokens count as their text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: tuple[str, ...]) -> None:
        self._tokenizer, self._stops = tokenizer, stops
        self._stream = DecodeStream(skip_special_tokens=False)
        self._ids: list[int] = []
        self._given = 0
        self._held = ""
        self.stopped = False

    def add(self, token_id: int) -> str:
        """Text that this token makes certain; sets :attr:`stopped` when a stop text is complete."""
        self._ids.append(token_id)
        self._held += self._stream.step(self._tokenizer.backend_tokenizer, token_id) or ""
        ends = [place for place in map(self._held.find, self._stops) if place >= 0]
        if ends:
            self.stopped = True
            return self._give(min(ends))
        return self._give(len(self._held) - self._possible_stop())

    def rest(self) -> str:
        """Text that was held back, once it is clear that nothing follows."""
        if self.stopped:
            return ""
        whole = self._tokenizer.decode(self._ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        self._held = str(whole)[self._given :]
        return self._give(len(self._held))

    def _give(self, count: int) -> str:
        given, self._held = self._held[:count], self._held[count:]
        self._given += count
        return given

    def _possible_stop(self) -> int:
        """Length of the longest end of the text that a stop text begins with."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
