"""Golden checks of whole VideoLLaMB models: sequences, logits, losses, gradients, generation, streaming."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from longvu_model import vicuna
from longvu_model.checkpoint_names import rename
from longvu_model.videollamb import checkpoint_names as names
from longvu_model.videollamb.modeling import VideoLLaMBForConditionalGeneration
from longvu_model.videollamb.official import published_state
from longvu_model.videollamb.prompts import ANSWERING_STYLE
from longvu_model.videollamb.sight import Media
from longvu_model.videollamb.streaming import PublishedStream
from tests.golden.result import Comparison, Result
from tests.golden.videollamb_models import Case, build_model, pixels_of_rows, read_cases

LOGITS_LIMIT = 2e-5
_EDGE = 64  # positions that are stored of each end of a long sequence


def check_runs(folder: Path) -> Iterator[Result]:
    """Sequences, losses, gradients and greedy ids of the composed model."""
    checks = {"e2e": _end_to_end, "e2e_generate": _generate, "e2e_grads": _gradients, "retro_loss": _per_scene}
    for stored in read_cases(folder, *checks):
        case = Comparison(stored.name)
        with case.running():
            checks[stored.meta["kind"]](case, folder, stored)
        yield case.result()


def check_names(folder: Path) -> Iterator[Result]:
    """Published names and shapes of the composed model, unused ones included, both ways."""
    path = folder / "state_dict_keys_tiny.json"
    if path.is_file():
        case = Comparison("state_dict_keys_tiny")
        with case.running():
            model = build_model(folder, {})
            written = published_state(model.config, model.state_dict())
            mine = {name: list(tensor.shape) for name, tensor in written.items()}
            case.exact("names and shapes", mine, json.loads(path.read_text())["keys"])
        yield case.result()
    path = folder / "state_dict_keys_full.json"
    if path.is_file():
        case = Comparison("state_dict_keys_full")
        full = json.loads(path.read_text())
        unused = "|".join(pattern for pattern in names.MODEL_UNUSED if "layernorm" not in pattern)
        for what in ("keys", "mem_variant_projector"):
            known = [name for name in full[what] if re.fullmatch(unused, name)]
            case.exact(f"unused of {what}", sorted(known), sorted(full["unused_in_forward"]))
            named = [name for name in full[what] if not re.fullmatch("|".join(names.MODEL_UNUSED), name)]
            unknown = [name for name in named if rename(name, names.MODEL_NAMES) is None]
            case.exact(f"without a name of ours in {what}", unknown, [])
        yield case.result()


def _inputs(stored: Case) -> tuple[Tensor, Media, Tensor | None, Tensor | None]:
    pixels, counts, is_video = pixels_of_rows(stored)
    tensors = stored.tensors
    return (
        tensors["in.input_ids"],
        Media(counts, is_video, pixels),
        tensors.get("in.attention_mask"),
        tensors.get("in.labels"),
    )


def _end_to_end(case: Comparison, folder: Path, stored: Case) -> None:
    model = build_model(folder, stored.config["overrides"])
    ids, media, mask, labels = _inputs(stored)
    with torch.no_grad():
        merged = model.model.see(ids, media, mask, None, labels).merged
        output = model(ids, mask, labels=labels, **_fields(media))
    tensors, embeds = stored.tensors, merged.inputs_embeds
    case.exact("seq_len", embeds.shape[1], stored.config["seq_len"])
    for what, part in (("", embeds), ("_head", embeds[:, :_EDGE]), ("_tail", embeds[:, -_EDGE:])):
        if f"out.inputs_embeds{what}" in tensors:
            case.floats(f"inputs_embeds{what}", part, tensors[f"out.inputs_embeds{what}"])
    for what, mine in (("attention_mask", merged.attention_mask), ("labels", merged.labels)):
        reference = tensors.get(f"out.{what}")
        case.exact(f"{what} given", mine is not None, reference is not None)
        if mine is not None and reference is not None:
            case.exact(what, mine.to(reference.dtype), reference)
    tail = tensors["out.logits_tail"]
    _logits(case, "logits_tail", output.logits[:, -tail.shape[1] :], tail, _real(merged, tail.shape[1]))
    if "out.loss" in tensors:
        case.floats("loss", output.loss, tensors["out.loss"])


def _real(merged: Any, count: int) -> Tensor | None:
    return None if merged.attention_mask is None else merged.attention_mask[:, -count:].bool()


def _logits(case: Comparison, what: str, mine: Tensor, reference: Tensor, real: Tensor | None) -> None:
    """Of real positions; what the model says at padding depends on the attention kernel and is never used."""
    if real is not None:
        mine, reference = mine[real], reference[real]
    case.floats(what, mine, reference, relative=LOGITS_LIMIT)


def _fields(media: Media) -> dict[str, Any]:
    return {name: value for name, value in vars(media).items() if value is not None}


def _generate(case: Comparison, folder: Path, stored: Case) -> None:
    model = build_model(folder, {})
    tensors, count = stored.tensors, stored.config["max_new_tokens"]
    video, image = tensors["in.video"].transpose(0, 1), tensors["in.image"][None]
    for kind, pixels in (("video", video), ("image", image)):
        media = Media(torch.tensor([len(pixels)]), torch.tensor([kind == "video"]), pixels)
        generated = model.generate(
            tensors[f"in.{kind}_ids"],
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
            **_fields(media),
        )
        case.exact(f"{kind}_tokens", generated, tensors[f"out.{kind}_tokens"])


def _gradients(case: Comparison, folder: Path, stored: Case) -> None:
    source = next(one for one in read_cases(folder, "e2e") if one.name == stored.config["case"])
    model = build_model(folder, source.config["overrides"])
    ids, media, mask, labels = _inputs(source)
    output = model(ids, mask, labels=labels, **_fields(media))
    case.floats("loss", output.loss.detach(), stored.config["loss"])
    output.loss.backward()
    _compare_gradients(case, model, stored)
    for name in stored.config["no_grad_for"]:
        case.exact(f"{name} is unused", rename(f"model.{name}", names.MODEL_NAMES), None)
    if stored.config["vision_tower_no_grad"]:
        case.exact("towers learn", any(one.grad is not None for one in model.model.towers.parameters()), False)


def _compare_gradients(case: Comparison, model: VideoLLaMBForConditionalGeneration, stored: Case) -> None:
    parameters = dict(model.named_parameters())
    for name, reference in stored.part("out.grad.").items():
        ours = rename(f"model.{name}", names.MODEL_NAMES)
        assert ours is not None, f"no parameter for {name}"
        gradient = parameters[ours].grad
        assert gradient is not None, f"{name} got no gradient"
        case.floats(f"grad {name}", gradient, reference)


def _per_scene(case: Comparison, folder: Path, stored: Case) -> None:
    model = build_model(folder, {}, per_scene_loss=True)
    ids, media, mask, labels = _inputs(stored)
    assert labels is not None, "a case without labels has no loss"
    output = model(ids, mask, labels=labels, **_fields(media))
    with torch.no_grad():
        batches, _ = model.model.see_scenes(ids, media, mask, labels)
    tensors, config = stored.tensors, stored.config
    case.floats("loss", output.loss.detach(), tensors["out.loss"])
    case.exact("num_segments", len(batches), config["num_segments"])
    lengths = [merged.inputs_embeds.shape[1] for merged in batches]
    if "segment_lengths" in config:
        case.exact("segment_lengths", lengths, config["segment_lengths"])
    if "out.labels" in tensors:
        case.exact("labels", torch.cat([merged.labels for merged in batches], dim=1), tensors["out.labels"])
    logits = output.logits.detach().split(lengths, dim=1)
    for j, merged in enumerate(batches):
        _compare_scene(case, j, merged, logits[j], stored.part(f"out.seg{j}."))
    if "out.logits_tail" in tensors:
        tail = tensors["out.logits_tail"]
        real = _real(batches[-1], tail.shape[1])
        _logits(case, "logits_tail", output.logits.detach()[:, -tail.shape[1] :], tail, real)
    if stored.part("out.grad."):
        output.loss.backward()
        _compare_gradients(case, model, stored)


def _compare_scene(case: Comparison, j: int, merged: Any, logits: Tensor, reference: Mapping[str, Tensor]) -> None:
    if "embeds_tail" in reference:
        tail = reference["embeds_tail"]
        case.floats(f"seg{j}.embeds_tail", merged.inputs_embeds[:, -tail.shape[1] :], tail)
    if "attention_mask" in reference:
        mask = reference["attention_mask"]
        case.exact(f"seg{j}.attention_mask", merged.attention_mask.to(mask.dtype), mask)
    if "logits_tail" in reference:
        tail = reference["logits_tail"]
        _logits(case, f"seg{j}.logits_tail", logits[:, -tail.shape[1] :], tail, _real(merged, tail.shape[1]))


def check_streaming(folder: Path) -> Iterator[Result]:
    """The published loop, frame by frame."""
    vectors = load_file(folder / "streaming.safetensors")
    for run in json.loads((folder / "streaming.json").read_text())["runs"]:
        case = Comparison(f"streaming/{run['name']}")
        with case.running():
            _stream(case, run, vectors[f"{run['name']}.cls_features"])
        yield case.result()


def _stream(case: Comparison, run: Mapping[str, Any], vectors_TD: Tensor) -> None:
    query = run["query"]
    asked = [] if query is None else [f"<video>\n{query}", None]
    case.exact("prompt", vicuna.render(ANSWERING_STYLE, asked), run["prompt"])
    stream = PublishedStream(run["fps"])
    if query is not None:
        stream.ask(run["query_time"], query)
    for vector, event in zip(vectors_TD, run["events"], strict=True):
        place = f"frame {event['frame']}"
        firing = stream.add(vector)
        case.exact(f"{place} responded", firing is not None, event["responded"])
        case.exact(f"{place} query", None if firing is None else str(firing), event["query"])
        case.exact(f"{place} boundaries", stream.boundaries, event["detector_boundaries"])
        case.exact(f"{place} recorded", stream.recorded, event["recorded"])
        case.exact(f"{place} waiting", len(stream.waiting), event["frames_left_in_queue"])
        if "selected_frames" in event:
            case.exact(f"{place} frames", None if firing is None else firing.frames, event["selected_frames"])
