"""Parameter names of the published checkpoints and of ours, both ways (SEMANTICS section 8).

``{}`` stands for the same text on both sides. The tower's joint query-key-value matrix is three entries here, see
:func:`split_qkv`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from longvu_model.checkpoint_names import LANGUAGE_NAMES, LANGUAGE_UNUSED, NamePair

_BERT = "model.vlm_att_encoder.bert."
_LAYER, _OURS = f"{_BERT}encoder.layer.{{}}.", "model.qformer.layers.{}."

QFORMER_NAMES: Sequence[NamePair] = (
    (f"{_BERT}embeddings.word_embeddings.weight", "model.qformer.words.weight"),
    (f"{_BERT}embeddings.position_embeddings.weight", "model.qformer.positions.weight"),
    (f"{_BERT}embeddings.LayerNorm.{{}}", "model.qformer.norm.{}"),
    *(
        pair
        for theirs, ours in (("attention", "attention"), ("crossattention", "image_attention"))
        for pair in (
            (f"{_LAYER}{theirs}.self.query.{{}}", f"{_OURS}{ours}.query.{{}}"),
            (f"{_LAYER}{theirs}.self.key.{{}}", f"{_OURS}{ours}.key.{{}}"),
            (f"{_LAYER}{theirs}.self.value.{{}}", f"{_OURS}{ours}.value.{{}}"),
            (f"{_LAYER}{theirs}.output.dense.{{}}", f"{_OURS}{ours}.out.{{}}"),
            (f"{_LAYER}{theirs}.output.LayerNorm.{{}}", f"{_OURS}{ours}.norm.{{}}"),
        )
    ),
    *(
        pair
        for theirs, ours in (("_query", "query_feed"), ("", "text_feed"))
        for pair in (
            (f"{_LAYER}intermediate{theirs}.dense.{{}}", f"{_OURS}{ours}.mlp.fc1.{{}}"),
            (f"{_LAYER}output{theirs}.dense.{{}}", f"{_OURS}{ours}.mlp.fc2.{{}}"),
            (f"{_LAYER}output{theirs}.LayerNorm.{{}}", f"{_OURS}{ours}.norm.{{}}"),
        )
    ),
)

MODEL_NAMES: Sequence[NamePair] = (
    ("model.vlm_att_query", "model.qformer.queries"),
    *QFORMER_NAMES,
    ("model.vlm_att_projector.{}", "model.frame_tokens.text_proj.{}"),
    ("model.vlm_att_key_projector.{}", "model.frame_tokens.key_proj.{}"),
    ("model.vlm_att_val_projector.{}", "model.frame_tokens.value_proj.{}"),
    ("model.vlm_att_ln.{}", "model.image_norm.{}"),
    ("model.vlm_att_bert_proj.{}", "model.image_proj.{}"),
    ("model.mm_projector.{}", "model.frame_tokens.projector.{}"),
    *LANGUAGE_NAMES,
)

# Of InstructBLIP's own file, from which training starts: the same parts by other names.
INSTRUCT_BLIP_NAMES: Sequence[NamePair] = (
    ("query_tokens", "model.qformer.queries"),
    ("ln_vision.{}", "model.image_norm.{}"),
    *((f"Qformer.bert.{published.removeprefix(_BERT)}", ours) for published, ours in QFORMER_NAMES),
)

TOWER_NAMES: Sequence[NamePair] = (
    ("cls_token", "class_token"),
    ("pos_embed", "position"),
    ("patch_embed.proj.{}", "patch.{}"),
    ("blocks.{}.norm1.{}", "blocks.{}.norm1.{}"),
    ("blocks.{}.norm2.{}", "blocks.{}.norm2.{}"),
    ("blocks.{}.attn.query.weight", "blocks.{}.query.weight"),
    ("blocks.{}.attn.key.weight", "blocks.{}.key.weight"),
    ("blocks.{}.attn.value.weight", "blocks.{}.value.weight"),
    ("blocks.{}.attn.q_bias", "blocks.{}.query.bias"),
    ("blocks.{}.attn.v_bias", "blocks.{}.value.bias"),
    ("blocks.{}.attn.proj.{}", "blocks.{}.out.{}"),
    ("blocks.{}.mlp.{}", "blocks.{}.mlp.{}"),
)
TOWER_PREFIX = "model.vision_tower.vision_tower."

# Buffers that libraries of the time saved; they carry no information.
MODEL_UNUSED = (
    *LANGUAGE_UNUSED,
    r"model\.vlm_att_encoder\.bert\.embeddings\.position_ids",
)
# What InstructBLIP has beyond the Q-Former: its own way into the language model.
INSTRUCT_BLIP_UNUSED = (r"(llm|t5)_proj\..*", r"Qformer\.bert\.embeddings\.position_ids")
# What the EVA-G file has beyond the tower: pooling, head, final norms.
TOWER_UNUSED = (r"(head|norm|fc_norm)\..*", r"mask_token", r".*relative_position.*")

_PARTS = ("query", "key", "value")


def split_qkv(named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Tensors with the joint matrix (3D, D) of a block as three."""
    for name, tensor in named:
        if name.endswith("attn.qkv.weight"):
            stem = name.removesuffix("qkv.weight")
            yield from zip((f"{stem}{part}.weight" for part in _PARTS), tensor.chunk(3), strict=True)
        else:
            yield name, tensor


def join_qkv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The opposite of :func:`split_qkv`."""
    joined = {}
    for name, tensor in state.items():
        if name.endswith("attn.query.weight"):
            stem = name.removesuffix("query.weight")
            joined[f"{stem}qkv.weight"] = torch.cat([state[f"{stem}{part}.weight"] for part in _PARTS])
        elif not name.endswith(("attn.key.weight", "attn.value.weight")):
            joined[name] = tensor
    return joined
