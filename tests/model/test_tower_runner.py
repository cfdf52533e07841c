"""Batches of 8-bit frames through a tower: the same features as one frame after the other, whatever fits."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from longvu_model.image_processing import preprocess_frames
from longvu_model.presets import random_model, tiny
from longvu_model.tower_runner import TowerRunner, batches, call_within_memory, is_out_of_memory
from longvu_model.towers import SiglipTower

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tower() -> SiglipTower:
    return random_model(tiny()).model.towers.siglip


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (53, 96, 96, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def plain(tower: SiglipTower, frames: np.ndarray) -> Tensor:
    """The oracle: the model's own preprocessing, one frame at a time."""
    with torch.inference_mode():
        pixels = preprocess_frames(frames, 96, tower.image_mean, tower.image_std)
        return torch.cat([tower(frame[None]) for frame in pixels])


def runner(tower: SiglipTower, batch_frames: int = 16, **options: bool) -> TowerRunner:
    return TowerRunner(tower, device=CPU, dtype=torch.float32, batch_frames=batch_frames, **options)


@pytest.mark.parametrize("options", [{}, {"one_shape": True}])
def test_features_are_the_towers_own(
    tower: SiglipTower, frames: np.ndarray, plain: Tensor, options: dict[str, bool]
) -> None:
    groups = [20, 0, 1, 32]
    parts = list(runner(tower, **options).run(frames, groups))
    packed = options.get("one_shape", False)
    assert [len(part) for part in parts] == ([16, 16, 16, 5] if packed else [16, 4, 1, 16, 16])
    torch.testing.assert_close(torch.cat(parts), plain, rtol=1e-5, atol=1e-5)


def test_pixels_are_the_processors_bit_for_bit(tower: SiglipTower, frames: np.ndarray) -> None:
    mine = runner(tower)
    seen: list[Tensor] = []
    mine._encode = lambda pixels: seen.append(pixels) or pixels  # type: ignore[func-returns-value]
    mine.encode(torch.from_numpy(frames))
    assert torch.equal(seen[0], preprocess_frames(frames, 96, tower.image_mean, tower.image_std))


def test_every_call_has_one_shape_where_that_is_asked_for(tower: SiglipTower, frames: np.ndarray) -> None:
    mine = runner(tower, 32, one_shape=True)
    shapes: list[int] = []
    inner = mine._encode
    mine._encode = lambda pixels: inner(pixels) if not shapes.append(len(pixels)) else pixels  # type: ignore[func-returns-value]
    mine.warm_up()
    list(mine.run(frames, [3, 50]))
    assert shapes == [32, 32, 32]


def test_a_compiled_tower_is_one_graph_and_gives_the_same(
    tower: SiglipTower, frames: np.ndarray, plain: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the C++ compiler, which takes a minute; ``tests.benchmarks.gpu.encode --smoke --compile`` runs it."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager", fullgraph=True))
    compiled = torch.cat(list(runner(tower, compiled=True).run(frames)))
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-4)


def test_frames_of_another_size_are_refused(tower: SiglipTower, frames: np.ndarray) -> None:
    for wrong in (frames[:, :90], frames.astype(np.float32)):
        with pytest.raises(ValueError, match="takes uint8 \\(frames, 96, 96, 3\\)"):
            next(runner(tower).run(wrong))
    with pytest.raises(ValueError, match="batch_frames=40: must be a multiple of 16"):
        runner(tower, 40)


def test_batches_begin_with_groups() -> None:
    assert [(part.start, part.stop) for part in batches([20, 0, 1], 16)] == [(0, 16), (16, 20), (20, 21)]


def allocate_too_much() -> None:
    torch.empty(1 << 60)


def raise_as_cuda_does() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def exhaust_the_host() -> None:
    np.empty(1 << 50)


class Narrow(SiglipTower):
    """Takes so many frames; beyond that memory runs out in the way given."""

    def __init__(self, most: int, run_out: object):
        super().__init__(tiny())
        self.most, self.run_out = most, run_out

    def encode(self, pixels_FCHW: Tensor) -> Tensor:
        if len(pixels_FCHW) > self.most:
            self.run_out()  # type: ignore[operator]
        return super().encode(pixels_FCHW)


@pytest.mark.parametrize("run_out", [allocate_too_much, raise_as_cuda_does, exhaust_the_host])
def test_batches_are_halved_until_they_fit_and_stay_so(
    tower: SiglipTower, frames: np.ndarray, plain: Tensor, run_out: object
) -> None:
    narrow = Narrow(20, run_out)
    narrow.load_state_dict(tower.state_dict())
    mine = runner(narrow, 96)
    calls: list[int] = []

    def run() -> Tensor:
        calls.append(mine.batch_frames)
        return torch.cat(list(mine.run(np.concatenate([frames, frames]))))

    features = call_within_memory([mine], run)
    assert calls == [96, 48, 16]
    torch.testing.assert_close(features, torch.cat([plain, plain]), rtol=1e-5, atol=1e-5)
    call_within_memory([mine], run)
    assert calls == [96, 48, 16, 16]


def test_what_never_fits_says_so(frames: np.ndarray) -> None:
    mine = runner(Narrow(8, allocate_too_much), 32)
    with pytest.raises(MemoryError, match="batches of 16 frames do not fit the memory of cpu"):
        call_within_memory([mine], lambda: list(mine.run(frames)))


def test_other_errors_are_no_matter_of_memory(tower: SiglipTower) -> None:
    def fail() -> Iterator[Tensor]:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    mine = runner(tower, 32)
    with pytest.raises(RuntimeError, match="mat1"):
        call_within_memory([mine], fail)
    assert mine.batch_frames == 32
    assert not is_out_of_memory(ValueError("out of memory"))
