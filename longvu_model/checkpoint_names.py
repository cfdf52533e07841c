"""Parameter names of the published checkpoints and of ours, both ways (SEMANTICS section 18).

One table per file kind; ``{}`` stands for the same text on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

NamePair = tuple[str, str]

# Of every model here, and of the pretrained ones that they start from.
LANGUAGE_NAMES: Sequence[NamePair] = (
    ("model.embed_tokens.{}", "model.language_model.embed_tokens.{}"),
    ("model.layers.{}", "model.language_model.layers.{}"),
    ("model.norm.{}", "model.language_model.norm.{}"),
    ("lm_head.{}", "lm_head.{}"),
)

MODEL_NAMES: Sequence[NamePair] = (
    ("model.mm_projector_aux_{}.{}", "model.aggregator.projectors.{}.{}"),
    ("model.mm_projector.{}", "model.frame_tokens.projector.{}"),
    ("model.image_newline", "model.frame_tokens.newline"),
    ("model.vision_query", "model.aggregator.queries"),
    ("model.vision_sampler_{}.layers.{}.proj_context.weight", "model.aggregator.groups.{}.{}.proj_context.weight"),
    ("model.vision_sampler_{}.layers.{}.proj_in.weight", "model.aggregator.groups.{}.{}.proj_in"),
    ("model.vision_sampler_{}.layers.{}.proj_out.linear_1.{}", "model.aggregator.groups.{}.{}.proj_out.0.{}"),
    ("model.vision_sampler_{}.layers.{}.proj_out.linear_2.{}", "model.aggregator.groups.{}.{}.proj_out.2.{}"),
    ("model.vision_sampler_{}.layers.{}.norm.{}", "model.aggregator.groups.{}.{}.norm.{}"),
    ("model.vision_sampler_{}.layers.{}.pos_embed_{}", "model.aggregator.groups.{}.{}.towers.{}.pos_embed"),
    ("model.vision_sampler_{}.layers.{}.cross_attn.q_proj.{}", "model.aggregator.groups.{}.{}.query.{}"),
    *(
        (
            f"model.vision_sampler_{{}}.layers.{{}}.cross_attn.{short}_proj_{{}}.{old}",
            f"model.aggregator.groups.{{}}.{{}}.towers.{{}}.{name}_{new}",
        )
        for short, name in (("k", "key"), ("v", "value"))
        for old, new in (("0.weight", "norm_weight"), ("0.bias", "norm_bias"), ("1.weight", "weight"))
    ),
    ("model.vision_sampler_{}.layers.{}.cross_attn.o_proj.{}", "model.aggregator.groups.{}.{}.out.{}"),
    *LANGUAGE_NAMES,
)

_SIGLIP_NAMES: Sequence[NamePair] = (
    ("embeddings.patch_embedding.{}", "patch.{}"),
    ("embeddings.position_embedding.weight", "position"),
    ("encoder.layers.{}.layer_norm1.{}", "blocks.{}.norm1.{}"),
    ("encoder.layers.{}.layer_norm2.{}", "blocks.{}.norm2.{}"),
    ("encoder.layers.{}.self_attn.q_proj.{}", "blocks.{}.query.{}"),
    ("encoder.layers.{}.self_attn.k_proj.{}", "blocks.{}.key.{}"),
    ("encoder.layers.{}.self_attn.v_proj.{}", "blocks.{}.value.{}"),
    ("encoder.layers.{}.self_attn.out_proj.{}", "blocks.{}.out.{}"),
    ("encoder.layers.{}.mlp.{}", "blocks.{}.mlp.{}"),
)
# The library has written the vision tower both with and without its prefix; published files have it.
SIGLIP_NAMES: Sequence[NamePair] = (
    *((f"vision_model.{published}", ours) for published, ours in _SIGLIP_NAMES),
    *_SIGLIP_NAMES,
)

DINO_NAMES: Sequence[NamePair] = (
    ("embeddings.cls_token", "class_token"),
    ("embeddings.position_embeddings", "position"),
    ("embeddings.patch_embeddings.projection.{}", "patch.{}"),
    ("encoder.layer.{}.norm1.{}", "blocks.{}.norm1.{}"),
    ("encoder.layer.{}.norm2.{}", "blocks.{}.norm2.{}"),
    ("encoder.layer.{}.attention.attention.query.{}", "blocks.{}.query.{}"),
    ("encoder.layer.{}.attention.attention.key.{}", "blocks.{}.key.{}"),
    ("encoder.layer.{}.attention.attention.value.{}", "blocks.{}.value.{}"),
    ("encoder.layer.{}.attention.output.dense.{}", "blocks.{}.out.{}"),
    ("encoder.layer.{}.layer_scale1.lambda1", "blocks.{}.scale1"),
    ("encoder.layer.{}.layer_scale2.lambda1", "blocks.{}.scale2"),
    ("encoder.layer.{}.mlp.{}", "blocks.{}.mlp.{}"),
    ("layernorm.{}", "norm.{}"),
)

# Present in files, without effect on what a model computes.
LANGUAGE_UNUSED = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)
MODEL_UNUSED = LANGUAGE_UNUSED
SIGLIP_UNUSED = (
    r"(vision_model\.)?(post_layernorm|head)\..*",
    r"text_model\..*",
    r"logit_(scale|bias)",
    r".*\.position_ids",
)
DINO_UNUSED = (r"embeddings\.mask_token",)


def rename(name: str, pairs: Sequence[NamePair], *, to_published: bool = False) -> str | None:
    """The other side's name for ``name``, or ``None`` when no pair matches."""
    for published, ours in pairs:
        source, target = (ours, published) if to_published else (published, ours)
        match = re.fullmatch(re.escape(source).replace(r"\{\}", "(.+?)"), name)
        if match:
            return target.format(*match.groups())
    return None
