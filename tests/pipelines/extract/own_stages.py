"""Stages as users write them; tests call them by module, or as a copy of this file somewhere else."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

import pyarrow as pa

from pipelines.extract.stages import frame_stage


@dataclass
class Scale:
    factor: float = 1.0


@frame_stage(columns={"brightness": pa.float32()}, version="3", edge_px=16)
def brightness(frames_THWC, pts_s, *, factor=1.0):
    return {"brightness": frames_THWC.mean(axis=(1, 2, 3)) * Scale(factor).factor}


@frame_stage(columns={"words": pa.list_(pa.string()), "calls": pa.int32()}, version="1", edge_px=0)
class Reader:
    def __init__(self, language: str = "en"):
        self.language, self.calls = language, 0

    def __call__(self, frames_THWC, pts_s):
        self.calls += 1
        words = [None if frame == 0 else [self.language, str(len(frames_THWC))] for frame in range(len(pts_s))]
        return {"words": words, "calls": [self.calls] * len(pts_s)}


@frame_stage(columns={"picky": pa.bool_()}, edge_px=16)
def picky(frames_THWC, pts_s):
    if len(pts_s) == 20:
        raise RuntimeError("no luck\nwith this one")
    return {"picky": [True] * len(pts_s)}


@frame_stage(columns={"deadly": pa.bool_()}, edge_px=16)
def deadly(frames_THWC, pts_s):
    if len(pts_s) == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"deadly": [True] * len(pts_s)}


@frame_stage(columns={"never": pa.bool_()})
class Unbuildable:
    def __init__(self):
        raise FileNotFoundError("weights.bin is not here")

    def __call__(self, frames_THWC, pts_s):
        return {"never": [None] * len(pts_s)}


def plain(frames_THWC, pts_s):
    return {}
