"""Registration with the ``transformers`` Auto classes and pipelines, done once when this file is imported.

Without Pillow there are no processors and no pipeline, but the model itself works.
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM
from transformers.utils import is_vision_available

from longvu_model.config import LongVUConfig
from longvu_model.llamavid.config import LlamaVidConfig
from longvu_model.llamavid.modeling import LlamaVidForConditionalGeneration, LlamaVidModel
from longvu_model.modeling import LongVUForConditionalGeneration, LongVUModel
from longvu_model.videollamb.config import VideoLLaMBConfig
from longvu_model.videollamb.modeling import VideoLLaMBForConditionalGeneration, VideoLLaMBModel

for config, model, answering in (
    (LongVUConfig, LongVUModel, LongVUForConditionalGeneration),
    (LlamaVidConfig, LlamaVidModel, LlamaVidForConditionalGeneration),
    (VideoLLaMBConfig, VideoLLaMBModel, VideoLLaMBForConditionalGeneration),
):
    AutoConfig.register(config.model_type, config)
    AutoModel.register(config, model)
    AutoModelForImageTextToText.register(config, answering)
    AutoModelForMultimodalLM.register(config, answering)

if is_vision_available():
    from transformers.pipelines import PIPELINE_REGISTRY

    from longvu_model.llamavid.processing import LlamaVidProcessor
    from longvu_model.media_processor import register_processors
    from longvu_model.processing import LongVUProcessor
    from longvu_model.video_text_pipeline import VideoTextToTextPipeline
    from longvu_model.videollamb.processing import VideoLLaMBProcessor

    register_processors(LongVUConfig, LongVUProcessor)
    register_processors(LlamaVidConfig, LlamaVidProcessor)
    register_processors(VideoLLaMBConfig, VideoLLaMBProcessor)
    PIPELINE_REGISTRY.register_pipeline(
        "video-text-to-text",
        pipeline_class=VideoTextToTextPipeline,
        pt_model=AutoModelForImageTextToText,
        type="multimodal",
    )
