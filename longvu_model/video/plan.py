"""Which packets must be decoded to get the wanted frames exactly as decoding everything would give them.

The stream is cut at entries that split it cleanly: everything before is also shown before. In each piece decoding
starts at its entry, leaves out droppable packets that are not wanted, and stops after the last wanted one in decoding
order. A piece without a wanted frame is not decoded at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longvu_model.video.packet_index import PacketIndex, presentation_order


@dataclass(frozen=True)
class DecodePlan:
    """``send_P``: which packets, in decoding order, go to the decoder. ``wanted_T``: times of the wanted frames."""

    send_P: NDArray[np.bool_]
    wanted_T: NDArray[np.int64]


def make_plan(index: PacketIndex, indices_T: NDArray[np.int64]) -> DecodePlan:
    """Plan for the frames ``indices_T`` (ascending frame numbers). The index must be ``timed``."""
    assert index.timed, "frames without presentation times cannot be planned"
    wanted = index.order_F[indices_T]
    wanted_P = np.zeros(len(index.pts_P), bool)
    wanted_P[wanted] = True
    starts_P = _clean_entries(index)
    piece_P = np.cumsum(starts_P, dtype=np.int32)
    last_of_piece = np.full(piece_P[-1] + 1, -1, np.int32)
    np.maximum.at(last_of_piece, piece_P[wanted], wanted)
    in_reach_P = np.arange(len(wanted_P), dtype=np.int32) <= last_of_piece[piece_P]
    droppable_P = np.zeros_like(wanted_P) if index.why_not else index.droppable_P
    return DecodePlan(in_reach_P & (wanted_P | ~droppable_P), index.pts_P[wanted])


def _clean_entries(index: PacketIndex) -> NDArray[np.bool_]:
    """Packets (P,) at which pieces after the first start: entries before which everything is also shown earlier.

    Parameter sets outlive a piece. So where the stream carries any, an entry must bring its own, and none may have come
    between entries.
    """
    starts_P = np.zeros(len(index.pts_P), bool)
    if index.why_not:
        return starts_P
    numbers_P = np.arange(len(index.pts_P), dtype=np.int32)
    rank_P = np.empty_like(numbers_P)
    rank_P[presentation_order(index.pts_P)] = numbers_P
    # The k packets before an entry are shown first exactly if the highest of their ranks is k - 1.
    split = np.maximum.accumulate(rank_P)[:-1] == numbers_P[:-1]
    parameters_before = np.logical_or.accumulate(index.parameters_P)[:-1]
    stray_before = np.logical_or.accumulate(index.parameters_P & ~index.entry_P)[:-1]
    self_contained = (index.parameters_P[1:] | ~parameters_before) & ~stray_before
    starts_P[1:] = index.entry_P[1:] & split & self_contained
    return starts_P
