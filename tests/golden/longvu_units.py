"""Golden checks of single LongVU functions (``units/``) and of parameter names (``names/``)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Dinov2Config, Qwen2Config, SiglipVisionConfig

from longvu_model import assembly, compression, frame_selection, geometry, official, regimes, towers
from longvu_model import checkpoint_names as names
from longvu_model.aggregator import AggregatorLayer
from longvu_model.config import LongVUConfig
from longvu_model.modeling import LongVUForConditionalGeneration
from longvu_model.presets import PRESETS
from longvu_model.semantics import PUBLISHED
from longvu_model.video import sampling
from tests.golden.longvu_models import published_config
from tests.golden.result import Comparison, Result


def check_units(folder: Path) -> Iterator[Result]:
    """Everything below ``units/``."""
    yield from _geometry(_json(folder / "units/geometry.json"))
    yield from _windows(folder / "units/windows")
    yield from _frame_position(load_file(folder / "units/frame_pos.safetensors"))
    yield from _select_frames(folder / "units/select_frames")
    yield from _sampler(folder / "units/sampler")
    yield from _towers(folder / "units/towers")
    yield from _frame_sampling(_json(folder / "units/frame_sampling.json"))


def check_names(folder: Path) -> Iterator[Result]:
    """Parameter names and shapes of the tiny and the full-size models."""
    counts = _json(folder / "names/counts.json")
    for path in sorted((folder / "names").glob("tiny_*.json")):
        _, config = published_config(folder, path.stem.removeprefix("tiny_"), {})
        yield _names(path.stem, config, _json(path), counts)
    full = {"siglip": "full_siglip_so400m_patch14_384", "dino": "full_dinov2_giant"}
    towers_reference = {part: _json(folder / f"names/{stem}.json") for part, stem in full.items()}
    published_size = PRESETS["longvu_qwen2_7b"]()
    for path in sorted((folder / "names").glob("config_*.json")):
        stem = path.stem.replace("config_", "full_")
        published = _json(path)
        config = official.config_from_published(published, published_size.siglip_config, published_size.dino_config)
        yield _names(stem, config, {"model": _json(folder / f"names/{stem}.json"), **towers_reference}, counts)


def _names(stem: str, config: LongVUConfig, reference: dict[str, Any], counts: dict[str, Any]) -> Result:
    case = Comparison(f"names/{stem}")
    with torch.device("meta"):
        state = LongVUForConditionalGeneration(config).state_dict()
    for part, prefix, pairs, unused in (
        ("model", "", names.MODEL_NAMES, names.MODEL_UNUSED),
        ("siglip", "model.towers.siglip.", names.SIGLIP_NAMES, names.SIGLIP_UNUSED),
        ("dino", "model.towers.dino.", names.DINO_NAMES, names.DINO_UNUSED),
    ):
        mine = {
            names.rename(name.removeprefix(prefix), pairs, to_published=True): list(tensor.shape)
            for name, tensor in state.items()
            if name.startswith(prefix) and (prefix or not name.startswith("model.towers."))
        }
        expected = _shapes(reference[part])
        known = {
            name: shape
            for name, shape in expected.items()
            if not any(re.fullmatch(pattern, name) for pattern in unused)
        }
        case.exact(f"{part} names", sorted(mine, key=str), sorted(known))
        case.exact(f"{part} shapes", [mine.get(name) for name in known], list(known.values()))
    language_side = {name: tensor for name, tensor in state.items() if not name.startswith("model.towers.")}
    case.exact("keys", len(language_side), counts[stem]["keys"])
    if config.tie_word_embeddings:
        language_side.pop("lm_head.weight")  # one tensor under two names
    case.exact("parameters", sum(tensor.numel() for tensor in language_side.values()), counts[stem]["parameters"])
    return case.result()


def _shapes(listed: dict[str, Any]) -> dict[str, list[int]]:
    return next(iter(listed.values())) if all(isinstance(value, dict) for value in listed.values()) else listed


def _geometry(cases: dict[str, Any]) -> Iterator[Result]:
    for entry in cases["unpad_and_mask"]:
        case = Comparison(f"units/geometry/{entry['grid']}/{entry['size'][0]}x{entry['size'][1]}")
        rectangle = geometry.content_rectangles(entry["grid"], _pair(entry["size"]))[0].tolist()
        mine = None if rectangle[0] >= rectangle[1] or rectangle[2] >= rectangle[3] else rectangle
        case.exact("crop", mine, entry["keep"])
        case.exact("mask", mine, entry["mask"])
        yield case.result()
    for entry in cases["tokens_per_frame"]:
        full, low, pair = entry["query_side"], entry["lowres_token"], _pair(entry["size"])
        case = Comparison(f"units/geometry/tokens/{full}:{low}/{entry['size'][0]}x{entry['size'][1]}")
        case.exact("full", _token_counts(full, pair), entry["high"])
        try:
            mine: Any = _token_counts(low, geometry.low_pairs(pair, full, low, PUBLISHED))
        except ValueError:
            mine = "error"
        case.exact("low", mine, entry["low"])
        yield case.result()


def _token_counts(side: int, pair: Tensor) -> list[int]:
    row0, row1, column0, column1 = geometry.crop_rectangles(side, pair, PUBLISHED)[0].tolist()
    rows, columns = row1 - row0, column1 - column0
    return [rows, columns, rows * (columns + 1)]


def _windows(stem: Path) -> Iterator[Result]:
    tensors = load_file(stem.with_suffix(".safetensors"))
    for entry in _json(stem.with_suffix(".json")):
        index, side, query_side = entry["index"], entry["side"], entry["query_side"]
        case = Comparison(f"units/windows/{index}")
        windows = tensors[f"x_{index}"][0][geometry.window_tokens(side, query_side)]
        case.exact("windows", windows, tensors[f"windows_{index}"])
        mask = geometry.window_masks(side, query_side, _pair(entry["size"]))[0]
        case.exact("mask", mask, tensors[f"mask_{index}"])
        yield case.result()


def _frame_position(tensors: dict[str, Tensor]) -> Iterator[Result]:
    for key in sorted(name for name in tensors if name.startswith("times_")):
        index = key.removeprefix("times_")
        case = Comparison(f"units/frame_pos/{index}")
        reference = tensors[f"pos_{index}"]
        mine = compression.frame_position(tensors[key], reference.shape[2], PUBLISHED)
        case.floats("position", mine[:, None], reference)
        yield case.result()


def _select_frames(stem: Path) -> Iterator[Result]:
    tensors, cases = load_file(stem.with_suffix(".safetensors")), _json(stem.with_suffix(".json"))
    for entry in cases["cases"]:
        index = entry["index"]
        case = Comparison(f"units/select_frames/{index}")
        similarity = frame_selection.window_similarity(tensors[f"features_{index}"])
        kept = frame_selection.keep_frames(similarity, entry["threshold"]).nonzero()[:, 0]
        case.floats("similarity", similarity, tensors[f"similarity_{index}"])
        case.exact("selected", kept, tensors[f"selected_{index}"])
        yield case.result()
    for index, entry in enumerate(cases["budget_cases"]):
        case = Comparison(f"units/select_frames/budget_{index}")
        case.exact("reduced", _reduces(entry), entry["reduced"])
        yield case.result()


def _reduces(entry: dict[str, Any]) -> bool:
    llama = "llama" in entry["model_type"]
    config = LongVUConfig(
        text_config={"model_type": "llama" if llama else "qwen2"},
        full_grid=round(entry["image_token_len"] ** 0.5),
        query_grids=[1],
        low_grid=entry["lowres_token"] or 8,
        mixed_resolution=entry["highres"],
        max_sequence_length=entry["tokenizer_model_max_length"],
        answer_reserve=16 if entry["inference_max_length"] is None else entry["inference_max_length"],
        semantics="published",
    )
    ids = torch.arange(entry["n_ids"])[None]
    if entry["first_pad"] is not None:
        ids[0, entry["first_pad"] :] = entry["pad_id"]
    layout = assembly.read_text(config, ids, None)
    one = torch.tensor([0])
    shape = regimes.media_shape(
        config, one, torch.tensor([True]), torch.tensor([entry["frames"]]), torch.tensor([[40, 40]])
    )
    return bool(regimes.needs_reduction(config, shape, layout.budget_length_B))


def _sampler(stem: Path) -> Iterator[Result]:
    tensors = load_file(stem.with_suffix(".safetensors"))
    for entry in _json(stem.with_suffix(".json")):
        index = entry["index"]
        case = Comparison(f"units/sampler/{index}")
        prefix = f"{index}.weights."
        query = tensors[f"{index}.queries"][:, 0]
        kv = [tensors[f"{index}.kv_{tower}"] for tower in range(len(entry["kv_dims"]))]
        masks = [tensors[f"{index}.mask_{tower}"] for tower in range(len(entry["kv_dims"]))]
        for layer_index in range(entry["layers"]):
            layer = AggregatorLayer(
                entry["q_dim"],
                entry["context_dim"],
                entry["hidden"],
                entry["kv_dims"],
                [side**2 for side in entry["kv_sides"]],
                entry["heads"],
            )
            published = f"layers.{layer_index}."
            weights = {}
            for name, tensor in tensors.items():
                if name.startswith(prefix + published):
                    ours = names.rename("model.vision_sampler_0." + name.removeprefix(prefix), names.MODEL_NAMES)
                    assert ours is not None, name
                    weights[ours.removeprefix(f"model.aggregator.groups.0.{layer_index}.")] = tensor.float()
            layer.load_state_dict(weights)
            with torch.no_grad():
                query = layer(
                    query, tensors[f"{index}.context"][:, 0], torch.arange(len(query)), kv, torch.cat(masks, dim=1)
                )
        case.floats("out", query[:, None], tensors[f"{index}.out"])
        yield case.result()


def _towers(stem: Path) -> Iterator[Result]:
    tensors, entry = load_file(stem.with_suffix(".safetensors")), _json(stem.with_suffix(".json"))
    crop = entry["dino"].pop("crop")
    config = LongVUConfig(
        text_config=Qwen2Config(),
        siglip_config=SiglipVisionConfig(**entry["siglip"]),
        dino_config=Dinov2Config(**entry["dino"]),
        dino_image_size=crop,
        token_grid=round(entry["interpolate_to"] ** 0.5),
        query_grids=[1],
    )
    for part, build, pairs in (
        ("siglip", towers.SiglipTower, names.SIGLIP_NAMES),
        ("dino", towers.DinoTower, names.DINO_NAMES),
    ):
        case = Comparison(f"units/towers/{part}")
        tower = build(config)
        state = {
            names.rename(name.removeprefix(f"{part}.weights."), pairs): tensor.float()
            for name, tensor in tensors.items()
            if name.startswith(f"{part}.weights.")
        }
        state.pop(None, None)  # the pooling head and the mask token, which no feature depends on
        tower.load_state_dict(state)
        with torch.no_grad():
            case.floats("features", tower(tensors[f"{part}.pixels_i8"].float() / 32), tensors[f"{part}.out"])
            if part == "dino":
                table = towers.resize_position_table(tower.position, crop // entry["dino"]["patch_size"])
                case.floats("position table", table, tensors["dino.interpolated_position_table"])
        yield case.result()


def _frame_sampling(cases: dict[str, Any]) -> Iterator[Result]:
    for index, entry in enumerate(cases["video"]):
        case = Comparison(f"units/frame_sampling/video/{index}")
        for rule, reference in entry.items():
            if rule not in ("num_frames", "avg_fps"):
                choose = partial(_published_indices, rule, entry["num_frames"], entry["avg_fps"])
                _compare_indices(case, rule, choose, reference)
        yield case.result()
    for index, entry in enumerate(cases["mvbench_frame_folders_fps3"]):
        case = Comparison(f"units/frame_sampling/folder/{index}")
        start, end = entry["bound"] or (None, None)
        choose = partial(sampling.folder_frame_numbers, entry["files_in_folder"], start, end)
        _compare_indices(case, "files", choose, entry["one_based_frame_numbers"])
        yield case.result()


def _published_indices(rule: str, num_frames: int, avg_fps: float) -> list[int]:
    """Frames that a key of ``frame_sampling.json`` selects; for the 100-frame thinning, places among the sampled."""
    chosen = sampling.sample_indices(num_frames, avg_fps, _published_sampling(rule)).tolist()
    if rule != "training_uniform_sample_100":
        return chosen
    sampled = sampling.sample_indices(num_frames, avg_fps, sampling.PUBLISHED_SAMPLING["training"]).tolist()
    return [sampled.index(frame) for frame in chosen]


def _published_sampling(rule: str) -> sampling.FrameSampling:
    """The sampling rule that a key of ``frame_sampling.json`` names."""
    published = sampling.PUBLISHED_SAMPLING
    bound = re.fullmatch(r"mvbench_2fps_bound_([\d.]+)_([\d.]+)", rule)
    if bound:
        return replace(published["mvbench"], start_s=float(bound[1]), end_s=float(bound[2]))
    training = re.fullmatch(r"training_video_fps_([\d.]+)", rule)
    if training:
        return replace(published["training"], fps=float(training[1]))
    by_name = {
        "readme_and_demo_1fps": "quick_start",
        "videomme_0.5fps": "video_mme",
        "egoschema_mlvu_0.5fps_cap1000": "egoschema",
        "mvbench_2fps": "mvbench",
        "training_uniform_sample_100": "training_100",
    }
    return published[by_name[rule]]


def _compare_indices(case: Comparison, rule: str, choose: Callable[[], Any], reference: Any) -> None:
    """``reference`` lists count, ends and sum; anything else stands for an error of the published rule."""
    try:
        listed = [int(index) for index in choose()]
    except ValueError:
        listed = []
    expected = reference if isinstance(reference, dict) else {"count": 0, "first": [], "last": [], "sum": 0}
    case.exact(f"{rule} count", len(listed), expected["count"])
    case.exact(f"{rule} first", listed[: len(expected["first"])], expected["first"])
    case.exact(f"{rule} last", listed[len(listed) - len(expected["last"]) :], expected["last"])
    case.exact(f"{rule} sum", sum(listed), expected["sum"])


def _pair(size: list[int]) -> Tensor:
    return torch.tensor([size], dtype=torch.float64)


def _json(path: Path) -> Any:
    return json.loads(path.read_text())
