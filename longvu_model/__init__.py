"""LongVU: spatiotemporal adaptive compression for long video understanding (arXiv 2410.17434), and two siblings.

Importing the package is cheap (no torch): a name below loads what it needs on first use, and with it registers the
models with the ``transformers`` Auto classes and pipelines. Code that uses only Auto classes calls :func:`register`
first.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longvu_model.config import LongVUConfig as LongVUConfig
    from longvu_model.llamavid.config import LlamaVidConfig as LlamaVidConfig
    from longvu_model.llamavid.modeling import LlamaVidForConditionalGeneration as LlamaVidForConditionalGeneration
    from longvu_model.llamavid.modeling import LlamaVidModel as LlamaVidModel
    from longvu_model.llamavid.processing import LlamaVidProcessor as LlamaVidProcessor
    from longvu_model.modeling import LongVUForConditionalGeneration as LongVUForConditionalGeneration
    from longvu_model.modeling import LongVUModel as LongVUModel
    from longvu_model.processing import LongVUProcessor as LongVUProcessor
    from longvu_model.video import FrameSampling as FrameSampling
    from longvu_model.video import decode_frames as decode_frames
    from longvu_model.videollamb.config import VideoLLaMBConfig as VideoLLaMBConfig
    from longvu_model.videollamb.modeling import (
        VideoLLaMBForConditionalGeneration as VideoLLaMBForConditionalGeneration,
    )
    from longvu_model.videollamb.modeling import VideoLLaMBModel as VideoLLaMBModel
    from longvu_model.videollamb.processing import VideoLLaMBProcessor as VideoLLaMBProcessor

_REGISTERED = {
    "LongVUConfig": "longvu_model.config",
    "LongVUModel": "longvu_model.modeling",
    "LongVUForConditionalGeneration": "longvu_model.modeling",
    "LongVUProcessor": "longvu_model.processing",
    "LlamaVidConfig": "longvu_model.llamavid.config",
    "LlamaVidModel": "longvu_model.llamavid.modeling",
    "LlamaVidForConditionalGeneration": "longvu_model.llamavid.modeling",
    "LlamaVidProcessor": "longvu_model.llamavid.processing",
    "VideoLLaMBConfig": "longvu_model.videollamb.config",
    "VideoLLaMBModel": "longvu_model.videollamb.modeling",
    "VideoLLaMBForConditionalGeneration": "longvu_model.videollamb.modeling",
    "VideoLLaMBProcessor": "longvu_model.videollamb.processing",
}
_PLAIN = {"FrameSampling": "longvu_model.video", "decode_frames": "longvu_model.video"}

__all__ = ["register", *_REGISTERED, *_PLAIN]


def register() -> None:
    """Makes ``AutoConfig``, ``AutoModel``, ``AutoProcessor`` ... and ``pipeline("video-text-to-text")`` know them."""
    import_module("longvu_model.auto")


def __getattr__(name: str) -> Any:
    if name in _REGISTERED:
        register()
        return getattr(import_module(_REGISTERED[name]), name)
    if name in _PLAIN:
        return getattr(import_module(_PLAIN[name]), name)
    raise AttributeError(f"module 'longvu_model' has no attribute {name!r}")
