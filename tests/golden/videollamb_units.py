"""Golden checks of VideoLLaMB's parts: scenes, frame choice, pooling, towers, bridge, preprocessing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from longvu_model.videollamb import checkpoint_names as names
from longvu_model.videollamb.bridge import Bridge
from longvu_model.videollamb.compression import Recurrence, compress, find_scenes, pool, short_frames
from longvu_model.videollamb.frame_selection import (
    MOST_FRAMES,
    evenly_spaced,
    frames_at_rate,
    scene_frames,
    whole_windows,
)
from longvu_model.videollamb.scene_tilling import BoundaryRule, boundaries, depth_scores, similarities
from longvu_model.videollamb.tower_pixels import image_pixels, padded_square, video_pixels
from longvu_model.videollamb.towers import ImageTower, VideoTower, num_blocks
from tests.golden.result import Comparison, Result
from tests.golden.videollamb_models import (
    MEM,
    NO_RETRIEVAL,
    Case,
    bridge_config,
    clip_config,
    load_part,
    read_cases,
    tower_tensors,
)

_FLAVOURS: dict[str, tuple[int | None, bool]] = {"cap15": (15, False), "cap7": (7, False), "left": (None, True)}
_WINDOW = 8


def check_scenes(folder: Path) -> Iterator[Result]:
    """Similarities, depths and boundaries of ``scenetilling.json``."""
    tensors = load_file(folder / "scenetilling.safetensors")
    for stored in json.loads((folder / "scenetilling.json").read_text())["cases"]:
        name = stored["name"]
        case = Comparison(f"scenetilling/{name}")
        sim = similarities(tensors[f"{name}.features"])
        both, left = depth_scores(sim), depth_scores(sim, left_only=True)
        case.floats("sim", sim, tensors[f"{name}.sim"])
        case.floats("depth", both, tensors[f"{name}.depth"])
        case.floats("depth_left", left, tensors[f"{name}.depth_left"])
        yield case.result()
        for run in stored["runs"]:
            yield from _boundary_runs(f"scenetilling/{name}/k={run['k']},alpha={run['alpha']}", run, both, left)


def _boundary_runs(name: str, run: dict[str, Any], both: torch.Tensor, left: torch.Tensor) -> Iterator[Result]:
    for flavour, (cap, is_left) in _FLAVOURS.items():
        if run[f"fragile_{flavour}"]:
            yield Result(f"{name}/{flavour}", 0.0, True, "fragile: a tie or rounding decides", excluded=True)
            continue
        case = Comparison(f"{name}/{flavour}")
        depth = left if is_left else both
        rule = BoundaryRule(count=run["k"], alpha=run["alpha"], most=cap)
        case.exact("boundaries", boundaries(depth, rule, close=not is_left), run[f"boundaries_{flavour}"])
        if not is_left and run.get("mean") is not None:
            case.floats("mean", both.mean(), run["mean"])
            if len(both) > 1 and run["std"] is not None:
                case.floats("std", both.std(), run["std"])
                case.floats("threshold", both.mean() + rule.alpha * both.std(), run["threshold"])
        yield case.result()


def check_index_rules(folder: Path) -> Iterator[Result]:
    """Frames of scenes, of whole videos and of a stream so far."""
    rules = json.loads((folder / "index_rules.json").read_text())
    case = Comparison("index_rules/segment_subsample")
    for one in rules["segment_subsample"]:
        what = f"scene {one['index']}-{one['boundary']}"
        case.exact(what, scene_frames(one["index"], one["boundary"], 8), one["steps"])
    yield case.result()
    for i, one in enumerate(rules["video_decode"]):
        yield _video_decode(f"index_rules/video_decode/{i}", one)
    case = Comparison("index_rules/streaming_subsample")
    for one in rules["streaming_subsample"]:
        seen = one["num_seen"]
        count = whole_windows(seen, _WINDOW, most=None)
        case.exact(f"count of {seen}", count, one["num_select"])
        case.exact(f"frames of {seen}", evenly_spaced(seen, count), one["ids"])
    yield case.result()


def _video_decode(name: str, one: dict[str, Any]) -> Result:
    case = Comparison(name)
    total, count = one["total_frames"], one["num_frames"]
    wanted = None
    if one["fps"] is not None:
        wanted = frames_at_rate(total, one["native_fps"], one["fps"])
        case.exact("num_frames", whole_windows(wanted, _WINDOW), count)
    chosen = evenly_spaced(total, count)
    case.exact("frame_ids_head", chosen[: len(one["frame_ids_head"])], one["frame_ids_head"])
    case.exact("frame_ids_last", chosen[-1], one["frame_ids_last"])
    fork = one.get("mem_fork")
    if fork is not None and wanted is not None:
        clip = min(wanted, MOST_FRAMES)
        case.exact("clip_num", clip, fork["clip_num"])
        head = fork["clip_ids_head"]
        case.exact("clip_ids_head", evenly_spaced(total, clip)[: len(head)], head)
        case.exact("languagebind_num", whole_windows(wanted, _WINDOW, most=None, up=True), fork["languagebind_num"])
    return case.result()


def check_parts(folder: Path) -> Iterator[Result]:
    """Every part of the model by itself, in the order of ``cases.json``."""
    checks = {
        "adaptive_pool": _pooling,
        "languagebind_image_tower": _image_tower,
        "languagebind_video_tower": _video_tower,
        "bridge_step": _bridge_step,
        "retriever": _retriever,
        "bridge_base": _whole_video,
        "bridge_mem": _whole_video,
        "bridge_mem_noretrieval": _whole_video,
        "mem_frames_to_tokens": _frames_to_tokens,
        "preprocess": _preprocess,
    }
    for stored in read_cases(folder, *checks):
        case = Comparison(stored.name)
        with case.running(), torch.no_grad():
            checks[stored.meta["kind"]](case, stored)
        yield case.result()


def _pooling(case: Comparison, stored: Case) -> None:
    for name, grid in stored.part("in.").items():
        features = torch.cat([grid[:, :1], grid], dim=1)
        side = int(name.partition("to")[2])
        case.floats(name, pool(features, side)[:, 1:], stored.tensors[f"out.{name}"])


def _image_tower(case: Comparison, stored: Case) -> None:
    config, layer = clip_config(stored.config), stored.config["select_layer"]
    tower = ImageTower(config, num_blocks(config, layer))
    load_part(tower, tower_tensors(config, stored.part("w."), layer), names.TOWER_NAMES, names.TOWER_UNUSED)
    case.floats("features", tower(stored.tensors["in.pixels"])[:, None], stored.tensors["out.features"])


def _video_tower(case: Comparison, stored: Case) -> None:
    config, layer = clip_config(stored.config), stored.config["select_layer"]
    tower = VideoTower(config, num_blocks(config, layer), stored.config["temporal_window"])
    load_part(tower, tower_tensors(config, stored.part("w."), layer), names.TOWER_NAMES, names.TOWER_UNUSED)
    for name, pixels_BCTHW in stored.part("in.pixels").items():
        features = tower(pixels_BCTHW.transpose(1, 2).flatten(0, 1))
        case.floats(
            f"features{name}", features.unflatten(0, (len(pixels_BCTHW), -1)), stored.tensors[f"out.features{name}"]
        )


def _bridge_step(case: Comparison, stored: Case) -> None:
    bridge = Bridge(bridge_config(stored.config, retrieval=False))
    named = {f"projector.{name}": tensor for name, tensor in stored.part("w.").items()}
    load_part(bridge, named, names.BRIDGE_NAMES, names.BRIDGE_UNUSED)
    for kind, memory in (("none", None), ("2d", stored.tensors["in.mem2d"]), ("3d", stored.tensors["in.mem3d"])):
        new, states = bridge.step(stored.tensors["in.x"], memory)
        case.floats(f"{kind} memory", new, stored.tensors[f"out.{kind}.memory"])
        case.floats(f"{kind} hidden", states, stored.tensors[f"out.{kind}.hidden"])
        case.floats(f"{kind} projected", bridge.project(states), stored.tensors[f"out.{kind}.projected"])


def _retriever(case: Comparison, stored: Case) -> None:
    retrieval = Bridge(bridge_config(stored.config)).retrieval
    assert retrieval is not None
    pairs = [(theirs, ours.removeprefix("retrieval.")) for theirs, ours in names.BRIDGE_NAMES if "retrieval" in ours]
    named = {f"retrieval.{name}": tensor for name, tensor in stored.part("w.").items()}
    load_part(retrieval, named, pairs, names.BRIDGE_UNUSED)
    for i, query in stored.part("in.query").items():
        case.floats(
            f"retrieved{i}", retrieval(query, stored.tensors[f"in.cache{i}"]), stored.tensors[f"out.retrieved{i}"]
        )


def _bridge(stored: Case, prefix: str, **changes: Any) -> tuple[Bridge, Any]:
    config = bridge_config(stored.config, **changes)
    bridge = Bridge(config)
    unused = [*names.BRIDGE_UNUSED, *([] if config.retrieval else [r"abs_vid_pe\.weight"])]
    named = stored.part(prefix)
    if not config.retrieval:
        named.pop("abs_vid_pe.weight")
    load_part(bridge, named, names.BRIDGE_NAMES, unused)
    return bridge, config


_VARIANTS: dict[str, dict[str, Any]] = {
    "bridge_base": {},
    "bridge_mem": MEM,
    "bridge_mem_noretrieval": NO_RETRIEVAL,
}


def _whole_video(case: Comparison, stored: Case) -> None:
    bridge, config = _bridge(stored, "w.", **_VARIANTS[stored.meta["kind"]])
    features = stored.tensors["in.features"]
    batch, num_frames = features.shape[:2]
    pooled = pool(features.flatten(0, 1), config.pool_grid)
    if "mid.pooled" in stored.tensors:
        case.floats("pooled", pooled[:, 1:], stored.tensors["mid.pooled"])
    visual = compress(bridge, config, pooled, torch.tensor([num_frames] * batch))
    out = stored.tensors["out.tokens"]
    case.floats("tokens", visual.embeds_LC, out.flatten(0, 1))
    case.exact("counts", visual.counts_V.tolist(), [out[0].numel() * len(out) // batch // out.shape[-1]] * batch)
    found = visual.scenes_V[0]
    if num_frames <= short_frames(config):
        _by_frame(case, stored, bridge, pooled[:, 1:])
        return
    if stored.meta["boundaries"] is not None:
        case.exact("boundaries", [last for _, last in found], stored.meta["boundaries"])
        steps = [scene_frames(*scene, config.scene_frames) for scene in found]
        case.exact("steps", steps, stored.meta["steps"])
        counts = [len(step) * config.frame_tokens for step in steps]
        case.exact("segment_token_counts", counts, stored.meta["segment_token_counts"])
        _recurrence(case, stored, bridge, config, [pooled[step, 1:].flatten(0, 1) for step in steps])


def _by_frame(case: Comparison, stored: Case, bridge: Bridge, tokens_FPD: torch.Tensor) -> None:
    memory, states = bridge.step(tokens_FPD)
    mine = {"memory_out": memory, "hidden": states, "projected": bridge.project(states)}
    if bridge.retrieval is not None:
        mine["retrieved"] = bridge.retrieval(memory, states)
    for what, tensor in stored.part("mid.seg0.").items():
        if what in mine:
            case.floats(f"seg0.{what}", mine[what], tensor)


def _recurrence(case: Comparison, stored: Case, bridge: Bridge, config: Any, scenes_LD: list[torch.Tensor]) -> None:
    """Every scene's memory before and after, states and retrieval, as :class:`Recurrence` passes them on."""
    recurrence = Recurrence(bridge, config)
    for j, tokens in enumerate(scenes_LD):
        before = recurrence.memory
        shown = tokens if bridge.scene_numbers is None else tokens + bridge.scene_numbers[j]
        memory, states = bridge.step(shown[None], before)
        recurrence.add(tokens)
        mine = {
            "memory_in": before,
            "memory_out": memory,
            "hidden": states,
            "projected": bridge.project(states),
            "retrieved": recurrence.memory,
        }
        for what, tensor in stored.part(f"mid.seg{j}.").items():
            if what == "cache_len":
                case.exact(f"seg{j}.{what}", recurrence.num_cached, int(tensor))
            else:
                case.floats(f"seg{j}.{what}", mine[what], tensor)


