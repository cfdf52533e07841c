"""The decoder on the slots of a cache: chunks of one prompt, and steps of all answers.

An answer does not depend on who else is being answered, to the last bit where kernels allow it:

* A prompt's chunks are cut at places that the prompt alone decides, among them the end of its prefix, and each is a
  call of its own. Taking over a prefix therefore leaves the rest of the arithmetic as it was.
* A decoding step has one row per slot. Products of a few rows are summed in another order than products of many: on a
  CPU with MKL up to three rows, measured over widths of 128 to 8192. So a step has at least ``least_rows``, whether or
  not there are so many answers, and on a GPU, where rows cost next to nothing, always all of them.
* Attention looks at whole blocks of the cache. What lies beyond a row's own end is masked and adds exact zeros.

Shapes: B slots, R rows of a step, Q positions of a chunk, S positions looked at, C model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pipelines.engine.attention import use_grouped_attention
from pipelines.engine.kv_cache import ChunkView, SlotCache, StepView, in_blocks
from pipelines.video_models.base import VideoModel

CPU_LEAST_ROWS = 4
_FEWEST_GRAPH_POSITIONS = 1024


class Runner:
    """A model and the cache it works on.

    Args:
        model: its decoder attends with :mod:`pipelines.engine.attention` from now on.
        slots: sequences at the same time.
        length: positions of each.
        least_rows: rows of a step at least; None for what the device needs.
        cuda_graphs: capture the steps now, and replay them.
    """

    def __init__(
        self, model: VideoModel, slots: int, length: int, least_rows: int | None = None, cuda_graphs: bool = False
    ) -> None:
        self._decoder, self._head, self._device = model.decoder, model.lm_head, model.device
        self._embed = model.decoder.get_input_embeddings()  # type: ignore[operator]
        use_grouped_attention(self._decoder)
        self._least_rows = least_rows or (CPU_LEAST_ROWS if self._device.type == "cpu" else slots)
        if cuda_graphs:
            self._least_rows = max(self._least_rows, slots)
        # Rows beyond the slots belong to nobody.
        self.cache = SlotCache(model.decoder.config, max(slots, self._least_rows), length, model.dtype, self._device)
        self._graphs: dict[int, _Graph] = {}
        if cuda_graphs:
            self._capture()

    def chunk(self, embeds_QC: Tensor, slot: int, start: int) -> Tensor:
        """Take in positions ``start``, ``start + 1``, ... of a slot; returns their hidden states (Q, C)."""
        stop = start + len(embeds_QC)
        visible = in_blocks(stop)
        positions_Q = torch.arange(start, stop, device=self._device)
        return self._decoder(
            inputs_embeds=embeds_QC[None],
            position_ids=positions_Q[None],
            attention_mask=self._mask(positions_Q, visible)[None, None],
            past_key_values=ChunkView(self.cache, slot, start, visible),
            use_cache=True,
        ).last_hidden_state[0]

    def logits(self, hidden_RC: Tensor) -> Tensor:
        """(R, V)."""
        return self._head(hidden_RC)

    def embed(self, token_ids: list[int]) -> Tensor:
        """Embeddings (n, C) of text."""
        return self._embed(torch.tensor(token_ids, device=self._device))

    def step(self, tokens: Mapping[int, tuple[int, int]]) -> Tensor:
        """One token further for some slots.

        Args:
            tokens: for each slot, its newest token and the position that it takes.

        Returns:
            logits (R, V); a slot's are in the row of its number.
        """
        num_rows = self._least_rows
        while num_rows <= max(tokens):
            num_rows = min(2 * num_rows, self.cache.num_slots)
        visible = in_blocks(max(position for _, position in tokens.values()) + 1)
        rows = [tokens.get(row, (0, self.cache.scratch)) for row in range(num_rows)]
        inputs_2R = torch.tensor(rows, device=self._device).T.contiguous()
        return self._logits(inputs_2R, visible)

    def _logits(self, inputs_2R: Tensor, visible: int) -> Tensor:
        for length, graph in self._graphs.items():
            if visible <= length:
                return graph.replay(inputs_2R)
        return self._forward(inputs_2R, visible)

    def _forward(self, inputs_2R: Tensor, visible: int) -> Tensor:
        tokens_R, positions_R = inputs_2R
        hidden = self._decoder(
            inputs_embeds=self._embed(tokens_R)[:, None],
            position_ids=positions_R[:, None],
            attention_mask=self._mask(positions_R, visible)[:, None, None],
            past_key_values=StepView(self.cache, positions_R, visible),
            use_cache=True,
        ).last_hidden_state
        return self._head(hidden[:, 0])

    def _mask(self, positions: Tensor, visible: int) -> Tensor:
        """Additive (n, S): a position sees itself and what is before it. Kernels would turn a bool one into this."""
        hidden = torch.arange(visible, device=self._device) > positions[:, None]
        return torch.zeros(hidden.shape, dtype=self.cache.tensor.dtype, device=self._device).masked_fill_(
            hidden, float("-inf")
        )

    def _capture(self) -> None:
        visible = _FEWEST_GRAPH_POSITIONS
        while visible < 2 * self.cache.room:
            length = min(visible, self.cache.room)
            self._graphs[length] = _Graph(self, length)
            visible *= 2


class _Graph:
    """A step over all rows and so many positions as one CUDA graph."""

    def __init__(self, runner: Runner, visible: int) -> None:
        slots, scratch = runner.cache.num_slots, runner.cache.scratch
        self._inputs_2R = torch.tensor([[0] * slots, [scratch] * slots], device=runner.cache.tensor.device)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                runner._forward(self._inputs_2R, visible)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads may be encoding while an engine starts.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._logits = runner._forward(self._inputs_2R, visible)

    def replay(self, inputs_2R: Tensor) -> Tensor:
        self._inputs_2R.copy_(inputs_2R)
        self._graph.replay()
        return self._logits
