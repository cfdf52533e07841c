"""DeepSpeed's engines against the plain one, over two processes; checkpoints between all of them.

One pair of processes computes everything; the tests look at what it brought back. The whole matrix is
``tests/benchmarks/engines.py``.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines.train import stages
from pipelines.train.collate import Bin
from pipelines.train.config import EngineSettings
from pipelines.train.engine import Engine
from pipelines.train.engine_state import CheckpointMismatch, consolidate
from pipelines.train.stages import LoraSettings
from pipelines.train.torch_engine import TorchEngine
from tests.pipelines.train import problem

WORLD_SIZE, STEPS = 2, 4
UNEVEN = 3  # bins of a global batch: two for one rank, one for the other


def engine(zero_stage: int | None, stage: Any = None, precision: str = "float32", **changes: Any) -> Engine:
    """An engine of the small problem, plain for ``None``; with small buckets, so that their order matters."""
    from pipelines.train.deepspeed_engine import DeepSpeedEngine

    checkpointing = changes.pop("gradient_checkpointing", False)
    settings = EngineSettings(
        kind="torch" if zero_stage is None else "deepspeed",
        zero_stage=zero_stage or 0,
        precision=precision,
        bucket_elements=2000,
        gradient_checkpointing=checkpointing,
    )
    stage = stage or problem.stage()
    kind = TorchEngine if zero_stage is None else DeepSpeedEngine
    return kind(problem.model(stage, **changes), stage, settings)


def measure(one: Engine, num_bins: int = UNEVEN, steps: int = STEPS) -> dict[str, Any]:
    frozen = {name: p.detach().clone() for name, p in one.model.named_parameters() if not p.requires_grad}
    gradients = problem.gradients(one, num_bins, batches=2)
    results = problem.trajectory(one, steps, num_bins)
    held_out = one.forward(problem.dealt(problem.global_batch(99, num_bins), one.rank, one.world_size))
    return {
        "gradients": gradients,
        "losses": [result.loss for result in results],
        "norms": [result.grad_norm for result in results],
        "held_out": [sums.tolist() for sums in (result.loss_sums for result in held_out)],
        "state": one.consolidated_state_dict(),
        "thawed": [name for name, tensor in frozen.items() if not torch.equal(one.model.get_parameter(name), tensor)]
        if getattr(one.settings, "zero_stage", 0) < 3
        else [],
    }


# Name -> arguments of `engine`, run by the pair and by plain torch alone.
CASES: dict[str, dict[str, Any]] = {
    **{f"zero {zero_stage}": {"zero_stage": zero_stage} for zero_stage in range(4)},
    "torch": {"zero_stage": None},
    # lm_head and embeddings are one tensor; layers are recomputed in the backward pass
    "zero 3, tied, checkpointing": {"zero_stage": 3, "backbone": "llama", "gradient_checkpointing": True},
    "zero 3, adapters": {"zero_stage": 3, "stage": problem.stage(lora=LoraSettings(rank=2))},
    # nothing in front of the decoder layers learns
    "zero 3, frozen front": {
        "zero_stage": 3,
        "stage": problem.stage(frozen=("towers", "aggregator", "projector", "newline", "embeddings")),
    },
    "zero 2, only the connector": {
        "zero_stage": 2,
        "stage": problem.stage(frozen=("towers", "embeddings", "language_model", "head")),
    },
    "zero 3, towers too": {"zero_stage": 3, "stage": problem.stage(frozen=())},
}


def work(rank: int, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {name: measure(engine(**case)) for name, case in CASES.items()}
    found["bfloat16"] = {
        zero_stage: measure(engine(zero_stage, precision="bfloat16")) for zero_stage in (None, 1, 2, 3)
    }
    for zero_stage, precision in itertools.product((None, 1, 2, 3), ("float32", "bfloat16")):
        found["poisoned", zero_stage, precision] = poison(engine(zero_stage, precision=precision))
    found["poisoned", 0, "float32"] = poison(engine(0))
    for zero_stage in (None, 0, 1, 2, 3):  # half of the run here, the rest elsewhere
        first = engine(zero_stage)
        problem.trajectory(first, 2, UNEVEN)
        target = folder / f"{zero_stage}"
        target.mkdir(exist_ok=True)
        first.save(target)
        found["saved", zero_stage] = first.snapshot()
    return found


def poison(one: Engine) -> tuple[bool, float]:
    """A step, a batch of NaN that is discarded and one that is not, a step: whether the batches left no trace, and the
    loss of the last step."""
    problem.trajectory(one, 1, UNEVEN, first=5)
    before = one.snapshot()
    bins = problem.global_batch(0, UNEVEN)
    shown = bins[0][0].media
    assert shown is not None and shown.pixel_values_dino is not None
    bins[0][0] = dataclasses.replace(
        bins[0][0], media=dataclasses.replace(shown, pixel_values_siglip=shown.pixel_values_siglip * float("nan"))
    )
    untouched = True
    for end in (one.discard, lambda: one.update(1.0)):
        one.backward(problem.dealt(bins, one.rank, one.world_size), 1)
        end()
        after = one.snapshot()
        untouched &= one.steps == 1 and all(torch.equal(before[key], after[key]) for key in before)
    return untouched, problem.trajectory(one, 1, UNEVEN, first=6)[0].loss


def resume(rank: int, folder: Path) -> dict[str, Any]:
    """Checkpoints of two workers go on in this world, in engines of every kind."""
    found: dict[str, Any] = {}
    for source, zero_stage in ((None, 2), (1, 1), (2, 2), (3, 3), (2, 3), (3, None)):
        second = engine(zero_stage)
        second.load(folder / f"{source}")
        found[source, zero_stage, "steps"] = second.steps
        found[source, zero_stage, "snapshot"] = second.snapshot()
        found[source, zero_stage] = problem.trajectory(second, 1, UNEVEN, first=2)[0].loss
        if (source, zero_stage) == (3, 3):
            target = folder / f"back-{second.world_size}"
            target.mkdir(exist_ok=True)
            second.save(target)
    if (folder / "back-1").is_dir():
        second = engine(3)
        second.load(folder / "back-1")
        found["back"] = problem.trajectory(second, 1, UNEVEN, first=3)[0].loss
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="module")
def pair(folder: Path) -> list[dict[str, Any]]:
    return problem.run_workers(WORLD_SIZE, work, folder, folder)


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    """The plain engine in this process, which has all bins."""
    return {name: measure(engine(**{**case, "zero_stage": None})) for name, case in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_two_workers_compute_what_plain_torch_does(
    name: str, pair: list[dict[str, Any]], alone: dict[str, dict[str, Any]]
) -> None:
    expected = alone[name]
    for ranks in pair:
        mine = ranks[name]
        for gradient, reference in zip(mine["gradients"], expected["gradients"], strict=True):
            assert problem.relative_error(gradient, reference) < 1e-6
        assert mine["losses"] == pytest.approx(expected["losses"], abs=2e-6)
        assert mine["norms"] == pytest.approx(expected["norms"], rel=1e-5)
        assert not mine["thawed"]
    held_out = [sums for place in range(UNEVEN) for sums in [pair[place % 2][name]["held_out"][place // 2]]]
    for mine, reference in zip(held_out, expected["held_out"], strict=True):
        assert mine == pytest.approx(reference, abs=2e-4)
    compare_states(pair[0][name]["state"], expected["state"], CASES[name].get("stage") or problem.stage())
    assert pair[1][name]["state"] is None


def compare_states(mine: dict[str, Tensor], expected: dict[str, Tensor], stage: stages.Stage) -> None:
    """Weights after some steps: close, and where they are frozen the same."""
    assert mine.keys() == expected.keys()
    for name, tensor in expected.items():
        if stages.part_of(name) in stage.frozen:
            assert torch.equal(mine[name], tensor), name
        difference = float((mine[name] - tensor).abs().max())
        assert difference < 2e-5 + 1e-4 * float(tensor.abs().max()), name


def test_gradients_of_a_step_do_not_depend_on_how_it_was_dealt(alone: dict[str, dict[str, Any]]) -> None:
    """Empty bins, bins without targets, and one bin instead of three."""
    one = engine(None)
    bins = problem.global_batch(0, UNEVEN)
    count = problem.targets(bins)
    one.backward([Bin([], []), *problem.dealt(bins)], count)
    apart = one.gradients()
    one.discard()
    one.backward(problem.dealt([[sample for samples in bins for sample in samples]]), count)
    together = one.gradients()
    flat, other = (torch.cat([g[name].flatten() for name in sorted(g)]) for g in (apart, together))
    assert problem.relative_error(flat, other) < 1e-6


def test_bfloat16_follows_plain_torch_and_float32(pair: list[dict[str, Any]], alone: dict[str, dict[str, Any]]) -> None:
    plain, exact = pair[0]["bfloat16"][None], alone["torch"]
    assert plain["losses"] == pytest.approx(exact["losses"], abs=0.1)
    assert plain["losses"] != pytest.approx(exact["losses"], abs=1e-5)
    for zero_stage in (1, 2, 3):
        mine = pair[0]["bfloat16"][zero_stage]
        assert mine["losses"] == pytest.approx(plain["losses"], abs=0.02), zero_stage
        for gradient, reference in zip(mine["gradients"], plain["gradients"], strict=True):
            assert problem.relative_error(gradient, reference) < 0.02, zero_stage
        assert all(tensor.dtype == torch.bfloat16 for tensor in mine["state"].values())


def test_a_run_goes_on_with_other_workers_and_other_engines(
    pair: list[dict[str, Any]], folder: Path, alone: dict[str, dict[str, Any]]
) -> None:
    """Two workers, then one, then two again; and from one engine to another."""
    expected = alone["torch"]["losses"]
    one = problem.run_workers(1, resume, folder, folder)
    two = problem.run_workers(2, resume, folder, folder)
    for found in (*one, *two):
        for key, value in found.items():
            if key[-1] == "steps":
                assert value == 2
            elif isinstance(value, float):
                assert value == pytest.approx(expected[3 if key == "back" else 2], abs=2e-6), key
    assert "back" in two[0]
    for rank, found in enumerate(two):  # the same engine in the same world: bit for bit
        for zero_stage in (1, 2, 3):
            saved, loaded = pair[rank]["saved", zero_stage], found[zero_stage, zero_stage, "snapshot"]
            assert saved.keys() == loaded.keys() and saved
            assert all(torch.equal(saved[key], loaded[key]) for key in saved)


def test_shards_of_all_engines_hold_the_same_weights(pair: list[dict[str, Any]], folder: Path) -> None:
    reference = consolidate(folder / "None")
    for zero_stage in range(4):
        weights = consolidate(folder / f"{zero_stage}")
        assert weights.keys() == reference.keys()
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, reference[name], rtol=1e-5, atol=1e-6)
    sizes = [sum(p.stat().st_size for p in (folder / f"{zero_stage}").iterdir()) for zero_stage in range(4)]
    whole = 3 * 4 * sum(tensor.numel() for tensor in reference.values())
    assert all(whole < size < 1.4 * whole for size in sizes)  # everything once, and the headers


def test_a_batch_without_a_finite_gradient_leaves_no_trace(pair: list[dict[str, Any]]) -> None:
    sound = {}
    for ranks in pair:
        for key, (untouched, loss) in ((key, value) for key, value in ranks.items() if key[0] == "poisoned"):
            assert untouched, key
            sound.setdefault(key[2], []).append(loss)
    assert len(sound["float32"]) == 2 * 5 and sound["float32"] == pytest.approx([sound["float32"][0]] * 10, abs=2e-6)
    assert len(sound["bfloat16"]) == 2 * 4 and sound["bfloat16"] == pytest.approx([sound["bfloat16"][0]] * 8, abs=0.02)


def test_bfloat16_without_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="use zero_stage=1"):
        EngineSettings(kind="deepspeed", zero_stage=0, precision="bfloat16")


def test_a_checkpoint_that_does_not_fit_is_refused(pair: list[dict[str, Any]], folder: Path, tmp_path: Path) -> None:
    other = engine(None, problem.stage(frozen=("towers", "head")))
    before = {name: p.clone() for name, p in other.model.named_parameters()}
    with pytest.raises(CheckpointMismatch, match=r"not trained here: lm_head\.weight.*resume with the configuration"):
        other.load(folder / "2")
    with pytest.raises(CheckpointMismatch, match="no shard"):
        other.load(tmp_path)
    shard = next((folder / "2").glob("shard-00001*"))
    (tmp_path / shard.name).write_bytes(shard.read_bytes())
    with pytest.raises(CheckpointMismatch, match="of 2 workers has 2 shards"):
        engine(None).load(tmp_path)
    assert all(torch.equal(p, before[name]) for name, p in other.model.named_parameters())
