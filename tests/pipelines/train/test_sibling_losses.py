"""VideoLLaMB's and LLaMA-VID's reference losses, gradients and labels, as the training path computes them: packed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from longvu_model.checkpoint_names import rename
from longvu_model.config import IGNORE_INDEX
from longvu_model.labels import read_turns
from longvu_model.llama_tokenizer import load_llama_tokenizer
from longvu_model.llamavid import official as llamavid_official
from longvu_model.llamavid.sight import GuidedMedia, Views
from longvu_model.llamavid.sight import Media as LlamaVidMedia
from longvu_model.packing import PackedRow, SampleInputs, packed_forward, use_packed_attention
from longvu_model.videollamb import checkpoint_names as names
from pipelines.train.families import LlamaVidFamily, TrainableModel, VideoLLaMBFamily
from pipelines.train.loss import target_losses
from pipelines.train.samples import Kind, MediaRef, Sample
from tests.golden import llamavid_runs, videollamb_models, videollamb_runs

VECTORS = Path(__file__).resolve().parents[2] / "golden" / "vectors"
SHARED = Path(__file__).resolve().parents[4] / "shared" / "golden"
LOSS_LIMIT, GRADIENT_LIMIT = 2e-5, 5e-5


def folders(family: str) -> list[Any]:
    """The vectors in the tree, and the whole set where it is."""
    whole = pytest.mark.skipif(not (SHARED / family).is_dir(), reason="vectors not beside us")
    return [
        pytest.param(VECTORS / family, id="compact"),
        pytest.param(SHARED / family, id="whole", marks=whole),
    ]


def packed_loss(model: TrainableModel, inputs: SampleInputs) -> tuple[Tensor, PackedRow]:
    """The published mean of a batch, from its rows end to end."""
    use_packed_attention(model)
    hidden_SC, row = packed_forward(model.model, [inputs])
    return target_losses(hidden_SC, row.targets_S, model.lm_head, chunk_targets=16).mean(), row


def compare_gradients(model: TrainableModel, references: Mapping[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    assert references
    for name, reference in references.items():
        gradient = parameters[name].grad
        assert gradient is not None, name
        error = float((gradient - reference).abs().max() / reference.abs().max().clamp(min=1e-12))
        assert error <= GRADIENT_LIMIT, name


@pytest.mark.parametrize("folder", folders("videollamb"))
def test_videollamb_losses_and_gradients(folder: Path) -> None:
    """The plain loss and the per-scene loss, of videos and images; scenes and rows are sequences of one packed row."""
    gradients = {case.config["case"]: case for case in videollamb_models.read_cases(folder, "e2e_grads")}
    learned = 0
    for case in videollamb_models.read_cases(folder, "e2e", "retro_loss"):
        if "out.loss" not in case.tensors:
            continue
        per_scene = case.meta["kind"] == "retro_loss"
        model = videollamb_models.build_model(
            folder, case.config.get("overrides", {}), **({"per_scene_loss": True} if per_scene else {})
        )
        ids, media, mask, labels = videollamb_runs._inputs(case)
        assert labels is not None
        loss, row = packed_loss(model, SampleInputs(ids, labels, media, mask))
        assert loss.item() == pytest.approx(float(case.tensors["out.loss"]), rel=LOSS_LIMIT), case.name
        if "segment_lengths" in case.config:
            assert len(row.lengths) == case.config["num_segments"] * len(ids)
        loss.backward()
        source = gradients.get(case.name, case)
        references = {
            str(rename(f"model.{name}", names.MODEL_NAMES)): tensor for name, tensor in source.part("out.grad.").items()
        }
        if references:
            compare_gradients(model, references)
        learned += 1
    assert learned


@pytest.mark.parametrize("folder", folders("llamavid"))
def test_llamavid_losses_and_gradients(folder: Path) -> None:
    """Images, videos, several turns, and a film with a slot for each token."""
    cases = json.loads((folder / "cases.json").read_text())["cases"]
    gradients = {
        one.config["case"]: one for one in (llamavid_runs._case(folder, e) for e in cases if e["kind"] == "e2e_grads")
    }
    learned = 0
    for entry in cases:
        case = llamavid_runs._case(folder, entry) if entry["kind"] == "e2e" else None
        if case is None or "out.loss" not in case.tensors:
            continue
        model = llamavid_runs.build_model(folder, case.config["model"], **llamavid_runs._overrides(case))
        given = llamavid_runs._inputs(case, model)
        views = Views(given["guide_ids"], given["guide_mask"], given["view_media"])
        media = LlamaVidMedia(given["frame_counts"], given.get("pixel_values"), given.get("features"))
        shown = GuidedMedia(media, views, given["token_slots"])
        loss, _ = packed_loss(model, SampleInputs(given["input_ids"], given["labels"], shown, given["attention_mask"]))
        assert loss.item() == pytest.approx(float(case.tensors["out.loss"]), rel=LOSS_LIMIT), case.name
        loss.backward()
        if case.name in gradients:
            ours = {llamavid_official.published_name(name): name for name, _ in model.named_parameters()}
            references = {
                ours[f"model.{name.removeprefix('out.grad.')}"]: tensor
                for name, tensor in gradients[case.name].tensors.items()
                if name.startswith("out.grad.")
            }
            compare_gradients(model, references)
        learned += 1
    assert learned


def sample_of(turns: list[dict[str, str]], kind: Kind | None, sample_id: str = "rows.json:0") -> Sample:
    media = (MediaRef(kind, "medium"),) if kind else ()
    return Sample(sample_id, "", kind or "text", media, tuple(read_turns(turns)))


@pytest.mark.parametrize("folder", folders("videollamb"))
def test_videollamb_labels(folder: Path) -> None:
    """Published labels of conversations about a video or an image whose marker stands in front."""
    from longvu_model.videollamb.config import VideoLLaMBConfig

    config = VideoLLaMBConfig(semantics="published", prompt_style="vicuna_v1")
    learned = 0
    for stored in json.loads((folder / "prompts.json").read_text())["supervised"]:
        turns = stored["normalized"]
        text = "".join(turn["value"] for turn in turns)
        kind: Kind | None = "video" if "<video>" in text else "image" if "<image>" in text else None
        if "<video>" in text and "<image>" in text:
            continue
        family = VideoLLaMBFamily(config, load_llama_tokenizer(folder, legacy=stored["legacy"]))
        # samples have one marker for media of either kind
        told = [{**turn, "value": turn["value"].replace("<video>", "<image>")} for turn in turns]
        labelled = family.label(sample_of(told, kind))
        assert labelled.input_ids == stored["input_ids"]
        assert labelled.labels == stored["labels"]
        learned += any(label != IGNORE_INDEX for label in labelled.labels)
    assert learned


@pytest.mark.parametrize("folder", folders("llamavid"))
def test_llamavid_labels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published labels, slots in every turn included; captions of the alignment stage."""
    from longvu_model.llamavid.config import LlamaVidConfig
    from pipelines.train.families import llamavid as family_module

    config = LlamaVidConfig(semantics="published")
    guide_tokenizer = llamavid_runs.read_guide_tokenizer(folder)
    table = json.loads((folder / "prompts.json").read_text())
    coin = family_module.random.Random
    learned = 0
    for stored in table["supervised"]:
        tokenizer = load_llama_tokenizer(folder, legacy=stored["legacy"])
        family = LlamaVidFamily(config, tokenizer, guide_tokenizer)
        seed = stored["python_random_seed"]
        monkeypatch.setattr(family_module.random, "Random", lambda _, seed=seed: coin(seed))
        labelled = family.label(sample_of(stored["source"], "video" if stored["has_image"] else None))
        assert (labelled.input_ids, labelled.labels) == (stored["input_ids"], stored["labels"])
        learned += any(label != IGNORE_INDEX for label in labelled.labels)
    for stored in table["plain_guided"]:
        family = LlamaVidFamily(config, load_llama_tokenizer(folder), guide_tokenizer, captions=True)
        labelled = family.label(sample_of(stored["source"], "video"))
        assert (labelled.input_ids, labelled.labels) == (stored["input_ids"], stored["labels"])
        assert labelled.guides is not None and len(labelled.guides[0]) == len(stored["guided_prompts"])
    assert learned
