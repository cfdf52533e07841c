"""Golden checks of VideoLLaMB's text side: ``prompts.json``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from longvu_model import vicuna
from longvu_model.labels import read_turns
from longvu_model.llama_tokenizer import load_llama_tokenizer
from longvu_model.videollamb import prompts
from longvu_model.videollamb.batch_order import modality_batches
from longvu_model.videollamb.config import IGNORE_INDEX, PUBLISHED
from tests.golden.result import Comparison, Result

_KINDS = {"TWO": "two", "SINGLE": "single", "PLAIN": "plain", "LLAMA_2": "llama_2"}


def check_prompts(folder: Path) -> Iterator[Result]:
    """Templates, rendered dialogs, labels, the order of batches, multiple choice."""
    stored = json.loads((folder / "prompts.json").read_text())
    case = Comparison("prompts/constants")
    case.exact("slots", prompts.SLOTS, {stored["placeholders"][k]: i for k, i in stored["token_index"].items()})
    case.exact("ignored", IGNORE_INDEX, stored["ignore_index"])
    choice = stored["mc_question"]
    case.exact("choice", prompts.multiple_choice(choice["question"], list(choice["options"].values())), choice["text"])
    yield case.result()
    for name, template in stored["templates"].items():
        yield _template(name, template)
    tokenize = prompts.tokenizer_with_slots(load_llama_tokenizer(folder))
    for i, one in enumerate(stored["prompts"]):
        case = Comparison(f"prompts/{one['template']}/{i}")
        prompt = vicuna.render(one["template"], [text for _, text in one["dialog"]])
        case.exact("prompt", prompt, one["prompt"])
        case.exact("input_ids", tokenize(prompt), one["input_ids"])
        yield case.result()
    for i, one in enumerate(stored["supervised"]):
        yield _supervised(i, one, folder)
    for i, one in enumerate(stored["sampler"]):
        case = Comparison(f"prompts/sampler/{i}")
        order = modality_batches(
            [kind for kind, _ in one["lengths"]],
            [length for _, length in one["lengths"]],
            one["batch_size"],
            one["world_size"],
            one["torch_seed"],
        )
        case.exact("indices", order, one["indices"])
        yield case.result()


def _template(name: str, stored: Mapping[str, Any]) -> Result:
    case = Comparison(f"prompts/template/{name}")
    with case.running():
        mine = vicuna.template(name)
        case.exact("system", mine.system, stored["system"])
        case.exact("roles", list(mine.roles), stored["roles"])
        case.exact("kind", mine.kind, _KINDS[stored["sep_style"]])
        case.exact("separators", [mine.sep, mine.sep2], [stored["sep"], stored["sep2"]])
    return case.result()


def _supervised(index: int, stored: Mapping[str, Any], folder: Path) -> Result:
    case = Comparison(f"prompts/supervised/{index}")
    with case.running():
        turns = read_turns(stored["source"])
        for key, start_end in (("normalized", False), ("normalized_with_start_end", True)):
            placed = prompts.place_markers(turns, start_end)
            case.exact(key, [turn.text for turn in placed], [turn["value"] for turn in stored[key]])
        tokenizer = load_llama_tokenizer(folder, legacy=stored["legacy"])
        labelled = prompts.label_turns(prompts.place_markers(turns), tokenizer, PUBLISHED)
        case.exact("input_ids", labelled.input_ids, stored["input_ids"])
        case.exact("labels", labelled.labels, stored["labels"])
        case.exact("mismatch", not labelled.learnable, stored["mismatch"])
    return case.result()
