"""Pretrained parts in miniature, in the layouts that their authors publish: the library's folders, and torch's files.

Language models and towers with a ``config.json`` have other sizes than the tiny presets, so that a size taken from a
preset shows.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipConfig,
    SiglipModel,
)

from longvu_model.llamavid.guides import build_tiny_guide_tokenizer
from longvu_model.llamavid.presets import tiny_llamavid
from longvu_model.presets import TINY_VOCABULARY
from longvu_model.tiny_tokenizer import build_tiny_tokenizer

_SENTENCEPIECE = Path(__file__).resolve().parents[1] / "golden/vectors/llamavid/tokenizer.model"
WINDOW = 8  # frames that see one another in LanguageBind's video tower
_TEXT: dict[str, Any] = {
    "vocab_size": 1040,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
_TOWER: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 8}
_CLIP_TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}


def qwen(folder: Path) -> Path:
    """In bfloat16, as Qwen2 is."""
    tokenizer = build_tiny_tokenizer("qwen", TINY_VOCABULARY)
    config = Qwen2Config(**_TEXT, eos_token_id=tokenizer.eos_token_id, rope_parameters=_rope(1e6))
    return _language_model(Qwen2ForCausalLM(config).to(torch.bfloat16), tokenizer, folder)


def llama3(folder: Path) -> Path:
    """Embeddings are the head, and positions are scaled, as in Llama 3.2."""
    tokenizer = build_tiny_tokenizer("llama3", TINY_VOCABULARY)
    scaling = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 128}
    rope = {**_rope(5e5), "rope_type": "llama3", **scaling}
    config = LlamaConfig(**_TEXT, eos_token_id=[tokenizer.eos_token_id], tie_word_embeddings=True, rope_parameters=rope)
    return _language_model(LlamaForCausalLM(config), tokenizer, folder)


def vicuna(folder: Path) -> Path:
    """In float16, torch's files and sentencepiece's, with the buffers that libraries of its time saved."""
    LlamaForCausalLM(LlamaConfig(**_TEXT, bos_token_id=1, eos_token_id=2)).to(torch.float16).save_pretrained(folder)
    shutil.copy(_SENTENCEPIECE, folder)
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "legacy": False}
    marks = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | marks))
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    buffers = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8)}
    torch.save(state | buffers, folder / "pytorch_model.bin")
    return folder


def llava(folder: Path) -> Path:
    """Vicuna with LLaVA's projector, under the model type of its release."""
    vicuna(folder)
    path = folder / "pytorch_model.bin"
    torch.save(torch.load(path) | {"model.mm_projector.0.weight": torch.zeros(4, 4)}, path)
    change_config(folder, model_type="llava", mm_projector_type="mlp2x_gelu", mm_hidden_size=1024)
    return folder


def siglip(folder: Path) -> Path:
    text = {**_CLIP_TEXT, "vocab_size": 10}
    vision = {**_TOWER, "intermediate_size": 48, "image_size": 96}
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    return folder


def dinov2(folder: Path) -> Path:
    Dinov2Model(Dinov2Config(**_TOWER, image_size=112, use_swiglu_ffn=True)).save_pretrained(folder)
    return folder


def clip(folder: Path) -> Path:
    """CLIP, both halves; LanguageBind's image tower is one with another activation."""
    vision = {**_TOWER, "intermediate_size": 48, "image_size": 96, "hidden_act": "gelu"}
    text = {**_CLIP_TEXT, "vocab_size": 10, "eos_token_id": 2}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    return folder


def languagebind_video(folder: Path) -> Path:
    """CLIP with attention over time in each layer, in one file of torch's."""
    clip(folder)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    width = _TOWER["hidden_size"]
    for layer in range(_TOWER["num_hidden_layers"]):
        inside = f"vision_model.encoder.layers.{layer}."
        state[f"{inside}temporal_embedding"] = torch.randn(1, WINDOW, width)
        state |= _both(f"{inside}temporal_layer_norm1", width)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            state |= _both(f"{inside}temporal_attn.{name}", width, width)
    torch.save(state, folder / "pytorch_model.bin")
    change_config(folder, model_type="LanguageBindVideo")
    return folder


