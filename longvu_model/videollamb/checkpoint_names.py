"""Parameter names of the published checkpoints and of ours, both ways (SEMANTICS section 12).

``{}`` stands for the same text on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence

from longvu_model.checkpoint_names import LANGUAGE_NAMES, LANGUAGE_UNUSED, NamePair


def _attention(published: str, ours: str) -> tuple[NamePair, ...]:
    return (
        (f"{published}.q_proj.{{}}", f"{ours}.query.{{}}"),
        (f"{published}.k_proj.{{}}", f"{ours}.key.{{}}"),
        (f"{published}.v_proj.{{}}", f"{ours}.value.{{}}"),
    )


def _residual(published: str, ours: str) -> tuple[NamePair, ...]:
    return ((f"{published}.dense.{{}}", f"{ours}.dense.{{}}"), (f"{published}.layernorm.{{}}", f"{ours}.norm.{{}}"))


_LAYER, _RETRIEVAL = "projector.layers.{}.", "retrieval.layers.0.crossattention"
BRIDGE_NAMES: Sequence[NamePair] = (
    ("projector.read_memory_emb", "first_memory"),
    ("abs_vid_pe.weight", "scene_numbers"),
    *_attention(f"{_LAYER}selfattention", "layers.{}.attention"),
    *_residual(f"{_LAYER}selfattention.residual", "layers.{}.attention.out"),
    (f"{_LAYER}mlp.0.{{}}", "layers.{}.mlp_in.{}"),
    *_residual(f"{_LAYER}residual", "layers.{}.mlp_out"),
    ("projector.proj.0.{}", "projector.{}"),
    *_attention(_RETRIEVAL, "retrieval"),
    *_residual(f"{_RETRIEVAL}.residual", "retrieval.out"),
)
BRIDGE_UNUSED = (
    r"projector\.memory_tokens",
    r"projector\.layers\.\d+\.crossattention\..*",
    r"retrieval\.layers\.0\.selfattention\..*",
)

_BLOCK = "encoder.layers.{}."
TOWER_NAMES: Sequence[NamePair] = (
    ("embeddings.class_embedding", "class_token"),
    ("embeddings.patch_embedding.{}", "patch.{}"),
    ("embeddings.position_embedding.weight", "position"),
    ("pre_layrnorm.{}", "norm.{}"),
    # In front of the patterns that would take "0.over_time" for a block's number.
    (f"{_BLOCK}temporal_embedding", "blocks.{}.over_time.embedding"),
    (f"{_BLOCK}temporal_layer_norm1.{{}}", "blocks.{}.over_time.norm.{}"),
    *_attention(f"{_BLOCK}temporal_attn", "blocks.{}.over_time"),
    (f"{_BLOCK}temporal_attn.out_proj.{{}}", "blocks.{}.over_time.out.{}"),
    *_attention(f"{_BLOCK}self_attn", "blocks.{}"),
    (f"{_BLOCK}self_attn.out_proj.{{}}", "blocks.{}.out.{}"),
    (f"{_BLOCK}layer_norm1.{{}}", "blocks.{}.norm1.{}"),
    (f"{_BLOCK}layer_norm2.{{}}", "blocks.{}.norm2.{}"),
    (f"{_BLOCK}mlp.{{}}", "blocks.{}.mlp.{}"),
)
# Of CLIP's and LanguageBind's checkpoints, the half that is no tower.
TEXT_HALF = (r"text_model\..*", r"(text|visual)_projection\.weight", r"logit_scale")
TOWER_UNUSED = (r"post_layernorm\..*", r"embeddings\.position_ids")

BRIDGE_PREFIX = "model.mm_projector."
IMAGE_TOWER_PREFIX = "model.image_tower.image_tower."
VIDEO_TOWER_PREFIX = "model.video_tower.video_tower."

MODEL_NAMES: Sequence[NamePair] = (
    *((BRIDGE_PREFIX + published, f"model.bridge.{ours}") for published, ours in BRIDGE_NAMES),
    *((IMAGE_TOWER_PREFIX + published, f"model.towers.image.{ours}") for published, ours in TOWER_NAMES),
    *((VIDEO_TOWER_PREFIX + published, f"model.towers.video.{ours}") for published, ours in TOWER_NAMES),
    *LANGUAGE_NAMES,
)
MODEL_UNUSED = (
    *(BRIDGE_PREFIX.replace(".", r"\.") + pattern for pattern in BRIDGE_UNUSED),
    *(IMAGE_TOWER_PREFIX.replace(".", r"\.") + pattern for pattern in TOWER_UNUSED),
    *(VIDEO_TOWER_PREFIX.replace(".", r"\.") + pattern for pattern in TOWER_UNUSED),
    *LANGUAGE_UNUSED,
)
