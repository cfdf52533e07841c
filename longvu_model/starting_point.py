"""The starting point of a recipe: pretrained parts and new ones as one checkpoint folder in our layout.

    assemble("longvu_qwen2_7b", "start", {"language_model": ..., "siglip": ..., "dinov2": ...})

No model is ever whole in memory: tensors of parts stay on disk until the shard that they go to is written. What a part
is made of is in ``pretrained_parts.py`` of each family.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from longvu_model import pretrained_parts as longvu
from longvu_model.checkpoint_files import CheckpointError, local_folder, write_tensors
from longvu_model.llamavid import pretrained_parts as llamavid
from longvu_model.pretrained_parts import Recipe, own_fields, with_configs
from longvu_model.videollamb import pretrained_parts as videollamb

RECIPES = (longvu.RECIPE, llamavid.RECIPE, videollamb.RECIPE)


def assemble(
    preset: str,
    folder: str | Path,
    parts: Mapping[str, str | Path],
    *,
    changes: Mapping[str, Any] | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
    max_shard_size: str = "2GB",
) -> dict[str, int]:
    """Write a model folder: configuration, weights, tokenizers and preprocessing.

    Args:
        preset: the shape of what the parts do not say.
        folder: gets the files.
        parts: folders, hub ids or files, by the names that the family's recipe has.
        changes: fields of the shape that differ from the preset's, such as ``{"compress_type": "grid:2"}``.
        seed: of the new weights.
        dtype: of all weights; by default what the published stages train in, and write for the next one: towers must
            stay bit for bit what a feature store was made with.
        max_shard_size: of a file of weights; it takes about twice the memory.

    Returns:
        Parameters of each module of the model, and of its head.

    Raises:
        ValueError: no such preset, not its parts, or a field that it lacks.
        CheckpointError: tensors of a part are missing, surplus or misshapen, or a tokenizer does not fit.
        OSError: a folder or file does not exist.
    """
    recipe, folder = recipe_of(preset), Path(folder)
    shape = _changed(preset, recipe.presets[preset](), changes or {})
    found = _located(preset, {name: what for name, what in recipe.parts.items() if recipe.has(shape, name)}, parts)
    config, state = recipe.read(shape, found)
    processor = recipe.processor(config, found)
    tokenizer: Any = processor.tokenizer  # type: ignore[attr-defined]  # every family's has one
    if len(tokenizer) > config.text_config.vocab_size:
        raise CheckpointError(
            f"{found['language_model']}: a tokenizer of {len(tokenizer)} tokens for {config.text_config.vocab_size} "
            "embeddings"
        )
    with torch.device("meta"):
        model = recipe.model_class(config)
    if config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    state |= new_tensors(model, recipe.new, seed)
    import_module(model.official).check_state(config, state, f"what {preset} is made of")

    config.dtype = dtype
    config.architectures = [type(model).__name__]
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    GenerationConfig(
        eos_token_id=config.text_config.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    ).save_pretrained(folder)
    write_tensors(folder, state, max_shard_size, dtype)
    return dict(_sizes(state))


def recipe_of(preset: str) -> Recipe:
    """The recipe of the family that a preset belongs to.

    Raises:
        ValueError: there is no such preset; names those that there are.
    """
    for recipe in RECIPES:
        if preset in recipe.presets:
            return recipe
    known = ", ".join(name for recipe in RECIPES for name in recipe.presets)
    raise ValueError(f"preset {preset!r}: use one of {known}")


@torch.no_grad()
def new_tensors(model: Any, modules: Sequence[str], seed: int) -> dict[str, Tensor]:
    """Weights of modules of a model on the meta device, as the model's class starts them; float32.

    Torch's own seed stays untouched. A module that the configuration leaves out is passed over.
    """
    state: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name in modules:
            module = getattr(model.model, name)
            if module is None:
                continue
            module.to_empty(device="cpu")
            for parameter in module.parameters():
                parameter.fill_(torch.nan)
            module.apply(model._init_weights)
            state |= {f"model.{name}.{inside}": tensor for inside, tensor in module.state_dict().items()}
    forgotten = [name for name, tensor in state.items() if not bool(tensor.isfinite().all())]
    assert not forgotten, f"{type(model).__name__} does not say how these start: {forgotten}"
    return state


def _changed(preset: str, shape: Any, changes: Mapping[str, Any]) -> Any:
    known = own_fields(type(shape))
    if unknown := sorted(set(changes) - known):
        raise ValueError(f"{preset} has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    return with_configs(shape, **changes)


def _located(preset: str, needed: Mapping[str, str], given: Mapping[str, str | Path]) -> dict[str, Path]:
    """Paths of all parts, hub ids as their snapshots."""
    if missing := [f"{name} ({needed[name]})" for name in needed if name not in given]:
        raise ValueError(f"{preset} lacks {'; '.join(missing)}")
    if surplus := [name for name in given if name not in needed]:
        raise ValueError(f"{preset} takes no {', '.join(surplus)}: it is made of {', '.join(needed)}")
    return {name: _path(place) for name, place in given.items()}


def _path(place: str | Path) -> Path:
    path = Path(place)
    if path.suffix == ".pth" and not path.exists():
        raise FileNotFoundError(f"no file at {place}")
    return path if path.is_file() else local_folder(place)


def _sizes(state: Mapping[str, Tensor]) -> Counter[str]:
    sizes: Counter[str] = Counter()
    for name, tensor in state.items():
        sizes[name.removeprefix("model.").split(".")[0]] += tensor.numel()
    return sizes