def eva(path: Path) -> Path:
    """EVA-G's file: more blocks than are used, positions of another grid, a head."""
    vision = tiny_llamavid().vision_config
    width, inner, patch = vision.hidden_size, vision.intermediate_size, vision.patch_size
    state = {
        "cls_token": torch.randn(1, 1, width),
        "pos_embed": torch.randn(1, 1 + 6 * 6, width),
        "patch_embed.proj.weight": torch.randn(width, 3, patch, patch),
        "patch_embed.proj.bias": torch.randn(width),
        **_both("norm", width),
        **_both("head", 5, width),
    }
    for block in range(vision.num_hidden_layers + 1):
        inside = f"blocks.{block}."
        state |= {f"{inside}attn.{name}_bias": torch.randn(width) for name in "qv"}
        state[f"{inside}attn.qkv.weight"] = torch.randn(3 * width, width)
        state |= _both(f"{inside}attn.proj", width, width)
        state |= _both(f"{inside}norm1", width) | _both(f"{inside}norm2", width)
        state |= _both(f"{inside}mlp.fc1", inner, width) | _both(f"{inside}mlp.fc2", width, inner)
    torch.save(state, path)
    return path


def instruct_blip(path: Path) -> Path:
    """InstructBLIP's file: Q-Former, queries, the norm of the image, and its way into a language model."""
    config = tiny_llamavid()
    bert, seen = config.qformer_config, config.qformer_config.encoder_hidden_size
    width, inner = bert.hidden_size, bert.intermediate_size
    state = {
        "query_tokens": torch.randn(1, config.num_queries, width),
        "Qformer.bert.embeddings.position_ids": torch.arange(bert.max_position_embeddings)[None],
        "Qformer.bert.embeddings.word_embeddings.weight": torch.randn(bert.vocab_size, width),
        "Qformer.bert.embeddings.position_embeddings.weight": torch.randn(bert.max_position_embeddings, width),
        **_both("Qformer.bert.embeddings.LayerNorm", width),
        **_both("ln_vision", seen),
        **_both("llm_proj", 7, width),
    }
    for layer in range(bert.num_hidden_layers):
        inside = f"Qformer.bert.encoder.layer.{layer}."
        for block, source in (("attention", width), *((("crossattention", seen),) if layer % 2 == 0 else ())):
            state |= _both(f"{inside}{block}.self.query", width, width)
            state |= _both(f"{inside}{block}.self.key", width, source)
            state |= _both(f"{inside}{block}.self.value", width, source)
            state |= _both(f"{inside}{block}.output.dense", width, width)
            state |= _both(f"{inside}{block}.output.LayerNorm", width)
        for suffix in ("", "_query"):
            state |= _both(f"{inside}intermediate{suffix}.dense", inner, width)
            state |= _both(f"{inside}output{suffix}.dense", width, inner)
            state |= _both(f"{inside}output{suffix}.LayerNorm", width)
    torch.save({"model": state}, path)
    return path


def bert(folder: Path) -> Path:
    """A vocabulary, a word piece a line."""
    words = build_tiny_guide_tokenizer().get_vocab()
    folder.mkdir()
    plain = sorted((word for word in words if word != "[DEC]"), key=words.__getitem__)
    (folder / "vocab.txt").write_text("\n".join(plain))
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    """Set fields of a folder's ``config.json``."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def change_tensors(folder: Path, remove: str | None = None, **added: Tensor) -> None:
    """Take a tensor out of a folder's weights, or put others in."""
    path = folder / "model.safetensors"
    state = load_file(path)
    save_file({name: tensor for name, tensor in (state | added).items() if name != remove}, path)


Making = dict[str, Callable[[Path], Path]]
LONGVU: Making = {"language_model": qwen, "siglip": siglip, "dinov2": dinov2}
LLAMAVID: Making = {"language_model": vicuna, "eva": eva, "qformer": instruct_blip, "bert": bert}
MEM: Making = {"language_model": llava, "image_tower": clip}


def parts_of(making: Making, folder: Path) -> dict[str, Path]:
    """Parts by name, each in a place of that name."""
    torch.manual_seed(0)
    files = ("eva", "qformer")
    return {name: make(folder / (f"{name}.pth" if name in files else name)) for name, make in making.items()}


def _language_model(model: Any, tokenizer: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _rope(theta: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta}


def _both(name: str, *shape: int) -> dict[str, Tensor]:
    """Weight and bias of a linear map (out, in) or a norm (width)."""
    scale = shape[1] ** -0.5 if len(shape) > 1 else 1.0
    return {f"{name}.weight": scale * torch.randn(*shape), f"{name}.bias": torch.randn(shape[0])}
