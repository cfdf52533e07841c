"""Ready-made configurations: the published models by size, and ``tiny``, which is built on the spot.

The published values are those of SEMANTICS section 1: 24 x 24 tokens per tower, frames of 12 x 12 tokens at full and
8 x 8 at low resolution; the image stage, which comes first, shows 24 x 24 and has no low resolution. ``tiny`` keeps
these ratios at half the size and runs at hundreds of frames a second on one CPU core.

Presets are for new models, so their semantics are the corrected ones; published checkpoints bring their own
configuration (:mod:`longvu_model.official`). The sibling models have theirs in files of the same name.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch
from transformers import (
    Dinov2Config,
    GenerationConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2Config,
    SiglipVisionConfig,
)

from longvu_model.config import LongVUConfig
from longvu_model.initialization import initialize_towers
from longvu_model.modeling import LongVUForConditionalGeneration
from longvu_model.processing import LongVUProcessor
from longvu_model.tiny_tokenizer import build_tiny_tokenizer

Stage = Literal["image", "video"]

TINY_VOCABULARY = 1024
SEAL = "preset.json"
# Part of the digest: raise it when the same preset and seed would get other weights.
_BUILD_VERSION = 3


class Preset(Protocol):
    """Makes the configuration of a stage."""

    def __call__(self, stage: Stage = "video") -> LongVUConfig: ...


@dataclass(frozen=True)
class Build:
    """A preset that comes with tokenizers and weights of our own making.

    Attributes:
        config: of the model.
        tokenizers: all that decide its inputs; they are part of the digest.
        make_model: from a seed.
        make_processor: around the tokenizers.
    """

    config: PreTrainedConfig
    tokenizers: tuple[PreTrainedTokenizerFast, ...]
    make_model: Callable[[int], PreTrainedModel]
    make_processor: Callable[[], ProcessorMixin]


def longvu_qwen2_7b(stage: Stage = "video") -> LongVUConfig:
    """The released model on Qwen2-7B, as it was trained in a stage."""
    text = Qwen2Config(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
        use_sliding_window=False,
        bos_token_id=151643,
        eos_token_id=151645,
    )
    return _published(text, stage)


def longvu_llama3_2_3b(stage: Stage = "video") -> LongVUConfig:
    """The released model on Llama-3.2-3B."""
    return _published(_llama3_2(hidden_size=3072, num_hidden_layers=28, num_attention_heads=24), stage)


def longvu_llama3_2_1b(stage: Stage = "video") -> LongVUConfig:
    """The released model on Llama-3.2-1B."""
    return _published(_llama3_2(hidden_size=2048, num_hidden_layers=16, num_attention_heads=32), stage)


def tiny(stage: Stage = "video") -> LongVUConfig:
    """About a million parameters; 1024 tokens hold 28 full or 64 low frames, as 8192 hold 56 and 128 in the release."""
    tokenizer = build_tiny_tokenizer("qwen", TINY_VOCABULARY)
    text = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    tower: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 8}
    return LongVUConfig(
        text_config=text,
        siglip_config=SiglipVisionConfig(**tower, intermediate_size=128, image_size=96, vision_use_head=False),
        # The position table is made for 14 x 14 patches and resized to 12 x 12, as 37 x 37 to 27 x 27 in the release.
        dino_config=Dinov2Config(**tower, mlp_ratio=2, image_size=112),
        dino_image_size=96,
        token_grid=12,
        **_stage(stage, full_grid=6, low_grid=4),
        vision_hidden_size=128,
        connector_depth=2,
        # The published layout has no field for it; with the release's value the tiny model can be exported too.
        aggregator_heads=16,
        max_sequence_length=1024,
        answer_reserve=16,
    )


PRESETS: dict[str, Preset] = {
    preset.__name__: preset for preset in (tiny, longvu_qwen2_7b, longvu_llama3_2_3b, longvu_llama3_2_1b)
}

# Modules of the sibling models' presets: PRESETS as here, BUILDS for those that can be built.
_SIBLINGS = {"llamavid": "longvu_model.llamavid.presets", "videollamb": "longvu_model.videollamb.presets"}


def preset_names() -> list[str]:
    """Names of all presets, those of the sibling models included."""
    return [*PRESETS, *(name for module in _sibling_modules() for name in module.PRESETS)]


def preset_config(name: str) -> PreTrainedConfig:
    """The configuration of a preset of any model.

    Raises:
        ValueError: there is no such preset; names those that there are.
    """
    makers: dict[str, Callable[[], PreTrainedConfig]] = dict(PRESETS)
    for module in _sibling_modules():
        makers |= module.PRESETS
    if name not in makers:
        raise ValueError(f"preset {name!r}: use one of {', '.join(makers)}")
    return makers[name]()


def _sibling_modules() -> list[Any]:
    return [import_module(module) for module in _SIBLINGS.values()]


def _build(name: str, stage: Stage) -> Build:
    """How a preset is built; ``ValueError`` where it cannot be."""
    if name == "tiny":
        return _build_tiny(stage)
    builds = {key: build for module in _sibling_modules() for key, build in module.BUILDS.items()}
    if name not in builds:
        preset_config(name)
        raise ValueError(
            f"preset {name!r} is a configuration only, too large to be useful with random weights: make a checkpoint "
            f"folder of its parts with `longvu assemble`, download a released one, or build one of tiny, "
            f"{', '.join(builds)}"
        )
    if stage != "video":
        raise ValueError(f"stage={stage!r}: preset {name!r} is the same for all stages")
    return builds[name]()


def _build_tiny(stage: Stage) -> Build:
    config, tokenizer = tiny(stage), build_tiny_tokenizer("qwen", TINY_VOCABULARY)
    return Build(
        config,
        (tokenizer,),
        lambda seed: random_model(config, seed),
        lambda: LongVUProcessor.from_config(config, tokenizer),
    )


def build_preset(name: str, directory: str | os.PathLike[str], seed: int = 0, stage: Stage = "video") -> Path:
    """Write a loadable model folder: configuration, weights, tokenizer and processor.

    The towers get the structured weights of :mod:`longvu_model.initialization`, everything else the library's usual
    random ones. The same arguments give the same bytes on machines of one architecture; a folder that already holds
    them is left alone, and one that holds another build of a preset is written anew.

    Returns:
        The folder, for ``from_pretrained`` of the model's and the processor's class.

    Raises:
        ValueError: there is no such preset, or it has to be loaded from a checkpoint.
        FileExistsError: the folder holds something that this function did not write.
    """
    folder = Path(directory)
    build = _build(name, stage)
    digest = _digest(build, seed)
    seal, unfinished = folder / SEAL, folder / f"{SEAL}.unfinished"
    if seal.is_file():
        if json.loads(seal.read_text())["digest"] == digest:
            return folder
        os.replace(seal, unfinished)
    elif folder.exists() and any(folder.iterdir()) and not unfinished.is_file():
        raise FileExistsError(f"{folder} is not empty and holds no preset ({SEAL}): choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    # Marks the folder as ours from the start; renamed last, it says that all files are there.
    record = {"preset": name, "stage": stage, "seed": seed, "digest": digest}
    unfinished.write_text(json.dumps(record, indent=2) + "\n")
    model, tokenizer = build.make_model(seed), build.tokenizers[0]
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    model.save_pretrained(folder)
    build.make_processor().save_pretrained(folder)
    os.replace(unfinished, seal)
    return folder


def random_model(config: LongVUConfig, seed: int = 0) -> LongVUForConditionalGeneration:
    """A float32 model with towers of structured and all else of random weights; torch's own seed stays untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LongVUForConditionalGeneration(config)
    initialize_towers(model.model.towers, seed)
    return model.eval()


