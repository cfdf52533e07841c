"""Golden checks of LLaMA-VID's numbers: towers, tokens, whole models."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from longvu_model import ragged
from longvu_model.llamavid import official
from longvu_model.llamavid.compression import pool, split_tokens
from longvu_model.llamavid.config import LlamaVidConfig
from longvu_model.llamavid.guides import guide_tokenizer, tokenize_guides
from longvu_model.llamavid.modeling import PAIRS_PER_CALL, LlamaVidForConditionalGeneration
from longvu_model.llamavid.sight import Media, Views
from longvu_model.llamavid.towers import resize_position_table
from tests.golden.result import Comparison, Result

LOGITS_LIMIT = 2e-5
LOSS_LIMIT = 2e-5
GRADIENT_LIMIT = 5e-5


@dataclass(frozen=True)
class Case:
    """One entry of ``cases.json`` and its tensors."""

    folder: Path
    name: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    def numbered(self, prefix: str) -> list[Tensor]:
        """Tensors ``prefix0``, ``prefix1``, ... in order."""
        found = []
        while f"{prefix}{len(found)}" in self.tensors:
            found.append(self.tensors[f"{prefix}{len(found)}"])
        return found


def check_runs(folder: Path) -> Iterator[Result]:
    """Every case of ``cases.json``."""
    for entry in json.loads((folder / "cases.json").read_text())["cases"]:
        comparison = Comparison(entry["name"])
        with comparison.running(), torch.set_grad_enabled(entry["kind"] == "e2e_grads"):
            _CHECKS[entry["kind"]](comparison, _case(folder, entry))
        yield comparison.result()


def _case(folder: Path, entry: dict[str, Any]) -> Case:
    return Case(folder, entry["name"], entry["config"], load_file(folder / entry["file"]))


def _find(folder: Path, name: str) -> Case:
    entries = json.loads((folder / "cases.json").read_text())["cases"]
    return _case(folder, next(entry for entry in entries if entry["name"] == name))


@lru_cache(8)
def read_model(folder: Path, model: str) -> tuple[LlamaVidConfig, dict[str, Tensor]]:
    """Configuration and weights of a model of the folder, read as a published checkpoint."""
    case = _find(folder, f"model_{model}_weights")
    sizes, bert = case.config, case.config["bert"]
    published = {
        **sizes["llm"],
        "model_type": "llava",
        "bert_type": sizes["bert_type"],
        "num_query": sizes["num_query"],
        "mm_projector_type": sizes["mm_projector_type"],
        "mm_vision_select_feature": sizes["mm_vision_select_feature"],
        "compress_type": "mean",
        "llamavid_tower": {
            "num_attention_heads": sizes["vit_heads"],
            "image_size": sizes["image_size"],
            "num_hidden_layers": sizes["vit_depth"],
        },
        "llamavid_qformer": {key: bert[key] for key in ("num_attention_heads", "layer_norm_eps")},
    }
    named = [(name.removeprefix("w."), tensor) for name, tensor in case.tensors.items()]
    return official.read(published, named, case.name)


def build_model(folder: Path, name: str, **overrides: Any) -> LlamaVidForConditionalGeneration:
    """A tiny model in float32, in evaluation mode; ``overrides`` are fields of our configuration."""
    config, state = read_model(folder, name)
    fields = {**config.to_dict(), **overrides}
    model = LlamaVidForConditionalGeneration(LlamaVidConfig.from_dict(fields))
    model.load_state_dict(state)
    return model.eval()


def read_guide_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The small WordPiece tokenizer of the folder."""
    return guide_tokenizer((folder / "bert_vocab.txt").read_text(encoding="utf-8").splitlines())


def _weights(check: Comparison, case: Case) -> None:
    """The checkpoint is read whole, with the sizes that the folder states, and written back as it was."""
    config, state = read_model(case.folder, case.name.removeprefix("model_").removesuffix("_weights"))
    sizes, bert = case.config, case.config["bert"]
    vision, qformer = config.vision_config, config.qformer_config
    check.exact("tower", [vision.hidden_size, vision.patch_size], [sizes["mm_hidden_size"], sizes["patch_size"]])
    check.exact("tower mlp", vision.intermediate_size, int(sizes["mm_hidden_size"] * sizes["vit_mlp_ratio"]))
    check.exact("tower eps", vision.layer_norm_eps, sizes["vit_ln_eps"])
    for ours in ("hidden_size", "num_hidden_layers", "intermediate_size", "max_position_embeddings", "hidden_act"):
        check.exact(ours, getattr(qformer, ours), bert[ours])
    check.exact("cross attention", qformer.cross_attention_frequency, bert["cross_attention_freq"])
    check.exact("Q-Former image width", qformer.encoder_hidden_size, sizes["qformer_width"])
    written = official.published_state(state)
    for name, reference in case.tensors.items():
        if not name.endswith(("inv_freq", "position_ids")):
            check.exact(name, written.pop(name.removeprefix("w."), None), reference)
    check.exact("surplus names", sorted(written), [])


