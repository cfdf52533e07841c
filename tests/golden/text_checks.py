"""Golden checks of the text side: prompts, labels, stop rule, pixel preprocessing, training samples and batches.

Each check takes a folder in the format of the reference vectors and yields one result per case in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from longvu_model.collation import Collator
from longvu_model.config import PUBLISHED
from longvu_model.image_processing import preprocess_frames
from longvu_model.labels import label_turns, place_markers, read_turns
from longvu_model.prompts import STOP_STRINGS, drop_doubled_bos, render_prompt, tokenize_with_slots
from longvu_model.stopping import KeywordStop
from longvu_model.tower_pixels import IMAGENET_MEAN, IMAGENET_STD, SIGLIP_MEAN, SIGLIP_STD, TowerPixels
from longvu_model.training_samples import TrainingSample, TrainingSamples
from tests.golden.result import Comparison, Result

PIXEL_LIMIT = 1e-6


class Tokenizers(dict[str, PreTrainedTokenizerBase]):
    """Tokenizers of a folder by name, loaded when first asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder / "tokenizers"

    def __missing__(self, name: str) -> PreTrainedTokenizerBase:
        self[name] = AutoTokenizer.from_pretrained(self.folder / name)
        return self[name]


def check_text(folder: str | Path) -> Iterator[Result]:
    """Prompts, slot tokenisation, labels and the stop rule of ``text/``."""
    folder = Path(folder)
    tokenizers = Tokenizers(folder)
    prompts = _read_json(folder / "text/prompts.json")
    for case in prompts["prompts"]:
        yield _prompt(case, tokenizers[case["template"]])
    for i, case in enumerate(prompts["tokenizer_image_token"]):
        comparison = Comparison(f"text/slots/{case['tokenizer']}/{i}")
        comparison.exact("ids", tokenize_with_slots(case["text"], tokenizers[case["tokenizer"]]), case["ids"])
        yield comparison.result()
    for case in _read_json(folder / "text/labels.json"):
        yield _labels(case, tokenizers[case["template"]])
    for i, case in enumerate(_read_json(folder / "text/stopping.json")):
        yield _stopping(i, case, tokenizers[case["tokenizer"]])