def _published(text: PreTrainedConfig, stage: Stage) -> LongVUConfig:
    return LongVUConfig(
        text_config=text,
        siglip_config=SiglipVisionConfig(
            hidden_size=1152,
            intermediate_size=4304,
            num_hidden_layers=27,
            num_attention_heads=16,
            patch_size=14,
            image_size=384,
            vision_use_head=False,
        ),
        dino_config=Dinov2Config(
            hidden_size=1536,
            num_hidden_layers=40,
            num_attention_heads=24,
            patch_size=14,
            image_size=518,
            use_swiglu_ffn=True,
        ),
        dino_image_size=378,
        token_grid=24,
        **_stage(stage, full_grid=12, low_grid=8),
        vision_hidden_size=1024,
        connector_depth=3,
        aggregator_heads=16,
        max_sequence_length=8192,
        answer_reserve=16,
    )


def _stage(stage: Stage, full_grid: int, low_grid: int) -> dict[str, Any]:
    """The fields in which the two stages differ; both share dino_threshold 0.83 and drop_threshold 0.8."""
    if stage not in get_args(Stage):
        raise ValueError(f"stage={stage!r}: use {' or '.join(get_args(Stage))}")
    video = stage == "video"
    return {
        "full_grid": full_grid if video else 2 * full_grid,
        "low_grid": low_grid,
        "mixed_resolution": video,
        "dino_threshold": 0.83,
        "drop_threshold": 0.8,
    }


def _llama3_2(hidden_size: int, num_hidden_layers: int, num_attention_heads: int) -> LlamaConfig:
    """Llama 3.2 without rope scaling, which the release's library refused."""
    return LlamaConfig(
        vocab_size=128256,
        hidden_size=hidden_size,
        intermediate_size=8192,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=num_attention_heads,
        num_key_value_heads=8,
        max_position_embeddings=131072,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=128000,
        eos_token_id=[128001, 128008, 128009],
    )


def _digest(build: Build, seed: int) -> str:
    texts = [tokenizer.backend_tokenizer.to_str() for tokenizer in build.tokenizers]
    record = [_BUILD_VERSION, seed, _without_version(build.config.to_dict()), *texts]
    return hashlib.blake2b(json.dumps(record, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def _without_version(fields: Any) -> Any:
    if isinstance(fields, dict):
        return {key: _without_version(value) for key, value in fields.items() if key != "transformers_version"}
    return fields