def _frames_to_tokens(case: Comparison, stored: Case) -> None:
    vision, layer = clip_config(stored.config["vision"]), stored.config["select_layer"]
    tower = ImageTower(vision, num_blocks(vision, layer))
    load_part(tower, tower_tensors(vision, stored.part("w.tower."), layer), names.TOWER_NAMES, names.TOWER_UNUSED)
    bridge, config = _bridge(stored, "w.projector.", **MEM, pool_grid=14)
    features = tower(stored.tensors["in.frames"][0])
    case.floats("features", features[None], stored.tensors["mid.features"])
    found = find_scenes(config, features[:, 0])
    case.exact("boundaries", [last for _, last in found], stored.meta["boundaries"])
    visual = compress(bridge, config, pool(features, config.pool_grid), torch.tensor([len(features)]))
    case.floats("tokens", visual.embeds_LC[None], stored.tensors["out.tokens"])


def _preprocess(case: Comparison, stored: Case) -> None:
    frames, config = stored.tensors["in.frames_u8"], stored.config
    every = config["sampled_every"]
    video = video_pixels(frames, config["size"], config["mean"], config["std"])
    case.floats("video", video.transpose(0, 1)[..., ::every, ::every], stored.tensors[f"out.video_every{every}"])
    case.floats("video_sum", video.double().sum((2, 3)).T, stored.tensors["out.video_sum"])
    square = padded_square(frames[0])
    case.exact("padded_square", square, stored.tensors["out.padded_square_u8"])
    image = image_pixels(frames[0], config["size"], config["mean"], config["std"])
    case.floats("image", image[..., ::every, ::every], stored.tensors[f"out.image_every{every}"])
    case.floats("image_sum", image.double().sum((1, 2)), stored.tensors["out.image_sum"])