def _vit(check: Comparison, case: Case) -> None:
    model = build_model(case.folder, case.config["model"])
    check.floats("features", model.model.tower(case.tensors["in.pixels"]), case.tensors["out.features"])


def _qformer(check: Comparison, case: Case) -> None:
    qformer, given = build_model(case.folder, case.config["model"]).model.qformer, case.tensors
    image, ids, mask = given["in.image_features"], given["in.input_ids"], given["in.text_mask"]
    states = list(qformer.states(image, ids, mask))
    for i, reference in enumerate(case.numbered("mid.hidden")):
        check.floats(f"hidden {i}", states[i], reference)
    check.floats("last hidden", states[-1], given["out.last_hidden"])
    check.floats("query only", qformer(image, ids[:, :0], mask[:, :0]), given["out.query_only"])


def _token_generation(check: Comparison, case: Case) -> None:
    for kind in case.config["compress"]:
        tokens = build_model(case.folder, case.config["model"], compress_type=kind).model.frame_tokens
        visual = case.tensors["in.vis_embed"]
        context = tokens.attend(case.tensors["in.text_q"], visual)
        mine = torch.cat([context[:, None], tokens.content(visual)], dim=1)
        for suffix in ("", ".long"):
            check.floats(kind + suffix, mine, case.tensors[f"out.{kind.replace(':', '')}{suffix}"])


def _encode(check: Comparison, case: Case) -> None:
    settings = case.config
    kind = settings["compress_type"] or "none"
    model = build_model(case.folder, settings["model"], compress_type=kind)
    images = case.tensors["in.images"]
    counts = torch.tensor(settings["image_counts"] or [1] * len(images))
    media = Media(counts, **({"features": images} if settings["long_video"] else {"pixel_values": images}))
    encoded = model.model.encode(media)
    views = make_views(case.folder, model.config, settings["prompts"])
    visual = model.model.compress(encoded, views)
    per_view = visual.embeds_LC.split(visual.counts_S.tolist())
    place = 0
    for sample, prompts in enumerate(settings["prompts"]):
        mine = torch.stack(per_view[place : place + len(prompts)])
        check.floats(f"tokens {sample}", mine, case.tensors[f"out.tokens{sample}"])
        place += len(prompts)
    _compare_calls(check, case, model, encoded.features, counts, _calls(case))


def _calls(case: Case) -> list[tuple[Tensor, Tensor]]:
    calls: list[tuple[Tensor, Tensor]] = []
    while f"mid.call{len(calls)}.input_ids" in case.tensors:
        name = f"mid.call{len(calls)}"
        calls.append((case.tensors[f"{name}.input_ids"], case.tensors[f"{name}.attention_mask"]))
    return calls


def _compare_calls(
    check: Comparison,
    case: Case,
    model: LlamaVidForConditionalGeneration,
    features: Tensor,
    counts: Tensor,
    calls: list[tuple[Tensor, Tensor]],
) -> None:
    """What the Q-Former is given and gives, sample by sample, rows prompt by prompt; long videos in blocks of rows."""
    seen, visual = split_tokens(features, model.config.grid, model.config.rules, stored=case.config["long_video"])
    number = 0
    for sample, prompts in enumerate(case.config["prompts"]):
        views = make_views(case.folder, model.config, [prompts])
        start, count = int(ragged.starts(counts)[sample]), int(counts[sample])
        ids, mask = (part.repeat_interleave(count, dim=0) for part in (views.guide_ids, views.guide_mask))
        frames = (torch.arange(count) + start).repeat(len(prompts))
        block = PAIRS_PER_CALL if case.config["long_video"] else len(ids)
        for part, mask_part in zip(ids.split(block), mask.split(block), strict=True):
            given_ids, given_mask = calls[number]
            queries = torch.ones(len(mask_part), model.config.num_queries, dtype=torch.bool)
            check.exact(f"call {number} ids", part, given_ids)
            check.exact(f"call {number} mask", torch.cat([queries, mask_part], dim=1).long(), given_mask)
            number += 1
        image = seen[frames]
        if model.model.image_proj is not None:
            image = model.model.image_proj(image)
        if model.model.image_norm is not None:
            image = model.model.image_norm(image)
        text = model.model.frame_tokens.text_proj(model.model.qformer(image, ids, mask))
        check.floats(f"text {sample}", text, case.tensors[f"mid.text_q{sample}"])
    check.exact("calls", number, case.config["qformer_calls"])
    check.exact("visual tokens pooled", pool(visual, "mean", model.config.rules).shape[1], 1)


def make_views(folder: Path, config: LlamaVidConfig, prompts: list[list[str]]) -> Views:
    """Views of one medium per row, one for each of its prompts."""
    ids, mask = tokenize_guides(
        [text for row in prompts for text in row], read_guide_tokenizer(folder), config.guide_length
    )
    return Views(ids, mask, torch.tensor([row for row, texts in enumerate(prompts) for _ in texts]))


def _positions(check: Comparison, case: Case) -> None:
    mine = resize_position_table(case.tensors["in.pos_embed"], case.config["new_grid"])
    check.floats("positions", mine, case.tensors["out.pos_embed"])


