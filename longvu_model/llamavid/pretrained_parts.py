"""Pretrained parts that LLaMA-VID's training starts from: Vicuna, EVA-G and InstructBLIP's Q-Former.

EVA-G and the Q-Former are files of tensors alone, so their shapes are the preset's.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from longvu_model.checkpoint_files import CheckpointError, read_torch_file, rename_state
from longvu_model.llama_tokenizer import load_llama_tokenizer
from longvu_model.llamavid import checkpoint_names as names
from longvu_model.llamavid import official, presets
from longvu_model.llamavid.config import LlamaVidConfig
from longvu_model.llamavid.guides import load_guide_tokenizer
from longvu_model.llamavid.modeling import LlamaVidForConditionalGeneration
from longvu_model.llamavid.positions import extend_positions
from longvu_model.llamavid.processing import LlamaVidProcessor
from longvu_model.pretrained_parts import Parts, Recipe, language_config, language_state, with_configs


def _read(shape: LlamaVidConfig, parts: Parts) -> tuple[LlamaVidConfig, dict[str, Tensor]]:
    text = language_config(parts["language_model"], shape.text_config)
    if shape.max_sequence_length is not None:
        text = extend_positions(text, shape.max_sequence_length, shape.rules)
    config = with_configs(shape, text_config=text)
    return config, {
        **language_state(parts["language_model"]),
        **_qformer_state(parts["qformer"]),
        **official.tower_state(config, list(read_torch_file(parts["eva"]).items()), parts["eva"]),
    }


def _qformer_state(path: Path) -> dict[str, Tensor]:
    """The Q-Former, its queries and the norm in front of it, from InstructBLIP's file."""
    found = read_torch_file(path)
    if "model" not in found:
        raise CheckpointError(f"{path} has no entry 'model': it is not InstructBLIP's file")
    return rename_state(found["model"].items(), names.INSTRUCT_BLIP_NAMES, names.INSTRUCT_BLIP_UNUSED, path)


def _processor(config: LlamaVidConfig, parts: Parts) -> LlamaVidProcessor:
    guide_tokenizer = load_guide_tokenizer(parts["bert"])
    known = config.qformer_config.vocab_size
    if len(guide_tokenizer) > known:
        raise CheckpointError(f"{parts['bert']}: {len(guide_tokenizer)} word pieces, the Q-Former knows {known}")
    return LlamaVidProcessor.from_config(config, load_llama_tokenizer(parts["language_model"]), guide_tokenizer)


RECIPE = Recipe(
    LlamaVidForConditionalGeneration,
    presets.PRESETS,
    {
        "language_model": "folder or hub id of vicuna-7b-v1.5",
        "eva": "the file eva_vit_g.pth",
        "qformer": "InstructBLIP's file, instruct_blip_vicuna7b_trimmed.pth",
        "bert": "folder or hub id of bert-base-uncased, whose word pieces the Q-Former reads",
    },
    _read,
    _processor,
    new=("frame_tokens", "image_proj"),
)
