"""Golden checks of whole LongVU models: ``e2e/``, ``pipeline/`` and the losses of ``train/``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer

from longvu_model import assembly, checkpoint_names, frame_selection, geometry
from longvu_model.compression import frames_of, resize_cells
from longvu_model.config import LongVUConfig
from longvu_model.image_processing import preprocess_frames
from longvu_model.modeling import LongVUForConditionalGeneration
from longvu_model.prompts import drop_doubled_bos, render_prompt, tokenize_with_slots
from longvu_model.regimes import REGIME_NAMES
from longvu_model.sight import Media, Sight
from longvu_model.tower_pixels import IMAGENET_MEAN, IMAGENET_STD, SIGLIP_MEAN, SIGLIP_STD
from tests.golden.longvu_models import Case, build_model, read_case
from tests.golden.result import Comparison, Result
from tests.golden.text_checks import collate_batch

EMBEDS_LIMIT = 3e-5
LOGITS_LIMIT = 5e-4
LOSS_LIMIT = 2e-5
GRADIENT_LIMIT = 1e-4

_MODES = {
    "image": "mixed",
    "high resolution only": "full",
    "mixed": "mixed",
    "low-budget (full resolution tokens)": "low",
}


def check_e2e(folder: Path) -> Iterator[Result]:
    """Pixels and ids to embeddings, logits, loss, gradients and greedy ids."""
    for path in sorted((folder / "e2e").glob("*.json")):
        case = Comparison(f"e2e/{path.stem}")
        with case.running():
            _end_to_end(case, folder, read_case(path))
        yield case.result()


def check_pipeline(folder: Path) -> Iterator[Result]:
    """Raw frames and a question to an answer, preprocessing and tokenisation included."""
    for path in sorted((folder / "pipeline").glob("*.json")):
        case = Comparison(f"pipeline/{path.stem}")
        with case.running():
            _pipeline(case, folder, read_case(path))
        yield case.result()


def check_train(folder: Path) -> Iterator[Result]:
    """Losses, decisions and gradients of the training batches, collated from the raw files."""
    for path in sorted((folder / "train").glob("*.json")):
        settings = json.loads(path.read_text())
        model = build_model(folder, settings["model"], _train_overrides(settings))
        for name, batch in settings["batches"].items():
            case = Comparison(f"train/{path.stem}/{name}/loss")
            with case.running():
                tensors = load_file(folder / "train" / path.stem / f"{name}.safetensors")
                _train_batch(case, model, collate_batch(folder, settings, batch["items"]), batch, tensors)
            yield case.result()


def _end_to_end(case: Comparison, folder: Path, stored: Case) -> None:
    meta, tensors = stored.meta, stored.tensors
    model = build_model(folder, meta["model"], meta["config_overrides"])
    media = _media(meta, tensors["images_siglip_i8"].float() / 32, tensors["images_dino_i8"].float() / 32)
    ids, mask, labels = tensors["input_ids"], tensors.get("attention_mask"), tensors.get("labels")

    with torch.set_grad_enabled("grad_norms" in meta):
        sight = model.model.see(ids, media, mask, tensors.get("position_ids"), labels)
    _compare_merged(case, stored, sight)
    _compare_trace(case, meta, ids, mask, model.config, sight)
    _compare_decisions(case, stored, model, media, sight)
    with torch.no_grad():
        _compare_internals(case, stored, model, media, sight)

    with torch.set_grad_enabled("grad_norms" in meta):
        output = _language_model(model, sight)
    _compare_logits(case, stored, output.logits, _real_positions(model, ids, mask, sight))
    if "loss" in meta:
        case.floats("loss", output.loss.detach(), meta["loss"], absolute=LOSS_LIMIT)
    if "grad_norms" in meta:
        output.loss.backward()
        _compare_gradients(case, model, meta["grad_norms"])
    if "generated_ids" in tensors:
        given = {name: value for name, value in vars(media).items() if value is not None}
        generated = _greedy(model, tensors["generated_ids"].shape[1], ids, attention_mask=mask, **given)
        case.exact("generated_ids", generated, tensors["generated_ids"])


def _media(meta: dict[str, Any], pixels_siglip: Tensor, pixels_dino: Tensor) -> Media:
    """Pairs of videos are stored as the (height, width) they are; those of images as (width, height)."""
    video = meta["kind"] == "video"
    sizes = torch.tensor(meta["image_sizes"])
    counts = torch.tensor(meta["frames_per_sample"] or [1] * len(sizes))
    return Media(
        counts, sizes if video else sizes.flip(1), torch.full((len(counts),), video), pixels_siglip, pixels_dino
    )


def _language_model(model: LongVUForConditionalGeneration, sight: Sight) -> Any:
    merged = sight.merged
    return model(
        inputs_embeds=merged.inputs_embeds,
        attention_mask=merged.attention_mask,
        position_ids=merged.position_ids,
        labels=merged.labels,
    )


def _greedy(model: LongVUForConditionalGeneration, count: int, ids: Tensor, **inputs: Any) -> Tensor:
    return model.generate(
        ids, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0, eos_token_id=None, **inputs
    )


def _compare_merged(case: Comparison, stored: Case, sight: Sight) -> None:
    merged, tensors = sight.merged, stored.tensors
    embeds = merged.inputs_embeds.detach()
    if "inputs_embeds" in tensors:
        sampled = stored.sampled("inputs_embeds", embeds)
        case.floats("inputs_embeds", sampled, tensors["inputs_embeds"], absolute=EMBEDS_LIMIT)
    _compare_checksum(case, stored, "inputs_embeds", embeds)
    for name, mine in (
        ("attention_mask_out", merged.attention_mask),
        ("position_ids_out", merged.position_ids),
        ("labels_out", merged.labels),
    ):
        reference = tensors.get(name)
        if reference is None or mine is None:
            case.exact(f"{name} given", mine is not None, reference is not None)
        else:
            case.exact(name, mine, reference)


def _compare_trace(
    case: Comparison, meta: dict[str, Any], ids: Tensor, mask: Tensor | None, config: LongVUConfig, sight: Sight
) -> None:
    trace, media = meta["trace"], sight.media
    layout = assembly.read_text(config, ids, mask)
    case.exact("n_text", layout.num_text_B.tolist(), trace["n_text"])
    case.exact("mode", REGIME_NAMES[int(media.regime.kind_V[0])], _MODES[trace["mode_first_sample"]])
    if trace["selected_counts"] is not None:
        case.exact("selected counts", media.kept_counts_V.tolist(), trace["selected_counts"])
    shape = media.shape.full_rectangles_V4
    sizes = torch.stack([shape[:, 1] - shape[:, 0], shape[:, 3] - shape[:, 2]], dim=1).tolist()
    case.exact("final size", sorted({tuple(size) for size in sizes}), sorted(map(tuple, trace["final_size"])))
    lengths = _row_lengths(config, layout, sight)
    case.exact("sequence lengths", lengths, trace["sequence_lengths"])


def _row_lengths(config: LongVUConfig, layout: assembly.TextLayout, sight: Sight) -> list[int]:
    _, slot_V = assembly.rows_of_media(layout, len(sight.visual.counts_V), config.rules)
    lengths = layout.num_text_B.clone()
    used = slot_V >= 0
    lengths.index_add_(0, sight.media.shape.row_V[used], sight.visual.counts_V[used])
    limit = config.max_sequence_length
    return (lengths if limit is None else lengths.clamp(max=limit)).tolist()


def _compare_decisions(
    case: Comparison, stored: Case, model: LongVUForConditionalGeneration, media: Media, sight: Sight
) -> None:
    """Kept frames, upgraded frames, and the similarities and scores behind them."""
    tensors, encoded, visual = stored.tensors, sight.media, sight.visual
    medium_F = frames_of(encoded.kept_counts_V)
    if "dino_window_similarity" in tensors:
        with torch.no_grad():
            features = model.model.towers.dino(media.pixel_values_dino)
        similarity = frame_selection.window_similarity(features, media.frame_counts)
        case.floats("dino_window_similarity", similarity, tensors["dino_window_similarity"])
    for index in range(len(media.frame_counts)):
        name = f"selected_frames_{index}"
        if name in tensors:
            case.exact(name, encoded.times_F[medium_F == index], tensors[name])
    mixed = (encoded.regime.num_upgraded_V > 0).nonzero()[:, 0].tolist()
    names = sorted(name for name in tensors if name.startswith("highres_frames_"))
    case.exact("media that mix", len(mixed), len(names))
    for order, index in enumerate(mixed[: len(names)]):
        here = medium_F == index
        assert visual.scores_F is not None
        upgraded = visual.upgraded_F[here].nonzero()[:, 0]
        case.exact(f"highres_frames_{order}", upgraded, tensors[f"highres_frames_{order}"])
        reference = tensors[f"query_frame_similarity_{order}"]
        case.floats(f"query_frame_similarity_{order}", visual.scores_F[here].detach(), reference)
    if "stc_similarity" in tensors:
        case.exact("drops", visual.drop_similarity is not None, True)
        if visual.drop_similarity is not None:
            mine = visual.drop_similarity.detach()[None]
            case.floats("stc_similarity", stored.sampled("stc_similarity", mine), tensors["stc_similarity"])
            _compare_checksum(case, stored, "stc_similarity", mine)


def _compare_internals(
    case: Comparison, stored: Case, model: LongVUForConditionalGeneration, media: Media, sight: Sight
) -> None:
    """Features, projections and every aggregated cell, cropped ones included."""
    if not any(name.startswith(("aux_proj", "sva_", "mm_projector", "siglip_features")) for name in stored.tensors):
        return
    config, core, kept = model.config, model.model, sight.media.kept_frames_F
    dino = core.towers.dino(media.pixel_values_dino)
    siglip = core.towers.siglip(media.pixel_values_siglip[kept])
    full = {
        "dino_features_all": dino,
        "dino_features": dino,
        "siglip_features": siglip,
        "aux_proj_siglip": core.aggregator.projectors[0](siglip),
        "aux_proj_dino": core.aggregator.projectors[1](dino[kept]),
    }
    medium_F = frames_of(sight.media.kept_counts_V)
    cells, masks = [], []
    for query_grid in config.query_grids:
        mask_VQR = geometry.window_masks(config.token_grid, query_grid, sight.media.shape.pairs_V2).repeat(1, 1, 2)
        masks.append(mask_VQR[medium_F])
        frame_N = torch.arange(len(kept)).repeat_interleave(query_grid**2)
        window_NR = geometry.window_tokens(config.token_grid, query_grid).repeat(len(kept), 1)
        cells.append((frame_N, window_NR, masks[-1].flatten(0, 1)))
    groups = core.aggregator(siglip, dino[kept], cells)
    for index, (group, query_grid) in enumerate(zip(groups, config.query_grids, strict=True)):
        full[f"sva_out_group{index}"] = group.view(len(kept), query_grid**2, -1)
    full["mm_projector_high"] = _projected(model, groups, len(kept), config.full_grid)
    full["mm_projector_low"] = _projected(model, groups, len(kept), config.low_grid)
    for name, mine in full.items():
        if name in stored.tensors:
            case.floats(name, stored.sampled(name, mine), stored.tensors[name])
            _compare_checksum(case, stored, name, mine)
    for index, mask_FQR in enumerate(masks):
        reference = stored.tensors.get(f"sva_mask_group{index}")
        if reference is not None:
            case.exact(f"sva_mask_group{index}", mask_FQR, reference.expand_as(mask_FQR))


def _projected(model: LongVUForConditionalGeneration, groups: list[Tensor], num_frames: int, grid: int) -> Tensor:
    frame = torch.arange(num_frames).repeat_interleave(grid * grid)
    cell = torch.arange(grid * grid).repeat(num_frames)
    resized = []
    for group, side in zip(groups, model.config.query_grids, strict=True):
        slots = torch.arange(num_frames * side * side).view(num_frames, side * side)
        resized.append(resize_cells(group, slots, frame, cell, side, grid))
    return model.model.frame_tokens.projector(torch.cat(resized, dim=1)).view(num_frames, grid * grid, -1)


def _real_positions(model: LongVUForConditionalGeneration, ids: Tensor, mask: Tensor | None, sight: Sight) -> Tensor:
    """bool (B, S): positions of the merged batch that are not padding, also where no mask is returned."""
    layout = assembly.read_text(model.config, ids, mask)
    lengths = torch.tensor(_row_lengths(model.config, layout, sight))[:, None]
    place = torch.arange(sight.merged.inputs_embeds.shape[1])
    if model.config.padding_side == "left":
        return place >= len(place) - lengths
    return place < lengths


def _compare_logits(case: Comparison, stored: Case, logits: Tensor, real_BS: Tensor) -> None:
    logits, tensors = logits.detach(), stored.tensors
    if "logits" in tensors:
        kept = stored.sampled("logits", real_BS[..., None].expand_as(logits))
        mine, reference = stored.sampled("logits", logits), tensors["logits"]
        case.exact("logits shape", mine.shape, reference.shape)
        if mine.shape == reference.shape:
            case.floats("logits", mine[kept], reference[kept], absolute=LOGITS_LIMIT)
    if "logits_last_valid" in tensors:
        # without a mask the release takes padding for real, and so does the stored row
        real_BS = real_BS if "attention_mask_out" in tensors else torch.ones_like(real_BS)
        last = torch.where(real_BS, torch.arange(real_BS.shape[1]), -1).amax(dim=1)
        mine = logits[torch.arange(len(last)), last]
        case.floats("logits_last_valid", mine, tensors["logits_last_valid"], absolute=LOGITS_LIMIT)


def _compare_checksum(case: Comparison, stored: Case, name: str, mine: Tensor) -> None:
    reference = stored.meta.get("checksums", {}).get(name)
    if reference is None:
        return
    case.exact(f"{name} shape", list(mine.shape), reference["shape"])
    case.floats(f"{name} sum of magnitudes", mine.double().abs().sum(), reference["abs_sum"])
    limit = 1e-5 * max(1.0, reference["abs_sum"])
    case.floats(f"{name} sum", mine.double().sum(), reference["sum"], absolute=limit)


def _compare_gradients(case: Comparison, model: LongVUForConditionalGeneration, reference: dict[str, float]) -> None:
    parameters = dict(model.named_parameters())
    for published, norm in reference.items():
        ours = checkpoint_names.rename(published, checkpoint_names.MODEL_NAMES)
        if ours == "lm_head.weight" and ours not in parameters:
            ours = "model.language_model.embed_tokens.weight"
        gradient = None if ours is None else parameters[ours].grad
        if gradient is None:
            case.failures.append(f"{published}: no gradient")
        else:
            case.floats(f"gradient of {published}", gradient.norm(), norm, relative=GRADIENT_LIMIT)


def _pipeline(case: Comparison, folder: Path, stored: Case) -> None:
    meta, tensors = stored.meta, stored.tensors
    model = build_model(folder, meta["model"], meta["config_overrides"])
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizers" / meta["tokenizer"])
    frames, config = tensors["frames"].numpy(), model.config
    siglip = preprocess_frames(frames, config.siglip_config.image_size, SIGLIP_MEAN, SIGLIP_STD)
    dino = preprocess_frames(frames, config.dino_image_size, IMAGENET_MEAN, IMAGENET_STD)
    for name, pixels in (("siglip", siglip), ("dino", dino)):
        reference = tensors[f"pixel_values_{name}_first3"]
        case.floats(f"pixels {name}", pixels[: len(reference)], reference, relative=1e-6)

    prompt = render_prompt([f"<image>\n{meta['question']}", None], meta["template"], tokenizer)
    ids = torch.tensor([drop_doubled_bos(tokenize_with_slots(prompt, tokenizer), tokenizer)])
    case.exact("input_ids", ids, tensors["input_ids"])
    media = Media(torch.tensor([len(frames)]), torch.tensor(meta["image_sizes"]), torch.tensor([True]), siglip, dino)
    with torch.no_grad():
        sight = model.model.see(ids, media)
        logits = _language_model(model, sight).logits[:, -1]
    case.exact("selected_frames", sight.media.times_F, tensors["selected_frames"])
    case.exact("selected", len(sight.media.times_F), meta["selected"])
    upgraded = sight.visual.upgraded_F.nonzero()[:, 0].tolist()
    case.exact("highres_frames", [upgraded] if upgraded else [], meta["highres_frames"])
    case.floats("inputs_embeds", sight.merged.inputs_embeds, tensors["inputs_embeds"], absolute=EMBEDS_LIMIT)
    case.floats("first_step_logits", logits, tensors["first_step_logits"], absolute=LOGITS_LIMIT)
    given = {name: value for name, value in vars(media).items() if value is not None}
    generated = _greedy(model, meta["max_new_tokens"], ids, **given)
    case.exact("generated_ids", generated, tensors["generated_ids"])
    case.exact("text", tokenizer.decode(generated[0], skip_special_tokens=True).strip(), meta["text"])


def _train_overrides(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a training run that the README gives beside its model's configuration."""
    return {"frame_pos": False, "tokenizer_model_max_length": settings["model_max_length"]}