def _inputs(case: Case, model: LlamaVidForConditionalGeneration) -> dict[str, Any]:
    """Model inputs of an end-to-end case; lists and one tensor of pictures are the same media."""
    images = case.numbered("in.images") or list(case.tensors["in.images"])
    long_video = case.config["long_video"]
    frames = [one if one.dim() == (3 if long_video else 4) else one[None] for one in images]
    views = make_views(case.folder, model.config, case.config["prompts"])
    return {
        "input_ids": case.tensors["in.input_ids"],
        "attention_mask": case.tensors.get("in.attention_mask"),
        "labels": case.tensors.get("in.labels"),
        "frame_counts": torch.tensor([len(one) for one in frames]),
        "features" if long_video else "pixel_values": torch.cat(frames),
        "guide_ids": views.guide_ids,
        "guide_mask": views.guide_mask,
        "view_media": views.media,
        "token_slots": long_video,
    }


def _overrides(case: Case) -> dict[str, Any]:
    return {key: value or "none" for key, value in case.config["overrides"].items()}


def _end_to_end(check: Comparison, case: Case) -> None:
    model = build_model(case.folder, case.config["model"], **_overrides(case))
    inputs = _inputs(case, model)
    media = Media(**{key: inputs[key] for key in Media.__dataclass_fields__ if key in inputs})
    views = Views(inputs["guide_ids"], inputs["guide_mask"], inputs["view_media"])
    sight = model.model.see(
        inputs["input_ids"],
        media,
        views,
        inputs["attention_mask"],
        inputs["labels"],
        token_slots=inputs["token_slots"],
    )
    output = model(**inputs)
    merged = sight.merged
    check.exact("length", merged.inputs_embeds.shape[1], case.config["seq_len"])
    check.floats("inputs_embeds", merged.inputs_embeds, case.tensors["out.inputs_embeds"])
    for name, mine in (("attention_mask", merged.attention_mask), ("labels", merged.labels)):
        reference = case.tensors.get(f"out.{name}")
        if reference is None or mine is None:
            check.exact(f"{name} given", mine is not None, reference is not None)
        else:
            check.exact(name, mine.long(), reference.long())
    tail = case.tensors["out.logits_tail"]
    check.floats("logits", output.logits[:, -tail.shape[1] :], tail, relative=LOGITS_LIMIT)
    if "out.loss" in case.tensors:
        check.floats("loss", output.loss, case.tensors["out.loss"], relative=LOSS_LIMIT)


def _generate(check: Comparison, case: Case) -> None:
    for name, other in case.config["cases"].items():
        shown = _find(case.folder, other)
        model = build_model(case.folder, case.config["model"], **_overrides(shown))
        inputs = _inputs(shown, model)
        del inputs["labels"]
        prompt, reference = inputs["input_ids"], case.tensors[f"out.{name}"]
        count = reference.shape[1] - prompt.shape[1]
        new = model.generate(**inputs, max_new_tokens=count, do_sample=False, pad_token_id=0)
        check.exact(name, torch.cat([prompt, new], dim=1), reference)


def _gradients(check: Comparison, case: Case) -> None:
    shown = _find(case.folder, case.config["case"])
    model = build_model(case.folder, case.config["model"], **_overrides(shown))
    loss = model(**_inputs(shown, model)).loss
    loss.backward()
    check.floats("loss", loss.detach(), case.config["loss"], relative=LOSS_LIMIT)
    gradients = {official.published_name(name): p.grad for name, p in model.named_parameters() if p.requires_grad}
    for name, reference in case.tensors.items():
        mine = gradients.get(name.replace("out.grad.", "model."))
        check.exact(f"{name} given", mine is not None, True)
        if mine is not None:
            check.floats(name, mine, reference, relative=GRADIENT_LIMIT)
    check.exact("tower frozen", any(p.requires_grad for p in model.model.tower.parameters()), False)


def _scaled(check: Comparison, case: Case) -> None:
    config, _ = read_model(case.folder, case.config["model"])
    scaling = case.config["rope_scaling"]
    rope = {**config.text_config.rope_parameters, "rope_type": scaling["type"], "factor": scaling["factor"]}
    text = {**config.text_config.to_dict(), "rope_parameters": rope}
    model = build_model(case.folder, case.config["model"], text_config=text)
    shown = _find(case.folder, case.config["case"])
    logits, text_logits = model(**_inputs(shown, model)).logits, model(case.tensors["in.text_ids"]).logits
    for name, mine in (("logits_tail", logits), ("text_logits", text_logits)):
        reference = case.tensors[f"out.{name}"]
        check.floats(name, mine[:, -reference.shape[1] :], reference, relative=LOGITS_LIMIT)


_CHECKS: dict[str, Callable[[Comparison, Case], None]] = {
    "model_weights": _weights,
    "eva_vit": _vit,
    "qformer": _qformer,
    "token_generation": _token_generation,
    "encode_images": _encode,
    "pos_embed_interp": _positions,
    "e2e": _end_to_end,
    "e2e_generate": _generate,
    "e2e_grads": _gradients,
    "rope_scaled": _scaled,
}