def _prompt(case: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Result:
    style = case["template"]
    comparison = Comparison(f"text/prompts/{style}/{case['name'].split()[0]}")
    prompt = render_prompt(case["messages"], style, tokenizer, bare_roles="demo" in case["name"])
    ids = tokenize_with_slots(prompt, tokenizer)
    comparison.exact("prompt", prompt, case["prompt"])
    comparison.exact("input_ids", ids, case["input_ids"])
    if "input_ids_for_generate" in case:
        comparison.exact("input_ids_for_generate", drop_doubled_bos(ids, tokenizer), case["input_ids_for_generate"])
    if "stop_string" in case:
        comparison.exact("stop_string", STOP_STRINGS[style], case["stop_string"])
    return comparison.result()


def _labels(case: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Result:
    comparison = Comparison(f"text/labels/{case['template']}/{case['name']}")
    turns = read_turns(case["conversation"])
    turns = place_markers(turns) if case["has_image"] else turns
    labelled = label_turns(turns, tokenizer, case["template"], PUBLISHED, has_medium=case["has_image"])
    comparison.exact("after_multimodal", [turn.text for turn in turns], case["after_multimodal"])
    comparison.exact("input_ids", labelled.input_ids, case["input_ids"])
    comparison.exact("labels", labelled.labels, case["labels"])
    return comparison.result()


def _stopping(index: int, case: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Result:
    comparison = Comparison(f"text/stopping/{case['tokenizer']}/{index}")
    rule = KeywordStop([case["keyword"]], tokenizer, PUBLISHED, prompt_length=case["prompt_len"])
    comparison.exact("keyword_ids", rule.keyword_ids, [case["keyword_ids"]])
    comparison.exact("stop", rule(torch.tensor([case["output_ids"]])).tolist(), [case["stop"]])
    return comparison.result()


def check_preprocess(folder: str | Path) -> Iterator[Result]:
    """Pixel tensors of both towers of ``preprocess/``."""
    folder = Path(folder) / "preprocess"
    vectors = load_file(folder / "process_images.safetensors")
    for case in _read_json(folder / "process_images.json"):
        i = case["index"]
        comparison = Comparison(f"preprocess/{i}")
        for name, mean, std in (("siglip", SIGLIP_MEAN, SIGLIP_STD), ("dino", IMAGENET_MEAN, IMAGENET_STD)):
            pixels = preprocess_frames(vectors[f"frames_{i}"].numpy(), case[f"{name}_size"], mean, std)
            stored = pixels[..., ::9, ::9] if case["every9"] else pixels
            reference = vectors[f"{name}_{i}_every9" if case["every9"] else f"{name}_{i}"]
            comparison.floats(name, stored, reference, absolute=PIXEL_LIMIT)
            total = pixels.double().sum()
            comparison.floats(f"{name}_sum", total, case[f"{name}_sum"], absolute=PIXEL_LIMIT * pixels.numel())
        yield comparison.result()


def check_train_collation(folder: str | Path) -> Iterator[Result]:
    """Items, lengths and collated batches of ``train/``; losses need the model and are checked elsewhere."""
    folder = Path(folder)
    for path in sorted((folder / "train").glob("*.json")):
        settings = _read_json(path)
        samples, collate = training_samples(folder, settings), collator(folder, settings)
        for i, item in enumerate(settings["items"]):
            yield _item(f"train/{path.stem}/item/{i}", samples[i], item)
        comparison = Comparison(f"train/{path.stem}/lengths")
        comparison.exact("lengths", samples.lengths(settings["image_token_len"]), settings["lengths"])
        comparison.exact("modality_lengths", samples.modality_lengths(), settings["modality_lengths"])
        yield comparison.result()
        for name, batch in settings["batches"].items():
            members = [samples[i] for i in batch["items"]]
            vectors = load_file(folder / "train" / path.stem / f"{name}.safetensors")
            yield _batch(f"train/{path.stem}/collate/{name}", members, collate, batch, vectors)


def _item(name: str, sample: TrainingSample, item: Mapping[str, Any]) -> Result:
    comparison = Comparison(name)
    comparison.exact("input_ids", sample.text.input_ids, item["input_ids"])
    comparison.exact("labels", sample.text.labels, item["labels"])
    comparison.exact("image_size", list(sample.published_size), item["image_size"])
    return comparison.result()


def _batch(
    name: str,
    members: Sequence[TrainingSample],
    collate: Collator,
    batch: Mapping[str, Any],
    vectors: Mapping[str, Tensor],
) -> Result:
    comparison = Comparison(name)
    images = _published_images(members)
    layout = "stacked" if "images_dino" in images else "list"
    comparison.exact("images_layout", layout, batch["images_layout"])
    comparison.exact("image_sizes", [list(sample.published_size) for sample in members], batch["image_sizes"])
    ours = {**collate(members), **images}
    for key, reference in vectors.items():
        if key == "inputs_embeds" or key.endswith("_out"):
            continue  # made by the model, compared where it runs
        if key not in ours:
            comparison.failures.append(f"{key}: not produced")
        elif reference.is_floating_point():
            comparison.floats(key, ours[key], reference, absolute=PIXEL_LIMIT)
        else:
            comparison.exact(key, ours[key], reference)
    return comparison.result()


def _published_images(members: Sequence[TrainingSample]) -> dict[str, Tensor]:
    """Pixels in the release's layout: one stacked tensor per tower if shapes agree, else one tensor per sample."""
    images: dict[str, Tensor] = {}
    for position, tower in enumerate(("siglip", "dino")):
        pixels = [sample.pixels[position] for sample in members if sample.pixels is not None]
        # A picture is (3, s, s) there, a video (F, 3, s, s).
        shaped = [one if sample.is_video else one[0] for sample, one in zip(members, pixels, strict=True)]
        if len({tensor.shape for tensor in shaped}) == 1:
            images[f"images_{tower}"] = torch.stack(shaped)
        else:
            images.update({f"images_{tower}_{i}": tensor for i, tensor in enumerate(shaped)})
    return images


def training_samples(folder: str | Path, settings: Mapping[str, Any]) -> TrainingSamples:
    """The data set of ``train/data`` as ``settings`` (a parsed ``train/<model>.json``) reads it."""
    folder = Path(folder)
    towers = _read_json(folder / "models" / settings["model"] / "towers.json")
    return TrainingSamples(
        folder / "train/data/data.json",
        folder / "train/data",
        Tokenizers(folder)[settings["template"]],
        settings["template"],
        (
            TowerPixels(towers["siglip"]["image_size"], SIGLIP_MEAN, SIGLIP_STD),
            TowerPixels(towers["dino"]["crop"], IMAGENET_MEAN, IMAGENET_STD),
        ),
        PUBLISHED,
    )


def collator(folder: str | Path, settings: Mapping[str, Any]) -> Collator:
    """The published collator with the values of ``settings`` and of its model."""
    config = _read_json(Path(folder) / "models" / settings["model"] / "config.json")
    return Collator(
        max_length=settings["model_max_length"],
        pad_token_id=settings["pad_token_id"],
        full_grid=_side(settings["image_token_len"]),
        token_grid=_side(config["mm_vision_tower_aux_token_len_list"][0]),
        rules=PUBLISHED,
        image_position=settings["image_position"],
    )


def collate_batch(folder: str | Path, settings: Mapping[str, Any], item_indices: Sequence[int]) -> dict[str, Tensor]:
    """Model inputs of a batch, from raw files.

    Args:
        folder: reference vectors.
        settings: a parsed ``train/<model>.json``.
        item_indices: members, in order.

    Returns:
        See :meth:`longvu_model.collation.Collator.__call__`.
    """
    samples = training_samples(folder, settings)
    return collator(folder, settings)([samples[i] for i in item_indices])


def _side(cells: int) -> int:
    side = int(cells**0.5)
    if side * side != cells:
        raise ValueError(f"{cells} tokens: not a square grid")
    return side


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