def _train_batch(
    case: Comparison,
    model: LongVUForConditionalGeneration,
    inputs: dict[str, Tensor],
    batch: dict[str, Any],
    tensors: dict[str, Tensor],
) -> None:
    media = Media(**{key: inputs[key] for key in Media.__dataclass_fields__ if key in inputs})
    model.zero_grad()
    sight = model.model.see(
        inputs["input_ids"], media, inputs["attention_mask"], inputs["position_ids"], inputs["labels"]
    )
    _compare_merged(case, Case(case.name, {}, tensors), sight)
    if batch["selected_counts"] is not None:
        case.exact("selected counts", sight.media.kept_counts_V.tolist(), batch["selected_counts"])
    case.exact("visual tokens", sight.visual.counts_V.tolist(), batch["visual_tokens"])
    mixed = (sight.media.regime.num_upgraded_V > 0).nonzero()[:, 0].tolist()
    medium_F = frames_of(sight.media.kept_counts_V)
    upgraded = [sight.visual.upgraded_F[medium_F == index].nonzero()[:, 0].tolist() for index in mixed]
    expected = [frames for frames in batch["highres_frames"] if frames]
    case.exact("highres_frames", upgraded, expected)
    loss = _language_model(model, sight).loss
    case.floats("loss", loss.detach(), batch["loss"], absolute=LOSS_LIMIT)
    if "grad_norms" in batch:
        loss.backward()
        _compare_gradients(case, model, batch["grad_norms"])
