"""Golden checks of LLaMA-VID's texts and rules: prompts, labels, subtitles, samplers, stages, names."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, PreTrainedTokenizerBase

from longvu_model.labels import Turn, read_turns
from longvu_model.llama_tokenizer import load_llama_tokenizer
from longvu_model.llamavid import official
from longvu_model.llamavid.checkpoint_names import join_qkv
from longvu_model.llamavid.config import PUBLISHED, LlamaVidConfig
from longvu_model.llamavid.guides import tokenize_guides
from longvu_model.llamavid.labels import GuidedText, label_caption, label_turns, place_slots, tokenize
from longvu_model.llamavid.length_grouping import grouped_order
from longvu_model.llamavid.long_video import interleave, question_about, read_srt, training_turns
from longvu_model.llamavid.modeling import LlamaVidForConditionalGeneration
from longvu_model.llamavid.positions import extend_positions
from longvu_model.llamavid.stages import is_saved_by_alignment, prepare_stage
from longvu_model.prompts import IMAGE_MARKER
from longvu_model.subtitles import Subtitle
from longvu_model.vicuna import place_markers, render, template
from longvu_model.video.sampling import FrameSampling, sample_indices
from tests.golden.llamavid_runs import build_model, read_guide_tokenizer
from tests.golden.result import Comparison, Result

_STYLE = "imgsp_v1"
_FULL_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
}


def check_text(folder: Path) -> Iterator[Result]:
    """Every table that the folder has."""
    for name, checks in _TABLES.items():
        if (folder / name).is_file():
            table = json.loads((folder / name).read_text(encoding="utf-8"))
            broken = Comparison(name)
            with broken.running():
                yield from checks(folder, table)
            if broken.failures:
                yield broken.result()


def _prompts(folder: Path, table: dict[str, Any]) -> Iterator[Result]:
    tokenizers = {legacy: load_llama_tokenizer(folder, legacy=legacy) for legacy in (True, False)}
    for name, fields in table["templates"].items():
        check = Comparison(f"prompts/templates/{name}")
        mine = template(name)
        check.exact("system", mine.system, fields["system"])
        check.exact("roles", list(mine.roles), fields["roles"])
        check.exact("separators", [mine.sep, mine.sep2], [fields["sep"], fields["sep2"]])
        yield check.result()
    for i, case in enumerate(table["prompts"]):
        check = Comparison(f"prompts/{case['template']}/{i}")
        prompt = render(case["template"], [f"{IMAGE_MARKER}\n{case['question']}", None])
        check.exact("prompt", prompt, case["prompt"])
        for tokenizer in tokenizers.values():
            check.exact("input_ids", tokenize(prompt, tokenizer), case["input_ids"])
        yield check.result()
    for i, case in enumerate(table["supervised"]):
        yield _supervised(f"prompts/supervised/{i}", case, tokenizers[case["legacy"]])
    for i, case in enumerate(table["plain_guided"]):
        check = Comparison(f"prompts/plain_guided/{i}")
        for tokenizer in tokenizers.values():
            _compare(check, label_caption(read_turns(case["source"]), tokenizer), case, case["guided_prompts"])
        yield check.result()
    for i, case in enumerate(table["movie"]):
        check = Comparison(f"prompts/movie/{i}")
        turn = question_about(case["inputs"], case["question"], case["video_token"])
        prompt = render("vicuna_v1", [turn, None])
        check.exact("prompt", prompt, case["prompt"])
        check.exact("input_ids", tokenize(prompt, tokenizers[True]), case["input_ids"])
        yield check.result()
    yield _movie_training(table["movie_training"], tokenizers[True])


def _supervised(name: str, case: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> Result:
    check = Comparison(name)
    turns = read_turns(case["source"])
    placed = place_markers(turns) if case["has_image"] else turns
    check.exact("normalized", [turn.text for turn in placed], [turn["value"] for turn in case["normalized"]])
    slotted = place_slots(turns, random.Random(case["python_random_seed"])) if case["has_image"] else turns
    labelled = label_turns(slotted, tokenizer, _STYLE, PUBLISHED)
    _compare(check, labelled, case, case["guided_prompts"])
    check.exact("mismatch", not labelled.text.learnable, case["mismatch"])
    return check.result()


def _movie_training(case: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> Result:
    check = Comparison("prompts/movie_training")
    turns, guide = training_turns(read_turns(case["source"]), case["inputs"], case["video_token"])
    check.exact("conversation", turns, [Turn(t.role, t.text) for t in read_turns(case["conversation"])])
    _compare(check, label_turns(turns, tokenizer, _STYLE, PUBLISHED), case, None)
    check.exact("query_prompt", guide, case["query_prompt"])
    return check.result()


def _compare(check: Comparison, mine: GuidedText, case: dict[str, Any], guides: list[str] | None) -> None:
    check.exact("input_ids", mine.text.input_ids, case["input_ids"])
    check.exact("labels", mine.text.labels, case["labels"])
    if guides is not None:
        check.exact("guides", mine.guides, guides)


def _bert(folder: Path, table: dict[str, Any]) -> Iterator[Result]:
    tokenizer = read_guide_tokenizer(folder)
    check = Comparison("bert_tokenizer/vocabulary")
    check.exact("vocab_size", tokenizer.vocab_size, table["vocab_size"])
    check.exact("resized_vocab", len(tokenizer), table["resized_vocab"])
    check.exact("bos", [tokenizer.bos_token, tokenizer.bos_token_id], [table["bos_token"], table["bos_id"]])
    check.exact("truncation_side", tokenizer.truncation_side, table["truncation_side"])
    yield check.result()
    for i, case in enumerate(table["cases"]):
        check = Comparison(f"bert_tokenizer/{i}")
        ids, mask = tokenize_guides(case["prompts"], tokenizer, table["max_length"])
        check.exact("input_ids", ids.tolist(), case["input_ids"])
        check.exact("attention_mask", mask.long().tolist(), case["attention_mask"])
        yield check.result()


def _subtitles(folder: Path, table: dict[str, Any]) -> Iterator[Result]:
    for i, case in enumerate(table["srt"]):
        check = Comparison(f"subtitles/srt/{i}")
        check.exact("subtitles", read_srt(case["text"], PUBLISHED), _given_subtitles(case))
        yield check.result()
    for i, case in enumerate(table["interleave"]):
        check = Comparison(f"subtitles/interleave/{i}")
        check.exact("inputs", interleave(case["frame_time"], _given_subtitles(case), PUBLISHED), case["inputs"])
        yield check.result()


def _given_subtitles(case: dict[str, Any]) -> list[Subtitle]:
    return [Subtitle(one["start_time"], one["end_time"], one["text"]) for one in case["subtitles"]]


def _rules(folder: Path, table: dict[str, Any]) -> Iterator[Result]:
    for i, case in enumerate(table["frame_sampling"]):
        check = Comparison(f"rules/frame_sampling/{i}")
        indices = sample_indices(case["total"], case["native_fps"], FrameSampling(fps=case["fps"])).tolist()
        check.exact("ids", indices, case["ids"])
        check.exact("frame_time", [index / case["native_fps"] for index in indices], case["frame_time"])
        yield check.result()
    for i, case in enumerate(table["rope_extension"]):
        check = Comparison(f"rules/rope_extension/{i}")
        rope = {"rope_type": "default", "rope_theta": 10000.0}
        if case["existing_factor"]:
            rope |= {"rope_type": "linear", "factor": case["existing_factor"]}
        config = LlamaConfig(max_position_embeddings=case["max_position_embeddings"], rope_parameters=rope)
        extended = extend_positions(config, case["model_max_length"], PUBLISHED)
        factor = extended.rope_parameters.get("factor")
        mine = None if factor is None else {"type": extended.rope_parameters["rope_type"], "factor": factor}
        check.exact("rope_scaling", mine, case["rope_scaling_after"])
        check.exact("max_position_embeddings", extended.max_position_embeddings, case["max_position_embeddings"])
        yield check.result()
    for i, case in enumerate(table["sampler"]):
        check = Comparison(f"rules/sampler/{i}")
        generator = torch.Generator().manual_seed(case["torch_seed"])
        order = grouped_order(case["lengths"], case["batch_size"], case["world_size"], generator, PUBLISHED)
        check.exact("indices", order, case["indices"])
        yield check.result()


def _stages(folder: Path, table: dict[str, Any]) -> Iterator[Result]:
    for number, stage in enumerate(("alignment", "instruction", "long_video"), start=1):
        check = Comparison(f"training_stages/stage{number}")
        names = prepare_stage(build_model(folder, "A"), stage)  # type: ignore[arg-type]
        check.exact("trained", sorted(map(str, map(official.published_name, names))), sorted(table[f"stage{number}"]))
        yield check.result()
    check = Comparison("training_stages/stage1_saved_keys")
    parameters = [name for name, _ in build_model(folder, "A").named_parameters()]
    saved = [official.published_name(name) for name in parameters if is_saved_by_alignment(name)]
    check.exact("saved", sorted(map(str, saved)), sorted(table["stage1_saved_keys"]))
    yield check.result()


def _keys_tiny(folder: Path, table: dict[str, Any]) -> Iterator[Result]:
    yield _keys("state_dict_keys_tiny", build_model(folder, "A").config, table["keys"])


def _keys_full(folder: Path, table: dict[str, Any]) -> Iterator[Result]:
    for side, changed in ((224, {}), (336, table["differences_336px"])):
        config = LlamaVidConfig(text_config=_FULL_7B, vision_config={"image_size": side}, semantics="published")
        yield _keys(f"state_dict_keys_full/{side}", config, {**table["keys"], **changed})


def _keys(name: str, config: LlamaVidConfig, reference: dict[str, list[int]]) -> Result:
    """Names and shapes that a model is written with, without the buffers of old libraries."""
    check = Comparison(name)
    with torch.device("meta"):
        state = LlamaVidForConditionalGeneration(config).state_dict()
    renamed = {official.published_name(key): tensor for key, tensor in state.items()}
    mine = {key: list(tensor.shape) for key, tensor in join_qkv(renamed).items()}  # type: ignore[arg-type]
    expected = {key: shape for key, shape in reference.items() if not key.endswith(("inv_freq", "position_ids"))}
    check.exact("missing", sorted(expected.keys() - mine.keys()), [])
    check.exact("surplus", sorted(mine.keys() - expected.keys()), [])
    check.exact("shapes", {key: shape for key, shape in mine.items() if shape != expected.get(key)}, {})
    return check.result()


_TABLES = {
    "prompts.json": _prompts,
    "bert_tokenizer.json": _bert,
    "subtitles.json": _subtitles,
    "rules.json": _rules,
    "training_stages.json": _stages,
    "state_dict_keys_tiny.json": _keys_tiny,
    "state_dict_keys_full.json": _keys_full,
}
